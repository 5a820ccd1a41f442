"""One turn of the keys at a time, whoever believes to be the holder: real processes, real servers, frozen and woken."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from regional_keystone.adapters.local import LocalLock, SystemClock
from regional_keystone.adapters.zookeeper import ZooKeeper
from regional_keystone.errors import Conflict, Unavailable
from regional_keystone.model import Project, Ring
from tests.cloud import ControllerNode, SiteNode, eventually

SESSION_S = 2.0
HOLDER = """
import asyncio, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from regional_keystone.adapters.local import SystemClock
from regional_keystone.adapters.zookeeper import ZooKeeper
from tests.cloud import ControllerNode

directory, authority, log, hosts, path, when = sys.argv[1:]

class Freezing:
    # stops this process at the moment that it is told, before the store hears of the turn
    def __init__(self, store):
        self.store, self.frozen = store, False
    def __getattr__(self, name):
        return getattr(self.store, name)
    def freeze(self):
        if not self.frozen:
            self.frozen = True
            print("frozen", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    async def append(self, feed, after, entries):
        turns = any(entry.id.startswith("turn/") for entry in entries)
        if turns and when == "append":
            self.freeze()
        done = await self.store.append(feed, after, entries)
        if turns:
            print("appended" if done else "refused by the log", flush=True)
        return done
    async def acknowledged(self):
        if when == "wait":
            self.freeze()
        return await self.store.acknowledged()

async def main():
    node = ControllerNode(Path(directory), deadline_s=30.0, beside=SimpleNamespace(log_path=Path(log), authority_dir=Path(authority)))
    freezing = []
    def wrap(store):
        freezing.append(Freezing(store))
        return freezing[0] if when == "append" else store
    node.wrap = wrap
    node.lock = await ZooKeeper.open(hosts.split(","), path=path, name="frozen", clock=SystemClock(), session_timeout_s=2.0)
    await node.start()
    await node.sequencer.catch_up()
    async with node.lock.hold("warm"):
        pass
    if when == "wait":
        node.acknowledgements._store = freezing[0]
    try:
        ring = await node.rotator.turn()
        print("turned", ring.epoch, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    print("epoch", node.holder.seen.epoch, flush=True)
    await node.stop()
    await node.lock.close()

asyncio.run(main())
"""


@pytest.fixture
async def controller(tmp_path, zookeeper):
    node = ControllerNode(tmp_path / "here", deadline_s=30.0)
    node.shared = True
    path = f"/fence-{uuid4().hex}"
    node.lock = await ZooKeeper.open(
        zookeeper.hosts, path=path, name="here", clock=SystemClock(), session_timeout_s=SESSION_S
    )
    node.lock_path = path
    await node.start()
    yield node
    await node.stop()
    await node.lock.close()


async def line(process, within_s=30):
    return (await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), within_s)).strip()


@pytest.mark.parametrize("when", ["append", "wait"])
async def test_a_holder_that_was_frozen_past_its_session_turns_nothing_when_it_wakes(
    controller, zookeeper, tmp_path, when
):
    words = [str(tmp_path / "frozen"), str(controller.authority_dir), str(controller.log_path)]
    words += [",".join(zookeeper.hosts), controller.lock_path, when]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *words], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        while (said := await line(process)) != "frozen":
            assert said, "it ended"
        before = (await controller.overlay.get(Ring, "token")).epoch

        async def turned():
            try:
                return await controller.rotator.turn()
            except (Conflict, Unavailable):
                return False

        await eventually(turned, 5 * SESSION_S)  # at first the frozen one is the holder
        process.send_signal(signal.SIGCONT)
        rest = []
        while said := await line(process):
            rest.append(said)
        await controller.sequencer.catch_up()
        assert (await controller.overlay.get(Ring, "token")).epoch == before + 1, rest
        if when == "append":
            assert "refused by the log" in rest
        assert any("Unavailable The lock on turning the keys was lost" in one for one in rest), rest
        assert "appended" not in rest
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_without_zookeeper_only_turning_waits_and_says_so(controller, zookeeper, tmp_path):
    site = SiteNode("RegionOne", tmp_path / "RegionOne")
    await site.join(await controller.sites.invite("RegionOne"))
    await site.start()
    try:
        await site.settled(controller.sequencer.head)
        for server in zookeeper.servers:
            server.kill()
        await eventually(lambda: not controller.lock._up)
        with pytest.raises(Unavailable, match="keys cannot be turned now; all else goes on"):
            await controller.rotator.turn()
        position = await controller.write(Project(id="p", name="p", domain_id="default"))
        await site.settled(position)
        assert site.holder.ring.seal(b"token", 0)
        await site.revoke("gone")
        await eventually(lambda: controller.void(audit_id="gone"))
        zookeeper.heal()
        epoch = (await controller.overlay.get(Ring, "token")).epoch
        await eventually(lambda: controller.lock._up, 5)
        assert (await asyncio.wait_for(controller.rotator.turn(), 10)).epoch == epoch + 1
    finally:
        await site.stop()


async def test_two_that_believe_to_hold_turn_once(controller, tmp_path):
    """The lock worth nothing: the log decides."""
    beside = SimpleNamespace(log_path=controller.log_path, authority_dir=controller.authority_dir)
    other = ControllerNode(tmp_path / "other", deadline_s=30.0, beside=beside)
    other.lock = LocalLock()
    await other.start()
    try:
        before = (await controller.overlay.get(Ring, "token")).epoch
        since = (await controller.overlay.get(Ring, "token")).turned_at
        turns = (controller.rotator.turn(since), other.rotator.turn(since))
        results = await asyncio.gather(*turns, return_exceptions=True)
        assert [type(one).__name__ for one in results].count("Ring") == 1, results
        await controller.sequencer.catch_up()
        assert (await controller.overlay.get(Ring, "token")).epoch == before + 1
    finally:
        await other.stop()


async def test_what_one_appends_wakes_the_other_long_before_it_would_look(tmp_path, zookeeper, monkeypatch):
    monkeypatch.setattr("controller.commit._CONFIRM_S", 60.0)  # it would look by itself as often as this
    path, clock = f"/wake-{uuid4().hex}", SystemClock()
    one = ControllerNode(tmp_path / "one")
    two = ControllerNode(tmp_path / "two", beside=one)
    one.shared = True
    for node in (one, two):
        node.poll_s = 60.0
        node.wake = await ZooKeeper.open(zookeeper.hosts, path=path, name="x", clock=clock, session_timeout_s=SESSION_S)
        await node.start()
    try:
        await asyncio.sleep(0.5)
        seconds = []
        for number in range(20):
            writer, reader = (one, two) if number % 2 else (two, one)
            position = await writer.write(Project(id=f"p{number}", name=f"p{number}", domain_id="default"))
            began = clock.ticks()
            assert await reader.follower.reached(position, 5)
            seconds.append(clock.ticks() - began)
        print(f"known to the other after p50 {sorted(seconds)[10] * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms")
        assert sorted(seconds)[10] < 2.0
    finally:
        for node in (two, one):
            await node.stop()
            await node.wake.close()
