"""The data model: every stored record of Identity v3, and those by which the federation runs itself.

A domain is a project with `is_domain`, as upstream has it; `extra` keeps attributes that no field names.
Source: keystone/*/backends/sql.py for the fields and their defaults.
"""

from typing import Annotated

from msgspec import Meta

from regional_keystone.record import FIXED, SECRET, SERVER, Id, Json, Name, Record, Ref, table

Text = Annotated[str, Meta(max_length=65535)]
Label = Annotated[Name, Meta(pattern=r"[\S]+")]  # with something in it to be seen
Short = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"[\S]+")]
Url = Annotated[str, Meta(max_length=225, pattern=r"^[a-zA-Z0-9+.-]+:.+")]
RoleRefs = "users groups"


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


@table("projects", unique=["domain_id name"], by="domain_id parent_id", wide="domain_id parent_id")
class Project(Record, frozen=True, kw_only=True):
    """A project, or a domain when `is_domain`: then `domain_id` and `parent_id` are None."""

    id: Annotated[Id, SERVER]
    name: Short
    domain_id: Annotated[Id | None, FIXED, Ref("projects", "cascade")] = None
    parent_id: Annotated[Id | None, FIXED, Ref("projects", "refuse")] = None
    is_domain: Annotated[bool, FIXED] = False
    enabled: bool = True
    description: Text | None = ""
    tags: tuple[str, ...] = ()
    options: Json = {}
    extra: Json = {}


@table("users", unique=["domain_id name"], by="domain_id default_project_id", wide="domain_id default_project_id")
class User(Record, frozen=True, kw_only=True):
    """Someone, or a service, that can prove who it is. Instants are microseconds since 1970 UTC."""

    id: Annotated[Id, SERVER]
    domain_id: Annotated[Id, FIXED, Ref("projects", "cascade")]
    name: Label
    enabled: bool = True
    default_project_id: Annotated[str | None, Ref("projects", "clear")] = None
    password_hash: Annotated[str | None, SERVER, SECRET] = None
    password_changed_at: Annotated[int | None, SERVER] = None
    password_expires_at: Annotated[int | None, SERVER] = None
    created_at: Annotated[int, SERVER] = 0
    options: Json = {}
    extra: Json = {}


@table("groups", unique=["domain_id name"], by="domain_id", wide="domain_id")
class Group(Record, frozen=True, kw_only=True):
    """Users who get roles together."""

    id: Annotated[Id, SERVER]
    domain_id: Annotated[Id, FIXED, Ref("projects", "cascade")]
    name: Label
    description: Text | None = ""
    extra: Json = {}


@table("memberships", key="user_id group_id", by="group_id")
class Membership(Record, frozen=True, kw_only=True):
    """The user is in the group."""

    user_id: Annotated[Id, Ref("users", "cascade")]
    group_id: Annotated[Id, Ref("groups", "cascade")]


@table("roles", unique=["domain_id name"], by="domain_id", small=True)
class Role(Record, frozen=True, kw_only=True):
    """A word that policy knows; `domain_id` None is a global role."""

    id: Annotated[Id, SERVER]
    name: Label
    domain_id: Annotated[Id | None, FIXED, Ref("projects", "cascade")] = None
    description: Text | None = None
    options: Json = {}
    extra: Json = {}


@table("implications", key="prior_role_id implied_role_id", by="implied_role_id", small=True)
class Implication(Record, frozen=True, kw_only=True):
    """Who has the prior role has the implied one as well."""

    prior_role_id: Annotated[Id, Ref("roles", "cascade")]
    implied_role_id: Annotated[Id, Ref("roles", "cascade")]


@table("grants", key="actor_id actor target target_id role_id inherited", by="target_id role_id", wide="role_id")
class Grant(Record, frozen=True, kw_only=True):
    """An actor (`user` or `group`) holds a role on a target (`project`, `domain`, or `system` with id `system`).

    `inherited`: not on the target itself but on every project below it.
    """

    actor_id: Annotated[Id, Ref(RoleRefs, "cascade")]
    actor: str
    target: str
    target_id: Annotated[Id, Ref("projects", "cascade")]
    role_id: Annotated[Id, Ref("roles", "cascade")]
    inherited: bool = False


@table("revocations")
class RevocationEvent(Record, frozen=True, kw_only=True):
    """Upstream's revocation event: tokens issued up to `issued_before` whose traits equal every field set are void.

    Instants are microseconds since 1970 UTC. Kept until `keep_until`, when no token it covers can be accepted.
    """

    id: str
    issued_before: int
    revoked_at: int
    keep_until: int
    user_id: str | None = None
    domain_id: str | None = None
    project_id: str | None = None
    role_id: str | None = None
    trust_id: str | None = None
    consumer_id: str | None = None
    access_token_id: str | None = None
    audit_id: str | None = None
    audit_chain_id: str | None = None
    expires_at: int | None = None


@table("sites", small=True)
class Site(Record, frozen=True, kw_only=True):
    """A region's site as the controllers know it. `id` is its region's name.

    `join_instance` is the instance that used the join token: only it may use it again, after a lost answer.
    States: `invited` (a join token is out), `active`, `quarantined` (rotation no longer waits for it), `removed`.
    """

    id: Id
    state: str
    join_digest: Annotated[str | None, SECRET] = None
    join_expires_at: int | None = None
    join_instance: str | None = None
    instance: str | None = None
    box_key: bytes | None = None
    since: int = 0


@table("rings", small=True)
class Ring(Record, frozen=True, kw_only=True):
    """A key ring as it stands: who holds which bundle of it. No key is in it in clear.

    `ceased` tells when a former primary sealed its last token, by key number; `checks` are key check values.
    `sealed_at` is later than `turned_at` when the same keys were sealed again: for a new site, or before bundles age.
    """

    id: Id
    epoch: int
    fingerprint: str
    checks: dict[int, str]
    sealed: dict[str, bytes]
    turned_at: int
    sealed_at: int = 0
    ceased: dict[int, int] = {}


@table("taken", key="feed", small=True)
class Taken(Record, frozen=True, kw_only=True):
    """How far a site's own feed has been taken over into the log."""

    feed: str
    number: int


@table("outcomes")
class Outcome(Record, frozen=True, kw_only=True):
    """What a forwarded change was answered, so that its retry after a lost answer finds it instead of doing it twice.

    `request_digest` binds the id to what was asked; `answer` is an encoded `messages.Response`.
    """

    id: str
    request_digest: bytes
    answer: Annotated[bytes, SECRET]
    at: int
