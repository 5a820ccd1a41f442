"""Keys that a site's operator condemns, or that a site hears are condemned: refused by every process, sealing nothing."""

import asyncio
import os

import pytest
import structlog

from regional_keystone import logs, operator_socket
from regional_keystone.condemned import sealing_number
from regional_keystone.errors import Invalid, NotFound, Unavailable
from regional_keystone.issue_counts import HOUR_US, IssueCounts, bounded, live, read, written
from regional_keystone.keys import KeyRing
from regional_keystone.messages import Request
from regional_keystone.model import Condemned, KeyTimes, Ring
from regional_keystone.operator_listener import listen
from regional_keystone.panic import Wanted
from tests.cloud import eventually
from tests.controller.test_credential_keys import keys_of
from tests.site.realm import KEYS
from tests.site.test_signing import record as signing_record
from tests.site.test_workers import login, region


@pytest.fixture
async def three(tmp_path):
    async with region(tmp_path) as made:
        yield made


async def looks(worth, token):
    """What a process says of a token."""
    headers = {"x-auth-token": token, "x-subject-token": token}
    request = Request(id=os.urandom(8).hex(), method="GET", path="/v3/auth/tokens", headers=headers)
    return (await worth.door.api.answer(request)).status


def doors(three):
    return [three.site, three.worker(2), three.worker(3)]


async def token(three):
    answer = await login(three.site)
    assert answer.status == 201
    return answer.headers["X-Subject-Token"]


def primary(three):
    ring = three.site.part.holder.ring
    return ring.key_ids[ring.primary]


async def turned(three):
    """The ring after a turn, held by every process."""
    ring = await three.controller.rotator.turn()
    await eventually(lambda: {one.holder.seen.epoch for one in three.everyone} == {ring.epoch})
    await eventually(lambda: all(one.position == three.controller.sequencer.head for one in three.everyone))


# ----------------------------------------------------------------------------------------------------------- panic


async def test_a_panic_without_a_controller_holds_in_every_process_when_it_is_answered(three):
    old = await token(three)
    await turned(three)
    new, key = await token(three), primary(three)
    assert [await looks(one, text) for one in doors(three) for text in (old, new)] == [200] * 6
    await three.controller.stop()
    assert await three.site.panic.condemn(Wanted(key=key, why="a test"), "me") == [key]
    assert [await looks(one, new) for one in doors(three)] == [401] * 3
    assert [await looks(one, old) for one in doors(three)] == [200] * 3
    assert all(one.condemned == {key} for one in three.everyone)
    assert await three.site.panic.condemn(Wanted(key=key), "me") == []
    assert three.site.own.number == 1


async def test_a_fresh_worker_and_a_restarted_site_know_what_is_in_no_log_yet(three):
    text, key = await token(three), primary(three)
    await three.controller.stop()
    await three.site.panic.condemn(Wanted(key=key), "me")
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert three.worker(2).part.follower.condemned == {key}
    assert await looks(three.worker(2), text) == 401


async def test_a_site_goes_on_sealing_with_a_former_primary_that_others_keep(three):
    await token(three)
    await turned(three)
    former = set(three.site.part.holder.ring.ids)
    ring = three.site.part.holder.ring
    await three.controller.stop()
    await three.site.panic.condemn(Wanted(key=primary(three)), "me")
    text = await token(three)
    number = ring.open(text)[2]
    assert 0 < number < ring.primary
    assert ring.key_ids[number] in former
    assert [await looks(one, text) for one in doors(three)] == [200] * 3


async def test_where_no_key_is_left_nothing_is_issued_and_the_reason_is_told(three):
    await three.controller.stop()
    known = three.site.panic.keys()
    assert set(await three.site.panic.condemn(Wanted(all=True), "me")) == set(known)
    assert three.site.part.holder.ring.ids <= set(known)
    for one in doors(three):
        answer = await login(one)
        assert answer.status == 503
        assert b"condemned" in answer.body
        assert answer.headers["Retry-After"]


