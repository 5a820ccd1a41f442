"""Which tokens are void: upstream's rule in one expression, and an index that gives its answer at once.
Separate from token, because the rule asks for more than a token says: domains, roles, the people behind a trust.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import msgspec

_BUCKET = 60_000_000
_Shape: TypeAlias = tuple[int, ...]
_Key: TypeAlias = tuple[object, ...]


class Revocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Voids the tokens issued until `issued_before` that have all of the traits that are set.

    Source: keystone/models/revoke_model.py, RevokeEvent.
    """

    issued_before: int
    revoked_at: int
    user_id: str | None = None
    domain_id: str | None = None
    project_id: str | None = None
    role_id: str | None = None
    trust_id: str | None = None
    consumer_id: str | None = None
    access_token_id: str | None = None
    audit_id: str | None = None
    audit_chain_id: str | None = None
    expires_at: int | None = None


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """All of a token that a revocation may ask for.

    `user_domain_id` is the domain that owns the user, `assignment_domain_id` the one that the token is scoped to;
    upstream leaves the latter empty for a project's token. `lines` are what events name as chains as well: those of the
    tokens between the first of the chain and this one. Source: build_token_values in the same file.
    """

    issued_at: int
    expires_at: int
    audit_id: str
    audit_chain_id: str | None = None
    lines: tuple[str, ...] = ()
    user_id: str | None = None
    trustor_id: str | None = None
    trustee_id: str | None = None
    user_domain_id: str | None = None
    assignment_domain_id: str | None = None
    project_id: str | None = None
    role_ids: tuple[str, ...] = ()
    trust_id: str | None = None
    consumer_id: str | None = None
    access_token_id: str | None = None


def voids(revocation: Revocation, traits: Traits) -> bool:
    """True if this revocation makes a token with these traits void.

    Times count in whole seconds, so what was issued within the second of the revocation is void too. With an expiry
    its domain is that of the scope only. Narrower than upstream in two points that nothing there depends on: an access
    token's id, which upstream stores but does not compare, has to be equal, and so has the domain next to an expiry,
    which its table does not keep. Source: matches, and _list_token_events in revoke/backends/sql.py.
    """
    return _second(revocation.issued_before) >= _second(traits.issued_at) and all(
        wanted is None or wanted in found for wanted, found in zip(_wanted(revocation), _found(traits), strict=True)
    )


def _wanted(event: Revocation) -> _Key:
    scope_only = bool(event.domain_id) and event.expires_at is not None
    return (
        event.audit_id,
        event.audit_chain_id,
        event.user_id,
        event.project_id,
        event.role_id,
        event.trust_id,
        None if scope_only else event.domain_id,
        event.domain_id if scope_only else None,
        event.consumer_id,
        event.access_token_id,
        None if event.expires_at is None else _second(event.expires_at),
    )


def _found(traits: Traits) -> tuple[_Key, ...]:
    """What the token has for each of the wanted, in the same order."""
    return (
        (traits.audit_id,),
        (traits.audit_chain_id, *traits.lines),
        (traits.user_id, traits.trustor_id, traits.trustee_id),
        (traits.project_id,),
        traits.role_ids,
        (traits.trust_id,),
        (traits.user_domain_id, traits.assignment_domain_id),
        (traits.assignment_domain_id,),
        (traits.consumer_id,),
        (traits.access_token_id,),
        (_second(traits.expires_at),),
    )


def _second(at: int) -> int:
    return at // 1_000_000


class _Kept(NamedTuple):
    second: int
    keep_until: int
    revocation: Revocation


class RevocationIndex:
    """Gives the rule's answer over all revocations that were added, for a few look-ups whatever their number.

    One table for each combination of traits that occurs. Of revocations that differ in their times only, the latest is
    kept, as long as the longest of them; so memory is bounded by who is revoked, not how often.
    """

    def __init__(self) -> None:
        self.version = 0  # grows with every addition: nobody needs to ask again before it does
        self._tables: dict[_Shape, dict[_Key, _Kept]] = {}
        self._buckets: defaultdict[int, set[tuple[_Shape, _Key]]] = defaultdict(set)

    def __len__(self) -> int:
        """How many are kept."""
        return sum(len(table) for table in self._tables.values())

    def live(self) -> Iterator[tuple[Revocation, int]]:
        """Every revocation that is kept, with its `keep_until`; adding them to an empty index makes it equal."""
        for table in self._tables.values():
            for kept in table.values():
                yield kept.revocation, kept.keep_until

    def add(self, revocation: Revocation, keep_until: int) -> None:
        """From now on it counts, until `keep_until` has passed; adding it again is harmless."""
        self.version += 1
        wanted = _wanted(revocation)
        shape = tuple(place for place, value in enumerate(wanted) if value is not None)
        key = tuple(wanted[place] for place in shape)
        table = self._table(shape)
        kept = _Kept(_second(revocation.issued_before), keep_until, revocation)
        if (before := table.get(key)) is not None:
            self._buckets[before.keep_until // _BUCKET].discard((shape, key))
            latest = max(before, kept, key=lambda one: (one.revocation.issued_before, one.revocation.revoked_at))
            kept = latest._replace(keep_until=max(before.keep_until, keep_until))
        table[key] = kept
        self._buckets[kept.keep_until // _BUCKET].add((shape, key))

    def voided(self, traits: Traits) -> bool:
        """True if any revocation that is kept voids a token with these traits."""
        found, second = _found(traits), _second(traits.issued_at)
        for shape, table in self._tables.items():
            for key in itertools.product(*[found[place] for place in shape]):
                kept = table.get(key)
                if kept is not None and kept.second >= second:
                    return True
        return False

    def expire(self, now: int) -> int:
        """Forgets what was to be kept until a minute that has passed, never earlier; returns how many."""
        past = [bucket for bucket in self._buckets if (bucket + 1) * _BUCKET <= now]
        count = 0
        for bucket in past:
            for shape, key in self._buckets.pop(bucket):
                del self._tables[shape][key]
                count += 1
        self._tables = {shape: table for shape, table in self._tables.items() if table}
        return count

    def _table(self, shape: _Shape) -> dict[_Key, _Kept]:
        if shape not in self._tables:
            # The few traits first, and of these the ones that most revocations have.
            shapes = sorted([*self._tables, shape], key=lambda one: (len(one), one))
            self._tables = {one: self._tables.get(one, {}) for one in shapes}
        return self._tables[shape]
