"""Named histories of the key protocol; `tests/model/test_random.py` has those that nobody thought of."""

from unittest import mock

from controller import unaware
from regional_keystone.follow import APART_S
from regional_keystone.holder import TOKEN
from regional_keystone.log import Put
from regional_keystone.messages import Acknowledge
from regional_keystone.signing import SIGNING
from tests.model.named import DEADLINE_S, EXPIRY_S, ISOLATION_S, LONGEST_S, history, key_ids, sweep
from tests.model.nodes import ALLOW_EXPIRED_S, primary_id


@history
def test_a_key_seals_only_when_all_have_it_and_goes_when_nothing_of_it_lives(one):
    first = one.seal(one.s1)
    for _ in range(5):
        assert one.turn(one.c1) is None
        one.level()
        assert one.seal(one.s2) not in (None, first)
    assert first in one.ring.checks.values(), "however many turns there were"
    one.world.pass_(LONGEST_S + 1)
    assert one.turn(one.c1) is None
    assert first not in one.ring.checks.values()


@history
def test_two_who_both_believe_that_they_hold_the_lock_make_one_turn(one):
    one.world.lock.trusty = 0.0
    epoch = one.ring.epoch
    asked = [one.asks(one.c1, one.ring.turned_at), one.asks(one.c2, one.ring.turned_at)]
    one.world.until(lambda: all(task.done() for task in asked), 30)
    errors = [error for task in asked if (error := one.outcome(task)) is not None]
    assert one.ring.epoch == epoch + 1
    assert len(errors) == 1


@sweep
def test_who_was_stopped_in_its_turn_and_lost_the_lock_unaware_changes_nothing(one, after):
    """The other has turned, twice, before it goes on with what it knew."""
    asked = one.asks(one.c1, one.ring.turned_at)
    one.steps(after)
    one.c1.process.stopped_until = one.world.loop.time() + 60
    one.world.lock.trusty = 0.0
    one.turns_soon(one.c2)
    one.level()
    one.turns_soon(one.c2)
    turns = one.world.judge.turns
    one.world.until(asked.done, 90)
    one.world.pass_(1.0)
    assert one.world.judge.turns == turns
    one.level()
    one.turns_soon(one.c1)


@sweep
def test_a_controller_that_is_killed_at_any_step_of_a_turn_leaves_a_ring_that_turns(one, after):
    one.asks(one.c1)
    one.steps(after)
    one.c1.kill()
    one.turns_soon(one.c2)
    one.level()
    one.start(one.c1)
    assert one.turn(one.c1) is None


@sweep
def test_a_site_that_is_killed_at_any_step_of_taking_a_ring_holds_what_it_has_acknowledged(one, after):
    assert one.turn(one.c1) is None
    one.steps(after)
    one.s1.kill()
    one.world.pass_(0.3)
    asked = one.asks(one.c2)
    one.world.pass_(1.0)
    one.start(one.s1)
    one.world.until(asked.done, 30)
    assert one.outcome(asked) is None
    one.level()
    assert one.state(one.s1) == "active"


@history
def test_no_turn_before_the_last_has_acknowledged_and_who_does_not_is_quarantined_alone(one):
    one.s3.held = True
    one.turn(one.c1)
    epoch = one.ring.epoch
    asked = one.asks(one.c1)
    one.world.pass_(DEADLINE_S - 1)
    assert not asked.done()
    assert one.ring.epoch == epoch
    one.world.until(asked.done, 10)
    assert one.outcome(asked) is None
    assert [one.state(site) for site in (one.s1, one.s2, one.s3)] == ["active", "active", "quarantined"]
    one.level(one.s1, one.s2)
    assert one.turn(one.c2) is None, "nobody waits for it any more"
    one.mend(one.s3)
    one.active(one.s3)
    one.turns_soon(one.c1)
    one.level()


@sweep
def test_a_site_that_comes_back_between_plan_and_turn_is_waited_for(one, after):
    one.cut(one.s3)
    assert one.turn(one.c1) is None  # all had the staged key
    one.level(one.s1, one.s2)
    one.asks(one.c1)
    one.world.until(lambda: one.state(one.s3) == "quarantined", 30)
    one.level(one.s1, one.s2)
    one.mend(one.s3)
    asked = None
    for _ in range(after):
        one.world.step()
    asked = one.asks(one.c2)
    one.active(one.s3)
    one.world.until(asked.done, 30)
    one.outcome(asked)
    one.level()


@sweep
def test_a_site_that_joins_while_keys_turn_is_sealed_for_and_waited_for(one, after):
    asked = one.asks(one.c1)
    one.steps(after)
    one.world.do(one.world._joins("s4"))
    one.world.until(asked.done, 30)
    one.outcome(asked)
    one.level()
    assert one.turn(one.c2) is None


