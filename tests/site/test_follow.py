"""Entries in order to index, ring and replica; how fresh they are; what is answered late."""

import asyncio
import itertools
from collections import Counter

import msgspec
import pytest
import structlog

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.believed import said
from regional_keystone.errors import Unavailable
from regional_keystone.follow import APART_S, Follower
from regional_keystone.holder import Holder
from regional_keystone.issued import LATE, Issued
from regional_keystone.log import Entry, put, remove
from regional_keystone.marks import Marks
from regional_keystone.model import Project
from regional_keystone.overlay import Overlay
from regional_keystone.record import spread
from regional_keystone.refresh import Refresh
from regional_keystone.revocation import Traits
from regional_keystone.sealing import UNNOTED_US, Noted
from regional_keystone.watermarks import WATERMARK
from tests.cloud import event, eventually, project
from tests.site.test_holder import BOX, FIRST, SECOND, SIGNER, record
from tests.stand_ins import ManualClock

SECOND_US = 1_000_000


class Failing:
    """A Writer whose disk is full until it is told otherwise."""

    def __init__(self, store):
        self._store = store
        self.full = False

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def apply(self, entries):
        if self.full:
            raise Unavailable("The disk is full.")
        await self._store.apply(entries)


def entry(number, *changes):
    return Entry(number, f"t{number}", 1_700_000_000_000_000 + number, changes)


def projects(*numbers):
    return [entry(number, put(project(f"p{number}"))) for number in numbers]


class Part:
    async def open(self, path, **settings):
        self.clock = ManualClock()
        self.store = Failing(await Sqlite.open(path / "replica.db"))
        self.holder = Holder("RegionOne", "cluster", BOX, [SIGNER.public_key().public_bytes_raw()], path / "keys")
        self.follower = Follower(
            store=self.store,
            overlay=Overlay(self.store),
            holder=self.holder,
            clock=self.clock,
            lifetime_s=3600.0,
            **settings,
        )
        await self.follower.start()
        self.running = asyncio.create_task(self.follower.run())
        return self

    async def close(self):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.store.close()


@pytest.fixture
async def part(tmp_path):
    made = await Part().open(tmp_path)
    yield made
    await made.close()


def voided(follower, **traits):
    return follower.index.voided(Traits(**({"issued_at": 0, "expires_at": 10**18, "audit_id": "x"} | traits)))


async def test_an_entry_is_seen_at_once_and_durable_soon(part):
    part.follower.note(projects(1, 2))
    assert part.follower.position == 2
    assert (await part.follower.overlay.get(Project, "p2")).name == "p2"
    assert await part.follower.settled(2, 5.0)
    assert await part.store.applied("log") == part.follower.projected == 2
    assert await part.follower.durable(Project, "p1")


async def test_a_gap_is_refused_and_what_came_before_it_is_not_lost(part):
    with pytest.raises(ValueError, match="cannot follow"):
        part.follower.note(projects(1, 2, 4))
    assert part.follower.position == 2
    assert await part.follower.settled(2, 5.0)
    part.follower.note(projects(1, 2, 3, 4))
    assert await part.follower.settled(4, 5.0)
    assert not part.running.done()


async def test_an_entry_that_cannot_be_read_holds_all_up_that_come_after_it(part):
    bad = entry(2, put(event("e", 1, user_id="u")))
    bad = Entry(2, "bad", 0, tuple(type(one)(one.table, one.key, b"\xc1", one.now) for one in bad.changes))
    with pytest.raises(ValueError):
        part.follower.note([*projects(1), bad, *projects(3)])
    assert part.follower.position == 1
    assert await part.follower.settled(1, 5.0)


async def test_entries_that_come_twice_count_once(part):
    told = []
    part.follower.watchers.append(lambda number, touched: told.append(number))
    part.follower.note(projects(1, 2))
    part.follower.note(projects(1, 2, 3))
    assert told == [1, 2, 3]


