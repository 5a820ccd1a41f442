"""What makes a run of chaos a failure, told by runs that were made up."""

import pytest

from tests.chaos.run import Chaos
from tests.faults.caller import Answer, Place

HERE = Place("A", "127.0.0.1", 1, 2, is_controller=False)


class Told:
    """A federation of which only what it says afterwards is there."""

    def __init__(self, kills):
        self.members, self.sites, self.ended, self.kills = {}, [], [], {"site": kills}


def verdict(statuses=(), kills=3, **answers):
    chaos = Chaos(Told(kills), 1, print)
    for what, good in (("issued", 201), ("validated", 200)):
        for status in answers.get(what, (good,)):
            chaos.load._note(what, HERE, HERE, Answer(status, {}, None, ""), good, 0.0)
    for status in statuses:
        chaos.load._note("validated", HERE, HERE, Answer(status, {}, None, ""), 200, 0.0)
    return chaos._verdict(None, 1.0, 3)


def test_a_run_that_did_what_it_should_is_good():
    assert verdict((503, 0))[0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
def test_any_other_answer_is_a_failure(status):
    good, text = verdict((status,))
    assert (good, f"{status} at A" in text) == (False, True)


def test_a_run_in_which_nothing_happened_is_a_failure():
    for run, why in (
        (verdict(issued=()), "no token was issued"),
        (verdict(validated=()), "no token was validated"),
        (verdict(kills=2), "2 kills for 3 turns"),
    ):
        assert (run[0], why in run[1]) == (False, True)


def test_a_client_that_dies_is_a_failure():
    chaos = Chaos(Told(3), 1, print)
    with pytest.raises(AttributeError):
        chaos.load._works(HERE, [HERE], None)  # this federation has no password
    good, text = chaos._verdict(None, 1.0, 0)
    assert (good, "the client at A died" in text) == (False, True)
