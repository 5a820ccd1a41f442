"""A site without its controller: it goes on, it says how old its knowledge is, and nothing that it did is lost."""

import asyncio

import pytest

from regional_keystone.errors import Unavailable
from regional_keystone.log import Transaction, put
from regional_keystone.messages import Request
from regional_keystone.model import Project
from tests.cloud import eventually, project, running, wired


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, deadline_s=0.4) as made:
        yield made


async def levelled(cloud):
    await cloud.level()
    await cloud.controller.follower.settled(cloud.controller.sequencer.head, 5)
    return len({await node.digest() for node in (cloud.controller, *cloud.sites.values())}) == 1


async def test_without_its_controller_a_site_reads_and_revokes_and_changes_nothing_else(cloud):
    site = cloud.sites["RegionTwo"]
    await cloud.controller.write(project("p"))
    await cloud.level()
    await cloud.controller.stop()
    await eventually(lambda: site.link.connected_since is None)
    assert await site.overlay.get(Project, "p")
    assert site.holder.ring.open(site.holder.ring.seal(b"payload", 0))[0] == b"payload"
    await site.revoke("mine")
    assert site.void(audit_id="mine")
    with pytest.raises(Unavailable):
        await site.link.forward(Request(id="r", method="POST", path="/v3/projects"))
    with pytest.raises(Unavailable):
        await site.own.commit(Transaction("t", 0, frozenset(), (put(project("q")),)))
    before = site.follower.age_s()
    await asyncio.sleep(0.2)
    assert site.follower.age_s() >= before + 0.19
    await cloud.controller.start()
    await eventually(lambda: site.own.pending() == 0)
    await eventually(lambda: site.follower.age_s() < 1.2)
    assert [one.audit_id for one in await cloud.controller.revocations()] == ["mine"]


@pytest.mark.parametrize("who", ["site", "controller", "both"])
async def test_a_revocation_made_alone_outlives_any_restart_and_is_in_the_log_once(cloud, who):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    await site.revoke("known")
    await eventually(lambda: site.own.pending() == 0)
    await controller.stop()
    await site.revoke("alone")
    if who != "controller":
        await site.stop()
        await site.start()
        assert site.void(audit_id="alone"), "while the controller is away"
        assert site.void(audit_id="known")
    await controller.start()
    if who == "both":
        await controller.stop()
        await controller.start()
    await eventually(lambda: site.own.pending() == 0)
    await cloud.level()
    assert all(node.void(audit_id="alone") for node in (controller, *cloud.sites.values()))
    assert [one.audit_id for one in await controller.revocations()] == ["known", "alone"]


async def test_what_a_cut_off_site_revoked_is_refused_there_at_once_and_everywhere_soon_after_the_heal(cloud):
    """A second is promised; the bound leaves room for whoever else uses this machine."""
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    took = []
    async with wired(cloud, "RegionTwo") as wire:
        for number in range(4):
            name = f"a{number}"
            wire.cut()
            await eventually(lambda: site.link.connected_since is None)
            await site.revoke(name)
            assert site.void(audit_id=name)
            others = (controller, cloud.sites["RegionOne"])
            await asyncio.sleep(0.5 * number)
            assert not any(one.void(audit_id=name) for one in others)
            wire.mend()
            began = asyncio.get_running_loop().time()
            await eventually(lambda name=name, others=others: all(one.void(audit_id=name) for one in others))
            took.append(asyncio.get_running_loop().time() - began)
        await eventually(lambda: site.own.pending() == 0)
    print("refused everywhere after the heal:", ", ".join(f"{one * 1000:.0f} ms" for one in took))
    assert max(took) < 4
    assert [one.audit_id for one in await controller.revocations()] == ["a0", "a1", "a2", "a3"]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("delay", [0.0, 0.004, 0.015, 0.05])
async def test_a_revocation_is_taken_over_once_wherever_the_stream_breaks(cloud, direction, delay):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    async with wired(cloud, "RegionTwo") as wire:
        for number in range(4):
            await site.revoke(f"a{number}")
            await asyncio.sleep(delay)
            if number % 2:
                wire.hold(direction)
            await asyncio.sleep(delay)
            wire.cut()
            wire.release()
            wire.mend()
        await eventually(lambda: site.own.pending() == 0, 10)
    await cloud.level()
    assert [one.audit_id for one in await controller.revocations()] == ["a0", "a1", "a2", "a3"]


async def test_a_site_that_was_stopped_catches_up_and_all_replicas_are_equal(cloud):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    async with wired(cloud, "RegionTwo") as wire:
        wire.hold()
        for number in range(500):
            await controller.write(project(f"p{number % 50}", description=str(number)))
        wire.release()
        await site.settled(controller.sequencer.head)
        assert await levelled(cloud)


async def test_a_turn_while_a_site_is_away_quarantines_it_and_it_comes_back_whole(cloud):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    text = site.holder.ring.seal(b"payload", 0)
    async with wired(cloud, "RegionTwo") as wire:
        wire.hold()
        for _ in range(2):
            await asyncio.wait_for(controller.rotator.turn(), 5)
        assert (await controller.rotator.plan()).quarantined == ("RegionTwo",)
        newer = controller.holder.ring.seal(b"newer", 0)
        wire.cut()
        wire.release()
        wire.mend()
        await site.settled(controller.sequencer.head)

        async def back():
            await controller.rotator.take_back("RegionTwo")
            return not (await controller.rotator.plan()).quarantined

        await eventually(back)
        assert site.holder.ring.open(newer)[0] == b"newer"
        assert controller.holder.ring.open(text)[0] == b"payload"


async def test_a_link_that_flaps_brings_everything_once_and_little_more(cloud):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    async with wired(cloud, "RegionTwo") as wire:
        wire.bytes["down"] = 0
        for number in range(12):
            await controller.write(project(f"p{number}", extra={"x": "x" * 20_000}))
            if number % 3 == 0:
                wire.cut()
                await asyncio.sleep(0.05)
                wire.mend()
        await site.settled(controller.sequencer.head)
        assert wire.bytes["down"] < 2 * 12 * 20_000 + 200_000
    assert await levelled(cloud)


async def test_a_removed_site_hears_nothing_more(cloud):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    await controller.sites.remove("RegionTwo")
    await eventually(lambda: site.link.connected_since is None)
    await eventually(lambda: site.link.refused is not None)
    position = site.follower.position
    await controller.write(project("secret"))
    await asyncio.sleep(0.3)
    assert site.follower.position == position
