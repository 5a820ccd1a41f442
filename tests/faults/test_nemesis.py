"""What breaks things: a seed is a schedule, and each tool breaks what it says and mends it again."""

import os
import random
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from itertools import islice

import pytest

from tests.faults import packets
from tests.faults.clocks.sitecustomize import OFFSET_NS
from tests.faults.cluster import CLOCKS, Topology
from tests.faults.nemesis import KINDS, schedule
from tests.faults.poison import spoil
from tests.faults.relay import Relay

TOPOLOGY = Topology(
    controllers=["controller", "controller-2"],
    sites=["RegionOne", "RegionTwo", "RegionThree"],
    cassandra=["cassandra1", "cassandra2", "cassandra3"],
    zookeeper=["zookeeper1", "zookeeper2", "zookeeper3"],
    memcached=["memcached1", "memcached2", "memcached3"],
    proxies=["haproxy"],
    regions=[["cassandra1", "controller", "RegionOne"], ["cassandra2", "controller-2", "RegionTwo"]],
)
TALKER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as line:
    while data := line.recv(100):
        line.sendall(data)
"""


def test_a_seed_is_a_schedule():
    def steps(seed):
        return list(islice(schedule(seed, list(KINDS), TOPOLOGY), 100))

    assert steps(1) == steps(1)
    assert steps(1) != steps(2)


def test_a_schedule_has_every_kind_and_nobody_who_is_not_there():
    everybody = {name for names in (TOPOLOGY.controllers, TOPOLOGY.sites, TOPOLOGY.cassandra) for name in names}
    everybody |= {*TOPOLOGY.zookeeper, *TOPOLOGY.memcached, *TOPOLOGY.proxies, "up", "down", "both"}
    steps = list(islice(schedule(3, list(KINDS), TOPOLOGY), len(KINDS)))
    assert {step.fault for step in steps} == KINDS.keys()
    assert {name for step in steps for name in step.targets} <= everybody
    assert all(KINDS[step.fault].least_s <= step.seconds <= KINDS[step.fault].most_s for step in steps)


@contextmanager
def echo():
    """A server that gives back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(line):
        with line, suppress(OSError):
            while data := line.recv(100):
                line.sendall(data)

    def accept():
        with suppress(OSError):
            while True:
                line, _ = server.accept()
                threading.Thread(target=serve, args=(line,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def passes(line, within_s=1.0):
    """Whether something comes back."""
    line.settimeout(within_s)
    try:
        line.sendall(b"x")
        return line.recv(100) != b""
    except OSError:
        return False


@pytest.fixture
def relayed():
    """(relay, connection through it)."""
    with echo() as target:
        relay = Relay(lambda: target).start()
        try:
            with socket.create_connection(("127.0.0.1", relay.port)) as line:
                assert passes(line)
                yield relay, line
        finally:
            relay.stop()


def test_a_relay_that_is_cut_breaks_connections_and_mends(relayed):
    relay, line = relayed
    relay.cut()
    assert not passes(line)
    relay.mend()
    with socket.create_connection(("127.0.0.1", relay.port)) as again:
        assert passes(again)


@pytest.mark.parametrize("directions", [(), ("up",), ("down",)], ids=["both", "up", "down"])
def test_a_relay_that_holds_is_silent_and_loses_nothing(relayed, directions):
    relay, line = relayed
    relay.hold(*directions)
    assert not passes(line, 0.3)
    relay.mend()
    line.settimeout(5)
    assert line.recv(100) == b"x"


@pytest.mark.engines("wan")
def test_packets_between_two_processes_are_lost_and_come_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", TALKER, str(port)]) as talker:
            line, _ = server.accept()
            with line:
                assert passes(line)
                try:
                    assert packets.sever([talker.pid], [os.getpid()], [packets.Door("127.0.0.1/32", [port])]) == 1
                    assert not passes(line, 0.3)
                    with pytest.raises(OSError, match="timed out"):
                        socket.create_connection(("127.0.0.1", port), timeout=0.3)
                finally:
                    packets.mend()
                line.settimeout(10)
                assert line.recv(100) == b"x"


@pytest.mark.engines("wan")
def test_a_silenced_port_takes_what_it_is_sent():
    with echo() as (address, port), socket.create_connection((address, port)) as line:
        try:
            packets.silence([packets.End(address, port)])
            assert not passes(line, 0.3)
        finally:
            packets.mend()
        line.settimeout(10)
        assert line.recv(100) == b"x"


def test_another_program_spoils_what_is_in_memcached(memcached):
    server = memcached[0]
    with socket.create_connection((server.address, server.port)) as line:
        line.sendall(b"flush_all\r\n")
        assert line.recv(100) == b"OK\r\n"
        for number in range(20):  # of each its own: one evil is to put another's in its place
            line.sendall(b"set k%d 0 100 7\r\nright%02d\r\n" % (number, number))
            assert line.recv(100) == b"STORED\r\n"
        assert spoil(server.address, server.port, random.Random(1)) >= 20
        line.sendall(b"get k3\r\n")
        assert b"right03\r\n" not in line.recv(200_000)


def test_a_process_whose_clock_is_set_goes_on_by_its_monotonic_clock(tmp_path):
    program = "import time; print(time.time_ns() // 10**9, int(time.clock_gettime(time.CLOCK_BOOTTIME)), flush=True)"
    words = [sys.executable, "-P", "-c", f"while True: input(); {program}", "--config", "RegionOne.conf"]
    environment = {**os.environ, "PYTHONPATH": str(CLOCKS), "FAULTS_CLOCKS": str(tmp_path)}
    with subprocess.Popen(words, env=environment, stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        seen = []
        for ahead_s in (0, 1000, -1000):
            (tmp_path / "RegionOne").touch()
            with (tmp_path / "RegionOne").open("r+b") as file:
                file.write(OFFSET_NS.pack(ahead_s * 10**9))
            process.stdin.write("\n")
            seen.append([*map(int, process.stdout.readline().split()), ahead_s])
        process.kill()
    wall, ticks, _ = seen[0]
    for now, monotonic, ahead_s in seen:
        assert abs(now - wall - ahead_s) < 60
        assert 0 <= monotonic - ticks < 60
