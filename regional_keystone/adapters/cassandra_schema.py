"""What log and tables look like in Cassandra: names, columns, definitions and statements, all from the records' facts.

A table is there once by its key, and once more, whole, for every group of fields that it can be found by; of a small
one all rows are read at once instead.
Source: docs/data-model.md; docs/adr/0016-stones-instead-of-deletes.md; docs/adr/0017-buckets-and-shards.md
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, get_type_hints

import msgspec

from regional_keystone.record import Key, Table

VERSION = 1  # of all that is not derived from records
RANGE = 10_000  # numbers of a feed in one partition
SHARDS = 16  # partitions of what one would not hold
STONE_S = 30 * 86400  # how long a removal can be seen; longer than the log is kept and sites may be away
GRACE_S = 40 * 86400  # how long a late write of an older entry is still beaten by a newer one
LOG, MARKS, ACKNOWLEDGEMENTS, UNKNOWN, SCHEMA_VERSION = (
    "log",
    "marks",
    "acknowledgements",
    "unknown_rows",
    "schema_version",
)
COPIES = "copies"
"""The part of the schema's state that names, divided by blanks, the tables of rows that every writer has to keep."""
UNFILLED = "unfilled/"
"""Begins the parts of the schema's state that name records which new tables lack."""
# a read that meets a frozen node asks another after so long, also while few were made by which to know what is late;
# the second is of what a read finds to be repaired
_SOON = "speculative_retry = 'MIN(99p,100ms)' AND additional_write_policy = 'MIN(99p,100ms)'"
_OPTIONS = f"gc_grace_seconds = {GRACE_S} AND {_SOON}"
LONGEST = 60_000  # bytes of a key; Cassandra refuses more than 65,535

_OWN = frozenset({"bucket", "shard", "g", "at", "row"})
_TYPES = {str: "text", bool: "boolean", int: "bigint", bytes: "blob"}
_INTEGERS = range(-(2**63), 2**63)
_LONGEST_NAME = 48
_LONGEST_GROUP = 1024
_HASHED = b"\xc1"  # no msgpack value begins so
_BUCKET_CHARACTERS = 3
_ONE_BUCKET = "all"

Columns = tuple[tuple[str, str], ...]
Place = tuple[Any, ...]


class Form:
    """One table of rows as Cassandra has it: columns of the partition, columns of the key, `at` and `row`.

    `at` is the position of the entry that wrote the row; a row without `row` is a *stone*: it was removed there.
    """

    def __init__(self, name: str, partition: Columns, key: Columns) -> None:
        self.name = _named(name)
        self.partition, self.key = partition, key
        columns = [column for column, _ in (*partition, *key)]
        self.columns = ", ".join(map(quoted, columns))
        table, whole = quoted(self.name), _equal(columns)
        inside = _equal([column for column, _ in partition])
        self.create = (
            f"CREATE TABLE IF NOT EXISTS {table} ({_defined((*partition, *key))}, at bigint, row blob,"
            f" PRIMARY KEY (({', '.join(quoted(one) for one, _ in partition)}),"
            f" {', '.join(quoted(one) for one, _ in key)})) WITH {_OPTIONS}"
            " AND compaction = {'class': 'LeveledCompactionStrategy'}"
        )
        self.write = f"UPDATE {table} USING TIMESTAMP ? AND TTL ? SET at = ?, row = ? WHERE {whole}"
        self.get = f"SELECT row FROM {table} WHERE {whole}"
        self.seen = f"SELECT at, row FROM {table} WHERE {whole}"
        self.find = f"SELECT row FROM {table} WHERE {inside}"
        self.after = f"{self.find} AND {_greater([column for column, _ in key])}"
        self.find_first = f"{self.find} AND {quoted(key[0][0])} = ?"
        self.parts = f"SELECT DISTINCT {', '.join(quoted(one) for one, _ in partition)} FROM {table}"
        self.rows = f"SELECT row FROM {table}"
        self.all = f"SELECT {self.columns}, at, row FROM {table}"
        self.all_dated = f"SELECT {self.columns}, at, row, WRITETIME(at), WRITETIME(row) FROM {table}"
        self.find_dated = f"{self.all_dated} WHERE {inside}"
        self.get_dated = f"{self.all_dated} WHERE {whole}"
        self.move_away = f"DELETE FROM {table} USING TIMESTAMP ? WHERE {whole}"

    def writes(self, count: int) -> str:
        """So many writes of one partition, which are seen all or none."""
        return self.write if count == 1 else f"BEGIN UNLOGGED BATCH {'; '.join([self.write] * count)}; APPLY BATCH"

    def askable(self, place: Place) -> bool:
        """Whether a row with these columns can be there at all; the database would refuse the question else."""
        kinds = (kind for _, kind in (*self.partition, *self.key))
        return all(_askable(value, kind) for value, kind in zip(place, kinds, strict=False))


