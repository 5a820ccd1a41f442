"""aiohttp's connection handler, looking first: what the fast path can answer is answered, all else is passed on.

A shortcut only: nothing else knows that it exists. Leans on `_waiter`, `_messages` and `_next_keepalive_close_time` of
aiohttp's handler, so the minor version is pinned and a test fails when they go.
"""

import asyncio
import random
from collections import Counter
from functools import lru_cache
from ssl import SSLContext
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from regional_keystone.errors import IdentityError
from regional_keystone.transport import is_host
from regional_keystone.web import SERVER, Crowded, Slow, Web, http_date

_LONGEST: Final = 8192
_HEAD_END: Final = b"\r\n\r\n"
_PLAIN: Final = bytes(range(0x20, 0x7F))
_TOKEN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LINES: Final = {  # request line -> (is HEAD, wants the catalog)
    f"{method} /v3/auth/tokens{query} HTTP/1.1".encode(): (method == "HEAD", not query)
    for method in ("GET", "HEAD")
    for query in ("", "?nocatalog")
}
_KNOWN: Final = frozenset(
    {
        b"host",
        b"user-agent",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"connection",
        b"x-auth-token",
        b"x-subject-token",
        b"openstack-identity-access-rules",
        b"x-openstack-request-id",
    }
)
_log = structlog.get_logger()
_random = random.Random()  # noqa: S311  # request ids name, they do not protect


class _Shape:
    """A head that was read and found plain. One that differs in nothing but the subject means the same."""

    __slots__ = ("_after", "_before", "caller", "catalog", "first", "head")

    def __init__(self, data: bytes, caller: bytes, subject: bytes, *, head: bool, catalog: bool) -> None:
        self.caller, self.first, self.head, self.catalog = caller.decode(), subject, head, catalog
        alone = subject and data.count(subject) == 1  # else it is not certain which one is the subject
        self._before, _, self._after = data.partition(subject) if alone else (b"", b"", b"")

    def subject(self, data: bytes) -> bytes:
        """The subject of a head of this shape; empty for any other."""
        before, after = self._before, self._after
        if not before or not data.startswith(before) or not data.endswith(after):
            return b""
        subject = data[len(before) : len(data) - len(after)]
        return b"" if subject.translate(None, _TOKEN) else subject


_NONE: Final = _Shape(b"", b"", b"", head=False, catalog=False)


