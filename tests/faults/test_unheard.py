"""The judge of what was revoked and not heard of: what is lost, or there twice, is told and counted."""

import pytest

from regional_keystone.log import Entry, put, remove
from regional_keystone.record import spread
from tests.cloud import event
from tests.faults import unheard
from tests.faults.aftermath import _logged
from tests.faults.history import OK, UNKNOWN, Audit
from tests.faults.known import Known
from tests.faults.run import summary
from tests.faults.test_checker import Story, logged

FEED = "s1/ab12/7/0"


def heard(*entries, revoked=True, outcome=OK):
    story = Story(*entries, Audit(place="c1", first=1, head=len(entries)))
    story.login(user="fixed")
    if revoked:
        story.revoke(outcome=outcome)
    return story, unheard.hear(Known(story.events))


def test_what_was_answered_for_and_is_there_once_is_heard():
    story, found = heard(logged(1, audits=["a"], revocations=[FEED]))
    assert story.rules() == set()
    assert (
        found.told()
        == "revocations: 1 acknowledged, 0 lost, 0 twice in the log; 0 answers that have a limit, 0 beyond it"
    )
    assert summary(story.events, [], []).splitlines()[-1] == found.told()


def test_what_was_answered_for_and_is_not_there_is_lost():
    story, found = heard(logged(1))
    assert story.rules() == {"acknowledged is there"}
    assert (found.acknowledged, len(found.lost)) == (1, 1)


def test_what_nobody_could_say_was_done_may_be_there_or_not():
    for entries in ([logged(1)], [logged(1, audits=["a"])]):
        story, found = heard(*entries, outcome=UNKNOWN)
        assert story.rules() <= {"503 says when"}
        assert (found.acknowledged, found.lost, found.twice) == (0, [], [])


@pytest.mark.parametrize("names", [[FEED], ["s1/ab12/7/0", "s1/ab12/7/1"]])
def test_an_entry_of_a_sites_feed_that_two_entries_take_over_is_there_twice(names):
    story, found = heard(logged(1, audits=["a"], revocations=names), logged(2, revocations=names))
    assert story.rules() == {"exactly once"}
    assert len(found.twice) == len(names)


@pytest.mark.parametrize("name", ["s1/watermark/u/None", "late/s1/ab12/7/0", "", "0f3c"])
def test_what_may_be_written_again_is_not(name):
    story, found = heard(logged(1, audits=["a"], revocations=[name]), logged(2, revocations=[name]))
    assert story.rules() == set()
    assert found.twice == []


def test_without_the_log_nothing_is_said_of_it():
    story = Story()
    story.login(user="fixed")
    story.revoke()
    found = unheard.hear(Known(story.events))
    assert (story.rules(), found.lost) == (set(), [])
    assert "the log was not read" in found.told()


def test_answers_beyond_their_limit_are_counted():
    story = Story()
    story.did("validate system", "s1", at=1)
    assert unheard.hear(Known(story.events)).judged == 1


def test_what_is_read_of_an_entry_is_what_it_puts():
    mine, gone = event(spread(FEED), 1, audit_id="a"), event(spread("s1/ab12/1/0"), 1, audit_id="b")
    found = _logged(Entry(1, "x", 1, (put(mine), remove(gone))))
    assert (found.audits, found.revocations) == (["a"], [FEED])
