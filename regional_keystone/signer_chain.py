"""Whose signatures on bundles count: a chain of statements, each signed by one that the statement before it trusts.

A place begins with what it was told when it joined, and follows the chain that the log brings: a new signer needs no
word but that of an old one. Pure, but for `Chain`, which keeps what a place believes. Source: docs/security.md,
"Signers".
"""

import asyncio
import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from regional_keystone import durable
from regional_keystone.bundle import Seen, signer_id

log = structlog.get_logger("signers")

SIGNERS = "signers"
"""Under this name the chain is acknowledged, as rings are; and the id of the one row that there is."""

_SIGNED = b"regional-keystone signers 1\x00"
_MOST = 16  # signers that are trusted at once


class ChainRefused(Exception):
    """This chain is not one that leads on from what is trusted here; the sentence says why."""


class Trusted(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The signers of a federation, as Ed25519 public keys: who signs now, who is ready to, all that count, who did.

    `number` counts the statements; 0 is what was told at the joining. `previous` is the digest of the one before.
    """

    cluster: str
    number: int = 0
    previous: str = ""
    signing: bytes
    spare: bytes | None = None
    signers: tuple[bytes, ...]
    retired: tuple[bytes, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Names all of it; 32 hex characters. Asked at every acknowledgement."""
        return hashlib.sha256(_SIGNED + msgspec.msgpack.encode(self)).hexdigest()[:32]

    @property
    def seen(self) -> Seen:
        """As it is acknowledged."""
        return Seen(self.number, self.digest)

    @property
    def ceasing(self) -> tuple[bytes, ...]:
        """Who signs no more and still counts."""
        return tuple(signer for signer in self.signers if signer not in (self.signing, self.spare))


class _Statement(msgspec.Struct, frozen=True, array_like=True, tag=1):
    body: bytes
    signer: str
    signature: bytes


def root(cluster: str, signer: bytes) -> Trusted:
    """What every place of a federation begins with."""
    return Trusted(cluster=cluster, signing=signer, signers=(signer,))


def announced(trusted: Trusted, spare: bytes) -> Trusted:
    """The next statement: this signer counts from now on, and does not sign yet."""
    signers = (*trusted.signers, spare)
    return _next(trusted, signing=trusted.signing, spare=spare, signers=signers, retired=trusted.retired)


def changed(trusted: Trusted, spare: bytes) -> Trusted:
    """The next statement: the spare one signs, and this one is the spare. Who signed before still counts."""
    if trusted.spare is None:
        raise ValueError("no spare signer has been announced")
    signers = (*trusted.signers, spare)
    return _next(trusted, signing=trusted.spare, spare=spare, signers=signers, retired=trusted.retired)


def retired(trusted: Trusted) -> Trusted:
    """The next statement: who signs no more counts no more, for good."""
    kept = tuple(signer for signer in trusted.signers if signer not in trusted.ceasing)
    gone = (*trusted.retired, *trusted.ceasing)
    return _next(trusted, signing=trusted.signing, spare=trusted.spare, signers=kept, retired=gone)


def signed(statement: Trusted, signer: Ed25519PrivateKey) -> bytes:
    """The statement as it travels, signed by one whom the statement before it trusts."""
    body = msgspec.msgpack.encode(statement)
    name = signer_id(signer.public_key().public_bytes_raw())
    return msgspec.msgpack.encode(_Statement(body, name, signer.sign(_SIGNED + body)))


def followed(chain: Sequence[bytes], trusted: Trusted) -> Trusted:
    """What is trusted at the end of this chain, of which the beginning may be known. Raises ChainRefused.

    Every statement that is new has to follow from the one before it; one that is known has to be the same.
    """
    for data in chain:
        try:
            statement = msgspec.msgpack.decode(data, type=_Statement)
            said = msgspec.msgpack.decode(statement.body, type=Trusted)
        except ValueError:
            raise ChainRefused("that is no statement about signers") from None
        if said.number == trusted.number and said.digest != trusted.digest:
            raise ChainRefused(f"a second statement {said.number}")
        if said.number > trusted.number:
            _check(statement, said, trusted)
            trusted = said
    return trusted


class Believer(Protocol):
    """Who asks whose signatures count."""

    signers: Collection[bytes]
    retired: Collection[bytes]


class Chain:
    """What this place believes, durably; it only goes on. Whoever believes by it is told."""

    def __init__(self, trusted: Trusted, believers: Collection[Believer], path: Path | None = None) -> None:
        """`path`: where it is kept; None where it begins with the first statement at each start."""
        self.trusted = trusted
        self._believers = believers
        self._path = path
        self._tell()

    async def follow(self, chain: Sequence[bytes]) -> None:
        """Go on as the log has it; loudly not, where that does not follow or cannot be written."""
        try:
            trusted = followed(chain, self.trusted)
            if trusted.number > self.trusted.number and self._path is not None:
                await asyncio.to_thread(durable.write, self._path, msgspec.msgpack.encode(trusted))
        except (ChainRefused, OSError) as error:
            log.error("signers_refused", number=self.trusted.number, why=str(error))
            return
        if trusted.number > self.trusted.number:
            self.trusted = trusted
            self._tell()
            log.warning("signers_changed", number=trusted.number, signing=signer_id(trusted.signing))

    def _tell(self) -> None:
        for one in self._believers:
            one.signers, one.retired = self.trusted.signers, self.trusted.retired


def _next(trusted: Trusted, **fields: object) -> Trusted:
    said = {"cluster": trusted.cluster, "number": trusted.number + 1, "previous": trusted.digest, **fields}
    return msgspec.convert(said, Trusted)


def _check(statement: _Statement, said: Trusted, trusted: Trusted) -> None:
    if said.cluster != trusted.cluster:
        raise ChainRefused("it is about another federation")
    if said.number != trusted.number + 1 or said.previous != trusted.digest:
        raise ChainRefused(f"statement {said.number} does not follow statement {trusted.number}")
    by = next((signer for signer in trusted.signers if signer_id(signer) == statement.signer), None)
    if by is None:
        raise ChainRefused(f"statement {said.number} is signed by {statement.signer}, who is not trusted")
    try:
        Ed25519PublicKey.from_public_bytes(by).verify(statement.signature, _SIGNED + statement.body)
    except InvalidSignature:
        raise ChainRefused(f"statement {said.number} is not signed as it says") from None
    named = {said.signing, *([said.spare] if said.spare else [])}
    gone = set(said.retired)
    well = named <= set(said.signers) and not gone & set(said.signers) and set(trusted.retired) <= gone
    if not well or len(said.signers) > _MOST or any(len(one) != 32 for one in said.signers):
        raise ChainRefused(f"statement {said.number} contradicts itself, or brings back who was retired")
