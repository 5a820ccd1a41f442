"""A site's wiring plus commit, replicate, rotate; background tasks in one TaskGroup."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from controller.acknowledgements import Acknowledgements
from controller.admin import Admin, serve_admin
from controller.authority import HOLDER, Authority
from controller.bootstrap import bootstrap, identity_endpoints
from controller.commit import Sequencer
from controller.credential_keys import CredentialKeys
from controller.housekeeping import keep_house
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.settings import Settings
from controller.sites import Sites
from controller.sweep import Sweeper
from controller.trusts import Trusts
from regional_keystone import backends, logs, secret_file, wiring
from regional_keystone.bundle import read_header
from regional_keystone.errors import Conflict, StoreRefused, Unavailable
from regional_keystone.holder import TOKEN
from regional_keystone.messages import Request, Response
from regional_keystone.model import Ring
from regional_keystone.passwords import recipe
from regional_keystone.ports import Clock, Lock, Wake, Writer
from regional_keystone.record import Touch

log = structlog.get_logger("controller")

READY_S = 3.0  # what is known of a log that others write may be so old at a controller that is asked
_AGAIN_S = 5.0
Store = Callable[[], Awaitable[Writer]]


class Controller:
    """The global side, in one process."""

    def __init__(self, settings: Settings, clock: Clock, shared: Store | None = None) -> None:
        """`shared` opens a log to which other controllers append as well; without it, it is what is configured."""
        self.settings = settings
        self.clock = clock
        self.lock: Lock = backends.local_lock()
        self.wake: Wake = backends.local_wake()
        self._shared = shared
        self._is_shared = bool(shared or settings.cassandra.contact_points)
        self.authority: Authority
        self.part: wiring.Replica
        self.sequencer: Sequencer
        self.acknowledgements: Acknowledgements
        self.replicator: Replicator
        self.sites: Sites
        self.rotator: Rotator
        self.credential_keys: CredentialKeys
        self.trusts: Trusts
        self.sweeper: Sweeper
        self.door: wiring.Door
        self._states: dict[str, str] = {}
        self._sites_changed = asyncio.Event()

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what is on disk and put it together; nothing runs yet."""
        settings, clock = self.settings, self.clock
        store = await (self._shared() if self._shared else backends.open_log(settings, clock))
        stack.push_async_callback(store.close)
        await self._coordinate(stack)
        self.authority = Authority.open(self.authority_dir, clock.now())
        self.part = await wiring.replica(
            settings,
            clock,
            store,
            name=HOLDER,
            cluster=self.authority.cluster,
            box=self.authority.box,
            signers=(self.authority.signer_key,),
            leads=not self._is_shared,
        )
        self._build_global()
        cache = backends.region_cache(settings)
        current = self.sequencer.catch_up if self._is_shared else None
        self.door = wiring.door(settings, self.part, committer=self.sequencer, current=current, cache=cache)
        stack.push_async_callback(self.door.close)
        wiring.export(self.part, self.door)
        tell = self.door.metrics.tell
        tell("commits", lambda: self.sequencer.committed)
        tell("commit_batches", lambda: self.sequencer.batches)
        tell("collisions", lambda: self.sequencer.collisions)
        tell("rotations", lambda: {"token": self.rotator.turns})
        tell("sites", lambda: Counter(self._states.values()))
        tell("deletions_pending", lambda: len(self.sweeper.pending))
        tell("log_backlog_bytes", lambda: self.sequencer.backlog_bytes)
        self.replicator.answer = self._answer
        self.replicator.heard = self._heard
        self.part.follower.watchers.append(self._saw)

    async def _coordinate(self, stack: AsyncExitStack) -> None:
        zookeeper = self.settings.zookeeper
        if zookeeper.hosts:
            session = await backends.zookeeper(
                zookeeper.hosts,
                path=zookeeper.path,
                name=self.name,
                clock=self.clock,
                session_timeout_s=zookeeper.session_timeout_s,
                username=zookeeper.username,
                password=secret_file.read(zookeeper.password_file, "password") if zookeeper.password_file else "",
                tls_ca=zookeeper.tls_ca,
            )
            stack.push_async_callback(session.close)
            self.lock, self.wake = session, session

    def _build_global(self) -> None:
        settings, clock, part = self.settings, self.clock, self.part
        self.sequencer = Sequencer(store=part.store, follower=part.follower, clock=clock, wake=self.wake)
        self.acknowledgements = Acknowledgements(store=part.store, clock=clock, controller=self.name)
        shared: dict[str, Any] = {"overlay": part.overlay, "sequencer": self.sequencer, "clock": clock}
        self.replicator = Replicator(
            cluster=self.authority.cluster,
            store=part.store,
            acknowledgements=self.acknowledgements,
            keep_s=wiring.keep_s(settings),
            **shared,
        )
        self.trusts = Trusts(keep_s=wiring.keep_s(settings), **shared)
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=self.authority,
            holders=part.follower.holders,
            certificate_s=settings.stream.certificate_lifetime_s,
            invitation_s=settings.stream.join_token_s,
            advertised=(self.advertised, *settings.stream.others),
            **shared,
        )
        self.credential_keys = CredentialKeys(sites=self.sites, **shared)
        self.sweeper = Sweeper(
            overlay=part.overlay,
            sequencer=self.sequencer,
            follower=part.follower,
            lock=self.lock,
            clock=clock,
            keep_s=wiring.keep_s(settings),
        )
        self.rotator = Rotator(
            sites=self.sites,
            lock=self.lock,
            keep_s=wiring.keep_s(settings),
            deadline_s=settings.keys.acknowledge_deadline_s,
            interval_s=settings.keys.rotation_interval,
            **shared,
        )

    @property
    def name(self) -> str:
        """What this one of several controllers is called."""
        return self.settings.controller.name or socket.gethostname()

    @property
    def authority_dir(self) -> Path:
        """Where the federation's CA and signing keys are."""
        return self.settings.controller.authority_dir or self.settings.site.state_dir / "authority"

    @property
    def advertised(self) -> str:
        """Where sites find the stream."""
        stream = self.settings.stream
        return stream.advertise or f"https://{stream.host}:{stream.port}"

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the controller does."""
        running: list[Coroutine[Any, Any, None]] = [
            keep_house(
                store=self.part.store,
                overlay=self.part.overlay,
                sequencer=self.sequencer,
                acknowledgements=self.acknowledgements,
                follower=self.part.follower,
                lock=self.lock,
                clock=self.clock,
                retention_s=self.settings.log.retention_s,
            ),
            self.sweeper.run(),
            self.acknowledgements.run(),
            self._watch_sites(),
            self._refresh_bundles(),
        ]
        if self.settings.keys.rotation_interval:
            running.append(self.rotator.run())
        if self._is_shared:
            running.append(self.sequencer.follow(self.settings.controller.poll_s))
        return running

    async def _refresh_bundles(self) -> None:
        """Once an hour, and again soon after a failure."""
        while True:
            try:
                await self.sites.refresh()
            except (Conflict, Unavailable) as error:
                log.error("bundles_not_refreshed", why=error.message)
                await self.clock.sleep(30.0)
            else:
                await self.clock.sleep(3600.0)

    async def first(self) -> None:
        """What an empty state needs: keys, and with a password file the first administrator and the own endpoints."""
        settings = self.settings
        await self._check_federation()
        await self.rotator.setup()
        await self.credential_keys.setup()
        await self._check_federation()  # another controller may have been first, with an authority of its own
        path = settings.bootstrap.password_file
        if path is None:
            return
        try:
            password = path.read_text().strip()
        except OSError as error:
            raise StoreRefused(f"{path}: {error.strerror}; it should hold the first administrator's password") from None
        await self.bootstrap(settings.bootstrap.username, password)

    async def _check_federation(self) -> None:
        ring = await self.part.overlay.get(Ring, TOKEN)
        if ring is None:
            return
        theirs, mine = read_header(ring.sealed[HOLDER]).cluster, self.authority.cluster
        if theirs != mine:
            raise StoreRefused(
                f"{self.authority_dir} is the authority of federation {mine}, and the log is of federation {theirs};"
                " put a copy of the authority directory of one of its controllers there"
            )

    async def bootstrap(self, username: str, password: str) -> None:
        """The first domain, roles and administrator, and this controller's own endpoints; what exists stays."""
        settings = self.settings
        await bootstrap(
            self.part.overlay,
            self.sequencer,
            username=username,
            project=settings.bootstrap.project_name,
            password=password,
            how=recipe(settings.identity),
            now=self.clock.now(),
        )
        listen = settings.listen
        base = listen.public_endpoint or f"http{'s' if listen.tls_cert else ''}://{listen.host}:{listen.port}"
        await identity_endpoints(self.part.overlay, self.sequencer, settings.controller.region, f"{base}/v3")

    def ready(self) -> str | None:
        """What /readyz says to be missing, None for nothing: others may read the log that cannot be read from here."""
        if self.part.follower.age_s() <= READY_S:
            return None
        return f"the end of the log has not been read for more than {READY_S:g} s"

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        replicator = self.replicator
        names = sorted({*self._states, *self.acknowledgements.said, *replicator.sessions})
        return {
            **wiring.common_status(self.part, self.door),
            "name": "controller",
            "state": "leading",
            "cluster": self.authority.cluster,
            "sites": {name: self._site_status(name) for name in names},
            "deletions": self.sweeper.status(),
        }

    def _site_status(self, name: str) -> dict[str, Any]:
        said = self.acknowledgements.word(name)
        return {
            "state": self._states.get(name, "unknown"),
            "connected": name in self.replicator.sessions,
            "controller": said.controller if said else None,
            "position": said.position if said else None,
            "rings": {ring: {"epoch": held[0], "fingerprint": held[1]} for ring, held in said.rings.items()}
            if said
            else {},
            "acknowledged_at": said.at if said else None,
        }

    async def _watch_sites(self) -> None:
        """Keep the status' view of the sites; take back quarantined ones that have caught up."""
        while True:
            self._sites_changed.clear()
            try:
                await self._look_at_sites()
            except Unavailable as error:  # the store: it is tried again
                log.error("sites_not_read", why=error.message)
            with suppress(TimeoutError):  # what could not be taken back, because of a full disk say, is tried again
                async with asyncio.timeout(_AGAIN_S):
                    await self._sites_changed.wait()

    async def _look_at_sites(self) -> None:
        sites = await self.sites.all()
        self._states = {site.id: site.state for site in sites}
        await self.replicator.review(sites)
        for name, state in self._states.items():
            if state == "quarantined":
                await self.rotator.take_back(name)

    def _saw(self, position: int, touched: set[Touch]) -> None:
        del position
        if ("sites",) in touched:
            self._sites_changed.set()

    def _heard(self, site: str) -> None:
        if self._states.get(site) == "quarantined":
            self._sites_changed.set()

    async def _answer(self, request: Request) -> Response:
        return await self.door.api.answer(request, keep=True)


