"""Application credentials: the secret, the login, what a token made with one is worth, and access rules."""

import asyncio
import dataclasses

import msgspec
import pytest

from regional_keystone import authenticate
from regional_keystone.document import time
from regional_keystone.model import AccessRule, ApplicationCredential
from regional_keystone.settings import ApplicationCredential as Section
from regional_keystone.wiring import door
from tests.api.conftest import Client
from tests.api.test_trusts import Site

PASSWORD = "a good pass phrase"
HEADER = "OpenStack-Identity-Access-Rules"
SERVERS = {"service": "compute", "path": "/v2.1/servers", "method": "GET"}
USERS = {"service": "identity", "path": "/v3/users/*", "method": "GET"}


class Owner:
    """Alice, manager of project p, and what she lets programs do."""

    def __init__(self, world, admin):
        self.world, self.admin = world, admin

    async def move_in(self):
        roles = (await self.admin("GET", "/roles")).body["roles"]
        self.role = {one["name"]: one["id"] for one in roles}
        self.p = (await self.admin.make("project", name="p"))["id"]
        user = {"password": PASSWORD, "domain_id": "default"}
        self.id = (await self.admin.make("user", name="alice", **user))["id"]
        self.other_id = (await self.admin.make("user", name="bob", **user))["id"]
        for user_id in (self.id, self.other_id):
            await self.grant("manager", user_id)
        self.alice, self.bob = await self.login("alice"), await self.login("bob")
        self.path = f"/users/{self.id}/application_credentials"
        return self

    async def login(self, name):
        return await Client(self.world).login(name, PASSWORD, {"project": {"id": self.p}})

    async def grant(self, role, user_id=None, method="PUT"):
        path = f"/projects/{self.p}/users/{user_id or self.id}/roles/{self.role[role]}"
        assert (await self.admin(method, path)).status == 204

    async def make(self, name="program", by=None, status=201, **more):
        body = {"application_credential": {"name": name, **more}}
        answer = await (by or self.alice)("POST", self.path, body)
        assert answer.status == status, answer.body
        return answer.body.get("application_credential")

    async def use(self, made=None, status=201, **said):
        data = {"id": made["id"], "secret": made["secret"]} if made else {}
        identity = {"methods": ["application_credential"], "application_credential": {**data, **said}}
        answer = await Client(self.world)("POST", "/auth/tokens", {"auth": {"identity": identity}})
        assert answer.status == status, answer.body
        return Client(self.world, answer.headers["X-Subject-Token"]) if status == 201 else answer

    async def worth(self, holder, version=None, query="", method="GET"):
        """(status, token) of a validation."""
        headers = {"X-Subject-Token": holder.token} | ({HEADER: version} if version is not None else {})
        answer = await self.admin(method, f"/auth/tokens{query}", headers=headers)
        return answer.status, (answer.body or {}).get("token")


@pytest.fixture
async def owner(world, admin):
    return await Owner(world, admin).move_in()


async def test_a_secret_is_shown_once_and_every_sign_of_it_counts(owner, world):
    made = await owner.make()
    assert len(made["secret"]) == 86
    stored = await world.overlay.get(ApplicationCredential, made["id"])
    assert made["secret"] not in repr(stored)
    assert made["secret"].encode() not in msgspec.msgpack.encode(stored)
    for answer in (await owner.alice("GET", owner.path), await owner.alice("GET", f"{owner.path}/{made['id']}")):
        assert answer.status == 200
        assert "secret" not in str(answer.body).lower()
    await owner.use(made)
    for wrong in (made["secret"][:72], made["secret"] + "x", "", None):
        await owner.use(made, secret=wrong, status=401)


async def test_a_secret_of_ones_own_is_kept_to_and_a_wrong_one_is_not_repeated(owner):
    made = await owner.make(secret="mine and mine alone")
    assert made["secret"] == "mine and mine alone"
    await owner.use(made)
    body = {"application_credential": {"name": "x", "secret": ["mine and mine alone"]}}
    answer = await owner.alice("POST", owner.path, body)
    assert answer.status == 400
    assert "mine" not in answer.message
    await owner.make(name="long", secret="x" * 4097, status=403)


