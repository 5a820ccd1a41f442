"""When and whether the key rings may turn: never ahead of any site that is not quarantined; at most one turn an epoch.

The decision is pure (`turning`); the lock saves work, and the transaction that reads the ring and every site is what
makes a turn safe. Source: docs/adr/0006-rotation-waits-for-acknowledgements.md, 0019-several-controllers.md,
0025-keys-retire-by-time-and-sealing-ends.md.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack

import msgspec
import structlog
from cryptography.fernet import Fernet

from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.sites import Sites
from controller.sure_now import SureNow
from controller.turning import HOLDING, Plan, Terms, plan, postponed, turned
from controller.unaware import Unaware
from regional_keystone.errors import Conflict, IdentityError, Unavailable
from regional_keystone.holder import RECEIPT, TOKEN
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Hold, Lock

log = structlog.get_logger("rotate")

POLL_S = 0.1
GRACE_S = 10.0  # what a ring that was sealed again during a turn is given at least, whatever is left to the deadline
TURNED = (TOKEN, RECEIPT)
"""The rings that turn alike and together, each with an epoch of its own; the first one's turns are what counts time."""


Missed = tuple[str, str | None]
"""Site and instance of who did not acknowledge within the deadline of a turn."""


class _Awaits(Conflict):
    """The ring must not turn yet: a site came in between the acknowledgements and the turn."""


class _UnderWay(Conflict):
    """Another controller turns the keys, or has just done so."""


