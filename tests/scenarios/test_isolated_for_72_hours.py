"""A site that is cut off for 72 hours and comes back: what it may do at which hour, and that nothing of it is lost.

The product's own controller and sites on a clock that leaps; the wire between them is real TLS behind a proxy that is
cut. `make isolated` does the same with 100,000 events to be caught up and an hour to a leap.
Source: docs/isolation.md.
"""

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack

from regional_keystone.log import Transaction, put
from regional_keystone.messages import Request
from regional_keystone.model import RevocationEvent, Ring, Site
from tests.cloud import Wire, event, eventually
from tests.controllers import config_in, operated, site_of, tasks
from tests.replay import LeapingClock

EVENTS = int(os.environ.get("EVENTS", "3000"))
LEAP_HOURS = int(os.environ.get("LEAP_HOURS", "6"))
CATCH_UP_S = 30.0
HOUR_S = 3600
FAR, NEAR = "RegionFar", "RegionNear"
PASSWORD = "correct horse battery"
SETTINGS = f"""
[token]
expiration = {100 * HOUR_S}
[keys]
rotation_interval = {20 * HOUR_S}
[identity]
password_hash_rounds = 4
"""


class WakefulClock(LeapingClock):
    """Who sleeps looks often whether time has leapt."""

    async def sleep(self, seconds):
        until = self.ticks() + seconds
        while True:
            await asyncio.sleep(max(0.0, min(until - self.ticks(), 0.02)))
            if self.ticks() >= until:
                return


class Client:
    """Asks one place, and remembers who it is."""

    def __init__(self, place):
        self.place = place
        self.asked = 0

    async def ask(self, method, path, body=None, *, token=None, subject=None, **headers):
        self.asked += 1
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {} if token is None else {"x-auth-token": token}
        sent |= {} if subject is None else {"x-subject-token": subject}
        data = b"" if body is None else json.dumps(body).encode()
        name = f"{id(self)}/{self.asked}"
        request = Request(id=name, method=method, path=f"/v3{path}", headers=sent, body=data, base_url="http://here")
        return await self.place.door.api.answer(request)

    async def made(self, path, body, token):
        answer = await self.ask("POST", path, body, token=token)
        assert answer.status == 201, answer.body
        return next(iter(json.loads(answer.body).values()))

    async def login(self, proof, scope=None):
        body = {"auth": {"identity": proof} | ({} if scope is None else {"scope": scope})}
        answer = await self.ask("POST", "/auth/tokens", body)
        named = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, named.get("x-subject-token"), answer

    async def token(self, proof, scope=None):
        status, token, answer = await self.login(proof, scope)
        assert status == 201, answer.body
        return token

    async def shows(self, token, caller=None):
        """The status of a validation."""
        return (await self.ask("GET", "/auth/tokens", token=caller or token, subject=token)).status


def password(name):
    user = {"name": name, "domain": {"id": "default"}, "password": PASSWORD}
    return {"methods": ["password"], "password": {"user": user}}


def by_credential(credential):
    shown = {"id": credential["id"], "secret": credential["secret"]}
    return {"methods": ["application_credential"], "application_credential": shown}


