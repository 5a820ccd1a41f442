"""A small API behind the real server on loopback, and clients that speak raw bytes."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from regional_keystone import front
from regional_keystone.api.serve import headed
from regional_keystone.errors import Invalid, NotFound, Unauthenticated
from regional_keystone.messages import Request, Response
from regional_keystone.metrics import Metrics
from regional_keystone.web import Limits, Web

NOW = 1_772_000_000_000_000
BODY = b'{"token":{"filler":"' + b"x" * 4_300 + b'"}}'
QUICK = Limits(header_s=0.4, body_s=0.4, idle_s=2.0, linger_s=0.2, wait_s=0.2, drain_s=1.0, connections_per_peer=1000)


class StandingClock:
    """Stands still, so that two answers can be compared byte for byte."""

    def now(self) -> int:
        return NOW

    def ticks(self) -> float:
        return 1.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Verdicts:
    """Remembers every subject whose name begins so; a body names its subject."""

    asked: int = 0
    known: str = "subject"

    def ask(self, caller: str, subject: str, catalog: bool, now: int, *, head: bool = False) -> bytes | None:
        self.asked += 1
        allowed = {"caller", "header"} if head else {"caller", "getter", "subject-self"}
        if caller not in allowed or not subject.startswith(self.known):
            return None
        return b'{"token":{"subject":"%b","catalog":%b}}' % (subject.encode(), b"[1]" if catalog else b"[]")


@dataclass
class Small:
    """Validates tokens as Verdicts does, says what it was asked at /v3/echo, parses JSON on POST."""

    verdicts: Verdicts = field(default_factory=Verdicts)
    seen: list[Request] = field(default_factory=list)
    delay_s: float = 0.0

    async def answer(self, request: Request) -> Response:
        self.seen.append(request)
        await asyncio.sleep(self.delay_s)
        match request.method, request.path:
            case "GET" | "HEAD", "/v3/auth/tokens":
                return self._validate(request)
            case _, "/v3/echo":
                return Response(status=200, body=msgspec.json.encode(request))
            case "POST", "/v3/change":
                return Response(status=201, body=b'{"made":true}', position=812)
            case "POST", _:
                return self._parse(request)
            case _, "/v3/broken":
                raise ZeroDivisionError("secret-in-here")
        raise NotFound

    def _validate(self, request: Request) -> Response:
        subject = request.headers.get("x-subject-token", "")
        catalog = not any(key == "nocatalog" for key, _ in request.query)
        caller, head = request.headers.get("x-auth-token", ""), request.method == "HEAD"
        body = self.verdicts.ask(caller, subject, catalog, NOW, head=head)
        if body is None:
            raise Unauthenticated
        headers = {"Content-Type": "application/json", "X-Subject-Token": subject}
        found = Response(status=200, headers=headers, body=body)
        return headed(found) if head else found

    def _parse(self, request: Request) -> Response:
        try:
            msgspec.json.decode(request.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Invalid from None
        return Response(status=200, body=b"{}")


@dataclass
class Served:
    """A server on loopback."""

    port: int
    web: Web
    api: Small
    door: front.Door

    @property
    def open(self) -> int:
        return len(self.door.connections)


@asynccontextmanager
async def served(
    api: Any = None, *, fast: Any = None, limits: Limits = QUICK, **settings: Any
) -> AsyncIterator[Served]:
    """The real front and web, on a free port."""
    api = api or Small()
    web = Web(api, clock=StandingClock(), metrics=Metrics(), limits=limits, fastpath=fast, **settings)
    runner = await front.serve(web, "127.0.0.1", 0)
    try:
        yield Served(runner.addresses[0][1], web, api, runner.server)
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Got:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["error"]
        return found


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Got:
    """The next answer. Raises IncompleteReadError at the end of the connection."""
    top = await reader.readuntil(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines), top
    body = b"" if head else await reader.readexactly(int(headers.get("content-length", 0)))
    return Got(int(first.split()[1]), headers, body, top + body)


async def ask(port: int, data: bytes, *, head: bool = False, within_s: float = 5.0) -> Got:
    """One connection, these bytes, one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(read_answer(reader, head=head), within_s)
    finally:
        writer.close()


async def converse(port: int, pieces: Sequence[bytes], within_s: float = 5.0) -> bytes:
    """Send pieces one after the other and return all that came until the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    came = bytearray()

    async def listen() -> None:
        try:
            while data := await reader.read(65536):
                came.extend(data)
        except ConnectionError:
            pass

    listening = asyncio.create_task(listen())
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.001)
        await asyncio.wait_for(listening, within_s)
    finally:
        listening.cancel()
        writer.close()
    return bytes(came)


def request(method: str = "GET", path: str = "/v3/echo", *headers: str, body: bytes = b"", host: str = "site") -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def validate(subject: str, *headers: str, method: str = "GET", query: str = "", caller: str = "caller") -> bytes:
    """A validation as stock middleware asks for it."""
    known = ("User-Agent: python-keystoneclient", "Accept-Encoding: gzip, deflate", "Accept: application/json")
    tokens = (f"X-Auth-Token: {caller}", f"X-Subject-Token: {subject}", "OpenStack-Identity-Access-Rules: 1")
    return request(method, "/v3/auth/tokens" + query, *known, "Connection: keep-alive", *tokens, *headers)


def unnamed(answers: bytes) -> bytes:
    """Without what is different in every answer."""
    return re.sub(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", b"req", answers)
