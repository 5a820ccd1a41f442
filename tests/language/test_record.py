from typing import Annotated

import msgspec
import pytest

from regional_keystone import model
from regional_keystone.record import TABLES, Record, Ref, decode, encode, facts, indexed_values, table, touches


def test_a_reference_that_no_index_can_follow_is_refused():
    with pytest.raises(TypeError, match=r"orphans\.parent refers to projects but has no index"):

        @table("orphans")
        class Orphan(Record, frozen=True, kw_only=True):
            id: str
            parent: Annotated[str, Ref("projects")]

    assert "orphans" not in TABLES


def test_the_groups_of_a_table_are_those_it_declares_and_its_keys_first_field():
    assert facts(model.Grant).groups == (("actor_id",), ("target_id",), ("role_id",))
    assert facts(model.Project).groups == (("domain_id", "name"), ("name",), ("domain_id",), ("parent_id",))
    assert facts(model.Project).indexed == ("domain_id", "name", "parent_id")
    assert facts(model.Service).groups == ()


def test_facts_stand_beside_the_fields():
    fields = facts(model.User).fields
    assert fields["password_hash"].marks == {"server", "secret"}
    assert fields["default_project_id"].ref == Ref("projects", "clear")
    assert fields["enabled"].marks == frozenset()
    assert fields["enabled"].ref is None
    with pytest.raises(KeyError):
        facts(Record)


def test_every_reference_names_a_table():
    named = {
        name
        for one in TABLES.values()
        for field in one.fields.values()
        if field.ref
        for name in field.ref.table.split()
    }
    assert named <= TABLES.keys()


def test_a_row_keeps_its_meaning_in_bytes_and_an_unknown_field_does_not_hurt():
    grant = model.Grant(actor_id="u", actor="user", target="project", target_id="p", role_id="r", inherited=True)
    assert decode(model.Grant, encode(grant)) == grant
    assert facts(model.Grant).key_of(grant) == ("u", "user", "project", "p", "r", True)
    newer = msgspec.msgpack.encode({**msgspec.to_builtins(grant), "colour": "red"})
    assert decode(model.Grant, newer) == grant
    older = msgspec.msgpack.encode({"id": "r"})
    assert decode(model.Region, older) == model.Region(id="r")


def test_what_a_row_disturbs_is_every_group_it_is_in():
    project = model.Project(id="p", name="x", parent_id="q")
    assert indexed_values(project) == {"id": "p", "domain_id": None, "name": "x", "parent_id": "q"}
    assert touches(facts(model.Project), indexed_values(project)) == {
        ("projects", ("domain_id", "name"), (None, "x")),
        ("projects", ("name",), ("x",)),
        ("projects", ("domain_id",), (None,)),
        ("projects", ("parent_id",), ("q",)),
    }
