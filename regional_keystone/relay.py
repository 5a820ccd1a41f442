"""What the first process of a site and its workers say to each other, over a socket that only the two of them have.

Frames of a length and msgpack. A worker may be of a newer version than its leader, once the package was upgraded under
them: unknown fields and unknown tags are ignored, as on the stream.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar, get_args

import msgspec

from regional_keystone.log import Change, Entry
from regional_keystone.messages import Answer, Echo, Entries, Forward, Own
from regional_keystone.metrics import Counts
from regional_keystone.model import RevocationEvent
from regional_keystone.record import Touch

M = TypeVar("M")
MAX_FRAME_BYTES = 16 * 1024 * 1024
_MAX_WAITING_BYTES = 4 * MAX_FRAME_BYTES  # unsent, to one that does not read
_HEAD_BYTES = 4


class Lost(ConnectionError):
    """The other end is gone, or does not read."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A worker's first word, and again after its replica was replaced: where it stands, to be told what follows."""

    position: int


class Stand(msgspec.Struct, frozen=True, tag="stand"):
    """Every answer of this worker knows so much: entries of the log and of the own feed, and these rings.

    `epoch` and `fingerprint` are of the token ring, for a leader that knows no other.
    """

    position: int = 0
    own: int = 0
    epoch: int = 0
    fingerprint: str = ""
    rings: dict[str, tuple[int, str]] = {}


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The worker answers at the public port."""


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Revocations, or reports of logins, for the own feed. The answer is Done or Failed."""

    id: str
    changes: tuple[Change, ...]


class Late(msgspec.Struct, frozen=True, tag="late"):
    """Revocations of tokens that the worker had issued before it heard that it should not have."""

    events: tuple[RevocationEvent, ...]


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """What the worker has counted since it began; `issued` are tokens, by key id and hour since 1970 UTC."""

    counts: Counts
    issued: dict[str, dict[int, int]] = {}


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """Tokens that the worker answered 200, as `middleware_cache.framed` has them."""

    batch: bytes


class Handed(msgspec.Struct, frozen=True, tag="handed"):
    """All that a worker has to begin with has been said; the own feed has this name, and was told up to `number`."""

    feed: str
    number: int
    mended: int = 0  # it was begun after the `Mended` of this number


class PeerWord(msgspec.Struct, frozen=True, tag="peer"):
    """What another site's own feed says, up to this number, as far as it is believed."""

    feed: str
    number: int
    revocations: tuple[RevocationEvent, ...] = ()
    condemned: tuple[str, ...] = ()


class Mark(msgspec.Struct, frozen=True, tag="mark"):
    """The replica holds everything up to here."""

    projected: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """By the store's heartbeat all that the log held at `ticks` ends at `head`."""

    ticks: float
    head: int


class Again(msgspec.Struct, frozen=True, tag="again"):
    """The replica was replaced, or lies too far behind what is remembered: read it anew, then `Begin`."""


class Mended(msgspec.Struct, frozen=True, tag="mended"):
    """Rows of the replica were put right: nothing that read these holds; own entries that still count follow."""

    touched: tuple[tuple[Any, ...], ...]
    number: int = 0


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """From now on what this worker holds counts: it may open its door."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """What was to be committed is durable, and counts in every process."""

    id: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A commit or a forwarded request cannot be done now; or never, if it is too large."""

    id: str
    why: str
    retry_after_s: int = 1
    too_large: bool = False


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Say what you have counted."""


ToLeader = Begin | Stand | Serving | Forward | Commit | Late | Counted | Answered
ToWorker = (
    Entries | Own | PeerWord | Echo | Beat | Mark | Handed | Serve | Again | Mended | Answer | Done | Failed | Count
)
_ENCODER = msgspec.msgpack.Encoder()
_TO_LEADER: msgspec.msgpack.Decoder[ToLeader] = msgspec.msgpack.Decoder(ToLeader)
_TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_TAGS = {one.__struct_config__.tag for one in (*get_args(ToLeader), *get_args(ToWorker))}


def frame(message: ToLeader | ToWorker) -> bytes:
    """A message as it is sent."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(_HEAD_BYTES, "big") + body


def at_leader(body: bytes) -> ToLeader | None:
    """What a worker said; None for what is not known here. Raises ValueError for rubbish."""
    return _known(_TO_LEADER, body)


def at_worker(body: bytes) -> ToWorker | None:
    """What the leader said; None for what is not known here. Raises ValueError for rubbish."""
    return _known(_TO_WORKER, body)


class Channel(Generic[M]):
    """One end of the socket. Sending never waits; who does not read is lost."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: Callable[[bytes], M | None]
    ) -> None:
        """Use `over`."""
        self._reader = reader
        self._writer = writer
        self._read = read

    @classmethod
    async def over(cls, end: socket.socket, read: Callable[[bytes], M | None]) -> "Channel[M]":
        """Speak over this end, which is closed with the channel; `read` is `at_leader` or `at_worker`."""
        end.setblocking(False)  # noqa: FBT003
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, read)

    def send(self, framed: bytes) -> None:
        """Send what `frame` made. Never raises: the other end is missed when it is listened to."""
        if self._writer.transport.get_write_buffer_size() > _MAX_WAITING_BYTES:
            self._writer.transport.abort()
        elif not self._writer.is_closing():
            self._writer.write(framed)

    async def receive(self) -> M:
        """The next message that is known here. Raises Lost at the end, ValueError for rubbish."""
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(_HEAD_BYTES), "big")
                if size > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {size} bytes")
                message = self._read(await self._reader.readexactly(size))
            except (EOFError, ConnectionError):
                raise Lost("the connection has ended") from None
            if message is not None:
                return message

    def close(self) -> None:
        """Let go of the socket, at once."""
        self._writer.transport.abort()


def _known(decoder: msgspec.msgpack.Decoder[M], body: bytes) -> M | None:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        message = msgspec.msgpack.decode(body)
        if isinstance(message, dict) and message.get("type") not in _TAGS:
            return None
        raise


class Relay(Protocol):
    """Is told in order, as it happens, what a follower learns, so that others can follow it."""

    def noted(self, entries: Sequence[Entry]) -> None:
        """Every answer knows these entries now."""
        ...

    def heard(self, ticks: float, head: int, now: int) -> None:
        """A controller named the head of its log, and its wall clock."""
        ...

    def beat(self, ticks: float, head: int) -> None:
        """The store's heartbeat says that the log ended at `head` at `ticks`."""
        ...

    def stored(self, projected: int) -> None:
        """Everything up to here is in the replica."""
        ...

    def replaced(self) -> None:
        """A snapshot took the replica's place."""
        ...

    async def mended(self, touched: Iterable[Touch]) -> None:
        """Rows of the replica were put right, and this was disturbed by it; what it is may not be believed.

        Raises Unavailable where not all that counts could be told: then it has to be called again.
        """
        ...
