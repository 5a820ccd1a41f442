"""Streams the log to sites; records what each has acknowledged.

One session per connected site, known by its certificate. Source: docs/feeds.md, "The stream".
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from controller.acknowledgements import Acknowledgements
from controller.authority import certified, identity
from controller.commit import Sequencer
from controller.late import Late
from controller.seldom import Seldom
from controller.take_over import Flood, Foreign, Gap, TakeOver
from regional_keystone.errors import IdentityError, TooLarge, Unavailable
from regional_keystone.log import LOG, Entry
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
    Told,
    ToSite,
    Welcome,
    at_controller,
    encode,
)
from regional_keystone.model import Site
from regional_keystone.overlay import Overlay
from regional_keystone.own_feed import portion
from regional_keystone.ports import Clock, Writer
from regional_keystone.settings import SecurityCompliance

log = structlog.get_logger("replicate")

SILENCE_S = 5.0
_ALIVE_S = 2.0  # a site probes once a second
BATCH = 256
ROWS = 500
RECENT = 4096
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
FORWARDS = 64  # forwarded requests of one site under way at once
MESSAGE_BYTES = 2 * 1024 * 1024  # of entries or rows in one message, well below what a site takes
_CLOSE_S = 1.0
_GAP_S = 5.0  # until a site is to send again what came without what is before it
_HELD_BACK_S = 60.0  # until a site may try again whose revocations are too many


@dataclass(slots=True, eq=False)
class Session:
    """One site's open stream."""

    site: str
    instance: str
    socket: web.WebSocketResponse
    sent: int
    heard_ticks: float
    more: asyncio.Event = field(default_factory=asyncio.Event)
    forwards: set[asyncio.Task[None]] = field(default_factory=set)
    forward_bytes: int = 0  # of the requests among them
    compares: bool = False  # one question at a time is answered
    held_back: bool = False  # its feed waits
    misses: bool = False  # entries of its feed came without those before them
    sender: asyncio.Task[None] | None = None
    highest: dict[str, int] = field(default_factory=dict)
    owed: bool = False  # entries of its own feed came and could not be taken by our clock

    def side(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside what the stream brings, and no longer than it lasts."""
        task = asyncio.create_task(work)
        self.forwards.add(task)
        task.add_done_callback(self.forwards.discard)


class Replicator:
    """Every entry down every open stream, at once; says how far each site is."""

    def __init__(
        self,
        *,
        cluster: str,
        store: Writer,
        overlay: Overlay,
        sequencer: Sequencer,
        acknowledgements: Acknowledgements,
        clock: Clock,
        keep_s: float,
        rules: SecurityCompliance | None = None,
    ) -> None:
        """`keep_s`, `rules`: as `TakeOver` has them."""
        self.sessions: dict[str, Session] = {}
        self.acknowledgements = acknowledgements
        self.answer: Callable[[Request], Awaitable[Response]] = _nobody
        self.heard: Callable[[str], None] = _unheard  # is told when a site acknowledged something
        self.greeted: Callable[[Hello], Coroutine[Any, Any, None]] = _ungreeted  # is told what a site holds that comes
        self.offered: Callable[[str, Offer], Awaitable[None]] = _unwanted  # is told when a site offers a signing key
        self.compare: Callable[[Compare | Ask], Awaitable[Compared | Told]] = _unable  # says what lies in our tables
        self.converged: Callable[[str, Convergence], None] = _unheeded  # is told what a site found in comparing
        self.late = Late(clock, 0, lambda _: False)  # what sites' clocks say of ours; at first nothing
        self.cas = 0  # the number of the CAs that count
        self._cluster = cluster
        self._store = store
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._say_of = Seldom(clock)
        self.taking = TakeOver(overlay=overlay, sequencer=sequencer, clock=clock, keep_s=keep_s, rules=rules)
        self._recent: deque[Entry] = deque(maxlen=RECENT)
        self._parting: set[asyncio.Task[None]] = set()
        sequencer.publish = self.publish
        acknowledgements.hears = self._hears

    def publish(self, entries: Sequence[Entry]) -> None:
        """These are the log's newest; every session sends them at its next turn. None: the head has moved without."""
        if not entries or (self._recent and self._recent[-1].number != entries[0].number - 1):
            self._recent.clear()
        self._recent.extend(entries)
        for session in self.sessions.values():
            session.more.set()

    def holdouts(self, sites: Sequence[Site], ring: str, epoch: int, fingerprint: str) -> list[str]:
        """Which of these sites have not acknowledged holding this ring durably."""
        wanted = (epoch, fingerprint)
        return [site.id for site in sites if self.acknowledgements.of(site).rings.get(ring) != wanted]

    async def drop(self, site: str, reason: str, *, final: bool = True) -> None:
        """End a site's stream now; telling it why is not waited for."""
        session = self.sessions.pop(site, None)
        if session is not None:
            self.acknowledgements.left(site)
            if session.sender is not None:
                session.sender.cancel()
            task = asyncio.create_task(self._refuse(session.socket, site, reason, final=final))
            self._parting.add(task)
            task.add_done_callback(self._parting.discard)

    async def forget(self, site: str, reason: str) -> None:
        """End a site's stream and forget what it acknowledged: it is another one now, or none."""
        await self.drop(site, reason)
        await self.acknowledgements.forget(site)

    async def review(self, sites: Sequence[Site]) -> None:
        """End the streams of sites that were removed, or have joined anew, at whichever controller."""
        instances = {site.id: site.instance for site in sites if site.state != "removed"}
        for session in list(self.sessions.values()):
            if session.site not in instances:
                await self.forget(session.site, "this site was removed")
            elif instances[session.site] != session.instance:
                await self.drop(session.site, "another instance of this site has joined since")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The handler of /stream/v1."""
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        await socket.prepare(request)
        await self.converse(socket, certified(request))
        return socket

    async def converse(self, socket: web.WebSocketResponse, certificate: str | None) -> None:
        """Serve the site at the other end of this socket, whose certificate says this, until the stream ends."""
        try:
            async with asyncio.timeout(SILENCE_S):
                hello = at_controller(await socket.receive_bytes())
        except (TypeError, ValueError, TimeoutError):
            await socket.close(code=WSCloseCode.PROTOCOL_ERROR)
            return
        try:
            await self._sequencer.catch_up()  # the site may have joined at another controller, just now
            reason = await self._why_not(hello, certificate)
        except Unavailable:
            await self._refuse(socket, certificate or "", "the log cannot be read now", final=False)
            return
        if reason is not None or not isinstance(hello, Hello):
            await self._refuse(socket, certificate or "", reason or "the first word is a Hello", final=True)
            return
        await self._serve(socket, hello, certificate)

    async def _why_not(self, hello: object, certificate: str | None) -> str | None:
        """Why this site may not have a stream; None when it may."""
        if certificate is None:
            return "a client certificate of this federation is required"
        if not isinstance(hello, Hello):
            return "the first word is a Hello"
        if hello.cluster != self._cluster:
            return "this is another federation"
        if certificate != identity(hello.cluster, hello.site, hello.instance):
            return "the certificate is of another site"
        if abs(hello.version - VERSION) > 1:
            return f"protocol version {hello.version} is more than one away from {VERSION}; upgrade the older side"
        record = await self._overlay.get(Site, hello.site)
        if record is None or record.state == "removed":
            return "this site was removed"
        if record.state == "invited":
            return "this site was invited anew: remove identity/membership in its state directory, so that it joins"
        if record.instance != hello.instance:
            return "another instance of this site has joined since"
        if hello.position > self._sequencer.head:
            return "this site is ahead of the log: the controller was restored from an older state, see docs/operate.md"
        return None

    async def _serve(self, socket: web.WebSocketResponse, hello: Hello, certificate: str | None) -> None:
        await self.drop(hello.site, "a newer stream of this site has opened")
        session = Session(hello.site, hello.instance, socket, hello.position, self._clock.ticks())
        self.sessions[hello.site] = session
        try:
            if (reason := await self._why_not(hello, certificate)) is not None:  # removed while it was let in
                await self.drop(hello.site, reason)
                return
            session.highest = await self.acknowledgements.compare(hello)
        except Unavailable as error:
            self._say_of(log.error, "acknowledgements_not_readable", hello.site, why=error.message)
            await self.drop(hello.site, "what this site has acknowledged cannot be read now", final=False)
            return
        if self.sessions.get(hello.site) is not session:  # dropped meanwhile, by a newer stream or by a removal
            if hello.site not in self.sessions:
                self.acknowledgements.left(hello.site)
            return
        self._say_of(log.info, "site_connected", session.site, site=session.site, position=hello.position)
        session.side(self.greeted(hello))
        session.sender = sender = asyncio.create_task(self._send_to(session))
        watch = asyncio.create_task(self._watch(session))
        try:
            await self._listen(session)
        finally:
            for task in (sender, watch, *session.forwards):
                task.cancel()
            await asyncio.gather(sender, watch, *session.forwards, return_exceptions=True)
            self._forget(session)
            self._say_of(log.info, "site_disconnected", session.site, site=session.site)

    async def _listen(self, session: Session) -> None:
        async for raw in session.socket:
            if self.sessions.get(session.site) is not session:
                return  # dropped; what it says no longer counts
            session.heard_ticks = self._clock.ticks()
            if raw.type is not WSMsgType.BINARY:
                break
            try:
                message = at_controller(raw.data)
            except ValueError:
                await self._refuse(session.socket, session.site, "that is no message", final=True)
                return
            await self._hear(session, message)

    async def _hear(self, session: Session, message: object) -> None:
        match message:
            case Probe(ticks=ticks, now=now):
                self.late.heard(session.site, now)
                await self._echo(session, ticks)
            case Acknowledge():
                await self._note(session, message)
            case Offer():
                await self.offered(session.site, message)
            case Own(feed=feed, entries=entries):
                await self._take_over(session, feed, entries)
            case Compare() | Ask() if not session.compares:
                session.compares = True
                session.side(self._compare(session, message))
            case Convergence():
                self.converged(session.site, message)
            case Forward(request=request) if self._has_room(session, request):
                session.side(self._answer(session, request))
            case Forward(request=request):
                busy = Response(status=503, headers={"Retry-After": "1"})
                await self._say(session, Answer(request.id, busy))
            case _:
                return

    async def _note(self, session: Session, message: Acknowledge) -> None:
        if message.position > self._sequencer.head:  # a site that reads the log in its data centre may be ahead of us
            with suppress(Unavailable):
                await self._sequencer.catch_up()
        if not 0 <= message.position <= self._sequencer.head:
            self._say_of(
                log.error, "impossible_acknowledgement", session.site, site=session.site, position=message.position
            )
            return
        if self.sessions.get(session.site) is not session:
            return  # dropped meanwhile: the site speaks elsewhere, and this would stand against it for ever
        self.acknowledgements.note(session.site, session.instance, message)
        self.heard(session.site)

    async def _echo(self, session: Session, ticks: float) -> None:
        """The head of the log, read after the probe arrived: another controller may have appended."""
        try:
            await self._sequencer.catch_up()
        except Unavailable as error:
            self._say_of(log.error, "log_not_readable", session.site, why=error.message)
            return
        await self._say(session, Echo(ticks, self._sequencer.head, self.late.now()))

    def _has_room(self, session: Session, request: Request) -> bool:
        """Whether this request may be under way as well, by number and by what all of them take in memory."""
        return len(session.forwards) < FORWARDS and session.forward_bytes + _size_bytes(request) <= MAX_MESSAGE_BYTES

    async def _answer(self, session: Session, request: Request) -> None:
        size_bytes = _size_bytes(request)
        session.forward_bytes += size_bytes
        try:
            await self._answer_within(session, request)
        finally:
            session.forward_bytes -= size_bytes

    async def _answer_within(self, session: Session, request: Request) -> None:
        # a site's requests live in a name space of their own, so none can find or take another's outcome
        try:
            response = await self.answer(msgspec.structs.replace(request, id=f"{session.site}/{request.id}"))
        except IdentityError as error:
            response = Response(status=error.status)
        await self._say(session, Answer(request.id, response))

    async def _compare(self, session: Session, question: Compare | Ask) -> None:
        try:
            await self._say(session, await self.compare(question))
        except Unavailable as error:
            log.warning("not_compared", site=session.site, why=error.message)
        finally:
            session.compares = False

    async def _take_over(self, session: Session, feed: str, entries: Sequence[Entry]) -> None:
        if (why := self.late.why_not()) is not None:  # what the site dated right would be cut to our clock
            session.owed = True
            self._say_of(log.error, "own_feed_not_taken", session.site, feed=feed[:200], why=why)
            return
        if session.owed or session.held_back:
            return  # it comes again, after what could not be taken before
        try:
            await self.taking.take(session.site, feed, entries)
        except Gap:  # what is missing may still come, too late
            if not session.misses:
                session.misses = True
                session.side(self._end(session, _GAP_S))
        except Flood:
            session.held_back = True
            session.side(self._end(session, _HELD_BACK_S))
        except Unavailable as error:
            self._say_of(log.error, "own_feed_not_taken", session.site, feed=feed, why=str(error))
            await self._close(session)  # it comes again with the same entries
        except (TooLarge, ValueError) as error:
            self._say_of(log.error, "own_feed_refused", session.site, feed=feed[:200], why=str(error)[:200])
            reason = "that feed is not this site's" if isinstance(error, Foreign) else "that cannot be taken over"
            await self._refuse(session.socket, session.site, reason, final=True)

    async def _end(self, session: Session, pause_s: float) -> None:
        """What was not taken waits at the site: it comes again after a while, with all that is left."""
        await self._clock.sleep(pause_s)
        await self._close(session)

    async def _send_to(self, session: Session) -> None:
        try:
            await self._send_all(session)
        except Unavailable as error:
            self._say_of(log.error, "log_not_readable", session.site, why=error.message)
        await self._close(session)  # it comes again, here or to another controller

    async def _send_all(self, session: Session) -> None:
        """Welcome, a snapshot if the log no longer reaches back, then every entry as it comes."""
        head = self._sequencer.head  # before it is looked whether the log reaches back, or what comes now looks missing
        behind = session.sent < head and not await self._store.tail(LOG, session.sent, 1)
        await self._say(
            session, Welcome(VERSION, self._cluster, head, snapshot=behind, highest=session.highest, cas=self.cas)
        )
        if behind:
            await self._send_snapshot(session)
        while True:
            while session.sent < self._sequencer.head:
                entries = await self._next(session.sent)
                if not entries:
                    return  # pruned under its feet: it comes again and gets a snapshot
                await self._say(session, Entries(entries, self._sequencer.head))
                session.sent = entries[-1].number
            session.more.clear()
            await session.more.wait()

    async def _next(self, after: int) -> tuple[Entry, ...]:
        if self._recent and self._recent[0].number <= after + 1:
            start = after + 1 - self._recent[0].number
            entries = [self._recent[place] for place in range(start, min(start + BATCH, len(self._recent)))]
        else:
            entries = await self._store.tail(LOG, after, BATCH)
        return portion(entries, BATCH, MESSAGE_BYTES)

    async def _send_snapshot(self, session: Session) -> None:
        async with self._store.snapshot() as snapshot:
            part: list[tuple[str, tuple[Any, ...], bytes]] = []
            size_bytes = 0
            async for row in snapshot.rows():
                part.append(row)
                size_bytes += len(row[2])
                if len(part) == ROWS or size_bytes > MESSAGE_BYTES:
                    await self._say(session, Rows(snapshot.position, tuple(part)))
                    part, size_bytes = [], 0
            await self._say(session, Rows(snapshot.position, tuple(part), last=True))
            session.sent = snapshot.position
        self._say_of(log.info, "snapshot_sent", session.site, site=session.site, position=session.sent)

    async def _watch(self, session: Session) -> None:
        """Close the stream of a site that has fallen silent: it is stopped, or cut off."""
        while self._clock.ticks() - session.heard_ticks <= SILENCE_S:
            await self._clock.sleep(SILENCE_S / 5)
            if session.owed and self.late.why_not() is None:
                await self._close(session)  # it comes again with what could not be taken
                return
        self._say_of(log.warning, "site_silent", session.site, site=session.site)
        self._forget(session)
        await self._close(session)

    async def _close(self, session: Session) -> None:
        with suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await session.socket.close(code=WSCloseCode.GOING_AWAY)

    async def _say(self, session: Session, message: ToSite) -> None:
        try:
            await session.socket.send_bytes(encode(message))
        except (ConnectionError, RuntimeError) as error:
            self._say_of(log.info, "stream_breaks", session.site, site=session.site, why=type(error).__name__)

    async def _refuse(self, socket: web.WebSocketResponse, whose: str, reason: str, *, final: bool) -> None:
        self._say_of(log.warning, "stream_refused", whose, why=reason)
        with suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await socket.send_bytes(encode(Refused(reason, final)))
                await socket.close(code=WSCloseCode.POLICY_VIOLATION)

    def _forget(self, session: Session) -> None:
        if self.sessions.get(session.site) is session:
            del self.sessions[session.site]
            self.acknowledgements.left(session.site)

    def _hears(self, site: str) -> bool:
        session = self.sessions.get(site)
        return session is not None and self._clock.ticks() - session.heard_ticks < _ALIVE_S


def _size_bytes(request: Request) -> int:
    return len(request.body) + sum(len(name) + len(value) for name, value in request.headers.items())


async def _nobody(request: Request) -> Response:
    del request
    return Response(status=503, headers={"Retry-After": "1"})


def _unheard(site: str) -> None:
    del site


async def _unable(question: Compare | Ask) -> Compared | Told:
    return Compared(question.id, 0, None)


def _unheeded(site: str, found: Convergence) -> None:
    del site, found


async def _ungreeted(hello: Hello) -> None:
    del hello


async def _unwanted(site: str, offer: Offer) -> None:
    del site, offer