async def test_a_replica_that_is_behind_is_complained_of_now_and_then(part):
    part.store.full = True
    with structlog.testing.capture_logs() as said:
        part.follower.note(projects(1))
        for _ in range(130):
            await part.clock.advance(1)
        assert [one["event"] for one in said].count("replica_behind") == 3
        assert said[0]["position"] == 0
        part.store.full = False
        await part.clock.advance(1)
        assert await part.follower.settled(1, 5.0)
        part.store.full = True
        part.follower.note(projects(2))
        await part.clock.advance(1)
    assert [one["position"] for one in said] == [0, 0, 0, 1]


async def test_a_full_disk_delays_nothing_but_the_replica(part):
    part.store.full = True
    part.follower.note(projects(1))
    await asyncio.sleep(0.05)
    part.follower.note([entry(2, put(event("e", SECOND_US, audit_id="gone")))])
    assert voided(part.follower, audit_id="gone")
    assert await part.follower.overlay.get(Project, "p1")
    assert part.follower.projected == 0
    part.store.full = False
    await part.clock.advance(1.5)
    assert await part.follower.settled(2, 5.0)


async def test_a_ring_that_could_not_be_written_is_installed_as_soon_as_it_can_be(part, monkeypatch):
    monkeypatch.setattr("regional_keystone.owed_rings.FIRST_PAUSE_S", 0.02)
    part.clock._now = record(FIRST).turned_at
    part.holder.directory.parent.mkdir(exist_ok=True)
    part.holder.directory.write_text("in the way")
    part.follower.note([entry(1, put(record(FIRST)))])
    assert await part.follower.settled(1, 5.0)
    assert part.holder.seen.epoch == 0
    told = asyncio.Event()
    part.follower.progress = told.set
    part.holder.directory.unlink()
    await part.clock.advance(0.1)
    await eventually(lambda: part.holder.seen.epoch == 1)
    await asyncio.wait_for(told.wait(), 5)  # so that it is acknowledged


@pytest.mark.parametrize("store_away", [False, True])
async def test_a_ring_is_tried_again_however_much_arrives_meanwhile(part, store_away):
    part.clock._now = record(FIRST).turned_at
    part.holder.directory.parent.mkdir(exist_ok=True)
    part.holder.directory.write_text("in the way")
    part.follower.note([entry(1, put(record(FIRST)))])
    assert await part.follower.settled(1, 5.0)
    part.holder.directory.unlink()
    part.store.full = store_away
    for number in range(2, 42):  # more often than a ring is tried
        part.follower.note(projects(number))
        await part.clock.advance(0.25)
        await asyncio.sleep(0.02)
        if part.holder.seen.epoch:
            return
    pytest.fail("it was not tried again in ten seconds")


async def test_until_the_ring_of_the_log_is_installed_a_key_may_be_lacking(part, monkeypatch):
    part.clock._now = record(FIRST).turned_at
    part.follower.heard(part.clock.ticks(), 0)
    assert not part.follower.may_lack_key(part.clock.now())
    part.holder.directory.parent.mkdir(exist_ok=True)
    part.holder.directory.write_text("in the way")
    part.follower.note([entry(1, put(record(FIRST)))])
    assert part.follower.may_lack_key(0)
    assert await part.follower.settled(1, 5.0)
    assert part.follower.may_lack_key(0)
    part.holder.directory.unlink()
    await part.clock.advance(2)
    await eventually(lambda: part.holder.seen.epoch == 1)
    assert not part.follower.may_lack_key(0)


async def test_while_keys_of_the_directory_are_lost_no_token_is_refused_for_its_key(part):
    part.clock._now = record(FIRST).turned_at
    part.follower.heard(part.clock.ticks(), 0)
    assert await part.holder.install(record(FIRST), part.clock.now())
    assert not part.follower.may_lack_key(0)
    for name in ("1", "2", "3"):
        (part.holder.directory / name).write_bytes(b"")
    part.holder.load()  # as at the start
    assert part.follower.may_lack_key(0)
    assert await part.holder.install(record(FIRST), part.clock.now())
    assert not part.follower.may_lack_key(0)


