"""What is still to be deleted on one server, until that is done or has ended by itself."""

from asyncio import Event
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, Protocol

import structlog

from regional_keystone.ports import Clock

log = structlog.get_logger("purge")

_BATCH = 500
_PAUSE_S, _MOST_PAUSE_S = 0.25, 2.0


class Server(Protocol):
    """One memcached of the region's services."""

    @property
    def name(self) -> str:
        """host:port."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Return when none of these is there. Raises OSError when that is not certain."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


class _Owed(NamedTuple):
    since: float
    until: float


class Deletions:
    """For one server: every key is deleted as often as it is owed. One that does not answer is tried again.

    At most `limit` keys; the oldest are given up first. Times are ticks.
    """

    def __init__(self, server: Server, clock: Clock, limit: int) -> None:
        self.server = server
        self.up = True
        self.done = 0
        self.failures = 0
        self.given_up = 0  # its entries may have been there to their end
        self._clock = clock
        self._limit = limit
        self._owed: dict[str, _Owed] = {}
        self._more = Event()

    def __len__(self) -> int:
        """How many keys are owed."""
        return len(self._owed)

    def owe(self, keys: Iterable[str], until: float) -> None:
        """Delete these; after `until` they are gone anyway."""
        owed = _Owed(self._clock.ticks(), until)
        for key in keys:
            self._owed.pop(key, None)
            self._owed[key] = owed
        while len(self._owed) > self._limit:
            del self._owed[next(iter(self._owed))]
            self.given_up += 1
        self._more.set()

    def lag_s(self) -> float:
        """For how long the oldest of them has been owed."""
        oldest = next(iter(self._owed.values()), None)
        return 0.0 if oldest is None else self._clock.ticks() - oldest.since

    async def run(self) -> None:
        """Delete what is owed, for ever."""
        pause_s = _PAUSE_S
        while True:
            await self._more.wait()
            batch = dict(islice(self._owed.items(), _BATCH))
            if not batch:
                self._more.clear()
            elif await self._delete(batch):
                pause_s = _PAUSE_S
            else:
                self._outlived()
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    async def _delete(self, batch: dict[str, _Owed]) -> bool:
        try:
            await self.server.delete(list(batch))
        except OSError as error:
            self.failures += 1
            if self.up:
                why = error.strerror or type(error).__name__
                log.error("middleware_cache_server_down", server=self.server.name, why=why, owed=len(self._owed))
            self.up = False
            return False
        if not self.up:
            log.warning("middleware_cache_server_up", server=self.server.name, owed=len(self._owed))
        self.up = True
        self.done += len(batch)
        for key, owed in batch.items():
            if self._owed.get(key) is owed:  # else it is owed once more
                del self._owed[key]
        return True

    def _outlived(self) -> None:
        now = self._clock.ticks()
        past = [key for key, owed in self._owed.items() if owed.until <= now]
        for key in past:
            del self._owed[key]
        self.given_up += len(past)

    async def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            await self.server.close()
