"""What many validations share is read once; nothing that is remembered outlives a change."""

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regional_keystone.fastpath import Memory
from regional_keystone.log import put, remove
from regional_keystone.model import Grant, Group, Implication, Membership, Project, Role, User
from regional_keystone.overlay import Recording
from regional_keystone.record import facts as table_of
from regional_keystone.remembered import Remembered
from tests.site.realm import ROLE, SCOPE_P, SYSTEM, P, U, grant
from tests.site.region import region

G, Q = "99" * 16, "cc" * 16


@pytest.fixture
async def place(tmp_path):
    async with region(tmp_path) as made:
        yield made


async def newcomer(place, *more, name=None):
    """A user whom nobody has seen yet, in a group that has roles as well."""
    user_id = uuid.uuid4().hex
    template = await place.overlay.get(User, U)
    row = User(id=user_id, name=name or user_id, domain_id="default", password_hash=template.password_hash)
    place.change(put(row), put(Membership(user_id=user_id, group_id=G)), put(grant(user_id, P, "member")), *more)
    await place.apply()
    return user_id


@pytest.mark.parametrize("scope", [SCOPE_P, {"domain": {"id": "default"}}, SYSTEM, None])
async def test_a_new_user_costs_three_statements_once_the_neighbourhood_is_known(place, scope):
    place.change(
        put(Group(id=G, name="g", domain_id="default")),
        put(grant(G, P, "service", actor="group")),
        put(grant(G, "default", "service", target="domain", actor="group")),
        put(grant(G, "default", "reader", target="domain", actor="group", inherited=True)),
        put(grant(G, "system", "admin", target="system", actor="group")),
    )
    tokens = [(await place.login(scope, user=await newcomer(place))).text for _ in range(3)]
    process = await place.process()
    assert await process.says(tokens[0]) == await process.says(tokens[0])
    for text in tokens[1:]:
        process.store.asked.clear()
        assert b'"token"' in await process.says(text)
        assert [kind for kind, *_ in process.store.asked] == ["User", "Membership", "Grant"][: 3 if scope else 1]
        process.store.asked.clear()
        assert b'"token"' in await process.says(text)
        assert process.store.asked == []


async def test_another_token_of_the_same_user_in_the_same_scope_costs_nothing(place):
    process = await place.process()
    first, second = [(await place.login(SCOPE_P)).text for _ in range(2)]
    await process.says(first)
    process.store.asked.clear()
    assert b'"token"' in await process.says(second)
    assert process.store.asked == []


async def test_what_is_read_from_memory_is_a_read_like_any_other(place):
    """Else a transaction, or a verdict, would not stand or fall with it."""
    process = await place.process()
    recorded = []
    for _ in range(2):
        recording = Recording(process.rows)
        await recording.get(Role, ROLE["member"])
        await recording.get(Project, "nobody")
        await recording.find(Implication, prior_role_id=ROLE["member"])
        await recording.find(Grant, actor_id=U)
        recorded.append((recording.reads, recording.position))
    assert recorded[0] == recorded[1]
    assert len(recorded[0][0]) == 4
    assert len(process.store.asked) == 4


async def test_a_secret_is_not_remembered(place):
    process = await place.process()
    for _ in range(2):
        assert (await process.rows.get(User, U)).password_hash
    assert process.store.asked == [("User", U)] * 2


async def test_what_is_not_there_is_remembered_until_it_is(place):
    process = await place.process()
    for _ in range(3):
        assert await process.rows.get(Project, Q) is None
        assert await process.rows.find(Grant, actor_id=G) == []
    assert len(process.store.asked) == 2
    project = Project(id=Q, name="q", domain_id="default", parent_id="default")
    place.change(put(project), put(grant(G, Q, "reader", actor="group")))
    assert await process.rows.get(Project, Q) == project
    assert await process.rows.find(Grant, actor_id=G) == [grant(G, Q, "reader", actor="group")]


async def test_a_list_that_somebody_changes_is_only_theirs(place):
    process = await place.process()
    for _ in range(2):
        (await process.rows.find(Grant, actor_id=U)).clear()
    assert await process.rows.find(Grant, actor_id=U) == [grant(U, P, "member")]


async def test_what_changed_while_it_was_read_is_not_remembered(place):
    process = await place.process()

    class Slow:
        position = property(lambda self: process.overlay.position)

        async def get(self, kind, *key):
            found = await process.overlay.get(kind, *key)
            place.change(put(Role(id=ROLE["reader"], name="seer"), Role(id=ROLE["reader"], name="reader")))
            return found

    slow = Remembered(Slow(), process.rows.memory)
    assert (await slow.get(Role, ROLE["reader"])).name == "reader"
    assert (await process.rows.get(Role, ROLE["reader"])).name == "seer"


async def test_memory_is_bounded_and_a_long_list_is_not_kept(place):
    process = await place.process()
    rows = Remembered(process.overlay, Memory(process.known, 10))
    for number in range(50):
        await rows.get(Project, str(number))
    assert len(rows.memory._derived) == len(rows.memory._readers) == 10
    place.change(*(put(grant(G, f"{number:032x}", "reader", actor="group")) for number in range(1001)))
    await place.apply()
    process.store.asked.clear()
    for _ in range(2):
        assert len(await process.rows.find(Grant, actor_id=G)) == 1001
    assert len(process.store.asked) == 2


async def test_it_starts_anew_with_the_replica(place):
    process = await place.process()
    await process.rows.get(Role, ROLE["member"])
    process.rows.memory.forget_all()
    await process.rows.get(Role, ROLE["member"])
    assert len(process.store.asked) == 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "read", "race", "apply"]),
        st.sampled_from(["role", "project", "implication", "grant"]),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    max_size=30,
)


def row(what, one, other):
    ids = [f"{n}" * 32 for n in (one, other)]
    match what:
        case "role":
            return Role(id=ids[0], name=f"name {other}")
        case "project":
            return Project(id=ids[0], name=f"name {other}", domain_id="default", parent_id="default")
        case "implication":
            return Implication(prior_role_id=ids[0], implied_role_id=ids[1])
        case "grant":
            return grant(ids[0], ids[1], "member")


@given(STEPS)
def test_after_any_history_it_says_what_the_overlay_says(tmp_path_factory, steps):
    async def compare(process):
        for one in "012":
            for kind in (Role, Project):
                assert await process.rows.get(kind, one * 32) == await process.overlay.get(kind, one * 32)
            for kind, field in ((Implication, "prior_role_id"), (Grant, "actor_id")):
                equals = {field: one * 32}
                assert await process.rows.find(kind, **equals) == await process.overlay.find(kind, **equals)

    async def run():
        async with region(tmp_path_factory.mktemp("history")) as place:
            process = await place.process()
            for do, *what in steps:
                record = row(*what)
                old = await place.overlay.get(type(record), *table_of(type(record)).key_of(record))
                if do == "apply":
                    await place.apply()
                elif do == "remove" and old is not None:
                    place.change(remove(old))
                elif do == "put" and old != record:
                    place.change(put(record, old))
                elif do == "race" and old != record:
                    reading = asyncio.create_task(compare(process))
                    await asyncio.sleep(0)
                    place.change(put(record, old))
                    await asyncio.gather(reading, return_exceptions=True)  # two answers of two moments may differ
                await compare(process)

    asyncio.run(run())
