"""Several controllers over one store: any one answers, each write once, sites see one federation."""

import asyncio
import itertools
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from controller import commit
from controller.commit import DEADLINE_S
from controller.rotate import TURNED
from regional_keystone.adapters.local import LocalLock
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import Conflict, IdentityError, StoreRefused, Unavailable, Unknown
from regional_keystone.log import LOG, Collision, Transaction, put
from regional_keystone.messages import Acknowledge, Refused, Request, Response, Welcome
from regional_keystone.model import Outcome, Project, Ring
from regional_keystone.overlay import transact
from tests import replay
from tests.cloud import ControllerNode, SiteNode, eventually, project, stream


class Faulty:
    """A Writer whose answers can be lost, late or wrong; what it does is real."""

    def __init__(self, store):
        self._store = store
        self.before = self.after = self.tails = None  # called with the number of the call
        self.heads = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, feed, after, entries):
        if self.before is not None:
            await self.before()
        done = await self._store.append(feed, after, entries)
        if self.after is not None:
            return await self.after(done)
        return done

    async def tail(self, feed, after, limit=1000):
        if self.tails is not None and feed == LOG:
            await self.tails()
        return await self._store.tail(feed, after, limit)

    async def head(self, feed):
        self.heads += 1
        return await self._store.head(feed)


def once(error):
    """Raises at its first call."""
    calls = itertools.count()

    async def fail(*arguments):
        if next(calls) == 0:
            raise error
        return arguments[0] if arguments else None

    return fail


class Pair:
    """Two controllers on one store, and sites that know both."""

    def __init__(self, directory, **settings):
        self.directory = directory
        self.a = ControllerNode(directory / "a", **settings)
        self.b = ControllerNode(directory / "b", beside=self.a, **settings)
        self.a.shared = True
        self.a.peers, self.b.peers = [self.b], [self.a]
        self.b.lock = self.a.lock = LocalLock()
        self.both = (self.a, self.b)
        self.sites = {}
        for node in self.both:
            node.wrap = Faulty

    async def start(self):
        for node in self.both:
            await node.start()

    async def site(self, name, controller=None, first=None):
        """A site that joined at this controller and tries that one first."""
        site = self.sites[name] = SiteNode(name, self.directory / name)
        await site.join(await (controller or self.a).sites.invite(name))
        if first is not None:
            site.controllers = (first.url, *(node.url for node in self.both if node is not first))
        await site.start()
        await eventually(lambda: site.link.connected_since is not None)
        return site

    async def level(self):
        for node in self.both:
            await node.sequencer.catch_up()
        assert self.a.sequencer.head == self.b.sequencer.head
        for site in self.sites.values():
            await site.settled(self.a.sequencer.head)

    async def stop(self):
        for node in (*self.sites.values(), *self.both):
            await node.stop()


@pytest.fixture
async def pair(tmp_path):
    made = Pair(tmp_path, deadline_s=30.0)
    await made.start()
    yield made
    await made.stop()


async def create(node, name, id_=None):
    """Make a project of this name if there is none, as a handler does: currently known, then judged."""
    id_ = id_ or os.urandom(8).hex()

    async def decide(reader):
        if await reader.find(Project, name=name, domain_id="default"):
            raise Conflict
        return [put(project(id_, name=name))], id_

    await node.sequencer.catch_up()
    return await transact(node.overlay, node.sequencer, f"create/{id_}", decide)


async def append(node, id_, at=None):
    position = node.sequencer.head if at is None else at
    return await node.sequencer.commit(Transaction(id_, position, frozenset(), (put(project(id_)),)))


def log_of(node):
    return node.store._store.tail(LOG, 0, 10_000)


# ------------------------------------------------------------------------------------------------------- writing


