"""Tokens sealed by hand with a region's keys, as a region would never issue them."""

import secrets
import time

import msgspec

from regional_keystone.key_directory import read_directory
from regional_keystone.token import ProjectScope, Token, new_audit_id, pack

SECOND = 1_000_000


def sealed(regions, home, *, age_s=0, life_s=600, **changes):
    """A token of the household's user for its project, issued so long ago, good for so long, with these changes."""
    issued_at = (int(time.time()) - age_s) * SECOND
    token = Token(
        user_id=home.user["id"],
        methods=("password",),
        scope=ProjectScope(home.project["id"]),
        expires_at=issued_at + life_s * SECOND,
        issued_at=issued_at,
        audit_ids=(new_audit_id(secrets.token_bytes(16)),),
    )
    ring = read_directory(regions.home.state("RegionOne") / "fernet-keys")
    return ring.seal(pack(msgspec.structs.replace(token, **changes)), issued_at)
