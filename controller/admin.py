"""The operator's socket of a controller: enrolment, keys, status; a Unix socket that only its owner can open."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from controller.ask import short
from controller.bootstrap import identity_endpoints
from controller.commit import Sequencer
from controller.credential_keys import CredentialKeys
from controller.rotate import Plan, Rotator
from controller.sites import Sites
from controller.trusts import Trusts, Wanted
from controller.users import acting_for
from regional_keystone.errors import IdentityError, Invalid, Unavailable
from regional_keystone.overlay import Overlay


class Admin:
    """What `rkctl` asks of a running controller."""

    def __init__(
        self,
        *,
        sites: Sites,
        rotator: Rotator,
        credential_keys: CredentialKeys,
        trusts: Trusts,
        overlay: Overlay,
        sequencer: Sequencer,
        status: Callable[[], Mapping[str, Any]],
        bootstrap: Callable[[str, str], Awaitable[None]],
        cassandra: bool = False,
    ) -> None:
        """`cassandra`: whether the log is kept there, so that sites may read it there."""
        self._sites = sites
        self._rotator = rotator
        self._credential_keys = credential_keys
        self._trusts = trusts
        self._overlay = overlay
        self._sequencer = sequencer
        self._status = status
        self._bootstrap = bootstrap
        self._cassandra = cassandra

    def app(self) -> web.Application:
        """The handlers; every answer is JSON."""
        app = web.Application(middlewares=[_render, self._current])
        app.add_routes(
            [
                web.get("/status", self._show_status),
                web.get("/region/list", self._list),
                web.post("/region/add", self._add),
                web.post("/region/remove", self._remove),
                web.post("/bootstrap", self._first),
                web.get("/keys/status", self._keys),
                web.post("/keys/rotate", self._rotate),
                web.get("/credential/status", self._credential_status),
                web.post("/credential/setup", self._credential_setup),
                web.post("/credential/rotate", self._credential_rotate),
                web.post("/credential/migrate", self._credential_migrate),
                web.post("/trusts/flush", self._flush),
                web.post("/user/show", self._user),
            ]
        )
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
        return _json(self._status())

    async def _list(self, request: web.Request) -> web.Response:
        del request
        told = self._status()["sites"]
        sites = await self._sites.all()
        return _json(
            [{"name": site.id, "since": site.since, **told.get(site.id, {}), "state": site.state} for site in sites]
        )

    async def _add(self, request: web.Request) -> web.Response:
        """{name, url?}: a join token; with `url`, the region's identity endpoints are in the catalog as well.

        `cassandra` in the answer: a site that is to read Cassandra needs a role and tables of its own there.
        """
        name, url = await _words(request, "name", "url")
        token = await self._sites.invite(name)
        if url:
            await identity_endpoints(self._overlay, self._sequencer, name, url)
        return _json({"name": name, "join_token": token, "cassandra": self._cassandra})

    async def _remove(self, request: web.Request) -> web.Response:
        """{name}; `cassandra` in the answer: a site that read Cassandra keeps its role there until that is locked."""
        (name,) = await _words(request, "name")
        await self._sites.remove(name)
        return _json({"name": name, "state": "removed", "cassandra": self._cassandra})

    async def _first(self, request: web.Request) -> web.Response:
        """{username, password}: the first administrator; one that exists stays as it is."""
        username, password = await _words(request, "username", "password")
        if not username or not password:
            raise Invalid("username and password are both needed.")
        await self._bootstrap(username, password)
        return _json({"username": username})

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        return _json(_shown(await self._rotator.plan()))

    async def _rotate(self, request: web.Request) -> web.Response:
        """{dry_run?}: waits for acknowledgements up to the deadline, turns, answers with what stands then."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        before = await self._rotator.plan()
        if body.get("dry_run"):
            return _json({"turned": False, **_shown(before)})
        ring = await asyncio.shield(self._rotator.turn())
        after = await self._rotator.plan()
        keys = {str(number): value for number, value in ring.checks.items()}
        return _json({"turned": True, "keys": keys, "primary": max(ring.checks), **_shown(after)})

    async def _credential_status(self, request: web.Request) -> web.Response:
        del request
        return _json((await self._credential_keys.standing())._asdict())

    async def _credential_setup(self, request: web.Request) -> web.Response:
        del request
        made = await self._credential_keys.setup()
        return _json({"made": made, **(await self._credential_keys.standing())._asdict()})

    async def _credential_rotate(self, request: web.Request) -> web.Response:
        del request
        return _json((await asyncio.shield(self._credential_keys.rotate()))._asdict())

    async def _credential_migrate(self, request: web.Request) -> web.Response:
        del request
        migrated = await asyncio.shield(self._credential_keys.migrate())
        return _json({"migrated": migrated, **(await self._credential_keys.standing())._asdict()})

    async def _flush(self, request: web.Request) -> web.Response:
        """One step of a flush: {project_id?, trustor_user_id?, trustee_user_id?, before?, used_up?, after?}."""
        wanted = msgspec.json.decode(await request.read() or b"{}", type=Wanted)
        return _json(await asyncio.shield(self._trusts.flush(wanted)))

    async def _user(self, request: web.Request) -> web.Response:
        """{name, domain?}: what can act for this user."""
        name, domain = await _words(request, "name", "domain")
        return _json(await acting_for(self._overlay, name, domain))


async def serve_admin(admin: Admin, path: Path) -> web.AppRunner:
    """Open the socket, mode 0600 in a directory of mode 0700."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240  once, at the start
    runner = web.AppRunner(admin.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short(path) as name:
        listening.bind(name)
    await web.SockSite(runner, listening).start()
    path.chmod(0o600)  # noqa: ASYNC240
    return runner


@web.middleware
async def _render(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except IdentityError as error:
        return web.Response(status=error.status, body=msgspec.json.encode({"error": error.message}))
    except msgspec.MsgspecError as error:
        return web.Response(status=400, body=msgspec.json.encode({"error": str(error)}))
    return answer


async def _words(request: web.Request, *names: str) -> list[str]:
    body = msgspec.json.decode(await request.read(), type=dict[str, str])
    if names[0] not in body:
        raise Invalid(f"{names[0]} is missing.")
    return [body.get(name, "") for name in names]


def _shown(plan: Plan) -> dict[str, Any]:
    return {
        "epoch": plan.epoch,
        "waits_for": list(plan.waits_for),
        "retires": list(plan.retires),
        "active": list(plan.active),
        "quarantined": list(plan.quarantined),
    }


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
