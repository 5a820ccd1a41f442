"""The session with Cassandra: what it answers, what it says when it cannot, and how soon it answers again."""

import asyncio
import dataclasses
import subprocess
import sys
import time

import pytest

from regional_keystone.errors import StoreRefused, Unavailable, Unknown
from tests.clusters import secret_file, section_of, session

KEYSPACE = "driver_tests"
READ = "SELECT c, v FROM rows WHERE p = ?"
WRITE = "INSERT INTO rows (p, c, v) VALUES (?, ?, ?)"
HEAD = "UPDATE rows SET head = ? WHERE p = ? IF head = ?"
SOON_S = 0.3  # far below any deadline, on a busy machine as well


@pytest.fixture(scope="module")
def cluster(cassandra_cluster, tmp_path_factory):
    async def make():
        section = section_of(cassandra_cluster, tmp_path_factory.mktemp("make"))
        async with session(section, keyspace=False) as driver:
            replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1, 'dc3': 1}"
            await driver.define(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {replication}")
            await driver.define(
                f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.rows"
                " (p text, c bigint, head bigint static, v blob, PRIMARY KEY (p, c))"
            )
            await driver.define(
                "CREATE ROLE IF NOT EXISTS driver_reader WITH PASSWORD = 'reader-secret' AND LOGIN = true"
            )
            await driver.define(
                "CREATE ROLE IF NOT EXISTS driver_writer WITH PASSWORD = 'writer-secret' AND LOGIN = true"
            )
            for right, role in (("SELECT", "driver_reader"), ("SELECT", "driver_writer"), ("MODIFY", "driver_writer")):
                await driver.define(f"GRANT {right} ON {KEYSPACE}.rows TO {role}")
            await driver.agreed()

    asyncio.run(make())
    return cassandra_cluster


@pytest.fixture
def section(cluster, tmp_path):
    login = ("driver_writer", "writer-secret")  # the superuser's rights are asked of all data centres
    return section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE, request_timeout_s=1.0)


@pytest.fixture
async def driver(section):
    async with session(section) as opened:
        yield opened


@pytest.fixture
async def patient(section):
    async with session(dataclasses.replace(section, request_timeout_s=9.0)) as opened:
        yield opened


@pytest.fixture
def part(request):
    """A partition of the test's own."""
    return f"{request.node.name}-{time.monotonic_ns()}"


async def outcome(awaitable):
    """(the refusal, seconds until it)."""
    began = time.monotonic()
    with pytest.raises((Unavailable, StoreRefused)) as refused:
        await awaitable
    return refused.value, time.monotonic() - began


async def answers_after(driver, ask, most_s=20.0):
    """Seconds until the first answer."""
    began = time.monotonic()
    while True:
        try:
            await ask()
        except Unavailable:
            assert time.monotonic() - began < most_s
            await asyncio.sleep(0.05)
        else:
            return time.monotonic() - began


async def test_many_rows_come_back_whole_and_in_pages(patient, part):
    driver = patient
    count, driver._session.default_fetch_size = 1200, 500
    await driver.change([(WRITE, (part, c, b"v")) for c in range(count)])
    assert await driver.run(READ, (part,)) == [(c, b"v") for c in range(count)]
    sizes = [len(page) async for page in driver.pages(READ, (part,), page_rows=550)]
    assert sizes == [550, 550, 100]


async def test_a_decision_is_applied_once_and_shows_what_was_in_the_way(driver, part):
    entries = [(HEAD, (2, part, None)), (WRITE, (part, 1, b"a")), (WRITE, (part, 2, b"b"))]
    assert await driver.decide(entries) == (True, [])
    applied, rows = await driver.decide(entries)
    assert (applied, rows[0]["head"]) == (False, 2)
    assert await driver.decide([(HEAD, (3, part, 2))], serial="LOCAL_SERIAL", commit="LOCAL_QUORUM") == (True, [])
    assert await driver.run("SELECT head FROM rows WHERE p = ? LIMIT 1", (part,), consistency="LOCAL_SERIAL") == [(3,)]


async def test_what_many_ask_first_at_once_is_prepared_once(driver, part):
    prepared = []
    prepare = driver._session.prepare
    driver._session.prepare = lambda cql: prepared.append(cql) or prepare(cql)
    cql = "SELECT v FROM rows WHERE p = ? AND c = ?"
    asked = [asyncio.create_task(driver.run(cql, (part, c))) for c in range(50)]
    await asyncio.sleep(0)
    asked[0].cancel()  # whoever asked first goes away
    assert await asyncio.gather(*asked[1:]) == [[]] * 49
    assert prepared == [cql]


async def test_a_change_keeps_few_writes_under_way(patient, part):
    driver, most = patient, 0
    send = driver._send_now

    def watched(*given):
        nonlocal most
        most = max(most, driver._under_way + 1)
        return send(*given)

    driver._send_now = watched
    await driver.change([(WRITE, (part, c, b"v")) for c in range(500)])
    assert 8 < most <= 64


