"""Regions, services, endpoints: what a token's catalog is made of.

Source: keystone/catalog/core.py, keystone/catalog/schema.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from regional_keystone.api.endpoints import ENDPOINTS
from regional_keystone.api.shapes import Attributes, Call, Resource, Shape
from regional_keystone.errors import Forbidden, Invalid, NotFound
from regional_keystone.log import Change
from regional_keystone.model import Endpoint, Region, Service
from regional_keystone.ports import Reader

_REGION_ID: Mapping[str, Any] = {"type": ("string", "null"), "maxLength": 255}


async def _prepare_region(call: Call, old: Region | None, sent: Attributes) -> Attributes:
    del call, old
    if "description" in sent:
        sent["description"] = sent["description"] or ""
    if not sent.get("id"):
        sent.pop("id", None)
    return sent


async def _on_region(call: Call, old: Region | None, new: Region | None) -> Iterable[Change]:
    if old and not new and await _has_endpoints(call.reader, old.id):
        about = "or its child regions have associated endpoints"
        raise Forbidden(f"Unable to delete region {old.id} because it {about}.")
    if new:
        await _check_parent(call.reader, new)
    return ()


async def _has_endpoints(reader: Reader, region_id: str) -> bool:
    """Whether this region, or one below it, is where an endpoint is."""
    seen, waiting = {region_id}, [region_id]
    while waiting:
        one = waiting.pop()
        if await reader.find(Endpoint, region_id=one):
            return True
        below = {child.id for child in await reader.find(Region, parent_region_id=one)} - seen
        seen |= below
        waiting += below
    return False


async def _check_parent(reader: Reader, new: Region) -> None:
    """Raise Invalid if the parents of this region lead back to it."""
    seen, parent_id = {new.id}, new.parent_region_id
    while parent_id is not None:
        parent = await reader.get(Region, parent_id)
        if parent is None:
            raise NotFound(f"Could not find region: {parent_id}.")
        if parent_id in seen:
            raise Invalid(f"The specified parent region {new.id} would create a circular region hierarchy.")
        seen.add(parent_id)
        parent_id = parent.parent_region_id


SHAPES: list[Shape] = [
    Resource(
        record=Region,
        member="region",
        collection="regions",
        late={"create": "other"},
        verbs="create list show put update delete",
        filters="parent_region_id",
        accepts={
            "id": _REGION_ID,
            "parent_region_id": {**_REGION_ID, "minLength": 1},
            "description": {"type": ("string", "null"), "maxLength": 255},
        },
        prepare=_prepare_region,
        hook=_on_region,
    ),
    Resource(
        record=Service,
        member="service",
        collection="services",
        late={"create": "missing other", "update": "other"},
        filters="type name",
        accepts={"name": {"type": ("string",), "minLength": 1, "maxLength": 255}},
    ),
    ENDPOINTS,
]
