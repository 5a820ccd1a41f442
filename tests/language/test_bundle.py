"""A key ring on its way: what a holder must refuse, each for a reason of its own."""

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone import bundle
from regional_keystone.bundle import (
    LINEAGE,
    MAX_BYTES,
    MAX_FIRST,
    MAX_JUMP,
    SKEW_US,
    VALIDITY_US,
    BundleRefused,
    Names,
    Reason,
    Seen,
    check_header,
    header,
    open_,
    read_header,
    seal,
    signer_id,
)
from regional_keystone.keys import KeyRing
from tests.language.former_bundle import seal_former

NOW = 1_772_000_000_000_000
SIGNER = Ed25519PrivateKey.generate()
BOX = X25519PrivateKey.generate()
RINGS = {5: KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 5)}
for _epoch in range(6, 50):
    RINGS[_epoch] = RINGS[_epoch - 1].rotated(Fernet.generate_key())
FIRST, NEXT = RINGS[5], RINGS[6]
SEEN = Seen(5, FIRST.fingerprint)
NAMES = Names("cluster", "RegionOne", "token")


def public(key):
    return key.public_key().public_bytes_raw()


def line(ring):
    """The fingerprints before this ring, newest first."""
    return [RINGS[epoch].fingerprint for epoch in range(min(ring.epoch, 60) - 1, 4, -1) if epoch in RINGS]


def about(ring=NEXT, **fields):
    before = line(ring) or [FIRST.fingerprint]
    made = header(*NAMES, ring, NOW, before[0], earlier=before[1:], isolation_us=3_600_000_000)
    return msgspec.structs.replace(made, **fields)


def made(ring=NEXT, *, signer=SIGNER, box=BOX, **fields):
    return seal(ring, about(ring, **fields), public(box), signer)


def opened(data, *, seen=SEEN, box=BOX, signers=None, now=NOW, names=NAMES, **known):
    return open_(
        data,
        cluster=names.cluster,
        holder=names.holder,
        name=names.ring,
        seen=seen,
        box=box,
        signers=[public(SIGNER)] if signers is None else signers,
        now=now,
        **known,
    )


def why_not(data, **how):
    """The reason for which it is refused."""
    with pytest.raises(BundleRefused) as refusal:
        opened(data, **how)
    return refusal.value.reason


def test_a_bundle_opens_for_its_holder_and_gives_the_same_ring():
    assert opened(made()) == NEXT


def test_it_says_who_signed_it_and_for_how_long_may_be_sealed_without_news():
    read = read_header(made())
    assert read.signer == signer_id(public(SIGNER))
    assert (read.seal_until, read.isolation_us) == (NOW + 3_600_000_000, 3_600_000_000)


def test_no_key_is_in_a_bundle_in_clear():
    data = made()
    assert not any(key in data for key in NEXT.numbers.values())


def test_two_bundles_of_one_ring_have_nothing_in_common_but_the_header():
    one, other = (msgspec.msgpack.decode(made()) for _ in range(2))
    assert one[1] == other[1]
    assert one[2][:32] != other[2][:32]


def test_a_bundle_that_was_cut_short_anywhere_is_refused():
    data = made()
    assert {why_not(data[:length]) for length in range(len(data))} == {Reason.NOT_A_BUNDLE}


def test_a_bundle_with_something_behind_it_or_in_another_spelling_is_refused():
    data = made()
    parts = msgspec.msgpack.decode(data)
    spelled = data[:1] + b"\xcc\x02" + data[2:]  # the format, 2, as a number of two bytes
    for other in (data + b"\x00", data + data, msgspec.msgpack.encode([*parts, b""]), spelled):
        assert why_not(other) is Reason.NOT_A_BUNDLE


def test_a_bundle_in_which_any_byte_was_changed_is_refused():
    data = made()
    reasons = {why_not(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) for place in range(len(data))}
    assert reasons == {Reason.NOT_A_BUNDLE, Reason.BAD_SIGNATURE, Reason.UNKNOWN_SIGNER}


