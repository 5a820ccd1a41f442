"""Federations of real processes: how tests start, ask and end them."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from controller.federation import Home, is_free
from controller.probe import Client, password

RKCTL = Path(sys.executable).with_name("rkctl")
PATIENCE_S = 120
START_S = 300  # of a federation on a machine that is busy: tests that share it would fail all together


def rkctl(*words, cwd=None):
    patience_s = START_S if words[0] == "up" else PATIENCE_S
    return subprocess.run([RKCTL, *words], capture_output=True, text=True, timeout=patience_s, cwd=cwd, check=False)


def up(home, *words):
    return rkctl("up", "--detach", "--state", str(home.directory), *words)


def status(home):
    return json.loads(rkctl("status", "--json", "--state", str(home.directory)).stdout)


def processes(home):
    """Every process of this federation: the directory is on each command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if any(word == str(home.directory) or word.startswith(f"{home.directory}/") for word in words):
                found[int(path.parent.name)] = words
    return found


def ports(home):
    return [port for one in home.members() for port in one.ports]


def until(ask_, what):
    end = time.monotonic() + PATIENCE_S
    while not ask_():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


def free_port():
    """The first of a row of ports that nobody has, outside those that the kernel gives away.

    Anywhere among them, because two suites on one machine that both began at the lowest would take each other's.
    """
    for start in random.SystemRandom().sample(range(17000, 30000, 50), 260):
        if all(is_free(port) for port in range(start, start + 12)):
            return start
    raise AssertionError("no ports")


def admin_token(home, member=None):
    auth = password("admin", home.password(), "default")
    auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
    with Client(member or home.members()[0]) as client:
        return client.login(auth)


def read(member, token, path, **headers):
    with Client(member, token) as client:
        return client.ask("GET", path, **headers)


def make(member, token, kind, path, **fields):
    with Client(member, token) as client:
        return client.make(kind, path, **fields)


@contextlib.contextmanager
def ended(directory):
    """A directory whose federation is gone afterwards, whatever the test did to it."""
    home = Home.at(directory)
    try:
        yield home
    finally:
        rkctl("down", "--state", str(directory))
        for pid in processes(home):
            os.kill(pid, signal.SIGKILL)