async def serve(settings: Settings, ready: Callable[[], None], shared: Store | None = None) -> None:
    """A controller, until it is cancelled. Raises StoreRefused, ConfigurationError, or OSError for a taken port."""
    logs.configure(settings.default)
    async with AsyncExitStack() as stack:
        stack.enter_context(backends.only_user(settings.site.state_dir))
        controller = Controller(settings, backends.system_clock(), shared)
        await controller.build(stack)
        await controller.sequencer.start()
        async with wiring.background([controller.part.follower.run(), controller.sequencer.run()]) as group:
            await controller.first()
            await open_stream(stack, controller)
            await wiring.open_doors(
                stack, settings, controller.part, controller.door, controller.status, controller.ready
            )
            for task in controller.tasks():
                group.create_task(task)
            ready()


async def open_stream(stack: AsyncExitStack, controller: Controller) -> None:
    """Open the stream port and the operator's socket until the stack is left."""
    stream, state = controller.settings.stream, controller.settings.site.state_dir
    app = web.Application(client_max_size=64 * 1024)
    app.add_routes([web.get("/stream/v1", controller.replicator.stream), *controller.sites.routes()])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    hosts = list(dict.fromkeys([urlsplit(controller.advertised).hostname or stream.host, stream.host]))
    tls = controller.authority.serve(state, hosts, controller.clock.now())
    await web.TCPSite(runner, stream.host, stream.port, ssl_context=tls).start()
    admin = Admin(
        sites=controller.sites,
        rotator=controller.rotator,
        credential_keys=controller.credential_keys,
        trusts=controller.trusts,
        overlay=controller.part.overlay,
        sequencer=controller.sequencer,
        status=controller.status,
        bootstrap=controller.bootstrap,
        cassandra=bool(controller.settings.cassandra.contact_points),
    )
    path = state / "admin.sock"
    stack.callback(path.unlink, missing_ok=True)
    operators = await serve_admin(admin, path)
    stack.push_async_callback(operators.cleanup)
