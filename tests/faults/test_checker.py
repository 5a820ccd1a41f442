"""The checker itself: a history in which all is well has no violations, and each rule sees what it is there for."""

import msgspec
import pytest

from tests.faults.checker import ENOUGH, check
from tests.faults.history import OK, REFUSED, UNKNOWN, Audit, Calm, Did, Fault, History, Logged, Saw, Setup, read

SETUP = Setup(controllers=["c1", "c2"], sites=["s1", "s2"], seed=0, system_s=6.0)
CALM = Calm(number=9000, healed=99.0, began=100.0, ended=200.0, position=90)


class Story:
    """Events at moments 1, 2, 3 ...: each lasts from its moment to half a second later unless told otherwise."""

    def __init__(self, *events):
        self.events = [SETUP, *events]
        self.number = 0

    def did(self, kind, place="c1", at=None, outcome=OK, status=None, **fields):
        self.number += 1
        began = float(self.number if at is None else at)
        usual = {OK: 200, REFUSED: 404, UNKNOWN: 503}[outcome] if status is None else status
        retry = "1" if usual == 503 else ""
        fields = {"began": began, "ended": began + 0.5, "client": "x", "retry_after": retry} | fields
        one = Did(number=self.number, place=place, kind=kind, outcome=outcome, status=usual, **fields)
        self.events.append(one)
        return one

    def create(self, key="u", stamp=1, position=1, name="ada", **fields):
        sent = {"name": name, "stamp": stamp, "mail": f"m{stamp}", "secret": stamp, "enabled": True}
        return self.did("create", table="users", key=key, sent=sent, position=position, status=201, **fields)

    def change(self, stamp, position, key="u", **fields):
        sent = {"stamp": stamp, "mail": f"m{stamp}"} | fields.pop("sent", {})
        return self.did("change", table="users", key=key, sent=sent, position=position, **fields)

    def delete(self, position, key="u", **fields):
        return self.did("delete", table="users", key=key, position=position, status=204, **fields)

    def show(self, stamp, place="c1", key="u", **fields):
        got = {"name": "ada", "enabled": True, "mail": f"m{stamp}", "stamp": stamp} | fields.pop("got", {})
        return self.did("show", place, table="users", key=key, got=got, **fields)

    def missing(self, place="c1", key="u", **fields):
        return self.did("show", place, outcome=REFUSED, table="users", key=key, **fields)

    def login(self, key="t", place="s1", user="u", secret=1, **fields):
        sent = {"user": user, "secret": secret} | fields.pop("sent", {})
        status = fields.pop("status", 201)
        return self.did("login", place, key=key, sent=sent, status=status, **fields)

    def validate(self, status, place="s1", key="t", **fields):
        outcome = OK if status == 200 else UNKNOWN if status == 503 else REFUSED
        return self.did("validate", place, key=key, status=status, outcome=outcome, **fields)

    def revoke(self, place="s1", key="t", **fields):
        return self.did("revoke", place, key=key, sent={"audit": "a"}, status=204, **fields)

    def link(self, kind, position=0, place="c1", key="u/p", **fields):
        return self.did(kind, place, table="grants", key=key, position=position, status=204, **fields)

    def add(self, *events):
        self.events += events

    def rules(self):
        violations, late = check(self.events)
        return {one.rule for one in (*violations, *late)} - {ENOUGH}


def saw(place, at, position, **fields):
    return Saw(place=place, began=at, ended=at + 0.1, position=position, **fields)


def fault(began, ended, places, killed=(), number=8000):
    return Fault(number=number, what="kill", began=began, ended=ended, places=list(places), killed=list(killed))


