"""Application credentials: they act for their owner alone, within what was handed on, and no longer than that holds."""

import json

from tests.security.middleware import service
from tests.security.programs import by, place, program
from tests.security.regions import NAMES
from tests.security.routes import RULES
from tests.security.rows import HOLDS, row

SITES = NAMES[1:]
VERSION = "OpenStack_Identity_Access_Rules"


@row("SEC-35", "another user who is named beside an application credential becomes the token's", HOLDS)
def test_sec_35_whoever_is_named_beside_it_the_token_is_the_owners(regions):
    owner, other = regions.household(), regions.household()
    regions.grant(other.user, owner.project)  # so that there could be such a token
    made = program(regions, owner)
    named = {"name": other.user["name"], "domain": {"id": other.domain["id"]}}
    whose = [{"id": other.user["id"]}, named, {"id": other.user["id"], "password": other.secret}]
    tokens = [regions.login(by(made, user=one), at) for one in whose for at in NAMES]
    for at in NAMES:
        users = {regions.validate(one, at).body["token"]["user"]["id"] for one in tokens}
        assert users == {owner.user["id"]}
        for one in whose:
            data = {"name": made["name"], "secret": made["secret"], "user": one}
            method = {"methods": ["application_credential"], "application_credential": data}
            assert regions.log_in({"identity": method}, at).status == 401
        both = other.auth()["identity"] | by(made)["identity"]
        for methods in (["password", "application_credential"], ["application_credential", "password"]):
            assert regions.log_in({"identity": both | {"methods": methods}}, at).status == 401


@row("SEC-36", "an application credential, restricted or not, makes, shows or changes a credential", HOLDS)
def test_sec_36_no_credential_is_made_by_a_program(regions):
    owner = regions.household(role="manager")
    elsewhere = regions.make("project", name="elsewhere", domain_id=owner.domain["id"])
    regions.grant(owner.user, elsewhere, "manager")
    user = regions.login(owner.auth())
    about = {"user_id": owner.user["id"], "project_id": owner.project["id"], "type": "ec2"}
    key = regions.make("credential", token=user, blob=json.dumps({"access": owner.user["id"], "secret": "s"}), **about)
    ec2 = f"/v3/users/{owner.user['id']}/credentials/OS-EC2"
    for at, unrestricted in ((at, kind) for at in NAMES for kind in (False, True)):
        made = program(regions, owner, user, name=f"{at} {unrestricted}", unrestricted=unrestricted)
        token = regions.login(by(made), at)
        for project in (owner.project, elsewhere):
            blob = json.dumps({"access": "mine", "secret": "s", "app_cred_id": made["id"]})
            sent = {"credential": about | {"blob": blob, "project_id": project["id"]}}
            regions.expect(403, "POST", "/v3/credentials", sent, token=token, at=at)
            cert = {"credential": sent["credential"] | {"type": "cert"}}
            regions.expect(403, "POST", "/v3/credentials", cert, token=token, at=at)
            regions.expect(403, "POST", ec2, {"tenant_id": project["id"]}, token=token, at=at)
        one = f"/v3/credentials/{key['id']}"
        for method, sent in (("GET", None), ("PATCH", {"credential": {"blob": key["blob"]}}), ("DELETE", None)):
            regions.expect(403, method, one, sent, token=token, at=at)
            if method != "PATCH":
                regions.expect(403, method, f"{ec2}/{owner.user['id']}", token=token, at=at)
        assert regions.expect(200, "GET", "/v3/credentials", token=token, at=at)["credentials"] == []
        (left,) = regions.expect(200, "GET", "/v3/credentials", token=user, at=at)["credentials"]
        assert left["id"] == key["id"]


@row("SEC-37", "the first 72 signs of an application credential's secret are enough", "weaker: they are")
def test_sec_37_every_sign_of_a_secret_counts(regions):
    owner = regions.household()
    user = regions.login(owner.auth())
    for name, about in (("generated", {}), ("chosen", {"secret": "s3cr3t " * 14})):
        made = program(regions, owner, user, name=name, **about)
        secret = made["secret"]
        assert len(secret) > 80
        for at in NAMES:
            assert regions.log_in(by(made), at).status == 201
            for wrong in (secret[:72], secret[:-1], secret[:72] + "x" * (len(secret) - 72), f"{secret}x"):
                assert regions.log_in(by(made, secret=wrong), at).status == 401


