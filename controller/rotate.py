"""When and whether the key ring may turn: never ahead of any site that is not quarantined; at most one turn an epoch.

The decision is pure (`plan`); the lock saves work, and the transaction that reads the ring and every site is what
makes a turn safe. Source: docs/adr/0006-rotation-waits-for-acknowledgements.md, 0019-several-controllers.md.
"""

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

import msgspec
import structlog
from cryptography.fernet import Fernet

from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.sites import HOLDING, Sites
from regional_keystone.errors import Conflict, IdentityError, Unavailable
from regional_keystone.holder import TOKEN
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Hold, Lock

log = structlog.get_logger("rotate")

POLL_S = 0.1


class Plan(NamedTuple):
    """What a turn would do now: which sites it waits for, which keys it retires."""

    epoch: int
    waits_for: tuple[str, ...]
    retires: tuple[int, ...]
    active: tuple[str, ...]
    quarantined: tuple[str, ...]


class _Awaits(Conflict):
    """The ring must not turn yet: a site came in between the acknowledgements and the turn."""


class _UnderWay(Conflict):
    """Another controller turns the keys, or has just done so."""


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
            return [put(await self._sites.sealed(reader, TOKEN, first, None, now))], None

        await transact(self._overlay, self._sequencer, f"setup/{TOKEN}/{secrets.token_hex(8)}", decide)

    async def plan(self) -> Plan:
        """What a turn would do, and what it would wait for. Raises Conflict before there is a ring."""
        await self._replicator.acknowledgements.refresh()
        record = _there(await self._overlay.get(Ring, TOKEN))
        return self._plan(record, await self._sites.all())

    async def turn(self, since: int | None = None) -> Ring:
        """Wait for every acknowledgement, quarantine who misses the deadline, then turn: the ring as it is after it.

        `since`: when the keys were turned last, as the caller knows; by default, as the log has it. Raises Conflict
        when another turn is under way or has been made since, Unavailable when that cannot be known.
        """
        async with AsyncExitStack() as stack:
            mine = await self._held(stack)
            if not mine:
                raise _UnderWay("A turn of the keys is under way already.")
            if since is None:
                since = _there(await self._overlay.get(Ring, TOKEN)).turned_at
            deadline = self._clock.ticks() + self._deadline_s
            while True:
                await self._acknowledged(mine, deadline)
                try:
                    return await self._turn(mine, since)
                except _Awaits as awaited:  # a site has joined, or was taken back, just now
                    log.info("turn_waits", why=awaited.message)

    async def run(self) -> None:
        """Turn whenever the interval has passed since the last turn, which the log remembers; for ever."""
        said = ""
        while True:
            try:
                record = await self._overlay.get(Ring, TOKEN)
                if record is not None and self._clock.now() - record.turned_at >= self._interval_us:
                    await self.turn(record.turned_at)
                    said = ""
            except _UnderWay as error:  # by another controller, which says the rest
                log.debug("turn_left_to_another", why=error.message)
            except IdentityError as error:
                if error.message != said:
                    log.warning("turn_put_off", why=error.message)
                said = error.message
            await self._clock.sleep(1.0)

    async def take_back(self, site: str) -> None:
        """A quarantined site that acknowledges the newest ring is waited for again."""

        async def holds(reader: Recording, member: Site) -> bool:
            record = await reader.get(Ring, TOKEN)  # so that it collides with a turn
            return record is not None and not self._replicator.holdouts(
                [member], TOKEN, record.epoch, record.fingerprint
            )

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

    async def _acknowledged(self, mine: Hold, deadline: float) -> None:
        while (plan := await self.plan()).waits_for:
            _still(mine)
            if self._clock.ticks() >= deadline:
                now = self._clock.now()
                why = f"it did not acknowledge epoch {plan.epoch} within {self._deadline_s:.0f} s"
                for site in await self._sites.all():
                    is_new = 0 <= now - site.since < self._deadline_s * 1_000_000  # it joined or came back meanwhile
                    if site.id in plan.waits_for and not is_new:
                        await self._sites.set_state(site.id, "quarantined", why)
            await self._clock.sleep(POLL_S)

    async def _turn(self, mine: Hold, since: int) -> Ring:
        now, fresh = self._clock.now(), Fernet.generate_key()

        async def decide(reader: Recording) -> tuple[list[Change], Ring]:
            _still(mine)
            record = _there(await reader.get(Ring, TOKEN))
            if record.turned_at != since:
                raise _UnderWay("Another controller has turned the keys meanwhile.")
            plan = self._plan(record, [site async for site in reader.scan(Site)])
            if plan.waits_for:
                raise _Awaits(f"Not acknowledged by {', '.join(plan.waits_for)}.")
            ring = await self._sites.held(record)
            turned = await self._sites.sealed(reader, TOKEN, ring.rotated(fresh, plan.retires), record, now)
            ceased = {number: at for number, at in record.ceased.items() if number not in plan.retires}
            turned = msgspec.structs.replace(turned, turned_at=now, ceased=ceased | {ring.primary: now})
            return [put(turned, record)], turned

        name = f"turn/{TOKEN}/{secrets.token_hex(8)}"
        turned, position = await transact(self._overlay, self._sequencer, name, decide)
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


def _there(record: Ring | None) -> Ring:
    if record is None:
        raise Conflict("There is no key ring yet.")
    return record


def _still(mine: Hold) -> None:
    """Before each step: a lock can be lost while it is held."""
    if not mine:
        raise Unavailable("The lock on turning the keys was lost, so this turn was given up; try again.")