async def test_every_acknowledged_write_is_there_once_and_numbers_have_no_gap(pair):
    made = await asyncio.gather(
        *(create(node, f"{place}-{n}") for n in range(40) for place, node in enumerate(pair.both))
    )
    log = await log_of(pair.a)
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    ids = [change.key[0] for entry in log for change in entry.changes if change.table == "projects"]
    assert sorted(ids) == sorted(id_ for id_, _ in made)
    await pair.level()
    assert await pair.a.overlay.get(Project, made[0][0]) == await pair.b.overlay.get(Project, made[0][0])


async def test_of_many_who_create_one_name_at_both_one_wins(pair):
    for round_ in range(10):
        attempts = [create(node, f"same-{round_}") for _ in range(4) for node in pair.both]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(one, Conflict) for one in results) == 7, results


async def test_what_one_has_answered_the_other_knows_at_once(pair):
    for number in range(30):
        writer, reader = pair.both if number % 2 else reversed(pair.both)
        id_, _ = await create(writer, f"p{number}")
        await reader.sequencer.catch_up()
        assert await reader.overlay.get(Project, id_)


async def test_who_waits_for_the_head_shares_one_read_of_it(pair):
    await asyncio.sleep(0.02)
    before = pair.a.store.heads
    await asyncio.gather(*(pair.a.sequencer.catch_up() for _ in range(100)))
    assert pair.a.store.heads - before <= 4, "one that runs, one for all, and what follows by itself"


async def test_others_entries_are_followed_without_being_asked(pair):
    position = await append(pair.a, "p")
    assert await pair.b.follower.reached(position, 2.0)


async def test_how_old_the_knowledge_is_is_measured(pair):
    await eventually(lambda: pair.a.follower.age_s() < 0.5)

    async def broken(*arguments):
        raise Unavailable("The cluster is gone.")

    head, pair.a.store.head = pair.a.store.head, broken
    await asyncio.sleep(0.6)
    assert pair.a.follower.age_s() > 0.5
    with pytest.raises(Unavailable):
        await pair.a.sequencer.catch_up()
    pair.a.store.head = head
    await eventually(lambda: pair.a.follower.age_s() < 0.5)


async def test_an_append_that_takes_long_keeps_nobody_from_knowing_the_end_of_the_log(pair):
    done = asyncio.Event()
    pair.a.store.before = done.wait
    appending = asyncio.create_task(append(pair.a, "slow"))
    await asyncio.sleep(0.02)
    await append(pair.b, "other")
    began = time.monotonic()
    await pair.a.sequencer.catch_up()
    assert time.monotonic() - began < 0.9
    assert await pair.a.overlay.get(Project, "other")
    assert not appending.done()
    done.set()
    await asyncio.gather(appending, return_exceptions=True)


async def test_a_read_of_the_logs_end_that_loses_against_writers_is_tried_again(pair):
    head, calls = pair.a.store.head, itertools.count()

    async def lost(feed):
        if next(calls) < 4:
            raise Unavailable("0 of 2 replicas answered in time for SERIAL.")
        return await head(feed)

    position = await append(pair.b, "other")
    pair.a.store.head = lost
    await pair.a.sequencer.catch_up()
    assert pair.a.follower.position >= position
    assert next(calls) >= 5


async def test_a_log_that_was_lost_for_long_is_not_waited_for(pair, monkeypatch):
    async def broken(*arguments):
        raise Unavailable("The cluster is gone.")

    monkeypatch.setattr(commit, "_LOST_S", 0.3)
    pair.a.store.head = broken
    await asyncio.sleep(0.5)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(Unavailable, match="is gone"):
            await pair.a.sequencer.catch_up()
    assert time.monotonic() - began < 0.5


# ------------------------------------------------------------------------------------- outcomes that are not known


async def test_an_unknown_append_that_was_done_is_found_and_answered(pair):
    pair.a.store.after = once(Unknown())
    position = await append(pair.a, "p")
    assert [entry.id for entry in await log_of(pair.a)].count("p") == 1
    assert (await log_of(pair.a))[position - 1].id == "p"
    assert await append(pair.a, "q") == position + 1


