"""The eleven payloads in which upstream writes a token, as one table: version -> the fields in their order.
Separate from token, which says what the fields mean; this only says how each is written, byte for byte.
Source: keystone/token/token_formatters.py.
"""

import base64
import math
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, cast

import msgspec

LAST_SECOND = 253_402_300_799
"""The last second that a date can name, 9999-12-31T23:59:59 UTC; nothing later is a time."""


class NotAToken(ValueError):
    """The text or payload is no token: says what is wrong with it, never what it holds."""


class NoKeyFits(NotAToken):
    """It may be a token of a ring that is not known here; it says of itself when it was sealed, in microseconds."""

    def __init__(self, sealed_at: int) -> None:
        super().__init__("no key fits")
        self.sealed_at = sealed_at


def new_audit_id(random: bytes) -> str:
    """Names a token: 22 URL-safe characters for 16 random bytes. Raises ValueError for any other length."""
    if len(random) != 16:
        raise ValueError("an audit id is made of 16 random bytes")
    return base64.urlsafe_b64encode(random)[:22].decode("ascii")


# --- How one field is written. `pack` raises ValueError for what upstream could not write, `unpack` NotAToken.


class Codec(NamedTuple):
    """How one field is written and read back."""

    pack: Callable[[object], object]
    unpack: Callable[[object], object]


def _check(fits: object, what: str) -> None:
    if not fits:
        raise NotAToken(what)


def _text(value: object) -> str:
    # Writers older than msgpack 1.0 knew no difference between text and bytes.
    if isinstance(value, bytes):
        return value.decode("utf-8")
    _check(isinstance(value, str), "a text is of another type")
    return cast(str, value)


def _sixteen(value: object) -> bytes:
    # An old writer's bytes look like text if they happen to be UTF-8.
    raw = value.encode("utf-8") if isinstance(value, str) else value
    _check(isinstance(raw, bytes) and len(raw) == 16, "an id is not 16 bytes")
    return cast(bytes, raw)


def _hex(value: object) -> str:
    return _sixteen(value).hex()


def _uuid_bytes(value: object) -> bytes:
    return uuid.UUID(cast(str, value)).bytes


def _pack_pair(value: object) -> object:
    try:
        return (True, _uuid_bytes(value))
    except (ValueError, TypeError):
        return (False, value)


def _unpack_pair(value: object) -> str | None:
    _check(isinstance(value, list) and len(value) == 2 and isinstance(value[0], bool), "an id is no pair")
    is_uuid, content = cast("list[object]", value)
    if is_uuid:
        return _hex(content)
    return None if content is None else _text(content)


def _pack_domain(value: object) -> object:
    # Upstream writes text for its default domain only; which one that is does not matter for reading it back.
    try:
        return _uuid_bytes(value)
    except ValueError:
        return value


def _unpack_domain(value: object) -> str:
    return _hex(value) if isinstance(value, bytes) and len(value) == 16 else _text(value)


def _unpack_thumbprint(value: object) -> str:
    thumbprint = _unpack_pair(value)
    _check(thumbprint is not None, "no thumbprint")
    return cast(str, thumbprint)


def _pack_groups(value: object) -> object:
    return [_pack_pair(group_id) for group_id in cast("tuple[str, ...] | None", value) or ()]


def _unpack_groups(value: object) -> tuple[str, ...]:
    _check(isinstance(value, list), "groups are no list")
    ids = tuple(_unpack_pair(item) for item in cast("list[object]", value))
    _check(None not in ids, "a group has no id")
    return cast("tuple[str, ...]", ids)


def _pack_time(value: object) -> object:
    return cast(int, value) / 1_000_000


def _unpack_time(value: object) -> int:
    _check(type(value) in (int, float), "the expiry is no number")
    seconds = cast(float, value)
    _check(0 <= seconds <= LAST_SECOND, "the expiry is out of range")  # NaN compares false
    fraction, whole = math.modf(seconds)
    return int(whole) * 1_000_000 + round(fraction * 1_000_000)


def _audit_bytes(audit_id: str) -> bytes:
    raw = base64.urlsafe_b64decode(audit_id + "==")
    if len(audit_id) != 22 or new_audit_id(raw) != audit_id:
        raise ValueError("an audit id is 22 characters of URL-safe base64")
    return raw


def _pack_audit(value: object) -> object:
    audit_ids = cast("tuple[str, ...]", value)
    if len(audit_ids) not in (1, 2):
        raise ValueError("a token has one or two audit ids")
    return [_audit_bytes(audit_id) for audit_id in audit_ids]


def _unpack_audit(value: object) -> tuple[str, ...]:
    _check(isinstance(value, list) and len(value) in (1, 2), "not one or two audit ids")
    return tuple(new_audit_id(_sixteen(raw)) for raw in cast("list[object]", value))


def _same(value: object) -> object:
    return value


def _unpack_mask(value: object) -> int:
    _check(type(value) is int and value >= 0, "the methods are no number")
    return cast(int, value)


