"""The operator's socket of a controller, where keys are stolen: what it costs; doing it, by one or two; how far it is.

Separate from admin, which opens the socket.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from controller.compromise import UNKNOWN, Compromise, Key, Wanted
from controller.durations import span
from controller.sites import RINGS, Sites
from controller.two_people import Login, TwoPeople
from regional_keystone.errors import Forbidden, IdentityError, Invalid, NotFound
from regional_keystone.holder import CREDENTIAL
from regional_keystone.model import Proposal
from regional_keystone.operator_listener import answered, who_asks

_OLD_S = 60.0


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done. `keep_site`: a site whose keys are meant stays of the federation."""

    wanted: Wanted
    keep_site: bool = False
    login: Login | None = None


class Confirmed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which proposal is confirmed, and by whom."""

    id: str
    login: Login


class CompromiseAdmin:
    """What `rkctl keys compromised` and `rkctl keys confirm` ask of a running controller."""

    def __init__(self, *, compromise: Compromise, people: TwoPeople, sites: Sites, name: str, two_person: bool) -> None:
        """`name`: this controller's; `two_person`: whether nobody condemns anything alone."""
        self._compromise = compromise
        self._people = people
        self._sites = sites
        self._name = name
        self._two_person = two_person

    def routes(self) -> list[web.RouteDef]:
        """The handlers."""
        return [
            web.post("/keys/compromised/cost", self._cost),
            web.post("/keys/compromised/prepare", self._prepare),
            web.post("/keys/compromised/confirm", self._confirm),
            web.post("/keys/compromised", self._condemn),
            web.post("/keys/compromised/refused", self._refused),
        ]

    async def _cost(self, request: web.Request) -> web.Response:
        """{wanted, keep_site?} or {id}: what it would cost, and what becomes of whom; nothing is done."""
        data = await request.read()
        if "id" in msgspec.json.decode(data, type=dict[str, Any]):
            proposal = await self._people.waiting(msgspec.json.decode(data, type=dict[str, str])["id"])
            keys = await self._meant(proposal)
            found = await self._told(keys, proposal.site, keep=not proposal.removes)
            return answered({**found, "prepared_by": proposal.by, "why": proposal.why})
        asked = msgspec.json.decode(data, type=Asked)
        keys = await self._compromise.meant(asked.wanted)
        return answered(await self._told(keys, asked.wanted.site, keep=asked.keep_site))

    async def _condemn(self, request: web.Request) -> web.Response:
        """{wanted, keep_site?}: by whoever can open this socket. Raises Forbidden where that takes two people."""
        asked = msgspec.json.decode(await request.read(), type=Asked)
        if self._two_person:
            raise Forbidden("This takes two people here, by [keys] two_person: `--prepare`, then `rkctl keys confirm`.")
        keys = {key.id: key.ring for key in await self._compromise.meant(asked.wanted)}
        by = f"{who_asks(request)} at {self._name}"

        async def act() -> dict[str, Any]:
            await self._remove("" if asked.keep_site else asked.wanted.site)
            before = await self._compromise.condemned(keys)
            position = await self._compromise.condemn(keys, by, asked.wanted.why)
            return {**await self._turned(keys, position), "before": before}

        return answered(await asyncio.shield(act()))

    async def _prepare(self, request: web.Request) -> web.Response:
        """{wanted, keep_site?, login}: a proposal for another to confirm, and what it would cost."""
        asked = msgspec.json.decode(await request.read(), type=Asked)
        if asked.login is None:
            raise Invalid("login is missing.")
        wanted = asked.wanted
        keys = await self._compromise.meant(wanted)
        made = await self._people.prepare(
            Proposal(
                id="-",
                keys={key.id: key.ring for key in keys},
                site=wanted.site,
                all=wanted.all,
                rings=wanted.rings,
                removes=bool(wanted.site) and not asked.keep_site,
                by=await self._people.proven(asked.login),
                at=0,
                expires_at=0,
                why=wanted.why,
            )
        )
        return answered({"id": made.id, "keys": sorted(made.keys), "by": made.by, "expires_at": made.expires_at})

    async def _confirm(self, request: web.Request) -> web.Response:
        """{id, login}: what was prepared is done."""
        asked = msgspec.json.decode(await request.read(), type=Confirmed)
        by = await self._people.proven(asked.login)
        proposal = await self._people.waiting(asked.id)
        more = {key.id: key.ring for key in await self._meant(proposal)}

        async def act() -> dict[str, Any]:
            done, position = await self._people.confirm(asked.id, by, more, self._sites.signs)
            if done.removes:
                await self._sites.dismiss(done.site)
            told = await self._turned({**done.keys, **more}, position)
            return {**told, "prepared_by": done.by, "confirmed_by": by}

        return answered(await asyncio.shield(act()))

    async def _refused(self, request: web.Request) -> web.Response:
        """{position}: where what was condemned by then is refused."""
        position = msgspec.json.decode(await request.read(), type=dict[str, int])["position"]
        return answered(await self._compromise.refused(position))

    async def _meant(self, proposal: Proposal) -> list[Key]:
        """The keys as they are meant now: a ring that has turned since has others."""
        if proposal.all:
            return await self._compromise.meant(Wanted(all=True))
        if proposal.site:
            return await self._compromise.meant(Wanted(site=proposal.site, rings=proposal.rings))
        return await self._compromise.named(proposal.keys)

    async def _remove(self, site: str) -> None:
        """First: what is sealed from now on is not sealed for it."""
        if site:
            with suppress(NotFound):
                await self._sites.remove(site)

    async def _turned(self, keys: Mapping[str, str], position: int) -> dict[str, Any]:
        try:
            turned, why = await self._compromise.turn_away(set(keys.values())), ""
        except IdentityError as error:  # condemned they are; it is tried again by itself
            turned, why = {}, error.message
        return {"condemned": sorted(keys), "position": position, "turned": turned, "not_turned": why}

    async def _told(self, keys: list[Key], site: str, *, keep: bool) -> dict[str, Any]:
        """What it costs, `removes`: which site goes with it, and what becomes of whom."""
        is_member = await self._compromise.is_member(site)
        removes, left = site if is_member and not keep else "", bool(site) and not is_member
        cost = await self._compromise.cost(keys)
        said = [*consequences(keys, removes, site, left=left), *old_counts(cost["counted_s_ago"])]
        return {**cost, "removes": removes, "what_happens": said}


