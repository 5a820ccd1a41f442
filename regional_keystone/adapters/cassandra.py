"""The store in Cassandra: a controller's, which writes log and tables, and a site's, which reads its data centre alone.

Tables may be behind the log and rows ahead of the mark; positions in every row make that harmless.
Source: docs/data-model.md; docs/feeds.md
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from itertools import islice
from typing import Any, Self

from regional_keystone.adapters.cassandra_drift import Drift, Here
from regional_keystone.adapters.cassandra_driver import Counters, Driver
from regional_keystone.adapters.cassandra_heartbeat import Heartbeat
from regional_keystone.adapters.cassandra_log import EVERYWHERE, Levels, Log, following
from regional_keystone.adapters.cassandra_schema import LOG as LOG_TABLE
from regional_keystone.adapters.cassandra_schema import (
    MARKS,
    RANGE,
    STONE_S,
    UNKNOWN_FORM,
    Acknowledgements,
    Feeds,
    Forms,
    Marks,
    ack_table,
    own_table,
)
from regional_keystone.adapters.cassandra_survey import Unsurveyed
from regional_keystone.adapters.cassandra_tables import Row, Tables, Write, newest, statements
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.log import LOG, Entry
from regional_keystone.ports import Clock, Snapshot, Writer
from regional_keystone.record import TABLES, Key, Like, R, Table

Read = Callable[[int], Awaitable[None]]
"""Hears how many rows have been read so far."""

Scratch = Callable[[], AbstractAsyncContextManager[Writer]]
"""Makes an empty store for a while, to put a snapshot together in."""

_ROWS = 500  # of a snapshot that are written at a time
_WAIT_S, _ASK_S = 2.0, 0.5  # how long a site waits for its data centre, and after which it asks the others
_PAUSE_S = 0.02
_ASKED, _ASKED_FAR = 64, 4  # reads under way at once while a site waits, here and in other data centres


class _Store(Unsurveyed):
    """What both do: read records and feeds, and show everything as it was at one position."""

    def __init__(self, driver: Driver, tables: Tables, log: Log, clock: Clock, scratch: Scratch) -> None:
        self.heartbeat = Heartbeat(driver, clock)
        self._driver = driver
        self._tables = tables
        self._log = log
        self._clock = clock
        self._scratch = scratch
        self._closed = False

    @property
    def counters(self) -> Counters:
        """What its session counts."""
        return self._driver.metrics

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        self._check()
        return await self._tables.get(kind, *key)

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group, in the order of their keys."""
        self._check()
        return await self._tables.find(kind, **equals)

    def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type in the order of their keys, read page by page."""
        self._check()
        return self._tables.scan(kind)

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`, in the order of their keys."""
        self._check()
        return await self._tables.page(kind, after, limit, like, **equals)

    async def applied(self, feed: str) -> int:
        """Everything up to here is in the tables."""
        self._check()
        return (await self._log.mark(feed)).applied

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """A view of all rows that stands still while writes go on.

        Rows are read while they change; the log's entries since then, applied in order beside, make one position of it.
        """
        self._check()
        async with self._scratch() as scratch:
            await self._fill(scratch)
            async with scratch.snapshot() as snapshot:
                yield snapshot

    async def close(self) -> None:
        """End the session; twice is harmless."""
        if not self._closed:
            self._closed = True
            await self._driver.close()

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("The store is closed.")

    async def _fill(self, scratch: Writer) -> None:
        position = newest_seen = await self.applied(LOG)

        async def rows() -> AsyncIterator[Row]:
            nonlocal newest_seen
            for form in (*(forms.base for forms in self._tables.forms.values()), UNKNOWN_FORM):
                async for page in self._tables.lying(form):
                    for seen in page:
                        newest_seen = max(newest_seen, seen.at or 0)
                        name, key = self._tables.key_of(form.name, seen)
                        if seen.row is not None and (form is not UNKNOWN_FORM or name not in self._tables.forms):
                            yield name, key, seen.row

        await scratch.restore(position, rows())
        while position < newest_seen:
            entries = await self._log.tail(LOG, position, _ROWS)
            if not entries:
                raise Unavailable("The log does not reach as far as the tables now.")
            await scratch.apply(entries)
            position = entries[-1].number


async def _told(tell: Read | None, count: int) -> None:
    if tell is not None:
        await tell(count)


