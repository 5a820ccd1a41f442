"""A history in, violations out: nothing else decides whether a run was good. Pure; replayable from the file."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from tests.faults.history import OK, UNKNOWN, Did, Event
from tests.faults.known import Known, Violation
from tests.faults.records import RECORDS, check_links, check_names, check_records
from tests.faults.tokens import check_freshness, check_logins, check_tokens
from tests.faults.unheard import check_unheard

EQUAL_S = 30.0
_EXPECTED = frozenset((0, 200, 201, 204, 401, 403, 404, 409, 503))
_CHANGES = frozenset(("create", "change", "delete", "link", "unlink", "password"))
_BY_AGE = frozenset(("login system", "validate system"))  # `check_freshness` says when they may be refused
_GOES_ON = frozenset(("show", "list", "named", "linked", "login", "validate", "revoke"))  # without any controller


def check_answers(known: Known) -> Iterator[Violation]:
    """No status that is not documented, above all no 500; a 503 says when to come back."""
    for one in known.done:
        if one.status not in _EXPECTED:
            yield Violation("no 500", f"{one.kind} at {one.place}: {one.status} {one.said}", (one.number,))
        if one.status == 503 and not one.retry_after and one.kind != "rotate":
            yield Violation("503 says when", f"{one.kind} at {one.place}: no Retry-After", (one.number,))


def check_positions(known: Known) -> Iterator[Violation]:
    """Acknowledged changes have positions of their own, and who began later stands later."""
    changes = [one for one in known.done if one.kind in _CHANGES and one.outcome == OK and one.position]
    first: dict[int, Did] = {}
    for one in changes:
        other = first.setdefault(one.position, one)
        if other is not one:
            what = f"position {one.position} was given twice"
            yield Violation("one position, one change", what, (other.number, one.number))
    ends = sorted(changes, key=lambda one: one.ended)
    highest, place = None, 0
    for one in changes:  # in the order of their begin
        while place < len(ends) and ends[place].ended < one.began:
            if highest is None or ends[place].position > highest.position:
                highest = ends[place]
            place += 1
        if highest is not None and one.position < highest.position:
            what = f"position {one.position} began after {highest.position} was answered"
            yield Violation("in the order of time", what, (highest.number, one.number))


def check_replicas(known: Known) -> Iterator[Violation]:
    """Positions and epochs never go back; equal positions are equal replicas."""
    digests: dict[int, tuple[str, str]] = {}
    seen: dict[tuple[str, int], list] = defaultdict(list)
    for saw in known.saws:
        if saw.digest:
            value, place = digests.setdefault(saw.position, (saw.digest, saw.place))
            if value != saw.digest:
                what = f"{saw.place} and {place} differ at position {saw.position}"
                yield Violation("equal positions, equal replicas", what)
            continue
        life = known.life(saw.place, saw.began)
        if life.steady:
            seen[saw.place, 0 if known.is_controller(saw.place) else life.index].append(saw)
    for (place, _), saws in seen.items():
        for before, after in itertools.pairwise(saws):
            if before.ended < after.began and after.position < before.position:
                what = f"{place} went from {before.position} at {before.ended:.2f} to {after.position}"
                yield Violation("positions never go back", what)
            if before.ended < after.began and after.epoch < before.epoch:
                yield Violation("positions never go back", f"{place}: ring {before.epoch} and then {after.epoch}")


def check_calm(known: Known) -> Iterator[Violation]:
    """Healed, all replicas become equal in time; with nothing broken, nothing is unavailable."""
    for calm in known.calms:
        if calm.began is None or calm.began - calm.healed > EQUAL_S:
            what = f"healed at {calm.healed:.1f}, not equal after {EQUAL_S:.0f} s: {calm.said}"
            yield Violation("equal after the heal", what)
    for one in known.done:
        away = one.status in (0, 503) or one.outcome == UNKNOWN
        if away and known.calm_at(one.began, one.ended) and "Too many others" not in one.said:
            what = f"{one.kind} at {one.place}: {one.status} {one.said}, and nothing was broken"
            yield Violation("available when whole", what, (one.number,))


def check_rest(known: Known) -> Iterator[Violation]:
    """What is broken elsewhere is no reason for a 503: sites go on alone, controllers without one data centre."""
    for one in known.done:
        if one.status != 503 or "Too many others" in one.said or one.kind in _BY_AGE:
            continue
        broken = known.broken_at(one.began, one.ended)
        nodes = {name for name in broken if name.startswith("cassandra")}
        if not broken or one.place in broken or known.node_of(one.place) in nodes:
            continue
        if known.is_controller(one.place):
            excused = len(nodes) > 1
        else:
            needs = one.floor or one.kind not in _GOES_ON
            excused = bool(needs and (nodes or broken & set(known.setup.controllers)))
        if not excused:
            what = f"{one.kind} at {one.place}: 503 {one.said}, and broken was only {', '.join(sorted(broken))}"
            yield Violation("the rest goes on", what, (one.number,))


def check_log(known: Known) -> Iterator[Violation]:
    """The log has each number once and no holes; what was acknowledged is in it, once, at its position."""
    for audit in known.audits:
        for what in audit.wrong:
            yield Violation("whole or not at all", f"{audit.place}: {what}")
    if not known.logged:
        return
    numbers = [one.number for one in known.logged]
    audit = known.audits[0]
    if numbers != list(range(audit.first, audit.head + 1)):
        holes = sorted(set(range(audit.first, audit.head + 1)) - set(numbers))[:5]
        yield Violation("no holes", f"{len(numbers)} entries in {audit.first}..{audit.head}, missing {holes}")
    by_id: dict[str, int] = {}
    for entry in known.logged:
        if by_id.setdefault(entry.id, entry.number) != entry.number:
            what = f"transaction {entry.id} is at {by_id[entry.id]} and at {entry.number}"
            yield Violation("exactly once", what)
    yield from _acknowledged(known, by_id, {entry.number: entry.rows for entry in known.logged})


def _acknowledged(known: Known, by_id: dict[str, int], rows: dict[int, list[str]]) -> Iterator[Violation]:
    for one in known.done:
        if one.kind not in _CHANGES or one.outcome != OK or not one.position:
            continue
        number = by_id.get(one.request, by_id.get(f"{one.place}/{one.request}"))  # the second: forwarded
        if number is None:
            yield Violation("acknowledged is there", f"no entry for {one.request}", (one.number,))
        elif number > one.position or (number < one.position and known.is_controller(one.place)):
            what = f"answered with position {one.position}, logged at {number}"
            yield Violation("one position, one change", what, (one.number,))
        elif one.table in RECORDS and f"{one.table}/{one.key}" not in rows[number]:
            yield Violation("whole or not at all", f"entry {number} does not touch {one.key}", (one.number,))


LATE = frozenset(("the rest goes on", "available when whole"))
"""Rules that a node breaks which freezes under a request: each breach is told, and few are no violation."""
ENOUGH = "available enough"
LATE_SHARE = 0.001
TIMELY = frozenset((ENOUGH, "revoked everywhere"))
"""Rules that a machine which is too busy breaks as well."""
RULES: tuple[Callable[[Known], Iterable[Violation]], ...] = (
    check_answers,
    check_positions,
    check_records,
    check_names,
    check_links,
    check_tokens,
    check_logins,
    check_freshness,
    check_replicas,
    check_calm,
    check_rest,
    check_log,
    check_unheard,
)


Verdict = tuple[list[Violation], list[Violation]]
"""Violations, and what was late."""


def check(events: Iterable[Event]) -> Verdict:
    """All violations, each once, and what was late. More of that than a thousandth of all is a violation as well."""
    known = Known(events)
    found = list(dict.fromkeys(one for rule in RULES for one in rule(known)))
    late = [one for one in found if one.rule in LATE]
    violations = [one for one in found if one.rule not in LATE]
    if len(late) > LATE_SHARE * len(known.done):
        violations.append(Violation(ENOUGH, f"{len(late)} of {len(known.done)} operations were late", ()))
    return violations, late
