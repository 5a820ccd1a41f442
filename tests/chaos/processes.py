"""The federation of `make chaos`: two controllers on one log, sites with workers, one ZooKeeper, each a process.

Whoever is killed is started again after a pause, by nobody's command; nothing else is ever done to a process.
"""

import configparser
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from controller import ask
from controller.authority import PARTS
from controller.engines import install
from controller.engines.process import Keeper
from controller.engines.zookeeper import ZooKeeper
from regional_keystone import durable
from tests.faults.caller import Place
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
CONTROLLERS, SITES = ("c1", "c2"), ("RegionOne", "RegionTwo", "RegionThree")
WORKERS = 2
READY_S = 60.0
DEADLINE_S = 20.0


class Member:
    """A controller or a site: how it is started, and the process that it is now."""

    def __init__(self, federation, name, ports):
        self.federation = federation
        self.name = name
        self.state = federation.directory / name
        self.public, self.admin, self.stream = ports
        self.process = None
        self.serves = False
        self.pause_s = 0.5  # before it is started again
        self.killed = False

    @property
    def is_controller(self):
        return self.name in CONTROLLERS

    @property
    def place(self):
        return Place(self.name, HOST, self.public, self.admin, self.is_controller)

    def start(self):
        """Returns when it serves, or has ended; whether it serves."""
        ready, tell_ready = os.pipe()
        config, parent = self.federation.directory / f"{self.name}.conf", self.federation.life[0]
        if self.is_controller:
            words = ["tests.chaos.controller", config, self.federation.log, tell_ready, parent]
        else:
            words = ["regional_keystone", "--config", config, "serve", "--ready-fd", tell_ready, "--parent-fd", parent]
        with (self.federation.directory / f"{self.name}.log").open("ab") as output:
            # by a thread that stays: they die with the thread that has started them
            self.process = self.federation.starter.submit(
                subprocess.Popen,
                [sys.executable, "-m", *map(str, words)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(tell_ready, parent),
                process_group=0,
            ).result()
        os.close(tell_ready)
        self.killed = False
        with os.fdopen(ready, "rb") as line:
            self.serves = bool(line.readline())
        self.federation.tell(f"{self.name} {'serves' if self.serves else 'does not start'}")
        return self.serves

    def kill(self, pause_s):
        self.serves, self.killed, self.pause_s = False, True, pause_s
        self.federation.tell(f"{self.name} is killed")
        os.kill(self.process.pid, signal.SIGKILL)

    def supervise(self):
        """Start it again whenever it ends, until all ends."""
        while True:
            code = self.process.wait()
            self.serves = False
            if self.federation.closing.wait(self.pause_s):
                return
            if not self.killed:
                self.federation.ended.append(f"{self.name} ended by itself, with {code}")
            self.start()

    def workers(self):
        """The processes that it has started."""
        try:
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(word) for word in text.split()]


