"""What a change brings with it: no row that refers to nothing, no token that outlives its reason."""

import pytest

from regional_keystone.api.consequences import ROOM, follow, step
from regional_keystone.errors import Conflict
from regional_keystone.log import Put, put, remove
from regional_keystone.model import (
    ApplicationCredential,
    Deletion,
    Endpoint,
    Grant,
    Group,
    Membership,
    Project,
    Region,
    RevocationEvent,
    Role,
    User,
)
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


async def test_nothing_is_looked_up_for_a_row_that_nothing_follows_from(world):
    recording = Recording(world.overlay)
    made = put(RevocationEvent(id="e", issued_before=NOW, revoked_at=NOW, keep_until=NOW, audit_id="a"))
    assert await follow(recording, [made], NOW, KEEP_S) == (made,)
    assert recording.reads == frozenset()


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


# --------------------------------------------------------------------------------------- too much for one transaction


@pytest.fixture
def deleted(world):
    """Deletes a record as a handler would; `go_on` does a step of each deletion that is left, `end` all of them."""
    store, sequencer = world.overlay, world.controller.sequencer
    sizes, names = [], iter(range(10**6))

    async def commit(decide):
        changes, _ = await transact(store, sequencer, f"deleted/{next(names)}", decide)
        sizes.append(len(changes))

    async def delete(*records):
        async def decide(reader):
            changes = await follow(reader, [remove(one) for one in records], NOW, KEEP_S)
            return changes, changes

        await commit(decide)

    async def left():
        return [one async for one in store.scan(Deletion)]

    async def go_on():
        for one in await left():

            async def decide(reader, one=one):
                changes = await step(reader, await reader.get(Deletion, one.id), NOW, KEEP_S)
                return changes, changes

            await commit(decide)

    async def end():
        while await left():
            await go_on()

    async def every(kind):
        return [one async for one in store.scan(kind)]

    delete.go_on, delete.end, delete.left, delete.every, delete.sizes = go_on, end, left, every, sizes
    delete.store = store
    return delete


async def of_scale(store, users):
    """A domain with so many users, each with a default project, in a group, and with a role on one project."""
    people = [User(id=f"u{n}", name=f"u{n}", domain_id="d", default_project_id="p") for n in range(users)]
    await store(D, P, G, R, Project(id="q", name="q", domain_id="d", parent_id="p"), grant("group", "g"))
    for start in range(0, users, 100):
        some = people[start : start + 100]
        await store(*some, *(Membership(user_id=one.id, group_id="g") for one in some))
        await store(*(grant("user", one.id, target_id="q") for one in some))
    return people


async def test_a_domain_of_many_goes_in_steps_each_of_bounded_size(store, deleted):
    before = {kind: len(await deleted.every(kind)) for kind in (User, Group, Project, Grant, Membership)}
    people = await of_scale(store, 700)
    await deleted(D)
    assert await deleted.store.get(Project, "d") is None
    assert [one.id for one in await deleted.left()] == ["groups/g", "projects/d"]
    assert await deleted.store.get(User, people[-1].id)
    await deleted.end()
    assert {kind: len(await deleted.every(kind)) for kind in before} == before
    assert max(deleted.sizes) <= 2 * ROOM + 5, "rows, their events, and what is left"
    assert len(deleted.sizes) > 10
    voided = {event.user_id for event in await deleted.every(RevocationEvent)}
    assert voided >= {one.id for one in people}


async def test_what_gives_roles_goes_before_those_who_have_them(store, deleted):
    await of_scale(store, 300)
    await deleted(G)
    assert await deleted.store.find(Grant, actor_id="g") == []
    (left,) = await deleted.left()
    assert (left.table, left.key, left.voids) == ("groups", "g", True)
    await deleted.end()
    assert await deleted.every(Membership) == []
    assert {event.user_id for event in await deleted.every(RevocationEvent)} >= {f"u{n}" for n in range(300)}


async def test_members_of_a_great_group_that_gave_no_roles_keep_their_tokens(store, deleted):
    people = [User(id=f"u{n}", name=f"u{n}", domain_id="d") for n in range(300)]
    await store(D, G, *people)
    for start in (0, 150):
        await store(*(Membership(user_id=one.id, group_id="g") for one in people[start : start + 150]))
    await deleted(G)
    await deleted.end()
    assert await deleted.every(Membership) == []
    assert await deleted.every(RevocationEvent) == []


async def test_what_is_added_meanwhile_goes_too_and_a_new_row_of_the_same_id_waits(store, deleted):
    await of_scale(store, 300)
    await deleted(D)
    await store(Membership(user_id="u299", group_id="g"), grant("user", "u299", target_id="elsewhere"))
    with pytest.raises(Conflict, match="still being deleted"):
        await store.followed(put(D))
    await deleted.end()
    assert await deleted.store.find(Grant, actor_id="u299") == []
    await store.followed(put(D))


async def test_a_default_project_of_many_is_cleared_in_steps(store, deleted):
    people = [User(id=f"u{n}", name=f"u{n}", domain_id="default", default_project_id="p") for n in range(500)]
    for start in range(0, 500, 100):
        await store(*people[start : start + 100])
    await store(P)
    await deleted(P)
    await deleted.end()
    assert await deleted.store.find(User, default_project_id="p") == []
    assert len([one for one in await deleted.every(User) if one.id.startswith("u")]) == 500


async def test_a_great_deletion_is_refused_by_the_last_of_many_that_must_not_lose_its_reference(store, deleted):
    region = Region(id="1")
    many = [Region(id=f"r{n:04}", parent_region_id="1") for n in range(450)]
    for start in range(0, 450, 150):
        await store(*many[start : start + 150])
    await store(region, Endpoint(id="e", service_id="s", interface="public", url="http://x", region_id="1"))
    with pytest.raises(Conflict, match="refers to it"):
        await deleted(region)
    assert await deleted.left() == []
    assert len(await deleted.store.find(Region, parent_region_id="1")) == 450


async def test_a_role_of_many_takes_what_users_let_programs_do_along(store, deleted):
    secret = {"secret_hash": "x"} if "secret_hash" in ApplicationCredential.__struct_fields__ else {}
    await store(D, P, R)
    for start in range(0, 400, 100):
        people = [User(id=f"u{n}", name=f"u{n}", domain_id="d") for n in range(start, start + 100)]
        await store(*people, *(grant("user", one.id) for one in people))
    await store(ApplicationCredential(id="a", name="a", user_id="u7", project_id="p", role_ids=("r",), **secret))
    await deleted(R)
    await deleted.end()
    assert await deleted.every(ApplicationCredential) == []
