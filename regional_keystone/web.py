"""HTTP in and out: aiohttp's requests become `messages.Request`; answers and refusals become HTTP.

Apart from `api`, which knows no framework, and from `front`, without which all works, slower.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from multidict import CIMultiDict

from regional_keystone import metrics as exported
from regional_keystone.api.serve import refused
from regional_keystone.errors import IdentityError, Invalid, TooLarge, Unavailable
from regional_keystone.logs import where
from regional_keystone.messages import Request, Response
from regional_keystone.ports import Clock
from regional_keystone.positions import HEADER as POSITION
from regional_keystone.positions import Shown, shown
from regional_keystone.settings import Cors
from regional_keystone.transport import Origin, forwarded, healthy, is_address, is_health, is_host, shared

SERVER: Final = "regional-keystone"
FRESHNESS: Final = "X-RK-Freshness"
_ONCE: Final = frozenset({"x-auth-token", "x-subject-token", "host", "content-encoding", "x-rk-position", "expect"})
_SMALL_BYTES, _LARGE_BODIES = 16 * 1024, 32  # of so many bodies at a time more than that is held while they come in
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
_ROUTES: Final = frozenset(
    {
        "auth",
        "credentials",
        "domains",
        "ec2tokens",
        "endpoints",
        "groups",
        "limits",
        "OS-EC2",
        "OS-ENDPOINT-POLICY",
        "OS-EP-FILTER",
        "OS-FEDERATION",
        "OS-INHERIT",
        "OS-OAUTH1",
        "OS-OAUTH2",
        "OS-PKI",
        "OS-REVOKE",
        "OS-SIMPLE-CERT",
        "OS-TRUST",
        "policies",
        "projects",
        "regions",
        "registered_limits",
        "role_assignments",
        "role_inferences",
        "roles",
        "s3tokens",
        "services",
        "system",
        "users",
    }
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of one process. `url_bytes` and `header_bytes` differ, to tell 414 from 431."""

    body_bytes: int = 112 * 1024
    url_bytes: int = 8192
    header_bytes: int = 8190
    headers: int = 64
    header_s: float = 5.0
    body_s: float = 15.0
    send_s: float = 15.0
    idle_s: float = 60.0
    linger_s: float = 1.0
    wait_s: float = 5.0
    drain_s: float = 8.0
    connections: int = 1000
    connections_per_peer: int = 100


class Answers(Protocol):
    """What stands behind HTTP: `api.serve.Api`."""

    async def answer(self, request: Request, /) -> Response:
        """Every request gets an answer; a refusal may be raised as IdentityError."""
        ...


class Known(NamedTuple):
    """What a process knew at a moment: the last entry of the log, how old that was, and the ring."""

    position: int
    age_s: float
    epoch: int


class Fast(Protocol):
    """What may answer a validation at once: `fastpath.FastPath`."""

    def ask(self, caller: str, subject: str, catalog: bool, now: int, /, *, head: bool = False) -> bytes | None:  # noqa: FBT001
        """The body of a token document, or None for the long road."""
        ...


class Slow(IdentityError):
    """The client did not finish its request in time."""

    status = 408
    default = "The request did not arrive in time."


class UrlTooLong(IdentityError):
    """The request line is over the limit."""

    status = 414
    default = "The requested URL is too long."


class HeadTooLarge(IdentityError):
    """A header is over the limit, or there are too many."""

    status = 431
    default = "The headers of the request are too large."


class Crowded(Unavailable):
    """There are more connections than allowed."""

    default = "There are too many connections."


