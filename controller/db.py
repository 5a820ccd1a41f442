"""Schema and roles in a Cassandra cluster: made, extended and compared; nothing is ever dropped.

Whoever changes the schema holds a lease in the cluster, since two tables made at once under one name would be two.
Source: docs/operate.md
"""

import os
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from controller import schema
from controller.db_roles import CONTROLLER, MIGRATION, Roles, check_name, site_role
from controller.schema import Column, Difference
from regional_keystone import backends, durable, secret_file, settings
from regional_keystone.errors import StoreRefused, Unavailable, Unknown
from regional_keystone.ports import Clock
from regional_keystone.settings import Cassandra, Settings

if TYPE_CHECKING:
    from regional_keystone.backends import CassandraDriver

Tell = Callable[[str], None]
"""Tells what is being done."""

_OWN = "own_"  # begins the tables of sites' own feeds
_OF_SITES = (_OWN, "ack_")  # tables that one site alone writes
_EMPTY, _BEGUN = "empty", "begun"  # tables that lack rows: nobody has filled them, somebody has begun to
_LEASE_S, _LEASE_WAIT_S = 60, 120.0
_SAY_S = 15.0  # how long a definition that fails is repeated; far below the lease
_COLUMNS = "SELECT table_name, column_name, type, kind, position FROM system_schema.columns WHERE keyspace_name = ?"


class Found(NamedTuple):
    """The schema of a cluster beside the one of this version, which may be older or newer."""

    version: int | None
    oldest: int | None
    expected: int
    differences: list[Difference]
    leftovers: list[Difference]
    unfilled: Mapping[str, str] = {}  # records that new tables lack: whether it was begun to fill them
    fills: Sequence[str] = ()  # records of which new tables are to be filled: who writes must know those
    unknown: Sequence[str] = ()  # tables of rows that every writer keeps, and this version does not know

    @property
    def is_current(self) -> bool:
        """Whether this version can work with it."""
        known = self.version is not None and self.version >= self.expected >= (self.oldest or 0)
        return known and not self.differences and not self.fills


class Synced(NamedTuple):
    """The version that is there now, and what was done for it."""

    version: int
    made: list[str]


class Removed(NamedTuple):
    """The role of a site that may do nothing any more, its feed's table, and entries there that the log has not."""

    role: str
    own_table: str
    untaken: int


