"""Change and Entry, their bytes; what a transaction has read; whether two of them collide.

The log is the truth: every write is one numbered entry that carries its changes, and tables are its projections.
There are two kinds of change. A revocation, a key turn, an enrolment are Puts of the records that say so.
Source: docs/feeds.md.
"""

from collections.abc import Iterable
from typing import Any, NewType

import msgspec

from regional_keystone.record import TABLES, Key, R, Record, Touch, decode, encode, facts, indexed_values, touches

Position = NewType("Position", int)  # number of an entry in the log; 0 is before the first
LOG = "log"  # the feed that controllers append to; every other feed is `site/incarnation`
_CHANGE_BYTES = 1024  # what a change takes in memory beside its row


class Put(msgspec.Struct, frozen=True, tag="put", array_like=True, gc=False):
    """A row becomes `row`; `was` holds the indexed values it had, None for a row that was not there."""

    table: str
    key: Key
    row: bytes
    now: dict[str, Any]
    was: dict[str, Any] | None = None

    def __repr__(self) -> str:  # without the row, which may hold a secret
        return f"Put({self.table!r}, {self.key!r}, now={self.now!r}, was={self.was!r})"


class Remove(msgspec.Struct, frozen=True, tag="remove", array_like=True, gc=False):
    """A row goes; `was` holds the indexed values it had."""

    table: str
    key: Key
    was: dict[str, Any]


Change = Put | Remove


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One write: numbered without gaps in its feed, never undone, all of its changes or none.

    `id` is its transaction's, unique for ever; `at` the writer's wall clock in microseconds.
    """

    number: int
    id: str
    at: int
    changes: tuple[Change, ...]


class Transaction(msgspec.Struct, frozen=True):
    """What a handler read at `position`, and what it wants to change. Committed whole or run again."""

    id: str
    position: int
    reads: frozenset[Touch]
    changes: tuple[Change, ...]

    def collides(self, disturbed: set[Touch] | frozenset[Touch]) -> bool:
        """Whether entries that disturbed these touches after `position` may have changed what was read."""
        return not self.reads.isdisjoint(disturbed) or not disturbed.isdisjoint(written(self.changes))


class Collision(Exception):
    """A transaction must be run again: what it read has changed since."""


def put(new: Record, old: Record | None = None) -> Put:
    """The change that stores `new` where `old` was.

    Raises msgspec.ValidationError for a record that could not be read again: it must never reach a log.
    """
    table = facts(type(new))
    was = None if old is None else indexed_values(old)
    row = encode(new)
    decode(type(new), row)
    return Put(table.name, table.key_of(new), row, indexed_values(new), was)


def remove(old: Record) -> Remove:
    """The change that takes `old` away."""
    table = facts(type(old))
    return Remove(table.name, table.key_of(old), indexed_values(old))


def written(changes: Iterable[Change]) -> set[Touch]:
    """The rows that these changes write."""
    return {(change.table, *change.key) for change in changes}


def disturbed(changes: Iterable[Change]) -> set[Touch]:
    """Every touch that a reader may have depended on: rows, index groups before and after, whole tables.

    A table that this version does not know is disturbed as rows and as a whole.
    """
    found: set[Touch] = set()
    for change in changes:
        found |= {(change.table, *change.key), (change.table,)}
        table = TABLES.get(change.table)
        if table is None:
            continue
        for values in (change.was, change.now if isinstance(change, Put) else None):
            if values is not None:
                found |= touches(table, values)
    return found


def told(entries: Iterable[Entry], kind: type[R]) -> list[R]:
    """What these entries put into the table of this kind, in order."""
    table = facts(kind).name
    changes = [change for entry in entries for change in entry.changes if change.table == table]
    return [decode(kind, change.row) for change in changes if isinstance(change, Put)]


def origin(name: str) -> tuple[str, int]:
    """The feed and number of the entry that a revocation of this name came from; 0 for one that came from none."""
    feed, _, rest = name.rpartition("/")[0].rpartition("/")
    return feed, int(rest) if rest.isdecimal() else 0


def net(changes: Iterable[Change]) -> tuple[Change, ...]:
    """One change per row, the last one, with the `was` of the first: what a store with timestamps needs."""
    found: dict[Touch, Change] = {}
    for change in changes:
        row = (change.table, *change.key)
        first = found.pop(row, None)
        if first is None:
            found[row] = change
        elif isinstance(change, Put) or first.was is not None:
            found[row] = msgspec.structs.replace(change, was=first.was)
        # a row that this entry both made and removed is no change at all
    return tuple(found.values())


def encode_entry(entry: Entry) -> bytes:
    """An entry as bytes, for a log and for the stream."""
    return msgspec.msgpack.encode(entry)


_ENTRY = msgspec.msgpack.Decoder(Entry)


def decode_entry(data: bytes) -> Entry:
    """The entry that `encode_entry` wrote. Raises ValueError for anything else: a site may write what it likes."""
    try:
        return _ENTRY.decode(data)
    except (RecursionError, TypeError, OverflowError) as error:  # too deep, nothing at all, a key that is a list
        raise ValueError(f"no entry: {error}") from None


def memory_bytes(entry: Entry) -> int:
    """About how much memory an entry takes that waits to be projected."""
    return sum(_CHANGE_BYTES + (len(change.row) if isinstance(change, Put) else 0) for change in entry.changes)
