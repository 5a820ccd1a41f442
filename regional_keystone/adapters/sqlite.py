"""The store in one file: log, feeds and tables by the standard library's sqlite3, off the event loop.

A writer thread gives order for nothing; readers have connections of their own and see whole entries only (WAL).
Source: docs/feeds.md; https://sqlite.org/wal.html
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from regional_keystone.adapters.sqlite_schema import (
    CURE_DAMAGED,
    Statements,
    check,
    check_rights,
    check_version,
    connection,
    create_private,
    insert,
    keep_unknown,
    migrate,
    reader,
    refusal,
    transaction,
    unknown_row,
    writer,
)
from regional_keystone.adapters.sqlite_survey import Stretch
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.log import LOG, Change, Entry, Position, Put, decode_entry, encode_entry
from regional_keystone.ports import Snapshot
from regional_keystone.record import TABLES, Key, Like, R, Table, decode, facts
from regional_keystone.sums import Covered, Lying

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[str, Key, bytes]

_PAGE = 500  # rows that are in memory at a time while a table is read through


class Sqlite:
    """Implements `ports.Writer` on one file. What it answered survives kill -9 and loss of power.

    Every failure of the disk is Unavailable, with nothing half written, and over as soon as the disk is well again.
    """

    def __init__(self, path: Path, tables: Mapping[str, Table], *, only_reads: bool = False) -> None:
        """Use `open`."""
        self.path = path
        self._only_reads = only_reads
        self._statements = {name: Statements(table) for name, table in tables.items()}
        self._stretches = {name: Stretch(statements) for name, statements in self._statements.items()}
        self._writing = ThreadPoolExecutor(1, f"write-{path.name}")
        self._reading = ThreadPoolExecutor(2, f"read-{path.name}")
        self._writer: sqlite3.Connection | None = None
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, tables: Mapping[str, Table] = TABLES, **how: bool) -> "Sqlite":
        """The store in this file, made if it is not there; raises StoreRefused for one that must not be used.

        With `only_reads`, the file of another process, which has made it and writes it: nothing here can change it.
        """
        store = cls(Path(path), tables, **how)
        try:
            await asyncio.get_running_loop().run_in_executor(store._writing, store._open)
        except BaseException:
            await store.close()
            raise
        return store

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        statements = self._statements[facts(kind).name]
        rows = await self._read(_rows, kind, statements.get, key)
        return rows[0] if rows else None

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group, in the order of their keys."""
        statements = self._statements[facts(kind).name]
        group = statements.table.group_of(equals)
        return await self._read(_rows, kind, statements.finds[group], tuple(equals[one] for one in group))

    async def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type in the order of their keys, read page by page."""
        after: Key | None = None
        while page := await self.page(kind, after, _PAGE):
            for record in page:
                yield record
            after = facts(kind).key_of(page[-1])

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`, in the order of their keys."""
        statements = self._statements[facts(kind).name]
        group = statements.table.group_of(equals) if equals else ()
        values = (*(equals[one] for one in group), *(after or ()), *(rule.part for rule in like), limit)
        return await self._read(_rows, kind, statements.page(group, follows=after is not None, like=like), values)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries that follow `after`, without gaps, at most `limit`; none when the next one was pruned."""
        return await self._read(_tail, feed, after, limit)

    async def applied(self, feed: str) -> int:
        """Everything up to here is in the tables."""
        return (await self._read(_marks, feed))[1]

    async def head(self, feed: str) -> int:
        """The number of the feed's last entry, 0 for an empty one; counts entries that were pruned."""
        return (await self._read(_marks, feed))[0]

    async def append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        """Durably add entries, all or none, only if the feed ends at `after`; False if it does not."""
        if any(entry.number != number for number, entry in enumerate(entries, after + 1)):
            raise ValueError(f"entries {[entry.number for entry in entries]} do not follow {after} without gaps")
        return await self._write(self._append, feed, after, entries)

    async def apply(self, entries: Sequence[Entry]) -> None:
        """Project entries of the log into the tables, in order, all or none of this call; raises ValueError at a gap.

        What is at or below `applied` is skipped. Rows of tables that are not known here are kept for a version that
        knows them.
        """
        await self._write(self._apply, entries)

    async def acknowledge(self, site: str, said: bytes) -> None:
        """Keep what a site has said last; empty: nothing any more."""
        await self._write(self._acknowledge, site, said)

    async def acknowledged(self) -> Mapping[str, bytes]:
        """What each site has said last."""
        return await self._read(_acknowledged)

    async def prune(self, feed: str, upto: int) -> None:
        """Forget entries up to this number, of the log only what is in the tables; numbers go on where they were."""
        await self._write(self._prune, feed, upto)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """A view of all rows that stands still while writes go on."""
        view = _View(self._statements)
        try:
            await self._in(self._reading, view.begin, self._connect)
            yield _Snapshot(view, self._in_reading)
        finally:
            await asyncio.shield(asyncio.to_thread(view.end))

    async def restore(self, position: int, rows: AsyncIterator[Row]) -> None:
        """Replace all tables and the log by these rows, wholly or, on any failure, not at all. Other feeds stay.

        The rows wait in a file beside until the last one is there; then one transaction puts them in, so that readers
        and snapshots go on with the old state until they see the new one.
        """
        staging = _Staging(self.path.with_name(f"{self.path.name}.restoring"))
        try:
            await self._write(staging.begin)
            page: list[Row] = []
            async for row in rows:
                page.append(row)
                if len(page) == _PAGE:
                    await self._write(staging.add, page)
                    page = []
            await self._write(staging.add, page)
            await self._write(self._restore, position, staging)
        finally:
            await asyncio.shield(asyncio.to_thread(staging.end))

    async def survey(self, table: str, begin: str, least_rows: int) -> Covered:
        """Sums of a table as it lies there, from this leaf on."""
        return await self._read(self._stretches[table].survey, begin, least_rows)

    async def foreign_writes(self) -> int:
        """Another number whenever another connection has written to the file. Source: SQLite, PRAGMA data_version."""
        return await self._write(self._foreign)

    async def lying(self, table: str, leaf: str) -> tuple[int, list[Lying]]:
        """The rows of one leaf as they lie there, at one position."""
        return await self._read(self._stretches[table].leaf, leaf)

    async def mend(self, rows: Sequence[tuple[str, Key, bytes | None]]) -> None:
        """Make these rows what they should be, outside the log."""
        await self._write(self._mend, rows)

    async def close(self) -> None:
        """Finish what was begun and let go of files and threads; twice is harmless."""
        self._closed = True
        await asyncio.to_thread(self._shut)

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._in(self._reading, self._with_reader, work, *arguments)

    async def _in_reading(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await self._in(self._reading, work, *arguments, **named)

    async def _write(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await self._in(self._writing, work, *arguments, **named)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        if self._closed:
            raise Unavailable("The store is closed.")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*arguments, **named))
        except sqlite3.Error as error:
            raise Unavailable(f"The store cannot be used now: {error}.") from error

    def _with_reader(self, work: Callable[..., T], *arguments: Any) -> T:
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._connect()
            self._readers.append(reader)
        return work(reader, *arguments)

    def _connect(self) -> sqlite3.Connection:
        return reader(self.path, only_reads=self._only_reads)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with transaction(self._writing_connection()) as db:
            yield db

    def _writing_connection(self) -> sqlite3.Connection:
        if self._only_reads:
            raise Unavailable("Another process writes this store.")
        if self._writer is None:
            self._writer = writer(self.path)
        return self._writer

    def _foreign(self) -> int:
        return int(self._writing_connection().execute("PRAGMA data_version").fetchone()[0])

    def _append(self, feed: str, after: int, entries: Sequence[Entry]) -> bool:
        with self._transaction() as db:
            if _marks(db, feed)[0] != after:
                return False
            rows = [(feed, entry.number, entry.id, entry.at, encode_entry(entry)) for entry in entries]
            db.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", rows)
            _mark(db, feed, head=after + len(entries))
        return True

    def _apply(self, entries: Sequence[Entry]) -> None:
        with self._transaction() as db:
            applied = _marks(db, LOG)[1]
            for entry in entries:
                if entry.number <= applied:
                    continue
                if entry.number != applied + 1:
                    raise ValueError(f"entry {entry.number} cannot be applied after {applied}")
                for change in entry.changes:
                    self._project(db, change)
                applied = entry.number
            _mark(db, LOG, applied=applied)

    def _project(self, db: sqlite3.Connection, change: Change) -> None:
        statements = self._statements.get(change.table)
        if isinstance(change, Put):
            if statements is None:
                keep_unknown(db, change.table, change.key, change.row)
            else:
                db.execute(statements.put, statements.put_values(change))
        elif statements is None:
            unknown = (change.table, msgspec.msgpack.encode(change.key))
            db.execute('DELETE FROM unknown_rows WHERE "table" = ? AND "key" = ?', unknown)
        else:
            db.execute(statements.remove, change.key)

    def _acknowledge(self, site: str, said: bytes) -> None:
        with self._transaction() as db:
            if said:
                db.execute("INSERT OR REPLACE INTO acknowledgements VALUES (?, ?)", (site, said))
            else:
                db.execute("DELETE FROM acknowledgements WHERE site = ?", (site,))

    def _prune(self, feed: str, upto: int) -> None:
        with self._transaction() as db:
            last = min(upto, _marks(db, LOG)[1]) if feed == LOG else upto
            db.execute("DELETE FROM log WHERE feed = ? AND number <= ?", (feed, last))

    def _mend(self, rows: Sequence[tuple[str, Key, bytes | None]]) -> None:
        with self._transaction() as db:
            for name, key, row in rows:
                self._stretches[name].mend(db, key, row)

    def _restore(self, position: int, staging: "_Staging") -> None:
        with self._transaction() as db:
            for statements in self._statements.values():
                db.execute(statements.clear)
            db.execute("DELETE FROM unknown_rows")
            db.execute("DELETE FROM log WHERE feed = ?", (LOG,))
            for name, key, row in staging.rows():
                insert(db, self._statements.get(name), name, key, row)
            _mark(db, LOG, head=position, applied=position)
        with suppress(sqlite3.Error):  # a reader in the way only postpones this
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _open(self) -> None:
        if not self._only_reads:
            check_rights(self.path)
            self.path.with_name(f"{self.path.name}.restoring").unlink(missing_ok=True)
        try:
            if self._only_reads:
                with closing(self._connect()) as db:
                    return check_version(db, self.path)
            self._writer = db = writer(self.path)
            check(db, self.path)
            with transaction(db):
                migrate(db, self._statements)
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error
        except msgspec.DecodeError as error:
            raise StoreRefused(f"{self.path} holds a row that cannot be read ({error}). {CURE_DAMAGED}") from error

    def _shut(self) -> None:
        self._reading.shutdown()
        self._writing.shutdown()
        for db in self._readers:
            db.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()  # the last one takes the WAL into the file
            self._writer = None


