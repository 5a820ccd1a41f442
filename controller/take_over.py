"""Takes over into the log what sites did themselves: each entry of a site's own feed exactly once, in order.

Source: docs/feeds.md, "A site's own feed".
"""

import re
from collections import Counter
from collections.abc import Sequence

import msgspec
import structlog

from controller.commit import Sequencer
from controller.seldom import Seldom
from regional_keystone import believed
from regional_keystone.attempts import changes, facts
from regional_keystone.believed import SKEW_US
from regional_keystone.errors import TooLarge
from regional_keystone.log import Change, Entry, Put, put, remove
from regional_keystone.model import Attempts, Condemned, RevocationEvent, Taken
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.own_feed import MOST_CHANGES, is_too_large
from regional_keystone.ports import Clock
from regional_keystone.record import decode
from regional_keystone.watermarks import furthest

log = structlog.get_logger("take_over")

MOST_FAILED = 1_000_000
MOST_ENTRIES = 1000  # in one message, several times what a site sends
MOST_FEEDS = 16  # incarnations of one site's feed whose ends are remembered
_FEED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Foreign(ValueError):
    """A site speaks of a feed that is not its own."""


class TakeOver:
    """Takes over what is believed of a site's feed, and no more."""

    def __init__(self, *, overlay: Overlay, sequencer: Sequencer, clock: Clock, keep_s: float) -> None:
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._keep_us = int(keep_s * 1_000_000)
        self._say_of = Seldom(clock)
        self._complain_of = Seldom(clock, most=1)

    async def take(self, site: str, feed: str, entries: Sequence[Entry]) -> None:
        """Bring these entries into the log as far as they follow what was taken before; the rest is passed over.

        Raises Foreign for another site's feed, TooLarge or ValueError for what cannot be taken, and Unavailable.
        """
        owner, _, incarnation = feed.partition("/")
        if owner != site or not _FEED.fullmatch(incarnation) or not entries:
            raise Foreign(feed)
        if len(entries) > MOST_ENTRIES or any(is_too_large(entry) for entry in entries):
            raise TooLarge
        if sum(len(entry.changes) for entry in entries) > MOST_CHANGES:
            raise TooLarge
        now, refused = self._clock.now(), Counter[str]()

        async def decide(reader: Recording) -> tuple[list[Change], int]:
            taken = await reader.get(Taken, feed)
            known = number = taken.number if taken else 0
            found: list[Change] = []
            stolen: dict[str, Put] = {}
            rows: dict[str, RevocationEvent] = {}
            refused.clear()
            for entry in entries:
                if entry.number == number + 1:
                    number += 1
                    found += await self._changes(reader, feed, entry, now, rows, stolen, refused)
            if number == known:
                return [], number
            if taken is None:
                found += await _room(reader, site, refused)
            found += await _condemned(reader, site, stolen, now, refused)
            return [*found, put(Taken(feed=feed, number=number), taken)], number

        number, position = await transact(self._overlay, self._sequencer, f"{feed}/{entries[-1].number}", decide)
        if position is not None:
            self._say_of(log.info, "own_feed_taken", site, feed=feed, number=number, position=position)
            if refused:  # or cut short
                self._complain_of(log.error, "own_feed_oversteps", site, feed=feed, refused=dict(refused))

    async def _changes(
        self,
        reader: Recording,
        feed: str,
        entry: Entry,
        now: int,
        rows: dict[str, RevocationEvent],
        stolen: dict[str, Put],
        refused: Counter[str],
    ) -> list[Change]:
        """A site's entry as changes of the log; what it revokes is put into `rows`, keys it condemns into `stolen`."""
        said = believed.said(feed, entry, now, self._keep_us, refused)
        stolen |= said.stolen | stolen  # what it said first of a key
        found: list[Change] = []
        for event in said.revocations:
            old = await reader.get(RevocationEvent, event.id)
            rows[event.id] = furthest(event, rows.get(event.id, old))
            found.append(put(rows[event.id], old))
        for change in said.counts:
            found += await _counts(reader, change, now)
        return found


async def _room(reader: Recording, site: str, refused: Counter[str]) -> list[Change]:
    """Room for another incarnation of a site's feed: of so many before it there is none any more that goes on."""
    known = [taken async for taken in reader.scan(Taken) if taken.feed.partition("/")[0] == site]
    gone = known[: max(0, len(known) + 1 - MOST_FEEDS)]
    if gone:
        refused["incarnations"] += len(gone)
    return [remove(taken) for taken in gone]


async def _condemned(
    reader: Recording, site: str, stolen: dict[str, Put], now: int, refused: Counter[str]
) -> list[Change]:
    """What a site says of stolen keys, unless the log says it already."""
    if not stolen:
        return []
    known = {one.id: one.place async for one in reader.scan(Condemned)}
    fresh = believed.condemned(site, stolen, known, now, refused)
    for one in fresh:  # `keys`, as everywhere: a field `key` is masked
        log.error("keys_condemned", keys=[one.id], ring=one.ring, by=one.by, why=one.why, place=site)
    return [put(one) for one in fresh]


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
