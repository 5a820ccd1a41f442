"""Registered limits and limits: what projects and domains may use, as services ask; nothing is enforced here.

Source: keystone/api/limits.py, keystone/api/registered_limits.py, keystone/limit.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from regional_keystone.api.fields import shown
from regional_keystone.api.limit_models import FLAT, Model
from regional_keystone.api.rules import DOMAIN_ID
from regional_keystone.api.shapes import Attributes, Call, Resource, Result, Route, Shape
from regional_keystone.api.verbs import listing, seen
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, expecting
from regional_keystone.log import put, remove
from regional_keystone.model import Limit, Project, Region, RegisteredLimit, Service

_LARGEST = 0x7FFFFFFF
_NUMBER: Mapping[str, Any] = {"type": ("integer",), "minimum": -1, "maximum": _LARGEST}
_UUID: Mapping[str, Any] = {"type": ("string",), "format": "uuid"}
_REGION: Mapping[str, Any] = {"type": ("string", "null"), "minLength": 1, "maxLength": 255}
_NAME: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 255, "pattern": r"[\S]+"}
_TEXT: Mapping[str, Any] = {"type": ("string", "null"), "maxLength": 255}
_OWNER: Mapping[str, Any] = {**DOMAIN_ID, "type": ("string", "null")}
_WHAT: Mapping[str, Any] = {"service_id": _UUID, "region_id": _REGION, "resource_name": _NAME}
_REGISTERED: Mapping[str, Any] = {**_WHAT, "default_limit": _NUMBER, "description": _TEXT}
_NEW: Mapping[str, Any] = {
    "project_id": _OWNER,
    "domain_id": _OWNER,
    **_WHAT,
    "resource_limit": _NUMBER,
    "description": _TEXT,
}
_ROWS = Resource(record=RegisteredLimit, member="registered_limit", collection="registered_limits")
_LIMITS = Resource(record=Limit, member="limit", collection="limits")


async def _create_registered(call: Call) -> Result:
    """All of them or none."""
    call.enforce("identity:create_registered_limits")
    rows: list[RegisteredLimit] = []
    for place, sent in enumerate(call.body["registered_limits"]):
        await _check_there(call, sent, "registered_limit")
        row = RegisteredLimit(id=call.fresh(f"registered limit {place}"), **sent)
        await _check_registered_once(call, row, rows)
        rows.append(row)
    body = {"registered_limits": [await seen(call, _ROWS, one) for one in rows]}
    return Result(status=201, body=body, changes=tuple(put(one) for one in rows))


async def _list_registered(call: Call) -> Result:
    call.enforce("identity:list_registered_limits")
    rows = [await seen(call, _ROWS, one) async for one in call.reader.scan(RegisteredLimit)]
    return Result(body=listing(call, "registered_limits", rows, " ".join(_WHAT)))


async def _show_registered(call: Call) -> Result:
    call.enforce("identity:get_registered_limit")
    return Result(body={"registered_limit": await seen(call, _ROWS, await _registered(call))})


async def _update_registered(call: Call) -> Result:
    call.enforce("identity:update_registered_limit")
    sent = call.body["registered_limit"]
    await _check_there(call, sent, "registered_limit")
    old = await _registered(call)
    await _check_unused(call, old)
    new = msgspec.structs.replace(old, **sent)
    if any(name in sent for name in _WHAT):  # as upstream, also when it says what is there already
        await _check_registered_once(call, new, ())
    changes = () if new == old else (put(new, old),)
    return Result(body={"registered_limit": await seen(call, _ROWS, new)}, changes=changes)


async def _delete_registered(call: Call) -> Result:
    call.enforce("identity:delete_registered_limit")
    old = await _registered(call)
    await _check_unused(call, old)
    return Result(status=204, changes=(remove(old),))


async def _registered(call: Call) -> RegisteredLimit:
    key = call.path["registered_limit_id"]
    found = await call.reader.get(RegisteredLimit, key)
    if found is None:
        raise NotFound(f"Could not find registered limit for {key}.")
    return found


async def _check_unused(call: Call, registered: RegisteredLimit) -> None:
    if await call.reader.page(Limit, None, 1, registered_limit_id=registered.id):
        about = "because there are project limits associated with it."
        raise Forbidden(f"Unable to update or delete registered limit {registered.id} {about}")


async def _check_registered_once(call: Call, new: RegisteredLimit, others: Iterable[RegisteredLimit]) -> None:
    stored = await call.reader.find(RegisteredLimit, service_id=new.service_id)
    if any(_what(one) == _what(new) for one in (*stored, *others)):
        raise Conflict("Conflict occurred attempting to store registered_limit - Duplicate entry.")


def _what(row: RegisteredLimit | Limit) -> tuple[str, str | None, str]:
    return row.service_id, row.region_id, row.resource_name


async def _check_there(call: Call, sent: Attributes, target: str) -> None:
    """Raise Invalid for a service, region, project or domain that is not there, naming the field."""
    kinds: tuple[tuple[str, Any], ...] = (("service_id", Service), ("region_id", Region), ("project_id", Project))
    for name, kind in kinds:
        if sent.get(name) is not None and await call.reader.get(kind, sent[name]) is None:
            raise expecting(name, target)
    if sent.get("domain_id") is not None:
        domain = await call.reader.get(Project, sent["domain_id"])
        if domain is None or not domain.is_domain:
            raise expecting("domain_id", target)


async def _create(call: Call, *, model: Model) -> Result:
    """All of them or none; each has a registered limit of its service, region and name."""
    call.enforce("identity:create_limits")
    sent: list[Attributes] = call.body["limits"]
    if any(one.get("project_id") is None and one.get("domain_id") is None for one in sent):
        raise Invalid("A limit is a project's or a domain's.")
    settled = [await _settled(call, one) for one in sent]
    rows = [Limit(id=call.fresh(f"limit {place}"), registered_limit_id="", **one) for place, one in enumerate(settled)]
    await model.check(call.reader, rows)
    found: list[Limit] = []
    for row in rows:
        new = msgspec.structs.replace(row, registered_limit_id=await _registered_of(call, row))
        await _check_once(call, new, found)
        found.append(new)
    body = {"limits": [await _seen(call, one) for one in found]}
    return Result(status=201, body=body, changes=tuple(put(one) for one in found))


async def _settled(call: Call, sent: Attributes) -> Attributes:
    """A limit of a project that is a domain is the domain's."""
    await _check_there(call, sent, "limit")
    project = await call.reader.get(Project, sent["project_id"]) if sent.get("project_id") else None
    if project is None or not project.is_domain:
        return sent
    return {**{name: value for name, value in sent.items() if name != "project_id"}, "domain_id": project.id}


