"""Identity providers, protocols, mappings, service providers, and what they call our users."""

import asyncio

import pytest

from regional_keystone.model import FederatedUser, FederationProtocol

BASE = "/OS-FEDERATION"
PROVIDERS, MAPPINGS, SERVICES = (f"{BASE}/{name}" for name in ("identity_providers", "mappings", "service_providers"))
RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UserName"}]}]
URLS = {"auth_url": "https://a.example/auth", "sp_url": "https://a.example/sp"}
ADMIN = {"project": {"name": "admin", "domain": {"id": "default"}}}


@pytest.fixture
async def home(admin):
    return await admin.make("domain", name="home")


@pytest.fixture
async def provider(admin, home):
    """An identity provider with a protocol; and the path of its own."""
    await put(admin, f"{MAPPINGS}/m", mapping={"rules": RULES})
    await put(admin, f"{PROVIDERS}/idp", identity_provider={"domain_id": home["id"], "enabled": True})
    await put(admin, f"{PROVIDERS}/idp/protocols/saml2", protocol={"mapping_id": "m"})
    return f"{PROVIDERS}/idp"


@pytest.fixture
async def member(admin, home):
    """Somebody with a role on a project and nothing more."""
    project = await admin.make("project", name="p", domain_id=home["id"])
    user = await admin.make("user", name="member", domain_id=home["id"], password="pw-1234")
    roles = (await admin("GET", "/roles?name=member")).body["roles"]
    path = f"/projects/{project['id']}/users/{user['id']}/roles/{roles[0]['id']}"
    assert (await admin("PUT", path)).status == 204
    return await admin.login("member", "pw-1234", {"project": {"id": project["id"]}}, home["id"])


async def put(client, path, **body):
    answer = await client("PUT", path, body)
    assert answer.status == 201, answer.body
    return next(iter(answer.body.values()))


def called(idp="idp", **protocols):
    return [{"idp_id": idp, "protocols": [{"protocol_id": k, "unique_id": v} for k, v in protocols.items()]}]


async def all_of(world, kind):
    return [row async for row in world.overlay.scan(kind)]


# --- identity providers ----------------------------------------------------------------------------------------------


async def test_a_provider_without_a_domain_is_given_one_that_outlives_it(admin):
    made = await put(admin, f"{PROVIDERS}/idp", identity_provider={})
    assert made | {"domain_id": None} == {
        "id": "idp",
        "domain_id": None,
        "enabled": False,
        "description": None,
        "remote_ids": [],
        "authorization_ttl": None,
        "links": {"self": f"http://127.0.0.1:5000/v3{PROVIDERS}/idp"},
    }
    domain = (await admin("GET", f"/domains/{made['domain_id']}")).body["domain"]
    assert domain["name"] == domain["id"]
    assert domain["description"] == "Auto generated federated domain for Identity Provider: idp"
    assert (await admin("DELETE", f"{PROVIDERS}/idp")).status == 204
    assert (await admin("GET", f"/domains/{made['domain_id']}")).status == 200


async def test_a_refused_provider_leaves_no_domain_behind(admin):
    await put(admin, f"{PROVIDERS}/idp", identity_provider={"remote_ids": ["r"]})
    before = (await admin("GET", "/domains")).body["domains"]
    assert (await admin("PUT", f"{PROVIDERS}/idp", {"identity_provider": {}})).status == 409
    taken = await admin("PUT", f"{PROVIDERS}/other", {"identity_provider": {"remote_ids": ["x", "r"]}})
    said = "Conflict occurred attempting to store identity_provider - Duplicate remote ID: r."
    assert (taken.status, taken.message) == (409, said)
    assert (await admin("GET", "/domains")).body["domains"] == before


async def test_a_remote_id_is_one_provider_s_alone(admin, provider):
    await put(admin, f"{PROVIDERS}/b", identity_provider={"remote_ids": ["b"]})

    async def calls(path, *names):
        return await admin("PATCH", path, {"identity_provider": {"remote_ids": names}})

    assert (await calls(provider, "a", "b")).status == 409
    assert (await calls(f"{PROVIDERS}/b", "c", "b")).body["identity_provider"]["remote_ids"] == ["c", "b"]
    assert (await admin("GET", f"{PROVIDERS}/b")).body["identity_provider"]["remote_ids"] == ["b", "c"]
    assert (await calls(f"{PROVIDERS}/b", "c")).status == 200
    assert (await calls(provider, "b")).status == 200


