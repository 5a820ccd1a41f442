"""Questions to processes of a federation on this machine: status pages over HTTP, admin and control sockets.

Synchronous and of the standard library, because the command line has to begin quickly.
"""

import http.client
import json
from pathlib import Path
from typing import Any

from regional_keystone.operator_socket import Connection, Refusal, connect
from regional_keystone.record import Json

__all__ = ["Absent", "Refusal", "Unanswered", "admin", "control", "page"]


class Unanswered(Exception):
    """Nobody answered; says who was asked, and what that may mean."""


class Absent(Unanswered):
    """Nobody listens there: nothing was asked of anyone."""


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
    connection, commanded = Connection(path, timeout_s), False
    try:
        connection.connect()
        commanded = body is not None
        return _exchange(connection, "GET" if body is None else "POST", target, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        why = f"the controller at {path.parent} does not answer: {_reason(error)}; is it running?"
        if commanded:
            why += " It was asked: whether it has done this is not known, so look before you try again"
        raise (Absent if absent else Unanswered)(why) from None
    finally:
        connection.close()


def control(path: Path, timeout_s: float = 120.0, **message: Any) -> Json:
    """A command to the supervisor of a federation. Raises Unanswered and Refusal."""
    try:
        with connect(path, timeout_s) as connection, connection.makefile("rwb") as lines:
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise Unanswered(f"no federation runs in {path.parent}: {_reason(error)}") from None
    if "error" in answer:
        raise Refusal(answer["error"])
    return dict(answer)


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
