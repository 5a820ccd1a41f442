"""What an operator says of a site: quarantined, drained, taken back. Every word is in its record, and loud."""

from collections.abc import Awaitable, Callable
from typing import Any

from controller.replicate import Replicator
from controller.sites import RINGS, Sites
from regional_keystone.bundle import Seen
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay

_NO_REASON = "no reason was given"


class Regions:
    """Each act is a transaction that puts the site's record, so it collides with a turn that has not seen it."""

    def __init__(
        self,
        *,
        sites: Sites,
        replicator: Replicator,
        take_back: Callable[[str], Awaitable[None]],
        overlay: Overlay,
    ) -> None:
        """`take_back` makes a quarantined site active that holds the newest ring."""
        self._sites = sites
        self._replicator = replicator
        self._take_back = take_back
        self._overlay = overlay

    async def quarantine(self, name: str, why: str) -> dict[str, Any]:
        """The keys turn without it, until an operator takes it back; it goes on validating. Raises NotFound."""
        why = why or _NO_REASON
        return standing(await self._sites.mark(name, "quarantine", state="quarantined", by_operator=True, why=why))

    async def drain(self, name: str, why: str) -> dict[str, Any]:
        """It seals no tokens any more, and goes on validating; the keys wait for it as before. Raises NotFound."""
        return standing(await self._sites.mark(name, "drain", drained=True, why=why or _NO_REASON))

    async def rejoin(self, name: str) -> dict[str, Any]:
        """It seals again; the keys wait for it again once it holds the newest rings. `lacks`: what it lacks till then.

        A site that cannot go on from what it holds gets rings that follow it, whatever it holds. Raises NotFound.
        """
        site = await self._sites.mark(name, "rejoin", drained=False, by_operator=False, why="")
        await self._replicator.acknowledgements.refresh()
        said = self._replicator.acknowledgements.of(site).rings
        await self._sites.catch_up(name, {ring: Seen(*held) for ring, held in said.items()}, reset=True)
        await self._take_back(name)
        site = await self._sites.mark(name, "rejoin")
        return {**standing(site), "lacks": await self._lacks(site)}

    async def _lacks(self, site: Site) -> list[str]:
        """What it does not hold of the newest rings, in words."""
        word = self._replicator.acknowledgements.of(site)
        said = word.rings
        lacks = [] if said or site.id in self._replicator.sessions else ["it is not connected"]
        for name in RINGS:
            ring = await self._overlay.get(Ring, name)
            if ring is not None and said.get(name) != (ring.epoch, ring.fingerprint):
                holds = f"holds epoch {said[name][0]}" if name in said else "has acknowledged nothing"
                says = f"; it says: {word.why[name]}" if name in word.why else ""
                lacks.append(f"{name} ring: it {holds}, the newest is {ring.epoch}{says}")
        return lacks


def standing(site: Site) -> dict[str, Any]:
    """How a site stands, for operators."""
    return {
        "name": site.id,
        "state": site.state,
        "drained": site.drained,
        "by_operator": site.by_operator,
        "why": site.why,
    }
