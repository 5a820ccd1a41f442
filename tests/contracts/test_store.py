"""What every store promises of its tables."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.digest import digest
from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, Entry, Put, Remove, put, remove
from regional_keystone.model import Grant, Project, Region
from regional_keystone.record import Like, encode, facts
from tests.histories import HISTORIES, KINDS, found_in, questions, states


async def paged(reader, kind, limit, equals):
    """All of it, page by page."""
    rows, after = [], None
    while page := await reader.page(kind, after, limit, **equals):
        rows += page
        after = facts(kind).key_of(page[-1])
        if len(page) < limit:
            break
    return rows


async def check_equal(store, state):
    for kind in KINDS:
        assert [row async for row in store.scan(kind)] == found_in(state, kind, {})
        assert await paged(store, kind, 2, {}) == found_in(state, kind, {})
        for equals in questions(kind):
            assert await store.page(kind, None, 2, **equals) == found_in(state, kind, equals)[:2]
            assert sorted(await store.find(kind, **equals), key=facts(kind).key_of) == found_in(state, kind, equals), (
                equals
            )
    for (kind, key), row in state.items():
        assert await store.get(kind, *key) == row
    assert await store.get(Project, "nobody") is None


async def all_rows(store):
    async with store.snapshot() as snapshot:
        return snapshot.position, [row async for row in snapshot.rows()]


async def stream(rows):
    for row in rows:
        await asyncio.sleep(0)
        yield row


def region(number, name="a"):
    return Entry(number, f"t{number}", 0, (put(Region(id=name, description=str(number))),))


@settings(max_examples=12)
@given(HISTORIES, st.lists(st.integers(0, 8), max_size=4))
def test_any_history_amounts_to_a_dictionary(stores, entries, cuts):
    if stores.enough():
        return

    async def run():
        async with stores.fresh() as store:
            start = 0
            for cut in [*sorted(cuts), len(entries)]:
                await store.apply(entries[start:cut])
                await store.apply(entries[:cut])
                start = max(start, cut)
            await check_equal(store, states(entries)[-1])
        async with stores.again() as store:
            await check_equal(store, states(entries)[-1])
            assert await store.applied(LOG) == len(entries)

    asyncio.run(run())


@settings(max_examples=6)
@given(HISTORIES, HISTORIES)
def test_a_restored_replica_equals_the_one_it_came_from(stores, entries, others):
    if stores.enough():
        return

    async def run():
        async with stores.fresh() as source:
            await source.apply(entries)
            position, rows = await all_rows(source)
            async with source.snapshot() as snapshot:
                expected = await digest(snapshot)
        async with stores.fresh() as store:
            await store.append("own/1", 0, [region(1)])
            await store.append(LOG, 0, others)
            await store.apply(others)
            await store.restore(position + 100, stream(rows))
            await check_equal(store, states(entries)[-1])
            async with store.snapshot() as snapshot:
                assert await digest(snapshot) == (expected[0] + 100, expected[1])
            assert await store.applied(LOG) == await store.head(LOG) == position + 100
            assert await store.tail(LOG, position + 100) == []
            assert await store.tail("own/1", 0) == [region(1)]
            await store.apply([region(position + 101)])
            assert await store.get(Region, "a") is not None

    asyncio.run(run())


async def test_a_gap_is_refused_and_nothing_of_the_batch_stays(stores):
    async with stores.fresh() as store:
        await store.apply([region(1)])
        with pytest.raises(ValueError, match="entry 4"):
            await store.apply([region(2), region(4)])
        assert await store.applied(LOG) == 1
        assert (await store.get(Region, "a")).description == "1"
        await store.apply([region(2)])
        assert (await store.get(Region, "a")).description == "2"


async def test_only_declared_groups_can_be_found_by(stores):
    async with stores.fresh() as store:
        for equals in ({"description": "x"}, {"enabled": True}, {"name": "x", "domain_id": None, "enabled": True}, {}):
            with pytest.raises(LookupError):
                await store.find(Project, **equals)
        with pytest.raises(LookupError):
            await store.find(Grant, actor="user")
        assert await store.find(Project, id="p") == []
        assert await store.find(Project, id="\udc80") == []
        assert await store.get(Project, "\udc80") is None


async def test_a_long_table_is_read_whole_and_in_order(stores):
    async with stores.fresh() as store:
        ids = [f"{number:05}" for number in range(1203)]
        grants = [Grant(actor_id=one, actor="user", target="project", target_id="p", role_id="r") for one in ids]
        for number, start in enumerate(range(0, len(grants), 100), 1):  # backwards; a small node writes no more at once
            some = grants[::-1][start : start + 100]
            await store.apply([Entry(number, f"t{number}", 0, tuple(put(one) for one in some))])
        assert [row.actor_id async for row in store.scan(Grant)] == ids
        _, rows = await all_rows(store)
        assert [key for _, key, _ in rows] == [facts(Grant).key_of(one) for one in grants]


async def test_a_page_is_found_wherever_its_rows_lie(stores):
    async with stores.fresh() as store:
        made = [Project(id=f"{one:05}", name=f"n{one}", domain_id="d", parent_id="pq"[one % 2]) for one in range(700)]
        await store.apply([Entry(1, "t", 0, tuple(put(one) for one in made))])
        gone = made[100:200]
        await store.apply([Entry(2, "u", 0, tuple(remove(one) for one in gone))])
        left = made[:100] + made[200:]
        odd = [one for one in left if one.parent_id == "p"]
        for limit in (7, 299, 600, 601):
            assert await paged(store, Project, limit, {}) == left
            assert await paged(store, Project, limit, {"domain_id": "d"}) == left
            assert await paged(store, Project, limit, {"parent_id": "p"}) == odd
        assert await store.page(Project, ("00099",), 1, domain_id="d") == [made[200]]
        assert await store.page(Project, ("00099x",), 1) == [made[200]]
        assert await store.page(Project, ("00650",), 10, domain_id="d", name="n7") == []
        assert await store.page(Project, None, 10, domain_id="d", name="n7") == [made[7]]
        assert await store.page(Project, None, 10, domain_id="\udc80") == []
        assert await store.page(Project, ("\udc80",), 10) == []
        with pytest.raises(LookupError):
            await store.page(Project, None, 10, description="x")
        with pytest.raises(LookupError):
            await store.page(Project, None, 10, [Like("description", "contains", "x")])


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("how", ["contains", "startswith", "endswith"])
async def test_a_page_holds_what_has_the_part_of_a_text(stores, how, folded):
    names = ["x", "xX", "X", "ax", "xa", "axa", "a%", "a_b", "a\\b", "Äx", "äx", "ÄX", "x'", "ß", "\u0130x"]
    made = [
        Project(id=f"{number:05}", name=name, domain_id="d" if number % 3 else None, parent_id="p")
        for number, name in enumerate(names * 3)
    ]
    async with stores.fresh() as store:
        await store.apply([Entry(1, "t", 0, tuple(put(one) for one in made))])
        renamed = msgspec.structs.replace(made[3], name="b")
        await store.apply([Entry(2, "u", 0, (remove(made[1]), put(renamed, made[3])))])
        left = [made[0], made[2], renamed, *made[4:]]
        for part in ("", "x", "X", "ä", "Äx", "%", "_", "\\", "'", "ax", "axaxa", "ss", "\udc80"):
            rule = Like("name", how, part.lower() if folded else part, folded)
            wanted = [one for one in left if rule.admits(one)]
            assert await store.page(Project, None, 100, [rule]) == wanted, part
            assert await store.page(Project, None, 3, [rule], parent_id="p") == wanted[:3], part
            assert await store.page(Project, (made[5].id,), 100, [rule], domain_id="d") == [
                one for one in wanted if one.domain_id == "d" and one.id > made[5].id
            ], part
            both = [rule, Like("domain_id", "startswith", "d")]
            assert await store.page(Project, None, 100, both) == [one for one in wanted if one.domain_id], part
        assert await store.page(Project, None, 9, [Like("domain_id", how, "\udc80")], domain_id="\udc80") == []


async def test_rows_of_tables_and_fields_of_a_newer_version_stay_as_they_are(stores):
    async with stores.fresh() as store:
        keys = [("b", 1), ("aa", 2), ("a", 10), ("a", 9)]
        unknown = tuple(Put("hereafter", key, b"\x81\xa1x\x01", {}) for key in keys)
        row = msgspec.msgpack.encode({**msgspec.to_builtins(Region(id="r")), "colour": "red"})
        newer = Put("regions", ("r",), row, {"id": "r", "parent_region_id": None, "colour": "red"})
        await store.apply([Entry(1, "t", 0, (*unknown, newer))])
        _, rows = await all_rows(store)
        assert rows == [*(("hereafter", key, b"\x81\xa1x\x01") for key in sorted(keys)), ("regions", ("r",), row)]
        assert await store.get(Region, "r") == Region(id="r")
        await store.restore(5, stream(rows))
        assert (await all_rows(store)) == (5, rows)
        await store.apply([Entry(6, "u", 0, (Remove("hereafter", ("b", 1), {}),))])
        assert len((await all_rows(store))[1]) == 4


async def test_an_entry_of_an_older_version_is_found_by_what_that_did_not_know_of(stores):
    async with stores.fresh() as store:
        new = Region(id="r", parent_region_id="p")
        await store.apply([Entry(1, "t", 0, (Put("regions", ("r",), encode(new), {"id": "r"}),))])
        assert await store.find(Region, parent_region_id="p") == [new]


async def test_what_sites_have_said_is_there_for_everybody_until_it_is_taken_back(stores):
    async with stores.fresh() as store:
        await store.acknowledge("RegionOne", b"1")
        await store.acknowledge("RegionTwo", b"2")
        await store.acknowledge("RegionOne", b"3")
        assert await store.acknowledged() == {"RegionOne": b"3", "RegionTwo": b"2"}
        await store.acknowledge("RegionTwo", b"")
    async with stores.again() as store:
        assert await store.acknowledged() == {"RegionOne": b"3"}


async def test_a_snapshot_stands_still_while_writes_go_on(stores):
    async with stores.fresh() as store:
        for number in range(1, 4):
            await store.apply([region(number, f"r{number}")])
        before = await all_rows(store)
        async with store.snapshot() as snapshot:
            seen = []
            async for row in snapshot.rows():
                seen.append(row)
                position = await store.applied(LOG)
                old = await store.get(Region, "r2")
                changes = (put(Region(id=f"s{position}")), *([remove(old)] if old else []))
                await store.apply([Entry(position + 1, "t", 0, changes)])
            assert (snapshot.position, seen) == before
        async with store.snapshot() as snapshot:
            assert snapshot.position == 6


async def broken_off(rows):
    for row in rows:
        yield row
    raise ConnectionError


async def rubbish(rows):
    for row in rows:
        yield row
    yield "regions", ("z",), b"\xc1"


@pytest.mark.parametrize("breaks", [broken_off, rubbish])
async def test_a_restore_that_fails_leaves_everything_as_it_was(stores, breaks):
    async with stores.fresh() as store:
        await store.append(LOG, 0, [region(1)])
        await store.apply([region(1)])
        before = await all_rows(store)
        rows = [("regions", (f"{one:05}",), encode(Region(id=f"{one:05}"))) for one in range(1100)]
        with pytest.raises((ConnectionError, msgspec.DecodeError)):
            await store.restore(50, breaks(rows))
        assert await all_rows(store) == before
        assert (await store.applied(LOG), await store.head(LOG)) == (1, 1)
        assert await store.append(LOG, 1, [region(2)])
        await store.apply([region(2)])
        await store.restore(50, stream(rows))
        assert await all_rows(store) == (50, rows)


async def test_writes_go_on_while_rows_of_a_restore_arrive(stores):
    async with stores.fresh() as store:

        async def slowly():
            for number in range(1, 4):
                await asyncio.wait_for(store.apply([region(number)]), 2)
                assert (await store.get(Region, "a")).description == str(number)
                yield "regions", (f"b{number}",), encode(Region(id=f"b{number}"))

        await store.restore(9, slowly())
        assert [row.id async for row in store.scan(Region)] == ["b1", "b2", "b3"]


async def test_a_closed_store_is_unavailable_and_closes_twice(stores):
    async with stores.fresh() as store:
        await store.close()
        with pytest.raises(Unavailable):
            await store.get(Region, "a")
        with pytest.raises(Unavailable):
            await store.append(LOG, 0, [region(1)])


async def test_a_reader_sees_an_entry_whole_or_not_at_all(stores):
    async with stores.fresh() as store:
        done = False

        async def write():
            nonlocal done
            for number in range(1, 40):
                new = [Region(id=f"r{number}-{one}", parent_region_id="p") for one in range(10)]
                await store.apply([Entry(number, "t", 0, tuple(put(one) for one in new))])
            done = True

        async def read():
            while not done:
                assert len(await store.find(Region, parent_region_id="p")) % 10 == 0

        await asyncio.gather(write(), read(), read())
