"""A controller and sites in one event loop: real stores, real TLS on loopback, everything but the Identity API."""

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from controller.authority import HOLDER, Authority
from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.sites import Sites
from regional_keystone.adapters.local import LocalLock, SystemClock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.digest import digest
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.link import Link
from regional_keystone.log import put
from regional_keystone.overlay import Overlay, transact
from regional_keystone.own_feed import OwnFeed
from regional_keystone.record import Record

KEEP_S = 180_000.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """What a controller and a site have in common: start, kill (nothing is said good-bye to), start again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = SystemClock()
        self.tasks: list[asyncio.Task] = []
        self.stack = AsyncExitStack()

    def background(self, *coroutines) -> None:
        self.tasks += [asyncio.create_task(one) for one in coroutines]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        await self.stack.aclose()
        self.stack = AsyncExitStack()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def digest(self) -> tuple[int, str]:
        async with self.store.snapshot() as snapshot:
            return await digest(snapshot)

    def follow(self, name, cluster, box, signers, *, leads=False) -> None:
        self.holder = Holder(name, cluster, box, signers, self.directory / "keys")
        self.holder.load()
        self.overlay = Overlay(self.store)
        self.follower = Follower(
            store=self.store,
            overlay=self.overlay,
            holder=self.holder,
            clock=self.clock,
            lifetime_s=KEEP_S,
            leads=leads,
        )


class ControllerNode(Node):
    def __init__(self, directory: Path, *, deadline_s: float = 2.0, keep_s: float = KEEP_S) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.deadline_s, self.keep_s = deadline_s, keep_s
        self.counter = 0

    async def start(self) -> None:
        self.store = await Sqlite.open(self.directory / "log.db")
        self.stack.push_async_callback(self.store.close)
        self.authority = Authority.open(self.directory / "authority", self.clock.now())
        signers = (self.authority.signer_key,)
        self.follow(HOLDER, self.authority.cluster, self.authority.box, signers, leads=True)
        self.sequencer = Sequencer(store=self.store, follower=self.follower, clock=self.clock)
        shared = {"overlay": self.overlay, "sequencer": self.sequencer, "clock": self.clock}
        self.replicator = Replicator(cluster=self.authority.cluster, store=self.store, keep_s=self.keep_s, **shared)
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=self.authority,
            holder=self.holder,
            certificate_s=3600.0,
            invitation_s=60.0,
            advertised=(f"https://127.0.0.1:{self.port}",),
            **shared,
        )
        self.rotator = Rotator(
            sites=self.sites,
            lock=LocalLock(),
            keep_s=self.keep_s,
            deadline_s=self.deadline_s,
            interval_s=0,
            **shared,
        )
        await self.sequencer.start()
        self.background(self.follower.run(), self.sequencer.run())
        await self.rotator.setup()
        await self._open_stream()

    async def _open_stream(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/stream/v1", self.replicator.stream), *self.sites.routes()])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        tls = self.authority.serve(self.directory / "authority", ["127.0.0.1"], self.clock.now())
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls, reuse_address=True).start()

    async def write(self, *records: Record, name: str | None = None) -> int:
        """Store these records in one transaction."""

        async def decide(reader):
            changes = []
            for record in records:
                old = await reader.get(type(record), *(getattr(record, key) for key in _key(record)))
                changes.append(put(record, old))
            return changes, None

        self.counter += 1
        _, position = await transact(self.overlay, self.sequencer, name or f"test/{self.port}/{self.counter}", decide)
        return position


class SiteNode(Node):
    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(directory)
        self.name = name
        self.identity = Identity(directory / "identity")

    async def join(self, token: str) -> None:
        await self.identity.join(JoinToken.read(token))

    async def start(self) -> None:
        member = self.identity.membership()
        self.store = await Sqlite.open(self.directory / "replica.db")
        self.stack.push_async_callback(self.store.close)
        self.follow(member.name, member.cluster, self.identity.box(), member.signers)
        own_store = await Sqlite.open(self.directory / "own" / "inc.db")
        self.stack.push_async_callback(own_store.close)
        self.own = OwnFeed(f"{self.name}/inc", store=own_store, follower=self.follower, clock=self.clock)
        await self.follower.start()
        await self.own.start()
        self.link = Link(
            identity=self.identity,
            controllers=member.controllers,
            follower=self.follower,
            own=self.own,
            store=self.store,
            clock=self.clock,
        )
        self.background(self.follower.run(), self.link.run())

    async def settled(self, position: int, within_s: float = 10.0) -> None:
        assert await self.follower.reached(position, within_s), (self.name, self.follower.position, position)
        assert await self.follower.settled(position, within_s), (self.name, self.follower.projected, position)


class Cloud:
    """Controller and sites, all started, all holding the ring."""

    def __init__(self, directory: Path, names=("RegionOne", "RegionTwo", "RegionThree"), **settings) -> None:
        self.controller = ControllerNode(directory / "controller", **settings)
        self.sites = {name: SiteNode(name, directory / name) for name in names}

    async def start(self) -> "Cloud":
        await self.controller.start()
        for name, site in self.sites.items():
            if not site.identity.joined:
                await site.join(await self.controller.sites.invite(name))
            await site.start()
        await self.level()
        return self

    async def level(self, within_s: float = 10.0) -> None:
        """Every site has everything."""
        for site in self.sites.values():
            await site.settled(self.controller.sequencer.head, within_s)

    async def stop(self) -> None:
        for node in (*self.sites.values(), self.controller):
            await node.stop()


def _key(record: Record) -> tuple[str, ...]:
    from regional_keystone.record import facts

    return facts(type(record)).key


def no_tls() -> ssl.SSLContext:
    """TLS that believes everybody, as an attacker would use it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
