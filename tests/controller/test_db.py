"""`rkctl db` and `rkctl doctor` on a real cluster: made once, from two places, extended, refused, compared."""

import asyncio
import dataclasses
import json
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from controller import db, doctor, schema
from controller.settings import Settings
from regional_keystone import backends
from regional_keystone.adapters import cassandra_safety
from regional_keystone.adapters.cassandra import Cassandra, CassandraReplica
from regional_keystone.adapters.cassandra_tables import Write
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.log import LOG, Entry, put
from regional_keystone.model import Grant
from regional_keystone.record import encode, facts
from tests.clusters import section_of, session
from tests.contracts.cassandra_stores import scratch
from tests.controller.conftest import KEYSPACE

CLOCK = backends.system_clock()


def quiet(_text):
    """Tells nobody."""


@pytest.fixture(scope="module")
def cluster(synced_cluster):
    return synced_cluster


@pytest.fixture
def section(cluster, tmp_path):
    return section_of(cluster, tmp_path, keyspace=KEYSPACE)


@pytest.fixture
async def opened(section):
    async with db.database(section, CLOCK, quiet) as database:
        yield database


def rkctl(section, *words):
    options = {
        "contact_points": section.contact_points[0],
        "keyspace": section.keyspace,
        "username": section.username,
        "password_file": section.password_file,
        "replication": ",".join(section.replication),
    }
    sets = [word for name, value in options.items() for word in ("--set", f"cassandra.{name}={value}")]
    command = [sys.executable, "-m", "controller", *words, *sets]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_a_definition_is_read_as_the_cluster_would():
    found = schema.table(
        'CREATE TABLE IF NOT EXISTS "T__x" (feed text, "range" bigint, n BIGINT, h bigint static, m map<text, blob>,'
        " PRIMARY KEY ((feed, \"range\"), n)) WITH gc_grace_seconds = 5 AND compaction = {'class': 'X'}"
    )
    assert found.name == "T__x"
    assert found.columns == {
        "feed": ("text", "partition_key", 0),
        "range": ("bigint", "partition_key", 1),
        "n": ("bigint", "clustering", 0),
        "h": ("bigint", "static", -1),
        "m": ("map<text, blob>", "regular", -1),
    }
    assert schema.table("CREATE TABLE a (b text PRIMARY KEY, c int)").columns["b"] == ("text", "partition_key", 0)
    with pytest.raises(ValueError, match="no CREATE TABLE"):
        schema.table("DROP TABLE a")


def test_differences_are_mended_by_addition_only():
    wanted = [schema.table("CREATE TABLE a (b text, c int, s text static, d blob, PRIMARY KEY (b, c))")]
    there = dict(wanted[0].columns)
    assert schema.differences(wanted, {"a": there}) == []
    assert [one.cql for one in schema.differences(wanted, {})] == [wanted[0].cql]
    lacking = {name: column for name, column in there.items() if name not in {"s", "d"}}
    assert [one.cql for one in schema.differences(wanted, {"a": lacking})] == [
        'ALTER TABLE "a" ADD IF NOT EXISTS "s" text static',
        'ALTER TABLE "a" ADD IF NOT EXISTS "d" blob',
    ]
    for other in ({"c": ("text", "clustering", 0)}, {"c": ("int", "partition_key", 1)}):
        changed = there | {name: schema.Column(*column) for name, column in other.items()}
        assert [(one.table, one.cql) for one in schema.differences(wanted, {"a": changed})] == [("a", "")]
    without_key = {name: column for name, column in there.items() if name != "c"}
    assert [one.what for one in schema.differences(wanted, {"a": without_key})] == ["column c is missing from the key"]
    more = {"a": there | {"e": schema.Column("int")}, "z": there}
    assert schema.differences(wanted, more) == []
    assert [(one.table, one.cql) for one in schema.leftovers(wanted, more)] == [("z", ""), ("a", "")]


