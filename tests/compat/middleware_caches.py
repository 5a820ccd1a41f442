"""Services under stock keystonemiddleware that keep tokens in memcached, and every way in which such a token ends."""

import secrets
import time
from contextlib import contextmanager

from keystonemiddleware import auth_token
from webob import Request

from regional_keystone.middleware_cache import Strategy, key, names
from tests.security.regions import started
from tests.site.cache_server import CacheServer

STRATEGIES = ("None", "MAC", "ENCRYPT")
SITES = ("RegionOne", "RegionTwo")
ELSEWHERE = {
    "RegionOne": "Global",
    "RegionTwo": "RegionOne",
    "Global": "RegionTwo",
}  # where it is said that a token ends
SECRET = "what all services of a region know"
PATIENCE_S = 20.0
LIMIT_S = 6.0  # how old a region's knowledge may be for tokens of the system


def _application(environ, start_response):
    start_response("200 OK", [])
    return [environ["HTTP_X_USER_ID"].encode()]


class Service:
    """A service of one region with the middleware's own defaults, but for its memcached and its strategy."""

    def __init__(self, member, operator, servers, strategy, secret, *, governs=False):
        """`governs`: its own token is the system's, not its project's."""
        settings = {
            **({"system_scope": "all"} if governs else {"project_id": operator.project["id"]}),
            "auth_type": "v3password",
            "auth_url": member.url,
            "www_authenticate_uri": member.url,
            "username": operator.user["name"],
            "user_domain_id": operator.domain["id"],
            "password": operator.secret,
            "region_name": member.region,
            "interface": "public",
            "memcached_servers": ",".join(servers),
            "memcache_security_strategy": strategy,
            "memcache_secret_key": secret,
        }
        self._guarded = auth_token.AuthProtocol(_application, settings)

    def status(self, token):
        return Request.blank("/", headers={"X-Auth-Token": token}).get_response(self._guarded).status_int


class Home:
    """Everything that one token can hang on, new and its own: `token` is the one that is going to end."""

    def __init__(self, regions, at):
        self.regions, self.at = regions, at
        self.house = regions.household()
        self.user, self.project, self.domain = (
            one["id"] for one in (self.house.user, self.house.project, self.house.domain)
        )

    def ask(self, status, method, path, body=None, **options):
        return self.regions.expect(status, method, f"/v3/{path}", body, at=self.at, **options)

    def login(self):
        return self.regions.login(self.house.auth(), self.at)

    def logins(self, count):
        return [self.login() for _ in range(count)]

    def grant(self, method, role, who="users", which=None):
        self.ask(204, method, f"projects/{self.project}/{who}/{which or self.user}/roles/{role}")

    def role(self):
        return self.regions.make("role", name=secrets.token_hex(8))["id"]

    def revoke(self, token):
        self.ask(204, "DELETE", "auth/tokens", X_Subject_Token=token)


def _token(home, count):
    tokens = home.logins(count)
    return tokens, lambda: [home.revoke(token) for token in tokens]


def _chain(home, count):
    first = home.login()
    scope = {"project": {"id": home.project}}
    made = [home.regions.rescope(first, scope, home.at) for _ in range(count)]
    return made, lambda: home.revoke(first)


def _all_of_a_user(home, count):
    return home.logins(count), lambda: home.ask(204, "DELETE", f"users/{home.user}/tokens")


def _patched(member, **fields):
    def cause(home, count):
        path = f"{member}s/{getattr(home, member)}"
        return home.logins(count), lambda: home.ask(200, "PATCH", path, {member: fields})

    return cause


def _deleted(member):
    def cause(home, count):
        return home.logins(count), lambda: home.ask(204, "DELETE", f"{member}s/{getattr(home, member)}")

    return cause


def _own_password(home, count):
    tokens, own = home.logins(count), home.login()
    body = {"user": {"original_password": home.house.secret, "password": secrets.token_hex(8)}}
    return tokens, lambda: home.ask(204, "POST", f"users/{home.user}/password", body, token=own)


def _grant(home, count):
    return home.logins(count), lambda: home.grant("DELETE", home.house.role["id"])


def _fewer_roles(home, count):
    """They stay valid; the middleware asks again."""
    role = home.role()
    home.grant("PUT", role)
    return home.logins(count), lambda: home.grant("DELETE", role)


def _role(home, count):
    role = home.role()
    home.grant("PUT", role)
    home.grant("DELETE", home.house.role["id"])
    return home.logins(count), lambda: home.ask(204, "DELETE", f"roles/{role}")


