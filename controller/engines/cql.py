"""Asks one Cassandra node one statement: enough to see a cluster come up and to set up its superuser.

The product speaks through its adapter's driver; this needs no reactor, no threads and no metadata, and it asks the
very node that is meant. Native protocol, version 4.
"""

import socket
import struct
from types import TracebackType
from typing import Self

ONE, QUORUM, ALL, LOCAL_QUORUM = 1, 4, 5, 6
"""Consistency levels, by their numbers on the wire."""
BAD_CREDENTIALS = 0x0100
"""The code of a refused name or password."""
_ERROR, _STARTUP, _AUTHENTICATE, _QUERY, _RESULT, _AUTH_RESPONSE = 0x00, 0x01, 0x03, 0x07, 0x08, 0x0F
_ROWS = 2
_GLOBAL_TABLE, _MORE_PAGES = 1, 2
_WARNING = 0x08
_CUSTOM, _LIST, _MAP, _SET = 0x00, 0x20, 0x21, 0x22
_USER_DEFINED = 0x30

Row = tuple[bytes | None, ...]


class CqlError(Exception):
    """The node refused; `code` is the protocol's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Body:
    """Reads what a frame holds."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def short(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def int(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def text(self) -> str:
        return self.take(self.short()).decode()

    def bytes(self) -> bytes | None:
        size = self.int()
        return None if size < 0 else self.take(size)


class Node:
    """A connection to one node. Raises OSError or CqlError. Use as a context."""

    def __init__(self, address: str, port: int, username: str, password: str, timeout_s: float = 5.0) -> None:
        self._socket = socket.create_connection((address, port), timeout_s)
        try:
            self._log_in(username, password)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, statement: str, consistency: int = ONE) -> list[Row]:
        """The rows, as bytes; none for a statement that has none."""
        text = statement.encode()
        body = struct.pack(">i", len(text)) + text + struct.pack(">HB", consistency, 0)
        return _rows(self._exchange(_QUERY, body)[1])

    def _log_in(self, username: str, password: str) -> None:
        wanted = b"".join(struct.pack(">H", len(one)) + one for one in (b"CQL_VERSION", b"3.0.0"))
        opcode, _ = self._exchange(_STARTUP, struct.pack(">H", 1) + wanted)
        if opcode == _AUTHENTICATE:
            proof = f"\0{username}\0{password}".encode()
            self._exchange(_AUTH_RESPONSE, struct.pack(">i", len(proof)) + proof)

    def _exchange(self, opcode: int, body: bytes) -> tuple[int, _Body]:
        self._socket.sendall(struct.pack(">BBhBi", 4, 0, 0, opcode, len(body)) + body)
        _, flags, _, answer, size = struct.unpack(">BBhBi", self._exactly(9))
        found = _Body(self._exactly(size))
        if flags & _WARNING:
            for _ in range(found.short()):
                found.text()
        if answer == _ERROR:
            raise CqlError(found.int(), found.text())
        return answer, found

    def _exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = self._socket.recv(size - len(got))
            if not part:
                raise ConnectionResetError("the node closed the connection")
            got += part
        return bytes(got)


def _rows(body: _Body) -> list[Row]:
    if body.int() != _ROWS:
        return []
    flags, columns = body.int(), body.int()
    if flags & _MORE_PAGES:
        body.bytes()
    if flags & _GLOBAL_TABLE:
        body.text(), body.text()
    for _ in range(columns):
        if not flags & _GLOBAL_TABLE:
            body.text(), body.text()
        body.text()
        _skip_type(body)
    return [tuple(body.bytes() for _ in range(columns)) for _ in range(body.int())]


def _skip_type(body: _Body) -> None:
    kind = body.short()
    if kind >= _USER_DEFINED:
        raise CqlError(0, "a column of a type that is not read here")
    if kind == _CUSTOM:
        body.text()
    for _ in range({_LIST: 1, _SET: 1, _MAP: 2}.get(kind, 0)):
        _skip_type(body)
