"""The values that each chart takes, as JSON schema: `make golden` writes them, tests/architecture compares them.

What stands below `config` is read out of the settings: their names, types and bounds are not written a second time.
Paths are left out: files come from existing Secrets, so that no value can hold a key.
"""
# ruff: noqa: INP001  a folder of charts, no package

import json
from collections.abc import Callable, Mapping
from typing import Any

from controller.settings import Settings as ControllerSettings
from regional_keystone import settings

_OWN = {  # what the chart sets itself
    ("listen", "host"),
    ("listen", "port"),
    ("listen", "admin_host"),
    ("listen", "admin_port"),
    ("stream", "host"),
    ("stream", "port"),
}
_SITES = {("site", "controllers"), ("memcached", ""), ("workers", "")}  # an option, or a whole section
_LINE = r"^[^\r\n]*$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_LABEL = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Schema = dict[str, Any]


def site() -> str:
    """values.schema.json of the chart of a site."""
    own = {
        "joinTokens": _secret("One key for each pod, called as the pod is: the join token of `rkctl region add`."),
        "memcached": _object({"existingSecret": _secret_name(), "tls": _secret("ca.crt")}),
    }
    return _chart(settings.Settings, set(), own)


def controller() -> str:
    """values.schema.json of the chart of a controller."""
    own = {
        "authority": _secret("The files of an authority, which several controllers share."),
        "bootstrap": _secret("password: the first administrator's."),
        "zookeeper": _object({"existingSecret": _secret_name(), "tls": _secret("ca.crt")}),
        "streamService": _service(),
    }
    return _chart(ControllerSettings, _SITES, own, stream_port=_integer(1024, 65535))


