"""What a change brings with it: cascades out of the model, voided tokens out of one table.

Separate from the handlers, so that whoever changes a record cannot forget either.
Source: keystone/revoke/core.py, keystone/identity/core.py, keystone/resource/core.py.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import msgspec

from regional_keystone.errors import Conflict
from regional_keystone.log import Change, Put, Remove, put, remove
from regional_keystone.model import (
    AccessToken,
    ApplicationCredential,
    Consumer,
    Deletion,
    Grant,
    Membership,
    Project,
    RevocationEvent,
    Trust,
    User,
)
from regional_keystone.ports import Reader
from regional_keystone.record import TABLES, Key, Record, Table, decode, facts

ROOM = 200  # rows that one transaction changes: what a small store writes in time
_STEP = 100  # after so many nothing further is taken up, so that there is room for what refers to the last one
_AHEAD = 10  # rows about which the store is asked at the same time
_FIRST = ("grants", "groups", "users")
Row = tuple[str, Key]


async def follow(reader: Reader, changes: Iterable[Change], now: int, keep_s: float) -> tuple[Change, ...]:
    """These changes, all that must change with them, and an event for every token that they void.

    `now` in microseconds; an event is kept for `keep_s` from then. What is too much for one transaction is left to
    `step`, by a Deletion: it refers to what is not there any more until then. Raises Conflict where something still
    refers to what would go and must not lose it, and for a new row whose id still has such remains.
    """
    following = _Following(reader, now)
    for change in changes:
        await following.add(change)
    return await following.all(keep_s)


async def step(reader: Reader, deletion: Deletion, now: int, keep_s: float) -> tuple[Change, ...]:
    """The next changes of a deletion that was left to steps: the last ones take it away itself."""
    following = _Following(reader, now)
    following.go_on(deletion)
    return await following.all(keep_s)


def event(traits: dict[str, str], now: int, keep_s: float) -> RevocationEvent:
    """The event that voids every token of these traits issued until `now`; the same again has the same id."""
    said = "/".join((str(now), *(f"{name}={value}" for name, value in sorted(traits.items()))))
    until = now + int(keep_s * 1_000_000)
    name = hashlib.sha256(said.encode()).hexdigest()[:32]
    return RevocationEvent(id=name, issued_before=now, revoked_at=now, keep_until=until, **traits)  # type: ignore[arg-type]


class _Reference(NamedTuple):
    """A field by which rows of a table may refer to a row of another."""

    table: Table
    name: str
    on_delete: str


class _Gone(NamedTuple):
    """A row that goes, or went: what refers to it is looked for."""

    row: Row


class _Referring(NamedTuple):
    """A row that refers to one that goes."""

    gone: Row
    reference: _Reference
    record: Record


@cache
def _leads_on(table: str) -> bool:
    """Whether anything follows from a change of a row of it: else what was there is not looked up."""
    return table in _VOIDS or bool(_references(table))


@cache
def _references(table: str) -> tuple[_Reference, ...]:
    """Every field that may refer to this table; what gives roles first, since that has to go first."""
    order = sorted(TABLES.values(), key=lambda one: (*_FIRST, one.name).index(one.name))
    return tuple(
        _Reference(other, name, field.ref.on_delete)
        for other in order
        for name, field in other.fields.items()
        if field.ref and table in field.ref.table.split()
    )


class _Following:
    """Changes as they grow; each row that goes is read once and followed once, so a loop in the data ends."""

    def __init__(self, reader: Reader, now: int) -> None:
        self._reader = reader
        self._now = now
        self._changes: list[Change] = []
        self._old: dict[Row, Record | None] = {}
        self._gone: dict[Row, Record] = {}
        self._new: dict[Row, Record] = {}
        self._waiting: list[_Gone | _Referring] = []  # what came last is done first: each row with all of its own
        self._refusing: list[tuple[Row, Record]] = []
        self._pages: dict[Row, list[tuple[_Reference, list[Record]]]] = {}  # read ahead
        self._begun: dict[Row, Deletion] = {}
        self._looked_up: dict[Row, Deletion | None] = {}
        self._roots: set[Row] = set()
        self._postponed: dict[Row, None] = {}

    async def add(self, change: Change, known: Record | None = None) -> None:
        """`known` is the row as it was read already."""
        row = (change.table, change.key)
        if row in self._gone:
            return
        self._changes.append(change)
        table = TABLES[change.table]
        if row not in self._old and known is not None:
            self._old[row] = known
        elif row not in self._old and (isinstance(change, Remove) or _leads_on(change.table)):
            asked = self._reader.get(table.kind, *change.key), self._deletion(row)
            self._old[row], remains = await asyncio.gather(*asked)
            if remains and isinstance(change, Put):
                raise Conflict(f"{_named(row)} is still being deleted; try again later.")
        if isinstance(change, Put):
            self._new[row] = decode(table.kind, change.row)
        elif (old := self._old[row]) is not None:
            self._new.pop(row, None)
            self._gone[row] = old
            self._waiting.append(_Gone(row))

    def go_on(self, deletion: Deletion) -> None:
        row = (deletion.table, (deletion.key,))
        self._begun[row] = deletion
        self._waiting.append(_Gone(row))

    async def all(self, keep_s: float) -> tuple[Change, ...]:
        self._roots = {*self._gone, *self._begun}
        while self._waiting:
            match self._waiting.pop():
                case _Gone(row):
                    await self._look(row)
                case _Referring(gone, reference, record):
                    await self._let_go(gone, reference, record)
        for gone, record in self._refusing:
            if _row(record) not in self._gone and not await self._goes(record):
                raise Conflict(f"{_named(gone)} cannot be deleted: {_named(_row(record))} refers to it.")
        events = [put(event(traits, self._now, keep_s)) for traits in await self._voided()]
        left = [await self._left(row) for row in dict.fromkeys((*self._begun, *self._postponed))]
        return (*self._changes, *events, *left)

    async def _look(self, gone: Row) -> None:
        """What refers to it, as much as a step may take of it."""
        found: list[_Referring] = []
        async for reference, rows in self._referring(gone):
            if reference.on_delete != "refuse":
                if len(rows) > _STEP:
                    self._postponed[gone] = None
                found += [_Referring(gone, reference, one) for one in rows]
            elif rows and gone not in self._begun:
                self._refusing += [(gone, one) async for one in self._every(reference, gone[1][0])]
        self._waiting += reversed(found)

    async def _referring(self, gone: Row) -> AsyncIterator[tuple[_Reference, list[Record]]]:
        """The first rows by each reference; of what goes in steps no more than one step can take."""
        if gone not in self._begun:
            for pair in self._pages.pop(gone, None) or await self._first_pages(gone, self._gone[gone]):
                yield pair
            return
        found = 0
        for reference in _references(gone[0]):
            rows = await self._first_page(reference, gone)
            yield reference, rows
            found += len(rows)
            if found > _STEP:
                return

    async def _first_pages(self, gone: Row, record: Record) -> list[tuple[_Reference, list[Record]]]:
        is_no_domain = isinstance(record, Project) and not record.is_domain
        asked = [one for one in _references(gone[0]) if not (is_no_domain and one.name == "domain_id")]
        pages = await asyncio.gather(*(self._first_page(one, gone) for one in asked))
        return list(zip(asked, pages, strict=True))

    async def _first_page(self, reference: _Reference, gone: Row) -> list[Record]:
        return await self._reader.page(reference.table.kind, None, _STEP + 1, **{reference.name: gone[1][0]})

    async def _every(self, reference: _Reference, key: Any) -> AsyncIterator[Record]:
        """Every row that must not lose its reference, other than those that go with it anyway."""
        after: Key | None = None
        while True:
            rows = await self._reader.page(reference.table.kind, after, ROOM, **{reference.name: key})
            for one in rows:
                if not await self._goes(one):
                    yield one
            if len(rows) < ROOM:
                return
            after = reference.table.key_of(rows[-1])

    async def _goes(self, record: Record) -> bool:
        """Whether it goes, now or later, with something else that goes."""
        for name, field in facts(type(record)).fields.items():
            if field.ref and field.ref.on_delete == "cascade":
                for table in field.ref.table.split():
                    row = (table, (getattr(record, name),))
                    if row in self._gone or await self._deletion(row):
                        return True
        return False

    async def _deletion(self, row: Row) -> Deletion | None:
        if row in self._begun:
            return self._begun[row]
        if len(row[1]) > 1 or row[1][0] is None or not _references(row[0]):
            return None
        if row not in self._looked_up:
            self._looked_up[row] = await self._reader.get(Deletion, _name(row))
        return self._looked_up[row]

    async def _let_go(self, gone: Row, reference: _Reference, record: Record) -> None:
        if len(self._changes) >= (_STEP if gone in self._roots else ROOM):
            self._postponed[gone] = None
        elif reference.on_delete == "clear":
            await self._clear(record, reference.name)
        else:
            await self._read_ahead(record)
            await self.add(remove(record), record)
            if isinstance(record, Grant) and reference.name == "role_id":
                for handed_on in await self._handed_on(record):
                    await self.add(remove(handed_on), handed_on)

    async def _read_ahead(self, record: Record) -> None:
        """Ask at once what refers to this row and to the next ones that are to go."""
        if not _references(facts(type(record)).name) or _row(record) in self._pages:
            return
        next_ones = (one.record for one in reversed(self._waiting[-_AHEAD:]) if isinstance(one, _Referring))
        rows = {_row(one): one for one in (record, *next_ones)}
        rows = {row: one for row, one in rows.items() if row not in self._pages and _references(row[0])}
        found = await asyncio.gather(*(self._first_pages(row, one) for row, one in rows.items()))
        self._pages |= zip(rows, found, strict=True)

    async def _handed_on(self, grant: Grant) -> list[Record]:
        """What users let programs do on a project goes with any role that they had there themselves, as upstream."""
        if (grant.actor, grant.target) != ("user", "project"):
            return []
        theirs = await self._reader.find(ApplicationCredential, user_id=grant.actor_id)
        return [one for one in theirs if one.project_id == grant.target_id]

    async def _clear(self, referring: Record, name: str) -> None:
        row = _row(referring)
        if row not in self._gone:
            latest = self._new.get(row, referring)
            await self.add(put(msgspec.structs.replace(latest, **{name: None}), referring), referring)

    async def _left(self, gone: Row) -> Change:
        """What is to be known of a deletion that goes on, or that ends here."""
        old = self._begun.get(gone)
        if old is not None:
            if gone not in self._postponed:
                return remove(old)
            return put(msgspec.structs.replace(old, removed=old.removed + len(self._changes)), old)
        voids = gone[0] != "groups" or await self._gives_roles(gone[1][0])
        removed = len(self._changes)
        return put(
            Deletion(id=_name(gone), table=gone[0], key=gone[1][0], began_at=self._now, removed=removed, voids=voids)
        )

    async def _voided(self) -> list[dict[str, str]]:
        """The traits of the tokens that these changes void, each once."""
        found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        for row, old in self._old.items():
            rule = _VOIDS.get(row[0])
            if rule is None or old is None:
                continue
            traits = rule(old, self._new.get(row))
            if traits and await self._matters(old):
                found[tuple(traits.items())] = traits
        return list(found.values())

    async def _matters(self, old: Record) -> bool:
        """Upstream voids nothing when a group goes that never gave a role to anybody."""
        if not isinstance(old, Membership):
            return True
        group = ("groups", (old.group_id,))
        if group in self._gone:
            return await self._gives_roles(old.group_id)
        deletion = await self._deletion(group)
        return deletion is None or deletion.voids

    async def _gives_roles(self, group_id: str) -> bool:
        return bool(await self._reader.page(Grant, None, 1, actor_id=group_id))


def _user(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, User)  # noqa: S101  the table below says so
    if new is None:
        return {"user_id": old.id}
    assert isinstance(new, User)  # noqa: S101
    has_new_password = new.password_hash is not None and new.password_hash != old.password_hash
    return {"user_id": old.id} if has_new_password or (old.enabled and not new.enabled) else None


def _project(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, Project)  # noqa: S101
    return {"project_id": old.id} if new is None else None


def _membership(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, Membership)  # noqa: S101
    return {"user_id": old.user_id} if new is None else None


def _consumer(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, Consumer)  # noqa: S101
    return {"consumer_id": old.id} if new is None else None


def _trust(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, Trust)  # noqa: S101
    return {"trust_id": old.id} if new is None else None


def _access_token(old: Record, new: Record | None) -> dict[str, str] | None:
    assert isinstance(old, AccessToken)  # noqa: S101
    return {"access_token_id": old.id} if new is None else None


# What voids tokens that looking up would not. All else that upstream refuses (a disabled project or domain, a role or
# a grant that is gone) validation finds by looking it up, here as there.
_VOIDS: dict[str, Callable[[Record, Record | None], dict[str, str] | None]] = {
    "users": _user,
    "projects": _project,
    "memberships": _membership,
    "consumers": _consumer,
    "access_tokens": _access_token,
    "trusts": _trust,
}


def _row(record: Record) -> Row:
    table = facts(type(record))
    return table.name, table.key_of(record)


def _name(row: Row) -> str:
    return f"{row[0]}/{row[1][0]}"


def _named(row: Row) -> str:
    return f"{row[0].removesuffix('s')} {'/'.join(map(str, row[1]))}"
