"""How long a stock service takes a token that has ended: `python -m tests.bench.bench_purge [--smoke] [--strategy MAC]`.

Two regions and a controller, two processes in each region, three memcached of which one is dead. Services under
keystonemiddleware validate tokens and keep the answers; what ends the tokens is said elsewhere. Prints, for each
strategy and cause, from the answer to that change until the service turned each token away.
"""

import argparse
import logging
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

from controller.engines import install
from controller.engines.memcached import Memcached
from controller.engines.process import Keeper
from tests.compat.middleware_caches import CAUSES, ELSEWHERE, SITES, STRATEGIES, Home, ended, entry, federation

AT_ONCE = 15  # tokens that end together: each is asked for in turn
TOKENS = 10_000
GOAL_S = 2.0


def measured(caches, services, cause, pair):
    at, strategy = pair
    tokens, end = CAUSES[cause](Home(caches.regions, ELSEWHERE[at]), AT_ONCE)
    caches.regions.expect(200, "GET", "/v3/regions", at=at)
    assert all(services[pair].status(token) == 200 for token in tokens)
    assert {entry(token, strategy) for token in tokens} <= caches.keys()
    end()
    return ended(services[pair], tokens)


def row(cells):
    return "| " + " | ".join(cells) + " |"


def shown(took_s):
    took_s = sorted(took_s)
    p99 = took_s[min(len(took_s) - 1, round(0.99 * len(took_s)))]
    return f"{statistics.median(took_s) * 1e3:.0f} / {p99 * 1e3:.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: that it runs, not what it shows")
    parser.add_argument("--strategy", choices=STRATEGIES, action="append", help="only this one")
    told = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the middleware has a line for each token that it turns away
    strategies = told.strategy or STRATEGIES
    if install.may_install():
        install.install(lambda _, text: print(text))
    took, everything = defaultdict(list), []
    with ExitStack() as stack:
        keeper = stack.enter_context(Keeper())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [Memcached(keeper, install.programs().memcached, number) for number in (1, 2, 3)]
        for one in servers:
            one.start()
        for one in servers:
            one.await_ready()
        caches = stack.enter_context(federation(folder, servers, processes=2))
        servers[2].kill()
        services = {(at, strategy): caches.service(at, strategy) for strategy in strategies for at in SITES}
        turns = 1 if told.smoke else -(-TOKENS // (len(STRATEGIES) * len(CAUSES) * AT_ONCE))
        where = cycle(SITES)
        for cause in CAUSES:
            for strategy in strategies:
                for _ in range(turns):
                    took[cause, strategy] += measured(caches, services, cause, (next(where), strategy))
                everything += took[cause, strategy]
            print(f"{cause}: {' '.join(shown(took[cause, strategy]) for strategy in strategies)}", flush=True)
        assert all(one.status(caches.neighbour) == 200 for one in services.values())
    print(f"\n{len(everything)} tokens; p50 / p99 in ms from the change's answer to the service's 401\n")
    print(row(["What ended it", *(f"{one}" for one in strategies)]))
    print(row(["---"] * (1 + len(strategies))))
    for cause in CAUSES:
        print(row([cause, *(shown(took[cause, strategy]) for strategy in strategies)]))
    print(row(["all", *(shown([one for cause in CAUSES for one in took[cause, strategy]]) for strategy in strategies)]))
    worst = sorted(everything)[min(len(everything) - 1, round(0.99 * len(everything)))]
    print(f"\ngoal: p99 at most {GOAL_S:g} s, {'met' if worst <= GOAL_S else 'not met'}")


if __name__ == "__main__":
    main()
