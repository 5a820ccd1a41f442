"""The federation under test, as processes: start, break, heal, and look into what it left."""

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller import ask
from controller.engines import wan
from controller.engines.zookeeper import mode
from controller.federation import HOST, Home
from tests.faults.caller import Place
from tests.faults.clocks.sitecustomize import OFFSET_NS
from tests.faults.packets import Door, End, can_cut, mend
from tests.faults.relay import Relay
from tests.processes import RKCTL, free_port, processes, rkctl

SYSTEM_S = 6.0
CQL = 9042
_SETTINGS = (
    f"freshness.system={SYSTEM_S}",
    "identity.password_hash_rounds=4",  # the passwords are not what is tried here
    "keys.acknowledge_deadline_s=4",
)
_ENSEMBLE = (2181, 2888, 3888)
_START_S = 600.0
CLOCKS = Path(__file__).parent / "clocks"


@dataclass(slots=True)
class Topology:
    """Who there is, by name. `regions`: what is in each data centre."""

    controllers: list[str]
    sites: list[str]
    cassandra: list[str] = field(default_factory=list)
    zookeeper: list[str] = field(default_factory=list)
    memcached: list[str] = field(default_factory=list)
    proxies: list[str] = field(default_factory=list)
    regions: list[list[str]] = field(default_factory=list)


class Cluster:
    """`rkctl up`, and what can be done to its processes. Without engines, streams go through a relay."""

    def __init__(self, directory: Path, *, engines: bool = False) -> None:
        self.home = Home.at(directory)
        self.engines = engines
        self.relays: list[Relay] = []
        self._is_ours = True
        self.can_cut = engines and can_cut() and not wan.why_not()

    def start(self, *words: str) -> None:
        """What does not run yet. Raises RuntimeError with what `rkctl` said."""
        if self.engines and self.home.holder() is not None:
            self._is_ours = False
            return
        told = list(_SETTINGS)
        if self.engines:
            words = ("--engines", *words)
        else:
            self.relays = [Relay(self._stream_of(0)).start()]
            told.append("site.controllers=" + ",".join(f"https://{HOST}:{relay.port}" for relay in self.relays))
        sets = [word for one in told for word in ("--set", one)]
        state = ["--state", str(self.home.directory)]
        if not (self.home.directory / "ports.json").exists():
            state += ["--port", str(free_port())]
        self._clocks.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(CLOCKS), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "FAULTS_CLOCKS": str(self._clocks)}
        done = _rkctl("up", "--detach", *state, *sets, *words, env=environment)
        if done.returncode:
            raise RuntimeError(f"rkctl up: {done.stdout[-500:]} {done.stderr[-2000:]}")

    def stop(self) -> None:
        """Nothing is left afterwards but a federation that ran before."""
        if self.can_cut:
            mend()
        if not self._is_ours:
            return
        rkctl("down", "--state", str(self.home.directory))
        for pid in processes(self.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for relay in self.relays:
            relay.stop()

    @property
    def places(self) -> list[Place]:
        return [Place(one.name, HOST, one.public, one.admin, one.is_controller) for one in self.home.members()]

    def topology(self) -> Topology:
        """Who runs now."""
        members, names = self.home.members(), sorted(self.pids())
        kinds = {
            kind: [one for one in names if one.startswith(kind)] for kind in ("cassandra", "zookeeper", "memcached")
        }
        found = Topology(
            controllers=[one.name for one in members if one.is_controller],
            sites=[one.name for one in members if not one.is_controller],
            proxies=[one for one in names if one.startswith("haproxy")],
            **kinds,
        )
        for place in range(len(found.cassandra)):
            groups = (*kinds.values(), found.controllers, found.sites)
            found.regions.append([group[place] for group in groups if place < len(group)])
        return found

    def pids(self) -> dict[str, int]:
        """Every process that runs, by name."""
        return ask.control(self.home.control, command="report")

    def family(self, name: str) -> list[int]:
        """A process and its children."""
        pid = self.pids().get(name)
        found, waiting = [], [pid] if pid else []
        while waiting:
            one = waiting.pop()
            found.append(one)
            for path in Path(f"/proc/{one}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += [int(word) for word in path.read_text().split()]
        return found

    def listens(self, name: str, port: int) -> End:
        """Where an engine is reached by its clients."""
        return End(
            f"{self._network if name.startswith('cassandra') else self._subnet}.{self.topology_number(name)}", port
        )

    def cut_node(self, name: str) -> None:
        """A Cassandra node without the others; its clients still reach it."""
        ask.control(self.home.control, command="cut", name=name)

    def slow(self, delay_s: float, loss: float) -> None:
        """So long one way between any two Cassandra nodes, and so much of what they send is lost."""
        ask.control(self.home.control, command="slow", delay_s=delay_s, loss=loss)

    def leads(self, name: str) -> bool:
        """Whether this ZooKeeper server is the ensemble's leader."""
        return mode(self.listens(name, _ENSEMBLE[0]).address) == "leader"

    def rejoin(self) -> None:
        """No node is cut off or far away any more, and all packets pass."""
        for relay in self.relays:
            relay.mend()
        if self.can_cut:
            mend()
            ask.control(self.home.control, command="rejoin")

    def set_clock(self, name: str, ahead_s: float) -> None:
        """The wall clock of a controller or site, ahead of the machine's by so much; its monotonic clock goes on."""
        with contextlib.suppress(FileNotFoundError), (self._clocks / name).open("r+b") as file:
            file.write(OFFSET_NS.pack(int(ahead_s * 1e9)))

    @property
    def _clocks(self) -> Path:
        return self.home.directory.with_name(f"{self.home.directory.name}-clocks")

    @staticmethod
    def topology_number(name: str) -> int:
        """The place of an engine, from 1."""
        return int("".join(filter(str.isdigit, name.partition("-")[0])))

    @property
    def _network(self) -> str:
        """The network of the data centres, if there is one of their own."""
        made = self.home.engines / "wan"
        return (made.read_text().strip() if made.exists() else "") or self._subnet

    @property
    def _subnet(self) -> str:
        return (self.home.engines / "subnet").read_text().strip()

    @property
    def doors(self) -> list[Door]:
        """Through which regions speak with each other."""
        streams = [one.stream for one in self.home.members() if one.stream]
        return [Door(f"{self._subnet}.0/24", list(_ENSEMBLE)), Door(f"{HOST}/32", streams)]

    def signal(self, name: str, number: str) -> None:
        ask.control(self.home.control, command="signal", name=name, signal=number)

    def revive(self) -> None:
        """Start again whatever has ended; returns when it serves."""
        ask.control(self.home.control, _START_S, command="revive")

    def rotate(self) -> None:
        ask.admin(self.home.admin, "/keys/rotate", {}, 30.0)

    def _stream_of(self, number: int) -> Callable[[], tuple[str, int]]:
        def target() -> tuple[str, int]:
            controllers = [one for one in self.home.members() if one.is_controller]
            return HOST, controllers[number].stream or 0

        return target


def _rkctl(*words: str, env: Mapping[str, str]):
    import subprocess

    return subprocess.run([RKCTL, *words], capture_output=True, text=True, timeout=_START_S, check=False, env=env)
