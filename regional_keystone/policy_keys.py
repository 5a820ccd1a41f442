"""What rules may ask of a request: the keys of a policy target, where each comes from, and which nothing ever gives.

What the client says stands below names of its own, `request_body` and `filter_attr`, so that it replaces no fact.
Source: keystone/common/rbac_enforcer/enforcer.py (enforce_call), the filters of each list in keystone/api.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from oslo_policy import policy

from regional_keystone import model
from regional_keystone.operations import OPERATIONS
from regional_keystone.record import Record, facts

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

OF_TOKENS: Final = frozenset(ACTION + name for name in ("check_token", "validate_token", "revoke_token"))
TARGETS: Mapping[str, type[Record]] = {
    "consumer": model.Consumer,
    "credential": model.Credential,
    "domain": model.Project,
    "endpoint": model.Endpoint,
    "group": model.Group,
    "limit": model.Limit,
    "policy": model.PolicyDocument,
    "project": model.Project,
    "region": model.Region,
    "role": model.Role,
    "service": model.Service,
    "trust": model.Trust,
    "user": model.User,
}
"""The stored records that stand below `target.`, by their names there."""

_TOKEN = frozenset(("target.token.user_id", "target.token.user.domain.id"))
_OTHERS = ("id", "domain_id", "user_id", "prior_role.id", "implied_role.id")
_LIKE = 0.8  # how near a name must be to be a slip, where it could be an attribute of somebody's own


class Said(Protocol):
    """What a request says, beside where it goes."""

    @property
    def body(self) -> Any:
        """The JSON object that was sent; empty for none."""

    def query(self, name: str) -> str | None:
        """The value of a query key that counts, None when absent."""


class Unsupplied(NamedTuple):
    """A key that a rule asks for and no request gives; `meant` is the nearest that one does, if any is like it."""

    key: str
    meant: str | None


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


def unsupplied(name: str, leaf: Any) -> Iterator[Unsupplied]:
    """What this condition of the rule of this name asks for and no request gives."""
    for key in keys(leaf):
        if not _is_supplied(name, key):
            yield Unsupplied(key, _nearest(name, key))


class _Asked(dict[str, str]):
    """A target that has whatever is asked for, and remembers it."""

    def __missing__(self, key: str) -> str:
        self[key] = key
        return key


def _sends_all(leaf: Any) -> bool:
    """Whether it hands the whole target to somebody else, as `http:` does."""
    return isinstance(leaf, policy.Check) and type(leaf).__name__ not in {"RuleCheck", "RoleCheck", "GenericCheck"}


def _is_supplied(name: str, key: str) -> bool:
    family, dot, rest = key.partition(".")
    if not dot:
        return key in _PATHS
    if family == BODY:
        return bool(rest)
    if family == FILTER:
        return rest in _filters(name)
    return family == "target" and (key in _facts(name) or _may_be_own(rest))


def _filters(name: str) -> tuple[str, ...]:
    """What the list that an action is may be asked for; a rule of another name may be asked for by any list."""
    if name.startswith(ACTION):
        return FILTERS.get(name, ())
    return tuple(dict.fromkeys(one for names in FILTERS.values() for one in names))


def _facts(name: str) -> frozenset[str]:
    """The keys of stored facts; those of a token are there only where one is asked about."""
    return _FACTS | _TOKEN if name in OF_TOKENS or not name.startswith(ACTION) else _FACTS


def _may_be_own(rest: str) -> bool:
    """Whether it may be an attribute that somebody gave a record, and is no slip of one that all have."""
    word, _, field = rest.partition(".")
    kind = TARGETS.get(word)
    if kind is None or not field or field in facts(kind).fields or "extra" not in facts(kind).fields:
        return False
    return not difflib.get_close_matches(field, _visible(kind), 1, _LIKE)


def _visible(kind: type[Record]) -> list[str]:
    """The fields of a record that are no secret and not the server's alone."""
    known = facts(kind).fields.items()
    hidden = {name for name, field in known if "secret" in field.marks or ("server" in field.marks and name != "id")}
    return [name for name, _ in known if name not in hidden and name != "extra"]


def _nearest(name: str, key: str) -> str | None:
    family, _, rest = key.partition(".")
    word, _, field = rest.partition(".")
    if key in _TOKEN or key in {BODY, FILTER, "target"}:  # no slip, but asked where there is none
        return None
    if family == FILTER:
        return _alike(rest, _filters(name), f"{FILTER}.")
    if family == "target" and field and word in TARGETS:
        return _alike(field, _visible(TARGETS[word]), f"target.{word}.")
    filters = [f"{FILTER}.{one}" for one in _filters(name)]
    return _alike(key, [*_PATHS, *_facts(name), *filters, *([f"{BODY}.{rest}"] if rest else ())])


def _alike(said: str, names: Iterable[str], before: str = "") -> str | None:
    found = difflib.get_close_matches(said, sorted(names), 1)
    return before + found[0] if found else None


def _known() -> Iterator[str]:
    yield from (f"target.{one}" for one in _OTHERS)
    for word, kind in TARGETS.items():
        yield from (f"target.{word}.{field}" for field in _visible(kind))
    for word in ("project", "domain"):
        yield from (f"target.limit.{word}.{field}" for field in _visible(model.Project))


_FACTS = frozenset(_known())
_PATHS = frozenset(
    argument for requests in OPERATIONS.values() for _, path in requests for argument in re.findall(r"\{(\w+)\}", path)
)
