"""A key ring on its way: sealed for one holder, signed, numbered, bound to cluster and holder.

X25519 + HKDF-SHA256 + AES-256-GCM with the header as associated data; the whole signed by Ed25519. A stolen holder's
key reads its own bundles and forges none. Source: docs/security.md, "Key bundles".
"""

import os
from collections.abc import Collection
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from regional_keystone.keys import KeyRing

FORMAT = 1
MAX_JUMP = 1000  # an epoch further ahead than this is a forgery or a fault, not progress
VALIDITY_US = 90 * 24 * 3600 * 1_000_000
SKEW_US = 300 * 1_000_000
_SIGNED = b"regional-keystone bundle 1\x00"


class BundleRefused(Exception):
    """This bundle must not be installed; the sentence says why and holds no key."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is, readable without opening it. `previous` is the fingerprint of the ring one epoch before."""

    format: int = FORMAT
    cluster: str
    holder: str
    ring: str
    epoch: int
    created_at: int
    not_after: int
    previous: str
    checks: dict[int, str]


class _Bundle(msgspec.Struct, frozen=True, array_like=True):
    header: bytes
    ephemeral: bytes
    nonce: bytes
    box: bytes
    signature: bytes


class Seen(NamedTuple):
    """The newest ring a holder has installed; epoch 0 before the first."""

    epoch: int
    fingerprint: str


def header(cluster: str, holder: str, name: str, ring: KeyRing, now: int, previous: str) -> Header:
    """The header of a ring's bundle for one holder, made `now`."""
    return Header(
        cluster=cluster,
        holder=holder,
        ring=name,
        epoch=ring.epoch,
        created_at=now,
        not_after=now + VALIDITY_US,
        previous=previous,
        checks=ring.check_values(),
    )


def seal(ring: KeyRing, about: Header, box_key: bytes, signer: Ed25519PrivateKey) -> bytes:
    """The ring as bytes that only the owner of `box_key` (an X25519 public key, 32 bytes) can read."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    head = msgspec.msgpack.encode(about)
    nonce = os.urandom(12)
    key = _derive(ephemeral.exchange(X25519PublicKey.from_public_bytes(box_key)), public + box_key)
    box = AESGCM(key).encrypt(nonce, msgspec.msgpack.encode(dict(ring.numbers)), head)
    unsigned = _Bundle(head, public, nonce, box, b"")
    return msgspec.msgpack.encode(msgspec.structs.replace(unsigned, signature=signer.sign(_to_sign(unsigned))))


def read_header(data: bytes) -> Header:
    """What a bundle says that it is; who signed it is not looked at. Raises BundleRefused for what is no bundle."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.decode(data, type=_Bundle).header, type=Header)
    except ValueError as error:
        raise BundleRefused("not a bundle") from error


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
) -> KeyRing:
    """The ring in a bundle that this holder may install. Raises BundleRefused for every other one.

    The epoch only grows; the same epoch is taken again only if it is the same ring (a directory that was lost).
    """
    try:
        bundle = msgspec.msgpack.decode(data, type=_Bundle)
    except ValueError as error:
        raise BundleRefused("not a bundle") from error
    if not any(_verifies(bundle, signer) for signer in signers):
        raise BundleRefused("not signed by a controller of this federation")
    try:
        about = msgspec.msgpack.decode(bundle.header, type=Header)
    except ValueError as error:
        raise BundleRefused("its header cannot be read") from error
    _check_header(about, cluster, holder, name, seen, now)
    ring = _unbox(bundle, about, box)
    if ring.check_values() != about.checks:
        raise BundleRefused("the keys are not those that its header names")
    if ring.epoch == seen.epoch and ring.fingerprint != seen.fingerprint:
        raise BundleRefused(f"a second ring of epoch {ring.epoch}")
    return ring


def _check_header(about: Header, cluster: str, holder: str, name: str, seen: Seen, now: int) -> None:
    if about.format != FORMAT:
        raise BundleRefused(f"format {about.format} is not known here")
    if (about.cluster, about.holder, about.ring) != (cluster, holder, name):
        raise BundleRefused(f"made for {about.ring} of {about.holder} in cluster {about.cluster}")
    if about.epoch < max(seen.epoch, 1):
        raise BundleRefused(f"epoch {about.epoch} is behind {seen.epoch}")
    if seen.epoch and about.epoch > seen.epoch + MAX_JUMP:
        raise BundleRefused(f"epoch {about.epoch} is too far ahead of {seen.epoch}")
    if about.epoch == seen.epoch + 1 and seen.epoch and about.previous != seen.fingerprint:
        raise BundleRefused("it does not follow the ring that is installed")
    if not about.created_at - SKEW_US <= now <= about.not_after:
        raise BundleRefused("made in the future, or too long ago; check this machine's clock")


def _unbox(bundle: _Bundle, about: Header, box: X25519PrivateKey) -> KeyRing:
    mine = box.public_key().public_bytes_raw()
    try:
        shared = box.exchange(X25519PublicKey.from_public_bytes(bundle.ephemeral))
        content = AESGCM(_derive(shared, bundle.ephemeral + mine)).decrypt(bundle.nonce, bundle.box, bundle.header)
        numbers = msgspec.msgpack.decode(content, type=dict[int, bytes])
        return KeyRing(numbers, about.epoch)
    except (InvalidTag, ValueError) as error:
        raise BundleRefused("it does not open with this holder's key") from error


def _derive(shared: bytes, context: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_SIGNED + context).derive(shared)


def _to_sign(bundle: _Bundle) -> bytes:
    return _SIGNED + msgspec.msgpack.encode((bundle.header, bundle.ephemeral, bundle.nonce, bundle.box))


def _verifies(bundle: _Bundle, signer: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(bundle.signature, _to_sign(bundle))
    except (InvalidSignature, ValueError):
        return False
    return True