def _chart(
    kind: type[settings.Settings], unused: set[tuple[str, str]], own: Mapping[str, Schema], **ports: Schema
) -> str:
    whole = _object(
        {
            "nameOverride": _text(63),
            "fullnameOverride": {"type": "string", "maxLength": 40, "pattern": r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$"},
            "global": {"type": "object"},
            "image": _image(),
            "imagePullSecrets": _list(_object({"name": _dns_name()}, required=["name"])),
            "replicas": _integer(0, 99),
            "commonLabels": _labels(),
            "podLabels": _labels(),
            "podAnnotations": _texts(),
            "listenAddress": {"enum": ["0.0.0.0", "::"]},  # noqa: S104
            "ports": _object(
                {"public": _integer(1024, 65535), "admin": _integer(1024, 65535)}
                | {name.removesuffix("_port"): port for name, port in ports.items()}
            ),
            "tls": _secret("tls.crt, tls.key"),
            "policy": _object({"existingConfigMap": _secret_name()}),
            "cassandra": _object({"existingSecret": _secret_name(), "tls": _cassandra_tls()}),
            "config": _config(kind, unused),
            **own,
            "persistence": _persistence(),
            "service": _service(),
            **_placement(),
        }
    )
    whole |= {"$schema": "http://json-schema.org/draft-07/schema#", "required": ["image"]}
    return json.dumps(whole, indent=2) + "\n"


def _placement() -> dict[str, Schema]:
    anything = {"type": "object"}  # Kubernetes' own types, which the API server checks
    return {
        "serviceAccount": _object({"create": _boolean(), "name": _secret_name(), "annotations": _texts()}),
        "podSecurityContext": _object({"user": _integer(1, 2**31 - 1), "group": _integer(1, 2**31 - 1)}),
        "resources": _object({"requests": _quantities(), "limits": _quantities()}),
        "probes": _object({"startupSeconds": _integer(10, 86400), "periodSeconds": _integer(1, 300)}),
        "preStopSeconds": _integer(0, 60),
        "terminationGracePeriodSeconds": _integer(15, 600),
        "podDisruptionBudget": _object({"enabled": _boolean()}),
        "networkPolicy": _object({"enabled": _boolean(), "clients": _list(anything), "monitoring": _list(anything)}),
        "serviceMonitor": _object(
            {"enabled": _boolean(), "interval": {"type": "string", "pattern": "^[0-9]+[smh]$"}, "labels": _labels()}
        ),
        "topologySpread": _object(
            {"enabled": _boolean(), "whenUnsatisfiable": {"enum": ["ScheduleAnyway", "DoNotSchedule"]}}
        ),
        "nodeSelector": _texts(),
        "tolerations": _list(anything),
        "affinity": anything,
        "priorityClassName": _secret_name(),
    }


def _config(kind: type[settings.Settings], unused: set[tuple[str, str]]) -> Schema:
    sections: dict[str, dict[str, Schema]] = {}
    for (section, name), field in settings.options(kind).items():
        if settings.type_name(kind, section, name) == "path" or {(section, name), (section, "")} & (_OWN | unused):
            continue
        title = "DEFAULT" if section == "default" else section
        sections.setdefault(title, {})[name] = _option(settings.type_name(kind, section, name), field.metadata)
    return _object({section: _object(options) for section, options in sections.items()})


def _option(type_name: str, facts: Mapping[str, Any]) -> Schema:
    bounds = {"minimum": facts["least"], "maximum": facts["most"]}
    said = {"description": facts["help"]}
    match type_name:
        case "integer" | "number":
            return {"type": type_name, **{name: one for name, one in bounds.items() if one is not None}, **said}
        case "boolean":
            return {"type": "boolean", **said}
        case "list":
            return {"type": "array", "items": {"type": "string", "pattern": r"^[^\s,]+$"}, **said}
        case _:
            return {"type": "string", "pattern": _LINE, **said}


def _object(properties: Mapping[str, Schema], *, required: list[str] | None = None) -> Schema:
    found = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    return found | ({"required": required} if required else {})


def _image() -> Schema:
    return _object(
        {
            "repository": {"type": "string", "pattern": r"^[a-z0-9][-a-z0-9._:/]*$"},
            "tag": {"type": "string", "pattern": r"^([A-Za-z0-9_][-A-Za-z0-9._]{0,127})?$"},
            "digest": {"type": "string", "pattern": r"^(sha256:[0-9a-f]{64})?$"},
            "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        },
        required=["repository"],
    )


def _persistence() -> Schema:
    modes = {"enum": ["ReadWriteOnce", "ReadWriteOncePod"]}
    return _object({"size": _quantity(), "storageClass": _secret_name(), "accessMode": modes, "annotations": _texts()})


def _service() -> Schema:
    return _object(
        {
            "type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
            "port": _integer(1, 65535),
            "annotations": _texts(),
            "externalTrafficPolicy": {"enum": ["", "Cluster", "Local"]},
        }
    )


def _cassandra_tls() -> Schema:
    return _object({"existingSecret": _secret_name(), "clientCertificate": _boolean()})


def _secret(keys: str) -> Schema:
    return _object({"existingSecret": _secret_name()}) | {"description": keys}


def _secret_name() -> Schema:
    """The name of an object that exists, or nothing."""
    return {"anyOf": [{"const": ""}, _dns_name()]}


def _dns_name() -> Schema:
    return {"type": "string", "maxLength": 253, "pattern": _NAME}


def _labels() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63, "pattern": _LABEL}}


def _texts() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}}


def _quantities() -> Schema:
    return {"type": "object", "additionalProperties": {"anyOf": [_quantity(), {"type": "number", "minimum": 0}]}}


def _quantity() -> Schema:
    return {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _text(longest: int) -> Schema:
    return {"type": "string", "maxLength": longest, "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"}


def _integer(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _boolean() -> Schema:
    return {"type": "boolean"}


SCHEMAS: dict[str, Callable[[], str]] = {
    "helm/regional-keystone-site/values.schema.json": site,
    "helm/regional-keystone-controller/values.schema.json": controller,
}