async def test_connecting_does_not_hold_the_loop_up(section):
    late = []

    async def tick():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - began - 0.01)

    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        async with session(section):
            ticking.cancel()
    assert len(late) > 3  # connecting takes some turns


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"contact_points": ()}, "contact_points is empty"),
        ({"local_data_centre": "dc9"}, "the cluster has dc1, dc2, dc3"),
        ({"keyspace": "nowhere"}, "run `rkctl db sync`"),
        ({"username": ""}, "set \\[cassandra\\] username and password_file"),
        ({"password_file": None}, "password_file"),
        ({"read_consistency": "MOST"}, "MOST is no consistency level"),
    ],
)
async def test_a_wrong_setting_is_refused_with_its_cure(section, change, says):
    with pytest.raises(StoreRefused, match=says):
        await asyncio.wait_for(session(dataclasses.replace(section, **change)).__aenter__(), 10)


async def test_a_wrong_password_is_refused_and_never_shown(section, tmp_path):
    wrong = secret_file(tmp_path, "not-the-password")
    with pytest.raises(StoreRefused, match=r"check .cassandra. username and the password in") as refused:
        await session(dataclasses.replace(section, password_file=wrong)).__aenter__()
    assert "not-the-password" not in str(refused.value).replace(str(wrong), "")


async def test_a_password_that_others_may_read_is_refused(section):
    section.password_file.chmod(0o640)
    with pytest.raises(StoreRefused, match="chmod 600"):
        await session(section).__aenter__()
    section.password_file.chmod(0o600)
    section.password_file.write_text("\n")
    with pytest.raises(StoreRefused, match="is empty"):
        await session(section).__aenter__()
    section.password_file.unlink()
    with pytest.raises(StoreRefused, match="No such file"):
        await session(section).__aenter__()


async def test_nobody_at_the_address_is_unavailable(section):
    for nobody in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(Unavailable, match=nobody):
            await session(dataclasses.replace(section, contact_points=(nobody,), port=9)).__aenter__()


async def test_tls_checks_who_answers(section, cluster, engine_ca, tmp_path):
    async with session(dataclasses.replace(section, tls_ca=engine_ca)) as driver:
        assert len(await driver.run("SELECT key FROM system.local", consistency="ONE")) == 1
    others = _other_ca(tmp_path)
    with pytest.raises(Unavailable, match=r"TLS: .*(verify|VERIFY|CERTIFICATE)"):
        await session(dataclasses.replace(section, tls_ca=others)).__aenter__()


async def test_a_certificate_for_another_host_is_refused(section, cluster, engine_ca, monkeypatch):
    """127.0.0.1 is in no certificate of the engines."""
    relay = await asyncio.start_server(_relayed(cluster.node("dc1").address, cluster.port), "127.0.0.1", 0)
    async with relay:
        port = relay.sockets[0].getsockname()[1]
        there = dataclasses.replace(section, contact_points=("127.0.0.1",), port=port, tls_ca=engine_ca)
        with pytest.raises(Unavailable, match="TLS: "):
            await session(there).__aenter__()


async def test_a_wrong_statement_names_the_schema_and_no_driver(driver):
    refused, _ = await outcome(driver.run("SELECT nothing FROM rows"))
    assert not isinstance(refused, Unknown)
    assert "nothing" in refused.message
    assert "rkctl db check" in refused.message
    assert refused.__cause__ is None


async def test_a_missing_right_is_named_and_serving_goes_on(cluster, tmp_path, part, capsys):
    login = ("driver_reader", "reader-secret")
    async with session(section_of(cluster, tmp_path, login=login, keyspace=KEYSPACE)) as driver:
        for ask in (driver.change([(WRITE, (part, 1, b""))]), driver.decide([(HEAD, (1, part, None))])):
            refused, _ = await outcome(ask)
            assert not isinstance(refused, Unknown)
            assert "driver_reader has no MODIFY permission" in refused.message
        assert await driver.run(READ, (part,)) == []
        assert driver.metrics.errors["unauthorized"] == 2


async def test_a_frozen_node_is_given_up_soon_and_answers_within_a_second(cluster, driver, part):
    await driver.run(READ, (part,))
    await driver.decide([(HEAD, (1, part, None))])
    node = cluster.node("dc1")
    node.stop()
    try:
        first = await asyncio.gather(
            *(outcome(driver.run(READ, (part,))) for _ in range(4)), outcome(driver.decide([(HEAD, (2, part, 1))]))
        )
        assert all(0.9 < seconds < 2.0 for _, seconds in first)
        assert [type(refused) for refused, _ in first] == [Unavailable] * 4 + [Unknown]
        await asyncio.sleep(0.5)  # the node itself is asked before it is given up
        assert driver.metrics.breaker_open
        for ask in (driver.run(READ, (part,)), driver.run("SELECT p FROM rows WHERE p = ?", (part,))):
            refused, seconds = await outcome(ask)
            assert seconds < SOON_S
        refused, seconds = await outcome(driver.decide([(HEAD, (3, part, 2))]))
        assert seconds < SOON_S
        assert type(refused) is Unavailable  # nothing was sent
    finally:
        node.cont()
    assert await answers_after(driver, lambda: driver.run(READ, (part,))) < 15.0
    assert not driver.metrics.breaker_open
    assert driver.metrics.breaker_opened == 1


