"""Credentials and EC2 keys: whose they are, what may be made of them, and that a secret lies nowhere in clear."""

import hashlib
import itertools
import json

import msgspec
import pytest

from regional_keystone.blobs import primary_hash
from regional_keystone.model import Credential, Outcome, RevocationEvent
from regional_keystone.token import pack, unpack
from tests.api.conftest import Client

P = "/credentials"
SECRET = "a-secret-that-is-nowhere-in-clear"
DENIED = "You are not authorized to perform the requested action: "


def ec2(access="key", **more):
    return json.dumps({"access": access, "secret": SECRET, **more})


def handed_on(client, method="ec2credential"):
    """A token as one gets for an EC2 key: it says how it was made, and nothing else tells it from others."""
    ring = client.world.controller.part.follower.ring
    payload, issued_at, _ = ring.open(client.token)
    token = msgspec.structs.replace(unpack(payload, issued_at), methods=(method,))
    return Client(client.world, ring.seal(pack(token), issued_at))


@pytest.fixture
async def org(admin, world):
    """Two members and a manager of one domain, each with a token for the same project."""
    found = {"domain": (await admin.make("domain", name="d"))["id"]}
    inside = {"domain_id": found["domain"]}
    found["project"] = (await admin.make("project", name="p", **inside))["id"]
    roles = {one["name"]: one["id"] for one in (await admin("GET", "/roles")).body["roles"]}
    found |= {"roles": roles}
    for name, role in {"ann": "member", "bob": "member", "rea": "reader"}.items():
        found[name] = (await admin.make("user", name=name, password="pw-1234", **inside))["id"]
        await admin("PUT", f"/projects/{found['project']}/users/{found[name]}/roles/{roles[role]}")
        scope = {"project": {"id": found["project"]}}
        found[f"as {name}"] = await Client(world).login(name, "pw-1234", scope, found["domain"])
    found["mia"] = (await admin.make("user", name="mia", password="pw-1234", **inside))["id"]
    await admin("PUT", f"/domains/{found['domain']}/users/{found['mia']}/roles/{roles['manager']}")
    scope = {"domain": {"id": found["domain"]}}
    found["as mia"] = await Client(world).login("mia", "pw-1234", scope, found["domain"])
    return found


async def make(client, **about):
    answer = await client("POST", P, {"credential": {"type": "totp", "blob": SECRET, **about}})
    assert answer.status == 201, answer.body
    return answer.body["credential"]


async def listed(client, query=""):
    answer = await client("GET", P + query)
    assert answer.status == 200, answer.body
    return {one["id"] for one in answer.body["credentials"]}


async def rows(world):
    return [row async for row in world.overlay.scan(Credential)]


async def test_a_credential_is_made_shown_changed_and_deleted(admin, org):
    made = await make(admin, user_id=org["ann"], project_id=org["project"], colour="red")
    one = f"{P}/{made['id']}"
    assert made == {
        "id": made["id"],
        "type": "totp",
        "blob": SECRET,
        "user_id": org["ann"],
        "project_id": org["project"],
        "colour": "red",
        "links": {"self": f"http://127.0.0.1:5000/v3{one}"},
    }
    assert (await admin("GET", one)).body["credential"] == made
    head = await admin("HEAD", one)
    assert (head.status, head.body) == (200, None)
    changed = await admin("PATCH", one, {"credential": {"blob": "another"}})
    assert (changed.status, changed.body["credential"]) == (200, {**made, "blob": "another"})
    assert (await admin("GET", one)).body["credential"]["blob"] == "another"
    assert (await admin("DELETE", one)).status == 204
    assert (await admin("GET", one)).status == 404


async def test_an_ec2_key_is_named_by_its_access_key(admin, org):
    about = {"type": "ec2", "user_id": org["ann"], "project_id": org["project"]}
    made = await make(admin, blob=ec2(), **about)
    assert made["id"] == hashlib.sha256(b"key").hexdigest()
    again = await admin("POST", P, {"credential": {**about, "blob": ec2()}})
    assert again.status == 409
    assert made["id"] in again.message


@pytest.mark.parametrize("blob", ["", "x", "[1]", "{}", "null", '{"access": null}', '{"access": 5}', "[" * 30_000])
async def test_an_ec2_key_must_be_one(admin, org, world, blob):
    about = {"type": "ec2", "user_id": org["ann"], "project_id": org["project"], "blob": blob}
    assert (await admin("POST", P, {"credential": about})).status == 400
    assert await rows(world) == []
    made = await make(admin, **{**about, "blob": ec2()})
    assert (await admin("PATCH", f"{P}/{made['id']}", {"credential": {"blob": blob}})).status == 400
    assert (await admin("GET", f"{P}/{made['id']}")).body["credential"]["blob"] == ec2()


