"""Feeds in Cassandra: numbered entries without gaps, appended by one conditional batch, read as an unbroken prefix.

A batch lies wholly in the range of its first number; that range's `head` moves on with it and is never removed.
Source: docs/data-model.md, "The log"; docs/feeds.md
"""

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_schema import RANGE, Feeds, Marks, ack_table, own_table, range_of
from regional_keystone.errors import Unavailable, Unknown
from regional_keystone.log import LOG, Entry, decode_entry, encode_entry
from regional_keystone.ports import Clock

BATCH = 1000  # entries that one append may have at most: so far may a batch reach over into the next range
_SETTLE_S = 6.0  # how long an unknown outcome is looked into
_LAST_S = 2.0  # what was begun just before that may take so long
_PAUSE_S = 0.1
_PAGE = 200
_AHEAD_US = 3600 * 1_000_000  # a server's clock, which dates what is appended, may be so far ahead of ours
_RANGES_AT_ONCE = 1000
_EACH = "EACH_QUORUM"


class Levels(NamedTuple):
    """Consistency of each kind of statement; `settle` is for holes that something lies behind, None for never.

    With `far` it is also asked whether something lies behind where nothing follows in the same range.
    """

    read: str
    write: str
    serial: str
    settle: str | None = None
    far: bool = True


EVERYWHERE = Levels("QUORUM", "QUORUM", "SERIAL")


class Mark(NamedTuple):
    """How far a feed is in the tables, how far it was forgotten, and to which position tables are being replaced."""

    applied: int = 0
    pruned: int = 0
    restoring: int = 0


