"""Finds rows of a shared store that no entry of the log made so, names them, and lets the log say them again.

Nothing is mended that an entry may have changed meanwhile: a repair is a transaction like any other. Source: ADR 39.
"""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
import structlog

from controller.commit import Sequencer
from controller.housekeeping import mine
from controller.log_truth import LogTruth, Named
from regional_keystone.data_centre import pacing
from regional_keystone.drift import Drifting, Found, Reading, Said, Suspect, change_of, judge, too_many, top_of
from regional_keystone.errors import IdentityError, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import LOG, Change
from regional_keystone.messages import Drifted
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Lock, Writer
from regional_keystone.record import TABLES, Key, Touch, decode, indexed_values
from regional_keystone.sections import Convergence
from regional_keystone.sums import Path, leaf_of, leaf_path, touched_leaves

log = structlog.get_logger("repair")

FLOORS_S = 2.0  # how old what a controller knows of floors may be
KNOWN_S = 2.5 * FLOORS_S  # how long is waited until all controllers know them
_AHEAD_US = 3600 * 1_000_000  # a hand's clock may be so far ahead of ours
_RECENT = 2000  # entries of one reading whose rows are looked at each by itself
_SEARCHED = 50_000  # entries in which it is looked for what a record should be
_KEPT, _NAMED = 20, 100  # of what was found: in the status, in one reading's log lines
_SETTLE_S = 5.0