async def test_of_many_who_want_a_remote_id_exactly_one_gets_it(admin):
    body = {"identity_provider": {"remote_ids": ["r"]}}
    answers = await asyncio.gather(*(admin("PUT", f"{PROVIDERS}/{place}", body) for place in range(6)))
    assert sorted(one.status for one in answers) == [201, *[409] * 5]
    assert len((await admin("GET", PROVIDERS)).body["identity_providers"]) == 1


async def test_of_many_users_who_want_a_name_exactly_one_gets_it(admin, provider):
    async def made(place):
        user = {"name": f"u{place}", "domain_id": "default", "federated": called(saml2="x")}
        return await admin("POST", "/users", {"user": user})

    answers = await asyncio.gather(*map(made, range(6)))
    assert sorted(one.status for one in answers) == [201, *[409] * 5]


async def test_lists_are_filtered_and_link_to_protocols(admin, provider):
    await put(admin, f"{PROVIDERS}/off", identity_provider={})

    async def ids(query):
        return [one["id"] for one in (await admin("GET", f"{PROVIDERS}?{query}")).body["identity_providers"]]

    assert await ids("") == ["idp", "off"]
    assert await ids("enabled=true") == ["idp"]
    assert await ids("enabled=0") == ["off"]
    assert await ids("id=off&enabled=true") == []
    assert await ids("id__contains=d") == ["idp"]
    assert (await admin("GET", f"{PROVIDERS}?enabled=maybe")).status == 400
    first = (await admin("GET", f"{PROVIDERS}?limit=1")).body
    assert first["truncated"] is True
    found = first["identity_providers"][0]
    assert found["links"]["protocols"] == f"{found['links']['self']}/protocols"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"domain_id": "nobody"}, "Could not find domain: nobody."),
        ({"authorization_ttl": -1}, "-1 is less than the minimum of 0"),
        ({"authorization_ttl": True}, "True is not of type 'integer', 'null'"),
        ({"remote_ids": ["x", "x"]}, "has non-unique elements"),
        ({"remote_ids": ["x" * 65]}, "is too long"),
        ({"enabled": None}, "None is not one of [True"),
        ({"enabled": "true"}, "'true' is not of type 'boolean'"),
        ({"id": "idp"}, "('id' was unexpected)"),
        ({"colour": "red"}, "('colour' was unexpected)"),
    ],
)
async def test_what_a_provider_cannot_be(admin, attributes, said):
    answer = await admin("PUT", f"{PROVIDERS}/idp", {"identity_provider": attributes})
    assert (answer.status, said in answer.message) == (404 if "domain_id" in attributes else 400, True), answer.body
    assert (await admin("GET", f"{PROVIDERS}/idp")).status == 404


async def test_an_id_is_at_most_64_characters_long(admin):
    assert (await admin("PUT", f"{PROVIDERS}/{'x' * 64}", {"identity_provider": {}})).status == 201
    answer = await admin("PUT", f"{PROVIDERS}/{'x' * 65}", {"identity_provider": {}})
    assert (answer.status, answer.message[-41:]) == (400, "exceeds the limit of column id(CHAR(64)).")


async def test_the_domain_of_a_provider_stays(admin, provider, home):
    answer = await admin("PATCH", provider, {"identity_provider": {"domain_id": home["id"]}})
    assert (answer.status, "('domain_id' was unexpected)" in answer.message) == (400, True)


async def test_a_provider_goes_with_its_protocols_and_with_its_domain(admin, provider, home, world):
    await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x"))
    assert (await admin("PATCH", f"/domains/{home['id']}", {"domain": {"enabled": False}})).status == 200
    assert (await admin("GET", provider)).status == 200
    assert (await admin("DELETE", f"/domains/{home['id']}")).status == 204
    assert (await admin("GET", provider)).message == "Could not find Identity Provider: idp."
    assert await all_of(world, FederationProtocol) == await all_of(world, FederatedUser) == []


# --- protocols -------------------------------------------------------------------------------------------------------


async def test_a_protocol_is_shown_as_upstream_shows_it(admin, provider):
    links = {
        "self": "http://127.0.0.1:5000/v3/protocols/saml2",
        "identity_provider": "http://127.0.0.1:5000/v3/idp",
    }
    one = (await admin("GET", f"{provider}/protocols/saml2")).body["protocol"]
    assert one == {"id": "saml2", "mapping_id": "m", "links": links}
    (listed,) = (await admin("GET", f"{provider}/protocols")).body["protocols"]
    assert listed == {**one, "idp_id": "idp", "remote_id_attribute": None}
    assert (await admin("GET", f"{PROVIDERS}/nobody/protocols")).body["protocols"] == []


