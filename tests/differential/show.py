"""What was found, for whoever reads it."""

import sys

from tests.differential.reasons import REASONS
from tests.differential.world import NAMES, PERSONAS


def show(report, reasons=(), write=sys.stdout.write):
    """What these reasons explain and every unexplained difference, once per group; then the sums."""
    for place, groups in sorted(report.explained.items()):
        if REASONS[place].id in reasons:
            _groups(groups, write, f"{REASONS[place].id}: ")
    _groups(report.unexplained, write)
    for name, why in report.unmade.items():
        write(f"\ncannot make what is needed for {name}: {why[:300]}\n")
    for name, why in report.absent.items():
        write(f"persona skipped: {name}: {why}\n")
    write(f"not served: {len(report.not_served)} routes\n")
    for path in sorted(report.not_served):
        write(f"  {path}\n")
    for why, count in report.skipped.most_common():
        write(f"not asked, {why}: {count}\n")
    for reason, count in report.reasons.most_common():
        write(f"  {reason}: {count}\n")
    write(
        f"cells {report.cells}, equal {report.equal}, divergences {report.reasons.total()}, "
        f"unexplained {report.differing} in {len(report.unexplained)} groups\n"
    )


def sums(report):
    """The same sums as data."""
    return {
        "cells": report.cells,
        "equal": report.equal,
        "divergences": dict(report.reasons),
        "unexplained": report.differing,
        "skipped": dict(report.skipped),
        "not_served": sorted(report.not_served),
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
    }


def _groups(groups, write, title=""):
    for (section, name, unlike), found in sorted(groups.items(), key=_harm):
        first = found[0]
        write(f"\n{title}[{section}] {name}\n")
        write(f"  by {_personas(found)}: {first.theirs.status} there, {first.ours.status} here\n")
        for one in unlike[:4]:
            write(f"    {one}\n")


def _personas(cells):
    names = list(dict.fromkeys(one.persona for one in cells))
    return "everybody" if len(names) >= len(PERSONAS) + 3 else ", ".join(names) + f" (of {len(NAMES)})"


def _harm(item):
    """What is let through here and not there comes first, then other statuses, then the rest."""
    cell = item[1][0]
    let = cell.ours.ok and not cell.theirs.ok
    return (not let, cell.theirs.status == cell.ours.status, item[0])
