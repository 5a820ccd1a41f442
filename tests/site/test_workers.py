"""Workers and their leader, all in one event loop: what each may say, and what happens when one does not keep to it."""

import asyncio
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from regional_keystone import relay, workers
from regional_keystone import site as site_
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, Entry, Transaction, put
from regional_keystone.messages import Echo, Entries, Request
from regional_keystone.metrics import PREFIX
from regional_keystone.model import Project, RevocationEvent, User
from regional_keystone.passwords import hash_password
from regional_keystone.record import encode
from regional_keystone.refresh import Refresh
from regional_keystone.relay import (
    Begin,
    Channel,
    Lost,
    Mark,
    at_worker,
    frame,
)
from regional_keystone.revocation import Traits
from regional_keystone.settings import MiddlewareCache, Settings, Site, Workers
from regional_keystone.wiring import background
from regional_keystone.worker import Worker
from tests.cloud import event, eventually, running
from tests.replay import LeapingClock

LOGIN = {"name": "u", "domain": {"id": "default"}, "password": "correct horse"}


class Gate:
    """A channel whose messages wait at a gate: a worker that does not get round to hear."""

    def __init__(self, channel):
        self._channel = channel
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name):
        return getattr(self._channel, name)

    async def receive(self):
        message = await self._channel.receive()
        await self.open.wait()
        return message


class Here:
    """A worker in this event loop instead of a process of its own: implements `workers.Process`."""

    numbers = itertools.count(1)

    def __init__(self, settings, clock, end):
        self.pid = next(self.numbers)
        self.settings, self.clock = settings, clock
        self.worker, self.gate, self.failure = None, None, None
        self._task = asyncio.create_task(self._live(socket.socket(fileno=os.dup(end.fileno()))))

    async def _live(self, end):
        async with AsyncExitStack() as stack:
            channel = await Channel.over(end, at_worker)
            stack.callback(channel.close)
            self.gate = Gate(channel)
            self.worker = Worker(self.settings, self.clock, self.gate)
            await self.worker.build(stack)
            try:
                async with background(self.worker.tasks()):
                    await self.worker.may_serve.wait()
                    self.worker.serves()
                    await asyncio.Event().wait()
            except* (Lost, ValueError) as group:
                self.failure = group

    def terminate(self):
        self._task.cancel()

    kill = terminate

    async def wait(self):
        await asyncio.wait({self._task})
        return 0


class Rude(Here):
    """What says these bytes when it has begun, and listens to nothing."""

    def __init__(self, said, end):
        self.pid, self.said = next(self.numbers), said
        self._task = asyncio.create_task(self._live(socket.socket(fileno=os.dup(end.fileno()))))

    async def _live(self, end):
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end)
        try:
            writer.write(self.said)
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


class Region:
    """A site with workers, its controller, and who is whom."""

    def __init__(self, cloud, directory, count):
        self.controller = cloud.controller
        self.clock = LeapingClock()
        self.state = directory / "site"
        self.identity = Identity(self.state / "identity")
        self.settings = dataclasses.replace(
            Settings(), site=Site(state_dir=self.state), workers=Workers(processes=count)
        )
        self.processes = {}
        self.rude = {}
        self.tasks = []

    async def start_worker(self, number, end):
        if number in self.rude:
            found = Rude(self.rude[number].pop(0), end)
            if not self.rude[number]:
                del self.rude[number]
        else:
            found = Here(self.settings, self.clock, end)
        self.processes.setdefault(number, []).append(found)
        return found

    async def start(self, stack):
        if not self.identity.joined:
            await self.identity.join(JoinToken.read(await self.controller.sites.invite("RegionOne")))
        self.site = site_.Site(self.settings, self.clock, self.identity, self.start_worker)
        await self.site.build(stack)
        self.workers = self.site.workers
        self.tasks = [asyncio.create_task(one) for one in (*self.site.tasks(), self.workers.run())]
        stack.push_async_callback(self.stop)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not [one for one in results if isinstance(one, Exception)]

    def worker(self, number):
        return self.processes[number][-1].worker

    def gate(self, number):
        return self.processes[number][-1].gate.open

    @property
    def everyone(self):
        """The follower of each process."""
        return [self.site.part.follower, *(self.worker(number).part.follower for number in self.processes)]

    async def write(self, *records):
        position = await self.controller.write(*records)
        assert await self.site.part.follower.reached(position, 5)
        return position


