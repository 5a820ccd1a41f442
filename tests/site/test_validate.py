"""The long road: what a token is worth now, and every way to be worth nothing."""

import os

import msgspec
import pytest
from cryptography.fernet import Fernet

from regional_keystone.errors import NotFound, Unauthenticated, Unavailable
from regional_keystone.keys import KeyRing
from regional_keystone.log import put, remove
from regional_keystone.model import Project, User
from regional_keystone.token import (
    DEFAULT_METHODS,
    DomainScope,
    ProjectScope,
    SystemScope,
    Token,
    Unscoped,
    new_audit_id,
    pack,
)
from tests.site.realm import KEYS, ON_P, SCOPE_P, SYSTEM, P, U, grant, realm

S = 1_000_000


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        yield made


def sealed(place, **fields):
    """A token that nobody issued, under the right key."""
    now = place.clock.now() // S * S
    token = Token(**{
        "user_id": U, "methods": ("password",), "scope": ON_P, "issued_at": now, "expires_at": now + 3600 * S,
        "audit_ids": (new_audit_id(os.urandom(16)),), **fields,
    })  # fmt: skip
    return place.known.ring.seal(pack(token), token.issued_at)


async def refusal(place, text, **how):
    with pytest.raises(NotFound) as refused:
        await place.validator.check(text, **how)
    with pytest.raises(Unauthenticated):
        await place.validator.proven(text)
    assert not text or text not in refused.value.message
    return refused.value.message


async def roles(place, text):
    """The names of the roles that this token proves now."""
    principal, _ = await place.validator.proven(text)
    return {role.name for role in principal.roles}


async def test_a_token_whose_key_may_be_on_its_way_is_not_called_bad(place):
    text = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}).seal(b"x" * 40, place.clock.now())
    assert await refusal(place, text) == "Could not recognize Fernet token"
    place.known.lacks_key = True
    with pytest.raises(Unavailable):
        await place.validator.check(text)
    with pytest.raises(Unavailable):
        await place.validator.proven(text)
    assert await refusal(place, "no token at all") == "Could not recognize Fernet token"


async def test_a_caller_is_proven_with_user_scope_and_roles(place):
    text = (await place.login(SCOPE_P)).text
    principal, _ = await place.validator.proven(text)
    assert (principal.user_id, principal.user.domain_id, principal.user.domain_name) == (U, "default", "Default")
    assert (principal.project.id, principal.project.domain_id) == (P, "default")
    assert await roles(place, text) == {"member", "reader"}
    assert principal.domain is None


async def test_times_and_audit_ids_are_the_same_on_every_look(place):
    text = (await place.login(SCOPE_P)).text
    bodies = {
        (await validator.check(text)).body() for validator in (place.validator, place.forgetful(), place.validator)
    }
    assert len(bodies) == 1


@pytest.mark.parametrize("text", ["garbage", "gAAAA", "g" * 5000, "ä", " g", "=", "\ud800"])
async def test_what_is_no_token_is_not_recognized(place, text):
    assert await refusal(place, text) == "Could not recognize Fernet token"


async def test_a_cut_changed_or_foreign_token_is_not_recognized(place):
    text = sealed(place)
    for spoilt in (text[:-4], text[4:], text[:60] + ("A" if text[60] != "A" else "B") + text[61:]):
        assert await refusal(place, spoilt) == "Could not recognize Fernet token"
    place.known.ring = KeyRing({0: KEYS[4], 1: KEYS[5]})
    assert await refusal(place, text) == "Could not recognize Fernet token"


async def test_payloads_that_nobody_writes_are_refused(place):
    for payload in (b"\x90", b"\x91\x63", b"\x01", b"\x92\x02\xc0", b"\xff" * 20, b"", b"\xc7\x04\x01abcd"):
        assert (
            await refusal(place, place.known.ring.seal(payload, place.clock.now()))
            == "Could not recognize Fernet token"
        )


async def test_an_expired_token_is_worth_nothing(place):
    now = place.clock.now()
    assert await refusal(place, sealed(place, issued_at=now - 10 * S, expires_at=now)) == "Failed to validate token"
    await place.validator.check(sealed(place, issued_at=now - 10 * S, expires_at=now + S))


async def test_a_token_from_the_future_is_worth_nothing_beyond_the_skew(place):
    now = place.clock.now()
    await place.validator.check(sealed(place, issued_at=now + 60 * S))
    assert await refusal(place, sealed(place, issued_at=now + 61 * S)) == "Failed to validate token"


async def test_a_token_of_the_second_of_a_revocation_is_void_and_one_of_the_next_is_not(place):
    await place.clock.advance(0.9)
    same = (await place.login(SCOPE_P)).text
    place.revoke(user_id=U)
    assert await refusal(place, same) == "Failed to validate token"
    again = (await place.login(SCOPE_P)).text
    assert await refusal(place, again) == "Failed to validate token"
    await place.clock.advance(1)
    await place.validator.check((await place.login(SCOPE_P)).text)