@pytest.mark.parametrize(
    "data", [b"\x00" * (MAX_BYTES + 1), made() + b"\x00" * MAX_BYTES], ids=["zeros", "a bundle first"]
)
def test_a_body_that_does_not_end_is_not_looked_at(data):
    assert why_not(data) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (NAMES._replace(holder="RegionTwo"), Reason.OTHER_HOLDER),
        (NAMES._replace(cluster="other"), Reason.OTHER_CLUSTER),
        (NAMES._replace(ring="credential"), Reason.OTHER_RING),
    ],
)
def test_a_bundle_for_somebody_else_is_refused(names, reason):
    assert why_not(made(), names=names) is reason


def test_the_key_of_another_holder_does_not_open_it():
    assert why_not(made(), box=X25519PrivateKey.generate()) is Reason.DOES_NOT_OPEN


def test_whoever_has_the_holders_key_but_no_signing_key_forges_nothing():
    thief = Ed25519PrivateKey.generate()
    assert why_not(made(signer=thief)) is Reason.UNKNOWN_SIGNER
    head = msgspec.msgpack.encode(about(signer=signer_id(public(SIGNER))))
    parts = msgspec.msgpack.decode(made(signer=thief))
    assert why_not(msgspec.msgpack.encode([2, head, parts[2], parts[3]])) is Reason.BAD_SIGNATURE


def test_the_signature_of_a_retired_signer_counts_no_more():
    new = public(Ed25519PrivateKey.generate())
    assert why_not(made(), signers=[new], retired=[public(SIGNER)]) is Reason.RETIRED_SIGNER
    assert why_not(made(), signers=[new]) is Reason.UNKNOWN_SIGNER
    assert why_not(made(), signers=[b"no key"]) is Reason.UNKNOWN_SIGNER


def test_of_several_signers_each_may_sign():
    assert opened(made(), signers=[public(Ed25519PrivateKey.generate()), public(SIGNER)]) == NEXT


def test_the_signature_covers_header_and_box():
    parts, other = msgspec.msgpack.decode(made()), msgspec.msgpack.decode(made())
    head = msgspec.msgpack.decode(parts[1], type=bundle.Header)
    longer = msgspec.msgpack.encode(msgspec.structs.replace(head, seal_until=head.seal_until + 1))
    assert why_not(msgspec.msgpack.encode([2, longer, *parts[2:]])) is Reason.BAD_SIGNATURE
    assert why_not(msgspec.msgpack.encode([*parts[:2], other[2], parts[3]])) is Reason.BAD_SIGNATURE


def test_the_box_is_bound_to_the_header_also_by_itself():
    parts = msgspec.msgpack.decode(made())
    with pytest.raises(InvalidTag):
        bundle._SUITE.decrypt(parts[2], BOX, info=bundle._SIGNED + parts[1] + b" ")


@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_an_older_bundle_replayed_is_refused(epoch):
    assert why_not(made(KeyRing(FIRST.numbers, epoch))) is Reason.REPLAYED


def test_an_older_bundle_replayed_to_a_holder_whose_disk_was_put_back_is_refused():
    """FM-82: what fits the old disk is older than what was acknowledged before."""
    assert opened(made(), highest=6) == NEXT
    assert why_not(made(), highest=7) is Reason.ROLLED_BACK
    assert why_not(made(), seen=Seen(0, ""), highest=7) is Reason.ROLLED_BACK


def test_the_first_ring_of_a_holder_has_a_number():
    assert why_not(made(KeyRing(FIRST.numbers, 0)), seen=Seen(0, "")) is Reason.REPLAYED


@pytest.mark.parametrize("epoch", [5 + MAX_JUMP + 1, 2**62])
def test_a_fast_forward_is_refused(epoch):
    assert why_not(made(KeyRing(FIRST.numbers, epoch))) is Reason.TOO_FAR_AHEAD
    assert why_not(made(KeyRing(FIRST.numbers, 5 + MAX_FIRST + 1), held=tuple(SEEN))) is Reason.TOO_FAR_AHEAD
    assert why_not(made(KeyRing(FIRST.numbers, MAX_FIRST + 1)), seen=Seen(0, "")) is Reason.TOO_FAR_AHEAD


def test_a_holder_that_missed_some_rings_takes_the_newest_if_its_own_is_among_those_before_it():
    for epoch in (6, 7, 5 + LINEAGE):
        assert opened(made(RINGS[epoch])) == RINGS[epoch]
    assert why_not(made(RINGS[5 + LINEAGE + 1])) is Reason.GAP