def test_what_new_tables_lack_is_told_by_what_is_to_be_made():
    records = {"a": "a", "a__x": "a", "a__y": "a", "b": "b", "b__x": "b"}
    missing = [schema.Difference(name, "is missing", "CREATE") for name in ("a__y", "a__x", "b", "b__x", "log")]
    column = schema.Difference("a", "column row is missing", "ALTER")
    assert schema.unfilled([column, *missing], {"a": {}, "marks": {}}, records) == ["a", "b"]
    assert schema.unfilled([column], {"a": {}}, records) == []
    assert backends.cassandra_schema().records["grants__role_id"] == "grants"
    assert backends.cassandra_schema().records["grants"] == "grants"


async def test_two_at_once_make_each_table_once(cluster, opened):
    made = [set(one.made) for one in cluster.synced]
    once = {one for one in made[0] & made[1] if "schema_version" not in one}
    assert once == set()
    assert {f"{name} is missing" for name in backends.cassandra_schema().tables} <= made[0] | made[1]
    found = await opened.find()
    assert (found.differences, found.leftovers, found.is_current) == ([], [], True)
    for data_centre in ("dc1", "dc2", "dc3"):  # every node has the very tables
        ids = cluster.node(data_centre).ask(
            f"SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = '{KEYSPACE}'"
        )
        assert sorted(ids) == sorted(
            cluster.node("dc1").ask(
                f"SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = '{KEYSPACE}'"
            )
        )


async def test_again_does_nothing(opened):
    assert (await opened.sync()).made == []


async def test_what_a_newer_version_needs_is_added_and_nothing_is_taken_away(opened, section):
    await opened.driver.define('ALTER TABLE "projects" DROP row')
    await opened.driver.define("ALTER TABLE log ADD of_a_newer_version text")
    await opened.driver.agreed()
    try:
        assert rkctl(section, "db", "check").returncode == 1
        assert (await opened.sync()).made == ["projects: column row is missing".replace(":", "")]
        found = await opened.find()
        assert found.is_current
        assert [one.what for one in found.leftovers] == ["column of_a_newer_version is not used by this version"]
        done = rkctl(section, "db", "check")
        assert (done.returncode, "of_a_newer_version" in done.stdout) == (0, True)
    finally:
        await opened.driver.define("ALTER TABLE log DROP of_a_newer_version")


@asynccontextmanager
async def store_of(section):
    store = await Cassandra.open(await backends.cassandra_driver(section), clock=CLOCK, scratch=scratch)
    try:
        yield store
    finally:
        await store.close()


async def test_a_new_table_of_rows_that_are_there_is_filled(opened, section):
    grants = [Grant(actor_id=one, actor="user", target="project", target_id="p", role_id="r") for one in ("a", "b")]
    async with store_of(section) as store:
        await store.apply([Entry(await store.applied(LOG) + 1, "t", 0, tuple(put(one) for one in grants))])
    await opened.driver.define('DROP TABLE "grants__role_id"')
    await opened.driver.agreed()
    assert (await opened.sync()).made == ["grants__role_id is missing", "grants: 2 rows are in new tables"]
    assert (await opened.find()).is_current
    async with store_of(section) as store:
        assert await store.find(Grant, role_id="r") == grants


async def test_nothing_starts_before_it_is_filled_and_what_an_older_version_left_behind_goes(opened, section):
    gone, kept = (Grant(actor_id=one, actor="user", target="project", target_id="q", role_id="s") for one in ("a", "b"))
    async with store_of(section) as store:
        number = await store.applied(LOG) + 1
        await store.apply([Entry(number, "t", 0, (put(gone), put(kept)))])
        base = store._tables.forms["grants"].base
        place = store._tables.forms["grants"].by_key(facts(Grant).key_of(gone))
        await store._write([Write(base, place, number + 1, None)])  # who does not know the copies removes the row alone
        assert await store.find(Grant, role_id="s") == [gone, kept]
    await opened._note("grants", "begun")
    assert not (await opened.find()).is_current
    with pytest.raises(StoreRefused, match="run `rkctl db sync` again"):
        await (await backends.safe_cassandra_driver(section)).close()
    assert len((await opened.sync()).made) == 1
    await (await backends.safe_cassandra_driver(section)).close()
    async with store_of(section) as store:
        assert await store.find(Grant, role_id="s") == await store.find(Grant, target_id="q") == [kept]


