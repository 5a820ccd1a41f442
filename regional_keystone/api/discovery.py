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
_ALIASES = {
    "prior_role_id": "role_id",
    "implied_role_id": "role_id",
    "value": "tag_value",
    "group": "config_group",
    "option": "config_option",
}
_OF_EXTENSIONS = frozenset(  # parameters that upstream names below the extension that has them
    (
        "access_token_id",
        "consumer_id",
        "endpoint_group_id",
        "idp_id",
        "mapping_id",
        "protocol_id",
        "service_provider_id",
        "trust_id",
    )
)
_EXTENSION = re.compile(r"OS-[A-Z0-9-]+")
_GROUP, _POLICY = "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}", "/policies/{policy_id}/OS-ENDPOINT-POLICY"
# What upstream calls a path that does not say it itself.
_NAMES = {
    "/auth/tokens/OS-PKI/revoked": "revocations",
    "/domains/config/default": "domain_config_default",
    "/domains/config/{group}/default": "domain_config_default_group",
    "/domains/config/{group}/{option}/default": "domain_config_default_option",
    "/domains/{domain_id}/config/{group}": "domain_config_group",
    "/domains/{domain_id}/config/{group}/{option}": "domain_config_option",
    "/limits/model": "limit_model",
    "/OS-SIMPLE-CERT/ca": "ca_certificate",
    "/projects/{project_id}/tags": "project_tags",
    "/projects/{project_id}/tags/{value}": "project_tags",
    "/roles/{prior_role_id}/implies": "implied_roles",
    "/roles/{prior_role_id}/implies/{implied_role_id}": "implied_role",
    "/users/{user_id}/access_rules": "access_rules",
    "/users/{user_id}/access_rules/{access_rule_id}": "access_rule",
    "/users/{user_id}/application_credentials": "application_credentials",
    "/users/{user_id}/application_credentials/{application_credential_id}": "application_credential",
    "/users/{user_id}/password": "user_change_password",
    f"{_GROUP}/endpoints": "endpoints_in_endpoint_group",
    f"{_GROUP}/projects": "projects_associated_with_endpoint_group",
    f"{_GROUP}/projects/{{project_id}}": "endpoint_group_to_project_association",
    f"{_POLICY}/endpoints/{{endpoint_id}}": "endpoint_policy_association",
    f"{_POLICY}/services/{{service_id}}": "service_policy_association",
    f"{_POLICY}/services/{{service_id}}/regions/{{region_id}}": "region_and_service_policy_association",
}
_EXPERIMENTAL = frozenset(("registered_limits", "limits"))
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
    parts = path.strip("/").split("/")
    name = _NAMES.get(path) or _joined([part for part in parts if not _EXTENSION.fullmatch(part)])
    return f"{_place(path)}/rel/{name}"


def _place(path: str) -> str:
    """What the names of a path's extension are below, or those of the API itself."""
    found = _EXTENSION.search(path)
    return f"{_BASE}/ext/{found[0]}/1.0" if found else _BASE


def _joined(parts: list[str]) -> str:
    following = [*parts[1:], ""]
    pairs = [(one, after) for one, after in zip(parts, following, strict=True) if not one.startswith("{")]
    return "_".join(_one_of(one) if after.startswith("{") else one for one, after in pairs)


def _one_of(name: str) -> str:
    return f"{name.removesuffix('ies')}y" if name.endswith("ies") else name.removesuffix("s")


def _resource(path: str) -> dict[str, Any]:
    hints = {"hints": {"status": "experimental"}} if path.split("/")[1] in _EXPERIMENTAL else {}
    names = _PARAMETER.findall(path)
    if not names:
        return {"href": _MOVED.get(path, path), **hints}
    return {"href-template": path, "href-vars": {name: _parameter(path, name) for name in names}, **hints}


def _parameter(path: str, name: str) -> str:
    return f"{_place(path) if name in _OF_EXTENSIONS else _BASE}/param/{_ALIASES.get(name, name)}"


def _below_v3(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: f"/v3{value}" if name.startswith("href") and name != "href-vars" else value for name, value in one.items()
    }


SHAPES: list[Shape] = [
    Route(method="GET", path="/", base="", handle=_versions, open=True),
    Route(method="GET", path="", handle=_version, open=True),
]
