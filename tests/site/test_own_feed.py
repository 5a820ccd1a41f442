"""A site's own feed: effective at once, never lost, taken over exactly once."""

import asyncio
from functools import partial

import pytest

from regional_keystone import own_feed
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import TooLarge, Unavailable, Unknown
from regional_keystone.log import Entry, Transaction, put, remove
from regional_keystone.model import Taken
from regional_keystone.own_feed import OwnFeed, portion, pruned
from tests.cloud import event, project
from tests.site.test_follow import Part, voided

NAME = "RegionOne/inc"


class Doubtful:
    """A store whose appends end as it is told; from the first of them on it may be away as well."""

    def __init__(self, store, *ways, away=False):
        self._store = store
        self.ways = list(ways)
        self._leaves = away
        self.away = False
        self.held = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, feed, after, entries):
        way = self.ways.pop(0) if self.ways else "told"
        if way == "told":
            return await self._store.append(feed, after, entries)
        self.away = self._leaves
        if way == "done":
            assert await self._store.append(feed, after, entries)
        elif way == "overtaken":
            assert await self._store.append(feed, after, [others(after + 1)])
        elif way == "late":
            self.held.append(partial(self._store.append, feed, after, entries))
        elif way == "unsaid":
            assert await self._store.append(feed, after, entries)
            return False
        raise Unknown

    async def head(self, feed):
        self._check()
        return await self._store.head(feed)

    async def tail(self, feed, *which):
        self._check()
        return await self._store.tail(feed, *which)

    def _check(self):
        if self.away:
            raise Unavailable


def others(number):
    """What another process has written."""
    return Entry(number, f"other{number}", 0, (put(event(f"other{number}", 10**6, audit_id=f"other{number}")),))


class Feed:
    """An own feed beside a replica."""

    async def open(self, path, replica="replica"):
        self.part = await Part().open(path / replica)
        self.store = await Sqlite.open(path / "own" / "inc.db")
        self.own = OwnFeed(NAME, store=self.store, follower=self.part.follower, clock=self.part.clock)
        await self.own.start()
        return self

    def doubt(self, *ways, **more):
        self.own._store = Doubtful(self.store, *ways, **more)
        return self.own._store

    async def close(self):
        await self.part.close()
        await self.store.close()

    async def revoke(self, *names):
        for name in names:
            await self.own.revoke([event(name, 10**6, audit_id=name)])

    async def take(self, number):
        """The log says that so many were taken over."""
        follower = self.part.follower
        position = follower.position + 1
        follower.note([Entry(position, f"t{position}", 0, (put(Taken(feed=NAME, number=number)),))])
        assert await follower.settled(position, 5.0)
        await self.own.returned()

    def refuses(self, *names):
        return [voided(self.part.follower, audit_id=name) for name in names]


@pytest.fixture
async def feed(tmp_path):
    made = await Feed().open(tmp_path)
    yield made
    await made.close()


async def test_a_revocation_is_effective_and_durable_when_it_is_answered(feed):
    said = []
    feed.own.sent = lambda: said.append(feed.own.number)
    await feed.revoke("a")
    assert feed.refuses("a") == [True]
    assert [entry.number for entry in await feed.store.tail(NAME, 0)] == [1]
    assert said == [1]
    assert feed.own.pending() == 1


@pytest.mark.parametrize("change", [put(project("p")), remove(event("e", 1))])
async def test_anything_but_a_revocation_needs_the_controller(feed, change):
    with pytest.raises(Unavailable):
        await feed.own.commit(Transaction("t", 0, frozenset(), (change,)))
    assert feed.own.number == 0


async def test_after_a_restart_what_is_pending_still_counts(feed, tmp_path):
    await feed.revoke("a", "b")
    await feed.close()
    again = await Feed().open(tmp_path)
    try:
        assert again.refuses("a", "b") == [True, True]
        assert again.own.pending() == 2
        await again.revoke("c")
        assert [entry.number for entry in await again.own.after(0)] == [1, 2, 3]
    finally:
        await again.close()


@pytest.mark.parametrize("replica", ["replica", "rebuilt"])
async def test_after_a_restart_what_is_pending_still_counts_though_others_were_taken_over(feed, tmp_path, replica):
    await feed.revoke("a", "b", "c")
    await feed.take(2)
    assert feed.own.pending() == 1
    await feed.close()
    again = await Feed().open(tmp_path, replica)
    try:
        assert again.refuses("c") == [True]
        assert again.own.pending() == 1
        assert [entry.number for entry in await again.own.after(0)] == [3]
    finally:
        await again.close()


