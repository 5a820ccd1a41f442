"""What nobody needs any more goes, from all replicas alike; what somebody lacks stays."""

import asyncio

import pytest
import structlog

from controller import housekeeping
from controller.housekeeping import OUTCOME_US, expire, keep_house, prune
from regional_keystone.errors import Unavailable
from regional_keystone.expiry import Expiry, Steady
from regional_keystone.log import LOG
from regional_keystone.model import Outcome, RevocationEvent
from regional_keystone.own_feed import pruned
from regional_keystone.revocation import Revocation, RevocationIndex
from tests.cloud import event, eventually, project, running
from tests.stand_ins import ManualClock, settle


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path) as made:
        yield made


async def test_what_is_past_its_time_goes_and_all_replicas_stay_equal(cloud):
    controller, now = cloud.controller, cloud.controller.clock.now()
    kept = Outcome(id="kept", request_digest=b"", answer=b"", at=now)
    past = Outcome(id="past", request_digest=b"", answer=b"", at=now - OUTCOME_US - 1)
    await controller.write(
        event("old", now - 10**11 - 10**8, audit_id="old"), event("new", now, audit_id="new"), kept, past
    )
    await cloud.level()
    assert all(len(node.follower.index) == 2 for node in (controller, *cloud.sites.values()))
    assert await expire(controller.overlay, controller.sequencer, now) == 2
    await cloud.level()
    assert await controller.follower.settled(controller.sequencer.head, 5)
    assert len({await node.digest() for node in (controller, *cloud.sites.values())}) == 1
    for node in (controller, *cloud.sites.values()):
        assert node.void(audit_id="new")
        assert not node.void(audit_id="old"), "its memory is bounded"
        assert await node.overlay.get(Outcome, "kept")
        assert await node.overlay.get(Outcome, "past") is None


async def test_more_than_one_transaction_holds_goes_in_parts(cloud):
    controller = cloud.controller
    for start in range(0, 1200, 400):
        await controller.write(*(event(f"e{number}", 1, audit_id=f"e{number}") for number in range(start, start + 400)))
    found = [await expire(controller.overlay, controller.sequencer, controller.clock.now()) for _ in range(2)]
    assert found == [1200, 0]
    assert [one async for one in controller.overlay.scan(RevocationEvent)] == []


async def test_the_log_is_pruned_again_and_again_up_to_what_every_active_site_holds(cloud):
    controller = cloud.controller
    for round_ in range(3):
        for number in range(5):
            await controller.write(project(f"p{round_}-{number}"))
        await cloud.level()
        head = controller.sequencer.head
        await controller.follower.settled(head, 5)
        await eventually(
            lambda head=head: all(one.position == head for one in controller.acknowledgements.said.values())
        )
        assert await prune(controller.store, controller.overlay, controller.acknowledgements, 2**62) == head
        assert await pruned(controller.store, LOG) == head
    assert await controller.store.tail(LOG, 0) == []


async def test_nothing_that_an_active_site_lacks_is_pruned(cloud):
    controller, away = cloud.controller, cloud.sites["RegionTwo"]
    await eventually(lambda: len(controller.acknowledgements.said) == 2)
    await away.stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    held = controller.acknowledged("RegionTwo").position
    for number in range(5):
        await controller.write(project(f"p{number}"))
    await controller.follower.settled(controller.sequencer.head, 5)
    assert await prune(controller.store, controller.overlay, controller.acknowledgements, 2**62) == held
    await controller.acknowledgements.forget("RegionTwo")  # nobody has heard of it
    await controller.sites.set_state("RegionOne", "quarantined", "a test")
    assert await prune(controller.store, controller.overlay, controller.acknowledgements, 2**62) == held
    assert (await controller.store.tail(LOG, held))[0].number == held + 1


async def test_a_quarantined_site_holds_nothing_up_and_comes_back_by_a_snapshot(cloud):
    controller, away = cloud.controller, cloud.sites["RegionTwo"]
    await away.stop()
    await controller.sites.set_state("RegionTwo", "quarantined", "a test")
    await controller.write(project("p"), event("e", controller.clock.now(), audit_id="gone"))
    await controller.rotator.turn()
    await cloud.sites["RegionOne"].settled(controller.sequencer.head)
    await controller.follower.settled(controller.sequencer.head, 5)
    await eventually(lambda: controller.acknowledged("RegionOne").position == controller.sequencer.head)
    assert (
        await prune(controller.store, controller.overlay, controller.acknowledgements, 2**62)
        == controller.sequencer.head
    )
    controller.replicator._recent.clear()
    await away.start()
    await away.settled(controller.sequencer.head)
    assert await away.digest() == await controller.digest()
    assert away.void(audit_id="gone")
    assert away.holder.seen == controller.holder.seen
    position = await controller.write(project("after"))
    await away.settled(position)


