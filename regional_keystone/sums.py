"""What lies in the tables as a tree of sums: two replicas find where they differ by asking down from its root.

A row counts by a hash of its table, key and bytes, as the log carried them; a node is the sum of the rows below it, so
that what is read again, stretch by stretch, is exchanged without the rest. Source: ADR 35.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from regional_keystone.record import TABLES, Key, Table, Touch

LEAF_CHARACTERS = 3  # 4,096 leaves for ids that are hexadecimal: 250 rows each at a million
SUM_BYTES = 16
_MODULUS = 1 << 8 * SUM_BYTES
_LAST = "\U0010ffff"  # keys that no writer of ours has made; a store sorts them behind all text

Path = tuple[str, ...]
"""A table, then ever longer beginnings of the keys' first fields; nothing for the root, DEPTH parts for a leaf."""
DEPTH = 4


class Covered(NamedTuple):
    """The sums of a stretch of a table as it stood at `position`, by leaf; the next stretch begins with leaf `end`.

    `cpu_s`: how long a processor worked for it.
    """

    position: int
    sums: Mapping[str, int]
    rows: int
    end: str | None
    cpu_s: float = 0.0


class Lying(NamedTuple):
    """A row as it lies in a table; `counts` is its part of the leaf's sum, another than its bytes' if it is broken."""

    key: Key
    row: bytes
    counts: int


class Node:
    """A sum; the last entry that touched anything below; how many leaves below are to be read again, and doubted."""

    __slots__ = ("children", "doubted", "read", "sum", "touched", "unread")

    def __init__(self) -> None:
        self.sum = 0
        self.touched = 0
        self.unread = 0
        self.read = False  # a leaf: whether it has been read since the beginning
        self.doubted = 0  # leaves whose tables are others than what was written to them
        self.children: dict[str, Node] = {}


class Tree:
    """Sums of all tables; true of every position from a node's `touched` on where nothing below it is unread."""

    def __init__(self) -> None:
        self.root = Node()
        self.whole = False  # all has been read once: where nothing was found, nothing is
        self._leaves: dict[str, list[str]] = {}

    def at(self, path: Path) -> Node | None:
        """The node at this path; None where nothing was ever found."""
        node: Node | None = self.root
        for step in path:
            if node is None:
                return None
            node = node.children.get(step)
        return node

    def touch(self, path: Path, position: int) -> None:
        """An entry changes something in this leaf."""
        line = self._line(path)
        for node in line:
            node.touched = max(node.touched, position)
        _mark(line, "unread", there=True)

    def unread(self, path: Path) -> None:
        """This leaf is to be read again: something else has changed it."""
        _mark(self._line(path), "unread", there=True)

    def doubt(self, path: Path) -> None:
        """What lies in this leaf is not what was written to it."""
        _mark(self._line(path), "doubted", there=True)

    def cover(self, table: str, begin: str, covered: Covered, *, expects: bool = False) -> list[Path]:
        """Take in what was read. Returns the leaves that are others than before though no entry touched them.

        With `expects` such a leaf keeps the sum that it had, and is doubted until it has it again.
        """
        moved = []
        for leaf in self._within(table, begin, covered.end) | covered.sums.keys():
            path = leaf_path(table, leaf)
            if self._settle(path, covered.sums.get(leaf, 0), covered.position, expects=expects):
                moved.append(path)
        return moved

    def to_read(self, most: int) -> list[Path]:
        """Some of the leaves that have to be read again."""
        found: list[Path] = []
        waiting: list[tuple[Path, Node]] = [((), self.root)]
        while waiting and len(found) < most:
            path, node = waiting.pop()
            if len(path) == DEPTH:
                found.append(path)
            waiting.extend(((*path, name), child) for name, child in node.children.items() if child.unread)
        return found

    def leaves(self) -> Iterator[tuple[Path, Node]]:
        """Every leaf."""
        for table, names in self._leaves.items():
            for name in names:
                path = leaf_path(table, name)
                yield path, self._line(path)[-1]

    def _settle(self, path: Path, found: int, position: int, *, expects: bool) -> bool:
        line = self._line(path)
        leaf = line[-1]
        if position < leaf.touched:
            return False  # read before an entry that is known by now
        moved = leaf.read and not leaf.unread and leaf.sum != found
        if expects and (moved or (leaf.doubted and (leaf.unread or leaf.sum != found))):
            _mark(line, "doubted", there=True)
            return moved
        for node in line:
            node.sum = (node.sum + found - leaf.sum) % _MODULUS if node is not leaf else node.sum
        leaf.sum, leaf.read = found, True
        _mark(line, "unread", there=False)
        _mark(line, "doubted", there=False)
        return moved

    def _line(self, path: Path) -> list[Node]:
        line = [self.root]
        for place, step in enumerate(path):
            child = line[-1].children.get(step)
            if child is None:
                child = line[-1].children[step] = Node()
                if place == DEPTH - 1:
                    child.read = self.whole
                    insort(self._leaves.setdefault(path[0], []), path[-1])
            line.append(child)
        return line

    def _within(self, table: str, begin: str, end: str | None) -> set[str]:
        names = self._leaves.get(table, [])
        return set(names[bisect_left(names, begin) : None if end is None else bisect_left(names, end)])


def leaf_of(table: Table, key: Key) -> str:
    """The leaf in which a row with this key is counted."""
    if table.small:
        return ""
    return key[0][:LEAF_CHARACTERS] if isinstance(key[0], str) else _LAST


def leaf_path(table: str, leaf: str) -> Path:
    """The path of a leaf."""
    return (table, leaf[:1], leaf[:2], leaf)


def counts(table: str, key: Key, row: bytes) -> int:
    """What a row adds to the sums above it."""
    return int.from_bytes(sha256(msgspec.msgpack.encode((table, key)) + row).digest()[:SUM_BYTES], "big")


def total(some: Iterable[int]) -> int:
    """The sum of rows or nodes."""
    return sum(some) % _MODULUS


def touched_leaves(touched: Iterable[Touch]) -> set[Path]:
    """The leaves of the rows among what an entry has disturbed; groups and whole tables are touched with their rows."""
    found = set()
    for touch in touched:
        table = TABLES.get(touch[0])
        if table is not None and len(touch) > 1 and not isinstance(touch[1], tuple):
            found.add(leaf_path(touch[0], leaf_of(table, touch[1:])))
    return found


def _mark(line: list[Node], what: str, *, there: bool) -> None:
    """Count it at the leaf and at all above it, once."""
    if bool(getattr(line[-1], what)) != there:
        for node in line:
            setattr(node, what, getattr(node, what) + (1 if there else -1))
