"""Issuing: who gets which token, for how long; passwords."""

import asyncio
import dataclasses
import json
import statistics
import time

import bcrypt
import msgspec
import pytest

from regional_keystone.errors import Forbidden, IdentityError, Invalid, Unauthenticated, Unavailable
from regional_keystone.issue import Login
from regional_keystone.log import put, remove
from regional_keystone.model import Project, RevocationEvent, User
from regional_keystone.passwords import MAX_PASSWORD_BYTES, _Pool, hash_password, verify_password
from regional_keystone.token import DomainScope, Named, Principal, Token, Unscoped, new_audit_id, unpack
from tests.site.realm import ON_P, PASSWORD, SCOPE_P, SETTINGS, SYSTEM, P, Realm, U, grant, realm


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        yield made


async def test_what_the_body_says_is_what_the_token_says(place):
    issued = await place.login(SCOPE_P)
    payload, issued_at, _ = place.known.ring.open(issued.text)
    assert unpack(payload, issued_at, place.settings.auth.methods) == issued.token
    shown = json.loads(issued.body)["token"]
    assert shown["audit_ids"] == list(issued.token.audit_ids)
    assert shown["issued_at"].endswith(".000000Z")
    assert shown["expires_at"].endswith(".000000Z")
    assert issued.token.expires_at - issued.token.issued_at == 3600 * 1_000_000
    assert issued.body == (await place.forgetful().check(issued.text)).body()
    assert issued.bare == (await place.forgetful().check(issued.text)).body(catalog=False)
    assert place.known.issued == [(U, issued.token.issued_at)]


async def test_rescoping_never_lengthens_a_life_and_keeps_the_chain(place):
    place.change(
        put(grant(U, "default", "reader", target="domain")), put(grant(U, "system", "reader", target="system"))
    )
    first = await place.login()
    token = first
    for scope in (SCOPE_P, {"domain": {"id": "default"}}, "unscoped", SCOPE_P, SYSTEM):
        await place.clock.advance(60)
        token = await place.rescope(token.text, scope)
        assert token.token.expires_at == first.token.expires_at
        assert token.token.audit_ids[1:] == (first.token.audit_id,)
        assert set(token.token.methods) == {"password", "token"}
        assert token.token.issued_at > first.token.issued_at


async def test_the_default_project_is_the_scope_only_if_it_can_be(place):
    assert (await place.login()).token.scope == Unscoped()
    user = await place.overlay.get(User, U)
    for project_id, scope in ((P, ON_P), ("nowhere", Unscoped()), ("default", Unscoped())):
        await place.replace(msgspec.structs.replace(user, default_project_id=project_id))
        assert (await place.login()).token.scope == scope
    await place.replace(msgspec.structs.replace(user, default_project_id=P))
    assert (await place.login("unscoped")).token.scope == Unscoped()
    place.change(remove(grant(U, P, "member")))
    assert (await place.login()).token.scope == Unscoped()


class Meanwhile:
    """A verifier, a reader or a source of facts before one of whose answers, or each, something else happens."""

    def __init__(self, inner, what, place=0, *, always=False):
        self._inner, self._happens, self._left, self._always = inner, what, place, always

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def _what(self):
        self._left -= 1
        if self._left == -1 or self._always:
            await self._happens()

    async def verify(self, *arguments):
        fits = await self._inner.verify(*arguments)
        await self._what()
        return fits

    async def facts(self, *arguments):
        found = await self._inner.facts(*arguments)
        await self._what()
        return found

    async def get(self, kind, *key):
        found = await self._inner.get(kind, *key)
        if kind is Project:
            await self._what()
        return found


async def changed(place, at):
    """The user gets another password, by a clock of another place; the old tokens are void."""
    user = await place.overlay.get(User, U)
    record = msgspec.structs.replace(user, password_hash=await hash_password("another", 4))
    void = RevocationEvent(id=str(at), issued_before=at, revoked_at=at, keep_until=at + 10**12, user_id=U)
    place.change(put(record, user), put(void))


