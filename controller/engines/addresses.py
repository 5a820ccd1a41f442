"""Addresses of the loopback that one set of engines has for itself: 127.X.Y.N, the same ports on each.

Who owns 127.X.Y is said by an abstract socket's name, which the kernel frees with its last holder, so that several
federations and test runs share a machine. Linux only.
"""

import contextlib
import random
import socket
from dataclasses import dataclass

from controller.federation import FederationError

PORTS = (2181, 2888, 3888, 7000, 9042, 11211)
"""What the engines listen on at their addresses."""
_HOSTS = 9
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Subnet:
    """127.X.Y, ours as long as somebody holds `claim`."""

    prefix: str
    claim: socket.socket

    def address(self, number: int) -> str:
        """The n-th address, from 1."""
        return f"{self.prefix}.{number}"


def claim(prefix: str | None = None) -> Subnet:
    """This subnet, or any free one. Raises FederationError when it is taken."""
    for one in [prefix] if prefix else _some():
        held = _held(one)
        if held and all(is_free(f"{one}.{host}", port) for host in range(1, _HOSTS + 1) for port in PORTS):
            return Subnet(one, held)
        if held:
            held.close()
    what = f"the addresses {prefix}.1 to .{_HOSTS} are" if prefix else f"{_TRIES} networks of the loopback are all"
    raise FederationError(f"{what} in use; end the engines that have them", 4)


def is_free(address: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _some() -> list[str]:
    chosen = random.SystemRandom()
    return [f"127.{chosen.randint(16, 250)}.{chosen.randint(1, 250)}" for _ in range(_TRIES)]


def _held(prefix: str) -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        held.bind(f"\0regional-keystone-engines/{prefix}")
        return held
    held.close()
    return None