async def test_a_site_whose_disks_were_lost_reads_everything_once_and_its_mark_grows_again(
    opened, section, monkeypatch
):
    verified, verify = [], CassandraReplica._verify_all

    async def noted(self, position):
        verified.append(position)
        await verify(self, position)

    monkeypatch.setattr(CassandraReplica, "_verify_all", noted)

    @asynccontextmanager
    async def site():
        driver = await backends.cassandra_driver(section)
        found = await CassandraReplica.open(driver, site="Lost", level="LOCAL_QUORUM", clock=CLOCK, scratch=scratch)
        try:
            yield found
        finally:
            await found.close()

    async def marked():
        (row,) = await opened.driver.run("SELECT applied FROM \"ack_Lost\" WHERE feed = 'log'") or [(None,)]
        return row[0]

    await opened.add_site("Lost", "lost-secret")
    grant = Grant(actor_id="l", actor="user", target="project", target_id="l", role_id="l")
    async with store_of(section) as store:
        number = await store.applied(LOG) + 1
        await store.apply([Entry(number, "t", 0, (put(grant),))])
        async with site() as first:
            assert await first.applied(LOG) == number
        async with site():
            assert len(verified) == 1  # it is remembered
        done = await asyncio.to_thread(rkctl, section, "db", "forget", "Lost")
        assert (done.returncode, f"up to {number}" in done.stdout) == (0, True)
        assert await marked() is None
        later = Entry(number + 1, "t", 0, (put(grant),))
        async with site() as again:
            assert len(verified) == 2
            await store.apply([later])
            await again.apply([later])
        assert await marked() == number + 1
        async with site():
            assert len(verified) == 2
    with pytest.raises(StoreRefused, match="Nowhere has no tables"):
        await opened.forget("Nowhere")


async def test_who_does_not_know_a_copy_writes_nothing_and_goes_back_only_by_its_own_sync(opened, section, monkeypatch):
    """An older version: of grants it does not know one group."""
    schema_ = backends.cassandra_schema()
    old = {name: record for name, record in schema_.records.items() if name != "grants__role_id"}
    tables = {name: cql for name, cql in schema_.tables.items() if name != "grants__role_id"}
    grant = Grant(actor_id="f", actor="user", target="project", target_id="f", role_id="f")

    async def left_out():
        async with store_of(section) as store:
            forms, number = store._tables.forms["grants"], await store.applied(LOG) + 1
            place = forms.by_key(facts(Grant).key_of(grant))
            await store._write([Write(forms.base, place, number, encode(grant))])

    with monkeypatch.context() as older:
        older.setattr(backends, "cassandra_schema", lambda: schema_._replace(records=old, tables=tables))
        with pytest.raises(StoreRefused, match="keeps grants__role_id, which this program leaves out"):
            await (await backends.safe_cassandra_driver(section)).close()
        await (await backends.safe_cassandra_driver(section, writes=False)).close()  # a site
        async with db.database(section, CLOCK, quiet) as before:
            assert (await before.find()).unknown == ["grants__role_id"]
            with pytest.raises(StoreRefused, match="grants__role_id, which this program does not know"):
                await before.sync()
            assert (await before.sync(back=True)).made == []
        await (await backends.safe_cassandra_driver(section)).close()
        await left_out()
    for writes in (True, False):
        with pytest.raises(StoreRefused, match="does not keep grants__role_id yet; run `rkctl db sync`"):
            await (await backends.safe_cassandra_driver(section, writes=writes)).close()
    found = await opened.find()
    assert (found.is_current, found.fills) == (False, ["grants"])
    done = await asyncio.to_thread(rkctl, section, "db", "check")
    assert (done.returncode, "grants: " in done.stdout, "end all controllers" in done.stdout) == (1, True, True)
    assert len((await opened.sync()).made) == 1
    await (await backends.safe_cassandra_driver(section)).close()
    async with store_of(section) as store:
        assert await store.find(Grant, role_id="f") == [grant]
    assert (await opened.sync()).made == []


