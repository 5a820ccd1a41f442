"""Counts of logins: in a site's own feed at once, in the log exactly once, for all places together."""

import asyncio
import dataclasses
import json
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from regional_keystone import attempts, compliance, wiring, worker
from regional_keystone.attempts import Counted, Pending, cleared
from regional_keystone.believed import SKEW_US
from regional_keystone.errors import Unavailable, Unknown
from regional_keystone.log import Entry, Transaction, put, remove
from regional_keystone.messages import Request
from regional_keystone.model import Attempts, Project, Taken, User
from regional_keystone.passwords import hash_password
from regional_keystone.settings import Identity, SecurityCompliance, Settings
from tests.cloud import eventually, running, wired
from tests.site.test_follow import voided
from tests.site.test_own_feed import Feed
from tests.site.test_workers import LOGIN, region

PASSWORD = "correct horse"
RULES = SecurityCompliance(lockout_failure_attempts=3, lockout_duration=60)
S = 1_000_000


def report(user="u", *, place="RegionOne", at=10 * S, failed=1, **fields):
    return Attempts(user_id=user, place=place, failed=failed, failed_at=at if failed else 0, **fields)


async def say(feed, *reports):
    for number, said in enumerate(reports):
        await feed.own.commit(Transaction(f"r{feed.own.number}/{number}", 0, frozenset(), (put(said),)))


def row(feed, user="u"):
    return feed.part.follower.pending.get(user)


@pytest.fixture
async def feed(tmp_path):
    made = await Feed().open(tmp_path)
    yield made
    await made.close()


# --- arithmetic


def test_failures_of_all_places_count_until_any_place_clears_them():
    one, two = report(failed=2, at=5 * S), report(place="RegionTwo", failed=1, at=7 * S)
    assert compliance.counted([one, two]) == (3, 7 * S, 0)
    assert compliance.counted([one, two, report(place="RegionThree", failed=0, cleared_at=6 * S)]) == (1, 7 * S, 6 * S)
    assert compliance.counted([one, two, report(place="RegionThree", failed=0, cleared_at=7 * S)]).failed == 0
    assert compliance.counted([]) == (0, 0, 0)


def test_reports_add_up_and_what_was_cleared_does_not():
    known = compliance.joined(report(failed=2, at=5 * S), report(at=6 * S))
    assert (known.failed, known.failed_at) == (3, 6 * S)
    fresh = compliance.joined(known, report(at=8 * S, cleared_at=6 * S))
    assert (fresh.failed, fresh.failed_at, fresh.cleared_at) == (1, 8 * S, 6 * S)
    assert compliance.counted([compliance.joined(fresh, report(failed=0, cleared_at=9 * S))]).failed == 0


def test_a_lock_runs_out_and_without_a_duration_it_does_not():
    count = compliance.counted([report(failed=3, at=5 * S)])
    for_ever = SecurityCompliance(lockout_failure_attempts=3, lockout_duration=None)
    assert [compliance.attempts_left(RULES, count, at * S) for at in (5, 64, 65)] == [0, 0, 3]
    assert compliance.attempts_left(for_ever, count, 10**9 * S) == 0
    few = compliance.counted([report(failed=2, at=5 * S)])
    assert compliance.attempts_left(RULES, few, 10**9 * S) == 1, "few failures are not forgotten, as upstream"


def test_an_administrator_clears_what_is_there_and_writes_nothing_for_nothing():
    assert cleared([], "u", "@controller", 9 * S) == []
    rows = [report(failed=3, at=20 * S), report(place="@controller", failed=1, at=5 * S)]
    [change] = cleared(rows, "u", "@controller", 9 * S)
    made = msgspec.msgpack.decode(change.row, type=Attempts)
    assert compliance.counted([rows[0], made]).failed == 0, "a failure of a clock that is ahead as well"


# --- the own feed


async def test_a_report_counts_at_once_and_durably(feed):
    sent = []
    feed.own.sent = lambda: sent.append(feed.own.number)
    await say(feed, report(), report(at=11 * S))
    assert (row(feed).failed, row(feed).failed_at) == (2, 11 * S)
    assert [len(entry.changes) for entry in await feed.store.tail(feed.own.name, 0)] == [1, 1]
    assert sent == [1, 2]


