"""Trusts: what is handed on, for how long and how often; what voids it; and how a site uses up what is counted."""

import asyncio
import uuid

import msgspec
import pytest

from regional_keystone.document import time
from regional_keystone.errors import Unavailable
from regional_keystone.model import Outcome, Project, Trust
from regional_keystone.record import spread
from regional_keystone.wiring import door
from tests.api.conftest import Answer, Client

PASSWORD = "a good pass phrase"


class People:
    """Alice, who has something on project p; bob and carol, who have nothing there."""

    def __init__(self, world, admin):
        self.world, self.admin = world, admin

    async def move_in(self):
        roles = (await self.admin("GET", "/roles")).body["roles"]
        self.role = {one["name"]: one["id"] for one in roles}
        self.p = (await self.admin.make("project", name="p"))["id"]
        self.q = (await self.admin.make("project", name="q"))["id"]
        for name in ("alice", "bob", "carol"):
            user = await self.admin.make("user", name=name, password=PASSWORD, domain_id="default")
            setattr(self, f"{name}_id", user["id"])
        for project in (self.p, self.q):
            await self.grant(self.alice_id, project, "manager")
        for user in (self.bob_id, self.carol_id):
            await self.grant(user, self.q, "reader")
        self.alice = await Client(self.world).login("alice", PASSWORD, {"project": {"id": self.p}})
        self.bob = await Client(self.world).login("bob", PASSWORD, "unscoped")
        self.carol = await Client(self.world).login("carol", PASSWORD, "unscoped")
        return self

    async def grant(self, user, project, role, method="PUT"):
        path = f"/projects/{project}/users/{user}/roles/{self.role[role]}"
        assert (await self.admin(method, path)).status == 204

    async def trust(self, by=None, status=201, **more):
        attributes = {
            "trustor_user_id": self.alice_id,
            "trustee_user_id": self.bob_id,
            "project_id": self.p,
            "impersonation": True,
            "roles": [{"name": "member"}],
        }
        body = {"trust": {name: value for name, value in {**attributes, **more}.items() if value is not None}}
        answer = await (by or self.alice)("POST", "/OS-TRUST/trusts", body)
        assert answer.status == status, answer.body
        return answer.body.get("trust")

    async def use(self, trust, by=None, status=201):
        answer = await use(self.world.ask, trust["id"], (by or self.bob).token)
        assert answer.status == status, answer.body
        return Client(self.world, answer.headers["X-Subject-Token"]) if status == 201 else answer

    async def worth(self, holder, query=""):
        """(status, token) of a validation."""
        answer = await self.admin("GET", f"/auth/tokens{query}", headers={"X-Subject-Token": holder.token})
        return answer.status, answer.body.get("token")


async def use(ask, trust_id, token, **options):
    identity = {"methods": ["token"], "token": {"id": token}}
    body = msgspec.json.encode({"auth": {"identity": identity, "scope": {"OS-TRUST:trust": {"id": trust_id}}}})
    answer = await ask("POST", "/v3/auth/tokens", headers={"Content-Type": "application/json"}, body=body, **options)
    return Answer(answer.status, msgspec.json.decode(answer.body), answer.headers, answer.position)


@pytest.fixture
async def people(world, admin):
    return await People(world, admin).move_in()