class Rotator:
    """Turns the rings once every site that is not quarantined has acknowledged holding what it needs."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        sites: Sites,
        lock: Lock,
        clock: Clock,
        terms: Terms,
        deadline_s: float,
    ) -> None:
        self.turns: Counter[str] = Counter()
        self.primary_age_s: dict[str, float] = {}
        self.active_keys: dict[str, int] = {}
        self.next_turn_s: dict[str, float] = {}
        self.waits_for: set[str] = set()
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._sites = sites
        self._lock = lock
        self._clock = clock
        self._terms = terms
        self._deadline_s = deadline_s
        self._sure_now = SureNow(clock)
        self._unaware = Unaware(clock)

    @property
    def deadline_s(self) -> float:
        """How long a site may hold up a turn."""
        return self._deadline_s

    def held(self, site: Site) -> Mapping[str, tuple[int, str]]:
        """Epoch and fingerprint of each ring that the present instance of this site has acknowledged."""
        return self._replicator.acknowledgements.of(site).rings

    def says(self, site: Site) -> Mapping[str, str]:
        """Why the present instance of this site does not hold the newest of a ring, in its own words."""
        return self._replicator.acknowledgements.of(site).why

    async def setup(self, rings: Sequence[str] = TURNED) -> tuple[str, ...]:
        """The first ring of each kind, where there is none. Tells which were made.

        A primary and a staged key, or the keys that a Keystone left in the directory. Raises KeyRepositoryError for
        a directory whose keys make no ring.
        """
        now = self._clock.now()
        fresh = {name: KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1) for name in rings}

        async def decide(reader: Recording) -> tuple[list[Change], tuple[str, ...]]:
            missing = [name for name in rings if await reader.get(Ring, name) is None]
            made = [await self._sites.first(reader, name, fresh[name], now) for name in missing]
            return [put(ring) for ring in made], tuple(missing)

        return (await transact(self._overlay, self._sequencer, f"setup/{secrets.token_hex(8)}", decide))[0]

    async def plan(self, of: str = TOKEN) -> Plan:
        """What a turn of this ring would do, and what it would wait for. Raises Conflict before there is one."""
        await self._replicator.acknowledgements.refresh()
        record = _there(await self._overlay.get(Ring, of))
        return self._plan(record, await self._sites.all())

    async def turn(self, since: int | None = None, rings: Sequence[str] = TURNED) -> Ring:
        """Wait for every acknowledgement, quarantine who misses the deadline, then turn: the first ring as it is then.

        `since`: when that was turned last, as the caller knows; by default, as the log has it. Raises Conflict when
        another turn is under way or has been made since, Unavailable when that cannot be known.
        """
        async with AsyncExitStack() as stack:
            mine = await self._held(stack)
            if not mine:
                raise _UnderWay("A turn of the keys is under way already.")
            if since is None:
                since = _there(await self._overlay.get(Ring, rings[0])).turned_at
            deadline, missed = self._clock.ticks() + self._deadline_s, set[Missed]()
            while True:
                await self._acknowledged(mine, since, rings, deadline, missed)
                await self._not_overlooked(mine, rings)
                try:
                    return await self._turn(mine, since, rings, missed)
                except _Awaits as awaited:  # a site has joined or was set aside, or a ring was made anew, just now
                    log.info("turn_waits", why=awaited.message)

    async def run(self) -> None:
        """Turn whenever the interval has passed since the last turn, which the log remembers; for ever."""
        said = ""
        while True:
            try:
                record = await self._overlay.get(Ring, TOKEN)
                if record is not None and self._clock.now() - record.turned_at >= self._terms.interval_us:
                    await self.turn(record.turned_at)
                    said = ""
            except _UnderWay as error:  # by another controller, which says the rest
                log.debug("turn_left_to_another", why=error.message)
            except IdentityError as error:
                if error.message != said:
                    log.warning("turn_put_off", why=error.message)
                said = error.message
            await self._clock.sleep(1.0)

    async def look(self) -> None:
        """Take in how the rings stand, for the metrics."""
        records = [record for name in TURNED if (record := await self._overlay.get(Ring, name)) is not None]
        sites, now = await self._sites.all(), self._clock.now()
        self.primary_age_s = {ring.id: max(0, now - ring.turned_at) / 1_000_000 for ring in records}
        self.active_keys = {ring.id: len(ring.checks) for ring in records}
        self.waits_for = {site for ring in records for site in self._plan(ring, sites).waits_for}
        for ring in records:
            self._unaware.is_fresh(ring.checks[0])  # from now on it is known
        if self._terms.interval_us and records:
            self.next_turn_s = {"": (records[0].turned_at + self._terms.interval_us - now) / 1_000_000}

    async def take_back(self, site: str) -> None:
        """A quarantined site that acknowledges the newest ring is waited for again, unless an operator set it aside."""

        async def holds(reader: Recording, member: Site) -> bool:
            if member.by_operator:  # that may have come since somebody looked
                return False
            records = [await reader.get(Ring, name) for name in TURNED]  # so that it collides with a turn
            present = msgspec.structs.replace(member, state="active")
            waits_for = [self._plan(record, [present]).waits_for for record in records if record is not None]
            return bool(waits_for) and not any(waits_for)

        try:
            await self._replicator.acknowledgements.refresh()
            await self._sites.set_state(site, "active", "it holds the newest ring again", only_if=holds)
        except IdentityError as error:
            log.warning("site_not_taken_back", site=site, why=error.message)

    async def _held(self, stack: AsyncExitStack) -> Hold:
        try:
            return await stack.enter_async_context(self._lock.hold("rotate"))
        except Unavailable as error:
            raise Unavailable(f"The keys cannot be turned now; all else goes on. {error.message}") from None

    async def _acknowledged(
        self, mine: Hold, since: int, rings: Sequence[str], deadline: float, missed: set[Missed]
    ) -> None:
        """Wait for who is to be waited for; whom this turn quarantines is added to `missed`."""
        asked, grace = list[int](), deadline
        while waits_for := await self._waits_for(rings, missed):
            _still(mine)
            records = [record for name in rings if (record := await self._overlay.get(Ring, name)) is not None]
            if records[0].turned_at != since:
                raise _UnderWay("Another controller has turned the keys meanwhile.")
            if (epochs := [record.epoch for record in records]) != asked:  # sealed again, for a site that joins, say
                asked, grace = epochs, self._clock.ticks() + min(GRACE_S, self._deadline_s)
            if self._clock.ticks() >= max(deadline, grace):
                now = self._clock.now()
                for site in await self._sites.all():
                    is_new = 0 <= now - site.since < self._deadline_s * 1_000_000  # it joined or came back meanwhile
                    if site.id in waits_for and not is_new:
                        lacks = " and ".join(waits_for[site.id])
                        says = "; ".join(dict.fromkeys(self.says(site).values()))
                        why = f"it did not acknowledge {lacks} within {self._deadline_s:.0f} s"
                        why += f"; it says: {says}" if says else ""
                        await self._sites.set_state(site.id, "quarantined", why)
                        missed.add((site.id, site.instance))
            await self._clock.sleep(POLL_S)

    async def _waits_for(self, rings: Sequence[str], missed: Collection[Missed]) -> dict[str, list[str]]:
        """Which sites have not acknowledged, and what."""
        await self._replicator.acknowledgements.refresh()
        sites, found = _without(await self._sites.all(), missed), dict[str, list[str]]()
        for name in rings:
            if (record := await self._overlay.get(Ring, name)) is None:
                continue
            self._unaware.is_fresh(record.checks[0])  # from now on it is known
            for site in self._plan(record, sites).waits_for:
                found.setdefault(site, []).append(f"epoch {record.epoch} of the {name} keys")
        return found

    async def _not_overlooked(self, mine: Hold, rings: Sequence[str]) -> None:
        """Wait until no site that this turn does not wait for can have overlooked what is staged."""
        while True:
            await self._replicator.acknowledgements.refresh()
            records, sites = [await self._overlay.get(Ring, name) for name in rings], await self._sites.all()
            lacking = [self._may_overlook(record, sites) for record in records if record is not None]
            if not any(lacking):
                return
            _still(mine)
            await self._clock.sleep(POLL_S)

    def _may_overlook(self, record: Ring, sites: Sequence[Site]) -> list[str]:
        """Who lacks this ring, of all members, while its staged key is that new."""
        members = [msgspec.structs.replace(site, state="active") for site in sites if site.state in HOLDING]
        return list(self._plan(record, members).waits_for) if self._unaware.is_fresh(record.checks[0]) else []

    async def _turn(
        self, mine: Hold, since: int, rings: Sequence[str] = TURNED, missed: Collection[Missed] = ()
    ) -> Ring:
        """The turn in one entry, in which who has `missed` it is quarantined, if it lacks a ring again by now."""
        fresh = {name: Fernet.generate_key() for name in rings}

        async def decide(reader: Recording) -> tuple[list[Change], tuple[list[Ring], list[Site]]]:
            _still(mine)
            records = [record for name in rings if (record := await reader.get(Ring, name)) is not None]
            if _there(records[0] if records else None).turned_at != since:
                raise _UnderWay("Another controller has turned the keys meanwhile.")
            found = [site async for site in reader.scan(Site)]
            sites = _without(found, missed)
            if lacking := {site for record in records for site in self._may_overlook(record, found)}:
                raise _Awaits(f"What is staged is new, and may have been overlooked by {', '.join(sorted(lacking))}.")
            made = [await self._turned(reader, record, sites, fresh[record.id]) for record in records]
            late = self._late(records, found, sites)
            changes: list[Change] = [put(ring, record) for ring, record in zip(made, records, strict=True)]
            return changes + [put(site, old) for site, old in late], (made, [site for site, _ in late])

        name = f"turn/{rings[0]}/{secrets.token_hex(8)}"
        (made, late), position = await transact(self._overlay, self._sequencer, name, decide)
        for site in late:
            log.error("site_state", site=site.id, state=site.state, why=site.why)
        self.turns.update(ring.id for ring in made)
        for ring in made:
            self._unaware.is_fresh(ring.checks[0])  # from now on it is known
        late_us = self._clock.now() - made[0].turned_at
        if late_us > self._terms.skew_us:
            made = await self._postpone(made, late_us)
        for ring in made:
            log.warning("ring_turned", ring=ring.id, epoch=ring.epoch, primary=max(ring.checks), position=position)
        return made[0]

    def _late(self, records: Sequence[Ring], found: Sequence[Site], sites: Sequence[Site]) -> list[tuple[Site, Site]]:
        """Those of `found` that `sites` has quarantined and that lack a ring: as they are to be, and as they were."""
        why, now = "it missed the deadline of a turn, came back, and lacked the keys again", self._clock.now()
        return [
            (msgspec.structs.replace(site, since=now, why=site.why or why), old)
            for old, site in zip(found, sites, strict=True)
            if site.state != old.state and any(self._plan(record, [old]).waits_for for record in records)
        ]

    async def _postpone(self, made: Sequence[Ring], by_us: int) -> list[Ring]:
        """We stood still between looking at the clock and appending; sites were sure of the old ring meanwhile."""

        async def decide(reader: Recording) -> tuple[list[Change], list[Ring]]:
            changes, rings = list[Change](), list[Ring]()
            for turned_ in made:
                record = _there(await reader.get(Ring, turned_.id))
                ring = msgspec.structs.replace(record, times=postponed(record, turned_.epoch, by_us))
                changes.append(put(ring, record))
                rings.append(ring)
            return changes, rings

        rings, _ = await transact(self._overlay, self._sequencer, f"postpone/{secrets.token_hex(8)}", decide)
        log.warning("turn_was_late", epoch=made[0].epoch, late_s=by_us / 1_000_000)
        return rings

    async def _turned(self, reader: Recording, record: Ring, sites: Sequence[Site], fresh: bytes) -> Ring:
        plan = self._plan(record, sites)
        if plan.waits_for:
            raise _Awaits(f"Not acknowledged by {', '.join(plan.waits_for)}.")
        ring = await self._sites.held(record)
        turn = turned(record, self._terms, self._clock.now(), plan.retires)
        new = await self._sites.sealed(reader, record.id, ring.rotated(fresh, turn.retires), record, turn.at)
        return msgspec.structs.replace(new, turned_at=turn.at, times=turn.times, retired=turn.retired)

    def _plan(self, record: Ring, sites: Sequence[Site]) -> Plan:
        said = {site.id: self._replicator.acknowledgements.of(site).rings for site in sites}
        held = {site: rings[record.id] for site, rings in said.items() if record.id in rings}
        if record.id == RECEIPT:  # a site of a version that knows of no such ring says nothing of it, and needs none
            sites = [site for site in sites if not said[site.id] or RECEIPT in said[site.id]]
        return plan(record, sites, held, self._terms, self._sure_now())


def _without(sites: Sequence[Site], missed: Collection[Missed]) -> list[Site]:
    """The sites, those quarantined that missed the deadline of this turn: coming back, they wait for the next one."""
    return [
        msgspec.structs.replace(site, state="quarantined")
        if site.state == "active" and (site.id, site.instance) in missed
        else site
        for site in sites
    ]


def _there(record: Ring | None) -> Ring:
    if record is None:
        raise Conflict("There is no key ring yet.")
    return record


def _still(mine: Hold) -> None:
    """Before each step: a lock can be lost while it is held."""
    if not mine:
        raise Unavailable("The lock on turning the keys was lost, so this turn was given up; try again.")