async def test_an_unknown_append_that_was_not_done_is_told_as_unknown_and_never_tried_again(pair):
    head = pair.a.sequencer.head
    pair.a.store.before = once(Unknown())
    with pytest.raises(Unknown):
        await append(pair.a, "p")
    await asyncio.sleep(0.2)
    assert pair.a.sequencer.head == head
    assert await append(pair.a, "q") == head + 1
    assert "p" not in [entry.id for entry in await log_of(pair.a)]


async def test_an_unknown_append_that_happens_later_is_taken_in_as_any_entry(pair):
    head, store = pair.a.sequencer.head, pair.a.store._store
    late = asyncio.Event()
    tasks = []

    async def under_way(*arguments):
        entries = held[0]

        async def happen():
            await late.wait()
            return await store.append(LOG, head, entries)

        tasks.append(asyncio.create_task(happen()))
        raise Unknown

    held = []
    real = pair.a.store.append

    async def append_late(feed, after, entries):
        if not held:
            held.append(entries)
            await under_way()
        return await real(feed, after, entries)

    pair.a.store.append = append_late
    with pytest.raises(Unknown):
        await append(pair.a, "p")
    late.set()
    assert await tasks[0]
    assert await append(pair.a, "q") == head + 2
    assert await pair.a.overlay.get(Project, "p")
    assert [entry.id for entry in (await log_of(pair.a))[head:]] == ["p", "q"]


async def test_one_that_loses_to_another_while_its_outcome_is_unknown_is_judged_again(pair):
    head = pair.a.sequencer.head

    async def overtaken():
        pair.a.store.before = None
        await append(pair.b, "b")
        raise Unknown

    pair.a.store.before = overtaken
    assert await append(pair.a, "p") == head + 2
    assert [entry.id for entry in (await log_of(pair.a))[head:]] == ["b", "p"]


async def test_an_own_entry_that_the_store_takes_for_anothers_is_answered(pair):
    head = pair.a.sequencer.head

    async def denied(done):
        pair.a.store.after = None
        return not done

    pair.a.store.after = denied
    results = await asyncio.gather(*(append(pair.a, f"p{number}", head) for number in range(5)))
    assert sorted(results) == list(range(head + 1, head + 6))
    assert len(await log_of(pair.a)) == head + 5


async def test_the_same_id_with_other_changes_is_not_taken_for_done(pair):
    head = pair.a.sequencer.head
    mine = Transaction("twin", head, frozenset(), (put(project("p", description="mine")),))

    async def overtaken():
        pair.a.store.before = None
        await pair.b.sequencer.commit(
            Transaction("twin", pair.b.sequencer.head, frozenset(), (put(project("p", description="theirs")),))
        )

    pair.a.store.before = overtaken
    with pytest.raises(Collision):
        await pair.a.sequencer.commit(mine)
    assert (await pair.a.overlay.get(Project, "p")).description == "theirs"


async def test_an_entry_that_is_counted_and_not_visible_yet_is_waited_for(pair):
    position = await append(pair.b, "other")
    calls = itertools.count()
    tail = pair.a.store._store.tail

    async def blind(feed, after, limit=1000):
        return [] if next(calls) < 4 else await tail(feed, after, limit)

    pair.a.store.tail = blind
    assert await append(pair.a, "mine", position) == position + 1
    assert await pair.a.overlay.get(Project, "other")


async def test_an_entry_that_stays_invisible_is_unavailable_and_loses_nothing(pair):
    async def blind(feed, after, limit=1000):
        return []

    tail, pair.a.store.tail = pair.a.store.tail, blind
    position = await append(pair.b, "other")
    await pair.b.follower.settled(position, 5)
    pair.a.store.applied = lambda feed: _value(position - 1)  # nor do the tables show it
    with pytest.raises(Unavailable):
        await asyncio.wait_for(append(pair.a, "mine"), 3)
    pair.a.store.tail = tail
    assert await append(pair.a, "mine", position) == position + 1


async def _value(value):
    return value


