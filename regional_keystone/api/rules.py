"""Rules that several resources share: options, immutability, the domain that a new row belongs to.

Below the tables that use them; each is upstream's, in its words.
Source: keystone/common/resource_options/options/immutable.py, keystone/server/flask/common.py.
"""

from collections.abc import Mapping
from typing import Any

from regional_keystone.api.shapes import Attributes, Call
from regional_keystone.authenticate import is_another_method
from regional_keystone.errors import Forbidden, Invalid
from regional_keystone.token import Principal

DEFAULT_DOMAIN = "default"
ID: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-]+$"}
DOMAIN_ID = ID
_TEXTS = "True TRUE true", "False FALSE false", "1 0 y Y n N on ON off OFF yes no"
SWITCH: Mapping[str, Any] = {
    "type": ("boolean", "string", "null"),
    "enum": (True, *_TEXTS[0].split(), False, *_TEXTS[1].split(), "", *_TEXTS[2].split()),
}
"""How a query says yes or no. The same words in a body are refused: there only true and false are."""
_WEB = ("http:", "https:", "ws:", "wss:")
IMMUTABLE: Mapping[str, Any] = {
    "type": ("object",),
    "properties": {"immutable": {"type": ("boolean", "null")}},
    "additionalProperties": False,
}


def merged(old: Mapping[str, Any], sent: Mapping[str, Any]) -> Attributes:
    """Options after a change: those that were sent replace, null removes."""
    return {name: value for name, value in {**old, **sent}.items() if value is not None}


def check_change(word: str, old: Any, sent: Attributes) -> None:
    """Raise Forbidden for a change of an immutable row that is not just making it mutable."""
    options = sent.get("options") or {}
    frees = set(sent) == {"options"} and set(options) == {"immutable"} and not options["immutable"]
    if old.options.get("immutable") and not frees:
        raise Forbidden(_immutable("update", word, old.id))


def check_removal(word: str, old: Any) -> None:
    """Raise Forbidden for the removal of an immutable row."""
    if old.options.get("immutable"):
        raise Forbidden(_immutable("delete", word, old.id))


def check_length(sent: Attributes, name: str, limit: int) -> None:
    """Raise Invalid for a text that upstream's database has no room for, though its schema has."""
    value = sent.get(name)
    if isinstance(value, str) and len(value) > limit:
        column = f"column {name}(CHAR({limit}))"
        raise Invalid(f"String length exceeded. The length of string '{value}' exceeds the limit of {column}.")


def is_web(url: str) -> bool:
    """Whether it is an address that is asked over the web; upstream takes `file:`, `javascript:` and all others too."""
    return url.lower().startswith(_WEB)


def home(call: Call, sent: Attributes) -> str:
    """The domain of a new row: the one that was named, else that of the caller's scope, else the default one.

    The domain of the caller's project is none of these, upstream neither. Source: keystone/server/flask/common.py.
    """
    named = sent.get("domain_id")
    if named:
        return str(named)
    return call.caller.domain.id if call.caller.domain else DEFAULT_DOMAIN


def is_delegated(caller: Principal) -> bool:
    """Whether the token acts on what somebody handed on, or does not say how it was made.

    Source: keystone/api/_shared/delegation.py.
    """
    token = caller.token
    return token.is_delegated or is_another_method(token)


def _immutable(verb: str, word: str, key: str) -> str:
    return f'Unable to {verb} immutable {word} resource: `{key}. Set resource option "immutable" to false first.'
