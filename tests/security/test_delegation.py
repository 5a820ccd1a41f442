"""What is handed on by a trust or an application credential is never more than that, and makes nothing further."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller import ask
from tests.security import delegations
from tests.security.delegations import CREATES, SERVERS, handed_on, settle, unserved
from tests.security.programs import by, place, program
from tests.security.regions import NAMES, started
from tests.security.rows import HOLDS, row
from tests.security.trusts import PATH, acting, altered, trust, using, wish

KEY = {"type": "ec2", "blob": json.dumps({"access": "a key", "secret": "s"})}


def token_login(token, scope):
    """An `auth` that exchanges a token."""
    said = {"identity": {"methods": ["token"], "token": {"id": token}}}
    return said if scope is None else said | {"scope": scope}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A federation in which a token with a scope cannot be exchanged."""
    with started(tmp_path_factory.mktemp("strict"), "token.allow_rescope_scoped_token=false") as found:
        yield found


@row("SEC-26", "an EC2 key, or another credential, made by means of a trust", HOLDS)
def test_sec_26_a_trust_makes_no_credential(regions):
    home, friend = regions.household(), regions.household()
    regions.grant(friend.user, home.project)
    made = [trust(regions, home, friend, impersonation=impersonation) for impersonation in (True, False)]
    for one, at in itertools.product(made, NAMES):
        token = acting(regions, one, friend, at)
        for user in (home.user, friend.user):
            about = {"user_id": user["id"], "project_id": home.project["id"]}
            ec2 = f"/v3/users/{user['id']}/credentials/OS-EC2"
            regions.expect(403, "POST", ec2, {"tenant_id": home.project["id"]}, token=token, at=at)
            for kind in ("ec2", "cert"):
                sent = {"credential": KEY | about | {"type": kind}}
                regions.expect(403, "POST", "/v3/credentials", sent, token=token, at=at)
    for user in (home.user, friend.user):
        assert regions.expect(200, "GET", f"/v3/credentials?user_id={user['id']}")["credentials"] == []


@row("SEC-27", "a delegated token makes a further trust, application credential or access rule", HOLDS)
def test_sec_27_what_was_handed_on_hands_on_nothing(regions):
    estate = settle(regions)
    stranger = regions.household()
    owner, friend = (f"/v3/users/{one.user['id']}" for one in (estate.home, estate.friend))
    granted = f"/v3/projects/{estate.home.project['id']}/users/{estate.friend.user['id']}/roles/{estate.part['id']}"
    regions.expect(204, "PUT", granted)  # what the friend may hand on with a token of its own
    rule = program(regions, estate.home, estate.own, name="ruled", access_rules=[SERVERS])["access_rules"][0]
    regions.expect(204, "DELETE", place(estate.home, _named(regions, estate, "ruled")), token=estate.own)
    for number, at in enumerate(NAMES):
        for one in handed_on(regions, estate, at):
            roles = [{"id": estate.part["id"]}]
            sent = wish(estate.home, stranger, roles=roles, trustor_user_id=one.user_id)
            regions.expect(403, "POST", PATH, {"trust": sent}, token=one.token, at=at)
            programs = CREATES.format(one.user_id)
            for name, rules in (("plain", None), ("ruled", [SERVERS])):
                sent = {"name": f"{name} {number}", "roles": roles} | ({"access_rules": rules} if rules else {})
                status = 201 if one.name == "unrestricted" else 403
                regions.expect(status, "POST", programs, {"application_credential": sent}, token=one.token, at=at)
            if not one.is_program:
                regions.expect(403, "DELETE", f"{owner}/access_rules/{rule['id']}", token=one.token, at=at)
    for token, at in itertools.product(unserved(regions, estate), NAMES):
        regions.expect(401, "POST", PATH, {"trust": wish(estate.home, stranger)}, token=token, at=at)
        sent = {"application_credential": {"name": "unserved"}}
        regions.expect(401, "POST", f"{owner}/application_credentials", sent, token=token, at=at)
    names = sorted(one["name"] for one in _programs(regions, estate))
    assert names == sorted(
        ["restricted", "unrestricted", *(f"{kind} {turn}" for kind in ("plain", "ruled") for turn in range(3))]
    )
    assert len(_trusts(regions, estate)) == 2
    assert regions.expect(200, "GET", f"{friend}/application_credentials")["application_credentials"] == []


