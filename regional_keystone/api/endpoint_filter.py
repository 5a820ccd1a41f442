"""Which endpoints the catalog of a project has: single ones, and groups of all that have something in common.

Source: keystone/api/os_ep_filter.py, keystone/catalog/core.py, keystone/catalog/schema.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from regional_keystone.api.endpoints import ENDPOINTS
from regional_keystone.api.fields import attributes_of
from regional_keystone.api.shapes import Attributes, Call, Resource, Result, Route, Shape
from regional_keystone.api.tree import PROJECTS
from regional_keystone.api.verbs import found_or_refused, listing, seen
from regional_keystone.catalog import chosen, matches
from regional_keystone.errors import Conflict, Invalid, NotFound, expecting
from regional_keystone.log import put, remove
from regional_keystone.model import Endpoint, EndpointGroup, Project, ProjectEndpoint, ProjectEndpointGroup
from regional_keystone.record import facts

_WORD = "Endpoint Group"
_ROOT = "/OS-EP-FILTER"
_FILTERS = ("service_id", "region_id", "interface")
_TEXT: Mapping[str, Any] = {"type": ("string", "null")}
_NAME: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 255, "pattern": r"[\S]+"}
_PROPERTIES: Mapping[str, Any] = {
    "description": _TEXT,
    "filters": {
        "type": ("object",),
        "properties": {
            "interface": {"type": ("string",), "enum": ("admin", "internal", "public")},
            "service_id": {"type": ("string",)},
            "region_id": _TEXT,
            "enabled": {"type": ("boolean",)},
        },
    },
    "name": _NAME,
}
_GROUPS = Resource(
    record=EndpointGroup, member="endpoint_group", collection="endpoint_groups", path=f"{_ROOT}/endpoint_groups"
)


async def _create(call: Call) -> Result:
    call.enforce("identity:create_endpoint_group")
    sent = call.body.get("endpoint_group", {})
    if not sent.get("filters"):
        raise Invalid("filters field is required and cannot be empty")
    _check_filters(sent)
    new = EndpointGroup(id=call.fresh("endpoint_group"), **sent)
    return Result(status=201, body={"endpoint_group": await seen(call, _GROUPS, new)}, changes=(put(new),))


async def _list(call: Call) -> Result:
    call.enforce("identity:list_endpoint_groups")
    return Result(body=await _listed(call, [one async for one in call.reader.scan(EndpointGroup)], "name"))


async def _show(call: Call) -> Result:
    call.enforce("identity:get_endpoint_group")
    return Result(body={"endpoint_group": await seen(call, _GROUPS, await _group(call))})


async def _update(call: Call) -> Result:
    call.enforce("identity:update_endpoint_group")
    sent = call.body["endpoint_group"]
    if "filters" in sent:
        _check_filters(sent)
    old = await _group(call)
    new = msgspec.structs.replace(old, **sent)
    changes = () if new == old else (put(new, old),)
    return Result(body={"endpoint_group": await seen(call, _GROUPS, new)}, changes=changes)


async def _delete(call: Call) -> Result:
    call.enforce("identity:delete_endpoint_group")
    return Result(status=204, changes=(remove(await _group(call)),))


async def _group(call: Call) -> EndpointGroup:
    return await found_or_refused(call, EndpointGroup, call.path["endpoint_group_id"], _WORD)


def _check_filters(sent: Mapping[str, Any]) -> None:
    if any(name not in _FILTERS for name in sent["filters"]):
        raise expecting(" or ".join(_FILTERS), "endpoint_group")


async def _listed(call: Call, groups: Iterable[EndpointGroup], filters: str = "") -> Attributes:
    return listing(call, "endpoint_groups", [await seen(call, _GROUPS, one) for one in groups], filters)


async def _endpoints_of_group(call: Call) -> Result:
    call.enforce("identity:list_endpoints_associated_with_endpoint_group")
    filters = (await _group(call)).filters
    return Result(body=await _endpoints(call, [one for one in await _all(call) if matches(one, filters)]))


async def _endpoints_of_project(call: Call) -> Result:
    """Those that the project was given, by themselves or in a group; enabled or not."""
    call.enforce("identity:list_endpoints_for_project")
    project = await found_or_refused(call, Project, call.path["project_id"])
    ids = await chosen(call.reader, project.id)
    groups = [await call.reader.get(EndpointGroup, one) for one in ids] if ids else []
    filters = [one.filters for one in groups if one]
    given = [one for one in await _all(call) if one.id in ids or any(matches(one, each) for each in filters)]
    return Result(body=await _endpoints(call, given))


async def _all(call: Call) -> list[Endpoint]:
    return [one async for one in call.reader.scan(Endpoint)]


async def _endpoints(call: Call, endpoints: Iterable[Endpoint]) -> Attributes:
    return listing(call, "endpoints", [await seen(call, ENDPOINTS, one) for one in endpoints])


async def _groups_of_project(call: Call) -> Result:
    call.enforce("identity:list_endpoint_groups_for_project")
    project = await found_or_refused(call, Project, call.path["project_id"])
    links = await call.reader.find(ProjectEndpointGroup, project_id=project.id)
    groups = [await call.reader.get(EndpointGroup, one.endpoint_group_id) for one in links]
    return Result(body=await _listed(call, [one for one in groups if one]))


async def _projects_of_endpoint(call: Call) -> Result:
    call.enforce("identity:list_projects_for_endpoint")
    endpoint = await found_or_refused(call, Endpoint, call.path["endpoint_id"])
    links = await call.reader.find(ProjectEndpoint, endpoint_id=endpoint.id)
    return Result(body=await _projects(call, links))


async def _projects_of_group(call: Call) -> Result:
    """As upstream, a group that is not there is in no project."""
    call.enforce("identity:list_projects_associated_with_endpoint_group")
    links = await call.reader.find(ProjectEndpointGroup, endpoint_group_id=call.path["endpoint_group_id"])
    return Result(body=await _projects(call, links))


async def _projects(call: Call, links: Iterable[ProjectEndpoint | ProjectEndpointGroup]) -> Attributes:
    found = [await call.reader.get(Project, one.project_id) for one in links]
    return listing(call, "projects", [await seen(call, PROJECTS, one) for one in found if one])


async def _tell(call: Call) -> Result:
    """The link between a group and a project; the link to itself has no host, as upstream's."""
    call.enforce("identity:get_endpoint_group_in_project")
    link = await _link(call)
    place = f"{_ROOT}/endpoint_groups/{link.endpoint_group_id}/projects/{link.project_id}"
    return Result(body={"project_endpoint_group": {**attributes_of(link), "links": {"self": place}}})


