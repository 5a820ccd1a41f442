"""Reads the tables of a file as they lie there, for sums of them; puts right what differs from what should be there.

Beside what answers questions, since here a row is bytes, and its columns are looked at for whether they fit.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any

import msgspec

from regional_keystone.adapters.sqlite_schema import Statements, insert
from regional_keystone.record import Key, defaults
from regional_keystone.sums import Covered, Lying, counts, leaf_of, total

_LOG_APPLIED = "SELECT applied FROM feeds WHERE feed = 'log'"


class Stretch:
    """What is asked of one table."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._keys = len(statements.table.key)
        self._columns = statements.columns
        usual = defaults(statements.table.kind)
        glance = msgspec.defstruct("Glance", [(name, Any, usual.get(name)) for name in self._columns])
        self._glance = msgspec.msgpack.Decoder(glance).decode

    def survey(self, db: sqlite3.Connection, begin: str, least_rows: int) -> Covered:
        """The sums from this leaf on, of so many rows at least and of whole leaves, at one position."""
        sums: dict[str, int] = {}
        leaf, rows, end, began_s = None, 0, None, thread_time()
        table = self._statements.table
        with _reading(db) as position:
            for one in self._lying(db, begin):
                here = leaf_of(table, one.key)
                if here != leaf:
                    if rows >= least_rows:
                        end = here
                        break
                    leaf = here
                sums[here] = sums.get(here, 0) + one.counts
                rows += 1
        whole = {name: total((found,)) for name, found in sums.items()}
        return Covered(position, whole, rows, end, thread_time() - began_s)

    def leaf(self, db: sqlite3.Connection, leaf: str) -> tuple[int, list[Lying]]:
        """The rows of one leaf and their position."""
        found, table = [], self._statements.table
        with _reading(db) as position:
            for one in self._lying(db, leaf):
                if leaf_of(table, one.key) != leaf:
                    break
                found.append(one)
        return position, found

    def mend(self, db: sqlite3.Connection, key: Key, row: bytes | None) -> None:
        """Make the row with this key these bytes, or none."""
        db.execute(self._statements.remove, key)
        if row is not None:
            insert(db, self._statements, self._statements.table.name, key, row)

    def _lying(self, db: sqlite3.Connection, begin: str) -> Iterator[Lying]:
        name = self._statements.table.name
        for values in db.execute(self._statements.lying, (begin,)):
            key, row = values[: self._keys], values[-1]
            found = row if isinstance(row, bytes) else str(row).encode()
            sound = row is found and self._fits(values)
            yield Lying(key, found, counts(name, key, found) + (not sound))

    def _fits(self, values: tuple[Any, ...]) -> bool:
        """Whether the columns, by which a row is found, are those that its bytes say."""
        try:
            glance = self._glance(values[-1])
        except msgspec.DecodeError:
            return False
        return all(getattr(glance, name) == value for name, value in zip(self._columns, values[:-1], strict=True))


@contextmanager
def _reading(db: sqlite3.Connection) -> Iterator[int]:
    """The position of all that is read inside."""
    db.execute("BEGIN")
    try:
        found = db.execute(_LOG_APPLIED).fetchone()
        yield found[0] if found else 0
    finally:
        db.execute("ROLLBACK")  # nothing was written
