"""Whoever shows where a change stands is answered with it, or told to wait: never that what was made is not there."""

import asyncio
import dataclasses
import json
import re
import uuid
from contextlib import AsyncExitStack

import pytest

from regional_keystone import front
from regional_keystone.enrol import JoinToken
from regional_keystone.model import Grant, Project, Role, Trust, User
from regional_keystone.passwords import hash_password
from regional_keystone.positions import WAIT_S
from regional_keystone.settings import Site
from tests.cloud import Wire, eventually, running
from tests.site.test_site import Lives
from tests.site.wire import ask, request

SECRET = "correct horse"
USERS = ("trustor", "trustee")


class Region:
    """One site at a port."""

    def __init__(self, site, port):
        self.site, self.port = site, port

    async def ask(self, method, path, body=None, /, **headers):
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append("Content-Type: application/json")
        data = b"" if body is None else json.dumps(body).encode()
        return await ask(self.port, request(method, path, *lines, body=data))

    async def log_in(self, name, scope=None, **headers):
        user = {"name": name, "domain": {"id": "default"}, "password": SECRET}
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}} | ({"scope": scope} if scope else {})
        return await self.ask("POST", "/v3/auth/tokens", {"auth": auth}, **headers)

    async def token(self, name, scope=None):
        return (await self.log_in(name, scope)).headers["x-subject-token"]

    async def validate(self, token, **headers):
        return await self.ask("GET", "/v3/auth/tokens", X_Auth_Token=token, X_Subject_Token=token, **headers)


class Regions:
    """A controller and two whole sites in one process; the second is at the end of a wire."""

    def __init__(self, cloud, near, far, wire):
        self.cloud, self.near, self.far, self.wire = cloud, near, far, wire

    async def trust(self):
        """A new trust, as a scope, and where it stands."""
        made = Trust(
            id=uuid.uuid4().hex,
            trustor_user_id="trustor",
            trustee_user_id="trustee",
            project_id="p",
            impersonation=False,
            role_ids=("r",),
        )
        return {"OS-TRUST:trust": {"id": made.id}}, await self.cloud.controller.write(made)


async def opened(stack, directory, name, cloud, *controllers):
    lives = Lives(directory / name)
    lives.settings = dataclasses.replace(lives.settings, site=Site(state_dir=lives.state, controllers=controllers))
    await lives.identity.join(JoinToken.read(await cloud.controller.sites.invite(name)))
    site = await stack.enter_async_context(lives.life())
    await eventually(lambda: site.part.holder.seen.epoch and site.part.follower.age_s() < 2)
    runner = await front.serve(site.door.web, "127.0.0.1", 0)
    stack.push_async_callback(runner.cleanup)
    return Region(site, runner.addresses[0][1])


@pytest.fixture
async def regions(tmp_path):
    async with running(tmp_path, ()) as cloud, AsyncExitStack() as stack:
        hashed = await hash_password(SECRET, 4)
        grant = Grant(actor_id="trustor", actor="user", target="project", target_id="p", role_id="r", inherited=False)
        await cloud.controller.write(
            Project(id="default", name="Default", is_domain=True),
            Project(id="p", name="p", domain_id="default", parent_id="default"),
            *(User(id=name, name=name, domain_id="default", password_hash=hashed) for name in USERS),
            Role(id="r", name="member"),
            grant,
        )
        wire = Wire(cloud.controller.port)
        await wire.start()
        stack.push_async_callback(wire.stop)
        near = await opened(stack, tmp_path, "RegionOne", cloud)
        far = await opened(stack, tmp_path, "RegionTwo", cloud, wire.url)
        yield Regions(cloud, near, far, wire)


async def test_a_trust_is_used_at_once_where_it_is_still_on_its_way(regions):
    far, wire = regions.far, regions.wire
    wire.hold("down")
    scope, position = await regions.trust()
    assert (await far.log_in("trustee", scope)).status == 401, "who shows nothing is answered from what is here"
    asyncio.get_running_loop().call_later(0.3, wire.release)
    answer = await far.log_in("trustee", scope, X_RK_Position=position)
    assert answer.status == 201
    assert (await regions.near.validate(answer.headers["x-subject-token"])).status == 200


