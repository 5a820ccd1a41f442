"""What keeps one domain, one owner, one name from another: ids in paths, domains, headers, names, words in queries."""

import contextlib
import http.client
import itertools
import json
import secrets

from controller.probe import password
from tests.processes import rkctl
from tests.security.forged import sealed
from tests.security.middleware import service
from tests.security.regions import NAMES
from tests.security.routes import settle
from tests.security.rows import HOLDS, row

SUBTREE = "/v3/role_assignments?include_subtree&scope.project.id="


def on_domain(regions, domain, role):
    """Somebody new in this domain with this role on it alone."""
    home = regions.household(domain=domain)
    path = f"/v3/domains/{domain['id']}/users/{home.user['id']}/roles/{regions.roles[role]['id']}"
    regions.expect(204, "PUT", path)
    return home


@row("SEC-51", "callers without a domain at what has none: domains as projects, their trees, their limits", HOLDS)
def test_sec_51_no_domain_is_not_the_same_domain(regions):
    domain = regions.household().domain
    homes = [regions.household(domain=domain, role=role) for role in ("reader", "member", "manager")]
    homes.append(regions.household(role="manager"))
    compute = regions.make("service", type="compute")["id"]
    what = {"service_id": compute, "resource_name": "servers"}
    regions.expect(201, "POST", "/v3/registered_limits", {"registered_limits": [{**what, "default_limit": 5}]})
    limits = {"limits": [{**what, "resource_limit": 5, "domain_id": domain["id"]}]}
    limit = regions.expect(201, "POST", "/v3/limits", limits)["limits"][0]["id"]
    one = f"/v3/projects/{domain['id']}"
    for home, scope, at in itertools.product(homes, ("project", None), NAMES):
        token = regions.login(home.auth(scope), at)
        user = f"{one}/users/{home.user['id']}/roles"
        tries = [("GET", one), ("PATCH", one), ("DELETE", one), ("GET", f"{SUBTREE}{domain['id']}")]
        tries += [("GET", f"{one}/tags"), ("PUT", f"{one}/tags/x"), ("DELETE", f"{one}/tags"), ("GET", user)]
        tries += [("PUT", f"{user}/{regions.roles['reader']['id']}"), ("GET", f"/v3/limits/{limit}")]
        tries += [("GET", f"{SUBTREE}{home.project['id']}"), ("GET", "/v3/role_assignments")]
        for method, path in tries:
            sent = {"project": {"description": "x"}} if method == "PATCH" else None
            answer = regions.ask(method, path, sent, token=token, at=at)
            assert answer.status == 403, (home.role["name"], scope, method, path, answer)
        if scope:
            regions.expect(200, "GET", f"/v3/projects/{home.project['id']}", token=token, at=at)
    ruler = regions.login(on_domain(regions, domain, "reader").auth("domain"))
    for at in NAMES:
        regions.expect(200, "GET", f"/v3/limits/{limit}", token=ruler, at=at)
        regions.expect(200, "GET", f"{SUBTREE}{homes[0].project['id']}", token=ruler, at=at)
        regions.expect(403, "GET", f"{SUBTREE}{homes[-1].project['id']}", token=ruler, at=at)


@row(
    "SEC-53", "a user, group, project, role or provider moved to another domain, by a manager of it or an admin", HOLDS
)
def test_sec_53_nothing_changes_its_domain(regions):
    estate, other = settle(regions), regions.household()
    ids, mine = estate.ids, estate.home.domain
    role = regions.make("role", name=f"of {mine['id']}", domain_id=mine["id"])["id"]
    provider = f"OS-FEDERATION/identity_providers/{ids['idp_id']}"
    records = {"user": f"users/{ids['user_id']}", "group": f"groups/{ids['group_id']}", "role": f"roles/{role}"}
    records |= {"project": f"projects/{ids['project_id']}", "identity_provider": provider}
    ruler = on_domain(regions, mine, "manager")
    there = f"/v3/domains/{other.domain['id']}/users/{ruler.user['id']}/roles/{regions.roles['manager']['id']}"
    regions.expect(204, "PUT", there)
    for at, (member, path) in itertools.product(NAMES, records.items()):
        before = regions.expect(200, "GET", f"/v3/{path}")[member]
        assert before["domain_id"] == mine["id"]
        edits = [{"domain_id": domain} for domain in (other.domain["id"], "default", None, "")]
        edits += [{"parent_id": other.domain["id"]}, {"is_domain": True}] if member == "project" else []
        for edit, beside in itertools.product(edits, ({}, {"description": "moved"})):
            for who, allowed in ((None, {400, 403}), (regions.login(ruler.auth("domain"), at), {400, 403})):
                answer = regions.ask("PATCH", f"/v3/{path}", {member: edit | beside}, token=who, at=at)
                assert answer.status in allowed, (member, edit, answer)
        found = [regions.expect(200, "GET", f"/v3/{path}", at=one)[member] for one in NAMES]
        assert [{**one, "links": 0} for one in found] == [{**before, "links": 0}] * len(NAMES)


