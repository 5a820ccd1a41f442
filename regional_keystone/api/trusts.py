"""Trusts: one user lets another act with some of its roles on a project, for a while or a number of times.

What a token by trust has is decided in `regional_keystone.delegation`; here trusts are made, shown and deleted.
Source: keystone/api/trusts.py, keystone/trust/core.py, keystone/trust/backends/sql.py.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from regional_keystone.api.delegations import NAMED_ROLES, check_once, expiry, role_named, role_seen
from regional_keystone.api.shapes import Attributes, Call, Result, Route, Shape
from regional_keystone.api.verbs import found_or_refused, listing
from regional_keystone.authenticate import is_another_method
from regional_keystone.delegation import check_onward, is_used_up, pedigree, trusted
from regional_keystone.document import time
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, not_allowed
from regional_keystone.log import put, remove
from regional_keystone.model import Project, Role, Trust, User
from regional_keystone.roles import Lacking, held
from regional_keystone.token import ProjectScope

_PLACE = "/OS-TRUST/trusts"
_TEXT: Mapping[str, Any] = {"type": ("string",)}
_MAYBE: Mapping[str, Any] = {"type": ("string", "null")}
_TRUST: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {
        "trustor_user_id": _TEXT,
        "trustee_user_id": _TEXT,
        "impersonation": {"type": ("boolean",)},
        "project_id": _MAYBE,
        "remaining_uses": {"type": ("integer", "null"), "minimum": 1},
        "expires_at": {"type": ("null", "string")},
        "deleted_at": {"type": ("null",)},
        "allow_redelegation": {"type": ("boolean", "null")},
        "redelegation_count": {"type": ("integer", "null"), "minimum": 0},
        "redelegated_trust_id": _MAYBE,
        "roles": NAMED_ROLES,
    },
    "required": ("trustor_user_id", "trustee_user_id", "impersonation"),
}
_BODY: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {"trust": _TRUST},
    "required": ("trust",),
    "additionalProperties": False,
}
_OWN = ("id", "links", "roles_links", "extra", *_TRUST["properties"])


def shapes(max_redelegations: int = 3) -> list[Shape]:
    """Everything below /OS-TRUST; a chain of trusts has at most so many links after the first."""
    one, roles = f"{_PLACE}/{{trust_id}}", f"{_PLACE}/{{trust_id}}/roles"
    create = partial(_create, max_redelegations)
    return [
        Route(method="POST", path=_PLACE, handle=create, changes="log", body=_BODY),
        Route(method="GET", path=_PLACE, handle=_list),
        Route(method="GET", path=one, handle=_show),
        Route(method="DELETE", path=one, handle=_delete, changes="log"),
        Route(method="GET", path=roles, handle=_roles),
        Route(method="GET", path=f"{roles}/{{role_id}}", handle=_role),
    ]


async def _create(max_redelegations: int, call: Call) -> Result:
    sent = call.body["trust"]
    call.enforce("identity:create_trust", {"target": {"trust": sent}})
    _refuse_another_method(call)
    if sent.get("project_id") and not sent.get("roles"):
        raise not_allowed("At least one role should be specified")
    if call.caller.user_id != sent["trustor_user_id"]:
        raise not_allowed("The authenticated user should match the trustor")
    await found_or_refused(call, User, sent["trustee_user_id"])
    role_ids = [await role_named(call, one) for one in sent.get("roles", ())]
    await _check_held(call, sent, role_ids)
    chain = await _chain(call)
    trust = Trust(
        id=call.fresh("trust"),
        trustor_user_id=sent["trustor_user_id"],
        trustee_user_id=sent["trustee_user_id"],
        project_id=sent.get("project_id") or None,
        impersonation=sent["impersonation"],
        expires_at=expiry(sent, call.now) or next((one.expires_at for one in chain), None),
        remaining_uses=sent.get("remaining_uses"),
        redelegated_trust_id=chain[0].id if chain else None,
        redelegation_count=_count(sent, chain, max_redelegations),
        role_ids=tuple(role_ids),
        extra={name: value for name, value in sent.items() if name not in _OWN},
    )
    for above in chain:
        check_onward(above, trust, max_redelegations)
    check_once("trust", role_ids)
    await _check_unique(call, trust)
    return Result(status=201, body={"trust": await _whole(call, trust)}, changes=(put(trust),))


async def _list(call: Call) -> Result:
    trustor_id, trustee_id = call.query("trustor_user_id"), call.query("trustee_user_id")
    if trustor_id:
        target = {"target": {"trust": {"trustor_user_id": trustor_id}}}
        call.enforce("identity:list_trusts_for_trustor", target)
    elif trustee_id:
        target = {"target": {"trust": {"trustee_user_id": trustee_id}}}
        call.enforce("identity:list_trusts_for_trustee", target)
    else:
        call.enforce("identity:list_trusts")
    _refuse_another_method(call)
    found: list[Trust] = []
    if trustor_id:
        found = await call.reader.find(Trust, trustor_user_id=trustor_id)
    elif trustee_id:
        found = await call.reader.find(Trust, trustee_user_id=trustee_id)
    elif not call.request.query:
        found = [one async for one in call.reader.scan(Trust)]
    return Result(body=listing(call, "trusts", [_seen(call, one) for one in found]))


async def _show(call: Call) -> Result:
    trust = await _allowed(call, "get_trust")
    return Result(body={"trust": await _whole(call, trust)})


async def _delete(call: Call) -> Result:
    trust = await _allowed(call, "delete_trust")
    return Result(status=204, changes=(remove(trust),))


async def _roles(call: Call) -> Result:
    trust = await _allowed(call, "list_roles_for_trust")
    whole = await _whole(call, trust)
    return Result(body={"roles": whole["roles"], "links": whole["roles_links"]})


async def _role(call: Call) -> Result:
    trust = await _allowed(call, "get_role_for_trust")
    role_id = call.path["role_id"]
    if role_id not in trust.role_ids:
        raise NotFound(f"Could not find role: {role_id}.")
    return Result(body={"role": role_seen(call, await found_or_refused(call, Role, role_id))})


async def _allowed(call: Call, action: str) -> Trust:
    """The trust that the path names, if it can be used and the caller may do this; that it is there is told first."""
    try:
        trust = await trusted(call.reader, call.path["trust_id"], call.now)
    except Lacking as lacking:
        raise NotFound(lacking.reason) from None
    if is_used_up(trust):
        raise NotFound(f"Could not find trust: {trust.id}.")
    about = {"trustor_user_id": trust.trustor_user_id, "trustee_user_id": trust.trustee_user_id, "id": trust.id}
    call.enforce(f"identity:{action}", {"target": {"trust": {**about, "project_id": trust.project_id}}})
    _refuse_another_method(call)
    return trust


def _refuse_another_method(call: Call) -> None:
    """Trusts go with trusts: who holds one may look at it and hand it on; what else was handed on may not."""
    if is_another_method(call.caller.token):
        raise not_allowed("Delegated tokens cannot manage trusts.")


async def _chain(call: Call) -> list[Trust]:
    """The trust that the caller acts by, and those that it was made by means of; [] for one who acts for itself."""
    token = call.caller.token
    if token.trust_id is None:
        return []
    try:
        await trusted(call.reader, token.trust_id, call.now)
        return await pedigree(call.reader, token.trust_id)
    except Lacking as lacking:
        raise NotFound(lacking.reason) from None


async def _check_held(call: Call, sent: Attributes, role_ids: Iterable[str]) -> None:
    """Raise NotFound for a role that the trustor does not have on the project, as if it were not there.

    Who says that it goes on from the trust by which it acts is measured by the first trustor.
    """
    trustor_id, source_id = sent["trustor_user_id"], sent.get("redelegated_trust_id")
    if source_id and source_id != call.caller.token.trust_id:
        raise Forbidden
    if source_id:
        trustor_id = (await _chain(call))[-1].trustor_user_id
    project_id = sent.get("project_id")
    if project_id:
        await found_or_refused(call, Project, project_id)
    has = await held(call.reader, trustor_id, ProjectScope(project_id)) if project_id else set()
    for role_id in role_ids:
        if role_id not in has:
            raise NotFound(f"Could not find role: {role_id}.")


def _count(sent: Attributes, chain: list[Trust], most: int) -> int:
    """How many more trusts may follow one another from this one."""
    asked = sent.get("redelegation_count")
    if not sent.get("allow_redelegation") or asked == 0:
        return 0
    if asked and asked > most:
        raise Forbidden
    if sent.get("remaining_uses") is not None:
        raise Invalid("remaining_uses must not be set if redelegation is allowed")
    left = chain[0].redelegation_count - 1 if chain else asked or most
    if asked and asked != left:
        raise Forbidden
    return left


async def _check_unique(call: Call, trust: Trust) -> None:
    """Raise Conflict for the same trust once more, which only one that ends at the same instant is."""
    if trust.expires_at is None or trust.project_id is None:
        return
    for other in await call.reader.find(Trust, trustor_user_id=trust.trustor_user_id):
        if _identity(other) == _identity(trust):
            what = f"Duplicate entry found with ID {trust.id}"
            raise Conflict(f"Conflict occurred attempting to store trust - {what}.")


def _identity(trust: Trust) -> tuple[Any, ...]:
    return trust.trustee_user_id, trust.project_id, trust.impersonation, trust.expires_at


def _seen(call: Call, trust: Trust) -> Attributes:
    """A trust as lists show it, without its roles."""
    return {
        **trust.extra,
        "id": trust.id,
        "trustor_user_id": trust.trustor_user_id,
        "trustee_user_id": trust.trustee_user_id,
        "project_id": trust.project_id,
        "impersonation": trust.impersonation,
        "expires_at": None if trust.expires_at is None else time(trust.expires_at),
        "remaining_uses": trust.remaining_uses,
        "redelegated_trust_id": trust.redelegated_trust_id,
        "redelegation_count": trust.redelegation_count,
        "deleted_at": None,
        "links": {"self": call.url(f"{_PLACE}/{trust.id}")},
    }


async def _whole(call: Call, trust: Trust) -> Attributes:
    """A trust with its roles; the link to them is upstream's, which leads nowhere."""
    roles = [await call.reader.get(Role, one) for one in trust.role_ids]
    links = {"self": call.url(f"/{trust.id}/roles"), "next": None, "previous": None}
    shown = [role_seen(call, role) for role in roles if role is not None]
    return {**_seen(call, trust), "roles": shown, "roles_links": links}


SHAPES = shapes()
