"""Rings in a file, to be kept or to be taken to another federation: sealed under a passphrase or for a public key.

Never in clear: the controller seals, the controller opens. scrypt and AES-256-GCM, or HPKE as for bundles; what the
file says of itself is bound to it. Source: docs/operate.md, "Keys".
"""

import asyncio
import os
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from controller.commit import Sequencer
from controller.sites import RINGS, Sites
from controller.turning import Terms, with_former
from regional_keystone.errors import Conflict, Invalid
from regional_keystone.holder import CREDENTIAL
from regional_keystone.keys import KeyRing, check_value
from regional_keystone.log import Change, put
from regional_keystone.model import Condemned, Ring
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock

log = structlog.get_logger("key_export")

LEAST_CHARACTERS = 12
_FORMAT = "regional-keystone keys 1"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_COST = 2**16  # of scrypt: 64 MiB
Rings = dict[str, dict[int, bytes]]


class Under(NamedTuple):
    """What a file is sealed with: one of them; `key` is an X25519 key, public to seal and private to open, raw."""

    passphrase: str = ""
    key: bytes = b""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """The file. `rings`: check values of its keys, by number. Without `salt` it is for a public key."""

    format: str = _FORMAT
    cluster: str
    made_at: int
    rings: dict[str, dict[int, str]]
    salt: bytes = b""
    nonce: bytes = b""
    box: bytes = b""


def seal(rings: Rings, under: Under, cluster: str, now: int) -> bytes:
    """The file of these rings. Raises Invalid for a passphrase that is too short, and for what is no key."""
    checks = {name: {number: check_value(key) for number, key in keys.items()} for name, keys in rings.items()}
    about, content = Sealed(cluster=cluster, made_at=now, rings=checks), msgspec.msgpack.encode(rings)
    if under.key:
        box = _SUITE.encrypt(content, X25519PublicKey.from_public_bytes(_raw(under.key)), info=_bound(about))
        return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(about, box=box)))
    if len(under.passphrase) < LEAST_CHARACTERS:
        raise Invalid(
            f"A passphrase has {LEAST_CHARACTERS} characters at least: whoever has the file may try for years."
        )
    about = msgspec.structs.replace(about, salt=os.urandom(16), nonce=os.urandom(12))
    box = AESGCM(_derived(under.passphrase, about.salt)).encrypt(about.nonce, content, _bound(about))
    return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(about, box=box)))


def opened(data: bytes, under: Under) -> Rings:
    """The rings of a file. Raises Invalid for what is none, was changed, or is sealed with something else."""
    try:
        file = msgspec.json.decode(data, type=Sealed)
    except msgspec.MsgspecError:
        raise Invalid("This is no file of `rkctl keys export`.") from None
    if file.format != _FORMAT:
        raise Invalid(f"This file is of another version: {file.format!r}.")
    needs = "a passphrase" if file.salt else "the private key of a public one"
    if bool(file.salt) != bool(under.passphrase):
        raise Invalid(f"This file is sealed with {needs}.")
    about = msgspec.structs.replace(file, box=b"")
    try:
        if file.salt:
            content = AESGCM(_derived(under.passphrase, file.salt)).decrypt(file.nonce, file.box, _bound(about))
        else:
            private = X25519PrivateKey.from_private_bytes(_raw(under.key))
            content = _SUITE.decrypt(file.box, private, info=_bound(about))
        return msgspec.msgpack.decode(content, type=Rings)
    except (InvalidTag, ValueError):
        raise Invalid(f"This file does not open: it was changed, or {needs} is another one.") from None


class KeyFiles:
    """Writes the rings of this federation as files, and takes those of files in."""

    def __init__(
        self, *, overlay: Overlay, sequencer: Sequencer, sites: Sites, clock: Clock, terms: Terms, cluster: str
    ) -> None:
        self._overlay = overlay
        self._sequencer = sequencer
        self._sites = sites
        self._clock = clock
        self._terms = terms
        self._cluster = cluster

    async def export(self, names: Sequence[str], under: Under) -> str:
        """The file of these rings as they stand. Raises Conflict where there is none of them."""
        records = [record for name in names if (record := await self._overlay.get(Ring, name)) is not None]
        if not records:
            raise Conflict("There is no such ring yet.")
        rings = {record.id: dict((await self._sites.held(record)).numbers) for record in records}
        log.warning("rings_exported", rings=sorted(rings), under="a public key" if under.key else "a passphrase")
        return (await asyncio.to_thread(seal, rings, under, self._cluster, self._clock.now())).decode()

    async def take_in(self, text: str, under: Under, names: Sequence[str], *, merge: bool) -> dict[str, int]:
        """Take in these rings of a file: how many keys of each are new. `merge`: as former keys, beside a ring.

        What was condemned here stays away. Raises Conflict, and changes nothing, where there is a ring and `merge` is
        not asked for, and where a first ring would have a condemned key.
        """
        found = await asyncio.to_thread(opened, text.encode(), under)
        try:
            rings = {name: KeyRing(found[name], 1) for name in RINGS if name in found and name in names}
        except ValueError as error:
            raise Invalid(f"The file holds no ring: {error}.") from None
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], dict[str, int]]:
            changes, new = list[Change](), dict[str, int]()
            for name, ring in rings.items():
                change, new[name] = await self._taken(reader, name, ring, now, merge=merge)
                changes += change
            return changes, new

        new, _ = await transact(self._overlay, self._sequencer, f"import/{secrets.token_hex(8)}", decide)
        log.warning("rings_imported", keys=new)
        return new

    async def _taken(
        self, reader: Recording, name: str, ring: KeyRing, now: int, *, merge: bool
    ) -> tuple[list[Change], int]:
        record, stolen = await reader.get(Ring, name), await _stolen(reader, name, ring)
        if record is None:
            if stolen:
                raise Conflict(f"Keys of this file were condemned: {', '.join(stolen)}. A new ring is made without it.")
            made = await self._sites.sealed(reader, name, ring, None, now)
            return [put(msgspec.structs.replace(made, times={}))], len(ring.numbers)
        if not merge:
            raise Conflict(
                f"There is a ring of {name} keys already, and it stays. With --merge the keys of the file are added"
                " as former ones: what they sealed opens, nothing new is sealed with them, they go as any former key."
            )
        held = await self._sites.held(record)
        good = [key for key in ring.numbers.values() if check_value(key) not in stolen]
        new = [key for key in good if key not in held.numbers.values()]
        if not new:
            return [], 0
        numbers = dict(held.numbers)
        primary = numbers.pop(held.primary)
        numbers |= dict(enumerate([*new, primary], held.primary))
        made = await self._sites.sealed(reader, name, KeyRing(numbers, held.epoch + 1), record, now)
        times = with_former(record, self._terms, now, len(new))
        return [put(msgspec.structs.replace(made, times=times), record)], len(new)


async def _stolen(reader: Recording, name: str, ring: KeyRing) -> list[str]:
    """Which keys of this ring were condemned; none where they have to open what they sealed."""
    if name == CREDENTIAL:
        return []
    condemned = {one.id async for one in reader.scan(Condemned)}
    return sorted(condemned.intersection(ring.key_ids.values()))


def _derived(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode())


def _bound(about: Sealed) -> bytes:
    """What the content is bound to: everything that the file says of itself."""
    return msgspec.json.encode(about)


def _raw(key: bytes) -> bytes:
    if len(key) != 32:
        raise Invalid("An X25519 key has 32 bytes.")
    return key
