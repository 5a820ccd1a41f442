"""A signed token has one text, one algorithm and known claims; all else is no token, whoever signed it."""

import base64
import hashlib
import hmac
import json

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from regional_keystone import jws
from regional_keystone.keys import MAX_TEXT_BYTES
from regional_keystone.payload import NoKeyFits, NotAToken
from regional_keystone.token import DomainScope, ProjectScope, SystemScope, Token, Unscoped

UUID, OTHER = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "7f" * 16
AUDIT, FIRST = "MDEyMzQ1Njc4OWFiY2RlZg", "ZmVkY2JhOTg3NjU0MzIxMA"
KEY, ANOTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
HEADER = {"alg": "ES256", "typ": "JWT", "kid": jws.key_id(PUBLIC)}
CLAIMS = {
    "sub": UUID,
    "iat": 1893549845,
    "exp": 1893553445,
    "openstack_methods": ["password"],
    "openstack_audit_ids": [AUDIT],
    "openstack_project_id": OTHER,
}


def token(**changes) -> Token:
    return Token(
        **{
            "user_id": UUID,
            "methods": ("password",),
            "scope": ProjectScope(OTHER),
            "expires_at": 1893553445_000000,
            "issued_at": 1893549845_000000,
            "audit_ids": (AUDIT,),
        }
        | changes
    )


def part(data) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def numbers(signed: str, key=KEY) -> tuple[int, int]:
    return decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))


def by_hand(header=HEADER, claims=CLAIMS, key=KEY) -> str:
    """A token as anybody with the key could write it; the low form of its signature."""
    signed = f"{part(header)}.{part(claims)}"
    r, s = numbers(signed, key)
    return f"{signed}.{part(r.to_bytes(32) + min(s, ORDER - s).to_bytes(32))}"


def opened(text: str, public=PUBLIC) -> Token:
    signed = jws.read(text)
    if not signed.fits(public):
        raise NotAToken("no key fits")
    return signed.token()


def twin(text: str) -> str:
    """The other good signature of the same token."""
    signed, _, signature = text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    return f"{signed}.{part(raw[:32] + (ORDER - int.from_bytes(raw[32:])).to_bytes(32))}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scope": Unscoped(), "audit_ids": (AUDIT, FIRST), "methods": ("token", "password")},
        {"scope": DomainScope("default")},
        {"scope": SystemScope()},
        {"trust_id": OTHER},
        {"application_credential_id": OTHER, "methods": ("application_credential",)},
        {"identity_provider_id": "corporate", "protocol_id": "saml2", "group_ids": (OTHER, "engineers")},
        {"identity_provider_id": "corporate", "protocol_id": "saml2", "group_ids": (), "scope": Unscoped()},
        {"access_token_id": OTHER},
        {"thumbprint": "Zm9vLWJhcg"},
    ],
)
def test_a_token_comes_back_as_it_was(changes):
    for lag_s in (0, 2, 60):
        text = jws.sign(token(**changes), KEY, lag_s)
        assert opened(text) == token(**changes)
        assert jws.spelling(text) == text
        assert json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))["iat"] == 1893549845 - lag_s


def test_what_is_written_by_hand_is_read_so_that_the_refusals_below_are_of_what_differs():
    assert opened(by_hand()) == token()
    assert opened(by_hand({"alg": "ES256", "typ": "JWT"})) == token(), "Keystone names no key"


def test_of_the_two_signatures_of_one_token_only_the_lower_is_taken():
    for number in range(8):
        text = jws.sign(token(user_id=f"{number}"), KEY)
        other = jws.read(twin(text))
        assert other.fits(PUBLIC, low=False), "the twin is good for who does not look"
        assert not other.fits(PUBLIC)


@given(st.data())
def test_no_text_but_the_one_that_was_signed_opens(data):
    text = jws.sign(token(), KEY)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("AQgwBZaz09-_=. \n\u00e9"))
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(NotAToken):
            opened(changed)


@pytest.mark.parametrize("added", ["=", "==", "\n", " ", ".", ".A", "A"])
def test_nothing_can_be_added(added):
    for text in (jws.sign(token(), KEY) + added, added + jws.sign(token(), KEY)):
        with pytest.raises(NotAToken):
            opened(text)
        if "A" not in added:
            with pytest.raises(NotAToken):
                jws.spelling(text)


def test_another_key_of_the_right_kind_opens_nothing():
    with pytest.raises(NotAToken):
        opened(by_hand(key=ANOTHER))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {"alg": "ES512"},
        {"alg": "EdDSA"},
        {"alg": "es256"},
        {"alg": ["ES256"]},
        {"alg": None},
        {},
        {"alg": "ES256", "typ": "JOSE"},
        {"alg": "ES256", "kid": "../../etc/passwd"},
        {"alg": "ES256", "kid": 7},
        {"alg": "ES256", "kid": ""},
        {"alg": "ES256", "lag": -1},
        {"alg": "ES256", "lag": 61},
        {"alg": "ES256", "lag": True},
        {"alg": "ES256", "lag": 1e1},
        {"alg": "ES256", "of": ["x"]},
        {"alg": "ES256", "of": ["0123456789abcdef"] * 9},
        {"alg": "ES256", "b64": False, "crit": ["b64"]},
        {"alg": "ES256", "crit": ["exp"]},
        {"alg": "ES256", "jku": "https://evil.example/keys"},
        {"alg": "ES256", "jwk": {"kty": "EC"}},
        {"alg": "ES256", "x5c": []},
        [],
        b"",
        b"{",
        b"\xff\xfe",
        b'{"alg":"ES256"}\x00',
    ],
)
def test_a_header_that_says_anything_else_is_refused_though_the_signature_is_good(header):
    with pytest.raises(NotAToken):
        opened(by_hand(header))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256"])
