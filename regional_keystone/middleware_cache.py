"""Under which names stock keystonemiddleware keeps an answer in its memcached, and what was answered 200.

Tokens are named by one-way digests only, as the middleware itself names them. Apart from `purge`, which decides what is
deleted: every process that answers has this, one of a site has that.
Source: keystonemiddleware 13, auth_token/_cache.py and _memcache_crypt.py.
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from regional_keystone import secret_file
from regional_keystone.fastpath import Facts, Verdict
from regional_keystone.revocation import Traits
from regional_keystone.settings import ConfigurationError, MiddlewareCache
from regional_keystone.token import (
    ByCredential,
    ByTrust,
    Delegation,
    DomainScope,
    ProjectScope,
    Scope,
    SystemScope,
    Unscoped,
)

AGAIN: Final = 0.25
"""What is answered again and again is told after each such part of the middleware's time."""

_HAND_ON_S = 0.02
_SECURE: Final = ("MAC", "ENCRYPT")
_NAME_BYTES = 16
_encode = msgspec.msgpack.Encoder().encode


class Strategy(NamedTuple):
    """How services protect their entries: `name` as in `memcache_security_strategy`, "" for not at all."""

    name: str = ""
    secret: bytes = b""

    def __repr__(self) -> str:
        return f"Strategy({self.name or 'none'})"


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One token that was answered 200: its entries' `names`, and all that decides whether it still would be.

    `said` is a digest of what the answer said of its user and scope; `ends_at` is before the token's own end, or None;
    `asked_by` is the class of the caller's token, for which knowledge has to be new enough as well.
    """

    names: tuple[bytes, ...]
    key: str
    said: bytes
    user_id: str
    scope: tuple[str, str]
    delegation: tuple[str, str] | None
    traits: Traits
    ends_at: int | None = None
    asked_by: str = ""


Ground = tuple[str, Scope, Delegation | None]
"""What an answer rests on: a user, a scope, and what was handed on."""

_SCOPES: Final[dict[str, Callable[[str], Scope]]] = {
    "project": ProjectScope,
    "domain": DomainScope,
    "system": lambda _: SystemScope(),
    "": lambda _: Unscoped(),
}
_decode_told = msgspec.msgpack.Decoder(list[Told]).decode


def strategies(section: MiddlewareCache) -> tuple[Strategy, ...]:
    """What services of the region use, with their secrets. Raises ConfigurationError, and StoreRefused for a file."""
    return tuple(_strategy(one) for one in section.strategies)


def _strategy(text: str) -> Strategy:
    name, _, file = text.partition(":")
    if name.lower() == "none" and not file:
        return Strategy()
    if name.upper() in _SECURE and file:
        found = secret_file.read(Path(file), "memcache_secret_key").encode()
        if found:
            return Strategy(name.upper(), found)
        raise ConfigurationError(f"middleware_cache.strategies: {file} is empty; write the memcache_secret_key into it")
    raise ConfigurationError(
        f"middleware_cache.strategies = {name}: none, MAC:FILE or ENCRYPT:FILE, FILE with the memcache_secret_key"
    )


def names(token: str, known: Iterable[Strategy]) -> tuple[bytes, ...]:
    """What the entries of this token are called under each strategy, as `key` takes it."""
    text = token.encode()
    return tuple(
        hmac.digest(one.secret, text + one.name.encode(), "sha384")[:_NAME_BYTES]
        if one.name
        else hashlib.sha256(text).digest()
        for one in known
    )


def key(name: bytes) -> str:
    """The key in memcached of an entry of this name. The middleware formats bytes as text, hence the b''."""
    return f"tokens/{base64.b64encode(name)!r}" if len(name) == _NAME_BYTES else f"tokens/{name.hex()}"


def said(facts: Facts) -> bytes:
    """A digest of what an answer says of its user and scope; what the catalog shows is not in it."""
    within = facts.within
    parts: list[Any] = [facts.who, facts.home_id, facts.project, facts.domain, facts.roles]
    if within is not None:
        acting = within.acting.id if within.acting else None
        parts += [within.trustor_id, within.trustee_id, acting, within.until, within.allowed]
    return hashlib.blake2b(_encode(parts), digest_size=8).digest()


def told(token: str, verdict: Verdict, known: Iterable[Strategy], asked_by: str = "") -> Told:
    """What is remembered of an answer to a validation of `token`, as it was sent."""
    content = verdict.token
    delegation = content.delegation
    return Told(
        names=names(token, known),
        key=verdict.key,
        said=said(verdict.facts),
        user_id=content.user_id,
        scope=_scope(content.scope),
        delegation=None if delegation is None else _delegation(delegation),
        traits=verdict.traits,
        ends_at=verdict.expires_at if verdict.expires_at < content.expires_at else None,
        asked_by=asked_by,
    )


def ground(one: Told) -> Ground:
    """What the answer rests on."""
    kind, which = one.scope
    scope = _SCOPES[kind](which)
    if one.delegation is None:
        return one.user_id, scope, None
    how, by = one.delegation
    return one.user_id, scope, ByTrust(by) if how == "trust" else ByCredential(by)


def framed(batch: Sequence[Told]) -> bytes:
    """A batch as bytes, for a file or another process."""
    return _encode(batch)


def unframed(content: bytes) -> list[Told]:
    """The batch that `framed` made into bytes. Raises ValueError for rubbish."""
    return _decode_told(content)


class Answers:
    """What this process answers 200, handed on in batches soon after. Implements `fastpath.Answered`."""

    def __init__(
        self,
        known: Sequence[Strategy],
        token_cache_time_s: float,
        hand_on: Callable[[list[Told]], None],
        ahead: Callable[[Told], None] | None = None,
    ) -> None:
        """`ahead`: is told of each before it is answered."""
        self.again_us = int(token_cache_time_s * AGAIN * 1_000_000)
        self._known = known
        self._hand_on = hand_on
        self._ahead = ahead
        self._fresh: list[Told] = []

    def note(self, token: str, verdict: Verdict, asked_by: str) -> None:
        """This token, as it was sent, is about to be answered 200."""
        if not self._fresh:
            asyncio.get_running_loop().call_later(_HAND_ON_S, self.flush)
        one = told(token, verdict, self._known, asked_by)
        if self._ahead is not None:
            self._ahead(one)
        self._fresh.append(one)

    def flush(self) -> None:
        """Hand on what has gathered."""
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._hand_on(fresh)


def _scope(scope: Scope) -> tuple[str, str]:
    match scope:
        case ProjectScope():
            return "project", scope.project_id
        case DomainScope():
            return "domain", scope.domain_id
        case SystemScope():
            return "system", ""
        case Unscoped():
            return "", ""


def _delegation(delegation: Delegation) -> tuple[str, str]:
    match delegation:
        case ByTrust():
            return "trust", delegation.trust_id
        case ByCredential():
            return "credential", delegation.application_credential_id