async def test_every_failed_login_gets_the_same_answer_after_the_same_work(owner, monkeypatch):
    made = await owner.make()
    work = []

    async def counted(*arguments):
        work.append(arguments)
        return await verify(*arguments)

    verify = authenticate.verify_password
    monkeypatch.setattr(authenticate, "verify_password", counted)
    whose = {"user": {"id": owner.id}}
    answers = [
        await owner.use(made, secret="wrong", status=401),
        await owner.use(made, id="0" * 32, status=401),
        await owner.use(made, id=None, name="nothing", **whose, status=400),
        await owner.use(name="nothing", secret=made["secret"], **whose, status=401),
        await owner.use(name="program", secret=made["secret"], user={"id": owner.other_id}, status=401),
        await owner.use(
            name="program", secret=made["secret"], user={"name": "nobody", "domain": {"id": "default"}}, status=401
        ),
    ]
    assert len({answer.message for answer in answers if answer.status == 401}) == 1
    assert len(work) == len([answer for answer in answers if answer.status == 401])


async def test_whoever_else_is_named_the_token_is_the_owners(owner):
    made = await owner.make()
    for holder in (
        await owner.use(made, user={"id": owner.other_id}),
        await owner.use(name="program", secret=made["secret"], user={"id": owner.id}),
        await owner.use(name="program", secret=made["secret"], user={"name": "alice", "domain": {"id": "default"}}),
    ):
        status, token = await owner.worth(holder)
        assert (status, token["user"]["id"]) == (200, owner.id)
        shown = {"id": made["id"], "name": "program", "restricted": True}
        assert token["application_credential"] == shown
        assert token["methods"] == ["application_credential"]


async def test_a_token_has_the_roles_that_were_handed_on_as_far_as_the_owner_has_them(owner):
    made = await owner.make(roles=[{"name": "member"}])
    assert sorted(one["name"] for one in made["roles"]) == ["member", "reader"]
    holder = await owner.use(made)
    assert sorted(one["name"] for one in (await owner.worth(holder))[1]["roles"]) == ["member", "reader"]
    await owner.grant("reader")
    await owner.grant("manager", method="DELETE")
    assert [one["name"] for one in (await owner.worth(holder))[1]["roles"]] == ["reader"]
    await owner.grant("reader", method="DELETE")
    assert (await owner.worth(holder))[0] == 404
    await owner.use(made, status=401)
    await owner.grant("manager")
    assert (await owner.worth(holder))[0] == 200
    await owner.make("more", roles=[{"name": "admin"}], status=400)


async def test_what_the_login_said_is_what_every_place_says_cold(owner, world):
    made = await owner.make(roles=[{"name": "reader"}], access_rules=[SERVERS])
    said = {"id": made["id"], "secret": made["secret"]}
    auth = {"identity": {"methods": ["application_credential"], "application_credential": said}}
    answer = await Client(world)("POST", "/auth/tokens", {"auth": auth})
    subject = {"X-Subject-Token": answer.headers["X-Subject-Token"], HEADER: "1.0"}
    shown = await Site(world).ask(
        "GET", "/v3/auth/tokens", headers={"X-Auth-Token": owner.admin.token, **subject}, body=b""
    )
    assert msgspec.json.decode(shown.body) == answer.body


@pytest.mark.parametrize("what", ["credential", "owner", "project", "role", "disabled"])
async def test_a_token_is_void_at_once_when_what_it_acts_within_goes(owner, world, what):
    role = await owner.admin.make("role", name="extra")
    owner.role["extra"] = role["id"]
    await owner.grant("extra")
    made = await owner.make(roles=[{"name": "manager"}])
    holder = await owner.use(made)
    assert [(await owner.worth(holder))[0] for _ in range(2)] == [200, 200]
    if what == "disabled":
        assert (await owner.admin("PATCH", f"/users/{owner.id}", {"user": {"enabled": False}})).status == 200
    else:
        paths = {
            "credential": f"{owner.path}/{made['id']}",
            "owner": f"/users/{owner.id}",
            "project": f"/projects/{owner.p}",
            "role": f"/roles/{role['id']}",  # had by the owner on the project: as upstream, the whole credential goes
        }
        assert (await owner.admin("DELETE", paths[what])).status == 204
        assert await world.overlay.get(ApplicationCredential, made["id"]) is None
    assert (await owner.worth(holder))[0] == 404
    assert (await holder("GET", "/auth/projects")).status == 401
    await owner.use(made, status=401)


