"""A controller and sites in one event loop: real stores, real TLS on loopback, everything but the Identity API."""

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp import web

from controller.acknowledgements import Acknowledged, Acknowledgements
from controller.authority import HOLDER, Authority
from controller.commit import Sequencer
from controller.compromise import Compromise
from controller.counterpart import Counterpart
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.sealed_tokens import SealedTokens
from controller.signing_keys import SigningKeys
from controller.sites import Sites
from controller.turning import Terms
from regional_keystone.adapters.local import LocalLock, LocalWake, SystemClock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.convergence import Comparing
from regional_keystone.digest import digest
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.follow import Follower
from regional_keystone.holder import CREDENTIAL, RECEIPT, Holder
from regional_keystone.link import Link
from regional_keystone.log import LOG, Put, put
from regional_keystone.messages import VERSION, Hello, at_site, encode
from regional_keystone.model import Project, RevocationEvent
from regional_keystone.overlay import Overlay, transact
from regional_keystone.own_feed import OwnFeed
from regional_keystone.record import Record, decode
from regional_keystone.refresh import Refresh
from regional_keystone.revocation import Traits
from regional_keystone.shared import REPAIRED, note_repair
from regional_keystone.signer_chain import Chain, root
from regional_keystone.signing import CONTROLLER, Signatory
from regional_keystone.survey import Survey

KEEP_S = 180_000.0
SECOND = 1_000_000
TERMS = Terms(
    lifetime_us=3600 * SECOND, allow_expired_us=7200 * SECOND, isolation_us=169_138 * SECOND, skew_us=62 * SECOND
)


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
        self.signs = False

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

    def void(self, **traits) -> bool:
        """Whether a token with these traits, issued at the beginning of time unless said otherwise, is refused here."""
        found = {"issued_at": 0, "expires_at": 10**18, "audit_id": "another"} | traits
        return self.follower.index.voided(Traits(**found))

    async def digest(self) -> tuple[int, str]:
        async with self.store.snapshot() as snapshot:
            return await digest(snapshot)

    def follow(self, name, cluster, box, signers, *, leads=False, owner=None) -> None:
        keys = self.directory / "jws-keys"
        self.signatory = Signatory(
            owner or name, cluster, keys / "private", keys / "public", signs=self.signs, clock=self.clock
        )
        self.signatory.load()
        self.holder = Holder(name, cluster, box, signers, self.directory / "keys")
        self.credentials = Holder(name, cluster, box, signers, self.directory / "credential-keys", of=CREDENTIAL)
        self.receipts = Holder(name, cluster, box, signers, self.directory / "receipt-keys", of=RECEIPT)
        for one in (self.holder, self.credentials, self.receipts):
            one.memory = self.directory / f"{one.of}.epoch"
            one.load()
        self.overlay = Overlay(self.store)
        self.follower = Follower(
            store=self.store,
            overlay=self.overlay,
            holder=self.holder,
            clock=self.clock,
            lifetime_s=KEEP_S,
            leads=leads,
            signatory=self.signatory,
            others=(self.credentials, self.receipts),
        )


