"""Several processes of one region over one store, each with a memory of its own, without a federation around them."""

from contextlib import asynccontextmanager

from regional_keystone.adapters.memcached import Memcached
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import IdentityError
from regional_keystone.fastpath import FastPath, Memory
from regional_keystone.follow import revocation
from regional_keystone.log import Entry, Put, disturbed
from regional_keystone.model import RevocationEvent
from regional_keystone.overlay import Overlay
from regional_keystone.record import decode
from regional_keystone.remembered import Remembered
from regional_keystone.settings import Memcached as Section
from regional_keystone.shared import Seal, SharedFacts
from regional_keystone.validate import Validator
from tests.site.realm import SETTINGS, Known, Realm

SECRET = b"0123456789abcdef" * 4


class Counting:
    """A store, and every question that it was asked."""

    def __init__(self, store):
        self._store = store
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def get(self, kind, *key):
        self.asked.append((kind.__name__, *key))
        return await self._store.get(kind, *key)

    async def find(self, kind, **equals):
        self.asked.append((kind.__name__, *equals.items()))
        return await self._store.find(kind, **equals)

    async def page(self, kind, after, limit, like=(), **equals):
        self.asked.append((kind.__name__, *equals.items()))
        return await self._store.page(kind, after, limit, like, **equals)

    def scan(self, kind):
        self.asked.append((kind.__name__,))
        return self._store.scan(kind)


class Process:
    """One process: it knows what it was told of the log, which is everything unless it `lags`."""

    def __init__(self, place, cache=None, *, seal=None, remembered=1000, settings=SETTINGS, ttl_s=300.0, repaired=0):
        self.known = Known()
        self.known.ring = place.known.ring
        self.store = Counting(place.store)
        self.overlay = Overlay(self.store)
        self.lags = False
        self._behind = []
        self.fastpath = FastPath(self.known, remembered)
        self.rows = Remembered(self.overlay, Memory(self.known, remembered))
        self.shared = None
        if cache is not None:
            seal = seal or Seal(SECRET, region="RegionOne", cluster="cluster")
            how = {"clock": place.clock, "ttl_s": ttl_s, "repaired": repaired}
            self.shared = SharedFacts(cache, seal, self.fastpath, self.known, **how)
        self.validator = Validator(
            self.rows,
            self.known,
            self.fastpath,
            place.policy,
            clock=place.clock,
            settings=settings,
            shared=self.shared,
        )

    async def start(self):
        """As a follower does: revocations first, then the position, then nothing from before is believed."""
        async for event in self.store.scan(RevocationEvent):
            self.known.index.add(revocation(event), event.keep_until)
        self.known.position = await self.overlay.start()
        for memory in (self.fastpath, self.rows.memory):
            memory.forget_all()
        self.store.asked.clear()

    def hear(self, entry):
        self._behind.append(entry)
        if not self.lags:
            self.catch_up()

    def catch_up(self):
        self.lags = False
        for entry in self._behind:
            self.overlay.note((entry,))
            for one in entry.changes:
                if one.table == "revocations" and isinstance(one, Put):
                    event = decode(RevocationEvent, one.row)
                    self.known.index.add(revocation(event), event.keep_until)
            self.known.position = entry.number
            for memory in (self.fastpath, self.rows.memory):
                memory.disturb(entry.number, disturbed(entry.changes))
        self._behind.clear()

    async def says(self, text):
        """The whole answer to a validation, or why there is none."""
        try:
            return (await self.validator.check(text)).body()
        except IdentityError as error:
            return type(error).__name__, error.message

    async def written(self):
        """Wait until what was offered is in the cache."""
        while self.shared is not None and self.shared._writing is not None and not self.shared._writing.done():
            await self.shared._writing

    @property
    def lookups(self):
        """What look-ups came to, without what never happened."""
        return {result: count for result, count in self.shared.lookups.items() if count}


class Region(Realm):
    """A realm whose log other processes follow."""

    def __init__(self, store, **options):
        super().__init__(store, **options)
        self.store = store
        self.processes = []
        self._unapplied = []

    def change(self, *changes):
        number = super().change(*changes)
        entry = Entry(number, f"test/{number}", self.clock.now(), tuple(changes))
        self._unapplied.append(entry)
        for process in self.processes:
            process.hear(entry)
        return number

    async def apply(self):
        """Bring the tables up to the log."""
        applied, self._unapplied = self._unapplied, []
        await self.store.apply(applied)
        for overlay in (self.overlay, *(process.overlay for process in self.processes if not process.lags)):
            overlay.drop(self.known.position)

    async def process(self, server=None, *, timeout_s=30.0, **options):
        """One more process, which begins now; `server` is its memcached, None for one without cache."""
        await self.apply()
        cache = Memcached(Section(servers=(server.address,), timeout_s=timeout_s)) if server else None
        made = Process(self, cache, **options)
        await made.start()
        self.processes.append(made)
        return made


@asynccontextmanager
async def region(directory, **options):
    """A furnished region, with its tables up to date; its processes end with it."""
    store = await Sqlite.open(directory / "replica.db")
    made = Region(store, **options)
    try:
        await made.overlay.start()
        await made.furnish()
        await made.apply()
        yield made
    finally:
        for process in made.processes:
            if process.shared is not None:
                await process.shared.close()
        await store.close()
