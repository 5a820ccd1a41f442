"""Random histories of writes, revocations, turns, cuts, pauses and restarts; then all is equal and nothing was lost."""

import asyncio
import random

import pytest

from regional_keystone.errors import IdentityError
from regional_keystone.model import Project
from tests.cloud import Cloud, Wire, event, eventually, project

NAMES = ("RegionOne", "RegionTwo", "RegionThree")
STEPS = (
    ("write",) * 4
    + ("revoke",) * 4
    + ("revoke centrally",) * 2
    + ("seal",) * 3
    + ("turn",) * 2
    + ("cut", "mend", "hold", "release")
)
STEPS += ("restart", "restart", "restart controller")


class History:
    """A cloud whose sites are behind wires, and what it has promised so far."""

    def __init__(self, directory, seed):
        self.random = random.Random(seed)
        self.cloud = Cloud(directory, NAMES, deadline_s=0.3)
        self.written, self.own, self.central, self.tokens = {}, [], [], []
        self.faults = []

    @property
    def controller(self):
        return self.cloud.controller

    async def __aenter__(self):
        self.wires = {name: Wire(self.controller.port) for name in NAMES}
        for name, wire in self.wires.items():
            await wire.start()
            self.cloud.sites[name].controllers = (wire.url,)
        await self.cloud.start()
        return self

    async def __aexit__(self, *failure):
        await self.cloud.stop()
        for wire in self.wires.values():
            await wire.stop()

    async def run(self, count):
        for number in range(count):
            step = self.random.choice(STEPS)
            name = self.random.choice(NAMES)
            await getattr(self, step.replace(" ", "_"))(number, self.cloud.sites[name], self.wires[name])
            await self.check_keys()
            await asyncio.sleep(self.random.choice((0, 0, 0.01)))

    async def write(self, number, site, wire):
        name = f"p{self.random.randrange(8)}"
        await self.controller.write(project(name, description=str(number)))
        self.written[name] = str(number)

    async def revoke(self, number, site, wire):
        await site.revoke(f"own{number}")
        self.own.append(f"own{number}")
        assert site.void(audit_id=f"own{number}"), "at once"

    async def revoke_centrally(self, number, site, wire):
        name = f"central{number}"
        await self.controller.write(event(name, self.controller.clock.now(), audit_id=name))
        self.central.append(name)

    async def seal(self, number, site, wire):
        plan = await self.controller.rotator.plan()
        if site.name in plan.active:  # a quarantined one may be behind for as long as it is away
            self.tokens.append(site.holder.ring.seal(f"{number}".encode(), 0))

    async def turn(self, number, site, wire):
        try:
            await asyncio.wait_for(self.controller.rotator.turn(), 30)
        except IdentityError as error:
            self.faults.append(error.message)

    async def cut(self, number, site, wire):
        wire.cut()

    async def mend(self, number, site, wire):
        wire.mend()
        wire.release()

    async def hold(self, number, site, wire):
        wire.hold(self.random.choice(("up", "down")))

    async def release(self, number, site, wire):
        wire.release()

    async def restart(self, number, site, wire):
        await site.stop()
        await site.start()

    async def restart_controller(self, number, site, wire):
        await self.controller.stop()
        await self.controller.start()

    async def check_keys(self):
        """Whatever an active site would issue now, every other active one can read: nobody seals ahead of anybody."""
        active = (await self.controller.rotator.plan()).active
        rings = {name: self.cloud.sites[name].holder.ring for name in active}
        for sealing in rings.values():
            for name, opening in rings.items():
                assert opening.open(sealing.seal(b"now", 0))[0] == b"now", name

    async def heal(self):
        for wire in self.wires.values():
            wire.cut()
            wire.release()
            wire.mend()
        await self.cloud.level()
        for name in NAMES:

            async def back(name=name):
                await self.controller.rotator.take_back(name)
                return name in (await self.controller.rotator.plan()).active

            await eventually(back, 10)
        await eventually(lambda: all(site.own.pending() == 0 for site in self.cloud.sites.values()), 10)
        await self.cloud.level()
        await self.controller.follower.settled(self.controller.sequencer.head, 5)


@pytest.mark.parametrize("seed", range(8))
async def test_after_any_history_all_replicas_are_equal_and_every_promise_is_kept(tmp_path, seed):
    async with History(tmp_path, seed) as history:
        await history.run(40)
        await history.heal()
        nodes = (history.controller, *history.cloud.sites.values())
        assert len({await node.digest() for node in nodes}) == 1
        assert len({node.holder.seen for node in nodes}) == 1
        for name, description in history.written.items():
            assert (await history.controller.overlay.get(Project, name)).description == description
        for text in history.tokens:
            assert {node.holder.ring.open(text)[0] for node in nodes}
        found = [one.audit_id for one in await history.controller.revocations()]
        assert sorted(found) == sorted(history.own + history.central), "each exactly once"
        assert all(node.void(audit_id=name) for node in nodes for name in found)
        log = await history.controller.log()
        assert [entry.number for entry in log] == list(range(1, len(log) + 1))