async def test_replicas_that_are_not_those_of_the_setting_are_told_and_left_alone(cluster, section):
    wide = dataclasses.replace(section, replication=("dc1:1", "dc2:3", "dc3:1"))
    alter = (
        f"ALTER KEYSPACE \"{KEYSPACE}\" WITH replication = {{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 3,"
    )
    done = rkctl(wide, "db", "check")
    assert (done.returncode, alter in done.stdout, "nodetool repair" in done.stdout) == (1, True, True)
    assert "run `rkctl db sync`" not in done.stdout
    assert alter in json.loads(rkctl(wide, "db", "check", "--json").stdout)["replication"]
    done = rkctl(wide, "db", "sync")
    assert (done.returncode, alter in done.stderr) == (0, True)
    found = await doctor.examine(dataclasses.replace(Settings(), cassandra=wide))
    assert [one.state for one in found if alter in one.cure] == ["WARN"]
    found = await doctor.examine(dataclasses.replace(Settings(), cassandra=section))
    assert [one for one in found if "ALTER KEYSPACE" in one.cure] == []
    done = rkctl(section, "db", "check")
    assert (done.returncode, "ALTER" in done.stdout) == (0, False)


async def test_a_newer_schema_is_refused_and_an_older_program_may_go_on_beside_it(opened, section):
    insert = "INSERT INTO schema_version (part, version) VALUES ('version', ?)"
    await opened.driver.change([(insert, (99,))], consistency="QUORUM")
    try:
        with pytest.raises(StoreRefused, match="use the newer program"):
            await opened.sync()
        assert rkctl(section, "db", "sync").returncode == 3
        assert (await opened.find()).is_current
        await opened.driver.change(
            [("INSERT INTO schema_version (part, version) VALUES ('oldest', ?)", (98,))], consistency="QUORUM"
        )
        assert not (await opened.find()).is_current  # it was contracted
    finally:
        await opened._record()
    assert (await opened.find()).is_current


async def test_a_table_of_another_form_is_refused_and_left_alone(cluster, section):
    other = dataclasses.replace(section, keyspace="db_tests_other")
    async with session(other, keyspace=False) as driver:
        await db._make_keyspace(driver, other, quiet)
    async with db.database(other, CLOCK, quiet) as opened:
        await opened.driver.define("CREATE TABLE marks (feed text PRIMARY KEY, applied text)")
        await opened.driver.agreed()
        with pytest.raises(StoreRefused, match=r"marks column applied is text .regular., not bigint"):
            await opened.sync()
        found = await opened.find()
        assert "log" in {one.table for one in found.differences}  # nothing was begun
        await opened.driver.define("DROP KEYSPACE db_tests_other")


async def test_who_holds_the_lease_is_waited_for_and_its_lease_ends(opened):
    told = []
    opened._tell = told.append
    take = "UPDATE schema_version USING TTL 6 SET state = 'another' WHERE part = ? IF state = NULL"
    assert (await opened.driver.decide([(take, ("lease",))]))[0]
    assert (await opened.sync()).made == []
    assert "waiting for another, who changes the schema" in told
    async with opened._lease() as renew:
        await opened.driver.change([("UPDATE schema_version SET state = 'thief' WHERE part = ?", ("lease",))])
        opened._clock = CLOCK
        await renew()  # young: not asked again
    await opened.driver.change([("UPDATE schema_version SET state = NULL WHERE part = ?", ("lease",))])


async def test_a_data_centre_that_is_not_there_is_refused(section):
    absent = dataclasses.replace(section, keyspace="db_tests_absent", replication=("dc1:1", "dc9:1"))
    with pytest.raises(StoreRefused, match="the cluster has no dc9, only dc1, dc2, dc3"):
        async with db.database(absent, CLOCK, quiet, make=True):
            pass
    for wrong in (("dc1",), ("dc1:0",), (":1",), ()):
        with pytest.raises(StoreRefused, match="replication"):
            async with db.database(dataclasses.replace(absent, replication=wrong), CLOCK, quiet, make=True):
                pass


