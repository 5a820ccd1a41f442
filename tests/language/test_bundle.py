"""A key ring on its way: what a holder must refuse."""

import msgspec
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import MAX_JUMP, SKEW_US, VALIDITY_US, BundleRefused, Header, Seen, header, open_, seal
from regional_keystone.keys import KeyRing

NOW = 1_772_000_000_000_000
SIGNER = Ed25519PrivateKey.generate()
BOX = X25519PrivateKey.generate()
FIRST = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 5)
NEXT = FIRST.rotated(Fernet.generate_key())
SEEN = Seen(5, FIRST.fingerprint)


def public(key):
    return key.public_key().public_bytes_raw()


def made(ring=NEXT, *, signer=SIGNER, box=BOX, **fields):
    about = header("cluster", "RegionOne", "token", ring, NOW, FIRST.fingerprint)
    return seal(ring, msgspec.structs.replace(about, **fields), public(box), signer)


def opened(data, *, seen=SEEN, box=BOX, signers=None, now=NOW, holder="RegionOne", cluster="cluster", name="token"):
    return open_(
        data,
        cluster=cluster,
        holder=holder,
        name=name,
        seen=seen,
        box=box,
        signers=[public(SIGNER)] if signers is None else signers,
        now=now,
    )


def test_a_bundle_opens_for_its_holder_and_gives_the_same_ring():
    assert opened(made()) == NEXT


def test_no_key_is_in_a_bundle_in_clear():
    data = made()
    assert not any(key in data for key in NEXT.numbers.values())


def test_a_bundle_that_was_cut_short_anywhere_is_refused():
    data = made()
    for length in range(len(data)):
        with pytest.raises(BundleRefused):
            opened(data[:length])


def test_a_bundle_in_which_any_byte_was_changed_is_refused():
    data = made()
    for place in range(len(data)):
        with pytest.raises(BundleRefused):
            opened(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("change", [{"holder": "RegionTwo"}, {"cluster": "other"}, {"name": "credential"}])
def test_a_bundle_for_somebody_else_is_refused(change):
    with pytest.raises(BundleRefused, match="made for"):
        opened(made(), **change)


def test_the_key_of_another_holder_does_not_open_it():
    with pytest.raises(BundleRefused, match="does not open"):
        opened(made(), box=X25519PrivateKey.generate())


def test_whoever_has_the_holders_key_but_no_signing_key_forges_nothing():
    with pytest.raises(BundleRefused, match="not signed"):
        opened(made(signer=Ed25519PrivateKey.generate()))


def test_the_signature_of_a_removed_signer_counts_no_more():
    with pytest.raises(BundleRefused, match="not signed"):
        opened(made(), signers=[public(Ed25519PrivateKey.generate())])
    with pytest.raises(BundleRefused, match="not signed"):
        opened(made(), signers=[b"no key"])


def test_the_signature_covers_the_header():
    bundle = msgspec.msgpack.decode(made())
    about = msgspec.msgpack.decode(bundle[0], type=Header)
    bundle[0] = msgspec.msgpack.encode(msgspec.structs.replace(about, not_after=about.not_after + 1))
    with pytest.raises(BundleRefused, match="not signed"):
        opened(msgspec.msgpack.encode(bundle))


@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_an_older_bundle_replayed_is_refused(epoch):
    with pytest.raises(BundleRefused, match="behind"):
        opened(made(KeyRing(FIRST.numbers, epoch)))


def test_the_first_ring_of_a_holder_has_a_number():
    with pytest.raises(BundleRefused, match="behind"):
        opened(made(KeyRing(FIRST.numbers, 0)), seen=Seen(0, ""))


@pytest.mark.parametrize("epoch", [5 + MAX_JUMP + 1, 2**62])
def test_a_fast_forward_is_refused(epoch):
    with pytest.raises(BundleRefused, match="too far ahead"):
        opened(made(KeyRing(FIRST.numbers, epoch)))


def test_a_holder_that_was_away_long_takes_the_newest_ring():
    assert opened(made(KeyRing(FIRST.numbers, 5 + MAX_JUMP))).epoch == 5 + MAX_JUMP


def test_a_ring_that_follows_another_than_the_installed_one_is_refused():
    with pytest.raises(BundleRefused, match="does not follow"):
        opened(made(previous="0" * 32))


def test_a_second_ring_of_the_same_epoch_is_refused_and_the_same_one_is_not():
    other = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 5)
    with pytest.raises(BundleRefused, match="a second ring"):
        opened(made(other))
    assert opened(made(FIRST)) == FIRST


@pytest.mark.parametrize("now", [NOW - SKEW_US - 1, NOW + VALIDITY_US + 1])
def test_a_bundle_from_the_future_or_of_long_ago_is_refused(now):
    with pytest.raises(BundleRefused, match="clock"):
        opened(made(), now=now)


def test_a_bundle_whose_keys_are_not_those_of_its_header_is_refused():
    with pytest.raises(BundleRefused, match="not those"):
        opened(made(checks=FIRST.check_values()))


def test_a_format_of_the_future_is_refused():
    with pytest.raises(BundleRefused, match="format 2"):
        opened(made(format=2))
