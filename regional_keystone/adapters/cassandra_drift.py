"""How rows lie in Cassandra: with timestamps that the log gives or without, beside their copies or not.

A hand that writes without a timestamp writes with a clock's, which beats every position: such places get a floor, from
which their timestamps begin. Source: ADR 39.
"""

import asyncio
import base64
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_schema import MARKS, Copy, FloorMarks, Form, Forms, Marks
from regional_keystone.adapters.cassandra_tables import Tables, Write, statements
from regional_keystone.drift import Behind, Lain, Pace, Place, Reading, Suspect
from regional_keystone.log import LOG
from regional_keystone.record import Key, decode, indexed_values
from regional_keystone.sums import counts, leaf_of, total

_PAGE = 500
_MOST = "QUORUM"
_AHEAD = 16  # buckets that are asked for at once
Sums = dict[str, int]


class Levels(NamedTuple):
    """Consistency by which rows, their copies, and what is suspected are read, and floors written."""

    rows: str = "QUORUM"
    copies: str = "LOCAL_QUORUM"
    suspects: str = "QUORUM"
    write: str = "QUORUM"


class Drift:
    """Implements `drift.Drifting` for the tables of one session."""

    def __init__(self, driver: Driver, tables: Tables, levels: Levels = Levels()) -> None:  # noqa: B008  a constant
        self._driver, self._tables, self._levels = driver, tables, levels
        self._forms = {form.name: form for form in tables.physical}

    async def load_floors(self) -> None:
        """Know where timestamps begin later than elsewhere."""
        begin = FloorMarks.begin
        rows = await self._driver.run(FloorMarks.all, consistency=self._levels.rows)
        named = {feed.removeprefix(begin): floor for feed, floor in rows if feed.startswith(begin) and floor}
        self._tables.floors = {_place(name): floor for name, floor in named.items()}

    async def raise_floors(self, places: Iterable[Place], floor: int) -> None:
        """Say durably that what is written at these places from now on counts from this timestamp on."""
        said = [(FloorMarks.write, (floor, floor, FloorMarks.begin + _name(place))) for place in places]
        await self._driver.change(said, consistency=self._levels.write)
        await self.load_floors()

    async def busy(self) -> bool:
        """Whether the tables are being replaced."""
        rows = await self._driver.run(Marks(MARKS).get, (LOG,), consistency=self._levels.rows)
        return not rows or bool(rows[0][2])

    async def read(self, table: str, upto: int, pace: Pace) -> Reading:
        """Read all rows and copies of a table, in which entries up to this one have arrived."""
        forms, found = self._tables.forms[table], _Weighed(upto)
        async for lain in self._rows(forms, pace):
            found.take(forms, lain)
        differing = set[str]()
        for copy in forms.copies:
            beside = await self._weigh_copy(forms, copy, upto, pace)
            found.moving |= beside.moving
            for key, places in beside.suspects.items():
                found.suspects[key] |= places
            differing |= {one for one in found.sums.keys() | beside.sums if found.sums[one] != beside.sums[one]}
        leaves = (differing | {leaf_of(forms.table, key) for key in found.suspects}) - found.moving
        suspects = await self._look_into(forms, leaves, found.suspects, pace)
        return Reading(found.rows, suspects, found.moving, dict(found.sums))

    async def read_leaf(self, table: str, leaf: str) -> set[Key]:
        """The keys of all rows, removed ones too, that begin so."""
        forms = self._tables.forms[table]
        place = forms.whole if forms.table.small else (leaf or "\0",)
        return {one.place[2:] async for one in self._part(forms.base, place)}

    async def row(self, table: str, key: Key) -> Lain:
        """What lies there of one record, by its key alone."""
        forms = self._tables.forms[table]
        return await self._one((forms.base.name, *forms.by_key(key)))

    async def lain(self, suspect: Suspect) -> tuple[Lain, ...]:
        """What lies there of one record, the row by its key first."""
        forms = self._tables.forms[suspect.table]
        base = (forms.base.name, *forms.by_key(suspect.key))
        first = await self._one(base)
        places = set(suspect.places) - {base}
        lying, asked = [first], {base}
        while places - asked or (new := self._copies_of(forms, suspect.key, lying) - asked):
            now = sorted((places - asked) or new, key=repr)
            asked.update(now)
            lying += await asyncio.gather(*map(self._one, now))
        return tuple(one for place, one in enumerate(lying) if not place or one.at is not None or one.row is not None)

    def places(self, table: str, key: Key, row: bytes) -> set[Place]:
        """Where this row and its copies should be."""
        forms = self._tables.forms[table]
        values = indexed_values(decode(forms.table.kind, row))
        copies = {(form.name, *place) for form, place in forms.found_by(key, values)}
        return {(forms.base.name, *forms.by_key(key)), *copies}

    async def petrify(self, places: Iterable[Place], number: int) -> None:
        """Turn to stones, as of this entry, copies that no change of their record speaks of."""
        writes = [Write(self._forms[place[0]], place[1:], number, None) for place in places]
        await self._driver.change(statements(writes, self._tables.floors), consistency=self._levels.write)

    def _copies_of(self, forms: Forms, key: Key, lying: Iterable[Lain]) -> set[Place]:
        """Where copies should be of what lies there, as far as that can be read."""
        found = set[Place]()
        for row in {one.row for one in lying if one.row is not None}:
            try:
                found |= self.places(forms.table.name, key, row)
            except ValueError:  # rubbish
                continue
        return found

    async def _one(self, place: Place, level: str = "") -> Lain:
        form = self._forms[place[0]]
        rows = await self._driver.run(form.get_dated, place[1:], consistency=level or self._levels.suspects)
        return self._lain(form, rows[0]) if rows else Lain(place, None, None, sure=False, dated=False)

    async def _rows(self, forms: Forms, pace: Pace) -> AsyncIterator[Lain]:
        """Rows by key, partition by partition: of those, other data centres send digests only."""
        parts = await self._parts(forms)
        for start in range(0, len(parts), _AHEAD):
            some = await asyncio.gather(*(self._whole(forms.base, one) for one in parts[start : start + _AHEAD]))
            for lain in (one for part in some for one in part):
                yield lain
            await pace(sum(map(len, some)))

    async def _parts(self, forms: Forms) -> list[tuple[Any, ...]]:
        """The partitions of rows by key; of these no data centre may lack a whole one unnoticed."""
        if forms.buckets is not None:
            return forms.buckets
        pages = self._driver.pages(forms.base.parts, consistency=_MOST, page_rows=5000)
        return sorted([part async for page in pages for part in page])

    async def _whole(self, form: Form, place: tuple[Any, ...], level: str = "") -> list[Lain]:
        return [one async for one in self._part(form, place, level)]

    async def _part(self, form: Form, place: tuple[Any, ...], level: str = "") -> AsyncIterator[Lain]:
        pages = self._driver.pages(form.find_dated, place, consistency=level or self._levels.rows, page_rows=_PAGE)
        async for page in pages:
            for row in page:
                yield self._lain(form, row)

    async def _copies(self, copy: Copy, pace: Pace) -> AsyncIterator[Lain]:
        pages = self._driver.pages(copy.form.all_dated, consistency=self._levels.copies, page_rows=_PAGE)
        async for page in pages:
            for row in page:
                yield self._lain(copy.form, row)
            await pace(len(page))

    async def _weigh_copy(self, forms: Forms, copy: Copy, upto: int, pace: Pace) -> "_Weighed":
        found = _Weighed(upto, len(copy.form.partition))
        async for lain in self._copies(copy, pace):
            found.take(forms, lain)
        return found

    async def _look_into(
        self, forms: Forms, leaves: set[str], seen: Mapping[Key, set[Place]], pace: Pace
    ) -> list[Suspect]:
        """The records in these parts of which rows and copies do not fit together; those `seen` in any case."""
        if not leaves:
            return []
        places = defaultdict[Key, set[Place]](set, {key: set(known) for key, known in seen.items()})
        for copy in forms.copies:
            async for lain in self._copies(copy, pace):
                key = lain.place[1 + len(copy.form.partition) :]
                if leaf_of(forms.table, key) in leaves:
                    places[key].add(lain.place)
        for leaf in leaves:
            for key in await self.read_leaf(forms.table.name, leaf):
                places[key] |= set()
        return [Suspect(forms.table.name, key, frozenset(places[key])) for key in sorted(places, key=repr)]

    def _lain(self, form: Form, values: tuple[Any, ...]) -> Lain:
        *place, at, row, at_written, row_written = values
        where = (form.name, *place)
        if at is None:
            return Lain(where, None, row, sure=False, dated=False)
        due = 2 * at + (row is not None)
        floors = (0, self._tables.floors.get((form.name, tuple(place)), 0))
        fits = at_written in {floor + due for floor in floors}
        dated = fits or at_written in {floor + 2 * at + 1 for floor in floors}
        return Lain(where, at, row, fits and row_written in {None, at_written}, dated)


