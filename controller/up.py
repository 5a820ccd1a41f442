"""A whole federation on one machine: one controller and its sites, each a process, under one supervisor.

The supervisor starts, joins, reports and ends them; it never restarts one by itself. Nothing outlives it: the
children watch a pipe, and the kernel kills them when it dies.
"""

import asyncio
import configparser
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller import ask, authority, federation
from controller.display import Tell
from controller.federation import HOST, FederationError, Home, Member
from controller.launch import Options
from controller.settings import OF_SITES
from controller.settings import Settings as ControllerSettings
from regional_keystone import durable, operator_socket, settings
from regional_keystone.hardening import harden
from regional_keystone.record import Json

if TYPE_CHECKING:
    from controller.backing import Backing

READY_S = 120.0  # of a machine that starts a dozen servers at once
_END_S = 10.0
_SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP, "CONT": signal.SIGCONT, "TERM": signal.SIGTERM}


@dataclass(slots=True)
class Child:
    """One running process of the federation."""

    member: Member
    process: asyncio.subprocess.Process
    log_from: int

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; a stopped one runs."""
        return self.process.returncode is None


@dataclass(slots=True)
class Supervisor:
    """Holds the lock, the pipe that the children watch, and the children."""

    options: Options
    tell: Tell
    members: list[Member] = field(default_factory=list)
    backing: "Backing | None" = None
    children: dict[str, Child] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _life: tuple[int, int] = field(default_factory=os.pipe)
    _watchers: set[asyncio.Task[None]] = field(default_factory=set)
    _expected: set[str] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def home(self) -> Home:
        """The federation's directory."""
        return self.options.home

    async def start(self) -> None:
        """All processes that do not run, the first controller first. Raises FederationError with the cure."""
        if self.backing:
            await asyncio.to_thread(self.backing.start)
            await self.backing.prepare(self.members)
        first, *others = [one for one in self.members if one.is_controller]
        sites = [one for one in self.members if not one.is_controller]
        await self._start(first)
        self.home.password_file.unlink(missing_ok=True)
        for other in others:
            _share_authority(self.home, first, other)
        await self._invite(sites)
        await _all([self._start(one) for one in (*others, *sites)])
        if self.backing:
            await asyncio.to_thread(self.backing.serve, self.members)

    async def revive(self) -> list[str]:
        """Start again what has ended; tells who that was."""
        async with self._turn:
            missing = [one.name for one in self.members if not self._runs(one.name)]
            missing += self.backing.ended() if self.backing else []
            if missing:
                await self.start()
            return missing

    async def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; after KILL or TERM, return once the process is gone."""
        if self.backing and self.backing.has(name):
            await asyncio.to_thread(self.backing.signal, name, number)
            return
        if name not in self.children or not self._runs(name):
            raise FederationError(f"{name} does not run")
        child = self.children[name]
        child.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._expected.add(name)
            await child.process.wait()

    async def stop(self) -> None:
        """End all, first politely; returns when nobody is left."""
        running = [child for child in self.children.values() if child.is_running]
        self._expected |= set(self.children)
        for child in running:
            for number in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(number)
        await asyncio.gather(*(_gone(child) for child in running))
        if self.backing:
            await asyncio.to_thread(self.backing.close)

    def report(self) -> Json:
        """Who runs, by process id."""
        engines = self.backing.report() if self.backing else {}
        return {name: child.process.pid for name, child in self.children.items() if child.is_running} | engines

    def _runs(self, name: str) -> bool:
        return name in self.children and self.children[name].is_running

    async def _start(self, member: Member) -> None:
        if self._runs(member.name):
            return
        self.tell("wait", f"{member.name}: waiting until it serves at {member.url}")
        child, ready = await self._spawn(member)
        self.children[member.name] = child
        await self._until_ready(child, ready)
        self._expected.discard(member.name)
        self._watch(child)
        _token_file(self.home, member).unlink(missing_ok=True)
        self.tell("done", f"{member.name} serves at {member.url}")

    async def _spawn(self, member: Member) -> tuple[Child, int]:
        """The process, and the end of a pipe from which its readiness is read."""
        ready, tell_ready = os.pipe()
        log = self.home.log(member.name)
        try:
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *self._command(member, tell_ready),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=_environment(),
                    process_group=0,  # Ctrl-C is ours to pass on
                    pass_fds=(tell_ready, self._life[0]),
                )
                return Child(member, process, output.tell()), ready
        finally:
            os.close(tell_ready)

    async def _until_ready(self, child: Child, ready: int) -> None:
        line = asyncio.ensure_future(_line(ready))
        ended = asyncio.ensure_future(child.process.wait())
        try:
            await asyncio.wait({line, ended}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
            if line.done() and line.result():
                return
            # a process that fails closes the pipe an instant before it ends
            await asyncio.wait({ended}, timeout=_END_S if line.done() else 0)
            raise self._failure(child)
        finally:
            line.cancel()
            ended.cancel()

    def _command(self, member: Member, ready: int) -> list[str]:
        extra = self.backing.settings(member, self.members) if self.backing else {}
        config = _write_config(self.options, self.members, member, extra)
        return _command(self.options, config, member, ready, self._life[0])

    def _failure(self, child: Child) -> FederationError:
        log = self.home.log(child.member.name)
        if child.is_running:
            child.process.kill()
            return FederationError(f"{child.member.name} does not serve after {READY_S:.0f} s; see {log}")
        code = child.process.returncode or 1
        said = _last_line(log, child.log_from) or f"it ended with {code} and said nothing"
        return FederationError(f"{child.member.name}: {said} (log: {log})", code if code in (2, 3, 4) else 1)

    def _watch(self, child: Child) -> None:
        task = asyncio.ensure_future(self._report_end(child))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def _report_end(self, child: Child) -> None:
        code, name = await child.process.wait(), child.member.name
        if name in self._expected:
            return
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        cure = f"`rkctl up --state {self.home.directory}` revives it"
        self.tell("warn", f"{name} has ended ({why}); {cure}; log: {self.home.log(name)}")

    async def _invite(self, sites: Sequence[Member]) -> None:
        """A join token for each site that has not joined."""
        for site in sites:
            if _has_joined(self.home, site):
                continue
            self.tell("wait", f"{site.name}: waiting for its join token")
            body = {"name": site.name, "url": site.url}
            answer = await asyncio.to_thread(ask.admin, self.home.admin, "/region/add", body)
            self.home.state(site.name).mkdir(mode=0o700, exist_ok=True)
            durable.write(_token_file(self.home, site), str(answer["join_token"]).encode())


async def supervise(options: Options, tell: Tell, ready: Callable[[bool], None], parent_fd: int | None = None) -> None:
    """Run the federation until a signal, `rkctl down`, or the end of the parent. Raises FederationError.

    `ready` is called once all serve, with whether this was the first start here.
    """
    harden()
    home = options.home
    home.prepare()
    with _only_one(home):
        options = _with_former_sets(options, tell)
        members = federation.plan(home, options.port, options.sites, engines=options.engines)
        is_first = federation.write_credentials(home, members)
        if left := [one.name for one in home.members() if one not in members]:
            tell("warn", f"not started: {', '.join(left)}; `rkctl up` without --sites starts all that there are")
        if options.port is None and is_first and members[0].port != federation.PORT:
            tell("warn", f"port {federation.PORT} is taken; the controller gets {members[0].port}")
        supervisor = Supervisor(options, tell, members)
        _end_on_signals(supervisor.ended, parent_fd)
        async with _controlled(supervisor):
            try:
                if options.engines:
                    supervisor.backing = await asyncio.to_thread(_backing, home, tell)
                await _unless_ended(supervisor, partial(_serving, options, ready, is_first))
            finally:
                tell("wait", "Waiting until every process has ended")
                await supervisor.stop()
                tell("done", "Every process has ended")


def _serving(options: Options, ready: Callable[[bool], None], is_first: bool) -> None:
    options.home.keep_sets(options.sets)  # not before: with what nothing starts nobody goes on
    ready(is_first)


def _with_former_sets(options: Options, tell: Tell) -> Options:
    """With what was set before, which holds until it is set otherwise. Raises ConfigurationError."""
    home = options.home
    sets = federation.settled((*home.sets(), *options.sets))
    try:
        settings.load(ControllerSettings, None, sets, {})
    except settings.ConfigurationError as error:
        cure = f" ({home.sets_file} has what was set before)" if home.sets() else ""
        raise settings.ConfigurationError(f"{error}{cure}") from None
    if former := [one for one in sets if one not in options.sets]:
        tell("done", f"as set before: {', '.join(former)} (in {home.sets_file})")
    return replace(options, sets=sets)


def _backing(home: Home, tell: Tell) -> "Backing":
    from controller.backing import Backing
    from controller.engines import install

    if install.may_install():
        install.install(tell)
    return Backing(home, install.programs(), tell)


async def _unless_ended(supervisor: Supervisor, ready: Callable[[], None]) -> None:
    start = asyncio.ensure_future(supervisor.start())
    ended = asyncio.ensure_future(supervisor.ended.wait())
    await asyncio.wait({start, ended}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        await asyncio.wait({start})
        return
    ended_early = start.exception()
    if ended_early:
        ended.cancel()
        raise ended_early
    ready()
    await ended


@contextlib.contextmanager
def _only_one(home: Home) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(home.lock())
        except BlockingIOError:
            cure = f"`rkctl down --state {home.directory}` ends it"
            message = f"a federation already runs in {home.directory} (process {home.holder()}); {cure}"
            raise FederationError(message, 5) from None
        except PermissionError as error:
            raise FederationError(
                f"{error.filename}: {error.strerror}; name a directory of yours with --state", 3
            ) from None
        yield


def _end_on_signals(ended: asyncio.Event, parent_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    if parent_fd is not None:
        loop.add_reader(parent_fd, _parent_ended, loop, parent_fd, ended)


def _parent_ended(loop: asyncio.AbstractEventLoop, parent_fd: int, ended: asyncio.Event) -> None:
    loop.remove_reader(parent_fd)
    ended.set()


@contextlib.asynccontextmanager
async def _controlled(supervisor: Supervisor) -> Any:
    """Serve the control socket: one JSON object in, one out."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await _control(supervisor, json.loads(await reader.readline()))
        except (FederationError, ask.Refusal, ask.Unanswered, ValueError, KeyError) as error:
            answer = {"error": str(error)}
        writer.write(json.dumps(answer).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    path = supervisor.home.control
    path.unlink(missing_ok=True)
    with operator_socket.short(path) as name:
        server = await asyncio.start_unix_server(serve, name)
        path.chmod(0o600)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)


