"""What acts for a user within limits: trusts, application credentials, OAuth 1; and secrets of other protocols.

Source: keystone/{trust,application_credential,credential,oauth1}/backends/sql.py.
"""

from typing import Annotated

from regional_keystone.model.words import Text
from regional_keystone.record import SECRET, SERVER, Id, Json, Name, Record, Ref, table


@table("trusts", by="trustor_user_id trustee_user_id project_id redelegated_trust_id")
class Trust(Record, frozen=True, kw_only=True):
    """The trustee may act with some of the trustor's roles on a project. Instants are microseconds since 1970 UTC."""

    id: Annotated[Id, SERVER]
    trustor_user_id: Annotated[Id, Ref("users", "cascade")]
    trustee_user_id: Annotated[Id, Ref("users", "cascade")]
    project_id: Annotated[Id | None, Ref("projects", "cascade")] = None
    impersonation: bool
    expires_at: int | None = None
    remaining_uses: int | None = None
    redelegated_trust_id: Annotated[Id | None, Ref("trusts", "cascade")] = None
    redelegation_count: int = 0
    role_ids: tuple[str, ...] = ()
    extra: Json = {}


@table("application_credentials", unique=["user_id name"], by="user_id project_id")
class ApplicationCredential(Record, frozen=True, kw_only=True):
    """A name and a secret by which a program acts as a user on one project, within limits."""

    id: Annotated[Id, SERVER]
    user_id: Annotated[Id, Ref("users", "cascade")]
    project_id: Annotated[Id, Ref("projects", "cascade")]
    name: Name
    secret_hash: Annotated[str, SERVER, SECRET]
    description: Text | None = None
    expires_at: int | None = None
    unrestricted: bool | None = None
    system: str | None = None
    role_ids: tuple[str, ...] = ()
    access_rule_ids: tuple[str, ...] | None = None


@table("access_rules", by="user_id")
class AccessRule(Record, frozen=True, kw_only=True):
    """A request to a service that an application credential may be limited to."""

    id: Id
    user_id: Annotated[Id, Ref("users", "cascade")]
    service: str
    path: str
    method: str


@table("credentials", by="user_id project_id")
class Credential(Record, frozen=True, kw_only=True):
    """A secret of another protocol: `blob` is sealed with the credential ring, `key_hash` names the key.

    User and project need not exist, as with upstream; what exists takes it along when it goes.
    """

    id: Annotated[str, SERVER]
    user_id: Annotated[str, Ref("users", "cascade")]
    project_id: Annotated[str | None, Ref("projects", "cascade")] = None
    type: str
    blob: Annotated[bytes, SECRET]
    key_hash: Annotated[str, SERVER]
    extra: Json = {}


@table("consumers", small=True)
class Consumer(Record, frozen=True, kw_only=True):
    """A program that OAuth 1 knows."""

    id: Annotated[Id, SERVER]
    secret: Annotated[str, SERVER, SECRET]
    description: Text | None = None
    extra: Json = {}


@table("access_tokens", by="consumer_id authorizing_user_id project_id", small=True)
class AccessToken(Record, frozen=True, kw_only=True):
    """What a user has handed a consumer: roles on a project."""

    id: Annotated[Id, SERVER]
    consumer_id: Annotated[Id, Ref("consumers", "cascade")]
    authorizing_user_id: Annotated[Id, Ref("users", "cascade")]
    project_id: Annotated[Id, Ref("projects", "cascade")]
    role_ids: tuple[str, ...] = ()
    secret: Annotated[str, SERVER, SECRET]
    expires_at: int | None = None