class ControllerNode(Node):
    """With `log` and `authority` of another it is a second controller on the same store."""

    def __init__(self, directory: Path, *, deadline_s: float = 2.0, terms: Terms = TERMS, beside=None) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.deadline_s, self.terms = deadline_s, terms
        self.counter, self.poll_s = 0, 0.05
        self.log_path = beside.log_path if beside else directory / "log.db"
        self.authority_dir = beside.authority_dir if beside else directory / "authority"
        self.shared = beside is not None
        self.peers = []
        self.wrap = lambda store: store
        self.lock, self.wake = LocalLock(), LocalWake()

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.store = self.wrap(await Sqlite.open(self.log_path))
        self.stack.push_async_callback(self.store.close)
        self.authority = Authority.open(self.authority_dir, self.clock.now())
        signers = (self.authority.signer_key,)
        leads = not self.shared
        owner = f"{CONTROLLER}{self.directory.name}"
        self.follow(HOLDER, self.authority.cluster, self.authority.box, signers, leads=leads, owner=owner)
        self.follower.chain = Chain(root(self.authority.cluster, signers[0]), self.follower.holders.values())
        self.sequencer = Sequencer(store=self.store, follower=self.follower, clock=self.clock, wake=self.wake)
        self.acknowledgements = Acknowledgements(store=self.store, clock=self.clock, controller=self.directory.name)
        shared = {"overlay": self.overlay, "sequencer": self.sequencer, "clock": self.clock}
        self.replicator = Replicator(
            cluster=self.authority.cluster,
            store=self.store,
            acknowledgements=self.acknowledgements,
            keep_s=KEEP_S,
            **shared,
        )
        self.survey = Survey(self.store, self.clock, 1.0, expects=True)
        self.survey.watch(self.follower)
        self.counterpart = Counterpart(survey=self.survey, store=self.store, clock=self.clock, share=1.0)
        self.replicator.compare, self.replicator.converged = self.counterpart.answer, self.counterpart.heard
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=self.authority,
            holders=self.follower.holders,
            terms=self.terms,
            certificate_s=3600.0,
            invitation_s=60.0,
            advertised=(self.url, *(peer.url for peer in self.peers)),
            **shared,
        )
        self.sites.chain = self.follower.chain
        self.compromise = Compromise(
            sites=self.sites, terms=self.terms, issued_here=self.follower.issues.told, **shared
        )
        self.follower.watchers.append(self.compromise.saw)
        self.rotator = Rotator(
            sites=self.sites,
            lock=self.lock,
            terms=self.terms,
            deadline_s=self.deadline_s,
            **shared,
        )
        self.signing_keys = SigningKeys(
            sites=self.sites,
            cluster=self.authority.cluster,
            terms=self.terms,
            deadline_s=self.deadline_s,
            **shared,
        )
        self.sealed_tokens = SealedTokens(
            terms=self.terms, owner=owner, signs=self.signs, issued_here=self.follower.issues.told, **shared
        )
        self.replicator.offered = self.signing_keys.hear
        self.replicator.heard = lambda _: self.signing_keys.stir()
        await self.survey.start()
        await self.sequencer.start()
        self.background(self.follower.run(), self.sequencer.run(), self.acknowledgements.run())
        self.background(self.signing_keys.run(self.signatory))
        if self.shared:
            self.background(self.sequencer.follow(self.poll_s), self._review())
        await self.rotator.setup()
        self.background(self.compromise.run())
        await self._open_stream()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def _review(self) -> None:
        """As the wiring does it when the sites have changed."""
        changed = asyncio.Event()
        self.follower.watchers.append(lambda _, touched: changed.set() if ("sites",) in touched else None)
        while True:
            await changed.wait()
            changed.clear()
            await self.replicator.review(await self.sites.all())

    async def _open_stream(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/stream/v1", self.replicator.stream), *self.sites.routes()])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        tls = self.authority.serve(self.directory, ["127.0.0.1"], self.clock.now())
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls, reuse_address=True).start()

    def acknowledged(self, site: str) -> Acknowledged:
        """What counts here of what this site has said; nothing is an empty word."""
        return self.acknowledgements.word(site) or Acknowledged()

    async def log(self):
        """Every entry of the log that was not pruned."""
        entries, after = [], 0
        while page := await self.store.tail(LOG, after):
            entries += page
            after = page[-1].number
        return entries

    async def revocations(self) -> list[RevocationEvent]:
        """Every revocation that ever was put into the log, in order."""
        changes = [change for entry in await self.log() for change in entry.changes]
        return [
            decode(RevocationEvent, one.row) for one in changes if isinstance(one, Put) and one.table == "revocations"
        ]

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
        self.controllers: tuple[str, ...] | None = None
        self.wrap = lambda store: store

    async def join(self, token: str) -> None:
        await self.identity.join(JoinToken.read(token))

    async def start(self) -> None:
        member = self.identity.membership()
        self.store = self.wrap(await Sqlite.open(self.directory / "replica.db"))
        self.stack.push_async_callback(self.store.close)
        trusted, path = self.identity.trusted(), self.identity.chain_path
        self.follow(member.name, member.cluster, self.identity.box(), trusted.signers)
        self.follower.chain = Chain(trusted, self.follower.holders.values(), path)
        own_store = await Sqlite.open(self.directory / "own" / "inc.db")
        self.stack.push_async_callback(own_store.close)
        self.own = OwnFeed(f"{self.name}/inc", store=own_store, follower=self.follower, clock=self.clock)
        await self.follower.start()
        await self.own.start()
        self.late = asyncio.Queue()
        self.follower.late = self.late.put_nowait
        self.link = Link(
            identity=self.identity,
            controllers=self.controllers or member.controllers,
            follower=self.follower,
            own=self.own,
            store=self.store,
            clock=self.clock,
            skew_s=2.0,
        )
        self.survey = Survey(self.store, self.clock, 1.0)
        await self.survey.start()
        self.survey.watch(self.follower)
        self.comparing = Comparing(
            survey=self.survey,
            store=self.store,
            refresh=Refresh(self.follower, self.own.after),
            ask=self.link.ask,
            tell=self.link.tell,
            clock=self.clock,
            interval_s=30.0,
            note_repair=partial(note_repair, self.directory / REPAIRED),
        )
        self.background(self.follower.run(), self.link.run(), self._answer_late())

    async def _answer_late(self) -> None:
        while True:
            await self.own.revoke(await self.late.get())

    async def revoke(self, audit_id: str) -> None:
        """Revoke a token here, as its owner may."""
        await self.own.revoke([event(audit_id, self.clock.now(), audit_id=audit_id)])

    async def settled(self, position: int, within_s: float = 10.0) -> None:
        assert await self.follower.reached(position, within_s), (self.name, self.follower.position, position)
        assert await self.follower.settled(position, within_s), (self.name, self.follower.projected, position)


