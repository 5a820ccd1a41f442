"""What is broken, when and for how long: drawn from the seed alone, so that the same seed breaks the same things."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from controller import ask
from tests.faults.cluster import Cluster
from tests.faults.history import Fault, History


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

    def __init__(self, cluster: Cluster, history: History, controllers: Sequence[str]) -> None:
        self._cluster = cluster
        self._history = history
        self._controllers = list(controllers)
        self._wait = threading.Event().wait

    def do(self, step: Step) -> None:
        FAULTS[step.fault].do(self, step)
        self._wait(step.pause_s)

    def heal(self) -> None:
        """Nothing is broken any more, whatever a step left behind."""
        for relay in self._cluster.relays:
            relay.mend()
        for place in self._cluster.places:
            self._signal(place.name, "CONT")
        self._cluster.revive()

    @contextmanager
    def _broken(self, what: str, places: Sequence[str], killed: Sequence[str] = ()) -> Iterator[None]:
        history = self._history
        fault = Fault(number=history.number(), what=what, began=history.now(), places=list(places), killed=list(killed))
        history.add(fault)
        try:
            yield
        finally:
            ended = Fault(
                number=fault.number,
                what=what,
                began=fault.began,
                ended=history.now(),
                places=fault.places,
                killed=fault.killed,
            )
            history.add(ended)

    def _signal(self, name: str, number: str) -> None:
        try:
            self._cluster.signal(name, number)
        except ask.Refusal:  # it does not run
            return

    def kill(self, step: Step) -> None:
        with self._broken("kill", step.targets, step.targets):
            for name in step.targets:
                self._signal(name, "KILL")
            self._wait(step.seconds)
            self._cluster.revive()

    def kill_often(self, step: Step) -> None:
        """Again and again, hardly back."""
        for _ in range(3):
            self.kill(step._replace(seconds=0.0))
            self._wait(step.seconds / 10)

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
        with self._broken("freeze", step.targets):
            for name in step.targets:
                self._signal(name, "STOP")
            self._wait(step.seconds)
            self.kill(step)

    def restart_alone(self, step: Step) -> None:
        """Sites that come back while no controller answers."""
        with self._broken("freeze", self._controllers):
            for name in self._controllers:
                self._signal(name, "STOP")
            self._wait(step.seconds / 3)
            self.kill(step._replace(seconds=0.5))
            self._wait(step.seconds)
            for name in self._controllers:
                self._signal(name, "CONT")

    def cut(self, step: Step) -> None:
        """All streams break."""
        with self._broken("cut", self._controllers):
            for relay in self._cluster.relays:
                relay.cut()
            self._wait(step.seconds)
            for relay in self._cluster.relays:
                relay.mend()

    def silence(self, step: Step) -> None:
        """Streams stay open and nothing comes through, one way or both."""
        directions = {"up": ("up",), "down": ("down",)}.get(step.targets[0] if step.targets else "", ())
        with self._broken(f"silence {' '.join(directions)}", self._controllers):
            for relay in self._cluster.relays:
                relay.hold(*directions)
            self._wait(step.seconds)
            for relay in self._cluster.relays:
                relay.mend()

    def restart_cut_off(self, step: Step) -> None:
        """Sites that come back while they are cut off from controllers that go on."""
        with self._broken("cut", self._controllers):
            for relay in self._cluster.relays:
                relay.cut()
            self._wait(step.seconds / 3)
            self.kill(step._replace(seconds=0.5))
            self._wait(step.seconds)
            for relay in self._cluster.relays:
                relay.mend()


class Kind(NamedTuple):
    """A sort of fault: what does it, whom it may hit, how long it lasts."""

    do: Callable[[Nemesis, Step], None]
    whom: Callable[[random.Random, list[str], list[str]], Sequence[str]]
    least_s: float
    most_s: float


def _controller(chance: random.Random, controllers: list[str], sites: list[str]) -> Sequence[str]:
    del sites
    return [chance.choice(controllers)]


def _site(chance: random.Random, controllers: list[str], sites: list[str]) -> Sequence[str]:
    del controllers
    return [chance.choice(sites)]


def _some(chance: random.Random, controllers: list[str], sites: list[str]) -> Sequence[str]:
    return chance.sample([*controllers, *sites], k=2)


def _all(chance: random.Random, controllers: list[str], sites: list[str]) -> Sequence[str]:
    del chance
    return [*controllers, *sites]


def _directions(chance: random.Random, controllers: list[str], sites: list[str]) -> Sequence[str]:
    del controllers, sites
    return chance.choice((["up"], ["down"], []))


FAULTS = {
    "kill-controller": Kind(Nemesis.kill, _controller, 0.0, 4.0),
    "kill-controller-often": Kind(Nemesis.kill_often, _controller, 1.0, 6.0),
    "kill-site": Kind(Nemesis.kill, _site, 0.0, 3.0),
    "kill-some": Kind(Nemesis.kill, _some, 0.0, 3.0),
    "kill-all": Kind(Nemesis.kill, _all, 0.0, 1.0),
    "freeze-controller": Kind(Nemesis.freeze, _controller, 1.0, 12.0),
    "freeze-often": Kind(Nemesis.freeze_often, _controller, 4.0, 10.0),
    "freeze-site": Kind(Nemesis.freeze, _site, 1.0, 10.0),
    "freeze-all": Kind(Nemesis.freeze, _all, 1.0, 8.0),
    "kill-frozen": Kind(Nemesis.kill_frozen, _some, 1.0, 3.0),
    "restart-alone": Kind(Nemesis.restart_alone, _site, 3.0, 8.0),
    "cut": Kind(Nemesis.cut, _all, 1.0, 12.0),
    "silence": Kind(Nemesis.silence, _directions, 2.0, 12.0),
    "restart-cut-off": Kind(Nemesis.restart_cut_off, _site, 3.0, 8.0),
}


def schedule(seed: int, only: Sequence[str], controllers: list[str], sites: list[str]) -> Iterator[Step]:
    """Steps for ever: all kinds in a new order, again and again."""
    chance = random.Random(f"schedule {seed}")
    kinds = list(only or FAULTS)
    while True:
        chance.shuffle(kinds)
        for name in kinds:
            kind = FAULTS[name]
            targets = tuple(kind.whom(chance, controllers, sites))
            yield Step(name, targets, chance.uniform(kind.least_s, kind.most_s), chance.uniform(0.5, 3.0))
