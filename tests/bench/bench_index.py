"""What live revocations cost: `python -m tests.bench.bench_index [--smoke] [--only "memory missed"] [--write PAGE]`.

`memory`, in fresh processes: bytes of an event, microseconds of a question, the longest slice of an expiry. Then real
sites, one for each number of events. `start`: seconds until one that is started again answers. `cost`, asked in turn: CPU
of a validation, alone and with ten revocations a second. `missed`: how long one that was cut off takes to know what it
has missed, while its clients go on.
"""

import argparse
import asyncio
import base64
import gc
import http.client
import itertools
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from controller.ask import page
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.adapters.sqlite_schema import Statements, writer
from regional_keystone.log import LOG, Entry, put
from regional_keystone.model import RevocationEvent
from regional_keystone.record import TABLES
from regional_keystone.revocation import Revocation, RevocationIndex, Traits
from tests.bench.bench_validate import (
    Case,
    Federation,
    Figure,
    cpu_s,
    federation,
    found,
    issued,
    listeners,
    measure,
)
from tests.bench.parts import kept, some_of

EVENTS, SHORT_EVENTS = (0, 100_000, 1_000_000), (0, 2_000, 20_000)
MISSED, SHORT_MISSED = 100_000, 2_000
GOAL_RATIO, GOAL_SHARE, GOAL_BYTES, GOAL_SLICE_MS, GOAL_CATCH_UP_S = 1.05, 5.0, 200, 5.0, 30
LIVE_US = 2 * 86_400 * 1_000_000
TURNS, SHORT_TURNS = 21, 5
ROUNDS, PROCESSES = 5, 3
PER_S = 10
TOKENS = 200
PATIENCE_S = 300
COMMAND, PARTS = "make bench-index", ("memory", "start", "cost", "missed")


def traits_of(number: int) -> dict[str, str]:
    """Kinds as they come: tokens one by one, most with what was made from them, then users, projects and trusts."""
    audit = base64.urlsafe_b64encode(os.urandom(16))[:22].decode()
    match number % 20:
        case 19:
            return {"user_id": os.urandom(16).hex()}
        case 18:
            return {"project_id" if number % 40 == 18 else "trust_id": os.urandom(16).hex()}
        case even if even % 2:
            return {"audit_chain_id": audit}
        case _:
            return {"audit_id": audit}


# --- in a process of its own ------------------------------------------------------------------------------------------


def rss_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(count: int) -> dict[str, float]:
    """Figures of an index of so many events, all of which then expire in the same minute."""
    index, now = RevocationIndex(), time.time_ns() // 1000
    gc.collect()
    before, add_s = rss_bytes(), []
    for number in range(count):
        event = Revocation(issued_before=now + number, revoked_at=now, **traits_of(number))
        began = time.thread_time()
        index.add(event, now + LIVE_US)
        took_s = time.thread_time() - began
        if number % 100 == 0 or took_s > 1e-4:
            add_s.append(took_s)
    add_us, worst_add_ms = statistics.median(add_s or [0.0]) * 1e6, max(add_s, default=0.0) * 1e3
    del add_s
    gc.collect()
    figures = {"bytes": (rss_bytes() - before) / count if count else 0.0, "add_us": add_us, "add_ms": worst_add_ms}
    one = Traits(
        issued_at=now,
        expires_at=now + LIVE_US,
        audit_id="A" * 22,
        user_id="b" * 32,
        project_id="c" * 32,
        user_domain_id="default",
        role_ids=("d" * 32, "e" * 32),
    )
    asked = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(20_000):
            index.voided(one)
        asked.append((time.thread_time() - began) / 20_000 * 1e6)
    slices, began = [], time.thread_time()
    for _ in index.expiring(now + 2 * LIVE_US):
        slices.append(time.thread_time() - began)
        began = time.thread_time()
    assert len(index) == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures | {
        "voided_us": min(asked),
        "slices": len(slices),
        "slice_ms": max(slices) * 1e3,
        "half_ms": statistics.median(slices) * 1e3,
        "peak_mb": peak / 2**20,
    }


def apart(*words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_index", "--child", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    answer: dict[str, float] = json.loads(told.splitlines()[-1])
    return answer


# --- real sites -------------------------------------------------------------------------------------------------------


def rkctl(one: Federation, *words: str) -> None:
    program = str(Path(sys.executable).with_name("rkctl"))
    subprocess.run([program, *words, "--state", str(one.state)], capture_output=True, check=True, timeout=900)


def port_of(url: str) -> int:
    return int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]


