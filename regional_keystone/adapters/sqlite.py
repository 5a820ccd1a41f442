"""The store in one file: log, feeds and tables by the standard library's sqlite3, off the event loop.

A writer thread gives order for nothing; readers have connections of their own and see whole entries only (WAL).
Source: docs/feeds.md; https://sqlite.org/wal.html
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from regional_keystone.durable import sync_directory
from regional_keystone.errors import StoreDamaged, StoreRefused, Unavailable
from regional_keystone.log import LOG, Change, Entry, Position, Put, decode_entry, encode_entry
from regional_keystone.ports import Snapshot
from regional_keystone.record import TABLES, Key, Like, R, Record, Table, decode, facts

P = ParamSpec("P")
T = TypeVar("T")
Row = tuple[str, Key, bytes]

SCHEMA = 2  # of the tables that are not derived from records; a file with a higher one is refused
_APPLICATION = 0x524B4944  # marks a file as ours
_PAGE = 500  # rows that are in memory at a time while a table is read through
_BUSY_S = 5.0
_OWN = {
    "log": "feed TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, entry BLOB NOT NULL,"
    " PRIMARY KEY (feed, number)",
    "feeds": "feed TEXT PRIMARY KEY, head INTEGER NOT NULL DEFAULT 0, applied INTEGER NOT NULL DEFAULT 0",
    "acknowledgements": "site TEXT PRIMARY KEY, said BLOB NOT NULL",
    "unknown_rows": '"table" TEXT NOT NULL, "key" BLOB NOT NULL, row BLOB NOT NULL, PRIMARY KEY ("table", "key")',
}


class _Statements:
    """What is said to SQLite about one table; all of it follows from the table's facts."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.columns = tuple(dict.fromkeys(table.key + table.indexed))
        self._name = _quoted(table.name)
        key = ", ".join(map(_quoted, table.key))
        marks = ", ".join("?" * (len(self.columns) + 1))
        first = f"SELECT row FROM {self._name}"
        self.create = (
            f"CREATE TABLE {self._name} ({', '.join(map(_quoted, self.columns))}, row BLOB NOT NULL,"
            f" PRIMARY KEY ({key})) WITHOUT ROWID"
        )
        self.put = f"INSERT OR REPLACE INTO {self._name} VALUES ({marks})"
        self.get = f"{first} WHERE {_equal(table.key)}"
        self.remove = f"DELETE FROM {self._name} WHERE {_equal(table.key)}"
        self.clear = f"DELETE FROM {self._name}"
        self.finds = {group: f"{first} WHERE {_equal(group)} ORDER BY {key}" for group in (*table.groups, table.key)}
        self._first, self._key = first, key

    @property
    def indexes(self) -> dict[str, str]:
        """Index name to statement: one per group that no longer one begins with.

        And one per wide group: only there do its rows lie in the order of their keys, in which pages are read.
        """
        groups = self.table.groups
        longer = (*groups, self.table.key)
        wide = {(name,) for name in self.table.wide}
        begun = {one for one in groups for other in longer if other[: len(one)] == one and other != one}
        needed = [one for one in groups if one in wide or one not in begun]
        return {
            (name := ".".join((self.table.name, *group))): f"CREATE INDEX {_quoted(name)} ON {self._name}"
            f" ({', '.join(map(_quoted, group))})"
            for group in needed
            if group != self.table.key
        }

    def page(self, group: tuple[str, ...], *, follows: bool, like: Sequence[Like] = ()) -> str:
        """So many rows with values of a group, of all rows for an empty one; those that follow a key, by these rules.

        Its values are the group's, the key's, the part of each rule, and the number.
        """
        beyond = f"({self._key}) > ({', '.join('?' * len(self.table.key))})" if follows else ""
        conditions = " AND ".join(one for one in (_equal(group), beyond, *map(self._like, like)) if one)
        return f"{self._first}{' WHERE ' if conditions else ''}{conditions} ORDER BY {self._key} LIMIT ?"

    def _like(self, rule: Like) -> str:
        if rule.field not in self.columns:
            raise LookupError(f"{self.table.name} cannot be found by a part of {rule.field}")
        text = f"lowered({_quoted(rule.field)})" if rule.folded else _quoted(rule.field)
        return _LIKE[rule.how].format(text)

    def values(self, record: Record, row: bytes) -> tuple[Any, ...]:
        """The columns of this record's row."""
        return (*(getattr(record, name) for name in self.columns), row)

    def put_values(self, change: Put) -> tuple[Any, ...]:
        """The columns of a changed row; an older writer may not have known of every index."""
        if all(name in change.now for name in self.columns):
            return (*(change.now[name] for name in self.columns), change.row)
        return self.values(decode(self.table.kind, change.row), change.row)