async def test_one_that_the_log_was_pruned_under_goes_on_from_the_tables_and_its_streams_go_on(pair):
    site = await pair.site("RegionOne", first=pair.a)

    async def blind():
        raise Unavailable("Frozen.")

    pair.a.store.tails = blind
    for number in range(5):
        position = await append(pair.b, f"p{number}")
    await pair.b.follower.settled(position, 5)
    await pair.b.store.prune(LOG, position)
    pair.a.store.tails = None
    assert await pair.a.follower.reached(position, 5)
    assert await pair.a.overlay.get(Project, "p4")
    await site.settled(position)
    assert await append(pair.a, "after", position) == position + 1
    await site.settled(position + 1)
    assert await site.digest() == await pair.a.digest()


async def test_a_log_that_does_not_answer_lets_no_request_hang(pair):
    async def frozen():
        await asyncio.sleep(60)

    pair.a.store.before = frozen
    began = time.monotonic()
    waiting = [append(pair.a, f"p{number}") for number in range(3)]
    later = asyncio.create_task(_later(append, pair.a, "q"))
    results = await asyncio.gather(*waiting, later, return_exceptions=True)
    assert time.monotonic() - began < DEADLINE_S + 1.5
    assert all(isinstance(one, Unavailable) for one in results)
    assert isinstance(results[0], Unknown), "it was given to the store"
    assert not isinstance(results[3], Unknown), "it never left the queue"


async def _later(work, *arguments):
    await asyncio.sleep(0.2)
    return await work(*arguments)


# --------------------------------------------------------------------------------------------------------- sites


async def test_sites_at_either_get_what_the_other_writes(pair):
    one = await pair.site("RegionOne", first=pair.a)
    two = await pair.site("RegionTwo", pair.b, first=pair.b)
    assert set(pair.a.replicator.sessions) == {"RegionOne"}
    assert set(pair.b.replicator.sessions) == {"RegionTwo"}
    for node in pair.both:
        position = await append(node, f"by-{node.directory.name}", pair.a.sequencer.head)
        for site in (one, two):
            assert await site.follower.reached(position, 3)
        await pair.level()
    await two.revoke("gone")
    await eventually(lambda: one.void(audit_id="gone"))


async def test_rotation_waits_for_what_the_other_was_told(pair):
    await pair.site("RegionOne", first=pair.a)
    away = await pair.site("RegionTwo", first=pair.b)
    await pair.level()
    for node in pair.both:
        node.rotator._deadline_s = 30.0  # a machine that stalls must not make it a holdout
        for _ in range(2):
            epoch = (await asyncio.wait_for(node.rotator.turn(), 10)).epoch
            await eventually(lambda epoch=epoch: all(one.holder.seen.epoch == epoch for one in pair.both))

    async def waits_for():
        return {site for ring in TURNED for site in (await pair.a.rotator.plan(ring)).waits_for}

    async def waits_for_nobody():
        return not await waits_for()

    await eventually(waits_for_nobody)
    await away.stop()
    await eventually(lambda: not pair.b.replicator.sessions)
    await pair.a.rotator.turn()
    turning = asyncio.create_task(pair.a.rotator.turn())
    await asyncio.sleep(0.5)
    assert not turning.done(), "it holds the epoch before, which it told the other controller"
    assert await waits_for() == {"RegionTwo"}
    await away.start()
    await asyncio.wait_for(turning, 20)
    assert {site.state for site in await pair.a.sites.all()} == {"active"}


async def test_of_two_who_turn_at_once_one_turns(pair):
    await pair.level()
    pair.b.rotator._lock = LocalLock()  # as if the lock were worth nothing
    before = (await pair.a.overlay.get(Ring, "token")).epoch
    results = await asyncio.gather(*(node.rotator.turn() for node in pair.both for _ in (1,)), return_exceptions=True)
    turned = [one for one in results if isinstance(one, Ring)]
    await pair.level()
    assert len(turned) == 1 or {one.epoch for one in turned} == {before + 1, before + 2}
    assert (await pair.b.overlay.get(Ring, "token")).epoch == before + len(turned)


