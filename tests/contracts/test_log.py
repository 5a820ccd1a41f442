"""What every store promises of its feeds."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.log import LOG, Entry, put
from regional_keystone.model import Region


def entries(*numbers, by="t"):
    return [Entry(one, f"{by}{one}", one, (put(Region(id=f"{by}{one}")),)) for one in numbers]


async def test_only_one_of_those_who_append_at_the_same_place_wins(stores):
    async with stores.fresh() as store:
        mine = {}

        async def write(who):
            written = 0
            while written < 8:
                head = await store.head(LOG)
                batch = entries(head + 1, head + 2, by=who)
                if await store.append(LOG, head, batch):
                    mine.update({(who, entry.number): entry for entry in batch})
                    written += 1

        await asyncio.gather(*(write(who) for who in "abcdef"))
        found = await store.tail(LOG, 0)
        assert [entry.number for entry in found] == list(range(1, 97))
        assert sorted(found, key=lambda entry: entry.number) == sorted(mine.values(), key=lambda entry: entry.number)
        assert await store.head(LOG) == 96


async def test_an_append_is_whole_or_not_at_all(stores):
    async with stores.fresh() as store:
        assert await store.append(LOG, 0, entries(1, 2))
        assert not await store.append(LOG, 1, entries(2, 3))
        assert not await store.append(LOG, 3, entries(4))
        for wrong in (entries(4), entries(3, 5), entries(3, 3)):
            with pytest.raises(ValueError, match="do not follow 2"):
                await store.append(LOG, 2, wrong)
        assert await store.tail(LOG, 0) == entries(1, 2)
        assert await store.append(LOG, 2, [])
        assert not await store.append(LOG, 1, [])


async def test_feeds_do_not_know_of_each_other_and_stay(stores):
    async with stores.fresh() as store:
        assert await store.append(LOG, 0, entries(1))
        assert await store.append("RegionOne/x", 0, entries(1, 2, by="own"))
    async with stores.again() as store:
        assert await store.tail("RegionOne/x", 1) == entries(2, by="own")
        assert (await store.head("RegionOne/x"), await store.head(LOG), await store.head("other")) == (2, 1, 0)
        assert await store.applied("RegionOne/x") == 0


async def test_a_tail_has_no_gaps_and_a_limit(stores):
    async with stores.fresh() as store:
        await store.append(LOG, 0, entries(*range(1, 31)))
        assert await store.tail(LOG, 10, 5) == entries(*range(11, 16))
        assert await store.tail(LOG, 30) == []


async def test_numbers_go_on_after_pruning(stores):
    async with stores.fresh() as store:
        await store.append("own", 0, entries(1, 2, 3))
        await store.prune("own", 2)
        assert await store.tail("own", 0) == []
        assert await store.tail("own", 2) == entries(3)
        await store.prune("own", 100)
    async with stores.again() as store:
        assert await store.head("own") == 3
        assert not await store.append("own", 0, entries(1))
        assert await store.append("own", 3, entries(4))


async def test_the_log_keeps_what_is_not_in_the_tables(stores):
    async with stores.fresh() as store:
        await store.append(LOG, 0, entries(1, 2, 3))
        await store.apply(entries(1))
        await store.prune(LOG, 3)
        assert await store.tail(LOG, 1) == entries(2, 3)


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "store.db"
    acknowledged = 0
    for round_ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contracts.writes", path], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged % (37 + round_) == 0:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read().split()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        acknowledged = int(rest[-1]) if rest else acknowledged
        store = await Sqlite.open(path)
        head = await store.head(LOG)
        assert acknowledged <= head <= acknowledged + 1
        applied = await store.applied(LOG)
        assert applied in {head - 1, head}
        await store.apply(await store.tail(LOG, applied))
        assert [row async for row in store.scan(Region)] == sorted(
            (Region(id=f"r{one}", description="x" * 2000) for one in range(1, head + 1)), key=lambda row: row.id
        )
        await store.close()