class _View:
    """A read transaction on a connection of its own, and where in the tables it is."""

    def __init__(self, statements: Mapping[str, Statements]) -> None:
        self._statements = statements
        self._db: sqlite3.Connection | None = None
        self._using = threading.Lock()  # whoever waited for a page may have given up, and ends while it is being read
        self.position = Position(0)
        self.tables: list[str] = []

    def begin(self, connect: Callable[[], sqlite3.Connection]) -> None:
        with self._using:
            self._db = connect()
            self._db.execute("BEGIN")
            self.position = Position(_marks(self._db, LOG)[1])
            unknown = {name for (name,) in self._db.execute('SELECT DISTINCT "table" FROM unknown_rows')}
            self.tables = sorted(unknown | self._statements.keys())

    def end(self) -> None:
        with self._using:
            if self._db is not None:
                self._db.close()

    def next(self, pages: Iterator[list[Row]]) -> list[Row]:
        """The next page, an empty one after the last."""
        with self._using:
            return next(pages, [])

    def pages(self, name: str) -> Iterator[list[Row]]:
        if self._db is None:
            raise Unavailable("The snapshot is closed.")
        statements = self._statements.get(name)
        if statements is None:
            yield from self._unknown(self._db, name)
            return
        table = statements.table
        after: Key = ()
        while found := self._db.execute(statements.page((), follows=bool(after)), (*after, _PAGE)).fetchall():
            keys = [table.key_of(decode(table.kind, row)) for (row,) in found]
            yield [(name, key, row) for key, (row,) in zip(keys, found, strict=True)]
            after = keys[-1]

    def _unknown(self, db: sqlite3.Connection, name: str) -> Iterator[list[Row]]:
        """In the order that those who know the table have, which the keys' bytes do not have."""
        found = db.execute('SELECT "key" FROM unknown_rows WHERE "table" = ?', (name,)).fetchall()
        keys = sorted(tuple(msgspec.msgpack.decode(key)) for (key,) in found)
        for start in range(0, len(keys), _PAGE):
            yield [(name, key, unknown_row(db, name, key)) for key in keys[start : start + _PAGE]]


