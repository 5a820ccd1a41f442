"""Puts changes in order: checks, appends many transactions at a time; takes in what other controllers append.

One queueing writer per controller. Other controllers may append to the same log: then the batch is judged again.
Source: docs/adr/0019-several-controllers.md.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec
import structlog

from regional_keystone.errors import TooLarge, Unavailable, Unknown
from regional_keystone.follow import Follower
from regional_keystone.log import (
    LOG,
    Change,
    Collision,
    Entry,
    Position,
    Put,
    Transaction,
    disturbed,
    encode_entry,
    written,
)
from regional_keystone.ports import Clock, Wake, Writer
from regional_keystone.record import Touch

log = structlog.get_logger("commit")

BATCH = 100
BATCH_BYTES = 1024 * 1024
REMEMBERED = 4096  # entries whose touches are kept to judge transactions that began before them
DEADLINE_S = 5.0  # for one transaction, from when it waits to when it is in the log
CURRENT_S = 2.5  # how long is waited for the log's present head to be known here
_LOST_S, _LOST_WAIT_S = 5.0, 1.0  # a log that could not be read for so long is only waited for so long
_CONFIRM_S = 0.6  # how old what is known may be before the end of the log is asked for unasked
_APART_S = 0.3  # how long a read of the log's end waits for an append
_AGAIN_S = (0.02, 0.2)  # between attempts to read the log's end; several writers can keep a read off for a second
_VISIBLE_S = 0.7  # an entry that the log has counted can be read everywhere by then
BACKLOG_BYTES = 64 * 1024 * 1024  # of what is in the log and not yet in the tables; more is not taken on
_URGENT = frozenset(("revocations", "taken", "condemned"))
_NUMBERS_BYTES = 16  # what an entry's number and time add to its size
_PAUSE_S = 0.005
_DATED_S = 3  # after which who may not write by this clock may try again


@dataclass(slots=True, eq=False)
class _Waiting:
    transaction: Transaction
    size_bytes: int
    position: asyncio.Future[Position]
    under_way: bool = False  # it has been given to the store, whose answer is not here yet


class Sequencer:
    """The controller's Committer: every transaction as if alone, one durable append for all that wait."""

    def __init__(self, *, store: Writer, follower: Follower, clock: Clock, wake: Wake) -> None:
        self.publish: Callable[[Sequence[Entry]], None] = _nobody
        self.refuses: Callable[[Transaction], str | None] = _whatever  # says why this cannot be dated now
        self.committed = self.batches = self.collisions = 0
        self._store = store
        self._follower = follower
        self._clock = clock
        self._wake = wake
        self._queue: deque[_Waiting] = deque()
        self._taken_on_bytes = 0
        self._more = asyncio.Event()
        self._recent: deque[tuple[int, set[Touch]]] = deque(maxlen=REMEMBERED)
        self._turnstile = asyncio.Lock()
        self._alone: asyncio.Task[object] | None = None
        self._appending: dict[str, _Waiting] = {}
        self._reading: asyncio.Task[None] | None = None
        self._reads_next: asyncio.Task[None] | None = None
        self._asked = self._confirmed = float("-inf")  # ticks: the last wish to know the end of the log; what is known
        self._at_log = asyncio.Lock()
        self._restarting = asyncio.Lock()
        self._woken = asyncio.Event()
        wake.listen(self._woken.set)

    @property
    def head(self) -> int:
        """The number of the last entry of the log that is known here."""
        return self._follower.position

    @property
    def backlog_bytes(self) -> int:
        """About how much memory is taken by what is not in the tables yet, what waits for the log included."""
        return self._follower.waiting_bytes + self._taken_on_bytes

    async def start(self) -> None:
        """Take over where the log stands; entries that a crash left out of the tables are applied first."""
        await self._follower.start()
        applied = self.head
        await self._read_head()
        if self.head > applied:
            log.info("finishing", first=applied + 1, last=self.head)

    async def commit(self, transaction: Transaction) -> Position:
        """Durable and visible here when it returns. Raises Collision, TooLarge, Unavailable, or Unknown.

        Whatever the log does, one of these comes within DEADLINE_S.
        """
        if (why := self.refuses(transaction)) is not None:
            raise Unavailable(why, retry_after_s=_DATED_S)
        size_bytes = len(encode_entry(Entry(0, transaction.id, 0, transaction.changes))) + _NUMBERS_BYTES
        if size_bytes > BATCH_BYTES:
            raise TooLarge("This changes more at once than one transaction can hold; do it in parts.")
        waiting = _Waiting(transaction, size_bytes, asyncio.get_running_loop().create_future())
        taken_on = False
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._room(transaction, size_bytes)
                self._taken_on_bytes += size_bytes
                taken_on = True
                if asyncio.current_task() is not self._alone:
                    async with self._turnstile:
                        pass  # somebody is alone: wait until they are done
                self._queue.append(waiting)
                self._more.set()
                return await waiting.position
        except TimeoutError:
            raise (Unknown() if waiting.under_way else Unavailable(self._why_late())) from None
        finally:
            self._taken_on_bytes -= size_bytes if taken_on else 0

    async def _room(self, transaction: Transaction, size_bytes: int) -> None:
        """Wait while the tables are far behind the log: what they lack is in memory.

        What only voids tokens goes on: it is small, and nobody's token may live longer for want of a table.
        """
        if all(change.table in _URGENT and isinstance(change, Put) for change in transaction.changes):
            return
        while self.backlog_bytes + size_bytes > BACKLOG_BYTES:
            await self._follower.settled(self._follower.projected + 1, DEADLINE_S)

    def _why_late(self) -> str:
        if self.backlog_bytes > BACKLOG_BYTES // 2:
            return f"The tables are {self.head - self._follower.projected} changes behind the log; try again later."
        return "The log could not be written in time."

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Others wait while this is held, so what is read now is still so at the commit. Raises Unavailable."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._turnstile.acquire()
        except TimeoutError:
            raise Unavailable("Too many others change the same records; try again.") from None
        self._alone = asyncio.current_task()
        try:
            yield
        finally:
            self._alone = None
            self._turnstile.release()

    async def run(self) -> None:
        """Take whatever waits as one batch, for ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                await self._judge(batch)

    async def follow(self, poll_s: float) -> None:
        """Take in what other controllers append, when woken and at least so often, _CONFIRM_S at most; for ever."""
        readable = True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(poll_s, _CONFIRM_S)):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await (self.catch_up() if self._clock.ticks() - self._confirmed > _CONFIRM_S else self._look())
                readable = True
            except Unavailable as error:
                if readable:
                    log.error("log_not_readable", why=error.message)
                readable = False

    async def catch_up(self) -> None:
        """Return once all that the log held when this was called is known here. Raises Unavailable.

        It is waited for CURRENT_S, and less when the log could not be read for long.
        One read of the head serves everybody who began to wait before it. One that fails is tried again meanwhile.
        """
        self._asked = self._clock.ticks()
        if self._reads_next is None:
            self._reads_next = asyncio.create_task(self._read_after(self._reading))
            self._reads_next.add_done_callback(_looked_at)
        try:
            async with asyncio.timeout(_LOST_WAIT_S if self._lost() else CURRENT_S):
                await asyncio.shield(self._reads_next)
        except TimeoutError:
            raise Unavailable("The log could not be read in time.") from None

    async def _read_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._reading, self._reads_next = self._reads_next, None
        asked, until = self._asked, self._clock.ticks() + CURRENT_S
        while True:
            try:
                async with self._apart():
                    if self._confirmed < asked:  # else an append that began later has shown where the log ends
                        await self._read_head()
            except Unavailable:
                if self._clock.ticks() > until or self._lost():
                    raise
            else:
                return
            await self._clock.sleep(random.uniform(*_AGAIN_S))  # noqa: S311  no secret
            with suppress(Unavailable):
                await self._look()

    @asynccontextmanager
    async def _apart(self) -> AsyncIterator[None]:
        """While no append of ours is under way: it would be in the way. One that takes long is not waited for."""
        held = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_APART_S):
                held = await self._at_log.acquire()
        try:
            yield
        finally:
            if held:
                self._at_log.release()

    def _lost(self) -> bool:
        return self._clock.ticks() - self._confirmed > _LOST_S

    async def _read_head(self) -> None:
        ticks = self._clock.ticks()
        head = await self._store.head(LOG)
        await self._take_in(head)
        self._confirm(ticks, head)

    def _confirm(self, ticks: float, head: int) -> None:
        """All that the log held at `ticks` is known here."""
        self._confirmed = max(self._confirmed, ticks)
        self._follower.heard(ticks, head)

    async def _look(self) -> None:
        """Take in what can be seen already: cheaper than to ask where the log ends, and in nobody's way."""
        while entries := await self._store.tail(LOG, self.head):
            self._note(entries)

    async def _take_in(self, upto: int) -> None:
        """Know every entry up to this number, which the log has counted. Raises Unavailable if they cannot be read."""
        pause_s, end = _PAUSE_S, self._clock.ticks() + _VISIBLE_S
        while self.head < upto:
            entries = await self._store.tail(LOG, self.head)
            if entries:
                self._note(entries)
            elif self._clock.ticks() < end:  # a replica of the store may not show yet what another has counted
                await self._clock.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  no secret
                pause_s *= 2
            else:
                await self._start_again(upto)

    async def _start_again(self, upto: int) -> None:
        """Go on from the tables: the log was pruned beyond where this controller stands."""
        async with self._restarting:
            before = self.head
            if before >= upto:
                return
            if await self._store.applied(LOG) <= before:
                raise Unavailable(f"What follows change {before} cannot be read here yet.")
            await self._follower.start()
            self.publish(())
            log.warning("went_on_from_the_tables", stood_at=before, stands_at=self.head)

    async def _judge(self, batch: list[_Waiting]) -> None:
        while batch:
            entries, kept, rest = self._select(batch)
            try:
                mine = not entries or await self._append(entries, kept)
            except Unknown as error:
                _refuse(kept, error)
                batch = rest
            except Unavailable as error:
                _refuse(kept + rest, error)
                return
            else:
                batch = rest if mine else kept + rest

    def _select(self, batch: list[_Waiting]) -> tuple[list[Entry], list[_Waiting], list[_Waiting]]:
        """Entries for those that collide with nothing since they began, nor each other; others told to run again."""
        entries: list[Entry] = []
        kept: list[_Waiting] = []
        now, size, ahead = self._clock.now(), 0, set[Touch]()
        for place, waiting in enumerate(batch):
            transaction = waiting.transaction
            if waiting.position.done():
                continue  # whoever asked has gone away
            if size + waiting.size_bytes > BATCH_BYTES:
                return entries, kept, batch[place:]
            if self._collides(transaction, ahead):
                self.collisions += 1
                _refuse([waiting], Collision())
            else:
                size += waiting.size_bytes
                entries.append(Entry(self.head + len(entries) + 1, transaction.id, now, transaction.changes))
                kept.append(waiting)
                ahead |= disturbed(transaction.changes)
        return entries, kept, []

    def _collides(self, transaction: Transaction, ahead: set[Touch]) -> bool:
        since = transaction.position
        recent = self._recent
        if since < self.head and (not recent or recent[0][0] > since + 1 or recent[-1][0] != self.head):
            return True  # it began before all that is remembered
        if transaction.collides(ahead):
            return True
        mine = transaction.reads | written(transaction.changes)
        later = itertools.takewhile(lambda entry: entry[0] > since, reversed(recent))
        return any(not mine.isdisjoint(touched) for _, touched in later)

    async def _append(self, entries: list[Entry], kept: list[_Waiting]) -> bool:
        """Whether these entries are the log's next; else what another controller appended is known now."""
        self._appending = {waiting.transaction.id: waiting for waiting in kept}
        _mark(kept, under_way=True)
        try:
            if not await self._appended(entries):
                return False
        finally:
            self._appending = {}
            _mark(kept, under_way=False)
        for entry, waiting in zip(entries, kept, strict=True):
            self._answer(waiting, entry)
        self._wake.tell(self.head)
        return True

    async def _appended(self, entries: list[Entry]) -> bool:
        after = entries[0].number - 1
        try:
            async with self._at_log:
                ticks = self._clock.ticks()
                mine = await self._store.append(LOG, after, entries)
        except Unknown:
            if not await self._has_grown(after):
                raise
            return False  # what stands at these numbers is known: those of ours that are there have been answered
        if not mine:
            try:
                await self._take_in(after + 1)
            except Unavailable:
                raise Unknown from None  # a store that tried twice may have met its own first attempt
            return False
        self._note(entries)
        self._confirm(ticks, after + len(entries))
        self.batches += 1
        return True

    async def _has_grown(self, after: int) -> bool:
        with suppress(Unavailable):
            await self.catch_up()
        return self.head > after

    def _note(self, entries: Sequence[Entry]) -> None:
        fresh = [entry for entry in entries if entry.number > self.head]
        if not fresh:
            return
        if self._recent and self._recent[-1][0] != fresh[0].number - 1:
            self._recent.clear()
        self._recent.extend((entry.number, disturbed(entry.changes)) for entry in fresh)
        self._follower.note(fresh)
        self.publish(fresh)
        for entry in fresh:
            waiting = self._appending.get(entry.id)
            if waiting is not None and _same(entry.changes, waiting.transaction.changes):
                self._answer(waiting, entry)  # it is ours, whatever the store says of it

    def _answer(self, waiting: _Waiting, entry: Entry) -> None:
        if not waiting.position.done():
            self.committed += 1
            waiting.position.set_result(Position(entry.number))


def _refuse(them: Sequence[_Waiting], error: Exception) -> None:
    for waiting in them:
        if not waiting.position.done():
            waiting.position.set_exception(error)


def _mark(them: Sequence[_Waiting], *, under_way: bool) -> None:
    for waiting in them:
        waiting.under_way = under_way


def _same(some: tuple[Change, ...], others: tuple[Change, ...]) -> bool:
    return msgspec.msgpack.encode(some) == msgspec.msgpack.encode(others)


def _looked_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits has it; nobody may be waiting any more


def _whatever(transaction: Transaction) -> None:
    """Of a controller whose clock nobody compares."""
    del transaction


def _nobody(entries: Sequence[Entry]) -> None:
    """The publication that nobody reads."""
    del entries
