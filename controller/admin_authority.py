"""The operator's socket: who signs the bundles of rings, and which CAs count."""

import asyncio

import msgspec
from aiohttp import web

from controller.ca_turn import CaTurn
from controller.signer_turn import SignerTurn
from regional_keystone.operator_listener import answered


def routes(signers: SignerTurn, cas: CaTurn) -> list[web.RouteDef]:
    """What is answered; every answer is JSON."""

    async def status(request: web.Request) -> web.Response:
        del request
        return answered({**await signers.status(), **await cas.status()})

    async def rotate(request: web.Request) -> web.Response:
        """{ca?, dry_run?}: waits for acknowledgements up to the deadline; a signer's turn at each of two steps."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, bool])
        if body.get("ca"):
            return answered(await (cas.would_turn() if body.get("dry_run") else asyncio.shield(cas.turn())))
        if body.get("dry_run"):
            return answered({"turned": False, **await signers.would_turn()})
        return answered({"turned": True, **await asyncio.shield(signers.turn())})

    async def spare(request: web.Request) -> web.Response:
        """{ca?}: sees to it that there is a spare signer, or CA, that every active site knows; `made`: by this."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, bool])
        if body.get("ca"):
            return answered(await asyncio.shield(cas.spare()))
        made = await asyncio.shield(signers.spare())
        found = await signers.status()
        then = f"copy signer-{found['spare']}.key to every other controller, mode 0400, and into the backup"
        return answered({"made": made, **found, "then": then})

    return [
        web.get("/authority/status", status),
        web.post("/authority/rotate", rotate),
        web.post("/authority/spare", spare),
    ]
