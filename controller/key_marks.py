"""How operators are shown that a key was condemned: a state that outweighs every other, since when, and by whom."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from regional_keystone.model import Condemned
from regional_keystone.ports import Reader

CONDEMNED = "condemned"

Marks: TypeAlias = Mapping[str, Condemned]
"""Every key that was condemned, by its id."""


async def marks(reader: Reader) -> dict[str, Condemned]:
    """What is known to be condemned, wherever that was done."""
    return {one.id: one async for one in reader.scan(Condemned)}


def mark(id_: str, known: Marks) -> dict[str, Any]:
    """What is shown of this key instead of its state; nothing for one that is as good as ever."""
    one = known.get(id_)
    return {} if one is None else {"state": CONDEMNED, "condemned_at": one.at}


def listed(known: Marks) -> list[dict[str, Any]]:
    """All of them, the newest first: also those that are in no ring any more, or never were."""
    return [
        {
            "id": one.id,
            "ring": one.ring,
            "condemned_at": one.at,
            "by": one.by,
            "confirmed_by": one.confirmed_by,
            "place": one.place,
            "why": one.why,
        }
        for one in sorted(known.values(), key=lambda one: (-one.at, one.id))
    ]