def _programs(regions, estate):
    path = CREATES.format(estate.home.user["id"])
    return regions.expect(200, "GET", path)["application_credentials"]


def _named(regions, estate, name):
    return next(one for one in _programs(regions, estate) if one["name"] == name)


def _trusts(regions, estate):
    found = regions.expect(200, "GET", f"{PATH}?trustor_user_id={estate.home.user['id']}")
    return found["trusts"]


@row("SEC-28", "a login by a trust that names another scope beside it", HOLDS)
def test_sec_28_a_trust_is_for_its_own_project_alone(regions):
    estate = settle(regions)
    regions.grant(estate.friend.user, estate.elsewhere, "manager")
    unscoped = regions.login(estate.friend.auth(None))
    by_trust = {"OS-TRUST:trust": {"id": estate.trust["id"]}}
    project = {"id": estate.elsewhere["id"]}
    beside = (
        {"project": project},
        {"domain": {"id": estate.friend.domain["id"]}},
        {"system": {"all": True}},
        {"unscoped": {}},
    )
    for at, other in itertools.product(NAMES, beside):
        for login in (token_login(unscoped, None), estate.friend.auth(None)):
            for scope in (by_trust | other, other | by_trust):
                answer = regions.log_in(login | {"scope": scope}, at)
                assert answer.status in (400, 401, 403), answer.body
    inside = {"OS-TRUST:trust": {"id": estate.trust["id"], "project": project, "project_id": project["id"]}}
    for at in NAMES:
        answer = regions.log_in(token_login(unscoped, inside), at)
        assert answer.status != 201 or answer.body["token"]["project"]["id"] == estate.home.project["id"]
        assert regions.log_in(token_login(unscoped, by_trust), at).status == 201


@row("SEC-29", "a delegated token is exchanged for one of any other scope, the default project among them", HOLDS)
def test_sec_29_a_delegated_token_makes_no_other(regions):
    estate = settle(regions)
    for scope in estate.scopes()[:8]:  # the owner could ask for each of these
        assert regions.log_in(token_login(regions.login(estate.home.auth(None)), scope)).status == 201
    for at in NAMES:
        for one, scope in itertools.product(handed_on(regions, estate, at), estate.scopes()):
            answer = regions.log_in(token_login(one.token, scope), at)
            assert answer.status == 403, (one.name, scope, answer.body)
            both = estate.home.auth(None)["identity"] | token_login(one.token, None)["identity"]
            two = {"identity": both | {"methods": ["password", "token"]}} | ({"scope": scope} if scope else {})
            assert regions.log_in(two, at).status in (401, 403)
        for token, scope in itertools.product(unserved(regions, estate), estate.scopes()):
            assert regions.log_in(token_login(token, scope), at).status == 404


