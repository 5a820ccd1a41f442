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


class Request:
    """A request that says this, and notes what is read of it."""

    def __init__(self, body=None, **query):
        self.read, self._body, self._query = [], body or {}, query

    @property
    def body(self):
        self.read.append("body")
        return self._body

    def query(self, name):
        self.read.append(name)
        return self._query.get(name)


SPOOF = {
    "user_id": "u1",
    "target": {"user": {"id": "u1", "domain_id": "d1"}},
    "target.user.domain_id": "d1",
    "request_body": {"user_id": "u1"},
}


@pytest.mark.parametrize("action", ["get_user", "list_users", "update_user", "create_user", "validate_token"])
def test_a_request_is_not_read_for_rules_that_ask_for_nothing_of_it(action):
    said = Request(SPOOF, user_id="u1", domain_id="d1")
    for who in (caller("admin"), caller("reader")):
        try:
            Policy().check(who, f"identity:{action}", USER, said)
        except Forbidden:
            continue
    assert said.read == []


def decide(tmp_path, rule, said, target=USER, action="list_users"):
    policy = Policy(override(tmp_path, f'"identity:{action}": "{rule}"\n"mine": "user_id:%(request_body.owner)s"'))
    try:
        policy.check(caller(), f"identity:{action}", target, said)
    except Forbidden:
        return False
    return True


def test_rules_ask_for_body_and_filters_below_names_of_their_own(tmp_path):
    assert decide(tmp_path, "user_id:%(request_body.user.id)s", Request({"user": {"id": "u1"}}))
    assert not decide(tmp_path, "user_id:%(request_body.user.id)s", Request({"user": {"id": "u2"}}))
    assert not decide(tmp_path, "user_id:%(request_body.user.id)s", Request())
    assert decide(tmp_path, "rule:mine", Request({"owner": "u1"})), "a rule that is referred to asks as well"
    assert decide(tmp_path, "domain_id:x or not rule:mine", Request({"owner": "u2"}))
    assert decide(tmp_path, "user_id:%(filter_attr.name)s", Request(name="u1"))
    assert not decide(tmp_path, "user_id:%(filter_attr.description)s", Request(description="u1")), "no filter of users"
    assert not decide(tmp_path, "user_id:%(filter_attr.name)s", Request(name="u1"), action="get_user")


@pytest.mark.parametrize("key", ["user_id", "target.user.id", "target.user.domain_id", "target.new", "name"])
def test_nothing_that_a_request_says_stands_where_facts_do(tmp_path, key):
    facts = {"user_id": "other", "target": {"user": {"id": "other", "domain_id": "other"}}}
    asks = "user_id:%(request_body.never)s or user_id:%(filter_attr.never)s"
    said = Request({**SPOOF, "target.new": "u1", "name": "u1"}, name="u1", user_id="u1")
    for value in ("user_id", "user_domain_id"):
        assert not decide(tmp_path, f"{value}:%({key})s or {asks}", said, facts)
    assert {"body", "name"} <= set(said.read)


def test_a_fact_stands_even_where_it_has_the_name_of_what_is_said(tmp_path):
    said = Request({"owner": "u1"})
    assert not decide(tmp_path, "rule:mine", said, {"request_body": {"owner": "u2"}})


@pytest.mark.parametrize(
    ("rule", "foreseen"),
    [
        ("role:x", True),
        ("user_id:%(target.token.user_id)s", True),
        ("not user_domain_id:%(target.token.user.domain.id)s", False),
        ("role:x or rule:mine", False),
        ("http://127.0.0.1:1/", False),
    ],
)
def test_what_depends_on_more_than_caller_and_user_is_not_foreseen(tmp_path, rule, foreseen):
    text = f'"identity:validate_token": "{rule}"\n"mine": "user_id:%(request_body.x)s"'
    policy = Policy(override(tmp_path, text))
    assert policy.foresees("identity:validate_token") is foreseen
    assert policy.foresees("identity:check_token")
