"""Takes away what nobody needs any more: revocations past their time, kept outcomes, entries all sites have.

Removals are entries of the log like any other, so that all replicas stay equal.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
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
_REST = 50  # times as long as looking for what is past its time took: it may be a million rows
LATEST = 4  # times the retention, at least a day: then an entry goes though an active site lacks it
_DAY_S = 86_400


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
    why_not: Callable[[], str | None] = lambda: None,
) -> None:
    """Every half minute, for ever; of several controllers whichever is first. Nothing goes while there is a `why_not`.

    What the newest moment is that anybody knows of is asked at once: later it may be one that we have written, by a
    clock that is ahead.
    """
    rests_until, steady, limited = float("-inf"), follower.expiry.steady, False
    asked = asyncio.create_task(_newest_now(store, overlay, sequencer.head, clock))
    try:
        while True:
            await clock.sleep(EVERY_S)
            try:
                if not limited and (latest := await asked):
                    steady.limit(latest)  # a clock that was ahead when this began would take away what still counts
                limited = True
                if (why := why_not()) is not None:
                    log.error("house_not_kept", why=why)
                    continue
                now = steady.now()
                follower.expiry.due(now)
                async with mine(lock, "housekeeping") as is_mine:
                    if not is_mine:
                        continue
                    if (began := clock.ticks()) >= rests_until:
                        await expire(overlay, sequencer, now)
                        rests_until = clock.ticks() + _REST * (clock.ticks() - began)
                    before = now - int(retention_s * 1_000_000)
                    latest = now - int(max(LATEST * retention_s, _DAY_S) * 1_000_000)
                    await prune(store, overlay, acknowledgements, before, latest)
            except IdentityError as error:  # a full disk, a busy log: it is tried again
                log.error("house_not_kept", why=error.message)
    finally:
        asked.cancel()


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
    """Remove what is past its time, each table read once, some hundred rows a transaction; returns how many went."""
    count, gone = 0, list[Change]()
    async for row in _past(overlay, now):
        gone.append(remove(row))
        if len(gone) == _AT_ONCE:
            count += await _remove(overlay, sequencer, gone)
            gone = []
    return count + await _remove(overlay, sequencer, gone)


async def _newest_now(store: Writer, overlay: Overlay, head: int, clock: Clock) -> int:
    """The same, however long it takes until the store says it."""
    while True:
        try:
            return await _newest(store, overlay, head)
        except Unavailable as error:
            log.error("house_not_kept", why=error.message)
            await clock.sleep(EVERY_S)


async def _newest(store: Writer, overlay: Overlay, head: int) -> int:
    """The newest moment that an entry of the log or what can expire tells of; 0 where there is neither."""
    newest = max([entry.at for entry in await store.tail(LOG, max(0, head - 1))], default=0)
    async for event in overlay.scan(RevocationEvent):
        newest = max(newest, event.revoked_at)
    async for kept in overlay.scan(Outcome):
        newest = max(newest, kept.at)
    return newest


async def _past(overlay: Overlay, now: int) -> AsyncIterator[RevocationEvent | Outcome]:
    # read without recording: a row that is past its time never comes back, and a new one is not looked for
    async for event in overlay.scan(RevocationEvent):
        if event.keep_until < now:
            yield event
    async for kept in overlay.scan(Outcome):
        if kept.at + OUTCOME_US < now:
            yield kept


async def _remove(overlay: Overlay, sequencer: Sequencer, gone: list[Change]) -> int:
    async def decide(reader: Recording) -> tuple[list[Change], int]:
        del reader
        return gone, len(gone)

    count, _ = await transact(overlay, sequencer, f"expire/{secrets.token_hex(8)}", decide)
    return count


async def prune(
    store: Writer, overlay: Overlay, acknowledgements: Acknowledgements, before: int, latest: int = 0
) -> int:
    """Forget entries older than `before` that every site which is not quarantined holds; returns up to where.

    Those older than `latest` go whoever lacks them: a site that stays behind, or lies, would fill the disk. A snapshot
    brings it what it lacks.
    """
    active = [site async for site in overlay.scan(Site) if site.state == "active"]
    await acknowledgements.refresh()
    held = {site.id: acknowledgements.of(site).position for site in active}  # 0: it has not said yet how far it is
    began, applied = await pruned(store, LOG), await store.applied(LOG)
    upto = await _last(store, began, min([*held.values(), applied]), before, min(latest, before), applied)
    await store.prune(LOG, upto)
    if upto > began and (behind := sorted(site for site, position in held.items() if position < upto)):
        log.error("log_pruned_beyond_a_site", sites=behind, upto=upto)
    return upto


async def _last(store: Writer, upto: int, limit: int, before: int, latest: int, applied: int) -> int:
    """The last entry that may go: up to `limit` those before `before`, up to `applied` those before `latest`."""
    while entries := await store.tail(LOG, upto):
        for entry in entries:
            held = entry.number <= limit and entry.at < before
            if not held and not (entry.number <= applied and entry.at < latest):
                return upto
            upto = entry.number
    return upto