async def test_a_protocol_needs_its_provider_and_a_mapping(admin, provider):
    async def made(path, **attributes):
        answer = await admin("PUT", path, {"protocol": attributes})
        return answer.status, answer.message

    unknown = "Could not find Identity Provider: nobody."
    assert await made(f"{PROVIDERS}/nobody/protocols/x", mapping_id="m") == (404, unknown)
    assert await made(f"{provider}/protocols/x", mapping_id="none") == (400, "Invalid mapping id: none")
    assert (await made(f"{provider}/protocols/x", mapping_id="m", colour="red"))[0] == 400
    said = "Conflict occurred attempting to store federation_protocol - Duplicate entry found with ID saml2."
    assert await made(f"{provider}/protocols/saml2", mapping_id="m") == (409, said)


async def test_a_protocol_changes_its_mapping_and_may_lose_it(admin, provider):
    await put(admin, f"{MAPPINGS}/other", mapping={"rules": RULES})
    path = f"{provider}/protocols/saml2"
    assert (await admin("PATCH", path, {"protocol": {"mapping_id": "none"}})).status == 400
    assert (await admin("PATCH", path, {"protocol": {"remote_id_attribute": "X"}})).status == 400
    changed = await admin("PATCH", path, {"protocol": {"mapping_id": "other", "remote_id_attribute": "X"}})
    assert changed.body["protocol"]["mapping_id"] == "other"
    assert (await admin("DELETE", f"{MAPPINGS}/other")).status == 204
    assert (await admin("GET", path)).body["protocol"]["mapping_id"] == "other"


async def test_whom_a_protocol_knew_it_knows_no_more_when_it_goes(admin, provider, world):
    await put(admin, f"{provider}/protocols/openid", protocol={"mapping_id": "m"})
    user = await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x", openid="u"))
    assert (await admin("DELETE", f"{provider}/protocols/saml2")).status == 204
    found = (await admin("GET", f"/users/{user['id']}")).body["user"]
    assert found["federated"] == called(openid="u")
    gone = await admin("DELETE", f"{provider}/protocols/saml2")
    said = "Could not find federated protocol saml2 for Identity Provider: idp."
    assert (gone.status, gone.message) == (404, said)


# --- mappings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "2.0", "3.0"])
async def test_each_version_of_the_rules_has_its_own_words(admin, version):
    domain = [
        {"local": [{"projects": [{"name": "p", "roles": [], "domain": {"id": "x"}}]}], "remote": RULES[0]["remote"]}
    ]
    text = [{"local": [{"projects_json": "{0}"}], "remote": RULES[0]["remote"]}]
    statuses = []
    for place, rules in enumerate((RULES, domain, text)):
        body = {"mapping": {"rules": rules, "schema_version": version}}
        statuses.append((await admin("PUT", f"{MAPPINGS}/{place}", body)).status)
    assert statuses == {"1.0": [201, 400, 400], "2.0": [201, 201, 400], "3.0": [201, 201, 201]}[version]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([], "[] should be non-empty\n"),
        (None, "None is not of type 'array'\n"),
        ([{}], "'local' is a required property\n'remote' is a required property\n"),
        ([{"local": [], "remote": [{}]}], "{} is not valid under any of the given schemas\n"),
        (
            [{"local": [{"groups": 5}], "remote": [{"type": 5}]}],
            "5 is not of type 'string'\n{'type': 5} is not valid under any of the given schemas\n",
        ),
        (
            [{"local": [{"user": {"type": "odd"}}], "remote": [{"type": "a"}]}],
            "'odd' is not one of ['ephemeral', 'local']\n",
        ),
        (
            [{"local": [{"group": {"name": "g"}}], "remote": [{"type": "a"}]}],
            "{'name': 'g'} is not valid under any of the given schemas\n",
        ),
        (
            [{"local": [], "remote": [{"type": "a", "whitelist": ["x"], "blacklist": ["y"]}]}],
            "{'type': 'a', 'whitelist': ['x'], 'blacklist': ['y']} is not valid under any of the given schemas\n",
        ),
    ],
)
async def test_wrong_rules_change_nothing_and_everything_wrong_is_told(admin, rules, said):
    await put(admin, f"{MAPPINGS}/m", mapping={"rules": RULES})
    for method, path in (("PUT", f"{MAPPINGS}/new"), ("PATCH", f"{MAPPINGS}/m")):
        answer = await admin(method, path, {"mapping": {"rules": rules}})
        assert (answer.status, answer.message) == (400, said)
    assert (await admin("GET", f"{MAPPINGS}/new")).status == 404
    assert (await admin("GET", f"{MAPPINGS}/m")).body["mapping"]["rules"] == RULES


