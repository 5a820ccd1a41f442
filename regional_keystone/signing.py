"""Who signs tokens, with which public keys and for what; and the private key of this place, which never leaves it.

The log says whose public keys count. A place makes its key, offers the public half, and signs with it once the log says
that every site holds it. Source: docs/security.md, "A key pair for each site"; docs/adr/0022-a-key-pair-per-site.md.
"""

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from regional_keystone import signing_files as files
from regional_keystone.bundle import Seen
from regional_keystone.errors import Forbidden, Unavailable
from regional_keystone.jws import MOST_OF, PrivateKey, PublicKey, Signed, der, key_id, public_key, sign
from regional_keystone.key_files import KeyRepositoryError, Look, look
from regional_keystone.model import MaySign, Signing, SigningKey
from regional_keystone.payload import NotAToken
from regional_keystone.ports import Clock
from regional_keystone.settings import Settings
from regional_keystone.token import Scope, SystemScope, Token

log = structlog.get_logger("signing")

SIGNING = "signing"
"""Under this name the record is acknowledged, as rings are; and the id of the one row that there is."""
CONTROLLER = "@controller/"  # begins a controller's name as an owner of keys; no site can be called so
TRUSTED = "@trusted"  # the owner of keys that no log knows, of a Keystone in a migration
_ANY = MaySign(system=True)
_OFFER = b"regional-keystone signing offer 1\x00"


class Signers:
    """Whose public keys count, and for what; never changes."""

    def __init__(self, record: Signing | None = None, trusted: Mapping[str, PublicKey] = MappingProxyType({})) -> None:
        self.record = record or Signing(id=SIGNING, epoch=0)
        self.trusted = trusted
        self.public: dict[str, PublicKey] = {}
        for name, key in self.record.keys.items():
            try:
                self.public[name] = public_key(key.public)
            except ValueError as error:
                log.error("signing_key_unreadable", id=name, owner=key.owner, why=str(error))
        self.ids = frozenset({*self.public, *trusted})
        self.reads_sealed = not self.record.refuses_sealed  # whether tokens of the shared keys count as well

    def opener(self, signed: Signed) -> str:
        """The id of the key that signed this. Raises NotAToken, NoKeyFits among them.

        Keys of the federation sign in one form only; a Keystone knows both, so of trusted keys both are taken.
        """
        if signed.kid is None:
            for name, key in self.trusted.items():
                if signed.fits(key, low=False):
                    return name
            raise NotAToken("no key fits")
        known = self.public.get(signed.kid)
        if known is None:
            raise signed.unknown()
        if not signed.fits(known):
            raise NotAToken("the signature does not fit")
        if not self.ids.issuperset(signed.of):
            raise signed.unknown()
        return signed.kid

    def owner(self, name: str) -> str | None:
        """Whose key this is; None for one that is no signing key."""
        key = self.record.keys.get(name)
        if key is not None:
            return key.owner
        return TRUSTED if name in self.trusted else None

    def may(self, owner: str) -> MaySign:
        """What this owner may sign for: by default a controller anything, others anything but the system."""
        return self.record.may.get(owner) or (_ANY if owner.startswith(CONTROLLER) else MaySign())

    def beyond(self, owner: str, scope: Scope, domains: Collection[str]) -> str | None:
        """Why this owner may not sign a token of this scope that is about these domains; None if it may."""
        may = self.may(owner)
        if isinstance(scope, SystemScope) and not may.system:
            return "the system"
        if may.domains is not None:
            for domain_id in sorted(domains):
                if domain_id not in may.domains:
                    return f"domain {domain_id}"
        return None

    def may_use(self, name: str, owner: str, now: int) -> bool:
        """Whether this owner may sign with this key now: all sites hold it, and it was not retired.

        With one that has ceased, for as long as was promised: it is kept for what was signed with it by then.
        """
        key = self.record.keys.get(name)
        return key is not None and key.owner == owner and key.signs_from is not None and not _is_over(key, now)


class _Own(NamedTuple):
    id: str
    private: PrivateKey

    def __repr__(self) -> str:
        return f"_Own({self.id})"

    @classmethod
    def of(cls, private: PrivateKey | None) -> "_Own | None":
        return None if private is None else cls(key_id(private.public_key()), private)


