"""Users, groups, who is in which, and what a user sees of itself; passwords.

Source: keystone/identity/core.py, keystone/identity/schema.py, keystone/identity/backends/resource_options.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from regional_keystone import compliance
from regional_keystone.api.consequences import event
from regional_keystone.api.expiry import expiring
from regional_keystone.api.federated import FEDERATED, called, check_named, named_anew, names_of
from regional_keystone.api.lists import of_domain
from regional_keystone.api.rules import DOMAIN_ID, SWITCH, check_length, home, merged
from regional_keystone.api.shapes import Attributes, Call, Edge, Resource, Result, Route, Shape
from regional_keystone.api.tree import PROJECTS
from regional_keystone.api.verbs import allowed, listing, seen
from regional_keystone.attempts import Uncounted, Verifier, cleared
from regional_keystone.document import time
from regional_keystone.errors import Invalid, NotFound, Unauthenticated
from regional_keystone.log import Change, put
from regional_keystone.model import Attempts, Group, Membership, Project, User
from regional_keystone.passwords import DEFAULT_ROUNDS, How, begins_with, hash_password, verify_password
from regional_keystone.passwords import check_length as check_password_length
from regional_keystone.record import facts
from regional_keystone.roles import reachable
from regional_keystone.settings import SecurityCompliance

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
_SECRET = {"type": ("string",), "secret": True}
_NEW_PASSWORD = {
    "type": ("object",),
    "properties": {"original_password": _SECRET, "password": {**_SECRET, "minLength": 1}},
    "required": ("original_password", "password"),
    "additionalProperties": False,
}


_OWN = frozenset(
    name
    for name, one in facts(User).fields.items()
    if "server" in one.marks and name not in {"id", "password_expires_at"}  # which clients see, so send back
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of passwords, how they are hashed, who checks them, and at which place.

    `keep_s`: for how long a token made now may matter.
    """

    rules: SecurityCompliance = SecurityCompliance()  # noqa: RUF009  frozen
    how: How = DEFAULT_ROUNDS
    verifier: Verifier = Uncounted(DEFAULT_ROUNDS)  # noqa: RUF009  it has no state
    place: str = ""
    keep_s: float = 0.0


async def _prepare_user(terms: Terms, call: Call, old: User | None, sent: Attributes) -> Attributes:
    _check_own(old, call.body["user"])
    if "password" in sent:
        await _check_strength(terms, call, sent["password"])
    _check_domain(old, sent)
    if old is not None and call.body["user"].get("id", old.id) != old.id:
        raise Invalid("Cannot change user ID")  # null neither, which for others is no id at all
    if old is None:
        sent["domain_id"] = home(call, sent)
        await _check_home(call, sent["domain_id"])
        sent["created_at"] = call.now
    if "name" in sent:
        sent["name"] = sent["name"].strip()
    if "options" in sent:
        sent["options"] = merged(old.options if old else {}, sent["options"])
    await check_named(call, sent.pop("federated", ()))
    check_length(sent, "default_project_id", 64)
    await _check_default_project(call, sent.get("default_project_id"))
    if "password" in sent:
        sent |= await _reset(terms, call, old, sent.pop("password"), sent.get("options", old.options if old else {}))
    if terms.rules.disable_user_account_days_inactive and _enables(terms, call, old, sent):
        sent["last_active_at"] = call.now // compliance.DAY * compliance.DAY
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


def _check_own(old: User | None, sent: Attributes) -> None:
    """Raise Invalid for an attribute under a name that the server uses itself: it could not be kept."""
    for name in sent:
        if (name.replace(":", "_").replace("-", "_") if old is None else name) in _OWN:
            raise Invalid(f"The attribute {name} of a user is the server's own. Choose another name.")


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


def _enables(terms: Terms, call: Call, old: User | None, sent: Attributes) -> bool:
    """Whether the user is enabled after this; upstream takes any change of an enabled one for that."""
    if "enabled" in sent or old is None:
        return bool(sent.get("enabled", True))
    return old.enabled and not terms.verifier.is_inactive(old, call.now)


async def _on_user(terms: Terms, call: Call, old: User | None, new: User | None) -> Iterable[Change]:
    return (*await _unlock(terms, call, old, new), *_shut_out(terms, call, old, new), *await named_anew(call, new))


def _shut_out(terms: Terms, call: Call, old: User | None, new: User | None) -> Iterable[Change]:
    """Who counts as active again, by an administrator's word, logs in anew: older tokens stay as void as they were."""
    if old is None or new is None or not terms.verifier.is_inactive(old, call.now):
        return ()
    return (put(event({"user_id": old.id}, call.now, terms.keep_s)),)


async def _unlock(terms: Terms, call: Call, old: User | None, new: User | None) -> Iterable[Change]:
    """Whom an administrator changes and leaves enabled is not locked out any longer."""
    if old is None or new is None or not new.enabled:
        return ()
    return cleared(await call.reader.find(Attempts, user_id=new.id), new.id, terms.place, call.now)