TRAITS = ["user_id", "audit_id", "project_id", "role_id", "domain_id"]


@pytest.mark.parametrize("trait", TRAITS)
async def test_a_revocation_by_any_trait_counts(place, trait):
    issued = await place.login(SCOPE_P)
    value = {
        "user_id": U,
        "audit_id": issued.token.audit_id,
        "project_id": P,
        "role_id": "m" * 32,
        "domain_id": "default",
    }
    place.revoke(**{trait: "another"})
    await place.forgetful().check(issued.text)
    place.revoke(**{trait: value[trait]})
    for validator in (place.validator, place.forgetful()):
        with pytest.raises(NotFound, match="Failed to validate token"):
            await validator.check(issued.text)
        with pytest.raises(NotFound, match="Failed to validate token"):
            await validator.check(issued.text, allow_expired=True)


@pytest.mark.parametrize(("kept_s", "shown_s"), [(None, 172800), (10**6, 172800), (60, 60), (0, 0)])
async def test_no_token_is_shown_for_longer_than_its_key_is_kept(place, kept_s, shown_s):
    """Whatever this site is set to: else it showed some of those that have expired, and not others, by their keys."""
    place.known.allow_expired_us = None if kept_s is None else kept_s * 1_000_000
    issued = await place.login()
    await place.clock.advance(3600 + shown_s - 1)
    await place.validator.check(issued.text, allow_expired=shown_s > 0)
    await place.clock.advance(2)
    with pytest.raises(NotFound):
        await place.validator.check(issued.text, allow_expired=True)


@pytest.mark.parametrize("method", DEFAULT_METHODS)
async def test_a_token_of_any_method_of_a_keystone_beside_us_is_understood(place, method):
    verdict = await place.validator.check(sealed(place, methods=(method,)))
    assert verdict.token.methods == (method,)


async def test_a_role_that_goes_is_gone_and_the_last_takes_the_token(place):
    text = (await place.login(SCOPE_P)).text
    place.change(put(grant(U, P, "service")))
    assert await roles(place, text) == {"member", "reader", "service"}
    place.change(remove(grant(U, P, "member")))
    assert await roles(place, text) == {"service"}
    place.change(remove(grant(U, P, "service")))
    assert await refusal(place, text) == "Failed to validate token"
    place.change(put(grant(U, P, "member")))
    assert await roles(place, text) == {"member", "reader"}, "as upstream: it lives again"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_id": "ab" * 16}, "Could not find user: " + "ab" * 16 + "."),
        ({"scope": ProjectScope("ab" * 16)}, "Could not find project: " + "ab" * 16 + "."),
        ({"scope": DomainScope("ab" * 16)}, "Could not find domain: " + "ab" * 16 + "."),
        ({"scope": DomainScope("default")}, "Failed to validate token"),
        ({"scope": SystemScope()}, "Failed to validate token"),
        ({"trust_id": "ab" * 16}, "Could not find trust: " + "ab" * 16 + "."),
        ({"access_token_id": "ab" * 16}, "Could not find Access Token: " + "ab" * 16 + "."),
        ({"application_credential_id": "ab" * 16}, "Could not find Application Credential: " + "ab" * 16 + "."),
        (
            {"group_ids": ("ab" * 16,), "identity_provider_id": "idp", "protocol_id": "x"},
            "Could not find Identity Provider: idp.",
        ),
        ({"thumbprint": "abc"}, "Failed to validate token"),
    ],
)
async def test_a_token_of_what_is_not_there_is_worth_nothing(place, fields, message):
    assert await refusal(place, sealed(place, **fields)) == message


@pytest.mark.parametrize("what", ["user", "project", "domain"])
async def test_whatever_is_disabled_takes_its_tokens_along(place, what):
    text = (await place.login(SCOPE_P)).text
    kind, one = {"user": (User, U), "project": (Project, P), "domain": (Project, "default")}[what]
    await place.replace(msgspec.structs.replace(await place.overlay.get(kind, one), enabled=False))
    assert text not in await refusal(place, text)


async def test_knowledge_that_is_too_old_decides_nothing_for_the_system(place):
    place.change(put(grant(U, "system", "reader", target="system")))
    system, project, none = [(await place.login(scope)).text for scope in (SYSTEM, SCOPE_P, None)]
    place.known.age = 30.1
    with pytest.raises(Unavailable) as refused:
        await place.validator.proven(system)
    assert refused.value.retry_after_s
    for text in (project, none):
        assert (await place.validator.proven(text))[0].user_id == U
    place.known.age = 30.0
    await place.validator.proven(system)


async def test_an_unscoped_token_has_no_role_and_no_catalog(place):
    verdict = await place.validator.check((await place.login()).text)
    assert verdict.token.scope == Unscoped()
    assert not verdict.principal.roles
    shown = msgspec.json.decode(verdict.body())["token"]
    assert shown.keys() == {"methods", "user", "audit_ids", "expires_at", "issued_at"}
