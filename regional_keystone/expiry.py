"""Lets a revocation index forget in the background, a slice at a time, so that no answer waits for it."""

import asyncio
from collections.abc import Callable

import structlog

from regional_keystone.ports import Clock
from regional_keystone.revocation import RevocationIndex

log = structlog.get_logger("expiry")

_RATE = 1e-4  # how much faster than ticks the right time may go
_APART_US = 3_600_000_000  # by so much the wall clock is ahead before it is told of
_MINUTE = 60_000_000  # the index forgets by whole minutes: looking through it more often finds nothing more


class Steady:
    """The wall clock, as far as nobody has set it ahead since: by it things are forgotten, which no clock undoes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at, self._ticks = clock.now(), clock.ticks()
        self._complained = False

    def limit(self, at: int) -> None:
        """It is not certain that it is later than `at` by now."""
        self._at, self._ticks = min(self.now(), at), self._clock.ticks()

    def now(self) -> int:
        """Microseconds since 1970 UTC; behind the wall clock by what that was set ahead, until the next start."""
        wall, passed_s = self._clock.now(), self._clock.ticks() - self._ticks
        steady = min(wall, self._at + int(passed_s * (1 + _RATE) * 1_000_000))
        if wall - steady < _APART_US:
            self._complained = False
        elif not self._complained:
            self._complained = True
            log.warning("forgets_later", behind_s=(wall - steady) // 1_000_000, why="the clock may be ahead")
        return steady


class Expiry:
    """Forgets what is past its time by the newest moment that it was told."""

    def __init__(self, index: Callable[[], RevocationIndex], clock: Clock) -> None:
        """`index` says which one is in use: after a repair it is another."""
        self._index = index
        self._clock = clock
        self.steady = Steady(clock)
        self._now = 0
        self._due = asyncio.Event()

    def due(self, now: int) -> None:
        """By this moment of the log's clock, in microseconds, what was to be kept until before may go.

        Never by a moment that is still to come here.
        """
        now = min(now, self.steady.now())
        if abs(now - self._now) >= _MINUTE:  # back as well: the clock was set right
            self._now = now
            self._due.set()

    async def run(self) -> None:
        """For ever; whoever waits is served between two slices."""
        while True:
            await self._due.wait()
            self._due.clear()
            for _ in self._index().expiring(self._now):
                await self._clock.sleep(0)
