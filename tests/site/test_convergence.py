"""What no entry did to a replica is found, named and put right; what the controller's own file lacks goes nowhere."""

import asyncio
import sqlite3
from contextlib import closing

import msgspec
import pytest
import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.fastpath import Derived, Memory
from regional_keystone.messages import Ask, Compare, Compared
from regional_keystone.model import User
from regional_keystone.record import encode
from regional_keystone.revocation import RevocationIndex
from regional_keystone.shared import REPAIRED, repaired_at
from regional_keystone.sums import Tree, leaf_path
from regional_keystone.survey import Survey
from tests.cloud import event, eventually, running

NAME = "RegionOne"


def user(number, **fields):
    return User(
        **(
            {"id": f"{number * 2654435761 % 2**32:08x}{number:024x}", "domain_id": "d", "name": f"user{number}"}
            | fields
        )
    )


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, (NAME,)) as made:
        await made.controller.write(*(user(number) for number in range(200)))
        await made.level()
        assert await made.controller.follower.settled(made.controller.sequencer.head, 10.0)
        await made.controller.survey.read_all()
        yield made


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
def site(cloud):
    return cloud.sites[NAME]


def by_hand(node, statement, *values, file="replica.db"):
    with closing(sqlite3.connect(node.directory / file)) as db, db:
        assert db.execute(statement, values).rowcount == 1


def changed(node, number, file="replica.db", **fields):
    one = user(number, **fields)
    by_hand(node, "UPDATE users SET row = ? WHERE id = ?", encode(one), one.id, file=file)
    return one


def added(node, number):
    one = user(number, name="by hand")
    by_hand(node, "INSERT INTO users VALUES (?, ?, ?, ?, ?)", one.id, one.domain_id, one.name, None, encode(one))
    return one


class Hurried:
    """A clock whose sleepers wake at once."""

    def __init__(self, clock):
        self._clock = clock

    def __getattr__(self, name):
        return getattr(self._clock, name)

    async def sleep(self, seconds):
        await asyncio.sleep(0)


async def connected(site):
    await eventually(lambda: site.link.connected_since is not None)


async def test_nothing_is_found_where_nothing_drifted(site):
    assert await site.comparing.once()
    assert site.comparing.status()["found"] == {"changed": 0, "lost": 0, "added": 0}
    assert site.comparing.equal_at is not None


async def test_a_row_changed_lost_and_added_by_hand_is_named_and_put_right(cloud, controller, site):
    changed(site, 1, enabled=False)
    by_hand(site, "DELETE FROM users WHERE id = ?", user(2).id)
    added(site, 1000)
    assert await site.digest() != await controller.digest()
    with structlog.testing.capture_logs() as logged:
        assert await site.comparing.once()
    named = {(one["kind"], one["record"], one["how"]) for one in logged if one["event"] == "drift_mended"}
    assert named == {
        ("users", user(1).id, "changed"),
        ("users", user(2).id, "lost"),
        ("users", user(1000).id, "added"),
    }
    assert await site.digest() == await controller.digest()
    await eventually(lambda: controller.counterpart.status_of(NAME) is not None)
    assert {one["how"] for one in controller.counterpart.status_of(NAME)["last"]} == {"changed", "lost", "added"}


async def test_columns_by_which_a_row_is_found_are_compared_with_what_it_says(site, controller):
    """The bytes are right, and still nobody would be found by name."""
    by_hand(site, "UPDATE users SET name = 'somebody else' WHERE id = ?", user(1).id)
    assert await site.overlay.find(User, domain_id="d", name="user1") == []
    assert await site.comparing.once()
    assert await site.overlay.find(User, domain_id="d", name="user1") == [user(1)]


@pytest.mark.parametrize("rubbish", [b"\xc1", "text", b""], ids=repr)
async def test_rubbish_in_a_row_is_put_right(site, rubbish):
    by_hand(site, "UPDATE users SET row = ? WHERE id = ?", rubbish, user(1).id)
    assert await site.comparing.once()
    assert await site.overlay.get(User, user(1).id) == user(1)


async def test_a_whole_table_that_was_emptied_comes_back(site, controller):
    with closing(sqlite3.connect(site.directory / "replica.db")) as db, db:
        db.execute("DELETE FROM users")
    assert await site.comparing.once()
    assert site.comparing.found == {"changed": 0, "lost": 200, "added": 0}
    assert await site.digest() == await controller.digest()


