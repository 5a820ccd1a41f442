"""Applies entries of the log, in order, to index, fast path, key ring and replica; knows how fresh they are.

The same at a site, where `link` brings the entries, and at a controller, where `commit` does.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

import structlog

from regional_keystone.attempts import Pending
from regional_keystone.bundle import Seen
from regional_keystone.condemned import ids_in
from regional_keystone.errors import Unavailable
from regional_keystone.expiry import Expiry
from regional_keystone.freshness import Age
from regional_keystone.holder import Holder
from regional_keystone.issue import SKEW_S
from regional_keystone.issue_counts import IssueCounts
from regional_keystone.issued import Issued, covers, take_over
from regional_keystone.keys import KeyRing
from regional_keystone.log import LOG, Entry, Put, Remove, disturbed, memory_bytes, told
from regional_keystone.marks import Marks
from regional_keystone.model import Attempts, Condemned, RevocationEvent, Ring, SignerChain, Signing, Site, Taken
from regional_keystone.overlay import Overlay
from regional_keystone.owed_rings import OwedRings
from regional_keystone.ports import Clock, Writer
from regional_keystone.record import R, Touch, decode
from regional_keystone.relay import Relay
from regional_keystone.revocation import Revocation, RevocationIndex
from regional_keystone.sealing import Leave, Noted, check_read
from regional_keystone.signer_chain import SIGNERS, Chain
from regional_keystone.signing import SIGNING, Signatory, Signers

log = structlog.get_logger("follow")

BATCH = 512
_RETRY_S = 1.0
_SAY_AGAIN_S = 60.0
APART_S = 3.0  # a site that has not heard for longer may have been left behind by a turn of the keys
_AHEAD_US = int(SKEW_S * 1_000_000)  # tokens that are dated further ahead are worth nothing
_DATED_US = 3_000_000  # a token says in whole seconds, by a clock of another place, when it was sealed
_ISOLATION_S = 259_200.0

_NO_SIGNERS = Signers()
_of = attrgetter(*Revocation.__struct_fields__)  # a site that starts with a million asks it a million times

Watcher = Callable[[int, set[Touch]], None]  # is told a position and what its entry disturbed


class Follower:
    """In order, exactly as numbered; says how fresh it is; `projected` is what it may acknowledge."""

    chain: Chain | None = None  # whose signatures on rings count
    drained: str | None = None  # why no tokens are to be sealed here, by an operator's word

    def __init__(
        self,
        *,
        store: Writer,
        overlay: Overlay,
        holder: Holder,
        clock: Clock,
        lifetime_s: float,
        leads: bool = False,
        others: Iterable[Holder] = (),
        signatory: Signatory | None = None,
        isolation_s: float = _ISOLATION_S,
    ) -> None:
        """`holder` is of the ring that seals tokens, `others` are of the rings beside it.

        `isolation_s`: how long tokens are sealed without news where no bundle says it.
        """
        self.overlay = overlay
        self.signatory = signatory
        self.holder = holder
        self.holders = {one.of: one for one in (holder, *others)}
        self.index = RevocationIndex()
        self.expiry = Expiry(lambda: self.index, clock)
        self.condemned: frozenset[str] = frozenset()  # ids of keys; it only grows
        self.issues = IssueCounts()
        self.pending = Pending()
        self.leave = Leave(holder, clock, isolation_s, leads=leads)
        self.watchers: list[Watcher] = []
        self.heeders: list[Callable[[Revocation], None]] = []  # told of each revocation once it counts
        self.beside: list[RevocationIndex] = []  # in the making: they hear of each revocation as well
        self.doubters: list[Callable[[set[Touch]], None]] = []  # told which rows of the replica were put right
        self.forgetters: list[Callable[[], None]] = []  # told when everything remembered may be wrong
        self.late: Callable[[list[RevocationEvent]], None] | None = None
        self.own: str | None = None  # the site's own feed: its revocations were known when they were made
        self.peers: dict[str, int] = {}  # sites' feeds: up to where each counts here, by the log or before it had it
        self.progress: Callable[[], None] = lambda: None
        self.relay: Relay | None = None
        self.apply: Callable[[Sequence[Entry]], Awaitable[None]] = store.apply
        self._store = store
        self._clock = clock
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._queue: deque[Entry] = deque()
        self._more = asyncio.Event()
        self._projected = self._queue_bytes = 0
        self._noted, self._stored = Marks(), Marks()
        self.issued = Issued()
        self._behind = (-1, 0.0)  # where the replica stood when that was complained of last, and when
        self._owed = OwedRings(clock)
        self._quarantined = False  # turns of the keys do not wait for this site
        self._head = self._ahead_us = 0
        self._age = Age(clock, leads=leads)

    @property
    def ring(self) -> KeyRing:
        """The token ring in use. Raises Unavailable before the first has arrived."""
        return self.holder.ring

    @property
    def seen(self) -> dict[str, Seen]:
        """What is in use of each ring."""
        return self._with_signing({name: holder.seen for name, holder in self.holders.items()})

    @property
    def signers(self) -> Signers:
        """Whose signing keys count, and for what."""
        return _NO_SIGNERS if self.signatory is None else self.signatory.signers

    @property
    def held(self) -> dict[str, Seen]:
        """What may be acknowledged of each ring."""
        return self._with_signing({name: holder.held for name, holder in self.holders.items()})

    def _with_signing(self, rings: dict[str, Seen]) -> dict[str, Seen]:
        more = {} if self.signatory is None else {SIGNING: self.signatory.seen}
        return rings | more | ({} if self.chain is None else {SIGNERS: self.chain.trusted.seen})

    @property
    def position(self) -> int:
        """Every answer from now on is at least as new as this entry of the log."""
        return self.overlay.position

    @property
    def projected(self) -> int:
        """Everything up to here is durable in this replica."""
        return self._projected

    @property
    def waiting_bytes(self) -> int:
        """About how much memory is taken by what is not in the replica yet."""
        return self._queue_bytes

    @property
    def head(self) -> int:
        """The highest number of the log that has been heard of."""
        return max(self._head, self.position)

    def age_s(self) -> float:
        """Seconds since the newest moment at which all that the log held is known to be applied here; inf for never."""
        return self._age.age_s()

    def fresh_at(self) -> int | None:
        """The wall clock at the newest moment at which all was known here; None for never."""
        return self._age.fresh_at()

    def noted(self) -> Noted | None:
        """What an own later life has to `recall`, which goes on from the replica; None while nothing is known."""
        fresh_at = self._age.fresh_at(sure=True)
        return None if fresh_at is None else self.leave.noted(fresh_at, self.position, self._projected)

    def recall(self, noted: Noted | None, issued_until: int = 0) -> None:
        """Take up what an earlier life has noted, as far as the clock can be believed, and until when it issued."""
        self.issued.lived(issued_until)
        if noted is not None and max(noted.fresh_at, noted.noted_at) <= self._clock.now():
            self._age.recall(noted.fresh_at)
            self.leave.recall(noted)

    @property
    def lifetime_us(self) -> int:
        """How long a token may live at most, as the ring in use says; 0 where it says nothing."""
        return self.leave.lifetime_us

    @property
    def allow_expired_us(self) -> int | None:
        """For how long after its end a token may be shown, as the ring in use says; None where it says nothing."""
        return self.leave.allow_expired_us

    def why_not_seal(self) -> str | None:
        """Why no token may be issued here now; None when it may."""
        if self.drained is not None:
            return f"This region is drained and issues no tokens: {self.drained}."
        return self.leave.why_not()

    async def start(self) -> None:
        """Take over what the replica holds: at the beginning, and after a snapshot replaced it."""
        at = await self._store.applied(LOG)  # first: another process may be writing, and what it adds is told later
        async for event in self._store.scan(RevocationEvent):  # they count before the position says that they do
            self.void(event)
        self.condemn([one.id async for one in self._store.scan(Condemned)])
        self._take_signing([one async for one in self._store.scan(Signing)])
        before, position = self.overlay.position, await self.overlay.start(at)
        if position > before:  # else what waits is not in the replica yet
            self._projected = position
            self._queue.clear()
            self._queue_bytes = 0
            self._stored.reached(position)
        for forget in self.forgetters:
            forget()
        self._heed(await self._store.get(Site, self.holder.name))
        await self._follow_chain([chain async for chain in self._store.scan(SignerChain)])
        async for ring in self._store.scan(Ring):
            self.leave.heard(ring)
            if ring.id in self.holders and self.holders[ring.id].lacks(ring):
                await self._install(ring)
            self.leave.installed(ring, self._age.sure_since)
        if self.signatory is not None:
            await self.signatory.settle(*[record async for record in self._store.scan(Signing)])
        self._wake()
        if self.relay is not None:
            self.relay.replaced()

    def note(self, entries: Iterable[Entry]) -> None:
        """From now on every answer knows these entries. Raises ValueError if one before them is missing."""
        late: list[RevocationEvent] = []
        noted: list[Entry] = []
        try:
            for entry in entries:
                if entry.number > self.position:
                    late += self._note(entry)
                    noted.append(entry)
        finally:  # what came before the fault holds, and is projected
            if noted and self.relay is not None:
                self.relay.noted(noted)
            self.answer(late)
            self._wake()

    async def brought(self, event: RevocationEvent) -> None:
        """A snapshot that is about to replace the replica has this revocation: it counts before rows as new show."""
        late = self.issued.brought(event, self.answers(event))
        if late and not covers(await self.overlay.get(RevocationEvent, event.id), event):  # else it was answered then
            self.answer(late)

    async def run(self) -> None:
        """Project what was noted into the replica, for ever; a replica that cannot be written now is tried again."""
        await asyncio.gather(self._project_all(), self.expiry.run())

    async def _project_all(self) -> None:
        while True:
            await self._work()
            while self._queue:
                await self._install_owed()
                batch = [self._queue[place] for place in range(min(BATCH, len(self._queue)))]
                try:
                    await self._project(batch)
                except Unavailable as error:
                    self._say_behind(error)
                    await self._clock.sleep(_RETRY_S)

    async def reached(self, position: int, within_s: float) -> bool:
        """Whether answers are as new as `position`, now or within this time."""
        return position <= self.position or await self._noted.wait(position, within_s)

    async def settled(self, position: int, within_s: float) -> bool:
        """Whether the replica holds `position` durably, now or within this time."""
        return position <= self._projected or await self._stored.wait(position, within_s)

    def heard(self, ticks: float, head: int, now: int = 0) -> None:
        """A controller named the head of its log, and its wall clock, after our probe of `ticks` had reached it."""
        if not self._age.echoed(ticks, head, self.position, now):
            return  # no probe of ours
        if self.relay is not None:
            self.relay.heard(ticks, head, now)
        if now:  # at least so far ahead: it was then that the answer was on its way
            self._ahead_us = self._clock.now() - now - int((self._clock.ticks() - ticks) * 1_000_000)
        self._head = max(self._head, head)
        self._refresh()

    def beaten(self, at: int, head: int, skew_s: float) -> None:
        """The store shows that by a controller's wall clock the log ended at `head` at `at`."""
        ticks = self._age.dated(at, skew_s)
        if ticks is not None:
            self.beat(ticks, head)

    def beat(self, ticks: float, head: int) -> None:
        """What the log held at `ticks` ends at `head`, by the store's heartbeat."""
        if self.relay is not None:
            self.relay.beat(ticks, head)
        self._head = max(self._head, head)
        self._age.beat(ticks, head, self.position)

    def accepts_key(self, key_id: str) -> bool:
        """Whether what the key of this id has sealed or signed is taken for a token now."""
        if key_id in self.condemned:
            return False
        if key_id in self.holder.ring.ids:
            return self.signers.reads_sealed
        return self.signatory is not None and self.signatory.accepts(key_id)

    def may_lack_key(self, sealed_at: int) -> bool:
        """Whether a key that is not known here may have sealed something by then, in microseconds since 1970 UTC.

        A ring of the log that is still to be installed has such keys; so may one that was turned while we were away,
        or at any time while turns do not wait for us.
        """
        followed = self.holder.followed
        if self.leave.is_behind or self.holder.lost or (followed is not None and followed.problem is not None):
            return True
        fresh_at = self.fresh_at()
        if fresh_at is None:
            return True
        return sealed_at + _DATED_US > fresh_at and (self.age_s() > APART_S or self._quarantined)

    def may_lack(self, made_at: int) -> bool:
        """Whether something may be unknown here that was there by then, in microseconds since 1970 UTC."""
        fresh_at = self.fresh_at()
        return fresh_at is None or (made_at + _DATED_US > fresh_at and self.age_s() > APART_S)

    def read_keys_again(self) -> bool:
        """Whether there are keys that were not known yet: a Keystone that is followed has turned them just now."""
        return self.holder.read_again()

    def progressed(self) -> None:
        """What may be acknowledged is another now."""
        self.progress()

    def ahead_s(self) -> float:
        """How far this machine's clock is ahead of the controllers', as far as that is certain."""
        return self._ahead_us / 1_000_000

    def note_issue(self, user_id: str, at: int, made_of: int | None = None) -> None:
        """Remember that a token was issued here, in case a revocation that is on its way reaches back behind it."""
        self.issued.note(user_id, at, self._clock.now() - self._lifetime_us, made_of)

    def note_sealed(self, key_id: str, at: int) -> None:
        """A token was sealed here with this key."""
        self.issues.note(key_id, at)

    def void(self, event: RevocationEvent) -> None:
        """Make a revocation count here at once, before the log has it."""
        counts = revocation(event)
        for index in (self.index, *self.beside):
            index.add(counts, event.keep_until)
        for heed in self.heeders:
            heed(counts)

    def answers(self, event: RevocationEvent) -> list[RevocationEvent]:
        """Make a revocation of another place count; what this one has to add, since it had issued behind it."""
        known = self.index.version
        self.void(event)
        latest, is_new = self._clock.now() + _AHEAD_US, self.index.version != known
        answer = self.issued.answer(event, self.own, self.peers, is_new=is_new, latest=latest)
        return [] if answer is None else [answer]

    def answer(self, late: list[RevocationEvent]) -> None:
        """Let what this place has to add count here, before it is durable, and have it written."""
        for event in late:
            self.void(event)
        if late and self.late is not None:
            self.late(self.issued.owes(late))

    def condemn(self, keys: Collection[str]) -> None:
        """From now on nothing that these keys sealed is accepted here, and they seal nothing. There is no way back."""
        if not self.condemned.issuperset(keys):
            self.condemned |= frozenset(keys)
            if self.signatory is not None:
                self.signatory.condemned, self.signatory.owed = self.condemned, True

    def sealing_number(self) -> int:
        """The number of the key that seals now. Raises Unavailable if it is none."""
        check_read(self.signers.record, self._clock.now())
        return self.leave.number(self.ring, self.condemned)

    def take(self, entry: Entry) -> None:
        """Make an entry of the site's own feed count here, before the log has it."""
        self.condemn(ids_in(entry.changes))
        for change in entry.changes:
            if isinstance(change, Put) and change.table == "revocations":
                self.void(self.issued.written(decode(RevocationEvent, change.row)))
            elif isinstance(change, Put) and change.table == "attempts":
                self.pending.note(entry.number, decode(Attempts, change.row))

    async def had(self, highest: Mapping[str, int]) -> None:
        """A controller tells which epochs were acknowledged from here: nothing older is taken any more."""
        for name, epoch in highest.items():
            if name in self.holders:
                await self.holders[name].had(epoch)

    async def durable(self, kind: type[R], *key: Any) -> R | None:
        """The record as this replica holds it durably, whatever has been noted since."""
        return await self._store.get(kind, *key)

    def _note(self, entry: Entry) -> list[RevocationEvent]:
        puts = [change for change in entry.changes if isinstance(change, Put)]
        events = [decode(RevocationEvent, change.row) for change in puts if change.table == "revocations"]
        for ring in _rings((entry,)):
            self.leave.heard(ring)
        for change in puts:
            if change.table == "sites" and change.key == (self.holder.name,):
                self._heed(decode(Site, change.row))
            if change.table == "taken" and change.key == (self.own,):
                self.pending.drop(decode(Taken, change.row).number)  # from now on the log shows it
        self.condemn(ids_in(entry.changes))
        self.overlay.note((entry,))
        self._take_signing(told((entry,), Signing))
        self._queue.append(entry)
        self._queue_bytes += memory_bytes(entry)
        late = [answer for event in events for answer in self.answers(event)]
        take_over(puts, self.peers)
        if any(change.table == "revocations" and isinstance(change, Remove) for change in entry.changes):
            self.expiry.due(entry.at)
        touched = disturbed(entry.changes)
        for watch in self.watchers:
            watch(entry.number, touched)
        return late

    def _heed(self, site: Site | None) -> None:
        """Do as this place's own record says."""
        drained = site.why or "no reason was given" if site is not None and site.drained else None
        if drained != self.drained:
            log.warning("drained" if drained else "not_drained_any_more", why=drained)
        self.drained = drained
        self._quarantined = site is not None and site.state == "quarantined"

    def _take_signing(self, records: Iterable[Signing]) -> None:
        """Whose keys count, from now on; where somebody may sign for something else, all is asked again."""
        for record in records:
            if self.signatory is not None and self.signatory.take(record):
                for forget in self.forgetters:
                    forget()

    async def _work(self) -> None:
        """Wait until something is to be projected; meanwhile try again to install a ring that was refused."""
        while not self._more.is_set():
            await self._install_owed()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._owed.due_in_s()):
                    await self._more.wait()
        self._more.clear()

    async def _install_owed(self) -> None:
        for record in self._owed.due():
            await self._install(record)

    def _say_behind(self, error: Unavailable) -> None:
        """Complain of a replica that does not get on: at once, then now and then for as long as it stands there."""
        position, ticks = self._behind
        if position != self._projected or self._clock.ticks() - ticks >= _SAY_AGAIN_S:
            self._behind = (self._projected, self._clock.ticks())
            log.error("replica_behind", position=self._projected, known=self.position, why=error.message)

    async def _install(self, record: Ring) -> None:
        holder = self.holders.get(record.id)
        if holder is None:
            return  # of a newer version
        if await holder.install(record, self._clock.now()) or record.epoch <= holder.seen.epoch:
            self._owed.drop(record.id)
            self.leave.installed(record, self._age.sure_since)
            self.progress()
        else:
            self._owed.add(record)

    async def _follow_chain(self, records: Sequence[SignerChain]) -> None:
        if records and self.chain is not None:
            await self.chain.follow(records[-1].chain)

    async def _project(self, batch: Sequence[Entry]) -> None:
        await self._follow_chain(told(batch, SignerChain))
        for record in _rings(batch):
            await self._install(record)
        await self.apply(batch)
        if self.signatory is not None and (signing := told(batch, Signing)):
            await self.signatory.settle(signing[-1])
        last = batch[-1].number
        while self._queue and self._queue[0].number <= last:  # a snapshot may have emptied it meanwhile
            self._queue_bytes -= memory_bytes(self._queue.popleft())
        self._projected = max(self._projected, last)
        self.overlay.drop(self._projected)
        self._stored.reached(self._projected)
        if self.relay is not None:
            self.relay.stored(self._projected)
        self.progress()

    def _wake(self) -> None:
        self._noted.reached(self.position)
        self._refresh()
        self._more.set()

    def _refresh(self) -> None:
        self._age.reached(self.position)
        self.leave.renew(self._age.sure_since)


def revocation(event: RevocationEvent) -> Revocation:
    """The rule that a stored event stands for."""
    return Revocation(**dict(zip(Revocation.__struct_fields__, _of(event), strict=True)))


def _rings(batch: Sequence[Entry]) -> list[Ring]:
    """The newest of each ring that these entries turn."""
    return list({ring.id: ring for ring in told(batch, Ring)}.values())
