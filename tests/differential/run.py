"""Plays all cells on both sides and judges each: equal, explained, or unexplained."""

import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from regional_keystone.errors import NotFound
from tests.differential.compare import compared
from tests.differential.reasons import REASONS
from tests.differential.resources import MAKERS, cases
from tests.differential.side import Request
from tests.differential.tables import bare, routes
from tests.differential.world import NAMES, PERSONAS, Stage, Unmakable, named, needed, token
from tests.golden.record_upstream import normalise

_FAR = 200  # cells between two lines of progress


@dataclass
class Report:
    cells: int = 0
    equal: int = 0
    reasons: Counter = field(default_factory=Counter)
    unexplained: dict = field(default_factory=dict)  # group -> the cells
    unmade: dict = field(default_factory=dict)  # case -> why what it needs could not be made
    not_served: list = field(default_factory=list)  # routes
    absent: dict = field(default_factory=dict)  # persona -> why
    statuses: Counter = field(default_factory=Counter)

    @property
    def differing(self):
        return sum(len(cells) for cells in self.unexplained.values())

    def unshown(self):
        """Reasons that explain nothing any more."""
        return sorted({one.id for one in REASONS} - set(self.reasons))

    def add(self, cell):
        self.cells += 1
        self.statuses[cell.theirs.status] += 1
        if not cell.unlike:
            self.equal += 1
            return
        reason = next((one.id for one in REASONS if one.explains(cell)), None)
        if reason:
            self.reasons[reason] += 1
        else:
            self.unexplained.setdefault(cell.group, []).append(cell)


def select(only=(), sample=None, seed=7):
    """(case, persona) of every cell, or of so many by chance; in the order in which they are played."""
    found = [(case, persona) for case in cases() if not only or case.section in only for persona in case.personas]
    if sample is not None and sample < len(found):
        chosen = sorted(random.Random(seed).sample(range(len(found)), sample))
        found = [found[one] for one in chosen]
    return found


def play(theirs, ours, cells, tell=print, report=None):
    """The report of all these cells; `theirs` and `ours`: the servers' base URLs. `report` is filled on the way."""
    report = report or Report()
    stage = Stage(theirs, ours)
    try:
        stage.build(MAKERS)
        report.absent = stage.absent
        served = _served(stage, report)
        started, section = time.monotonic(), None
        for number, (case, persona) in enumerate(cells):
            if case.section != section:
                stage.spend_all()
                section = case.section
            if persona in stage.absent or not served(case):
                continue
            _cell(stage, report, case, persona, number)
            if number % _FAR == _FAR - 1:
                speed = (number + 1) / (time.monotonic() - started)
                tell(f"{number + 1} of {len(cells)}, {speed:.0f}/s, {section}; {report.differing} unexplained")
        stage.spend_all()
    finally:
        stage.close()
    return report


def _cell(stage, report, case, persona, number):
    asked = replace(case, path=named(case.path, f"n{number}"), body=named(case.body, f"n{number}"))
    needs = needed([case.path, case.body, list(case.headers.values())]) | set(case.needs)
    if case.name in report.unmade:
        return
    try:
        for one in sorted(needs):
            stage.need(one)
    except Unmakable as why:
        if not why.alike:
            report.unmade[case.name] = str(why)
        return
    headers = {**token(persona), **case.headers}
    theirs, ours = stage.both(
        Request(case.method, f"/v3{asked.path}" if case.path != "/" else "/", asked.body, headers, case.raw)
    )
    report.add(compared(case, persona, theirs, ours))
    if case.method in ("GET", "HEAD", "OPTIONS"):
        return
    if case.made:
        _unmake(stage, asked, theirs, ours)
    if theirs.ok or ours.ok or theirs.status >= 500 or ours.status >= 500:
        stage.spend(needs)


def _unmake(stage, case, *answers):
    where, path = case.made
    for side, answer in zip(stage.sides, answers, strict=True):
        found = normalise.pick(answer.raw, where) if answer.ok and answer.raw else None
        if found is not None:
            side.bind("made", found)
            stage.remove(path, (side,))


def _served(stage, report):
    """Whether ours has a case's path at all; what it has not is in the report."""
    tree = {}
    for path, methods, endpoint in routes():
        if endpoint == "static" or path == "/":
            continue
        method = next(one for one in methods if one not in ("HEAD", "OPTIONS"))
        answer = stage.sides[1].ask(Request(method, f"/v3{bare(path)}".removesuffix("/")))
        there = answer.status != 404 or answer.message != NotFound.default
        if not there:
            report.not_served.append(path)
        tree[_shape(bare(path))] = there

    def served(case):
        parts = _shape(case.path)
        return next((there for known, there in tree.items() if _fits(known, parts)), True)

    return served


def _shape(path):
    return tuple("<>" if part.startswith("<") else part for part in path.partition("?")[0].strip("/").split("/"))


def _fits(known, parts):
    return len(known) == len(parts) and all(one in ("<>", other) for one, other in zip(known, parts, strict=True))


def show(report, write=sys.stdout.write):
    """Every unexplained difference once per group, then the sums."""
    for (section, name, unlike), found in sorted(report.unexplained.items(), key=_harm):
        first = found[0]
        write(f"\n[{section}] {name}\n  by {_personas(found)}: {first.theirs.status} there, {first.ours.status} here\n")
        for one in unlike[:4]:
            write(f"    {one}\n")
    for name, why in report.unmade.items():
        write(f"\ncannot make what is needed for {name}: {why[:300]}\n")
    for name, why in report.absent.items():
        write(f"persona skipped: {name}: {why}\n")
    write(f"not served: {len(report.not_served)} routes\n")
    for path in report.not_served:
        write(f"  {path}\n")
    for reason, count in report.reasons.most_common():
        write(f"  {reason}: {count}\n")
    write(
        f"cells {report.cells}, equal {report.equal}, divergences {sum(report.reasons.values())}, "
        f"unexplained {report.differing} in {len(report.unexplained)} groups\n"
    )


def _personas(cells):
    names = list(dict.fromkeys(one.persona for one in cells))
    return "everybody" if len(names) >= len(PERSONAS) + 3 else ", ".join(names) + f" (of {len(NAMES)})"


def _harm(item):
    """What is let through here and not there comes first, then other statuses, then the rest."""
    cell = item[1][0]
    let = cell.ours.ok and not cell.theirs.ok
    return (not let, cell.theirs.status == cell.ours.status, item[0])