class Story:
    """A controller and two sites; `near` stays connected, `far` is cut off."""

    def __init__(self, clock, controller, near, far, wire):
        self.clock, self.controller, self.near, self.far, self.wire = clock, controller, near, far, wire
        self.at = {"controller": Client(controller), NEAR: Client(near), FAR: Client(far)}
        self.hours = 0.0

    async def begin(self):
        """Users with a role on a project, one of them with an application credential."""
        await self.controller.bootstrap("admin", PASSWORD)
        here = self.at["controller"]
        self.admin = await here.token(password("admin"), {"system": {"all": True}})
        self.project = await here.made("/projects", {"project": {"name": "p", "domain_id": "default"}}, self.admin)
        roles = json.loads((await here.ask("GET", "/roles", token=self.admin)).body)["roles"]
        member = next(role["id"] for role in roles if role["name"] == "member")
        self.scope = {"project": {"id": self.project["id"]}}
        self.users = {}
        for name in ("stays", "leaves"):
            user = {"name": name, "domain_id": "default", "password": PASSWORD}
            self.users[name] = (await here.made("/users", {"user": user}, self.admin))["id"]
            path = f"/projects/{self.project['id']}/users/{self.users[name]}/roles/{member}"
            assert (await here.ask("PUT", path, token=self.admin)).status == 204
        owner = await here.token(password("stays"), self.scope)
        path = f"/users/{self.users['stays']}/application_credentials"
        self.credential = await here.made(path, {"application_credential": {"name": "robot"}}, owner)
        trust = {
            "trustor_user_id": self.users["stays"],
            "trustee_user_id": self.users["leaves"],
            "roles": [{"id": member}],
        }
        trust |= {"project_id": self.project["id"], "impersonation": False, "remaining_uses": 2}
        self.trust = await here.made("/OS-TRUST/trusts", {"trust": trust}, owner)
        await self.level()

    async def level(self):
        for site in (self.near, self.far):
            assert await site.part.follower.settled(self.controller.sequencer.head, 30)

    async def tokens(self, name):
        """One of this user's, of each place."""
        return {where: await client.token(password(name), self.scope) for where, client in self.at.items()}

    async def leap(self, hours):
        """So much time goes by; what is connected is heard from again, and a turn that is due meets its deadline."""
        for seconds in (hours * HOUR_S, 45, 45):
            self.clock.ahead_s += seconds
            self.hours += seconds / HOUR_S
            await eventually(lambda: self.near.link.connected_since is not None, 20)
            await eventually(lambda: self.near.part.follower.age_s() < 2, 20)

    async def flood(self, count):
        """So many revocations of tokens of others are written, 100 to an entry."""
        now = self.clock.now()
        for first in range(0, count, 100):
            names = [f"other-{number}" for number in range(first, min(first + 100, count))]
            changes = tuple(put(event(name, now, audit_id=name)) for name in names)
            transaction = Transaction(f"flood/{first}", self.controller.sequencer.head, frozenset(), changes)
            await self.controller.sequencer.commit(transaction)


async def cut_off(story):
    """72 hours alone, looked at after each leap."""
    far, tell = story.at[FAR], story.at["controller"]
    before = await story.tokens("stays")
    theirs = await story.tokens("leaves")
    assert {await far.shows(token) for token in (*before.values(), *theirs.values())} == {200}
    story.wire.cut()
    await eventually(lambda: story.far.link.connected_since is None)
    issued, revoked, epoch = [], [], story.far.part.holder.seen.epoch
    leaver_gone = False
    while story.hours + LEAP_HOURS < 72:
        await story.leap(LEAP_HOURS)
        assert {await far.shows(token) for token in before.values()} == {200}, "issued anywhere before"
        issued += [await far.token(password("stays"), story.scope), await far.token(by_credential(story.credential))]
        assert [await far.shows(token) for token in issued[-2:]] == [200, 200]
        assert (await far.ask("GET", f"/projects/{story.project['id']}", token=issued[-2])).status == 200
        assert (await far.ask("GET", "/auth/catalog", token=issued[-2])).status == 200
        revoked.append(await far.token(password("stays"), story.scope))
        assert (await far.ask("DELETE", "/auth/tokens", token=issued[-2], subject=revoked[-1])).status == 204
        assert await far.shows(revoked[-1], issued[-2]) == 404, "at once"
        change = {"project": {"description": "changed"}}
        refused = await far.ask("PATCH", f"/projects/{story.project['id']}", change, token=issued[-2])
        assert refused.status == 503, "a change needs the controller"
        assert "Retry-After" in refused.headers
        by_trust = await far.login(password("leaves"), {"OS-TRUST:trust": {"id": story.trust["id"]}})
        assert by_trust[:2] == (503, None), "uses that are counted are counted in one place"
        fresh = await far.shows(story.admin)
        assert fresh == 503, "a system's token is answered for only as long as [freshness] says"
        if not leaver_gone and story.hours > 20:
            change = {"user": {"enabled": False}}
            path = f"/users/{story.users['leaves']}"
            assert (await tell.ask("PATCH", path, change, token=story.admin)).status == 200
            leaver_gone = True
    assert await far.shows(theirs[FAR]) == 200, "what happened elsewhere is not known here, and /status says since when"
    assert story.far.part.follower.age_s() > 60 * HOUR_S
    assert story.far.part.holder.seen.epoch == epoch
    assert story.near.part.holder.seen.epoch > epoch, "keys turned elsewhere"
    assert (await story.controller.part.overlay.get(Site, FAR)).state == "quarantined"
    return before, theirs, issued, revoked


