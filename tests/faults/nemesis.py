"""What is broken, when and for how long: drawn from the seed alone, so that the same seed breaks the same things."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from controller import ask
from tests.faults import packets
from tests.faults.cluster import CQL, Cluster, Topology
from tests.faults.history import CLOCK, Fault, History
from tests.faults.poison import flush, spoil

_MEMCACHED = 11211
_ATTEMPTS = 3
_FAR_S = 0.05


class Step(NamedTuple):
    """One fault of the schedule: which one, to whom, for how long, and the pause after it."""

    fault: str
    targets: tuple[str, ...]
    seconds: float
    pause_s: float

    def __str__(self) -> str:
        return f"{self.fault} {' '.join(self.targets)} for {self.seconds:.1f} s"


class Nemesis:
    """Does the steps, one after another, and records them."""

    def __init__(self, cluster: Cluster, history: History, topology: Topology, seed: int) -> None:
        self._cluster = cluster
        self._history = history
        self._topology = topology
        self._chance = random.Random(f"nemesis {seed}")
        self._wait = threading.Event().wait

    def do(self, step: Step) -> None:
        KINDS[step.fault].do(self, step)
        self._wait(step.pause_s)

    def heal(self) -> None:
        """Nothing is broken any more, whatever a step left behind."""
        self._cluster.rejoin()
        topology = self._topology
        for name in (*topology.controllers, *topology.sites, *topology.cassandra, *topology.zookeeper):
            self._signal(name, "CONT")
        for name in (*topology.memcached, *topology.proxies):
            self._signal(name, "CONT")
        for name in (*topology.controllers, *topology.sites):
            self._cluster.set_clock(name, 0.0)
        for _ in range(_ATTEMPTS):
            why = self._revive()
            if not why:
                return
        raise RuntimeError(f"it cannot be healed: {why}")

    def _revive(self) -> str:
        """Start what has ended; why it could not be, if it could not: `heal` tries again."""
        try:
            self._cluster.revive()
        except (ask.Refusal, ask.Unanswered) as error:
            return str(error)
        return ""

    @contextmanager
    def _broken(self, what: str, places: Sequence[str], killed: Sequence[str] = ()) -> Iterator[Callable[[], None]]:
        """Call what is given when healing begins."""
        history = self._history
        killed = [one for one in killed if self._answers_clients(one)]
        fault = Fault(number=history.number(), what=what, began=history.now(), places=list(places), killed=killed)
        history.add(msgspec.structs.replace(fault))

        def mending() -> None:
            fault.mending = history.now()

        try:
            yield mending
        finally:
            fault.ended = history.now()
            history.add(fault)

    def _answers_clients(self, name: str) -> bool:
        return name in self._topology.controllers or name in self._topology.sites

    def _signal(self, name: str, number: str) -> None:
        try:
            self._cluster.signal(name, number)
        except ask.Refusal:  # it does not run
            return

    # processes -------------------------------------------------------------------------------------------------------

    def kill(self, step: Step) -> None:
        with self._broken("kill", step.targets, step.targets) as mending:
            with ThreadPoolExecutor(len(step.targets)) as pool:  # at one moment
                list(pool.map(lambda name: self._signal(name, "KILL"), step.targets))
            self._wait(step.seconds)
            mending()
            self._revive()

    def kill_often(self, step: Step) -> None:
        """Again and again, hardly back."""
        for _ in range(4):
            self.kill(step._replace(seconds=0.0))
            self._wait(self._chance.uniform(0, step.seconds / 4))

    def freeze(self, step: Step) -> None:
        with self._broken("freeze", step.targets):
            for name in step.targets:
                self._signal(name, "STOP")
            self._wait(step.seconds)
            for name in step.targets:
                self._signal(name, "CONT")

    def freeze_often(self, step: Step) -> None:
        """For moments: what was begun goes on in the middle."""
        for _ in range(8):
            self.freeze(step._replace(seconds=step.seconds / 20))
            self._wait(step.seconds / 20)

    def kill_frozen(self, step: Step) -> None:
        """What lay in its buffers is lost as well."""
        with self._broken("freeze", step.targets) as mending:
            for name in step.targets:
                self._signal(name, "STOP")
            self._wait(step.seconds)
            mending()
            self.kill(step)

    def restart_alone(self, step: Step) -> None:
        """Sites that come back while no controller answers."""
        controllers = self._topology.controllers
        with self._broken("freeze", controllers):
            for name in controllers:
                self._signal(name, "STOP")
            self._wait(step.seconds / 3)
            self.kill(step._replace(seconds=0.5))
            self._wait(step.seconds)
            for name in controllers:
                self._signal(name, "CONT")

    # streams, by the relay -------------------------------------------------------------------------------------------

    def cut(self, step: Step) -> None:
        """All streams break."""
        with self._broken("cut", self._topology.controllers):
            for relay in self._cluster.relays:
                relay.cut()
            self._wait(step.seconds)
            self._cluster.rejoin()

    def silence(self, step: Step) -> None:
        """Streams stay open and nothing comes through, one way or both."""
        directions = {"up": ("up",), "down": ("down",)}.get(step.targets[0], ())
        with self._broken(f"silence {' '.join(directions)}", self._topology.controllers):
            for relay in self._cluster.relays:
                relay.hold(*directions)
            self._wait(step.seconds)
            self._cluster.rejoin()

    def restart_cut_off(self, step: Step) -> None:
        """Sites that come back while they are cut off from controllers that go on."""
        with self._broken("cut", self._topology.controllers):
            for relay in self._cluster.relays:
                relay.cut()
            self._wait(step.seconds / 3)
            self.kill(step._replace(seconds=0.5))
            self._wait(step.seconds)
            self._cluster.rejoin()

    # packets, by the kernel ------------------------------------------------------------------------------------------

    def cut_region(self, step: Step) -> None:
        """A region without the others: its processes go on among themselves."""
        with self._broken("cut region", step.targets):
            self._sever(step.targets)
            self._wait(step.seconds)
            self._cluster.rejoin()

    def restart_in_cut(self, step: Step) -> None:
        """The node of a region that is cut off dies and comes back before the others can be reached."""
        node = next(one for one in step.targets if one in self._topology.cassandra)
        with self._broken("cut region", step.targets):
            self._sever(step.targets)
            self._wait(step.seconds / 4)
            self._signal(node, "KILL")
            with ThreadPoolExecutor(1) as pool:
                revived = pool.submit(self._revive)  # waits for all to see each other
                self._wait(step.seconds)
                self._cluster.rejoin()
                revived.result()

    def apart(self, step: Step) -> None:
        """No Cassandra node reaches another."""
        with self._broken("nodes apart", step.targets):
            for name in step.targets:
                self._cluster.cut_node(name)
            self._wait(step.seconds)
            self._cluster.rejoin()

    def slow(self, step: Step) -> None:
        """A tenth of a second between the data centres, there and back."""
        with self._broken("far away", step.targets):
            self._cluster.slow(_FAR_S, 0.0)
            self._wait(step.seconds)
            self._cluster.rejoin()

    def slow_and_cut(self, step: Step) -> None:
        """As far away, and one region without the others for most of the time."""
        with self._broken("far away", self._topology.cassandra):
            self._cluster.slow(_FAR_S, 0.0)
            self._wait(step.seconds / 4)
            self.cut_region(step)

    def lossy(self, step: Step) -> None:
        """A part of what the data centres send each other is lost, and comes again, later."""
        with self._broken("packets lost", step.targets):
            self._cluster.slow(_FAR_S / 5, 0.03)
            self._wait(step.seconds)
            self._cluster.rejoin()

    def unanswered(self, step: Step) -> None:
        """A node does what it is asked, and its clients never hear of it: outcomes are unknown."""
        with self._broken("answers lost", step.targets):
            for _ in range(3):
                packets.silence([self._cluster.listens(name, CQL) for name in step.targets])
                self._wait(step.seconds / 4)
                self._cluster.rejoin()
                self._wait(step.seconds / 12)

    def kill_unanswered(self, step: Step) -> None:
        """A controller that dies between the append and the answer: it never hears that it was done."""
        node, controller = step.targets
        with self._broken("answers lost", [node]):
            packets.silence([self._cluster.listens(node, CQL)])
            self._wait(self._chance.uniform(0.02, 1.0))
            with self._broken("kill", [controller], [controller]) as mending:
                self._signal(controller, "KILL")
                self._cluster.rejoin()
                self._wait(step.seconds)
                mending()
                self._revive()

    def _sever(self, region: Sequence[str]) -> None:
        cluster = self._cluster
        inside = {pid for name in region for pid in cluster.family(name)}
        outside = {pid for name in cluster.pids() if name not in region for pid in cluster.family(name)}
        packets.sever(inside, outside, cluster.doors)
        for name in set(region) & set(self._topology.cassandra):
            cluster.cut_node(name)

    def kill_leader(self, step: Step) -> None:
        """The one of these servers that leads the others."""
        leader = [name for name in step.targets if self._cluster.leads(name)]
        self.kill(step._replace(targets=tuple(leader or step.targets[:1])))

    # clocks ----------------------------------------------------------------------------------------------------------

    def jump(self, step: Step) -> None:
        """Somebody sets a machine's wall clock ahead, and back again; in between, it is set often."""
        with self._broken(CLOCK, step.targets):
            for _ in range(3):
                for name in step.targets:
                    self._cluster.set_clock(name, self._chance.uniform(2.0, 60.0))
                self._wait(step.seconds / 3)
            for name in step.targets:
                self._cluster.set_clock(name, 0.0)

    # caches and locks ------------------------------------------------------------------------------------------------

    def spoil(self, step: Step) -> None:
        """Another program writes into a region's memcached."""
        with self._broken("cache spoiled", step.targets):
            for _ in range(max(1, int(step.seconds))):
                for name in step.targets:
                    try:
                        spoil(self._cluster.listens(name, _MEMCACHED).address, _MEMCACHED, self._chance)
                    except OSError:
                        continue
                self._wait(1.0)

    def flush(self, step: Step) -> None:
        """Everything in a region's memcached is gone, again and again."""
        with self._broken("cache flushed", step.targets):
            for _ in range(max(1, int(step.seconds))):
                for name in step.targets:
                    with suppress(OSError):
                        flush(self._cluster.listens(name, _MEMCACHED).address, _MEMCACHED)
                self._wait(1.0)