def _group(home, member):
    group = home.regions.make("group", name=secrets.token_hex(8), domain_id=home.domain)["id"]
    home.ask(204, "PUT", f"groups/{group}/users/{home.user}")
    home.grant("PUT", home.house.role["id"], "groups", group)
    home.grant("DELETE", home.house.role["id"])
    return f"groups/{group}/users/{home.user}" if member else f"groups/{group}"


def _membership(home, count):
    path = _group(home, member=True)
    return home.logins(count), lambda: home.ask(204, "DELETE", path)


def _group_gone(home, count):
    path = _group(home, member=False)
    return home.logins(count), lambda: home.ask(204, "DELETE", path)


def _trust(home, count):
    agent, role = home.regions.household(), home.house.role
    fields = {"trustor_user_id": home.user, "trustee_user_id": agent.user["id"], "project_id": home.project}
    body = {"trust": fields | {"impersonation": False, "roles": [{"id": role["id"]}]}}
    own = home.login()
    trust = home.ask(201, "POST", "OS-TRUST/trusts", body, token=own)["trust"]["id"]
    auth = agent.auth(None) | {"scope": {"OS-TRUST:trust": {"id": trust}}}
    tokens = [home.regions.login(auth, home.at) for _ in range(count)]
    return tokens, lambda: home.ask(204, "DELETE", f"OS-TRUST/trusts/{trust}", token=own)


def _application_credential(home, count):
    own, path = home.login(), f"users/{home.user}/application_credentials"
    made = home.ask(201, "POST", path, {"application_credential": {"name": "a"}}, token=own)["application_credential"]
    secret = {"id": made["id"], "secret": made["secret"]}
    auth = {"identity": {"methods": ["application_credential"], "application_credential": secret}}
    tokens = [home.regions.login(auth, home.at) for _ in range(count)]
    return tokens, lambda: home.ask(204, "DELETE", f"{path}/{made['id']}", token=own)


CAUSES = {
    "token revoked": _token,
    "chain revoked": _chain,
    "all of a user's": _all_of_a_user,
    "password, own": _own_password,
    "password, by an admin": _patched("user", password="another"),
    "user disabled": _patched("user", enabled=False),
    "user deleted": _deleted("user"),
    "project disabled": _patched("project", enabled=False),
    "project deleted": _deleted("project"),
    "domain disabled": _patched("domain", enabled=False),
    "grant removed": _grant,
    "role deleted": _role,
    "membership removed": _membership,
    "group deleted": _group_gone,
    "trust deleted": _trust,
    "application credential deleted": _application_credential,
}


def ended(service, tokens):
    """Seconds from now until the service turns each of these away."""
    began, found, waiting = time.perf_counter(), [], list(tokens)
    while waiting:
        assert time.perf_counter() - began < PATIENCE_S, f"{len(waiting)} of {len(tokens)} are let through still"
        still = []
        for token in waiting:
            if service.status(token) == 401:
                found.append(time.perf_counter() - began)
            else:
                still.append(token)
        waiting = still
        if waiting:
            time.sleep(0.005)
    return found


def entry(token, strategy):
    known = Strategy() if strategy == "None" else Strategy(strategy, SECRET.encode())
    return key(names(token, (known,))[0])


class Caches:
    """A federation whose sites know three servers, of which one is dead; services of both of its regions."""

    def __init__(self, regions, servers):
        self.regions, self.servers = regions, [CacheServer(one) for one in servers]
        self.operator = regions.household(role="service")
        path = f"/v3/system/users/{self.operator.user['id']}/roles/{regions.roles['admin']['id']}"
        regions.expect(204, "PUT", path)
        self.neighbour = regions.login(regions.household().auth())
        self.addresses = [one.address for one in self.servers]

    def service(self, at, strategy, servers=None, *, governs=False):
        member = self.regions.members[at]
        return Service(member, self.operator, servers or self.addresses, strategy, SECRET, governs=governs)

    def keys(self):
        return {key for one in self.servers[:2] for key in one.keys()}


@contextmanager
def federation(folder, servers, processes=1):
    """Two regions of so many processes each, that know of these memcached."""
    secret = folder / "memcache_secret_key"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    listed = ",".join(one.server for one in servers)
    sets = (f"servers={listed}", f"strategies=none,MAC:{secret},ENCRYPT:{secret}")
    more = (f"workers.processes={processes}", f"freshness.system={LIMIT_S}")
    with started(folder, *(f"middleware_cache.{one}" for one in sets), *more) as regions:
        yield Caches(regions, servers)
