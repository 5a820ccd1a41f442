"""What the first process of a site and its workers say to each other, over a socket that only the two of them have.

Frames of a length and msgpack. A worker may be of a newer version than its leader, once the package was upgraded under
them: unknown fields and unknown tags are ignored, as on the stream.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, TypeVar, get_args

import msgspec

from regional_keystone.log import Change
from regional_keystone.messages import Answer, Echo, Entries, Forward, Own
from regional_keystone.metrics import Counts
from regional_keystone.model import RevocationEvent

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
    """What the worker has counted since it began."""

    counts: Counts


class Handed(msgspec.Struct, frozen=True, tag="handed"):
    """All that a worker has to begin with has been said; the own feed has this name, and was told up to `number`."""

    feed: str
    number: int


class Mark(msgspec.Struct, frozen=True, tag="mark"):
    """The replica holds everything up to here."""

    projected: int


class Again(msgspec.Struct, frozen=True, tag="again"):
    """The replica was replaced, or lies too far behind what is remembered: read it anew, then `Begin`."""


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


ToLeader = Begin | Stand | Serving | Forward | Commit | Late | Counted
ToWorker = Entries | Own | Echo | Mark | Handed | Serve | Again | Answer | Done | Failed | Count
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
