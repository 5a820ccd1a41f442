"""What trusts and application credentials have in common: roles that are handed on, an end, and who may not hand on.

Source: keystone/api/_shared/delegation.py, keystone/common/utils.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from regional_keystone.api.fields import shown
from regional_keystone.api.rules import ID
from regional_keystone.api.shapes import Attributes, Call
from regional_keystone.document import instant
from regional_keystone.errors import Conflict, Invalid, NotFound
from regional_keystone.model import Role

NAME: Mapping[str, Any] = {"type": ("string",), "minLength": 1, "maxLength": 255, "pattern": r"[\S]+"}
NAMED_ROLES: Mapping[str, Any] = {
    "type": ("array",),
    "items": {
        "type": ("object",),
        "properties": {"id": ID, "name": NAME},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    },
}
_ASSUMED = (
    " The server could not comply with the request since it is either malformed or otherwise incorrect. "
    "The client is assumed to be in error."
)


def expiry(sent: Attributes, now: int) -> int | None:
    """The instant at which something is to end, None for never. Raises Invalid for one that is none or has passed."""
    text = sent.get("expires_at")
    if text is None:
        return None
    try:
        at = instant(text if text.endswith("Z") else f"{text}Z")
    except (ValueError, OverflowError):
        raise Invalid("Timestamp not in expected format." + _ASSUMED) from None
    if at < now:
        raise Invalid("The 'expires_at' must not be before now." + _ASSUMED)
    return at


async def role_named(call: Call, said: Attributes) -> str:
    """The id of a role that is named by id, which may be any, or by a name that only one role has."""
    if "id" in said:
        return str(said["id"])
    found = [one async for one in call.reader.scan(Role) if one.name == said["name"]]
    if not found:
        raise NotFound(f"Role {said['name']} is not defined")
    if len(found) > 1:
        what = f"There are multiple role entities named '{said['name']}'."
        raise Invalid(f"{what} Please use ID instead of names to resolve the ambiguity.")
    return found[0].id


def check_once(word: str, role_ids: Iterable[str]) -> None:
    """Raise Conflict for a role that is named twice, by its id and its name perhaps."""
    if twice := [one for one, count in Counter(role_ids).items() if count > 1]:
        raise Conflict(
            f"Conflict occurred attempting to store {word} - Duplicate entry: role {twice[0]} is named twice."
        )


def role_seen(call: Call, role: Role) -> Attributes:
    """A role with the link to itself."""
    return {**shown(role), "links": {"self": call.url(f"/roles/{role.id}")}}