# ------------------------------------------------------------------------------------- what is remembered of it


async def test_what_was_read_of_a_wrong_row_is_not_believed_any_more(site, controller):
    memory = Memory(site.follower, 100)
    site.follower.forgetters.append(memory.forget_all)
    site.follower.doubters.append(memory.doubt)
    changed(site, 1, enabled=False)
    touch = ("users", user(1).id)
    position = site.follower.position
    under_way = Derived("under way", frozenset({touch}), position)
    other = Derived("of another row", frozenset({("users", user(2).id)}), position)
    assert await site.comparing.once()
    assert not memory.keep(under_way), "it read what lay there before"
    assert memory.keep(other)
    await site.settled(await controller.write(user(5000)))
    assert memory.keep(Derived("anew", frozenset({touch}), site.follower.position))


async def test_that_a_row_is_put_right_is_noted_before_it_is(cloud, controller, site):
    """Who begins after a crash between has to know that facts up to here may have been made of it."""
    noted, mend = site.directory / REPAIRED, site.store.mend
    assert repaired_at(noted) == 0
    assert await site.comparing.once()
    assert not noted.exists()
    before = []

    async def seen(rows):
        before.append(repaired_at(noted))
        await mend(rows)

    site.store.mend = seen
    changed(site, 1, enabled=False)
    assert await site.comparing.once()
    assert [position >= site.follower.position for position in before] == [True]
    assert repaired_at(noted) == site.follower.position
    await controller.write(user(1, name="entries go on"))
    await cloud.level()
    assert await site.comparing.once()
    assert repaired_at(noted) < site.follower.position


async def test_a_row_is_not_put_right_where_that_cannot_be_noted(site):
    (site.directory / REPAIRED).with_suffix(".new").mkdir()
    changed(site, 1, enabled=False)
    with pytest.raises(Unavailable):
        await site.comparing.once()
    assert not (await site.overlay.get(User, user(1).id)).enabled


async def test_a_revocation_that_was_lost_while_the_site_was_down_voids_again(cloud, controller, site):
    await controller.write(event("gone", 10**18, audit_id="a1"))
    await cloud.level()
    await site.stop()
    by_hand(site, "DELETE FROM revocations WHERE id = 'gone'")
    await site.start()
    assert not site.void(audit_id="a1")
    await connected(site)
    assert await site.comparing.once()
    assert site.void(audit_id="a1")


async def test_a_revocation_that_was_added_by_hand_voids_nothing_any_more_and_others_stay(cloud, controller, site):
    await controller.write(event("right", 10**18, audit_id="a1"))
    await cloud.level()
    await site.stop()
    wrong = event("wrong", 10**18, audit_id="a2")
    by_hand(site, "INSERT INTO revocations VALUES (?, ?)", wrong.id, encode(wrong))
    await site.start()
    version = site.follower.index.version
    assert site.void(audit_id="a2")
    await connected(site)
    await site.revoke("a3")
    assert await site.comparing.once()
    assert not site.void(audit_id="a2")
    assert site.void(audit_id="a1")
    assert site.void(audit_id="a3"), "an own one that the log may not have yet"
    assert site.follower.index.version > version, "who has asked the old one asks again"


async def test_what_is_revoked_here_counts_while_the_index_is_built_anew_and_after(cloud, controller, site):
    """What only the own feed shows, and what neither it nor the rows showed when they were read."""
    await controller.stop()
    await eventually(lambda: site.link.connected_since is None)
    await site.revoke("a8")
    made = site.comparing._refresh.begin({("revocations", "any"), ("revocations",)})
    site.follower.void(event("meanwhile", 10**18, audit_id="a9"))
    before = site.follower.index
    await made
    assert site.follower.index is not before
    assert site.void(audit_id="a8")
    assert site.void(audit_id="a9")
    assert site.follower.beside == []


async def test_an_own_feed_that_takes_many_readings_counts_whole_in_an_index_built_anew(cloud, controller, site):
    await controller.stop()
    await eventually(lambda: site.link.connected_since is None)
    tail = site.own._store.tail
    site.own._store.tail = lambda feed, number, limit=2: tail(feed, number, min(limit, 2))
    for number in range(5):
        await site.revoke(f"a{number}")
    await site.comparing._refresh.begin({("revocations", "any")})
    assert [site.void(audit_id=f"a{number}") for number in range(5)] == [True] * 5


