"""What a turn of a key ring is: whom it waits for, which keys it retires, what becomes of each; and nothing is done.

Plain values in, plain values out: no clock, no store, nothing to wait for. Instants are microseconds since 1970 UTC.
Source: docs/adr/0025-keys-retire-by-time-and-sealing-ends.md.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from regional_keystone.model import KeyTimes, Ring, SigningKey, Site

Promised = TypeVar("Promised", KeyTimes, SigningKey)

HOLDING = ("active", "quarantined")  # the states in which rings are sealed for a site
REMEMBERED = 16  # retired keys that a ring still tells of

STAGED, ACKNOWLEDGED, PRIMARY = "staged", "acknowledged", "primary"
HELD = "held"
SECONDARY, DRAINING, RETIRED = "secondary", "draining", "retired"


class Terms(NamedTuple):
    """The durations, in microseconds, by which keys are turned and kept.

    `lifetime_us`: of a token; `allow_expired_us`: after its end, how long it may still be shown; `isolation_us`: how
    long a site that hears nothing may go on sealing; `skew_us`: how far clocks may be apart; `interval_us`: between
    two turns, 0 where they are made only when asked for.
    """

    lifetime_us: int
    allow_expired_us: int
    isolation_us: int
    skew_us: int
    interval_us: int = 0


class Plan(NamedTuple):
    """What a turn would do now: which sites it waits for, which keys it retires."""

    epoch: int
    waits_for: tuple[str, ...]
    retires: tuple[int, ...]
    active: tuple[str, ...]
    quarantined: tuple[str, ...]


class Turn(NamedTuple):
    """What a turn makes of the keys: `times` of those that stay, by number, and those that are `retired`, by id."""

    at: int
    retires: tuple[int, ...]
    times: dict[int, KeyTimes]
    retired: dict[str, KeyTimes]


class KeyState(NamedTuple):
    """One key as it stands. `number` is None for one that is retired."""

    id: str
    number: int | None
    state: str
    times: KeyTimes


def least_active_keys(terms: Terms) -> int:
    """How many keys there are when all that is sealed can be opened and turns come at their interval; without one, 3.

    ceil((lifetime + allow expired + isolation) / interval) + 2: the former ones, the primary, the staged one.
    """
    if not terms.interval_us:
        return 3
    kept_us = terms.lifetime_us + terms.allow_expired_us + terms.isolation_us
    return -(-kept_us // terms.interval_us) + 2


def key_states(ring: Ring, terms: Terms, now: int, waits_for: Collection[str]) -> list[KeyState]:
    """Every key of the ring, the next one first, then as old as they are; and those that were retired last.

    `waits_for`: the active sites that have not acknowledged this ring.
    """
    found = [
        KeyState(ring.checks[number], number, _state(number, times, ring, now, waits_for), times)
        for number, times in _all_times(ring, terms).items()
    ]
    order = sorted(found, key=lambda key: -(key.number or 0))
    next_, ringed = order[-1:], order[:-1]
    gone = sorted(ring.retired.items(), key=lambda one: -one[1].retired_at)
    return next_ + ringed + [KeyState(id_, None, RETIRED, times) for id_, times in gone]


def plan(ring: Ring, sites: Sequence[Site], held: Mapping[str, tuple[int, str]], terms: Terms, now: int) -> Plan:
    """What a turn of this ring would do. `held`: epoch and fingerprint that the present instance of a site says it has.

    A key is retired once nothing that it sealed can be accepted anywhere, never because of how many there are.
    """
    active = tuple(site.id for site in sites if site.state == "active")
    newest = ring.epoch, ring.fingerprint
    return Plan(
        epoch=ring.epoch,
        waits_for=tuple(site for site in active if held.get(site) != newest),
        retires=_retires(ring, terms, now),
        active=active,
        quarantined=tuple(site.id for site in sites if site.state in HOLDING and site.state != "active"),
    )


def turned(ring: Ring, terms: Terms, now: int, retires: Collection[int] | None = None) -> Turn:
    """What the staged key's becoming the primary makes of all; `retires` instead of those whose time has come.

    How long the old primary is kept is fixed here, by the most that was promised while it was the primary. A turn is
    dated later than the one that it follows, whatever a clock says.
    """
    at, epoch = max(now, ring.turned_at + 1), ring.epoch + 1
    gone = tuple(retires) if retires is not None else _retires(ring, terms, at)
    known = _all_times(ring, terms)
    primary = max(ring.checks)
    retired = {
        ring.checks[number]: msgspec.structs.replace(known[number], retired_at=at) for number in gone if number in known
    }
    times = {number: one for number, one in known.items() if number not in gone}
    times[primary] = msgspec.structs.replace(_ceased(known[primary], terms, at), ceased_in=epoch)
    times[primary + 1] = msgspec.structs.replace(promised(known[0], terms), primary_at=at, primary_in=epoch)
    times[0] = KeyTimes(staged_at=at, staged_in=epoch)
    newest = sorted((retired | ring.retired).items(), key=lambda one: -one[1].retired_at)[:REMEMBERED]
    return Turn(at, gone, times, dict(newest))


def postponed(ring: Ring, epoch: int, by_us: int) -> dict[int, KeyTimes]:
    """The times of a ring whose turn to `epoch` came so much later than it is dated: what ceased by it stays longer."""
    return {
        number: msgspec.structs.replace(one, seal_until=one.seal_until + by_us, keep_until=one.keep_until + by_us)
        if one.ceased_in == epoch
        else one
        for number, one in ring.times.items()
    }


def sealed_again(ring: Ring, terms: Terms) -> dict[int, KeyTimes]:
    """What sealing the same keys again makes of them: the primary is kept for what is promised now as well."""
    known = _all_times(ring, terms)
    primary = max(ring.checks)
    return known | {primary: promised(known[primary], terms)}


def with_former(ring: Ring, terms: Terms, now: int, count: int) -> dict[int, KeyTimes]:
    """The times of a ring to which so many former keys come, numbered below the primary, which makes room for them.

    They are kept as if they had ceased now: who sealed with them elsewhere may have done so until now. Here nobody
    seals with them, ever, by whatever clock: others may lack them.
    """
    known, primary = sealed_again(ring, terms), max(ring.checks)
    came = msgspec.structs.replace(_ceased(KeyTimes(), terms, now), seal_until=0, ceased_in=ring.epoch + 1)
    return known | dict.fromkeys(range(primary, primary + count), came) | {primary + count: known[primary]}


def first(at: int, terms: Terms) -> dict[int, KeyTimes]:
    """The times of a ring that is made now: a primary and a staged key."""
    primary = KeyTimes(staged_at=at, primary_at=at, staged_in=1, primary_in=1)
    return {0: KeyTimes(staged_at=at, staged_in=1), 1: promised(primary, terms)}


def part_at(times: KeyTimes, epoch: int) -> str:
    """What a key is to a site that holds an earlier epoch: staged, primary, held, "" for nothing, ? for not known."""
    if not epoch or epoch < times.staged_in:
        return ""
    if not times.staged_in:
        return "?"
    if not times.primary_at or epoch < times.primary_in:
        return STAGED
    return PRIMARY if not times.ceased_at or epoch < times.ceased_in else HELD


def _all_times(ring: Ring, terms: Terms) -> dict[int, KeyTimes]:
    """The times of every key; what an older version did not write counts from the last turn, which was later."""
    primary, found = max(ring.checks), dict[int, KeyTimes]()
    for number in ring.checks:
        times = ring.times.get(number)
        if times is None and number == 0:
            times = KeyTimes(staged_at=ring.turned_at)
        elif times is None:
            times = promised(KeyTimes(primary_at=ring.turned_at), terms)
        if number not in {0, primary} and not times.ceased_at:
            times = _ceased(times, terms, ring.turned_at)
        found[number] = times
    return found


def _retires(ring: Ring, terms: Terms, now: int) -> tuple[int, ...]:
    primary = max(ring.checks)
    times = _all_times(ring, terms)
    return tuple(number for number in times if number not in {0, primary} and now > times[number].keep_until)


def promised(key: Promised, terms: Terms) -> Promised:
    """The most of what was promised for it so far, and of what is promised now."""
    return msgspec.structs.replace(
        key,
        isolation_us=max(key.isolation_us, terms.isolation_us),
        lifetime_us=max(key.lifetime_us, terms.lifetime_us),
        allow_expired_us=max(key.allow_expired_us, terms.allow_expired_us),
    )


def _ceased(times: KeyTimes, terms: Terms, at: int) -> KeyTimes:
    most = promised(times, terms)
    seal_until = at + most.isolation_us
    keep_until = seal_until + most.lifetime_us + most.allow_expired_us + terms.skew_us
    return msgspec.structs.replace(
        times,
        ceased_at=at,
        seal_until=seal_until,
        keep_until=max(times.keep_until, keep_until),
    )


def _state(number: int, times: KeyTimes, ring: Ring, now: int, waits_for: Collection[str]) -> str:
    if number == 0:
        return STAGED if waits_for else ACKNOWLEDGED
    if number == max(ring.checks):
        return PRIMARY
    return SECONDARY if now <= times.seal_until else DRAINING
