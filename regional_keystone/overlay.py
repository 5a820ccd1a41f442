"""Reads that are never older than a known position, and reads that are remembered.

Above every store and below every handler: a replica may lag, and a transaction must know what it depended on.
Source: docs/feeds.md, "Reading while the tables lag".
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, Change, Collision, Entry, Position, Put, Transaction, net
from regional_keystone.ports import Committer, Reader
from regional_keystone.record import Key, Like, R, Table, Touch, decode, facts

T = TypeVar("T")
_ATTEMPTS = 3
_ATTEMPTS_ALONE = 20  # as many as it takes to win once against a controller that is as busy


class Positioned(Reader, Protocol):
    """A Reader that can say how new its answers are at least."""

    @property
    def position(self) -> Position:
        """No answer to a question asked from now on is older than this entry of the log."""
        ...


class Overlay:
    """A Reader whose answers are never older than the position it has been told, whatever the tables below show.

    What is noted lies on top of the tables until it is dropped, and longer while a `find` is under way that may have
    read the tables before. One answer of `find` shows every entry whole or not at all, if the tables below do.
    """

    def __init__(self, below: Reader, feed: str = LOG) -> None:
        self.feed = feed
        self._below = below
        self._position = Position(0)
        self._dropped = 0
        self._entries: deque[Entry] = deque()  # without a gap, up to `_position`
        self._rows: dict[str, dict[Key, tuple[int, Change]]] = {}  # the last change of each row that `_entries` touch
        self._finding: dict[object, int] = {}  # what was dropped when each `find` under way began, in that order
        self._restarts = 0

    @property
    def position(self) -> Position:
        """No answer to a question asked from now on is older than this entry of the log."""
        return self._position

    async def start(self, at: int | None = None) -> Position:
        """Take over where the tables below stand: at the beginning, and after they were replaced by a snapshot.

        `at`: where they stood a moment ago, for who has read something else since that must not be older.
        """
        applied = await self._below.applied(self.feed) if at is None else at
        if applied > self._position:
            self._entries.clear()
            self._rows.clear()
            self._restarts += 1
            self._position = Position(applied)
            self._dropped = applied
        return self._position

    def note(self, entries: Iterable[Entry]) -> None:
        """Make these entries visible at once; known ones are ignored. Raises ValueError if one before them is missing.

        `start` must have been called.
        """
        for entry in entries:
            if entry.number <= self._position:
                continue
            if entry.number != self._position + 1:
                raise ValueError(f"entry {entry.number} cannot follow {self._position} of feed {self.feed}")
            self._entries.append(entry)
            for change in entry.changes:
                self._rows.setdefault(change.table, {})[change.key] = (entry.number, change)
            self._position = Position(entry.number)

    def drop(self, upto: int) -> None:
        """Forget entries up to this number: whatever asks the tables below from now on sees them there."""
        self._dropped = max(self._dropped, min(upto, self._position))
        self._forget()

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        found = self._rows.get(facts(kind).name, {}).get(key)
        if found is not None:
            return _row(kind, found[1])
        return await self._below.get(kind, *key)

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group, in the order of their keys."""
        table = facts(kind)
        ask = partial(self._below.find, kind, **equals)
        return await self._read(ask, lambda rows: self._merged(table, rows, equals))

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`, in the order of their keys.

        Each is at least as new as the position at this call.
        """
        table = facts(kind)
        found: list[R] = []
        while True:
            ask = partial(self._below.page, kind, after, limit, like, **equals)
            rows, merged = await self._read(ask, lambda rows: (rows, self._merged(table, rows, equals, like)))
            last = table.key_of(rows[-1]) if len(rows) >= limit else None
            found += [one for one in merged if _between(table.key_of(one), after, last)]
            if last is None or len(found) >= limit:
                return found[:limit]
            after = last

    def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type in the order of their keys, each at least as new as the position at this call."""
        changes = {key: change for key, (_, change) in self._rows.get(facts(kind).name, {}).items()}
        return self._scan(kind, changes)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries of a feed that follow `after`, without gaps, at most `limit`."""
        found = await self._below.tail(feed, after, limit)
        if feed == self.feed:
            last = found[-1].number if found else after
            for entry in self._entries:
                if entry.number == last + 1 and len(found) < limit:
                    found.append(entry)
                    last += 1
        return found

    async def applied(self, feed: str) -> int:
        """Everything up to here is in what this Reader shows."""
        return self._position if feed == self.feed else await self._below.applied(feed)

    async def _read(self, ask: Callable[[], Awaitable[list[R]]], merge: Callable[[list[R]], T]) -> T:
        """What the tables answer with what lies on top of them, of which nothing is forgotten meanwhile."""
        while True:
            restarts = self._restarts
            finding = object()
            self._finding[finding] = self._dropped
            try:
                rows = await ask()
                if restarts == self._restarts:
                    return merge(rows)
            finally:
                del self._finding[finding]
                self._forget()

    def _forget(self) -> None:
        upto = min(self._dropped, next(iter(self._finding.values()), self._dropped))
        while self._entries and self._entries[0].number <= upto:
            entry = self._entries.popleft()
            for change in entry.changes:
                rows = self._rows.get(change.table, {})
                if change.key in rows and rows[change.key][0] == entry.number:
                    del rows[change.key]

    def _merged(self, table: Table, below: list[R], equals: dict[str, Any], like: Sequence[Like] = ()) -> list[R]:
        touched = self._rows.get(table.name)
        if not touched:
            return below
        kept = [row for row in below if table.key_of(row) not in touched]
        above = [decode(table.kind, change.row) for _, change in touched.values() if isinstance(change, Put)]
        matching = [row for row in above if all(getattr(row, name) == value for name, value in equals.items())]
        matching = [row for row in matching if all(rule.admits(row) for rule in like)]
        return sorted([*kept, *matching], key=table.key_of)  # type: ignore[list-item]

    async def _scan(self, kind: type[R], changes: dict[Key, Change]) -> AsyncIterator[R]:
        table = facts(kind)
        waiting = deque(sorted(key for key, change in changes.items() if isinstance(change, Put)))
        async for row in self._below.scan(kind):
            key = table.key_of(row)
            while waiting and waiting[0] < key:
                if (above := _row(kind, changes[waiting.popleft()])) is not None:
                    yield above
            if key not in changes:
                yield row
        for key in waiting:
            if (above := _row(kind, changes[key])) is not None:
                yield above


class Recording:
    """A Reader that remembers what was read, for a transaction that stands or falls with it."""

    def __init__(self, below: Positioned) -> None:
        self._below = below
        self._reads: set[Touch] = set()
        self._position = below.position  # before the first read: what is appended later may have been missed

    @property
    def position(self) -> Position:
        """Where the log stood before the first read."""
        return self._position

    @property
    def reads(self) -> frozenset[Touch]:
        """Every row, group and table that was asked for, found or not."""
        return frozenset(self._reads)

    def depend(self, reads: Iterable[Touch]) -> None:
        """What is decided here depends on these as well: they were read before, for the same purpose."""
        self._reads.update(reads)

    def transaction(self, id: str, changes: Iterable[Change]) -> Transaction:  # noqa: A002  the field's name
        """What was read so far and what is to be changed, one net change per row."""
        return Transaction(id, self._position, self.reads, net(changes))

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        self._reads.add((facts(kind).name, *key))
        return await self._below.get(kind, *key)

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group."""
        self._reads.add(touch_of(facts(kind), equals))
        return await self._below.find(kind, **equals)

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`; depends on all with these values."""
        self._reads.add(touch_of(facts(kind), equals) if equals else (facts(kind).name,))
        return await self._below.page(kind, after, limit, like, **equals)

    def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type, in the order of their keys."""
        self._reads.add((facts(kind).name,))
        return self._below.scan(kind)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries of a feed that follow `after`; not remembered, since nothing that is there ever changes."""
        return await self._below.tail(feed, after, limit)

    async def applied(self, feed: str) -> int:
        """Everything up to here is in the tables."""
        return await self._below.applied(feed)


Decide: TypeAlias = Callable[[Recording], Awaitable[tuple[Sequence[Change], T]]]
"""Reads, and says what is to be changed and what comes of it; may be run again."""


async def transact(
    reader: Positioned,
    committer: Committer,
    id: str,  # noqa: A002  the field's name
    decide: Decide[T],
) -> tuple[T, Position | None]:
    """Decide and commit as if alone: `decide` is run again whenever what it read has changed meanwhile.

    The position is None when there was nothing to change. Raises Unavailable if it loses again and again.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _attempt(reader, committer, id, decide)
        except Collision:
            continue
    async with committer.alone():
        for _ in range(_ATTEMPTS_ALONE):
            try:
                return await _attempt(reader, committer, id, decide)
            except Collision:  # of another controller's writes: those do not wait
                continue
    raise Unavailable("Too many others change the same records; try again.")


async def _attempt(
    reader: Positioned,
    committer: Committer,
    id: str,  # noqa: A002  the field's name
    decide: Decide[T],
) -> tuple[T, Position | None]:
    recording = Recording(reader)
    changes, result = await decide(recording)
    transaction = recording.transaction(id, changes)
    if not transaction.changes:
        return result, None
    return result, await committer.commit(transaction)


def _between(key: Key, after: Key | None, last: Key | None) -> bool:
    return (after is None or key > after) and (last is None or key <= last)


def _row(kind: type[R], change: Change) -> R | None:
    return decode(kind, change.row) if isinstance(change, Put) else None


def touch_of(table: Table, equals: dict[str, Any]) -> Touch:
    """What a `find` by these values depends on. Raises LookupError for a group that is not declared."""
    group = table.group_of(equals)
    values = tuple(equals[name] for name in group)
    return (table.name, *values) if group == table.key else (table.name, group, values)
