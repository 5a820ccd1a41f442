"""A federation that a seed drives through faults, and then to rest: one run."""

import asyncio
import random
from collections import Counter, deque
from contextlib import nullcontext

import msgspec

from regional_keystone.errors import IdentityError
from regional_keystone.follow import APART_S
from regional_keystone.holder import TOKEN
from regional_keystone.log import LOG
from regional_keystone.model import Ring, Signing
from regional_keystone.model import Site as SiteRecord
from regional_keystone.overlay import transact
from regional_keystone.signing import SIGNING
from tests.model.judge import Judge, Violation
from tests.model.loop import Loop
from tests.model.nodes import DEADLINE_S, ISOLATION_S, SHIFT_S, Controller, Locks, Site, Wakes, authority
from tests.model.stores import Rows, Store

TRACE = 60
CALM_S = 60.0
# how often each is drawn, in relation to the others
KINDS = {
    "seal": 60,
    "sign": 15,
    "renew signer": 2,
    "condemn signer": 1,
    "turn": 6,
    "kill site": 4,
    "kill controller": 3,
    "stop site": 3,
    "stop controller": 3,
    "cut": 5,
    "hold": 3,
    "slow": 2,
    "lossy": 2,
    "disorder": 2,
    "full disk": 3,
    "damage": 4,
    "back up": 2,
    "restore": 2,
    "shift clock": 3,
    "jump clock": 1,
    "store away": 2,
    "lossy appends": 2,
    "lose lock": 2,
    "replay": 8,
    "reseal": 1,
    "remove": 1,
    "join": 2,
    "prune": 4,
    "condemn": 2,
}


