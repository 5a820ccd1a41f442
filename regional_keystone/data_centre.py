"""What a site's data centre has lost of the store that several share, named and given back by the others.

Also the copies by which rows are found. What no data centre has as the log made it is a controller's to put right.
Source: ADR 39.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from regional_keystone.drift import Behind, Levelling, Pace
from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import LOG
from regional_keystone.messages import Drifted
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import TABLES
from regional_keystone.refresh import Refresh, touched_by
from regional_keystone.sections import Convergence

log = structlog.get_logger("data_centre")

_KEPT, _NAMED = 20, 100  # of what was found: in the status, in one comparison's log lines
_AGAIN_S, _SETTLE_S = 2.0, 5.0
_AHEAD = 64  # entries that may come while it is noted that rows were wrong


def pacing(clock: Clock, rows_per_s: int) -> Pace:
    """No more rows than so many a second, from now on."""
    began, rows = clock.ticks(), 0

    async def pace(count: int) -> None:
        nonlocal rows
        rows += count
        due_s = rows / rows_per_s - (clock.ticks() - began)
        if due_s > 0:
            await clock.sleep(due_s)

    return pace


class DataCentre:
    """Compares what this data centre shows with what most have, again and again."""

    def __init__(
        self,
        *,
        levelling: Levelling,
        store: Writer,
        follower: Follower,
        refresh: Refresh,
        clock: Clock,
        section: Convergence,
        note_repair: Callable[[int], Awaitable[None]],
    ) -> None:
        """`note_repair`: make durable that what was read up to this position may have been wrong."""
        self.found: Counter[str] = Counter({"changed": 0, "lost": 0, "added": 0})
        self.last: deque[Drifted] = deque(maxlen=_KEPT)
        self.unmended = self.rows = 0
        self.equal_at: int | None = None
        self.lasted_s: float | None = None
        self._levelling, self._store, self._follower, self._refresh = levelling, store, follower, refresh
        self._clock, self._section, self._note_repair = clock, section, note_repair
        self._named = 0

    async def run(self) -> None:
        """Every `interval_s`, for ever."""
        while True:
            began = self._clock.ticks()
            try:
                await self.once()
            except Unavailable as error:  # cut off from the others: what is here is all there is
                log.warning("not_compared", why=error.message)
            pause_s = 0.0 if self._refresh.owes else self._section.interval_s - (self._clock.ticks() - began)
            await self._clock.sleep(max(_AGAIN_S, pause_s))

    async def once(self) -> bool:
        """Compare everything; whether this data centre lacked nothing. Raises Unavailable."""
        if self._refresh.owes:
            await self._refresh.begin(())
        known = max(self._follower.position, self._follower.head)
        if not known or not await self._follower.settled(known, _SETTLE_S):
            return False  # it is catching up
        began, rows, behind = self._clock.ticks(), 0, list[Behind]()
        self._named = 0
        await self._levelling.load_floors()
        for table in TABLES:
            count, some = await self._compare(table)
            rows, behind = rows + count, behind + some
            if some:
                await self._forget(some)
        self.rows, self.lasted_s = rows, self._clock.ticks() - began
        self.unmended = sum(not one.back for one in behind)
        if not behind:
            self.equal_at = self._clock.now()
        return not behind

    def age_s(self) -> float:
        """Seconds since all was equal last; inf for never."""
        return float("inf") if self.equal_at is None else max(0.0, (self._clock.now() - self.equal_at) / 1_000_000)

    def export(self, tell: Callable[[str, Callable[[], Any]], None]) -> None:
        """Let metrics ask what was found."""
        tell("drift_rows", lambda: self.found)
        tell("drift_unmended", lambda: self.unmended)
        tell("convergence_rows", lambda: self.rows)
        tell("convergence_age_seconds", self.age_s)

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        return {
            "equal_at": self.equal_at,
            "rows": self.rows,
            "reading_s": None if self.lasted_s is None else round(self.lasted_s, 3),
            "unmended": self.unmended,
            "found": dict(self.found),
            "last": [msgspec.structs.asdict(one) for one in self.last],
        }

    async def _compare(self, table: str) -> tuple[int, list[Behind]]:
        pace = pacing(self._clock, self._section.rows_per_s)
        return await self._levelling.level_out(table, await self._store.applied(LOG), pace)

    async def _forget(self, behind: list[Behind]) -> None:
        """Name what was wrong here; nothing that was made of it is believed any more."""
        for one in behind:
            self._name(one)
        await self._note_repair(self._follower.position + _AHEAD)
        touched = (touched_by(one.table, one.key, one.due.row, one.was and one.was.row) for one in behind)
        await self._refresh.begin(set[Any]().union(*touched))

    def _name(self, one: Behind) -> None:
        lay = None if one.was is None else one.was.row
        how = "added" if one.due.row is None else "lost" if lay is None else "changed"
        key = "/".join(map(str, one.key))
        self.found[how] += one.back
        self.last.append(Drifted(one.table, key, how, self._clock.now(), one.back))
        self._named += 1
        if self._named <= _NAMED:
            event = "drift_mended" if one.back else "drift_not_mended"
            log.error(event, kind=one.table, record=key, how=how, where=one.due.place[0])