async def test_an_answer_that_is_not_written_yet_counts_in_an_index_built_anew_as_well(site):
    waiting = []
    site.follower.late = waiting.append
    late = event("late", 10**18, audit_id="a7")
    site.follower.answer([late])
    await site.comparing._refresh.begin({("revocations", "any")})
    assert site.void(audit_id="a7")
    assert list(site.follower.issued.unwritten) == [late]
    await site.own.revoke(*waiting)
    assert not site.follower.issued.unwritten
    assert site.void(audit_id="a7")


class Deaf:
    """A relay whose hand-over fails so often."""

    def __init__(self, times):
        self.times, self.told = times, []

    def __getattr__(self, name):
        return lambda *_: None

    async def mended(self, touched):
        self.told.append(set(touched))
        if len(self.told) <= self.times:
            raise Unavailable("The own feed cannot be read now.")


async def test_rows_that_were_put_right_and_could_not_be_made_known_are_made_known_the_next_time(controller, site):
    await controller.write(event("right", 10**18, audit_id="a1"))
    await site.settled(controller.sequencer.head)
    wrong = event("wrong", 10**18, audit_id="a2")
    by_hand(site, "INSERT INTO revocations VALUES (?, ?)", wrong.id, encode(wrong))
    await site.follower.start()
    assert site.void(audit_id="a2")
    relay = site.follower.relay = Deaf(times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await site.comparing.once()
        assert site.follower.beside == []
        assert site.comparing._refresh.owes
        assert site.void(audit_id="a1")
    assert await site.comparing.once()
    assert not site.comparing._refresh.owes
    assert [("revocations", "wrong") in told for told in relay.told] == [True] * 3
    assert not site.void(audit_id="a2")
    assert site.void(audit_id="a1")


async def test_a_revocation_that_reaches_forward_counts_and_is_not_taken_for_one_that_does_not(controller, site):
    now = site.clock.now()
    forward = msgspec.structs.replace(event("forward", 0, user_id="u", issued_from=now), keep_until=now + 10**12)
    await site.settled(await controller.write(forward))
    with structlog.testing.capture_logs() as logged:
        assert await site.comparing.once()
    assert site.comparing.uncounted == 0
    assert not [line for line in logged if line["event"] == "revocation_did_not_count"]
    site.follower.index = RevocationIndex()
    assert await site.comparing.once()
    assert site.comparing.uncounted == 1


async def test_an_index_of_older_rows_does_not_take_the_place_of_one_of_newer_ones(site):
    """Rows were put right twice: the first index was begun before the second time, and is ready after it."""
    scan, gate = site.follower.overlay.scan, asyncio.Event()

    async def slow(kind):
        found = [one async for one in scan(kind)]
        site.follower.overlay.scan = scan
        await gate.wait()
        for one in found:
            yield one

    site.follower.overlay.scan = slow
    first = asyncio.create_task(site.comparing._refresh.begin({("revocations", "any")}))
    await asyncio.sleep(0.05)
    lost = event("lost", 10**18, audit_id="a6")
    by_hand(site, "INSERT INTO revocations VALUES (?, ?)", lost.id, encode(lost))
    second = asyncio.create_task(site.comparing._refresh.begin({("revocations", "lost")}))
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(first, second)
    assert site.void(audit_id="a6")


async def test_a_revocation_that_does_not_count_though_its_row_is_there_is_made_to(cloud, controller, site):
    await controller.write(event("right", 10**18, audit_id="a1"))
    await cloud.level()
    site.follower.index = RevocationIndex()
    assert not site.void(audit_id="a1")
    assert await site.comparing.once()
    assert site.void(audit_id="a1")
    assert site.comparing.uncounted == 1


# ------------------------------------------------------------------------------------------- entries meanwhile


async def test_nothing_is_mended_that_an_entry_changes_at_the_same_time(cloud, controller, site):
    """A row that the site has and the controller's answer has not yet, or the other way round, is no drift."""
    ask = site.comparing._ask

    async def while_it_changes(question):
        told = await ask(question)
        one = user(1, name=f"renamed{site.follower.position}")
        await cloud.sites[NAME].settled(await controller.write(one))
        return told

    site.comparing._ask = while_it_changes
    changed(site, 2, enabled=False)
    with structlog.testing.capture_logs() as logged:
        await site.comparing.once()
    assert {one["record"] for one in logged if one["event"] == "drift_mended"} <= {user(2).id}
    site.comparing._ask = ask
    assert await site.comparing.once()
    assert await site.digest() == await controller.digest()


async def test_a_row_that_an_entry_changes_while_it_is_fetched_is_not_put_back(cloud, controller, site):
    """What was fetched is older by now than what the site has taken in."""
    ask, mend, mended = site.comparing._ask, site.store.mend, []
    newer = user(2, name="newer")

    async def overtaken(question):
        told = await ask(question)
        if getattr(question, "wanted", ()):
            site.comparing._ask = ask
            await site.settled(await controller.write(newer))
        return told

    async def seen(rows):
        mended.extend(row for _, _, row in rows)
        await mend(rows)

    site.comparing._ask, site.store.mend = overtaken, seen
    changed(site, 2, enabled=False)
    await site.comparing.once()
    assert encode(user(2)) not in mended
    assert await site.overlay.get(User, newer.id) == newer


@pytest.mark.parametrize("why", ["not read", "touched later", "behind"])
async def test_sums_that_are_true_of_no_common_position_are_neither_equal_nor_drift(site, why):
    ask = site.comparing._ask

    async def other(question):
        told = await ask(question)
        if why == "behind":
            return msgspec.structs.replace(told, position=0)
        change = {"is_read": False} if why == "not read" else {"touched": 10**6}
        sums = [tuple(msgspec.structs.replace(one, **change) for one in sums) for sums in told.sums]
        return msgspec.structs.replace(told, sums=tuple(sums))

    site.comparing._ask = other
    site.comparing._clock = Hurried(site.clock)
    assert not await site.comparing.once()
    assert site.comparing.undecided > 0
    assert site.comparing.found.total() == 0


async def test_a_snapshot_begins_the_sums_anew(cloud, controller, site):
    assert await site.comparing.once()
    tree = site.survey.tree
    await site.stop()
    await controller.write(*(user(number) for number in range(300, 310)))
    await controller.store.prune("log", controller.sequencer.head)
    await site.start()
    await cloud.level()
    assert site.survey.tree is not tree
    assert site.survey.lasted_s is None
    assert await site.comparing.once()


# ------------------------------------------------------------------------------------------ the controller's own


async def test_what_drifted_at_the_controller_is_named_and_goes_to_no_site(cloud, controller, site):
    assert await site.comparing.once()
    changed(controller, 1, file="log.db", enabled=False)
    with structlog.testing.capture_logs() as logged:
        await controller.survey.read_all()
        assert not await site.comparing.once()
    assert [one["begins"] for one in logged if one["event"] == "own_table_drifted"] == [user(1).id[:3]]
    assert [one["record"] for one in logged if one["event"] == "controller_drifted"] == [user(1).id]
    assert await site.overlay.get(User, user(1).id) == user(1), "the site keeps what the log has"
    assert site.comparing.unmended == 1
    assert controller.counterpart.status()["doubted"] == [f"users/{user(1).id[:3]}"]
    by_hand(controller, "UPDATE users SET row = ? WHERE id = ?", encode(user(1)), user(1).id, file="log.db")
    await controller.survey.read_all()
    assert not controller.counterpart.doubted
    assert await site.comparing.once()


async def test_what_drifted_at_the_controller_since_it_was_read_is_not_handed_on(cloud, controller, site):
    """Both drifted in the same leaf: the site asks for its rows before the controller has read them again."""
    changed(controller, 1, file="log.db", enabled=False)
    changed(site, 1, enabled=True, name="other")
    assert not await site.comparing.once()
    assert (await site.overlay.get(User, user(1).id)).enabled
    assert controller.counterpart.doubted == 1


# ----------------------------------------------------------------------------------------------------- the cost


async def test_bytes_are_in_proportion_to_the_difference(cloud, controller, site):
    assert await site.comparing.once()

    async def bytes_of(count):
        before = site.comparing.bytes.total()
        for number in range(count):
            changed(site, number, enabled=False)
        assert await site.comparing.once()
        return site.comparing.bytes.total() - before

    nothing, one, twenty = await bytes_of(0), await bytes_of(1), await bytes_of(20)
    everything = sum(len(encode(user(number))) for number in range(200))
    assert nothing < 600
    assert one - nothing < everything / 8
    assert twenty - nothing < 20 * (one - nothing)


async def test_a_site_that_asks_without_end_is_answered_one_question_at_a_time(cloud, controller, site):
    """And rows are read for one of all sites at a time, in the share of a processor that is set."""
    controller.counterpart._rest = 9.0
    most = controller.survey.tree.root
    path = leaf_path("users", user(1).id[:3])
    began = controller.clock.ticks()
    told = await asyncio.gather(*(controller.counterpart.answer(Ask(number, path)) for number in range(20)))
    assert all(one.counts for one in told)
    assert controller.clock.ticks() - began > 0.005
    too_many = Compare(1, tuple(leaf_path("users", f"{number:03x}") for number in range(65)))
    assert (await controller.counterpart.answer(too_many)).sums is None
    for nonsense in (Ask(1, ()), Ask(2, ("nothing", "a", "ab", "abc")), Compare(3, (("nothing",), ("users", "?")))):
        await controller.counterpart.answer(nonsense)
    assert controller.survey.tree.root is most


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("nothing", "a", "ab", "abc"),
        ("users", "evil0", "y", user(1).id[:3]),
        ("users", *leaf_path("users", user(1).id[:3])[1:3], user(1).id[:4]),
        leaf_path("users", "zzzz"),
        leaf_path("roles", "abc"),
    ],
    ids="/".join,
)
async def test_a_path_that_is_no_leafs_raises_no_doubt_and_leaves_nothing(controller, path):
    """Rows lie at what such a path ends with, or none at all; either way the tree is what it was."""
    before = [leaf for leaf, _ in controller.survey.tree.leaves()]
    with structlog.testing.capture_logs() as logged:
        for number in range(3):
            told = await controller.counterpart.answer(Ask(number, path))
            assert not getattr(told, "rows", ())
    assert not controller.counterpart.doubted
    assert [leaf for leaf, _ in controller.survey.tree.leaves()] == before
    assert "evil0" not in controller.survey.tree.root.children["users"].children
    assert logged == []


