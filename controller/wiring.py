"""A site's wiring plus commit, replicate, rotate; background tasks in one TaskGroup."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from controller.admin import Admin, serve_admin
from controller.authority import HOLDER, Authority
from controller.bootstrap import bootstrap, identity_endpoints
from controller.commit import Sequencer
from controller.housekeeping import keep_house
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.settings import Settings
from controller.sites import Sites
from regional_keystone import logs, wiring
from regional_keystone.errors import Conflict, StoreRefused, Unavailable
from regional_keystone.messages import Request, Response
from regional_keystone.ports import Clock
from regional_keystone.record import Touch

log = structlog.get_logger("controller")

_AGAIN_S = 5.0


class Controller:
    """The global side, in one process."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.authority: Authority
        self.part: wiring.Replica
        self.sequencer: Sequencer
        self.replicator: Replicator
        self.sites: Sites
        self.rotator: Rotator
        self.door: wiring.Door
        self._states: dict[str, str] = {}
        self._sites_changed = asyncio.Event()

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what is on disk and put it together; nothing runs yet."""
        settings, clock = self.settings, self.clock
        state = settings.site.state_dir
        store = await wiring.open_store(state / "log.db")
        stack.push_async_callback(store.close)
        self.authority = Authority.open(state / "authority", clock.now())
        self.part = await wiring.replica(
            settings,
            clock,
            store,
            name=HOLDER,
            cluster=self.authority.cluster,
            box=self.authority.box,
            signers=(self.authority.signer_key,),
            leads=True,
        )
        self._build_global()
        cache = wiring.region_cache(settings)
        self.door = wiring.door(settings, self.part, committer=self.sequencer, cache=cache)
        stack.push_async_callback(self.door.close)
        wiring.export(self.part, self.door)
        tell = self.door.metrics.tell
        tell("commits", lambda: self.sequencer.committed)
        tell("commit_batches", lambda: self.sequencer.batches)
        tell("collisions", lambda: self.sequencer.collisions)
        tell("rotations", lambda: {"token": self.rotator.turns})
        tell("sites", lambda: Counter(self._states.values()))
        self.replicator.answer = self._answer
        self.replicator.heard = self._heard
        self.part.follower.watchers.append(self._saw)

    def _build_global(self) -> None:
        settings, clock, part = self.settings, self.clock, self.part
        self.sequencer = Sequencer(store=part.store, follower=part.follower, clock=clock)
        shared: dict[str, Any] = {"overlay": part.overlay, "sequencer": self.sequencer, "clock": clock}
        self.replicator = Replicator(
            cluster=self.authority.cluster, store=part.store, keep_s=wiring.keep_s(settings), **shared
        )
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=self.authority,
            holder=part.holder,
            certificate_s=settings.stream.certificate_lifetime_s,
            invitation_s=settings.stream.join_token_s,
            advertised=(self.advertised,),
            **shared,
        )
        self.rotator = Rotator(
            sites=self.sites,
            lock=wiring.local_lock(),
            keep_s=wiring.keep_s(settings),
            deadline_s=settings.keys.acknowledge_deadline_s,
            interval_s=settings.keys.rotation_interval,
            **shared,
        )

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
                replicator=self.replicator,
                follower=self.part.follower,
                clock=self.clock,
                retention_s=self.settings.log.retention_s,
            ),
            self._watch_sites(),
            self._refresh_bundles(),
        ]
        if self.settings.keys.rotation_interval:
            running.append(self.rotator.run())
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
        await self.rotator.setup()
        path = settings.bootstrap.password_file
        if path is None:
            return
        try:
            password = path.read_text().strip()
        except OSError as error:
            raise StoreRefused(f"{path}: {error.strerror}; it should hold the first administrator's password") from None
        await self.bootstrap(settings.bootstrap.username, password)

    async def bootstrap(self, username: str, password: str) -> None:
        """The first domain, roles and administrator, and this controller's own endpoints; what exists stays."""
        settings = self.settings
        await bootstrap(
            self.part.overlay,
            self.sequencer,
            username=username,
            project=settings.bootstrap.project_name,
            password=password,
            rounds=settings.identity.password_hash_rounds,
            now=self.clock.now(),
        )
        listen = settings.listen
        base = listen.public_endpoint or f"http{'s' if listen.tls_cert else ''}://{listen.host}:{listen.port}"
        await identity_endpoints(self.part.overlay, self.sequencer, settings.controller.region, f"{base}/v3")

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        replicator = self.replicator
        names = sorted({*self._states, *replicator.acknowledged, *replicator.sessions})
        return {
            **wiring.common_status(self.part, self.door),
            "name": "controller",
            "state": "leading",
            "cluster": self.authority.cluster,
            "sites": {name: self._site_status(name) for name in names},
        }

    def _site_status(self, name: str) -> dict[str, Any]:
        said = self.replicator.acknowledged.get(name)
        return {
            "state": self._states.get(name, "unknown"),
            "connected": name in self.replicator.sessions,
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
            self._states = {site.id: site.state for site in await self.sites.all()}
            for name, state in self._states.items():
                if state == "quarantined":
                    await self.rotator.take_back(name)
            with suppress(TimeoutError):  # what could not be taken back, because of a full disk say, is tried again
                async with asyncio.timeout(_AGAIN_S):
                    await self._sites_changed.wait()

    def _saw(self, position: int, touched: set[Touch]) -> None:
        del position
        if ("sites",) in touched:
            self._sites_changed.set()

    def _heard(self, site: str) -> None:
        if self._states.get(site) == "quarantined":
            self._sites_changed.set()

    async def _answer(self, request: Request) -> Response:
        return await self.door.api.answer(request, keep=True)


async def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """A controller, until it is cancelled. Raises StoreRefused, ConfigurationError, or OSError for a taken port."""
    logs.configure(settings.default)
    async with AsyncExitStack() as stack:
        stack.enter_context(wiring.only_user(settings.site.state_dir))
        controller = Controller(settings, wiring.system_clock())
        await controller.build(stack)
        await controller.sequencer.start()
        async with wiring.background([controller.part.follower.run(), controller.sequencer.run()]) as group:
            await controller.first()
            await open_stream(stack, controller)
            await wiring.open_doors(stack, settings, controller.part, controller.door, controller.status, _ready)
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
    tls = controller.authority.serve(state / "authority", hosts, controller.clock.now())
    await web.TCPSite(runner, stream.host, stream.port, ssl_context=tls).start()
    admin = Admin(
        sites=controller.sites,
        rotator=controller.rotator,
        overlay=controller.part.overlay,
        sequencer=controller.sequencer,
        status=controller.status,
        bootstrap=controller.bootstrap,
    )
    path = state / "admin.sock"
    stack.callback(path.unlink, missing_ok=True)
    socket = await serve_admin(admin, path)
    stack.push_async_callback(socket.cleanup)


def _ready() -> str | None:
    return None
