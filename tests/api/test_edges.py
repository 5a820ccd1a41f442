"""Links: made, told, broken, listed; whose ends are gone; who may."""

import pytest

GONE = "0" * 32


@pytest.fixture
async def things(admin):
    """One of each thing that a link may join, and where the links are."""
    user, group = await admin.make("user", name="u"), await admin.make("group", name="g")
    domain, role = await admin.make("domain", name="d"), await admin.make("role", name="r")
    project = await admin.make("project", name="p")
    return {
        "user": user["id"],
        "group": group["id"],
        "domain": domain["id"],
        "project": project["id"],
        "role": role["id"],
    }


EDGES = {
    "membership": "/groups/{group}/users/{user}",
    **{
        f"{target}-{actor}": f"/{target}s/{{{target}}}/{actor}s/{{{actor}}}/roles/{{role}}"
        for target in ("project", "domain")
        for actor in ("user", "group")
    },
    **{
        f"inherited-{target}-{actor}": f"/OS-INHERIT/{target}s/{{{target}}}/{actor}s/{{{actor}}}/roles/{{role}}/inherited_to_projects"
        for target in ("project", "domain")
        for actor in ("user", "group")
    },
    **{f"system-{actor}": f"/system/{actor}s/{{{actor}}}/roles/{{role}}" for actor in ("user", "group")},
}
every = pytest.mark.parametrize("path", EDGES.values(), ids=EDGES)
LISTED = {name: path for name, path in EDGES.items() if not name.startswith("inherited-project")}


@every
async def test_a_link_is_made_told_and_broken(admin, things, path):
    place = path.format(**things)
    assert (await admin("GET", place)).status == 404
    made = await admin("PUT", place)
    assert (made.status, made.body) == (204, None)
    again = await admin("PUT", place)
    assert (again.status, again.position) == (204, None)
    assert (await admin("HEAD", place)).status == 204
    assert (await admin("GET", place)).status == 204
    assert (await admin("DELETE", place)).status == 204
    assert (await admin("DELETE", place)).status == 404
    assert (await admin("HEAD", place)).status == 404


@pytest.mark.parametrize("path", LISTED.values(), ids=LISTED)
async def test_the_far_ends_are_listed(admin, things, path):
    place = path.format(**things)
    far = "user" if path.startswith("/groups") else "role"
    whole = place.replace(f"/{things[far]}", "")
    assert (await admin("GET", whole)).body[f"{far}s"] == []
    await admin("PUT", place)
    assert [one["id"] for one in (await admin("GET", whole)).body[f"{far}s"]] == [things[far]]


@every
async def test_a_link_to_nothing_is_refused(admin, things, path):
    for end in ("user", "group", "project", "domain", "role"):
        if f"{{{end}}}" in path:
            answer = await admin("PUT", path.format(**things | {end: GONE}))
            assert (answer.status, answer.message) == (404, f"Could not find {end}: {GONE}.")


@every
async def test_a_link_needs_a_caller_who_may(admin, stranger, things, path):
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    place = path.format(**things)
    await admin("PUT", place)
    for method in ("PUT", "GET", "DELETE"):
        assert (await stranger(method, place)).status == 401
        assert (await nobody(method, place)).status == 403
    assert (await admin("GET", place)).status == 204


@every
async def test_an_end_that_is_not_there_is_told_before_the_policy_where_keystone_does(admin, stranger, things, path):
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    is_told = not path.startswith(("/groups", "/OS-INHERIT"))
    for end in (one for one in things if f"{{{one}}}" in path):
        place = path.format(**things | {end: GONE})
        for method in ("PUT", "GET", "DELETE"):
            may_lack = method == "DELETE" and end in ("user", "group")  # what they held can be taken away
            assert (await stranger(method, place)).status == 401
            assert (await nobody(method, place)).status == (404 if is_told and not may_lack else 403)
        if is_told and end != "role":
            assert (await nobody("GET", place.rpartition("/")[0])).status == 404


async def test_a_grant_on_the_project_is_not_one_below_it(admin, things):
    direct = EDGES["project-user"].format(**things)
    await admin("PUT", direct)
    assert (await admin("GET", EDGES["inherited-project-user"].format(**things))).status == 404
    assert (await admin("DELETE", EDGES["inherited-project-user"].format(**things))).status == 404
    assert (await admin("GET", direct)).status == 204


async def test_a_role_of_a_domain_stays_in_it(admin, things):
    role = await admin.make("role", name="local", domain_id=things["domain"])
    local = things | {"role": role["id"]}
    assert (await admin("PUT", EDGES["system-user"].format(**local))).status == 400
    assert (await admin("PUT", EDGES["project-user"].format(**local))).status == 403
    inside = await admin.make("project", name="inside", domain_id=things["domain"])
    assert (await admin("PUT", EDGES["project-user"].format(**local | {"project": inside["id"]}))).status == 204


async def test_roles_imply_each_other(admin, things):
    prior = (await admin.make("role", name="prior"))["id"]
    place = f"/roles/{prior}/implies/{things['role']}"
    made = await admin("PUT", place)
    assert made.status == 201
    assert made.body["role_inference"]["implies"]["name"] == "r"
    assert (await admin("PUT", place)).status == 409
    assert (await admin("GET", place)).body == made.body
    assert (await admin("HEAD", place)).status == 204
    whole = (await admin("GET", f"/roles/{prior}/implies")).body["role_inference"]
    assert [one["id"] for one in whole["implies"]] == [things["role"]]
    rules = (await admin("GET", "/role_inferences")).body["role_inferences"]
    assert prior in [rule["prior_role"]["id"] for rule in rules]
    assert (await admin("DELETE", place)).status == 204
    assert (await admin("HEAD", place)).status == 404
    everything = next(one for one in (await admin("GET", "/roles?name=admin")).body["roles"])
    assert (await admin("PUT", f"/roles/{prior}/implies/{everything['id']}")).status == 403


async def test_tags(admin, things):
    whole = f"/projects/{things['project']}/tags"
    assert (await admin("PUT", f"{whole}/one")).status == 201
    assert (await admin("GET", f"{whole}/one")).status == 204
    assert (await admin("PUT", whole, {"tags": ["b", "a"]})).body["tags"] == ["b", "a"]
    assert (await admin("GET", f"{whole}/one")).status == 404
    found = (await admin("GET", "/projects?tags=a,b")).body["projects"]
    assert [one["id"] for one in found] == [things["project"]]
    assert things["project"] not in str((await admin("GET", "/projects?not-tags-any=a,x")).body)
    assert (await admin("DELETE", f"{whole}/a")).status == 204
    assert (await admin("DELETE", whole)).status == 204
    assert (await admin("GET", whole)).body["tags"] == []