async def test_more_than_one_page_of_pending_revocations_counts_after_a_restart(feed, tmp_path):
    entries = [Entry(n, f"t{n}", 0, (put(event(f"e{n}", 10**6, audit_id=f"e{n}")),)) for n in range(1, 2102)]
    assert await feed.store.append(NAME, 0, entries)
    await feed.close()
    again = await Feed().open(tmp_path)
    try:
        assert all(again.refuses("e1", "e1001", "e2101"))
        assert again.own.pending() == 2101
    finally:
        await again.close()


async def test_nothing_is_forgotten_before_this_replica_holds_it_durably(feed):
    await feed.revoke("a")
    feed.part.store.full = True
    feed.part.follower.note([Entry(1, "t", 0, (put(Taken(feed=NAME, number=1)),))])
    await feed.own.returned()
    assert feed.own.pending() == 1
    feed.part.store.full = False
    await feed.part.clock.advance(2)
    assert await feed.part.follower.settled(1, 5.0)
    await feed.own.returned()
    assert feed.own.pending() == 0


async def test_what_the_log_shows_is_forgotten_as_far_as_it_is_durable_and_the_rest_once_it_is(feed):
    await feed.revoke("a", "b")
    follower = feed.part.follower
    follower.note([Entry(1, "t1", 0, (put(Taken(feed=NAME, number=1)),))])
    assert await follower.settled(1, 5.0)
    feed.part.store.full = True
    follower.note([Entry(2, "t2", 0, (put(Taken(feed=NAME, number=2)),))])
    assert [entry.number for entry in await feed.own.after(0)] == [2]
    assert feed.own.pending() == 1
    feed.part.store.full = False
    await feed.part.clock.advance(2)
    assert await follower.settled(2, 5.0)
    assert await feed.own.after(0) == []
    assert feed.own.pending() == 0


async def test_a_feed_restored_from_a_backup_takes_nothing_that_would_be_lost(feed):
    await feed.revoke("a")
    await feed.take(5)
    with pytest.raises(Unavailable, match="restored"):
        await feed.revoke("b")
    assert [entry.number for entry in await feed.own.after(0)] == [1]


async def test_a_caller_who_goes_away_leaves_the_feed_in_order(feed):
    for number in range(20):
        task = asyncio.create_task(feed.revoke(f"gone{number}"))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await feed.revoke("a")
    entries = await feed.own.after(0)
    assert entries[-1].number == feed.own.number == await feed.store.head(NAME)
    assert all(feed.refuses(*(change.key[0] for entry in entries for change in entry.changes)))


async def test_many_at_once_are_in_order(feed):
    await asyncio.gather(*(feed.revoke(f"e{number}") for number in range(50)))
    assert [entry.number for entry in await feed.own.after(0)] == list(range(1, 51))


async def test_what_another_process_wrote_counts_and_what_is_written_comes_after_it(feed):
    await feed.store.append(NAME, 0, [others(1), others(2)])
    await feed.revoke("a")
    assert feed.refuses("other1", "other2", "a") == [True, True, True]
    assert feed.own.number == await feed.store.head(NAME) == 3


async def test_two_processes_on_one_feed_are_told_so(feed):
    class Overtaken(Doubtful):
        async def append(self, feed, after, entries):
            await self._store.append(feed, after, [others(after + 1)])
            return await self._store.append(feed, after, entries)

    feed.own._store = Overtaken(feed.store)
    with pytest.raises(Unavailable, match="another process"):
        await feed.revoke("a")
    assert feed.refuses("a", "other1") == [False, True]
    feed.own._store = feed.store
    await feed.revoke("b")
    assert feed.own.number == await feed.store.head(NAME)


@pytest.mark.parametrize(
    "ways", [["done"], ["lost"], ["unsaid"], ["overtaken"], ["lost", "done"], ["lost", "lost"], ["overtaken", "done"]]
)
async def test_an_append_whose_outcome_is_not_told_is_found_out(feed, ways):
    took, sent = [], []
    feed.own.took, feed.own.sent = took.append, lambda: sent.append(feed.own.number)
    feed.doubt(*ways)
    await feed.revoke("a")
    await feed.revoke("b")
    assert feed.refuses("a", "b") == [True, True]
    held = await feed.store.tail(NAME, 0)
    assert took == held
    assert feed.own.number == sent[-1] == len(held)
    assert sum("a" in str(entry.changes[0].key) for entry in held) == 1


async def test_of_two_at_once_one_is_not_taken_for_the_other(feed):
    feed.doubt("done", "overtaken")
    await asyncio.gather(feed.revoke("a"), feed.revoke("b"))
    assert feed.refuses("a", "b") == [True, True]
    assert feed.own.number == await feed.store.head(NAME) == 3


