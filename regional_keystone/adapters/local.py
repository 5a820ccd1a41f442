"""What one process needs of lock, wake and clock when nothing else is installed.

No I/O and no driver; the only place that reads the machine's clocks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class LocalLock:
    """Implements `ports.Lock` within one process: whoever else asks for a held name is told so, and does not wait."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[bool]:
        """Enter with True while this is the holder, with False when another is."""
        if name in self._held:
            yield False
            return
        self._held.add(name)
        try:
            yield True
        finally:
            self._held.remove(name)


class LocalWake:
    """Implements `ports.Wake` for a process that appends alone: there is nobody to tell, and nothing to hear."""

    def tell(self, position: int) -> None:
        """Nobody is told."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Nothing is ever heard."""


class SystemClock:
    """Implements `ports.Clock` by the machine's clocks."""

    def now(self) -> int:
        """Wall clock: microseconds since 1970 UTC."""
        return time.time_ns() // 1000

    def ticks(self) -> float:
        """Seconds that only grow, also while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait so long by `ticks`: what is left after the machine slept is not waited for."""
        until = self.ticks() + seconds
        while True:  # the event loop's own clock stands still while the machine sleeps
            await asyncio.sleep(max(0.0, min(until - self.ticks(), 1.0)))
            if self.ticks() >= until:
                return