class Cassandra(_Store):
    """Implements `ports.Writer` for controllers, as many as there are: log and tables in every data centre.

    What it answered is on a majority. Any data centre may be lost.
    """

    drift: Drift
    _applied = _said = 0
    _appended = 0
    _leave_s = 0.0

    @classmethod
    async def open(
        cls,
        driver: Driver,
        *,
        clock: Clock,
        scratch: Scratch,
        tables: Mapping[str, Table] = TABLES,
        range_size: int = RANGE,
        repeat: bool = False,
        leave_s: float = 0.0,
    ) -> Self:
        """The store in this session's keyspace, which it closes. Raises StoreRefused for one half restored.

        With `repeat`, that restoring is to be done again. For `leave_s` what another controller has appended is left
        for that one to project: all of them would write the same.
        """
        log = Log(driver, Feeds(LOG_TABLE), Marks(MARKS), EVERYWHERE, clock, size=range_size)
        restoring = (await log.mark(LOG)).restoring
        if restoring and not repeat:
            raise StoreRefused(
                f"The tables of keyspace {driver.keyspace} were being replaced by a snapshot at position {restoring}"
                " when that was broken off. Run `rkctl store copy` again, from the same source."
            )
        store = cls(driver, Tables(driver, tables, EVERYWHERE.read), log, clock, scratch)
        store._leave_s, store.drift = leave_s, Drift(driver, store._tables)
        await store.drift.load_floors()
        return store

    async def head(self, feed: str) -> int:
        """The number of the feed's last entry, 0 for an empty one; counts entries that were pruned."""
        self._check()
        return await self._log.head(feed)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries that follow `after`, without gaps, at most `limit`; none when the next one was pruned."""
        self._check()
        return await self._log.tail(feed, after, limit)

    async def append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        """Durably add entries, all or none, only if the feed ends at `after`; False if it does not.

        Raises Unavailable when nothing was done, and Unknown when that could not be found out.
        """
        self._check()
        done = await self._log.append(feed, after, entries)
        if done and feed == LOG:
            self._appended = max(self._appended, after + len(entries))
        return done

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Project entries of the log into the tables; what is at or below `applied` is skipped.

        Raises ValueError at a gap, with nothing written. Unavailable leaves rows that the next attempt completes.
        """
        self._check()
        if entries and entries[0].number != self._applied + 1:
            self._applied = max(self._applied, await self.applied(LOG))
        later = following(entries, self._applied)
        if later and self._leave_s and later[-1].number > self._appended:
            later = await self._left(later)
        if later:
            await self.project(later)
            await self._log.set_applied(LOG, later[-1].number)
            self._applied = max(self._applied, later[-1].number)

    async def _left(self, entries: Sequence[Entry]) -> list[Entry]:
        """What of these their author has not projected in time; it may have died, or be cut off."""
        until, pause_s = self._clock.ticks() + self._leave_s, _PAUSE_S
        while self._applied < entries[-1].number and self._clock.ticks() < until:
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _ASK_S)
            self._applied = max(self._applied, await self.applied(LOG))
        return following(entries, self._applied)

    async def project(self, entries: Iterable[Entry]) -> None:
        """Write what these entries say into the tables: again, late, and in any order, it comes to the same."""
        self._check()
        await self._write(newest(self._tables.written(entries)).values())

    async def acknowledge(self, site: str, said: bytes) -> None:
        """Keep what a site has said last; empty: nothing any more."""
        self._check()
        seen = await self._driver.run(Acknowledgements.said_at, (site,), consistency=EVERYWHERE.read)
        # what is there may come from a clock that is ahead of ours: a later word with a lesser time would not count
        self._said = max(self._clock.now(), 1 + max(self._said, *(at or 0 for (at,) in seen), 0))
        values = (self._said, said, site)
        await self._driver.run(Acknowledgements.write, values, consistency=EVERYWHERE.write)

    async def acknowledged(self) -> Mapping[str, bytes]:
        """What each site has said last."""
        self._check()
        rows = await self._driver.run(Acknowledgements.all, consistency=EVERYWHERE.read)
        return {site: said for site, said in rows if said}

    async def prune(self, feed: str, upto: int) -> None:
        """Forget entries up to this number, of the log only what is in the tables; numbers go on where they were."""
        reached = await self.applied(feed) if feed == LOG else await self.head(feed)
        await self._log.prune(feed, min(upto, reached))

    async def restore(self, position: int, rows: AsyncIterator[Row]) -> None:
        """Replace all tables and the log by these rows. Other feeds stay.

        Nothing changes before the last row is there. Raises StoreRefused unless `position` is beyond everything here;
        broken off later, the store refuses to open until the same is done again.
        """
        self._check()
        async with self._scratch() as scratch:
            await scratch.restore(position, rows)
            mark = await self._log.mark(LOG)
            there = max(mark.applied, await self.head(LOG))
            if position <= there and mark.restoring != position:
                raise StoreRefused(
                    f"The store has reached {there}; only a snapshot beyond that can replace its tables."
                )
            await self._log.set_restoring(LOG, position, done=False)
            if not await self._log.jump(LOG, position):
                await self._log.set_restoring(LOG, position, done=True)
                raise StoreRefused("Another controller writes to this store; end it before the tables are replaced.")
            async with scratch.snapshot() as snapshot:
                await self._replace(position, snapshot)
        await self._log.set_applied(LOG, position)
        await self._log.set_restoring(LOG, position, done=True)
        self._applied = position

    async def complete(self, names: Collection[str] = (), tell: Read | None = None, *, settle: bool = False) -> int:
        """Write every copy of every row again, at the row's own position: for tables or groups that are new.

        Of these record tables, or of all. Rows that an older version kept unknown move to the tables that now know
        them. With `settle`, copies go that their rows do not speak of any more. Returns how many rows were read.
        """
        self._check()
        count = 0
        for forms in [one for name, one in self._tables.forms.items() if not names or name in names]:
            async for page in self._tables.lying(forms.base):
                writes: list[Write] = []
                for seen in page:
                    if seen.row is not None and seen.at is not None:
                        name, key = self._tables.key_of(forms.base.name, seen)
                        writes += self._tables.writes_of_row(seen.at, name, key, seen.row)
                count += len(page)
                await self._write(writes)
                await _told(tell, count)
            if settle:
                await self._settle(forms, tell, count)
        return count + await self._take_in_unknown(names, tell, count)

    async def _take_in_unknown(self, names: Collection[str], tell: Read | None, before: int) -> int:
        count = 0
        async for page in self._tables.lying(UNKNOWN_FORM):
            for seen in page:
                name = seen.place[0]
                if seen.at is not None and name in self._tables.forms and (not names or name in names):
                    await self._write(await self._tables.taken_in(seen))
                    gone = [(UNKNOWN_FORM.move_away, (2 * seen.at + 1, *seen.place))]
                    await self._driver.change(gone, consistency=EVERYWHERE.write)
                    count += 1
            await _told(tell, before + count)
        return count

    async def _settle(self, forms: Forms, tell: Read | None, count: int) -> None:
        """Turn copies to stone that an older version has left behind: it changed their rows, and did not know them."""
        applied = await self.applied(LOG)
        for copy in forms.copies:
            async for page in self._tables.lying(copy.form):
                live = [seen for seen in page if seen.row is not None]
                stale = [await self._tables.left_behind(forms, copy, seen, applied) for seen in live]
                await self._write(write for write in stale if write is not None)
                await _told(tell, count)

    async def _replace(self, position: int, snapshot: Snapshot) -> None:
        writes: list[Write] = []
        async for name, key, row in snapshot.rows():
            writes += self._tables.writes_of_row(position, name, key, row)
            if len(writes) >= _ROWS:
                await self._write(writes)
                writes = []
        await self._write(writes)
        for form in self._tables.physical:  # what is older than the snapshot by now is not in it
            async for page in self._tables.lying(form):
                older = [seen for seen in page if seen.row is not None and (seen.at or 0) < position]
                await self._write(Write(form, seen.place, position, None) for seen in older)

    async def _write(self, writes: Iterable[Write]) -> None:
        await self._driver.change(statements(writes, self._tables.floors), consistency=EVERYWHERE.write)


