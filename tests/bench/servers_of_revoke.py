"""The servers of `bench_revoke`: the product's own, whole, with their doors and streams; several sites in one process.

`python -m tests.bench.servers_of_revoke KIND`.
"""

import asyncio
import sys
import time
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import structlog

from controller import serving
from controller import settings as controller_settings
from controller.wiring import Controller
from regional_keystone import backends, settings, site, wiring
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.errors import NotFound
from regional_keystone.log import put
from regional_keystone.model import RevocationEvent
from regional_keystone.overlay import transact
from tests.bench.parts_of_revoke import paced, run

AT_ONCE = 256  # revocations under way inside a controller


class Recorded:
    """A site, and when each token that was revoked was first refused there."""

    def __init__(self, made):
        self.site = made
        self.refused_at, self.doomed = {}, {}
        self._looking = set()
        made.part.follower.heeders.append(self._heed)

    async def warm(self, doomed):
        """Validate each of these twice, as services do: from then on it is remembered."""
        for audit_id, token in doomed:
            for _ in range(2):
                await self.site.door.validator.check(token)
            assert self.site.door.fastpath.verdict(sha256(token.encode()).digest(), self.site.clock.now()) is not None
            self.doomed[audit_id] = token

    def _heed(self, event):
        if event.audit_id is None:
            return
        if token := self.doomed.pop(event.audit_id, None):
            task = asyncio.ensure_future(self._refuse(event.audit_id, token))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        else:
            self.refused_at.setdefault(event.audit_id, time.monotonic())

    async def _refuse(self, audit_id, token):
        """What whoever asks next is answered: the fast path, then the long road."""
        try:
            await self.site.door.validator.check(token)
        except NotFound:
            self.refused_at[audit_id] = time.monotonic()


class Sites:
    """`{"sites": [{name, state, token, stream, port, admin}]}`; `stream` is the address by which it reaches the log."""

    async def start(self, stack, told):
        self.all = []
        group = await stack.enter_async_context(wiring.background([]))
        for one in told["sites"]:
            state = Path(one["state"])
            state.mkdir(mode=0o700, parents=True)
            identity = Identity(state / "identity")
            await identity.join(JoinToken.read(one["token"]))
            sets = (
                "identity.password_hash_rounds=4",
                f"site.state_dir={state}",
                f"site.controllers={one['stream']}",
                f"listen.port={one['port']}",
                f"listen.admin_port={one['admin']}",
                *one.get("sets", ()),
            )
            clock = told.get("clock") or backends.system_clock()
            made = site.Site(settings.load(settings.Settings, None, sets), clock, identity)
            await made.build(stack)
            self.all.append(Recorded(made))
            ready = asyncio.Event()
            for task in (*made.tasks(), made.answer(ready.set)):
                group.create_task(task)
            await ready.wait()
        while any(one.site.missing() for one in self.all):
            await asyncio.sleep(0.02)

    async def warm(self, doomed):
        await asyncio.gather(*(one.warm(doomed) for one in self.all))

    async def level(self, position):
        """Until every site knows this much of the log."""
        return all([await one.site.part.follower.reached(position, 60.0) for one in self.all])

    async def pending(self):
        """How many entries of these sites' own feeds the log has not shown yet."""
        return sum(one.site.own.pending() for one in self.all)

    async def report(self):
        """For each site: by audit id, when it was refused first, and how many revocations count there."""
        found = {
            one.site.part.holder.name: (one.refused_at, len(one.site.part.follower.index), sorted(one.doomed))
            for one in self.all
        }
        for one in self.all:
            one.refused_at = {}
        return found


# --- a controller -----------------------------------------------------------------------------------------------------


class Global:
    """`{"sets": [...]}`: a controller, which can also be told to revoke without a request."""

    async def start(self, stack, told):
        made = controller_settings.Settings
        clock = told.get("clock") or backends.system_clock()
        self.made = controller = Controller(settings.load(made, None, told["sets"]), clock)
        await controller.build(stack)
        await controller.sequencer.start()
        running = [controller.part.follower.run(), controller.sequencer.run(), wiring.look_after_keys(controller.part)]
        group = await stack.enter_async_context(wiring.background(running))
        await controller.first()
        await serving.open_stream(stack, controller)
        await wiring.open_doors(
            stack, controller.settings, controller.part, controller.door, controller.status, controller.ready
        )
        for task in controller.tasks():
            group.create_task(task)

    async def position(self):
        return self.made.sequencer.head

    async def live(self):
        return len(self.made.part.follower.index)

    async def revoke(self, audit_ids, per_s):
        """As the handler of a revocation, without its request, so many a second; when each was durable."""
        free, done = asyncio.Semaphore(AT_ONCE), {}

        async def one(audit_id):
            now = self.made.clock.now()
            void = {"issued_before": now, "revoked_at": now, "keep_until": now + 10**11}
            own = RevocationEvent(id=uuid4().hex, audit_id=audit_id, **void)
            made = RevocationEvent(id=uuid4().hex, audit_chain_id=audit_id, **void)

            async def decide(_):
                return [put(own), put(made)], None

            try:
                await transact(self.made.part.overlay, self.made.sequencer, uuid4().hex, decide)
                done[audit_id] = time.monotonic()
            finally:
                free.release()

        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, audit_id in enumerate(audit_ids):
                await paced(begun, number, per_s)
                await free.acquire()
                group.create_task(one(audit_id))
        return {"done": done, "took_s": time.monotonic() - begun}


KINDS = {"sites": Sites, "controller": Global}


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    run(KINDS[sys.argv[1]]())
