"""What travels on the stream and on forwarded requests, as tagged structs.

Unknown fields are ignored and unknown tags are kept out of the way, never an error, so that versions may differ by one.
Source: docs/feeds.md, "The stream".
"""

from typing import TypeVar

import msgspec

from regional_keystone.log import Entry

VERSION = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, free of any framework. Header names are lower case; `path` is decoded."""

    id: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: dict[str, str] = {}
    body: bytes = b""
    peer: str = ""
    base_url: str = ""  # scheme://host[:port][/prefix] that links in the answer begin with

    def __repr__(self) -> str:  # headers and body hold tokens and passwords
        return f"Request(id={self.id!r}, method={self.method!r}, path={self.path!r})"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP answer. `position` is where in the log its change stands, None when nothing changed."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    position: int | None = None

    def __repr__(self) -> str:  # a header may hold a token
        return f"Response(status={self.status}, position={self.position})"


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The site's first word: who, which version, how far. The certificate must say the same cluster and site."""

    version: int
    cluster: str
    site: str
    instance: str
    position: int
    epochs: dict[str, int] = {}


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The controller's first word. `snapshot` tells that one follows, because the log no longer reaches back."""

    version: int
    cluster: str
    head: int
    snapshot: bool = False


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The stream is closed for this reason. `final`: coming again does not help until an operator acts."""

    reason: str
    final: bool = False


class Entries(msgspec.Struct, frozen=True, tag="entries"):
    """The next entries of the log, in order, without gaps."""

    entries: tuple[Entry, ...]
    head: int


class Rows(msgspec.Struct, frozen=True, tag="rows"):
    """A part of a snapshot at `position`; `last` ends it."""

    position: int
    rows: tuple[tuple[str, tuple[str | int | bool | None, ...], bytes], ...]
    last: bool = False


class Probe(msgspec.Struct, frozen=True, tag="probe"):
    """How late is it? `ticks` is the site's own clock and comes back untouched."""

    ticks: float
    now: int


class Echo(msgspec.Struct, frozen=True, tag="echo"):
    """The head of the log, read after the probe arrived; `now` is the controller's wall clock."""

    ticks: float
    head: int
    now: int


class Acknowledge(msgspec.Struct, frozen=True, tag="acknowledge"):
    """The site holds everything up to `position` durably, and these rings (epoch, fingerprint) in each process."""

    position: int
    rings: dict[str, tuple[int, str]] = {}


class Own(msgspec.Struct, frozen=True, tag="own"):
    """Entries of the site's own feed, to be taken over into the log exactly once."""

    feed: str
    entries: tuple[Entry, ...]


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """A change that a client asked of the site. `request.id` is the transaction's: a retry finds its result."""

    request: Request


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What the controller answers a forwarded request."""

    id: str
    response: Response


ToController = Hello | Probe | Acknowledge | Own | Forward
ToSite = Welcome | Refused | Entries | Rows | Echo | Answer

_to_controller: msgspec.msgpack.Decoder[ToController] = msgspec.msgpack.Decoder(ToController)
_to_site: msgspec.msgpack.Decoder[ToSite] = msgspec.msgpack.Decoder(ToSite)
_TAGS = {"hello", "probe", "acknowledge", "own", "forward", "welcome", "refused", "entries", "rows", "echo", "answer"}
encode = msgspec.msgpack.Encoder().encode
M = TypeVar("M")


def at_controller(data: bytes) -> ToController | None:
    """What a site said; None for a message of a version that is not known here. Raises ValueError for rubbish."""
    return _known(_to_controller, data)


def at_site(data: bytes) -> ToSite | None:
    """What a controller said; None for a message of a version that is not known here. Raises ValueError for rubbish."""
    return _known(_to_site, data)


def _known(decoder: msgspec.msgpack.Decoder[M], data: bytes) -> M | None:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        message = msgspec.msgpack.decode(data)
        if isinstance(message, dict) and message.get("type") not in _TAGS:
            return None
        raise