async def _unlink(call: Call) -> Result:
    call.enforce("identity:remove_endpoint_group_from_project")
    return Result(status=204, changes=(remove(await _link(call)),))


async def _link(call: Call) -> ProjectEndpointGroup:
    project = await found_or_refused(call, Project, call.path["project_id"])
    group = await _group(call)
    link = await call.reader.get(ProjectEndpointGroup, project.id, group.id)
    if link is None:
        raise NotFound("Endpoint Group Project Association not found")
    return link


async def _link_to_group(call: Call) -> Result:
    call.enforce("identity:add_endpoint_group_to_project")
    project = await found_or_refused(call, Project, call.path["project_id"])
    group = await _group(call)
    return await _linked(
        call, "project_endpoint_group", ProjectEndpointGroup(project_id=project.id, endpoint_group_id=group.id)
    )


async def _give(call: Call) -> Result:
    call.enforce("identity:add_endpoint_to_project")
    endpoint = await found_or_refused(call, Endpoint, call.path["endpoint_id"])
    project = await found_or_refused(call, Project, call.path["project_id"])
    return await _linked(call, "project_endpoint", ProjectEndpoint(project_id=project.id, endpoint_id=endpoint.id))


async def _linked(call: Call, word: str, new: ProjectEndpoint | ProjectEndpointGroup) -> Result:
    if await call.reader.get(type(new), *facts(type(new)).key_of(new)):
        raise Conflict(f"Conflict occurred attempting to store {word} - Duplicate entry.")
    return Result(status=204, changes=(put(new),))


async def _check(call: Call) -> Result:
    call.enforce("identity:check_endpoint_in_project")
    await found_or_refused(call, Endpoint, call.path["endpoint_id"])
    await found_or_refused(call, Project, call.path["project_id"])
    await _given(call)
    return Result(status=204)


async def _take(call: Call) -> Result:
    call.enforce("identity:remove_endpoint_from_project")
    return Result(status=204, changes=(remove(await _given(call)),))


async def _given(call: Call) -> ProjectEndpoint:
    endpoint_id, project_id = call.path["endpoint_id"], call.path["project_id"]
    link = await call.reader.get(ProjectEndpoint, project_id, endpoint_id)
    if link is None:
        raise NotFound(f"Endpoint {endpoint_id} not found in project {project_id}")
    return link


def _body(*, required: tuple[str, ...] = (), wrapped: bool = True, least: int = 0) -> Mapping[str, Any]:
    inner = {
        "type": ("object",),
        "properties": _PROPERTIES,
        "required": required,
        "minProperties": least,
        "additionalProperties": False,
    }
    outer = {"properties": {"endpoint_group": inner}, "required": ("endpoint_group",) if wrapped else ()}
    return {"type": ("object",), **outer, "additionalProperties": False}


_GROUP, _LINK = (
    f"{_ROOT}/endpoint_groups/{{endpoint_group_id}}",
    f"{_ROOT}/projects/{{project_id}}/endpoints/{{endpoint_id}}",
)
_ALL, _IN = f"{_ROOT}/endpoint_groups", f"{_GROUP}/projects/{{project_id}}"
_NEW = _body(required=("name", "filters"), wrapped=False)
SHAPES: list[Shape] = [
    Route(method="GET", path=_LINK, handle=_check),
    Route(method="PUT", path=_LINK, handle=_give, changes="log"),
    Route(method="DELETE", path=_LINK, handle=_take, changes="log"),
    Route(method="GET", path=f"{_ROOT}/projects/{{project_id}}/endpoints", handle=_endpoints_of_project),
    Route(method="GET", path=f"{_ROOT}/projects/{{project_id}}/endpoint_groups", handle=_groups_of_project),
    Route(method="GET", path=f"{_ROOT}/endpoints/{{endpoint_id}}/projects", handle=_projects_of_endpoint),
    Route(method="GET", path=_ALL, handle=_list, query={"name": _NAME}),
    Route(method="POST", path=_ALL, handle=_create, changes="log", body=_NEW),
    Route(method="GET", path=_GROUP, handle=_show),
    Route(method="PATCH", path=_GROUP, handle=_update, changes="log", body=_body(least=1)),
    Route(method="DELETE", path=_GROUP, handle=_delete, changes="log"),
    Route(method="GET", path=f"{_GROUP}/endpoints", handle=_endpoints_of_group),
    Route(method="GET", path=f"{_GROUP}/projects", handle=_projects_of_group),
    Route(method="GET", path=_IN, handle=_tell),
    Route(method="PUT", path=_IN, handle=_link_to_group, changes="log"),
    Route(method="DELETE", path=_IN, handle=_unlink, changes="log"),
]
