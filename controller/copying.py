"""Moves a federation's records from one store to another: a snapshot at a position, then the entries after it.

Positions, ids and keys stay what they are, so sites and clients notice nothing. May be broken off and run again.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from regional_keystone.digest import digest
from regional_keystone.errors import StoreRefused
from regional_keystone.log import LOG
from regional_keystone.ports import Writer

BATCH = 100
_TELL_EVERY = 500
_ATTEMPTS = 5  # while a controller goes on writing to the source
Row = tuple[str, tuple[Any, ...], bytes]


class Copied(NamedTuple):
    """What was done: `digest` is that of both stores at `position`."""

    position: int
    rows: int
    entries: int
    digest: str


async def copy(source: Writer, target: Writer, tell: Callable[[str], None]) -> Copied:
    """Bring `target` to where `source` stands, and prove that both hold the same.

    Raises StoreRefused when the target has what the source never had.
    """
    reached, head = await target.applied(LOG), await source.head(LOG)
    if reached > head:
        raise StoreRefused(
            f"the target stands at {reached}, beyond the source's {head}; copy the other way, or empty it"
        )
    if reached:
        await _same_past(source, target, reached)
    rows = 0 if reached and await _reaches_back(source, reached, head) else await _rows(source, target, tell)
    entries = 0
    for _ in range(_ATTEMPTS):
        entries += await _entries(source, target, tell)
        tell("comparing both stores")
        here, there = await _digest(source), await _digest(target)
        if here == there:
            return Copied(there[0], rows, entries, there[1])
        if here[0] == there[0]:
            break
    raise StoreRefused(
        f"the stores differ: position {here[0]}, digest {here[1]} and position {there[0]}, digest {there[1]};"
        " end whatever writes to them and copy into an empty target"
    )


async def _same_past(source: Writer, target: Writer, reached: int) -> None:
    """Refuse a target whose last entry is another one than the source's at that position."""
    mine, its = await source.tail(LOG, reached - 1, 1), await target.tail(LOG, reached - 1, 1)
    if mine and its and mine[0].id != its[0].id:
        raise StoreRefused(f"the stores have different entries at position {reached}: they are of two federations")


async def _reaches_back(source: Writer, reached: int, head: int) -> bool:
    return reached == head or bool(await source.tail(LOG, reached, 1))


async def _rows(source: Writer, target: Writer, tell: Callable[[str], None]) -> int:
    count = 0
    async with source.snapshot() as snapshot:

        async def counted() -> AsyncIterator[Row]:
            nonlocal count
            async for row in snapshot.rows():
                count += 1
                if count % _TELL_EVERY == 0:
                    tell(f"{count} rows, in {row[0]}")
                yield row

        await target.restore(snapshot.position, counted())
    return count


async def _entries(source: Writer, target: Writer, tell: Callable[[str], None]) -> int:
    reached, first = await target.head(LOG), await target.applied(LOG)
    await target.apply(await target.tail(LOG, first, reached - first) if reached > first else [])
    count = 0
    while entries := await source.tail(LOG, reached, BATCH):
        if not await target.append(LOG, reached, entries):
            raise StoreRefused("something else writes to the target; end it and copy again")
        await target.apply(entries)
        reached, count = entries[-1].number, count + len(entries)
        tell(f"{count} entries, up to position {reached}")
    return count


async def _digest(store: Writer) -> tuple[int, str]:
    async with store.snapshot() as snapshot:
        return await digest(snapshot)
