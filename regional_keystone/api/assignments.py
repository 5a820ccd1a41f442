"""GET /role_assignments: what is granted, or with `effective` what it comes to, with the links of upstream.

Apart from the grants themselves, since it is a view over all of their families at once.
Source: keystone/api/role_assignments.py, keystone/assignment/core.py.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from regional_keystone.api.fields import shown
from regional_keystone.api.rules import DOMAIN_ID
from regional_keystone.api.shapes import Attributes, Call, Result, Route
from regional_keystone.api.verbs import found_or_refused, listing
from regional_keystone.errors import Invalid
from regional_keystone.model import Grant, Group, Project, Role, User
from regional_keystone.ports import Reader
from regional_keystone.roles import SYSTEM, Effective, ancestors, descendants, expanded, groups_of

_INHERITED = "scope.OS-INHERIT:inherited_to"
_BOTH = (
    ("scope.domain.id", "scope.project.id", "Specify a domain or project, not both"),
    ("scope.domain.id", "scope.system", "Specify system or domain, not both"),
    ("scope.project.id", "scope.system", "Specify system or project, not both"),
    ("user.id", "group.id", "Specify a user or group, not both"),
)


class Assignment(NamedTuple):
    """One line of the list: who has which role where, and the grant that it comes from."""

    actor: str
    actor_id: str
    target: str
    target_id: str
    role_id: str
    grant: Grant
    prior_role_id: str | None = None


class Wanted(NamedTuple):
    """The filters of a request; None for one that was not given."""

    role: str | None
    user: str | None
    group: str | None
    project: str | None
    domain: str | None
    system: bool
    inherited: bool | None

    def admits(self, one: Assignment, places: Iterable[str]) -> bool:
        """Whether the list shows this line; `places` are the projects asked for, all if there are none."""
        return (
            self.role in {None, one.role_id}
            and self._is_actor(one)
            and (not self.system or one.target == SYSTEM)
            and (self.domain is None or (one.target == "domain" and one.target_id == self.domain))
            and (self.project is None or (one.target == "project" and one.target_id in places))
            and self.inherited in {None, one.grant.inherited}
        )

    def _is_actor(self, one: Assignment) -> bool:
        asked = {"user": self.user, "group": self.group}
        return not any(asked.values()) or asked[one.actor] == one.actor_id


async def _list(call: Call) -> Result:
    tree = call.flag("include_subtree")
    wanted = _wanted(call)
    await _allow(call, wanted, tree=tree)
    _check_combination(call, wanted)
    places = await _places(call.reader, wanted, tree=tree)
    if call.flag("effective"):
        lines = await _effective(call, wanted, places)
    else:
        grants = await _grants(call.reader, wanted, places, [])
        lines = [Assignment(one.actor, one.actor_id, one.target, one.target_id, one.role_id, one) for one in grants]
    found = [one for one in lines if wanted.admits(one, places) and await _is_in_scope(call, one)]
    rows = [await _shown(call, one) for one in found]
    return Result(body=listing(call, "role_assignments", rows))


def _wanted(call: Call) -> Wanted:
    inherited = call.query(_INHERITED)
    return Wanted(
        role=call.query("role.id") or None,
        user=call.query("user.id") or None,
        group=call.query("group.id") or None,
        project=call.query("scope.project.id") or None,
        domain=call.query("scope.domain.id") or None,
        system=call.query("scope.system") == "all",
        inherited=None if inherited is None else inherited == "projects",
    )


async def _allow(call: Call, wanted: Wanted, *, tree: bool) -> None:
    domain = call.caller.domain
    about: Attributes = {"domain_id": domain.id} if domain else {}
    if not tree:
        call.enforce("identity:list_role_assignments", {"target": about})
        return
    if wanted.project is None:
        raise Invalid("'scope.project.id' is a dependency of 'include_subtree'")
    project = await call.reader.get(Project, wanted.project)
    about = {"project": shown(project), "domain_id": project.domain_id} if project else {}
    call.enforce("identity:list_role_assignments_for_tree", {"target": about})
    await found_or_refused(call, Project, wanted.project, "project")


def _check_combination(call: Call, wanted: Wanted) -> None:
    for one, other, message in _BOTH:
        if call.query(one) and call.query(other):
            raise Invalid(message)
    if call.flag("effective") and wanted.group:
        raise Invalid("Combining effective and group filter will always result in an empty list.")
    if call.flag("effective") and wanted.inherited and wanted.domain:
        raise Invalid("Combining effective, domain and inherited filters will always result in an empty list.")


async def _places(reader: Reader, wanted: Wanted, *, tree: bool) -> set[str]:
    if wanted.project is None:
        return set()
    below = [one.id for one in await descendants(reader, wanted.project)] if tree else []
    return {wanted.project, *below}


async def _effective(call: Call, wanted: Wanted, places: Iterable[str]) -> list[Assignment]:
    if wanted.user is not None:
        await found_or_refused(call, User, wanted.user, "user")
    above: list[str] = []
    if wanted.project is not None:
        project = await found_or_refused(call, Project, wanted.project, "project")
        above = await ancestors(call.reader, project)
    groups = await groups_of(call.reader, wanted.user) if wanted.user else []
    grants = await _grants(call.reader, wanted._replace(role=None), [*places, *above], groups)
    members = dict.fromkeys(groups, (wanted.user,)) if wanted.user else None
    found = await expanded(call.reader, grants, members)
    lines = [_line(one) for one in found if wanted.system or one.target != SYSTEM]
    return list({_said(one): one for one in lines}.values())


def _line(one: Effective) -> Assignment:
    return Assignment("user", one.user_id, one.target, one.target_id, one.role_id, one.grant, one.prior_role_id)


def _said(one: Assignment) -> Assignment:
    """A line as far as it is shown: what several roles imply by way of the same one is one line."""
    return one._replace(grant=msgspec.structs.replace(one.grant, role_id=one.prior_role_id or one.role_id))


async def _grants(reader: Reader, wanted: Wanted, places: Iterable[str], groups: Iterable[str]) -> list[Grant]:
    """The grants that can matter, by the narrowest index there is."""
    if actor := wanted.user or wanted.group:
        found = [one for actor_id in (actor, *groups) for one in await reader.find(Grant, actor_id=actor_id)]
    elif targets := [one for one in (*places, wanted.domain, wanted.system and SYSTEM) if one]:
        found = [one for target_id in targets for one in await reader.find(Grant, target_id=target_id)]
    elif wanted.role:
        found = await reader.find(Grant, role_id=wanted.role)
    else:
        found = [one async for one in reader.scan(Grant)]
    return found


async def _is_in_scope(call: Call, one: Assignment) -> bool:
    """Who acts in a domain sees what is granted on it and on its projects."""
    domain = call.caller.domain
    if domain is None or one.target_id == domain.id:
        return True
    project = await call.reader.get(Project, one.target_id) if one.target == "project" else None
    return project is not None and project.domain_id == domain.id


async def _shown(call: Call, one: Assignment) -> Attributes:
    names = call.flag("include_names")
    scope: Attributes = {one.target: {"all": True}}
    if one.target != SYSTEM:
        scope = {one.target: await _named(call, Project, one.target_id, names=names)}
    if one.grant.inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    actor = await _named(call, User if one.actor == "user" else Group, one.actor_id, names=names)
    role = await _named(call, Role, one.role_id, names=names)
    return {"links": _links(call, one), "scope": scope, one.actor: actor, "role": role}


async def _named(call: Call, kind: type[Any], key: str, *, names: bool) -> Attributes:
    record = await call.reader.get(kind, key) if names else None
    if record is None:
        return {"id": key, "name": "", "domain": {"id": "", "name": ""}} if names else {"id": key}
    found = {"id": key, "name": record.name}
    if record.domain_id is not None:
        domain = await call.reader.get(Project, record.domain_id)
        found["domain"] = {"id": record.domain_id, "name": domain.name if domain else ""}
    return found


def _links(call: Call, one: Assignment) -> Attributes:
    grant = one.grant
    place = "/system" if grant.target == SYSTEM else f"/{grant.target}s/{grant.target_id}"
    path = f"{place}/{grant.actor}s/{grant.actor_id}/roles/{one.prior_role_id or one.role_id}"
    if grant.inherited:
        path = f"/OS-INHERIT{path}/inherited_to_projects"
    links = {"assignment": call.url(path)}
    if grant.actor != one.actor:
        links["membership"] = call.url(f"/groups/{grant.actor_id}/users/{one.actor_id}")
    if one.prior_role_id is not None:
        links["prior_role"] = call.url(f"/prior_role/{one.role_id}/implies/{one.prior_role_id}")
    return links


_ID = {"type": ("string",)}
role_assignments = Route(
    method="GET",
    path="/role_assignments",
    handle=_list,
    query={"user.id": _ID, "group.id": _ID, "scope.project.id": DOMAIN_ID, "scope.domain.id": DOMAIN_ID},
)
