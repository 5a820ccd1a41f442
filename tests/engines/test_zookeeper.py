"""Lock and wake on real servers: stopped, killed, out of quorum, and back."""

import asyncio
import gc
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from controller.engines.zookeeper import ZooKeeperServer
from regional_keystone.adapters.local import SystemClock
from regional_keystone.adapters.zookeeper import ZooKeeper
from regional_keystone.errors import Unavailable
from tests.cloud import eventually
from tests.engines import certificates

SESSION_S = 2.0


@pytest.fixture
async def controllers(zookeeper):
    """Opens sessions below one path; all end with the test."""
    path = f"/test-{uuid4().hex}"
    async with AsyncExitStack() as stack:

        async def one(name="one", **options):
            wanted = {"path": path, "name": name, "clock": SystemClock(), "session_timeout_s": SESSION_S}
            made = await ZooKeeper.open(zookeeper.hosts, **(wanted | options))
            stack.push_async_callback(made.close)
            await asyncio.wait_for(made._connected.wait(), 5)
            return made

        one.path = path
        yield one


@pytest.fixture
async def two(controllers):
    return await controllers("one"), await controllers("two")


@asynccontextmanager
async def took(within_s):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < within_s


async def test_one_session_holds_it_and_another_gets_it_once_it_is_free(two):
    one, other = two
    async with one.hold("rotate") as mine:
        async with other.hold("rotate") as theirs:
            assert mine
            assert not theirs
        async with other.hold("house") as another:
            assert another
    assert not mine, "it is given back"
    async with other.hold("rotate") as theirs:
        assert theirs


async def test_it_is_held_for_longer_than_the_session_could_be_silent(two):
    one, other = two
    async with one.hold("rotate") as mine:
        for _ in range(int(2 * SESSION_S / 0.1)):
            await asyncio.sleep(0.1)
            assert mine
        async with other.hold("rotate") as theirs:
            assert not theirs


async def test_who_ends_leaves_it_to_others_at_once(controllers):
    one, other = await controllers("one"), await controllers("two")
    holding = one.hold("rotate")
    await holding.__aenter__()
    await one.close()
    async with other.hold("rotate") as theirs:
        assert theirs


async def test_a_killed_server_takes_no_lock_away(two, zookeeper):
    one, other = two
    async with one.hold("rotate") as mine:
        zookeeper.leader().kill()
        await asyncio.sleep(0.1)
        await eventually(lambda: bool(mine), 2 * SESSION_S)

        async def answered():
            try:
                async with other.hold("rotate") as theirs:
                    return not theirs
            except Unavailable:
                return False

        await eventually(answered, 2 * SESSION_S)
        assert mine


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_without_a_quorum_nobody_believes_to_be_the_holder(two, zookeeper, how):
    one, other = two
    async with one.hold("rotate") as mine:
        assert mine
        for server in zookeeper.servers:
            getattr(server, how)()
        await eventually(lambda: not mine, SESSION_S)
        async with took(1.5):
            with pytest.raises(Unavailable, match="ZooKeeper does not answer"):
                async with other.hold("rotate"):
                    pass
    zookeeper.heal()
    async with took(6 * SESSION_S):

        async def free():
            try:
                async with other.hold("rotate") as theirs:
                    return bool(theirs)
            except Unavailable:
                return False

        await eventually(free, 5 * SESSION_S)
    assert not mine, "once given up it never comes back"


async def test_it_works_within_a_second_of_the_quorums_return(two, zookeeper):
    one, _ = two
    for server in zookeeper.servers:
        server.kill()
    await asyncio.sleep(1.0)
    with pytest.raises(Unavailable):
        async with one.hold("rotate"):
            pass
    zookeeper.heal()
    began = time.monotonic()
    await asyncio.wait_for(one._connected.wait(), 3)
    took_s = time.monotonic() - began
    print(f"back {took_s:.2f} s after the quorum")
    assert took_s < 1.0
    async with one.hold("rotate") as mine:
        assert mine


async def test_every_node_belongs_to_the_user_and_holds_no_secret(controllers, zookeeper):
    user = {"username": "controllers", "password": "very-secret"}
    one = await controllers("one", **user)
    one.listen(lambda: None)
    one.tell(7)
    stranger = KazooClient(",".join(zookeeper.hosts))
    owner = KazooClient(",".join(zookeeper.hosts), auth_data=[("digest", "controllers:very-secret")])
    stranger.start()
    owner.start()
    try:
        async with one.hold("rotate") as mine:
            assert mine
            await eventually(lambda: owner.exists(f"{controllers.path}/wake"))
            below = [controllers.path, *(f"{controllers.path}/{name}" for name in ("locks", "locks/rotate", "wake"))]
            for path in below:
                acls, _ = owner.get_acls(path)
                assert [(one.id.scheme, one.perms) for one in acls] == [("digest", 31)], path
                data, _ = owner.get(path)
                assert b"secret" not in data
                with pytest.raises(NoAuthError):
                    stranger.get(path)
            assert owner.get(f"{controllers.path}/locks/rotate")[0] == b"one"
        other = await controllers("two", username="controllers", password="wrong")
        with pytest.raises(Unavailable, match="another user made it") as told:
            async with other.hold("rotate"):
                pass
        assert "wrong" not in str(told.value)
    finally:
        for client in (stranger, owner):
            client.stop()
            client.close()


