"""A router between network namespaces in user space: delay, loss and cuts. A program; `wan.py` starts it.

Its arguments: the path of its control socket, the network's first three bytes, and the process id of a holder of each
namespace. It opens a TUN device for each and one for the namespace that it runs in, whose links are never slow.
"""

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
from pathlib import Path

HOME = 254
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001


class Router:
    def __init__(self, control, network, holders):
        self.delay_s, self.loss, self.cut = 0.0, 0.0, set()
        self.late, self.order = [], itertools.count()
        self.devices = {HOME: tun(network, HOME, None)}
        for number, holder in enumerate(holders, 1):
            self.devices[number] = tun(network, number, holder)
        self.by_descriptor = {one: number for number, one in self.devices.items()}
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(f"{control}.new")
        self.control.listen()
        Path(f"{control}.new").rename(control)

    def run(self):
        while True:
            wait_s = max(0.0, self.late[0][0] - time.monotonic()) if self.late else None
            for one in select.select([self.control, *self.by_descriptor], [], [], wait_s)[0]:
                self.obey() if one is self.control else self.take(one)
            while self.late and self.late[0][0] <= time.monotonic():
                _, _, source, target, packet = heapq.heappop(self.late)
                self.pass_on(source, target, packet)

    def obey(self):
        with self.control.accept()[0] as asked, asked.makefile("rw") as lines:
            told = json.loads(lines.readline())
            self.delay_s, self.loss = told["delay_s"], told["loss"]
            self.cut = {tuple(pair) for pair in told["cut"]}
            lines.write("ok\n")

    def take(self, device):
        source = self.by_descriptor[device]
        for _ in range(64):
            try:
                packet = os.read(device, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4 or packet[19] not in self.devices:
                continue
            self.judge(source, packet[19], packet)

    def judge(self, source, target, packet):
        if HOME in {source, target}:
            self.pass_on(source, target, packet)
        elif random.random() >= self.loss:
            heapq.heappush(self.late, (time.monotonic() + self.delay_s, next(self.order), source, target, packet))

    def pass_on(self, source, target, packet):
        if (source, target) not in self.cut:  # asked when it arrives: a cut loses what is under way
            try:
                os.write(self.devices[target], packet)
            except OSError:
                pass  # a full queue, as anywhere


def tun(network, number, holder):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"w{os.getpid()}x{number}"
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI))
    inside = [] if holder is None else ["nsenter", f"--net=/proc/{holder}/ns/net"]
    if inside:
        run("ip", "link", "set", name, "netns", holder)
        run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "ip", "addr", "add", f"{network}.{number}/24", "dev", name)
    run(*inside, "ip", "link", "set", name, "up", "mtu", "1400", "txqueuelen", "2000")
    return device


def run(*words):
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    Router(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]).run()