async def test_a_panic_is_taken_over_once_and_the_controller_turns_the_ring_away(three):
    text, key = await token(three), primary(three)
    await three.controller.stop()
    await three.site.panic.condemn(Wanted(key=key, why="stolen"), "me")

    async def away():
        record = await three.controller.overlay.get(Ring, "token")
        return key not in record.checks.values() and three.site.part.holder.seen.epoch == record.epoch

    with structlog.testing.capture_logs() as logged:
        await three.controller.start()
        await eventually(away, 10)
    shown = [logs._masked(None, one["log_level"], one) for one in logged if one["event"] == "keys_condemned"]
    assert [(one["keys"], one["place"]) for one in shown] == [([key], three.site.identity.membership().name)]
    row = await three.controller.overlay.get(Condemned, key)
    assert (row.place, row.by, row.why, row.ring) == (three.site.identity.membership().name, "me", "stolen", "token")
    await eventually(lambda: three.site.own.pending() == 0)
    entries = await three.controller.log()
    assert sum(one.table == "condemned" for entry in entries for one in entry.changes) == 1
    assert sum(one.table == "rings" and one.key == ("token",) for entry in entries for one in entry.changes) == 3
    assert [await looks(one, text) for one in doors(three)] == [401] * 3
    await eventually(lambda: {one.holder.seen.epoch for one in three.everyone} == {three.site.part.holder.seen.epoch})
    again = await token(three)
    assert [await looks(one, again) for one in doors(three)] == [200] * 3


async def test_what_is_asked_for_must_be_one_key_that_is_known_or_all(three):
    panic = three.site.panic
    for wanted in (Wanted(), Wanted(key="0" * 16, all=True)):
        with pytest.raises(Invalid):
            await panic.condemn(wanted, "me")
    with pytest.raises(NotFound, match="0000000000000000"):
        await panic.condemn(Wanted(key="0" * 16), "me")
    assert set(panic.keys().values()) <= {"token", "receipt"}, "none of those that open credentials"


async def test_a_signing_key_of_any_site_can_be_condemned_as_well(three):
    said = signing_record()
    await three.write(said)
    follower = three.site.part.follower
    await eventually(lambda: follower.signers.ids)
    [key] = said.keys
    assert follower.accepts_key(key)
    assert await three.site.panic.condemn(Wanted(key=key), "me") == [key]
    assert not any(one.accepts_key(key) for one in three.everyone)
    await eventually(lambda: three.site.own.pending() == 0)
    assert (await three.controller.overlay.get(Condemned, key)).ring == "signing"


async def test_the_operators_socket_is_for_its_owner_alone_and_says_who_it_was(three, tmp_path):
    path = tmp_path / operator_socket.NAME
    runner = await listen(three.site.panic.app(), path)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        await token(three)
        key = primary(three)
        asked = await asyncio.to_thread(operator_socket.ask, path, "/keys")
        (mine,) = [one for one in asked["keys"] if one["id"] == key]
        assert mine == {"id": key, "ring": "token", "condemned": False, "live_tokens": 1}
        told = await asyncio.to_thread(operator_socket.ask, path, "/panic", {"key": key, "why": "w"})
        assert told["condemned"] == [key]
        assert told["issues_tokens"] is False
        [entry] = await three.site.own.after(0)
        assert f"uid {os.getuid()} at ".encode() in entry.changes[0].row
        for body in ({"key": "nonsense"}, {"keys": []}):
            with pytest.raises(operator_socket.Refusal):
                await asyncio.to_thread(operator_socket.ask, path, "/panic", body)
        secret = three.site.part.holder.ring.numbers.values()
        assert not any(one.decode() in str((asked, told)) for one in secret)
    finally:
        await runner.cleanup()
    with pytest.raises(Unavailable, match="is it running"):
        operator_socket.ask(tmp_path / "nobody.sock", "/keys")


# ------------------------------------------------------------------------------------------------ what is condemned


async def test_a_condemned_key_stays_condemned_whatever_ring_comes_and_after_a_snapshot(three):
    text, key = await token(three), primary(three)
    before = await three.controller.overlay.get(Ring, "token")
    now = three.clock.now()
    await three.write(Condemned(id=key, ring="token", at=now, by="x"))
    await eventually(lambda: all(one.condemned == {key} for one in three.everyone))
    for one in three.everyone:
        await one._install(before)  # a bundle that still has it, late
        assert not one.accepts_key(key)
    assert [await looks(one, text) for one in doors(three)] == [401] * 3
    follower = three.site.part.follower
    await eventually(lambda: follower.projected == follower.position)
    follower.condemned = frozenset()
    await follower.start()  # as after a snapshot or a restart
    assert follower.condemned == {key}


