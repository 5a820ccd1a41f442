"""Who may do what, on every route that there is: by which facts it is decided, and by which rule."""

import asyncio
import dataclasses
import itertools
import json
import re
import secrets
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from regional_keystone import settings
from regional_keystone.errors import Forbidden
from regional_keystone.policies import ACTIONS
from regional_keystone.policy import Policy, defaults
from regional_keystone.policy_keys import ACTION, BODY, FILTER
from regional_keystone.token import Named, Principal, ProjectScope, Token
from tests import replay
from tests.api.conftest import Client
from tests.processes import ended, free_port, up
from tests.security.regions import NAMES
from tests.security.routes import further, routes, settle
from tests.security.rows import HOLDS, UNKNOWN, row

# Open to everybody: where to ask, how to log in, and what has no secret in it.
OPEN = {
    "/": "GET HEAD",
    "/v3": "GET HEAD",
    "/v3/OS-SIMPLE-CERT/ca": "GET HEAD",
    "/v3/OS-SIMPLE-CERT/certificates": "GET HEAD",
    "/v3/auth/tokens": "POST",
    "/v3/auth/tokens/OS-PKI/revoked": "GET HEAD",
    "/v3/users/{user_id}/password": "POST",
}
# Actions that no request of a stranger is refused by.
ANYBODYS = (
    "get_auth_catalog get_auth_domains get_auth_projects get_auth_system get_limit_model get_region"
    " get_registered_limit get_security_compliance_domain_config list_limits list_regions list_registered_limits"
    " list_credentials"
)
LISTED = ("trustor_user_id", "trustee_user_id")  # which make another list of that of trusts, and another action
BY_HEAD = "check_implied_role check_token"  # whose refusal has no body to be named in
# Actions of steps that are not served yet, and of upstream's that it asks nowhere.
NOWHERE = (
    "authorize_request_token ec2tokens_validate s3tokens_validate list_domains_for_user list_projects_for_user"
    " revocation_list"
)
MISSPELT = {
    "identity:get_usr: '@'": "get_usr",
    "identity:get_user: 'role;admin'": "role;admin",
    "identity:get_user: rule:admin_requird": "admin_requird",
}
NAMED = re.compile(r"not authorized to perform the requested action: identity:(\w+)\.$")


@pytest.fixture(scope="module")
def estate(regions):
    """What is asked about; nobody here may change any of it."""
    return settle(regions)


def ask(regions, estate, route, token, at="Global", query="", **about):
    """The answer to a request about the estate; `about` may replace the body."""
    body = about.get("body", estate.body(route))
    path = estate.path(route) + query
    return regions.ask(route.method, path, body, token=token, at=at, X_Subject_Token=estate.token)


def action(answer):
    """The action that an answer refuses, "" for every other answer."""
    if answer.status != 403 or not isinstance(answer.body, dict):
        return ""
    found = NAMED.search(answer.body["error"]["message"])
    return found[1] if found else ""


def claims(home):
    """What an attacker says of what he asks about: it is his, in his project and his domain."""
    user, project, domain = home.user["id"], home.project["id"], home.domain["id"]
    ids = {"user_id": user, "project_id": project, "domain_id": domain}
    ids |= {"trustor_user_id": user, "trustee_user_id": user}
    target = {
        **ids,
        "user": {"id": user, "domain_id": domain},
        "group": {"domain_id": domain},
        "project": {"id": project, "domain_id": domain},
        "domain": {"id": domain},
        "credential": ids,
        "trust": ids,
        "token": {"user_id": user},
        "role": {"name": "reader", "domain_id": domain},
        "limit": {**ids, "project": {"domain_id": domain}, "domain": {"id": domain}},
    }
    flat = {f"target.{name}": value for name, value in ids.items()}
    flat |= {
        f"target.{one}.{name}": target[one][name]
        for one in ("user", "group", "credential", "trust")
        for name in target[one]
    }
    return ids, {**ids, **flat, "target": target, "enforcement_target": target}


