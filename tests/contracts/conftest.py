"""The adapters that each contract is held against; another one is another line here."""

from contextlib import asynccontextmanager

import pytest

from regional_keystone.adapters.local import LocalCache, LocalLock
from regional_keystone.adapters.sqlite import Sqlite
from tests.stand_ins import ManualClock


class SqliteStores:
    """Opens stores, fresh ones and the same ones again."""

    def __init__(self, folder):
        self._folder = folder
        self._made = 0

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


@pytest.fixture(params=[SqliteStores])
def stores(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=[LocalCache])
def cache(request, clock):
    return request.param(clock)


@pytest.fixture(params=[LocalLock])
def lock(request):
    return request.param()
