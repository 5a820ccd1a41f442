"""Who may do what: upstream's action names and default rules, decided by oslo.policy, overridable by a file.

Separate from `api`, which only says what is about to be done to what. Rules are parsed once, at the start.
Source: keystone/common/policies, keystone/common/rbac_enforcer/enforcer.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from oslo_config import cfg
from oslo_policy import policy

from regional_keystone import policy_file, policy_keys
from regional_keystone.errors import Forbidden, not_allowed
from regional_keystone.policies import ACTIONS, BASE
from regional_keystone.policy_keys import ACTION, BODY, FILTER, Said
from regional_keystone.token import DomainScope, Named, Principal

log = structlog.get_logger("policy")
_FORESEEABLE = frozenset(("target.token.user_id",))


def defaults() -> list[policy.RuleDefault]:
    """The rules of all actions, and those that they and override files may refer to."""
    base = [policy.RuleDefault(name, check) for name, check in BASE.items()]
    actions = [
        policy.DocumentedRuleDefault(
            name=f"{ACTION}{action}",
            check_str=check,
            scope_types=list(scopes) or None,
            description=action,
            operations=[{"path": "/v3", "method": "GET"}],
        )
        for check, scopes, named in ACTIONS
        for action in named.split()
    ]
    return [*base, *actions]


def checks(rules: Iterable[policy.RuleDefault]) -> dict[str, Any]:
    """Rules by name, as they are asked."""
    return {rule.name: rule.check for rule in rules}


class Policy:
    """Decides by the default rules, or by those of an override file where it has them; an unknown action is denied.

    Raises ValueError for an override file that cannot be meant: unreadable, an action or a rule that does not exist,
    a rule that refers to itself.
    """

    def __init__(self, path: str | None = None) -> None:
        self._enforcer = _enforcer()
        rules = checks(self._enforcer.registered_rules.values())
        if path is not None:
            reading = policy_file.read(path, rules)
            if reading.problems:
                raise ValueError(f"policy file {path}: {'; '.join(one.what for one in reading.problems)}")
            rules |= reading.rules
        self._enforcer.set_rules(rules, overwrite=True, use_conf=False)
        try:
            self._enforcer.check_rules(raise_on_violation=True)
        except policy.InvalidDefinitionError as error:
            raise ValueError(f"policy file {path}: {error}") from None
        asked = {name: policy_keys.asked(name, rules) for name in self._enforcer.registered_rules}
        families = {name: frozenset(key.partition(".")[0] for key in keys) for name, keys in asked.items()}
        self._said = {name: found for name in families if (found := families[name] & {BODY, FILTER})}
        self._foreseen = frozenset(name for name, keys in asked.items() if keys <= _FORESEEABLE)

    def check(self, principal: Principal, action: str, target: Mapping[str, Any], said: Said | None = None) -> None:
        """Return if this caller may do this; `target` is nested as upstream's. Raises Forbidden, naming the action.

        `said`: the request, of which nothing is read unless the rule asks for it, and nothing replaces what is known.
        """
        if not action.startswith(ACTION) or action not in self._enforcer.registered_rules:
            raise Forbidden("Internal RBAC enforcement error, invalid rule (action) name.")
        if said is not None and (wanted := self._said.get(action)):
            target = {**policy_keys.said(action, wanted, said), **target}
        try:
            allowed = self._enforcer.enforce(action, _flat(target), credentials(principal))
        except (TypeError, ValueError, SyntaxError) as error:  # a rule that looks for something within a text, say
            log.error("rule_not_decidable", action=action, why=str(error))
            allowed = False
        if not allowed:
            raise not_allowed(action)

    def foresees(self, action: str) -> bool:
        """Whether caller and user decide about a token alone, so that the answer holds for every request."""
        return action in self._foreseen


def credentials(principal: Principal) -> dict[str, Any]:
    """The caller as rules see it: upstream's request context, with the token's body under `token`."""
    project, domain = principal.project, principal.domain
    roles = [role.name for role in principal.roles]
    return {
        "user_id": principal.user_id,
        "user_domain_id": principal.user.domain_id,
        "system_scope": "all" if principal.is_system else None,
        "domain_id": domain.id if domain else None,
        "project_id": project.id if project else None,
        "project_domain_id": project.domain_id if project else None,
        "roles": roles,
        "is_admin_project": not isinstance(principal.token.scope, DomainScope),
        "token": _token(principal),
    }


def _token(principal: Principal) -> dict[str, Any]:
    shown = {"user": principal.user, "project": principal.project, "domain": principal.domain}
    found: dict[str, Any] = {name: _named(value) for name, value in shown.items() if value is not None}
    found["roles"] = [{"id": role.id, "name": role.name} for role in principal.roles]
    found["methods"] = list(principal.token.methods)
    if principal.is_system:
        found["system"] = {"all": True}
    return found


def _named(value: Named) -> dict[str, Any]:
    found: dict[str, Any] = {"id": value.id, "name": value.name}
    if value.domain_id is not None:
        found["domain"] = {"id": value.domain_id, "name": value.domain_name}
    return found


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _enforcer() -> policy.Enforcer:
    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[], default_config_dirs=[])
    enforcer = policy.Enforcer(conf, use_conf=False)
    enforcer.suppress_deprecation_warnings = True
    enforcer.registered_rules.update({rule.name: rule for rule in defaults()})  # its own way copies each: they are ours
    return enforcer
