"""Another CA: announced beside the old one, then issuing, then the old one ends. No site is started anew.

Sites hear of each step where they renew their certificate, from a controller whom the CA before verifies. Each step is
a file in the authority's directory that counts from the controllers' next start on. Source: docs/security.md, "The CA".
"""

from typing import Any

import structlog

from controller.authority import CAS as FILE
from controller.authority import Authority, Cas, ca_id, read_cas
from controller.replicate import Replicator
from controller.sites import Sites
from regional_keystone.enrol import CA_STEPS, CAS, cas_seen
from regional_keystone.errors import Conflict
from regional_keystone.ports import Clock

log = structlog.get_logger("ca_turn")

POLL_S = 0.1
_STEPS = ("announce the next one", "let the next one issue", "end the old one")
_DONE = ("the old one is ended", "the next one is announced", "the next one issues")


class CaTurn:
    """Turns the CA, a step at a time."""

    def __init__(
        self, *, authority: Authority, sites: Sites, replicator: Replicator, clock: Clock, deadline_s: float
    ) -> None:
        self._authority = authority
        self._sites = sites
        self._replicator = replicator
        self._clock = clock
        self._deadline_s = deadline_s

    async def status(self) -> dict[str, Any]:
        """Which CAs count and when they end, the one that issues first; what comes next, and whom that waits for."""
        number = self._authority.cas.number
        return {
            "ca_number": number,
            "cas": [f"{ca_id(one)} until {one.not_valid_after_utc:%Y-%m-%d}" for one in self._authority.trusted],
            "ca_next": "start this controller anew" if self._stated().number != number else _STEPS[number % CA_STEPS],
            "ca_waits_for": await self._waits_for(),
        }

    async def would_turn(self) -> dict[str, Any]:
        """The status, from which `turn` would go on. Raises Conflict where it could not."""
        await self._check()
        return await self.status()

    async def turn(self) -> dict[str, Any]:
        """The next step of three: which it was, and what is to be done before the one after.

        Raises Conflict, naming them, while sites do not hold what the step before told them; then nothing was done.
        """
        await self._check()
        await self._acknowledged()
        before = self._authority.cas
        step = before.number % CA_STEPS
        if step == 0:
            trusted = (*before.trusted, self._authority.new_ca(self._clock.now()))
        else:
            trusted = before.trusted[::-1] if step == 1 else before.trusted[:1]
        cas = Cas(number=before.number + 1, trusted=trusted)
        self._authority.state_cas(cas)
        log.warning("cas_stated", number=cas.number, trusted=trusted)
        files = [FILE, *sorted(path.name for path in self._authority.directory.glob("ca-*"))]
        return {
            "ca_number": cas.number,
            "cas": list(trusted),
            "done": _DONE[cas.number % CA_STEPS],
            "then": f"copy {', '.join(files)} from {self._authority.directory} to every other controller, mode 0400;"
            " start each controller anew" + ("" if step == CA_STEPS - 1 else ", then ask again"),
        }

    async def spare(self) -> dict[str, Any]:
        """Announce the next CA, which every site trusts from then on and nobody issues with; the status if it is there.

        Raises Conflict while the last turn is not over, and where no key can be kept.
        """
        await self._check()
        match self._authority.cas.number % CA_STEPS:
            case 0:
                return {"made": True, **await self.turn()}
            case 1:
                return {"made": False, **await self.status()}
            case _:
                raise Conflict("The CA is being turned: end that first, `rkctl authority rotate --ca`.")

    def _stated(self) -> Cas:
        return read_cas(self._authority.directory) or self._authority.cas

    async def _check(self) -> None:
        self._authority.check_writable()
        if self._stated() != self._authority.cas:
            raise Conflict("The last step counts once this controller was started anew: do so, then ask again.")
        await self._replicator.acknowledgements.refresh()
        for site in await self._sites.all():
            number, _ = self._replicator.acknowledgements.of(site).rings.get(CAS, (0, ""))
            if number > self._authority.cas.number:
                raise Conflict(
                    f"{site.id} holds CAs {number}, this controller {self._authority.cas.number}: copy {FILE} and"
                    " ca-* from the controller that has turned it, start this one anew, then ask again."
                )

    async def _acknowledged(self) -> None:
        deadline = self._clock.ticks() + self._deadline_s
        while waits_for := await self._waits_for():
            if self._clock.ticks() >= deadline:
                raise Conflict(
                    f"In {', '.join(waits_for)} the CAs that count are not known yet; bring them back or quarantine"
                    " them (`rkctl region quarantine NAME`), then ask again. Who misses the next one has to join anew."
                )
            await self._clock.sleep(POLL_S)

    async def _waits_for(self) -> list[str]:
        """Active sites that have not said that they trust these CAs, and so have no certificate of the present one."""
        if not self._authority.cas.number:
            return []
        await self._replicator.acknowledgements.refresh()
        active = [site for site in await self._sites.all() if site.state == "active"]
        return sorted(self._replicator.holdouts(active, CAS, *cas_seen(self._authority.bundle)))
