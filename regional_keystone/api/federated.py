"""What identity providers call our users: the `federated` attribute of users, and the filters that ask by it.

Below `identity`, which shows it. Source: keystone/identity/core.py, keystone/identity/shadow_backends/sql.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regional_keystone.api.rules import check_length
from regional_keystone.api.shapes import Attributes, Call
from regional_keystone.errors import Conflict, Invalid
from regional_keystone.log import Change, put, remove
from regional_keystone.model import FederatedUser, FederationProtocol, IdentityProvider, User
from regional_keystone.record import Key, facts

FILTERS = ("idp_id", "protocol_id", "unique_id")
_TEXT = {"type": ("string",)}
_PROTOCOL = {
    "type": ("object",),
    "properties": {"protocol_id": _TEXT, "unique_id": _TEXT},
    "required": ("protocol_id", "unique_id"),
}
FEDERATED: Mapping[str, Any] = {
    "type": ("array",),
    "items": {
        "type": ("object",),
        "properties": {"idp_id": _TEXT, "protocols": {"type": ("array",), "items": _PROTOCOL, "minItems": 1}},
        "required": ("idp_id", "protocols"),
    },
}


async def check_named(call: Call, sent: Sequence[Attributes]) -> None:
    """Raise Invalid for an identity provider, or a protocol of it, that is not there."""
    for one in sent:
        idp_id = one["idp_id"]
        if await call.reader.get(IdentityProvider, idp_id) is None:
            raise Invalid(f"Could not find Identity Provider: {idp_id}")
        for protocol in one["protocols"]:
            name = protocol["protocol_id"]
            if await call.reader.get(FederationProtocol, idp_id, name) is None:
                raise Invalid(f"Could not find federated protocol {name} for Identity Provider: {idp_id}.")
            check_length(protocol, "unique_id", 255)


async def named_anew(call: Call, new: User | None) -> list[Change]:
    """What changes when a request says what a user is called; one that does not say it, or says nothing, changes none.

    Raises Conflict for what another user is called.
    """
    sent = call.body["user"].get("federated") if new is not None else None
    if new is None or not sent:
        return []
    wanted: dict[Key, FederatedUser] = {}
    for row in _rows(sent, new):
        if facts(FederatedUser).key_of(row) in wanted:
            raise _taken()
        wanted[facts(FederatedUser).key_of(row)] = row
    known = {facts(FederatedUser).key_of(row): row for row in await call.reader.find(FederatedUser, user_id=new.id)}
    changes: list[Change] = [remove(row) for key, row in known.items() if key not in wanted]
    for key, row in wanted.items():
        if key not in known and await call.reader.find(FederatedUser, **{one: getattr(row, one) for one in FILTERS}):
            raise _taken()
        changes += [put(row, known.get(key))] if row != known.get(key) else []
    return changes


async def names_of(call: Call, user: User) -> list[Attributes]:
    """What a user is called, as its own page shows it: as it was sent, or as it is known; [] in every list."""
    sent: list[Attributes] = (call.body.get("user") or {}).get("federated") or []
    if sent or not ("user_id" in call.path or call.request.method == "POST"):
        return sent
    found: dict[str, Attributes] = {}
    for row in await call.reader.find(FederatedUser, user_id=user.id):
        one = found.setdefault(row.idp_id, {"idp_id": row.idp_id, "protocols": []})
        one["protocols"].append({"protocol_id": row.protocol_id, "unique_id": row.unique_id})
    return list(found.values())


async def called(call: Call) -> list[str] | None:
    """The ids of the users whom the query means by what they are called, in order; None if it does not ask that."""
    named = ((key.partition("__")[0], value) for key, value in call.request.query)  # upstream compares exactly, always
    asked = {name: value for name, value in named if name in FILTERS}
    if not asked:
        return None
    rows: Iterable[FederatedUser]
    name = next((one for one in ("unique_id", "idp_id") if one in asked), None)
    if name is not None:
        rows = await call.reader.find(FederatedUser, **{name: asked[name]})
    else:
        rows = [row async for row in call.reader.scan(FederatedUser)]
    return sorted({row.user_id for row in rows if all(getattr(row, name) == asked[name] for name in asked)})


def _rows(sent: Sequence[Attributes], user: User) -> Iterable[FederatedUser]:
    for one in sent:
        for protocol in one["protocols"]:
            yield FederatedUser(
                idp_id=one["idp_id"],
                protocol_id=protocol["protocol_id"],
                unique_id=protocol["unique_id"],
                user_id=user.id,
                display_name=user.name,
            )


def _taken() -> Conflict:
    return Conflict("Conflict occurred attempting to store federated_user - Duplicate entry.")
