"""What the engines cost: appends, a change across data centres, validations, and each of it while an engine is dead.

`python -m tests.bench.bench_engines [--smoke] [--write docs/performance.md]`: starts three data centres and a memcached,
runs every case in this process, and prints figures with their ratios. As root the data centres can also be 100 ms apart.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controller import db
from controller.commit import Sequencer
from controller.engines import install, wan
from controller.engines.cassandra import Cassandra, Options
from controller.engines.memcached import Memcached
from controller.engines.process import Keeper
from controller.settings import Bootstrap, Controller, Settings
from controller.wiring import Controller as Process
from regional_keystone import settings as site_settings
from regional_keystone import wiring
from regional_keystone.adapters.local import LocalWake, SystemClock
from regional_keystone.errors import Unavailable
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.log import LOG, Entry, Transaction, put
from regional_keystone.messages import Request
from regional_keystone.model import Region
from regional_keystone.overlay import Overlay
from tests.contracts.cassandra_stores import Keyspace

CLOCK = SystemClock()
REST = "\n## "  # what others have written below stays
READS = 3  # the goal for a validation that remembers nothing


class Report:
    """Figures as they come, and as a page."""

    def __init__(self):
        self.rows = []

    def add(self, what, figure, ratio=""):
        self.rows.append((what, figure, ratio))
        print(f"{what:<62} {figure:>22}  {ratio}", flush=True)


# --- appends ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def sequencing(keyspace, data_centre):
    """A controller's queue over a store with a session of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with keyspace.store(data_centre) as store:
            holder = Holder("@bench", "bench", X25519PrivateKey.generate(), (), Path(folder))
            overlay = Overlay(store)
            follower = Follower(store=store, overlay=overlay, holder=holder, clock=CLOCK, lifetime_s=1, leads=True)
            sequencer = Sequencer(store=store, follower=follower, clock=CLOCK, wake=LocalWake())
            await sequencer.start()
            tasks = [asyncio.create_task(one) for one in (follower.run(), sequencer.run())]
            try:
                yield sequencer
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


def change():
    return (put(Region(id=uuid4().hex)),)


async def queued(sequencers, callers, seconds):
    """Appends a second by so many callers, spread over these controllers."""
    done, lost, end = 0, 0, time.monotonic() + seconds

    async def call(sequencer):
        nonlocal done, lost
        while time.monotonic() < end:
            try:
                await sequencer.commit(Transaction(uuid4().hex, sequencer.head, frozenset(), change()))
                done += 1
            except Unavailable:
                lost += 1

    await asyncio.gather(*(call(sequencers[number % len(sequencers)]) for number in range(callers)))
    return done / seconds, lost


async def contended(stores, writers, seconds):
    """Appends a second by writers that each try for themselves, and pause at random when they have lost."""
    done, end = 0, time.monotonic() + seconds

    async def write(store):
        nonlocal done
        while time.monotonic() < end:
            try:
                head = await store.head(LOG)
                entry = Entry(head + 1, uuid4().hex, CLOCK.now(), change())
                done += await store.append(LOG, head, [entry])
            except Unavailable:
                pass
            await asyncio.sleep(random.uniform(0, 0.02))

    await asyncio.gather(*(write(stores[number % len(stores)]) for number in range(writers)))
    return done / seconds


async def appends(keyspace, report, seconds):
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(keyspace.store(one)) for one in ("dc1", "dc2")]
        alone = await contended(stores, 8, seconds)
        report.add("appends: eight writers that contend, no queue", f"{alone:.0f}/s")
    async with sequencing(keyspace, "dc1") as first:
        single, _ = await queued([first], 1, seconds)
        report.add("appends: one controller, 1 caller (one by one)", f"{single:.0f}/s")
        for callers in (8, 64):
            rate, lost = await queued([first], callers, seconds)
            ratio = f"{rate / alone:.0f} x contending, {rate / single:.1f} x one by one, {lost} unavailable"
            report.add(f"appends: one controller, {callers} callers", f"{rate:.0f}/s", ratio)
        async with sequencing(keyspace, "dc2") as second:
            for callers in (1, 8, 64):
                rate, lost = await queued([first, second], callers, seconds)
                report.add(f"appends: two controllers, {callers} callers", f"{rate:.0f}/s", f"{lost} unavailable")


# --- a whole controller -----------------------------------------------------------------------------------------------


