"""Whether this controller may go by its wall clock: compared with its sites' clocks, before they speak with the log.

A revocation that is dated ahead voids tokens of later, one that is dated back spares those of before, and by a clock
that is ahead what still counts is thrown away. So a controller whose clock is wrong writes and forgets nothing.
Source: docs/adr/0038-what-a-flood-a-stolen-site-a-killed-worker-and-a-wrong-clock-may-do.md
"""

from collections import deque
from collections.abc import Callable

import structlog

from regional_keystone.log import Put, Transaction
from regional_keystone.ports import Clock

log = structlog.get_logger("late")

HEARD_S = 10.0  # a site's word counts for so long; it speaks once a second
APART_S = 2.0  # between the first and the last word of a site: what comes at once may have waited while we were stopped
FIRST_S = 3.0  # who starts long after the log's newest entry waits so long for its sites' words
_WORDS = 16  # of a site: one that speaks faster is not heard longer
_SAY_AGAIN_S = 60.0
_SECOND = 1_000_000


class Late:
    """What the sites' clocks say of this one. More than half of those that speak have to agree."""

    def __init__(self, clock: Clock, most_us: int, counts: Callable[[str], bool], *, trusted: bool = False) -> None:
        """`most_us`: how far clocks may be apart; `counts`: whose word does; `trusted`: by an operator's word."""
        self._clock = clock
        self._most_us = most_us
        self._counts = counts
        self._trusted = trusted
        self._words: dict[str, deque[tuple[float, int]]] = {}  # our ticks, and the site's clock when those were 0
        self._right: int | None = None  # the sites' clock when our ticks were 0, as most of them had it last
        self._newest = 0
        self._waits_until = float("-inf")
        self._said_at: float | None = None

    def begin(self, newest: int, *, expects: bool) -> None:
        """The log's newest entry is of then. `expects`: there are sites whose words are worth waiting for."""
        self._newest = newest
        if expects and self._clock.now() - newest > self._most_us:
            self._waits_until = self._clock.ticks() + FIRST_S

    def heard(self, site: str, now: int) -> None:
        """A site has said what its wall clock is. On its way the word only became older."""
        ticks = self._clock.ticks()
        words = self._words.setdefault(site, deque(maxlen=_WORDS))
        words.append((ticks, now - int(ticks * _SECOND)))
        speaking, known = self._speaking(ticks)
        if len(known) > speaking / 2:  # before that, one that was here a moment sooner would decide alone
            own = self._clock.now() - int(ticks * _SECOND)
            low, high = known[(len(known) - 1) // 2], known[len(known) // 2]
            self._right = max(low, min(own, high))  # ours, if as many are ahead of it as behind
        self.look()

    def ahead_us(self) -> int:
        """How far this clock is ahead of the sites', as most of them have it; negative for behind."""
        if self._right is not None:
            return self._clock.now() - self._right - int(self._clock.ticks() * _SECOND)
        return min(0, self._clock.now() - self._newest)  # the log tells only of a clock that is behind

    def ahead_of_s(self, site: str) -> float | None:
        """How far it is ahead of this site's; None where that is not known."""
        ticks = self._clock.ticks()
        zero = _zero(self._words.get(site, deque()), ticks)
        return None if zero is None else round((self._clock.now() - zero) / _SECOND - ticks, 1)

    def now(self) -> int:
        """The time to tell others: ours, or the sites' while ours is wrong."""
        return self._clock.now() - (0 if self.why_wrong() is None else self.ahead_us())

    def why_wrong(self) -> str | None:
        """Why nothing may be done by this clock; None where it may."""
        ahead_us = self.ahead_us()
        if self._trusted or abs(ahead_us) <= self._most_us:
            return None
        apart = f"{abs(ahead_us) / _SECOND:.0f} s {'ahead of' if ahead_us > 0 else 'behind'}"
        whom = "its log's" if self._right is None else "its sites'"
        return f"The clock of this controller is {apart} {whom}; it changes nothing until that is set right."

    def why_not(self) -> str | None:
        """Why nothing may be written now; None where it may."""
        if self._right is None and not self._trusted and self._waits(self._clock.ticks()):
            return "This controller has just started, and compares its clock with those of its sites."
        return self.why_wrong()

    def refuses(self, transaction: Transaction) -> str | None:
        """Why this may not be written now; None where it may. That a key was stolen is true at any time."""
        why = self.why_not()
        if why is None or all(isinstance(one, Put) and one.table == "condemned" for one in transaction.changes):
            return None
        self.look()
        return why

    def look(self) -> None:
        """Say so, loudly and again and again, while the clock is wrong; and once when it is right again."""
        why, ticks = self.why_wrong(), self._clock.ticks()
        if why is None and self._said_at is not None:
            self._said_at = None
            log.warning("clock_right_again")
        if why is not None and (self._said_at is None or ticks - self._said_at >= _SAY_AGAIN_S):
            self._said_at = ticks
            cure = "set the clock right (NTP); if it is right, set those of the sites, or [controller] trust_clock"
            log.error("clock_wrong", ahead_s=self.ahead_us() // _SECOND, why=why, cure=cure)

    def _waits(self, ticks: float) -> bool:
        """For the sites' first words; where some speak, until more than half have said enough, within reason."""
        more_s = HEARD_S if self._speaking(ticks)[0] else 0.0
        return ticks < self._waits_until + more_s

    def _speaking(self, ticks: float) -> tuple[int, list[int]]:
        """How many sites count and speak, and the clocks of those that have said enough, sorted."""
        of_sites = [words for site, words in self._words.items() if self._counts(site)]
        speaking = [words for words in of_sites if ticks - words[-1][0] <= HEARD_S]
        return len(speaking), sorted(zero for words in speaking if (zero := _zero(words, ticks)) is not None)


def _zero(words: deque[tuple[float, int]], ticks: float) -> int | None:
    """A site's clock when our ticks were 0, by the least late of its words; None if it has said too little of late."""
    fresh = [word for word in words if ticks - word[0] <= HEARD_S]
    if not fresh or fresh[-1][0] - fresh[0][0] < APART_S:
        return None
    return max(zero for _, zero in fresh)
