"""The default rules are Keystone 30's; an override file is taken as it is meant or refused at the start."""

import json
from pathlib import Path

import pytest

from regional_keystone.errors import Forbidden
from regional_keystone.policy import Policy, credentials, defaults
from regional_keystone.token import DomainScope, Named, Principal, ProjectScope, SystemScope, Token, Unscoped

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "upstream" / "policies.json").read_text())["rules"]
USER = {"target": {"user": {"id": "other", "domain_id": "d1"}}}


def caller(*roles, scope=None, user="u1", home="d1"):
    scope = scope or ProjectScope("p1")
    token = Token(user_id=user, methods=("password",), scope=scope, expires_at=0, issued_at=0, audit_ids=("a" * 22,))
    return Principal(
        token=token,
        user=Named(user, user, home, home),
        project=Named("p1", "p1", "d1", "d1") if isinstance(scope, ProjectScope) else None,
        domain=Named(scope.domain_id, "d") if isinstance(scope, DomainScope) else None,
        roles=tuple(Named(role, role) for role in roles),
    )


def allows(policy, who, action, target=USER):
    try:
        policy.check(who, f"identity:{action}", target)
    except Forbidden:
        return False
    return True


def test_the_defaults_are_those_of_upstream():
    recorded = {rule["name"]: (rule["check_str"], rule["scope_types"]) for rule in GOLDEN}
    assert {rule.name: (rule.check_str, rule.scope_types) for rule in defaults()} == recorded


def test_a_refusal_names_the_action_in_upstreams_words():
    with pytest.raises(Forbidden) as refusal:
        Policy().check(caller("member"), "identity:get_user", USER)
    assert refusal.value.message == "You are not authorized to perform the requested action: identity:get_user."


@pytest.mark.parametrize(
    ("roles", "scope", "action", "allowed"),
    [
        (("admin",), ProjectScope("p1"), "create_region", True),
        (("admin",), SystemScope(), "create_region", True),
        (("admin",), DomainScope("d1"), "create_region", False),  # the scope is checked, whatever the role
        (("reader",), SystemScope(), "list_services", True),
        (("reader",), ProjectScope("p1"), "list_services", False),
        (("manager",), DomainScope("d1"), "update_user", True),
        (("manager",), DomainScope("d2"), "update_user", False),
        (("member",), DomainScope("d1"), "update_user", False),
        ((), Unscoped(), "get_region", True),
        (("ADMIN",), ProjectScope("p1"), "create_region", True),
    ],
)
def test_roles_and_scopes_decide(roles, scope, action, allowed):
    assert allows(Policy(), caller(*roles, scope=scope), action) is allowed


def test_users_see_themselves_and_nobody_else():
    policy = Policy()
    assert allows(policy, caller(user="u1"), "get_user", {"target": {"user": {"id": "u1", "domain_id": "d1"}}})
    assert not allows(policy, caller(user="u1"), "get_user", USER)


def test_nothing_missing_ever_matches():
    policy = Policy()
    manager = caller("manager", scope=SystemScope())  # its domain is None, and so is that of what acts as a domain
    assert not allows(policy, manager, "update_project", {"target": {"project": {"domain_id": None}}})
    assert not allows(policy, caller("manager"), "update_project", {})


@pytest.mark.parametrize("action", ["identity:nothing", "admin_required", "get_user", ""])
def test_an_unknown_action_is_denied_to_everybody(action):
    with pytest.raises(Forbidden):
        Policy().check(caller("admin"), action, {})


def override(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return str(path)


def test_an_override_replaces_one_rule_and_keeps_its_scope(tmp_path):
    rules = '"cloud_reader": "role:auditor"\n"identity:list_services": "rule:cloud_reader"\n'
    policy = Policy(override(tmp_path, rules))
    assert allows(policy, caller("auditor"), "list_services")
    assert not allows(policy, caller("admin"), "list_services")
    assert not allows(policy, caller("auditor", scope=DomainScope("d1")), "list_services")
    assert allows(policy, caller("admin"), "create_region")


@pytest.mark.parametrize(
    "text",
    [
        '"identity:no_such_action": "role:admin"',
        '"identity:get_user": "rule:no_such_rule"',
        '"identity:get_user": "rule:identity:get_user"',
        '"identity:get_user": "role:admin or or"',
        "- a\n- list",
        "{",
    ],
)
def test_an_override_that_cannot_be_meant_is_refused_at_the_start(tmp_path, text):
    with pytest.raises(ValueError, match="policy file"):
        Policy(override(tmp_path, text))


@pytest.mark.parametrize("rule", ["user_id.x:1", "project_id.x:1", "roles.x:1", "token.methods.x:1"])
def test_a_rule_that_cannot_be_decided_denies(tmp_path, rule):
    policy = Policy(override(tmp_path, f'"identity:get_user": "{rule}"'))
    assert not allows(policy, caller("admin"), "get_user")


def test_an_override_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Policy(str(tmp_path / "none.yaml"))


def test_rules_of_what_is_not_served_yet_are_accepted(tmp_path):
    Policy(override(tmp_path, '"identity:list_trusts": "role:admin"\n"identity:get_user": "!"'))


def test_credentials_say_what_upstreams_context_says():
    found = credentials(caller("admin", scope=DomainScope("d1")))
    assert found["domain_id"] == "d1"
    assert found["project_id"] is None
    assert found["system_scope"] is None
    assert found["roles"] == ["admin"]
    assert found["token"]["domain"] == {"id": "d1", "name": "d"}
    assert found["token"]["user"]["domain"] == {"id": "d1", "name": "d1"}
