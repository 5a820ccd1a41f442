"""`make bench-turn`: how long a turn of the keys takes until the last of 50 sites has acknowledged it, and the next one.

Real sites in one process: each has a replica, key directories and a TLS stream of its own, and syncs what it writes.
"""

import argparse
import asyncio
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import structlog

from regional_keystone.model import Ring
from tests.cloud import Cloud, eventually

GOAL_S = 10.0
_RINGS = ("token", "receipt")


async def all_hold(cloud, within_s):
    """Wait until the controller counts both newest rings as held by every site."""
    newest = [await cloud.controller.overlay.get(Ring, name) for name in _RINGS]

    async def held():
        sites = await cloud.controller.sites.all()
        holdouts = cloud.controller.replicator.holdouts
        return not any(holdouts(sites, ring.id, ring.epoch, ring.fingerprint) for ring in newest)

    await eventually(held, within_s)


@contextmanager
def timed(into):
    begun = time.perf_counter()
    yield
    into.append(time.perf_counter() - begun)


async def measure(directory, sites, turns, within_s):
    """Seconds of each turn, from it to the last acknowledgement, and of both together."""
    cloud = Cloud(directory, tuple(f"Region{number:02}" for number in range(sites)), deadline_s=within_s)
    taken = {"turn": [], "acknowledged": [], "both": []}
    try:
        await cloud.start()
        await all_hold(cloud, 10 * within_s)
        for _ in range(turns):
            with timed(taken["both"]):
                with timed(taken["turn"]):
                    await cloud.controller.rotator.turn()
                with timed(taken["acknowledged"]):
                    await all_hold(cloud, within_s)
    finally:
        await cloud.stop()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few sites: only whether it works")
    told = parser.parse_args()
    sites, turns = (5, 2) if told.smoke else (told.sites, told.turns)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as directory:
        taken = asyncio.run(measure(Path(directory), sites, turns, 60.0))
    print(f"{sites} sites, {turns} turns of two rings; seconds: median, worst")
    for name, text in (
        ("turn", "the turn, all having acknowledged the one before"),
        ("acknowledged", "from there to the last acknowledgement"),
        ("both", "both: so soon the next turn can be made"),
    ):
        ordered = sorted(taken[name])
        print(f"  {text:<50} {ordered[len(ordered) // 2]:6.2f} {ordered[-1]:6.2f}")
    if not told.smoke and max(taken["acknowledged"]) > GOAL_S:
        raise SystemExit(f"the goal is {GOAL_S:g} s until the last acknowledgement")


if __name__ == "__main__":
    main()
