"""One or three ZooKeeper servers."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from controller.display import Tell
from controller.engines.cassandra_files import JAVA_OPTIONS
from controller.engines.process import Engine, Keeper, await_all, silent

PORT, _PEER_PORT, _VOTE_PORT = 2181, 2888, 3888
_START_S = 60.0
_ANSWER_S = 1.0


class ZooKeeperServer(Engine):
    """One server of an ensemble."""

    def __init__(self, keeper: Keeper, number: int, addresses: Sequence[str], java: Path, jar: Path) -> None:
        super().__init__(keeper, f"zookeeper{number + 1}", addresses[number])
        self.port = PORT
        self._number, self._addresses, self._java, self._jar = number, addresses, java, jar

    def command(self) -> list[str]:
        """Files and command line."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "myid").write_text(f"{self._number + 1}\n")
        (self.folder / "zoo.cfg").write_text(self._configuration())
        return [
            str(self._java),
            "-Xms32m",
            "-Xmx96m",
            *JAVA_OPTIONS,
            f"-Djava.io.tmpdir={data}",
            "-Dzookeeper.jmx.log4j.disable=true",
            "-cp",
            f"{self.folder}:{self._jar}",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.folder / "zoo.cfg"),
        ]

    def mode(self) -> str:
        """As the function `mode`."""
        return mode(self.address)

    def answers(self) -> bool:
        """Whether it serves clients."""
        return bool(self.mode())

    def _configuration(self) -> str:
        """No local file listens to the network but the clients' and the peers' ports."""
        lines = [
            "tickTime=500",
            "initLimit=20",
            "syncLimit=10",
            f"dataDir={self.folder}/data",
            f"clientPort={PORT}",
            f"clientPortAddress={self.address}",
            "admin.enableServer=false",
            "4lw.commands.whitelist=srvr",
        ]
        if len(self._addresses) > 1:
            lines += [f"server.{n + 1}={one}:{_PEER_PORT}:{_VOTE_PORT}" for n, one in enumerate(self._addresses)]
        return "\n".join(lines) + "\n"


class ZooKeeper:
    """An ensemble."""

    def __init__(self, keeper: Keeper, java: Path, jar: Path, servers: int = 3) -> None:
        self.addresses = tuple(keeper.address(n + 1) for n in range(servers))
        self.servers = [ZooKeeperServer(keeper, n, self.addresses, java, jar) for n in range(servers)]
        self.hosts = tuple(f"{one}:{PORT}" for one in self.addresses)

    def start(self, tell: Tell = silent) -> None:
        """Start what does not run; returns when every server serves. Raises EngineError."""
        for server in self.servers:
            server.start()
        await_all(self.servers, tell, _START_S, "ZooKeeper")

    def leader(self) -> ZooKeeperServer:
        """The server that leads now. Raises StopIteration without a quorum."""
        return next(one for one in self.servers if one.mode() in {"leader", "standalone"})

    def heal(self, tell: Tell = silent) -> None:
        """Let stopped servers go on and start dead ones; returns when all serve."""
        harmed = [one for one in self.servers if one.is_stopped or not one.is_running]
        for one in harmed:
            one.cont() if one.is_running else one.start()
        if harmed:
            await_all(self.servers, tell, _START_S, "ZooKeeper")


def mode(address: str) -> str:
    """What the server at this address is: `leader`, `follower` or `standalone`; empty while it does not serve."""
    with contextlib.suppress(OSError), socket.create_connection((address, PORT), _ANSWER_S) as asked:
        asked.sendall(b"srvr")
        said = b""
        while part := asked.recv(4096):
            said += part
        return next((line[6:] for line in said.decode().splitlines() if line.startswith("Mode: ")), "")
    return ""
