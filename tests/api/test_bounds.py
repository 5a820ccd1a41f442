"""Settings that bound what is made, with upstream's names: how deep projects lie, how many credentials a user has."""

from dataclasses import replace

import pytest

from regional_keystone import sections
from tests import replay
from tests.api.conftest import Client

SCOPE = {"project": {"name": "admin", "domain": {"id": "default"}}}


@pytest.fixture
async def bounded(tmp_path):
    """An administrator where two projects may be below each other, and a user may have two credentials."""
    world = replay.World(tmp_path)
    deep = replace(world.settings.default, max_project_tree_depth=2)
    world.settings = replace(world.settings, default=deep, credential=sections.Credential(user_limit=2))
    async with replay.AsyncExitStack() as stack:
        await world.start(stack)
        yield await Client(world).login("admin", replay.PASSWORD, SCOPE)


async def test_projects_lie_as_deep_as_is_set(bounded):
    one = await bounded.make("project", name="one")
    two = await bounded.make("project", name="two", parent_id=one["id"])
    answer = await bounded("POST", "/projects", {"project": {"name": "three", "parent_id": two["id"]}})
    assert (answer.status, answer.message) == (403, f"Max hierarchy depth reached for {two['id']} branch.")
    await bounded.make("project", name="beside", parent_id=one["id"])


async def test_a_user_has_as_many_credentials_as_is_set_whatever_kind(bounded):
    user = await bounded.make("user", name="u")
    other = await bounded.make("user", name="other")
    project = await bounded.make("project", name="p")
    place, wanted = f"/users/{user['id']}/credentials/OS-EC2", {"tenant_id": project["id"]}

    async def totp(owner):
        about = {"type": "totp", "user_id": owner["id"], "blob": "secret"}
        return await bounded("POST", "/credentials", {"credential": about})

    assert (await bounded("POST", place, wanted)).status == 201
    made = await totp(user)
    assert made.status == 201
    for answer in (await bounded("POST", place, wanted), await totp(user)):
        assert answer.status == 403
        assert answer.message == "Unable to create additional credentials, maximum of 2 already exceeded for user."
    assert (await totp(other)).status == 201
    assert (await bounded("DELETE", f"/credentials/{made.body['credential']['id']}")).status == 204
    assert (await bounded("POST", place, wanted)).status == 201
