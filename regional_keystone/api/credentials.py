"""Credentials, the secrets of other protocols, and the keys of EC2 among them. A secret is sealed before it is stored.

What was made by a token that somebody handed on would outlive what it was handed on for: such tokens see no credential
and make none. Source: keystone/api/credentials.py, keystone/api/users.py, keystone/credential/core.py.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from regional_keystone.api.fields import built, check, parted, shown
from regional_keystone.api.rules import check_length, is_delegated
from regional_keystone.api.sealing import Keys, opened, seal
from regional_keystone.api.shapes import Attributes, Call, Result, Route, Shape
from regional_keystone.api.verbs import found_or_refused, listing
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, expecting, not_allowed
from regional_keystone.log import put, remove
from regional_keystone.model import Credential, Project, User

EC2 = "ec2"
_BLOB = {"type": ("string",), "secret": True}
_TEXT = {"type": ("string",)}
_PROPERTIES = {"id": _TEXT, "blob": _BLOB, "type": _TEXT, "user_id": _TEXT, "project_id": {"type": ("string", "null")}}
_NEEDED = ("blob", "type", "user_id")
_ORIGINS = ("trust_id", "app_cred_id", "access_token_id", "access_id")  # what an EC2 key was made by, for good
_FILTERS = "user_id type"
_LIMITS = {"user_id": 64, "project_id": 64, "type": 255}


def shapes(keys: Keys | None = None, user_limit: int = -1) -> list[Shape]:
    """Everything here; without keys it can only be looked at. `user_limit`: how many one user may have; -1 is any."""
    every, one = "/credentials", "/credentials/{credential_id}"
    ec2 = "/users/{user_id}/credentials/OS-EC2"
    created, changed = _body(_PROPERTIES, _NEEDED), _body({"blob": _BLOB}, ("blob",), further=False)
    query = dict.fromkeys(_FILTERS.split(), _TEXT)
    at = _Credentials(keys, user_limit)
    return [
        Route(method="POST", path=every, handle=at.create, changes="log", **parted(created, "other")),
        Route(method="GET", path=every, handle=at.every, query=query),
        Route(method="GET", path=one, handle=at.show),
        Route(method="PATCH", path=one, handle=at.update, changes="log", **parted(changed, "other")),
        Route(method="DELETE", path=one, handle=at.delete, changes="log"),
        Route(method="POST", path=ec2, handle=at.create_ec2, changes="log"),
        Route(method="GET", path=ec2, handle=at.every_ec2),
        Route(method="GET", path=f"{ec2}/{{credential_id}}", handle=at.show_ec2),
        Route(method="DELETE", path=f"{ec2}/{{credential_id}}", handle=at.delete_ec2, changes="log"),
    ]


class _Credentials:
    """The handlers, and the ring that they seal with."""

    def __init__(self, keys: Keys | None, user_limit: int = -1) -> None:
        self._keys = keys
        self._user_limit = user_limit

    async def create(self, call: Call) -> Result:
        sent = {_plain(name): value for name, value in call.body["credential"].items()}
        if sent["type"] == EC2:
            check({"properties": {"credential": {"required": (*_NEEDED, "project_id")}}}, call.body)
        about = {name: value for name, value in sent.items() if name != "blob"}
        call.enforce("identity:create_credential", {"target": {"credential": about}})
        _refuse_delegated(call)
        key = call.fresh("credential")
        if sent["type"].lower() == EC2:
            key = _id_of(_ec2_blob(sent["blob"])["access"])
        new = await self._made(call, key, about, sent["blob"])
        return Result(status=201, body={"credential": _shown(call, new, sent["blob"])}, changes=(put(new),))

    async def every(self, call: Call) -> Result:
        caller = call.caller
        mine = {} if caller.is_system else {"target": {"credential": {"user_id": caller.user_id}}}
        call.enforce("identity:list_credentials", mine)
        rows = {row.id: row for row in await _seen(call)}
        body = listing(call, "credentials", [shown(row) for row in rows.values()], _FILTERS)
        page = [rows[one["id"]] for one in body["credentials"]]
        body["credentials"] = [_shown(call, row, self._opened(row)) for row in page]
        return Result(body=body)

    async def show(self, call: Call) -> Result:
        old = await _allowed(call, "get_credential")
        return Result(body={"credential": _shown(call, old, self._opened(old))})

    async def update(self, call: Call) -> Result:
        old = await _allowed(call, "update_credential")
        text = call.body["credential"]["blob"]
        if old.type.lower() == EC2:
            _check_origins(json.loads(self._opened(old)), _ec2_blob(text))
        new = msgspec.structs.replace(old, **await self._sealed(call, text))
        return Result(body={"credential": _shown(call, new, text)}, changes=(put(new, old),))

    async def delete(self, call: Call) -> Result:
        return Result(status=204, changes=(remove(await _allowed(call, "delete_credential")),))

    async def create_ec2(self, call: Call) -> Result:
        user_id = call.path["user_id"]
        call.enforce("identity:ec2_create_credential", {"target": {"credential": {"user_id": user_id}}})
        await found_or_refused(call, User, user_id)
        project_id = str(call.body.get("tenant_id"))
        await found_or_refused(call, Project, project_id)
        _refuse_delegated(call)
        blob = await call.once("ec2", _new_ec2)
        about = {"user_id": user_id, "project_id": project_id, "type": EC2}
        new = await self._made(call, _id_of(blob["access"]), about, json.dumps(blob))
        return Result(status=201, body={"credential": _ec2(call, new, blob)}, changes=(put(new),))

    async def every_ec2(self, call: Call) -> Result:
        call.enforce("identity:ec2_list_credentials")
        _refuse_delegated(call)
        user = await found_or_refused(call, User, call.path["user_id"])
        rows = [row for row in await call.reader.find(Credential, user_id=user.id) if row.type == EC2]
        return Result(body=listing(call, "credentials", [_ec2(call, row, self._parsed(row)) for row in rows]))

    async def show_ec2(self, call: Call) -> Result:
        old = await _allowed_ec2(call, "ec2_get_credential")
        return Result(body={"credential": _ec2(call, old, self._parsed(old))})

    async def delete_ec2(self, call: Call) -> Result:
        return Result(status=204, changes=(remove(await _allowed_ec2(call, "ec2_delete_credential")),))

    async def _made(self, call: Call, key: str, about: Attributes, text: str) -> Credential:
        """A new credential of these attributes with this secret. Raises Conflict if its id is taken.

        Raises Forbidden for a user who has as many as one may.
        """
        for name, limit in _LIMITS.items():
            check_length(about, name, limit)
        await self._check_limit(call, about["user_id"])
        new = built(Credential, {**about, "id": key, **await self._sealed(call, text)})
        if await call.reader.get(Credential, key) is not None:
            said = f"Duplicate entry found with ID {key}"
            raise Conflict(f"Conflict occurred attempting to store credential - {said}.")
        return cast(Credential, new)

    async def _check_limit(self, call: Call, user_id: str) -> None:
        limit = self._user_limit
        if limit >= 0 and len(await call.reader.find(Credential, user_id=user_id)) >= limit:
            what = "Unable to create additional credentials"
            raise Forbidden(f"{what}, maximum of {limit} already exceeded for user.")

    async def _sealed(self, call: Call, text: str) -> Attributes:
        """The fields that hold this secret."""
        blob, key_hash = await seal(call, self._keys, text)
        return {"blob": blob, "key_hash": key_hash}

    def _opened(self, row: Credential) -> str:
        return opened(self._keys, row.blob, f"credential {row.id}")

    def _parsed(self, row: Credential) -> Attributes:
        found: Attributes = json.loads(self._opened(row))
        return found


async def _seen(call: Call) -> list[Credential]:
    """Every credential that the caller may see: each is asked for by itself, whoever may list."""
    user_id = call.query("user_id")
    if user_id is not None:
        return [row for row in await call.reader.find(Credential, user_id=user_id) if _may_see(call, row)]
    return [row async for row in call.reader.scan(Credential) if _may_see(call, row)]


def _may_see(call: Call, row: Credential) -> bool:
    try:
        call.enforce("identity:get_credential", {"target": {"credential": shown(row)}})
    except Forbidden:
        return False
    return not is_delegated(call.caller)


async def _allowed(call: Call, action: str) -> Credential:
    """The credential that the path names, if the caller may do this to it; whether it is there is told last."""
    key = call.path["credential_id"]
    found = await call.reader.get(Credential, key)
    call.enforce(f"identity:{action}", {"target": {"credential": shown(found)}} if found else {})
    if found is None:
        raise NotFound(f"Could not find credential: {key}.")
    _refuse_delegated(call)
    return found


async def _allowed_ec2(call: Call, action: str) -> Credential:
    """The EC2 key that the path names, below whichever user, if the caller may do this to it. Another kind is none.

    Its own user decides, not the one in the path; that it is not there is told to anybody, as upstream.
    """
    key = _id_of(call.path["credential_id"])
    found = await found_or_refused(call, Credential, key)
    call.enforce(f"identity:{action}", {"target": {"credential": shown(found)}})
    await found_or_refused(call, User, call.path["user_id"])
    if found.type != EC2:
        raise NotFound(f"Could not find credential: {key}.")
    _refuse_delegated(call)
    return found


def _refuse_delegated(call: Call) -> None:
    if is_delegated(call.caller):
        raise not_allowed("Delegated tokens cannot access credentials directly")


def _check_origins(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise Invalid for a secret that would act for more, or for another, than the one before."""
    for name in _ORIGINS:
        if old.get(name) != new.get(name):
            raise Invalid(f"{name} can not be updated for credential")


