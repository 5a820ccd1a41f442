"""When the key ring may turn: never ahead of any site that is not quarantined."""

import asyncio

import pytest

from controller import rotate
from controller.rotate import TURNED
from controller.sure_now import SureNow
from controller.turning import Terms
from regional_keystone.errors import Conflict, Unavailable
from regional_keystone.key_directory import read_directory
from regional_keystone.log import remove
from regional_keystone.messages import Acknowledge
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import transact
from tests.cloud import SECOND, TERMS, ControllerNode, eventually, running, wired
from tests.controller.test_sites import Ahead


async def ring(controller):
    return await controller.overlay.get(Ring, "token")


async def states(controller):
    return {site.id: site.state for site in await controller.sites.all()}


async def still(task, seconds=0.3):
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=30.0) as made:
        yield made


async def test_a_turn_makes_the_staged_key_primary_everywhere_and_old_tokens_still_open(cloud):
    controller = cloud.controller
    text = cloud.sites["RegionOne"].holder.ring.seal(b"payload", 0)
    for _ in range(3):
        before = controller.holder.ring
        turned = await controller.rotator.turn()
        await cloud.level()
        for node in (controller, *cloud.sites.values()):
            await eventually(lambda node=node, epoch=turned.epoch: node.holder.seen.epoch == epoch)
            assert node.holder.ring.numbers[node.holder.ring.primary] == before.staged
            assert node.holder.ring.open(text)[0] == b"payload"


async def test_the_ring_of_receipts_turns_with_that_of_tokens_and_is_another_one(cloud):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    for _ in range(2):
        before = controller.receipts.ring
        await controller.rotator.turn()
        await cloud.level()
        for node in (controller, *cloud.sites.values()):
            await eventually(lambda node=node, epoch=before.epoch + 1: node.receipts.ring.epoch == epoch)
            assert node.receipts.ring.numbers[node.receipts.ring.primary] == before.staged
    assert read_directory(site.directory / "receipt-keys") == site.receipts.ring
    keys = {key for holder in (site.holder, site.receipts) for key in holder.ring.numbers.values()}
    assert len(keys) == 2 * len(site.holder.ring.numbers)


async def test_the_ring_of_receipts_may_turn_alone(cloud):
    controller = cloud.controller
    before = (await ring(controller)).epoch
    turned = await controller.rotator.turn(rings=("receipt",))
    assert (turned.id, turned.epoch) == ("receipt", (await controller.overlay.get(Ring, "receipt")).epoch)
    assert (await ring(controller)).epoch == before
    assert controller.rotator.turns == {"receipt": 1}


async def test_a_site_that_lacks_the_ring_of_receipts_is_waited_for_and_one_that_knows_of_none_is_not(cloud):
    controller = cloud.controller
    await cloud.sites["RegionTwo"].stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    instance, record = cloud.sites["RegionTwo"].identity.membership().instance, await ring(controller)
    token = {"token": (record.epoch, record.fingerprint)}
    controller.acknowledgements.note("RegionTwo", instance, Acknowledge(1, token | {"receipt": (0, "")}))
    turning = asyncio.create_task(controller.rotator.turn())
    assert await still(turning, 0.2)
    controller.acknowledgements.note("RegionTwo", instance, Acknowledge(1, token))  # as a site of an older version
    assert (await asyncio.wait_for(turning, 5)).epoch == record.epoch + 1


async def test_a_federation_that_had_no_ring_of_receipts_gets_one_at_the_next_start(cloud):
    controller = cloud.controller
    there = await controller.overlay.get(Ring, "receipt")

    async def decide(reader):
        return [remove(await reader.get(Ring, "receipt"))], None

    await transact(controller.overlay, controller.sequencer, "a test", decide)
    assert (await controller.rotator.turn()).epoch == (await ring(controller)).epoch, "tokens turn without"
    assert await controller.rotator.setup() == ("receipt",)
    assert await controller.rotator.setup() == ()
    assert (await controller.overlay.get(Ring, "receipt")).checks != there.checks