def attacks(estate, route, home):
    """(what is replaced of the request, what may come of it beside the decision without it)"""
    ids, said = claims(home)
    body = estate.body(route)
    yield {"body": said | (body or {})}, {400} if body else set()
    query = "&".join(f"{name}={value}" for name, value in said.items() if isinstance(value, str) and name not in LISTED)
    yield {"query": f"{'&' if '?' in route.path else '?'}{query}"}, {400, 403}
    if route.member and isinstance(body[route.member], dict):
        yield {"body": {route.member: said | ids | body[route.member]}}, {400}


def rows_of(body):
    """What tells the rows of a list apart, None for any other body."""
    lists = [value for value in body.values() if isinstance(value, list)] if isinstance(body, dict) else []
    found = [one for rows in lists for one in rows if isinstance(one, dict)]
    return {one.get("id", str({**one, "links": None})) for one in found} if lists else None


@row("SEC-49", "ids of the attacker in body, member and query of every route change what is decided there", HOLDS)
def test_sec_49_what_a_request_says_replaces_no_fact(regions, estate):
    member, ruler = regions.household(), regions.household()
    place = f"/v3/domains/{ruler.domain['id']}/users/{ruler.user['id']}/roles/{regions.roles['manager']['id']}"
    regions.expect(204, "PUT", place)
    for home, scope in ((member, "project"), (ruler, "domain")):
        token = regions.login(home.auth(scope))
        places, refused = itertools.cycle(NAMES[1:] + NAMES[:1]), 0
        for route in (*routes(), *further()):
            plain = ask(regions, estate, route, token)
            refused += plain.status == 403
            for about, also in attacks(estate, route, home):
                at = next(places)
                answer = ask(regions, estate, route, token, at, **about)
                assert answer.status in {plain.status, *also}, (scope, str(route), at, about, answer)
                rows = rows_of(answer.body) if answer.status < 300 else None
                assert rows is None or rows <= rows_of(plain.body), (scope, str(route), at, about, answer)
        assert refused > 250  # or these are not the routes, or not refusals, that were meant
    _respelt(regions, estate, ruler)
    found = regions.expect(200, "GET", f"/v3/users/{estate.home.user['id']}")["user"]
    assert {name: found[name] for name in estate.home.user if name != "links"} == {
        name: value for name, value in estate.home.user.items() if name != "links"
    }


def test_where_rules_ask_for_what_is_said_it_still_replaces_no_fact(tmp_path):
    """SEC-49 where it could matter: with rules of which each asks for body and filters as well."""
    asyncio.run(_where_rules_ask(tmp_path))


async def _where_rules_ask(tmp_path):
    file, asks = tmp_path / "policy.yaml", f"'x':%({BODY}.never)s or 'x':%({FILTER}.never)s"
    actions = [rule for rule in defaults() if rule.name.startswith(ACTION)]
    file.write_text(json.dumps({rule.name: f"({rule.check_str or '@'}) or {asks}" for rule in actions}))
    world = replay.World(tmp_path)
    world.settings = dataclasses.replace(world.settings, policy=settings.Policy(file=file))
    async with AsyncExitStack() as stack:
        await world.start(stack)
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        admin = await Client(world).login("admin", replay.PASSWORD, scope)
        theirs = await admin.make("domain", name="theirs")
        names = {"domain_id": theirs["id"], "name": "a"}
        ids = {f"{kind}_id": (await admin.make(kind, **names))["id"] for kind in ("user", "group", "project")}
        home = await _attacker(admin)
        client = await admin.login("attacker", "secret1", {"project": {"id": home.project["id"]}})
        decided = _decided(world.api)
        found = [
            await _compared(client, decided, route, ids | {"domain_id": theirs["id"]}, home)
            for route in world.api.routes
            if route.base == "/v3" and not route.open
        ]
    assert found.count("body") > 60
    assert found.count("query") > 12


async def _attacker(admin):
    domain = await admin.make("domain", name="mine")
    project = await admin.make("project", name="mine", domain_id=domain["id"])
    user = await admin.make("user", name="attacker", domain_id="default", password="secret1")
    role = await admin.make("role", name="some")
    await admin("PUT", f"/projects/{project['id']}/users/{user['id']}/roles/{role['id']}")
    return SimpleNamespace(domain=domain, project=project, user=user)


