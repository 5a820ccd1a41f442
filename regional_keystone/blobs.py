"""The secrets of credentials at rest: text sealed with the credential ring, as Keystone does it.

Separate from keys, because these are whole Fernet tokens of any length, whose spelling nobody compares.
Source: keystone/credential/providers/fernet/core.py.
"""

import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from regional_keystone.keys import KeyRing


class Unreadable(Exception):
    """No key of the ring has sealed this."""


def key_hash(key: bytes) -> str:
    """By which name a row tells what it is sealed with: upstream's, so that rows of a Keystone keep theirs."""
    return hashlib.sha1(key, usedforsecurity=False).hexdigest()


def primary_hash(ring: KeyRing) -> str:
    """The name of the key that seals."""
    return key_hash(ring.numbers[ring.primary])


def seal_blob(ring: KeyRing, text: str) -> tuple[bytes, str]:
    """The text sealed with the primary key, and the name of that key."""
    return Fernet(ring.numbers[ring.primary]).encrypt(text.encode()), primary_hash(ring)


def open_blob(ring: KeyRing, sealed: bytes) -> str:
    """The text that any key of the ring has sealed. Raises Unreadable."""
    try:
        return MultiFernet([Fernet(key) for key in ring.numbers.values()]).decrypt(sealed).decode()
    except InvalidToken:
        raise Unreadable from None
