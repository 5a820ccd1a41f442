"""Appends to a store in Cassandra and says each number once it is acknowledged: for being killed."""

import asyncio
import sys
from pathlib import Path

from regional_keystone import model
from regional_keystone.adapters.cassandra import Cassandra
from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.local import SystemClock
from regional_keystone.log import LOG, Entry, put
from regional_keystone.settings import Cassandra as Section
from tests.contracts.cassandra_stores import scratch


async def main(address, port, keyspace, username, password_file):
    section = Section(
        contact_points=(address,),
        port=int(port),
        keyspace=keyspace,
        username=username,
        password_file=Path(password_file),
        allow_unsafe=True,
    )
    store = await Cassandra.open(await Driver.open(section), clock=SystemClock(), scratch=scratch)
    head = await store.head(LOG)
    while True:
        new = [Entry(one, f"t{one}", 0, (put(model.Region(id=f"r{one:05}")),)) for one in range(head + 1, head + 4)]
        assert await store.append(LOG, head, new)
        head += 3
        print(head, flush=True)
        await store.apply(new)


asyncio.run(main(*sys.argv[1:]))