def test_a_history_in_which_all_is_well():
    story = Story()
    story.create()
    story.show(1)
    story.change(2, 2, sent={"name": "eve", "secret": 2})
    story.show(2, got={"name": "eve"})
    story.show(1, place="s1")  # a replica may be behind
    story.show(2, place="s1", floor=2, got={"name": "eve"})
    story.login(secret=2)
    story.validate(200)
    story.revoke()
    story.validate(404)
    story.link("link", 5)
    story.did("linked", table="grants", key="u/p", status=204)
    story.delete(6)
    story.did("linked", outcome=REFUSED, table="grants", key="u/p")
    story.missing()
    story.create("v", 7, 8, name="eve")
    story.add(CALM, saw("s1", 50, 8), saw("s1", 51, 9))
    assert check(story.events) == ([], [])


def test_what_was_acknowledged_is_there():
    story = Story()
    story.create()
    story.missing()
    assert story.rules() == {"acknowledged is there"}


def test_what_was_acknowledged_is_there_for_whoever_brings_its_position():
    story = Story()
    story.create()
    story.missing("s1")
    assert story.rules() == set()
    story.missing("s1", floor=1)
    assert story.rules() == {"acknowledged is there"}


def test_an_older_value_is_not_shown_to_who_must_know_a_newer_one():
    story = Story()
    story.create()
    story.change(2, 2)
    story.show(1)
    assert "acknowledged is there" in story.rules()


def test_an_unknown_write_may_come_late_but_not_after_it_was_overwritten_in_sight():
    story = Story()
    story.create()
    story.change(2, 0, outcome=UNKNOWN)
    story.change(3, 3)
    story.show(2)
    assert story.rules() == set()
    seen = Story()
    seen.create()
    seen.change(2, 0, outcome=UNKNOWN)
    seen.show(2)
    seen.change(3, 3)
    seen.show(2, at=9)
    assert "acknowledged is there" in seen.rules()


def test_what_is_acknowledged_survives_a_calm_at_every_place():
    story = Story(CALM)
    story.create()
    story.missing("s2", at=300)
    assert story.rules() == {"acknowledged is there"}


def test_a_site_that_was_killed_may_have_forgotten_what_it_only_said():
    story = Story(fault(2.0, 4.0, ["s1"], ["s1"]))
    story.create(place="s1", at=1)
    story.missing("s1", at=5)
    assert story.rules() == set()


def test_deleted_stays_deleted():
    story = Story()
    story.create()
    story.delete(2)
    story.show(1)
    assert "deleted stays deleted" in story.rules()


def test_nobody_comes_back_after_an_unknown_delete_was_seen():
    story = Story()
    story.create()
    story.delete(0, outcome=UNKNOWN)
    story.missing()
    story.show(1)
    assert story.rules() == {"nothing flickers"}


def test_what_was_refused_is_not_done():
    story = Story()
    story.create()
    story.change(2, 0, outcome=REFUSED, status=409)
    story.show(2)
    assert "refused is not done" in story.rules()


@pytest.mark.parametrize(
    "got", [{"mail": "m1"}, {"name": "eve"}, {"enabled": False}, {"stamp": 99}], ids=["mail", "name", "enabled", "who"]
)
def test_what_was_not_acknowledged_is_whole_or_not_at_all(got):
    story = Story()
    story.create("", 5, 0, outcome=UNKNOWN)
    story.show(5, got=got)
    assert "whole or not at all" in story.rules()


def test_one_create_makes_one_record():
    story = Story()
    story.create("", 5, 0, outcome=UNKNOWN)
    story.show(5, key="one")
    story.show(5, key="two")
    assert "exactly once" in story.rules()


def test_one_name_is_given_once():
    story = Story()
    story.create("u", 1, 1)
    story.create("v", 2, 2)
    assert story.rules() == {"one name, one record"}


def test_a_name_may_have_been_released_by_what_nobody_knows():
    story = Story()
    story.create("u", 1, 1)
    story.delete(0, outcome=UNKNOWN)
    story.create("v", 2, 3)
    assert story.rules() == set()


def test_a_name_is_taken_by_renaming_too():
    story = Story()
    story.create("u", 1, 1)
    story.create("v", 2, 2, name="eve")
    story.change(3, 3, key="v", sent={"name": "ada"})
    assert story.rules() == {"one name, one record"}


