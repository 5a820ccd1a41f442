"""The service catalog that a token shows: every enabled endpoint of every region, in a fixed order.
Read once for all tokens as a Catalog; one token's part of it is then text, the same bytes for all whose URLs are equal.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from regional_keystone.model import Endpoint, EndpointGroup, ProjectEndpoint, ProjectEndpointGroup, Service
from regional_keystone.ports import Reader

MAX_BYTES = 1 << 20
"""The largest catalog that is rendered, enough for thousands of endpoints; services that do not fit are left out."""

_NARROWED = 1000  # selections of which a catalog is kept
_PLACE = re.compile(r"[$%]\(([^()]*)\)(s?)")
_PROJECT = frozenset(("project_id", "tenant_id"))
_ALLOWED = _PROJECT | {"user_id"}
_encode = msgspec.json.Encoder().encode


class _Address(NamedTuple):
    """One endpoint: `parts` are literal texts and names, in turn, beginning and ending with a text."""

    shown: Mapping[str, Any]
    parts: tuple[str, ...]

    def url(self, values: Mapping[str, str]) -> str | None:
        if not all(name in values for name in self.parts[1::2]):
            return None
        return "".join(values[part] if place % 2 else part for place, part in enumerate(self.parts))


class _Listed(NamedTuple):
    service: Service
    addresses: tuple[_Address, ...]


class Catalog:
    """All that is enabled, ready to be rendered for anybody; `narrowed` to what a project was given.

    Services are in the order of type, name and id, endpoints in that of region, interface and id. `names` are further
    words that URLs may hold, `public_endpoint` and the like; with `all_if_none`, whoever was given nothing sees all.
    """

    def __init__(
        self,
        services: Iterable[Service],
        endpoints: Iterable[Endpoint],
        *,
        groups: Iterable[EndpointGroup] = (),
        names: Mapping[str, str] | None = None,
        all_if_none: bool = True,
        idle: bool = True,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """`idle`: whether services without endpoints are shown."""
        self._services, self._endpoints, self._groups = tuple(services), tuple(endpoints), tuple(groups)
        found: defaultdict[str, list[Endpoint]] = defaultdict(list)
        for endpoint in self._endpoints:
            if endpoint.enabled:
                found[endpoint.service_id].append(endpoint)
        enabled = sorted((one for one in self._services if one.enabled), key=lambda one: (one.type, one.name, one.id))
        self._listed = tuple(_Listed(one, tuple(_addresses(found[one.id]))) for one in enabled)
        self._names = {name for one in self._listed for each in one.addresses for name in each.parts[1::2]}
        self._given = dict(names or {})
        self._all_if_none, self._idle = all_if_none, idle
        self._max_bytes = max_bytes
        self._rendered: bytes | None = None
        self._narrowed: dict[frozenset[str], Catalog] = {}

    def narrowed(self, chosen: Iterable[str]) -> "Catalog":
        """What is seen by a project that was given these endpoints and groups of endpoints, by id.

        One object for all whose endpoints are the same; where they come to none it is as if nothing was given.
        """
        ids = self._ids(frozenset(chosen))
        if not ids and self._all_if_none:
            return self
        found = self._narrowed.get(ids)
        if found is None:
            if len(self._narrowed) >= _NARROWED:
                self._narrowed.clear()
            endpoints = [one for one in self._endpoints if one.id in ids]
            found = Catalog(self._services, endpoints, names=self._given, idle=False, max_bytes=self._max_bytes)
            self._narrowed[ids] = found
        return found

    def visible(self, user_id: str, project_id: str | None) -> list[Any]:
        """The catalog as upstream's JSON has it; an endpoint whose URL asks for what there is not is left out."""
        values = self._values(user_id, project_id)
        shown: list[Any] = []
        room = self._max_bytes
        for listed in self._listed:
            service = _shown(listed, values)
            if not self._idle and not service["endpoints"]:
                continue
            room -= len(_encode(service)) + 1
            if room > 0:
                shown.append(service)
        return shown

    def rendered(self, user_id: str, project_id: str | None) -> bytes:
        """The same as JSON; one object for all tokens for whom it is equal, if no URL names the user or the project."""
        if self._names & _ALLOWED:
            return _encode(self.visible(user_id, project_id))
        if self._rendered is None:
            self._rendered = _encode(self.visible(user_id, project_id))
        return self._rendered

    def _ids(self, chosen: frozenset[str]) -> frozenset[str]:
        if not chosen:
            return chosen
        filters = [one.filters for one in self._groups if one.id in chosen]
        return frozenset(
            one.id for one in self._endpoints if one.id in chosen or any(matches(one, each) for each in filters)
        )

    def _values(self, user_id: str, project_id: str | None) -> dict[str, str]:
        values = {**self._given, "user_id": user_id}
        if project_id is not None:
            values |= dict.fromkeys(_PROJECT, project_id)
        return values


