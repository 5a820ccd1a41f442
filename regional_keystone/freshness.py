"""How old the knowledge of a place is, and how old it may be for tokens of which scope.

Age is the time since a moment at which the place is known to have had everything. Only two things tell of one: an echo
of a probe that this place has sent, and the controllers' heartbeat in the store. Source: docs/feeds.md, "Freshness".
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from regional_keystone.errors import Unavailable
from regional_keystone.ports import Clock
from regional_keystone.settings import Freshness
from regional_keystone.token import DomainScope, ProjectScope, Scope, SystemScope, Unscoped

log = structlog.get_logger("freshness")

CLASSES: Final[Mapping[str, type[Scope]]] = {
    "system": SystemScope,
    "domain": DomainScope,
    "project": ProjectScope,
    "unscoped": Unscoped,
}
"""The classes of `[freshness]`, by what a token is scoped to; one that acts within something counts by its scope."""

BEAT_S = 1.0
"""Seconds between a controller's heartbeats in the store."""

_RATE: Final = 1e-4  # how much a clock may go wrong while no controller is heard: a crystal's own error, and more
_MOST = 1024
_SECOND = 1_000_000


class Heartbeat(Protocol):
    """What the controllers say in the store each `BEAT_S` for whoever no stream reaches."""

    async def beat(self, at: int, head: int) -> None:
        """All that the log held at `at`, by our wall clock, ends at `head`. Raises Unavailable."""
        ...

    async def last(self) -> tuple[int, int] | None:
        """What was said last, as (at, head); None if nothing was. Raises Unavailable."""
        ...


def limits_s(section: Freshness) -> dict[str, float]:
    """How old knowledge may be for each class that has a limit, in seconds."""
    told = {
        "system": section.system,
        "domain": section.domain,
        "project": section.project,
        "unscoped": section.unscoped,
    }
    return {name: float(limit) for name, limit in told.items() if limit}


class Limits:
    """How old the knowledge of this process may be for tokens of each class, and how old it is now."""

    def __init__(self, section: Freshness, age_s: Callable[[], float]) -> None:
        """`age_s`: as `fastpath.Knowledge` has it."""
        self._limits = limits_s(section)
        self._age_s = age_s

    def of(self, scope: Scope) -> float | None:
        """The limit for a token of this scope in seconds; None where it is served until it expires."""
        return self._limits.get(class_of(scope))

    def check(self, scope: Scope) -> None:
        """Raise Unavailable if what is known is too old to decide about tokens of this scope."""
        self.check_class(class_of(scope))

    def check_class(self, name: str) -> None:
        """The same by the name of the class."""
        limit = self._limits.get(name)
        if limit is not None and (age_s := self._age_s()) > limit:
            raise Unavailable(_told(name, limit, age_s))

    def passed(self) -> list[str]:
        """The classes that nothing is decided about now."""
        return _passed(self._limits, self._age_s())


