"""Which rows of a store that several share no entry of the log made as they are, and what each should be.

Pure: what lies there, and what the log says, are given. Source: ADR 39.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from regional_keystone.log import Change, Put, Remove
from regional_keystone.record import TABLES, Key

Place = tuple[Any, ...]
"""The name of one of the store's tables, and the columns by which a row is found there."""
Pace = Callable[[int], Awaitable[None]]
"""Waits until so many more rows may be read."""

FEW_ROWS = 20  # of so few any number may be wrong at once
MOST_SHARE = 0.1


class Lain(NamedTuple):
    """A row or a copy of it as it lies in the store; without `row` a stone, or nothing at all.

    `sure`: it has the timestamps that the entry it names gives; `dated`: what names that entry has them.
    """

    place: Place
    at: int | None
    row: bytes | None
    sure: bool
    dated: bool


class Suspect(NamedTuple):
    """A record that may be other than the log made it, and further places at which something of it lies."""

    table: str
    key: Key
    places: frozenset[Place] = frozenset()


class Reading(NamedTuple):
    """What reading one record table has shown; `moving` parts, by how keys begin, say nothing: they were being changed.

    `sums` are those of the rows by their keys' beginnings, for a table that has no copies.
    """

    rows: int
    suspects: list[Suspect]
    moving: set[str]
    sums: dict[str, int]


class Said(NamedTuple):
    """What the log says of a record: the entry that touched it last, and the row or, of a removed one, none."""

    number: int
    row: bytes | None


class Found(NamedTuple):
    """A record that is not as the log made it: `how` is changed, lost or added.

    `known`: it can be told what it should be: `row`, or nothing.
    """

    table: str
    key: Key
    how: str
    row: bytes | None
    known: bool
    wrong: tuple[Lain, ...]


class Behind(NamedTuple):
    """A row or copy that this data centre showed as `was` while most had `due`; `back`: it shows that now."""

    table: str
    key: Key
    was: Lain | None
    due: Lain
    back: bool


class Levelling(Protocol):
    """One data centre's part of a store, which others have as well. Whatever cannot be read is Unavailable."""

    async def load_floors(self) -> None:
        """Know where timestamps begin later than elsewhere."""
        ...

    async def level_out(self, table: str, upto: int, pace: Pace) -> tuple[int, list[Behind]]:
        """Compare a table, in which entries up to this one have arrived here, with what most have; how many rows.

        What is missing here is here once that was asked for.
        """
        ...


class Drifting(Protocol):
    """A store that can be asked how its rows lie there. Whatever cannot be read is Unavailable."""

    async def load_floors(self) -> None:
        """Know where timestamps begin later than elsewhere, as all controllers have to before they write."""
        ...

    async def raise_floors(self, places: Iterable[Place], floor: int) -> None:
        """Say durably that whatever is written at these places from now on counts from this timestamp on."""
        ...

    async def busy(self) -> bool:
        """Whether the tables are being replaced."""
        ...

    async def read(self, table: str, upto: int, pace: Pace) -> Reading:
        """Read all rows and copies of a table, in which entries up to this one have arrived."""
        ...

    async def row(self, table: str, key: Key) -> Lain:
        """What lies there of one record, by its key alone."""
        ...

    async def read_leaf(self, table: str, leaf: str) -> set[Key]:
        """The keys of all rows, removed ones too, that begin so."""
        ...

    async def lain(self, suspect: Suspect) -> tuple[Lain, ...]:
        """What lies there of one record, the row by its key first."""
        ...

    def places(self, table: str, key: Key, row: bytes) -> set[Place]:
        """Where this row and its copies should be."""
        ...

    async def petrify(self, places: Iterable[Place], number: int) -> None:
        """Turn to stones, as of this entry, copies that no change of their record speaks of."""
        ...


def top_of(lain: Iterable[Lain]) -> int | None:
    """The newest entry that something which is surely of the log names."""
    return max((one.at for one in lain if one.sure and one.at is not None), default=None)


def judge(
    suspect: Suspect,
    lain: Sequence[Lain],
    said: Said | None,
    places: Callable[[str, Key, bytes], set[Place]],
    *,
    is_whole: bool,
) -> Found | None:
    """What is wrong with a record; None where nothing is.

    `said`: what the log says, None where it does not reach so far back. `is_whole`: it has never forgotten an entry.
    """
    if said is None and all(one.at is None and one.row is None for one in lain):
        return None
    known, row = _truth(lain, said, is_whole=is_whole)
    if not known:
        wrong = tuple(one for one in lain if not one.sure) or tuple(lain)
        return Found(suspect.table, suspect.key, "changed", None, known=False, wrong=wrong)
    wanted = set() if row is None else places(suspect.table, suspect.key, row)
    missing = sorted(wanted - {one.place for one in lain}, key=repr)
    wrong = (
        *(one for one in lain if not _is_right(one, wanted, row)),
        *(Lain(place, None, None, sure=False, dated=False) for place in missing),
    )
    if not wrong:
        return None
    return Found(suspect.table, suspect.key, _how(wrong, wanted), row, known=True, wrong=wrong)


def change_of(found: Found, values: Callable[[str, bytes], dict[str, Any] | None]) -> Change:
    """The change that says once more what this record is; copies of what lay there wrongly turn to stone with it.

    `values`: the indexed values of a row, None for what cannot be read.
    """
    facts = TABLES[found.table]
    mine = dict(zip(facts.key, found.key, strict=True))
    nothing = dict.fromkeys(facts.indexed)
    lay = (values(found.table, one.row) for one in found.wrong if one.row is not None and one.row != found.row)
    was = next((one for one in lay if one is not None), None)
    if found.row is None:
        return Remove(found.table, found.key, (was or nothing) | mine)
    now = values(found.table, found.row) or nothing | mine
    return Put(found.table, found.key, found.row, now, None if was is None else was | mine)


def too_many(found: int, rows: int, most: int) -> bool:
    """Whether so many wrong at once are rather somebody's intent, or a fault of ours, than drift."""
    return found > most or (found > FEW_ROWS and found > MOST_SHARE * rows)


def _truth(lain: Sequence[Lain], said: Said | None, *, is_whole: bool) -> tuple[bool, bytes | None]:
    """Whether it is known what the record should be, and its row."""
    top = top_of(lain)
    if said is not None and (top is None or said.number >= top):
        return True, said.row
    newest = [one for one in lain if one.sure and one.at == top]
    rows = {one.row for one in newest if one.row is not None}
    if len(rows) == 1:
        return True, rows.pop()
    if not rows and newest and lain and lain[0] in newest:
        return True, None  # the row by its key says itself that it was removed
    made_by_hand = top is None and not any(one.dated for one in lain)
    return made_by_hand and is_whole, None


def _how(wrong: Iterable[Lain], wanted: set[Place]) -> str:
    in_place = [one for one in wrong if one.place in wanted]
    if any(one.row is not None for one in in_place):
        return "changed"
    return "lost" if in_place else "added"


def _is_right(one: Lain, wanted: set[Place], row: bytes | None) -> bool:
    if one.place in wanted:
        return one.sure and one.row == row
    return one.row is None and (one.sure or one.at is None)
