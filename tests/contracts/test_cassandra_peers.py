"""What a site's data centre shows of other sites' feeds, each written in another one and by its own site alone."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from regional_keystone.errors import Unavailable
from regional_keystone.log import Entry, encode_entry, put
from regional_keystone.model import Site
from regional_keystone.own_feed import OwnFeed
from regional_keystone.panic import Panic, Wanted
from regional_keystone.peer_feeds import PeerFeeds
from regional_keystone.ports import Clock
from tests.cloud import event, eventually
from tests.contracts.cassandra_stores import PEER, SITE, CassandraStores
from tests.contracts.test_cassandra import Levels, entries
from tests.site.test_follow import Part, voided
from tests.site.test_holder import FIRST, record

FEED = f"{PEER}/inc"


@pytest.fixture
def stores(keyspace):
    return CassandraStores(keyspace)


class Real:
    """A real clock beside the part's, which stands still."""

    def __init__(self, clock: Clock):
        self.now = clock.now
        self.ticks = time.monotonic
        self.sleep = asyncio.sleep


@asynccontextmanager
async def both(keyspace, **more):
    """This site's store in dc2, and that of its peer in dc1."""
    async with (
        keyspace.replica("dc2", **more) as here,
        keyspace.replica("dc1", site=PEER) as there,
    ):
        yield here, there


@pytest.mark.parametrize("level", ["LOCAL_QUORUM", "LOCAL_ONE"])
async def test_a_site_reads_what_a_peer_wrote_in_its_own_data_centre_and_asks_nobody_else(stores, keyspace, level):
    levels = Levels()
    async with stores.fresh(), both(keyspace, level=level, wrap=levels.over) as (here, there):
        levels.asked.clear()  # what was asked at its opening
        assert await here.tail(FEED, 0) == []
        assert await there.append(FEED, 0, entries(1, 2))
        assert await there.append(FEED, 2, entries(3))

        async def arrived():
            return await here.tail(FEED, 0) == entries(1, 2, 3)

        await eventually(arrived)
        assert await here.tail(FEED, 1, 1) == entries(2)
        assert levels.asked_elsewhere() == set()
        assert await here.tail(FEED, 3) == []
        assert len(levels.asked) == 1, "looking in vain costs one question"
        await there.prune(FEED, 2)

        async def forgotten():
            return (await here.tail(FEED, 0), await here.tail(FEED, 2)) == ([], entries(3))

        await eventually(forgotten)
        for write in (here.append(FEED, 3, entries(4)), here.prune(FEED, 3)):
            with pytest.raises(ValueError, match="its own feed only"):
                await write


async def test_a_site_that_keeps_its_feed_elsewhere_is_unavailable_and_no_empty_feed(stores, keyspace):
    async with stores.fresh(), keyspace.replica() as here:
        with pytest.raises(Unavailable, match="own_Elsewhere"):
            await here.tail("Elsewhere/inc", 0)


async def test_a_hole_ends_what_is_read_and_the_others_are_asked_for_it(stores, keyspace):
    levels = Levels()
    async with stores.fresh(), both(keyspace, wrap=levels.over) as (here, there):
        insert = there._own._feeds.insert

        async def arrive(*numbers):
            for entry in entries(*numbers):
                values = (FEED, 0, entry.number, entry.id, entry.at, encode_entry(entry))
                await there._driver.run(insert, values, consistency="ALL")

        await arrive(1, 2, 4)
        levels.asked.clear()
        assert await here.tail(FEED, 0) == entries(1, 2)
        assert await here.tail(FEED, 2) == []
        assert levels.asked_elsewhere() == {"tail"}
        await arrive(3)
        assert await here.tail(FEED, 2) == entries(3, 4)


async def test_a_revocation_and_a_panic_at_one_site_count_at_another_that_shares_nothing_but_the_cluster(
    stores, keyspace, tmp_path
):
    """No controller and no stream anywhere: two sites, each with its data centre. 5 s are waited at most."""
    parts = [await Part().open(tmp_path / name) for name in (SITE, PEER)]
    here, there = (part.follower for part in parts)
    for part in parts:
        part.clock._now = record(FIRST).turned_at
        members = [Site(id=name, state="active", instance="inc") for name in (SITE, PEER)]
        part.follower.note([Entry(1, "t1", 1, tuple(map(put, (record(FIRST), *members))))])
        assert await part.follower.settled(1, 5.0)
    key, other = (FIRST.key_ids[number] for number in (1, 0))
    async with stores.fresh(), both(keyspace) as (store, peers_store):
        clock = Real(parts[0].clock)
        own = OwnFeed(FEED, store=peers_store, follower=there, clock=clock)
        await own.start()
        feeds = PeerFeeds(SITE, store=store, follower=here, clock=clock, keep_s=3600.0)
        await feeds.begin()
        running = asyncio.create_task(feeds.run())
        try:
            took = []
            for number in range(5):
                await own.revoke([event(f"a{number}", 10**6, audit_id=f"a{number}")])
                began = time.monotonic()
                await eventually(lambda name=f"a{number}": voided(here, audit_id=name))
                took.append(time.monotonic() - began)
            panic = Panic(follower=there, own=own, clock=clock, place=PEER, issued=dict)
            assert here.accepts_key(key)
            assert await panic.condemn(Wanted(key=key, why="a test"), "me") == [key]
            began = time.monotonic()
            await eventually(lambda: not here.accepts_key(key))
            took.append(time.monotonic() - began)
            assert here.accepts_key(other)
        finally:
            running.cancel()
            for part in parts:
                await part.close()
        print("counted at the other site after", ", ".join(f"{one * 1000:.0f} ms" for one in sorted(took)))
        assert [entry.number for entry in await store.tail(FEED, 0)] == [1, 2, 3, 4, 5, 6], "nothing is taken away"