@history
def test_nobody_is_quarantined_for_a_ring_that_came_while_a_turn_waited_for_the_one_before(one):
    """The one who waited was stopped meanwhile, and its deadline has passed; that of the new ring begins with it."""
    one.world.lock.trusty = 0.0
    one.s3.held = True
    assert one.turn(one.c1) is None
    one.asks(one.c1, one.ring.turned_at)
    one.world.pass_(DEADLINE_S - 1)
    one.c1.process.stopped_until = one.world.loop.time() + 60
    one.mend(one.s3)
    one.level()
    one.s1.held = True
    assert one.turn(one.c2) is None
    one.c1.process.stopped_until = 0.0
    one.world.pass_(1.0)
    assert one.state(one.s1) == "active"
    one.mend(one.s1)
    one.level()


@history
def test_acknowledgements_that_died_with_a_controller_are_said_again(one):
    assert one.turn(one.c1) is None
    one.c1.kill()
    one.c2.kill()
    one.world.rows.said.clear()  # and what was kept of them with it
    one.start(one.c1)
    one.start(one.c2)
    assert one.turn(one.c1) is None
    assert {one.state(site) for site in (one.s1, one.s2, one.s3)} == {"active"}


@history
def test_what_a_restored_site_once_acknowledged_counts_no_more(one):
    one.s1.save()
    for _ in range(2):
        assert one.turn(one.c1) is None
        one.level()
    one.world.pass_(6.0)
    one.s1.kill()
    one.s1.restore()
    one.s1.disk.full = True  # so that it stays as it was
    one.world.judge.installed.pop("s1")
    one.start(one.s1)
    one.world.until(lambda: one.s1.stream is not None and not one.s1.stream.cut, 10)
    one.world.pass_(2.5)
    one.s1.went_back = False  # from now on its word is that of its disk
    asked = one.asks(one.c2)
    one.world.pass_(3.0)
    assert not asked.done(), "it does not hold the staged key"
    one.s1.disk.full = False
    one.world.until(asked.done, 30)
    assert one.outcome(asked) is None
    one.level()


@history
def test_a_full_disk_delays_one_turn_is_quarantined_and_ends_to_seal_in_time(one):
    one.s2.disk.full = True
    assert one.turn(one.c1) is None
    ceased = one.world.loop.time()
    old = primary_id(one.s2.ring)
    assert one.turn(one.c1) is None
    assert one.state(one.s2) == "quarantined"
    assert one.seal(one.s2) == old, "its tokens are good everywhere for as long as was promised"
    one.world.pass_(max(0.0, ceased + ISOLATION_S - one.world.loop.time()))
    assert one.seal(one.s2) is None
    assert one.seal(one.s1) is not None
    one.s2.disk.full = False
    one.active(one.s2)
    assert one.turn(one.c2) is None
    one.level()
    assert one.seal(one.s2) is not None


@history
def test_a_quarantined_site_that_is_cut_off_never_says_that_a_key_which_it_lacks_is_none(one):
    """Nobody waits for it, so it may be left behind by two turns at once; it knows no more than that it may be."""
    one.s3.disk.full = True
    assert one.turn(one.c1) is None
    assert one.turn(one.c1) is None, "which quarantines it"
    one.level(one.s1, one.s2)
    one.cut(one.s3)
    assert one.turn(one.c1) is None
    one.s3.disk.full = False
    assert one.world.until(lambda: one.s3.ring.epoch == one.s3.follower.leave.epoch, 30)
    one.level(one.s1, one.s2)
    assert one.turn(one.c1) is None
    one.level(one.s1, one.s2)
    assert one.seal(one.s1) not in key_ids(one.s3.ring)
    assert one.world.judge.count["503 for want of a key"]


@history
def test_two_turns_right_after_the_cut_leave_a_quarantined_site_behind_and_it_says_so(one):
    """So soon that it believes itself to be in touch: only that nobody waits for it tells it that it may lack keys.

    As controllers of the version before turn, which do not wait until it knows that it is cut off.
    """
    one.s3.disk.full = True
    assert one.turn(one.c1) is None
    assert one.turn(one.c1) is None, "which quarantines it"
    one.level(one.s1, one.s2)
    one.s3.disk.full = False
    assert one.world.until(lambda: one.s3.ring.epoch == one.ring.epoch, 60)
    one.cut(one.s3)
    assert one.state(one.s3) == "quarantined"
    with one.quickly(), mock.patch.object(unaware, "KNOWN_S", 0.0):
        for _ in range(2):
            assert one.turn(one.c1) is None
            one.world.until(lambda: one.s1.ring.epoch == one.ring.epoch, 5)
    assert one.seal(one.s1) not in key_ids(one.s3.ring)
    assert one.s3.follower.age_s() < APART_S
    assert not one.s3.follower.leave.is_behind
    assert one.world.judge.count["503 for want of a key"]


