"""One figure for everything that a replica holds, so that replicas can be compared across a continent.

Over the rows' bytes as the log carried them, in the order of table and key: equal replicas of any store agree.
"""

import hashlib
from typing import Any

import msgspec

from regional_keystone.ports import Snapshot


async def digest(snapshot: Snapshot) -> tuple[int, str]:
    """The position of a snapshot and the SHA-256, in hex, of all of its rows; nothing is left out."""
    found = hashlib.sha256()
    parts: tuple[Any, ...]
    async for parts in snapshot.rows():
        found.update(msgspec.msgpack.encode(parts))
    return snapshot.position, found.hexdigest()
