"""A controller that dies between the append and the answer leaves a change whole or not at all, and heals by itself.

It kills itself at a named step (`dying.py`). What is promised then: its client saw no answer, or one that holds; the
log has the change once or not at all, without a hole; tables and copies hold what the log says. The started-again
controller, the other one that ran all the time, and a site show the same; the name is free or taken accordingly.
"""

import asyncio
import http.client
import json
import os
import select
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from controller import ask
from controller.probe import password
from regional_keystone.backends import open_store
from regional_keystone.log import LOG, Put
from tests.controller.dying import Step
from tests.processes import free_port
from tests.tables import dangling, entries_of, tell, unlike

ROOT = Path(__file__).parents[2]
SITE = "RegionOne"
START_S = 180.0
SHOWN_S = 5.0  # at a controller that ran all the time
PATIENCE_S = 20.0  # with one that starts, and a site that looks for it, on a machine that may stall
NEVER = {Step.BEFORE, Step.UNCOMMITTED}
PERHAPS = {Step.SENT}
ELSEWHERE = {"sqlite": {Step.SENT, Step.UNREAD}, "cassandra": {Step.UNCOMMITTED}}
CASCADES = (Step.APPENDED, Step.FIRST, Step.HALF, Step.ANSWERED)
CHANGES = [*(("create", step) for step in Step), *(("delete", step) for step in CASCADES)]
IN_SHORT = {("create", Step.SENT), ("create", Step.UNREAD), ("delete", Step.HALF)}


def _steps(store):
    """Those of this store. The file has all of them that both have, so that of a cluster's the suite takes a few."""
    found = [change for change in CHANGES if change[1] not in ELSEWHERE[store]]
    is_long = [store == "cassandra" and change not in IN_SHORT for change in found]
    marked = [
        pytest.param(*one, marks=pytest.mark.long if long else ()) for one, long in zip(found, is_long, strict=True)
    ]
    return pytest.mark.parametrize(("kind", "step"), marked)


STEPS = {store: _steps(store) for store in ELSEWHERE}


