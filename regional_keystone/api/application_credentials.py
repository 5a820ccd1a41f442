"""Application credentials: a name and a secret by which a program acts as its user; and the access rules in them.

What a token made with one has is decided in `regional_keystone.delegation`.
Source: keystone/api/users.py, keystone/application_credential/core.py, keystone/application_credential/backends/sql.py.
"""

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any

from regional_keystone.api.delegations import NAME, NAMED_ROLES, check_once, expiry, role_named
from regional_keystone.api.fields import shown
from regional_keystone.api.rules import ID, check_length
from regional_keystone.api.shapes import Attributes, Call, Result, Route, Shape
from regional_keystone.api.verbs import listing
from regional_keystone.authenticate import is_another_method
from regional_keystone.delegation import rule_shown, rules_of
from regional_keystone.document import time
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, not_allowed
from regional_keystone.log import Change, put, remove
from regional_keystone.model import AccessRule, ApplicationCredential, Role, User
from regional_keystone.passwords import DEFAULT_ROUNDS, How, hash_password
from regional_keystone.roles import implied

_WORD = "application_credential"
_PLACE = "/users/{user_id}/application_credentials"
_RULES = "/users/{user_id}/access_rules"
_SECRET_BYTES = 64
_MAYBE: Mapping[str, Any] = {"type": ("string", "null")}
_RULE: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {
        "id": ID,
        "path": {"type": ("string",), "maxLength": 225, "pattern": r"^/\.*"},
        "service": ID,
        "method": {"type": ("string",), "enum": ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")},
    },
}
_SENT: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {
        "id": {"type": ("string",)},
        "secret": {**_MAYBE, "secret": True},
        "name": NAME,
        "description": _MAYBE,
        "expires_at": _MAYBE,
        "project_id": {"type": ("string",)},
        "access_rules": {"type": ("array",), "items": _RULE},
        "unrestricted": {"type": ("boolean", "null")},
        "system": _MAYBE,
        "roles": NAMED_ROLES,
    },
    "additionalProperties": False,
    "required": ("name",),
}
_BODY: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {_WORD: _SENT},
    "required": (_WORD,),
    "additionalProperties": False,
}


def shapes(how: How = DEFAULT_ROUNDS, user_limit: int = -1) -> list[Shape]:
    """Everything here; secrets are hashed as passwords are. `user_limit`: how many one user may have; -1 is any."""
    one, rule = f"{_PLACE}/{{application_credential_id}}", f"{_RULES}/{{access_rule_id}}"
    create = partial(_create, how, user_limit)
    return [
        Route(method="POST", path=_PLACE, handle=create, changes="log", body=_BODY),
        Route(method="GET", path=_PLACE, handle=_list),
        Route(method="GET", path=one, handle=_show),
        Route(method="DELETE", path=one, handle=_delete, changes="log"),
        Route(method="GET", path=_RULES, handle=_list_rules),
        Route(method="GET", path=rule, handle=_show_rule),
        Route(method="DELETE", path=rule, handle=_delete_rule, changes="log"),
    ]


async def _create(how: How, user_limit: int, call: Call) -> Result:
    call.enforce("identity:create_application_credential")
    _refuse_others(call)
    await _refuse_restricted(call)
    user_id, project = call.path["user_id"], call.caller.project
    if call.caller.user_id != user_id:
        raise not_allowed("Cannot create an application credential for another user.")
    if project is None:
        raise not_allowed("An application credential is for a project, so the token has to be")
    sent = call.body[_WORD]
    role_ids = await _roles(call, sent.get("roles"))
    expires_at = expiry(sent, call.now)
    mine = await call.reader.find(ApplicationCredential, user_id=user_id)
    _check_limit(len(mine), user_limit)
    if any(one.name == sent["name"] for one in mine):
        what = f"Duplicate entry found with name {sent['name']}"
        raise Conflict(f"Conflict occurred attempting to store {_WORD} - {what}.")
    rule_ids, changes = await _rules(call, sent.get("access_rules") or [])
    secret, hashed = await call.once("secret", partial(_secret, how, sent.get("secret")))
    new = ApplicationCredential(
        id=call.fresh(_WORD),
        user_id=user_id,
        project_id=project.id,
        name=sent["name"],
        secret_hash=hashed,
        description=sent.get("description"),
        expires_at=expires_at,
        unrestricted=sent.get("unrestricted"),
        system=sent.get("system"),
        role_ids=role_ids,
        access_rule_ids=rule_ids or None,
    )
    made = {change.key[0]: sent for change, sent in changes}
    body = {**await _seen(call, new, made), "secret": secret}
    return Result(status=201, body={_WORD: body}, changes=(*(change for change, _ in changes), put(new)))