class Log:
    """The feeds of one table, and their marks."""

    def __init__(
        self, driver: Driver, feeds: Feeds, marks: Marks, levels: Levels, clock: Clock, *, size: int = RANGE
    ) -> None:
        self.longest = min(BATCH, size)
        self._driver = driver
        self._feeds = feeds
        self._marks = marks
        self._levels = levels
        self._clock = clock
        self._size = size
        self._newest: dict[str, int] = {}  # of each feed, a range that it has begun: where to look for its end
        self._reading: dict[str, asyncio.Task[int]] = {}
        self._next: dict[str, asyncio.Task[int]] = {}

    async def mark(self, feed: str) -> Mark:
        """The marks of a feed."""
        rows = await self._driver.run(self._marks.get, (feed,), consistency=self._levels.read)
        return Mark(*(value or 0 for value in rows[0])) if rows else Mark()

    async def set_applied(self, feed: str, position: int) -> None:
        """Everything up to here is in the tables; of two marks the higher stays."""
        await self._run(self._marks.applied, (position, position, feed))

    async def set_restoring(self, feed: str, position: int, *, done: bool) -> None:
        """The tables are being replaced by others that stand at this position, or have been."""
        await self._run(self._marks.restoring, (2 * position + done, 0 if done else position, feed))

    async def head(self, feed: str) -> int:
        """The number of the last entry. Whoever asks meanwhile shares the next read, which begins after they asked."""
        task = self._next.get(feed)
        if task is None:
            task = asyncio.create_task(self._head_after(feed, self._reading.get(feed)))
            task.add_done_callback(_noticed)
            self._next[feed] = task
        return await asyncio.shield(task)

    async def append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        """Add entries, all or none, only if the feed ends at `after`. Raises Unavailable, or Unknown."""
        if any(entry.number != number for number, entry in enumerate(entries, after + 1)):
            raise ValueError(f"entries {[entry.number for entry in entries]} do not follow {after} without gaps")
        if len(entries) > self.longest:
            raise ValueError(f"{len(entries)} entries cannot be appended at once, only {self.longest}")
        if not entries:
            return await self.head(feed) == after
        try:
            async with asyncio.timeout(_SETTLE_S + _LAST_S):
                return await self._append(feed, after, entries)
        except TimeoutError:
            raise Unknown from None

    async def _append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        until, doubtful = self._clock.ticks() + _SETTLE_S, False
        while True:
            try:
                if await self._try(feed, after, entries):
                    return True
                doubtful = True  # lost, unless it was our own attempt that won, begun again by the server
                return bool(await self._read_back(feed, entries))
            except Unknown:
                doubtful = True
            except Unavailable:
                if not doubtful:
                    raise
            if self._clock.ticks() > until:
                raise Unknown
            await self._clock.sleep(_PAUSE_S)
            try:
                found = await self._read_back(feed, entries)
            except Unavailable:
                continue
            if found is not None:
                return found
            # it is not there, but may still come: the same is tried again, and only one of both can be applied

    async def tail(self, feed: str, after: int, limit: int) -> list[Entry]:
        """The unbroken prefix of what follows `after`."""
        found: list[Entry] = []
        last = after
        while len(found) < limit:
            asked, place = limit - len(found), range_of(last + 1, self._size)
            rows = await self._slice(feed, last, asked, self._levels.read)
            taken = _unbroken(rows, last)
            levels = self._levels
            if not taken and levels.settle and (rows or (levels.far and await self._behind(feed, place, last))):
                rows = await self._settled(feed, last, asked, levels.settle)
                taken = _unbroken(rows, last)
            if not taken:
                break
            found += taken
            last = taken[-1].number
            if len(taken) == len(rows) < asked and range_of(last + 1, self._size) == place:
                break
        return found

    async def prune(self, feed: str, upto: int) -> None:
        """Forget entries up to this number, which the feed must have reached; never a head."""
        pruned = (await self.mark(feed)).pruned
        if upto <= pruned:
            return
        first = max(range_of(pruned + 1, self._size) - 1, 0)  # the batch before may reach over
        until = min(range_of(upto, self._size), first + _RANGES_AT_ONCE)
        upto = min(upto, (until + 1) * self._size)
        await self._forget(feed, upto, range(first, until + 1))

    async def jump(self, feed: str, position: int) -> bool:
        """Let the feed end at `position`, with nothing before it; False if it has gone beyond. Raises Unavailable."""
        target, old = range_of(position + 1, self._size), (await self.mark(feed)).pruned
        while True:
            place, head = await self._tip(feed)
            if head > position:
                return False
            if head < position:  # whoever stands at the old end cannot append from here on
                await self._move(feed, place, head, position)
            elif place == target or await self._move(feed, target, 0, position):
                break
        first = max(range_of(old + 1, self._size) - 1, 0)
        await self._forget(feed, position, range(first, min(place, first + _RANGES_AT_ONCE) + 1))
        self._newest[feed] = target
        return True

    async def _forget(self, feed: str, upto: int, places: range) -> None:
        at = self._clock.now() + _AHEAD_US
        statements = [(self._feeds.forget, (at, feed, place, upto)) for place in places]
        await self._driver.change(statements, consistency=self._levels.write)
        await self._run(self._marks.pruned, (upto, upto, feed))

    async def _run(self, cql: str, values: Sequence[Any]) -> None:
        await self._driver.run(cql, values, consistency=self._levels.write)

    async def _head_after(self, feed: str, before: asyncio.Task[int] | None) -> int:
        if before is not None:
            await asyncio.wait({before})
        self._reading[feed] = self._next.pop(feed)
        return (await self._tip(feed))[1]

    async def _tip(self, feed: str) -> tuple[int, int]:
        """The newest range that was begun, and its head, which is the feed's.

        Ranges are followed as appends go: from one whose head lies before its end nothing leads on.
        """
        place = self._newest.get(feed)
        if place is None:
            place = await self._somewhere(feed)
        head = await self._head_of(feed, place) or 0
        while (later := range_of(head + 1, self._size)) != place:
            there = await self._head_of(feed, later)
            if there is None:
                break
            place, head = later, there
        if head:
            self._newest[feed] = place
        return place, head

    async def _somewhere(self, feed: str) -> int:
        """A range that was begun, near the newest: from the marks on, galloping."""
        mark = await self.mark(feed)
        known = range_of(max(mark.applied, mark.pruned) + 1, self._size)
        for place in (known, known - 1, known - 2):
            if place >= 0 and await self._head_of(feed, place) is not None:
                break
        else:
            return 0
        step, growing = 1, True
        while step:
            if await self._head_of(feed, place + step) is None:
                step, growing = step // 2, False
            else:
                place, step = place + step, step * 2 if growing else step // 2
        return place

    async def _head_of(self, feed: str, place: int, level: str = "") -> int | None:
        rows = await self._driver.run(self._feeds.head, (feed, place), consistency=level or self._levels.serial)
        return rows[0][2] if rows else None

    async def _try(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        place = range_of(after + 1, self._size)
        inserts = [
            (self._feeds.insert, (feed, place, entry.number, entry.id, entry.at, encode_entry(entry)))
            for entry in entries
        ]
        if after:
            applied, others = await self._decide(
                [(self._feeds.move_head, (entries[-1].number, feed, place, after)), *inserts]
            )
            if applied or (others and others[0].get("head") is not None):
                return applied
            if (await self._tip(feed))[1] != after:  # a range that was not begun is no sign that the one before is full
                return False
        return (await self._decide([(self._feeds.first_head, (entries[-1].number, feed, place)), *inserts]))[0]

    async def _move(self, feed: str, place: int, head: int, position: int) -> bool:
        values = (position, feed, place)
        try:
            if head:
                return (await self._decide([(self._feeds.move_head, (*values, head))]))[0]
            return (await self._decide([(self._feeds.first_head, values)]))[0]
        except Unknown:
            return False  # it is looked at again

    async def _decide(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> tuple[bool, list[dict[str, Any]]]:
        return await self._driver.decide(statements, serial=self._levels.serial, commit=self._levels.write)

    async def _read_back(self, feed: str, entries: Sequence[Entry]) -> bool | None:
        """Whether these very entries are there; None when nothing is. This read ends what was half done."""
        first, last = entries[0].number, entries[-1].number
        place = range_of(first, self._size)
        rows = await self._driver.run(self._feeds.ids, (feed, place, first - 1, last), consistency=self._levels.serial)
        if not rows:
            return None
        return rows == [(entry.number, entry.id) for entry in entries]

    async def _slice(self, feed: str, last: int, limit: int, level: str) -> list[Entry]:
        """What follows `last` in its range; or in the one before, if that one's last batch reaches over."""
        place = range_of(last + 1, self._size)
        rows = await self._rows(feed, place, last, limit, level)
        if (not rows or rows[0].number != last + 1) and place and last % self._size < self.longest:
            before = await self._rows(feed, place - 1, last, limit, level)
            rows = before if before and before[0].number == last + 1 else rows or before
        return rows

    async def _rows(self, feed: str, place: int, last: int, limit: int, level: str) -> list[Entry]:
        pages = self._driver.pages(
            self._feeds.tail, (feed, place, last, limit), consistency=level, page_rows=min(limit, _PAGE)
        )
        return [decode_entry(entry) async for page in pages for _, entry in page]

    async def _behind(self, feed: str, place: int, last: int) -> bool:
        heads = [await self._head_of(feed, one, self._levels.read) for one in (place, place + 1)]
        return any(head is not None and head > last for head in heads)

    async def _settled(self, feed: str, last: int, limit: int, level: str) -> list[Entry]:
        try:
            return await self._slice(feed, last, limit, level)
        except Unavailable:  # cut off from the others: then this is where the prefix ends
            return []


def following(entries: Sequence[Entry], applied: int) -> list[Entry]:
    """What of these is not applied yet. Raises ValueError at a gap."""
    later = [entry for entry in entries if entry.number > applied]
    for number, entry in enumerate(later, applied + 1):
        if entry.number != number:
            raise ValueError(f"entry {entry.number} cannot be applied after {number - 1}")
    return later


async def heads(driver: Driver, site: str) -> dict[str, int]:
    """The number of the last entry of each feed that this site has begun. Raises Unavailable."""
    found: dict[str, int] = {}
    for feed, _, head in await driver.run(Feeds(own_table(site)).heads, consistency="QUORUM"):
        found[feed] = max(found.get(feed, 0), head or 0)
    return found


async def forget_mark(driver: Driver, site: str) -> int:
    """Forget to where this site has verified its data centre, and return it: it reads everything once more.

    Every data centre is asked and told, since the site alone wrote it, in its own. Raises Unavailable.
    """
    marks, values = Marks(ack_table(site)), (LOG,)
    rows = await driver.run(marks.applied_at, values, consistency=_EACH)
    applied, at = rows[0] if rows else (None, None)
    if applied is None:
        return 0
    await driver.run(marks.forget, (at, *values), consistency=_EACH)
    if any(left is not None for left, _ in await driver.run(marks.applied_at, values, consistency=_EACH)):
        raise Unavailable(f"{site} went on meanwhile; stop its processes and run it again.")
    return int(applied)


def _unbroken(rows: Sequence[Entry], last: int) -> list[Entry]:
    return [entry for _, entry in takewhile(lambda one: one[0] == one[1].number, enumerate(rows, last + 1))]


def _noticed(task: asyncio.Task[int]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits has it; nobody may be waiting
