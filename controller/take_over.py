"""Takes over into the log what sites revoked themselves: each entry of a site's own feed exactly once, in order.

Source: docs/feeds.md, "A site's own feed".
"""

import re
from collections.abc import Sequence

import msgspec
import structlog

from controller.commit import Sequencer
from regional_keystone.follow import LATE
from regional_keystone.log import Change, Entry, Put, put
from regional_keystone.model import RevocationEvent, Taken
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.record import decode

log = structlog.get_logger("take_over")

SKEW_US = 2_000_000
_FEED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Foreign(ValueError):
    """A site speaks of a feed that is not its own."""


class TakeOver:
    """Trusts little of what a site says: revocations only, under ids of its own, bounded in time."""

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
            changes: list[Change] = []
            for entry in entries:
                if entry.number == number + 1:
                    number += 1
                    changes += await self._revocations(reader, feed, entry, now)
            if number == known:
                return [], number
            return [*changes, put(Taken(feed=feed, number=number), taken)], number

        number, position = await transact(self._overlay, self._sequencer, f"{feed}/{entries[-1].number}", decide)
        if position is not None:
            log.info("own_feed_taken", feed=feed, number=number, position=position)

    async def _revocations(self, reader: Recording, feed: str, entry: Entry, now: int) -> list[Change]:
        """A site's entry as changes of the log: revocations only, under ids of its own, bounded in time."""
        found: list[Change] = []
        for place, change in enumerate(entry.changes):
            if not isinstance(change, Put) or change.table != "revocations":
                log.error("own_feed_oversteps", feed=feed, number=entry.number, table=change.table)
                continue
            event = decode(RevocationEvent, change.row)
            late = LATE if event.id.startswith(LATE) else ""
            # a token may be from a fast clock; all tokens of somebody are not to be void in advance
            latest = event.issued_before if event.audit_id or event.audit_chain_id else now + SKEW_US
            if event.issued_before > latest:
                log.error("own_feed_ahead_of_time", feed=feed, number=entry.number, by_us=event.issued_before - now)
            bounded = msgspec.structs.replace(
                event,
                id=f"{late}{feed}/{entry.number}/{place}",
                issued_before=min(event.issued_before, latest),
                keep_until=min(event.keep_until, now + self._keep_us + SKEW_US),
            )
            found.append(put(bounded, await reader.get(RevocationEvent, bounded.id)))
        return found
