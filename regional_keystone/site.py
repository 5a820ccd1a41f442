"""A site of the federation: joins, follows, forwards, revokes, serves. With workers, this is their leader."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from regional_keystone import durable, exposure, logs, operator_socket, secret_file
from regional_keystone.backends import (
    levelling,
    only_user,
    open_replica,
    open_store,
    region_cache,
    store_heartbeat,
    system_clock,
)
from regional_keystone.catching_up import take_up
from regional_keystone.convergence import Comparing
from regional_keystone.data_centre import DataCentre
from regional_keystone.enrol import Identity, JoinToken, Membership
from regional_keystone.errors import StoreDamaged, StoreRefused, Unavailable
from regional_keystone.freshness import BEAT_S
from regional_keystone.issue_counts import Issues, read, totals, written
from regional_keystone.last_issue import LAST_ISSUE, LastIssue
from regional_keystone.link import Link, renew
from regional_keystone.log import LOG, Entry
from regional_keystone.messages import Request, Response
from regional_keystone.operator_listener import listen
from regional_keystone.own_feed import LateAnswers, OwnFeed
from regional_keystone.panic import Panic
from regional_keystone.parts import Door, Replica
from regional_keystone.peer_feeds import PeerFeeds
from regional_keystone.ports import Clock, Committer, Writer
from regional_keystone.purge import Purge
from regional_keystone.purging import purge
from regional_keystone.refresh import Refresh
from regional_keystone.report import common_status, export, export_comparing, left_s
from regional_keystone.sealing import Noted
from regional_keystone.settings import Settings
from regional_keystone.shared import REPAIRED, note_repair
from regional_keystone.signer_chain import Chain
from regional_keystone.survey import Survey
from regional_keystone.wiring import (
    WAIT_S,
    background,
    door,
    keep_s,
    look_after_keys,
    open_doors,
    replica,
    settle_again,
)
from regional_keystone.worker_process import Start, spawning
from regional_keystone.workers import Workers

log = structlog.get_logger("site")

_JOIN_RETRY_S = 1.0
_LOOK_S = 0.5
_FRESH, _ISSUED = "fresh", "issued"
_COUNT_S = 10.0
_NOTE_S = 10.0


class Site:
    """One region's site. `start` begins the process of a worker, when `[workers]` wants any."""

    def __init__(self, settings: Settings, clock: Clock, identity_: Identity, start: Start | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.identity = identity_
        self.part: Replica
        self.link: Link
        self.own: OwnFeed
        self.late: LateAnswers
        self.door: Door
        self.panic: Panic
        self.workers: Workers | None = None
        self.peers: PeerFeeds | None = None
        self.purge: Purge | None = None
        self.comparing: Comparing | None = None
        self.data_centre: DataCentre | None = None
        self._start = start or spawning(())
        self._forwarded = {"answered": 0, "unavailable": 0}

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what is on disk and put it together."""
        member = self.identity.membership()
        store = await open_replica(self.settings, self.clock, member.name)
        stack.push_async_callback(store.close)
        trusted = self.identity.trusted()
        self.part = await replica(
            self.settings,
            self.clock,
            store,
            name=member.name,
            cluster=member.cluster,
            box=self.identity.box(),
            signers=trusted.signers,
        )
        self.part.follower.chain = Chain(trusted, self.part.follower.holders.values(), self.identity.chain_path)
        await self._begin(stack, member)
        if self.settings.cassandra.contact_points:
            await self._hear_peers(member)
        self.link = Link(
            identity=self.identity,
            controllers=self.settings.site.controllers or member.controllers,
            follower=self.part.follower,
            own=self.own,
            store=store,
            clock=self.clock,
            skew_s=self.settings.freshness.skew_s,
        )
        self.link.answered = self.late.written
        own = self._lead() if self.settings.workers.processes > 1 else self.own
        self.door = door(
            self.settings,
            self.part,
            committer=own,
            forward=self._forward,
            own=own,
            own_at=lambda: (self.own.name, self.own.number),
            cache=region_cache(self.settings),
        )
        stack.push_async_callback(self.door.close)
        self.panic = Panic(
            follower=self.part.follower,
            own=own,
            clock=self.clock,
            place=member.name,
            issued=self.link.issued,
        )
        export(self.part, self.door)
        self._open_purge(stack)
        await self._open_comparing()
        self._tell()

    async def _begin(self, stack: AsyncExitStack, member: Membership) -> None:
        """Know what an earlier life of this site knew, and what it revoked."""
        state, follower = self.settings.site.state_dir, self.part.follower
        name, store = await self._open_own(stack, member)
        self.own = OwnFeed(name, store=store, follower=follower, clock=self.clock)
        noted = _recalled(state / _FRESH)
        last = self._last_issue(noted)
        stack.callback(last.close)
        follower.recall(noted, last.until())
        follower.issued.keep, follower.issued.kept = last.note, last.until
        follower.issues.add(_counted(state / _ISSUED))
        await follower.start()
        await self.own.start()
        self.late = LateAnswers(self.own, self.clock)
        follower.late, follower.apply = self.late.put, self._apply

    def _last_issue(self, noted: Noted | None) -> LastIssue:
        """Where it is written down when this site issues; what a former version has issued since is not there."""
        state = self.settings.site.state_dir
        former = noted if noted is not None and not noted.issues_kept else None
        if former is not None:
            (state / LAST_ISSUE).unlink(missing_ok=True)
        last = LastIssue(state / LAST_ISSUE, otherwise=noted.lived_until if noted else 0)
        if former is not None:
            durable.write(state / _FRESH, msgspec.json.encode(msgspec.structs.replace(former, issues_kept=True)))
        return last

    def _open_purge(self, stack: AsyncExitStack) -> None:
        self.purge = purge(self.settings, self.part, self.door)
        if self.purge is not None:
            stack.push_async_callback(self.purge.close)
            if self.workers is not None:
                self.workers.answered = self.purge.take_framed
                self.workers.gone = self.purge.process_ended

    async def _open_comparing(self) -> None:
        """Compare what lies in an own file with the controller's; a data centre with what most have."""
        section, part, link = self.settings.convergence, self.part, self.link
        if not section.interval_s:
            return
        refresh = Refresh(part.follower, self.own.after)
        note = partial(note_repair, self.settings.site.state_dir / REPAIRED)
        if (here := levelling(part.store)) is not None:
            self.data_centre = DataCentre(
                levelling=here,
                store=part.store,
                follower=part.follower,
                refresh=refresh,
                clock=self.clock,
                section=section,
                note_repair=note,
            )
            self.data_centre.export(self.door.metrics.tell)
            return
        survey = Survey(part.store, self.clock, section.share)
        await survey.start()
        survey.watch(part.follower)
        self.comparing = Comparing(
            survey=survey,
            store=part.store,
            refresh=refresh,
            ask=link.ask,
            tell=link.tell,
            clock=self.clock,
            interval_s=section.interval_s,
            note_repair=note,
        )
        export_comparing(self.door.metrics.tell, self.comparing)

    def _tell(self) -> None:
        """Let metrics ask what a site alone knows."""
        tell = self.door.metrics.tell
        tell("own_feed_pending", self.own.pending)
        tell("stream_up", lambda: float(self.link.connected_since is not None))
        tell("stream_connects", lambda: self.link.reconnects)
        tell("tokens_issued", lambda: totals(self.link.issued()))
        tell("forwarded", lambda: self._forwarded)
        tell("certificate_left_seconds", lambda: left_s(self.identity.ends_at(), self.clock))
        if self.peers is not None:
            tell("peer_feed_rows", self.peers.rows)
            tell("peer_feed_unread", self.peers.unread)

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        link = self.link
        connected = link.connected_since is not None
        return {
            **common_status(self.part, self.door),
            "state": "connected" if connected else "isolated",
            "stream": {"connected": connected, "since": link.connected_since, "refused": link.refused},
            "own_feed": {"name": self.own.name, "number": self.own.number, "pending": self.own.pending()},
            "certificates": self.identity.ends_at(),
            **({} if self.peers is None else {"peer_feeds": self.peers.status()}),
            **({} if self.workers is None else {"workers": self.workers.status()}),
            **({} if self.purge is None else {"middleware_cache": self.purge.status()}),
            **({} if (compares := self.comparing or self.data_centre) is None else {"convergence": compares.status()}),
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
            path = self.settings.site.state_dir / operator_socket.NAME
            operators = await listen(self.panic.app(), path)
            doors.callback(path.unlink, missing_ok=True)
            doors.push_async_callback(operators.cleanup)
            ready()
            await asyncio.Event().wait()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the site does."""
        running: list[Coroutine[Any, Any, None]] = [
            self.part.follower.run(),
            look_after_keys(self.part),
            self.link.run(),
            renew(self.identity, self.settings.site.controllers or self.identity.membership().controllers, self.clock),
            self.late.run(),
            self._note_freshness(),
            self._keep_issues(),
            settle_again(self.part),
        ]
        if self.purge is not None:
            running.append(self.purge.run())
        if (compares := self.comparing or self.data_centre) is not None:
            running.append(compares.run())
        return running if self.peers is None else [*running, self._follow_store(), self.peers.run()]

    async def _hear_peers(self, member: Membership) -> None:
        """Know what other sites say in the store that all share, and go on to."""
        part, keep = self.part, keep_s(self.settings)
        self.peers = PeerFeeds(member.name, store=part.store, follower=part.follower, clock=self.clock, keep_s=keep)
        await self.peers.begin()

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
        heartbeat, skew_s = store_heartbeat(store), self.settings.freshness.skew_s
        while True:
            try:
                stream_is_late = follower.age_s() > 2 * BEAT_S
                beat = await heartbeat.last() if heartbeat is not None and stream_is_late else None
                while entries := await store.tail(LOG, follower.position):
                    await take_up(follower.note, entries, self.clock)
                if beat is not None:  # read before the entries, or it would always be ahead of them
                    follower.beaten(*beat, skew_s)
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
            late=self.late.put,
            clock=self.clock,
        )
        self.link.held, self.link.issued = self.workers.held, self.workers.issued
        self.link.snapshot_begins = self.part.follower.issued.lost  # the leader answers it for all
        if self.peers is not None:
            self.peers.told, self.workers.peers = self.workers.hear, self.peers.words
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
        """Keep on disk when all was known last, so that a restart while the controller is away does not forget it.

        And the wall clock, whether or not anything new is known: by it a later life knows that it was set back.
        """
        path, noted_at = self.settings.site.state_dir / _FRESH, float("-inf")
        while True:
            noted = self.part.follower.noted()
            if noted is not None and self.clock.ticks() - noted_at > _NOTE_S:
                try:
                    await asyncio.to_thread(durable.write, path, msgspec.json.encode(noted))
                    noted_at = self.clock.ticks()
                except OSError as error:  # a full disk: it is tried again
                    log.error("freshness_not_noted", why=error.strerror)
            await self.clock.sleep(5.0)

    async def _keep_issues(self) -> None:
        """Keep on disk, and tell the controller, how many tokens were issued, whenever that has changed."""
        path, kept = self.settings.site.state_dir / _ISSUED, b""
        while True:
            await self.clock.sleep(_COUNT_S)
            data = written(self.link.issued())
            if data != kept:
                try:
                    await asyncio.to_thread(durable.write, path, data)
                    kept = data
                except OSError as error:  # a full disk: it is tried again
                    log.error("issues_not_counted", why=error.strerror)
                self.part.follower.progress()

    async def _apply(self, batch: Sequence[Entry]) -> None:
        """Let the replica hold what this site, with all its processes, has answered."""
        await self.late.written()
        await self.part.store.apply(batch)


async def serve(settings: Settings, ready: Callable[[], None], told: Sequence[str] = ()) -> None:
    """A site, until it is cancelled. Raises StoreRefused, ConfigurationError, or OSError for a taken port.

    `told`: the arguments from which the settings were read, for workers to read them as well.
    """
    logs.configure(settings.default)
    clock = system_clock()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_user(settings.site.state_dir))
        exposure.refuse(settings)
        identity_ = Identity(settings.site.state_dir / "identity")
        if not identity_.joined:
            await _join(settings, identity_, clock)
        elif (token := settings.site.join_token_file) is not None and token.exists():  # of a used one nothing is left
            cure = f"to join by it, stop this site, remove {identity_.directory / 'membership'}, and start it again"
            log.warning("join_token_not_used", file=str(token), why="this site has joined before", cure=cure)
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


def _counted(path: Path) -> Issues:
    try:
        return read(path.read_bytes())
    except OSError:
        return {}


def _recalled(path: Path) -> Noted | None:
    """What was known last, by the wall clock; None if that is not known."""
    try:
        noted = msgspec.json.decode(path.read_bytes(), type=Noted | int)
    except (OSError, ValueError):
        return None
    return Noted(fresh_at=noted, sure_at=noted) if isinstance(noted, int) else noted  # the former version's
