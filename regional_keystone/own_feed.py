"""The site's own feed: revocations, condemned keys, counts of logins: in force here at once, taken over exactly once.

A store of its own, named site/incarnation, so that a rebuilt replica cannot start its numbers again.
Source: docs/feeds.md, "A site's own feed".
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass

import structlog

from regional_keystone.compliance import joined
from regional_keystone.errors import TooLarge, Unavailable, Unknown
from regional_keystone.follow import Follower
from regional_keystone.log import Change, Entry, Position, Put, Transaction, encode_entry, put
from regional_keystone.marks import Marks
from regional_keystone.model import Attempts, RevocationEvent, Taken
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import decode

log = structlog.get_logger("own_feed")

ENTRY_BYTES = 256 * 1024
MOST_CHANGES = 2000  # in one entry, and in all that travel together: each costs a controller a read and its memory
DEADLINE_S = 5.0  # for one transaction, from when it waits to when it is answered
_AT_ONCE = 100  # revocations in one entry
_RETRY_S = 1.0
_TRIES = 3  # of one transaction, if the feed's end is not where it was thought to be


@dataclass(slots=True, eq=False)
class _Waiting:
    transaction: Transaction
    under_way: bool = False  # it has been given to the store


class OwnFeed:
    """A Committer for what a cut-off site may do alone: revocations, condemned keys, reports of logins at this site.

    A report is an `Attempts` row with what is new; what is written is the site's row with all reports in it.
    """

    def __init__(self, name: str, *, store: Writer, follower: Follower, clock: Clock) -> None:
        self.name = name
        self.number = 0
        self._place = name.partition("/")[0]
        self.sent: Callable[[], None] = _nobody
        self.took: Callable[[Entry], None] = _unheard  # is told what has begun to count here
        self._store = store
        self._follower = follower
        self._clock = clock
        self._appending = asyncio.Lock()
        self._tasks: set[asyncio.Task[Position]] = set()
        self._pruned = 0
        self._went_back = False
        self._unsure = False  # the feed may hold more than is known here
        follower.own = name

    async def start(self) -> None:
        """Take up the feed where it was; what it holds still counts here."""
        self.number = await self._store.head(self.name)
        number = self._pruned = await pruned(self._store, self.name)
        while entries := await self._store.tail(self.name, number):
            for entry in entries:
                self._follower.take(entry)
            number = entries[-1].number
        await self.returned()

    async def commit(self, transaction: Transaction) -> Position:
        """Durable and effective here when it returns. Raises Unavailable for what only a controller may change.

        Whatever the store does, there is an answer within DEADLINE_S: Unavailable when nothing was done, else Unknown.
        What was done though nobody could say so counts here as soon as the feed can be read again.
        """
        if not all(self._is_own(change) for change in transaction.changes):
            raise Unavailable("This change needs the controller, which is away.", retry_after_s=5)
        waiting = _Waiting(transaction)
        task = asyncio.create_task(self._append(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.shield(task)  # who goes away must not leave us unaware of what was written
        except TimeoutError:
            if waiting.under_way:
                raise Unknown from None
            task.cancel()
            raise Unavailable("This site's own feed could not be written in time.") from None

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing here ever collides, so nobody has to wait."""
        return nullcontext()

    async def after(self, number: int) -> list[Entry]:
        """What follows `number` and has not returned in the log yet."""
        with suppress(Unavailable):
            await self.settle()
        if self._follower.peers.get(self.name, 0) > self._pruned:
            await self.returned()
        begin = max(number, self._pruned)
        return await self._store.tail(self.name, begin) if begin < self.number else []

    def pending(self) -> int:
        """How many entries have not returned in the log yet."""
        return self.number - self._pruned

    async def settle(self) -> None:
        """If an append's outcome was not known, look again: what was appended counts. Raises Unavailable."""
        if self._unsure and not self._appending.locked():  # else whoever appends will look
            async with self._appending:
                await self._read_on()

    async def returned(self) -> None:
        """Forget what the log shows as taken over, once this replica holds that durably."""
        taken = await self._follower.durable(Taken, self.name)
        if taken is None or taken.number <= self._pruned:
            return
        if taken.number > self.number and not self._went_back:
            self._unsure = True  # it may be ours, and only the store's answer was lost
            with suppress(Unavailable):
                await self.settle()
        if taken.number > self.number:
            if not (self._unsure or self._went_back):
                log.error("own_feed_went_back", feed=self.name, number=self.number, taken=taken.number)
                self._went_back = True
            return
        noted = self._follower.peers.get(self.name, 0)  # by the log, which may be ahead of what is durable
        self._follower.peers[self.name] = max(taken.number, noted)  # so that a prune that fails is tried again
        try:
            self._follower.pending.drop(taken.number)
            await self._store.prune(self.name, taken.number)
            self._pruned = taken.number
        except Unavailable as error:  # a full disk: it is kept for now
            log.warning("own_feed_not_pruned", feed=self.name, why=error.message)

    async def revoke(self, events: list[RevocationEvent]) -> None:
        """Append these revocations of our own, all that fit. Raises TooLarge, at the end, if one never does."""
        parts = [events[start : start + _AT_ONCE] for start in range(0, len(events), _AT_ONCE)]
        refusal: TooLarge | None = None
        while parts:
            part = parts.pop(0)
            name = f"{self.name}/{uuid.uuid4().hex}"
            changes = tuple(put(event) for event in part)
            try:
                await self.commit(Transaction(name, self._follower.position, frozenset(), changes))
            except TooLarge as error:
                middle = len(part) // 2
                if middle:
                    parts[:0] = [part[:middle], part[middle:]]
                else:
                    refusal = error
        if refusal is not None:
            raise refusal

    def _is_own(self, change: Change) -> bool:
        if not isinstance(change, Put):
            return False
        return change.table in {"revocations", "condemned"} or (
            change.table == "attempts" and change.key[1] == self._place
        )

    async def _settled(self, change: Change) -> Change:
        """What is written for a change: of a report, this site's row as it becomes. Raises Unavailable."""
        if not (isinstance(change, Put) and change.table == "attempts"):
            return change
        said = decode(Attempts, change.row)
        known = self._follower.pending.get(said.user_id)
        if known is None:
            known = await self._follower.overlay.get(Attempts, said.user_id, self._place)
        return put(joined(known, said))

    async def _append(self, waiting: _Waiting) -> Position:
        async with self._appending:
            if self._unsure:
                await self._read_on()
            if self._went_back:
                raise Unavailable("This site's own feed was restored from an older state; remove it and start again.")
            await self._write(waiting)
        self.sent()
        return Position(self._follower.position)

    async def _write(self, waiting: _Waiting) -> None:
        """Append, wherever the feed ends. Raises Unavailable if it surely is not there, else Unknown."""
        transaction, at = waiting.transaction, self._clock.now()
        end = self._clock.ticks() + DEADLINE_S
        refusal = Unavailable("This site's own feed is written by another process.")
        for _ in range(_TRIES):
            try:
                changes = tuple([await self._settled(change) for change in transaction.changes])
            except Unavailable:
                if isinstance(refusal, Unknown):
                    break
                raise
            entry = Entry(self.number + 1, transaction.id, at, changes)
            if is_too_large(entry):
                raise TooLarge
            waiting.under_way = True
            try:
                if await self._store.append(self.name, self.number, (entry,)):
                    self._know(entry)
                    return
            except Unknown as error:
                refusal = error
            except Unavailable:
                if not isinstance(refusal, Unknown):
                    raise
            if await self._shows(entry):
                return
            if self.number >= entry.number:  # another has its number, so it is not there and never will be
                refusal = Unavailable("This site's own feed is written by another process.")
            if self._clock.ticks() > end:
                break
        self._unsure = isinstance(refusal, Unknown)  # it may still come
        raise refusal

    async def _shows(self, mine: Entry) -> bool:
        """Whether the feed holds this entry. Raises Unknown if it cannot be read."""
        self._unsure = True
        try:
            found = await self._read_on()
        except Unavailable:
            raise Unknown from None
        return any((one.id, one.changes) == (mine.id, mine.changes) for one in found)

    async def _read_on(self) -> list[Entry]:
        """Know all that the feed holds, and return what was new. Raises Unavailable if it cannot be read."""
        head, found = await self._store.head(self.name), list[Entry]()
        try:
            while entries := await self._store.tail(self.name, self.number):
                for entry in entries:
                    self._know(entry)
                found += entries
        finally:
            if found:
                self.sent()
        if self.number < head:
            raise Unavailable("This site's own feed cannot be read yet.")
        self._unsure = False
        return found

    def _know(self, entry: Entry) -> None:
        self.number = entry.number
        self._follower.take(entry)
        self.took(entry)

    def _finished(self, task: asyncio.Task[Position]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be waiting


class LateAnswers:
    """What this site adds to revocations that came late: written into its own feed, in order, however often it takes.

    What a replica holds is asked nothing again by a later life of this process: so nothing gets there before its
    answers are `written`.
    """

    def __init__(self, own: OwnFeed, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._waiting: deque[list[RevocationEvent]] = deque()
        self._more = asyncio.Event()
        self._marks = Marks()
        self._put = self._written = 0

    def put(self, events: list[RevocationEvent]) -> None:
        """Have these written; they count in this process already."""
        self._waiting.append(events)
        self._put += 1
        self._more.set()

    async def written(self) -> None:
        """Return when all is durable that was put until now. What is put meanwhile is not waited for."""
        if self._put > self._written:
            await self._marks.wait(self._put)

    async def run(self) -> None:
        """Write, for ever; what cannot be written now is tried again, and what never fits is dropped with a word."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            try:
                await self._own.revoke(self._waiting[0])
            except TooLarge:  # the others are written; this one counts here, until this process ends
                log.error("late_revocation_dropped", why="it fits into no entry of this site's own feed")
            except Unavailable as error:
                log.error("late_revocation_not_written", why=str(error))
                await self._clock.sleep(_RETRY_S)
                continue
            self._waiting.popleft()
            self._written += 1
            self._marks.reached(self._written)


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
    size_bytes = changes = 0
    for place, entry in enumerate(entries[:limit]):
        size_bytes += len(encode_entry(entry))
        changes += len(entry.changes)
        if place and (size_bytes > limit_bytes or changes > MOST_CHANGES):
            return tuple(entries[:place])
    return tuple(entries[:limit])


def is_too_large(entry: Entry) -> bool:
    """Whether no site may have this in its feed, and no controller takes it."""
    return len(entry.changes) > MOST_CHANGES or len(encode_entry(entry)) > ENTRY_BYTES


def _nobody() -> None:
    """The send that nobody waits for."""


def _unheard(entry: Entry) -> None:
    """The entry that nobody else has to know of."""
