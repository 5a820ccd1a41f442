"""Applies entries of the log, in order, to index, fast path, key ring and replica; knows how fresh they are.

The same at a site, where `link` brings the entries, and at a controller, where `commit` does.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.holder import Holder
from regional_keystone.keys import KeyRing
from regional_keystone.log import Entry, Put, disturbed
from regional_keystone.model import RevocationEvent, Ring
from regional_keystone.overlay import Overlay
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import Touch, decode
from regional_keystone.revocation import Revocation, RevocationIndex

log = structlog.get_logger("follow")

BATCH = 512
LATE = "late/"  # ids of revocations by which a site answers one that reached back over its own issues
_ISSUED_LIMIT = 100_000
_RETRY_S = 1.0

Watcher = Callable[[int, set[Touch]], None]  # is told a position and what its entry disturbed


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
        heapq.heappush(self._waiting, (number, self._count, future))
        done, _ = await asyncio.wait([future], timeout=within_s)
        return bool(done)


class Follower:
    """In order, exactly as numbered; says how fresh it is; `projected` is what it may acknowledge."""

    def __init__(
        self, *, store: Writer, overlay: Overlay, holder: Holder, clock: Clock, lifetime_s: float, leads: bool = False
    ) -> None:
        self.overlay = overlay
        self.holder = holder
        self.index = RevocationIndex()
        self.watchers: list[Watcher] = []
        self.forgetters: list[Callable[[], None]] = []  # told when everything remembered may be wrong
        self.late: Callable[[list[RevocationEvent]], None] | None = None
        self.progress: Callable[[], None] = _nobody
        self._store = store
        self._clock = clock
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._leads = leads
        self._queue: deque[Entry] = deque()
        self._more = asyncio.Event()
        self._projected = 0
        self._noted, self._stored = Marks(), Marks()
        self._issued: dict[str, int] = {}
        self._head = 0
        self._echoes: deque[tuple[float, int]] = deque()
        self._fresh_ticks: float | None = None

    @property
    def ring(self) -> KeyRing:
        """The token ring in use. Raises Unavailable before the first has arrived."""
        return self.holder.ring

    @property
    def position(self) -> int:
        """Every answer from now on is at least as new as this entry of the log."""
        return self.overlay.position

    @property
    def projected(self) -> int:
        """Everything up to here is durable in this replica."""
        return self._projected

    @property
    def head(self) -> int:
        """The highest number of the log that has been heard of."""
        return max(self._head, self.position)

    def age_s(self) -> float:
        """Seconds since the newest moment at which all that the log held is known to be applied here; inf for never."""
        if self._leads:
            return 0.0
        return float("inf") if self._fresh_ticks is None else max(0.0, self._clock.ticks() - self._fresh_ticks)

    async def start(self) -> None:
        """Take over what the replica holds: at the beginning, and after a snapshot replaced it."""
        self._projected = await self.overlay.start()
        self._queue.clear()
        async for event in self.overlay.scan(RevocationEvent):
            self.index.add(revocation(event), event.keep_until)
        for forget in self.forgetters:
            forget()
        async for ring in self.overlay.scan(Ring):
            if ring.epoch > self.holder.seen.epoch:
                await self.holder.install(ring, self._clock.now())
        self._wake()

    def note(self, entries: Iterable[Entry]) -> None:
        """From now on every answer knows these entries. Raises ValueError if one before them is missing."""
        fresh = [entry for entry in entries if entry.number > self.position]
        late: list[RevocationEvent] = []
        for entry in fresh:
            self.overlay.note((entry,))
            for change in entry.changes:
                if change.table == "revocations" and isinstance(change, Put):
                    late += self._void(decode(RevocationEvent, change.row))
            touched = disturbed(entry.changes)
            for watch in self.watchers:
                watch(entry.number, touched)
        self._queue.extend(fresh)
        if late and self.late is not None:
            self.late(late)
        self._wake()

    async def run(self) -> None:
        """Project what was noted into the replica, for ever; a replica that cannot be written now is tried again."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                batch = [self._queue[place] for place in range(min(BATCH, len(self._queue)))]
                try:
                    await self._project(batch)
                except Unavailable as error:
                    log.error("replica_not_writable", position=self._projected, why=str(error))
                    await self._clock.sleep(_RETRY_S)

    async def reached(self, position: int, within_s: float) -> bool:
        """Whether answers are as new as `position`, now or within this time."""
        return position <= self.position or await self._noted.wait(position, within_s)

    async def settled(self, position: int, within_s: float) -> bool:
        """Whether the replica holds `position` durably, now or within this time."""
        return position <= self._projected or await self._stored.wait(position, within_s)

    def heard(self, ticks: float, head: int) -> None:
        """A controller named the head of its log after our probe of `ticks` had reached it."""
        self._head = max(self._head, head)
        self._echoes.append((ticks, head))
        self._refresh()

    def note_issue(self, user_id: str, at: int) -> None:
        """Remember that a token was issued here, in case a revocation that is on its way reaches back behind it."""
        if len(self._issued) >= _ISSUED_LIMIT:
            oldest = self._clock.now() - self._lifetime_us
            self._issued = {user: then for user, then in self._issued.items() if then > oldest}
        self._issued[user_id] = max(at, self._issued.get(user_id, 0))

    def void(self, event: RevocationEvent) -> None:
        """Make a revocation count here at once, before the log has it."""
        self.index.add(revocation(event), event.keep_until)

    async def _project(self, batch: Sequence[Entry]) -> None:
        for record in _rings(batch):
            await self.holder.install(record, self._clock.now())
        await self._store.apply(batch)
        for _ in batch:
            self._queue.popleft()
        self._projected = batch[-1].number
        self.overlay.drop(self._projected)
        self._stored.reached(self._projected)
        self.progress()

    def _void(self, event: RevocationEvent) -> list[RevocationEvent]:
        self.void(event)
        issued_at = self._issued.get(event.user_id or "", 0)
        if event.user_id is None or event.id.startswith(LATE):
            return []
        if issued_at // 1_000_000 <= event.issued_before // 1_000_000:
            return []
        del self._issued[event.user_id]
        return [
            msgspec.structs.replace(
                event,
                id=f"{LATE}{event.id}",
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


def _nobody() -> None:
    """The progress that nobody waits for."""
