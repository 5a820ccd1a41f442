"""A site of the federation: joins, follows, forwards, revokes, serves. With workers, this is their leader."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from regional_keystone import durable, logs, secret_file
from regional_keystone.backends import only_user, open_replica, open_store, region_cache, system_clock
from regional_keystone.enrol import Identity, JoinToken, Membership
from regional_keystone.errors import StoreDamaged, StoreRefused, Unavailable
from regional_keystone.link import Link, renew
from regional_keystone.log import LOG
from regional_keystone.messages import Request, Response
from regional_keystone.model import RevocationEvent
from regional_keystone.own_feed import OwnFeed
from regional_keystone.ports import Clock, Committer, Writer
from regional_keystone.settings import Settings
from regional_keystone.wiring import WAIT_S, Door, Replica, background, common_status, door, export, open_doors, replica
from regional_keystone.workers import Start, Workers, spawning

log = structlog.get_logger("site")

_JOIN_RETRY_S = 1.0
_LOOK_S = 0.5
_FRESH = "fresh"
_SECOND_US = 1_000_000


class Site:
    """One region's site. `start` begins the process of a worker, when `[workers]` wants any."""

    def __init__(self, settings: Settings, clock: Clock, identity_: Identity, start: Start | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.identity = identity_
        self.part: Replica
        self.link: Link
        self.own: OwnFeed
        self.door: Door
        self.workers: Workers | None = None
        self._start = start or spawning(())
        self._late: asyncio.Queue[list[RevocationEvent]] = asyncio.Queue()
        self._forwarded = {"answered": 0, "unavailable": 0}

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what is on disk and put it together."""
        state, member = self.settings.site.state_dir, self.identity.membership()
        store = await open_replica(self.settings, self.clock, member.name)
        stack.push_async_callback(store.close)
        self.part = await replica(
            self.settings,
            self.clock,
            store,
            name=member.name,
            cluster=member.cluster,
            box=self.identity.box(),
            signers=member.signers,
        )
        own_name, own_store = await self._open_own(stack, member)
        self.own = OwnFeed(own_name, store=own_store, follower=self.part.follower, clock=self.clock)
        self.part.follower.recall(_recalled(state / _FRESH))
        await self.part.follower.start()
        await self.own.start()
        self.part.follower.late = self._late.put_nowait
        self.link = Link(
            identity=self.identity,
            controllers=self.settings.site.controllers or member.controllers,
            follower=self.part.follower,
            own=self.own,
            store=store,
            clock=self.clock,
            skew_s=self.settings.freshness.skew_s,
        )
        own = self._lead() if self.settings.workers.processes > 1 else self.own
        self.door = door(
            self.settings,
            self.part,
            committer=own,
            forward=self._forward,
            own=own,
            cache=region_cache(self.settings),
        )
        stack.push_async_callback(self.door.close)
        export(self.part, self.door)
        tell = self.door.metrics.tell
        tell("own_feed_pending", self.own.pending)
        tell("stream_up", lambda: float(self.link.connected_since is not None))
        tell("stream_connects", lambda: self.link.reconnects)
        tell("forwarded", lambda: self._forwarded)

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        link = self.link
        connected = link.connected_since is not None
        return {
            **common_status(self.part, self.door),
            "state": "connected" if connected else "isolated",
            "stream": {"connected": connected, "since": link.connected_since, "refused": link.refused},
            "own_feed": {"name": self.own.name, "number": self.own.number, "pending": self.own.pending()},
            **({} if self.workers is None else {"workers": self.workers.status()}),
        }

    def missing(self) -> str | None:
        """What this site lacks to answer; None when it is ready."""
        if not self.part.holder.seen.epoch:
            return "no keys yet: waiting for the controller"
        if not self.part.follower.position:
            return "no data yet: waiting for the controller"
        return None if self.workers is None else self.workers.missing()

    def unready(self) -> str | None:
        """Why clients should not be sent here: as `missing`, but once all have served, those that are left do."""
        workers = self.workers
        return None if workers is not None and workers.have_served else self.missing()

    async def answer(self, ready: Callable[[], None]) -> None:
        """Open the doors, in every process, until cancelled; then let what runs end while all else still goes on."""
        workers = self.workers
        async with background([]) as group, AsyncExitStack() as doors:
            if workers is not None:
                doors.push_async_callback(workers.ended)
            others = None if workers is None else workers.counted
            await open_doors(doors, self.settings, self.part, self.door, self.status, self.unready, others)
            if workers is not None:
                doors.callback(workers.end)
                group.create_task(workers.run())
                await workers.ready()
            ready()
            await asyncio.Event().wait()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the site does."""
        running: list[Coroutine[Any, Any, None]] = [
            self.part.follower.run(),
            self.link.run(),
            renew(self.identity, self.settings.site.controllers or self.identity.membership().controllers, self.clock),
            self._answer_late(),
            self._note_freshness(),
        ]
        return [*running, self._follow_store()] if self.settings.cassandra.contact_points else running

    async def _open_own(self, stack: AsyncExitStack, member: Membership) -> tuple[str, Writer]:
        """The own feed's name and store: the data centre's, or a file of its own."""
        if self.settings.cassandra.contact_points:
            return f"{member.name}/{member.instance}", self.part.store
        path, name = _own_feed(self.settings.site.state_dir / "own", member)
        store = await _open_own(path)
        stack.push_async_callback(store.close)
        return name, store

    async def _follow_store(self) -> None:
        """Take in what the data centre's own log shows, whether a controller streams it or none is left to do so."""
        follower, store, readable = self.part.follower, self.part.store, True
        while True:
            try:
                while entries := await store.tail(LOG, follower.position):
                    follower.note(entries)
                await self.own.settle()
            except Unavailable as error:
                if readable:
                    log.warning("data_centre_not_readable", why=error.message)
                readable = False
            else:
                if not readable:
                    log.info("data_centre_readable", position=follower.position)
                readable = True
            await self.clock.sleep(_LOOK_S)

    def _lead(self) -> Committer:
        self.workers = Workers(
            self.settings.workers.processes,
            start=self._start,
            follower=self.part.follower,
            own=self.own,
            forward=self._forward,
            late=self._late.put_nowait,
            clock=self.clock,
        )
        self.link.held = self.workers.held
        return self.workers

    async def _forward(self, request: Request) -> Response:
        try:
            response = await self.link.forward(request)
        except Unavailable:
            self._forwarded["unavailable"] += 1
            raise
        self._forwarded["answered"] += 1
        if response.position is not None:
            await self.part.follower.reached(response.position, WAIT_S)
            if self.workers is not None:
                await self.workers.level(response.position)
        return response

    async def _note_freshness(self) -> None:
        """Keep on disk when all was known last, so that a restart while the controller is away does not forget it."""
        path, noted_at = self.settings.site.state_dir / _FRESH, 0
        while True:
            fresh_at = self.part.follower.fresh_at()
            if fresh_at is not None and fresh_at - noted_at > 10 * _SECOND_US:
                try:
                    await asyncio.to_thread(durable.write, path, str(fresh_at).encode())
                    noted_at = fresh_at
                except OSError as error:  # a full disk: it is tried again
                    log.error("freshness_not_noted", why=error.strerror)
            await self.clock.sleep(5.0)

    async def _answer_late(self) -> None:
        while True:
            events = await self._late.get()
            try:
                await self.own.revoke(events)
            except Unavailable as error:
                log.error("late_revocation_not_written", why=str(error))
                await self.clock.sleep(_JOIN_RETRY_S)
                self._late.put_nowait(events)


async def serve(settings: Settings, ready: Callable[[], None], told: Sequence[str] = ()) -> None:
    """A site, until it is cancelled. Raises StoreRefused, ConfigurationError, or OSError for a taken port.

    `told`: the arguments from which the settings were read, for workers to read them as well.
    """
    logs.configure(settings.default)
    clock = system_clock()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_user(settings.site.state_dir))
        identity_ = Identity(settings.site.state_dir / "identity")
        if not identity_.joined:
            await _join(settings, identity_, clock)
        site = Site(settings, clock, identity_, spawning(told))
        await site.build(stack)
        async with background(site.tasks()):
            await site.answer(ready)


