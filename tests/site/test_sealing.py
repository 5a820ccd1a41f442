"""For how long a place may seal: from when its ring was known to be the newest, whatever is heard or restarted later."""

import shutil

import msgspec
import pytest
import structlog
from cryptography.fernet import Fernet

from regional_keystone.errors import Unavailable
from regional_keystone.lease import DRIFT
from regional_keystone.log import put
from regional_keystone.model import KeyTimes
from regional_keystone.sealing import Lives, Noted
from tests.cloud import eventually
from tests.site.test_follow import Part, entry
from tests.site.test_holder import FIRST, SECOND, record

ISOLATION_S = 100.0
ENDS_S = ISOLATION_S * (1 - DRIFT)


async def opened(path, **settings):
    made = await Part().open(path, isolation_s=ISOLATION_S, **settings)
    made.clock._now = record(FIRST).turned_at
    return made


@pytest.fixture
async def part(tmp_path):
    made = await opened(tmp_path)
    yield made
    await made.close()


async def hold_first(part):
    part.follower.note([entry(1, put(record(FIRST, lifetime_us=7)))])
    assert await part.follower.settled(1, 5.0)
    hear(part)


def hear(part):
    """An echo that names all that is known here."""
    part.follower.heard(part.clock.ticks(), part.follower.position)


async def refused(batch):
    raise Unavailable("the disk is full")


def block(part):
    """From now on the directory cannot be replaced: where it is made ready there is something else."""
    part.kept = part.holder.directory.with_name("kept")
    part.holder.directory.rename(part.kept)
    part.holder.directory.write_text("in the way")


async def test_before_the_first_ring_nothing_is_sealed(part):
    assert "not been in touch" in part.follower.why_not_seal()
    hear(part)
    assert part.follower.why_not_seal()
    await hold_first(part)
    assert part.follower.why_not_seal() is None
    assert part.follower.lifetime_us == 7


async def test_who_hears_nothing_ends_with_the_promise_and_goes_on_when_it_is_heard_of_again(part):
    await hold_first(part)
    await part.clock.advance(ENDS_S - 0.1)
    assert part.follower.why_not_seal() is None
    await part.clock.advance(0.2)
    assert "cut off for too long" in part.follower.why_not_seal()
    assert part.follower.ring == FIRST, "what was sealed is opened all the same"
    hear(part)
    assert part.follower.why_not_seal() is None


async def test_who_cannot_install_the_newest_ring_ends_though_it_hears_all(part):
    """Counted from when the ring in use was the newest, not from when the newer one was heard of."""
    await hold_first(part)
    await part.clock.advance(60)  # cut off meanwhile: there may have been a turn at any time since
    block(part)
    part.follower.note([entry(2, put(record(SECOND, FIRST.fingerprint)))])
    for _ in range(3):
        hear(part)
        assert part.follower.why_not_seal() is None
        await part.clock.advance(13)
    hear(part)
    await part.clock.advance(1)
    assert "could not take up the newest keys" in part.follower.why_not_seal()
    part.holder.directory.unlink()
    shutil.move(part.kept, part.holder.directory)
    await part.clock.advance(120)
    await eventually(lambda: part.follower.ring == SECOND)
    hear(part)
    assert part.follower.why_not_seal() is None


@pytest.mark.parametrize("newest", [FIRST, FIRST.rotated(Fernet.generate_key())], ids=["older", "of the same number"])
async def test_a_ring_that_is_not_the_newest_of_the_log_renews_nothing(part, newest):
    """As where a log was put back, and perhaps turned anew: others cannot open what is sealed with the ring of here."""
    assert await part.holder.install(record(SECOND), part.clock.now())
    part.follower.recall(Noted(fresh_at=part.clock.now(), sure_at=part.clock.now()))
    part.follower.note([entry(1, put(record(newest)))])
    assert await part.follower.settled(1, 5.0)
    hear(part)
    assert part.holder.seen == (2, SECOND.fingerprint)
    assert part.follower.why_not_seal() is None
    await part.clock.advance(ENDS_S + 1)
    hear(part)
    assert "could not take up the newest keys" in part.follower.why_not_seal()


async def test_a_controller_that_cannot_install_its_own_turn_ends_too(tmp_path):
    part = await opened(tmp_path, leads=True)
    try:
        await hold_first(part)
        await part.clock.advance(10 * ISOLATION_S)
        assert part.follower.why_not_seal() is None
        block(part)
        part.follower.note([entry(2, put(record(SECOND, FIRST.fingerprint)))])
        await part.clock.advance(ENDS_S - 1)
        assert part.follower.why_not_seal() is None
        await part.clock.advance(2)
        assert part.follower.why_not_seal()
    finally:
        await part.close()