@asynccontextmanager
async def region(directory, count=3, prepare=None):
    async with running(directory, ()) as cloud, AsyncExitStack() as stack:
        hashed = await hash_password(LOGIN["password"], 4)
        user = User(id="u", domain_id="default", name="u", password_hash=hashed)
        await cloud.controller.write(Project(id="default", name="Default", is_domain=True), user)
        made = Region(cloud, directory, count)
        if prepare:
            prepare(made)
        await made.start(stack)
        await eventually(lambda: made.site.missing() is None, 10)
        yield made


@pytest.fixture
async def three(tmp_path):
    async with region(tmp_path) as made:
        yield made


def project(number):
    return Project(id=f"p{number}", name=f"p{number}", domain_id="default", parent_id="default")


def voids(follower, audit_id):
    return follower.index.voided(Traits(issued_at=0, expires_at=10**18, audit_id=audit_id))


def revoking(name, clock):
    return Transaction(name, 0, frozenset(), (put(event(name, clock.now(), audit_id=name)),))


async def login(worker):
    auth = {"identity": {"methods": ["password"], "password": {"user": LOGIN}}}
    body = json.dumps({"auth": auth}).encode()
    return await worker.door.api.answer(
        Request(id=os.urandom(8).hex(), method="POST", path="/v3/auth/tokens", body=body)
    )


# ------------------------------------------------------------------------------------------------------- following


async def test_every_worker_follows_and_none_ahead_of_the_replica(three):
    for number in range(20):
        await three.write(project(number))
    await three.workers.level(three.site.part.follower.position)
    for follower in three.everyone:
        assert follower.position == three.site.part.follower.position
        found = await follower.overlay.find(Project, parent_id="default")
        assert [one.id for one in found] == sorted(f"p{number}" for number in range(20))
    await eventually(lambda: all(one.projected == one.position for one in three.everyone))
    assert not any(one.overlay._rows.get("projects") for one in three.everyone)  # dropped: the replica has them


async def test_a_worker_is_never_fresher_than_its_leader_knows_and_no_older(three):
    leader, *others = three.everyone
    await eventually(lambda: leader.age_s() < 1)
    await eventually(lambda: all(one.age_s() < 1 for one in others))
    await three.controller.stop()
    three.clock.ahead_s += 100
    for one in others:
        assert one.age_s() >= leader.age_s() - 0.01
        assert one.age_s() >= 99
    three.clock.ahead_s -= 100  # or the leader would take them for silent


async def test_a_worker_that_begins_while_the_leader_is_isolated_knows_how_old_it_is(three):
    leader = three.site.part.follower
    await eventually(lambda: leader.age_s() < 1)
    await three.controller.stop()
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    await eventually(lambda: abs(three.worker(2).part.follower.age_s() - leader.age_s()) < 0.01)


async def test_a_worker_reads_what_the_leader_wrote_and_writes_nothing(three):
    before = {path: path.stat().st_mtime_ns for path in (three.state / "fernet-keys").rglob("*")}
    store = three.worker(2).part.store
    for attempt in (store.append(LOG, 0, ()), store.apply(()), store.prune(LOG, 1), store.acknowledge("s", b"x")):
        with pytest.raises(Unavailable):
            await attempt
    async with store.snapshot() as snapshot:
        assert snapshot.position == three.site.part.follower.projected
    ended = []
    three.site.workers.gone = ended.append
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert ended == [2], "what it had answered and not said is taken up"
    assert {path: path.stat().st_mtime_ns for path in (three.state / "fernet-keys").rglob("*")} == before


