"""Controllers and sites of the model that answer: the product's own API, fast path, own feed and cache, as wired by it."""

import asyncio
import json
import os
import random
import uuid
from contextlib import contextmanager
from functools import cache
from unittest import mock

from controller import housekeeping
from controller.turning import Terms
from regional_keystone import passwords, sections, wiring
from regional_keystone.errors import IdentityError, Unknown
from regional_keystone.messages import Request
from regional_keystone.own_feed import OwnFeed
from regional_keystone.parts import Replica
from regional_keystone.settings import Settings
from tests.model.nodes import SKEW_S, Controller, Site
from tests.model.stores import Feed, Rows

EXPIRY_S, ALLOW_EXPIRED_S, ISOLATION_S = 16, 10, 40.0
LIMITS_S = {"system": 3.0, "domain": 8.0}  # how old knowledge may be, by class; no limit for the others
KEEP_S = EXPIRY_S + ALLOW_EXPIRED_S + ISOLATION_S + SKEW_S
REMEMBERED = 24  # verdicts at most: most are soon looked up anew
WAIT_S = 3.0
TERMS = Terms(
    lifetime_us=EXPIRY_S * 1_000_000,
    allow_expired_us=ALLOW_EXPIRED_S * 1_000_000,
    isolation_us=int(ISOLATION_S * 1e6),
    skew_us=int(SKEW_S * 1e6),
    interval_us=10**12,
)


def settings(root):
    """Of every place."""
    return Settings(
        site=sections.Site(state_dir=root),
        identity=sections.Identity(password_hash_rounds=4),
        token=sections.Token(expiration=EXPIRY_S, allow_expired_window=ALLOW_EXPIRED_S),
        keys=sections.Keys(isolation_s=ISOLATION_S),
        freshness=sections.Freshness(system=LIMITS_S["system"], domain=LIMITS_S["domain"], skew_s=SKEW_S),
        fastpath=sections.Fastpath(entries=REMEMBERED),
        memcached=sections.Memcached(ttl_s=60.0),
    )


class Answering:
    """Whatever has a door."""

    terms, keep_s, isolation_s = TERMS, KEEP_S, ISOLATION_S
    door = None

    def _died(self):
        self.door = None
        super()._died()

    def part(self):
        return Replica(self.clock, self.follower._store, self.overlay, self.holder, None, self.follower, None)

    @property
    def answers(self):
        return self.ready and self.process.stopped_until <= self.loop.time()

    async def ask(self, method, path, token="", *, body=None, **headers):
        """(status, headers, body) of a request, as the port would answer it."""
        path, _, query = path.partition("?")
        asked = Request(
            id=f"{self.loop.random.getrandbits(128):032x}",
            method=method,
            path=path,
            query=tuple(tuple(pair.partition("=")[::2]) for pair in query.split("&") if pair),
            headers={"x-auth-token": token, "content-type": "application/json", **headers} if token else {**headers},
            body=b"" if body is None else json.dumps(body).encode(),
            base_url="http://here",
        )
        response = await self.door.api.answer(asked)
        return response.status, response.headers, json.loads(response.body) if response.body else None


class Head(Answering, Controller):
    """One of several controllers, with its API."""

    def _open(self):
        self.door = wiring.door(
            settings(self.disk.root), self.part(), committer=self.sequencer, current=self.sequencer.catch_up
        )
        self.replicator.answer = self._answer

    async def _answer(self, request):
        return await self.door.api.answer(request, keep=True)

    async def keep_house(self):
        """What runs each half minute."""
        try:
            self.follower.index.expire(self.clock.now())
            await housekeeping.expire(self.overlay, self.sequencer, self.clock.now())
        except (IdentityError, Unknown):
            return


class Region(Answering, Site):
    """A site with its own feed, and the cache of its region."""

    def __init__(self, world, name, number):
        super().__init__(world, name, number)
        self.fed = Rows()
        self.cache = Cache(world.loop)
        self.late = []  # revocations of its own that are in force and not durable yet

    def _own(self, store):
        feed = Feed(self.fed, self.loop, self.faults, self._fed)
        self.feed = OwnFeed(f"{self.name}/{self.instance}", store=feed, follower=self.follower, clock=self.clock)
        return self.feed

    def _fed(self, entries):
        self.world.judge.fed(self, entries)

    def _open(self, process, own, store):
        self.late = late = []
        self.follower.late = late.append
        self.door = wiring.door(
            settings(self.disk.root), self.part(), committer=own, forward=self._forward, own=own, cache=self.cache
        )
        self.loop.spawn(process, self._answer_late(late, own))

    async def _forward(self, request):
        """As `site` does it."""
        response = await self.link.forward(request)
        if response.position is not None:
            await self.follower.reached(response.position, WAIT_S)
        return response

    async def _answer_late(self, late, own):
        while True:
            while late:
                try:
                    await own.revoke(late[0])
                    late.pop(0)
                except (IdentityError, Unknown):
                    await self.clock.sleep(1.0)
            await self.clock.sleep(0.05)


class Cache:
    """What memcached is to a region, with whatever anybody has put there. Implements `ports.Cache`."""

    def __init__(self, loop):
        self.entries = {}
        self.old = []  # all that was ever there, for who puts it back
        self.frozen = False
        self._loop = loop

    async def get_many(self, keys):
        return {} if self.frozen else {key: self.entries[key] for key in keys if key in self.entries}

    async def set_many(self, values, ttl_s):
        if not self.frozen:
            self.entries |= values
            self.old = [*self.old[-200:], *values.items()]

    def failures(self):
        return {}

    def servers(self):
        return {}

    async def close(self):
        self.frozen = True


class Threads:
    """The threads that hash passwords, on the model's time. What was worked out once is remembered."""

    def __init__(self):
        self._known = {}

    async def run(self, work, *args):
        return await asyncio.get_running_loop().run_in_executor(None, self._worked, work, args)

    def _worked(self, work, args):
        if (work, args) not in self._known:
            self._known[work, args] = work(*args)
        return self._known[work, args]


@contextmanager
def around():
    """This process while a run lasts: chance is the seed's, and no thread is begun."""
    chance = random.Random("chance")

    def ids():
        return uuid.UUID(int=chance.getrandbits(128), version=4)

    with (
        mock.patch.object(os, "urandom", chance.randbytes),
        mock.patch.object(uuid, "uuid4", ids),
        mock.patch.object(passwords, "_POOL", Threads()),
        mock.patch.object(wiring, "_policy", cache(wiring._policy)),
    ):
        yield
