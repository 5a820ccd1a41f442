"""`python -m tests.model`: keys and revocation under a seeded scheduler, so many steps of each. Exit code 1 if a promise is broken.

A seed makes the same run again, whatever the machine: `make model AREA=revocation SEED=7 STEPS=40000`.
"""

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.model.areas import AREAS
from tests.model.run import run, smallest, told

WHOLE = 100_000  # steps in which each kind of deed has to occur, or the run shows less than it seems to


def main():
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--area", choices=AREAS, help="of this alone; by default of all")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, help="one run of this seed; else as many as it takes")
    parser.add_argument("--processes", type=int, default=2)
    said = parser.parse_args()
    return max([_proved(area, said) for area in AREAS if said.area in (None, area)])


def _proved(area, said):
    began = time.monotonic()
    if said.seed is not None:
        done = [(said.seed, run(said.seed, said.steps, area=area))]
        _progress(done, said.steps, began)
    else:
        done = _many(area, said.steps, said.processes, began)
    print(f"\n{table(area, done)}\n{time.monotonic() - began:.0f} s")
    failed = [(seed, one) for seed, one in done if one.failure is not None]
    for seed, one in failed[:3]:
        length = said.steps if said.seed is not None else AREAS[area].length
        print(f"\n{told(seed, length, one, area)}\nthe fewest deeds that do it (this takes a while):", flush=True)
        least = smallest(seed, length, area)
        print(f"{least.deeds} of {one.deeds}\n{told(seed, length, least, area)}")
    unseen = [kind for kind in AREAS[area].world.kinds_drawn if not any(one.kinds[kind] for _, one in done)]
    if unseen and said.steps >= WHOLE:
        print(f"never: {', '.join(unseen)}")
    return 1 if failed or (unseen and said.steps >= WHOLE) else 0


def _many(area, steps, processes, began):
    first, length = secrets.randbelow(10**6), AREAS[area].length
    count = -(-steps // length)
    print(f"{area}: seeds {first} to {first + count - 1}, {length} steps each", flush=True)
    done, seeds = [], range(first, first + count)
    with ProcessPoolExecutor(processes) as pool:
        for seed, one in zip(seeds, pool.map(partial(run, steps=length, area=area), seeds), strict=True):
            done.append((seed, one))
            _progress(done, steps, began)
    return done


def _progress(done, steps, began):
    took = time.monotonic() - began
    made = sum(one.steps for _, one in done)
    broken = sum(one.failure is not None for _, one in done)
    line = f"{made:>9} of {steps} steps, {made / max(took, 0.001):,.0f} a second, {broken} violations"
    print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def table(area, done):
    """What happened, over all runs."""
    kinds = sum((one.kinds for _, one in done), Counter())
    rows = [
        (f"runs of {area} (seeds)", len(done)),
        ("steps", sum(one.steps for _, one in done)),
        ("simulated hours", round(sum(one.simulated_s for _, one in done) / 3600, 1)),
        ("turns of the keys", sum(one.turns for _, one in done)),
        ("tokens issued", sum(one.tokens for _, one in done)),
        *sorted(kinds.items()),
        ("violations", sum(one.failure is not None for _, one in done)),
    ]
    return "\n".join(f"{name:<28}{value:>12}" for name, value in rows)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of names is part of a run
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.model", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"}
        )
    raise SystemExit(main())
