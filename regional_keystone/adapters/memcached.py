"""memcached as `ports.Cache`: the gets of one turn of the event loop in one request per server, never past a deadline.

Whatever goes wrong is a miss and a count: nothing here raises, and what a server says is only bytes. Each server has
two connections in two threads of its own, so that one which hangs delays nobody else.
"""

import asyncio
import socket
import ssl
from bisect import bisect
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

import structlog
from pymemcache.client.base import Client, normalize_server_spec
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError, MemcacheUnexpectedCloseError

from regional_keystone.settings import Memcached as Section

log = structlog.get_logger("cache")

MAX_VALUE_BYTES: Final = 1_000_000
"""A larger value is not sent: a server's items are 1 MiB at most, its own bookkeeping included."""

RETRY_S: Final = 0.5
_LANES = 2  # requests under way per server
_BATCH = 256  # gets in one request
_WAITING = 4096  # turns that may wait for one server
_POINTS = 160  # of each server on the ring
_LONGEST_S = 30 * 86_400  # memcached takes a larger number for a date

Values = Mapping[str, bytes]


class Ring:
    """Which server has which key. The order of the list does not matter; without one server only its keys move."""

    def __init__(self, servers: Sequence[str]) -> None:
        points = sorted((crc32(f"{server}-{n}".encode()), server) for server in set(servers) for n in range(_POINTS))
        self._points = [point for point, _ in points]
        self._servers = [server for _, server in points]

    def of(self, key: str) -> str:
        """The server of this key."""
        return self._servers[bisect(self._points, crc32(key.encode())) % len(self._servers)]


