"""When the rows of a replica are read again: at once after somebody else has written, and in turn while nobody has."""

import asyncio
import sqlite3
from contextlib import closing, suppress

import pytest

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import Unavailable
from regional_keystone.log import Entry, put
from regional_keystone.model import User
from regional_keystone.record import TABLES, encode
from regional_keystone.survey import Survey
from tests.stand_ins import ManualClock

ROWS = 1000  # five stretches


def user(number, **fields):
    return User(id=f"{number:032x}", domain_id="d", name=f"user{number}", **fields)


class Watched:
    """A store that says which stretches were asked for, each of which took a millisecond of a processor."""

    def __init__(self, store):
        self._store, self.asked = store, []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def survey(self, table, begin, least_rows):
        self.asked.append((table, begin))
        return (await self._store.survey(table, begin, least_rows))._replace(cpu_s=0.001)


@pytest.fixture
async def store(tmp_path):
    made = await Sqlite.open(tmp_path / "replica.db")
    await made.append(
        "log", 0, [Entry(1, "e1", 1, tuple(put(user(number)) for number in range(0, 2**28, 2**28 // ROWS)))]
    )
    await made.apply(await made.tail("log", 0))
    yield Watched(made)
    await made.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def survey(store, clock):
    made = Survey(store, clock, 1.0)
    await made.start()
    await made.read(30.0)
    return made


def by_hand(store, **fields):
    with closing(sqlite3.connect(store.path)) as db, db:
        one = user(0, **(fields or {"enabled": False}))
        assert db.execute("UPDATE users SET row = ? WHERE id = ?", (encode(one), one.id)).rowcount == 1


async def test_everything_is_read_once_and_then_only_some_while_nobody_else_writes(store, survey):
    whole = len(store.asked)
    assert {table for table, _ in store.asked} == set(TABLES)
    assert survey.rows >= ROWS
    store.asked.clear()
    for number in range(2, 5):  # what the store itself writes is not what somebody else writes
        await store.append("log", number - 1, [Entry(number, f"e{number}", 1, (put(user(number)),))])
        await store.apply(await store.tail("log", number - 1))
        await survey.read(0.2)
    assert len(store.asked) == 3 * 2 < whole


async def test_everything_is_read_in_turn_so_that_what_a_disk_forgot_is_found(store, survey):
    whole, before = sorted(store.asked), survey.tree.root.sum
    store._writing_connection().execute("UPDATE users SET row = x'00' WHERE id = ?", (user(0).id,))  # seen by nobody
    store.asked.clear()
    for _ in whole:
        await survey.read(0.1)  # one stretch
    assert sorted(store.asked) == whole
    assert survey.tree.root.sum != before


async def test_what_could_not_be_read_is_read_the_next_time(store, survey):
    whole, asked = sorted(store.asked), store.survey

    async def failing(table, begin, least_rows):
        store.survey = asked
        raise Unavailable("The store does not answer.")

    store.asked.clear()
    store.survey = failing
    with pytest.raises(Unavailable):
        await survey.read(0.1)
    for _ in whole:
        await survey.read(0.1)
    assert sorted(store.asked) == whole


async def test_a_stretch_that_cannot_be_read_keeps_back_no_other(store, survey):
    whole, asked = sorted(store.asked), store.survey
    damaged = whole[len(whole) // 2]

    async def failing(table, begin, least_rows):
        if (table, begin) == damaged:
            raise Unavailable("A page of this file is damaged.")
        return await asked(table, begin, least_rows)

    store.asked.clear()
    store.survey = failing
    for _ in range(2 * len(whole)):
        with suppress(Unavailable):
            await survey.read(0.1)
    assert sorted(set(store.asked)) == [one for one in whole if one != damaged]


async def test_everything_is_read_again_once_somebody_else_has_written(store, survey):
    whole, before = sorted(store.asked), survey.tree.root.sum
    by_hand(store)
    store.asked.clear()
    await survey.read(0.1)
    assert sorted(store.asked) == whole
    assert survey.tree.root.sum != before


async def test_what_is_written_while_everything_is_read_is_read_the_next_time(store, survey):
    whole, asked = len(store.asked), store.survey
    by_hand(store)

    async def meanwhile(table, begin, least_rows):
        found = await asked(table, begin, least_rows)
        if len(store.asked) == whole:
            by_hand(store, password_hash="another")
        return found

    store.asked.clear()
    store.survey = meanwhile
    await survey.read(0.1)
    assert len(store.asked) == whole
    await survey.read(0.1)
    assert len(store.asked) == 2 * whole


async def test_a_rest_ends_soon_after_somebody_else_has_written(store, survey, clock):
    resting = asyncio.create_task(survey.rest(30.0))
    await clock.advance(10.0)
    assert not resting.done()
    by_hand(store)
    await clock.advance(2.1)
    await asyncio.wait([resting], timeout=5.0)
    assert resting.done()
    await resting


async def test_a_rest_is_as_long_as_it_was_meant_where_nobody_writes(survey, clock):
    resting = asyncio.create_task(survey.rest(5.0))
    await clock.advance(4.9)
    assert not resting.done()
    await clock.advance(0.2)
    await asyncio.wait_for(resting, 5.0)


async def test_tables_that_were_replaced_are_read_whole(store, survey):
    whole = len(store.asked)
    store.asked.clear()
    survey.replaced(7)
    await survey.read(0.1)
    assert len(store.asked) == whole
