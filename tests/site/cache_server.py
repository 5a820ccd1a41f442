"""A real memcached as somebody sees it who means harm: to be frozen, killed, read and written to."""

import socket
from contextlib import contextmanager
from urllib.parse import unquote

from pymemcache.client.base import Client

_BUSY = b"BUSY currently processing crawler request"


class CacheServer:
    """One memcached of the engines."""

    def __init__(self, engine):
        self.engine = engine
        self.address = engine.server
        self._at = (engine.address, engine.port)
        self.freeze, self.thaw, self.kill = engine.stop, engine.cont, engine.kill

    def start(self):
        """Begin it again, and wait until it serves."""
        self.engine.start()
        self.engine.await_ready()

    @contextmanager
    def attacker(self):
        """Somebody else who may connect."""
        client = Client(self._at, timeout=5, connect_timeout=5, default_noreply=False)
        try:
            yield client
        finally:
            client.close()

    def keys(self):
        """The names of everything that is in it."""
        with socket.create_connection(self._at, 5) as connection, connection.makefile("rwb") as file:
            dump = [_BUSY]
            while dump == [_BUSY]:  # with a round of its own
                file.write(b"lru_crawler metadump all\r\n")
                file.flush()
                dump = [file.readline().strip()]
                while dump[-1] not in {b"END", _BUSY, b""}:
                    dump.append(file.readline().strip())
        assert dump.pop() == b"END", "it hung up"
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