@row("SEC-30", "an administrator's application credential on trusts; any delegated token on credentials", HOLDS)
def test_sec_30_delegated_tokens_manage_no_trust_and_see_no_credential(regions):
    estate = settle(regions, role="admin")
    everything = {"roles": [{"id": estate.home.role["id"]}, {"id": estate.part["id"]}]}
    owner = estate.home.user["id"]
    key = regions.make("credential", token=estate.own, **KEY, user_id=owner, project_id=estate.home.project["id"])
    others = regions.make("credential", type="cert", blob="b", user_id=estate.friend.user["id"])
    whole = trust(regions, estate.home, estate.friend, estate.own, **everything)
    powerful = program(regions, estate.home, estate.own, name="powerful", unrestricted=True, **everything)
    one = f"{PATH}/{whole['id']}"
    for at in NAMES:
        token = regions.login(by(powerful), at)
        assert regions.ask("GET", "/v3/users", token=token, at=at).status == 200, "it is an administrator's"
        lists = (
            "",
            f"?trustor_user_id={owner}",
            f"?trustee_user_id={owner}",
            f"?trustee_user_id={estate.friend.user['id']}",
        )
        paths = [f"{PATH}{query}" for query in lists]
        paths += [one, f"{one}/roles", f"{one}/roles/{estate.part['id']}"]
        for acts, (method, path) in itertools.product(
            (token, altered(regions, token, methods=delegations.EC2)), itertools.product(("GET", "HEAD"), paths)
        ):
            assert regions.ask(method, path, token=acts, at=at).status == 403, (method, path)
        regions.expect(403, "DELETE", one, token=token, at=at)
        sent = {"trust": wish(estate.home, estate.friend, **everything)}
        regions.expect(403, "POST", PATH, sent, token=token, at=at)
        by_trust = regions.login(using(whole, regions.login(estate.friend.auth(None), at)), at)
        for acts in (token, by_trust, *(some.token for some in handed_on(regions, estate, at))):
            _sees_and_makes_no_credential(regions, acts, at, owner, (key, others))
    assert len(_trusts(regions, estate)) == 3


def _sees_and_makes_no_credential(regions, token, at, owner, known):
    for query in ("", f"?user_id={owner}", "?type=ec2", f"?user_id={owner}&type=ec2"):
        answer = regions.ask("GET", f"/v3/credentials{query}", token=token, at=at)
        assert answer.status == 403 or answer.body["credentials"] == [], answer.body
    for credential in known:
        path = f"/v3/credentials/{credential['id']}"
        for method, sent in (("GET", None), ("PATCH", {"credential": {"blob": credential["blob"]}}), ("DELETE", None)):
            regions.expect(403, method, path, sent, token=token, at=at)
    regions.expect(
        403,
        "POST",
        "/v3/credentials",
        {"credential": {"type": "cert", "blob": "b", "user_id": owner}},
        token=token,
        at=at,
    )


@row("SEC-31", "a change of a credential's user, project or type", HOLDS)
def test_sec_31_of_a_credential_only_the_secret_changes(regions):
    home, other = regions.household(), regions.household()
    regions.grant(home.user, other.project)
    owner = {"user_id": home.user["id"], "project_id": home.project["id"]}
    token = regions.login(home.auth())
    moves = {"user_id": other.user["id"], "project_id": other.project["id"], "type": "cert"}
    for number, (at, by_whom) in enumerate(itertools.product(NAMES, (token, regions.admin))):
        blob = {"access": f"{home.user['id']} {number}", "secret": "s"}
        made = regions.make("credential", token=token, at=at, type="ec2", blob=json.dumps(blob), **owner)
        path = f"/v3/credentials/{made['id']}"
        for name, value in moves.items():
            for sent in ({name: value}, {name: value, "blob": made["blob"]}, {name: made[name]}, {name: None}):
                regions.expect(400, "PATCH", path, {"credential": sent}, token=by_whom, at=at)
        for name in ("trust_id", "app_cred_id", "access_token_id"):
            sent = {"credential": {"blob": json.dumps(blob | {name: "another"})}}
            regions.expect(400, "PATCH", path, sent, token=by_whom, at=at)
        known = {name: made[name] for name in ("id", "type", "user_id", "project_id", "blob")}
        assert regions.expect(200, "GET", path, token=token, at=at)["credential"].items() >= known.items()
        known["blob"] = json.dumps(blob | {"secret": "another"})
        changed = regions.expect(200, "PATCH", path, {"credential": {"blob": known["blob"]}}, token=by_whom, at=at)
        assert changed["credential"].items() >= known.items()