class Sqlite:
    """Implements `ports.Writer` on one file. What it answered survives kill -9 and loss of power.

    Every failure of the disk is Unavailable, with nothing half written, and over as soon as the disk is well again.
    """

    def __init__(self, path: Path, tables: Mapping[str, Table], *, only_reads: bool = False) -> None:
        """Use `open`."""
        self.path = path
        self._only_reads = only_reads
        self._statements = {name: _Statements(table) for name, table in tables.items()}
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
        return _reader(self.path, only_reads=self._only_reads)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._only_reads:
            raise Unavailable("Another process writes this store.")
        if self._writer is None:
            self._writer = _writer(self.path)
        with _transaction(self._writer) as db:
            yield db

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
                _keep_unknown(db, change.table, change.key, change.row)
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

    def _restore(self, position: int, staging: "_Staging") -> None:
        with self._transaction() as db:
            for statements in self._statements.values():
                db.execute(statements.clear)
            db.execute("DELETE FROM unknown_rows")
            db.execute("DELETE FROM log WHERE feed = ?", (LOG,))
            for name, key, row in staging.rows():
                _insert(db, self._statements.get(name), name, key, row)
            _mark(db, LOG, head=position, applied=position)
        with suppress(sqlite3.Error):  # a reader in the way only postpones this
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _open(self) -> None:
        if not self._only_reads:
            _check_rights(self.path)
            self.path.with_name(f"{self.path.name}.restoring").unlink(missing_ok=True)
        try:
            if self._only_reads:
                with closing(self._connect()) as db:
                    return _check_version(db, self.path)
            self._writer = db = _writer(self.path)
            _check(db, self.path)
            with _transaction(db):
                _migrate(db, self._statements)
        except sqlite3.Error as error:
            raise _refusal(self.path, error) from error
        except msgspec.DecodeError as error:
            raise StoreRefused(f"{self.path} holds a row that cannot be read ({error}). {_CURE_DAMAGED}") from error

    def _shut(self) -> None:
        self._reading.shutdown()
        self._writing.shutdown()
        for connection in self._readers:
            connection.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.close()  # the last one takes the WAL into the file
            self._writer = None


class _View:
    """A read transaction on a connection of its own, and where in the tables it is."""

    def __init__(self, statements: Mapping[str, _Statements]) -> None:
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
            yield [(name, key, _unknown_row(db, name, key)) for key in keys[start : start + _PAGE]]


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
            _create_private(self._path)
            self._db = _connection(self._path)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute('CREATE TABLE staged (number INTEGER PRIMARY KEY, "table", "key", row)')

    def add(self, rows: Sequence[Row]) -> None:
        values = [(name, msgspec.msgpack.encode(key), row) for name, key, row in rows]
        with self._using, _transaction(self._open()) as db:
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


_LIKE = {
    "contains": "instr({}, ?) > 0",
    "startswith": "instr({}, ?) = 1",
    "endswith": "ends_with({}, ?)",
}
_CURE_DAMAGED = (
    "Move the file away together with those whose names begin with its name, then put a backup in its place;"
    " a site's replica is built again from the controller when it is gone."
)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"{_quoted(name)} IS ?" for name in names)


def _connection(path: Path | str) -> sqlite3.Connection:
    # a connection is used by one thread at a time; it is closed by another
    form: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "cached_statements": 512}
    db: sqlite3.Connection = sqlite3.connect(path, timeout=_BUSY_S, uri=isinstance(path, str), **form)
    db.execute("PRAGMA foreign_keys = OFF")
    return db


def _reader(path: Path, *, only_reads: bool = False) -> sqlite3.Connection:
    db = _connection(f"{path.absolute().as_uri()}?mode=ro" if only_reads else path)
    db.execute("PRAGMA query_only = ON")
    db.create_function("lowered", 1, _lowered, deterministic=True)
    db.create_function("ends_with", 2, _ends_with, deterministic=True)
    return db


def _lowered(value: Any) -> Any:
    """As Python has it: SQLite's own knows no letters beyond ASCII."""
    return value.lower() if isinstance(value, str) else None


def _ends_with(value: Any, part: str) -> bool:
    return isinstance(value, str) and value.endswith(part)


