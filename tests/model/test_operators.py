"""Operators' deeds among the faults, at random and by name: what once broke, or would, when a hand was in it."""

from collections import Counter
from functools import partial

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controller.key_export import Under
from controller.unaware import KNOWN_S
from regional_keystone.errors import Conflict
from regional_keystone.holder import TOKEN
from regional_keystone.model import SignerChain
from regional_keystone.model import Site as SiteRecord
from regional_keystone.panic import Wanted
from regional_keystone.signer_chain import SIGNERS, followed, root
from tests.model import named
from tests.model.nodes import primary_id
from tests.model.operators import DEEDS, OperatorsWorld
from tests.model.run import run, told

STEPS = 11_000
SEEDS = (1, 6, 9, 12)
BRANCHES = (
    "key imported",
    "taken back by an operator",
    "signer stated",
    "signer retired",
    "signer's turn refused 409",
    "primary that was not waited for",
    "keys retired",
    "log own_feed_taken",
    "log site_marked",
    "seal while quarantined",
    "signed token verified",
    "token opened",
)
PRIVATE = X25519PrivateKey.generate()
history = partial(named.history, kind=OperatorsWorld)


def test_whatever_operators_do_no_promise_about_keys_is_broken_and_all_comes_right():
    kinds = Counter()
    for seed in SEEDS:
        done = run(seed, STEPS, area="operators")
        assert done.failure is None, told(seed, STEPS, done, "operators")
        kinds += done.kinds
    unseen = [kind for kind in (*DEEDS, *BRANCHES) if not kinds[kind]]
    assert not unseen, "each kind of deed and of outcome occurs, or the run shows less than it seems to"


def record(one, site):
    return one.world.rows.at_head(SiteRecord)[(site.name,)]


def aside(one, controller, site):
    one.act(controller, controller.regions.quarantine(site.name, "its disk is replaced"))


def brought_in(one, controller, file):
    opens = Under(key=PRIVATE.private_bytes_raw())
    return one.act(controller, controller.files.take_in(file, opens, (TOKEN,), merge=True))[TOKEN]


def exported(one, controller):
    return one.act(controller, controller.files.export((TOKEN,), Under(key=PRIVATE.public_key().public_bytes_raw())))


@history
def test_a_key_that_was_brought_in_seals_nowhere_whatever_becomes_of_the_primary(one):
    """It comes as a former one; and of former ones a site whose primary is condemned takes the latest that still may."""
    file = exported(one, one.c1)
    one.world.pass_(1.0)
    for _ in range(3):
        assert one.turn(one.c1) is None
        one.level()
    one.world.pass_(named.LONGEST_S + 1)
    for _ in range(2):
        assert one.turn(one.c1) is None
        one.level()
    assert brought_in(one, one.c1, file) >= 1
    came = one.world.judge.imported
    assert came
    one.level()
    stolen = primary_id(one.s1.ring)
    one.s1.clock.shift_s = -5.0
    one.world.loop.spawn(one.s1.process, one.s1.panic.condemn(Wanted(key=stolen), "an operator"))
    assert one.world.until(lambda: stolen in one.s1.follower.condemned, 5)
    for _ in range(20):
        assert one.seal(one.s1) not in {stolen, *came}
        one.world.pass_(0.1)


@history
def test_a_condemned_key_that_is_brought_in_stays_away(one):
    file, stolen = exported(one, one.c1), one.seal(one.s1)
    one.act(one.c1, one.c1.compromise.condemn({stolen: TOKEN}, "an operator", "it was stolen"))
    one.act(one.c1, one.c1.compromise.turn_away())
    one.level()
    brought_in(one, one.c2, file)
    one.level()
    assert stolen not in one.ring.checks.values()


@history
def test_an_operators_word_stands_against_one_who_is_about_to_take_the_site_back(one):
    """Who looked before the word was spoken takes back after it; and a site that comes back says nothing against it."""
    aside(one, one.c2, one.s3)
    one.world.pass_(1.0)
    one.act(one.c1, one.c1.rotator.take_back("s3"))
    one.s3.kill()
    one.start(one.s3)
    one.level()
    assert (record(one, one.s3).state, record(one, one.s3).by_operator) == ("quarantined", True)
    one.act(one.c1, one.world.takes_back(one.c1, "s3"))
    one.active(one.s3)


@history
def test_a_site_that_was_set_aside_and_joins_anew_is_not_waited_for_until_it_is_taken_back(one):
    aside(one, one.c1, one.s2)
    one.world.do(one.world._joins("s2"))
    one.level()
    one.world.pass_(3.0)
    assert (record(one, one.s2).state, record(one, one.s2).by_operator) == ("quarantined", True)
    one.act(one.c2, one.world.takes_back(one.c2, "s2"))
    one.active(one.s2)


