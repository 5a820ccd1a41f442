"""Endpoints and groups of endpoints that projects are given; what their tokens' catalogs then show."""

import pytest

GONE = "0" * 32
F = "/OS-EP-FILTER"
G = f"{F}/endpoint_groups"


@pytest.fixture
async def place(admin):
    """Two services with endpoints, and a project with a member."""
    one, two = await admin.make("service", type="one"), await admin.make("service", type="two")
    await admin.make("region", id="north")
    ends = {}
    for name, service, interface in (("a", one, "public"), ("b", one, "internal"), ("c", two, "public")):
        made = await admin.make(
            "endpoint", service_id=service["id"], interface=interface, url=f"http://{name}/", region_id="north"
        )
        ends[name] = made["id"]
    project = await admin.make("project", name="p")
    user = await admin.make("user", name="m", password="secret-1")
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    await admin("PUT", f"/projects/{project['id']}/users/{user['id']}/roles/{roles['member']}")
    return {**ends, "one": one["id"], "two": two["id"], "project": project["id"], "user": user["id"]}


@pytest.fixture
async def member(place, stranger):
    return await stranger.login("m", "secret-1", {"project": {"id": place["project"]}})


async def make_group(admin, **filters):
    answer = await admin("POST", G, {"endpoint_group": {"name": "g", "filters": filters}})
    assert answer.status == 201, answer.body
    return answer.body["endpoint_group"]


async def give(admin, place, name):
    assert (await admin("PUT", f"{F}/projects/{place['project']}/endpoints/{place[name]}")).status == 204


async def urls(client):
    """What the caller's catalog shows, in all three places where it shows."""
    token = {"X-Subject-Token": client.token}
    validated = (await client("GET", "/auth/tokens", headers=token)).body["token"]["catalog"]
    listed = (await client("GET", "/auth/catalog")).body["catalog"]
    assert validated == listed
    return sorted(end["url"] for one in listed for end in one["endpoints"] if end["region"] == "north")


async def services(client):
    return {one["type"] for one in (await client("GET", "/auth/catalog")).body["catalog"]}


async def test_a_project_sees_what_it_was_given_and_no_service_without(admin, place, member):
    assert await urls(member) == ["http://a/", "http://b/", "http://c/"]
    await give(admin, place, "a")
    assert await urls(member) == ["http://a/"]
    assert await services(member) == {"one"}
    await give(admin, place, "c")
    assert await urls(member) == ["http://a/", "http://c/"]


async def test_other_projects_and_other_scopes_see_everything(admin, place, member):
    await give(admin, place, "a")
    assert await urls(member) == ["http://a/"]
    assert await urls(admin) == ["http://a/", "http://b/", "http://c/"]


async def test_a_new_token_shows_it_too(admin, place, member, stranger):
    await give(admin, place, "a")
    scope = {"project": {"id": place["project"]}}
    who = {"id": place["user"], "password": "secret-1"}
    auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}
    catalog = (await stranger("POST", "/auth/tokens", {"auth": auth})).body["token"]["catalog"]
    assert [end["url"] for one in catalog for end in one["endpoints"]] == ["http://a/"]


async def test_what_was_given_is_taken_away(admin, place, member):
    path = f"{F}/projects/{place['project']}/endpoints/{place['a']}"
    await give(admin, place, "a")
    assert (await admin("GET", path)).status == (await admin("HEAD", path)).status == 204
    assert (await admin("PUT", path)).status == 409
    assert (await admin("DELETE", path)).status == 204
    gone = await admin("DELETE", path)
    assert (gone.status, gone.message) == (
        404,
        f"Endpoint {place['a']} not found in project {place['project']}",
    )
    assert (await admin("GET", path)).status == 404
    assert await urls(member) == ["http://a/", "http://b/", "http://c/"]