@row("SEC-55", "static admin tokens, the password as a token, a second bootstrap with another password", HOLDS)
def test_sec_55_no_word_opens_and_nothing_resets_the_administrator(regions, tmp_path):
    guesses = ["ADMIN", "admin", "ADMIN_TOKEN", "token", "None", "null", "0", regions.home.password()]
    guesses += [one["id"] for one in regions.expect(200, "GET", "/v3/users?name=admin")["users"]]
    for at, guess in itertools.product(NAMES, guesses):
        regions.expect(401, "GET", "/v3/users", token=guess, at=at)
        regions.expect(401, "GET", "/v3/users", token="", at=at, X_Admin_Token=guess)
    new = tmp_path / "password"
    new.write_text(f"new {secrets.token_hex(8)}")
    new.chmod(0o600)
    done = rkctl("bootstrap", "--password-file", new, "--state", regions.home.directory)
    assert done.returncode == 0, done.stderr
    regions.becomes(200, regions.admin)
    for at, (text, status) in itertools.product(NAMES, ((regions.home.password(), 201), (new.read_text(), 401))):
        assert regions.log_in(password("admin", text, "default"), at).status == status


def raw(regions, at, method, path, headers, body=b""):
    """The status of a request with exactly these headers, repeated ones too."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", regions.members[at].port, timeout=10)) as asked:
        asked.putrequest(method, path)
        for name, value in (*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
            asked.putheader(name, value)
        asked.endheaders(body)
        return asked.getresponse().status


@row("SEC-56", "headers that say who asks: X-Roles and its like, Remote-User, empty, doubled and respelt tokens", HOLDS)
def test_sec_56_only_a_token_says_who_asks(regions):
    home, path = regions.household(), "/v3/users"
    (admin,) = regions.expect(200, "GET", "/v3/users?name=admin")["users"]
    said = {"X-Roles": "admin", "X-Role": "admin", "X-User-Id": admin["id"], "X-User": "admin", "X-User-Name": "admin"}
    said |= {"X-Is-Admin-Project": "True", "X-Identity-Status": "Confirmed", "X-Project-Id": home.project["id"]}
    said |= {"X-Service-Roles": "service", "X-Service-Identity-Status": "Confirmed", "OpenStack-System-Scope": "all"}
    said |= {"Remote-User": "admin", "REMOTE_USER": "admin", "X-Remote-User": "admin", "X-Forwarded-User": "admin"}
    said |= {"X-Authenticated-Userid": admin["id"], "SSL-Client-Verify": "SUCCESS", "X-SSL-Client-S-DN": "CN=admin"}
    said |= {"X-Auth-Token-Info": "{}", "X-System-Scope": "all", "X-Tenant-Id": home.project["id"]}
    spoofed, good = list(said.items()), regions.admin
    respelt = ("X_Auth_Token", "X-Auth-Tokens", "X-Service-Token", "X-Subject-Token", "X-Storage-Token", "Cookie")
    for at in NAMES:
        mine = regions.login(home.auth(), at)
        token = ("X-Auth-Token", mine)
        assert raw(regions, at, "GET", path, [("X-Auth-Token", good)]) == 200
        for headers in ([one] for one in spoofed):
            assert raw(regions, at, "GET", path, headers) == 401
            assert raw(regions, at, "GET", path, [*headers, token]) == 403
        assert raw(regions, at, "GET", path, spoofed) == 401
        assert raw(regions, at, "GET", path, [*spoofed, token]) == 403
        assert raw(regions, at, "GET", f"/v3/users/{home.user['id']}", [*spoofed, token]) == 200
        for name, value in itertools.product(respelt, (good, f"Bearer {good}")):
            assert raw(regions, at, "GET", path, [(name, value)]) == 401
        for value in (f"Bearer {good}", good, f"Basic {good}"):
            assert raw(regions, at, "GET", path, [("Authorization", value)]) == 401
        for value in ("", " ", "\t", f"{good},", f"{good}, {good}", f"{mine},{good}"):
            assert raw(regions, at, "GET", path, [("X-Auth-Token", value), *spoofed]) == 401
        for one, two in itertools.permutations((good, mine, ""), 2):
            doubled = [("X-Auth-Token", one), ("x-auth-token", two)]
            assert raw(regions, at, "GET", path, doubled) == 400
            assert raw(regions, at, "GET", "/v3/auth/tokens", [*doubled, ("X-Subject-Token", mine)]) == 400
        for name in ("external", "mapped", "kerberos", "x509", "oauth1", "ec2credential"):
            auth = {"auth": {"identity": {"methods": [name], name: {"user": {"id": admin["id"]}}}}}
            assert raw(regions, at, "POST", "/v3/auth/tokens", spoofed, json.dumps(auth).encode()) == 401
    _services(regions, home, said)


def _services(regions, home, said):
    """A service behind the stock middleware believes none of it either."""
    headers = {name.replace("-", "_"): value for name, value in said.items()}
    for name in NAMES[1:]:
        token = regions.login(home.auth(), name)
        with service(regions, name) as ask:
            assert ask("GET", "/", **headers) == (401, None)
            status, known = ask("GET", "/", token, **headers)
            assert (status, known["USER_NAME"], known["PROJECT_NAME"]) == (200, home.user["name"], home.project["name"])
            assert sorted(known["ROLES"].split(",")) == ["member", "reader"]


@row(
    "SEC-58",
    "children below another parent, but for EC2 keys, which are asked for as their user's; foreign filters, words for no,"
    " names of others taken",
    HOLDS,
)
def test_sec_58_a_path_a_filter_and_a_name_mean_what_they_say(regions):
    mine, theirs = settle(regions), settle(regions)
    system = regions.login(password("admin", regions.home.password(), "default") | {"scope": {"system": {"all": True}}})
    for at in NAMES:
        for path in _below_another(mine.ids, theirs.ids):
            for method in ("GET", "DELETE"):
                answer = regions.ask(method, path, token=system, at=at)
                ends = "OS-ENDPOINT-POLICY" in path and method == "DELETE"  # of what is not there, as in Keystone
                assert answer.status == (204 if ends else 404), (method, path, at, answer)
        key = f"credentials/OS-EC2/{mine.ids['access']}"
        for home, method in itertools.product((mine, theirs), ("GET", "DELETE")):
            regions.expect(403, method, f"/v3/users/{home.ids['user_id']}/{key}", token=theirs.token, at=at)
        handed = f"/v3/OS-TRUST/trusts/{mine.ids['trust_id']}/roles"
        regions.expect(404, "GET", f"{handed}/{mine.ids['prior_role_id']}", at=at)
    ruler = on_domain(regions, mine.home.domain, "reader")
    foreign = theirs.home.domain["id"]
    for at in NAMES:
        token = regions.login(ruler.auth("domain"), at)
        for collection in ("users", "groups", "projects"):
            for query in (f"domain_id={foreign}", f"domain_id={foreign}&domain_id={mine.home.domain['id']}", ""):
                found = regions.expect(200, "GET", f"/v3/{collection}?{query}", token=token, at=at)[collection]
                assert {one["domain_id"] for one in found} <= {mine.home.domain["id"]}
        (only,) = regions.expect(200, "GET", "/v3/domains", token=token, at=at)["domains"]
        assert only["id"] == mine.home.domain["id"]
        _words(regions, mine, at)
    _names(regions, mine.home)


def _below_another(mine, theirs):
    """Paths to things of mine below somebody else's."""
    federation = "/v3/OS-FEDERATION/identity_providers"
    return [
        f"/v3/users/{theirs['user_id']}/access_rules/{mine['access_rule_id']}",
        f"/v3/groups/{theirs['group_id']}/users/{mine['user_id']}",
        f"/v3/projects/{theirs['project_id']}/users/{mine['user_id']}/roles/{mine['role_id']}",
        f"/v3/projects/{theirs['project_id']}/groups/{mine['group_id']}/roles/{mine['role_id']}",
        f"/v3/domains/{theirs['domain_id']}/groups/{mine['group_id']}/roles/{mine['role_id']}",
        f"/v3/roles/{theirs['prior_role_id']}/implies/{mine['implied_role_id']}",
        f"/v3/domains/{mine['project_id']}/config/identity/driver",
        f"/v3/domains/{mine['project_id']}",
        f"{federation}/{theirs['idp_id']}/protocols/none",
        f"{federation}/none/protocols/{mine['protocol_id']}",
        f"/v3/OS-EP-FILTER/endpoint_groups/{mine['endpoint_group_id']}/projects/{theirs['project_id']}",
        f"/v3/OS-EP-FILTER/projects/{theirs['project_id']}/endpoints/{mine['endpoint_id']}",
        f"/v3/policies/{theirs['policy_id']}/OS-ENDPOINT-POLICY/endpoints/{mine['endpoint_id']}",
        f"/v3/policies/{theirs['policy_id']}/OS-ENDPOINT-POLICY/services/{mine['service_id']}",
    ]