def _ec2_blob(text: str) -> Attributes:
    """The object that the secret of an EC2 key is. Raises Invalid for any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid("Invalid blob in credential") from None
    if not found or not isinstance(found, dict):
        raise expecting("blob", "credential")
    if not isinstance(found.get("access"), str):
        raise expecting("access", "credential")
    return found


async def _new_ec2() -> Attributes:
    """Nothing that the request tells goes into it: ids of requests are no secrets."""
    return {"access": secrets.token_hex(16), "secret": secrets.token_hex(16), "trust_id": None}


def _shown(call: Call, row: Credential, blob: str) -> Attributes:
    return {**shown(row), "blob": blob, "links": {"self": call.url(f"/credentials/{row.id}")}}


def _ec2(call: Call, row: Credential, blob: Attributes) -> Attributes:
    access = blob.get("access")
    links = {"self": call.url(f"/users/{row.user_id}/credentials/OS-EC2/{access}")}
    about = {name: blob.get(name) for name in ("access", "secret", "trust_id")}
    return {"user_id": row.user_id, "tenant_id": row.project_id, **about, "links": links}


def _id_of(access: str) -> str:
    return hashlib.sha256(access.encode()).hexdigest()


def _plain(name: str) -> str:
    return name.replace(":", "_").replace("-", "_")


def _body(properties: Mapping[str, Any], required: tuple[str, ...], *, further: bool = True) -> Mapping[str, Any]:
    inner = {"type": ("object",), "properties": properties, "required": required, "additionalProperties": further}
    outer = {"properties": {"credential": inner}, "required": ("credential",), "additionalProperties": False}
    return {"type": ("object",), **outer}


SHAPES = shapes()
