"""Takes over into the log what sites did themselves: each entry of a site's own feed exactly once, in order.

Source: docs/feeds.md, "A site's own feed".
"""

import re
from collections.abc import Sequence

import msgspec
import structlog

from controller.commit import Sequencer
from regional_keystone.attempts import changes, facts
from regional_keystone.follow import LATE
from regional_keystone.issue import SKEW_S
from regional_keystone.log import Change, Entry, Put, put
from regional_keystone.model import Attempts, RevocationEvent, Taken
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.record import decode, spread, unspread

log = structlog.get_logger("take_over")

SKEW_US = 2_000_000
_LATE_US = int(SKEW_S * 1_000_000)  # of an answer to a revocation: a token that others take may be dated so far ahead
MOST_FAILED = 1_000_000
_FEED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Foreign(ValueError):
    """A site speaks of a feed that is not its own."""


class TakeOver:
    """Trusts little of what a site says: revocations under ids of its own, its own counts, both bounded in time."""

    def __init__(self, *, overlay: Overlay, sequencer: Sequencer, clock: Clock, keep_s: float) -> None:
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._keep_us = int(keep_s * 1_000_000)

    async def take(self, site: str, feed: str, entries: Sequence[Entry]) -> None:
        """Bring these entries into the log as far as they follow what was taken before; the rest is passed over.

        Raises Foreign for another site's feed, TooLarge or ValueError for what cannot be taken, and Unavailable.
        """
        owner, _, incarnation = feed.partition("/")
        if owner != site or not _FEED.fullmatch(incarnation) or not entries:
            raise Foreign(feed)
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], int]:
            taken = await reader.get(Taken, feed)
            known = number = taken.number if taken else 0
            found: list[Change] = []
            for entry in entries:
                if entry.number == number + 1:
                    number += 1
                    found += await self._changes(reader, feed, entry, now)
            if number == known:
                return [], number
            return [*found, put(Taken(feed=feed, number=number), taken)], number

        number, position = await transact(self._overlay, self._sequencer, f"{feed}/{entries[-1].number}", decide)
        if position is not None:
            log.info("own_feed_taken", feed=feed, number=number, position=position)

    async def _changes(self, reader: Recording, feed: str, entry: Entry, now: int) -> list[Change]:
        """A site's entry as changes of the log."""
        found: list[Change] = []
        for place, change in enumerate(entry.changes):
            if isinstance(change, Put) and change.table == "revocations":
                found.append(await self._revocation(reader, feed, entry.number, place, change, now))
            elif isinstance(change, Put) and change.table == "attempts" and change.key[1:] == (feed.partition("/")[0],):
                found += await _counts(reader, change, now)
            else:
                log.error("own_feed_oversteps", feed=feed, number=entry.number, table=change.table)
        return found

    async def _revocation(self, reader: Recording, feed: str, number: int, place: int, change: Put, now: int) -> Change:
        event = decode(RevocationEvent, change.row)
        late = LATE if unspread(event.id).startswith(LATE) else ""
        # a token may be from a fast clock; all tokens of somebody are not to be void in advance
        latest = now + (_LATE_US if late else SKEW_US)
        if event.audit_id or event.audit_chain_id:
            latest = event.issued_before
        if event.issued_before > latest:
            log.error("own_feed_ahead_of_time", feed=feed, number=number, by_us=event.issued_before - now)
        bounded = msgspec.structs.replace(
            event,
            id=spread(f"{late}{feed}/{number}/{place}"),
            issued_before=min(event.issued_before, latest),
            keep_until=min(event.keep_until, now + self._keep_us + SKEW_US),
        )
        return put(bounded, await reader.get(RevocationEvent, bounded.id))


async def _counts(reader: Recording, change: Put, now: int) -> list[Change]:
    """A site's row of a user who is still there: in no case does it lock out, or forget, beyond the present."""
    row, latest = decode(Attempts, change.row), now + SKEW_US
    user_id, place = change.key  # what was checked, whatever the row says
    bounded = msgspec.structs.replace(
        row,
        user_id=user_id,
        place=place,
        failed=max(0, min(row.failed, MOST_FAILED)),
        failed_at=min(row.failed_at, latest),
        cleared_at=min(row.cleared_at, latest - 1),  # a failure after it stays one after it
        active_at=min(row.active_at, latest),
    )
    return changes(await facts(reader, bounded), bounded)