async def test_what_was_sealed_after_all_that_is_known_may_be_sealed_by_an_unknown_key(part):
    assert part.follower.may_lack_key(0)  # nothing was ever heard
    part.follower.heard(part.clock.ticks(), 0)
    known_at = part.clock.now()
    await part.clock.advance(APART_S - 1)
    assert not part.follower.may_lack_key(part.clock.now())
    await part.clock.advance(2)
    assert part.follower.may_lack_key(part.clock.now())
    assert part.follower.may_lack_key(known_at - SECOND_US)  # in whole seconds, by another's clock
    assert not part.follower.may_lack_key(known_at - 5 * SECOND_US)


async def test_of_many_turns_only_the_last_one_is_installed(part):
    part.clock._now = record(FIRST).turned_at
    part.follower.note([entry(1, put(record(FIRST))), entry(2, put(record(SECOND, FIRST.fingerprint)))])
    assert await part.follower.settled(2, 5.0)
    assert part.follower.ring == SECOND


async def test_a_started_follower_knows_what_its_replica_holds(part, tmp_path):
    part.clock._now = record(FIRST).turned_at
    part.follower.note([entry(1, put(record(FIRST))), entry(2, put(event("e", SECOND_US, audit_id="gone")))])
    assert await part.follower.settled(2, 5.0)
    await part.close()
    for file in (tmp_path / "keys").iterdir():
        file.unlink()
    again = Part()
    await again.open(tmp_path)
    try:
        assert again.follower.position == 2
        assert voided(again.follower, audit_id="gone")
    finally:
        await again.close()


async def test_a_snapshot_while_entries_are_being_projected_breaks_nothing(part):
    part.store.full = True
    part.follower.note(projects(1, 2))
    await asyncio.sleep(0.02)

    async def rows():
        for number in range(1, 6):
            change = put(project(f"p{number}"))
            yield change.table, change.key, change.row
        change = put(event("e", SECOND_US, audit_id="gone"))
        yield change.table, change.key, change.row

    await part.store.restore(5, rows())
    await part.follower.start()
    part.store.full = False
    await part.clock.advance(1.5)
    part.follower.note(projects(6))
    assert await part.follower.settled(6, 5.0)
    assert not part.running.done()
    assert voided(part.follower, audit_id="gone")


async def test_what_the_log_removes_after_its_time_leaves_the_index(part):
    old = event("e", SECOND_US, audit_id="gone")
    part.follower.note([entry(1, put(old))])
    assert len(part.follower.index) == 1
    part.follower.note([entry(2, remove(old))])
    await eventually(lambda: not len(part.follower.index))


async def test_what_the_log_removes_leaves_the_index_that_was_built_anew_as_well(part):
    old = event("e", SECOND_US, audit_id="gone")
    part.follower.note([entry(1, put(old))])
    await Refresh(part.follower, nothing).begin({("revocations", "e")})
    assert len(part.follower.index) == 1
    part.follower.note([entry(2, remove(old))])
    await eventually(lambda: not len(part.follower.index))


async def nothing(number):
    return ()


# ------------------------------------------------------------------------------------------------------------- age


async def test_age_counts_from_the_probe_whose_head_is_applied(part):
    clock, follower = part.clock, part.follower
    assert follower.age_s() == float("inf")
    sent = clock.ticks()
    await clock.advance(3)
    follower.heard(sent, 1)
    assert follower.age_s() == float("inf"), "entry 1 has not come"
    follower.note(projects(1))
    assert follower.age_s() == 3
    assert follower.head == 1


