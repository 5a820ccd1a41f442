"""One battery over every Resource: made, listed, shown, changed, removed, refused."""

import asyncio

import pytest

NEW = {
    "region": {"description": "d"},
    "service": {"type": "t", "name": "n"},
    "endpoint": {"interface": "public", "url": "http://x/"},
    "domain": {"name": "n"},
    "project": {"name": "n"},
    "user": {"name": "n", "password": "secret-1"},
    "group": {"name": "n"},
    "role": {"name": "n"},
}
CHANGE = {"endpoint": {"url": "http://y/"}}
UNIQUE = ["domain", "project", "user", "group", "role"]
FIRST = {
    "domain": "PATCH DELETE",
    "group": "DELETE",
    "role": "GET PATCH DELETE",
}  # 404 for what is not there, to anybody
every = pytest.mark.parametrize("member", list(NEW))
GONE = "0" * 32


async def attributes(admin, member, **more):
    found = NEW[member] | more
    if member == "endpoint":
        found["service_id"] = (await admin.make("service", type="t"))["id"]
    return found


async def made(admin, member, **more):
    return await admin.make(member, **await attributes(admin, member, **more))


@every
async def test_what_is_made_is_shown_and_listed_with_a_link_to_itself(admin, member):
    new = await made(admin, member)
    one = await admin("GET", f"/{member}s/{new['id']}")
    assert one.body == {member: new}
    assert new["links"] == {"self": f"http://127.0.0.1:5000/v3/{member}s/{new['id']}"}
    whole = await admin("GET", f"/{member}s")
    assert new in whole.body[f"{member}s"]
    assert whole.body["links"] == {"next": None, "self": f"http://127.0.0.1:5000/v3/{member}s", "previous": None}


@every
async def test_head_is_get_with_the_length_of_the_body_in_place_of_it(admin, member):
    new = await made(admin, member)
    for path in (f"/{member}s", f"/{member}s/{new['id']}"):
        head, get = await admin("HEAD", path), await admin("GET", path)
        assert (head.status, head.body) == (200, None)
        raw = await admin.world.ask("GET", f"/v3{path}", headers={"X-Auth-Token": admin.token})
        assert head.headers == {**get.headers, "Content-Length": str(len(raw.body))}


@every
async def test_a_change_stays_and_tells_its_position(admin, member):
    new = await made(admin, member)
    change = CHANGE.get(member, {"description": "changed"})
    changed = await admin("PATCH", f"/{member}s/{new['id']}", {member: change})
    assert changed.status == 200
    assert changed.position is not None
    shown = (await admin("GET", f"/{member}s/{new['id']}")).body[member]
    assert shown.items() >= change.items()
    assert shown["id"] == new["id"]


@every
async def test_a_change_of_nothing_is_no_entry_of_the_log(admin, member):
    new = await made(admin, member)
    same = {name: new[name] for name in CHANGE.get(member, {"name": 1}) if name in new} or {"description": "d"}
    assert (await admin("PATCH", f"/{member}s/{new['id']}", {member: same})).position is None


@every
async def test_what_is_removed_is_gone(admin, member):
    new = await made(admin, member)
    if member == "domain":
        await admin("PATCH", f"/domains/{new['id']}", {"domain": {"enabled": False}})
    gone = await admin("DELETE", f"/{member}s/{new['id']}")
    assert (gone.status, gone.body) == (204, None)
    assert "Content-Type" not in gone.headers
    for method in ("GET", "PATCH", "DELETE"):
        body = {member: {"description": "x"}} if method == "PATCH" else None
        answer = await admin(method, f"/{member}s/{new['id']}", body)
        assert (answer.status, answer.message) == (404, f"Could not find {member}: {new['id']}.")


@every
async def test_unknown_attributes_are_kept_and_null_stays_null(admin, member):
    new = await made(admin, member, colour="red", **{"odd-name:x": 1})
    assert new["colour"] == "red"
    assert new["odd_name_x"] == 1
    shown = (await admin("PATCH", f"/{member}s/{new['id']}", {member: {"colour": None, "size": 2}})).body[member]
    assert shown["colour"] is None
    assert shown["size"] == 2


@every
async def test_the_id_is_the_servers_and_never_changes(admin, member):
    new = await made(admin, member, **({} if member == "region" else {"id": "mine"}))
    assert new["id"] != "mine"
    answer = await admin("PATCH", f"/{member}s/{new['id']}", {member: {"id": GONE}})
    assert (answer.status, answer.message) == (400, "Cannot change ID")
    same = {"id": new["id"], **CHANGE.get(member, {"description": "x"})}
    assert (await admin("PATCH", f"/{member}s/{new['id']}", {member: same})).status == 200