async def _list(call: Call) -> Result:
    call.enforce("identity:list_application_credentials")
    _refuse_others(call)
    found = await call.reader.find(ApplicationCredential, user_id=call.path["user_id"])
    rows = [await _seen(call, one) for one in found]
    return Result(body=listing(call, "application_credentials", rows, "name"))


async def _show(call: Call) -> Result:
    found = await _allowed(call, "get")
    return Result(body={_WORD: await _seen(call, found)})


async def _delete(call: Call) -> Result:
    found = await _allowed(call, "delete")
    await _refuse_restricted(call)
    return Result(status=204, changes=(remove(found),))


async def _list_rules(call: Call) -> Result:
    await _enforce_rules(call, "list_access_rules")
    found = await call.reader.find(AccessRule, user_id=call.path["user_id"])
    return Result(body=listing(call, "access_rules", [_rule_seen(call, one) for one in found], "service path method"))


async def _show_rule(call: Call) -> Result:
    await _enforce_rules(call, "get_access_rule")
    return Result(body={"access_rule": _rule_seen(call, await _own_rule(call))})


async def _delete_rule(call: Call) -> Result:
    await _enforce_rules(call, "delete_access_rule")
    rule = await _own_rule(call)
    for one in await call.reader.find(ApplicationCredential, user_id=rule.user_id):
        if rule.id in (one.access_rule_ids or ()):
            raise Forbidden("May not delete access rule in use")
    return Result(status=204, changes=(remove(rule),))


async def _allowed(call: Call, verb: str) -> ApplicationCredential:
    """The one that the path names, if the caller may do this to its owner's, whoever the path says the owner is."""
    key = call.path["application_credential_id"]
    found = await call.reader.get(ApplicationCredential, key)
    owner = {"user_id": found.user_id} if found else {}
    call.enforce(f"identity:{verb}_application_credential", {**owner, "target": owner})
    _refuse_others(call)
    if found is None:
        raise NotFound(f"Could not find Application Credential: {key}.")
    return found


async def _enforce_rules(call: Call, action: str) -> None:
    user = await call.reader.get(User, call.path["user_id"])
    call.enforce(f"identity:{action}", {"target": {"user": shown(user)}} if user else {})
    _refuse_others(call)


async def _own_rule(call: Call) -> AccessRule:
    key = call.path["access_rule_id"]
    found = await call.reader.get(AccessRule, key)
    if found is None or found.user_id != call.path["user_id"]:
        raise NotFound(f"Could not find Access Rule: {key}.")
    return found


def _refuse_others(call: Call) -> None:
    """What was handed on by a trust, OAuth or an EC2 key must not become something that outlives it."""
    token = call.caller.token
    if _WORD not in token.methods and (token.trust_id or is_another_method(call.caller.token)):
        raise Forbidden


async def _refuse_restricted(call: Call) -> None:
    """Refuse a token made with an application credential that may not manage others."""
    token = call.caller.token
    if _WORD not in token.methods:
        return
    found = await call.reader.get(ApplicationCredential, token.application_credential_id or "")
    if found is None or not found.unrestricted:
        raise not_allowed(f"Using method '{_WORD}' is not allowed for managing additional application credentials.")


async def _roles(call: Call, named: list[Attributes] | None) -> tuple[str, ...]:
    """The ids of the roles that are handed on, with all that follow from them: no more than the caller's token has."""
    mine = [role.id for role in call.caller.roles]
    if not named:
        return tuple(mine)
    role_ids = [await role_named(call, one) for one in named]
    wanted = await implied(call.reader, role_ids)
    if not wanted.issubset(mine):
        raise Invalid("Invalid application credential: Cannot create an application credential with unassigned role")
    check_once(_WORD, role_ids)
    return tuple(sorted(wanted))


