"""What other sites have revoked and condemned, read from the store that they share: it counts before the log has it.

So it also counts while no controller is there. The log alone says what was taken over, and how old this site is.
Source: docs/feeds.md, "What sites read of each other"; docs/adr/0031-sites-read-each-others-feeds.md
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from regional_keystone import believed
from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.follow import Follower
from regional_keystone.log import Entry
from regional_keystone.model import Condemned, Site, Taken
from regional_keystone.ports import Clock, Reader
from regional_keystone.record import Touch
from regional_keystone.relay import PeerWord

log = structlog.get_logger("peer_feeds")

SOON_S = 0.25  # between two looks while no controller was heard of for AWAY_S
SELDOM_S = 1.0  # and otherwise: then the log is faster, unless a site is cut off from the controllers alone
AWAY_S = 2.0
BEGIN_S = 5.0  # how long a start waits to know what peers say
_TABLES = frozenset({("sites",), ("taken",), ("condemned",)})
_ENTRIES = 100  # asked for at once
_PAGES = 20  # of one feed in one look: who writes without end keeps nobody from the others
_SAY_AGAIN_S = 60.0
MOST_ROWS = 200_000  # of one site that count here and the log does not have: 40 MB, or 55 hours of one each second
_MOST_PAUSE_S = 60.0  # until a feed is tried again that alone cannot be read: its site keeps it elsewhere, say


@dataclass(slots=True)
class _Peer:
    """Another site's feed: up to where the log has it, and up to where it counts here."""

    feed: str
    taken: int
    number: int
    problem: str = ""
    pause_s: float = 0.0
    again_ticks: float = 0.0
    said_ticks: float = float("-inf")  # when it was complained of what it has no right to say
    full_ticks: float = float("-inf")  # and of how much that is
    rows: int = 0
    ahead: deque[tuple[int, int]] = field(default_factory=deque)  # (number, rows of it) of what the log does not have

    @property
    def site(self) -> str:
        return self.feed.partition("/")[0]

    def counts(self, word: PeerWord) -> None:
        """This counts here now."""
        if rows := len(word.revocations) + len(word.condemned):
            self.ahead.append((word.number, rows))
            self.rows += rows
        self.number = max(self.number, word.number)

    def take(self, number: int) -> None:
        """The log has it up to here."""
        self.taken, self.number = number, max(self.number, number)
        while self.ahead and self.ahead[0][0] <= number:
            self.rows -= self.ahead.popleft()[1]