async def test_what_does_not_come_in_time_is_neither_refused_nor_denied(regions):
    far, wire = regions.far, regions.wire
    token = await far.token("trustor")
    assert (await far.validate(token)).status == 200
    wire.hold("down")
    scope, position = await regions.trust()
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        far.log_in("trustee", scope, X_RK_Position=position),
        far.validate(token, X_RK_Position=position),
        far.ask("GET", "/v3/users/trustor", X_Auth_Token=token, X_RK_Position=position),
    )
    took_s = asyncio.get_running_loop().time() - began
    assert {(one.status, one.headers["retry-after"]) for one in answers} == {(503, "1")}
    assert WAIT_S <= took_s < WAIT_S + 2
    assert (await far.validate(token)).status == 200, "who shows nothing does not wait"
    wire.release()


async def test_a_revocation_that_a_site_took_into_its_own_feed_is_waited_for_elsewhere(regions):
    near, far, wire = regions.near, regions.far, regions.wire
    token = await near.token("trustor")
    for region in (near, far):
        assert (await region.validate(token)).status == 200
    wire.hold("down")
    ended = await near.ask("DELETE", "/v3/auth/tokens", X_Auth_Token=token, X_Subject_Token=token)
    assert ended.status == 204
    at = ended.headers["x-rk-position"]
    assert re.fullmatch(r"\d+\+1@RegionOne/[0-9a-f]+", at)
    assert (await near.validate(token, X_RK_Position=at)).status == 401
    assert (await far.validate(token)).status == 200, "it cannot know"
    assert (await far.validate(token, X_RK_Position=at)).status == 503
    asyncio.get_running_loop().call_later(0.3, wire.release)
    assert (await far.validate(token, X_RK_Position=at)).status == 401


async def test_it_is_waited_for_at_the_site_itself_no_longer_than_it_takes_while_the_controller_is_away(regions):
    near = regions.near
    token, other = await near.token("trustor"), await near.token("trustee")
    await regions.cloud.controller.stop()
    ended = await near.ask("DELETE", "/v3/auth/tokens", X_Auth_Token=token, X_Subject_Token=token)
    shown = {"X_RK_Position": ended.headers["x-rk-position"]}
    began = asyncio.get_running_loop().time()
    assert (await near.validate(token, **shown)).status == 401
    assert (await near.validate(other, **shown)).status == 200
    assert asyncio.get_running_loop().time() - began < WAIT_S / 2
    away = {"X_RK_Position": shown["X_RK_Position"].replace("+1@", "+2@")}
    assert (await near.validate(other, **away)).status == 503
    await regions.cloud.controller.start()


async def test_positions_that_never_come_cost_whoever_shows_them_and_others_are_refused(regions):
    near = regions.near
    for said in ("", "x", "-1", "1.0", "1+", "1+2", "1+2@", "1+@RegionOne/a", "+1@a", "1+2@a b", "9" * 19):
        assert (await near.ask("GET", "/v3", X_RK_Position=said)).status == 400, said
    began = asyncio.get_running_loop().time()
    waiting = [asyncio.create_task(near.ask("GET", "/v3", X_RK_Position=10**17)) for _ in range(90)]
    answers = await asyncio.gather(*waiting)
    assert {(one.status, one.headers["retry-after"]) for one in answers} == {(503, "1")}
    too_many = [one for one in answers if b"Too many requests wait" in one.body]
    assert len(too_many) == 90 - 64
    assert asyncio.get_running_loop().time() - began < WAIT_S + 2
    position = near.site.part.follower.position
    assert (await near.ask("GET", "/v3", X_RK_Position=position)).status in {200, 300}
    waits = near.site.door.web._wait
    assert not len(waits.places)
    assert waits.places.refused == {"all": 0, "caller": 90 - 64}
    assert not near.site.part.follower._noted._waiting


async def test_an_answer_says_how_old_it_may_be_to_whoever_asks(regions):
    near, far = regions.near, regions.far
    token = await near.token("trustor")
    plain = await near.validate(token)
    assert not {"x-rk-position", "x-rk-freshness"} & plain.headers.keys()
    _, position = await regions.trust()
    await eventually(lambda: near.site.part.follower.position == position)
    told = await near.validate(token, X_RK_Freshness=1)
    assert told.body == plain.body
    assert told.headers["x-rk-position"] == str(position)
    age, epoch = re.fullmatch(r"age=(\d+\.\d{3}), epoch=(\d+)", told.headers["x-rk-freshness"]).groups()
    assert float(age) < 5
    assert int(epoch) == near.site.part.holder.seen.epoch
    refused = await far.ask("GET", "/v3/users", X_RK_Freshness=1)
    assert refused.status == 401
    assert refused.headers["x-rk-freshness"].startswith("age=")
