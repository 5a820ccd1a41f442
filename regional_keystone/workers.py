"""The first process of a site leads: it starts the others, tells them what it learns, and answers what they ask.

What it says to a client or to the controller holds for every process at the port: a revocation is answered once each
of them refuses the token, and a ring is acknowledged once each of them holds it.
Source: docs/adr/0020-workers-follow-a-leader.md
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from regional_keystone.bundle import Seen
from regional_keystone.errors import TooLarge, Unavailable, outlived
from regional_keystone.follow import BATCH, Follower
from regional_keystone.issue_counts import Issues, bounded, summed
from regional_keystone.log import Entry, Position, Transaction
from regional_keystone.messages import Answer, Echo, Entries, Forward, Own, Request, Response
from regional_keystone.metrics import Counts, add_counts
from regional_keystone.model import RevocationEvent
from regional_keystone.own_feed import OwnFeed, portion
from regional_keystone.ports import Clock
from regional_keystone.record import Touch
from regional_keystone.relay import (
    Again,
    Answered,
    Beat,
    Begin,
    Channel,
    Commit,
    Count,
    Counted,
    Done,
    Failed,
    Handed,
    Late,
    Mark,
    Mended,
    PeerWord,
    Serve,
    Serving,
    Stand,
    ToLeader,
    at_leader,
    frame,
)
from regional_keystone.worker_process import EXIT_S, Process, Start, attempt, gone

log = structlog.get_logger("workers")

CONFIRM_S = 1.0  # a worker that has not confirmed a revocation by then is ended, and the client answered
SILENCE_S = 10.0  # one that says nothing for so long is ended
START_S = 60.0  # so long it may take to its first word
_DRAIN_S = 9.0  # a worker that was told to end has at least so long for what it has begun
_LEVEL_S = 1.0
_COUNT_S = 0.5
_LIVED_S = 30.0
_PAUSE_S, _MOST_PAUSE_S = 0.1, 10.0
_TOLD_BYTES = 2 * 1024 * 1024  # of entries in one frame, far below what a frame may have
_KEPT_BYTES = 8 * 1024 * 1024  # of entries that the replica holds, for a worker that has read it a moment ago


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    process: Process
    channel: Channel[ToLeader]
    heard: float  # in ticks
    stand: Stand = field(default_factory=Stand)
    begun: bool = False  # what is revoked here is told to it
    in_step: bool = False  # entries are told to it, and it has them all
    handed: int | None = None  # so much of the own feed was told at its beginning
    counts_here: bool = False  # what it holds is part of what this site holds; only then does it serve
    serves: bool = False
    behind: bool = False  # was waited for in vain, and is not until it has caught up
    counts: Counts = ()
    issued: Issues = field(default_factory=dict)
    answers_count: bool = False
    missed: set[Touch] = field(default_factory=set)  # put right while it was reading: it may have read what lay before


@dataclass(slots=True)
class _Recent:
    """Entries as they were told, of late: all that the replica may not hold, and some that it does."""

    base: int  # what follows this number is here
    frames: deque[tuple[int, bytes]] = field(default_factory=deque)  # (last number, frame)
    size_bytes: int = 0

    def add(self, last: int, framed: bytes) -> None:
        self.frames.append((last, framed))
        self.size_bytes += len(framed)

    def trim(self, projected: int) -> None:
        while self.size_bytes > _KEPT_BYTES and self.frames and self.frames[0][0] <= projected:
            self.base, framed = self.frames.popleft()
            self.size_bytes -= len(framed)


class Workers:
    """Keeps the other processes of a site alive and in step. A Relay of the leader's follower, and a Committer."""

    def __init__(
        self,
        count: int,
        *,
        start: Start,
        follower: Follower,
        own: OwnFeed,
        forward: Callable[[Request], Awaitable[Response]],
        late: Callable[[list[RevocationEvent]], None],
        clock: Clock,
    ) -> None:
        self.have_served = False  # all of them, at one moment
        self.count = count
        self.answered: Callable[[bytes], None] = _unheard  # what a worker answered 200
        self.gone: Callable[[int], None] = _unmissed  # is told which process is no more
        self.peers: Callable[[], AsyncIterator[PeerWord]] = _no_peers  # what their feeds say and the log does not yet
        self._start = start
        self._follower = follower
        self._own = own
        self._forward = forward
        self._late = late
        self._clock = clock
        self._workers: dict[int, _Worker] = {}
        self._starts: dict[int, int] = {}
        self._ending = False
        self._changed = asyncio.Event()
        self._recent = _Recent(follower.position)
        self._mends = 0
        self._ended: Counts = ()  # what those counted that are gone
        self._apply = follower.apply
        follower.apply = self._apply_in_step
        follower.relay = self
        own.took = self._took

    async def run(self) -> None:
        """Keep all of them running, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in self._numbers():
                tasks.create_task(self._keep(number))

    async def ready(self) -> None:
        """Return when every worker serves."""
        await self._until(lambda: self.missing() is None)
        self.have_served = True

    def end(self) -> None:
        """Ask all to finish what they have begun, and to end."""
        self._ending = True
        for worker in self._workers.values():
            attempt(worker.process.terminate)

    async def ended(self) -> None:
        """Return when all are gone; what has not ended in time is killed."""
        self.end()
        if not await self._until(lambda: not self._workers, _DRAIN_S):
            for worker in list(self._workers.values()):
                attempt(worker.process.kill)
            await self._until(lambda: not self._workers, EXIT_S)

    def missing(self) -> str | None:
        """Which worker does not serve; None when all do."""
        for number in self._numbers():
            if number not in self._workers or not self._workers[number].serves:
                return f"worker {number} of {self.count} does not serve yet"
        return None

    def held(self) -> tuple[int, dict[str, Seen]]:
        """What every process of this site holds: how far the log is known and durable, and the oldest of each ring."""
        position, seen = self._follower.projected, self._follower.held
        for worker in self._workers.values():
            if worker.counts_here:
                position = min(position, worker.stand.position)
                for name, held in worker.stand.rings.items():
                    if name in seen and held[0] < seen[name].epoch:
                        seen[name] = Seen(*held)
        return position, seen

    def status(self) -> list[dict[str, Any]]:
        """What /status tells of each worker."""
        return [
            {
                "worker": number,
                "pid": worker.process.pid if worker else None,
                "state": "serving" if worker and worker.serves else "starting",
                "position": worker.stand.position if worker else None,
                "ring_epoch": worker.stand.epoch if worker else None,
                "starts": self._starts.get(number, 0),
            }
            for number in self._numbers()
            for worker in (self._workers.get(number),)
        ]

    async def counted(self) -> list[Counts]:
        """What the workers have counted, those that are gone too; one that does not answer: what it said last."""
        asked = [worker for worker in self._workers.values() if worker.begun]
        for worker in asked:
            worker.answers_count = False
            worker.channel.send(frame(Count()))
        await self._until(lambda: all(one.answers_count or not self._lives(one) for one in asked), _COUNT_S)
        return [self._ended, *(worker.counts for worker in self._workers.values())]

    def issued(self) -> Issues:
        """How many tokens all processes of this site have issued, by key and hour."""
        return bounded(summed((self._follower.issues.told(), *(one.issued for one in self._workers.values()))))

    async def level(self, position: int) -> None:
        """Wait, not for long, until every worker knows this entry of the log: who asks another one finds it there."""
        if not await self._until(lambda: all(one.stand.position >= position for one in self._followers()), _LEVEL_S):
            for worker in self._followers():
                worker.behind = worker.stand.position < position

    # --- the Committer: what is revoked here is refused by every process

    async def commit(self, transaction: Transaction) -> Position:
        """Durable, and effective in every process, when it returns. Raises as the own feed does."""
        position = await self._own.commit(transaction)
        await self._confirmed(self._own.number)
        return position

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing ever collides in the own feed."""
        return self._own.alone()

    def hear(self, word: PeerWord) -> None:
        """Tell every process what another site's feed says."""
        self._tell(frame(word), [worker for worker in self._workers.values() if worker.begun])

    # --- the Relay: what the follower learns

    def noted(self, entries: Sequence[Entry]) -> None:
        """Every answer here knows these entries."""
        workers = [worker for worker in self._workers.values() if worker.in_step]
        while entries:
            told = portion(entries, BATCH, _TOLD_BYTES)
            framed = frame(Entries(told, self._follower.head))
            self._recent.add(told[-1].number, framed)
            self._tell(framed, workers)
            entries = entries[len(told) :]

    def heard(self, ticks: float, head: int, now: int) -> None:
        """A controller named the head of its log; the clock is the machine's, so workers know as well when."""
        framed = frame(Echo(ticks, head, now))
        self._tell(framed, [worker for worker in self._workers.values() if worker.in_step])

    def beat(self, ticks: float, head: int) -> None:
        """The store's heartbeat says that the log ended at `head` at `ticks`."""
        self._tell(frame(Beat(ticks, head)), [worker for worker in self._workers.values() if worker.in_step])

    def stored(self, projected: int) -> None:
        """Everything up to here is in the replica."""
        self._recent.trim(projected)
        self._tell(frame(Mark(projected)), self._workers.values())

    def replaced(self) -> None:
        """A snapshot took the replica's place."""
        self._recent = _Recent(self._follower.position)
        for worker in self._workers.values():
            if worker.in_step:
                worker.in_step = False
                worker.channel.send(frame(Again()))

    async def mended(self, touched: Iterable[Touch]) -> None:
        """Rows of the replica were put right. Raises Unavailable; workers go on with the index that they have then."""
        self._mends, found = self._mends + 1, tuple(touched)
        workers = list(self._workers.values())
        for worker in workers:
            if not worker.in_step:  # it is told when it begins
                worker.missed.update(found)
        told = [worker for worker in workers if worker.in_step]
        self._tell(frame(Mended(found, self._mends)), told)
        for worker in told:
            await self._hand_over(worker)

    # --- one worker's life

    async def _keep(self, number: int) -> None:
        pause_s = _PAUSE_S
        while True:
            began = self._clock.ticks()
            why = await outlived(self._live(number), OSError, ValueError, EOFError, Unavailable)
            if self._ending:
                return
            if self._clock.ticks() - began > _LIVED_S:
                pause_s = _PAUSE_S
            log.error("worker_ended", worker=number, why=why or "it has ended", starts_again_in_s=pause_s)
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    async def _live(self, number: int) -> None:
        """From start to end."""
        async with self._running(number) as worker:
            await self._attend(worker)

    @asynccontextmanager
    async def _running(self, number: int) -> AsyncIterator[_Worker]:
        """A process and its end of the channel. It is waited for until it is gone: until then it may answer clients."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await self._start(number, theirs)
        if self._ending:
            attempt(process.kill)
        channel: Channel[ToLeader] = await Channel.over(ours, at_leader)
        self._starts[number] = self._starts.get(number, 0) + 1
        worker = self._workers[number] = _Worker(number, process, channel, self._clock.ticks() + START_S - SILENCE_S)
        try:
            yield worker
        finally:
            channel.close()
            await gone(process)
            del self._workers[number]
            self.gone(number)
            self._ended = add_counts(self._ended, worker.counts)
            self._follower.issues.add(worker.issued)
            self._follower.issued.lost()
            self._follower.progress()  # what all the others hold may be more
            self._stir()

    async def _attend(self, worker: _Worker) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(worker))
            while True:
                message = await worker.channel.receive()
                worker.heard = self._clock.ticks()
                self._hear(worker, message, tasks)

    async def _watch(self, worker: _Worker) -> None:
        while True:
            await self._clock.sleep(1.0)
            if self._clock.ticks() - worker.heard > SILENCE_S:
                raise TimeoutError("it is silent")

    def _hear(self, worker: _Worker, message: ToLeader, tasks: asyncio.TaskGroup) -> None:
        match message:
            case Begin(position=position):
                self._begin(worker, position, tasks)
            case Stand():
                self._stands(worker, message)
            case Forward(request=request):
                tasks.create_task(self._answer_forward(worker, request))
            case Commit():
                tasks.create_task(self._answer_commit(worker, message))
            case Late(events=events):
                self._late(list(events))
            case Counted(counts=counts, issued=issued):
                worker.counts, worker.issued, worker.answers_count = counts, issued, True
                self._stir()
            case Answered(batch=batch):
                self.answered(batch)
            case Serving():
                worker.serves = True
                log.info("worker_serves", worker=worker.number, pid=worker.process.pid)
                self._stir()

    def _begin(self, worker: _Worker, position: int, tasks: asyncio.TaskGroup) -> None:
        """Tell a worker that stands at `position` what it lacks; from now on it is told everything."""
        worker.begun = True
        if position < self._recent.base:
            worker.channel.send(frame(Again()))
            return
        for last, framed in self._recent.frames:
            if last > position:
                worker.channel.send(framed)
        worker.in_step = True
        age_s = self._follower.age_s()
        if age_s != float("inf"):
            worker.channel.send(frame(Echo(self._clock.ticks() - age_s, self._follower.position, 0)))
        worker.channel.send(frame(Mark(self._follower.projected)))
        if worker.missed:
            worker.channel.send(frame(Mended(tuple(worker.missed), self._mends)))
            worker.missed.clear()
        tasks.create_task(self._hand_over(worker))

    async def _hand_over(self, worker: _Worker) -> None:
        """Tell what was revoked here, or at a site that can be read, and has not come in the log yet."""
        mends = self._mends
        async for word in self.peers():
            worker.channel.send(frame(word))
        number = 0
        while entries := await self._own.after(number):
            for entry in entries:
                worker.channel.send(frame(Own(self._own.name, (entry,))))
            number = entries[-1].number
        worker.handed = max(number, self._own.number)
        worker.channel.send(frame(Handed(self._own.name, worker.handed, mends)))

    def _stands(self, worker: _Worker, stand: Stand) -> None:
        held, worker.stand = self.held(), stand
        if stand.position >= self._follower.position:
            worker.behind = False
        if not worker.counts_here and self._is_level(worker):
            worker.counts_here = True
            worker.channel.send(frame(Serve()))
        if self.held() != held:
            self._follower.progress()
        self._stir()

    def _is_level(self, worker: _Worker) -> bool:
        """Whether it holds what this site has said that it holds."""
        stand, seen = worker.stand, self._follower.seen
        if worker.handed is None or stand.own < worker.handed:
            return False
        rings = all(stand.rings.get(name, (0, ""))[0] >= ring.epoch for name, ring in seen.items())
        return rings and stand.position >= self._follower.projected

    async def _answer_forward(self, worker: _Worker, request: Request) -> None:
        try:
            worker.channel.send(frame(Answer(request.id, await self._forward(request))))
        except Unavailable as refusal:
            worker.channel.send(frame(Failed(request.id, refusal.message, refusal.retry_after_s or 1)))

    async def _answer_commit(self, worker: _Worker, asked: Commit) -> None:
        try:
            await self.commit(Transaction(asked.id, self._follower.position, frozenset(), asked.changes))
            worker.channel.send(frame(Done(asked.id)))
        except Unavailable as refusal:
            worker.channel.send(frame(Failed(asked.id, refusal.message, refusal.retry_after_s or 1)))
        except TooLarge as refusal:
            worker.channel.send(frame(Failed(asked.id, refusal.message, too_large=True)))

    # --- all workers

    def _numbers(self) -> range:
        return range(2, self.count + 1)

    def _lives(self, worker: _Worker) -> bool:
        return self._workers.get(worker.number) is worker

    def _followers(self) -> list[_Worker]:
        """Those that can be waited for."""
        return [one for one in self._workers.values() if one.in_step and one.counts_here and not one.behind]

    def _took(self, entry: Entry) -> None:
        framed = frame(Own(self._own.name, (entry,)))
        self._tell(framed, [worker for worker in self._workers.values() if worker.begun])

    async def _confirmed(self, number: int) -> None:
        """Return once no process accepts what the own feed has revoked up to here."""

        def slow() -> list[_Worker]:
            return [one for one in self._workers.values() if one.begun and one.stand.own < number]

        if await self._until(lambda: not slow(), CONFIRM_S):
            return
        late = slow()
        for worker in late:
            log.error("worker_cut_off", worker=worker.number, why="it has not confirmed a revocation in time")
            attempt(worker.process.kill)
            worker.channel.close()
        await self._until(lambda: not any(map(self._lives, late)))

    async def _apply_in_step(self, batch: Sequence[Entry]) -> None:
        """Put entries into the replica once workers know them: none reads there what is newer than all it knows."""
        await self.level(batch[-1].number)
        await self._apply(batch)

    def _tell(self, framed: bytes, workers: Iterable[_Worker]) -> None:
        for worker in workers:
            worker.channel.send(framed)

    async def _until(self, holds: Callable[[], bool], within_s: float | None = None) -> bool:
        """Wait for something about the workers; False when it takes longer."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _stir(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()


async def _no_peers() -> AsyncIterator[PeerWord]:
    return
    yield


def _unheard(batch: bytes) -> None:
    """What was answered, where nobody asks."""


def _unmissed(number: int) -> None:
    """The end of a process that nothing has to be taken up of."""
