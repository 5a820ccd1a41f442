"""Moves a federation's records from one store to another: a snapshot at a position, then the entries after it.

Positions, ids and keys stay what they are, so sites and clients notice nothing. May be broken off and run again.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from regional_keystone.bundle import BundleRefused, read_header
from regional_keystone.digest import digest
from regional_keystone.errors import StoreRefused
from regional_keystone.holder import TOKEN
from regional_keystone.log import LOG
from regional_keystone.model import Ring
from regional_keystone.ports import Snapshot, Writer

BATCH = 100
_TELL_EVERY = 500
_ATTEMPTS = 5  # while a controller goes on writing to the source
Row = tuple[str, tuple[Any, ...], bytes]
Tell = Callable[[str, int, int | None], None]
"""Tells what is being done, how much of it is done, and of how much; None when nobody can know."""


class Differ(Exception):
    """Both stores are at rest, and do not hold the same. The sentence names positions, digests and the cure."""


class Copied(NamedTuple):
    """What was done: `digest` is that of both stores at `position`."""

    position: int
    rows: int
    entries: int
    digest: str


async def copy(source: Writer, target: Writer, tell: Tell) -> Copied:
    """Bring `target` to where `source` stands, and prove that both hold the same.

    Raises StoreRefused, before anything is written, when the target has what the source never had or what nobody can
    compare; Differ when both are not the same at the end.
    """
    goes_on = await _may_go_on(source, target)
    rows = 0 if goes_on else await _rows(source, target, tell)
    entries = 0
    for _ in range(_ATTEMPTS):
        entries += await _entries(source, target, tell)
        tell("comparing both stores", 0, None)
        here, there = await _digest(source), await _digest(target)
        if here == there:
            return Copied(there[0], rows, entries, there[1])
        if here[0] == there[0]:
            break
    raise Differ(
        f"the stores differ: position {here[0]}, digest {here[1]} and position {there[0]}, digest {there[1]};"
        " end whatever writes to them and copy into an empty target"
    )


async def _may_go_on(source: Writer, target: Writer) -> bool:
    """Whether entries alone bring the target on, rather than a snapshot. Raises StoreRefused when neither may be."""
    applied, reached, head = await target.applied(LOG), await target.head(LOG), await source.head(LOG)
    ours, theirs = await _federation(source, "source"), await _federation(target, "target")
    if ours and theirs and ours != theirs:
        raise StoreRefused(
            f"the target is of another federation: {theirs}, and the source of {ours}; nothing is written."
            " Name an empty target, or the right one"
        )
    whole = reached <= applied or bool(await target.tail(LOG, applied, 1))
    if not applied and not theirs and (not reached or not whole):
        return False  # empty, or nothing but what a broken-off copy has left
    if reached > head or applied > head:
        raise StoreRefused(
            f"the target stands at {max(reached, applied)}, beyond the source's {head}; copy the other way, or empty it"
        )
    common = await _same_entry(source, target, reached)
    if common is False:
        raise StoreRefused(
            f"the stores have different entries at position {reached}: they are of two federations, or were both"
            " written to; nothing is written"
        )
    if common is None and not (ours and theirs):
        raise StoreRefused(
            f"nothing tells whether the target, at {reached}, is a copy of the source: its keys and a common entry of"
            " the log are missing; nothing is written. Copy into an empty target"
        )
    return bool(applied) and whole and (reached == head or bool(await source.tail(LOG, reached, 1)))


async def _federation(store: Writer, which: str) -> str | None:
    """The federation whose keys are in the store, None before it has any."""
    ring = await store.get(Ring, TOKEN)
    if ring is None or not ring.sealed:
        return None
    try:
        return read_header(next(iter(ring.sealed.values()))).cluster
    except BundleRefused:
        raise StoreRefused(f"the {which} holds keys that are no bundle: it is damaged; nothing is written") from None


async def _same_entry(source: Writer, target: Writer, number: int) -> bool | None:
    """Whether both logs have the same entry there; None when one of them has forgotten it."""
    mine, its = await source.tail(LOG, number - 1, 1), await target.tail(LOG, number - 1, 1)
    return mine[0].id == its[0].id if mine and its else None


async def _rows(source: Writer, target: Writer, tell: Tell) -> int:
    tell("reading the source", 0, None)
    count = 0
    async with source.snapshot() as snapshot:
        total = await _count(snapshot)

        async def counted() -> AsyncIterator[Row]:
            nonlocal count
            async for row in snapshot.rows():
                count += 1
                if count % _TELL_EVERY == 0 or count == total:
                    tell("rows", count, total)
                yield row
            tell("putting the rows in their place", 0, None)

        await target.restore(snapshot.position, counted())
    return count


async def _count(snapshot: Snapshot) -> int:
    count = 0
    async for _ in snapshot.rows():
        count += 1
    return count


async def _entries(source: Writer, target: Writer, tell: Tell) -> int:
    reached, first = await target.head(LOG), await target.applied(LOG)
    await target.apply(await target.tail(LOG, first, reached - first) if reached > first else [])
    count, total = 0, await source.head(LOG) - reached
    while entries := await source.tail(LOG, reached, BATCH):
        if not await target.append(LOG, reached, entries):
            raise StoreRefused("something else writes to the target; end it and copy again")
        await target.apply(entries)
        reached, count = entries[-1].number, count + len(entries)
        tell("entries", count, max(count, total))
    return count


async def _digest(store: Writer) -> tuple[int, str]:
    async with store.snapshot() as snapshot:
        return await digest(snapshot)
