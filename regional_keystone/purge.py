"""Deletes from the caches of stock keystonemiddleware what this site would not answer any more.

What was answered 200 is remembered here, by one-way digests, for as long as a service may keep it. Whatever ends it (a
revocation, a lost role, a disabled project, a condemned key, knowledge that is too old), its entries are deleted on
every server of the region, and once more when answers that were under way have arrived.
Source: docs/adr/0028-the-middlewares-entries-are-deleted.md.
"""

import asyncio
import heapq
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog

from regional_keystone.deletions import Deletions, Server
from regional_keystone.errors import Forbidden, Unavailable
from regional_keystone.fastpath import Facts, Knowledge, Memory
from regional_keystone.freshness import Ends, class_of
from regional_keystone.held import Footing, Footings, Held, Many, users
from regional_keystone.journal import Journal, record
from regional_keystone.middleware_cache import AGAIN, Ground, Told, framed, ground, key, said, unframed
from regional_keystone.ports import Clock
from regional_keystone.revocation import Revocation, RevocationIndex, voids
from regional_keystone.roles import Lacking
from regional_keystone.token import Delegation, Scope

log = structlog.get_logger("purge")

CAUSES: Final = ("revoked", "key", "changed", "ended", "too_old")
LOSSES: Final = ("crowded_out", "given_up", "not_written")

_TICK_S = 0.25
_WRITE_S = 0.05
_SLICE = 500  # tokens looked at before others may go on
_ASKED = 100  # grounds that are looked up before others may go on; of more that change at once all entries are deleted
_EVENTS = 5_000  # more revocations at once, and every token is asked about instead
_SAY_AGAIN_S = 60.0

Left = Callable[[float, int | None], Iterator[list[Told]]]
Look = Callable[[str, Scope, Delegation | None], Awaitable[Facts]]


class Terms(NamedTuple):
    """How long services keep an answer, and what for how long may be under way; `limits`: as `freshness.limits_s`."""

    token_cache_time_s: float = 300.0
    in_flight_s: float = 5.0
    entries: int = 100_000
    limits: Mapping[str, float] = {}

    @property
    def keep_s(self) -> float:
        """For how long after it was told an answer may be in a cache."""
        return self.token_cache_time_s * (1 + AGAIN) + self.in_flight_s


