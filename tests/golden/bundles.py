"""Test vectors of key bundles, sealed by RFC 9180 as it stands in the RFC and not by the code that they test.

Every key in here is made of a name and worth nothing. Source: RFC 9180, sections 4.1, 5.1 and 5.2; docs/security.md.
"""

import base64
import hashlib
import hmac
import json

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CREATED_AT = 1_772_000_000_000_000
ISOLATION_US = 259_200_000_000
VALIDITY_US = 7_776_000_000_000
PREFIX = b"regional-keystone bundle 2\x00"
_KEM = b"KEM\x00\x20"  # DHKEM(X25519, HKDF-SHA256)
_HPKE = b"HPKE\x00\x20\x00\x01\x00\x02"  # with HKDF-SHA256 and AES-256-GCM


def vectors() -> str:
    """Two bundles of one federation: the first ring of a holder, and one that names what came before it."""
    first = {"0": _key("staged"), "1": _key("first")}
    second = {"0": _key("fresh"), "1": _key("first"), "2": _key("staged")}
    mark = _fingerprint(first)
    made = [
        _vector("the first ring", "token", 1, first, previous="", earlier=(), held=None),
        _vector("after a turn", "token", 4, second, previous=mark, earlier=(mark, mark), held=(3, mark)),
    ]
    return json.dumps(made, indent=1) + "\n"


def _vector(title, name, epoch, keys, **chain):
    box, ephemeral, signer = (_secret(f"{part}/{title}") for part in ("box", "ephemeral", "signer"))
    checks = {int(number): _check(key) for number, key in keys.items()}
    public = Ed25519PrivateKey.from_private_bytes(signer).public_key().public_bytes_raw()
    header = {
        "format": 2,
        "cluster": "0123456789abcdef0123456789abcdef",
        "holder": "RegionOne",
        "ring": name,
        "epoch": epoch,
        "created_at": CREATED_AT,
        "not_after": CREATED_AT + VALIDITY_US,
        "seal_until": CREATED_AT + ISOLATION_US,
        "signer": hashlib.sha256(b"regional-keystone bundle signer 1\x00" + public).hexdigest()[:16],
        **chain,
        "checks": dict(sorted(checks.items(), reverse=True)),
    }
    head = msgspec.msgpack.encode(header)
    content = msgspec.msgpack.encode({number: keys[str(number)].encode() for number in sorted(checks, reverse=True)})
    mine = X25519PrivateKey.from_private_bytes(box).public_key().public_bytes_raw()
    sealed = seal(content, mine, PREFIX + head, ephemeral)
    signed = PREFIX + msgspec.msgpack.encode((head, sealed))
    signature = Ed25519PrivateKey.from_private_bytes(signer).sign(signed)
    return {
        "title": title,
        "box_private": box.hex(),
        "ephemeral_private": ephemeral.hex(),
        "signer_private": signer.hex(),
        "signer_public": public.hex(),
        "keys": keys,
        "fingerprint": _fingerprint(keys),
        "header": head.hex(),
        "content": content.hex(),
        "info": (PREFIX + head).hex(),
        "box": sealed.hex(),
        "signature": signature.hex(),
        "bundle": msgspec.msgpack.encode([2, head, sealed, signature]).hex(),
    }


def seal(content: bytes, recipient: bytes, info: bytes, ephemeral: bytes) -> bytes:
    """RFC 9180 in base mode: enc, then the ciphertext, with no associated data."""
    sender = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = sender.public_key().public_bytes_raw()
    dh = sender.exchange(X25519PublicKey.from_public_bytes(recipient))
    eae_prk = _extract(_KEM, b"", b"eae_prk", dh)
    shared = _expand(_KEM, eae_prk, b"shared_secret", enc + recipient, 32)
    context = b"\x00" + _extract(_HPKE, b"", b"psk_id_hash", b"") + _extract(_HPKE, b"", b"info_hash", info)
    secret = _extract(_HPKE, shared, b"secret", b"")
    key = _expand(_HPKE, secret, b"key", context, 32)
    nonce = _expand(_HPKE, secret, b"base_nonce", context, 12)
    return enc + AESGCM(key).encrypt(nonce, content, b"")


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labelled + b"\x01", "sha256")[:length]


def _check(key: str) -> str:
    return hashlib.sha256(b"regional-keystone key check value 1\x00" + key.encode()).hexdigest()[:16]


def _fingerprint(keys) -> str:
    text = "".join(f"{number}:{_check(keys[str(number)])}\n" for number in sorted(map(int, keys), reverse=True))
    return hashlib.sha256(b"regional-keystone ring 1\x00" + text.encode()).hexdigest()[:32]


def _key(name: str) -> str:
    return base64.urlsafe_b64encode(_secret(f"key/{name}")).decode()


def _secret(name: str) -> bytes:
    return hashlib.sha256(b"regional-keystone test vector, worth nothing: " + name.encode()).digest()
