"""Faults and control put around working parts, never in place of them."""

import asyncio
from collections import deque
from contextlib import suppress

from regional_keystone.adapters.local import SystemClock


class SetClock(SystemClock):
    """The machine's clocks, of which somebody sets the wall clock `ahead_s` ahead."""

    ahead_s = 0.0

    def now(self):
        return super().now() + round(self.ahead_s * 1_000_000)


class ManualClock:
    """Implements `ports.Clock`; time stands still until `advance`."""

    def __init__(self, now=1_700_000_000_000_000, ticks=1000.0):
        self._now = now
        self._ticks = ticks
        self._sleepers = []
        self._slept = 0  # in the order in which they began, those of one moment wake

    def now(self):
        return self._now

    def ticks(self):
        return self._ticks

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        self._slept += 1
        sleeper = (self._ticks + seconds, self._slept, woken)
        self._sleepers.append(sleeper)
        try:
            if seconds > 0:
                await woken
            else:
                await asyncio.sleep(0)
        finally:
            with suppress(ValueError):
                self._sleepers.remove(sleeper)

    async def advance(self, seconds):
        """Let so much time go by: whoever sleeps wakes at their own moment, in order, and runs until they wait again."""
        end = self._ticks + seconds
        await settle()
        while self._sleepers and min(self._sleepers)[0] <= end:
            sleeper = min(self._sleepers)
            self._sleepers.remove(sleeper)
            self._to(max(sleeper[0], self._ticks))
            if not sleeper[2].done():
                sleeper[2].set_result(None)
            await settle()
        self._to(end)

    def jump(self, seconds):
        """Someone sets the wall clock; ticks go on as they were."""
        self._now += round(seconds * 1_000_000)

    def _to(self, ticks):
        self._now += round((ticks - self._ticks) * 1_000_000)
        self._ticks = ticks


async def settle(rounds=20):
    """Let every task that can run do so; work in threads may still be under way."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class Lagging:
    """A Writer whose tables show what was applied only when it is told: a replica that is behind."""

    def __init__(self, store):
        self._store = store
        self.waiting = deque()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def apply(self, entries):
        self.waiting.extend(entries)

    async def catch_up(self, upto=None):
        """Apply what was held back, up to this number, or all of it."""
        due = [entry for entry in self.waiting if upto is None or entry.number <= upto]
        await self._store.apply(due)
        self.waiting = deque(entry for entry in self.waiting if entry not in due)


def lagging(store):
    """The same store, with older tables."""
    return Lagging(store)