class Ends:
    """Which classes are too old, for who looks now and then. None ends unseen between two looks."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        """`limits`: as `limits_s` has them."""
        self.over: frozenset[str] = frozenset()
        """The classes that nothing was decided about at the last look."""
        self._limits = limits
        self._seen_at: dict[str, float] = {}

    def ended(self, ticks: float, age_s: float) -> list[str]:
        """The classes that may have been answered after they were last returned, and may not now."""
        before, self.over = self.over, frozenset(_passed(self._limits, age_s))
        fresh_at = ticks - age_s
        found = [
            name
            for name in sorted(self.over)
            if name not in before or self._seen_at[name] < fresh_at + self._limits[name]
        ]
        self._seen_at.update(dict.fromkeys(found, ticks))
        return found


class Age:
    """The newest moment at which all that the log held is known to be here, in `ports.Clock.ticks`.

    `since` counts for answers. `sure_since` is by echoes alone, which no wall clock has a part in: what is sealed
    under keys that retire by time goes by that.
    """

    def __init__(self, clock: Clock, *, leads: bool = False) -> None:
        """`leads`: nobody else appends to the log, so that nothing can be unknown here."""
        self.since: float | None = None
        self.sure_since: float | None = None
        self._clock = clock
        self._leads = leads
        self._echoes, self._beats = _Heads(), _Heads()
        # the controllers' wall clock, by the last echo; at first the own one, which may be set while we run
        self._wall_at = clock.ticks()
        self._wall = clock.now()
        self._complained = False

    def age_s(self) -> float:
        """Seconds since `since`; 0 for who leads, inf for never."""
        if self._leads:
            return 0.0
        return float("inf") if self.since is None else max(0.0, self._clock.ticks() - self.since)

    def fresh_at(self, *, sure: bool = False) -> int | None:
        """The same moment by the wall clock of now; None for never. `sure`: by echoes alone."""
        since = self._clock.ticks() if self._leads else self.sure_since if sure else self.since
        return None if since is None else self._clock.now() - max(0, int((self._clock.ticks() - since) * _SECOND))

    def recall(self, fresh_at: int) -> None:
        """An earlier life of this place had everything then, by the wall clock."""
        self.since = self.sure_since = self._clock.ticks() - (self._clock.now() - fresh_at) / _SECOND

    def echoed(self, ticks: float, head: int, position: int, now: int = 0) -> bool:
        """A controller named the head of the log after our probe of `ticks` reached it; we stand at `position`.

        `now`: its wall clock then. False for what was never sent from here: it would look fresh for as long as it is
        ahead.
        """
        if ticks > self._clock.ticks():
            return False
        if now and ticks >= self._wall_at:
            self._wall_at, self._wall = ticks, now
        self._echoes.add(ticks, head)
        self.reached(position)
        return True

    def dated(self, at: int, skew_s: float) -> float | None:
        """A moment in our ticks that certainly is not after `at`, by a controller's wall clock.

        None for one that lies ahead of what the clocks can be: it proves nothing. No setting of our own clock since
        this process began has a part in it.
        """
        ticks = self._clock.ticks()
        ago_s = (self._wall - at) / _SECOND + (ticks - self._wall_at) * (1 + _RATE) + skew_s
        if ago_s < 0:
            if not self._complained:
                log.error("heartbeat_ahead", ahead_s=round(skew_s - ago_s, 1), cure="set the controllers' clocks right")
            self._complained = True
            return None
        self._complained = False
        return ticks - ago_s

    def beat(self, ticks: float, head: int, position: int) -> None:
        """All that the log held at `ticks` ends at `head`, as the store's heartbeat has it."""
        if ticks <= self._clock.ticks():
            self._beats.add(ticks, head)
            self.reached(position)

    def reached(self, position: int) -> None:
        """Everything up to this entry is here now."""
        self.sure_since = _later(self.sure_since, self._echoes.reached(position))
        self.since = _later(_later(self.since, self.sure_since), self._beats.reached(position))


class _Heads:
    """Heads of the log that are still to be reached, each with the moment at which the log ended there."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, int]] = deque()

    def add(self, ticks: float, head: int) -> None:
        while self._waiting and self._waiting[-1][1] >= head and self._waiting[-1][0] <= ticks:
            self._waiting.pop()  # this is newer, and reached no later
        if len(self._waiting) == _MOST:
            last_ticks, last_head = self._waiting.pop()
            ticks, head = max(ticks, last_ticks), max(head, last_head)
        self._waiting.append((ticks, head))

    def reached(self, position: int) -> float | None:
        """The newest moment of those heads that are reached, which are forgotten; None if none is."""
        found: float | None = None
        while self._waiting and self._waiting[0][1] <= position:
            found = _later(found, self._waiting.popleft()[0])
        return found


def _later(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def _passed(limits: Mapping[str, float], age_s: float) -> list[str]:
    return [name for name, limit in limits.items() if age_s > limit]


def class_of(scope: Scope) -> str:
    """The name of its class."""
    return next(name for name, kind in CLASSES.items() if isinstance(scope, kind))


def _told(name: str, limit: float, age_s: float) -> str:
    known = "has not had everything yet" if age_s == float("inf") else f"had everything last {age_s:.0f} s ago"
    return f"This region {known}, and decides about {name} tokens for {limit:g} s; try again, or ask another region."