class Here(Drift):
    """Implements `drift.Levelling` for a site: its data centre beside what most of all replicas have.

    Reading at QUORUM through a node of this data centre gives it what it lacks; other data centres send digests.
    """

    def __init__(self, driver: Driver, tables: Tables, level: str) -> None:
        super().__init__(driver, tables, Levels(level, level, level))

    async def level_out(self, table: str, upto: int, pace: Pace) -> tuple[int, list[Behind]]:
        """Compare a table, in which entries up to this one have arrived here, with what most have; how many rows."""
        forms, found, behind = self._tables.forms[table], _Weighed(upto), list[Behind]()
        parts = await self._parts(forms)
        for start in range(0, len(parts), _AHEAD):
            some = parts[start : start + _AHEAD]
            here = await asyncio.gather(*(self._whole(forms.base, one) for one in some))
            most = await asyncio.gather(*(self._whole(forms.base, one, _MOST) for one in some))
            shown, due = ({one.place: one for part in side for one in part} for side in (here, most))
            for lain in due.values():
                found.take(forms, lain)
            differing = [(shown.get(place), one) for place, one in due.items() if shown.get(place) != one]
            behind += await self._given_back(table, 2, differing, upto)
            await pace(len(due))
        for copy in forms.copies:
            behind += await self._level_copy(forms, copy, found, pace)
        return found.rows, behind

    async def _level_copy(self, forms: Forms, copy: Copy, found: "_Weighed", pace: Pace) -> list[Behind]:
        beside = await self._weigh_copy(forms, copy, found.upto, pace)
        leaves = {one for one in found.sums.keys() | beside.sums if found.sums[one] != beside.sums[one]}
        leaves -= found.moving | beside.moving
        suspects = await self._look_into(forms, leaves, {}, pace)
        places = {place for one in suspects for place in one.places}
        for one in suspects:
            row = await self._one((forms.base.name, *forms.by_key(one.key)), _MOST)
            places |= self._copies_of(forms, one.key, [row])
        wanted = sorted((place for place in places if place[0] == copy.form.name), key=repr)
        compared = [(await self._one(place), await self._one(place, _MOST)) for place in wanted]
        differing = [(was, due) for was, due in compared if was != due]
        return await self._given_back(forms.table.name, 1 + len(copy.form.partition), differing, found.upto)

    async def _given_back(
        self, table: str, columns: int, differing: Sequence[tuple[Lain | None, Lain]], upto: int
    ) -> list[Behind]:
        """What of this was here before an entry that is on its way; and whether it is again."""
        old = [(was, due) for was, due in differing if max(due.at or 0, (was and was.at) or 0) <= upto]
        return [Behind(table, due.place[columns:], was, due, await self._one(due.place) == due) for was, due in old]


class _Weighed:
    """Sums of live rows by their keys' beginnings, in parts that no entry behind `upto` has changed."""

    def __init__(self, upto: int, columns: int = 1) -> None:
        self.sums: defaultdict[str, int] = defaultdict(int)
        self.moving: set[str] = set()
        self.suspects: defaultdict[Key, set[Place]] = defaultdict(set)
        self.rows = 0
        self.upto, self._columns = upto, columns

    def take(self, forms: Forms, lain: Lain) -> None:
        key = lain.place[1 + self._columns :]
        leaf = leaf_of(forms.table, key)
        self.rows += lain.row is not None
        if lain.sure and (lain.at or 0) > self.upto:
            self.moving.add(leaf)
        elif not lain.sure:
            self.suspects[key].add(lain.place)
        elif lain.row is not None:
            self.sums[leaf] = total((self.sums[leaf], counts(forms.table.name, key, lain.row)))


def _name(place: Place) -> str:
    return base64.b64encode(msgspec.msgpack.encode(place)).decode()


def _place(name: str) -> tuple[str, tuple[Any, ...]]:
    form, *place = msgspec.msgpack.decode(base64.b64decode(name))
    return form, tuple(place)
