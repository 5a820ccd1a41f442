"""A controller whose clock is wrong writes nothing by it, forgets nothing by it, and says so."""

import asyncio

import pytest
import structlog

from controller import housekeeping
from controller.heartbeat import beat
from controller.late import FIRST_S, HEARD_S, Late
from controller.replicate import SILENCE_S
from regional_keystone.adapters.local import SystemClock
from regional_keystone.errors import Unavailable
from regional_keystone.log import Put, Transaction, put
from regional_keystone.model import Condemned, Outcome, Site
from regional_keystone.overlay import transact
from tests import replay
from tests.cloud import event, eventually, project, running
from tests.controller.test_housekeeping import keeping
from tests.stand_ins import ManualClock, settle

SECOND = 1_000_000
MOST_US = 62 * SECOND
HOUR_S = 3600


class SetClock(SystemClock):
    """The machine's clock, set ahead by so much; its ticks are not."""

    ahead_s = 0.0

    def now(self):
        return super().now() + int(self.ahead_s * SECOND)


async def spoken(late, clock, ahead_s, rounds=4):
    """Each of these sites has said several times what its clock is, which is so far ahead of ours."""
    for _ in range(rounds):
        for site, more_s in ahead_s.items():
            late.heard(site, clock.now() + int(more_s * SECOND))
        await clock.advance(1.0)


def made(**options):
    clock = ManualClock()
    return clock, Late(clock, MOST_US, lambda site: site != "Quarantined", **options)


@pytest.mark.parametrize(
    ("ahead_s", "is_wrong"),
    [
        ({"A": 0.5}, False),
        ({"A": 61}, False),
        ({"A": HOUR_S}, True),
        ({"A": -HOUR_S}, True),
        ({"A": HOUR_S, "B": 0}, False),  # one of two: nobody can say who is wrong
        ({"A": HOUR_S, "B": HOUR_S}, True),
        ({"A": HOUR_S, "B": -HOUR_S}, False),
        ({"A": HOUR_S, "B": 0, "C": 1}, False),
        ({"A": HOUR_S, "B": HOUR_S + 20, "C": 1}, True),
        ({"A": 0, "Quarantined": HOUR_S}, False),
        ({"Quarantined": HOUR_S}, False),
    ],
)
async def test_more_than_half_of_the_sites_that_count_have_to_say_so(ahead_s, is_wrong):
    clock, late = made()
    await spoken(late, clock, ahead_s)
    assert (late.why_wrong() is not None, late.why_not() is not None) == (is_wrong, is_wrong)
    if is_wrong:
        assert abs(late.now() - clock.now()) >= HOUR_S * SECOND - MOST_US, "others are told the sites' time"
    else:
        assert late.now() == clock.now()


async def test_one_that_was_there_a_moment_sooner_does_not_decide_alone():
    clock, late = made()
    late.heard("A", clock.now() + HOUR_S * SECOND)
    for _ in range(4):
        await clock.advance(0.9)
        for site, ahead_s in (("A", HOUR_S), ("B", 40)):
            late.heard(site, clock.now() + ahead_s * SECOND)
            assert late.why_wrong() is None
            assert late.now() == clock.now(), "it would take its own clock for the right one"
    assert late.ahead_us() == -40 * SECOND


async def test_words_that_waited_while_this_process_was_stopped_say_nothing():
    clock, late = made()
    await spoken(late, clock, {"A": 0})
    sent = [clock.now() + second * SECOND for second in range(1, 6)]
    await clock.advance(600)  # stopped; then what waited in the buffer is read
    for now in sent:
        late.heard("A", now)
    assert late.why_wrong() is None
    await spoken(late, clock, {"A": 0})
    assert late.why_wrong() is None
    assert late.ahead_of_s("A") == 0.0
    await clock.advance(HEARD_S + 1)
    assert late.ahead_of_s("A") is None


async def test_a_word_that_was_long_on_its_way_does_not_count_beside_one_that_was_not():
    clock, late = made()
    for delay_s in (100, 0, 100, 100):
        late.heard("A", clock.now() - delay_s * SECOND)
        await clock.advance(1.0)
    assert late.why_wrong() is None


