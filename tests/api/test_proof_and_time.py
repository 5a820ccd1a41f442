"""A change stands or falls with what proves its caller; a revocation outlives every token that it voids."""

import dataclasses
from contextlib import AsyncExitStack

import pytest

from controller.housekeeping import expire
from regional_keystone.settings import Keys, Token
from tests import replay
from tests.api.conftest import Client

SCOPE = {"project": {"name": "admin", "domain": {"id": "default"}}}


@pytest.fixture
async def boss(world, admin):
    """Another administrator; `path` is the grant that makes it one."""
    user = await admin.make("user", name="boss", password="secret")
    role = (await admin("GET", "/roles?name=admin")).body["roles"][0]
    project = (await admin("GET", "/projects?name=admin")).body["projects"][0]
    path = f"/projects/{project['id']}/users/{user['id']}/roles/{role['id']}"
    assert (await admin("PUT", path)).status == 204
    found = await admin.login("boss", "secret", SCOPE)
    found.path, found.user = path, f"/users/{user['id']}"
    return found


@pytest.mark.parametrize("how", ["no grant", "disabled", "gone"])
async def test_who_loses_the_right_between_proof_and_commit_changes_nothing(world, admin, boss, monkeypatch, how):
    prove, proven = world.api._prove, []

    async def prove_and_lose(text, **more):
        found = await prove(text, **more)
        proven.append(text)
        if proven.count(boss.token) == 2 and text == boss.token:  # the second one is the transaction's own
            lost = {
                "no grant": ("DELETE", boss.path),
                "disabled": ("PATCH", boss.user, {"user": {"enabled": False}}),
                "gone": ("DELETE", boss.user),
            }
            assert (await admin(*lost[how])).status in {200, 204}
        return found

    monkeypatch.setattr(world.api, "_prove", prove_and_lose)
    answer = await boss("POST", "/regions", {"region": {"id": "late"}})
    assert answer.status in {401, 403}
    assert (await admin("GET", "/regions/late")).status == 404
    assert (await admin("POST", "/regions", {"region": {"id": "late"}})).status == 201


async def test_a_change_elsewhere_between_proof_and_commit_disturbs_nobody(world, admin, boss, monkeypatch):
    prove, proven = world.api._prove, []

    async def prove_while_others_write(text, **more):
        found = await prove(text, **more)
        if text == boss.token:
            proven.append(await admin("POST", "/regions", {"region": {}}))
        return found

    monkeypatch.setattr(world.api, "_prove", prove_while_others_write)
    assert (await boss("POST", "/regions", {"region": {"id": "mine"}})).status == 201
    assert len(proven) == 2


async def _revoke_one(admin, user, token):
    return await admin("DELETE", "/auth/tokens", headers={"X-Subject-Token": token})


async def _revoke_all(admin, user, token):
    return await admin("DELETE", f"/users/{user['id']}/tokens")


async def _change_password(admin, user, token):
    return await admin("PATCH", f"/users/{user['id']}", {"user": {"password": "another"}})


@pytest.mark.parametrize(("expiration", "window"), [(200_000, 1_000), (1_000, 400_000), (7_200, 0)])
@pytest.mark.parametrize("revoke", [_revoke_one, _revoke_all, _change_password])
async def test_a_revocation_is_kept_for_as_long_as_its_tokens_can_be_shown(tmp_path, expiration, window, revoke):
    async with AsyncExitStack() as stack:
        world = replay.World(tmp_path)
        token = Token(expiration=expiration, allow_expired_window=window)
        world.settings = dataclasses.replace(world.settings, token=token, keys=Keys(isolation_s=1.0))
        await world.start(stack)
        admin = await Client(world).login("admin", replay.PASSWORD, SCOPE)
        made = {name: await admin.make("user", name=name, password="secret") for name in ("revoked", "other")}
        tokens = {name: (await admin.login(name, "secret")).token for name in made}
        assert (await revoke(admin, made["revoked"], tokens["revoked"])).status in {200, 204}

        world.clock.ahead_s += expiration + window - 5
        part, now = world.controller.part, world.clock.now()
        await expire(world.overlay, world.controller.sequencer, now)
        part.follower.index.expire(now)
        admin = await Client(world).login("admin", replay.PASSWORD, SCOPE)
        shown = {name: await _shown(admin, text) for name, text in tokens.items()}
        assert shown == {"revoked": 404, "other": 200}


async def _shown(admin, token):
    return (await admin("GET", "/auth/tokens?allow_expired=1", headers={"X-Subject-Token": token})).status