class Database:
    """One keyspace, through the role that is configured. `database` opens it."""

    def __init__(self, driver: "CassandraDriver", section: Cassandra, clock: Clock, tell: Tell) -> None:
        self.driver = driver
        self.keyspace = section.keyspace
        self._section = section
        self._clock = clock
        self._tell = tell
        self._schema = backends.cassandra_schema()
        self._roles = Roles(driver, section.keyspace, section.username, self._say, tell)
        self._wanted = [schema.table(cql) for cql in self._schema.tables.values()]

    async def find(self) -> Found:
        """What is there. Raises Unavailable."""
        live = await self._live()
        shared = {name: one for name, one in live.items() if not name.startswith(_OF_SITES)}
        there, unfilled, kept = await self._standing() if self._schema.state in live else ({}, {}, None)
        differences, records = schema.differences(self._wanted, live), self._schema.records
        missing = schema.unfilled(differences, live, records) if there else []  # else nobody can have written
        lapsed = [] if kept is None else [records[one] for one in records if one in live and one not in kept]
        for name in lapsed:  # somebody who did not know it has written since
            unfilled.setdefault(name, _BEGUN)
        return Found(
            there.get("version"),
            there.get("oldest"),
            self._schema.version,
            differences,
            schema.leftovers(self._wanted, shared),
            unfilled,
            sorted({*missing, *unfilled}),
            sorted(kept - records.keys()) if kept else (),
        )

    async def misplaced(self) -> str:
        """What to do where the keyspace has other replicas than the setting says, or nothing."""
        found = await backends.cassandra_misplaced(self.driver, self._section)
        return f"{found.detail}: {found.cure}" if found else ""

    async def sync(self, *, back: bool = False) -> Synced:
        """Make what is missing. Raises StoreRefused for a newer schema, or for what only losing data could mend.

        With `back`, what only a newer version keeps is given up, until its own sync fills it again.
        """
        made: list[str] = []
        await self._make_state(made)
        async with self._lease() as renew:
            found = await self.find()
            self._refuse(found, back=back)
            if found.fills:
                self._tell(f"controllers of an older version must have ended: {', '.join(found.fills)} get new tables")
            unfilled = await self._mark(found)
            await self._keep()  # from here on none starts that does not know them
            made += await self._define(found.differences, renew)
            made += [await self._fill(name, state, renew) for name, state in unfilled.items()]
            if found.version is None or found.version < self._schema.version:
                await self._record()
                made.append(f"version {found.version or 0} becomes {self._schema.version}")
        fresh = [one.table for one in found.differences if one.table in self._schema.tables]
        feeds = [name for name in await self._live() if name.startswith(_OWN)]  # an older version did not share them
        with suppress(StoreRefused):  # there are no roles, or somebody else grants
            await self._roles.shared([*fresh, *feeds])
        await self._roles.keep_no_drops()
        return Synced(self._schema.version, made)

    async def add_controller(self, password: str, role: str = CONTROLLER) -> None:
        """The role that appends and projects: reads and writes everything of ours, and defines nothing."""
        await self._roles.controller(role, password)

    async def add_migration(self, password: str, role: str = MIGRATION) -> None:
        """The role that changes schema and roles, and drops neither. For a superuser to make."""
        await self._roles.migration(role, password)

    async def add_site(self, name: str, password: str) -> str:
        """Tables and role of a site: reads what is shared, writes its own feed, for all to read, and its marks.

        Safe to repeat.
        """
        check_name(site_role(name))
        await self._roles.sites(self._schema.tables)
        live = await self._live()
        wanted = [schema.table(cql) for cql in self._schema.site_tables(name).values()]
        if missing := schema.differences(wanted, live):
            async with self._lease() as renew:
                await self._define(missing, renew)
        role = await self._roles.site(name, password, [one.name for one in wanted])
        await self._roles.shared([self._schema.own_table(name)])
        await self._roles.keep_no_drops()
        return role

    async def remove_site(self, name: str) -> Removed:
        """End what a site's role may do; its tables stay, with what the log has not taken over. Safe to repeat."""
        tables = self._schema.site_tables(name)
        live = await self._live()
        role = await self._roles.lock_site(name, [one for one in tables if one in live])
        own = next(iter(tables))
        untaken = await backends.cassandra_untaken(self.driver, self._clock, name) if own in live else 0
        return Removed(role, own, untaken)

    async def forget(self, name: str) -> int:
        """Forget how far this site's data centre was complete, and return it. Raises StoreRefused, Unavailable."""
        if self._schema.ack_table(name) not in await self._live():
            raise StoreRefused(f"{name} has no tables in keyspace {self.keyspace}; `rkctl region list` shows the names")
        return await backends.forget_cassandra(self.driver, name)

    async def _make_state(self, made: list[str]) -> None:
        """The table of the lease, which cannot be made under the lease."""
        state = self._schema.state
        if state not in await self._live():
            made.append(f"{state} is missing")
        # One id wherever it is made: made in two places at once it is still one table. And said in any case: it may be
        # on its way to our node, which answers this only when it knows the table.
        identity = uuid.uuid5(uuid.NAMESPACE_OID, self.keyspace)
        await self._say(f"{self._schema.tables[state]} AND id = {identity}")
        await self.driver.agreed()

    async def _define(self, differences: Iterable[Difference], renew: Callable[[], Awaitable[None]]) -> list[str]:
        made, steps = [], list(differences)
        for place, one in enumerate(steps, 1):
            self._tell(f"{place} of {len(steps)}: {one.table} {one.what}")
            await renew()
            await self._say(one.cql)
            made.append(f"{one.table} {one.what}")
        if made:
            self._tell("waiting until all nodes have the schema")
            await self.driver.agreed()
        return made

    async def _mark(self, found: Found) -> dict[str, str]:
        """Remember, before there are new tables, which records they lack: whoever comes after us fills them."""
        wanted = {name: found.unfilled.get(name, _EMPTY) for name in found.fills}
        for name, state in wanted.items():
            await self._note(name, state)
        return wanted

    async def _fill(self, name: str, state: str, renew: Callable[[], Awaitable[None]]) -> str:
        """Raises Unavailable, to be repeated, if somebody who does not know the new tables wrote meanwhile."""

        async def tell(count: int) -> None:
            self._tell(f"filling new tables of {name}: {count} rows")
            await renew()

        await self._note(name, _BEGUN)
        settle = state == _BEGUN
        count, still = await backends.fill_cassandra(self.driver, self._clock, name, tell, settle=settle)
        if not still:
            raise Unavailable(f"A controller changed something while {name} was filled; end all and run it again.")
        await self._note(name, None)
        return f"{name}: {count} rows are in new tables"

    async def _note(self, name: str, state: str | None) -> None:
        insert = f"INSERT INTO {self._schema.state} (part, state, at) VALUES (?, ?, ?)"  # noqa: S608  a name of ours
        row = (self._schema.unfilled + name, state, self._clock.now())
        await self.driver.change([(insert, row)], consistency="QUORUM")

    async def _keep(self) -> None:
        """Say which tables of rows every writer has to keep; who lacks one of them does not start."""
        insert = f"INSERT INTO {self._schema.state} (part, state, at) VALUES (?, ?, ?)"  # noqa: S608  a name of ours
        row = (self._schema.copies, " ".join(sorted(self._schema.records)), self._clock.now())
        await self.driver.change([(insert, row)], consistency="QUORUM")

    async def _say(self, cql: str) -> None:
        """A definition, which is safe to repeat: roles need a quorum in each data centre, and a busy one misses it."""
        until = self._clock.ticks() + _SAY_S
        while True:
            try:
                return await self.driver.define(cql)
            except Unavailable as error:
                if self._clock.ticks() > until:
                    raise
                self._tell(f"once more: {error.message}")
            await self._clock.sleep(0.5)

    async def _live(self) -> dict[str, dict[str, Column]]:
        tables: dict[str, dict[str, Column]] = {}
        for table, name, type_, kind, place in await self.driver.run(_COLUMNS, (self.keyspace,), consistency="ONE"):
            tables.setdefault(table, {})[name] = Column(type_, kind, place)
        return tables

    async def _standing(self) -> tuple[dict[str, int], dict[str, str], set[str] | None]:
        """The versions that are recorded, which records new tables lack, and the tables that every writer keeps."""
        cql = f"SELECT part, version, state FROM {self._schema.state}"  # noqa: S608  a name of ours
        rows = await self.driver.run(cql, consistency="QUORUM")
        versions = {part: version for part, version, _ in rows if version is not None}
        mark = self._schema.unfilled
        unfilled = {part.removeprefix(mark): state for part, _, state in rows if state and part.startswith(mark)}
        kept = next((set(state.split()) for part, _, state in rows if part == self._schema.copies and state), None)
        return versions, unfilled, kept

    async def _record(self) -> None:
        insert = f"INSERT INTO {self._schema.state} (part, version, at) VALUES (?, ?, ?)"  # noqa: S608  a name of ours
        rows = {"version": self._schema.version, "oldest": self._schema.oldest}
        now = self._clock.now()
        await self.driver.change([(insert, (part, number, now)) for part, number in rows.items()], consistency="QUORUM")

    def _refuse(self, found: Found, *, back: bool) -> None:
        if found.version is not None and found.version > found.expected:
            raise StoreRefused(
                f"keyspace {self.keyspace} has schema {found.version}, this program knows {found.expected}:"
                " nothing was changed; use the newer program"
            )
        if found.unknown and not back:
            raise StoreRefused(
                f"keyspace {self.keyspace} keeps {', '.join(found.unknown)}, which this program does not know:"
                " nothing was changed; use the newer program, or `--back` once all controllers have ended"
            )
        if stuck := [f"{one.table} {one.what}" for one in found.differences if not one.cql]:
            raise StoreRefused(
                f"keyspace {self.keyspace}: {'; '.join(stuck)}: nothing was changed;"
                " copy the data into a new keyspace with `rkctl store copy`"
            )

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Be the only one who changes the schema; what is yielded renews it and raises Unavailable when it is lost."""
        mine = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        until = self._clock.ticks() + _LEASE_WAIT_S
        while other := await self._take(mine, None):
            if self._clock.ticks() > until:
                raise Unavailable(f"{other} changes the schema; its lease ends {_LEASE_S} s after it does.")
            self._tell(f"waiting for {other}, who changes the schema")
            await self._clock.sleep(1.0)
        taken = self._clock.ticks()

        async def renew() -> None:
            nonlocal taken
            if self._clock.ticks() - taken > _LEASE_S / 4:
                if other := await self._take(mine, mine):
                    raise Unavailable(f"{other} took over while this was slow; run it again.")
                taken = self._clock.ticks()

        try:
            await self.driver.agreed()  # also about what a holder that died has left
            yield renew
        finally:
            with suppress(Unavailable):
                await self._take(None, mine)

    async def _take(self, holder: str | None, before: str | None) -> str:
        """Who has the lease instead; empty when this has succeeded."""
        table = self._schema.state
        cql = f"UPDATE {table} USING TTL {_LEASE_S} SET state = ? WHERE part = ? IF state = ?"  # noqa: S608  a name of ours
        with suppress(Unknown):
            applied, rows = await self.driver.decide([(cql, (holder, "lease", before))])
            now = rows[0].get("state") if rows else None
            return "" if applied or now == holder else str(now)
        return "somebody"  # or we ourselves: the next try shows


@asynccontextmanager
async def database(section: Cassandra, clock: Clock, tell: Tell, *, make: bool = False) -> AsyncIterator[Database]:
    """The keyspace that is configured; with `make` it is made if it is not there. Raises StoreRefused, Unavailable."""
    if make:
        driver = await backends.cassandra_driver(section, keyspace=False)
        try:
            await _make_keyspace(driver, section, tell)
        finally:
            await driver.close()
    driver = await _opened(section, clock, _SAY_S if make else 0.0)
    try:
        yield Database(driver, section, clock, tell)
    finally:
        await driver.close()


async def _opened(section: Cassandra, clock: Clock, patience_s: float) -> "CassandraDriver":
    """A session in the keyspace; one that was made a moment ago, in two places at once, may not be known everywhere."""
    until = clock.ticks() + patience_s
    while True:
        try:
            return await backends.cassandra_driver(section)
        except Unavailable:
            if clock.ticks() >= until:
                raise
        await clock.sleep(0.5)


async def prepare(
    options: Mapping[str, object], *, controller: tuple[str, str], sites: Mapping[str, str], tell: Tell
) -> None:
    """All that a federation needs in a cluster: keyspace, schema, the controllers' role, each site's tables and role.

    `options` are those of [cassandra] with a role that may do all this; `controller` is a role and its password,
    `sites` a password for each site's name. Safe to repeat.
    """
    sets = [f"cassandra.{name}={value}" for name, value in options.items()]
    section = settings.load(Settings, None, sets, {}).cassandra
    async with database(section, backends.system_clock(), tell, make=True) as opened:
        await opened.sync()
        await opened.add_controller(controller[1], controller[0])
        for name, password in sites.items():
            await opened.add_site(name, password)


async def status(opened: Database) -> dict[str, Any]:
    """Nodes, replicas, versions and differences, as plain values."""
    found = await opened.find()
    return {
        "keyspace": opened.keyspace,
        "replication": await backends.cassandra_replicas(opened.driver, opened.keyspace),
        "nodes": [node._asdict() for node in opened.driver.nodes()],
        "version": found.version,
        "oldest": found.oldest,
        "expected": found.expected,
        "differences": [one._asdict() for one in found.differences],
        "leftovers": [one._asdict() for one in found.leftovers],
        "unfilled": list(found.unfilled),
    }


def password(path: Path) -> str:
    """The password in this file, mode 0600; one is made up and written when it is not there. Raises StoreRefused."""
    durable.keep(path, lambda: secrets.token_urlsafe(24).encode())
    text = secret_file.read(path, "password")
    if not text:
        raise StoreRefused(f"{path} is empty; write the password into it, or remove it and one is made up")
    return text


async def _make_keyspace(driver: "CassandraDriver", section: Cassandra, tell: Tell) -> None:
    wanted = backends.cassandra_wanted_replicas(section)
    if await backends.cassandra_replicas(driver, section.keyspace) is not None:
        return
    known = {node.data_centre for node in driver.nodes()}
    if absent := sorted(set(wanted) - known):
        there = ", ".join(sorted(known))
        raise StoreRefused(f"[cassandra] replication: the cluster has no {', '.join(absent)}, only {there}")
    check_name(section.keyspace)
    tell(f"keyspace {section.keyspace}")
    each = ", ".join(f"'{name}': {number}" for name, number in wanted.items())
    strategy = f"{{'class': 'NetworkTopologyStrategy', {each}}}"
    await driver.define(f'CREATE KEYSPACE IF NOT EXISTS "{section.keyspace}" WITH replication = {strategy}')
    await driver.agreed()