@pytest.mark.parametrize(
    ("field", "value"),
    [("blob", 5), ("blob", None), ("type", 5), ("user_id", {}), ("project_id", 5), ("type", "x" * 256)],
)
async def test_bad_input_names_the_field_and_shows_no_secret(admin, org, world, field, value):
    about = {"type": "totp", "blob": SECRET, "user_id": org["ann"], field: value}
    answer = await admin("POST", P, {"credential": about})
    assert answer.status == 400
    assert field in answer.message
    assert SECRET not in answer.message
    assert await rows(world) == []


@pytest.mark.parametrize("field", ["blob", "type", "user_id"])
async def test_what_is_needed(admin, org, field):
    about = {"type": "totp", "blob": SECRET, "user_id": org["ann"]}
    answer = await admin("POST", P, {"credential": {name: one for name, one in about.items() if name != field}})
    assert answer.status == 400
    assert f"{field!r} is a required property" in answer.message
    assert SECRET not in answer.message


async def test_an_ec2_key_needs_a_project(admin, org):
    answer = await admin("POST", P, {"credential": {"type": "ec2", "blob": ec2(), "user_id": org["ann"]}})
    assert answer.status == 400
    assert "'project_id' is a required property" in answer.message


async def test_everybody_has_their_own_and_sees_no_others(admin, org):
    hers = (await make(org["as ann"], user_id=org["ann"]))["id"]
    his = (await make(admin, user_id=org["bob"], type="cert"))["id"]
    assert await listed(admin) == {hers, his}
    assert await listed(admin, f"?user_id={org['ann']}") == {hers}
    assert await listed(admin, "?type=cert") == {his}
    assert await listed(admin, "?type__icontains=TOT") == {hers}
    assert await listed(org["as ann"]) == {hers}
    assert await listed(org["as bob"], f"?user_id={org['ann']}") == set()
    assert await listed(org["as mia"]) == set()
    for nobody in ("as bob", "as mia", "as rea"):
        assert (await org[nobody]("GET", f"{P}/{hers}")).status == 403
        assert (await org[nobody]("PATCH", f"{P}/{hers}", {"credential": {"blob": "x"}})).status == 403
        assert (await org[nobody]("DELETE", f"{P}/{hers}")).status == 403
    about = {"type": "totp", "blob": "x", "user_id": org["ann"]}
    assert (await org["as bob"]("POST", P, {"credential": about})).status == 403
    assert (await org["as ann"]("GET", f"{P}/{hers}")).body["credential"]["blob"] == SECRET


async def test_whether_a_credential_exists_is_not_told_to_others(admin, org):
    answers = [await org["as bob"]("GET", f"{P}/{key}") for key in ((await make(admin, user_id="x"))["id"], "0" * 64)]
    assert {(one.status, one.message) for one in answers} == {(403, f"{DENIED}identity:get_credential.")}


@pytest.mark.parametrize("field", ["user_id", "project_id", "type", "id"])
async def test_only_the_secret_may_be_changed(admin, org, field):
    made = await make(admin, user_id=org["ann"])
    answer = await admin("PATCH", f"{P}/{made['id']}", {"credential": {"blob": "x", field: "else"}})
    assert answer.status == 400
    assert (await admin("GET", f"{P}/{made['id']}")).body["credential"] == made


@pytest.mark.parametrize("name", ["trust_id", "app_cred_id", "access_token_id", "access_id"])
async def test_what_an_ec2_key_was_made_by_is_for_good(admin, org, name):
    made = await make(admin, user_id=org["ann"], project_id=org["project"], type="ec2", blob=ec2(**{name: "t"}))
    for blob in (ec2(), ec2(**{name: "other"}), ec2(**{name: None})):
        answer = await admin("PATCH", f"{P}/{made['id']}", {"credential": {"blob": blob}})
        assert (answer.status, answer.message) == (400, f"{name} can not be updated for credential")
    fine = ec2(**{name: "t"}, more=1)
    assert (await admin("PATCH", f"{P}/{made['id']}", {"credential": {"blob": fine}})).status == 200


