"""A whole federation from one command, as operators and accidents treat it: real processes, real ports."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from controller import ask
from controller.federation import CONTROLLER, is_free
from controller.probe import Client
from regional_keystone.key_directory import read_directory
from tests.processes import (
    PATIENCE_S,
    admin_token,
    ended,
    free_port,
    make,
    ports,
    processes,
    read,
    rkctl,
    status,
    until,
    up,
)

pytestmark = pytest.mark.federation
WHOLE = {"leading", "connected"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """One federation with two sites, for tests that leave it as it was."""
    with ended(tmp_path_factory.mktemp("up") / "federation") as home:
        done = up(home, "--sites", "RegionOne,RegionTwo", "--port", str(free_port()))
        assert done.returncode == 0, done.stderr
        yield home, done.stdout


@pytest.fixture(scope="module")
def spare():
    """The federations that tests which end one have been given; the last may be good for another."""
    with contextlib.ExitStack() as stack:
        yield stack, []


@pytest.fixture
def alone(spare, tmp_path_factory):
    """A federation with one site that serves, for tests that end it: that of the test before, if it can be mended."""
    stack, given = spare
    if not (given and is_whole(given[-1])):
        given.append(stack.enter_context(ended(tmp_path_factory.mktemp("alone") / "federation")))
        done = up(given[-1], "--sites", "RegionOne", "--port", str(free_port()))
        assert done.returncode == 0, done.stderr
    return given[-1]


def is_whole(home):
    """Whether the controller and the one site serve, once what had ended is started again."""
    if [one.name for one in home.members()] != [CONTROLLER, "RegionOne"]:
        return False
    runs = home.holder() and ask.control(home.control, command="report").keys() == {CONTROLLER, "RegionOne"}
    if not runs and up(home).returncode:
        return False
    until(
        lambda: {one["state"] for one in (status(home)["controller"], *status(home)["sites"])} == WHOLE, "all to serve"
    )
    return True


def test_everything_is_where_operators_look_for_it_and_private(federation):
    home, said = federation
    assert home.directory.stat().st_mode & 0o777 == 0o700
    names = {"openrc", "clouds.yaml", "ports.json", "logs", "controller", "RegionOne", "RegionTwo"}
    assert names <= {path.name for path in home.directory.iterdir()}
    for path in home.directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert said.count(home.password()) == 1
    holding = [
        path for path in home.directory.rglob("*") if path.is_file() and home.password().encode() in path.read_bytes()
    ]
    assert sorted(path.name for path in holding) == ["clouds.yaml", "openrc"]


def test_openrc_logs_in_with_plain_shell(federation):
    home, _ = federation
    shown = subprocess.run(
        ["/bin/sh", "-c", f". {home.openrc} && env"], capture_output=True, text=True, check=True, env={}
    ).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if line.startswith("OS_"))
    assert values == {
        "OS_AUTH_URL": home.members()[0].url,
        "OS_USERNAME": "admin",
        "OS_PASSWORD": home.password(),
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": "Global",
        "OS_IDENTITY_API_VERSION": "3",
    }
    assert admin_token(home)


def test_clouds_yaml_has_a_cloud_for_the_controller_and_each_region(federation):
    home, _ = federation
    clouds = yaml.safe_load((home.directory / "clouds.yaml").read_text())["clouds"]
    assert {name: cloud["region_name"] for name, cloud in clouds.items()} == {
        "controller": "Global",
        "RegionOne": "RegionOne",
        "RegionTwo": "RegionTwo",
    }
    for member in home.members():
        assert clouds[member.name]["auth"]["auth_url"] == member.url
        assert admin_token(home, member)


def test_status_tells_of_everyone(federation):
    home, _ = federation
    found = status(home)
    controller, *sites = home.members()
    assert found["controller"]["url"] == controller.url
    assert [(site["name"], site["url"]) for site in found["sites"]] == [(one.name, one.url) for one in sites]
    for site in found["sites"]:
        assert {"name", "url", "position", "lag_entries", "age_s", "ring_epoch", "state"} <= site.keys()
        assert site["url"].endswith("/v3")
        assert site["state"] not in {"down", "isolated"}
        assert site["lag_entries"] == 0
        assert site["age_s"] < 5


def test_ports_follow_each_other(federation):
    home, _ = federation
    controller, one, two = home.members()
    first = controller.public
    assert [one.public, two.public, controller.stream] == [first + 1, first + 2, first + 3]
    assert [controller.admin, one.admin, two.admin] == [first + 4, first + 5, first + 6]


def test_a_second_up_on_the_same_directory_is_refused(federation):
    home, _ = federation
    done = up(home)
    assert done.returncode == 5
    assert re.search(r"already runs in .* \(process \d+\).*rkctl down", done.stderr)
    assert status(home)["controller"]["state"] != "down"


def test_region_and_keys_commands_speak_to_the_controller(federation):
    home, _ = federation
    listed = json.loads(rkctl("region", "list", "--json", "--state", str(home.directory)).stdout)
    assert {(one["name"], one["state"]) for one in listed} == {("RegionOne", "active"), ("RegionTwo", "active")}
    before = json.loads(rkctl("keys", "status", "--json", "--state", str(home.directory)).stdout)["epoch"]
    dry = rkctl("keys", "rotate", "--dry-run", "--json", "--state", str(home.directory))
    assert json.loads(dry.stdout)["turned"] is False
    turned = json.loads(rkctl("keys", "rotate", "--json", "--state", str(home.directory)).stdout)
    assert turned["epoch"] == before + 1


def test_trusts_that_have_ended_are_flushed_and_a_day_ahead_is_refused(federation):
    home, _ = federation
    where = ("--state", str(home.directory), "--json")
    assert json.loads(rkctl("trusts", "flush", *where).stdout) == {"seen": 0, "removed": 0}
    refused = rkctl("trusts", "flush", "--date", "01-01-2999", *where)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "lies ahead" in refused.stderr


def test_what_can_act_for_a_user_is_shown_and_no_secret(federation):
    home, _ = federation
    where = ("--state", str(home.directory))
    shown = rkctl("user", "show", "admin", "--domain", "Default", *where).stdout
    assert "bcrypt, rounds" in shown
    assert "none: trusts_given, trusts_held" in " ".join(shown.split())
    told = json.loads(rkctl("user", "show", "admin", "--json", *where).stdout)
    assert {one["target"] for one in told["grants"]} == {"project", "system"}
    assert "$" not in repr(told)
    for name, domain, why in (("nobody", "", "Could not find user: nobody."), ("admin", "none", "Could not find user")):
        refused = rkctl("user", "show", name, "--domain", domain, *where)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr


def test_credential_commands_turn_the_ring_and_seal_again(federation):
    home, _ = federation

    def credential(command):
        done = rkctl("credential", command, "--json", "--state", str(home.directory))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert credential("setup")["made"] is False  # the controller did, at its first start
    before = credential("status")
    turned = credential("rotate")
    assert (turned["epoch"], turned["primary"]) == (before["epoch"] + 1, before["primary"] + 1)
    assert credential("migrate")["others"] == 0
    for one in home.members():
        keys = home.state(one.name) / "credential-keys"
        until(lambda keys=keys: read_directory(keys).epoch == turned["epoch"], "the ring at every member")


def test_a_child_that_was_killed_is_reported_and_revived_by_up(federation):
    home, _ = federation
    site = home.members()[2]
    process = ask.control(home.control, command="report")[site.name]
    caller, subject = admin_token(home), {"X-Subject-Token": admin_token(home)}
    with Client(site, caller) as client:
        until(lambda: client.ask("GET", "/v3/auth/tokens", **subject).status == 200, "the token")
        assert client.ask("DELETE", "/v3/auth/tokens", **subject).status == 204
        os.kill(process, signal.SIGKILL)
    until(lambda: status(home)["sites"][1]["state"] == "down", "the site to be down")
    until(lambda: "revives it" in home.log("up").read_text(), "the report")
    assert site.name not in ask.control(home.control, command="report")  # nobody restarts it unasked
    done = up(home)
    assert (done.returncode, done.stdout) == (0, f"revived {site.name}; all serve\n")
    for member in (site, home.members()[0]):  # what it had answered for is kept, and comes up the stream
        until(lambda one=member: read(one, caller, "/v3/auth/tokens", **subject).status == 404, "the refusal")
    assert read(site, caller, "/v3/auth/tokens", **{"X-Subject-Token": caller}).status == 200
    until(lambda: status(home)["sites"][1]["lag_entries"] == 0, "the site to follow")


def test_down_leaves_no_process_port_or_lock(alone):
    before = ports(alone)
    assert rkctl("down", "--state", str(alone.directory)).returncode == 0
    assert processes(alone) == {}
    assert all(is_free(port) for port in before)
    assert alone.holder() is None
    assert not alone.control.exists()
    left = {path.name for path in alone.directory.rglob("*")}
    assert not {name for name in left if name.endswith((".sock", ".pid", "lock"))}


def test_a_second_up_goes_on_with_the_data_at_the_same_ports(alone):
    token, before = admin_token(alone), ports(alone)
    made = make(alone.members()[0], token, "project", "/v3/projects", name="kept", domain_id="default")
    secret = alone.password()
    rkctl("down", "--state", str(alone.directory))
    done = up(alone)
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout
    assert (ports(alone), alone.password()) == (before, secret)
    for member in alone.members():
        shown = read(member, token, f"/v3/projects/{made['id']}")
        assert shown.body["project"]["name"] == "kept"


@pytest.mark.long
def test_sites_that_are_not_named_are_told_and_come_back_without_a_name(alone):
    rkctl("down", "--state", str(alone.directory))
    done = up(alone, "--sites", "RegionTwo")
    assert done.returncode == 0, done.stderr
    assert "not started: RegionOne; `rkctl up` without --sites starts all" in done.stdout
    assert ask.control(alone.control, command="report").keys() == {"controller", "RegionTwo"}
    rkctl("down", "--state", str(alone.directory))
    done = up(alone)
    assert (done.returncode, "not started" in done.stdout) == (0, False)
    assert ask.control(alone.control, command="report").keys() == {"controller", "RegionOne", "RegionTwo"}


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.long), True])
def test_killing_the_supervisor_leaves_nothing(alone, stopped):
    before = ports(alone)
    if stopped:
        for pid in ask.control(alone.control, command="report").values():
            os.kill(pid, signal.SIGSTOP)
    os.kill(alone.holder(), signal.SIGKILL)
    until(lambda: not processes(alone), "every process to be gone")
    until(lambda: all(is_free(port) for port in before), "the kernel to free the ports")
    assert up(alone).returncode == 0  # a stale socket is in nobody's way


def test_a_site_that_lost_its_controller_says_isolated_and_the_controller_down(alone):
    ask.control(alone.control, command="signal", name=CONTROLLER, signal="KILL")
    until(lambda: status(alone)["sites"][0]["state"] == "isolated", "the site to notice")
    first = status(alone)
    assert first["controller"]["state"] == "down"
    until(lambda: status(alone)["sites"][0]["age_s"] > first["sites"][0]["age_s"] + 0.5, "its age to grow")


def test_a_stopped_process_is_down_and_ends_with_the_rest(alone):
    ask.control(alone.control, command="signal", name="RegionOne", signal="STOP")
    assert status(alone)["sites"][0]["state"] == "down"
    assert rkctl("down", "--state", str(alone.directory)).returncode == 0
    assert processes(alone) == {}


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken, ended(tmp_path / "federation") as home:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        done = up(home, "--port", str(port))
        assert done.returncode == 4
        assert f"port {port} is taken" in done.stderr
        assert "--port" in done.stderr
        assert processes(home) == {}


@pytest.mark.long
def test_a_recorded_port_that_was_taken_meanwhile_is_named(alone):
    rkctl("down", "--state", str(alone.directory))
    site = alone.members()[1]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", site.public))
        taken.listen()
        done = up(alone)
    assert done.returncode == 4
    assert f"port {site.public} is taken" in done.stderr
    assert site.name in done.stderr


@pytest.mark.long
def test_a_state_of_a_newer_version_is_refused_and_left_alone(alone):
    rkctl("down", "--state", str(alone.directory))
    file = alone.state(CONTROLLER) / "log.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1000}")
        database.commit()
    done = up(alone)
    assert done.returncode == 3
    assert str(file) in done.stderr
    assert processes(alone) == {}
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    assert up(alone).returncode == 0


@pytest.mark.long
def test_a_damaged_controller_file_is_named_and_refused(alone):
    rkctl("down", "--state", str(alone.directory))
    file = alone.state(CONTROLLER) / "log.db"
    file.write_bytes(b"not a database at all" * 1000)
    done = up(alone)
    assert done.returncode == 3
    assert str(file) in done.stderr


@pytest.mark.long
def test_a_damaged_replica_is_rebuilt_from_the_controller(alone):
    made = make(alone.members()[0], admin_token(alone), "region", "/v3/regions", id="Kept")
    rkctl("down", "--state", str(alone.directory))
    file = alone.state("RegionOne") / "replica.db"
    file.write_bytes(b"not a database at all" * 1000)
    done = up(alone)
    assert done.returncode == 0, done.stderr
    token, site = admin_token(alone), alone.members()[1]
    until(lambda: read(site, token, f"/v3/regions/{made['id']}").status == 200, "the replica")
    assert "damaged" in alone.log("RegionOne").read_text()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = rkctl("up", "--detach", "--state", str(tmp_path / "file" / "federation"))
    assert done.returncode == 3
    assert "--state" in done.stderr


def test_a_directory_without_rights_is_named(tmp_path):
    """Without the capability by which root may do anything."""
    target, prefix = tmp_path / "closed", []
    target.mkdir(mode=0o500)
    if not os.geteuid():
        os.chown(target, 65534, 65534)
        dropped = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--inh-caps={dropped}", f"--bounding-set={dropped}", "--"]
    program = [sys.executable, "-m", "controller", "up", "--detach", "--state", str(target / "federation")]
    done = subprocess.run([*prefix, *program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 3
    assert "--state" in done.stderr


def lives(home, member):
    """Seconds for which a new token is good there."""
    token = admin_token(home, member)
    body = read(member, token, "/v3/auth/tokens", X_Subject_Token=token).body
    issued, expires = (body["token"][name][:19] for name in ("issued_at", "expires_at"))
    parsed = [time.mktime(time.strptime(one, "%Y-%m-%dT%H:%M:%S")) for one in (issued, expires)]
    return round(parsed[1] - parsed[0], -1)


@pytest.mark.long
def test_settings_reach_those_that_know_them_and_hold_until_they_are_set_otherwise(tmp_path):
    with ended(tmp_path / "federation") as home:
        words = ("--set", "token.expiration=300", "--set", "stream.certificate_lifetime_s=7777")
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()), *words)
        assert done.returncode == 0, done.stderr
        assert "as set before" not in done.stdout
        assert [lives(home, member) for member in home.members()] == [300, 300]
        rkctl("down", "--state", str(home.directory))
        done = up(home)
        assert done.returncode == 0, done.stderr
        assert "as set before: token.expiration=300, stream.certificate_lifetime_s=7777" in done.stdout
        assert [lives(home, member) for member in home.members()] == [300, 300]
        rkctl("down", "--state", str(home.directory))
        done = up(home, "--set", "token.expiration=900")
        assert "as set before: stream.certificate_lifetime_s=7777" in done.stdout
        assert [lives(home, member) for member in home.members()] == [900, 900]


@pytest.mark.long
def test_what_a_running_federation_was_not_started_with_is_refused_before_anything_is_done(alone):
    os.kill(ask.control(alone.control, command="report")["RegionOne"], signal.SIGKILL)
    until(lambda: status(alone)["sites"][0]["state"] == "down", "the site to be down")
    for words, says in (
        (("--set", "token.expiration=5"), "token.expiration=5"),
        (("--sites", "RegionOne,RegionTwo"), "--sites (it has RegionOne)"),
        (("--port", "19"), f"--port (it has {alone.members()[0].port})"),
        (("--engines",), "--engines"),
    ):
        done = up(alone, *words)
        assert (done.returncode, done.stdout) == (5, "")
        assert f"has other than {says}: `rkctl down" in done.stderr
    assert status(alone)["sites"][0]["state"] == "down"
    assert up(alone, "--sites", "RegionOne").stdout == "revived RegionOne; all serve\n"


@pytest.mark.long
def test_up_and_down_tell_the_same_as_json(alone):
    os.kill(ask.control(alone.control, command="report")["RegionOne"], signal.SIGKILL)
    until(lambda: status(alone)["sites"][0]["state"] == "down", "the site to be down")
    assert json.loads(up(alone, "--json").stdout) == {"revived": ["RegionOne"]}
    where = ("--json", "--state", str(alone.directory))
    assert json.loads(rkctl("down", *where).stdout) == {"state": str(alone.directory), "ended": True}
    told = json.loads(up(alone, "--json").stdout)
    assert [(one["name"], one["url"]) for one in told["processes"]] == [(one.name, one.url) for one in alone.members()]
    assert told["openrc"] == str(alone.openrc)
    assert "password" not in told  # shown once, at the first start


def test_metrics_are_where_up_says(federation):
    home, _ = federation
    for member in home.members():
        with urllib.request.urlopen(f"http://127.0.0.1:{member.admin}/metrics", timeout=5) as answer:
            assert b"regional_keystone" in answer.read()


def test_bootstrap_is_safe_to_repeat_and_resets_no_password(federation, tmp_path):
    home, _ = federation
    position = status(home)["controller"]["position"]
    (tmp_path / "password").write_text("another")
    words = ("bootstrap", "--password-file", str(tmp_path / "password"), "--state", str(home.directory))
    (tmp_path / "password").chmod(0o644)
    done = rkctl(*words)
    assert (done.returncode, f"chmod 600 {tmp_path / 'password'}" in done.stderr) == (3, True)
    (tmp_path / "password").chmod(0o600)
    done = rkctl(*words)
    assert (done.returncode, done.stdout) == (0, "admin is there\n")
    assert status(home)["controller"]["position"] == position
    assert admin_token(home)


def test_a_region_is_added_and_removed(federation):
    home, _ = federation
    where = ("--state", str(home.directory))
    token = rkctl("region", "add", "Oslo", "--url", "http://127.0.0.1:9/v3", *where).stdout.strip()
    assert token.startswith("rkj1.")
    assert rkctl("region", "remove", "Oslo", "--yes", *where).returncode == 0
    listed = json.loads(rkctl("region", "list", "--json", *where).stdout)
    assert {"name": "Oslo", "state": "removed"}.items() <= next(one for one in listed if one["name"] == "Oslo").items()
    refused = rkctl("region", "remove", "Bergen", "--yes", *where)
    assert refused.returncode == 1
    assert "Bergen" in refused.stderr


@pytest.mark.long
def test_a_federation_runs_however_deep_its_directory_is(tmp_path):
    with ended(tmp_path / ("deep" * 20) / ("er" * 20) / "federation") as home:
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()))
        assert done.returncode == 0, done.stderr
        assert rkctl("region", "list", "--json", "--state", str(home.directory)).returncode == 0
