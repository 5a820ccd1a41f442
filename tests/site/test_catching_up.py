"""What a place has missed is taken up a few entries at a time, and whoever asks meanwhile is answered in between."""

import asyncio

import pytest

from regional_keystone import catching_up
from regional_keystone.adapters.local import SystemClock
from regional_keystone.catching_up import AT_ONCE, take_up
from regional_keystone.log import Entry, put
from tests.cloud import project, running


async def test_others_are_served_between_a_few_entries_and_the_next():
    noted, served = [], []

    async def asking():
        while True:
            served.append(sum(map(len, noted)))
            await asyncio.sleep(0)

    asker = asyncio.create_task(asking())
    await take_up(noted.append, list(range(10 * AT_ONCE + 1)), SystemClock())
    asker.cancel()
    assert [len(one) for one in noted] == [AT_ONCE] * 10 + [1]
    assert [number for one in noted for number in one] == list(range(10 * AT_ONCE + 1))
    assert set(range(AT_ONCE, 10 * AT_ONCE + 1, AT_ONCE)) <= set(served), "between each two"


async def test_that_there_is_nothing_new_is_noted_as_well():
    noted = []
    await take_up(noted.append, [], SystemClock())
    assert noted == [[]]


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, names=("RegionOne",)) as made:
        yield made


async def test_two_that_bring_the_same_entries_do_not_get_into_each_others_way(cloud):
    """A site on a data centre's log has them of its stream as well."""
    site, head = cloud.sites["RegionOne"], cloud.controller.sequencer.head
    await site.settled(head)
    entries = [Entry(head + 1 + place, f"e{place}", 1, (put(project(f"p{place}")),)) for place in range(5 * AT_ONCE)]
    parts = (entries, entries[AT_ONCE // 2 :], entries[: 3 * AT_ONCE])
    await asyncio.gather(*(take_up(site.follower.note, part, SystemClock()) for part in (parts[0], parts[2])))
    assert site.follower.position == head + len(entries)
    await take_up(site.follower.note, parts[1], SystemClock())
    assert site.follower.position == head + len(entries)


async def test_a_stream_brings_what_was_missed_a_few_at_a_time(cloud, monkeypatch):
    site, controller, sizes = cloud.sites["RegionOne"], cloud.controller, []
    taken_up = catching_up.take_up

    async def watched(note, entries, clock):
        def counted(some):
            sizes.append(len(some))
            note(some)

        await taken_up(counted, entries, clock)

    monkeypatch.setattr("regional_keystone.link.take_up", watched)
    await site.stop()
    for number in range(3 * AT_ONCE):
        await controller.write(project(f"missed{number}"))
    await site.start()
    await site.settled(controller.sequencer.head)
    assert sum(sizes) >= 3 * AT_ONCE
    assert max(sizes) <= AT_ONCE
