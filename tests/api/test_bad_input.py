"""Whatever is sent, the answer is a refusal that says why, and nothing has changed. Never a 500."""

import json

import pytest

from regional_keystone.messages import Request
from regional_keystone.record import decode
from tests.api.conftest import Client

DEEP = b'{"user": {"name": "a", "x": ' + b"[" * 31 + b"]" * 31 + b"}}"
BAD = {
    "not JSON": b"{",
    "text": b'"user"',
    "array": b"[]",
    "null": b"null",
    "number": b"5",
    "NaN": b'{"user": {"name": NaN}}',
    "infinite": b'{"user": {"name": 1e999}}',
    "long number": b'{"user": {"size": 12345678901234567890}}',
    "number below all": b'{"user": {"name": "a", "size": -9223372036854775809}}',
    "duplicate key": b'{"user": {"name": "a", "name": "b"}}',
    "lone surrogate": b'{"user": {"name": "\\ud800"}}',
    "lone surrogate in a key": b'{"user": {"name": "a", "\\ud800": 1}}',
    "not UTF-8": b'{"user": {"name": "\xff"}}',
    "deep": DEEP,
    "very deep": b'{"user":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "many keys": json.dumps({"user": {str(n): n for n in range(1001)}}).encode(),
    "long text": json.dumps({"user": {"name": "a", "x": "y" * 65_537}}).encode(),
    "no wrapper": b'{"name": "a"}',
    "two wrappers": b'{"user": {"name": "a"}, "group": {}}',
    "wrapper null": b'{"user": null}',
    "wrapper list": b'{"user": [{"name": "a"}]}',
    "no name": b'{"user": {}}',
    "name null": b'{"user": {"name": null}}',
    "name number": b'{"user": {"name": 5}}',
    "name blank": b'{"user": {"name": " "}}',
    "name long": json.dumps({"user": {"name": "x" * 256}}).encode(),
    "enabled text": b'{"user": {"name": "a", "enabled": "true"}}',
    "options unknown": b'{"user": {"name": "a", "options": {"x": 1}}}',
    "password list": b'{"user": {"name": "a", "password": []}}',
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
async def test_a_bad_body_is_refused_and_nothing_is_done(admin, raw):
    before = (await admin("GET", "/users")).body
    answer = await admin("POST", "/users", raw=raw)
    assert answer.status == 400, answer.body
    assert answer.body["error"].keys() == {"code", "title", "message"}
    assert "$." not in answer.message
    assert (await admin("GET", "/users")).body == before


async def test_what_is_just_within_the_limits_is_taken(admin):
    deepest = DEEP.replace(b"[" * 31, b"[" * 30).replace(b"]" * 31, b"]" * 30)
    assert (await admin("POST", "/users", raw=deepest)).status == 201
    assert (await admin("POST", "/users", {"user": {"name": "b", "x": "y" * 65_536, "n": 10**19 - 1}})).status == 201
    assert (await admin("POST", "/users", {"user": {"name": "c", "n": -(2**63)}})).status == 201


async def test_the_message_names_the_field(admin):
    answer = await admin("POST", "/regions", {"region": {"description": 5}})
    assert (
        answer.message == "Invalid input for field/attribute description. Value: 5. 5 is not of type 'string', 'null'"
    )


_WORDS = ("secret-1", ["secret-1"], {"x": "secret-1"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(("/users", {"user": {"name": "n", "password": words, "domain_id": 5}}) for words in _WORDS),
        *(("/users/x/password", {"user": {"original_password": words, "password": 5}}) for words in _WORDS),
        *((path, {"user": [{"name": "n", "password": "secret-1"}]}) for path in ("/users", "/users/x/password")),
        *((path, {"user": "secret-1"}) for path in ("/users", "/users/x/password")),
        ("/users", {"user": {"password": "secret-1"}, "more": 1}),
        ("/users/x/password", {"user": {"password": "secret-1"}}),
    ],
)
async def test_a_refusal_never_repeats_a_password(admin, path, body):
    answer = await admin("POST", path, body)
    assert answer.status == 400
    assert "secret-1" not in str(answer.body)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_says_it_is_not_json_is_refused(admin, kind):
    answer = await admin("POST", "/regions", raw=b'{"region": {}}', headers={"Content-Type": kind})
    assert answer.status == 400


async def test_an_unknown_path_and_a_method_that_is_not_there(admin, stranger):
    for path in ("/nothing", "//users", "/users/x/y/z", "/users//x"):
        answer = await stranger("GET", path)
        assert (answer.status, answer.body["error"]["title"]) == (404, "Not Found")
    answer = await stranger("PUT", "/users")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    options = await stranger("OPTIONS", "/users")
    assert (options.status, options.headers["Allow"]) == (200, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize("token", ["", "garbage", "gAAAA", "\x00", "é", "x" * 5000])
async def test_a_token_that_proves_nothing_is_401(stranger, token):
    answer = await stranger("GET", "/users", headers={"X-Auth-Token": token})
    assert answer.status == 401
    assert token == "" or token not in str(answer.body)


@pytest.mark.parametrize("odd", ["%00", "a%20b", "%F0%9F%98%80", "x" * 3000, "..", "{user_id}", "%25"])
async def test_odd_ids_are_just_not_found(admin, odd):
    for path in (f"/users/{odd}", f"/projects/{odd}?parents_as_list", f"/regions/{odd}", f"/projects/{odd}/tags/x"):
        assert (await admin("GET", path)).status == 404


async def test_dangling_references_are_refused(admin):
    gone = "0" * 32
    service = await admin.make("service", type="t")
    endpoint = {"interface": "public", "url": "http://x/", "service_id": service["id"]}
    for member, body, status in (
        ("user", {"name": "n", "domain_id": gone}, 404),
        ("group", {"name": "n", "domain_id": gone}, 404),
        ("role", {"name": "n", "domain_id": gone}, 404),
        ("project", {"name": "n", "domain_id": gone}, 400),
        ("project", {"name": "n", "parent_id": gone}, 400),
        ("region", {"parent_region_id": gone}, 404),
        ("endpoint", endpoint | {"service_id": gone}, 400),
        ("endpoint", endpoint | {"region_id": gone}, 400),
    ):
        assert (await admin("POST", f"/{member}s", {member: body})).status == status


async def test_a_retry_finds_its_answer_and_nobody_elses(world, admin):
    body = {"region": {"id": "once"}}
    first = await admin("POST", "/regions", body, keep=True, named="11111111-1111-1111-1111-111111111111")
    again = await admin("POST", "/regions", body, keep=True, named="11111111-1111-1111-1111-111111111111")
    assert first.status == again.status == 201
    assert first.body == again.body
    assert again.position >= first.position
    other = await admin("POST", "/regions", {"region": {}}, keep=True, named="11111111-1111-1111-1111-111111111111")
    assert other.status == 409
    assert (await admin("POST", "/regions", body)).status == 409


async def test_a_request_id_that_comes_twice_overwrites_nothing(admin):
    first = await admin("POST", "/users", {"user": {"name": "a"}}, named="2" * 32)
    second = await admin("POST", "/users", {"user": {"name": "b"}}, named="2" * 32)
    assert (first.status, second.status) == (201, 409)
    assert (await admin("GET", f"/users/{first.body['user']['id']}")).body["user"]["name"] == "a"


async def test_what_breaks_inside_is_a_500_that_tells_nothing(world, admin, capsys):
    broken = Request(id="x", method="GET", path=None, headers={"x-auth-token": admin.token})
    answer = await world.api.answer(broken)
    assert answer.status == 500
    assert admin.token not in capsys.readouterr().out
    assert b"NoneType" not in answer.body


async def test_texts_longer_than_upstream_has_room_for_are_refused(admin):
    service = await admin.make("service", type="compute")
    endpoint = await admin.make("endpoint", service_id=service["id"], interface="public", url="http://c/")
    user = await admin.make("user", name="u")
    for path, body, named in (
        (f"/endpoints/{endpoint['id']}", {"endpoint": {"region": "x" * 256}}, "id(CHAR(255))"),
        (f"/endpoints/{endpoint['id']}", {"endpoint": {"service_id": "x" * 65}}, "endpoint service_id"),
        (f"/endpoints/{endpoint['id']}", {"endpoint": {"service_id": ""}}, "endpoint service_id"),
        (f"/users/{user['id']}", {"user": {"default_project_id": "x" * 65}}, "default_project_id(CHAR(64))"),
    ):
        answer = await admin("PATCH", path, body)
        assert answer.status == 400
        assert named in answer.message


@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": "garbage"}])
async def test_who_proves_nothing_is_told_of_the_body_first(stranger, headers):
    for raw in (b"{", b"[]", b'{"user": 5}'):
        assert (await stranger("POST", "/users", raw=raw, headers=headers)).status == 400
    assert (await stranger("POST", "/users", {"user": {"name": "n"}}, headers=headers)).status == 401


async def test_access_rules_are_asked_before_the_body(admin, world):
    rule = {"service": "identity", "method": "GET", "path": "/v3/users"}
    about = {"name": "bound", "secret": "s", "access_rules": [rule]}
    path = f"/users/{(await admin('GET', '/users?name=admin')).body['users'][0]['id']}/application_credentials"
    made = (await admin("POST", path, {"application_credential": about})).body["application_credential"]
    given = {"id": made["id"], "secret": "s"}
    identity = {"methods": ["application_credential"], "application_credential": given}
    answer = await Client(world)("POST", "/auth/tokens", {"auth": {"identity": identity}})
    bound = Client(world, answer.headers["X-Subject-Token"])
    assert (await bound("GET", "/users")).status == 200
    assert (await bound("POST", "/users", raw=b"{")).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/policies"),
        ("PATCH", "/policies/x"),
        ("POST", "/OS-OAUTH1/consumers"),
        ("PATCH", "/OS-OAUTH1/consumers/x"),
        ("PUT", "/OS-FEDERATION/mappings/x"),
        ("PATCH", "/OS-FEDERATION/mappings/x"),
    ],
)
async def test_some_resources_look_at_the_body_once_the_caller_may(admin, stranger, method, path):
    await admin.make("user", name="somebody", password="pw-1234")
    somebody = await stranger.login("somebody", "pw-1234")
    for body in ({"other": {}}, {}, {"policy": 5, "consumer": 5, "mapping": 5}):
        assert (await stranger(method, path, body)).status == 401
        assert (await somebody(method, path, body)).status == 403
        assert (await admin(method, path, body)).status == 400
    assert (await somebody(method, path, raw=b"{")).status == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "first"),
    [
        ("POST", "/services", {}, 403),
        ("POST", "/services", {"other": {}}, 403),
        ("POST", "/services", {"service": {"type": 5}}, 400),
        ("PATCH", "/services/x", {}, 400),
        ("PATCH", "/services/x", {"service": {"name": "n"}, "other": 1}, 403),
        ("POST", "/projects", {}, 403),
        ("POST", "/projects", {"other": {}}, 400),
        ("POST", "/endpoints", {}, 403),
        ("POST", "/regions", {"region": {}, "other": 1}, 403),
        ("POST", "/regions", {}, 400),
        ("POST", "/users", {}, 400),
        ("POST", "/credentials", {}, 400),
    ],
)
async def test_a_wrapper_counts_before_or_after_the_caller_as_upstream(admin, stranger, method, path, body, first):
    await admin.make("user", name="somebody", password="pw-1234")
    somebody = await stranger.login("somebody", "pw-1234")
    assert (await somebody(method, path, body)).status == first
    assert (await stranger(method, path, body)).status == {403: 401}.get(first, first)
    assert (await admin(method, path, body)).status in {400, 404}