async def _registered_of(call: Call, row: Limit) -> str:
    for one in await call.reader.find(RegisteredLimit, service_id=row.service_id):
        if _what(one) == _what(row):
            return one.id
    raise Forbidden("Unable to create a limit that has no corresponding registered limit.")


async def _check_once(call: Call, new: Limit, others: Iterable[Limit]) -> None:
    name = "project_id" if new.project_id else "domain_id"
    owner = getattr(new, name)
    stored = await call.reader.find(Limit, **{name: owner})
    for one in (*stored, *others):
        if getattr(one, name) == owner and one.registered_limit_id == new.registered_limit_id:
            raise Conflict("Conflict occurred attempting to store limit - Duplicate entry.")


async def _list(call: Call) -> Result:
    """All limits for admins, services and the system; of its domain or its project for anybody else."""
    call.enforce("identity:list_limits")
    rows = [await _seen(call, one) for one in await _visible(call)]
    return Result(body=listing(call, "limits", rows, f"{' '.join(_WHAT)} project_id domain_id"))


async def _visible(call: Call) -> list[Limit]:
    caller = call.caller
    if caller.is_system or {"admin", "service"} & {role.name for role in caller.roles}:
        return await _asked(call)
    if caller.domain:
        found = []
        for one in await _asked(call):
            project = await call.reader.get(Project, one.project_id) if one.project_id else None
            if caller.domain.id == (project.domain_id if project else one.domain_id):
                found.append(one)
        return found
    return await call.reader.find(Limit, project_id=caller.project.id) if caller.project else []


async def _asked(call: Call) -> list[Limit]:
    """Those that the query can mean, by what they are found by."""
    for name in ("project_id", "domain_id"):
        if owner := call.query(name):
            return await call.reader.find(Limit, **{name: owner})
    return [one async for one in call.reader.scan(Limit)]