async def test_one_that_speaks_without_end_is_not_heard():
    clock, late = made()
    for _ in range(200):
        late.heard("A", clock.now() + HOUR_S * SECOND)
        await clock.advance(0.05)
    assert late.why_wrong() is None


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_a_clock_that_is_set_is_noticed_at_once_and_when_no_site_is_there_any_more(ahead_s):
    clock, late = made()
    await spoken(late, clock, {"A": 0, "B": 0})
    await clock.advance(HOUR_S)
    assert late.why_not() is None
    with structlog.testing.capture_logs() as logs:
        clock.jump(ahead_s)
        for _ in range(4):
            late.look()
            await clock.advance(31)
        assert ("ahead of" if ahead_s > 0 else "behind") in late.why_not()
        clock.jump(-ahead_s)
        late.look()
        late.look()
    assert late.why_not() is None
    assert [one["event"] for one in logs] == ["clock_wrong", "clock_wrong", "clock_right_again"]
    assert "trust_clock" in logs[0]["cure"]


async def test_before_any_site_speaks_the_log_says_that_a_clock_is_behind():
    clock, late = made()
    late.begin(clock.now() + HOUR_S * SECOND, expects=True)
    assert "behind its log's" in late.why_not()
    await spoken(late, clock, {"A": 0})  # whoever wrote that was ahead
    assert late.why_not() is None


async def test_who_starts_long_after_the_last_entry_waits_for_the_sites_and_no_longer_than_that():
    clock, late = made()
    late.begin(clock.now() - 30 * SECOND, expects=True)
    assert late.why_not() is None, "the log has just vouched for it"
    late.begin(clock.now() - HOUR_S * SECOND, expects=False)
    assert late.why_not() is None
    late.begin(clock.now() - HOUR_S * SECOND, expects=True)
    assert "just started" in late.why_not()
    assert late.why_wrong() is None
    await clock.advance(FIRST_S)
    assert late.why_not() is None


async def test_who_starts_waits_for_more_than_half_of_those_that_speak_for_a_while():
    clock, late = made()
    late.begin(clock.now() - HOUR_S * SECOND, expects=True)
    end_s = FIRST_S + HEARD_S
    late.heard("A", clock.now())
    for _ in range(int(end_s)):
        assert late.why_not()
        late.heard("A", clock.now() - HOUR_S * SECOND)
        for name in "BC":
            late.heard(f"{name}{clock.ticks()}", clock.now())  # each says one word only
        await clock.advance(1.0)
    assert late.why_not() is None, "nobody can keep it waiting"


async def test_an_operators_word_is_the_last():
    clock, late = made(trusted=True)
    late.begin(clock.now() + HOUR_S * SECOND, expects=True)
    await spoken(late, clock, {"A": HOUR_S})
    assert (late.why_not(), late.now()) == (None, clock.now())


async def test_that_a_key_was_stolen_is_written_by_any_clock():
    clock, late = made()
    await spoken(late, clock, {"A": HOUR_S})
    stolen = put(Condemned(id="a" * 16, ring="token", at=1, by="b", why="w"))
    other = put(project("p"))
    assert isinstance(stolen, Put)
    assert late.refuses(Transaction("t", 0, frozenset(), (stolen,))) is None
    assert late.refuses(Transaction("t", 0, frozenset(), (stolen, other)))


@pytest.fixture
async def cloud(tmp_path):
    """A cloud whose controller goes by a clock that can be set."""
    async with running(tmp_path) as made_:
        controller = made_.controller
        controller.leaping = clock = SetClock()
        late = Late(clock, MOST_US, lambda _: True)
        controller.sequencer.refuses, controller.replicator.late = late.refuses, late
        await eventually(lambda: None not in map(late.ahead_of_s, made_.sites), 30)
        yield made_


async def test_a_wrong_clock_writes_nothing_and_what_a_site_revoked_meanwhile_comes_in_whole(cloud):
    controller, site = cloud.controller, cloud.sites["RegionOne"]
    await controller.write(project("before"))
    controller.leaping.ahead_s = -3 * HOUR_S
    head = controller.sequencer.head
    with pytest.raises(Unavailable, match="behind its sites"):
        await controller.write(project("after"))
    await site.revoke("meanwhile")
    assert site.void(audit_id="meanwhile")
    began = site.clock.ticks()
    await eventually(lambda: site.follower.age_s() < site.clock.ticks() - began)  # a probe of since then was echoed
    assert controller.sequencer.head == head
    assert "RegionOne" in controller.replicator.sessions, "it goes on hearing of the others"
    assert abs(site.follower.ahead_s()) < SILENCE_S, "it is told the sites' time, and goes on issuing"
    controller.leaping.ahead_s = 0
    await eventually(lambda: cloud.sites["RegionTwo"].void(audit_id="meanwhile"), 30)
    await cloud.level()
    assert [one.audit_id for one in await controller.revocations()] == ["meanwhile"]
    await controller.write(project("after"))