async def test_an_active_site_that_stays_behind_fills_no_disk_and_comes_back_by_a_snapshot(cloud):
    controller, away = cloud.controller, cloud.sites["RegionTwo"]
    await cloud.level()
    held = controller.sequencer.head
    await eventually(lambda: controller.acknowledged("RegionTwo").position == held)
    await away.stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    at = (await controller.store.tail(LOG, await controller.write(project("old")) - 1))[0].at
    await controller.write(project("young"))
    await controller.follower.settled(controller.sequencer.head, 5)
    parts = controller.store, controller.overlay, controller.acknowledgements
    assert await prune(*parts, 2**62, at) == held
    with structlog.testing.capture_logs() as logged:
        assert await prune(*parts, 2**62, at + 1) == controller.sequencer.head - 1
        assert await prune(*parts, 2**62, at + 1) == controller.sequencer.head - 1
    assert [(one["event"], one["sites"]) for one in logged] == [("log_pruned_beyond_a_site", ["RegionTwo"])]
    controller.replicator._recent.clear()
    await away.start()
    await away.settled(controller.sequencer.head)
    assert await away.digest() == await controller.digest()


async def test_what_is_younger_than_the_retention_stays(cloud):
    controller = cloud.controller
    await cloud.level()
    await eventually(lambda: len(controller.acknowledgements.said) == 2)
    assert await prune(controller.store, controller.overlay, controller.acknowledgements, 0) == 0
    assert (await controller.store.tail(LOG, 0))[0].number == 1


def keeping(controller, clock, **more):
    return asyncio.create_task(
        keep_house(
            store=controller.store,
            overlay=controller.overlay,
            sequencer=controller.sequencer,
            acknowledgements=controller.acknowledgements,
            follower=controller.follower,
            lock=controller.lock,
            clock=clock,
            retention_s=60.0,
            **more,
        )
    )


@pytest.mark.parametrize("when", ["while it runs", "before it starts"])
async def test_a_clock_that_is_set_ahead_takes_no_live_revocation_away(cloud, when):
    controller, clock = cloud.controller, ManualClock()
    clock._now, ahead_s = controller.clock.now(), 30 * 86_400
    await controller.write(event("live", clock.now(), audit_id="live"), event("old", 1, audit_id="old"))
    await cloud.level()
    jumped, sequencer = ManualClock(), controller.sequencer
    jumped._now = clock.now() + ahead_s * 10**6
    if when == "before it starts":
        clock = jumped
    sequencer._clock = jumped  # it dates what it appends
    controller.follower.expiry.steady = Steady(clock)
    house = keeping(controller, clock)
    await clock.advance(housekeeping.EVERY_S + 1)

    async def gone():
        return await controller.overlay.get(RevocationEvent, "old") is None

    await eventually(gone)
    if when == "while it runs":
        clock.jump(ahead_s)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                await clock.advance(51 * housekeeping.EVERY_S)
                await asyncio.sleep(0.1)
        assert [one["event"] for one in logs].count("forgets_later") == 1
    await cloud.level()
    assert await controller.overlay.get(RevocationEvent, "live") is not None
    for node in (controller, *cloud.sites.values()):
        await eventually(lambda node=node: not node.void(audit_id="old"))
        assert node.void(audit_id="live"), "whatever the entry of a removal is dated"
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)


async def test_a_clock_that_is_set_right_again_does_not_end_expiry():
    index, clock = RevocationIndex(), ManualClock()
    expiry = Expiry(lambda: index, clock)
    running_ = asyncio.create_task(expiry.run())
    expiry.due(clock.now())
    await settle()
    clock.jump(-86_400)
    index.add(Revocation(issued_before=1, revoked_at=1, user_id="u"), clock.now() + 90 * 10**6)
    await clock.advance(300)
    expiry.due(clock.now())
    await settle()
    assert len(index) == 0
    running_.cancel()
    await asyncio.gather(running_, return_exceptions=True)


async def test_a_full_disk_does_not_end_housekeeping(cloud):
    controller, clock = cloud.controller, ManualClock()
    clock._now = controller.clock.now()
    await controller.write(event("old", 1, audit_id="old"))
    append = controller.store.append

    async def full(*arguments):
        raise Unavailable("The disk is full.")

    controller.store.append = full
    house = keeping(controller, clock)
    await clock.advance(housekeeping.EVERY_S + 1)
    await asyncio.sleep(0.2)
    assert not house.done()
    controller.store.append = append
    await clock.advance(housekeeping.EVERY_S + 1)

    async def gone():
        return await controller.overlay.get(RevocationEvent, "old") is None

    await eventually(gone)
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)
