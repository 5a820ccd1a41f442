"""Whether this place may seal tokens now, and how long they may live: what its ring was promised, and since when.

Separate from follow, which tells it what the log has and how fresh that is; the rule itself is lease.
"""

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from regional_keystone.bundle import BundleRefused, read_header
from regional_keystone.condemned import SETTLE_US, sealing_number
from regional_keystone.errors import Unavailable
from regional_keystone.holder import Holder
from regional_keystone.keys import KeyRing
from regional_keystone.lease import Lease
from regional_keystone.model import Ring, Signing
from regional_keystone.ports import Clock

log = structlog.get_logger("sealing")

_NO_KEY = (
    "The key that tokens are sealed with here was condemned, and its successor is not in use yet, so no token can be"
    " issued; tokens of other keys are good."
)
_UNTOLD = (
    "The keys in the directory here are newer than what is known of them, so no token can be issued for a few seconds"
    " after a start."
)

_REFUSED = (
    "Sealed tokens are refused in this federation, and this region is set to issue them: set `[token] provider = jws`"
    " here, or have them read again with `rkctl signing sealed --read`."
)
_NOT_YET_READ = "Sealed tokens are to be read again, which some region may not have heard of yet; try again."


_APART_US = 1_000_000  # former versions noted one moment some microseconds after the other
UNNOTED_US = 20_000_000  # a site notes every ten to fifteen seconds that it lives


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What a place knows of its own freshness and of its leave to seal, by the wall clock, so that a restart keeps it.

    `sure_at`: when the ring in use was known to be the newest one; `isolation_us` and `lifetime_us`: what came with it.
    `noted_at`: when this was noted; by a clock that was set back behind it, no time can be counted. `issues_kept`: when
    a token was issued last was written down as well, which former versions did not.
    """

    fresh_at: int
    noted_at: int = 0  # of the former version
    sure_at: int | None = None
    isolation_us: int = 0
    lifetime_us: int = 0
    issues_kept: bool = False

    @property
    def lived_until(self) -> int:
        """How long who noted this may have lived, by the clock that it was noted by."""
        return self.noted_at + UNNOTED_US


class Lives(NamedTuple):
    """How long tokens live, and for how long after that they may be shown, in microseconds; None: nothing is said."""

    lifetime_us: int | None = None
    allow_expired_us: int | None = None


class Lasting:
    """What may be noted of a place: the newest that holds of its replica as it is on disk, not of its memory alone.

    A restart goes on from the replica. What was noted while entries waited to be written would have it believe that it
    knows them.
    """

    def __init__(self) -> None:
        self._noted: Noted | None = None
        self._waits: tuple[int, Noted] | None = None

    def newest(self, position: int, projected: int, now: Noted) -> Noted | None:
        """`now` holds with all up to `position`, of which the replica has what is up to `projected`."""
        if self._waits is not None and self._waits[0] <= projected:
            self._noted, self._waits = self._waits[1], None
        if position <= projected:
            self._noted = now
        elif self._waits is None:
            self._waits = position, now
        if self._noted is None:
            return None
        return msgspec.structs.replace(self._noted, noted_at=now.noted_at)


class Leave:
    """The leave to seal of one place, with the token ring that it holds."""

    def __init__(self, holder: Holder, clock: Clock, isolation_s: float, *, leads: bool) -> None:
        """`isolation_s`: what is promised where no bundle says it. `leads`: nobody else appends."""
        self.epoch = 0  # of the newest ring that the log tells of
        self.lifetime_us = 0  # how long a token may live that is sealed with the ring in use; 0: nothing is said
        self.wanted = Lives()  # what is set here
        self.allow_expired_us: int | None = None  # how long keys are kept for what has expired; None: nothing is said
        self._complained = Lives()
        self._holder = holder
        self._clock = clock
        self._leads = leads
        self._lease = Lease(isolation_s)
        self._newest: Ring | None = None
        self._began = clock.ticks()
        self._lasting = Lasting()

    def heard(self, ring: Ring) -> None:
        """The log has this ring: until it is installed, the time runs from before."""
        if ring.id == self._holder.of:
            if self._leads:
                self.renew(None)
            self.epoch, self._newest = max(self.epoch, ring.epoch), ring if ring.epoch >= self.epoch else self._newest

    def installed(self, ring: Ring, fresh_ticks: float | None) -> None:
        """What this ring says holds from now on, if it is the one in use."""
        if ring.id == self._holder.of and (ring.epoch, ring.fingerprint) == self._holder.seen:
            self.lifetime_us = ring.lifetime_us
            primary = ring.times.get(max(ring.checks, default=0))
            self.allow_expired_us = primary.allow_expired_us if primary is not None and primary.lifetime_us else None
            self._compare()
            self._lease = self._lease.promising(self._promise_s(ring))
            self.renew(fresh_ticks)

    def renew(self, fresh_ticks: float | None) -> None:
        """All that the log held at `fresh_ticks` is known here; counts if the ring in use is the newest of that."""
        ticks = self._clock.ticks() if self._leads else fresh_ticks
        if ticks is not None and self.epoch and not self.is_behind:
            self._lease = self._lease.renewed(ticks)

    @property
    def is_behind(self) -> bool:
        """Whether the ring in use is not the log's newest: an older one, or of a log that was put back since."""
        return self._newest is not None and (self.epoch, self._newest.fingerprint) != self._holder.seen

    def left_s(self) -> float:
        """For how many seconds tokens may still be sealed if nothing more is heard; 0 when it is over."""
        if self._leads:
            self.renew(None)
        return self._lease.left_s(self._clock.ticks())

    def why_not(self) -> str | None:
        """Why no token may be sealed now; None when it may."""
        if self.left_s() > 0:
            return None
        if self.is_behind:
            return "This region could not take up the newest keys for too long, so it issues no tokens."
        if self._lease.sure_at is None:
            return "This region has not been in touch with a controller yet, so it issues no tokens."
        return "This region has been cut off for too long to issue tokens."

    def number(self, ring: KeyRing, condemned: Collection[str]) -> int:
        """The number of the key of this ring to seal with. Raises Unavailable where that is none.

        Where a Keystone's keys are used as well, its primary seals if that is wanted, and else the controller's ring
        decides, whose keys have other numbers in the ring in use.
        """
        followed = self._holder.followed
        if followed is not None and followed.seals and ring.key_ids[ring.primary] not in condemned:
            return ring.primary
        turned = ring if followed is None else self._holder.installed
        record = self._newest
        if self._is_untold(turned, record) and self._clock.ticks() - self._began < SETTLE_US / 1e6:
            raise Unavailable(_UNTOLD, retry_after_s=5)  # it came before this process began: by then it may be used
        number = sealing_number(turned, condemned, record, self._clock.now())
        if number is None:
            raise Unavailable(_NO_KEY, retry_after_s=5)
        return number if turned is ring else _place(ring, turned.key_ids[number])

    @staticmethod
    def _is_untold(ring: KeyRing, record: Ring | None) -> bool:
        """Whether the ring is newer than all that is known, and has a primary that nothing is known of."""
        newer = record is not None and record.epoch < ring.epoch
        return newer and record is not None and ring.key_ids[ring.primary] != record.checks[max(record.checks)]

    def noted(self, fresh_at: int, position: int, projected: int) -> Noted | None:
        """What a later life has to `recall`, which knows what was `projected` of all that is known up to `position`."""
        sure, isolation_us = self._lease.sure_at, int(self._lease.promise_s * 1_000_000)
        now, lifetime_us = self._clock.now(), self.lifetime_us
        # never newer than all else: the clocks were read a moment later than for that
        sure_at = None if sure is None else min(fresh_at, now - int((self._clock.ticks() - sure) * 1_000_000))
        noted = Noted(
            issues_kept=True,
            fresh_at=fresh_at,
            noted_at=now,
            sure_at=sure_at,
            isolation_us=isolation_us,
            lifetime_us=lifetime_us,
        )
        return self._lasting.newest(position, projected, noted)

    def recall(self, noted: Noted) -> None:
        """Take up what an earlier life has noted."""
        self.lifetime_us = noted.lifetime_us
        if noted.isolation_us:
            self._lease = self._lease.promising(noted.isolation_us / 1_000_000)
        if noted.sure_at is not None and noted.sure_at <= noted.fresh_at + _APART_US:
            sure_at = min(noted.sure_at, noted.fresh_at)
            self._lease = self._lease.renewed(self._clock.ticks() - (self._clock.now() - sure_at) / 1_000_000)

    def _compare(self) -> None:
        """Complain, once, of what is set here to last longer than the keys are kept: it does not."""
        kept = Lives(self.lifetime_us or None, self.allow_expired_us)
        if kept == self._complained:
            return
        self._complained = kept
        options = ("token.expiration", "token.allow_expired_window")
        for option, wanted, us in zip(options, self.wanted, kept, strict=True):
            if wanted is not None and us is not None and us < wanted:
                cure = (
                    f"set it so at the controllers, which keep keys for it, or shorten it here; {us // 10**6} s count"
                )
                log.error(
                    "longer_than_keys_are_kept", option=option, here_s=wanted // 10**6, kept_s=us // 10**6, cure=cure
                )

    def _promise_s(self, ring: Ring) -> float:
        with suppress(BundleRefused, KeyError):
            isolation_us = read_header(ring.sealed[self._holder.name]).isolation_us
            if isolation_us is not None:
                return isolation_us / 1_000_000
        return self._lease.promise_s  # of a bundle of the former format


def check_read(said: Signing, now: int) -> None:
    """Raises Unavailable where a sealed token would be refused, or might be by who has not heard that it is read again.

    By the end of `SETTLE_US` who has not heard of it knows that it has been apart, as with a key that settles.
    """
    if said.refuses_sealed:
        raise Unavailable(_REFUSED, retry_after_s=30)
    if said.sealed_told_at and now < said.sealed_told_at + SETTLE_US:
        raise Unavailable(_NOT_YET_READ, retry_after_s=5)


def _place(ring: KeyRing, key_id: str) -> int:
    """The number that this key has in this ring."""
    return next(number for number, name in ring.key_ids.items() if name == key_id)