@every
async def test_nobody_without_a_token_and_nobody_without_a_role(admin, stranger, member):
    new = await made(admin, member)
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    body = {member: await attributes(admin, member)}
    for method, path, sent in (
        ("POST", f"/{member}s", body),
        ("PATCH", f"/{member}s/{new['id']}", {member: CHANGE.get(member, {"description": "x"})}),
        ("DELETE", f"/{member}s/{new['id']}", None),
    ):
        unproven = await stranger(method, path, sent)
        assert unproven.status == 401
        assert unproven.headers["WWW-Authenticate"] == 'Keystone uri="http://127.0.0.1:5000/v3"'
        assert (await nobody(method, path, sent)).status == 403
    assert (await admin("GET", f"/{member}s/{new['id']}")).body == {member: new}


@every
async def test_what_is_not_there_is_told_before_the_policy_where_keystone_does(admin, stranger, member):
    new = await made(admin, member)
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    for method in ("GET", "PATCH", "DELETE"):
        body = {member: CHANGE.get(member, {"description": "x"})} if method == "PATCH" else None
        gone, there = f"/{member}s/{GONE}", f"/{member}s/{new['id']}"
        is_open = (member, method) == ("region", "GET")
        told = is_open or method in FIRST.get(member, "").split()
        assert (await stranger(method, gone, body)).status == 401
        assert (await nobody(method, gone, body)).status == (404 if told else 403)
        assert (await nobody(method, there, body)).status == (200 if is_open else 403)


async def test_a_project_is_no_domain_to_anybody(admin, stranger):
    project = await made(admin, "project")
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    answer = await nobody("DELETE", f"/domains/{project['id']}")
    assert (answer.status, answer.message) == (404, f"Could not find domain: {project['id']}.")
    assert (await nobody("GET", f"/domains/{project['id']}")).status == 403


@pytest.mark.parametrize("member", UNIQUE)
async def test_a_taken_name_conflicts_and_nothing_stays(admin, member):
    await made(admin, member)
    before = (await admin("GET", f"/{member}s")).body
    assert (await admin("POST", f"/{member}s", {member: NEW[member]})).status == 409
    other = await made(admin, member, name="other")
    assert (await admin("PATCH", f"/{member}s/{other['id']}", {member: {"name": "n"}})).status == 409
    assert len((await admin("GET", f"/{member}s")).body[f"{member}s"]) == len(before[f"{member}s"]) + 1


@pytest.mark.parametrize("member", UNIQUE)
async def test_of_many_who_want_a_name_exactly_one_gets_it(admin, member):
    asked = [admin("POST", f"/{member}s", {member: NEW[member]}) for _ in range(8)]
    statuses = sorted(answer.status for answer in await asyncio.gather(*asked))
    assert statuses == [201, *[409] * 7]


@every
async def test_no_secret_is_ever_shown(admin, member):
    new = await made(admin, member)
    texts = [str((await admin("GET", path)).body) for path in (f"/{member}s", f"/{member}s/{new['id']}")]
    for text in (*texts, str(new)):
        assert "secret-1" not in text
        assert "password_hash" not in text
        assert "$2b$" not in text


async def test_lists_are_filtered(admin):
    for name in ("Ann", "anna", "bob"):
        await admin.make("user", name=name)

    async def names(query):
        found = (await admin("GET", f"/users?{query}")).body["users"]
        return sorted(one["name"] for one in found if one["name"] != "admin")

    assert await names("name=anna") == ["anna"]
    assert await names("name__contains=nn") == ["Ann", "anna"]
    assert await names("name__icontains=ANN") == ["Ann", "anna"]
    assert await names("name__startswith=a") == ["anna"]
    assert await names("name__iendswith=NN") == ["Ann"]
    assert await names("enabled=false") == []
    assert await names("enabled") == ["Ann", "anna", "bob"]
    assert await names("unknown=1") == ["Ann", "anna", "bob"]
    assert (await admin("GET", "/users?enabled=maybe")).status == 400


async def test_pages_follow_each_other_to_the_end(admin):
    for number in range(5):
        await admin.make("group", name=f"g{number}")
    found, path = [], "/groups?limit=2"
    while path:
        page = (await admin("GET", path)).body
        found += [one["name"] for one in page["groups"]]
        following = page["links"]["next"]
        path = following and following.partition("/v3")[2]
    assert sorted(found) == [f"g{number}" for number in range(5)]
    assert (await admin("GET", "/groups?marker=none")).status == 404
    assert (await admin("GET", "/groups?limit=x")).status == 400


