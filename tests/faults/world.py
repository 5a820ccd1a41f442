"""What the clients share: who and what exists as far as anybody was told, and one way to do and record an operation."""

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.probe import password
from tests.faults.caller import PATIENCE_S, Answer, Caller, Place
from tests.faults.history import OK, Did, History

NAMES = 6
_PATIENCE_S = (2.0, 4.0, PATIENCE_S)  # some give up before the servers do
STABLE, GRANTED = 4, 3
_CREATED = {"users": "user", "projects": "project", "groups": "group"}


@dataclass(slots=True)
class Held:
    """A token that some client has, and what it opens."""

    key: str
    text: str
    audit: str


@dataclass(slots=True)
class World:
    """Places, names, and the ids that were told; its lists are changed under the lock only."""

    places: list[Place]
    history: History
    run: str
    admin: str = ""
    system: str = ""
    system_auth: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    project: str = ""
    role: str = ""
    stable: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in _CREATED})
    secrets: dict[str, int] = field(default_factory=dict)
    gone: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[Held] = field(default_factory=list)
    position: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def controllers(self) -> list[Place]:
        return [place for place in self.places if place.is_controller]

    @property
    def sites(self) -> list[Place]:
        return [place for place in self.places if not place.is_controller]

    def secret(self, number: int) -> str:
        """The password that goes by this number."""
        return f"{self.run}-{number}"

    def pick(self, chance: random.Random, table: str) -> str | None:
        """Something that was created and not deleted, as far as anybody was told."""
        with self.lock:
            return chance.choice(self.ids[table]) if self.ids[table] else None

    def made(self, table: str, key: str, secret: int = 0) -> None:
        with self.lock:
            self.ids[table].append(key)
            if secret:
                self.secrets[key] = secret

    def dropped(self, table: str, key: str) -> None:
        with self.lock:
            if key in self.ids[table]:
                self.ids[table].remove(key)
            self.gone = [*self.gone[-20:], (table, key)]