class Repair:
    """Reads all tables again and again; of several controllers whichever is first."""

    def __init__(
        self,
        *,
        drifting: Drifting,
        store: Writer,
        overlay: Overlay,
        sequencer: Sequencer,
        follower: Follower,
        lock: Lock,
        clock: Clock,
        section: Convergence,
    ) -> None:
        self.found: Counter[str] = Counter({"changed": 0, "lost": 0, "added": 0})
        self.last: deque[Drifted] = deque(maxlen=_KEPT)
        self.unmended = self.rows = self.waiting = self.moving = 0
        self.read_at: int | None = None
        self.lasted_s: float | None = None
        self._drifting, self._store, self._log = drifting, store, LogTruth(store)
        self._overlay, self._sequencer, self._follower = overlay, sequencer, follower
        self._lock, self._clock, self._section = lock, clock, section
        self._before: dict[str, tuple[int, Reading]] = {}  # what was read last, after which entry
        self._touched: dict[Path, int] = {}  # the last entry that touched a part of a table
        self._checked = 0  # the entry up to which rows were looked at each by itself
        self._judged = 0  # where the log stood when it was found out what rows should be
        self._named, self._known = 0, set[tuple[str, Key, str]]()
        self._one = asyncio.Lock()  # reading at a time: the operator's, or ours
        follower.watchers.append(self._saw)

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the controller does."""
        return [self.keep_floors(), self.run()] if self._section.interval_s else [self.keep_floors()]

    def export(self, tell: Callable[[str, Callable[[], Any]], None]) -> None:
        """Let metrics ask what was found."""
        tell("drift_rows", lambda: self.found)
        tell("drift_unmended", lambda: self.unmended)
        tell("drift_waiting", lambda: self.waiting)
        tell("convergence_rows", lambda: self.rows)
        tell("convergence_age_seconds", self.age_s)

    async def run(self) -> None:
        """Every `interval_s`, for ever."""
        while True:
            began = self._clock.ticks()
            try:
                async with mine(self._lock, "drift") as is_mine:
                    await (self.once() if is_mine else self._forget())
            except IdentityError as error:  # the store, or a busy log: it is tried again
                log.warning("rows_not_read", why=error.message)
            await self._clock.sleep(max(FLOORS_S, self._section.interval_s - (self._clock.ticks() - began)))

    async def keep_floors(self) -> None:
        """Know of the floors that another controller has raised, for ever; each has to, before it writes."""
        while True:
            try:
                await self._drifting.load_floors()
            except Unavailable as error:
                log.warning("floors_not_read", why=error.message)
            await self._clock.sleep(FLOORS_S)

    async def once(self) -> bool:
        """Read everything and mend what differs; whether all is as the log made it. Raises Unavailable."""
        async with self._one:
            if await self._unfit():
                return False
            began, rows, suspects, self.moving = self._clock.ticks(), 0, list[Suspect](), 0
            for table in TABLES:
                upto, reading = await self._read(table)
                rows, self.moving = rows + reading.rows, self.moving + len(reading.moving)
                suspects += [*reading.suspects, *await self._moved(table, upto, reading)]
            found = await self._judge_all([*suspects, *await self._recent()], _SEARCHED)
            self.rows, self.lasted_s = rows, self._clock.ticks() - began
            self.read_at, self._named = self._clock.now(), 0
            self.unmended = self.waiting = 0
            self._known &= {(one.table, one.key, one.how) for one in found}
            if too_many(len(found), rows, self._section.most_mended):
                self._stop(found, rows)
                return False
            await self._mend_all(found)
            return not found

    async def table(self, name: str, *, dry_run: bool) -> tuple[int, list[Drifted]]:
        """Read one table for an operator: how many rows it has, and what was found, however much that is."""
        async with self._one:
            self._check(await self._unfit())
            _, reading = await self._read(name)
            self._named = 0
            return reading.rows, await self._for_operator(reading.suspects, dry_run=dry_run)

    async def stretch(self, after: int, *, dry_run: bool) -> tuple[int | None, list[Drifted]]:
        """Whether the tables show what this stretch of the log says; where the next one begins, None at the end."""
        async with self._one:
            self._check(await self._unfit())
            applied = await self._store.applied(LOG)
            upto = min(applied, after + _RECENT)
            said = await self._log.touched(after, upto, _RECENT, lambda table, _: table in TABLES)
            suspects = await self._outdated(said)
            found = await self._for_operator(suspects, dry_run=dry_run)
            return (upto if upto < applied else None), found

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        return {
            "read_at": self.read_at,
            "rows": self.rows,
            "reading_s": None if self.lasted_s is None else round(self.lasted_s, 3),
            "undecided": self.moving,
            "unmended": self.unmended,
            "waiting": self.waiting,
            "found": dict(self.found),
            "last": [msgspec.structs.asdict(one) for one in self.last],
        }

    def age_s(self) -> float:
        """Seconds since everything was read last; inf for never."""
        return float("inf") if self.read_at is None else max(0.0, (self._clock.now() - self.read_at) / 1_000_000)

    async def _unfit(self) -> str:
        """Why nothing can be said of the tables now."""
        if await self._drifting.busy():
            return "The tables are being replaced, or are empty."
        known = max(self._follower.position, self._follower.head)
        return "" if await self._follower.settled(known, _SETTLE_S) else "The tables are behind the log."

    async def _forget(self) -> None:
        """Another controller reads: by the time that this one does, what it knows is old."""
        self._before.clear()
        self._touched.clear()

    def _check(self, why: str) -> None:
        if why:
            raise Unavailable(f"{why} Try again later.")

    async def _read(self, table: str) -> tuple[int, Reading]:
        """What lies in a table, and the entry up to which all had arrived there before."""
        pace = pacing(self._clock, self._section.rows_per_s)
        upto = await self._store.applied(LOG)
        return upto, await self._drifting.read(table, upto, pace)

    async def _moved(self, table: str, upto: int, reading: Reading) -> list[Suspect]:
        """The records in parts of a table without copies that are others than they were, without an entry."""
        facts = TABLES[table]
        if facts.indexed and not facts.small:
            return []
        since, before = self._before.get(table, (upto, reading))
        leaves = {one for one in before.sums.keys() | reading.sums if _sum(before, one) != _sum(reading, one)}
        leaves -= before.moving | reading.moving
        leaves = {one for one in leaves if self._touched.get(leaf_path(table, one), 0) <= since}
        sums = {one: value for one, value in reading.sums.items() if one not in leaves}
        sums |= {one: before.sums[one] for one in leaves if one in before.sums}
        self._before[table] = upto, reading._replace(sums=sums)
        return await self._told_of(table, leaves, upto) if leaves else []

    async def _told_of(self, table: str, leaves: set[str], upto: int) -> list[Suspect]:
        """Every record in these parts that lies there or of which the log speaks."""
        facts = TABLES[table]

        def moved(name: str, key: Key) -> bool:
            return name == table and leaf_of(facts, key) in leaves

        said = await self._log.touched(0, upto, _SEARCHED, moved)
        keys = {key for _, key in said}
        for leaf in leaves:
            keys |= await self._drifting.read_leaf(table, leaf)
            log.error("rows_moved", kind=table, begins=leaf, why="they are others than a moment ago, without an entry")
        return [Suspect(table, key) for key in sorted(keys, key=repr)]

    async def _recent(self) -> list[Suspect]:
        """Records whose newest entry the tables do not show, of the entries since the last reading."""
        applied = await self._store.applied(LOG)
        after = max(self._checked, applied - _RECENT)
        said = await self._log.touched(after, applied, _RECENT, lambda table, _: table in TABLES)
        self._checked = applied
        return await self._outdated(said)

    async def _outdated(self, said: dict[Named, Said]) -> list[Suspect]:
        found = []
        for (table, key), word in said.items():
            lain = await self._drifting.row(table, key)
            right = lain.sure and (lain.at or 0) >= word.number and (lain.at != word.number or lain.row == word.row)
            if not right and not (word.row is None and lain.at is None and lain.row is None):
                found.append(Suspect(table, key))
        return found

    async def _judge_all(self, suspects: Iterable[Suspect], most: int) -> list[Found]:
        """What is wrong with these, looked at once more, each with what the log says of it."""
        wanted = dict[Named, Suspect]()
        for one in suspects:
            known = wanted.setdefault((one.table, one.key), one)
            wanted[one.table, one.key] = one._replace(places=one.places | known.places)
        self._judged = upto = await self._store.applied(LOG)
        # of what is not there at all, only the log can say that it should be
        doubtful = [named for named, one in wanted.items() if await self._is_doubtful(one)]
        said, is_whole = await self._log.newest(doubtful, upto, most) if doubtful else ({}, False)
        found = [await self._judge(wanted[one], said.get(one), is_whole=is_whole) for one in doubtful]
        return [one for one in found if one is not None]

    async def _is_doubtful(self, suspect: Suspect) -> bool:
        lain = await self._drifting.lain(suspect)
        return top_of(lain) is None or judge(suspect, lain, None, self._drifting.places, is_whole=False) is not None

    async def _judge(self, suspect: Suspect, said: Said | None, *, is_whole: bool = False) -> Found | None:
        lain = await self._drifting.lain(suspect)
        top = top_of(lain)
        if said is None and top is not None:
            said = await self._log.at((suspect.table, suspect.key), top)
        return judge(suspect, lain, said, self._drifting.places, is_whole=is_whole)

    async def _for_operator(self, suspects: Iterable[Suspect], *, dry_run: bool) -> list[Drifted]:
        found = await self._judge_all(suspects, 1 << 60)
        if dry_run:
            return [self._drifted(one, mended=False) for one in found]
        return await self._mend_all(found)

    def _stop(self, found: list[Found], rows: int) -> None:
        self.waiting = len(found)
        log.error(
            "drift_waits_for_operator",
            wrong=len(found),
            rows=rows,
            records=[f"{one.table}/{_text(one.key)}" for one in found[:_KEPT]],
            cure="find out who did this; `rkctl db repair --dry-run` shows all, `rkctl db repair` puts them right",
        )

    async def _mend_all(self, found: list[Found]) -> list[Drifted]:
        known = [one for one in found if one.known]
        if known:
            floor = self._clock.now() + _AHEAD_US
            await self._drifting.raise_floors({lain.place for one in known for lain in one.wrong}, floor)
            await self._clock.sleep(KNOWN_S)
        told = []
        for one in found:
            mended = one.known and await self._mend(one)
            told.append(self._name(one, mended=mended))
        return told

    async def _mend(self, found: Found) -> bool:
        """Let the log say it again, unless it says something newer by now; whether all is right then."""
        suspect = Suspect(found.table, found.key, frozenset(one.place for one in found.wrong))

        async def decide(reader: Recording) -> tuple[list[Change], Found | None]:
            reader.depend([(found.table, *found.key)])
            if not await self._follower.settled(reader.position, _SETTLE_S):
                raise Unavailable("The tables are behind the log.")
            later = max(1, reader.position - self._judged)  # what it was to be may be told by an entry since
            named = (found.table, found.key)
            said, _ = await self._log.newest([named], reader.position, later)
            again = await self._judge(suspect, said.get(named, Said(self._judged, found.row)))
            return ([], None) if again is None else ([change_of(again, _values)], again)

        now, position = await transact(self._overlay, self._sequencer, f"drift/{secrets.token_hex(8)}", decide)
        if now is None or position is None:
            return True
        if not await self._follower.settled(position, _SETTLE_S):
            return False
        wanted = set() if now.row is None else self._drifting.places(now.table, now.key, now.row)
        await self._drifting.petrify([one.place for one in now.wrong if one.place not in wanted], position)
        return await self._judge(suspect, Said(position, now.row)) is None

    def _name(self, found: Found, *, mended: bool) -> Drifted:
        told = self._drifted(found, mended=mended)
        self.found[found.how] += mended
        self.unmended += not mended
        name = (found.table, found.key, found.how)
        if not mended and name in self._known:
            return told
        self._known.add(name)
        self.last.append(told)
        self._named += 1
        if self._named <= _NAMED:
            event = "drift_mended" if mended else "drift_not_mended"
            log.error(event, kind=told.table, record=told.key, how=told.how, known=found.known)
        return told

    def _drifted(self, found: Found, *, mended: bool) -> Drifted:
        return Drifted(found.table, _text(found.key), found.how, self._clock.now(), mended)

    def _saw(self, position: int, touched: set[Touch]) -> None:
        self._touched |= dict.fromkeys(touched_leaves(touched), position)


def _sum(reading: Reading, leaf: str) -> int:
    return reading.sums.get(leaf, 0)


def _text(key: Key) -> str:
    return "/".join(map(str, key))


def _values(table: str, row: bytes) -> dict[str, Any] | None:
    try:
        return indexed_values(decode(TABLES[table].kind, row))
    except ValueError:  # rubbish
        return None
