"""What a token says: its scope, its fields, and the eleven payloads in which upstream writes them.
Separate from keys, so that content and sealing can be read and tested apart; nothing here knows whether a token is valid."""

import base64
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, cast

import msgspec

DEFAULT_METHODS = ("external", "password", "token", "oauth1", "mapped", "application_credential", "ec2credential")
"""Upstream's default `[auth] methods`; a method's place is its bit, so the list may only grow at its end."""

LAST_SECOND = 253_402_300_799
"""The last second that a date can name, 9999-12-31T23:59:59 UTC; nothing later is a time."""


class NotAToken(ValueError):
    """The text or payload is no token: says what is wrong with it, never what it holds."""


class Unscoped(msgspec.Struct, frozen=True):
    """No scope: the token proves who, and gives no role anywhere."""


class DomainScope(msgspec.Struct, frozen=True):
    """Roles on one domain."""

    domain_id: str


class ProjectScope(msgspec.Struct, frozen=True):
    """Roles on one project."""

    project_id: str


class SystemScope(msgspec.Struct, frozen=True):
    """Roles on the system, which is always all of it."""


Scope: TypeAlias = Unscoped | DomainScope | ProjectScope | SystemScope


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a string says once a key fits; says nothing about being valid.

    `audit_ids` are one or two texts of 22 URL-safe base64 characters: its own, then that of the first token of its chain.
    """

    user_id: str
    methods: tuple[str, ...]
    scope: Scope
    expires_at: int
    issued_at: int
    audit_ids: tuple[str, ...]
    trust_id: str | None = None
    group_ids: tuple[str, ...] | None = None
    identity_provider_id: str | None = None
    protocol_id: str | None = None
    access_token_id: str | None = None
    application_credential_id: str | None = None
    thumbprint: str | None = None

    @property
    def audit_id(self) -> str:
        """The name of this one token."""
        return self.audit_ids[0]

    @property
    def chain_id(self) -> str:
        """The name that it shares with every token that was made from the same login; its own if it is the first."""
        return self.audit_ids[-1]

    @property
    def project_id(self) -> str | None:
        """The project of its scope, if that is one."""
        return self.scope.project_id if isinstance(self.scope, ProjectScope) else None

    @property
    def domain_id(self) -> str | None:
        """The domain of its scope, if that is one; never the domain of its project."""
        return self.scope.domain_id if isinstance(self.scope, DomainScope) else None

    @property
    def is_delegated(self) -> bool:
        """True if it acts within what somebody handed on: a trust, an access token, an application credential."""
        return any((self.trust_id, self.access_token_id, self.application_credential_id))


class Named(msgspec.Struct, frozen=True):
    """A project or domain as a token's body shows it; `domain_*` is None for a domain."""

    id: str
    name: str
    domain_id: str | None = None
    domain_name: str | None = None


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller proven now: token, user, scope and effective roles; only `validate` and `issue` make one.

    `roles` are the effective roles, `id` and `name`.
    """

    token: Token
    user: Named
    project: Named | None = None
    domain: Named | None = None
    roles: tuple[Named, ...] = ()

    @property
    def user_id(self) -> str:
        """The caller's id."""
        return self.user.id

    @property
    def is_system(self) -> bool:
        """True if the scope is the system."""
        return isinstance(self.token.scope, SystemScope)

    @property
    def role_ids(self) -> frozenset[str]:
        """The ids of the effective roles."""
        return frozenset(role.id for role in self.roles)

    @property
    def role_names(self) -> frozenset[str]:
        """The names of the effective roles, as policy compares them."""
        return frozenset(role.name for role in self.roles)


def new_audit_id(random: bytes) -> str:
    """Names a token: 22 URL-safe characters for 16 random bytes. Raises ValueError for any other length."""
    if len(random) != 16:
        raise ValueError("an audit id is made of 16 random bytes")
    return base64.urlsafe_b64encode(random)[:22].decode("ascii")


# --- How one field is written. `pack` raises ValueError for what upstream could not write, `unpack` NotAToken.


class _Codec(NamedTuple):
    pack: Callable[[object], object]
    unpack: Callable[[object], object]


def _check(fits: bool, what: str) -> None:
    if not fits:
        raise NotAToken(what)


def _text(value: object) -> str:
    # Writers older than msgpack 1.0 knew no difference between text and bytes.
    if isinstance(value, bytes):
        return value.decode("utf-8")
    _check(isinstance(value, str), "a text is of another type")
    return cast(str, value)


def _hex(value: object) -> str:
    _check(isinstance(value, bytes) and len(value) == 16, "an id is not 16 bytes")
    return cast(bytes, value).hex()