@pytest.mark.parametrize("behind_s", [0, 5, 3600])
@pytest.mark.parametrize(("when", "nth"), [("_verifier", 0), ("_reader", 0), ("_reader", 1)])
async def test_a_password_that_is_changed_while_it_is_looked_at_opens_nothing(place, when, nth, behind_s):
    at, inner = place.clock.now() - behind_s * 10**6, getattr(place.issuer, when)
    before = await place.login()
    setattr(place.issuer, when, Meanwhile(inner, lambda: changed(place, at), nth))
    with pytest.raises(Unauthenticated):
        await place.login()
    setattr(place.issuer, when, inner)
    assert place.known.issued == [(U, before.token.issued_at)]
    assert await place.login(password="another"), "within the second of the change"


@pytest.mark.parametrize("behind_s", [2, 3600])
@pytest.mark.parametrize(("when", "nth"), [("_verifier", 0), ("_reader", 0), ("_reader", 1)])
async def test_a_right_password_opens_although_word_of_its_user_comes_late_meanwhile(place, when, nth, behind_s):
    at = place.clock.now() - behind_s * 10**6

    async def left_a_group():
        place.revoke(user_id=U, issued_before=at)

    setattr(place.issuer, when, Meanwhile(getattr(place.issuer, when), left_a_group, nth))
    issued = await place.login(SCOPE_P)
    assert (await place.validator.check(issued.text)).token == issued.token
    assert len(place.known.issued) == 1


async def test_who_is_disabled_while_the_password_is_looked_at_gets_nothing(place):
    user = await place.overlay.get(User, U)

    async def disabled():
        place.change(put(msgspec.structs.replace(user, enabled=False), user))
        place.revoke(user_id=U)

    place.issuer._verifier = Meanwhile(place.issuer._verifier, disabled)
    with pytest.raises(Unauthenticated):
        await place.login()
    assert place.known.issued == []


async def test_who_is_changed_at_every_look_is_told_to_come_again(place):
    looks = []

    async def again():
        looks.append(await place.clock.advance(1))
        place.revoke(user_id=U)

    verifier, place.issuer._verifier = place.issuer._verifier, Meanwhile(place.issuer._verifier, again, always=True)
    with pytest.raises(Unavailable, match="being changed") as refusal:
        await place.login()
    assert (refusal.value.retry_after_s, len(looks), place.known.issued) == (1, 3, [])
    place.issuer._verifier = verifier
    assert await place.login()


async def test_a_token_whose_user_is_revoked_behind_it_meanwhile_is_to_be_shown_again(place):
    """What voids it, if it was made of what is void, comes a moment later from the place that issued it."""
    text = (await place.login()).text

    async def revoke():
        place.revoke(user_id=U, issued_before=place.clock.now() - 5 * 10**6)

    validator, place.validator = place.validator, Meanwhile(place.validator, revoke)
    with pytest.raises(Unavailable, match="being changed") as refusal:
        await place.rescope(text, SCOPE_P)
    assert (refusal.value.retry_after_s, len(place.known.issued)) == (1, 1)
    place.validator = validator
    assert await place.rescope(text, SCOPE_P)


@pytest.mark.parametrize("of", ["audit_id", "user_id"])
async def test_of_a_token_that_is_revoked_meanwhile_no_other_is_made(place, of):
    text = (await place.login()).text
    principal = (await place.validator.check(text)).principal

    async def revoke():
        place.revoke(**{of: principal.user_id if of == "user_id" else principal.token.audit_id})

    validator, place.validator = place.validator, Meanwhile(place.validator, revoke)
    with pytest.raises(Unauthenticated):
        await place.rescope(text, SCOPE_P)
    place.validator = validator
    assert len(place.known.issued) == 1
    place.revoke(user_id="somebody else")
    assert await place.login()


@pytest.mark.parametrize("scope", ["everything", "", "project", {}, {"project": {"id": P}, "system": {}}])
async def test_a_scope_that_is_none_is_refused(place, scope):
    with pytest.raises(Invalid):
        await place.login(scope)


