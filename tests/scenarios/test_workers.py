"""Three processes of one site at one port, as clients, operators and accidents treat them: real processes, real ports."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from controller import ask
from controller.federation import CONTROLLER, is_free
from controller.probe import password
from tests.processes import ended, free_port, ports, processes, rkctl, status, until, up

pytestmark = pytest.mark.federation
COUNT = 3
SYSTEM_S = 2.0  # for system tokens


class Connection(http.client.HTTPConnection):
    """One kept-alive connection to a site, which one of its processes has."""

    def __init__(self, site):
        super().__init__("127.0.0.1", site.public, timeout=20)
        self.connect()
        self.port_here = self.sock.getsockname()[1]
        self.pid = None

    def ask(self, method, path, token="", body=None, **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["X-Auth-Token"] = token
        if body is not None:
            sent["Content-Type"] = "application/json"
        self.request(method, path, None if body is None else json.dumps(body), sent)
        answer = self.getresponse()
        content = answer.read()
        return answer.status, answer.headers, json.loads(content) if content else None

    def login(self, secret, project="admin", scope=None):
        auth = password("admin", secret, "default")
        auth["scope"] = scope or {"project": {"name": project, "domain": {"id": "default"}}}
        status_, headers, body = self.ask("POST", "/v3/auth/tokens", body={"auth": auth})
        assert status_ == 201, body
        return headers["X-Subject-Token"]

    def validate(self, caller, subject):
        return self.ask("GET", "/v3/auth/tokens", caller, X_Subject_Token=subject)[0]


def serving(port):
    """Who has the server's end of each connection to this port: the client's port to the process."""
    inodes = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        if int(parts[1].rpartition(":")[2], 16) == port and parts[3] == "01":
            inodes[f"socket:[{parts[9]}]"] = int(parts[2].rpartition(":")[2], 16)
    found = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for link in folder.iterdir():
                with contextlib.suppress(OSError):
                    if (target := str(link.readlink())) in inodes:
                        found[inodes[target]] = int(folder.parent.name)
    return found


class Cell:
    """One site with its processes."""

    def __init__(self, home):
        self.home = home
        self.site = home.members()[1]
        self.secret = home.password()

    @property
    def leader(self):
        return ask.control(self.home.control, command="report")[self.site.name]

    @property
    def workers(self):
        return [one["pid"] for one in self.status()["workers"]]

    @property
    def pids(self):
        return [self.leader, *self.workers]

    def status(self):
        return ask.page(self.site.admin, "/status", 5.0)

    def all_serve(self):
        try:
            told = self.status()
        except ask.Unanswered:
            return False
        return len(told["workers"]) == COUNT - 1 and all(one["state"] == "serving" for one in told["workers"])

    def is_ready(self):
        try:
            return ask.page(self.site.admin, "/readyz")["ready"]
        except (ask.Unanswered, ask.Refusal):
            return False

    @contextlib.contextmanager
    def each(self):
        """A connection to each of the processes, the leader first, once all serve: one that was slow is replaced."""
        with contextlib.ExitStack() as stack:
            until(self.all_serve, "all of its processes")
            wanted, found = self.pids, {}
            for _ in range(400):
                connection = Connection(self.site)
                stack.callback(connection.close)
                connection.ask("GET", "/healthcheck")
                connection.pid = serving(self.site.public).get(connection.port_here)
                if connection.pid is None:  # it has ended already: its process has just been told to
                    continue
                if connection.pid not in wanted:
                    until(self.all_serve, "all of its processes")
                    wanted = self.pids
                found.setdefault(connection.pid, connection)
                if found.keys() >= set(wanted):
                    break
            assert found.keys() >= set(wanted)
            yield [found[pid] for pid in wanted]


@contextlib.contextmanager
def cell(directory):
    with ended(directory) as home:
        words = ("--set", f"workers.processes={COUNT}", "--set", "identity.password_hash_rounds=4")
        words = (*words, "--set", f"freshness.system={SYSTEM_S}")
        words = (*words, "--set", "convergence.interval_s=1")
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()), *words)
        assert done.returncode == 0, done.stderr
        made = Cell(home)
        assert made.all_serve()  # `up` waits for all
        yield made


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A site with three processes, for tests that leave it as it was, or bring back what they ended."""
    with cell(tmp_path_factory.mktemp("workers") / "federation") as made:
        yield made