class Client:
    """One caller with its own chance; does operations and records them."""

    def __init__(self, world: World, name: str, seed: str) -> None:
        self.world = world
        self.name = name
        self.chance = random.Random(f"{seed}/{name}")
        self.caller = Caller(self.chance.choice(_PATIENCE_S))

    def anywhere(self) -> Place:
        """A controller as often as all sites together."""
        world = self.world
        return self.chance.choice(world.controllers if self.chance.random() < 0.5 else world.sites)

    def floor(self) -> int:
        """Now and then the highest position that anybody has heard of."""
        return self.world.position if self.chance.random() < 0.3 else 0

    def do(
        self,
        kind: str,
        place: Place,
        method: str,
        path: str,
        body: Any = None,
        *,
        table: str = "",
        key: str = "",
        sent: dict[str, Any] | None = None,
        floor: int = 0,
        token: str | None = None,
        subject: str = "",
    ) -> tuple[Did, Answer]:
        """Ask and record; what a read has shown is recorded by `shown`."""
        history = self.world.history
        began = history.now()
        answer = self.caller.ask(
            place,
            method,
            path,
            body,
            X_Auth_Token=self.world.admin if token is None else token,
            X_Subject_Token=subject,
            X_RK_Position=str(floor) if floor else "",
        )
        did = Did(
            number=history.number(),
            client=self.name,
            place=place.name,
            kind=kind,
            table=table,
            key=key,
            began=began,
            ended=history.now(),
            outcome=answer.outcome,
            status=answer.status,
            sent=sent or {},
            floor=floor,
            position=answer.position,
            request=answer.headers.get("x-openstack-request-id", ""),
            retry_after=answer.headers.get("retry-after", ""),
            said=answer.said,
        )
        return did, answer

    def add(self, did: Did) -> Did:
        """Into the history; what was answered with a position is known to all clients."""
        self.world.history.add(did)
        if did.outcome == OK and did.position > self.world.position:
            self.world.position = did.position
        return did

    # records ---------------------------------------------------------------------------------------------------------

    def create(self, table: str, name: str, place: Place) -> Did:
        """A user, project or group with this name."""
        world, stamp = self.world, self.world.history.number()
        sent: dict[str, Any] = {"name": name, "stamp": stamp, "mail": f"{name}@{stamp}"}
        body = {"name": name, "domain_id": world.domain, "stamp": stamp, "mail": sent["mail"]}
        if table == "users":
            sent |= {"secret": stamp, "enabled": True}
            body["password"] = world.secret(stamp)
        did, answer = self.do("create", place, "POST", f"/v3/{table}", {_CREATED[table]: body}, table=table, sent=sent)
        if did.outcome == OK:
            did.key = answer.body[_CREATED[table]]["id"]
            world.made(table, did.key, stamp if table == "users" else 0)
        return self.add(did)

    def change(self, table: str, key: str, place: Place, **sent: Any) -> Did:
        """Change these fields, and the stamp with them."""
        stamp = self.world.history.number()
        sent |= {"stamp": stamp, "mail": f"{key}@{stamp}"}
        body = {name: value for name, value in sent.items() if name != "secret"}
        if "secret" in sent:
            sent["secret"] = stamp
            body["password"] = self.world.secret(stamp)
        path, wrapped = f"/v3/{table}/{key}", {_CREATED[table]: body}
        did, _ = self.do("change", place, "PATCH", path, wrapped, table=table, key=key, sent=sent)
        if did.outcome == OK and "secret" in sent:
            self.world.secrets[key] = stamp
        return self.add(did)

    def password(self, key: str, place: Place) -> Did:
        """A user changes its own password, which needs no token."""
        stamp, old = self.world.history.number(), self.world.secrets.get(key, 0)
        body = {"user": {"password": self.world.secret(stamp), "original_password": self.world.secret(old)}}
        path, sent = f"/v3/users/{key}/password", {"stamp": stamp, "secret": stamp}
        did, _ = self.do("password", place, "POST", path, body, table="passwords", key=key, sent=sent, token="")
        if did.outcome == OK:
            self.world.secrets[key] = stamp
        return self.add(did)

    def delete(self, table: str, key: str, place: Place) -> Did:
        did, _ = self.do("delete", place, "DELETE", f"/v3/{table}/{key}", table=table, key=key)
        if did.outcome == OK or did.status == 404:
            self.world.dropped(table, key)
        return self.add(did)

    def show(self, table: str, key: str, place: Place, floor: int = 0) -> Did:
        did, answer = self.do("show", place, "GET", f"/v3/{table}/{key}", table=table, key=key, floor=floor)
        if did.outcome == OK:
            did.got = fields(answer.body[_CREATED[table]])
        return self.add(did)

    def named(self, table: str, name: str, place: Place, floor: int = 0) -> Did:
        """Which ids have this name."""
        path = f"/v3/{table}?domain_id={self.world.domain}&name={name}"
        did, answer = self.do("named", place, "GET", path, table=table, sent={"name": name}, floor=floor)
        if did.outcome == OK:
            did.got = [one["id"] for one in answer.body[table]]
        return self.add(did)

    def list(self, table: str, place: Place, floor: int = 0) -> Did:
        """All of them, as they are shown."""
        path = f"/v3/{table}?domain_id={self.world.domain}"
        did, answer = self.do("list", place, "GET", path, table=table, floor=floor)
        if did.outcome == OK:
            did.got = {one["id"]: fields(one) for one in answer.body[table]}
        return self.add(did)

    # links -----------------------------------------------------------------------------------------------------------

    def link(self, kind: str, table: str, key: str, place: Place, floor: int = 0) -> Did:
        """`link`, `unlink` or `linked`: a user's role in a project, a user in a group."""
        method = {"link": "PUT", "unlink": "DELETE", "linked": "HEAD"}[kind]
        left, right = key.split("/")
        path = f"/v3/projects/{right}/users/{left}/roles/{self.world.role}"
        if table == "memberships":
            path = f"/v3/groups/{left}/users/{right}"
        did, _ = self.do(kind, place, method, path, table=table, key=key, floor=floor)
        return self.add(did)

    # tokens ----------------------------------------------------------------------------------------------------------

    def login(self, user: str, secret: int, place: Place, **more: Any) -> tuple[Did, Held | None]:
        """A token by password; `project` scopes it, `edge` names the grant that it lives by."""
        floor = self.floor()
        auth = password("", self.world.secret(secret), "")
        auth["identity"]["password"]["user"] = {"id": user, "password": self.world.secret(secret)}
        if "project" in more:
            auth["scope"] = {"project": {"id": more["project"]}}
        sent = {"user": user, "secret": secret, **more}
        path = "/v3/auth/tokens?nocatalog"
        did, answer = self.do("login", place, "POST", path, {"auth": auth}, sent=sent, floor=floor, token="")
        held = None
        if did.outcome == OK:
            held = _held(answer)
            did.key = held.key
            self.world.tokens.append(held)
        return self.add(did), held

    def validate(self, held: Held, place: Place, floor: int = 0) -> Did:
        path = "/v3/auth/tokens" if self.chance.random() < 0.5 else "/v3/auth/tokens?nocatalog"
        did, _ = self.do("validate", place, "GET", path, key=held.key, floor=floor, subject=held.text)
        return self.add(did)

    def login_system(self, place: Place) -> Did:
        """The administrator's next system-scoped token, which no place has remembered yet."""
        body = {"auth": self.world.system_auth}
        did, answer = self.do("login system", place, "POST", "/v3/auth/tokens?nocatalog", body, token="")
        if did.outcome == OK:
            self.world.system = answer.headers["x-subject-token"]
        return self.add(did)

    def validate_system(self, place: Place) -> Did:
        """The administrator's system-scoped token, which is worth something only where knowledge is fresh."""
        did, _ = self.do("validate system", place, "GET", "/v3/auth/tokens?nocatalog", subject=self.world.system)
        return self.add(did)

    def revoke(self, held: Held, place: Place) -> Did:
        sent = {"audit": held.audit}
        did, _ = self.do("revoke", place, "DELETE", "/v3/auth/tokens", key=held.key, sent=sent, subject=held.text)
        return self.add(did)