async def test_a_token_that_was_handed_on_sees_and_makes_none(admin, org, world):
    mine = (await make(org["as ann"], user_id=org["ann"]))["id"]
    key = (await org["as ann"]("POST", f"/users/{org['ann']}/credentials/OS-EC2", {"tenant_id": org["project"]})).body
    before = await rows(world)
    ec2_keys = f"/users/{org['ann']}/credentials/OS-EC2"
    asked = [
        ("POST", P, {"credential": {"type": "totp", "blob": "x", "user_id": org["ann"]}}),
        ("GET", f"{P}/{mine}", None),
        ("PATCH", f"{P}/{mine}", {"credential": {"blob": "x"}}),
        ("DELETE", f"{P}/{mine}", None),
        ("POST", ec2_keys, {"tenant_id": org["project"]}),
        ("GET", ec2_keys, None),
        ("GET", f"{ec2_keys}/{key['credential']['access']}", None),
        ("DELETE", f"{ec2_keys}/{key['credential']['access']}", None),
    ]
    for client in (handed_on(org["as ann"]), handed_on(admin)):
        for method, path, body in asked:
            answer = await client(method, path, body)
            assert answer.status == 403, path
            assert answer.message == f"{DENIED}Delegated tokens cannot access credentials directly."
        assert await listed(client) == set()
    assert await rows(world) == before


async def test_the_body_is_no_policy_target_but_where_upstream_has_it(admin, org):
    hers = (await make(admin, user_id=org["ann"]))["id"]
    lie = {"target": {"credential": {"user_id": org["bob"]}}, "user_id": org["bob"]}
    for method in ("GET", "DELETE"):
        answer = await org["as bob"](method, f"{P}/{hers}?user_id={org['bob']}", lie)
        assert answer.status == 403
    assert await listed(admin) == {hers}


async def test_who_goes_takes_their_credentials_along(admin, org, world):
    await make(admin, user_id=org["ann"])
    await make(admin, user_id=org["bob"], project_id=org["project"])
    kept = (await make(admin, user_id=org["bob"]))["id"]
    await admin("DELETE", f"/users/{org['ann']}")
    await admin("DELETE", f"/projects/{org['project']}")
    assert {row.id for row in await rows(world)} == {kept}


async def test_ec2_keys_of_a_user(admin, org):
    place = f"/users/{org['ann']}/credentials/OS-EC2"
    made = await org["as ann"]("POST", place, {"tenant_id": org["project"], "access": "mine", "trust_id": "mine"})
    assert made.status == 201
    key = made.body["credential"]
    assert key.keys() == {"user_id", "tenant_id", "access", "secret", "trust_id", "links"}
    assert (key["user_id"], key["tenant_id"], key["trust_id"]) == (org["ann"], org["project"], None)
    assert key["links"]["self"].endswith(f"{place}/{key['access']}")
    assert len({key["access"], key["secret"], "mine"}) == 3
    for client in (org["as ann"], admin):
        assert (await client("GET", place)).body["credentials"] == [key]
        assert (await client("GET", f"{place}/{key['access']}")).body["credential"] == key
        assert (await client("HEAD", f"{place}/{key['access']}")).status == 200
    as_any = (await admin("GET", P)).body["credentials"][0]
    assert as_any["id"] == hashlib.sha256(key["access"].encode()).hexdigest()
    assert json.loads(as_any["blob"]) == {"access": key["access"], "secret": key["secret"], "trust_id": None}
    for nobody in ("as bob", "as mia"):
        assert (await org[nobody]("GET", place)).status == 403
        assert (await org[nobody]("GET", f"{place}/{key['access']}")).status == 403
        assert (await org[nobody]("DELETE", f"{place}/{key['access']}")).status == 403
        assert (await org[nobody]("POST", place, {"tenant_id": org["project"]})).status == 403
    assert (await org["as ann"]("DELETE", f"{place}/{key['access']}")).status == 204
    assert (await org["as ann"]("GET", place)).body["credentials"] == []


async def test_a_reader_makes_no_ec2_keys(org):
    place = f"/users/{org['rea']}/credentials/OS-EC2"
    assert (await org["as rea"]("POST", place, {"tenant_id": org["project"]})).status == 403
    assert (await org["as rea"]("GET", place)).body["credentials"] == []


async def test_the_ids_of_a_request_tell_nothing_of_its_secrets(admin, org, world):
    """Ids are made of the request's id, which everybody may see; secrets are not."""
    place, found = f"/users/{org['ann']}/credentials/OS-EC2", []
    for _ in range(2):
        made = await admin("POST", place, {"tenant_id": org["project"]}, named="22222222-2222-2222-2222-222222222222")
        found += [made.body["credential"]["access"], made.body["credential"]["secret"]]
    assert len(set(found)) == 4


@pytest.mark.parametrize("tenant", [None, "gone", "", 5, [], {"a": 1}])
async def test_an_ec2_key_is_for_a_project_that_is_there(admin, org, tenant):
    answer = await admin("POST", f"/users/{org['ann']}/credentials/OS-EC2", {"tenant_id": tenant})
    assert (answer.status, answer.message) == (404, f"Could not find project: {tenant}.")


