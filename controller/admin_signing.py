"""The operator's socket: the keys with which tokens are signed, and what each place may sign for."""

import msgspec
from aiohttp import web

from controller.sealed_tokens import SealedTokens
from controller.signing_keys import ANY, SigningKeys
from regional_keystone.errors import Invalid
from regional_keystone.operator_listener import answered


class _Allowed(msgspec.Struct, frozen=True):
    name: str
    domains: list[str] | None = None
    system: bool | None = None


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refuse: bool
    now: bool = False


def routes(signing: SigningKeys, sealed: SealedTokens) -> list[web.RouteDef]:
    """What is answered; every answer is JSON."""

    async def status(request: web.Request) -> web.Response:
        del request
        return answered(await signing.status())

    async def rotate(request: web.Request) -> web.Response:
        """{name}: the site that is to make itself a new key."""
        name = msgspec.json.decode(await request.read(), type=dict[str, str]).get("name", "")
        if not name:
            raise Invalid("name is missing.")
        await signing.rotate(name)
        return answered({"name": name, "asked": True})

    async def allow(request: web.Request) -> web.Response:
        """{name, domains?, system?}: what the site may sign for, as before where it is left away; ["*"]: any domain."""
        asked = msgspec.json.decode(await request.read(), type=_Allowed)
        may = await signing.allow(asked.name, asked.domains, system=asked.system)
        return answered(
            {"name": asked.name, "domains": ANY if may.domains is None else may.domains, "system": may.system}
        )

    async def sealed_status(request: web.Request) -> web.Response:
        del request
        return answered(await sealed.status())

    async def state_sealed(request: web.Request) -> web.Response:
        """{refuse, now?}: whether sealed tokens are refused from now on; `now` ends those that may still be shown."""
        asked = msgspec.json.decode(await request.read(), type=_Sealed)
        return answered(await (sealed.refuse(now=asked.now) if asked.refuse else sealed.read()))

    return [
        web.get("/signing/status", status),
        web.post("/signing/rotate", rotate),
        web.post("/signing/allow", allow),
        web.get("/signing/sealed", sealed_status),
        web.post("/signing/sealed", state_sealed),
    ]
