"""The rows of docs/security.md: each test says which known attack it tries, and what Keystone 30 does with it."""

import importlib
from pathlib import Path
from typing import NamedTuple

HOLDS, WEAKER, UNKNOWN = "holds", "weaker", "not tried"
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "security.md"
BEGIN, END = "<!-- rows: written by make golden from tests/security -->\n", "<!-- end of rows -->\n"

PLACES = "<!-- places: written by make golden from tests/security/canaries.py -->\n"
PLACES_END = "<!-- end of places -->\n"


class Row(NamedTuple):
    """One attack: its number, what is tried, what Keystone 30.0.0 does, what is done here."""

    number: str
    what: str
    upstream: str
    here: str


def row(number, what, upstream=UNKNOWN, here="holds"):
    """Say which attack a test tries; `upstream` is HOLDS, WEAKER with what it does, "" to say nothing, or UNKNOWN."""

    def note(test):
        test.row = Row(number, what, upstream, here)
        return test

    return note


def rows():
    """Every row that a test has, in order. Raises ValueError where two tests have one number."""
    found = {}
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"tests.security.{path.stem}")
        for name, test in vars(module).items():
            if isinstance(noted := getattr(test, "row", None), Row):
                if noted.number in found:
                    raise ValueError(f"{name}: {noted.number} has a test already")
                found[noted.number] = (noted, f"{path.stem.removeprefix('test_')}: `{name.removeprefix('test_')}`")
    return [found[number] for number in sorted(found, key=lambda one: int(one.partition("-")[2]))]


def page():
    """docs/security.md with the table of the rows, which hold as long as the suite is green, and of what lies where."""
    from tests.security.canaries import ALLOWED

    lines = ["| Row | What is tried | Keystone 30.0.0 | Here | Test in `tests/security` |", "|---|---|---|---|---|"]
    lines += [f"| {one.number} | {one.what} | {one.upstream} | {one.here} | {test} |" for one, test in rows()]
    text = _between(PAGE.read_text(), BEGIN, END, lines)
    lines = ["| Files | What may lie in them | Why |", "|---|---|---|"]
    places = {}
    for one in ALLOWED:
        places.setdefault((one.kind, one.why), []).append(f"`{one.where}`")
    lines += [f"| {' '.join(where)} | {kind} | {why} |" for (kind, why), where in places.items()]
    return _between(text, PLACES, PLACES_END, lines)


def _between(text, begin, end, lines):
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after