async def _join(settings: Settings, identity_: Identity, clock: Clock) -> None:
    path = settings.site.join_token_file
    if path is None:
        raise StoreRefused("this site has not joined a federation; set [site] join_token_file to a file with the token")
    token = JoinToken.read(secret_file.read(path, "join token"))
    while True:
        try:
            await identity_.join(token)
        except Unavailable as error:
            log.warning("waiting_to_join", why=error.message)
            await clock.sleep(_JOIN_RETRY_S)
        else:
            _discard(path)
            return


def _discard(token: Path) -> None:
    """Of a token that is used; a file that we may not remove keeps nobody from serving."""
    try:
        token.unlink(missing_ok=True)
    except OSError as error:
        cure = "delete it: the token in it is used"
        log.warning("join_token_not_removed", file=str(token), why=error.strerror, cure=cure)


async def _open_own(path: Path) -> Writer:
    try:
        return await open_store(path)
    except StoreDamaged:
        raise StoreRefused(
            f"{path} is damaged; it holds revocations of this site that the log may not have yet. Move it away to begin"
            " a new feed, and revoke again what was revoked here last"
        ) from None


def _own_feed(directory: Path, member: Membership) -> tuple[Path, str]:
    """The own feed's file and name, by its incarnation; a new incarnation when there is none."""
    known = sorted(directory.glob("*.db")) if directory.exists() else []
    path = known[0] if known else directory / f"{uuid.uuid4().hex}.db"
    return path, f"{member.name}/{path.stem}"


def _recalled(path: Path) -> int | None:
    """When all was known last, by the wall clock; None if that is not known."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None
