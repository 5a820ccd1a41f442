"""How long it takes until a stolen key is refused at every site, and until tokens can be issued again.

Real streams, stores and bundles, in one process: python -m tests.bench.bench_condemned [sites] [rounds]
"""

import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from statistics import median

import structlog

from controller.compromise import Wanted
from regional_keystone.errors import Unavailable
from tests.cloud import eventually, running


async def once(cloud) -> tuple[float, float, float]:
    """Seconds until all sites refuse every key there was, until the controller knows it, and until all seal again."""
    controller, sites = cloud.controller, list(cloud.sites.values())
    keys = {key.id: key.ring for key in await controller.compromise.meant(Wanted(all=True))}
    began = controller.clock.ticks()
    position = await controller.compromise.condemn(keys, "bench", "")
    turning = asyncio.create_task(controller.compromise.turn_away())
    await eventually(lambda: all(site.follower.condemned.issuperset(keys) for site in sites), 30)
    refused_s = controller.clock.ticks() - began

    async def told() -> bool:
        return len((await controller.compromise.refused(position))["refused"]) == len(sites)

    await eventually(told, 30)
    told_s = controller.clock.ticks() - began
    await turning
    await eventually(lambda: all(seals(site) for site in sites), 30)
    return refused_s, told_s, controller.clock.ticks() - began


def seals(site) -> bool:
    try:
        return site.holder.ring.key_ids[site.follower.sealing_number()] not in site.follower.condemned
    except Unavailable:
        return False


async def main(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        names = tuple(f"Region{number}" for number in range(count))
        async with running(Path(directory), names) as cloud:
            found = [await once(cloud) for _ in range(rounds)]
    for what, column in zip(("refused at all", "known to be", "sealing again"), zip(*found, strict=True), strict=True):
        print(f"{count} sites, {what:15} {median(column):6.3f} s, at most {max(column):6.3f} s of {rounds}")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else 5))