async def test_a_worker_that_reads_an_older_replica_than_is_remembered_reads_it_again(three, monkeypatch):
    monkeypatch.setattr(workers, "_KEPT_BYTES", 0)
    gate = three.gate(2)
    gate.clear()
    three.workers._followers = list  # the replica goes on without it
    for number in range(5):
        await three.write(project(number))
    await eventually(lambda: three.site.part.follower.projected == three.site.part.follower.position)
    said = []
    send = three.workers._workers[2].channel.send
    three.workers._workers[2].channel.send = lambda framed: (said.append(framed), send(framed))
    three.workers._begin(three.workers._workers[2], 1, asyncio.TaskGroup())
    assert said == [frame(relay.Again())]
    gate.set()
    await eventually(lambda: three.worker(2).part.follower.position == three.site.part.follower.position)


async def test_workers_start_again_after_a_snapshot_has_replaced_the_replica(three):
    follower, store = three.site.part.follower, three.site.part.store
    await eventually(lambda: follower.projected == follower.position)
    far = follower.position + 100

    async def rows():
        async with store.snapshot() as snapshot:
            async for row in snapshot.rows():
                yield row
        for record in (project(1), event("gone", three.clock.now(), audit_id="gone")):
            change = put(record)
            yield change.table, change.key, change.row

    await store.restore(far, rows())
    await follower.start()
    await eventually(lambda: all(one.position == far for one in three.everyone))
    for one in three.everyone:
        assert voids(one, "gone")
        assert await one.overlay.get(Project, "p1")
    follower.note([Entry(far + 1, "next", three.clock.now(), (put(project(2)),))])
    await eventually(lambda: all(one.position == far + 1 for one in three.everyone))
    assert len(three.processes[2]) == 1


# ----------------------------------------------------------------------------------------------------- revocations


async def test_what_any_of_them_answered_is_deleted_from_services_caches_when_it_is_revoked(tmp_path):
    def prepare(made):
        section = MiddlewareCache(servers=("127.0.0.1:1",))  # nobody is there; what it is owed is what counts
        made.settings = dataclasses.replace(made.settings, middleware_cache=section)

    async with region(tmp_path, prepare=prepare) as three:
        doors = [three.site.door, *(three.worker(number).door for number in (2, 3))]
        for door in doors:
            answer = await login(three.worker(2))
            text = answer.headers["X-Subject-Token"]
            headers = {"x-auth-token": text, "x-subject-token": text}
            asked = Request(id=text[-8:], method="GET", path="/v3/auth/tokens", headers=headers)
            assert (await door.api.answer(asked)).status == 200
        purge = three.site.purge
        await eventually(lambda: len(purge) == 3)
        await three.workers.commit(Transaction("r", 0, frozenset(), (put(event("r", three.clock.now(), user_id="u")),)))
        await eventually(lambda: purge.purged["revoked"] == 3)
        assert three.site.status()["middleware_cache"]["servers"]["127.0.0.1:1"]["owed"] == 3
        text = three.site.door.metrics.text().decode()
        assert f'{PREFIX}middleware_cache_purged_total{{cause="revoked"}} 3.0' in text


@pytest.mark.parametrize("through", [1, 2, 3])
async def test_what_is_revoked_through_one_is_refused_by_all_when_it_is_answered(three, through):
    committer = three.workers if through == 1 else three.worker(through)
    for number in range(10):
        await committer.commit(revoking(f"r{number}", three.clock))
        assert all(voids(one, f"r{number}") for one in three.everyone)
    assert three.site.own.number == 10


async def test_a_worker_that_does_not_confirm_is_gone_before_the_revocation_is_answered(three, monkeypatch):
    monkeypatch.setattr(workers, "CONFIRM_S", 0.2)
    gated = three.processes[2][-1]
    gated.gate.open.clear()
    await three.worker(3).commit(revoking("r", three.clock))
    assert gated._task.done()
    assert voids(three.worker(3).part.follower, "r")
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert voids(three.worker(2).part.follower, "r")


async def test_a_new_worker_knows_what_was_revoked_here_and_is_in_no_log_yet(three):
    await three.controller.stop()
    await three.workers.commit(revoking("r", three.clock))
    assert three.site.own.pending() == 1
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert voids(three.worker(2).part.follower, "r")


