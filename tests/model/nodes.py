"""Controllers and sites of the model: the product's own objects, put together as the wirings do it."""

import asyncio
import tempfile
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controller.acknowledgements import Acknowledgements
from controller.authority import HOLDER, Authority, identity
from controller.commit import Sequencer
from controller.compromise import Compromise
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.signing_keys import SigningKeys
from controller.sites import RINGS, Sites
from controller.turning import Terms
from regional_keystone import enrol
from regional_keystone.bundle import Seen
from regional_keystone.enrol import JoinRequest, JoinToken, Membership
from regional_keystone.errors import IdentityError, Unavailable, Unknown
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder, look_after
from regional_keystone.keys import check_value
from regional_keystone.last_issue import LAST_ISSUE, LastIssue
from regional_keystone.link import Link
from regional_keystone.log import LOG
from regional_keystone.overlay import Overlay
from regional_keystone.signing import Signatory
from tests.model.loop import Process
from tests.model.stores import Disk, Rows, Store
from tests.model.wire import Stream

BEGINS = 1_700_000_000
EXPIRY_S, ALLOW_EXPIRED_S, ISOLATION_S, SKEW_S, INTERVAL_S = 4.0, 2.0, 9.0, 0.5, 1.0
TERMS = Terms(
    lifetime_us=int(EXPIRY_S * 1e6),
    allow_expired_us=int(ALLOW_EXPIRED_S * 1e6),
    isolation_us=int(ISOLATION_S * 1e6),
    skew_us=int(SKEW_S * 1e6),
    interval_us=int(INTERVAL_S * 1e6),
)
KEEP_S = EXPIRY_S + ALLOW_EXPIRED_S + ISOLATION_S + SKEW_S
DEADLINE_S, POLL_S = 6.0, 0.3
SHIFT_S = SKEW_S / 4  # two machines and the moments of a turn differ by no more than the skew that is promised


def signing_terms(terms):
    """Of an owner there are never many keys at a time."""
    return terms._replace(interval_us=8_000_000)


@cache
def authority():
    """One for all runs: to make one takes as long as a thousand steps."""
    with tempfile.TemporaryDirectory() as directory:
        return Authority.open(Path(directory), BEGINS * 1_000_000)


@cache
def request_of_a_certificate():
    """Its key is not what is tried here."""
    return enrol._csr(ec.generate_private_key(ec.SECP256R1()), "site")


@cache
def boxes():
    return [X25519PrivateKey.generate() for _ in range(64)]


class Clock:
    """A machine's: its wall clock may be set, its ticks only grow. Implements `ports.Clock`."""

    def __init__(self, loop, shift_s):
        self.shift_s = shift_s
        self._loop = loop
        self._boot_s = loop.random.random() * 1000

    def now(self):
        return int((BEGINS + self._loop.time() + self.shift_s) * 1_000_000)

    def ticks(self):
        return self._loop.time() + self._boot_s

    async def sleep(self, seconds):
        await asyncio.sleep(max(0.0, seconds))


class Faults:
    """What befalls a process' way to its store."""

    def __init__(self, loop):
        self.away = False
        self.lossy = 0.0
        self._loop = loop

    def append(self):
        draw = self._loop.random.random()
        if draw < self.lossy:
            return "nothing done" if draw < self.lossy / 2 else "not heard"
        return None


