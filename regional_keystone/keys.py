"""Keys and sealing: one spelling of a token's text, and the ring that seals payloads and opens them again.
Separate from token, which is content, and from key_directory, which keeps a ring on disk; this does no I/O.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from regional_keystone.payload import LAST_SECOND, NoKeyFits, NotAToken

MAX_TEXT_BYTES = 4096
"""The longest text that is looked at."""

_SPELLING = re.compile(r"([A-Za-z0-9_-]+)(={0,2})", re.ASCII)
# By length modulo 4: the padding, and the last characters whose unused bits are zero. A length of 1 cannot be.
_LAST = {0: ("", None), 2: ("==", frozenset("AQgw")), 3: ("=", frozenset("AEIMQUYcgkosw048"))}
_VERSION = b"\x80"
_HEAD_BYTES = 25  # version, time, initialisation vector
_MAC_BYTES = 32
_BLOCK_BYTES = 16


def spelling(text: str) -> str:
    """The one spelling of a token's text: URL-safe base64 without padding; correct padding is taken off.

    Raises NotAToken for every other way to write the same bytes, before any of them is looked at.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise NotAToken("too long")
    match = _SPELLING.fullmatch(text)
    if match is None:
        raise NotAToken("not URL-safe base64")
    canonical, padding = match.groups()
    right_padding, last = _LAST.get(len(canonical) % 4, (None, None))
    if right_padding is None or padding not in ("", right_padding) or (last is not None and canonical[-1] not in last):
        raise NotAToken("not the canonical spelling")
    return str(canonical)


def digest(text: str) -> bytes:
    """Names a token without showing it: SHA-256 of its canonical spelling, 32 bytes. Raises NotAToken."""
    return hashlib.sha256(spelling(text).encode("ascii")).digest()


def check_value(key: bytes) -> str:
    """Names a key and is safe to show: 16 hex characters of a one-way digest."""
    return hashlib.sha256(b"regional-keystone key check value 1\x00" + key).hexdigest()[:16]


def ring_fingerprint(checks: Mapping[int, str]) -> str:
    """Names a ring by the check values of its keys under their numbers; 32 hex characters."""
    text = "".join(f"{number}:{checks[number]}\n" for number in sorted(checks, reverse=True))
    return hashlib.sha256(b"regional-keystone ring 1\x00" + text.encode()).hexdigest()[:32]


def check_key(key: bytes) -> None:
    """Raises ValueError if this is no Fernet key in its one spelling, 44 characters."""
    try:
        raw = base64.b64decode(key, b"-_", validate=True)
    except binascii.Error:
        raise ValueError("a key is URL-safe base64") from None
    if len(raw) != 32 or base64.urlsafe_b64encode(raw) != key:
        raise ValueError("a key is 32 bytes, written with 44 characters")


class _Lock(NamedTuple):
    """A key made ready: the half that signs and the half that encrypts."""

    number: int
    signing: bytes
    cipher: algorithms.AES128

    def __repr__(self) -> str:
        return f"_Lock({self.number})"

    @classmethod
    def of(cls, number: int, key: bytes) -> "_Lock":
        raw = base64.urlsafe_b64decode(key)
        return cls(number, raw[:16], algorithms.AES128(raw[16:]))

    def seal(self, payload: bytes, seconds: int, iv: bytes) -> bytes:
        room = _BLOCK_BYTES - len(payload) % _BLOCK_BYTES
        encryptor = Cipher(self.cipher, modes.CBC(iv)).encryptor()
        content = encryptor.update(payload + bytes([room]) * room) + encryptor.finalize()
        sealed = _VERSION + seconds.to_bytes(8, "big") + iv + content
        return sealed + hmac.digest(self.signing, sealed, "sha256")

    def fits(self, sealed: bytes) -> bool:
        expected = hmac.digest(self.signing, sealed[:-_MAC_BYTES], "sha256")
        return hmac.compare_digest(expected, sealed[-_MAC_BYTES:])

    def open(self, sealed: bytes) -> bytes:
        decryptor = Cipher(self.cipher, modes.CBC(sealed[9:_HEAD_BYTES])).decryptor()
        padded = decryptor.update(sealed[_HEAD_BYTES:-_MAC_BYTES]) + decryptor.finalize()
        room = padded[-1]
        if not 1 <= room <= _BLOCK_BYTES or padded[-room:] != bytes([room]) * room:
            raise NotAToken("the content is not padded")
        return padded[:-room]