async def test_a_token_ends_with_its_credential(owner, world):
    end = time(world.clock.now() + 60_000_000)
    made = await owner.make(expires_at=end)
    assert made["expires_at"] == end.removesuffix("Z")
    holder = await owner.use(made)
    assert (await owner.worth(holder))[1]["expires_at"] == end
    world.clock.ahead_s += 61
    assert (await owner.worth(holder))[0] == 404
    await owner.use(made, status=401)


@pytest.mark.parametrize("sent", ["", "soon", "2001-01-01T00:00:00Z", "2099-01-01", 5, "2099-13-01T00:00:00Z"])
async def test_an_end_that_is_none_is_refused(owner, sent):
    await owner.make(expires_at=sent, status=400)
    assert (await owner.alice("GET", owner.path)).body["application_credentials"] == []


async def test_only_an_unrestricted_one_manages_others_and_none_rescopes(owner):
    plain, free = await owner.make(), await owner.make("free", unrestricted=True)
    restricted, manager = await owner.use(plain), await owner.use(free)
    await owner.make("by plain", by=restricted, status=403)
    made = await owner.make("by free", by=manager)
    await owner.make("too much", by=manager, roles=[{"name": "admin"}], status=400)
    assert (await restricted("DELETE", f"{owner.path}/{made['id']}")).status == 403
    assert (await manager("DELETE", f"{owner.path}/{made['id']}")).status == 204
    for holder in (restricted, manager):
        for scope in (None, "unscoped", {"project": {"id": owner.p}}, {"system": {"all": True}}):
            identity = {"methods": ["token"], "token": {"id": holder.token}}
            body = {"auth": {"identity": identity} | ({"scope": scope} if scope else {})}
            assert (await Client(owner.world)("POST", "/auth/tokens", body)).status == 403
        assert (await holder("GET", "/OS-TRUST/trusts")).status == 403


async def test_nobody_reads_or_deletes_another_users(owner):
    made = await owner.make(access_rules=[SERVERS])
    rule = made["access_rules"][0]["id"]
    for user_id in (owner.id, owner.other_id):
        where = f"/users/{user_id}/application_credentials/{made['id']}"
        for method in ("GET", "DELETE"):
            assert (await owner.bob(method, where)).status == 403
    assert (await owner.bob("GET", f"/users/{owner.id}/access_rules/{rule}")).status == 403
    assert (await owner.bob("GET", f"/users/{owner.other_id}/access_rules/{rule}")).status == 404
    assert (await owner.bob("DELETE", f"/users/{owner.other_id}/access_rules/{rule}")).status == 404
    body = {"application_credential": {"name": "x", "access_rules": [{"id": rule}]}}
    assert (await owner.bob("POST", f"/users/{owner.other_id}/application_credentials", body)).status == 404
    assert (await owner.bob("POST", owner.path, {"application_credential": {"name": "x"}})).status == 403


async def test_a_token_with_rules_is_shown_only_to_services_that_keep_to_them(owner):
    holder = await owner.use(await owner.make(access_rules=[SERVERS]))
    for _ in range(2):
        for version, status in (
            ("1.0", 200),
            (None, 404),
            ("0.9", 404),
            ("2", 200),
            ("", 404),
            ("x", 404),
            ("nan", 404),
        ):
            found, token = await owner.worth(holder, version)
            assert found == status
            assert (await owner.worth(holder, version, method="HEAD"))[0] == status
            if status == 200:
                rules = token["application_credential"]["access_rules"]
                assert [{name: rule[name] for name in SERVERS} for rule in rules] == [SERVERS]


async def test_rules_hold_for_this_api_as_well(owner):
    holder = await owner.use(await owner.make(access_rules=[SERVERS, USERS], unrestricted=True))
    mine = f"/users/{owner.id}"
    asked = [("GET", mine), ("HEAD", mine), ("GET", f"{mine}/projects"), ("GET", "/auth/catalog"), ("PATCH", mine)]
    answers = [
        (await holder(method, path, {"user": {"name": "x"}} if method == "PATCH" else None)).status
        for method, path in asked
    ]
    assert answers == [200, 401, 401, 401, 401]
    assert (await holder("GET", "/auth/projects", headers={"X-Service-Token": "anything"})).status == 401
    headers = {"X-Subject-Token": holder.token, HEADER: "1.0"}
    assert (await holder("GET", "/auth/tokens", headers=headers)).status == 200
    assert (await holder("DELETE", "/auth/tokens", headers=headers)).status == 401