async def test_echoes_that_were_buffered_while_the_machine_slept_do_not_look_fresh(part):
    clock, follower = part.clock, part.follower
    sent = [clock.ticks(), clock.ticks() + 1]
    await clock.advance(600)  # stopped; ticks go on
    for ticks in sent:
        follower.heard(ticks, 0)
    assert follower.age_s() == 599


async def test_an_echo_of_no_probe_of_ours_does_not_look_fresh(part):
    part.follower.heard(part.clock.ticks() + 10**6, 0)
    assert part.follower.age_s() == float("inf")


async def test_a_wall_clock_that_jumps_changes_no_age(part):
    part.follower.heard(part.clock.ticks(), 0)
    part.clock.jump(86400)
    assert part.follower.age_s() == 0


async def test_echoes_that_cannot_be_met_yet_are_bounded(part):
    for number in range(5000):
        part.follower.heard(part.clock.ticks(), number + 1)
    assert len(part.follower._age._echoes._waiting) <= 1024
    part.follower.note(projects(*range(1, 4001)))
    assert part.follower.age_s() < 1, "the first of them are met"


async def test_who_leads_is_fresh(tmp_path):
    part = await Part().open(tmp_path, leads=True)
    assert part.follower.age_s() == 0
    await part.close()


# -------------------------------------------------------------------------------------------------------- waiting


async def test_waiting_for_a_position_ends_when_it_comes_and_costs_nothing_afterwards():
    marks = Marks()
    waiters = [asyncio.create_task(marks.wait(number, 0.05)) for number in (3, 1, 2, 9)]
    await asyncio.sleep(0)
    marks.reached(2)
    assert await asyncio.gather(*waiters) == [False, True, True, False]
    assert not marks._waiting
    given_up = asyncio.create_task(marks.wait(5))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert not marks._waiting


# ----------------------------------------------------------------------------------------------------------- late


@pytest.fixture
def answers(part):
    found = []
    part.follower.late = found.extend
    return found


def revoked(number, at, name="e", **traits):
    return entry(number, put(event(name, at, **traits)))


async def test_a_revocation_that_reaches_back_over_an_issue_is_answered_up_to_that_issue(part, answers):
    part.follower.note_issue("u", 10 * SECOND_US)
    part.follower.note([revoked(1, 5 * SECOND_US, user_id="u", project_id="p")])
    (answer,) = answers
    assert (answer.id, answer.user_id, answer.project_id) == (spread(f"{LATE}e"), "u", "p")
    assert answer.issued_before == 10 * SECOND_US
    assert answer.keep_until - answer.issued_before == 10**11


async def test_every_revocation_that_reaches_back_is_answered_not_only_the_first(part, answers):
    part.follower.note_issue("u", 10 * SECOND_US)
    part.follower.note([revoked(1, 5 * SECOND_US, "narrow", user_id="u", project_id="p")])
    part.follower.note([revoked(2, 6 * SECOND_US, "wide", user_id="u")])
    assert [one.id for one in answers] == [spread("late/narrow"), spread("late/wide")]


@pytest.mark.parametrize(
    ("at", "name", "traits"),
    [
        (10 * SECOND_US, "e", {"user_id": "u"}),  # known when it was issued
        (5 * SECOND_US, "e", {"user_id": "another"}),
        (5 * SECOND_US, "e", {"audit_id": "a"}),
        (5 * SECOND_US, spread("late/e"), {"user_id": "u"}),  # another site's answer: no ping-pong
        (5 * SECOND_US, spread("RegionOne/inc/1/0"), {"user_id": "u"}),  # our own, back from the log
    ],
)
async def test_what_needs_no_answer_gets_none(part, answers, at, name, traits):
    part.follower.own = "RegionOne/inc"
    part.follower.note_issue("u", 10 * SECOND_US)
    part.follower.note([revoked(1, at, name, **traits)])
    assert answers == []