class _Snapshot:
    """Implements `ports.Snapshot`."""

    def __init__(self, view: _View, read: Callable[..., Awaitable[list[Row]]]) -> None:
        self.position = view.position
        self._view = view
        self._read = read

    async def rows(self) -> AsyncIterator[Row]:
        """(table, key, row) of every row of every table, in the order of table name and key."""
        for name in self._view.tables:
            pages = self._view.pages(name)
            while page := await self._read(self._view.next, pages):
                for row in page:
                    yield row


class _Staging:
    """Rows of a snapshot on their way in, in a file beside: the network may be slow and must block nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._using = threading.Lock()  # whoever restores may give up while a page is being written
        self._db: sqlite3.Connection | None = None

    def begin(self) -> None:
        with self._using:
            self._path.unlink(missing_ok=True)
            create_private(self._path)
            self._db = connection(self._path)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute('CREATE TABLE staged (number INTEGER PRIMARY KEY, "table", "key", row)')

    def add(self, rows: Sequence[Row]) -> None:
        values = [(name, msgspec.msgpack.encode(key), row) for name, key, row in rows]
        with self._using, transaction(self._open()) as db:
            db.executemany('INSERT INTO staged ("table", "key", row) VALUES (?, ?, ?)', values)

    def rows(self) -> Iterator[Row]:
        with self._using:
            for name, key, row in self._open().execute('SELECT "table", "key", row FROM staged ORDER BY number'):
                yield name, tuple(msgspec.msgpack.decode(key)), row

    def end(self) -> None:
        with self._using:
            if self._db is not None:
                self._db.close()
                self._db = None
            self._path.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise Unavailable("The restoring was given up.")
        return self._db


def _rows(db: sqlite3.Connection, kind: type[R], statement: str, values: Sequence[Any]) -> list[R]:
    try:
        found = db.execute(statement, values).fetchall()
    except UnicodeEncodeError:  # half a surrogate pair: no row can have it
        return []
    return [decode(kind, row) for (row,) in found]


def _tail(db: sqlite3.Connection, feed: str, after: int, limit: int) -> list[Entry]:
    statement = "SELECT entry FROM log WHERE feed = ? AND number > ? ORDER BY number LIMIT ?"
    entries = [decode_entry(entry) for (entry,) in db.execute(statement, (feed, after, limit))]
    return entries if entries and entries[0].number == after + 1 else []


def _acknowledged(db: sqlite3.Connection) -> Mapping[str, bytes]:
    return dict(db.execute("SELECT site, said FROM acknowledgements"))


def _marks(db: sqlite3.Connection, feed: str) -> tuple[int, int]:
    head, applied = db.execute("SELECT head, applied FROM feeds WHERE feed = ?", (feed,)).fetchone() or (0, 0)
    return head, applied


def _mark(db: sqlite3.Connection, feed: str, head: int | None = None, applied: int | None = None) -> None:
    was_head, was_applied = _marks(db, feed)
    values = (feed, was_head if head is None else head, was_applied if applied is None else applied)
    db.execute("INSERT OR REPLACE INTO feeds VALUES (?, ?, ?)", values)
