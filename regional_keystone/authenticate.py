"""Auth methods: from what a client presents to whose identity it proves.

Separate from issue, which decides what a proven identity may have.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from regional_keystone import compliance
from regional_keystone.attempts import Verifier
from regional_keystone.errors import Unauthenticated, expecting, not_allowed
from regional_keystone.model import ApplicationCredential, Project, User
from regional_keystone.passwords import DEFAULT_ROUNDS, How, verify_password
from regional_keystone.ports import Reader
from regional_keystone.token import Principal, SystemScope, Token, Unscoped

PRIMARY_METHODS = frozenset(["external", "kerberos", "mapped", "openid", "password", "saml2", "token", "totp", "x509"])
"""Methods that prove a user; a token of any other acts for somebody within limits, and makes no other token."""


def is_another_method(token: Token) -> bool:
    """Whether the token was not made from what a user proves itself with, a trust left aside."""
    return not token.methods or not PRIMARY_METHODS.issuperset(token.methods)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one method has to go by: its own part of the request, already of the right types, and records to compare.

    `principal` is the caller whom the token in the request proves; `scope_kinds` the keys of the requested scope;
    `verifier` checks the passwords of users, `rounds` is the work that other secrets are worth.
    """

    reader: Reader
    data: Mapping[str, Any]
    verifier: Verifier
    rounds: How = DEFAULT_ROUNDS
    now: int = 0
    principal: Principal | None = None
    scope_kinds: frozenset[str] = frozenset()
    may_rescope: bool = True
    reach: Callable[[str], int] = lambda _: 0  # as `revocation.RevocationIndex` has it, of all tokens of a user

    def __repr__(self) -> str:
        return f"Evidence({', '.join(self.data)})"


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Whose identity was proven, and what a token made from it inherits.

    `made_from`: audit ids of the token shown; `signers`: the ids of the keys that vouch for it, none if it was sealed.
    `reach`: that of revocations of the user before anything was read that proves; further by now, it proves nothing.
    """

    user_id: str
    methods: tuple[str, ...]
    expires_at: int | None = None
    made_from: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    credential: ApplicationCredential | None = None
    reach: int | None = None


Method = Callable[[Evidence], Awaitable[Proof]]


async def by_password(evidence: Evidence) -> Proof:
    """Proves the user that is named by id, or by name and domain, with a password.

    Raises Unauthenticated in the same words and after the same work whether the user, the domain or the password was
    wrong, disabled or locked out; only who knows an expired password is told so.
    Source: keystone/auth/plugins/core.py, password.py, keystone/notifications.py.
    """
    said = evidence.data.get("user")
    if said is None:
        raise expecting("user", "None")  # upstream's words
    user, reach = await _user(evidence, said), None
    if user is not None:  # what it is compared with is read once it is known which revocations had come by then
        reach = evidence.reach(user.id)
        user = await _user(evidence, {"id": user.id})
    fits = await evidence.verifier.verify(user, said.get("password", ""))
    if user is None or not fits:
        raise Unauthenticated
    if compliance.is_expired(user, evidence.now):
        raise Unauthenticated(f"The password is expired and needs to be changed for user: {user.id}.")
    await evidence.verifier.entered(user)
    return Proof(user_id=user.id, methods=("password",), reach=reach)


async def by_token(evidence: Evidence) -> Proof:
    """Proves the user of a token that was proven already; what is made from it ends when it ends.

    Raises Forbidden for a token that acts within limits which the new one would escape.
    Source: keystone/auth/plugins/token.py.
    """
    if evidence.principal is None:
        raise Unauthenticated
    token = evidence.principal.token
    why = _why_no_other(evidence)
    if why:
        raise not_allowed(why)
    return Proof(
        user_id=token.user_id,
        methods=("token", *token.methods),
        expires_at=token.expires_at,
        made_from=token.audit_ids,
        signers=evidence.principal.signers,
        reach=evidence.reach(token.user_id),
    )


async def by_application_credential(evidence: Evidence) -> Proof:
    """Proves the owner of an application credential that is named by id, or by name and owner, with its secret.

    Raises Unauthenticated in the same words and after the same work whatever was wrong, disabled or expired. A `user`
    beside an id is nobody's business. Source: keystone/auth/plugins/application_credential.py.
    """
    found = await _credential(evidence)
    secret = evidence.data.get("secret")
    hashed = found.secret_hash if found else None
    fits = await verify_password(secret if isinstance(secret, str) else "", hashed, evidence.rounds)
    if found is None or not fits or (found.expires_at is not None and found.expires_at <= evidence.now):
        raise Unauthenticated
    if await _user(evidence, {"id": found.user_id}) is None:
        raise Unauthenticated
    return Proof(user_id=found.user_id, methods=("application_credential",), credential=found)


METHODS: dict[str, Method] = {
    "password": by_password,
    "token": by_token,
    "application_credential": by_application_credential,
}


async def _credential(evidence: Evidence) -> ApplicationCredential | None:
    said = evidence.data
    if said.get("id"):
        return await evidence.reader.get(ApplicationCredential, said["id"])
    if not said.get("name"):
        raise expecting("name or ID", "application credential")
    if not said.get("user"):
        raise expecting("user", "application credential")
    user = await _user(evidence, said["user"])
    if user is None:
        return None
    found = await evidence.reader.find(ApplicationCredential, user_id=user.id, name=said["name"])
    return found[0] if found else None


def _why_no_other(evidence: Evidence) -> str:
    """Why no other token may be made from this one; empty if it may."""
    if evidence.principal is None:
        return "no token"
    token = evidence.principal.token
    if token.access_token_id:
        return "Using OAuth-scoped token to create another token. Create a new OAuth-scoped token instead"
    if token.trust_id:
        return "Using trust-scoped token to create another token. Create a new trust-scoped token instead"
    if isinstance(token.scope, SystemScope) and evidence.scope_kinds & {"project", "domain"}:
        return "Using a system-scoped token to create a project-scoped or domain-scoped token is not allowed."
    if token.is_delegated or is_another_method(token):
        return "Using a delegated token to create another token is not allowed."
    if not evidence.may_rescope and not isinstance(token.scope, Unscoped):
        return "rescope a scoped token"
    return ""


async def _user(evidence: Evidence, said: Mapping[str, Any]) -> User | None:
    """The user that is meant, if that user and the domain are there and enabled."""
    reader = evidence.reader
    if not said.get("id") and not said.get("name"):
        raise expecting("id or name", "user")
    if not said.get("name"):
        user = await reader.get(User, said["id"])
    else:
        domain_id = await _domain_id(reader, said)
        user = next(iter(await reader.find(User, domain_id=domain_id, name=said["name"])), None) if domain_id else None
    if user is None or not user.enabled or evidence.verifier.is_inactive(user, evidence.now):
        return None
    home = await reader.get(Project, user.domain_id)
    return user if home and home.is_domain and home.enabled else None


async def _domain_id(reader: Reader, said: Mapping[str, Any]) -> str | None:
    domain = said.get("domain")
    if domain is None:
        raise expecting("domain", "user")
    if not domain.get("id") and not domain.get("name"):
        raise expecting("id or name", "domain")
    if not domain.get("name"):
        return str(domain["id"])
    found = await reader.find(Project, domain_id=None, name=domain["name"])
    return next((one.id for one in found if one.is_domain), None)
