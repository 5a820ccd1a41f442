"""Users, groups, who is in which, and what a user sees of itself; passwords.

Source: keystone/identity/core.py, keystone/identity/schema.py, keystone/identity/backends/resource_options.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from regional_keystone.api.rules import DOMAIN_ID, SWITCH, check_length, home, merged
from regional_keystone.api.shapes import Attributes, Call, Edge, Resource, Result, Route, Shape
from regional_keystone.api.tree import PROJECTS
from regional_keystone.api.verbs import allowed, listing, seen
from regional_keystone.authenticate import DEFAULT_ROUNDS, hash_password, verify_password
from regional_keystone.document import time
from regional_keystone.errors import Invalid, NotFound, Unauthenticated
from regional_keystone.log import put
from regional_keystone.model import Group, Membership, Project, User
from regional_keystone.roles import reachable

_FLAG: Mapping[str, Any] = {"type": ("boolean", "null")}
_FACTORS = {"type": ("array",), "items": {"type": ("string",)}, "minItems": 1, "uniqueItems": True}
OPTIONS: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {
        "ignore_change_password_upon_first_use": _FLAG,
        "ignore_password_expiry": _FLAG,
        "ignore_lockout_failure_attempts": _FLAG,
        "lock_password": _FLAG,
        "ignore_user_inactivity": _FLAG,
        "multi_factor_auth_enabled": _FLAG,
        "multi_factor_auth_rules": {"type": ("array", "null"), "items": _FACTORS, "uniqueItems": True},
    },
    "additionalProperties": False,
}
_FEDERATED = {
    "type": ("array",),
    "items": {
        "type": ("object",),
        "properties": {"idp_id": {"type": ("string",)}, "protocols": {"type": ("array",), "minItems": 1}},
        "required": ("idp_id", "protocols"),
    },
}
_SECRET = {"type": ("string",), "secret": True}
_NEW_PASSWORD = {
    "type": ("object",),
    "properties": {"original_password": _SECRET, "password": _SECRET},
    "required": ("original_password", "password"),
    "additionalProperties": False,
}
_LOCKED = (
    "You cannot change your password at this time due to password policy disallowing password changes. "
    "Please contact your administrator to reset your password."
)


async def _prepare_user(rounds: int, call: Call, old: User | None, sent: Attributes) -> Attributes:
    _check_domain(old, sent)
    if old is None:
        sent["domain_id"] = home(call, sent)
        await _check_home(call, sent["domain_id"])
        sent["created_at"] = call.now
    if "name" in sent:
        sent["name"] = sent["name"].strip()
    if "options" in sent:
        sent["options"] = merged(old.options if old else {}, sent["options"])
    for one in sent.pop("federated", ()):
        raise Invalid(f"Could not find Identity Provider: {one['idp_id']}")
    await _check_default_project(call, sent.get("default_project_id"))
    if "password" in sent:
        sent |= await _password(call, sent.pop("password"), rounds)
    return sent


async def _prepare_group(call: Call, old: Group | None, sent: Attributes) -> Attributes:
    _check_domain(old, sent)
    if old is None:
        sent["domain_id"] = home(call, sent)
        await _check_home(call, sent["domain_id"])
    if "name" in sent:
        sent["name"] = sent["name"].strip()
    check_length(sent, "name", 64)
    return sent


def _check_domain(old: User | Group | None, sent: Attributes) -> None:
    if old is not None and sent.get("domain_id", old.domain_id) != old.domain_id:
        raise Invalid("Cannot change Domain ID")


async def _check_home(call: Call, domain_id: str) -> None:
    domain = await call.reader.get(Project, domain_id)
    if domain is None or not domain.is_domain:
        raise NotFound(f"Could not find domain: {domain_id}.")


async def _check_default_project(call: Call, project_id: str | None) -> None:
    """Raise Invalid for a domain; whether the project is there is not asked, as upstream does not."""
    if project_id is not None:
        project = await call.reader.get(Project, project_id)
        if project is not None and project.is_domain:
            raise Invalid(f"User's default project ID cannot be a domain ID: {project_id}")


async def _password(call: Call, text: str | None, rounds: int) -> Attributes:
    if text is None:
        return {"password_hash": None, "password_changed_at": None, "password_expires_at": None}
    hashed = await call.once("password", lambda: hash_password(text, rounds))
    return {"password_hash": hashed, "password_changed_at": call.now, "password_expires_at": None}


async def _show_user(call: Call, record: User, found: Attributes) -> Attributes:
    if call.request.method == "PATCH":
        found["extra"] = record.extra  # as upstream does, here and nowhere else
    if record.default_project_id is None:
        found.pop("default_project_id")
    at = record.password_expires_at
    return {**found, "password_expires_at": None if at is None else time(at).removesuffix("Z")}


def _is_listed(call: Call, row: Attributes) -> bool:
    """Whether a list shows this user: no user here comes from an identity provider or has a password that expires."""
    del row
    return not any(call.query(name) for name in ("idp_id", "protocol_id", "unique_id", "password_expires_at"))


async def _change_password(rounds: int, call: Call) -> Result:
    """Anyone who knows a user's password may change it; why it did not work is not told."""
    sent = call.body["user"]
    user = await call.reader.get(User, call.path["user_id"])
    hashed = user.password_hash if user else None
    right = await call.once(f"verify {hashed}", lambda: verify_password(sent["original_password"], hashed, rounds))
    domain = await call.reader.get(Project, user.domain_id) if user else None
    if user is None or not right or domain is None or not domain.enabled:
        raise Unauthenticated
    if not user.enabled:
        raise Unauthenticated(f"The account is disabled for user: {user.id}.")
    if user.options.get("lock_password"):
        raise Invalid(_LOCKED)
    new = msgspec.structs.replace(user, **await _password(call, sent["password"], rounds))
    return Result(status=204, changes=(put(new, user),))