class Machine:
    """What outlives processes: disk, clock, replica; and the process that runs on it, if one does."""

    terms, keep_s, isolation_s = TERMS, KEEP_S, ISOLATION_S

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.loop = world.loop
        self.clock = Clock(world.loop, world.loop.random.uniform(-SHIFT_S, SHIFT_S))
        world.machines += 1
        self.disk = Disk(world.root / f"{world.machines}-{name}")
        self.faults = Faults(world.loop)
        self.process = None
        self.ready = False

    @property
    def runs(self):
        return self.process is not None

    def begin(self):
        self.process = Process(self.name)
        self.loop.spawn(self.process, self._live(self.process))

    def kill(self):
        if self.process is not None:
            self.loop.kill(self.process)
            self.process, self.ready = None, False
            self._died()

    def _died(self):
        pass

    async def _live(self, process):
        while True:  # a supervisor starts it again, until it comes up
            try:
                await self._start(process)
                return
            except (IdentityError, Unknown):
                await asyncio.sleep(0.5)

    async def _settle_signing(self):
        """As the wiring does it."""
        while True:
            await self.clock.sleep(1.0)
            if await self.signatory.look_after():
                self.follower.progressed()

    def _look_after(self):
        return look_after(self.follower.holders.values(), self.clock, self.follower.progressed)

    def follow(self, name, cluster, box, signers, store, **more):
        rings = [Holder(name, cluster, box, signers, self.disk.root / of, of=of) for of in RINGS]
        for one in rings:
            one.memory = self.disk.root / f"{one.of}.epoch"
            one.load()
        self.holder = rings[0]
        self.overlay = Overlay(store)
        self.follower = Follower(
            store=store,
            overlay=self.overlay,
            holder=rings[0],
            clock=self.clock,
            lifetime_s=self.keep_s,
            others=rings[1:],
            isolation_s=self.isolation_s,
            **more,
        )


class Controller(Machine):
    """One of several on the same log."""

    async def _start(self, process):
        loop, world = self.loop, self.world
        self.ready = False
        store = Store(world.rows, loop, self.faults, world.judge.appended)
        mine = world.authority
        self.follow(HOLDER, mine.cluster, mine.box, (mine.signer_key,), store)
        self.sequencer = Sequencer(store=store, follower=self.follower, clock=self.clock, wake=world.wake)
        self.acknowledgements = Acknowledgements(store=store, clock=self.clock, controller=self.name)
        shared = {"overlay": self.overlay, "sequencer": self.sequencer, "clock": self.clock}
        self.replicator = Replicator(
            cluster=mine.cluster, store=store, acknowledgements=self.acknowledgements, keep_s=self.keep_s, **shared
        )
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=mine,
            holders=self.follower.holders,
            terms=self.terms,
            certificate_s=3600.0,
            invitation_s=60.0,
            advertised=("https://c",),
            **shared,
        )
        self.rotator = Rotator(
            sites=self.sites,
            lock=world.lock,
            terms=self.terms,
            deadline_s=DEADLINE_S,
            **shared,
        )
        self.signing_keys = SigningKeys(
            sites=self.sites, cluster=mine.cluster, terms=signing_terms(self.terms), deadline_s=DEADLINE_S, **shared
        )
        self.replicator.offered = self.signing_keys.hear
        self.replicator.heard = lambda site: self.signing_keys.stir()
        self.compromise = Compromise(
            sites=self.sites, terms=self.terms, issued_here=self.follower.issues.told, **shared
        )
        self.follower.watchers.append(self.compromise.saw)
        self._open()
        await self.sequencer.start()
        for task in (self.follower.run(), self.sequencer.run(), self._look_after()):
            loop.spawn(process, task)
        await self.rotator.setup()
        for task in (
            self.acknowledgements.run(),
            self.sequencer.follow(POLL_S),
            self._watch_sites(),
            self.compromise.run(),
            self.signing_keys.run(),
        ):
            loop.spawn(process, task)
        if world.turns_itself:
            loop.spawn(process, self.rotator.run())
        self.ready = True

    def _open(self):
        """What this model asks of a controller beside its keys."""

    def _died(self):
        for site in self.world.sites.values():
            if site.stream is not None and site.stream.controller is self:
                site.stream.break_()

    async def _watch_sites(self):
        """As the wiring does it."""
        while True:
            try:
                sites = await self.sites.all()
                await self.replicator.review(sites)
                for site in sites:
                    lacks = site.state == "quarantined" and await self.signing_keys.lacks(site)
                    if site.state == "quarantined" and not site.by_operator and not lacks:
                        await self.rotator.take_back(site.id)
            except IdentityError:
                pass
            await self.clock.sleep(1.0)

    def serve(self, stream, certificate):
        """A site has opened a stream."""
        stream.controller = self
        self.loop.spawn(self.process, self._serve(stream, certificate))

    async def _serve(self, stream, certificate):
        try:
            await self.replicator.converse(stream.down, certificate)
        except (ConnectionError, TypeError, TimeoutError):
            pass
        stream.end(stream.down)


