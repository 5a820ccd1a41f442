"""`make interop`: our key directories and tokens beside a real Keystone; a table, and an error for any failure."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.interop.run import parts


def main():
    """Runs every part, or the one that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few turns of each")
    parser.add_argument("--only", default="", help="the name of one part")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the table is what counts
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        for name, run in parts(options.short).items():
            if options.only not in {"", name}:
                continue
            folder = Path(home) / name
            folder.mkdir()
            began = time.monotonic()
            part = run(folder)
            counts = ", ".join(f"{count:,} {what}" for what, count in part.counts.items())
            print(
                f"{part.what:<58} {counts}, {len(part.failures)} failures, {time.monotonic() - began:.0f} s", flush=True
            )
            for failure in part.failures[:10]:
                print(f"    {failure}")
            failed += len(part.failures)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