class PeerFeeds:
    """Reads the feed of every member that is not this one. For a store that shows them: a file shows none."""

    def __init__(self, place: str, *, store: Reader, follower: Follower, clock: Clock, keep_s: float) -> None:
        self.told: Callable[[PeerWord], None] = _unheard  # is told what has begun to count here
        self._place = place
        self._store = store
        self._follower = follower
        self._clock = clock
        self._keep_us = int(keep_s * 1_000_000)
        self._peers: dict[str, _Peer] = {}
        self._condemned: dict[str, str] = {}  # key -> who said so, in the log or in a feed
        self._stale = True  # who the peers are, and what the log has of them, may have changed
        self._problem = ""
        follower.watchers.append(self._disturbed)
        follower.forgetters.append(self._forget)

    async def begin(self) -> None:
        """Know what peers say before anything is answered; one that cannot be read in time is read later."""
        try:
            async with asyncio.timeout(BEGIN_S):
                while await self.look():
                    pass
        except TimeoutError:
            log.warning("peer_feeds_not_read_yet", within_s=BEGIN_S)

    async def run(self) -> None:
        """Look for ever: often while no controller is heard of, now and then otherwise."""
        while True:
            if not await self.look():
                away = self._follower.age_s() > AWAY_S
                await self._clock.sleep(SOON_S if away else SELDOM_S)

    async def look(self) -> bool:
        """Take in what is new in every feed; True if there may be more. What cannot be read now is read later."""
        try:
            if self._stale:
                await self._review()
        except Unavailable as error:
            self._complain(error.message)
            return False
        now = self._clock.ticks()
        due = [peer for peer in self._peers.values() if now >= peer.again_ticks]
        found = await asyncio.gather(*(self._read(peer) for peer in due))
        readable = any(one is not None for one in found)  # where none can be, it is the store, which comes back
        for peer, more in zip(due, found, strict=True):
            if more is None and readable:
                peer.pause_s = min(max(2 * peer.pause_s, SELDOM_S), _MOST_PAUSE_S)
                peer.again_ticks = self._clock.ticks() + peer.pause_s
        self._complain("")
        return any(found)

    async def words(self) -> AsyncIterator[PeerWord]:
        """What counts here of peers' words and the log may not have yet: for a process that begins."""
        for peer in list(self._peers.values()):
            number, until = peer.taken, peer.number
            try:
                while number < until:
                    entries = await self._store.tail(peer.feed, number, min(_ENTRIES, until - number))
                    if not entries:
                        break
                    for word in self._believed(peer, entries, now=self._clock.now()):
                        yield word
                    number = entries[-1].number
            except Exception as error:  # noqa: BLE001  whatever a site writes, it ends no other one's process
                self._cannot_read(peer, error)
                peer.number = peer.taken  # it is read again, and told to all, as soon as that can be

    def status(self) -> dict[str, Any]:
        """What /status tells: of each feed, up to where the log has it and it counts here, and what is wrong."""
        return {
            peer.feed: {
                "taken": peer.taken,
                "number": peer.number,
                "rows": peer.rows,
                "problem": peer.problem or None,
            }
            for peer in self._peers.values()
        }

    def rows(self) -> dict[str, float]:
        """How much of each site counts here that the log does not have."""
        return {peer.site: peer.rows for peer in self._peers.values()}

    def unread(self) -> dict[str, float]:
        """1 for each site whose feed is not read, or not to its end."""
        return {peer.site: float(bool(peer.problem)) for peer in self._peers.values()}

    async def _review(self) -> None:
        """Whose feeds are read: those that a controller would take over, of each member's present instance."""
        self._stale = False
        try:
            reader = self._follower.overlay
            sites = [one async for one in reader.scan(Site)]
            taken = {one.feed: one.number async for one in reader.scan(Taken)}
            self._condemned |= {one.id: one.place async for one in reader.scan(Condemned)}
        except BaseException:
            self._stale = True
            raise
        before, self._peers = self._peers, {}
        for site in sites:
            if site.state in believed.MEMBERS and site.instance and site.id != self._place:
                feed = f"{site.id}/{site.instance}"
                number = taken.get(feed, 0)
                peer = self._peers[feed] = before.get(feed) or _Peer(feed, number, number)
                peer.take(number)

    async def _read(self, peer: _Peer) -> bool | None:
        """Take in what follows; True if there may be more, None if it could not be read."""
        try:
            for _ in range(_PAGES):
                if self._is_full(peer):
                    return False
                entries = await self._store.tail(peer.feed, peer.number, _ENTRIES)
                for word in self._believed(peer, entries, now=self._clock.now()):
                    heed(self._follower, word)
                    self.told(word)
                    peer.counts(word)
                    if peer.rows >= MOST_ROWS:
                        break
                if len(entries) < _ENTRIES:
                    break
            else:
                return True
        except Exception as error:  # noqa: BLE001  whatever a site writes, it ends no other one's process
            self._cannot_read(peer, error)
            return None
        if peer.problem:
            log.info("peer_feed_readable", feed=peer.feed, number=peer.number)
        peer.problem, peer.pause_s = "", 0.0
        return False

    def _is_full(self, peer: _Peer) -> bool:
        """Whether so much of this feed counts here that the rest waits until the log has it. Nothing is passed over."""
        if peer.rows < MOST_ROWS:
            return False
        peer.problem = f"{peer.rows} rows of it count here and are not in the log; more wait for a controller"
        if self._clock.ticks() - peer.full_ticks >= _SAY_AGAIN_S:
            peer.full_ticks = self._clock.ticks()
            log.error(
                "peer_feed_full",
                feed=peer.feed,
                rows=peer.rows,
                cure=f"if {peer.site} is not sane: rkctl region remove",
            )
        return True

    def _cannot_read(self, peer: _Peer, error: Exception) -> None:
        problem = str(error)[:200] or type(error).__name__
        if problem != peer.problem:
            strange = None if isinstance(error, Unavailable | TooLarge | ValueError) else error
            log.warning("peer_feed_not_readable", feed=peer.feed, number=peer.number, why=problem, exc_info=strange)
        peer.problem = problem

    def _believed(self, peer: _Peer, entries: Sequence[Entry], now: int) -> Iterator[PeerWord]:
        """What is believed of these, one by one. Raises TooLarge or ValueError at one that no site writes."""
        refused = Counter[str]()
        for entry in entries:
            said = believed.said(peer.feed, entry, now, self._keep_us, refused)
            mine = {key for key in said.stolen if self._condemned.get(key) == peer.site}  # they are told once more
            known = {key: place for key, place in self._condemned.items() if key not in mine}
            keys = [one.id for one in believed.condemned(peer.site, said.stolen, known, now, refused)]
            self._condemned |= dict.fromkeys(keys, peer.site)
            yield PeerWord(peer.feed, entry.number, tuple(said.revocations), tuple(keys))
        if refused and self._clock.ticks() - peer.said_ticks >= _SAY_AGAIN_S:  # it may send such things without end
            peer.said_ticks = self._clock.ticks()
            log.error("peer_feed_oversteps", feed=peer.feed, refused=dict(refused))

    def _disturbed(self, position: int, touched: set[Touch]) -> None:
        del position
        self._stale = self._stale or not touched.isdisjoint(_TABLES)

    def _forget(self) -> None:
        self._stale = True

    def _complain(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("peers_not_known", why=problem)
        self._problem = problem


def heed(follower: Follower, word: PeerWord) -> None:
    """Make count in this process what a peer says, as if the log had said it."""
    follower.condemn(word.condemned)
    late = [answer for event in word.revocations for answer in follower.answers(event)]
    known = follower.peers.get(word.feed, 0)
    follower.peers[word.feed] = max(word.number, known)
    if word.number > known:  # else it was answered when it came, by the log or as a word: who issued since knew of it
        follower.answer(late)


def _unheard(word: PeerWord) -> None:
    """The word that nobody else has to know of."""
