"""How long a place may seal that hears nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regional_keystone.lease import DRIFT, Lease

TICKS = st.floats(0, 1e9, allow_nan=False)


def test_who_never_knew_the_newest_ring_seals_nothing():
    assert Lease(1000.0).left_s(0.0) == 0


@pytest.mark.parametrize(("ticks", "left_s"), [(100.0, 999.0), (600.0, 499.0), (1099.0, 0.0), (5000.0, 0.0)])
def test_it_ends_with_the_promise_a_little_before_a_slow_clock_could_be_late(ticks, left_s):
    assert Lease(1000.0).renewed(100.0).left_s(ticks) == pytest.approx(left_s)


@given(st.lists(TICKS, min_size=1), TICKS)
def test_renewing_never_shortens(moments, now):
    lease = Lease(1000.0)
    for ticks in moments:
        later = lease.renewed(ticks)
        assert later.left_s(now) >= lease.left_s(now)
        lease = later
    assert lease.left_s(now) == max(0.0, max(moments) + 1000.0 * (1 - DRIFT) - now)


def test_the_promise_of_the_ring_in_use_counts_from_the_same_moment():
    assert Lease(1000.0).renewed(100.0).promising(10.0).left_s(105.0) == pytest.approx(4.99)