def _check_limit(count: int, limit: int) -> None:
    if 0 <= limit <= count:
        what = "Unable to create additional application credentials"
        raise Forbidden(f"{what}, maximum of {limit} already exceeded for user.")


async def _rules(call: Call, named: list[Attributes]) -> tuple[tuple[str, ...], list[tuple[Change, AccessRule]]]:
    """The ids of the access rules, and those that have to be made for it: one that the user has is used again."""
    mine = {_request(one): one for one in await call.reader.find(AccessRule, user_id=call.path["user_id"])}
    ids: list[str] = []
    made: list[tuple[Change, AccessRule]] = []
    for place, said in enumerate(named):
        rule = await _rule_named(call, said) or mine.get(_complete(said))
        if rule is None:
            _check_known(said)
            key = said.get("id") or _key(call, place)
            service, path, method = _complete(said)
            rule = AccessRule(id=key, user_id=call.path["user_id"], service=service, path=path, method=method)
            mine[_request(rule)] = rule
            made.append((put(rule), rule))
        ids.append(rule.id)
    return tuple(dict.fromkeys(ids)), made


async def _rule_named(call: Call, said: Attributes) -> AccessRule | None:
    """The user's rule of the id that is said, None if there is none. Raises NotFound for another user's."""
    found = await call.reader.get(AccessRule, said["id"]) if "id" in said else None
    if found is not None and found.user_id != call.path["user_id"]:
        raise NotFound(f"Could not find Access Rule: {said['id']}.")
    return found


def _complete(said: Attributes) -> tuple[str, str, str]:
    """What a rule says. Raises Invalid for one that does not say all of it."""
    for name in ("service", "path", "method"):
        if name not in said:
            raise Invalid(f"Invalid input for field/attribute access_rules. {name!r} is a required property")
    check_length(said, "path", 128)
    return said["service"], said["path"], said["method"]


def _key(call: Call, place: int) -> str:
    """The id of a new rule, greater than those of all before: lists, in the order of ids, are as they were made."""
    key = call.fresh(f"access rule {place}")
    return f"{call.now:014x}{place:03x}{key[:15]}"


def _check_known(said: Attributes) -> None:
    """Raise Invalid for a new rule that says more than a rule has; of one that is there upstream reads no more."""
    if unknown := [name for name in said if name not in _RULE["properties"]]:
        were = "was" if len(unknown) == 1 else "were"
        what = f"Additional properties are not allowed ({', '.join(map(repr, unknown))} {were} unexpected)"
        raise Invalid(f"Invalid input for field/attribute access_rules. {what}")


def _request(rule: AccessRule) -> tuple[str, str, str]:
    return rule.service, rule.path, rule.method


async def _secret(how: How, said: str | None) -> tuple[str, str]:
    """A secret, made if none is said, and its hash."""
    secret = said or secrets.token_urlsafe(_SECRET_BYTES)
    return secret, await hash_password(secret, how)


async def _seen(
    call: Call, credential: ApplicationCredential, made: Mapping[str, AccessRule] | None = None
) -> Attributes:
    """An application credential as its owner sees it; `made` are rules that are about to be stored."""
    roles = [await call.reader.get(Role, one) for one in credential.role_ids]
    found: Attributes = {
        "id": credential.id,
        "name": credential.name,
        "description": credential.description,
        "user_id": credential.user_id,
        "project_id": credential.project_id,
        "system": credential.system,
        "expires_at": None if credential.expires_at is None else time(credential.expires_at).removesuffix("Z"),
        "unrestricted": credential.unrestricted,
        "roles": [shown(role) for role in roles if role is not None],
        "links": {"self": call.url(f"/application_credentials/{credential.id}")},
    }
    if credential.access_rule_ids:
        known = {one.id: one for one in await rules_of(call.reader, credential)} | dict(made or {})
        found["access_rules"] = [rule_shown(known[one]) for one in credential.access_rule_ids if one in known]
    return found


def _rule_seen(call: Call, rule: AccessRule) -> Attributes:
    return {**rule_shown(rule), "links": {"self": call.url(f"/access_rules/{rule.id}")}}


SHAPES = shapes()
