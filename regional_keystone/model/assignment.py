"""Roles, what they imply, who holds which where.

Source: keystone/assignment/backends/sql.py.
"""

from typing import Annotated

from regional_keystone.model.words import Label, Text
from regional_keystone.record import FIXED, SERVER, Id, Json, Record, Ref, table


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

    actor_id: Annotated[Id, Ref("users groups", "cascade")]
    actor: str
    target: str
    target_id: Annotated[Id, Ref("projects", "cascade")]
    role_id: Annotated[Id, Ref("roles", "cascade")]
    inherited: bool = False
