"""The tour's eyes: a small HTTP client that keeps its connection, and clocks for what it sees.

Separate from the tour, so that the tour reads as what is promised. Synchronous; one client a thread.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from controller.federation import HOST, Member
from regional_keystone.record import Json

T = TypeVar("T")
PATIENCE_S = 10.0
_PAUSE_S = 0.001


class Broken(Exception):
    """A promise was not kept; says what was expected and what came."""


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Client:
    """Asks one process's public API, with a token once it has one."""

    def __init__(self, member: Member, token: str = "") -> None:
        self.member = member
        self.token = token
        self._connection = http.client.HTTPConnection(HOST, member.port, timeout=PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()

    def at(self, member: Member) -> "Client":
        """The same caller at another place."""
        return Client(member, self.token)

    def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Answer:
        """One request, whatever its answer. Raises OSError when nobody is there."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent.setdefault("X-Auth-Token", self.token)
        content = None
        if body is not None:
            sent["Content-Type"], content = "application/json", json.dumps(body)
        try:
            return self._send(method, path, content, sent)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._connection.close()  # an idle connection that the other side has closed
            return self._send(method, path, content, sent)

    def expect(self, status: int, method: str, path: str, body: Json | None = None, **headers: str) -> Any:
        """The body of an answer with this status. Raises Broken for any other."""
        answer = self.ask(method, path, body, **headers)
        if answer.status != status:
            asked = f"{method} {path} at {self.member.name}"
            raise Broken(f"{asked}: expected {status}, got {answer.status} {shown(answer.body)}")
        return answer.body

    def make(self, member: str, path: str, **fields: Any) -> Any:
        """A new record."""
        return self.expect(201, "POST", path, {member: fields})[member]

    def login(self, auth: Json) -> str:
        """A token by `auth`. Raises Broken when it is refused."""
        answer = self.ask("POST", "/v3/auth/tokens", {"auth": auth})
        if answer.status != http.HTTPStatus.CREATED:
            raise Broken(f"login at {self.member.name}: expected 201, got {answer.status} {shown(answer.body)}")
        return answer.headers["x-subject-token"]

    def validate(self, subject: str) -> int:
        """The status that a validation of this token gets, asked with our own token or with itself."""
        return self.ask("GET", "/v3/auth/tokens", X_Subject_Token=subject, X_Auth_Token=self.token or subject).status

    def _send(self, method: str, path: str, content: str | None, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, path, content, dict(headers))
        answer = self._connection.getresponse()
        text = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = text and "json" in found.get("content-type", "")
        return Answer(answer.status, found, json.loads(text) if is_json else text.decode(errors="replace"))


class Load:
    """Work that threads repeat until the block is left: how often it was done, and what went wrong."""

    def __init__(self, work: Iterable[Callable[[], str]], pause_s: float) -> None:
        self.done = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._pause_s = pause_s
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self, work: Callable[[], str]) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                wrong = work()
            except (OSError, http.client.HTTPException, Broken) as error:
                wrong = str(error) or type(error).__name__
            self.done += 1
            if wrong:
                self.wrong.append(wrong)


def password(name: str, secret: str, domain: str, project: str | None = None) -> Json:
    """An `auth` by password, scoped to a project by id, or unscoped."""
    user = {"name": name, "password": secret, "domain": {"id": domain}}
    auth: Json = {"identity": {"methods": ["password"], "password": {"user": user}}}
    return auth if project is None else auth | {"scope": {"project": {"id": project}}}


def again(token: str, project: str) -> Json:
    """An `auth` by a token that one has, for a fresh token with the same scope."""
    return {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": {"project": {"id": project}}}


def until(what: str, ask: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
    """The first answer that is not empty or false. Raises Broken after some time, naming what was waited for."""
    end = time.monotonic() + patience_s
    while True:
        try:
            if found := ask():
                return found
            last = f"the last answer was {found!r}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        if time.monotonic() > end:
            raise Broken(f"expected {what} within {patience_s:.0f} s; {last}")
        time.sleep(_PAUSE_S)


def everywhere(clients: Sequence[Client], ask: Callable[[Client], T]) -> list[T]:
    """The same question to all at once, answers in their order."""
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(ask, clients))


def ms(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def shown(body: Any) -> str:
    """A body short enough for one line."""
    return json.dumps(body)[:200]
