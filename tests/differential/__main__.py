"""`make differential`: the real Keystone 30.0.0 and ours, asked the same.

python -m tests.differential [--only SECTION,SECTION] [--sample N] [--json] [--log]
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.differential.run import Report, play, select, show
from tests.differential.servers import Ours, Upstream


@contextlib.contextmanager
def both():
    """Both servers, started at the same time."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(kind) for kind in (Upstream, Ours)]
        found = []
        for one in starting:
            server = one.result()
            stack.callback(server.stop)
            found.append(server)
        yield found


def main():
    parser = argparse.ArgumentParser(prog="tests.differential", description=__doc__)
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--sample", type=int, help="so many cells by chance")
    parser.add_argument("--seed", type=int, default=7, help="of the chance")
    parser.add_argument("--json", action="store_true", help="the sums as JSON")
    parser.add_argument("--log", action="store_true", help="show the ends of both servers' logs")
    args = parser.parse_args()
    cells = select([one for one in args.only.split(",") if one], args.sample, args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # both servers end with us
    started = time.monotonic()
    print(f"{len(cells)} cells; starting both servers", flush=True)
    with both() as (theirs, ours):
        print(f"both serve after {time.monotonic() - started:.0f} s", flush=True)
        report, ended = Report(), False
        try:
            play(theirs.url, ours.url, cells, tell=lambda line: print(line, flush=True), report=report)
        except (KeyboardInterrupt, SystemExit):
            ended = True  # what was found until now is shown
        if args.log:
            print(theirs.log()[-5000:], ours.log()[-5000:], sep="\n---\n")
    whole = not (args.only or args.sample or ended)
    show(report)
    stale = report.unshown() if whole else []
    if stale:
        print(f"reasons that explain nothing any more: {', '.join(stale)}")
    if args.json:
        print(json.dumps(_sums(report)))
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if report.unexplained or report.unmade or stale or ended else 0


def _sums(report):
    return {
        "cells": report.cells,
        "equal": report.equal,
        "divergences": dict(report.reasons),
        "unexplained": report.differing,
        "not_served": report.not_served,
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
    }


if __name__ == "__main__":
    sys.exit(main())
