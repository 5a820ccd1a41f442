"""How `rkctl db sync` fills new tables of rows that are there, whatever breaks it off: its steps, without a cluster.

What is filled with is tested on a real one, in test_db.py.
"""

import re

import pytest

from controller import db, schema
from regional_keystone import backends
from regional_keystone.adapters.cassandra_schema import definitions
from regional_keystone.adapters.cassandra_tables import Seen, Tables, Write
from regional_keystone.adapters.local import SystemClock
from regional_keystone.errors import Unavailable
from regional_keystone.model import Grant
from regional_keystone.record import TABLES, encode, facts
from regional_keystone.settings import Cassandra

NEW = "grants__role_id"


class Cluster:
    """Remembers which tables there are and what stands in the schema's state; the order of what it was told."""

    def __init__(self):
        self.live, self.state, self.told = {}, {}, []

    async def run(self, cql, values=(), **_):
        if "system_schema" in cql:
            columns = [(name, one) for name, table in self.live.items() for one in table.columns.items()]
            return [(name, column, *facts_) for name, (column, facts_) in columns]
        return [(part, row.get("version"), row.get("state")) for part, row in self.state.items()]

    async def change(self, statements, **_):
        for cql, values in statements:
            names = re.search(r"\((.*?)\)", cql)[1].split(", ")
            part, *rest = values
            self.state.setdefault(part, {}).update(zip(names[1:], rest, strict=True))
            self.told.append(part)

    async def define(self, cql):
        if cql.startswith("CREATE TABLE"):
            made = schema.table(cql.partition(" AND id = ")[0])
            self.live.setdefault(made.name, made)
            self.told.append(made.name)

    async def decide(self, statements):
        return True, []

    async def agreed(self):
        pass


@pytest.fixture
async def opened(monkeypatch):
    """A keyspace with all tables, of which one of a group of fields is new; `fill` says what filling it comes to."""
    cluster = Cluster()
    found = db.Database(cluster, Cassandra(), backends.system_clock(), lambda _: None)
    found.asked, found.fill = [], lambda: True

    async def fill(driver, clock, name, tell, *, settle):
        await tell(1)
        found.asked.append((name, settle))
        return 1, found.fill()

    monkeypatch.setattr(backends, "fill_cassandra", fill)
    await found.sync()
    assert found.asked == []  # nobody can have written before
    del cluster.live[NEW]
    cluster.told.clear()
    return found


async def test_it_is_marked_before_there_is_a_table_and_done_before_it_is_current(opened):
    assert (await opened.sync()).made == [f"{NEW} is missing", "grants: 1 rows are in new tables"]
    told = [one for one in opened.driver.told if one in {NEW, "unfilled/grants", "copies"}]
    assert told == ["unfilled/grants", "copies", NEW, "unfilled/grants", "unfilled/grants"]
    assert opened.asked == [("grants", False)]
    assert (await opened.find()).is_current
    assert (await opened.sync()).made == []


class Killed(Exception):
    """What ends the command."""


@pytest.mark.parametrize("broken", ["killed", "a controller writes"])
async def test_what_was_broken_off_is_done_again_with_a_look_at_what_was_left_behind(opened, broken):
    def killed():
        raise Killed

    opened.fill = killed if broken == "killed" else lambda: False
    with pytest.raises(Killed if broken == "killed" else Unavailable):
        await opened.sync()
    found = await opened.find()
    assert found.differences == []
    assert found.unfilled == {"grants": "begun"}
    assert not found.is_current
    opened.fill = lambda: True
    assert (await opened.sync()).made == ["grants: 1 rows are in new tables"]
    assert opened.asked == [("grants", False), ("grants", True)]
    assert (await opened.find()).is_current


async def test_who_is_ended_between_mark_and_table_leaves_both_to_the_next(opened, monkeypatch):
    define = opened.driver.define

    async def killed(cql):
        if NEW in cql:
            raise Killed
        await define(cql)

    opened.driver.define = killed
    with pytest.raises(Killed):
        await opened.sync()
    assert (await opened.find()).unfilled == {"grants": "empty"}
    opened.driver.define = define
    assert len((await opened.sync()).made) == 2
    assert opened.asked == [("grants", False)]


class Slow(SystemClock):
    """Of a machine that stood still for as long as it is told."""

    stood_s = 0.0

    def ticks(self):
        return super().ticks() + self.stood_s


async def test_who_has_lost_the_lease_defines_nothing_more(opened):
    opened._clock = clock = Slow()
    holder, kept = {"state": None}, opened.driver.define

    async def decide(statements):
        ((_, (wanted, _, before)),) = statements
        applied = holder["state"] == before
        if applied:
            holder["state"] = wanted
        return applied, [] if applied else [dict(holder)]

    async def stands_still(cql):
        if NEW in cql:
            raise AssertionError("it was made by who has not the lease any more")
        await kept(cql)

    async def taken(name, state):
        clock.stood_s += 61.0
        holder["state"] = "another"

    opened.driver.decide, opened.driver.define, opened._note = decide, stands_still, taken
    with pytest.raises(Unavailable, match="another took over while this was slow; run it again"):
        await opened.sync()
    assert holder["state"] == "another"  # whose lease is not ended by us


async def test_a_copy_is_left_behind_when_its_row_is_gone_or_says_something_else():
    grant = Grant(actor_id="a", actor="user", target="project", target_id="p", role_id="r")
    rows = []

    class Driver:
        async def run(self, *_, **__):
            return rows

    tables = Tables(Driver(), TABLES, "QUORUM")
    forms = tables.forms["grants"]
    copy = forms.by_group[("target_id",)]
    key = facts(Grant).key_of(grant)
    right = dict(forms.found_by(key, {"target_id": "p", "role_id": "r"}))[copy.form]
    wrong = dict(forms.found_by(key, {"target_id": "q", "role_id": "r"}))[copy.form]

    async def stone(place):
        return await tables.left_behind(forms, copy, Seen(place, 3, b"row"), 9)

    rows[:] = [(5, encode(grant))]
    assert await stone(right) is None
    assert await stone(wrong) == Write(copy.form, wrong, 5, None)
    rows[:] = [(5, None)]
    assert await stone(right) == Write(copy.form, right, 5, None)
    rows[:] = []
    assert await stone(right) == Write(copy.form, right, 9, None)
    assert Write(copy.form, right, 5, None).values[0] > Write(copy.form, right, 4, b"row").values[0]


def test_the_tables_of_a_record_are_all_known():
    assert backends.cassandra_schema().records.keys() <= definitions(TABLES).keys()
