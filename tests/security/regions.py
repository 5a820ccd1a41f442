"""A federation of a controller and two regions as its clients see it, and households to attack in it."""

import contextlib
import secrets
import time
from typing import NamedTuple

from controller.probe import Client, password
from regional_keystone.web import POSITION
from tests.processes import ended, free_port, up

NAMES = ("Global", "RegionOne", "RegionTwo")
SOON_S = 10.0  # a second is promised; machines stall


class Household(NamedTuple):
    """A domain with a project and a user who is a member of it."""

    domain: dict
    project: dict
    user: dict
    secret: str
    role: dict

    def auth(self, scope="project", **other):
        """An `auth` of the user: for the project, the domain, the system, or with None for nothing in particular."""
        who = {"id": self.user["id"], "password": self.secret} | other
        found = {"identity": {"methods": ["password"], "password": {"user": who}}}
        scopes = {
            "project": {"project": {"id": self.project["id"]}},
            "domain": {"domain": {"id": self.domain["id"]}},
            "system": {"system": {"all": True}},
        }
        return found | ({"scope": scopes[scope]} if scope else {})


class Regions:
    """Asks any region, after whatever was seen anywhere before: nobody reads what is older than his own change."""

    def __init__(self, home):
        self.home = home
        self.members = dict(zip(NAMES, home.members(), strict=True))
        self.position = 0
        auth = password("admin", home.password(), "default")
        self.admin = self.login(auth | {"scope": {"project": {"name": "admin", "domain": {"id": "default"}}}})
        self.roles = {one["name"]: one for one in self.ask("GET", "/v3/roles").body["roles"]}

    def wait(self):
        """Until every region answers logins: one that has just joined may not have its keys yet."""
        end = time.monotonic() + SOON_S
        while any(self.ask("GET", "/v3/users", at=at).status == 503 for at in NAMES):
            assert time.monotonic() < end, "a region does not answer"
            time.sleep(0.02)

    def ask(self, method, path, body=None, /, token=None, at="Global", **headers):
        """(status, headers, body); by the administrator unless a token is given, and "" is none at all."""
        headers.setdefault(POSITION.replace("-", "_"), str(self.position))
        with Client(self.members[at], self.admin if token is None else token) as client:
            answer = client.ask(method, path, body, **headers)
        self.position = max(self.position, int(answer.headers.get(POSITION.lower(), "0").partition("+")[0]))
        return answer

    def expect(self, status, method, path, body=None, /, **options):
        """The body of an answer that has to have this status."""
        answer = self.ask(method, path, body, **options)
        assert answer.status == status, (method, path, answer.status, answer.body)
        return answer.body

    def make(self, member, path=None, /, token=None, at="Global", **fields):
        """A new record."""
        return self.expect(201, "POST", path or f"/v3/{member}s", {member: fields}, token=token, at=at)[member]

    def log_in(self, auth, at="Global", **headers):
        """The answer of a login, whatever it is."""
        return self.ask("POST", "/v3/auth/tokens", {"auth": auth}, token="", at=at, **headers)

    def login(self, auth, at="Global"):
        """A token by `auth`."""
        answer = self.log_in(auth, at)
        assert answer.status == 201, answer.body
        return answer.headers["x-subject-token"]

    def rescope(self, token, scope, at="Global"):
        """A further token by this one."""
        return self.login({"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}, at)

    def validate(self, token, at="Global", by=None, query=""):
        """What a service that validates this token is answered."""
        return self.ask("GET", f"/v3/auth/tokens{query}", token=by, at=at, X_Subject_Token=token)

    def statuses(self, token, **options):
        """What validations of it get, in each region."""
        return [self.validate(token, at, **options).status for at in NAMES]

    def becomes(self, status, *tokens):
        """Each of these is answered so in every region, soon and from then on."""
        end = time.monotonic() + SOON_S
        while any(set(self.statuses(token)) != {status} for token in tokens):
            assert time.monotonic() < end, [self.statuses(token) for token in tokens]
            time.sleep(0.02)
        for token in tokens:
            assert set(self.statuses(token)) == {status}

    def household(self, *, role="member", domain=None):
        """A new domain, or another project and user in one, with a role for the user on the project."""
        name, secret = f"h{secrets.token_hex(6)}", secrets.token_hex(8)
        domain = domain or self.make("domain", name=name)
        project = self.make("project", name=name, domain_id=domain["id"])
        user = self.make("user", name=name, domain_id=domain["id"], password=secret)
        self.grant(user, project, role)
        return Household(domain, project, user, secret, self.roles[role])

    def grant(self, user, project, role="member", method="PUT"):
        """Give or, by DELETE, take a role on a project."""
        path = f"/v3/projects/{project['id']}/users/{user['id']}/roles/{self.roles[role]['id']}"
        self.expect(204, method, path)


@contextlib.contextmanager
def started(folder, *settings):
    """A federation with these settings, as `section.option=value`, that is gone afterwards; none of it saw a bug."""
    with ended(folder / "federation") as home:
        sets = [word for one in ("identity.password_hash_rounds=4", *settings) for word in ("--set", one)]
        done = up(home, "--sites", "RegionOne,RegionTwo", "--port", str(free_port()), *sets)
        assert done.returncode == 0, done.stderr
        found = Regions(home)
        found.wait()
        yield found
        assert "Traceback" not in "".join(path.read_text() for path in (home.directory / "logs").iterdir())