async def test_no_turn_before_every_active_site_has_acknowledged(cloud):
    controller = cloud.controller
    async with wired(cloud, "RegionTwo") as wire:
        wire.hold("up")  # it receives everything, and nothing that it says arrives
        epoch = (await controller.rotator.turn()).epoch  # it had acknowledged the one before
        turning = asyncio.create_task(controller.rotator.turn())
        assert await still(turning)
        assert (await ring(controller)).epoch == epoch
        assert (await controller.rotator.plan()).waits_for == ("RegionTwo",)
        wire.release()
        assert (await asyncio.wait_for(turning, 10)).epoch == epoch + 1


@pytest.mark.parametrize("said", [{}, {"token": (1, "right")}, {"token": (99, "right")}, {"token": (0, "wrong")}])
async def test_epoch_and_fingerprint_both_have_to_be_acknowledged(cloud, said):
    controller = cloud.controller
    record = await ring(controller)
    held = {
        name: (record.epoch if epoch == 0 else epoch, record.fingerprint if word == "right" else "0" * 32)
        for name, (epoch, word) in said.items()
    }
    await cloud.sites["RegionTwo"].stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    said_by = controller.acknowledgements.note
    instance = cloud.sites["RegionTwo"].identity.membership().instance
    await controller.acknowledgements.forget("RegionTwo")
    said_by("RegionTwo", instance, Acknowledge(controller.sequencer.head, held))
    turning = asyncio.create_task(controller.rotator.turn())
    assert await still(turning, 0.2)
    right = Acknowledge(1, {"token": (record.epoch, record.fingerprint)})
    said_by("RegionTwo", "another", right)  # of an instance that joined before, or since
    assert await still(turning, 0.2)
    said_by("RegionTwo", instance, right)
    assert (await asyncio.wait_for(turning, 5)).epoch == record.epoch + 1


async def test_the_transaction_itself_checks_acknowledgements_again(cloud):
    controller = cloud.controller
    await cloud.sites["RegionTwo"].stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    await controller.acknowledgements.forget("RegionTwo")
    with pytest.raises(Conflict, match="RegionTwo"):
        await controller.rotator._turn(True, (await ring(controller)).turned_at)


async def test_a_site_that_joins_just_before_the_turn_is_waited_for(cloud, tmp_path):
    controller = cloud.controller
    from tests.cloud import SiteNode

    late = SiteNode("RegionThree", tmp_path / "late")
    await late.join(await controller.sites.invite("RegionThree"))
    turning = asyncio.create_task(controller.rotator.turn())
    assert await still(turning, 0.2)
    await late.start()
    turned = await asyncio.wait_for(turning, 5)
    await eventually(lambda: late.holder.seen.epoch == turned.epoch)
    await late.stop()


async def test_who_misses_the_deadline_is_quarantined_and_taken_back_when_it_has_caught_up(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=0.3) as cloud:
        controller, away = cloud.controller, cloud.sites["RegionTwo"]
        await away.stop()
        await controller.rotator.turn()
        turned = await asyncio.wait_for(controller.rotator.turn(), 5)
        assert await states(controller) == {"RegionOne": "active", "RegionTwo": "quarantined"}
        assert "RegionTwo" in turned.sealed
        await controller.rotator.take_back("RegionTwo")
        assert (await states(controller))["RegionTwo"] == "quarantined", "it does not hold the newest ring"
        turned = await controller.rotator.turn()
        await away.start()
        await away.settled(controller.sequencer.head)

        async def back():
            await controller.rotator.take_back("RegionTwo")
            return (await states(controller))["RegionTwo"] == "active"

        await eventually(back)
        assert away.holder.seen.epoch == turned.epoch


