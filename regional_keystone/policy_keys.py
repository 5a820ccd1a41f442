"""What rules may ask of a request: the keys of a policy target, where each comes from, and which a rule asks for.

What the client says stands below names of its own, `request_body` and `filter_attr`, so that it replaces no fact.
Source: keystone/common/rbac_enforcer/enforcer.py (enforce_call), the filters of each list in keystone/api.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from oslo_policy import policy

ACTION: Final = "identity:"
BODY: Final = "request_body"
FILTER: Final = "filter_attr"
Checks = Mapping[str, Any]
"""Rules by name, as oslo.policy has parsed them."""

_ROLE_ASSIGNMENTS = "group.id role.id scope.domain.id scope.project.id scope.OS-INHERIT:inherited_to user.id"
_FILTERS: Mapping[str, str] = {
    "list_access_rules": "service path method",
    "list_application_credentials": "name",
    "list_credentials": "user_id type",
    "list_domain_roles": "name domain_id",
    "list_domains": "name enabled",
    "list_endpoints": "interface service_id region_id",
    "list_groups": "domain_id name",
    "list_groups_for_user": "name",
    "list_identity_providers": "id enabled",
    "list_limits": "service_id region_id resource_name project_id domain_id",
    "list_projects": "domain_id enabled name parent_id is_domain",
    "list_regions": "parent_region_id",
    "list_registered_limits": "service_id region_id resource_name",
    "list_role_assignments": f"{_ROLE_ASSIGNMENTS} scope.system",
    "list_role_assignments_for_tree": _ROLE_ASSIGNMENTS,
    "list_roles": "name domain_id",
    "list_service_providers": "id enabled",
    "list_services": "type name",
    "list_user_projects": "domain_id enabled name",
    "list_users": "domain_id enabled idp_id name protocol_id unique_id password_expires_at",
    "list_users_in_group": "domain_id enabled name password_expires_at",
}
FILTERS: Mapping[str, tuple[str, ...]] = {ACTION + name: tuple(said.split()) for name, said in _FILTERS.items()}
"""Action of a list -> the query keys that its rule may ask for, as `filter_attr.name`."""


class Said(Protocol):
    """What a request says, beside where it goes."""

    @property
    def body(self) -> Any:
        """The JSON object that was sent; empty for none."""

    def query(self, name: str) -> str | None:
        """The value of a query key that counts, None when absent."""


def leaves(check: Any) -> Iterator[Any]:
    """The single conditions of a rule."""
    if isinstance(check, policy.AndCheck | policy.OrCheck):
        for part in check.rules:
            yield from leaves(part)
    elif isinstance(check, policy.NotCheck):
        yield from leaves(check.rule)
    else:
        yield check


def references(check: Any) -> set[str]:
    """The rules that a rule refers to."""
    return {leaf.match for leaf in leaves(check) if isinstance(leaf, policy.RuleCheck)}


def reachable(name: str, whole: Checks) -> set[str]:
    """The rules that a rule refers to, and those that these refer to."""
    found: set[str] = set()
    waiting = references(whole[name])
    while waiting:
        other = waiting.pop()
        if other not in found and other in whole:
            found.add(other)
            waiting |= references(whole[other])
    return found


def keys(leaf: Any) -> list[str]:
    """What one condition asks of a target, in its order: x of `user_id:%(x)s`."""
    if isinstance(leaf, policy.RuleCheck) or not hasattr(leaf, "match"):
        return []
    asked = _Asked()
    try:
        leaf.match % asked
    except (TypeError, ValueError):
        return []
    return list(asked)


def asked(name: str, whole: Checks) -> frozenset[str]:
    """All that a rule asks of a target, by the rules that it refers to as well."""
    every = [leaf for one in (name, *reachable(name, whole)) for leaf in leaves(whole[one])]
    sent = {BODY, FILTER} if any(_sends_all(leaf) for leaf in every) else set[str]()
    return frozenset(key for leaf in every for key in keys(leaf)) | sent


def said(action: str, wanted: frozenset[str], said: Said) -> dict[str, Any]:
    """The families that are wanted of what this request says, nested."""
    found: dict[str, Any] = {}
    if BODY in wanted:
        found[BODY] = said.body
    if FILTER in wanted:
        given = ((name, said.query(name)) for name in FILTERS.get(action, ()))
        found[FILTER] = {name: value for name, value in given if value is not None}
    return found


class _Asked(dict[str, str]):
    """A target that has whatever is asked for, and remembers it."""

    def __missing__(self, key: str) -> str:
        self[key] = key
        return key


def _sends_all(leaf: Any) -> bool:
    """Whether it hands the whole target to somebody else, as `http:` does."""
    return isinstance(leaf, policy.Check) and type(leaf).__name__ not in {"RuleCheck", "RoleCheck", "GenericCheck"}