class Web:
    """The public port: `handle` answers any request that aiohttp has understood."""

    def __init__(
        self,
        api: Answers,
        *,
        clock: Clock,
        metrics: exported.Metrics,
        limits: Limits,
        fastpath: Fast | None = None,
        public_endpoint: str | None = None,
        trusted_proxies: Sequence[str] = (),
        cors: Cors = Cors(),  # noqa: B008  frozen
        wait: Callable[[Shown, str], Awaitable[None]] | None = None,
        knows: Callable[[], Known] | None = None,
    ) -> None:
        """`wait`: until what is known is as new as that, for a client of this address; `knows`: how new it is."""
        self.fastpath = fastpath
        self.clock = clock
        self.metrics = metrics
        self.limits = limits
        self._api = api
        self._endpoint = public_endpoint.rstrip("/") if public_endpoint else ""
        self._wait = wait
        self._knows = knows
        self._cors = cors
        self._large = asyncio.Semaphore(_LARGE_BODIES)
        networks = [ip_network(proxy) for proxy in trusted_proxies]
        self.trusts: Callable[[str], bool] = lru_cache(1024)(lambda peer: _within(peer, networks))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request, whatever happens."""
        started, base, identifier = self.clock.ticks(), self._endpoint, f"req-{uuid.uuid4()}"
        try:
            peer, base = self._origin(request)
            response = await self._answer(await self._read(request, identifier, peer, base))
        except IdentityError as refusal:
            response = refused(refusal, base)
        except Exception as failure:  # noqa: BLE001
            _log.error("answer_failed", request_id=identifier, error=type(failure).__name__, where=where(failure))
            response = refused(IdentityError(), base)
        if request.method == "OPTIONS" and not 200 <= response.status < 300:
            response = Response(status=200)  # as upstream's CORS answers before anything else is asked
        self._count(request, response.status, started)
        return self._reply(request, response, identifier)

    def misread(self, error: BaseException | None) -> web.Response:
        """The answer to bytes that are no request; the connection ends with it."""
        refusal = _misread(error, self.limits)
        self.metrics.request("other", "other", refusal.status)
        response = refused(refusal)
        headers = self._headers(response, f"req-{uuid.uuid4()}")
        reply = web.Response(status=response.status, headers=headers, body=response.body)
        reply.force_close()
        return reply

    def parting(self, refusal: IdentityError) -> bytes:
        """A whole answer as bytes, for a connection that is closed before any request was read."""
        self.metrics.request("other", "other", refusal.status)
        response = refused(refusal)
        lines = [f"HTTP/1.1 {refusal.status} {refusal.title}"]
        lines += [f"{name}: {value}" for name, value in self._headers(response, f"req-{uuid.uuid4()}").items()]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + response.body

    async def _answer(self, request: Request) -> Response:
        if is_health(request.path):
            return healthy(request.method, request.headers.get("accept", ""))
        if (wanted := request.headers.get("x-rk-position")) is not None:
            await self._caught_up(shown(wanted), request.peer)
        if "x-rk-freshness" in request.headers and self._knows is not None:
            return await self._dated(request, self._knows())
        return await self._api.answer(request)

    async def _caught_up(self, wanted: Shown, peer: str) -> None:
        if self._wait is not None:
            try:
                async with asyncio.timeout(self.limits.wait_s):
                    await self._wait(wanted, peer)
            except TimeoutError:
                raise Unavailable("This site has not reached that position yet; try again.") from None

    async def _dated(self, request: Request, known: Known) -> Response:
        """The answer, and how new it is at least: as what was known before it was begun."""
        began = self.clock.ticks()
        response = await self._api.answer(request)
        age_s = known.age_s + self.clock.ticks() - began
        said = "never" if age_s == float("inf") else f"{age_s:.3f}"
        position = known.position if response.position is None else response.position
        headers = {**response.headers, FRESHNESS: f"age={said}, epoch={known.epoch}"}
        return msgspec.structs.replace(response, headers=headers, position=position)

    async def _read(self, request: web.BaseRequest, identifier: str, peer: str, base: str) -> Request:
        if request.method == "CONNECT" or request.version < (1, 0):
            raise Invalid("Only plain HTTP/1.0 and HTTP/1.1 are understood.")
        headers = _flat(request.headers)
        path, query = _target(request.raw_path)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Invalid("Encoded request bodies are not accepted.")
        return Request(
            id=identifier,
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            body=await self._body(request, headers),
            peer=peer,
            base_url=base,
        )

    async def _body(self, request: web.BaseRequest, headers: Mapping[str, str]) -> bytes:
        if not request.can_read_body:
            return b""
        if (request.content_length or 0) > self.limits.body_bytes:
            raise TooLarge
        await _encourage(request, headers.get("expect", ""))
        try:
            async with asyncio.timeout(self.limits.body_s):
                return await self._chunks(request)
        except TimeoutError:
            raise Slow from None
        except (web.RequestPayloadError, ConnectionError):
            raise Invalid("The body of the request is malformed or incomplete.") from None

    async def _chunks(self, request: web.BaseRequest) -> bytes:
        """Few large bodies at a time, so that many that never end cannot fill the memory; small ones wait for none."""
        body = bytearray()
        async with AsyncExitStack() as stack:
            while chunk := await request.content.readany():
                if len(body) <= _SMALL_BYTES < len(body) + len(chunk):
                    await stack.enter_async_context(self._large)
                body += chunk
                if len(body) > self.limits.body_bytes:
                    raise TooLarge
        return bytes(body)

    def _origin(self, request: web.BaseRequest) -> tuple[str, str]:
        origin = Origin(request.remote or "", request.scheme, _host(request))
        if self.trusts(origin.peer):
            origin = forwarded(origin, request.headers, self.trusts)
        if not is_host(origin.host):
            raise Invalid("The Host header is malformed.")
        return origin.peer, self._endpoint or f"{origin.scheme}://{origin.host}{origin.prefix}"

    def _reply(self, request: web.BaseRequest, response: Response, identifier: str) -> web.Response:
        headers = self._headers(response, identifier)
        if is_health(request.raw_path.partition("?")[0]):
            del headers[hdrs.VARY]
        headers.update(shared(self._cors, request.method, request.headers, headers.get("Vary", "")))
        reply = web.Response(status=response.status, headers=headers, body=response.body)
        if not request.content.is_eof():
            reply.force_close()
        return reply

    def _headers(self, response: Response, identifier: str) -> CIMultiDict[str]:
        """All headers in an order of their own, which `front` repeats byte for byte."""
        headers = CIMultiDict({"Content-Type": "application/json"} if response.body else {})
        given = {name: _printable(value) for name, value in response.headers.items()}
        headers.update({name: value for name, value in given.items() if name.lower() == "content-type"})
        headers["Content-Length"] = str(len(response.body))
        headers["Vary"] = "X-Auth-Token"
        headers.update(given)
        if response.position is not None:
            feed, number = response.own or ("", 0)
            headers[POSITION] = str(Shown(response.position, number, feed))
        headers["x-openstack-request-id"] = identifier
        headers["Date"] = http_date(self.clock.now() // 1_000_000)
        headers["Server"] = SERVER
        return headers

    def _count(self, request: web.BaseRequest, status: int, started: float) -> None:
        method = request.method if request.method in _METHODS else "other"
        route = _route(request.raw_path)
        self.metrics.request(method, route, status)
        if route == "auth/tokens" and method in {"GET", "HEAD"}:
            result = "valid" if status == HTTPStatus.OK else "undecided" if status >= 500 else "refused"
            self.metrics.validation(result, self.clock.ticks() - started)


@lru_cache(4)
def http_date(second: int) -> str:
    """A Date header for this second since 1970."""
    return formatdate(second, usegmt=True)


def _misread(error: BaseException | None, limits: Limits) -> IdentityError:
    if isinstance(error, LineTooLong):
        return UrlTooLong() if error.args[1] == limits.url_bytes else HeadTooLarge()
    if error is not None and error.args == ("Too many headers received",):
        return HeadTooLarge()
    return Invalid("The request is not valid HTTP.")


def _flat(headers: Mapping[str, str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        if key in flat and key in _ONCE:
            raise Invalid(f"The header {key} is there twice.")
        flat[key] = f"{flat[key]}, {_text(value)}" if key in flat else _text(value)
    return flat


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _printable(value: str) -> str:
    return value if value.isprintable() else "".join(filter(str.isprintable, value))


def _target(target: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Path and query; slashes at the end do not count. Source: keystone's url_normalize middleware."""
    if not target.startswith("/"):  # absolute form
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("#")[0].partition("?")
    return unquote(_text(path)).rstrip("/") or "/", tuple(parse_qsl(_text(query), keep_blank_values=True))