@asynccontextmanager
async def own_feed_held_back(own):
    """Whoever reads it waits; and what it holds was never in a row."""
    after, gate = own.after, asyncio.Event()

    async def slow(number):
        await gate.wait()
        return await after(number)

    own.after = slow
    try:
        yield gate
    finally:
        own.after = after
        gate.set()


MENDED = {("revocations", "any"), ("revocations",)}


async def test_no_process_forgets_what_was_revoked_here_while_rows_are_put_right(three):
    await three.controller.stop()
    await three.workers.commit(revoking("r", three.clock))
    before = [one.index for one in three.everyone]
    refresh = Refresh(three.site.part.follower, three.site.own.after)
    async with own_feed_held_back(three.site.own) as gate:
        made = asyncio.create_task(refresh.begin(MENDED))
        await eventually(lambda: all(one.beside for one in three.everyone[:2]))
        await asyncio.sleep(0.1)  # long enough to read the few rows
        assert all(voids(one, "r") for one in three.everyone)
        gate.set()
        await made
    await eventually(lambda: all(one.index is not old for one, old in zip(three.everyone, before, strict=True)))
    assert all(voids(one, "r") for one in three.everyone)
    assert not any(one.beside for one in three.everyone)


async def test_after_a_hand_over_that_failed_all_processes_know_what_was_revoked_here(three, monkeypatch):
    await three.controller.stop()
    await three.workers.commit(revoking("r", three.clock))
    before = [one.index for one in three.everyone]
    refresh = Refresh(three.site.part.follower, three.site.own.after)

    async def unreadable(number):
        raise Unavailable("The disk is away.")

    with monkeypatch.context() as now:
        now.setattr(three.site.own, "after", unreadable)
        with pytest.raises(Unavailable):
            await refresh.begin(MENDED)
        await asyncio.sleep(0.1)
        assert all(voids(one, "r") for one in three.everyone)
    assert refresh.owes
    await refresh.begin(())
    await eventually(lambda: all(one.index is not old for one, old in zip(three.everyone, before, strict=True)))
    assert all(voids(one, "r") for one in three.everyone)
    assert [len(found) for found in three.processes.values()] == [1, 1]


async def test_a_worker_that_cannot_be_told_what_was_revoked_here_is_ended_and_another_begun(three, monkeypatch):
    own, after = three.site.own, three.site.own.after

    async def unreadable(number):
        if len(three.processes[2]) < 3:
            raise Unavailable("The disk is away.")
        return await after(number)

    monkeypatch.setattr(own, "after", unreadable)
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 3 and three.site.missing() is None)


async def test_a_worker_that_was_reading_while_rows_were_put_right_is_told_when_it_begins(three):
    """It may have read them before; and nobody else looks whether what lies there counts in its index."""
    worker = next(one for one in three.workers._workers.values() if one.number == 2)
    worker.in_step = False
    lost = event("lost", 10**18, audit_id="lost")
    await three.site.part.store.mend([("revocations", ("lost",), encode(lost))])
    await Refresh(three.site.part.follower, three.site.own.after).begin({("revocations", "lost"), ("revocations",)})
    assert not voids(three.worker(2).part.follower, "lost")
    three.worker(2)._begin()
    await eventually(lambda: all(voids(one, "lost") for one in three.everyone))


async def test_only_revocations_can_be_committed_through_a_worker(three):
    change = Transaction("x", 0, frozenset(), (put(project(1)),))
    with pytest.raises(Unavailable, match="controller"):
        await three.worker(2).commit(change)
    assert len(three.processes[2]) == 1


async def test_a_revocation_that_reaches_back_over_an_issue_of_a_worker_is_answered(three):
    now = three.clock.now()
    three.worker(2).part.follower.note_issue("u", now + 3_000_000)
    await three.write(event("e", now, user_id="u"))
    await eventually(lambda: three.site.own.number == 1)

    def refused(follower):
        return follower.index.voided(Traits(issued_at=now + 2_000_000, expires_at=10**18, audit_id="a", user_id="u"))

    await eventually(lambda: all(map(refused, three.everyone)))
    assert three.site.own.number == 1  # who issued nothing has nothing to answer


