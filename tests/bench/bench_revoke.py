"""How long a revoked token is taken: `python -m tests.bench.bench_revoke [--smoke] [--only "near many"] [--write PAGE]`.

A controller, real sites with real streams, regions that are as far apart as is said, and validations everywhere all the
while. From the 204 of a revocation to the first refusal. `near`: at the same node. `apart`: at three sites as their
clients see it. `many`: at fifty sites in few processes. `burst`: a thousand revocations a second, by requests and without
them. Between parts the federation becomes level: each site knows all, and nothing of its own feed is under way.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from controller import ask
from controller.probe import password
from regional_keystone.key_directory import read_directory
from regional_keystone.token import new_audit_id, pack, unpack
from tests.bench.parts import kept, some_of
from tests.bench.parts_of_revoke import Connection
from tests.engines.tcp_proxy import TcpProxy
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
SERVERS = ("sites", "controller")
SECRET = "first password"
NAMES = ("RegionOne", "RegionTwo", "RegionThree")
P50_S, P99_S, SAME_NODE_S = 0.250, 1.0, 0.002
LATE_S = 60.0
CONNECTIONS = 48  # of each client that revokes: [limits] connections_per_peer counts those of both
COMMAND, PARTS = "make bench-revoke", ("near", "apart", "many", "burst")


class Size(NamedTuple):
    """How much of everything."""

    delays_ms: tuple[int, ...] = (0, 20, 80, 150)
    crowd: int = 50
    processes: int = 5
    singles: int = 100
    per_s: int = 1000
    seconds: float = 60.0
    validations_per_s: int = 100  # at each of three sites; a tenth of it at each of many
    clients: int = 2


SHORT = Size(delays_ms=(0, 80), crowd=8, processes=1, singles=10, per_s=200, seconds=2.0, clients=1)


class Row(NamedTuple):
    """A measured case; `goal_s` is of p50 and p99."""

    what: str
    late_s: list[float]
    goal_s: tuple[float, float] | None = None
    remark: str = ""

    @property
    def figures_s(self):
        ordered = sorted(self.late_s)
        return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], ordered[-1]

    @property
    def met(self):
        p50_s, p99_s, _ = self.figures_s
        return self.goal_s is None or (p50_s <= self.goal_s[0] and p99_s <= self.goal_s[1])

    @property
    def judged(self):
        """What was aimed at, and whether it is reached."""
        if self.goal_s is None:
            return self.remark
        p50, p99 = (f"{goal * 1000:g} ms" if goal != float("inf") else "" for goal in self.goal_s)
        goal = f"goal: p50 at most {p50}" + (f", p99 {p99}" if p99 else "")
        return f"{goal}, {'met' if self.met else 'not met'}" + (f"; {self.remark}" if self.remark else "")

    @property
    def shown(self):
        return " / ".join(f"{one * 1000:.1f}" for one in self.figures_s) + " ms"


class Part:
    """A process of `parts_of_revoke`."""

    @classmethod
    async def start(cls, kind, **told):
        made = cls()
        made.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", f"tests.bench.{'servers' if kind in SERVERS else 'parts'}_of_revoke", kind),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**28,
            cwd=ROOT,
        )
        await made._exchange(told)
        return made

    async def ask(self, name, **arguments):
        return await self._exchange([name, arguments])

    async def _exchange(self, question):
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        await self.process.stdin.drain()
        answer = await self.process.stdout.readline()
        if not answer:
            raise SystemExit("a process of the measurement has ended")
        return json.loads(answer)

    async def stop(self):
        self.process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Federation:
    """A controller and, through proxies, its sites; tokens of its administrator."""

    def __init__(self, stack, folder):
        self.stack, self.folder = stack, folder
        first = free_port()
        self.public, self.admin, self.stream = first, first + 1, first + 2
        self.ports = iter(range(first + 3, 65_000))

    async def part(self, kind, **told):
        made = await Part.start(kind, **told)
        self.stack.push_async_callback(made.stop)
        return made

    async def start(self):
        state = self.folder / "controller"
        state.mkdir(mode=0o700)
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)
        told = {
            "site.state_dir": state,
            "bootstrap.password_file": secret,
            "controller.region": "Global",
            "identity.password_hash_rounds": 4,
            "token.revoked_singly": 0,  # all tokens are of the one who revokes them
            "listen.port": self.public,
            "listen.admin_port": self.admin,
            "stream.port": self.stream,
            "stream.advertise": f"https://127.0.0.1:{self.stream}",
        }
        self.controller = await self.part("controller", sets=[f"{name}={value}" for name, value in told.items()])
        self.socket = state / "admin.sock"
        return self

    async def sites(self, names, streams, processes):
        """Sites of these names, each with the stream port of its place, in so many processes; those, and their ports."""
        told = []
        for name, stream in zip(names, streams, strict=True):
            body = {"name": name, "url": f"http://127.0.0.1/{name}"}
            answer = await asyncio.to_thread(ask.admin, self.socket, "/region/add", body)
            told.append(
                {
                    "name": name,
                    "state": str(self.folder / name),
                    "token": answer["join_token"],
                    "stream": f"https://127.0.0.1:{stream}",
                    "port": self.free(),
                    "admin": self.free(),
                }
            )
        parts = await asyncio.gather(
            *(self.part("sites", sites=told[number::processes]) for number in range(processes))
        )
        return parts, [one["port"] for one in told]

    def free(self):
        """A port that nobody listens on."""
        while True:
            port = next(self.ports)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    return port

    async def log_in(self):
        auth = password("admin", SECRET, "default")
        auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
        self.caller = await asyncio.to_thread(_issued, self.public, auth)
        self.ring = read_directory(self.folder / "controller" / "fernet-keys")
        payload, self.issued_at, _ = self.ring.open(self.caller)
        self.token = unpack(payload, self.issued_at)

    def fresh(self, count):
        """So many more tokens, as another issuer with the same keys makes them: (audit id, token)."""
        found = []
        for _ in range(count):
            audit_id = new_audit_id(os.urandom(16))
            token = msgspec.structs.replace(self.token, audit_ids=(audit_id,))
            found.append((audit_id, self.ring.seal(pack(token), self.issued_at)))
        return found

    async def level(self, parts):
        position = await self.controller.ask("position")
        for one in parts:
            await one.ask("level", position=position)


def _issued(port, auth):
    import urllib.request

    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v3/auth/tokens",
        json.dumps({"auth": auth}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.headers["X-Subject-Token"]


# --- what a link does -------------------------------------------------------------------------------------------------


def measured_delays(delay_s, messages=100):
    """One way through a proxy that is so late: of a message alone, and of the last of many that are on their way at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    came = []

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                came.append(time.monotonic() - float(line))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with TcpProxy(listener.getsockname()) as proxy:
        proxy.slow(delay_s)
        with socket.create_connection(("127.0.0.1", proxy.port)) as sender:
            for _ in range(messages + 1):
                sender.sendall(f"{time.monotonic()}\n".encode())
                time.sleep(delay_s + 0.05 if not came else 0.001)
        thread.join(5)
    listener.close()
    return came[0], came[-1]


