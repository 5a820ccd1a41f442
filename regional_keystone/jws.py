"""Tokens as signed texts, as Keystone's provider `jws` writes and reads them: ES256 over JSON claims.

Separate from signing, which knows whose keys there are; this does no I/O. One token has one text: three canonical parts
and, of the two values of `s` that make a signature good, the lower one. A header may name the key (`kid`), say by
how much `iat` lags behind the issue (`lag`), because Keystone fails on an `iat` that is ahead of its clock, and
name the other keys that had signed what the token was made from (`of`); Keystone ignores all three.
Source: keystone/token/providers/jws/core.py; RFC 7515, RFC 7518 section 3.4.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from regional_keystone import keys
from regional_keystone.payload import LAST_SECOND, NoKeyFits, NotAToken
from regional_keystone.token import (
    DEFAULT_METHODS,
    DomainScope,
    ProjectScope,
    Scope,
    SystemScope,
    Token,
    Unscoped,
    pack,
)

MOST_LAG_S = 60
"""The most by which `iat` may lag."""
MOST_OF = 8
"""Of how many keys beside its own a token may be made."""
_SECOND = 1_000_000
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the group of P-256
_HALF = _ORDER // 2
_NUMBER_BYTES = 32
_ES256 = ec.ECDSA(hashes.SHA256())

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
KeyId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
Said = Word | msgspec.UnsetType
_UNSET = msgspec.UNSET


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    alg: Literal["ES256"]
    typ: Literal["JWT"] | msgspec.UnsetType = _UNSET
    kid: KeyId | msgspec.UnsetType = _UNSET
    lag: Annotated[int, msgspec.Meta(ge=0, le=MOST_LAG_S)] = 0
    of: Annotated[tuple[KeyId, ...], msgspec.Meta(max_length=MOST_OF)] = ()


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Word


class _Claims(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="openstack_{}".format
):
    """Upstream's claims, in its order. What is not known here may be a limit, so it is refused."""

    sub: Word = msgspec.field(name="sub")
    iat: Annotated[int, msgspec.Meta(ge=0, le=LAST_SECOND)] = msgspec.field(name="iat")
    exp: Annotated[int, msgspec.Meta(ge=0, le=LAST_SECOND)] = msgspec.field(name="exp")
    methods: tuple[Word, ...]
    audit_ids: tuple[Word, ...]
    system: Literal["all"] | msgspec.UnsetType = _UNSET
    domain_id: Said = _UNSET
    project_id: Said = _UNSET
    trust_id: Said = _UNSET
    group_ids: tuple[_Group, ...] | msgspec.UnsetType = _UNSET
    idp_id: Said = _UNSET
    protocol_id: Said = _UNSET
    access_token_id: Said = _UNSET
    app_cred_id: Said = _UNSET
    thumbprint: Said = _UNSET


class _Dated(msgspec.Struct):
    iat: int


_header = msgspec.json.Decoder(_Header)
_claims = msgspec.json.Decoder(_Claims)
_dated = msgspec.json.Decoder(_Dated)
_encode = msgspec.json.Encoder().encode


class Signed(NamedTuple):
    """A text that is signed, as it may be: nothing of it is believed before a key fits."""

    kid: str | None
    lag_s: int
    content: bytes
    signature: bytes
    signed: bytes
    of: tuple[str, ...] = ()

    def fits(self, key: PublicKey, *, low: bool = True) -> bool:
        """Whether this key has signed it; with `low`, in the one form of the signature that is taken."""
        r, s = int.from_bytes(self.signature[:_NUMBER_BYTES]), int.from_bytes(self.signature[_NUMBER_BYTES:])
        if not 0 < r < _ORDER or not 0 < s <= (_HALF if low else _ORDER - 1):
            return False
        try:
            key.verify(encode_dss_signature(r, s), self.signed, _ES256)
        except InvalidSignature:
            return False
        return True

    def token(self, methods: Sequence[str] = DEFAULT_METHODS) -> Token:
        """What it says, once a key fits. Raises NotAToken."""
        try:
            token = _read(_claims.decode(self.content), self.lag_s)
            pack(token, methods)  # what no payload can say, no token says: two delegations, a limit beside the system
        except NotAToken:
            raise
        except (msgspec.MsgspecError, ValueError, TypeError, UnicodeError):
            raise NotAToken("the claims are malformed") from None  # the cause would show what they hold
        return token

    def unknown(self) -> NoKeyFits:
        """The refusal of one whose key is not known here: it says of itself when it was made."""
        try:
            return NoKeyFits(min(max(_dated.decode(self.content).iat + self.lag_s, 0), LAST_SECOND) * _SECOND)
        except msgspec.MsgspecError:
            return NoKeyFits(0)


def is_signed(text: str) -> bool:
    """Whether it is meant to be a signed text; the other kind has no dot."""
    return "." in text


def spelling(text: str) -> str:
    """The one spelling of a token's text, of either kind. Raises NotAToken for every other."""
    if is_signed(text):
        _parts(text)
        return text
    return keys.spelling(text)


