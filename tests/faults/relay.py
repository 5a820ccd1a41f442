"""A TCP relay between sites and a controller that can be cut (connections break) or held (silence), either way."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Relay:
    """Listens on a loopback port, in a thread of its own; `target` is asked for each connection."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="relay")
        self._flows: dict[str, asyncio.Event] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._whole = True
        self.port = 0

    def start(self) -> "Relay":
        self._thread.start()
        self._do(self._open())
        return self

    def stop(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """Every connection breaks, and no new one is made."""
        self._do(self._cut())

    def hold(self, *directions: str) -> None:
        """Silence: `up` is what sites say, `down` what they are told; both when none is named."""
        self._do(self._set(directions or tuple(self._flows), on=False))

    def mend(self) -> None:
        self._whole = True
        self._do(self._set(tuple(self._flows), on=True))

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._flows = {"up": asyncio.Event(), "down": asyncio.Event()}
        await self._set(("up", "down"), on=True)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        self._whole = False
        for writer in self._writers:
            writer.transport.abort()

    async def _set(self, directions: tuple[str, ...], *, on: bool) -> None:
        for direction in directions:
            (self._flows[direction].set if on else self._flows[direction].clear)()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far = None
        pumps = []
        try:
            if self._whole:
                far_reader, far = await asyncio.open_connection(*self._target())
                self._writers |= {writer, far}
                pumps = [
                    asyncio.create_task(self._pump(reader, far, "up")),
                    asyncio.create_task(self._pump(far_reader, writer, "down")),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for one in (writer, far):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flows[direction].wait()
                writer.write(data)
                await writer.drain()