@history
def test_what_a_former_instance_says_counts_not_for_the_one_that_joined_anew(one):
    """A machine that was stolen and replaced says what it likes, until its stream ends, and that is kept."""
    former = one.s2.instance
    one.world.do(one.world._joins("s2"))
    one.world.sites["s2"].held = True
    one.world.pass_(0.5)
    said = Acknowledge(one.world.rows.head, {TOKEN: (one.ring.epoch, one.ring.fingerprint)})
    one.c2.acknowledgements.note("s2", former, said)
    asked = one.asks(one.c2)
    one.world.pass_(DEADLINE_S - 1)
    assert not asked.done(), "the one that is there now has said nothing"
    one.mend(one.world.sites["s2"])
    one.world.until(asked.done, 30)
    assert one.outcome(asked) is None
    one.level()


@history
def test_a_cut_off_site_seals_for_as_long_as_was_promised_and_all_it_sealed_is_good(one):
    one.cut(one.s3)
    began = one.world.loop.time()
    assert one.turn(one.c1) is None
    one.asks(one.c1)  # waits for it, and quarantines it
    while one.seal(one.s3) is not None:
        last, sealed_s = primary_id(one.s3.ring), one.world.loop.time()
        one.world.pass_(0.2)
    assert ISOLATION_S - 2.0 <= sealed_s - began <= ISOLATION_S
    shown_until_s = sealed_s + EXPIRY_S + ALLOW_EXPIRED_S
    one.world.pass_(max(0.0, shown_until_s - 0.5 - one.world.loop.time()))
    assert one.turn(one.c1) is None
    assert one.world.loop.time() < shown_until_s
    assert last in one.ring.checks.values(), "its last token may be shown still, though it has expired"
    one.mend(one.s3)
    one.active(one.s3)
    one.level()
    assert one.seal(one.s3) is not None


@history
def test_a_site_that_was_stopped_for_longer_than_was_promised_does_not_seal_when_it_goes_on(one):
    one.s1.process.stopped_until = one.world.loop.time() + ISOLATION_S + 3
    one.world.pass_(ISOLATION_S + 3.001)
    assert one.seal(one.s1) is None
    one.level()
    assert one.seal(one.s1) is not None


@history
def test_a_restart_does_not_begin_the_promise_anew(one):
    one.cut(one.s1)
    for _ in range(6):
        one.world.pass_(ISOLATION_S / 5)
        one.s1.kill()
        one.start(one.s1)
    assert one.seal(one.s1) is None


@history
def test_a_restart_knows_no_more_than_what_was_written(one):
    """The site hears of a ring while its store does not answer, so that after a restart it knows nothing of it."""
    one.s1.faults.away = True
    behind = one.s1.replica.applied
    told_s = one.world.loop.time()
    one.act(one.c1, one.c1.sites.distribute([TOKEN]))
    one.world.pass_(ISOLATION_S / 2)
    assert one.s1.follower.position > behind == one.s1.replica.applied
    one.s1.kill()
    one.cut(one.s1)
    one.s1.faults.away = False
    one.start(one.s1)
    assert one.s1.follower.position == behind
    assert one.seal(one.s1) is not None
    while one.seal(one.s1) is not None:
        one.world.pass_(0.2)
    assert one.world.loop.time() - told_s <= ISOLATION_S + 0.2
    one.mend(one.s1)
    one.level()
    assert one.seal(one.s1) is not None


@history
def test_a_removed_site_is_sealed_for_no_more_and_opens_nothing_new_with_its_old_keys(one):
    old = one.s2
    one.act(one.c1, one.c1.sites.remove("s2"))
    one.world.pass_(1.0)
    assert old.stream is None or old.stream.up.closed, "its stream ends"
    epoch, known = old.ring.epoch, key_ids(old.ring)
    assert one.turn(one.c1) is None
    assert "s2" not in one.ring.sealed
    one.world.pass_(3.0)
    assert old.ring.epoch == epoch
    one.world.do(one.world._joins("s2"))
    one.level()
    assert one.world.sites["s2"] is not old
    one.turns_soon(one.c2)
    assert set(one.ring.checks.values()) - known, "what it does not know is there"