async def findings(driver, section):
    return {one.check: one for one in await backends.cassandra_findings(driver, section)}


async def test_a_safe_cluster_passes_every_check(section):
    async with session(section) as driver:
        found = await findings(driver, section)
        assert {name for name, one in found.items() if one.state != "OK"} <= {"tls"}  # in clear, off loopback
        assert {"commitlog_sync", "paxos_variant", "data centres", "replication", "system_auth"} == set(found) - {"tls"}
    await (await backends.safe_cassandra_driver(section)).close()


@pytest.mark.parametrize(
    ("replication", "state", "says"),
    [
        ("{'class': 'SimpleStrategy', 'replication_factor': 3}", "FAIL", "does not say in which data centre"),
        ("{'class': 'NetworkTopologyStrategy', 'dc2': 1, 'dc3': 1}", "FAIL", "dc1 has no replica"),
        ("{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1}", "WARN", "does not survive the loss"),
        ("{'class': 'NetworkTopologyStrategy', 'dc1': 3}", "WARN", "does not survive the loss"),
    ],
)
async def test_replicas_that_cannot_carry_what_is_promised(section, replication, state, says):
    placed = dataclasses.replace(section, keyspace=f"placed_{abs(hash(replication))}")
    async with session(placed, keyspace=False) as driver:
        await driver.define(f"CREATE KEYSPACE {placed.keyspace} WITH replication = {replication}")
        await driver.agreed()
        try:
            found = await backends.cassandra_findings(driver, placed)
            assert [(one.check, one.state) for one in found if says in one.detail and one.cure] == [
                ("replication", state)
            ]
            if state == "FAIL":
                with pytest.raises(StoreRefused, match=says):
                    await (await backends.safe_cassandra_driver(placed)).close()
                with pytest.raises(StoreRefused, match="has no tables"):  # and nothing else
                    await backends.safe_cassandra_driver(dataclasses.replace(placed, allow_unsafe=True))
        finally:
            await driver.define(f"DROP KEYSPACE {placed.keyspace}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("commitlog_sync", "periodic"), ("paxos_variant", "v1"), ("paxos_variant", "v2_without_linearizable_reads")],
)
async def test_a_node_that_can_lose_what_was_acknowledged_is_refused(section, setting, value):
    async with session(section) as driver:
        asked = driver.run_on_each

        async def unsafe(cql):
            answers = await asked(cql)
            return {one: [(value,)] for one in answers} if setting in cql else answers

        driver.run_on_each = unsafe
        found = await backends.cassandra_findings(driver, section)
        with pytest.raises(StoreRefused, match=f"{value} on [0-9.]+ .*cassandra.yaml"):
            cassandra_safety.refuse(found)
        allowed = await backends.cassandra_findings(driver, dataclasses.replace(section, allow_unsafe=True))
        assert [one.check for one in cassandra_safety.refuse(allowed) if one.check != "tls"] == [setting]


@pytest.mark.parametrize("setting", ["commitlog_sync", "paxos_variant"])
@pytest.mark.parametrize("answer", [Unavailable("No right to read it."), []], ids=["unavailable", "unnamed"])
async def test_a_setting_that_no_node_tells_is_refused_and_one_that_some_tell_is_warned_of(section, setting, answer):
    async with session(section) as driver:
        asked, more = driver.run_on_each, {}

        async def silent(cql):
            answers = await asked(cql)
            return dict.fromkeys(answers, answer) | more if setting in cql else answers

        driver.run_on_each = silent
        with pytest.raises(StoreRefused, match=f"{setting}: not known of .*GRANT SELECT"):
            cassandra_safety.refuse(await backends.cassandra_findings(driver, section))
        allowed = await backends.cassandra_findings(driver, dataclasses.replace(section, allow_unsafe=True))
        assert setting in [one.check for one in cassandra_safety.refuse(allowed)]
        more["another"] = [("batch" if setting == "commitlog_sync" else "v2",)]
        warned = cassandra_safety.refuse(await backends.cassandra_findings(driver, section))
        assert [one.check for one in warned if one.check == setting] == [setting]


