"""A session with a Cassandra cluster, for asyncio: deadlines, a breaker, and errors that say what is known.

Its threads hand results over in bursts; nothing is ever repeated here.
Source: docs/data-model.md; https://docs.datastax.com/en/developer/python-driver/latest/
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import structlog
from cassandra import ConsistencyLevel
from cassandra.cluster import NoHostAvailable
from cassandra.query import BatchStatement, BatchType, SimpleStatement

from regional_keystone.adapters.cassandra_connect import (
    DRIVERS,
    FROM_SERVER,
    RECONNECT_S,
    Missed,
    Refused,
    connect,
    explained,
    level,
    next_page,
    said,
)
from regional_keystone.errors import StoreRefused, Unavailable, Unknown
from regional_keystone.settings import Cassandra

log = structlog.get_logger("cassandra")

Statement = tuple[str, Sequence[Any]]
"""CQL and the values of its marks."""

UNDER_WAY = 16  # writes of one `change` that are sent and not answered: more only wait longer in the nodes
_ALL_UNDER_WAY = 8192  # of one session; more are refused rather than queued where no deadline sees them
_GROWN_ROWS = 500  # of a later page, where the first was asked to be smaller
_MISSES = 3  # deadlines missed, with no answer to anything meanwhile, that open the breaker
_PROBE_S = 0.5
_DOUBT_S = 0.3  # a node that lives answers a question about itself by then
_DEFINE_S = 30.0
_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Node(NamedTuple):
    """One node of the cluster as the session sees it; `up` is None for another data centre's."""

    address: str
    data_centre: str
    rack: str
    up: bool | None


@dataclass(slots=True)
class Counters:
    """What a session counts: `requests` sent, their `answers`, which took `seconds` in all, and `errors` by kind.

    `within` is, for each bound of `BUCKETS_S`, how many answers took at most so long.
    """

    BUCKETS_S: ClassVar[tuple[float, ...]] = _BUCKETS_S

    requests: int = 0
    answers: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    within: list[int] = field(default_factory=lambda: [0] * len(_BUCKETS_S))
    breaker_open: bool = False
    breaker_opened: int = 0

    def answered(self, seconds: float) -> None:
        """One request has got an answer, good or bad, after so long."""
        self.answers += 1
        self.seconds += seconds
        for place in range(len(_BUCKETS_S) - 1, -1, -1):
            if seconds > _BUCKETS_S[place]:
                break
            self.within[place] += 1

    def told(self) -> dict[float, int]:
        """How many answers took at most so long, by bound."""
        return dict(zip(self.BUCKETS_S, self.within, strict=True))


@dataclass(slots=True, eq=False)
class _Asked:
    """One request on its way."""

    answer: "asyncio.Future[Any]"
    purpose: str  # plain, decision or definition
    began: float
    sent: Any = None
    error: Any = None
    rows: Any = None
    expiry: asyncio.TimerHandle | None = None


