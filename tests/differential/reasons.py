"""The reviewed table of differences: each row is a line of docs/divergences.md under the same id."""

from collections.abc import Callable
from typing import NamedTuple


class Reason(NamedTuple):
    id: str
    explains: Callable


REASONS = ()
