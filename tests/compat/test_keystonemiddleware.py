"""A small service under keystonemiddleware's auth_token, which asks a site: whom it lets through, and what it tells."""

import json
import secrets
import time

import pytest
from keystonemiddleware import auth_token
from webob import Request

from regional_keystone.key_directory import read_directory
from regional_keystone.token import ProjectScope, Token, new_audit_id, pack
from tests.security.regions import Regions

pytestmark = [
    pytest.mark.compat,
    pytest.mark.federation,
    pytest.mark.together("stock"),
]
SITE = "RegionOne"
HOUR_US = 3600 * 1_000_000
TOLD = ("X-Identity-Status", "X-Service-Identity-Status", "X-User-Id", "X-Project-Id", "X-Domain-Id", "X-Roles",
        "X-Service-User-Id", "X-Service-Roles", "OpenStack-System-Scope")  # fmt: skip


def application(environ, start_response):
    """Tells what the middleware has told it."""
    start_response("200 OK", [("Content-Type", "application/json")])
    headers = Request(environ).headers
    return [json.dumps({name: headers.get(name) for name in TOLD}).encode()]


class Cloud:
    """Users anywhere, and services that ask the site about them."""

    def __init__(self, federation):
        self.federation, self.regions = federation, Regions(federation)
        self.operator = self.household(role="service")
        self.site = self.regions.members[SITE]

    def household(self, **options):
        """A new user with a project, whom the site knows of."""
        home = self.regions.household(**options)
        self.settle()
        return home

    def settle(self):
        """Until the site has all that was changed anywhere."""
        self.regions.expect(200, "GET", "/v3/regions", at=SITE)

    def service(self, **options):
        """A service whose own user has the role `service`; it remembers no token unless told so."""
        chosen = {
            "auth_type": "v3password",
            "auth_url": self.site.url,
            "www_authenticate_uri": self.site.url,
            "username": self.operator.user["name"],
            "user_domain_id": self.operator.domain["id"],
            "password": self.operator.secret,
            "project_id": self.operator.project["id"],
            "region_name": SITE,
            "interface": "public",
            "token_cache_time": "-1",
        }
        return Service(auth_token.AuthProtocol(application, chosen | options))

    def service_token(self):
        return self.regions.login(self.operator.auth(), SITE)

    def expired(self, home, since_us):
        """A token as the site issued it in the past, that ended so long ago."""
        ring = read_directory(self.federation.state(SITE) / "fernet-keys")
        ended = int(time.time()) * 1_000_000 - since_us
        token = Token(
            user_id=home.user["id"],
            methods=("password",),
            scope=ProjectScope(home.project["id"]),
            expires_at=ended,
            issued_at=ended - HOUR_US,
            audit_ids=(new_audit_id(secrets.token_bytes(16)),),
        )
        return ring.seal(pack(token), token.issued_at)


class Service:
    def __init__(self, guarded):
        self._guarded = guarded

    def answer(self, token=None, service_token=None, path="/", method="GET", **headers):
        sent = {"X-Auth-Token": token, "X-Service-Token": service_token} | headers
        sent = {name.replace("_", "-"): value for name, value in sent.items() if value is not None}
        return Request.blank(path, method=method, headers=sent).get_response(self._guarded)

    def status(self, *args, **options):
        return self.answer(*args, **options).status_int

    def told(self, *args, **options):
        answer = self.answer(*args, **options)
        assert answer.status_int == 200
        return {name: value for name, value in answer.json.items() if value is not None}


@pytest.fixture(scope="module")
def cloud(federation):
    return Cloud(federation)


@pytest.fixture(scope="module")
def home(cloud):
    return cloud.household()


def test_the_service_is_told_who_asks_and_nothing_that_the_caller_made_up(cloud, home):
    token = cloud.regions.login(home.auth(), SITE)
    told = cloud.service().told(token, X_Roles="admin", X_User_Id="somebody", OpenStack_System_Scope="all")
    assert set(told.pop("X-Roles").split(",")) == {"member", "reader"}
    assert told == {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": home.user["id"],
        "X-Project-Id": home.project["id"],
    }


@pytest.mark.parametrize("scope", ["domain", "system", None])
def test_the_service_is_told_of_other_scopes(cloud, scope):
    home = cloud.household()
    role = cloud.regions.roles["reader"]["id"]
    for where in (f"domains/{home.domain['id']}", "system"):
        cloud.regions.expect(204, "PUT", f"/v3/{where}/users/{home.user['id']}/roles/{role}", at=SITE)
    told = cloud.service().told(cloud.regions.login(home.auth(scope), SITE))
    assert told.get("X-Domain-Id") == (home.domain["id"] if scope == "domain" else None)
    assert told.get("OpenStack-System-Scope") == ("all" if scope == "system" else None)
    assert told.get("X-Roles") == ("reader" if scope else None) or not told.get("X-Roles")
    assert "X-Project-Id" not in told


def test_nobody_is_let_through_without_a_good_token(cloud):
    service = cloud.service()
    for token in (None, "nothing"):
        answer = service.answer(token)
        assert answer.status_int == 401
        assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{cloud.site.url}"'


