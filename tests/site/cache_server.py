"""A real memcached of one's own: to be frozen, killed, brought back, and written to by somebody who means harm."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from urllib.parse import unquote

from pymemcache.client.base import Client


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class CacheServer:
    """One memcached process at one address, through as many lives as a test wants."""

    def __init__(self, *options):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._options = options
        self._process = None

    def start(self):
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64", "-t", "2"]
        self._process = subprocess.Popen([*command, *user, *self._options], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < until, "memcached does not serve"
                time.sleep(0.005)
            else:
                return

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def attacker(self):
        """Somebody else who may connect."""
        client = Client(("127.0.0.1", self.port), timeout=5, connect_timeout=5, default_noreply=False)
        try:
            yield client
        finally:
            client.close()

    def keys(self):
        """The names of everything that is in it."""
        dump = self._said(b"lru_crawler metadump all")
        return sorted(unquote(line.split()[0].removeprefix(b"key=").decode()) for line in dump)

    def entries(self):
        """All that is in it."""
        with self.attacker() as client:
            found = {key: client.get(key) for key in self.keys()}
            return {key: value for key, value in found.items() if value is not None}

    def write(self, entries, expire=300):
        with self.attacker() as client:
            assert client.set_many(entries, expire=expire) == []

    def flush(self):
        with self.attacker() as client:
            client.flush_all()

    def _said(self, command):
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection, connection.makefile("rwb") as file:
            file.write(command + b"\r\n")
            file.flush()
            return list(iter(lambda: file.readline().strip(), b"END"))


@contextmanager
def cache_server(*options):
    """A memcached for as long as the block runs."""
    server = CacheServer(*options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
