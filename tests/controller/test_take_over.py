"""A site that revokes without end fills its own feed, and the log no faster than it forgets."""

import pytest
import structlog

from controller import replicate, take_over
from controller.take_over import Flood, Gap, TakeOver
from regional_keystone.log import Entry, put
from regional_keystone.model import RevocationEvent, Taken
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


class Behind:
    """What a controller knows that has not read yet what another took over."""

    def __init__(self, node):
        self._node, self.asked = node, 0

    def __getattr__(self, name):
        return getattr(self._node.overlay, name)

    async def get(self, kind, *key):
        return await self._node.overlay.get(kind, *key) if self.asked or kind is not Taken else None

    async def commit(self, transaction):
        return await self._node.sequencer.commit(transaction)

    async def catch_up(self):
        self.asked += 1
        await self._node.sequencer.catch_up()


async def test_what_follows_what_another_controller_took_is_taken_though_that_is_not_known_here_yet(cloud):
    """The site sends it once in the life of a stream: what is passed over stays away from all other regions."""
    node, clock = cloud.controller, ManualClock()
    behind = Behind(node)
    taking = TakeOver(overlay=node.overlay, sequencer=node.sequencer, clock=clock, keep_s=KEEP_S)
    late = TakeOver(overlay=behind, sequencer=behind, clock=clock, keep_s=KEEP_S)
    await taking.take("RegionOne", "RegionOne/inc", [entry(1)])
    await late.take("RegionOne", "RegionOne/inc", [entry(2)])
    assert behind.asked == 1
    assert (await node.overlay.get(Taken, "RegionOne/inc")).number == 2
    await late.take("RegionOne", "RegionOne/inc", [entry(2)])
    assert behind.asked == 1, "what is known is not looked for again"


async def test_a_gap_in_a_feed_is_told_loudly_and_nothing_after_it_is_taken(cloud):
    node, clock = cloud.controller, ManualClock()
    taking = TakeOver(overlay=node.overlay, sequencer=node.sequencer, clock=clock, keep_s=KEEP_S)
    await taking.take("RegionOne", "RegionOne/inc", [entry(1)])
    with structlog.testing.capture_logs() as logs, pytest.raises(Gap):
        await taking.take("RegionOne", "RegionOne/inc", [entry(3)])
    assert [one["feed"] for one in logs if one["event"] == "own_feed_has_a_gap"] == ["RegionOne/inc"]
    assert (await node.overlay.get(Taken, "RegionOne/inc")).number == 1


async def test_what_came_without_what_is_before_it_comes_again_with_it_and_the_stream_lives_on_until_then(
    cloud, monkeypatch
):
    monkeypatch.setattr(replicate, "_GAP_S", 0.2)
    async with wired(cloud, "RegionOne"):
        site = cloud.sites["RegionOne"]
        await eventually(lambda: site.link.connected_since is not None)
        site.link._connection.own_sent = 1  # as if the first had been lost on the way
        for number in range(3):
            await site.revoke(f"a{number}")
        assert await site.follower.reached(await cloud.controller.write(event("x", 1, audit_id="x")), 10)
        await eventually(lambda: not site.own.pending(), 30)
        assert (await cloud.controller.overlay.get(Taken, site.own.name)).number == 3


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
