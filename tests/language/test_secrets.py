"""Whatever is printed, by a log or by an exception, shows no secret."""

import pytest

from regional_keystone import model
from regional_keystone.api.shapes import Call, Result
from regional_keystone.attempts import Uncounted
from regional_keystone.authenticate import Evidence
from regional_keystone.enrol import JoinRequest, JoinToken
from regional_keystone.issue import Issued, Login
from regional_keystone.keys import KeyRing, _Lock
from regional_keystone.log import Entry, Transaction, put
from regional_keystone.messages import Answer, Forward, Request, Response
from regional_keystone.token import Token, Unscoped

SECRET = "hunter2"
KEYS = [bytes([65 + number]) * 42 + b"A=" for number in range(2)]
REQUEST = Request(
    id="1",
    method="POST",
    path="/v3/users",
    headers={"x-auth-token": SECRET},
    body=SECRET.encode(),
    query=(("q", SECRET),),
)
RESPONSE = Response(status=201, headers={"X-Subject-Token": SECRET}, body=SECRET.encode())
USER = model.User(id="u", domain_id="d", name="n", password_hash=SECRET)
OUTCOME = model.Outcome(id="o", request_digest=b"", answer=SECRET.encode(), at=0)
SITE = model.Site(id="s", state="invited", join_digest=SECRET)
PUTS = (put(USER), put(OUTCOME), put(SITE))
SAID = {"user": {"password": SECRET}}
TOKEN = Token(user_id="u", methods=("password",), scope=Unscoped(), expires_at=1, issued_at=0, audit_ids=("a",))


@pytest.mark.parametrize(
    "what",
    [
        REQUEST,
        RESPONSE,
        Forward(REQUEST),
        Answer("1", RESPONSE),
        USER,
        OUTCOME,
        SITE,
        *PUTS,
        Entry(1, "t", 0, PUTS),
        Transaction("t", 0, frozenset(), PUTS),
        Login(methods=("password",), data={"password": SAID}),
        Evidence(reader=None, data=SAID, verifier=Uncounted(4)),
        Issued(text=SECRET, token=TOKEN, body=SECRET.encode(), bare=b""),
        JoinToken(name="s", secret=SECRET, ca="", controllers=()),
        JoinRequest(name="s", secret=SECRET, instance="i", csr="", box_key=b""),
        Result(body=SAID, headers={"X-Subject-Token": SECRET}, changes=PUTS),
        Call(
            request=REQUEST,
            principal=None,
            path={},
            reader=None,
            now=0,
            body=SAID,
            enforcer=None,
            fresh=None,
            once=None,
        ),
    ],
    ids=lambda what: type(what).__name__,
)
def test_what_holds_a_secret_does_not_show_it(what):
    for shown in (repr(what), str(what), f"{what}", str(ValueError(what))):
        assert SECRET not in shown
        assert type(what).__name__ in shown


def test_a_ring_and_its_locks_show_no_key():
    ring = KeyRing(dict(enumerate(KEYS)), 1)
    shown = f"{ring!r} {ring._locks!r}"
    for number, key in enumerate(KEYS):
        lock = _Lock.of(number, key)
        assert key.decode() not in shown
        assert repr(lock.signing) not in shown


def test_what_is_no_secret_is_shown():
    assert repr(USER).startswith("User(id='u', domain_id='d', name='n'")
    assert "Put('users', ('u',)" in repr(PUTS[0])
