"""The time as far as something may be thrown away by it: a wall clock that was set forward throws nothing away.

Separate from the clock, which dates what is done, and may say anything.
"""

from regional_keystone.ports import Clock


class SureNow:
    """Asked for the time in microseconds since 1970 UTC, says no more than what has passed since the process began."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.now(), clock.ticks()

    def __call__(self) -> int:
        """The earlier one of what the wall clock says and what it said at the beginning plus what has passed since."""
        now, ticks = self._began
        return min(self._clock.now(), now + int((self._clock.ticks() - ticks) * 1_000_000))
