"""The ring that seals credentials and what else is secret in a row: made once, turned when asked, never ahead of a row.

Upstream's rule keeps every row readable: no turn while a row is sealed with another key than the primary. `migrate`
seals such rows again. A site reads a row as soon as the log has it, so a turn also waits until every site holds the
ring before it. Source: keystone/credential/providers/fernet/core.py, keystone/cmd/cli.py.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from cryptography.fernet import Fernet

from controller.commit import Sequencer
from controller.replicate import Replicator
from controller.sites import Sites
from controller.turning import turned
from regional_keystone.blobs import Unreadable, open_blob, primary_hash, seal_blob
from regional_keystone.errors import Conflict
from regional_keystone.holder import CREDENTIAL
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, put
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Reader
from regional_keystone.record import TABLES, Key, Record, facts

log = structlog.get_logger("credential_keys")

SEALED = [one.kind for one in TABLES.values() if {"blob", "key_hash"} <= one.fields.keys()]
"""The records whose `blob` the ring seals, where their `key_hash` names a key."""

Place = tuple[type[Record], Key]
_ROWS, _BYTES = 100, 262_144  # that one transaction seals again
_PATIENCE_S, _POLL_S = 10.0, 0.2
_NONE = "There is no ring for secrets yet; `rkctl credential setup` makes one."


class Standing(NamedTuple):
    """The ring and what is sealed with it: `others` counts rows that another key than the primary has sealed."""

    epoch: int
    primary: int
    keys: dict[int, str]
    secrets: int
    others: int
    waits_for: tuple[str, ...]


class CredentialKeys:
    """Makes, turns and applies the credential ring. Every act is a transaction that others' changes collide with."""

    def __init__(
        self, *, overlay: Overlay, sequencer: Sequencer, replicator: Replicator, sites: Sites, clock: Clock
    ) -> None:
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._sites = sites
        self._clock = clock

    async def setup(self) -> bool:
        """The first ring: a primary and a staged key, or what a Keystone left in the directory; False if there is one.

        Raises KeyRepositoryError for a directory whose keys make no ring.
        """
        now = self._clock.now()
        first = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1)

        async def decide(reader: Recording) -> tuple[list[Change], bool]:
            if await reader.get(Ring, CREDENTIAL) is not None:
                return [], False
            return [put(await self._sites.first(reader, CREDENTIAL, first, now))], True

        return (await transact(self._overlay, self._sequencer, _name("setup"), decide))[0]

    async def standing(self) -> Standing:
        """How it stands. Raises Conflict before there is a ring."""
        await self._replicator.acknowledgements.refresh()
        record = _there(await self._overlay.get(Ring, CREDENTIAL))
        primary = primary_hash(await self._sites.held(record))
        count, others = 0, 0
        async for _, row in _sealed(self._overlay):
            count += 1
            others += row.key_hash != primary
        waits_for = self._holdouts(record, await self._sites.all())
        return Standing(record.epoch, max(record.checks), dict(record.checks), count, others, waits_for)

    async def rotate(self) -> Standing:
        """Make the staged key the primary, and stage another. What the primary has sealed stays readable.

        Raises Conflict while rows are sealed with another key than the primary, or a site lacks the present ring.
        """
        await self._acknowledged()
        now, fresh = self._clock.now(), Fernet.generate_key()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            record = _there(await reader.get(Ring, CREDENTIAL))
            if waits_for := self._holdouts(record, [site async for site in reader.scan(Site)]):
                cure = "bring each back, or turn without it: `rkctl region quarantine`"
                raise Conflict(f"Not every site holds the present ring: {', '.join(waits_for)}; {cure}.")
            ring = await self._sites.held(record)
            await _check_all_sealed_by(primary_hash(ring), reader)
            former = [number for number in ring.numbers if number not in {0, ring.primary}]
            turn = turned(record, self._sites.terms, now, former)
            new = await self._sites.sealed(reader, CREDENTIAL, ring.rotated(fresh, former), record, turn.at)
            new = msgspec.structs.replace(new, turned_at=turn.at, times=turn.times, retired=turn.retired)
            return [put(new, record)], None

        await transact(self._overlay, self._sequencer, _name("turn"), decide)
        found = await self.standing()
        log.warning("ring_turned", ring=CREDENTIAL, epoch=found.epoch, primary=found.primary)
        return found

    async def migrate(self) -> int:
        """Seal with the primary key what another one has sealed, some rows at a time; how many that were.

        Raises Conflict for a row that no key of the ring opens, after all others were done.
        """
        ring = await self._sites.held(_there(await self._overlay.get(Ring, CREDENTIAL)))
        done, lost = 0, 0
        batch: list[Place] = []
        size_bytes = 0
        async for kind, row in _sealed(self._overlay):
            if row.key_hash == primary_hash(ring):
                continue
            if not _opens(ring, row.blob):
                lost += 1
                continue
            batch.append((kind, facts(kind).key_of(row)))
            size_bytes += len(row.blob)
            if len(batch) == _ROWS or size_bytes > _BYTES:
                done += await self._seal_again(batch)
                batch, size_bytes = [], 0
        done += await self._seal_again(batch)
        if lost:
            raise Conflict(f"{lost} secrets are sealed with keys that are not in the ring; {done} were sealed again.")
        return done

    async def _seal_again(self, places: Sequence[Place]) -> int:
        async def decide(reader: Recording) -> tuple[list[Change], int]:
            ring = await self._sites.held(_there(await reader.get(Ring, CREDENTIAL)))
            changes: list[Change] = []
            for kind, key in places:
                row: Any = await reader.get(kind, *key)
                if row is not None and row.key_hash not in {None, primary_hash(ring)}:
                    blob, hashed = seal_blob(ring, open_blob(ring, row.blob))
                    changes.append(put(msgspec.structs.replace(row, blob=blob, key_hash=hashed), row))
            return changes, len(changes)

        return (await transact(self._overlay, self._sequencer, _name("migrate"), decide))[0] if places else 0

    async def _acknowledged(self) -> None:
        """A ring that was sealed a moment ago, for a site that joins say, is acknowledged soon."""
        deadline = self._clock.ticks() + _PATIENCE_S
        while (await self.standing()).waits_for and self._clock.ticks() < deadline:
            await self._clock.sleep(_POLL_S)

    def _holdouts(self, record: Ring, sites: Sequence[Site]) -> tuple[str, ...]:
        active = [site for site in sites if site.state == "active"]
        return tuple(self._replicator.holdouts(active, CREDENTIAL, record.epoch, record.fingerprint))


async def _sealed(reader: Reader) -> AsyncIterator[tuple[type[Record], Any]]:
    """Every row with a secret that the ring seals."""
    for kind in SEALED:
        async for row in reader.scan(kind):
            if getattr(row, "key_hash", None) is not None:
                yield kind, row


async def _check_all_sealed_by(primary: str, reader: Reader) -> None:
    async for _, row in _sealed(reader):
        if row.key_hash != primary:
            raise Conflict(
                "Secrets are sealed with another key than the primary; seal them again first: "
                "`rkctl credential migrate`."
            )


def _opens(ring: KeyRing, blob: bytes) -> bool:
    try:
        open_blob(ring, blob)
    except Unreadable:
        return False
    return True


def _there(record: Ring | None) -> Ring:
    if record is None:
        raise Conflict(_NONE)
    return record


def _name(act: str) -> str:
    return f"{act}/{CREDENTIAL}/{secrets.token_hex(8)}"
