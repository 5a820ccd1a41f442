"""The engine: finds the route, proves the caller, runs the handler in a transaction, renders what comes of it.

Names no resource. A handler may run several times; only what it says last is committed, and told after.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from regional_keystone.api.consequences import follow
from regional_keystone.api.fields import check, parse
from regional_keystone.api.outcomes import kept, outcome, repeatable
from regional_keystone.api.shapes import Call, Lengths, Result, Route, Shape, about_itself
from regional_keystone.api.verbs import routes
from regional_keystone.errors import IdentityError, MethodNotAllowed, NotFound, Unauthenticated, Unavailable
from regional_keystone.log import Change, put
from regional_keystone.logs import where
from regional_keystone.messages import Request, Response
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.policy import Policy
from regional_keystone.ports import Clock, Committer, Reader
from regional_keystone.record import Touch
from regional_keystone.token import Principal


class Prove(Protocol):
    """Says whom a token proves, and what that depends on."""

    async def __call__(self, text: str, *, at_any_age: bool = False) -> tuple[Principal, frozenset[Touch]]:
        """`at_any_age`: however old what is known may be. Raises Unauthenticated, and Unavailable."""
        ...


Forward = Callable[[Request], Awaitable[Response]]

_JSON = {"Content-Type": "application/json"}
_NAMES = uuid.UUID("6e1d6a43-2f3e-5c0f-9a64-1f1c8b6c2a07")
_log = structlog.get_logger("api")


class Match(NamedTuple):
    """Where a path leads: its routes by method, and the arguments in it."""

    methods: Mapping[str, Route]
    arguments: Mapping[str, str]

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that this path answers."""
        found = {*self.methods, "OPTIONS"} | ({"HEAD"} if "GET" in self.methods else set())
        return tuple(sorted(found))


class Router:
    """Finds routes by path; a literal part wins over an argument."""

    def __init__(self, found: Iterable[Route]) -> None:
        self._root: dict[str, Any] = {}
        for route in found:
            self._add(route)

    def match(self, path: str) -> Match | None:
        """What answers this path, None if nothing does."""
        return self._match(self._root, _parts(path), ())

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for part in _parts(route.base + route.path):
            if part.startswith("{"):
                names.append(part[1:-1])
            node = node.setdefault("{}" if part.startswith("{") else part, {})
        methods = node.setdefault("", {})
        if route.method in methods:
            raise ValueError(f"{route.method} {route.base}{route.path} is declared twice")
        methods[route.method] = (route, tuple(names))

    def _match(self, node: dict[str, Any], parts: list[str], values: tuple[str, ...]) -> Match | None:
        if not parts:
            methods = node.get("")
            if methods is None:
                return None
            names = next(iter(methods.values()))[1]
            return Match({name: route for name, (route, _) in methods.items()}, dict(zip(names, values, strict=True)))
        first, rest = parts[0], parts[1:]
        if first and first != "{}" and first in node and (found := self._match(node[first], rest, values)):
            return found
        return self._match(node["{}"], rest, (*values, first)) if first and "{}" in node else None


