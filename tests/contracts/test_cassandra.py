"""What the store in Cassandra promises besides: about several controllers, doubtful outcomes, and a site's replica."""

import asyncio
import random
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from controller.commit import Sequencer
from regional_keystone.adapters import cassandra_log
from regional_keystone.adapters.local import LocalWake, SystemClock
from regional_keystone.backends import cassandra_counters, open_log
from regional_keystone.digest import digest
from regional_keystone.errors import Conflict, StoreRefused, Unavailable, Unknown
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.log import LOG, Entry, encode_entry, put, remove
from regional_keystone.model import Grant, Project, Region
from regional_keystone.overlay import Overlay, transact
from regional_keystone.record import encode, facts
from regional_keystone.sections import Site
from regional_keystone.settings import Settings
from tests.cloud import eventually, project
from tests.contracts.cassandra_stores import SITE, CassandraStores
from tests.contracts.test_store import all_rows, check_equal, stream
from tests.histories import HISTORIES, entries_of, states

OWN = f"{SITE}/1"


@pytest.fixture
def stores(keyspace):
    return CassandraStores(keyspace)


def entries(*numbers, by="t"):
    return [Entry(one, f"{by}{one}", one, (put(Region(id=f"{by}{one}")),)) for one in numbers]


def region(number, name="a", old=None, **fields):
    return Entry(number, f"t{number}", SystemClock().now(), (put(Region(id=name, **fields), old),))


async def lying(store):
    """Every row of every table as it lies there, stones too."""
    found = {}
    for form in store._tables.physical:
        async for page in store._tables.lying(form):
            found.update({(form.name, seen.place): (seen.at, seen.row) for seen in page})
    return found


# --- several controllers


class Writing:
    """A driver that counts what is written into tables."""

    def __init__(self, driver):
        self._driver = driver
        self.written = 0

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def change(self, statements, **named):
        statements = list(statements)
        self.written += len(statements)
        return await self._driver.change(statements, **named)


class Ahead(SystemClock):
    """The clock of a machine that is an hour ahead."""

    def now(self):
        return super().now() + 3600 * 1_000_000


async def test_a_later_word_counts_though_the_clock_of_who_wrote_before_is_ahead(stores, keyspace):
    async with stores.fresh() as store, keyspace.store("dc2", clock=Ahead()) as ahead:
        await ahead.acknowledge(SITE, b"much")
        await store.acknowledge(SITE, b"less")
        assert await ahead.acknowledged() == await store.acknowledged() == {SITE: b"less"}
        await ahead.acknowledge(SITE, b"")
        assert await store.acknowledged() == {}
        await store.acknowledge(SITE, b"anew")
        assert await ahead.acknowledged() == {SITE: b"anew"}
        async with stores.again() as begun:
            await begun.acknowledge(SITE, b"newer")
        await ahead.acknowledge(SITE, b"newest")
        assert await store.acknowledged() == {SITE: b"newest"}


async def test_what_another_controller_projects_is_left_to_it_unless_it_does_not(keyspace):
    await keyspace.empty()
    counting = []

    def wrap(driver):
        counting.append(Writing(driver))
        return counting[-1]

    async with keyspace.store("dc1") as author, keyspace.store("dc2", wrap=wrap, leave_s=20.0) as other:
        assert await author.append(LOG, 0, entries(1, 2))
        waiting = asyncio.create_task(other.apply(entries(1, 2)))
        await author.apply(entries(1, 2))
        await asyncio.wait_for(waiting, 15)
        assert counting[0].written == 0
        assert await other.applied(LOG) == 2
        assert await other.append(LOG, 2, entries(3))
        await other.apply(entries(3))
        assert counting[0].written
    async with keyspace.store("dc2", leave_s=0.3) as other:
        async with keyspace.store("dc1") as author:
            assert await author.append(LOG, 3, entries(4))
        await other.apply(entries(4))  # its author has died
        assert await other.get(Region, "t4") is not None
        assert await other.applied(LOG) == 4