def _writer(path: Path) -> sqlite3.Connection:
    db = _connection(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 67108864")
    return db


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done it itself
            db.execute("ROLLBACK")
        raise


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


def _insert(db: sqlite3.Connection, statements: _Statements | None, name: str, key: Key, row: bytes) -> None:
    if statements is None:
        _keep_unknown(db, name, key, row)
    else:
        db.execute(statements.put, statements.values(decode(statements.table.kind, row), row))


def _keep_unknown(db: sqlite3.Connection, name: str, key: Key, row: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO unknown_rows VALUES (?, ?, ?)", (name, msgspec.msgpack.encode(key), row))


def _unknown_row(db: sqlite3.Connection, name: str, key: Key) -> bytes:
    values = (name, msgspec.msgpack.encode(key))
    row: bytes = db.execute('SELECT row FROM unknown_rows WHERE "table" = ? AND "key" = ?', values).fetchone()[0]
    return row


def _create_private(path: Path) -> None:
    """The file with mode 0600, before SQLite would make it with another."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _check_rights(path: Path) -> None:
    folder = path.parent
    user = f"user {os.geteuid()}"
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            sync_directory(folder.parent)
    except OSError as error:
        raise StoreRefused(
            f"The directory {folder} for {path.name} cannot be made ({error.strerror}). Make it for {user}, mode 0700."
        ) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StoreRefused(
            f"The directory {folder} of {path.name} is not {user}'s to write. Give it to them, mode 0700."
        )
    try:
        _create_private(path)
        path.chmod(0o600)
        sync_directory(folder)
        with path.open("r+b"):
            pass
    except OSError as error:
        raise StoreRefused(
            f"{path} cannot be opened for writing ({error.strerror}). Make it a file of {user}, mode 0600, on a disk"
            " that has room and is not read-only."
        ) from error


def _refusal(path: Path, error: sqlite3.Error) -> StoreRefused:
    damaged = type(error) is sqlite3.DatabaseError  # malformed, not a database
    if damaged:
        return StoreDamaged(f"{path} is damaged ({error}). {_CURE_DAMAGED}")
    return StoreRefused(f"{path} cannot be opened ({error}). See that its disk has room and that no one else holds it.")


def _check(db: sqlite3.Connection, path: Path) -> None:
    _check_version(db, path)
    faults = [fault for (fault,) in db.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise StoreDamaged(f"{path} is damaged ({faults[0]}). {_CURE_DAMAGED}")


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if objects and application != _APPLICATION:
        raise StoreRefused(f"{path} is a database of something else. Name another file, or move this one away.")
    if version > SCHEMA:
        raise StoreRefused(
            f"{path} was written by a newer version (its schema is {version}, {SCHEMA} is known here)."
            " Start that version again, or move the file away and put a backup from before the upgrade in its place."
        )


def _migrate(db: sqlite3.Connection, known: Mapping[str, _Statements]) -> None:
    """Make the file's tables those of this version; rows keep their bytes, so only what is indexed ever changes."""
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    for name, form in _OWN.items():
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({form})")
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} - _OWN.keys()
    for name in sorted(there | known.keys()):
        statements = known.get(name)
        columns = [column[1] for column in db.execute(f"PRAGMA table_info({_quoted(name)})")]
        if statements is None or columns != [*statements.columns, "row"]:
            _rebuild(db, name, statements, exists=name in there)
        if statements is not None:
            _reindex(db, statements)


def _rebuild(db: sqlite3.Connection, name: str, statements: _Statements | None, *, exists: bool) -> None:
    """Move a table's rows to the form that this version has for it: columns of its own, or the unknown ones."""
    if exists:
        columns = db.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        key = [column[1] for column in sorted(columns, key=itemgetter(5)) if column[5]]
        for (row,) in db.execute(f"SELECT row FROM {_quoted(name)}"):
            fields = msgspec.msgpack.decode(row)
            _keep_unknown(db, name, tuple(fields[one] for one in key), row)
        db.execute(f"DROP TABLE {_quoted(name)}")
    if statements is not None:
        db.execute(statements.create)
        for (row,) in db.execute('SELECT row FROM unknown_rows WHERE "table" = ?', (name,)).fetchall():
            _insert(db, statements, name, (), row)
        db.execute('DELETE FROM unknown_rows WHERE "table" = ?', (name,))


def _reindex(db: sqlite3.Connection, statements: _Statements) -> None:
    there = {
        name
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
            (statements.table.name,),
        )
    }
    for name in there - statements.indexes.keys():
        db.execute(f"DROP INDEX {_quoted(name)}")
    for name in statements.indexes.keys() - there:
        db.execute(statements.indexes[name])