class Federation:
    """All of it. Use as a context: nothing is left afterwards."""

    def __init__(self, directory, tell=lambda line: None):
        self.directory = directory
        self.tell = tell
        self.log = directory / "log.db"
        self.password = secrets.token_hex(12)
        self.members = {}
        self.keeper = None
        self.life = os.pipe()  # its end is that of all
        self.kills = dict.fromkeys(("controller", "site", "worker", "zookeeper"), 0)
        self.ended = []  # who ended though nobody had killed it
        self.closing = threading.Event()
        self.starter = ThreadPoolExecutor(1)
        self._threads = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.keeper = Keeper()
        programs = install.look()
        self.zookeeper = ZooKeeper(self.keeper, programs.java, programs.zookeeper, servers=1)
        self.zookeeper.start()
        port = free_port()
        for number, name in enumerate((*CONTROLLERS, *SITES)):
            first = port + 3 * number
            self.members[name] = Member(self, name, (first, first + 1, first + 2))
            self.members[name].state.mkdir(mode=0o700)
        c1, c2 = self.controllers
        self._configure(c1, first=True)
        self._begin(c1)
        authority = c2.state / "authority"
        authority.mkdir(mode=0o700)
        for part in PARTS:
            durable.write(authority / part, (c1.state / "authority" / part).read_bytes(), 0o400)
        self._configure(c2)
        self._begin(c2)
        for site in self.sites:
            token = self.ask(c1, "/region/add", {"name": site.name})["join_token"]
            durable.write(site.state / "join-token", token.encode())
            self._configure(site)
            self._begin(site)
        for member in self.members.values():
            self._in_thread(member.supervise)

    def __exit__(self, *_):
        self.closing.set()
        for member in self.members.values():
            if member.process is not None and member.process.poll() is None:
                os.killpg(member.process.pid, signal.SIGKILL)
                member.process.wait()
        for thread in self._threads:
            thread.join(READY_S)
        self.starter.shutdown()
        if self.keeper is not None:
            self.keeper.close()
        for end in self.life:
            os.close(end)

    @property
    def controllers(self):
        return [self.members[name] for name in CONTROLLERS]

    @property
    def sites(self):
        return [self.members[name] for name in SITES]

    def ask(self, controller, path, body=None, timeout_s=READY_S):
        """A command to a controller. Raises ask.Unanswered and ask.Refusal."""
        return ask.admin(controller.state / "admin.sock", path, body, timeout_s)

    def status(self, member):
        """What it says of itself; None when it says nothing."""
        try:
            return ask.page(member.admin, "/status", 2.0)
        except (ask.Unanswered, ask.Refusal):
            return None

    def kill(self, kind, chance, pause_s):
        """Kill -9 one of this kind; it is started again after that pause. False when none runs."""
        if kind == "zookeeper":
            server = self.zookeeper.servers[0]
            if not server.is_running:
                return False
            server.kill()
            self._in_thread(lambda: self._heal(pause_s))
        elif kind == "worker":
            found = [pid for site in self.sites if site.serves for pid in site.workers()]
            if not found:
                return False
            try:
                os.kill(chance.choice(found), signal.SIGKILL)  # the site starts it again
            except ProcessLookupError:
                return False
        else:
            found = [one for one in (self.controllers if kind == "controller" else self.sites) if one.serves]
            if not found:
                return False
            chance.choice(found).kill(pause_s)
        self.kills[kind] += 1
        return True

    def settle(self):
        """Wait until all that were killed are started again."""
        end = time.monotonic() + READY_S
        while not (all(one.serves for one in self.members.values()) and self.zookeeper.servers[0].is_running):
            if time.monotonic() > end:
                return
            time.sleep(0.1)

    def _heal(self, pause_s):
        if not self.closing.wait(pause_s):
            self.zookeeper.heal()

    def _in_thread(self, work):
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _begin(self, member):
        if not member.start():
            said = (self.directory / f"{member.name}.log").read_text()[-1500:]
            raise RuntimeError(f"{member.name} does not start: {said}")

    def _configure(self, member, *, first=False):
        streams = ",".join(f"https://{HOST}:{one.stream}" for one in self.controllers)
        values = {
            "site": {"state_dir": member.state},
            "listen": {"host": HOST, "port": member.public, "admin_port": member.admin},
            "identity": {"password_hash_rounds": 4},
            "keys": {"acknowledge_deadline_s": DEADLINE_S},
        }
        if member.is_controller:
            other = next(one for one in self.controllers if one is not member)
            values["stream"] = {
                "host": HOST,
                "port": member.stream,
                "advertise": f"https://{HOST}:{member.stream}",
                "others": f"https://{HOST}:{other.stream}",
            }
            values["controller"] = {"name": member.name}
            values["zookeeper"] = {"hosts": self.zookeeper.hosts[0]}
            if first:
                password = self.directory / "password"
                durable.write(password, self.password.encode())
                values["bootstrap"] = {"password_file": password}
        else:
            values["site"] |= {"controllers": streams, "join_token_file": member.state / "join-token"}
            values["workers"] = {"processes": WORKERS}
        writer = configparser.RawConfigParser()
        writer.read_dict(values)
        with (self.directory / f"{member.name}.conf").open("w") as file:
            writer.write(file)
