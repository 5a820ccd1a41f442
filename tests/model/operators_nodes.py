"""Controllers and sites of the model with what operators may do there, put together as the wirings do it."""

import dataclasses

import msgspec

from controller.key_export import KeyFiles
from controller.regions import Regions
from controller.signer_turn import SignerTurn
from regional_keystone.own_feed import OwnFeed
from regional_keystone.panic import Panic
from regional_keystone.signer_chain import Chain, Trusted, root
from tests.model.nodes import ALLOW_EXPIRED_S, DEADLINE_S, EXPIRY_S, ISOLATION_S, TERMS, Controller, Site, authority
from tests.model.stores import Feed, Rows

SETTINGS = (  # as a controller may be set: expiry, isolation, interval in seconds
    (EXPIRY_S, ISOLATION_S, 1.0),
    (EXPIRY_S, ISOLATION_S, 3.0),
    (2.0, ISOLATION_S, 1.0),
    (6.0, 12.0, 2.0),
    (EXPIRY_S, 5.0, 1.0),
)
MOST_ISOLATION_S = max(isolation for _, isolation, _ in SETTINGS)


def terms_of(setting):
    """The durations of one of the settings."""
    expiry_s, isolation_s, interval_s = (int(seconds * 1e6) for seconds in setting)
    return TERMS._replace(lifetime_us=expiry_s, isolation_us=isolation_s, interval_us=interval_s)


def own_authority(directory):
    """The authority of all runs, in a directory of this one, where new signers are kept."""
    directory.mkdir()
    return dataclasses.replace(authority(), directory=directory)


class Head(Controller):
    """One of several controllers, at which operators act. All have one directory of the authority."""

    keep_s = max(expiry for expiry, _, _ in SETTINGS) + ALLOW_EXPIRED_S + MOST_ISOLATION_S + TERMS.skew_us / 1e6

    def _open(self):
        mine = self.world.authority
        begin = root(mine.cluster, mine.signer_key)
        self.sites.chain = self.follower.chain = Chain(begin, self.follower.holders.values())
        shared = {"overlay": self.overlay, "sequencer": self.sequencer, "clock": self.clock}
        self.regions = Regions(
            sites=self.sites, replicator=self.replicator, take_back=self.rotator.take_back, overlay=self.overlay
        )
        self.files = KeyFiles(sites=self.sites, terms=self.terms, cluster=mine.cluster, **shared)
        self.signer_turn = SignerTurn(
            authority=mine, sites=self.sites, replicator=self.replicator, deadline_s=DEADLINE_S, **shared
        )


class Region(Site):
    """A site with a feed of its own, at which keys are condemned without a controller."""

    def __init__(self, world, name, number):
        super().__init__(world, name, number)
        self.fed = Rows()
        self.panicked = set()  # ids of keys of which this site has said that nothing of them is accepted any more

    def _welcomed(self, welcome):
        self._chain_path.write_bytes(welcome.trusted)

    @property
    def _chain_path(self):
        return self.disk.root / "signers"

    def _own(self, store):
        trusted = msgspec.msgpack.decode(self._chain_path.read_bytes(), type=Trusted)
        self.follower.chain = Chain(trusted, self.follower.holders.values(), self._chain_path)
        feed = Feed(self.fed, self.loop, self.faults)
        own = OwnFeed(f"{self.name}/{self.instance}", store=feed, follower=self.follower, clock=self.clock)
        self.panic = Panic(follower=self.follower, own=own, clock=self.clock, place=self.name, issued=dict)
        return own

    def restore(self):
        super().restore()
        self.panicked = set()  # what the log has taken over, its backup need not have: it hears of it again
