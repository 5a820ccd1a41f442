"""A Reader that remembers rows which many validations share, so that a new user costs only what is its own.

Above the overlay and below whoever records reads. The rule is the fast path's: true until a write disturbs it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, cast

from regional_keystone.fastpath import Derived, Memory
from regional_keystone.log import Entry, Position
from regional_keystone.model import Grant, Implication, Project, ProjectEndpoint, ProjectEndpointGroup, Role
from regional_keystone.overlay import Positioned, touch_of
from regional_keystone.record import Key, Like, R, Record, Touch, facts

_ROWS: Final[frozenset[type[Record]]] = frozenset((Role, Project))
_GROUPS: Final = frozenset(
    (
        (Implication, ("prior_role_id",)),
        (Grant, ("actor_id",)),
        (ProjectEndpoint, ("project_id",)),
        (ProjectEndpointGroup, ("project_id",)),
    )
)
_LONGEST = 1000  # a longer list is read again each time: the limit counts answers, not rows


class _Answer(Derived):
    """What one question to the replica was answered."""

    __slots__ = ("value",)

    def __init__(self, key: object, touch: Touch, position: int, value: Any) -> None:
        super().__init__(key, frozenset((touch,)), position)
        self.value = value


class Remembered:
    """Answers as the Reader below does, and asks it only once for what nobody has changed since.

    Remembers roles and what they imply, projects and domains, what a project's catalog has, and the grants of an actor.
    An answer may be newer than the position that was read before it, and is never older.
    """

    def __init__(self, below: Positioned, memory: Memory) -> None:
        self.memory = memory
        self._below = below

    @property
    def position(self) -> Position:
        """No answer to a question asked from now on is older than this entry of the log."""
        return self._below.position

    async def get(self, kind: type[R], *key: Any) -> R | None:
        """The record with this whole key, or None."""
        if kind not in _ROWS:
            return await self._below.get(kind, *key)
        touch: Touch = (facts(kind).name, *key)
        return cast("R | None", await self._asked(touch, lambda: self._below.get(kind, *key)))

    async def find(self, kind: type[R], **equals: Any) -> list[R]:
        """Every record with these values of one declared group."""
        if (kind, tuple(equals)) not in _GROUPS:
            return await self._below.find(kind, **equals)
        touch = touch_of(facts(kind), equals)
        return list(cast("list[R]", await self._asked(touch, lambda: self._below.find(kind, **equals))))

    def scan(self, kind: type[R]) -> AsyncIterator[R]:
        """All records of a type, in the order of their keys; never remembered."""
        return self._below.scan(kind)

    async def page(
        self, kind: type[R], after: Key | None, limit: int, like: Sequence[Like] = (), **equals: Any
    ) -> list[R]:
        """The first `limit` records with these values whose keys follow `after`; never remembered."""
        return await self._below.page(kind, after, limit, like, **equals)

    async def tail(self, feed: str, after: int, limit: int = 1000) -> list[Entry]:
        """The entries of a feed that follow `after`, without gaps, at most `limit`."""
        return await self._below.tail(feed, after, limit)

    async def applied(self, feed: str) -> int:
        """Everything up to here is in what this Reader shows."""
        return await self._below.applied(feed)

    async def _asked(self, touch: Touch, ask: Callable[[], Awaitable[Any]]) -> Any:
        known = self.memory.recall(touch)
        if isinstance(known, _Answer):
            return known.value
        position = self._below.position  # before it is read: what is noted meanwhile may have been missed
        value = await ask()
        if not isinstance(value, list) or len(value) <= _LONGEST:
            self.memory.keep(_Answer(touch, touch, position, value))
        return value