def pid_at(url: str) -> int:
    (pid,) = listeners(port_of(url))
    return pid


def hot(one: Federation, name: str) -> Case:
    """This site, with every token in its memory."""
    for subject in one.subjects:
        assert validated(one, subject)[0] == 200
    headers = (f"X-Auth-Token: {one.caller}",)
    return Case(name, f"{one.site}/auth/tokens", (pid_at(one.site),), headers, one.subjects)


def fill(path: Path, events: list[RevocationEvent]) -> None:
    """Put revocations into the tables of a store that nobody uses now, as if their entries had long been pruned."""
    statements = Statements(TABLES["revocations"])
    with closing(writer(path)) as db:
        db.execute("BEGIN")
        db.executemany(statements.put, (statements.put_values(put(event)) for event in events))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def event(number: int) -> RevocationEvent:
    now = time.time_ns() // 1000
    return RevocationEvent(
        id=os.urandom(16).hex(), issued_before=now, revoked_at=now, keep_until=now + LIVE_US, **traits_of(number)
    )


async def append(path: Path, count: int) -> int:
    """Revocations into a controller's log, an entry each, while it is away; the number of the last."""
    store = await Sqlite.open(path)
    try:
        for start in range(0, count, 1000):
            head = await store.head(LOG)
            some = range(start, min(start + 1000, count))
            entries = [
                Entry(head + 1 + place, os.urandom(8).hex(), time.time_ns() // 1000, (put(event(number)),))
                for place, number in enumerate(some)
            ]
            assert await store.append(LOG, head, entries)
            await store.apply(entries)
        return await store.head(LOG)
    finally:
        await store.close()


def validated(one: Federation, subject: str) -> tuple[int, float]:
    """The answer's status, and how many seconds it took."""
    began = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port_of(one.site), timeout=30)) as connection:
        connection.request("GET", "/v3/auth/tokens", headers={"X-Auth-Token": one.caller, "X-Subject-Token": subject})
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - began


def restarted(one: Federation) -> dict[str, float]:
    """Seconds from the start of the site's process to its first 200, and what it has used of CPU and memory by then."""
    answered = []

    def ask() -> None:
        while not answered:
            try:
                if validated(one, one.subjects[0])[0] == 200:
                    answered.append(time.time())
            except OSError:
                time.sleep(0.02)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    rkctl(one, "up", "--detach")
    asking.join()
    pid, hertz = pid_at(one.site), os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    age_s = up_s - int(fields[19]) / hertz
    cpu_s = (int(fields[11]) + int(fields[12])) / hertz
    return {"ready_s": age_s - (time.time() - answered[0]), "cpu_s": cpu_s, "rss": rss_bytes(pid)}


@contextmanager
def revoking(one: Federation, tokens: list[str]) -> Iterator[list[int]]:
    """Ten of these tokens a second are revoked at the controller."""
    done, said = threading.Event(), list[int]()

    def revoke() -> None:
        due = time.monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", port_of(one.controller), timeout=30)) as connection:
            while tokens and not done.wait(max(0.0, due - time.monotonic())):
                due += 1 / PER_S
                headers = {"X-Auth-Token": one.caller, "X-Subject-Token": tokens.pop()}
                connection.request("DELETE", "/v3/auth/tokens?cascade=false", headers=headers)
                answer = connection.getresponse()
                answer.read()
                said.append(answer.status)

    thread = threading.Thread(target=revoke)
    thread.start()
    try:
        yield said
    finally:
        done.set()
        thread.join()


def status(one: Federation) -> Any:
    """What the site says of itself."""
    ports = json.loads((one.state / "ports.json").read_text())
    return page(ports[1]["admin"], "/status", 30.0)


def position(one: Federation) -> int:
    """How far the site is."""
    return int(status(one)["position"])


def is_compared(one: Federation) -> bool:
    """Whether the site and its controller have read all their rows since they began, and the site found them equal."""
    return status(one)["convergence"]["equal_at"] is not None


