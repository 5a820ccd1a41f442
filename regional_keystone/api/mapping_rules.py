"""What the rules of a mapping may look like, in each version of their schema.

Apart from `federation`, because it is nothing but data. Source: keystone/federation/utils.py.
"""

from collections.abc import Mapping
from typing import Any

from regional_keystone.api.fields import misfits
from regional_keystone.errors import Invalid

VERSIONS = ("1.0", "2.0", "3.0")
DEFAULT_VERSION = VERSIONS[0]

_Schema = Mapping[str, Any]
_TEXT: _Schema = {"type": ("string",)}
_ANY_OBJECT: _Schema = {"type": ("object",)}
_KINDS = ("ephemeral", "local")
_CONDITIONS = ("any_one_of", "not_any_of", "blacklist", "whitelist")


def check_mapping(mapping: Mapping[str, Any]) -> None:
    """Raise Invalid, with everything that is wrong, one reason a line, as upstream lists it."""
    version = mapping["schema_version"]
    if version not in VERSIONS:
        raise Invalid(f"Invalid input for field/attribute schema_version. Value: {version}. It is none of {VERSIONS}.")
    reasons = sorted(misfits(_SCHEMAS[version], mapping))
    if reasons:
        raise Invalid("".join(f"{reason}\n" for reason in reasons))


def _closed(properties: _Schema, *required: str) -> _Schema:
    return {"type": ("object",), "properties": properties, "required": required, "additionalProperties": False}


def _list(items: _Schema, **more: int) -> _Schema:
    return {"type": ("array",), "items": items, **more}


def _condition(name: str) -> _Schema:
    return _closed({"type": _TEXT, name: {"type": ("array",)}, "regex": {"type": ("boolean",)}}, "type", name)


_DOMAIN = _closed({"id": _TEXT, "name": _TEXT})
_USER = _closed(
    {"id": _TEXT, "name": _TEXT, "email": _TEXT, "domain": _DOMAIN, "type": {**_TEXT, "enum": _KINDS}},
)
_GROUPS = (_closed({"id": _TEXT}, "id"), _closed({"name": _TEXT, "domain": _DOMAIN}, "name", "domain"))
_REMOTES = (_closed({"type": _TEXT}, "type"), *(_condition(name) for name in _CONDITIONS))
_ROLES = _list(_closed({"name": _TEXT}, "name"))


def _schema(version: str) -> _Schema:
    place: _Schema = {} if version == "1.0" else {"domain": _DOMAIN}
    text: _Schema = {"projects_json": _TEXT} if version == "3.0" else {}
    local = _closed(
        {
            "user": _USER,
            "projects": _list(_closed({"name": _TEXT, "roles": _ROLES, **place}, "name", "roles")),
            "group": {**_ANY_OBJECT, "oneOf": _GROUPS},
            "groups": _TEXT,
            "group_ids": _TEXT,
            "domain": _DOMAIN,
            **text,
        }
    )
    remote = {**_ANY_OBJECT, "oneOf": _REMOTES}
    rule = _closed({"local": _list(local), "remote": _list(remote, minItems=1)}, "local", "remote")
    return {"type": ("object",), "required": ("rules",), "properties": {"rules": _list(rule, minItems=1)}}


_SCHEMAS = {version: _schema(version) for version in VERSIONS}
