"""Takes over into the log what sites did themselves: each entry of a site's own feed exactly once, in order.

Source: docs/feeds.md, "A site's own feed".
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog

from controller.commit import Sequencer
from controller.seldom import Seldom
from regional_keystone import believed, compliance
from regional_keystone.api import consequences
from regional_keystone.attempts import changes, facts
from regional_keystone.believed import SKEW_US
from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.log import Change, Entry, Put, put, remove
from regional_keystone.model import Attempts, Condemned, RevocationEvent, Taken
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.own_feed import MOST_CHANGES, is_too_large
from regional_keystone.ports import Clock
from regional_keystone.record import decode
from regional_keystone.settings import SecurityCompliance
from regional_keystone.watermarks import furthest

log = structlog.get_logger("take_over")

MOST_FAILED = 1_000_000
MOST_ROWS = 500_000  # revocations of one site at once, and as many again in the time for which one is kept
MOST_ENTRIES = 1000  # in one message, several times what a site sends
MOST_FEEDS = 16  # incarnations of one site's feed whose ends are remembered
_FEED = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Foreign(ValueError):
    """A site speaks of a feed that is not its own."""


class Flood(Unavailable):
    """A site has revoked more than is taken from it now: the rest stays in its feed, and counts there."""


class Gap(Unavailable):
    """What is before these entries of a site's feed has been taken over nowhere: they are to come again, with it."""


class _Said(NamedTuple):
    """Revocations as they become, which of them are new, and keys that were condemned, of one message."""

    rows: dict[str, RevocationEvent]
    new: set[str]
    stolen: dict[str, Put]


class TakeOver:
    """Takes over what is believed of a site's feed, and no more."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        clock: Clock,
        keep_s: float,
        rules: SecurityCompliance | None = None,
    ) -> None:
        """`keep_s`: how long a revocation can matter to any token; `rules`: by which users become inactive."""
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._keep_s, self._keep_us = keep_s, int(keep_s * 1_000_000)
        self._rules = rules or SecurityCompliance()
        self._say_of = Seldom(clock)
        self._complain_of = Seldom(clock, most=1)
        self._rows: dict[str, float] = {}  # site -> when, in ticks, its share is whole again

    async def take(self, site: str, feed: str, entries: Sequence[Entry]) -> None:
        """Bring these entries into the log as far as they follow what was taken before, and no entry twice.

        Raises Foreign for another site's feed, TooLarge or ValueError for what cannot be taken, Flood, Gap and
        Unavailable.
        """
        owner, _, incarnation = feed.partition("/")
        if owner != site or not _FEED.fullmatch(incarnation) or not entries:
            raise Foreign(feed)
        if len(entries) > MOST_ENTRIES or any(is_too_large(entry) for entry in entries):
            raise TooLarge
        if sum(len(entry.changes) for entry in entries) > MOST_CHANGES:
            raise TooLarge
        self._check_share(site)
        now, refused, said = self._clock.now(), Counter[str](), _Said({}, set(), {})

        async def decide(reader: Recording) -> tuple[list[Change], int]:
            taken = await reader.get(Taken, feed)
            known = number = taken.number if taken else 0
            found: list[Change] = []
            for one in (*said, refused):
                one.clear()
            for entry in entries:
                if entry.number == number + 1:
                    number += 1
                    found += await self._changes(reader, feed, entry, now, said, refused)
            if number == known:
                return [], number
            if taken is None:
                found += await _room(reader, site, refused)
            found += await _condemned(reader, site, said.stolen, now, refused)
            return [*found, put(Taken(feed=feed, number=number), taken)], number

        name = f"{feed}/{entries[-1].number}"
        number, position = await transact(self._overlay, self._sequencer, name, decide)
        if number + 1 < entries[0].number:  # what is before these was taken over elsewhere, and not read here yet
            await self._sequencer.catch_up()
            number, position = await transact(self._overlay, self._sequencer, name, decide)
        if number + 1 < entries[0].number:
            why = f"after {number} follows {entries[0].number}; it stays in the site's feed, and counts there"
            self._complain_of(log.error, "own_feed_has_a_gap", site, feed=feed, why=why)
            raise Gap(why)
        if position is not None:
            self._rows[site] = self._whole_at(site) + len(said.new) * self._keep_s / MOST_ROWS
            self._say_of(log.info, "own_feed_taken", site, feed=feed, number=number, position=position)
            if refused:  # or cut short
                self._complain_of(log.error, "own_feed_oversteps", site, feed=feed, refused=dict(refused))

    def shares(self) -> dict[str, float]:
        """How much of its share each site has used; nothing more is taken over of who has used all, 1."""
        return {site: (self._whole_at(site) - self._clock.ticks()) / self._keep_s for site in self._rows}

    def _whole_at(self, site: str) -> float:
        return max(self._rows.get(site, 0.0), self._clock.ticks())

    def _check_share(self, site: str) -> None:
        """Raise Flood for a site whose revocations are so many that they would crowd the log and every index."""
        if self._whole_at(site) - self._clock.ticks() >= self._keep_s:
            why = f"it has revoked {MOST_ROWS} times in short; if it is not sane: rkctl region remove {site}"
            self._complain_of(log.error, "own_feed_floods", site, why=why)
            raise Flood("So many revocations of one site are not taken over at once.")

    async def _changes(
        self,
        reader: Recording,
        feed: str,
        entry: Entry,
        now: int,
        known: _Said,
        refused: Counter[str],
    ) -> list[Change]:
        """A site's entry as changes of the log; what it revokes and condemns is put into `known`."""
        said = believed.said(feed, entry, now, self._keep_us, refused)
        for key, change in said.stolen.items():
            known.stolen.setdefault(key, change)  # what it said first of a key
        found: list[Change] = []
        for event in said.revocations:
            old = await reader.get(RevocationEvent, event.id)
            known.rows[event.id] = furthest(event, known.rows.get(event.id, old))
            found.append(put(known.rows[event.id], old))
            if old is None:
                known.new.add(event.id)
        for change in said.counts:
            found += await self._counts(reader, change, now)
        return found

    async def _counts(self, reader: Recording, change: Put, now: int) -> list[Change]:
        """A site's row of a user who is still there; of one who was inactive by then, older tokens stay void."""
        row = _bounded(change, now)
        known = await facts(reader, row)
        found = changes(known, row)
        end = None if known.user is None else compliance.active_until(self._rules, known.user)
        if end is not None and row.active_at >= end:
            shut_out = consequences.event({"user_id": row.user_id}, end - 1, self._keep_s)
            found.append(put(shut_out, await reader.get(RevocationEvent, shut_out.id)))
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


def _bounded(change: Put, now: int) -> Attempts:
    """A site's row, as far as it is believed: in no case does it lock out, or forget, beyond the present."""
    row, latest = decode(Attempts, change.row), now + SKEW_US
    user_id, place = change.key  # what was checked, whatever the row says
    return msgspec.structs.replace(
        row,
        user_id=user_id,
        place=place,
        failed=max(0, min(row.failed, MOST_FAILED)),
        failed_at=min(row.failed_at, latest),
        cleared_at=min(row.cleared_at, latest - 1),  # a failure after it stays one after it
        active_at=min(row.active_at, latest),
    )