async def _control(supervisor: Supervisor, message: Json) -> Json:
    match message:
        case {"command": "report"}:
            return supervisor.report()
        case {"command": "told"}:
            sites = [one.name for one in supervisor.members if not one.is_controller]
            return {"sites": sites, "sets": list(supervisor.options.sets), "engines": supervisor.backing is not None}
        case {"command": "revive"}:
            return {"revived": await supervisor.revive()}
        case {"command": "signal", "name": name, "signal": number}:
            await supervisor.signal(name, _SIGNALS[number])
            return supervisor.report()
        case {"command": "cut", "name": name} if supervisor.backing:
            await asyncio.to_thread(supervisor.backing.cut, name)
            return {}
        case {"command": "slow", "delay_s": delay_s, "loss": loss} if supervisor.backing:
            await asyncio.to_thread(supervisor.backing.slow, delay_s, loss)
            return {}
        case {"command": "rejoin"} if supervisor.backing:
            await asyncio.to_thread(supervisor.backing.rejoin)
            return {}
        case {"command": "stop"}:
            supervisor.ended.set()
            return {}
        case _:
            raise ValueError("unknown command")


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do these at once; the first failure is raised after the others are over."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _gone(child: Child) -> None:
    try:
        await asyncio.wait_for(child.process.wait(), _END_S)
    except TimeoutError:
        child.process.kill()
        await child.process.wait()


