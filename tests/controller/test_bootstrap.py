"""The first administrator, made at the controller's socket: where it takes two people, no second one is made there."""

import aiohttp
import pytest

from controller.admin import Admin
from regional_keystone.log import Transaction, remove
from regional_keystone.model import Grant
from regional_keystone.operator_listener import listen
from tests import replay

ASKED = {"username": "carl", "password": "correct horse"}


async def administrators(world):
    return {one.actor_id for one in await world.overlay.find(Grant, target_id="system")}


@pytest.mark.parametrize(("two_person", "empty"), [(True, False), (True, True), (False, False)])
async def test_where_it_takes_two_people_nobody_makes_the_second_one_at_the_socket(tmp_path, two_person, empty):
    async with replay.world(tmp_path) as world:
        if empty:
            [grant] = await world.overlay.find(Grant, target_id="system")
            sequencer = world.controller.sequencer
            await sequencer.commit(Transaction("t", sequencer.head, frozenset(), (remove(grant),)))
        parts = ("sites", "regions", "trusts", "sequencer", "status", "bootstrap")
        admin = Admin(
            overlay=world.overlay,
            keys=world.controller.keys_admin(),
            two_person=two_person,
            **{name: getattr(world.controller, name) for name in parts},
        )
        runner = await listen(admin.app(), tmp_path / "s")
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        before = await administrators(world)
        assert (not before) == empty
        async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
            answer = await session.post("/bootstrap", json=ASKED)
            refused = two_person and not empty
            assert answer.status == (403 if refused else 200)
            assert ("Identity API" in await answer.text()) == refused
        assert len(await administrators(world)) == len(before) + (not refused)
        await runner.cleanup()