def _words(regions, estate, at):
    """What a query says by yes and no."""
    users, token = f"/v3/users?domain_id={estate.home.domain['id']}&enabled=", estate.token
    for words, some in (("true True 1 t y yes on", True), ("false False 0 no n off", False)):
        for word in words.split():
            answer = regions.ask("GET", f"{users}{word}", at=at)
            assert answer.status in (200, 400), (word, answer)
            if answer.status == 200:
                assert bool(answer.body["users"]) is some, word
    dead = sealed(regions, estate.home, age_s=600, life_s=300)
    words = dict.fromkeys(("1", "true", "True", "yes"), 200) | dict.fromkeys(
        ("0", "false", "False", "no", "x", ""), 404
    )
    for word, status in words.items():
        assert regions.validate(dead, at, query=f"?allow_expired={word}").status == status, word
    project = f"/v3/projects/{estate.home.project['id']}?parents_as_list="
    for word, there in (("1", True), ("true", True), ("", True), ("0", False)):
        found = regions.expect(200, "GET", f"{project}{word}", token=token, at=at)["project"]
        assert ("parents" in found) is there, word
    effective = f"/v3/role_assignments?user.id={estate.home.user['id']}&effective="
    granted = [len(regions.expect(200, "GET", f"{effective}{word}", at=at)["role_assignments"]) for word in ("0", "1")]
    assert granted[0] < granted[1]