def test_a_service_that_decides_by_itself_is_told_what_the_token_is_worth(cloud, home):
    service = cloud.service(delay_auth_decision="true")
    assert service.told() == {"X-Identity-Status": "Invalid"}
    assert service.told("nothing", X_Roles="admin") == {"X-Identity-Status": "Invalid"}
    assert service.told(cloud.regions.login(home.auth(), SITE))["X-Identity-Status"] == "Confirmed"


@pytest.mark.parametrize("at", ["Global", "RegionTwo"])
def test_a_revocation_elsewhere_ends_it_here_unless_the_service_remembers(cloud, home, at):
    token = cloud.regions.login(home.auth(), SITE)
    asking, remembering = cloud.service(), cloud.service(token_cache_time="300")
    assert [one.status(token) for one in (asking, remembering)] == [200, 200]
    cloud.regions.expect(204, "DELETE", "/v3/auth/tokens", at=at, X_Subject_Token=token)
    cloud.regions.becomes(404, token)
    assert [one.status(token) for one in (asking, remembering)] == [401, 200]


@pytest.fixture(scope="module")
def robot(cloud, home):
    """A token of an application credential for two requests of a service that is in the catalog."""
    kind = f"compute-{secrets.token_hex(4)}"
    made = cloud.regions.make("service", type=kind, name=kind)
    cloud.regions.make("endpoint", service_id=made["id"], interface="public", url="http://compute", region_id=SITE)
    rules = [
        {"service": kind, "method": "GET", "path": "/v2.1/servers"},
        {"service": kind, "method": "POST", "path": "/v2.1/servers/*/action"},
        {"service": "identity", "method": "GET", "path": "/v3/auth/catalog"},
    ]
    path = f"/v3/users/{home.user['id']}/application_credentials"
    asked = {"name": kind, "access_rules": rules}
    own = cloud.regions.login(home.auth(), SITE)
    answer = cloud.regions.expect(201, "POST", path, {"application_credential": asked}, token=own, at=SITE)
    found = answer["application_credential"]
    secret = {"id": found["id"], "secret": found["secret"]}
    token = cloud.regions.login(
        {"identity": {"methods": ["application_credential"], "application_credential": secret}}, SITE
    )
    yield kind, token
    cloud.regions.expect(204, "DELETE", f"/v3/services/{made['id']}", at=SITE)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2.1/servers", 200),
        ("POST", "/v2.1/servers/one/action", 200),
        ("POST", "/v2.1/servers", 401),
        ("DELETE", "/v2.1/servers", 401),
        ("GET", "/v2.1/servers/one", 401),
        ("POST", "/v2.1/servers/one/two/action", 401),
        ("GET", "/v3/auth/catalog", 401),
    ],
)
def test_access_rules_let_through_what_they_name(cloud, robot, method, path, status):
    kind, token = robot
    service = cloud.service(service_type=kind)
    assert service.status(token, path=path, method=method) == status
    assert service.status(token, cloud.service_token(), path=path, method=method) == 200


@pytest.mark.parametrize("kind", [None, "identity", "volume"])
def test_access_rules_shut_out_of_services_that_they_do_not_name(cloud, robot, kind):
    service = cloud.service(**({"service_type": kind} if kind else {}))
    assert service.status(robot[1], path="/v2.1/servers") == 401


def test_a_service_that_does_not_know_of_access_rules_is_told_nothing_of_the_token(cloud, robot):
    answer = cloud.regions.validate(robot[1], SITE, by=cloud.service_token())
    assert answer.status == 404


def test_only_the_token_of_a_service_vouches_for_a_request(cloud, home):
    service, token = cloud.service(), cloud.regions.login(home.auth(), SITE)
    told = service.told(token, cloud.service_token())
    assert told["X-Service-Identity-Status"] == "Confirmed"
    assert told["X-Service-User-Id"] == cloud.operator.user["id"]
    assert told["X-Service-Roles"] == "service"
    assert told["X-User-Id"] == home.user["id"]
    another = cloud.regions.login(home.auth(), SITE)
    assert [service.status(token, one) for one in (another, "nothing")] == [401, 401]
    trusting = cloud.service(service_token_roles="member")
    assert [trusting.status(token, one) for one in (another, cloud.service_token())] == [200, 401]


def test_a_service_may_finish_with_a_token_that_has_expired(cloud, home):
    service, vouched = cloud.service(), cloud.service_token()
    recent, old = cloud.expired(home, HOUR_US // 60), cloud.expired(home, 49 * HOUR_US)
    assert [service.status(one) for one in (recent, old)] == [401, 401]
    assert [service.status(one, vouched) for one in (recent, old)] == [200, 401]
    assert service.told(recent, vouched)["X-User-Id"] == home.user["id"]
    assert service.status(recent, cloud.regions.login(home.auth(), SITE)) == 401


def test_what_was_revoked_since_is_not_finished(cloud):
    home = cloud.household()
    service, vouched, token = cloud.service(), cloud.service_token(), cloud.expired(home, HOUR_US // 60)
    assert service.status(token, vouched) == 200
    cloud.regions.expect(200, "PATCH", f"/v3/users/{home.user['id']}", {"user": {"password": "another"}})
    cloud.settle()
    assert service.status(token, vouched) == 401