def _unpack_system(value: object) -> str:
    _check(_text(value) == "all", "a part of the system that does not exist")
    return "all"


def _unpack_user(value: object) -> str:
    user_id = _unpack_pair(value)
    _check(user_id is not None, "no user")
    return cast(str, user_id)


_USER = ("user_id", Codec(_pack_pair, _unpack_user))
_METHODS = ("methods", Codec(_same, _unpack_mask))
_PROJECT = ("project_id", Codec(_pack_pair, _unpack_pair))
_BARE_DOMAIN = ("domain_id", Codec(_pack_domain, _unpack_domain))
_DOMAIN = ("domain_id", Codec(_pack_pair, _unpack_pair))
_SYSTEM = ("system", Codec(_same, _unpack_system))
_EXPIRES = ("expires_at", Codec(_pack_time, _unpack_time))
_AUDIT = ("audit_ids", Codec(_pack_audit, _unpack_audit))
_TRUST = ("trust_id", Codec(_uuid_bytes, _hex))
_GROUPS = ("group_ids", Codec(_pack_groups, _unpack_groups))
_PROVIDER = ("identity_provider_id", Codec(_pack_pair, _unpack_pair))
_PROTOCOL = ("protocol_id", Codec(_same, _text))
_ACCESS = ("access_token_id", Codec(_pack_pair, _unpack_user))
_CREDENTIAL = ("application_credential_id", Codec(_pack_pair, _unpack_user))
_THUMBPRINT = ("thumbprint", Codec(lambda value: (False, value), _unpack_thumbprint))

PAYLOADS: Mapping[int, tuple[tuple[str, Codec], ...]] = MappingProxyType(
    {
        0: (_USER, _METHODS, _EXPIRES, _AUDIT),
        1: (_USER, _METHODS, _BARE_DOMAIN, _EXPIRES, _AUDIT),
        2: (_USER, _METHODS, _PROJECT, _EXPIRES, _AUDIT),
        3: (_USER, _METHODS, _PROJECT, _EXPIRES, _AUDIT, _TRUST),
        4: (_USER, _METHODS, _GROUPS, _PROVIDER, _PROTOCOL, _EXPIRES, _AUDIT),
        5: (_USER, _METHODS, _PROJECT, _GROUPS, _PROVIDER, _PROTOCOL, _EXPIRES, _AUDIT),
        6: (_USER, _METHODS, _DOMAIN, _GROUPS, _PROVIDER, _PROTOCOL, _EXPIRES, _AUDIT),
        7: (_USER, _METHODS, _PROJECT, _ACCESS, _EXPIRES, _AUDIT),
        8: (_USER, _METHODS, _SYSTEM, _EXPIRES, _AUDIT),
        9: (_USER, _METHODS, _PROJECT, _EXPIRES, _AUDIT, _CREDENTIAL),
        10: (_USER, _METHODS, _PROJECT, _DOMAIN, _EXPIRES, _AUDIT, _THUMBPRINT),
    }
)
"""Version -> its fields, each with its codec."""

_ANY_LIST = msgspec.msgpack.Decoder(list)
_RAW_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
_MALFORMED = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError, MemoryError)


def encode(version: int, fields: Mapping[str, object]) -> bytes:
    """Writes one payload; only the fields of that version are read. Raises ValueError for what it cannot say."""
    packed = [codec.pack(fields[name]) for name, codec in PAYLOADS[version]]
    return msgspec.msgpack.encode([version, *packed])


def decode(payload: bytes) -> dict[str, object]:
    """Reads one payload of any version into its fields by name. Raises NotAToken and nothing else."""
    try:
        return _fields(_items(payload))
    except NotAToken:
        raise
    except _MALFORMED:
        raise NotAToken("the payload is malformed") from None  # the cause would show what it holds


def _fields(items: list[object]) -> dict[str, object]:
    version = items[0] if items else None
    _check(type(version) is int and version in PAYLOADS, "an unknown payload version")
    table = PAYLOADS[cast(int, version)]
    _check(len(items) == len(table) + 1, "the payload has too few or too many fields")
    return {name: codec.unpack(item) for (name, codec), item in zip(table, items[1:], strict=True)}


def _items(payload: bytes) -> list[object]:
    try:
        return _ANY_LIST.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        # Before msgpack 1.0 bytes were written with the mark of text, so that they are no UTF-8.
        return [_old_value(bytes(item)) for item in _RAW_LIST.decode(payload)]


def _old_value(raw: bytes) -> object:
    """One value of the old format, in which text and bytes have the same mark: always bytes."""
    mark = raw[0]
    if 0x90 <= mark <= 0x9F or mark in (0xDC, 0xDD):
        return [_old_value(bytes(item)) for item in _RAW_LIST.decode(raw)]
    if 0xA0 <= mark <= 0xBF:
        return raw[1:]
    if mark in (0xD9, 0xDA, 0xDB):
        return raw[1 + (1 << (mark - 0xD9)) :]
    return cast(object, msgspec.msgpack.decode(raw))