class Copy(NamedTuple):
    """The form by which rows are found that have the same values of a group."""

    group: tuple[str, ...]
    form: Form
    wide: bool


class Forms:
    """Every form of one record table, and where in each of them a row is."""

    def __init__(self, table: Table) -> None:
        self.table = table
        hints = get_type_hints(table.kind)
        key = tuple((name, _column_type(table, name, hints[name])) for name in table.key)
        if key[0][1] != "text":
            raise TypeError(f"{table.name}: the key's first field must be a str, or its rows have no order of buckets")
        self.base = Form(table.name, (("bucket", "text"),), key)
        groups = () if table.small else tuple(dict.fromkeys(table.unique + table.by))
        self.copies = tuple(self._copy(group, key) for group in groups)
        self.by_group = {copy.group: copy for copy in self.copies}

    @cached_property
    def all(self) -> tuple[Form, ...]:
        """The form by key first."""
        return (self.base, *(copy.form for copy in self.copies))

    @property
    def buckets(self) -> list[Place] | None:
        """The partitions of the form by key; None where they must be asked for."""
        return [(_ONE_BUCKET,)] if self.table.small else None

    def by_key(self, key: Key) -> Place:
        """Where the row with this key is."""
        return (_ONE_BUCKET if self.table.small else bucket(key[0]), *key)

    @property
    def whole(self) -> Place:
        """The one partition that has all rows of a small table."""
        return (_ONE_BUCKET,)

    def found_by(self, key: Key, values: Mapping[str, Any]) -> Iterator[tuple[Form, Place]]:
        """Where the copies of a row with these values are."""
        for copy in self.copies:
            g = packed([values[name] for name in copy.group])
            yield copy.form, ((g, shard(key)) if copy.wide else (g,)) + key

    def _copy(self, group: tuple[str, ...], key: Columns) -> Copy:
        wide = len(group) == 1 and group[0] in self.table.wide
        partition: Columns = (("g", "blob"), ("shard", "int")) if wide else (("g", "blob"),)
        return Copy(group, Form("__".join((self.table.name, *group)), partition, key), wide)


class Feeds:
    """What is said about a table of feeds: numbered entries, a partition for each range of a feed, its `head`."""

    def __init__(self, name: str) -> None:
        self.name = name
        table = quoted(name)
        inside = 'feed = ? AND "range" = ?'
        self.create = (
            f'CREATE TABLE IF NOT EXISTS {table} (feed text, "range" bigint, number bigint, head bigint static,'
            f' id text, at bigint, entry blob, PRIMARY KEY ((feed, "range"), number)) WITH {_OPTIONS}'
        )
        # DISTINCT reads the static column alone, whatever was forgotten in the partition
        self.head = f'SELECT DISTINCT feed, "range", head FROM {table} WHERE {inside}'
        self.heads = f'SELECT DISTINCT feed, "range", head FROM {table}'
        self.move_head = f"UPDATE {table} SET head = ? WHERE {inside} IF head = ?"
        self.first_head = f"UPDATE {table} SET head = ? WHERE {inside} IF head = NULL"
        self.insert = f'INSERT INTO {table} (feed, "range", number, id, at, entry) VALUES (?, ?, ?, ?, ?, ?)'
        self.tail = f"SELECT number, entry FROM {table} WHERE {inside} AND number > ? LIMIT ?"
        self.ids = f"SELECT number, id FROM {table} WHERE {inside} AND number > ? AND number <= ?"
        # of rows: who removes a whole partition removes its head, and numbers are given out a second time
        self.forget = f"DELETE FROM {table} USING TIMESTAMP ? WHERE {inside} AND number <= ?"


