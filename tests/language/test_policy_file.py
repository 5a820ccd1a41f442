"""A file of rules is read as the server reads it: what cannot be meant is named, what is legal is told apart."""

import json
import re
from pathlib import Path

import pytest
from oslo_policy import policy

from regional_keystone import policy_file, policy_keys
from regional_keystone.operations import OPERATIONS
from regional_keystone.policy import Policy, checks, credentials, defaults
from regional_keystone.token import Named, Principal, Token, Unscoped

KNOWN = checks(defaults())
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "upstream" / "policies.json").read_text())["rules"]


def read(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return policy_file.read(str(path), KNOWN)


def test_everything_wrong_is_named_at_once_with_its_line_and_what_was_perhaps_meant(tmp_path):
    found = read(
        tmp_path,
        "# identity:list_user: no\n"
        '"identity:list_user": "role:admin"\n'
        "'identity:get_user': 'rule:admin_requird'\n"
        'identity:get_group: "role:admin or junk"\n'
        "identity:get_role:\n"
        '"a": "rule:b"\n'
        '"b": "not rule:a"\n',
    )
    assert [tuple(one) for one in found.problems] == [
        ("identity:list_user", 2, "there is no action identity:list_user; did you mean identity:list_users?"),
        ("identity:get_group", 4, "the rule of identity:get_group cannot be understood: role:admin or junk"),
        ("identity:get_role", 5, "the rule of identity:get_role is no text; write '@' for everybody, '!' for nobody"),
        (
            "identity:get_user",
            3,
            "identity:get_user refers to rule:admin_requird, which does not exist; did you mean admin_required?",
        ),
        ("a", 6, "a refers to itself"),
        ("b", 7, "b refers to itself"),
    ]
    with pytest.raises(ValueError, match=r"identity:list_users\?.*junk.*'@' for everybody.*admin_required\?.*itself"):
        Policy(str(tmp_path / "policy.yaml"))


@pytest.mark.parametrize(
    "rule",
    [
        "5",
        "{a: b}",
        "[5]",
        "null",
        "1.5",
        "role:admin and",
        "(role:admin",
        "role",
        "role:100%",
        "user_id:%(x",
        "user_id:%(x)d",
        "if:x",
        "1a:x",
    ],
)
def test_what_is_no_rule_lets_nobody_in_and_starts_nothing(tmp_path, rule):
    assert [one.name for one in read(tmp_path, f"identity:get_user: {rule}").problems] == ["identity:get_user"]
    with pytest.raises(ValueError, match="identity:get_user"):
        Policy(str(tmp_path / "policy.yaml"))


@pytest.mark.parametrize(
    "rule", ["'!'", "'@'", "''", "role:admin or !", "[['role:admin', 'role:x'], ['role:y']]", "[]"]
)
def test_upstreams_forms_are_rules(tmp_path, rule):
    assert read(tmp_path, f"identity:get_user: {rule}").problems == []
    Policy(str(tmp_path / "policy.yaml"))


def test_no_likeness_is_no_hint(tmp_path):
    (problem,) = read(tmp_path, "identity:zzzzzz: '@'").problems
    assert problem.what == "there is no action identity:zzzzzz"


@pytest.mark.parametrize(
    ("action", "rule", "effect", "unbound"),
    [
        ("create_region", "rule:admin_required", "same", ()),
        ("list_services", "(role:reader and system_scope:all) or rule:admin_required", "same", ()),
        ("list_services", "rule:admin_required", "tightens", ()),
        ("list_services", "!", "tightens", ()),
        ("create_region", "rule:admin_required and system_scope:all", "tightens", ()),
        ("get_region", "role:reader", "tightens", ()),
        ("get_region", "", "same", ()),
        ("list_services", "@", "loosens", ("@",)),
        ("create_region", "rule:admin_required or role:operator", "loosens", ()),
        (
            "list_services",
            "rule:admin_required or (role:reader and system_scope:all) or role:auditor",
            "loosens",
            ("role:auditor",),
        ),
        ("get_user", "role:auditor or user_id:%(target.user.id)s", "differs", ("role:auditor",)),
        ("get_user", "role:auditor and system_scope:all", "differs", ()),
        ("create_application_credential", "@", "loosens", ("@",)),
    ],
)
def test_what_a_rule_changes_is_told(tmp_path, action, rule, effect, unbound):
    (found,) = read(tmp_path, f'"identity:{action}": "{rule}"').overrides
    assert (found.name, found.line, found.effect, found.unbound) == (f"identity:{action}", 1, effect, unbound)


def test_what_is_legal_and_perhaps_not_meant_is_noted(tmp_path):
    found = read(
        tmp_path,
        '"get_user": "@"\n"admin_requird": "role:x"\n"used": "role:y"\n'
        '"identity:get_user": "rule:used"\n"identity:get_user": "rule:used or !"\n',
    )
    assert found.problems == []
    assert [tuple(one) for one in found.notes] == [
        ("get_user", 1, "no action asks for get_user; did you mean identity:get_user?"),
        ("admin_requird", 2, "no action asks for admin_requird; did you mean admin_required?"),
        ("identity:get_user", 5, "identity:get_user stands in lines 4, 5; only the last one counts"),
    ]
    assert [one.effect for one in found.overrides if one.name == "used"] == ["new"]


def test_what_no_caller_has_is_noted_and_what_one_has_is_not(tmp_path):
    found = read(
        tmp_path,
        "identity:get_user: rol:admin or trust_id:%(user_id)s\n"
        "identity:get_group: \"'member':%(target.role.name)s or None:%(group_id)s or token.domain.id:%(domain_id)s or"
        ' role:x"\n',
    )
    assert found.problems == []
    assert [one.what for one in found.notes] == [
        "identity:get_user: nobody has rol, rol:admin never holds; did you mean role?",
        "identity:get_user: nobody has trust_id, trust_id:%(user_id)s never holds; did you mean user_id?",
    ]
    token = Token(user_id="u", methods=(), scope=Unscoped(), expires_at=0, issued_at=0, audit_ids=("a" * 22,))
    assert credentials(Principal(token=token, user=Named("u", "u", "d", "d"))).keys() == policy_file.CALLER


@pytest.mark.parametrize(
    ("action", "key", "meant"),
    [
        ("get_user", "target.usr.id", "target.user.id"),
        ("get_user", "target.user.domaim_id", "target.user.domain_id"),
        ("get_user", "target.user.password_hash", None),
        ("get_user", "user.domain_id", "target.user.domain_id"),
        ("get_user", "usr_id", "user_id"),
        ("get_user", "zzzzzz", None),
        ("get_user", "target", None),
        ("create_user", "request_bdy.x", "request_body.x"),
        ("create_user", "request_body", None),
        ("list_users", "filter.name", "filter_attr.name"),
        ("list_users", "filter_attr.nme", "filter_attr.name"),
        ("list_policies", "filter_attr.type", None),  # upstream gives none there
        ("list_endpoint_groups", "filter_attr.name", None),
        ("get_domain", "target.token.user_id", None),
        ("validate_token", "target.token.user.domaim.id", "target.token.user.domain.id"),
        ("get_limit", "target.limit.colour", None),
    ],
)
def test_a_key_that_no_request_gives_is_noted_with_the_nearest_that_one_does(tmp_path, action, key, meant):
    found = read(tmp_path, f'# first\n"identity:{action}": "role:x or user_id:%({key})s"\n')
    assert (found.problems, found.overrides[0].unsupplied) == ([], ((key, meant),))
    hint = f"; did you mean {meant}?" if meant else ""
    said = f"identity:{action}: no request gives {key}, user_id:%({key})s never holds{hint}"
    assert [tuple(one) for one in found.notes] == [(f"identity:{action}", 2, said)]
    Policy(str(tmp_path / "policy.yaml"))  # upstream starts on it, and so does this


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("get_user", "user_id"),
        ("get_user", "target.user.domain_id"),
        ("get_user", "target.user.department"),  # an attribute of somebody's own
        ("create_user", "request_body.user.name"),
        ("list_users", "filter_attr.domain_id"),
        ("list_role_assignments", "filter_attr.scope.OS-INHERIT:inherited_to"),
        ("revoke_token", "target.token.user.domain.id"),
        ("get_limit", "target.limit.project.domain_id"),
        ("list_implied_roles", "target.prior_role.id"),
    ],
)
def test_what_a_request_may_give_is_not_noted(tmp_path, action, key):
    for name in (f"identity:{action}", "mine"):
        rules = f'"{name}": "user_id:%({key})s"\n"identity:get_role": "rule:mine"\n"mine": "@"\n'
        assert not [one for one in read(tmp_path, rules).overrides if one.unsupplied]


def test_every_argument_of_a_path_and_every_default_is_known():
    paths = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())["paths"]
    named = {one for path in paths for one in re.findall(r"\{(\w+)\}", path)}
    asked = {key for check in KNOWN.values() for leaf in policy_keys.leaves(check) for key in policy_keys.keys(leaf)}
    rule = " or ".join(f"user_id:%({key})s" for key in sorted(named | asked))
    found = policy_keys.leaves(policy.RuleDefault("mine", rule).check)
    assert [one for leaf in found for one in policy_keys.unsupplied("mine", leaf)] == []


def test_the_requests_of_the_actions_are_upstreams():
    def methods(operation):
        said = operation["method"]
        return said if isinstance(said, list) else [said]

    recorded = {
        rule["name"].removeprefix("identity:"): {
            (one, op["path"].strip()) for op in rule["operations"] for one in methods(op)
        }
        for rule in GOLDEN
        if rule["operations"]
    }
    ours = {
        action: {(method, path) for said, path in operations for method in said.split(",")}
        for action, operations in OPERATIONS.items()
    }
    assert ours == recorded