class Purge:
    """What was answered 200 lately, and what is to be deleted of it. One of a site, whatever its processes answer.

    `heard`, `disturb`, `forget_all` and `take` may be called at any time and never wait; `run` does the work.
    """

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        look: Look,
        memory: Memory,
        clock: Clock,
        servers: Iterable[Server],
        journal: Journal,
        terms: Terms,
        ahead: Left = lambda *_: iter(()),
    ) -> None:
        """`look` says what somebody is and has now, as `Validator.facts` does; `memory` is where it keeps that.

        `ahead`: as `told.left`, of the files that the processes of this place write.
        """
        self.terms = terms
        self.purged: Counter[str] = Counter(dict.fromkeys(CAUSES, 0))
        self.losses: Counter[str] = Counter(dict.fromkeys(LOSSES, 0))
        self.deletions = [Deletions(server, clock, 4 * terms.entries) for server in servers]
        self._knowledge, self._look, self._memory, self._clock = knowledge, look, memory, clock
        self._journal, self._file, self._unwritten = journal, 0, bytearray()
        self._ahead, self._gone = ahead, set[int]()
        self._held: dict[bytes, Held] = {}  # by first name, the oldest first
        self._named: Many[str, Held] = Many()
        self._on: Many[Footing, Held] = Many()
        self._grounds: dict[Ground, Footing] = {}
        self._of_user: Many[str, Footing] = Many()
        self._keys: Counter[str] = Counter()
        self._watched = Footings(knowledge, 2 * terms.entries)
        self._unknown: deque[Footing] = deque()
        self._later: list[Footing] = []
        self._ends: list[tuple[int, bytes]] = []
        self._events: list[Revocation] = []
        self._all = False
        self._second: deque[tuple[float, list[str]]] = deque()
        self._ends_of_classes = Ends(terms.limits)
        self._more, self._dirty = asyncio.Event(), asyncio.Event()
        self._said_at = float("-inf")

    def __len__(self) -> int:
        """How many tokens are remembered."""
        return len(self._held)

    # --- what it is told

    def heard(self, event: Revocation) -> None:
        """This revocation counts from now on."""
        if len(self._events) < _EVENTS:
            self._events.append(event)
        else:
            self._all = True
        self._more.set()

    def disturb(self, position: int, touched: Iterable[Any]) -> None:
        """Entries of the log up to `position` have changed this."""
        self._watched.disturb(position, touched)
        self._more.set()

    def forget_all(self) -> None:
        """The replica was replaced: everything has to be looked up anew."""
        self._watched.forget_all()
        fallen, self._watched.fallen = self._watched.fallen, []
        self._unknown.extend(fallen)
        self._all = True
        self._more.set()

    def take(self, batch: Sequence[Told]) -> None:
        """These were answered 200."""
        for one in batch:
            self._take(one)
        self._bound()
        self._more.set()

    def take_framed(self, batch: bytes) -> None:
        """As `take`, of another process. Raises ValueError for rubbish."""
        self.take(unframed(batch))

    def process_ended(self, number: int) -> None:
        """The process of this number is gone: what it had answered and not handed on is taken up."""
        self._gone.add(number)
        self._more.set()

    async def passed(self, scopes: str) -> None:
        """What is known is too old for tokens of this class (of `freshness.CLASSES`) and for callers with one.

        It may not be answered, and no cache may.
        """
        self._delete(await self._among(lambda held: scopes in _classes(held)), "too_old")

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        return {
            "remembered": len(self),
            "purged": dict(self.purged),
            "lost": self.lost(),
            "servers": {
                one.server.name: {"up": one.up, "owed": len(one), "lag_s": round(one.lag_s(), 3)}
                for one in self.deletions
            },
        }

    def lost(self) -> dict[str, int]:
        """What could not be kept or done, so that an entry may have been used until it ended by itself."""
        return {**self.losses, "given_up": sum(one.given_up for one in self.deletions)}

    # --- what it does

    async def run(self) -> None:
        """Take up what an earlier life has left, then do what there is to do, for ever."""
        await self._recall()
        async with asyncio.TaskGroup() as tasks:
            for one in self.deletions:
                tasks.create_task(one.run())
            tasks.create_task(self._keep_written())
            tasks.create_task(self._tick())
            while True:
                await self._more.wait()
                self._more.clear()
                await self._work()

    async def close(self) -> None:
        """Hang up, and let go of the file."""
        for one in self.deletions:
            await one.close()
        self._journal.close()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK_S)
            self._unknown.extend(self._later)
            self._later.clear()
            self._more.set()

    async def _work(self) -> None:
        self._forget_old()
        while self._gone:
            await self._take_up(self._gone.pop())
        await self._void()
        await self._refuse_keys()
        await self._settle()
        self._end()
        await self._check_age()
        self._delete_again()

    async def _void(self) -> None:
        """What the revocations that came hit, and nothing else."""
        events, self._events = self._events, []
        every, self._all = self._all, False
        index = self._knowledge.index
        if every:
            self._finish(await self._among(lambda held: index.voided(held.traits)), "revoked")
            return
        wide = RevocationIndex()
        for event in events:
            near = self._near(event)
            if near is None:
                wide.add(event, event.issued_before)
            else:
                self._finish([held for held in near if voids(event, held.traits)], "revoked")
        if len(wide):
            self._finish(await self._among(lambda held: wide.voided(held.traits)), "revoked")

    def _near(self, event: Revocation) -> list[Held] | None:
        """Whom this may concern; None where only looking at all of them tells."""
        name = event.audit_id or event.audit_chain_id
        if name:
            return self._named[name]
        if event.user_id:
            return [held for one in self._of_user[event.user_id] for held in self._on[one]]
        return None

    async def _refuse_keys(self) -> None:
        refused = {one for one in self._keys if not self._accepts(one)}
        if refused:
            self._finish(await self._among(lambda held: held.key in refused), "key")

    def _accepts(self, key_id: str) -> bool:
        try:
            return self._knowledge.accepts_key(key_id)
        except Unavailable:  # no keys have arrived yet
            return True

    async def _settle(self) -> None:
        """Look up what has changed under the answers; first what is known to have, then what is not known at all."""
        fallen = [one for one in self._watched.fallen if one in self._on]
        self._watched.fallen = []
        if len(fallen) > _ASKED:
            for one in fallen:
                self._delete(self._on[one], "changed")
            self._unknown.extend(fallen)
        else:
            for one in fallen:
                await self._ask(one, certain=False)
        for _ in range(min(_ASKED, len(self._unknown))):
            await self._ask(self._unknown.popleft())
        if self._unknown:
            self._more.set()

    async def _ask(self, one: Footing, *, certain: bool = True) -> None:
        """Whether answers would still say the same of this user and scope; unless `certain`, deletes what cannot be."""
        if one not in self._on:
            return
        try:
            facts = await self._look(*one.where)
        except (Lacking, Forbidden):
            self._finish(self._on[one], "changed")
            return
        except Unavailable:
            if not certain:
                self._delete(self._on[one], "changed")
            self._later.append(one)
            return
        if said(facts) != one.said:
            self._delete(self._on[one], "changed")
            one.said = said(facts)
        one.reads, one.stale = facts.reads, False
        one.position = facts.position if facts.stale else self._memory.holds_at(facts)
        if not self._watched.keep(one):
            self._later.append(one)

    def _end(self) -> None:
        """What was handed on until a moment that has come."""
        now = self._clock.now()
        while self._ends and self._ends[0][0] <= now:
            held = self._held.get(heapq.heappop(self._ends)[1])
            if held is not None:
                self._finish([held], "ended")

    async def _check_age(self) -> None:
        for scopes in self._ends_of_classes.ended(self._clock.ticks(), self._knowledge.age_s()):
            await self.passed(scopes)

    async def _among(self, wanted: Callable[[Held], bool]) -> list[Held]:
        """Those of all tokens that are wanted, a slice at a time."""
        found = []
        for place, held in enumerate(list(self._held.values())):
            if not place % _SLICE:
                await self._clock.sleep(0)
            if wanted(held):
                found.append(held)
        return found

    # --- what is remembered

    def _take(self, one: Told) -> None:
        until = self._clock.ticks() + self.terms.keep_s
        known = self._held.pop(one.names[0], None)
        same = known is not None and (known.names, known.key, known.ground.said) == (one.names, one.key, one.said)
        if known is not None and same:
            known.until = until
            if one.asked_by not in known.asked_by:
                known.asked_by, known.written = (*known.asked_by, sys.intern(one.asked_by)), -1
            self._held[one.names[0]] = known
            self._write(known, one)
            self._delete_too_old(known)
            return
        was = one.said if known is None else known.ground.said
        if known is not None:
            self._unlink(known)
        on = self._ground(one)
        held = Held(one, on, until)
        if self._knowledge.index.voided(one.traits) or not self._accepts(one.key):
            self._delete([held], "revoked")  # it came to an end while the answer was on its way here
            return
        self._link(held, one)
        self._write(held, one)
        if not on.said == one.said == was:  # what it rested on may have gone with it, before that was looked up
            self._delete([held], "changed")
        self._delete_too_old(held)

    def _ground(self, one: Told) -> Footing:
        where = ground(one)
        found = self._grounds.get(where) or Footing(where, one)
        if found.said != one.said or found not in self._on:
            self._unknown.append(found)
        return found

    def _link(self, held: Held, one: Told) -> None:
        on = held.ground
        self._held[held.names[0]] = held
        self._keys[held.key] += 1
        if on not in self._on:
            self._grounds[on.where] = on
            for user_id in users(on.traits):
                self._of_user.add(user_id, on)
        self._on.add(on, held)
        for name in held.called:
            self._named.add(name, held)
        if one.ends_at is not None:
            heapq.heappush(self._ends, (one.ends_at, held.names[0]))

    def _unlink(self, held: Held) -> None:
        on = held.ground
        self._keys[held.key] -= 1
        if not self._keys[held.key]:
            del self._keys[held.key]
        for name in held.called:
            self._named.discard(name, held)
        self._on.discard(on, held)
        if on not in self._on:
            del self._grounds[on.where]
            self._watched.release(on)
            for user_id in users(on.traits):
                self._of_user.discard(user_id, on)

    def _forget_old(self) -> None:
        now = self._clock.ticks()
        while self._held:
            name, oldest = next(iter(self._held.items()))
            if oldest.until > now:
                return
            del self._held[name]
            self._unlink(oldest)

    def _bound(self) -> None:
        over = len(self._held) - self.terms.entries
        if over <= 0:
            return
        for name in [name for name, _ in zip(self._held, range(over), strict=False)]:
            self._unlink(self._held.pop(name))
        self.losses["crowded_out"] += over
        self._complain("middleware_cache_too_many_tokens", cure="raise [middleware_cache] entries", forgotten=over)

    # --- what is deleted

    def _finish(self, doomed: Iterable[Held], cause: str) -> None:
        """Delete and forget what cannot be answered again without being told anew."""
        found = [held for held in doomed if self._held.get(held.names[0]) is held]
        for held in found:
            del self._held[held.names[0]]
            self._unlink(held)
        self._delete(found, cause)

    def _delete(self, doomed: Collection[Held], cause: str) -> None:
        """On every server, now and once more when what is under way has arrived."""
        self.purged[cause] += len(doomed)
        if keys := [key(name) for held in doomed for name in held.names]:
            self._owe(keys)
            self._second.append((self._clock.ticks() + self.terms.in_flight_s, keys))

    def _delete_too_old(self, held: Held) -> None:
        """What was answered just before its class ended may be told of just after."""
        over = self._ends_of_classes.over
        if over and not over.isdisjoint(_classes(held)):
            self._delete([held], "too_old")

    def _delete_again(self) -> None:
        now = self._clock.ticks()
        while self._second and self._second[0][0] <= now:
            self._owe(self._second.popleft()[1])

    def _owe(self, keys: Sequence[str]) -> None:
        until = self._clock.ticks() + self.terms.token_cache_time_s + self.terms.in_flight_s
        for one in self.deletions:
            one.owe(keys, until)

    # --- what survives

    def _write(self, held: Held, one: Told) -> None:
        """Into the file of now, unless it is there: each file is thrown away as a whole."""
        if held.written != self._file:
            held.written = self._file
            self._unwritten += record(framed((one,)))
            self._dirty.set()

    async def _keep_written(self) -> None:
        began = self._clock.ticks()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            records, self._unwritten = bytes(self._unwritten), bytearray()
            try:
                if self._clock.ticks() - began > self.terms.keep_s:
                    await asyncio.to_thread(self._journal.begin)
                    self._file, began = self._file + 1, self._clock.ticks()
                await asyncio.to_thread(self._journal.write, records)
            except OSError as error:
                self.losses["not_written"] += 1
                self._file += 1  # what is told again is written again
                self._complain("middleware_cache_not_written", why=error.strerror, cure="make room in state_dir")
            await self._clock.sleep(_WRITE_S)

    async def _recall(self) -> None:
        def read() -> Iterable[list[Told]]:
            records = list(self._journal.read(self._newer_than_s()))
            self._journal.begin()
            return map(_readable, records)

        if await self._take_back(read):
            await self._take_up(None)
            log.info("middleware_cache_recalled", tokens=len(self))

    async def _take_up(self, number: int | None) -> None:
        """What processes that are gone had answered and not handed on; all of them, or those of this number."""
        await self._take_back(lambda: list(self._ahead(self._newer_than_s(), number)))

    async def _take_back(self, read: Callable[[], Iterable[Sequence[Told]]]) -> bool:
        """Take what is read, in a thread, from files of former processes; False, loudly, where they cannot be read."""
        try:
            batches = await asyncio.to_thread(read)
        except OSError as error:
            self.losses["not_written"] += 1
            self._complain("middleware_cache_not_read", why=error.strerror, cure="see to state_dir")
            return False
        for place, batch in enumerate(batches):
            if not place % _SLICE:
                await self._clock.sleep(0)
            self.take(batch)
        return True

    def _newer_than_s(self) -> float:
        """Of files that were written to last before this moment nothing matters any more."""
        return self._clock.now() / 1_000_000 - 2 * self.terms.keep_s

    def _complain(self, what: str, **more: Any) -> None:
        """Loudly, but not more than now and then."""
        if self._clock.ticks() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = self._clock.ticks()
            log.error(what, **more)


def _classes(held: Held) -> tuple[str, ...]:
    """Those of the token and of whoever asked about it, for each of which knowledge has to be new enough."""
    return class_of(held.ground.where[1]), *held.asked_by


def _readable(content: bytes) -> list[Told]:
    """What is in a record; nothing if it is of another version."""
    try:
        return unframed(content)
    except ValueError:
        return []