async def test_a_restart_begins_no_new_time(part, tmp_path):
    """Not of a place that was cut off, and not of one that heard all but could not install the newest ring."""
    await hold_first(part)
    await part.clock.advance(30)
    block(part)
    part.follower.note([entry(2, put(record(SECOND, FIRST.fingerprint)))])
    await part.clock.advance(30)
    assert await part.follower.settled(2, 5.0)
    hear(part)
    noted = msgspec.json.decode(msgspec.json.encode(part.follower.noted()), type=Noted)
    assert noted.fresh_at - noted.sure_at == 60_000_000
    part.holder.directory.unlink()
    shutil.move(part.kept, part.holder.directory)
    again = Part()
    await again.open(tmp_path)
    try:
        again.clock._now = part.clock.now() + 30_000_000  # it was away so long
        again.holder._ring = FIRST
        again.follower.recall(noted)
        again.follower.leave.heard(record(SECOND, FIRST.fingerprint))
        assert again.follower.leave.left_s() == pytest.approx(ENDS_S - 90)
        assert again.follower.lifetime_us == 7
        await again.clock.advance(11)
        assert "could not take up the newest keys" in again.follower.why_not_seal()
    finally:
        await again.close()


async def test_what_an_earlier_life_noted_in_the_future_is_not_believed(part):
    noted = Noted(fresh_at=part.clock.now() + 1, sure_at=part.clock.now(), isolation_us=10**12)
    part.follower.recall(noted)
    assert part.follower.leave.left_s() == 0
    part.follower.recall(Noted(fresh_at=part.clock.now() - 1, sure_at=part.clock.now() + 10**9, isolation_us=10**9))
    assert part.follower.leave.left_s() == 0, "sure of the future"


async def test_a_ring_of_other_secrets_renews_nothing(part):
    await hold_first(part)
    await part.clock.advance(50)
    part.follower.leave.heard(msgspec.structs.replace(record(SECOND), id="credential"))
    hear(part)
    assert part.follower.leave.left_s() == pytest.approx(ENDS_S)


async def test_nothing_is_noted_of_entries_that_the_replica_has_not(part):
    """A life that begins from it knows nothing of them, however long this one has known them."""
    await hold_first(part)
    before = part.follower.noted()
    part.follower.apply = refused
    await part.clock.advance(10)
    part.follower.note([entry(2, put(record(FIRST), record(FIRST)))])
    hear(part)
    await part.clock.advance(10)
    noted = part.follower.noted()
    assert (noted.fresh_at, noted.sure_at) == (before.fresh_at, before.sure_at)
    assert noted.noted_at == part.clock.now(), "by which it is known whether the clock was set back"
    part.follower.apply = part.store.apply
    for _ in range(3):
        await part.clock.advance(2)
    assert await part.follower.settled(2, 5.0)
    assert part.follower.noted().fresh_at > before.fresh_at


async def test_what_is_set_to_last_longer_than_keys_are_kept_is_told_once_and_does_not(part):
    """A site with a longer life of tokens, or window of expired ones, than the controllers count with."""
    part.follower.leave.wanted = Lives(9_000_000, 70_000_000)
    assert part.follower.allow_expired_us is None
    kept = KeyTimes(lifetime_us=7_000_000, allow_expired_us=60_000_000)
    first = record(FIRST, lifetime_us=7_000_000, times={max(FIRST.numbers): kept})
    with structlog.testing.capture_logs() as logged:
        for number in (1, 2):
            part.follower.note([entry(number, put(first))])
            assert await part.follower.settled(number, 5.0)
    told = [one for one in logged if one["event"] == "longer_than_keys_are_kept"]
    assert [(one["option"], one["here_s"], one["kept_s"]) for one in told] == [
        ("token.expiration", 9, 7),
        ("token.allow_expired_window", 70, 60),
    ]
    assert (part.follower.lifetime_us, part.follower.allow_expired_us) == (7_000_000, 60_000_000)
    again = record(FIRST, lifetime_us=9_000_000, times={max(FIRST.numbers): KeyTimes(lifetime_us=1)})
    part.follower.note([entry(3, put(again))])
    assert await part.follower.settled(3, 5.0)
    assert part.follower.allow_expired_us == 0, "what has expired is not shown at all"


async def test_what_an_older_ring_promised_does_not_come_back_with_it(part):
    """As where the log brings an older ring again: neither its lifetime nor its isolation is that of the one in use."""
    part.follower.note([entry(1, put(record(SECOND, lifetime_us=7, isolation_us=50_000_000)))])
    assert await part.follower.settled(1, 5.0)
    hear(part)
    left_s = part.follower.leave.left_s()
    part.follower.note([entry(2, put(record(FIRST, lifetime_us=9, isolation_us=500_000_000)))])
    assert await part.follower.settled(2, 5.0)
    assert part.holder.seen == (2, SECOND.fingerprint)
    assert part.follower.lifetime_us == 7
    assert part.follower.leave.left_s() <= left_s
