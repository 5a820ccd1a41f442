"""A process beside the first one of a site: the same answers at the same port, from what the first one tells it.

It reads the same replica and writes nothing; what is to be changed it asks of its leader. It never outlives it.
Source: docs/adr/0020-workers-follow-a-leader.md
"""

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any

import structlog

from regional_keystone import logs
from regional_keystone.backends import open_replica, region_cache, system_clock
from regional_keystone.enrol import Identity
from regional_keystone.errors import TooLarge, Unavailable
from regional_keystone.last_issue import LAST_ISSUE, LastIssue
from regional_keystone.link import FORWARD_S
from regional_keystone.log import Entry, Position, Transaction
from regional_keystone.marks import Marks
from regional_keystone.messages import Answer, Echo, Entries, Forward, Own, Request, Response
from regional_keystone.middleware_cache import framed
from regional_keystone.model import RevocationEvent
from regional_keystone.parts import Door, Replica
from regional_keystone.peer_feeds import heed
from regional_keystone.ports import Clock
from regional_keystone.purging import tell_answers
from regional_keystone.refresh import Refresh, read_touch
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
    Lost,
    Mark,
    Mended,
    PeerWord,
    Serve,
    Serving,
    Stand,
    ToLeader,
    ToWorker,
    at_worker,
    frame,
)
from regional_keystone.report import export
from regional_keystone.settings import Settings
from regional_keystone.signer_chain import Chain
from regional_keystone.wiring import (
    WAIT_S,
    background,
    door,
    look_after_keys,
    open_public,
    replica,
    settle_again,
)

log = structlog.get_logger("worker")

_BEAT_S = 1.0
_ANSWER_S = FORWARD_S + WAIT_S + 2.0
_STORED_S = 10.0
_LATE_AT_ONCE = 50  # revocations in a frame: each has come in an entry, which is not larger than 256 KiB
_LATE = "The first process of this site has not answered in time; the change may or may not have been made."


