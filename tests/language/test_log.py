import asyncio
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.log import (
    Entry,
    Put,
    Remove,
    Transaction,
    decode_entry,
    disturbed,
    encode_entry,
    net,
    put,
    remove,
    written,
)
from regional_keystone.messages import at_controller, at_site
from regional_keystone.model import Endpoint, Grant, Project, Region
from regional_keystone.overlay import Recording
from regional_keystone.record import decode, facts
from tests.histories import HISTORIES, IDS, KINDS, LIKE, RECORDS, SOME, found_in, states


class At:
    """A Reader of one state."""

    def __init__(self, state, position):
        self.state = state
        self.position = position

    async def get(self, kind, *key):
        return self.state.get((kind, key))

    async def find(self, kind, **equals):
        return found_in(self.state, kind, equals)

    async def page(self, kind, after, limit, like=(), **equals):
        rows = found_in(self.state, kind, equals, like)
        return [row for row in rows if after is None or facts(kind).key_of(row) > after][:limit]

    async def scan(self, kind):
        for row in found_in(self.state, kind, {}):
            yield row


READS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.just(Project), IDS),
        st.tuples(st.just("get"), st.just(Endpoint), IDS),
        st.tuples(
            st.just("find"), st.just(Project), st.fixed_dictionaries({"domain_id": SOME, "name": st.sampled_from("xy")})
        ),
        st.tuples(st.just("find"), st.just(Project), st.fixed_dictionaries({"parent_id": SOME})),
        st.tuples(st.just("find"), st.just(Project), st.fixed_dictionaries({"id": IDS})),
        st.tuples(st.just("find"), st.just(Grant), st.fixed_dictionaries({"actor_id": st.sampled_from("ab")})),
        st.tuples(st.just("find"), st.just(Grant), st.fixed_dictionaries({"role_id": st.sampled_from("ab")})),
        st.tuples(st.just("scan"), st.sampled_from(KINDS), st.none()),
        st.tuples(st.just("page"), st.just(Project), st.fixed_dictionaries({"like": LIKE})),
        st.tuples(st.just("page"), st.just(Project), st.fixed_dictionaries({"parent_id": SOME, "like": LIKE})),
    ),
    max_size=3,
)


async def decide(reading, reads, record):
    """Any decision at all: what is written depends on everything that was read."""
    seen = []
    for verb, kind, what in reads:
        match verb:
            case "get":
                seen.append(await reading.get(kind, what))
            case "find":
                seen.append(await reading.find(kind, **what))
            case "page":
                seen.append(await reading.page(kind, ("a",), 2, **what))
            case "scan":
                seen.append([row async for row in reading.scan(kind)])
    return seen


@settings(max_examples=500)
@given(HISTORIES.filter(bool), st.data(), READS, RECORDS)
def test_transactions_that_do_not_collide_are_as_if_one_after_another(entries, data, reads, record):
    position = data.draw(st.integers(0, len(entries) - 1))
    all_states = states(entries)
    row = (type(record), facts(type(record)).key_of(record))

    async def run(at):
        reading = Recording(At(all_states[at], at))
        seen = await decide(reading, reads, record)
        return seen, reading.transaction("t", [put(record, all_states[at].get(row))])

    seen, transaction = asyncio.run(run(position))
    later = {touch for entry in entries[position:] for touch in disturbed(entry.changes)}
    if not transaction.collides(later):
        seen_later, same = asyncio.run(run(len(entries)))
        assert seen == seen_later
        assert transaction.changes == same.changes


def test_a_transaction_collides_with_what_it_has_read_and_with_what_it_writes():
    new = Project(id="p", name="x")
    there = disturbed([put(new)])
    assert not Transaction("t", 0, frozenset(), ()).collides(there)
    assert Transaction("t", 0, frozenset({("projects", "p")}), ()).collides(there)
    assert Transaction("t", 0, frozenset({("projects",)}), ()).collides(there)
    assert Transaction("t", 0, frozenset({("projects", ("domain_id", "name"), (None, "x"))}), ()).collides(there)
    assert not Transaction("t", 0, frozenset({("projects", ("domain_id", "name"), (None, "y"))}), ()).collides(there)
    assert Transaction("t", 0, frozenset(), (put(new),)).collides(there)


