"""The site's own keys and certificate: join with a one-time token, renew by itself.

The site makes its keys and never sends a private one. The federation's CA is pinned by the join token.
Source: docs/security.md, "Enrolment".
"""

import base64
import hashlib
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone import durable
from regional_keystone.errors import StoreRefused, Unavailable

_TOKEN = "rkj1."  # noqa: S105  the prefix by which people and scanners know a join token
_ANSWER_S = 10.0


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


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller answers to a join or a renewal."""

    cluster: str
    certificate: str
    signers: tuple[bytes, ...] = ()


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

    def renewal_due_at(self) -> int:
        """When half of the certificate's life is over, microseconds since 1970 UTC."""
        certificate = self.certificate()
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return int((begins + ends) / 2 * 1_000_000)

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
        durable.write(self._path("tls.crt"), welcome.certificate.encode())
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
        """A fresh certificate for the same key. Raises Unavailable, or StoreRefused once the site was removed."""
        key = _tls_key(self._path("tls.key"))
        csr = _csr(key, self.membership().name)
        body = await _post(controllers, "/renew/v1", msgspec.json.encode({"csr": csr}), self.tls())
        durable.write(self._path("tls.crt"), _welcome(body, key).certificate.encode())

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
                    content = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                trouble = f"{controller} does not answer ({type(error).__name__})"
                continue
            if answer.status == 200:
                return content
            if answer.status in (400, 401, 403):
                _refused(controller, content)
            trouble = f"{controller} answered {answer.status}"
    raise Unavailable(f"No controller can be asked: {trouble}.")


def _refused(controller: str, content: bytes) -> NoReturn:
    raise StoreRefused(f"{controller} refused: {content.decode(errors='replace')[:300]}")
