"""A site that revokes without end fills its own feed, and the log no faster than it forgets."""

import pytest
import structlog

from controller import replicate, take_over
from controller.take_over import Flood, TakeOver
from regional_keystone.log import Entry, put
from regional_keystone.model import RevocationEvent
from tests.cloud import event, eventually, running, wired
from tests.stand_ins import ManualClock

MOST, KEEP_S = 10, 1000.0


@pytest.fixture
async def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(take_over, "MOST_ROWS", MOST)
    async with running(tmp_path) as made:
        yield made


def entry(number, rows=5):
    return Entry(number, f"e{number}", 0, tuple(put(event(f"r{row}", 1, audit_id=f"a{row}")) for row in range(rows)))


async def test_a_site_has_a_share_of_the_log_that_fills_again_and_others_have_theirs(cloud):
    node, clock = cloud.controller, ManualClock()
    taking = TakeOver(overlay=node.overlay, sequencer=node.sequencer, clock=clock, keep_s=KEEP_S)

    async def take(number, site="RegionOne"):
        await taking.take(site, f"{site}/inc", [entry(number)])

    for number in (1, 1, 1, 2):  # what comes again costs nothing
        await take(number)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Flood):
                await take(3)
    [told] = [one for one in logs if one["event"] == "own_feed_floods"]  # now and then
    assert "rkctl region remove RegionOne" in told["why"]
    await take(1, "RegionTwo")
    await clock.advance(KEEP_S / MOST + 1)
    await take(3)
    with pytest.raises(Flood):
        await take(4)
    assert len([one async for one in node.overlay.scan(RevocationEvent)]) == 4 * 5


async def test_what_is_held_back_stays_in_the_feed_and_comes_when_there_is_room_and_the_stream_lives_on(
    cloud, monkeypatch
):
    monkeypatch.setattr(replicate, "_HELD_BACK_S", 0.2)
    taking = cloud.controller.replicator.taking
    taking._keep_s = 1.0
    async with wired(cloud, "RegionOne"):
        site = cloud.sites["RegionOne"]
        with structlog.testing.capture_logs() as logs:
            for number in range(3 * MOST):
                await site.revoke(f"a{number}")
            await eventually(lambda: any(one["event"] == "own_feed_floods" for one in logs))
            position = await cloud.controller.write(event("x", 1, audit_id="x"))
            assert await site.follower.reached(position, 10), "it is told as before"
            await eventually(lambda: not site.own.pending(), 30)
        assert not any(one["event"] in {"own_feed_refused", "own_feed_not_taken"} for one in logs)
