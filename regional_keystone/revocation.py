"""Which tokens are void: upstream's rule in one expression, and an index that gives its answer at once.
Separate from token, because the rule asks for more than a token says: domains, roles, the people behind a trust.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

_MINUTE = 60_000_000
_BITS = 26  # of a number, for the minute until which it is kept; above them is the second up to which it voids
_LAST = (1 << _BITS) - 1  # the year 2097; what is to be kept until then or longer is never forgotten
_NEVER = -(1 << 90)
_PARTS = 1024  # of a table, so that none of them takes long to grow or to be looked through
_SLICE = 512  # entries that are looked at
_GONE = 16  # entries that go: each may be the last in a megabyte that the allocator then gives back, for 0.1 ms
_SINCE = 11  # the place of an event that reaches forward: behind all that is compared
_Shape: TypeAlias = tuple[int, ...]
_Key: TypeAlias = tuple[object, ...]
_Table: TypeAlias = tuple[dict[object, int], ...]


class Revocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Voids the tokens issued until `issued_before` that have all of the traits that are set.

    With `issued_from` it reaches forward instead: those issued in that second or later, whatever `issued_before` says.
    Who makes one sets the latter to 0, so that a site of a version that does not know the other voids nothing by it.
    Source: keystone/models/revoke_model.py, RevokeEvent; `issued_from` is ours.
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
    issued_from: int | None = None


class Traits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    second = _second(traits.issued_at)
    if revocation.issued_from is not None:
        second = -second
    return _reach(revocation) >= second and all(
        wanted is None or wanted in found(traits) for wanted, found in zip(_wanted(revocation), _FOUND, strict=True)
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
        None if event.issued_from is None else True,
    )


_FOUND: tuple[Callable[[Traits], _Key], ...] = (  # what a token has for each of the wanted, in the same order
    lambda traits: (traits.audit_id,),
    lambda traits: (traits.audit_chain_id, *traits.lines),
    lambda traits: (traits.user_id, traits.trustor_id, traits.trustee_id),
    lambda traits: (traits.project_id,),
    lambda traits: traits.role_ids,
    lambda traits: (traits.trust_id,),
    lambda traits: (traits.user_domain_id, traits.assignment_domain_id),
    lambda traits: (traits.assignment_domain_id,),
    lambda traits: (traits.consumer_id,),
    lambda traits: (traits.access_token_id,),
    lambda traits: (_second(traits.expires_at),),
    lambda _: (True,),
)


def _second(at: int) -> int:
    return at // 1_000_000


def _reach(event: Revocation) -> int:
    """The more, the more tokens it voids: its second, or what it reaches forward from, negative."""
    return _second(event.issued_before) if event.issued_from is None else -_second(event.issued_from)


class RevocationIndex:
    """Gives the rule's answer over all revocations that were added, for a few look-ups whatever their number.

    One table for each combination of traits that occurs. Of revocations that differ in their times only, that which
    reaches furthest is kept, as long as the longest of them; so memory is bounded by who is revoked, not how often.
    What is kept of each is a text and a number, which is what the rule asks for; the whole of it is in the store.
    Source: docs/adr/0034-an-index-of-texts-and-numbers.md
    """

    def __init__(self) -> None:
        self.version = 0  # grows whenever more is void than before: nobody needs to ask again before it does
        self._tables: dict[_Shape, _Table] = {}
        self._single: list[tuple[Callable[[Traits], _Key], _Table]] = []
        self._several: list[tuple[tuple[Callable[[Traits], _Key], ...], bool, _Table]] = []

    def __len__(self) -> int:
        """How many are kept."""
        return sum(map(len, itertools.chain.from_iterable(self._tables.values())))

    def add(self, revocation: Revocation, keep_until: int) -> None:
        """From now on it counts, until `keep_until` has passed; adding it again is harmless."""
        wanted = _wanted(revocation)
        shape = tuple([place for place, value in enumerate(wanted) if value is not None])
        key = wanted[shape[0]] if _is_single(shape) else tuple([wanted[place] for place in shape])
        part = self._table(shape)[hash(key) & _PARTS - 1]
        reach, minute = _reach(revocation), max(0, min(keep_until // _MINUTE, _LAST))
        before = part.get(key)
        if before is not None:
            if reach <= before >> _BITS:
                part[key] = before & ~_LAST | max(before & _LAST, minute)
                return
            minute = max(before & _LAST, minute)
        part[key] = reach << _BITS | minute
        self.version += 1

    def voided(self, traits: Traits) -> bool:
        """True if any revocation that is kept voids a token with these traits."""
        second = _second(traits.issued_at)
        least = second << _BITS
        for found, table in self._single:
            for key in found(traits):
                if table[hash(key) & _PARTS - 1].get(key, _NEVER) >= least:
                    return True
        for several, forward, table in self._several:
            least = -second << _BITS if forward else second << _BITS
            for key in itertools.product(*[found(traits) for found in several]):
                if table[hash(key) & _PARTS - 1].get(key, _NEVER) >= least:
                    return True
        return False

    def reach(self, traits: Traits) -> int:
        """The last second whose tokens with these traits are void, less than any where there is none.

        What reaches forward is left aside. It grows when a revocation arrives that reaches further, however late.
        """
        reach = _NEVER
        for found, table in self._single:
            for key in found(traits):
                reach = max(reach, table[hash(key) & _PARTS - 1].get(key, _NEVER))
        for several, forward, table in self._several:
            if not forward:
                for keys in itertools.product(*[found(traits) for found in several]):
                    reach = max(reach, table[hash(keys) & _PARTS - 1].get(keys, _NEVER))
        return reach >> _BITS

    def expire(self, now: int) -> int:
        """Forgets what was to be kept until a minute that has passed, never earlier; returns how many."""
        return sum(self.expiring(now))

    def expiring(self, now: int) -> Iterator[int]:
        """The same in slices of a millisecond or two at most, between which anything may be asked and added."""
        past, seen, count = now // _MINUTE, 0, 0
        for part in itertools.chain.from_iterable(list(self._tables.values())):
            seen += len(part)
            gone = [key for key, kept in part.items() if kept & _LAST < past and kept & _LAST != _LAST]
            shrinks = bool(gone)
            while gone:
                if count >= _GONE:
                    yield count
                    seen = count = 0
                if part.get(gone[-1], _LAST) & _LAST < past:  # else it was added again meanwhile
                    del part[gone[-1]]
                    count += 1
                gone.pop()
            if shrinks and not part:
                part.clear()  # else it stays as large as it was
            if seen >= _SLICE:
                yield count
                seen = count = 0
        yield count
        self._tables = {shape: table for shape, table in self._tables.items() if any(table)}
        self._order()

    def _table(self, shape: _Shape) -> _Table:
        table = self._tables.get(shape)
        if table is None:
            table = self._tables[shape] = tuple([{} for _ in range(_PARTS)])
            self._order()
        return table

    def _order(self) -> None:
        """The few traits first, and of these the ones that most revocations have."""
        every = sorted(self._tables.items(), key=lambda one: (len(one[0]), one[0]))
        self._single = [(_FOUND[shape[0]], table) for shape, table in every if _is_single(shape)]
        self._several = [
            (tuple(_FOUND[place] for place in shape), shape[-1:] == (_SINCE,), table)
            for shape, table in every
            if not _is_single(shape)
        ]


def _is_single(shape: _Shape) -> bool:
    return len(shape) == 1 and shape != (_SINCE,)