def missed(one: Federation, count: int) -> dict[str, float]:
    """A site that goes on serving, from its controller's return to the last of what was revoked meanwhile."""
    os.kill(pid_at(one.controller), signal.SIGTERM)
    until(lambda: not listeners(port_of(one.controller)))
    head = asyncio.run(append(one.state / "controller" / "log.db", count))
    done, took, said = threading.Event(), list[tuple[float, float]](), Counter[int]()

    def ask() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            answer, seconds = validated(one, one.subjects[number % len(one.subjects)])
            said[answer] += 1
            took.append((time.monotonic(), seconds))
            time.sleep(0.005)

    asking, starting = threading.Thread(target=ask), threading.Thread(target=rkctl, args=(one, "up", "--detach"))
    before, cpu_before = position(one), cpu_s([pid_at(one.site)])
    time.sleep(2.0)
    asking.start()
    time.sleep(3.0)
    alone = sorted(seconds for _, seconds in took)
    starting.start()
    until(lambda: position(one) > before)
    began = time.monotonic()
    until(lambda: position(one) >= head)
    ended = time.monotonic()
    done.set()
    asking.join()
    starting.join()
    during = sorted(seconds for at, seconds in took if at > began - 1.0)  # it begins between two looks
    assert said.keys() == {200}, said
    return {
        "seconds": ended - began,
        "cpu_s": cpu_s([pid_at(one.site)]) - cpu_before,
        "p99_ms": during[len(during) * 99 // 100] * 1e3,
        "most_ms": during[-1] * 1e3,
        "alone_p99_ms": alone[len(alone) * 99 // 100] * 1e3,
        "alone_most_ms": alone[-1] * 1e3,
        "asked": len(during),
    }


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- what is said of it -----------------------------------------------------------------------------------------------


HEAD = 2  # lines above the cases


class Turns(NamedTuple):
    """How often each case has its turn, and how long."""

    count: int
    seconds: float


class Report:
    """The lines of a part's table."""

    def __init__(self) -> None:
        self.lines = ["| Case | Figure | Ratio, remarks |", "|---|---|---|"]

    def add(self, case: str, figure: str, remark: str = "") -> None:
        if len(self.lines) == HEAD:
            print(*self.lines, sep="\n", flush=True)
        self.lines.append(f"| {case} | {figure} | {remark} |")
        print(self.lines[-1], flush=True)


def reached(figure: float, most: float, unit: str) -> str:
    """A goal, and whether it is reached."""
    return f"goal: at most {most:g}{unit}, {'met' if figure <= most else 'not met'}"


def least(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The least of each figure: other work on the machine only ever adds."""
    return {name: min(one[name] for one in figures) for name in figures[0]}


def in_memory(report: Report, counts: Sequence[int]) -> None:
    figures = {count: least([apart(str(count)) for _ in range(PROCESSES)]) for count in counts}
    none, most = figures[counts[0]], figures[counts[-1]]
    for count in counts[1:]:
        one = figures[count]
        report.add(f"memory of an event, {count:,}", f"{one['bytes']:.0f} B", reached(one["bytes"], GOAL_BYTES, " B"))
    report.add(f"adding one, {counts[-1]:,}", f"{most['add_us']:.1f} us", f"the longest {most['add_ms']:.2f} ms")
    for count in counts:
        one = figures[count]
        ratio = f"{one['voided_us'] / none['voided_us']:.2f} x none" if count else ""
        report.add(f"asking the index, {count:,}", f"{one['voided_us']:.2f} us", ratio)
    report.add(
        f"{counts[-1]:,} that expire in one minute",
        f"{most['slice_ms']:.1f} ms",
        f"the longest of {most['slices']:.0f} slices, half of them {most['half_ms']:.1f} ms; {reached(most['slice_ms'], GOAL_SLICE_MS, ' ms')}",
    )


def at_sites(
    parts: Sequence[str],
    counts: Sequence[int],
    count_missed: int,
    turns: Turns,
    done: Callable[[str, Report], None],
) -> None:
    """These parts, one after another, each at a site of its own for each number of events; `done` with each."""
    if parts == ["missed"]:
        counts = counts[-1:]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "load.lua" if found("wrk", "wrk") else None
        places = {count: federation(stack, TOKENS) for count in counts}
        spent = {
            count: list(federation_tokens(one, int(2 * turns.count * PER_S * turns.seconds) + 50))
            for count, one in places.items()
            if "cost" in parts and count in (counts[0], counts[-1])
        }
        started = {}
        for count, one in places.items():
            rkctl(one, "down")
            events = [event(number) for number in range(count)]
            for name in ("controller/log.db", "RegionOne/replica.db"):
                fill(one.state / name, events)
            del events
            started[count] = restarted(one)
        for part in parts:
            report = Report()
            match part:
                case "start":
                    starts(report, started)
                case "cost":
                    compare(report, places, spent, turns, script)
                case _:
                    catch_up(report, places[counts[-1]], counts[-1], count_missed)
            done(part, report)


def starts(report: Report, started: dict[int, dict[str, float]]) -> None:
    """How long each of these sites took to its first answer."""
    least_rss = next(iter(started.values()))["rss"]
    for count, figures in started.items():
        more = (figures["rss"] - least_rss) / count if count else 0
        remark = f"{figures['cpu_s']:.1f} s of CPU; process of {figures['rss'] / 2**20:.0f} MiB"
        report.add(
            f"a site that is started again, {count:,} events, to its first answer",
            f"{figures['ready_s']:.1f} s",
            remark + (f", {more:.0f} B for each event" if count else ""),
        )


def compare(
    report: Report,
    places: dict[int, Federation],
    spent: dict[int, list[str]],
    turns: Turns,
    script: Path | None,
) -> None:
    """CPU of a hot validation at each of these sites, in turn; with tokens to spend, also while they are revoked.

    Begins once all have read their rows, as each process does once.
    Short turns, and the median of what each is to the one that was a moment before: a machine that others use as well
    is slower by a quarter for minutes.
    """
    for one in places.values():
        until(lambda one=one: is_compared(one))
    cases = {f"{count:,} events": (hot(one, f"{count:,} events"), None) for count, one in places.items()}
    for count, tokens in spent.items():
        cases[f"{count:,} events; {PER_S} revocations a second"] = (
            cases[f"{count:,} events"][0],
            (places[count], tokens),
        )
    rounds: dict[str, list[Figure]] = {name: [] for name in cases}
    for _ in range(turns.count):
        for name, (case, meanwhile) in cases.items():
            with revoking(*meanwhile) if meanwhile else nullcontext([]) as said:
                rounds[name].append(measure(case, turns.seconds, script))
            assert set(said) <= {204}, said
    none = next(iter(cases))
    for name, each in rounds.items():
        if cases[name][1] is None:
            ratio = statistics.median(one.cpu_us / base.cpu_us for one, base in zip(each, rounds[none], strict=True))
            remark = f"{ratio:.3f} x none, {reached(ratio, GOAL_RATIO, '')}"
        else:
            without = rounds[name.partition("; ")[0]]
            share = 1 - statistics.median(base.cpu_us / one.cpu_us for one, base in zip(each, without, strict=True))
            remark = (
                f"they cost {max(0.0, 100 * share):.1f} % of the throughput, {reached(100 * share, GOAL_SHARE, ' %')}"
            )
        cpu_us = statistics.median(one.cpu_us for one in each)
        report.add(f"CPU of a hot validation, {name}", f"{cpu_us:.1f} us", remark)


def catch_up(report: Report, place: Federation, live: int, count_missed: int) -> None:
    """What a site with so many events has missed, and its clients meanwhile."""
    late = missed(place, count_missed)
    report.add(
        f"{count_missed:,} missed entries, beside {live:,} events",
        f"{late['seconds']:.1f} s",
        f"{reached(late['seconds'], GOAL_CATCH_UP_S, ' s')}; {late['cpu_s']:.1f} s of CPU",
    )
    report.add(
        "validations meanwhile, one client",
        f"p99 {late['p99_ms']:.0f} ms, longest {late['most_ms']:.0f} ms",
        f"all 200; before p99 {late['alone_p99_ms']:.0f} ms, longest {late['alone_most_ms']:.0f} ms",
    )


def federation_tokens(one: Federation, count: int) -> Iterator[str]:
    """More tokens of the same user."""
    again = {"methods": ["token"], "token": {"id": one.caller}}
    for _ in range(count):
        yield issued(one.controller, again, {"unscoped": {}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: that it runs, not what it shows")
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help=f"some of {' '.join(PARTS)}")
    parser.add_argument("--missed", type=int, help="how many entries a site misses")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case and turn")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child is not None:
        print(json.dumps(memory(told.child)))
        return
    counts, count_missed = SHORT_EVENTS if told.smoke else EVENTS, SHORT_MISSED if told.smoke else MISSED

    def done(part: str, report: Report) -> None:
        print(flush=True)
        if told.write:
            told.write.write_text(kept(told.write.read_text(), COMMAND, part, "\n".join(report.lines)))

    if "memory" in told.only:
        in_memory(report := Report(), counts)
        done("memory", report)
    if at := [part for part in told.only if part != "memory"]:
        turns = Turns(SHORT_TURNS if told.smoke else TURNS, told.seconds)
        at_sites(at, counts, told.missed or count_missed, turns, done)


if __name__ == "__main__":
    main()
