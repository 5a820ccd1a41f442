"""Seals a ring as the version before did (format 1), for what must still open."""

import os

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from regional_keystone.bundle import VALIDITY_US

_PREFIX = b"regional-keystone bundle 1\x00"


def seal_former(ring, names, now, previous, box_key, signer):
    head = msgspec.msgpack.encode(
        {
            "format": 1,
            "cluster": names[0],
            "holder": names[1],
            "ring": names[2],
            "epoch": ring.epoch,
            "created_at": now,
            "not_after": now + VALIDITY_US,
            "previous": previous,
            "checks": ring.check_values(),
        }
    )
    ephemeral, nonce = X25519PrivateKey.generate(), os.urandom(12)
    mine = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(box_key))
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PREFIX + mine + box_key).derive(shared)
    box = AESGCM(key).encrypt(nonce, msgspec.msgpack.encode(dict(ring.numbers)), head)
    signed = _PREFIX + msgspec.msgpack.encode((head, mine, nonce, box))
    return msgspec.msgpack.encode([head, mine, nonce, box, signer.sign(signed)])
