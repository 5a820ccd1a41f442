"""When keys are stolen: condemns them, turns the rings away from them at once, and says what that costs.

Condemning is a record that only grows, so it needs no lock and waits for nobody; the ring that follows it is a
transaction like any turn, so that no two controllers make two of one epoch. Source: docs/adr/0026-condemned-keys.md.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from cryptography.fernet import Fernet

from controller.commit import Sequencer
from controller.key_marks import marks
from controller.replicate import Replicator
from controller.sites import RINGS, Sites
from controller.sure_now import SureNow
from controller.turning import HOLDING, Terms, sealed_again, turned
from controller.unaware import Unaware
from regional_keystone.condemned import KEY_ID, SETTLE_US
from regional_keystone.errors import IdentityError, Invalid, NotFound
from regional_keystone.holder import CREDENTIAL, TOKEN
from regional_keystone.issue_counts import Issues, live
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, put, remove
from regional_keystone.model import Condemned, KeyTimes, Proposal, Ring, Signing, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.record import Touch
from regional_keystone.signing import SIGNING

log = structlog.get_logger("compromise")

_AGAIN_S, _LOOK_S, _SETTLED_S = 1.0, 30.0, 0.1
HERE = "controller"  # what it has issued itself, among the sites
GONE, UNKNOWN = "in no ring", "never seen"  # what a key may be beside what it is in a ring


class Key(NamedTuple):
    """A key: `held_by` are the sites that have it, a signing key's own site alone; nobody, where it is in no use."""

    id: str
    ring: str
    state: str
    held_by: tuple[str, ...]


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys are meant: one of these, and why, for the record.

    `rings`: of a site that signs with keys of its own, those of the rings as well. `unknown`: the key is meant also if
    nobody has seen it, as one of a backup that no ring reaches back to.
    """

    key: str = ""
    unknown: bool = False
    site: str = ""
    all: bool = False
    rings: bool = False
    why: str = ""


class Compromise:
    """What is done about stolen keys."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        sites: Sites,
        clock: Clock,
        terms: Terms,
        issued_here: Callable[[], Issues],
    ) -> None:
        """`issued_here`: what this controller itself has issued."""
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._sites = sites
        self._clock = clock
        self._terms = terms
        self._issued_here = issued_here
        self._sure_now = SureNow(clock)
        self._unaware = Unaware(clock)
        self._more = asyncio.Event()

    async def keys(self) -> list[Key]:
        """Every key that is in use: of the rings, and those that sites sign with."""
        found: list[Key] = []
        for name in RINGS:
            record = await self._overlay.get(Ring, name)
            if record is not None:
                holders = tuple(site.id for site in await self._sites.all() if site.state in HOLDING)
                states = {max(record.checks): "primary", 0: "staged"}
                found += [
                    Key(check, name, states.get(number, "secondary"), holders)
                    for number, check in sorted(record.checks.items(), reverse=True)
                ]
        signing = await self._overlay.get(Signing, SIGNING)
        return found + [
            Key(name, SIGNING, "offered" if key.signs_from is None else "signing", (key.owner,))
            for name, key in (signing.keys.items() if signing else ())
        ]

    async def meant(self, wanted: Wanted) -> list[Key]:
        """The keys that are meant. Raises Invalid unless one way to say it is used, NotFound for what is not there.

        A site that is known to sign with keys of its own means those, and so does any that has some while nothing else
        is read. Every other means all that it holds, which others have too. A key that was condemned before, or is
        retired, is found as well. A site that was removed means what it held then.
        """
        if sum(map(bool, (wanted.key, wanted.site, wanted.all))) != 1:
            raise Invalid("Say one of these: a key's id, a site's name, or all keys.")
        if wanted.unknown and not wanted.key:
            raise Invalid("--unknown is for one key, by its id: say --key ID.")
        if wanted.key:
            return [await self._one(wanted.key, unknown=wanted.unknown)]
        keys = await self.keys()
        if wanted.all:
            return keys
        site = await self._overlay.get(Site, wanted.site)
        if site is None or site.state == "invited":
            raise NotFound(f"Could not find site: {wanted.site}; `rkctl region list` names them.")
        own = [key for key in keys if key.held_by == (wanted.site,) and key.ring not in RINGS]
        later = await self._made_after(site)
        shared = [key for key in keys if key.ring in RINGS and key.id not in later]  # a removed one held them as well
        return own if own and not wanted.rings and await self._signs(site) else own + shared

    async def _signs(self, site: Site) -> bool:
        """Whether it issues nothing, or issued nothing when it was removed, that keys which others hold have sealed."""
        record = await self._overlay.get(Signing, SIGNING)
        if record is not None and record.refuses_sealed:
            return True
        await self._replicator.acknowledgements.refresh()
        return SIGNING in site.left_in if site.state == "removed" else self._sites.signs(site)

    async def named(self, keys: Mapping[str, str]) -> list[Key]:
        """These keys (id -> ring) as they stand by now, whether they are in use or not."""
        found = {key.id: key for key in await self.keys()}
        return [found.get(name) or Key(name, ring, GONE, ()) for name, ring in sorted(keys.items())]

    async def condemned(self, keys: Collection[str]) -> list[str]:
        """Those of these keys that were condemned before."""
        return sorted(set(keys) & {*await marks(self._overlay)})

    async def is_member(self, site: str) -> bool:
        """Whether a site of this name could be removed."""
        record = await self._overlay.get(Site, site)
        return record is not None and record.state != "removed"

    async def cost(self, keys: Sequence[Key]) -> dict[str, Any]:
        """What it costs to condemn these keys, as far as it is known here; tokens are an estimate."""
        now, condemned = self._clock.now(), await marks(self._overlay)
        counted, sites = await self._counted(), await self._sites.all()
        tokens = [
            {"key": key.id, "site": site, "tokens": live(issues.get(key.id, {}), now, self._terms.lifetime_us)}
            for key in keys
            if key.id not in condemned  # else they have ended already
            for site, issues in sorted(counted.items())
        ]
        hours = {
            site: {
                key.id: {str(hour): count for hour, count in issues[key.id].items()} for key in keys if key.id in issues
            }
            for site, issues in sorted(counted.items())
        }
        return {
            "position": self._sequencer.head,
            "now": now,
            "keys": [{**key._asdict(), **_before(condemned.get(key.id))} for key in keys],
            "tokens": [one for one in tokens if one["tokens"]],
            "tokens_live": sum(int(str(one["tokens"])) for one in tokens),
            "issued_by_hour": hours,
            "sites": [self._reach(site) for site in sites if site.state in HOLDING],
            "counted_s_ago": {name: self._counted_s_ago(name, sites) for name in sorted(counted)},
        }

    async def condemn(self, keys: Mapping[str, str], by: str, why: str, confirmed_by: str = "") -> int:
        """These keys (id -> ring) are stolen, from now on and for good; the position at which the log says so.

        What was condemned before stays as it was. Raises Unavailable.
        """
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            return await condemning(
                reader, keys, Condemned(id="-", ring="", at=now, by=by, why=why, confirmed_by=confirmed_by)
            ), None

        _, position = await transact(self._overlay, self._sequencer, f"condemn/{secrets.token_hex(8)}", decide)
        if position is not None:
            log.error("keys_condemned", keys=sorted(keys), by=by, confirmed_by=confirmed_by, why=why, position=position)
        return position or self._sequencer.head

    async def turn_away(self, rings: Collection[str] = RINGS) -> dict[str, int]:
        """Make these rings anew without the condemned keys, where they have any: the epochs that they have then.

        Nobody is waited for: who has not got the new ring says of its tokens that it may lack the key. Raises Conflict,
        Unavailable.
        """
        found: dict[str, int] = {}
        for name in RINGS:
            if name in rings:
                await self._turn_away(name)
                record = await self._overlay.get(Ring, name)
                found |= {} if record is None else {name: record.epoch}
        return found

    async def settle(self) -> bool:
        """Let a primary be used that was never staged, once every site is known to hold it; whether nothing waits."""

        async def decide(reader: Recording) -> tuple[list[Change], bool]:
            record = await reader.get(Ring, TOKEN)
            if record is None or record.settles_at <= self._clock.now():
                return [], True
            sites = [site async for site in reader.scan(Site) if site.state in HOLDING]
            if self._replicator.holdouts(sites, TOKEN, record.epoch, record.fingerprint):
                return [], False
            return [put(msgspec.structs.replace(record, settles_at=0), record)], True

        return (await transact(self._overlay, self._sequencer, f"settle/{secrets.token_hex(8)}", decide))[0]

    async def forget(self) -> None:
        """Remove proposals that are long past their time. What is condemned stays: a key can come from a backup."""
        terms = self._terms
        keep_us = terms.lifetime_us + terms.allow_expired_us + terms.isolation_us + terms.skew_us
        before = self._sure_now() - keep_us
        if not [one async for one in self._overlay.scan(Proposal) if one.expires_at < before]:
            return

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            return [remove(one) async for one in reader.scan(Proposal) if one.expires_at < before], None

        await transact(self._overlay, self._sequencer, f"forget/{secrets.token_hex(8)}", decide)

    async def refused(self, position: int) -> dict[str, list[str]]:
        """The sites where every process refuses what `position` condemned; the others, by whether they are heard."""
        await self._replicator.acknowledgements.refresh()
        sites = [site for site in await self._sites.all() if site.state in HOLDING]
        done = [site.id for site in sites if self._replicator.acknowledgements.of(site).position >= position]
        rest = [self._reach(site) for site in sites if site.id not in done]
        return {
            "refused": done,
            "waiting": [str(one["name"]) for one in rest if one["connected"]],
            "out_of_reach": [str(one["name"]) for one in rest if not one["connected"]],
        }

    async def run(self) -> None:
        """Turn away from what sites have condemned, and from what a controller left half done; for ever."""
        while True:
            self._more.clear()
            pause_s = _LOOK_S
            try:
                await self.turn_away()
                if await self.settle():
                    await self.forget()
                else:
                    pause_s = _SETTLED_S
            except IdentityError as error:
                log.error("not_turned_away", why=error.message)
                pause_s = _AGAIN_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._more.wait()
            except TimeoutError:
                continue

    def saw(self, position: int, touched: set[Touch]) -> None:
        """A watcher of the follower: what another has condemned is turned away from here as well."""
        del position
        if ("condemned",) in touched or ("rings",) in touched:
            self._more.set()

    async def _turn_away(self, name: str) -> None:
        now, fresh = self._clock.now(), (Fernet.generate_key(), Fernet.generate_key())

        async def decide(reader: Recording) -> tuple[list[Change], int | None]:
            record = await reader.get(Ring, name)
            condemned = {one.id async for one in reader.scan(Condemned)}
            if record is not None:
                self._unaware.is_fresh(record.checks[0])  # from now on it is known
            if record is None or condemned.isdisjoint(record.checks.values()):
                return [], None
            ring = await self._sites.held(record)
            turned_ = away(ring, condemned, fresh, opens=name == CREDENTIAL)
            if turned_ is None:
                return [], None
            held = self._is_held(record, [one async for one in reader.scan(Site)])
            timed = times_away(record, ring, turned_, self._terms, now, staged_is_held=held)
            made = await self._sites.sealed(reader, name, turned_, record, now)
            told = {field: getattr(timed, field) for field in ("turned_at", "times", "retired", "settles_at")}
            return [put(msgspec.structs.replace(made, **told), record)], turned_.epoch

        epoch, _ = await transact(self._overlay, self._sequencer, f"away/{name}/{secrets.token_hex(8)}", decide)
        if epoch is not None:
            log.error("ring_turned_away", ring=name, epoch=epoch, why="keys of it were condemned")

    async def _one(self, name: str, *, unknown: bool) -> Key:
        """The key with this id, in use or not. Raises NotFound for one that nobody has seen, unless `unknown`."""
        found = [key for key in await self.keys() if key.id == name]
        if found:
            return found[0]
        for ring in RINGS:
            record = await self._overlay.get(Ring, ring)
            if record is not None and name in record.retired:
                return Key(name, ring, GONE, ())
        before = await self._overlay.get(Condemned, name)
        if before is not None:
            return Key(name, before.ring, GONE, ())
        if KEY_ID.fullmatch(name) is None:
            raise Invalid(f"{name} is no id of a key, which is 16 hexadecimal digits; `rkctl keys status` shows them.")
        if not unknown:
            raise NotFound(
                f"Nobody has seen a key {name}; `rkctl keys status` shows the ids of those that are known. If it was"
                " stolen from a backup that is older than all of them, condemn it with --unknown."
            )
        return Key(name, "", UNKNOWN, ())

    async def _made_after(self, site: Site) -> set[str]:
        """Keys of the rings that were made after this site was removed: nobody has ever sealed them for it."""
        found: set[str] = set()
        for name, epoch in site.left_in.items():
            record = await self._overlay.get(Ring, name)
            if record is not None:
                later = {number for number, times in record.times.items() if times.staged_in > epoch}
                found |= {check for number, check in record.checks.items() if number in later}
        return found

    def _counted_s_ago(self, name: str, sites: Sequence[Site]) -> float | None:
        """How old the counts of this site may be: 0 for one that is heard, whose every change is; None if not known."""
        if name == HERE:
            return 0.0
        reach = next((self._reach(site) for site in sites if site.id == name), None)
        if reach is not None and reach["connected"]:
            return 0.0
        word = self._replicator.acknowledgements.word(name)
        return round(max(0.0, (self._clock.now() - word.at) / 1_000_000), 1) if word is not None and word.at else None

    def _is_held(self, record: Ring, sites: Sequence[Site]) -> bool:
        """Whether the staged key may seal now: who is waited for has it, and nobody else can have overlooked it."""
        members = [site for site in sites if site.state in HOLDING]
        lacking = self._replicator.holdouts(members, record.id, record.epoch, record.fingerprint)
        fresh = self._unaware.is_fresh(record.checks[0])
        return not any(site.id in lacking and (fresh or site.state == "active") for site in members)

    async def _counted(self) -> dict[str, Issues]:
        """What each site has issued, and this controller; others of several controllers are not known here."""
        acknowledgements = self._replicator.acknowledgements
        await acknowledgements.refresh()
        counted = {name: word.issued for name, word in acknowledgements.said.items()}
        return {**counted, HERE: self._issued_here()}

    def _reach(self, site: Site) -> dict[str, object]:
        acknowledgements = self._replicator.acknowledgements
        said = acknowledgements.of(site)
        here = site.id in self._replicator.sessions and acknowledgements.hears(site.id)
        ago_s = max(0.0, (self._clock.now() - said.at) / 1_000_000) if said.at else None
        elsewhere = bool(said.controller) and not here and ago_s is not None and ago_s < 2 * _LOOK_S
        return {
            "name": site.id,
            "state": site.state,
            "connected": here or (elsewhere and said.controller != acknowledgements.controller),
            "entries_behind": max(0, self._sequencer.head - said.position),
            "said_s_ago": None if ago_s is None else round(ago_s, 1),
        }


