"""Keystone 30.0.0 with provider jws reads our tokens with our public keys, and we read its with its public key."""

import asyncio
import contextlib
import datetime as dt
import pathlib
import subprocess

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from regional_keystone import jws
from regional_keystone.model import Signing, SigningKey
from regional_keystone.payload import NotAToken
from regional_keystone.signing import SIGNING, Signatory, Signers
from regional_keystone.signing_files import CURRENT, load_private, load_trusted, write_public
from regional_keystone.token import (
    DEFAULT_METHODS,
    SystemScope,
)
from tests.compat import installed
from tests.interop.beside import Asked, isotime
from tests.kinds import all_tokens

pytestmark = [pytest.mark.compat]
HERE = pathlib.Path(__file__).parent
ANOTHER = ec.generate_private_key(ec.SECP256R1())
SECOND = 1_000_000
TURNS = 60
METHODS = [("password",), ("token", "password"), DEFAULT_METHODS]
OURS = {"app_cred_id": "application_credential_id"}


def now() -> int:
    return int(dt.datetime.now(dt.UTC).timestamp()) * SECOND


def every(issued_at):
    return all_tokens(METHODS, issued_at, issued_at + 3600 * SECOND)


def told(token, lag_s):
    """What Keystone has to say of this token."""
    groups = None if token.group_ids is None else [{"id": group_id} for group_id in token.group_ids]
    return {
        "user_id": token.user_id,
        "methods": list(token.methods),
        "audit_ids": list(token.audit_ids),
        "system": "all" if isinstance(token.scope, SystemScope) else None,
        "domain_id": token.domain_id,
        "project_id": token.project_id,
        "trust_id": token.trust_id,
        "federated_group_ids": groups,
        "identity_provider_id": token.identity_provider_id,
        "protocol_id": token.protocol_id,
        "access_token_id": token.access_token_id,
        "app_cred_id": token.application_credential_id,
        "thumbprint": token.thumbprint,
        "issued_at": isotime(token.issued_at - lag_s * SECOND),
        "expires_at": isotime(token.expires_at),
    }


@contextlib.contextmanager
def keystone(private, public):
    run = [installed.keystone_python(), HERE / "keystone_jws.py", private, public]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(run, text=True, **streams) as process:
        yield Asked(process)
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A Keystone that was started on the directories of a site, which holds another's key too: (it, the site)."""
    directory = tmp_path_factory.mktemp("jws")
    site = Signatory("RegionOne", "cluster", directory / "private", directory / "public", signs=True, lag_s=2)
    asyncio.run(_made(site))
    assert [path.name for path in site.private.iterdir()] == [CURRENT]
    with keystone(site.private, site.public) as it:
        yield it, site


async def _made(site):
    await site.settle()
    keys = {}
    for owner, public in (("RegionOne", site.offer()[0]), ("RegionTwo", jws.der(ANOTHER.public_key()))):
        name = jws.key_id(jws.public_key(public))
        keys[name] = SigningKey(owner=owner, public=public, epoch=1, offered_at=1, signs_from=2)
    site.take(Signing(id=SIGNING, epoch=2, keys=keys))
    await site.settle()


def sign(site, token):
    return site.sign(token, (), DEFAULT_METHODS) if not isinstance(token.scope, SystemScope) else _as_another(token)


def _as_another(token):
    """A site signs nothing for the system by default; who reads it does not mind."""
    return jws.sign(token, ANOTHER, 2)


def test_keystone_reads_every_token_of_ours_as_it_was_meant(beside):
    it, site = beside
    tokens = list(every(now()))
    answers = it.ask(read=[sign(site, token) for token in tokens])
    for token, answer in zip(tokens, answers, strict=True):
        assert answer == told(token, 2)


def test_a_moment_of_issue_that_does_not_lag_would_fail_it(beside):
    it, _ = beside
    ahead = next(every(now() + 2 * SECOND))
    bare, lagging = it.ask(read=[jws.sign(ahead, ANOTHER, 0), jws.sign(ahead, ANOTHER, 5)])
    assert "ImmatureSignatureError" in bare["crashed"]
    assert lagging == told(ahead, 5)


def test_we_read_every_token_of_keystones_with_its_public_key_alone(beside, tmp_path):
    it, site = beside
    tokens = list(every(now()))
    made = it.ask(make=[_fields(token) for token in tokens])
    theirs = load_private(site.private, CURRENT).public_key()
    write_public(tmp_path / "trusted", {"it": theirs})
    signers = Signers(trusted=load_trusted(tmp_path / "trusted"))
    high = 0
    for token, (text, issued_at) in zip(tokens, made, strict=True):
        signed = jws.read(text)
        assert signers.opener(signed) == jws.key_id(theirs)
        high += not signed.fits(theirs)
        found = signed.token()
        assert isotime(found.issued_at)[:19] == issued_at[:19]
        assert found == msgspec.structs.replace(token, issued_at=found.issued_at)
    assert 0 < high < len(tokens), "it writes both forms of a signature"
    with pytest.raises(NotAToken):  # of the federation's own keys, only what names one is read
        site.signers.opener(jws.read(made[0][0]))


def _fields(token):
    said = told(token, 0)
    del said["issued_at"]
    return said


def test_each_refuses_what_nobody_it_knows_has_signed(beside):
    it, site = beside
    stranger = ec.generate_private_key(ec.SECP256R1())
    token = next(every(now()))
    good = sign(site, token)
    answers = it.ask(read=[jws.sign(token, stranger, 2), good[:-8], good])
    assert [answer.get("refused") for answer in answers] == ["not found", "not found", None]
    for text in (jws.sign(token, stranger, 2), good[:-8]):
        with pytest.raises(NotAToken):
            site.signers.opener(jws.read(text))


def test_keystone_reads_the_directory_in_a_loop_while_keys_come_and_go(beside):
    it, site = beside
    pool = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(5)]
    text = sign(site, next(every(now())))
    assert it.ask(loop=text) == "begun"
    for turn in range(TURNS):
        some = {jws.key_id(pool[(turn + n) % 5]): pool[(turn + n) % 5] for n in range(turn % 4)}
        write_public(site.public, some | site.signers.public)
    answer = it.ask(read=[])
    assert answer["failures"] == []
    assert answer["reads"] > TURNS // 4
    assert it.hear() == []