class Front(web.RequestHandler):
    """One connection. Answers from the fast path only between requests, never beside or before another."""

    __slots__ = ("_between", "_body", "_door", "_held", "_left", "_met", "_shape", "_slow", "_stalled", "_web")

    def __init__(self, door: "Door", **settings: Any) -> None:
        super().__init__(door, **settings)
        self._door = door
        self._web = door.web
        self._between = True  # aiohttp holds nothing of a request
        self._held: bytes | None = b""  # what it holds of an unfinished head; None: lost track, for good
        self._left = 0  # bytes of the last request's body that are still to come
        self._body: StreamReader | None = None
        self._met = False  # any request yet?
        self._shape = _NONE
        self._slow: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection over a limit is told so and closed."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if not self._door.admit(self, str(peer[0]) if peer else ""):
            self._part(Crowded())

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of timers and of the place at the door."""
        for timer in (self._slow, self._stalled):
            if timer is not None:
                timer.cancel()
        self._door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Look first, then hand on, untouched."""
        waiter = self._waiter
        if self._between and waiter is not None and not waiter.done() and self._answered(data):
            return
        queued = len(self._messages)
        super().data_received(data)
        self._follow(data, len(self._messages) - queued)

    def pause_writing(self) -> None:
        """A client that does not read its answer has only so long."""
        super().pause_writing()
        self._stalled = self._loop.call_later(self._web.limits.send_s, self._abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp would say in words of its own."""
        del request, status, message
        return self._web.misread(exc)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Only the kind of it: what an exception says may hold secrets."""
        del args
        _log.error("connection_failed", error=type(kw.get("exc_info")).__name__)

    def _answered(self, data: bytes) -> bool:
        """Was this one plain validation, and answered? Else nothing has happened."""
        fastpath, transport = self._web.fastpath, self.transport
        if fastpath is None or transport is None or self._paused or len(data) > _LONGEST:
            return False
        subject = self._shape.subject(data) or self._learn(data)
        if not subject:
            return False
        shape, clock = self._shape, self._web.clock
        started, now = clock.ticks(), clock.now()
        body = fastpath.ask(shape.caller, subject.decode(), shape.catalog, now, head=shape.head)
        if body is None:
            return False
        transport.write(_render(subject, body, now // 1_000_000, head=shape.head))
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._met = True
        self._web.metrics.hit(head=shape.head, seconds=clock.ticks() - started)
        return True

    def _learn(self, data: bytes) -> bytes:
        shape = _cut(data)
        if shape is None:
            return b""
        self._shape = shape
        return shape.first

    def _follow(self, data: bytes, came: int) -> None:
        """Know, from what aiohttp made of it, whether these bytes ended where a request ends."""
        self._watch(data, came)
        if came:
            self._take(*self._messages[-1])
        if self._held is None or not data:
            return
        if self._left:
            self._left -= len(data)
            if came:
                self._held = None
        elif came:
            self._left = _rest(self._held + data, self._messages[-1][0]) if came == 1 else -1
            self._held = b""
        else:
            self._held = self._held + data if len(self._held) + len(data) <= _LONGEST else None
        if self._left < 0:
            self._held = None
        self._between = self._held == b"" and not self._left

    def _take(self, message: object, body: StreamReader) -> None:
        """Tell a body that waits, since aiohttp does not, that its rest turned out to be rubbish."""
        if isinstance(message, RawRequestMessage):
            self._body = body
        elif self._body is not None and not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("malformed"))

    def _watch(self, data: bytes, came: int) -> None:
        """A head that was begun has only so long to end."""
        self._met = self._met or came > 0
        if self._slow is not None and came:
            self._slow.cancel()
            self._slow = None
        if data and not came and self._slow is None and self._idle():
            self._slow = self._loop.call_later(self._web.limits.header_s, self._late)

    def _idle(self) -> bool:
        return not self._met if self._waiter is None else not self._waiter.done()

    def _late(self) -> None:
        self._slow = None
        if self._idle():
            self._part(Slow())

    def _part(self, refusal: IdentityError) -> None:
        if self.transport is not None:
            self.transport.write(self._web.parting(refusal))
        self.force_close()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Door(web.Server):
    """Makes a Front for each connection and counts them."""

    def __init__(self, served: Web) -> None:
        if HttpRequestParser.__module__ != "aiohttp._http_parser":
            raise RuntimeError("aiohttp's compiled parser is missing; the other one is not safe enough")
        super().__init__(served.handle)
        self.web = served
        self._peers: dict[Front, str] = {}
        self._crowd: Counter[str] = Counter()

    def __call__(self) -> web.RequestHandler:
        """A handler for one new connection."""
        limits = self.web.limits
        return Front(
            self,
            loop=self._loop,
            keepalive_timeout=limits.idle_s,
            lingering_time=limits.linger_s,
            max_line_size=limits.url_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers,
            read_bufsize=16 * 1024,
            auto_decompress=False,
            access_log=None,
        )

    def admit(self, front: Front, peer: str) -> bool:
        """May it stay? Proxies of ours stand for many clients."""
        limits = self.web.limits
        full = len(self._peers) >= limits.connections
        if full or (self._crowd[peer] >= limits.connections_per_peer and not self.web.trusts(peer)):
            self.web.metrics.connections_refused.labels("all" if full else "peer").inc()
            return False
        self._peers[front] = peer
        self._crowd[peer] += 1
        self.web.metrics.connections.set(len(self._peers))
        return True

    def leave(self, front: Front) -> None:
        """Its place is free again."""
        peer = self._peers.pop(front, None)
        if peer is not None:
            self._crowd[peer] -= 1
            if not self._crowd[peer]:
                del self._crowd[peer]
            self.web.metrics.connections.set(len(self._peers))


async def serve(
    served: Web, host: str, port: int, *, ssl_context: SSLContext | None = None, reuse_port: bool | None = None
) -> web.ServerRunner:
    """The public port, open; `cleanup()` of what is returned lets running requests end. Raises OSError if taken."""
    runner = web.ServerRunner(Door(served), shutdown_timeout=served.limits.drain_s)
    await _open(runner, host, port, ssl_context=ssl_context, reuse_port=reuse_port)
    return runner


async def see_free(host: str, port: int) -> None:
    """Raises OSError if any other program has the port, also one that would share it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    server.close()


async def serve_private(app: web.Application, host: str, port: int) -> web.AppRunner:
    """The private port, open; meant for loopback."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await _open(runner, host, port)
    return runner


async def _open(runner: web.BaseRunner, host: str, port: int, **settings: Any) -> None:
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024, **settings).start()
    except OSError:
        await runner.cleanup()
        raise


def _rest(head: bytes, message: object) -> int:
    """Bytes still to come after these of one request that aiohttp has begun to tell; negative: cannot be known."""
    end = head.find(_HEAD_END) + len(_HEAD_END)
    if not isinstance(message, RawRequestMessage) or message.chunked or message.upgrade:
        return -1
    if head.count(b"\n", 0, end) != head.count(b"\r\n", 0, end):
        return -1
    return end + int(message.headers.get("Content-Length", 0)) - len(head)


def _cut(data: bytes) -> _Shape | None:
    """The meaning of one whole plain head, None for anything else."""
    first, *lines = data.split(b"\r\n")
    meant = _LINES.get(first)
    if meant is None or lines[-2:] != [b"", b""] or data.translate(None, _PLAIN) != b"\r\n" * len(lines):
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[:-2]:
        name, colon, value = line.partition(b":")
        key = name.lower()
        if not colon or key not in _KNOWN or key in headers:
            return None
        headers[key] = value.strip(b" ")
    caller, subject = headers.get(b"x-auth-token", b""), headers.get(b"x-subject-token", b"")
    if not caller or not subject or caller.translate(None, _TOKEN) or subject.translate(None, _TOKEN):
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive" or not is_host(
        headers.get(b"host", b"").decode()
    ):
        return None
    return _Shape(data, caller, subject, head=meant[0], catalog=meant[1])


@lru_cache(4)
def _frame(second: int) -> tuple[bytes, bytes]:
    """What all answers of a second begin their request id with, and what ends their head."""
    name = f"{_random.getrandbits(80):020x}"
    begin = f"\r\nx-openstack-request-id: req-{name[:8]}-{name[8:12]}-4{name[12:15]}-"
    return begin.encode(), f"\r\nDate: {http_date(second)}\r\nServer: {SERVER}\r\n\r\n".encode()


def _render(subject: bytes, body: bytes, second: int, *, head: bool) -> bytes:
    """Byte for byte what `web` sends for the same answer."""
    begin, end = _frame(second)
    bits = _random.getrandbits(60)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nVary: X-Auth-Token\r\n"
        b"X-Subject-Token: %b%ba%03x-%012x%b%b"
        % (len(body), subject, begin, bits & 0xFFF, bits >> 12, end, b"" if head else body)
    )
