"""Facts that the processes of a region share through a cache which nobody has to trust.

What is shared is what a user has in a scope, without catalog and without verdict: each process opens the token itself,
asks for revocations itself, and takes a fact only if it knows of everything that has changed since it was read.
Source: docs/adr/0018-a-cache-that-cannot-lie.md.
"""

import asyncio
import hmac
import os
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from regional_keystone import __version__, durable, secret_file
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.fastpath import Facts, Knowledge, Memory
from regional_keystone.ports import Cache, Clock
from regional_keystone.record import Touch
from regional_keystone.token import Named, Scope

FORMAT: Final = 1
RESULTS: Final = ("hit", "miss", "garbage", "foreign", "old", "ahead", "stale")
"""What a look-up can come to; all but the first are misses."""

REPAIRED: Final = "repaired"
"""The file in a site's directory that says up to which position facts may have been made of rows that were wrong."""

_SKEW_US = 60_000_000
_SECRET_BYTES = 32
_WAITING = 1000  # facts that may wait to be written; more are not shared this time
_WRITERS = 256  # processes whose keys are remembered
_encode = msgspec.msgpack.Encoder().encode


class Foreign(Exception):
    """Sealed for another region, cluster, version or format."""


class Garbage(Exception):
    """Nothing that anybody who has the secret has sealed under this name."""


class Opened(msgspec.Struct, frozen=True):
    """What was sealed, and the position and time at which it was."""

    position: int
    at: int
    content: bytes


class Seal:
    """Seals entries of one region under a secret, each for its name, position and time.

    Every process seals with a key of its own, derived from a random salt that goes with the entry, and counts its
    nonces: no two entries ever have key and nonce in common, however many processes there are and how long they live.
    """

    _HEADER: Final = Struct(">B8s16sQQQ")  # format, whose, salt, number, position, time

    def __init__(self, secret: bytes, *, region: str, cluster: str, version: str = __version__) -> None:
        bound = _encode(("shared facts", FORMAT, version, region, cluster))
        keys = HKDF(SHA256(), 72, salt=None, info=bound).derive(secret)
        self._master, self._naming, self._whose = keys[:32], keys[32:64], keys[64:]
        self._salt = os.urandom(16)
        self._own = self._key(self._salt)
        self._numbers: Iterator[int] = count()
        self._others: dict[bytes, AESGCM] = {}

    def name(self, *parts: str | None) -> str:
        """The name of an entry; it tells nothing about the parts to whoever lacks the secret."""
        return hmac.digest(self._naming, _encode(parts), "sha256")[:20].hex()

    def seal(self, name: str, position: int, at: int, content: bytes) -> bytes:
        """An entry that opens under this name only."""
        number = next(self._numbers)
        header = self._HEADER.pack(FORMAT, self._whose, self._salt, number, position, at)
        return header + self._own.encrypt(_nonce(number), content, header + name.encode())

    def open(self, name: str, entry: bytes) -> Opened:
        """What was sealed under this name. Raises Foreign and Garbage."""
        size = self._HEADER.size
        if len(entry) < size + 16:
            raise Garbage
        header = entry[:size]
        form, whose, salt, number, position, at = self._HEADER.unpack(header)
        if form != FORMAT or whose != self._whose:
            raise Foreign
        try:
            content = self._of(salt).decrypt(_nonce(number), entry[size:], header + name.encode())
        except InvalidTag:
            raise Garbage from None
        return Opened(position, at, content)

    def _of(self, salt: bytes) -> AESGCM:
        if salt == self._salt:
            return self._own
        found = self._others.get(salt)
        if found is None:
            if len(self._others) >= _WRITERS:
                self._others.clear()
            found = self._others[salt] = self._key(salt)
        return found

    def _key(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._master, salt, "sha256"))


class _Content(msgspec.Struct, frozen=True, array_like=True):
    """The part of `Facts` that is shared: what needs the store to be known."""

    who: Named
    home_id: str
    project: Named | None
    domain: Named | None
    roles: tuple[Named, ...]
    user: bytes
    rest: bytes
    reads: list[list[Any]]


_decode = msgspec.msgpack.Decoder(_Content).decode