async def test_a_word_that_was_taken_back_at_one_counts_at_none(pair):
    site = await pair.site("RegionOne", first=pair.a)
    await pair.level()
    seen, head = site.holder.seen, pair.a.sequencer.head
    await eventually(lambda: pair.a.acknowledged("RegionOne").rings.get("token") == tuple(seen))
    await eventually(lambda: pair.b.acknowledged("RegionOne").rings.get("token") == tuple(seen))
    await site.stop()
    async with stream(site, pair.b, position=head - 1, epochs={"token": seen.epoch - 1}) as (first, _):
        assert isinstance(first, Welcome)
        assert (await pair.a.rotator.plan()).waits_for == ("RegionOne",)
        assert (await pair.b.rotator.plan()).waits_for == ("RegionOne",)
    assert (await pair.a.rotator.plan()).waits_for == ("RegionOne",)


async def test_two_streams_of_one_site_count_for_the_lesser(pair):
    site = await pair.site("RegionOne", first=pair.a)
    await pair.level()
    seen, head = site.holder.seen, pair.a.sequencer.head

    def here():
        return pair.a.acknowledged("RegionOne")

    await eventually(lambda: here().rings.get("token") == tuple(seen) and here().position == head)
    instance = site.identity.membership().instance
    other = msgspec.structs.replace(here(), position=head - 1, rings={}, controller="b")

    async def both_said():
        await pair.a.acknowledgements._keep()
        await pair.b.store.acknowledge("RegionOne", msgspec.msgpack.encode(other))
        await pair.a.acknowledgements.refresh()
        return here().position == head - 1 and set(here().rings.values()) == {(0, "")}

    await eventually(both_said)  # once more, where its own word has come in between
    await eventually(lambda: pair.a.acknowledged("RegionOne").rings.get("token") == tuple(seen), 5)
    assert pair.a.acknowledged("RegionOne").instance == instance


async def test_who_is_removed_or_joins_anew_at_one_loses_its_stream_at_the_other(pair):
    site = await pair.site("RegionOne", first=pair.b)
    assert "RegionOne" in pair.b.replicator.sessions
    await pair.a.sites.remove("RegionOne")
    await eventually(lambda: "RegionOne" not in pair.b.replicator.sessions, 2.0)
    for node in pair.both:
        async with stream(site, node) as (first, _):
            assert isinstance(first, Refused)
            assert "removed" in first.reason
    await eventually(lambda: not pair.a.acknowledgements.said and not pair.b.acknowledgements.said)


async def test_who_was_just_invited_at_one_joins_at_the_other_and_connects_to_the_first(pair):
    site = SiteNode("RegionOne", pair.directory / "RegionOne")
    token = await pair.a.sites.invite("RegionOne")
    pair.a.background()  # the token names both; the first does not answer
    await pair.a.stop()
    await site.join(token)
    await pair.a.start()
    async with stream(site, pair.a) as (first, _):
        assert isinstance(first, Welcome)


async def test_a_killed_controller_costs_its_sites_a_second_and_no_forwarded_change(pair):
    site = await pair.site("RegionOne", first=pair.a)
    await pair.level()
    for node in pair.both:
        node.replicator.answer = _answering(node)
    requests = [Request(id=f"r{n}", method="POST", path="/p", body=b"%d" % n) for n in range(40)]
    forwards = [asyncio.create_task(site.link.forward(one)) for one in requests]
    await asyncio.sleep(0.15)
    began = time.monotonic()
    await pair.a.stop()
    await eventually(lambda: "RegionOne" in pair.b.replicator.sessions, 3.0)
    took_s = time.monotonic() - began
    answers = await asyncio.gather(*forwards)
    print(f"at the other controller after {took_s:.2f} s")
    assert took_s < 1.5
    assert {one.status for one in answers} == {201}
    made = [change.key[0] for entry in await log_of(pair.b) for change in entry.changes if change.table == "projects"]
    assert sorted(made) == sorted(f"p{n}" for n in range(40)), "each of them once"
    position = await append(pair.b, "after", pair.b.sequencer.head)
    await site.settled(position)


