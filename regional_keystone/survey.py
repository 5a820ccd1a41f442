"""Keeps the sums of a replica true: what entries touch is read again, and all of it, a little at a time, for ever.

The rows themselves are read, since a change that was made by hand tells nobody. Source: ADR 35.
"""

from collections.abc import Callable, Iterable

import structlog

from regional_keystone.follow import Follower
from regional_keystone.log import LOG
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import TABLES, Touch
from regional_keystone.sums import Path, Tree, touched_leaves

log = structlog.get_logger("survey")

_ROWS = 200  # a stretch: about a millisecond of a thread
_FRESHEN = 1000  # leaves that are read again before a comparison


class Survey:
    """The sums of one replica's tables. `share` of one processor's time goes into reading, no more.

    With `expects`, what changes though no entry touched it is not believed, but doubted: there is nobody to ask.
    """

    def __init__(self, store: Writer, clock: Clock, share: float, *, expects: bool = False) -> None:
        self.tree = Tree()
        self.position = 0  # entries up to here are known to have touched what they did
        self.rows = 0  # of the last whole reading
        self.lasted_s: float | None = None  # the last whole reading
        self.moved: Callable[[Iterable[Path]], None] = _nobody  # is told of what changed without an entry
        self._store = store
        self._clock = clock
        self._rest = 1 / share - 1
        self._expects = expects

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
            self.tree, self.position, self.lasted_s = Tree(), position, None

    async def read_all(self) -> None:
        """Read every table once, in stretches, with pauses. Raises Unavailable."""
        began, rows, tree = self._clock.ticks(), 0, self.tree
        for table in TABLES:
            begin: str | None = ""
            while begin is not None:
                begin, count = await self._read(tree, table, begin, _ROWS)
                rows += count
        if tree is self.tree:
            tree.whole, self.rows, self.lasted_s = True, rows, self._clock.ticks() - began

    async def freshen(self) -> None:
        """Read again what entries have touched since it was read. Raises Unavailable."""
        tree = self.tree
        for path in tree.to_read(_FRESHEN):
            await self._read(tree, path[0], path[-1], 1)

    async def _read(self, tree: Tree, table: str, begin: str, least_rows: int) -> tuple[str | None, int]:
        covered = await self._store.survey(table, begin, least_rows)
        if tree is self.tree and (moved := tree.cover(table, begin, covered, expects=self._expects)):
            self.moved(moved)
        if (rest_s := covered.cpu_s * self._rest) > 0:
            await self._clock.sleep(rest_s)
        return covered.end, covered.rows


def _nobody(paths: Iterable[Path]) -> None:
    """The news that nobody wants."""
    del paths
