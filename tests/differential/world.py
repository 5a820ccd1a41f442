"""The world in which both sides are asked: who is in it, who asks, and how a fresh object is made for a cell.

Everything is made through the API, by the bootstrapped administrator, on both sides alike.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.differential.servers import PASSWORD
from tests.differential.side import Request, Side
from tests.golden.record_upstream import normalise

ROLES = ("admin", "manager", "member", "reader", "service")
WORD = "pw-1234"


class Made(NamedTuple):
    """How an object is made: its id is at `where` in the answer; `#` in the body becomes a name of its own."""

    method: str
    path: str
    body: object = None
    where: str = ""
    remove: str = ""
    by: str = "cloud-admin"


class Persona(NamedTuple):
    """Somebody who asks. Without `scope` the token is unscoped; `role` is granted on the scope."""

    name: str
    scope: str = ""
    role: str = ""
    domain: str = "alpha"


_TARGETS = {
    "system": ("/system", {"system": {"all": True}}),
    "alpha": ("/domains/<alpha>", {"domain": {"id": "<alpha>"}}),
    "beta": ("/domains/<beta>", {"domain": {"id": "<beta>"}}),
    "project": ("/projects/<project>", {"project": {"id": "<project>"}}),
    "foreign": ("/projects/<foreign>", {"project": {"id": "<foreign>"}}),
}
PERSONAS = (
    *(Persona(f"system-{role}", "system", role) for role in ("admin", "manager", "member", "reader", "service")),
    *(Persona(f"domain-{role}", "alpha", role) for role in ("admin", "manager", "member", "reader")),
    *(Persona(f"project-{role}", "project", role) for role in ROLES),
    Persona("foreign-manager", "beta", "manager", "beta"),
    Persona("foreign-reader", "foreign", "reader", "beta"),
)
DELEGATED = ("trust", "impersonation", "app-cred", "app-cred-unrestricted", "app-cred-rules")
NAMES = ("cloud-admin", *(one.name for one in PERSONAS), "owner", "unscoped", *DELEGATED, "anonymous", "garbage")


LIMITED = {"service_id": "<service>", "region_id": "<region>", "resource_name": "known"}


def _named(kind, symbol, **attributes):
    return symbol, Made("POST", f"/{kind}s", {kind: {"name": f"world-{symbol}", **attributes}}, f"{kind}.id")


WORLD = (
    _named("domain", "alpha", description="ours"),
    _named("domain", "beta"),
    _named("project", "project", domain_id="<alpha>", tags=["blue", "green"]),
    _named("project", "child", domain_id="<alpha>", parent_id="<project>"),
    _named("project", "foreign", domain_id="<beta>"),
    _named("role", "role", description="special"),
    _named("role", "domain_role", domain_id="<alpha>"),
    _named("user", "user", domain_id="<alpha>", password=WORD, email="user@example.org"),
    _named("user", "other", domain_id="<alpha>", password=WORD),
    _named("user", "stranger", domain_id="<beta>", password=WORD),
    _named("group", "group", domain_id="<alpha>"),
    _named("group", "strangers", domain_id="<beta>"),
    ("", Made("PUT", "/groups/<group>/users/<user>")),
    ("", Made("PUT", "/projects/<project>/users/<user>/roles/<r_member>")),
    ("", Made("PUT", "/projects/<project>/groups/<group>/roles/<role>")),
    ("region", Made("POST", "/regions", {"region": {"id": "world-region"}}, "region.id")),
    _named("service", "service", type="compute"),
    (
        "endpoint",
        Made(
            "POST",
            "/endpoints",
            {"endpoint": {"service_id": "<service>", "interface": "public", "url": "http://c/$(project_id)s"}},
            "endpoint.id",
        ),
    ),
    ("", Made("POST", "/registered_limits", {"registered_limits": [{**LIMITED, "default_limit": 10}]})),
)


class Unmakable(Exception):
    """A side refuses what a cell needs; `alike`: both do, with the same status, so that there is nothing to ask."""

    def __init__(self, message, *, alike=False):
        super().__init__(message)
        self.alike = alike


class Stage:
    """Both sides, with the same world on each."""

    def __init__(self, theirs, ours):
        self.sides = (Side(theirs), Side(ours))
        self._pool = ThreadPoolExecutor(2)
        self._made = {}
        self._count = 0
        self.absent = {}  # persona -> why it cannot be had

    def close(self):
        self._pool.shutdown()

    def both(self, request):
        """(theirs, ours)"""
        return tuple(self._pool.map(lambda side: side.ask(request), self.sides))

    def build(self, makers):
        """Make the world and everybody in it; `makers`: how cells' objects are made."""
        self.makers = makers
        self.login("cloud-admin", {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}, "admin")
        self._learn("/roles", "roles", {f"r_{role}": role for role in ROLES})
        self._learn("/users?name=admin", "users", {"admin_user": "admin"})
        self._learn("/projects?name=admin", "projects", {"admin_project": "admin"})
        self._learn("/services", "services", {"identity": "keystone"})
        for symbol, made in WORLD:
            self._play(symbol, made)
        for one in PERSONAS:
            self._enter(one)
        user = {"id": "<user>", "password": WORD}
        self.login("owner", user, {"project": {"id": "<project>"}})
        self.login("unscoped", user)
        self._delegate()

    def _learn(self, path, collection, names):
        for side, answer in zip(
            self.sides, self.both(Request("GET", f"/v3{path}", headers=token("cloud-admin"))), strict=True
        ):
            for symbol, name in names.items():
                side.bind(symbol, next(one["id"] for one in answer.raw[collection] if one["name"] == name))

    def _enter(self, persona):
        symbol = f"u_{persona.name}"
        attributes = {"name": persona.name, "domain_id": f"<{persona.domain}>", "password": WORD}
        self._play(symbol, Made("POST", "/users", {"user": attributes}, "user.id"))
        path, scope = _TARGETS[persona.scope]
        self._play("", Made("PUT", f"{path}/users/<{symbol}>/roles/<r_{persona.role}>"))
        self.login(persona.name, {"id": f"<{symbol}>", "password": WORD}, scope)

    def login(self, persona, user, scope=None):
        if scope == "admin":
            scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        self._login(persona, {"identity": identity, **({"scope": scope} if scope else {})})

    def _login(self, persona, auth):
        for side, answer in zip(self.sides, self.both(Request("POST", "/v3/auth/tokens", {"auth": auth})), strict=True):
            if not answer.ok:
                raise Unmakable(f"login of {persona}: {answer.status} {answer.raw}")
            side.bind(f"token:{persona}", answer.headers["x-subject-token"])

    def _delegate(self):
        """Tokens made from a trust and from application credentials, where they are served."""
        for name in DELEGATED:
            try:
                if name in ("trust", "impersonation"):
                    self._trust(name)
                else:
                    self._credential(name)
            except Unmakable as why:
                self.absent[name] = str(why)[:200]

    def _trust(self, name):
        trust = {
            "trustor_user_id": "<user>",
            "trustee_user_id": "<other>",
            "impersonation": name == "impersonation",
            "project_id": "<project>",
            "roles": [{"id": "<r_member>"}],
        }
        self._play(f"t_{name}", Made("POST", "/OS-TRUST/trusts", {"trust": trust}, "trust.id", by="owner"))
        identity = {"methods": ["password"], "password": {"user": {"id": "<other>", "password": WORD}}}
        self._login(name, {"identity": identity, "scope": {"OS-TRUST:trust": {"id": f"<t_{name}>"}}})

    def _credential(self, name):
        about = {"name": name, "secret": WORD, "unrestricted": name == "app-cred-unrestricted"}
        if name == "app-cred-rules":
            about["access_rules"] = [{"service": "identity", "method": "GET", "path": "/v3/users"}]
        made = Made(
            "POST",
            "/users/<user>/application_credentials",
            {"application_credential": about},
            "application_credential.id",
            by="owner",
        )
        self._play(f"c_{name}", made)
        method = "application_credential"
        self._login(name, {"identity": {"methods": [method], method: {"id": f"<c_{name}>", "secret": WORD}}})

    def _play(self, symbol, made):
        answers = self.both(self._request(made))
        if not any(one.ok for one in answers) and len({one.status for one in answers}) == 1:
            raise Unmakable(f"both refuse {made.method} {made.path}: {answers[0].raw}", alike=True)
        for side, answer in zip(self.sides, answers, strict=True):
            if not answer.ok:
                whose = "theirs" if side is self.sides[0] else "ours"
                raise Unmakable(f"{whose} refuses {made.method} {made.path}: {answer.status} {answer.raw}")
            if made.where.startswith("header:"):
                side.bind(symbol, answer.headers[made.where[7:]])
            elif made.where:
                side.bind(symbol, normalise.pick(answer.raw, made.where))

    def _request(self, made):
        self._count += 1
        name = f"made{self._count}"
        return Request(made.method, f"/v3{named(made.path, name)}", named(made.body, name), token(made.by))

    def need(self, name):
        """Have a fresh object of this kind, and what it needs itself."""
        if name in self._made:
            return
        made = self.makers[name]
        needs = needed(made.path) | needed(made.body)
        for one in needs:
            self.need(one)
        self._play(f"new:{name}", made)
        self._made[name] = needs

    def spend(self, names):
        """Forget these objects and all that was made of them, and remove them on both sides."""
        names = set(names)
        while more := {one for one, needs in self._made.items() if needs & names} - names:
            names |= more
        for one in [one for one in reversed(self._made) if one in names]:
            self.remove(self.makers[one].remove)
            del self._made[one]

    def spend_all(self):
        self.spend(tuple(self._made))

    def remove(self, path, sides=None):
        """Remove what may or may not be there."""
        if path:
            list(self._pool.map(lambda side: _remove(side, path), self.sides if sides is None else sides))


def _remove(side, path):
    """A domain is disabled first."""
    if path.startswith("/domains/") and path.count("/") == 2:
        side.ask(Request("PATCH", f"/v3{path}", {"domain": {"enabled": False}}, token("cloud-admin")))
    side.ask(Request("DELETE", f"/v3{path}", headers=token("cloud-admin")))


def needed(data):
    """The kinds of fresh objects that a path or body speaks of."""
    if isinstance(data, str):
        return {part.partition(">")[0] for part in data.split("<new:")[1:]}
    if isinstance(data, dict):
        return needed(list(data.items()))
    if isinstance(data, list | tuple):
        return set().union(*(needed(one) for one in data))
    return set()


def named(data, name):
    """The same with `#` replaced by a name."""
    if isinstance(data, str):
        return data.replace("#", name)
    if isinstance(data, list):
        return [named(one, name) for one in data]
    if isinstance(data, dict):
        return {key: named(value, name) for key, value in data.items()}
    return data


def token(persona):
    """The headers with which a persona asks."""
    if persona == "anonymous":
        return {}
    return {"X-Auth-Token": "garbage" if persona == "garbage" else f"<token:{persona}>"}
