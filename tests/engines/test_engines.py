"""The engines themselves: that they serve as promised, come back, and leave nothing behind."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.engines import addresses, cql, process
from controller.engines.cassandra import SUPERUSER
from controller.engines.process import EngineError, Keeper
from controller.engines.wan import HOME
from controller.federation import FederationError
from tests.engines.tcp_proxy import TcpProxy
from tests.processes import until


def of(directory):
    """Every process that has this directory on its command line, is in it, or holds it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_text(errors="replace")
            if str(directory) in words or str((path / "cwd").readlink()).startswith(str(directory)):
                found.append(int(path.name))
    return found


OWNER = """
import sys, time
from pathlib import Path
from controller.engines import install, memcached, process
keeper = process.Keeper()
server = memcached.Memcached(keeper, install.look().memcached, 1)
server.start()
server.await_ready()
sleeper = keeper.start(["sleep", "1000"], keeper.directory)
print(keeper.directory, keeper._program.pid, server.address, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def owner():
    """A process that has started engines: itself, their directory, the keeper's process, an address."""
    program = [sys.executable, "-c", OWNER]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as started:
        try:
            directory, keeper, address = started.stdout.readline().split()
            yield started, Path(directory), int(keeper), address
        finally:
            started.kill()
            shutil.rmtree(directory, ignore_errors=True)  # where the keeper was killed as well


pytestmark = pytest.mark.engines("memcached")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_whoever_ends_the_owner_ends_the_engines_and_their_directory(owner, number):
    started, directory, _, address = owner
    assert len(of(directory)) >= 3
    started.send_signal(number)
    until(lambda: not of(directory), "every process to end")
    until(lambda: not directory.exists(), "the directory to go")
    assert addresses.is_free(address, 11211)


def test_stopped_engines_end_with_their_owner(owner):
    started, directory, _, _ = owner
    for pid in of(directory):
        if "sleep" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGSTOP)
    started.kill()
    until(lambda: not of(directory), "every process to end")


def test_engines_end_when_their_keeper_is_killed(owner):
    _, directory, keeper, address = owner
    os.kill(keeper, signal.SIGKILL)
    until(lambda: len(of(directory)) == 0, "every process to end")
    until(lambda: addresses.is_free(address, 11211), "memcached, which runs as another user, to end")


def test_a_directory_whose_keeper_and_owner_were_killed_at_once_goes_with_the_next_start(owner):
    started, directory, keeper, _ = owner
    os.kill(keeper, signal.SIGSTOP)
    started.kill()
    started.wait()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not of(directory), "every process to end")
    assert directory.exists()
    process.sweep()
    assert directory.exists()  # just made: its owner may not have locked it yet
    os.utime(directory, (1, 1))
    process.sweep()
    assert not directory.exists()


def test_a_directory_in_use_is_not_swept(owner):
    _, directory, _, _ = owner
    os.utime(directory, (1, 1))
    process.sweep()
    assert directory.exists()


def test_two_owners_get_addresses_of_their_own(tmp_path):
    with Keeper() as one, Keeper(tmp_path) as other:
        assert one.address(1) != other.address(1)
        with pytest.raises(FederationError, match="in use"):
            addresses.claim(other.address(1).rpartition(".")[0])
        with pytest.raises(EngineError, match="already run"):
            Keeper(tmp_path)
        before = other.address(1)
    with Keeper(tmp_path) as again:
        assert again.address(1) == before
    assert tmp_path.exists()


def test_a_program_that_does_not_exist_is_named(engine_keeper):
    with pytest.raises(EngineError, match="no-such-program"):
        engine_keeper.start(["no-such-program"], engine_keeper.directory)


def test_an_engine_that_ends_early_says_why(engine_keeper, memcached):
    broken = type(memcached[0])(engine_keeper, Path("/bin/false"), 9)
    broken.start()
    with pytest.raises(EngineError, match=r"memcached9.*ended with 1"):
        broken.await_ready()


