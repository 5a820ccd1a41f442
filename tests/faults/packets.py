"""Packets between processes of this machine, lost on purpose: a cut of a region although all share one loopback.

By nftables, in a table of our own. Established connections are found by who holds them; new ones to the ports through
which regions speak are refused an answer for as long as anything is cut.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from tests import packages

_TABLE = f"faults_{os.getpid()}"
_ESTABLISHED = "01"


class End(NamedTuple):
    """Where one connection ends, or a server listens."""

    address: str
    port: int


class Door(NamedTuple):
    """Ports in a network, 127.0.0.1/32 or 127.5.6.0/24."""

    network: str
    ports: list[int]


def can_cut() -> bool:
    """Whether this user may drop packets here."""
    if os.geteuid() or packages.nft() is None:
        return False
    done = _nft(f"add table inet {_TABLE}; delete table inet {_TABLE}", check=False)
    return done.returncode == 0


def sever(inside: Iterable[int], outside: Iterable[int], doors: Iterable[Door]) -> int:
    """Nothing passes between these processes and those, and nobody gets a new connection at these doors.

    Returns how many connections it was.
    """
    sockets = _sockets()
    ours, theirs = _connections(inside, sockets), _connections(outside, sockets)
    pairs = {(near, far) for near, far in ours if (far, near) in theirs}
    rules = [_drop(one, other) for near, far in pairs for one, other in ((near, far), (far, near))]
    for door in doors:
        among = ", ".join(map(str, sorted(door.ports)))
        rules.append(f"ip daddr {door.network} tcp dport {{ {among} }} tcp flags & (syn | ack) == syn drop")
    _load(rules)
    return len(pairs)


def silence(ends: Iterable[End]) -> None:
    """What arrives at these ports is done there, and the answers are lost."""
    _load([f"ip saddr {end.address} tcp sport {end.port} drop" for end in ends])


def mend() -> None:
    """Everything passes again."""
    _nft(f"add table inet {_TABLE}; delete table inet {_TABLE}", check=False)


def _load(rules: Sequence[str]) -> None:
    hooks = ((name, f"type filter hook {name} priority 0; policy accept;") for name in ("input", "output"))
    chains = [line for name, hook in hooks for line in (f"chain {name} {{", hook, *rules, "}")]
    _nft("\n".join((f"table inet {_TABLE} {{", *chains, "}", "")))


def _nft(text: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([packages.nft() or "nft", "-f", "-"], input=text, text=True, capture_output=True, check=check)


def _drop(near: End, far: End) -> str:
    return f"ip saddr {near.address} tcp sport {near.port} ip daddr {far.address} tcp dport {far.port} drop"


def _connections(pids: Iterable[int], sockets: dict[str, tuple[End, End]]) -> set[tuple[End, End]]:
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = str(link.readlink())
                if name.startswith("socket:[") and (ends := sockets.get(name[8:-1])):
                    found.add(ends)
    return found


def _sockets() -> dict[str, tuple[End, End]]:
    """Every established connection of IPv4, by the number of its socket."""
    found = {}
    for file, width in (("/proc/net/tcp", 8), ("/proc/net/tcp6", 32)):
        for line in Path(file).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _ESTABLISHED:
                found[words[9]] = (_end(words[1], width), _end(words[2], width))
    return found


def _end(text: str, width: int) -> End:
    """An address as the kernel shows it: words in the machine's order, of which the last is the one of IPv4."""
    address, _, port = text.partition(":")
    number = int.from_bytes(bytes.fromhex(address[width - 8 :]), "little")
    return End(str(IPv4Address(number)), int(port, 16))
