"""Revocation: upstream's rule, and an index that never answers otherwise."""

import gc
import json
import pathlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.follow import revocation
from regional_keystone.log import put
from regional_keystone.model import RevocationEvent
from regional_keystone.record import decode
from regional_keystone.revocation import Revocation, RevocationIndex, Traits, voids

CASES = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "revocations.json").read_text())["cases"]
SECOND, FOREVER = 1_000_000, 2**60
SINGLE = ["user_id", "project_id", "trust_id", "consumer_id", "access_token_id", "audit_id", "audit_chain_id"]


def revoke(issued_before=100 * SECOND, revoked_at=100 * SECOND, **fields):
    return Revocation(issued_before=issued_before, revoked_at=revoked_at, **fields)


def traits(**fields):
    return Traits(**{"issued_at": 100 * SECOND, "expires_at": 900 * SECOND, "audit_id": "own"} | fields)


def upstream_traits(token):
    renamed = {"identity_domain_id": "user_domain_id", "roles": "role_ids"}
    fields = {renamed.get(name, name): value for name, value in token.items()}
    return Traits(**fields | {"role_ids": tuple(fields["role_ids"])})


def both_say(events, token):
    """The rule's answer, once the index gives the same."""
    index = RevocationIndex()
    for event in events:
        index.add(event, FOREVER)
    verdict = any(voids(event, token) for event in events)
    assert index.voided(token) == verdict
    return verdict


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_verdict_is_keystone_s_own(case):
    assert (
        both_say([Revocation(**event) for event in case["events"]], upstream_traits(case["token"])) == case["revoked"]
    )


def test_the_golden_cases_are_worth_something():
    assert 50 < sum(case["revoked"] for case in CASES) < len(CASES) - 50


@pytest.mark.parametrize("name", SINGLE)
def test_a_trait_that_is_set_has_to_be_equal(name):
    assert both_say([revoke(**{name: "x"})], traits(**{name: "x"}))
    assert not both_say([revoke(**{name: "x"})], traits(**{name: "y"}))
    if name != "audit_id":
        assert not both_say([revoke(**{name: "x"})], traits(**{name: None}))


@pytest.mark.parametrize("name", SINGLE)
def test_all_traits_that_are_set_have_to_be_equal(name):
    other = "project_id" if name == "user_id" else "user_id"
    event = revoke(**{name: "x", other: "z"})
    assert both_say([event], traits(**{name: "x", other: "z"}))
    assert not both_say([event], traits(**{name: "y", other: "z"}))
    assert not both_say([event], traits(**{name: "x", other: "y"}))


@pytest.mark.parametrize("who", ["user_id", "trustor_id", "trustee_id"])
def test_a_revoked_user_takes_the_trusts_along_on_both_sides(who):
    assert both_say([revoke(user_id="x")], traits(**{"user_id": "u", "trust_id": "t", who: "x"}))


def test_a_domain_is_the_user_s_or_the_scope_s_and_with_an_expiry_the_scope_s_only():
    assert both_say([revoke(domain_id="d")], traits(user_domain_id="d"))
    assert both_say([revoke(domain_id="d")], traits(assignment_domain_id="d"))
    assert not both_say([revoke(domain_id="d")], traits())
    assert both_say([revoke(domain_id="d", expires_at=900 * SECOND)], traits(assignment_domain_id="d"))
    assert not both_say([revoke(domain_id="d", expires_at=900 * SECOND)], traits(user_domain_id="d"))


def test_a_role_is_one_of_the_token_s():
    assert both_say([revoke(role_id="r")], traits(role_ids=("q", "r")))
    assert not both_say([revoke(role_id="r")], traits(role_ids=("q",)))
    assert not both_say([revoke(role_id="r")], traits())


def test_an_expiry_is_compared_in_whole_seconds():
    assert both_say(
        [revoke(user_id="u", expires_at=900 * SECOND + 5)], traits(user_id="u", expires_at=900 * SECOND + 7)
    )
    assert not both_say([revoke(user_id="u", expires_at=901 * SECOND)], traits(user_id="u"))


@pytest.mark.parametrize(
    ("issued_before", "void"), [(99_999_999, False), (100_000_000, True), (100_000_001, True), (101_000_000, True)]
)
def test_a_token_of_the_second_of_the_revocation_is_void(issued_before, void):
    assert both_say([revoke(issued_before, user_id="u")], traits(user_id="u")) is void
    assert both_say([revoke(issued_before, user_id="u")], traits(user_id="u", issued_at=100_999_999)) is void


@pytest.mark.parametrize(("issued_at", "void"), [(99_999_999, False), (100_000_000, True), (10**15, True)])
def test_one_that_reaches_forward_voids_its_second_and_all_after_it(issued_at, void):
    event = revoke(0, audit_chain_id="c", issued_from=100_700_000)
    assert both_say([event], traits(audit_chain_id="c", issued_at=issued_at)) is void
    assert not both_say([event], traits(audit_chain_id="d", issued_at=issued_at))


