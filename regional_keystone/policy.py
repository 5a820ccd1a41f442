"""Who may do what: upstream's action names and default rules, decided by oslo.policy, overridable by a file.

Separate from `api`, which only says what is about to be done to what. Rules are parsed once, at the start.
Source: keystone/common/policies, keystone/common/rbac_enforcer/enforcer.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from regional_keystone.errors import Forbidden
from regional_keystone.token import DomainScope, Named, Principal

_BASE = {
    "admin_required": "role:admin or is_admin:1",
    "service_role": "role:service",
    "service_or_admin": "rule:admin_required or rule:service_role",
    "owner": "user_id:%(user_id)s",
    "admin_or_owner": "rule:admin_required or rule:owner",
    "token_subject": "user_id:%(target.token.user_id)s",
    "admin_or_token_subject": "rule:admin_required or rule:token_subject",
    "service_admin_or_token_subject": "rule:service_or_admin or rule:token_subject",
    "domain_managed_target_role": "'manager':%(target.role.name)s or 'member':%(target.role.name)s "
    "or 'reader':%(target.role.name)s",
}
_ALL, _SOME = ("system", "domain", "project"), ("system", "project")
_TABLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("rule:admin_or_owner", _ALL, "revoke_tokens_for_user"),
    ("rule:service_or_admin", _SOME, "list_revoke_events"),
    ("", (), "get_auth_catalog get_auth_projects get_auth_domains get_auth_system"),
    (
        (
            "rule:admin_required or (role:reader and system_scope:all) or token.domain.id:%(target.domain.id)s or"
            " token.project.domain.id:%(target.domain.id)s"
        ),
        _ALL,
        "get_domain",
    ),
    (
        (
            "rule:admin_required or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.domain.id)s)"
        ),
        _ALL,
        "list_domains",
    ),
    (
        "rule:admin_required",
        _SOME,
        (
            "create_domain update_domain delete_domain create_endpoint update_endpoint delete_endpoint "
            "create_system_grant_for_user revoke_system_grant_for_user create_system_grant_for_group "
            "revoke_system_grant_for_group create_implied_role delete_implied_role create_region update_region "
            "delete_region create_role update_role delete_role create_domain_role update_domain_role "
            "delete_domain_role create_service update_service delete_service"
        ),
    ),
    (
        "rule:admin_required or (role:reader and system_scope:all)",
        _SOME,
        (
            "get_endpoint list_endpoints list_system_grants_for_user check_system_grant_for_user "
            "list_system_grants_for_group check_system_grant_for_group get_implied_role list_implied_roles "
            "list_role_inference_rules check_implied_role get_domain_role list_domain_roles get_service "
            "list_services"
        ),
    ),
    (
        (
            "(rule:admin_required) or ((role:reader and system_scope:all) or ((role:reader and "
            "domain_id:%(target.user.domain_id)s and domain_id:%(target.project.domain_id)s) or (role:reader and "
            "domain_id:%(target.user.domain_id)s and domain_id:%(target.domain.id)s) or (role:reader and "
            "domain_id:%(target.group.domain_id)s and domain_id:%(target.project.domain_id)s) or (role:reader and"
            " domain_id:%(target.group.domain_id)s and domain_id:%(target.domain.id)s)) and "
            "(domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s))"
        ),
        _ALL,
        "check_grant",
    ),
    (
        (
            "(rule:admin_required) or ((role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.user.domain_id)s and domain_id:%(target.project.domain_id)s) or (role:reader and "
            "domain_id:%(target.user.domain_id)s and domain_id:%(target.domain.id)s) or (role:reader and "
            "domain_id:%(target.group.domain_id)s and domain_id:%(target.project.domain_id)s) or (role:reader and"
            " domain_id:%(target.group.domain_id)s and domain_id:%(target.domain.id)s))"
        ),
        _ALL,
        "list_grants",
    ),
    (
        (
            "(rule:admin_required) or ((role:admin and domain_id:%(target.user.domain_id)s and "
            "domain_id:%(target.project.domain_id)s) or (role:admin and domain_id:%(target.user.domain_id)s and "
            "domain_id:%(target.domain.id)s) or (role:admin and domain_id:%(target.group.domain_id)s and "
            "domain_id:%(target.project.domain_id)s) or (role:admin and domain_id:%(target.group.domain_id)s and "
            "domain_id:%(target.domain.id)s)) and (domain_id:%(target.role.domain_id)s or "
            "None:%(target.role.domain_id)s) or ((role:manager and domain_id:%(target.user.domain_id)s and "
            "domain_id:%(target.project.domain_id)s) or (role:manager and domain_id:%(target.user.domain_id)s and"
            " domain_id:%(target.domain.id)s) or (role:manager and domain_id:%(target.group.domain_id)s and "
            "domain_id:%(target.project.domain_id)s) or (role:manager and domain_id:%(target.group.domain_id)s "
            "and domain_id:%(target.domain.id)s)) and rule:domain_managed_target_role"
        ),
        _ALL,
        "create_grant revoke_grant",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.group.domain_id)s)"
        ),
        _ALL,
        "get_group list_groups list_users_in_group",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.user.domain_id)s) or user_id:%(user_id)s"
        ),
        _ALL,
        "list_groups_for_user",
    ),
    (
        "(rule:admin_required) or (role:manager and domain_id:%(target.group.domain_id)s)",
        _ALL,
        "create_group update_group delete_group",
    ),
    (
        (
            "(rule:admin_required) or (role:manager and domain_id:%(target.group.domain_id)s and "
            "domain_id:%(target.user.domain_id)s)"
        ),
        _ALL,
        "remove_user_from_group add_user_to_group",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)"
        ),
        _ALL,
        "check_user_in_group",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s) or "
            "project_id:%(target.project.id)s"
        ),
        _ALL,
        "get_project list_project_tags get_project_tag",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.domain_id)s)"
        ),
        _ALL,
        "list_projects list_users",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.user.domain_id)s) or user_id:%(target.user.id)s"
        ),
        _ALL,
        "list_user_projects",
    ),
    (
        (
            "(rule:admin_required) or (role:manager and domain_id:%(target.project.domain_id)s and not "
            "None:%(target.project.domain_id)s)"
        ),
        _ALL,
        (
            "create_project update_project delete_project update_project_tags create_project_tag "
            "delete_project_tags delete_project_tag"
        ),
    ),
    ("", _ALL, "get_region list_regions"),
    (
        (
            "(rule:admin_required or (role:reader and system_scope:all)) or (role:manager and "
            "rule:domain_managed_target_role)"
        ),
        _ALL,
        "get_role",
    ),
    (
        "(rule:admin_required or (role:reader and system_scope:all)) or (role:manager and not domain_id:None)",
        _ALL,
        "list_roles",
    ),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.domain_id)s and not None:%(target.domain_id)s)"
        ),
        _ALL,
        "list_role_assignments list_role_assignments_for_tree",
    ),
    ("rule:admin_required or (role:reader and system_scope:all) or rule:token_subject", _ALL, "check_token"),
    (
        "rule:admin_required or (role:reader and system_scope:all) or rule:service_role or rule:token_subject",
        _ALL,
        "validate_token",
    ),
    ("rule:admin_required or rule:token_subject", _ALL, "revoke_token"),
    (
        (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "token.domain.id:%(target.user.domain_id)s) or user_id:%(target.user.id)s"
        ),
        _ALL,
        "get_user",
    ),
    (
        "(rule:admin_required) or (role:manager and token.domain.id:%(target.user.domain_id)s)",
        _ALL,
        "create_user update_user delete_user",
    ),
)
_NOT_YET_SERVED = (
    "get_access_rule list_access_rules delete_access_rule authorize_request_token get_access_token "
    "get_access_token_role list_access_tokens list_access_token_roles delete_access_token "
    "get_application_credential list_application_credentials create_application_credential "
    "delete_application_credential get_consumer list_consumers create_consumer update_consumer "
    "delete_consumer get_credential list_credentials create_credential update_credential "
    "delete_credential create_domain_config get_domain_config get_security_compliance_domain_config "
    "update_domain_config delete_domain_config get_domain_config_default ec2_get_credential "
    "ec2_list_credentials ec2_create_credential ec2_delete_credential create_endpoint_group "
    "list_endpoint_groups get_endpoint_group update_endpoint_group delete_endpoint_group "
    "list_projects_associated_with_endpoint_group list_endpoints_associated_with_endpoint_group "
    "get_endpoint_group_in_project list_endpoint_groups_for_project add_endpoint_group_to_project "
    "remove_endpoint_group_from_project create_identity_provider list_identity_providers "
    "get_identity_provider update_identity_provider delete_identity_provider get_limit_model get_limit "
    "list_limits create_limits update_limit delete_limit create_mapping get_mapping list_mappings "
    "delete_mapping update_mapping get_policy list_policies create_policy update_policy delete_policy "
    "create_policy_association_for_endpoint check_policy_association_for_endpoint "
    "delete_policy_association_for_endpoint create_policy_association_for_service "
    "check_policy_association_for_service delete_policy_association_for_service "
    "create_policy_association_for_region_and_service check_policy_association_for_region_and_service "
    "delete_policy_association_for_region_and_service get_policy_for_endpoint list_endpoints_for_policy "
    "list_projects_for_endpoint add_endpoint_to_project check_endpoint_in_project "
    "list_endpoints_for_project remove_endpoint_from_project create_protocol update_protocol get_protocol"
    " list_protocols delete_protocol get_registered_limit list_registered_limits create_registered_limits"
    " update_registered_limit delete_registered_limit s3tokens_validate "
    "ec2tokens_validate create_service_provider list_service_providers get_service_provider "
    "update_service_provider delete_service_provider revocation_list create_trust list_trusts "
    "list_trusts_for_trustor list_trusts_for_trustee list_roles_for_trust get_role_for_trust delete_trust"
    " get_trust list_projects_for_user list_domains_for_user"
)
NOT_YET_SERVED = frozenset(_NOT_YET_SERVED.split())


def defaults() -> list[policy.RuleDefault]:
    """The rules of everything that is served, and those that they and override files may refer to."""
    base = [policy.RuleDefault(name, check) for name, check in _BASE.items()]
    actions = [
        policy.DocumentedRuleDefault(
            name=f"identity:{action}",
            check_str=check,
            scope_types=list(scopes) or None,
            description=action,
            operations=[{"path": "/v3", "method": "GET"}],
        )
        for check, scopes, named in _TABLE
        for action in named.split()
    ]
    return [*base, *actions]


class Policy:
    """Decides by the default rules, or by those of an override file where it has them; an unknown action is denied.

    Raises ValueError for an override file that cannot be meant: unreadable, an action or a rule that does not exist,
    a rule that refers to itself.
    """

    def __init__(self, path: str | None = None) -> None:
        self._enforcer = _enforcer()
        rules = {default.name: default.check for default in self._enforcer.registered_rules.values()}
        if path is not None:
            rules |= _overrides(path, rules)
        self._enforcer.set_rules(rules, overwrite=True, use_conf=False)
        try:
            self._enforcer.check_rules(raise_on_violation=True)
        except policy.InvalidDefinitionError as error:
            raise ValueError(f"policy file {path}: {error}") from None

    def check(self, principal: Principal, action: str, target: Mapping[str, Any]) -> None:
        """Return if this caller may do this; `target` is nested as upstream's. Raises Forbidden, naming the action."""
        if not action.startswith("identity:") or action not in self._enforcer.registered_rules:
            raise Forbidden("Internal RBAC enforcement error, invalid rule (action) name.")
        if not self._enforcer.enforce(action, _flat(target), credentials(principal)):
            raise Forbidden(f"You are not authorized to perform the requested action: {action}.")


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
    enforcer.register_defaults(defaults())
    return enforcer


def _overrides(path: str, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = dict(policy.parse_file_contents(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"policy file {path} cannot be read: {error}") from None
    rules: dict[str, Any] = {}
    for name, text in found.items():
        if name.startswith("identity:") and name not in known and name[9:] not in NOT_YET_SERVED:
            raise ValueError(f"policy file {path}: there is no action {name}")
        rules[name] = policy.RuleDefault(name, text).check
        if str(rules[name]) == "!" and str(text).strip() != "!":
            raise ValueError(f"policy file {path}: the rule of {name} cannot be understood: {text}")
    return rules
