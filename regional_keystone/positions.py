"""What a client shows in order to be answered at least as new: a position of the log, and of a site's own feed.

It is told where each change stands, and may show that at any place of the federation.
Source: docs/adr/0033-how-old-an-answer-may-be.md
"""

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from regional_keystone.errors import Invalid, Unavailable
from regional_keystone.model import Site, Taken
from regional_keystone.waiting_places import WaitingPlaces

if TYPE_CHECKING:
    from regional_keystone.ports import Clock, Reader
    from regional_keystone.record import Touch

HEADER: Final = "X-RK-Position"
WAIT_S: Final = 1.0  # how long a request waits to be answered as new as it asks
_LOOK_S = 0.02
_TABLES: Final = frozenset({("sites",), ("taken",)})
_TEXT = re.compile(r"([0-9]{1,18})(?:\+([0-9]{1,18})@([!-~]{1,200}))?", re.ASCII)

OwnFeed = Callable[[], tuple[str, int]]
"""The name of the site's own feed, and up to which number it counts in this process."""


class Shown(NamedTuple):
    """An entry of the log, and one of a site's own feed where that matters: both count, and all before them."""

    position: int
    number: int = 0
    feed: str = ""

    def __str__(self) -> str:
        return f"{self.position}+{self.number}@{self.feed}" if self.feed else str(self.position)


def shown(text: str) -> Shown:
    """What a header says. Raises Invalid for what no answer has ever said."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise Invalid(f"{HEADER} must be as an answer has said it.")
    position, number, feed = found.groups()
    return Shown(int(position), int(number or 0), feed or "")


class Follows(Protocol):
    """What knows how far the log is known here: `follow.Follower`."""

    watchers: list[Callable[[int, set["Touch"]], None]]
    forgetters: list[Callable[[], None]]

    @property
    def position(self) -> int:
        """Every answer from now on is at least as new as this entry."""
        ...

    async def reached(self, position: int, within_s: float) -> bool:
        """Whether answers are as new as `position`, now or within this time."""
        ...


class Waiting:
    """Lets requests wait until what this process knows is as new as what they show; not long, and not many."""

    def __init__(
        self,
        reader: "Reader",
        follower: Follows,
        clock: "Clock",
        own: OwnFeed | None = None,
    ) -> None:
        """`own`: of the site that this is, if it is one."""
        self._reader = reader
        self._follower = follower
        self._clock = clock
        self._own = own
        self.places = WaitingPlaces()
        self._feeds: dict[str, int] = {}  # up to where the log has taken each over
        self._sites: set[str] = set()
        self._stale = True
        self._looking = asyncio.Lock()
        follower.watchers.append(self._disturbed)
        follower.forgetters.append(self._forget)

    async def __call__(self, wanted: Shown, peer: str) -> None:
        """Return when every answer from now on is as new as this. Raises Unavailable when that takes too long."""
        if wanted.position <= self._follower.position and (not wanted.feed or await self._knows(wanted)):
            return
        with self.places.one(peer):
            until = self._clock.ticks() + WAIT_S
            if not await self._follower.reached(wanted.position, WAIT_S):
                raise Unavailable(f"This region has not received change {wanted.position} yet; try again.")
            while wanted.feed and not await self._knows(wanted):
                if not self._may_come(wanted) or not await self._more(wanted, until - self._clock.ticks()):
                    raise Unavailable("This region has not received that change of another region yet; try again.")

    async def _knows(self, wanted: Shown) -> bool:
        """Whether that entry of a feed counts here: it is of our own, or the log has taken it over."""
        feed, number = self._own() if self._own is not None else ("", 0)
        if feed == wanted.feed:
            return number >= wanted.number
        await self._look()
        return self._feeds.get(wanted.feed, -1) >= wanted.number

    def _may_come(self, wanted: Shown) -> bool:
        """Whether anybody writes such a feed: a member's, whose present instance may not be known here yet."""
        return wanted.feed.partition("/")[0] in self._sites or (self._own is not None and self._own()[0] == wanted.feed)

    async def _look(self) -> None:
        """Know whose feeds there are and how far they are taken over: read once a change, whoever waits."""
        async with self._looking:
            while self._stale:  # an entry may come while it is read
                self._stale = False
                try:
                    sites = [site async for site in self._reader.scan(Site)]
                    taken = {one.feed: one.number async for one in self._reader.scan(Taken)}
                except BaseException:
                    self._stale = True
                    raise
                self._sites = {site.id for site in sites if site.state != "removed"}
                self._feeds = taken

    def _disturbed(self, position: int, touched: "set[Touch]") -> None:
        del position
        self._stale = self._stale or not touched.isdisjoint(_TABLES)

    def _forget(self) -> None:
        self._stale = True

    async def _more(self, wanted: Shown, left_s: float) -> bool:
        """Wait until more is known; False when nothing came in time."""
        if left_s <= 0:
            return False
        if self._own is not None and self._own()[0] == wanted.feed:
            await self._clock.sleep(min(left_s, _LOOK_S))
            return True
        return await self._follower.reached(self._follower.position + 1, left_s)
