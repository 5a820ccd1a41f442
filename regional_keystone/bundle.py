"""A key ring on its way: sealed for one holder, signed, numbered, bound to cluster, holder and the rings before it.

HPKE (RFC 9180) in base mode for the holder's key, the header bound to it; the whole signed by Ed25519. A stolen
holder's key reads its own bundles and forges none. Source: docs/security.md, "Key bundles"; docs/adr/0024.
"""

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from regional_keystone.keys import KeyRing, ring_fingerprint

FORMAT = 2
MAX_BYTES = 64 * 1024  # more is no bundle and is not looked at: a ring of a hundred keys takes a tenth of it
MAX_JUMP = 1000  # an epoch further ahead than this is a forgery or a fault, not progress
MAX_FIRST = 2**32  # the same for a holder that has nothing yet to compare with, or whose ring the bundle names
LINEAGE = 32  # so many rings before it a bundle names
VALIDITY_US = 90 * 24 * 3600 * 1_000_000
SKEW_US = 300 * 1_000_000
_SIGNED = b"regional-keystone bundle 2\x00"
_SIGNER = b"regional-keystone bundle signer 1\x00"
_FORMER = b"regional-keystone bundle 1\x00"
_FINGERPRINT = re.compile(r"[0-9a-f]{0,32}")
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Reason(StrEnum):
    """Why a bundle is refused: the words of logs, metrics and docs/security.md."""

    TOO_LARGE = "too_large"
    NOT_A_BUNDLE = "not_a_bundle"
    NOT_SEALED_FOR_HOLDER = "not_sealed_for_holder"
    UNKNOWN_SIGNER = "unknown_signer"
    RETIRED_SIGNER = "retired_signer"
    BAD_SIGNATURE = "bad_signature"
    FORMAT = "format"
    OTHER_CLUSTER = "other_cluster"
    OTHER_HOLDER = "other_holder"
    OTHER_RING = "other_ring"
    OTHER_TURN = "other_turn"
    REPLAYED = "replayed"
    ROLLED_BACK = "rolled_back"
    TOO_FAR_AHEAD = "too_far_ahead"
    FORKED = "forked"
    GAP = "gap"
    FUTURE = "future"
    EXPIRED = "expired"
    DOES_NOT_OPEN = "does_not_open"
    KEYS_DO_NOT_FIT = "keys_do_not_fit"


