"""What the real one does in corners where one would not look: names, lists, queries, bodies."""

from urllib.parse import quote

import pytest

from regional_keystone.api import tree
from regional_keystone.api.fields import TEXT


async def test_the_name_of_a_role_is_what_was_sent_and_another_one_with_blanks_is_another(admin):
    role = await admin.make("role", name="  a  ")
    assert role["name"] == "  a  "
    assert (await admin("GET", f"/roles/{role['id']}")).body["role"]["name"] == "  a  "
    await admin.make("role", name="Case")
    await admin.make("role", name=" Case ")
    again = await admin("POST", "/roles", {"role": {"name": " Case "}})
    assert again.status == 409


async def test_a_domain_with_an_immutable_project_stays_with_all_that_is_in_it(admin, monkeypatch):
    monkeypatch.setattr(tree, "_ROWS", 2)
    domain = await admin.make("domain", name="d")
    for number in range(5):
        await admin.make("project", name=f"p{number}", domain_id=domain["id"])
    above = (await admin("GET", f"/projects?domain_id={domain['id']}&name=p3")).body["projects"][0]
    kept = await admin.make(
        "project", name="kept", domain_id=domain["id"], parent_id=above["id"], options={"immutable": True}
    )
    place = f"/domains/{domain['id']}"
    assert (await admin("PATCH", place, {"domain": {"enabled": False}})).status == 200
    refused = await admin("DELETE", place)
    assert (refused.status, refused.position) == (403, None)
    assert refused.message == (
        f'Unable to delete immutable project resource: `{kept["id"]}. Set resource option "immutable" to false first.'
    )
    assert len((await admin("GET", f"/projects?domain_id={domain['id']}")).body["projects"]) == 6
    mutable = {"project": {"options": {"immutable": False}}}
    assert (await admin("PATCH", f"/projects/{kept['id']}", mutable)).status == 200
    assert (await admin("DELETE", place)).status == 204
    assert (await admin("GET", f"/projects/{kept['id']}")).status == 404


async def test_scopes_are_listed_whether_they_are_enabled_or_not(admin):
    user = await admin.make("user", name="u", password="secret-1")
    role = await admin.make("role", name="r")
    project, domain = await admin.make("project", name="p"), await admin.make("domain", name="d")
    for place, one in (("projects", project), ("domains", domain)):
        assert (await admin("PUT", f"/{place}/{one['id']}/users/{user['id']}/roles/{role['id']}")).status == 204
        member = place.removesuffix("s")
        assert (await admin("PATCH", f"/{place}/{one['id']}", {member: {"enabled": False}})).status == 200
    someone = await admin.login("u", "secret-1")
    for above in ("auth", "OS-FEDERATION"):
        for place, one in (("projects", project), ("domains", domain)):
            listed = (await someone("GET", f"/{above}/{place}")).body[place]
            assert [(row["id"], row["enabled"]) for row in listed] == [(one["id"], False)]


@pytest.fixture
async def below(admin):
    """Lists of users, groups and projects that are those of something, each with one row."""
    user, group = await admin.make("user", name="u"), await admin.make("group", name="g")
    project, role = await admin.make("project", name="p"), await admin.make("role", name="r")
    assert (await admin("PUT", f"/groups/{group['id']}/users/{user['id']}")).status == 204
    assert (await admin("PUT", f"/projects/{project['id']}/users/{user['id']}/roles/{role['id']}")).status == 204
    return {
        "users": (f"/groups/{group['id']}/users", user["id"]),
        "groups": (f"/users/{user['id']}/groups", group["id"]),
        "projects": (f"/users/{user['id']}/projects", project["id"]),
    }


async def test_a_marker_that_is_not_there_matters_only_in_the_list_of_all(admin, below):
    for collection, (place, one) in below.items():
        listed = await admin("GET", f"{place}?marker=x")
        assert (listed.status, [row["id"] for row in listed.body[collection]]) == (200, [one])
        assert (await admin("GET", f"/{collection}?marker=x")).status == 404


@pytest.mark.parametrize(("word", "found"), [("maybe", 1), ("", 1), ("TRUE", 1), (" Off ", 0), ("f", 0)])
async def test_a_word_that_does_not_say_false_is_true_where_no_words_are_prescribed(admin, below, word, found):
    for collection in ("users", "projects"):
        place, _ = below[collection]
        assert len((await admin("GET", f"{place}?enabled={word}")).body[collection]) == found
    assert (await admin("GET", "/users?enabled=maybe")).status == 400


async def test_projects_are_asked_for_by_a_parent_in_any_form_of_a_uuid_and_in_no_other(admin):
    parent = await admin.make("project", name="above")
    child = await admin.make("project", name="below", parent_id=parent["id"])
    listed = await admin("GET", f"/projects?parent_id={parent['id']}")
    assert [one["id"] for one in listed.body["projects"]] == [child["id"]]
    other = await admin("GET", f"/projects?parent_id=urn:uuid:{parent['id']}")
    assert (other.status, other.body["projects"]) == (200, [])
    for wrong in ("x", "default", ""):
        refused = await admin("GET", f"/projects?parent_id={wrong}")
        assert (refused.status, refused.message.endswith(f"'{wrong}' is not a 'uuid'")) == (400, True)


