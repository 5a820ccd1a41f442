"""A site's own feed: effective at once, never lost, taken over exactly once."""

import asyncio

import pytest

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.log import Entry, Transaction, put, remove
from regional_keystone.model import Taken
from regional_keystone.own_feed import OwnFeed, portion, pruned
from tests.cloud import event, project
from tests.site.test_follow import Part, voided

NAME = "RegionOne/inc"


class Feed:
    """An own feed beside a replica."""

    async def open(self, path, replica="replica"):
        self.part = await Part().open(path / replica)
        self.store = await Sqlite.open(path / "own" / "inc.db")
        self.own = OwnFeed(NAME, store=self.store, follower=self.part.follower, clock=self.part.clock)
        await self.own.start()
        return self

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


async def test_two_processes_on_one_feed_are_told_so(feed):
    await feed.store.append(NAME, 0, [Entry(1, "other", 0, ())])
    with pytest.raises(Unavailable, match="another process"):
        await feed.revoke("a")


async def test_many_revocations_are_split_and_one_that_is_too_large_is_refused(feed):
    await feed.own.revoke([event(f"e{number}", 1, audit_id=f"e{number}") for number in range(250)])
    assert feed.own.number == 3
    with pytest.raises(TooLarge):
        await feed.own.revoke([event("x" * 300_000, 1)])


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
