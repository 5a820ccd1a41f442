"""Who holds key rings here: opens bundles that the log brings, installs them on disk, swaps one reference.

Separate from bundle, which is pure, and from follow, which knows nothing of keys.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone import durable
from regional_keystone.bundle import BundleRefused, Reason, Seen, open_, read_header
from regional_keystone.errors import Unavailable
from regional_keystone.followed import POLL_S, Followed
from regional_keystone.key_directory import Found, endangered, examine, unmarked, write_directory
from regional_keystone.key_files import Damage, KeyRepositoryError, Look, is_there, look, unwritten
from regional_keystone.keys import KeyRing
from regional_keystone.model import Ring
from regional_keystone.ports import Clock

log = structlog.get_logger("holder")
TOKEN = "token"  # noqa: S105  the ring that seals tokens
CREDENTIAL = "credential"  # the ring that seals the secrets of credentials
RECEIPT = "receipt"  # the ring that seals auth receipts
_NONE = Seen(0, "")
_HOLD_S = 2.0
LOOK_S = 2.0  # so often a directory is looked at
_THOROUGHLY = 30  # one look in so many reads every file


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
    retired: Collection[bytes] = ()  # signers that count no more
    memory: Path | None = None  # where the highest epoch is kept, beside the directory: that may be put back without it
    followed: Followed | None = None  # a Keystone's directory whose keys are used as well
    refused: Counter[str] = field(default_factory=Counter)  # bundles, by reason
    not_after: int | None = None  # until when the installed bundle can be installed again
    isolation_us: int | None = None  # so long tokens may be sealed without news, as the installed bundle promises
    damage: tuple[Damage, ...] = ()  # what was wrong with the directory when it was looked at last
    mended: int = 0  # how often it was made whole again
    lost: bool = False  # whether keys are missing that tokens may have been sealed with
    _highest: int = 0
    _ring: KeyRing | None = None  # the controller's
    _in_use: KeyRing | None = None  # the same, with the keys of who is followed
    _taken: tuple[bytes, ...] = field(default=(), repr=False)
    _due: Seen = _NONE  # the newest ring that is known to have been installed, whatever is left of it
    _durable: bool = True  # whether the directory holds the ring in use
    _looked: Look | None = None
    _said: str = ""
    _why: tuple[Seen, str] = (_NONE, "")  # of what was refused last
    _installing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _newer: asyncio.Condition = field(default_factory=asyncio.Condition)

    def load(self) -> None:
        """Take up what the directory holds, if any; what is damaged is told, and mended from the replica.

        Raises KeyRepositoryError for what only an operator can judge: files that others can read or replace, or that
        only a Keystone takes for keys, and a directory that is none or cannot be entered.
        """
        if self.followed is not None:
            self.followed.start()
        self._highest = self._remembered()
        if self.keeps and not is_there(self.directory):
            self._tell_if_gone()
            return
        self._looked, found = _examined(self.directory)
        for damage in found.damage:
            if damage.cure and self.keeps:
                raise KeyRepositoryError(str(damage))
        if not found.damage and found.ring is None:
            self._tell_if_gone()
            return
        self._tell(found.damage)
        self._ring, self.lost, self._due = found.ring, found.lost, Seen(found.epoch, found.fingerprint)
        self._combine()
        self._durable = not self.keeps or not found.damage
        if 0 < self.seen.epoch < self._highest:
            cure = "nothing to do: it is written again from the replica, or the controller helps on"
            log.error("ring_went_back", ring=self.of, holds=self.seen.epoch, had=self._highest, cure=cure)

    async def had(self, epoch: int) -> None:
        """This epoch was acknowledged from here: nothing older is installed from now on, whatever disk is put back."""
        if epoch > max(self._highest, self.seen.epoch):
            log.error("ring_went_back", ring=self.of, holds=self.seen.epoch, had=epoch)
        await asyncio.to_thread(self._remember, epoch)

    @property
    def ring(self) -> KeyRing:
        """The ring in use. Raises Unavailable before the first has arrived."""
        if self._in_use is None:
            raise Unavailable("This site has not received its keys yet.", retry_after_s=2)
        return self._in_use

    @property
    def installed(self) -> KeyRing:
        """The controller's ring alone, as it is turned and acknowledged. Raises Unavailable before the first."""
        if self._ring is None:
            raise Unavailable("This site has not received its keys yet.", retry_after_s=2)
        return self._ring

    def read_again(self) -> bool:
        """Whether a Keystone that is followed has turned its keys since they were taken up; they are in use then.

        Costs a stat of each of its files; False at once where none is followed.
        """
        if self.followed is None:
            return False
        self.followed.read()
        return self.take_followed()

    def take_followed(self) -> bool:
        """Use what was read of a Keystone's directory; whether that is anything new."""
        if self.followed is None or self.followed.keys is self._taken:
            return False
        self._combine()
        return True

    @property
    def seen(self) -> Seen:
        """What is in use; epoch 0 for none."""
        return _NONE if self._ring is None else self._due

    @property
    def held(self) -> Seen:
        """What may be acknowledged: what is in use and lies in the directory, whole; epoch 0 for none."""
        return self.seen if self._durable else _NONE

    @property
    def why(self) -> str:
        """For an operator: why the newest ring that has come is not held; empty if it is, or if none was refused."""
        refused, why = self._why
        return self._said or (why if refused != self.held and refused.epoch >= self.held.epoch else "")

    def lacks(self, record: Ring) -> bool:
        """Whether this ring has keys that are missing here."""
        newer = record.epoch > self._due.epoch
        return newer or (record.epoch == self._due.epoch and (self.lost or not self._durable))

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

    async def unclaimed(self) -> KeyRing | None:
        """The ring that somebody else left in the directory, as a Keystone does; None if there is none.

        Raises KeyRepositoryError for keys that make no ring.
        """
        return await asyncio.to_thread(unmarked, self.directory) if self.keeps else None

    async def install(self, record: Ring, now: int) -> bool:
        """Install this ring durably, then use it; False, loudly, for one that must not be. The old one stays in use.

        Durably, that is, if it is this process that keeps the directory. What is installed already is installed again
        only if the directory lost it. Where that had lost keys at the start, it is used even so, and not acknowledged.

        Raises KeyRepositoryError if it is the first one here and the directory holds somebody else's keys.
        """
        async with self._installing:
            if record.id != self.of or record.epoch < self._due.epoch:
                return False
            if not self.lost and (record.epoch, record.fingerprint) == self.seen and await self._intact():
                self._durable = True
                self._promised(record)
                return True
            try:
                ring = self._open(record, now)
            except BundleRefused as error:
                self._refuse(record, error.reason.value, str(error))
                return False
            if self._due.epoch == 0 and (whose := await self._endangered(ring)):
                raise KeyRepositoryError(whose)
            why = await self._written(ring)
            if why is not None:
                self._refuse(record, "not_written", why)
                if self.lost:
                    await self._use(ring, durable=False)
                return False
            await self._use(ring, durable=True)
            self._promised(record)
            log.info("ring_installed", ring=record.id, epoch=ring.epoch, fingerprint=ring.fingerprint)
            return True

    async def look_after(self, *, thoroughly: bool = False) -> None:
        """Tell what is wrong with the directory, if it has changed since it was looked at, and mend it.

        `thoroughly`: read it even if the file system tells of no change, as of a disk that loses bits.
        """
        async with self._installing:
            if self._ring is None or not self.keeps:
                return
            seen = await asyncio.to_thread(look, self.directory)
            if seen == self._looked and seen is not None and self._durable and not thoroughly:
                return
            if await self._intact():
                self._durable, self._said = True, ""
                return
            if self.lost:
                return  # what is left of a ring is not what the directory is to hold
            why = await self._written(self._ring)
            if why is None:
                self.mended += 1
                log.warning("key_directory_mended", ring=self.of, directory=str(self.directory), epoch=self.seen.epoch)
                self._durable = True
                self._tell(())
                return
            if why != self._said:
                log.error("key_directory_not_mended", ring=self.of, directory=str(self.directory), why=why)
            self._said, self._durable = why, False

    async def _use(self, ring: KeyRing, *, durable: bool) -> None:
        self._ring, self._due = ring, Seen(ring.epoch, ring.fingerprint)
        self.lost, self._durable = False, durable
        self._combine()
        if durable:
            self._tell(())
        async with self._newer:
            self._newer.notify_all()

    def _combine(self) -> None:
        self._in_use = self._ring
        if self.followed is not None:
            self._taken = self.followed.keys
            self._in_use = None if self._ring is None else self.followed.merged(self._ring)

    async def _intact(self) -> bool:
        """Whether the directory holds the ring in use, and nothing is wrong with it; tells what is."""
        if not self.keeps:
            return True
        self._looked, found = await asyncio.to_thread(_examined, self.directory)
        self._tell(found.damage)
        return not found.damage and found.ring == self._ring

    async def _endangered(self, ring: KeyRing) -> str | None:
        """Why the directory is not ours to write; None if it is."""
        if not self.keeps:
            return None
        kept = self._highest > 0 or (self.memory is not None and self.memory.exists())
        return await asyncio.to_thread(endangered, self.directory, ring, kept=kept)

    async def _written(self, ring: KeyRing) -> str | None:
        """Why it is not in the directory now; None if it is."""
        if not self.keeps:
            return None
        if whose := await self._endangered(ring):
            return whose
        try:
            await asyncio.to_thread(self._write, ring)
            self._looked = await asyncio.to_thread(look, self.directory)
        except KeyRepositoryError as error:
            return str(error)
        except OSError as error:
            return unwritten(self.directory, error)
        self._said = ""
        return None

    def _tell(self, damage: tuple[Damage, ...]) -> None:
        for one in damage:
            if one not in self.damage:
                cure = one.cure or "none needed: it is written again from the ring of the controller"
                log.error("key_file_damaged", ring=self.of, file=str(one.file), why=one.what, cure=cure)
        self.damage = damage

    def _tell_if_gone(self) -> None:
        if self.keeps and self._highest:  # else there never was a ring
            self.lost = True
            self._tell((Damage(self.directory, f"its keys are gone, of which epoch {self._highest} was acknowledged"),))

    def _refuse(self, record: Ring, reason: str, why: str) -> None:
        self.refused[reason] += 1
        installed = self.seen.epoch
        self._why = Seen(record.epoch, record.fingerprint), why
        log.error("ring_refused", ring=record.id, epoch=record.epoch, installed=installed, reason=reason, why=why)

    def _open(self, record: Ring, now: int) -> KeyRing:
        sealed = record.sealed.get(self.name)
        if sealed is None:
            raise BundleRefused(Reason.NOT_SEALED_FOR_HOLDER, "it was not sealed for this holder")
        ring = open_(
            sealed,
            cluster=self.cluster,
            holder=self.name,
            name=record.id,
            seen=self._due,
            box=self.box,
            signers=self.signers,
            now=now,
            highest=self._highest,
            retired=self.retired,
        )
        if (ring.epoch, ring.fingerprint) != (record.epoch, record.fingerprint):
            raise BundleRefused(Reason.OTHER_TURN, "the bundle is not of the turn that carries it")
        return ring

    def _promised(self, record: Ring) -> None:
        with suppress(BundleRefused, KeyError):
            about = read_header(record.sealed[self.name])
            self.isolation_us, self.not_after = about.isolation_us, about.not_after

    def _remembered(self) -> int:
        try:
            return 0 if self.memory is None else int(self.memory.read_bytes())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError):  # the controller knows it as well, and tells it
            log.error("highest_epoch_not_read", file=str(self.memory), cure="remove the file; the controller knows it")
            return 0

    def _write(self, ring: KeyRing) -> None:
        if self.memory is not None and not self.memory.exists():
            durable.write(self.memory, b"0")  # what lies in the directory from now on is ours, half-written or not
        write_directory(self.directory, ring)
        self._remember(ring.epoch)

    def _remember(self, epoch: int) -> None:
        if epoch > self._highest:
            if self.memory is not None and self.keeps:
                durable.write(self.memory, str(epoch).encode())
            self._highest = epoch


async def look_after(holders: Collection[Holder], clock: Clock, changed: Callable[[], None]) -> None:
    """See to it that directories hold what is in use, for ever; `changed` is told when they do, or no longer do."""
    looks = 0
    while True:
        await clock.sleep(LOOK_S)
        looks += 1
        for holder in holders:
            before = holder.held
            await holder.look_after(thoroughly=looks % _THOROUGHLY == 0)
            if holder.held != before:
                changed()


async def follow(holder: Holder, clock: Clock) -> None:
    """Take up what a Keystone that is followed turns, within half a second, for as long as there is one."""
    followed = holder.followed
    while followed is not None:
        await clock.sleep(POLL_S)
        await asyncio.to_thread(followed.read)
        holder.take_followed()


def _examined(directory: Path) -> tuple[Look | None, Found]:
    """How the directory looks, and what it holds; one that is gone holds nothing."""
    seen = look(directory)
    try:
        return seen, examine(directory)
    except KeyRepositoryError as error:
        damage = error.damage or Damage(directory, str(error))
        return seen, Found(None, lost=True, epoch=0, fingerprint="", damage=(damage,))
