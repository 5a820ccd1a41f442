"""Takes away what nobody needs any more: revocations past their time, kept outcomes, entries all sites have.

Removals are entries of the log like any other, so that all replicas stay equal.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from controller.acknowledgements import Acknowledgements
from controller.commit import Sequencer
from regional_keystone.errors import IdentityError, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import LOG, Change, remove
from regional_keystone.model import Outcome, RevocationEvent, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.own_feed import pruned
from regional_keystone.ports import Clock, Lock, Writer

log = structlog.get_logger("housekeeping")

OUTCOME_US = 600_000_000  # a forwarded request is not retried later than this
EVERY_S = 30.0
_AT_ONCE = 500


async def keep_house(
    *,
    store: Writer,
    overlay: Overlay,
    sequencer: Sequencer,
    acknowledgements: Acknowledgements,
    follower: Follower,
    lock: Lock,
    clock: Clock,
    retention_s: float,
) -> None:
    """Every half minute, for ever; of several controllers whichever is first."""
    while True:
        await clock.sleep(EVERY_S)
        follower.index.expire(clock.now())
        try:
            async with mine(lock, "housekeeping") as is_mine:
                if not is_mine:
                    continue
                while await expire(overlay, sequencer, clock.now()) == _AT_ONCE:
                    pass  # there is more
                await prune(store, overlay, acknowledgements, clock.now() - int(retention_s * 1_000_000))
        except IdentityError as error:  # a full disk, a busy log: it is tried again
            log.error("house_not_kept", why=error.message)


@asynccontextmanager
async def mine(lock: Lock, name: str) -> AsyncIterator[bool]:
    """Whether to do it here. Nothing goes wrong when two do, so it is done when the lock cannot be had."""
    async with AsyncExitStack() as stack:
        try:
            held = bool(await stack.enter_async_context(lock.hold(name)))
        except Unavailable:
            held = True
        yield held


async def expire(overlay: Overlay, sequencer: Sequencer, now: int) -> int:
    """Remove what is past its time, some hundred rows a transaction; returns how many went."""

    async def decide(reader: Recording) -> tuple[list[Change], int]:
        # read without recording: a row that is past its time never comes back, and a new one is not looked for
        del reader
        gone: list[Change] = [remove(event) async for event in overlay.scan(RevocationEvent) if event.keep_until < now]
        gone += [remove(kept) async for kept in overlay.scan(Outcome) if kept.at + OUTCOME_US < now]
        return gone[:_AT_ONCE], len(gone[:_AT_ONCE])

    count, _ = await transact(overlay, sequencer, f"expire/{secrets.token_hex(8)}", decide)
    return count


async def prune(store: Writer, overlay: Overlay, acknowledgements: Acknowledgements, before: int) -> int:
    """Forget entries older than `before` that every site which is not quarantined holds; returns up to where."""
    active = [site async for site in overlay.scan(Site) if site.state == "active"]
    await acknowledgements.refresh()
    held = [acknowledgements.of(site).position for site in active]
    if 0 in held:
        return 0  # a site has not said yet how far it is
    upto = await pruned(store, LOG)
    limit = min([*held, await store.applied(LOG)])
    while entries := await store.tail(LOG, upto):
        for entry in entries:
            if entry.at >= before or entry.number > limit:
                await store.prune(LOG, upto)
                return upto
            upto = entry.number
    await store.prune(LOG, upto)
    return upto
