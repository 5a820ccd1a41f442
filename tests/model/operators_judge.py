"""What has to hold as well once operators act: their word stands, what they bring or condemn seals nothing.

Beside the rules of `judge`, and of the signers of bundles: INV-23.
"""

from collections import Counter

from regional_keystone.bundle import read_header, signer_id
from regional_keystone.log import Put
from regional_keystone.model import Ring, SignerChain
from regional_keystone.model import Site as SiteRecord
from regional_keystone.record import decode
from regional_keystone.signer_chain import followed, root
from tests.model.judge import Judge
from tests.model.nodes import ALLOW_EXPIRED_S
from tests.model.operators_nodes import MOST_ISOLATION_S


class OperatorsJudge(Judge):
    """Knows what operators have asked for as well."""

    isolation_s = MOST_ISOLATION_S

    def __init__(self, world):
        super().__init__(world)
        self.taken_back = Counter()  # sites that operators are about to take back, and how many
        self.panicked = set()  # keys that a site's operator has begun to condemn there
        self.imported = set()
        self.trusted = None  # by the log: whose signatures on bundles count
        self._have_signed = set()

    def is_owed(self, key):
        return super().is_owed(key) and key not in self.panicked

    def lives_s(self, site):
        window_us = site.follower.allow_expired_us  # a restart does not know it before it has heard of a ring
        return site.follower.lifetime_us / 1e6 + (ALLOW_EXPIRED_S if window_us is None else window_us / 1e6)

    def panic(self, keys):
        """An operator begins to condemn these at a site: from now on nobody is owed what they seal."""
        self.panicked |= set(keys)
        for key in keys:
            self.lost(key)

    def _appended(self, entries):
        before = dict(self.world.rows.at_head(SiteRecord))
        rings = dict(self.world.rows.at_head(Ring))
        for entry in entries:
            for change in (one for one in entry.changes if isinstance(one, Put)):
                if change.table == "sites":
                    record = decode(SiteRecord, change.row)
                    self._stands(before.get((record.id,)), record)
                    before[(record.id,)] = record
                elif change.table == "signers":
                    self._stated(decode(SignerChain, change.row))
        for entry in entries:
            for change in (one for one in entry.changes if isinstance(one, Put) and one.table == "rings"):
                ring = decode(Ring, change.row)
                self._made(rings.get((ring.id,)), ring)
                rings[(ring.id,)] = ring
        super()._appended(entries)

    def _stands(self, old, new):
        """Who was set aside by an operator stays so until an operator takes it back, or it is removed."""
        if new.by_operator and new.state != "quarantined":
            self.broken("operator", f"{new.id} is {new.state}, and an operator has set it aside")
        if old is None or not old.by_operator or new.state == "removed":
            return
        if not new.by_operator and not self.taken_back[new.id]:
            self.broken("operator", f"{new.id} counts again, and no operator has said so")
        if not new.by_operator:
            self.count["taken back by an operator"] += 1

    def _stated(self, record):
        mine = self.world.authority
        old = self.trusted or root(mine.cluster, mine.signer_key)
        new = self.trusted = followed(record.chain, old)
        self._have_signed |= {old.signing, new.signing}
        if not set(new.ceasing) <= self._have_signed:
            self.broken("INV-23", f"statement {new.number} drops a signer that was announced and never signed")
        if new.number != old.number + 1:
            self.broken("INV-23", f"statement {new.number} follows {old.number}")
        self.count["signer stated"] += 1
        if len(new.retired) > len(old.retired):
            self.count["signer retired"] += 1
            for ring in self.world.rows.at_head(Ring).values():
                self._signed(ring)

    def _signed(self, ring):
        """Who has to install it can check it."""
        good = {signer_id(one) for one in self.trusted.signers} if self.trusted else None
        by = {read_header(data).signer for data in ring.sealed.values()}
        if good is not None and not by <= good:
            self.broken("INV-23", f"epoch {ring.epoch} of {ring.id} is signed by one that counts no more")

    def _made(self, old, ring):
        self._signed(ring)
        if old is None or old.epoch == ring.epoch:
            return
        fresh = {number: key for number, key in ring.checks.items() if key not in old.checks.values()}
        if back := sorted(set(fresh.values()) & set(self.condemned)):
            self.broken("condemned", f"epoch {ring.epoch} of {ring.id} brings back {back[0][:6]}, which was stolen")
        came = {key for number, key in fresh.items() if number not in (0, max(ring.checks))}
        self.count["key imported"] += len(came)
        self.imported |= came

    def sealed(self, site, text, key):
        if key in self.imported:
            self.broken("imported", f"{site.name} seals with {key[:6]}, which was brought in and others may lack")
        super().sealed(site, text, key)

    def _heeds(self, site):
        super()._heeds(site)
        for key in site.panicked:
            if site.follower.accepts_key(key):
                self.broken("condemned", f"{site.name} accepts {key[:6]}, which was condemned there")
