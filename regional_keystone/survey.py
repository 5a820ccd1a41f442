"""Keeps the sums of a replica true: what entries touch is read again, and all of it once somebody else has written.

The rows themselves are read, since a change that was made by hand tells nobody what it was; and, slowly, also while
nobody has written, since a disk may forget. Source: ADR 35.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import LOG
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import TABLES, Touch
from regional_keystone.sums import Covered, Path, Tree, touched_leaves

log = structlog.get_logger("survey")

_ROWS = 200  # a stretch: about a millisecond of a thread
_FRESHEN = 1000  # leaves that are read again before a comparison
_QUIET = 0.01  # of one processor's time goes into reading while nobody else has written
_LOOK_S = 2.0  # for so long it may go unnoticed that somebody has


class Survey:
    """The sums of one replica's tables. `share` of one processor's time goes into reading at the most.

    With `expects`, what changes though no entry touched it is not believed, but doubted: there is nobody to ask.
    """

    def __init__(self, store: Writer, clock: Clock, share: float, *, expects: bool = False) -> None:
        self.tree = Tree()
        self.position = 0  # entries up to here are known to have touched what they did
        self.rows = 0  # of the last whole reading
        self.lasted_s: float | None = None  # the last whole reading, with the pauses in it
        self.moved: Callable[[Iterable[Path]], None] = _nobody  # is told of what changed without an entry
        self._store = store
        self._clock = clock
        self._rest = 1 / share - 1
        self._expects = expects
        self._foreign: int | None = None  # what the store called the last write of others before the last whole reading
        self._begin_anew()

    async def start(self) -> None:
        """Begin where the tables stand; from now on `saw` has to be told of each entry."""
        self.position = await self._store.applied(LOG)

    def watch(self, follower: Follower) -> None:
        """Be told from now on of what it notes, and when its tables are replaced."""
        follower.watchers.append(self.saw)
        follower.forgetters.append(lambda: self.replaced(follower.position))

    def saw(self, position: int, touched: set[Touch]) -> None:
        """An entry has disturbed this."""
        self.position = position
        for path in touched_leaves(touched):
            self.tree.touch(path, position)

    def replaced(self, position: int) -> None:
        """The tables are others now, if they stand where no entry has brought them."""
        if position != self.position:
            self.tree, self.position, self.lasted_s, self._foreign = Tree(), position, None, None

    async def read(self, interval_s: float) -> None:
        """Read what may have changed without an entry: everything, or some of it in turn while nobody else has written.

        For who calls every `interval_s`. Raises Unavailable.
        """
        if await self._is_foreign():
            await self.read_all()
        else:
            await self._read_on(self.tree, _QUIET * interval_s)

    async def read_all(self) -> None:
        """Read every table once, in stretches, with pauses. Raises Unavailable."""
        tree, foreign = self.tree, await self._store.foreign_writes()
        self._begin_anew()
        await self._read_on(tree, math.inf)
        if tree is self.tree:
            tree.whole, self._foreign = True, foreign

    async def rest(self, pause_s: float) -> None:
        """Return after so long, or soon after somebody else has written."""
        end = self._clock.ticks() + pause_s
        while (left_s := end - self._clock.ticks()) > 0:
            await self._clock.sleep(min(left_s, _LOOK_S))
            with suppress(Unavailable):
                if await self._is_foreign():
                    return

    async def freshen(self) -> None:
        """Read again what entries have touched since it was read. Raises Unavailable."""
        tree = self.tree
        for path in tree.to_read(_FRESHEN):
            await self._read(tree, path[0], path[-1], 1)

    async def _is_foreign(self) -> bool:
        return self._foreign is None or await self._store.foreign_writes() != self._foreign

    def _begin_anew(self) -> None:
        self._began, self._counted = self._clock.ticks(), 0
        self._left: list[tuple[str, str]] = [(table, "") for table in reversed(TABLES)]

    async def _read_on(self, tree: Tree, cpu_s: float) -> None:
        """Go on where reading had come to, for so much of a processor's time, at the most to the end."""
        while self._left and cpu_s > 0:
            table, begin = self._left[-1]
            try:
                covered = await self._read(tree, table, begin, _ROWS)
            except Unavailable:
                self._left.insert(0, self._left.pop())  # the others first the next time
                raise
            self._left.pop()
            self._counted += covered.rows
            cpu_s -= covered.cpu_s
            if covered.end is not None:
                self._left.append((table, covered.end))
        if not self._left:
            if tree is self.tree:
                self.rows, self.lasted_s = self._counted, self._clock.ticks() - self._began
            self._begin_anew()

    async def _read(self, tree: Tree, table: str, begin: str, least_rows: int) -> Covered:
        covered = await self._store.survey(table, begin, least_rows)
        if tree is self.tree and (moved := tree.cover(table, begin, covered, expects=self._expects)):
            self.moved(moved)
        if (rest_s := covered.cpu_s * self._rest) > 0:
            await self._clock.sleep(rest_s)
        return covered


def _nobody(paths: Iterable[Path]) -> None:
    """The news that nobody wants."""
    del paths
