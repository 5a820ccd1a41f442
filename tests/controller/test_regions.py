"""What an operator says of a site: at a running controller, by the command, and against a turn of the keys."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import msgspec
import pytest
import structlog

from controller.regions import Regions
from regional_keystone.errors import NotFound
from regional_keystone.model import Ring, Site
from tests.cloud import SiteNode, eventually, running
from tests.controllers import config_in, operated, tasks

NAME = "RegionOne"


def regions(controller):
    return Regions(
        sites=controller.sites,
        replicator=controller.replicator,
        take_back=controller.rotator.take_back,
        overlay=controller.overlay,
    )


async def ring(controller):
    return await controller.overlay.get(Ring, "token")


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, (NAME, "RegionTwo")) as made:
        await eventually(lambda: made.controller.acknowledged(NAME).rings.get("token"))
        yield made


async def test_a_quarantined_site_is_not_waited_for_keeps_serving_and_comes_back_when_it_is_told_to(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    acts = regions(controller)
    with structlog.testing.capture_logs() as logged:
        assert (await acts.quarantine(NAME, "its disk is replaced"))["state"] == "quarantined"
    assert [(one["log_level"], one["why"]) for one in logged if one["event"] == "site_marked"] == [
        ("error", "its disk is replaced")
    ]
    await site.stop()
    await controller.rotator.turn()
    lacking = await acts.rejoin(NAME)
    assert lacking["state"] == "quarantined"
    assert any("token ring" in one for one in lacking["lacks"])
    await site.start()
    await eventually(lambda: controller.acknowledged(NAME).rings.get("token") == site.holder.seen)
    await cloud.level()
    newest = await ring(controller)
    await eventually(lambda: controller.acknowledged(NAME).rings.get("token") == (newest.epoch, newest.fingerprint))
    back = await acts.rejoin(NAME)
    assert (back["state"], back["by_operator"], back["why"]) == ("active", False, "")


async def test_a_drained_site_hears_of_it_is_still_waited_for_and_can_be_taken_back(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    acts = regions(controller)
    assert (await acts.drain(NAME, "moving out"))["drained"]
    await eventually(lambda: site.follower.drained == "moving out")
    assert site.follower.why_not_seal() == "This region is drained and issues no tokens: moving out."
    assert cloud.sites["RegionTwo"].follower.drained is None
    await site.stop()
    await site.start()
    assert site.follower.drained == "moving out", "also after a restart, from the replica"
    assert NAME in (await controller.rotator.plan()).active
    assert await controller.rotator.turn()
    assert not (await acts.rejoin(NAME))["drained"]
    await eventually(lambda: site.follower.drained is None)


async def test_what_is_no_member_can_be_neither(cloud):
    acts = regions(cloud.controller)
    await cloud.controller.sites.remove("RegionTwo")
    for name in ("RegionTwo", "Nowhere"):
        for act in (acts.quarantine(name, "x"), acts.drain(name, "x"), acts.rejoin(name)):
            with pytest.raises(NotFound, match="region add RegionTwo" if name == "RegionTwo" else "region list"):
                await act


@pytest.mark.parametrize("act", ["quarantine", "rejoin"])
async def test_an_act_and_a_turn_that_has_not_seen_it_collide(cloud, act):
    """Whoever is second begins again: a turn never decides by a record that has changed under it."""
    controller = cloud.controller
    acts, sealed, acted = regions(controller), controller.sites.sealed, []
    if act == "rejoin":
        await acts.quarantine(NAME, "x")

    async def meanwhile(*arguments):
        if not acted:
            acted.append(None)
            await controller.sites.mark(NAME, act, state="quarantined" if act == "quarantine" else "active")
        return await sealed(*arguments)

    controller.sites.sealed = meanwhile
    collided = controller.sequencer.collisions
    await controller.rotator.turn()
    assert acted
    assert controller.sequencer.collisions > collided


async def test_an_act_that_changes_nothing_writes_nothing(cloud):
    acts = regions(cloud.controller)
    await acts.drain(NAME, "x")
    head = cloud.controller.sequencer.head
    await acts.drain(NAME, "x")
    assert cloud.controller.sequencer.head == head


def test_a_record_of_the_version_before_reads_as_neither():
    old = msgspec.msgpack.encode({"id": NAME, "state": "active", "since": 1})
    site = msgspec.msgpack.decode(old, type=Site)
    assert (site.drained, site.by_operator, site.why) == (False, False, "")


@asynccontextmanager
async def with_a_site(config):
    """A running controller, with all that it does by itself, and one site."""
    async with operated(config) as controller, tasks(controller.tasks()):
        site = SiteNode(NAME, config.parent / NAME)
        await site.join(await controller.sites.invite(NAME))
        await site.start()
        try:
            await site.settled(controller.sequencer.head)
            yield controller, site
        finally:
            await site.stop()


async def rkctl(config, *words):
    command = [sys.executable, "-m", "controller", *words, "--config", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=-1)
    out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


async def test_the_commands_at_a_running_controller(tmp_path):
    config = config_in(tmp_path)
    async with with_a_site(config) as (controller, site):
        code, out, _ = await rkctl(config, "region", "quarantine", NAME, "--why", "a new disk", "--json")
        assert (code, json.loads(out)["state"], json.loads(out)["by_operator"]) == (0, "quarantined", True)
        await controller._look_at_sites()
        record = await controller.part.overlay.get(Site, NAME)
        assert record.state == "quarantined", "it holds the newest ring, and is not taken back by itself"
        code, out, _ = await rkctl(config, "region", "rejoin", NAME)
        assert (code, out.strip()) == (0, f"{NAME} is active")
        code, out, _ = await rkctl(config, "region", "drain", NAME, "--why", "moving out")
        assert code == 0
        assert f"rkctl region rejoin {NAME}" in out
        await eventually(lambda: site.follower.drained)
        code, out, _ = await rkctl(config, "region", "list", "--json")
        assert [(one["drained"], one["why"]) for one in json.loads(out)] == [(True, "moving out")]
        await controller._look_at_sites()
        told = controller.status()["sites"][NAME]
        assert (told["state"], told["drained"], told["why"]) == ("active", True, "moving out")
        code, _, error = await rkctl(config, "region", "rejoin", "Nowhere")
        assert (code, error) == (1, "rkctl: Could not find site: Nowhere; `rkctl region list` names them.\n")