class Kind(NamedTuple):
    """A sort of fault: what does it, whom it may hit, how long it lasts; what it needs."""

    do: Callable[[Nemesis, Step], None]
    whom: Callable[[random.Random, Topology], Sequence[str]]
    least_s: float
    most_s: float
    needs: str = ""


def _controller(chance: random.Random, topology: Topology) -> Sequence[str]:
    return [chance.choice(topology.controllers)]


def _site(chance: random.Random, topology: Topology) -> Sequence[str]:
    return [chance.choice(topology.sites)]


def _some(chance: random.Random, topology: Topology) -> Sequence[str]:
    return chance.sample([*topology.controllers, *topology.sites], k=2)


def _all(chance: random.Random, topology: Topology) -> Sequence[str]:
    del chance
    return [*topology.controllers, *topology.sites]


def _directions(chance: random.Random, topology: Topology) -> Sequence[str]:
    del topology
    return [chance.choice(("up", "down", "both"))]


def _nodes(count: int) -> Callable[[random.Random, Topology], Sequence[str]]:
    return lambda chance, topology: chance.sample(topology.cassandra, k=count)


def _servers(count: int) -> Callable[[random.Random, Topology], Sequence[str]]:
    return lambda chance, topology: chance.sample(topology.zookeeper, k=count)