def key_id(key: PublicKey) -> str:
    """Names a signing key: 16 hex characters."""
    return hashlib.sha256(b"regional-keystone signing key 1\x00" + der(key)).hexdigest()[:16]


def der(key: PublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(data: bytes) -> PublicKey:
    """The key that `der` or a PEM file holds. Raises ValueError for all but a public key on P-256."""
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        key = serialization.load_pem_public_key(data) if pem else serialization.load_der_public_key(data)
    except Exception as error:  # the library has errors of its own for some curves
        raise ValueError("no public key") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("no key for ES256: that takes P-256")
    return key


def read(text: str) -> Signed:
    """The parts of a signed text. Raises NotAToken unless it is spelled in the one way and says ES256."""
    head, content, signature = _parts(text)
    try:
        header = _header.decode(_bytes(head))
    except (msgspec.MsgspecError, UnicodeError):
        raise NotAToken("the header is not one of ES256") from None
    raw = _bytes(signature)
    if len(raw) != 2 * _NUMBER_BYTES:
        raise NotAToken("no signature of ES256")
    kid = None if isinstance(header.kid, msgspec.UnsetType) else header.kid
    return Signed(kid, header.lag, _bytes(content), raw, f"{head}.{content}".encode("ascii"), header.of)


def sign(
    token: Token,
    key: PrivateKey,
    lag_s: int = 0,
    methods: Sequence[str] = DEFAULT_METHODS,
    name: str | None = None,
    of: Sequence[str] = (),
) -> str:
    """The token as text. Its expiry is cut to whole seconds, `iat` is its issue less `lag_s`; `name` is the key's id.

    `of`: the ids of the other keys that had signed what it is made from.

    Raises ValueError for what no payload can say, and for a text that would be too long to be read.
    """
    pack(token, methods)
    header = _Header("ES256", "JWT", name or key_id(key.public_key()), lag_s, tuple(of))
    signed = f"{_text(_encode(header))}.{_text(_encode(_written(token, lag_s)))}"
    r, s = decode_dss_signature(key.sign(signed.encode("ascii"), _ES256))
    low = min(s, _ORDER - s)
    text = f"{signed}.{_text(r.to_bytes(_NUMBER_BYTES) + low.to_bytes(_NUMBER_BYTES))}"
    if len(text) > keys.MAX_TEXT_BYTES:
        raise ValueError(f"a token of {len(text)} bytes is read by nobody")
    return text


def _written(token: Token, lag_s: int) -> _Claims:
    return _Claims(
        sub=token.user_id,
        iat=token.issued_at // _SECOND - lag_s,
        exp=token.expires_at // _SECOND,
        methods=token.methods,
        audit_ids=token.audit_ids,
        system="all" if isinstance(token.scope, SystemScope) else _UNSET,
        domain_id=_said(token.domain_id),
        project_id=_said(token.project_id),
        trust_id=_said(token.trust_id),
        group_ids=_UNSET if token.group_ids is None else tuple(map(_Group, token.group_ids)),
        idp_id=_said(token.identity_provider_id),
        protocol_id=_said(token.protocol_id),
        access_token_id=_said(token.access_token_id),
        app_cred_id=_said(token.application_credential_id),
        thumbprint=_said(token.thumbprint),
    )


def _read(claims: _Claims, lag_s: int) -> Token:
    return Token(
        user_id=claims.sub,
        methods=claims.methods,
        scope=_scope(claims),
        expires_at=claims.exp * _SECOND,
        issued_at=(claims.iat + lag_s) * _SECOND,
        audit_ids=claims.audit_ids,
        trust_id=claims.trust_id or None,
        group_ids=None
        if isinstance(claims.group_ids, msgspec.UnsetType)
        else tuple(group.id for group in claims.group_ids),
        identity_provider_id=claims.idp_id or None,
        protocol_id=claims.protocol_id or None,
        access_token_id=claims.access_token_id or None,
        application_credential_id=claims.app_cred_id or None,
        thumbprint=claims.thumbprint or None,
    )


def _scope(claims: _Claims) -> Scope:
    said: list[Scope] = []
    if claims.system:
        said.append(SystemScope())
    if claims.domain_id:
        said.append(DomainScope(claims.domain_id))
    if claims.project_id:
        said.append(ProjectScope(claims.project_id))
    if len(said) > 1:
        raise NotAToken("a token has one scope")
    return said[0] if said else Unscoped()


def _said(value: str | None) -> str | msgspec.UnsetType:
    return _UNSET if value is None else value


def _parts(text: str) -> list[str]:
    """Header, claims and signature. Raises NotAToken unless each is canonical base64 without padding."""
    if len(text) > keys.MAX_TEXT_BYTES:
        raise NotAToken("too long")
    parts = text.split(".")
    if len(parts) != 3 or any(keys.spelling(part) != part for part in parts):
        raise NotAToken("not the canonical spelling")
    return parts


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
