"""The other end of an operator's socket: a Unix socket that only its owner can open, and answers in JSON."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from regional_keystone.errors import IdentityError
from regional_keystone.operator_socket import short, user_of


async def listen(app: web.Application, path: Path) -> web.AppRunner:
    """Answer at `path`, of mode 0600 before anybody can connect; the directory, of mode 0700, is the caller's."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240  once, at the start
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short(path) as name:
        listening.bind(name)
    path.chmod(0o600)  # noqa: ASYNC240
    await web.SockSite(runner, listening).start()
    return runner


@web.middleware
async def rendered(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
    """Refusals as {"error": sentence}, with the status of the Identity API; a body that is none is a 400."""
    try:
        answer: web.StreamResponse = await handler(request)
    except IdentityError as error:
        return web.Response(status=error.status, body=msgspec.json.encode({"error": error.message}))
    except msgspec.MsgspecError as error:
        return web.Response(status=400, body=msgspec.json.encode({"error": str(error)}))
    return answer


def answered(value: object) -> web.Response:
    """This, as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def who_asks(request: web.Request) -> str:
    """The user whose process asks, as the kernel knows it, for the record."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    return "somebody" if connection is None else f"uid {user_of(connection)}"
