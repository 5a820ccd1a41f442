"""What is asked: resources, edges and single requests as tables, spread into cases; a case by a persona is a cell.

`<name>` stands for an id of the world, `<new:kind>` for an object made for the cell, `#` for a name of its own.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tests.differential.world import NAMES, Made

ROUTES = Path(__file__).parents[1] / "golden" / "upstream_routes.txt"
ALL = NAMES
FEW = ("cloud-admin", "domain-manager", "owner", "anonymous")
ADMIN = ("cloud-admin",)
SOME = (
    "cloud-admin",
    "system-reader",
    "system-admin",
    "domain-manager",
    "project-reader",
    "owner",
    "app-cred-rules",
    "anonymous",
)
STRANGERS = ("cloud-admin", "anonymous")
LONG = "x" * 256
WRONG = (None, "", " ", 5, True, [], {}, LONG)
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request, asked by each of the personas.

    `made`: where the id of a new object is ("": the path has none), and its path to remove it.
    """

    section: str
    kind: str
    method: str
    path: str
    body: object = None
    raw: str | None = None
    headers: dict = field(default_factory=dict)
    needs: tuple = ()
    made: tuple = ()
    personas: tuple = ALL

    @property
    def name(self):
        return f"{self.method} {self.path} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A resource: how one is made and changed, and which of its attributes are tried with wrong values."""

    section: str
    path: str
    member: str
    create: dict
    update: dict
    attributes: str = ""
    required: str = ""
    queries: str = ""
    listed: str = ""  # instead of "wrapper": bodies hold a list of these
    put: bool = False  # a client chooses the id
    parent: str = ""  # the kind of fresh object in the path, if any
    by: str = "cloud-admin"
    listing: bool = True
    showing: bool = True
    patch: bool = True
    remove: bool = True

    @property
    def new(self):
        return self.member

    def wrap(self, value):
        return {self.listed: [value]} if self.listed else {self.member: value}

    @property
    def where(self):
        return f"{self.listed}.0.id" if self.listed else f"{self.member}.id"

    @property
    def one(self):
        return f"{self.path}/<new:{self.new}>"

    @property
    def maker(self):
        path = f"{self.path}/#" if self.put else self.path
        remove = self.one if self.remove else ""
        return Made("PUT" if self.put else "POST", path, self.wrap(self.create), self.where, remove, self.by)

    def cases(self):
        yield from self._reads()
        yield from self._creations()
        if self.patch:
            yield from self._changes()
        if self.remove:
            yield self._case("remove", "DELETE", self.one)
            yield self._case("remove unknown", "DELETE", f"{self.path}/<gone>", personas=FEW)

    def _case(self, kind, method, path, **more):
        return Case(section=self.section, kind=kind, method=method, path=path, **more)

    def _reads(self):
        if self.listing:
            yield self._case("list", "GET", self.path, needs=(self.new,))
            yield self._case("list", "HEAD", self.path, personas=FEW)
            for query in self.queries.split():
                yield self._case("query", "GET", f"{self.path}?{query}", needs=(self.new,), personas=FEW)
        if self.showing:
            yield self._case("show", "GET", self.one)
            yield self._case("show", "HEAD", self.one, personas=FEW)
            yield self._case("show with query", "GET", f"{self.one}?x=y", personas=ADMIN)
            yield self._case("show unknown", "GET", f"{self.path}/<gone>", personas=FEW)

    def _creations(self):
        method = "PUT" if self.put else "POST"
        path = f"{self.path}/#" if self.put else self.path
        made = (self.where, f"{self.path}/<made>") if self.remove else ()
        yield self._case("create", method, path, body=self.wrap(self.create), made=made)
        for kind, body in self._bad_bodies(self.create):
            yield self._case(f"create {kind}", method, path, made=made, personas=FEW, **body)
        for name in self.required.split():
            body = {key: value for key, value in self.create.items() if key != name}
            yield self._case(f"create without {name}", method, path, body=self.wrap(body), made=made, personas=ADMIN)
        for kind, body in _wrong(self.create, self.attributes):
            yield self._case(f"create {kind}", method, path, body=self.wrap(body), made=made, personas=ADMIN)

    def _changes(self):
        body = {self.member: self.update}
        yield self._case("change", "PATCH", self.one, body=body)
        yield self._case("change unknown", "PATCH", f"{self.path}/<gone>", body=body, personas=FEW)
        for kind, bad in self._bad_bodies(self.update, {self.member: {}}):
            yield self._case(f"change {kind}", "PATCH", self.one, personas=FEW, **bad)
        for kind, wrong in _wrong({}, self.attributes):
            yield self._case(f"change {kind}", "PATCH", self.one, body={self.member: wrong}, personas=ADMIN)
        other = {self.member: {**self.update, "id": "<gone>"}}
        yield self._case("change other id", "PATCH", self.one, body=other, personas=ADMIN)

    def _bad_bodies(self, good, like=None):
        """Bodies that are wrong as a whole."""
        wrapper = next(iter(like or self.wrap({})))
        yield "no body", {}
        yield "empty object", {"body": {}}
        for name, value in (("null", None), ("text", "x"), ("list", []), ("empty", {}), ("number", 5)):
            yield f"{name} member", {"body": {wrapper: value}}
        yield "wrong wrapper", {"body": {"other": good}}
        yield "two wrappers", {"body": {**({wrapper: good} if like else self.wrap(good)), "other": 1}}
        more = {**good, "unheard_of": "x"}
        yield "unknown attribute", {"body": {wrapper: more} if like else self.wrap(more)}
        for name, raw in (("array", "[]"), ("half", '{"'), ("scalar", "5"), ("null", "null")):
            yield f"raw {name}", {"raw": raw}
        yield "as text", {"raw": "{}", "headers": {"Content-Type": "text/plain"}}


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What is put between things: PUT, GET, HEAD, DELETE of one path, and perhaps its list."""

    section: str
    path: str
    listing: str = ""
    verbs: str = "PUT GET HEAD DELETE"

    @property
    def maker(self):
        return Made("PUT", self.path, remove=self.path)

    @property
    def new(self):
        return f"edge:{self.path}".translate(str.maketrans("", "", "<>"))

    def cases(self):
        verbs = self.verbs.split()
        for method in verbs:
            needs, made = ((), ("", self.path)) if method == "PUT" else ((self.new,), ())
            yield Case(section=self.section, kind="edge", method=method, path=self.path, needs=needs, made=made)
        parts = self.path.split("/")
        holes = [place for place, part in enumerate(parts) if part.startswith("<")]
        for place in holes:
            path = "/".join([*parts[:place], "<gone>", *parts[place + 1 :]])
            for method in verbs:
                yield Case(
                    section=self.section,
                    kind=f"edge unknown {parts[place]}",
                    method=method,
                    path=path,
                    made=("", path) if method == "PUT" else (),
                    personas=FEW,
                )
        for method in ("GET", "HEAD", "DELETE"):
            if method in verbs:
                yield Case(section=self.section, kind="edge missing", method=method, path=self.path, personas=FEW)
        if self.listing:
            yield Case(section=self.section, kind="edges", method="GET", path=self.listing, needs=(self.new,))
            yield Case(section=self.section, kind="edges", method="HEAD", path=self.listing, personas=ADMIN)


def _wrong(base, attributes):
    for name in attributes.split():
        for value in WRONG:
            shown = "long" if value is LONG else repr(value)
            yield f"{name}={shown}", {**base, name: value}


def routes():
    """(path with {arguments}, methods, endpoint) of everything that Keystone 30.0.0 answers."""
    for line in ROUTES.read_text().splitlines():
        if line.startswith("/"):
            path, methods, endpoint = (part.strip() for part in line.split("|"))
            yield path, methods.split(","), endpoint


def bare(path):
    """A route's path with an id that names nothing in place of each argument."""
    return "/".join("<gone>" if part.startswith("<") else part for part in path.split("/")).removeprefix("/v3") or "/"


def everywhere():
    """Every route and method with unknown ids by everybody, and the methods that it does not have."""
    for path, methods, endpoint in routes():
        if endpoint == "static" or path == "/":
            continue
        section = "routes"
        for method in [one for one in methods if one not in ("OPTIONS", "HEAD")]:
            made = ("", bare(path)) if method == "PUT" else ()
            if path.endswith("consumers"):
                made = ("consumer.id", f"{bare(path)}/<made>")
            yield Case(section=section, kind="unknown ids", method=method, path=bare(path), made=made, personas=SOME)
        for method in [one for one in VERBS if one not in methods]:
            yield Case(section=section, kind="no such method", method=method, path=bare(path), personas=STRANGERS[:1])
        yield Case(section=section, kind="options", method="OPTIONS", path=bare(path), personas=("anonymous",))
        yield Case(section=section, kind="trailing slash", method="GET", path=bare(path) + "/", personas=ADMIN)