async def test_a_token_that_is_looked_up_while_its_key_is_condemned_is_refused(three):
    text, key = await token(three), primary(three)
    site = three.worker(2)
    validator = site.door.api._prove.__self__
    facts = validator.facts

    async def slow(*arguments):
        found = await facts(*arguments)
        site.part.follower.condemn([key])
        return found

    validator.facts = slow
    assert await looks(site, text) == 401


def test_which_key_seals():
    ring = KeyRing({0: KEYS[0], 1: KEYS[1], 2: KEYS[2], 3: KEYS[3]}, 4)
    name = ring.key_ids
    times = {2: KeyTimes(ceased_at=5, seal_until=100), 1: KeyTimes(ceased_at=2, seal_until=50), 3: KeyTimes()}
    record = Ring(
        id="token", epoch=4, fingerprint=ring.fingerprint, checks=dict(name), sealed={}, turned_at=5, times=times
    )
    assert sealing_number(ring, (), record, 10) == 3
    assert sealing_number(ring, (), None, 10) == 3
    assert sealing_number(ring, {name[3]}, record, 10) == 2
    assert sealing_number(ring, {name[3], name[2]}, record, 10) == 1
    assert sealing_number(ring, {name[3]}, record, 100) is None, "others may have forgotten it before its tokens end"
    assert sealing_number(ring, {name[3], name[2]}, record, 50) is None
    assert sealing_number(ring, {name[3]}, None, 10) is None
    assert sealing_number(ring, {name[3], name[2], name[1]}, record, 10) is None, "never the staged key"
    from msgspec.structs import replace

    fresh = replace(record, settles_at=20)
    assert sealing_number(ring, (), fresh, 19) == 2
    assert sealing_number(ring, (), fresh, 20) == 3
    assert sealing_number(ring, {name[1], name[2]}, fresh, 19) is None
    newer = replace(fresh, epoch=5)
    assert sealing_number(ring, (), newer, 19) is None, "its primary may be the one that is to wait"
    assert sealing_number(ring, (), newer, 20) == 3


# ---------------------------------------------------------------------------------------------------- issue counts


async def test_issues_are_counted_by_key_in_every_process_and_told_with_each_acknowledgement(three):
    key = primary(three)
    for one in (*doors(three), three.site):
        assert (await login(one)).status == 201
    for number in (2, 3):
        three.worker(number)._count()
    await eventually(lambda: sum(three.workers.issued().get(key, {}).values()) == 4)
    three.processes[2][-1].kill()
    await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
    assert sum(three.workers.issued()[key].values()) == 4, "what has ended is still counted"
    three.site.part.follower.progress()
    name = three.site.identity.membership().name
    await eventually(lambda: sum(three.controller.acknowledged(name).issued.get(key, {}).values()) == 4)
    assert f'tokens_issued{{key="{key}"}} 4.0' in three.site.door.metrics.text().decode()


def test_issue_counts_are_bounded_and_survive_as_bytes():
    counts = IssueCounts()
    for number in range(100):
        for hour in range(100):
            counts.note(f"{number:016x}", hour * HOUR_US + number)
    told = counts.told()
    assert len(told) <= 16
    assert max(map(len, told.values())) <= 72
    assert f"{99:016x}" in told
    assert read(written(told)) == told
    assert read(b"nonsense") == {}
    assert bounded({"k": {1: -5, 2: 10**30}}) == {"k": {2: 10**12}}


def test_live_tokens_are_those_of_every_hour_that_an_unexpired_one_may_be_from():
    hours = {10: 1, 11: 20, 12: 300}
    assert live(hours, 12 * HOUR_US + HOUR_US // 2, HOUR_US) == 320
    assert live(hours, 13 * HOUR_US, HOUR_US) == 300
    assert live(hours, 99 * HOUR_US, HOUR_US) == 0


async def test_a_key_that_opens_credentials_is_none_that_a_site_condemns(three):
    await keys_of(three.controller).setup()
    holder, panic = three.site.part.follower.holders["credential"], three.site.panic
    await eventually(lambda: holder.seen.epoch == 1)
    ids = holder.ring.ids
    assert ids.isdisjoint(panic.keys())
    for key in ids:
        with pytest.raises(NotFound):
            await panic.condemn(Wanted(key=key), "me")
    assert ids.isdisjoint(await panic.condemn(Wanted(all=True), "me"))
