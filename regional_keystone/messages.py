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
    """One HTTP answer. `position` is where in the log its change stands, None when nothing changed.

    `own` is where it stands in the own feed of the site that made it, as a name and a number.
    """

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""
    position: int | None = None
    own: tuple[str, int] | None = None

    def __repr__(self) -> str:  # a header may hold a token
        return f"Response(status={self.status}, position={self.position})"


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The site's first word: who, which version, how far. The certificate must say the same cluster and site.

    `rings`: what it holds (epoch, fingerprint), so that the controller can help it on; `epochs` says less of the same.
    """

    version: int
    cluster: str
    site: str
    instance: str
    position: int
    epochs: dict[str, int] = {}
    rings: dict[str, tuple[int, str]] = {}


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The controller's first word. `snapshot` tells that one follows, because the log no longer reaches back.

    `highest`: the epochs of the rings that this site has acknowledged, for one whose disk was put back to remember.
    """

    version: int
    cluster: str
    head: int
    snapshot: bool = False
    highest: dict[str, int] = {}
    cas: int = 0  # the number of the CAs that count: who has a lower one renews its certificate


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
    """The site holds everything up to `position` durably, and these rings (epoch, fingerprint) in each process.

    `issued`: tokens that it has issued, by key id and hour since 1970 UTC. `provider`: what it issues now; nothing from
    a version that does not say it. `why`: for an operator, why it does not hold the newest of a ring that has come.
    """

    position: int
    rings: dict[str, tuple[int, str]] = {}
    issued: dict[str, dict[int, int]] = {}
    provider: str = ""
    why: dict[str, str] = {}


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """A public key with which this site would sign tokens; `proof` is made with the private one. See `signing`."""

    public: bytes
    proof: bytes


class Own(msgspec.Struct, frozen=True, tag="own"):
    """Entries of the site's own feed, to be taken over into the log exactly once."""

    feed: str
    entries: tuple[Entry, ...]


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """What are the sums below these nodes? Paths are those of `sums`."""

    id: int
    paths: tuple[tuple[str, ...], ...]


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """One node: the last step of its path, its sum, the last entry that touched it, whether all of it was read since.

    `doubted`: the controller's own tables are not as the log has it somewhere below.
    """

    name: str
    sum: bytes
    touched: int
    is_read: bool
    doubted: bool = False


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """The sums below each of the nodes asked for, at `position`; None: of this controller nothing can be said now."""

    id: int
    position: int
    sums: tuple[tuple[Sum, ...], ...] | None


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Which rows are in this leaf? Of those with a key in `wanted` the bytes as well. Keys are in msgpack."""

    id: int
    path: tuple[str, ...]
    wanted: tuple[bytes, ...] = ()


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Of each row in a leaf, at `position`, its key and what it counts; the bytes of those that were wanted.

    `touched`: the last entry that touched the leaf. `doubted`: the controller's own table is not as the log has it.
    """

    id: int
    position: int
    touched: int
    counts: tuple[tuple[bytes, bytes], ...]
    rows: tuple[tuple[bytes, bytes], ...] = ()
    doubted: bool = False

    def __repr__(self) -> str:  # rows may hold a secret
        return f"Told({self.id}, {self.position}, {len(self.counts)} rows)"


class Drifted(msgspec.Struct, frozen=True, array_like=True):
    """A row that was not as the log has it: `how` is changed, lost or added.

    Not `mended` is what differs at the controller, which a site only tells.
    """

    table: str
    key: str
    how: str
    at: int
    mended: bool


class Convergence(msgspec.Struct, frozen=True, tag="convergence"):
    """What a site has found in comparing: since when it is equal, how many rows drifted ever, and the last of them."""

    equal_at: int | None
    found: int
    unmended: int
    last: tuple[Drifted, ...] = ()


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    """A change that a client asked of the site. `request.id` is the transaction's: a retry finds its result."""

    request: Request


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What the controller answers a forwarded request."""

    id: str
    response: Response


ToController = Hello | Probe | Acknowledge | Offer | Own | Forward | Compare | Ask | Convergence
ToSite = Welcome | Refused | Entries | Rows | Echo | Answer | Compared | Told

_to_controller: msgspec.msgpack.Decoder[ToController] = msgspec.msgpack.Decoder(ToController)
_to_site: msgspec.msgpack.Decoder[ToSite] = msgspec.msgpack.Decoder(ToSite)
_TAGS = {
    "hello",
    "probe",
    "acknowledge",
    "offer",
    "own",
    "forward",
    "welcome",
    "refused",
    "entries",
    "rows",
    "echo",
    "answer",
    "compare",
    "compared",
    "ask",
    "told",
    "convergence",
}
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
    except RecursionError as error:
        raise ValueError(str(error)) from None
