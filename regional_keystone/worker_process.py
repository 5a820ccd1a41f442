"""The processes of a site beside its first one: how they are started and ended."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

EXIT_S = 1.0


class Process(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    async def wait(self) -> int:
        """Return when it is gone."""
        ...


Start = Callable[[int, socket.socket], Awaitable[Process]]


def spawning(arguments: Sequence[str]) -> Start:
    """Start workers as processes of this program with these arguments: settings, as this process was told them."""

    async def start(number: int, end: socket.socket) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "regional_keystone", *arguments, "worker"),
            *("--number", str(number), "--leader-fd", str(end.fileno())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(end.fileno(),),
        )

    return start


async def gone(process: Process) -> None:
    """Give it a moment to end by itself, then no choice."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({waiting}, timeout=EXIT_S)
    finally:
        if not waiting.done():
            attempt(process.kill)
    await waiting


def attempt(signal: Callable[[], None]) -> None:
    """Signal a process that may have ended."""
    try:
        signal()
    except ProcessLookupError:  # it has ended
        return
