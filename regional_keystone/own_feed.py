"""The site's own feed: revocations accepted here, effective here at once, taken over into the log exactly once.

A store of its own, named site/incarnation, so that a rebuilt replica cannot start its numbers again.
Source: docs/feeds.md, "A site's own feed".
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import Entry, Position, Put, Transaction, put
from regional_keystone.model import RevocationEvent, Taken
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import decode

log = structlog.get_logger("own_feed")


class OwnFeed:
    """A Committer for what a cut-off site may do alone: nothing but revocations."""

    def __init__(self, name: str, *, store: Writer, follower: Follower, clock: Clock) -> None:
        self.name = name
        self.number = 0
        self.sent: Callable[[], None] = _nobody
        self._store = store
        self._follower = follower
        self._clock = clock
        self._appending = asyncio.Lock()
        self._pruned = 0

    async def start(self) -> None:
        """Take up the feed where it was; what it holds still counts here."""
        self.number = await self._store.head(self.name)
        for entry in await self.after(0):
            self._take(entry)
        await self.returned()

    async def commit(self, transaction: Transaction) -> Position:
        """Durable and effective here when it returns. Raises Unavailable for what only a controller may change."""
        for change in transaction.changes:
            if not (isinstance(change, Put) and change.table == "revocations"):
                raise Unavailable("This change needs the controller, which is away.", retry_after_s=5)
        async with self._appending:
            entry = Entry(self.number + 1, transaction.id, self._clock.now(), transaction.changes)
            if not await self._store.append(self.name, self.number, (entry,)):
                raise Unavailable("This site's own feed is written by another process.")
            self.number = entry.number
            self._take(entry)
        self.sent()
        return Position(self._follower.position)

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing here ever collides; the lock is the feed's own."""
        return self._appending

    async def after(self, number: int) -> list[Entry]:
        """What follows `number` and has not returned in the log yet."""
        return await self._store.tail(self.name, max(number, self._pruned))

    def pending(self) -> int:
        """How many entries have not returned in the log yet."""
        return self.number - self._pruned

    async def returned(self) -> None:
        """Forget what the log shows as taken over."""
        taken = await self._follower.overlay.get(Taken, self.name)
        if taken is not None and taken.number > self._pruned:
            await self._store.prune(self.name, taken.number)
            self._pruned = taken.number

    async def revoke(self, events: list[RevocationEvent]) -> None:
        """Append these revocations of our own."""
        changes = tuple(put(event) for event in events)
        await self.commit(Transaction(f"{self.name}/{self.number + 1}", self._follower.position, frozenset(), changes))

    def _take(self, entry: Entry) -> None:
        for change in entry.changes:
            if isinstance(change, Put):
                self._follower.void(decode(RevocationEvent, change.row))


def _nobody() -> None:
    """The send that nobody waits for."""
