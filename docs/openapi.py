"""The API as an OpenAPI 3.1 document, out of the shapes and the records behind them.

What the shapes do not say is left open: a view of its own answers an object of which no more is told.
Source: https://spec.openapis.org/oas/v3.1.0
"""
# ruff: noqa: INP001  a folder of pages, no package

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regional_keystone.api.discovery import VERSION
from regional_keystone.api.fields import schema_of
from regional_keystone.api.shapes import Edge, Resource, Route, Shape
from regional_keystone.api.verbs import routes
from regional_keystone.record import facts

_ARGUMENT = re.compile(r"{(\w+)}")
_ERROR = {"$ref": "#/components/responses/Error"}
_LINKS = {"type": "object", "properties": {one: {"type": ["string", "null"]} for one in ("self", "next", "previous")}}
_ONE, _MANY, _DONE, _MADE = 200, 200, 204, 201


def text(shapes: Iterable[Shape]) -> str:
    """The document as JSON."""
    return json.dumps(document(list(shapes)), indent=1, sort_keys=True) + "\n"


def document(shapes: Sequence[Shape]) -> dict[str, Any]:
    """The document: every path with its methods, what they take and what they answer."""
    answers = {key: answer for shape in shapes for key, answer in _answers(shape).items()}
    paths: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for route in routes(shapes):
        whole = route.base + route.path
        path = names.setdefault(_ARGUMENT.sub("{}", whole), whole)  # arguments may have other names for other methods
        paths.setdefault(path, {"parameters": [_argument(name) for name in _ARGUMENT.findall(path)]})
        paths[path][route.method.lower()] = _operation(route, answers.get((route.method, route.path), {"2XX": _open()}))
    members = {one.member: _member(one) for one in shapes if isinstance(one, Resource)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Identity",
            "version": VERSION,
            "description": "OpenStack Identity v3 as Regional Keystone serves it. A path with GET answers HEAD too.",
        },
        "paths": paths,
        "components": {
            "schemas": {**members, "error": _ERROR_BODY},
            "responses": {"Error": {"description": "A refusal.", "content": _json({"$ref": _place("error")})}},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route, answers: Mapping[str, Any]) -> dict[str, Any]:
    slug = _ARGUMENT.sub(r"\1", route.base + route.path).strip("/").replace("/", "_").replace("-", "_")
    found: dict[str, Any] = {"operationId": f"{route.method.lower()}_{slug or 'versions'}"}
    found["responses"] = {**answers, "default": _ERROR}
    if route.query:
        found["parameters"] = [
            {"name": name, "in": "query", "schema": _schema(schema)} for name, schema in route.query.items()
        ]
    body = route.body if route.late is None else route.late
    if body is not None:
        found["requestBody"] = {"required": True, "content": _json(_schema(body))}
    if route.open:
        found["security"] = []
    return found


def _answers(shape: Shape) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) -> what is answered when all goes well, as far as the shape says it."""
    match shape:
        case Resource():
            return {(one.method, one.path): _of_resource(shape, one) for one in routes([shape])}
        case Edge():
            return {(one.method, one.path): _of_edge(shape, one) for one in routes([shape])}
        case _:
            return {}


def _of_resource(shape: Resource, route: Route) -> dict[str, Any]:
    one = {"type": "object", "properties": {shape.member: {"$ref": _place(shape.member)}}, "required": [shape.member]}
    if route.method == "DELETE":
        return {str(_DONE): {"description": "Gone."}}
    if route.method in {"POST", "PUT"}:
        return {str(_MADE): {"description": "Made.", "content": _json(one)}}
    if route.method == "GET" and not route.path.endswith("}"):
        return {str(_MANY): {"description": "A list.", "content": _json(_list(shape))}}
    return {str(_ONE): {"description": "One.", "content": _json(one)}}


def _of_edge(shape: Edge, route: Route) -> dict[str, Any]:
    if route.path != shape.path or (shape.tell and route.method != "DELETE"):
        return {"2XX": _open()}
    return {str(_DONE): {"description": "Done, or there."}}


def _list(shape: Resource) -> dict[str, Any]:
    rows = {"type": "array", "items": {"$ref": _place(shape.member)}}
    properties = {shape.collection: rows, "links": _LINKS, "truncated": {"type": "boolean"}}
    return {"type": "object", "properties": properties, "required": [shape.collection, "links"]}


def _member(shape: Resource) -> dict[str, Any]:
    """What clients see of a record, as far as its fields say it."""
    hidden = {name for name, field in facts(shape.record).fields.items() if "secret" in field.marks}
    fields = schema_of(shape.record, shape.accepts).items()
    seen = {name: _schema(schema) for name, schema in fields if name not in hidden and not schema.get("secret")}
    properties = {"id": {"type": "string"}, **seen}
    return {"type": "object", "properties": {**properties, "links": {"type": "object"}}, "required": ["id", "links"]}


_ERROR_BODY = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "title": {"type": "string"}},
            "required": ["code", "message", "title"],
        }
    },
    "required": ["error"],
}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of ours in JSON's own words: tuples are lists, what is secret is only written."""
    found: dict[str, Any] = {}
    for name, value in schema.items():
        match name:
            case "secret":
                found["writeOnly"] = value
            case "properties":
                found[name] = {key: _schema(inner) for key, inner in value.items()}
            case "type" if not isinstance(value, str):
                found[name] = value[0] if len(value) == 1 else list(value)
            case _ if isinstance(value, Mapping):
                found[name] = _schema(value)
            case _:
                found[name] = list(value) if isinstance(value, list | tuple | set | frozenset) else value
    return found


def _argument(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _open() -> dict[str, Any]:
    return {"description": "Done.", "content": _json({"type": "object"})}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _place(name: str) -> str:
    return f"#/components/schemas/{name}"
