"""Endpoints: where a service is reached. Below the tables, since filters and policies show them too.

Source: keystone/api/endpoints.py, keystone/catalog/core.py, keystone/catalog/schema.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from regional_keystone.api.rules import check_length, is_web
from regional_keystone.api.shapes import Attributes, Call, Resource
from regional_keystone.catalog import names_in
from regional_keystone.errors import Invalid, expecting
from regional_keystone.log import Change, put
from regional_keystone.model import Endpoint, Region, Service

SUBSTITUTIONS = ("tenant_id", "project_id", "user_id", "compute_host", "public_endpoint")
_TEXT: Mapping[str, Any] = {"type": ("string", "null")}
_ID = 64  # no id of a service or of an endpoint is longer


async def _prepare_endpoint(call: Call, old: Endpoint | None, sent: Attributes) -> Attributes:
    """The deprecated `region` names a region as `region_id` does, and makes it if it is not there."""
    del call, old
    named = sent.pop("region", None)
    check_length(sent, "legacy_endpoint_id", _ID)
    if isinstance(sent.pop("legacy_endpoint_id", None), list | dict):
        raise Invalid("Invalid input for field/attribute legacy_endpoint_id. It is no text")
    if sent.get("region_id") is None and named is not None:
        sent["region_id"] = named
    if not 1 <= len(sent.get("service_id", "id")) <= _ID:
        raise expecting("endpoint service_id", "service table")
    if "url" in sent:
        _check_url(sent["url"])
    return sent


async def _on_endpoint(call: Call, old: Endpoint | None, new: Endpoint | None) -> Iterable[Change]:
    if new is None:
        return ()
    changes: tuple[Change, ...] = ()
    if new.region_id is not None and (old is None or old.region_id != new.region_id):
        changes = await _region_of(call, new.region_id)
    if (old is None or old.service_id != new.service_id) and not await call.reader.get(Service, new.service_id):
        raise expecting("endpoint service_id", "service table")
    return changes


async def _region_of(call: Call, region_id: str) -> tuple[Change, ...]:
    if await call.reader.get(Region, region_id):
        return ()
    if call.body["endpoint"].get("region_id") is not None or not region_id:
        raise expecting("endpoint region_id", "region table")
    check_length({"id": region_id}, "id", 255)
    return (put(Region(id=region_id)),)


async def _show_endpoint(call: Call, record: Endpoint, found: Attributes) -> Attributes:
    del call
    return {**found, "region": record.region_id}


def _check_url(url: str) -> None:
    """Raise Invalid for what clients cannot or should not follow: another scheme, a name that is never filled in."""
    names = names_in(url)
    if names is None or not names.issubset(SUBSTITUTIONS) or not is_web(url):
        raise Invalid(f"Cannot create an endpoint with an invalid URL: {url}.")


ENDPOINTS = Resource(
    record=Endpoint,
    member="endpoint",
    collection="endpoints",
    late={"create": "missing"},
    filters="interface service_id region_id",
    accepts={
        "interface": {"type": ("string",), "enum": ("admin", "internal", "public")},
        "service_id": {"type": ("string",)},
        "region_id": _TEXT,
        "region": _TEXT,
        "name": {"type": ("string",)},
        "description": _TEXT,
    },
    prepare=_prepare_endpoint,
    show=_show_endpoint,
    hook=_on_endpoint,
)