@pytest.mark.parametrize("by", ["its end", "a snapshot"])
async def test_what_a_worker_issued_that_will_not_say_so_is_answered_by_its_leader(three, by):
    now, follower = three.clock.now(), three.site.part.follower
    three.worker(2).part.follower.note_issue("u", now + 3_000_000)
    assert follower.issued.until("u", now + 10**12) < now
    if by == "its end":
        three.processes[2][-1].kill()
        await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
        await three.write(event("e", now, user_id="u"))
    else:
        three.site.link.snapshot_begins()
        await follower.brought(event("e", now, user_id="u"))
    assert follower.index.voided(Traits(issued_at=now + 2_000_000, expires_at=10**18, audit_id="a", user_id="u"))
    assert not follower.index.voided(Traits(issued_at=now + 4_000_000, expires_at=10**18, audit_id="a", user_id="u"))
    await eventually(lambda: three.site.own.number >= 1)


async def test_more_answers_than_a_frame_holds_cost_no_worker_its_life(three, monkeypatch):
    monkeypatch.setattr(relay, "MAX_FRAME_BYTES", 1_600_000)
    events = [event(f"e{number}", 1, audit_id=f"e{number}", project_id="p" * 20_000) for number in range(100)]
    three.worker(2)._answer_late(events)
    await eventually(lambda: sum(voids_late(three, number) for number in range(100)) == 100, 10)
    assert len(three.processes[2]) == 1


def voids_late(three, number):
    traits = Traits(issued_at=0, expires_at=10**18, audit_id=f"e{number}", project_id="p" * 20_000)
    return three.site.part.follower.index.voided(traits)


async def test_a_worker_does_not_answer_what_was_revoked_at_its_own_site(three):
    """It was known in every process when it was made: what is issued later is meant to be valid."""
    now = three.clock.now()
    three.worker(2).part.follower.note_issue("u", now + 3_000_000)
    change = put(event("r", now, user_id="u"))
    await three.worker(3).commit(Transaction("r", 0, frozenset(), (change,)))
    await eventually(lambda: three.site.own.pending() == 0)
    await three.workers.level(three.site.part.follower.position)
    assert three.site.own.number == 1


async def test_what_is_written_while_a_worker_begins_is_told_to_it(three):
    """A revocation that comes behind the place which is being read, and before the end of the reading is noted."""
    worker, store = three.worker(2), three.site.part.store
    position, scan = worker.part.follower.position, worker.part.store.scan
    await eventually(lambda: three.site.part.follower.projected == position)
    written = Entry(position + 1, "meanwhile", three.clock.now(), (put(event("a", 0, audit_id="a")),))

    async def scanned(kind):
        async for one in scan(kind):
            yield one
        if kind is RevocationEvent:
            await store.apply((written,))

    worker.part.store.scan = scanned
    worker.part.follower.overlay._position = 0
    await worker.part.follower.start()
    assert voids(worker.part.follower, "a") or worker.part.follower.position == position
    three.site.part.follower.note((written,))
    await eventually(lambda: all(voids(one, "a") for one in three.everyone))


# ---------------------------------------------------------------------------------------------------------- keys


async def test_keys_turn_only_when_every_worker_holds_the_one_that_will_sign(three):
    controller, site = three.controller, three.site
    controller.rotator._deadline_s = 60.0
    gated = three.worker(2)
    three.gate(2).clear()
    three.workers._followers = list  # the leader itself goes on
    first = await controller.rotator.turn()
    await eventually(lambda: site.part.holder.seen.epoch == first.epoch)
    await eventually(lambda: site.part.follower.projected == site.part.follower.position)
    assert site.workers.held()[1]["token"].epoch == first.epoch - 1
    turning = asyncio.create_task(controller.rotator.turn())
    await asyncio.sleep(1.0)
    assert not turning.done()
    assert gated.part.holder.seen.epoch == first.epoch - 1
    three.gate(2).set()
    second = await asyncio.wait_for(turning, 10)
    assert second.epoch == first.epoch + 1
    await eventually(lambda: all(one.holder.seen.epoch == second.epoch for one in three.everyone))
    assert len({one.ring.fingerprint for one in three.everyone}) == 1
    assert len(three.processes[2]) == 1


