"""A Unix socket in the state directory, for whoever may read that: how it is named, and how it is asked.

Of the standard library, because a command line has to begin quickly.
"""

import contextlib
import http
import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regional_keystone.errors import Unavailable

NAME = "operator.sock"
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Refusal(Exception):
    """The answer was no; the sentence is the answering process's."""


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a socket that fits into the 108 bytes which the kernel has for it, however deep its directory."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to whoever listens there. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with short(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def ask(path: Path, target: str, body: Any = None, timeout_s: float = 30.0) -> Any:
    """What the process with this socket answers. Raises Refusal, Unavailable where nobody is, PermissionError."""
    connection = Connection(path, timeout_s)
    try:
        connection.request("GET" if body is None else "POST", target, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        found = json.loads(answer.read() or b"{}")
    except PermissionError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Unavailable(f"The site at {path.parent} does not answer: {why}; is it running?") from None
    finally:
        connection.close()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise Refusal(str(found.get("error", answer.reason)))
    return found


def user_of(connection: socket.socket) -> int:
    """The user whose process has opened this connection, as the kernel knows it."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(peer)[1])


class Connection(http.client.HTTPConnection):
    """HTTP over such a socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        """Raises OSError, with nothing left open."""
        self.sock = connect(self._path, self._timeout_s)
