"""Password hashes: those of every Keystone are read, new ones are made as it makes them; no password is cut short.

Hashing runs in a bounded pool of threads, off the event loop; what an operator's expression is matched with, in
processes of their own beside it.
Source: keystone/common/password_hashing.py, keystone/common/password_hashers.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import bcrypt
import msgspec

from regional_keystone.errors import Forbidden, Unavailable
from regional_keystone.settings import SCRYPT_MEMORY_BYTES, Identity

T = TypeVar("T")

MAX_PASSWORD_BYTES = 4096
ROUNDS = {"bcrypt": 12, "bcrypt_sha256": 12, "scrypt": 16, "pbkdf2_sha512": 60_000}
"""What each algorithm costs where nothing is said; those of bcrypt and scrypt are powers of two."""
DEFAULT_ROUNDS = ROUNDS["bcrypt"]
_BCRYPT_BYTES = 72  # bcrypt reads no further
_PLAIN = ("$2$", "$2a$", "$2b$", "$2x$", "$2y$")
_LONG, _SCRYPT, _PBKDF2 = "$bcrypt-sha256$", "$scrypt$", "$pbkdf2-sha512$"
_SEVEN = "$7$"  # upstream takes it for another name of its own scrypt; what others write behind it, it cannot read
_SCRYPT_BYTES, _PBKDF2_BYTES = 32, 64
_WAITING = 64
_MATCH_S = 1.0
_MATCH = """
import json, re, sys
expression, text = json.load(sys.stdin)
sys.exit(0 if re.match(expression, text) else 3)
"""
_MATCHES, _DIFFERS = 0, 3


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How new hashes are made. `rounds` None: what the algorithm costs where nothing is said."""

    algorithm: str = "bcrypt"
    rounds: int | None = None
    block_size: int = 8
    parallelism: int = 1
    salt_bytes: int = 16
    max_bytes: int = MAX_PASSWORD_BYTES

    @property
    def cost(self) -> int:
        """The rounds that count."""
        return ROUNDS[self.algorithm] if self.rounds is None else self.rounds


How = Recipe | int
"""A recipe, or the rounds of a bcrypt."""


def recipe(settings: Identity) -> Recipe:
    """The recipe that is configured."""
    return Recipe(
        algorithm=settings.password_hash_algorithm,
        rounds=settings.password_hash_rounds,
        block_size=settings.scrypt_block_size,
        parallelism=settings.scrypt_parallelism,
        salt_bytes=settings.salt_bytesize or 16,
        max_bytes=settings.max_password_length,
    )


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


async def hash_password(text: str, how: How = DEFAULT_ROUNDS) -> str:
    """A hash that upstream reads. A bcrypt is one by way of HMAC-SHA-256 from 72 bytes on, so that every byte counts.

    Raises Forbidden for more than the recipe allows, and Unavailable when too many are being made.
    """
    check_length(text, how)
    return await _POOL.run(_hash, _bytes(text), _recipe(how))


def check_length(text: str, how: How = DEFAULT_ROUNDS) -> None:
    """Raise Forbidden for a new password that is longer than the recipe allows."""
    limit = _recipe(how).max_bytes
    if len(_bytes(text)) > limit:
        raise Forbidden(
            f"The password length must be less than or equal to {limit}. "
            "The server could not comply with the request because the password is invalid."
        )


async def begins_with(expression: str, text: str) -> bool:
    """Whether a password begins with what a regular expression says; one that cannot be matched in a second does not.

    Some expressions take for ever with some passwords, and `re` lets nothing else in this process run meanwhile,
    whatever thread it is in. So another process looks, which is ended when it takes too long. Raises Unavailable.
    """
    return await _POOL.run(_begins_with, expression, text)


