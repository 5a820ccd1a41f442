"""A whole controller: what it watches."""

import asyncio

import pytest

from regional_keystone.errors import TooLarge
from regional_keystone.log import put
from regional_keystone.messages import Acknowledge
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import transact
from tests import replay
from tests.cloud import eventually


@pytest.fixture
async def controller(tmp_path):
    async with replay.world(tmp_path) as world:
        watching = asyncio.create_task(world.controller._watch_sites())
        yield world.controller
        watching.cancel()


def state(controller, name):
    return controller.status()["sites"].get(name, {}).get("state")


async def test_the_status_knows_sites_as_they_change_and_takes_back_who_has_caught_up(controller):
    await controller.sites.invite("RegionTwo")
    await eventually(lambda: state(controller, "RegionTwo") == "invited", 1.0)

    async def decide(reader):
        old = await reader.get(Site, "RegionTwo")
        return [put(Site(id="RegionTwo", state="quarantined", instance="i"), old)], None

    await transact(controller.part.overlay, controller.sequencer, "test", decide)
    await eventually(lambda: state(controller, "RegionTwo") == "quarantined", 1.0)

    ring = await controller.part.overlay.get(Ring, "token")
    for epoch in (ring.epoch - 1, ring.epoch):
        assert state(controller, "RegionTwo") == "quarantined"
        controller.acknowledgements.note("RegionTwo", "i", Acknowledge(0, {"token": (epoch, ring.fingerprint)}))
        controller._heard("RegionTwo")
        await asyncio.sleep(0.05)
    await eventually(lambda: state(controller, "RegionTwo") == "active", 1.0)


async def test_a_failure_to_seal_bundles_again_does_not_end_the_controller(controller, monkeypatch):
    tried = asyncio.Event()

    async def too_large():
        tried.set()
        raise TooLarge("The record is too large.")

    monkeypatch.setattr(controller.sites, "refresh", too_large)
    refreshing = asyncio.create_task(controller._refresh_bundles())
    await tried.wait()
    done, _ = await asyncio.wait({refreshing}, timeout=0.1)
    assert not done
    refreshing.cancel()


async def test_signing_keys_are_used_by_the_clock_of_the_process(controller):
    assert controller.part.signatory.clock is controller.part.clock