class Marks:
    """What is said about a table of marks: how far a feed is in the tables, how far it was forgotten."""

    def __init__(self, name: str) -> None:
        table = quoted(name)
        self.name = name
        self.create = (
            f"CREATE TABLE IF NOT EXISTS {table} (feed text PRIMARY KEY, applied bigint, pruned bigint,"
            f" restoring bigint) WITH {_OPTIONS}"
        )
        self.get = f"SELECT applied, pruned, restoring FROM {table} WHERE feed = ?"
        self.applied, self.pruned, self.restoring = (
            f"UPDATE {table} USING TIMESTAMP ? SET {one} = ? WHERE feed = ?"
            for one in ("applied", "pruned", "restoring")
        )
        # at the mark's own time: by a clock's, no later mark would ever count again
        self.applied_at = f"SELECT applied, WRITETIME(applied) FROM {table} WHERE feed = ?"
        self.forget = f"DELETE applied FROM {table} USING TIMESTAMP ? WHERE feed = ?"


class HeartbeatMark:
    """What is said about the controllers' heartbeat, a row of marks under a name that no feed has.

    `applied` is where the log ended, `pruned` when that was sure.
    """

    feed = "heartbeat"
    write = f"UPDATE {MARKS} USING TIMESTAMP ? SET applied = ?, pruned = ? WHERE feed = ?"
    read = f"SELECT applied, pruned, WRITETIME(applied) FROM {MARKS} WHERE feed = ?"


class FloorMarks:
    """What is said about floors: places whose timestamps begin later, rows of marks under names that no feed has."""

    begin = "floor/"
    write = f"UPDATE {MARKS} USING TIMESTAMP ? SET applied = ? WHERE feed = ?"
    all = f"SELECT feed, applied FROM {MARKS}"


class Acknowledgements:
    """What is said about what sites have said; they are few and asked for together.

    A word that was taken back is an empty one and stays: of a value that is not there no time could be read.
    """

    create = (
        f"CREATE TABLE IF NOT EXISTS {ACKNOWLEDGEMENTS} (part int, site text, said blob, PRIMARY KEY (part, site))"
        f" WITH {_OPTIONS}"
    )
    write = f"UPDATE {ACKNOWLEDGEMENTS} USING TIMESTAMP ? SET said = ? WHERE part = 0 AND site = ?"
    all = f"SELECT site, said FROM {ACKNOWLEDGEMENTS} WHERE part = 0"
    said_at = f"SELECT WRITETIME(said) FROM {ACKNOWLEDGEMENTS} WHERE part = 0 AND site = ?"


_VERSIONS = (
    f"CREATE TABLE IF NOT EXISTS {SCHEMA_VERSION} (part text PRIMARY KEY, version bigint, state text, at bigint)"
    f" WITH {_OPTIONS}"
)


def keyspace(name: str, replicas: Mapping[str, int]) -> str:
    """The definition of the keyspace with so many replicas in each data centre."""
    return f"CREATE KEYSPACE IF NOT EXISTS {quoted(name)} WITH replication = {replication(replicas)}"


def replication(replicas: Mapping[str, int]) -> str:
    """The replication option of a keyspace, as CREATE and ALTER KEYSPACE take it."""
    each = "".join(f", {_text(name)}: {int(count)}" for name, count in replicas.items())
    return f"{{'class': 'NetworkTopologyStrategy'{each}}}"


def forms_of(tables: Mapping[str, Table]) -> dict[str, Forms]:
    """The forms of each record table. Raises TypeError for one that cannot be kept."""
    found = {name: Forms(table) for name, table in tables.items()}
    names = [*_fixed(), *(form.name for forms in found.values() for form in forms.all)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"several tables would be named {', '.join(sorted(twice))}")
    return found


