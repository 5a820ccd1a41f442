"""Auth methods: from what a client presents to whose identity it proves; and how passwords are hashed.
Separate from issue, which decides what a proven identity may have. Hashing runs in a bounded pool of threads.
"""

import asyncio
import base64
import contextlib
import hmac
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import bcrypt
import msgspec

from regional_keystone.errors import Forbidden, Unauthenticated, Unavailable, expecting
from regional_keystone.model import Project, User
from regional_keystone.ports import Reader
from regional_keystone.token import Principal, SystemScope, Unscoped

T = TypeVar("T")

DEFAULT_ROUNDS = 12
MAX_PASSWORD_BYTES = 4096
_BCRYPT_BYTES = 72  # bcrypt reads no further
_LONG = "$bcrypt-sha256$"
_WAITING = 64
PRIMARY_METHODS = frozenset(["external", "kerberos", "mapped", "openid", "password", "saml2", "token", "totp", "x509"])
"""Methods that prove a user; a token of any other acts for somebody within limits, and makes no other token."""


class _Pool:
    """Threads that hash, as many as cores; refuses work when too much waits, so that a flood cannot pile up."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.busy = 0
        self._room = threading.BoundedSemaphore(threads + waiting)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hash")

    async def run(self, work: Callable[..., T], *args: object) -> T:
        if not self._room.acquire(blocking=False):
            raise Unavailable("Too many passwords are being checked; try again.")
        future: Future[T] = self._threads.submit(work, *args)
        future.add_done_callback(lambda _: self._room.release())
        self.busy += 1
        try:
            return await asyncio.wrap_future(future)
        finally:
            self.busy -= 1


_POOL = _Pool(len(os.sched_getaffinity(0)), _WAITING)


def hashes_waiting() -> int:
    """Password hashes waiting or at work in this process."""
    return _POOL.busy


async def hash_password(text: str, rounds: int = DEFAULT_ROUNDS) -> str:
    """A bcrypt hash that upstream reads; from 72 bytes on by way of HMAC-SHA-256, so that every byte counts.

    Raises Forbidden over 4096 bytes. Source: keystone/common/password_hashers/bcrypt.py.
    """
    password = _bytes(text)
    if len(password) > MAX_PASSWORD_BYTES:
        raise Forbidden(
            f"The password length must be less than or equal to {MAX_PASSWORD_BYTES}. "
            "The server could not comply with the request because the password is invalid."
        )
    return await _POOL.run(_hash, password, rounds)


async def verify_password(text: str, hashed: str | None, rounds: int = DEFAULT_ROUNDS) -> bool:
    """True if `hashed` is this password's hash.

    Takes as long for None (nobody there, or no password), at the cost of `rounds`. Never raises for a hash that is
    unknown or damaged, and nothing but a password of 1 to 4096 bytes is ever right.
    """
    return await _POOL.run(_verify, _bytes(text), hashed, rounds)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash(password: bytes, rounds: int) -> str:
    salt = bcrypt.gensalt(rounds)
    if len(password) < _BCRYPT_BYTES:
        return bcrypt.hashpw(password, salt).decode("ascii")
    digest = bcrypt.hashpw(_condensed(password, salt[-22:]), salt)[-31:]
    return f"{_LONG}v=2,t=2b,r={rounds}${salt[-22:].decode('ascii')}${digest.decode('ascii')}"


def _verify(password: bytes, hashed: str | None, rounds: int) -> bool:
    if hashed is not None and 0 < len(password) <= MAX_PASSWORD_BYTES:
        with contextlib.suppress(ValueError, KeyError):
            return _matches(password, hashed)
    bcrypt.hashpw(password[:_BCRYPT_BYTES], f"$2b${rounds:02}${'.' * 22}".encode("ascii"))
    return False


def _matches(password: bytes, hashed: str) -> bool:
    if not hashed.startswith(_LONG):
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode("ascii"))
    options, salt, digest = hashed.removeprefix(_LONG).split("$")
    option = dict(part.split("=") for part in options.split(","))
    plain = f"${option['t']}${int(option['r']):02}${salt}{digest}"
    return bcrypt.checkpw(_condensed(password, salt.encode("ascii")), plain.encode("ascii"))


def _condensed(password: bytes, salt: bytes) -> bytes:
    return base64.b64encode(hmac.digest(salt, password, "sha256"))


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one method has to go by: its own part of the request, already of the right types, and records to compare.

    `principal` is the caller whom the token in the request proves; `scope_kinds` the keys of the requested scope.
    """

    reader: Reader
    data: Mapping[str, Any]
    rounds: int = DEFAULT_ROUNDS
    now: int = 0
    principal: Principal | None = None
    scope_kinds: frozenset[str] = frozenset()
    may_rescope: bool = True

    def __repr__(self) -> str:
        return f"Evidence({', '.join(self.data)})"


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Whose identity was proven, and what a token made from it inherits."""

    user_id: str
    methods: tuple[str, ...]
    expires_at: int | None = None
    chain_id: str | None = None


Method = Callable[[Evidence], Awaitable[Proof]]


async def by_password(evidence: Evidence) -> Proof:
    """Proves the user that is named by id, or by name and domain, with a password.

    Raises Unauthenticated in the same words and after the same work whether the user, the domain or the password was
    wrong, disabled or expired. Source: keystone/auth/plugins/core.py, password.py.
    """
    said = evidence.data.get("user")
    if said is None:
        raise expecting("user", "None")  # upstream's words
    user = await _user(evidence.reader, said)
    hashed = user.password_hash if user else None
    fits = await verify_password(said.get("password", ""), hashed, evidence.rounds)
    if user is None or not fits or _is_past(user.password_expires_at, evidence.now):
        raise Unauthenticated
    return Proof(user_id=user.id, methods=("password",))


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
        raise Forbidden(f"You are not authorized to perform the requested action: {why}.")
    return Proof(
        user_id=token.user_id,
        methods=("token", *token.methods),
        expires_at=token.expires_at,
        chain_id=token.chain_id,
    )


METHODS: dict[str, Method] = {"password": by_password, "token": by_token}


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
    if token.is_delegated or not token.methods or not PRIMARY_METHODS.issuperset(token.methods):
        return "Using a delegated token to create another token is not allowed."
    if not evidence.may_rescope and not isinstance(token.scope, Unscoped):
        return "rescope a scoped token"
    return ""


async def _user(reader: Reader, said: Mapping[str, Any]) -> User | None:
    """The user that is meant, if that user and the domain are there and enabled."""
    if not said.get("id") and not said.get("name"):
        raise expecting("id or name", "user")
    if not said.get("name"):
        user = await reader.get(User, said["id"])
    else:
        domain_id = await _domain_id(reader, said)
        user = next(iter(await reader.find(User, domain_id=domain_id, name=said["name"])), None) if domain_id else None
    if user is None or not user.enabled:
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


def _is_past(at: int | None, now: int) -> bool:
    return at is not None and at <= now
