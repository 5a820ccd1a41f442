"""Appends to a store, one entry after another, and says each number once it is acknowledged: for being killed."""

import asyncio
import sys

from regional_keystone import model
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.log import LOG, Entry, put


async def main(path):
    store = await Sqlite.open(path)
    head = await store.head(LOG)
    while True:
        entry = Entry(head + 1, f"t{head + 1}", 0, (put(model.Region(id=f"r{head + 1}", description="x" * 2000)),))
        assert await store.append(LOG, head, [entry])
        print(head + 1, flush=True)
        await store.apply([entry])
        head += 1
        if head % 50 == 0:
            await store.prune(LOG, head - 20)


asyncio.run(main(sys.argv[1]))
