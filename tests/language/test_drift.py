"""What a record should be, from what lies there and what the log says of it."""

import pytest

from regional_keystone.drift import Found, Lain, Said, Suspect, change_of, judge, too_many, top_of
from regional_keystone.log import Put, Remove
from regional_keystone.model import User
from regional_keystone.record import decode, encode, indexed_values

ONE = Suspect("users", ("u",))
BASE, NAME, OTHER = ("users", "u"), ("users__name", "a", "u"), ("users__name", "b", "u")


def row(name="a"):
    return encode(User(id="u", name=name, domain_id="d"))


def places(table, key, data):
    return {BASE, ("users__name", decode(User, data).name, "u")}


def sure(place, at, data=None):
    return Lain(place, at, data, sure=True, dated=True)


def by_hand(place, data, at=3, *, dated=False):
    return Lain(place, at, data, sure=False, dated=dated)


NOTHING = Lain(BASE, None, None, sure=False, dated=False)


def verdict(*lain, said=None, is_whole=False):
    return judge(ONE, lain, said, places, is_whole=is_whole)


def test_a_row_and_its_copies_as_the_log_made_them_are_right():
    assert verdict(sure(BASE, 3, row()), sure(NAME, 3, row()), sure(OTHER, 2)) is None
    assert verdict(sure(BASE, 4), sure(NAME, 4)) is None  # it was removed
    assert verdict(NOTHING) is None


@pytest.mark.parametrize(
    ("how", "lain"),
    [
        ("changed", [by_hand(BASE, row("b")), sure(NAME, 3, row())]),
        ("changed", [by_hand(BASE, b"\xc1rubbish"), sure(NAME, 3, row())]),
        ("changed", [sure(BASE, 3, row()), by_hand(NAME, row("b"))]),
        ("lost", [NOTHING, sure(NAME, 3, row())]),
        ("lost", [by_hand(BASE, None, dated=True), sure(NAME, 3, row())]),
        ("lost", [sure(BASE, 3, row())]),
        ("changed", [sure(BASE, 2, row("b")), sure(NAME, 3, row())]),  # a data centre is behind
        ("added", [sure(BASE, 3, row()), sure(NAME, 3, row()), by_hand(OTHER, row("b"))]),
    ],
)
def test_what_is_surely_of_the_newest_entry_tells_what_a_record_should_be(how, lain):
    found = verdict(*lain)
    assert (found.how, found.row, found.known) == (how, row(), True)
    assert found.wrong
    assert not any(one in found.wrong for one in lain if one.sure and one.row == row())


def test_the_log_is_believed_before_all_that_lies_there():
    found = verdict(by_hand(BASE, row("b")), said=Said(3, row()))
    assert (found.how, found.row, found.known) == ("changed", row(), True)
    found = verdict(sure(BASE, 3, row()), sure(NAME, 3, row()), said=Said(5, row("b")))
    assert found.row == row("b")
    assert {one.place for one in found.wrong} == {BASE, NAME, OTHER}
    assert verdict(sure(BASE, 3, row()), sure(NAME, 3, row()), said=Said(5, None)).how == "added"
    older = Said(2, row("b"))  # less than what lies there
    assert verdict(sure(BASE, 3, row()), sure(NAME, 3, row()), said=older) is None


def test_a_row_of_which_the_log_never_spoke_is_taken_away_only_if_the_log_never_forgot():
    whole = verdict(by_hand(BASE, row()), is_whole=True)
    assert (whole.how, whole.row, whole.known) == ("added", None, True)
    assert not verdict(by_hand(BASE, row())).known
    # an entry has written it, be it long ago: only what is in it is a hand's
    assert not verdict(by_hand(BASE, row(), dated=True), is_whole=True).known


def test_of_two_rows_that_both_claim_to_be_the_newest_none_is_believed():
    found = verdict(NOTHING, sure(NAME, 3, row()), sure(OTHER, 3, row("b")))
    assert not found.known
    # and a copy that was left behind does not say where the row went
    assert not verdict(NOTHING, sure(NAME, 3)).known


def test_the_newest_that_is_sure_counts():
    assert top_of([by_hand(BASE, row(), at=9), sure(NAME, 3, row()), sure(OTHER, 2)]) == 3
    assert top_of([NOTHING]) is None


def values(table, data):
    try:
        return indexed_values(decode(User, data))
    except ValueError:
        return None


def test_the_change_says_the_row_again_and_what_lay_there_instead():
    found = verdict(by_hand(BASE, row("b")), sure(NAME, 3, row()))
    change = change_of(found, values)
    assert isinstance(change, Put)
    assert (change.row, change.now["name"], change.was["name"]) == (row(), "a", "b")
    gone = change_of(Found("users", ("u",), "added", None, known=True, wrong=(by_hand(BASE, b"\xc1"),)), values)
    assert isinstance(gone, Remove)
    assert gone.was.keys() == change.now.keys()  # whoever keeps copies needs them all
    assert gone.was["id"] == "u"


@pytest.mark.parametrize(
    ("found", "rows", "most", "answer"),
    [(100, 10_000, 100, False), (101, 10_000, 100, True), (20, 21, 100, False), (21, 200, 100, True), (1, 9, 0, True)],
)
def test_many_at_once_are_no_accident(found, rows, most, answer):
    assert too_many(found, rows, most) is answer
