"""The body of a login: what it may look like, and upstream's words for one that does not.

Apart from `auth`, because these refusals are those of a JSON schema library, down to their layout.
Source: keystone/auth/schema.py, keystone/common/validation.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from regional_keystone.errors import Invalid, expecting
from regional_keystone.issue import Login

_TEXT = {"type": "string"}
_SECRET = {"type": ["string", "null"]}
_NAMED = {"type": "object", "properties": {"id": _TEXT, "name": _TEXT}}
_USER = {"type": "object", "properties": {"id": _TEXT, "name": _TEXT, "password": _TEXT, "domain": _NAMED}}
_SYSTEM = {"type": "object", "properties": {"all": {"type": "boolean", "enum": [True, False, None]}}}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "identity": {
            "type": "object",
            "properties": {
                "methods": {"type": "array", "items": _TEXT},
                "password": {"type": "object", "properties": {"user": _USER}},
                "token": {"type": "object", "properties": {"id": _TEXT}, "required": ["id"]},
                "application_credential": {
                    "type": "object",
                    "properties": {"id": _TEXT, "name": _TEXT, "secret": _SECRET, "user": _USER},
                },
            },
            "required": ["methods"],
        },
        "scope": {
            "type": ["object", "string"],
            "properties": {
                "project": {"type": "object", "properties": {"name": _TEXT, "id": _TEXT, "domain": _NAMED}},
                "domain": _NAMED,
                "OS-TRUST:trust": {"type": "object", "properties": {"id": _TEXT}},
                "system": _SYSTEM,
            },
        },
    },
    "required": ["identity"],
}
_TYPES: Mapping[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_NEEDS_ID_OR_NAME = ("identity/password/user", "identity/password/user/domain")
_SCOPES_NEED_ID_OR_NAME = ("scope/project", "scope/project/domain", "scope/domain")

_Path = tuple[str | int, ...]


class _Misfit(NamedTuple):
    reason: str
    path: _Path

    def message(self) -> str:
        """What Python's jsonschema says of it, without the dump of what was sent: a password may be in it."""
        prefix = f"Invalid input for field '{'/'.join(map(str, self.path))}': " if self.path else ""
        return prefix + self.reason


def login(body: Any) -> Login:
    """What is presented and wished, of the right types. Raises Invalid for a body that cannot be understood."""
    auth = body.get("auth") if isinstance(body, dict) else None
    if auth is None:
        raise expecting("auth", "request body")
    misfit = min(_misfits(SCHEMA, auth, ()), key=lambda one: len(one.path), default=None)
    if misfit is not None:
        raise Invalid(misfit.message())
    for place in (*_NEEDS_ID_OR_NAME, *_SCOPES_NEED_ID_OR_NAME):
        found = _at(auth, place)
        if found is not None and "id" not in found and "name" not in found:
            raise Invalid(f"Invalid input for field {place}: id or name must be present.")
    identity = auth["identity"]
    return Login(methods=tuple(dict.fromkeys(identity["methods"])), data=identity, scope=auth.get("scope"))


def _misfits(schema: Mapping[str, Any], value: Any, path: _Path) -> Iterator[_Misfit]:
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(isinstance(value, _TYPES[kind]) for kind in kinds):
        wanted = ", ".join(repr(kind) for kind in kinds)
        yield _Misfit(f"{_shown(value, path)} is not of type {wanted}", path)
        return
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _misfits(schema["items"], item, (*path, place))
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                yield _Misfit(f"{name!r} is a required property", path)
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _misfits(inner, value[name], (*path, name))


def _shown(value: Any, path: _Path) -> str:
    """The value as upstream shows it, unless a secret is or may be in it."""
    hidden = value and (isinstance(value, dict | list) or (path and path[-1] in {"password", "secret"}))
    return "What was sent" if hidden else repr(value)


def _at(auth: Mapping[str, Any], place: str) -> Mapping[str, Any] | None:
    found: Any = auth
    for step in place.split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None
