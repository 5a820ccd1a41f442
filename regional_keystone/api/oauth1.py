"""Programs that OAuth 1 knows, and what users have handed them. The steps of the protocol are not here.

Source: keystone/api/os_oauth1.py, keystone/api/users.py, keystone/oauth1/core.py.
"""

import secrets
from typing import Any

from regional_keystone.api.rules import check_length, is_delegated
from regional_keystone.api.shapes import Attributes, Call, Resource, Result, Route, Shape
from regional_keystone.api.verbs import found_or_refused, listing
from regional_keystone.document import time
from regional_keystone.errors import Forbidden, Invalid, NotFound
from regional_keystone.log import remove
from regional_keystone.model import AccessToken, Consumer, Role

_TOKENS = "/users/{user_id}/OS-OAUTH1/access_tokens"


async def _prepare(call: Call, old: Consumer | None, sent: Attributes) -> Attributes:
    check_length(sent, "description", 64)
    if old is None:
        sent["secret"] = await call.once("secret", _new_secret)
    elif "secret" in call.body["consumer"]:
        raise Invalid("The secret of a consumer cannot be changed.")
    return sent


async def _new_secret() -> str:
    """Nothing that the request tells goes into it: ids of requests are no secrets."""
    return secrets.token_hex(16)


async def _show(call: Call, record: Consumer, found: Attributes) -> Attributes:
    """The secret is told once, to who made the consumer."""
    return {**found, "secret": record.secret} if call.request.method == "POST" else found


async def _tokens(call: Call) -> Result:
    _check(call, "list_access_tokens")
    rows = await call.reader.find(AccessToken, authorizing_user_id=call.path["user_id"])
    return Result(body=listing(call, "access_tokens", [_shown(call, row) for row in rows]))


async def _token(call: Call) -> Result:
    _check(call, "get_access_token")
    return Result(body={"access_token": _shown(call, await _found(call))})


async def _delete(call: Call) -> Result:
    _check(call, "delete_access_token")
    return Result(status=204, changes=(remove(await _found(call)),))


async def _roles(call: Call) -> Result:
    call.enforce("identity:list_access_token_roles")
    found = [await call.reader.get(Role, one) for one in (await _found(call)).role_ids]
    return Result(body=listing(call, "roles", [_role(call, one) for one in found if one is not None]))


async def _role_of(call: Call) -> Result:
    call.enforce("identity:get_access_token_role")
    key = call.path["role_id"]
    if key not in (await _found(call)).role_ids:
        raise NotFound(f"Could not find role: {key}.")
    return Result(body={"role": _role(call, await found_or_refused(call, Role, key))})


def _check(call: Call, action: str) -> None:
    call.enforce(f"identity:{action}")
    if is_delegated(call.caller):
        raise Forbidden("Cannot manage OAuth access tokens with a token issued via delegation.")


async def _found(call: Call) -> AccessToken:
    """The access token that the path names; another user's is as good as none."""
    found = await call.reader.get(AccessToken, call.path["access_token_id"])
    if found is None or found.authorizing_user_id != call.path["user_id"]:
        raise NotFound("Access token not found")
    return found


def _shown(call: Call, row: AccessToken) -> Attributes:
    place = call.url(f"{_TOKENS.format(user_id=row.authorizing_user_id)}/{row.id}")
    return {
        "id": row.id,
        "consumer_id": row.consumer_id,
        "authorizing_user_id": row.authorizing_user_id,
        "project_id": row.project_id,
        "expires_at": None if row.expires_at is None else time(row.expires_at),
        "links": {"self": place, "roles": f"{place}/roles"},
    }


def _role(call: Call, role: Role) -> dict[str, Any]:
    links = {"self": call.url(f"/roles/{role.id}")}
    return {"id": role.id, "name": role.name, "domain_id": role.domain_id, "options": role.options, "links": links}


SHAPES: list[Shape] = [
    Resource(
        record=Consumer,
        member="consumer",
        collection="consumers",
        path="/OS-OAUTH1/consumers",
        late={"create": "all", "update": "all"},
        missing="Consumer not found",
        prepare=_prepare,
        show=_show,
    ),
    Route(method="GET", path=_TOKENS, handle=_tokens),
    Route(method="GET", path=f"{_TOKENS}/{{access_token_id}}", handle=_token),
    Route(method="DELETE", path=f"{_TOKENS}/{{access_token_id}}", handle=_delete, changes="log"),
    Route(method="GET", path=f"{_TOKENS}/{{access_token_id}}/roles", handle=_roles),
    Route(method="GET", path=f"{_TOKENS}/{{access_token_id}}/roles/{{role_id}}", handle=_role_of),
]