class Cloud:
    """Controller and sites, all started, all holding the ring."""

    def __init__(
        self, directory: Path, names=("RegionOne", "RegionTwo", "RegionThree"), *, signs=False, **settings
    ) -> None:
        self.controller = ControllerNode(directory / "controller", **settings)
        self.sites = {name: SiteNode(name, directory / name) for name in names}
        for node in (self.controller, *self.sites.values()):
            node.signs = signs

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


class Wire:
    """A proxy between a site and the controller that can be cut, and can swallow what goes up or down."""

    def __init__(self, port: int) -> None:
        self.port, self.target = free_port(), port
        self.whole = True
        self.flows = {"up": asyncio.Event(), "down": asyncio.Event()}
        self.writers = set()
        self.tasks = set()
        self.bytes = {"up": 0, "down": 0}
        for flow in self.flows.values():
            flow.set()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        self.cut()
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self) -> None:
        self.whole = False
        for writer in self.writers:
            writer.transport.abort()
        self.writers = set()

    def mend(self) -> None:
        self.whole = True

    def hold(self, *directions) -> None:
        for direction in directions or self.flows:
            self.flows[direction].clear()

    def release(self) -> None:
        for flow in self.flows.values():
            flow.set()

    async def _serve(self, reader, writer) -> None:
        self.tasks.add(asyncio.current_task())
        if not self.whole:
            writer.transport.abort()
            return
        with suppress(OSError, asyncio.CancelledError):  # the server complains of tasks that were cancelled
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self.writers |= {writer, far_writer}
            up = asyncio.create_task(self._pump(reader, far_writer, "up"))
            down = asyncio.create_task(self._pump(far_reader, writer, "down"))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                far_writer.transport.abort()
        writer.transport.abort()

    async def _pump(self, reader, writer, direction) -> None:
        while data := await reader.read(65536):
            await self.flows[direction].wait()
            self.bytes[direction] += len(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def running(directory: Path, names=("RegionOne", "RegionTwo"), **settings):
    """A cloud that is up; nothing of it is left afterwards."""
    cloud = Cloud(directory, names, **settings)
    try:
        yield await cloud.start()
    finally:
        await cloud.stop()


@asynccontextmanager
async def wired(cloud, name):
    """The site behind a wire that can be cut; it was started anew for that."""
    wire = Wire(cloud.controller.port)
    await wire.start()
    site = cloud.sites[name]
    await site.stop()
    site.controllers = (wire.url,)
    await site.start()
    try:
        await eventually(lambda: site.link.connected_since is not None)
        await site.settled(cloud.controller.sequencer.head)
        yield wire
    finally:
        await wire.stop()


@asynccontextmanager
async def stream(site, controller, /, *, tls=None, **changes):
    """A site's stream by hand: what was answered to its Hello, and the socket."""
    member = site.identity.membership()
    said = {
        "version": VERSION,
        "cluster": member.cluster,
        "site": member.name,
        "instance": member.instance,
        "position": 0,
    }
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{controller.port}/stream/v1"
        async with session.ws_connect(url, ssl=tls or site.identity.tls(), max_msg_size=2**23) as socket:
            await socket.send_bytes(encode(Hello(**(said | changes))))
            yield at_site(await socket.receive_bytes(timeout=5)), socket


async def say(socket, message) -> None:
    await socket.send_bytes(encode(message))


async def hear(socket, kind, within_s=5.0):
    """The next message of this kind."""
    async with asyncio.timeout(within_s):
        while True:
            message = at_site(await socket.receive_bytes())
            if isinstance(message, kind):
                return message


async def eventually(check, within_s: float = 15.0) -> None:
    """Wait until this holds: long, since a machine that is shared stands still for seconds at times."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < end, "it never came true"
        await asyncio.sleep(0.01)


def event(name: str, at: int, **traits) -> RevocationEvent:
    return RevocationEvent(id=name, issued_before=at, revoked_at=at, keep_until=at + 10**11, **traits)


def project(id_: str, **fields) -> Project:
    return Project(**({"id": id_, "name": id_, "domain_id": "default"} | fields))


def _key(record: Record) -> tuple[str, ...]:
    from regional_keystone.record import facts

    return facts(type(record)).key


def no_tls() -> ssl.SSLContext:
    """TLS that believes everybody, as an attacker would use it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