async def test_a_grant_to_an_id_that_is_too_long_to_be_one_is_not_there(admin):
    role, project = await admin.make("role", name="r"), await admin.make("project", name="p")
    for place in (f"/projects/{project['id']}", "/system"):
        path = f"{place}/users/{'a' * 65}/roles/{role['id']}"
        for method in ("PUT", "HEAD", "GET", "DELETE"):
            assert (await admin(method, path)).status == 404


async def test_a_text_without_a_limit_of_its_own_is_as_long_as_any_text_may_be(admin):
    text = "x" * TEXT
    assert (await admin.make("project", name="p", description=text))["description"] == text
    made = await admin("POST", "/policies", {"policy": {"blob": text, "type": "t"}})
    assert (made.status, made.body["policy"]["blob"]) == (201, text)
    about = {"auth_url": "https://x/a", "sp_url": "https://x/s", "description": text}
    made = await admin("PUT", "/OS-FEDERATION/service_providers/x", {"service_provider": about})
    assert (made.status, made.body["service_provider"]["description"]) == (201, text)
    longer = await admin("POST", "/policies", {"policy": {"blob": text + "x", "type": "t"}})
    assert (longer.status, longer.message) == (400, f"The request body has a text longer than {TEXT} characters.")


async def test_the_id_of_a_user_does_not_become_null(admin):
    user = await admin.make("user", name="u")
    refused = await admin("PATCH", f"/users/{user['id']}", {"user": {"id": None}})
    assert (refused.status, refused.message, refused.position) == (400, "Cannot change user ID", None)
    group = await admin.make("group", name="g")
    assert (await admin("PATCH", f"/groups/{group['id']}", {"group": {"id": None}})).status == 200
    assert (await admin("GET", f"/groups/{group['id']}")).body["group"]["id"] == group["id"]


async def test_no_domain_has_the_name_that_is_reserved_in_any_case(admin):
    domain = await admin.make("domain", name="d")
    for name in ("Federated", "federated", " FEDERATED "):
        for answer in (
            await admin("POST", "/domains", {"domain": {"name": name}}),
            await admin("POST", "/projects", {"project": {"name": name, "is_domain": True}}),
            await admin("PATCH", f"/domains/{domain['id']}", {"domain": {"name": name}}),
            await admin("PATCH", f"/projects/{domain['id']}", {"project": {"name": name}}),
        ):
            assert (answer.status, answer.position) == (400, None)
            assert answer.message.startswith(f"A domain cannot be named {name.strip()}: ")
    await admin.make("project", name="Federated")


@pytest.mark.parametrize(
    "name",
    [
        "created_at",
        "last_active_at",
        "password_changed_at",
        "password_hash",
        "password_history",
        "password_self_service",
    ],
)
async def test_an_attribute_of_a_user_that_the_server_keeps_itself_is_refused_not_lost(admin, name):
    user = await admin.make("user", name="u")
    for answer in (
        await admin("POST", "/users", {"user": {"name": "v", name: "x"}}),
        await admin("POST", "/users", {"user": {"name": "v", name.replace("_", "-"): "x"}}),
        await admin("PATCH", f"/users/{user['id']}", {"user": {name: None}}),
    ):
        assert (answer.status, answer.position) == (400, None)
        assert "is the server's own" in answer.message
    changed = await admin("PATCH", f"/users/{user['id']}", {"user": {name.replace("_", "-"): "x"}})
    assert changed.body["user"][name.replace("_", "-")] == "x"
    whole = {**user, "password_expires_at": None}
    assert (await admin("PATCH", f"/users/{user['id']}", {"user": whole})).status == 200


async def test_nobody_changes_its_own_password_to_an_empty_one(admin, stranger):
    user = await admin.make("user", name="u", password="secret-1")
    sent = {"user": {"original_password": "secret-1", "password": ""}}
    refused = await stranger("POST", f"/users/{user['id']}/password", sent)
    assert (refused.status, refused.message.endswith("'' should be non-empty")) == (400, True)
    await admin.login("u", "secret-1")


@pytest.mark.parametrize(("tag", "part"), [("ü", "%C3%BC"), (" a ", "%20a%20"), ("a?b", "a%3Fb"), ("a:b", "a:b")])
async def test_the_place_of_a_tag_is_an_address(admin, tag, part):
    project = await admin.make("project", name="p")
    made = await admin("PUT", f"/projects/{project['id']}/tags/{quote(tag)}")
    assert made.status == 201
    assert made.headers["Location"] == f"http://127.0.0.1:5000/v3/{project['id']}/tags/{part}"
