"""Who holds key rings here: opens bundles that the log brings, installs them on disk, swaps one reference.

Separate from bundle, which is pure, and from follow, which knows nothing of keys.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import BundleRefused, Seen, open_
from regional_keystone.errors import Unavailable
from regional_keystone.key_directory import KeyRepositoryError, read_directory, write_directory
from regional_keystone.keys import KeyRing
from regional_keystone.model import Ring

log = structlog.get_logger("holder")
TOKEN = "token"  # noqa: S105  the ring that seals tokens
CREDENTIAL = "credential"  # the ring that seals the secrets of credentials
_HOLD_S = 2.0


@dataclass(slots=True)
class Holder:
    """Holds one ring of this process; only a newer epoch, duly sealed and signed, replaces it."""

    name: str
    cluster: str
    box: X25519PrivateKey
    signers: Collection[bytes]
    directory: Path
    keeps: bool = True  # whether it writes the directory, or leaves that to another process
    of: str = TOKEN  # which ring it is
    _ring: KeyRing | None = None
    _installing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _newer: asyncio.Condition = field(default_factory=asyncio.Condition)

    def load(self) -> None:
        """Take up the ring that the directory holds, if any; a damaged one is written again from the replica."""
        if (self.directory / "0").exists():
            try:
                self._ring = read_directory(self.directory)
            except KeyRepositoryError as error:
                log.error("key_directory_damaged", why=str(error))

    @property
    def ring(self) -> KeyRing:
        """The ring in use. Raises Unavailable before the first has arrived."""
        if self._ring is None:
            raise Unavailable("This site has not received its keys yet.", retry_after_s=2)
        return self._ring

    @property
    def seen(self) -> Seen:
        """What is installed, as acknowledged; epoch 0 for none."""
        return Seen(0, "") if self._ring is None else Seen(self._ring.epoch, self._ring.fingerprint)

    async def holding(self, epoch: int) -> KeyRing:
        """The ring of at least this epoch, which the log has and which may still be on its way to the disk.

        Raises Unavailable if it does not come soon.
        """
        try:
            async with asyncio.timeout(_HOLD_S), self._newer:
                await self._newer.wait_for(lambda: self.seen.epoch >= epoch)
        except TimeoutError:
            raise Unavailable(f"The keys of epoch {epoch} have not been taken up here yet.", retry_after_s=2) from None
        return self.ring

    async def install(self, record: Ring, now: int) -> bool:
        """Install this ring durably, then use it; False, loudly, for one that must not be. The old one stays in use.

        Durably, that is, if it is this process that keeps the directory. What is installed already is installed again
        only if the directory lost it.
        """
        async with self._installing:
            if record.id != self.of or record.epoch < self.seen.epoch:
                return False
            if (record.epoch, record.fingerprint) == self.seen and await asyncio.to_thread(self._intact):
                return True
            try:
                ring = self._open(record, now)
                if self.keeps:
                    await asyncio.to_thread(write_directory, self.directory, ring)
            except (BundleRefused, KeyRepositoryError, OSError) as error:
                log.error("ring_refused", ring=record.id, epoch=record.epoch, installed=self.seen.epoch, why=str(error))
                return False
            self._ring = ring
            async with self._newer:
                self._newer.notify_all()
            log.info("ring_installed", ring=record.id, epoch=ring.epoch, fingerprint=ring.fingerprint)
            return True

    def _intact(self) -> bool:
        if not self.keeps:
            return True
        try:
            return read_directory(self.directory) == self._ring
        except KeyRepositoryError:
            return False

    def _open(self, record: Ring, now: int) -> KeyRing:
        sealed = record.sealed.get(self.name)
        if sealed is None:
            raise BundleRefused("it was not sealed for this holder")
        ring = open_(
            sealed,
            cluster=self.cluster,
            holder=self.name,
            name=record.id,
            seen=self.seen,
            box=self.box,
            signers=self.signers,
            now=now,
        )
        if (ring.epoch, ring.fingerprint) != (record.epoch, record.fingerprint):
            raise BundleRefused("the bundle is not of the turn that carries it")
        return ring