def _begins_with(expression: str, text: str) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    asked = json.dumps([expression, text]).encode("ascii")
    try:
        done = subprocess.run(  # noqa: S603  our own words
            command, input=asked, capture_output=True, timeout=_MATCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        raise Unavailable("The password cannot be checked now; try again.") from None
    if done.returncode not in {_MATCHES, _DIFFERS}:
        raise Unavailable("The password could not be checked; try again.")
    return done.returncode == _MATCHES


async def verify_password(text: str, hashed: str | None, how: How = DEFAULT_ROUNDS) -> bool:
    """True if `hashed` is this password's hash.

    Takes as long for None (nobody there, or no password), at the cost of the recipe. Never raises for a hash that is
    unknown or damaged, and nothing but a password of 1 to 4096 bytes is ever right.
    """
    return await _POOL.run(_verify, _bytes(text), hashed, _recipe(how))


def told_by(hashed: str) -> str:
    """How a hash was made, as it says itself, and nothing by which a password could be guessed: `bcrypt, rounds 12`."""
    if hashed.startswith(_PLAIN):
        return f"bcrypt, rounds {hashed.split('$')[2].lstrip('0')}"
    for begins, name in ((_LONG, "bcrypt_sha256"), (_SCRYPT, "scrypt"), (_SEVEN, "scrypt"), (_PBKDF2, "pbkdf2_sha512")):
        if hashed.startswith(begins):
            return f"{name}, {hashed.removeprefix(begins).partition('$')[0]}"
    return "unknown"


def _recipe(how: How) -> Recipe:
    return how if isinstance(how, Recipe) else Recipe(rounds=how)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash(password: bytes, how: Recipe) -> str:
    match how.algorithm:
        case "scrypt":
            salt = os.urandom(how.salt_bytes)
            digest = _scrypt(password, salt, how.cost, how.block_size, how.parallelism)
            return f"{_SCRYPT}ln={how.cost},r={how.block_size},p={how.parallelism}${_shown(salt)}${_shown(digest)}"
        case "pbkdf2_sha512":
            salt = os.urandom(how.salt_bytes)
            digest = hashlib.pbkdf2_hmac("sha512", password, salt, how.cost, _PBKDF2_BYTES)
            return f"{_PBKDF2}{how.cost}${_shown(salt)}${_shown(digest)}"
        case "bcrypt" if len(password) < _BCRYPT_BYTES:
            return bcrypt.hashpw(password, bcrypt.gensalt(how.cost)).decode("ascii")
    begun = bcrypt.gensalt(how.cost)
    salt = begun[-22:]
    digest = bcrypt.hashpw(_condensed(password, salt), begun)[-31:]
    return f"{_LONG}v=2,t=2b,r={how.cost}${salt.decode('ascii')}${digest.decode('ascii')}"


def _verify(password: bytes, hashed: str | None, how: Recipe) -> bool:
    if hashed is not None and 0 < len(password) <= MAX_PASSWORD_BYTES:
        with contextlib.suppress(ValueError, KeyError, OverflowError, MemoryError):
            return _matches(password, hashed)
    _work(password[:_BCRYPT_BYTES], how)
    return False


def _work(password: bytes, how: Recipe) -> None:
    """What a verification costs."""
    salt = bytes(how.salt_bytes)
    match how.algorithm:
        case "scrypt":
            _scrypt(password, salt, how.cost, how.block_size, how.parallelism)
        case "pbkdf2_sha512":
            hashlib.pbkdf2_hmac("sha512", password, salt, how.cost, _PBKDF2_BYTES)
        case _:
            bcrypt.hashpw(password, f"$2b${how.cost:02}${'.' * 22}".encode("ascii"))


def _matches(password: bytes, hashed: str) -> bool:
    """Whether they belong together. Raises ValueError or KeyError for what is no hash."""
    if hashed.startswith(_PLAIN):
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode("ascii"))
    if hashed.startswith(_LONG):
        return _matches_long(password, hashed)
    if hashed.startswith((_SCRYPT, _SEVEN)):
        options, salt, digest = hashed.split("$")[2:]
        option = dict(part.split("=") for part in options.split(","))
        found = _scrypt(password, _read(salt), int(option["ln"]), int(option["r"]), int(option["p"]))
        return hmac.compare_digest(found, _read(digest))
    if hashed.startswith(_PBKDF2):
        rounds, salt, digest = hashed.removeprefix(_PBKDF2).split("$")
        found = hashlib.pbkdf2_hmac("sha512", password, _read(salt), int(rounds), _PBKDF2_BYTES)
        return hmac.compare_digest(found, _read(digest))
    raise ValueError("no known hash")


def _matches_long(password: bytes, hashed: str) -> bool:
    options, salt, digest = hashed.removeprefix(_LONG).split("$")
    if "=" in options:
        option = dict(part.split("=") for part in options.split(","))
        ident, rounds, condensed = option["t"], int(option["r"]), _condensed(password, salt.encode("ascii"))
    else:  # the first version, which an old passlib made: 2a,12
        ident, _, number = options.partition(",")
        rounds, condensed = int(number), base64.b64encode(hashlib.sha256(password).digest())
    return bcrypt.checkpw(condensed, f"${ident}${rounds:02}${salt}{digest}".encode("ascii"))


def _scrypt(password: bytes, salt: bytes, cost: int, block_size: int, parallelism: int) -> bytes:
    if not 0 < cost <= 31 or 128 * 2**cost * block_size > SCRYPT_MEMORY_BYTES:
        raise ValueError("it needs too much memory")
    return hashlib.scrypt(
        password, salt=salt, n=2**cost, r=block_size, p=parallelism, maxmem=2 * SCRYPT_MEMORY_BYTES, dklen=_SCRYPT_BYTES
    )


def _condensed(password: bytes, salt: bytes) -> bytes:
    return base64.b64encode(hmac.digest(salt, password, "sha256"))


def _shown(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _read(text: str) -> bytes:
    """Base64 without padding; `.` is `+` in what passlib made."""
    if len(text) % 4 == 1:
        raise ValueError("no base64")
    return binascii.a2b_base64(text.replace(".", "+") + "=" * (-len(text) % 4))
