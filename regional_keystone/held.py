"""Tokens that were answered, and what their answers rest on, in little memory: what many have in common is kept once.

Apart from `purge`, which decides: this is only how it finds them.
"""

import sys
from collections.abc import Iterator
from typing import Generic, TypeVar

from msgspec.structs import replace

from regional_keystone.fastpath import Derived, Knowledge, Memory
from regional_keystone.middleware_cache import Ground, Told
from regional_keystone.revocation import Traits

K = TypeVar("K")
V = TypeVar("V")


class Footing(Derived):
    """A user in a scope: what answers about any number of tokens said of it, and the tokens."""

    __slots__ = ("said", "traits", "where")

    def __init__(self, where: Ground, one: Told) -> None:
        super().__init__(where, frozenset(), 0)
        self.where, self.said = where, one.said
        self.traits = replace(one.traits, lines=(), user_id=where[0])


class Held:
    """A token that was answered; `until` in ticks, `written` the file that has it."""

    __slots__ = (
        "asked_by",
        "chain",
        "expires_at",
        "ground",
        "id",
        "issued_at",
        "key",
        "lines",
        "names",
        "until",
        "written",
    )

    def __init__(self, one: Told, on: Footing, until: float) -> None:
        traits = one.traits
        self.names, self.key = one.names, sys.intern(one.key)
        self.id, self.chain, self.lines = traits.audit_id, traits.audit_chain_id, traits.lines
        self.issued_at, self.expires_at = traits.issued_at, traits.expires_at
        self.ground, self.until, self.written = on, until, -1
        self.asked_by: tuple[str, ...] = (sys.intern(one.asked_by),)

    @property
    def traits(self) -> Traits:
        """All that a revocation may ask for; what it has in common with others is kept once."""
        return replace(
            self.ground.traits,
            audit_id=self.id,
            audit_chain_id=self.chain,
            lines=self.lines,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
        )

    @property
    def called(self) -> set[str]:
        """What a revocation may call this token, or one that it was made from."""
        return {self.id, *self.lines, *((self.chain,) if self.chain else ())}


class Footings(Memory):
    """Notes which of them do not hold any more."""

    def __init__(self, knowledge: Knowledge, limit: int) -> None:
        super().__init__(knowledge, limit)
        self.fallen: list[Footing] = []

    def _drop(self, derived: Derived | None) -> None:
        if isinstance(derived, Footing) and self._derived.get(derived.key) is derived:
            self.fallen.append(derived)
        super()._drop(derived)

    def release(self, one: Footing) -> None:
        """It is not asked for any more."""
        super()._drop(one)


class Many(Generic[K, V]):
    """Any number of things under a key, in little memory where it is one."""

    def __init__(self) -> None:
        self._found: dict[K, V | set[V]] = {}

    def __getitem__(self, key: K) -> list[V]:
        found = self._found.get(key)
        if isinstance(found, set):
            return list(found)
        return [] if found is None else [found]

    def __contains__(self, key: K) -> bool:
        return key in self._found

    def add(self, key: K, one: V) -> None:
        """One more under this key."""
        found = self._found.setdefault(key, one)
        if isinstance(found, set):
            found.add(one)
        elif found is not one:
            self._found[key] = {found, one}

    def discard(self, key: K, one: V) -> None:
        """This one is not under it any more."""
        found = self._found.get(key)
        if isinstance(found, set):
            found.discard(one)
        if found is one or (isinstance(found, set) and not found):
            del self._found[key]


def users(traits: Traits) -> Iterator[str]:
    """Whoever a revocation may name: its user, and both sides of its trust."""
    return (one for one in {traits.user_id, traits.trustor_id, traits.trustee_id} if one)
