"""What a file of the store is: its tables and statements, all from the records' facts; how it is opened and brought up.

Rows keep their bytes from version to version, so only what is indexed ever changes. Source: docs/data-model.md
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from regional_keystone.durable import sync_directory
from regional_keystone.errors import StoreDamaged, StoreRefused
from regional_keystone.log import Put
from regional_keystone.record import Key, Like, Record, Table, decode

SCHEMA = 2  # of the tables that are not derived from records; a file with a higher one is refused
_APPLICATION = 0x524B4944  # marks a file as ours
_BUSY_S = 5.0
_OWN = {
    "log": "feed TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, entry BLOB NOT NULL,"
    " PRIMARY KEY (feed, number)",
    "feeds": "feed TEXT PRIMARY KEY, head INTEGER NOT NULL DEFAULT 0, applied INTEGER NOT NULL DEFAULT 0",
    "acknowledgements": "site TEXT PRIMARY KEY, said BLOB NOT NULL",
    "unknown_rows": '"table" TEXT NOT NULL, "key" BLOB NOT NULL, row BLOB NOT NULL, PRIMARY KEY ("table", "key")',
}


class Statements:
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
        self.lying = (
            f"SELECT {', '.join(map(_quoted, self.columns))}, row FROM {self._name}"
            f" WHERE {_quoted(table.key[0])} >= ? ORDER BY {key}"
        )
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


_LIKE = {
    "contains": "instr({}, ?) > 0",
    "startswith": "instr({}, ?) = 1",
    "endswith": "ends_with({}, ?)",
}
CURE_DAMAGED = (
    "Move the file away together with those whose names begin with its name, then put a backup in its place;"
    " a site's replica is built again from the controller when it is gone."
)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"{_quoted(name)} IS ?" for name in names)


def connection(path: Path | str) -> sqlite3.Connection:
    """A file, or the address of one; whoever holds it uses it from one thread at a time."""
    # used by one thread at a time; it is closed by another
    form: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "cached_statements": 512}
    db: sqlite3.Connection = sqlite3.connect(path, timeout=_BUSY_S, uri=isinstance(path, str), **form)
    db.execute("PRAGMA foreign_keys = OFF")
    return db


def reader(path: Path, *, only_reads: bool = False) -> sqlite3.Connection:
    """A connection that cannot change anything."""
    db = connection(f"{path.absolute().as_uri()}?mode=ro" if only_reads else path)
    db.execute("PRAGMA query_only = ON")
    db.create_function("lowered", 1, _lowered, deterministic=True)
    db.create_function("ends_with", 2, _ends_with, deterministic=True)
    return db


def _lowered(value: Any) -> Any:
    """As Python has it: SQLite's own knows no letters beyond ASCII."""
    return value.lower() if isinstance(value, str) else None


def _ends_with(value: Any, part: str) -> bool:
    return isinstance(value, str) and value.endswith(part)


def writer(path: Path) -> sqlite3.Connection:
    """A connection whose transactions survive kill -9 and loss of power once they are committed."""
    db = connection(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 67108864")
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of what is done in it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done it itself
            db.execute("ROLLBACK")
        raise


def insert(db: sqlite3.Connection, statements: Statements | None, name: str, key: Key, row: bytes) -> None:
    """Put a row where this version has it; of a table that it does not know, among the unknown ones."""
    if statements is None:
        keep_unknown(db, name, key, row)
    else:
        db.execute(statements.put, statements.values(decode(statements.table.kind, row), row))


def keep_unknown(db: sqlite3.Connection, name: str, key: Key, row: bytes) -> None:
    """Keep a row of a table that is not known here for a version that knows it."""
    db.execute("INSERT OR REPLACE INTO unknown_rows VALUES (?, ?, ?)", (name, msgspec.msgpack.encode(key), row))


def unknown_row(db: sqlite3.Connection, name: str, key: Key) -> bytes:
    """The bytes of a row that was kept so."""
    values = (name, msgspec.msgpack.encode(key))
    row: bytes = db.execute('SELECT row FROM unknown_rows WHERE "table" = ? AND "key" = ?', values).fetchone()[0]
    return row


def create_private(path: Path) -> None:
    """The file with mode 0600, before SQLite would make it with another."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def check_rights(path: Path) -> None:
    """Make directory and file where they are not there. Raises StoreRefused where the rights do not do."""
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
        create_private(path)
        path.chmod(0o600)
        sync_directory(folder)
        with path.open("r+b"):
            pass
    except OSError as error:
        raise StoreRefused(
            f"{path} cannot be opened for writing ({error.strerror}). Make it a file of {user}, mode 0600, on a disk"
            " that has room and is not read-only."
        ) from error


def refusal(path: Path, error: sqlite3.Error) -> StoreRefused:
    """Why a file cannot be opened, and what to do."""
    damaged = type(error) is sqlite3.DatabaseError  # malformed, not a database
    if damaged:
        return StoreDamaged(f"{path} is damaged ({error}). {CURE_DAMAGED}")
    return StoreRefused(f"{path} cannot be opened ({error}). See that its disk has room and that no one else holds it.")


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raise StoreRefused for a file of something else or of a newer version, and StoreDamaged for a damaged one."""
    check_version(db, path)
    faults = [fault for (fault,) in db.execute("PRAGMA quick_check(1)")]
    if faults != ["ok"]:
        raise StoreDamaged(f"{path} is damaged ({faults[0]}). {CURE_DAMAGED}")


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Raise StoreRefused for a file of something else or of a newer version."""
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


def migrate(db: sqlite3.Connection, known: Mapping[str, Statements]) -> None:
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


def _rebuild(db: sqlite3.Connection, name: str, statements: Statements | None, *, exists: bool) -> None:
    """Move a table's rows to the form that this version has for it: columns of its own, or the unknown ones."""
    if exists:
        columns = db.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        key = [column[1] for column in sorted(columns, key=itemgetter(5)) if column[5]]
        for (row,) in db.execute(f"SELECT row FROM {_quoted(name)}"):
            fields = msgspec.msgpack.decode(row)
            keep_unknown(db, name, tuple(fields[one] for one in key), row)
        db.execute(f"DROP TABLE {_quoted(name)}")
    if statements is not None:
        db.execute(statements.create)
        for (row,) in db.execute('SELECT row FROM unknown_rows WHERE "table" = ?', (name,)).fetchall():
            insert(db, statements, name, (), row)
        db.execute('DELETE FROM unknown_rows WHERE "table" = ?', (name,))


def _reindex(db: sqlite3.Connection, statements: Statements) -> None:
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
