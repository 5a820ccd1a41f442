"""A controller's API without a socket, and someone who may do everything."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests import replay


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict
    position: int | None

    @property
    def message(self):
        return self.body["error"]["message"]


class Client:
    def __init__(self, world, token=None):
        self.world, self.token = world, token

    async def __call__(self, method, path, body=None, *, raw=None, headers=None, **options):
        head = {"X-Auth-Token": self.token} if self.token else {}
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        if data:
            head["Content-Type"] = "application/json"
        answer = await self.world.ask(method, f"/v3{path}", headers=head | (headers or {}), body=data, **options)
        parsed = json.loads(answer.body) if answer.body else None
        return Answer(answer.status, parsed, answer.headers, answer.position)

    async def login(self, user, password, scope=None, domain="default"):
        """Someone else, who knows this password."""
        who = {"name": user, "domain": {"id": domain}, "password": password}
        auth = {"identity": {"methods": ["password"], "password": {"user": who}}}
        answer = await Client(self.world)("POST", "/auth/tokens", {"auth": auth | ({"scope": scope} if scope else {})})
        assert answer.status == 201, answer.body
        return Client(self.world, answer.headers["X-Subject-Token"])

    async def make(self, member, **attributes):
        answer = await self("POST", f"/{plural(member)}", {member: attributes})
        assert answer.status == 201, answer.body
        return answer.body[member]


def plural(member):
    return f"{member}s"


@pytest.fixture
async def world(tmp_path):
    async with replay.world(tmp_path) as found:
        yield found


@pytest.fixture
async def admin(world):
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    return await Client(world).login("admin", replay.PASSWORD, scope)


@pytest.fixture
def stranger(world):
    return Client(world)