async def test_a_group_gives_what_fits_it_now_and_later(admin, place, member):
    group = await make_group(admin, interface="public", service_id=place["one"])
    assert (await admin("PUT", f"{G}/{group['id']}/projects/{place['project']}")).status == 204
    assert await urls(member) == ["http://a/"]
    await admin.make("endpoint", service_id=place["one"], interface="public", url="http://d/", region_id="north")
    assert await urls(member) == ["http://a/", "http://d/"]
    await admin("PATCH", f"{G}/{group['id']}", {"endpoint_group": {"filters": {"interface": "internal"}}})
    assert await urls(member) == ["http://b/"]
    await give(admin, place, "c")
    assert await urls(member) == ["http://b/", "http://c/"]
    shown = (await admin("GET", f"{F}/projects/{place['project']}/endpoints")).body["endpoints"]
    assert {place["b"], place["c"]} <= {one["id"] for one in shown}


async def test_a_group_that_fits_nothing_is_as_none_and_a_disabled_endpoint_is_not(admin, place, member):
    group = await make_group(admin, region_id="nowhere")
    await admin("PUT", f"{G}/{group['id']}/projects/{place['project']}")
    assert await urls(member) == ["http://a/", "http://b/", "http://c/"]
    await give(admin, place, "a")
    await admin("PATCH", f"/endpoints/{place['a']}", {"endpoint": {"enabled": False}})
    assert (await member("GET", "/auth/catalog")).body["catalog"] == []


@pytest.mark.parametrize("what", ["endpoint", "service", "group", "project"])
async def test_links_go_with_their_ends(admin, place, member, what):
    group = await make_group(admin, service_id=place["one"])
    link = f"{G}/{group['id']}/projects/{place['project']}"
    await admin("PUT", link)
    await give(admin, place, "c")
    paths = {
        "endpoint": f"/endpoints/{place['c']}",
        "service": f"/services/{place['two']}",
        "group": f"{G}/{group['id']}",
        "project": f"/projects/{place['project']}",
    }
    assert (await admin("DELETE", paths[what])).status == 204
    if what == "project":
        assert (await admin("GET", f"{G}/{group['id']}/projects")).body["projects"] == []
        assert (await admin("GET", f"{F}/endpoints/{place['c']}/projects")).body["projects"] == []
    elif what == "group":
        assert (await admin("GET", f"{F}/projects/{place['project']}/endpoint_groups")).body["endpoint_groups"] == []
        assert await urls(member) == ["http://c/"]
    else:
        assert await urls(member) == ["http://a/", "http://b/"]


async def test_groups_are_resources(admin, place):
    group = await make_group(admin, interface="public")
    assert group["description"] is None
    assert group["links"]["self"].endswith(f"/v3{G}/{group['id']}")
    path = f"{G}/{group['id']}"
    assert (await admin("GET", path)).body == {"endpoint_group": group}
    assert (await admin("GET", f"{G}?name=g")).body["endpoint_groups"] == [group]
    assert (await admin("GET", f"{G}?name=h")).body["endpoint_groups"] == []
    changed = await admin("PATCH", path, {"endpoint_group": {"name": "h", "description": "d"}})
    assert (changed.status, changed.body["endpoint_group"]["name"]) == (200, "h")
    assert (await admin("PATCH", path, {"endpoint_group": {"name": "h"}})).position is None
    link = f"{path}/projects/{place['project']}"
    assert (await admin("GET", link)).status == 404
    await admin("PUT", link)
    assert (await admin("PUT", link)).status == 409
    told = (await admin("GET", link)).body["project_endpoint_group"]
    assert told == {"endpoint_group_id": group["id"], "project_id": place["project"], "links": {"self": link}}
    projects = (await admin("GET", f"{path}/projects")).body["projects"]
    assert [one["id"] for one in projects] == [place["project"]]
    found = (await admin("GET", f"{path}/endpoints")).body["endpoints"]
    assert {place["a"], place["c"]} <= {one["id"] for one in found}
    assert place["b"] not in {one["id"] for one in found}
    assert (await admin("DELETE", link)).status == 204
    assert (await admin("DELETE", link)).status == 404
    assert (await admin("DELETE", path)).status == 204
    gone = await admin("GET", path)
    assert (gone.status, gone.message) == (404, f"Could not find Endpoint Group: {group['id']}.")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": "x"},
        {"name": "x", "filters": {}},
        {"name": "x", "filters": None},
        {"name": "x", "filters": {"enabled": True}},
        {"name": "x", "filters": {"url": "http://x"}},
        {"name": "x", "filters": {"interface": "none"}},
        {"name": "x", "filters": {"service_id": 5}},
        {"name": " ", "filters": {"interface": "public"}},
        {"name": "x" * 256, "filters": {"interface": "public"}},
        {"name": "x", "filters": {"interface": "public"}, "colour": "red"},
        {"name": "x", "filters": {"interface": "public"}, "id": GONE},
    ],
)
async def test_what_is_no_group_is_refused_and_changes_nothing(admin, wrong):
    answer = await admin("POST", G, {"endpoint_group": wrong})
    assert (answer.status, answer.position) == (400, None)
    assert (await admin("GET", G)).body["endpoint_groups"] == []
    group = await make_group(admin, interface="public")
    if set(wrong) & {"colour", "id"} or (wrong.get("filters") and not wrong["filters"].get("interface") == "public"):
        assert (await admin("PATCH", f"{G}/{group['id']}", {"endpoint_group": wrong})).status == 400
    assert (await admin("GET", f"{G}/{group['id']}")).body == {"endpoint_group": group}


