"""A TCP proxy in front of an engine: cuts, delays, freezes, or swallows the answers of connections through it."""

import contextlib
import selectors
import socket
import threading
import time
from collections import deque

_PIECE = 65536


class TcpProxy:
    """Passes connections at `address`:`port` on to a target. Use as a context; any thread may turn its knobs.

    - `cut()`: ends all connections and refuses new ones until `heal()`.
    - `freeze()`: takes connections and bytes, and passes nothing on in either direction.
    - `swallow()`: requests arrive at the target, answers are lost: the outcome of each is unknown to its client.
    - `swallow_after(count)`: as many more answers (pieces that the target sends) pass, then `swallow()`.
    - `cut_on_answer()`: the next answer is lost and ends its connection, and then all passes again.
    - `slow(seconds)`: both directions take so long.
    - `heal()`: all passes again; what was frozen arrives now, what was swallowed is lost.
    """

    def __init__(self, target, address="127.0.0.1", port=0):
        self.target = target
        self._listener = socket.create_server((address, port))
        self.address, self.port = self._listener.getsockname()
        self._listener.setblocking(False)
        self._knobs = threading.Lock()
        self._mode, self._delay_s, self._answers_left = "pass", 0.0, None
        self._pairs = {}
        self._late = deque()
        self._frozen = []
        self.swallowed = 0  # bytes of answers
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for one in (self._wake, self._woken):
            one.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_open = False
        self._wake.send(b".")
        self._thread.join(10)
        for one in (*self._pairs, self._listener, self._wake, self._woken):
            one.close()
        self._selector.close()

    def cut(self):
        self._turn(mode="cut")

    def freeze(self):
        self._turn(mode="freeze")

    def swallow(self):
        self._turn(mode="swallow")

    def swallow_after(self, count):
        self._turn(mode="swallow" if not count else "pass", answers=count)

    def cut_on_answer(self):
        self._turn(mode="cut_on_answer")

    def slow(self, delay_s):
        self._turn(mode=self._mode, delay_s=delay_s)

    def heal(self):
        self._turn(mode="pass", delay_s=0.0)

    @property
    def connections(self):
        """How many clients are connected."""
        return len(self._pairs) // 2

    def _turn(self, *, mode, delay_s=None, answers=None):
        with self._knobs:
            self._mode, self._answers_left = mode, answers
            self._delay_s = self._delay_s if delay_s is None else delay_s
            if mode == "cut":
                for one in list(self._pairs):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._wake.send(b".")

    def _run(self):
        while self._is_open:
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, _ in self._selector.select(wait_s):
                with self._knobs:
                    self._handle(key)
            with self._knobs:
                self._flush()

    def _handle(self, key):
        if key.fileobj is self._listener:
            self._accept()
        elif key.fileobj is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(_PIECE)
        elif key.fileobj in self._pairs:
            self._take(key.fileobj)

    def _accept(self):
        with contextlib.suppress(BlockingIOError):
            client = self._listener.accept()[0]
            if self._mode == "cut":
                client.close()
                return
            try:
                server = socket.create_connection(self.target, 5)
            except OSError:
                client.close()
                return
            for one, other, is_answer in ((client, server, False), (server, client, True)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs[one] = (other, is_answer)
                self._selector.register(one, selectors.EVENT_READ)

    def _take(self, source):
        other, is_answer = self._pairs[source]
        try:
            piece = source.recv(_PIECE)
        except OSError:
            piece = b""
        if not piece:
            self._late.append((time.monotonic() + self._delay_s, source, other, b""))
            self._selector.unregister(source)
        elif is_answer and self._is_swallowed():
            self.swallowed += len(piece)
            if self._mode == "cut_on_answer":
                self._mode = "pass"
                self._end(source)
        elif self._mode == "freeze":
            self._frozen.append((0.0, source, other, piece))
        else:
            self._late.append((time.monotonic() + self._delay_s, source, other, piece))

    def _is_swallowed(self):
        if self._answers_left is not None:
            self._answers_left -= 1
            if self._answers_left < 0:
                self._mode, self._answers_left = "swallow", None
        return self._mode in {"swallow", "cut_on_answer"}

    def _flush(self):
        if self._mode != "freeze" and self._frozen:
            self._late.extendleft(reversed(self._frozen))
            self._frozen = []
        while self._late and self._late[0][0] <= time.monotonic():
            _, source, target, piece = self._late.popleft()
            if source not in self._pairs:
                continue
            try:
                if not piece:
                    raise ConnectionResetError
                target.sendall(piece)
            except OSError:
                self._end(source)

    def _end(self, source):
        """Both halves: none of our protocols closes only one."""
        if source not in self._pairs:
            return
        for one in (source, self._pairs[source][0]):
            del self._pairs[one]
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            one.close()
