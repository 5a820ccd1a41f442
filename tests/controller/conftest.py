"""The keyspaces: of tests that move whole stores or run a controller on one, and of those of the schema itself."""

import asyncio

import pytest

from controller import db
from regional_keystone import backends
from tests.clusters import section_of

KEYSPACE = "db_tests"


@pytest.fixture
async def empty(keyspace):
    """The keyspace, empty and fit for programs, and empty again afterwards, whichever process has written to it."""
    await keyspace.fit()
    yield keyspace
    await keyspace.empty_all()


@pytest.fixture
def section_text(empty):
    """[cassandra] of a program's INI file."""
    return empty.text()


@pytest.fixture(scope="session")
def synced_cluster(cassandra_cluster, tmp_path_factory):
    """With the schema made by two at once, from two data centres; `synced` is what each of them did."""
    folder = tmp_path_factory.mktemp("sync")

    async def sync(data_centre):
        section = section_of(cassandra_cluster, folder, data_centre, keyspace=KEYSPACE)
        async with db.database(section, backends.system_clock(), lambda _: None, make=True) as opened:
            return await opened.sync()

    async def both():
        return await asyncio.gather(sync("dc1"), sync("dc2"))

    cassandra_cluster.synced = asyncio.run(both())
    return cassandra_cluster