async def test_a_link_needs_both_ends(admin, place):
    group = await make_group(admin, interface="public")
    for path, word in (
        (f"{F}/projects/{GONE}/endpoints/{place['a']}", "project"),
        (f"{F}/projects/{place['project']}/endpoints/{GONE}", "endpoint"),
        (f"{G}/{group['id']}/projects/{GONE}", "project"),
        (f"{G}/{GONE}/projects/{place['project']}", "Endpoint Group"),
    ):
        answer = await admin("PUT", path)
        assert (answer.status, answer.message) == (404, f"Could not find {word}: {GONE}.")


async def test_only_admins_change_and_only_readers_of_the_system_read(admin, stranger, place, member):
    group = await make_group(admin, interface="public")
    link = f"{F}/projects/{place['project']}/endpoints/{place['a']}"
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    await admin("PUT", f"/system/users/{place['user']}/roles/{roles['reader']}")
    reader = await stranger.login("m", "secret-1", {"system": {"all": True}})
    body = {"endpoint_group": {"name": "x", "filters": {"interface": "public"}}}
    changes = [
        ("PUT", link, None),
        ("DELETE", link, None),
        ("POST", G, body),
        ("PATCH", f"{G}/{group['id']}", body),
        ("DELETE", f"{G}/{group['id']}", None),
        ("PUT", f"{G}/{group['id']}/projects/{place['project']}", None),
        ("DELETE", f"{G}/{group['id']}/projects/{place['project']}", None),
    ]
    reads = [
        G,
        f"{G}/{group['id']}",
        f"{G}/{group['id']}/endpoints",
        f"{G}/{group['id']}/projects",
        f"{F}/projects/{place['project']}/endpoints",
        f"{F}/projects/{place['project']}/endpoint_groups",
        f"{F}/endpoints/{place['a']}/projects",
    ]
    for method, path, sent in [*changes, *(("GET", path, None) for path in reads)]:
        assert (await stranger(method, path, sent)).status == 401
        assert (await member(method, path, sent)).status == 403
    for method, path, sent in changes:
        assert (await reader(method, path, sent)).status == 403
    for path in reads:
        assert (await reader("GET", path)).status == 200


async def test_certificates_of_old_tokens_are_gone(admin, stranger):
    for client in (admin, stranger):
        for name in ("ca", "certificates"):
            answer = await client("GET", f"/OS-SIMPLE-CERT/{name}")
            assert (answer.status, answer.body["error"]["title"]) == (410, "Gone")
