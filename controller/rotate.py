"""When and whether the key ring may turn: never ahead of any site that is not quarantined; at most one turn an epoch.

The decision is pure (`plan`); the lock saves work, and the transaction that reads the ring and every site is what
makes a turn safe. Source: docs/adr/0006-rotation-waits-for-acknowledgements.md.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog
from cryptography.fernet import Fernet

from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.sites import HOLDING, Sites
from regional_keystone.errors import Conflict, IdentityError
from regional_keystone.holder import TOKEN
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Lock

log = structlog.get_logger("rotate")

POLL_S = 0.05


class Plan(NamedTuple):
    """What a turn would do now: which sites it waits for, which keys it retires."""

    epoch: int
    waits_for: tuple[str, ...]
    retires: tuple[int, ...]
    active: tuple[str, ...]
    quarantined: tuple[str, ...]


class _Awaits(Conflict):
    """The ring must not turn yet: a site came in between the acknowledgements and the turn."""


class Rotator:
    """Turns the token ring once every site that is not quarantined has acknowledged holding what it needs."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        sites: Sites,
        lock: Lock,
        clock: Clock,
        keep_s: float,
        deadline_s: float,
        interval_s: float,
    ) -> None:
        self.turns = 0
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._sites = sites
        self._lock = lock
        self._clock = clock
        self._keep_us = int(keep_s * 1_000_000)
        self._deadline_s = deadline_s
        self._interval_us = int(interval_s * 1_000_000)

    async def setup(self) -> None:
        """The first ring, when there is none: a primary and a staged key."""
        now = self._clock.now()
        first = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1)

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            if await reader.get(Ring, TOKEN) is not None:
                return [], None
            return [put(await self._sites.sealed(reader, first, None, now))], None

        await transact(self._overlay, self._sequencer, f"setup/{TOKEN}/{secrets.token_hex(8)}", decide)

    async def plan(self) -> Plan:
        """What a turn would do, and what it would wait for. Raises Conflict before there is a ring."""
        record = await self._overlay.get(Ring, TOKEN)
        if record is None:
            raise Conflict("There is no key ring yet.")
        return self._plan(record, await self._sites.all())

    async def turn(self) -> Ring:
        """Wait for every acknowledgement, quarantine who misses the deadline, then turn: the ring as it is after it.

        Raises Conflict when another turn is under way.
        """
        async with self._lock.hold("rotate") as mine:
            if not mine:
                raise Conflict("A turn of the keys is under way already.")
            deadline = self._clock.ticks() + self._deadline_s
            while True:
                await self._acknowledged(deadline)
                try:
                    return await self._turn()
                except _Awaits as awaited:  # a site has joined, or was taken back, just now
                    log.info("turn_waits", why=awaited.message)

    async def run(self) -> None:
        """Turn whenever the interval has passed since the last turn, which the log remembers; for ever."""
        while True:
            record = await self._overlay.get(Ring, TOKEN)
            if record is not None and self._clock.now() - record.turned_at >= self._interval_us:
                try:
                    await self.turn()
                except IdentityError as error:
                    log.warning("turn_put_off", why=error.message)
            await self._clock.sleep(1.0)

    async def take_back(self, site: str) -> None:
        """A quarantined site that acknowledges the newest ring is waited for again."""

        async def holds(reader: Recording, member: Site) -> bool:
            record = await reader.get(Ring, TOKEN)  # so that it collides with a turn
            return record is not None and not self._replicator.holdouts(
                [member], TOKEN, record.epoch, record.fingerprint
            )

        try:
            await self._sites.set_state(site, "active", "it holds the newest ring again", only_if=holds)
        except IdentityError as error:
            log.warning("site_not_taken_back", site=site, why=error.message)

    async def _acknowledged(self, deadline: float) -> None:
        while (plan := await self.plan()).waits_for:
            if self._clock.ticks() >= deadline:
                for site in plan.waits_for:
                    why = f"it did not acknowledge epoch {plan.epoch} within {self._deadline_s:.0f} s"
                    await self._sites.set_state(site, "quarantined", why)
            await self._clock.sleep(POLL_S)

    async def _turn(self) -> Ring:
        now, fresh = self._clock.now(), Fernet.generate_key()

        async def decide(reader: Recording) -> tuple[list[Change], Ring]:
            record = await reader.get(Ring, TOKEN)
            if record is None:
                raise Conflict("There is no key ring yet.")
            plan = self._plan(record, [site async for site in reader.scan(Site)])
            if plan.waits_for:
                raise _Awaits(f"Not acknowledged by {', '.join(plan.waits_for)}.")
            ring = await self._sites.held(record)
            turned = await self._sites.sealed(reader, ring.rotated(fresh, plan.retires), record, now)
            ceased = {number: at for number, at in record.ceased.items() if number not in plan.retires}
            turned = msgspec.structs.replace(turned, turned_at=now, ceased=ceased | {ring.primary: now})
            return [put(turned, record)], turned

        turned, position = await transact(
            self._overlay, self._sequencer, f"turn/{TOKEN}/{secrets.token_hex(8)}", decide
        )
        self.turns += 1
        log.warning("ring_turned", ring=TOKEN, epoch=turned.epoch, primary=max(turned.checks), position=position)
        return turned

    def _plan(self, record: Ring, sites: Sequence[Site]) -> Plan:
        active = [site for site in sites if site.state == "active"]
        now = self._clock.now()
        return Plan(
            epoch=record.epoch,
            waits_for=tuple(self._replicator.holdouts(active, TOKEN, record.epoch, record.fingerprint)),
            # by time, never by count: no token that it sealed can be accepted any more
            retires=tuple(number for number, at in record.ceased.items() if now > at + self._keep_us),
            active=tuple(site.id for site in active),
            quarantined=tuple(site.id for site in sites if site.state in HOLDING and site.state != "active"),
        )
