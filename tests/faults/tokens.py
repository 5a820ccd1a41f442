"""Rules about tokens: what voids one holds from then on, and nothing else does; nobody answers from stale knowledge."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.history import OK, UNKNOWN, Did
from tests.faults.known import REFUSALS, Known, Violation
from tests.faults.records import Writes, link_writes, may_be

PROPAGATION_S = 1.0
_SAME_SECOND_S = 1.1  # upstream's tokens tell their issue by the second
_SLACK_S = 0.25
_PROBE_S = 1.0


class Token(NamedTuple):
    """A token, and all that was done to end it."""

    login: Did
    revokes: list[Did]
    voids: list[Did]


class People:
    """What was done to users that matters to their logins and tokens."""

    def __init__(self, known: Known) -> None:
        self.created: dict[str, Did] = {}
        self.voids: dict[str, list[Did]] = defaultdict(list)
        self.enables: dict[str, list[Did]] = defaultdict(list)
        self.secrets: dict[str, list[Did]] = defaultdict(list)
        for one in known.writes:
            if one.table == "memberships" and one.kind == "unlink":
                self.voids[one.key.split("/")[1]].append(one)
            if one.table not in ("users", "passwords") or not one.key:
                continue
            if one.kind == "create":
                self.created[one.key] = one
            if "secret" in one.sent:
                self.secrets[one.key].append(one)
            if one.kind == "delete" or (one.kind in ("change", "password") and _voids(one)):
                self.voids[one.key].append(one)
            if one.sent.get("enabled"):
                self.enables[one.key].append(one)


def check_tokens(known: Known) -> Iterator[Violation]:
    """Each validation, against all that had been done to the token."""
    people, tokens, links = People(known), _tokens(known), link_writes(known)
    for one in known.done:
        if one.kind != "validate" or one.key not in tokens:
            continue
        token = tokens[one.key]._replace(voids=people.voids.get(tokens[one.key].login.sent["user"], []))
        if one.status == 200:
            yield from _wrongly_accepted(known, people, token, one)
        if one.status in REFUSALS and "edge" not in token.login.sent:
            yield from _wrongly_refused(known, people, token, one)
        if one.status in (200, 404) and not token.revokes and "edge" in token.login.sent:
            yield from _by_grant(known, token, one, links)


def check_logins(known: Known) -> Iterator[Violation]:
    """Only the present password opens, and it does."""
    people = People(known)
    for one in known.done:
        if one.kind == "login" and "secret" in one.sent and "edge" not in one.sent:
            if one.outcome == OK:
                yield from _old_proof(known, people, one)
            elif one.status in (401, 403, 404):
                yield from _good_proof_refused(known, people, one)


def check_freshness(known: Known) -> Iterator[Violation]:
    """A system-scoped token is answered with 503 from beyond the limit, whatever the site says of itself."""
    limit, gone = known.setup.system_s, known.controllers_gone()
    for one in known.done:
        if one.kind == "login system" and one.status in REFUSALS:
            yield Violation("no false refusal", f"the administrator at {one.place}: {one.status}", (one.number,))
        if one.kind != "validate system" or one.status == 503 or not one.status or known.is_controller(one.place):
            continue
        if one.status in REFUSALS:
            yield Violation("no false refusal", f"the administrator's system token: {one.status}", (one.number,))
            continue
        silent = max((one.began - began for began, ended in gone if began < one.began <= ended), default=0.0)
        age = max(silent - _PROBE_S, _told_age(known, one))
        if age > limit + _SLACK_S:
            what = f"{one.place} answered a system token from knowledge {age:.1f} s old"
            yield Violation("stale knowledge is refused", what, (one.number,))


def _told_age(known: Known, one: Did) -> float:
    """How old the site's knowledge was at least, by what it said of itself next in the same life."""
    life = known.life(one.place, one.began)
    for saw in known.saws_after(one.place, one.ended):
        if saw.age_s is None or known.life(saw.place, saw.ended) != life or not life.steady:
            return 0.0
        return one.began - (saw.ended - saw.age_s)
    return 0.0


def _tokens(known: Known) -> dict[str, Token]:
    found = {one.key: Token(one, [], []) for one in known.done if one.kind == "login" and one.outcome == OK}
    for one in known.done:
        if one.kind == "revoke" and one.outcome in (OK, UNKNOWN) and one.key in found:
            found[one.key].revokes.append(one)
    return found


def _wrongly_accepted(known: Known, people: People, token: Token, one: Did) -> Iterator[Violation]:
    for void in token.revokes:
        if void.outcome != OK or void.ended >= one.began:
            continue
        numbers = (token.login.number, void.number, one.number)
        calm = known.calm_at(void.began, one.ended)
        if void.place == one.place:
            yield Violation("revoked stays revoked", f"accepted at {one.place}, where it was revoked", numbers)
        elif known.calm_between(void.ended, one.began):
            yield Violation("revoked stays revoked", f"accepted at {one.place} after the heal", numbers)
        elif known.is_controller(void.place) and 0 < void.position <= known.floor_of(one):
            yield Violation("revoked stays revoked", f"accepted at {one.place}, which must know of it", numbers)
        elif calm and one.began > void.ended + PROPAGATION_S:
            late = one.began - void.ended
            yield Violation(
                "revoked everywhere", f"accepted at {one.place} {late:.2f} s later, nothing broken", numbers
            )
    for void in token.voids:
        if void.outcome == OK and _must_be_void(known, people, token, void, one):
            numbers = (token.login.number, void.number, one.number)
            yield Violation("voided with its user", f"accepted at {one.place} after {_named(void)}", numbers)