# --- cases ------------------------------------------------------------------------------------------------------------


async def same_node(port, caller, tokens):
    """Seconds from each 204 to the refusal, asked for at once over the same connection."""
    late = []
    async with Connection(port) as connection:
        for _, token in tokens:
            for _ in range(2):
                assert await connection.ask("GET", caller, token) == 200
            assert await connection.ask("DELETE", caller, token) == 204
            answered = time.monotonic()
            while await connection.ask("GET", caller, token) == 200:
                assert time.monotonic() < answered + LATE_S
            late.append(time.monotonic() - answered)
    return late


async def as_clients_see(federation, ports, tokens):
    """Seconds from each 204 at the controller to the first refusal at each of these sites, asked again and again."""

    async def refused(connection, token):
        while await connection.ask("GET", federation.caller, token) == 200:
            await asyncio.sleep(0.002)
        return time.monotonic()

    late = []
    async with AsyncExitStack() as stack:
        controller = await stack.enter_async_context(Connection(federation.public))
        sites = [await stack.enter_async_context(Connection(port)) for port in ports]
        for _, token in tokens:
            for one in sites:
                for _ in range(2):
                    assert await one.ask("GET", federation.caller, token) == 200
            asking = [asyncio.ensure_future(refused(one, token)) for one in sites]
            assert await controller.ask("DELETE", federation.caller, token) == 204
            answered = time.monotonic()
            async with asyncio.timeout(LATE_S):
                late += [max(0.0, await one - answered) for one in asking]
    return late


