"""The site's own keys and certificate: join with a one-time token, renew by itself.

The site makes its keys and never sends a private one. The federation's CA is pinned by the join token.
Source: docs/security.md, "Enrolment".
"""

import base64
import functools
import hashlib
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import aiohttp
import msgspec
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone import durable
from regional_keystone.bundle import Seen
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.signer_chain import Trusted, root

log = structlog.get_logger("enrol")

CAS = "cas"
"""Under this name the trusted CAs are acknowledged, as rings are."""
CA_STEPS = 3
"""A turn of the CA has so many: announced, issuing, the old one ended. The number counts them, of all turns."""

_TOKEN = "rkj1."  # noqa: S105  the prefix by which people and scanners know a join token
_ANSWER_S = 10.0
_CAS = b"regional-keystone CAs "  # what stands before the first certificate; readers of PEM skip it
_DIGITS = 9
_TURNING_S = 15 * 60.0
_ANSWER_BYTES = 256 * 1024  # certificates and a few words


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation for one site, good once. `ca` is the hex SHA-256 of the federation's CA certificate."""

    name: str
    secret: str
    ca: str
    controllers: tuple[str, ...]

    def __repr__(self) -> str:
        return f"JoinToken(name={self.name!r})"

    def text(self) -> str:
        """As one word to paste."""
        return _TOKEN + base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str) -> "JoinToken":
        """The token that `text` made. Raises StoreRefused for anything else, without showing it."""
        body = text.strip()
        try:
            if not body.startswith(_TOKEN):
                raise ValueError("no prefix")
            body = body.removeprefix(_TOKEN)
            return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=cls)
        except (ValueError, msgspec.MsgspecError):
            raise StoreRefused("this is no join token; make one with `rkctl region add NAME`") from None


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a site knows about the federation it joined. `signers` are Ed25519 public keys of its controllers."""

    cluster: str
    name: str
    instance: str
    controllers: tuple[str, ...]
    signers: tuple[bytes, ...]


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a site sends to join: nothing in it is private but the one-time secret."""

    name: str
    secret: str
    instance: str
    csr: str
    box_key: bytes

    def __repr__(self) -> str:
        return f"JoinRequest(name={self.name!r}, instance={self.instance!r})"


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a site sends whose certificate has ended: signed with its own key, about a controller's challenge."""

    cluster: str
    name: str
    instance: str
    csr: str
    challenge: bytes
    signature: bytes = b""

    def to_sign(self) -> bytes:
        """What the signature (ECDSA, SHA-256) is over."""
        parts = (self.cluster, self.name, self.instance, self.csr, self.challenge)
        return b"regional-keystone renewal 1\x00" + msgspec.msgpack.encode(parts)


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller answers to a join or a renewal."""

    cluster: str
    certificate: str
    signers: tuple[bytes, ...] = ()
    trusted: bytes = b""  # whose signatures count by now, to begin with
    cas: str = ""  # what `ca_bundle` made, once the CA has been turned


@dataclass(frozen=True, slots=True)
class Identity:
    """A site's keys and certificate on disk, below one directory of mode 0700."""

    directory: Path

    @property
    def joined(self) -> bool:
        """Whether the site has joined a federation."""
        return self._path("membership").exists()

    def membership(self) -> Membership:
        """Where the site belongs. Raises StoreRefused before it has joined."""
        if not self.joined:
            raise StoreRefused(f"{self.directory}: this site has not joined; set [site] join_token_file")
        return msgspec.json.decode(self._path("membership").read_bytes(), type=Membership)

    @property
    def chain_path(self) -> Path:
        """Where it is kept whose signatures count."""
        return self._path("signers")

    def trusted(self) -> Trusted:
        """Whose signatures on bundles count, as it was told or has been followed since. Raises StoreRefused."""
        if not self.chain_path.exists():  # joined with the version before
            member = self.membership()
            return root(member.cluster, member.signers[0])
        try:
            return msgspec.msgpack.decode(self.chain_path.read_bytes(), type=Trusted)
        except ValueError:
            raise StoreRefused(f"{self.chain_path}: damaged; put it back from a backup, or join anew") from None

    def box(self) -> X25519PrivateKey:
        """The key that opens what is sealed for this site; made at first use, never leaves the machine."""
        raw = durable.keep(self._path("box.key"), lambda: X25519PrivateKey.generate().private_bytes_raw())
        return X25519PrivateKey.from_private_bytes(raw)

    def tls(self) -> ssl.SSLContext:
        """Mutually authenticated TLS towards the controllers, 1.2 at least."""
        context = pinned(self._path("ca.crt"))
        context.load_cert_chain(self._path("tls.crt"), self._path("tls.key"))
        return context

    def certificate(self) -> x509.Certificate:
        """The certificate in use."""
        return x509.load_pem_x509_certificate(self._path("tls.crt").read_bytes())

    def ends_at(self) -> dict[str, int]:
        """When the certificates end that are used here, microseconds since 1970 UTC."""
        ca = x509.load_pem_x509_certificate(self._path("ca.crt").read_bytes())
        found = {"site": self.certificate(), "ca": ca}
        return {name: int(one.not_valid_after_utc.timestamp() * 1_000_000) for name, one in found.items()}

    def renewal_due_at(self) -> int:
        """When half of the certificate's life is over, microseconds since 1970 UTC; sooner while the CA is turned."""
        certificate = self.certificate()
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        half = (begins + ends) / 2
        if (
            self.cas.epoch % CA_STEPS == 1
        ):  # the turn may go on while this site is away, and end what its own was made by
            half = min(half, begins + _TURNING_S)
        return int(half * 1_000_000)

    async def join(self, token: JoinToken) -> Membership:
        """Become a member by this token. Safe to repeat after a lost answer: the same keys are sent again.

        Raises StoreRefused when the controller says no, Unavailable when none answers.
        """
        await self._pin(token)
        key, instance = _tls_key(self._path("tls.key")), self._instance()
        public = self.box().public_key().public_bytes_raw()
        request = JoinRequest(
            name=token.name, secret=token.secret, instance=instance, csr=_csr(key, token.name), box_key=public
        )
        context = pinned(self._path("ca.crt"))
        body = await _post(token.controllers, "/join/v1", msgspec.json.encode(request), context)
        welcome = _welcome(body, key)
        if welcome.trusted:
            durable.write(self.chain_path, welcome.trusted)
        durable.write(self._path("tls.crt"), welcome.certificate.encode())
        self._trust(welcome)
        membership = Membership(
            cluster=welcome.cluster,
            name=token.name,
            instance=instance,
            controllers=token.controllers,
            signers=welcome.signers,
        )
        durable.write(self._path("membership"), msgspec.json.encode(membership))
        return membership

    async def renew(self, controllers: Sequence[str]) -> None:
        """A fresh certificate for the same key. Raises Unavailable, or StoreRefused once the site was removed.

        By the certificate that there is or, where TLS no longer takes that because it has ended, by the key alone.
        """
        key = _tls_key(self._path("tls.key"))
        csr = _csr(key, self.membership().name)
        try:
            body = await _post(controllers, "/renew/v1", msgspec.json.encode({"csr": csr}), self.tls())
        except Unavailable:
            body = await self._prove(controllers, key, csr)
        welcome = _welcome(body, key)
        durable.write(self._path("tls.crt"), welcome.certificate.encode())
        self._trust(welcome)

    @property
    def cas(self) -> Seen:
        """Which CA certificates are trusted here, as it is acknowledged. That of the joining has number 0.

        Asked at every acknowledgement, so the file is read only when it is another.
        """
        path = self.directory / "ca.crt"
        found = path.stat()
        return _cas_seen_in(path, found.st_ino, found.st_mtime_ns)

    def _trust(self, welcome: Welcome) -> None:
        """Trust these CAs from the next connection on, if they are newer: who says so was verified by those before.

        The certificate is kept first, so that who acknowledges the CAs has one of theirs.
        """
        bundle = welcome.cas.encode()
        if (told := cas_seen(bundle)).epoch <= self.cas.epoch:
            return
        try:
            ca = x509.load_pem_x509_certificates(bundle)[0]
            x509.load_pem_x509_certificate(welcome.certificate.encode()).verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature):
            raise Unavailable("The controller's answer names other CAs than that of its certificate.") from None
        durable.write(self._path("ca.crt"), bundle)
        log.warning("cas_changed", number=told.epoch)

    async def _prove(self, controllers: Sequence[str], key: ec.EllipticCurvePrivateKey, csr: str) -> bytes:
        """The answer of the first controller that can be asked, each about a challenge of its own."""
        member, context, trouble = self.membership(), pinned(self._path("ca.crt")), Unavailable()
        for controller in controllers:
            try:
                challenge = await _get([controller], "/renew/v2", context)
                request = RenewRequest(
                    cluster=member.cluster, name=member.name, instance=member.instance, csr=csr, challenge=challenge
                )
                signature = key.sign(request.to_sign(), ec.ECDSA(hashes.SHA256()))
                request = msgspec.structs.replace(request, signature=signature)
                return await _post([controller], "/renew/v2", msgspec.json.encode(request), context)
            except Unavailable as error:
                trouble = error
        raise trouble

    async def _pin(self, token: JoinToken) -> None:
        """Fetch the CA certificate and believe it only if the token names it."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            ca = x509.load_pem_x509_certificate(await _get(token.controllers, "/ca/v1", context))
        except ValueError:
            raise StoreRefused("what answered is no controller; does the join token name the right address?") from None
        if hashlib.sha256(ca.public_bytes(serialization.Encoding.DER)).hexdigest() != token.ca:
            raise StoreRefused("the controller that answered is not of the federation that the join token names")
        durable.write(self._path("ca.crt"), ca.public_bytes(serialization.Encoding.PEM))

    def _instance(self) -> str:
        return durable.keep(self._path("instance"), _new_instance).decode()

    def _path(self, name: str) -> Path:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.directory / name


def ca_bundle(number: int, certificates: Sequence[bytes]) -> bytes:
    """These CA certificates (PEM) as sites keep them, the one that issues first."""
    return _CAS + str(number).encode() + b"\n" + b"".join(certificates)


def cas_seen(bundle: bytes) -> Seen:
    """As a bundle of CA certificates is acknowledged; number 0 for a certificate without one."""
    line = bundle.partition(b"\n")[0]
    number = line.removeprefix(_CAS)
    if not line.startswith(_CAS) or not number.isdigit() or len(number) > _DIGITS:
        return Seen(0, "")
    return Seen(int(number), hashlib.sha256(bundle).hexdigest()[:32])


@functools.lru_cache(maxsize=16)
def _cas_seen_in(path: Path, *file: int) -> Seen:
    del file  # which one it was: another is read again
    return cas_seen(path.read_bytes())


def pinned(ca: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer that trusts this CA alone and checks the host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    return context


def _tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(durable.keep(path, _new_tls_key), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise StoreRefused(f"{path}: not a key that this program made; remove it and join again")
    return loaded


def _welcome(body: bytes, key: ec.EllipticCurvePrivateKey) -> Welcome:
    """The answer to a join or a renewal. Raises Unavailable for one whose certificate is of no use with our key."""
    try:
        welcome = msgspec.json.decode(body, type=Welcome)
        fits = x509.load_pem_x509_certificate(welcome.certificate.encode()).public_key() == key.public_key()
    except ValueError:
        raise Unavailable("The controller's answer cannot be read.") from None
    if not fits:
        raise Unavailable("The controller certified another key than ours.")
    return welcome


def _new_instance() -> bytes:
    return uuid.uuid4().hex.encode()


def _new_tls_key() -> bytes:
    key, plain = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _csr(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def _get(controllers: Sequence[str], path: str, context: ssl.SSLContext) -> bytes:
    return await _ask("GET", controllers, path, None, context)


async def _post(controllers: Sequence[str], path: str, body: bytes, context: ssl.SSLContext) -> bytes:
    return await _ask("POST", controllers, path, body, context)


async def _ask(
    method: str, controllers: Sequence[str], path: str, body: bytes | None, context: ssl.SSLContext
) -> bytes:
    """The first controller's answer that is one."""
    trouble = "no controller is configured"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
        for controller in controllers:
            try:
                async with session.request(method, controller + path, data=body, ssl=context) as answer:
                    content = await _read(answer)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                trouble = f"{controller} does not answer ({type(error).__name__})"
                continue
            if answer.status == 200:
                return content
            if answer.status in (400, 401, 403):
                _refused(controller, content)
            trouble = f"{controller} answered {answer.status}"
    raise Unavailable(f"No controller can be asked: {trouble}.")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body. Raises aiohttp.ClientError for one that does not end."""
    content = b""
    async for part in answer.content.iter_any():
        content += part
        if len(content) > _ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("the answer does not end")
    return content


def _refused(controller: str, content: bytes) -> NoReturn:
    raise StoreRefused(f"{controller} refused: {content.decode(errors='replace')[:300]}")