@pytest.mark.parametrize(
    "how", ["disabled", "domain disabled", "no password", "wrong and expired", "unknown", "wrong", "empty", "long"]
)
async def test_every_failed_login_gets_the_same_answer(place, how):
    user = await place.overlay.get(User, U)
    fields = {
        "disabled": {"enabled": False},
        "no password": {"password_hash": None},
        "wrong and expired": {"password_expires_at": 1},
    }
    await place.replace(msgspec.structs.replace(user, **fields.get(how, {})))
    if how == "domain disabled":
        await place.replace(Project(id="default", name="Default", is_domain=True, enabled=False))
    password = {"wrong": "no", "wrong and expired": "no", "empty": "", "long": "x" * 5000}.get(how, PASSWORD)
    with pytest.raises(Unauthenticated) as refused:
        await place.login(password=password, user="nobody" if how == "unknown" else U)
    assert refused.value.message == Unauthenticated.default


async def test_rules_of_many_factors_are_kept(place):
    user = await place.overlay.get(User, U)
    for rules, enabled, fits in (
        ([["password"]], True, True),
        ([["password", "totp"]], True, False),
        ([["totp"]], True, False),
        ([["unheard of"]], True, False),
        ([["password", "totp"]], False, True),
        ([["totp", "password"], ["password"]], True, True),
        ([[]], True, False),
    ):
        options = {"multi_factor_auth_rules": rules, "multi_factor_auth_enabled": enabled}
        await place.replace(msgspec.structs.replace(user, options=options))
        if fits:
            await place.login()
        else:
            with pytest.raises(Unauthenticated):
                await place.login()


DELEGATED = [
    {"trust_id": "ee" * 16},
    {"access_token_id": "ee" * 16},
    {"application_credential_id": "ee" * 16},
    {"methods": ("application_credential",)},
    {"methods": ("ec2credential",)},
    {"methods": ("password", "oauth1")},
    {"methods": ()},
]


@pytest.mark.parametrize("limits", DELEGATED)
@pytest.mark.parametrize("scope", [None, SCOPE_P, SYSTEM, "unscoped", {"domain": {"id": "default"}}])
async def test_a_token_that_acts_for_somebody_makes_no_other(place, limits, scope):
    token = Token(**{
        "user_id": U, "methods": ("password",), "scope": ON_P, "expires_at": place.clock.now() + 10**9,
        "issued_at": place.clock.now(), "audit_ids": (new_audit_id(bytes(16)),), **limits,
    })  # fmt: skip
    login = Login(
        methods=("token",),
        data={"token": {"id": "x"}},
        scope=scope,
        principal=Principal(token=token, user=Named(U, "u")),
    )
    with pytest.raises(Forbidden):
        await place.issuer.issue(login, place.validator.facts)


async def test_a_scoped_token_is_not_exchanged_where_that_is_switched_off(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, token=dataclasses.replace(SETTINGS.token, allow_rescope_scoped_token=False)
    )
    async with realm(tmp_path, settings=settings) as place:
        free, bound = await place.login(), await place.login(SCOPE_P)
        await place.rescope(free.text, SCOPE_P)
        with pytest.raises(Forbidden, match="rescope a scoped token"):
            await place.rescope(bound.text, SCOPE_P)


async def test_two_methods_must_agree_on_the_user(place):
    place.change(put(User(id="ac" * 16, name="v", domain_id="default", password_hash=await hash_password("other", 4))))
    mine = await place.login()
    principal = (await place.validator.check(mine.text)).principal
    data = {"token": {"id": mine.text}, "password": {"user": {"id": "ac" * 16, "password": "other"}}}
    with pytest.raises(Unauthenticated):
        await place.issuer.issue(
            Login(methods=("password", "token"), data=data, principal=principal), place.validator.facts
        )