def _route(target: str) -> str:
    path = target.partition("?")[0].strip("/")
    if path in {"", "v3", "healthcheck"}:
        return path or "versions"
    version, _, rest = path.partition("/")
    if rest == "auth/tokens" and version == "v3":
        return rest
    first = rest.partition("/")[0]
    return first if version == "v3" and first in _ROUTES else "other"


def _host(request: web.BaseRequest) -> str:
    host = request.headers.get("Host")
    if host is None:  # HTTP/1.0
        name = request.transport.get_extra_info("sockname") if request.transport else None
        return f"{name[0]}:{name[1]}" if name and ":" not in name[0] else "localhost"
    return host


def _within(peer: str, networks: Sequence[object]) -> bool:
    return is_address(peer) and any(ip_address(peer) in network for network in networks)  # type: ignore[operator]


async def _encourage(request: web.BaseRequest, expect: str) -> None:
    """Answer `Expect: 100-continue`, once it is certain that the body is wanted."""
    if not expect:
        return
    if expect.lower() != "100-continue":
        raise Invalid("The Expect header is not understood.")
    if request.transport is not None and request.version >= (1, 1):
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def admin_app(
    *,
    status: Callable[[], Mapping[str, object]],
    metrics: exported.Metrics,
    ready: Callable[[], str | None],
    digest: Callable[[], Awaitable[tuple[int, str]]],
    others: Callable[[], Awaitable[Iterable[exported.Counts]]] | None = None,
) -> web.Application:
    """The private port: /metrics, /livez, /readyz, /status, /digest. `ready` says what is missing, or None.

    `others` tells what other processes at the public port have counted.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        counted = await others() if others is not None else ()
        return web.Response(body=metrics.text(counted), headers={"Content-Type": exported.CONTENT_TYPE})

    async def show_live(_: web.Request) -> web.Response:
        return _json({"live": True})

    async def show_ready(_: web.Request) -> web.Response:
        missing = ready()
        return _json({"ready": missing is None, "missing": missing}, 200 if missing is None else 503)

    async def show_status(_: web.Request) -> web.Response:
        return _json(status())

    async def show_digest(_: web.Request) -> web.Response:
        position, value = await digest()
        return _json({"position": position, "digest": value})

    app = web.Application(middlewares=[_render_private])
    pages = {"/metrics": show_metrics, "/livez": show_live, "/readyz": show_ready, "/status": show_status}
    app.add_routes([web.get(path, page) for path, page in {**pages, "/digest": show_digest}.items()])
    return app


@web.middleware
async def _render_private(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        response = _json({"error": {"code": refusal.status, "title": refusal.reason}}, refusal.status)
    except IdentityError as refusal:
        response = _json({"error": {"code": refusal.status, "message": refusal.message}}, refusal.status)
    response.headers["Server"] = SERVER
    return response


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