def test_of_those_that_reach_forward_the_first_is_kept():
    index = RevocationIndex()
    for turn in (7, 3, 5):
        index.add(revoke(0, audit_chain_id="c", issued_from=turn * SECOND), FOREVER)
    assert len(index) == 1
    assert index.voided(traits(audit_chain_id="c", issued_at=3 * SECOND))
    assert not index.voided(traits(audit_chain_id="c", issued_at=2_999_999))


def test_a_site_that_knows_of_none_that_reach_forward_reads_them_and_voids_nothing_by_them():
    known = [name for name in RevocationEvent.__struct_fields__ if name != "issued_from"]
    fields = [(one.name, one.type, one.default) for one in msgspec.structs.fields(RevocationEvent) if one.name in known]
    older = msgspec.defstruct(
        "Older", [(n, t) if d is msgspec.NODEFAULT else (n, t, d) for n, t, d in fields], frozen=True, kw_only=True
    )
    event = RevocationEvent(
        id="e", issued_before=0, revoked_at=SECOND, keep_until=FOREVER, audit_chain_id="c", issued_from=SECOND
    )
    read = msgspec.msgpack.decode(put(event).row, type=older)
    assert {name: getattr(read, name) for name in known} == {name: getattr(event, name) for name in known}
    there = Revocation(**{n: getattr(read, n) for n in known if n not in {"id", "keep_until"}})
    token = traits(audit_chain_id="c", issued_at=SECOND)
    assert not both_say([there], token)
    assert both_say([revocation(decode(RevocationEvent, put(event).row))], token)
    assert revocation(decode(RevocationEvent, msgspec.msgpack.encode(read))) == there, "what it hands on is as harmless"


def test_a_revocation_without_any_trait_voids_all_until_then():
    assert both_say([revoke()], traits())
    assert not both_say([revoke()], traits(issued_at=101 * SECOND))


few = {name: st.sampled_from([None, "a", "b"]) for name in [*SINGLE, "domain_id", "role_id"]}
seconds = st.integers(95 * SECOND, 105 * SECOND)
expiries = st.sampled_from([None, 900 * SECOND, 900 * SECOND + 3, 901 * SECOND])
sparse = st.dictionaries(st.sampled_from([*SINGLE, "domain_id", "role_id"]), st.sampled_from("ab"), max_size=3)
events = st.builds(
    lambda before, at, fields, expires_at, since: Revocation(
        issued_before=before, revoked_at=at, expires_at=expires_at, issued_from=since, **fields
    ),
    seconds, seconds, sparse, expiries, st.none() | seconds,
)  # fmt: skip
some_traits = st.builds(
    Traits,
    issued_at=seconds,
    expires_at=st.sampled_from([900 * SECOND, 901 * SECOND]),
    role_ids=st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple),
    trustor_id=few["user_id"],
    trustee_id=few["user_id"],
    user_domain_id=few["domain_id"],
    assignment_domain_id=few["domain_id"],
    **{name: few[name] for name in SINGLE if name != "audit_id"},
    audit_id=st.sampled_from("abc"),
)
KEEP = 600 * SECOND


@settings(max_examples=400)
@given(events=st.lists(events, max_size=12), tokens=st.lists(some_traits, min_size=1, max_size=6))
def test_the_index_gives_the_rule_s_answer(events, tokens):
    for token in tokens:
        both_say(events, token)


@given(events=st.lists(events, max_size=12), token=some_traits, passed=st.integers(0, 800))
def test_after_expiry_the_index_still_gives_the_rule_s_answer_over_what_is_live(events, token, passed):
    index, now = RevocationIndex(), 100 * SECOND + passed * SECOND
    for event in events:
        index.add(event, event.issued_before + KEEP)
    index.expire(now)
    live = [event for event in events if event.issued_before + KEEP >= now]
    minute_past = [event for event in events if event.issued_before + KEEP + 60 * SECOND >= now]
    verdict = index.voided(token)
    assert verdict >= any(voids(event, token) for event in live)
    assert verdict <= any(voids(event, token) for event in minute_past)


@given(
    events=st.lists(st.tuples(events, st.integers(0, 2000)), max_size=12), token=some_traits, now=st.integers(0, 2000)
)
def test_whatever_the_times_a_live_revocation_is_never_forgotten(events, token, now):
    index = RevocationIndex()
    for event, keep_until in events:
        index.add(event, keep_until * SECOND)
    index.expire(now * SECOND)
    live = [event for event, keep_until in events if keep_until >= now]
    assert index.voided(token) or not any(voids(event, token) for event in live)


@given(events=st.lists(events, max_size=12), data=st.data())
def test_adding_again_and_in_another_order_is_harmless(events, data):
    once, twice = RevocationIndex(), RevocationIndex()
    for event in events:
        once.add(event, FOREVER)
    for event in data.draw(st.permutations([*events, *events])):
        twice.add(event, FOREVER)
    assert len(once) == len(twice)
    token = data.draw(some_traits)
    assert once.voided(token) == twice.voided(token)