@pytest.fixture
def alone(tmp_path):
    """One for a test that ends it."""
    with cell(tmp_path / "federation") as made:
        yield made


def test_each_is_a_process_of_its_own_and_all_are_at_one_port(three):
    assert len(set(three.pids)) == COUNT
    for pid in three.workers:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert "worker" in words  # begun anew, not forked: no memory is shared
        assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == three.leader
    with three.each():
        pass
    assert three.is_ready()


def test_a_token_of_one_process_is_valid_at_all_others(three):
    with three.each() as connections:
        for issuer in connections:
            token = issuer.login(three.secret)
            assert [other.validate(token, token) for other in connections] == [200] * COUNT


def test_what_is_revoked_through_one_is_refused_by_all_once_it_is_answered(three):
    """Also by those that have just answered for it from memory."""
    with three.each() as connections:
        caller = connections[0].login(three.secret)
        for turn in range(30):
            token = connections[turn % COUNT].login(three.secret)
            for other in connections * 2:
                assert other.validate(caller, token) == 200
            revoker = connections[(turn // COUNT) % COUNT]
            assert revoker.ask("DELETE", "/v3/auth/tokens", caller, X_Subject_Token=token)[0] == 204
            assert [other.validate(caller, token) for other in connections] == [404] * COUNT


def test_a_change_made_through_one_is_there_at_all_once_it_is_answered(three):
    with three.each() as connections:
        token = connections[0].login(three.secret)
        for turn in range(15):
            body = {"project": {"name": f"made-{turn}", "domain_id": "default"}}
            made, _, answer = connections[turn % COUNT].ask("POST", "/v3/projects", token, body)
            assert made == 201
            path = f"/v3/projects/{answer['project']['id']}"
            assert [one.ask("GET", path, token)[0] for one in connections] == [200] * COUNT
            changed = {"project": {"description": "changed"}}
            assert connections[(turn + 1) % COUNT].ask("PATCH", path, token, changed)[0] == 200
            shown = [one.ask("GET", path, token)[2]["project"]["description"] for one in connections]
            assert shown == ["changed"] * COUNT
            assert connections[(turn + 2) % COUNT].ask("DELETE", path, token)[0] == 204
            assert [one.ask("GET", path, token)[0] for one in connections] == [404] * COUNT


def test_no_token_is_refused_while_keys_turn(three):
    """A key that a process does not hold signs at none."""
    with three.each() as connections:
        refused, over = [], threading.Event()

        def play(place):
            with three.each() as mine:
                while not over.is_set():
                    token = mine[place].login(three.secret)
                    refused.extend(one.pid for one in mine if one.validate(token, token) != 200)

        with ThreadPoolExecutor(COUNT) as pool:
            playing = [pool.submit(play, place) for place in range(COUNT)]
            try:
                for _ in range(5):
                    turned = rkctl("keys", "rotate", "--json", "--state", str(three.home.directory))
                    assert json.loads(turned.stdout)["turned"], turned.stderr
            finally:
                over.set()
            for one in playing:
                one.result()
        assert refused == []
        epoch = three.status()["ring_epoch"]
        until(lambda: {one["ring_epoch"] for one in three.status()["workers"]} == {epoch}, "the last turn")
        assert connections


def test_metrics_are_those_of_all(three):
    def validations():
        with urllib.request.urlopen(f"http://127.0.0.1:{three.site.admin}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(one.split()[-1]) for one in lines if one.startswith("regional_keystone_validations_total{"))

    with three.each() as connections:
        token = connections[0].login(three.secret)
        before = validations()
        for connection in connections:
            for _ in range(7):
                assert connection.validate(token, token) == 200
        assert validations() == before + 7 * COUNT


def test_a_row_that_a_hand_has_changed_is_put_right_and_no_process_goes_on_with_it(three):
    """INV-24: found, named and mended within the interval, whatever a process has read of it meanwhile."""
    replica = three.home.directory / "RegionOne" / "replica.db"

    def found():
        return three.status()["convergence"]["found"]["changed"]

    with three.each() as connections:
        token = connections[0].login(three.secret)
        for turn in range(1, 4):
            before = found()
            with contextlib.closing(sqlite3.connect(replica, timeout=10)) as db, db:
                ((name, row),) = db.execute("SELECT id, row FROM projects WHERE name = 'admin'").fetchall()
                wrong = msgspec.msgpack.encode(msgspec.msgpack.decode(row) | {"enabled": False})
                db.execute("UPDATE projects SET row = ? WHERE id = ?", (wrong, name))
            for one in connections:  # a process that looks now may see what lies there
                assert one.validate(token, token) in {200, 401, 404}
            until(lambda before=before: found() > before, "the row to be found")
            assert [one.validate(token, token) for one in connections] == [200] * COUNT, turn
            assert all(one.login(three.secret) for one in connections)
        last = three.status()["convergence"]["last"][-1]
        assert (last["table"], last["key"], last["how"], last["mended"]) == ("projects", name, "changed", True)


def test_without_the_controller_all_go_on_and_revoke(three):
    with three.each() as connections:
        tokens = [one.login(three.secret) for one in connections]
        ask.control(three.home.control, command="signal", name=CONTROLLER, signal="KILL")
        until(lambda: status(three.home)["sites"][0]["state"] == "isolated", "the site to notice")
        caller = connections[1].login(three.secret)
        for place, token in enumerate(tokens):
            assert [one.validate(caller, token) for one in connections] == [200] * COUNT
            revoked = connections[place].ask("DELETE", "/v3/auth/tokens", caller, X_Subject_Token=token)
            assert revoked[0] == 204
            assert [one.validate(caller, token) for one in connections] == [404] * COUNT
        for one in connections:
            body = {"project": {"name": "no", "domain_id": "default"}}
            assert one.ask("POST", "/v3/projects", caller, body)[0] == 503
    assert up(three.home, "--set", f"workers.processes={COUNT}").returncode == 0
    until(lambda: status(three.home)["sites"][0]["state"] == "connected", "the site to be back")


def test_a_worker_killed_under_load_costs_only_its_own_connections(three):
    with three.each() as connections:
        token = connections[0].login(three.secret)
    victim, over = three.workers[0], threading.Event()
    wrong, torn, answered = [], [], []

    def client():
        connection = None
        while not over.is_set():
            try:
                if connection is None:
                    connection = Connection(three.site)
                found = connection.validate(token, token)
                (answered if found == 200 else wrong).append(found)
            except (OSError, http.client.HTTPException) as error:
                torn.append((time.monotonic(), error))
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        playing = [pool.submit(client) for _ in range(6)]
        try:
            time.sleep(0.5)
            killed_at, before = time.monotonic(), len(answered)
            os.kill(victim, signal.SIGKILL)
            until(lambda: three.all_serve() and victim not in three.workers, "another worker")
            until(three.is_ready, "readiness")
            until(lambda: len(answered) > before + 100, "answers afterwards")
        finally:
            over.set()
        for one in playing:
            one.result()
    assert wrong == []
    assert len(answered) > before + 100
    assert len(torn) <= 3 * 6  # who was on it, and who was on the way to it
    assert all(at - killed_at < 5.0 for at, _ in torn)  # machines stall
    with three.each() as connections:
        assert [one.validate(token, token) for one in connections] == [200] * COUNT
    assert "worker_ended" in three.home.log("RegionOne").read_text()


def test_a_suspended_site_knows_on_waking_that_it_is_old_before_it_answers(three):
    """The first answer of each process: also from memory, and though a request waited while it slept."""
    controller = ask.control(three.home.control, command="report")[CONTROLLER]
    with three.each() as connections:
        system = [one.login(three.secret, scope={"system": {"all": True}}) for one in connections]
        plain = connections[0].login(three.secret)
        for one in connections:
            assert {one.validate(token, token) for token in (*system, plain) * 2} == {200}
        pids = three.pids
        os.kill(controller, signal.SIGSTOP)  # nobody tells them how late it is
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(SYSTEM_S + 1)
            for one, token in zip(connections, system, strict=True):
                one.request("GET", "/v3/auth/tokens", headers={"X-Auth-Token": token, "X-Subject-Token": token})
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            answers = [one.getresponse() for one in connections]
            said = [
                (one.status, one.headers["Retry-After"], json.loads(one.read())["error"]["title"]) for one in answers
            ]
            assert said == [(503, "1", "Service Unavailable")] * COUNT
            assert [one.validate(plain, plain) for one in connections] == [200] * COUNT
        finally:
            os.kill(controller, signal.SIGCONT)
        for one, token in zip(connections, system, strict=True):
            until(lambda one=one, token=token: one.validate(token, token) == 200, "news")


def test_a_frozen_worker_delays_a_revocation_and_does_not_survive_it(three):
    with three.each() as connections:
        caller, token = connections[0].login(three.secret), connections[1].login(three.secret)
        frozen = connections[2].pid
        os.kill(frozen, signal.SIGSTOP)
        began = time.monotonic()
        assert connections[1].ask("DELETE", "/v3/auth/tokens", caller, X_Subject_Token=token)[0] == 204
        assert time.monotonic() - began < 4
        assert not Path(f"/proc/{frozen}/cmdline").exists() or not Path(f"/proc/{frozen}/cmdline").read_bytes()
    until(lambda: three.all_serve() and frozen not in three.workers, "another worker")
    with three.each() as connections:
        assert [one.validate(caller, token) for one in connections] == [404] * COUNT


def test_a_worker_that_is_told_to_end_finishes_what_it_has_begun(three):
    with three.each() as connections:
        token = connections[0].login(three.secret)
        connection = connections[1]
        names = iter(range(1000))

        def make():
            body = {"user": {"name": f"slow-{next(names)}", "domain_id": "default", "password": "x" * 20}}
            return connection.ask("POST", "/v3/users", token, body)[0]

        assert make() == 201
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(make)
            time.sleep(0.002)
            os.kill(connection.pid, signal.SIGTERM)
            assert asked.result() == 201
        until(lambda: three.all_serve() and connection.pid not in three.workers, "another worker")


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.long), True])
def test_nothing_outlives_a_leader_that_is_killed(three, stopped):
    pids = three.pids
    if stopped:
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not set(pids) & processes(three.home).keys(), "all to be gone")
    until(lambda: is_free(three.site.public), "the kernel to free the port")
    assert up(three.home, "--set", f"workers.processes={COUNT}").returncode == 0
    until(three.all_serve, "the revived site")