def test_memcached_serves_and_forgets_when_killed(memcached):
    one = memcached[0]
    assert exchange(one, b"set k 0 0 1\r\nv\r\n") == b"STORED\r\n"
    assert exchange(one, b"get k\r\n").startswith(b"VALUE k 0 1")
    one.kill()
    assert not one.is_running
    assert not one.answers()
    one.start()
    one.await_ready()
    assert exchange(one, b"get k\r\n") == b"END\r\n"


def test_a_stopped_engine_hangs_and_goes_on(memcached):
    one = memcached[1]
    one.stop()
    assert one.is_stopped
    assert one.is_running
    assert not one.answers()
    one.cont()
    assert one.answers()


def test_what_a_test_harms_is_healed_after_it_part_one(memcached):
    memcached[1].stop()
    memcached[2].kill()


def test_what_a_test_harms_is_healed_after_it_part_two(memcached):
    assert all(one.answers() for one in memcached)


def test_memcached_runs_as_nobody_rather_than_as_root(memcached):
    assert Path(f"/proc/{memcached[0].process.pid}").stat().st_uid != 0


def test_memcached_speaks_tls_by_our_ca(memcached_tls, engine_ca):
    context = ssl.create_default_context(cafile=engine_ca)
    with (
        socket.create_connection((memcached_tls.address, memcached_tls.port)) as plain,
        context.wrap_socket(plain, server_hostname=memcached_tls.address) as asked,
    ):
        asked.sendall(b"version\r\n")
        assert asked.recv(100).startswith(b"VERSION")


def exchange(server, said):
    with socket.create_connection((server.address, server.port), 5) as asked:
        asked.sendall(said)
        return asked.recv(1000)


def test_zookeeper_elects_another_leader(zookeeper):
    first = zookeeper.leader()
    assert sorted(one.mode() for one in zookeeper.servers) == ["follower", "follower", "leader"]
    first.kill()
    until(lambda: any(one.mode() == "leader" for one in zookeeper.servers), "another leader")
    first.start()
    first.await_ready()
    assert first.mode() == "follower"


BACKENDS = """
defaults
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
frontend all
  bind {address}:18080
  http-request return status 200 content-type text/plain string "{said}"
"""


def test_haproxy_serves_and_reads_its_configuration_again(haproxy, engine_keeper):
    address = engine_keeper.address(1)
    proxy = haproxy(BACKENDS.format(address=address, said="one"), [(address, 18080)])
    assert ask_http(address).endswith(b"one")
    proxy.reload(BACKENDS.format(address=address, said="two"))
    until(lambda: ask_http(address).endswith(b"two"), "the new configuration")
    with pytest.raises(EngineError, match=r"haproxy.* refuses its configuration.*nonsense"):
        proxy.reload("nonsense")
    assert ask_http(address).endswith(b"two")
    workers = proxy.workers()
    proxy.kill()
    until(lambda: not any(Path(f"/proc/{one}").exists() for one in workers), "its workers to end")


def ask_http(address):
    with socket.create_connection((address, 18080), 5) as asked:
        asked.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: asked.recv(1000), b""))


@pytest.fixture(scope="module")
def table(cassandra_cluster):
    first = cassandra_cluster.nodes[0]
    replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1, 'dc3': 1}"
    made = f"CREATE KEYSPACE IF NOT EXISTS engines_own WITH replication = {replication}"
    until(lambda: does(first, made), "the keyspace")
    until(lambda: does(first, "CREATE TABLE IF NOT EXISTS engines_own.t (k text PRIMARY KEY, v text)"), "the table")
    cassandra_cluster.await_agreement()
    yield "engines_own.t"
    until(lambda: does(first, "DROP KEYSPACE IF EXISTS engines_own"), "the keyspace to go")


def does(node, statement, level=cql.ONE):
    """Whether it is done; a busy machine's nodes give up on each other now and then."""
    try:
        node.ask(statement, level, timeout_s=30)
    except (OSError, cql.CqlError):
        return False
    return True


