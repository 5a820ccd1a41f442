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

SITES = {"RegionOne": (), "RegionTwo": ("fastpath.entries=0",), "RegionThree": ("fastpath.entries=20",)}
PLACES = ("Global", *SITES)
_SECRET = "first password"
_START_S = 60.0


class Whole(Regions):
    """Asks any of its four places."""

    def __init__(self, members):
        self.members, self.position = {member.region: member for member in members}, 0
        auth = password("admin", _SECRET, "default")
        self.admin = self.login(auth | {"scope": {"project": {"name": "admin", "domain": {"id": "default"}}}})
        self.roles = {one["name"]: one for one in self.ask("GET", "/v3/roles").body["roles"]}


@contextlib.contextmanager
def whole(folder, *settings):
    """A federation with these settings, as `section.option=value`, in `folder`."""
    first = free_port()
    members = [Member("controller", first, first + 1, first + 2)]
    members += [Member(name, first + 3 + 2 * number, first + 4 + 2 * number) for number, name in enumerate(SITES)]
    loop, ended, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    serving = loop.create_task(_serve(folder, members, settings, ready, ended))
    serving.add_done_callback(lambda _: (ready.set(), loop.stop()))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        assert ready.wait(_START_S), "it does not start"
        if serving.done():
            serving.result()
        yield Whole(members)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(_START_S)
        loop.close()


async def _serve(folder, members, settings, ready, ended):
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
        leader, others = Global(), Sites()
        await leader.start(stack, {"sets": [*(f"{name}={value}" for name, value in told.items()), *settings]})
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
        await others.start(stack, {"sites": invited})
        ready.set()
        await ended.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