def _answering(node):
    """Changes as the API makes them: an outcome with each, so that a retry finds it."""

    async def answer(request):
        async def decide(reader):
            if await reader.get(Outcome, request.id):
                return [], None
            kept = Outcome(id=request.id, request_digest=b"", answer=b"", at=node.clock.now())
            await asyncio.sleep(0.02 * int(request.body) % 0.3)
            return [put(kept), put(project(f"p{int(request.body)}"))], None

        try:
            await node.sequencer.catch_up()
            await transact(node.overlay, node.sequencer, request.id, decide)
        except IdentityError as error:
            return Response(status=error.status)
        return Response(status=201)

    return answer


async def test_what_both_take_over_of_an_own_feed_is_there_once(pair):
    site = await pair.site("RegionOne", first=pair.a)
    entries = tuple([await _own(site, number) for number in range(1, 6)])
    await asyncio.gather(*(node.replicator.taking.take("RegionOne", "RegionOne/x", entries) for node in pair.both))
    await pair.level()
    found = [one.audit_id for one in await pair.a.revocations() if one.audit_id.startswith("own")]
    assert found == [f"own{number}" for number in range(1, 6)]


async def _own(site, number):
    from regional_keystone.log import Entry
    from tests.cloud import event

    return Entry(number, f"x{number}", 1, (put(event(f"x{number}", 10**6, audit_id=f"own{number}")),))


# ------------------------------------------------------------------------------------------- whole controllers


@asynccontextmanager
async def whole(directory, log, authority=None):
    """A controller as it is wired, on a log of several, asked without a socket; logged in."""
    directory.mkdir()

    async def shared():
        return Faulty(await Sqlite.open(log))

    world = replay.World(directory, shared=shared)
    controller = replace(world.settings.controller, authority_dir=authority, name=directory.name)
    world.settings = replace(world.settings, controller=controller)
    async with AsyncExitStack() as stack:
        await world.start(stack)
        tasks = [asyncio.create_task(one) for one in world.controller.tasks()]
        stack.push_async_callback(_ended, tasks)
        await world.controller.sequencer.catch_up()
        yield world