@row(
    "SEC-32", "a stolen token leaves back doors that nobody sees or can shut; it is exchanged where that is off", HOLDS
)
def test_sec_32_what_is_left_of_a_stolen_token_is_seen_and_shut(regions, strict):
    home, friend = regions.household(), regions.household()
    given, got = trust(regions, home, friend), trust(regions, friend, home)
    made = program(regions, home)
    user = f"/v3/users/{home.user['id']}"
    own = regions.login(home.auth())
    sent = {"tenant_id": home.project["id"]}
    key = regions.expect(201, "POST", f"{user}/credentials/OS-EC2", sent, token=own)["credential"]
    tokens = [own, acting(regions, given, friend), acting(regions, got, home), regions.login(by(made))]
    regions.becomes(200, *tokens)
    regions.expect(204, "DELETE", f"{user}/tokens")
    regions.becomes(404, *tokens)
    left = {
        f"{PATH}?trustor_user_id={home.user['id']}": ("trusts", "id", given["id"]),
        f"{PATH}?trustee_user_id={home.user['id']}": ("trusts", "id", got["id"]),
        f"{user}/application_credentials": ("application_credentials", "id", made["id"]),
        f"{user}/credentials/OS-EC2": ("credentials", "access", key["access"]),
        f"/v3/credentials?user_id={home.user['id']}&type=ec2": ("credentials", "user_id", home.user["id"]),
    }
    for at, (path, (collection, name, value)) in itertools.product(NAMES, left.items()):
        assert [one[name] for one in regions.expect(200, "GET", path, at=at)[collection]] == [value]
    for at in NAMES:
        assert regions.expect(200, "GET", f"{user}/OS-OAUTH1/access_tokens", at=at)["access_tokens"] == []
    _is_in_one_report(regions, home, made, given, got)
    regions.expect(200, "PATCH", user, {"user": {"enabled": False}})
    other = regions.login(friend.auth(None))
    for at in NAMES:
        assert regions.log_in(by(made), at).status == 401
        assert regions.log_in(using(given, other), at).status in (401, 403)
        assert regions.log_in(home.auth(None) | {"scope": using(got, other)["scope"]}, at).status == 401
    _a_token_with_a_scope_is_not_exchanged(strict)


def _is_in_one_report(regions, home, made, given, got):
    told = ask.admin(regions.home.admins[0], "/user/show", {"name": home.user["name"], "domain": home.domain["id"]})
    assert (told["id"], told["trusts_given"][0]["id"], told["trusts_held"][0]["id"]) == (
        home.user["id"],
        given["id"],
        got["id"],
    )
    assert [one["id"] for one in told["application_credentials"]] == [made["id"]]
    assert [one["type"] for one in told["credentials"]] == ["ec2"]
    assert home.role["id"] in {one["role_id"] for one in told["grants"]}
    assert told["tokens_void_up_to"] is not None
    assert home.secret not in repr(told)


def _a_token_with_a_scope_is_not_exchanged(strict):
    home = strict.household()
    for target in (f"domains/{home.domain['id']}", "system"):
        strict.expect(204, "PUT", f"/v3/{target}/users/{home.user['id']}/roles/{home.role['id']}")
    scopes = [home.auth(kind)["scope"] for kind in ("project", "domain", "system")]
    for at in NAMES:
        unscoped = strict.login(home.auth(None), at)
        for scope in scopes:
            scoped = [strict.login(home.auth(None) | {"scope": scope}, at), strict.rescope(unscoped, scope, at)]
            for token, wanted in itertools.product(scoped, (*scopes, "unscoped", None)):
                assert strict.log_in(token_login(token, wanted), at).status == 403


@row(
    "SEC-33",
    "a trust of roles that one lacks, or of somebody else; more uses or links than were granted, at once",
    HOLDS,
)
def test_sec_33_nobody_hands_on_what_is_not_theirs(regions):
    home, friend, stranger = (regions.household() for _ in range(3))
    own, friends = regions.login(home.auth()), regions.login(friend.auth())
    lacking = regions.make("role", name=f"not of {home.user['name']}")
    for at in NAMES:
        for role in ({"id": one["id"]} for one in (regions.roles["admin"], regions.roles["manager"], lacking)):
            for roles in ([role], [{"name": "member"}, role]):
                sent = {"trust": wish(home, friend, roles=roles)}
                regions.expect(404, "POST", PATH, sent, token=own, at=at)
        sent = {"trust": wish(home, friend, project_id=friend.project["id"])}
        regions.expect(404, "POST", PATH, sent, token=own, at=at)
        for token in (friends, regions.admin):
            for trustee in (friend, stranger):
                regions.expect(403, "POST", PATH, {"trust": wish(home, trustee)}, token=token, at=at)
    _uses_are_counted(regions, home, friend)
    _links_are_counted(regions, home, friend, stranger)