async def test_uses_are_counted_exactly_however_many_come_at_once(people, world):
    trust = await people.trust(remaining_uses=7)
    answers = await asyncio.gather(*(use(world.ask, trust["id"], people.bob.token) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [201] * 7 + [401] * 43
    assert (await people.alice("GET", f"/OS-TRUST/trusts/{trust['id']}")).status == 404
    assert (await world.overlay.get(Trust, trust["id"])).remaining_uses == 0
    made = [Client(world, one.headers["X-Subject-Token"]) for one in answers if one.status == 201]
    assert [(await people.worth(one))[0] for one in made] == [200] * 7


async def test_a_login_that_fails_uses_nothing_up(people, world):
    trust = await people.trust(remaining_uses=1)
    await people.use(trust, by=people.carol, status=403)
    await people.grant(people.alice_id, people.p, "manager", "DELETE")
    await people.use(trust, status=403)
    await people.grant(people.alice_id, people.p, "manager")
    assert (await world.overlay.get(Trust, trust["id"])).remaining_uses == 1
    await people.use(trust)
    await people.use(trust, status=401)


class Site:
    """Answers as a site does whose controller is the world, over the same replica."""

    def __init__(self, world):
        self.world, self.controller, self.forwarded, self.away = world, world.api, [], False
        part, settings = world.controller.part, world.settings
        self.api = door(settings, part, committer=None, forward=self._forward).api

    async def _forward(self, request):
        if self.away:
            raise Unavailable("away")
        self.forwarded.append(request)
        return await self.controller.answer(request, keep=True)

    async def ask(self, method, path, *, headers, body):
        self.world.api = self.api
        try:
            return await self.world.ask(method, path, headers=headers, body=body)
        finally:
            self.world.api = self.controller


async def test_a_site_forwards_a_login_that_uses_something_up_and_answers_every_other_itself(people, world):
    plain, counted = await people.trust(), await people.trust(remaining_uses=2)
    site = Site(world)
    assert (await use(site.ask, plain["id"], people.bob.token)).status == 201
    assert site.forwarded == []
    answer = await use(site.ask, counted["id"], people.bob.token)
    assert (answer.status, len(site.forwarded)) == (201, 1)
    assert (await world.overlay.get(Trust, counted["id"])).remaining_uses == 1
    site.away = True
    assert (await use(site.ask, plain["id"], people.bob.token)).status == 201
    assert (await use(site.ask, counted["id"], people.bob.token)).status == 503
    assert (await use(site.ask, uuid.uuid4().hex, people.bob.token)).status == 401
    assert (await world.overlay.get(Trust, counted["id"])).remaining_uses == 1


async def test_a_retry_of_a_forwarded_login_finds_its_token_which_the_log_does_not_show(people, world):
    trust = await people.trust(remaining_uses=5)
    site = Site(world)
    answer = await use(site.ask, trust["id"], people.bob.token)
    request = site.forwarded[0]
    again = await world.api.answer(request, keep=True)
    assert again.headers["X-Subject-Token"] == answer.headers["X-Subject-Token"]
    assert (await world.overlay.get(Trust, trust["id"])).remaining_uses == 4
    kept = await world.overlay.get(Outcome, spread(request.id))
    assert answer.headers["X-Subject-Token"].encode() not in kept.answer
    guessed = {name: value for name, value in request.headers.items() if name != "x-rk-secret"}
    other = await world.api.answer(msgspec.structs.replace(request, headers=guessed), keep=True)
    assert other.status == 409


@pytest.mark.parametrize("impersonation", [True, False])
@pytest.mark.parametrize("what", ["trust", "trustor", "trustee", "project", "role", "domain", "grant"])
async def test_a_token_by_a_trust_is_void_at_once_when_anything_of_it_goes(people, world, what, impersonation):
    admin = people.admin
    role = await admin.make("role", name="extra")
    people.role["extra"] = role["id"]
    await people.grant(people.alice_id, people.p, "extra")
    trust = await people.trust(impersonation=impersonation, roles=[{"name": "extra"}])
    holder = await people.use(trust)
    status, token = await people.worth(holder)
    assert (status, token["OS-TRUST:trust"]["id"]) == (200, trust["id"])
    assert token["user"]["id"] == (people.alice_id if impersonation else people.bob_id)
    paths = {
        "trust": f"/OS-TRUST/trusts/{trust['id']}",
        "trustor": f"/users/{people.alice_id}",
        "trustee": f"/users/{people.bob_id}",
        "project": f"/projects/{people.p}",
        "role": f"/roles/{role['id']}",
        "grant": f"/projects/{people.p}/users/{people.alice_id}/roles/{role['id']}",
    }
    if what == "domain":
        home = await world.overlay.get(Project, "default")
        assert home.enabled
        assert (await admin("PATCH", "/domains/default", {"domain": {"enabled": False}})).status == 200
        answer = await Client(world, holder.token)("GET", "/auth/projects")
        assert answer.status == 401
        return
    assert (await admin("DELETE", paths[what])).status == 204
    assert (await people.worth(holder))[0] == 404
    assert (await holder("GET", "/auth/projects")).status == 401
    if what != "trustee":
        await people.use(trust, status=403 if what in {"role", "grant"} else 401)


@pytest.mark.parametrize("whose", ["alice_id", "bob_id"])
@pytest.mark.parametrize("how", ["password", "disabled for a moment", "all tokens"])
async def test_what_voids_the_tokens_of_either_end_voids_those_by_the_trust(people, world, whose, how):
    holder, user_id = await people.use(await people.trust()), getattr(people, whose)
    assert [(await people.worth(holder))[0] for _ in range(2)] == [200, 200]
    if how == "all tokens":
        assert (await people.admin("DELETE", f"/users/{user_id}/tokens")).status == 204
    changes = {
        "password": [{"password": "another one"}],
        "disabled for a moment": [{"enabled": False}, {"enabled": True}],
    }
    for change in changes.get(how, ()):
        assert (await people.admin("PATCH", f"/users/{user_id}", {"user": change})).status == 200
    assert (await people.worth(holder))[0] == 404


async def test_deleting_a_trust_revokes_its_tokens_and_those_of_what_was_made_of_it(people):
    first = await people.trust(allow_redelegation=True)
    holder = await people.use(first)
    second = await people.trust(by=holder, trustee_user_id=people.carol_id)
    last = await people.use(second, by=people.carol)
    assert (await people.worth(last))[0] == 200
    assert (await people.alice("DELETE", f"/OS-TRUST/trusts/{first['id']}")).status == 204
    events = (await people.admin("GET", "/OS-REVOKE/events")).body["events"]
    assert {one.get("OS-TRUST:trust_id") for one in events} >= {first["id"], second["id"]}
    assert [(await people.worth(one))[0] for one in (holder, last)] == [404, 404]
    assert (await people.admin("GET", f"/OS-TRUST/trusts/{second['id']}")).status == 404


async def test_a_token_ends_with_its_trust_and_is_not_shown_beyond(people, world):
    now = world.clock.now()
    end = time(now + 60_000_000)
    trust = await people.trust(expires_at=end)
    holder = await people.use(trust)
    assert (await people.worth(holder))[1]["expires_at"] == end
    assert (await people.worth(holder, "?allow_expired=1"))[0] == 200
    world.clock.ahead_s += 61
    assert (await people.worth(holder))[0] == 404
    assert (await people.worth(holder, "?allow_expired=1"))[0] == 404
    await people.use(trust, status=401)


async def test_what_is_handed_on_is_never_more_than_was_handed_on(people):
    first = await people.trust(allow_redelegation=True, redelegation_count=2)
    other = await people.trust(allow_redelegation=True, expires_at="2099-01-01T00:00:00Z")
    holder = await people.use(first)
    onward = {"by": holder, "trustee_user_id": people.carol_id}
    await people.trust(**onward, project_id=people.q, status=403)
    await people.trust(**onward, redelegated_trust_id=other["id"], status=403)
    await people.trust(**onward, roles=[{"name": "manager"}], status=403)
    await people.trust(**onward, remaining_uses=3, status=403)
    second = await people.trust(**onward, allow_redelegation=True, redelegated_trust_id=first["id"])
    assert (second["redelegated_trust_id"], second["redelegation_count"]) == (first["id"], 1)
    named = {"redelegated_trust_id": first["id"]}
    await people.trust(by=people.alice, **named, status=403)


async def test_without_impersonation_an_impersonating_trust_cannot_follow(people):
    first = await people.trust(allow_redelegation=True, impersonation=False)
    holder = await people.use(first)
    onward = {"by": holder, "trustor_user_id": people.bob_id, "trustee_user_id": people.carol_id}
    await people.trust(**onward, redelegated_trust_id=first["id"], status=403)
    await people.trust(**onward, impersonation=False, status=404)  # bob has no role there himself
    second = await people.trust(**onward, impersonation=False, redelegated_trust_id=first["id"])
    await people.use(second, by=people.carol, status=403)
    await people.grant(people.bob_id, people.p, "member")
    await people.use(second, by=people.carol)


async def test_an_agent_in_the_middle_of_a_chain_who_is_disabled_breaks_it(people):
    first = await people.trust(allow_redelegation=True)
    second = await people.trust(by=await people.use(first), trustee_user_id=people.carol_id)
    last = await people.use(second, by=people.carol)
    change = {"user": {"enabled": False}}
    assert (await people.admin("PATCH", f"/users/{people.bob_id}", change)).status == 200
    assert (await people.worth(last))[0] == 404
    await people.use(second, by=people.carol, status=403)


async def test_a_token_by_a_trust_has_what_its_roles_imply_and_the_trustor_has(people):
    trust = await people.trust()
    holder = await people.use(trust)
    status, token = await people.worth(holder)
    assert (status, sorted(one["name"] for one in token["roles"])) == (200, ["member", "reader"])
    assert "is_domain" not in token
    assert token["catalog"]
    path = f"/roles/{people.role['member']}/implies/{people.role['reader']}"
    assert (await people.admin("DELETE", path)).status == 204
    assert [one["name"] for one in (await people.worth(holder))[1]["roles"]] == ["member"]


@pytest.mark.parametrize("impersonation", [True, False])
async def test_what_the_login_said_is_what_every_place_says_cold(people, world, impersonation):
    trust = await people.trust(impersonation=impersonation)
    made = await use(world.ask, trust["id"], people.bob.token)
    headers = {"X-Auth-Token": people.admin.token, "X-Subject-Token": made.headers["X-Subject-Token"]}
    for _ in range(2):
        shown = await Site(world).ask("GET", "/v3/auth/tokens", headers=headers, body=b"")
        assert msgspec.json.decode(shown.body) == made.body


async def test_a_token_by_a_trust_makes_nothing_that_outlives_it(people):
    holder = await people.use(await people.trust())
    path = f"/users/{people.alice_id}/application_credentials"
    for method, where, body in (
        ("POST", path, {"application_credential": {"name": "mine"}}),
        ("GET", path, None),
        ("GET", f"/users/{people.alice_id}/access_rules", None),
        ("POST", "/credentials", {"credential": {"type": "x", "blob": "{}", "user_id": people.alice_id}}),
    ):
        assert (await holder(method, where, body)).status == 403
    for scope in (None, "unscoped", {"project": {"id": people.p}}, {"system": {"all": True}}):
        identity = {"methods": ["token"], "token": {"id": holder.token}}
        body = {"auth": {"identity": identity} | ({"scope": scope} if scope else {})}
        assert (await Client(people.world)("POST", "/auth/tokens", body)).status == 403


async def test_the_same_trust_to_the_same_instant_is_a_conflict_until_it_is_deleted(people):
    end = {"expires_at": "2099-01-01T00:00:00Z"}
    trust = await people.trust(**end)
    await people.trust(**end, status=409)
    await people.trust(**end, impersonation=False)
    assert (await people.alice("DELETE", f"/OS-TRUST/trusts/{trust['id']}")).status == 204
    await people.trust(**end)


async def test_a_trust_is_seen_by_its_two_ends_and_by_who_administers(people, admin):
    trust = await people.trust()
    path = f"/OS-TRUST/trusts/{trust['id']}"
    for who, status in ((people.alice, 200), (people.bob, 200), (people.carol, 403), (admin, 200)):
        assert (await who("GET", path)).status == status
        assert (await who("HEAD", path)).status == status
        assert (await who("GET", f"{path}/roles")).status == status
        assert (await who("GET", f"{path}/roles/{people.role['member']}")).status == status
    for who in (people.bob, people.carol):
        assert (await who("DELETE", path)).status == 403
    assert (await admin("DELETE", path)).status == 204


async def test_a_role_that_is_named_twice_is_a_conflict(people):
    twice = [{"id": people.role["member"]}, {"name": "member"}]
    await people.trust(roles=twice, status=409)
    await people.trust(roles=[twice[0], twice[0]], status=409)
    assert len((await people.trust(roles=[{"name": "manager"}, twice[0]]))["roles"]) == 2
