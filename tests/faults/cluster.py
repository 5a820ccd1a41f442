"""The federation under test, as processes: start, break, heal, and look into what it left."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from controller import ask
from controller.federation import HOST, Home
from tests.faults.caller import Place
from tests.faults.relay import Relay
from tests.processes import free_port, processes, rkctl

SYSTEM_S = 6.0
_SETTINGS = (
    f"freshness.system={SYSTEM_S}",
    "identity.password_hash_rounds=4",  # the passwords are not what is tried here
    "keys.acknowledge_deadline_s=4",
)


class Cluster:
    """`rkctl up`, and what can be done to its processes. Streams go through a relay for each controller."""

    def __init__(self, directory: Path) -> None:
        self.home = Home.at(directory)
        self.relays: list[Relay] = []

    def start(self, *words: str) -> None:
        """Raises RuntimeError with what `rkctl` said."""
        self.relays = [Relay(self._stream_of(0)).start()]
        controllers = ",".join(f"https://{HOST}:{relay.port}" for relay in self.relays)
        told = [word for one in (*_SETTINGS, f"site.controllers={controllers}") for word in ("--set", one)]
        state = ["--state", str(self.home.directory)]
        done = rkctl("up", "--detach", *state, "--port", str(free_port()), *told, *words)
        if done.returncode:
            raise RuntimeError(f"rkctl up: {done.stdout[-500:]} {done.stderr[-2000:]}")

    def stop(self) -> None:
        """Nothing is left afterwards."""
        rkctl("down", "--state", str(self.home.directory))
        for pid in processes(self.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for relay in self.relays:
            relay.stop()

    @property
    def places(self) -> list[Place]:
        return [Place(one.name, HOST, one.public, one.admin, one.is_controller) for one in self.home.members()]

    def signal(self, name: str, number: str) -> None:
        ask.control(self.home.control, command="signal", name=name, signal=number)

    def revive(self) -> None:
        """Start again whatever has ended; returns when it serves."""
        ask.control(self.home.control, command="revive")

    def rotate(self) -> None:
        ask.admin(self.home.admin, "/keys/rotate", {}, 30.0)

    def logs(self) -> Iterator[tuple[str, str]]:
        """(name, text) of what each process wrote."""
        for path in sorted((self.home.directory / "logs").glob("*.log")):
            yield path.name, path.read_text(errors="replace")

    def _stream_of(self, number: int):
        def target() -> tuple[str, int]:
            controllers = [one for one in self.home.members() if one.is_controller]
            return HOST, controllers[number].stream

        return target
