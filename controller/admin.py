"""The operator's socket of a controller: enrolment, keys, status; a Unix socket that only its owner can open."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from controller.admin_keys import KeysAdmin
from controller.bootstrap import has_administrator, identity_endpoints
from controller.commit import Sequencer
from controller.regions import Regions, standing
from controller.sites import Sites
from controller.trusts import Trusts, Wanted
from controller.users import acting_for
from regional_keystone.errors import Forbidden, Invalid, Unavailable
from regional_keystone.operator_listener import answered, rendered
from regional_keystone.overlay import Overlay


class Admin:
    """What `rkctl` asks of a running controller."""

    def __init__(
        self,
        *,
        sites: Sites,
        keys: KeysAdmin,
        regions: Regions,
        trusts: Trusts,
        overlay: Overlay,
        sequencer: Sequencer,
        status: Callable[[], Mapping[str, Any]],
        bootstrap: Callable[[str, str], Awaitable[None]],
        cassandra: bool = False,
        two_person: bool = False,
        more: Sequence[web.RouteDef] = (),
    ) -> None:
        """`cassandra`: whether the log is kept there, so that sites may read it there. `more` is answered as well.

        `two_person`: who opens the socket makes no second person: no administrator where there is one.
        """
        self._more = more
        self._sites = sites
        self._keys = keys
        self._regions = regions
        self._trusts = trusts
        self._overlay = overlay
        self._sequencer = sequencer
        self._status = status
        self._bootstrap = bootstrap
        self._cassandra = cassandra
        self._two_person = two_person

    def app(self) -> web.Application:
        """The handlers; every answer is JSON."""
        app = web.Application(middlewares=[rendered, self._current])
        app.add_routes(
            [
                web.get("/status", self._show_status),
                web.get("/region/list", self._list),
                web.post("/region/add", self._add),
                web.post("/region/remove", self._remove),
                web.post("/region/quarantine", self._quarantine),
                web.post("/region/drain", self._drain),
                web.post("/region/rejoin", self._rejoin),
                web.post("/bootstrap", self._first),
                *self._keys.routes(),
                web.post("/trusts/flush", self._flush),
                web.post("/user/show", self._user),
            ]
        )
        app.add_routes(self._more)
        return app

    @web.middleware
    async def _current(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """What another controller has done counts here; who only looks sees what is known if the log cannot be read."""
        try:
            await self._sequencer.catch_up()
        except Unavailable:
            if request.method != "GET":
                raise
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _show_status(self, request: web.Request) -> web.Response:
        del request
        return answered(self._status())

    async def _list(self, request: web.Request) -> web.Response:
        del request
        told = self._status()["sites"]
        sites = await self._sites.all()
        return answered(
            [{"name": site.id, "since": site.since, **told.get(site.id, {}), **standing(site)} for site in sites]
        )

    async def _add(self, request: web.Request) -> web.Response:
        """{name, url?}: a join token; with `url`, the region's identity endpoints are in the catalog as well.

        `cassandra` in the answer: a site that is to read Cassandra needs a role and tables of its own there.
        """
        name, url = await _words(request, "name", "url")
        token = await self._sites.invite(name)
        if url:
            await identity_endpoints(self._overlay, self._sequencer, name, url)
        return answered({"name": name, "join_token": token, "cassandra": self._cassandra})

    async def _remove(self, request: web.Request) -> web.Response:
        """{name}; `cassandra` in the answer: a site that read Cassandra keeps its role there until that is locked."""
        (name,) = await _words(request, "name")
        await self._sites.remove(name)
        return answered({"name": name, "state": "removed", "cassandra": self._cassandra})

    async def _quarantine(self, request: web.Request) -> web.Response:
        """{name, why}"""
        name, why = await _words(request, "name", "why")
        return answered(await asyncio.shield(self._regions.quarantine(name, why)))

    async def _drain(self, request: web.Request) -> web.Response:
        """{name, why}"""
        name, why = await _words(request, "name", "why")
        return answered(await asyncio.shield(self._regions.drain(name, why)))

    async def _rejoin(self, request: web.Request) -> web.Response:
        """{name}; `lacks` in the answer: what keeps the site from being waited for again."""
        (name,) = await _words(request, "name")
        return answered(await asyncio.shield(self._regions.rejoin(name)))

    async def _first(self, request: web.Request) -> web.Response:
        """{username, password}: the first administrator; one that exists stays as it is."""
        username, password = await _words(request, "username", "password")
        if not username or not password:
            raise Invalid("username and password are both needed.")
        if self._two_person and await has_administrator(self._overlay):
            raise Forbidden(
                "The system has an administrator, and [keys] two_person is set, so nobody makes another one here: an"
                " administrator does it with the Identity API."
            )
        await self._bootstrap(username, password)
        return answered({"username": username})

    async def _flush(self, request: web.Request) -> web.Response:
        """One step of a flush: {project_id?, trustor_user_id?, trustee_user_id?, before?, used_up?, after?}."""
        wanted = msgspec.json.decode(await request.read() or b"{}", type=Wanted)
        return answered(await asyncio.shield(self._trusts.flush(wanted)))

    async def _user(self, request: web.Request) -> web.Response:
        """{name, domain?}: what can act for this user."""
        name, domain = await _words(request, "name", "domain")
        return answered(await acting_for(self._overlay, name, domain))


async def _words(request: web.Request, *names: str) -> list[str]:
    body = msgspec.json.decode(await request.read(), type=dict[str, str])
    if names[0] not in body:
        raise Invalid(f"{names[0]} is missing.")
    return [body.get(name, "") for name in names]
