"""A measurement in parts that are run alone, each of which keeps a table of its own in a page."""

import argparse
from collections.abc import Callable, Sequence


def some_of(parts: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads `--only "one other"`: those that are named, in the order in which they are run."""

    def read(told: str) -> list[str]:
        named = told.replace(",", " ").split()
        unknown = [one for one in named if one not in parts]
        if unknown or not named:
            raise argparse.ArgumentTypeError(f"{' '.join(unknown) or 'nothing'}: some of {', '.join(parts)}")
        return [one for one in parts if one in named]

    return read


def begin(command: str, part: str) -> str:
    """What stands above a part's table in the page."""
    return f"<!-- {command} ONLY={part} WRITE=1 -->"


def end(command: str, part: str) -> str:
    """What stands below it."""
    return f"<!-- end of {command} ONLY={part} -->"


def kept(text: str, command: str, part: str, table: str) -> str:
    """The page with this table in its part's place, all else as it was. Raises SystemExit where it has no such place."""
    before, first, rest = text.partition(begin(command, part))
    _, last, after = rest.partition(end(command, part))
    if not (first and last):
        raise SystemExit(f"the page has no place for {command} ONLY={part}: {begin(command, part)}")
    return f"{before}{first}\n\n{table.strip()}\n\n{last}{after}"
