"""The adapters that each contract is held against; another one is another line here."""

from contextlib import asynccontextmanager

import pytest

from regional_keystone.adapters.local import LocalLock
from regional_keystone.adapters.sqlite import Sqlite


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


@pytest.fixture(params=[LocalLock])
def lock(request):
    return request.param()