async def test_what_was_made_here_of_a_token_that_another_place_answers_for_is_answered_as_well(part, answers):
    """Who knew the old password logged in where the new one was not known yet, and exchanged that where it was."""
    part.follower.own = "RegionOne/inc"
    part.follower.note([revoked(1, 5 * SECOND_US, spread("e"), user_id="u")])
    part.follower.note_issue("u", 20 * SECOND_US, 10 * SECOND_US)
    assert answers == []
    late = spread(f"{LATE}RegionTwo/inc/1/0")
    part.follower.note([revoked(2, 12 * SECOND_US, late, user_id="u")])
    (answer,) = answers
    assert (answer.user_id, answer.issued_before) == ("u", 20 * SECOND_US)
    part.follower.note([revoked(3, 20 * SECOND_US, spread(f"{LATE}RegionOne/inc/1/0"), user_id="u")])
    part.follower.note([revoked(4, 12 * SECOND_US, late, user_id="u")])  # told again
    part.follower.note([revoked(5, 20 * SECOND_US, spread(f"{LATE}RegionThree/inc/1/0"), user_id="u")])
    assert len(answers) == 1, "no ping-pong"


@pytest.mark.parametrize(
    ("made_of", "user", "traits"),
    [
        (13, "u", {"user_id": "u"}),  # of a token that the answer spares
        (None, "u", {"user_id": "u"}),  # of none: by the password that counts
        (10, "another", {"user_id": "u"}),
        (10, "u", {"audit_id": "a"}),
    ],
)
async def test_anothers_answer_needs_none_for_what_was_made_of_other_tokens(part, answers, made_of, user, traits):
    part.follower.own = "RegionOne/inc"
    part.follower.note_issue("u", 4 * SECOND_US, 3 * SECOND_US)
    part.follower.note([revoked(1, 5 * SECOND_US, spread("e"), user_id="u")])
    part.follower.note_issue(user, 20 * SECOND_US, made_of and made_of * SECOND_US)
    part.follower.note([revoked(2, 12 * SECOND_US, spread(f"{LATE}RegionTwo/inc/1/0"), **traits)])
    assert answers == []


async def test_after_a_start_anothers_answer_is_answered_for_all_that_may_have_been_made_before(part, answers):
    part.follower.issued.lived(20 * SECOND_US)
    part.follower.note([revoked(1, 12 * SECOND_US, spread(f"{LATE}RegionTwo/inc/1/0"), user_id="u")])
    assert [one.issued_before for one in answers] == [20 * SECOND_US]


async def test_a_snapshot_that_breaks_off_and_comes_again_is_answered_once_and_so_is_the_next(part, answers):
    brought = event(spread("e"), 5 * SECOND_US, user_id="u")
    later = msgspec.structs.replace(brought, id=spread("f"))
    part.follower.note_issue("u", 10 * SECOND_US)
    await part.follower.brought(brought)
    part.follower.note_issue("u", 20 * SECOND_US)  # who logs in now knows the new password
    await part.follower.brought(brought)
    part.follower.note([entry(1, put(brought))])
    assert [one.issued_before for one in answers] == [10 * SECOND_US]
    await part.follower.brought(later)
    assert [one.issued_before for one in answers] == [10 * SECOND_US, 20 * SECOND_US]
    part.follower.issued.applied()
    part.follower.note([entry(2, put(brought))])
    assert len(answers) == 3, "nothing is remembered for ever"


async def test_a_watermark_that_a_snapshot_moves_on_is_answered_and_one_that_stays_is_not(part, answers):
    first = event(spread(f"RegionTwo/inc/{WATERMARK}u/None"), 5 * SECOND_US, user_id="u")
    part.follower.note([entry(1, put(first))])
    assert await part.follower.settled(1, 5.0)
    part.follower.note_issue("u", 20 * SECOND_US)
    await part.follower.brought(first)
    assert answers == []
    await part.follower.brought(msgspec.structs.replace(first, issued_before=10 * SECOND_US))
    assert [one.issued_before for one in answers] == [20 * SECOND_US]


