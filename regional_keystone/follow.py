"""Applies entries of the log, in order, to index, fast path, key ring and replica; knows how fresh they are.

The same at a site, where `link` brings the entries, and at a controller, where `commit` does.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from regional_keystone.attempts import Pending
from regional_keystone.bundle import Seen
from regional_keystone.errors import Unavailable
from regional_keystone.holder import Holder
from regional_keystone.keys import KeyRing
from regional_keystone.log import LOG, Entry, Put, Remove, disturbed
from regional_keystone.model import Attempts, RevocationEvent, Ring, Taken
from regional_keystone.overlay import Overlay
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import R, Touch, decode, spread, unspread
from regional_keystone.revocation import Revocation, RevocationIndex

log = structlog.get_logger("follow")

BATCH = 512
LATE = "late/"  # begins the names of revocations by which a site answers one that reached back over its own issues
_ISSUED_LIMIT = 100_000
_ECHOES = 1024
_RETRY_S = 1.0
_SAY_AGAIN_S = 60.0
APART_S = 5.0  # a site that has not heard for longer may have been left behind by a turn of the keys
_CHANGE_BYTES = 1024  # what a change takes in memory beside its row
_RETRY_KEYS_S = 60.0  # a ring that is refused again and again is tried, and complained of, less often

Watcher = Callable[[int, set[Touch]], None]  # is told a position and what its entry disturbed


class Relay(Protocol):
    """Is told in order, as it happens, what a follower learns, so that others can follow it."""

    def noted(self, entries: Sequence[Entry]) -> None:
        """Every answer knows these entries now."""
        ...

    def heard(self, ticks: float, head: int, now: int) -> None:
        """A controller named the head of its log, and its wall clock."""
        ...

    def stored(self, projected: int) -> None:
        """Everything up to here is in the replica."""
        ...

    def replaced(self) -> None:
        """A snapshot took the replica's place."""
        ...


