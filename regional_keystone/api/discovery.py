"""What there is: versions, and every resource as a JSON home, printed from the shapes.

Needs no database and no caller. Source: keystone/api/discovery.py, keystone/common/json_home.py.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from regional_keystone.api.shapes import Call, Result, Route, Shape

VERSION = "v3.14"
UPDATED = "2020-04-07T00:00:00Z"
_HOME = "application/json-home"
_BASE = "https://docs.openstack.org/api/openstack-identity/3"
_PARAMETER = re.compile(r"{(\w+)}")
_ALIASES = {"prior_role_id": "role_id", "implied_role_id": "role_id", "value": "tag_value"}
# What upstream calls a path that does not say it itself.
_NAMES = {
    "/projects/{project_id}/tags": "project_tags",
    "/projects/{project_id}/tags/{value}": "project_tags",
    "/roles/{prior_role_id}/implies": "implied_roles",
    "/roles/{prior_role_id}/implies/{implied_role_id}": "implied_role",
    "/users/{user_id}/password": "user_change_password",
}
_EXTENSIONS = {
    "/auth/tokens/OS-PKI/revoked": "OS-PKI/1.0/rel/revocations",
    "/OS-REVOKE/events": "OS-REVOKE/1.0/rel/events",
    "/OS-FEDERATION/projects": "OS-FEDERATION/1.0/rel/projects",
    "/OS-FEDERATION/domains": "OS-FEDERATION/1.0/rel/domains",
}
_MOVED = {"/OS-FEDERATION/projects": "/auth/projects", "/OS-FEDERATION/domains": "/auth/domains"}


async def _versions(call: Call) -> Result:
    if _wants_home(call):
        whole = {name: _below_v3(one) for name, one in _home(call.routes).items()}
        return Result(body={"resources": whole}, headers={"Content-Type": _HOME})
    body = {"versions": {"values": [_described(call)]}}
    return Result(status=300, body=body, headers={"Location": call.url("/")})


async def _version(call: Call) -> Result:
    if _wants_home(call):
        return Result(body={"resources": _home(call.routes)}, headers={"Content-Type": _HOME})
    return Result(body={"version": _described(call)})


def _described(call: Call) -> dict[str, Any]:
    media = {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}
    links = [{"rel": "self", "href": call.url("/")}]
    return {"id": VERSION, "status": "stable", "updated": UPDATED, "links": links, "media-types": [media]}


def _wants_home(call: Call) -> bool:
    """Whether the client likes a JSON home better than plain JSON."""
    best, wanted = 0.0, ""
    for part in call.request.headers.get("accept", "").split(","):
        kind, *options = (one.strip() for one in part.split(";"))
        weight = _weight(options)
        if kind in {_HOME, "application/json", "*/*"} and weight > best:
            best, wanted = weight, kind
    return wanted == _HOME


def _weight(options: Iterable[str]) -> float:
    for option in options:
        name, _, value = option.partition("=")
        if name == "q" and re.fullmatch(r"[01](\.\d{0,3})?", value):
            return float(value)
    return 1.0


def _home(found: Iterable[Route]) -> dict[str, Any]:
    """Relation -> where it is, for every path below /v3."""
    paths = dict.fromkeys(route.path for route in found if route.base == "/v3" and route.path)
    return {_relation(path): _resource(path) for path in paths}


def _relation(path: str) -> str:
    """Upstream's name of a path: its literal parts, each the name of one where an id follows."""
    if path in _EXTENSIONS:
        return f"{_BASE}/ext/{_EXTENSIONS[path]}"
    parts = path.strip("/").split("/")
    if parts[0] == "OS-INHERIT":
        return f"{_BASE}/ext/OS-INHERIT/1.0/rel/{_joined(parts[1:])}"
    return f"{_BASE}/rel/{_NAMES.get(path) or _joined(parts)}"


def _joined(parts: list[str]) -> str:
    following = [*parts[1:], ""]
    pairs = [(one, after) for one, after in zip(parts, following, strict=True) if not one.startswith("{")]
    return "_".join(one.removesuffix("s") if after.startswith("{") else one for one, after in pairs)


def _resource(path: str) -> dict[str, Any]:
    names = _PARAMETER.findall(path)
    if not names:
        return {"href": _MOVED.get(path, path)}
    variables = {name: f"{_BASE}/param/{_ALIASES.get(name, name)}" for name in names}
    return {"href-template": path, "href-vars": variables}


def _below_v3(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"/v3{value}" if name != "href-vars" else value for name, value in one.items()}


SHAPES: list[Shape] = [
    Route(method="GET", path="/", base="", handle=_versions, open=True),
    Route(method="GET", path="", handle=_version, open=True),
]
