"""What this site has answered 200 is deleted from services' memcached when it would not be answered any more."""

import asyncio
import resource
import time
import uuid
from contextlib import asynccontextmanager
from functools import partial

import pytest
from keystonemiddleware.auth_token import _cache
from structlog.testing import capture_logs

from regional_keystone.adapters.token_cache import TokenCache
from regional_keystone.deletions import Deletions
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.follow import revocation
from regional_keystone.journal import Journal, record
from regional_keystone.keys import KeyRing
from regional_keystone.log import Put, disturbed, put, remove
from regional_keystone.middleware_cache import Answers, Strategy, framed, key, names, strategies, told
from regional_keystone.model import Project, RevocationEvent, User
from regional_keystone.purge import Purge, Terms
from regional_keystone.record import decode
from regional_keystone.settings import ConfigurationError, MiddlewareCache
from regional_keystone.token import SystemScope
from regional_keystone.told import Ahead, left
from tests.site.cache_server import CacheServer
from tests.site.realm import KEYS, ON_P, SCOPE_P, SYSTEM, P, Realm, U, ask, endpoint, grant, realm
from tests.stand_ins import ManualClock

KNOWN = (Strategy(), Strategy("MAC", b"secret"), Strategy("ENCRYPT", b"secret"))
PATIENCE_S = 10.0


async def until(holds, what):
    """Time of the realm stands still meanwhile; what goes over a socket takes its own."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)


class Place:
    """A site over one replica, real servers, and services that have kept what it answered."""

    def __init__(self, made: Realm, servers, folder, **terms):
        self.realm, self.servers, self.folder = made, [CacheServer(one) for one in servers], folder
        self.terms = Terms(**({"in_flight_s": 3.0, "limits": {"system": 30.0}} | terms))
        self.purge, self.answers, self._task = None, None, None

    async def begin(self):
        made = self.realm
        self.purge = Purge(
            knowledge=made.known,
            look=made.validator.facts,
            memory=made.fastpath,
            clock=made.clock,
            servers=[TokenCache(one.address, 1.0) for one in self.servers],
            journal=Journal(self.folder / "answered"),
            terms=self.terms,
            ahead=partial(left, self.folder / "answered"),
        )
        self.answers = made.fastpath.answered = self.process(1)
        self._task = asyncio.create_task(self.purge.run())
        await until(lambda: self.purge._file or self._task.done() or self.purge._journal._file, "its file is open")

    def process(self, number):
        """What this process of the site answers, as it tells it."""
        ahead = Ahead(self.folder / "answered", number, self.realm.clock)
        return Answers(KNOWN, self.terms.token_cache_time_s, self.purge.take, ahead.write)

    async def die(self):
        """As by SIGKILL: nothing more is written, nothing more deleted."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.realm.fastpath.answered = None

    def change(self, *changes):
        number = self.realm.change(*changes)
        if self.purge:
            for one in changes:
                if one.table == "revocations" and isinstance(one, Put):
                    self.purge.heard(revocation(decode(RevocationEvent, one.row)))
            self.purge.disturb(number, disturbed(changes))

    def revoke(self, **traits):
        now = self.realm.clock.now()
        event = {"id": uuid.uuid4().hex, "issued_before": now, "revoked_at": now, "keep_until": now + 10**12}
        self.change(put(RevocationEvent(**{**event, **traits})))

    async def kept(self, *tokens, by=ON_P):
        """A service has validated each of these, and keeps the answers, in every strategy, on every server."""
        for token in tokens:
            self.realm.validator.shown(token, await self.realm.validator.check(token), by)
        self.answers.flush()
        await until(lambda: not self.purge._unknown, "they are looked up")
        self.store(*tokens)

    def store(self, *tokens):
        for one in self.servers:
            if one.engine.is_running:
                one.write({entry: b"{}" for token in tokens for entry in entries(token)})

    def has(self, token, server=0):
        """How many entries a server has of it."""
        return len(set(entries(token)) & set(self.servers[server].keys()))

    async def gone(self, *tokens, servers=(0,)):
        await until(
            lambda: not any(self.has(one, at) for one in tokens for at in servers), "the entries are there still"
        )

    async def written(self, *tokens):
        """It is in the file: moments that pass on both clocks, since it rests between two times that it writes."""
        wanted = [name for token in tokens for name in names(token, KNOWN)]
        end = time.monotonic() + PATIENCE_S
        while not all(one in self.content("*.journal") for one in wanted):
            assert time.monotonic() < end, "it is not written"
            await self.realm.clock.advance(0.1)

    def content(self, which="*"):
        return b"".join(file.read_bytes() for file in (self.folder / "answered").glob(which))


