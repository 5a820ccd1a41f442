"""What each role may do in the cluster, refused by the cluster itself: every statement over every table."""

import asyncio
import re

import pytest

from controller import db, db_roles, schema
from regional_keystone import backends
from regional_keystone.errors import StoreRefused
from tests.cloud import eventually
from tests.clusters import section_of, session
from tests.controller.conftest import KEYSPACE

SITE, OTHER = "RegionOne", "region-two"
FEED, MARKS = backends.cassandra_schema().site_tables(OTHER)
LITERALS = {"text": "'x'", "bigint": "1", "int": "1", "boolean": "true", "blob": "0x00"}
SHARED = backends.cassandra_schema().tables
TABLES = {
    name: schema.table(cql)
    for definitions in (SHARED, backends.cassandra_schema().site_tables(OTHER))
    for name, cql in definitions.items()
}
OWN = {name: schema.table(cql) for name, cql in backends.cassandra_schema().site_tables(SITE).items()}
PASSWORDS = {"controller": "controller-secret", "migration": "migration-secret", "site": "site-secret"}


def changes(table):
    """Statement by name, each valid for this table."""
    key = [name for name, column in table.columns.items() if column.place >= 0]
    value = next(name for name, column in table.columns.items() if column.kind == "regular")

    def literal(name):
        return LITERALS[table.columns[name].type]

    where = " AND ".join(f'"{name}" = {literal(name)}' for name in key)
    columns = ", ".join(f'"{name}"' for name in [*key, value])
    values = ", ".join(literal(name) for name in [*key, value])
    return {
        "INSERT": f'INSERT INTO "{table.name}" ({columns}) VALUES ({values})',
        "UPDATE": f'UPDATE "{table.name}" SET "{value}" = {literal(value)} WHERE {where}',
        "LWT": f'UPDATE "{table.name}" SET "{value}" = {literal(value)} WHERE {where} IF "{value}" = NULL',
        "DELETE": f'DELETE FROM "{table.name}" WHERE {where}',
        "TRUNCATE": f'TRUNCATE "{table.name}"',
        "ALTER": f'ALTER TABLE "{table.name}" ADD of_an_intruder text',
        "DROP": f'DROP TABLE "{table.name}"',
        "INDEX": f'CREATE INDEX ON "{table.name}" ("{value}")',
        "GRANT": f'GRANT MODIFY ON "{table.name}" TO "{db_roles.site_role(SITE)}"',
    }


ALL = {
    "CREATE TABLE": "CREATE TABLE of_an_intruder (a text PRIMARY KEY)",
    "CREATE KEYSPACE": "CREATE KEYSPACE of_an_intruder WITH replication = {'class': 'SimpleStrategy'}",
    "ALTER KEYSPACE": f"ALTER KEYSPACE {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy'}}",
    "DROP KEYSPACE": f"DROP KEYSPACE {KEYSPACE}",
    "CREATE ROLE": "CREATE ROLE of_an_intruder",
    "ALTER ROLE": f"ALTER ROLE \"{db_roles.CONTROLLER}\" WITH PASSWORD = 'x'",
    "DROP ROLE": f'DROP ROLE "{db_roles.CONTROLLER}"',
    "GRANT ALL": f'GRANT ALL ON KEYSPACE {KEYSPACE} TO "{db_roles.site_role(SITE)}"',
    "GRANT ROLE": f'GRANT "{db_roles.CONTROLLER}" TO "{db_roles.site_role(SITE)}"',
    "BECOME SUPERUSER": f'ALTER ROLE "{db_roles.site_role(SITE)}" WITH SUPERUSER = true',
    "READ PASSWORDS": "SELECT * FROM system_auth.roles",
}
REFUSED = "(has no|do(es)? not have|not have sufficient|Only superusers|not authorized|is not allowed|aren't allowed)"


