"""What a site reads of other sites' feeds: counts as if the log had said it, as far as it is believed, and no further."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
import structlog

from regional_keystone import peer_feeds
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.believed import MOST_CONDEMNED, SKEW_US
from regional_keystone.errors import Unavailable
from regional_keystone.issue import SKEW_S
from regional_keystone.issued import LATE
from regional_keystone.log import Entry, Put, put
from regional_keystone.model import Attempts, Condemned, Site, Taken
from regional_keystone.own_feed import ENTRY_BYTES
from regional_keystone.peer_feeds import AWAY_S, SELDOM_S, SOON_S, PeerFeeds, heed
from regional_keystone.record import encode, spread
from regional_keystone.revocation import RevocationIndex
from regional_keystone.watermarks import WATERMARK
from tests.cloud import event, eventually, project
from tests.site.test_follow import Part, voided
from tests.site.test_workers import region
from tests.stand_ins import settle

HERE, PEER, THIRD = "RegionOne", "RegionTwo", "RegionThree"
FEED, OTHER_FEED = f"{PEER}/inc", f"{THIRD}/inc"
KEEP_S = 3600.0
KEY = "0123456789abcdef"
TOO_DEEP = b"\x81\xa1x" + 2000 * b"\x91" + b"\xc0"  # a field that no version knows, of lists in lists


class Shown:
    """A store that is asked for feeds: counts who asks, and some feeds cannot be read."""

    def __init__(self, store):
        self._store = store
        self.asked = []
        self.away = set()
        self.fault = None  # what reading FEED raises

    async def tail(self, feed, *which):
        self.asked.append(feed)
        if feed == FEED and self.fault is not None:
            raise self.fault
        if feed in self.away:
            raise Unavailable("away")
        return await self._store.tail(feed, *which)


class Peers:
    """A replica, the store that all sites share, and what is read of it."""

    async def open(self, path):
        self.part = await Part().open(path / "site")
        self.follower, self.clock = self.part.follower, self.part.clock
        self.shared = await Sqlite.open(path / "shared.db")
        self.store = Shown(self.shared)
        self.feeds = PeerFeeds(HERE, store=self.store, follower=self.follower, clock=self.clock, keep_s=KEEP_S)
        self.words = []
        self.feeds.told = self.words.append
        return self

    async def close(self):
        await self.part.close()
        await self.shared.close()

    def know(self, *records):
        """The log says so."""
        number = self.follower.position + 1
        self.follower.note([Entry(number, f"t{number}", 0, tuple(put(one) for one in records))])

    def members(self, **states):
        self.know(*(Site(id=name, state=state, instance="inc") for name, state in states.items()))

    async def say(self, *changes, feed=FEED, by="own"):
        """A site writes an entry into its feed."""
        number = await self.shared.head(feed) + 1
        assert await self.shared.append(feed, number - 1, [Entry(number, f"{by}{number}", 0, changes)])
        return number

    async def revoke(self, *names, feed=FEED):
        for name in names:
            await self.say(put(event(name, 10**6, audit_id=name)), feed=feed)

    async def look(self):
        while await self.feeds.look():
            pass

    def refuses(self, *names):
        return [voided(self.follower, audit_id=name) for name in names]


@pytest.fixture
async def peers(tmp_path):
    made = await Peers().open(tmp_path)
    made.members(RegionOne="active", RegionTwo="active", RegionThree="active")
    yield made
    await made.close()


def condemned(key, **fields):
    return put(Condemned(**({"id": key, "ring": "token", "at": 1, "by": "me", "place": PEER} | fields)))


async def test_what_a_peer_revokes_and_condemns_counts_here_and_this_site_looks_no_fresher(peers):
    heard = []
    peers.follower.heeders.append(heard.append)
    assert await peers.follower.settled(1, 5.0)
    standing = peers.follower.position, peers.follower.projected, peers.follower.head, peers.follower.age_s()
    await peers.revoke("a", "b")
    await peers.say(condemned(KEY))
    await peers.revoke("c", feed=OTHER_FEED)
    await peers.look()
    assert peers.refuses("a", "b", "c", "d") == [True, True, True, False]
    assert peers.follower.condemned == {KEY}
    assert sorted(one.audit_id for one in heard) == ["a", "b", "c"], "services' caches are told as of any revocation"
    assert standing == (peers.follower.position, peers.follower.projected, peers.follower.head, float("inf"))
    assert not peers.follower.pending.get("u")
    assert {(one.feed, one.number) for one in peers.words} == {(FEED, 1), (FEED, 2), (FEED, 3), (OTHER_FEED, 1)}


async def test_more_than_is_asked_for_at_once_is_read_in_one_go(peers):
    names = [f"a{number}" for number in range(250)]
    await peers.revoke(*names)
    assert await peers.feeds.look() is False
    assert all(peers.refuses(*names))


async def test_nothing_but_revocations_and_keys_counts_and_no_further_than_a_controller_would_take_it(peers):
    now = peers.clock.now()
    user = event("all", now + 10**12, user_id="u")
    key = put(Condemned(id=KEY, ring="token", at=1, by="me", place=PEER))
    with structlog.testing.capture_logs() as logs:
        await peers.say(
            put(project("p")),
            put(Attempts(user_id="u", place=PEER, failed=99, failed_at=now)),
            put(user),
            Put("condemned", (), key.row, {}),
            Put("condemned", ("no key",), key.row, {}),
        )
        await peers.look()
        await peers.say(put(project("q")))
        await peers.look()
    assert peers.follower.overlay.position == peers.follower.position == 1
    assert voided(peers.follower, user_id="u", issued_at=now + SKEW_US - 10**6)
    assert not voided(peers.follower, user_id="u", issued_at=now + SKEW_US + 10**6), "nobody is void in advance"
    assert len(peers.follower.index) == 1
    assert peers.follower.index.expire(now + int((KEEP_S + SKEW_S + 60) * 10**6)) == 1, "nor is it for longer"
    assert peers.follower.condemned == frozenset()
    assert len(peers.follower.pending) == 0
    (told,) = [one for one in logs if one["event"] == "peer_feed_oversteps"]  # once a minute at most
    assert told["refused"] == {"changes": 3, "ahead_of_time": 1}


@pytest.mark.parametrize("at", [-(2**60), 2**62])
@pytest.mark.parametrize("of", [{"user_id": "u"}, {"audit_id": "a"}, {"audit_chain_id": "a", "issued_from": 1}])
async def test_no_time_that_a_peer_says_lies_beyond_any_calendar(peers, at, of):
    now, expiry = peers.clock.now(), {"expires_at": at} if "user_id" in of else {}
    said = msgspec.structs.replace(event("e", 1), issued_before=at, revoked_at=at, keep_until=at, **of, **expiry)
    await peers.say(put(said))
    await peers.look()
    (believed,) = peers.words[0].revocations
    end = now + int((KEEP_S + SKEW_S) * 10**6)
    for instant in (believed.issued_before, believed.revoked_at, believed.keep_until, believed.expires_at or 0):
        assert 0 <= instant <= end
    assert believed.revoked_at <= now + SKEW_US
    assert peers.follower.index.expire(end + 60 * 10**6) == 1, "it is forgotten like any other"


async def test_what_reaches_forward_is_kept_for_as_long_as_a_token_of_today_lives(peers):
    now = peers.clock.now()
    of = {"audit_chain_id": "a", "issued_from": now}
    await peers.say(put(msgspec.structs.replace(event("e", 1), issued_before=0, keep_until=1, **of)))
    await peers.look()
    assert peers.words[0].revocations[0].keep_until == now + int(KEEP_S * 10**6)


async def test_a_site_condemns_so_many_keys_and_no_more(peers):
    keys = [f"{number:016x}" for number in range(MOST_CONDEMNED + 5)]
    await peers.say(*(condemned(key) for key in keys[:200]))
    await peers.say(*(condemned(key) for key in keys[200:]))
    await peers.say(condemned(keys[-1]), feed=OTHER_FEED)
    await peers.look()
    assert peers.follower.condemned == {*keys[:MOST_CONDEMNED], keys[-1]}, "another site has its own account"


@pytest.mark.parametrize(
    "bad",
    [
        put(event("x", 1, audit_id="x" * ENTRY_BYTES)),
        Put("revocations", ("x",), b"\xc1", {}),
        Put("revocations", ("x",), TOO_DEEP, {}),
        Put("condemned", (KEY,), encode(project("p")), {}),
        Put("condemned", (KEY,), TOO_DEEP, {}),
    ],
    ids=["too large", "rubbish", "too deep", "a row of another table", "a key's row too deep"],
)
async def test_a_feed_with_what_no_site_writes_ends_there_and_keeps_nobody_from_the_others(peers, bad):
    await peers.revoke("before")
    await peers.say(bad)
    await peers.revoke("after")
    await peers.revoke("other", feed=OTHER_FEED)
    await peers.look()
    assert peers.refuses("before", "after", "other") == [True, False, True]
    assert peers.feeds.status()[FEED]["number"] == 1
    assert peers.feeds.status()[FEED]["problem"]
    peers.know(Taken(feed=FEED, number=2))  # a controller has decided about it
    peers.clock._to(peers.clock.ticks() + 2 * SELDOM_S)
    await peers.look()
    assert peers.refuses("after") == [True]
    assert peers.feeds.status()[FEED]["problem"] is None


@pytest.mark.parametrize(
    ("state", "counts"), [("active", True), ("quarantined", True), ("invited", False), ("removed", False)]
)
async def test_the_feed_of_a_member_is_read_and_of_nobody_else(peers, state, counts):
    peers.members(RegionTwo=state)
    await peers.revoke("a")
    await peers.revoke("mine", feed=f"{HERE}/inc")
    await peers.revoke("former", feed=f"{PEER}/former")
    await peers.look()
    assert peers.refuses("a", "mine", "former") == [counts, False, False]
    assert set(peers.store.asked) == {OTHER_FEED, *([FEED] if counts else [])}


async def test_what_a_removed_site_has_revoked_stays_revoked(peers):
    await peers.revoke("a")
    await peers.look()
    peers.members(RegionTwo="removed")
    await peers.revoke("later")
    await peers.look()
    assert peers.refuses("a", "later") == [True, False]


async def test_a_site_that_joined_anew_is_read_from_its_new_beginning(peers):
    await peers.revoke("a", "b")
    await peers.look()
    peers.know(Site(id=PEER, state="active", instance="anew"))
    await peers.revoke("c", feed=f"{PEER}/anew")
    await peers.look()
    assert peers.refuses("a", "b", "c") == [True] * 3
    assert peers.store.asked.count(FEED) == 1


async def test_what_the_log_has_taken_over_is_not_asked_for_again_and_counts_once(peers):
    await peers.revoke("a", "b", "c")
    await peers.look()
    size = len(peers.follower.index)
    taken = [event(spread(f"{FEED}/{number}/0"), 10**6, audit_id=name) for number, name in enumerate("abc", 1)]
    peers.know(*taken, Taken(feed=FEED, number=3))
    await peers.shared.prune(FEED, 3)
    await peers.revoke("d")
    await peers.look()
    assert peers.refuses("d") == [True]
    assert len(peers.follower.index) == size + 1
    assert peers.feeds.status()[FEED] == {"taken": 3, "number": 4, "rows": 1, "problem": None}


async def test_what_was_forgotten_before_it_was_read_came_with_the_log(peers):
    await peers.revoke("a", "b")
    await peers.shared.prune(FEED, 2)
    await peers.revoke("c")
    await peers.look()
    assert peers.refuses("c") == [False], "what lies between is missing: no number is passed over"
    peers.know(Taken(feed=FEED, number=2))
    await peers.look()
    assert peers.refuses("c") == [True]


async def test_who_had_issued_behind_a_peers_revocation_answers_once_and_what_is_issued_later_is_good(peers):
    answers = []
    peers.follower.late = answers.extend
    peers.follower.note_issue("u", 5 * 10**6)
    await peers.say(put(event("of u", 10**6, user_id="u")))
    await peers.look()
    (answer,) = answers
    name = spread(f"{FEED}/1/0")
    assert (answer.id, answer.issued_before) == (spread(f"{LATE}{name}"), 5 * 10**6)
    peers.follower.note_issue("u", 9 * 10**6)  # who logs in now knows the new password
    peers.know(event(name, 10**6, user_id="u"), Taken(feed=FEED, number=1))
    assert answers == [answer]
    peers.know(event(spread(f"{FEED}/2/0"), 10**6, user_id="u"))
    assert [one.issued_before for one in answers] == [5 * 10**6, 9 * 10**6], "one that was not known is answered"


@pytest.mark.parametrize("fault", [TypeError("no blob"), RecursionError("deep"), OverflowError(), KeyError("k")])
async def test_whatever_is_raised_where_a_feed_is_read_it_ends_no_process_and_keeps_nobody_from_the_others(
    peers, fault
):
    await peers.revoke("a", "b")
    await peers.look()
    await peers.revoke("other", feed=OTHER_FEED)
    peers.store.fault = fault
    await peers.feeds.begin()
    assert peers.refuses("other") == [True]
    assert [word.feed async for word in peers.feeds.words()] == [OTHER_FEED]
    assert peers.feeds.status()[FEED]["problem"]
    peers.store.fault = None
    assert {word.feed async for word in peers.feeds.words()} == {OTHER_FEED}, "it is read again first"
    peers.clock._to(peers.clock.ticks() + 2 * SELDOM_S)
    await peers.look()
    assert {word.feed async for word in peers.feeds.words()} == {FEED, OTHER_FEED}


async def test_what_one_site_says_that_is_not_in_the_log_is_bounded_and_the_rest_waits_for_the_log(peers, monkeypatch):
    monkeypatch.setattr(peer_feeds, "MOST_ROWS", 250)
    names = [f"a{number}" for number in range(400)]
    for start in range(0, 400, 4):
        await peers.say(*(put(event(name, 10**6, audit_id=name)) for name in names[start : start + 4]))
    await peers.revoke("other", feed=OTHER_FEED)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await peers.look()
    (told,) = [one for one in logs if one["event"] == "peer_feed_full"]
    assert (told["feed"], told["rows"]) == (FEED, 252)
    assert peers.refuses(*names) == [True] * 252 + [False] * 148
    assert peers.refuses("other") == [True], "nobody else pays for it"
    shown = peers.feeds.status()
    assert (shown[FEED]["number"], shown[FEED]["rows"], shown[OTHER_FEED]["rows"]) == (63, 252, 1)
    assert "not in the log" in shown[FEED]["problem"]
    assert shown[OTHER_FEED]["problem"] is None
    assert [word.number for word in [one async for one in peers.feeds.words()] if word.feed == FEED][-1] == 63
    peers.know(Taken(feed=FEED, number=40))  # a controller is back
    await peers.look()
    assert peers.refuses(*names) == [True] * 400, "nothing was passed over"
    assert peers.feeds.status()[FEED] == {"taken": 40, "number": 100, "rows": 240, "problem": None}


async def test_a_revocation_of_several_things_ends_all_that_have_the_narrowest_and_of_nothing_nothing(peers):
    now = peers.clock.now()
    shapes = [
        {"user_id": "u", "project_id": "p", "role_id": "r", "domain_id": "d"},
        {"user_id": "v", "trust_id": "t"},
        {"audit_id": "a", "user_id": "w", "expires_at": now},
        {"project_id": "q", "expires_at": now},
        {"role_id": "s", "access_token_id": ""},
        {},
    ]
    with structlog.testing.capture_logs() as logs:
        await peers.say(*(put(event(f"e{number}", 10**6, **one)) for number, one in enumerate(shapes)))
        await peers.look()
    found = [{"user_id": "u"}, {"trust_id": "t"}, {"audit_id": "a"}, {"project_id": "q"}]
    assert all(voided(peers.follower, **one, issued_at=10**6) for one in found)
    assert not voided(peers.follower, user_id="v", issued_at=10**6)
    assert not voided(peers.follower, audit_id="b", issued_at=10**6)
    assert len(peers.follower.index) == len(shapes) - 1
    assert len(peers.follower.index._tables) == 5, "so many questions at each validation"
    (told,) = [one for one in logs if one["event"] == "peer_feed_oversteps"]
    assert told["refused"] == {"of_several_things": 5, "of_everybody": 1}


@pytest.mark.parametrize("field", ["user_id", "project_id", "audit_id", "audit_chain_id", "access_token_id"])
async def test_a_revocation_of_what_no_token_can_say_is_not_believed(peers, field):
    with structlog.testing.capture_logs() as logs:
        await peers.say(
            put(event("fits", 10**6, **{field: "x" * 255})), put(event("does not", 10**6, **{field: "x" * 256}))
        )
        await peers.look()
    assert len(peers.follower.index) == 1
    assert [one["refused"] for one in logs if one["event"] == "peer_feed_oversteps"] == [{"too_long": 1}]


@pytest.mark.parametrize("name", ["of u", spread(f"{WATERMARK}u")])
@pytest.mark.parametrize("again", ["a peer's word", "a word once more"])
async def test_what_comes_again_is_not_answered_again_and_who_logged_in_meanwhile_stays(peers, name, again):
    answers = []
    peers.follower.late = answers.extend
    peers.follower.note_issue("u", 5 * 10**6)
    await peers.say(put(event(name, 10**6, user_id="u")))
    if again == "a peer's word":  # while it is read the log brings it
        there = spread(f"{FEED}/1/0") if name == "of u" else spread(f"{FEED}/{WATERMARK}u/None")
        peers.know(event(there, 10**6, user_id="u"), Taken(feed=FEED, number=1))
        await peers.feeds._review()
        peer = peers.feeds._peers[FEED]
        peer.number = 0
    else:
        await peers.look()
    assert len(answers) == 1
    peers.follower.note_issue("u", 9 * 10**6)
    if again == "a peer's word":
        assert await peers.feeds._read(peer) is False
        assert [word.number for word in peers.words] == [1]
    else:
        peers.follower.index = RevocationIndex()  # made anew after rows were put right
        heed(peers.follower, peers.words[0])
    assert len(answers) == 1
    assert voided(peers.follower, user_id="u", issued_at=10**6)
    assert not voided(peers.follower, user_id="u", issued_at=9 * 10**6)


async def test_after_a_restart_it_counts_before_anything_is_answered(peers, tmp_path):
    await peers.revoke("a", "b")
    peers.know(event(spread(f"{FEED}/1/0"), 10**6, audit_id="a"), Taken(feed=FEED, number=1))
    await peers.say(condemned(KEY))
    await peers.look()
    assert await peers.follower.settled(peers.follower.position, 5.0)
    await peers.close()
    again = await Peers().open(tmp_path)
    try:
        assert again.refuses("a", "b") == [True, False]
        await again.feeds.begin()
        assert again.refuses("a", "b") == [True, True]
        assert again.follower.condemned == {KEY}
        assert [one.number for one in again.words] == [2, 3]
    finally:
        await again.close()


async def test_a_start_does_not_wait_for_a_store_that_says_nothing(peers, monkeypatch):
    monkeypatch.setattr("regional_keystone.peer_feeds.BEGIN_S", 0.05)

    async def never(feed, *which):
        await asyncio.Event().wait()

    peers.store.tail = never
    await asyncio.wait_for(peers.feeds.begin(), 5)


async def test_a_feed_that_cannot_be_read_is_asked_less_and_less_and_one_of_a_store_that_was_away_at_once(peers):
    await peers.revoke("a")
    await peers.revoke("other", feed=OTHER_FEED)
    peers.store.away = {FEED, OTHER_FEED}
    for _ in range(3):
        assert await peers.feeds.look() is False
    assert peers.store.asked.count(FEED) == 3, "the store is away, and comes back"
    peers.store.away = {FEED}
    for _ in range(3):
        await peers.feeds.look()
    assert peers.store.asked.count(FEED) == 4
    assert peers.refuses("a", "other") == [False, True]
    peers.store.away = set()
    peers.clock._to(peers.clock.ticks() + SELDOM_S)
    await peers.feeds.look()
    assert peers.refuses("a") == [True]


async def test_it_looks_often_while_no_controller_is_heard_of_and_seldom_otherwise(peers):
    running = asyncio.create_task(peers.feeds.run())

    async def looks(seconds):
        """How often a feed was asked for, in so many seconds of the clock."""
        before = peers.store.asked.count(FEED)
        for _ in range(round(seconds / SOON_S)):
            await peers.clock.advance(SOON_S)
            await asyncio.sleep(0.02)  # what was read is read in a thread
            await settle()
        return peers.store.asked.count(FEED) - before

    try:
        assert await looks(4) >= 4 / SOON_S - 2
        peers.follower.heard(peers.clock.ticks(), peers.follower.position)
        assert peers.follower.age_s() < AWAY_S
        await looks(SELDOM_S)
        peers.follower.heard(peers.clock.ticks(), peers.follower.position)
        assert await looks(1.75) <= 2
        assert await looks(4) >= 4 / SOON_S - 6
    finally:
        running.cancel()


# ------------------------------------------------------------------------------------------------ several processes


@asynccontextmanager
async def reading(three, path):
    """The site reads a peer's feed, as one does on a store that shows it."""
    await three.controller.write(Site(id=PEER, state="active", instance="inc"))
    await eventually(lambda: three.site.part.follower.position == three.controller.sequencer.head)
    shared = await Sqlite.open(path / "shared.db")
    part = three.site.part
    feeds = PeerFeeds(HERE, store=shared, follower=part.follower, clock=three.clock, keep_s=KEEP_S)
    feeds.told, three.workers.peers = three.workers.hear, feeds.words
    try:
        yield shared, feeds
    finally:
        await shared.close()


async def test_every_process_hears_of_it_and_one_that_begins_later_before_it_serves(tmp_path):
    async with region(tmp_path, 2) as three, reading(three, tmp_path) as (shared, feeds):
        rows = put(event("a", three.clock.now(), audit_id="a")), condemned(KEY)
        assert await shared.append(FEED, 0, [Entry(1, "own1", 0, rows)])
        assert await feeds.look() is False
        await eventually(lambda: all(voided(one, audit_id="a", issued_at=0) for one in three.everyone))
        assert all(one.condemned == {KEY} for one in three.everyone)
        assert three.worker(2).part.follower.peers == {FEED: 1}
        assert three.site.own.number == 0, "its own feed is another"
        three.processes[2][-1].kill()
        await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
        fresh = three.worker(2).part.follower
        assert voided(fresh, audit_id="a", issued_at=0)
        assert fresh.condemned == {KEY}