class Process:
    """A program of the federation, which can be started again."""

    def __init__(self, folder, name, ports, text, words):
        self.state = folder / name
        self.port, self.admin_port, self.stream = ports
        self.config = folder / f"{name}.conf"
        self.config.write_text(
            f"[site]\nstate_dir = {self.state}\n{text.pop('site', '')}"
            f"[listen]\nport = {self.port}\nadmin_port = {self.admin_port}\n"
            + "".join(f"[{section}]\n{lines}" for section, lines in text.items()).format(stream=self.stream)
        )
        self._words = words
        self._log = folder / f"{name}.log"
        self._started = None

    def start(self):
        ready, tell_ready = os.pipe()
        words = [*self._words(self.config), "--ready-fd", str(tell_ready)]
        with self._log.open("ab") as output:
            self._started = subprocess.Popen(
                [sys.executable, "-m", *map(str, words)], cwd=ROOT, stdout=output, stderr=output, pass_fds=(tell_ready,)
            )
        os.close(tell_ready)
        with os.fdopen(ready) as pipe:
            assert select.select([pipe], [], [], START_S)[0], self.said()
            assert pipe.readline(), self.said()

    @property
    def is_running(self):
        return self._started is not None and self._started.poll() is None

    def ended(self):
        """The signal that ended it, as a number below zero."""
        return self._started.wait(START_S)

    def kill(self):
        if self.is_running:
            self._started.kill()
            self._started.wait()

    def said(self):
        return self._log.read_text()[-2000:]

    def ask(self, method, path, token="", body=None):
        """(status, headers, body), or None from one that ends instead of answering."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json"} | ({"X-Auth-Token": token} if token else {})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except ConnectionError:
            return None
        finally:
            connection.close()
        return answer.status, answer.headers, json.loads(content) if content else None


class Federation:
    """One controller that dies, one beside it where the store is a cluster, and a site with a file of its own."""

    def __init__(self, folder, cassandra, opened):
        self.folder, self.opened = folder, opened
        self.order = folder / "order"
        (folder / "password").touch(mode=0o600)
        (folder / "password").write_text("secret")
        ports = free_port()
        self._ports = zip(*(range(ports + kind, ports + 9, 3) for kind in range(3)), strict=True)
        first = self._controller("first", cassandra[:1], ["tests.controller.dying", self.order])
        self.others = [self._controller("second", cassandra[1:], ["controller"])] if cassandra else []
        self.first = first
        joins = f"join_token_file = {folder / 'token'}\n"
        program = lambda config: ["regional_keystone", "--config", config, "serve"]  # noqa: E731
        self.site = Process(folder, SITE, next(self._ports), {"site": joins}, program)
        self.token = self.group = self.role = ""
        self.ordered = False  # and not dead yet, or not found well afterwards

    def _controller(self, name, cassandra, program):
        text = {
            "stream": "port = {stream}\n",
            "controller": f"name = {name}\nauthority_dir = {self.folder / 'authority'}\n",
            "bootstrap": f"password_file = {self.folder / 'password'}\n",
            "identity": "password_hash_rounds = 4\n",
        }
        if cassandra:
            text["cassandra"] = cassandra[0].removeprefix("[cassandra]\n")
        return Process(
            self.folder, name, next(self._ports), text, lambda config: [*program, "serve", "--config", config]
        )

    @property
    def all(self):
        return [self.first, *self.others, self.site]

    def start(self):
        for controller in (self.first, *self.others):
            controller.start()
        token = ask.admin(self.first.state / "admin.sock", "/region/add", {"name": SITE})["join_token"]
        (self.folder / "token").touch(mode=0o600)
        (self.folder / "token").write_text(token)
        self.site.start()
        auth = password("admin", "secret", "default")
        auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
        status, headers, body = self.first.ask("POST", "/v3/auth/tokens", body={"auth": auth})
        assert status == 201, body
        self.token, self.project = headers["X-Subject-Token"], body["token"]["project"]["id"]
        self.role = body["token"]["roles"][0]["id"]
        self.group = self.make("group", "/v3/groups", name="those")

    def make(self, member, path, **fields):
        status, _, body = self.first.ask("POST", path, self.token, {member: fields})
        assert status == 201, body
        return body[member]["id"]

    def put(self, path):
        assert self.first.ask("PUT", path, self.token)[0] == 204

    def dies_of(self, step, mark):
        self.ordered = True
        self.order.write_text(f"{step}\n{mark}")

    def shown(self, process, name, user):
        """Which of what belongs to the user is shown there: all of it or nothing, if all is well."""

        def get(path, member):
            status, _, body = process.ask("GET", path, self.token)
            assert status == 200, body
            return body[member]

        listed = [one["id"] for one in get(f"/v3/users?name={name}", "users")]
        user = user or (listed or ["nobody"])[0]
        members = [one["id"] for one in get(f"/v3/groups/{self.group}/users", "users")]
        assigned = get("/v3/role_assignments", "role_assignments")
        return {
            "listed": listed.count(user) + len(listed),
            "found": process.ask("GET", f"/v3/users/{user}", self.token)[0],
            "member": user in members,
            "assigned": sum(one.get("user", {}).get("id") == user for one in assigned),
        }

    def comes_to(self, process, name, user, wanted):
        """It shows one of these within the time that is promised; returns which."""
        within_s = SHOWN_S if process in self.others else PATIENCE_S
        return soon(lambda: self.shown(process, name, user), wanted, process, within_s)

    def answers(self, process, status, name):
        """Who makes a user of this name there is answered so; a site says 503 until it has found a controller."""
        body = {"user": {"name": name}}
        soon(lambda: process.ask("POST", "/v3/users", self.token, body)[0], [status], process, PATIENCE_S, {503})


def soon(look, wanted, process, within_s, meanwhile=()):
    """The first of these that can be seen; with `meanwhile`, nothing else may be seen before."""
    end = time.monotonic() + within_s
    while (seen := look()) not in wanted:
        assert not meanwhile or seen in meanwhile, f"{process.config.stem} shows {seen}, not {wanted}"
        assert time.monotonic() < end, f"{process.config.stem} shows {seen}, not one of {wanted}"
        time.sleep(0.05)
    return seen


def wanted(kind, is_there):
    if not is_there:
        return {"listed": 0, "found": 404, "member": False, "assigned": 0}
    return {"listed": 2, "found": 200, "member": kind == "delete", "assigned": int(kind == "delete")}


async def audited(store, mark):
    """How often the log tells of the change, once the tables have it all; they hold what the log says, as it must be."""
    end = time.monotonic() + SHOWN_S
    while (head := await store.head(LOG)) > await store.applied(LOG):
        assert time.monotonic() < end, "the tables stay behind the log"
        await asyncio.sleep(0.05)
    entries, rows = [], {}
    async for entry in entries_of(store):
        entries.append(entry)
        tell(rows, entry)
    assert [entry.number for entry in entries] == list(range(1, head + 1))
    assert len({entry.id for entry in entries}) == head
    assert await unlike(store, rows) == []
    assert await dangling(store) == []
    if hasattr(store, "_tables"):
        assert await copies_unlike(store, rows) == []
    return sum(any(mark(change) for change in entry.changes) for entry in entries)


async def copies_unlike(store, rows):
    """What lies in the cluster's tables, copies by group among them, and does not follow from the records."""
    tables = store._tables
    told = {
        (write.form.name, write.place): write.row
        for (table, key), row in rows.items()
        for write in tables.writes_of_row(0, table, key, row)
    }

    async def lying(form):
        return {
            (form.name, seen.place): seen.row
            async for page in tables.lying(form)
            for seen in page
            if seen.row is not None
        }

    held = {}
    for found in await asyncio.gather(*map(lying, tables.physical)):
        held |= found
    return [place for place in held.keys() | told.keys() if held.get(place) != told.get(place)]


