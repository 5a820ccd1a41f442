"""Keys are stolen from a federation of real processes: two people condemn one, a site panics without a controller."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from controller import ask
from controller.federation import CONTROLLER
from controller.probe import Client, password
from tests.processes import PATIENCE_S, RKCTL, admin_token, ended, free_port, make, rkctl, until, up

pytestmark = pytest.mark.federation
SYSTEM = {"system": {"all": True}}


class World:
    """A controller and two sites; two administrators."""

    def __init__(self, home):
        self.home = home
        self.members = home.members()
        self.where = ("--state", str(home.directory))
        self.made = self.second_admin()

    def second_admin(self):
        member, token = self.members[0], admin_token(self.home)
        with Client(member, token) as client:
            user = make(member, token, "user", "/v3/users", name="bert", domain_id="default", password="bert's own")
            [role] = client.ask("GET", "/v3/roles?name=admin").body["roles"]
            assert client.ask("PUT", f"/v3/system/users/{user['id']}/roles/{role['id']}").status == 204
        return user["id"]

    def login(self, place):
        with Client(self.members[place]) as client:
            return client.ask("POST", "/v3/auth/tokens", {"auth": password("admin", self.home.password(), "default")})

    def token(self, place):
        answer = self.login(place)
        assert answer.status == 201, answer.body
        return answer.headers["x-subject-token"]

    def worth(self, token):
        """What each process says of it."""
        return [self.worth_at(place, token) for place in range(len(self.members))]

    def worth_at(self, place, token):
        with Client(self.members[place], token) as client:
            return client.ask("GET", "/v3/auth/tokens", X_Subject_Token=token).status

    def keys(self, *words, who=None):
        """`rkctl keys`, as this person."""
        passwords = {"admin": self.home.password(), "bert": "bert's own"}
        person = {"OS_USERNAME": who, "OS_PASSWORD": passwords[who]} if who else {}
        command = [RKCTL, "keys", *words, *self.where]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | person, check=False
        )

    def panic(self, name, *words):
        config = ("--config", str(self.home.config(name)))
        command = [sys.executable, "-m", "regional_keystone", *config, "panic", "--yes", "--json", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def shown(world, place):
    return ask.page(world.members[place].ports[1], "/status")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with ended(tmp_path_factory.mktemp("stolen") / "federation") as home:
        words = ("--sites", "RegionOne,RegionTwo", "--port", str(free_port()))
        sets = ("identity.password_hash_rounds=4", "keys.two_person=true")
        done = up(home, *words, *(word for one in sets for word in ("--set", one)))
        assert done.returncode == 0, done.stderr
        made = World(home)
        yield made
        logs = "".join(path.read_text() for path in (home.directory / "logs").iterdir())
        assert "Traceback" not in logs
        keys = [path.read_text().strip() for path in home.directory.rglob("fernet-keys/[0-9]*")]
        assert keys
        assert not any(key in logs for key in keys)


def primary(world, place=0):
    ring = shown(world, place)["rings"]["token"]
    return ring["keys"][str(ring["primary"])]


def test_two_people_condemn_a_key_and_it_is_refused_everywhere_within_seconds(world):
    other = world.token(1)
    assert rkctl("keys", "rotate", *world.where).returncode == 0
    until(lambda: len({primary(world, place) for place in range(3)}) == 1, "the turn")
    stolen, key = [world.token(place) for place in range(3)], primary(world)
    assert {one for text in (*stolen, other) for one in world.worth(text)} == {200}

    alone = world.keys("compromised", "--key", key, "--yes")
    assert (alone.returncode, "two people" in alone.stderr) == (1, True), alone
    made = world.keys("compromised", "--key", key, "--prepare", "--why", "lost", "--json", who="admin")
    assert made.returncode == 0, made.stderr
    proposal = json.loads(made.stdout)
    assert proposal["cost"]["keys"][0]["id"] == key
    assert {one for text in stolen for one in world.worth(text)} == {200}, "nothing was done yet"
    same = world.keys("confirm", proposal["id"], "--yes", who="admin")
    assert (same.returncode, "another administrator" in same.stderr) == (1, True)

    done = world.keys("confirm", proposal["id"], "--yes", who="bert")
    assert done.returncode == 0, done.stderr
    [after_s] = re.findall(r"refused at 2 of 2 sites after ([0-9.]+) s", done.stdout)
    assert float(after_s) < 5.0
    assert {one for text in stolen for one in world.worth(text)} == {401}
    assert set(world.worth(other)) == {200}
    assert {world.login(place).status for place in range(3)} == {201}
    assert primary(world) != key
    said = (world.home.directory / "logs" / f"{CONTROLLER}.log").read_text()
    assert world.made in said


def test_a_site_panics_without_a_controller_and_all_learn_it_when_that_is_back(world):
    text, key = world.token(1), primary(world, 1)
    os.kill(ask.control(world.home.control, command="report")[CONTROLLER], signal.SIGKILL)
    done = world.panic("RegionOne", "--key", key, "--why", "a thief")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["condemned"] == [key]
    assert world.worth_at(1, text) == 401
    assert world.worth_at(2, text) == 200, "it cannot know"
    assert rkctl("up", "--detach", *world.where).returncode == 0
    until(lambda: world.worth(text) == [401] * 3, "the other site")
    until(lambda: {world.login(place).status for place in range(3)} == {201}, "a ring to seal with")
    assert key not in {one for place in range(3) for one in shown(world, place)["rings"]["token"]["keys"].values()}


def test_a_stolen_site_means_every_key_and_its_end(world):
    text = world.token(2)
    made = world.keys("compromised", "--site", "RegionTwo", "--prepare", who="bert")
    assert made.returncode == 0, made.stderr
    for words in ("RegionTwo held them all", "removed from the federation first", "credential migrate", "live tokens"):
        assert words in made.stderr
    name = made.stdout.split()[-1]
    done = world.keys("confirm", name, "--yes", "--json", who="admin")
    found = json.loads(done.stdout)
    assert found["refused"] == ["RegionOne"]
    assert found["turned"].keys() >= {"token", "credential"}
    assert len(found["condemned"]) == len(found["cost"]["keys"])
    assert done.returncode == 0, done.stderr
    until(lambda: world.login(1).status == 201, "a ring to seal with")
    assert world.worth_at(1, text) == 401
    names = {one["name"]: one["state"] for one in json.loads(rkctl("region", "list", "--json", *world.where).stdout)}
    assert names["RegionTwo"] == "removed"
    assert rkctl("credential", "migrate", *world.where).returncode == 0
