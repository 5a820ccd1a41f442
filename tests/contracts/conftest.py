"""The adapters that each contract is held against; another one is another line here."""

from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from regional_keystone.adapters.local import LocalLock, SystemClock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.adapters.zookeeper import ZooKeeper
from tests.contracts.cassandra_stores import CassandraStores


class SqliteStores:
    """Opens stores, fresh ones and the same ones again."""

    def __init__(self, folder):
        self._folder = folder
        self._made = 0

    def enough(self):
        """Whether a property has been tried often enough."""
        return False

    @asynccontextmanager
    async def fresh(self):
        self._made += 1
        async with self.again() as store:
            yield store

    @asynccontextmanager
    async def again(self):
        store = await Sqlite.open(self._folder / f"{self._made}.db")
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["sqlite", "cassandra"])
def stores(request, tmp_path):
    if request.param == "sqlite":
        return SqliteStores(tmp_path)
    return CassandraStores(request.getfixturevalue("keyspace"))


@pytest.fixture(params=["local", "zookeeper"])
async def lock(request):
    if request.param == "local":
        yield LocalLock()
        return
    servers = request.getfixturevalue("zookeeper")
    made = await ZooKeeper.open(
        servers.hosts, path=f"/lock-{uuid4().hex}", name="one", clock=SystemClock(), session_timeout_s=4.0
    )
    yield made
    await made.close()