async def _show(call: Call) -> Result:
    return Result(body={"limit": await _seen(call, await _allowed(call, "get_limit", tells_last=True))})


async def _target(call: Call, limit: Limit) -> Attributes:
    target = _shown(limit)
    for name in ("project", "domain"):
        if owner := target[f"{name}_id"]:
            record = await call.reader.get(Project, owner)
            return target | ({name: shown(record)} if record else {})
    return target


async def _update(call: Call, *, model: Model) -> Result:
    old = await _allowed(call, "update_limit")
    new = msgspec.structs.replace(old, **call.body["limit"])
    await model.check(call.reader, [new])
    changes = () if new == old else (put(new, old),)
    return Result(body={"limit": await _seen(call, new)}, changes=changes)


async def _delete(call: Call) -> Result:
    return Result(status=204, changes=(remove(await _allowed(call, "delete_limit")),))


async def _allowed(call: Call, action: str, *, tells_last: bool = False) -> Limit:
    """The limit that the path names, if the caller may do this to it; that it is not there is told to anybody.

    Or, told last, to who may see it, as upstream has it where a limit is read.
    """
    key = call.path["limit_id"]
    found = await call.reader.get(Limit, key)
    if found is not None or tells_last:
        call.enforce(f"identity:{action}", {"target": {"limit": await _target(call, found)}} if found else {})
    if found is None:
        raise NotFound(f"Could not find limit for {key}.")
    return found


def _shown(limit: Limit) -> Attributes:
    return {name: value for name, value in shown(limit).items() if name != "registered_limit_id"}


async def _seen(call: Call, limit: Limit) -> Attributes:
    return {name: value for name, value in (await seen(call, _LIMITS, limit)).items() if name != "registered_limit_id"}


async def _model(call: Call, *, model: Model) -> Result:
    call.enforce("identity:get_limit_model")
    return Result(body={"model": {"name": model.name, "description": model.description}})


def _one(member: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = {"type": ("object",), "properties": properties, "additionalProperties": False}
    outer = {"properties": {member: inner}, "required": (member,)}
    return {"type": ("object",), **outer, "additionalProperties": False}


def _many(
    collection: str, properties: Mapping[str, Any], required: tuple[str, ...], owners: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    inner = {"type": ("object",), "properties": properties, "required": required, "additionalProperties": False}
    if owners:
        inner["oneOf"] = [{"required": [*required, one]} for one in owners]
    rows = {"type": ("array",), "items": inner, "minItems": 1}
    outer = {"properties": {collection: rows}, "required": (collection,)}
    return {"type": ("object",), **outer, "additionalProperties": False}


def shapes(model: Model = FLAT) -> list[Shape]:
    """The routes, with limits related as this model says."""

    def by(handle: Callable[..., Awaitable[Result]]) -> Callable[[Call], Awaitable[Result]]:
        return partial(handle, model=model)

    registered, one = "/registered_limits", "/registered_limits/{registered_limit_id}"
    limits, limit = "/limits", "/limits/{limit_id}"
    new = _many("registered_limits", _REGISTERED, ("service_id", "resource_name", "default_limit"))
    rows = _many("limits", _NEW, ("service_id", "resource_name", "resource_limit"), ("domain_id", "project_id"))
    changed = {"resource_limit": _NUMBER, "description": _TEXT}
    owners = {"project_id": DOMAIN_ID, "domain_id": DOMAIN_ID}
    return [
        Route(method="GET", path=registered, handle=_list_registered, query=_WHAT),
        Route(method="POST", path=registered, handle=_create_registered, changes="log", body=new),
        Route(method="GET", path=one, handle=_show_registered),
        Route(
            method="PATCH",
            path=one,
            handle=_update_registered,
            changes="log",
            body=_one("registered_limit", _REGISTERED),
        ),
        Route(method="DELETE", path=one, handle=_delete_registered, changes="log"),
        Route(method="GET", path=f"{limits}/model", handle=by(_model)),
        Route(method="GET", path=limits, handle=_list, query={**_WHAT, **owners}),
        Route(method="POST", path=limits, handle=by(_create), changes="log", body=rows),
        Route(method="GET", path=limit, handle=_show),
        Route(method="PATCH", path=limit, handle=by(_update), changes="log", body=_one("limit", changed)),
        Route(method="DELETE", path=limit, handle=_delete, changes="log"),
    ]