async def condemning(reader: Recording, keys: Mapping[str, str], form: Condemned) -> list[Change]:
    """The changes that condemn these keys, filled in as in `form`; none for what is condemned already."""
    return [
        put(msgspec.structs.replace(form, id=key, ring=ring))
        for key, ring in sorted(keys.items())
        if await reader.get(Condemned, key) is None
    ]


def away(ring: KeyRing, condemned: Collection[str], fresh: Sequence[bytes], *, opens: bool = False) -> KeyRing | None:
    """The ring of the next epoch without the condemned keys, None if it would be the same. Pure.

    A staged key that was not condemned becomes primary, as it would at a turn; else a fresh one, of the two in `fresh`.
    `opens`: what a condemned key has sealed has to be opened still, so it stays, as no primary.
    """
    ids, staged_is_good = ring.key_ids, ring.key_ids[0] not in condemned
    numbers = {
        number: key for number, key in ring.numbers.items() if number and (opens or ids[number] not in condemned)
    }
    if ids[ring.primary] in condemned:
        numbers |= {ring.primary + 1: ring.staged if staged_is_good else fresh[1], 0: fresh[0]}
    else:
        numbers |= {0: ring.staged if staged_is_good else fresh[0]}
    return None if numbers == ring.numbers else KeyRing(numbers, ring.epoch + 1)


