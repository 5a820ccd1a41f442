"""Cost of a validation beside nginx, in one run: `python -m tests.bench.bench_validate [--smoke]`.

Starts a federation of one site, has tokens issued at its controller, and validates them at the site: each once (cold),
then again and again (hot). Cases run interleaved, best of three rounds; the ratio to nginx is the figure, the rest
depends on the machine. With --url, --caller, --subject a site that runs already is measured instead.
"""

import argparse
import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.processes import free_port as row_of_ports

CONNECTIONS = 32
ROUNDS = 3
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
TOKENS = 1000


@dataclass(frozen=True)
class Case:
    """Something that listens, and what to ask of it."""

    name: str
    url: str
    pids: tuple[int, ...]
    headers: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """What one round of one case showed."""

    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float


# --- servers, each a process of its own -------------------------------------------------------------------------------


async def _plain(port: int, body: bytes) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/v3/auth/tokens", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


@contextmanager
def process(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on this port until the end of the block."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as child:
        try:
            wait_for(port, child)
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


def wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"{child.args!r} does not listen on {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Federation:
    """A federation that runs, and tokens of it that its site has not seen."""

    site: str
    caller: str
    subjects: tuple[str, ...]
    controller: str = ""
    state: Path = Path()


def federation(stack: ExitStack, tokens: int = TOKENS) -> Federation:
    """One controller and one site in a directory of their own; ended with the stack."""
    state = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "state"
    rkctl = str(Path(sys.executable).with_name("rkctl"))
    up = [rkctl, "up", "--detach", "--state", str(state), "--port", str(row_of_ports()), "--sites", "RegionOne"]
    stack.callback(subprocess.run, [rkctl, "down", "--state", str(state)], capture_output=True, check=False)
    subprocess.run(up, capture_output=True, check=True, timeout=300)
    told = subprocess.run([rkctl, "status", "--state", str(state), "--json"], capture_output=True, check=True)
    status = json.loads(told.stdout)
    words = dict(re.findall(r"export (OS_\w+)='?([^'\n]*)'?", (state / "openrc").read_text()))
    site, controller = status["sites"][0]["url"], status["controller"]["url"]
    user = {"name": words["OS_USERNAME"], "domain": {"id": "default"}, "password": words["OS_PASSWORD"]}
    scope = {"project": {"name": words["OS_PROJECT_NAME"], "domain": {"id": "default"}}}
    first = issued(controller, {"methods": ["password"], "password": {"user": user}}, scope)
    again = {"methods": ["token"], "token": {"id": first}}
    return Federation(site, first, tuple(issued(controller, again, scope) for _ in range(tokens)), controller, state)


def issued(url: str, identity: dict[str, object], scope: dict[str, object]) -> str:
    """A new token."""
    body = json.dumps({"auth": {"identity": identity, "scope": scope}}).encode()
    asked = urllib.request.Request(f"{url}/auth/tokens", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(answer.headers["X-Subject-Token"])


def aiohttp_alone(stack: ExitStack, size_bytes: int) -> Case:
    """aiohttp with a constant answer of this size: what the same server costs without looking first."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bench_validate", "--child", str(port), str(size_bytes)]
    child = stack.enter_context(process(command, port))
    return Case("aiohttp, constant answer", f"http://127.0.0.1:{port}/v3/auth/tokens", (child.pid,), (), ("-",))


def nginx(stack: ExitStack, body: bytes, headers: tuple[str, ...], subjects: tuple[str, ...]) -> list[Case]:
    """nginx with a static file of the same size, one worker."""
    if not found("nginx", "nginx-light"):
        print("missing: nginx (Debian package nginx-light), left out")
        return []
    folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
    folder.chmod(0o755)
    (folder / "tokens.json").write_bytes(body)
    user = "user root;" if os.geteuid() == 0 else ""
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; open_file_cache max=10; {paths}"
        f"types {{ application/json json; }} server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    child = stack.enter_context(process([program, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"], port))
    return [Case("nginx, static file", f"http://127.0.0.1:{port}/tokens.json", family(child.pid), headers, subjects)]


def found(program: str, package: str) -> bool:
    """Is it there, or can it be installed from Debian?"""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    if shutil.which(program, path=path):
        return True
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "--no-install-recommends", package]
        subprocess.run(command, capture_output=True, timeout=120, check=False)
    return shutil.which(program, path=path) is not None


# --- load -------------------------------------------------------------------------------------------------------------

LUA = """
local subjects = {%s}
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", nil, {["X-Auth-Token"] = wrk.headers["X-Auth-Token"], ["Host"] = wrk.headers["Host"],
    ["Accept"] = "application/json", ["User-Agent"] = "python-keystoneclient",
    ["X-Subject-Token"] = subjects[n %% #subjects + 1]})
end
done = function(summary, latency, requests)
  io.write(string.format("FIGURES %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def by_wrk(case: Case, seconds: float, script: Path) -> tuple[float, float, float, int]:
    script.write_text(LUA % ",".join(f'"{subject}"' for subject in case.subjects))
    headers = [part for header in case.headers for part in ("-H", header)]
    load = ["-t", "1", "-c", str(CONNECTIONS), "-d", f"{max(1, round(seconds))}s", "-s", str(script)]
    told = subprocess.run(["wrk", *load, *headers, case.url], capture_output=True, text=True, check=True).stdout
    match = re.search(r"FIGURES (\d+) (\d+) (\d+) (\d+) (\d+)", told)
    if match is None or int(match[5]):
        raise SystemExit(f"{case.name}: not every request was answered\n{told}")
    count, took_us, p50, p99, _ = map(int, match.groups())
    return count / took_us * 1e6, p50, p99, count


async def by_hand(case: Case, seconds: float) -> tuple[float, float, float, int]:
    """Load without wrk: one request at a time on each connection."""
    host, port = re.match(r"http://([^:/]+):(\d+)", case.url).groups()  # type: ignore[union-attr]
    path, took = "/" + case.url.split("/", 3)[3], []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (began := time.perf_counter()) < end:
            number += 1
            subject = case.subjects[number % len(case.subjects)]
            lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *case.headers, f"X-Subject-Token: {subject}"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{case.name}: {head!r}")
            await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))  # type: ignore[index]
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(n * 31) for n in range(CONNECTIONS)))
    took.sort()
    return len(took) / seconds, took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6, len(took)


# --- measuring --------------------------------------------------------------------------------------------------------


def family(pid: int) -> tuple[int, ...]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (pid, *(one for child in children for one in family(int(child))))


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time that these processes have had."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) * TICK_S


def measure(case: Case, seconds: float, script: Path | None) -> Figure:
    before = cpu_s(case.pids)
    found = by_wrk(case, seconds, script) if script else asyncio.run(by_hand(case, seconds))
    per_s, p50, p99, count = found
    return Figure(per_s, p50, p99, (cpu_s(case.pids) - before) / count * 1e6)


def run(cases: Sequence[Case], seconds: float, script: Path | None) -> dict[str, Figure]:
    """Each case in turn, three times; the round with the least CPU counts."""
    rounds: dict[str, list[Figure]] = {case.name: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            rounds[case.name].append(measure(case, seconds, script))
    return {name: best(figures) for name, figures in rounds.items()}


def best(figures: Sequence[Figure]) -> Figure:
    """The least CPU, and the round with most requests: other work on the machine only ever takes away."""
    fastest = max(figures, key=lambda figure: figure.per_s)
    return replace(fastest, cpu_us=min(figure.cpu_us for figure in figures))


def table(figures: dict[str, Figure]) -> str:
    base = next((figure for name, figure in figures.items() if name.startswith("nginx")), None)
    lines = [
        "| server | CPU us/request | requests/s | p50 us | p99 us | CPU to nginx | requests/s to nginx |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in figures.items():
        ratios = f"{one.cpu_us / base.cpu_us:.2f} | {one.per_s / base.per_s:.2f}" if base else "- | -"
        lines.append(
            f"| {name} | {one.cpu_us:.1f} | {one.per_s:,.0f} | {one.p50_us:,.0f} | {one.p99_us:,.0f} | {ratios} |"
        )
    return "\n".join(lines)


def cold(url: str, caller: str, subjects: Sequence[str]) -> tuple[Case, Figure, bytes]:
    """A site that runs, warm afterwards; what the first validation of each token cost, and an answer's body."""
    port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
    case = Case(
        "regional keystone, hot",
        url.rstrip("/") + "/auth/tokens",
        listeners(port),
        (f"X-Auth-Token: {caller}",),
        tuple(subjects),
    )
    before, began, took = cpu_s(case.pids), time.perf_counter(), []
    connection, body = http.client.HTTPConnection("127.0.0.1", port), b""
    for subject in subjects:
        started = time.perf_counter()
        connection.request("GET", "/v3/auth/tokens", headers={"X-Auth-Token": caller, "X-Subject-Token": subject})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"a valid token was answered {answer.status}")
        took.append((time.perf_counter() - started) * 1e6)
    count, took_s = len(took), time.perf_counter() - began
    took.sort()
    cpu_us = (cpu_s(case.pids) - before) / count * 1e6
    return case, Figure(count / took_s, took[count // 2], took[count * 99 // 100], cpu_us), body


def listeners(port: int) -> tuple[int, ...]:
    """The processes that listen on a local port."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    inodes = {
        f"socket:[{part[9]}]" for part in lines if part[3] == "0A" and int(part[1].rpartition(":")[2], 16) == port
    }
    pids = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in inodes for link in folder.iterdir()):
                pids.append(int(folder.parent.name))
        except OSError:
            continue
    return tuple(pids)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_validate", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per case and round")
    parser.add_argument("--smoke", action="store_true", help="one second per case and round")
    parser.add_argument("--url", help="a site that runs, with /v3 at the end")
    parser.add_argument("--caller", help="a token that may validate")
    parser.add_argument("--subject", action="append", help="a token to validate; may be given more than once")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    chosen = arguments(argv)
    if chosen.child:
        port, size_bytes = map(int, chosen.child)
        asyncio.run(_plain(port, b"x" * size_bytes))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "load.lua" if found("wrk", "wrk") else None
        if chosen.url:
            measured = Federation(chosen.url, chosen.caller, tuple(chosen.subject))
        else:
            print(f"starting a federation, issuing {TOKENS} tokens at its controller", flush=True)
            measured = federation(stack)
        hot, once, body = cold(measured.site, measured.caller, measured.subjects)
        others = [aiohttp_alone(stack, len(body)), *nginx(stack, body, hot.headers, hot.subjects)]
        load = "wrk" if script else "own client (wrk is missing)"
        print(f"load: {load}, {CONNECTIONS} connections, best of {ROUNDS}; an answer has {len(body)} bytes", flush=True)
        figures = run([hot, *others], 1.0 if chosen.smoke else chosen.seconds, script)
        figures = {hot.name: figures.pop(hot.name), "regional keystone, cold (1 connection)": once, **figures}
        print(table(figures))
        if chosen.json:
            chosen.json.write_text(json.dumps({name: vars(figure) for name, figure in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