class SharedFacts:
    """Facts of the other processes of the region, as far as they can be proven here, and ours for them.

    `lookups` counts by `RESULTS`. Nothing here raises, and nothing that is offered delays who offers it.
    """

    def __init__(
        self,
        cache: Cache,
        seal: Seal,
        memory: Memory,
        knowledge: Knowledge,
        *,
        clock: Clock,
        ttl_s: float,
        repaired: int = 0,
    ) -> None:
        """Facts of position `repaired` or before may have been made of wrong rows, and no entry tells which."""
        self.lookups: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._cache = cache
        self._seal = seal
        self._memory = memory
        self._knowledge = knowledge
        self._clock = clock
        self._ttl_s = ttl_s
        self._repaired = repaired
        self._waiting: dict[str, bytes] = {}
        self._writing: asyncio.Task[None] | None = None

    async def recall(self, user_id: str, scope: Scope) -> Facts | None:
        """What another process found, without its catalog, if it certainly holds now; else None."""
        name = self._name(user_id, scope)
        entry = (await self._cache.get_many([name])).get(name)
        result, facts = ("miss", None) if entry is None else self._judged(name, entry, (user_id, scope))
        self.lookups[result] += 1
        return facts

    def offer(self, user_id: str, scope: Scope, facts: Facts) -> None:
        """Share these facts, without their catalog, when there is time for it."""
        if len(self._waiting) >= _WAITING:
            return
        name = self._name(user_id, scope)
        self._waiting[name] = self._seal.seal(name, facts.position, self._clock.now(), _written(facts))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Let go of the cache; what was not written by now is not shared."""
        self._waiting.clear()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        await self._cache.close()

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            await self._cache.set_many(batch, self._ttl_s)

    def _name(self, user_id: str, scope: Scope) -> str:
        return self._seal.name(user_id, type(scope).__name__, *msgspec.structs.astuple(scope))

    def _judged(self, name: str, entry: bytes, key: object) -> tuple[str, Facts | None]:
        try:
            opened = self._seal.open(name, entry)
            content = _decode(opened.content)
        except Foreign:
            return "foreign", None
        except (Garbage, msgspec.DecodeError):
            return "garbage", None
        return self._dated(opened, _read(content, key, opened.position))

    def _dated(self, opened: Opened, facts: Facts) -> tuple[str, Facts | None]:
        """Whether what was true at its position is known to be true here and now.

        One from beyond our own position is refused: with our older revocations it would make an answer that was never
        true anywhere.
        """
        age_us = self._clock.now() - opened.at
        if age_us > self._ttl_s * 1_000_000 or age_us < -_SKEW_US or not self._memory.covers(opened.position):
            return "old", None
        if opened.position <= self._repaired:
            return "old", None
        if opened.position > self._knowledge.position:
            return "ahead", None
        return ("hit", facts) if self._memory.holds(facts) else ("stale", None)


def cache_secret(path: Path) -> bytes:
    """The secret of the region's cache, made if there is none. Raises StoreRefused if it is no secret."""
    try:
        durable.keep(path, lambda: os.urandom(_SECRET_BYTES).hex().encode() + b"\n")
    except OSError as error:
        raise StoreRefused(f"{path}: {error.strerror}; it should hold the secret of the region's cache") from None
    secret = secret_file.read(path, "cache's secret").encode()
    if len(secret) < _SECRET_BYTES:
        raise StoreRefused(f"{path}: shorter than {_SECRET_BYTES} bytes; openssl rand -hex {_SECRET_BYTES} > {path}")
    return secret


async def note_repair(path: Path, position: int) -> None:
    """No process that begins from now on believes facts of this position or before. Raises Unavailable."""
    try:
        await asyncio.to_thread(durable.write, path, str(position).encode())
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None


def repaired_at(path: Path) -> int:
    """What was noted last; 0 where nothing was. Of a file that says nothing all facts are to be doubted."""
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        return 2**63


def _written(facts: Facts) -> bytes:
    return _encode(
        _Content(
            who=facts.who,
            home_id=facts.home_id,
            project=facts.project,
            domain=facts.domain,
            roles=facts.roles,
            user=facts.user,
            rest=facts.rest,
            reads=[list(touch) for touch in facts.reads],
        )
    )


def _read(content: _Content, key: object, position: int) -> Facts:
    return Facts(
        key,
        frozenset(map(_touch, content.reads)),
        position,
        who=content.who,
        home_id=content.home_id,
        project=content.project,
        domain=content.domain,
        roles=content.roles,
        user=content.user,
        rest=content.rest,
        catalog=b"",
    )


def _touch(parts: list[Any]) -> Touch:
    """A touch as it was: msgpack knows no tuples, and a touch has them at most one inside another."""
    return tuple(tuple(part) if isinstance(part, list) else part for part in parts)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