def test_one_user_revoked_a_thousand_times_is_one_entry():
    index = RevocationIndex()
    for turn in range(1000):
        index.add(revoke(turn * SECOND, user_id="u"), 10_000 * SECOND + turn * 61 * SECOND)
    assert len(index) == 1
    assert index.voided(traits(user_id="u", issued_at=999 * SECOND))
    assert not index.voided(traits(user_id="u", issued_at=1000 * SECOND))


def test_an_earlier_revocation_that_comes_late_takes_nothing_back():
    index = RevocationIndex()
    index.add(revoke(200 * SECOND, user_id="u"), FOREVER)
    index.add(revoke(100 * SECOND, user_id="u"), 5)
    index.expire(500 * SECOND)
    assert index.voided(traits(user_id="u", issued_at=200 * SECOND))


def test_the_latest_is_kept_as_long_as_the_longest():
    index = RevocationIndex()
    index.add(revoke(100 * SECOND, user_id="u"), 900 * SECOND)
    index.add(revoke(200 * SECOND, user_id="u"), 300 * SECOND)
    assert index.expire(800 * SECOND) == 0
    assert index.voided(traits(user_id="u", issued_at=200 * SECOND))
    assert index.expire(961 * SECOND) == 1


def test_what_is_added_again_while_others_are_forgotten_stays_and_few_go_at_a_time():
    index, names = RevocationIndex(), [f"a{number}" for number in range(5000)]
    for name in names:
        index.add(revoke(SECOND, audit_id=name), 200 * SECOND)
    going = index.expiring(800 * SECOND)
    gone = [next(going) for _ in range(100)]
    assert max(gone) <= 16
    for name in names:
        index.add(revoke(SECOND, audit_id=name), 900 * SECOND)
    assert sum(going) == 0
    assert len(index) == len(names)


def test_only_what_voids_more_is_a_reason_to_ask_again():
    index = RevocationIndex()
    index.add(revoke(100 * SECOND, user_id="u"), 200 * SECOND)
    version = index.version
    index.add(revoke(100 * SECOND, user_id="u"), 900 * SECOND)
    index.add(revoke(99 * SECOND, user_id="u"), 900 * SECOND)
    assert index.version == version
    assert index.expire(800 * SECOND) == 0
    index.add(revoke(101 * SECOND, user_id="u"), 200 * SECOND)
    assert index.version > version
    assert index.expire(800 * SECOND) == 0


def test_expiry_forgets_all_that_is_past_and_nothing_else():
    index = RevocationIndex()
    for number in range(100):
        index.add(revoke(audit_id=str(number)), number * 60 * SECOND)
    assert index.expire(50 * 60 * SECOND) == 50
    assert len(index) == 50
    assert not index.voided(traits(audit_id="49"))
    assert index.voided(traits(audit_id="50"))
    assert index.expire(200 * 60 * SECOND) == 50
    assert len(index) == len(index._tables) == 0


def test_what_comes_between_two_slices_of_an_expiry_counts():
    index = RevocationIndex()
    for number in range(10_000):
        index.add(revoke(audit_id=str(number)), 60 * SECOND)
    slices = index.expiring(1000 * SECOND)
    forgotten = next(slices)
    assert forgotten < 5_000
    for number in range(10_000):
        index.add(revoke(audit_chain_id=str(number)), 2000 * SECOND)
        index.add(revoke(audit_id=str(number)), 60 * SECOND)
    assert forgotten + sum(slices) >= 10_000 - forgotten
    assert index.voided(traits(audit_chain_id="0"))
    index.expire(1000 * SECOND)
    assert len(index) == 10_000


def test_what_is_to_be_kept_for_longer_than_can_be_said_is_never_forgotten():
    index = RevocationIndex()
    index.add(revoke(user_id="u"), FOREVER)
    assert index.expire(2 * FOREVER) == 0


def test_what_was_to_be_kept_until_before_all_time_is_forgotten_like_any_other():
    index = RevocationIndex()
    index.add(revoke(-(2**60), user_id="u"), -1)
    assert index.expire(100 * SECOND) == 1


def test_asking_costs_the_same_with_many_events():
    class Counting(dict):
        asked = 0

        def get(self, *key):
            Counting.asked += 1
            return super().get(*key)

    index = RevocationIndex()
    for number in range(2000):
        for fields in (
            {"audit_id": "x"},
            {"audit_chain_id": "x"},
            {"user_id": "x"},
            {"project_id": "x", "user_id": "x"},
        ):
            index.add(revoke(**{name: f"{value}{number}" for name, value in fields.items()}), FOREVER)
    index._tables = {shape: tuple(map(Counting, table)) for shape, table in index._tables.items()}
    index._order()
    assert not index.voided(traits(user_id="u", audit_chain_id="c", project_id="p"))
    assert 0 < Counting.asked <= 12


def test_what_is_kept_is_nothing_that_the_garbage_collector_looks_at():
    index = RevocationIndex()
    for number in range(5_000):
        index.add(revoke(audit_id=f"{number:022}"), FOREVER)
        index.add(revoke(user_id=f"{number:032}"), FOREVER)
    parts = [part for table in index._tables.values() for part in table]
    assert sum(map(len, parts)) == 10_000
    assert not any(map(gc.is_tracked, parts))