class Marks:
    """Wakes who waits for a number that only grows."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def reached(self, number: int) -> None:
        """Wake everyone who waits for this number or less."""
        while self._waiting and self._waiting[0][0] <= number:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def wait(self, number: int, within_s: float | None = None) -> bool:
        """Wait for a number that has not been reached yet; False when it takes longer."""
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        waiting = (number, self._count, future)
        heapq.heappush(self._waiting, waiting)
        try:
            await asyncio.wait([future], timeout=within_s)
        finally:
            if not future.done():  # what was given up is not kept until its number comes, which may be never
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
        return future.done()


class Follower:
    """In order, exactly as numbered; says how fresh it is; `projected` is what it may acknowledge."""

    def __init__(
        self,
        *,
        store: Writer,
        overlay: Overlay,
        holder: Holder,
        clock: Clock,
        lifetime_s: float,
        leads: bool = False,
        others: Iterable[Holder] = (),
    ) -> None:
        """`holder` is of the ring that seals tokens, `others` are of the rings beside it."""
        self.overlay = overlay
        self.holder = holder
        self.holders = {one.of: one for one in (holder, *others)}
        self.index = RevocationIndex()
        self.pending = Pending()
        self.watchers: list[Watcher] = []
        self.forgetters: list[Callable[[], None]] = []  # told when everything remembered may be wrong
        self.late: Callable[[list[RevocationEvent]], None] | None = None
        self.own: str | None = None  # the site's own feed: its revocations were known when they were made
        self.progress: Callable[[], None] = _nobody
        self.relay: Relay | None = None
        self.apply: Callable[[Sequence[Entry]], Awaitable[None]] = store.apply
        self._store = store
        self._clock = clock
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._leads = leads
        self._queue: deque[Entry] = deque()
        self._queue_bytes = 0
        self._more = asyncio.Event()
        self._projected = 0
        self._noted, self._stored = Marks(), Marks()
        self._issued: dict[str, int] = {}
        self._issued_limit = _ISSUED_LIMIT
        self._epoch = 0  # of the newest token ring that the log tells of
        self._behind = (-1, 0.0)  # where the replica stood when that was complained of last, and when
        self._owed: dict[str, Ring] = {}  # rings of the log that could not be installed yet
        self._retry_keys_s = _RETRY_S
        self._head = 0
        self._echoes: deque[tuple[float, int]] = deque()
        self._fresh_ticks: float | None = None
        self._ahead_us = 0

    @property
    def ring(self) -> KeyRing:
        """The token ring in use. Raises Unavailable before the first has arrived."""
        return self.holder.ring

    @property
    def seen(self) -> dict[str, Seen]:
        """What is installed of each ring."""
        return {name: holder.seen for name, holder in self.holders.items()}

    @property
    def position(self) -> int:
        """Every answer from now on is at least as new as this entry of the log."""
        return self.overlay.position

    @property
    def projected(self) -> int:
        """Everything up to here is durable in this replica."""
        return self._projected

    @property
    def waiting_bytes(self) -> int:
        """About how much memory is taken by what is not in the replica yet."""
        return self._queue_bytes

    @property
    def head(self) -> int:
        """The highest number of the log that has been heard of."""
        return max(self._head, self.position)

    def age_s(self) -> float:
        """Seconds since the newest moment at which all that the log held is known to be applied here; inf for never."""
        if self._leads:
            return 0.0
        return float("inf") if self._fresh_ticks is None else max(0.0, self._clock.ticks() - self._fresh_ticks)

    def fresh_at(self) -> int | None:
        """The wall clock at the newest moment at which all was known here; None for never."""
        age_s = self.age_s()
        return None if age_s == float("inf") else self._clock.now() - int(age_s * 1_000_000)

    def recall(self, fresh_at: int | None) -> None:
        """Take up `fresh_at` of an earlier life of this replica, as far as the wall clock can be believed."""
        if fresh_at is not None and fresh_at <= self._clock.now():
            self._fresh_ticks = self._clock.ticks() - (self._clock.now() - fresh_at) / 1_000_000

    async def start(self) -> None:
        """Take over what the replica holds: at the beginning, and after a snapshot replaced it."""
        at = await self._store.applied(LOG)  # first: another process may be writing, and what it adds is told later
        async for event in self._store.scan(RevocationEvent):  # they count before the position says that they do
            self.void(event)
        before, position = self.overlay.position, await self.overlay.start(at)
        if position > before:  # else what waits is not in the replica yet
            self._projected = position
            self._queue.clear()
            self._queue_bytes = 0
            self._stored.reached(position)
        for forget in self.forgetters:
            forget()
        async for ring in self._store.scan(Ring):
            if ring.id in self.holders and ring.epoch > self.holders[ring.id].seen.epoch:
                await self._install(ring)
        self._wake()
        if self.relay is not None:
            self.relay.replaced()

    def note(self, entries: Iterable[Entry]) -> None:
        """From now on every answer knows these entries. Raises ValueError if one before them is missing."""
        late: list[RevocationEvent] = []
        noted: list[Entry] = []
        try:
            for entry in entries:
                if entry.number > self.position:
                    late += self._note(entry)
                    noted.append(entry)
        finally:  # what came before the fault holds, and is projected
            if noted and self.relay is not None:
                self.relay.noted(noted)
            if late and self.late is not None:
                self.late(late)
            self._wake()

    async def run(self) -> None:
        """Project what was noted into the replica, for ever; a replica that cannot be written now is tried again."""
        while True:
            await self._work()
            while self._queue:
                batch = [self._queue[place] for place in range(min(BATCH, len(self._queue)))]
                try:
                    await self._project(batch)
                except Unavailable as error:
                    self._say_behind(error)
                    await self._clock.sleep(_RETRY_S)

    async def reached(self, position: int, within_s: float) -> bool:
        """Whether answers are as new as `position`, now or within this time."""
        return position <= self.position or await self._noted.wait(position, within_s)

    async def settled(self, position: int, within_s: float) -> bool:
        """Whether the replica holds `position` durably, now or within this time."""
        return position <= self._projected or await self._stored.wait(position, within_s)

    def heard(self, ticks: float, head: int, now: int = 0) -> None:
        """A controller named the head of its log, and its wall clock, after our probe of `ticks` had reached it."""
        if ticks > self._clock.ticks():
            return  # no probe of ours: it would look fresh for as long as it is ahead
        if self.relay is not None:
            self.relay.heard(ticks, head, now)
        if now:  # at least so far ahead: it was then that the answer was on its way
            self._ahead_us = self._clock.now() - now - int((self._clock.ticks() - ticks) * 1_000_000)
        self._head = max(self._head, head)
        if self._echoes and (self._echoes[-1][1] == head or len(self._echoes) == _ECHOES):
            last_ticks, last_head = self._echoes.pop()
            ticks, head = max(ticks, last_ticks), max(head, last_head)
        self._echoes.append((ticks, head))
        self._refresh()

    def may_lack_key(self, sealed_at: int) -> bool:
        """Whether a key that is not known here may have sealed something by then, in microseconds since 1970 UTC.

        A ring of the log that is still to be installed has such keys; so may one that was turned while we were away.
        """
        if self._epoch > self.holder.seen.epoch:
            return True
        fresh_at = self.fresh_at()
        return fresh_at is None or (self.age_s() > APART_S and sealed_at > fresh_at)

    def ahead_s(self) -> float:
        """How far this machine's clock is ahead of the controllers', as far as that is certain."""
        return self._ahead_us / 1_000_000

    def note_issue(self, user_id: str, at: int) -> None:
        """Remember that a token was issued here, in case a revocation that is on its way reaches back behind it."""
        if len(self._issued) >= self._issued_limit:
            oldest = self._clock.now() - self._lifetime_us
            self._issued = {user: then for user, then in self._issued.items() if then > oldest}
            self._issued_limit = max(_ISSUED_LIMIT, 2 * len(self._issued))
        self._issued[user_id] = max(at, self._issued.get(user_id, 0))

    def void(self, event: RevocationEvent) -> None:
        """Make a revocation count here at once, before the log has it."""
        self.index.add(revocation(event), event.keep_until)

    def take(self, entry: Entry) -> None:
        """Make an entry of the site's own feed count here, before the log has it."""
        for change in entry.changes:
            if isinstance(change, Put) and change.table == "revocations":
                self.void(decode(RevocationEvent, change.row))
            elif isinstance(change, Put) and change.table == "attempts":
                self.pending.note(entry.number, decode(Attempts, change.row))

    async def durable(self, kind: type[R], *key: Any) -> R | None:
        """The record as this replica holds it durably, whatever has been noted since."""
        return await self._store.get(kind, *key)

    def _note(self, entry: Entry) -> list[RevocationEvent]:
        events = [
            decode(RevocationEvent, change.row)
            for change in entry.changes
            if change.table == "revocations" and isinstance(change, Put)
        ]
        for ring in _rings((entry,)):
            self._epoch = max(self._epoch, ring.epoch) if ring.id == self.holder.of else self._epoch
        self.overlay.note((entry,))
        self._queue.append(entry)
        self._queue_bytes += _size_bytes(entry)
        for change in entry.changes:
            if change.table == "taken" and change.key == (self.own,) and isinstance(change, Put):
                self.pending.drop(decode(Taken, change.row).number)  # from now on the log shows it
        late = [answer for event in events for answer in self._void(event)]
        if any(change.table == "revocations" and isinstance(change, Remove) for change in entry.changes):
            self.index.expire(entry.at)
        touched = disturbed(entry.changes)
        for watch in self.watchers:
            watch(entry.number, touched)
        return late

    async def _work(self) -> None:
        """Wait until something is to be projected; meanwhile try again to install a ring that was refused."""
        while self._owed and not self._more.is_set():
            try:
                async with asyncio.timeout(self._retry_keys_s):
                    await self._more.wait()
            except TimeoutError:
                for owed in list(self._owed.values()):
                    await self._install(owed)
        await self._more.wait()
        self._more.clear()

    def _say_behind(self, error: Unavailable) -> None:
        """Complain of a replica that does not get on: at once, then now and then for as long as it stands there."""
        position, ticks = self._behind
        if position != self._projected or self._clock.ticks() - ticks >= _SAY_AGAIN_S:
            self._behind = (self._projected, self._clock.ticks())
            log.error("replica_behind", position=self._projected, known=self.position, why=error.message)

    async def _install(self, record: Ring) -> None:
        holder = self.holders.get(record.id)
        if holder is None:
            return  # of a newer version
        if await holder.install(record, self._clock.now()) or record.epoch <= holder.seen.epoch:
            self._owed.pop(record.id, None)
            self._retry_keys_s = _RETRY_S
            self.progress()
        else:
            again = record == self._owed.get(record.id)
            self._retry_keys_s = min(2 * self._retry_keys_s, _RETRY_KEYS_S) if again else _RETRY_S
            self._owed[record.id] = record

    async def _project(self, batch: Sequence[Entry]) -> None:
        for record in _rings(batch):
            await self._install(record)
        await self.apply(batch)
        last = batch[-1].number
        while self._queue and self._queue[0].number <= last:  # a snapshot may have emptied it meanwhile
            self._queue_bytes -= _size_bytes(self._queue.popleft())
        self._projected = max(self._projected, last)
        self.overlay.drop(self._projected)
        self._stored.reached(self._projected)
        if self.relay is not None:
            self.relay.stored(self._projected)
        self.progress()

    def _void(self, event: RevocationEvent) -> list[RevocationEvent]:
        self.void(event)
        issued_at = self._issued.get(event.user_id or "", 0)
        name = unspread(event.id)
        if name.startswith(LATE) or (self.own is not None and name.startswith(f"{self.own}/")):
            return []
        if issued_at // 1_000_000 <= event.issued_before // 1_000_000:
            return []
        return [
            msgspec.structs.replace(
                event,
                id=spread(f"{LATE}{event.id}"),
                issued_before=issued_at,
                keep_until=issued_at + event.keep_until - event.issued_before,
            )
        ]

    def _wake(self) -> None:
        self._noted.reached(self.position)
        self._refresh()
        self._more.set()

    def _refresh(self) -> None:
        while self._echoes and self._echoes[0][1] <= self.position:
            ticks, _ = self._echoes.popleft()
            self._fresh_ticks = max(ticks, self._fresh_ticks or ticks)


def revocation(event: RevocationEvent) -> Revocation:
    """The rule that a stored event stands for."""
    return Revocation(**{name: getattr(event, name) for name in Revocation.__struct_fields__})


def _rings(batch: Sequence[Entry]) -> list[Ring]:
    """The newest of each ring that these entries turn."""
    found: dict[Any, Ring] = {}
    for entry in batch:
        for change in entry.changes:
            if change.table == "rings" and isinstance(change, Put):
                found[change.key] = decode(Ring, change.row)
    return list(found.values())


def _size_bytes(entry: Entry) -> int:
    return sum(_CHANGE_BYTES + (len(change.row) if isinstance(change, Put) else 0) for change in entry.changes)


def _nobody() -> None:
    """The progress that nobody waits for."""
