"""What was revoked and not heard of: each revocation that some place answered for is in the log in the end, once.

And how many answers were given from knowledge that was older than their class allows. Pure, as all that judges.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.history import OK, UNKNOWN, Did
from tests.faults.known import Known, Violation
from tests.faults.tokens import check_freshness

_OF_A_FEED = re.compile(r"[^/]+/[^/]+/\d+/\d+")  # site, incarnation, number, place: such a row is written once for ever
_LIMITED = ("validate system", "login system")
STALE = "stale knowledge is refused"


class Heard(NamedTuple):
    """`acknowledged` counts tokens; `judged` the answers about tokens whose class has a limit."""

    acknowledged: int
    lost: list[Violation]
    twice: list[Violation]
    judged: int
    stale: list[Violation]
    is_read: bool

    def told(self) -> str:
        """One line for people."""
        log = f"{len(self.lost)} lost, {len(self.twice)} twice in the log" if self.is_read else "the log was not read"
        limited = f"{self.judged} answers that have a limit, {len(self.stale)} beyond it"
        return f"revocations: {self.acknowledged} acknowledged, {log}; {limited}"


def hear(known: Known) -> Heard:
    """Every revocation that was answered 204, wherever that was, against the log as it was read in the end."""
    asked: dict[str, list[Did]] = defaultdict(list)
    for one in known.done:
        if one.kind == "revoke" and one.outcome in (OK, UNKNOWN):
            asked[one.sent["audit"]].append(one)
    answered = {audit: [one.number for one in asks if one.outcome == OK] for audit, asks in asked.items()}
    return Heard(
        acknowledged=sum(map(bool, answered.values())),
        lost=list(_lost(known, answered)),
        twice=[*_more_often_than_asked(known, asked), *_again(known)],
        judged=sum(one.kind in _LIMITED and one.status in (200, 201) for one in known.done),
        stale=[one for one in check_freshness(known) if one.rule == STALE],
        is_read=bool(known.logged),
    )


def check_unheard(known: Known) -> Iterator[Violation]:
    """A revocation that was answered for is in the log, and no site's entry is there a second time."""
    heard = hear(known)
    yield from (*heard.lost, *heard.twice)


def _times(known: Known) -> Counter[str]:
    return Counter(audit for entry in known.logged for audit in entry.audits)


def _lost(known: Known, answered: dict[str, list[int]]) -> Iterator[Violation]:
    times = _times(known)
    for audit, numbers in answered.items():
        if known.logged and numbers and not times[audit]:
            yield Violation("acknowledged is there", f"the revocation of {audit} is not in the log", tuple(numbers))


def _more_often_than_asked(known: Known, asked: dict[str, list[Did]]) -> Iterator[Violation]:
    times = _times(known)
    for audit, asks in asked.items():
        if times[audit] > len(asks):
            numbers = tuple(one.number for one in asks)
            yield Violation("exactly once", f"{times[audit]} revocations of {audit}, asked {len(asks)}", numbers)


def _again(known: Known) -> Iterator[Violation]:
    """What a site's own feed has at one number, taken over by two entries."""
    first: dict[str, int] = {}
    for entry in known.logged:
        for name in filter(_OF_A_FEED.fullmatch, entry.revocations):
            if (before := first.setdefault(name, entry.number)) != entry.number:
                yield Violation("exactly once", f"{name} of a site's feed is at {before} and again at {entry.number}")