def _decided(api):
    """What each decision from now on is made by: (action, what is asked about), flat."""
    found, enforcer = [], api._policy._enforcer
    enforce = enforcer.enforce

    def noted(action, target, who):
        found.append((action, dict(target)))
        return enforce(action, target, who)

    enforcer.enforce = noted
    return found


async def _compared(client, decided, route, ids, home):
    """Assert that one route is decided by the same facts, whatever is said; "body" or "query" is what was said."""

    async def facts(*asked):
        decided.clear()
        await client(route.method, *asked)
        return [(action, _without(target)) for action, target in decided], set().union(*(one for _, one in decided))

    path = re.sub(r"\{(\w+)\}", lambda at: ids.get(at[1], "0" * 32), route.path)
    member = next(iter((route.body or route.late or {}).get("required", ())), "")
    his, said = claims(home)
    plain, attack = ({member: {"name": "b"}}, {member: said | his | {"name": "b"}}) if member else ({}, said)
    before, _ = await facts(path, plain)
    after, known = await facts(path, attack)
    if member and route.method == "POST":  # what is to be made is what the client says of it
        before = after = [action for action, _ in before and after]
    assert before == after or not after, (route.method, path)
    if route.method != "GET":
        return "body" if any(key.startswith(f"{BODY}.") and key.endswith(".user_id") for key in known) else ""
    words = {"name": "a", "type": "a", "id": "a"} | {one: what for one, what in said.items() if one not in LISTED}
    if route.path == "/roles":
        del words["domain_id"]  # which asks for another list, with another action
    query = "&".join(f"{name}={value}" for name, value in words.items() if isinstance(value, str))
    after, known = await facts(f"{path}?{query}")
    assert before == after, (route.method, path)
    return "query" if any(key.startswith(f"{FILTER}.") for key in known) else ""


def _without(target):
    return {key: value for key, value in target.items() if key.partition(".")[0] not in (BODY, FILTER)}


def _respelt(regions, estate, ruler):
    """Whichever of several spellings of a key counts, it counts for the decision as well."""
    token, own = regions.login(ruler.auth("domain")), ruler.domain["id"]
    for kind, at in itertools.product(("user", "group", "project"), NAMES):
        for one, two in itertools.permutations((own, estate.home.domain["id"])):
            about = {"name": secrets.token_hex(6), "domain_id": one, "domain-id": two, "domain:id": two}
            answer = regions.ask("POST", f"/v3/{kind}s", {kind: about}, token=token, at=at)
            assert answer.status == (201 if two == own else 403), (kind, at, answer)
            assert answer.status == 403 or answer.body[kind]["domain_id"] == own


def digests(regions):
    """(position, digest) of every store, once all have the same."""
    pages = [member.page("/digest", 10.0) for member in regions.members.values()]
    return {(page["position"], page["digest"]) for page in pages}


@row(
    "SEC-52", "every route without a token, or with one that is none; a refused change leaves the stores alone", UNKNOWN
)
def test_sec_52_a_refusal_is_whole(regions, estate):
    regions.becomes(200, regions.login(estate.home.auth()))
    before = digests(regions)
    assert len(before) == 1
    for route, at in itertools.product((*routes(), *further()), NAMES):
        is_open = route.method in OPEN.get(route.path, "").split()
        for token in ("", secrets.token_urlsafe(100)):
            status = ask(regions, estate, route, token, at).status
            assert (status == 401) is (not is_open or route.method == "POST"), (str(route), at, status)
    assert digests(regions) == before
    for method, path, body, status in half_refused(regions, estate):
        for at in NAMES:
            answer = regions.ask(method, path, body, token=_maker(regions, estate, path), at=at)
            assert answer.status == status, (method, path, body, answer)
    assert digests(regions) == before


def _maker(regions, estate, path):
    return estate.token if "application_credentials" in path or "trusts" in path else regions.admin


