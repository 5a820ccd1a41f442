"""Whether tokens that are sealed with the shared keys are read at all, once every place signs its own.

Every site holds the keys that seal, so a thief of one seals what he likes for as long as such tokens are taken. What is
decided stands in the record of signing keys, so it reaches all who ask whose tokens count.
Source: docs/adr/0036-sealed-tokens-can-be-refused.md.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog

from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.turning import HOLDING, Terms
from regional_keystone.errors import Conflict
from regional_keystone.holder import TOKEN
from regional_keystone.issue_counts import HOUR_US, Issues
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, Signing, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.signing import CONTROLLER, SIGNING

log = structlog.get_logger("sealed_tokens")

KNOWN_S = 5.0
"""How long a change waits until every site has acknowledged it."""
_POLL_S = 0.05
_CURE = "set `[token] provider = jws` there, or take it out of the federation (`rkctl region remove NAME`)"


class Word(NamedTuple):
    """What a place has said of itself: what it issues, and how many tokens, by key id and hour."""

    provider: str
    issued: Mapping[str, Mapping[int, int]]


class Standing(NamedTuple):
    """Who still seals, and until when what may have been sealed can be shown, by the place that says so."""

    seal: tuple[str, ...]
    shown_until: dict[str, int]


def standing(record: Signing, sites: Iterable[Site], words: Mapping[str, Word], live_us: int, now: int) -> Standing:
    """What stands against refusing sealed tokens. Pure.

    `words` of sites, and of the controller that is asked, by their names as owners of keys. A place may have sealed
    until it was allowed to sign, or was removed, and later if it has counted such tokens; `live_us` after that, none of
    them can be shown.
    """
    removed = {site.id: site.since for site in sites if site.state == "removed"}
    there = {site.id for site in sites if site.state in HOLDING} | {one for one in words if one.startswith(CONTROLLER)}
    signers = {key.owner for key in record.keys.values() if key.owner.startswith(CONTROLLER)}
    last: dict[str, int] = {}
    for owner in there | signers | removed.keys():
        signs = [key.signs_from for key in record.keys.values() if key.owner == owner and key.signs_from is not None]
        last[owner] = max(min(signs, default=removed.get(owner, now)), _counted(record, words.get(owner)))
    seal = sorted(one for one in there if one not in words or words[one].provider != "jws")
    return Standing(tuple(seal), {owner: at + live_us for owner, at in sorted(last.items()) if at + live_us > now})


def _counted(record: Signing, word: Word | None) -> int:
    """The end of the last hour in which tokens were counted of a key that is none for signing; 0 for none."""
    if word is None:
        return 0
    hours = (hour for key, counted in word.issued.items() if key not in record.keys for hour in counted)
    return (max(hours, default=-1) + 1) * HOUR_US


class SealedTokens:
    """Has them refused everywhere, or read again; and says who has heard of it."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        clock: Clock,
        terms: Terms,
        owner: str,
        signs: bool,
        issued_here: Callable[[], Issues],
    ) -> None:
        """`owner`: as whom this controller owns keys; whether it `signs`, and what it has issued."""
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._clock = clock
        self._terms = terms
        self._owner = owner
        self._signs = signs
        self._issued_here = issued_here

    async def status(self) -> dict[str, Any]:
        """Whether they are refused, since when, who has not heard of it yet, and what stands against refusing them."""
        await self._replicator.acknowledgements.refresh()
        reader = Recording(self._overlay)
        record, found = await self._found(reader)
        sites = [site async for site in reader.scan(Site)]
        return {
            "refused": record.refuses_sealed,
            "told_at": record.sealed_told_at or None,
            "waits_for": self._waits(sites, record.epoch) if record.sealed_told_at else [],
            "seal": list(found.seal),
            "shown_until": found.shown_until,
        }

    async def refuse(self, *, now: bool) -> dict[str, Any]:
        """From now on what is sealed is worth nothing, at every place that hears of it.

        Raises Conflict, naming them, while places still seal; and unless it is to be `now`, while something that they
        have sealed may still be shown.
        """
        await self._replicator.acknowledgements.refresh()

        async def decide(reader: Recording) -> tuple[list[Change], int]:
            old, found = await self._found(reader)
            if old.refuses_sealed:
                return [], old.epoch
            check(found, now=now)
            return self._said(await reader.get(Signing, SIGNING), refused=True)

        return await self._state("refuse", decide)

    async def read(self) -> dict[str, Any]:
        """They are read again, and may be made: by each place once all others have heard of it."""

        async def decide(reader: Recording) -> tuple[list[Change], int]:
            old = await reader.get(Signing, SIGNING)
            if old is None or not old.refuses_sealed:
                return [], 0 if old is None else old.epoch
            return self._said(old, refused=False)

        return await self._state("read", decide)

    def _said(self, old: Signing | None, *, refused: bool) -> tuple[list[Change], int]:
        before = old or Signing(id=SIGNING, epoch=0)
        fresh = msgspec.structs.replace(
            before, epoch=before.epoch + 1, refuses_sealed=refused, sealed_told_at=self._clock.now()
        )
        return [put(fresh, old)], fresh.epoch

    async def _state(self, what: str, decide: Callable[[Recording], Any]) -> dict[str, Any]:
        epoch, position = await transact(
            self._overlay, self._sequencer, f"sealed/{what}/{secrets.token_hex(8)}", decide
        )
        if position is not None:
            log.warning("sealed_tokens_refused" if what == "refuse" else "sealed_tokens_read_again", epoch=epoch)
        end = self._clock.ticks() + KNOWN_S
        while (status := await self.status())["waits_for"] and self._clock.ticks() < end:
            await self._clock.sleep(_POLL_S)
        return status

    async def _found(self, reader: Recording) -> tuple[Signing, Standing]:
        record = await reader.get(Signing, SIGNING) or Signing(id=SIGNING, epoch=0)
        sites = [site async for site in reader.scan(Site)]
        ring = await reader.get(Ring, TOKEN)
        of = self._replicator.acknowledgements.of
        words = {site.id: Word(of(site).provider, of(site).issued) for site in sites if site.state in HOLDING}
        words[self._owner] = Word("jws" if self._signs else "fernet", self._issued_here())
        return record, standing(record, sites, words, longest_us(self._terms, ring), self._clock.now())

    def _waits(self, sites: Sequence[Site], epoch: int) -> list[str]:
        of = self._replicator.acknowledgements.of
        there = (site for site in sites if site.state in HOLDING)
        return [site.id for site in there if of(site).rings.get(SIGNING, (0, ""))[0] < epoch]


def longest_us(terms: Terms, ring: Ring | None) -> int:
    """For how long after its issue a sealed token may be shown at most: as it is set, or was promised with the keys."""
    times = list(ring.times.values()) if ring is not None else []
    lifetime_us = max(terms.lifetime_us, ring.lifetime_us if ring else 0, *(one.lifetime_us for one in times))
    return lifetime_us + max(terms.allow_expired_us, *(one.allow_expired_us for one in times), 0) + terms.skew_us


def check(found: Standing, *, now: bool) -> None:
    """Raises Conflict, with the cure, where sealed tokens cannot be refused."""
    if found.seal:
        raise Conflict(f"Not known to sign their tokens: {', '.join(found.seal)}; {_CURE}, then ask again.")
    if found.shown_until and not now:
        last = max(found.shown_until, key=lambda one: found.shown_until[one])
        until = datetime.fromtimestamp(found.shown_until[last] / 1_000_000, UTC)
        raise Conflict(
            f"Tokens that {last} may have sealed can be shown until {until:%Y-%m-%d %H:%M} UTC; wait for that, or end"
            " them with `--now`: whoever has one logs in anew."
        )