async def _ended(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def login(world):
    user = {"name": "admin", "domain": {"id": "default"}, "password": replay.PASSWORD}
    auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": {"system": {"all": True}}}
    answer = await ask(world, "POST", "/v3/auth/tokens", auth={"auth": auth})
    assert answer.status == 201, answer.body
    return answer.headers["X-Subject-Token"]


async def ask(world, method, path, token=None, **body):
    (content,) = body.values() or (None,)
    headers = {"Content-Type": "application/json"} | ({"X-Auth-Token": token} if token else {})
    return await world.ask(method, path, headers=headers, body=msgspec.json.encode(content) if content else b"")


async def test_an_api_answers_what_another_has_just_changed(tmp_path):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(whole(tmp_path / "a", tmp_path / "log.db"))
        b = await stack.enter_async_context(whole(tmp_path / "b", tmp_path / "log.db", tmp_path / "a" / "authority"))
        token = await login(a)
        for number in range(10):
            writer, reader = (a, b) if number % 2 else (b, a)
            made = await ask(writer, "POST", "/v3/users", token, user={"user": {"name": f"u{number}"}})
            assert made.status == 201
            path = f"/v3/users/{msgspec.json.decode(made.body)['user']['id']}"
            assert (await ask(reader, "GET", path, token)).status == 200
            assert (await ask(reader, "DELETE", path, token)).status == 204
            assert (await ask(writer, "GET", path, token)).status == 404
        results = await asyncio.gather(
            *(ask(one, "POST", "/v3/users", token, user={"user": {"name": "same"}}) for one in (a, b) for _ in range(4))
        )
        assert sorted(one.status for one in results) == [201] + 7 * [409]
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        assert (await a.ask("DELETE", "/v3/auth/tokens", headers=headers)).status == 204
        assert (await b.ask("GET", "/v3/auth/tokens", headers=headers)).status == 401


async def test_without_the_log_reading_goes_on_from_what_is_known_and_changing_says_so(tmp_path):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(whole(tmp_path / "a", tmp_path / "log.db"))
        token = await login(a)

        async def frozen(*arguments):
            await asyncio.sleep(30)

        a.controller.part.store.head = frozen
        began = time.monotonic()
        read, change = await asyncio.gather(
            ask(a, "GET", "/v3/users", token), ask(a, "POST", "/v3/users", token, user={"user": {"name": "u"}})
        )
        assert (read.status, change.status) == (200, 503)
        assert "Retry-After" in change.headers
        assert time.monotonic() - began < commit.CURRENT_S + 1.5


async def test_what_may_be_revoked_elsewhere_takes_the_long_road_and_who_cannot_read_the_log_is_not_ready(tmp_path):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(whole(tmp_path / "a", tmp_path / "log.db"))
        b = await stack.enter_async_context(whole(tmp_path / "b", tmp_path / "log.db", tmp_path / "a" / "authority"))
        token = await login(a)
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        fast, store = b.controller.door.web.fastpath, b.controller.part.store

        def remembered():
            return fast.ask(token, token, True, b.clock.now())

        async def frozen():
            raise Unavailable("The cluster is out of reach.")

        assert (await b.ask("GET", "/v3/auth/tokens", headers=headers)).status == 200
        await eventually(remembered, 1.0)
        store.tails = frozen
        assert (await a.ask("DELETE", "/v3/auth/tokens", headers=headers)).status == 204
        assert b.controller.ready() is None
        await asyncio.sleep(1.2)
        assert remembered() is None
        await eventually(b.controller.ready, 3.0)
        store.tails = None
        await eventually(lambda: b.controller.ready() is None, 2.0)
        assert (await b.ask("GET", "/v3/auth/tokens", headers=headers)).status == 401


async def test_one_controller_alone_reads_no_head_for_a_request(tmp_path):
    async with replay.world(tmp_path) as world:
        world.controller.part.store.head = None  # nobody may call it
        token = await login(world)
        assert (await ask(world, "POST", "/v3/users", token, user={"user": {"name": "u"}})).status == 201
        assert (await ask(world, "GET", "/v3/users", token)).status == 200


async def test_the_status_tells_where_a_site_is_connected(tmp_path):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(whole(tmp_path / "a", tmp_path / "log.db"))
        b = await stack.enter_async_context(whole(tmp_path / "b", tmp_path / "log.db", tmp_path / "a" / "authority"))
        await a.controller.sites.invite("RegionTwo")
        a.controller.acknowledgements.note("RegionTwo", "i", Acknowledge(1, {"token": (1, "0")}))

        def told():
            site = b.controller.status()["sites"].get("RegionTwo", {})
            return site.get("controller") == "a" and site["acknowledged_at"] and not site["connected"]

        await eventually(told)


async def test_a_controller_with_an_authority_of_its_own_is_refused_on_the_log_of_others(tmp_path):
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(whole(tmp_path / "a", tmp_path / "log.db"))
        before = a.controller.sequencer.head
        with pytest.raises(StoreRefused, match="is of federation") as told:
            await stack.enter_async_context(whole(tmp_path / "b", tmp_path / "log.db"))
        assert a.controller.authority.cluster in str(told.value)
        assert str(tmp_path / "b" / "authority") in str(told.value)
        await a.controller.sequencer.catch_up()
        assert a.controller.sequencer.head == before, "it has changed nothing"


async def test_of_two_that_begin_at_once_with_authorities_of_their_own_one_stays(tmp_path):
    async with AsyncExitStack() as stack:
        begun = [whole(tmp_path / name, tmp_path / "log.db") for name in ("a", "b")]
        results = await asyncio.gather(*(stack.enter_async_context(one) for one in begun), return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["StoreRefused", "World"]
