"""Replays what was recorded of Keystone 30.0.0 against the API, in process: real store, real log, no sockets."""

import asyncio
import importlib.util
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from controller import settings as sections
from controller.wiring import Controller
from regional_keystone import settings as region
from regional_keystone.adapters.local import SystemClock
from regional_keystone.errors import Unavailable
from regional_keystone.messages import Request

GOLDEN = Path(__file__).parent / "golden"
URL = "http://127.0.0.1:5000"
PASSWORD = "golden-admin-pw"

_spec = importlib.util.spec_from_file_location("normalise", GOLDEN / "normalise.py")
normalise = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(normalise)


def exchanges(section=None):
    found = normalise.load(GOLDEN / "upstream" / "exchanges.json")["exchanges"]
    return [one for one in found if section in (None, one["section"])]


def sections_recorded():
    return list(dict.fromkeys(one["section"] for one in exchanges()))


class LeapingClock(SystemClock):
    """The machine's clock, ahead by as much as it was told to leap."""

    def __init__(self):
        self.ahead_s = 0.0

    def now(self):
        return super().now() + int(self.ahead_s * 1_000_000)

    def ticks(self):
        return super().ticks() + self.ahead_s


class World:
    """A controller whose API is asked without a socket. `clock` may be owned by the test, `shared` opens its log."""

    def __init__(self, directory, clock=None, shared=None):
        self.shared = shared
        password = directory / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        self.settings = replace(
            sections.Settings(),
            site=region.Site(state_dir=directory),
            identity=replace(region.Settings().identity, password_hash_rounds=4),
            controller=replace(sections.Settings().controller, region="RegionOne"),
            bootstrap=sections.Bootstrap(password_file=password),
            listen=replace(region.Settings().listen, port=5000, public_endpoint=URL),
        )
        self.clock = clock or LeapingClock()

    async def start(self, stack):
        self.controller = Controller(self.settings, self.clock, self.shared)
        await self.controller.build(stack)
        await self.controller.sequencer.start()
        running = [self.controller.part.follower.run(), self.controller.sequencer.run()]
        tasks = [asyncio.create_task(one) for one in running]
        stack.push_async_callback(_stopped, tasks)
        await self.controller.first()
        await self._keys()
        self.api = self.controller.door.api
        self.overlay = self.controller.part.overlay

    async def _keys(self):
        """The first ring is taken up in the background; until then nobody can log in."""
        for _ in range(500):
            with suppress(Unavailable):
                return self.controller.part.follower.ring
            await asyncio.sleep(0.01)
        raise TimeoutError("no keys")

    async def ask(self, method, target, *, headers=None, body=b"", keep=False, named=None):
        path, _, query = target.partition("?")
        request = Request(
            id=named or str(uuid.uuid4()),
            method=method,
            path=unquote(path).rstrip("/") or "/",
            query=tuple(parse_qsl(query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in (headers or {}).items()},
            body=body,
            base_url=URL,
        )
        return await self.api.answer(request, keep=keep)


class Player(normalise.Player):
    """The recorded battery's player, whose server is a World in another thread's event loop."""

    def __init__(self, world, loop):
        super().__init__("127.0.0.1", 5000, variables={"admin_password": PASSWORD})
        self.world, self.loop = world, loop
        self.sleep = self._leap

    def _leap(self, seconds):
        self.world.clock.ahead_s += seconds

    def send(self, method, path, headers, body):
        asked = self.world.ask(
            method, path, headers={k: v for k, v in headers.items() if v is not None}, body=body or b""
        )
        answer = asyncio.run_coroutine_threadsafe(asked, self.loop).result(30)
        return answer.status, list(answer.headers.items()), answer.body


@asynccontextmanager
async def world(directory, clock=None):
    async with AsyncExitStack() as stack:
        found = World(directory, clock)
        await found.start(stack)
        yield found


async def play(world, section):
    """(exchange, what was answered) of every exchange of a section, in order."""
    player = Player(world, asyncio.get_running_loop())
    return [(one, await asyncio.to_thread(player.play, one)) for one in exchanges(section)]


def unlike(exchange, answer):
    """How an answer differs from the recorded one, in status and body; [] if it does not.

    The dump of what was sent, at the end of some messages, is left out of ours on purpose ("dumps").
    """
    if exchange.get("alone"):
        return []
    body = exchange["response"]["body"]
    if isinstance(body, dict) and "Failed validating" in str(body.get("error")):
        reason = body["error"]["message"].partition("\n\nFailed validating")[0]
        body = {"error": {**body["error"], "message": reason}}
    expected = {"status": exchange["response"]["status"], "body": body}
    return normalise.compare(expected, {"status": answer["status"], "body": answer["body"]})


async def _stopped(tasks):
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
