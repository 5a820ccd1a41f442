"""The site's own feed: revocations accepted here, effective here at once, taken over into the log exactly once.

A store of its own, named site/incarnation, so that a rebuilt replica cannot start its numbers again.
Source: docs/feeds.md, "A site's own feed".
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import structlog

from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import Entry, Position, Put, Transaction, encode_entry, put
from regional_keystone.model import RevocationEvent, Taken
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import decode

log = structlog.get_logger("own_feed")

ENTRY_BYTES = 256 * 1024
_AT_ONCE = 100  # revocations in one entry


class OwnFeed:
    """A Committer for what a cut-off site may do alone: nothing but revocations."""

    def __init__(self, name: str, *, store: Writer, follower: Follower, clock: Clock) -> None:
        self.name = name
        self.number = 0
        self.sent: Callable[[], None] = _nobody
        self.took: Callable[[Entry], None] = _unheard  # is told what has begun to count here
        self._store = store
        self._follower = follower
        self._clock = clock
        self._appending = asyncio.Lock()
        self._tasks: set[asyncio.Task[Position]] = set()
        self._pruned = 0
        self._went_back = False
        follower.own = name

    async def start(self) -> None:
        """Take up the feed where it was; what it holds still counts here."""
        self.number = await self._store.head(self.name)
        number = self._pruned = await pruned(self._store, self.name)
        while entries := await self._store.tail(self.name, number):
            for entry in entries:
                self._take(entry)
            number = entries[-1].number
        await self.returned()

    async def commit(self, transaction: Transaction) -> Position:
        """Durable and effective here when it returns. Raises Unavailable for what only a controller may change."""
        for change in transaction.changes:
            if not (isinstance(change, Put) and change.table == "revocations"):
                raise Unavailable("This change needs the controller, which is away.", retry_after_s=5)
        task = asyncio.create_task(self._append(transaction))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)  # a caller who goes away must not leave us unaware of what was written

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing here ever collides, so nobody has to wait."""
        return nullcontext()

    async def after(self, number: int) -> list[Entry]:
        """What follows `number` and has not returned in the log yet."""
        return await self._store.tail(self.name, max(number, self._pruned))

    def pending(self) -> int:
        """How many entries have not returned in the log yet."""
        return self.number - self._pruned

    async def returned(self) -> None:
        """Forget what the log shows as taken over, once this replica holds that durably."""
        taken = await self._follower.durable(Taken, self.name)
        if taken is None or taken.number <= self._pruned:
            return
        if taken.number > self.number:
            if not self._went_back:
                log.error("own_feed_went_back", feed=self.name, number=self.number, taken=taken.number)
            self._went_back = True
            return
        try:
            await self._store.prune(self.name, taken.number)
            self._pruned = taken.number
        except Unavailable as error:  # a full disk: it is kept for now
            log.warning("own_feed_not_pruned", feed=self.name, why=error.message)

    async def revoke(self, events: list[RevocationEvent]) -> None:
        """Append these revocations of our own."""
        for start in range(0, len(events), _AT_ONCE):
            changes = tuple(put(event) for event in events[start : start + _AT_ONCE])
            name = f"{self.name}/{self.number + 1}"
            await self.commit(Transaction(name, self._follower.position, frozenset(), changes))

    async def _append(self, transaction: Transaction) -> Position:
        if self._went_back:
            raise Unavailable("This site's own feed was restored from an older state; remove it and start again.")
        async with self._appending:
            entry = Entry(self.number + 1, transaction.id, self._clock.now(), transaction.changes)
            if len(encode_entry(entry)) > ENTRY_BYTES:
                raise TooLarge
            if not await self._store.append(self.name, self.number, (entry,)):
                raise Unavailable("This site's own feed is written by another process.")
            self.number = entry.number
            self._take(entry)
            self.took(entry)
        self.sent()
        return Position(self._follower.position)

    def _finished(self, task: asyncio.Task[Position]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be waiting

    def _take(self, entry: Entry) -> None:
        for change in entry.changes:
            if isinstance(change, Put):
                self._follower.void(decode(RevocationEvent, change.row))


async def pruned(store: Writer, feed: str) -> int:
    """The number of the last entry of a feed that was forgotten, 0 if none was."""
    low, high = 0, await store.head(feed)
    while low < high:  # `tail` finds nothing for what was pruned, and something for all that was not
        middle = (low + high) // 2
        if await store.tail(feed, middle, 1):
            high = middle
        else:
            low = middle + 1
    return low


def portion(entries: Sequence[Entry], limit: int, limit_bytes: int) -> tuple[Entry, ...]:
    """The first of these entries, as many as one message may carry; one at least, if there is one."""
    size_bytes = 0
    for place, entry in enumerate(entries[:limit]):
        size_bytes += len(encode_entry(entry))
        if place and size_bytes > limit_bytes:
            return tuple(entries[:place])
    return tuple(entries[:limit])


def _nobody() -> None:
    """The send that nobody waits for."""


def _unheard(entry: Entry) -> None:
    """The entry that nobody else has to know of."""
