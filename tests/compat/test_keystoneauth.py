"""keystoneauth's plugins, by the names that configuration files give them, at the controller and at a site."""

import pytest
from keystoneauth1 import adapter, discover, loading
from keystoneauth1.exceptions import Forbidden, NotFound, Unauthorized
from keystoneauth1.session import Session

from tests.security.regions import Regions

pytestmark = [pytest.mark.compat, pytest.mark.federation, pytest.mark.together("stock")]
PLACES = {"controller": "Global", "site": "RegionOne"}


class Place:
    """Plugins that ask one place, of users who are made somewhere."""

    def __init__(self, federation, region):
        self.regions, self.region = Regions(federation), region
        self.url = self.regions.members[region].url
        self.home, self.other = self.household(), self.household()

    def household(self):
        """A new user with a project, whom this place knows of."""
        home = self.regions.household()
        self.ask("GET", "/v3/regions", status=200)
        return home

    def plugin(self, kind, **options):
        return loading.get_plugin_loader(kind).load_from_options(auth_url=self.url, **options)

    def access(self, kind, **options):
        """What a plugin of this kind gets."""
        return self.plugin(kind, **options).get_access(Session())

    def ask(self, method, path, body=None, token=None, status=201):
        return self.regions.expect(status, method, path, body, token=token, at=self.region)


@pytest.fixture(scope="module", params=PLACES)
def place(request, federation):
    return Place(federation, PLACES[request.param])


def user(home, **other):
    """Its name and password, as options."""
    return {"username": home.user["name"], "user_domain_id": home.domain["id"], "password": home.secret, **other}


def project(home):
    return {"project_name": home.project["name"], "project_domain_name": home.domain["name"]}


@pytest.mark.parametrize("kind", ["v3password", "password"])
def test_a_password_gives_a_token_for_each_scope(place, kind):
    home, regions = place.home, place.regions
    role = regions.roles["reader"]["id"]
    regions.expect(204, "PUT", f"/v3/domains/{home.domain['id']}/users/{home.user['id']}/roles/{role}", at=place.region)
    regions.expect(204, "PUT", f"/v3/system/users/{home.user['id']}/roles/{role}", at=place.region)
    found = place.access(kind, **user(home), project_id=home.project["id"])
    assert (found.user_id, found.project_id) == (home.user["id"], home.project["id"])
    assert set(found.role_names) == {"member", "reader"}
    assert place.access(kind, **user(home), **project(home)).project_id == home.project["id"]
    found = place.access(kind, **user(home), domain_name=home.domain["name"])
    assert (found.domain_id, found.project_id, found.role_names) == (home.domain["id"], None, ["reader"])
    assert place.access(kind, **user(home), system_scope="all").system_scoped is True
    found = place.access(kind, **user(home), **({"unscoped": True} if kind == "v3password" else {}))
    assert (found.scoped, found.role_names, found.has_service_catalog()) == (False, [], False)


@pytest.mark.parametrize("wrong", [{"password": "another"}, {"username": "nobody"}, {"user_domain_id": "nowhere"}])
def test_what_is_wrong_is_unauthorized(place, wrong):
    with pytest.raises(Unauthorized):
        place.access("v3password", **user(place.other, **wrong), project_id=place.other.project["id"])


def test_a_project_of_others_is_unauthorized(place):
    with pytest.raises(Unauthorized):
        place.access("v3password", **user(place.home), project_id=place.other.project["id"])


@pytest.mark.parametrize("kind", ["v3token", "token"])
def test_a_token_gives_another_with_the_same_end(place, kind):
    home = place.home
    first = place.access("v3password", **user(home), unscoped=True)
    then = place.access(kind, token=first.auth_token, project_id=home.project["id"])
    assert (then.user_id, then.project_id, then.expires) == (home.user["id"], home.project["id"], first.expires)
    assert then.auth_token != first.auth_token
    assert then.audit_chain_id == first.audit_id