async def one_by_one(federation, parts, tokens, pause_s=0.05):
    """The same as the sites themselves decide: by site, seconds of each token."""
    for one in parts:
        await one.ask("warm", doomed=tokens)
    done = {}
    async with Connection(federation.public) as controller:
        for audit_id, token in tokens:
            assert await controller.ask("DELETE", federation.caller, token) == 204
            done[audit_id] = time.monotonic()
            await asyncio.sleep(pause_s)
    return await collected(federation, parts, done)


async def settled(federation, parts):
    """Return once every site knows all, and the log has all of every site. Raises SystemExit if it never does."""
    end = time.monotonic() + LATE_S
    while any([await one.ask("pending") for one in parts]):
        if time.monotonic() > end:
            raise SystemExit(f"revocations made at a site are not in the log after {LATE_S:.0f} s")
        await asyncio.sleep(0.05)
    await collected(federation, parts, {})


async def collected(federation, parts, done):
    """By site, how late each token that was done then was refused. Raises SystemExit if one was lost."""
    await federation.level(parts)
    await asyncio.sleep(0.1)
    late, live = {}, await federation.controller.ask("live")
    for part in parts:
        for name, (refused_at, count, left) in (await part.ask("report")).items():
            lost = done.keys() - refused_at.keys()
            if lost or left or count != live:
                raise SystemExit(f"{name} has lost {len(lost)} of {len(done)} revocations, {count} of {live} count")
            late[name] = [max(0.0, refused_at[one] - at) for one, at in done.items()]
    return late


@asynccontextmanager
async def loaded(federation, ports, per_s, remarks):
    """Validations at all of these sites meanwhile; every one has to be answered 200."""
    subjects = [token for _, token in federation.fresh(50)]
    load = await Part.start("load", ports=ports, caller=federation.caller, subjects=subjects, per_s=per_s)
    begun, before_s = time.monotonic(), await load.ask("cpu")
    try:
        yield
        found, took_s = await load.ask("count"), time.monotonic() - begun
        if found.keys() != {"200"}:
            raise SystemExit(f"validations of good tokens were answered {found}")
        used_s = await load.ask("cpu") - before_s
        remarks.append(f"{found['200'] / took_s:.0f} validations/s, their client {used_s / took_s:.2f} CPU")
    finally:
        await load.stop()


# --- all of it --------------------------------------------------------------------------------------------------------


class Report:
    def __init__(self):
        self.rows, self.notes = [], []

    def add(self, row):
        self.rows.append(row)
        print(f"{row.what:<70} {row.shown:>26}  {row.judged}", flush=True)

    def note(self, text):
        self.notes.append(text)
        print(text, flush=True)


async def three(federation, links):
    """Three sites, each in a process of its own, no distance away; with somebody who has logged in."""
    ports_of_links = await links.ask("slow", delays_s=[0.0] * 3)
    parts, ports = await federation.sites(NAMES, ports_of_links[:3], 3)
    await federation.log_in()
    return parts, ports


async def near(federation, size, ports, report):
    """Revoked and asked for over one connection."""
    tokens = federation.fresh(size.singles)
    async with loaded(federation, ports, size.validations_per_s, remarks := []):
        late = await same_node(federation.public, federation.caller, tokens)
    report.add(Row("same node: revoked at the controller", late, (SAME_NODE_S, float("inf")), remarks[0]))
    async with loaded(federation, ports, size.validations_per_s, remarks := []):
        late = await same_node(ports[0], federation.caller, federation.fresh(size.singles))
    report.add(Row("same node: revoked at a site", late, (SAME_NODE_S, float("inf")), remarks[0]))


