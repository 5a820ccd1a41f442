"""A wide area network on one machine: a namespace for each place, and a router between them (`wan_router.py`).

Nothing needs to be tidied up: namespaces and devices end with the processes that hold them.
"""

import json
import os
import random
import signal
import socket
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Self

from controller.engines import wan_router
from controller.engines.process import EngineError, Keeper, Process, until
from regional_keystone import operator_socket

HOME = wan_router.HOME
_ANSWER_S = 5.0
_END_S = 10.0
_SYS_ADMIN, _NET_ADMIN = 21, 12


def why_not() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.geteuid():
        return "root, for network namespaces"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun ({error.strerror})"
    status = Path("/proc/self/status").read_text().splitlines()
    capabilities = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return (
        ""
        if capabilities >> _SYS_ADMIN & 1 and capabilities >> _NET_ADMIN & 1
        else "the rights to make network namespaces"
    )


class Wan:
    """`places` namespaces with the addresses 10.77.K.1 and so on; we are at 10.77.K.254, near to all.

    `network`, 10.77.K, for the one that it had before. Start an engine in a place by its `enter`. Between places:
    `delay_s` each way, `loss` (0 to 1), and cuts.
    """

    def __init__(self, keeper: Keeper, places: int = 3, network: str | None = None) -> None:
        self.keeper, self.places = keeper, range(1, places + 1)
        self.folder = keeper.directory / f"wan{os.urandom(4).hex()}"
        self.folder.mkdir()
        self.claim, self.network = _network(network)
        self.delay_s, self.loss = 0.0, 0.0
        self.cuts: set[tuple[int, int]] = set()
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the router and the namespaces."""
        for one in reversed(self.processes):
            one.signal(signal.SIGKILL, to_all=True)
            one.wait(_END_S)
        self.claim.close()

    def address(self, place: int) -> str:
        """Where an engine in a place listens."""
        return f"{self.network}.{place}"

    def enter(self, place: int) -> tuple[str, ...]:
        """What is put before a command line to run it there."""
        return ("nsenter", f"--net=/proc/{self.processes[place - 1].pid}/ns/net")

    def slow(self, delay_s: float, loss: float = 0.0) -> None:
        """So long one way between any two places, and so much is lost."""
        self.delay_s, self.loss = delay_s, loss
        self._tell()

    def cut(self, *places: int, both: bool = True) -> None:
        """Cut these places off from all others; both=False: only what they send is lost."""
        others = [one for one in self.places if one not in places]
        self.cuts |= set(product(places, others))
        self.cuts |= set(product(others, places)) if both else set()
        self._tell()

    def heal(self) -> None:
        """No cut any more; delay and loss stay."""
        self.cuts = set()
        self._tell()

    def begin(self) -> None:
        """Namespaces and router; returns when packets pass."""
        start = self.keeper.start
        self.processes = [start(["unshare", "--net", "sleep", "infinity"], self.folder) for _ in self.places]
        ours = _namespace("self")
        for one in self.processes:
            until(partial(_has_own, one.pid, ours), "a network namespace")
        control, holders = self.folder / "router", [str(one.pid) for one in self.processes]
        program = [sys.executable, wan_router.__file__, str(control), self.network, *holders]
        self.processes.append(router := start(program, self.folder))
        until(lambda: control.exists() or not router.is_running, "the router")
        if not router.is_running:
            raise EngineError(f"no network between the places: {(self.folder / 'output.log').read_text()[-300:]}")

    def _tell(self) -> None:
        told = {"delay_s": self.delay_s, "loss": self.loss, "cut": sorted(self.cuts)}
        with socket.socket(socket.AF_UNIX) as asked, operator_socket.short(self.folder / "router") as router:
            asked.settimeout(_ANSWER_S)
            asked.connect(router)
            asked.sendall(json.dumps(told).encode() + b"\n")
            if asked.recv(10) != b"ok\n":
                raise EngineError("the router between the places does not obey")


def _has_own(pid: int, ours: str) -> bool:
    return _namespace(pid) not in {ours, ""}


def _namespace(pid: int | str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""


def _network(wanted: str | None) -> tuple[socket.socket, str]:
    """A network that nobody else has, and what says so."""
    some = [f"10.77.{third}" for third in random.SystemRandom().sample(range(1, 250), 50)]
    for network in [wanted] if wanted else some:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0regional-keystone-engines/{network}")
        except OSError:
            claim.close()
            continue
        if not _has_route(int(network.rpartition(".")[2])):
            return claim, network
        claim.close()
    raise EngineError(f"{wanted or 'every network of 10.77.0.0/16 that was tried'} is in use")


def _has_route(third: int) -> bool:
    wanted = f"{third:02X}4D0A"  # little-endian, without the last byte's place
    return any(line.split()[1][2:] == wanted for line in Path("/proc/net/route").read_text().splitlines()[1:])