def test_a_holder_that_was_away_long_takes_a_bundle_that_names_what_it_holds():
    """FM-85: over a gap only by what the controller has signed for this very holder."""
    late = KeyRing(FIRST.numbers, 5 + MAX_JUMP)
    assert why_not(made(late)) is Reason.GAP
    assert opened(made(late, held=tuple(SEEN))).epoch == 5 + MAX_JUMP
    later = KeyRing(FIRST.numbers, 5 + 3 * MAX_JUMP)
    assert opened(made(later, held=tuple(SEEN))).epoch == later.epoch, "else nothing could help it on"
    assert why_not(made(late, held=(5, "0" * 32))) is Reason.GAP
    assert why_not(made(late, held=(4, FIRST.fingerprint))) is Reason.GAP


@pytest.mark.parametrize("epoch", [6, 9])
def test_a_ring_that_follows_another_than_the_installed_one_is_refused(epoch):
    strange = Seen(5, "0" * 32)
    assert why_not(made(RINGS[epoch]), seen=strange) is Reason.FORKED
    assert opened(made(RINGS[epoch], held=tuple(strange)), seen=strange).epoch == epoch, "an operator said so"


def test_a_second_ring_of_the_same_epoch_is_refused_and_the_same_one_is_not():
    other = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 5)
    assert why_not(made(other)) is Reason.FORKED
    assert opened(made(FIRST)) == FIRST


def test_a_bundle_from_the_future_or_of_long_ago_is_refused():
    assert why_not(made(), now=NOW - SKEW_US - 1) is Reason.FUTURE
    assert why_not(made(), now=NOW + VALIDITY_US + 1) is Reason.EXPIRED
    assert opened(made(), now=NOW - SKEW_US) == opened(made(), now=NOW + VALIDITY_US) == NEXT


def test_a_bundle_whose_keys_are_not_those_of_its_header_is_refused():
    numbers = {**NEXT.check_values(), 0: "0" * 16}
    assert why_not(made(checks=numbers)) is Reason.KEYS_DO_NOT_FIT


def test_a_format_of_the_future_is_refused():
    assert why_not(made(format=3)) is Reason.FORMAT
    assert why_not(made(format=1)) is Reason.FORMAT, "it is not what it is written in"


def test_the_rule_needs_no_more_than_the_header():
    check_header(about(), SEEN, NOW, NAMES)
    with pytest.raises(BundleRefused) as refusal:
        check_header(about(), Seen(7, ""), NOW, NAMES)
    assert refusal.value.reason is Reason.REPLAYED


def test_a_refusal_shows_no_key():
    with pytest.raises(BundleRefused) as refusal:
        opened(made(checks={0: "0" * 16, 1: "1" * 16}), seen=Seen(0, ""))
    assert not any(key.decode() in repr(refusal.value) for key in NEXT.numbers.values())


def test_a_bundle_of_the_former_format_opens_and_is_held_to_the_same_rule():
    """A log of the version before has them until they are sealed anew, at the first start."""
    data = seal_former(NEXT, NAMES, NOW, FIRST.fingerprint, public(BOX), SIGNER)
    assert read_header(data).format == 1
    assert read_header(data).isolation_us is None
    assert opened(data) == NEXT
    assert opened(data, seen=Seen(0, "")) == NEXT
    assert why_not(data, seen=Seen(5, "0" * 32)) is Reason.FORKED
    assert why_not(data, seen=Seen(4, "0" * 32)) is Reason.GAP
    assert why_not(data, signers=[public(Ed25519PrivateKey.generate())]) is Reason.BAD_SIGNATURE
    assert why_not(data, names=NAMES._replace(holder="RegionTwo")) is Reason.OTHER_HOLDER
    for place in range(0, len(data), 7):
        with pytest.raises(BundleRefused):
            opened(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_a_fast_forward_is_refused_also_to_a_holder_that_lost_its_directory():
    """What it acknowledged bounds the next epoch though nothing of the ring is left."""
    nothing = Seen(0, "")
    assert why_not(made(KeyRing(FIRST.numbers, 7 + MAX_JUMP + 1)), seen=nothing, highest=7) is Reason.TOO_FAR_AHEAD
    assert opened(made(KeyRing(FIRST.numbers, 7 + MAX_JUMP)), seen=nothing, highest=7).epoch == 7 + MAX_JUMP
