"""A deletion of many: done for its callers at once, in bounded steps for the store, and ended after a crash."""

import asyncio
import contextlib
import json

import pytest

from controller import ask, sweep
from controller.probe import Client, password
from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, put
from regional_keystone.model import Deletion, Group, Membership, Project, User
from regional_keystone.overlay import transact
from tests import replay
from tests.api.conftest import Client as ApiClient
from tests.cloud import eventually
from tests.processes import admin_token, ended, free_port, rkctl, until, up

D = Project(id="d", name="d", is_domain=True, enabled=False)
G = Group(id="g", name="g", domain_id="d")


async def stored(world, *records):
    async def decide(_):
        return [put(one) for one in records], None

    await transact(world.overlay, world.controller.sequencer, f"stored/{id(records)}/{records[0]}"[:60], decide)


async def filled(world, count):
    await stored(world, D, G)
    for start in range(0, count, 100):
        people = [User(id=f"u{n}", name=f"u{n}", domain_id="d") for n in range(start, start + 100)]
        await stored(world, *people, *(Membership(user_id=one.id, group_id="g") for one in people))


async def administrator(world):
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    return await ApiClient(world).login("admin", replay.PASSWORD, scope)


@pytest.fixture
async def world(tmp_path):
    async with replay.world(tmp_path) as found:
        yield found


@contextlib.asynccontextmanager
async def sweeping(world):
    task = asyncio.create_task(world.controller.sweeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_other_writes_pass_between_two_steps(world):
    admin, sequencer = await administrator(world), world.controller.sequencer
    await filled(world, 1500)
    before, others = sequencer.head, 0
    async with sweeping(world):
        assert (await admin("DELETE", "/domains/d")).status == 204
        while [one async for one in world.overlay.scan(Deletion)]:
            made = await admin("POST", "/users", {"user": {"name": f"other-{others}"}})
            assert made.status == 201
            others += 1
    entries = await world.overlay.tail(LOG, before)
    swept = [entry.number for entry in entries if entry.id.startswith("sweep/")]
    between = [entry for entry in entries if swept[0] < entry.number < swept[-1] and not entry.id.startswith("sweep/")]
    assert len(swept) > 10
    assert len(between) > 5
    assert [one async for one in world.overlay.scan(User) if one.domain_id == "d"] == []


async def test_what_is_left_is_told_and_no_answer_fails_meanwhile(world):
    admin = await administrator(world)
    await filled(world, 600)
    assert (await admin("DELETE", "/domains/d")).status == 204
    await world.controller.sweeper._look()
    told = {one["of"]: one for one in world.controller.status()["deletions"]}
    assert "projects/d" in told
    assert told["projects/d"]["removed"] >= 1
    assert (await admin("GET", "/domains/d")).status == 404
    assert (await admin("POST", "/users", {"user": {"name": "x", "domain_id": "d"}})).status in {400, 404}
    left = "u599"
    for method, path, body in (
        ("GET", "/users?domain_id=d", None),
        ("GET", f"/users/{left}", None),
        ("GET", f"/users/{left}/groups", None),
        ("GET", f"/users/{left}/projects", None),
        ("PATCH", f"/users/{left}", {"user": {"description": "x"}}),
        ("PATCH", f"/users/{left}", {"user": {"enabled": False}}),
        ("GET", "/role_assignments?include_names=true", None),
        ("GET", "/role_assignments?effective", None),
        ("DELETE", f"/users/{left}", None),
    ):
        assert (await admin(method, path, body)).status < 500, (method, path)
    async with sweeping(world):
        await eventually(lambda: not world.controller.sweeper.pending, 20)
    assert world.controller.status()["deletions"] == []


async def test_a_store_that_is_away_for_a_while_is_waited_for(world, monkeypatch):
    admin = await administrator(world)
    await filled(world, 400)
    assert (await admin("DELETE", "/domains/d")).status == 204
    sequencer, failed = world.controller.sequencer, []
    commit = sequencer.commit

    async def away(transaction):
        if len(failed) < 2:
            failed.append(transaction)
            raise Unavailable("away")
        return await commit(transaction)

    monkeypatch.setattr(sequencer, "commit", away)
    monkeypatch.setattr(sweep, "EVERY_S", 0.2)  # how often it looks again, which it does twice here
    async with sweeping(world):
        await eventually(lambda: len(failed) == 2, 20)
        await eventually(lambda: not world.controller.sweeper.pending, 20)
    assert [one async for one in world.overlay.scan(Deletion)] == []


@pytest.mark.federation
def test_after_a_crash_it_is_ended_and_its_tokens_are_void_at_once(tmp_path):
    with ended(tmp_path / "federation") as home:
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()), "--set", "identity.password_hash_rounds=4")
        assert done.returncode == 0, done.stderr
        controller, site = home.members()
        with Client(controller, admin_token(home)) as admin:
            domain = admin.make("domain", "/v3/domains", name="great")
            group = admin.make("group", "/v3/groups", name="all", domain_id=domain["id"])
            people = [
                admin.make("user", "/v3/users", name=f"u{n}", password="secret", domain_id=domain["id"])
                for n in range(400)
            ]
            for one in people:
                admin.expect(204, "PUT", f"/v3/groups/{group['id']}/users/{one['id']}")
            with Client(site) as client:
                tokens = [client.login(password(f"u{n}", "secret", domain["id"])) for n in (0, 200, 399)]
            admin.expect(200, "PATCH", f"/v3/domains/{domain['id']}", {"domain": {"enabled": False}})
            gone = admin.ask("DELETE", f"/v3/domains/{domain['id']}")
            ask.control(home.control, command="signal", name="controller", signal="KILL")
            assert gone.status == 204
            with Client(site, admin.token) as service:
                for token in tokens:
                    answer = service.ask(
                        "GET",
                        "/v3/auth/tokens",
                        X_Subject_Token=token,
                        X_RK_Position=gone.headers["x-rk-position"],
                    )
                    assert answer.status == 404

        assert up(home).returncode == 0

        def is_over():
            found = json.loads(rkctl("status", "--json", "--state", str(home.directory)).stdout)["controller"]
            return found["state"] == "leading" and not found.get("deletions")

        until(is_over, "the rest of the deletion")
        with Client(controller, admin_token(home)) as admin:
            until(lambda: not admin.expect(200, "GET", f"/v3/users?domain_id={domain['id']}")["users"], "the users")
            assert admin.expect(200, "GET", f"/v3/groups?domain_id={domain['id']}")["groups"] == []
