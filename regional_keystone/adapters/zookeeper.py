"""Lock and wake by ZooKeeper: who of several controllers turns the keys, and that the log has grown.

kazoo runs in threads of its own; what it says is brought to the event loop. Whether a lock is ours is never asked of
kazoo, which believes in a lock for as long as no server denies it: every Hold has a deadline of its own.
Source: docs/adr/0019-several-controllers.md; https://zookeeper.apache.org/doc/current/zookeeperProgrammers.html
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, KazooException, NoAuthError, NodeExistsError, NoNodeError
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry
from kazoo.security import ACL, make_digest_acl

from regional_keystone.errors import Unavailable
from regional_keystone.ports import Clock, Hold

log = structlog.get_logger("zookeeper")

ANSWER_S = 1.0  # until it is said that nobody answers
_RETRY_S = 0.3  # between attempts to connect, at the most
_AWAY = "ZooKeeper does not answer."
_quiet = logging.getLogger("kazoo.unheard")  # what it says of every attempt, at every level, credentials among it
_quiet.setLevel(logging.CRITICAL)
_quiet.propagate = False


class ZooKeeper:
    """Implements `ports.Lock` and `ports.Wake` on one session; one that the servers have ended is followed by another.

    With a user every node is readable and writable by that user alone. A node holds a name or a position, no secret.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        path: str,
        name: str,
        clock: Clock,
        session_timeout_s: float,
        username: str = "",
        password: str = "",
        tls_ca: Path | None = None,
    ) -> None:
        """Use `open`."""
        self._path = path.rstrip("/")
        self._name = name.encode()
        self._clock = clock
        self._believed_s = session_timeout_s * 2 / 3
        self._acl: list[ACL] | None = [make_digest_acl(username, password, all=True)] if username else None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = False  # written by kazoo's thread at once: a Hold must not wait for the loop
        self._connected = asyncio.Event()
        self._held: dict[str, _Hold] = {}
        self._litter: set[str] = set()  # nodes of ours that could not be removed
        self._heard: list[Callable[[], None]] = []
        self._told, self._telling = 0, False
        self._client = KazooClient(
            ",".join(hosts),
            timeout=session_timeout_s,
            default_acl=self._acl,
            auth_data=[("digest", f"{username}:{password}")] if username else None,
            connection_retry=KazooRetry(max_tries=-1, delay=0.05, max_jitter=0.4, max_delay=_RETRY_S),
            logger=_quiet,
            use_ssl=tls_ca is not None,
            ca=str(tls_ca) if tls_ca else None,
            verify_certs=True,
            check_hostname=tls_ca is not None,
        )

    @classmethod
    async def open(cls, hosts: Sequence[str], **options: Any) -> "ZooKeeper":
        """Begin to connect; servers that are away are waited for by whoever needs them."""
        made = cls(hosts, **options)
        made._client.add_listener(made._state)
        made._client.start_async()
        return made

    async def close(self) -> None:
        """End the session: what is held is free for others at once, if a server hears of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.remove_listener(self._state)
        self._up = False
        await asyncio.to_thread(self._client.stop)
        await asyncio.to_thread(self._client.close)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[Hold]:
        """Enter with a true Hold if this process is the holder, with a false one if another is, without waiting.

        Raises Unavailable within about a second when the servers do not answer.
        """
        path, hold = f"{self._path}/locks/{name}", _Hold(self._believes, self._clock)
        if name in self._held:
            hold.lost = True
            yield hold
            return
        self._held[name] = hold
        try:
            async with self._holding(path, hold):
                yield hold
        finally:
            del self._held[name]

    def tell(self, position: int) -> None:
        """The log ends at this position now. Never waits and never fails."""
        self._told = max(self._told, position)
        if self._up and not self._telling:
            self._tell()

    def listen(self, heard: Callable[[], None]) -> None:
        """Call this on the event loop, soon, whenever another process may have told something."""
        self._heard.append(heard)
        if self._up:
            self._watch()

    def _believes(self) -> bool:
        return self._up

    # ------------------------------------------------------------------------------------------------- the lock

    @asynccontextmanager
    async def _holding(self, path: str, hold: "_Hold") -> AsyncIterator[None]:
        try:
            taken = await self._take(path, hold)
        except BaseException:  # it may have been made after all
            self._clear(path)
            raise
        if not taken:
            hold.lost = True
            yield
            return
        keeping = asyncio.create_task(self._keep(path, hold))
        try:
            yield
        finally:
            keeping.cancel()
            hold.lost = True
            self._litter.add(path)
            await self._remove(path)

    async def _take(self, path: str, hold: "_Hold") -> bool:
        await self._reached()
        for _ in range(2):  # the other's node may go between the two questions
            asked = self._clock.ticks()
            try:
                await self._ask(self._client.create_async(path, self._name, self._acl, ephemeral=True, makepath=True))
                mine: bool | None = True
            except NodeExistsError:
                mine = await self._is_mine(path)
            if mine:
                hold.until = asked + self._believed_s
            if mine is not None:
                if hold.lost:  # the session ended meanwhile
                    raise Unavailable(_AWAY)
                return mine
        return False

    async def _keep(self, path: str, hold: "_Hold") -> None:
        """Put the deadline off for as long as a server says that the node is ours."""
        while not hold.lost:
            await self._clock.sleep(self._believed_s / 4)
            asked = self._clock.ticks()
            with suppress(Unavailable, NodeExistsError, NoNodeError):
                if await self._is_mine(path):
                    hold.until = asked + self._believed_s
                else:
                    hold.lost = True

    async def _is_mine(self, path: str) -> bool | None:
        """Whether this session made the node; None if there is none."""
        stat = await self._ask(self._client.exists_async(path))
        session = self._client.client_id
        return None if stat is None else session is not None and stat.ephemeralOwner == session[0]

    def _clear(self, path: str) -> None:
        self._litter.add(path)
        if self._up:
            self._begin(self._remove(path))

    async def _remove(self, path: str) -> None:
        """Take our node away, now or when the servers are back; another's stays."""
        if path.rpartition("/")[2] in self._held and not self._held[path.rpartition("/")[2]].lost:
            return
        with suppress(Unavailable, NoNodeError):
            if await self._is_mine(path):
                await self._ask(self._client.delete_async(path))
            self._litter.discard(path)

    # ------------------------------------------------------------------------------------------------- the wake

    def _tell(self) -> None:
        self._telling, position = True, self._told
        self._then(
            self._client.set_async(self._wake, b"%d" % position), lambda result: self._has_told(result, position)
        )

    def _has_told(self, result: Any, position: int) -> None:
        self._telling = False
        if isinstance(result.exception, NoNodeError):
            self._then(self._client.create_async(self._wake, b"%d" % position, self._acl, makepath=True), _ignored)
        elif result.successful() and self._told > position and self._up:
            self._tell()

    def _watch(self) -> None:
        """Read the node and hear of its next change; what fails for want of a connection is done when there is one."""
        self._then(self._client.get_async(self._wake, watch=self._changed), self._has_read)

    def _has_read(self, result: Any) -> None:
        if isinstance(result.exception, NoNodeError):
            made = self._client.create_async(self._wake, b"0", self._acl, makepath=True)
            self._then(made, lambda made: self._watch() if _exists(made) else None)
        elif result.successful() and _number(result.value[0]) > self._told:
            self._hear()

    def _hear(self) -> None:
        for heard in self._heard:
            heard()

    @property
    def _wake(self) -> str:
        return f"{self._path}/wake"

    def _changed(self, event: Any) -> None:
        """Called by kazoo's thread."""
        del event
        self._later(self._watch)

    # ---------------------------------------------------------------------------------------------- the session

    def _state(self, state: str) -> None:
        """Called by kazoo's thread: nothing here may block."""
        self._up = state == KazooState.CONNECTED
        if state == KazooState.LOST:
            for hold in list(self._held.values()):
                hold.lost = True
        self._later(self._changed_to, state)

    def _changed_to(self, state: str) -> None:
        log.info("zookeeper_session", state=state.lower())
        if state != KazooState.CONNECTED:
            self._connected.clear()
            return
        self._connected.set()
        self._telling = False
        for path in self._litter:
            self._begin(self._remove(path))
        if self._heard:
            self._watch()
            self._hear()  # something may have been missed

    async def _reached(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._connected.wait()
        except TimeoutError:
            raise Unavailable(_AWAY) from None

    async def _ask(self, asked: Any) -> Any:
        """What the servers answer. Raises NodeExistsError, NoNodeError, or Unavailable."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._then(asked, lambda result: None if future.done() else future.set_result(result))
        try:
            async with asyncio.timeout(ANSWER_S):
                result = await future
        except TimeoutError:
            raise Unavailable(_AWAY) from None
        if isinstance(result.exception, NodeExistsError | NoNodeError):
            raise result.exception
        if isinstance(result.exception, NoAuthError | AuthFailedError):
            raise Unavailable(f"ZooKeeper does not let this controller use {self._path}: another user made it.")
        if isinstance(result.exception, KazooException):
            raise Unavailable(_AWAY)
        return result.get_nowait()

    def _then(self, asked: Any, answered: Callable[[Any], None]) -> None:
        """Call this on the event loop with what comes of it."""
        asked.rawlink(lambda result: self._later(answered, result))

    def _later(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Hold:
    """True while the node is ours for certain: connected, not lost, and confirmed by a server lately."""

    def __init__(self, connected: Callable[[], bool], clock: Clock) -> None:
        self.lost = False
        self.until = float("-inf")
        self._connected = connected
        self._clock = clock

    def __bool__(self) -> bool:
        return not self.lost and self._connected() and self._clock.ticks() < self.until


def _exists(made: Any) -> bool:
    return made.successful() or isinstance(made.exception, NodeExistsError)


def _number(data: bytes) -> int:
    return int(data) if data.isdigit() else 0


def _ignored(result: Any) -> None:
    del result