class KeyRing:
    """Immutable keys by number with an epoch: the highest number seals, 0 is staged to be next, all of them open.

    A site one rotation behind can open what one ahead has sealed, because it holds that key as its staged one.
    Raises ValueError unless there is a 0 and all keys are well-formed and different. Shows no key in its repr.
    """

    __slots__ = ("_locks", "epoch", "ids", "key_ids", "numbers")

    numbers: Mapping[int, bytes]
    key_ids: Mapping[int, str]
    """Number -> check value of each key, highest first; safe to show."""
    ids: frozenset[str]
    """The same without their numbers."""
    epoch: int
    _locks: tuple[_Lock, ...]

    def __init__(self, numbers: Mapping[int, bytes], epoch: int = 0) -> None:
        if 0 not in numbers or min(numbers) < 0 or epoch < 0:
            raise ValueError("a ring has a staged key 0, and no number below")
        if len(set(numbers.values())) != len(numbers):
            raise ValueError("a ring has every key once")
        for key in numbers.values():
            check_key(key)
        descending = sorted(numbers.items(), reverse=True)
        object.__setattr__(self, "numbers", MappingProxyType(dict(descending)))
        object.__setattr__(self, "key_ids", MappingProxyType({number: check_value(key) for number, key in descending}))
        object.__setattr__(self, "ids", frozenset(self.key_ids.values()))
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "_locks", tuple(_Lock.of(number, key) for number, key in descending))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a ring never changes")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyRing) and (self.epoch, self.numbers) == (other.epoch, other.numbers)

    def __hash__(self) -> int:
        return hash((self.epoch, self.fingerprint))

    def __repr__(self) -> str:
        return f"KeyRing(epoch={self.epoch}, {self.check_values()})"

    @property
    def primary(self) -> int:
        """The number of the key that seals: the highest."""
        return max(self.numbers)

    @property
    def staged(self) -> bytes:
        """The key that will seal after the next rotation, number 0."""
        return self.numbers[0]

    def check_values(self) -> dict[int, str]:
        """Number -> check value of each key, highest first; safe to show."""
        return dict(self.key_ids)

    @property
    def fingerprint(self) -> str:
        """Equal exactly for rings with the same keys under the same numbers, at any epoch; 32 hex characters."""
        return ring_fingerprint(self.check_values())

    def seal(self, payload: bytes, issued_at: int, iv: bytes | None = None, number: int | None = None) -> str:
        """Seals under the primary key, or the one of this `number`; canonical text that a Keystone with the key opens.

        Its time is the whole seconds of `issued_at`. `iv` is 16 random bytes unless a test needs them known.
        """
        lock = self._locks[0] if number is None else next(one for one in self._locks if one.number == number)
        sealed = lock.seal(payload, issued_at // 1_000_000, iv or os.urandom(_BLOCK_BYTES))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def open(self, text: str) -> tuple[bytes, int, int]:
        """The payload, its `issued_at` (whole seconds), and the number of the key that fits.

        Raises NotAToken, NoKeyFits among them.
        """
        canonical = spelling(text)
        sealed = base64.urlsafe_b64decode(canonical + "=" * (-len(canonical) % 4))
        content_bytes = len(sealed) - _HEAD_BYTES - _MAC_BYTES
        if sealed[:1] != _VERSION or content_bytes < _BLOCK_BYTES or content_bytes % _BLOCK_BYTES:
            raise NotAToken("not sealed as Fernet does it")
        seconds = int.from_bytes(sealed[1:9], "big")
        lock = next((lock for lock in self._locks if lock.fits(sealed)), None)
        if seconds > LAST_SECOND:
            raise NotAToken("it is of another age")
        if lock is None:
            raise NoKeyFits(seconds * 1_000_000)
        return lock.open(sealed), seconds * 1_000_000, lock.number

    def rotated(self, fresh: bytes, retire: Collection[int] = ()) -> "KeyRing":
        """The ring of the next epoch: the staged key seals, `fresh` is staged, the numbers in `retire` are gone.

        A retired number that is not there is no error. Raises ValueError if 0 or the present primary is to retire.
        """
        numbers = self._without(retire) | {self.primary + 1: self.staged, 0: fresh}
        return KeyRing(numbers, self.epoch + 1)

    def without(self, numbers: Collection[int]) -> "KeyRing":
        """The ring of the next epoch with these keys gone and the same primary, for a key that was stolen.

        Raises ValueError if 0 or the primary is among them: those have to be rotated away first.
        """
        return KeyRing(self._without(numbers), self.epoch + 1)

    def _without(self, retire: Collection[int]) -> dict[int, bytes]:
        if self.primary in retire or 0 in retire:
            raise ValueError("neither the staged key nor the primary can be retired")
        return {number: key for number, key in self.numbers.items() if number not in retire}