async def test_reports_at_once_all_count(feed):
    await asyncio.gather(*(say(feed, report(at=(10 + number) * S)) for number in range(30)))
    assert row(feed).failed == 30


@pytest.mark.parametrize("change", [put(report(place="RegionTwo")), put(report(place="@controller")), remove(report())])
async def test_a_site_writes_nothing_but_its_own_row(feed, change):
    with pytest.raises(Unavailable):
        await feed.own.commit(Transaction("t", 0, frozenset(), (change,)))
    assert feed.own.number == 0


@pytest.mark.parametrize("ways", [["done"], ["lost"], ["unsaid"], ["overtaken"], ["lost", "done"]])
async def test_a_report_whose_outcome_is_not_told_counts_once(feed, ways):
    feed.doubt(*ways)
    await say(feed, report(), report(at=11 * S))
    assert row(feed).failed == 2


async def test_a_report_that_cannot_be_written_is_refused(feed):
    feed.doubt("done", away=True)
    with pytest.raises(Unknown):
        await say(feed, report())
    feed.own._store.away = False
    await feed.own.settle()
    assert row(feed).failed == 1, "it was done, and counts as soon as anybody can know"


async def test_after_a_restart_what_is_pending_still_counts(feed, tmp_path):
    await say(feed, report(), report(at=11 * S), report("v"))
    await feed.close()
    again = await Feed().open(tmp_path)
    try:
        assert (row(again).failed, row(again, "v").failed) == (2, 1)
        await say(again, report(at=12 * S))
        assert row(again).failed == 3
    finally:
        await again.close()


async def test_what_the_log_shows_is_kept_no_longer_and_goes_on_from_there(feed):
    await say(feed, report(), report(at=11 * S))
    follower = feed.part.follower
    follower.note([Entry(1, "t", 0, (put(row(feed)), put(Taken(feed=feed.own.name, number=2))))])
    assert len(follower.pending) == 0
    await say(feed, report(at=12 * S))
    assert row(feed).failed == 3


async def test_what_is_newer_than_the_log_shows_stays(feed):
    await say(feed, report(), report("v"), report(at=11 * S))
    follower = feed.part.follower
    follower.note([Entry(1, "t", 0, (put(report()), put(Taken(feed=feed.own.name, number=2))))])
    assert (row(feed).failed, row(feed, "v")) == (2, None)
    follower.note([Entry(2, "t2", 0, (put(Taken(feed="RegionTwo/inc", number=9)),))])
    assert row(feed).failed == 2


def test_pending_keeps_the_newest_row_of_each_user():
    pending = Pending()
    pending.note(1, report())
    pending.note(2, report(failed=2))
    pending.drop(1)
    assert pending.get("u").failed == 2
    pending.drop(2)
    assert pending.get("u") is None
    assert len(pending) == 0


# --- sites and the controller


def watch(node, rules=RULES, place=None):
    """What checks passwords at a site, or at a controller."""
    site = place is None
    record = wiring._in_own_feed(node, node.own) if site else wiring._in_log(node, node.sequencer)
    return Counted(
        4,
        rules=rules,
        reader=node.overlay,
        pending=node.follower.pending,
        place=node.name if site else place,
        record=record,
        clock=node.clock,
    )


class Users:
    def __init__(self, cloud):
        self.cloud = cloud

    async def make(self, id_="u"):
        domain = Project(id="default", name="Default", is_domain=True)
        hashed = await hash_password(PASSWORD, 4)
        user = User(id=id_, name=id_, domain_id="default", password_hash=hashed, created_at=1)
        await self.cloud.controller.write(domain, user)
        await self.cloud.level()
        return user


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path) as made:
        yield made


async def counted(node, user="u"):
    return compliance.counted(await node.overlay.find(Attempts, user_id=user)).failed


async def test_two_sites_and_a_controller_add_up(cloud):
    user = await Users(cloud).make()
    one, two = (watch(site) for site in cloud.sites.values())
    three = watch(cloud.controller, place="@controller")
    for number, place in enumerate((one, two, three)):
        assert not await place.verify(user, "wrong")
        await eventually(lambda count=number + 1: _all(cloud, count))
    for place in (one, two, three):
        assert not await place.verify(user, PASSWORD)
    assert [entry.changes for entry in await cloud.controller.log() if len(entry.changes) > 3] == []


