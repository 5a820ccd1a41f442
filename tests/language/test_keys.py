"""Spelling, sealing and rings: one text per token, Fernet for everybody, and no key ever shown."""

import base64
import hashlib
import json
import pathlib

import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given
from hypothesis import strategies as st

from regional_keystone.keys import MAX_TEXT_BYTES, KeyRing, check_value, digest, spelling
from regional_keystone.payload import LAST_SECOND, NotAToken

GOLDEN = json.loads((pathlib.Path(__file__).parent.parent / "golden" / "tokens.json").read_text())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def key(number):
    return base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest())


def ring_of(*numbers, epoch=0):
    return KeyRing({number: key(number) for number in numbers}, epoch)


def padded(text):
    return text + "=" * (-len(text) % 4)


RING = ring_of(0, 1, 2)
TEXT = RING.seal(b"payload", 5_000_000)

# --- Spelling


@pytest.mark.parametrize("length", [1, 2, 3, 16, 73, 74, 75])
def test_the_canonical_text_and_its_correct_padding_are_one_spelling(length):
    text = base64.urlsafe_b64encode(bytes(range(length))).decode().rstrip("=")
    assert spelling(text) == spelling(padded(text)) == text


@given(
    raw=st.binary(min_size=1, max_size=60),
    place=st.integers(0, 90),
    junk=st.sampled_from([*"+/=.~% \n\t\r\0é", "====", "%3D"]),
)
def test_junk_anywhere_is_refused(raw, place, junk):
    text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    respelled = text[:place] + junk + text[place:]
    if respelled not in (text, padded(text)):
        with pytest.raises(NotAToken):
            spelling(respelled)


@given(text=st.text(alphabet=ALPHABET + "=+/ ", min_size=1, max_size=80))
def test_no_two_accepted_spellings_mean_the_same_bytes(text):
    try:
        canonical = spelling(text)
    except NotAToken:
        return
    assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(padded(canonical))).decode() == padded(canonical)
    assert text in (canonical, padded(canonical))


@pytest.mark.parametrize("length", [16, 17])  # one and two bytes over a multiple of three
def test_unused_bits_of_the_last_character_are_zero(length):
    text = base64.urlsafe_b64encode(bytes(length)).decode().rstrip("=")
    accepted = []
    for last in ALPHABET:
        try:
            accepted.append(spelling(text[:-1] + last))
        except NotAToken:
            continue
    assert len(accepted) == {1: 4, 2: 16}[length % 3]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "A",
        "AAAAA",
        "AA=",
        "AAA==",
        "AAAA=",
        "AAAA====",
        "AA==\n",
        "AAAA\n",
        "A" * (MAX_TEXT_BYTES + 4),
        "\uff21" * 4,
        "AA%3D%3D",
    ],
)
def test_what_is_no_canonical_text_is_refused(text):
    with pytest.raises(NotAToken):
        spelling(text)


def test_the_longest_text_is_4096_characters():
    assert spelling("A" * MAX_TEXT_BYTES)


def test_the_digest_is_of_the_canonical_spelling():
    text = "AAECAw"
    assert digest(text) == digest("AAECAw==") == hashlib.sha256(text.encode()).digest()


def test_a_live_token_in_another_spelling_is_refused_before_any_key_is_tried():
    ring = ring_of(0, 1)
    text = ring.seal(b"x" * 33, 0)
    assert ring.open(padded(text)) == ring.open(text)
    standard = text.replace("-", "+").replace("_", "/")
    for other in (
        text + "\n",
        text[:9] + "...." + text[9:],
        padded(text) + "====",
        text + "=" * 5,
        " " + text,
        *([standard] if standard != text else []),
    ):
        with pytest.raises(NotAToken, match=r"spelling|base64"):
            ring.open(other)


