"""Records in Cassandra: which rows a change touches, how they are written, and how they are read.

Every write names its timestamp, which follows from the entry's number, so the order in which writes arrive is nothing.
Source: docs/data-model.md; docs/adr/0016-stones-instead-of-deletes.md
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_schema import (
    SHARDS,
    STONE_S,
    UNKNOWN_FORM,
    Copy,
    Form,
    Forms,
    Place,
    forms_of,
    packed,
    shard,
)
from regional_keystone.log import Change, Entry, Put, Remove, net
from regional_keystone.record import Key, Like, R, Record, Table, decode, defaults, facts, indexed_values

Row = tuple[str, Key, bytes]
Statement = tuple[str, Sequence[Any]]
Floors = Mapping[tuple[str, Place], int]
"""Where timestamps of a form's place begin: a hand has written there with a clock's. See ADR 39."""

_TOGETHER = 128  # writes of one partition in one batch
_TOGETHER_BYTES = 512 * 1024
_PAGE = 500
_PARTS_AHEAD = 16
_SIFTED = 2000  # rows of a page of which few are wanted


class Write(NamedTuple):
    """What one row of one form becomes; without `row` a stone."""

    form: Form
    place: Place
    number: int
    row: bytes | None

    @property
    def values(self) -> tuple[Any, ...]:
        """What the form's `write` wants: the timestamp of a removal lies below that of a row at the same position."""
        return self.above(0)

    def above(self, floor: int) -> tuple[Any, ...]:
        """The same for a place whose timestamps begin at `floor`."""
        gone = self.row is None
        return (floor + 2 * self.number + (not gone), STONE_S if gone else 0, self.number, self.row, *self.place)


class Seen(NamedTuple):
    """One row as it lies in the database: `row` is None for a stone, `at` also for what has faded away."""

    place: Place
    at: int | None
    row: bytes | None


class _Part:
    """What has been read of one partition; `pages` gives its rows in the order of their keys."""

    def __init__(self, kind: type[Record], pages: AsyncIterator[list[tuple[Any, ...]]]) -> None:
        self.found: list[Any] = []
        self._kind, self._pages = kind, pages
        self._more = True

    async def read(self) -> None:
        page = await anext(self._pages, None)
        self._more = page is not None
        self.found += [decode(self._kind, row) for (row,) in page or () if row is not None]

    def may_precede(self, last: Key | None) -> bool:
        """Whether a row that has not been read can have a lesser key; None is beyond all keys. Stones have no say."""
        reached = facts(self._kind).key_of(self.found[-1]) if self.found else None
        return self._more and (last is None or reached is None or reached < last)


class _Sieve:
    """Those of many rows that every rule admits; of the others nothing but the fields in question is decoded."""

    def __init__(self, kind: type[Record], like: Sequence[Like]) -> None:
        self.found: list[Any] = []
        self._kind, self._like = kind, like
        self._glance = msgspec.defstruct("Glance", [(name, Any, None) for name in {rule.field for rule in like}])

    async def read(self, pages: AsyncIterator[list[tuple[Any, ...]]]) -> None:
        decoder = msgspec.msgpack.Decoder(self._glance)
        async for page in pages:
            for (row,) in page:
                glance = None if row is None else decoder.decode(row)
                if glance is not None and all(rule.admits(glance) for rule in self._like):
                    self.found.append(decode(self._kind, row))


