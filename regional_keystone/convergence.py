"""Compares a site's replica with the controller's tables, names each row that differs, and puts it right.

Entries alone keep replicas equal; this is for what no entry did: a hand in the file, a disk that forgot, our own fault.
Source: ADR 35.
"""

import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import msgspec
import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.messages import Ask, Compare, Compared, Convergence, Drifted, Sum, Told, encode
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import TABLES, Key, Touch
from regional_keystone.refresh import Refresh, touched_by
from regional_keystone.sums import DEPTH, SUM_BYTES, Lying, Node, Path
from regional_keystone.survey import Survey

log = structlog.get_logger("convergence")

_NODES = 64  # of one question
_MOST = 4096  # nodes of one comparison; what is left comes next time
_LEAVES = 1024  # leaves of one comparison that are looked into row by row
_WANTED = 100  # rows of one question
_ROUNDS = 3  # of comparing and mending before the next reading
_KEPT = 20  # of what was found
_NAMED = 100  # log lines of one comparison
_CHECKED = 5000  # revocations of one time that are asked for in memory
_AHEAD = 64  # entries that may come between the note of a repair and the repair
_AGAIN_S = 2.0
_REVOCATIONS = "revocations"

Question: TypeAlias = Callable[[Compare | Ask], Awaitable[Compared | Told | None]]


