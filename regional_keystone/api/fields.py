"""What clients send and what they see: strict JSON, schemas out of the model, checks, rendering, filters.

The engine's pure half: no I/O, no resource named. Refusals are worded as upstream words them.
Source: keystone/exception.py, keystone/server/flask/common.py.
"""

import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from regional_keystone.errors import Invalid, expecting
from regional_keystone.record import Like, Record, facts

Attributes = dict[str, Any]
Schema = Mapping[str, Any]

DEPTH, KEYS, TEXT, DIGITS = 32, 1000, 65536, 19
_FALSE = frozenset(("0", "f", "false", "off", "n", "no"))
_LEAST = -(2**63)
_LIKE = ("contains", "startswith", "endswith")
_UUID = re.compile("[0-9a-fA-F]{32}")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "null": (types.NoneType,),
    "object": (dict,),
    "array": (list,),
    "integer": (int,),
}


def parse(body: bytes, content_type: str) -> Attributes:
    """The JSON object in a request's body, {} for none. Raises Invalid for what could be read in two ways."""
    if not body:
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise expecting("application/json", "Content-Type header")
    try:
        found = json.loads(
            body.decode(), object_pairs_hook=_pairs, parse_constant=_refuse, parse_int=_int, parse_float=_float
        )
    except (ValueError, RecursionError):
        raise expecting("valid JSON", "request body") from None
    if not isinstance(found, dict):
        raise expecting("valid JSON", "request body")
    _check_size(found)
    return found


def schema_of(kind: type[Record], accepts: Schema) -> dict[str, Schema]:
    """JSON schema of each attribute that a client may set, by the record's annotations and what `accepts` says."""
    hints = get_type_hints(kind, include_extras=True)
    fields = facts(kind).fields.values()
    found = {f.name: _schema(hints[f.name]) for f in fields if "server" not in f.marks and f.name != "extra"}
    return found | dict(accepts)


def parted(body: Schema, late: str = "") -> dict[str, Any]:
    """The schemas of a route's body: of the whole one, what counts at once, and if some of it counts later, the whole.

    `late` is what counts only once the caller may do it, as upstream does: "all", or of "missing" (a body without its
    wrapper) and "other" (something beside it) either or both.
    """
    rules = {"missing": "required", "other": "additionalProperties"}
    later = {rules[word] for word in late.split() if word != "all"}
    at_once = {} if late == "all" else {"body": {name: rule for name, rule in body.items() if name not in later}}
    return {**at_once, "late": body} if late else at_once


def check(schema: Schema, value: Any) -> None:
    """Raise Invalid, as upstream words it, naming the field, unless the value fits the schema."""
    found = min(_misfits(schema, value, ()), key=lambda misfit: len(misfit[0]), default=None)
    if found is None:
        return
    path, shown, reason = found
    raise Invalid(f"Invalid input for field/attribute {path[-1]}. Value: {shown}. {reason}" if path else reason)


def misfits(schema: Schema, value: Any) -> list[str]:
    """Everything that is said against the value, without the places."""
    return [reason for _, _, reason in _misfits(schema, value, ())]


def fits(schema: Schema, value: Any) -> bool:
    """Whether nothing is said against the value."""
    return next(_misfits(schema, value, ()), None) is None


def split(kind: type[Record], sent: Mapping[str, Any]) -> tuple[Attributes, Attributes]:
    """What was sent as (fields, extra); what only the server sets is left out."""
    known = facts(kind).fields
    fields = {k: v for k, v in sent.items() if k in known and "server" not in known[k].marks and k != "extra"}
    ignored = {"links", *known}
    return fields, {name: value for name, value in sent.items() if name not in ignored}


def built(kind: type[Record], attributes: Mapping[str, Any]) -> Record:
    """The record with these attributes; what it has no field for goes to its `extra`, if it has one.

    Raises Invalid, as `check` words it, where a value is not what the field is.
    """
    known = facts(kind).fields
    fields = {name: value for name, value in attributes.items() if name in known and name != "extra"}
    if "extra" in known:
        fields["extra"] = {name: value for name, value in attributes.items() if name not in known}
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        check(
            {"properties": schema_of(kind, {})}, {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
        )
        raise Invalid(str(error)) from None


def attributes_of(record: Record) -> Attributes:
    """All of a record, its `extra` laid open: what `built` makes it from again."""
    found = {name: getattr(record, name) for name in record.__struct_fields__ if name != "extra"}
    return {**getattr(record, "extra", {}), **found}


def shown(record: Record) -> Attributes:
    """What of a record a client may see: no secret, nothing that only the server uses."""
    hidden = _hidden(type(record))
    found = attributes_of(record).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found if name not in hidden}


@cache
def _hidden(kind: type[Record]) -> frozenset[str]:
    known = facts(kind).fields.items()
    return frozenset(name for name, f in known if "secret" in f.marks or ("server" in f.marks and name != "id"))


def equals(wanted: str) -> Callable[[Any], bool]:
    """Whether a value is the one that a query names; a boolean is true unless a word says false, as upstream has it."""
    is_true = wanted.strip().lower() not in _FALSE
    return lambda value: value == is_true if isinstance(value, bool) else value is not None and str(value) == wanted


def likeness(name: str, how: str, part: str) -> Like | None:
    """The rule that a query names, `contains` and the like, with an `i` where case does not count; or None."""
    folded = how.startswith("i")
    how = how.removeprefix("i")
    return Like(name, how, part.lower() if folded else part, folded) if how in _LIKE else None


