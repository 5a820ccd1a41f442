"""Identity providers, how they are spoken with, and whom they call what.

Source: keystone/federation/backends/sql.py, keystone/identity/shadow_backends/sql.py.
"""

from typing import Annotated

from msgspec import Meta

from regional_keystone.model.words import Text, Url
from regional_keystone.record import FIXED, Id, Json, Record, Ref, table

RELAY_STATE_PREFIX = "ss:mem:"


@table("identity_providers", by="domain_id", small=True)
class IdentityProvider(Record, frozen=True, kw_only=True):
    """Who vouches for users that are not ours. `authorization_ttl` in minutes; `remote_ids` no two have in common."""

    id: Annotated[Id, FIXED]
    domain_id: Annotated[Id, FIXED, Ref("projects", "cascade")]
    enabled: bool = False
    description: Text | None = None
    remote_ids: tuple[str, ...] = ()
    authorization_ttl: int | None = None


@table("federation_protocols", key="idp_id id", small=True)
class FederationProtocol(Record, frozen=True, kw_only=True):
    """How an identity provider is spoken with. Its mapping may go and come back: until then nobody gets in by it."""

    idp_id: Annotated[Id, FIXED, Ref("identity_providers", "cascade")]
    id: Annotated[Id, FIXED]
    mapping_id: Id
    remote_id_attribute: Annotated[str, Meta(max_length=64)] | None = None


@table("mappings", small=True)
class AttributeMapping(Record, frozen=True, kw_only=True):
    """Rules that make users and groups out of what an identity provider says."""

    id: Annotated[Id, FIXED]
    rules: tuple[Json, ...]
    schema_version: str = "1.0"


@table("service_providers", small=True)
class ServiceProvider(Record, frozen=True, kw_only=True):
    """Another cloud whose users ours may be."""

    id: Annotated[Id, FIXED]
    auth_url: Url
    sp_url: Url
    enabled: bool = False
    description: Text | None = None
    relay_state_prefix: Annotated[str, Meta(max_length=256)] = RELAY_STATE_PREFIX


@table(
    "federated_users",
    key="user_id idp_id protocol_id unique_id",
    unique=["idp_id protocol_id unique_id"],
    by="unique_id idp_id",
    wide="idp_id",
)
class FederatedUser(Record, frozen=True, kw_only=True):
    """What an identity provider calls one of our users. By user: these ids are as random as the others are alike."""

    user_id: Annotated[Id, Ref("users", "cascade")]
    idp_id: Annotated[Id, Ref("identity_providers", "cascade")]
    protocol_id: Id
    unique_id: Annotated[str, Meta(max_length=255)]
    display_name: str | None = None
