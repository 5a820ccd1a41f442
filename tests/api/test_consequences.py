"""What a change brings with it: no row that refers to nothing, no token that outlives its reason."""

import pytest

from regional_keystone.api.consequences import follow
from regional_keystone.errors import Conflict
from regional_keystone.log import Put, put, remove
from regional_keystone.model import Endpoint, Grant, Group, Membership, Project, Region, RevocationEvent, Role, User
from regional_keystone.overlay import Recording, transact
from regional_keystone.record import TABLES, decode, facts

NOW, KEEP_S = 1_700_000_000_000_000, 10.0
D = Project(id="d", name="d", is_domain=True)
P = Project(id="p", name="p", domain_id="d", parent_id="d")
U, G, R = User(id="u", name="u", domain_id="d"), Group(id="g", name="g", domain_id="d"), Role(id="r", name="r")
M = Membership(user_id="u", group_id="g")


def grant(actor, actor_id, target="project", target_id="p"):
    return Grant(actor=actor, actor_id=actor_id, target=target, target_id=target_id, role_id="r")


@pytest.fixture
async def store(world):
    """Stores records; `followed` tells what a change brings with it."""

    async def save(*records):
        async def decide(_):
            return [put(one) for one in records], None

        await transact(world.overlay, world.controller.sequencer, f"test/{len(records)}/{records[0]}"[:60], decide)

    async def followed(*changes):
        found = await follow(Recording(world.overlay), changes, NOW, KEEP_S)
        rows = {
            (one.table, one.key): decode(TABLES[one.table].kind, one.row) if isinstance(one, Put) else None
            for one in found
        }
        events = [one for one in rows.values() if isinstance(one, RevocationEvent)]
        return {row: one for row, one in rows.items() if row[0] != "revocations"}, [_traits(one) for one in events]

    save.followed = followed
    return save


def _traits(event):
    assert event.issued_before == event.revoked_at == NOW
    assert event.keep_until == NOW + int(KEEP_S * 1_000_000)
    times = {"id", "issued_before", "revoked_at", "keep_until"}
    return {n: getattr(event, n) for n in event.__struct_fields__ if n not in times and getattr(event, n) is not None}


async def test_a_user_takes_its_memberships_and_grants_along(store):
    await store(D, P, U, G, R, M, grant("user", "u"), grant("group", "g"))
    rows, events = await store.followed(remove(U))
    assert rows == dict.fromkeys(
        [("users", ("u",)), ("memberships", ("u", "g")), ("grants", facts(Grant).key_of(grant("user", "u")))]
    )
    assert events == [{"user_id": "u"}]


async def test_a_domain_takes_all_that_is_in_it(store):
    below = Project(id="q", name="q", domain_id="d", parent_id="p")
    elsewhere = User(id="v", name="v", domain_id="default", default_project_id="q")
    await store(D, P, below, U, G, R, M, elsewhere, grant("user", "v", target_id="q"))
    rows, events = await store.followed(remove(D))
    kept = {row: one for row, one in rows.items() if one is not None}
    assert kept == {("users", ("v",)): User(id="v", name="v", domain_id="default")}
    assert {row[0] for row in rows} == {"projects", "users", "groups", "memberships", "grants"}
    assert {"project_id": "q"} in events
    assert {"user_id": "u"} in events
    assert {"user_id": "v"} not in events


async def test_a_loop_in_the_data_ends(store):
    one, two = Region(id="1", parent_region_id="2"), Region(id="2", parent_region_id="1")
    await store(one, two)
    rows, events = await store.followed(remove(one))
    assert rows == {("regions", ("1",)): None, ("regions", ("2",)): None}
    assert events == []


async def test_what_must_not_lose_its_reference_refuses(store):
    region = Region(id="1")
    await store(region, Endpoint(id="e", service_id="s", interface="public", url="http://x", region_id="1"))
    with pytest.raises(Conflict):
        await store.followed(remove(region))


@pytest.mark.parametrize(
    ("new", "events"),
    [
        ({"enabled": False}, [{"user_id": "u"}]),
        ({"password_hash": "new"}, [{"user_id": "u"}]),
        ({"password_hash": None}, []),
        ({"name": "other"}, []),
        ({"options": {"lock_password": True}}, []),
    ],
)
async def test_what_voids_a_users_tokens(store, new, events):
    old = User(id="u", name="u", domain_id="d", password_hash="old")
    await store(old)
    changed = User(**{"id": "u", "name": "u", "domain_id": "d", "password_hash": "old", **new})
    assert (await store.followed(put(changed, old)))[1] == events


async def test_enabling_again_voids_nothing(store):
    old = User(id="u", name="u", domain_id="d", enabled=False)
    await store(old)
    assert (await store.followed(put(User(id="u", name="u", domain_id="d"), old)))[1] == []


async def test_who_leaves_a_group_loses_its_tokens(store):
    await store(U, G, M)
    assert (await store.followed(remove(M)))[1] == [{"user_id": "u"}]


@pytest.mark.parametrize("granted", [True, False])
async def test_a_group_that_goes_voids_tokens_only_if_it_gave_roles(store, granted):
    await store(U, G, M, *([grant("group", "g")] if granted else []))
    rows, events = await store.followed(remove(G))
    assert ("memberships", ("u", "g")) in rows
    assert events == ([{"user_id": "u"}] if granted else [])


async def test_the_same_again_is_the_same_event(store):
    await store(U)
    first = await store.followed(remove(U))
    assert first == await store.followed(remove(U))


async def test_a_password_change_ends_every_token_of_before(admin, stranger):
    user = await admin.make("user", name="x", password="secret-1")
    theirs = await stranger.login("x", "secret-1")
    assert (await theirs("GET", "/auth/projects")).status == 200
    assert (await admin("PATCH", f"/users/{user['id']}", {"user": {"password": "secret-2"}})).status == 200
    assert (await theirs("GET", "/auth/projects")).status == 401
    assert (await admin("DELETE", f"/users/{user['id']}")).status == 204
    assert user["id"] not in str((await admin("GET", "/role_assignments")).body)