def _region(chance: random.Random, topology: Topology) -> Sequence[str]:
    return chance.choice(topology.regions)


def _cache(chance: random.Random, topology: Topology) -> Sequence[str]:
    return [chance.choice(topology.memcached)]


def _proxy(chance: random.Random, topology: Topology) -> Sequence[str]:
    del chance
    return topology.proxies


def _node_and_controller(chance: random.Random, topology: Topology) -> Sequence[str]:
    place = chance.randrange(len(topology.controllers))
    return [topology.cassandra[place], topology.controllers[place]]


RELAY, ENGINES, CUTS = "relay", "engines", "cuts"
KINDS = {
    "kill-controller": Kind(Nemesis.kill, _controller, 0.0, 4.0),
    "kill-controller-often": Kind(Nemesis.kill_often, _controller, 1.0, 6.0),
    "kill-site": Kind(Nemesis.kill, _site, 0.0, 3.0),
    "lose-site": Kind(Nemesis.kill, _site, 14.0, 20.0),  # keys are turned twice without it
    "kill-some": Kind(Nemesis.kill, _some, 0.0, 3.0),
    "kill-all": Kind(Nemesis.kill, _all, 0.0, 1.0),
    "freeze-controller": Kind(Nemesis.freeze, _controller, 1.0, 12.0),
    "freeze-often": Kind(Nemesis.freeze_often, _controller, 4.0, 10.0),
    "freeze-site": Kind(Nemesis.freeze, _site, 1.0, 10.0),
    "freeze-all": Kind(Nemesis.freeze, _all, 1.0, 8.0),
    "kill-frozen": Kind(Nemesis.kill_frozen, _some, 1.0, 3.0),
    "restart-alone": Kind(Nemesis.restart_alone, _site, 3.0, 8.0),
    "clock-of-site": Kind(Nemesis.jump, _site, 3.0, 12.0),
    "cut": Kind(Nemesis.cut, _all, 1.0, 12.0, RELAY),
    "cut-long": Kind(Nemesis.cut, _all, 14.0, 20.0, RELAY),
    "silence": Kind(Nemesis.silence, _directions, 2.0, 12.0, RELAY),
    "restart-cut-off": Kind(Nemesis.restart_cut_off, _site, 3.0, 8.0, RELAY),
    "freeze-node": Kind(Nemesis.freeze, _nodes(1), 2.0, 25.0, ENGINES),
    "freeze-two-nodes": Kind(Nemesis.freeze, _nodes(2), 2.0, 25.0, ENGINES),
    "kill-node": Kind(Nemesis.kill, _nodes(1), 0.0, 20.0, ENGINES),
    "kill-two-nodes": Kind(Nemesis.kill, _nodes(2), 0.0, 10.0, ENGINES),
    "kill-all-nodes": Kind(Nemesis.kill, _nodes(3), 0.0, 3.0, ENGINES),
    "freeze-region": Kind(Nemesis.freeze, _region, 2.0, 20.0, ENGINES),
    "freeze-cache": Kind(Nemesis.freeze, _cache, 2.0, 10.0, ENGINES),
    "kill-cache": Kind(Nemesis.kill, _cache, 0.0, 6.0, ENGINES),
    "spoil-cache": Kind(Nemesis.spoil, _cache, 3.0, 8.0, ENGINES),
    "flush-cache": Kind(Nemesis.flush, _cache, 1.0, 5.0, ENGINES),
    "kill-zookeeper": Kind(Nemesis.kill, _servers(1), 0.0, 6.0, ENGINES),
    "kill-zookeeper-leader": Kind(Nemesis.kill_leader, _servers(3), 0.0, 6.0, ENGINES),
    "freeze-zookeeper-quorum": Kind(Nemesis.freeze, _servers(2), 3.0, 15.0, ENGINES),
    "kill-zookeeper-quorum": Kind(Nemesis.kill, _servers(2), 1.0, 8.0, ENGINES),
    "kill-proxy": Kind(Nemesis.kill, _proxy, 0.0, 2.0, ENGINES),
    "cut-region": Kind(Nemesis.cut_region, _region, 3.0, 30.0, CUTS),
    "restart-node-cut-off": Kind(Nemesis.restart_in_cut, _region, 45.0, 55.0, CUTS),
    "nodes-apart": Kind(Nemesis.apart, _nodes(3), 2.0, 15.0, CUTS),
    "cut-node": Kind(Nemesis.apart, _nodes(1), 2.0, 25.0, CUTS),
    "far-away": Kind(Nemesis.slow, _nodes(3), 5.0, 20.0, CUTS),
    "far-away-and-cut": Kind(Nemesis.slow_and_cut, _region, 5.0, 20.0, CUTS),
    "packets-lost": Kind(Nemesis.lossy, _nodes(3), 3.0, 12.0, CUTS),
    "answers-lost": Kind(Nemesis.unanswered, _nodes(1), 4.0, 12.0, CUTS),
    "kill-unanswered": Kind(Nemesis.kill_unanswered, _node_and_controller, 0.0, 2.0, CUTS),
}


def kinds_for(cluster: Cluster) -> list[str]:
    """Those that can be done to this federation by this user."""
    can = {"": True, RELAY: bool(cluster.relays), ENGINES: cluster.engines, CUTS: cluster.can_cut}
    return [name for name, kind in KINDS.items() if can[kind.needs]]


def schedule(seed: int, kinds: Sequence[str], topology: Topology) -> Iterator[Step]:
    """Steps for ever: all kinds in a new order, again and again."""
    chance, kinds = random.Random(f"schedule {seed}"), list(kinds)
    while True:
        chance.shuffle(kinds)
        for name in kinds:
            kind = KINDS[name]
            targets = tuple(kind.whom(chance, topology))
            yield Step(name, targets, chance.uniform(kind.least_s, kind.most_s), chance.uniform(0.5, 3.0))