def test_an_application_credential_is_named_by_id_or_by_name_and_owner(place):
    home = place.home
    token = place.regions.login(home.auth(), place.region)
    path = f"/v3/users/{home.user['id']}/application_credentials"
    asked = {"name": f"robot-{place.region}", "roles": [{"name": "reader"}]}
    made = place.ask("POST", path, {"application_credential": asked}, token)["application_credential"]
    secret = {"application_credential_secret": made["secret"]}
    owner = {name: value for name, value in user(home).items() if name != "password"}
    for named in (
        {"application_credential_id": made["id"]},
        {"application_credential_name": made["name"], **owner},
    ):
        found = place.access("v3applicationcredential", **named, **secret)
        assert (found.user_id, found.project_id, found.role_names) == (home.user["id"], home.project["id"], ["reader"])
        assert found.application_credential_id == made["id"]
        with pytest.raises(Unauthorized):
            place.access("v3applicationcredential", **named, application_credential_secret="another")
    place.ask("DELETE", f"{path}/{made['id']}", token=token, status=204)
    with pytest.raises(Unauthorized):
        place.access("v3applicationcredential", application_credential_id=made["id"], **secret)


@pytest.mark.parametrize("impersonation", [True, False])
def test_a_trust_gives_the_trustee_what_was_handed_on(place, impersonation):
    home, trustee = place.home, place.other
    token = place.regions.login(home.auth(), place.region)
    asked = {
        "trustor_user_id": home.user["id"],
        "trustee_user_id": trustee.user["id"],
        "project_id": home.project["id"],
        "roles": [{"name": "member"}],
        "impersonation": impersonation,
    }
    trust = place.ask("POST", "/v3/OS-TRUST/trusts", {"trust": asked}, token)["trust"]
    found = place.access("v3password", **user(trustee), trust_id=trust["id"])
    assert found.user_id == (home.user if impersonation else trustee.user)["id"]
    assert (found.project_id, found.trust_id, found.trust_scoped) == (home.project["id"], trust["id"], True)
    assert (found.trustor_user_id, found.trustee_user_id) == (home.user["id"], trustee.user["id"])
    assert set(found.role_names) == {"member", "reader"}
    with pytest.raises(Forbidden):
        place.access("v3password", **user(home), trust_id=trust["id"])
    place.ask("DELETE", f"/v3/OS-TRUST/trusts/{trust['id']}", token=token, status=204)
    with pytest.raises((Unauthorized, NotFound)):
        place.access("v3password", **user(trustee), trust_id=trust["id"])


def test_two_methods_are_both_needed_by_who_has_such_a_rule(place):
    home = place.household()
    token = place.access("v3password", **user(home), unscoped=True).auth_token
    rules = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "token"]]}
    place.ask("PATCH", f"/v3/users/{home.user['id']}", {"user": {"options": rules}}, status=200)
    with pytest.raises(Unauthorized):
        place.access("v3password", **user(home), project_id=home.project["id"])
    both = {"auth_methods": ["v3password", "v3token"], "token": token, "project_id": home.project["id"]}
    found = place.access("v3multifactor", **user(home), **both)
    assert (found.user_id, found.project_id) == (home.user["id"], home.project["id"])
    for wrong in ({"password": "another"}, {"token": place.regions.login(place.other.auth())}, {"token": "nothing"}):
        with pytest.raises((Unauthorized, NotFound)):
            place.access("v3multifactor", **user(home) | both | wrong)


def test_a_session_whose_token_was_revoked_gets_another_by_itself(place):
    own = Session(place.plugin("v3password", **user(place.home), project_id=place.home.project["id"]))
    identity = adapter.Adapter(own, service_type="identity", region_name=place.region, interface="public")
    assert identity.get_endpoint() == place.url
    path = f"/users/{place.home.user['id']}"
    assert identity.get(path).json()["user"]["id"] == place.home.user["id"]
    first = own.get_token()
    assert identity.delete("/auth/tokens", headers={"X-Subject-Token": first}).status_code == 204
    assert identity.get(path).status_code == 200
    assert own.get_token() != first


def test_discovery_finds_version_3_from_the_root_and_from_itself(place):
    for url in (place.url, place.url.removesuffix("/v3")):
        found = discover.Discover(Session(), url)
        assert found.url_for("3").rstrip("/") == place.url
        assert found.version_data()[0]["raw_status"] == "stable"