class NoFeed:
    """A site that has nothing of its own to tell."""

    name = "site/inc"

    async def start(self):
        pass

    async def after(self, number):
        return []

    async def returned(self):
        pass


class SiteLink(Link):
    """The product's, on streams of the model."""

    site = None

    async def _session(self, controller):
        site = self.site
        await asyncio.sleep(self._clock._loop.latency_s())
        found = site.world.controllers[controller]
        if site.held or site.cut or not found.runs or not found.ready:
            raise ConnectionRefusedError("nobody answers")
        if site.stream is not None:
            site.stream.break_()
        site.stream = stream = Stream(site.loop, site, site.world.count)
        found.serve(stream, identity(site.world.authority.cluster, site.name, site.instance))
        try:
            await self._converse(stream.up, controller)
        finally:
            stream.end(stream.up)


class Site(Machine):
    """One region's site, which may join, and be removed."""

    def __init__(self, world, name, number):
        super().__init__(world, name)
        self.box = boxes()[number % len(boxes())]
        self.instance = f"{number:032x}"
        self.replica = Rows()
        self.noted = None
        self.stream = self._last = None
        self.loss = self.disorder = 0.0
        self.slowness = 1.0
        self.held = self.cut = False
        self.backup = None
        self.went_back = False  # it was restored from a backup, and has not caught up with what it had acknowledged
        self.had = 0  # so far its replica was when it was restored
        self.joined = False
        self.holder = None
        self.clock_is_right = True

    @property
    def ring(self):
        """The ring in use; None for a site that does not answer yet."""
        return self.holder._ring if self.ready else None

    def _died(self):
        self._let_go()
        if self.stream is not None:
            self.stream.break_()

    def _let_go(self):
        last, self._last = self._last, None
        if last is not None:
            last.close()

    async def join(self, controller):
        """By an invitation of this controller."""
        token = JoinToken.read(await controller.sites.invite(self.name))
        public = self.box.public_key().public_bytes_raw()
        request = JoinRequest(
            name=self.name, secret=token.secret, instance=self.instance, csr=request_of_a_certificate(), box_key=public
        )
        self._welcomed(await self._answered(controller, request))
        self.joined = True

    async def _answered(self, controller, request):
        """It asks until it is answered, at whichever controller there is."""
        for _ in range(30):
            with suppress(Unavailable, Unknown, TimeoutError):
                async with asyncio.timeout(3.0):
                    return await controller.sites.join(request)
            await asyncio.sleep(0.5)
            controller = next((one for one in self.world.controllers.values() if one.ready), controller)
        raise Unavailable("nobody answers")

    def _welcomed(self, welcome):
        """What this model keeps of the answer."""

    async def _start(self, process):
        mine = self.world.authority
        member = Membership(
            cluster=mine.cluster,
            name=self.name,
            instance=self.instance,
            controllers=tuple(self.world.controllers),
            signers=(mine.signer_key,),
        )
        store = Store(self.replica, self.loop, self.faults)
        place = self.disk.root / "jws"
        self.signatory = Signatory(
            self.name, mine.cluster, place / "private", place / "public", signs=True, clock=self.clock
        )
        self.signatory.load()
        self.follow(self.name, mine.cluster, self.box, (mine.signer_key,), store, signatory=self.signatory)
        own = self._own(store)
        self._let_go()
        otherwise = self.noted.lived_until if self.noted else 0
        self._last = last = LastIssue(self.disk.root / LAST_ISSUE, otherwise=otherwise)
        self.follower.recall(self.noted, last.until())
        self.follower.issued.keep = last.note
        await self.follower.start()
        await own.start()
        self.link = link = SiteLink(
            identity=SimpleNamespace(membership=lambda: member, cas=Seen(0, "")),
            controllers=member.controllers,
            follower=self.follower,
            own=own,
            store=store,
            clock=self.clock,
            skew_s=2.0,
        )
        link.site = self
        self._open(process, own, store)
        for task in (
            self.follower.run(),
            link.run(),
            self._note_freshness(),
            self._look_after(),
            self._settle_signing(),
        ):
            self.loop.spawn(process, task)
        self.ready = True

    def _own(self, store):
        return NoFeed()

    def _open(self, process, own, store):
        """What this model asks of a site beside its keys."""

    async def _note_freshness(self):
        """As `site` does it."""
        while True:
            noted = self.follower.noted()
            if noted is not None:
                self.noted = noted
            await self.clock.sleep(1.0)

    def seal(self):
        """A token and its key's id, as `issue` makes it; None where it refuses to."""
        if self.follower.why_not_seal() is not None:
            return None
        try:
            number = self.follower.sealing_number()
        except IdentityError:
            return None
        return self.ring.seal(b"token", self.clock.now(), number=number), check_value(self.ring.numbers[number])

    def sign(self):
        """The id of the key with which this site signs a token now; None where it refuses to."""
        if self.follower.why_not_seal() is not None:
            return None
        try:
            self.signatory.check()
        except IdentityError:
            return None
        return self.signatory.key_id

    def save(self):
        """A backup of all that it has."""
        self.disk.save()
        self.backup = self.replica.copy(), self.noted, self.loop.time()

    def restore(self):
        """The machine as it was when the backup was made."""
        self.disk.restore()
        self.had = max(self.had, self.replica.applied)
        replica, self.noted, _ = self.backup
        self.replica = replica.copy()
        self.went_back = True