@pytest.mark.long
def test_a_worker_that_cannot_begin_is_tried_again_ever_more_slowly_and_said_loudly(three):
    file = three.home.state("RegionOne") / "identity" / "membership"
    content = file.read_bytes()

    def ends():
        return three.home.log("RegionOne").read_text().count("worker_ended")

    before = ends()
    file.write_bytes(b"")
    try:
        os.kill(three.workers[0], signal.SIGKILL)
        until(lambda: ends() >= before + 3, "three attempts")
        assert three.is_ready()  # the others go on
        with contextlib.closing(Connection(three.site)) as connection:
            assert connection.login(three.secret)
    finally:
        file.write_bytes(content)
    until(three.all_serve, "the worker to serve after all")
    until(three.is_ready, "readiness")


def test_a_worker_is_no_command_for_people():
    shown = subprocess.run(
        [Path(sys.executable).with_name("regional-keystone"), "--help"], capture_output=True, text=True, check=True
    )
    assert "worker" not in shown.stdout.partition("Commands")[2]


@pytest.mark.long
def test_down_leaves_nothing_and_a_port_that_another_shares_is_refused(alone):
    """SO_REUSEPORT would let two sites answer at one port."""
    before = ports(alone.home)
    state = alone.home.state("RegionOne")
    assert {path.name for path in state.rglob("*.sock")} == {"operator.sock"}, "workers have no address"
    assert rkctl("down", "--state", str(alone.home.directory)).returncode == 0
    assert processes(alone.home) == {}
    assert all(is_free(port) for port in before)
    assert not list(state.rglob("*.sock"))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", alone.site.public))
        taken.listen()
        done = up(alone.home, "--set", f"workers.processes={COUNT}")
    assert done.returncode == 4
    assert f"port {alone.site.public} is taken" in done.stderr
    assert processes(alone.home) == {}
