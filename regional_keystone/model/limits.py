"""Limits of what projects and domains may use.

Source: keystone/limit/backends/sql.py.
"""

from typing import Annotated

from regional_keystone.model.words import Text
from regional_keystone.record import SERVER, Id, Name, Record, Ref, table


@table("registered_limits", by="service_id region_id", small=True)
class RegisteredLimit(Record, frozen=True, kw_only=True):
    """What a resource of a service is limited to where nothing else is said."""

    id: Annotated[Id, SERVER]
    service_id: Annotated[Id, Ref("services", "refuse")]
    region_id: Annotated[str | None, Ref("regions", "refuse")] = None
    resource_name: Name
    default_limit: int
    description: Text | None = None


@table("limits", by="project_id domain_id registered_limit_id")
class Limit(Record, frozen=True, kw_only=True):
    """What a resource is limited to in one project or domain, of its registered limit's service and region."""

    id: Annotated[Id, SERVER]
    registered_limit_id: Annotated[Id, Ref("registered_limits", "refuse")]
    project_id: Annotated[str | None, Ref("projects", "cascade")] = None
    domain_id: Annotated[str | None, Ref("projects", "cascade")] = None
    service_id: str
    region_id: str | None = None
    resource_name: Name
    resource_limit: int
    description: Text | None = None
