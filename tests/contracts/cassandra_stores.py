"""Stores in a keyspace of the session's cluster: its tables are made once, and emptied of what a test has written."""

import asyncio
import re
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from regional_keystone.adapters import cassandra_schema as schema
from regional_keystone.adapters.cassandra import Cassandra, CassandraReplica
from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.local import SystemClock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.record import TABLES
from regional_keystone.settings import Cassandra as Section

SITE, PEER = "RegionOne", "RegionTwo"
ENOUGH = 5  # examples of a property: each empties tables on three nodes


@asynccontextmanager
async def scratch():
    with tempfile.TemporaryDirectory() as folder:
        store = await Sqlite.open(Path(folder) / "scratch.db")
        try:
            yield store
        finally:
            await store.close()


class Noting:
    """A driver that notes which tables it is asked to change."""

    def __init__(self, driver, changed):
        self._driver = driver
        self._changed = changed

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def run(self, cql, values=(), **named):
        self._note([(cql, values)])
        return await self._driver.run(cql, values, **named)

    async def change(self, statements, **named):
        statements = list(statements)
        self._note(statements)
        return await self._driver.change(statements, **named)

    async def decide(self, statements, **named):
        self._note(statements)
        return await self._driver.decide(statements, **named)

    def _note(self, statements):
        for cql, _ in statements:
            self._changed.update(re.findall(r'(?:UPDATE|INSERT INTO|DELETE FROM) "?(\w+)"?', cql))


class Keyspace:
    """Every table of the model, in three data centres; made once a session."""

    def __init__(self, cluster, folder):
        self._cluster = cluster
        self.name = f"tests_{uuid4().hex[:12]}"
        self._password = folder / "password"
        self._password.write_text(cluster.password)
        self._password.chmod(0o600)
        self.changed = set()
        asyncio.run(self._make())

    def section(self, data_centre="dc1", **more):
        """Settings of a session in this data centre."""
        number = int(data_centre.removeprefix("dc")) - 1
        found = {
            "contact_points": (self._cluster.addresses[number],),
            "port": self._cluster.port,
            "local_data_centre": data_centre,
            "username": self._cluster.username,
            "password_file": self._password,
            "keyspace": self.name,
            "allow_unsafe": True,
        }
        return Section(**{**found, **more})

    @asynccontextmanager
    async def driver(self, data_centre="dc1", **more):
        driver = await Driver.open(self.section(data_centre, **more))
        try:
            yield Noting(driver, self.changed)
        finally:
            await driver.close()

    async def fit(self):
        """Let programs take it for one of theirs, and an empty one."""
        await self.empty()
        async with self.driver() as driver:
            say = f"INSERT INTO {schema.SCHEMA_VERSION} (part, version) VALUES (?, ?)"
            for part in ("version", "oldest"):
                await driver.run(say, (part, schema.VERSION), consistency="ALL")

    def text(self, data_centre="dc1"):
        """[cassandra] of a program's INI file."""
        section = self.section(data_centre)
        options = {
            "contact_points": section.contact_points[0],
            "port": section.port,
            "local_data_centre": section.local_data_centre,
            "username": section.username,
            "password_file": section.password_file,
            "keyspace": section.keyspace,
            "allow_unsafe": "true",
        }
        return "\n".join(["[cassandra]", *(f"{name} = {value}" for name, value in options.items()), ""])

    async def empty_all(self):
        """Empty what any process may have changed."""
        self.changed.update(schema.definitions(TABLES))
        await self.empty()

    async def empty(self):
        """Empty what was changed since the last time."""
        async with self.driver() as driver:
            for table in sorted(self.changed):
                if await driver.run(f'SELECT * FROM "{table}" LIMIT 1', consistency="ALL"):  # far cheaper
                    await driver.define(f'TRUNCATE "{table}"')
        self.changed.clear()

    @asynccontextmanager
    async def store(self, data_centre="dc1", wrap=lambda driver: driver, section=None, clock=None, **more):
        """A controller's store, with a session of its own in this data centre."""
        driver = Noting(await Driver.open(section or self.section(data_centre)), self.changed)
        store = await Cassandra.open(wrap(driver), clock=clock or SystemClock(), scratch=scratch, **more)
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def replica(self, data_centre="dc2", level="LOCAL_QUORUM", wrap=lambda driver: driver, site=SITE, **more):
        """The store of a site in this data centre."""
        driver = Noting(await Driver.open(self.section(data_centre)), self.changed)
        store = await CassandraReplica.open(
            wrap(driver), site=site, level=level, clock=SystemClock(), scratch=scratch, **more
        )
        try:
            yield store
        finally:
            await store.close()

    async def _make(self):
        places = {f"dc{number}": 1 for number in range(1, len(self._cluster.addresses) + 1)}
        driver = await Driver.open(self.section(), keyspace=False)
        await driver.define(schema.keyspace(self.name, places))
        await driver.agreed()
        await driver.close()
        driver = await Driver.open(self.section())
        own = (definition for site in (SITE, PEER) for definition in schema.site_definitions(site).values())
        for definition in (*schema.definitions(TABLES).values(), *own):
            await driver.define(definition)
        await driver.agreed(120)
        await driver.close()


class CassandraStores:
    """Opens stores, fresh ones and the same ones again."""

    def __init__(self, keyspace):
        self.keyspace = keyspace
        self._examples = 0

    def enough(self):
        """Whether a property has been tried often enough."""
        self._examples += 1
        return self._examples > ENOUGH

    @asynccontextmanager
    async def fresh(self):
        await self.keyspace.empty()
        async with self.again() as store:
            yield store

    @asynccontextmanager
    async def again(self):
        async with self.keyspace.store() as store:
            yield store