async def test_who_may_not_seal_says_why_and_when_to_come_again_and_goes_on_validating(place):
    issued = await place.login()
    place.known.refused = "This region has been cut off for too long to issue tokens."
    with pytest.raises(Unavailable, match="cut off for too long") as refusal:
        await place.login()
    assert refusal.value.retry_after_s == 30
    assert (await place.validator.check(issued.text)).token == issued.token


@pytest.mark.parametrize(("said_s", "lives_s"), [(0, 3600), (7200, 3600), (600, 600)])
async def test_no_token_lives_longer_than_its_key_is_kept_for(place, said_s, lives_s):
    """Whatever this site is set to: the ring says for how long tokens were promised to be readable."""
    place.known.lifetime_us = said_s * 1_000_000
    token = (await place.login()).token
    assert token.expires_at - token.issued_at == lives_s * 1_000_000


async def test_a_site_whose_clock_is_too_fast_issues_nothing(place):
    place.known.ahead = 59
    await place.login()
    place.known.ahead = 61
    with pytest.raises(Unavailable):
        await place.login()


async def test_domain_scope(place):
    place.change(put(grant(U, "default", "member", target="domain")))
    for said in ({"id": "default"}, {"name": "Default"}):
        assert (await place.login({"domain": said})).token.scope == DomainScope("default")
    with pytest.raises(Unauthenticated):
        await place.login({"domain": {"name": "p"}})


# --- passwords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["p", "x" * 72, "x" * 73, "ä" * 40, "a\0b", "x" * MAX_PASSWORD_BYTES, "\ud800"])
async def test_a_password_opens_its_own_hash_and_no_other(password):
    hashed = await hash_password(password, 4)
    assert await verify_password(password, hashed)
    for other in (password + "x", password[:-1], password.swapcase() + "y", ""):
        assert not await verify_password(other, hashed)


async def test_every_byte_of_a_long_password_counts():
    hashed = await hash_password("A" * 72 + "tail1", 4)
    assert hashed.startswith("$bcrypt-sha256$v=2,t=2b,r=4$")
    assert not await verify_password("A" * 72 + "OTHER", hashed)
    assert not await verify_password("A" * 72, hashed)


async def test_a_hash_that_upstream_made_still_opens():
    truncated = bcrypt.hashpw(b"A" * 72, bcrypt.gensalt(4)).decode()
    assert await verify_password("A" * 72 + "upstream reads no further", truncated)
    assert not await verify_password("A" * 71, truncated)
    # made with passlib 1.7.4, bcrypt_sha256 version 2
    assert await verify_password(
        "password", "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2"
    )


@pytest.mark.parametrize(
    "hashed", ["", "$", "$2b$04$short", "$bcrypt-sha256$", "$bcrypt-sha256$v=2$s$d", "$6$x$y", "ü", None]
)
async def test_a_hash_that_cannot_be_read_opens_for_nobody(hashed):
    assert not await verify_password("x", hashed, 4)
    assert not await verify_password("", hashed, 4)


async def test_too_long_a_password_is_refused_when_it_is_set():
    with pytest.raises(Forbidden, match="4096"):
        await hash_password("x" * (MAX_PASSWORD_BYTES + 1), 4)


async def test_nobody_takes_as_long_as_somebody():
    hashed = await hash_password("right", 8)

    async def cost(hashed):
        begun = time.perf_counter()
        await verify_password("wrong", hashed, 8)
        return time.perf_counter() - begun

    pairs = [(await cost(hashed), await cost(None)) for _ in range(15)]
    known, unknown = (statistics.median(side) for side in zip(*pairs, strict=True))
    assert 0.5 < known / unknown < 2


async def test_a_flood_of_logins_is_refused_and_not_queued():
    pool = _Pool(1, 2)
    results = await asyncio.gather(*(pool.run(time.sleep, 0.02) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(one, Unavailable) for one in results) == 3
    await pool.run(time.sleep, 0)


async def test_refusals_are_of_the_family(place):
    assert isinstance(place, Realm)
    with pytest.raises(IdentityError):
        await place.login({"project": {"name": "p"}})