async def test_the_same_rule_is_one_rule_however_often_it_is_named(owner, world):
    made = await asyncio.gather(*(owner.make(f"n{n}", access_rules=[SERVERS]) for n in range(5)))
    ids = {one["access_rules"][0]["id"] for one in made}
    assert ids == {one.id async for one in world.overlay.scan(AccessRule)}
    assert len(ids) == 1
    rule = f"/users/{owner.id}/access_rules/{ids.pop()}"
    assert (await owner.alice("DELETE", rule)).status == 403
    for one in made:
        assert (await owner.alice("DELETE", f"{owner.path}/{one['id']}")).status == 204
    assert (await owner.alice("GET", rule)).status == 200
    assert (await owner.alice("DELETE", rule)).status == 204
    assert (await owner.alice("GET", rule)).status == 404


@pytest.mark.parametrize("rule", [{}, {"id": "0" * 32}, {**SERVERS, "path": "x"}, {**SERVERS, "method": "get"}])
async def test_a_rule_that_does_not_say_all_is_refused(owner, world, rule):
    await owner.make(access_rules=[rule], status=400)
    assert [one async for one in world.overlay.scan(AccessRule)] == []


async def test_a_user_may_have_only_so_many(owner, world):
    settings = dataclasses.replace(world.settings, application_credential=Section(user_limit=2))
    world.api = door(settings, world.controller.part, committer=world.controller.sequencer).api
    for n in range(2):
        await owner.make(f"n{n}")
    await owner.make("n2", status=403)
    await owner.make("n1", status=403)


async def test_a_site_that_is_cut_off_lets_programs_in(owner, world):
    made = await owner.make()
    site = Site(world)
    site.away = True
    said = {"id": made["id"], "secret": made["secret"]}
    auth = {"identity": {"methods": ["application_credential"], "application_credential": said}}
    body = msgspec.json.encode({"auth": auth})
    answer = await site.ask("POST", "/v3/auth/tokens", headers={"Content-Type": "application/json"}, body=body)
    assert answer.status == 201
    holder = Client(world, answer.headers["X-Subject-Token"])
    assert (await owner.worth(holder))[0] == 200


async def test_an_access_rule_that_is_new_says_nothing_but_what_a_rule_has(owner):
    more = {**SERVERS, "comment": "x"}
    refused = await owner.alice("POST", owner.path, {"application_credential": {"name": "one", "access_rules": [more]}})
    assert (refused.status, refused.position) == (400, None)
    assert "('comment' was unexpected)" in refused.message
    made = await owner.make("two", access_rules=[SERVERS])
    again = await owner.make("three", access_rules=[more])  # it is there, so no more of it is read
    assert again["access_rules"] == made["access_rules"]


async def test_access_rules_are_listed_in_the_order_in_which_they_were_made(owner):
    said = [{"service": "compute", "path": f"/v2.1/{number}", "method": "GET"} for number in range(20)]
    for name, rules in (("one", said[:12]), ("two", said[4:])):
        made = await owner.make(name, access_rules=rules)
        assert [one["path"] for one in made["access_rules"]] == [one["path"] for one in rules]
    listed = (await owner.alice("GET", f"/users/{owner.id}/access_rules")).body["access_rules"]
    assert [one["path"] for one in listed] == [one["path"] for one in said]
    assert {len(one["id"]) for one in listed} == {32}


async def test_a_role_that_is_named_twice_is_a_conflict(owner):
    twice = [{"id": owner.role["member"]}, {"name": "member"}]
    await owner.make(roles=twice, status=409)
    await owner.make(roles=[twice[1], twice[1]], status=409)
    made = await owner.make(roles=[{"name": "manager"}, *twice[:1]])
    assert len({one["id"] for one in made["roles"]}) == len(made["roles"])
