"""What the log says of records, as far back as it reaches: by that it is known what a row should be.

Source: ADR 39.
"""

from collections.abc import AsyncIterator, Callable, Collection
from typing import TypeAlias

from regional_keystone.drift import Said
from regional_keystone.log import LOG, Entry, Put, net
from regional_keystone.ports import Writer
from regional_keystone.record import Key

_PAGE = 500
Named: TypeAlias = tuple[str, Key]
"""Table and key of a record."""


class LogTruth:
    """Asks the log of a store. Raises Unavailable where that cannot be read."""

    def __init__(self, store: Writer) -> None:
        self._store = store

    async def at(self, named: Named, number: int) -> Said | None:
        """What this entry made of a record; None where it says nothing of it, or is forgotten."""
        entries = await self._store.tail(LOG, number - 1, 1)
        return _said(entries[0]).get(named) if entries and entries[0].number == number else None

    async def newest(self, wanted: Collection[Named], upto: int, most: int) -> tuple[dict[Named, Said], bool]:
        """What the last entry that touched each of these made of it, and whether the log was read to its beginning.

        No more than `most` entries are looked at, back from `upto`.
        """
        found, missing, last = dict[Named, Said](), set(wanted), upto
        async for entries in self._back(upto, most):
            last = entries[0].number
            for entry in reversed(entries):
                for named, said in _said(entry).items():
                    if named in missing:
                        missing.remove(named)
                        found[named] = said
            if not missing:
                return found, False
        return found, last <= 1

    async def touched(self, after: int, upto: int, most: int, wanted: Callable[[str, Key], bool]) -> dict[Named, Said]:
        """What the last of the entries after one, up to another, made of each record that is `wanted`."""
        found = dict[Named, Said]()
        async for entries in self._back(upto, min(most, upto - after)):
            for entry in reversed(entries):
                for named, said in _said(entry).items():
                    if wanted(*named):
                        found.setdefault(named, said)
        return found

    async def _back(self, upto: int, most: int) -> AsyncIterator[list[Entry]]:
        """Stretches of entries from `upto` back, until so many were read or the log has forgotten what was before."""
        end, least = upto, max(0, upto - most)
        while end > least:
            begin = max(least, end - _PAGE)
            entries = [one for one in await self._store.tail(LOG, begin, end - begin) if one.number <= end]
            if not entries or entries[0].number != begin + 1:
                entries = await self._kept(begin, end)
            if not entries:
                return
            yield entries
            if entries[0].number != begin + 1:
                return
            end = begin

    async def _kept(self, begin: int, end: int) -> list[Entry]:
        """What is left of a stretch of which the beginning was forgotten: found by halving."""
        while begin + 1 < end:
            middle = (begin + end) // 2
            if await self._store.tail(LOG, middle, 1):
                end = middle
            else:
                begin = middle
        return await self._store.tail(LOG, end, _PAGE)


def _said(entry: Entry) -> dict[Named, Said]:
    return {
        (one.table, one.key): Said(entry.number, one.row if isinstance(one, Put) else None)
        for one in net(entry.changes)
    }