class Telltale(SystemClock):
    """Tells when somebody sleeps by it."""

    def __init__(self):
        self.slept = asyncio.Event()

    async def sleep(self, seconds):
        self.slept.set()
        await super().sleep(seconds)


async def test_a_controller_opens_its_store_so_that_it_leaves_others_what_they_append(keyspace, tmp_path):
    await keyspace.fit()
    place = replace(Settings(), cassandra=keyspace.section("dc2"), site=Site(state_dir=tmp_path))
    clock = Telltale()
    other = await open_log(place, clock)
    try:
        async with keyspace.store("dc1") as author:
            assert await author.append(LOG, 0, entries(1))
            applying, left = asyncio.create_task(other.apply(entries(1))), asyncio.create_task(clock.slept.wait())
            await asyncio.wait({applying, left}, return_when=asyncio.FIRST_COMPLETED)
            assert left.done(), "it wrote at once what its author was about to write"
            await author.apply(entries(1))
            await applying
        assert await other.applied(LOG) == 1
        assert cassandra_counters(other).answers
    finally:
        await other.close()
        await keyspace.empty_all()


@asynccontextmanager
async def controller(keyspace, data_centre, folder):
    async with keyspace.store(data_centre) as store:
        overlay, clock = Overlay(store), SystemClock()
        holder = Holder("@controller", "c", X25519PrivateKey.generate(), [], folder / data_centre)
        follower = Follower(store=store, overlay=overlay, holder=holder, clock=clock, lifetime_s=60.0, leads=True)
        sequencer = Sequencer(store=store, follower=follower, clock=clock, wake=LocalWake())
        await sequencer.start()
        tasks = [asyncio.create_task(follower.run()), asyncio.create_task(sequencer.run())]
        yield overlay, sequencer, store
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_reads_and_repairs_ask_another_node_soon_from_the_first_one_on(keyspace):
    """Cassandra's own rule is of reads that were made; of a new table it supposes seconds."""
    asked = "SELECT table_name, speculative_retry, additional_write_policy FROM system_schema.tables WHERE keyspace_name = ?"
    async with keyspace.driver() as driver:
        rows = await driver.run(asked, (keyspace.name,), consistency="ONE")
    assert len(rows) > 50
    assert {tuple(str(one).lower() for one in row[1:]) for row in rows} == {("min(99p,100ms)", "min(99p,100ms)")}


async def test_any_two_transactions_are_as_if_one_after_another(stores, keyspace, tmp_path):
    await keyspace.empty()
    async with controller(keyspace, "dc1", tmp_path) as one, controller(keyspace, "dc2", tmp_path) as two:

        async def count(at, name):
            async def decide(reader):
                old = await reader.get(Project, "counter")
                number = int(old.description) + 1 if old else 1
                return [put(project("counter", description=str(number)), old)], number

            return (await transact(at[0], at[1], name, decide))[0]

        async def create(at, id_, name):
            async def decide(reader):
                if await reader.find(Project, name=name, domain_id="default"):
                    raise Conflict
                return [put(project(id_, name=name))], id_

            return (await transact(at[0], at[1], id_, decide))[0]

        places = (one, two)
        counted = [count(places[number % 2], f"count{number}") for number in range(16)]
        created = [create(places[number % 2], f"p{number}", f"name{number // 4}") for number in range(16)]
        work = [*counted, *created]
        random.shuffle(work)
        found = await asyncio.gather(*work, return_exceptions=True)
        assert {type(one) for one in found} == {int, str, Conflict}
        assert sorted(one for one in found if isinstance(one, int)) == list(range(1, 17))
        assert len([one for one in found if isinstance(one, str)]) == 4  # one for each name
        log = await one[2].tail(LOG, 0)
        assert [entry.number for entry in log] == list(range(1, 21))
        assert len({entry.id for entry in log}) == 20
        for overlay, sequencer, _ in places:
            await sequencer.catch_up()
            assert (await overlay.get(Project, "counter")).description == "16"