def _uuid_bytes(value: object) -> bytes:
    return uuid.UUID(cast(str, value)).bytes


def _pack_pair(value: object) -> object:
    try:
        return (True, _uuid_bytes(value))
    except (ValueError, TypeError):
        return (False, value)


def _unpack_pair(value: object) -> str | None:
    _check(isinstance(value, list) and len(value) == 2 and isinstance(value[0], bool), "an id is no pair")
    is_uuid, content = cast("list[object]", value)
    if is_uuid:
        return _hex(content)
    return None if content is None else _text(content)


def _pack_domain(value: object) -> object:
    # Upstream writes text for its default domain only; which one that is does not matter for reading it back.
    try:
        return _uuid_bytes(value)
    except ValueError:
        return value


def _unpack_domain(value: object) -> str:
    return _hex(value) if isinstance(value, bytes) and len(value) == 16 else _text(value)


def _unpack_thumbprint(value: object) -> str:
    thumbprint = _unpack_pair(value)
    _check(thumbprint is not None, "no thumbprint")
    return cast(str, thumbprint)


def _pack_groups(value: object) -> object:
    return [_pack_pair(group_id) for group_id in cast("tuple[str, ...] | None", value) or ()]


def _unpack_groups(value: object) -> tuple[str, ...]:
    _check(isinstance(value, list), "groups are no list")
    ids = tuple(_unpack_pair(item) for item in cast("list[object]", value))
    _check(None not in ids, "a group has no id")
    return cast("tuple[str, ...]", ids)


def _pack_time(value: object) -> object:
    return cast(int, value) / 1_000_000


def _unpack_time(value: object) -> int:
    _check(type(value) in (int, float), "the expiry is no number")
    seconds = cast(float, value)
    _check(0 <= seconds <= LAST_SECOND, "the expiry is out of range")  # NaN compares false
    fraction, whole = math.modf(seconds)
    return int(whole) * 1_000_000 + round(fraction * 1_000_000)


def _audit_bytes(audit_id: str) -> bytes:
    raw = base64.urlsafe_b64decode(audit_id + "==")
    if len(audit_id) != 22 or new_audit_id(raw) != audit_id:
        raise ValueError("an audit id is 22 characters of URL-safe base64")
    return raw


def _pack_audit(value: object) -> object:
    audit_ids = cast("tuple[str, ...]", value)
    if len(audit_ids) not in (1, 2):
        raise ValueError("a token has one or two audit ids")
    return [_audit_bytes(audit_id) for audit_id in audit_ids]


def _unpack_audit(value: object) -> tuple[str, ...]:
    _check(isinstance(value, list) and len(value) in (1, 2), "not one or two audit ids")
    raws = cast("list[object]", value)
    _check(all(isinstance(raw, bytes) and len(raw) == 16 for raw in raws), "an audit id is not 16 bytes")
    return tuple(new_audit_id(cast(bytes, raw)) for raw in raws)


def _same(value: object) -> object:
    return value


def _unpack_mask(value: object) -> int:
    _check(type(value) is int and value >= 0, "the methods are no number")
    return cast(int, value)


def _unpack_system(value: object) -> str:
    _check(_text(value) == "all", "a part of the system that does not exist")
    return "all"


def _unpack_user(value: object) -> str:
    user_id = _unpack_pair(value)
    _check(user_id is not None, "no user")
    return cast(str, user_id)


_USER = ("user_id", _Codec(_pack_pair, _unpack_user))
_METHODS = ("methods", _Codec(_same, _unpack_mask))
_PROJECT = ("project_id", _Codec(_pack_pair, _unpack_pair))
_BARE_DOMAIN = ("domain_id", _Codec(_pack_domain, _unpack_domain))
_DOMAIN = ("domain_id", _Codec(_pack_pair, _unpack_pair))
_SYSTEM = ("system", _Codec(_same, _unpack_system))
_EXPIRES = ("expires_at", _Codec(_pack_time, _unpack_time))
_AUDIT = ("audit_ids", _Codec(_pack_audit, _unpack_audit))
_TRUST = ("trust_id", _Codec(_uuid_bytes, _hex))
_GROUPS = ("group_ids", _Codec(_pack_groups, _unpack_groups))
_PROVIDER = ("identity_provider_id", _Codec(_pack_pair, _unpack_pair))
_PROTOCOL = ("protocol_id", _Codec(_same, _text))
_ACCESS = ("access_token_id", _Codec(_pack_pair, _unpack_user))
_CREDENTIAL = ("application_credential_id", _Codec(_pack_pair, _unpack_user))
_THUMBPRINT = ("thumbprint", _Codec(lambda value: (False, value), _unpack_thumbprint))