async def _line(pipe: int) -> bytes:
    """The one line that is written to a pipe, empty when it was closed without."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
    )
    try:
        return await reader.readline()
    finally:
        transport.close()


def _command(options: Options, config: Path, member: Member, ready: int, life: int) -> list[str]:
    sets: list[str] = []  # what holds for this start alone; all else is in the file
    if member.is_controller and options.home.password_file.exists():
        sets += ["--set", f"bootstrap.password_file={options.home.password_file}"]
    if not member.is_controller and _token_file(options.home, member).exists():
        sets += ["--set", f"site.join_token_file={_token_file(options.home, member)}"]
    program = [sys.executable, "-P", "-m"]  # never a module of the working directory
    described = ["--config", str(config), *sets]
    pipes = ["--ready-fd", str(ready), "--parent-fd", str(life)]
    if member.is_controller:
        return [*program, "controller", "serve", *described, *pipes]
    return [*program, "regional_keystone", *described, "serve", *pipes]


def _told(options: Options, member: Member) -> dict[str, dict[str, str]]:
    """What was set for all, as far as it is for a process of this kind."""
    kind, besides = (ControllerSettings, OF_SITES) if member.is_controller else (settings.Settings, ())
    told = (*settings.environment(os.environ), *options.sets)
    return settings.told(kind, [one for one in told if settings.knows(kind, one) and not one.startswith(besides)])


def _write_config(
    options: Options, members: Sequence[Member], member: Member, extra: Mapping[str, Mapping[str, Any]]
) -> Path:
    """All that a process is told but secrets: one that is started with this file alone is the same."""
    home = options.home
    values: dict[str, dict[str, Any]] = {
        "site": {"state_dir": home.state(member.name)},
        "listen": {
            "host": HOST,
            "port": member.public,
            "admin_port": member.admin,
            "public_endpoint": member.url.removesuffix("/v3"),
        },
    }
    if member.is_controller:
        stream = f"https://{HOST}:{member.stream}"
        values["stream"] = {"host": HOST, "port": member.stream or 0, "advertise": stream}
    else:
        streams = [f"https://{HOST}:{one.stream}" for one in members if one.is_controller]
        values["site"]["controllers"] = ",".join(streams)
    for section, told in (*extra.items(), *_told(options, member).items()):
        values[section] = values.get(section, {}) | dict(told)
    writer = configparser.RawConfigParser()
    writer.read_dict(values)
    with home.config(member.name).open("w") as file:
        writer.write(file)
    return home.config(member.name)


def _environment() -> dict[str, str]:
    """Ours without the settings, which each process is told as far as it knows them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}


def _share_authority(home: Home, first: Member, other: Member) -> None:
    """Give another controller the first one's authority, once: both sign for one federation."""
    source, target = home.state(first.name) / "authority", home.state(other.name) / "authority"
    if not target.exists():
        target.mkdir(mode=0o700, parents=True)
        for name in authority.PARTS:
            durable.write(target / name, (source / name).read_bytes(), 0o400)


def _token_file(home: Home, member: Member) -> Path:
    return home.state(member.name) / "join-token"


def _has_joined(home: Home, site: Member) -> bool:
    return (home.state(site.name) / "identity" / "membership").exists()


def _last_line(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
