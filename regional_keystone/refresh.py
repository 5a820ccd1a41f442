"""After rows of a replica were put right: nothing that was made of what lay there before is believed any more."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower, revocation
from regional_keystone.log import Entry, Put, disturbed
from regional_keystone.model import RevocationEvent
from regional_keystone.record import TABLES, Key, Touch, decode, indexed_values
from regional_keystone.revocation import Revocation, RevocationIndex, Traits

log = structlog.get_logger("refresh")

_REVOCATIONS = "revocations"
_TAKEN_IN = frozenset(("rings", "sites", "signing", "signers", "condemned"))  # rows that a process acts upon
_MINUTE_US = 60_000_000

Pending = Callable[[int], Awaitable[Sequence[Entry]]]


class Refresh:
    """Makes this process, and those that it leads, know what lies in the replica now."""

    def __init__(self, follower: Follower, pending: Pending) -> None:
        """`pending`: what follows this number in the site's own feed and the log does not show yet; none at its end."""
        self._follower = follower
        self._pending = pending
        self._owed: set[Touch] = set()  # what was put right and could not be made known
        self._finishing = asyncio.Lock()  # an index of older rows must not take the place of one of newer ones

    @property
    def owes(self) -> bool:
        """Whether rows were put right that not every process knows of: `begin` is to be called again."""
        return bool(self._owed)

    def begin(self, touched: Iterable[Touch]) -> Coroutine[Any, Any, None]:
        """These rows are others than a moment ago, without an entry; what is awaited raises Unavailable.

        From the call on, and not only once it is awaited, nothing that read them is believed. What failed is done the
        next time as well; until then the index in use stays, which lacks nothing that it had.
        """
        found, follower = set(touched) | self._owed, self._follower
        self._owed = set()
        for forget in follower.forgetters:
            forget()
        for doubt in follower.doubters:
            doubt(found)
        fresh = RevocationIndex() if any(touch[0] == _REVOCATIONS for touch in found) else None
        if fresh is not None:
            follower.beside.append(fresh)  # what is revoked from now on counts in both
        return self._finish(found, fresh)

    def check(self, rows: Iterable[bytes], now: int) -> int:
        """Whether each of these rows of revocations counts here; makes those count that do not, and says how many."""
        found = 0
        for row in rows:
            try:
                event = decode(RevocationEvent, row)
            except msgspec.DecodeError:
                continue  # it is about to be put right
            if event.keep_until > now + _MINUTE_US and not self._follower.index.voided(_hit(revocation(event))):
                self._follower.void(event)
                log.error("revocation_did_not_count", record=event.id)
                found += 1
        return found

    async def _finish(self, touched: set[Touch], fresh: RevocationIndex | None) -> None:
        follower = self._follower
        try:
            async with self._finishing:
                if follower.relay is not None:
                    await follower.relay.mended(touched)
                if fresh is not None:
                    await self._rebuild(fresh)
                if any(touch[0] in _TAKEN_IN for touch in touched):
                    await follower.start()
        except Unavailable:
            self._owed |= touched
            raise
        finally:
            if fresh is not None:
                follower.beside.remove(fresh)

    async def _rebuild(self, fresh: RevocationIndex) -> None:
        """An index of what lies there now: what lay there wrongly may have come into the one in use."""
        follower, number = self._follower, 0
        async for event in follower.overlay.scan(RevocationEvent):
            fresh.add(revocation(event), event.keep_until)
        while entries := await self._pending(number):
            for entry in entries:
                for change in entry.changes:
                    if change.table == _REVOCATIONS and isinstance(change, Put):
                        event = decode(RevocationEvent, change.row)
                        fresh.add(revocation(event), event.keep_until)
            number = entries[-1].number
        for event in follower.issued.unwritten:
            fresh.add(revocation(event), event.keep_until)
        fresh.version += follower.index.version  # who has asked the old one asks again
        follower.index = fresh


def read_touch(parts: Iterable[Any]) -> Touch:
    """A touch as it was before it travelled: one that is in another has become a list."""
    return tuple(tuple(part) if isinstance(part, list) else part for part in parts)


def touched_by(table: str, key: Key, row: bytes | None, lay: bytes | None) -> set[Touch]:
    """What depends on a row, as it should be and as it lay there."""
    changes: list[Put] = []
    for data in (row, lay):
        try:
            if data is not None:
                changes.append(Put(table, key, data, indexed_values(decode(TABLES[table].kind, data))))
        except msgspec.DecodeError:  # rubbish that lay there: nobody has read it
            continue
    return disturbed(changes) | {(table, *key), (table,)}


def _hit(one: Revocation) -> Traits:
    """A token that this revocation is certainly about."""
    return Traits(
        issued_at=one.issued_before if one.issued_from is None else one.issued_from,
        expires_at=one.expires_at or one.issued_before,
        audit_id=one.audit_id or "",
        audit_chain_id=one.audit_chain_id,
        user_id=one.user_id,
        user_domain_id=one.domain_id,
        assignment_domain_id=one.domain_id,
        project_id=one.project_id,
        role_ids=(one.role_id,) if one.role_id is not None else (),
        trust_id=one.trust_id,
        consumer_id=one.consumer_id,
        access_token_id=one.access_token_id,
    )