async def test_a_question_before_the_own_tables_were_read_is_not_answered_and_raises_no_doubt(controller, site):
    survey = controller.survey
    survey.tree, survey.lasted_s = Tree(), None
    path = leaf_path("users", user(1).id[:3])
    assert await controller.counterpart.answer(Ask(1, path)) == Compared(1, survey.position, None)
    assert not controller.counterpart.doubted
    await survey.read_all()
    assert (await controller.counterpart.answer(Ask(2, path))).counts


async def test_a_row_that_makes_a_leaf_of_its_own_at_the_controller_goes_nowhere(controller):
    """Nothing was ever read of that leaf, so that there is no sum to compare with: and it is named once."""
    await controller.survey.read_all()
    one = User(id="zzz-by-hand", domain_id="d", name="by hand")
    values = (one.id, one.domain_id, one.name, None, encode(one))
    by_hand(controller, "INSERT INTO users VALUES (?, ?, ?, ?, ?)", *values, file="log.db")
    path, wanted = leaf_path("users", "zzz"), (msgspec.msgpack.encode((one.id,)),)
    with structlog.testing.capture_logs() as logged:
        for number in range(3):
            told = await controller.counterpart.answer(Ask(number, path, wanted))
            assert (told.rows, told.doubted) == ((), True)
    assert [line["begins"] for line in logged if line["event"] == "own_table_drifted"] == ["zzz"]
    assert controller.counterpart.doubted == 1