class _Turn:
    """What was asked of one server within one turn of the event loop, and who waits for it."""

    __slots__ = ("keys", "sent", "timer", "values", "waiting")

    def __init__(self, values: Values | None = None, ttl: int = 0) -> None:
        self.keys: dict[str, None] = {}
        self.values = None if values is None else (values, ttl)
        self.waiting: list[asyncio.Future[Values]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.sent = False

    @property
    def over(self) -> bool:
        """True when nobody waits any more."""
        return self.timer is None

    def end(self, found: Values) -> None:
        """Tell everybody who waits; a second time nobody does."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for future in self.waiting:
            if not future.done():
                future.set_result(found)
        self.waiting.clear()


class _Server:
    """One server: two lanes, a queue for each kind of request, and a breaker."""

    def __init__(self, name: str, timeout_s: float, tls: ssl.SSLContext | None, failures: Counter[str]) -> None:
        self.name = name
        self.up = True
        self._timeout_s = timeout_s
        self._failures = failures
        self._threads = ThreadPoolExecutor(_LANES, thread_name_prefix="cache")
        self._lanes = [_client(name, timeout_s, tls) for _ in range(_LANES)]
        self._free = list(self._lanes)
        self._gets: deque[_Turn] = deque()
        self._sets: deque[_Turn] = deque()
        self._turn: _Turn | None = None  # still open for what is asked in this turn of the loop
        self._busy: set[asyncio.Future[Any]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def ask(self, keys: Sequence[str]) -> "asyncio.Future[Values]":
        """What the server has of these, and maybe more; resolved within the timeout, to nothing if it has to be."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Values] = loop.create_future()
        if not self.up or len(self._gets) >= _WAITING:
            future.set_result({})
            return future
        turn = self._turn
        if turn is None:
            turn = self._turn = self._begun(_Turn(), self._gets)
            loop.call_soon(self._next_turn)
        turn.keys.update(dict.fromkeys(keys))
        turn.waiting.append(future)
        return future

    def store(self, values: Values, ttl: int) -> "asyncio.Future[Values]":
        """Store these; resolved when that is done or given up."""
        future: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        if not self.up or len(self._sets) >= _WAITING:
            future.set_result({})
            return future
        self._begun(_Turn(values, ttl), self._sets).waiting.append(future)
        self._pump()
        return future

    def close(self) -> set[asyncio.Future[Any]]:
        """Answer everybody with nothing and hang up; returns what is still coming to its end in a thread."""
        self._closed = True
        self._give_up()
        if self._retry is not None:
            self._retry.cancel()
        self._threads.shutdown(wait=False)
        return set(self._busy)

    def _begun(self, turn: _Turn, queue: deque[_Turn]) -> _Turn:
        turn.timer = asyncio.get_running_loop().call_later(self._timeout_s, self._late, turn)
        queue.append(turn)
        return turn

    def _next_turn(self) -> None:
        self._turn = None
        self._pump()

    def _pump(self) -> None:
        """Send what waits as long as a lane is free, gets first."""
        while self.up and self._free and (turns := self._waiting(self._gets, _BATCH) or self._waiting(self._sets, 1)):
            lane, values = self._free.pop(), turns[0].values
            if values is None:
                keys = list(dict.fromkeys(key for turn in turns for key in turn.keys))
                self._run(lane, turns, lane.get_many, keys)
            else:
                self._run(lane, turns, lane.set_many, *values)

    def _waiting(self, queue: deque[_Turn], limit: int) -> list[_Turn]:
        turns: list[_Turn] = []
        room = limit
        while queue and room > 0 and queue[0] is not self._turn:
            turn = queue.popleft()
            if not turn.over:
                turn.sent = True
                turns.append(turn)
                room -= len(turn.keys) or limit
        return turns

    def _run(self, lane: Any, turns: Sequence[_Turn], work: Callable[..., Any], *args: Any) -> None:
        def ended(future: asyncio.Future[Any]) -> None:
            self._busy.discard(future)
            self._free.append(lane)
            if not self.up:
                lane.close()
            error = future.exception()
            found = future.result() if error is None else {}
            for turn in turns:
                turn.end(found if turn.values is None else {})
            if error is not None:
                self._failed(lane, error, setting=turns[0].values is not None)
            self._pump()

        self._start(work, args, ended)

    def _start(self, work: Callable[..., Any], args: Sequence[Any], ended: Callable[[Any], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        self._busy.add(future)
        future.add_done_callback(ended)

    def _late(self, turn: _Turn) -> None:
        turn.end({})
        if turn.sent:
            self._break("timeout")
        else:
            self._failures["busy"] += 1

    def _failed(self, lane: Any, error: BaseException, *, setting: bool) -> None:
        if isinstance(error, MemcacheServerError | MemcacheClientError) and not _hung_up(error) and setting:
            self._failures["refused"] += 1  # out of memory, say: it can be asked all the same
        else:
            lane.close()
            self._break(_reason(error))

    def _break(self, reason: str) -> None:
        """Ask this server nothing for a while; whoever waits for it has missed."""
        if not self.up:
            return
        self._failures[reason] += 1
        log.warning("cache_server_down", server=self.name, why=reason)
        self._give_up()
        self._retry_later()

    def _give_up(self) -> None:
        self.up = False
        for lane in self._lanes:
            if lane in self._free:
                lane.close()
            else:
                _hang_up(lane)
        for queue in (self._gets, self._sets):
            while queue:
                queue.popleft().end({})

    def _retry_later(self) -> None:
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._ask_again)

    def _ask_again(self) -> None:
        if not self._free:  # a thread is not back yet: of a name that nobody resolves, say
            self._retry_later()
            return
        lane = self._free.pop()

        def ended(future: asyncio.Future[Any]) -> None:
            self._busy.discard(future)
            self._free.append(lane)
            if self._closed:
                lane.close()
            elif future.exception() is not None:
                lane.close()
                self._retry_later()
            else:
                self.up = True
                log.warning("cache_server_up", server=self.name)

        self._start(lane.version, (), ended)


class Memcached:
    """Implements `ports.Cache` on the region's memcached servers."""

    def __init__(self, section: Section) -> None:
        """Raises ValueError for a server that cannot be meant, OSError for a CA that cannot be read."""
        tls = _tls(section)
        self._failures: Counter[str] = Counter()
        names = sorted(set(section.servers))
        self._servers = {name: _Server(name, section.timeout_s, tls, self._failures) for name in names}
        self._ring = Ring(names)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """What is still there, within the timeout."""
        asked: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for key in keys:
            wire = _wire(key)
            asked[self._ring.of(wire)][wire] = key
        answers = [(names, self._servers[server].ask(list(names))) for server, names in asked.items()]
        found: dict[str, bytes] = {}
        for names, answer in answers:
            values = await answer
            found.update({key: values[wire] for wire, key in names.items() if wire in values})
        return found

    async def set_many(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """Keep these for at most `ttl_s`, in whole seconds; what is larger than a server takes is left out."""
        ttl = min(int(ttl_s), _LONGEST_S) or -1
        given: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for key, value in values.items():
            if len(value) > MAX_VALUE_BYTES:
                self._failures["too_large"] += 1
            else:
                wire = _wire(key)
                given[self._ring.of(wire)][wire] = value
        for answer in [self._servers[server].store(mine, ttl) for server, mine in given.items()]:
            await answer

    def failures(self) -> Mapping[str, int]:
        """What went wrong so far, by reason."""
        return self._failures

    def servers(self) -> Mapping[str, bool]:
        """Every server, and whether it is asked at the moment."""
        return {name: server.up for name, server in self._servers.items()}

    async def close(self) -> None:
        """Hang up. What is asked from now on is a miss."""
        busy = {future for server in self._servers.values() for future in server.close()}
        if busy:
            await asyncio.wait(busy, timeout=1.0)


def _wire(key: str) -> str:
    """A key as servers take it, whatever it is made of."""
    return "rk:" + blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _client(name: str, timeout_s: float, tls: ssl.SSLContext | None) -> Any:
    host, port = _address(name)
    return Client(
        (host, port),
        connect_timeout=timeout_s,
        timeout=timeout_s,
        no_delay=True,
        default_noreply=False,
        tls_context=tls,
    )


def _address(name: str) -> tuple[str, int]:
    try:
        host, port = normalize_server_spec(name)
    except ValueError:
        raise ValueError(f"{name}: a server is host:port") from None
    if not host or not 0 < port < 65536:
        raise ValueError(f"{name}: a server is host:port")
    return host, port


def _tls(section: Section) -> ssl.SSLContext | None:
    if section.tls_ca is None:
        return None
    context = ssl.create_default_context(cafile=section.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _hang_up(lane: Any) -> None:
    """Make a thread that waits for this connection stop waiting, also when it is one of TLS."""
    if lane.sock is not None:
        try:
            socket.socket.shutdown(lane.sock, socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already


def _hung_up(error: BaseException) -> bool:
    return isinstance(error, MemcacheUnexpectedCloseError)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return "connection" if isinstance(error, OSError) or _hung_up(error) else "protocol"
