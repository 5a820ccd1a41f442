"""What can act for a user, all of it in one answer: what has to be looked at when one of their secrets was stolen.

Tokens are kept nowhere, so none is listed: only up to when they are void. Source: docs/security.md, SEC-32, SEC-72.
"""

from collections.abc import Mapping
from typing import Any

from regional_keystone.document import time
from regional_keystone.errors import Invalid, NotFound
from regional_keystone.model import (
    AccessToken,
    ApplicationCredential,
    Credential,
    FederatedUser,
    Grant,
    Membership,
    Project,
    RevocationEvent,
    Trust,
    User,
)
from regional_keystone.passwords import told_by
from regional_keystone.ports import Reader


async def acting_for(reader: Reader, name: str, domain: str) -> Mapping[str, Any]:
    """Everything by which somebody may act as the user of this id, or of this name in the domain of that id or name.

    No secret is in it. Raises NotFound, and Invalid for a name that several domains have when none is given.
    """
    user = await _user(reader, name, domain)
    memberships = await reader.find(Membership, user_id=user.id)
    given, held = await reader.find(Trust, trustor_user_id=user.id), await reader.find(Trust, trustee_user_id=user.id)
    programs = await reader.find(ApplicationCredential, user_id=user.id)
    credentials = await reader.find(Credential, user_id=user.id)
    access_tokens = await reader.find(AccessToken, authorizing_user_id=user.id)
    federated = await reader.find(FederatedUser, user_id=user.id)
    actors = [user.id, *(one.group_id for one in memberships)]
    grants = [one for actor in actors for one in await reader.find(Grant, actor_id=actor)]
    events = [one.issued_before async for one in reader.scan(RevocationEvent) if one.user_id == user.id]
    return {
        "id": user.id,
        "name": user.name,
        "domain_id": user.domain_id,
        "enabled": user.enabled,
        "password": told_by(user.password_hash) if user.password_hash else None,
        "password_changed_at": _instant(user.password_changed_at),
        "password_expires_at": _instant(user.password_expires_at),
        "tokens_void_up_to": _instant(max(events, default=None)),
        "grants": [_some(one, "actor actor_id target target_id role_id inherited") for one in grants],
        "trusts_given": [_some(one, "id trustee_user_id project_id impersonation expires_at") for one in given],
        "trusts_held": [_some(one, "id trustor_user_id project_id impersonation expires_at") for one in held],
        "application_credentials": [_some(one, "id name project_id unrestricted expires_at") for one in programs],
        "credentials": [_some(one, "id type project_id") for one in credentials],
        "access_tokens": [_some(one, "id consumer_id project_id expires_at") for one in access_tokens],
        "federated": [_some(one, "idp_id protocol_id unique_id") for one in federated],
    }


async def _user(reader: Reader, name: str, domain: str) -> User:
    if (found := await reader.get(User, name)) is not None:
        return found
    if domain:
        roots = await reader.find(Project, name=domain, domain_id=None)
        named = await reader.find(User, name=name, domain_id=roots[0].id if roots else domain)
    else:
        named = await reader.find(User, name=name)
    if len(named) > 1:
        raise Invalid(f"Several domains have a user {name}: say which by --domain, or name the id.")
    if not named:
        raise NotFound(f"Could not find user: {name}.")
    return named[0]


def _some(record: Any, names: str) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in names.split()}
    return {name: _instant(value) if name.endswith("_at") else value for name, value in found.items()}


def _instant(at: int | None) -> str | None:
    return None if at is None else time(at)
