"""Which roles somebody has where: direct, through groups, inherited down the tree, implied by other roles.
One expansion, pure; what validates a token, lists effective assignments and lists reachable scopes only differ in
which records they gather for it. Source: keystone/assignment/core.py, list_role_assignments.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from regional_keystone.model import Grant, Implication, Membership, Project, Role, User
from regional_keystone.ports import Reader
from regional_keystone.token import DomainScope, ProjectScope, Scope, SystemScope, Unscoped

SYSTEM = "system"
"""Target, and id of the target, of a grant on the system."""

Place = tuple[str, str]
"""A target and its id: ("project", id), ("domain", id), ("system", "system")."""


class Effective(NamedTuple):
    """One role that a user has at one place, and where it comes from.

    `grant` is the stored one: its actor may be a group of the user, its target an ancestor. `prior_role_id` is the role
    that implies this one, None if it is the granted one itself.
    """

    user_id: str
    target: str
    target_id: str
    role_id: str
    grant: Grant
    prior_role_id: str | None = None


class Lacking(LookupError):
    """Somebody or something is not there, is disabled, or has no role: `reason` says which, in upstream's words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Who a user is and has in a scope, all of it there and enabled; `roles` by name, global ones only.

    `home` is the user's domain; `project` and its `domain`, or `domain` alone, are the scope's.
    """

    user: User
    home: Project
    project: Project | None = None
    domain: Project | None = None
    roles: tuple[Role, ...] = ()


def expand(
    grants: Iterable[Grant],
    members: Mapping[str, Sequence[str]],
    below: Mapping[str, Sequence[str]],
    implies: Mapping[str, Sequence[str]],
) -> Iterator[Effective]:
    """Everything that these grants give, once for each way by which it comes.

    `members`: group id -> its users. `below`: domain or project id -> the projects under it, all the way down.
    `implies`: role id -> the roles that it implies at once; cycles do no harm.
    """
    chains: dict[str, tuple[tuple[str, str | None], ...]] = {}
    for grant in grants:
        if grant.role_id not in chains:
            chains[grant.role_id] = tuple(_implied(grant.role_id, implies))
        for user_id in _users(grant, members):
            for target, target_id in places(grant, below):
                for role_id, prior in chains[grant.role_id]:
                    yield Effective(user_id, target, target_id, role_id, grant, prior)


def places(grant: Grant, below: Mapping[str, Sequence[str]]) -> Iterator[Place]:
    """Where a grant counts: on its target, or if it is inherited on every project below and not on the target."""
    if not grant.inherited:
        yield grant.target, grant.target_id
    elif grant.target != SYSTEM:
        for project_id in below.get(grant.target_id, ()):
            yield "project", project_id


async def effective(reader: Reader, user_id: str, scope: Scope, group_ids: Iterable[str] | None = None) -> list[Role]:
    """The roles of a user in a scope, by name; none that belongs to a domain, which only ever implies others.

    `group_ids` are the groups to count instead of the stored memberships. Reads of a project: the chain of its parents.
    """
    return await global_roles(reader, await held(reader, user_id, scope, group_ids))


async def held(reader: Reader, user_id: str, scope: Scope, group_ids: Iterable[str] | None = None) -> set[str]:
    """The ids of all roles of a user in a scope, also of those that belong to a domain."""
    place, above = await _place(reader, scope)
    if place is None:
        return set()
    groups = await groups_of(reader, user_id) if group_ids is None else list(group_ids)
    found = [grant for grant in await _grants(reader, user_id, groups) if _counts(grant, place, above)]
    below = dict.fromkeys(above, (place[1],))
    implies = await implications(reader, {grant.role_id for grant in found})
    return {one.role_id for one in expand(found, dict.fromkeys(groups, (user_id,)), below, implies)}


async def implied(reader: Reader, role_ids: Iterable[str]) -> set[str]:
    """These roles and all that follow from them."""
    return set(await implications(reader, role_ids))


async def global_roles(reader: Reader, role_ids: Iterable[str]) -> list[Role]:
    """Those of these roles that are there and belong to no domain, by name."""
    found = [await reader.get(Role, one) for one in sorted(role_ids)]
    return sorted((role for role in found if role and role.domain_id is None), key=lambda role: (role.name, role.id))


async def expanded(
    reader: Reader, grants: Sequence[Grant], members: Mapping[str, Sequence[str]] | None = None
) -> list[Effective]:
    """Everything that these grants give to whom and where, for a list of effective assignments.

    Roles that belong to a domain are not in it, only what they imply. `members` are the groups' users to count instead
    of the stored ones.
    """
    if members is None:
        members = await _members(reader, {grant.actor_id for grant in grants if grant.actor == "group"})
    roots = {(grant.target, grant.target_id) for grant in grants if grant.inherited and grant.target != SYSTEM}
    below = {root_id: [one.id for one in await descendants(reader, root_id)] for _, root_id in sorted(roots)}
    implies = await implications(reader, {grant.role_id for grant in grants})
    found = list(expand(grants, members, below, implies))
    shown = await _global(reader, {one.role_id for one in found})
    return [one for one in found if one.role_id in shown]


async def reachable(reader: Reader, user_id: str, group_ids: Iterable[str] | None = None) -> list[Effective]:
    """Every role that one user has, everywhere, for a list of the scopes that the user can ask for."""
    groups = await groups_of(reader, user_id) if group_ids is None else list(group_ids)
    grants = await _grants(reader, user_id, groups)
    return await expanded(reader, grants, dict.fromkeys(groups, (user_id,)))


async def standing(reader: Reader, user_id: str, scope: Scope, group_ids: Iterable[str] | None = None) -> Standing:
    """Who the user is and has in the scope. Raises Lacking if any of it is missing or disabled, or no role is left."""
    user, home = await present(reader, user_id)
    project, domain = await target(reader, scope)
    if not user.enabled:
        raise Lacking(f"The account is disabled for user: {user_id}.")
    roles = await effective(reader, user_id, scope, group_ids)
    if not roles and not isinstance(scope, Unscoped):
        raise Lacking(f"User {user_id} has no access to {_named(scope)}")
    return Standing(user=user, home=home, project=project, domain=domain, roles=tuple(roles))


async def present(reader: Reader, user_id: str) -> tuple[User, Project]:
    """A user and its domain, which is enabled; whether the user is, is not asked. Raises Lacking."""
    user = await reader.get(User, user_id)
    if user is None:
        raise Lacking(f"Could not find user: {user_id}.")
    return user, await _enabled_domain(reader, user.domain_id)


async def groups_of(reader: Reader, user_id: str) -> list[str]:
    """The groups that the user is a member of."""
    return [one.group_id for one in await reader.find(Membership, user_id=user_id)]


async def ancestors(reader: Reader, project: Project) -> list[str]:
    """The projects above this one, nearest first, and its domain last; a damaged tree ends where it is broken."""
    found: list[str] = []
    parent_id = project.parent_id
    while parent_id is not None and parent_id != project.id and parent_id not in found:
        found.append(parent_id)
        parent = await reader.get(Project, parent_id)
        parent_id = parent.parent_id if parent else None
    if project.domain_id is not None and project.domain_id not in found:
        found.append(project.domain_id)
    return found


async def descendants(reader: Reader, root_id: str) -> list[Project]:
    """The projects below a project or a domain, all the way down, parents before children."""
    found: dict[str, Project] = {}
    waiting = [root_id]
    while waiting:
        for child in await reader.find(Project, parent_id=waiting.pop(0)):
            if child.id not in found and child.id != root_id:
                found[child.id] = child
                waiting.append(child.id)
    return list(found.values())


async def implications(reader: Reader, role_ids: Iterable[str]) -> dict[str, list[str]]:
    """What these roles imply, and what those imply: role id -> ids of the roles that it implies at once."""
    found: dict[str, list[str]] = {}
    waiting = sorted(role_ids)
    while waiting:
        role_id = waiting.pop()
        if role_id not in found:
            found[role_id] = [one.implied_role_id for one in await reader.find(Implication, prior_role_id=role_id)]
            waiting.extend(found[role_id])
    return found


def _users(grant: Grant, members: Mapping[str, Sequence[str]]) -> Sequence[str]:
    return members.get(grant.actor_id, ()) if grant.actor == "group" else (grant.actor_id,)


def _implied(role_id: str, implies: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str | None]]:
    """The role itself, then what follows from it, each with the role that implies it."""
    yield role_id, None
    seen, waiting = {role_id}, [role_id]
    while waiting:
        prior = waiting.pop(0)
        for implied in implies.get(prior, ()):
            if implied not in seen:
                seen.add(implied)
                waiting.append(implied)
                yield implied, prior


async def _place(reader: Reader, scope: Scope) -> tuple[Place | None, Sequence[str]]:
    """Where the scope is, and the ids from which it inherits."""
    match scope:
        case Unscoped():
            return None, ()
        case SystemScope():
            return (SYSTEM, SYSTEM), ()
        case DomainScope():
            return ("domain", scope.domain_id), ()
        case ProjectScope():
            project = await reader.get(Project, scope.project_id)
            return ("project", scope.project_id), await ancestors(reader, project) if project else ()


def _counts(grant: Grant, place: Place, above: Sequence[str]) -> bool:
    if grant.inherited:
        return grant.target != SYSTEM and grant.target_id in above
    return (grant.target, grant.target_id) == place


async def _grants(reader: Reader, user_id: str, group_ids: Iterable[str]) -> list[Grant]:
    found = [one for one in await reader.find(Grant, actor_id=user_id) if one.actor == "user"]
    for group_id in group_ids:
        found += [one for one in await reader.find(Grant, actor_id=group_id) if one.actor == "group"]
    return found


async def _members(reader: Reader, group_ids: Iterable[str]) -> dict[str, list[str]]:
    found = {group_id: await reader.find(Membership, group_id=group_id) for group_id in sorted(group_ids)}
    return {group_id: [one.user_id for one in members] for group_id, members in found.items()}


async def _global(reader: Reader, role_ids: Iterable[str]) -> set[str]:
    roles = [await reader.get(Role, role_id) for role_id in sorted(role_ids)]
    return {role.id for role in roles if role and role.domain_id is None}


async def _enabled_domain(reader: Reader, domain_id: str) -> Project:
    domain = await reader.get(Project, domain_id)
    if domain is None or not domain.is_domain:
        raise Lacking(f"Could not find domain: {domain_id}.")
    if not domain.enabled:
        raise Lacking(f"Unable to validate token because domain {domain_id} is disabled")
    return domain


async def target(reader: Reader, scope: Scope) -> tuple[Project | None, Project | None]:
    """The project of a scope and its domain, or the domain alone, enabled. Raises Lacking."""
    match scope:
        case DomainScope():
            return None, await _enabled_domain(reader, scope.domain_id)
        case ProjectScope():
            project = await reader.get(Project, scope.project_id)
            if project is None or project.domain_id is None:
                raise Lacking(f"Could not find project: {scope.project_id}.")
            if not project.enabled:
                raise Lacking(f"Unable to validate token because project {scope.project_id} is disabled")
            return project, await _enabled_domain(reader, project.domain_id)
        case Unscoped() | SystemScope():
            return None, None


def _named(scope: Scope) -> str:
    match scope:
        case ProjectScope():
            return f"project {scope.project_id}"
        case DomainScope():
            return f"domain {scope.domain_id}"
        case Unscoped() | SystemScope():
            return "the system"
