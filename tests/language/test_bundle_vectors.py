"""The test vectors that docs/security.md names, for whoever writes another implementation."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import _SUITE, Seen, open_, read_header, seal, signer_id
from regional_keystone.keys import KeyRing
from tests.golden import bundles

VECTORS = json.loads((Path(bundles.__file__).parent / "bundles.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["title"])
def test_a_bundle_that_was_made_by_the_page_opens_here(vector):
    about = read_header(bytes.fromhex(vector["bundle"]))
    assert about.signer == signer_id(bytes.fromhex(vector["signer_public"]))
    ring = open_(
        bytes.fromhex(vector["bundle"]),
        cluster=about.cluster,
        holder=about.holder,
        name=about.ring,
        seen=Seen(*about.held) if about.held else Seen(0, ""),
        box=X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["box_private"])),
        signers=[bytes.fromhex(vector["signer_public"])],
        now=about.created_at,
    )
    assert {str(number): key.decode() for number, key in ring.numbers.items()} == vector["keys"]
    assert ring.fingerprint == vector["fingerprint"]
    assert about.isolation_us == bundles.ISOLATION_US


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["title"])
def test_what_is_sealed_here_is_laid_out_as_the_page_says(vector):
    """All but the ephemeral key, which is never chosen here, and what follows from it."""
    about = read_header(bytes.fromhex(vector["bundle"]))
    box = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["box_private"]))
    signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["signer_private"]))
    keys = {int(number): key.encode() for number, key in vector["keys"].items()}
    made = seal(KeyRing(keys, about.epoch), about, box.public_key().public_bytes_raw(), signer)
    head, sealed = bytes.fromhex(vector["header"]), bytes.fromhex(vector["box"])
    theirs = bytes.fromhex(vector["bundle"])
    assert len(made) == len(theirs)
    before = theirs.index(sealed)
    assert made[:before] == theirs[:before]
    assert head in made


def test_the_page_seals_as_the_rfc_does():
    """RFC 9180 has no vector for this suite in base mode; the library knows the suite by itself."""
    box = X25519PrivateKey.generate()
    mine, ephemeral = box.public_key().public_bytes_raw(), X25519PrivateKey.generate().private_bytes_raw()
    assert _SUITE.decrypt(bundles.seal(b"content", mine, b"info", ephemeral), box, info=b"info") == b"content"
