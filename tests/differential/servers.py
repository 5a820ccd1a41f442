"""The two servers: the real Keystone 30.0.0 on SQLite, and ours, each in a process of its own on a loopback port."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.compat.installed import KEYSTONE, cache_directory, venv_with
from tests.golden import record_upstream

PASSWORD = record_upstream.ADMIN_PASSWORD
# The standard library's server: needs nothing beside Keystone in its venv.
_LAUNCH = """import sys
sys.argv = sys.argv[:1]
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from keystone.wsgi.api import application

class Handler(WSGIRequestHandler):
    def log_message(self, *said):
        pass

    def get_environ(self):
        found = super().get_environ()
        if "Content-Type" not in self.headers:
            del found["CONTENT_TYPE"]  # this server says text/plain where the client said nothing
        return found

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self):
        WSGIServer.server_bind(self)

server = Server(("127.0.0.1", {port}), Handler)
server.set_app(application)
server.serve_forever()
"""


# A refusal is no error of the server, and its trace costs more than the answer. The cache is on, as wherever Keystone
# is run in earnest: without it each request takes ten times as long. This kind of cache hands out copies.
_CONF = """[DEFAULT]
default_log_levels = keystone=CRITICAL
[api]
response_validation = ignore
[database]
sqlite_synchronous = false
[cache]
enabled = true
backend = dogpile.cache.memory_pickle
"""


class Upstream:
    """A fresh, bootstrapped Keystone 30.0.0."""

    def __init__(self):
        python = str(venv_with("keystone-30.0.0", KEYSTONE))
        empty = str(cache_directory() / "keystone-30.0.0.db")
        self._server = record_upstream.Keystone(_CONF, python=python, launch=_LAUNCH, empty=empty)
        self.url = f"http://127.0.0.1:{self._server.port}"
        try:
            self._until_it_serves()
        except BaseException:
            self.stop()
            raise

    def _until_it_serves(self):
        """A busy machine takes a minute over its imports."""
        for _ in range(1800):
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", self._server.port), 1).close()
            if self._server.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError("Keystone does not start")

    def log(self):
        """What it wrote, for whoever looks for the cause of a 500."""
        return Path(self._server.dir.name, "keystone.log").read_text()

    def stop(self):
        self._server.stop()


class Ours:
    """A fresh, bootstrapped controller."""

    def __init__(self):
        self._stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self):
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        public, admin, stream = _free_ports(3)
        self.url = f"http://127.0.0.1:{public}"
        (directory / "password").write_text(PASSWORD)
        (directory / "password").chmod(0o600)
        (directory / "state").mkdir(mode=0o700)
        told = {
            "site.state_dir": directory / "state",
            "bootstrap.password_file": directory / "password",
            "controller.region": "RegionOne",
            "identity.password_hash_rounds": 4,
            "listen.port": public,
            "listen.admin_port": admin,
            "listen.public_endpoint": self.url,
            "stream.port": stream,
        }
        sets = [word for name, value in told.items() for word in ("--set", f"{name}={value}")]
        ready, tell_ready = os.pipe()
        self._log = directory / "log"
        with self._log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "controller", "serve", *sets, "--ready-fd", str(tell_ready)],
                stdout=output,
                stderr=output,
                pass_fds=[tell_ready],
            )
        self._stack.callback(_end, process)
        os.close(tell_ready)
        with os.fdopen(ready) as line:
            if not line.readline():
                raise RuntimeError(f"the controller does not start:\n{self.log()[-2000:]}")

    def log(self):
        """What it wrote."""
        return self._log.read_text(errors="replace")

    def stop(self):
        self._stack.close()


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
