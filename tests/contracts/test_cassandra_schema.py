"""What follows from the records' facts for Cassandra, without any."""

import itertools
import re
from collections import Counter
from functools import partial
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regional_keystone import believed
from regional_keystone.adapters import cassandra_schema as schema
from regional_keystone.adapters.cassandra_tables import Write, statements
from regional_keystone.api.consequences import event
from regional_keystone.api.federated import _rows as rows_of
from regional_keystone.api.outcomes import outcome
from regional_keystone.issued import LATE
from regional_keystone.log import Entry, put
from regional_keystone.messages import Request, Response
from regional_keystone.model import Project, RevocationEvent, User
from regional_keystone.record import TABLES, Id, Record, Table, facts, spread, table

ROWS = 10_000


@given(st.lists(st.text(min_size=1, max_size=64), unique=True, max_size=10))
@example(["RegionOne", "regionone", "Region-One", "Region_One", "x" * 41, "x" * 42, '"; DROP', "é"])
def test_every_site_has_tables_of_its_own_that_cassandra_can_name(sites):
    names = [name for site in sites for name in schema.site_definitions(site)]
    assert len(set(names)) == 2 * len(sites)
    assert all(re.fullmatch(r"(own|ack)_[A-Za-z0-9_]{1,44}", name) for name in names)
    assert not set(names) & schema.definitions(TABLES).keys()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_buckets_one_after_another_are_the_keys_in_their_order(keys):
    buckets = {}
    for key in keys:
        buckets.setdefault(schema.bucket(key), []).append(key)
    assert "" not in buckets
    assert [key for name in sorted(buckets) for key in sorted(buckets[name])] == sorted(keys)


@given(
    st.lists(
        st.lists(st.none() | st.booleans() | st.text(max_size=2000), min_size=1, max_size=3), min_size=2, max_size=2
    )
)
@example([[None, "x"], ["", "x"]])
@example([["x" * 5000], ["x" * 5001]])
def test_groups_of_other_values_lie_elsewhere(values):
    one, other = values
    assert (schema.packed(one) == schema.packed(other)) == (one == other)
    assert len(schema.packed(one)) <= 1024


def test_a_definition_is_safe_to_repeat_and_never_takes_anything_away():
    for definition in (*schema.definitions(TABLES).values(), *schema.site_definitions("R").values()):
        assert definition.startswith("CREATE TABLE IF NOT EXISTS ")
    assert list(schema.definitions(TABLES))[:2] == [schema.SCHEMA_VERSION, schema.LOG]
    assert schema.keyspace("k", {"dc1": 3, "it's": 1}) == (
        'CREATE KEYSPACE IF NOT EXISTS "k" WITH replication ='
        " {'class': 'NetworkTopologyStrategy', 'dc1': 3, 'it''s': 1}"
    )


def test_every_group_has_a_table_unless_all_is_read_at_once_and_wide_ones_are_spread():
    forms = schema.forms_of(TABLES)
    for name, table_ in TABLES.items():
        groups = set() if table_.small else set(table_.unique + table_.by)
        assert {copy.group for copy in forms[name].copies} == groups
        for copy in forms[name].copies:
            assert [one for one, _ in copy.form.partition] == (["g", "shard"] if copy.wide else ["g"])
    assert {copy.group for copy in forms["users"].copies if copy.wide} == {("domain_id",), ("default_project_id",)}


def declared(key, **fields):
    kind = type("Thing", (Record,), {"__annotations__": fields}, frozen=True, kw_only=True)
    return Table("things", kind, tuple(key.split()), (), (), {}, frozenset())


