"""Identity providers, their protocols, mappings, service providers: resources that clients name.

A client's PUT names the record; what upstream's schemas do not name is refused. The steps of the protocols are not
here. Source: keystone/api/os_federation.py, keystone/federation/core.py, keystone/federation/backends/sql.py.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from regional_keystone.api.fields import attributes_of, built, parted, shown
from regional_keystone.api.mapping_rules import DEFAULT_VERSION, check_mapping
from regional_keystone.api.rules import DOMAIN_ID, SWITCH, check_length, is_web
from regional_keystone.api.shapes import Attributes, Call, Hook, Result, Route, Shape, nothing
from regional_keystone.api.verbs import found_or_refused, listing
from regional_keystone.errors import Conflict, Invalid, NotFound, expecting
from regional_keystone.log import Change, put, remove
from regional_keystone.model import (
    AttributeMapping,
    FederatedUser,
    FederationProtocol,
    IdentityProvider,
    Project,
    ServiceProvider,
)
from regional_keystone.record import Record, facts

_BASE = "/OS-FEDERATION"
_TEXT: Mapping[str, Any] = {"type": ("string", "null")}
_REMOTE_ID: Mapping[str, Any] = {"type": ("string",), "maxLength": 64}
_URL: Mapping[str, Any] = {"type": ("string",), "minLength": 0, "maxLength": 225, "pattern": "^[a-zA-Z0-9+.-]+:.+"}
_ID: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 64}
_LONGEST_ID = 64

Prepare = Callable[[Call, Any, Attributes], Awaitable[Attributes]]
Show = Callable[[Call, Any], Attributes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """PUT under an id, GET, PATCH and DELETE of one record, and their list.

    `key` names the path arguments that are the record's key; `created` and `changed` are schemas of whole bodies.
    """

    record: type[Record]
    member: str
    collection: str
    path: str
    key: tuple[str, ...]
    missing: str  # what is said of one that is not there, with path arguments in braces
    created: Mapping[str, Any]
    changed: Mapping[str, Any]
    prepare: Prepare
    show: Show
    listed: Show
    filters: str = ""
    taken: str = "Duplicate entry found with ID {id}."
    late: Mapping[str, str] = field(default_factory=dict)  # "create", "update" -> what counts of a body later
    hook: Hook = nothing

    def routes(self) -> list[Route]:
        """All that is answered for it."""
        one = f"{self.path}/{{{self.key[-1]}}}"
        query = {name: SWITCH if name == "enabled" else {"type": ("string",)} for name in self.filters.split()}
        return [
            Route(method="GET", path=self.path, handle=self.every, query=query),
            Route(
                method="PUT",
                path=one,
                handle=self.create,
                changes="log",
                **parted(self.created, self.late.get("create", "")),
            ),
            Route(method="GET", path=one, handle=self.get),
            Route(
                method="PATCH",
                path=one,
                handle=self.update,
                changes="log",
                **parted(self.changed, self.late.get("update", "")),
            ),
            Route(method="DELETE", path=one, handle=self.delete, changes="log"),
        ]

    async def create(self, call: Call) -> Result:
        """A new one with the id of the path."""
        call.enforce(f"identity:create_{self.member}")
        name = call.path[self.key[-1]]
        sent = await self.prepare(call, None, dict(call.body.get(self.member, {})))
        check_length({"id": name}, "id", _LONGEST_ID)
        new = built(self.record, {**sent, **dict(zip(facts(self.record).key, self._key(call), strict=True))})
        changes = await self.hook(call, None, new)
        if await call.reader.get(self.record, *self._key(call)) is not None:
            raise _conflict(self.record, self.taken.format(id=name))
        return Result(status=201, body=self._body(call, new), changes=(*changes, put(new)))

    async def every(self, call: Call) -> Result:
        """All of them, or all below one."""
        call.enforce(f"identity:list_{self.collection}")
        near = {name: call.path[name] for name in self.key[:-1]}
        if near:
            rows = await call.reader.find(self.record, **near)
        else:
            rows = [row async for row in call.reader.scan(self.record)]
        return Result(body=listing(call, self.collection, [self.listed(call, row) for row in rows], self.filters))

    async def get(self, call: Call) -> Result:
        """The one that the path names."""
        call.enforce(f"identity:get_{self.member}")
        return Result(body=self._body(call, await self._found(call)))

    async def update(self, call: Call) -> Result:
        """The one that the path names, with what was sent."""
        call.enforce(f"identity:update_{self.member}")
        sent = await self.prepare(call, await call.reader.get(self.record, *self._key(call)), call.body[self.member])
        old = await self._found(call)
        new = built(self.record, {**attributes_of(old), **sent})
        changes = await self.hook(call, old, new)
        return Result(body=self._body(call, new), changes=(*changes, put(new, old)) if new != old else tuple(changes))

    async def delete(self, call: Call) -> Result:
        """The end of the one that the path names."""
        call.enforce(f"identity:delete_{self.member}")
        old = await self._found(call)
        changes = await self.hook(call, old, None)
        return Result(status=204, changes=(*changes, remove(old)))

    def _key(self, call: Call) -> tuple[str, ...]:
        return tuple(call.path[name] for name in self.key)

    async def _found(self, call: Call) -> Record:
        found = await call.reader.get(self.record, *self._key(call))
        if found is None:
            raise NotFound(self.missing.format(**call.path))
        return found

    def _body(self, call: Call, record: Record) -> Attributes:
        return {self.member: self.show(call, record)}


def _conflict(kind: type[Record], reason: str) -> Conflict:
    return Conflict(f"Conflict occurred attempting to store {_WORDS[kind]} - {reason}")


_WORDS: Mapping[type[Record], str] = {
    IdentityProvider: "identity_provider",
    FederationProtocol: "federation_protocol",
    AttributeMapping: "mapping",
    ServiceProvider: "service_provider",
}


def _schema(member: str, properties: Mapping[str, Any], **rules: Any) -> dict[str, Any]:
    """The schema of a body that holds nothing but this member, and of a member that holds nothing but these."""
    inner = {"type": ("object",), "properties": properties, "additionalProperties": False, **rules}
    outer = {"type": ("object",), "properties": {member: inner}, "additionalProperties": False}
    return {**outer, "required": (member,)}


def _seen(call: Call, place: str, record: Record) -> Attributes:
    found = shown(record)
    return {**found, "links": {"self": call.url(f"{_BASE}/{place}/{found['id']}")}}


async def _prepare_provider(call: Call, old: IdentityProvider | None, sent: Attributes) -> Attributes:
    if "remote_ids" in sent:
        sent = {**sent, "remote_ids": sent["remote_ids"] or []}
    if old is None and call.request.method == "PUT":
        sent = {**sent, "domain_id": sent.get("domain_id") or call.fresh("domain")}
    return sent


async def _on_provider(call: Call, old: IdentityProvider | None, new: IdentityProvider | None) -> Iterable[Change]:
    """Makes the domain of a new one that was given none, and refuses what another one is called elsewhere."""
    if new is None:
        return ()
    changes: tuple[Change, ...] = ()
    if old is None:
        changes = await _home(call, new)
    if set(new.remote_ids) - set(old.remote_ids if old else ()):
        async for other in call.reader.scan(IdentityProvider):
            taken = sorted(set(other.remote_ids).intersection(new.remote_ids))
            if other.id != new.id and taken:
                raise _conflict(IdentityProvider, f"Duplicate remote ID: {taken[0]}.")
    return changes


async def _home(call: Call, new: IdentityProvider) -> tuple[Change, ...]:
    if call.body.get("identity_provider", {}).get("domain_id"):
        domain = await call.reader.get(Project, new.domain_id)
        if domain is None or not domain.is_domain:
            raise NotFound(f"Could not find domain: {new.domain_id}.")
        return ()
    text = f"Auto generated federated domain for Identity Provider: {new.id}"
    return (put(Project(id=new.domain_id, name=new.domain_id, is_domain=True, description=text)),)


def _show_provider(call: Call, record: Record) -> Attributes:
    """Who changes it sees the remote ids in the order that was sent, everybody else sorted, as upstream has it."""
    found = _seen(call, "identity_providers", record)
    return found if call.request.method in {"PUT", "PATCH"} else {**found, "remote_ids": sorted(found["remote_ids"])}


def _list_provider(call: Call, record: Record) -> Attributes:
    found = _show_provider(call, record)
    links = found["links"]
    return {**found, "links": {**links, "protocols": f"{links['self']}/protocols"}}


async def _prepare_protocol(call: Call, old: FederationProtocol | None, sent: Attributes) -> Attributes:
    if await call.reader.get(AttributeMapping, sent["mapping_id"]) is None:
        raise Invalid(f"Invalid mapping id: {sent['mapping_id']}")
    if old is None and call.request.method == "PUT":
        await found_or_refused(call, IdentityProvider, call.path["idp_id"], "Identity Provider")
    return sent


async def _on_protocol(call: Call, old: FederationProtocol | None, new: FederationProtocol | None) -> Iterable[Change]:
    """Whom the provider knows by a protocol that goes, it knows by it no more."""
    if old is None or new is not None:
        return ()
    rows = await call.reader.find(FederatedUser, idp_id=old.idp_id)
    return [remove(row) for row in rows if row.protocol_id == old.id]


def _list_protocol(call: Call, record: Record) -> Attributes:
    """Upstream's links, which leave out what is between; kept, because clients compare them."""
    found = shown(record)
    links = {"self": call.url(f"/protocols/{found['id']}"), "identity_provider": call.url(f"/{found['idp_id']}")}
    return {**found, "links": links}