async def test_a_frozen_node_stays_given_up_longer_than_the_driver_notices(cluster, driver, part):
    node = cluster.node("dc1")
    await driver.run(READ, (part,))
    node.stop()
    try:
        end = time.monotonic() + 7.0  # heartbeats fail meanwhile, and the driver tries to connect anew
        while time.monotonic() < end:
            _, seconds = await outcome(driver.run(READ, (part,)))
            assert seconds < 2.0
            await asyncio.sleep(0.1)
    finally:
        node.cont()
    assert (
        await answers_after(driver, lambda: driver.run(READ, (part,))) < 20.0
    )  # a node that wakes on a busy machine takes its time


async def test_a_quorum_that_is_frozen_leaves_a_decision_unknown_until_it_is_read(cluster, driver, part):
    await driver.decide([(HEAD, (1, part, None))])
    others = [cluster.node(one) for one in ("dc2", "dc3")]
    for node in others:
        node.stop()
    try:
        refused, _ = await outcome(driver.decide([(HEAD, (2, part, 1))]))
        assert type(refused) is Unknown
        refused, _ = await outcome(driver.change([(WRITE, (part, 1, b""))], consistency="QUORUM"))
        assert type(refused) is Unavailable
        await driver.change([(WRITE, (part, 2, b""))], consistency="LOCAL_QUORUM")
        assert not driver.metrics.breaker_open  # it does answer
    finally:
        for node in others:
            node.cont()

    async def head():
        return await driver.run("SELECT head FROM rows WHERE p = ? LIMIT 1", (part,), consistency="SERIAL")

    await answers_after(driver, head, 40.0)
    assert await head() in ([(1,)], [(2,)])


async def test_a_node_that_lives_is_not_given_up_for_the_silence_of_others(cluster, section, part):
    async with session(dataclasses.replace(section, request_timeout_s=0.4)) as driver:
        await driver.run(READ, (part,))
        others = [cluster.node(one) for one in ("dc2", "dc3")]
        for node in others:
            node.stop()
        try:
            missed = [outcome(driver.run(READ, (part,), consistency="QUORUM")) for _ in range(8)]
            assert {type(refused) for refused, _ in await asyncio.gather(*missed)} == {Unavailable}
            await asyncio.sleep(0.5)
            assert not driver.metrics.breaker_open
            await driver.run(READ, (part,), consistency="LOCAL_ONE")
        finally:
            for node in others:
                node.cont()


async def test_a_node_that_was_killed_is_used_again_with_the_same_statements(cluster, driver, part):
    await driver.change([(WRITE, (part, 1, b"kept"))], consistency="QUORUM")
    await driver.run(READ, (part,))
    node = cluster.node("dc1")
    node.kill()
    refused, seconds = await outcome(driver.run(READ, (part,)))
    assert seconds < SOON_S + 1.0
    refused, _ = await outcome(driver.decide([(HEAD, (1, part, None))]))
    assert type(refused) is Unavailable  # nobody was there to be asked
    node.start()
    began = time.monotonic()
    while True:  # the node takes CQL before it knows the others
        if await asyncio.to_thread(node.answers):
            break
        assert time.monotonic() - began < 90
    assert await answers_after(driver, lambda: driver.run(READ, (part,))) < 15.0
    assert await driver.run(READ, (part,)) == [(1, b"kept")]


async def test_closing_ends_what_is_waited_for(section, cluster, part):
    driver = await session(section).__aenter__()
    await driver.close()
    with pytest.raises(Unavailable):
        await driver.run(READ, (part,))


def test_without_libev_the_refusal_names_the_cure():
    program = (
        "import sys, asyncio; sys.modules['cassandra.io.libevwrapper'] = None\n"
        "from regional_keystone.adapters.cassandra_driver import Driver\n"
        "from regional_keystone.settings import Cassandra\n"
        "asyncio.run(Driver.open(Cassandra(contact_points=('127.0.0.1',))))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert "StoreRefused: the Cassandra driver has no libev event loop here" in done.stderr
    assert "install cassandra-driver from its wheel" in done.stderr


def _other_ca(folder):
    from tests.engines import certificates

    return certificates.make(folder, ["127.0.0.1"]).ca


def _relayed(host, port):
    async def relay(reader, writer):
        there, back = await asyncio.open_connection(host, port)

        async def pump(source, target):
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    return relay
