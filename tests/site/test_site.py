"""A whole site, restarted: what it knew of its own freshness survives, and decides."""

import asyncio
import dataclasses
import json
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import structlog

from regional_keystone import site as site_
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.errors import StoreRefused, Unavailable, Unknown
from regional_keystone.issued import LATE
from regional_keystone.log import Entry, put
from regional_keystone.messages import Request
from regional_keystone.model import Project, User
from regional_keystone.model import Site as Site_
from regional_keystone.own_feed import ENTRY_BYTES
from regional_keystone.passwords import hash_password
from regional_keystone.record import spread
from regional_keystone.revocation import Traits
from regional_keystone.settings import Keys, Settings, Site, Token
from regional_keystone.wiring import keep_s
from tests.cloud import SECOND, TERMS, event, eventually, running
from tests.replay import LeapingClock

ISOLATION_S = 600.0
LOGIN = {"name": "u", "domain": {"id": "default"}, "password": "correct horse"}


class Lives:
    """One site's state and clock, through as many lives as a test wants."""

    def __init__(self, directory):
        self.clock = LeapingClock()
        self.state = directory / "site"
        self.identity = Identity(self.state / "identity")
        self.settings = dataclasses.replace(
            Settings(),
            site=Site(state_dir=self.state),
            keys=Keys(isolation_s=100 * ISOLATION_S),  # the controllers' counts
        )

    @asynccontextmanager
    async def life(self):
        async with AsyncExitStack() as stack:
            site = site_.Site(self.settings, self.clock, self.identity)
            await site.build(stack)
            tasks = [asyncio.create_task(one) for one in site.tasks()]
            try:
                yield site
                assert not any(task.done() for task in tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def login(site):
    auth = {"identity": {"methods": ["password"], "password": {"user": LOGIN}}}
    body = json.dumps({"auth": auth}).encode()
    return (await site.door.api.answer(Request(id="1", method="POST", path="/v3/auth/tokens", body=body))).status


def is_fresh(site):
    return site.part.follower.projected > 0 and site.part.follower.age_s() < 2


@pytest.fixture
async def lives(tmp_path):
    """A site that was fresh a moment ago and has noted it, and whose controller is away."""
    made = Lives(tmp_path)
    promised = TERMS._replace(isolation_us=int(ISOLATION_S) * SECOND)
    async with running(tmp_path, (), terms=promised) as cloud:
        hashed = await hash_password(LOGIN["password"], 4)
        user = User(id="u", domain_id="default", name="u", password_hash=hashed)
        await cloud.controller.write(Project(id="default", name="Default", is_domain=True), user)
        await made.identity.join(JoinToken.read(await cloud.controller.sites.invite("RegionOne")))
        async with made.life() as site:
            await eventually(lambda: is_fresh(site))
            made.clock.ahead_s += 5
            await eventually((made.state / "fresh").exists)
            assert await login(site) == 201
        await cloud.controller.stop()
        made.controller = cloud.controller
        yield made


async def test_a_site_restarted_while_the_controller_is_away_knows_its_age_and_issues(lives):
    lives.clock.ahead_s += 100
    async with lives.life() as site:
        assert 100 <= site.part.follower.age_s() < 130
        assert site.status()["age_s"] >= 100
        assert site.status()["state"] == "isolated"
        assert await login(site) == 201


async def test_a_restart_does_not_lengthen_the_time_for_which_a_site_issues_alone(lives):
    lives.clock.ahead_s += ISOLATION_S / 2
    async with lives.life() as site:
        assert await login(site) == 201
        lives.clock.ahead_s += ISOLATION_S / 2 + 1
        assert await login(site) == 503
    async with lives.life() as site:
        assert await login(site) == 503


async def test_a_wall_clock_that_is_set_back_between_two_lives_gives_no_time_back(lives):
    """Not even to a moment after the last news: of what was noted while it was cut off, the latest counts."""
    path = lives.state / "fresh"
    before = path.read_bytes()
    lives.clock.ahead_s += ISOLATION_S - 100
    async with lives.life() as site:
        assert await login(site) == 201
        await eventually(lambda: path.read_bytes() != before)
    lives.clock.ahead_s -= ISOLATION_S - 200
    async with lives.life() as site:
        assert site.status()["age_s"] is None
        assert await login(site) == 503


@pytest.mark.parametrize("noted", ["later", "rubbish", "nothing"])
async def test_a_site_that_cannot_know_its_age_issues_nothing(lives, noted):
    if noted == "later":  # somebody has set the wall clock back
        lives.clock.ahead_s -= 3600
    elif noted == "rubbish":
        (lives.state / "fresh").write_bytes(b"yesterday")
    else:
        (lives.state / "fresh").unlink()
    async with lives.life() as site:
        assert site.status()["age_s"] is None
        assert await login(site) == 503


async def test_a_site_whose_disk_is_full_goes_on(lives):
    (lives.state / "fresh.new").mkdir()
    await lives.controller.start()
    async with lives.life() as site:
        await eventually(lambda: is_fresh(site))
        for _ in range(3):  # each time it is tried again
            lives.clock.ahead_s += 20
            await eventually(lambda: is_fresh(site))


async def test_an_answer_that_fits_nowhere_ends_nothing_and_keeps_back_no_other(lives):
    async with lives.life() as site:
        for number in range(3):
            site.part.follower.note_issue(f"u{number}", 9 * SECOND)
        for name, project_id in (("u0", "p"), ("u1", "p" * (ENTRY_BYTES - 1000)), ("u2", "p" * (ENTRY_BYTES // 2))):
            site.part.follower.answer(
                site.part.follower.answers(event(name, SECOND, user_id=name, project_id=project_id))
            )
        site.late.put([event("never", 1, project_id="p" * ENTRY_BYTES), event("e", 1, audit_id="e")])
        await asyncio.wait_for(site.late.written(), 5)
        assert site.own.number == 4


class Shut:
    """A store of the site's own feed that nothing can be appended to while it is shut."""

    def __init__(self, store):
        self._store = store
        self.is_shut = True

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, *which):
        if self.is_shut:
            raise Unavailable("It is full.")
        return await self._store.append(*which)


async def test_the_replica_holds_no_revocation_that_is_not_answered_so_a_later_life_answers_it(lives):
    user, issued_at = "somebody", lives.clock.now()
    for shut in (True, False):
        async with lives.life() as site:
            follower = site.part.follower
            site.own._store = store = Shut(site.own._store)
            store.is_shut = shut
            follower.note_issue(user, issued_at)
            before = follower.projected
            follower.note([Entry(before + 1, "t", 0, (put(event("e", issued_at - 9 * SECOND, user_id=user)),))])
            assert follower.index.voided(Traits(issued_at=issued_at, expires_at=10**18, audit_id="a", user_id=user)), (
                "it counts at once"
            )
            assert await follower.settled(before + 1, 0.5) != shut
            assert site.own.number == (0 if shut else 1)


async def test_a_later_life_voids_what_was_issued_here_behind_a_revocation_and_nothing_that_others_issued_since(lives):
    last = lives.clock.now() // SECOND * SECOND
    async with lives.life() as site:
        site.part.follower.note_issue("somebody", last)
    lives.clock.ahead_s += 12
    async with lives.life() as site:
        follower = site.part.follower
        while_down, before = event("e", last + 5 * SECOND, user_id="u"), event("f", last - 9 * SECOND, user_id="v")
        follower.note([Entry(follower.projected + 1, "t", 0, (put(while_down), put(before)))])

        def voided(user_id, at):
            return follower.index.voided(Traits(issued_at=at, expires_at=10**18, audit_id="a", user_id=user_id))

        assert not voided("u", last + 6 * SECOND), "a login elsewhere, after the revocation"
        assert voided("v", last)
        assert not voided("v", last + SECOND)
        await site.late.written()
        assert site.own.number == 1


async def test_what_a_former_version_has_issued_since_is_not_in_the_file(lives):
    """An older version notes that it lives, and not when it issues."""
    last = lives.clock.now() // SECOND * SECOND
    async with lives.life() as site:
        site.part.follower.note_issue("somebody", last)
    fresh = lives.state / "fresh"
    noted = msgspec.json.decode(fresh.read_bytes())
    assert noted.pop("issues_kept") is True
    lives.clock.ahead_s += 3600
    fresh.write_bytes(msgspec.json.encode(noted | {"noted_at": lives.clock.now()}))
    for _ in range(2):  # a life that ends before it could note anything changes nothing of it
        async with lives.life() as site:
            follower, at = site.part.follower, lives.clock.now()
            event_ = event(uuid.uuid4().hex, last + 60 * SECOND, user_id="u")
            follower.note([Entry(follower.projected + 1, "t", 0, (put(event_),))])
            assert follower.index.voided(Traits(issued_at=at, expires_at=10**18, audit_id="a", user_id="u"))
            assert await follower.settled(follower.position, 5.0)
        lives.clock.ahead_s += 5


async def test_a_snapshot_replaces_nothing_before_what_it_revokes_is_answered(lives):
    async with lives.life() as site:
        site.own._store = store = Shut(site.own._store)
        site.late.put([event("e", 1, audit_id="e")])
        waiting = asyncio.create_task(site.link.answered())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        store.is_shut = False
        await asyncio.wait_for(waiting, 5)


async def test_what_peers_said_before_this_site_began_is_answered_as_well(lives, monkeypatch):
    async with lives.life() as site:
        member = site.part.follower.projected
        await site.part.store.apply([Entry(member + 1, "t", 0, (put(Site_(id="P", state="active", instance="inc")),))])
        event_ = event("e", lives.clock.now() - 60 * SECOND, user_id="u")
        assert await site.part.store.append("P/inc", 0, [Entry(1, "own1", 0, (put(event_),))])
    plain, open_replica = lives.settings, site_.open_replica
    shared = dataclasses.replace(plain.cassandra, contact_points=("shared",))
    lives.settings = dataclasses.replace(plain, cassandra=shared)
    monkeypatch.setattr(site_, "open_replica", lambda _, *more: open_replica(plain, *more))
    async with lives.life() as site:
        assert site.peers.status()["P/inc"]["number"] == 1
        await eventually(lambda: site.own.number == 1)
        (entry,) = await site.own.after(0)
        assert entry.changes[0].key == (spread(f"{LATE}{spread('P/inc/1/0')}"),)


class Cut:
    """A store that cannot be read while it is told so."""

    def __init__(self, store):
        self._store = store
        self.away = True
        self.asked = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def tail(self, *which):
        self.asked += 1
        if self.away:
            raise Unavailable("It is away.")
        return await self._store.tail(*which)


async def test_a_data_centre_that_is_away_is_told_of_when_it_goes_and_when_it_comes(lives, monkeypatch):
    monkeypatch.setattr(site_, "_LOOK_S", 0.01)
    async with lives.life() as site:
        store = site.part.store = Cut(site.part.store)
        with structlog.testing.capture_logs() as logged:

            def said():
                return [one["event"] for one in logged if one["event"].startswith("data_centre")]

            following = asyncio.create_task(site._follow_store())
            for away in (True, False, True, False):
                store.away, before = away, store.asked
                await eventually(lambda before=before: store.asked > before + 5)
        following.cancel()
        assert said() == 2 * ["data_centre_not_readable", "data_centre_readable"]


class Beating(Cut):
    """A store in which controllers say how far the log went, and when."""

    class heartbeat:  # noqa: N801  as the store has it
        said = None

        @classmethod
        async def last(cls):
            return cls.said


async def test_a_site_that_no_stream_reaches_counts_by_the_controllers_heartbeat_in_the_store(lives, monkeypatch):
    monkeypatch.setattr(site_, "_LOOK_S", 0.01)
    lives.clock.ahead_s += 100
    async with lives.life() as site:
        follower, store = site.part.follower, Beating(site.part.store)
        site.part.store, store.away, beat = store, False, store.heartbeat
        following = asyncio.create_task(site._follow_store())
        assert follower.age_s() >= 100
        beat.said = (lives.clock.now() - 5 * SECOND, follower.position + 1)
        await asyncio.sleep(0.1)
        assert follower.age_s() >= 100, "it has not what the log has"
        beat.said = (lives.clock.now() + 60 * SECOND, follower.position)
        await asyncio.sleep(0.1)
        assert follower.age_s() >= 100, "that is of no moment that was"
        left_s = follower.leave.left_s()
        beat.said = (lives.clock.now() - 5 * SECOND, follower.position)
        await eventually(lambda: follower.age_s() < 10)
        assert follower.age_s() >= 5 + site.settings.freshness.skew_s
        assert follower.leave.left_s() <= left_s, "keys retire by what no wall clock has a part in"
        asked = store.asked
        lives.clock.ahead_s += 50
        await eventually(lambda: store.asked > asked + 5)
        assert follower.age_s() >= 55, "what is said once does not stay true"
        following.cancel()


async def test_what_the_own_feed_holds_unknown_to_us_is_looked_for_without_being_asked(lives, monkeypatch):
    monkeypatch.setattr(site_, "_LOOK_S", 0.01)
    async with lives.life() as site:
        own = site.own

        class Silent(Cut):
            async def append(self, *what):
                assert await self._store.append(*what)
                raise Unknown

        store = own._store = Silent(own._store)
        with pytest.raises(Unknown):
            await own.revoke([event("e", 10**6, audit_id="e")])
        following = asyncio.create_task(site._follow_store())
        store.away = False
        await eventually(lambda: own.number == 1)
        following.cancel()
        assert site.part.follower.index.voided(Traits(issued_at=0, expires_at=10**18, audit_id="e"))


@pytest.mark.parametrize(("expiration", "window", "isolation_s"), [(60, 0, 1.0), (90_000, 10, 5.0), (60, 500_000, 9e5)])
def test_what_voids_or_opens_a_token_is_kept_for_as_long_as_one_can_be_shown(expiration, window, isolation_s):
    token = Token(expiration=expiration, allow_expired_window=window)
    settings = dataclasses.replace(Settings(), token=token, keys=Keys(isolation_s=isolation_s))
    assert keep_s(settings) >= expiration + window + isolation_s


async def test_a_join_token_that_others_may_read_is_refused(tmp_path):
    token = tmp_path / "token"
    token.write_text("rkj1.")
    token.chmod(0o644)
    settings = Settings(site=Site(state_dir=tmp_path / "state", join_token_file=token))
    with pytest.raises(StoreRefused, match=f"chmod 600 {token}"):
        await site_.serve(settings, lambda: None)
