"""GET /role_assignments: what is granted, and what it comes to."""

import pytest


@pytest.fixture
async def org(admin):
    """A domain with a tree, a user in a group, and one grant of each kind."""
    found = {"domain": (await admin.make("domain", name="d"))["id"]}
    inside = {"domain_id": found["domain"]}
    found["top"] = (await admin.make("project", name="top", **inside))["id"]
    found["sub"] = (await admin.make("project", name="sub", parent_id=found["top"], **inside))["id"]
    for name in ("u", "v"):
        found[name] = (await admin.make("user", name=name, password="secret-1", **inside))["id"]
    found["g"] = (await admin.make("group", name="g", **inside))["id"]
    for name in ("r", "i", "s"):
        found[name] = (await admin.make("role", name=name))["id"]
    for place in (
        "/groups/{g}/users/{u}",
        "/roles/{r}/implies/{i}",
        "/projects/{top}/groups/{g}/roles/{r}",
        "/OS-INHERIT/domains/{domain}/users/{v}/roles/{s}/inherited_to_projects",
        "/projects/{sub}/users/{u}/roles/{s}",
        "/system/users/{v}/roles/{r}",
    ):
        answer = await admin("PUT", place.format(**found))
        assert answer.status in {201, 204}
    return found


async def lines(client, query, org):
    """(actor, role, scope) of each line, by the names of `org`."""
    names = {value: name for name, value in org.items()}
    answer = await client("GET", f"/role_assignments?{query}".format(**org))
    assert answer.status == 200, answer.body
    found = []
    for one in answer.body["role_assignments"]:
        actor = one.get("user") or one["group"]
        scope = one["scope"].get("project") or one["scope"].get("domain") or {"id": "system"}
        found.append(
            (names.get(actor["id"]), names.get(one["role"]["id"], "other"), names.get(scope["id"], scope["id"]))
        )
    return sorted(found)


async def test_what_is_granted(admin, org):
    assert await lines(admin, "user.id={u}", org) == [("u", "s", "sub")]
    assert await lines(admin, "group.id={g}", org) == [("g", "r", "top")]
    assert await lines(admin, "user.id={v}", org) == [("v", "r", "system"), ("v", "s", "domain")]
    assert await lines(admin, "role.id={s}", org) == [("u", "s", "sub"), ("v", "s", "domain")]
    assert await lines(admin, "scope.project.id={top}", org) == [("g", "r", "top")]
    assert await lines(admin, "scope.project.id={top}&include_subtree", org) == [("g", "r", "top"), ("u", "s", "sub")]
    assert await lines(admin, "user.id={v}&scope.system=all", org) == [("v", "r", "system")]
    assert await lines(admin, "user.id={v}&scope.OS-INHERIT:inherited_to=projects", org) == [("v", "s", "domain")]


async def test_what_it_comes_to(admin, org):
    assert await lines(admin, "user.id={u}&effective", org) == [("u", "i", "top"), ("u", "r", "top"), ("u", "s", "sub")]
    assert await lines(admin, "user.id={v}&effective", org) == [("v", "s", "sub"), ("v", "s", "top")]
    below = await lines(admin, "scope.project.id={sub}&effective", org)
    assert below == [("u", "s", "sub"), ("v", "s", "sub")]
    assert await lines(admin, "role.id={i}&effective", org) == [("u", "i", "top")]


async def test_the_list_says_what_a_token_has(admin, stranger, org):
    scope = {"project": {"id": org["top"]}}
    theirs = await stranger.login("u", "secret-1", scope, org["domain"])
    token = (await theirs("GET", "/auth/tokens", headers={"X-Subject-Token": theirs.token})).body["token"]
    listed = await lines(admin, "user.id={u}&scope.project.id={top}&effective", org)
    assert sorted(one["name"] for one in token["roles"]) == sorted(role for _, role, _ in listed)


async def test_names_and_links(admin, org):
    answer = await admin("GET", f"/role_assignments?user.id={org['u']}&effective&include_names&role.id={org['i']}")
    (one,) = answer.body["role_assignments"]
    base = "http://127.0.0.1:5000/v3"
    assert one["user"] == {"id": org["u"], "name": "u", "domain": {"id": org["domain"], "name": "d"}}
    assert one["role"] == {"id": org["i"], "name": "i"}
    assert one["links"] == {
        "assignment": f"{base}/projects/{org['top']}/groups/{org['g']}/roles/{org['r']}",
        "membership": f"{base}/groups/{org['g']}/users/{org['u']}",
        "prior_role": f"{base}/prior_role/{org['i']}/implies/{org['r']}",
    }


@pytest.mark.parametrize(
    "query",
    [
        "scope.project.id=x&scope.domain.id=y",
        "scope.project.id=x&scope.system=all",
        "user.id=x&group.id=y",
        "group.id=x&effective",
        "include_subtree",
        "effective&scope.domain.id=x&scope.OS-INHERIT:inherited_to=projects",
    ],
)
async def test_questions_without_an_answer_are_refused(admin, query):
    assert (await admin("GET", f"/role_assignments?{query}")).status == 400


async def test_a_domains_reader_sees_its_domain_only(admin, stranger, org):
    reader = (await admin("GET", "/roles?name=reader")).body["roles"][0]["id"]
    await admin("PUT", f"/domains/{org['domain']}/users/{org['v']}/roles/{reader}")
    theirs = await stranger.login("v", "secret-1", {"domain": {"id": org["domain"]}}, org["domain"])
    found = await lines(theirs, "", org)
    assert found == [("g", "r", "top"), ("u", "s", "sub"), ("v", "other", "domain"), ("v", "s", "domain")]
    assert (await theirs("GET", f"/role_assignments?scope.project.id={org['top']}&include_subtree")).status == 200
