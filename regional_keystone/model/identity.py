"""Domains, projects, users, groups; failed logins; configuration of domains.

A domain is a project with `is_domain`, as upstream has it. Source: keystone/{resource,identity}/backends/sql*.py.
"""

from typing import Annotated

from regional_keystone.model.words import Label, Short, Text
from regional_keystone.record import FIXED, SECRET, SERVER, Id, Json, Record, Ref, table


@table("projects", unique=["domain_id name"], by="name domain_id parent_id", wide="domain_id parent_id")
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


@table("users", unique=["domain_id name"], by="name domain_id default_project_id", wide="domain_id default_project_id")
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
    password_self_service: Annotated[bool, SERVER] = False
    password_history: Annotated[tuple[str, ...], SERVER, SECRET] = ()
    last_active_at: Annotated[int | None, SERVER] = None
    created_at: Annotated[int, SERVER] = 0
    options: Json = {}
    extra: Json = {}


@table("groups", unique=["domain_id name"], by="name domain_id", wide="domain_id")
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


@table("attempts", key="user_id place")
class Attempts(Record, frozen=True, kw_only=True):
    """What one place (a site, or the controllers) knows of a user's logins; only that place writes it.

    `failed` logins, the last of them `failed_at`; those of any place up to `cleared_at` of any place no longer count:
    a login, a lock that ran out, or an administrator came after them. `active_at`: the day of the last login.
    """

    user_id: Annotated[Id, Ref("users", "cascade")]
    place: str
    failed: int = 0
    failed_at: int = 0
    cleared_at: int = 0
    active_at: int = 0


@table("domain_options", key="domain_id group option")
class DomainOption(Record, frozen=True, kw_only=True):
    """One option of a domain's configuration: `blob` is its value as JSON.

    With a `key_hash` the value is a secret: sealed as a credential's is, by the key of that name, and never shown.
    """

    domain_id: Annotated[Id, Ref("projects", "cascade")]
    group: str
    option: str
    blob: Annotated[bytes, SECRET]
    key_hash: str | None = None
