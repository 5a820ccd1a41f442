"""`python -m tests.faults`: break a federation of real processes for a while, and tell whether a promise was broken.

Exit code: 0 without violations, 1 with some, 2 when it could not be tried, 130 or 143 when a signal ended it early.
"""

import argparse
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.checker import check
from tests.faults.cluster import Cluster
from tests.faults.history import read
from tests.faults.nemesis import KINDS
from tests.faults.run import Run, summary


def main() -> int:
    """What the command line says."""
    told = _parser().parse_args()
    if told.check:
        events = list(read(told.check))
        violations, late = check(events)
        print(summary(events, violations, late))
        return 1 if violations else 0
    seed = secrets.randbelow(10**6) if told.seed is None else told.seed
    directory = told.state or Path(tempfile.mkdtemp(prefix="faults-"))
    history = directory / "history.jsonl"
    print(f"seed {seed}; history {history}", flush=True)
    cluster = Cluster(directory / "federation", engines=not told.embedded)
    directory.mkdir(exist_ok=True)
    _end_on_signals()
    try:
        cluster.start()
        run = Run(cluster, history, seed, lambda line: print(line, flush=True))
        violations, late = run.go(told.seconds, told.only)
        print(summary(run.history.events, violations, late))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        cluster.stop()
    print(f"seed {seed}; again: python -m tests.faults --seed {seed}; the verdict again: --check {history}")
    return 1 if violations else 0


def _end_on_signals() -> None:
    """The federation and its network end with us, also where a shell has put us into the background, deaf to Ctrl-C."""

    def end(number: int, _: object) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: None)  # what is being ended now is not left half
        raise SystemExit(128 + number)

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, end)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", nargs="*", default=(), choices=sorted(KINDS), help="these kinds of faults only")
    parser.add_argument("--embedded", action="store_true", help="without engines: SQLite, one controller")
    parser.add_argument("--state", type=Path, help="directory for the federation and the history")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a recorded history again")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
