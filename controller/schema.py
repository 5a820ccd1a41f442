"""Tables as a cluster has them and as this version wants them, and what lies between. No I/O."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

_CREATE = re.compile(
    r'CREATE TABLE (?:IF NOT EXISTS )?"?(\w+)"?\s*\((.*)\)\s*(?:WITH .*)?;?\s*$', re.IGNORECASE | re.DOTALL
)
_PRIMARY = re.compile(r"PRIMARY KEY\s*\((.*)\)$", re.IGNORECASE | re.DOTALL)
PARTITION, CLUSTERING, STATIC, REGULAR = "partition_key", "clustering", "static", "regular"


class Column(NamedTuple):
    """One column: its type, what it is for, and its place among those of the key."""

    type: str
    kind: str = REGULAR
    place: int = -1


class Table(NamedTuple):
    """A table by name, its columns, and the statement that makes it."""

    name: str
    columns: Mapping[str, Column]
    cql: str = ""


class Difference(NamedTuple):
    """One thing that is other than this version wants. `cql` mends it; without it, nothing that keeps data does."""

    table: str
    what: str
    cql: str = ""


def table(cql: str) -> Table:
    """The table that a CREATE TABLE of ours makes. Raises ValueError for any other statement."""
    found = _CREATE.match(" ".join(cql.split()))
    if not found:
        raise ValueError(f"no CREATE TABLE of ours: {cql[:60]}")
    columns: dict[str, Column] = {}
    keys: tuple[list[str], list[str]] = ([], [])
    for part in _parts(found[2]):
        if primary := _PRIMARY.match(part):
            keys = _key(primary[1])
            continue
        name, _, rest = part.partition(" ")
        own_key = " PRIMARY KEY" in rest.upper()
        type_ = re.sub(r" (PRIMARY KEY|STATIC)$", "", rest.strip(), flags=re.IGNORECASE)
        columns[_bare(name)] = Column(type_.lower(), STATIC if rest.upper().endswith(" STATIC") else REGULAR)
        if own_key:
            keys = ([_bare(name)], [])
    for kind, names in zip((PARTITION, CLUSTERING), keys, strict=True):
        for place, name in enumerate(names):
            columns[name] = columns[name]._replace(kind=kind, place=place)
    return Table(found[1], columns, cql)


def differences(wanted: Iterable[Table], live: Mapping[str, Mapping[str, Column]]) -> list[Difference]:
    """What is missing or other in the cluster, in the order of the wanted tables."""
    found: list[Difference] = []
    for one in wanted:
        there = live.get(one.name)
        if there is None:
            found.append(Difference(one.name, "is missing", one.cql))
            continue
        for name, column in one.columns.items():
            found += _compared(one.name, name, column, there.get(name))
    return found


def unfilled(missing: Iterable[Difference], live: Collection[str], records: Mapping[str, str]) -> list[str]:
    """The records of which rows may be there already, that a table which is to be made should have.

    `records` says which records a table is for. A new table of a new group of fields is one, and so is a new kind of
    record, whose rows may lie among those that an older version did not know.
    """
    made = [one.table for one in missing if one.table not in live]
    return sorted({records[name] for name in made if name in records})


def leftovers(wanted: Iterable[Table], live: Mapping[str, Mapping[str, Column]]) -> list[Difference]:
    """What the cluster has and this version does not use: of an older version, or of a newer one."""
    known = {one.name: one for one in wanted}
    found = [Difference(name, "is not used by this version") for name in sorted(live) if name not in known]
    for name, one in known.items():
        more = sorted(set(live.get(name, {})) - set(one.columns))
        found += [Difference(name, f"column {column} is not used by this version") for column in more]
    return found


def _compared(table_name: str, name: str, wanted: Column, there: Column | None) -> list[Difference]:
    if there is None and wanted.kind in {REGULAR, STATIC}:
        static = " static" if wanted.kind == STATIC else ""
        cql = f'ALTER TABLE "{table_name}" ADD IF NOT EXISTS "{name}" {wanted.type}{static}'
        return [Difference(table_name, f"column {name} is missing", cql)]
    if there is None:
        return [Difference(table_name, f"column {name} is missing from the key")]
    if there != wanted:
        shown = f"{there.type} ({there.kind}), not {wanted.type} ({wanted.kind})"
        return [Difference(table_name, f"column {name} is {shown}")]
    return []


def _parts(text: str) -> list[str]:
    """Split at the commas that are in no bracket."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "(<") - (letter in ")>")
        if letter == "," and not depth:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()]


def _key(text: str) -> tuple[list[str], list[str]]:
    first, *clustering = _parts(text)
    partition = _parts(first[1:-1]) if first.startswith("(") else [first]
    return [_bare(name) for name in partition], [_bare(name) for name in clustering]


def _bare(name: str) -> str:
    return name[1:-1] if name.startswith('"') else name.lower()