def test_cassandra_is_three_data_centres_with_passwords(cassandra_cluster):
    for node in cassandra_cluster.nodes:
        assert node.ask("SELECT data_center FROM system.local") == [(node.data_centre.encode(),)]
        assert len(node.ask("SELECT peer FROM system.peers")) == 2
        with pytest.raises(cql.CqlError) as refused:
            cql.Node(node.address, node.port, SUPERUSER, "wrong")
        assert refused.value.code == cql.BAD_CREDENTIALS
    settings = dict(cassandra_cluster.nodes[0].ask("SELECT name, value FROM system_views.settings"))
    assert settings[b"commitlog_sync"] == b"batch"
    assert settings[b"paxos_variant"] == b"v2"
    assert settings[b"authorizer"].endswith(b"CassandraAuthorizer")


def test_a_node_that_was_killed_comes_back_with_its_data(cassandra_cluster, table):
    second = cassandra_cluster.node("dc2")
    kept = f"INSERT INTO {table} (k, v) VALUES ('kept', 'here')"
    until(lambda: does(cassandra_cluster.nodes[0], kept, cql.ALL), "all replicas to have it")
    second.kill()
    assert not second.is_running
    with pytest.raises(OSError, match="refused"):
        second.ask("SELECT key FROM system.local")
    second.start()
    cassandra_cluster.await_ready()
    assert second.ask(f"SELECT v FROM {table} WHERE k = 'kept'") == [(b"here",)]


def test_a_stopped_node_is_not_missed_by_a_quorum_and_logging_in_goes_on(cassandra_cluster, table):
    cassandra_cluster.node("dc3").stop()
    for node in cassandra_cluster.nodes[:2]:
        until(lambda node=node: writes(node, table), "a quorum of two")


def writes(node, table, level=cql.QUORUM):
    """Whether it takes a write; one that is silent may still be asked first."""
    return does(node, f"INSERT INTO {table} (k, v) VALUES ('w', 'w')", level)


def test_after_a_stopped_node_all_replicas_serve(cassandra_cluster, table):
    for node in cassandra_cluster.nodes:
        until(lambda node=node: writes(node, table, cql.ALL), f"all replicas by {node.name}")


def test_a_data_centre_that_is_cut_off_serves_itself_alone(cassandra_cluster, table, wan):
    insert = f"INSERT INTO {table} (k, v) VALUES ('cut', '{{}}')"
    third = cassandra_cluster.node("dc3")
    with cql.Node(third.address, third.port, SUPERUSER, cassandra_cluster.password) as asked:  # it needs a quorum
        wan.cut(3)
        asked.ask(insert.format("alone"), cql.LOCAL_QUORUM)
        with pytest.raises(cql.CqlError, match=r"timed out|Cannot achieve"):
            asked.ask(insert.format("together"), cql.QUORUM)
        until(lambda: writes(cassandra_cluster.nodes[0], table), "a quorum of the two others")


def test_a_wide_area_network_is_felt_by_a_quorum(cassandra_cluster, table, wan):
    node, select = cassandra_cluster.nodes[0], f"SELECT v FROM {table} WHERE k = 'cut'"
    with cql.Node(node.address, node.port, SUPERUSER, cassandra_cluster.password) as asked:
        wan.slow(0.05)
        local, far = (min(took_s(asked, select, level) for _ in range(5)) for level in (cql.LOCAL_QUORUM, cql.QUORUM))
    assert local < 0.1 <= far


def took_s(asked, statement, level):
    began = time.monotonic()
    asked.ask(statement, level)
    return time.monotonic() - began


def test_cassandra_speaks_tls_at_the_same_port(cassandra_cluster, engine_ca):
    context = ssl.create_default_context(cafile=engine_ca)
    node = cassandra_cluster.nodes[0]
    with (
        socket.create_connection((node.address, node.port), 5) as plain,
        context.wrap_socket(plain, server_hostname=node.address) as asked,
    ):
        asked.sendall(b"\x04\0\0\0\x05\0\0\0\0")  # OPTIONS
        assert asked.recv(9)[4] == 0x06  # SUPPORTED


