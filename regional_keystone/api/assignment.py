"""Roles, what they imply, who holds which where: grants as one loop over their families, assignments as one list.

Source: keystone/assignment/core.py, keystone/api/role_assignments.py.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import product

from regional_keystone.api.assignments import role_assignments
from regional_keystone.api.rules import DOMAIN_ID, IMMUTABLE, check_change, check_length, check_removal, merged
from regional_keystone.api.shapes import Attributes, Call, Edge, Resource, Result, Route, Shape
from regional_keystone.api.verbs import found_or_refused
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound
from regional_keystone.log import Change
from regional_keystone.model import Grant, Group, Implication, Project, Role, User
from regional_keystone.record import Record
from regional_keystone.roles import SYSTEM

NEVER_IMPLIED = frozenset({"admin"})


async def _prepare_role(call: Call, old: Role | None, sent: Attributes) -> Attributes:
    del call
    if old is not None:
        check_change("role", old, sent)
        if sent.get("domain_id", old.domain_id) != old.domain_id:
            raise Invalid("Update of `domain_id` is not allowed.")
    check_length(sent, "description", 255)
    if "options" in sent:
        sent["options"] = merged(old.options if old else {}, sent["options"])
    return sent


async def _on_role(call: Call, old: Role | None, new: Role | None) -> Iterable[Change]:
    del call
    if old is not None and new is None:
        check_removal("role", old)
    return ()


def _word(about: Attributes) -> str:
    return "domain_role" if about.get("domain_id") else "role"


def _listed(call: Call) -> Callable[[Role], bool] | None:
    """Whether a list shows a role: those of a domain only if that domain is asked for."""
    return None if call.query("domain_id") else lambda role: role.domain_id is None


async def _on_implication(call: Call, old: Implication | None, new: Implication | None) -> Iterable[Change]:
    if new is None:
        return ()
    prior = await found_or_refused(call, Role, new.prior_role_id)
    implied = await found_or_refused(call, Role, new.implied_role_id)
    if implied.name in NEVER_IMPLIED or (prior.domain_id is None and implied.domain_id):
        raise Forbidden(f"{implied.id} cannot be an implied roles.")
    if old is not None:
        raise Conflict("Conflict occurred attempting to store implied_role - Duplicate entry.")
    return ()


async def _inference(call: Call, link: Implication) -> Attributes:
    implied = await _short(call, link.implied_role_id)
    place = f"/roles/{link.prior_role_id}/implies/{link.implied_role_id}"
    inference = {"prior_role": await _short(call, link.prior_role_id), "implies": implied}
    return {"role_inference": inference, "links": {"self": call.url(place)}}


async def _short(call: Call, role_id: str) -> Attributes:
    role = await found_or_refused(call, Role, role_id)
    return {"id": role.id, "links": {"self": call.url(f"/roles/{role.id}")}, "name": role.name}


async def _list_implied(call: Call) -> Result:
    prior_id = call.path["prior_role_id"]
    prior = await _short(call, prior_id)
    call.enforce("identity:list_implied_roles", {"target": {"prior_role": {"id": prior_id}}})
    links = await call.reader.find(Implication, prior_role_id=prior_id)
    inference = {"prior_role": prior, "implies": [await _short(call, one.implied_role_id) for one in links]}
    return Result(body={"role_inference": inference, "links": {"self": call.url(f"/roles/{prior_id}/implies")}})


async def _check_implied(call: Call) -> Result:
    """HEAD of one implication, which upstream gives a policy and a status of its own."""
    prior, implied = call.path["prior_role_id"], call.path["implied_role_id"]
    for role_id in (prior, implied):
        await found_or_refused(call, Role, role_id)
    for action in ("check_implied_role", "get_implied_role"):
        call.enforce(f"identity:{action}", {"target": {"prior_role": {"id": prior}, "implied_role": {"id": implied}}})
    if await call.reader.get(Implication, prior, implied) is None:
        raise NotFound(f"{prior} does not imply {implied}.")
    return Result(status=204)


async def _inferences(call: Call) -> Result:
    call.enforce("identity:list_role_inference_rules")
    found: dict[str, list[Attributes]] = {}
    async for link in call.reader.scan(Implication):
        found.setdefault(link.prior_role_id, []).append(await _short(call, link.implied_role_id))
    rules = [{"prior_role": await _short(call, prior), "implies": implied} for prior, implied in found.items()]
    return Result(body={"role_inferences": rules})


IMPLIED = Edge(
    path="/roles/{prior_role_id}/implies/{implied_role_id}",
    record=Implication,
    ends={"prior_role_id": Role, "implied_role_id": Role},
    actions={
        "make": "identity:create_implied_role",
        "tell": "identity:get_implied_role",
        "break": "identity:delete_implied_role",
    },
    missing="{prior_role_id} does not imply {implied_role_id}.",
    first=True,
    tell=_inference,
    hook=_on_implication,
)

_ACTORS: Mapping[str, type[Record]] = {"user": User, "group": Group}
_ON: Mapping[str, type[Record]] = {"project": Project, "domain": Project}
_VERBS = {"make": "create", "tell": "check", "break": "revoke", "list": "list"}


def _family(target: str, actor: str, *, inherited: bool) -> Edge:
    """One family of grants: what is granted on, to whom, and whether it is for what is below instead."""
    whole = f"/{target}s/{{{target}_id}}/{actor}s/{{{actor}_id}}/roles/{{role_id}}"
    verbs = {one: verb for one, verb in _VERBS.items() if one != "list" or not inherited or target == "domain"}
    return Edge(
        path=f"/OS-INHERIT{whole}/inherited_to_projects" if inherited else whole,
        record=Grant,
        ends=_ends(target, actor, inherited=inherited),
        lists="role_id",
        actions={one: f"identity:{verb}_grant{'s' if one == 'list' else ''}" for one, verb in verbs.items()},
        fields=_fields(target, actor, inherited=inherited),
        may_lack=f"{actor}_id",
        first=not inherited,
        missing=_missing(actor, f"{{{target}_id}}"),
        hook=_on_grant,
    )


def _ends(target: str, actor: str, *, inherited: bool) -> Mapping[str, type[Record]]:
    """What must be there, in upstream's order: of several that are not, the first is named."""
    role, where = {"role_id": Role}, {f"{target}_id": _ON[target]}
    whom = {f"{actor}_id": _ACTORS[actor]}
    if target == "project":
        return {**role, **whom, **where}
    return {**role, **where, **whom} if inherited else {**where, **role, **whom}