class Worker:
    """One process's knowledge, kept up by its leader. A Committer: its leader has the own feed."""

    def __init__(self, settings: Settings, clock: Clock, channel: Channel[ToWorker], number: int = 2) -> None:
        self.settings = settings
        self.clock = clock
        self.part: Replica
        self.door: Door
        self.may_serve = asyncio.Event()
        self._channel, self._number = channel, number
        self._refresh: Refresh
        self._own = 0
        self._projected = 0
        self._marks = Marks()
        self._mends = self._handed = 0  # times that rows were put right, and after which own entries were told again
        self._handing = Marks()
        self._waiting: dict[str, asyncio.Future[Response | None]] = {}

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what the leader has made, read it, and put it together."""
        state = self.settings.site.state_dir
        identity = Identity(state / "identity")
        member = identity.membership()
        store = await open_replica(self.settings, self.clock, member.name, only_reads=True)
        stack.push_async_callback(store.close)
        trusted = identity.trusted()
        self.part = await replica(
            self.settings,
            self.clock,
            store,
            name=member.name,
            cluster=member.cluster,
            box=identity.box(),
            signers=trusted.signers,
            keeps=False,
        )
        self.part.follower.chain = Chain(trusted, self.part.follower.holders.values())
        follower = self.part.follower
        last = LastIssue(state / LAST_ISSUE, self._number)
        stack.callback(last.close)
        follower.issued.lived(last.until() or self.clock.now())
        follower.issued.keep = last.note
        self._refresh = Refresh(follower, self._handed_over)
        await follower.start()
        follower.apply, follower.late, follower.progress = self._stored, self._answer_late, self._stand
        self.door = door(
            self.settings,
            self.part,
            committer=self,
            forward=self._forward,
            own=self,
            own_at=lambda: (follower.own or "", self._own),
            cache=region_cache(self.settings),
        )
        stack.push_async_callback(self.door.close)
        export(self.part, self.door)
        tell_answers(
            self.settings, self.door, self.clock, lambda batch: self._say(Answered(framed(batch))), self._number
        )

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the worker does."""
        settled = settle_again(self.part)
        return [self.part.follower.run(), self._listen(), self._beat(), look_after_keys(self.part), settled]

    def serves(self) -> None:
        """Tell the leader that the door is open."""
        self._say(Serving())

    async def commit(self, transaction: Transaction) -> Position:
        """Durable, and effective in every process of this site, when it returns. Raises Unavailable, TooLarge."""
        await self._ask(transaction.id, Commit(transaction.id, transaction.changes))
        return Position(self.part.follower.position)

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Nothing ever collides in the own feed."""
        return nullcontext()

    async def _forward(self, request: Request) -> Response:
        response = await self._ask(request.id, Forward(request))
        if response is None:
            raise Unavailable(_LATE)
        if response.position is not None:
            await self.part.follower.reached(response.position, WAIT_S)
        return response

    async def _ask(self, name: str, message: Forward | Commit) -> Response | None:
        """What the leader answers; None for a commit. Raises Unavailable when it does not, or cannot."""
        future: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        self._waiting[name] = future
        self._say(message)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await future
        except TimeoutError:
            raise Unavailable(_LATE, retry_after_s=5) from None
        finally:
            self._waiting.pop(name, None)

    async def _listen(self) -> None:
        """Take in what the leader says. Raises Lost when it is gone, ValueError for what cannot be."""
        async with asyncio.TaskGroup() as tasks:
            self._begin()
            while True:
                message = await self._channel.receive()
                if isinstance(message, Again):
                    tasks.create_task(self._start_again())
                elif isinstance(message, Mended):
                    self._mends = message.number
                    tasks.create_task(self._refresh.begin(map(read_touch, message.touched)))
                else:
                    self._take(message)
                    if isinstance(message, Entries):  # more may be here already, and nothing else would come in between
                        await self.clock.sleep(0)

    def _take(self, message: ToWorker) -> None:
        follower = self.part.follower
        match message:
            case Entries(entries=entries):
                follower.note(entries)
                self._stand()
            case Echo(ticks=ticks, head=head, now=now):
                follower.heard(ticks, head, now)
            case Beat(ticks=ticks, head=head):
                follower.beat(ticks, head)
            case Mark(projected=projected):
                self._projected = max(self._projected, projected)
                self._marks.reached(self._projected)
            case Own(entries=entries):
                self._void(entries)
            case PeerWord():
                heed(follower, message)
            case Handed(feed=feed, number=number, mended=mended):
                self._handed = max(self._handed, mended)
                self._handing.reached(self._handed)
                follower.own, self._own = feed, max(self._own, number)
                self._stand()
            case Serve():
                self.may_serve.set()
            case Answer(id=name, response=response):
                self._settle(name, response)
            case Done(id=name):
                self._settle(name, None)
            case Failed(id=name):
                self._settle(name, TooLarge() if message.too_large else _refusal(message))
            case Count():
                self._count()

    def _void(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.part.follower.take(entry)
            self._own = max(self._own, entry.number)
        self._stand()

    def _settle(self, name: str, result: Response | Unavailable | TooLarge | None) -> None:
        waiting = self._waiting.get(name)
        if waiting is None or waiting.done():
            return
        if isinstance(result, Unavailable | TooLarge):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)

    async def _start_again(self) -> None:
        """Read the replica anew: what follows it is told after that."""
        while True:
            try:
                await self.part.follower.start()
            except Unavailable as error:
                log.error("replica_not_readable", why=error.message)
                await self.clock.sleep(_BEAT_S)
            else:
                self._begin()
                return

    async def _handed_over(self, number: int) -> Sequence[Entry]:
        """Nothing, once what the own feed holds was told again: until then an index of rows alone lacks it."""
        del number
        while self._handed < self._mends:
            await self._handing.wait(self._mends)
        return ()

    async def _stored(self, batch: Sequence[Entry]) -> None:
        """The leader writes the replica; this waits until it has."""
        number = batch[-1].number
        if number > self._projected and not await self._marks.wait(number, _STORED_S):
            raise Unavailable(f"The replica does not hold entry {number} yet.")

    async def _beat(self) -> None:
        """The leader ends who says nothing."""
        while True:
            self._stand()
            self._count()
            await self.clock.sleep(_BEAT_S)

    def _begin(self) -> None:
        self._say(Begin(self.part.follower.position))
        self._stand()

    def _stand(self) -> None:
        seen, follower = self.part.holder.seen, self.part.follower
        rings = {name: (held.epoch, held.fingerprint) for name, held in follower.seen.items()}
        self._say(Stand(follower.position, self._own, seen.epoch, seen.fingerprint, rings))

    def _count(self) -> None:
        self._say(Counted(self.door.metrics.counts(), self.part.follower.issues.told()))

    def _answer_late(self, events: list[RevocationEvent]) -> None:
        for start in range(0, len(events), _LATE_AT_ONCE):
            self._say(Late(tuple(events[start : start + _LATE_AT_ONCE])))

    def _say(self, message: ToLeader) -> None:
        self._channel.send(frame(message))


async def serve(settings: Settings, number: int, leader_fd: int) -> None:
    """Worker `number` of a site, until it is cancelled or its leader is gone. Raises StoreRefused, OSError."""
    logs.configure(settings.default, worker=number)
    clock = system_clock()
    async with AsyncExitStack() as stack:
        channel: Channel[ToWorker] = await Channel.over(socket.socket(fileno=leader_fd), at_worker)
        stack.callback(channel.close)
        worker = Worker(settings, clock, channel, number)
        await worker.build(stack)
        try:
            async with background(worker.tasks()):
                await worker.may_serve.wait()
                async with AsyncExitStack() as doors:
                    await open_public(doors, settings, worker.door, shared=True)
                    worker.serves()
                    await asyncio.Event().wait()
        except* Lost:
            log.error("leader_lost", pid=os.getpid())


def _refusal(failed: Failed) -> Unavailable:
    return Unavailable(failed.why, retry_after_s=failed.retry_after_s)
