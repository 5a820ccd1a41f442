"""The engines below a federation on this machine: starts and prepares them, and tells each process how to reach them.

One Cassandra node and one memcached for each region, three ZooKeeper servers, and one HAProxy before all processes.
Everything here blocks but `prepare`; from an event loop call it in a thread.
"""

import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller import db, db_roles
from controller.display import Tell
from controller.engines import wan
from controller.engines.cassandra import Cassandra, CassandraNode, Options
from controller.engines.haproxy import HAProxy
from controller.engines.install import Programs
from controller.engines.memcached import Memcached
from controller.engines.process import Engine, Keeper, await_all
from controller.engines.wan import Wan
from controller.engines.zookeeper import ZooKeeper
from controller.federation import HOST, FederationError, Home, Member
from controller.haproxy_config import Proxy, Server, render
from regional_keystone import durable
from regional_keystone.record import Json

DATA_CENTRES = ("dc1", "dc2", "dc3")
_READY_S = 60.0
_CONNECTIONS = 200  # to one process: all proxies of one machine share what it may have open


class Backing:
    """Engines of one federation, with their data in its directory. `start` may be called again, to mend."""

    def __init__(self, home: Home, programs: Programs, tell: Tell) -> None:
        self._home = home
        self._tell = tell
        self._programs = programs
        self._keeper = Keeper(home.engines)
        jvm = Options(java=programs.java, jars=programs.jars, password=self._secret("superuser"))
        self._wan = self._network()
        addresses = [self._wan.address(number) for number in self._wan.places] if self._wan else ()
        self._cassandra = Cassandra(self._keeper, jvm, addresses)
        self._zookeeper = ZooKeeper(self._keeper, programs.java, programs.zookeeper)
        self._memcached = [Memcached(self._keeper, programs.memcached, number) for number in (1, 2, 3)]
        self._proxy: HAProxy | None = None

    def start(self) -> None:
        """Start what does not run. Raises FederationError, with the log to look into."""
        if self._wan and not self._wan.processes:
            self._wan.begin()
            for place, node in zip(self._wan.places, self._cassandra.nodes, strict=True):
                node.enter = self._wan.enter(place)
        for one in self._memcached:
            one.start()
        self._zookeeper.heal(self._tell)
        await_all(self._memcached, self._tell, _READY_S, "memcached")
        if self._cassandra.nodes[0].process:
            self._cassandra.heal(self._tell)
        else:
            self._cassandra.start(self._tell)
        self._tell("done", f"Cassandra in {', '.join(DATA_CENTRES)}, ZooKeeper and memcached serve at {self.network}")

    @property
    def network(self) -> str:
        """Where the engines listen."""
        return ", ".join(self._cassandra.addresses)

    async def prepare(self, members: Sequence[Member]) -> None:
        """Schema, roles, and the tables of each site; what is there stays."""
        self._tell("wait", "Cassandra: waiting until schema and roles are there")
        superuser = self._section(1, self._cassandra.username, "superuser")
        await db.prepare(
            superuser,
            controller=(db_roles.CONTROLLER, self._secret("controller")),
            sites={one.name: self._secret(f"site-{one.name}") for one in members if not one.is_controller},
            tell=lambda text: self._tell("wait", f"Cassandra: {text}"),
        )
        self._tell("done", "Cassandra has schema and roles")

    def settings(self, member: Member, members: Sequence[Member]) -> Mapping[str, Mapping[str, Any]]:
        """What a process has to be told to use its region's engines."""
        place = self._place(member)
        user = db_roles.CONTROLLER if member.is_controller else db_roles.site_role(member.name)
        secret = "controller" if member.is_controller else f"site-{member.name}"
        found: dict[str, dict[str, Any]] = {
            "cassandra": self._section(place, user, secret),
            "memcached": {"servers": self._memcached[place - 1].server},
            "listen": {"trusted_proxies": HOST},
        }
        if member.is_controller:
            self._secret("zookeeper")
            found["zookeeper"] = {
                "hosts": ",".join(self._zookeeper.hosts),
                "username": "controllers",
                "password_file": self._secret_file("zookeeper"),
            }
            others = [f"https://{HOST}:{one.stream}" for one in members if one.is_controller and one != member]
            found["stream"] = {"others": ",".join(others)}
        else:
            found["workers"] = {"processes": 2}
        return found

    def serve(self, members: Sequence[Member]) -> None:
        """The proxy before all members; returns when it takes connections."""
        proxies = [
            Proxy(
                name=one.region,
                purpose=f"The Identity API of {one.region}.",
                host=HOST,
                port=one.port,
                servers=[
                    Server(name=other.name, host=HOST, port=other.public, admin_port=other.admin)
                    for other in members
                    if other.front == one.front
                ],
            )
            for one in {one.front: one for one in members}.values()
        ]
        text, listens = render(proxies, _CONNECTIONS), [(HOST, one.port) for one in proxies]
        if self._proxy is None or not self._proxy.is_running:
            self._proxy = HAProxy(self._keeper, self._programs.haproxy, text, listens)
            self._proxy.start()
            self._proxy.await_ready()
        elif self._proxy.text != text:
            self._proxy.reload(text, listens)

    def report(self) -> Json:
        """Who runs, by process id."""
        return {name: one.process.pid for name, one in self._engines().items() if one.process and one.is_running}

    def ended(self) -> list[str]:
        """The engines that do not run."""
        return [name for name, one in self._engines().items() if not one.is_running]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Stop, let go on, kill or end one engine. `start` begins what has ended again."""
        engine = self._engines().get(name)
        if engine is None or not engine.is_running:
            raise FederationError(f"{name} does not run")
        does: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGSTOP: engine.stop,
            signal.SIGCONT: engine.cont,
            signal.SIGKILL: engine.kill,
            signal.SIGTERM: engine.end,
        }
        does[number]()

    def close(self) -> None:
        """End all; returns when nobody is left. The data stays."""
        if self._wan:
            self._wan.close()
        self._keeper.close()

    def cut(self, name: str) -> None:
        """Cut a Cassandra node off from the others. Raises FederationError where there is no network to cut."""
        if self._wan is None:
            raise FederationError(f"{name} cannot be cut off: that needs {wan.why_not()}")
        self._wan.cut(self._cassandra.nodes.index(self._node(name)) + 1)

    def slow(self, delay_s: float, loss: float) -> None:
        """So long one way between any two data centres, and so much is lost. Raises FederationError as `cut` does."""
        if self._wan is None:
            raise FederationError(f"data centres cannot be made distant: that needs {wan.why_not()}")
        self._wan.slow(delay_s, loss)

    def rejoin(self) -> None:
        """No node is cut off or far away any more."""
        if self._wan:
            self._wan.slow(0.0)
            self._wan.heal()

    def has(self, name: str) -> bool:
        """Whether an engine is called so."""
        return name in self._engines()

    def _engines(self) -> dict[str, Engine]:
        found: list[Engine] = [*self._cassandra.nodes, *self._zookeeper.servers, *self._memcached]
        return {one.name: one for one in (*found, *([self._proxy] if self._proxy else []))}

    def _node(self, name: str) -> CassandraNode:
        for node in self._cassandra.nodes:
            if node.name == name:
                return node
        raise FederationError(
            f"{name} is no Cassandra node; there are {', '.join(one.name for one in self._cassandra.nodes)}"
        )

    def _network(self) -> Wan | None:
        """A network between the data centres that can be cut, where we may make one; the same at each start."""
        file = self._home.engines / "wan"
        if not file.exists():
            possible = not wan.why_not() and not (self._home.engines / "cassandra1").exists()
            made = Wan(self._keeper) if possible else None
            file.write_text(made.network if made else "")
            return made
        return Wan(self._keeper, network=known) if (known := file.read_text()) else None

    def _place(self, member: Member) -> int:
        """The number of a member's data centre, from 1: sites take one after another, and so do controllers."""
        alike = [one.name for one in self._home.members() if one.is_controller == member.is_controller]
        return alike.index(member.name) % len(DATA_CENTRES) + 1

    def _section(self, place: int, user: str, secret: str) -> dict[str, Any]:
        return {
            "contact_points": self._cassandra.addresses[place - 1],
            "port": self._cassandra.port,
            "local_data_centre": DATA_CENTRES[place - 1],
            "replication": ",".join(f"{one}:1" for one in DATA_CENTRES),
            "username": user,
            "password_file": self._secret_file(secret),
            "read_consistency": "LOCAL_ONE",
        }

    def _secret_file(self, name: str) -> Path:
        return self._home.directory / "secrets" / name

    def _secret(self, name: str) -> str:
        folder = self._secret_file(name).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return durable.keep(self._secret_file(name), lambda: secrets.token_urlsafe(24).encode()).decode()