class Running:
    """A controller in this process, without its doors, and an administrator's token."""

    def __init__(self, process, store):
        self.process, self.store = process, store

    async def ask(self, method, path, body=None, token=None, subject=None):
        headers = {"x-auth-token": token} if token else {}
        headers |= {"x-subject-token": subject} if subject else {}
        content = b"" if body is None else json.dumps(body).encode()
        if content:
            headers["content-type"] = "application/json"
        path, _, query = path.partition("?")
        asked = tuple(parse_qsl(query, keep_blank_values=True))
        request = Request(id=uuid4().hex, method=method, path=path, query=asked, headers=headers, body=content)
        return await self.process.door.api.answer(request)

    async def log_in(self):
        user = {"name": "admin", "password": "first password", "domain": {"id": "default"}}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        answer = await self.ask("POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})
        assert answer.status == 201, answer.body
        self.token = {name.lower(): value for name, value in answer.headers.items()}["x-subject-token"]

    async def create(self, number):
        body = {"user": {"name": f"u{number}-{uuid4().hex[:8]}", "domain_id": "default"}}
        answer = await self.ask("POST", "/v3/users", body, self.token)
        assert answer.status == 201, answer.body

    async def validate(self):
        return (await self.ask("GET", "/v3/auth/tokens", token=self.token, subject=self.token)).status

    def forget(self):
        for forget in self.process.part.follower.forgetters:
            forget()


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, below):
        self.below, self.asked = below, 0

    def __getattr__(self, name):
        found = getattr(self.below, name)
        if name in {"get", "find", "scan"}:
            self.asked += 1
        return found


@asynccontextmanager
async def running(folder, section=None, memcached=None):
    (folder / "state").mkdir(mode=0o700, parents=True)
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("first password")
    settings = dataclasses.replace(
        Settings(),
        site=site_settings.Site(state_dir=folder / "state"),
        identity=site_settings.Identity(password_hash_rounds=4),
        bootstrap=Bootstrap(password_file=password),
        controller=Controller(poll_s=5, authority_dir=folder.parent / "authority" if section else None),
        cassandra=section or site_settings.Cassandra(),
        memcached=site_settings.Memcached(servers=(memcached,) if memcached else ()),
    )
    async with AsyncExitStack() as stack:
        process = Process(settings, CLOCK)
        await process.build(stack)
        store = process.part.overlay._below = Counting(process.part.store)
        await process.sequencer.start()
        async with wiring.background([process.part.follower.run(), process.sequencer.run()]) as group:
            await process.first()
            found = Running(process, store)
            await found.log_in()
            yield found
            for task in list(group._tasks):
                task.cancel()


async def timed(work, times):
    """Milliseconds, sorted."""
    found = []
    for number in range(times):
        begun = time.monotonic()
        await work(number)
        found.append((time.monotonic() - begun) * 1000)
    return sorted(found)


def shown(found):
    return f"{statistics.median(found):.2f} / {found[int(len(found) * 0.99)]:.2f} ms"


