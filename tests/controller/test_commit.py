"""Putting changes in order: as if alone, without gaps, whatever fails."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controller import commit
from controller.commit import Sequencer
from regional_keystone.adapters.local import LocalWake, SystemClock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import Conflict, TooLarge, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.log import LOG, Collision, Transaction, put, remove
from regional_keystone.model import Project, RevocationEvent
from regional_keystone.overlay import Overlay, transact
from regional_keystone.record import encode
from tests.cloud import project


class Faulty:
    """A Writer whose next appends fail, or whose tables are not written."""

    def __init__(self, store):
        self._store = store
        self.failing = False
        self.idle = False
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, feed, after, entries):
        if self.failing:
            raise Unavailable("The disk is full.")
        self.sizes.append(len(entries))
        return await self._store.append(feed, after, entries)

    async def apply(self, entries):
        if self.idle:
            raise Unavailable("The disk is full.")
        await self._store.apply(entries)


class Controller:
    async def open(self, path):
        self.store = Faulty(await Sqlite.open(path / "log.db"))
        self.overlay = Overlay(self.store)
        clock = SystemClock()
        holder = Holder("@controller", "c", X25519PrivateKey.generate(), [], path / "keys")
        self.follower = Follower(
            store=self.store, overlay=self.overlay, holder=holder, clock=clock, lifetime_s=60.0, leads=True
        )
        self.sequencer = Sequencer(store=self.store, follower=self.follower, clock=clock, wake=LocalWake())
        await self.sequencer.start()
        self.tasks = [asyncio.create_task(self.follower.run()), asyncio.create_task(self.sequencer.run())]
        return self

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.close()

    async def log(self):
        return await self.store.tail(LOG, 0, 10_000)

    async def create(self, name, id_):
        """Make a project of this name if there is none."""

        async def decide(reader):
            if await reader.find(Project, name=name, domain_id="default"):
                raise Conflict
            return [put(project(id_, name=name))], None

        return await transact(self.overlay, self.sequencer, f"create/{id_}", decide)

    async def count(self, id_="counter", pause=0):
        """Add one to a counter, reading it first."""

        async def decide(reader):
            old = await reader.get(Project, id_)
            await asyncio.sleep(pause)
            number = int(old.description) + 1 if old else 1
            return [put(project(id_, description=str(number)), old)], number

        return await transact(self.overlay, self.sequencer, f"count/{os.urandom(8).hex()}", decide)


@pytest.fixture
async def one(tmp_path):
    made = await Controller().open(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def two(tmp_path, one):
    made = await Controller().open(tmp_path)
    yield made
    await made.close()


def transaction(id_, position=0, reads=(), **fields):
    return Transaction(id_, position, frozenset(reads), (put(project(id_, **fields)),))


async def test_whatever_waits_becomes_one_append(one):
    await asyncio.gather(*(one.sequencer.commit(transaction(f"p{number}")) for number in range(250)))
    assert one.store.sizes[0] >= 1
    assert max(one.store.sizes) == commit.BATCH
    assert len(one.store.sizes) <= 4
    assert [entry.number for entry in await one.log()] == list(range(1, 251))


async def test_a_change_is_visible_and_in_the_log_when_it_is_answered(one):
    position = await one.sequencer.commit(transaction("p"))
    assert (await one.overlay.get(Project, "p")).id == "p"
    assert (await one.log())[position - 1].id == "p"


async def test_two_that_take_one_name_at_once_are_told_apart(one):
    results = await asyncio.gather(*(one.create("same", f"p{number}") for number in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 19, results[:2]
    assert len(await one.log()) == 1


async def test_one_that_read_what_has_changed_since_is_run_again(one):
    first = transaction("p", 0, [("projects", "p")])
    await one.sequencer.commit(first)
    with pytest.raises(Collision):
        await one.sequencer.commit(transaction("q", 0, [("projects", "p")]))
    with pytest.raises(Collision):
        await one.sequencer.commit(transaction("p"))  # writes what was written since
    await one.sequencer.commit(transaction("q", 1, [("projects", "p")]))


async def test_one_of_a_batch_that_read_what_an_earlier_one_writes_is_run_again(one):
    results = await asyncio.gather(
        one.sequencer.commit(transaction("p")),
        one.sequencer.commit(transaction("q", 0, [("projects", "p")])),
        one.sequencer.commit(transaction("r")),
        return_exceptions=True,
    )
    assert isinstance(results[1], Collision)
    assert [entry.id for entry in await one.log()] == ["p", "r"]


async def test_no_addition_is_lost_however_many_add_at_once(one):
    results = await asyncio.gather(*(one.count(pause=0.001) for _ in range(30)))
    assert sorted(number for number, _ in results) == list(range(1, 31))


async def test_who_loses_again_and_again_goes_alone(one):
    stop = asyncio.Event()

    async def disturb():
        while not stop.is_set():
            await one.count()

    disturbing = [asyncio.create_task(disturb()) for _ in range(4)]
    await asyncio.wait_for(one.count(pause=0.05), 5)
    stop.set()
    await asyncio.gather(*disturbing)


async def test_one_that_began_before_all_that_is_remembered_is_run_again(one):
    one.sequencer._recent = type(one.sequencer._recent)(maxlen=3)
    for number in range(5):
        await one.sequencer.commit(transaction(f"p{number}", number))
    with pytest.raises(Collision):
        await one.sequencer.commit(transaction("q", 1))
    await one.sequencer.commit(transaction("q", 2))


async def test_a_transaction_that_is_too_large_is_refused_alone(one):
    results = await asyncio.gather(
        one.sequencer.commit(transaction("p")),
        one.sequencer.commit(transaction("q", extra={"x": "x" * commit.BATCH_BYTES})),
        one.sequencer.commit(transaction("r")),
        return_exceptions=True,
    )
    assert isinstance(results[1], TooLarge)
    assert [entry.id for entry in await one.log()] == ["p", "r"]


async def test_a_batch_stays_below_its_size(one):
    big = "x" * (commit.BATCH_BYTES // 3)
    await asyncio.gather(*(one.sequencer.commit(transaction(f"p{n}", extra={"x": big})) for n in range(7)))
    assert max(one.store.sizes) <= 2
    assert len(await one.log()) == 7


async def test_who_writes_faster_than_the_tables_waits_for_them(one, monkeypatch):
    monkeypatch.setattr(commit, "BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(commit, "DEADLINE_S", 0.3)
    one.store.idle = True
    refused = []
    for number in range(200):
        try:
            await one.sequencer.commit(transaction(f"p{number}", position=one.sequencer.head, description="x" * 1000))
        except Unavailable as error:
            refused.append(error.message)
            break
    assert refused == [f"The tables are {one.sequencer.head} changes behind the log; try again later."]
    assert 40 < one.sequencer.head < 60
    event = RevocationEvent(id="e", user_id="u", issued_before=1, revoked_at=1, keep_until=2)
    await one.sequencer.commit(Transaction("void", one.sequencer.head, frozenset(), (put(event),)))
    for more in ((remove(event),), (put(event), put(project("q")))):  # what is more than that waits like all others
        with pytest.raises(Unavailable, match="changes behind the log"):
            await one.sequencer.commit(Transaction("more", one.sequencer.head, frozenset(), more))
    monkeypatch.setattr(commit, "DEADLINE_S", 10.0)
    waiting = asyncio.create_task(one.sequencer.commit(transaction("late", position=one.sequencer.head)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    one.store.idle = False
    await waiting
    assert one.follower.waiting_bytes < 100_000
    assert await one.follower.settled(one.sequencer.head, 10)
    assert one.follower.waiting_bytes == 0


async def test_of_many_who_come_at_once_no_more_are_taken_on_than_there_is_room_for(one, monkeypatch):
    monkeypatch.setattr(commit, "BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(commit, "DEADLINE_S", 2.0)  # in which whoever has room is done, on a busy machine as well
    one.store.idle = True
    asked = (one.sequencer.commit(transaction(f"p{number}", description="x" * 1000)) for number in range(300))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in found} == {int, Unavailable}
    assert one.follower.waiting_bytes < 250_000
    assert one.sequencer.backlog_bytes == one.follower.waiting_bytes


async def test_who_waits_for_the_tables_goes_on_when_a_snapshot_takes_their_place(one, tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "BACKLOG_BYTES", 10_000)
    one.store.idle = True
    for number in range(5):
        await one.sequencer.commit(transaction(f"p{number}", position=one.sequencer.head, description="x" * 1000))
    waiting = asyncio.create_task(one.sequencer.commit(transaction("late", position=6, description="x" * 1000)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    one.store.idle = False

    async def rows():
        yield "projects", ("s",), encode(project("s"))

    await one.store.restore(6, rows())
    await one.follower.start()
    await asyncio.wait_for(waiting, 10)
    assert await one.follower.settled(one.sequencer.head, 10)
    assert one.follower.waiting_bytes == 0


async def test_what_cannot_be_written_is_refused_without_harm_to_others(one):
    with pytest.raises(ValueError):
        await one.sequencer.commit(Transaction("\ud800", 0, frozenset(), (put(project("p")),)))
    await one.sequencer.commit(transaction("q"))


async def test_a_full_disk_refuses_all_that_wait_and_is_over_when_it_is_over(one):
    one.store.failing = True
    waiting = [one.sequencer.commit(transaction(f"p{n}", extra={"x": "x" * 400_000})) for n in range(5)]
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(result, Unavailable) for result in results)
    one.store.failing = False
    assert await one.sequencer.commit(transaction("q")) == 1
    assert await one.overlay.get(Project, "p0") is None


async def test_a_full_disk_while_another_controllers_entries_are_read_refuses_all_that_wait(one, two):
    await two.sequencer.commit(transaction("other"))
    tail = one.store._store.tail

    async def broken(*arguments):
        raise Unavailable("The disk is gone.")

    one.store.tail = broken
    waiting = [one.sequencer.commit(transaction(f"p{number}")) for number in range(3)]
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert all(isinstance(result, Unavailable) for result in results)
    one.store.tail = tail
    await one.sequencer.commit(transaction("q"))


async def test_a_caller_who_went_away_before_it_was_written_leaves_nothing(one):
    task = asyncio.create_task(one.sequencer.commit(transaction("p")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await one.sequencer.commit(transaction("q"))
    numbers = [entry.number for entry in await one.log()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_two_controllers_on_one_log_lose_nothing_and_leave_no_gap(one, two):
    results = await asyncio.gather(*(who.count() for _ in range(15) for who in (one, two)))
    assert sorted(number for number, _ in results) == list(range(1, 31))
    assert [entry.number for entry in await one.log()] == list(range(1, 31))


async def test_two_controllers_give_one_name_once(one, two):
    creations = [who.create("same", f"{place}{n}") for n in range(5) for place, who in (("a", one), ("b", two))]
    results = await asyncio.gather(*creations, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 9
    await one.sequencer.catch_up()
    await two.sequencer.catch_up()
    assert one.sequencer.head == two.sequencer.head == 1


async def test_a_controller_catches_up_with_another_without_writing(one, two):
    await two.sequencer.commit(transaction("p"))
    await asyncio.gather(one.sequencer.catch_up(), one.sequencer.commit(transaction("q")), one.sequencer.catch_up())
    assert await one.overlay.get(Project, "p")
    assert [number for number, _ in one.sequencer._recent] == [1, 2]


async def test_a_controller_that_the_log_was_pruned_under_goes_on_from_the_tables(one, two):
    await one.sequencer.commit(transaction("p"))
    await one.follower.settled(1, 5)
    await one.store.prune(LOG, 1)
    with pytest.raises(Collision):  # what it read may have changed since
        await two.sequencer.commit(transaction("q"))
    assert await two.overlay.get(Project, "p")
    assert await two.sequencer.commit(transaction("q", two.sequencer.head)) == 2
    assert await two.follower.settled(2, 5)


async def test_what_a_crash_left_out_of_the_tables_is_applied_at_the_next_start(one, tmp_path):
    one.store.idle = True
    await one.sequencer.commit(transaction("p"))
    assert await one.store.applied(LOG) == 0
    await one.close()
    again = await Controller().open(tmp_path)
    try:
        assert again.sequencer.head == 1
        assert await again.overlay.get(Project, "p")
        assert await again.follower.settled(1, 5)
        assert await again.store.applied(LOG) == 1
    finally:
        await again.close()


_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.controller.test_commit import Controller, transaction

async def main():
    controller = await Controller().open(Path(sys.argv[1]))
    number = 0
    while True:
        await asyncio.gather(*(controller.sequencer.commit(transaction(f"p{number + n}", number)) for n in range(10)))
        number += 10
        print(number, flush=True)

asyncio.run(main())
"""


async def test_nothing_that_was_answered_is_lost_when_the_process_is_killed(tmp_path):
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    answered = 0
    with process.stdout:
        for line in process.stdout:
            answered = int(line)
            if answered >= 200:
                process.send_signal(signal.SIGKILL)
                break
    process.wait()
    again = await Controller().open(tmp_path)
    try:
        log = await again.log()
        assert [entry.number for entry in log] == list(range(1, again.sequencer.head + 1))
        assert len(log) >= answered
        assert await again.overlay.get(Project, f"p{answered - 1}")
        assert await again.count()
    finally:
        await again.close()
