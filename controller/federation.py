"""A federation on one machine as a directory: who belongs to it, which ports, which credentials, how it fares.

Separate from the supervisor, because status, tour and the other commands read the same directory.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controller import ask
from regional_keystone import durable
from regional_keystone.record import Json

CONTROLLER, SECOND, REGION = "controller", "controller-2", "Global"
SITES = ("RegionOne", "RegionTwo", "RegionThree")
PORT = 15000  # below the ports that the kernel gives to outgoing connections
HOST = "127.0.0.1"
_LAST_PORT = 65535
_TOLD = 5
_STATUS = ("position", "lag_entries", "age_s", "ring_epoch")


class FederationError(Exception):
    """A command cannot be done; `exit_code` is the command's, the sentence names the cure."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Member:
    """One process of the federation and its ports; `stream` is a controller's alone, `front` its proxy's."""

    name: str
    public: int
    admin: int
    stream: int | None = None
    front: int | None = None

    @property
    def is_controller(self) -> bool:
        """Whether this is one that may append."""
        return self.stream is not None

    @property
    def region(self) -> str:
        """The region's name in the catalog."""
        return REGION if self.is_controller else self.name

    @property
    def url(self) -> str:
        """The Identity API, as OS_AUTH_URL."""
        return f"http://{HOST}:{self.port}/v3"

    @property
    def port(self) -> int:
        """Where clients reach it: its proxy, if it has one."""
        return self.front or self.public

    @property
    def ports(self) -> list[int]:
        """All of its own."""
        return [port for port in (self.public, self.admin, self.stream) if port]

    def page(self, path: str, timeout_s: float = 1.0) -> Json:
        """A page of the admin port. Raises Unanswered."""
        return ask.page(self.admin, path, timeout_s)


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of a federation, mode 0700. An absolute path."""

    directory: Path

    @classmethod
    def at(cls, directory: Path) -> "Home":
        """The federation in this directory, whether there is one yet or not."""
        return cls(directory.absolute())

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.directory / "control.sock"

    @property
    def admin(self) -> Path:
        """The first controller's admin socket."""
        return self.admins[0]

    @property
    def admins(self) -> list[Path]:
        """Every controller's admin socket."""
        return [self.state(name) / "admin.sock" for name in (CONTROLLER, SECOND)]

    @property
    def engines(self) -> Path:
        """Where the engines below keep their data; there once it has any."""
        return self.directory / "engines"

    @property
    def openrc(self) -> Path:
        """The administrator's credentials for a shell."""
        return self.directory / "openrc"

    @property
    def password_file(self) -> Path:
        """The administrator's password; there only until the controller has read it."""
        return self.directory / "first-password"

    def state(self, name: str) -> Path:
        """A process's state directory."""
        return self.directory / name

    def log(self, name: str) -> Path:
        """What a process wrote."""
        return self.directory / "logs" / f"{name}.log"

    def config(self, name: str) -> Path:
        """A process's settings, written at each start."""
        return self.directory / "config" / f"{name}.conf"

    def prepare(self) -> None:
        """Make the directory. Raises FederationError where it may not be made or used."""
        try:
            for path in (self.directory, self.directory / "logs", self.directory / "config"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
        except OSError as error:
            cure = "name a directory of yours with --state"
            raise FederationError(f"{error.filename}: {error.strerror}; {cure}", 3) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only supervisor here; the kernel frees it however we end. Raises BlockingIOError."""
        with durable.locked(self.directory):
            durable.write(self._supervisor, str(os.getpid()).encode())
            try:
                yield
            finally:
                self._supervisor.unlink(missing_ok=True)

    def holder(self) -> int | None:
        """The process id of the running supervisor, None when there is none."""
        try:
            with durable.locked(self.directory, shared=True):
                return None
        except BlockingIOError:
            return int(self._supervisor.read_text()) if self._supervisor.exists() else 0
        except OSError:
            return None

    @property
    def _supervisor(self) -> Path:
        return self.directory / "supervisor.pid"

    def members(self) -> list[Member]:
        """The recorded processes, the controller first. Raises FederationError when there is no federation here."""
        path = self.directory / "ports.json"
        try:
            return [Member(**one) for one in json.loads(path.read_text())]
        except FileNotFoundError:
            raise FederationError(f"{self.directory} holds no federation; make one with `rkctl up`") from None
        except (OSError, ValueError, TypeError) as error:
            raise FederationError(f"{path} cannot be read ({error}); remove it to have new ports", 3) from None

    def began_on_engines(self) -> bool | None:
        """Whether the federation here lies in engines; None where there is none. Raises FederationError."""
        if (self.directory / "ports.json").exists():
            return self.members()[0].front is not None
        if self.engines.exists():
            return True
        return False if (self.state(CONTROLLER) / "log.db").exists() else None

    def record(self, members: Sequence[Member]) -> None:
        """Keep the ports, so that the next start has the same addresses."""
        text = json.dumps([asdict(member) for member in members], indent=1)
        durable.write(self.directory / "ports.json", text.encode())

    def sets(self) -> tuple[str, ...]:
        """What `--set` has said so far, one for each option. Raises FederationError for a file that is none."""
        try:
            found = json.loads(self.sets_file.read_text())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise FederationError(f"{self.sets_file} cannot be read ({error}); remove it and set anew", 3) from None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise FederationError(f"{self.sets_file} is no list of settings; remove it and set anew", 3)
        return tuple(found)

    def keep_sets(self, told: Sequence[str]) -> None:
        """Keep these for the next start."""
        if told or self.sets_file.exists():
            durable.write(self.sets_file, json.dumps(list(told), indent=1).encode())

    @property
    def sets_file(self) -> Path:
        """The settings that the processes were told, kept from start to start."""
        return self.directory / "sets.json"

    def password(self) -> str:
        """The administrator's, from openrc."""
        for line in self.openrc.read_text().splitlines():
            if line.startswith("export OS_PASSWORD="):
                return line.partition("=")[2].strip("'")
        raise FederationError(f"{self.openrc} has no OS_PASSWORD; restore it or bootstrap again", 3)


def plan(home: Home, port: int | None, sites: Sequence[str], *, engines: bool = False) -> list[Member]:
    """The processes to run, and their ports: as recorded, new ones after them. Records what is new.

    With engines there are two controllers, and a proxy before them and before each site.
    Raises FederationError, exit code 4, when a recorded or named port is taken, 2 when the federation here is of the
    other kind.
    """
    _check_kind(home, engines=engines)
    if (home.directory / "ports.json").exists():
        known = home.members()
        _check_kept(home, known, port)
    else:
        known = []
    missing = [name for name in sites or (() if known else SITES) if name not in {one.name for one in known}]
    controllers = () if known else (CONTROLLER, SECOND) if engines else (CONTROLLER,)
    members = known + _added(controllers, missing, port, known, fronted=engines)
    home.record(members)
    return [one for one in members if one.is_controller or not sites or one.name in sites]


def _check_kind(home: Home, *, engines: bool) -> None:
    """A federation keeps to what it began on: its data lie there, and nowhere else."""
    began = home.began_on_engines()
    if engines and began is False:
        cure = "leave --engines away, or name another directory with --state"
        raise FederationError(f"the federation in {home.directory} keeps its data in SQLite: {cure}", 2)
    if began and not engines:
        cure = "go on with --engines, or name another directory with --state"
        raise FederationError(f"the federation in {home.directory} keeps its data in engines: {cure}", 2)


def _check_kept(home: Home, known: Sequence[Member], port: int | None) -> None:
    if port not in (None, known[0].port):
        cure = f"leave --port away, or remove {home.directory / 'ports.json'}"
        raise FederationError(f"this federation's controller has port {known[0].port}; {cure}", 2)
    for member in known:
        for number in (*member.ports, member.front):
            if number and not is_free(number):
                _taken(number, f"it is recorded for {member.name} in {home.directory / 'ports.json'}")


def _added(
    controllers: Sequence[str], sites: Sequence[str], port: int | None, known: Sequence[Member], *, fronted: bool
) -> list[Member]:
    """New members: what clients use first, then streams, then admin ports, each the next free one."""
    used = {number for one in known for number in (*one.ports, one.front)}
    first = known[0].port if known else port or PORT
    if port and not known and not is_free(port):
        _taken(port, "name another one with --port")
    free = (number for number in range(first, _LAST_PORT) if number not in used and is_free(number))
    names = [*controllers, *sites]
    try:
        fronts = dict.fromkeys(names) if not fronted else _fronts(controllers, sites, free)
        public = {name: next(free) for name in names}
        streams = {name: next(free) for name in controllers}
        return [Member(name, public[name], next(free), streams.get(name), fronts[name]) for name in names]
    except (StopIteration, RuntimeError):
        raise FederationError(f"too few free ports after {first}; name a lower one with --port", 4) from None


def _fronts(controllers: Sequence[str], sites: Sequence[str], free: Iterator[int]) -> dict[str, int | None]:
    """The port of the proxy before each: one before all controllers."""
    shared: int | None = next(free) if controllers else None
    own: dict[str, int | None] = {name: next(free) for name in sites}
    return dict.fromkeys(controllers, shared) | own


def _taken(port: int, cure: str) -> None:
    raise FederationError(f"port {port} is taken: end the program that has it; {cure}", 4)


def is_free(port: int) -> bool:
    """Whether a server could have the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def write_credentials(home: Home, members: Sequence[Member]) -> bool:
    """Write openrc and clouds.yaml, 0600, at first with a random password; tells whether no controller has it yet."""
    if home.openrc.exists():
        password = home.password()
    else:
        password = secrets.token_urlsafe(18)
        durable.write(home.password_file, password.encode())
    durable.write(home.openrc, _openrc(members[0], password).encode())
    durable.write(home.directory / "clouds.yaml", _clouds(members, password).encode())
    return home.password_file.exists()


def _openrc(controller: Member, password: str) -> str:
    values = {
        "OS_AUTH_URL": controller.url,
        "OS_USERNAME": "admin",
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": controller.region,
        "OS_IDENTITY_API_VERSION": "3",
    }
    return "".join(f"export {name}='{value}'\n" for name, value in values.items())


def _clouds(members: Sequence[Member], password: str) -> str:
    """One cloud a member. JSON strings are YAML strings."""
    text = "clouds:\n"
    for member in members:
        text += (
            f"  {member.name}:\n"
            f"    auth:\n"
            f"      auth_url: {member.url}\n"
            f"      username: admin\n"
            f"      password: {json.dumps(password)}\n"
            f"      project_name: admin\n"
            f"      user_domain_name: Default\n"
            f"      project_domain_name: Default\n"
            f"    region_name: {member.region}\n"
            f"    identity_api_version: 3\n"
        )
    return text


def status(members: Sequence[Member]) -> Json:
    """How everyone fares, asked at the same time: a process that does not answer within a second is `down`."""
    with ThreadPoolExecutor(len(members)) as pool:
        pages = list(pool.map(_page, members))
    controllers = sum(one.is_controller for one in members)
    head = max((page["position"] for page in pages[:controllers] if "position" in page), default=None)
    standings: Json = next((page["sites"] for page in pages[:controllers] if "sites" in page), {})
    found = [
        {"name": member.name, "region": member.region, "url": member.url}
        | _facts(member, page, head, standings.get(member.name))
        for member, page in zip(members, pages, strict=True)
    ]
    return {"controller": found[0], "controllers": found[:controllers], "sites": found[controllers:]}


def _page(member: Member) -> Json:
    try:
        return member.page("/status")
    except (ask.Unanswered, ask.Refusal) as error:
        return {"state": "down", "detail": str(error)}


def _facts(
    member: Member, found: Mapping[str, Any], head: int | None, standing: Mapping[str, Any] | None = None
) -> Json:
    """`standing`: what the controllers say of a site; one that serves shows it as its state, and why below."""
    facts: Json = {name: found.get(name) for name in _STATUS}
    facts["state"], mark = _state(member, found), _mark(standing or {})
    if mark and facts["state"] not in {"down", "isolated"}:
        facts["state"] = mark
    if head is not None and facts["position"] is not None:
        facts["lag_entries"] = max(facts["lag_entries"] or 0, head - facts["position"], 0)
    detail = found.get("detail") or (found.get("stream") or {}).get("refused")
    set_aside = f"{mark}: {(standing or {}).get('why') or 'no reason was given'}" if mark else None
    said = {
        "detail": detail,
        "too_old_for": found.get("too_old_for"),
        "set_aside": set_aside,
        "deletions": found.get("deletions"),
        "drift": _drift(found.get("convergence") or {}),
    }
    return facts | {name: told for name, told in said.items() if told}


def _mark(standing: Mapping[str, Any]) -> str | None:
    """How the controllers have set this site aside, if they have."""
    marks = [standing["state"]] if standing.get("state") == "quarantined" else []
    return ", ".join([*marks, "drained"] if standing.get("drained") else marks) or None


def _drift(found: Mapping[str, Any]) -> str | None:
    """What a process says of rows that no entry made so; None where there is nothing to tell."""
    told = []
    if count := sum(found.get("found", {}).values()):
        last = found["last"][-1] if found["last"] else {}
        told.append(f"{count} rows drifted and were put right, {last.get('table')} {last.get('key')} the last")
    if found.get("unmended"):
        told.append(f"{found['unmended']} rows differ at the controller")
    if found.get("doubted"):
        told.append(f"rows changed here without an entry: {', '.join(found['doubted'][:_TOLD])}")
    return "; ".join(told) or None


def _state(member: Member, found: Mapping[str, Any]) -> str:
    """What the process says of itself; a site without its stream is `isolated` whatever else it says."""
    state = str(found.get("state", "active"))
    connected = found.get("stream", {}).get("connected", True)
    return state if member.is_controller or connected or state == "down" else "isolated"


def settled(sets: Iterable[str]) -> tuple[str, ...]:
    """The last word on each option, of section.option=value each."""
    return tuple({one.partition("=")[0].strip().lower(): one for one in sets}.values())


def check_name(name: str) -> None:
    """Refuse names that no region, or no file, can have. Raises FederationError."""
    reserved = (CONTROLLER, SECOND, REGION, "logs", "config", "engines", "secrets")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name in reserved:
        cure = f"use letters, digits, '.', '_', '-', and none of {', '.join(reserved)}"
        raise FederationError(f"{name!r} cannot name a region: {cure}", 2)