async def _groups_of(call: Call) -> Result:
    user = await allowed(call, User, "user", "list_groups_for_user")
    links = await call.reader.find(Membership, user_id=user.id)
    found = [await call.reader.get(Group, one.group_id) for one in links]
    rows = [{**await seen(call, GROUPS, one), "membership_expires_at": None} for one in found if one is not None]
    return Result(body=listing(call, "groups", rows, "name"))


async def _projects_of(call: Call) -> Result:
    user = await allowed(call, User, "user", "list_user_projects")
    ids = {one.target_id for one in await reachable(call.reader, user.id) if one.target == "project"}
    found = [await call.reader.get(Project, one) for one in sorted(ids)]
    rows = [await seen(call, PROJECTS, one) for one in found if one is not None]
    return Result(body=listing(call, "projects", rows, "domain_id enabled name"))


USERS = Resource(
    record=User,
    member="user",
    collection="users",
    filters="domain_id enabled name",
    accepts={
        "domain_id": DOMAIN_ID,
        "default_project_id": {"type": ("string", "null")},
        "description": {"type": ("string", "null")},
        "password": {"type": ("string", "null"), "secret": True},
        "options": OPTIONS,
        "enabled": SWITCH,
        "federated": _FEDERATED,
    },
    domain="domain_id",
    only=_is_listed,
    show=_show_user,
)
GROUPS = Resource(
    record=Group,
    member="group",
    collection="groups",
    filters="domain_id name",
    accepts={"domain_id": DOMAIN_ID},
    domain="domain_id",
    prepare=_prepare_group,
)


def shapes(rounds: int = DEFAULT_ROUNDS) -> list[Shape]:
    """Everything here; a password is hashed at the cost of 2 to the power of `rounds`."""
    return [
        replace(USERS, prepare=partial(_prepare_user, rounds)),
        GROUPS,
        _MEMBERS,
        Route(
            method="POST",
            path="/users/{user_id}/password",
            handle=partial(_change_password, rounds),
            changes="log",
            open=True,
            body={"type": ("object",), "properties": {"user": _NEW_PASSWORD}, "required": ("user",)},
        ),
        Route(method="GET", path="/users/{user_id}/groups", handle=_groups_of),
        Route(method="GET", path="/users/{user_id}/projects", handle=_projects_of),
    ]


_MEMBERS = Edge(
    path="/groups/{group_id}/users/{user_id}",
    record=Membership,
    ends={"group_id": Group, "user_id": User},
    lists="user_id",
    actions={
        "make": "identity:add_user_to_group",
        "tell": "identity:check_user_in_group",
        "break": "identity:remove_user_from_group",
        "list": "identity:list_users_in_group",
    },
    missing="User '{user_id}' not found in group '{group_id}'",
    filters="domain_id enabled name",
)
SHAPES = shapes()