def test_a_move_disturbs_where_the_row_was_and_where_it_is():
    moved = disturbed([put(Region(id="r", parent_region_id="b"), Region(id="r", parent_region_id="a"))])
    group = ("parent_region_id",)
    assert {("regions", group, ("a",)), ("regions", group, ("b",)), ("regions", "r"), ("regions",)} == moved
    assert disturbed([remove(Region(id="r", parent_region_id="a"))]) == moved - {("regions", group, ("b",))}


def test_a_table_that_is_not_known_is_disturbed_as_rows_and_as_a_whole():
    assert disturbed([Put("hereafter", ("k",), b"", {"k": "k"}), Remove("hereafter", ("l",), {"l": "l"})]) == {
        ("hereafter", "k"), ("hereafter", "l"), ("hereafter",),
    }  # fmt: skip


@given(HISTORIES)
def test_the_net_changes_are_one_per_row_and_amount_to_the_same(entries):
    """All entries as one: from the empty state to the last one."""
    changes = net(change for entry in entries for change in entry.changes)
    rows = [(change.table, *change.key) for change in changes]
    assert len(rows) == len(set(rows)) == len(written(changes))
    kinds = {facts(kind).name: kind for kind in KINDS}
    last = states(entries)[-1]
    assert {
        (kinds[one.table], one.key): decode(kinds[one.table], one.row) for one in changes if isinstance(one, Put)
    } == last
    assert not [one for one in changes if one.was is not None]


@given(HISTORIES, HISTORIES)
def test_the_net_of_later_changes_says_what_was_before_the_first(before, after):
    state = states(before)[-1]
    fresh = states(after)
    changes = []
    for entry, was in zip(after, fresh, strict=False):
        for change in entry.changes:
            kind = {facts(one).name: one for one in KINDS}[change.table]
            if change.was is None and (kind, change.key) not in was and (kind, change.key) in state:
                first = not any(other.key == change.key and other.table == change.table for other in changes)
                changes.append(msgspec.structs.replace(change, was={"first": True}) if first else change)
            else:
                changes.append(change)
    firsts = {}
    for change in changes:
        firsts.setdefault((change.table, *change.key), change)
    for change in net(changes):
        assert change.was == firsts[change.table, *change.key].was


@given(HISTORIES)
def test_an_entry_keeps_its_meaning_in_bytes(entries):
    for entry in entries:
        assert decode_entry(encode_entry(entry)) == entry
        assert encode_entry(decode_entry(encode_entry(entry))) == encode_entry(entry)


def test_a_newer_versions_entry_may_say_more():
    data = msgspec.msgpack.encode(
        [7, "t", 5, [["put", "regions", ["r"], b"\x80", {"id": "r"}, None, "more"]], "even more"]
    )
    assert decode_entry(data) == Entry(7, "t", 5, (Put("regions", ("r",), b"\x80", {"id": "r"}),))
    with pytest.raises(msgspec.DecodeError):
        decode_entry(b"rubbish")


@pytest.mark.parametrize(
    "inside",
    [2000 * b"\x91" + b"\xc0", b"\x81\x80\x01", b"\xc7\x0c\xff" + 12 * b"\xff"],
    ids=["lists in lists", "a map for a key", "no such moment"],
)
def test_what_is_no_entry_is_a_value_error_whatever_it_is(inside):
    data = b"\x94\x01\xa1a\x00\x91\x95\xa3put\xabrevocations\x91\xa1x\xc4\x01x\x81\xa1a" + inside
    for rubbish in (data, None):
        with pytest.raises(ValueError, match=r"."):
            decode_entry(rubbish)


@pytest.mark.parametrize("read", [at_controller, at_site, partial(decode, Region)])
def test_what_is_too_deep_is_a_value_error_wherever_it_is_read(read):
    with pytest.raises(ValueError, match="depth"):
        read(b"\x81\xa1x" + 2000 * b"\x91" + b"\xc0")