async def apart(federation, size, links, parts, ports, report):
    """Three sites behind each delay in turn."""
    for delay_ms in size.delays_ms:
        alone_s, crowded_s = await asyncio.to_thread(measured_delays, delay_ms / 1000)
        report.note(
            f"link of {delay_ms} ms: {alone_s * 1000:.1f} ms one way alone, {crowded_s * 1000:.1f} ms the last of 100"
        )
    for delay_ms in size.delays_ms:
        await links.ask("slow", delays_s=[delay_ms / 1000] * 3)
        async with loaded(federation, ports, size.validations_per_s, remarks := []):
            late = await as_clients_see(federation, ports, federation.fresh(size.singles))
        what = f"3 sites, {delay_ms} ms one way: as clients see it"
        report.add(Row(what, late, (P50_S + delay_ms / 1000, P99_S + delay_ms / 1000), remarks[0]))
        await settled(federation, parts)
    await links.ask("slow", delays_s=[0.0] * 3)


async def many(federation, size, links, parts, ports, report):
    """Fifty sites, a quarter of them behind each delay."""
    delays_ms = [size.delays_ms[number % len(size.delays_ms)] for number in range(size.crowd - len(NAMES))]
    streams = await links.ask("slow", delays_s=[0.0] * 3 + [one / 1000 for one in size.delays_ms])
    names = [f"R{number:02}" for number in range(len(delays_ms))]
    by_place = [streams[3 + number % len(size.delays_ms)] for number in range(len(names))]
    more, more_ports = await federation.sites(names, by_place, size.processes)
    delay_of = dict(zip(names, delays_ms, strict=True)) | dict.fromkeys(NAMES, 0)
    everybody = [*parts, *more]
    async with loaded(federation, [*ports, *more_ports], size.validations_per_s / 10, remarks := []):
        found = await one_by_one(federation, everybody, federation.fresh(size.singles))
    for delay_ms in size.delays_ms:
        late = [one for name, times in found.items() for one in times if delay_of[name] == delay_ms]
        count = sum(one == delay_ms for one in delay_of.values())
        what = f"{size.crowd} sites: the {count} of them {delay_ms} ms away"
        report.add(Row(what, late, (P50_S + delay_ms / 1000, P99_S + delay_ms / 1000), remarks[0]))
    everything = [one for times in found.values() for one in times]
    report.add(Row(f"{size.crowd} sites: all", everything, (P50_S, P99_S + max(size.delays_ms) / 1000), remarks[0]))
    for one in more:
        await one.stop()


async def burst(federation, size, parts, ports, report):
    """So many revocations a second for a minute: over HTTP from several clients, then inside the controller."""
    count = int(size.per_s * size.seconds)
    clients = [
        await federation.part("revoker", port=federation.public, caller=federation.caller) for _ in range(size.clients)
    ]
    tokens = federation.fresh(count)
    used = await cpu(federation, parts)
    async with loaded(federation, ports, size.validations_per_s, remarks := []):
        shares = [tokens[number :: size.clients] for number in range(size.clients)]
        told = await asyncio.gather(
            *(
                one.ask("revoke", tokens=share, per_s=size.per_s / size.clients, connections=CONNECTIONS)
                for one, share in zip(clients, shares, strict=True)
            )
        )
        done = {audit_id: at for one in told for audit_id, at in one["done"].items()}
        if len(done) != count:
            raise SystemExit(f"{count - len(done)} revocations were refused: {[one['other'] for one in told]}")
        took_s = max(one["took_s"] for one in told)
        late = await collected(federation, parts, done)
    clients_cpu = sum(one["cpu_s"] for one in told) / took_s
    add_burst(report, "by HTTP", size, count / took_s, late, await cpu(federation, parts, used, took_s), clients_cpu)
    used = await cpu(federation, parts)
    ids = [audit_id for audit_id, _ in federation.fresh(count)]
    async with loaded(federation, ports, size.validations_per_s, remarks):
        told = await federation.controller.ask("revoke", audit_ids=ids, per_s=size.per_s)
        late = await collected(federation, parts, told["done"])
    took_s = told["took_s"]
    add_burst(report, "without HTTP", size, count / took_s, late, await cpu(federation, parts, used, took_s), 0.0)


