"""Regions, services, endpoints; which projects see which; the policies of services.

Source: keystone/catalog/backends/sql.py, keystone/endpoint_policy, keystone/policy.
"""

from typing import Annotated

from msgspec import Meta

from regional_keystone.model.words import Text, Url
from regional_keystone.record import FIXED, SERVER, Id, Json, Name, Record, Ref, table


@table("regions", by="parent_region_id", small=True)
class Region(Record, frozen=True, kw_only=True):
    """A place with endpoints of its own; regions nest."""

    id: Annotated[str, FIXED, Meta(min_length=1, max_length=255)]
    description: Text = ""
    parent_region_id: Annotated[str | None, Ref("regions", "cascade")] = None
    extra: Json = {}


@table("services", small=True)
class Service(Record, frozen=True, kw_only=True):
    """A kind of service that the catalog lists."""

    id: Annotated[Id, SERVER]
    type: Name
    name: str = ""
    enabled: bool = True
    extra: Json = {}


@table("endpoints", by="service_id region_id", small=True)
class Endpoint(Record, frozen=True, kw_only=True):
    """Where one interface of a service is reached in one region."""

    id: Annotated[Id, SERVER]
    service_id: Annotated[Id, Ref("services", "cascade")]
    interface: str
    url: Url
    region_id: Annotated[str | None, Ref("regions", "refuse")] = None
    enabled: bool = True
    extra: Json = {}


@table("endpoint_groups", small=True)
class EndpointGroup(Record, frozen=True, kw_only=True):
    """Endpoints that have some properties in common, for projects to be given together."""

    id: Annotated[Id, SERVER]
    name: Name
    description: Text | None = None
    filters: Json


@table("project_endpoints", key="project_id endpoint_id", by="endpoint_id")
class ProjectEndpoint(Record, frozen=True, kw_only=True):
    """The project's catalog has this endpoint. The catalog of one with any such row has no others."""

    project_id: Annotated[Id, Ref("projects", "cascade")]
    endpoint_id: Annotated[Id, Ref("endpoints", "cascade")]


@table("project_endpoint_groups", key="project_id endpoint_group_id", by="endpoint_group_id")
class ProjectEndpointGroup(Record, frozen=True, kw_only=True):
    """The project's catalog has the endpoints of this group."""

    project_id: Annotated[Id, Ref("projects", "cascade")]
    endpoint_group_id: Annotated[Id, Ref("endpoint_groups", "cascade")]


@table("policies", small=True)
class PolicyDocument(Record, frozen=True, kw_only=True):
    """A document that services may fetch; its meaning is theirs."""

    id: Annotated[Id, SERVER]
    type: Annotated[str, Meta(max_length=255)]
    blob: Text
    extra: Json = {}


@table("policy_associations", by="policy_id endpoint_id service_id region_id", small=True)
class PolicyAssociation(Record, frozen=True, kw_only=True):
    """Which policy holds for an endpoint, a service, or a service in a region; `id` says for what."""

    id: str
    policy_id: Annotated[Id, Ref("policies", "cascade")]
    endpoint_id: Annotated[str | None, Ref("endpoints", "cascade")] = None
    service_id: Annotated[str | None, Ref("services", "cascade")] = None
    region_id: Annotated[str | None, Ref("regions", "cascade")] = None
