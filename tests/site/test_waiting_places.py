"""Whoever asks for what never comes, from however few addresses, leaves places to everybody else."""

from contextlib import ExitStack

import pytest

from regional_keystone.errors import Unavailable
from regional_keystone.waiting_places import MOST, WaitingPlaces


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


@pytest.fixture
def places():
    return WaitingPlaces()


def taken(stack, places, peer, wanted=MOST):
    """How many places somebody gets who wants so many."""
    for got in range(wanted):
        try:
            stack.enter_context(places.one(peer))
        except Unavailable:
            return got
    return wanted


def test_one_caller_gets_a_quarter_and_again_what_it_gives_back(stack, places):
    with ExitStack() as first:
        assert taken(first, places, "192.0.2.1") == MOST // 4
        assert len(places) == MOST // 4
    assert len(places) == 0
    assert taken(stack, places, "192.0.2.1") == MOST // 4
    assert places.refused == {"all": 0, "caller": 2}


@pytest.mark.parametrize(("greedy", "at_once"), [(4, MOST), (20, 1), (80, 1)])
def test_however_few_take_all_they_can_others_find_a_place(stack, places, greedy, at_once):
    for _ in range(MOST // at_once):
        for number in range(greedy):
            taken(stack, places, f"192.0.2.{number}", at_once)
    free = MOST - len(places)
    assert free > 0
    assert all(taken(stack, places, f"198.51.100.{number}", 1) for number in range(free))
    with pytest.raises(Unavailable) as refused, places.one("198.51.100.255"):
        pass
    assert refused.value.retry_after_s == 1
    assert places.refused["all"] == 1


def test_an_address_of_a_network_of_ones_own_is_no_caller_more(stack, places):
    got = [taken(stack, places, f"2001:db8:0:1::{number:x}", 1) for number in range(200)]
    assert sum(got) == MOST // 4
    assert taken(stack, places, "2001:db8:0:2::1", 1) == 1
    assert taken(stack, places, "::ffff:192.0.2.1", 1) == taken(stack, places, "no address", 1) == 1


def test_an_ipv4_address_is_the_same_caller_however_it_is_written(stack, places):
    taken(stack, places, "192.0.2.1")
    assert taken(stack, places, "::ffff:192.0.2.1", 1) == 0
