"""A CA of a test session's own, and one certificate for all addresses of its engines."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certified:
    ca: Path
    chain: Path
    key: Path
    chain_and_key: Path


def make(directory, addresses):
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in ("engines CA", "engine"))
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(usage, True)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(one)) for one in addresses])
    signed = _builder(name, ca_name, key).add_extension(names, False).sign(ca_key, hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM)
    root = ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    contents = {"ca.pem": root, "chain.pem": pem, "key.pem": secret, "both.pem": secret + pem + root}
    for file, content in contents.items():
        (directory / file).write_bytes(content)
        (directory / file).chmod(0o600)
    return Certified(*(directory / file for file in contents))


def _builder(subject, issuer, key):
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