def half_refused(regions, estate):
    """Changes of which a part could be done before the rest is refused."""
    ids, home = estate.ids, estate.home
    rule, good = {"service": "image", "method": "GET", "path": "/v2"}, {"service_id": ids["service_id"]}
    fresh = {"domain_id": home.domain["id"], "password": "new"}
    federated = [{"idp_id": ids["idp_id"], "protocols": [{"protocol_id": "none", "unique_id": "u"}]}]
    limit = {**good, "resource_name": "servers", "resource_limit": 1, "domain_id": home.domain["id"]}
    own, config = f"/v3/users/{home.user['id']}", f"/v3/domains/{home.domain['id']}/config"
    credential = f"{own}/application_credentials"
    yield "POST", "/v3/users", {"user": {**fresh, "name": home.user["name"]}}, 409
    yield "POST", "/v3/users", {"user": {**fresh, "name": "half", "federated": federated}}, 400
    yield "PATCH", own, {"user": {"description": "half", "federated": federated}}, 400
    yield "POST", "/v3/limits", {"limits": [limit, {**limit, "resource_name": "none"}]}, 403
    registered = {**good, "resource_name": "half", "default_limit": 1}
    yield "POST", "/v3/registered_limits", {"registered_limits": [registered, registered]}, 409
    sent = {"name": "half", "access_rules": [rule, {"id": "0" * 32}]}
    yield "POST", credential, {"application_credential": sent}, 400
    sent = {"name": "program", "access_rules": [rule]}
    yield "POST", credential, {"application_credential": sent}, 409
    sent = {"name": "half", "access_rules": [rule], "roles": [{"id": regions.roles["admin"]["id"]}]}
    yield "POST", credential, {"application_credential": sent}, 400
    trust = {"trustor_user_id": home.user["id"], "trustee_user_id": ids["friend"], "impersonation": True}
    trust |= {"project_id": home.project["id"], "roles": [{"id": home.role["id"]}, {"id": ids["prior_role_id"]}]}
    yield "POST", "/v3/OS-TRUST/trusts", {"trust": trust}, 404
    yield "PUT", f"{config}", {"config": {"identity": {"driver": "ldap"}, "none": {"a": "b"}}}, 403
    yield "PATCH", f"{config}", {"config": {"identity": {"driver": "ldap", "none": "b"}}}, 403
    yield "DELETE", f"/v3/domains/{home.domain['id']}", None, 403
    yield "PUT", f"/v3/projects/{home.project['id']}/tags", {"tags": ["red", "a,b"]}, 400
    yield "DELETE", f"/v3/registered_limits/{ids['registered_limit_id']}", None, 403
    yield "PUT", f"/v3/roles/{ids['prior_role_id']}/implies/{regions.roles['admin']['id']}", None, 403


@row("SEC-54", "actions without a rule, rules without an action, a misspelt override", "weaker: starts with a warning")
def test_sec_54_every_action_has_a_rule_and_every_rule_an_action(regions, estate, tmp_path):
    token = regions.login(regions.household().auth(None))
    every = zip((*routes(), *further()), itertools.cycle(NAMES))
    refusals = [ask(regions, estate, route, token, at) for route, at in every]
    asked = {action(answer) for answer in refusals} - {""}
    known = {name for *_, names in ACTIONS for name in names.split()}
    assert not [one for one in refusals if one.status == 403 and "RBAC enforcement error" in str(one.body)]
    assert asked <= known
    assert sorted(known - asked) == sorted({*ANYBODYS.split(), *NOWHERE.split(), *BY_HEAD.split()})
    for unknown in ("identity:get_usr", "get_user", "identity:", "", "identity:owner"):
        with pytest.raises(Forbidden):
            Policy().check(_administrator(), unknown, {"user_id": "a"})
    file = tmp_path / "rules.yaml"
    for text, word in MISSPELT.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=word):
            Policy(str(file))
    with ended(tmp_path / "federation") as home:
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()), "--set", f"policy.file={file}")
        assert done.returncode != 0
        assert word in done.stderr


def _administrator():
    token = Token(
        user_id="a", methods=("password",), scope=ProjectScope("p"), expires_at=1, issued_at=0, audit_ids=("a" * 22,)
    )
    names = {"user": Named("a", "a", "d", "d"), "project": Named("p", "p", "d", "d")}
    return Principal(token=token, roles=(Named("r", "admin"),), **names)