@given(flip=st.integers(0, 8 * 89 - 1))
def test_any_flipped_bit_is_refused(flip):
    raw = bytearray(base64.urlsafe_b64decode(padded(TEXT)))
    raw[flip // 8 % len(raw)] ^= 1 << flip % 8
    with pytest.raises(NotAToken):
        RING.open(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(text=st.text(max_size=200))
def test_random_text_raises_nothing_but_not_a_token(text):
    with pytest.raises(NotAToken):
        RING.open(text)


@given(raw=st.binary(max_size=200), version=st.booleans())
def test_random_bytes_raise_nothing_but_not_a_token(raw, version):
    with pytest.raises(NotAToken):
        RING.open(base64.urlsafe_b64encode(b"\x80" * version + raw).decode().rstrip("="))


# --- Sealing


@given(payload=st.binary(max_size=300), seconds=st.integers(0, LAST_SECOND))
def test_what_is_sealed_opens_to_itself(payload, seconds):
    text = RING.seal(payload, seconds * 1_000_000 + 999_999)
    assert RING.open(text) == (payload, seconds * 1_000_000, 2)
    assert spelling(text) == text


@pytest.mark.parametrize("vector", GOLDEN["tokens"], ids=lambda v: f"v{v['version']}-{v['token'][-4:]}")
def test_keystone_s_tokens_are_sealed_again_byte_for_byte(vector):
    ring = KeyRing({0: key(0), 1: GOLDEN["key"].encode()})
    payload, issued_at, number = ring.open(vector["token"])
    iv = base64.urlsafe_b64decode(padded(vector["token"]))[9:25]
    assert (number, issued_at, payload.hex()) == (1, vector["fields"]["issued_at"], vector["payload"])
    assert ring.seal(payload, issued_at, iv) == vector["token"]


def test_any_fernet_opens_what_we_seal_and_we_what_it_seals():
    fernet = MultiFernet([Fernet(content) for content in RING.numbers.values()])
    assert fernet.decrypt(padded(TEXT)) == b"payload"
    assert RING.open(Fernet(key(1)).encrypt_at_time(b"theirs", 7).decode()) == (b"theirs", 7_000_000, 1)


def test_two_seals_of_one_payload_differ():
    assert RING.seal(b"x", 0) != RING.seal(b"x", 0)


def test_a_time_that_no_date_can_name_is_refused():
    with pytest.raises(NotAToken):
        RING.open(Fernet(key(1)).encrypt_at_time(b"x", LAST_SECOND + 1).decode())


def test_content_whose_padding_is_wrong_is_refused():
    lock = RING._locks[0]
    sealed = base64.urlsafe_b64decode(padded(TEXT))
    for content in (b"", bytes(15), bytes(17)):
        head = sealed[:25] + content
        with pytest.raises(NotAToken):
            RING.open(base64.urlsafe_b64encode(head + hmac_of(lock, head)).decode().rstrip("="))
    head = bytes(25 - 25) + b"\x80" + bytes(8) + bytes(16) + bytes(16)
    with pytest.raises(NotAToken, match="padded"):
        RING.open(base64.urlsafe_b64encode(head + hmac_of(lock, head)).decode().rstrip("="))


def hmac_of(lock, text):
    import hmac

    return hmac.digest(lock.signing, text, "sha256")


# --- Rings


def test_the_highest_number_seals_and_all_open():
    assert RING.primary == 2
    for number in (0, 1, 2):
        text = KeyRing({0: key(9), 1: key(number)}).seal(b"x", 0)
        assert RING.open(text)[2] == number


def test_a_rotation_makes_the_staged_key_the_primary_and_keeps_the_rest():
    after = RING.rotated(key(7))
    assert after.numbers == {0: key(7), 1: key(1), 2: key(2), 3: key(0)}
    assert (after.primary, after.staged, after.epoch) == (3, key(7), 1)
    assert RING.numbers == {0: key(0), 1: key(1), 2: key(2)}


def test_retired_numbers_go_and_unknown_ones_are_no_error():
    assert RING.rotated(key(7), [1, 55]).numbers == {0: key(7), 2: key(2), 3: key(0)}
    assert RING.without([1]).numbers == {0: key(0), 2: key(2)}
    assert RING.without([1]).epoch == 1


@pytest.mark.parametrize("number", [0, 2])
def test_neither_the_staged_key_nor_the_primary_can_be_retired(number):
    with pytest.raises(ValueError):
        RING.rotated(key(7), [number])
    with pytest.raises(ValueError):
        RING.without([number])


@given(turns=st.lists(st.sets(st.integers(1, 9)), max_size=8))
def test_one_rotation_behind_reads_what_one_ahead_seals(turns):
    ring = ring_of(0, 1)
    for turn, retire in enumerate(turns):
        ahead = ring.rotated(key(100 + turn), retire - {ring.primary})
        assert ring.open(ahead.seal(b"x", 0))[2] == 0
        assert ahead.open(ring.seal(b"x", 0))[2] == ring.primary
        ring = ahead


def test_a_site_two_rotations_behind_cannot_read():
    with pytest.raises(NotAToken):
        RING.open(RING.rotated(key(7)).rotated(key(8)).seal(b"x", 0))


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {1: key(1)},
        {0: key(0), -1: key(1)},
        {0: key(0), 1: key(0)},
        {0: b""},
        {0: key(0)[:-1]},
        {0: key(0) + b"\n"},
        {0: b"A" * 42 + b"B="},
        {0: b"+" + b"A" * 42 + b"="},
    ],
)
def test_what_is_no_ring_cannot_be_made(numbers):
    with pytest.raises(ValueError):
        KeyRing(numbers)


def test_a_ring_never_changes():
    for name in ("epoch", "numbers", "other"):
        with pytest.raises(AttributeError):
            setattr(RING, name, 5)
    with pytest.raises(TypeError):
        RING.numbers[0] = key(1)


def test_the_fingerprint_is_of_numbers_and_keys_not_of_epoch_or_order():
    assert KeyRing({1: key(1), 0: key(0)}, 8).fingerprint == ring_of(0, 1, epoch=3).fingerprint
    assert KeyRing({0: key(1), 1: key(0)}).fingerprint != ring_of(0, 1).fingerprint
    assert ring_of(0, 2).fingerprint != ring_of(0, 1).fingerprint
    assert ring_of(0, 1, epoch=1) != ring_of(0, 1, epoch=2)
    assert ring_of(0, 1) == ring_of(1, 0)
    assert hash(ring_of(0, 1)) == hash(ring_of(1, 0))


def test_what_is_shown_holds_no_key_in_any_form():
    for shown in (repr(RING), str(RING), RING.fingerprint, str(RING.check_values())):
        for content in RING.numbers.values():
            raw = base64.urlsafe_b64decode(content)
            for form in (content.decode()[:20], raw.hex()[:20], hashlib.sha256(content).hexdigest()[:16]):
                assert form not in shown


def test_check_values_are_short_and_tell_keys_apart():
    assert len(check_value(key(1))) == 16
    assert check_value(key(1)) != check_value(key(2))