def test_two_records_are_not_shown_under_one_name():
    story = Story()
    story.did("named", table="users", sent={"name": "ada"}, got=["u", "v"])
    assert story.rules() == {"one name, one record"}


@pytest.mark.parametrize(("kind", "seen"), [("link", False), ("unlink", True)])
def test_links_are_as_acknowledged(kind, seen):
    story = Story()
    story.link("link", 1)
    story.link(kind, 2)
    story.did("linked", table="grants", key="u/p", outcome=OK if seen else REFUSED, status=204 if seen else 404)
    assert story.rules() == {"acknowledged links"}


def test_links_go_with_what_they_link():
    story = Story()
    story.create()
    story.link("link", 2)
    story.delete(3)
    story.did("linked", table="grants", key="u/p", status=204)
    assert story.rules() == {"acknowledged links"}


def test_a_revoked_token_is_refused_where_it_was_revoked():
    story = Story()
    story.login(user="fixed")
    story.revoke()
    story.validate(200, "s2")
    assert story.rules() == set()
    story.validate(200, "s1")
    assert story.rules() == {"revoked stays revoked"}


def test_a_revoked_token_is_refused_where_its_position_is_known():
    story = Story()
    story.login(user="fixed")
    story.revoke("c1", position=7)
    story.validate(200, "s2", floor=6)
    assert story.rules() == set()
    story.validate(200, "s2", floor=7)
    assert story.rules() == {"revoked stays revoked"}


def test_a_revoked_token_is_refused_everywhere_after_the_heal():
    story = Story(CALM)
    story.login(user="fixed")
    story.revoke()
    story.validate(200, "s2", at=300)
    assert story.rules() == {"revoked stays revoked"}


def test_a_revocation_is_everywhere_within_a_second_when_nothing_is_broken():
    story = Story(CALM)
    story.login(user="fixed", at=110)
    story.revoke(at=120)
    story.validate(200, "s2", at=121)
    assert story.rules() == set()
    story.validate(200, "s2", at=121.6)
    assert story.rules() == {"revoked everywhere"}


@pytest.mark.parametrize("sent", [{"secret": 2}, {"enabled": False}, None], ids=["password", "disabled", "deleted"])
def test_tokens_end_with_their_users(sent):
    story = Story()
    story.create()
    story.login()
    if sent is None:
        story.delete(2)
    else:
        story.change(2, 2, sent=sent)
    story.validate(200)
    assert story.rules() == set()
    story.validate(200, floor=2)
    assert story.rules() == {"voided with its user"}


def test_a_token_for_a_password_that_had_been_changed_elsewhere_ends_when_that_is_heard():
    story = Story(CALM)
    story.create()
    story.change(2, 2, sent={"secret": 2})
    story.login(place="s1", secret=1)
    story.validate(200)
    assert story.rules() == set()
    story.validate(200, at=300)
    assert story.rules() == {"voided with its user"}


@pytest.mark.parametrize("status", [401, 404])
def test_a_good_token_is_not_refused(status):
    story = Story()
    story.login(user="fixed")
    story.validate(503)
    assert story.rules() == set()
    story.validate(status)
    assert story.rules() == {"no false refusal"}


def test_a_token_of_a_user_who_is_not_known_yet_may_be_refused():
    story = Story()
    story.create()
    story.login(place="c1")
    story.validate(404, "s1")
    assert story.rules() == set()
    story.validate(404, "s1", floor=1)
    assert story.rules() == {"no false refusal"}


def test_a_token_is_worth_what_is_granted():
    story = Story()
    story.link("link", 1)
    story.login(place="c1", sent={"edge": "u/p"})
    story.link("unlink", 3)
    story.validate(200, "c1")
    assert story.rules() == {"as granted"}