async def test_a_domains_manager_sees_its_domain_and_nothing_else(admin, stranger):
    one, other = await admin.make("domain", name="one"), await admin.make("domain", name="other")
    user = await admin.make("user", name="m", domain_id=one["id"], password="secret-1")
    theirs = await admin.make("user", name="x", domain_id=other["id"])
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    await admin("PUT", f"/domains/{one['id']}/users/{user['id']}/roles/{roles['manager']}")
    manager = await stranger.login("m", "secret-1", {"domain": {"id": one["id"]}}, one["id"])
    assert [found["id"] for found in (await manager("GET", "/users")).body["users"]] == [user["id"]]
    assert [found["id"] for found in (await manager("GET", "/domains")).body["domains"]] == [one["id"]]
    assert (await manager("GET", "/projects")).body["projects"] == []
    assert (await manager("GET", f"/users/{theirs['id']}")).status == 403
    assert (await manager("PATCH", f"/users/{theirs['id']}", {"user": {"name": "y"}})).status == 403
    new = {"name": "n", "domain_id": other["id"]}
    assert (await manager("POST", "/users", {"user": new})).status == 403
    assert (await manager("POST", "/users", {"user": new | {"domain_id": one["id"]}})).status == 201


async def test_a_domain_stays_enabled_or_is_disabled_before_it_goes(admin):
    domain = await admin.make("domain", name="d")
    assert (await admin("DELETE", f"/domains/{domain['id']}")).status == 403
    assert (await admin("DELETE", f"/projects/{domain['id']}")).status == 403


async def test_the_tree_of_projects_has_five_floors(admin):
    parent = None
    for number in range(5):
        parent = (await admin.make("project", name=f"p{number}", **({"parent_id": parent} if parent else {})))["id"]
    answer = await admin("POST", "/projects", {"project": {"name": "deep", "parent_id": parent}})
    assert (answer.status, answer.message) == (403, f"Max hierarchy depth reached for {parent} branch.")


async def test_what_is_immutable_is_first_made_mutable(admin):
    role = await admin.make("role", name="r", options={"immutable": True})
    path = f"/roles/{role['id']}"
    assert (await admin("PATCH", path, {"role": {"name": "x"}})).status == 403
    assert (await admin("DELETE", path)).status == 403
    both = {"options": {"immutable": False}, "name": "x"}
    assert (await admin("PATCH", path, {"role": both})).status == 403
    assert (await admin("PATCH", path, {"role": {"options": {"immutable": False}}})).status == 200
    assert (await admin("DELETE", path)).status == 204


async def test_regions_never_go_in_circles(admin):
    one = await admin.make("region", id="one")
    two = await admin.make("region", id="two", parent_region_id=one["id"])
    for parent in (one["id"], two["id"]):
        assert (await admin("PATCH", "/regions/one", {"region": {"parent_region_id": parent}})).status == 400


async def test_a_password_is_changed_by_who_knows_it(admin, stranger):
    user = await admin.make("user", name="u", password="secret-1")
    path = f"/users/{user['id']}/password"
    wrong = {"user": {"original_password": "no", "password": "secret-2"}}
    assert (await stranger("POST", path, wrong)).status == 401
    right = {"user": {"original_password": "secret-1", "password": "secret-2"}}
    assert (await stranger("POST", path, right)).status == 204
    assert (await stranger("POST", path, right)).status == 401
    await stranger.login("u", "secret-2")


async def test_without_a_domain_a_new_user_is_in_the_scope_s_domain_else_in_the_default_one(world, admin):
    domain = await admin.make("domain", name="d")
    project = await admin.make("project", name="p", domain_id=domain["id"])
    who = await admin.make("user", name="a", domain_id=domain["id"], password="pw-1234")
    role = (await admin("GET", "/roles?name=admin")).body["roles"][0]["id"]
    for kind, one, expected in (("projects", project, "default"), ("domains", domain, domain["id"])):
        await admin("PUT", f"/{kind}/{one['id']}/users/{who['id']}/roles/{role}")
        scope = {kind.removesuffix("s"): {"id": one["id"]}}
        caller = await admin.login("a", "pw-1234", scope, domain=domain["id"])
        assert (await caller.make("user", name=f"b-{kind}"))["domain_id"] == expected
