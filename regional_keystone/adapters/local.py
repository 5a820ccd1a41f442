"""What one process needs of cache, lock and clock when nothing else is installed.

No I/O and no driver; the only place that reads the machine's clocks.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from regional_keystone.ports import Clock

_OVERHEAD_BYTES = 200  # what a remembered value costs besides its bytes


class LocalCache:
    """Implements `ports.Cache` in memory, bounded by bytes: what was not asked for the longest goes first."""

    def __init__(self, clock: Clock, limit_bytes: int = 64 * 1024 * 1024) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the values cost that are remembered now, never more than the limit."""
        return self._size_bytes

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """What is still there."""
        now = self._clock.ticks()
        found = {}
        for key in keys:
            if key not in self._values:
                continue
            until, value = self._values[key]
            if until <= now:
                self._forget(key)
            else:
                self._values.move_to_end(key)
                found[key] = value
        return found

    async def set_many(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """Keep these for at most `ttl_s` seconds; a value that is larger than the whole cache is not kept."""
        until = self._clock.ticks() + ttl_s
        for key, value in values.items():
            if key in self._values:
                self._forget(key)
            cost = _cost_bytes(key, value)
            if cost > self._limit_bytes or ttl_s <= 0:
                continue
            while self._size_bytes + cost > self._limit_bytes:
                self._forget(next(iter(self._values)))
            self._values[key] = until, value
            self._size_bytes += cost

    def _forget(self, key: str) -> None:
        _, value = self._values.pop(key)
        self._size_bytes -= _cost_bytes(key, value)


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


def _cost_bytes(key: str, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD_BYTES
