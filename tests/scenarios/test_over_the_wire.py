"""Bad input over HTTP to real processes, at the controller and at a site: refused as Keystone does, nothing half done."""

import asyncio
import base64
import collections
import contextlib
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from controller import ask
from controller.federation import CONTROLLER, HOST
from controller.probe import Client, password
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.errors import StoreRefused
from regional_keystone.key_directory import read_directory
from regional_keystone.keys import KeyRing
from regional_keystone.token import Unscoped, new_audit_id, pack, unpack
from tests.processes import admin_token, ended, free_port, rkctl, status, until, up

pytestmark = pytest.mark.federation

NOBODY = "0" * 32
FOREIGN = KeyRing({0: base64.urlsafe_b64encode(b"a" * 32), 1: base64.urlsafe_b64encode(b"b" * 32)})
KINDS = ("user", "group", "project", "domain", "role", "region", "service", "endpoint")


def body(**fields):
    return json.dumps({"user": {"name": "never", **fields}}).encode()


BAD = {
    "not JSON": b"{",
    "an array": b"[]",
    "not UTF-8": b'{"user": {"name": "\xff"}}',
    "a key twice": b'{"user": {"name": "a", "name": "b"}}',
    "too deep": b'{"user": {"name": "never", "x": ' + b"[" * 40 + b"]" * 40 + b"}}",
    "far too deep": b'{"user":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "too many keys": body(**{f"k{n}": n for n in range(1001)}),
    "too long a text": body(description="x" * 65_537),
    "too long a name": body(name="x" * 256),
    "a number for a name": body(name=5),
    "a text for a truth value": body(enabled="true"),
    "a list for an id": body(domain_id=[]),
    "a number for a password": body(password=5),
    "no wrapper": b'{"name": "never"}',
}
BAD_AUTH = {
    "no methods": {"identity": {}},
    "a text for methods": {"identity": {"methods": "password"}},
    "a list for a user": {"identity": {"methods": ["password"], "password": {"user": []}}},
    "a number for a token": {"identity": {"methods": ["token"], "token": {"id": 5}}},
    "two scopes": password("admin", "x", "default") | {"scope": {"system": {"all": True}, "project": {"id": NOBODY}}},
}


