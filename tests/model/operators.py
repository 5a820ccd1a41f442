"""What operators do, drawn among the faults: sites set aside and taken back, keys stolen and brought in, signers turned.

Every deed is the one that stands behind a command, at one of two controllers or at a site; it may be broken off by any
fault, and what it was refused with is counted.
"""

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from controller.compromise import Wanted
from controller.key_export import Under, seal
from regional_keystone import panic
from regional_keystone.errors import IdentityError
from regional_keystone.holder import RECEIPT, TOKEN
from regional_keystone.model import Site as SiteRecord
from tests.model.operators_judge import OperatorsJudge
from tests.model.operators_nodes import SETTINGS, Head, Region, own_authority, terms_of
from tests.model.world import KINDS as FAULTS
from tests.model.world import World

DEEDS = {
    "quarantine": 6,
    "rejoin": 8,
    "remove": 2,
    "join": 5,
    "condemn site": 2,
    "condemn all": 2,
    "panic": 4,
    "export": 3,
    "import": 4,
    "turn signer": 4,
    "change settings": 3,
}
KINDS = FAULTS | DEEDS
_RINGS = (TOKEN, RECEIPT)
_FILES = X25519PrivateKey.generate()  # a file that is sealed for a key costs no minute of scrypt


def foreign(rings=(TOKEN,)):
    """A file of another federation."""
    keys = {name: {number: Fernet.generate_key() for number in (0, 1)} for name in rings}
    return seal(keys, Under(key=_FILES.public_key().public_bytes_raw()), "another", 0).decode()


class OperatorsWorld(World):
    """A federation whose operators are as busy as its faults."""

    kinds_drawn = KINDS
    made_of = OperatorsJudge, Head, Region

    def __init__(self, seed, root, **more):
        self.exported = []
        self._calm = False
        super().__init__(seed, root, **more)

    def _authority(self):
        return own_authority(self.root / "authority")

    def rest(self):
        """Operators take back whom they have set aside; then all comes right as ever."""
        self._calm = True
        self.loop.spawn(self.loop._outside, self._all_taken_back())
        super().rest()
        self._calm = False

    async def _all_taken_back(self):
        while self._calm:
            for (name,), record in list(self.rows.at_head(SiteRecord).items()):
                controller = self._some_controller()
                if record.by_operator and controller is not None:
                    await self.takes_back(controller, name)
            await self._pause(0.5)

    async def _pause(self, seconds):
        """They wait on no machine's clock."""
        done = self.loop.create_future()
        self.loop.call_later(seconds, lambda: done.done() or done.set_result(None))
        await done

    def _ask(self, what, machine, act, *args, **more):
        """An operator asks for this there; a refusal is an answer."""
        self.loop.spawn(machine.process, self._answered(what, act, args, more))

    async def _answered(self, what, act, args, more):
        try:
            await act(*args, **more)
        except IdentityError as error:
            self.count(f"{what} refused {error.status}")

    def _some_name(self):
        return self.random.choice(sorted(self.sites))

    # sites

    def _quarantine(self):
        controller, name = self._some_controller(), self._some_name()
        if controller is None:
            return False
        self.tell(f"an operator sets {name} aside")
        return self._ask("quarantine", controller, controller.regions.quarantine, name, "by the model")

    def _rejoin(self):
        aside = [key[0] for key, record in self.rows.at_head(SiteRecord).items() if record.by_operator]
        controller = self._some_controller()
        if controller is None or not aside:
            return False
        return self._ask("rejoin", controller, self.takes_back, controller, self.random.choice(sorted(aside)))

    async def takes_back(self, controller, name):
        """An operator's word, from the moment at which it is spoken."""
        self.tell(f"an operator takes {name} back")
        self.judge.taken_back[name] += 1
        try:
            await controller.regions.rejoin(name)
        except IdentityError as error:
            self.count(f"rejoin refused {error.status}")
        self.judge.taken_back[name] -= 1

    # stolen keys

    def _condemn_site(self):
        controller, name = self._some_controller(), self._some_name()
        if controller is None:
            return False
        wanted = Wanted(site=name, rings=self.random.random() < 0.5, why="it was stolen")
        return self._ask("condemn", controller, self._condemns_all, controller, wanted)

    def _condemn_all(self):
        controller = self._some_controller()
        if controller is None:
            return False
        return self._ask("condemn", controller, self._condemns_all, controller, Wanted(all=True, why="all"))

    async def _condemns_all(self, controller, wanted):
        keys = {key.id: key.ring for key in await controller.compromise.meant(wanted)}
        await controller.compromise.condemn(keys, "an operator", wanted.why)
        await controller.compromise.turn_away()

    def _panic(self):
        site = self._some_site()
        if site is None or site.ring is None:
            return False
        known = sorted(site.panic.keys().items(), key=lambda one: one[1])  # ids are no seed's
        if self.random.random() < 0.3:
            return self._ask("panic", site, self._panics, site, panic.Wanted(all=True), [key for key, _ in known])
        primary = site.ring.key_ids[site.ring.primary]
        return self._ask("panic", site, self._panics, site, panic.Wanted(key=primary), [primary])

    async def _panics(self, site, wanted, keys):
        self.tell(f"at {site.name} keys are condemned")
        self.judge.panic(keys)
        site.panicked |= set(await site.panic.condemn(wanted, "an operator"))

    # files of keys

    def _export(self):
        controller = self._some_controller()
        if controller is None:
            return False
        return self._ask("export", controller, self._exports, controller)

    async def _exports(self, controller):
        sealed_for = Under(key=_FILES.public_key().public_bytes_raw())
        self.exported = [*self.exported[-5:], await controller.files.export(_RINGS, sealed_for)]

    def _import(self):
        controller = self._some_controller()
        if controller is None:
            return False
        file = self.random.choice([*self.exported, foreign()])
        opens = Under(key=_FILES.private_bytes_raw())
        return self._ask("import", controller, controller.files.take_in, file, opens, _RINGS, merge=True)

    # signers and settings

    def _turn_signer(self):
        controller = self._some_controller()
        if controller is None:
            return False
        if self.random.random() < 0.3:  # two operators, each at another one, or at the same
            other = self._some_controller()
            self._ask("signer's turn", other, other.signer_turn.turn)
        return self._ask("signer's turn", controller, controller.signer_turn.turn)

    def _change_settings(self):
        controller = self._some_controller()
        if controller is None:
            return False
        controller.terms = terms_of(self.random.choice(SETTINGS))
        self._kill(controller)
        return True