@row("SEC-38", "another user's application credential or access rule, below one's own path or the owner's", HOLDS)
def test_sec_38_an_id_opens_nothing_of_another_user(regions):
    owner = regions.household()
    others = [regions.household(), regions.household(domain=owner.domain, role="manager")]
    made = program(regions, owner, access_rules=RULES)
    rule = made["access_rules"][0]["id"]
    for other, at in ((other, at) for other in others for at in NAMES):
        token = regions.login(other.auth(), at)
        for user in (owner.user["id"], other.user["id"]):
            for path in (f"application_credentials/{made['id']}", f"access_rules/{rule}"):
                for method in ("GET", "HEAD", "DELETE"):
                    answer = regions.ask(method, f"/v3/users/{user}/{path}", token=token, at=at)
                    assert answer.status in (403, 404), (method, path, answer.status)
        for collection in ("application_credentials", "access_rules"):
            regions.expect(403, "GET", f"/v3/users/{owner.user['id']}/{collection}", token=token, at=at)
            mine = regions.expect(200, "GET", f"/v3/users/{other.user['id']}/{collection}", token=token, at=at)
            assert mine[collection] == []
        borrowed = {"application_credential": {"name": "borrowed", "access_rules": [{"id": rule}]}}
        regions.expect(404, "POST", place(other, {"id": ""})[:-1], borrowed, token=token, at=at)
    user = regions.login(owner.auth())
    for at in NAMES:
        regions.expect(200, "GET", place(owner, made), token=user, at=at)
        assert regions.log_in(by(made), at).status == 201


@row("SEC-39", "a token with access rules at services that know none, and for requests that they do not name", HOLDS)
def test_sec_39_access_rules_are_kept_or_the_token_is_nothing(regions):
    owner = regions.household()
    rules = [*RULES, {"service": "identity", "method": "GET", "path": "/v3/auth/projects"}]
    made = program(regions, owner, access_rules=rules)
    compute = regions.make("service", type="compute")["id"]  # which the middleware wants to find in the catalog
    regions.make("endpoint", service_id=compute, interface="public", url="http://compute")
    for at in NAMES:
        token = regions.login(by(made), at)
        for other in NAMES:
            _validated(regions, other, token, made["access_rules"])
            regions.expect(200, "GET", "/v3/auth/projects", token=token, at=other)
            for method, path in (("GET", "/v3/auth/domains"), ("GET", place(owner, made)), ("HEAD", "/v3/projects")):
                regions.expect(401, method, path, token=token, at=other)
    for name in SITES:
        with service(regions, name) as ask:
            assert ask("GET", "/v2.1/servers", token)[0] == 200
            for method, path in (("POST", "/v2.1/servers"), ("GET", "/v2.1/servers/x"), ("GET", "/"), ("GET", "/v2.1")):
                assert ask(method, path, token) == (401, None)


def _validated(regions, at, token, rules):
    """By services that know access rules, and by others."""
    for method in ("GET", "HEAD"):
        for version in (None, "", "0.9", "x", "nan", "-1"):
            headers = {"X_Subject_Token": token} | ({VERSION: version} if version is not None else {})
            regions.expect(404, method, "/v3/auth/tokens", at=at, **headers)
        answer = regions.ask(method, "/v3/auth/tokens", at=at, X_Subject_Token=token, **{VERSION: "1.0"})
        assert answer.status == 200
        if method == "GET":
            assert answer.body["token"]["application_credential"]["access_rules"] == rules


@row("SEC-40", "a token outlives its application credential, or the user, role, project or domain of that", HOLDS)
def test_sec_40_a_token_ends_with_whatever_it_was_made_of(regions):
    endings = {
        "credential": lambda home, made, _: [("DELETE", place(home, made), 204, None)],
        "user": lambda home, *_: [("DELETE", f"/v3/users/{home.user['id']}", 204, None)],
        "role": lambda _home, _made, role: [("DELETE", f"/v3/roles/{role['id']}", 204, None)],
        "grant": lambda home, _, role: [("DELETE", _grant(home, role), 204, None)],
        "project": lambda home, *_: [("DELETE", f"/v3/projects/{home.project['id']}", 204, None)],
        "domain": lambda home, *_: [
            ("PATCH", f"/v3/domains/{home.domain['id']}", 200, {"domain": {"enabled": False}}),
            ("DELETE", f"/v3/domains/{home.domain['id']}", 204, None),
        ],
    }
    for name, ending in endings.items():
        home = regions.household()
        role = regions.make("role", name=f"{name} {home.domain['id']}")
        regions.expect(204, "PUT", _grant(home, role))
        made = program(regions, home, roles=[{"id": role["id"]}])
        user = regions.login(home.auth())
        tokens = [regions.login(by(made), at) for at in NAMES]
        assert {status for one in tokens for status in regions.statuses(one)} == {200}, name
        for method, path, status, body in ending(home, made, role):
            by_user = user if name == "credential" else None
            regions.expect(status, method, path, body, token=by_user, at="RegionTwo")
        regions.becomes(404, *tokens)
        for at in NAMES:
            assert regions.log_in(by(made), at).status == 401, name
            assert regions.ask("GET", "/v3/auth/projects", token=tokens[0], at=at).status == 401, name


def _grant(home, role):
    return f"/v3/projects/{home.project['id']}/users/{home.user['id']}/roles/{role['id']}"