SCOPES, ROLES = ("system", "domain", "project"), ("manager", "member", "reader")
SYSTEM = {("system", role) for role in ROLES}
DOMAIN = {("domain", role) for role in ROLES}
MANAGERS = {(scope, "manager") for scope in SCOPES}
SERVICE = {("project", "service")}
# Who but administrators is let through about what belongs to another domain, where it is not the readers of the system
# for what gets, lists or checks, and nobody for the rest. Lists show a domain its own.
MAY = {
    **dict.fromkeys(("list_users", "list_groups", "list_projects", "list_domains"), SYSTEM | DOMAIN),
    "list_role_assignments": SYSTEM | DOMAIN,
    **dict.fromkeys(("get_access_token", "get_access_token_role"), frozenset()),
    **dict.fromkeys(("list_access_tokens", "list_access_token_roles"), frozenset()),
    "get_role": SYSTEM | MANAGERS,
    "list_roles": SYSTEM | {("domain", "manager")},
    "list_revoke_events": SERVICE,
    "validate_token": SYSTEM | SERVICE,
}


# What an administrator of a domain changes, who changes nothing else; and what nobody does for the system.
WITHIN = (
    "create_user update_user delete_user create_group update_group delete_group create_project update_project"
    " delete_project update_project_tags create_project_tag delete_project_tags delete_project_tag create_grant"
    " revoke_grant add_user_to_group remove_user_from_group create_credential update_credential delete_credential"
    " revoke_token revoke_tokens_for_user"
).split()
PROJECTS = (
    "create_trust create_application_credential get_access_token get_access_token_role list_access_tokens"
    " list_access_token_roles delete_access_token"
).split()
READS = ("get", "list", "check", "validate")


def may(name):
    """The personas that an action lets through, as the documentation of Keystone has it."""
    return MAY.get(name, SYSTEM if name.removeprefix("ec2_").split("_")[0] in READS else set())


@row(
    "SEC-57",
    "every route by each role of each scope, about another domain; administrators outside their scope",
    UNKNOWN,
)
def test_sec_57_a_role_counts_within_its_scope(regions, estate):
    home = regions.household()
    nobody = regions.login(home.auth(None))
    every = [route for route in (*routes(), *further()) if route.method != "HEAD"]
    named = {route: action(ask(regions, estate, route, nobody)) for route in every}
    asked = {route: name for route, name in named.items() if name}
    assert len(asked) > 200
    theirs = [estate.ids[f"{one}_id"] for one in ("domain", "user", "project", "group", "credential", "trust")]
    places = itertools.cycle(NAMES)
    for scope, role in (*itertools.product(SCOPES, ROLES), *SERVICE):
        token = _persona(regions, home.domain, scope, role)
        for route, name in asked.items():
            answer = ask(regions, estate, route, token, next(places))
            let = answer.status not in (401, 403)
            assert let == ((scope, role) in may(name)), (scope, role, str(route), name, answer)
            if let and scope == "domain":
                assert not any(one in str(answer.body) for one in theirs), (role, name, answer)
            assert action(answer) in ("", name)
    _administrators(regions, estate, asked, home.domain)


def _administrators(regions, estate, asked, domain):
    """Those of a domain or the system, at what their scope is not for."""
    outside = {
        "domain": [one for one, name in asked.items() if name.split("_")[0] not in READS and name not in WITHIN],
        "system": [one for one, name in asked.items() if name in PROJECTS],
    }
    for (scope, found), at in itertools.product(outside.items(), NAMES):
        token = _persona(regions, domain, scope, "admin")
        for route in found:
            answer = ask(regions, estate, route, token, at)
            assert action(answer) == asked[route], (scope, str(route), answer)
        assert len(found) >= len(PROJECTS)


def _persona(regions, domain, scope, role):
    """A token of somebody new in the domain with this role in this scope alone."""
    home = regions.household(domain=domain, role=role)
    places = {"system": "/v3/system", "domain": f"/v3/domains/{domain['id']}"}
    if scope in places:
        regions.grant(home.user, home.project, role, "DELETE")
        path = f"{places[scope]}/users/{home.user['id']}/roles/{regions.roles[role]['id']}"
        regions.expect(204, "PUT", path)
    return regions.login(home.auth(scope))
