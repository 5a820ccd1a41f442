"""What a change brings with it: cascades out of the model, voided tokens out of one table.

Separate from the handlers, so that whoever changes a record cannot forget either.
Source: keystone/revoke/core.py, keystone/identity/core.py, keystone/resource/core.py.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from regional_keystone.errors import Conflict
from regional_keystone.log import Change, Put, put, remove
from regional_keystone.model import (
    AccessToken,
    ApplicationCredential,
    Consumer,
    Grant,
    Membership,
    Project,
    RevocationEvent,
    Role,
    Trust,
    User,
)
from regional_keystone.ports import Reader
from regional_keystone.record import TABLES, Record, decode, facts

Row = tuple[str, tuple[Any, ...]]


async def follow(reader: Reader, changes: Iterable[Change], now: int, keep_s: float) -> tuple[Change, ...]:
    """These changes, all that must change with them, and an event for every token that they void.

    `now` in microseconds; an event is kept for `keep_s` from then. Raises Conflict where something still refers to
    what would go and must not lose it.
    """
    following = _Following(reader)
    for change in changes:
        await following.add(change)
    await following.cascade()
    events = [put(event(traits, now, keep_s)) for traits in await following.voided()]
    return (*following.changes, *events)


def event(traits: dict[str, str], now: int, keep_s: float) -> RevocationEvent:
    """The event that voids every token of these traits issued until `now`; the same again has the same id."""
    said = "/".join((str(now), *(f"{name}={value}" for name, value in sorted(traits.items()))))
    until = now + int(keep_s * 1_000_000)
    name = hashlib.sha256(said.encode()).hexdigest()[:32]
    return RevocationEvent(id=name, issued_before=now, revoked_at=now, keep_until=until, **traits)  # type: ignore[arg-type]


class _Following:
    """Changes as they grow; each row that goes is read once and followed once, so a loop in the data ends."""

    def __init__(self, reader: Reader) -> None:
        self.changes: list[Change] = []
        self._reader = reader
        self._old: dict[Row, Record | None] = {}
        self._gone: dict[Row, Record] = {}
        self._new: dict[Row, Record] = {}
        self._waiting: list[Record] = []

    async def add(self, change: Change) -> None:
        row = (change.table, change.key)
        if row in self._gone:
            return
        self.changes.append(change)
        table = TABLES[change.table]
        if row not in self._old:
            self._old[row] = await self._reader.get(table.kind, *change.key)
        if isinstance(change, Put):
            self._new[row] = decode(table.kind, change.row)
        elif (old := self._old[row]) is not None:
            self._new.pop(row, None)
            self._gone[row] = old
            self._waiting.append(old)

    async def cascade(self) -> None:
        refusing: list[tuple[Record, Record]] = []
        while self._waiting:
            gone = self._waiting.pop()
            for name, on_delete, referring in await self._referring(gone):
                if on_delete == "cascade":
                    await self.add(remove(referring))
                elif on_delete == "clear":
                    await self._clear(referring, name)
                else:
                    refusing.append((gone, referring))
            for handed_on in await self._handed_on(gone):
                await self.add(remove(handed_on))
        for gone, referring in refusing:
            if _row(referring) not in self._gone:
                raise Conflict(f"{_named(gone)} cannot be deleted: {_named(referring)} refers to it.")

    async def voided(self) -> list[dict[str, str]]:
        """The traits of the tokens that these changes void, each once."""
        found: list[dict[str, str]] = []
        for row, old in self._old.items():
            rule = _VOIDS.get(row[0])
            if rule is None or old is None:
                continue
            traits = rule(old, self._new.get(row))
            if traits and traits not in found and await self._matters(old):
                found.append(traits)
        return found

    async def _referring(self, gone: Record) -> list[tuple[str, str, Record]]:
        table = facts(type(gone))
        found: list[tuple[str, str, Record]] = []
        for other in TABLES.values():
            for name, field in other.fields.items():
                if field.ref and table.name in field.ref.table.split():
                    rows = await self._reader.find(other.kind, **{name: table.key_of(gone)[0]})
                    found += [(name, field.ref.on_delete, row) for row in rows]
        return found

    async def _handed_on(self, gone: Record) -> list[Record]:
        """What users let programs do on a project goes with any role that they had there themselves, as upstream."""
        found: list[Record] = []
        for grant in await self._reader.find(Grant, role_id=gone.id) if isinstance(gone, Role) else ():
            if (grant.actor, grant.target) == ("user", "project"):
                theirs = await self._reader.find(ApplicationCredential, user_id=grant.actor_id)
                found += [one for one in theirs if one.project_id == grant.target_id]
        return found

    async def _clear(self, referring: Record, name: str) -> None:
        row = _row(referring)
        if row not in self._gone:
            latest = self._new.get(row, referring)
            await self.add(put(msgspec.structs.replace(latest, **{name: None}), referring))

    async def _matters(self, old: Record) -> bool:
        """Upstream voids nothing when a group goes that never gave a role to anybody."""
        if not isinstance(old, Membership) or ("groups", (old.group_id,)) not in self._gone:
            return True
        return bool(await self._reader.find(Grant, actor_id=old.group_id))


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


def _named(record: Record) -> str:
    table, key = _row(record)
    return f"{table.removesuffix('s')} {'/'.join(map(str, key))}"