async def test_others_hear_of_what_is_told_and_nobody_of_their_own(two):
    one, other = two
    heard = {"one": [], "other": []}
    one.listen(lambda: heard["one"].append(time.monotonic()))
    other.listen(lambda: heard["other"].append(time.monotonic()))
    await asyncio.sleep(0.3)
    latencies = []
    for position in range(1, 31):
        del heard["other"][:]
        told = time.monotonic()
        one.tell(position)
        await eventually(lambda: heard["other"], 2.0)
        latencies.append(heard["other"][0] - told)
    print(f"wake p50 {sorted(latencies)[15] * 1000:.1f} ms, worst {max(latencies) * 1000:.1f} ms")
    assert heard["one"] == []
    assert sorted(latencies)[15] < 0.1


async def test_many_words_are_one_and_the_last_is_heard(two):
    one, other = two
    heard = []
    other.listen(lambda: heard.append(other._told))
    await asyncio.sleep(0.3)
    for position in range(1, 2001):
        one.tell(position)
    await eventually(lambda: heard)
    await asyncio.sleep(0.5)
    assert 1 <= len(heard) < 100
    assert one._client.get(one._wake)[0] == b"2000"


async def test_telling_without_servers_neither_waits_nor_fails_and_what_was_missed_is_heard_of(two, zookeeper):
    one, other = two
    heard = asyncio.Event()
    other.listen(heard.set)
    await asyncio.sleep(0.3)
    for server in zookeeper.servers:
        server.kill()
    await eventually(lambda: not one._up and not other._up)
    await asyncio.sleep(0.5)
    heard.clear()
    async with took(0.5):
        for position in range(1, 1001):
            one.tell(position)
    await asyncio.sleep(0.5)
    assert not heard.is_set()
    zookeeper.heal()
    await asyncio.wait_for(heard.wait(), 5)
    await asyncio.sleep(0.3)
    heard.clear()
    one.tell(1001)
    await asyncio.wait_for(heard.wait(), 2)


class Encrypted(ZooKeeperServer):
    """One server alone that speaks TLS beside plain text."""

    SECURE = 2281

    def __init__(self, keeper, programs, pem):
        addresses = [keeper.address(number) for number in range(1, 10)]
        super().__init__(keeper, 8, addresses, programs.java, programs.zookeeper)
        self.pem = pem

    def command(self):
        words = super().command()
        place = words.index("-cp") + 1
        words[place] += ":" + ":".join(sorted(str(one) for one in Path("/usr/share/java").glob("netty-*.jar")))
        return words

    def _configuration(self):
        lines = [
            "tickTime=500",
            f"dataDir={self.folder}/data",
            f"clientPort={self.port}",
            f"clientPortAddress={self.address}",
            f"secureClientPort={self.SECURE}",
            f"secureClientPortAddress={self.address}",
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
            f"ssl.keyStore.location={self.pem}",
            "ssl.keyStore.type=PEM",
            f"ssl.trustStore.location={self.pem}",
            "ssl.trustStore.type=PEM",
            "ssl.clientAuth=none",
            "admin.enableServer=false",
            "4lw.commands.whitelist=srvr",
        ]
        return "\n".join(lines) + "\n"


# kazoo leaves the socket of a refused handshake to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
async def test_tls_with_host_check(engine_keeper, engine_programs, tmp_path):
    made = certificates.make(tmp_path, [engine_keeper.address(number) for number in range(1, 10)])
    pem = tmp_path / "server.pem"
    pem.write_bytes(made.chain_and_key.read_bytes())
    server = Encrypted(engine_keeper, engine_programs, pem)
    server.start()
    try:
        await asyncio.to_thread(server.await_ready)
        options = {"path": "/tls", "name": "one", "clock": SystemClock(), "session_timeout_s": SESSION_S}
        hosts = [f"{server.address}:{server.SECURE}"]
        one = await ZooKeeper.open(hosts, tls_ca=made.ca, **options)
        (tmp_path / "other").mkdir()
        other_ca = certificates.make(tmp_path / "other", [server.address]).ca
        stranger = await ZooKeeper.open(hosts, tls_ca=other_ca, **options)
        try:
            await asyncio.wait_for(one._connected.wait(), 10)
            async with one.hold("rotate") as mine:
                assert mine
            with pytest.raises(Unavailable):
                async with stranger.hold("rotate"):
                    pass
        finally:
            await one.close()
            await stranger.close()
            del stranger
            gc.collect()
    finally:
        server.kill()