def test_only_the_present_password_opens():
    story = Story()
    story.create()
    story.change(2, 2, sent={"secret": 2})
    story.login(place="s1", secret=1)
    assert story.rules() == set()
    story.login(place="s1", secret=1, floor=2)
    assert story.rules() == {"only the present password"}


def test_a_deleted_user_is_not_let_in():
    story = Story()
    story.create()
    story.delete(2)
    story.login(place="c1")
    assert "deleted stays deleted" in story.rules()


def test_the_right_password_is_not_refused():
    story = Story()
    story.create()
    story.login(place="s1", outcome=REFUSED, status=401)
    assert story.rules() == set()
    story.login(place="c1", outcome=REFUSED, status=401)
    assert story.rules() == {"no false refusal"}


def test_stale_knowledge_is_refused_by_what_the_site_says_of_itself():
    story = Story(saw("s1", 30, 5, age_s=8.0))
    story.did("validate system", "s1", at=29)
    assert story.rules() == {"stale knowledge is refused"}


def test_stale_knowledge_is_refused_whatever_the_site_says_of_itself():
    story = Story(fault(10, 40, ["c1"], number=1), fault(12, 40, ["c2"], number=2), saw("s1", 30, 5, age_s=0.1))
    story.did("validate system", "s1", at=18)
    assert story.rules() == set()
    story.did("validate system", "s1", at=20)
    assert story.rules() == {"stale knowledge is refused"}


def test_a_system_token_is_not_refused_for_good():
    story = Story()
    story.did("validate system", "s1", outcome=REFUSED)
    assert story.rules() == {"no false refusal"}


def test_no_500():
    story = Story()
    story.did("show", outcome=UNKNOWN, status=500)
    assert story.rules() == {"no 500"}


def test_a_503_says_when_to_come_back():
    story = Story()
    story.did("show", outcome=UNKNOWN, retry_after="")
    assert story.rules() == {"503 says when"}


def test_no_two_changes_have_one_position():
    story = Story()
    story.change(1, 5, key="u", at=1)
    story.change(2, 5, key="v", at=1)
    assert story.rules() == {"one position, one change"}


def test_positions_are_in_the_order_of_time():
    story = Story()
    story.change(1, 5, key="u")
    story.change(2, 4, key="v")
    assert story.rules() == {"in the order of time"}


def test_a_position_never_goes_back():
    story = Story(saw("s1", 1, 5), saw("s1", 2, 4))
    assert story.rules() == {"positions never go back"}
    story.add(fault(1.5, 1.9, ["s1"], ["s1"]))
    assert story.rules() == set()


def test_a_controller_does_not_go_back_even_by_dying():
    story = Story(saw("c1", 1, 5), saw("c1", 2, 4), fault(1.5, 1.9, ["c1"], ["c1"]))
    assert story.rules() == {"positions never go back"}


def test_equal_positions_are_equal_replicas():
    story = Story(saw("s1", 1, 5, digest="a"), saw("s2", 9, 5, digest="b"))
    assert story.rules() == {"equal positions, equal replicas"}


def test_healed_is_equal_in_time():
    story = Story(Calm(number=1, healed=10.0, said="s1 is at 4"))
    assert story.rules() == {"equal after the heal"}


def test_nothing_is_unavailable_when_nothing_is_broken():
    story = Story(CALM)
    story.did("show", outcome=UNKNOWN, at=90)
    assert story.rules() == set()
    story.did("show", outcome=UNKNOWN, at=150)
    assert story.rules() == {"available when whole"}


@pytest.mark.parametrize(("done", "found"), [(1500, set()), (500, {ENOUGH})])
def test_more_than_a_few_that_were_late_are_a_violation(done, found):
    story = Story(CALM)
    for number in range(done):
        story.did("show", at=101 + number / 100, status=200)
    story.did("show", outcome=UNKNOWN, at=150)
    violations, late = check(story.events)
    assert ({one.rule for one in violations}, len(late)) == (found, 1)


