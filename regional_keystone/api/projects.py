"""Domains and projects as resources, and the tags of a project.

Source: keystone/api/projects.py, keystone/resource/schema.py.
"""

import dataclasses
from collections.abc import Iterable
from functools import partial
from urllib.parse import quote

import msgspec

from regional_keystone.api.fields import check
from regional_keystone.api.shapes import Attributes, Call, Result, Route, Shape
from regional_keystone.api.tree import DEPTH, DOMAINS, PROJECTS, TAG, TAGS, on_project
from regional_keystone.api.verbs import allowed
from regional_keystone.errors import Forbidden, NotFound
from regional_keystone.log import Change, put
from regional_keystone.model import Project

_PLAIN = "!$&'()*+,:;=@"  # what a part of a path may hold as it is


def _tags_body(call: Call, tags: Iterable[str]) -> Attributes:
    return {"links": {"self": call.url("")}, "tags": list(tags)}


def _changed(verb: str, old: Project, tags: Iterable[str]) -> tuple[Change, ...]:
    if old.options.get("immutable"):
        raise Forbidden(
            f'Cannot {verb} project tags for {old.id}, project is immutable. Set "immutable" option to false before '
            "creating project tags."
        )
    new = msgspec.structs.replace(old, tags=tuple(sorted(tags)))
    return () if new == old else (put(new, old),)


async def _list_tags(call: Call) -> Result:
    return Result(body=_tags_body(call, (await allowed(call, Project, "project", "list_project_tags")).tags))


async def _replace_tags(call: Call) -> Result:
    tags = call.body.get("tags", {})
    old = await allowed(call, Project, "project", "update_project_tags", lambda: check(TAGS, tags))
    tags = list(dict.fromkeys(one.strip() for one in tags))
    return Result(body=_tags_body(call, tags), changes=_changed("update", old, tags))


async def _delete_tags(call: Call) -> Result:
    old = await allowed(call, Project, "project", "delete_project_tags")
    return Result(status=204, changes=_changed("update", old, ()))


async def _get_tag(call: Call) -> Result:
    _check_tag(call, await allowed(call, Project, "project", "get_project_tag"))
    return Result(status=204)


async def _put_tag(call: Call) -> Result:
    value = call.path["value"]
    old = await allowed(call, Project, "project", "create_project_tag", lambda: check(TAG, value))
    check(TAGS, [*old.tags, value])
    place = call.url(f"/{old.id}/tags/{quote(value, safe=_PLAIN)}")
    tags = dict.fromkeys((*old.tags, value.strip()))
    return Result(status=201, headers={"Location": place}, changes=_changed("create", old, tags))


async def _delete_tag(call: Call) -> Result:
    old = await allowed(call, Project, "project", "delete_project_tag")
    changes = _changed("delete", old, (one for one in old.tags if one != call.path["value"]))
    _check_tag(call, old)
    return Result(status=204, changes=changes)


def _check_tag(call: Call, project: Project) -> None:
    if call.path["value"] not in project.tags:
        raise NotFound(f"Could not find project tag: {call.path['value']}.")


_ONE, _ALL = "/projects/{project_id}/tags/{value}", "/projects/{project_id}/tags"
_TAGS_BODY = {
    "type": ("object",),
    "properties": {"tags": {"type": ("array",), "items": TAG}},
    "additionalProperties": False,
}
_TAG_ROUTES: list[Shape] = [
    Route(method="GET", path=_ALL, handle=_list_tags),
    Route(method="PUT", path=_ALL, handle=_replace_tags, changes="log", body=_TAGS_BODY),
    Route(method="DELETE", path=_ALL, handle=_delete_tags, changes="log"),
    Route(method="GET", path=_ONE, handle=_get_tag),
    Route(method="PUT", path=_ONE, handle=_put_tag, changes="log"),
    Route(method="DELETE", path=_ONE, handle=_delete_tag, changes="log"),
]


def shapes(depth: int = DEPTH) -> list[Shape]:
    """The routes, with so many projects below each other in a domain at most."""
    return [DOMAINS, dataclasses.replace(PROJECTS, hook=partial(on_project, depth=depth)), *_TAG_ROUTES]


SHAPES = shapes()
