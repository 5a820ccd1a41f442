"""Whose public keys sign tokens, from when to when: offered, held by every site, in use, ceased, retired by time.

What happens to the record is pure (`offered`, `settled`); it is written in transactions that read every site, so that
none can join or come back between the acknowledgements and the key's use. Source:
docs/adr/0022-a-key-pair-per-site.md.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from controller.commit import Sequencer
from controller.key_marks import mark, marks
from controller.replicate import Replicator
from controller.seldom import Seldom
from controller.sites import Sites
from controller.sure_now import SureNow
from controller.turning import HOLDING, Terms, promised
from controller.unaware import Unaware
from regional_keystone.errors import Conflict, IdentityError, Invalid, NotFound
from regional_keystone.log import Change, put
from regional_keystone.messages import Offer
from regional_keystone.model import MaySign, Project, Signing, SigningKey, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.signing import CONTROLLER, SIGNING, TRUSTED, Signatory, Signers, proven

log = structlog.get_logger("signing_keys")

MOST_KEYS = 8  # of one owner at a time: a site that was taken over cannot fill the log
ANY = ["*"]  # domains, as they are asked for
_CURE = "set `[token] provider = jws` where tokens are to be signed"
_AGAIN_US = 10_000_000  # after which an offer may take the place of another
_LOOK_S = 1.0
_SECOND_US = 1_000_000


def offered(record: Signing, owner: str, name: str, public: bytes, now: int) -> Signing | None:
    """The record with a key that its owner offers, which takes the place of one that was never used; None if known.

    Raises Conflict for another's key, and for one too many.
    """
    known = record.keys.get(name)
    if known is not None:
        if known.owner != owner:
            raise Conflict(f"Signing key {name} is {known.owner}'s.")
        return None
    pending = [key for key in record.keys.values() if key.owner == owner and key.signs_from is None]
    if any(0 <= now - key.offered_at < _AGAIN_US for key in pending):
        raise Conflict(f"{owner} has offered another signing key a moment ago.")
    keys = {one: key for one, key in record.keys.items() if key.owner != owner or key.signs_from is not None}
    if sum(key.owner == owner for key in keys.values()) >= MOST_KEYS:
        raise Conflict(f"{owner} has {MOST_KEYS} signing keys that tokens may live of.")
    epoch = record.epoch + 1
    keys[name] = SigningKey(owner=owner, public=public, epoch=epoch, offered_at=now)
    return msgspec.structs.replace(record, epoch=epoch, keys=keys)


def settled(
    record: Signing,
    there: Collection[str],
    waits: Callable[[int], Sequence[str]],
    now: int,
    terms: Terms,
    sure_now: int | None = None,
) -> Signing | None:
    """The record as it is to be now; None if it stays.

    A key is used once nobody is waited for (`waits`, by epoch), and its owner's former key ceases with that; so does
    the key of who is not `there` any more, or was a controller and does not answer. Whatever ceased is gone when
    nothing of it can live, never earlier, by `sure_now` if that is not `now`.
    """
    sure_now = now if sure_now is None else sure_now
    keys: dict[str, SigningKey] = {}
    for name, key in record.keys.items():
        is_there = key.owner in there or _answers(key.owner, record, sure_now, terms)
        if (key.keep_until is not None and sure_now > key.keep_until) or not (is_there or key.signs_from):
            continue
        keys[name] = _promised(key, terms) if is_there else _ceased(key, now, terms)
    for name, key in list(keys.items()):
        if key.signs_from is None and not waits(key.epoch):
            for other, former in keys.items():
                if former.owner == key.owner and former.signs_from is not None:
                    keys[other] = _ceased(former, now, terms)
            keys[name] = _promised(msgspec.structs.replace(key, signs_from=now), terms)
    renew = record.renew | dict.fromkeys(_due(keys, record, now, terms), now)
    if (keys, renew) == (record.keys, record.renew):
        return None
    return msgspec.structs.replace(record, epoch=record.epoch + 1, keys=keys, renew=renew)


def _answers(owner: str, record: Signing, now: int, terms: Terms) -> bool:
    """Whether this is a controller that is there, as far as is known: there is no record of those.

    One that was asked for another key offers it as soon as it reads that, so a name that has not within the promised
    isolation is nobody's any more: the controller was given another, or is gone.
    """
    if not owner.startswith(CONTROLLER):
        return False
    asked = record.renew.get(owner)
    offered_at = max(key.offered_at for key in record.keys.values() if key.owner == owner)
    return asked is None or offered_at >= asked or now - asked <= terms.isolation_us


def _promised(key: SigningKey, terms: Terms) -> SigningKey:
    """The most of what was promised while it signs."""
    return key if key.signs_from is None or key.ceased_at is not None else promised(key, terms)


def _ceased(key: SigningKey, now: int, terms: Terms) -> SigningKey:
    """From now on its owner has another, or is gone; who is cut off may sign with it for as long as was promised."""
    if key.ceased_at is not None:
        return key
    most = _promised(key, terms)
    keep_us = most.isolation_us + most.lifetime_us + most.allow_expired_us + terms.skew_us
    return msgspec.structs.replace(most, ceased_at=now, keep_until=now + keep_us)


def _due(keys: dict[str, SigningKey], record: Signing, now: int, terms: Terms) -> list[str]:
    """Whose key is to be followed by another: its interval is over, and none was asked for since."""
    if not terms.interval_us:
        return []
    return [
        key.owner
        for key in keys.values()
        if key.signs_from is not None
        and key.ceased_at is None
        and now - key.signs_from >= terms.interval_us
        and record.renew.get(key.owner, 0) <= key.offered_at
    ]


class SigningKeys:
    """Takes offers, and lets keys be used once every site that is not quarantined holds them."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        sites: Sites,
        clock: Clock,
        cluster: str,
        terms: Terms,
        deadline_s: float,
    ) -> None:
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._sites = sites
        self._clock = clock
        self._say_of = Seldom(clock)
        self._cluster = cluster
        self._terms = terms
        self._deadline_us = int(deadline_s * _SECOND_US)
        self._sure_now = SureNow(clock)
        self._unaware = Unaware(clock)
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Something was acknowledged."""
        self._stirred.set()

    async def hear(self, site: str, offer: Offer) -> None:
        """A site's offer; one that is not good is refused loudly, and the site goes on with what it has."""
        try:
            await self.offer(site, offer.public, offer.proof)
        except IdentityError as error:
            self._say_of(log.error, "signing_key_refused", site, owner=site, why=error.message)

    async def offer(self, owner: str, public: bytes, proof: bytes) -> None:
        """Make this key known as its owner's. Safe to repeat. Raises Invalid, Conflict, Unavailable."""
        try:
            name = proven(self._cluster, owner, public, proof)
        except ValueError as error:
            raise Invalid(f"That is no signing key of {owner}: {error}.") from None
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], bool]:
            site = None if owner.startswith(CONTROLLER) else await reader.get(Site, owner)
            if not owner.startswith(CONTROLLER) and (site is None or site.state not in HOLDING):
                raise Conflict(f"{owner} is no site of this federation.")
            old = await reader.get(Signing, SIGNING)
            fresh = offered(old or Signing(id=SIGNING, epoch=0), owner, name, public, now)
            return ([], False) if fresh is None else ([put(fresh, old)], True)

        done, _ = await transact(self._overlay, self._sequencer, _name("offer"), decide)
        if done:
            self._say_of(log.warning, "signing_key_offered", owner, id=name, owner=owner)
            self.stir()

    async def run(self, own: Signatory | None = None) -> None:
        """Offer the controller's own key, and let every key go on with its life; for ever."""
        said = ""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                if own is not None and (offer := own.offer()) is not None:
                    await self.offer(own.owner, *offer)
                await self.settle()
                said = ""
            except IdentityError as error:  # the log, or what was acknowledged, cannot be read or written now
                if error.message != said:
                    log.error("signing_keys_not_settled", why=error.message)
                said = error.message

    async def settle(self) -> None:
        """One step: what may be used is, who holds it up too long is quarantined, what nothing lives of is gone."""
        record = await self._overlay.get(Signing, SIGNING)
        if record is None:
            return
        await self._replicator.acknowledgements.refresh()
        now = self._clock.now()
        if self._settled(record, await self._sites.all(), now) is not None:
            await transact(self._overlay, self._sequencer, _name("settle"), self._decide(now))
        await self._quarantine(now)

    async def rotate(self, owner: str) -> None:
        """Ask an owner to make itself a new key, which follows its present one once all hold it. Raises NotFound."""
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            old = await reader.get(Signing, SIGNING)
            if old is None or all(key.owner != owner for key in old.keys.values()):
                raise NotFound(f"{owner} has no signing key; {_CURE}.")
            return [put(_next(old, renew=old.renew | {owner: now}), old)], None

        await transact(self._overlay, self._sequencer, _name("rotate"), decide)

    async def allow(self, owner: str, domains: Sequence[str] | None, *, system: bool | None) -> MaySign:
        """What this owner may sign for from now on, everywhere at once. None: as it was; `domains` of ANY: any.

        Raises NotFound for an owner and a domain that are not there.
        """

        async def decide(reader: Recording) -> tuple[list[Change], MaySign]:
            old = await reader.get(Signing, SIGNING)
            site = await reader.get(Site, owner)
            known = {key.owner for key in old.keys.values()} if old else set()
            if owner not in known | {TRUSTED} and (site is None or site.state == "removed"):
                raise NotFound(f"Could not find site: {owner}; `rkctl region list` names them.")
            for domain_id in () if domains in (None, ANY) else domains or ():
                domain = await reader.get(Project, domain_id)
                if domain is None or not domain.is_domain:
                    raise NotFound(f"Could not find domain: {domain_id}.")
            before = Signers(old).may(owner)
            may = MaySign(
                domains=before.domains if domains is None else None if domains == ANY else tuple(sorted(set(domains))),
                system=before.system if system is None else system,
            )
            record = old or Signing(id=SIGNING, epoch=0)
            return [put(_next(record, may=record.may | {owner: may}), old)], may

        may, _ = await transact(self._overlay, self._sequencer, _name("allow"), decide)
        log.warning("signer_may", owner=owner, domains=may.domains, system=may.system)
        return may

    async def status(self) -> list[dict[str, Any]]:
        """Every key: whose, since when, what it waits for, what its owner may sign for."""
        await self._replicator.acknowledgements.refresh()
        record = await self._overlay.get(Signing, SIGNING)
        signers, sites, known = Signers(record), await self._sites.all(), await marks(self._overlay)
        return [
            {
                "id": name,
                "owner": key.owner,
                "state": _state(key),
                "waits_for": [] if key.signs_from is not None else self._waits(sites, key.epoch),
                "offered_at": key.offered_at,
                "signs_from": key.signs_from,
                "ceased_at": key.ceased_at,
                "keep_until": key.keep_until,
                "domains": ANY if (may := signers.may(key.owner)).domains is None else list(may.domains or ()),
                "system": may.system,
                **mark(name, known),
            }
            for name, key in signers.record.keys.items()
        ]

    async def lacks(self, site: Site) -> bool:
        """Whether this site does not hold every key that may be used now."""
        record = await self._overlay.get(Signing, SIGNING)
        epochs = [key.epoch for key in record.keys.values() if key.signs_from is not None] if record else []
        return bool(epochs) and not self._holds(site, max(epochs))

    def _decide(self, now: int) -> Callable[[Recording], Any]:
        async def decide(reader: Recording) -> tuple[list[Change], None]:
            old = await reader.get(Signing, SIGNING)
            sites = [site async for site in reader.scan(Site)]
            fresh = None if old is None else self._settled(old, sites, now)
            if fresh is None:
                return [], None
            for name, key in fresh.keys.items():
                if key.signs_from == now:
                    log.warning("signing_key_usable", id=name, owner=key.owner)
            return [put(fresh, old)], None

        return decide

    def _settled(self, record: Signing, sites: Sequence[Site], now: int) -> Signing | None:
        there = {site.id for site in sites if site.state in HOLDING}
        fresh = {key.epoch for name, key in record.keys.items() if not key.signs_from and self._unaware.is_fresh(name)}

        def waits(epoch: int) -> list[str]:
            return self._waits(sites, epoch, HOLDING if epoch in fresh else ("active",))

        return settled(record, there, waits, now, self._terms, self._sure_now())

    def _waits(self, sites: Sequence[Site], epoch: int, states: Collection[str] = ("active",)) -> list[str]:
        return [site.id for site in sites if site.state in states and not self._holds(site, epoch)]

    def _holds(self, site: Site, epoch: int) -> bool:
        """Whether it has acknowledged this epoch of the record, or a later one, which has all that is not retired."""
        return self._replicator.acknowledgements.of(site).rings.get(SIGNING, (0, ""))[0] >= epoch

    async def _quarantine(self, now: int) -> None:
        record, sites = await self._overlay.get(Signing, SIGNING), await self._sites.all()
        late = [
            key
            for key in (record.keys.values() if record else ())
            if key.signs_from is None and now - key.offered_at > self._deadline_us
        ]
        for name in sorted({name for key in late for name in self._waits(sites, key.epoch)}):
            since = next(site.since for site in sites if site.id == name)
            if not 0 <= now - since < self._deadline_us:  # else it joined or came back meanwhile
                why = f"it did not acknowledge a signing key within {self._deadline_us // _SECOND_US} s"
                await self._sites.set_state(name, "quarantined", why)


def _next(record: Signing, **changes: Any) -> Signing:
    return msgspec.structs.replace(record, epoch=record.epoch + 1, **changes)


def _state(key: SigningKey) -> str:
    if key.signs_from is None:
        return "offered"
    return "in use" if key.ceased_at is None else "ceased"


def _name(what: str) -> str:
    return f"signing/{what}/{secrets.token_hex(8)}"