async def _check_strength(terms: Terms, call: Call, text: str | None) -> None:
    """Raise Invalid for a password that is not as it must be, and Forbidden for one too long to be looked at."""
    expression = terms.rules.password_regex
    if not expression:
        return
    if text is None:
        raise Invalid("Password validation error: Password must be a string type.")
    check_password_length(text, terms.how)
    if not await call.once("strength", lambda: begins_with(expression, text)):
        raise compliance.too_weak(terms.rules)


async def _reset(
    terms: Terms, call: Call, old: User | None, text: str | None, options: Mapping[str, Any]
) -> Attributes:
    """An administrator's new password. At creation no option counts yet, as upstream has it."""
    set_now = await _password(terms, call, old, text, options if old else {})
    if compliance.must_change(terms.rules, options if old else {}):
        set_now["password_expires_at"] = call.now
    return set_now


async def _password(
    terms: Terms, call: Call, old: User | None, text: str | None, options: Mapping[str, Any]
) -> Attributes:
    history = compliance.kept(terms.rules, old) if old else ()
    expires_at = compliance.expires_at(terms.rules, options, call.now)
    common = {"password_history": history, "password_expires_at": expires_at, "password_self_service": False}
    if text is None:
        return {**common, "password_hash": None, "password_changed_at": None}
    hashed = await call.once("password", lambda: hash_password(text, terms.how))
    return {**common, "password_hash": hashed, "password_changed_at": call.now}


async def _show_user(terms: Terms, call: Call, record: User, found: Attributes) -> Attributes:
    if terms.verifier.is_inactive(record, call.now):
        found["enabled"] = False
    if call.request.method == "PATCH":
        found["extra"] = record.extra  # as upstream does, here and nowhere else
    if record.default_project_id is None:
        found.pop("default_project_id")
    if federated := await names_of(call, record):
        found["federated"] = federated
    at = record.password_expires_at
    return {**found, "password_expires_at": None if at is None else time(at).removesuffix("Z")}


async def _change_password(terms: Terms, call: Call) -> Result:
    """Anyone who knows a user's password may change it; why it did not work is not told."""
    sent = call.body["user"]
    user = await _who_knows(terms, call, sent["original_password"])
    await _check_strength(terms, call, sent["password"])
    compliance.check_change(terms.rules, user, call.now)
    for hashed in compliance.former(terms.rules, user):
        if await call.once(f"is {hashed}", partial(verify_password, sent["password"], hashed, terms.how)):
            raise compliance.repeated(terms.rules)
    said = await _password(terms, call, user, sent["password"], user.options)
    new = msgspec.structs.replace(user, **said | {"password_self_service": True})
    return Result(status=204, changes=(put(new, user),))


async def _who_knows(terms: Terms, call: Call, text: str) -> User:
    """The user of the path, whose password this is, expired or not. Raises Unauthenticated."""
    user = await call.reader.get(User, call.path["user_id"])
    right = await call.once(f"verify {user and user.password_hash}", lambda: terms.verifier.verify(user, text))
    domain = await call.reader.get(Project, user.domain_id) if user else None
    if user is None or not right or domain is None or not domain.enabled:
        raise Unauthenticated
    if not user.enabled or terms.verifier.is_inactive(user, call.now):
        raise Unauthenticated(f"The account is disabled for user: {user.id}.")
    if not compliance.is_expired(user, call.now):
        await call.once("entered", lambda: terms.verifier.entered(user))
    return user


async def _groups_of(call: Call) -> Result:
    user = await allowed(call, User, "user", "list_groups_for_user")
    links = await call.reader.find(Membership, user_id=user.id)
    mine = of_domain(call, GROUPS.domain)
    found = [await call.reader.get(Group, one.group_id) for one in links]
    shown = [one for one in found if one is not None and (mine is None or mine(one))]
    rows = [{**await seen(call, GROUPS, one), "membership_expires_at": None} for one in shown]
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
        "federated": FEDERATED,
    },
    domain="domain_id",
    only=expiring,
    among=called,
    show=partial(_show_user, Terms()),
)
GROUPS = Resource(
    record=Group,
    member="group",
    collection="groups",
    filters="domain_id name",
    first="delete",
    accepts={"domain_id": DOMAIN_ID},
    domain="domain_id",
    prepare=_prepare_group,
)


def shapes(terms: Terms = Terms()) -> list[Shape]:
    """Everything here, on these terms."""
    users = replace(
        USERS, prepare=partial(_prepare_user, terms), show=partial(_show_user, terms), hook=partial(_on_user, terms)
    )
    return [
        users,
        GROUPS,
        _MEMBERS,
        Route(
            method="POST",
            path="/users/{user_id}/password",
            handle=partial(_change_password, terms),
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
    only=expiring,
)
SHAPES = shapes()