def entries(token):
    return [key(name) for name in names(token, KNOWN)]


@asynccontextmanager
async def placed(folder, servers, **terms):
    folder.mkdir(exist_ok=True)
    async with realm(folder) as made:
        place = Place(made, servers, folder, **terms)
        for one in place.servers:
            one.flush()
        await place.begin()
        try:
            yield place
        finally:
            await place.die()
            await place.purge.close()


@pytest.fixture
async def place(tmp_path, memcached):
    async with placed(tmp_path, memcached[:1]) as made:
        yield made


async def logins(place, count, scope=SCOPE_P):
    return [(await place.realm.login(scope)).text for _ in range(count)]


async def neighbour(place):
    """Another user's token, which a service keeps as well."""
    user, template = uuid.uuid4().hex, await place.realm.overlay.get(User, U)
    row = User(id=user, name=user, domain_id="default", password_hash=template.password_hash)
    place.change(put(row), put(grant(user, P, "reader")))
    token = (await place.realm.login(SCOPE_P, user=user)).text
    await place.kept(token)
    return token


@pytest.mark.parametrize("strategy", KNOWN, ids=["none", "MAC", "ENCRYPT"])
def test_entries_are_called_what_the_middleware_calls_them(strategy):
    if strategy.name:
        theirs = _cache.SecureTokenCache(None, strategy.name, "secret")
    else:
        theirs = _cache.TokenCache(None)
    assert key(names("gAAAAAtoken", (strategy,))[0]) == theirs._get_cache_key("gAAAAAtoken")[0]


async def test_a_revoked_token_goes_and_its_neighbours_stay(place):
    (token, other), stranger = await logins(place, 2), await neighbour(place)
    await place.kept(token, other)
    place.revoke(audit_id=(await place.realm.validator.check(token)).token.audit_id)
    await place.gone(token)
    assert [place.has(one) for one in (other, stranger)] == [3, 3]
    assert place.purge.purged["revoked"] == 1


@pytest.mark.parametrize("traits", [{"user_id": U}, {"project_id": P}, {"domain_id": "default"}])
async def test_whatever_a_revocation_names_is_found(place, traits):
    token = await logins(place, 1)
    await place.kept(*token)
    place.revoke(**traits)
    await place.gone(*token)


async def test_a_chain_goes_with_its_first(place):
    first, aside = await logins(place, 2)
    made = (await place.realm.rescope(first, SCOPE_P)).text
    await place.kept(first, made, aside)
    place.revoke(audit_chain_id=(await place.realm.validator.check(first)).token.line, issued_before=2**62)
    await place.gone(made)
    assert place.has(aside) == 3


async def test_what_was_under_way_is_deleted_when_it_has_arrived(place):
    (token,) = await logins(place, 1)
    await place.kept(token)
    place.revoke(user_id=U)
    await place.gone(token)
    place.store(token)  # the middleware got its answer before, and stores it only now
    await place.realm.clock.advance(2.5)
    assert place.has(token) == 3
    await place.realm.clock.advance(1.0)
    await place.gone(token)


async def test_an_answer_that_arrives_after_its_revocation_is_deleted_as_well(place):
    (token,) = await logins(place, 1)
    verdict = await place.realm.validator.check(token)
    place.store(token)
    place.revoke(user_id=U)
    await until(lambda: not place.purge._events, "it was heard")
    place.purge.take([told(token, verdict, KNOWN)])
    await place.gone(token)