@pytest.mark.parametrize(
    ("key", "fields", "why"),
    [
        ("at", {"at": str}, "column of every table"),
        ("id", {"id": int}, "must be a str"),
        ("id other", {"id": str, "other": float}, "is one of"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(key, fields, why):
    with pytest.raises(TypeError, match=why):
        schema.forms_of({"things": declared(key, **fields)})
    with pytest.raises(TypeError, match="cannot be a table's name"):
        schema.Form("x" * 49, (("g", "blob"),), (("id", "text"),))
    with pytest.raises(TypeError, match="several tables would be named log"):
        schema.forms_of({"log": declared("id", id=str)._replace(name="log")})


def test_only_a_field_that_rows_are_found_by_can_be_wide():
    with pytest.raises(TypeError, match="so that is not wide"):

        @table("things", wide="id")
        class Thing(Record, frozen=True, kw_only=True):
            id: Id

    assert "things" not in TABLES


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 300)), min_size=1, max_size=400))
def test_writes_of_one_entry_into_one_partition_go_together(wanted):
    form = schema.Forms(facts(User)).base
    writes = [
        Write(form, (str(part), f"{part}{count}"), number, b"x")
        for count, (number, part, _) in enumerate(sorted(wanted))
    ]
    said = list(statements(writes, {}))
    texts = {cql for cql, _ in said}
    assert all(cql.count("UPDATE") & (cql.count("UPDATE") - 1) == 0 for cql in texts)  # few different ones
    found = []
    for cql, values in said:
        size = len(values) // cql.count("UPDATE")
        found.append([tuple(values[start : start + size]) for start in range(0, len(values), size)])
    assert {one for batch in found for one in batch} == {write.values for write in writes}
    for batch in found:
        assert len({values[4] for values in batch}) == 1
    for number, part in {(write.number, write.place[0]) for write in writes}:
        whole = {write.values for write in writes if (write.number, write.place[0]) == (number, part)}
        if len(whole) <= 128:
            assert any(whole <= set(batch) for batch in found)


def test_a_removal_lies_below_a_row_of_the_same_position_and_above_all_before():
    form = schema.Forms(facts(Project)).base
    stamps = [Write(form, ("a", "a"), number, row).values[0] for number in (7, 8) for row in (None, b"x")]
    assert stamps == [14, 15, 16, 17]
    assert Write(form, ("a", "a"), 7, None).values[1] == schema.STONE_S < schema.GRACE_S
    assert Write(form, ("a", "a"), 7, b"x").values[1] == 0


async def revoked_by_sites(*, late):
    """As a controller takes them over from the own feeds of two sites."""
    name = spread(f"{LATE}e") if late else "e"
    asked = put(RevocationEvent(id=name, issued_before=1, revoked_at=1, keep_until=2, audit_id="a"))
    places = itertools.product(("RegionOne/0f3a", "RegionTwo/77c1"), range(ROWS // 2))
    said = [
        believed.said(feed, Entry(number, f"t/{number}", 1, (asked,)), 1, 60_000_000, Counter())
        for feed, number in places
    ]
    return [event for one in said for event in one.revocations]


async def revoked_directly():
    return [event({"user_id": f"u{number}"}, 1, 60.0) for number in range(ROWS)]


async def outcomes(begin):
    asked = (Request(id=f"{begin}req-{uuid4()}", method="POST", path="/v3/projects") for _ in range(ROWS))
    return [outcome(one, Response(status=201), 1) for one in asked]


async def federated():
    """One provider calls all of its users much alike."""
    found = []
    for number in range(ROWS):
        user = User(id=uuid4().hex, name=f"u{number}", domain_id="default")
        names = [{"idp_id": "idp", "protocols": [{"protocol_id": "saml2", "unique_id": f"CN=u{number},O=x"}]}]
        found += rows_of(names, user)
    return found


GROWING = {
    "revocations of sites": partial(revoked_by_sites, late=False),
    "late answers": partial(revoked_by_sites, late=True),
    "revocations": revoked_directly,
    "outcomes of forwarded requests": partial(outcomes, "RegionOne/"),
    "outcomes of direct requests": partial(outcomes, ""),
    "federated users": federated,
}


@pytest.mark.parametrize("what", GROWING)
async def test_rows_that_come_with_use_lie_in_many_buckets(what):
    rows = await GROWING[what]()
    table_ = facts(type(rows[0]))
    by_key = schema.forms_of(TABLES)[table_.name].by_key
    keys = {table_.key_of(row) for row in rows}
    buckets = Counter(by_key(key)[0] for key in keys)
    assert len(keys) == ROWS
    assert max(buckets.values()) <= ROWS // 100, buckets.most_common(3)


async def test_what_a_site_says_twice_has_one_id():
    """Taking over exactly once, and finding a kept answer, depend on it."""
    assert await revoked_by_sites(late=True) == await revoked_by_sites(late=True)
    request = Request(id="RegionOne/req-1", method="POST", path="/v3/projects")
    assert outcome(request, Response(status=201), 1).id == outcome(request, Response(status=409), 2).id