def old_counts(ages_s: Mapping[str, float | None]) -> list[str]:
    """Of whom it is not known how many tokens they have issued lately."""
    said = []
    for site, age_s in ages_s.items():
        if age_s is None or age_s > _OLD_S:
            age = "of unknown age" if age_s is None else f"{span(int(age_s * 1_000_000))} old"
            said.append(f"What {site} has issued is {age}: it is out of reach, and may have issued more since.")
    return said


def consequences(keys: list[Key], removes: str, site: str, *, left: bool = False) -> list[str]:
    """What an operator has to know before it is done, in sentences. `left`: the site was removed before."""
    rings = {key.ring for key in keys}
    said = ["Every token that these keys have sealed or signed ends; its users log in again. Others stay good."]
    if site and rings & set(RINGS):
        said.append(f"The keys of the rings are shared: {site} held them all, so all of all rings are condemned.")
    elif site:
        said.append(
            f"{site} holds the shared rings as well: where tokens of theirs are read, condemn those too, with --rings."
        )
    if removes:
        said.append(
            f"{removes} is removed from the federation first, or it would be given the new keys; it has to join anew."
        )
    elif left:
        said.append(
            f"{site} was removed before: of the rings it means the keys that were there then. What it has issued is not"
            " known any more, and not counted here."
        )
    elif site:
        said.append(f"{site} stays of the federation and is given the new keys: right only if the machine is yours.")
    if any(key.state == UNKNOWN for key in keys):
        said.append("No ring has ever had this key as far as is known: it is refused wherever it turns up.")
    if any(key.state in {"primary", "staged"} and key.ring in RINGS for key in keys):
        said.append(
            "The ring turns at once, and waits for nobody. A site that has not got the new one answers 503 for the"
            " newest tokens. Where no key is left that all hold, no token is issued until all have it: 8 s at most."
        )
    if CREDENTIAL in rings:
        said.append(
            "Condemned keys of the credential ring still open what they sealed, until it is sealed again: `rkctl"
            " credential migrate`, then `rkctl credential rotate`. What the thief may have read has to be made anew."
        )
    return said