@history
def test_a_ring_of_another_an_old_one_and_an_edited_one_are_refused_by_each(one):
    for _ in range(3):
        assert one.turn(one.c1) is None
        one.level()
        for name in ("another site's", "an old one", "unsigned", "renumbered", "another ring's"):
            for site in (one.s1, one.s2, one.s3):
                one.world._remember()
                forged = one.world._forged(site, name, one.ring)
                if forged is not None:
                    before = site.ring
                    one.world.do(one.world._brings(site, name, forged))
                    assert site.ring is before
    assert one.world.kinds["log ring_refused"] >= 12


@history
def test_a_stolen_key_seals_and_opens_nothing_and_no_bundle_brings_it_back(one):
    stolen = one.seal(one.s1)
    one.s3.held = True
    one.s1.disk.full = True  # so that it goes on with the ring that has the key
    late = one.ring
    one.act(one.c1, one.c1.compromise.condemn({stolen: TOKEN}, "an operator", "it was stolen"))
    one.act(one.c1, one.c1.compromise.turn_away())
    one.level(one.s2)
    assert stolen not in one.ring.checks.values()
    assert stolen in key_ids(one.s1.ring)
    assert not one.s1.follower.accepts_key(stolen)
    assert one.seal(one.s1) != stolen
    one.s1.disk.full = False
    one.level(one.s1, one.s2)
    for site in (one.s1, one.s2):
        assert not site.follower.accepts_key(stolen)
        one.world.do(one.world._brings(site, "an old one", late))
        assert not site.follower.accepts_key(stolen)
        assert one.seal(site) != stolen
    one.s2.kill()
    one.start(one.s2)
    assert not one.s2.follower.accepts_key(stolen)
    one.mend(one.s3)
    one.level()
    one.world.pass_(10.0)
    assert one.seal(one.s3) not in (None, stolen)
    one.turns_soon(one.c2)
    one.level()


def signs(one, site):
    """The id of the key that this site signs with, once it may."""
    assert one.world.until(lambda: site.sign() is not None, 30)
    return site.signatory.key_id


@history
def test_a_signing_key_is_used_when_all_have_it_and_goes_when_nothing_of_it_lives(one):
    first = signs(one, one.s1)
    one.world.judge.signed(one.s1, first)
    one.cut(one.s3)
    one.act(one.c1, one.c1.signing_keys.rotate("s1"))
    one.world.pass_(DEADLINE_S - 1)
    assert signs(one, one.s1) == first, "one that is active has not got the next"
    assert one.world.until(lambda: signs(one, one.s1) != first, 30)
    assert one.state(one.s3) == "quarantined"
    second = signs(one, one.s1)
    one.world.judge.signed(one.s1, second)
    assert not one.s3.follower.accepts_key(second)
    assert one.s3.follower.may_lack_key(one.s1.clock.now()), "so that it says 503"
    assert first in one.world.judge.signing.keys, "its tokens live"
    one.mend(one.s3)
    one.active(one.s3)
    assert one.s3.follower.accepts_key(second)
    one.world.pass_(LONGEST_S + 1)
    assert first not in one.world.judge.signing.keys


@sweep
def test_a_site_that_is_killed_at_any_step_of_taking_signing_keys_knows_what_it_has_acknowledged(one, after):
    """Keys of several come one upon the other, so that one is written while the next is known."""
    for name in ("s1", "s2", "s3"):
        one.act(one.c1, one.c1.signing_keys.rotate(name))
    one.steps(after)
    one.s3.kill()
    one.start(one.s3)
    one.world.pass_(3.0)
    one.world.judge.signed(one.s1, signs(one, one.s1))


@history
def test_a_stolen_signing_key_signs_nothing_and_its_site_gets_another(one):
    stolen, other = signs(one, one.s1), signs(one, one.s2)
    one.act(one.c1, one.c1.compromise.condemn({stolen: SIGNING}, "an operator", "it was stolen"))
    one.level()
    for site in (one.s1, one.s2, one.s3):
        assert not site.follower.accepts_key(stolen)
        assert site.follower.accepts_key(other)
    assert one.s1.sign() != stolen
    assert one.world.until(lambda: one.s1.sign() not in (None, stolen), 30)
    one.world.judge.signed(one.s1, one.s1.sign())


@history
def test_the_log_never_shows_a_key(one):
    for _ in range(2):
        assert one.turn(one.c1) is None
        one.level()
    keys = {key for site in (one.s1, one.s2, one.s3) for key in site.ring.numbers.values()}
    rows = [change.row for entry in one.world.rows.entries for change in entry.changes if isinstance(change, Put)]
    assert keys
    assert rows
    assert not any(key in row for key in keys for row in rows)
    assert one.ring.id == TOKEN
