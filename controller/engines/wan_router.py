"""A router between network namespaces in user space: delay, loss and cuts. A program; `wan.py` starts it.

Its arguments: the path of its control socket, the network's first three bytes, and the process id of a holder of each
namespace. It opens a TUN device for each and one for the namespace that it runs in, whose links are never slow.
"""

import contextlib
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HOME = 254
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001


class Router:
    """Passes packets on, late or not at all, as it was told last."""

    def __init__(self, control: Path, network: str, holders: Sequence[str]) -> None:
        self.delay_s, self.loss = 0.0, 0.0
        self.cut: set[tuple[int, int]] = set()
        self.late: list[tuple[float, int, int, int, bytes]] = []
        self.order = itertools.count()
        self.devices = {HOME: tun(network, HOME, None)}
        for number, holder in enumerate(holders, 1):
            self.devices[number] = tun(network, number, holder)
        self.by_descriptor = {one: number for number, one in self.devices.items()}
        self.control = socket.socket(socket.AF_UNIX)
        os.chdir(control.parent)  # a socket's whole path may be too long for the kernel
        self.control.bind(f"{control.name}.new")
        self.control.listen()
        Path(f"{control.name}.new").rename(control.name)

    def run(self) -> None:
        """For ever."""
        while True:
            wait_s = max(0.0, self.late[0][0] - time.monotonic()) if self.late else None
            asked = self.control.fileno()
            for one in select.select([asked, *self.by_descriptor], [], [], wait_s)[0]:
                self.obey() if one == asked else self.take(one)
            while self.late and self.late[0][0] <= time.monotonic():
                _, _, source, target, packet = heapq.heappop(self.late)
                self.pass_on(source, target, packet)

    def obey(self) -> None:
        """Take what is told on the control socket."""
        with self.control.accept()[0] as asked, asked.makefile("rw") as lines:
            told = json.loads(lines.readline())
            self.delay_s, self.loss = told["delay_s"], told["loss"]
            self.cut = {tuple(pair) for pair in told["cut"]}
            lines.write("ok\n")

    def take(self, device: int) -> None:
        """Read what a device has, and judge it."""
        source = self.by_descriptor[device]
        for _ in range(64):
            try:
                packet = os.read(device, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4 or packet[19] not in self.devices:
                continue
            self.judge(source, packet[19], packet)

    def judge(self, source: int, target: int, packet: bytes) -> None:
        """Lose it, keep it for later, or pass it on."""
        if HOME in {source, target}:
            self.pass_on(source, target, packet)
        elif random.random() >= self.loss:  # noqa: S311  no secret
            heapq.heappush(self.late, (time.monotonic() + self.delay_s, next(self.order), source, target, packet))

    def pass_on(self, source: int, target: int, packet: bytes) -> None:
        """Into its target's device, unless that is cut off."""
        if (source, target) not in self.cut:  # asked when it arrives: a cut loses what is under way
            with contextlib.suppress(OSError):  # a full queue, as anywhere
                os.write(self.devices[target], packet)


def tun(network: str, number: int, holder: str | None) -> int:
    """A TUN device, in the holder's namespace if there is one; its descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"w{os.getpid()}x{number}"
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI))
    inside = [] if holder is None else ["nsenter", f"--net=/proc/{holder}/ns/net"]
    if inside:
        run("ip", "link", "set", name, "netns", str(holder))
        run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "ip", "addr", "add", f"{network}.{number}/24", "dev", name)
    run(*inside, "ip", "link", "set", name, "up", "mtu", "1400", "txqueuelen", "2000")
    return device


def run(*words: str) -> None:
    """A command that must succeed."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)  # noqa: S603


if __name__ == "__main__":
    Router(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]).run()