MOVED = entries_of(
    [
        [(Project(id="a", name="x", domain_id="a"), True)],
        [(Project(id="a", name="x", domain_id="a"), False)],
        [(Project(id="a", name="y", domain_id="b"), True)],
        [(Project(id="a", name="x", domain_id="b", parent_id="a"), True)],
        [(Project(id="a", name="x"), False), (Project(id="b", name="x", domain_id="a"), True)],
        [(Project(id="a", name="x", domain_id="a"), True)],
    ]
)  # removed and made again, and found elsewhere each time


@settings(max_examples=1, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@example(MOVED, random.Random(1))
@given(HISTORIES, st.randoms(use_true_random=False))
def test_entries_twice_late_out_of_order_by_two_controllers_come_to_the_same(stores, history, order):
    async def run():
        async with stores.fresh() as store:
            await store.apply(history)
            expected = await lying(store)
            await check_equal(store, states(history)[-1])
        async with stores.fresh() as store, stores.keyspace.store("dc2") as other:
            again = [*history, *history, *order.sample(history, len(history) // 2)]
            order.shuffle(again)
            middle = len(again) // 2
            await asyncio.gather(*(store.project([entry]) for entry in again[:middle]))
            await other.apply(history[: len(history) // 2])  # whose mark is older than what is there
            await asyncio.gather(*(other.project([entry]) for entry in again[middle:]))
            await store.apply(history)
            assert await lying(other) == expected
            assert await other.applied(LOG) == len(history)
            await check_equal(other, states(history)[-1])

    asyncio.run(run())


async def test_what_is_removed_stays_removed_for_whoever_is_late(stores):
    made = region(1, parent_region_id="p")
    gone = Entry(2, "t2", 0, (remove(Region(id="a", parent_region_id="p")),))
    async with stores.fresh() as store:
        await store.project([gone])
        await store.project([made])
        assert await store.get(Region, "a") is None
        assert await store.find(Region, parent_region_id="p") == []
        assert set((await lying(store)).values()) == {(2, None)}


# --- the log


@pytest.mark.parametrize("size", [3, pytest.param(7, marks=pytest.mark.long)])
async def test_every_position_exists_once_also_after_ranges_were_emptied(stores, keyspace, size):
    await keyspace.empty()
    order, written, unsure, done = random.Random(size), {}, set(), False
    async with keyspace.store(range_size=size) as one, keyspace.store("dc3", range_size=size) as two:

        async def write(store, who):
            head, batch = 0, ()
            while head < 60:
                with suppress(Unavailable):  # of a busy machine; what is unknown may be there
                    head, batch = await store.head(LOG), ()
                    batch = entries(*range(head + 1, head + 1 + order.randint(1, size)), by=f"{who}-")
                    won = batch if await store.append(LOG, head, batch) else ()
                    batch = () if won else batch  # who lost may have met his own first attempt of two
                    assert written.keys().isdisjoint(entry.number for entry in won)
                    written.update({entry.number: entry for entry in won})
                unsure.update(entry.number for entry in batch)
                await asyncio.sleep(0.01)  # what is refused at once would leave no time for anything else

        async def prune():
            pruned = 0
            while not done:
                await asyncio.sleep(0.01)
                with suppress(Unavailable):
                    await one.apply(await one.tail(LOG, await one.applied(LOG)))
                    pruned = max(pruned, await one.applied(LOG) - order.randint(0, 2 * size))
                    await one.prune(LOG, pruned)
                    rest = await two.tail(LOG, pruned)
                    assert [entry.number for entry in rest] == list(range(pruned + 1, pruned + 1 + len(rest)))

        pruning = asyncio.create_task(prune())
        await asyncio.gather(write(one, "a"), write(one, "b"), write(two, "c"), write(two, "d"))
        done = True
        await pruning
        end = await one.head(LOG)
        assert set(range(1, end + 1)) - written.keys() <= unsure
        assert max(written) <= end
        await one.apply(await one.tail(LOG, await one.applied(LOG)))
        await one.prune(LOG, end)
        assert await one.tail(LOG, 0) == []
    async with keyspace.store("dc2", range_size=size) as later:  # that has no hint of where the end is
        head = await later.head(LOG)
        assert head == end
        assert not await later.append(LOG, 0, entries(1))
        assert not await later.append(LOG, head - 1, entries(head))
        assert not await later.append(LOG, head + size, entries(head + size + 1))
        assert await later.append(LOG, head, entries(head + 1))
        assert await later.tail(LOG, head) == entries(head + 1)


async def test_the_end_of_a_long_feed_is_found_without_a_hint(keyspace):
    await keyspace.empty()
    async with keyspace.store(range_size=2) as store:
        for after in range(0, 60, 2):
            assert await store.append(OWN, after, entries(after + 1, after + 2))
        assert len(await store.tail(OWN, 0, 1000)) == 60
        assert [entry.number for entry in await store.tail(OWN, 31, 7)] == list(range(32, 39))
    for data_centre in ("dc1", "dc3"):
        async with keyspace.store(data_centre, range_size=2) as later:
            assert await asyncio.gather(*(later.head(OWN) for _ in range(5))) == [60] * 5
            await later.prune(OWN, 41)
    async with keyspace.store(range_size=2) as later:
        assert (await later.head(OWN), len(await later.tail(OWN, 41)), await later.tail(OWN, 0)) == (60, 19, [])


async def test_more_than_a_range_is_not_appended_at_once(keyspace):
    await keyspace.empty()
    async with keyspace.store(range_size=5) as store:
        with pytest.raises(ValueError, match="only 5"):
            await store.append(LOG, 0, entries(*range(1, 7)))
        assert await store.head(LOG) == 0


class Doubtful:
    """A driver whose first decision has an outcome that nobody hears of."""

    def __init__(self, driver, way, silent=False):
        self._driver = driver
        self._way = way
        self.silent = silent  # nothing can be read either, from then on
        self.late = None

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def decide(self, statements, **named):
        way, self._way = self._way, "told"
        if way == "told":
            return await self._driver.decide(statements, **named)
        if way == "done":
            await self._driver.decide(statements, **named)
        elif way == "late":  # it has left, and arrives after everybody has looked
            self.late = asyncio.create_task(self._later(statements, named))
        raise Unknown

    async def run(self, cql, values=(), **named):
        if self.silent and self._way == "told":
            raise Unavailable
        return await self._driver.run(cql, values, **named)

    async def _later(self, statements, named):
        await asyncio.sleep(0.12)
        return await self._driver.decide(statements, **named)


@pytest.mark.parametrize("way", ["done", "lost", "late"])
async def test_an_outcome_that_nobody_heard_of_is_found_out(stores, keyspace, way):
    async with stores.fresh() as store:
        assert await store.append(LOG, 0, entries(1))
    doubtful = []
    async with keyspace.store(wrap=lambda driver: doubtful.append(Doubtful(driver, way)) or doubtful[0]) as store:
        assert await store.append(LOG, 1, entries(2, 3))
        if doubtful[0].late:
            await doubtful[0].late
        assert await store.tail(LOG, 0) == entries(1, 2, 3)
        assert await store.append(LOG, 3, entries(4))


@pytest.mark.parametrize("way", ["lost", "late"])
async def test_who_was_overtaken_while_in_doubt_has_lost(stores, keyspace, way):
    async with stores.fresh() as other:

        class Overtaken(Doubtful):
            async def _later(self, statements, named):
                return await self._driver.decide(statements, **named)

            async def decide(self, statements, **named):
                try:
                    return await super().decide(statements, **named)
                except Unknown:
                    await other.append(LOG, 0, entries(1, by="other"))
                    raise

        async with keyspace.store(wrap=lambda driver: Overtaken(driver, way)) as store:
            won = await store.append(LOG, 0, entries(1, 2))
            found = await other.tail(LOG, 0)
            assert found == (entries(1, 2) if won else entries(1, by="other"))


async def test_what_cannot_be_found_out_is_said_to_be_unknown(stores, keyspace):
    async with stores.fresh():
        pass

    class Hasty(SystemClock):
        """A minute passes with every look at it."""

        _asked = 0

        def ticks(self):
            self._asked += 60
            return super().ticks() + self._asked

    async with keyspace.store(wrap=lambda driver: Doubtful(driver, "done", silent=True), clock=Hasty()) as store:
        with pytest.raises(Unknown):
            await store.append(LOG, 0, entries(1, 2))
    async with stores.again() as store:
        assert await store.tail(LOG, 0) == entries(1, 2)


async def test_an_append_ends_in_time_though_each_of_its_statements_takes_long(stores, keyspace, monkeypatch):
    monkeypatch.setattr(cassandra_log, "_SETTLE_S", 0.3)
    monkeypatch.setattr(cassandra_log, "_LAST_S", 0.2)
    async with stores.fresh() as store:
        assert await store.append(LOG, 0, entries(1))

    class Slow(Doubtful):
        """Every statement succeeds or fails when it is nearly given up."""

        slow = False

        async def decide(self, statements, **named):
            await asyncio.sleep(self.slow and 0.25)
            if self.slow:
                raise Unknown
            return await self._driver.decide(statements, **named)

        async def run(self, cql, values=(), **named):
            await asyncio.sleep(self.slow and 0.25)
            return await self._driver.run(cql, values, **named)

    slow = []
    async with keyspace.store(wrap=lambda driver: slow.append(Slow(driver, "lost")) or slow[0]) as store:
        slow[0].slow = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unknown):
            await store.append(LOG, 1, entries(2))
        assert asyncio.get_running_loop().time() - began < 0.6
        slow[0].slow = False
        assert await store.append(LOG, 1, entries(2))


async def test_an_answer_that_is_cut_off_is_found_out_over_the_wire(stores, keyspace):
    from tests.engines.tcp_proxy import TcpProxy

    section = keyspace.section()
    async with stores.fresh():
        pass
    with TcpProxy((section.contact_points[0], section.port)) as proxy:
        through = keyspace.section(contact_points=(proxy.address,), port=proxy.port)
        async with keyspace.store(section=through) as store:
            assert await store.append(LOG, 0, entries(1))
            assert await store.append(LOG, 1, entries(2))
            assert await store.head(LOG) == 2
            for head in range(2, 6):
                proxy.cut_on_answer()
                answer = "not done"
                try:
                    answer = await store.append(LOG, head, entries(head + 1))
                except Unknown:
                    answer = "unknown"
                except Unavailable:
                    pass
                async with keyspace.store("dc2") as other:
                    there = await other.head(LOG) == head + 1
                    assert answer == "unknown" or (answer is True) == there
                    assert there or await other.append(LOG, head, entries(head + 1))
            for _ in range(50):
                with suppress(Unavailable):
                    assert await store.tail(LOG, 0) == entries(*range(1, 7))
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("it never came back")


async def test_kill_9_of_who_writes_loses_nothing_that_was_acknowledged(stores, keyspace):
    async with stores.fresh():
        pass
    section = keyspace.section()
    place = [section.contact_points[0], section.port, section.keyspace, section.username, section.password_file]
    for round_ in range(3):
        command = [sys.executable, "-m", "tests.contracts.writes_cassandra", *map(str, place)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        lines = [process.stdout.readline() for _ in range(3 + round_)]
        process.kill()
        acknowledged = int([*lines, *process.stdout.read().split()][-1])
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        keyspace.changed |= {"log", "marks", "regions"}
        async with stores.again() as store:
            head, applied = await store.head(LOG), await store.applied(LOG)
            assert acknowledged <= head <= acknowledged + 3
            assert head - 6 <= applied <= head
            await store.apply(await store.tail(LOG, applied))
            assert [row.id async for row in store.scan(Region)] == [f"r{one:05}" for one in range(1, head + 1)]


async def test_a_hole_ends_what_is_read_until_it_is_filled(stores, keyspace):
    async with stores.fresh() as store:
        insert = store._log._feeds.insert
        for entry in entries(1, 2, 4):
            values = (LOG, 0, entry.number, entry.id, entry.at, encode_entry(entry))
            await store._driver.run(insert, values, consistency="QUORUM")
        assert await store.tail(LOG, 0) == entries(1, 2)
        assert await store.tail(LOG, 2) == []
        levels = Levels()
        async with keyspace.replica(wrap=levels.over) as replica:
            levels.asked.clear()
            assert await replica.tail(LOG, 0) == entries(1, 2)
            assert levels.asked_elsewhere() == {"tail"}
            for entry in entries(3):
                values = (LOG, 0, entry.number, entry.id, entry.at, encode_entry(entry))
                await store._driver.run(insert, values, consistency="QUORUM")
            assert await replica.tail(LOG, 1) == entries(2, 3, 4)


# --- restoring


class Breaking:
    """A driver that is cut off after so many changes."""

    def __init__(self, driver, changes):
        self._driver = driver
        self._left = changes

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def change(self, statements, **named):
        self._left -= 1
        if self._left < 0:
            raise Unavailable
        return await self._driver.change(statements, **named)


@pytest.mark.parametrize("changes", [0, *(pytest.param(some, marks=pytest.mark.long) for some in (1, 2)), 3])
async def test_a_restore_that_was_broken_off_is_noticed_and_done_again(stores, keyspace, changes):
    old = [
        Entry(number, name, 0, (put(Project(id=name, name=name, domain_id="d", parent_id="p")),))
        for number, name in enumerate(("old", "both"), 1)
    ]
    rows = [("projects", (one,), encode(Project(id=one, name=one, domain_id="d"))) for one in ("both", "new")]
    async with stores.fresh() as store:
        await store.append(LOG, 0, old)
        await store.apply(old)
    async with keyspace.store(wrap=lambda driver: Breaking(driver, changes)) as store:
        with pytest.raises(Unavailable):
            await store.restore(25_000, stream(rows))
    with pytest.raises(StoreRefused, match="position 25000"):
        async with stores.again():
            pass
    async with keyspace.store(repeat=True) as store:
        await store.restore(25_000, stream(rows))
    async with stores.again() as store:
        assert await all_rows(store) == (25_000, rows)
        assert await store.find(Project, parent_id="p") == []
        assert [row.id for row in await store.find(Project, parent_id=None)] == ["both", "new"]
        assert (await store.head(LOG), await store.tail(LOG, 0)) == (25_000, [])
        assert not await store.append(LOG, 2, entries(3))
        assert await store.append(LOG, 25_000, entries(25_001))
        with pytest.raises(StoreRefused, match="25001"):
            await store.restore(25_001, stream(rows))


async def test_copies_are_completed_from_the_rows(stores):
    async with stores.fresh() as store:
        grants = [
            Grant(actor_id=one, actor="user", target="project", target_id="p", role_id="r") for one in ("a", "b", "c")
        ]
        await store.apply([Entry(1, "t1", 0, tuple(put(one) for one in grants))])
        await store.apply([Entry(2, "t2", 0, (remove(grants[0]),))])
        expected = await lying(store)
        await store._driver.define('TRUNCATE "grants__target_id"')
        await store._driver.define('TRUNCATE "grants__role_id"')
        assert await store.find(Grant, role_id="r") == []
        assert await store.complete() == 3
        assert await store.find(Grant, role_id="r") == await store.find(Grant, target_id="p") == grants[1:]
        rows = {place: one for place, one in expected.items() if one[1] is not None}
        assert {place: one for place, one in (await lying(store)).items() if one[1] is not None} == rows


async def test_a_table_that_was_not_known_is_taken_in(stores, keyspace):
    older = {name: table for name, table in facts_of_all().items() if name != "regions"}
    async with stores.fresh():
        pass
    async with keyspace.store(tables=older) as store:
        await store.apply([region(1, "a", parent_region_id="p"), region(2, "b")])
        before = await all_rows(store)
    async with stores.again() as store:
        assert await store.get(Region, "b") is None
        await store.complete()
        assert await store.find(Region, parent_region_id="p") == [Region(id="a", parent_region_id="p")]
        assert await all_rows(store) == before
        await store.apply([Entry(3, "t3", 0, (remove(Region(id="b")),))])
        await store.complete()
        assert await store.get(Region, "b") is None
        assert len((await all_rows(store))[1]) == 1


def facts_of_all():
    from regional_keystone.record import TABLES

    return TABLES


async def test_what_cannot_be_a_key_is_not_there(stores):
    long = "x" * 70_000
    async with stores.fresh() as store:
        for wrong in ("\udc80", long, None, 5, True):
            assert await store.get(Region, wrong) is None
            assert await store.find(Grant, actor_id=wrong) == []
            assert await store.find(Region, parent_region_id=wrong) == []
        await store.apply([region(1, parent_region_id=long)])
        assert await store.find(Region, parent_region_id=long) == [Region(id="a", parent_region_id=long)]
        assert await store.find(Region, parent_region_id="x" * 69_999) == []


# --- a site's replica


class Levels:
    """Notes at which level of consistency everything is asked, and of which table."""

    def __init__(self):
        self.asked = []

    def over(self, driver):
        self._driver = driver
        return self

    def __getattr__(self, name):
        return getattr(self._driver, name)

    def asked_elsewhere(self):
        """Which statements needed other data centres."""
        found = {
            "tail" if "number >" in cql else cql
            for cql, levels in self.asked
            if not all(level.startswith("LOCAL_") for level in levels)
        }
        self.asked.clear()
        return found

    async def run(self, cql, values=(), *, consistency, **named):
        self.asked.append((cql, [consistency]))
        return await self._driver.run(cql, values, consistency=consistency, **named)

    def pages(self, cql, values=(), *, consistency, **named):
        self.asked.append((cql, [consistency]))
        return self._driver.pages(cql, values, consistency=consistency, **named)

    async def change(self, statements, *, consistency):
        statements = list(statements)
        self.asked += [(cql, [consistency]) for cql, _ in statements]
        return await self._driver.change(statements, consistency=consistency)

    async def decide(self, statements, *, serial, commit):
        self.asked.append((statements[0][0], [serial, commit]))
        return await self._driver.decide(statements, serial=serial, commit=commit)


@pytest.mark.parametrize("level", ["LOCAL_QUORUM", "LOCAL_ONE"])
async def test_a_site_asks_its_own_data_centre_alone(stores, keyspace, level):
    async with stores.fresh() as store:
        history = MOVED
        assert await store.append(LOG, 0, history)
        await store.apply(history[:3])
        levels = Levels()
        async with keyspace.replica(level=level, wrap=levels.over) as replica:
            assert await replica.applied(LOG) == 3
            await store.apply(history[3:])
            await asyncio.sleep(0.1)
            levels.asked.clear()
            await replica.apply(history[:4])
            await replica.apply(await replica.tail(LOG, 4))
            await check_equal(replica, states(history)[-1])
            async with replica.snapshot() as there, store.snapshot() as here:
                assert await digest(there) == await digest(here)
            assert await replica.append(OWN, 0, entries(1, 2))
            assert (await replica.head(OWN), await replica.tail(OWN, 1)) == (2, entries(2))
            await replica.prune(OWN, 1)
            assert await replica.head(LOG) == len(history)
            assert levels.asked_elsewhere() == set()
        async with keyspace.replica(level=level, wrap=levels.over) as replica:
            assert await replica.applied(LOG) == len(history)
            assert (await replica.head(OWN), await replica.tail(OWN, 0), await replica.tail(OWN, 1)) == (
                2,
                [],
                entries(2),
            )
            assert levels.asked_elsewhere() == set()


async def test_sites_read_the_controllers_heartbeat_whosever_clock_was_ahead(stores, keyspace):
    async with (
        stores.fresh() as store,
        keyspace.store("dc2", clock=Ahead()) as ahead,
        keyspace.replica() as replica,
    ):
        assert await replica.heartbeat.last() is None

        async def shows(at, head):
            await eventually(lambda: _is(replica.heartbeat.last(), (at, head)))
            await eventually(lambda: _is(store.heartbeat.last(), (at, head)))

        await ahead.heartbeat.beat(9, 5)
        await shows(9, 5)
        await store.heartbeat.beat(7, 4)
        await shows(7, 4)
        assert await store.head(LOG) == await store.applied(LOG) == 0


async def _is(asked, wanted):
    return await asked == wanted


async def test_a_site_writes_its_own_feed_only(stores, keyspace):
    async with stores.fresh(), keyspace.replica() as replica:
        for feed in (LOG, "RegionTwo/1", SITE):
            with pytest.raises(ValueError, match="its own feed only"):
                await replica.append(feed, 0, entries(1))
            with pytest.raises(ValueError, match="its own feed only"):
                await replica.prune(feed, 1)
        with pytest.raises(ValueError, match="cannot keep"):
            await replica.acknowledge(SITE, b"1")
        with pytest.raises(ValueError, match="cannot know"):
            await replica.acknowledged()


async def test_a_site_waits_until_every_row_and_copy_is_there(stores, keyspace):
    made, moved = (Project(id="a", name="a", domain_id="d", parent_id=parent) for parent in "pq")
    other = Project(id="b", name="b", domain_id="d")
    changes = [put(made), put(moved, made), remove(moved), put(other)]
    history = [Entry(number, f"t{number}", SystemClock().now(), (one,)) for number, one in enumerate(changes, 1)]
    async with stores.fresh() as store, keyspace.replica() as replica:
        with pytest.raises(ValueError, match="entry 2"):
            await replica.apply(history[1:2])
        for place, entry in enumerate(history[:3]):
            writes = list(store._tables.written([entry]))
            await store._write(writes[:-1])  # one is on its way
            with pytest.raises(Unavailable, match=f"entry {entry.number}"):
                await replica.apply([entry])
            assert await replica.applied(LOG) == place
            waiting = asyncio.create_task(replica.apply(history[: place + 1]))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await store.project([entry])
            await asyncio.wait_for(waiting, 2)
            assert await replica.applied(LOG) == place + 1
        assert await replica.get(Project, "a") is None
        await store.project(history)
        await replica.apply(history)
        assert await replica.get(Project, "b") == other


async def test_a_removal_is_seen_by_its_stone_and_believed_without_one_when_that_is_long_gone(stores, keyspace):
    gone = remove(Region(id="never"))
    async with stores.fresh(), keyspace.replica() as replica:
        with pytest.raises(Unavailable):
            await replica.apply([Entry(1, "t1", SystemClock().now(), (gone,))])
        await replica.apply([Entry(1, "t1", SystemClock().now() - 20 * 86400 * 1_000_000, (gone,))])
        assert await replica.applied(LOG) == 1


async def test_a_site_takes_a_snapshot_by_making_its_data_centre_complete(stores, keyspace):
    rows = [("regions", (one,), encode(Region(id=one))) for one in ("both", "new")]
    async with stores.fresh() as store, keyspace.replica() as replica:
        with pytest.raises(Unavailable, match="reached 0, not 7"):
            await replica.restore(7, stream(rows))
        await store.restore(7, stream(rows))
        await replica.restore(7, stream(rows))
        assert await replica.applied(LOG) == 7
        assert await all_rows(replica) == (7, rows)
        assert [row.id async for row in replica.scan(Region)] == ["both", "new"]
        assert facts(Region).key_of(await replica.get(Region, "new")) == ("new",)