class World:
    """A federation with two sites, and its administrator."""

    def __init__(self, home):
        self.home = home
        self.members = home.members()
        self.token = admin_token(home)
        (self.user,) = self.ask(0, "GET", "/v3/users?name=admin").body["users"]
        (self.project,) = self.ask(0, "GET", "/v3/projects?name=admin").body["projects"]

    def ask(self, place, method, path, sent=None, /, token=None, **headers):
        with Client(self.members[place], self.token if token is None else token) as client:
            return client.ask(method, path, sent, **headers)

    def raw(self, place, path, sent):
        """One POST of these bytes, whatever they are."""
        connection = http.client.HTTPConnection(HOST, self.members[place].public, timeout=10)
        with contextlib.closing(connection):
            headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
            connection.request("POST", path, sent, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def make(self, kind, **fields):
        with Client(self.members[0], self.token) as client:
            return client.make(kind, f"/v3/{kind}s", **fields)

    def login(self, place, name, secret):
        with Client(self.members[place]) as client:
            return client.login(password(name, secret, "default"))

    def names(self, place, kind):
        return {one["name"] for one in self.ask(place, "GET", f"/v3/{kind}s").body[f"{kind}s"]}

    def pid(self, name):
        return ask.control(self.home.control, command="report")[name]

    def level(self):
        """Every site has everything."""
        until(
            lambda: (
                len({one["position"] for one in (status(self.home)["controller"], *status(self.home)["sites"])}) == 1
            ),
            "the sites",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with ended(tmp_path_factory.mktemp("wire") / "federation") as home:
        words = ("--sites", "RegionOne,RegionTwo", "--port", str(free_port()))
        done = up(home, *words, "--set", "identity.password_hash_rounds=4")
        assert done.returncode == 0, done.stderr
        yield World(home)
        assert "Traceback" not in "".join(path.read_text() for path in (home.directory / "logs").iterdir())


at_each = pytest.mark.parametrize("place", [0, 1], ids=["controller", "site"])


def refused(answer, status_, title):
    assert answer.status == status_, answer.body
    assert answer.body["error"].keys() == {"code", "message", "title"}
    assert (answer.body["error"]["code"], answer.body["error"]["title"]) == (status_, title)


@at_each
@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_a_bad_body_is_400_and_nothing_is_made(world, place, sent):
    found, said = world.raw(place, "/v3/users", sent)
    assert (found, said["error"]["code"], said["error"]["title"]) == (400, 400, "Bad Request")
    assert world.names(place, "user").isdisjoint({"never", "a", "b"})


@at_each
@pytest.mark.parametrize("auth", BAD_AUTH.values(), ids=BAD_AUTH)
def test_a_bad_login_is_400(world, place, auth):
    refused(world.ask(place, "POST", "/v3/auth/tokens", {"auth": auth}), 400, "Bad Request")


@at_each
def test_what_says_nothing_about_who_exists_is_401(world, place):
    answers = [
        world.ask(place, "POST", "/v3/auth/tokens", {"auth": password(name, "wrong", "default")}, token="")
        for name in ("admin", "nobody")
    ]
    for answer in answers:
        refused(answer, 401, "Unauthorized")
    assert answers[0].body == answers[1].body


@at_each
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_id_is_404(world, place, kind):
    refused(world.ask(place, "GET", f"/v3/{kind}s/{NOBODY}"), 404, "Not Found")
    refused(world.ask(place, "PATCH", f"/v3/{kind}s/{NOBODY}", {kind: {"description": "x"}}), 404, "Not Found")
    refused(world.ask(place, "DELETE", f"/v3/{kind}s/{NOBODY}"), 404, "Not Found")


@at_each
def test_references_into_nothing_are_refused(world, place):
    service = world.make("service", type="dangling")["id"]
    endpoint = {"interface": "public", "url": "http://x/", "service_id": service}
    for kind, fields, status_ in (
        ("user", {"name": "never", "domain_id": NOBODY}, 404),
        ("group", {"name": "never", "domain_id": NOBODY}, 404),
        ("project", {"name": "never", "parent_id": NOBODY}, 400),
        ("region", {"parent_region_id": NOBODY}, 404),
        ("endpoint", endpoint | {"service_id": NOBODY}, 400),
        ("endpoint", endpoint | {"region_id": NOBODY}, 400),
    ):
        assert world.ask(place, "POST", f"/v3/{kind}s", {kind: fields}).status == status_
    for path in (
        f"/v3/projects/{world.project['id']}/users/{world.user['id']}/roles/{NOBODY}",
        f"/v3/groups/{NOBODY}/users/{world.user['id']}",
        f"/v3/system/users/{world.user['id']}/roles/{NOBODY}",
    ):
        refused(world.ask(place, "PUT", path), 404, "Not Found")


@pytest.mark.parametrize("kind", ["project", "user", "role"])
def test_of_fifty_that_make_one_name_at_once_everywhere_one_wins(world, kind):
    name, together = uuid.uuid4().hex, threading.Barrier(50)
    found = []

    def one(place):
        together.wait()
        found.append(world.ask(place, "POST", f"/v3/{kind}s", {kind: {"name": name}}).status)

    threads = [threading.Thread(target=one, args=(number % 3,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collections.Counter(found) == {201: 1, 409: 49}
    world.level()
    for place in (0, 1, 2):
        assert len(world.ask(place, "GET", f"/v3/{kind}s?name={name}").body[f"{kind}s"]) == 1


@at_each
def test_too_little_scope_is_403_and_nothing_is_done(world, place):
    name = f"low-{place}"
    user = world.make("user", name=name, password="a-password")
    world.level()
    token = world.login(place, name, "a-password")
    [role] = world.ask(place, "GET", "/v3/roles?name=admin").body["roles"]
    for method, path, sent in (
        ("GET", "/v3/users", None),
        ("POST", "/v3/users", {"user": {"name": "never"}}),
        ("POST", "/v3/regions", {"region": {"id": "never"}}),
        ("DELETE", "/v3/regions/RegionTwo", None),
        ("PATCH", f"/v3/users/{user['id']}", {"user": {"enabled": False}}),
        ("PUT", f"/v3/projects/{world.project['id']}/users/{user['id']}/roles/{role['id']}", None),
    ):
        refused(world.ask(place, method, path, sent, token=token), 403, "Forbidden")
    scoped = password(name, "a-password", "default", world.project["id"])
    refused(world.ask(place, "POST", "/v3/auth/tokens", {"auth": scoped}, token=""), 401, "Unauthorized")
    assert world.ask(place, "GET", "/v3/regions/never").status == 404


def minted(world, ring, **changes):
    """A token as this federation makes them, but for these changes."""
    own = read_directory(world.home.state(CONTROLLER) / "fernet-keys")
    payload, issued_at, _ = own.open(world.token)
    told = unpack(payload, issued_at)
    fields = {name: getattr(told, name) for name in told.__struct_fields__} | changes
    return (ring or own).seal(pack(type(told)(**fields)), fields["issued_at"])


@at_each
def test_a_token_that_proves_nothing_is_401_for_callers_and_404_for_subjects(world, place):
    now, token = int(time.time()) * 1_000_000, world.token
    hour = 3_600_000_000
    fresh = {"audit_ids": (new_audit_id(os.urandom(16)),)}
    assert (
        world.ask(place, "GET", "/v3/users", token=minted(world, None, **fresh)).status == 200
    )  # the forger can forge
    last = token.rstrip("=")[-1]
    for what, bad in {
        "missing": "",
        "garbage": "garbage",
        "foreign": minted(world, FOREIGN),
        "expired": minted(world, None, issued_at=now - 2 * hour, expires_at=now - hour, **fresh),
        "of the future": minted(world, None, issued_at=now + hour, expires_at=now + 2 * hour, **fresh),
        "of nobody": minted(world, None, user_id=NOBODY, scope=Unscoped(), **fresh),
        "truncated": token[:-4],
        "re-spelled by one letter": token[:-1] + chr(ord(last) + 1),
        "re-spelled by case": token.swapcase(),
        "re-spelled by too much padding": token + "====",
        "re-spelled by escapes": "%67" + token[1:],
        "far too long": "x" * 5000,
    }.items():
        refused(world.ask(place, "GET", "/v3/users", token=bad), 401, "Unauthorized")
        answer = world.ask(place, "GET", "/v3/auth/tokens", X_Subject_Token=bad)
        refused(answer, 404, "Not Found")
        assert not bad or bad not in json.dumps(answer.body), what


@at_each
def test_a_body_over_the_limit_is_413_whether_its_size_is_told_or_not(world, place):
    big = body(description="x" * 200_000)
    found, said = world.raw(place, "/v3/users", big)
    assert (found, said["error"]["title"]) == (413, "Request Entity Too Large")
    found, said = world.raw(place, "/v3/users", iter([big]))  # in chunks
    assert (found, said["error"]["code"]) == (413, 413)


@at_each
def test_unknown_routes_are_404_and_wrong_methods_405_in_keystones_form(world, place):
    for path in ("/v3/nothing", "/nothing", "/v2.0/tokens", "/v3/users/x/y/z", "/v3//users"):
        refused(world.ask(place, "GET", path, token=""), 404, "Not Found")
    for method, path in (
        ("PUT", "/v3/users"),
        ("DELETE", "/v3/auth/catalog"),
        ("PATCH", "/v3"),
        ("POST", "/v3/users/x"),
    ):
        answer = world.ask(place, method, path)
        refused(answer, 405, "Method Not Allowed")
        assert "GET" in answer.headers["allow"]


@at_each
def test_on_a_full_disk_changes_are_503_nothing_is_half_written_and_it_recovers(world, place):
    """The kernel lets no file of the process grow beyond a size, as on a full disk."""
    pid = world.pid(world.members[place].name)
    state = world.home.state(world.members[place].name)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    victims = [world.login(place, "admin", world.home.password()) for _ in range(2)]
    acknowledged, refusals = set(), []
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest_log(state), before[1]))
    try:
        for number in range(60):
            name = f"full-{place}-{number}"
            answer = world.ask(0, "POST", "/v3/projects", {"project": {"name": name, "description": "x" * 60_000}})
            if answer.status == 201:
                acknowledged.add(name)
            else:
                refusals.append(answer)
            if len(refusals) > 2:
                break
        revoked = [world.ask(place, "DELETE", "/v3/auth/tokens", X_Subject_Token=one).status for one in victims]
        assert world.login(place, "admin", world.home.password())
        assert world.ask(place, "GET", "/v3/users").status == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    for answer in refusals:
        refused(answer, 503, "Service Unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert len(refusals) == (3 if place == 0 else 0)  # a site's full disk hinders nobody else
    assert set(revoked) <= {204, 503}
    until(lambda: world.ask(place, "POST", "/v3/regions", {"region": {}}).status == 201, "room to be used")
    world.level()
    for at in (0, 1, 2):
        there = {name for name in world.names(at, "project") if name.startswith(f"full-{place}-")}
        assert there == acknowledged
        for token, answer in zip(victims, revoked, strict=True):
            assert (world.ask(at, "GET", "/v3/users", token=token).status == 401) == (answer == 204)


def largest_log(state):
    """A size that every write of the store's log soon exceeds."""
    return max((path.stat().st_size for path in Path(state).rglob("*.db-wal")), default=0)


def test_a_second_use_of_a_join_token_is_refused(world, tmp_path):
    where = ("--state", str(world.home.directory))
    token = rkctl("region", "add", "Oslo", *where).stdout.strip()
    try:
        assert complaint_of_joining(tmp_path / "first", token) == ""
        assert "was used" in complaint_of_joining(tmp_path / "second", token)
    finally:
        assert rkctl("region", "remove", "Oslo", "--yes", *where).returncode == 0


def complaint_of_joining(directory, token):
    """Why a site may not join with this token; nothing if it may."""
    try:
        asyncio.run(Identity(directory).join(JoinToken.read(token)))
    except StoreRefused as error:
        return str(error)
    return ""


def test_no_secret_is_in_a_log_a_command_line_or_an_environment(world):
    keys = [path.read_bytes().strip() for path in world.home.directory.rglob("*-keys/[0-9]*")]
    secrets = [world.home.password().encode(), world.token.encode(), b"a-password", b"gAAAAAB", *keys]
    secrets += [base64.urlsafe_b64decode(key) for key in keys]
    holders = {"openrc", "clouds.yaml"}
    for path in world.home.directory.rglob("*"):
        if path.is_file() and path.name not in holders and not path.parent.name.endswith("-keys"):
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
    for pid in ask.control(world.home.control, command="report").values():
        seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(secret in seen for secret in secrets)


def test_a_site_that_was_stopped_refuses_what_was_revoked_meanwhile_at_once(world):
    victim = world.login(1, "admin", world.home.password())
    os.kill(world.pid("RegionOne"), signal.SIGSTOP)
    try:
        assert world.ask(0, "DELETE", "/v3/auth/tokens", X_Subject_Token=victim).status == 204
        assert status(world.home)["sites"][0]["state"] == "down"
    finally:
        os.kill(world.pid("RegionOne"), signal.SIGCONT)
    woken = time.monotonic()
    until(lambda: world.ask(1, "GET", "/v3/users", token=victim).status == 401, "the revocation")
    assert time.monotonic() - woken < 2


@pytest.mark.parametrize("name", [CONTROLLER, "RegionOne"])
def test_a_second_process_on_one_state_directory_is_refused(world, name):
    program = {CONTROLLER: ["controller", "serve", "--config"], "RegionOne": ["regional_keystone", "--config"]}[name]
    words = [str(world.home.config(name)), *([] if name == CONTROLLER else ["serve"])]
    done = subprocess.run(
        [sys.executable, "-m", *program, *words], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 3, done.stderr
    assert f"{world.home.state(name)}: another process serves from it" in done.stderr
    assert world.ask(0, "GET", "/v3/users").status == 200
