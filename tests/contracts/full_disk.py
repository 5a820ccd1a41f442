"""Fills the disk under a store until it is refused, makes room, and sees that nothing is half written and all goes on."""

import asyncio
import os
import resource
import sys
from pathlib import Path

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, Entry, put
from regional_keystone.model import Region


def fill(path, way):
    if way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    else:
        path.with_name("ballast").write_bytes(b"x" * 3_000_000)


def make_room(path, way):
    if way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        path.with_name("ballast").unlink()


async def rows_for_ever(count):
    for one in range(count):
        yield "regions", (f"z{one:06}",), put(Region(id=f"z{one:06}", description="z" * 2000)).row


async def main(path, way):
    store = await Sqlite.open(path)
    fill(path, way)
    head = await store.head(LOG)
    refused = 0
    while refused < 3:
        entries = [
            Entry(one, f"t{one}", 0, (put(Region(id=f"r{one:06}", description="x" * 3000)),))
            for one in range(head + 1, head + 21)
        ]
        try:
            if await store.append(LOG, head, entries):
                head += 20
                await store.apply(await store.tail(LOG, await store.applied(LOG)))
        except Unavailable:
            refused += 1
            applied = await store.applied(LOG)
            assert await store.head(LOG) == head
            assert len([row async for row in store.scan(Region)]) == applied
            assert applied <= head
            if refused == 2:
                try:
                    await store.restore(10_000, rows_for_ever(20_000))
                except Unavailable:
                    assert await store.applied(LOG) == applied
                    assert not path.with_name(f"{path.name}.restoring").exists()
                else:
                    raise AssertionError("room for a restore on a full disk")
    make_room(path, way)
    await store.apply(await store.tail(LOG, await store.applied(LOG)))
    assert await store.append(LOG, head, [Entry(head + 1, "last", 0, (put(Region(id="last")),))])
    await store.apply(await store.tail(LOG, head))
    await store.close()
    store = await Sqlite.open(path)
    assert await store.applied(LOG) == await store.head(LOG) == head + 1
    assert [entry.number for entry in await store.tail(LOG, 0, 100_000)] == list(range(1, head + 2))
    assert len([row async for row in store.scan(Region)]) == head + 1
    await store.close()
    print("well", os.getpid())


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