@pytest.fixture(scope="module")
def cluster(synced_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles")

    async def make():
        section = section_of(synced_cluster, folder, keyspace=KEYSPACE)
        async with db.database(section, backends.system_clock(), lambda _: None) as opened:
            await opened.add_controller(PASSWORDS["controller"])
            await opened.add_migration(PASSWORDS["migration"])
            await opened.add_site(SITE, PASSWORDS["site"])
            await opened.add_site(OTHER, "other-secret")

    asyncio.run(make())
    return synced_cluster


@pytest.fixture
def as_role(cluster, tmp_path):
    roles = {"controller": db_roles.CONTROLLER, "migration": db_roles.MIGRATION, "site": db_roles.site_role(SITE)}
    return lambda who: session(section_of(cluster, tmp_path, login=(roles[who], PASSWORDS[who]), keyspace=KEYSPACE))


async def refused(driver, cql):
    with pytest.raises(StoreRefused, match=REFUSED):
        await driver.define(cql)


@pytest.mark.parametrize("name", TABLES)
async def test_a_site_changes_no_table_but_its_own(as_role, name):
    async with as_role("site") as driver:
        for cql in changes(TABLES[name]).values():
            await refused(driver, cql)


@pytest.mark.parametrize("name", SHARED)
async def test_a_site_reads_what_is_shared(as_role, name):
    async with as_role("site") as driver:
        await driver.run(f'SELECT * FROM "{name}" LIMIT 1')


async def test_a_site_reads_anothers_feed_and_not_its_marks(as_role):
    async with as_role("site") as driver:
        await driver.run(f'SELECT * FROM "{FEED}" LIMIT 1')
        await refused(driver, f'SELECT * FROM "{MARKS}"')


async def test_a_sync_lets_sites_read_the_feeds_that_an_older_version_made(cluster, tmp_path):
    login = (db_roles.MIGRATION, PASSWORDS["migration"])
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        await opened.driver.define(f'REVOKE SELECT ON "{KEYSPACE}"."{FEED}" FROM "{db_roles.SITES}"')
        listed = f'LIST SELECT PERMISSION ON "{KEYSPACE}"."{FEED}" OF "{db_roles.SITES}" NORECURSIVE'
        assert not await opened.driver.run(listed)
        await opened.sync()
        assert await opened.driver.run(listed)


@pytest.mark.parametrize("name", OWN)
async def test_a_site_writes_its_own_tables_and_cannot_change_what_they_are(as_role, name):
    statements = changes(OWN[name])
    async with as_role("site") as driver:
        for kind in ("INSERT", "UPDATE", "LWT", "DELETE"):
            await driver.define(statements[kind])
        for kind in ("ALTER", "DROP", "INDEX", "GRANT"):
            await refused(driver, statements[kind])


@pytest.mark.parametrize("what", ALL)
async def test_a_site_rules_nothing(as_role, what):
    async with as_role("site") as driver:
        await refused(driver, ALL[what])


@pytest.mark.parametrize("name", TABLES)
async def test_a_controller_writes_every_table_and_defines_none(as_role, name):
    statements = changes(TABLES[name])
    async with as_role("controller") as driver:
        for kind in ("INSERT", "UPDATE", "LWT", "DELETE"):
            await driver.define(statements[kind])
        for kind in ("ALTER", "DROP", "INDEX", "GRANT"):
            await refused(driver, statements[kind])


@pytest.mark.parametrize("what", [one for one in ALL if one != "ALTER ROLE"])
async def test_a_controller_rules_nothing(as_role, what):
    async with as_role("controller") as driver:
        await refused(driver, ALL[what])


@pytest.mark.parametrize("what", ["DROP KEYSPACE", "READ PASSWORDS", "BECOME SUPERUSER"])
async def test_the_migration_role_takes_nothing_away(as_role, what):
    async with as_role("migration") as driver:
        await refused(driver, ALL[what])
        await refused(driver, 'DROP TABLE "log"')


ABOVE = "role_tests_superuser"
SEIZED = {
    "password of a superuser": f"ALTER ROLE {ABOVE} WITH PASSWORD = 'x'",
    "being a superuser": f'GRANT {ABOVE} TO "{db_roles.MIGRATION}"',
    "login of another's role": f"ALTER ROLE {ABOVE} WITH LOGIN = false",
    "a role of another": f"DROP ROLE {ABOVE}",
    "rights over all roles": f'GRANT ALTER ON ALL ROLES TO "{db_roles.MIGRATION}"',
    "rights over another's role": f'GRANT ALTER ON ROLE {ABOVE} TO "{db_roles.MIGRATION}"',
    "a superuser of its own": "CREATE ROLE of_an_intruder WITH SUPERUSER = true",
}


@pytest.fixture(scope="module")
def above(cluster):
    """A superuser beside the one that made the roles."""
    cluster.node("dc1").ask(f"CREATE ROLE IF NOT EXISTS {ABOVE} WITH SUPERUSER = true AND LOGIN = true")


@pytest.mark.usefixtures("above")
@pytest.mark.parametrize("what", SEIZED)
async def test_the_migration_role_is_master_of_no_role_but_ours(as_role, what):
    async with as_role("migration") as driver:
        await refused(driver, SEIZED[what])


async def test_one_of_an_older_version_loses_what_it_had_more(cluster, tmp_path, as_role):
    section = section_of(cluster, tmp_path, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        for right in ("ALTER", "AUTHORIZE", "DESCRIBE"):
            await opened.driver.define(f'GRANT {right} ON ALL ROLES TO "{db_roles.MIGRATION}"')
        await opened.add_migration(PASSWORDS["migration"])
    async with as_role("migration") as driver:
        await refused(driver, SEIZED["rights over all roles"])


async def test_the_migration_role_drops_not_even_what_it_has_made(cluster, tmp_path):
    section = section_of(cluster, tmp_path, keyspace=KEYSPACE)
    async with session(section) as driver:
        await driver.define('DROP TABLE "grants__role_id"')
        await driver.agreed()
    login = (db_roles.MIGRATION, PASSWORDS["migration"])
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        assert "grants__role_id is missing" in (await opened.sync()).made
        await opened.add_site("RegionFour", "four-secret")
        # what it may do is remembered for seconds by the nodes; what was granted is not
        assert await opened.driver.run(f'LIST DROP PERMISSION OF "{db_roles.MIGRATION}"') == []


async def test_the_migration_role_renews_passwords_of_ours_whoever_made_them(cluster, tmp_path):
    login = (db_roles.MIGRATION, PASSWORDS["migration"])
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        await opened.add_controller("renewed-secret")
        await opened.add_site(OTHER, "renewed-secret")  # made by the superuser
    for role in (db_roles.CONTROLLER, db_roles.site_role(OTHER)):
        async with session(section_of(cluster, tmp_path, login=(role, "renewed-secret"), keyspace=KEYSPACE)) as driver:
            await driver.run("SELECT * FROM log LIMIT 1")
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        await opened.add_controller(PASSWORDS["controller"])


async def test_the_migration_role_extends_the_schema_and_enrols_sites(cluster, tmp_path):
    login = (db_roles.MIGRATION, PASSWORDS["migration"])
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None, make=True) as opened:
        assert (await opened.sync()).made == []
        role = await opened.add_site("RegionThree", "three-secret")
    third = section_of(cluster, tmp_path, login=(role, "three-secret"), keyspace=KEYSPACE)
    async with session(third) as driver:
        (own, _) = backends.cassandra_schema().site_tables("RegionThree")
        await driver.run(f'SELECT * FROM "{own}" LIMIT 1')


@pytest.mark.parametrize("who", ["controller", "site"])
async def test_roles_can_look_whether_the_cluster_is_safe(cluster, tmp_path, who, as_role):
    async with as_role(who) as driver:
        section = section_of(cluster, tmp_path, keyspace=KEYSPACE)
        found = await backends.cassandra_findings(driver, section)
        assert {one.check for one in found if one.state != "OK"} <= {"tls"}  # in clear, off loopback


def reads_no_more(driver, cql):
    """Nodes remember for seconds what a role may do."""

    async def check():
        try:
            await driver.define(cql)
        except StoreRefused as error:
            return re.search(REFUSED, str(error)) is not None
        return False

    return check


async def test_a_removed_site_reads_and_writes_no_more_and_its_feed_stays(cluster, tmp_path):
    own, ack = backends.cassandra_schema().site_tables("RegionFive")
    login = (db_roles.MIGRATION, PASSWORDS["migration"])
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)
    theirs = section_of(cluster, tmp_path, login=(db_roles.site_role("RegionFive"), "five-secret"), keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        await opened.add_site("RegionFive", "five-secret")
        async with session(theirs) as stolen:
            await stolen.define("SELECT * FROM users")
            await stolen.define(f'UPDATE "{own}" SET head = 7 WHERE feed = \'RegionFive/1\' AND "range" = 0')
            removed = await opened.remove_site("RegionFive")
            assert removed == (db_roles.site_role("RegionFive"), own, 7)
            for cql in ("SELECT * FROM users", "SELECT * FROM log", f'SELECT * FROM "{own}"', f'TRUNCATE "{ack}"'):
                await eventually(reads_no_more(stolen, cql), 15.0)
        with pytest.raises(StoreRefused, match="does not let rk_site_RegionFive in"):
            await (await backends.cassandra_driver(theirs)).close()
        assert await opened.remove_site("RegionFive") == removed  # safe to repeat
        rows = await opened.driver.run(f'SELECT DISTINCT feed, "range", head FROM "{own}"')
        assert rows == [("RegionFive/1", 0, 7)]
        await opened.add_site("RegionFive", "five-secret")  # it is taken back
    await eventually(lambda: reads_again(theirs, "SELECT * FROM users"), 15.0)


async def reads_again(section, cql):
    try:
        async with session(section) as driver:
            await driver.define(cql)
    except StoreRefused:  # remembered for seconds as well
        return False
    return True


async def test_who_is_no_site_is_not_removed(cluster, tmp_path):
    section = section_of(cluster, tmp_path, keyspace=KEYSPACE)
    async with db.database(section, backends.system_clock(), lambda _: None) as opened:
        with pytest.raises(StoreRefused, match="no role rk_site_RegionNine"):
            await opened.remove_site("RegionNine")
