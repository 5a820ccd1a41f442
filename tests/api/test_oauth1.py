"""OAuth 1: programs that are known, and what users have handed them."""

import pytest

from regional_keystone.log import put
from regional_keystone.model import AccessToken, RevocationEvent
from regional_keystone.overlay import transact
from regional_keystone.revocation import Traits
from tests.api.conftest import Client
from tests.api.test_credentials import handed_on

P = "/OS-OAUTH1/consumers"


async def make(client, **about):
    answer = await client("POST", P, {"consumer": about})
    assert answer.status == 201, answer.body
    return answer.body["consumer"]


async def save(world, *records):
    async def decide(_):
        return [put(one) for one in records], None

    await transact(world.overlay, world.controller.sequencer, f"test/{records[0].id}", decide)


@pytest.fixture
async def org(admin, world):
    found = {"project": (await admin.make("project", name="p"))["id"]}
    found["roles"] = {one["name"]: one["id"] for one in (await admin("GET", "/roles")).body["roles"]}
    for name in ("ann", "bob"):
        found[name] = (await admin.make("user", name=name, password="pw-1234"))["id"]
        await admin("PUT", f"/projects/{found['project']}/users/{found[name]}/roles/{found['roles']['member']}")
        found[f"as {name}"] = await Client(world).login(name, "pw-1234", {"project": {"id": found["project"]}})
    found["consumer"] = (await make(admin, description="d"))["id"]
    about = {"consumer_id": found["consumer"], "project_id": found["project"], "secret": "handed-on-secret"}
    member = (found["roles"]["member"],)
    await save(world, AccessToken(id="at", authorizing_user_id=found["ann"], role_ids=member, **about))
    found["tokens"] = f"/users/{found['ann']}/OS-OAUTH1/access_tokens"
    return found


async def events(world):
    found = [one async for one in world.overlay.scan(RevocationEvent)]
    names = ("user_id", "consumer_id", "access_token_id", "project_id")
    return [{name: getattr(one, name) for name in names if getattr(one, name)} for one in found]


async def test_a_consumer_is_told_its_secret_once(admin):
    made = await make(admin, description="a program", colour="red", secret="mine", id="mine")
    one = f"{P}/{made['id']}"
    assert len(made["secret"]) == 32
    shown = {
        "id": made["id"],
        "description": "a program",
        "colour": "red",
        "links": {"self": f"http://127.0.0.1:5000/v3{one}"},
    }
    assert {**shown, "secret": made["secret"]} == made
    assert (await admin("GET", one)).body["consumer"] == shown
    assert (await admin("GET", P)).body["consumers"] == [shown]
    changed = await admin("PATCH", one, {"consumer": {"description": None, "colour": "blue"}})
    assert changed.body["consumer"] == {**shown, "description": None, "colour": "blue"}
    assert (await admin("HEAD", one)).status == 200
    assert (await admin("DELETE", one)).status == 204
    assert (await admin("GET", one)).status == 404


async def test_secrets_differ_even_of_one_request(admin):
    named = "44444444-4444-4444-4444-444444444444"
    first = await admin("POST", P, {"consumer": {}}, named=named)
    await admin("DELETE", f"{P}/{first.body['consumer']['id']}")
    second = await admin("POST", P, {"consumer": {}}, named=named)
    assert first.body["consumer"]["secret"] != second.body["consumer"]["secret"]


@pytest.mark.parametrize(
    "body", [{"secret": "x"}, {"secret": "x", "description": "y"}, {"description": 5}, {}, {"id": "else"}]
)
async def test_what_must_not_change_does_not(admin, body):
    made = await make(admin, description="d")
    before = (await admin("GET", f"{P}/{made['id']}")).body
    assert (await admin("PATCH", f"{P}/{made['id']}", {"consumer": body})).status == 400
    assert (await admin("GET", f"{P}/{made['id']}")).body == before


@pytest.mark.parametrize("description", [5, [], "x" * 65])
async def test_bad_input_is_refused(admin, description):
    assert (await admin("POST", P, {"consumer": {"description": description}})).status == 400
    assert (await admin("GET", P)).body["consumers"] == []


async def test_consumers_are_for_administrators(admin, org, stranger):
    one = f"{P}/{org['consumer']}"
    asked = [("GET", P, None), ("GET", one, None), ("POST", P, {"consumer": {}}), ("DELETE", one, None)]
    asked.append(("PATCH", one, {"consumer": {"description": "x"}}))
    for method, path, body in asked:
        assert (await org["as ann"](method, path, body)).status == 403
        assert (await stranger(method, path, body)).status == 401
    assert (await admin("GET", one)).body["consumer"]["description"] == "d"