@pytest.mark.parametrize("version", ["4.0", 1, ["1.0"], {"a": 1}, True])
async def test_no_version_of_the_rules_that_is_not_known(admin, version):
    answer = await admin("PUT", f"{MAPPINGS}/m", {"mapping": {"rules": RULES, "schema_version": version}})
    assert (answer.status, "schema_version" in answer.message) == (400, True)


async def test_a_change_of_a_mapping_says_all_of_it(admin):
    await put(admin, f"{MAPPINGS}/m", mapping={"rules": RULES, "schema_version": "2.0", "colour": "red"})
    answer = await admin("PATCH", f"{MAPPINGS}/m", {"mapping": {"schema_version": "2.0"}})
    assert (answer.status, answer.message) == (400, "'rules' is a required property\n")
    found = (await admin("PATCH", f"{MAPPINGS}/m", {"mapping": {"rules": RULES}})).body["mapping"]
    links = {"self": f"http://127.0.0.1:5000/v3{MAPPINGS}/m"}
    assert found == {"id": "m", "rules": RULES, "schema_version": "1.0", "links": links}


@pytest.mark.parametrize("mapping", [None, "x", [], 5])
async def test_a_mapping_is_an_object(admin, mapping):
    assert (await admin("PUT", f"{MAPPINGS}/m", {"mapping": mapping})).status == 400


# --- service providers -----------------------------------------------------------------------------------------------


async def test_a_service_provider_has_a_prefix_unless_it_says_one(admin):
    made = await put(admin, f"{SERVICES}/sp", service_provider=URLS)
    links = {"self": f"http://127.0.0.1:5000/v3{SERVICES}/sp"}
    rest = {"enabled": False, "description": None, "relay_state_prefix": "ss:mem:", "links": links}
    assert made == {**URLS, "id": "sp", **rest}
    assert (await admin("PATCH", f"{SERVICES}/sp", {"service_provider": {"relay_state_prefix": None}})).status == 400
    changed = await admin("PATCH", f"{SERVICES}/sp", {"service_provider": {"relay_state_prefix": "p"}})
    assert changed.body["service_provider"] == {**made, "relay_state_prefix": "p"}


@pytest.mark.parametrize(
    "wrong",
    [{"sp_url": None}, {"auth_url": "x"}, {"auth_url": ""}, {"sp_url": "https://" + "x" * 218}, {"colour": "red"}],
)
async def test_what_a_service_provider_cannot_be(admin, wrong):
    assert (await admin("PUT", f"{SERVICES}/sp", {"service_provider": URLS | wrong})).status == 400
    await put(admin, f"{SERVICES}/sp", service_provider=URLS)
    assert (await admin("PATCH", f"{SERVICES}/sp", {"service_provider": wrong})).status == 400


async def test_tokens_name_the_service_providers_that_are_enabled(admin, member):
    async def named(client):
        head = {"X-Subject-Token": client.token}
        token = (await admin("GET", "/auth/tokens?nocatalog", headers=head)).body["token"]
        return [one["id"] for one in token.get("service_providers", ())]

    unscoped = await admin.login("admin", "golden-admin-pw", "unscoped")
    assert [await named(one) for one in (admin, unscoped, member)] == [[], [], []]
    await put(admin, f"{SERVICES}/sp", service_provider=URLS)
    await put(admin, f"{SERVICES}/on", service_provider=URLS | {"enabled": True})
    assert [await named(one) for one in (admin, unscoped, member)] == [["on"], ["on"], ["on"]]
    await admin("PATCH", f"{SERVICES}/sp", {"service_provider": {"enabled": True}})
    assert [await named(one) for one in (admin, unscoped)] == [["on", "sp"], ["on", "sp"]]
    for name in ("on", "sp"):
        assert (await admin("DELETE", f"{SERVICES}/{name}")).status == 204
    assert [await named(one) for one in (admin, unscoped)] == [[], []]