async def test_answers_to_watermarks_are_one_row_of_each_user_that_every_reader_knows_by_the_same_id(part, answers):
    for number in range(1, 4):
        part.follower.note_issue("u", (10 * number + 5) * SECOND_US)
        moved = event(spread(f"RegionTwo/inc/{WATERMARK}u/None"), 10 * number * SECOND_US, user_id="u")
        part.follower.note([entry(number, put(moved))])
    assert [one.issued_before for one in answers] == [15 * SECOND_US, 25 * SECOND_US, 35 * SECOND_US]
    found = {
        row.id
        for number, one in enumerate(answers, 1)
        for row in said("RegionOne/inc", Entry(number, "t", 0, (put(one),)), 10**9, 10**9, Counter()).revocations
    }
    assert found == {spread(f"{LATE}RegionOne/inc/{WATERMARK}u/None")}


async def test_who_was_issued_for_is_remembered_for_a_lifetime_at_most(part):
    part.follower.issued = Issued(10)
    for number in range(1000):
        part.follower.note_issue(f"u{number}", part.clock.now())
        await part.clock.advance(300)
    assert len(part.follower.issued) <= 40
    assert part.follower.issued.until("u999", 0)


async def test_whom_an_earlier_life_issued_for_is_not_known_so_it_may_have_been_anybody(part, answers):
    died_at = part.clock.now()
    part.follower.recall(Noted(fresh_at=died_at - 60 * SECOND_US, noted_at=died_at), died_at)
    part.follower.note([revoked(1, died_at - 30 * SECOND_US, user_id="u")])
    (answer,) = answers
    assert answer.issued_before == died_at
    assert part.follower.index.voided(traits_of("u", died_at)), "it counts before it is durable"
    part.follower.note([revoked(2, died_at, "f", user_id="w")])
    assert len(answers) == 1


async def test_a_restart_while_the_newest_ring_cannot_be_written_keeps_what_is_left_of_the_leave_to_seal(
    part, tmp_path
):
    """Though time goes on between two looks at the clocks, as in every real one."""
    now, read = part.clock.now, itertools.count()
    part.clock.now = lambda: now() + 4 * next(read)
    part.clock._now = record(FIRST).turned_at
    part.follower.note([entry(1, put(record(FIRST)))])
    assert await part.follower.settled(1, 5.0)
    part.follower.heard(part.clock.ticks(), 1)
    noted = part.follower.noted()
    assert noted.sure_at <= noted.fresh_at
    left_s = part.follower.leave.left_s()
    assert left_s > 1000
    for told in (noted, msgspec.structs.replace(noted, sure_at=noted.fresh_at + 8)):  # as former versions noted it
        again = Part()
        await again.open(tmp_path / "again", isolation_s=7.0)
        again.clock._now = noted.noted_at + 100_000
        again.follower.leave.heard(record(SECOND))
        assert again.follower.leave.left_s() == 0
        again.follower.recall(told)
        assert again.follower.leave.left_s() == pytest.approx(left_s, abs=1.0)
        await again.close()


async def test_an_earlier_life_whose_clock_was_ahead_is_believed_as_far_as_clocks_may_be_apart(part, answers):
    now = part.clock.now()
    part.follower.recall(None, now + 10**6 * SECOND_US)
    part.follower.note([revoked(1, now - 30 * SECOND_US, user_id="u")])
    assert [one.issued_before for one in answers] == [now + 60 * SECOND_US]
    await part.clock.advance(10)
    part.follower.note([revoked(2, now, "f", user_id="v")])
    assert answers[1].issued_before == now + 70 * SECOND_US


def test_who_noted_that_he_lived_may_have_lived_unnoted():
    assert Noted(fresh_at=0, noted_at=7).lived_until == 7 + UNNOTED_US


def traits_of(user_id, issued_at):
    return Traits(issued_at=issued_at, expires_at=issued_at + SECOND_US, audit_id="a", user_id=user_id)