async def test_a_role_that_was_lost_takes_away_what_said_so_and_nothing_else_does(place):
    (token,), stranger = await logins(place, 1), await neighbour(place)
    await place.kept(token)
    project = await place.realm.overlay.get(Project, P)
    place.change(put(Project(id=P, name="p", domain_id="default", parent_id="default", description="new"), project))
    place.change(put(endpoint("RegionTwo", "http://another/v3")))
    place.change(put(grant(U, P, "service")))
    await place.gone(token)
    assert place.has(stranger) == 3
    await place.kept(token)
    place.change(remove(grant(U, P, "service")))
    await place.gone(token)
    await place.kept(token)
    place.change(remove(grant(U, P, "member")))
    await place.gone(token)
    assert len(place.purge) == 1  # the stranger's
    assert place.has(stranger) == 3


async def test_a_disabled_project_takes_everybody_with_it_however_many_they_are(place):
    tokens = [await neighbour(place) for _ in range(120)]  # more than are looked up before anything is deleted
    project = await place.realm.overlay.get(Project, P)
    place.change(put(Project(id=P, name="p", domain_id="default", parent_id="default", enabled=False), project))
    await place.gone(*tokens)
    await until(lambda: not len(place.purge), "they are forgotten")


async def test_what_a_key_sealed_goes_with_the_key(place):
    (token,) = await logins(place, 1)
    await place.kept(token)
    place.realm.known.ring = KeyRing({0: KEYS[2], 1: KEYS[3]}, 2)
    await place.realm.clock.advance(0.3)
    await place.gone(token)
    assert place.purge.purged["key"] == 1


async def test_a_class_goes_when_its_limit_is_passed_and_again_when_it_is_passed_again(place):
    place.change(put(grant(U, "system", "admin", target="system")))
    (token,), (system,) = await logins(place, 1), await logins(place, 1, SYSTEM)
    for _ in range(2):
        await place.kept(token, system)
        place.realm.known.age = 31.0
        await place.realm.clock.advance(0.3)
        await place.gone(system)
        assert place.has(token) == 3
        place.realm.known.age = 1.0
        await place.realm.clock.advance(0.3)


@pytest.mark.parametrize("killed", ["at once", "once it is written"])
async def test_what_a_caller_of_a_class_was_answered_goes_with_that_class(place, killed):
    place.change(put(grant(U, "system", "admin", target="system")))
    token, other, both = await logins(place, 3)
    await place.kept(token, both, by=SystemScope())
    await place.kept(other, both, by=ON_P)
    if killed == "once it is written":
        await place.written(token, other, both)
    await place.die()  # who had asked is remembered as well
    await place.purge.close()
    await place.begin()
    await until(lambda: len(place.purge) == 3, "they are taken up")
    place.realm.known.age = 31.0
    await place.realm.clock.advance(0.3)
    await place.gone(token, both)
    assert place.has(other) == 3


async def test_a_class_that_was_new_enough_for_a_moment_between_two_looks_is_deleted_again(place):
    place.change(put(grant(U, "system", "admin", target="system")))
    (system,) = await logins(place, 1, SYSTEM)
    await place.kept(system)
    place.realm.known.age = 31.0
    await place.realm.clock.advance(0.3)
    await place.gone(system)
    await place.realm.clock.advance(4.0)  # what was under way then has been deleted as well
    place.realm.known.age = 29.9  # late word; then it is answered, and not told of: it was a minute ago
    place.store(system)
    place.realm.known.age = 30.1
    await place.realm.clock.advance(0.3)
    await place.gone(system)


@pytest.mark.parametrize("by", [ON_P, SystemScope()])
@pytest.mark.parametrize("again", [False, True])
async def test_what_was_answered_just_before_a_class_ended_and_told_of_just_after_is_deleted(
    place, by, again, monkeypatch
):
    monkeypatch.setattr("regional_keystone.middleware_cache._HAND_ON_S", 60.0)  # `flush` below is what hands it on
    place.change(put(grant(U, "system", "admin", target="system")))
    (token,) = await logins(place, 1, SYSTEM if by == ON_P else SCOPE_P)
    if again:
        await place.kept(token)
    place.realm.validator.shown(token, await place.realm.validator.check(token), by)
    place.realm.known.age = 31.0
    await place.realm.clock.advance(0.3)
    place.store(token)
    place.answers.flush()
    await place.gone(token)


