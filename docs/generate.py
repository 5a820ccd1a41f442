"""Pages that are derived from the source: `python docs/generate.py` writes them, tests/architecture compares them.

What can be read out of the code is not written a second time.
"""
# ruff: noqa: INP001  a folder of pages, no package

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import msgspec

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # also when it is run as a file, from anywhere

from docs import cassandra_tables, openapi  # noqa: E402
from regional_keystone import api, model  # noqa: E402
from regional_keystone.api.shapes import Route, Shape  # noqa: E402
from regional_keystone.api.verbs import routes  # noqa: E402
from regional_keystone.metrics import Metrics  # noqa: E402
from regional_keystone.record import TABLES, Field, Table  # noqa: E402

_DECLARED = re.compile(r"(?P<name>\w+)\{(?P<labels>[\w,]*)\} (?P<kind>\w+): (?P<text>.*)")
_MARKS = {
    "server": "never from a client",
    "fixed": "at creation only",
    "secret": "never shown",
}
_CHANGES = {"no": "answered where it arrives", "log": "forwarded by a site", "own": "taken by a site itself"}


def _changes(route: Route) -> str:
    return "depends on the request" if route.weigh else _CHANGES[route.changes]


def metrics() -> str:
    """Every metric with its labels."""
    found = [match for line in sorted(Metrics().declared) if (match := _DECLARED.fullmatch(line))]
    rows = [(_code(one["name"]), one["kind"], _codes(one["labels"].split(",")), one["text"]) for one in found]
    return "\n".join(
        [
            *_head("Metrics", "metrics.py"),
            "Served on the private port at `/metrics`, in Prometheus' text format. Labels never name a user, a project",
            "or a token.",
            "",
            *_table(("Metric", "Kind", "Labels", "Meaning"), rows),
        ]
    )


def data_model() -> str:
    """Every stored record: how it is found, its fields, what they refer to."""
    lines = [
        *_head("Data model", "model/"),
        "A *group* is a set of fields by which rows can be found; in a *unique* one no two rows have the same values.",
        "Marks say what a client may do with a field. *Refers to* names the table, and what happens here when the row",
        "there goes: `cascade`, `clear` or `refuse`.",
    ]
    for table in _tables():
        lines += ["", f"## {table.name}", "", f"`{table.kind.__name__}`. {_prose(table.kind.__doc__)}", ""]
        lines += [f"Key: {_codes(table.key)}."]
        lines += [f"Unique: {'; '.join(_codes(group) for group in table.unique)}."] if table.unique else []
        lines += [f"Found by: {'; '.join(_codes(group) for group in table.by)}."] if table.by else []
        lines += ["", *_table(("Field", "Type", "Default", "Marks", "Refers to"), _fields(table))]
    return "\n".join(lines) + "\n" + cassandra_tables.section(_tables())


def routes_page() -> str:
    """Every method and path, by domain of the API."""
    lines = [
        *_head("API", "the shapes in `api/`"),
        "Identity v3 as far as it is there. Bodies and meanings are upstream's. A path with GET answers HEAD too, and",
        "every path answers OPTIONS. *Changes* says who answers: what is forwarded needs a controller.",
    ]
    for module in _domains():
        rows = [
            (one.method, _code(one.base + one.path), _changes(one), "no" if one.open else "yes")
            for one in routes(_shapes(module))
        ]
        name = module.__name__.rpartition(".")[2]
        lines += ["", f"## {name}", "", _prose((module.__doc__ or "").split("\n\n")[0]), ""]
        lines += _table(("Method", "Path", "Changes", "Token"), rows)
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "docs/api.md": lambda: routes_page() + "\n",
    "docs/data-model.md": lambda: data_model() + "\n",
    "docs/metrics.md": lambda: metrics() + "\n",
    "docs/openapi.json": lambda: openapi.text(shape for module in _domains() for shape in _shapes(module)),
}
"""Path below the repository -> what the page says, rendered now."""


def write() -> None:
    """Write all of them again."""
    for name, render in PAGES.items():
        (HERE.parent / name).write_text(render())


def _head(title: str, source: str) -> list[str]:
    source = source if "`" in source else _code(source)
    return [f"# {title}", "", f"Derived from {source}; `make golden` writes it again.", ""]


def _tables() -> Iterable[Table]:
    """The tables that the model declares, in its order; tests may have declared others."""
    return [table for table in TABLES.values() if table.kind.__module__.startswith(f"{model.__name__}.")]


def _fields(table: Table) -> list[tuple[str, ...]]:
    hints = get_type_hints(table.kind)
    infos = {info.name: info for info in msgspec.structs.fields(table.kind)}
    return [
        (_code(name), _code(_type(hints[name])), _default(infos[name]), _marks(field), _refers(field))
        for name, field in table.fields.items()
    ]


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
    return re.sub(r"\btyping\.", "", text)


def _default(info: msgspec.structs.FieldInfo) -> str:
    if info.default is not msgspec.NODEFAULT:
        return _code(repr(info.default))
    if info.default_factory is not msgspec.NODEFAULT:
        return _code(repr(info.default_factory()))
    return ""


def _marks(field: Field) -> str:
    return ", ".join(_MARKS[mark] for mark in _MARKS if mark in field.marks)


def _refers(field: Field) -> str:
    return f"{_codes(field.ref.table.split())}: {field.ref.on_delete}" if field.ref else ""


def _domains() -> list[ModuleType]:
    names = sorted(one.name for one in pkgutil.iter_modules(api.__path__))
    modules = [importlib.import_module(f"{api.__name__}.{name}") for name in names]
    return [one for one in modules if hasattr(one, "SHAPES") or _maker(one)]


def _maker(module: ModuleType) -> Callable[..., Sequence[Shape]] | None:
    """The function by which a domain that needs parts of a site makes its table."""
    found = getattr(module, "shapes", None)
    return found if inspect.isfunction(found) and found.__module__ == module.__name__ else None


def _shapes(module: ModuleType) -> Sequence[Shape]:
    make = _maker(module)
    if make is None:
        found: Sequence[Shape] = module.SHAPES
        return found
    needed = [one for one in inspect.signature(make).parameters.values() if one.default is inspect.Parameter.empty]
    return make(*[None for _ in needed])  # only the table is looked at


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _codes(names: Iterable[str]) -> str:
    return ", ".join(_code(name) for name in names if name)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [names, ["---"] * len(names), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


if __name__ == "__main__":
    write()
