"""The seams: Reader, Writer, Committer, Cache, Lock, Wake, Clock.

Decisions above them are the same whatever is below. Driver errors become `errors.Unavailable` at an adapter's border.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from regional_keystone.log import Entry, Position, Transaction
from regional_keystone.record import Key, Like, R
from regional_keystone.sums import Covered, Lying


class Reader(Protocol):
    """Reads records of one replica. Never an empty answer for one that is down: raises Unavailable."""

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        ...

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group (a `unique`, a `by`, the key's first field).

        None is a value like any other. Raises LookupError for a group that is not declared.
        """
        ...

    def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type, in the order of their keys."""
        ...

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`, in the order of their keys.

        Without values, of all records of the type. Fewer than `limit` means that there are no more. Reads about as
        many rows as it answers, however many there are; with rules about text, which are of fields of some group,
        it may read all of these, and holds only those that every rule admits.
        """
        ...

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries of a feed that follow `after`, without gaps, at most `limit`."""
        ...

    async def applied(self, feed: str) -> int:
        """Everything up to here is in the tables."""
        ...


class Snapshot(Protocol):
    """All rows of a replica as they were at one position of the log."""

    position: Position

    def rows(self) -> AsyncIterator[tuple[str, tuple[Any, ...], bytes]]:
        """(table, key, row) of every row of every table, in the order of table name and key."""
        ...


class Writer(Reader, Protocol):
    """Appends to feeds and projects the log into tables."""

    async def head(self, feed: str) -> int:
        """The number of the feed's last entry, 0 for an empty one; counts entries that were pruned."""
        ...

    async def append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        """Durably add entries, all or none, only if the feed ends at `after`; False if it does not.

        Raises Unavailable when nothing was done, and Unknown when that could not be found out: the entries are there
        whole or not at all, and whoever reads the feed next will see which.
        """
        ...

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Return once these entries of the log, in order, are in the tables; what is at or below `applied` is skipped.

        A store that only reads waits for who writes, and raises Unavailable when that takes too long.
        """
        ...

    async def acknowledge(self, site: str, said: bytes) -> None:
        """Keep what a site has said last that it holds, where every controller can see it; empty: nothing any more."""
        ...

    async def acknowledged(self) -> Mapping[str, bytes]:
        """What each site has said last."""
        ...

    async def prune(self, feed: str, upto: int) -> None:
        """Forget entries up to this number; numbers go on where they were."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view of all rows that stands still while writes go on."""
        ...

    async def restore(self, position: int, rows: AsyncIterator[tuple[str, tuple[Any, ...], bytes]]) -> None:
        """Replace all tables by these rows, which stand at `position`: wholly or, on any failure, not at all."""
        ...

    async def survey(self, table: str, begin: str, least_rows: int) -> Covered:
        """The sums of a table as it lies there, from leaf `begin` on: of so many rows at least, and of whole leaves.

        For a store that has no such view of its tables, nothing: LookupError.
        """
        ...

    async def foreign_writes(self) -> int:
        """A number that is another one whenever somebody who is not this store has written to its tables meanwhile.

        For a store that has no such view of its tables, nothing: LookupError.
        """
        ...

    async def lying(self, table: str, leaf: str) -> tuple[int, list[Lying]]:
        """The rows of one leaf in the order of their keys, and the position that they show."""
        ...

    async def mend(self, rows: Sequence[tuple[str, Key, bytes | None]]) -> None:
        """Make (table, key) these bytes, or nothing, without an entry of the log: what is written from then on counts.

        For rows that differ from what the log has made of them; all or none, after everything that was applied before.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of files and threads."""
        ...


class Committer(Protocol):
    """Puts changes in order."""

    async def commit(self, transaction: Transaction) -> Position:
        """Durable when it returns. Raises Collision when the transaction must be run again, else Unavailable."""
        ...

    def alone(self) -> AbstractAsyncContextManager[None]:
        """While this is held, transactions of others wait: for one that has lost too often."""
        ...


class Cache(Protocol):
    """Bytes for a while. A cache that is down is a miss, and a metric: nothing here raises, nor waits for long."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """What is still there."""
        ...

    async def set_many(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """Keep these for at most `ttl_s` seconds."""
        ...

    def failures(self) -> Mapping[str, int]:
        """What went wrong so far, by reason."""
        ...

    def servers(self) -> Mapping[str, bool]:
        """What the cache consists of, and whether that answers."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections; what is asked from then on is a miss."""
        ...


class Hold(Protocol):
    """Whether a lock is ours. Asked again before each step, because it can be lost while it is held."""

    def __bool__(self) -> bool:
        """True while this process may believe that it is the holder."""
        ...


class Lock(Protocol):
    """One holder per name: saves work, and is never what makes anything safe."""

    def hold(self, name: str) -> AbstractAsyncContextManager[Hold]:
        """Enter with a true Hold if this process is the holder, with a false one if another is, without waiting.

        Raises Unavailable when it cannot be known.
        """
        ...


class Wake(Protocol):
    """Tells other processes that the log has grown. Nothing depends on it: who follows asks now and then as well."""

    def tell(self, position: int) -> None:
        """The log ends at this position now. Never waits and never fails."""
        ...

    def listen(self, heard: Callable[[], None]) -> None:
        """Call this on the event loop, soon, whenever another process may have told something."""
        ...


class Clock(Protocol):
    """Time that tests can own."""

    def now(self) -> int:
        """Wall clock: microseconds since 1970 UTC."""
        ...

    def ticks(self) -> float:
        """Seconds that only grow, also while the machine sleeps (CLOCK_BOOTTIME)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long by `ticks`."""
        ...