@dataclass(slots=True)
class Signatory:
    """What this process knows of signing keys, and what it signs with."""

    owner: str
    cluster: str
    private: Path
    public: Path
    keeps: bool = True  # whether it writes the directories, or leaves that to another process
    signs: bool = False  # whether tokens are to be signed here
    lag_s: int = 0
    trusted: Path | None = None
    clock: Clock | None = None  # without one no key's time is over
    signers: Signers = field(default_factory=Signers)
    condemned: frozenset[str] = frozenset()
    """Ids of keys that are refused at once, whatever the record says."""
    seen: Seen = field(default_factory=lambda: Seen(0, ""))
    owed: bool = False  # something could not be written
    _own: _Own | None = None
    _next: _Own | None = None
    _stored: Signing = field(default_factory=lambda: Signing(id=SIGNING, epoch=0))
    _settling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _foreign: list[str] = field(default_factory=list)
    _said: dict[str, str] = field(default_factory=dict)  # what is wrong on disk, as it was told
    _looked: tuple[Look | None, Look | None] | None = None

    def load(self) -> None:
        """Look at what is on disk. Raises KeyRepositoryError for a private key that others can read, and the like."""
        if self.trusted is not None:
            trusted = files.load_trusted(self.trusted)
            self.signers = Signers(self.signers.record, trusted)
            log.warning("foreign_signers_trusted", directory=str(self.trusted), ids=sorted(trusted))
        if self.signs:
            for name in (files.NEXT, files.CURRENT):
                files.load_private(self.private, name)

    def accepts(self, name: str) -> bool:
        """Whether what the key of this id has signed is taken for a token now."""
        return name in self.signers.ids and name not in self.condemned

    def take(self, record: Signing) -> bool:
        """From now on this is known; whether it changes what somebody may sign for. An older one changes nothing."""
        if record.epoch <= self.signers.record.epoch:
            return False
        before, self.signers = self.signers, Signers(record, self.signers.trusted)
        return before.record.may != record.may

    async def settle(self, stored: Signing | None = None) -> None:
        """Bring what is on disk to what is known, durably; what cannot be written is owed, loudly.

        `stored`: the record as the replica has it by now. A restart goes on from there, so no more is acknowledged.
        """
        async with self._settling:
            if stored is not None and stored.epoch > self._stored.epoch:
                self._stored = stored
            signers, wrong = self.signers, dict[str, str]()
            self.owed = False
            try:
                if self.signs:
                    self._own, self._next = await asyncio.to_thread(self._private_keys, signers)
            except (KeyRepositoryError, OSError) as error:
                self.owed, wrong["signing_key_not_kept"] = True, str(error)
            try:
                if self.keeps and signers.record.epoch:
                    self._tell_foreign(await asyncio.to_thread(files.write_public, self.public, self._public(signers)))
            except OSError as error:
                self.owed, wrong["public_keys_not_written"] = True, str(error)
            else:
                self.seen = seen(self._stored)
            self._tell(wrong)

    async def look_after(self, *, thoroughly: bool = False) -> bool:
        """Put right what was changed on disk since it was looked at last; whether more may be acknowledged than before.

        `thoroughly`: read it even if the file system tells of no change, as of a disk that loses bits.
        """
        found = await asyncio.to_thread(lambda: (look(self.private), look(self.public))) if self.keeps else None
        before, was_owed, touched = self.seen, self.owed, found != self._looked
        self._looked = found  # as it was before anything is written: the next look asks after that
        if was_owed or touched or (thoroughly and self.keeps):
            await self.settle()
        return self.seen != before or (was_owed and not self.owed)

    @property
    def damage(self) -> list[str]:
        """What is wrong with the files of signing keys, and could not be put right."""
        return list(self._said.values())

    def offer(self) -> tuple[bytes, bytes] | None:
        """The public key that is to be made known, and the proof that the private one is here; None for nothing."""
        if self._next is None or not self.keeps or self._next.id in self.signers.record.keys:
            return None
        public = der(self._next.private.public_key())
        return public, self._next.private.sign(_offered(self.cluster, self.owner, public), ec.ECDSA(hashes.SHA256()))

    @property
    def key_id(self) -> str:
        """The id of the key that signs; nothing without one."""
        return "" if self._own is None else self._own.id

    def check(self) -> None:
        """Raises Unavailable while this place has no key that it may sign with."""
        own = self._own
        if own is not None and self._is_good(self.signers, own.id):
            return
        known = self.signers.record.keys.get(self._next.id) if self._next is not None else None
        why = "no controller has made it known yet"
        if known is not None:
            is_stuck = known.signs_from is not None
            why = "it could not be put in its place, see the log" if is_stuck else "not every region holds it yet"
        raise Unavailable(f"The signing key of this region cannot be used: {why}.", retry_after_s=2)

    def sign(self, token: Token, domains: Collection[str], methods: Collection[str], of: Collection[str] = ()) -> str:
        """The token as signed text; it falls with each of the keys `of` which it is made, as with its own.

        Raises Unavailable as `check`, Forbidden for what this place may not sign for.
        """
        self.check()
        beyond = self.signers.beyond(self.owner, token.scope, domains)
        if beyond is not None:
            raise Forbidden(f"This region does not issue tokens for {beyond}: ask another, or the controller.")
        own = self._own
        if own is None:
            raise Unavailable
        others = tuple(dict.fromkeys(one for one in of if one != own.id))
        if len(others) > MOST_OF:
            raise Forbidden("This token was made from those of too many regions: log in anew.")
        return sign(token, own.private, self.lag_s, tuple(methods), own.id, others)

    def _private_keys(self, signers: Signers) -> tuple[_Own | None, _Own | None]:
        """The key in use and the one that is to follow it; made, and put in its place, where this process does that."""
        held, next_held = self._own, self._next if self.keeps else None
        if next_held is not None and next_held.id in self.condemned:
            next_held = None
        next_ = self._found(files.NEXT, next_held)  # first: it may be about to be promoted
        own = self._found(files.CURRENT, held if held is not None and self._is_good(signers, held.id) else None)
        if next_ is not None and self._is_good(signers, next_.id):
            if self.keeps:
                files.promote(self.private)
                log.warning("signing_key_in_use", id=next_.id, owner=self.owner)
            return next_, None
        if next_ is not None and next_.id in self.condemned:
            next_ = None
        if next_ is None and self.keeps and self._wants_another(signers, own):
            if own is None:
                self._tell_lost(signers)
            next_ = _Own.of(files.make_private(self.private, files.NEXT))
        return own, next_

    def _found(self, name: str, held: _Own | None) -> _Own | None:
        """The key in this file; where the file is gone or spoilt the one that this process holds, written again."""
        try:
            found, why = _Own.of(files.load_private(self.private, name)), "it is gone"
        except KeyRepositoryError as error:
            if held is None:
                raise
            found, why = None, str(error)
        if found is not None or held is None:
            return found
        if self.keeps:
            files.write_private(self.private, name, held.private)
            cure = f"none needed: it is written again. Could others read it: rkctl keys compromised --key {held.id}"
            log.error("key_file_damaged", ring=SIGNING, file=str(self.private / name), why=why, cure=cure)
        return held

    def _is_good(self, signers: Signers, name: str) -> bool:
        now = 0 if self.clock is None else self.clock.now()
        return signers.may_use(name, self.owner, now) and name not in self.condemned

    def _wants_another(self, signers: Signers, own: _Own | None) -> bool:
        if own is None or not self._is_good(signers, own.id):
            return True
        return signers.record.renew.get(self.owner, 0) > signers.record.keys[own.id].offered_at

    def _public(self, signers: Signers) -> dict[str, PublicKey]:
        return {name: key for name, key in signers.public.items() if name not in self.condemned}

    def _tell(self, wrong: dict[str, str]) -> None:
        for event, why in wrong.items():
            if self._said.get(event) != why:
                log.error(event, why=why)
        self._said = wrong

    def _tell_lost(self, signers: Signers) -> None:
        """What all others believe to be the key of this place is not here."""
        for name, key in signers.record.keys.items():
            is_gone = key.owner == self.owner and key.signs_from is not None and key.ceased_at is None
            if is_gone and name not in self.condemned:
                cure = f"another is made. If somebody may have taken it: rkctl keys compromised --key {name}"
                log.error("signing_key_lost", id=name, directory=str(self.private), cure=cure)

    def _tell_foreign(self, names: list[str]) -> None:
        if names and names != self._foreign:
            cure = "take them away: a Keystone fails on what is no key there, and believes whatever is one"
            log.error("foreign_files_among_public_keys", directory=str(self.public), names=names, cure=cure)
        self._foreign = names