class Comparing:
    """Reads, asks, and mends, for ever. Nothing is mended that an entry on its way, here or there, may have changed."""

    def __init__(
        self,
        *,
        survey: Survey,
        store: Writer,
        refresh: Refresh,
        ask: Question,
        tell: Callable[[Convergence], Awaitable[None]],
        clock: Clock,
        interval_s: float,
        note_repair: Callable[[int], Awaitable[None]],
    ) -> None:
        """`note_repair`: make durable that what was read up to this position may have been wrong."""
        self.found: Counter[str] = Counter({"changed": 0, "lost": 0, "added": 0})
        self.bytes: Counter[str] = Counter({"sent": 0, "received": 0})
        self.last: deque[Drifted] = deque(maxlen=_KEPT)
        self.equal_at: int | None = None
        self.undecided = self.unmended = 0
        self.uncounted = 0  # revocations that lay there and did not count
        self._counted_from = 0
        self.survey = survey
        self._store, self._refresh = store, refresh
        self._ask, self._tell = ask, tell
        self._clock, self._interval_s = clock, interval_s
        self._note_repair = note_repair
        self._noted = self._repaired = 0  # positions: up to which that is durable, and up to which it is so
        self._ids = itertools.count(1)
        self._named: list[tuple[str, Key, str]] = []  # in this comparison
        self._known: set[tuple[str, Key, str]] = set()  # in the one before

    async def run(self) -> None:
        """Begin every `interval_s`, or soon after somebody has written by hand, or as soon as the last time is over."""
        while True:
            began = self._clock.ticks()
            try:
                await self.once()
            except Unavailable as error:
                log.warning("not_compared", why=error.message)
            pause_s = 0.0 if self._refresh.owes else self._interval_s - (self._clock.ticks() - began)
            await self.survey.rest(max(_AGAIN_S, pause_s))

    async def once(self) -> bool:
        """Read what may have changed, compare, mend; whether all is equal now. Raises Unavailable for the own store."""
        if self._refresh.owes:
            await self._refresh.begin(())
        await self.survey.read(self._interval_s)
        self._named, self.unmended = [], 0
        equal = False
        for turn in range(_ROUNDS):
            if turn and self.undecided:
                await self._clock.sleep(_AGAIN_S)  # until entries under way have arrived everywhere
            await self.survey.freshen()
            leaves = await self._differing()
            if leaves is None:
                return False
            mended = [await self._compare_rows(path) for path in leaves[:_LEAVES]]
            equal = not leaves and not self.undecided
            if equal or not (any(mended) or self.undecided):
                break
        if equal:
            self.equal_at = self._clock.now()
            await self._check_revocations()
        if self._repaired and self._noted > self._repaired:
            self._noted = self._repaired
            await self._note_repair(self._noted)
        self._known = set(self._named)
        await self._tell(Convergence(self.equal_at, self.found.total(), self.unmended, tuple(self.last)))
        return equal

    async def _check_revocations(self) -> None:
        """Whether what lies there counts: of all leaves, so many rows a time as take no time that could be felt."""
        leaves = [path for path, _ in self.survey.tree.leaves() if path[0] == _REVOCATIONS]
        start, rows = self._counted_from % max(1, len(leaves)), 0
        for done, path in enumerate([*leaves[start:], *leaves[:start]]):
            if rows >= _CHECKED:
                break
            _, lying = await self._store.lying(*path[:: DEPTH - 1])
            self.uncounted += self._refresh.check((one.row for one in lying), self._clock.now())
            rows, self._counted_from = rows + len(lying), start + done + 1

    def age_s(self) -> float:
        """Seconds since all was equal last; inf for never."""
        return float("inf") if self.equal_at is None else max(0.0, (self._clock.now() - self.equal_at) / 1_000_000)

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        return {
            "equal_at": self.equal_at,
            "rows": self.survey.rows,
            "reading_s": None if self.survey.lasted_s is None else round(self.survey.lasted_s, 3),
            "undecided": self.undecided,
            "unmended": self.unmended,
            "found": dict(self.found),
            "last": [msgspec.structs.asdict(one) for one in self.last],
        }

    async def _differing(self) -> list[Path] | None:
        """The leaves that surely differ; None where it could not be found out."""
        self.undecided, asked = 0, 0
        leaves = list[Path]()
        waiting: deque[Path] = deque([()])
        while waiting and asked < _MOST:
            paths = tuple(waiting.popleft() for _ in range(min(_NODES, len(waiting))))
            asked += len(paths)
            told = await self._question(Compare(next(self._ids), paths))
            if not isinstance(told, Compared) or told.sums is None or len(told.sums) != len(paths):
                return None
            for path, sums in zip(paths, told.sums, strict=True):
                for below in self._unequal(path, sums, told.position):
                    (leaves if len(below) == DEPTH else waiting).append(below)
        self.undecided += len(waiting)
        return leaves

    def _unequal(self, path: Path, sums: Iterable[Sum], position: int) -> list[Path]:
        """What is below this node and has to be looked at; of leaves, those that differ for certain."""
        node = self.survey.tree.at(path)
        mine = {} if node is None else node.children
        theirs = {one.name: one for one in sums}
        found = []
        for name in mine.keys() | theirs.keys():
            if not path and name not in TABLES:
                continue  # of another version: kept apart, and not compared
            below, one, other = (*path, name), mine.get(name, _NOTHING), theirs.get(name, _NONE)
            comparable = self._comparable(one, other, position)
            equal = one.sum == int.from_bytes(other.sum, "big")
            if comparable and equal and not other.doubted:
                continue
            if len(below) < DEPTH or comparable:
                found.append(below)
            elif not comparable:
                self.undecided += 1
        return found

    def _comparable(self, mine: Node, theirs: Sum, position: int) -> bool:
        """Whether there is a position at which both sums are true."""
        read = theirs.is_read and not mine.unread and self.survey.lasted_s is not None
        return read and theirs.touched <= self.survey.position and mine.touched <= position

    async def _compare_rows(self, path: Path) -> bool:
        """Whether something was mended in this leaf."""
        table, leaf = path[0], path[-1]
        told = await self._question(Ask(next(self._ids), path))
        here, lying = await self._store.lying(table, leaf)
        if not isinstance(told, Told) or not self._still(path, told, here):
            self.undecided += 1
            return False
        mine = {row.key: row for row in lying}
        theirs = {_key(key): int.from_bytes(value, "big") for key, value in told.counts}
        changed = [key for key in theirs if key in mine and mine[key].counts != theirs[key]]
        lost = [key for key in theirs if key not in mine]
        added = [key for key in mine if key not in theirs]
        kinds = dict.fromkeys(changed, "changed") | dict.fromkeys(lost, "lost") | dict.fromkeys(added, "added")
        if told.doubted:  # it is the controller's own table that differs from the log: nothing there is believed
            for key, how in kinds.items():
                self._name(table, key, how, mended=False)
            return False
        wanted = [*changed, *lost]
        parts = [wanted[start : start + _WANTED] for start in range(0, len(wanted), _WANTED)] or [[]]
        done = [await self._mend(path, kinds, part, () if part is not parts[0] else added, mine) for part in parts]
        return any(done)

    async def _mend(
        self, path: Path, kinds: dict[Key, str], wanted: list[Key], added: Iterable[Key], mine: dict[Key, Lying]
    ) -> bool:
        table = path[0]
        told = await self._question(Ask(next(self._ids), path, tuple(map(msgspec.msgpack.encode, wanted))))
        if not isinstance(told, Told) or told.doubted:
            self.undecided += 1
            return False
        rows = {_key(key): row for key, row in told.rows}
        theirs = {_key(key) for key, _ in told.counts}
        new = [(table, key, rows[key]) for key in wanted if key in rows]
        new_and_gone = [*new, *((table, key, None) for key in added if key not in theirs)]
        if self._noted < self.survey.position:  # before anything is put right, or a crash would hide that it was
            noted = self.survey.position + _AHEAD
            await self._note_repair(noted)
            self._noted = noted
        is_noted = self.survey.position <= self._noted
        still = self._still(path, told, told.position)  # from here to the store without a pause
        if not (is_noted and still and new_and_gone):
            self.undecided += 1
            return False
        await self._store.mend(new_and_gone)
        self._repaired = self.survey.position
        self.survey.tree.unread(path)
        touched: set[Touch] = set()
        for _, key, row in new_and_gone:
            lay = mine.get(key)
            touched |= touched_by(table, key, row, None if lay is None else lay.row)
            self._name(table, key, kinds[key], mended=True)
        await self._refresh.begin(touched)
        return True

    def _still(self, path: Path, told: Told, here: int) -> bool:
        """Whether no entry that is known on either side changes this leaf after what was read on the other."""
        node = self.survey.tree.at(path)
        touched = 0 if node is None else node.touched
        return touched <= min(told.position, here) and told.touched <= self.survey.position

    def _name(self, table: str, key: Key, how: str, *, mended: bool) -> None:
        name = "/".join(map(str, key))
        self.found[how] += mended
        self.unmended += not mended
        self._named.append((table, key, how))
        if mended or (table, key, how) not in self._known:
            self.last.append(Drifted(table, name, how, self._clock.now(), mended))
            if len(self._named) <= _NAMED:
                log.error("drift_mended" if mended else "controller_drifted", kind=table, record=name, how=how)

    async def _question(self, question: Compare | Ask) -> Compared | Told | None:
        self.bytes["sent"] += len(encode(question))
        told = await self._ask(question)
        self.bytes["received"] += 0 if told is None else len(encode(told))
        return told


def _key(data: bytes) -> Key:
    return tuple(msgspec.msgpack.decode(data))


_NOTHING = Node()
_NONE = Sum("", bytes(SUM_BYTES), 0, is_read=True)
