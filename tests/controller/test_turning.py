"""What a turn is, as plain values: how many keys there have to be, how long each is kept, what state it is in."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.turning import (
    REMEMBERED,
    Terms,
    first,
    key_states,
    least_active_keys,
    plan,
    sealed_again,
    turned,
)
from regional_keystone.model import KeyTimes, Ring, Site
from regional_keystone.record import decode

HOUR = 3600 * 1_000_000
TERMS = Terms(HOUR, 48 * HOUR, 72 * HOUR, HOUR // 60)
KEEP = 121 * HOUR + HOUR // 60
SPAN = st.integers(0, 200 * HOUR)


def ring(at=0, terms=TERMS):
    return Ring(
        id="token",
        epoch=1,
        fingerprint="f1",
        checks={0: "k0", 1: "k1"},
        sealed={},
        turned_at=at,
        times=first(at, terms),
    )


def after(old, at, terms=TERMS):
    """The ring as a turn at that time leaves it."""
    turn = turned(old, terms, at)
    kept = {number: name for number, name in old.checks.items() if number not in turn.retires}
    primary = max(old.checks) + 1
    return msgspec.structs.replace(
        old,
        epoch=old.epoch + 1,
        fingerprint=f"f{old.epoch + 1}",
        checks=kept | {primary: old.checks[0], 0: f"k{old.epoch + 1}x"},
        turned_at=turn.at,
        times=turn.times,
        retired=turn.retired,
    )


def states(found, now, waits_for=()):
    return {key.id: key.state for key in key_states(found, TERMS, now, waits_for)}


@pytest.mark.parametrize(
    ("hours", "least"),
    [((1, 48, 72, 24), 8), ((1, 48, 72, 121), 3), ((1, 48, 71, 120), 3), ((1, 48, 72, 1), 123), ((24, 0, 0, 24), 3)],
)
def test_how_many_keys_there_are_at_least(hours, least):
    lifetime, allow_expired, isolation, interval = (one * HOUR for one in hours)
    assert least_active_keys(Terms(lifetime, allow_expired, isolation, 0, interval)) == least


def test_without_an_interval_three_keys_are_enough():
    assert least_active_keys(TERMS) == 3


@given(st.lists(st.integers(1, 400 * HOUR), min_size=1, max_size=12))
def test_no_key_leaves_before_the_last_token_of_whoever_was_cut_off_is_over(gaps):
    """A site that knew of no turn seals until the promise ends; its tokens live, and are shown when they are over."""
    now, found, ceased = 0, ring(), {}
    for gap in gaps:
        now += gap
        ceased[found.checks[max(found.checks)]] = now
        found = after(found, now)
        for name in ceased.keys() - found.checks.values():
            assert now > ceased[name] + TERMS.isolation_us + TERMS.lifetime_us + TERMS.allow_expired_us + TERMS.skew_us
        assert all(now <= ceased[name] + KEEP for name in ceased.keys() & found.checks.values())


@given(st.lists(st.tuples(SPAN, SPAN, SPAN), min_size=1, max_size=6))
def test_what_was_promised_holds_when_the_settings_promise_less(spans):
    """Whoever seals with a key may have it from any bundle that was made while the key was the primary."""
    found = ring(terms=Terms(*spans[0], 0))
    for span in spans:
        found = msgspec.structs.replace(found, times=sealed_again(found, Terms(*span, 0)))
    ceased = turned(found, Terms(*spans[-1], 0), HOUR).times[1]
    lifetime, isolation = max(one[0] for one in spans), max(one[2] for one in spans)
    assert ceased.seal_until == HOUR + isolation
    assert ceased.keep_until == HOUR + isolation + lifetime + max(shown for _, shown, _ in spans)


def test_a_key_that_has_ceased_is_kept_as_was_said_whatever_is_set_later():
    found = after(ring(), HOUR)
    short = Terms(1, 0, 1, 0)
    again = msgspec.structs.replace(found, times=sealed_again(found, short))
    assert again.times[1].keep_until == HOUR + KEEP
    assert plan(again, [], {}, short, HOUR + KEEP).retires == ()
    assert plan(again, [], {}, short, HOUR + KEEP + 1).retires == (1,)


def test_the_states_that_a_key_goes_through():
    found = ring()
    assert states(found, 0, {"Oslo"}) == {"k0": "staged", "k1": "primary"}
    assert states(found, 0) == {"k0": "acknowledged", "k1": "primary"}
    found = after(found, HOUR)
    assert states(found, 73 * HOUR) == {"k2x": "acknowledged", "k0": "primary", "k1": "secondary"}
    assert states(found, 73 * HOUR + 1)["k1"] == "draining"
    found = after(found, HOUR + KEEP + 1)
    assert states(found, HOUR + KEEP + 1)["k1"] == "retired"
    gone = key_states(found, TERMS, HOUR + KEEP + 1, ())[-1]
    assert (gone.number, gone.times.retired_at, gone.times.ceased_at) == (None, HOUR + KEEP + 1, HOUR)


def test_a_record_of_the_former_version_counts_from_its_last_turn():
    """Its `ceased` was of an earlier moment, and what was promised is not in it."""
    row = msgspec.msgpack.encode(
        {
            "id": "token",
            "epoch": 5,
            "fingerprint": "f",
            "checks": {0: "a", 3: "b", 4: "c", 5: "d"},
            "sealed": {},
            "turned_at": 7 * HOUR,
            "ceased": {3: 1, 4: 2},
        }
    )
    found = decode(Ring, row)
    assert plan(found, [], {}, TERMS, 7 * HOUR + KEEP).retires == ()
    assert plan(found, [], {}, TERMS, 7 * HOUR + KEEP + 1).retires == (3, 4)
    turn = turned(found, TERMS, 7 * HOUR + KEEP)
    assert turn.times[5].ceased_at == 7 * HOUR + KEEP
    assert states(found, 8 * HOUR) == {"a": "acknowledged", "d": "primary", "c": "secondary", "b": "secondary"}


def test_turns_are_dated_one_after_the_other():
    found = ring(at=10 * HOUR)
    dates = [found.turned_at]
    for at in (9 * HOUR, 10 * HOUR, 11 * HOUR):
        found = after(found, at)
        dates.append(found.turned_at)
    assert all(earlier < later for earlier, later in pairwise(dates))


def test_retired_keys_are_remembered_but_not_for_ever():
    found = ring()
    for number in range(1, 40):
        found = after(found, number * 2 * KEEP)
    assert len(found.retired) == REMEMBERED
    assert len(found.checks) == 3
    assert min(one.retired_at for one in found.retired.values()) > 20 * KEEP


def test_who_is_waited_for():
    sites = [
        Site(id=one, state=state)
        for one, state in (("A", "active"), ("B", "active"), ("C", "quarantined"), ("D", "removed"))
    ]
    found = plan(ring(), sites, {"A": (1, "f1"), "C": (1, "f1")}, TERMS, 0)
    assert (found.waits_for, found.active, found.quarantined) == (("B",), ("A", "B"), ("C",))
    assert plan(ring(), sites, {"A": (1, "f1"), "B": (1, "f0")}, TERMS, 0).waits_for == ("B",)


def test_times_are_kept_as_they_are_written():
    found = after(after(ring(), HOUR), 2 * HOUR)
    assert decode(Ring, msgspec.msgpack.encode(found)) == found
    assert isinstance(found.times[1], KeyTimes)