class Locks:
    """A lock service as bad as it may be: who holds a lock may not know that it was lost; two may hold it."""

    def __init__(self, loop):
        self.held = {}
        self.trusty = 0.7  # how often it is right
        self.silent = 0.3  # how often, when it is not, it says nothing
        self.count = Counter()
        self._loop = loop

    @asynccontextmanager
    async def hold(self, name):
        await asyncio.sleep(self._loop.latency_s())
        holder, mine = self.held.get(name), _Hold()
        right = self._loop.random.random() < self.trusty
        if not right and self._loop.random.random() < self.silent:
            raise Unavailable("The lock service does not answer.")
        if holder is not None and right and self._loop.time() < holder.until:
            yield False
            return
        if holder is not None and holder.believed:
            self.count["lock held by two"] += 1
        mine.until = self._loop.time() + 4.0
        self.held[name] = mine
        try:
            yield mine
        finally:
            if self.held.get(name) is mine:
                del self.held[name]

    def lose(self):
        """Whoever holds a lock learns that it is lost."""
        for hold in self.held.values():
            hold.believed = False
        self.count["lock lost"] += len(self.held)
        self.held.clear()


class _Hold:
    def __init__(self):
        self.believed = True
        self.until = 0.0

    def __bool__(self):
        return self.believed


class Wakes:
    """Tells nobody."""

    def tell(self, position):
        pass

    def listen(self, heard):
        pass


def key_ids(ring):
    """The ids of a ring's keys."""
    return {check_value(key) for key in ring.numbers.values()}


def primary_id(ring):
    return check_value(ring.numbers[ring.primary])


__all__ = ["LOG", "Controller", "Locks", "Site", "Wakes"]
