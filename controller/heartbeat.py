"""A controller's heartbeat in the store, for sites that no controller's stream reaches.

It says what this controller is sure of, and when it was: one that is cut off from the log says nothing.
"""

from collections.abc import Callable

import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower
from regional_keystone.freshness import BEAT_S, Heartbeat
from regional_keystone.ports import Clock

log = structlog.get_logger("heartbeat")

_SURE_S = 2 * BEAT_S


async def beat(
    heartbeat: Heartbeat, follower: Follower, clock: Clock, why_wrong: Callable[[], str | None] = lambda: None
) -> None:
    """Say each second how far the log went and when that was, for ever; a store that is away is tried again.

    While `why_wrong` says that the clock is, nothing is said: it would tell of another moment.
    """
    reachable = True
    while True:
        at, head = follower.fresh_at(), follower.position
        is_sure = follower.age_s() <= _SURE_S and why_wrong() is None  # of longer ago our clock may have been another
        if at is not None and is_sure:
            try:
                await heartbeat.beat(at, head)
                reachable = True
            except Unavailable as error:
                if reachable:
                    log.warning("heartbeat_not_written", why=error.message)
                reachable = False
        await clock.sleep(BEAT_S)
