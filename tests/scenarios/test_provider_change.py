"""A federation that goes from sealed to signed tokens and back, one place after the other: no token is refused."""

import json
import uuid
from dataclasses import replace

from controller.bootstrap import bootstrap
from regional_keystone import settings as sections
from regional_keystone.messages import Request
from regional_keystone.parts import Replica
from regional_keystone.passwords import recipe
from regional_keystone.wiring import door
from tests.cloud import eventually, running

PASSWORD = "provider-pw"
LOGIN = {
    "auth": {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}},
        },
        "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
    }
}


class Gate:
    """The Identity API of one node of a cloud, as its provider is set now."""

    def __init__(self, node, committer):
        provider = "jws" if node.signs else "fernet"
        settings = sections.Settings(
            token=sections.Token(provider=provider),
            identity=replace(sections.Identity(), password_hash_rounds=4),
        )
        part = Replica(
            node.clock, node.store, node.overlay, node.holder, node.credentials, node.follower, node.signatory
        )
        self.door = door(settings, part, committer=committer)
        self.node = node

    async def ask(self, method, headers, body=b""):
        request = Request(id=str(uuid.uuid4()), method=method, path="/v3/auth/tokens", headers=headers, body=body)
        return await self.door.api.answer(request)

    async def login(self, **identity):
        body = LOGIN if not identity else {"auth": {"identity": identity}}
        answer = await self.ask("POST", {"content-type": "application/json"}, json.dumps(body).encode())
        return answer.headers["X-Subject-Token"] if answer.status == 201 else None

    async def worth(self, caller, subject) -> int:
        answer = await self.ask("GET", {"x-auth-token": caller, "x-subject-token": subject})
        return answer.status


def gates(cloud):
    controller = cloud.controller
    return [Gate(controller, controller.sequencer), *(Gate(site, site.own) for site in cloud.sites.values())]


async def issued(gate) -> str:
    """A token that this place issues now; a place whose signing key is on its way says 503 until it is there."""
    found = []

    async def logged_in():
        found[:] = [await gate.login()]
        return found[0] is not None

    await eventually(logged_in, 10)
    return found[0]


async def test_fernet_to_jws_to_fernet_one_place_after_the_other_refuses_no_token(tmp_path):
    async with running(tmp_path) as cloud:
        controller = cloud.controller
        await bootstrap(
            controller.overlay,
            controller.sequencer,
            username="admin",
            project="admin",
            password=PASSWORD,
            how=recipe(replace(sections.Identity(), password_hash_rounds=4)),
            now=controller.clock.now(),
        )
        await cloud.level()
        known: dict[str, str] = {}
        await everywhere(cloud, known, "sealed")
        for signs in (True, False):
            for name, site in cloud.sites.items():
                await site.stop()
                site.signs = signs
                await site.start()
                await everywhere(cloud, known, f"{name} signs: {signs}")
        formats = ["signed" if text.count(".") == 2 else "sealed" for text in known.values()]
        assert formats.count("signed") >= 4
        assert formats.count("sealed") >= 4


async def everywhere(cloud, known, step) -> None:
    """Every place issues; every token of this step and of all before is taken by every place, as caller and subject."""
    now = gates(cloud)
    for number, gate in enumerate(now):
        text = await issued(gate)
        assert (text.count(".") == 2) is gate.node.signs, step
        known[f"{step}, {number}"] = text
        again = await gate.login(methods=["token"], token={"id": text})
        known[f"{step}, {number}, from it"] = again
    await cloud.level()
    for gate in now:
        mine = known[f"{step}, 0"]
        for what, text in known.items():
            assert await gate.worth(mine, text) == 200, (step, what)
            assert await gate.worth(text, mine) == 200, (step, what)