async def test_a_reader_of_one_of_several_replicas_is_refused(section):
    wide = dataclasses.replace(section, keyspace="placed_wide", read_consistency="LOCAL_ONE")
    async with session(wide, keyspace=False) as driver:
        replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 3, 'dc2': 3, 'dc3': 3}"
        await driver.define(f"CREATE KEYSPACE placed_wide WITH replication = {replication}")
        await driver.agreed()
        found = await findings(driver, wide)
        await driver.define("DROP KEYSPACE placed_wide")
    assert found["read consistency"].state == "FAIL"
    assert found["replication"].state == "OK"


async def test_the_doctor_names_each_ill_with_its_cure(section, memcached, zookeeper, tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    settings = dataclasses.replace(
        Settings(),
        cassandra=dataclasses.replace(section, keyspace="nowhere"),
        site=dataclasses.replace(Settings().site, state_dir=state),
        memcached=dataclasses.replace(Settings().memcached, servers=(memcached[0].server, "127.0.0.1:9")),
        zookeeper=dataclasses.replace(Settings().zookeeper, hosts=(zookeeper.hosts[0], "127.0.0.1:9")),
    )
    found = await doctor.examine(settings)
    of_this_machine = [one for one in found if one.check != "tls"]  # it is asked for where nodes have other addresses
    assert [(one.check, one.state) for one in of_this_machine] == [
        ("settings", "OK"),
        ("state", "OK"),
        ("rights", "FAIL"),
        ("cassandra", "OK"),
        ("commitlog_sync", "OK"),
        ("paxos_variant", "OK"),
        ("data centres", "OK"),
        ("system_auth", "OK"),
        ("schema", "FAIL"),
        ("drift", "OK"),
        ("memcached", "OK"),
        ("memcached", "WARN"),
        ("zookeeper", "OK"),
        ("zookeeper", "WARN"),
    ]
    assert all(one.cure for one in found if one.state != "OK")
    (schema,) = [one for one in found if one.check == "schema"]
    assert (schema.detail, schema.cure) == ("there is no keyspace nowhere in this cluster", "run `rkctl db sync`")


def test_the_doctors_exit_code_and_json(section):
    done = rkctl(section, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["healthy"]
    section.password_file.write_text("wrong")
    done = rkctl(section, "doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["healthy"]) == (1, False)
    assert "wrong" not in done.stdout


def test_commands_tell_versions_and_differences(section):
    done = rkctl(section, "db", "version", "--json")
    assert (done.returncode, json.loads(done.stdout)["version"]) == (0, backends.cassandra_schema().version)
    found = json.loads(rkctl(section, "db", "status", "--json").stdout)
    assert found["replication"] == {"dc1": 1, "dc2": 1, "dc3": 1}
    assert len(found["nodes"]) == 3
    assert json.loads(rkctl(section, "db", "sync", "--json").stdout)["made"] == []
    done = rkctl(dataclasses.replace(section, keyspace="nowhere"), "db", "version")
    assert (done.returncode, done.stdout) == (3, "")
    assert "run `rkctl db sync`" in done.stderr


async def test_a_cut_off_data_centre_knows_whether_it_is_safe(cluster, opened, tmp_path):
    await opened.add_controller("controller-secret", "db_tests_controller")
    login = ("db_tests_controller", "controller-secret")  # the superuser is asked of all data centres
    section = section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE, request_timeout_s=3.0)
    for data_centre in ("dc2", "dc3"):
        cluster.node(data_centre).stop()
    try:
        await (await backends.safe_cassandra_driver(section)).close()
        async with db.database(section, CLOCK, quiet) as there:
            with pytest.raises(Unavailable):
                await there.find()  # the version is the majority's
    finally:
        for data_centre in ("dc2", "dc3"):
            cluster.node(data_centre).cont()