def _system(actor: str) -> Edge:
    plural = {"list": f"identity:list_system_grants_for_{actor}"}
    return Edge(
        path=f"/system/{actor}s/{{{actor}_id}}/roles/{{role_id}}",
        record=Grant,
        ends={"role_id": Role, f"{actor}_id": _ACTORS[actor]},
        lists="role_id",
        actions={one: f"identity:{verb}_system_grant_for_{actor}" for one, verb in _VERBS.items()} | plural,
        fields=_fields(SYSTEM, actor, inherited=False),
        may_lack=f"{actor}_id",
        first=True,
        missing=_missing(actor, SYSTEM),
        hook=_on_grant,
    )


def _fields(target: str, actor: str, *, inherited: bool) -> Callable[[Mapping[str, str]], Attributes]:
    def fields(path: Mapping[str, str]) -> Attributes:
        held = {"actor": actor, "actor_id": path[f"{actor}_id"], "role_id": path["role_id"]}
        return {**held, "target": target, "target_id": path.get(f"{target}_id", SYSTEM), "inherited": inherited}

    return fields


def _missing(actor: str, place: str) -> str:
    whole = f"role: {{role_id}}, user or group: {{{actor}_id}}, project, domain, or system: {place}"
    return f"Could not find role assignment with {whole}."


async def _on_grant(call: Call, old: Grant | None, new: Grant | None) -> Iterable[Change]:
    """A role of a domain stays in its domain."""
    if old is not None or new is None:
        return ()
    role = await call.reader.get(Role, new.role_id)
    if role is None or role.domain_id is None:
        return ()
    if new.target == SYSTEM:
        about = "Unable to use a domain-specific role in a system assignment."
        raise Invalid(f"Role {role.id} is a domain-specific role. {about}")
    project = await call.reader.get(Project, new.target_id)
    if new.target == "project" and project is not None and project.domain_id != role.domain_id:
        raise Forbidden(f"Project {project.id} must be in the same domain as the role {role.id} being assigned.")
    return ()


ROLES = Resource(
    record=Role,
    member="role",
    collection="roles",
    filters="name domain_id",
    first="get update delete",
    accepts={"domain_id": {**DOMAIN_ID, "type": ("string", "null")}, "options": IMMUTABLE},
    kind=_word,
    only=_listed,
    prepare=_prepare_role,
    hook=_on_role,
)
_FAMILIES = product(_ON, _ACTORS, (False, True))
_ONE = IMPLIED.path

SHAPES: list[Shape] = [
    ROLES,
    IMPLIED,
    Route(method="HEAD", path=_ONE, handle=_check_implied),
    Route(method="GET", path="/roles/{prior_role_id}/implies", handle=_list_implied),
    Route(method="GET", path="/role_inferences", handle=_inferences),
    *(_family(target, actor, inherited=inherited) for target, actor, inherited in _FAMILIES),
    *(_system(actor) for actor in _ACTORS),
    role_assignments,
]
