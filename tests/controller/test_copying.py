"""Copying a store: nothing is lost, a second run goes on, and what is no copy is refused."""

import pytest

from controller.copying import copy
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import StoreRefused
from regional_keystone.log import LOG, Entry, put, remove
from regional_keystone.model import Region


def entry(number, *changes, by="t"):
    return Entry(number, f"{by}{number}", number, changes or (put(Region(id=f"r{number:04}")),))


async def write(store, count, by="t"):
    head = await store.head(LOG)
    entries = [entry(number, by=by) for number in range(head + 1, head + count + 1)]
    assert await store.append(LOG, head, entries)
    await store.apply(entries)


async def regions(store):
    return [row.id async for row in store.scan(Region)]


@pytest.fixture
async def stores(tmp_path):
    opened = [await Sqlite.open(tmp_path / name) for name in ("a.db", "b.db")]
    yield opened
    for store in opened:
        await store.close()


def nothing(text):
    assert text


async def test_there_and_on_and_back(stores, tmp_path):
    source, target = stores
    await write(source, 1203)
    head = await source.head(LOG)
    gone = entry(head + 1, remove(Region(id="r0007")))
    assert await source.append(LOG, head, [gone])
    await source.apply([gone])
    await source.prune(LOG, 1000)
    first = await copy(source, target, nothing)
    assert (first.position, first.rows, first.entries) == (1204, 1202, 0)
    assert await regions(target) == await regions(source)
    await write(source, 250)
    second = await copy(source, target, nothing)
    assert (second.position, second.rows, second.entries) == (1454, 0, 250)
    assert [one.id for one in await target.tail(LOG, 1204)] == [one.id for one in await source.tail(LOG, 1204)]
    assert (await copy(source, target, nothing)).entries == 0
    await write(target, 3)
    back = await copy(target, source, nothing)
    assert (back.position, back.rows, back.entries) == (1457, 0, 3)


async def test_a_target_that_lags_behind_the_log_of_the_source_gets_a_snapshot(stores):
    source, target = stores
    await write(source, 5)
    await copy(source, target, nothing)
    await write(source, 5)
    await source.prune(LOG, 8)
    assert (await copy(source, target, nothing)).rows == 10


async def test_entries_that_a_crash_left_unapplied_are_finished(stores):
    source, target = stores
    await write(source, 5)
    await copy(source, target, nothing)
    await write(source, 2)
    assert await target.append(LOG, 5, await source.tail(LOG, 5))
    assert (await copy(source, target, nothing)).position == 7
    assert await regions(target) == await regions(source)


async def test_what_is_no_copy_is_refused_and_stays(stores):
    source, target = stores
    await write(source, 3)
    await write(target, 3, by="other")
    before = await regions(target)
    with pytest.raises(StoreRefused, match="two federations"):
        await copy(source, target, nothing)
    await write(target, 1, by="other")
    with pytest.raises(StoreRefused, match="beyond the source"):
        await copy(source, target, nothing)
    assert (await regions(target))[:3] == before


async def test_a_difference_is_found(stores):
    source, target = stores
    await write(source, 3)
    await copy(source, target, nothing)
    await write(source, 1)
    assert await target.append(LOG, 3, [entry(4, put(Region(id="forged")), by="t")])
    await target.apply([entry(4, put(Region(id="forged")), by="t")])
    with pytest.raises(StoreRefused, match="the stores differ"):
        await copy(source, target, nothing)
