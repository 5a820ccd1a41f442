"""Questions to processes of a federation on this machine: status pages over HTTP, admin and control sockets.

Synchronous and of the standard library, because the command line has to begin quickly.
"""

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regional_keystone.record import Json


class Unanswered(Exception):
    """Nobody answered; says who was asked, and what that may mean."""


class Absent(Unanswered):
    """Nobody listens there: nothing was asked of anyone."""


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


def page(port: int, path: str, timeout_s: float = 1.0) -> Json:
    """A JSON page of a process's admin port. Raises Unanswered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        return dict(_exchange(connection, "GET", path, None))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unanswered(f"port {port} does not answer: {_reason(error)}") from None
    finally:
        connection.close()


def admin(path: Path, target: str, body: Json | None = None, timeout_s: float = 120.0) -> Any:
    """A command, or without a body a question, to the controller with this socket. Raises Unanswered and Refusal."""
    connection = _UnixConnection(path, timeout_s)
    try:
        return _exchange(connection, "GET" if body is None else "POST", target, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        why = f"the controller at {path.parent} does not answer: {_reason(error)}; is it running?"
        raise (Absent if absent else Unanswered)(why) from None
    finally:
        connection.close()


def control(path: Path, timeout_s: float = 120.0, **message: Any) -> Json:
    """A command to the supervisor of a federation. Raises Unanswered and Refusal."""
    try:
        with _connect(path, timeout_s) as connection, connection.makefile("rwb") as lines:
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise Unanswered(f"no federation runs in {path.parent}: {_reason(error)}") from None
    if "error" in answer:
        raise Refusal(answer["error"])
    return dict(answer)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = _connect(self._path, self._timeout_s)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with short(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return connection


def _exchange(connection: http.client.HTTPConnection, method: str, target: str, body: Json | None) -> Any:
    content = None if body is None else json.dumps(body)
    connection.request(method, target, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise Refusal(_sentence(text) or f"{target}: {answer.status} {answer.reason}")
    return json.loads(text or "{}")


def _sentence(text: str) -> str:
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text.strip()
    return str(error["message"]) if isinstance(error, dict) else str(error)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