async def _all(cloud, count):
    nodes = (cloud.controller, *cloud.sites.values())
    return [await counted(node) for node in nodes] == [count] * len(nodes)


async def test_a_success_anywhere_clears_for_all(cloud):
    user = await Users(cloud).make()
    one, two = (watch(site) for site in cloud.sites.values())
    assert [await one.verify(user, "wrong") for _ in range(2)] == [False, False]
    await eventually(lambda: _all(cloud, 2))
    assert await two.verify(user, PASSWORD)
    await two.entered(user)
    await eventually(lambda: _all(cloud, 0))
    assert [await one.verify(user, "wrong") for _ in range(2)] == [False, False]
    assert await one.verify(user, PASSWORD)


async def test_a_site_that_is_cut_off_allows_the_limit_once_more_and_all_of_it_counts_later(cloud):
    user = await Users(cloud).make()
    async with wired(cloud, "RegionOne") as wire:
        site, other = cloud.sites.values()
        wire.cut()
        await eventually(lambda: site.link.connected_since is None)
        one, two = watch(site), watch(other)
        for place in (one, two):
            assert [await place.verify(user, "wrong") for _ in range(3)] == [False] * 3
            assert not await place.verify(user, PASSWORD)
        number = site.own.number
        assert not await one.verify(user, "wrong")
        assert site.own.number == number == 3, "nothing more is written for who is locked out here"
        wire.mend()
        await eventually(lambda: _all(cloud, 6))
        assert len(site.follower.pending) == 0
        assert not await one.verify(user, PASSWORD)


async def test_what_a_site_counted_is_taken_over_once_though_it_starts_again_and_says_it_twice(cloud):
    user = await Users(cloud).make()
    async with wired(cloud, "RegionOne") as wire:
        site = cloud.sites["RegionOne"]
        wire.hold("down")  # it is taken over, and the site does not hear of it
        assert [await watch(site).verify(user, "wrong") for _ in range(2)] == [False, False]
        await eventually(lambda: _is(counted(cloud.controller), 2))
        wire.cut()
        await site.stop()
        wire.release()
        wire.mend()
        await site.start()
        assert site.follower.pending.get("u").failed == 2
        assert not await watch(site).verify(user, "wrong")
        assert not await watch(site).verify(user, PASSWORD)
        await eventually(lambda: _all(cloud, 3))
        taken = await cloud.controller.overlay.get(Taken, "RegionOne/inc")
        assert taken.number == 3


async def _is(found, expected):
    return await found == expected


async def test_a_user_who_is_gone_meanwhile_leaves_no_count(cloud):
    user = await Users(cloud).make()
    async with wired(cloud, "RegionOne") as wire:
        site = cloud.sites["RegionOne"]
        wire.cut()
        await watch(site).verify(user, "wrong")
        node = cloud.controller
        await node.sequencer.commit(Transaction("gone", node.overlay.position, frozenset(), (remove(user),)))
        wire.mend()
        await eventually(lambda: _has_taken(node, 1))
        assert await node.overlay.find(Attempts, user_id="u") == []


async def _has_taken(node, number, feed="RegionOne/inc"):
    taken = await node.overlay.get(Taken, feed)
    return taken is not None and taken.number == number


async def take(cloud, *changes):
    node = cloud.controller
    await node.replicator.taking.take("RegionOne", "RegionOne/evil", [Entry(1, "e", 0, changes)])


async def test_a_site_that_lies_of_time_locks_out_and_forgets_no_further_than_now(cloud):
    await Users(cloud).make()
    far = 4 * 10**15
    await take(cloud, put(report(failed=10**9, at=far, cleared_at=far, active_at=far)))
    [found] = await cloud.controller.overlay.find(Attempts, user_id="u")
    now = cloud.controller.clock.now()
    assert max(found.failed_at, found.cleared_at, found.active_at) <= now + SKEW_US
    assert found.failed <= 1_000_000
    assert found.failed_at > found.cleared_at
    assert (await cloud.controller.overlay.get(User, "u")).last_active_at <= now + SKEW_US


@pytest.mark.parametrize(
    "change",
    [
        put(report(place="RegionTwo")),
        put(report(place="@controller")),
        remove(report()),
        put(User(id="u", domain_id="default", name="x")),
    ],
)
async def test_a_site_speaks_of_no_other_place_and_of_no_other_table(cloud, change):
    user = await Users(cloud).make()
    await take(cloud, change)
    assert await cloud.controller.overlay.find(Attempts, user_id="u") == []
    assert await cloud.controller.overlay.get(User, "u") == user
    assert await _has_taken(cloud.controller, 1, "RegionOne/evil")


