"""What a token has that acts within a trust or an application credential: never more than was handed on, nor than who
handed it on has now. Decided when it is issued and again whenever it is looked up.

Source: keystone/trust/core.py, keystone/models/token_model.py.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec

from regional_keystone.errors import Forbidden
from regional_keystone.model import AccessRule, ApplicationCredential, Project, Trust, User
from regional_keystone.ports import Reader
from regional_keystone.roles import Lacking, Standing, global_roles, held, implied, present, standing, target
from regional_keystone.token import Allowed, ByCredential, ByTrust, Delegation, ProjectScope, Scope

_CHAIN = 100  # trusts, each made by means of the one before; no setting allows as many


class Within(msgspec.Struct, frozen=True, kw_only=True):
    """What a token acts within: who handed it on to whom, until when, and for which requests alone.

    `acting` and `home` are as whom it acts, if that is not who holds it. `shown` is what the body says of it.
    """

    shown: dict[str, Any]
    trustor_id: str | None = None
    trustee_id: str | None = None
    acting: User | None = None
    home: Project | None = None
    until: int | None = None
    allowed: tuple[Allowed, ...] | None = None


async def delegated(
    reader: Reader, user_id: str, scope: Scope, delegation: Delegation, now: int
) -> tuple[Standing, Within]:
    """Who somebody is and has by this delegation, in its scope, and within what.

    Raises Lacking for what is not there any more, Forbidden for what was not, or is no longer, handed on.
    """
    place = await target(reader, scope)
    match delegation:
        case ByTrust():
            return await _by_trust(reader, user_id, scope, place, await trusted(reader, delegation.trust_id, now))
        case ByCredential():
            return await _by_credential(reader, user_id, scope, delegation.application_credential_id)


async def trusted(reader: Reader, trust_id: str, now: int, max_redelegations: int | None = None) -> Trust:
    """The trust, if it has not ended and nor has any that it was made by means of.

    Raises Lacking, and Forbidden for a chain that does not hold.
    """
    chain = await pedigree(reader, trust_id)
    for trust in chain:
        if trust.expires_at is not None and trust.expires_at <= now:
            raise Lacking(f"Could not find trust: {trust.id}.")
    for child, parent in pairwise(chain):
        check_onward(parent, child, max_redelegations)
        agent = await reader.get(User, parent.trustee_user_id)
        if agent is None or not agent.enabled:
            raise Forbidden
    return chain[0]


def is_used_up(trust: Trust) -> bool:
    """Whether no token can be made with it any more; those that were made stay what they are."""
    return trust.remaining_uses is not None and trust.remaining_uses <= 0


async def pedigree(reader: Reader, trust_id: str) -> list[Trust]:
    """The trust, the one that it was made by means of, and so on to the first. Raises Lacking if one is gone."""
    found: list[Trust] = []
    above: str | None = trust_id
    while above is not None:
        trust = await reader.get(Trust, above)
        if trust is None or len(found) >= _CHAIN:
            raise Lacking(f"Could not find trust: {above}.")
        found.append(trust)
        above = trust.redelegated_trust_id
    return found


def check_onward(parent: Trust, child: Trust, max_redelegations: int | None = None) -> None:
    """Raise Forbidden for a trust that says more than the one that it is made by means of."""
    depth = parent.redelegation_count
    if depth <= 0 or (max_redelegations is not None and depth > max_redelegations):
        raise Forbidden
    if child.remaining_uses is not None or child.project_id != parent.project_id:
        raise Forbidden
    if parent.expires_at is not None and (child.expires_at is None or child.expires_at > parent.expires_at):
        raise Forbidden
    if not set(parent.role_ids).issuperset(child.role_ids):
        raise Forbidden
    if child.impersonation and not parent.impersonation:
        raise Forbidden


async def rules_of(reader: Reader, credential: ApplicationCredential) -> list[AccessRule]:
    """The access rules of an application credential, in the order in which they were given."""
    found = [await reader.get(AccessRule, one) for one in credential.access_rule_ids or ()]
    return [rule for rule in found if rule is not None]


async def _by_trust(
    reader: Reader, user_id: str, scope: Scope, place: tuple[Project | None, Project | None], trust: Trust
) -> tuple[Standing, Within]:
    if user_id != trust.trustee_user_id:
        raise Forbidden
    if trust.project_id is None or scope != ProjectScope(trust.project_id):
        raise Lacking(f"Could not find project: {trust.project_id}.")
    project, domain = place
    trustor, trustor_home = await present(reader, trust.trustor_user_id)
    trustee, trustee_home = await present(reader, user_id)
    for user in (trustee, trustor):
        if not user.enabled:
            raise Forbidden
    roles = await global_roles(reader, await _handed_on(reader, trust, scope))
    if not roles:
        raise Forbidden
    found = Standing(user=trustee, home=trustee_home, project=project, domain=domain, roles=tuple(roles))
    return found, Within(
        shown={"OS-TRUST:trust": _trust_shown(trust)},
        trustor_id=trustor.id,
        trustee_id=trustee.id,
        acting=trustor if trust.impersonation else None,
        home=trustor_home if trust.impersonation else None,
        until=trust.expires_at,
    )


async def _handed_on(reader: Reader, trust: Trust, scope: Scope) -> set[str]:
    """The ids of the roles of a trust and all that follow from them.

    Raises Forbidden unless the trustor has every one of them now, and so has the first in the chain.
    """
    wanted = await implied(reader, trust.role_ids)
    first = (await pedigree(reader, trust.id))[-1]
    for trustor_id in dict.fromkeys((trust.trustor_user_id, first.trustor_user_id)):
        if not wanted <= await held(reader, trustor_id, scope):
            raise Forbidden
    return wanted


def _trust_shown(trust: Trust) -> dict[str, Any]:
    return {
        "id": trust.id,
        "trustor_user": {"id": trust.trustor_user_id},
        "trustee_user": {"id": trust.trustee_user_id},
        "impersonation": trust.impersonation,
    }


async def _by_credential(reader: Reader, user_id: str, scope: Scope, key: str) -> tuple[Standing, Within]:
    credential = await reader.get(ApplicationCredential, key)
    if credential is None or credential.user_id != user_id or scope != ProjectScope(credential.project_id):
        raise Lacking(f"Could not find Application Credential: {key}.")
    found = await standing(reader, user_id, scope)
    roles = tuple(role for role in found.roles if role.id in credential.role_ids)
    if not roles:
        raise Lacking(f"User {user_id} has no access to project {credential.project_id}")
    rules = await rules_of(reader, credential)
    shown = {"id": credential.id, "name": credential.name, "restricted": not credential.unrestricted}
    if credential.access_rule_ids:
        shown["access_rules"] = [rule_shown(rule) for rule in rules]
    return msgspec.structs.replace(found, roles=roles), Within(
        shown={"application_credential": shown},
        allowed=_allowed(rules) if credential.access_rule_ids else None,
    )


def rule_shown(rule: AccessRule) -> dict[str, Any]:
    """An access rule as its owner and services see it."""
    return {"id": rule.id, "service": rule.service, "path": rule.path, "method": rule.method}


def _allowed(rules: Sequence[AccessRule]) -> tuple[Allowed, ...]:
    return tuple(Allowed(rule.service, rule.path, rule.method) for rule in rules)