async def test_an_unknown_key_and_one_of_another_kind_are_the_same(admin, org):
    await make(admin, type="EC2", user_id=org["ann"], project_id=org["project"], blob=ec2("upper"))
    place = f"/users/{org['ann']}/credentials/OS-EC2"
    for access, method in itertools.product(("upper", "unknown"), ("GET", "DELETE")):
        named = hashlib.sha256(access.encode()).hexdigest()
        for client in (admin, org["as ann"]):
            answer = await client(method, f"{place}/{access}")
            assert (answer.status, answer.message) == (404, f"Could not find credential: {named}.")
        told = (await org["as rea"](method, f"{place}/{access}")).status
        assert told == (404 if access == "unknown" else 403)  # that none is there is told before the policy


async def test_whose_an_ec2_key_is_decides_and_not_the_path(admin, org):
    await make(admin, type="ec2", user_id=org["bob"], project_id=org["project"], blob=ec2("bobs"))
    below_ann = f"/users/{org['ann']}/credentials/OS-EC2/bobs"
    for method, stranger in itertools.product(("GET", "DELETE"), ("ann", "rea", "mia")):
        answer = await org[f"as {stranger}"](method, below_ann)
        action = f"identity:ec2_{'get' if method == 'GET' else 'delete'}_credential"
        assert (answer.status, answer.message) == (403, f"{DENIED}{action}.")
    for client in (admin, org["as bob"]):
        assert (await client("GET", below_ann)).body["credential"]["user_id"] == org["bob"]
        nowhere = await client("DELETE", "/users/none/credentials/OS-EC2/bobs")
        assert (nowhere.status, nowhere.message) == (404, "Could not find user: none.")
    assert (await admin("DELETE", below_ann)).status == 204
    assert (await admin("DELETE", below_ann)).status == 404


async def test_a_list_is_told_a_page_at_a_time(admin, org):
    ids = sorted([(await make(admin, user_id=org["ann"]))["id"] for _ in range(3)])
    first = await admin("GET", f"{P}?limit=2")
    assert [one["id"] for one in first.body["credentials"]] == ids[:2]
    assert first.body["links"]["next"].endswith(f"limit=2&marker={ids[1]}")
    assert await listed(admin, f"?limit=2&marker={ids[1]}") == {ids[2]}


async def test_the_secret_is_nowhere_in_clear(admin, org, world, capsys):
    place = f"/users/{org['ann']}/credentials/OS-EC2"
    made = await make(admin, user_id=org["ann"])
    await admin("PATCH", f"{P}/{made['id']}", {"credential": {"blob": SECRET * 2}}, keep=True)
    kept = await admin("POST", P, {"credential": {"type": "x", "blob": SECRET, "user_id": "u"}}, keep=True)
    key = (await admin("POST", place, {"tenant_id": org["project"]}, keep=True)).body["credential"]
    assert kept.status == 201
    assert await world.controller.part.follower.settled(world.overlay.position, 5.0)
    found = await rows(world)
    ring = world.controller.part.credentials.ring
    assert {row.key_hash for row in found} == {primary_hash(ring)}
    assert all(SECRET not in repr(row) for row in found)
    assert len([row async for row in world.overlay.scan(Outcome)]) == 3
    printed = capsys.readouterr()
    state = world.settings.site.state_dir
    on_disk = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert made["id"].encode() in on_disk  # it is the right file
    for secret in (SECRET, key["secret"], key["access"]):
        assert secret.encode() not in on_disk
        assert secret not in printed.out + printed.err


async def test_a_retry_is_told_the_secret_again(admin, org):
    named = "33333333-3333-3333-3333-333333333333"
    asked = ("POST", f"/users/{org['ann']}/credentials/OS-EC2", {"tenant_id": org["project"]})
    first = await admin(*asked, keep=True, named=named)
    assert (await admin(*asked, keep=True, named=named)).body == first.body
    assert (await org["as ann"](*asked, keep=True, named=named)).status == 409
    assert len((await admin("GET", asked[1])).body["credentials"]) == 1


async def test_the_keys_lie_where_only_their_owner_reads_them(admin, world):
    await world.controller.part.credentials.holding(1)
    directory = world.settings.site.state_dir / "credential-keys"
    files = [path for path in directory.iterdir() if path.name.isdigit()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert b"\0" not in b"".join(path.read_bytes() for path in files)
    keys = {path.read_bytes() for path in files}
    assert len(keys) == 2
    assert keys.isdisjoint(world.controller.part.holder.ring.numbers.values())
    assert b"A" * 43 + b"=" not in keys


async def test_credentials_void_no_token(admin, org, world):
    made = await make(admin, user_id=org["ann"])
    await admin("DELETE", f"{P}/{made['id']}")
    assert [one async for one in world.overlay.scan(RevocationEvent)] == []