async def test_a_controller_that_does_not_know_the_question_leaves_the_site_as_it_is(cloud, controller, site):
    async def silent(question):
        return None

    site.comparing._ask = silent
    assert not await site.comparing.once()
    assert site.comparing.equal_at is None


async def test_secrets_are_in_no_line_of_the_log(cloud, controller, site):
    secret = "canary-of-a-hash"
    await controller.write(user(1, password_hash=secret))
    await cloud.level()
    changed(site, 1, password_hash="another-canary")
    with structlog.testing.capture_logs() as logged:
        await site.comparing.once()
    assert any(one["event"] == "drift_mended" for one in logged)
    assert "canary" not in str(logged) + str(site.comparing.status()) + str(controller.counterpart.found)


@pytest.mark.parametrize(("share", "rests"), [(1.0, False), (0.1, True)])
async def test_reading_takes_its_share_of_a_processor_and_rests(site, share, rests):
    slept = []

    class Resting(Hurried):
        async def sleep(self, seconds):
            slept.append(seconds)

    survey = Survey(site.store, Resting(site.clock), share)
    covered = await site.store.survey("users", "", 1000)
    assert covered.rows == 200
    await survey.read_all()
    assert survey.rows >= 200
    assert (sum(slept) > 3 * covered.cpu_s > 0) == rests
