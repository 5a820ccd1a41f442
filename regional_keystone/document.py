"""The JSON body of a token, the same for who is issued one and who validates it; and the only place of ISO times.
In parts: what depends on the token alone, and what all tokens of a user in a scope have in common, joined as bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from regional_keystone.model import Project, Role, ServiceProvider, User
from regional_keystone.token import Named, Scope, SystemScope, Token, Unscoped

_encode = msgspec.json.Encoder().encode
_TRUST = "OS-TRUST:trust"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Shared(Protocol):
    """The parts that all tokens of a user in a scope share; `catalog` is empty for one without scope."""

    @property
    def domains(self) -> frozenset[str]:
        """The domains that such a token is about."""
        ...

    @property
    def user(self) -> bytes:
        """The user, an object."""
        ...

    @property
    def rest(self) -> bytes:
        """Scope and roles, members that follow others."""
        ...

    @property
    def catalog(self) -> bytes:
        """The catalog, a member that follows others."""
        ...


class Common(NamedTuple):
    """The `Shared` parts as `common` makes them, all but the catalog."""

    user: bytes
    rest: bytes


class Own(NamedTuple):
    """The parts that are a token's own, before and after the user."""

    head: bytes
    tail: bytes


def time(at: int) -> str:
    """An instant as tokens show it: ISO 8601 with microseconds."""
    whole, micro = divmod(at, 1_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{micro:06}Z"


def instant(text: str) -> int:
    """The instant that an ISO 8601 text says, UTC if it does not say. Raises ValueError."""
    said = datetime.fromisoformat(text)
    passed = (said if said.tzinfo else said.replace(tzinfo=UTC)) - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def common(
    user: User,
    home: Project,
    scope: Scope,
    project: Project | None,
    domain: Project | None,
    roles: Sequence[Role],
    within: Mapping[str, Any] | None = None,
) -> Common:
    """The shared parts, of records that were found to be there and enabled.

    `home` is the user's domain, `domain` the project's or the scope's own; `within` what is said of a delegation.
    """
    rest: dict[str, Any] = dict(within or {})
    trusted = _TRUST in rest
    if project is not None and domain is not None:
        rest["project"] = _inside(project, domain)
        if not trusted:
            rest["is_domain"] = project.is_domain
    elif domain is not None:
        rest["domain"] = {"id": domain.id, "name": domain.name}
    if not isinstance(scope, Unscoped):
        rest["roles"] = [_whole(role) if trusted else {"id": role.id, "name": role.name} for role in roles]
    if isinstance(scope, SystemScope):
        rest["system"] = {"all": True}
    expires_at = user.password_expires_at
    shown = _inside(user, home) | {
        "password_expires_at": None if expires_at is None else time(expires_at).removesuffix("Z")
    }
    return Common(_encode(shown), _inner(rest))


def listed(catalog: bytes) -> bytes:
    """The catalog, given as JSON, as a member that follows others."""
    return b',"catalog":' + catalog


def offered(providers: Iterable[ServiceProvider]) -> bytes:
    """The clouds that our users can go to, as a member that follows others; nothing where there is none."""
    found = [{"auth_url": one.auth_url, "id": one.id, "sp_url": one.sp_url} for one in providers if one.enabled]
    return _inner({"service_providers": found}) if found else b""


def own(token: Token) -> Own:
    """The parts that are this token's alone."""
    rest = {"audit_ids": token.audit_ids, "expires_at": time(token.expires_at), "issued_at": time(token.issued_at)}
    return Own(b'{"token":{"methods":' + _encode(token.methods) + b',"user":', _inner(rest))


def body(own: Own, common: Shared, *, catalog: bool = True) -> bytes:
    """The whole body."""
    return b"".join((own.head, common.user, own.tail, common.rest, common.catalog if catalog else b"", b"}}"))


def named(record: Project | User | Role, domain: Project | None = None) -> Named:
    """A record as a Principal names it."""
    if domain is None:
        return Named(record.id, record.name)
    return Named(record.id, record.name, domain.id, domain.name)


def _whole(role: Role) -> dict[str, Any]:
    """A role as trusts show it, unlike everything else in a token."""
    return {name: getattr(role, name) for name in ("id", "name", "domain_id", "description", "options")}


def _inside(record: Project | User, domain: Project) -> dict[str, Any]:
    return {"domain": {"id": domain.id, "name": domain.name}, "id": record.id, "name": record.name}


def _inner(members: dict[str, Any]) -> bytes:
    """These members as they stand inside an object after others."""
    return b"," + _encode(members)[1:-1] if members else b""
