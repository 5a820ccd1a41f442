"""A Cassandra cluster of one node in each data centre, with passwords and permissions on.

Its superuser's role has a replica in every data centre, so that logging in needs no other one than the others' quorum.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from controller.display import Tell
from controller.engines import cassandra_files, cql
from controller.engines.process import Engine, EngineError, Keeper, await_all, silent, until

SUPERUSER = "cassandra"
FIRST_PASSWORD = SUPERUSER
"""What a new cluster calls its superuser, and the password that it gives it."""
START_S = 180.0
SECURED_S = 60.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """How a cluster is to be. `impatient`: nodes give up on others after a second, for tests of faults."""

    java: Path
    jars: Path
    data_centres: tuple[str, ...] = ("dc1", "dc2", "dc3")
    password: str = FIRST_PASSWORD
    impatient: bool = False
    tls_pem: Path | None = None
    heap_mb: int = 512


class CassandraNode(Engine):
    """One node, the only one of its data centre."""

    def __init__(self, keeper: Keeper, number: int, addresses: Sequence[str], options: Options) -> None:
        super().__init__(keeper, f"cassandra{number + 1}", addresses[number])
        self.data_centre = options.data_centres[number]
        self.port = cassandra_files.CQL_PORT
        self._options, self._number, self._addresses = options, number, addresses

    def command(self) -> list[str]:
        """Files and command line."""
        options = self._options
        placed = cassandra_files.Placed(
            f"engines {self._addresses[0]}",
            self._number,
            self._addresses,
            self.data_centre,
            options.impatient,
            options.tls_pem,
        )
        cassandra_files.write(placed, self.folder)
        nodes = len(self._addresses)
        return cassandra_files.command(options.java, options.jars, self.folder, nodes=nodes, heap_mb=options.heap_mb)

    def ask(self, statement: str, consistency: int = cql.ONE, timeout_s: float = 10.0) -> list[cql.Row]:
        """A statement as superuser, by this node. Raises OSError or CqlError."""
        refused: cql.CqlError | None = None
        for password in dict.fromkeys((self._options.password, FIRST_PASSWORD)):
            try:
                with cql.Node(self.address, self.port, SUPERUSER, password, timeout_s) as node:
                    return node.ask(statement, consistency)
            except cql.CqlError as error:
                if error.code != cql.BAD_CREDENTIALS:
                    raise
                refused = error
        raise refused or AssertionError

    def schema(self) -> bytes | None:
        """The version of the schema that it has."""
        return self.ask("SELECT schema_version FROM system.local")[0][0]

    def answers(self) -> bool:
        """Whether it serves, knows all others, and sees every one of them up."""
        try:
            peers = self.ask("SELECT peer FROM system.peers")
            self.ask(f"SELECT role FROM system_auth.roles WHERE role = '{SUPERUSER}'", cql.ALL)  # noqa: S608
        except (OSError, cql.CqlError):
            return False
        return len(peers) == len(self._addresses) - 1

    def last_words(self) -> str:
        """The last error in its log."""
        log = self.folder / "log" / "system.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        errors = re.findall(r"(?m)^ERROR .* - (.*)$", text)
        return errors[-1][-300:] if errors else super().last_words()


class Cassandra:
    """The cluster: its nodes, and where clients reach it."""

    def __init__(self, keeper: Keeper, options: Options, addresses: Sequence[str] = ()) -> None:
        self.options = options
        self.addresses = tuple(addresses) or tuple(keeper.address(n + 1) for n in range(len(options.data_centres)))
        self.nodes = [CassandraNode(keeper, number, self.addresses, options) for number in range(len(self.addresses))]
        self.port = cassandra_files.CQL_PORT
        self.username, self.password = SUPERUSER, options.password

    def node(self, data_centre: str) -> CassandraNode:
        """The node of a data centre."""
        return next(one for one in self.nodes if one.data_centre == data_centre)

    def start(self, tell: Tell = silent, timeout_s: float = START_S) -> None:
        """Start what does not run, wait until every node sees every other, and see to the superuser."""
        for node in self.nodes:
            node.start()  # all at one moment: one after another takes three times as long
        self.await_ready(tell, timeout_s)
        self._secure(tell)

    def await_ready(self, tell: Tell = silent, timeout_s: float = START_S) -> None:
        """Until a statement with all replicas succeeds at every node. Raises EngineError."""
        await_all(self.nodes, tell, timeout_s, f"Cassandra in {', '.join(self.options.data_centres)}")

    def await_agreement(self) -> None:
        """Until all nodes have the same schema; until then some refuse statements about what is new."""
        until(lambda: len({node.schema() for node in self.nodes}) == 1, "the nodes to have one schema", SECURED_S)

    def heal(self, tell: Tell = silent) -> None:
        """Let stopped nodes go on and start dead ones, whatever was done to them; returns when all is well."""
        harmed = [node for node in self.nodes if node.is_stopped or not node.is_running]
        for node in harmed:
            node.cont() if node.is_running else node.start()
        if harmed:
            self.await_ready(tell)

    def _secure(self, tell: Tell) -> None:
        """The superuser's role in every data centre, and its password, unless both are so already."""
        first = self.nodes[0]
        shown = first.ask("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = 'system_auth'")
        if b"NetworkTopologyStrategy" not in (shown[0][0] or b""):
            tell("wait", "Cassandra: waiting until its roles are in every data centre")
            each = ", ".join(f"'{name}': 1" for name in self.options.data_centres)
            strategy = f"{{'class': 'NetworkTopologyStrategy', {each}}}"
            _repeated(lambda: first.ask(f"ALTER KEYSPACE system_auth WITH replication = {strategy}"))
            self.await_agreement()
        if self.password != FIRST_PASSWORD and self._opens(FIRST_PASSWORD, first):
            _repeated(lambda: first.ask(f"ALTER ROLE {SUPERUSER} WITH PASSWORD = '{self.password}'"))
        for node in self.nodes:  # each remembers a password for two seconds
            until(partial(self._opens, self.password, node), f"{node.name} to know its superuser", SECURED_S)

    def _opens(self, password: str, node: CassandraNode) -> bool:
        try:
            with cql.Node(node.address, node.port, SUPERUSER, password) as opened:
                return bool(opened.ask("SELECT role FROM system_auth.roles", cql.ALL))
        except (OSError, cql.CqlError):
            return False


def _repeated(ask: Callable[[], list[cql.Row]], timeout_s: float = SECURED_S) -> None:
    """Until a node does it: a new cluster's first changes meet nodes that are busy."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            ask()
        except (OSError, cql.CqlError) as error:
            if time.monotonic() > end:
                raise EngineError(f"Cassandra: {error}") from None
            time.sleep(_PAUSE_S)
        else:
            return
