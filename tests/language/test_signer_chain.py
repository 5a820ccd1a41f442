"""Whose signatures count: only who is trusted already can say."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from regional_keystone.signer_chain import ChainRefused, announced, changed, followed, retired, root, signed

OLD, NEW, NEXT, THIEF = (Ed25519PrivateKey.generate() for _ in range(4))


def public(key):
    return key.public_key().public_bytes_raw()


ROOT = root("cluster", public(OLD))
TOLD = announced(ROOT, public(NEW))
TURNED = changed(TOLD, public(NEXT))
DONE = retired(TURNED)
CHAIN = [signed(TOLD, OLD), signed(TURNED, OLD), signed(DONE, NEW)]


def test_an_old_signer_brings_in_a_new_one_and_the_new_one_ends_the_old():
    assert (TOLD.signing, TOLD.spare, TOLD.ceasing) == (public(OLD), public(NEW), ())
    assert (TURNED.signing, TURNED.spare, TURNED.ceasing) == (public(NEW), public(NEXT), (public(OLD),))
    assert (DONE.signers, DONE.retired) == ((public(NEW), public(NEXT)), (public(OLD),))
    assert followed(CHAIN, ROOT) == DONE


@pytest.mark.parametrize("known", [ROOT, TOLD, TURNED, DONE])
def test_a_place_goes_on_from_whatever_it_knows(known):
    assert followed(CHAIN, known) == DONE
    assert followed(CHAIN[: known.number], known) == known, "an older chain takes nothing back"


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        ([signed(TOLD, THIEF)], "not trusted"),
        ([signed(TOLD, NEW)], "not trusted"),
        ([CHAIN[0], signed(TURNED, THIEF)], "not trusted"),
        ([*CHAIN, signed(announced(DONE, public(THIEF)), OLD)], "not trusted"),
        ([CHAIN[1]], "does not follow"),
        ([CHAIN[0], CHAIN[2]], "does not follow"),
        ([signed(msgspec.structs.replace(TOLD, cluster="other"), OLD)], "another federation"),
        ([signed(msgspec.structs.replace(TOLD, previous="0" * 32), OLD)], "does not follow"),
        ([signed(msgspec.structs.replace(TOLD, signing=public(THIEF)), OLD)], "contradicts"),
        ([signed(msgspec.structs.replace(TOLD, signers=()), OLD)], "contradicts"),
        ([signed(msgspec.structs.replace(TOLD, signers=(*TOLD.signers, b"short")), OLD)], "contradicts"),
        ([*CHAIN, signed(announced(DONE, public(OLD)), NEW)], "brings back"),
        ([*CHAIN, signed(msgspec.structs.replace(announced(DONE, public(THIEF)), retired=()), NEW)], "brings back"),
        ([b""], "no statement"),
        ([b"\x91\x01"], "no statement"),
    ],
)
def test_what_does_not_follow_is_refused(chain, why):
    with pytest.raises(ChainRefused, match=why):
        followed(chain, ROOT)


def test_a_second_statement_of_one_number_is_refused():
    other = signed(announced(ROOT, public(NEXT)), OLD)
    with pytest.raises(ChainRefused, match="a second statement 1"):
        followed([other], TOLD)


def test_a_statement_in_which_any_byte_was_changed_is_refused():
    data = CHAIN[0]
    for place in range(len(data)):
        with pytest.raises(ChainRefused):
            followed([data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]], ROOT)


def test_a_change_needs_a_spare_that_was_announced():
    with pytest.raises(ValueError, match="no spare"):
        changed(ROOT, public(NEW))


def test_a_statement_that_leaves_out_a_number_or_trusts_too_many_is_refused():
    ahead = msgspec.structs.replace(TOLD, number=2)
    with pytest.raises(ChainRefused, match="does not follow"):
        followed([signed(ahead, OLD)], ROOT)
    many = tuple(public(Ed25519PrivateKey.generate()) for _ in range(15))
    assert (
        len(followed([signed(msgspec.structs.replace(TOLD, signers=(*many[1:], *TOLD.signers)), OLD)], ROOT).signers)
        == 16
    )
    with pytest.raises(ChainRefused, match="contradicts"):
        followed([signed(msgspec.structs.replace(TOLD, signers=(*many, *TOLD.signers)), OLD)], ROOT)