async def test_a_row_with_another_key_than_it_is_stored_under_is_what_was_checked(cloud):
    await Users(cloud).make()
    await Users(cloud).make("v")
    forged = msgspec.structs.replace(put(report()), row=put(report("v", place="RegionTwo")).row)
    await take(cloud, forged)
    [found] = await cloud.controller.overlay.find(Attempts, user_id="u")
    assert found.place == "RegionOne"
    assert await cloud.controller.overlay.find(Attempts, user_id="v") == []


async def test_activity_at_a_site_reaches_the_user_once_a_day_and_counts_there_before(cloud):
    rules = SecurityCompliance(disable_user_account_days_inactive=2)
    user = await Users(cloud).make()
    async with wired(cloud, "RegionOne") as wire:
        site = cloud.sites["RegionOne"]
        wire.cut()
        await eventually(lambda: site.link.connected_since is None)
        verifier = watch(site, rules)
        now = site.clock.now()
        assert verifier.is_inactive(user, now)
        await verifier.entered(user)
        await verifier.entered(user)
        assert site.own.number == 1
        assert not verifier.is_inactive(user, now)
        wire.mend()
        await eventually(lambda: _was_active(cloud, now))


async def test_a_site_calls_nobody_inactive_for_a_time_of_which_it_may_lack_news(cloud):
    user = await Users(cloud).make()
    site, asked = cloud.sites["RegionOne"], []
    verifier = watch(site, SecurityCompliance(disable_user_account_days_inactive=2))
    end = verifier.active_until(user)
    verifier._may_lack = lambda at: asked.append(at) or True
    assert not verifier.is_inactive(user, end)
    verifier._may_lack = lambda at: False
    assert verifier.is_inactive(user, end)
    assert not verifier.is_inactive(user, end - 1)
    assert asked == [end]


async def test_what_a_site_is_wired_to_ask_is_what_its_replica_may_lack(cloud):
    settings = Settings(security_compliance=SecurityCompliance(disable_user_account_days_inactive=2))
    site = cloud.sites["RegionOne"]
    assert wiring._verifier(settings, site, None)._may_lack == site.follower.may_lack


@pytest.mark.parametrize("days", [1, 2])
async def test_who_logs_in_where_it_could_not_be_known_that_they_were_inactive_revives_no_token(cloud, days):
    rules = SecurityCompliance(disable_user_account_days_inactive=2)
    cloud.controller.replicator.taking._rules = rules
    last = cloud.controller.clock.now() // compliance.DAY * compliance.DAY - 10 * compliance.DAY
    user = msgspec.structs.replace(await Users(cloud).make(), last_active_at=last)
    await cloud.controller.write(user)
    await take(cloud, put(report(failed=0, active_at=last + days * compliance.DAY)))
    await cloud.level()
    end, then = last + 2 * compliance.DAY, last + days * compliance.DAY
    for node in (cloud.controller, *cloud.sites.values()):
        assert (await node.overlay.get(User, "u")).last_active_at == then
        assert voided(node.follower, user_id="u", issued_at=end - S) == (days == 2), "they were refused everywhere else"
        assert not voided(node.follower, user_id="u", issued_at=end)


async def _was_active(cloud, now):
    for node in (cloud.controller, *cloud.sites.values()):
        user = await node.overlay.get(User, "u")
        if user.last_active_at is None or user.last_active_at // compliance.DAY != now // compliance.DAY:
            return False
    return True


def alone(feed, record=None):
    """What checks passwords beside this feed; what it reports goes into the feed unless `record` takes it."""
    follower = feed.part.follower
    place = type("Place", (), {"follower": follower})
    return Counted(
        4,
        rules=RULES,
        reader=follower.overlay,
        pending=follower.pending,
        place="RegionOne",
        record=record or wiring._in_own_feed(place, feed.own),
        clock=feed.part.clock,
    )


async def somebody(name="u"):
    return User(id=name, name=name, domain_id="default", password_hash=await hash_password(PASSWORD, 4))