class BundleRefused(Exception):
    """This bundle must not be installed; the sentence says why and holds no key, `reason` is for programs."""

    def __init__(self, reason: Reason, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is, readable without opening it. Times are microseconds since 1970 UTC.

    `previous` is the fingerprint of the ring one epoch before, `earlier` those of the ones before that, newest first.
    `held` is what this holder was known to hold (epoch, fingerprint), which the ring may follow directly.
    `seal_until` - `created_at` is the isolation that is promised: so long the holder may seal without news.
    """

    format: int = FORMAT
    cluster: str
    holder: str
    ring: str
    epoch: int
    created_at: int
    not_after: int
    seal_until: int = 0
    signer: str = ""
    previous: str
    earlier: tuple[str, ...] = ()
    held: tuple[int, str] | None = None
    checks: dict[int, str]

    @property
    def isolation_us(self) -> int | None:
        """The promised isolation; None in a bundle of the former format, which promises nothing of its own."""
        return self.seal_until - self.created_at if self.seal_until else None


class Seen(NamedTuple):
    """The newest ring a holder has installed; epoch 0 before the first."""

    epoch: int
    fingerprint: str


class Names(NamedTuple):
    """Whom a bundle has to be for: cluster, holder, ring."""

    cluster: str
    holder: str
    ring: str


class _Bundle(msgspec.Struct, frozen=True, array_like=True, tag=FORMAT):
    header: bytes
    box: bytes  # what HPKE encapsulates, 32 bytes, then what it seals
    signature: bytes


class _Former(msgspec.Struct, frozen=True, array_like=True):
    """Format 1: X25519, HKDF-SHA-256 and AES-256-GCM put together by hand. Read where a log still has it."""

    header: bytes
    ephemeral: bytes
    nonce: bytes
    box: bytes
    signature: bytes


def is_possible(held: tuple[int, str]) -> bool:
    """Whether this can be the epoch and the fingerprint of anything that is held. What a site says is bounded by it."""
    epoch, fingerprint = held
    return 0 <= epoch < 2**63 and _FINGERPRINT.fullmatch(fingerprint) is not None


def header(
    cluster: str,
    holder: str,
    name: str,
    ring: KeyRing,
    now: int,
    previous: str,
    *,
    earlier: Collection[str] = (),
    held: Seen | None = None,
    isolation_us: int = 0,
) -> Header:
    """The header of a ring's bundle for one holder, made `now`. What cannot be `held` is left out."""
    told = held is not None and held.epoch and is_possible(held)
    return Header(
        cluster=cluster,
        holder=holder,
        ring=name,
        epoch=ring.epoch,
        created_at=now,
        not_after=now + VALIDITY_US,
        seal_until=now + isolation_us if isolation_us else 0,
        previous=previous,
        earlier=tuple(earlier)[: LINEAGE - 1],
        held=(held.epoch, held.fingerprint) if held is not None and told else None,
        checks=ring.check_values(),
    )


def signer_id(public: bytes) -> str:
    """Names a signer of bundles by its public key: 16 hex characters."""
    return hashlib.sha256(_SIGNER + public).hexdigest()[:16]


def seal(ring: KeyRing, about: Header, box_key: bytes, signer: Ed25519PrivateKey) -> bytes:
    """The ring as bytes that only the owner of `box_key` (an X25519 public key, 32 bytes) can read."""
    about = msgspec.structs.replace(about, signer=signer_id(signer.public_key().public_bytes_raw()))
    head = msgspec.msgpack.encode(about)
    public = X25519PublicKey.from_public_bytes(box_key)
    box = _SUITE.encrypt(msgspec.msgpack.encode(dict(ring.numbers)), public, info=_SIGNED + head)
    return msgspec.msgpack.encode(_Bundle(head, box, signer.sign(_to_sign(head, box))))


def read_header(data: bytes) -> Header:
    """What a bundle says that it is; who signed it is not looked at. Raises BundleRefused for what is no bundle."""
    return _header(_decoded(data))


def open_(
    data: bytes,
    *,
    cluster: str,
    holder: str,
    name: str,
    seen: Seen,
    box: X25519PrivateKey,
    signers: Collection[bytes],
    now: int,
    highest: int = 0,
    retired: Collection[bytes] = (),
) -> KeyRing:
    """The ring in a bundle that this holder may install. Raises BundleRefused for every other one.

    The epoch only grows; the same epoch is taken again only if it is the same ring (a directory that was lost).
    `highest`: the highest epoch that this holder ever had; more than is `seen` where an old disk was put back.
    """
    bundle = _decoded(data)
    about = _header(bundle)
    _check_signature(bundle, about, signers, retired)
    check_header(about, seen, now, Names(cluster, holder, name), highest)
    ring = _unbox(bundle, about, box)
    if ring.check_values() != about.checks:
        raise BundleRefused(Reason.KEYS_DO_NOT_FIT, "the keys are not those that its header names")
    return ring


def check_header(about: Header, seen: Seen, now: int, names: Names, highest: int = 0) -> None:
    """Whether a bundle with this header, duly signed, may be installed over what is seen. Raises BundleRefused if not.

    Pure: this is the whole rule. Source: docs/security.md, "Key bundles".
    """
    if about.format not in (1, FORMAT):
        raise BundleRefused(Reason.FORMAT, f"format {about.format} is not known here")
    for said, wanted, reason in zip(
        (about.cluster, about.holder, about.ring),
        names,
        (Reason.OTHER_CLUSTER, Reason.OTHER_HOLDER, Reason.OTHER_RING),
        strict=True,
    ):
        if said != wanted:
            why = f"made for {about.ring} of {about.holder} in cluster {about.cluster}"
            raise BundleRefused(reason, why)
    _check_epoch(about, seen, highest)
    _check_chain(about, seen)
    if now < about.created_at - SKEW_US:
        raise BundleRefused(Reason.FUTURE, "made in the future; check this machine's clock")
    if now > about.not_after:
        raise BundleRefused(Reason.EXPIRED, "made too long ago; check this machine's clock")


def broken_chain(about: Header, seen: Seen) -> Reason | None:
    """Why a holder of what is seen may not go on to this ring, as far as the rings before it are concerned."""
    try:
        _check_chain(about, seen)
    except BundleRefused as refusal:
        return refusal.reason
    return None


def _check_epoch(about: Header, seen: Seen, highest: int) -> None:
    if about.epoch < max(seen.epoch, 1):
        raise BundleRefused(Reason.REPLAYED, f"epoch {about.epoch} is behind {seen.epoch}")
    if about.epoch < highest:
        why = f"epoch {about.epoch} is behind {highest}, which this holder had before an older state was put back"
        raise BundleRefused(Reason.ROLLED_BACK, why)
    reached = max(seen.epoch, highest)
    most = MAX_JUMP if reached and about.held != seen else MAX_FIRST  # one for who holds just this may go further
    if about.epoch > reached + most:
        raise BundleRefused(Reason.TOO_FAR_AHEAD, f"epoch {about.epoch} is too far ahead of {reached}")


def _check_chain(about: Header, seen: Seen) -> None:
    """It is the ring that is installed, or the rings before it that it names contain that one."""
    if seen.epoch == 0 or about.held == seen:
        return
    line = (ring_fingerprint(about.checks), about.previous, *about.earlier)
    back = about.epoch - seen.epoch
    if back >= len(line):
        why = f"the rings that it names do not reach back to epoch {seen.epoch}; a new one for this holder is needed"
        raise BundleRefused(Reason.GAP, why)
    if line[back] != seen.fingerprint and back == 0:
        raise BundleRefused(Reason.FORKED, f"a second ring of epoch {about.epoch}")
    if line[back] != seen.fingerprint:
        raise BundleRefused(Reason.FORKED, "it does not follow the ring that is installed")


def _decoded(data: bytes) -> _Bundle | _Former:
    """The parts, only in their one spelling."""
    if len(data) > MAX_BYTES:
        raise BundleRefused(Reason.TOO_LARGE, f"{len(data)} bytes are more than any bundle has")
    kinds: tuple[type[_Bundle | _Former], ...] = (_Bundle, _Former)
    for kind in kinds:
        with suppress(ValueError):
            bundle = msgspec.msgpack.decode(data, type=kind)
            if msgspec.msgpack.encode(bundle) == data:
                return bundle
    raise BundleRefused(Reason.NOT_A_BUNDLE, "not a bundle")


def _header(bundle: _Bundle | _Former) -> Header:
    try:
        about = msgspec.msgpack.decode(bundle.header, type=Header)
    except ValueError as error:
        raise BundleRefused(Reason.NOT_A_BUNDLE, "its header cannot be read") from error
    if isinstance(bundle, _Former) != (about.format == 1):
        raise BundleRefused(Reason.FORMAT, f"format {about.format} is not known here")
    return about


def _check_signature(
    bundle: _Bundle | _Former, about: Header, signers: Collection[bytes], retired: Collection[bytes]
) -> None:
    if isinstance(bundle, _Former):  # which does not say who signed it
        named = list(signers)
        signed = _FORMER + msgspec.msgpack.encode((bundle.header, bundle.ephemeral, bundle.nonce, bundle.box))
    else:
        named = [signer for signer in signers if signer_id(signer) == about.signer]
        signed = _to_sign(bundle.header, bundle.box)
    if not named and about.signer in {signer_id(signer) for signer in retired}:
        raise BundleRefused(Reason.RETIRED_SIGNER, f"signed by {about.signer}, which is retired")
    if not named:
        raise BundleRefused(Reason.UNKNOWN_SIGNER, "not signed by a controller of this federation")
    if not any(_verifies(signer, bundle.signature, signed) for signer in named):
        raise BundleRefused(Reason.BAD_SIGNATURE, "not signed as it says")


def _unbox(bundle: _Bundle | _Former, about: Header, box: X25519PrivateKey) -> KeyRing:
    try:
        if isinstance(bundle, _Former):
            content = _unbox_former(bundle, box)
        else:
            content = _SUITE.decrypt(bundle.box, box, info=_SIGNED + bundle.header)
    except (InvalidTag, ValueError) as error:
        raise BundleRefused(Reason.DOES_NOT_OPEN, "it does not open with this holder's key") from error
    try:
        return KeyRing(msgspec.msgpack.decode(content, type=dict[int, bytes]), about.epoch)
    except ValueError as error:
        raise BundleRefused(Reason.KEYS_DO_NOT_FIT, "its keys are no ring") from error


def _unbox_former(bundle: _Former, box: X25519PrivateKey) -> bytes:
    mine = box.public_key().public_bytes_raw()
    shared = box.exchange(X25519PublicKey.from_public_bytes(bundle.ephemeral))
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_FORMER + bundle.ephemeral + mine).derive(shared)
    return AESGCM(key).decrypt(bundle.nonce, bundle.box, bundle.header)


def _to_sign(head: bytes, box: bytes) -> bytes:
    return _SIGNED + msgspec.msgpack.encode((head, box))


def _verifies(signer: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True
