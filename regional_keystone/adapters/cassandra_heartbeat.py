"""The controllers' heartbeat in the store: where the log ended, and when that was sure, by a controller's wall clock.

One row of the table of marks, under a name that no feed has: all may read that table, and controllers write it.
Whoever reads it needs no other data centre; what it shows is as true when it is old, and says how old.
"""

from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_schema import HeartbeatMark
from regional_keystone.ports import Clock

_LEVEL = "LOCAL_ONE"  # an older one makes nobody look fresher


class Heartbeat:
    """Implements `freshness.Heartbeat`."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self._driver = driver
        self._clock = clock

    async def beat(self, at: int, head: int) -> None:
        """All that the log held at `at` ends at `head`. Raises Unavailable."""
        rows = await self._driver.run(HeartbeatMark.read, (HeartbeatMark.feed,), consistency=_LEVEL)
        # one whose clock was ahead may have written before: ours counts all the same
        time = max(self._clock.now(), *(1 + (written or 0) for _, _, written in rows), 0)
        await self._driver.run(HeartbeatMark.write, (time, head, at, HeartbeatMark.feed), consistency=_LEVEL)

    async def last(self) -> tuple[int, int] | None:
        """What was said last, as (at, head); None if nothing was. Raises Unavailable."""
        rows = await self._driver.run(HeartbeatMark.read, (HeartbeatMark.feed,), consistency=_LEVEL)
        found = [(int(at), int(head)) for head, at, _ in rows if head is not None and at is not None]
        return found[0] if found else None