async def test_a_place_whose_clock_is_behind_counts_after_what_it_knows(feed):
    ahead = feed.part.clock.now() + 3600 * S
    feed.part.follower.note([Entry(1, "t", 0, (put(report(place="RegionTwo", failed=0, cleared_at=ahead)),))])
    user, verifier = await somebody(), alone(feed)
    assert [await verifier.verify(user, "wrong") for _ in range(3)] == [False] * 3
    assert not await verifier.verify(user, PASSWORD)
    assert row(feed).failed_at > ahead


async def test_what_others_count_during_the_check_counts_for_it(feed, monkeypatch):
    user, verifier, real = await somebody(), alone(feed), attempts.verify_password

    async def meanwhile(text, hashed, how):
        at = feed.part.clock.now()
        feed.part.follower.note([Entry(1, "t", 0, (put(report(place="RegionTwo", failed=3, at=at)),))])
        return await real(text, hashed, how)

    monkeypatch.setattr(attempts, "verify_password", meanwhile)
    assert not await verifier.verify(user, PASSWORD)
    await feed.part.clock.advance(61)
    monkeypatch.setattr(attempts, "verify_password", real)
    assert await verifier.verify(user, PASSWORD)


async def test_a_login_of_one_user_does_not_wait_for_another(feed):
    hold = asyncio.Event()

    async def slow(said):
        await hold.wait()

    verifier = alone(feed, slow)
    one, two = [await somebody(name) for name in "ab"]
    async with AsyncExitStack() as stack:
        failing = [asyncio.create_task(verifier.verify(one, "wrong")) for _ in range(5)]
        stack.callback(hold.set)
        async with asyncio.timeout(5):
            assert await verifier.verify(two, PASSWORD)
    assert await asyncio.gather(*failing) == [False] * 5
    assert verifier._gates == {}


# --- processes of one site


@asynccontextmanager
async def processes(directory, limit):
    def strict(made):
        made.settings = dataclasses.replace(
            made.settings,
            identity=Identity(password_hash_rounds=4),
            security_compliance=SecurityCompliance(lockout_failure_attempts=limit),
        )

    async with region(directory, prepare=strict) as made:
        yield made


async def login(door, password=LOGIN["password"]):
    auth = {"identity": {"methods": ["password"], "password": {"user": LOGIN | {"password": password}}}}
    body = json.dumps({"auth": auth}).encode()
    response = await door.api.answer(Request(id=uuid.uuid4().hex, method="POST", path="/v3/auth/tokens", body=body))
    return response.status


async def test_failures_through_any_process_add_up_and_all_lock_out(tmp_path):
    async with processes(tmp_path, 9) as three:
        doors = [three.site.door, three.worker(2).door, three.worker(3).door]
        await three.controller.stop()
        assert await asyncio.gather(*(login(door, "wrong") for door in doors * 2)) == [401] * 6
        assert [follower.pending.get("u").failed for follower in three.everyone] == [6] * 3
        assert [await login(door, "wrong") for door in doors] == [401] * 3
        assert [await login(door) for door in doors] == [401] * 3
        assert three.site.own.number == 9
        three.processes[2][-1].kill()
        await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
        assert await login(three.worker(2).door) == 401, "a new process knows it too"


async def test_a_success_through_one_process_clears_for_all(tmp_path):
    async with processes(tmp_path, 3) as three:
        doors = [three.worker(2).door, three.worker(3).door, three.site.door]
        for _ in range(2):
            assert [await login(door, "wrong") for door in doors[:2]] == [401] * 2
            assert await login(doors[2]) == 201
        await eventually(lambda: three.site.own.pending() == 0)
        assert [len(follower.pending) for follower in three.everyone] == [0] * 3
        assert [await login(door, "wrong") for door in doors] == [401] * 3
        assert await login(doors[0]) == 401


async def test_a_worker_whose_leader_does_not_answer_counts_for_itself(tmp_path, monkeypatch):
    async with processes(tmp_path, 2) as three:
        monkeypatch.setattr(worker, "_ANSWER_S", 0.05)
        door = three.worker(2).door
        monkeypatch.setattr(three.workers, "commit", _never)
        assert [await login(door, "wrong") for _ in range(2)] == [503] * 2
        assert [await login(door, password) for password in ("wrong", LOGIN["password"])] == [401] * 2


async def _never(transaction):
    await asyncio.Event().wait()
