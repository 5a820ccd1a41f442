"""A federation in a thread of the test's own process: a controller and three sites, whole, each with its doors and stream.

It starts in a second or two. One site remembers what it answers, one nothing, one little, so that a test that asks them
all has seen each way. For what is to be killed, frozen or looked into from outside there are `regions`.
"""

import asyncio
import contextlib
import threading
from contextlib import AsyncExitStack

from controller.federation import Member
from controller.probe import password
from tests.bench.servers_of_revoke import Global, Sites
from tests.processes import free_port
from tests.security.regions import Regions
from tests.stand_ins import SetClock

SITES = {"RegionOne": (), "RegionTwo": ("fastpath.entries=0",), "RegionThree": ("fastpath.entries=20",)}
PLACES = ("Global", *SITES)
_SECRET = "first password"
_START_S = 60.0


class Whole(Regions):
    """Asks any of its four places; `clock` is that of all of them, `controller` and `sites` are what runs there."""

    def __init__(self, members, loop, running):
        self.clock, self._loop = running["clock"], loop
        self.controller, self.sites = running["controller"].made, [one.site for one in running["sites"].all]
        self.members, self.position = {member.region: member for member in members}, 0
        auth = password("admin", _SECRET, "default")
        self.admin = self.login(auth | {"scope": {"project": {"name": "admin", "domain": {"id": "default"}}}})
        self.roles = {one["name"]: one for one in self.ask("GET", "/v3/roles").body["roles"]}

    def run(self, work):
        """What this comes to, where the servers run."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)


@contextlib.contextmanager
def whole(folder, *settings):
    """A federation with these settings, as `section.option=value`, in `folder`."""
    first = free_port()
    members = [Member("controller", first, first + 1, first + 2)]
    members += [Member(name, first + 3 + 2 * number, first + 4 + 2 * number) for number, name in enumerate(SITES)]
    loop, ended, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    running = {"clock": SetClock(), "controller": Global(), "sites": Sites()}
    serving = loop.create_task(_serve(folder, members, settings, running, ready, ended))
    serving.add_done_callback(lambda _: (ready.set(), loop.stop()))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        assert ready.wait(_START_S), "it does not start"
        if serving.done():
            serving.result()
        yield Whole(members, loop, running)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(_START_S)
        loop.close()


async def _serve(folder, members, settings, running, ready, ended):
    controller, *sites = members
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(_SECRET)
    (folder / "controller").mkdir(mode=0o700)
    told = {
        "site.state_dir": folder / "controller",
        "bootstrap.password_file": secret,
        "controller.region": "Global",
        "identity.password_hash_rounds": 4,
        "listen.port": controller.public,
        "listen.admin_port": controller.admin,
        "stream.port": controller.stream,
        "stream.advertise": f"https://127.0.0.1:{controller.stream}",
    }
    async with AsyncExitStack() as stack:
        leader, others, clock = running["controller"], running["sites"], running["clock"]
        await leader.start(
            stack, {"clock": clock, "sets": [*(f"{name}={value}" for name, value in told.items()), *settings]}
        )
        invited = [
            {
                "name": one.name,
                "state": str(folder / one.name),
                "token": await leader.made.sites.invite(one.name),
                "stream": told["stream.advertise"],
                "port": one.public,
                "admin": one.admin,
                "sets": (*SITES[one.name], *settings),
            }
            for one in sites
        ]
        await others.start(stack, {"clock": clock, "sites": invited})
        ready.set()
        await ended.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