class Tables:
    """Reads records at one level of consistency, and knows where they are."""

    def __init__(self, driver: Driver, tables: Mapping[str, Table], level: str) -> None:
        self.forms = forms_of(tables)
        self.level = level
        self.floors: Floors = {}
        self._driver = driver

    @property
    def physical(self) -> list[Form]:
        """Every table of rows, copies and unknown rows among them."""
        return [*(form for forms in self.forms.values() for form in forms.all), UNKNOWN_FORM]

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        forms = self.forms[facts(kind).name]
        if not forms.base.askable(("", *key)):
            return None
        rows = await self._driver.run(forms.base.get, forms.by_key(key), consistency=self.level)
        return decode(kind, rows[0][0]) if rows and rows[0][0] is not None else None

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group, in the order of their keys."""
        forms = self.forms[facts(kind).name]
        group = forms.table.group_of(equals)
        values = tuple(equals[name] for name in group)
        if group == forms.table.key:
            one = await self.get(kind, *values)
            return [] if one is None else [one]
        if group == forms.table.key[:1]:
            return await self._begins(kind, forms, values[0])
        if forms.table.small:
            found = [decode(kind, row) for row in await self._rows(forms.base.find, forms.whole)]
            return [one for one in found if all(getattr(one, name) == equals[name] for name in group)]
        copy = forms.by_group[group]
        places = _partitions(copy, values)
        pages = await asyncio.gather(*(self._rows(copy.form.find, place) for place in places))
        records = [decode(kind, row) for page in pages for row in page]
        return sorted(records, key=forms.table.key_of) if copy.wide else records

    async def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type in the order of their keys, read page by page."""
        async for page in self._parts(self.forms[facts(kind).name]):
            for (row,) in page:
                if row is not None:
                    yield decode(kind, row)

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`, in the order of their keys."""
        forms = self.forms[facts(kind).name]
        group = forms.table.group_of(equals) if equals else ()
        if after is not None and not forms.base.askable(("", *after)):
            return []
        if like:
            return await self._sifted(kind, forms, after, limit, like, equals)
        if group in forms.by_group:
            return await self._page_of_copy(kind, forms.by_group[group], after, limit, [equals[one] for one in group])
        if group:  # of a small table, or of what one key begins with: few
            rows = await self.find(kind, **equals)
            return [one for one in rows if after is None or forms.table.key_of(one) > after][:limit]
        found: list[R] = []
        async for part in self._parts(forms, after, min(limit, _PAGE)):
            found += [decode(kind, row) for (row,) in part if row is not None]
            if len(found) >= limit:
                break
        return found[:limit]

    async def lying(self, form: Form, level: str = "") -> AsyncIterator[list[Seen]]:
        """Every row of a form as it lies in the database, stones too, in no order."""
        async for page in self._driver.pages(form.all, consistency=level or self.level, page_rows=_PAGE):
            yield [Seen(tuple(place), at, row) for *place, at, row in page]

    def writes(self, number: int, change: Change) -> Iterator[Write]:
        """Everything that a change writes; the old values of its groups tell which copies turn to stone."""
        forms = self.forms.get(change.table)
        row = change.row if isinstance(change, Put) else None
        if forms is None:
            yield Write(UNKNOWN_FORM, unknown_place(change.table, change.key), number, row)
            return
        yield Write(forms.base, forms.by_key(change.key), number, row)
        now = set(forms.found_by(change.key, _values_now(forms.table, change))) if isinstance(change, Put) else set()
        yield from (Write(form, place, number, row) for form, place in now)
        if change.was is not None:
            was = set(forms.found_by(change.key, {**defaults(forms.table.kind), **change.was}))
            yield from (Write(form, place, number, None) for form, place in was - now)

    def written(self, entries: Iterable[Entry]) -> Iterator[Write]:
        """Everything that these entries write: of each entry what it comes to, since all of it has one timestamp."""
        for entry in entries:
            for change in net(entry.changes):
                yield from self.writes(entry.number, change)

    def writes_of_row(self, number: int, name: str, key: Key, row: bytes) -> Iterator[Write]:
        """Everything by which a row of a snapshot is there."""
        forms = self.forms.get(name)
        now = {} if forms is None else indexed_values(decode(forms.table.kind, row))
        return self.writes(number, Put(name, key, row, now))

    async def taken_in(self, seen: Seen) -> list[Write]:
        """Everything by which an unknown row, or its stone, is there in the table that this version knows it by."""
        name, key = self.key_of(UNKNOWN_FORM.name, seen)
        forms = self.forms[name]
        below = await self._driver.run(forms.base.get, forms.by_key(key), consistency=self.level)
        old = decode(forms.table.kind, below[0][0]) if below and below[0][0] is not None else None
        was = None if old is None else indexed_values(old)
        if seen.row is None:
            return list(self.writes(seen.at or 0, Remove(name, key, was or {}))) if was else []
        now = indexed_values(decode(forms.table.kind, seen.row))
        return list(self.writes(seen.at or 0, Put(name, key, seen.row, now, was)))

    async def left_behind(self, forms: Forms, copy: Copy, seen: Seen, applied: int) -> Write | None:
        """The stone for a copy that its row does not speak of any more; None for one that is right.

        `applied`: a position that no row is beyond, for a row of which nothing is left.
        """
        key = seen.place[len(copy.form.partition) :]
        rows = await self._driver.run(forms.base.seen, forms.by_key(key), consistency=self.level)
        at, row = rows[0] if rows else (None, None)
        if row is not None:
            places = forms.found_by(key, indexed_values(decode(forms.table.kind, row)))
            if (copy.form, seen.place) in places:
                return None
        return Write(copy.form, seen.place, at or applied, None)

    def key_of(self, name: str, seen: Seen) -> tuple[str, Key]:
        """The record table and key of a row by key, or of an unknown one."""
        if name == UNKNOWN_FORM.name:
            return seen.place[0], tuple(msgspec.msgpack.decode(seen.place[2]))
        return name, seen.place[1:]

    async def _page_of_copy(
        self, kind: type[R], copy: Copy, after: Key | None, limit: int, values: Sequence[Any]
    ) -> list[R]:
        """Of each partition about its share, and more of it as long as one of the first rows could be there."""
        places = _partitions(copy, values)
        share = limit / max(1, len(places))
        page_rows = min(limit, _PAGE, int(share + 3 * share**0.5) + 4)  # keys are spread evenly: seldom another page
        parts = [_Part(kind, self._reader(copy.form, place, after, page_rows)) for place in places]
        behind = parts
        found: list[R] = []
        while behind:
            await asyncio.gather(*(part.read() for part in behind))
            found = sorted((one for part in parts for one in part.found), key=facts(kind).key_of)[:limit]
            last = facts(kind).key_of(found[-1]) if len(found) == limit else None
            behind = [part for part in behind if part.may_precede(last)]
        return found

    async def _sifted(
        self,
        kind: type[R],
        forms: Forms,
        after: Key | None,
        limit: int,
        like: Sequence[Like],
        equals: Mapping[str, Any],
    ) -> list[R]:
        """The database has no question for it: all rows are read, in whatever order they lie, and few are looked at."""
        table = forms.table
        if unknown := {rule.field for rule in like}.difference(table.indexed):
            raise LookupError(f"{table.name} cannot be found by a part of {', '.join(sorted(unknown))}")
        sieve = _Sieve(kind, like)
        group = table.group_of(equals) if equals else ()
        if not group:
            await sieve.read(self._driver.pages(forms.base.rows, consistency=self.level, page_rows=_SIFTED))
        elif group in forms.by_group:
            copy = forms.by_group[group]
            places = _partitions(copy, [equals[name] for name in group])
            ask = partial(self._driver.pages, copy.form.find, consistency=self.level, page_rows=_SIFTED)
            await asyncio.gather(*(sieve.read(ask(place)) for place in places))
        else:
            sieve.found = [one for one in await self.find(kind, **equals) if all(rule.admits(one) for rule in like)]
        found = [one for one in sieve.found if after is None or table.key_of(one) > after]
        return sorted(found, key=table.key_of)[:limit]

    def _reader(
        self, form: Form, place: Place, after: Key | None, page_rows: int
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        cql, values = (form.find, place) if after is None else (form.after, (*place, *after))
        return self._driver.pages(cql, values, consistency=self.level, page_rows=page_rows)

    async def _parts(
        self, forms: Forms, after: Key | None = None, page_rows: int = _PAGE
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows by key that follow `after`, buckets in their order; the next ones are asked for ahead."""
        parts = forms.buckets
        if parts is None:
            pages = self._driver.pages(forms.base.parts, consistency=self.level, page_rows=5000)
            parts = sorted([part async for page in pages for part in page])
        if after is not None:
            parts = [part for part in parts if part >= forms.by_key(after)[:1]]
        for start in range(0, len(parts), _PARTS_AHEAD):
            readers = [self._reader(forms.base, part, after, page_rows) for part in parts[start : start + _PARTS_AHEAD]]
            for reader, first in zip(readers, await asyncio.gather(*(anext(one, []) for one in readers)), strict=True):
                yield first
                async for page in reader:
                    yield page

    async def _begins(self, kind: type[R], forms: Forms, first: Any) -> list[R]:
        if not forms.base.askable(("", first)):
            return []
        place = (*forms.by_key((first,))[:1], first)
        return [decode(kind, row) for row in await self._rows(forms.base.find_first, place)]

    async def _rows(self, cql: str, values: Sequence[Any]) -> list[bytes]:
        pages = self._driver.pages(cql, values, consistency=self.level, page_rows=_PAGE)
        return [row async for page in pages for (row,) in page if row is not None]


def statements(writes: Iterable[Write], floors: Floors) -> Iterator[Statement]:
    """The writes as statements: those of one entry into one partition are seen all or none."""
    parts: dict[tuple[str, Place], list[Write]] = {}
    for write in writes:
        parts.setdefault((write.form.name, write.place[: len(write.form.partition)]), []).append(write)
    for part in parts.values():
        for batch in _batches(part):
            yield _together(batch, floors)


def unknown_place(name: str, key: Key) -> Place:
    """Where a row of a table that this version does not know is kept."""
    return name, shard(key), msgspec.msgpack.encode(key)


def newest(writes: Iterable[Write]) -> dict[tuple[str, Place], Write]:
    """The last of the writes of each row."""
    found: dict[tuple[str, Place], Write] = {}
    for write in writes:
        place = (write.form.name, write.place)
        if place not in found or found[place].values[0] < write.values[0]:
            found[place] = write
    return found


def _batches(part: list[Write]) -> Iterator[list[Write]]:
    """Whole entries as long as they fit; one that does not fit at all is written in pieces."""
    batch: list[Write] = []
    for _, group in itertools.groupby(part, lambda write: write.number):
        entry = list(group)
        if batch and (len(batch) + len(entry) > _TOGETHER or _size(batch) + _size(entry) > _TOGETHER_BYTES):
            yield batch
            batch = []
        batch += entry
        while len(batch) > _TOGETHER:
            yield batch[:_TOGETHER]
            batch = batch[_TOGETHER:]
    if batch:
        yield batch


def _together(batch: list[Write], floors: Floors) -> Statement:
    """One statement; the shortest write is repeated, so that few different statements are ever prepared."""
    length = 1 << (len(batch) - 1).bit_length()
    filler = min(batch, key=lambda write: len(write.row or b""))
    padded = [*batch, *[filler] * (length - len(batch))]
    values = [write.above(floors.get((write.form.name, write.place), 0)) for write in padded]
    return batch[0].form.writes(length), [value for some in values for value in some]


def _size(writes: Iterable[Write]) -> int:
    return sum(len(write.row or b"") for write in writes)


def _values_now(table: Table, change: Put) -> Mapping[str, Any]:
    """An older writer may not have known of every group."""
    if all(name in change.now for name in table.indexed):
        return change.now
    return indexed_values(decode(table.kind, change.row))


def _partitions(copy: Copy, values: Sequence[Any]) -> list[Place]:
    try:
        g = packed(values)
    except UnicodeEncodeError:  # half a surrogate pair: no row can have it
        return []
    return [(g, one) for one in range(SHARDS)] if copy.wide else [(g,)]