async def test_access_tokens_with_their_roles(admin, org):
    one, role = f"{org['tokens']}/at", org["roles"]["member"]
    shown = {
        "id": "at",
        "consumer_id": org["consumer"],
        "authorizing_user_id": org["ann"],
        "project_id": org["project"],
        "expires_at": None,
        "links": {"self": f"http://127.0.0.1:5000/v3{one}", "roles": f"http://127.0.0.1:5000/v3{one}/roles"},
    }
    assert (await admin("GET", org["tokens"])).body["access_tokens"] == [shown]
    assert (await admin("GET", one)).body["access_token"] == shown
    found = (await admin("GET", f"{one}/roles")).body["roles"]
    assert [(each["id"], each["name"]) for each in found] == [(role, "member")]
    assert found[0].keys() == {"id", "name", "domain_id", "options", "links"}
    assert (await admin("GET", f"{one}/roles/{role}")).body["role"] == found[0]
    assert (await admin("GET", f"{one}/roles/{org['roles']['admin']}")).status == 404
    assert (await admin("HEAD", one)).status == 200


async def test_another_users_access_token_is_as_good_as_none(admin, org):
    place = f"/users/{org['bob']}/OS-OAUTH1/access_tokens"
    assert (await admin("GET", place)).body["access_tokens"] == []
    role = org["roles"]["member"]
    for method, path in (("GET", ""), ("GET", "/roles"), ("GET", f"/roles/{role}"), ("DELETE", "")):
        for key in ("at", "gone"):
            answer = await admin(method, f"{place}/{key}{path}")
            assert (answer.status, answer.message) == (404, "Access token not found")


async def test_who_may_not(admin, org):
    one = f"{org['tokens']}/at"
    for client in (org["as ann"], org["as bob"]):
        for method, path in (("GET", org["tokens"]), ("GET", one), ("GET", f"{one}/roles"), ("DELETE", one)):
            assert (await client(method, path)).status == 403
    for method, path in (("GET", org["tokens"]), ("GET", one), ("DELETE", one)):
        answer = await handed_on(admin)(method, path)
        assert answer.status == 403
        assert answer.message == "Cannot manage OAuth access tokens with a token issued via delegation."
    assert (await admin("GET", one)).status == 200


async def test_deleting_an_access_token_voids_what_was_made_with_it(admin, org, world):
    assert (await admin("DELETE", f"{org['tokens']}/at")).status == 204
    assert await events(world) == [{"access_token_id": "at"}]
    assert (await admin("GET", org["tokens"])).body["access_tokens"] == []


async def test_deleting_a_consumer_voids_all_its_tokens(admin, org, world):
    index = world.controller.part.follower.index
    about = {"user_id": org["ann"], "issued_at": 0, "expires_at": 10**18, "audit_id": "one"}
    traits = Traits(consumer_id=org["consumer"], access_token_id="at", **about)
    other = Traits(consumer_id="other", access_token_id="other", **about)
    assert not index.voided(traits)
    assert (await admin("DELETE", f"{P}/{org['consumer']}")).status == 204
    said = await events(world)
    assert {"consumer_id": org["consumer"]} in said
    assert {"access_token_id": "at"} in said
    assert (index.voided(traits), index.voided(other)) == (True, False)
    assert (await admin("GET", org["tokens"])).body["access_tokens"] == []


@pytest.mark.parametrize("gone", ["/users/{ann}", "/projects/{project}"])
async def test_who_goes_takes_access_tokens_along(admin, org, world, gone):
    assert (await admin("DELETE", gone.format(**org))).status == 204
    assert [one async for one in world.overlay.scan(AccessToken)] == []


async def test_a_role_that_is_gone_is_left_out(admin, org):
    role = (await admin.make("role", name="r"))["id"]
    about = {"consumer_id": org["consumer"], "project_id": org["project"], "secret": "s"}
    await save(org["as ann"].world, AccessToken(id="b", authorizing_user_id=org["ann"], role_ids=(role,), **about))
    await admin("DELETE", f"/roles/{role}")
    assert (await admin("GET", f"{org['tokens']}/b/roles")).body["roles"] == []
    assert (await admin("GET", f"{org['tokens']}/b/roles/{role}")).status == 404