def times_away(
    record: Ring, before: KeyRing, after: KeyRing, terms: Terms, now: int, *, staged_is_held: bool = True
) -> Ring:
    """The record of the ring `before`, with the times that its keys have in the ring `after`. Pure.

    `staged_is_held`: whether every site that is not quarantined is known to hold the staged key.
    """
    gone = {number for number in before.numbers if number not in after.numbers}
    if after.primary == before.primary:
        times, retired, at = sealed_again(record, terms), dict(record.retired), max(now, record.turned_at + 1)
        retired |= {before.key_ids[number]: _gone(times.pop(number), at) for number in gone}
        if after.staged != before.staged:
            fresh = KeyTimes(staged_at=at, staged_in=after.epoch)
            retired[before.key_ids[0]], times[0] = _gone(times[0], at), fresh
        return msgspec.structs.replace(record, times=times, retired=retired)
    turn = turned(record, terms, now, sorted(gone - {before.primary}))
    times, retired = dict(turn.times), dict(turn.retired)
    if before.primary in gone:
        retired[before.key_ids[before.primary]] = _gone(times.pop(before.primary), turn.at)
    is_staged = after.numbers[after.primary] == before.staged
    if not is_staged:
        retired[before.key_ids[0]] = _gone(msgspec.structs.replace(times[after.primary], primary_at=0), turn.at)
        times[after.primary] = msgspec.structs.replace(times[after.primary], staged_at=turn.at, staged_in=after.epoch)
    settles_at = 0 if is_staged and staged_is_held else turn.at + SETTLE_US
    return msgspec.structs.replace(record, turned_at=turn.at, times=times, retired=retired, settles_at=settles_at)


def _before(one: Condemned | None) -> dict[str, object]:
    return {"condemned": one is not None, **({"condemned_at": one.at, "condemned_by": one.by} if one else {})}


def _gone(times: KeyTimes, at: int) -> KeyTimes:
    return msgspec.structs.replace(times, retired_at=at)