async def over(story, before):
    """The promised isolation is over: nothing is issued, everything else goes on."""
    far = story.at[FAR]
    await story.leap(73 - story.hours)
    for proof in (password("stays"), by_credential(story.credential)):
        status, token, answer = await far.login(proof)
        assert (status, token) == (503, None), answer.body
        assert "Retry-After" in answer.headers
    assert {await far.shows(token) for token in before.values()} == {200}
    assert (await far.ask("DELETE", "/auth/tokens", token=before[FAR], subject=before[NEAR])).status == 204
    assert await far.shows(before[NEAR], before[FAR]) == 404


async def healed(story, issued, revoked):
    """It comes back without an operator; what it did is everywhere, once, and what happened meanwhile is here."""
    await story.flood(EVENTS)
    head, begun = story.controller.sequencer.head, time.monotonic()
    story.wire.mend()
    assert await story.far.part.follower.reached(head, 2 * CATCH_UP_S)
    caught_up_s = time.monotonic() - begun
    print(f"{EVENTS} events caught up in {caught_up_s:.1f} s")
    assert caught_up_s <= CATCH_UP_S
    await eventually(lambda: story.far.own.pending() == 0, 20)
    await story.level()

    async def back():
        return (await story.controller.part.overlay.get(Site, FAR)).state == "active"

    await eventually(back, 20)
    await eventually(lambda: story.far.part.holder.seen == story.controller.part.holder.seen, 20)
    ring = await story.controller.part.overlay.get(Ring, "token")
    assert story.far.part.follower.sealing_number() == max(ring.checks) == story.near.part.follower.sealing_number()
    assert {await client.shows(token) for client in story.at.values() for token in issued} == {200}
    caller = await story.at[FAR].token(password("stays"), story.scope)
    await story.level()
    assert {await client.shows(token, caller) for client in story.at.values() for token in revoked} == {404}


async def test_72_hours_alone_and_the_way_back(tmp_path):
    clock = WakefulClock()
    async with AsyncExitStack() as stack:
        controller = await stack.enter_async_context(operated(config_in(tmp_path, SETTINGS), clock))
        await stack.enter_async_context(tasks(controller.tasks()))
        wire = Wire(controller.settings.stream.port)
        await wire.start()
        stack.push_async_callback(wire.stop)
        near = await stack.enter_async_context(site_of(tmp_path, controller, NEAR, SETTINGS, clock))
        behind = f"controllers = {wire.url}\n{SETTINGS}"
        far = await stack.enter_async_context(site_of(tmp_path, controller, FAR, behind, clock))
        story = Story(clock, controller, near, far, wire)
        await story.begin()
        before, theirs, issued, revoked = await cut_off(story)
        await over(story, before)
        revoked.append(before[NEAR])
        await healed(story, issued, revoked)
        caller = await story.at[FAR].token(password("stays"), story.scope)
        for client in story.at.values():
            assert {await client.shows(token, caller) for token in theirs.values()} == {404}, "disabled meanwhile"
        own = [one async for one in controller.part.overlay.scan(RevocationEvent)]
        audits = [one.audit_id for one in own if one.audit_id and not one.audit_id.startswith("other-")]
        assert len(audits) == len(set(audits)) == len(revoked), "each acknowledged revocation once"