def _show_protocol(call: Call, record: Record) -> Attributes:
    found = _list_protocol(call, record)
    return {name: found[name] for name in ("id", "mapping_id", "links")}


async def _prepare_mapping(call: Call, old: AttributeMapping | None, sent: Attributes) -> Attributes:
    """What else was sent is left out, as upstream does it."""
    del call, old
    sent = {**sent, "schema_version": sent.get("schema_version") or DEFAULT_VERSION}
    check_mapping(sent)
    return {name: sent[name] for name in ("rules", "schema_version")}


async def _prepare_service(call: Call, old: ServiceProvider | None, sent: Attributes) -> Attributes:
    del call, old
    check_length(sent, "relay_state_prefix", 256)
    for name in ("auth_url", "sp_url"):
        if name in sent and not is_web(sent[name]):
            raise Invalid(f"The {name} of a service provider must be an address of the web: {sent[name]}.")
    if "relay_state_prefix" in sent and sent["relay_state_prefix"] is None:
        raise expecting("relay_state_prefix", "service_provider")
    return sent


_PROVIDER: Mapping[str, Any] = {
    "enabled": SWITCH,
    "description": _TEXT,
    "authorization_ttl": {"type": ("integer", "null"), "minimum": 0},
    "remote_ids": {"type": ("array", "null"), "items": _REMOTE_ID, "uniqueItems": True},
}
_NEW_PROVIDER = {**_PROVIDER, "domain_id": {**DOMAIN_ID, "type": ("string", "null")}}
_NEW_PROTOCOL = {"mapping_id": _ID, "remote_id_attribute": {**_REMOTE_ID, "type": ("string", "null")}}
_SERVICE: Mapping[str, Any] = {
    "auth_url": _URL,
    "sp_url": _URL,
    "enabled": SWITCH,
    "description": _TEXT,
    "relay_state_prefix": _TEXT,
}
_MAPPING: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {"mapping": {"type": ("object",)}},
    "required": ("mapping",),
    "additionalProperties": False,
}
_ALL = (
    _Named(
        record=IdentityProvider,
        member="identity_provider",
        collection="identity_providers",
        path=f"{_BASE}/identity_providers",
        key=("idp_id",),
        missing="Could not find Identity Provider: {idp_id}.",
        created={**_schema("identity_provider", _NEW_PROVIDER), "required": ()},
        changed=_schema("identity_provider", _PROVIDER, minProperties=1),
        prepare=_prepare_provider,
        show=_show_provider,
        listed=_list_provider,
        filters="id enabled",
        taken="Duplicate entry: {id}.",
        late={"update": "other"},
        hook=_on_provider,
    ),
    _Named(
        record=FederationProtocol,
        member="protocol",
        collection="protocols",
        path=f"{_BASE}/identity_providers/{{idp_id}}/protocols",
        key=("idp_id", "protocol_id"),
        missing="Could not find federated protocol {protocol_id} for Identity Provider: {idp_id}.",
        created=_schema("protocol", _NEW_PROTOCOL, required=("mapping_id",)),
        changed=_schema(
            "protocol",
            {"mapping_id": _ID, "remote_id_attribute": _REMOTE_ID},
            required=("mapping_id",),
            minProperties=1,
        ),
        prepare=_prepare_protocol,
        show=_show_protocol,
        listed=_list_protocol,
        hook=_on_protocol,
    ),
    _Named(
        record=AttributeMapping,
        member="mapping",
        collection="mappings",
        path=f"{_BASE}/mappings",
        key=("mapping_id",),
        missing="Could not find mapping: {mapping_id}.",
        created=_MAPPING,
        changed=_MAPPING,
        prepare=_prepare_mapping,
        show=lambda call, record: _seen(call, "mappings", record),
        listed=lambda call, record: _seen(call, "mappings", record),
        taken="Duplicate entry.",
        late={"create": "all", "update": "all"},
    ),
    _Named(
        record=ServiceProvider,
        member="service_provider",
        collection="service_providers",
        path=f"{_BASE}/service_providers",
        key=("service_provider_id",),
        missing="Could not find Service Provider: {service_provider_id}.",
        created=_schema("service_provider", _SERVICE, required=("auth_url", "sp_url")),
        changed=_schema("service_provider", _SERVICE, minProperties=1),
        prepare=_prepare_service,
        show=lambda call, record: _seen(call, "service_providers", record),
        listed=lambda call, record: _seen(call, "service_providers", record),
        filters="id enabled",
    ),
)
SHAPES: list[Shape] = [route for one in _ALL for route in one.routes()]