async def answered(place, token, number):
    """A process answers this, a service keeps it, and the process is killed before it could say so."""
    process = place.process(number)
    process.note(token, await place.realm.validator.check(token), "project")
    process._fresh.clear()
    place.store(token)


async def test_what_was_answered_in_the_last_moment_of_a_place_is_deleted_when_it_ended(place):
    (token,), stranger = await logins(place, 1), await neighbour(place)
    for number in (1, 2):
        await answered(place, token, number)
    await place.die()
    purge, place.purge = place.purge, None
    place.revoke(user_id=U)
    await purge.close()
    await place.begin()
    await place.gone(token)
    assert place.has(stranger) == 3


async def test_what_was_answered_in_the_last_moment_of_a_worker_is_deleted_when_it_ends(place):
    one, other = await logins(place, 2)
    await answered(place, one, 2)
    await answered(place, other, 21)
    place.purge.process_ended(2)
    await until(lambda: len(place.purge) == 1, "it is taken up")
    place.revoke(user_id=U)
    await place.gone(one)
    assert place.has(other) == 3, "that process lives, and says so itself"
    place.purge.process_ended(21)
    await place.gone(other)


async def test_what_was_handed_on_until_a_moment_goes_at_that_moment(place):
    (token,) = await logins(place, 1)
    verdict = await place.realm.validator.check(token)
    verdict.expires_at = place.realm.clock.now() + 60_000_000  # of an application credential that ends then
    place.purge.take([told(token, verdict, KNOWN)])
    place.store(token)
    await place.realm.clock.advance(59.0)
    assert place.has(token) == 3
    await place.realm.clock.advance(2.0)
    await place.gone(token)
    assert place.purge.purged["ended"] == 1


async def test_every_server_is_told_and_one_that_was_down_once_it_is_back(tmp_path, memcached):
    async with placed(tmp_path, memcached) as place:
        (token,) = await logins(place, 1)
        await place.kept(token)
        place.servers[1].freeze()
        with capture_logs() as logs:
            place.revoke(user_id=U)
            await place.gone(token, servers=(0, 2))
            await until(lambda: not place.purge.deletions[1].up, "its silence is noticed")
        assert [one["event"] for one in logs] == ["middleware_cache_server_down"]
        assert place.purge.status()["servers"][place.servers[1].address]["owed"] == 3
        place.servers[1].thaw()
        await place.realm.clock.advance(0.3)
        await place.gone(token, servers=(1,))
        await until(lambda: place.purge.deletions[1].up, "it is up")


async def test_a_server_that_stays_away_is_asked_until_its_entries_have_ended(place, memcached):
    (token,) = await logins(place, 1)
    await place.kept(token)
    place.servers[0].kill()
    place.revoke(user_id=U)
    await until(lambda: not place.purge.deletions[0].up, "it is missed")
    clock, failed = place.realm.clock, place.purge.deletions[0].failures
    await clock.advance(300.0)
    await until(lambda: place.purge.deletions[0].failures > failed, "it is asked again")
    for _ in range(10):
        await clock.advance(3.0)
        await asyncio.sleep(0.01)
    await until(lambda: not len(place.purge.deletions[0]), "they have ended")
    assert place.purge.lost()["given_up"] == 3


async def test_an_entry_is_remembered_for_as_long_as_a_service_may_keep_it(place):
    (token,) = await logins(place, 1)
    await place.kept(token)
    await place.realm.clock.advance(370.0)
    assert len(place.purge) == 1
    await place.realm.clock.advance(15.0)
    assert len(place.purge) == 0


