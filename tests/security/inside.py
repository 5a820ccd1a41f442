"""Beneath the API: bytes on the wire that no client library sends, rows on the disk, memory, work and words of processes."""

import contextlib
import http.client
import json
import socket
import sqlite3
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from controller.federation import CONTROLLER, HOST
from controller.probe import PATIENCE_S, Answer
from regional_keystone.adapters.local import SystemClock
from regional_keystone.record import decode, facts
from regional_keystone.settings import SecurityCompliance
from tests import replay
from tests.api.conftest import Client
from tests.api.test_compliance import Place
from tests.processes import processes
from tests.site.wire import request

JSON, PASSWORD = "Content-Type: application/json", "first-password-1"


def send(member, data):
    """The answer to these bytes on a connection of their own; the server need not read them to the end."""
    with socket.create_connection((HOST, member.port), PATIENCE_S) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        return read(connection)


def read(connection):
    """The next answer of a connection, which has to be JSON if there is any."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    text = answer.read()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text or "{}"))


def post(member, path, body, *headers):
    """The answer to a body as it is, said to be JSON."""
    return send(member, request("POST", path, JSON, *headers, body=body))


def rows(home, place, kind, **values):
    """What a region has on its disk, without asking it: the records with these values."""
    state = home.state(CONTROLLER) / "log.db" if place == "Global" else home.state(place) / "replica.db"
    with contextlib.closing(sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True)) as store:
        found = [decode(kind, row) for (row,) in store.execute(f'SELECT row FROM "{facts(kind).name}"')]
    return [one for one in found if all(getattr(one, name) == value for name, value in values.items())]


def peaks(home):
    """Bytes that each process of a federation has had in memory at most, by its id."""
    found = {}
    for pid in processes(home):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return found


def ticks(home):
    """Hundredths of a second that the processes of a federation have computed, together."""
    spent = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes(home))
    return sum(int(one[11]) + int(one[12]) for one in spent)


def written(home):
    """What all processes of a federation have logged so far."""
    return "".join(path.read_text() for path in sorted((home.directory / "logs").iterdir()))


class Standing(replay.LeapingClock):
    """Stands at midnight until it is told to leap, so that the last moment before a boundary is one."""

    def __init__(self):
        super().__init__()
        day = 86_400 * 1_000_000
        self._midnight = SystemClock().now() // day * day

    def now(self):
        return self._midnight + round(self.ahead_s * 1_000_000)


async def at_a_place(directory, rules, use):
    """What comes of using a controller with these rules and a user who is called somebody."""
    async with AsyncExitStack() as stack:
        world = replay.World(directory, Standing())
        world.settings = replace(world.settings, security_compliance=SecurityCompliance(**rules))
        await world.start(stack)
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        place = Place(world, await Client(world).login("admin", replay.PASSWORD, scope))
        await place.user(password=PASSWORD)
        return await use(place)
