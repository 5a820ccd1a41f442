"""What two answers to one request have to have in common, and where they differ."""

from typing import NamedTuple

from tests.differential.side import Answer
from tests.differential.tables import Case
from tests.golden.record_upstream import normalise


class Cell(NamedTuple):
    """One request by one persona, and what both sides said."""

    case: Case
    persona: str
    theirs: Answer
    ours: Answer
    unlike: tuple

    @property
    def group(self):
        """What differences that are alike have in common; the personas of a group are told together."""
        return (self.case.section, self.case.name, tuple(one[:300] for one in self.unlike))


def compared(case, persona, theirs, ours):
    """A cell. The dump of what was sent, at the end of some of upstream's messages, is no part of an answer."""
    return Cell(case, persona, theirs, ours, tuple(normalise.compare(_told(theirs), _told(ours))))


def _told(answer):
    shown = answer.shown
    body = shown["body"]
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        shown = {**shown, "body": {"error": {**body["error"], "message": answer.message}}}
    return shown
