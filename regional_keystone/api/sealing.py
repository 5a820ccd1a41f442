"""Secrets that the API keeps for others: sealed with the credential ring before they are stored.

Below the tables that have such secrets. Source: keystone/credential/providers/fernet/core.py.
"""

from typing import Protocol

from regional_keystone.api.shapes import Call
from regional_keystone.blobs import Unreadable, open_blob, seal_blob
from regional_keystone.errors import Unavailable
from regional_keystone.holder import CREDENTIAL
from regional_keystone.keys import KeyRing
from regional_keystone.model import Ring

_NONE = "There are no keys for credentials yet."


class Keys(Protocol):
    """The ring that secrets are sealed with, as this process holds it."""

    @property
    def ring(self) -> KeyRing:
        """The one in use. Raises Unavailable before the first has arrived."""
        ...

    async def holding(self, epoch: int) -> KeyRing:
        """The one of at least this epoch. Raises Unavailable if it does not come soon."""
        ...


async def seal(call: Call, keys: Keys | None, text: str) -> tuple[bytes, str]:
    """The text sealed, and the name of the key. The ring is read in the transaction, which collides with a turn of it.

    Raises Unavailable where there are no keys.
    """
    record = await call.reader.get(Ring, CREDENTIAL)
    if keys is None or record is None:
        raise Unavailable(_NONE, retry_after_s=2)
    return seal_blob(await keys.holding(record.epoch), text)


def opened(keys: Keys | None, sealed: bytes, what: str) -> str:
    """The text that was sealed. Raises Unavailable, naming it, where no key that is held opens it."""
    if keys is None:
        raise Unavailable(_NONE, retry_after_s=2)
    try:
        return open_blob(keys.ring, sealed)
    except Unreadable:
        raise Unavailable(f"No key that is held here opens {what}.", retry_after_s=2) from None
