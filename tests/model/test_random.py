"""Random histories of the whole key protocol, judged at every step; `make model` has ten times as many steps and more."""

from collections import Counter

import pytest

from tests.model.judge import Violation
from tests.model.run import run, smallest, told, world
from tests.model.world import KINDS

STEPS = 25_000
SEEDS = (3, 4, 5, 6)  # 10^5 steps in all
BRANCHES = (  # what the rules of the product have come to, by the counts of the judge and by what was logged
    "keys retired",
    "seal refused",
    "key condemned",
    "primary that was not waited for",
    "seal while quarantined",
    "503 for want of a key",
    "token opened",
    "sign refused",
    "token signed",
    "signed token verified",
    "signing key usable",
    "signing key gone",
    "lock held by two",
    "lock lost",
    "lost",
    "reordered",
    "duplicated",
    "turn refused 409",
    "turn refused 503",
    "site active",
    "site quarantined",
    "site removed",
    "log ring_refused",
    "log ring_installed",
    "log key_directory_mended",
    "log turn_put_off",
    "log site_went_back",
    "log site_silent",
    "log snapshot_sent",
    "log snapshot_applied",
    "log stream_refused",
    "log clocks_apart",
    "log replica_behind",
)


def test_at_no_step_a_promise_about_keys_is_broken_and_all_comes_right_by_itself():
    kinds = Counter()
    for seed in SEEDS:
        done = run(seed, STEPS)
        assert done.failure is None, told(seed, STEPS, done)
        assert done.turns > 8
        kinds += done.kinds
    unseen = [kind for kind in (*KINDS, *BRANCHES) if not kinds[kind]]
    assert not unseen, "each kind of deed and of outcome occurs, or the run shows less than it seems to"


def test_a_seed_makes_the_same_run_again():
    one, same, another = run(9, 3000), run(9, 3000), run(10, 3000)
    assert (one.steps, one.simulated_s, one.turns, one.kinds) == (same.steps, same.simulated_s, same.turns, same.kinds)
    assert one.kinds != another.kinds


def test_a_failing_run_is_made_small(monkeypatch):
    """As if nobody might ever be killed."""
    from tests.model.world import World

    def killed(self, machine, longest_s=4.0):
        raise Violation(f"INV-0: {machine.name} is killed")

    monkeypatch.setattr(World, "_kill", killed)
    found = smallest(11, 8000)
    assert found.failure.startswith("INV-0")
    assert found.deeds == 1
    assert "again: make model AREA=keys SEED=11 STEPS=8000" in told(11, 8000, found)


def test_what_breaks_a_rule_is_seen():
    """The judge itself: a site that holds another ring than the log's, a token that one cannot open, a key gone early."""
    with world(1) as made:
        made.until(lambda: made.judge.turns > 3, 30)
        site = made.sites["s1"]
        made.judge.sealed(site, *site.seal())
        (key,) = made.judge.accepted_until
        with pytest.raises(Violation, match="INV-9"):
            made.judge._retired(key, made.loop.time())
        site.holder._ring = site.ring.rotated(b"A" * 43 + b"=")
        with pytest.raises(Violation, match="INV-7"):
            made.step()
        site.holder._ring = type(site.ring)({0: b"Q" * 42 + b"A=", 1: b"A" * 43 + b"="}, site.ring.epoch)
        with pytest.raises(Violation, match="INV-6"):
            made.judge.look(site)
