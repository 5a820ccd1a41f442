"""The tree of domains and projects: what may stand where, and what is seen of it. A domain is a project.

Below the tables, since users and tokens show projects too.

Source: keystone/resource/core.py, keystone/resource/schema.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from regional_keystone.api.fields import shown
from regional_keystone.api.rules import DOMAIN_ID, IMMUTABLE, SWITCH, check_change, check_removal, home, merged
from regional_keystone.api.shapes import Attributes, Call, Resource
from regional_keystone.errors import Conflict, Forbidden, Invalid
from regional_keystone.log import Change
from regional_keystone.model import Limit, Project
from regional_keystone.ports import Reader
from regional_keystone.roles import ancestors, descendants, reachable

DEPTH = 5
_ROWS = 500  # that are in memory at a time while the projects of a domain are looked through
TAG: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 255, "pattern": "^[^,/]*$"}
TAGS: Mapping[str, Any] = {"type": ("array",), "items": TAG, "maxItems": 80, "uniqueItems": True}
_TAG_FILTERS = frozenset({"tags", "tags-any", "not-tags", "not-tags-any"})
_FEDERATED = "federated"  # what upstream calls the domain of those whom only an identity provider knows
_NEVER = ("id", "domain_id", "parent_id", "is_domain")  # what a domain's attributes cannot say


async def _prepare_domain(call: Call, old: Project | None, sent: Attributes) -> Attributes:
    del call
    wanted = sent.pop("explicit_domain_id", None)
    for name in _NEVER:
        sent.pop(name, None)
    if old is None and wanted is not None:
        if not re.fullmatch("[0-9a-f]{32}", wanted):
            raise Invalid("Domain ID does not conform to required UUID format.")
        sent["id"] = wanted
    return _settled("domain", old, sent)


async def _prepare_project(call: Call, old: Project | None, sent: Attributes) -> Attributes:
    if old is None:
        acts_as_domain = sent.get("is_domain", False)
        sent["domain_id"] = sent.get("domain_id") if acts_as_domain else home(call, sent)
        sent["parent_id"] = sent.get("parent_id") or sent["domain_id"]
        return _settled("project", None, sent)
    if sent.get("domain_id", old.domain_id) != old.domain_id:
        raise Invalid("Cannot change Domain ID")
    sent = _settled("domain" if old.is_domain else "project", old, sent)
    if sent.get("parent_id", old.parent_id) != old.parent_id:
        raise Forbidden("Update of `parent_id` is not allowed.")
    if sent.get("is_domain", old.is_domain) != old.is_domain:
        raise Invalid("Update of `is_domain` is not allowed.")
    return sent


def _settled(word: str, old: Project | None, sent: Attributes) -> Attributes:
    if old is not None:
        check_change(word, old, sent)
    if "name" in sent:
        sent["name"] = sent["name"].strip()
    if "tags" in sent:
        sent["tags"] = sorted(sent["tags"])
    if "options" in sent:
        sent["options"] = merged(old.options if old else {}, sent["options"])
    return sent


async def on_project(call: Call, old: Project | None, new: Project | None, *, depth: int = DEPTH) -> Iterable[Change]:
    """The rules of the tree; refuses a project further below its domain than `depth`."""
    if new is None:
        await _check_delete(call.reader, old)
        return ()
    if old is None or new.name != old.name:
        _check_reserved(new)
    if old is None:
        await _check_place(call.reader, new, depth)
    else:
        await _check_switch(call.reader, old, new)
    await _check_name(call.reader, old, new)
    return ()


def _check_reserved(new: Project) -> None:
    if new.is_domain and new.name.lower() == _FEDERATED:
        raise Invalid(f"A domain cannot be named {new.name}: the name is reserved. Choose another one.")


async def _check_delete(reader: Reader, old: Project | None) -> None:
    assert old is not None  # noqa: S101  a hook has one of both
    check_removal("domain" if old.is_domain else "project", old)
    if old.is_domain and old.enabled:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
    if old.is_domain:
        await _check_delete_contents(reader, old)
    if not old.is_domain and await reader.find(Project, parent_id=old.id):
        advice = "Use the cascade option if you want to delete a whole subtree."
        raise Forbidden(f"Cannot delete the project {old.id} since it is not a leaf in the hierarchy. {advice}")


async def _check_delete_contents(reader: Reader, domain: Project) -> None:
    """Raise Forbidden if a project that would go with the domain is immutable: then all of it stays."""
    after: tuple[str] | None = None
    while rows := await reader.page(Project, after, _ROWS, domain_id=domain.id):
        for one in rows:
            check_removal("project", one)
        after = (rows[-1].id,)


async def _check_place(reader: Reader, new: Project, depth: int) -> None:
    """Raise Invalid or Forbidden unless a new project may stand where it wants to."""
    if new.is_domain:
        if new.parent_id or new.domain_id:
            raise Invalid("only root projects are allowed to act as domains.")
        return
    domain = await reader.get(Project, new.domain_id)
    if domain is None or not domain.is_domain:
        raise Invalid(f"Could not find domain: {new.domain_id}.")
    parent = await reader.get(Project, new.parent_id)
    if parent is None:
        raise Invalid(f"Could not find project: {new.parent_id}.")
    _check_same_domain(domain, parent)
    above = [parent.id, *await ancestors(reader, parent)]
    for one in above:
        found = await reader.get(Project, one)
        if found is not None and not found.enabled:
            raise Invalid(f"cannot create a project in a branch containing a disabled project: {one}")
    if len([one for one in above if one != domain.id]) >= depth:
        raise Forbidden(f"Max hierarchy depth reached for {new.parent_id} branch.")


def _check_same_domain(domain: Project, parent: Project) -> None:
    if parent.is_domain and parent.id != domain.id:
        raise Invalid(
            f"Cannot create project, the parent ({parent.id}) is acting as a domain, but this project's domain id "
            f"({domain.id}) does not match the parent's id."
        )
    if not parent.is_domain and parent.domain_id != domain.id:
        raise Invalid(
            f"Cannot create project, since it specifies its domain_id {domain.id}, but specifies a parent in a "
            f"different domain ({parent.domain_id})."
        )


async def _check_switch(reader: Reader, old: Project, new: Project) -> None:
    if new.enabled and not old.enabled:
        above = [await reader.get(Project, one) for one in await ancestors(reader, old)]
        if any(one is not None and not one.enabled for one in above):
            raise Forbidden(f"Cannot enable project {old.id} since it has disabled parents")
    if old.enabled and not new.enabled and not old.is_domain:
        below = await descendants(reader, old.id)
        if any(one.enabled for one in below):
            raise Forbidden(f"Cannot disable project {old.id} since its subtree contains enabled projects.")


async def _check_name(reader: Reader, old: Project | None, new: Project) -> None:
    same = await reader.find(Project, domain_id=new.domain_id, name=new.name)
    taken = old is None and await reader.get(Project, new.id) is not None
    if not taken and not any(one.id != new.id for one in same):
        return
    about = f"in the same domain: name is {new.name}, project id {new.id}"
    said = f"with either the same name or same id {about}"
    if new.is_domain:
        said = f"acting as domains with the same name: {new.name}"
    raise Conflict(f"Conflict occurred attempting to store project - it is not permitted to have two projects {said}.")


async def _show_domain(call: Call, record: Project, found: Attributes) -> Attributes:
    del call, record
    return {name: value for name, value in found.items() if name not in _NEVER or name == "id"}


async def _show_project(call: Call, record: Project, found: Attributes) -> Attributes:
    if call.request.method == "PATCH":
        return {**found, "extra": record.extra}  # as upstream does, here and nowhere else
    if call.request.method not in {"GET", "HEAD"} or call.path.get("project_id") != record.id or len(call.path) > 1:
        return found
    for direction in ("parents", "subtree"):
        as_list, as_ids = f"{direction}_as_list", f"{direction}_as_ids"
        if call.flag(as_list) and call.flag(as_ids):
            raise Invalid(f"Cannot use {as_list} and {as_ids} query params at the same time.")
    if call.flag("parents_as_list"):
        found["parents"] = await _listed(call, await _parents(call.reader, record))
    elif call.flag("parents_as_ids"):
        found["parents"] = _chain([*await ancestors(call.reader, record)])
    if call.flag("subtree_as_list"):
        found["subtree"] = await _listed(call, await descendants(call.reader, record.id))
    elif call.flag("subtree_as_ids"):
        found["subtree"] = _tree(record.id, await descendants(call.reader, record.id))
    return found


async def _parents(reader: Reader, project: Project) -> list[Project]:
    found = [await reader.get(Project, one) for one in await ancestors(reader, project)]
    return [one for one in found if one is not None]


async def _listed(call: Call, projects: list[Project]) -> list[Attributes]:
    """Those of the projects on which the caller has a role."""
    mine = {one.target_id for one in await reachable(call.reader, call.caller.user_id) if one.target == "project"}
    return [
        {"project": {**shown(one), **await _limited(call, one), "links": {"self": call.url(f"/projects/{one.id}")}}}
        for one in projects
        if one.id in mine
    ]


async def _limited(call: Call, project: Project) -> Attributes:
    """The limits of a project, where they are asked for."""
    if not call.flag("include_limits"):
        return {}
    found = [shown(one) for one in await call.reader.find(Limit, project_id=project.id)]
    return {"limits": [{name: value for name, value in one.items() if name != "registered_limit_id"} for one in found]}


def _chain(ids: list[str]) -> Attributes | None:
    return {ids[0]: _chain(ids[1:])} if ids else None


def _tree(root_id: str, below: list[Project]) -> Attributes | None:
    children = [one.id for one in below if one.parent_id == root_id]
    return {one: _tree(one, below) for one in children} or None


def _wanted(call: Call) -> Callable[[Project], bool]:
    """Whether a list shows a project: those that act as domains only on demand, and what the tags ask for."""
    also_domains = call.query("is_domain") is not None
    # the first of each, as upstream takes them
    asked = {name: set(value.split(",")) for name, value in reversed(call.request.query) if name in _TAG_FILTERS}

    def is_listed(project: Project) -> bool:
        tags = set(project.tags)
        return (
            (also_domains or not project.is_domain)
            and asked.get("tags", set()) <= tags
            and ("tags-any" not in asked or bool(asked["tags-any"] & tags))
            and ("not-tags" not in asked or not asked["not-tags"] <= tags)
            and not asked.get("not-tags-any", set()) & tags
        )

    return is_listed


_ACCEPTS = {"options": IMMUTABLE, "tags": TAGS, "enabled": SWITCH}
_NULLABLE_ID = {**DOMAIN_ID, "type": ("string", "null")}

DOMAINS = Resource(
    record=Project,
    member="domain",
    collection="domains",
    filters="name enabled",
    first="update delete",
    fixed={"is_domain": True, "domain_id": None},
    accepts={
        **_ACCEPTS,
        "description": {"type": ("string", "null"), "maxLength": 255},
        "explicit_domain_id": DOMAIN_ID,
        "domain_id": {},
        "parent_id": {},
        "is_domain": {},
    },
    domain="id",
    prepare=_prepare_domain,
    show=_show_domain,
    hook=on_project,
)
PROJECTS = Resource(
    record=Project,
    member="project",
    collection="projects",
    late={"create": "missing", "update": "missing"},
    filters="domain_id enabled name parent_id is_domain",
    asks={"parent_id": {"type": ("string",), "format": "uuid"}},
    accepts={**_ACCEPTS, "is_domain": SWITCH, "domain_id": _NULLABLE_ID, "parent_id": _NULLABLE_ID},
    least=0,
    domain="domain_id",
    only=_wanted,
    prepare=_prepare_project,
    show=_show_project,
    hook=on_project,
)