def fields(shown: dict[str, Any]) -> dict[str, Any]:
    """What the checker asks of a record."""
    return {name: shown.get(name) for name in ("name", "enabled", "mail")} | {"stamp": shown.get("stamp", 0)}


def set_up(world: World, admin_password: str) -> None:
    """A domain of our own with users that are only ever revoked, users whose grants change, and a role for both."""
    client, place = Client(world, "setup", "0"), world.controllers[0]
    auth = password("admin", admin_password, "default")
    scopes = {"admin": {"project": {"name": "admin", "domain": {"id": "default"}}}, "system": {"system": {"all": True}}}
    world.system_auth = auth | {"scope": scopes["system"]}
    for name, scope in scopes.items():
        answer = insist(
            lambda body=auth | {"scope": scope}: client.caller.ask(place, "POST", "/v3/auth/tokens", {"auth": body})
        )
        setattr(world, name, answer.headers["x-subject-token"])
    make = Making(client, place)
    world.domain = make("domain", "/v3/domains", name=f"faults-{world.run}")
    world.project = make("project", "/v3/projects", name="base", domain_id=world.domain)
    found = insist(lambda: client.caller.ask(place, "GET", "/v3/roles?name=member", X_Auth_Token=world.admin))
    world.role = found.body["roles"][0]["id"]
    for number in range(STABLE + GRANTED):
        stamp = world.history.number()
        fixed = {"domain_id": world.domain, "password": world.secret(stamp)}
        user = make("user", "/v3/users", name=f"fixed-{number}", **fixed)
        world.secrets[user] = stamp
        (world.stable if number < STABLE else world.granted).append(user)
        if number < STABLE:
            path = f"/v3/projects/{world.project}/users/{user}/roles/{world.role}"
            insist(lambda path=path: client.caller.ask(place, "PUT", path, X_Auth_Token=world.admin))
    client.caller.close()


class Making:
    """Makes a record that is never touched again."""

    def __init__(self, client: Client, place: Place) -> None:
        self._client, self._place = client, place

    def __call__(self, kind: str, path: str, **sent: Any) -> str:
        world = self._client.world
        attempts = itertools.count()

        def attempt() -> Answer:
            body = {kind: sent | {"name": f"{sent['name']}-{next(attempts)}"}}  # the one before may have been made
            return self._client.caller.ask(self._place, "POST", path, body, X_Auth_Token=world.admin)

        answer = insist(attempt)
        world.position = max(world.position, answer.position)
        return str(answer.body[kind]["id"])


def insist(attempt: Callable[[], Answer]) -> Answer:
    """The first answer that is a success: a federation that has just begun may need a moment."""
    end = time.monotonic() + 60
    while (answer := attempt()).outcome != OK:
        if time.monotonic() > end:
            raise RuntimeError(f"the federation does not serve: {answer.status} {answer.said}")
        time.sleep(0.5)
    return answer


def names(table: str) -> Sequence[str]:
    """The few names that all clients fight for."""
    return [f"{table[0]}{number}" for number in range(NAMES)]


def _held(answer: Answer) -> Held:
    text = answer.headers["x-subject-token"]
    return Held(hashlib.sha256(text.encode()).hexdigest()[:16], text, answer.body["token"]["audit_ids"][0])