@pytest.mark.parametrize(
    ("place", "kind", "broken", "excused"),
    [
        ("s1", "validate", ["c1", "c2"], False),
        ("s1", "validate", ["cassandra2"], False),
        ("s1", "validate", ["cassandra1"], True),
        ("s1", "create", ["c1"], True),
        ("s1", "create", ["memcached1"], False),
        ("c1", "create", ["c2", "cassandra2"], False),
        ("c1", "create", ["cassandra2", "cassandra3"], True),
        ("c1", "create", ["c1"], True),
    ],
)
def test_the_rest_goes_on(place, kind, broken, excused):
    regions = [["cassandra1", "c1", "s1"], ["cassandra2", "c2", "s2"], ["cassandra3"]]
    setup = Setup(controllers=["c1", "c2"], sites=["s1", "s2"], seed=0, system_s=6.0, regions=regions)
    story = Story(setup, fault(1, 10, broken))
    story.did(kind, place, at=5, outcome=UNKNOWN)
    assert story.rules() == (set() if excused else {"the rest goes on"})


def test_a_password_that_its_user_has_changed_voids_tokens():
    story = Story()
    story.create()
    story.login()
    story.did("password", table="passwords", key="u", sent={"stamp": 9, "secret": 9}, position=2, status=204)
    story.validate(200, floor=2)
    assert story.rules() == {"voided with its user"}


def logged(number, name="", **fields):
    return Logged(number=number, id=name or f"r{number}", **fields)


def test_the_log_has_no_holes():
    story = Story(logged(1), logged(3), Audit(place="c1", first=1, head=3))
    assert story.rules() == {"no holes"}


def test_the_log_has_each_transaction_once():
    story = Story(logged(1), logged(2, "r1"), Audit(place="c1", first=1, head=2))
    assert story.rules() == {"exactly once"}


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (logged(1, "another", rows=["users/u"]), "acknowledged is there"),
        (logged(1, "r9", rows=["users/v"]), "whole or not at all"),
    ],
)
def test_the_log_has_what_was_acknowledged(entry, rule):
    story = Story(entry, Audit(place="c1", first=1, head=1))
    story.create(request="r9")
    assert story.rules() == {rule}


def test_the_log_has_it_where_it_was_said_to_be():
    story = Story(logged(1, rows=["users/u"]), logged(2), Audit(place="c1", first=1, head=2))
    story.create(request="r1", position=2)
    assert story.rules() == {"one position, one change"}


def test_an_answer_that_was_kept_for_a_site_may_name_a_later_position():
    story = Story(logged(1, "s1/r1", rows=["users/u"]), logged(2, "r2", rows=["users/u"]))
    story.add(Audit(place="c1", first=1, head=2))
    story.create(place="s1", request="r1", position=2, ended=9.0)
    story.change(2, 2, request="r2")
    assert story.rules() == set()


@pytest.mark.parametrize(("times", "rule"), [(0, "acknowledged is there"), (2, "exactly once")])
def test_a_revocation_is_taken_over_once(times, rule):
    entries = [logged(1), *(logged(2 + number, audits=["a"]) for number in range(times))]
    story = Story(*entries, Audit(place="c1", first=1, head=1 + times))
    story.login(user="fixed")
    story.revoke()
    assert story.rules() == {rule}


def test_tables_are_what_the_log_says():
    assert Story(Audit(place="c1", first=1, head=0, wrong=["users u differs"])).rules() == {"whole or not at all"}


def test_a_history_is_read_back_as_it_was_written(tmp_path):
    story = Story(CALM, saw("s1", 1, 5, age_s=1.5), fault(1, 2, ["s1"], ["s1"]), logged(1, rows=["users/u"]))
    story.create()
    written = History(tmp_path / "history")
    for event in story.events:
        written.add(event)
    written.close()
    assert list(read(tmp_path / "history")) == story.events
    assert msgspec.json.encode(written.events[1])
