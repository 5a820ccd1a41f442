"""What has to hold at every step, seen from outside: the log, the disks, the rings in use, every token ever sealed.

The invariants are named as in docs/adr/0027: tokens (6), one ring per epoch (7), turns go on (8), keys stay (9),
nobody opens what was made for another (23).
"""

from collections import Counter

from regional_keystone.bundle import read_header
from regional_keystone.holder import TOKEN
from regional_keystone.log import Put
from regional_keystone.model import Ring, Signing
from regional_keystone.model import Site as SiteRecord
from regional_keystone.record import decode
from regional_keystone.signing import SIGNING
from tests.model.nodes import ALLOW_EXPIRED_S, EXPIRY_S, HOLDER, ISOLATION_S, SKEW_S, key_ids


class Violation(AssertionError):
    """A promise is broken."""


class Judge:
    """Knows everything that ever was."""

    isolation_s = ISOLATION_S  # the longest that was ever promised

    def __init__(self, world):
        self.world = world
        self.turns = 0
        self.tokens = 0
        self.count = Counter()
        self.accepted_until = {}  # key id -> when the last good token sealed by it is accepted for the last time
        self.sealed_at = {}  # key id -> the newest wall clock in such a token
        self.texts = {}  # key id -> such a token
        self.rings = {}  # (name, epoch) -> (fingerprint, checks)
        self.ceased_s = {}  # key id -> when it ceased to be the primary
        self.appended_s = [0.0]  # by number of the entry
        self.installed = {}  # (site, ring) -> the newest epoch in use
        self.condemned = {}  # key id -> the number of the entry that says so, for as long as the log does
        self.hurried = set()  # keys that seal because the one before is condemned, whoever lacks them
        self._newest = {}
        self.signed_until = {}  # signing key id -> when the last good token signed with it is accepted for the last time
        self.signed_at = {}
        self.signing = None  # the record as the log has it

    def broken(self, rule, what):
        raise Violation(f"{rule}: {what}")

    # the log

    def appended(self, entries):
        """These are about to be the log's next. What is wrong with them ends the run, not the writer alone."""
        try:
            self._appended(entries)
        except Exception as error:
            self.world.loop.failures.append(error)
            raise

    def _appended(self, entries):
        sites = self.world.rows.at_head(SiteRecord)
        for entry in entries:
            self.appended_s.append(self.world.loop.time())
            for change in entry.changes:
                if isinstance(change, Put) and change.table == "sites":
                    record = decode(SiteRecord, change.row)
                    self._site_changed(sites.get((record.id,)), record)
                    sites[(record.id,)] = record
            self._condemn(entry)
            for change in entry.changes:
                if isinstance(change, Put) and change.table == "rings":
                    self._ring_put(decode(Ring, change.row), sites)
                elif isinstance(change, Put) and change.table == "signing":
                    self._signing_put(decode(Signing, change.row), sites)

    def _condemn(self, entry):
        for change in entry.changes:
            if change.table == "condemned" and isinstance(change, Put):
                self.world.tell(f"{change.key[0][:6]} is condemned")
                self.count["key condemned"] += 1
                self.condemned.setdefault(change.key[0], entry.number)
                self.lost(change.key[0])
            elif change.table == "condemned":
                self.condemned.pop(change.key[0], None)

    def lost(self, key):
        """Its tokens are owed to nobody any more, as they should."""
        self.accepted_until.pop(key, None)
        self.signed_until.pop(key, None)

    def is_owed(self, key):
        """Whether what it seals now has to be good."""
        return key not in self.condemned

    def lives_s(self, site):
        """For how long a token that this site issues now is accepted."""
        return EXPIRY_S + ALLOW_EXPIRED_S

    def _site_changed(self, old, new):
        if old is None or old.state != new.state:
            self.world.tell(f"{new.id} is {new.state}")
            self.count[f"site {new.state}"] += 1

    def _ring_put(self, ring, sites):
        now = self.world.loop.time()
        old = self._newest.get(ring.id)
        if old is not None and (ring.epoch, ring.fingerprint, ring.sealed) == (old.epoch, old.fingerprint, old.sealed):
            return  # the same ring, which may be used now
        if ring.epoch != (old.epoch + 1 if old else 1) or (ring.id, ring.epoch) in self.rings:
            self.broken("INV-7", f"epoch {ring.epoch} of {ring.id} follows {old and old.epoch}")
        holding = {site.id for site in sites.values() if site.state in ("active", "quarantined")}
        if set(ring.sealed) != holding | {HOLDER}:
            self.broken(
                "INV-23", f"epoch {ring.epoch} is sealed for {sorted(ring.sealed)}, holders are {sorted(holding)}"
            )
        for holder, data in ring.sealed.items():
            if read_header(data).holder != holder:
                self.broken("INV-23", f"what is sealed for {holder} says {read_header(data).holder}")
        self.rings[ring.id, ring.epoch] = ring.fingerprint, dict(ring.checks)
        self._newest[ring.id] = ring
        if old is None or ring.id != TOKEN:
            return
        for key in set(old.checks.values()) - set(ring.checks.values()):
            self._retired(key, now)
        before, after = old.checks[max(old.checks)], ring.checks[max(ring.checks)]
        if before in self.condemned:
            self.count["primary that was not waited for"] += before != after
            self.hurried.add(after)
            self.ceased_s.setdefault(before, now)
        elif before != after:
            self._turned(before, after, sites, now, ring.epoch)

    def _turned(self, before, after, sites, now, epoch):
        self.turns += 1
        self.world.tell(f"turned to epoch {epoch}, {after[:6]} seals")
        self.ceased_s[before] = now
        for site in sites.values():
            machine = self.world.sites.get(site.id)
            if site.state != "active" or machine is None or machine.instance != site.instance or machine.went_back:
                continue
            if after not in (machine.disk.keys(TOKEN)):
                self.broken("INV-6", f"{after[:6]} seals, and {site.id}, which is active, does not hold it on its disk")

    def _retired(self, key, now):
        self.count["keys retired"] += 1
        if self.accepted_until.get(key, 0.0) >= now:
            self.broken(
                "INV-9", f"{key[:6]} is retired, a token of it lives {self.accepted_until[key] - now:.2f} s more"
            )

    def _signing_put(self, record, sites):
        old, self.signing = self.signing, record
        now, before = self.world.loop.time(), old.keys if old else {}
        if old is not None and record.epoch <= old.epoch:
            self.broken("INV-7", f"epoch {record.epoch} of signing keys follows {old.epoch}")
        for name, key in record.keys.items():
            if key.signs_from is not None and (name not in before or before[name].signs_from is None):
                self.count["signing key usable"] += 1
                self._usable(name, sites)
        for name in before.keys() - record.keys.keys():
            self.count["signing key gone"] += 1
            if self.signed_until.get(name, 0.0) >= now:
                self.broken("INV-9", f"signing key {name[:6]} is gone, a token of it lives")

    def _usable(self, name, sites):
        for site in sites.values():
            machine = self.world.sites.get(site.id)
            if site.state != "active" or machine is None or machine.instance != site.instance:
                continue
            if machine.replica.applied < machine.had:
                continue  # rings of the same keys do not make up for what its replica has lost
            known = machine.replica.tables.get("signing", {}).get((SIGNING,))
            if known is None or name not in known.keys:
                self.broken("INV-6", f"signing key {name[:6]} may be used, and {site.id}, which is active, lacks it")

    # the sites

    def signed(self, site, key):
        """A site has issued a token, signed with this key of its own."""
        now = self.world.loop.time()
        self.count["token signed"] += 1
        if key in site.follower.condemned:
            self.broken("condemned", f"{site.name} signs with {key[:6]}, which it knows to be stolen")
        record = self.world.rows.at_head(SiteRecord).get((site.name,))
        if record is None or record.instance != site.instance or not site.clock_is_right or not self.is_owed(key):
            return
        known = self.signing.keys.get(key)
        if known is None or known.signs_from is None or known.owner != site.name:
            self.broken("INV-9", f"{site.name} signs with {key[:6]}, which the log has not, or not as usable by it")
        self.signed_until[key] = now + self.lives_s(site)
        self.signed_at[key] = max(site.clock.now(), self.signed_at.get(key, 0))
        self.look_signed()

    def look_signed(self):
        """Every signed token that lives is verified at every site that answers, or may be that of a key on its way."""
        now = self.world.loop.time()
        for key in [key for key, until in self.signed_until.items() if until < now]:
            del self.signed_until[key]
        for site in self.world.sites.values():
            record = self.world.rows.at_head(SiteRecord).get((site.name,))
            if site.ring is None or not site.clock_is_right or record is None or record.instance != site.instance:
                continue
            for key in self.signed_until if record.state != "removed" else ():
                if site.follower.accepts_key(key):
                    self.count["signed token verified"] += 1
                elif site.follower.may_lack_key(self.signed_at[key]):
                    self.count["503 for want of a signing key"] += 1
                else:
                    self.broken("INV-6", f"{site.name} would refuse a good token of signing key {key[:6]} with 401")

    def sealed(self, site, text, key):
        """A site has issued a token, sealed by this key."""
        now = self.world.loop.time()
        self.tokens += 1
        self._heeds(site)
        if key in site.follower.condemned:
            self.broken("condemned", f"{site.name} seals with {key[:6]}, which it knows to be stolen")
        record = self.world.rows.at_head(SiteRecord).get((site.name,))
        if record is None or record.instance != site.instance or not site.clock_is_right:
            return
        lacks = site.follower.position + 1
        if lacks < len(self.appended_s) and now - self.appended_s[lacks] > self.isolation_s + 0.001:
            self.broken(
                "lease", f"{site.name} seals, and lacks an entry that is {now - self.appended_s[lacks]:.1f} s old"
            )
        if not self.is_owed(key):
            return  # by one that has not heard of it yet: nobody is owed that this is good
        ceased = self.ceased_s.get(key)
        if ceased is not None and now > ceased + self.isolation_s + SKEW_S:
            self.broken("lease", f"{site.name} seals with {key[:6]}, which ceased {now - ceased:.1f} s ago")
        if key not in self._newest[TOKEN].checks.values():
            self.broken("INV-9", f"{site.name} seals with {key[:6]}, which is retired")
        self.accepted_until[key] = now + self.lives_s(site)
        self.sealed_at[key] = max(site.clock.now(), self.sealed_at.get(key, 0))
        self.texts[key] = text
        self.look(site_changed=None)

    def _heeds(self, site):
        """What a site has on its disk of condemned keys counts, whatever bundles it took since."""
        for key, number in self.condemned.items():
            if site.replica.applied >= number and site.follower.accepts_key(key):
                self.broken("condemned", f"{site.name} accepts {key[:6]}, which it was told to be stolen")

    def look(self, site_changed=None):
        """Every token that lives is opened at every site that answers, by the ring that it uses now."""
        now = self.world.loop.time()
        alive = [key for key, until in self.accepted_until.items() if until >= now]
        if len(self.accepted_until) > 3 * len(alive) + 20:
            self.accepted_until = {key: self.accepted_until[key] for key in alive}
        for site in self.world.sites.values() if site_changed is None else (site_changed,):
            ring = site.ring
            if ring is not None and site.clock_is_right:
                ids = key_ids_of(ring)
                for key in alive:
                    if key not in ids:
                        self._lacks(site, key)

    def _lacks(self, site, key):
        record = self.world.rows.at_head(SiteRecord).get((site.name,))
        if record is None or record.state == "removed" or record.instance != site.instance:
            return
        if record.state == "active" and not site.went_back and key not in self.hurried:
            self.broken("INV-6", f"{site.name}, which is active, cannot open a token of {key[:6]}, which lives")
        if not site.follower.may_lack_key(self.sealed_at[key]):
            self.broken("INV-6", f"{site.name} would refuse a good token of {key[:6]} with 401 instead of 503")
        self.count["503 for want of a key"] += 1

    def installed_(self, site):
        """A site uses another ring than it did."""
        ring = site.ring
        known = self.rings.get((TOKEN, ring.epoch))
        rest = site.went_back and known and ring.check_values().items() <= known[1].items()  # of a damaged directory
        if not rest and (known is None or known[0] != ring.fingerprint):
            self.broken("INV-7", f"{site.name} uses a ring of epoch {ring.epoch} that the log has not")
        before = self.installed.get(site.name, 0)
        if ring.epoch < before and not site.went_back:
            self.broken("INV-7", f"{site.name} goes from epoch {before} to {ring.epoch}")
        self.installed[site.name] = ring.epoch
        if site.went_back and ring.check_values() == self._newest[TOKEN].checks:
            site.went_back = False  # and not with a ring of that epoch of which the directory has lost keys
        self.count["rings installed"] += 1
        self._heeds(site)
        self.look(site)


_IDS = {}


def key_ids_of(ring):
    found = _IDS.get(id(ring))
    if found is None or found[0] is not ring:
        if len(_IDS) > 500:
            _IDS.clear()
        found = _IDS[id(ring)] = ring, key_ids(ring)
    return found[1]
