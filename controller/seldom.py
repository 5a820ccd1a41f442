"""Lines in the log that somebody else can cause: so many a minute of each, then how many were left out.

A site that was taken over can send without end what is refused, and has streams open and close; the log is not to grow
by it. What is said of a site has its name in it, so that one keeps nobody from being heard about another.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from regional_keystone.ports import Clock

MOST = 10
WINDOW_S = 60.0
_ABOUT = 1024  # subjects that are remembered, the ones of the last lines


class Seldom:
    """Writes at most so many lines of one event about one subject in `WINDOW_S` seconds."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._windows: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def __call__(self, write: Callable[..., Any], event: str, subject: str, **about: Any) -> None:
        """`write` this event unless it was written often enough; the next line says how many were left out."""
        now, name = self._clock.ticks(), (event, subject)
        began, count = self._windows.pop(name, (now, 0))
        left_out = 0
        if now - began >= WINDOW_S:
            began, count, left_out = now, 0, max(0, count - self._most)
        self._windows[name] = began, count + 1
        if len(self._windows) > _ABOUT:
            self._windows.popitem(last=False)
        if count < self._most:
            write(event, **about, **({"left_out": left_out} if left_out else {}))