class CassandraReplica(_Store):
    """Implements `ports.Writer` for a site: its data centre's tables and log, which controllers write; its own feed.

    It reads other sites' feeds too, as they have arrived here. Reading needs no other data centre. Writing anything but
    its own feed is a ValueError, and the database's to refuse.
    """

    here: Here
    _site: str
    _own: Log
    _peer: Callable[[str], Log]
    _verified = 0

    @classmethod
    async def open(
        cls,
        driver: Driver,
        *,
        site: str,
        level: str,
        clock: Clock,
        scratch: Scratch,
        tables: Mapping[str, Table] = TABLES,
        range_size: int = RANGE,
    ) -> Self:
        """The replica of this session's data centre, read at `level`: LOCAL_QUORUM or LOCAL_ONE.

        The first time, everything is read once with the other data centres, which makes this one complete.
        """
        here = Levels(level, "LOCAL_QUORUM", level, settle="QUORUM")
        log = Log(driver, Feeds(LOG_TABLE), Marks(MARKS), here, clock, size=range_size)
        store = cls(driver, Tables(driver, tables, level), log, clock, scratch)
        store._site, store.here = site, Here(driver, store._tables, level)
        own = Levels("LOCAL_QUORUM", "LOCAL_QUORUM", "LOCAL_SERIAL")
        store._own = Log(driver, Feeds(own_table(site)), Marks(ack_table(site)), own, clock, size=range_size)
        marks = Marks(ack_table(site))  # theirs are not ours to read, nor needed: they tell no more than an end
        # asked often, and mostly for nothing: so no more than one question
        there = Levels(level, "", level, settle="QUORUM", far=False)
        store._peer = cache(lambda peer: Log(driver, Feeds(own_table(peer)), marks, there, clock, size=range_size))
        if not await store.applied(LOG):
            await store._verify_all(0)
        return store

    async def head(self, feed: str) -> int:
        """The number of the feed's last entry as this data centre shows it."""
        self._check()
        return await self._feeds(feed).head(feed)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The unbroken prefix of what follows `after`, at most `limit` entries."""
        self._check()
        return await self._feeds(feed).tail(feed, after, limit)

    async def applied(self, feed: str) -> int:
        """Everything up to here has been seen in this data centre's tables."""
        self._check()
        return max(self._verified, (await self._own.mark(LOG)).applied) if feed == LOG else 0

    async def append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        """Durably add entries to the site's own feed, all or none, only if it ends at `after`."""
        self._check()
        self._own_only(feed)
        return await self._own.append(feed, after, entries)

    async def prune(self, feed: str, upto: int) -> None:
        """Forget entries of the site's own feed up to this number; numbers go on where they were."""
        self._check()
        self._own_only(feed)
        await self._own.prune(feed, min(upto, await self._own.head(feed)))

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Wait until this data centre shows these entries, and remember that it does; raises ValueError at a gap.

        What is late is asked for once with the others, whereupon this data centre has it; else raises Unavailable.
        """
        self._check()
        if entries and entries[0].number != self._verified + 1:
            self._verified = await self.applied(LOG)
        later = following(entries, self._verified)
        if later:
            await self._await(later)
            await self._own.set_applied(LOG, later[-1].number)
            self._verified = max(self._verified, later[-1].number)

    async def restore(self, position: int, rows: AsyncIterator[Row]) -> None:
        """Make this data centre complete up to `position` at least; controllers have written the rows already."""
        self._check()
        async for _ in rows:
            pass  # they are here; whoever sends them wants to be heard to the end
        await self._verify_all(position)

    async def acknowledge(self, site: str, said: bytes) -> None:
        """Sites do not: they say it on the stream."""
        raise ValueError(f"{self._site} cannot keep what {site} says ({len(said)} bytes)")

    async def acknowledged(self) -> Mapping[str, bytes]:
        """Nothing that a site is to know."""
        raise ValueError(f"{self._site} cannot know what sites have said")

    def _feeds(self, feed: str) -> Log:
        if feed == LOG:
            return self._log
        site = feed.partition("/")[0]
        return self._own if site == self._site else self._peer(site)

    def _own_only(self, feed: str) -> None:
        if not feed.startswith(f"{self._site}/"):
            raise ValueError(f"{self._site} writes its own feed only, not {feed}")

    async def _verify_all(self, position: int) -> None:
        """Read everything at QUORUM through a node of this data centre: what that misses, it is given by the way."""
        rows = await self._driver.run(Marks(MARKS).get, (LOG,), consistency="QUORUM")
        reached = rows[0][0] or 0 if rows else 0
        if reached < position:
            raise Unavailable(f"The tables have reached {reached}, not {position}.")
        if not reached:
            return
        for form in self._tables.physical:
            async for _ in self._tables.lying(form, "QUORUM"):
                pass
        await self._own.set_applied(LOG, reached)
        self._verified = max(self._verified, reached)

    async def _await(self, entries: Sequence[Entry]) -> None:
        old = self._clock.now() - STONE_S * 500_000  # half of a stone's life
        faded = {entry.number for entry in entries if entry.at < old}
        missing = list(newest(self._tables.written(entries)).values())
        missing = await self._missing(missing, faded, self._tables.level)
        began, pause_s, asked = self._clock.ticks(), _PAUSE_S, False  # looking at many rows takes its time
        while missing:
            waited_s = self._clock.ticks() - began
            if waited_s > _WAIT_S:
                raise Unavailable(f"This data centre does not show entry {missing[0].number} of the log yet.")
            if waited_s > _ASK_S and not asked:
                asked = True
                # by being read, what is there comes here; one by one at first, since a node that is cut off from the
                # others lets each of these occupy one of its threads until it gives up
                await self._missing(missing[:1], faded, "QUORUM", 1)
                await self._missing(missing[1:], faded, "QUORUM", _ASKED_FAR)
            else:
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _ASK_S)
            missing = await self._missing(missing, faded, self._tables.level)

    async def _missing(
        self, writes: Sequence[Write], faded: set[int], level: str, together: int = _ASKED
    ) -> list[Write]:
        found: list[Write] = []
        waiting = iter(writes)
        while some := list(islice(waiting, together)):
            shown = await asyncio.gather(*(self._shown(write, faded, level) for write in some))
            found += [write for write, there in zip(some, shown, strict=True) if not there]
        return found

    async def _shown(self, write: Write, faded: set[int], level: str) -> bool:
        rows = await self._driver.run(write.form.seen, write.place, consistency=level)
        at, row = rows[0] if rows else (None, None)
        if at is not None and at >= write.number:
            return True
        return write.row is None and row is None and write.number in faded
