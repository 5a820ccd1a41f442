"""Lists: which rows a request wants, how many of them, and what its answer says of the rest.

Below the verbs, which read the rows. Source: keystone/server/flask/common.py, keystone/common/driver_hints.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from regional_keystone.api.fields import equals, likeness
from regional_keystone.api.shapes import Attributes, Call
from regional_keystone.errors import Invalid, NotFound
from regional_keystone.record import Like

_PLAIN = "!$'()*+,/:;@~"  # what a query may hold as it is
_LONGEST = 19  # digits of a limit
_PAGED = frozenset(("users", "groups", "projects", "domains"))  # of all of these a marker is one; elsewhere it may not


class Wanted(NamedTuple):
    """What a request asks of a list: `limit` rows (0: all) after the one with the id `marker`.

    `tests` are of values by their names, `like` of their texts, `rules` of whole records. A list that is `lax` begins
    at its beginning when nothing has the id.
    """

    limit: int
    marker: str | None
    tests: tuple[tuple[str, Callable[[Any], bool]], ...]
    rules: tuple[Callable[[Any], bool], ...] = ()
    lax: bool = False
    like: tuple[Like, ...] = ()

    def admits(self, record: Any) -> bool:
        """Whether every filter and every rule admits this record. Raises Invalid for a part of true or false."""
        return self.fits(lambda name: getattr(record, name, None)) and all(rule(record) for rule in self.rules)

    def fits(self, value: Callable[[str], Any]) -> bool:
        """Whether every filter admits what has these values by their names."""
        for rule in self.like:
            if isinstance(value(rule.field), bool):
                raise Invalid(f"What is true or false cannot be compared by {rule.how}.")
        equal = all(test(value(name)) for name, test in self.tests)
        return equal and all(rule.fits(value(rule.field)) for rule in self.like)

    def is_over(self, found: int) -> bool:
        """Whether so many rows are more than are wanted: then it is known that there are more."""
        return 0 < self.limit < found


def wanted(call: Call, collection: str, filters: str, *rules: Callable[[Any], bool] | None) -> Wanted:
    """What the query asks, by these rules as well: `name=x`, `name__contains=x` and the like for each of the filters.

    Other keys are ignored. Raises Invalid for a limit that is no number. A list without filters is not paged.
    """
    names = filters.split()
    holding = tuple(rule for rule in rules if rule)
    if not names:
        return Wanted(0, None, (), holding)
    tests, like = _filters(call.request.query, names)
    limit, marker = _limit(call, collection), call.query("marker") or None
    return Wanted(limit, marker, tests, holding, bool(call.path) or collection not in _PAGED, like)


def of_domain(call: Call, name: str) -> Callable[[Any], bool] | None:
    """Who acts in a domain sees what belongs to it by the field of this name, where there is one."""
    domain = call.caller.domain if name else None
    return None if domain is None else lambda record: getattr(record, name) == domain.id


def listing(call: Call, collection: str, rows: list[Attributes], filters: str = "") -> Attributes:
    """The body of a list whose rows are all at hand: filtered, and a page of it, with the links of upstream."""
    asked = wanted(call, collection, filters)
    rows = [row for row in rows if asked.fits(row.get)]
    return body(call, collection, rows[_place(asked, [row.get("id") for row in rows]) :], asked)


def body(call: Call, collection: str, rows: list[Attributes], asked: Wanted) -> Attributes:
    """The body of a list; `rows` may be more than are wanted, which says that there are more."""
    links: Attributes = {"next": None, "self": _address(call), "previous": None}
    if not asked.is_over(len(rows)):
        return {collection: rows, "links": links}
    rows = rows[: asked.limit]
    query: dict[str, Any] = {}
    for name, value in call.request.query:
        query.setdefault(name, value)
    query |= {"marker": rows[-1]["id"], "limit": asked.limit}
    links["next"] = f"{call.request.base_url}{call.request.path}?{urlencode(query)}"
    return {collection: rows, "links": links, "truncated": True}


def after(asked: Wanted, ids: list[str]) -> list[str]:
    """Those of the ids that follow the marker. Raises NotFound for one that must be there and is not."""
    return ids[_place(asked, ids) :]


def check_marker(asked: Wanted) -> None:
    """Raise NotFound for the marker, which is nowhere, unless this list begins at its beginning then."""
    if not asked.lax:
        raise NotFound(f"Marker {asked.marker} could not be found.")


def _place(asked: Wanted, ids: list[Any]) -> int:
    if asked.marker is None:
        return 0
    if asked.marker in ids:
        return ids.index(asked.marker) + 1
    check_marker(asked)
    return 0


def _limit(call: Call, collection: str) -> int:
    text = call.query("limit") or "0"
    try:
        asked = int(text) if len(text) <= _LONGEST else call.lengths.most
    except ValueError:
        raise Invalid(f"invalid literal for int() with base 10: '{text}'") from None
    return min(asked, call.lengths.most) if asked > 0 else call.lengths.of(collection)


def _filters(
    query: Iterable[tuple[str, str]], names: Iterable[str]
) -> tuple[tuple[tuple[str, Callable[[Any], bool]], ...], tuple[Like, ...]]:
    """`equals` is as good as no word, with an `i` too, as upstream has it."""
    tests, like = [], []
    for key, value in query:
        name, _, how = key.partition("__")
        if name not in names:
            continue
        if key == name or how in {"equals", "iequals"}:
            tests.append((name, equals(value)))
        elif rule := likeness(name, how, value):
            like.append(rule)
    return tuple(tests), tuple(like)


def _address(call: Call) -> str:
    quoted = [(quote(name, safe=_PLAIN), quote(value, safe=_PLAIN)) for name, value in call.request.query]
    text = "&".join(f"{name}={value}" if value else name for name, value in quoted)
    return f"{call.request.base_url}{call.request.path}" + (f"?{text}" if text else "")
