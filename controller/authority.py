"""The federation's own authority: its CA, the signer of key bundles, and the controller's identity on the stream.

Files of mode 0400 below one directory of mode 0700, made at first start, or credentials that systemd hands over.
Source: docs/security.md, "Who holds what".
"""

import datetime
import hashlib
import ipaddress
import os
import secrets
import shlex
import ssl
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from regional_keystone import durable
from regional_keystone.bundle import signer_id
from regional_keystone.enrol import ca_bundle
from regional_keystone.errors import Conflict, Invalid, StoreRefused

CA_DAYS = 3650
HOLDER = "@controller"  # the name under which rings are sealed for controllers; no site can be called so
PARTS = ("cluster", "ca.key", "ca.crt", "signer.key", "box.key")  # in the order in which they are made
CAS = "cas"  # the file that says which CAs count, after the first turn
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # set by systemd: where a unit finds what LoadCredential= names
_PEM = serialization.Encoding.PEM
_BACKDATE = datetime.timedelta(minutes=5)  # clocks of sites may be behind


class Cas(msgspec.Struct, frozen=True, kw_only=True):
    """Which CAs count, by id, the one that issues first. `number` counts the steps of their turns."""

    number: int
    trusted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs site certificates and key bundles. Every time is in microseconds since 1970 UTC."""

    cluster: str
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey
    signer: Ed25519PrivateKey
    box: X25519PrivateKey
    directory: Path
    cas: Cas
    trusted: tuple[x509.Certificate, ...]  # the one that issues first
    lent: bool = False  # the directory is the service manager's, and nothing can be added

    @classmethod
    def open(cls, directory: Path, now: int) -> "Authority":
        """The authority kept in this directory, made when there is none, or that of systemd's credentials.

        Raises StoreRefused if a part of it was lost: what were made in its place, no site would believe.
        """
        if (credentials := lent()) is not None:
            return cls._read(credentials, now, lent=True)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lost = [name for name in PARTS if not (directory / name).exists()]
        if lost and (directory / PARTS[-1]).exists():
            raise StoreRefused(f"{directory}: {', '.join(lost)} is missing; put it back from a backup")
        return cls._read(directory, now, lent=False)

    @classmethod
    def _read(cls, directory: Path, now: int, *, lent: bool) -> "Authority":
        cluster = _keep(directory / "cluster", _new_cluster).decode()
        key = _key(_keep(directory / "ca.key", _new_ec))
        ca = _keep(directory / "ca.crt", lambda: _self_signed(key, _ca_name(cluster), now).public_bytes(_PEM))
        signer = _keep(directory / "signer.key", lambda: Ed25519PrivateKey.generate().private_bytes_raw())
        box = _keep(directory / "box.key", lambda: X25519PrivateKey.generate().private_bytes_raw())
        first = x509.load_pem_x509_certificate(ca)
        if first.public_key() != key.public_key():
            raise StoreRefused(f"{directory}: ca.key is not the key of ca.crt; put both back from one backup")
        cas = read_cas(directory) or Cas(number=0, trusted=(ca_id(first),))
        trusted = tuple(_ca(directory, name, first) for name in cas.trusted)
        if trusted[0] != first:
            key = _key(_needed(directory / f"ca-{cas.trusted[0]}.key"))
        return cls(
            cluster,
            trusted[0],
            key,
            Ed25519PrivateKey.from_private_bytes(signer),
            X25519PrivateKey.from_private_bytes(box),
            directory,
            cas,
            trusted,
            lent,
        )

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the CA certificate: what a join token pins."""
        return hashlib.sha256(self.ca.public_bytes(serialization.Encoding.DER)).hexdigest()

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate."""
        return self.ca.public_bytes(_PEM)

    @property
    def bundle(self) -> bytes:
        """All CA certificates that count, as sites keep them."""
        return ca_bundle(self.cas.number, [one.public_bytes(_PEM) for one in self.trusted])

    def new_ca(self, now: int) -> str:
        """Make a further CA: its id. Nothing counts it yet. Raises Conflict where none can be kept."""
        self.check_writable()
        pem = _new_ec()
        certificate = _self_signed(_key(pem), f"{_ca_name(self.cluster)} {secrets.token_hex(4)}", now)
        name = ca_id(certificate)
        durable.write(self.directory / f"ca-{name}.key", pem, 0o400)
        durable.write(self.directory / f"ca-{name}.crt", certificate.public_bytes(_PEM), 0o400)
        return name

    def state_cas(self, cas: Cas) -> None:
        """From the next start on these count. Raises Conflict where that cannot be kept."""
        self.check_writable()
        durable.write(self.directory / CAS, msgspec.json.encode(cas), 0o400)

    @property
    def signer_key(self) -> bytes:
        """The public half of the bundle signer, 32 bytes."""
        return self.signer.public_key().public_bytes_raw()

    def signer_of(self, public: bytes) -> Ed25519PrivateKey:
        """The private half of this signer, the first one or a later. Raises Conflict where it is not here."""
        if public == self.signer_key:
            return self.signer
        path = self.directory / f"signer-{signer_id(public)}.key"
        try:
            return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
        except FileNotFoundError:
            place = f"install -m 0400 -o USER {path.name} {path}"
            cure = f"add LoadCredential={path.name}:FILE to its unit" if self.lent else f"as root: {place}"
            raise Conflict(
                f"This controller has no key of signer {signer_id(public)}, which signs now: copy it from the"
                f" controller that made it, {cure}"
            ) from None

    def check_writable(self) -> None:
        """That keys can be added here. Raises Conflict, saying what to do."""
        if self.lent:
            raise Conflict(
                f"The authority comes from systemd's credentials ({self.directory}), where no new key can be kept:"
                " start this controller once with a copy of the files in [controller] authority_dir and without"
                " LoadCredential=, turn there, then add the new files to the credentials."
            )
        if not os.access(self.directory, os.W_OK):
            raise Conflict(
                f"No new key can be kept in {self.directory}: make it writable for the turn, then ask again."
            )

    def new_signer(self) -> bytes:
        """Make a further signer: its public half. Raises Conflict where none can be kept."""
        self.check_writable()
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
        durable.write(self.directory / f"signer-{signer_id(public)}.key", key.private_bytes_raw(), 0o400)
        return public

    @property
    def box_key(self) -> bytes:
        """The public key that rings for controllers are sealed with, 32 bytes."""
        return self.box.public_key().public_bytes_raw()

    def certify(self, csr: str, site: str, instance: str, now: int, lifetime_s: float) -> str:
        """A client certificate for this instance of this site, in PEM. Of the request only its key is used.

        Raises Invalid for a request that is none, or not signed by its own key.
        """
        key = requested_key(csr)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity(self.cluster, site, instance))]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._sign(key, site, names, usage, now, lifetime_s).public_bytes(_PEM).decode()

    def certify_stream(self, directory: Path, hosts: Sequence[str], now: int, lifetime_s: float) -> x509.Certificate:
        """A certificate of our own for these hosts, kept in this directory, which belongs to this controller alone."""
        key = _key(_keep(directory / "stream.key", _new_ec))
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        certificate = self._sign(key.public_key(), hosts[0], [_host(host) for host in hosts], usage, now, lifetime_s)
        durable.write(directory / "stream.crt", certificate.public_bytes(_PEM), 0o400)
        return certificate

    def stream_certificate(self, directory: Path) -> x509.Certificate:
        """The one that is kept there."""
        return x509.load_pem_x509_certificate((directory / "stream.crt").read_bytes())

    def serve(
        self, directory: Path, hosts: Sequence[str], now: int, lifetime_s: float = CA_DAYS * 86400
    ) -> ssl.SSLContext:
        """TLS for the stream port, with a fresh certificate; a client certificate is asked for, of a CA of ours.

        Joining sites have none yet, so the handler of each path decides whether it demands one.
        """
        self.certify_stream(directory, hosts, now, lifetime_s)
        path = directory / "stream.crt"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(path, directory / "stream.key")
        context.load_verify_locations(cadata=b"".join(one.public_bytes(_PEM) for one in self.trusted).decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: int,
        lifetime_s: float,
    ) -> x509.Certificate:
        begins = _instant(now)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])]))
            .issuer_name(self.ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins - _BACKDATE)
            .not_valid_after(min(begins + datetime.timedelta(seconds=lifetime_s), self.ca.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self.ca_key, hashes.SHA256())


def read_cas(directory: Path) -> Cas | None:
    """Which CAs count from the next start on; None before the first turn. Raises StoreRefused if it is damaged."""
    path = directory / CAS
    if not path.exists():
        return None
    try:
        cas = msgspec.json.decode(path.read_bytes(), type=Cas)
    except ValueError:
        raise StoreRefused(f"{path}: damaged; put it back from a backup or from another controller") from None
    if not cas.trusted or cas.number < 1:
        raise StoreRefused(f"{path}: damaged; put it back from a backup or from another controller")
    return cas


def ca_id(certificate: x509.Certificate) -> str:
    """Names a CA: 16 hex characters."""
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def issuing(directory: Path) -> Path:
    """The file of the CA that issues, of the authority kept there."""
    cas = read_cas(directory)
    later = directory / f"ca-{cas.trusted[0]}.crt" if cas else directory / "ca.crt"
    return later if later.exists() else directory / "ca.crt"


def lent() -> Path | None:
    """The directory of systemd's credentials if an authority is among them.

    Raises StoreRefused if that is so in part, or if everybody can look there.
    """
    directory = Path(os.environ.get(CREDENTIALS) or os.devnull)
    lost = [name for name in PARTS if not (directory / name).is_file()]
    if {*lost} >= {*PARTS} - {"cluster"}:  # a word that may be anybody's
        return None
    if lost:
        raise StoreRefused(f"{directory}: {', '.join(lost)} is missing; add LoadCredential= of it to the unit")
    if directory.stat().st_mode & 0o007:
        raise StoreRefused(
            f"{directory}: others can reach what is in it; mend it: chmod o= {shlex.quote(str(directory))}"
        )
    return directory


def identity(cluster: str, site: str, instance: str) -> str:
    """The name that a site's certificate carries."""
    return f"rk://{cluster}/{site}/{instance}"


