"""Resource and Edge become Routes: one handler per verb, the same for every record.

Checks of uniqueness and references read through the call, so that of several who race exactly one wins.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from regional_keystone.api import lists
from regional_keystone.api.fields import attributes_of, built, parted, schema_of, shown, split
from regional_keystone.api.lists import listing
from regional_keystone.api.rules import SWITCH
from regional_keystone.api.shapes import Attributes, Call, Edge, Resource, Result, Route, Shape
from regional_keystone.errors import Conflict, Invalid, NotFound
from regional_keystone.log import Change, Put, put, remove
from regional_keystone.record import TABLES, R, Record, facts

__all__ = ["allowed", "check_references", "check_unique", "found_or_refused", "listing", "named", "routes", "seen"]
_ROWS = 500  # that are in memory at a time while a table is read through
_ROWS_LIKE = 5000  # of those that the store has sifted: it may read all of a table for each of these pages


def routes(shapes: Iterable[Shape]) -> list[Route]:
    """Every method and path that these shapes answer."""
    shapes = list(shapes)
    far = {one.record: one for one in shapes if isinstance(one, Resource)}
    found: list[Route] = []
    for one in shapes:
        match one:
            case Resource():
                found += _Verbs(one).routes()
            case Edge():
                found += _Links(one, far).routes()
            case Route():
                found.append(one)
    return found


async def seen(call: Call, resource: Resource, record: Record) -> Attributes:
    """What a client sees of one record of a resource, with the link to itself."""
    found = shown(record)
    if resource.show:
        found = await resource.show(call, record, found)
    place = (resource.path or f"/{resource.collection}").format(**call.path)
    return {**found, "links": {"self": call.url(f"{place}/{found['id']}")}}


def named(table: str) -> str:
    """What one row of a table is called in messages."""
    return table.removesuffix("s")


async def found_or_refused(call: Call, kind: type[R], key: str, word: str = "") -> R:
    """The record with this id. Raises NotFound, naming it as upstream does."""
    record = await call.reader.get(kind, key)
    if record is None:
        raise NotFound(f"Could not find {word or named(facts(kind).name)}: {key}.")
    return record


async def allowed(call: Call, kind: type[R], word: str, action: str, check: Callable[[], None] = lambda: None) -> R:
    """The record that the path names, if the caller may do this to it; whether it is there is told last.

    `check` is of what was sent, for those who may.
    """
    key = call.path[f"{word}_id"]
    found = await call.reader.get(kind, key)
    call.enforce(f"identity:{action}", {"target": {word: shown(found)}} if found else {})
    check()
    if found is None:
        raise NotFound(f"Could not find {word}: {key}.")
    return found


class _Verbs:
    """The handlers of one Resource."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.table = facts(resource.record)
        self.argument = f"{resource.member}_id"
        self.schema = schema_of(resource.record, resource.accepts)

    def routes(self) -> list[Route]:
        whole = self.resource.path or f"/{self.resource.collection}"
        one = f"{whole}/{{{self.argument}}}"
        late = self.resource.late
        created = parted(self._body({"required": self._required()}, self.schema), late.get("create", ""))
        changed = parted(self._body({"minProperties": self.resource.least}, self._free()), late.get("update", ""))
        query = {name: self._asked(name) for name in self.resource.filters.split()}
        every = {
            "create": Route(method="POST", path=whole, handle=self.create, changes="log", **created),
            "list": Route(method="GET", path=whole, handle=self.every, query=query),
            "show": Route(method="GET", path=one, handle=self.show),
            "put": Route(method="PUT", path=one, handle=self.create, changes="log", **created),
            "update": Route(method="PATCH", path=one, handle=self.update, changes="log", **changed),
            "delete": Route(method="DELETE", path=one, handle=self.delete, changes="log"),
        }
        return [every[verb] for verb in self.resource.verbs.split()]

    async def create(self, call: Call) -> Result:
        sent = {name.replace(":", "_").replace("-", "_"): v for name, v in self._sent(call).items()}
        fields, _ = split(self.resource.record, sent)
        self._enforce(call, "create", fields)
        sent |= self._named_by_client(call, sent)
        attributes = {**(await self._prepared(call, None, sent)), **self.resource.fixed}
        new = built(self.resource.record, {"id": call.fresh(self.resource.member), **attributes})
        changes = await self._checked(call, None, new)
        return Result(status=201, body=await self._member(call, new), changes=(*changes, put(new)))

    def _sent(self, call: Call) -> Attributes:
        """What a client sent, which may not have been looked at yet: then what is no object says nothing."""
        found = call.body.get(self.resource.member)
        return found if isinstance(found, dict) else {}

    async def every(self, call: Call) -> Result:
        domain = call.caller.domain if self.resource.domain else None
        about = {"id": domain.id, "domain_id": domain.id} if domain else {}
        target = {**about, self.resource.member: about} if domain else {}
        call.enforce(f"identity:list_{self._word(dict(call.request.query))}s", {"target": target})
        rules = lists.of_domain(call, self.resource.domain), self.resource.only and self.resource.only(call)
        asked = lists.wanted(call, self.resource.collection, self.resource.filters, *rules)
        rows = [await seen(call, self.resource, row) for row in await self._found(call, asked)]
        return Result(body=lists.body(call, self.resource.collection, rows, asked))

    async def show(self, call: Call) -> Result:
        old = await self._allowed(call, "get")
        return Result(body=await self._member(call, old))

    async def update(self, call: Call) -> Result:
        old = await self._allowed(call, "update")
        sent = call.body[self.resource.member]
        if sent.get("id") is not None and sent["id"] != call.path[self.argument]:
            raise Invalid("Cannot change ID")
        attributes = await self._prepared(call, old, sent)
        self._check_fixed(old, attributes)
        new = built(self.resource.record, {**attributes_of(old), **attributes, **self._fixed_of(old)})
        changes = await self._checked(call, old, new)
        if new != old:
            changes = (*changes, put(new, old))
        return Result(body=await self._member(call, new), changes=changes)

    async def delete(self, call: Call) -> Result:
        old = await self._allowed(call, "delete")
        changes = await self.resource.hook(call, old, None)
        return Result(status=204, changes=(*changes, remove(old)))

    def _asked(self, name: str) -> Mapping[str, Any]:
        found = self.resource.asks.get(name, self.schema[name])
        return SWITCH if found.get("type") == ("boolean",) else found

    def _free(self) -> dict[str, Any]:
        """The schema of what a change may say anything about: what is fixed must stay, whatever is said."""
        fixed = {name for name, field in self.table.fields.items() if "fixed" in field.marks and name != "id"}
        return {name: schema for name, schema in self.schema.items() if name not in fixed}

    def _body(self, rules: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
        inner = {"type": ("object",), "properties": properties, **rules}
        member = self.resource.member
        outer = {"properties": {member: inner}, "required": (member,), "additionalProperties": False}
        return {"type": ("object",), **outer}

    def _required(self) -> tuple[str, ...]:
        kind = self.resource.record
        defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
        asked = [name for name in self.schema if name in self.table.fields and name not in {"id", *defaults}]
        return tuple(sorted(name for name in asked if name != self.resource.domain))

    def _named_by_client(self, call: Call, sent: Attributes) -> Attributes:
        """The id in the path of a PUT, which one in the body must not contradict."""
        wanted = call.path.get(self.argument)
        if wanted is None:
            return {}
        if sent.get("id", wanted) != wanted:
            raise Invalid(f'Conflicting {self.resource.member} IDs specified: "{wanted}" != "{sent["id"]}"')
        return {"id": wanted}

    async def _prepared(self, call: Call, old: Record | None, sent: Attributes) -> Attributes:
        fields, extra = split(self.resource.record, sent)
        attributes = {**fields, **extra}
        return await self.resource.prepare(call, old, attributes) if self.resource.prepare else attributes

    def _check_fixed(self, old: Record, attributes: Attributes) -> None:
        for name, field in self.table.fields.items():
            if "fixed" in field.marks and name in attributes and attributes[name] != getattr(old, name):
                raise Invalid(f"Cannot change {name}")

    def _fixed_of(self, old: Record) -> Attributes:
        return {name: getattr(old, name) for name, field in self.table.fields.items() if "fixed" in field.marks}

    async def _checked(self, call: Call, old: Record | None, new: Record) -> tuple[Change, ...]:
        changes = tuple(await self.resource.hook(call, old, new))
        await check_unique(call, self.resource.member, old, new)
        await check_references(call, old, new, changes)
        return changes

    async def _member(self, call: Call, record: Record) -> Attributes:
        return {self.resource.member: await seen(call, self.resource, record)}

    async def _allowed(self, call: Call, verb: str) -> Record:
        """The record of the path, if the caller may do this to it; that there is none is told last, or `first`."""
        key = call.path[self.argument]
        row = await call.reader.get(self.resource.record, key)
        found = row if row is not None and self._is_here(row) else None
        if found or verb not in self.resource.first.split():
            self._enforce(call, verb, shown(found) if found else {})
        if found is None:
            raise NotFound(self.resource.missing or f"Could not find {self.resource.member}: {key}.")
        return found

    def _is_here(self, record: Record) -> bool:
        return all(getattr(record, name) == value for name, value in self.resource.fixed.items())

    def _enforce(self, call: Call, verb: str, about: Attributes) -> None:
        target = {"target": {self.resource.member: about}} if about else {}
        call.enforce(f"identity:{verb}_{self._word(about)}", target)

    def _word(self, about: Attributes) -> str:
        return self.resource.kind(about) if self.resource.kind else self.resource.member

    async def _found(self, call: Call, asked: lists.Wanted) -> list[Record]:
        """The records that are wanted, and one more if there are more."""
        if self.resource.among and (ids := await self.resource.among(call)) is not None:
            return await self._found_among(call, asked, ids)
        after = None if asked.marker is None else (asked.marker,)
        if asked.marker is not None and await call.reader.get(self.resource.record, asked.marker) is None:
            lists.check_marker(asked)
            after = None
        equals = self._narrowed(call)
        like = tuple(rule for rule in asked.like if rule.field in self.table.indexed)
        plain = not asked.rules and {name for name, _ in asked.tests} <= equals.keys() and like == asked.like
        rows_at_once = _ROWS_LIKE if like else _ROWS
        size = min(asked.limit + 1, rows_at_once) if plain and asked.limit else rows_at_once
        found: list[Record] = []
        while rows := await call.reader.page(self.resource.record, after, size, like, **equals):
            found += [row for row in rows if self._is_here(row) and asked.admits(row)]
            if asked.is_over(len(found)) or len(rows) < size:
                break
            after = self.table.key_of(rows[-1])
        return found[: asked.limit + 1] if asked.limit else found

    async def _found_among(self, call: Call, asked: lists.Wanted, ids: list[str]) -> list[Record]:
        found: list[Record] = []
        for one in lists.after(asked, ids):
            row = await call.reader.get(self.resource.record, one)
            if row is not None and self._is_here(row) and asked.admits(row):
                found.append(row)
            if asked.is_over(len(found)):
                break
        return found

    def _narrowed(self, call: Call) -> Attributes:
        """The values of the first group that the request and the caller's domain fill."""
        names = self.resource.filters.split()
        given: Attributes = {name: value for name, value in call.request.query if name in names}
        if self.resource.domain and call.caller.domain:
            given[self.resource.domain] = call.caller.domain.id
        given |= self.resource.fixed
        group = self.table.first_group(given)
        return {name: given[name] for name in group or ()}


class _Links:
    """The handlers of one Edge."""

    def __init__(self, edge: Edge, far: Mapping[type[Record], Resource]) -> None:
        self.edge = edge
        self.far = far.get(edge.ends[edge.lists]) if edge.lists else None

    def routes(self) -> list[Route]:
        path, actions = self.edge.path, self.edge.actions
        every = {
            "make": Route(method="PUT", path=path, handle=self.make, changes="log"),
            "tell": Route(method="GET", path=path, handle=self.tell),
            "break": Route(method="DELETE", path=path, handle=self.unmake, changes="log"),
        }
        found = [route for verb, route in every.items() if verb in actions]
        if "list" in actions:
            whole = path.replace(f"/{{{self.edge.lists}}}", "")
            found.append(Route(method="GET", path=whole, handle=self.every))
        return found

    async def make(self, call: Call) -> Result:
        await self._allowed(call, "make")
        old, new = await self._link(call), built(self.edge.record, self._fields(call.path))
        further = await self.edge.hook(call, old, new)
        changes = (*further, put(new)) if old is None else tuple(further)
        if self.edge.tell is None:
            return Result(status=204, changes=changes)
        return Result(status=201, body=await self.edge.tell(call, new), changes=changes)

    async def tell(self, call: Call) -> Result:
        await self._allowed(call, "tell")
        link = await self._there(call)
        if self.edge.tell is None:
            return Result(status=204)
        return Result(body=await self.edge.tell(call, link))

    async def unmake(self, call: Call) -> Result:
        await self._allowed(call, "break", may_lack=self.edge.may_lack)
        old = await self._there(call)
        further = await self.edge.hook(call, old, None)
        return Result(status=204, changes=(*further, remove(old)))

    async def every(self, call: Call) -> Result:
        await self._allowed(call, "list")
        assert self.far is not None  # noqa: S101  an Edge that lists names a Resource's record
        rules = lists.of_domain(call, self.far.domain), self.edge.only and self.edge.only(call)
        asked = lists.wanted(call, self.far.collection, self.edge.filters, *rules)
        ids = lists.after(asked, [self._far_id(link) for link in await self._found(call)])
        found: list[Record] = []
        for one in ids:
            record = await call.reader.get(self.edge.ends[self.edge.lists], one)
            if record is not None and asked.admits(record):
                found.append(record)
            if asked.is_over(len(found)):
                break
        rows = [await seen(call, self.far, record) for record in found]
        return Result(body=lists.body(call, self.far.collection, rows, asked))

    def _fields(self, path: Mapping[str, str]) -> Attributes:
        return self.edge.fields(path) if self.edge.fields else dict(path)

    async def _link(self, call: Call) -> Record | None:
        values = self._fields(call.path)  # as they are: what is too long to be an id is not there
        return await call.reader.get(self.edge.record, *(values[name] for name in facts(self.edge.record).key))

    async def _there(self, call: Call) -> Record:
        found = await self._link(call)
        if found is None:
            raise NotFound(self.edge.missing.format(**call.path))
        return found

    async def _found(self, call: Call) -> Sequence[Record]:
        """The links of the near ends: found by the first group that these fill, then compared in full."""
        given = self._fields({**call.path, self.edge.lists: ""})
        far = next(name for name, value in given.items() if value == "")
        given.pop(far)
        group = facts(self.edge.record).first_group(given)
        if group is None:
            raise LookupError(f"no index lists {self.edge.path}")
        rows = await call.reader.find(self.edge.record, **{name: given[name] for name in group})
        return [row for row in rows if all(getattr(row, name) == value for name, value in given.items())]

    def _far_id(self, link: Record) -> str:
        marker = self._fields({**dict.fromkeys(self.edge.ends, "?"), self.edge.lists: ""})
        return cast(str, getattr(link, next(name for name, value in marker.items() if value == "")))

    async def _allowed(self, call: Call, verb: str, *, may_lack: str = "") -> None:
        """Raise unless the caller may do this and the ends are there; that one is not is told last, or `first`."""
        target: Attributes = {}
        lacking = None
        for argument, kind in self.edge.ends.items():
            if argument in call.path:
                word = argument.removesuffix("_id")
                found = await call.reader.get(kind, call.path[argument])
                if found is None and argument == may_lack:
                    continue
                if found is None or (word == "domain" and not getattr(found, "is_domain", True)):
                    told = word if word == "domain" else named(facts(kind).name)
                    lacking = lacking or NotFound(f"Could not find {told}: {call.path[argument]}.")
                else:
                    target[word] = shown(found)
        if lacking is None or not self.edge.first:
            call.enforce(self.edge.actions[verb], {"target": target})
        if lacking:
            raise lacking


async def check_unique(call: Call, member: str, old: Record | None, new: Record) -> None:
    """Raise Conflict if another row has the id of a new one or the values of a group that is unique."""
    table, kind = facts(type(new)), type(new)
    if old is None and await call.reader.get(kind, *table.key_of(new)) is not None:
        raise Conflict(f"Conflict occurred attempting to store {member} - Duplicate ID, {table.key_of(new)[0]}..")
    for group in table.unique:
        values = {name: getattr(new, name) for name in group}
        rows = await call.reader.find(kind, **values)
        if any(table.key_of(row) != table.key_of(new) for row in rows):
            said = f"Duplicate entry found with name {values.get('name')}"
            where = f" at domain ID {values['domain_id']}" if old is None and values.get("domain_id") else ""
            raise Conflict(f"Conflict occurred attempting to store {member} - {said}{where}.")


async def check_references(call: Call, old: Record | None, new: Record, changes: Iterable[Change]) -> None:
    """Raise NotFound if a row that a new value refers to is neither there nor made by these changes."""
    made = {(change.table, change.key) for change in changes if isinstance(change, Put)}
    for name, field in facts(type(new)).fields.items():
        value = getattr(new, name)
        if field.ref is None or field.ref.on_delete == "clear" or value is None:
            continue
        if old is not None and value == getattr(old, name):
            continue
        tables = [TABLES[one] for one in field.ref.table.split()]
        if any((one.name, (value,)) in made for one in tables):
            continue
        if not any([await call.reader.get(one.kind, value) for one in tables]):
            word = "domain" if name == "domain_id" else named(tables[0].name)
            raise NotFound(f"Could not find {word}: {value}.")