def _names(regions, home):
    """Names that are taken, and those of others."""
    rival = regions.household()
    for kind in ("user", "project"):
        known = getattr(home, kind)
        same = {"name": known["name"], "domain_id": home.domain["id"]}
        for about in (same, {**same, "name": f" {known['name']} "}):
            regions.expect(409, "POST", f"/v3/{kind}s", {kind: about})
        double = regions.make(kind, name=known["name"], domain_id=rival.domain["id"])
        assert double["id"] != known["id"]
        sent = {kind: {"name": known["name"]}}
        other = regions.make(kind, name=secrets.token_hex(8), domain_id=home.domain["id"])
        regions.expect(409, "PATCH", f"/v3/{kind}s/{other['id']}", sent, at="RegionOne")
    regions.expect(409, "POST", "/v3/domains", {"domain": {"name": home.domain["name"]}})
    regions.expect(409, "PATCH", f"/v3/domains/{rival.domain['id']}", {"domain": {"name": home.domain["name"]}})
    regions.expect(409, "POST", "/v3/roles", {"role": {"name": "admin"}})
    local = regions.make("role", name="admin", domain_id=rival.domain["id"])
    path = f"/v3/projects/{rival.project['id']}/users/{rival.user['id']}/roles/{local['id']}"
    regions.expect(204, "PUT", path)
    for at in NAMES:
        token = regions.login(rival.auth(), at)
        roles = regions.validate(token, at).body["token"]["roles"]
        assert {one["name"] for one in roles} == {"member", "reader"}
        regions.expect(403, "GET", "/v3/users", token=token, at=at)
        named = {"name": home.user["name"], "domain": {"id": home.domain["id"]}, "password": home.secret}
        method = {"methods": ["password"], "password": {"user": named}}
        assert regions.log_in({"identity": method}, at).body["token"]["user"]["id"] == home.user["id"]