def certified(request: web.Request) -> str | None:
    """The identity that the peer's certificate, verified by TLS, carries; None without one."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
    return names[0] if len(names) == 1 else None


def requested_key(csr: str) -> ec.EllipticCurvePublicKey:
    """The key that a certificate signing request is about. Raises Invalid for any request but a site's own."""
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid("The certificate signing request cannot be read.") from None
    if not signed:
        raise Invalid("The certificate signing request is not signed by its own key.")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("The certificate signing request is not for an elliptic curve key.")
    return key


def _ca(directory: Path, name: str, first: x509.Certificate) -> x509.Certificate:
    if name == ca_id(first):
        return first
    path = directory / f"ca-{name}.crt"
    certificate = x509.load_pem_x509_certificate(_needed(path))
    if ca_id(certificate) != name:
        raise StoreRefused(f"{path}: another certificate than its name says; copy it from another controller")
    return certificate


def _needed(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StoreRefused(
            f"{path} is missing, of a CA that counts: copy it from the controller that made it, mode 0400"
        ) from None


def _ca_name(cluster: str) -> str:
    return f"Regional Keystone {cluster[:12]}"


def _self_signed(key: ec.EllipticCurvePrivateKey, called: str, now: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, called)])
    begins = _instant(now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _BACKDATE)
        .not_valid_after(begins + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _instant(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at // 1_000_000, datetime.UTC)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_ec() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _new_cluster() -> bytes:
    return uuid.uuid4().hex.encode()


def _keep(path: Path, make: Callable[[], bytes]) -> bytes:
    return durable.keep(path, make, 0o400)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key