async def test_what_is_held_is_what_the_last_worker_holds_and_grows_when_it_is_gone(three):
    held = three.workers.held
    await eventually(lambda: held()[0] == three.site.part.follower.position)
    before = held()[0]
    three.gate(3).clear()
    await three.write(project(1))
    await eventually(lambda: three.site.part.follower.projected == before + 1, 10)
    assert held()[0] == before
    three.processes[3][-1].kill()
    await eventually(lambda: held()[0] == before + 1)


async def test_entries_wait_for_workers_before_they_are_in_the_replica_but_not_for_long(three, monkeypatch):
    monkeypatch.setattr(workers, "_LEVEL_S", 3.0)
    follower = three.site.part.follower
    await eventually(lambda: follower.projected == follower.position)
    three.gate(2).clear()
    await three.write(project(1))
    await asyncio.sleep(0.2)
    assert await three.site.part.store.applied(LOG) == follower.position - 1
    await eventually(lambda: follower.projected == follower.position, 8)
    await three.write(project(2))
    await eventually(lambda: follower.projected == follower.position, 2.5)  # once only
    three.gate(2).set()
    await eventually(lambda: three.worker(2).part.follower.projected == follower.position)


# ----------------------------------------------------------------------------------------------------- forwarding


async def test_without_a_controller_workers_go_on_and_what_changes_is_refused(three):
    await three.controller.stop()
    await eventually(lambda: three.site.link.connected_since is None)
    assert (await login(three.worker(2))).status == 201
    with pytest.raises(Unavailable, match="controller cannot be reached"):
        await three.worker(2)._forward(Request(id="1", method="POST", path="/v3/projects"))
    assert three.site._forwarded == {"answered": 0, "unavailable": 1}


async def test_a_leader_that_does_not_answer_is_not_waited_for_for_ever(three, monkeypatch):
    from regional_keystone import worker

    monkeypatch.setattr(worker, "_ANSWER_S", 0.2)
    three.gate(2).clear()
    with pytest.raises(Unavailable, match="may or may not"):
        await three.worker(2)._forward(Request(id="1", method="POST", path="/v3/projects"))
    assert three.worker(2)._waiting == {}


async def test_a_token_of_one_is_valid_at_all(three):
    doors = [three.site, three.worker(2), three.worker(3)]
    for issuer in doors:
        answer = await login(issuer)
        assert answer.status == 201
        token = answer.headers["X-Subject-Token"]
        for other in doors:
            headers = {"x-auth-token": token, "x-subject-token": token}
            request = Request(id="v", method="GET", path="/v3/auth/tokens", headers=headers)
            assert (await other.door.api.answer(request)).status == 200


# ---------------------------------------------------------------------------------------------- lives and status


async def test_status_and_readiness_tell_of_workers(three):
    await eventually(lambda: three.workers.held()[0] == three.site.part.follower.position)
    told = three.site.status()["workers"]
    assert [(one["worker"], one["state"], one["starts"]) for one in told] == [(2, "serving", 1), (3, "serving", 1)]
    assert {one["position"] for one in told} == {three.site.part.follower.position}
    three.rude[2] = [b"", b""]
    three.processes[2][-1].kill()
    await eventually(lambda: three.site.missing() == "worker 2 of 3 does not serve yet")
    assert three.site.status()["workers"][0]["state"] == "starting"
    three.workers.have_served = True
    assert three.site.unready() is None  # clients are sent here all the same: the others answer
    three.workers.have_served = False
    assert three.site.unready() == "worker 2 of 3 does not serve yet"