async def test_nothing_is_forgotten_by_a_wrong_clock(cloud):
    controller, clock = cloud.controller, ManualClock()
    clock._now = controller.clock.now()
    await controller.write(Outcome(id="old", request_digest=b"", answer=b"", at=1), event("old", 1, audit_id="old"))
    why = "wrong"
    house = keeping(controller, clock, why_not=lambda: why)
    await settle()
    with structlog.testing.capture_logs() as logs:
        await clock.advance(2 * housekeeping.EVERY_S + 1)
        await asyncio.sleep(0.1)
    assert {one["why"] for one in logs if one["event"] == "house_not_kept"} == {"wrong"}
    assert await controller.overlay.get(Outcome, "old")
    why = None

    async def gone():
        await clock.advance(housekeeping.EVERY_S)
        return await controller.overlay.get(Outcome, "old") is None

    await eventually(gone)
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)


async def test_what_is_written_by_a_wrong_clock_right_after_the_start_vouches_for_nothing(cloud, monkeypatch):
    """The newest moment that is known counts from before anything is written by us."""
    controller, clock = cloud.controller, ManualClock()
    asked, newest = asyncio.Event(), housekeeping._newest

    async def watched(*of):
        found = await newest(*of)
        asked.set()
        return found

    monkeypatch.setattr(housekeeping, "_newest", watched)
    right = controller.clock.now()
    await controller.write(event("live", right, audit_id="live"))
    clock._now = right + 30 * 86_400 * SECOND
    controller.follower.expiry.steady = type(controller.follower.expiry.steady)(clock)
    house = keeping(controller, clock)
    await asyncio.wait_for(asked.wait(), 30)  # before any time has passed
    controller.sequencer._clock = clock
    await controller.write(event("ahead", clock.now(), audit_id="ahead"))
    await clock.advance(2 * housekeeping.EVERY_S + 1)
    await asyncio.sleep(0.1)
    assert await controller.overlay.get(type(event("live", 1)), "live") is not None
    house.cancel()
    await asyncio.gather(house, return_exceptions=True)


async def test_the_heartbeat_is_silent_while_the_clock_is_wrong(cloud):
    clock, said = ManualClock(), []

    class Heartbeat:
        async def beat(self, at, head):
            said.append((at, head))

    why = "wrong"
    beating = asyncio.create_task(beat(Heartbeat(), cloud.controller.follower, clock, lambda: why))
    await clock.advance(3)
    assert said == []
    why = None
    await clock.advance(2)
    assert said
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_whole_controller_refuses_is_not_ready_and_shows_it(tmp_path):
    clock = SetClock()
    async with replay.world(tmp_path, clock) as world:
        controller = world.controller
        await controller.begin_clock(await controller.newest())
        assert controller.late.why_not() is None

        async def active(reader):
            return [put(Site(id="A", state="active", instance="i"), await reader.get(Site, "A"))], None

        await transact(controller.part.overlay, controller.sequencer, "test", active)
        await controller.begin_clock(await controller.newest())
        for second in range(4):
            controller.late.heard("A", clock.now())
            controller.late._words["A"][-1] = (clock.ticks() + second - 3, controller.late._words["A"][-1][1])
        controller.late.heard("A", clock.now())
        clock.ahead_s = 2 * HOUR_S
        assert "7200 s ahead of its sites'" in controller.ready()
        assert controller.status()["clock"] == {"ahead_s": 7200.0, "refuses": controller.ready()}
        with pytest.raises(Unavailable, match="ahead of its sites"):
            await controller.sites.invite("Oslo")
        assert await controller.part.overlay.get(Site, "Oslo") is None
        clock.ahead_s = 0
        assert controller.ready() is None
        await controller.sites.invite("Oslo")