class Api:
    """The Identity API behind any transport: every request gets an answer.

    `forward`: a site's way to a controller; `own`: the feed into which a site may take some changes itself; `own_at`:
    its name, and how far it counts here.
    `keep_s`: for how long a token made now may matter, so for how long its revocation must be kept.
    `current`: returns when all that the log held at the call is known here; where others append to it as well.
    """

    def __init__(
        self,
        shapes: Iterable[Shape],
        *,
        reader: Overlay,
        committer: Committer,
        prove: Prove,
        policy: Policy,
        clock: Clock,
        forward: Forward | None = None,
        own: Committer | None = None,
        own_at: Callable[[], tuple[str, int]] | None = None,
        current: Callable[[], Awaitable[None]] | None = None,
        keep_s: float,
        lengths: Lengths = Lengths(),  # noqa: B008  frozen
    ) -> None:
        self.routes = tuple(routes(shapes))
        self._router = Router(self.routes)
        self._reader = reader
        self._committers = {"log": committer, "own": own or committer}
        self._prove = prove
        self._policy = policy
        self._clock = clock
        self._forward = forward
        self._own_at = own_at
        self._current = current
        self._keep_s = keep_s
        self._lengths = lengths

    async def answer(self, request: Request, *, keep: bool = False) -> Response:
        """The answer to a request, whatever happens.

        `keep`: the request was forwarded; the answer is stored with the change, so that its retry finds it.
        """
        try:
            response = await self._answer(request, keep)
        except IdentityError as refusal:
            response = refused(refusal, request.base_url)
        except msgspec.DecodeError as error:  # requests are read elsewhere: this is a row, at a site until it is mended
            _log.error("row_not_readable", request_id=request.id, where=where(error))
            response = refused(Unavailable("A record cannot be read here now; try again."), request.base_url)
        except Exception as error:  # noqa: BLE001  the one place where nothing may get through
            _log.error("answer_failed", request_id=request.id, error=type(error).__name__, where=where(error))
            response = refused(IdentityError(), request.base_url)
        return headed(response) if request.method == "HEAD" else response

    async def _answer(self, request: Request, keep: bool) -> Response:  # noqa: FBT001
        found = self._router.match(request.path)
        if found is None:
            raise NotFound
        if request.method == "OPTIONS" and "OPTIONS" not in found.methods:
            return Response(status=200, headers={"Allow": ", ".join(found.allow)})
        route = found.methods.get(request.method)
        if route is None and request.method == "HEAD":
            route = found.methods.get("GET")
        if route is None:
            raise MethodNotAllowed(found.allow)
        return await self._run(request, route, found.arguments, keep)

    async def _run(self, request: Request, route: Route, path: Mapping[str, str], keep: bool) -> Response:  # noqa: FBT001
        behind = await self._know()
        principal, body = await self._asked(request, route)
        once = _Once()

        def call(reader: Reader, caller: Principal | None) -> Call:
            return Call(
                request=request,
                principal=caller,
                path=path,
                reader=reader,
                now=now,
                body=body,
                enforcer=self._policy.check,
                fresh=lambda purpose: uuid.uuid5(_NAMES, f"{request.id}/{purpose}").hex,
                once=once,
                routes=self.routes,
                lengths=self._lengths,
                check=partial(_check_late, route, body),
            )

        now = self._clock.now()
        asked = call(self._reader, principal)
        changes = await route.weigh(asked) if route.weigh else route.changes
        if behind is not None and changes != "no":
            raise behind
        if changes == "log" and self._forward is not None and not keep:
            return await self._forward(repeatable(request))
        if changes == "no":
            return _unchanging(await route.handle(asked))

        async def decide(recording: Recording) -> tuple[tuple[Change, ...], Response]:
            known = await kept(recording, request) if keep else None
            if known is not None:
                return (), msgspec.structs.replace(known, position=self._reader.position)
            caller, reads = await self._proven(request, route)
            recording.depend(reads)  # who loses a role at this moment changes nothing with it
            result = await route.handle(call(recording, caller))
            following = await follow(recording, result.changes, now, self._keep_s)
            response = rendered(result)
            if keep and following:
                following = (*following, put(outcome(request, response, now)))
            return following, response

        response, position = await transact(self._reader, self._committers[changes], request.id, decide)
        if position is None:
            return response
        at = self._own_at() if self._own_at is not None and changes == "own" else None
        return msgspec.structs.replace(response, position=position, own=at)

    async def _know(self) -> Unavailable | None:
        """Wait for what another controller has answered, which counts here; the reason if that cannot be known now.

        What changes nothing is answered from what is known all the same.
        """
        if self._current is None:
            return None
        try:
            await self._current()
        except Unavailable as behind:
            return behind
        return None

    async def _asked(self, request: Request, route: Route) -> tuple[Principal | None, Any]:
        """Who asks, and what the body says; who proves nothing hears first what is wrong with it, as upstream."""
        try:
            principal, _ = await self._proven(request, route)
        except _NotByRules:
            raise
        except Unauthenticated:
            _read(route, request)
            raise
        return principal, _read(route, request)

    async def _proven(self, request: Request, route: Route) -> tuple[Principal | None, frozenset[Touch]]:
        if route.open:
            return None, frozenset()
        token = request.headers.get("x-auth-token")
        if not token:
            raise Unauthenticated
        ends_itself = route.ends_subject and about_itself(request)
        principal, reads = await self._prove(token, at_any_age=ends_itself)
        if not principal.may_ask(request.method, request.path):
            raise _NotByRules
        return principal, reads


class _NotByRules(Unauthenticated):
    """The access rules of a token do not name this request."""


class _Once:
    """Results of costly work of one request, by purpose."""

    def __init__(self) -> None:
        self._done: dict[str, Any] = {}

    async def __call__(self, purpose: str, work: Callable[[], Awaitable[Any]]) -> Any:
        if purpose not in self._done:
            self._done[purpose] = await work()
        return self._done[purpose]


def _unchanging(result: Result) -> Response:
    """The answer of a request that was weighed to change nothing; it must not have lost a change since."""
    if result.changes:
        raise Unavailable
    return rendered(result)


def headed(response: Response) -> Response:
    """The answer to HEAD: what GET answers, with the length of its body instead of the body."""
    length = {"Content-Length": str(len(response.body))} if response.body else {}
    return msgspec.structs.replace(response, headers={**response.headers, **length}, body=b"")


def rendered(result: Result) -> Response:
    """A handler's result as it goes out."""
    if result.body is None:
        return Response(status=result.status, headers=dict(result.headers))
    body = result.body if isinstance(result.body, bytes) else msgspec.json.encode(result.body)
    return Response(status=result.status, headers=_JSON | dict(result.headers), body=body)


def refused(refusal: IdentityError, base_url: str = "") -> Response:
    """A refusal as Keystone words it; nothing else renders one for the public port.

    Source: keystone/server/flask/application.py.
    """
    error = {"code": refusal.status, "message": refusal.message, "title": refusal.title}
    headers = dict(_JSON)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = f'Keystone uri="{base_url}/v3"'
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if isinstance(refusal, MethodNotAllowed):
        headers["Allow"] = ", ".join(refusal.allow)
    return Response(status=refusal.status, headers=headers, body=msgspec.json.encode({"error": error}))


def _check_late(route: Route, body: Any) -> None:
    if route.late is not None:
        check(route.late, body)


def _read(route: Route, request: Request) -> Any:
    """The body; refused, like the query, if it does not fit."""
    body = parse(request.body, request.headers.get("content-type", ""))
    if route.query:
        check({"properties": route.query}, dict(request.query))
    if route.body is not None:
        check(route.body, body)
    return body


def _parts(path: str) -> list[str]:
    return [] if path in {"", "/"} else path.removeprefix("/").split("/")