async def test_a_new_token_names_them_with_what_they_are_reached_by(admin):
    await put(admin, f"{SERVICES}/on", service_provider=URLS | {"enabled": True})
    who = {"name": "admin", "domain": {"id": "default"}, "password": "golden-admin-pw"}
    auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": "unscoped"}
    token = (await admin("POST", "/auth/tokens", {"auth": auth})).body["token"]
    assert token["service_providers"] == [{"id": "on", **URLS}]
    assert "catalog" not in token


# --- users -----------------------------------------------------------------------------------------------------------


async def test_a_user_is_shown_with_what_it_is_called(admin, provider):
    user = await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x"))
    assert user["federated"] == called(saml2="u@x")
    path = f"/users/{user['id']}"
    assert (await admin("GET", path)).body["user"]["federated"] == called(saml2="u@x")
    changed = await admin("PATCH", path, {"user": {"federated": called(saml2="v@x")}})
    assert changed.body["user"]["federated"] == called(saml2="v@x")
    for empty in ({"federated": []}, {"name": "v"}):
        assert (await admin("PATCH", path, {"user": empty})).body["user"]["federated"] == called(saml2="v@x")
    listed = (await admin("GET", "/users?name=v")).body["users"]
    assert [("federated" in one, one["name"]) for one in listed] == [(False, "v")]
    assert "federated" not in (await admin.make("user", name="w", domain_id="default", federated=[]))


@pytest.mark.parametrize(
    ("federated", "status", "said"),
    [
        (called("nobody", saml2="x"), 400, "Could not find Identity Provider: nobody"),
        (called(none="x"), 400, "Could not find federated protocol none for Identity Provider: idp."),
        (called(saml2="taken"), 409, "Conflict occurred attempting to store federated_user - Duplicate entry."),
        (called(saml2="x") * 2, 409, "Conflict occurred attempting to store federated_user - Duplicate entry."),
        (called(), 400, "[] should be non-empty"),
        (called(saml2=5), 400, "5 is not of type 'string'"),
        (called(saml2="x" * 256), 400, "exceeds the limit of column unique_id(CHAR(255))."),
        ([{"idp_id": "idp", "protocols": [{"protocol_id": "saml2"}]}], 400, "'unique_id' is a required property"),
        (None, 400, "None is not of type 'array'"),
    ],
)
async def test_what_a_user_cannot_be_called(admin, provider, federated, status, said):
    await admin.make("user", name="first", domain_id="default", federated=called(saml2="taken"))
    user = await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x"))
    new = {"name": "n", "domain_id": "default", "federated": federated}
    for method, path, attributes in (
        ("POST", "/users", new),
        ("PATCH", f"/users/{user['id']}", {"name": "other", "federated": federated}),
    ):
        answer = await admin(method, path, {"user": attributes})
        assert (answer.status, said in answer.message) == (status, True), answer.body
    assert (await admin("GET", "/users?name=n")).body["users"] == []
    kept = (await admin("GET", f"/users/{user['id']}")).body["user"]
    assert (kept["name"], kept["federated"]) == ("u", called(saml2="u@x"))


async def test_users_are_found_by_what_they_are_called(admin, provider, home):
    await put(admin, f"{provider}/protocols/openid", protocol={"mapping_id": "m"})
    await put(admin, f"{PROVIDERS}/q", identity_provider={"domain_id": home["id"]})
    await put(admin, f"{PROVIDERS}/q/protocols/saml2", protocol={"mapping_id": "m"})
    await admin.make("user", name="a", domain_id="default", federated=called(saml2="a@x"))
    await admin.make("user", name="b", domain_id=home["id"], federated=called(openid="b") + called("q", saml2="a@x"))
    await admin.make("user", name="c", domain_id="default")

    async def names(query):
        return sorted(one["name"] for one in (await admin("GET", f"/users?{query}")).body["users"])

    assert await names("idp_id=idp") == ["a", "b"]
    assert await names("idp_id=idp&protocol_id=openid") == ["b"]
    assert await names("unique_id=a@x") == ["a", "b"]
    assert await names("idp_id=q&unique_id=a@x") == ["b"]
    assert await names("protocol_id=openid&unique_id=a@x") == []
    assert await names("idp_id=idp&name=a") == ["a"]
    assert await names(f"idp_id=idp&domain_id={home['id']}") == ["b"]
    assert await names("idp_id=idp&enabled=false") == await names("idp_id=") == await names("idp_id=none") == []
    first = (await admin("GET", "/users?idp_id=idp&limit=1")).body
    assert first["truncated"] is True
    marker = first["users"][0]["id"]
    rest = (await admin("GET", f"/users?idp_id=idp&limit=1&marker={marker}")).body["users"]
    assert sorted([first["users"][0]["name"], rest[0]["name"]]) == ["a", "b"]


