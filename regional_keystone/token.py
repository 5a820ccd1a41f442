"""What a token says: who, by which methods, with which scope, until when; and who is proven to say it.
Separate from payload (how it is written) and keys (how it is sealed); nothing here knows whether a token is valid.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias, cast

import msgspec

from regional_keystone.payload import PAYLOADS, NotAToken, decode, encode, new_audit_id

__all__ = [
    "DEFAULT_METHODS",
    "Allowed",
    "ByCredential",
    "ByTrust",
    "Delegation",
    "DomainScope",
    "Named",
    "NotAToken",
    "Principal",
    "ProjectScope",
    "Scope",
    "SystemScope",
    "Token",
    "Unscoped",
    "child_audit_id",
    "new_audit_id",
    "pack",
    "unpack",
]

DEFAULT_METHODS = ("external", "password", "token", "oauth1", "mapped", "application_credential", "ec2credential")
"""Upstream's default `[auth] methods`; a method's place is its bit, so the list may only grow at its end."""
_HERE = "identity"  # the service that access rules call this one
_MARK_BYTES, _MARKS = 3, 3
_OWN = 1 + _MARK_BYTES * _MARKS  # where an audit id that is made of others has its own random part
_PART = re.compile(r"{[^}]*}|\*\*|.", re.DOTALL)  # of an access rule's path


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


class ByTrust(msgspec.Struct, frozen=True):
    """Acts within a trust, for whom it names."""

    trust_id: str


class ByCredential(msgspec.Struct, frozen=True):
    """Acts within an application credential of its user."""

    application_credential_id: str


Delegation: TypeAlias = ByTrust | ByCredential


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a string says once a key fits; says nothing about being valid.

    `audit_ids`: one or two texts of 22 URL-safe base64 characters, its own, then that of the first token of its chain.
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
    def line(self) -> str:
        """The name of the line that begins with it: all that was made from it, from that, and so on."""
        if len(self.audit_ids) == 1:
            return self.audit_id
        level, _ = _way(self.audit_ids)
        return _line(self.chain_id, _handed_down(self.audit_ids), deep=level > _MARKS)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of what lies between the first of its chain and itself.

        From the fifth level of a chain on, what hangs on the same token of the third is one line.
        """
        if len(self.audit_ids) == 1:
            return ()
        level, marks = _way(self.audit_ids)
        ends = range(_MARK_BYTES, len(marks) + 1, _MARK_BYTES)
        deep = (_line(self.chain_id, marks, deep=True),) if level > _MARKS + 1 else ()
        return (*(_line(self.chain_id, marks[:end]) for end in ends), *deep)

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

    @property
    def delegation(self) -> Delegation | None:
        """The trust or the application credential that it acts within."""
        if self.trust_id is not None:
            return ByTrust(self.trust_id)
        if self.application_credential_id is not None:
            return ByCredential(self.application_credential_id)
        return None


class Named(msgspec.Struct, frozen=True):
    """A project or domain as a token's body shows it; `domain_*` is None for a domain."""

    id: str
    name: str
    domain_id: str | None = None
    domain_name: str | None = None


class Allowed(msgspec.Struct, frozen=True):
    """A request that an access rule lets through: `path` with `{name}` and `*` for one part of it, `**` for any."""

    service: str
    path: str
    method: str

    def lets(self, method: str, path: str) -> bool:
        """Whether it lets this request to the Identity API through."""
        return self.service == _HERE and self.method == method and _pattern(self.path).fullmatch(path) is not None


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller proven now: token, user, scope and effective roles; only `validate` and `issue` make one.

    `user` is as whom the token acts: by a trust with impersonation not the one who holds it. `roles` are the effective
    roles, `id` and `name`. `allowed`: the only requests that its token is good for; None: any. `signers`: ids of
    the keys that signed its token, and what that was made from; none if it was sealed.
    """

    token: Token
    user: Named
    project: Named | None = None
    domain: Named | None = None
    roles: tuple[Named, ...] = ()
    allowed: tuple[Allowed, ...] | None = None
    signers: tuple[str, ...] = ()

    @property
    def user_id(self) -> str:
        """The caller's id."""
        return self.user.id

    @property
    def is_system(self) -> bool:
        """True if the scope is the system."""
        return isinstance(self.token.scope, SystemScope)

    def may_ask(self, method: str, path: str) -> bool:
        """Whether the access rules of its token let this request through; a token may always be shown by GET.

        Source: validate_allowed_request of keystonemiddleware, which Keystone itself runs behind.
        """
        if self.allowed is None or (method == "GET" and path.endswith("/v3/auth/tokens")):
            return True
        return any(one.lets(method, path) for one in self.allowed)


def pack(token: Token, methods: Sequence[str] = DEFAULT_METHODS) -> bytes:
    """Writes the token as upstream does, byte for byte; `methods` is the server's list of all methods, in its order.

    Raises ValueError for a method that is not in the list, and for what no payload can say: a trust's id that is no
    UUID, a delegation on top of another. Source: keystone/token/providers/fernet/core.py.
    """
    version = _version(token)
    _check_nothing_is_lost(token, version)
    return encode(version, _flat(token, methods))