def directories(settings: Settings) -> tuple[Path, Path]:
    """Of private and of public keys."""
    section, state = settings.jwt_tokens, settings.site.state_dir / "jws-keys"
    return (
        section.jws_private_key_repository or state / "private",
        section.jws_public_key_repository or state / "public",
    )


def seen(record: Signing) -> Seen:
    """What a site acknowledges that holds it."""
    said = "\n".join(sorted(record.keys))
    return Seen(record.epoch, hashlib.sha256(said.encode()).hexdigest()[:32] if record.epoch else "")


def proven(cluster: str, owner: str, public: bytes, proof: bytes) -> str:
    """The id of a key that was offered. Raises ValueError unless whoever offers it has the private half."""
    key = public_key(public)
    if der(key) != public:
        raise ValueError("the key is not spelled as it should be")
    try:
        key.verify(proof, _offered(cluster, owner, public), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ValueError("the proof does not fit") from None
    return key_id(key)


def _is_over(key: SigningKey, now: int) -> bool:
    """Whether nobody may sign with it any more. A former version wrote down no more than how long it is kept."""
    if key.ceased_at is None:
        return False
    until = key.ceased_at + key.isolation_us if key.isolation_us else key.keep_until
    return until is not None and now >= until


def _offered(cluster: str, owner: str, public: bytes) -> bytes:
    return _OFFER + cluster.encode() + b"\x00" + owner.encode() + b"\x00" + public
