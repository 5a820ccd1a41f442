"""Another key signs the bundles of rings: announced by the old one, used once every site knows it, then the old ends.

Each step is a statement in the log and may be broken off and repeated; no site is started anew.
Source: docs/security.md, "Signers".
"""

import secrets
from typing import Any

import structlog

from controller.authority import Authority
from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.sites import RINGS, Sites, is_former
from regional_keystone.bundle import signer_id
from regional_keystone.errors import Conflict
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, SignerChain
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.signer_chain import SIGNERS, Trusted, announced, changed, retired, signed

log = structlog.get_logger("signer_turn")

POLL_S = 0.1


class SignerTurn:
    """Turns the signer of bundles."""

    def __init__(
        self,
        *,
        authority: Authority,
        sites: Sites,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        clock: Clock,
        deadline_s: float,
    ) -> None:
        self._authority = authority
        self._sites = sites
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._clock = clock
        self._deadline_s = deadline_s

    async def status(self) -> dict[str, Any]:
        """Who signs, who is ready to, who did; which active sites do not know it, or lack rings that are signed so."""
        trusted, _ = await self._now()
        return {
            "number": trusted.number,
            "signing": signer_id(trusted.signing),
            "spare": None if trusted.spare is None else signer_id(trusted.spare),
            "ceasing": [signer_id(one) for one in trusted.ceasing],
            "retired": [signer_id(one) for one in trusted.retired],
            "waits_for": await self._waits_for(),
        }

    async def would_turn(self) -> dict[str, Any]:
        """The status, from which `turn` would begin. Raises Conflict where it could not."""
        status = await self.status()
        if not status["ceasing"]:
            self._authority.check_writable()
        return status

    async def turn(self) -> dict[str, Any]:
        """Turn to the spare signer, with the steps that are still to be done; its own spare is announced with it.

        Raises Conflict, naming them, while sites have not acknowledged: it goes on from there when it is asked again.
        Also where no new key can be kept, then nothing was done, and where another has made a step meanwhile: no step
        is made upon a statement that this turn has not waited for.
        """
        trusted, _ = await self._now()
        if not trusted.ceasing:
            self._authority.check_writable()
            trusted = await self._with_spare(trusted)
            trusted = await self._state(trusted, changed(trusted, self._authority.new_signer()))
        await self._sites.refresh()
        await self._check_rings()
        await self._acknowledged("rings that the new signer has signed are not held")
        await self._state(trusted, retired(trusted))
        return await self.status()

    async def spare(self) -> bool:
        """See to it that there is a spare signer and every active site knows it; whether it was made now.

        Raises Conflict, naming them, while sites have not acknowledged it; also where no key can be kept.
        """
        before, _ = await self._now()
        return await self._with_spare(before) != before

    async def _with_spare(self, trusted: Trusted) -> Trusted:
        """What is trusted once every active site knows a spare signer, which is made where there is none."""
        if trusted.spare is None:
            spare = self._authority.new_signer()
            trusted = await self._state(trusted, announced(trusted, spare))
        await self._acknowledged("the spare signer is not known")
        return trusted

    async def _now(self) -> tuple[Trusted, SignerChain | None]:
        reader = Recording(self._overlay)
        return await self._sites.trusted(reader), await reader.get(SignerChain, SIGNERS)

    async def _state(self, expected: Trusted, said: Trusted) -> Trusted:
        """Say this next, if all is still as `expected`. Raises Conflict if not."""

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            trusted = await self._sites.trusted(reader)
            if trusted != expected:
                raise Conflict("Another controller has changed the signers meanwhile; see `rkctl authority status`.")
            old = await reader.get(SignerChain, SIGNERS)
            statement = signed(said, self._authority.signer_of(trusted.signing))
            chain = (*(old.chain if old else ()), statement)
            return [put(SignerChain(id=SIGNERS, number=said.number, chain=chain), old)], None

        await transact(self._overlay, self._sequencer, f"signers/{secrets.token_hex(8)}", decide)
        log.warning("signers_stated", number=said.number, signing=signer_id(said.signing))
        for _ in range(100):  # who joins from now on is told by what this controller believes
            if self._sites.chain is None or self._sites.chain.trusted.number >= said.number:
                break
            await self._clock.sleep(0.02)
        return said

    async def _acknowledged(self, lacking: str) -> None:
        deadline = self._clock.ticks() + self._deadline_s
        while waits_for := await self._waits_for():
            if self._clock.ticks() >= deadline:
                names = ", ".join(waits_for)
                raise Conflict(
                    f"In {names} {lacking} yet, so the old signer goes on counting; bring them back or quarantine them"
                    " (`rkctl region quarantine NAME`), then ask again."
                )
            await self._clock.sleep(POLL_S)

    async def _check_rings(self) -> None:
        """Nothing that a site may still have to install is signed by who ceases. Raises Conflict."""
        trusted, _ = await self._now()
        for name in RINGS:
            ring = await self._overlay.get(Ring, name)
            if ring and is_former(ring, signer_id(trusted.signing)):
                raise Conflict(f"The {name} ring has not been signed anew; ask again.")

    async def _waits_for(self) -> list[str]:
        """Active sites that do not hold what the log has, of signers and rings."""
        await self._replicator.acknowledgements.refresh()
        trusted, record = await self._now()
        sites = [site for site in await self._sites.all() if site.state == "active"]
        lacking: set[str] = set()
        if record is not None:
            lacking |= {*self._replicator.holdouts(sites, SIGNERS, *trusted.seen)}
        for name in RINGS:
            ring = await self._overlay.get(Ring, name)
            if ring is None:
                continue
            lacking |= {*self._replicator.holdouts(sites, name, ring.epoch, ring.fingerprint)}
        return sorted(lacking)