def definitions(tables: Mapping[str, Table]) -> dict[str, str]:
    """Name -> statement of every table that all share, in the order in which they are to be made; safe to repeat."""
    forms = [form for forms in forms_of(tables).values() for form in forms.all]
    return {**_fixed(), **{form.name: form.create for form in forms}}


def site_definitions(site: str) -> dict[str, str]:
    """Name -> statement of the tables that this site alone may write."""
    own, ack = own_table(site), ack_table(site)
    return {own: Feeds(own).create, ack: Marks(ack).create}


def own_table(site: str) -> str:
    """The name of the table of a site's own feed."""
    return f"own_{escaped(site)}"


def ack_table(site: str) -> str:
    """The name of the table in which a site keeps what it has verified."""
    return f"ack_{escaped(site)}"


def escaped(site: str) -> str:
    """A site's name as part of a table's: itself if that is possible, else what is left of it and its hash."""
    if re.fullmatch(r"[A-Za-z0-9]{1,40}", site):
        return site
    digest = hashlib.sha256(site.encode()).hexdigest()[:16]
    return f"{re.sub('[^A-Za-z0-9]', '', site)[:24]}_{digest}"


def quoted(name: str) -> str:
    """A name that keeps its case and may be a word of CQL."""
    return '"' + name.replace('"', '""') + '"'


def bucket(first: str) -> str:
    """The partition of keys that begin so: in their order, and never an empty one, which is not allowed."""
    return first[:_BUCKET_CHARACTERS] or "\0"


def shard(key: Key) -> int:
    """Which of the partitions of one value a row is in."""
    return zlib.crc32(msgspec.msgpack.encode(key)) % SHARDS


def packed(values: Sequence[Any]) -> bytes:
    """The values of a group as one column; None is a value, and what is too long for a key is as good as its hash."""
    found = msgspec.msgpack.encode(values)
    return found if len(found) <= _LONGEST_GROUP else _HASHED + hashlib.sha256(found).digest()


def range_of(number: int, size: int = RANGE) -> int:
    """The range of the first number of a batch; numbers begin at 1."""
    return (number - 1) // size


def _fixed() -> dict[str, str]:
    return {
        SCHEMA_VERSION: _VERSIONS,
        LOG: Feeds(LOG).create,
        MARKS: Marks(MARKS).create,
        ACKNOWLEDGEMENTS: Acknowledgements.create,
        UNKNOWN: UNKNOWN_FORM.create,
    }


def _askable(value: Any, kind: str) -> bool:
    match kind:
        case "text":
            return isinstance(value, str) and _encodable(value)
        case "blob":
            return isinstance(value, bytes) and len(value) <= LONGEST
        case "boolean":
            return isinstance(value, bool)
        case _:
            return isinstance(value, int) and not isinstance(value, bool) and value in _INTEGERS


def _encodable(value: str) -> bool:
    try:
        return len(value.encode()) <= LONGEST
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def _column_type(table: Table, name: str, hint: Any) -> str:
    if name in _OWN:
        raise TypeError(f"{table.name}.{name}: a key's field cannot be named so, it is a column of every table")
    if hint not in _TYPES:
        raise TypeError(f"{table.name}.{name}: a key's field is one of {', '.join(one.__name__ for one in _TYPES)}")
    return _TYPES[hint]


def _named(name: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9_]{{1,{_LONGEST_NAME}}}", name):
        raise TypeError(f"{name} cannot be a table's name: at most {_LONGEST_NAME} of A-Z, a-z, 0-9 and _")
    return name


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"{quoted(name)} = ?" for name in names)


def _greater(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{quoted(names[0])} > ?"
    return f"({', '.join(map(quoted, names))}) > ({', '.join('?' * len(names))})"


def _defined(columns: Columns) -> str:
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in columns)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


UNKNOWN_FORM = Form(UNKNOWN, (("table", "text"), ("shard", "int")), (("key", "blob"),))