class World:
    """Controllers and sites on one loop, faults, and a judge who sees all."""

    kinds_drawn = KINDS
    made_of = Judge, Controller, Site
    around = staticmethod(nullcontext)  # what the process is to be while it runs

    def __init__(self, seed, root, controllers=2, sites=3, without=(), turns_itself=True):
        """`without`: numbers of deeds that are left out of the run, to see whether it fails all the same."""
        self.turns_itself, self.root = turns_itself, root
        self.machines = 0
        random.seed(seed)  # the product draws its pauses from it
        self.seed, self.without = seed, frozenset(without)
        self.deeds = 0
        self.loop = Loop(seed)
        asyncio._set_running_loop(self.loop)
        self.random = random.Random(f"{seed} begins")
        self.kinds = Counter()
        self.trace = deque(maxlen=TRACE)
        self.rows = Rows()
        self.lock, self.wake = Locks(self.loop), Wakes()
        self.authority = self._authority()
        judge, controller_of, self.site_of = self.made_of
        self.judge = judge(self)
        self.controllers = {f"c{number}": None for number in range(1, controllers + 1)}
        for name in self.controllers:
            self.controllers[name] = controller_of(self, name)
        self.sites = {}
        self.old = []  # records of rings that were in the log: what an attacker has
        self._using = {}
        self._start(sites)

    def _authority(self):
        return authority()

    def _start(self, sites):
        for controller in self.controllers.values():
            controller.begin()
        self.until(lambda: all(one.ready for one in self.controllers.values()), 30)
        for number in range(1, sites + 1):
            self.do(self._joins(f"s{number}"))

    async def _joins(self, name):
        controllers = [one for one in self.controllers.values() if one.runs and one.ready]
        if not controllers:
            return
        controller = self.random.choice(controllers)
        site = self.site_of(self, name, self.machines + 1)
        try:
            await site.join(controller)
        except IdentityError:
            return
        record = self.rows.at_head(SiteRecord).get((name,))
        if record is None or record.instance != site.instance:
            return  # another has joined since
        if name in self.sites:
            self.sites[name].kill()
        self.sites[name] = site
        self._using.pop(name, None)
        self.judge.installed.pop(name, None)
        site.begin()

    def do(self, coroutine):
        """Run this to its end."""
        task = self.loop.spawn(self.loop._outside, coroutine)
        while not task.done():
            self.step()
        return task.result()

    def until(self, holds, within_s):
        """Step until this holds; False when it does not within that time."""
        end = self.loop.time() + within_s
        while not holds():
            self.step(end)
            if self.loop.time() >= end:
                return holds()
        return True

    def pass_(self, seconds):
        """Let so much time go by."""
        self.until(lambda: False, seconds)

    def count(self, kind):
        self.kinds[kind] += 1

    def tell(self, line):
        """Remember this for who reads the trace of a failure."""
        self.trace.append(f"{self.loop.steps:>8} {self.loop.time():9.3f} s  {line}")

    def step(self, until=float("inf")):
        """One step of anybody, then whatever it has changed is judged."""
        self.loop.step(until)
        if self.loop.failures:
            raise self.loop.failures[0]
        for name, site in self.sites.items():
            ring = site.ring
            if ring is not None and ring is not self._using.get(name):
                self._using[name] = ring
                self.tell(f"{name} uses epoch {ring.epoch}")
                self.judge.installed_(site)

    def run(self, steps, every=100):
        """So many steps, with a deed about so often; now and then rest, where everything has to come right by itself."""
        end = self.loop.steps + steps
        draw = random.Random(f"{self.seed} deeds")
        drawn = self.kinds_drawn
        kinds, weights = (*drawn, "rest"), (*drawn.values(), sum(drawn.values()) / 45)
        while self.loop.steps < end:
            due = self.loop.steps + draw.randrange(2 * every)
            kind = draw.choices(kinds, weights)[0]
            while self.loop.steps < due:
                self.step()
            self.deeds += 1
            if self.deeds not in self.without:
                self.random = random.Random(f"{self.seed} {self.deeds}")
                self.act(kind)
        self.rest()

    def act(self, kind):
        """One deed of somebody, or one fault."""
        if getattr(self, "rest" if kind == "rest" else "_" + kind.replace(" ", "_"))() is not False:
            self.count(kind)

    def rest(self):
        """Faults end. Without anybody's help all sites count again, hold one ring, and it turns."""
        self.tell("all faults end")
        for machine in (*self.controllers.values(), *self.sites.values()):
            machine.faults.away, machine.faults.lossy = False, 0.0
            machine.disk.full = False
            if not machine.runs:
                machine.begin()
            else:
                machine.process.stopped_until = 0.0
        for site in self.sites.values():
            self._mend(site)
        self.lock.trusty = 1.0
        turns = self.judge.turns
        if not self.until(self._is_right, CALM_S):
            raise Violation(f"INV-8: {CALM_S} s after the last fault not all is right: {self._wrong()}")
        if not self.until(lambda: self.judge.turns > turns, CALM_S):
            raise Violation(f"INV-8: no turn within {CALM_S} s after the last fault")
        for site in self._members():
            for text in self.judge.texts.values():
                self._opens(site, text)
        self.judge.texts.clear()
        self.lock.trusty = 0.7

    def _opens(self, site, text):
        key = next(key for key, known in self.judge.texts.items() if known == text)
        if self.judge.accepted_until.get(key, 0.0) >= self.loop.time():
            site.ring.open(text)
            self.count("token opened")

    def _members(self):
        records = self.rows.at_head(SiteRecord)
        return [site for site in self.sites.values() if records[(site.name,)].state in ("active", "quarantined")]

    def _is_right(self):
        return not self._wrong()

    def _wrong(self):
        records, newest = self.rows.at_head(SiteRecord), self.rows.at_head(Ring)[(TOKEN,)]
        return [
            f"{site.name} {records[(site.name,)].state}, epoch {site.ring and site.ring.epoch} of {newest.epoch}"
            for site in self._members()
            if records[(site.name,)].state != "active" or site.ring is None or site.ring.epoch < newest.epoch - 1
        ]

    # deeds

    def _some_site(self, *, running=True):
        found = [one for one in self.sites.values() if one.runs or not running]
        return self.random.choice(found) if found else None

    def _some_controller(self):
        found = [one for one in self.controllers.values() if one.runs and one.ready]
        return self.random.choice(found) if found else None

    def _later(self, longest_s, function):
        """A fault ends by itself."""
        self.loop.call_later(self.random.uniform(0.2, longest_s), function)

    def _seal(self):
        site = self._some_site()
        if site is None or site.ring is None or site.process.stopped_until > self.loop.time():
            return False
        sealed = site.seal()
        if sealed is None:
            self.count("seal refused")
            return False
        self.judge.sealed(site, *sealed)
        record = self.rows.at_head(SiteRecord).get((site.name,))
        if record is not None and record.state == "quarantined":
            self.count("seal while quarantined")
        return True

    def _sign(self):
        site = self._some_site()
        if site is None or site.ring is None or site.process.stopped_until > self.loop.time():
            return False
        key = site.sign()
        if key is None:
            self.count("sign refused")
            return False
        self.judge.signed(site, key)
        return True

    def _renew_signer(self):
        controller, site = self._some_controller(), self._some_site(running=False)
        if controller is None or site is None:
            return False
        self.loop.spawn(controller.process, self._renews(controller, site.name))
        return True

    async def _renews(self, controller, owner):
        try:
            await controller.signing_keys.rotate(owner)
        except IdentityError as error:
            self.count(f"signer not renewed {error.status}")

    def _condemn_signer(self):
        """A site's private key is stolen."""
        controller, record = self._some_controller(), self.rows.at_head(Signing).get((SIGNING,))
        if controller is None or record is None or not record.keys:
            return False
        key = self.random.choice(sorted(record.keys, key=lambda name: record.keys[name].epoch))  # ids are no seed's
        self.loop.spawn(controller.process, self._condemns(controller, key, SIGNING))
        return True

    def _turn(self):
        controller = self._some_controller()
        if controller is None:
            return False
        self.loop.spawn(controller.process, self._turns(controller))
        return True

    async def _turns(self, controller):
        try:
            await controller.rotator.turn()
        except IdentityError as error:
            self.count(f"turn refused {error.status}")

    def _kill_site(self):
        site = self._some_site()
        if site is None:
            return False
        self._kill(site)
        return True

    def _kill_controller(self):
        controller = self._some_controller()
        if controller is None:
            return False
        self._kill(controller)
        return True

    def _kill(self, machine, longest_s=4.0):
        self.tell(f"{machine.name} is killed")
        machine.kill()

        def again():
            if not machine.runs and machine in (*self.sites.values(), *self.controllers.values()):
                self.tell(f"{machine.name} starts again")
                machine.begin()

        self._later(longest_s, again)

    def _stop(self, machine):
        if machine is None:
            return False
        longest_s = self.random.choice((0.5, 3.0, DEADLINE_S * 2))
        machine.process.stopped_until = self.loop.time() + self.random.uniform(0.1, longest_s)
        self.tell(f"{machine.name} stops until {machine.process.stopped_until:.3f}")
        return True

    def _stop_site(self):
        return self._stop(self._some_site())

    def _stop_controller(self):
        return self._stop(self._some_controller())

    def _cut(self):
        site = self._some_site(running=False)
        if site is None:
            return False
        longest_s = self.random.choice((1.0, 4.0, DEADLINE_S, ISOLATION_S, 2 * ISOLATION_S))
        self.tell(f"{site.name} is cut off")
        site.cut = True
        if site.stream is not None:
            site.stream.break_()
        self._later(longest_s, lambda: self._mend(site))
        return True

    def _mend(self, site):
        site.cut = site.held = False
        site.loss = site.disorder = 0.0
        site.slowness = 1.0

    def _hold(self):
        site = self._some_site(running=False)
        if site is not None:
            site.held = True
            self._later(2 * DEADLINE_S, lambda: self._mend(site))

    def _slow(self):
        site = self._some_site(running=False)
        if site is not None:
            site.slowness = self.random.choice((3.0, 20.0))
            self._later(2 * DEADLINE_S, lambda: self._mend(site))

    def _lossy(self):
        site = self._some_site(running=False)
        if site is not None:
            site.loss = 0.05
            self._later(DEADLINE_S, lambda: self._mend(site))

    def _disorder(self):
        site = self._some_site(running=False)
        if site is not None:
            site.disorder = 0.1
            self._later(DEADLINE_S, lambda: self._mend(site))

    def _full_disk(self):
        machine = self.random.choice([*self.sites.values(), *self.controllers.values()])
        machine.disk.full = True
        self.tell(f"the disk of {machine.name} is full")

        def empty():
            machine.disk.full = False

        self._later(2 * ISOLATION_S, empty)

    def _damage(self):
        site = self._some_site(running=False)
        if site is None or not site.disk.damage(TOKEN, self.random):
            return False
        self.tell(f"the key directory of {site.name} is damaged")
        if site.runs and self.random.random() < 0.7:
            self._kill(site)
        site.went_back = True  # it holds less than it has said
        return True

    def _back_up(self):
        site = self._some_site(running=False)
        if site is not None:
            site.save()
        return site is not None

    def _restore(self):
        found = [one for one in self.sites.values() if one.backup and one.backup[-1] < self.loop.time() - APART_S - 1]
        if not found:
            return False
        site = self.random.choice(found)
        if site.runs:
            self._kill(site)
        self.tell(f"{site.name} is restored from a backup")
        site.restore()
        self._using.pop(site.name, None)
        self.judge.installed.pop(site.name, None)
        return True

    def _shift_clock(self):
        machine = self.random.choice([*self.sites.values(), *self.controllers.values()])
        if getattr(machine, "clock_is_right", True):
            machine.clock.shift_s = self.random.uniform(-SHIFT_S, SHIFT_S)

    def _jump_clock(self):
        site = self._some_site(running=False)
        if site is None or not site.clock_is_right:
            return False
        site.clock.shift_s = self.random.choice((-3600.0, -5.0, 5.0, 3600.0, 200 * 86400.0))
        site.clock_is_right = False
        self.tell(f"the clock of {site.name} is set to be {site.clock.shift_s:.0f} s ahead")

        def right():
            site.clock.shift_s, site.clock_is_right = 0.0, True

        self._later(2 * DEADLINE_S, right)
        return True

    def _store_away(self):
        machine = self.random.choice([*self.sites.values(), *self.controllers.values()])
        machine.faults.away = True
        self.tell(f"the store of {machine.name} does not answer")

        def back():
            machine.faults.away = False

        self._later(DEADLINE_S, back)

    def _lossy_appends(self):
        controller = self.random.choice(list(self.controllers.values()))
        controller.faults.lossy = 0.5

        def well():
            controller.faults.lossy = 0.0

        self._later(DEADLINE_S, well)

    def _lose_lock(self):
        if not self.lock.held:
            return False
        self.lock.lose()
        return True

    def _reseal(self):
        controller = self._some_controller()
        if controller is None:
            return False
        self.loop.spawn(controller.process, self._reseals(controller))
        return True

    async def _reseals(self, controller):
        async def decide(reader):
            return await controller.sites.resealed(reader, TOKEN, controller.clock.now()), None

        self.machines += 1
        try:
            await transact(controller.overlay, controller.sequencer, f"reseal/{self.machines}", decide)
        except IdentityError:
            self.count("reseal refused")

    def _remove(self):
        controller, names = self._some_controller(), sorted(self.sites)
        if controller is None or len(self._members()) < 3:
            return False
        self.loop.spawn(controller.process, self._removes(controller, self.random.choice(names)))
        return True

    async def _removes(self, controller, name):
        try:
            await controller.sites.remove(name)
        except IdentityError:
            return

    def _join(self):
        gone = [
            name
            for name, record in ((key[0], one) for key, one in self.rows.at_head(SiteRecord).items())
            if record.state == "removed"
        ]
        name = self.random.choice(sorted(gone)) if gone else f"s{len(self.sites) + 1}"
        if len(self._members()) > 4:
            return False
        self.loop.spawn(self.loop._outside, self._joins(name))
        return True

    def _condemn(self):
        """A key is stolen: the one that seals, one that did, or the next one."""
        controller, record = self._some_controller(), self.rows.at_head(Ring).get((TOKEN,))
        if controller is None or record is None:
            return False
        primary = max(record.checks)
        key = record.checks[self.random.choice((primary, primary, 0, self.random.choice(list(record.checks))))]
        self.loop.spawn(controller.process, self._condemns(controller, key))
        return True

    async def _condemns(self, controller, key, ring=TOKEN):
        try:
            await controller.compromise.condemn({key: ring}, "an operator", "it was stolen")
            await controller.compromise.turn_away()
        except IdentityError:
            self.count("condemn refused")

    def _prune(self):
        controller = self._some_controller()
        if controller is None:
            return False
        store = Store(self.rows, self.loop, controller.faults)
        self.loop.spawn(controller.process, self._prunes(store, self.rows.applied - self.random.randrange(40)))
        return True

    async def _prunes(self, store, upto):
        await store.prune(LOG, upto)

    def _replay(self):
        """Somebody who has read the log and the disks of other sites brings a site a ring that it must not take."""
        site, record = self._some_site(), self.rows.at_head(Ring).get((TOKEN,))
        if site is None or site.ring is None or record is None:
            return False
        self._remember()
        kind = self.random.choice(("another site's", "an old one", "unsigned", "renumbered", "another ring's"))
        forged = self._forged(site, kind, record)
        if forged is None:
            return False
        self.loop.spawn(site.process, self._brings(site, kind, forged))
        self.count(f"brought {kind}")
        return True

    def _remember(self):
        record = self.rows.at_head(Ring)[(TOKEN,)]
        if not self.old or self.old[-1].epoch < record.epoch:
            self.old = [*self.old[-30:], record]

    def _forged(self, site, kind, record):
        replace = msgspec.structs.replace
        others = [data for name, data in record.sealed.items() if name != site.name]
        mine = record.sealed.get(site.name)
        if kind == "another site's":
            return replace(record, epoch=record.epoch + 1, sealed={site.name: self.random.choice(others)})
        if kind == "an old one":
            older = [one for one in self.old if one.epoch < site.ring.epoch and site.name in one.sealed]
            if not older:
                return None
            old = self.random.choice(older)
            return replace(old, epoch=self.random.choice((old.epoch, record.epoch + 1)))
        if mine is None:
            return None
        if kind == "unsigned":
            broken = mine[:-1] + bytes([mine[-1] ^ 1])
            return replace(record, epoch=site.ring.epoch + 1, sealed={site.name: broken})
        if kind == "renumbered":
            return replace(record, epoch=record.epoch + 5)
        return replace(record, id="credential")

    async def _brings(self, site, kind, forged):
        holders, before = site.follower.holders, site.ring
        if await holders[forged.id].install(forged, site.clock.now()) and not await self._is_own(site, forged):
            raise Violation(f"INV-23: {site.name} takes {kind} ring of epoch {forged.epoch}")
        now = site.ring
        if now is not before and now is not None and before is not None and now.epoch < before.epoch:
            raise Violation(f"INV-7: {site.name} goes back from epoch {before.epoch} to {now.epoch}")

    async def _is_own(self, site, forged):
        """What it holds is a ring of the log all the same."""
        known = self.judge.rings.get((forged.id, forged.epoch))
        return known is not None and site.holder.seen == (forged.epoch, known[0])

    def close(self):
        self.loop.close()