def _must_be_void(known: Known, people: People, token: Token, void: Did, one: Did) -> bool:
    login = token.login
    knows = 0 < void.position <= known.floor_of(one) or known.calm_between(void.ended, one.began)
    if login.ended < void.began:
        # dated ahead of the change by a clock that was set: it falls with the answer of the place that issued it
        return knows and not (known.set_clock(login) and one.began < void.ended + PROPAGATION_S)
    # issued where the change was not known yet: it falls when that place hears of it
    if not known.calm_between(max(void.ended, login.ended), one.began) or login.began < void.ended:
        return False
    if void.kind == "delete":
        return True
    if "secret" in void.sent:
        setter = next((s for s in people.secrets[void.key] if s.sent["secret"] == login.sent.get("secret")), None)
        return setter is not None and setter.outcome == OK and setter.position < void.position
    return void.sent.get("enabled") is False and not any(
        enable.outcome == UNKNOWN or enable.position > void.position for enable in people.enables[void.key]
    )


def _wrongly_refused(known: Known, people: People, token: Token, one: Did) -> Iterator[Violation]:
    login = token.login
    if any(void.began < one.ended for void in token.revokes):
        return
    if any(void.began < one.ended and not _before(known, void, login) for void in token.voids):
        return
    created = people.created.get(login.sent["user"])
    if created is not None and not 0 < created.position <= known.floor_of(one):
        return  # this place need not know that user yet
    what = f"a good token got {one.status} at {one.place}: {one.said}"
    yield Violation("no false refusal", what, (login.number, one.number))


def _before(known: Known, void: Did, login: Did) -> bool:
    """Whether this was over, and known, before the token was issued."""
    knew = 0 < void.position <= known.floor_of(login)
    return void.outcome == OK and knew and void.ended + _SAME_SECOND_S < login.began


def _by_grant(known: Known, token: Token, one: Did, links: dict[tuple[str, str], Writes]) -> Iterator[Violation]:
    """A token is worth something in a project for as long as its user has a role there."""
    edge = token.login.sent["edge"]
    if not may_be(links["grants", edge], one.status == 200, known.floor_of(one), one.ended):
        word = "accepted without" if one.status == 200 else "refused in spite of"
        yield Violation("as granted", f"{word} grant {edge} at {one.place}", (token.login.number, one.number))


def _old_proof(known: Known, people: People, one: Did) -> Iterator[Violation]:
    user, floor = one.sent["user"], known.floor_of(one)
    setters = Writes(people.secrets[user])
    last = setters.last(floor)
    gone = [void for void in people.voids[user] if void.kind == "delete" and void.outcome == OK]
    if any(0 < void.position <= floor for void in gone):
        yield Violation("deleted stays deleted", f"{one.place} let a deleted user in", (gone[0].number, one.number))
    if last is None or last.sent["secret"] == one.sent["secret"]:
        return
    if not any(other.sent["secret"] == one.sent["secret"] for other in setters.may_follow(floor, one.ended)):
        what = f"{one.place} took a password that had been changed"
        yield Violation("only the present password", what, (last.number, one.number))


def _good_proof_refused(known: Known, people: People, one: Did) -> Iterator[Violation]:
    user, floor = one.sent["user"], known.floor_of(one)
    created, setter = people.created.get(user), None
    if created is not None:
        setter = next((s for s in people.secrets[user] if s.sent["secret"] == one.sent["secret"]), None)
        if setter is None or setter.outcome != OK or not 0 < max(setter.position, created.position) <= floor:
            return
    for other in (*people.secrets[user], *people.voids[user]):
        if other is setter or other is created or other.began > one.ended or other.kind == "unlink":
            continue
        is_past = setter is not None and other.outcome == OK and 0 < other.position < setter.position
        if is_past and other.kind in ("change", "password") and "enabled" not in other.sent:
            continue
        if is_past and other.sent.get("enabled") is False and _enabled_since(people, other, floor):
            continue
        return
    what = f"{one.place} refused the right password: {one.status} {one.said}"
    yield Violation("no false refusal", what, (one.number,))


def _enabled_since(people: People, disable: Did, floor: int) -> bool:
    return any(one.outcome == OK and disable.position < one.position <= floor for one in people.enables[disable.key])


def _voids(change: Did) -> bool:
    return "secret" in change.sent or change.sent.get("enabled") is False


def _named(void: Did) -> str:
    return f"{void.kind} of {void.table} {void.key} {sorted(void.sent)}"