class _Breaker:
    """Closed until several deadlines are missed in silence; then everything is refused at once until one answer.

    What was missed may have needed other data centres: so the node itself is asked first whether it lives.
    """

    def __init__(self, counters: Counters, silence_s: float, probe: Callable[[], None]) -> None:
        self._counters = counters
        self._silence_s = silence_s
        self._probe = probe
        self._misses = 0
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def check(self) -> None:
        """Raise Unavailable while open."""
        if self._counters.breaker_open:
            self._counters.errors["breaker"] += 1
            raise Unavailable("The store does not answer.")

    def answered(self) -> None:
        """A node has said something."""
        self._misses, self._heard = 0, self._loop.time()
        if self._counters.breaker_open:
            self._counters.breaker_open = False
            self.close()
            log.info("store_answers_again")

    def missed(self) -> None:
        """A deadline has passed."""
        self._misses += 1
        silent = self._loop.time() - self._heard >= self._silence_s
        if self._misses >= _MISSES and silent and self._timer is None:
            self._timer = self._loop.call_later(_DOUBT_S, self._judge, self._heard)
            self._probe()

    def _judge(self, heard: float) -> None:
        """Open, unless the node has said something since it was doubted."""
        self._timer = None
        if self._heard > heard or self._counters.breaker_open:
            return
        self._counters.breaker_open = True
        self._counters.breaker_opened += 1
        log.warning("store_is_silent", missed=self._misses, now="requests are refused until it answers")
        self._again()

    def close(self) -> None:
        """Ask no more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = self._loop.call_later(_PROBE_S, self._again)
        self._probe()


class Driver:
    """A session: one keyspace, one local data centre, one event loop. Open it in the process that uses it."""

    def __init__(self, section: Cassandra, cluster: Any, session: Any, threads: ThreadPoolExecutor) -> None:
        """Use `open`."""
        self.data_centre = section.local_data_centre
        self.keyspace = section.keyspace
        self.metrics = Counters()
        self._timeout_s = section.request_timeout_s
        self._cluster = cluster
        self._session = session
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._breaker = _Breaker(self.metrics, section.request_timeout_s / 2, self._probe)
        self._prepared: dict[str, Any] = {}
        self._preparing: dict[str, asyncio.Task[Any]] = {}
        self._arrived: deque[_Asked] = deque()
        self._awake = False
        self._under_way = 0
        self._definer: Any = None
        self._told: set[str] = set()
        self._closed = False

    @classmethod
    async def open(cls, section: Cassandra, *, keyspace: bool = True) -> "Driver":
        """Connect within the local data centre. Raises StoreRefused, naming the cure, or Unavailable.

        Without `keyspace` none is needed yet: that is how the first one is made.
        """
        threads = ThreadPoolExecutor(4, "cassandra")
        loop = asyncio.get_running_loop()
        try:
            cluster, session = await loop.run_in_executor(threads, connect, section, keyspace)
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return cls(section, cluster, session, threads)

    async def run(
        self,
        cql: str,
        values: Sequence[Any] = (),
        *,
        consistency: str = "LOCAL_QUORUM",
        timeout_s: float | None = None,
    ) -> list[tuple[Any, ...]]:
        """All rows of an idempotent statement, prepared once. Raises Unavailable."""
        bound = await self._bind(cql, values, consistency)
        found: list[tuple[Any, ...]] = []
        page: Any = None
        while True:
            asked = self._send(bound, timeout_s, page=page)
            rows = await asked.answer
            page = next_page(asked.sent, rows)
            if page is None:
                return found + rows if found else rows or []
            found += rows

    async def pages(
        self, cql: str, values: Sequence[Any] = (), *, consistency: str = "LOCAL_QUORUM", page_rows: int = 500
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows of a statement in pages, each asked for when the one before has been used. Raises Unavailable.

        The first has `page_rows`; small ones grow, since whoever asks again found in them not what it wanted.
        """
        bound = await self._bind(cql, values, consistency)
        bound.fetch_size = page_rows
        page: Any = None
        while True:
            asked = self._send(bound, page=page)
            rows = await asked.answer
            if rows:
                yield rows
            page = next_page(asked.sent, rows)
            if page is None:
                return
            bound.fetch_size = max(page_rows, min(2 * bound.fetch_size, _GROWN_ROWS))

    async def change(self, statements: Iterable[Statement], *, consistency: str = "LOCAL_QUORUM") -> None:
        """Many idempotent writes, at most UNDER_WAY at once. All have succeeded, or it raises Unavailable."""
        waiting: deque[_Asked] = deque()
        try:
            for cql, values in statements:
                bound = await self._bind(cql, values, consistency)
                while len(waiting) >= UNDER_WAY:
                    await waiting.popleft().answer
                waiting.append(self._send(bound))
            while waiting:
                await waiting.popleft().answer
        finally:
            for asked in waiting:
                asked.answer.cancel()
                _noticed(asked.answer)

    async def decide(
        self, statements: Sequence[Statement], *, serial: str = "SERIAL", commit: str = "QUORUM"
    ) -> tuple[bool, list[dict[str, Any]]]:
        """One conditional batch in one partition; whether it was applied, and else the rows that were in the way.

        Raises Unavailable when surely nothing was done, and Unknown when it may have been, or may still be.
        """
        prepared = [(await self._prepare(cql), values) for cql, values in statements]
        if len(prepared) == 1:
            decision = prepared[0][0].bind(prepared[0][1])
        else:
            decision = BatchStatement(BatchType.UNLOGGED)
            for statement, values in prepared:
                decision.add(statement, values)
        decision.consistency_level = level(commit)
        decision.serial_consistency_level = level(serial)
        rows = await self._send(decision, purpose="decision").answer or []
        applied = all(row.pop("[applied]", True) for row in rows)
        return applied, [] if applied else rows

    async def define(self, cql: str) -> None:
        """Change the schema, always through one node; `agreed` waits for the others. Raises StoreRefused, Unavailable.

        Roles and grants are changed by this as well. The statement is not prepared and must be safe to repeat.
        """
        host = self._coordinator()
        try:
            await self._send(SimpleStatement(cql), _DEFINE_S, purpose="definition", host=host).answer
        except Unavailable:
            self._definer = None
            raise

    async def agreed(self, timeout_s: float = _DEFINE_S) -> None:
        """Return once all nodes that are up have the same schema. Raises Unavailable, naming those that have not."""
        until = self._loop.time() + timeout_s
        while differing := await self._differing():
            if self._loop.time() > until:
                raise Unavailable(f"Nodes do not agree about the schema: {', '.join(differing)}.")
            await asyncio.wait([self._loop.create_future()], timeout=0.1)

    def nodes(self) -> list[Node]:
        """Every node of the cluster that is known here."""
        hosts = self._cluster.metadata.all_hosts()
        return sorted(Node(host.address, host.datacenter or "", host.rack or "", host.is_up) for host in hosts)

    async def run_on_each(self, cql: str) -> dict[str, list[tuple[Any, ...]] | Unavailable]:
        """The rows of a statement without values on each node of the local data centre, or why there are none."""
        found: dict[str, list[tuple[Any, ...]] | Unavailable] = {}
        for host in self._local_hosts():
            try:
                statement = SimpleStatement(cql, consistency_level=ConsistencyLevel.ONE)
                found[host.address] = await self._send(statement, host=host).answer or []
            except Unavailable as error:
                found[host.address] = error
        return found

    async def close(self) -> None:
        """End the session and its threads."""
        self._closed = True
        self._breaker.close()
        await self._loop.run_in_executor(self._threads, self._cluster.shutdown)
        self._threads.shutdown(wait=False)

    async def _bind(self, cql: str, values: Sequence[Any], consistency: str) -> Any:
        prepared = self._prepared.get(cql) or await self._prepare(cql)
        bound = prepared.bind(values)
        bound.consistency_level = level(consistency)
        return bound

    async def _prepare(self, cql: str) -> Any:
        """The statement, prepared by whoever asks first. One that is cancelled leaves the others waiting for it."""
        if cql in self._prepared:
            return self._prepared[cql]
        self._check()
        task = self._preparing.get(cql)
        if task is None:
            task = self._preparing[cql] = self._loop.create_task(self._prepare_now(cql))
            task.add_done_callback(_noticed)  # whoever asked may have gone
        return await asyncio.shield(task)

    async def _prepare_now(self, cql: str) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                prepared = await self._loop.run_in_executor(self._threads, self._prepare_blocking, cql)
        except TimeoutError:
            self._breaker.missed()
            raise self._refusal(Missed(), "plain") from None
        except DRIVERS as error:
            raise self._refusal(error, "plain") from None
        finally:
            self._preparing.pop(cql, None)
        self._prepared[cql] = prepared
        return prepared

    def _prepare_blocking(self, cql: str) -> Any:
        """Twice, if the driver has just lost its connections: it has others within half a second."""
        try:
            return self._session.prepare(cql)
        except NoHostAvailable:
            time.sleep(RECONNECT_S)
            return self._session.prepare(cql)

    def _send(
        self,
        statement: Any,
        timeout_s: float | None = None,
        *,
        purpose: str = "plain",
        page: Any = None,
        host: Any = None,
    ) -> _Asked:
        """A request on its way, with a deadline of its own. Raises Unavailable when it cannot even be sent."""
        self._check()
        asked = self._send_now(statement, purpose, page, host)
        asked.expiry = self._loop.call_later(timeout_s or self._timeout_s, self._expired, asked)
        return asked

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("The session with the store has ended.")
        self._breaker.check()
        if self._under_way >= _ALL_UNDER_WAY:
            raise Unavailable("Too much is asked of the store at once.")

    def _send_now(self, statement: Any, purpose: str, page: Any = None, host: Any = None) -> _Asked:
        asked = _Asked(self._loop.create_future(), purpose, self._loop.time())
        self._under_way += 1
        self.metrics.requests += 1
        profile = "decisions" if purpose == "decision" else "rows"
        asked.sent = self._session.execute_async(
            statement, timeout=None, execution_profile=profile, paging_state=page, host=host
        )  # without a timeout: the driver's own goes by the wall clock
        given = (asked,)
        asked.sent.add_callbacks(self._succeeded, self._failed, callback_args=given, errback_args=given)
        return asked

    def _succeeded(self, rows: Any, asked: _Asked) -> None:
        asked.rows = rows
        self._hand_over(asked)

    def _failed(self, error: Any, asked: _Asked) -> None:
        asked.error = error
        self._hand_over(asked)

    def _hand_over(self, asked: _Asked) -> None:
        """Called by the driver's threads: one wake-up for all that arrives before the loop turns to it."""
        self._arrived.append(asked)
        if not self._awake:
            self._awake = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        self._awake = False
        while self._arrived:
            asked = self._arrived.popleft()
            self._under_way -= 1
            if asked.expiry:
                asked.expiry.cancel()
            if asked.error is None or isinstance(asked.error, FROM_SERVER):
                self._breaker.answered()
                self.metrics.answered(self._loop.time() - asked.began)
            if asked.answer.done():
                continue
            if asked.error is None:
                asked.answer.set_result(asked.rows)
            else:
                asked.answer.set_exception(self._refusal(asked.error, asked.purpose, asked.sent))

    def _expired(self, asked: _Asked) -> None:
        self._breaker.missed()
        if not asked.answer.done():
            asked.answer.set_exception(self._refusal(Missed(), asked.purpose, asked.sent))

    def _probe(self) -> None:
        asked = self._send_now(SimpleStatement("SELECT key FROM system.local"), "plain")
        asked.answer.add_done_callback(_noticed)

    def _refusal(self, error: Any, purpose: str, sent: Any = None) -> Exception:
        """What leaves this module instead of a driver's error."""
        kind, sentence = explained(error, self.data_centre)
        self.metrics.errors[kind] += 1
        operators = kind in {"unauthorized", "invalid"}
        if operators and purpose == "definition":
            return StoreRefused(said(error))
        if operators and sentence not in self._told:
            self._told.add(sentence)
            log.error("store_refuses_a_statement", why=sentence)
        if operators:
            return Refused(sentence)
        unsent = kind == "rights" or (kind == "unreachable" and sent is not None and not sent.attempted_hosts)
        if purpose == "decision" and not unsent:
            return Unknown(f"{sentence} {Unknown.default}")
        return Unavailable(sentence)

    def _local_hosts(self) -> list[Any]:
        hosts = [host for host in self._cluster.metadata.all_hosts() if host.datacenter == self.data_centre]
        return sorted(hosts, key=lambda host: str(host.address))

    def _coordinator(self) -> Any:
        if self._definer is None or not self._definer.is_up:
            self._definer = next((host for host in self._local_hosts() if host.is_up), None)
        if self._definer is None:
            raise Unavailable(f"No node of data centre {self.data_centre} can be reached.")
        return self._definer

    async def _differing(self) -> list[str]:
        """The nodes whose schema is another than that of the node that changes it."""
        host = self._coordinator()
        down = {node.address for node in self.nodes() if node.up is False}
        here = await self._send(SimpleStatement("SELECT schema_version FROM system.local"), host=host).answer
        peers = SimpleStatement("SELECT rpc_address, schema_version FROM system.peers")
        found = await self._send(peers, host=host).answer or []
        return sorted(str(address) for address, version in found if str(address) not in down and version != here[0][0])


def _noticed(done: "asyncio.Future[Any]") -> None:
    """Take the outcome of what nobody waits for."""
    if not done.cancelled():
        done.exception()