async def test_a_user_goes_with_what_it_was_called(admin, provider, world):
    user = await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x"))
    assert (await admin("DELETE", f"/users/{user['id']}")).status == 204
    assert await all_of(world, FederatedUser) == []
    again = await admin.make("user", name="u", domain_id="default", federated=called(saml2="u@x"))
    assert (await admin("DELETE", provider)).status == 204
    assert "federated" not in (await admin("GET", f"/users/{again['id']}")).body["user"]


# --- who may ---------------------------------------------------------------------------------------------------------

ROUTES = [
    ("GET", PROVIDERS, None, "list_identity_providers"),
    ("GET", f"{PROVIDERS}/idp", None, "get_identity_provider"),
    ("GET", f"{PROVIDERS}/none", None, "get_identity_provider"),
    ("PUT", f"{PROVIDERS}/new", {"identity_provider": {}}, "create_identity_provider"),
    ("PATCH", f"{PROVIDERS}/idp", {"identity_provider": {"enabled": False}}, "update_identity_provider"),
    ("DELETE", f"{PROVIDERS}/idp", None, "delete_identity_provider"),
    ("GET", f"{PROVIDERS}/idp/protocols", None, "list_protocols"),
    ("GET", f"{PROVIDERS}/idp/protocols/saml2", None, "get_protocol"),
    ("PUT", f"{PROVIDERS}/idp/protocols/new", {"protocol": {"mapping_id": "m"}}, "create_protocol"),
    ("PATCH", f"{PROVIDERS}/idp/protocols/saml2", {"protocol": {"mapping_id": "m"}}, "update_protocol"),
    ("DELETE", f"{PROVIDERS}/idp/protocols/saml2", None, "delete_protocol"),
    ("GET", MAPPINGS, None, "list_mappings"),
    ("GET", f"{MAPPINGS}/m", None, "get_mapping"),
    ("PUT", f"{MAPPINGS}/new", {"mapping": {"rules": []}}, "create_mapping"),
    ("PATCH", f"{MAPPINGS}/m", {"mapping": {"rules": []}}, "update_mapping"),
    ("DELETE", f"{MAPPINGS}/m", None, "delete_mapping"),
    ("GET", SERVICES, None, "list_service_providers"),
    ("GET", f"{SERVICES}/sp", None, "get_service_provider"),
    ("PUT", f"{SERVICES}/new", {"service_provider": URLS}, "create_service_provider"),
    ("PATCH", f"{SERVICES}/sp", {"service_provider": {"enabled": True}}, "update_service_provider"),
    ("DELETE", f"{SERVICES}/sp", None, "delete_service_provider"),
]


@pytest.mark.parametrize(("method", "path", "body", "action"), ROUTES, ids=[one[3] + one[1][-4:] for one in ROUTES])
async def test_who_may(admin, provider, member, stranger, method, path, body, action):
    refused = await member(method, path, body)
    said = f"You are not authorized to perform the requested action: identity:{action}."
    assert (refused.status, refused.message) == (403, said)
    assert (await stranger(method, path, body)).status == 401
    system = await admin.login("admin", "golden-admin-pw", {"system": {"all": True}})
    assert (await system(method, path, body)).status not in {401, 403}


async def test_a_manager_of_the_domain_may_not_either(admin, provider, home):
    user = await admin.make("user", name="manager", domain_id=home["id"], password="pw-1234")
    (role,) = (await admin("GET", "/roles?name=manager")).body["roles"]
    assert (await admin("PUT", f"/domains/{home['id']}/users/{user['id']}/roles/{role['id']}")).status == 204
    manager = await admin.login("manager", "pw-1234", {"domain": {"id": home["id"]}}, home["id"])
    assert [(await manager(method, provider)).status for method in ("GET", "DELETE")] == [403, 403]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_collections_are_only_read(admin, method):
    for path in (PROVIDERS, f"{PROVIDERS}/idp/protocols", MAPPINGS, SERVICES):
        assert (await admin(method, path, {})).status == 405
