"""The site's one outbound stream: entries and echoes in; acknowledgements, own revocations and forwarded changes out.

Opened by the site, through NAT and firewalls; several controllers are listed, the next is tried.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from regional_keystone.bundle import Seen
from regional_keystone.catching_up import take_up
from regional_keystone.enrol import CAS, Identity
from regional_keystone.errors import StoreRefused, Unavailable, outlived
from regional_keystone.follow import Follower
from regional_keystone.issue_counts import Issues
from regional_keystone.messages import (
    VERSION,
    Acknowledge,
    Answer,
    Ask,
    Compare,
    Compared,
    Convergence,
    Echo,
    Entries,
    Forward,
    Hello,
    Offer,
    Own,
    Probe,
    Refused,
    Request,
    Response,
    Rows,
    ToController,
    Told,
    ToSite,
    Welcome,
    at_site,
    encode,
)
from regional_keystone.model import Condemned, RevocationEvent
from regional_keystone.own_feed import OwnFeed, portion
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import decode

log = structlog.get_logger("link")

PROBE_S = 1.0
PAUSE_S = 0.4  # between attempts, on average, at the most: a controller that is back is found within a second
SILENCE_S = 5.0  # a controller that says nothing for so long is taken for dead
FORWARD_S = 8.0
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_CLOSE_S = 1.0  # who does not say good-bye by then is left
_OFFER_S = 5.0  # between offers of the same signing key
_OWN_BATCH = 200
_OWN_BYTES = 256 * 1024
_AWAY = "The controller cannot be reached from this region, so nothing can change now; reading and validating go on."
_REFUSED = "The controller refuses this region ({why}), so nothing can change here; an operator has to act."
_REMIND_S = 60.0
_BREAKS = (aiohttp.ClientError, OSError, TypeError, ValueError, Unavailable)


@dataclass(slots=True)
class _Connection:
    socket: aiohttp.ClientWebSocketResponse
    heard_ticks: float
    own_sent: int = 0
    offered: bytes = b""
    offered_ticks: float = 0.0
    cas: int = 0


class Link:
    """Keeps the stream up, whatever happens; everything that waits for an answer is bounded in time."""

    def __init__(
        self,
        *,
        identity: Identity,
        controllers: Sequence[str],
        follower: Follower,
        own: OwnFeed,
        store: Writer,
        clock: Clock,
        skew_s: float,
    ) -> None:
        self.connected_since: int | None = None
        self.reconnects = 0
        self.refused: str | None = None
        self._identity = identity
        self._controllers = list(controllers)
        self._follower = follower
        self._own = own
        self._store = store
        self._clock = clock
        self._skew_us = int(skew_s * 1_000_000)
        self._connection: _Connection | None = None
        self._waiting: dict[str, tuple[Request, asyncio.Future[Response]]] = {}
        self._asked: dict[int, asyncio.Future[Compared | Told]] = {}
        self._speak = asyncio.Event()
        self._apart = False
        self.held: Callable[[], tuple[int, dict[str, Seen]]] = self._held
        self.issued: Callable[[], Issues] = follower.issues.told
        self.snapshot_begins: Callable[[], None] = _nothing  # before any of its rows counts
        self.answered: Callable[[], Awaitable[None]] = _answered  # before a snapshot replaces what was there
        self._signatory = follower.signatory
        self._complained: dict[str, tuple[str, float]] = {}
        follower.progress = self._speak.set
        own.sent = self._speak.set

    async def forward(self, request: Request) -> Response:
        """What the controller answers. The request's id makes it safe to send again when the stream breaks meanwhile.

        Raises Unavailable at once when there is no stream, and after FORWARD_S when no answer has come.
        """
        if self._connection is None:
            raise Unavailable(_REFUSED.format(why=self.refused) if self.refused else _AWAY, retry_after_s=5)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = (request, future)
        try:
            async with asyncio.timeout(FORWARD_S):
                await self._say(Forward(request))
                return await future
        except TimeoutError:
            raise Unavailable(
                "The controller has not answered in time; the change may or may not have been made.", retry_after_s=5
            ) from None
        finally:
            self._waiting.pop(request.id, None)

    async def ask(self, question: Compare | Ask) -> Compared | Told | None:
        """What a controller answers; None for no answer within FORWARD_S, or no stream."""
        if self._connection is None:
            return None
        future: asyncio.Future[Compared | Told] = asyncio.get_running_loop().create_future()
        self._asked[question.id] = future
        try:
            async with asyncio.timeout(FORWARD_S):
                await self._say(question)
                return await future
        except TimeoutError:
            return None
        finally:
            self._asked.pop(question.id, None)

    async def tell(self, found: Convergence) -> None:
        """Let the controller know this, if there is a stream."""
        await self._say(found)

    async def run(self) -> None:
        """Connect, follow, and come back, for ever."""
        pause_s = 0.1
        while True:
            for controller in list(self._controllers):
                began = self._clock.ticks()
                why = await outlived(self._session(controller), *_BREAKS)
                if why is not None:
                    self._complain(controller, why)
                if self._clock.ticks() - began > 10 * PROBE_S:
                    pause_s = 0.1
            await self._clock.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311  no secret
            pause_s = min(pause_s * 1.5, PAUSE_S)

    def _complain(self, controller: str, why: str) -> None:
        """Say that there is no stream: at first, for a new reason, and each minute. Days of attempts fill no disk."""
        now, reason = self._clock.ticks(), re.sub("0x[0-9a-f]+", "", why)
        said, at = self._complained.get(controller, ("", 0.0))
        if reason != said or now - at >= _REMIND_S:
            self._complained[controller] = (reason, now)
            log.warning("stream_lost", controller=controller, why=why)

    async def _session(self, controller: str) -> None:
        # sock_read bounds the answer to the handshake; aiohttp takes it away once the stream is open
        timeout = aiohttp.ClientTimeout(total=None, connect=SILENCE_S, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        tls = self._identity.tls()
        url = f"{controller}/stream/v1"
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.ws_connect(
                url,
                ssl=tls,
                max_msg_size=MAX_MESSAGE_BYTES,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            ) as socket,
        ):
            await self._converse(socket, controller)

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse, controller: str) -> None:
        connection = _Connection(socket, self._clock.ticks())
        try:
            await self._greet(connection)
            self._open(connection, controller)
            await self._talk(connection, controller)
        finally:
            self._close(connection)

    async def _greet(self, connection: _Connection) -> None:
        member, rings = self._identity.membership(), self._follower.held | self._trusted()
        hello = Hello(
            version=VERSION,
            cluster=member.cluster,
            site=member.name,
            instance=member.instance,
            position=self._follower.position,
            epochs={name: seen.epoch for name, seen in rings.items()},
            rings={name: (seen.epoch, seen.fingerprint) for name, seen in rings.items() if seen.epoch},
        )
        await connection.socket.send_bytes(encode(hello))
        async with asyncio.timeout(SILENCE_S):
            message = at_site(await connection.socket.receive_bytes())
        if isinstance(message, Refused):
            log.error("stream_refused", why=message.reason, final=message.final)
            if message.final:
                self.refused = message.reason
                await self._clock.sleep(5 * PROBE_S)
            raise Unavailable(message.reason)
        if not isinstance(message, Welcome) or message.cluster != member.cluster:
            raise ValueError("the controller's first word is not a welcome of this federation")
        connection.cas = message.cas
        await self._follower.had(message.highest)
        if message.snapshot:
            async with asyncio.TaskGroup() as tasks:
                living = tasks.create_task(self._live(connection))
                await self._store_snapshot(connection)
                living.cancel()

    async def _live(self, connection: _Connection) -> None:
        """Say something while a snapshot is taken in, however long that takes: who is silent is cut off."""
        while True:
            await self._send(connection, Probe(self._clock.ticks(), self._clock.now()))
            await self._clock.sleep(PROBE_S)

    async def _store_snapshot(self, connection: _Connection) -> None:
        first = await self._rows(connection)
        if first.position < self._follower.position:
            raise ValueError("the snapshot is older than this replica")
        log.info("snapshot_begins", position=first.position)
        self.snapshot_begins()

        async def all_rows() -> AsyncIterator[tuple[str, tuple[object, ...], bytes]]:
            part = first
            while True:
                for row in part.rows:
                    if row[0] == "revocations":
                        await self._follower.brought(decode(RevocationEvent, row[2]))
                    elif row[0] == "condemned":
                        self._follower.condemn([decode(Condemned, row[2]).id])
                    yield row
                if part.last:
                    await self.answered()
                    return
                part = await self._rows(connection)

        await self._store.restore(first.position, all_rows())
        self._follower.issued.applied()
        await self._follower.start()
        log.info("snapshot_applied", position=first.position)

    async def _rows(self, connection: _Connection) -> Rows:
        message: ToSite | None = Echo(0, 0, 0)
        async with asyncio.timeout(4 * SILENCE_S):
            while isinstance(message, Echo):
                message = at_site(await connection.socket.receive_bytes())
        if not isinstance(message, Rows):
            raise ValueError("the snapshot breaks off")
        return message

    def _open(self, connection: _Connection, controller: str) -> None:
        connection.heard_ticks = self._clock.ticks()
        self._connection, self.connected_since, self.refused = connection, self._clock.now(), None
        self.reconnects += 1
        self._complained.clear()
        log.info("stream_open", controller=controller, position=self._follower.position)

    def _close(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection, self.connected_since = None, None

    async def _talk(self, connection: _Connection, controller: str) -> None:
        for request, _ in list(self._waiting.values()):
            await self._say(Forward(request))
        async with asyncio.TaskGroup() as tasks:
            talking = [
                tasks.create_task(self._probe(connection)),
                tasks.create_task(self._report(connection)),
                tasks.create_task(self._trust(connection, controller)),
            ]
            try:
                await self._listen(connection)
            finally:
                for task in talking:
                    task.cancel()

    async def _listen(self, connection: _Connection) -> None:
        async for raw in connection.socket:
            if raw.type is not aiohttp.WSMsgType.BINARY:
                raise ValueError("the controller speaks another protocol")
            connection.heard_ticks = self._clock.ticks()
            match at_site(raw.data):
                case Entries(entries=entries, head=head):
                    await take_up(self._follower.note, entries, self._clock)
                    log.debug("entries", position=self._follower.position, head=head)
                case Echo(ticks=ticks, head=head, now=now):
                    self._follower.heard(ticks, head, now)
                    self._compare(now - self._clock.now(), self._clock.ticks() - ticks)
                case Answer(id=request_id, response=response):
                    self._answered(request_id, response)
                case Compared() | Told() as told:
                    self._settle(told)
                case Refused(reason=reason):
                    self.refused = reason
                    raise ValueError(reason)
                case _:
                    continue

    def _answered(self, request_id: str, response: Response) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(response)

    def _settle(self, told: Compared | Told) -> None:
        waiting = self._asked.get(told.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(told)

    async def _probe(self, connection: _Connection) -> None:
        while True:
            if self._clock.ticks() - connection.heard_ticks > SILENCE_S:
                raise TimeoutError("the controller is silent")
            await self._send(connection, Probe(self._clock.ticks(), self._clock.now()))
            await self._offer(connection)
            await self._clock.sleep(PROBE_S)

    async def _offer(self, connection: _Connection) -> None:
        """Offer a signing key that no controller has made known yet."""
        offer, ticks = self._signatory.offer() if self._signatory else None, self._clock.ticks()
        if offer is None or (offer[0] == connection.offered and ticks - connection.offered_ticks < _OFFER_S):
            return
        connection.offered, connection.offered_ticks = offer[0], ticks
        await self._send(connection, Offer(*offer))

    async def _trust(self, connection: _Connection, controller: str) -> None:
        """Follow a turn of the CA: a fresh certificate, and with it those that count by now."""
        while self._identity.cas.epoch < connection.cas:
            await renewed(self._identity, [controller])
            self._speak.set()
            if self._identity.cas.epoch < connection.cas:
                await self._clock.sleep(_OFFER_S)

    def _trusted(self) -> dict[str, Seen]:
        """The CAs that are trusted here, once they have been turned."""
        seen = self._identity.cas
        return {CAS: seen} if seen.epoch else {}

    async def _report(self, connection: _Connection) -> None:
        """Tell, whenever there is something to tell: how far we are, and what we revoked ourselves."""
        self._speak.set()
        looked = False
        while True:
            await self._speak.wait()
            self._speak.clear()
            position, held = self.held()
            held = held | self._trusted()
            rings = {name: (seen.epoch, seen.fingerprint) for name, seen in held.items()}
            why = {name: one.why for name, one in self._follower.holders.items() if one.why}
            await self._send(connection, Acknowledge(position, rings, self.issued(), self._provider(), why))
            if not looked:  # from now on entries tell; before, a snapshot may have
                await self._own.returned()
                looked = True
            entries = portion(await self._own.after(connection.own_sent), _OWN_BATCH, _OWN_BYTES)
            if entries:
                await self._send(connection, Own(self._own.name, entries))
                connection.own_sent = entries[-1].number
                self._speak.set()

    def _provider(self) -> str:
        return "jws" if self._signatory is not None and self._signatory.signs else "fernet"

    def _held(self) -> tuple[int, dict[str, Seen]]:
        """What this process holds: how far its replica is, and its rings."""
        return self._follower.projected, self._follower.held

    def _compare(self, ahead_us: int, under_way_s: float) -> None:
        """Say so, loudly and once, when this machine's clock and the controller's are apart."""
        apart = abs(ahead_us) > self._skew_us + int(under_way_s * 1_000_000)
        if apart and not self._apart:
            log.error("clocks_apart", controller_ahead_s=round(ahead_us / 1_000_000, 1))
        self._apart = apart

    async def _say(self, message: ToController) -> None:
        if self._connection is not None:
            try:
                await self._send(self._connection, message)
            except (aiohttp.ClientError, OSError) as error:
                log.warning("stream_breaks", why=type(error).__name__)

    async def _send(self, connection: _Connection, message: ToController) -> None:
        await connection.socket.send_bytes(encode(message))


async def renewed(identity: Identity, controllers: Sequence[str]) -> None:
    """Renew the site's certificate now, or say loudly why not."""
    try:
        await identity.renew(controllers)
        log.info("certificate_renewed")
    except (Unavailable, StoreRefused, OSError) as error:  # a full disk among them
        log.error("certificate_not_renewed", why=str(error))


async def renew(identity: Identity, controllers: Sequence[str], clock: Clock) -> None:
    """Renew the site's certificate at half of its life, for ever; a failure is tried again soon and said loudly."""
    while True:
        if clock.now() >= identity.renewal_due_at():
            await renewed(identity, controllers)
        await clock.sleep(min(60.0, max(1.0, (identity.renewal_due_at() - clock.now()) / 1_000_000)))


def _nothing() -> None:
    """Nobody else has issued tokens here."""


async def _answered() -> None:
    """Nothing is waited for where nothing is answered."""