def test_the_public_key_is_no_secret_to_sign_with(algorithm):
    pem = PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, jws.der(PUBLIC), b""):
        signed = f"{part(HEADER | {'alg': algorithm})}.{part(CLAIMS)}"
        mac = hmac.digest(secret, signed.encode(), "sha256")
        for signature in (mac, mac + mac, bytes(64), b"\x00"):
            with pytest.raises(NotAToken):
                opened(f"{signed}.{part(signature)}")


def test_a_key_of_another_curve_is_no_signing_key():
    for curve in (ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()):
        other = ec.generate_private_key(curve).public_key()
        with pytest.raises(ValueError, match="P-256"):
            jws.public_key(jws.der(other))
    private = KEY.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for rubbish in (b"", b"no key", private):
        with pytest.raises(ValueError, match="no public key"):
            jws.public_key(rubbish)
    assert jws.public_key(jws.der(PUBLIC)) == PUBLIC


@pytest.mark.parametrize("r", [0, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER, 2**256 - 1])
def test_numbers_out_of_range_are_no_signature(r, s):
    signed = f"{part(HEADER)}.{part(CLAIMS)}"
    with pytest.raises(NotAToken):
        opened(f"{signed}.{part(r.to_bytes(32) + s.to_bytes(32))}")


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": ""},
        {"sub": None},
        {"sub": 7},
        {"sub": "x" * 256},
        {"iat": 1.5},
        {"iat": "1893549845"},
        {"iat": True},
        {"iat": -1},
        {"exp": 10**15},
        {"exp": None},
        {"openstack_methods": "password"},
        {"openstack_methods": ["no such method"]},
        {"openstack_methods": [None]},
        {"openstack_audit_ids": []},
        {"openstack_audit_ids": [AUDIT, FIRST, AUDIT]},
        {"openstack_audit_ids": ["short"]},
        {"openstack_audit_ids": [AUDIT[:-1] + "h"]},
        {"openstack_system": "all"},
        {"openstack_system": "some", "openstack_project_id": ...},
        {"openstack_domain_id": OTHER},
        {"openstack_project_id": None},
        {"openstack_trust_id": "no uuid"},
        {"openstack_trust_id": OTHER, "openstack_app_cred_id": OTHER},
        {"openstack_trust_id": OTHER, "openstack_system": "all", "openstack_project_id": ...},
        {"openstack_app_cred_id": OTHER, "openstack_domain_id": OTHER, "openstack_project_id": ...},
        {"openstack_group_ids": ["plain"]},
        {"openstack_group_ids": [{"id": OTHER, "name": "more"}]},
        {"openstack_limit": "only GET"},
        {"nbf": 0},
        {"aud": "somebody"},
        {"iss": "me"},
        {"sub": ...},
        {"iat": ...},
        {"exp": ...},
        {"openstack_methods": ...},
        {"openstack_audit_ids": ...},
    ],
)
def test_claims_that_no_payload_could_say_are_refused_though_the_signature_is_good(changes):
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not ...}
    with pytest.raises(NotAToken):
        opened(by_hand(claims=claims))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 600, b"{}" * 9, b'{"sub":"\\ud800"}'])
def test_content_that_is_no_claims_is_refused(content):
    text = by_hand(claims=content or b" ")
    with pytest.raises(NotAToken):
        opened(text)


def test_a_text_is_bounded_before_anything_is_done_with_it():
    long = "A" * (MAX_TEXT_BYTES // 3 + 4)
    for text in (f"{long}.{long}.{long}", ".", "..", "...", "." * MAX_TEXT_BYTES, "a.b", "a.b.c.d"):
        with pytest.raises(NotAToken):
            jws.spelling(text)
    groups = {"identity_provider_id": "i", "protocol_id": "p", "group_ids": (OTHER,) * 100}
    with pytest.raises(ValueError, match="read by nobody"):
        jws.sign(token(**groups), KEY)


def test_one_whose_key_is_not_known_says_when_it_was_made():
    refusal = jws.read(jws.sign(token(), KEY, 2)).unknown()
    assert isinstance(refusal, NoKeyFits)
    assert refusal.sealed_at == 1893549845_000000, "that of its issue: what lags is iat alone"
    for claims in ({"iat": -5}, {"iat": 10**18}, {"iat": "x"}, b"\xff", {}):
        assert 0 <= jws.read(by_hand(claims=claims)).unknown().sealed_at <= 253402300799_000000


def test_nothing_of_a_token_is_shown_by_what_refuses_it():
    for changes in ({"sub": 7}, {"openstack_system": "SECRETWORD"}, {"SECRETWORD": 1}):
        with pytest.raises(NotAToken) as refused:
            opened(by_hand(claims=CLAIMS | changes))
        assert "SECRETWORD" not in str(refused.value)
        assert refused.value.__cause__ is None


def test_the_id_of_a_key_is_the_digest_that_is_written_down():
    said = hashlib.sha256(b"regional-keystone signing key 1\x00" + jws.der(PUBLIC)).hexdigest()[:16]
    assert jws.key_id(PUBLIC) == said
    assert msgspec.json.decode(base64.urlsafe_b64decode(jws.sign(token(), KEY).split(".")[0] + "=="))["kid"] == said