async def test_what_workers_count_is_added_and_outlives_them(three):
    def line(text):
        return [one for one in text.decode().splitlines() if one.startswith(f"{PREFIX}requests_total{{")]

    three.site.door.metrics.request("GET", "users", 200)
    for number in (2, 3):
        three.worker(number).door.metrics.request("GET", "users", 200)
        three.worker(number).door.metrics.request("POST", "users", 409)
    expected = [
        f'{PREFIX}requests_total{{method="GET",route="users",status="200"}} 3.0',
        f'{PREFIX}requests_total{{method="POST",route="users",status="409"}} 2.0',
    ]
    assert line(three.site.door.metrics.text(await three.workers.counted())) == expected
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert line(three.site.door.metrics.text(await three.workers.counted())) == expected
    gauges = three.site.door.metrics.text(await three.workers.counted()).decode()
    assert f'\n{PREFIX}ring_epoch{{ring="token"}} {three.site.part.holder.seen.epoch}.0\n' in gauges


async def test_a_worker_that_says_nothing_is_ended(three, monkeypatch):
    quiet = three.processes[2][-1]
    three.worker(2)._channel.send = lambda framed: None
    three.clock.ahead_s += workers.SILENCE_S / 2
    await asyncio.sleep(1.2)
    assert not quiet._task.done()
    three.workers._workers[3].heard = float("inf")
    three.clock.ahead_s += workers.SILENCE_S
    await eventually(quiet._task.done)
    await eventually(lambda: len(three.processes[2]) == 2)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x05he",
        frame(Begin(0))[:-1] + b"x",
        (b := msgspec.msgpack.encode({"type": "begin", "position": "far"})) and len(b).to_bytes(4, "big") + b,
    ],
    ids=["http", "endless", "no message", "half", "broken", "wrong type"],
)
async def test_what_talks_rubbish_is_ended_and_another_begun(tmp_path, said, monkeypatch):
    monkeypatch.setattr(workers, "START_S", 0.5)
    monkeypatch.setattr(workers, "SILENCE_S", 0.5)
    async with region(tmp_path, 2, lambda made: made.rude.update({2: [said]})) as made:
        assert made.processes[2][0]._task.done()
        assert isinstance(made.processes[2][1], Here)
        assert made.site.status()["workers"][0]["starts"] >= 2  # half a second may be too short for a good one too
        await made.workers.commit(revoking("r", made.clock))
        assert all(voids(one, "r") for one in made.everyone)


async def test_a_message_of_another_version_is_ignored(three):
    unknown = msgspec.msgpack.encode({"type": "later", "what": 1})
    framed = len(unknown).to_bytes(4, "big") + unknown
    more = msgspec.msgpack.encode({"type": "mark", "projected": 1, "also": [1, 2]})
    three.worker(2)._channel.send(framed)
    three.workers._workers[3].channel.send(framed)
    three.workers._workers[3].channel.send(len(more).to_bytes(4, "big") + more)
    await three.workers.commit(revoking("r", three.clock))
    assert all(voids(one, "r") for one in three.everyone)
    assert [len(three.processes[number]) for number in (2, 3)] == [1, 1]


async def test_a_worker_that_is_told_entries_with_a_gap_ends(three):
    worker, process = three.workers._workers[2], three.processes[2][-1]
    far = three.site.part.follower.position + 2
    worker.channel.send(frame(Entries((Entry(far, "far", 0, (put(project(1)),)),), far)))
    await eventually(lambda: process.failure is not None)
    assert process.failure.subgroup(ValueError)
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)


async def test_an_echo_from_the_future_makes_nobody_fresh(three):
    follower = three.worker(2).part.follower
    await three.controller.stop()
    three.workers._workers[2].channel.send(frame(Echo(three.clock.ticks() + 1000, follower.position, 0)))
    three.workers._workers[2].channel.send(frame(Mark(0)))
    await asyncio.sleep(0.1)
    before = follower.age_s()
    await asyncio.sleep(0.2)
    assert follower.age_s() > before


async def test_the_stores_heartbeat_counts_in_every_process(three):
    await three.controller.stop()
    three.clock.ahead_s += 100
    assert min(one.age_s() for one in three.everyone) >= 100
    leader = three.site.part.follower
    leader.beaten(three.clock.now() - 3_000_000, leader.position, 2.0)
    await eventually(lambda: max(one.age_s() for one in three.everyone) < 20)
    assert min(one.age_s() for one in three.everyone) >= 5
    assert max(one.noted().fresh_at for one in three.everyone) < three.clock.now() - 100_000_000


