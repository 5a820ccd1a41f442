"""What a controller says of its own tables when a site compares, and how it knows that they are what the log made them.

Answers come from sums that are kept anyway; rows are read for one site at a time, in a share of one processor.
Source: ADR 35.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.messages import Ask, Compare, Compared, Convergence, Drifted, Sum, Told
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import TABLES
from regional_keystone.sums import DEPTH, SUM_BYTES, Node, Path, leaf_path, total
from regional_keystone.survey import Survey

log = structlog.get_logger("counterpart")

_NODES = 64  # of one question: what a site of ours asks at once
_ROWS_BYTES = 2 * 1024 * 1024  # of one answer
_KEPT, _TEXT = 20, 200  # of what a site says that it found
_AGAIN_S = 2.0


class Counterpart:
    """The tables of this controller, for comparing; what in them no entry has written is never handed on."""

    def __init__(self, *, survey: Survey, store: Writer, clock: Clock, share: float) -> None:
        """`share`: of one processor's time, for the questions of all sites together."""
        self.found: dict[str, Convergence] = {}
        self.rows_read: Counter[str] = Counter({"read": 0})
        self._survey, self._store, self._clock = survey, store, clock
        self._rest = 1 / share - 1
        self._answering = asyncio.Lock()
        survey.moved = self._moved

    @property
    def doubted(self) -> int:
        """How many leaves of the own tables are not what the log made them."""
        return self._survey.tree.root.doubted

    async def run(self, interval_s: float) -> None:
        """Read the own tables every `interval_s`, and soon after somebody has written by hand, for ever."""
        while True:
            began = self._clock.ticks()
            try:
                await self._survey.read(interval_s)
            except Unavailable as error:
                log.warning("own_tables_not_read", why=error.message)
            await self._survey.rest(max(_AGAIN_S, interval_s - (self._clock.ticks() - began)))

    async def answer(self, question: Compare | Ask) -> Compared | Told:
        """What lies here. Raises Unavailable. Whoever asks more than is due waits."""
        async with self._answering:
            ticks = self._clock.ticks()
            try:
                return await (self._compared(question) if isinstance(question, Compare) else self._told(question))
            finally:
                if (rest_s := (self._clock.ticks() - ticks) * self._rest) > 0:
                    await self._clock.sleep(rest_s)

    def heard(self, site: str, found: Convergence) -> None:
        """A site tells what it found; no more of it is kept than can be shown."""
        last = tuple(Drifted(*(_short(value) for value in msgspec.structs.astuple(one))) for one in found.last[-_KEPT:])
        self.found[site] = msgspec.structs.replace(found, last=last)

    def status(self) -> dict[str, Any]:
        """What /status tells of the own tables."""
        tree = self._survey.tree
        return {
            "rows": self._survey.rows,
            "reading_s": None if self._survey.lasted_s is None else round(self._survey.lasted_s, 3),
            "doubted": ["/".join((path[0], path[-1])) for path, leaf in tree.leaves() if leaf.doubted]
            if self.doubted
            else [],
        }

    def status_of(self, site: str) -> dict[str, Any] | None:
        """What a site has told last."""
        found = self.found.get(site)
        if found is None:
            return None
        said = msgspec.structs.asdict(found)
        return said | {"last": [msgspec.structs.asdict(one) for one in found.last]}

    async def _compared(self, question: Compare) -> Compared:
        survey = self._survey
        if survey.tree.root.unread:
            await survey.freshen()
        if survey.lasted_s is None or len(question.paths) > _NODES:
            return Compared(question.id, self._survey.position, None)
        return Compared(question.id, survey.position, tuple(map(self._below, question.paths)))

    def _below(self, path: Path) -> tuple[Sum, ...]:
        node = self._survey.tree.at(path)
        return () if node is None else tuple(_sum(name, child) for name, child in node.children.items())

    async def _told(self, question: Ask) -> Compared | Told:
        path, tree = question.path, self._survey.tree
        if len(path) != DEPTH or path[0] not in TABLES or path != leaf_path(path[0], path[-1]):
            return Compared(question.id, self._survey.position, None)  # else it would take its own rows for added ones
        if self._survey.lasted_s is None:
            return Compared(question.id, self._survey.position, None)  # there are no sums yet
        position, lying = await self._store.lying(path[0], path[-1])
        self.rows_read["read"] += len(lying)
        node = tree.at(path) or Node()
        if not (node.unread or node.doubted) and total(row.counts for row in lying) != node.sum:
            tree.doubt(path)  # a leaf that is new holds rows, so that there are no more of them than rows
            self._moved([path])
            node = tree.at(path) or node
        wanted, size_bytes = set(question.wanted), 0
        counts, rows = list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
        for row in lying:
            key = msgspec.msgpack.encode(row.key)
            counts.append((key, row.counts.to_bytes(SUM_BYTES + 1, "big")))
            if key in wanted and not node.doubted and size_bytes < _ROWS_BYTES:
                rows.append((key, row.row))
                size_bytes += len(row.row)
        return Told(question.id, position, node.touched, tuple(counts), tuple(rows), doubted=node.doubted > 0)

    def _moved(self, paths: Iterable[Path]) -> None:
        for path in paths:
            log.error(
                "own_table_drifted",
                kind=path[0],
                begins=path[-1],
                why="rows changed here though no entry of the log changed them; none of them is handed on to a site",
                cure="docs/operate.md, A row that drifted",
            )


def _sum(name: str, node: Node) -> Sum:
    return Sum(name, node.sum.to_bytes(SUM_BYTES, "big"), node.touched, not node.unread, node.doubted > 0)


def _short(value: Any) -> Any:
    return value[:_TEXT] if isinstance(value, str) else value
