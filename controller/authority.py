"""The federation's own authority: its CA, the signer of key bundles, and the controller's identity on the stream.

Files of mode 0400 below one directory of mode 0700; made at first start. Source: docs/security.md, "Who holds what".
"""

import datetime
import hashlib
import ipaddress
import ssl
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from regional_keystone import durable
from regional_keystone.errors import Invalid, StoreRefused

CA_DAYS = 3650
HOLDER = "@controller"  # the name under which rings are sealed for controllers; no site can be called so
PARTS = ("cluster", "ca.key", "ca.crt", "signer.key", "box.key")  # in the order in which they are made
_PEM = serialization.Encoding.PEM
_BACKDATE = datetime.timedelta(minutes=5)  # clocks of sites may be behind


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs site certificates and key bundles. Every time is in microseconds since 1970 UTC."""

    cluster: str
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey
    signer: Ed25519PrivateKey
    box: X25519PrivateKey

    @classmethod
    def open(cls, directory: Path, now: int) -> "Authority":
        """The authority kept in this directory, made when there is none.

        Raises StoreRefused if a part of it was lost: what were made in its place, no site would believe.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lost = [name for name in PARTS if not (directory / name).exists()]
        if lost and (directory / PARTS[-1]).exists():
            raise StoreRefused(f"{directory}: {', '.join(lost)} is missing; put it back from a backup")
        cluster = _keep(directory / "cluster", _new_cluster).decode()
        key = _load_ec(_keep(directory / "ca.key", _new_ec))
        ca = _keep(directory / "ca.crt", lambda: _self_signed(key, cluster, now).public_bytes(_PEM))
        signer = _keep(directory / "signer.key", lambda: Ed25519PrivateKey.generate().private_bytes_raw())
        box = _keep(directory / "box.key", lambda: X25519PrivateKey.generate().private_bytes_raw())
        certificate = x509.load_pem_x509_certificate(ca)
        if certificate.public_key() != key.public_key():
            raise StoreRefused(f"{directory}: ca.key is not the key of ca.crt; put both back from one backup")
        return cls(
            cluster,
            certificate,
            key,
            Ed25519PrivateKey.from_private_bytes(signer),
            X25519PrivateKey.from_private_bytes(box),
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
    def signer_key(self) -> bytes:
        """The public half of the bundle signer, 32 bytes."""
        return self.signer.public_key().public_bytes_raw()

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

    def serve(self, directory: Path, hosts: Sequence[str], now: int) -> ssl.SSLContext:
        """TLS for the stream port: a certificate of our own for these hosts, kept in this directory, which belongs to
        this controller alone; a client certificate is asked for, of our CA.

        Joining sites have none yet, so the handler of each path decides whether it demands one.
        """
        key = _load_ec(_keep(directory / "stream.key", _new_ec))
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        certificate = self._sign(
            key.public_key(), hosts[0], [_host(host) for host in hosts], usage, now, CA_DAYS * 86400
        )
        path = directory / "stream.crt"
        path.unlink(missing_ok=True)
        _keep(path, lambda: certificate.public_bytes(_PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(path, directory / "stream.key")
        context.load_verify_locations(cadata=self.ca_pem.decode())
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


def identity(cluster: str, site: str, instance: str) -> str:
    """The name that a site's certificate carries."""
    return f"rk://{cluster}/{site}/{instance}"


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


def _self_signed(key: ec.EllipticCurvePrivateKey, cluster: str, now: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Regional Keystone {cluster[:12]}")])
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


def _load_ec(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key
