"""What every cache promises, and what one behind a network promises besides, on a real memcached."""

import asyncio
import contextlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.engines.memcached import Memcached
from regional_keystone.adapters import memcached as adapter
from regional_keystone.settings import Memcached as Section
from tests.engines import certificates
from tests.site.cache_server import CacheServer

PATIENT_S = 30.0  # where a test is about something else than deadlines
DEADLINE_S = 0.05
SOON_S = 2.0  # for a deadline of 50 ms, on a machine that may have a lot of other things to do


@pytest.fixture
def running(memcached):
    return CacheServer(memcached[0])


@pytest.fixture
def server(running):
    running.flush()
    return running


@pytest.fixture
def mortal(memcached):
    """A server that a test may stop; it is healed afterwards."""
    made = CacheServer(memcached[1])
    made.flush()
    return made


@contextlib.asynccontextmanager
async def opened(*addresses, timeout_s=PATIENT_S, **options):
    cache = adapter.Memcached(Section(servers=addresses, timeout_s=timeout_s, **options))
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def cache(server):
    async with opened(server.address) as made:
        yield made


async def until(condition, within_s=10.0):
    """How long it took until this was so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def timed(coroutine):
    began = time.monotonic()
    return await coroutine, time.monotonic() - began


# --- every cache -----------------------------------------------------------------------------------------------------


async def test_a_value_is_there_until_its_time_is_over(cache):
    await cache.set_many({"a": b"1", "b": b""}, 1)
    await cache.set_many({"c": b"3"}, 100)
    assert await cache.get_many(["a", "b", "c", "d"]) == {"a": b"1", "b": b"", "c": b"3"}
    await asyncio.sleep(2.1)
    assert await cache.get_many(["a", "b", "c", "d"]) == {"c": b"3"}
    await cache.set_many({"c": b"4"}, 0)
    assert await cache.get_many(["c"]) == {}


NAMES = st.one_of(st.sampled_from(["", " ", "a\r\nget b", "é", "\ud800", "x" * 5000, "a", "b"]), st.text())


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=3000)), max_size=30))
def test_it_holds_what_was_put_in_whatever_the_names_and_bytes(running, steps):
    running.flush()
    model = {}

    async def run():
        async with opened(running.address) as cache:
            for name, value in steps:
                if value is None:
                    assert await cache.get_many([name]) == {key: model[key] for key in (name,) if key in model}
                else:
                    await cache.set_many({name: value}, 100)
                    model[name] = value
            assert await cache.get_many(list(model)) == model
            assert not cache.failures()

    asyncio.run(run())


async def test_nobody_ever_gets_what_another_asked_for(cache):
    """Not even when some of those who ask together go away before the answer comes."""
    await cache.set_many({f"user {n}": b"%d" % n * 50 for n in range(500)}, 100)

    async def ask(n):
        for _ in range(4):
            assert await cache.get_many([f"user {n}"]) == {f"user {n}": b"%d" % n * 50}

    for _ in range(5):
        tasks = [asyncio.create_task(ask(n)) for n in range(500)]
        for moment, task in enumerate(tasks[::10]):
            await asyncio.sleep(0 if moment % 2 else 0.0005)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in outcomes} <= {type(None), asyncio.CancelledError}
    assert not cache.failures()


async def test_what_does_not_fit_is_left_out_and_counted(cache):
    await cache.set_many({"large": b"x" * (adapter.MAX_VALUE_BYTES + 1), "small": b"x" * adapter.MAX_VALUE_BYTES}, 100)
    assert (await cache.get_many(["large", "small"])).keys() == {"small"}
    assert cache.failures() == {"too_large": 1}


async def test_a_closed_one_is_empty_and_leaves_no_thread(server):
    before = threading.active_count()
    async with opened(server.address) as cache:
        await cache.set_many({"a": b"1"}, 100)
        waiting = asyncio.create_task(cache.get_many(["a"]))
    assert await cache.get_many(["a"]) == {}
    await cache.set_many({"a": b"1"}, 100)
    assert await waiting in ({}, {"a": b"1"})
    await until(lambda: threading.active_count() <= before)


# --- one behind a network --------------------------------------------------------------------------------------------


async def test_gets_of_one_turn_go_as_one_request(cache):
    await cache.set_many({str(n): b"%d" % n for n in range(200)}, 100)
    sent = []
    for server in cache._servers.values():
        for lane in server._lanes:
            lane.get_many = lambda keys, ask=lane.get_many: (sent.append(len(keys)), ask(keys))[1]
    found = await asyncio.gather(*(cache.get_many([str(n), "no"]) for n in range(200)))
    assert found == [{str(n): b"%d" % n} for n in range(200)]
    assert sent == [201]


async def test_a_server_has_two_requests_under_way_and_two_threads_at_most(mortal):
    async with opened(mortal.address, timeout_s=1.0) as cache:
        await cache.set_many({"a": b"1"}, 100)
        before = threading.active_count()
        mortal.freeze()
        asked = []
        for _ in range(20):  # turns of their own
            asked += [asyncio.create_task(cache.get_many(["a"])) for _ in range(20)]
            await asyncio.sleep(0.01)
        assert threading.active_count() <= before + 1
        assert len(next(iter(cache._servers.values()))._busy) == 2
        assert await asyncio.gather(*asked) == [{}] * 400
        mortal.thaw()


@pytest.mark.parametrize(("how", "why"), [("frozen", "timeout"), ("killed", "connection")])
async def test_a_server_that_is_away_is_a_miss_within_the_deadline_then_at_once_and_used_again(mortal, how, why):
    async with opened(mortal.address, timeout_s=DEADLINE_S if how == "frozen" else SOON_S) as cache:
        await cache.set_many({"a": b"1"}, 100)
        await until(lambda: all(cache.servers().values()))
        before = cache.failures().total()
        mortal.freeze() if how == "frozen" else mortal.kill()
        found, took = await timed(asyncio.gather(*(cache.get_many(["a"]) for _ in range(1000))))
        assert found == [{}] * 1000
        assert took < SOON_S
        assert cache.failures()[why] > 0
        assert cache.failures().total() == before + 1
        assert not any(cache.servers().values())
        asking = [asyncio.create_task(cache.get_many(["a"])), asyncio.create_task(cache.set_many({"a": b"2"}, 100))]
        for _ in range(3):
            await asyncio.sleep(0)
        assert all(one.done() for one in asking), "nobody waits for one that is known to be away"
        await asyncio.sleep(1.2)  # it is asked now and then, in the background
        assert not any(cache.servers().values())
        assert cache.failures().total() == before + 1
        mortal.thaw() if how == "frozen" else mortal.start()
        assert await until(lambda: all(cache.servers().values())) < SOON_S
    async with opened(mortal.address) as cache:
        await cache.set_many({"a": b"3"}, 100)
        assert await cache.get_many(["a"]) == {"a": b"3"}


def test_one_that_is_back_is_asked_again_within_a_second():
    assert adapter.RETRY_S <= 0.5


async def test_a_server_that_was_never_there_is_no_reason_to_fail_or_wait(mortal):
    mortal.kill()
    async with opened(mortal.address, timeout_s=DEADLINE_S) as cache:
        found, took = await timed(cache.get_many(["a"]))
        assert found == {}
        assert took < SOON_S
        assert cache.failures() == {"connection": 1}


async def test_one_server_that_is_away_costs_only_its_own_keys(server, mortal):
    async with opened(server.address, mortal.address, timeout_s=1.0) as cache:
        values = {str(n): b"%d" % n for n in range(100)}
        async with opened(server.address) as patient:
            await patient.set_many(values, 100)
        mortal.freeze()
        found, took = await timed(cache.get_many(list(values)))
        assert 20 < len(found) < 80
        assert took < 2 * SOON_S
        assert cache.servers() == {server.address: True, mortal.address: False}
        mortal.thaw()


async def test_a_set_that_is_refused_is_counted_and_the_server_still_asked(engine_keeper, engine_programs):
    class Small(Memcached):
        def command(self):
            return [*super().command(), "-I", "512k"]

    small = Small(engine_keeper, engine_programs.memcached, 4)
    small.start()
    try:
        small.await_ready()
        async with opened(small.server) as cache:
            await cache.set_many({"large": b"x" * 900_000}, 100)
            assert cache.failures() == {"refused": 1}
            await cache.set_many({"small": b"x"}, 100)
            assert await cache.get_many(["large", "small"]) == {"small": b"x"}
    finally:
        small.end()


LIES = {
    "rubbish": b"\x00\xff rubbish\r\n" * 10,
    "a value nobody asked for": b"VALUE rk:00 0 1\r\nx\r\nEND\r\n",
    "a size that is no number": b"VALUE %s 0 x\r\nEND\r\n",
    "a size that never comes": b"VALUE %s 0 99999999999\r\nx",
    "a negative size": b"VALUE %s 0 -5\r\nEND\r\n",
    "half a line": b"VALUE ",
    "a line without end": b"VALUE" * 100_000,
    "an error": b"SERVER_ERROR out of memory\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing": b"",
}


@contextlib.asynccontextmanager
async def liar(reply, *, hangs_up=False, every_s=None):
    """A server that answers every request with this."""

    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while line := await reader.readline():
                key = line.split()[-1]
                said = reply.replace(b"%s", key)
                for piece in [said] if every_s is None else [said[n : n + 1] for n in range(len(said))]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(every_s or 0)
                if hangs_up:
                    break
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies_is_a_miss_and_a_count(lie, hangs_up):
    async with liar(LIES[lie], hangs_up=hangs_up) as address, opened(address, timeout_s=DEADLINE_S) as cache:
        found, took = await timed(cache.get_many(["a"]))
        assert found == {}
        assert took < SOON_S
        assert cache.failures().total() == 1
        assert not cache.servers()[address]


async def test_a_server_that_drips_holds_nobody_past_the_deadline_and_no_thread_for_long():
    before = threading.active_count()
    reply = b"VALUE %s 0 1000\r\n" + b"x" * 1000
    async with liar(reply, every_s=0.02) as address:
        async with opened(address, timeout_s=DEADLINE_S) as cache:
            found, took = await timed(cache.get_many(["a"]))
            assert found == {}
            assert took < SOON_S
            assert cache.failures() == {"timeout": 1}
            await until(lambda: not next(iter(cache._servers.values()))._busy, SOON_S)
        await until(lambda: threading.active_count() <= before)


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up_in_time():
    async with liar(b"") as address, opened(address, timeout_s=DEADLINE_S) as cache:
        _, took = await timed(cache.set_many({"a": b"1" * 1000}, 100))
        assert took < SOON_S
        assert cache.failures() == {"timeout": 1}


# --- several servers -------------------------------------------------------------------------------------------------

SERVERS = [f"10.0.0.{n}:11211" for n in range(1, 6)]
KEYS = [f"rk:{n:040x}" for n in range(20_000)]


def test_the_order_of_the_servers_does_not_matter():
    one, other = adapter.Ring(SERVERS), adapter.Ring([*reversed(SERVERS), SERVERS[0]])
    assert all(one.of(key) == other.of(key) for key in KEYS)


def test_a_server_that_is_taken_away_moves_only_its_own_keys():
    whole, less = adapter.Ring(SERVERS), adapter.Ring(SERVERS[1:])
    for key in KEYS:
        assert less.of(key) == whole.of(key) or whole.of(key) == SERVERS[0]


def test_every_server_has_its_share():
    ring = adapter.Ring(SERVERS)
    shares = [sum(ring.of(key) == server for key in KEYS) / len(KEYS) for server in SERVERS]
    assert 0.1 < min(shares)
    assert max(shares) < 0.3


async def test_two_processes_find_each_others_values_whatever_the_order_of_their_lists(server, mortal):
    values = {str(n): b"%d" % n for n in range(200)}
    async with opened(server.address, mortal.address) as one, opened(mortal.address, server.address) as other:
        await one.set_many(values, 100)
        assert await other.get_many(list(values)) == values
    assert server.keys()
    assert mortal.keys()


@pytest.mark.parametrize("name", ["", "host:port", "host:0", "host:70000", ":11211"])
def test_a_server_that_cannot_be_meant_is_refused(name):
    with pytest.raises(ValueError, match="host:port"):
        adapter.Memcached(Section(servers=(name,)))


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls_is_for_a_ca_that_is_known(memcached_tls, engine_ca, tmp_path):
    stranger = certificates.make(tmp_path, [memcached_tls.address]).ca
    for ca, works in ((engine_ca, True), (stranger, False)):
        async with opened(memcached_tls.server, tls_ca=ca) as cache:
            await cache.set_many({"a": b"1"}, 100)
            assert await cache.get_many(["a"]) == ({"a": b"1"} if works else {})
            assert cache.failures() == ({} if works else {"connection": 1})


async def test_tls_is_for_the_host_that_was_meant(engine_keeper, engine_programs, tmp_path):
    other = certificates.make(tmp_path, [engine_keeper.address(5)])
    server = Memcached(engine_keeper, engine_programs.memcached, 6, tls=(other.chain, other.key))
    server.start()
    try:
        server.await_ready()
        async with opened(server.server, tls_ca=other.ca) as cache:
            assert await cache.get_many(["a"]) == {}
            assert cache.failures() == {"connection": 1}
    finally:
        server.end()


async def test_one_side_that_speaks_tls_alone_is_a_miss(memcached_tls, server, engine_ca):
    async with opened(memcached_tls.server, timeout_s=DEADLINE_S) as plain:
        assert await plain.get_many(["a"]) == {}
        assert plain.failures().total() == 1
    async with opened(server.address, timeout_s=DEADLINE_S, tls_ca=engine_ca) as tls:
        assert await tls.get_many(["a"]) == {}
        assert tls.failures().total() == 1


def test_a_ca_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        adapter.Memcached(Section(servers=("127.0.0.1:11211",), tls_ca=tmp_path / "none.pem"))
