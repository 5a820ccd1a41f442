"""Takes away, in steps, what still refers to something that is gone: a domain of ten thousand users, say.

Each step is a transaction of some hundred rows: other writes pass between two, and whoever is alive goes on with it
after a crash. Source: regional_keystone/api/consequences.py says what goes and what it voids.
"""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from controller.commit import Sequencer
from controller.housekeeping import mine
from regional_keystone.api.consequences import step
from regional_keystone.document import time
from regional_keystone.errors import IdentityError
from regional_keystone.follow import Follower
from regional_keystone.log import Change
from regional_keystone.model import Deletion
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Lock
from regional_keystone.record import Touch

log = structlog.get_logger("sweep")

EVERY_S = 5.0  # what another controller began and did not end is found by then
_SAY_S = 5.0
_REST = 0.5  # of the time that a step took: what other writes have for themselves


class Sweeper:
    """Ends deletions that were too much for one transaction. `pending` are those that are known not to have ended."""

    def __init__(
        self, *, overlay: Overlay, sequencer: Sequencer, follower: Follower, lock: Lock, clock: Clock, keep_s: float
    ) -> None:
        self.pending: dict[str, Deletion] = {}
        self._overlay = overlay
        self._sequencer = sequencer
        self._lock = lock
        self._clock = clock
        self._keep_s = keep_s
        self._begun = asyncio.Event()
        follower.watchers.append(self._saw)

    async def run(self) -> None:
        """For ever; of several controllers whichever is first."""
        while True:
            try:
                await self._look()
                if self.pending:
                    async with mine(self._lock, "sweep") as is_mine:
                        if is_mine:
                            await self._sweep()
            except IdentityError as error:  # a busy log, a store that is away: it is tried again
                log.error("not_swept", why=error.message)
                await self._clock.sleep(1.0)
            self._begun.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._begun.wait()

    def status(self) -> list[Mapping[str, Any]]:
        """What is on its way out: which row, since when, and how many rows went with it so far."""
        return [{"of": one.id, "began_at": time(one.began_at), "removed": one.removed} for one in self.pending.values()]

    async def _look(self) -> None:
        self.pending = {one.id: one async for one in self._overlay.scan(Deletion)}

    async def _sweep(self) -> None:
        said = self._clock.ticks()
        while self.pending:
            for deletion in sorted(self.pending.values(), key=lambda one: (one.began_at, one.id)):
                began = self._clock.ticks()
                await self._step(deletion.id)
                if self._clock.ticks() - said > _SAY_S:
                    said = self._clock.ticks()
                    log.info("sweeping", of=deletion.id, removed=deletion.removed, others=len(self.pending) - 1)
                await self._clock.sleep(_REST * (self._clock.ticks() - began))
            await self._look()

    async def _step(self, name: str) -> None:
        async def decide(reader: Recording) -> tuple[tuple[Change, ...], Deletion | None]:
            deletion = await reader.get(Deletion, name)
            if deletion is None:
                return (), None
            return await step(reader, deletion, self._clock.now(), self._keep_s), deletion

        found, _ = await transact(self._overlay, self._sequencer, f"sweep/{secrets.token_hex(8)}", decide)
        if found is not None and await self._overlay.get(Deletion, name) is None:
            took_s = (self._clock.now() - found.began_at) / 1_000_000
            log.info("swept", of=name, removed=found.removed, took_s=round(took_s, 1))

    def _saw(self, position: int, touched: set[Touch]) -> None:
        del position
        if ("deletions",) in touched:
            self._begun.set()