async def test_who_came_back_after_the_deadline_has_one_of_its_own(tmp_path):
    async with running(tmp_path, ("RegionOne",), deadline_s=0.5) as cloud:
        controller = cloud.controller
        await cloud.sites["RegionOne"].stop()
        await eventually(lambda: controller.replicator.sessions == {})
        await controller.acknowledgements.forget("RegionOne")
        await controller.sites.set_state("RegionOne", "quarantined", "a test")
        await controller.sites.set_state("RegionOne", "active", "a test")
        turned_at = (await controller.overlay.get(Ring, "token")).turned_at
        deadline = controller.clock.ticks()  # it has passed
        waiting = asyncio.create_task(controller.rotator._acknowledged(True, turned_at, TURNED, deadline, set()))
        assert await still(waiting, 0.3)
        assert await states(controller) == {"RegionOne": "active"}
        await asyncio.wait_for(waiting, 5)
        assert await states(controller) == {"RegionOne": "quarantined"}


async def test_rings_that_are_sealed_again_do_not_put_the_deadline_of_a_turn_off(tmp_path, monkeypatch):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=1.5) as cloud:
        controller = cloud.controller
        monkeypatch.setattr(rotate, "GRACE_S", 0.2)
        await cloud.sites["RegionTwo"].stop()
        await controller.rotator.turn()
        turning = asyncio.create_task(controller.rotator.turn())
        began = controller.clock.ticks()
        while not turning.done() and controller.clock.ticks() - began < 6:
            await controller.sites.distribute(["token"])
            await asyncio.wait({turning}, timeout=0.5)
        assert turning.done()
        assert await states(controller) == {"RegionOne": "active", "RegionTwo": "quarantined"}


async def test_a_site_that_says_that_it_holds_the_ring_and_then_that_it_does_not_holds_a_turn_up_once(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=1.0) as cloud:
        controller, instance = cloud.controller, cloud.sites["RegionTwo"].identity.membership().instance
        await cloud.sites["RegionTwo"].stop()
        await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
        before, less = await ring(controller), Acknowledge(1, {"token": (0, "")})
        receipt = await controller.overlay.get(Ring, "receipt")
        held = {one.id: (one.epoch, one.fingerprint) for one in (before, receipt)}

        async def flap():
            while True:
                if (await states(controller))["RegionTwo"] == "quarantined":
                    controller.acknowledgements.note("RegionTwo", instance, Acknowledge(1, held))
                    await controller.rotator.take_back("RegionTwo")
                    controller.acknowledgements.note("RegionTwo", instance, less)
                await asyncio.sleep(0.02)

        controller.acknowledgements.note("RegionTwo", instance, less)
        flapping = asyncio.create_task(flap())
        try:
            turned = await asyncio.wait_for(controller.rotator.turn(), 6)
        finally:
            flapping.cancel()
        assert turned.epoch == before.epoch + 1
        assert await states(controller) == {"RegionOne": "active", "RegionTwo": "quarantined"}