async def test_of_several_that_are_not_there_upstreams_first_is_named(admin):
    for path, word in (
        ("/domains/x/users/y/roles", "domain"),
        ("/domains/x/groups/y/roles/z", "domain"),
        ("/projects/x/users/y/roles/z", "role"),
        ("/projects/x/users/y/roles", "user"),
        ("/OS-INHERIT/domains/x/users/y/roles/inherited_to_projects", "domain"),
        ("/users/x/credentials/OS-EC2/y", "credential"),
    ):
        answer = await admin("GET", path)
        assert (answer.status, answer.message.split(":")[0]) == (404, f"Could not find {word}")
    answer = await admin("PUT", "/projects/x/tags", {"tags": "t"})
    assert answer.status == 400
    assert (await admin("PUT", "/projects/x/tags/a,b")).status == 400
    assert (await admin("PUT", "/projects/x/tags/a")).status == 404


async def test_a_row_that_was_garbled_on_disk_is_not_there_now_and_no_fault(world, admin, monkeypatch):
    store = world.controller.part.store

    async def garbled(kind, *key):
        del key
        return decode(kind, b"\x00\xff")

    monkeypatch.setattr(store, "get", garbled)
    answer = await admin("GET", "/users/of-a-row-that-is-not-in-memory")
    assert (answer.status, "Retry-After" in answer.headers) == (503, True), answer.body
