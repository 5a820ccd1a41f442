"""How long a key has been known here: whether a site that lacks it may not have heard of it, and not know that either.

Whoever is quarantined is not waited for, and may not know it. Cut off, it believes itself in touch for as long as
`follow.APART_S`, and would say of a key which it lacks that it is none. So nothing seals or signs with a key before
every member holds it, or it has been known for longer than that: by then a site has heard of the ring that has the key,
or knows that it was away. Source: docs/adr/0037-operators-deeds-are-in-the-model.md.
"""

from typing import Final

from regional_keystone.follow import APART_S
from regional_keystone.ports import Clock

KNOWN_S: Final = APART_S + 0.5
_MOST = 256


class Unaware:
    """Remembers since when keys are known to this process; by its ticks, so that no wall clock has a part in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def is_fresh(self, key: str) -> bool:
        """Whether this key, which the log has, may have been overlooked by a site that believes itself in touch.

        It counts from the first time that it is asked about here, which is later than it came into the log.
        """
        ticks = self._clock.ticks()
        if key not in self._since and len(self._since) >= _MOST:
            del self._since[next(iter(self._since))]  # asked for again, it counts anew
        return ticks - self._since.setdefault(key, ticks) < KNOWN_S