@history
def test_two_turns_at_once_wait_until_a_site_that_was_set_aside_while_it_was_cut_off_knows_that_it_was(one):
    """It has heard of nothing, and would say of a good token that it is none."""
    one.cut(one.s3)
    with one.quickly():
        aside(one, one.c1, one.s3)
        assert one.turn(one.c1) is None
        began = one.world.loop.time()
        assert one.s3.follower.age_s() < 2.0
        assert one.turn(one.c1) is None
    assert one.world.loop.time() - began >= KNOWN_S
    one.level(one.s1, one.s2)
    assert one.seal(one.s1) not in one.s3.ring.ids
    assert one.world.judge.count["503 for want of a key"]
    one.mend(one.s3)
    one.level()
    with one.quickly():
        one.world.pass_(1.0)
        began = one.world.loop.time()
        assert one.turn(one.c1) is None
        one.level()
        began = one.world.loop.time()
        assert one.turn(one.c1) is None
    assert one.world.loop.time() - began < KNOWN_S, "it holds what is staged, so nobody waits"


@history
def test_the_key_that_follows_a_stolen_one_waits_for_who_may_have_overlooked_it(one):
    one.cut(one.s3)
    with one.quickly():
        aside(one, one.c1, one.s3)
        assert one.turn(one.c1) is None
        one.world.until(lambda: one.s2.ring.epoch == one.s1.ring.epoch == one.ring.epoch, 5)
        one.world.pass_(0.2)
        stolen = primary_id(one.s1.ring)
        one.act(one.c1, one.c1.compromise.condemn({stolen: TOKEN}, "an operator", "it was stolen"))
        one.act(one.c1, one.c1.compromise.turn_away())
        one.world.until(lambda: one.s1.ring.epoch == one.ring.epoch, 5)
    assert one.s3.follower.age_s() < 2.0
    assert one.ring.settles_at > 0
    assert one.seal(one.s1) != primary_id(one.s1.ring)
    one.world.pass_(10.0)
    assert one.seal(one.s1) == primary_id(one.s1.ring)


@history
def test_a_signing_key_is_not_used_while_a_site_that_nobody_waits_for_may_have_overlooked_it(one):
    assert one.world.until(lambda: one.s1.sign() is not None, 30)
    first = one.s1.sign()
    one.cut(one.s3)
    with one.quickly():
        aside(one, one.c1, one.s3)
        one.act(one.c1, one.c1.signing_keys.rotate("s1"))
        assert one.world.until(lambda: one.s1.sign() not in (None, first), 30)
    one.world.judge.signed(one.s1, one.s1.sign())
    assert one.world.judge.count["503 for want of a signing key"]


def trusted(one):
    mine = one.world.authority
    known = one.world.rows.at_head(SignerChain).get((SIGNERS,))
    begin = root(mine.cluster, mine.signer_key)
    return begin if known is None else followed(known.chain, begin)


@history
def test_two_turns_of_the_signer_at_two_controllers_make_one_and_the_rings_turn_on(one):
    """Both wait for a site to know the spare; whoever is second finds that it signs already, and takes no other."""
    one.s3.held = True
    first = one.world.loop.spawn(one.c1.process, one.c1.signer_turn.turn())
    assert one.world.until(lambda: trusted(one).spare is not None, 5)
    second = one.world.loop.spawn(one.c2.process, one.c2.signer_turn.turn())
    one.world.pass_(1.0)
    one.mend(one.s3)
    assert one.world.until(lambda: first.done() and second.done(), 60)
    errors = [task.exception() for task in (first, second)]
    assert sorted(type(error) for error in errors if error is not None) == [Conflict], errors
    assert (trusted(one).number, len(trusted(one).retired)) == (3, 1)
    one.turns_soon(one.c2)
    one.level()


@history
def test_a_primary_that_is_to_wait_waits_also_while_the_ring_that_follows_cannot_be_taken_up(one):
    """The site knows the newer ring of the log, and uses the one before it, whose primary others may lack."""
    stolen = [one.ring.checks[number] for number in (max(one.ring.checks), 0)]
    one.s2.held = True
    one.act(one.c1, one.c1.compromise.condemn(dict.fromkeys(stolen, TOKEN), "an operator", "they were stolen"))
    one.act(one.c1, one.c1.compromise.turn_away())
    one.level(one.s1)
    assert one.ring.settles_at > one.s1.clock.now()
    one.s1.disk.full = True
    one.act(one.c1, one.c1.sites.distribute([TOKEN]))
    assert one.world.until(lambda: one.s1.follower.leave.epoch == one.ring.epoch, 5)
    assert one.s1.ring.epoch < one.ring.epoch
    assert one.ring.settles_at > one.s1.clock.now()
    assert one.seal(one.s1) is None


@history
def test_a_primary_that_is_to_wait_waits_also_after_a_restart_that_knows_nothing_of_its_ring(one):
    """The ring was written, and the site killed before its replica had the entry that it came with."""
    stolen = [one.ring.checks[number] for number in (max(one.ring.checks), 0)]
    one.s1.faults.away = True
    one.act(one.c1, one.c1.compromise.condemn(dict.fromkeys(stolen, TOKEN), "an operator", "they were stolen"))
    one.act(one.c1, one.c1.compromise.turn_away())
    assert one.world.until(lambda: one.s1.ring.epoch == one.ring.epoch, 5)
    one.s1.kill()
    one.cut(one.s1)
    one.s1.faults.away = False
    one.start(one.s1)
    assert one.s1.follower.leave.epoch < one.s1.ring.epoch
    assert one.s1.follower.why_not_seal() is None
    assert one.ring.settles_at > one.s1.clock.now()
    assert one.seal(one.s1) is None