def at_once(ask, count=50):
    """What so many get who ask at the same time, each a region in turn."""
    with ThreadPoolExecutor(count) as pool:
        return sorted(pool.map(ask, itertools.islice(itertools.cycle(NAMES), count)))


def _uses_are_counted(regions, home, friend):
    unscoped = regions.login(friend.auth(None))
    for uses in (1, 7):
        made = trust(regions, home, friend, remaining_uses=uses)
        found = at_once(lambda at, made=made: regions.log_in(using(made, unscoped), at).status)
        assert found == [201] * uses + [401] * (50 - uses)


def _links_are_counted(regions, home, friend, stranger):
    first = trust(regions, home, friend, allow_redelegation=True, redelegation_count=1)
    holder = acting(regions, first, friend, "RegionOne")
    further = {"trust": wish(home, stranger, allow_redelegation=True, redelegation_count=1)}
    assert at_once(lambda at: regions.ask("POST", PATH, further, token=holder, at=at).status) == [403] * 50
    second = trust(regions, home, stranger, holder, "RegionTwo", allow_redelegation=True)
    assert (second["redelegated_trust_id"], second["redelegation_count"]) == (first["id"], 0)
    last = acting(regions, second, stranger, "RegionOne")
    for about in ({}, {"allow_redelegation": True}, {"redelegated_trust_id": first["id"]}):
        third = {"trust": wish(home, friend, **about)}
        assert at_once(lambda at, third=third: regions.ask("POST", PATH, third, token=last, at=at).status) == [403] * 50


@row("SEC-34", "a token forgets one step later, or in another region, that it was handed on", HOLDS)
def test_sec_34_a_delegated_token_stays_one_everywhere(regions):
    estate = settle(regions, role="admin")
    handed = {estate.part["name"], "member", "reader"}
    whole = handed | {"admin", "manager"}
    made = [(one, at) for at in NAMES for one in handed_on(regions, estate, at)]
    for (one, at), there in itertools.product(made, NAMES):
        project_id, roles = _power(regions, one.token, there)
        assert (project_id, roles) == (estate.home.project["id"], whole if one.name == "EC2" else handed), one.name
        status = 200 if one.name == "EC2" else 403
        assert regions.ask("GET", "/v3/users", token=one.token, at=there).status == status, (one.name, at, there)
    for (one, at), scope in itertools.product(made, estate.scopes()):
        there = NAMES[NAMES.index(at) - 1]
        assert regions.log_in(token_login(one.token, scope), there).status == 403, (one.name, scope)
    more = regions.make("role", name=f"more of {estate.home.user['name']}")
    place = f"/v3/projects/{estate.home.project['id']}/users/{estate.home.user['id']}/roles"
    regions.expect(204, "PUT", f"{place}/{more['id']}")
    regions.expect(204, "DELETE", f"{place}/{estate.part['id']}")
    for (one, _), there in itertools.product(made, NAMES):
        if "trust" in one.name:
            assert regions.validate(one.token, there).status == 404
            continue
        left = whole | {more["name"]} if one.name == "EC2" else handed
        assert _power(regions, one.token, there) == (estate.home.project["id"], left - {estate.part["name"]}), one.name
    unserved(regions, estate)


def _power(regions, token, at):
    """The project of a token and its roles there, as a region sees them."""
    answer = regions.validate(token, at)
    assert answer.status == 200, answer.body
    found = answer.body["token"]
    return found["project"]["id"], {role["name"] for role in found["roles"]}
