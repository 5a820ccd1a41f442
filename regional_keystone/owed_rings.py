"""Rings of the log that could not be installed here yet, and when each is tried again.

Apart from `follow`, so that what else arrives meanwhile can neither put a try off nor bring it forward.
"""

from typing import NamedTuple

from regional_keystone.model import Ring
from regional_keystone.ports import Clock

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0  # refused again and again, a ring is tried, and complained of, less often


class _Owed(NamedTuple):
    record: Ring
    pause_s: float
    due: float  # by the clock's ticks


class OwedRings:
    """The newest of each ring that was refused or could not be written."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owed: dict[str, _Owed] = {}

    def add(self, record: Ring) -> None:
        """This one could not be installed just now: it is due in a second, each further time after twice as long."""
        before = self._owed.get(record.id)
        again = before is not None and before.record == record
        pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S) if before is not None and again else FIRST_PAUSE_S
        self._owed[record.id] = _Owed(record, pause_s, self._clock.ticks() + pause_s)

    def drop(self, ring: str) -> None:
        """It is installed, or a newer one is."""
        self._owed.pop(ring, None)

    def due(self) -> list[Ring]:
        """Those to be tried now."""
        now = self._clock.ticks()
        return [owed.record for owed in self._owed.values() if owed.due <= now]

    def due_in_s(self) -> float | None:
        """When the next one is due; None while nothing is owed."""
        first = min((owed.due for owed in self._owed.values()), default=None)
        return None if first is None else max(0.0, first - self._clock.ticks())