@contextmanager
def on_file(folder, request):
    @asynccontextmanager
    async def opened():
        store = await open_store(folder / "first" / "log.db", only_reads=True)
        try:
            yield store
        finally:
            await store.close()

    yield Federation(folder, [], opened)


@contextmanager
def on_cluster(folder, request):
    keyspace = request.getfixturevalue("keyspace")
    asyncio.run(keyspace.fit())
    try:
        yield Federation(folder, [keyspace.text("dc1"), keyspace.text("dc2")], lambda: keyspace.store("dc3"))
    finally:
        asyncio.run(keyspace.empty_all())


@pytest.fixture(scope="module")
def federation(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    if request.param == "cassandra":
        request.getfixturevalue("cassandra_cluster")
    with ExitStack() as stack:
        made = stack.enter_context({"sqlite": on_file, "cassandra": on_cluster}[request.param](folder, request))
        for process in made.all:
            stack.callback(process.kill)
        made.start()
        yield made


@pytest.fixture
def running(federation):
    """All of it runs, whatever the test before left."""
    federation.order.unlink(missing_ok=True)
    if federation.ordered:
        federation.first.kill()
        federation.ordered = False
    for process in federation.all:
        if not process.is_running:
            process.start()
    return federation


@pytest.mark.parametrize("federation", ["sqlite"], indirect=True)
@STEPS["sqlite"]
def test_in_a_file_a_change_is_there_whole_or_not_at_all(running, kind, step):
    whole_or_not_at_all(running, kind, step)


@pytest.mark.parametrize("federation", ["cassandra"], indirect=True)
@STEPS["cassandra"]
def test_in_a_cluster_a_change_is_there_whole_or_not_at_all(running, kind, step):
    whole_or_not_at_all(running, kind, step)


def whole_or_not_at_all(running, kind, step):
    name, user = f"doomed-{CHANGES.index((kind, step))}-", ""
    if kind == "delete":
        user = running.make("user", "/v3/users", name=name)
        running.put(f"/v3/groups/{running.group}/users/{user}")
        running.put(f"/v3/projects/{running.project}/users/{user}/roles/{running.role}")
    running.dies_of(step, user or name)
    if kind == "create":
        answer = running.first.ask("POST", "/v3/users", running.token, {"user": {"name": name}})
    else:
        answer = running.first.ask("DELETE", f"/v3/users/{user}", running.token)
    assert running.first.ended() == -9
    assert answer is None if step is not Step.ANSWERED else answer[0] in {201, 204}
    running.order.unlink()

    outcomes = {True, False} if step in PERHAPS else {step not in NEVER}
    states = [wanted(kind, is_there=done == (kind == "create")) for done in outcomes]

    def mark(change):
        if kind == "create":
            return isinstance(change, Put) and name.encode() in change.row
        return not isinstance(change, Put) and change.key == (user,)

    async def logged():
        async with running.opened() as store:
            return await audited(store, mark)

    times = None
    for other in running.others:  # it has run all the time, and nobody else
        states = [running.comes_to(other, name, user, states)]
        times = asyncio.run(logged())
    running.first.start()
    states = [running.comes_to(running.first, name, user, states)]
    times = asyncio.run(logged()) if times is None else times
    is_there = states[0]["found"] == 200
    assert times == (is_there == (kind == "create"))
    running.comes_to(running.site, name, user, states)

    for place, process in enumerate(running.all):
        running.answers(process, 409 if is_there or place else 201, name)
    states = [wanted(kind if is_there else "create", is_there=True)]
    for process in running.all:
        running.comes_to(process, name, "", states)
    running.ordered = False
