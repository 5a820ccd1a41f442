"""Resource, Edge, Route, Call, Hook: the vocabulary of the API. The engine (`serve`) gives it life.

Three shapes and nothing else: a quirk of one resource is a hook or a Route, of three a field, never a flag for one.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from regional_keystone.log import Change
from regional_keystone.messages import Request
from regional_keystone.ports import Reader
from regional_keystone.record import Record
from regional_keystone.token import Principal

Attributes = dict[str, Any]
Enforce = Callable[[Principal, str, Mapping[str, Any], "Call"], None]


class Lengths(NamedTuple):
    """How many rows a list has: at most `most` whatever is asked, `usual` of a collection if nothing is; 0: all."""

    most: int = 1000
    usual: Mapping[str, int] = {}  # by collection, "" for those that are not named

    def of(self, collection: str) -> int:
        """How many when nothing is asked."""
        return self.usual.get(collection, self.usual.get("", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as a handler sees it. A handler may be run again with the same Call: `now` and `fresh` repeat.

    `reader` records what is read. `now` is in microseconds since 1970 UTC.
    """

    request: Request
    principal: Principal | None
    path: Mapping[str, str]
    reader: Reader
    now: int
    body: Any = field(default=None, repr=False)
    enforcer: Enforce
    fresh: Callable[[str], str]  # purpose -> an id: the same for the same purpose of the same request
    once: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]  # costly work, done once over all runs (a hash)
    routes: "Sequence[Route]" = ()  # everything that is answered
    lengths: Lengths = Lengths()  # noqa: RUF009  frozen
    check: Callable[[], None] = field(default=lambda: None)  # the body, where a route looks at it late; may refuse

    @property
    def caller(self) -> Principal:
        """The proven caller of a route that demands one."""
        if self.principal is None:
            raise LookupError("this route is open, so it has no caller")
        return self.principal

    def query(self, name: str) -> str | None:
        """The last value of this query key, None when absent."""
        return next((value for key, value in reversed(self.request.query) if key == name), None)

    def flag(self, name: str) -> bool:
        """Whether a query key is there and not `0`, which is how upstream reads a switch."""
        value = self.query(name)
        return value is not None and value != "0"

    def url(self, path: str) -> str:
        """The address of a path below /v3, as links show it."""
        return f"{self.request.base_url}/v3{path}"

    def enforce(self, action: str, target: Mapping[str, Any] | None = None) -> None:
        """Raise Forbidden unless policy lets the caller do this to this target; then a late body may be refused.

        `target` is nested as upstream's: {"target": {"user": {...}}}; path arguments are added; it holds no raw body,
        which rules find below names of its own.
        """
        self.enforcer(self.caller, action, {**self.path, **(target or {})}, self)
        self.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a handler answers and wants changed; committed first, told after."""

    status: int = 200
    body: Any = field(default=None, repr=False)  # JSON-able, or bytes as they go out; None: no body
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    changes: tuple[Change, ...] = ()


Handler = Callable[[Call], Awaitable[Result]]
Only = Callable[[Call], Callable[[Any], bool] | None]  # what a query asks of a record; None: nothing. May refuse
Hook = Callable[[Call, Any, Any], Awaitable[Iterable[Change]]]  # (call, old, new) -> further changes; may refuse


async def nothing(call: Call, old: Record | None, new: Record | None) -> Iterable[Change]:
    """The hook of a resource without rules of its own."""
    del call, old, new
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """POST, GET, GET one, PATCH, DELETE (and PUT where the client names it) of one stored record.

    Policy actions are upstream's: identity:{create,list,get,update,delete}_{member}.
    """

    record: type[Record]
    member: str
    collection: str
    path: str = ""  # when it is not "/" + collection
    verbs: str = "create list show update delete"
    filters: str = ""  # query keys of the list, beside name__contains and the like
    asks: Mapping[str, Any] = field(default_factory=dict)  # JSON schema of query keys that are not as their attribute
    fixed: Mapping[str, Any] = field(default_factory=dict)  # field values that make a row one of this collection
    accepts: Mapping[str, Any] = field(
        default_factory=dict
    )  # JSON schema of attributes where the record does not say it
    least: int = 1  # attributes that a change must say
    late: Mapping[str, str] = field(default_factory=dict)  # "create", "update" -> what `fields.parted` leaves for later
    missing: str = ""  # what is said of one that is not there, where it is not upstream's usual sentence
    first: str = ""  # "get update delete": where a record that is not there is 404 to anybody, before policy is asked
    domain: str = ""  # the field with the domain a row belongs to: whose scope is a domain lists only its own
    only: Only | None = None  # what the list asks of a record beside its filters
    among: Callable[[Call], Awaitable[list[str] | None]] | None = None  # ids that the list looks through; None: all
    kind: Callable[[Attributes], str] | None = None  # attributes -> the word in actions, where it is not `member`
    prepare: Callable[[Call, Any, Attributes], Awaitable[Attributes]] | None = None  # client's words -> fields
    show: Callable[[Call, Any, Attributes], Awaitable[Attributes]] | None = None  # fields -> what clients see
    hook: Hook = nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """PUT makes, GET and HEAD tell, DELETE breaks one link; GET on the collection lists the far ends."""

    path: str  # "/groups/{group_id}/users/{user_id}"
    record: type[Record]
    ends: Mapping[str, type[Record]]  # path argument -> the record that must exist
    lists: str = ""  # the path argument whose records the collection lists; "" for no collection
    actions: Mapping[str, str] = field(default_factory=dict)  # make tell break list -> policy action
    fields: Callable[[Mapping[str, str]], Attributes] | None = None  # path arguments -> the link's fields
    may_lack: str = ""  # the path argument whose record may be gone when the link is broken
    first: bool = False  # an end that is not there is 404 to anybody, before policy is asked
    missing: str = ""  # what is said of a link that is not there, with path arguments in braces
    filters: str = ""  # query keys of the list
    only: Only | None = None  # what the list asks of a far end beside its filters
    tell: Callable[[Call, Any], Awaitable[Any]] | None = None  # the body that GET and PUT answer, where there is one
    hook: Hook = nothing


def about_itself(request: Request) -> bool:
    """Whether the token that is asked about is the one by which is asked."""
    return request.headers.get("x-subject-token") == request.headers.get("x-auth-token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Anything else: a computed view, a protocol step.

    `changes`: "no"; "log" is committed, so forwarded at a site; "own" a site may take into its own feed.
    `weigh`: says which of these one request is, where that depends on more than the route.
    `ends_subject`: nothing but the end of the token that it is about; a token that ends itself may do so at any age of
    what is known.
    """

    method: str
    path: str
    handle: Handler
    changes: str = "no"
    weigh: Callable[[Call], Awaitable[str]] | None = None
    open: bool = False  # answered without a caller
    ends_subject: bool = False
    base: str = "/v3"  # what the path is below
    body: Mapping[str, Any] | None = None  # JSON schema of the request's body
    query: Mapping[str, Any] | None = None  # JSON schema of each query key that is checked
    late: Mapping[str, Any] | None = None  # JSON schema of the body that counts once the caller may do it


Shape = Resource | Edge | Route