async def visible(
    reader: Reader,
    *,
    names: Mapping[str, str] | None = None,
    all_if_none: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Catalog:
    """Reads what catalogs are made of: all services and endpoints, and groups of these."""
    services = [one async for one in reader.scan(Service)]
    endpoints = [one async for one in reader.scan(Endpoint)]
    groups = [one async for one in reader.scan(EndpointGroup)]
    return Catalog(services, endpoints, groups=groups, names=names, all_if_none=all_if_none, max_bytes=max_bytes)


async def chosen(reader: Reader, project_id: str) -> tuple[str, ...]:
    """The endpoints and groups of endpoints that a project was given, by id; most are given none."""
    endpoints = await reader.find(ProjectEndpoint, project_id=project_id)
    groups = await reader.find(ProjectEndpointGroup, project_id=project_id)
    return (*(one.endpoint_id for one in endpoints), *(one.endpoint_group_id for one in groups))


def names_in(url: str) -> frozenset[str] | None:
    """The names that a URL asks for; None for one that no substitution can complete."""
    parts = _parts(url)
    return None if parts is None else frozenset(parts[1::2])


async def any_chosen(reader: Reader) -> bool:
    """Whether any project was given anything."""
    return bool(await reader.page(ProjectEndpoint, None, 1) or await reader.page(ProjectEndpointGroup, None, 1))


def matches(endpoint: Endpoint, filters: Mapping[str, Any]) -> bool:
    """Whether an endpoint has all that a group of endpoints asks for."""
    return all(getattr(endpoint, name, None) == value for name, value in filters.items())


def _addresses(endpoints: Iterable[Endpoint]) -> Iterable[_Address]:
    for one in sorted(endpoints, key=lambda one: (one.region_id or "", one.interface, one.id)):
        parts = _parts(one.url)
        if parts:
            shown = {
                "id": one.id,
                "interface": one.interface,
                "region_id": one.region_id,
                "url": "",
                "region": one.region_id,
            }
            yield _Address(shown | {name: value for name, value in one.extra.items() if name not in shown}, parts)


def _parts(url: str) -> tuple[str, ...] | None:
    """Texts and names in turn; None for a URL that no substitution can complete.

    Upstream writes with `%`, so `%%` is one per cent; any other use of it is malformed there and here.
    """
    split = _PLACE.split(url)
    texts, names, ends = split[::3], split[1::3], split[2::3]
    if not all(ends) or any("$(" in text or "%" in text.replace("%%", "") for text in texts):
        return None
    plain = [text.replace("%%", "%") for text in texts]
    return tuple(part for pair in zip(plain, [*names, ""], strict=True) for part in pair)[:-1]


def _shown(listed: _Listed, values: Mapping[str, str]) -> dict[str, Any]:
    urls = ((address, address.url(values)) for address in listed.addresses)
    endpoints = [{**address.shown, "url": url} for address, url in urls if url]
    return {
        "endpoints": endpoints,
        "id": listed.service.id,
        "type": listed.service.type,
        "name": listed.service.name,
    }
