"""`make differential`: the real Keystone 30.0.0 and ours, asked the same.

python -m tests.differential [--only SECTION,SECTION] [--sample N] [--workers N] [--show REASON,REASON] [--json]
"""

import argparse
import json
import signal
import sys
import time

from tests.differential import workers
from tests.differential.run import Report, select
from tests.differential.show import show, sums


def main():
    parser = argparse.ArgumentParser(prog="tests.differential", description=__doc__)
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--sample", type=int, help="so many cells by chance")
    parser.add_argument("--seed", type=int, default=7, help="of the chance")
    parser.add_argument("--workers", type=int, default=3, help="pairs of servers")
    parser.add_argument("--show", default="", help="reasons whose cells are shown, separated by commas")
    parser.add_argument("--json", action="store_true", help="the sums as JSON")
    args = parser.parse_args()
    cells = select(_words(args.only), args.sample, args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with us
    started = time.monotonic()
    print(f"{len(cells)} cells; starting {args.workers} pairs of servers", flush=True)
    report, ended = Report(), False
    try:
        workers.play(cells, args.workers, report, lambda line: print(line, flush=True))
    except (KeyboardInterrupt, SystemExit):
        ended = True  # what was found until now is shown
    show(report, _words(args.show))
    stale = [] if args.only or args.sample or ended else report.unshown()
    if stale:
        print("rows of the table that explain nothing any more:", *stale, sep="\n  ")
    if args.json:
        print(json.dumps(sums(report)))
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if report.unexplained or report.unmade or stale or ended else 0


def _words(text):
    return [one for one in text.split(",") if one]


if __name__ == "__main__":
    sys.exit(main())