async def test_entries_told_twice_change_nothing(three):
    await three.write(project(1))
    worker = three.workers._workers[2]
    for _, framed in list(three.workers._recent.frames):
        worker.channel.send(framed)
    await three.workers.commit(revoking("r", three.clock))
    assert three.worker(2).part.follower.position == three.site.part.follower.position


async def test_many_entries_at_once_are_told_in_frames_that_fit(three, monkeypatch):
    monkeypatch.setattr(relay, "MAX_FRAME_BYTES", 100_000)
    monkeypatch.setattr(workers, "_TOLD_BYTES", 20_000)
    first = three.site.part.follower.position + 1
    many = [
        Entry(number, f"many{number}", 0, (put(event(f"{number}" + "x" * 1000, 0, audit_id=f"m{number}")),))
        for number in range(first, first + 300)
    ]
    three.site.part.follower.relay.noted(many)
    await eventually(lambda: all(three.worker(one).part.follower.position == many[-1].number for one in (2, 3)))
    assert [len(each) for each in three.processes.values()] == [1, 1]
    assert three.workers._recent.frames[-1][0] == many[-1].number
    assert max(len(framed) for _, framed in three.workers._recent.frames) < 25_000


async def test_one_that_does_not_read_is_lost_and_costs_bounded_memory(three, monkeypatch):
    monkeypatch.setattr(relay, "_MAX_WAITING_BYTES", 100_000)
    stuck = three.processes[2][-1]
    three.worker(2)._channel._channel._reader._transport.pause_reading()
    for number in range(200):
        three.site.part.follower.relay.noted(
            [Entry(10**6 + number, "x", 0, (put(event("x" * 10_000, 0, audit_id="x" * 1000)),))]
        )
        if stuck._task.done() or 2 not in three.workers._workers:
            break
        await asyncio.sleep(0)
    await eventually(lambda: three.workers._workers.get(2) is None or len(three.processes[2]) == 2)


async def test_all_end_with_their_leader(tmp_path):
    async with region(tmp_path) as made:
        living = [one[-1] for one in made.processes.values()]
        await made.workers.ended()
        assert all(one._task.done() for one in living)
        assert [len(one) for one in made.processes.values()] == [1, 1]  # and none was started again


async def test_one_process_has_no_workers(tmp_path):
    async with running(tmp_path, ()) as cloud, AsyncExitStack() as stack:
        made = Region(cloud, tmp_path, 1)
        await made.identity.join(JoinToken.read(await cloud.controller.sites.invite("RegionOne")))
        site = site_.Site(made.settings, made.clock, made.identity, made.start_worker)
        await site.build(stack)
        assert site.workers is None
        assert site.part.follower.relay is None
        assert "workers" not in site.status()
        assert made.processes == {}


async def test_a_task_that_gives_up_by_itself_ends_what_it_belongs_to():
    async def gives_up():
        raise asyncio.CancelledError

    with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
        async with background([gives_up()]):
            await asyncio.sleep(5)
    assert "gives_up" in str(caught.value.exceptions[0])


async def test_what_runs_in_the_background_ends_with_its_block_and_is_waited_for():
    steps = []

    async def works():
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    async def block():
        async with background([works()]):
            await asyncio.sleep(5)

    running = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps == ["cleaned up"]


def test_one_whose_leader_has_ended_before_it_could_ask_for_its_own_end_ends(tmp_path):
    leaders, own = socket.socketpair()
    leaders.close()
    command = [sys.executable, "-P", "-m", "regional_keystone", "--set", f"site.state_dir={tmp_path}"]
    with own:
        command += ["worker", "--number", "1", "--leader-fd", str(own.fileno())]
        done = subprocess.run(
            command, pass_fds=[own.fileno()], capture_output=True, text=True, timeout=120, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir()), "it has begun nothing"