def _pairs(pairs: list[tuple[str, Any]]) -> Attributes:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _int(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError("too many digits")
    number = int(text)
    if number < _LEAST:
        raise ValueError("no store can keep it")
    return number


def _float(text: str) -> float:
    value = float(text)
    if len(text) > 64 or value in (float("inf"), float("-inf")):
        raise ValueError("too large")
    return value


def _check_size(found: Any) -> None:
    keys = 0
    level = [found]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keys += len(value)
                _check_text(value)
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _check_text((value,))
        if keys > KEYS:
            raise Invalid(f"The request body has more than {KEYS} keys.")
        level = below
    if level:
        raise Invalid(f"The request body is nested deeper than {DEPTH} levels.")


def _check_text(texts: Iterable[str]) -> None:
    for text in texts:
        if len(text) > TEXT:
            raise Invalid(f"The request body has a text longer than {TEXT} characters.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise expecting("valid JSON", "request body")


def _schema(hint: Any) -> dict[str, Any]:
    """JSON schema of a type as the model writes it: Annotated, optional, str, bool, int, dict, tuple of str."""
    if get_origin(hint) is Annotated:
        kind, *extras = get_args(hint)
        found = _schema(kind)
        for meta in extras:
            if isinstance(meta, msgspec.Meta):
                limits = {"minLength": meta.min_length, "maxLength": meta.max_length, "pattern": meta.pattern}
                found |= {name: value for name, value in limits.items() if value is not None}
        return found
    if get_origin(hint) in {Union, types.UnionType}:
        parts = [_schema(part) for part in get_args(hint)]
        merged = {name: value for part in parts for name, value in part.items()}
        return merged | {"type": tuple(name for part in parts for name in part["type"])}
    origin = get_origin(hint) or hint
    names = {str: "string", bool: "boolean", int: "integer", dict: "object", tuple: "array", types.NoneType: "null"}
    found = {"type": (names[origin],)}
    return found | {"items": _schema(get_args(hint)[0])} if origin is tuple else found


_Misfit = tuple[tuple[str | int, ...], Any, str]


def _misfits(schema: Schema, value: Any, path: tuple[str | int, ...]) -> Iterator[_Misfit]:
    """(path, value, reason) of everything that does not fit, worded as the `jsonschema` package does."""
    for reason in _reasons(schema, value):
        told = _told(schema, value)
        yield path, told, f"{told!r} {reason}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name, inner in properties.items():
            if name in value:
                yield from _misfits(inner, value[name], (*path, name))
        for reason in _object_reasons(schema, properties, value):
            yield path, _told(schema, value), reason
    elif isinstance(value, list) and "items" in schema:
        for place, inner in enumerate(value):
            yield from _misfits(schema["items"], inner, (*path, place))
    for reason in _choices(schema, value):
        told = _told(schema, value)
        yield path, told, f"{told!r} {reason}"


def _told(schema: Schema, value: Any) -> Any:
    """The value as a refusal may repeat it: nothing where a secret belongs, of the right type or not."""
    properties = schema.get("properties", {})
    if isinstance(value, dict) and not schema.get("secret"):
        return {name: _told(properties.get(name, {}), one) for name, one in value.items()}
    return "***" if value and value is not True and _hides(schema) else value


def _hides(schema: Schema) -> bool:
    return bool(schema.get("secret")) or any(_hides(inner) for inner in schema.get("properties", {}).values())


def _reasons(schema: Schema, value: Any) -> Iterator[str]:
    """What is said of the value, after it."""
    if "type" in schema and not _is(value, schema["type"]):
        yield f"is not of type {', '.join(map(repr, schema['type']))}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"is not one of {list(schema['enum'])!r}"
    if isinstance(value, str | list):
        at_least, at_most = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
        if len(value) < schema.get(at_least, 0):
            yield "should be non-empty" if schema[at_least] == 1 else "is too short"
        if len(value) > schema.get(at_most, len(value)):
            yield "is too long"
    if isinstance(value, str) and schema.get("format") == "uuid" and not _UUID.fullmatch(_bare(value)):
        yield "is not a 'uuid'"
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        yield f"is less than the minimum of {schema['minimum']}"
    if isinstance(value, int | float) and value > schema.get("maximum", value):
        yield f"is greater than the maximum of {schema['maximum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"does not match {schema['pattern']!r}"
    if isinstance(value, list) and schema.get("uniqueItems") and len({json.dumps(v) for v in value}) != len(value):
        yield "has non-unique elements"


def _bare(text: str) -> str:
    """A UUID as upstream reads it: in braces, with dashes, as a URN or without all that."""
    return text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")


def _object_reasons(schema: Schema, properties: Schema, value: Attributes) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{name!r} is a required property"
    if len(value) > schema.get("maxProperties", len(value)):
        yield f"{value!r} has too many properties"
    if len(value) < schema.get("minProperties", 0):
        yield f"{value!r} should be non-empty"
    unknown = [name for name in value if name not in properties]
    if unknown and schema.get("additionalProperties") is False:
        were = "was" if len(unknown) == 1 else "were"
        yield f"Additional properties are not allowed ({', '.join(map(repr, unknown))} {were} unexpected)"


def _choices(schema: Schema, value: Any) -> Iterator[str]:
    """What is said of a value that should have exactly one of several forms, after it."""
    if "oneOf" in schema:
        fitting = [one for one in schema["oneOf"] if fits(one, value)]
        if not fitting:
            yield "is not valid under any of the given schemas"
        if len(fitting) > 1:
            yield f"is valid under each of {', '.join(map(repr, (*fitting[1:], fitting[0])))}"


def _is(value: Any, names: Iterable[str]) -> bool:
    return any(isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)