def unpack(payload: bytes, issued_at: int, methods: Sequence[str] = DEFAULT_METHODS) -> Token:
    """Reads what `pack` or any Keystone wrote, also the raw form of msgpack before 1.0. Raises NotAToken, nothing else.

    `methods` of the token come highest bit first, as upstream shows them; an unknown bit is refused.
    """
    fields = decode(payload)
    fields["methods"] = _method_names(cast(int, fields["methods"]), methods)
    scope = _scope(fields)
    return Token(scope=scope, issued_at=issued_at, **fields)  # type: ignore[arg-type]


def child_audit_id(audit_ids: Sequence[str], random: bytes) -> str:
    """Names a token that is made from the one with these audit ids; `random` are 16 bytes.

    A token has room for two audit ids, so its own has to say the way to it: how far down its chain it is, and marks of
    what lies between the first and itself, as far as there is room for them. To all others it is a random name.
    """
    level, _ = _way(audit_ids)
    marks = _handed_down(audit_ids)
    return new_audit_id(bytes([min(level + 1, 255)]) + marks + random[1 + len(marks) :])


@lru_cache(1024)
def _pattern(path: str) -> re.Pattern[str]:
    """The paths that an access rule means. Stricter than upstream, to which every other sign is part of a regex."""
    parts = _PART.findall(path)
    return re.compile(
        "".join(".*" if one == "**" else re.escape(one) if len(one) == 1 and one != "*" else "[^/]+" for one in parts)
    )


def _way(audit_ids: Sequence[str]) -> tuple[int, bytes]:
    """How far down its chain a token is, and the marks of what lies between.

    An id that another server gave says anything; what is made here from that token says the same way and goes with it.
    """
    if len(audit_ids) == 1:
        return 0, b""
    own = _bytes_of(audit_ids[0])
    level = max(own[0], 1)
    return level, own[1 : 1 + _MARK_BYTES * min(level - 1, _MARKS)]


def _handed_down(audit_ids: Sequence[str]) -> bytes:
    """The marks that everything has which is made from the token with these audit ids."""
    level, marks = _way(audit_ids)
    mark = _bytes_of(audit_ids[0])[_OWN : _OWN + _MARK_BYTES] if 1 <= level <= _MARKS else b""
    return marks + mark


def _line(chain_id: str, marks: bytes, *, deep: bool = False) -> str:
    """A name that looks like an audit id and is none."""
    said = b"regional-keystone line 1\x00" + _bytes_of(chain_id) + marks + (b"deep" if deep else b"")
    return new_audit_id(hashlib.sha256(said).digest()[:16])


def _bytes_of(audit_id: str) -> bytes:
    return base64.urlsafe_b64decode(audit_id + "==")


def _version(token: Token) -> int:
    """Upstream's choice: the first that fits."""
    match token:
        case Token(access_token_id=str()):
            return 7
        case Token(trust_id=str()):
            return 3
        case Token(identity_provider_id=str(), protocol_id=str()):
            return _federated_version(token.scope)
        case Token(application_credential_id=str()):
            return 9
        case Token(thumbprint=str()):
            return 10
    return _plain_version(token.scope)


def _federated_version(scope: Scope) -> int:
    match scope:
        case ProjectScope():
            return 5
        case DomainScope():
            return 6
        case Unscoped():
            return 4
        case SystemScope():
            raise ValueError("a federated token cannot have the system as its scope")


def _plain_version(scope: Scope) -> int:
    match scope:
        case ProjectScope():
            return 2
        case DomainScope():
            return 1
        case SystemScope():
            return 8
        case Unscoped():
            return 0


def _flat(token: Token, methods: Sequence[str]) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(token, name) for name in token.__struct_fields__}
    fields["methods"] = sum({1 << methods.index(method) for method in token.methods})
    return fields | {"project_id": token.project_id, "domain_id": token.domain_id, "system": "all"}


def _check_nothing_is_lost(token: Token, version: int) -> None:
    # The first payload that fits may have no place for the rest; a limit that is lost would be power gained.
    said = {name for name, _ in PAYLOADS[version]}
    limits = ("trust_id", "access_token_id", "application_credential_id", "thumbprint", "project_id", "domain_id")
    if any(getattr(token, name) is not None and name not in said for name in limits):
        raise ValueError("no payload can say all limits of this token")
    if isinstance(token.scope, SystemScope) and "system" not in said:
        raise ValueError("no payload can say system scope together with the rest")


def _method_names(mask: int, methods: Sequence[str]) -> tuple[str, ...]:
    if mask >> len(methods):
        raise NotAToken("an unknown method")
    return tuple(methods[bit] for bit in reversed(range(len(methods))) if mask >> bit & 1)


def _scope(fields: dict[str, object]) -> Scope:
    """Takes what says the scope out of the fields."""
    project_id, domain_id = fields.pop("project_id", None), fields.pop("domain_id", None)
    if project_id is not None and domain_id is not None:
        raise NotAToken("a token has one scope")
    if project_id is not None:
        return ProjectScope(cast(str, project_id))
    if domain_id is not None:
        return DomainScope(cast(str, domain_id))
    return Unscoped() if fields.pop("system", None) is None else SystemScope()
