"""`python -m tests.chaos`: keys turn while processes are killed. Exit code 1 if a good token was refused, or a turn failed."""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from controller.engines import install
from tests.chaos.processes import Federation
from tests.chaos.run import Chaos


def main():
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--keep", action="store_true", help="keep the directory with the logs, also of a run that went well"
    )
    said = parser.parse_args()
    if lacking := install.missing(("zookeeper",)):
        print(f"ZooKeeper is not installed: {lacking}; rkctl engines install", file=sys.stderr)
        return 2
    seed = secrets.randbelow(10**6) if said.seed is None else said.seed
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}; {said.turns} turns; {directory}", flush=True)
    told = (directory / "told.log").open("w", buffering=1)

    def tell(line):
        told.write(f"{time.monotonic() - began:8.2f} s  {line}\n")

    began = time.monotonic()
    with told, Federation(directory / "federation", tell) as federation:
        good, text = Chaos(federation, seed, lambda line: print(line, flush=True)).go(said.turns)
    print(f"\n{text}\nseed {seed}; again: make chaos TURNS={said.turns} SEED={seed}")
    if good and not said.keep:
        shutil.rmtree(directory)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
