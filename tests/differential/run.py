"""Plays cells on both sides and judges each: equal, explained, or unexplained."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from regional_keystone.errors import NotFound
from tests.differential.compare import compared
from tests.differential.reasons import REASONS, reason_of
from tests.differential.resources import MAKERS, cases
from tests.differential.side import Request
from tests.differential.tables import bare, routes
from tests.differential.world import Stage, Unmakable, named, needed, token
from tests.golden.record_upstream import normalise

_FAR = 200  # cells between two lines of progress


@dataclass
class Report:
    cells: int = 0
    equal: int = 0
    explained: dict = field(default_factory=dict)  # place in the table of reasons -> group -> the cells
    unexplained: dict = field(default_factory=dict)  # group -> the cells
    unmade: dict = field(default_factory=dict)  # case -> why what it needs could not be made
    not_served: set = field(default_factory=set)  # routes
    absent: dict = field(default_factory=dict)  # persona -> why
    statuses: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)  # why cells were not asked

    @property
    def differing(self):
        return sum(len(cells) for cells in self.unexplained.values())

    @property
    def reasons(self):
        """How many cells each reason explains."""
        found = Counter()
        for place, groups in self.explained.items():
            found[REASONS[place].id] += sum(len(cells) for cells in groups.values())
        return found

    def unshown(self):
        """Rows that explain nothing any more."""
        return [f"{one.id}: {one.asked}" for place, one in enumerate(REASONS) if place not in self.explained]

    def add(self, cell):
        self.cells += 1
        self.statuses[cell.theirs.status] += 1
        if not cell.unlike:
            self.equal += 1
            return
        place = reason_of(cell)
        groups = self.unexplained if place is None else self.explained.setdefault(place, {})
        groups.setdefault(cell.group, []).append(cell)

    def merge(self, other):
        """Take up what another worker found."""
        self.cells += other.cells
        self.equal += other.equal
        self.statuses += other.statuses
        self.skipped += other.skipped
        self.not_served |= other.not_served
        self.unmade |= other.unmade
        self.absent |= other.absent
        for place, groups in other.explained.items():
            _join(self.explained.setdefault(place, {}), groups)
        _join(self.unexplained, other.unexplained)


def _join(groups, more):
    for group, cells in more.items():
        groups.setdefault(group, []).extend(cells)


def select(only=(), sample=None, seed=7):
    """(number, case, persona) of every cell, or of so many by chance; those of a section follow each other."""
    found = [(case, persona) for case in cases() if not only or case.section in only for persona in case.personas]
    if sample is not None and sample < len(found):
        chosen = sorted(random.Random(seed).sample(range(len(found)), sample))
        found = [found[one] for one in chosen]
    return [(number, case, persona) for number, (case, persona) in enumerate(found)]


def play(theirs, ours, cells, tell=print):
    """The report of all these cells; `theirs` and `ours`: the servers' base URLs."""
    report = Report()
    with Player(theirs, ours) as player:
        started = time.monotonic()
        for first in range(0, len(cells), _FAR):
            player.play(cells[first : first + _FAR], report)
            tell(progress(report, first + _FAR, len(cells), started))
    return report


def progress(report, done, whole, started):
    """A line that says how far it is."""
    speed = done / (time.monotonic() - started)
    return f"{min(done, whole)} of {whole}, {speed:.1f}/s; {report.equal} equal, {report.differing} unexplained"


class Player:
    """Two servers with the same world on each. Cells that are played leave nothing behind but in that world."""

    def __init__(self, theirs, ours):
        self._stage = Stage(theirs, ours)
        self._stage.build(MAKERS)
        self._not_served = set()
        self._served = self._routes()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stage.close()

    def play(self, cells, report):
        """Add what comes of these cells to the report. Objects are made anew for them."""
        report.absent |= self._stage.absent
        report.not_served |= self._not_served
        section = None
        for number, case, persona in cells:
            if case.section != section:
                self._stage.spend_all()
                section = case.section
            if why := self._hindered(report, case, persona):
                report.skipped[why] += 1
            else:
                self._cell(report, case, persona, number)
        self._stage.spend_all()

    def _hindered(self, report, case, persona):
        if not self._serves(case):
            return "the route is not served"
        if persona in self._stage.absent or case.name in report.unmade:
            return "what it needs could not be made"
        return None

    def _cell(self, report, case, persona, number):
        asked = replace(case, path=named(case.path, f"n{number}"), body=named(case.body, f"n{number}"))
        needs = needed([case.path, case.body, list(case.headers.values())]) | set(case.needs)
        try:
            for one in sorted(needs):
                self._stage.need(one)
        except Unmakable as why:
            if not why.alike:
                report.unmade[case.name] = str(why)
            report.skipped["both refuse what it needs" if why.alike else "what it needs could not be made"] += 1
            return
        headers = {**token(persona), **case.headers}
        path = f"/v3{asked.path}" if case.path != "/" else "/"
        theirs, ours = self._stage.both(Request(case.method, path, asked.body, headers, case.raw))
        report.add(compared(case, persona, theirs, ours))
        if case.method in ("GET", "HEAD", "OPTIONS"):
            return
        if case.made:
            self._unmake(asked, theirs, ours)
        if theirs.ok or ours.ok or theirs.status >= 500 or ours.status >= 500:
            self._stage.spend(needs)

    def _unmake(self, case, *answers):
        where, path = case.made
        made = []
        for side, answer in zip(self._stage.sides, answers, strict=True):
            if not answer.ok:
                continue
            if where:
                side.bind("made", normalise.pick(answer.raw, where))
            made.append(side)
        self._stage.remove(path, made)

    def _routes(self):
        """The shape of each route -> whether ours has it at all."""
        tree = {}
        for path, methods, endpoint in routes():
            if endpoint == "static" or path == "/":
                continue
            method = next(one for one in methods if one not in ("HEAD", "OPTIONS"))
            answer = self._stage.sides[1].ask(Request(method, f"/v3{bare(path)}".removesuffix("/")))
            there = answer.status != 404 or answer.message != NotFound.default
            if not there:
                self._not_served.add(path)
            tree[_shape(bare(path))] = there
        return tree

    def _serves(self, case):
        parts = _shape(case.path)
        return next((there for known, there in self._served.items() if _fits(known, parts)), True)


def _shape(path):
    return tuple("<>" if part.startswith("<") else part for part in path.partition("?")[0].strip("/").split("/"))


def _fits(known, parts):
    return len(known) == len(parts) and all(one in ("<>", other) for one, other in zip(known, parts, strict=True))