async def creates(section, folder, network, report, times):
    async with running(folder / "creates", section) as controller:
        await timed(controller.create, 5)
        near = await timed(controller.create, times)
        report.add("201 of a user create, 0 ms between data centres (p50/p99)", shown(near))
        if network is None:
            report.add("the same, 100 ms round trip", "not measured", wan.why_not())
            return
        network.slow(0.05)
        try:
            far = await timed(controller.create, max(5, times // 10))
        finally:
            network.slow(0.0)
        times_round = f"{(statistics.median(far) - statistics.median(near)) / 100:.1f} round trips"
        report.add("the same, 100 ms round trip", shown(far), times_round)


async def validations(section, folder, cluster, cache, report, times):
    cases = {
        "SQLite": (None, None),
        "Cassandra": (section, None),
        "Cassandra and memcached": (section, cache.server),
    }
    for name, (engine, server) in cases.items():
        async with running(folder / name.replace(" ", "-"), engine, server) as controller:
            await controller.validate()

            async def cold(_, controller=controller):
                controller.forget()
                assert await controller.validate() == 200

            asked = controller.store.asked
            await cold(0)
            statements = controller.store.asked - asked
            await controller.validate()
            asked = controller.store.asked
            warm = hot(controller, times)
            assert controller.store.asked == asked
            report.add(f"validation with {name}: warm", f"{warm:.1f} us", "0 statements")
            report.add(f"validation with {name}: all forgotten", shown(await timed(cold, times)), reads(statements))

            async def first(_, controller=controller):
                controller.process.door.fastpath.forget_all()
                assert await controller.validate() == 200

            asked = controller.store.asked
            await first(0)
            statements = controller.store.asked - asked
            what = f"validation with {name}: the user's first, its project and roles known"
            report.add(what, shown(await timed(first, times)), reads(statements))
            if engine and server:
                await dead(controller, cluster, cache, report, times)


def reads(statements):
    """How often a validation that remembers nothing asks, beside the goal."""
    return f"{statements} reads; {goal(statements, READS)}"


def goal(found, most, unit=""):
    """What was aimed at, and whether it is reached: a page that shows figures alone leaves that to the reader."""
    return f"goal: at most {most}{unit}, {'met' if found <= most else 'not met'}"


def hot(controller, times):
    """Microseconds of a validation that is remembered, in this thread alone."""
    ask, token, now = controller.process.door.fastpath.ask, controller.token, CLOCK.now()
    assert ask(token, token, True, now)
    begun = time.monotonic()
    for _ in range(times * 100):
        ask(token, token, True, now)
    return (time.monotonic() - begun) / (times * 100) * 1e6


async def dead(controller, cluster, cache, report, times):
    """Each engine frozen in turn: what is warm, and what has to be asked for."""
    cache.stop()
    try:
        report.add("memcached frozen: warm", f"{hot(controller, times):.1f} us")
        controller.forget()
        await late(controller, "memcached frozen", site_settings.Memcached().timeout_s, report)
    finally:
        cache.cont()
    await controller.validate()
    for node in cluster.nodes:
        node.stop()
    try:
        report.add("all of Cassandra frozen: warm", f"{hot(controller, times):.1f} us")
        controller.forget()
        await late(controller, "all of Cassandra frozen", site_settings.Cassandra().request_timeout_s, report)
    finally:
        for node in cluster.nodes:
            node.cont()


async def late(controller, what, deadline_s, report):
    """A validation that has to ask what does not answer; the goal is one deadline."""
    begun = time.monotonic()
    status = await controller.validate()
    took_ms = round((time.monotonic() - begun) * 1000)
    remark = f"{goal(took_ms, round(deadline_s * 1000), ' ms')}: the deadline of one question"
    report.add(f"{what}: all forgotten", f"{status} in {took_ms} ms", remark)


def page(report):
    """docs/performance.md."""
    lines = [
        "# Performance",
        "",
        f"What the engines cost, measured in one run by `make bench-engines`. The machine had {os.cpu_count()} cores,",
        "which ran all nodes and the clients; ratios within the run carry over. What a validation costs beside a static",
        "file of nginx is measured by `make bench`.",
        "",
        "| Case | Figure | Ratio, remarks |",
        "|---|---|---|",
        *(f"| {what} | {figure} | {ratio} |" for what, figure, ratio in report.rows),
        "",
    ]
    return "\n".join(lines)


async def measure(keyspace, cluster, network, cache, folder, report, smoke):
    seconds, times = (2, 20) if smoke else (10, 200)
    async with db.database(keyspace.section(), CLOCK, lambda text: print(text, file=sys.stderr)) as opened:
        await opened.sync()  # what serves asks for the version
    await appends(keyspace, report, seconds)
    section = dataclasses.replace(keyspace.section(), read_consistency="LOCAL_ONE")
    await creates(section, folder, network, report, times)
    await validations(section, folder, cluster, cache, report, times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: that it runs, not what it shows")
    parser.add_argument("--write", type=Path, help="write the page")
    told = parser.parse_args()
    if install.may_install():
        install.install(lambda _, text: print(text))
    programs, report = install.programs(), Report()
    with ExitStack() as stack:
        keeper = stack.enter_context(Keeper())
        network = None if wan.why_not() else stack.enter_context(wan.Wan(keeper))
        addresses = [network.address(place) for place in network.places] if network else ()
        cluster = Cassandra(keeper, Options(programs.java, programs.jars, password=uuid4().hex), addresses)
        for place, node in enumerate(cluster.nodes, 1):
            node.enter = network.enter(place) if network else ()
        cache = Memcached(keeper, programs.memcached, 1)
        cache.start()
        cluster.start(lambda _, text: print(text, file=sys.stderr))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keyspace = Keyspace(cluster, folder)
        asyncio.run(measure(keyspace, cluster, network, cache, folder, report, told.smoke))
    if told.write:
        _, heading, rest = told.write.read_text().partition("\n## ")  # what others measure stays
        told.write.write_text(page(report) + heading + rest)


if __name__ == "__main__":
    main()
