"""How the limits of a domain and of its projects relate: not at all, or a project's is never above its domain's.

Source: keystone/limit/models.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from regional_keystone.errors import Forbidden
from regional_keystone.model import Limit, Project, RegisteredLimit
from regional_keystone.ports import Reader
from regional_keystone.roles import descendants


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An enforcement model: `check` raises Forbidden for limits that it does not allow beside those that are stored.

    `depth`: how many projects may be below each other in a domain; None: it does not matter.
    """

    name: str
    description: str
    check: Callable[[Reader, Sequence[Limit]], Awaitable[None]]
    depth: int | None = None


async def _anything(reader: Reader, limits: Sequence[Limit]) -> None:
    del reader, limits


async def _two_levels(reader: Reader, limits: Sequence[Limit]) -> None:
    for limit in limits:
        if not await _fits(reader, limit, limits):
            raise Forbidden(f"Invalid resource limit: {_told(limit)}.")


async def _fits(reader: Reader, limit: Limit, together: Iterable[Limit]) -> bool:
    """Whether a limit is not above its parent's and not below its children's.

    A parent's that comes with it in one request counts instead of the stored one.
    """
    if limit.project_id is None:
        return await _above_children(reader, limit)
    project = await reader.get(Project, limit.project_id)
    parent_id = project.parent_id if project else None
    for other in together:
        if other.domain_id is not None and other.domain_id == parent_id and _same(other, limit):
            return limit.resource_limit <= other.resource_limit
    bound = await _of_domain(reader, parent_id, limit) if parent_id else None
    return bound is None or limit.resource_limit <= bound


async def _above_children(reader: Reader, limit: Limit) -> bool:
    for project in await descendants(reader, limit.domain_id or ""):
        stored = await reader.find(Limit, project_id=project.id)
        if any(_same(one, limit) and limit.resource_limit < one.resource_limit for one in stored):
            return False
    return True


async def _of_domain(reader: Reader, domain_id: str, limit: Limit) -> int | None:
    """What the domain is limited to: its own limit, else the registered default."""
    for one in await reader.find(Limit, domain_id=domain_id):
        if _same(one, limit):
            return one.resource_limit
    for registered in await reader.find(RegisteredLimit, service_id=limit.service_id):
        if _same(registered, limit):
            return registered.default_limit
    return None


def _same(one: Limit | RegisteredLimit, other: Limit) -> bool:
    names = ("service_id", "region_id", "resource_name")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _told(limit: Limit) -> str:
    level, owner = ("project_id", limit.project_id) if limit.project_id else ("domain_id", limit.domain_id)
    return (
        f"The resource limit ({level}: {owner}, resource_name: {limit.resource_name}, "
        f"resource_limit: {limit.resource_limit}, service_id: {limit.service_id}, "
        f"region_id: {limit.region_id}) doesn't satisfy current hierarchy model."
    )


FLAT = Model(
    name="flat",
    description="Limit enforcement and validation does not take project hierarchy into consideration.",
    check=_anything,
)
_FOUND = (
    FLAT,
    Model(
        name="strict_two_level",
        description="This model requires project hierarchy never exceeds a depth of two",
        check=_two_levels,
        depth=2,
    ),
)
MODELS: Mapping[str, Model] = {one.name: one for one in _FOUND}


def model_named(name: str) -> Model:
    """The model of this name. Raises ValueError for one that there is not."""
    if name not in MODELS:
        raise ValueError(f"unified_limit.enforcement_model = {name}: one of {', '.join(MODELS)}")
    return MODELS[name]