def test_a_proxy_makes_the_outcome_of_a_write_unknown(cassandra_cluster, table):
    node = cassandra_cluster.nodes[0]
    insert = f"INSERT INTO {table} (k, v) VALUES ('unknown', 'done')"
    with TcpProxy((node.address, node.port)) as proxy:
        with cql.Node(proxy.address, proxy.port, SUPERUSER, cassandra_cluster.password, 1.0) as asked:
            asked.ask("SELECT key FROM system.local")
            proxy.swallow()
            with pytest.raises(TimeoutError):
                asked.ask(insert)
        assert proxy.swallowed > 0
        assert node.ask(f"SELECT v FROM {table} WHERE k = 'unknown'") == [(b"done",)]
        proxy.heal()
        with cql.Node(proxy.address, proxy.port, SUPERUSER, cassandra_cluster.password, 2.0) as asked:
            proxy.cut_on_answer()
            with pytest.raises(ConnectionResetError):
                asked.ask(insert)
        with cql.Node(proxy.address, proxy.port, SUPERUSER, cassandra_cluster.password, 2.0) as asked:
            proxy.cut()
            with pytest.raises(OSError, match=r"closed|reset|pipe"):
                asked.ask(insert)
        with pytest.raises(OSError, match=r"closed|reset|refused|pipe"):
            cql.Node(proxy.address, proxy.port, SUPERUSER, cassandra_cluster.password, 2.0)


def test_a_proxy_delays_and_freezes(memcached):
    with TcpProxy((memcached[0].address, memcached[0].port)) as proxy:
        with socket.create_connection((proxy.address, proxy.port), 2) as asked:
            proxy.slow(0.1)
            began = time.monotonic()
            asked.sendall(b"version\r\n")
            assert asked.recv(100).startswith(b"VERSION")
            assert time.monotonic() - began >= 0.2
            proxy.heal()
            proxy.freeze()
            asked.settimeout(0.2)
            asked.sendall(b"version\r\n")
            with pytest.raises(TimeoutError):
                asked.recv(100)
            proxy.heal()
            asked.settimeout(2)
            assert asked.recv(100).startswith(b"VERSION")


def test_a_wide_area_network_delays_and_cuts(wan, engine_keeper):
    """Seen by a server in one place and a client in another."""
    folder = wan.folder
    echo = (
        "import socket\ns = socket.create_server((%r, 7))\nwhile True:\n c = s.accept()[0]\n c.sendall(b'x'); c.close()"
    )
    process_ = engine_keeper.start([*wan.enter(1), sys.executable, "-c", echo % wan.address(1)], folder)
    until(lambda: round_trip(None, wan) is not None, "the server")
    wan.slow(0.05)
    assert round_trip(2, wan) >= 0.2  # to connect, and to be answered
    assert min(round_trip(None, wan) for _ in range(5)) < 0.1  # the tests are near to all
    wan.cut(1)
    assert round_trip(2, wan) is None
    assert round_trip(None, wan) is not None
    wan.heal()
    assert round_trip(2, wan) >= 0.1
    wan.slow(0.0)
    assert min(round_trip(2, wan) for _ in range(5)) < 0.1
    assert wan.address(HOME).endswith(".254")
    process_.signal(signal.SIGKILL)
    assert process_.wait(5)


ASK = """
import socket, sys, time
began = time.monotonic()
try:
    with socket.create_connection((sys.argv[1], 7), 2) as asked:
        asked.recv(1)
        print(time.monotonic() - began)
except OSError:
    pass
"""


def round_trip(place, wan):
    """Seconds that connecting and one answer take, from a place or from here; None when it does not come."""
    inside = [] if place is None else wan.enter(place)
    done = subprocess.run(
        [*inside, sys.executable, "-c", ASK, wan.address(1)], capture_output=True, text=True, check=True
    )
    return float(done.stdout) if done.stdout else None