async def test_what_ended_while_nobody_was_there_goes_at_the_start_and_nothing_else(place):
    (token, other), stranger = await logins(place, 2), await neighbour(place)
    (third,) = await logins(place, 1, None)
    await place.kept(token, other, third)
    await place.written(token, other, third, stranger)
    await place.die()
    audit_id = (await place.realm.validator.check(token)).token.audit_id
    purge, place.purge = place.purge, None
    place.revoke(audit_id=audit_id)
    place.change(remove(grant(U, P, "member")))
    await purge.close()
    await place.begin()
    await place.gone(token, other)
    assert [place.has(one) for one in (stranger, third)] == [3, 3]
    assert len(place.purge) == 2


async def test_what_is_told_under_more_names_than_before_has_them_all(place):
    (token,) = await logins(place, 1)
    verdict = await place.realm.validator.check(token)
    for known in (KNOWN[:1], KNOWN):  # the site was told of more strategies when it began anew
        place.purge.take([told(token, verdict, known)])
    place.store(token)
    place.revoke(user_id=U)
    await place.gone(token)


async def test_no_token_is_on_disk(place):
    (token,) = await logins(place, 1)
    await place.kept(token)
    await place.written(token)
    files, content = list((place.folder / "answered").iterdir()), place.content()
    assert {file.suffix for file in files} == {".journal", ".told"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert token.encode() not in content
    assert token[:30].encode() not in content


async def test_more_tokens_than_may_be_are_forgotten_the_oldest_first_and_loudly(tmp_path, memcached):
    async with placed(tmp_path, memcached[:1], entries=2) as place:
        tokens = await logins(place, 3)
        with capture_logs() as logs:
            await place.kept(*tokens)
        assert [one["event"] for one in logs] == ["middleware_cache_too_many_tokens"]
        assert place.purge.lost()["crowded_out"] == 1
        place.revoke(user_id=U)
        await place.gone(*tokens[1:])
        assert place.has(tokens[0]) == 3


async def test_the_fast_path_tells_each_token_once_in_a_while_and_only_what_has_a_body(place):
    (token,) = await logins(place, 1)
    place.change(put(grant(U, "system", "admin", target="system")))
    (caller,) = await logins(place, 1, SYSTEM)
    heard = []
    place.realm.fastpath.answered = Answers(KNOWN, 300.0, heard.extend)
    fast, clock = place.realm.fastpath, place.realm.clock

    def hit(*, head=False):
        assert fast.ask(caller, token, True, clock.now(), head=head)
        fast.answered.flush()
        return len(heard)

    for text in (token, caller):
        await place.realm.validator.check(text)
    assert [hit(head=True), hit(), hit(), hit()] == [0, 1, 1, 1]
    assert heard[0].names == names(token, KNOWN)
    await clock.advance(76.0)
    assert [hit(), hit()] == [2, 2]
    clock.jump(-1)  # somebody sets it back: when it was told cannot be known any more
    assert [hit(), hit()] == [3, 3]
    (caller,) = await logins(place, 1)  # of another class, whose limit is another
    place.change(put(grant(U, P, "admin")))
    for text in (token, caller):
        await place.realm.validator.check(text)
    assert [hit(), hit()] == [4, 4]
    assert [one.asked_by for one in heard] == ["system"] * 3 + ["project"]


async def test_the_long_road_tells_what_was_asked_for_as_it_was_spelt(place):
    (token,) = await logins(place, 1)
    place.change(put(grant(U, "system", "admin", target="system")))
    (caller,) = await logins(place, 1, SYSTEM)
    heard, api = [], place.realm.api()
    place.realm.fastpath.answered = Answers(KNOWN, 300.0, heard.extend)
    padded = token + "=" * (-len(token) % 4)
    for method, subject in (("HEAD", token), ("GET", padded), ("GET", token)):
        status, _, _ = await ask(api, method, "/v3/auth/tokens", token=caller, subject=subject)
        assert status == 200
    place.realm.fastpath.answered.flush()
    assert {one.names for one in heard} == {names(text, KNOWN) for text in (padded, token)}


def test_a_file_that_a_crash_cut_off_gives_what_came_before(tmp_path):
    one = Journal(tmp_path / "answered")
    one.write(record(b"first") + record(b"second"))
    one.write(record(b"third")[:-2])
    one.close()
    again = Journal(tmp_path / "answered")
    assert list(again.read(0.0)) == [b"first", b"second"]
    again.begin()
    again.write(record(b"fourth"))
    assert list(again.read(0.0)) == [b"first", b"second", b"fourth"]


def test_what_a_disk_has_turned_into_something_else_is_not_believed(tmp_path):
    made = Journal(tmp_path)
    made.write(record(b"first") + record(b"second"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes().replace(b"second", b"sexond"))
    assert list(made.read(0.0)) == [b"first"]


class Slow:
    """A server whose answers wait."""

    def __init__(self, address):
        self._server = TokenCache(address, 1.0)
        self.name, self.asked, self.answers = self._server.name, 0, asyncio.Event()

    async def delete(self, keys):
        self.asked += 1
        await self._server.delete(keys)
        await self.answers.wait()


async def test_what_is_owed_again_while_it_is_deleted_is_deleted_again(memcached):
    server = Slow(memcached[0].server)
    deletions = Deletions(server, ManualClock(), 10)
    task = asyncio.create_task(deletions.run())
    try:
        deletions.owe(["tokens/one"], 2000.0)
        await until(lambda: server.asked == 1, "it is under way")
        deletions.owe(["tokens/one"], 2000.0)
        server.answers.set()
        await until(lambda: server.asked == 2 and not len(deletions), "it was deleted twice")
    finally:
        task.cancel()
        await asyncio.wait([task])
        await server._server.close()


def test_what_is_written_after_a_disk_was_full_can_be_read(tmp_path):
    made = Journal(tmp_path)
    made.write(record(b"before"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            made.write(record(b"cut off in the middle" * 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    made.write(record(b"after"))
    assert list(made.read(0.0)) == [b"before", b"after"]
    made.close()
    with pytest.raises(OSError, match="closed"):
        made.write(record(b"too late"))


def test_files_are_thrown_away_as_a_whole_and_only_when_nothing_in_them_matters(tmp_path):
    made = Journal(tmp_path)
    for name in (b"a", b"b", b"c"):
        made.begin()
        made.write(record(name))
    assert list(made.read(0.0)) == [b"b", b"c"]
    assert list(made.read(time.time() + 60)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["MAC", "none:file", "SIGN:file", "MAC:{empty}"])
def test_a_strategy_that_cannot_be_meant_is_refused(tmp_path, text):
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    with pytest.raises(ConfigurationError, match="memcache_secret_key"):
        strategies(MiddlewareCache(strategies=(text.format(empty=empty),)))


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(StoreRefused, match="chmod 600"):
        strategies(MiddlewareCache(strategies=(f"MAC:{tmp_path / 'secret'}",)))


async def test_who_cannot_look_up_deletes_what_may_have_changed_and_looks_again(place):
    (token,), stranger = await logins(place, 1), await neighbour(place)
    await place.kept(token)
    look = place.purge._look

    async def away(*_):
        raise Unavailable

    place.purge._look = away
    user = await place.realm.overlay.get(User, U)
    place.change(put(User(id=U, name="other", domain_id="default", password_hash=user.password_hash), user))
    await place.gone(token)
    assert place.has(stranger) == 3
    place.purge._look = look
    place.store(token)
    await place.realm.clock.advance(0.6)
    await place.gone(token)


async def test_an_answer_that_says_something_new_takes_the_old_ones_away_before_anybody_has_looked_up(place):
    (token,) = await logins(place, 1)
    await place.kept(token)
    look, may = place.purge._look, asyncio.Event()

    async def slow(*who):
        await may.wait()
        return await look(*who)

    place.purge._look = slow
    place.change(put(grant(U, P, "service")))
    await until(lambda: not place.purge._watched.fallen, "it is being looked up")
    place.realm.validator.shown(token, await place.realm.validator.check(token), ON_P)  # to another service
    place.answers.flush()
    may.set()
    await place.gone(token)
    assert place.purge.purged["changed"] == 1


async def test_a_record_of_another_version_is_nothing():
    assert framed([]) == b"\x90"