async def cpu(federation, parts, before=None, took_s=1.0):
    """CPU seconds of the controller and the sites; with those of before, how many CPUs they took since."""
    now = [await one.ask("cpu") for one in (federation.controller, *parts)]
    return now if before is None else [(one - other) / took_s for one, other in zip(now, before, strict=True)]


def add_burst(report, how, size, per_s, late, used, clients_cpu):
    everything = [one for times in late.values() for one in times]
    what = f"3 sites, {size.per_s} revocations a second {how}, {size.seconds:g} s"
    missed = "" if per_s > 0.98 * size.per_s else " (NOT the rate that was asked)"
    remark = f"{per_s:.0f}/s done{missed}, 0 of {len(everything)} lost; CPU: controller {used[0]:.2f}, sites "
    remark += " ".join(f"{one:.2f}" for one in used[1:]) + (f", clients {clients_cpu:.2f}" if clients_cpu else "")
    report.add(Row(what, everything, (P50_S, P99_S), remark))


async def keystone(report, singles):
    """The real one, on SQLite and with its cache on, in the same run."""
    from tests.differential.servers import PASSWORD, Upstream

    server = await asyncio.to_thread(Upstream)
    try:
        port = int(server.url.rpartition(":")[2])
        auth = password("admin", PASSWORD, "default")
        auth["scope"] = {"project": {"name": "admin", "domain": {"id": "default"}}}
        caller = await asyncio.to_thread(_issued, port, auth)
        tokens = [("", await asyncio.to_thread(_issued, port, auth)) for _ in range(singles)]
        late = []
        for one in tokens:  # its server closes each connection
            late += await same_node_anew(port, caller, one[1])
    finally:
        server.stop()
    report.add(Row("same node: Keystone 30.0.0, for comparison", late, None, "wsgiref, SQLite, in-memory cache"))


async def same_node_anew(port, caller, token):
    async def asked(method):
        async with Connection(port) as connection:
            return await connection.ask(method, caller, token)

    for _ in range(2):
        assert await asked("GET") == 200
    assert await asked("DELETE") == 204
    answered = time.monotonic()
    while await asked("GET") == 200:
        assert time.monotonic() < answered + LATE_S
    return [time.monotonic() - answered]


async def measure(folder, size, only, done, *, upstream=True):
    """These parts, in their order; `done` with each and its report."""
    async with AsyncExitStack() as stack:
        federation = await Federation(stack, folder).start()
        links = await federation.part(
            "links", target=federation.stream, delays_s=[0.0] * (len(NAMES) + len(size.delays_ms))
        )
        parts, ports = await three(federation, links)
        for part in only:
            await settled(federation, parts)
            report = Report()
            match part:
                case "near":
                    if upstream:
                        await keystone(report, min(30, size.singles))
                    await near(federation, size, ports, report)
                case "apart":
                    await apart(federation, size, links, parts, ports, report)
                case "many":
                    await many(federation, size, links, parts, ports, report)
                case _:
                    await burst(federation, size, parts, ports, report)
            done(part, report)


def page(part, report):
    """What docs/performance.md says of a part."""
    notes = "".join(f" {one[:1].upper()}{one[1:]}." for one in report.notes)
    return "\n".join(
        [
            f"Measured by `{COMMAND} ONLY={part}` on {os.cpu_count()} cores, which ran everything.{notes}",
            "",
            "| Case | p50 / p99 / worst | Goal, remarks |",
            "|---|---|---|",
            *(f"| {row.what} | {row.shown} | {row.judged} |" for row in report.rows),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: that it runs, not what it shows")
    parser.add_argument("--only", type=some_of(PARTS), default=list(PARTS), help=f"some of {' '.join(PARTS)}")
    parser.add_argument("--write", type=Path, help="keep the tables in this page")
    told = parser.parse_args()
    rows = []

    def done(part, report):
        print(flush=True)
        rows.extend(report.rows)
        if told.write:
            told.write.write_text(kept(told.write.read_text(), COMMAND, part, page(part, report)))

    size = SHORT if told.smoke else Size()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), size, told.only, done, upstream=not told.smoke))
    if not told.smoke and not all(row.met for row in rows):
        raise SystemExit("a goal is not met")


if __name__ == "__main__":
    main()
