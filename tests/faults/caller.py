"""HTTP as a client has it who must know what became of its request: nothing is ever sent twice.

Synchronous; one caller a thread.
"""

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.faults.history import OK, REFUSED, UNKNOWN

PATIENCE_S = 12.0  # longer than anything that the servers wait for themselves


class Place(NamedTuple):
    """One process that answers clients."""

    name: str
    host: str
    port: int
    admin_port: int
    is_controller: bool


class Answer(NamedTuple):
    """What came back; status 0 when nothing did. `outcome`: see `history.Did`."""

    status: int
    headers: Mapping[str, str]
    body: Any
    outcome: str

    @property
    def position(self) -> int:
        return int(self.headers.get("x-rk-position", "0").partition("+")[0])

    @property
    def said(self) -> str:
        """Why it was refused."""
        if isinstance(self.body, dict) and isinstance(self.body.get("error"), dict):
            return str(self.body["error"].get("message", ""))[:160]
        return str(self.body)[:160] if self.outcome != OK else ""


class Caller:
    """Keeps a connection to each place. After a failure the next request begins a new one."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._patience_s = patience_s

    def ask(self, place: Place, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request, sent once at most; never raises for what becomes of it."""
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value}
        content = None
        if body is not None:
            sent["Content-Type"], content = "application/json", json.dumps(body)
        try:
            connection = self._connection(place)
        except OSError as error:
            return Answer(0, {}, f"{type(error).__name__}: {error}", REFUSED)  # nothing was sent
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.hang_up(place)
            return Answer(0, {}, f"{type(error).__name__}: {error}", UNKNOWN)
        if answer.will_close:
            self.hang_up(place)
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = text and "json" in found.get("content-type", "")
        read = json.loads(text) if is_json else text.decode(errors="replace")
        outcome = OK if answer.status < 400 else UNKNOWN if answer.status >= 500 else REFUSED
        return Answer(answer.status, found, read, outcome)

    def hang_up(self, place: Place) -> None:
        """Forget the connection."""
        if connection := self._connections.pop(place.name, None):
            connection.close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _connection(self, place: Place) -> http.client.HTTPConnection:
        connection = self._connections.get(place.name)
        if connection is None:
            connection = http.client.HTTPConnection(place.host, place.port, timeout=self._patience_s)
            connection.connect()
            self._connections[place.name] = connection
        return connection
