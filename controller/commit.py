"""Puts changes in order: checks, appends many transactions at a time, applies; finishes what a crash left half applied.

One queueing writer per controller. Other controllers may append to the same log: then the batch is judged again.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog

from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import LOG, Collision, Entry, Position, Transaction, disturbed, encode_entry, written
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import Touch

log = structlog.get_logger("commit")

BATCH = 100
BATCH_BYTES = 1024 * 1024
_NUMBERS_BYTES = 16  # what an entry's number and time add to its size
REMEMBERED = 4096  # entries whose touches are kept to judge transactions that began before them


class _Waiting(NamedTuple):
    transaction: Transaction
    size_bytes: int
    position: asyncio.Future[Position]


class Sequencer:
    """The controller's Committer: every transaction as if alone, one durable append for all that wait."""

    def __init__(self, *, store: Writer, follower: Follower, clock: Clock) -> None:
        self.publish: Callable[[Sequence[Entry]], None] = _nobody
        self.committed = self.batches = self.collisions = 0
        self._store = store
        self._follower = follower
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._recent: deque[tuple[int, set[Touch]]] = deque(maxlen=REMEMBERED)
        self._turnstile = asyncio.Lock()
        self._alone: asyncio.Task[object] | None = None
        self._writing = asyncio.Lock()

    @property
    def head(self) -> int:
        """The number of the log's last entry."""
        return self._follower.position

    async def start(self) -> None:
        """Take over where the store stands; entries that a crash left out of the tables are applied first."""
        await self._follower.start()
        while entries := await self._store.tail(LOG, self._follower.position):
            log.info("finishing", first=entries[0].number, last=entries[-1].number)
            self._note(entries)

    async def commit(self, transaction: Transaction) -> Position:
        """Durable and visible here when it returns. Raises Collision, Unavailable, or TooLarge."""
        if asyncio.current_task() is not self._alone:
            async with self._turnstile:
                pass  # somebody is alone: wait until they are done
        size_bytes = len(encode_entry(Entry(0, transaction.id, 0, transaction.changes))) + _NUMBERS_BYTES
        if size_bytes > BATCH_BYTES:
            raise TooLarge("This changes more at once than one transaction can hold; do it in parts.")
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(transaction, size_bytes, future))
        self._more.set()
        return await future

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Others wait while this is held, so what is read now is still so at the commit."""
        async with self._turnstile:
            self._alone = asyncio.current_task()
            try:
                yield
            finally:
                self._alone = None

    async def run(self) -> None:
        """Take whatever waits as one batch, for ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                await self._judge(batch)

    async def catch_up(self) -> None:
        """Take in what another controller has appended meanwhile. Raises Unavailable."""
        async with self._writing:
            self._note(await self._store.tail(LOG, self.head))

    async def _judge(self, batch: list[_Waiting]) -> None:
        while batch:
            async with self._writing:
                entries, kept, rest = self._select(batch)
                try:
                    mine = not entries or await self._append(entries, kept)
                except Unavailable as error:
                    for waiting in (*kept, *rest):
                        _refuse(waiting, error)
                    return
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
                _refuse(waiting, Collision())
            else:
                size += waiting.size_bytes
                entries.append(Entry(self.head + len(entries) + 1, transaction.id, now, transaction.changes))
                kept.append(waiting)
                ahead |= disturbed(transaction.changes)
        return entries, kept, []

    def _collides(self, transaction: Transaction, ahead: set[Touch]) -> bool:
        since = transaction.position
        if since < self.head and (not self._recent or self._recent[0][0] > since + 1):
            return True  # it began before all that is remembered
        if transaction.collides(ahead):
            return True
        mine = transaction.reads | written(transaction.changes)
        later = itertools.takewhile(lambda recent: recent[0] > since, reversed(self._recent))
        return any(not mine.isdisjoint(touched) for _, touched in later)

    async def _append(self, entries: list[Entry], kept: list[_Waiting]) -> bool:
        """Whether these entries are the log's next; else what another controller appended is known now."""
        if not await self._store.append(LOG, self.head, entries):
            others = await self._store.tail(LOG, self.head)
            if not others:
                raise RuntimeError(
                    f"the log was pruned beyond {self.head}, where this controller stands; start it again"
                )
            self._note(others)
            return False
        self._note(entries)
        self.batches += 1
        self.committed += len(kept)
        for entry, waiting in zip(entries, kept, strict=True):
            if not waiting.position.done():
                waiting.position.set_result(Position(entry.number))
        return True

    def _note(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._recent.append((entry.number, disturbed(entry.changes)))
        self._follower.note(entries)
        self.publish(entries)


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.position.done():
        waiting.position.set_exception(error)


def _nobody(entries: Sequence[Entry]) -> None:
    """The publication that nobody reads."""
    del entries