@pytest.mark.parametrize("cure", ["append", "after", "settle", "returned"])
async def test_what_was_done_though_nobody_knew_counts_when_the_feed_can_be_read_again(feed, cure):
    took = []
    feed.own.took = took.append
    store = feed.doubt("done", away=True)
    with pytest.raises(Unknown):
        await feed.revoke("a")
    assert feed.refuses("a") == [False]
    store.away, store._leaves = False, False
    if cure == "append":
        await feed.revoke("b")
    elif cure == "after":
        assert len(await feed.own.after(0)) == 1
    elif cure == "settle":
        await feed.own.settle()
    else:
        await feed.take(1)
        assert feed.own.pending() == 0
    assert feed.refuses("a") == [True]
    assert feed.own.number == len(took) == await feed.store.head(NAME)


async def test_what_arrives_after_everybody_has_looked_counts_as_well(feed):
    store = feed.doubt("late", "late", "late")
    with pytest.raises(Unknown):
        await feed.revoke("a")
    assert await store.held[0]()
    await feed.own.settle()
    assert feed.refuses("a") == [True]
    await feed.revoke("b")
    assert feed.own.number == 2


async def test_a_feed_whose_end_cannot_be_read_did_not_go_back(feed):
    store = feed.doubt("done", away=True)
    with pytest.raises(Unknown):
        await feed.revoke("a")
    await feed.take(1)  # a controller has read it, and we cannot
    with pytest.raises(Unavailable):
        await feed.revoke("b")
    store.away, store._leaves = False, False
    await feed.revoke("b")
    await feed.own.returned()
    assert feed.refuses("a", "b") == [True, True]
    assert feed.own.pending() == 1


@pytest.mark.parametrize("slow", ["append", "head"])
async def test_a_store_that_does_not_answer_is_not_waited_for(feed, monkeypatch, slow):
    monkeypatch.setattr(own_feed, "DEADLINE_S", 0.05)
    answers = asyncio.Event()

    class Slow(Doubtful):
        async def append(self, feed, after, entries):
            if slow == "append":
                await answers.wait()
            return await self._store.append(feed, after, entries)

        async def head(self, feed):
            await answers.wait()
            return await self._store.head(feed)

    feed.own._store = Slow(feed.store)
    feed.own._unsure = slow == "head"
    async with asyncio.timeout(1):
        first, second = await asyncio.gather(feed.revoke("a"), feed.revoke("b"), return_exceptions=True)
    assert isinstance(first, Unknown) == (slow == "append")
    assert isinstance(second, Unavailable)
    assert not isinstance(second, Unknown)
    assert second.retry_after_s
    answers.set()
    monkeypatch.undo()
    await feed.revoke("c")
    assert feed.refuses("a", "b", "c") == [slow == "append", False, True]
    assert feed.own.number == await feed.store.head(NAME)


async def test_many_revocations_are_split_and_one_that_is_too_large_is_refused(feed):
    await feed.own.revoke([event(f"e{number}", 1, audit_id=f"e{number}") for number in range(250)])
    assert feed.own.number == 3
    with pytest.raises(TooLarge):
        await feed.own.revoke([event("x" * 300_000, 1)])


async def test_revocations_are_split_by_size_and_one_that_never_fits_keeps_back_none_of_the_others(feed):
    events = [event(f"e{number}", 1, audit_id=f"e{number}", project_id="p" * 9000) for number in range(100)]
    events[37] = event("never", 1, audit_id="never", project_id="p" * own_feed.ENTRY_BYTES)
    with pytest.raises(TooLarge):
        await feed.own.revoke(events)
    entries = await feed.store.tail(NAME, 0)
    written = [change.key[0] for entry in entries for change in entry.changes]
    assert written == [one.id for one in events if one.id != "never"]
    assert 4 <= len(entries) <= 16


async def test_what_was_forgotten_is_found_for_any_feed(tmp_path):
    store = await Sqlite.open(tmp_path / "feed.db")
    for upto in range(7):
        feed = f"RegionOne/{upto}"
        await store.append(feed, 0, [Entry(number, f"t{number}", 0, ()) for number in range(1, 7)])
        await store.prune(feed, upto)
        assert await pruned(store, feed) == upto
    assert await pruned(store, "none") == 0
    await store.close()


def test_a_portion_fits_into_a_message_and_is_never_empty():
    entries = [Entry(number, "x" * 100, 0, ()) for number in range(10)]
    assert len(portion(entries, 4, 10**6)) == 4
    assert len(portion(entries, 10, 350)) == 3
    assert len(portion(entries, 10, 1)) == 1
    assert portion([], 10, 10) == ()
