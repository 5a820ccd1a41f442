"""A stream between a site and a controller: two ends of a socket as `link` and `replicate` use it, and what can go wrong."""

import asyncio
from collections import deque
from types import SimpleNamespace

from aiohttp import WSMsgType

from regional_keystone.messages import Rows, at_site


class End:
    """One end of a socket."""

    def __init__(self, loop, stream):
        self.closed = False
        self.peer = None
        self._loop = loop
        self._stream = stream
        self._inbox = deque()
        self._wake = None
        self._last = 0.0

    async def send_bytes(self, data):
        if self.closed or self._stream.cut:
            raise ConnectionResetError("the stream is closed")
        loop, stream = self._loop, self._stream
        draw = loop.random.random()
        if draw < stream.site.loss:
            stream.count("lost")
            stream.break_()
            return
        due = loop.time() + loop.latency_s() * stream.site.slowness
        if draw > 1 - stream.site.disorder and not _is_rows(data):
            stream.count("reordered")  # overtakes what was sent before
        else:
            due = self._last = max(due, self._last)
        loop.call_at(due, self.peer._arrives, data)
        if stream.site.disorder and not _is_rows(data) and loop.random.random() < stream.site.disorder:
            stream.count("duplicated")
            loop.call_at(due + loop.latency_s(), self.peer._arrives, data)

    def _arrives(self, data):
        if not self.closed:
            if self._stream.site.held:
                self._loop.call_later(0.3, self._arrives, data)
                return
            self._put(data)

    def _put(self, data):
        self._inbox.append(data)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _next(self):
        while not self._inbox:
            if self.closed:
                return None
            self._wake = self._loop.create_future()
            await self._wake
        return self._inbox.popleft()

    async def receive_bytes(self):
        data = await self._next()
        if data is None:
            raise TypeError("the stream is closed")
        return data

    def __aiter__(self):
        return self

    async def __anext__(self):
        data = await self._next()
        if data is None:
            raise StopAsyncIteration
        return SimpleNamespace(type=WSMsgType.BINARY, data=data)

    async def close(self, *, code=1000):
        await asyncio.sleep(0)
        self._stream.end(self)

    def shut(self):
        self.closed = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Stream:
    """A connection of one site. `site` says how bad its network is."""

    def __init__(self, loop, site, count):
        self.cut = False
        self.site = site
        self.count = count
        self.loop = loop
        self.up, self.down = End(loop, self), End(loop, self)  # the site's end, the controller's end
        self.up.peer, self.down.peer = self.down, self.up

    def end(self, mine):
        """Said good-bye: the other end hears of it after what was sent before."""
        mine.shut()
        self.loop.call_later(0.02, mine.peer.shut)

    def break_(self):
        """Without good-bye: each end finds out by itself."""
        self.cut = True
        self.loop.call_later(self.loop.latency_s(), self.up.shut)
        self.loop.call_later(self.loop.latency_s(), self.down.shut)


def _is_rows(data):
    return isinstance(at_site(data), Rows) if data[:1] != b"" and b"rows" in data[:12] else False