async def test_only_one_turn_at_a_time(cloud):
    results = await asyncio.gather(*(cloud.controller.rotator.turn() for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 2


async def test_two_rotators_that_both_believe_in_their_lock_turn_one_after_the_other(cloud):
    from controller.rotate import Rotator
    from regional_keystone.adapters.local import LocalLock

    controller = cloud.controller
    other = Rotator(
        overlay=controller.overlay,
        sequencer=controller.sequencer,
        replicator=controller.replicator,
        sites=controller.sites,
        lock=LocalLock(),
        clock=controller.clock,
        terms=TERMS,
        deadline_s=5.0,
    )
    before = (await ring(controller)).epoch
    turned = await asyncio.gather(
        *(who.turn() for _ in range(3) for who in (controller.rotator, other)), return_exceptions=True
    )
    epochs = [one.epoch for one in turned if isinstance(one, Ring)]
    assert sorted(epochs) == list(range(before + 1, before + 1 + len(epochs)))
    await cloud.level()
    newest = (await ring(controller)).epoch, (await ring(controller)).fingerprint
    for node in (controller, *cloud.sites.values()):
        await eventually(lambda node=node: node.holder.seen == newest)


async def test_two_controllers_on_one_log_make_no_two_rings_of_one_epoch(tmp_path):
    one = ControllerNode(tmp_path)
    await one.start()
    two = ControllerNode(tmp_path)
    await two.start()
    try:
        results = await asyncio.gather(
            one.rotator.turn(), two.rotator.turn(), one.rotator.turn(), return_exceptions=True
        )
        assert any(isinstance(result, Ring) for result in results)
        await one.sequencer.catch_up()
        await two.sequencer.catch_up()
        record = await ring(one)
        assert record == await ring(two)
        rings = [change.key for entry in await one.log() for change in entry.changes if change.table == "rings"]
        assert record.epoch == rings.count(("token",)) == rings.count(("receipt",))
        await eventually(lambda: one.holder.seen.epoch == record.epoch)
        assert one.holder.seen == (record.epoch, record.fingerprint)
    finally:
        await two.stop()
        await one.stop()


async def test_keys_are_retired_by_time_only(tmp_path):
    node = ControllerNode(tmp_path, terms=Terms(400 * SECOND, 300 * SECOND, 200 * SECOND, 100 * SECOND))
    await node.start()
    try:
        for _ in range(6):
            await node.rotator.turn()
        await eventually(lambda: len(node.holder.ring.numbers) == 8)
        later(node.rotator, 900)
        assert (await node.rotator.plan()).retires == ()
        later(node.rotator, 1101)
        assert len((await node.rotator.plan()).retires) == 6
        turned = await node.rotator.turn()
        assert len(turned.checks) == 3
        assert {number for number, times in turned.times.items() if times.ceased_at} == {max(turned.checks) - 1}
        assert len(turned.retired) == 6
        assert turned.retired.keys().isdisjoint(turned.checks.values())
    finally:
        await node.stop()


async def test_a_clock_that_was_set_forward_retires_no_key(tmp_path):
    node = ControllerNode(tmp_path, terms=Terms(SECOND, 0, 0, 0))
    await node.start()
    try:
        await node.rotator.turn()
        node.rotator._clock = node.rotator._sure_now._clock = Ahead(node.clock, 250)
        assert (await node.rotator.plan()).retires == ()
        turned = await node.rotator.turn()
        assert turned.retired == {}
        node.rotator._clock = node.clock
        assert (await node.rotator.turn()).turned_at == turned.turned_at + 1, "later than the one before, at any clock"
    finally:
        await node.stop()


def later(rotator, seconds):
    """So much time has gone by at this controller."""
    clock = rotator._clock
    rotator._clock = Ahead(getattr(clock, "_clock", clock), seconds)
    rotator._sure_now = SureNow(rotator._clock)


async def test_a_controller_whose_directory_is_behind_the_log_takes_the_newer_ring(tmp_path):
    import shutil

    node = ControllerNode(tmp_path)
    await node.start()
    await eventually(lambda: node.holder.held.epoch == 1)
    shutil.copytree(tmp_path / "keys", tmp_path / "older")
    turned = await node.rotator.turn()
    await eventually(lambda: node.holder.seen.epoch == turned.epoch)
    await node.follower.settled(node.sequencer.head, 5)
    await node.stop()
    shutil.rmtree(tmp_path / "keys")
    (tmp_path / "older").rename(tmp_path / "keys")
    await node.start()
    try:
        assert node.holder.seen == (turned.epoch, turned.fingerprint)
        assert (await node.rotator.turn()).epoch == turned.epoch + 1
    finally:
        await node.stop()


async def test_a_failing_store_does_not_end_rotation_for_ever(tmp_path):
    node = ControllerNode(tmp_path)
    await node.start()
    append = node.store.append

    async def full(*arguments):
        raise Unavailable("The disk is full.")

    node.store.append = full
    running_ = asyncio.create_task(node.rotator.run())  # its interval is 0: always due
    try:
        assert await still(running_, 0.3)
        node.store.append = append
        before = node.holder.seen.epoch
        await eventually(lambda: node.holder.seen.epoch > before)
    finally:
        running_.cancel()
        await asyncio.gather(running_, return_exceptions=True)
        await node.stop()


async def test_a_quarantine_and_a_removal_are_records_of_the_log(cloud):
    controller = cloud.controller
    await controller.sites.set_state("RegionOne", "quarantined", "a test")
    await controller.sites.set_state("RegionOne", "quarantined", "again")
    assert (await controller.rotator.plan()).quarantined == ("RegionOne",)
    await cloud.level()
    assert (await cloud.sites["RegionTwo"].overlay.get(Site, "RegionOne")).state == "quarantined"


async def test_other_promises_reach_every_site_and_none_that_was_made_is_taken_back(tmp_path):
    """A controller that starts with other durations seals anew; the primary is kept by the most of what was said."""
    async with running(tmp_path, ("RegionOne",)) as cloud:
        controller, site = cloud.controller, cloud.sites["RegionOne"]
        assert not await controller.sites.refresh()
        assert site.follower.leave.left_s() == pytest.approx(TERMS.isolation_us / SECOND * 0.999, abs=10)
        assert site.follower.lifetime_us == TERMS.lifetime_us
        await controller.stop()
        controller.terms = Terms(600 * SECOND, 0, 60 * SECOND, TERMS.skew_us)
        await controller.start()
        assert await controller.sites.refresh()
        assert not await controller.sites.refresh()
        await eventually(lambda: site.follower.lifetime_us == 600 * SECOND)
        await eventually(lambda: 0 < site.follower.leave.left_s() < 60)
        turned = await controller.rotator.turn()
        ceased = turned.times[max(turned.checks) - 1]
        assert ceased.seal_until == turned.turned_at + TERMS.isolation_us
        assert ceased.keep_until == ceased.seal_until + sum(TERMS[:2]) + TERMS.skew_us, (
            "and as long as expired ones were shown"
        )


async def test_a_controller_that_stood_still_before_it_appended_keeps_the_old_key_by_so_much_longer(tmp_path):
    """Sites were sure of the old ring until the turn was in the log, whatever it is dated."""
    async with running(tmp_path, ("RegionOne",)) as cloud:
        controller = cloud.controller
        append = controller.store.append

        async def stopped(*arguments):
            controller.rotator._clock = Ahead(controller.clock, 200)  # beyond the skew; bundles may be 300 s old
            controller.store.append = append
            return await append(*arguments)

        controller.store.append = stopped
        turned = await controller.rotator.turn()
        ceased = turned.times[max(turned.checks) - 1]
        assert ceased.seal_until >= turned.turned_at + TERMS.isolation_us + 200 * SECOND
        assert ceased.keep_until == ceased.seal_until + TERMS.lifetime_us + TERMS.allow_expired_us + TERMS.skew_us
        assert turned == await ring(controller)
        await cloud.level()
        await eventually(lambda: cloud.sites["RegionOne"].holder.seen == (turned.epoch, turned.fingerprint))
        assert (await controller.rotator.turn()).times[max(turned.checks) - 1] == ceased


async def test_a_turn_whose_lock_was_lost_is_given_up_before_each_step(cloud):
    """Two may believe in one lock, which is safe; who knows that it has none does nothing more."""
    controller, rotator = cloud.controller, cloud.controller.rotator
    before = await ring(controller)
    with pytest.raises(Unavailable, match="lock on turning the keys was lost"):
        await rotator._turn(False, before.turned_at)
    await cloud.sites["RegionTwo"].stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    await controller.acknowledgements.forget("RegionTwo")
    late = controller.clock.ticks() + 60
    with pytest.raises(Unavailable, match="lock on turning the keys was lost"):
        await asyncio.wait_for(rotator._acknowledged(False, before.turned_at, ("token",), late, set()), 2)
    assert await ring(controller) == before
