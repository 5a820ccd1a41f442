"""What a stored record is: facts beside its fields, as annotations.

Stores, request checks, schemas and cascades are readings of these facts; nothing about a record is written twice.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec


class Mark(NamedTuple):
    """A fact about a field that is either there or not."""

    name: str


SERVER = Mark("server")  # never accepted from a client
FIXED = Mark("fixed")  # accepted at creation only
SECRET = Mark("secret")  # never shown, never logged


class Ref(NamedTuple):
    """The field names a row of another table; `on_delete` says what its removal means here: cascade, clear, refuse."""

    table: str
    on_delete: str = "cascade"


Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Json = dict[str, Any]
Key = tuple[Any, ...]

# A touch is what a read depends on and a write disturbs: (table, *key), (table, group, values) or (table,).
Touch = tuple[Any, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every stored record; a subclass becomes storable with `@table`. Its repr shows no secret."""

    def __repr__(self) -> str:
        table = _BY_KIND.get(type(self))
        secret = {name for name, field in table.fields.items() if SECRET.name in field.marks} if table else set()
        shown = (f"{name}={'***' if name in secret else repr(getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


R = TypeVar("R", bound=Record)


class Field(NamedTuple):
    """One field as the stores and the API see it."""

    name: str
    marks: frozenset[str]
    ref: Ref | None


class Like(NamedTuple):
    """A rule about a field of text: the part it `contains`, `startswith` or `endswith`; `folded` where case is nothing.

    The part of a folded one is in lower case.
    """

    field: str
    how: str
    part: str
    folded: bool = False

    def admits(self, record: Any) -> bool:
        """Whether what has this field fits there."""
        return self.fits(getattr(record, self.field, None))

    def fits(self, value: Any) -> bool:
        """Whether it is text with the part."""
        if not isinstance(value, str):
            return False
        text: str = value.lower() if self.folded else value
        match self.how:
            case "contains":
                return self.part in text
            case "startswith":
                return text.startswith(self.part)
            case _:
                return text.endswith(self.part)


class Table(NamedTuple):
    """The facts of one record type: `key` finds one row; each of `unique` and `by` is a group of fields to find by.

    `wide` names those of `by` of which one value may have more rows than one partition of a store should hold; all rows
    of a `small` table fit into one, where they are read at once.
    """

    name: str
    kind: type[Record]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    by: tuple[tuple[str, ...], ...]
    fields: Mapping[str, Field]
    wide: frozenset[str] = frozenset()
    small: bool = False

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Every group of fields that `find` accepts besides the whole key."""
        prefix = ((self.key[0],),) if len(self.key) > 1 else ()
        return tuple(dict.fromkeys(prefix + self.unique + self.by))

    @property
    def indexed(self) -> tuple[str, ...]:
        """Fields that stores keep copies or indexes of, in a fixed order."""
        return tuple(dict.fromkeys(name for group in self.unique + self.by for name in group))

    def group_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The declared group, or the key, of exactly these fields. Raises LookupError for any other set."""
        wanted = frozenset(names)
        for group in (*self.groups, self.key):
            if wanted == frozenset(group):
                return group
        raise LookupError(f"{self.name} cannot be found by {', '.join(sorted(wanted))}")

    def first_group(self, names: Iterable[str]) -> tuple[str, ...] | None:
        """The first group all of whose fields are among these; None if there is none."""
        known = frozenset(names)
        return next((group for group in self.groups if known.issuperset(group)), None)

    def key_of(self, record: Record) -> Key:
        """The values that find this record."""
        return tuple(getattr(record, name) for name in self.key)


TABLES: dict[str, Table] = {}
_BY_KIND: dict[type[Record], Table] = {}


def table(
    name: str, *, key: str = "id", unique: Iterable[str] = (), by: str = "", wide: str = "", small: bool = False
) -> Any:
    """Declare a record type storable; refuses a `Ref` that no index can follow, since nothing could then cascade."""

    def declare(kind: type[R]) -> type[R]:
        fields = {field: _field(field, hint) for field, hint in get_type_hints(kind, include_extras=True).items()}
        groups = tuple(tuple(group.split()) for group in unique)
        finders = tuple((one,) for one in by.split())
        facts = Table(name, kind, tuple(key.split()), groups, finders, fields, frozenset(wide.split()), small)
        if unknown := facts.wide.difference(by.split()):
            raise TypeError(f"{name} cannot be found by {', '.join(sorted(unknown))}, so that is not wide")
        for field in fields.values():
            if field.ref and (field.name,) not in (*facts.groups, facts.key):
                raise TypeError(f"{name}.{field.name} refers to {field.ref.table} but has no index of its own")
        TABLES[name] = _BY_KIND[kind] = facts
        return kind

    return declare


def facts(kind: type[Record]) -> Table:
    """The table facts of a record type; raises KeyError for a type that is not storable."""
    return _BY_KIND[kind]


def touches(table: Table, values: Mapping[str, Any]) -> set[Touch]:
    """What disturbing a row with these indexed values disturbs, besides the row itself.

    Values that an older version did not send are the fields' defaults.
    """
    whole = {**defaults(table.kind), **values}
    return {(table.name, group, tuple(whole[name] for name in group)) for group in table.groups}


def indexed_values(record: Record) -> dict[str, Any]:
    """The values that a store must know to remove its copies of a row without reading them."""
    found = facts(type(record))
    return {name: getattr(record, name) for name in dict.fromkeys(found.key + found.indexed)}


def encode(record: Record) -> bytes:
    """A row as bytes: a msgpack map of its fields, so that an older reader keeps what it does not know."""
    return msgspec.msgpack.encode(record)


def decode(kind: type[R], row: bytes) -> R:
    """The record that `encode` wrote; fields it does not have take their defaults. Raises ValueError for rubbish."""
    try:
        return msgspec.msgpack.decode(row, type=kind)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def spread(name: str) -> str:
    """The id of a row whose name begins as many do, and always the same: a store parts its rows by how ids begin."""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:8]}/{name}"


def unspread(row_id: str) -> str:
    """The name that `spread` was given; nothing for an id that was not made so."""
    return row_id.partition("/")[2]


@cache
def defaults(kind: type[Record]) -> Mapping[str, Any]:
    """What the fields are that a writer did not know of."""
    return {field.encode_name: field.default for field in msgspec.structs.fields(kind) if not field.required}


def _field(name: str, hint: Any) -> Field:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    marks = frozenset(extra.name for extra in extras if isinstance(extra, Mark))
    return Field(name, marks, next((extra for extra in extras if isinstance(extra, Ref)), None))
