#!/usr/bin/env python3
"""Record how Keystone 30.0.0 answers a battery of requests.

Starts a fresh Keystone (SQLite, Fernet) on a free loopback port, bootstraps
it, plays every section of the battery below and writes
tests/golden/upstream/exchanges.json (see normalise.py for the format).  Run
with the python of a throw-away virtual environment:

    python3 -m venv ks30
    ks30/bin/pip install keystone==30.0.0 waitress
    ks30/bin/python tests/golden/record_upstream.py [output.json]

With --check the battery is played on the fresh Keystone and compared with the
recorded file instead of replacing it: differences are things which are not
deterministic.  --only SECTION,SECTION limits the run (nothing is written).
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import normalise  # noqa: E402

ADMIN_PASSWORD = "golden-admin-pw"
CONF = """[DEFAULT]
log_file = {tmp}/keystone.log
[database]
connection = sqlite:///{tmp}/keystone.db
[identity]
password_hash_rounds = 4
[fernet_tokens]
key_repository = {tmp}/keys
[fernet_receipts]
key_repository = {tmp}/keys
[credential]
key_repository = {tmp}/keys
"""
LAUNCH = """import os, sys
sys.argv = sys.argv[:1]
from keystone.wsgi.api import application
import waitress
waitress.serve(application, host='127.0.0.1', port={port}, threads=4,
               ident=None)
"""


class Keystone:
    """A bootstrapped Keystone in a temporary directory; `python` has it installed, `launch` is what serves it.

    `empty`: where a database without rows is kept for the next time; making its tables takes long.
    """

    def __init__(self, extra_conf="", python=sys.executable, launch=LAUNCH, empty=None):
        self.python = python
        self.dir = tempfile.TemporaryDirectory()
        tmp = self.dir.name
        self.conf = os.path.join(tmp, "keystone.conf")
        with open(self.conf, "w") as f:
            f.write(CONF.format(tmp=tmp) + extra_conf)
        os.mkdir(os.path.join(tmp, "keys"))
        for n in "01":
            with open(os.path.join(tmp, "keys", n), "wb") as f:
                f.write(base64.urlsafe_b64encode(os.urandom(32)))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        url = f"http://127.0.0.1:{self.port}/v3"
        self.make_tables(empty)
        self.manage(
            "bootstrap",
            "--bootstrap-password",
            ADMIN_PASSWORD,
            "--bootstrap-username",
            "admin",
            "--bootstrap-project-name",
            "admin",
            "--bootstrap-role-name",
            "admin",
            "--bootstrap-service-name",
            "keystone",
            "--bootstrap-region-id",
            "RegionOne",
            "--bootstrap-admin-url",
            url,
            "--bootstrap-public-url",
            url,
            "--bootstrap-internal-url",
            url,
        )
        launcher = os.path.join(tmp, "launch.py")
        with open(launcher, "w") as f:
            f.write(launch.format(port=self.port))
        self.process = subprocess.Popen(
            [self.python, "-W", "ignore", launcher],
            env=dict(os.environ, OS_KEYSTONE_CONFIG_FILES=self.conf),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)

    def make_tables(self, empty):
        database = os.path.join(self.dir.name, "keystone.db")
        if empty and os.path.exists(empty):
            shutil.copyfile(empty, database)
            return
        self.manage("db_sync")
        if empty:
            shutil.copyfile(database, f"{empty}.{os.getpid()}")
            os.replace(f"{empty}.{os.getpid()}", empty)

    def manage(self, *args):
        subprocess.run(
            [
                self.python,
                "-W",
                "ignore",
                "-c",
                'import sys; from keystone.cmd.manage import main; sys.argv[0] = "keystone-manage"; sys.exit(main())',
                "--config-file",
                self.conf,
                *args,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.dir.cleanup()


# --------------------------------------------------------------------------
# The battery.  Each section is a function which yields into `b`.

SECTIONS = []


def section(f):
    SECTIONS.append(f)
    return f


# Answers that depend on what other sections created.
GLOBAL = {
    (m, "/v3/" + p)
    for m in ("GET", "HEAD")
    for p in (
        "domains",
        "endpoints",
        "groups",
        "projects",
        "regions",
        "role_assignments",
        "role_inferences",
        "roles",
        "services",
        "users",
    )
}


class Battery:
    def __init__(self, port, exchanges):
        self.port = port
        self.exchanges = exchanges
        self.names = set()
        self.alone = False
        self.token = "admin"

    def start(self, name):
        self.section = name
        self.token = "admin"
        self.player = normalise.Player("127.0.0.1", self.port, variables={"admin_password": ADMIN_PASSWORD})
        self.player.symbols.strict = True

    def __call__(
        self,
        name,
        method,
        path,
        body=None,
        token="",
        capture=None,
        headers=None,
        pause=0,
        glob=False,
        raw=None,
        repeat=None,
        **cap,
    ):
        """One exchange.  cap: kind_name='where' is a short capture."""
        n, base = 1, f"{self.section}/{name}"
        name = base
        while name in self.names:
            n += 1
            name = f"{base} #{n}"
        self.names.add(name)
        h = dict(headers or {})
        t = self.token if token == "" else token
        if t is not None:
            h.setdefault("X-Auth-Token", f"<token:{t}>")
        request = {"method": method, "path": path, "headers": h}
        if raw is not None:
            request["raw"] = raw
        elif repeat is not None:
            request["repeat"] = repeat
        elif body is not None:
            request["body"] = body
        x = {"section": self.section, "name": name, "request": request}
        if capture:
            x["capture"] = capture
        if pause:
            x["pause"] = pause
        if glob or (method, path) in GLOBAL:
            x["global"] = True
            x |= {"alone": True} if self.alone else {}
        if re.search(r"[?&](limit|marker)=|implies of da after", path + name):
            x["order"] = True
        x["response"] = self.player.play(x)
        self.exchanges.append(x)
        return x["response"]

    # -- helpers

    def auth(
        self,
        name,
        user=None,
        scope=None,
        save=None,
        domain="default",
        password=None,
        methods=None,
        identity=None,
        query="",
        **kw,
    ):
        """POST /v3/auth/tokens with a password."""
        if identity is None:
            if user is None:
                user, password = "admin", "<var:admin_password>"
            u = {"password": password if password is not None else "pw-1234"}
            if user.startswith("<"):
                u["id"] = user
            else:
                u["name"] = user
                u["domain"] = {"id": domain}
            identity = {"methods": methods or ["password"], "password": {"user": u}}
        body = {"auth": {"identity": identity}}
        if scope is not None:
            body["auth"]["scope"] = scope
        cap = {}
        if save:
            cap = {f"token:{save}": "header:X-Subject-Token", f"audit:{save}": "token.audit_ids.0"}
        return self(name, "POST", "/v3/auth/tokens" + query, body, token=None, capture=cap, **kw)

    def create(self, kind, symbol, body, plural=None, **kw):
        """POST /v3/<kind>s and remember the id as <id:kind:symbol>."""
        plural = plural or kind + "s"
        return self(
            f"create {kind} {symbol}",
            "POST",
            f"/v3/{plural}",
            {kind: body},
            capture={f"id:{kind}:{symbol}": f"{kind}.id"},
            **kw,
        )

    def prelude(self, member=True):
        """Tokens and ids nearly every section needs."""
        s = self.section
        self.auth("login admin", scope={"project": {"name": "admin", "domain": {"id": "default"}}}, save="admin")
        self(
            "roles",
            "GET",
            "/v3/roles",
            glob=True,
            capture={
                f"id:role:{r}": f"roles[name={r}].id" for r in ("admin", "manager", "member", "reader", "service")
            },
        )
        self(
            "admin project",
            "GET",
            "/v3/projects?name=admin&domain_id=default",
            capture={"id:project:admin": "projects.0.id"},
        )
        self("admin user", "GET", "/v3/users?name=admin&domain_id=default", capture={"id:user:admin": "users.0.id"})
        self(
            "identity service",
            "GET",
            "/v3/services?type=identity",
            capture={"id:service:identity": "services[name=keystone].id"},
        )
        self.auth("login admin on the system", scope={"system": {"all": True}}, save="system")
        if not member:
            return
        self.create("domain", "own", {"name": f"{s}-own"})
        self.create("project", "own", {"name": f"{s}-own", "domain_id": "<id:domain:own>"})
        self.create("user", "own", {"name": f"{s}-own", "domain_id": "<id:domain:own>", "password": "pw-1234"})
        self("grant member", "PUT", "/v3/projects/<id:project:own>/users/<id:user:own>/roles/<id:role:member>")
        self.auth("login member", "<id:user:own>", save="member", scope={"project": {"id": "<id:project:own>"}})

    def gethead(self, name, path, **kw):
        self("GET " + name, "GET", path, **kw)
        kw.pop("capture", None)
        self("HEAD " + name, "HEAD", path, **kw)

    def bad_fields(self, kind, path, fields, base=None, method="POST", verb="create", **kw):
        """One request per wrong value of a field."""
        for field, values in fields.items():
            for i, value in enumerate(values):
                body = {k: v.replace("#", f"{field}-{i}") if isinstance(v, str) else v for k, v in (base or {}).items()}
                body[field] = value
                shown = json.dumps(value)
                if len(shown) > 30:
                    shown = f"{shown[:10]}... ({len(shown)})"
                name = f"{verb} {kind} {field}={shown}"
                self(name, method, path, {kind: body}, glob=field == "region_id" and value == " ", **kw)
                self.tidy(name, kind, method)

    def tidy(self, name, kind, method):
        """Delete what shows up in the lists or tokens of other sections."""
        status, _headers, body = self.player.last_raw
        if method != "POST" or status != 201 or kind not in ("service", "endpoint", "region", "role"):
            return
        x = self.exchanges[-1]
        response = x.pop("response")
        x["capture"] = {f"id:{kind}:tmp": f"{kind}.id"}
        self.player.symbols.bind(f"id:{kind}:tmp", body[kind]["id"])
        x["response"] = self.player.normalise(*self.player.last_raw)
        del response
        if re.fullmatch(r"[\w-]+", body[kind]["id"]):
            self("tidy " + name, "DELETE", f"/v3/{kind}s/<id:{kind}:tmp>")

    def bad_bodies(self, kind, path, method="POST"):
        """Bodies which are wrong as a whole."""
        t = {"X-Auth-Token": f"<token:{self.token}>"}
        n = f"{method} {kind} body "
        self(n + "absent", method, path)
        self(n + "empty object", method, path, {})
        self(n + "null member", method, path, {kind: None})
        self(n + "text member", method, path, {kind: "x"})
        self(n + "list member", method, path, {kind: []})
        self(n + "empty member", method, path, {kind: {}})
        self(n + "wrong key", method, path, {"other": {"name": "x"}})
        self(n + "extra key", method, path, {kind: {"name": "extra-key-" + kind}, "other": 1})
        self.tidy(n + "extra key", kind, method)
        self(n + "array", method, path, raw="[]", headers=dict(t, **{"Content-Type": "application/json"}))
        self(n + "not JSON", method, path, raw='{"', headers=dict(t, **{"Content-Type": "application/json"}))
        self(n + "wrong type", method, path, raw="{}", headers=dict(t, **{"Content-Type": "text/plain"}))

    def denied(self, method, path, body=None, name=None):
        """Without a token, with a bad one, with a member's token."""
        n = name or f"{method} {path}"
        self(n + " without token", method, path, body, token=None)
        self(n + " garbage token", method, path, body, headers={"X-Auth-Token": "garbage"}, token=None)
        self(n + " as member", method, path, body, token="member")


LONG = {n: "x" * n for n in (64, 65, 255, 256)}
WRONG = [None, "", " ", 5, True, [], {}]
WRONG_BOOL = [None, "", "true", "no", "maybe", 1, 0, 5, [], {}]
GONE = "0123456789abcdef0123456789abcdef"


@section
def discovery(b):
    b.token = None
    for m in ("GET", "HEAD"):
        b(f"{m} /", m, "/")
        b(f"{m} /v3", m, "/v3")
        b(f"{m} /v3/", m, "/v3/")
    b("GET / json-home", "GET", "/", headers={"Accept": "application/json-home"})
    b("GET /v3 json", "GET", "/v3", headers={"Accept": "application/json"})
    b("GET /v3 any", "GET", "/v3", headers={"Accept": "*/*"})
    b("GET /v3 html", "GET", "/v3", headers={"Accept": "text/html"})
    b("GET /v3 prefers json-home", "GET", "/v3", headers={"Accept": "application/json;q=0.5, application/json-home"})
    b("GET /v3 garbage token", "GET", "/v3", headers={"X-Auth-Token": "garbage"})
    b("GET / garbage token", "GET", "/", headers={"X-Auth-Token": "garbage"})
    b("GET /v2.0", "GET", "/v2.0")
    b("GET /v4", "GET", "/v4")
    b("GET unknown", "GET", "/v3/nothing")
    b("POST unknown", "POST", "/v3/nothing", {"a": 1})
    b("GET unknown deep", "GET", "/v3/users/x/y/z")
    b("GET double slash", "GET", "/v3//users")
    b("GET outside v3", "GET", "/users")
    for m in ("POST", "PUT", "PATCH", "DELETE"):
        b(f"{m} /", m, "/")
        b(f"{m} /v3", m, "/v3")
    b("OPTIONS /v3", "OPTIONS", "/v3")
    b("OPTIONS users", "OPTIONS", "/v3/users")
    b("TRACE users", "TRACE", "/v3/users")
    b("GET healthcheck", "GET", "/healthcheck")
    b(
        "login",
        "POST",
        "/v3/auth/tokens",
        {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {"name": "admin", "domain": {"id": "default"}, "password": "<var:admin_password>"}
                    },
                }
            }
        },
        capture={"token:u": "header:X-Subject-Token", "audit:u": "token.audit_ids.0"},
    )
    b.token = "u"
    b("GET unknown with token", "GET", "/v3/nothing")
    for m, p in (
        ("PUT", "/v3/users"),
        ("DELETE", "/v3/users"),
        ("PATCH", "/v3/projects"),
        ("POST", "/v3/users/x"),
        ("PUT", "/v3/auth/tokens"),
        ("PATCH", "/v3/auth/tokens"),
        ("POST", "/v3/auth/catalog"),
        ("PUT", "/v3/services/x"),
        ("POST", "/v3/regions/x"),
        ("POST", "/v3/role_assignments"),
        ("POST", "/v3/projects/x/users/y/roles/z"),
        ("DELETE", "/v3/role_inferences"),
    ):
        b(f"{m} {p} not allowed", m, p)
        b(f"{m} {p} not allowed, no token", m, p, token=None)
    b(
        "body of 114688 bytes",
        "POST",
        "/v3/auth/tokens",
        repeat=["x", 114688],
        headers={"Content-Type": "application/json"},
    )
    b(
        "body of 114689 bytes",
        "POST",
        "/v3/auth/tokens",
        repeat=["x", 114689],
        headers={"Content-Type": "application/json"},
    )
    b(
        "body of 200000 bytes on GET",
        "GET",
        "/v3/users",
        repeat=["x", 200000],
        headers={"Content-Type": "application/json"},
    )


@section
def auth_issue(b):
    b.prelude()
    me = {"id": "<id:user:own>", "password": "pw-1234"}
    b.auth("unscoped implicit", "<id:user:own>", save="un")
    b.auth("unscoped explicit text", "<id:user:own>", "unscoped")
    b.auth("unscoped explicit object", "<id:user:own>", {"unscoped": {}})
    b.auth("scope other text", "<id:user:own>", "everything")
    b.auth("scope empty object", "<id:user:own>", {})
    b.auth(
        "by name and domain name",
        identity={
            "methods": ["password"],
            "password": {
                "user": {"name": "auth_issue-own", "domain": {"name": "auth_issue-own"}, "password": "pw-1234"}
            },
        },
    )
    b.auth(
        "by name and domain id",
        identity={
            "methods": ["password"],
            "password": {
                "user": {"name": "auth_issue-own", "domain": {"id": "<id:domain:own>"}, "password": "pw-1234"}
            },
        },
    )
    b.auth(
        "by name without domain",
        identity={"methods": ["password"], "password": {"user": {"name": "auth_issue-own", "password": "pw-1234"}}},
    )
    b.auth("project by id", "<id:user:own>", {"project": {"id": "<id:project:own>"}}, save="p")
    b.auth("project by id nocatalog", "<id:user:own>", {"project": {"id": "<id:project:own>"}}, query="?nocatalog")
    b.auth("project by id nocatalog=0", "<id:user:own>", {"project": {"id": "<id:project:own>"}}, query="?nocatalog=0")
    b.auth(
        "project by name and domain id",
        "<id:user:own>",
        {"project": {"name": "auth_issue-own", "domain": {"id": "<id:domain:own>"}}},
    )
    b.auth(
        "project by name and domain name",
        "<id:user:own>",
        {"project": {"name": "auth_issue-own", "domain": {"name": "auth_issue-own"}}},
    )
    b.auth("project by name without domain", "<id:user:own>", {"project": {"name": "auth_issue-own"}})
    b.auth("project unknown id", "<id:user:own>", {"project": {"id": GONE}})
    b.auth("project unknown name", "<id:user:own>", {"project": {"name": "nope", "domain": {"id": "default"}}})
    b.auth("project unknown domain", "<id:user:own>", {"project": {"name": "auth_issue-own", "domain": {"id": GONE}}})
    b.auth("project without role", "<id:user:own>", {"project": {"id": "<id:project:admin>"}})
    b.auth("domain without role", "<id:user:own>", {"domain": {"id": "<id:domain:own>"}})
    b.auth("system without role", "<id:user:own>", {"system": {"all": True}})
    b("grant manager on domain", "PUT", "/v3/domains/<id:domain:own>/users/<id:user:own>/roles/<id:role:manager>")
    b("grant reader on system", "PUT", "/v3/system/users/<id:user:own>/roles/<id:role:reader>")
    b.auth("domain by id", "<id:user:own>", {"domain": {"id": "<id:domain:own>"}}, save="d")
    b.auth("domain by name", "<id:user:own>", {"domain": {"name": "auth_issue-own"}})
    b.auth("domain unknown", "<id:user:own>", {"domain": {"id": GONE}})
    b.auth("domain as project", "<id:user:own>", {"project": {"id": "<id:domain:own>"}})
    b.auth("project as domain", "<id:user:own>", {"domain": {"id": "<id:project:own>"}})
    b.auth("system", "<id:user:own>", {"system": {"all": True}}, save="s")
    b.auth("system nocatalog", "<id:user:own>", {"system": {"all": True}}, query="?nocatalog")
    b.auth("system all false", "<id:user:own>", {"system": {"all": False}})
    b.auth("system all text", "<id:user:own>", {"system": {"all": "true"}})
    b.auth("system all other text", "<id:user:own>", {"system": {"all": "maybe"}})
    b.auth("system empty", "<id:user:own>", {"system": {}})
    # default project
    b("set default project", "PATCH", "/v3/users/<id:user:own>", {"user": {"default_project_id": "<id:project:own>"}})
    b.auth("default project", "<id:user:own>", save="dp", pause=1.2)
    b.auth("default project, explicitly unscoped", "<id:user:own>", "unscoped")
    b.auth("default project, scope empty", "<id:user:own>", {})
    b(
        "default project without role",
        "PATCH",
        "/v3/users/<id:user:own>",
        {"user": {"default_project_id": "<id:project:admin>"}},
    )
    b.auth("default project not usable", "<id:user:own>", pause=1.2)
    b("default project unknown", "PATCH", "/v3/users/<id:user:own>", {"user": {"default_project_id": GONE}})
    b.auth("default project unknown login", "<id:user:own>", pause=1.2)
    b("default project none", "PATCH", "/v3/users/<id:user:own>", {"user": {"default_project_id": None}})
    b.auth("unscoped again", "<id:user:own>", save="un", pause=1.2)
    for k, scope in (
        ("p", {"project": {"id": "<id:project:own>"}}),
        ("d", {"domain": {"id": "<id:domain:own>"}}),
        ("s", {"system": {"all": True}}),
    ):
        b.auth(f"save {k}", "<id:user:own>", scope, save=k)
    # token method
    scopes = {
        "unscoped": None,
        "unscoped explicit": "unscoped",
        "project": {"project": {"id": "<id:project:own>"}},
        "project name": {"project": {"name": "auth_issue-own", "domain": {"name": "auth_issue-own"}}},
        "domain": {"domain": {"id": "<id:domain:own>"}},
        "system": {"system": {"all": True}},
        "no role": {"project": {"id": "<id:project:admin>"}},
    }
    for start in ("un", "p", "d", "s"):
        for to, scope in scopes.items():
            b.auth(
                f"token {start} to {to}",
                scope=scope,
                identity={"methods": ["token"], "token": {"id": f"<token:{start}>"}},
                save=f"{start}-{to}",
            )
    b.auth(
        "token twice rescoped",
        scope=scopes["project"],
        identity={"methods": ["token"], "token": {"id": "<token:un-project>"}},
    )
    b.auth(
        "password and token",
        identity={"methods": ["password", "token"], "password": {"user": me}, "token": {"id": "<token:un>"}},
    )
    b.auth(
        "token and password of other user",
        identity={
            "methods": ["password", "token"],
            "password": {"user": {"name": "admin", "domain": {"id": "default"}, "password": "<var:admin_password>"}},
            "token": {"id": "<token:un>"},
        },
    )
    b.auth("token garbage", identity={"methods": ["token"], "token": {"id": "garbage"}})
    b.auth("token empty", identity={"methods": ["token"], "token": {"id": ""}})
    b.auth("token without id", identity={"methods": ["token"], "token": {}})
    b.auth("token absent", identity={"methods": ["token"]})
    b.auth("token id number", identity={"methods": ["token"], "token": {"id": 5}})
    # failures
    b.auth("wrong password", "<id:user:own>", password="wrong")
    b.auth(
        "wrong password with scope", "<id:user:own>", password="wrong", scope={"project": {"id": "<id:project:own>"}}
    )
    b.auth("empty password", "<id:user:own>", password="")
    b.auth("unknown user id", identity={"methods": ["password"], "password": {"user": {"id": GONE, "password": "x"}}})
    b.auth("unknown user name", "nobody", password="x")
    b.auth("unknown domain of user", "admin", domain=GONE, password="x")
    b.auth("name and wrong domain", "auth_issue-own", password="pw-1234")
    b.auth("id and name", identity={"methods": ["password"], "password": {"user": dict(me, name="other")}})
    b.auth("long password", "<id:user:own>", password="x" * 5000)
    b.auth("password with NUL", "<id:user:own>", password="pw\0x")
    b.auth("password not ASCII", "<id:user:own>", password="\u00e4\u4e2d")
    b.create("user", "nopw", {"name": "nopw", "domain_id": "<id:domain:own>"})
    b.auth("user without password", "<id:user:nopw>", password="x")
    b.create("user", "off", {"name": "off", "domain_id": "<id:domain:own>", "password": "pw-1234", "enabled": False})
    b.auth("disabled user", "<id:user:off>")
    b.auth("disabled user, wrong password", "<id:user:off>", password="no")
    b.create("project", "off", {"name": "off", "enabled": False, "domain_id": "<id:domain:own>"})
    b("grant on disabled project", "PUT", "/v3/projects/<id:project:off>/users/<id:user:own>/roles/<id:role:member>")
    b.auth("disabled project", "<id:user:own>", {"project": {"id": "<id:project:off>"}})
    b.create("domain", "off", {"name": "auth_issue-off"})
    b.create("project", "inoff", {"name": "inoff", "domain_id": "<id:domain:off>"})
    b.create("user", "inoff", {"name": "inoff", "password": "pw-1234", "domain_id": "<id:domain:off>"})
    b("grant in domain off", "PUT", "/v3/projects/<id:project:inoff>/users/<id:user:inoff>/roles/<id:role:member>")
    b("grant in domain off to own", "PUT", "/v3/projects/<id:project:inoff>/users/<id:user:own>/roles/<id:role:member>")
    b("grant on domain off to own", "PUT", "/v3/domains/<id:domain:off>/users/<id:user:own>/roles/<id:role:member>")
    b("disable domain", "PATCH", "/v3/domains/<id:domain:off>", {"domain": {"enabled": False}})
    b.auth("user in disabled domain", "<id:user:inoff>", pause=1.2)
    b.auth("user in disabled domain by name", "inoff", domain="<id:domain:off>")
    b.auth("project in disabled domain", "<id:user:own>", {"project": {"id": "<id:project:inoff>"}})
    b.auth("disabled domain", "<id:user:own>", {"domain": {"id": "<id:domain:off>"}})
    b.auth("disabled domain by name", "<id:user:own>", {"domain": {"name": "auth_issue-off"}})
    # malformed
    ok = {"methods": ["password"], "password": {"user": me}}
    P = "/v3/auth/tokens"
    J = {"Content-Type": "application/json"}

    def bad(name, body=None, **kw):
        b("malformed: " + name, "POST", P, body, token=None, **kw)

    bad("no body")
    bad("empty body", raw="", headers=J)
    bad("empty object", {})
    bad("array", raw="[]", headers=J)
    bad("null", raw="null", headers=J)
    bad("text", raw='"auth"', headers=J)
    bad("number", raw="5", headers=J)
    bad("not JSON", raw='{"auth": ', headers=J)
    bad("not UTF-8 like", raw='{"auth": "\u00ff"}', headers=J)
    bad(
        "content type text",
        raw=json.dumps({"auth": {"identity": {"methods": []}}}),
        headers={"Content-Type": "text/plain"},
    )
    bad("content type form", raw="a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
    bad("content type absent, JSON body", raw='{"auth": {}}')
    bad("content type with charset", raw='{"auth": {}}', headers={"Content-Type": "application/json; charset=utf-8"})
    bad("content type +json", raw='{"auth": {}}', headers={"Content-Type": "application/vnd.x+json"})
    bad("duplicate keys", raw='{"auth": 1, "auth": {}}', headers=J)
    bad("NaN", raw='{"auth": NaN}', headers=J)
    bad("deep nesting", raw='{"auth":' + "[" * 500 + "]" * 500 + "}", headers=J)
    for name, auth in (
        ("null", None),
        ("text", "x"),
        ("list", []),
        ("empty", {}),
        ("number", 5),
        ("without identity", {"scope": "unscoped"}),
    ):
        bad("auth " + name, {"auth": auth})
    bad("auth elsewhere", {"identity": ok})
    bad("extra top key", {"auth": {"identity": ok}, "other": 1})
    bad("extra auth key", {"auth": {"identity": ok, "other": 1}})
    for name, identity in (
        ("null", None),
        ("text", "x"),
        ("list", []),
        ("empty", {}),
        ("without methods", {"password": {"user": me}}),
        ("methods null", {"methods": None}),
        ("methods text", {"methods": "password"}),
        ("methods empty", {"methods": []}),
        ("methods number", {"methods": [5]}),
        ("methods unknown", {"methods": ["magic"], "magic": {}}),
        ("methods unknown without data", {"methods": ["magic"]}),
        ("methods twice", dict(ok, methods=["password", "password"])),
        ("methods known and unknown", dict(ok, methods=["password", "magic"])),
        ("method without data", {"methods": ["password"]}),
        ("password null", {"methods": ["password"], "password": None}),
        ("password text", {"methods": ["password"], "password": "x"}),
        ("password empty", {"methods": ["password"], "password": {}}),
        ("user null", {"methods": ["password"], "password": {"user": None}}),
        ("user text", {"methods": ["password"], "password": {"user": "x"}}),
        ("user empty", {"methods": ["password"], "password": {"user": {}}}),
        ("user without password", {"methods": ["password"], "password": {"user": {"id": "<id:user:own>"}}}),
        (
            "user password null",
            {"methods": ["password"], "password": {"user": {"id": "<id:user:own>", "password": None}}},
        ),
        (
            "user password number",
            {"methods": ["password"], "password": {"user": {"id": "<id:user:own>", "password": 5}}},
        ),
        ("user password only", {"methods": ["password"], "password": {"user": {"password": "x"}}}),
        ("user id number", {"methods": ["password"], "password": {"user": {"id": 5, "password": "x"}}}),
        ("user id empty", {"methods": ["password"], "password": {"user": {"id": "", "password": "x"}}}),
        (
            "user name empty",
            {"methods": ["password"], "password": {"user": {"name": "", "domain": {"id": "default"}, "password": "x"}}},
        ),
        (
            "user domain empty",
            {"methods": ["password"], "password": {"user": {"name": "admin", "domain": {}, "password": "x"}}},
        ),
        (
            "user domain null",
            {"methods": ["password"], "password": {"user": {"name": "admin", "domain": None, "password": "x"}}},
        ),
        (
            "user domain text",
            {"methods": ["password"], "password": {"user": {"name": "admin", "domain": "default", "password": "x"}}},
        ),
        ("extra in user", {"methods": ["password"], "password": {"user": dict(me, extra=1)}}),
        ("extra in identity", dict(ok, extra={})),
        ("token not listed in methods", dict(ok, token={"id": "x"})),
    ):
        bad("identity " + name, {"auth": {"identity": identity}})
    for name, scope in (
        ("null", None),
        ("number", 5),
        ("list", []),
        ("true", True),
        ("empty text", ""),
        ("unknown kind", {"galaxy": {}}),
        ("project and domain", {"project": {"id": "<id:project:own>"}, "domain": {"id": "<id:domain:own>"}}),
        ("project and unscoped", {"project": {"id": "<id:project:own>"}, "unscoped": {}}),
        ("project and system", {"project": {"id": "<id:project:own>"}, "system": {"all": True}}),
        ("project and trust", {"project": {"id": "<id:project:own>"}, "OS-TRUST:trust": {"id": GONE}}),
        ("project null", {"project": None}),
        ("project text", {"project": "x"}),
        ("project empty", {"project": {}}),
        ("project id null", {"project": {"id": None}}),
        ("project id number", {"project": {"id": 5}}),
        ("project id empty", {"project": {"id": ""}}),
        ("project domain empty", {"project": {"name": "auth_issue-own", "domain": {}}}),
        ("project domain null", {"project": {"name": "auth_issue-own", "domain": None}}),
        ("project id and name", {"project": {"id": "<id:project:own>", "name": "other"}}),
        ("domain null", {"domain": None}),
        ("domain empty", {"domain": {}}),
        ("domain id null", {"domain": {"id": None}}),
        ("domain id number", {"domain": {"id": 5}}),
        ("system null", {"system": None}),
        ("system text", {"system": "all"}),
        ("trust unknown", {"OS-TRUST:trust": {"id": GONE}}),
        ("trust empty", {"OS-TRUST:trust": {}}),
    ):
        bad("scope " + name, {"auth": {"identity": ok, "scope": scope}})
    b(
        "login with garbage X-Auth-Token",
        "POST",
        P,
        {"auth": {"identity": ok}},
        token=None,
        headers={"X-Auth-Token": "garbage"},
    )
    b("login with own X-Auth-Token", "POST", P, {"auth": {"identity": ok}}, token="p")
    b("login with empty X-Auth-Token", "POST", P, {"auth": {"identity": ok}}, token=None, headers={"X-Auth-Token": ""})


@section
def auth_validate(b):
    b.prelude()
    P = "/v3/auth/tokens"
    b("grant member on domain", "PUT", "/v3/domains/<id:domain:own>/users/<id:user:own>/roles/<id:role:member>")
    b("grant member on system", "PUT", "/v3/system/users/<id:user:own>/roles/<id:role:member>")
    me = "<id:user:own>"
    b.auth("login un", me, save="un")
    b.auth("login d", me, {"domain": {"id": "<id:domain:own>"}}, save="d")
    b.auth("login s", me, {"system": {"all": True}}, save="s")
    b.auth(
        "login rescoped",
        scope={"project": {"id": "<id:project:own>"}},
        identity={"methods": ["token"], "token": {"id": "<token:un>"}},
        save="re",
    )
    b.create("user", "svc", {"name": "svc", "password": "pw-1234", "domain_id": "<id:domain:own>"})
    b("grant service", "PUT", "/v3/projects/<id:project:own>/users/<id:user:svc>/roles/<id:role:service>")
    b("grant svc reader on system", "PUT", "/v3/system/users/<id:user:svc>/roles/<id:role:reader>")
    b.auth("login service", "<id:user:svc>", {"project": {"id": "<id:project:own>"}}, save="svc")
    b.auth("login system reader", "<id:user:svc>", {"system": {"all": True}}, save="sysreader")
    b.auth("login svc unscoped", "<id:user:svc>", save="svcun")
    for m in ("GET", "HEAD"):
        for t in ("un", "member", "d", "s", "re", "admin", "system"):
            b(f"{m} {t} by admin", m, P, headers={"X-Subject-Token": f"<token:{t}>"})
        for t in ("un", "member", "d", "s"):
            b(f"{m} {t} by itself", m, P, token=t, headers={"X-Subject-Token": f"<token:{t}>"})
        b(f"{m} member by same user unscoped", m, P, token="un", headers={"X-Subject-Token": "<token:member>"})
        for t in ("svc", "sysreader", "system", "svcun"):
            b(f"{m} member by {t}", m, P, token=t, headers={"X-Subject-Token": "<token:member>"})
        b(f"{m} admin by member", m, P, token="member", headers={"X-Subject-Token": "<token:admin>"})
        b(f"{m} without X-Subject-Token", m, P)
        b(f"{m} without X-Subject-Token by member", m, P, token="member")
        b(f"{m} garbage X-Subject-Token", m, P, headers={"X-Subject-Token": "garbage"})
        b(f"{m} garbage X-Subject-Token by member", m, P, token="member", headers={"X-Subject-Token": "garbage"})
        b(f"{m} empty X-Subject-Token", m, P, headers={"X-Subject-Token": ""})
        b(f"{m} without X-Auth-Token", m, P, token=None, headers={"X-Subject-Token": "<token:member>"})
        b(f"{m} without any", m, P, token=None)
        b(
            f"{m} garbage X-Auth-Token",
            m,
            P,
            token=None,
            headers={"X-Auth-Token": "garbage", "X-Subject-Token": "<token:member>"},
        )
        b(
            f"{m} empty X-Auth-Token",
            m,
            P,
            token=None,
            headers={"X-Auth-Token": "", "X-Subject-Token": "<token:member>"},
        )
        b(f"{m} nocatalog", m, P + "?nocatalog", headers={"X-Subject-Token": "<token:member>"})
        b(f"{m} allow_expired", m, P + "?allow_expired=1", headers={"X-Subject-Token": "<token:member>"})
        b(f"{m} allow_expired text", m, P + "?allow_expired=maybe", headers={"X-Subject-Token": "<token:member>"})
        b(
            f"{m} with access rules header",
            m,
            P,
            headers={"X-Subject-Token": "<token:member>", "OpenStack-Identity-Access-Rules": "1"},
        )
    b("GET trailing slash", "GET", P + "/", headers={"X-Subject-Token": "<token:member>"})
    b(
        "GET with X-Service-Token",
        "GET",
        P,
        headers={"X-Subject-Token": "<token:member>", "X-Service-Token": "<token:svc>"},
    )
    b(
        "GET with garbage X-Service-Token",
        "GET",
        P,
        headers={"X-Subject-Token": "<token:member>", "X-Service-Token": "garbage"},
    )
    # the other /auth resources
    for what in ("catalog", "projects", "domains", "system"):
        for t in ("un", "member", "d", "s"):
            b.gethead(f"auth/{what} with {t}", f"/v3/auth/{what}", token=t)
        b(f"GET auth/{what} without token", "GET", f"/v3/auth/{what}", token=None)
        b(f"GET auth/{what} garbage token", "GET", f"/v3/auth/{what}", token=None, headers={"X-Auth-Token": "garbage"})
    b("GET federation projects", "GET", "/v3/OS-FEDERATION/projects", token="un")
    b("GET federation domains", "GET", "/v3/OS-FEDERATION/domains", token="un")
    b.gethead("revoked list", "/v3/auth/tokens/OS-PKI/revoked")
    # DELETE
    b("DELETE without X-Subject-Token", "DELETE", P)
    b("DELETE garbage", "DELETE", P, headers={"X-Subject-Token": "garbage"})
    b("DELETE without X-Auth-Token", "DELETE", P, token=None, headers={"X-Subject-Token": "<token:member>"})
    b("DELETE admin by member", "DELETE", P, token="member", headers={"X-Subject-Token": "<token:admin>"})
    b("DELETE member by svc", "DELETE", P, token="svc", headers={"X-Subject-Token": "<token:member>"})
    b("DELETE member by system reader", "DELETE", P, token="sysreader", headers={"X-Subject-Token": "<token:member>"})
    b("DELETE rescoped by admin", "DELETE", P, headers={"X-Subject-Token": "<token:re>"})
    b("GET rescoped after DELETE", "GET", P, headers={"X-Subject-Token": "<token:re>"})
    b("DELETE rescoped again", "DELETE", P, headers={"X-Subject-Token": "<token:re>"})
    b("GET parent after DELETE of child", "GET", P + "?nocatalog", headers={"X-Subject-Token": "<token:un>"})
    b("use revoked token", "GET", "/v3/auth/projects", token="re")
    b("validate with revoked token", "GET", P, token="re", headers={"X-Subject-Token": "<token:member>"})
    b(
        "rescope revoked token",
        "POST",
        P,
        {"auth": {"identity": {"methods": ["token"], "token": {"id": "<token:re>"}}}},
        token=None,
    )
    b("allow_expired for revoked", "GET", P + "?allow_expired=1", headers={"X-Subject-Token": "<token:re>"})
    b.auth(
        "rescope again",
        scope={"project": {"id": "<id:project:own>"}},
        identity={"methods": ["token"], "token": {"id": "<token:un>"}},
        save="re2",
    )
    b("DELETE own token with itself", "DELETE", P, token="un", headers={"X-Subject-Token": "<token:un>"})
    b("GET child after DELETE of parent", "GET", P + "?nocatalog", headers={"X-Subject-Token": "<token:re2>"})
    b("GET sibling login after DELETE", "GET", P + "?nocatalog", headers={"X-Subject-Token": "<token:member>"})


@section
def regions(b):
    b.prelude()
    P = "/v3/regions"
    b("create without id", "POST", P, {"region": {}}, capture={"id:region:auto": "region.id"})
    b("create with id", "POST", P, {"region": {"id": "rg-a", "description": "first", "colour": "red"}})
    b("create again", "POST", P, {"region": {"id": "rg-a"}})
    b("create child", "POST", P, {"region": {"id": "rg-b", "parent_region_id": "rg-a"}})
    b("create grandchild", "POST", P, {"region": {"id": "rg-c", "parent_region_id": "rg-b"}})
    b("create unknown parent", "POST", P, {"region": {"id": "rg-x", "parent_region_id": "nope"}})
    b("create own parent", "POST", P, {"region": {"id": "rg-self", "parent_region_id": "rg-self"}})
    b("create odd id", "POST", P, {"region": {"id": "a b/c\u00e9"}})
    b("GET odd id", "GET", P + "/a%20b%2Fc%C3%A9")
    b("DELETE odd id", "DELETE", P + "/a%20b%2Fc%C3%A9")
    b("PUT new", "PUT", P + "/rg-put", {"region": {"description": "put"}})
    b("PUT again", "PUT", P + "/rg-put", {"region": {"description": "two"}})
    b("PUT same id", "PUT", P + "/rg-put2", {"region": {"id": "rg-put2"}})
    b("PUT other id", "PUT", P + "/rg-put3", {"region": {"id": "rg-put4"}})
    b("PUT empty", "PUT", P + "/rg-put5", {"region": {}})
    b("PUT without body", "PUT", P + "/rg-put6")
    b.gethead("one", P + "/rg-a")
    b.gethead("RegionOne", P + "/RegionOne")
    b.gethead("unknown", P + "/nope")
    b.gethead("by other case", P + "/REGIONONE")
    b.gethead("all", P, glob=True)
    b("GET by parent", "GET", P + "?parent_region_id=rg-a")
    b("GET by unknown parent", "GET", P + "?parent_region_id=nope")
    b("GET by empty parent", "GET", P + "?parent_region_id=", glob=True)
    b("GET by description", "GET", P + "?description=first")
    b("GET by unknown filter", "GET", P + "?x=1")
    b("GET limit", "GET", P + "?limit=1")
    b("PATCH", "PATCH", P + "/rg-a", {"region": {"description": "changed"}})
    b("PATCH extra", "PATCH", P + "/rg-a", {"region": {"size": 5}})
    b("PATCH extra null", "PATCH", P + "/rg-a", {"region": {"size": None}})
    b("PATCH description null", "PATCH", P + "/rg-a", {"region": {"description": None}})
    b("PATCH same id", "PATCH", P + "/rg-a", {"region": {"id": "rg-a", "description": "d"}})
    b("PATCH other id", "PATCH", P + "/rg-a", {"region": {"id": "rg-z"}})
    b("PATCH circle", "PATCH", P + "/rg-a", {"region": {"parent_region_id": "rg-c"}})
    b("PATCH self", "PATCH", P + "/rg-a", {"region": {"parent_region_id": "rg-a"}})
    b("PATCH unknown parent", "PATCH", P + "/rg-a", {"region": {"parent_region_id": "nope"}})
    b("PATCH parent null", "PATCH", P + "/rg-c", {"region": {"parent_region_id": None}})
    b("PATCH unknown", "PATCH", P + "/nope", {"region": {"description": "x"}})
    b("PATCH empty", "PATCH", P + "/rg-a", {"region": {}})
    b.create("service", "rg", {"type": "rg", "name": "rg"})
    b.create(
        "endpoint",
        "rg",
        {"interface": "public", "url": "http://rg/", "region_id": "rg-b", "service_id": "<id:service:rg>"},
    )
    b("DELETE with child", "DELETE", P + "/rg-a")
    b("GET after refused DELETE", "GET", P + "/rg-a")
    b("DELETE with endpoint", "DELETE", P + "/rg-b")
    b("GET child after DELETE", "GET", P + "/rg-b")
    b("DELETE endpoint", "DELETE", "/v3/endpoints/<id:endpoint:rg>")
    b("DELETE now", "DELETE", P + "/rg-b")
    b("DELETE again", "DELETE", P + "/rg-b")
    b("DELETE unknown", "DELETE", P + "/nope")
    b("DELETE service", "DELETE", "/v3/services/<id:service:rg>")
    b.bad_bodies("region", P)
    b.bad_bodies("region", P + "/rg-a", "PATCH")
    b.bad_fields(
        "region",
        P,
        {
            "id": WRONG + [LONG[255], LONG[256]],
            "description": WRONG + [LONG[255], LONG[256]],
            "parent_region_id": WRONG + [LONG[256]],
            "url": ["x", 5],
            "extra": [None, 5, {"a": [1]}],
            "links": [{}, {"self": "x"}],
            "enabled": [True, "x"],
        },
    )
    b.bad_fields(
        "region", P + "/rg-a", {"description": WRONG, "parent_region_id": WRONG}, method="PATCH", verb="update"
    )
    for m, p, d in (
        ("GET", P, None),
        ("GET", P + "/rg-a", None),
        ("GET", P + "/nope", None),
        ("POST", P, {"region": {}}),
        ("POST", P, {"region": 5}),
        ("PUT", P + "/rg-y", {"region": {}}),
        ("PATCH", P + "/rg-a", {"region": {"description": "x"}}),
        ("PATCH", P + "/nope", {"region": {"description": "x"}}),
        ("DELETE", P + "/rg-a", None),
        ("DELETE", P + "/nope", None),
    ):
        b.denied(m, p, d)


@section
def services(b):
    b.prelude()
    P = "/v3/services"
    b.create("service", "a", {"type": "sv-t", "name": "sv-a"})
    b.create("service", "same", {"type": "sv-t", "name": "sv-a"})
    b.create("service", "noname", {"type": "sv-t2"})
    b.create(
        "service",
        "full",
        {"type": "sv-t", "name": "sv-full", "description": "d", "enabled": False, "colour": "red", "id": "mine"},
    )
    A = P + "/<id:service:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:service:full>")
    b("GET noname", "GET", P + "/<id:service:noname>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    b("GET by type", "GET", P + "?type=sv-t")
    b("GET by name", "GET", P + "?name=sv-full")
    b("GET by type and name", "GET", P + "?type=sv-t&name=sv-a")
    b("GET by unknown type", "GET", P + "?type=nope")
    b("GET by name__contains", "GET", P + "?type=sv-t&name__contains=full")
    b("GET by enabled", "GET", P + "?type=sv-t&enabled=false")
    b("PATCH", "PATCH", A, {"service": {"description": "x"}})
    b("PATCH name", "PATCH", A, {"service": {"name": "sv-b"}})
    b("PATCH type", "PATCH", A, {"service": {"type": "sv-t3"}})
    b("PATCH extra", "PATCH", A, {"service": {"size": 1}})
    b("PATCH extra null", "PATCH", A, {"service": {"size": None}})
    b("PATCH same id", "PATCH", A, {"service": {"id": "<id:service:a>"}})
    b("PATCH other id", "PATCH", A, {"service": {"id": "other"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"service": {"name": "x"}})
    b("PATCH disable", "PATCH", A, {"service": {"enabled": False}})
    b("PATCH enable", "PATCH", A, {"service": {"enabled": True}})
    b.bad_bodies("service", P)
    b.bad_bodies("service", A, "PATCH")
    f = {
        "type": WRONG + [LONG[255], LONG[256]],
        "name": WRONG + [LONG[255], LONG[256]],
        "description": [None, "", 5, LONG[256]],
        "enabled": WRONG_BOOL,
        "links": [{"self": "x"}],
    }
    b.bad_fields("service", P, f, {"type": "sv-bad"})
    b.bad_fields("service", A, f, method="PATCH", verb="update")
    b.create("endpoint", "sv", {"interface": "public", "url": "http://sv/", "service_id": "<id:service:a>"})
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"service": {"type": "x"}}),
        ("POST", P, {"service": {}}),
        ("PATCH", A, {"service": {"name": "x"}}),
        ("PATCH", f"{P}/{GONE}", {"service": {"name": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)
    b("DELETE with endpoint", "DELETE", A)
    b("GET endpoint after DELETE of service", "GET", "/v3/endpoints/<id:endpoint:sv>")
    b("DELETE again", "DELETE", A)
    for x in ("full", "same", "noname"):
        b(f"DELETE {x}", "DELETE", P + f"/<id:service:{x}>")


@section
def endpoints(b):
    b.prelude()
    P = "/v3/endpoints"
    b.create("service", "s", {"type": "ep-t", "name": "ep-s"})
    b.create("service", "s2", {"type": "ep-t2", "name": "ep-s2"})
    b.create("region", "r", {"id": "ep-r"})
    base = {"service_id": "<id:service:s>", "interface": "public", "url": "http://ep/#"}
    b.create("endpoint", "a", dict(base, region_id="ep-r"))
    b.create("endpoint", "b", dict(base, interface="internal", region="ep-r"))
    b.create("endpoint", "same", dict(base, region_id="ep-r"))
    b.create("endpoint", "noregion", dict(base, interface="admin"))
    b.create("endpoint", "newregion", dict(base, region="ep-legacy"))
    b("GET region made", "GET", "/v3/regions/ep-legacy")
    b.create(
        "endpoint",
        "full",
        dict(base, region_id="ep-r", enabled=False, name="n", description="d", colour="red", id="mine"),
    )
    b("create region and region_id", "POST", P, {"endpoint": dict(base, region_id="ep-r", region="ep-legacy")})
    b("create unknown region_id", "POST", P, {"endpoint": dict(base, region_id="nope")})
    b("create unknown service", "POST", P, {"endpoint": dict(base, service_id=GONE)})
    for k in base:
        b(f"create without {k}", "POST", P, {"endpoint": {x: y for x, y in base.items() if x != k}})
    for i, url in enumerate(
        (
            "http://ep/$(tenant_id)s/$(project_id)s",
            "http://ep/%(tenant_id)s",
            "http://ep/%(user_id)s",
            "http://ep/$(unknown)s",
            "http://ep/%(unknown)s",
            "http://ep/%(tenant_id)",
            "http://ep/$(tenant_id)d",
            "http://ep/%",
            "http://ep/100%25",
            "not a url",
            "ep",
            "//ep",
            "ftp:x",
            "http:",
            "http:// ep",
            "http://ep/" + "x" * 215,
            "http://ep/" + "x" * 216,
            "http://ep/" + "x" * 250,
        )
    ):
        b(f"create url {i} {url[:40]}", "POST", P, {"endpoint": dict(base, url=url)})
    A = P + "/<id:endpoint:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:endpoint:full>")
    b("GET noregion", "GET", P + "/<id:endpoint:noregion>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    for q in (
        "service_id=<id:service:s>",
        "service_id=" + GONE,
        "service_id=<id:service:s>&interface=internal",
        "service_id=<id:service:s>&region_id=ep-r",
        "service_id=<id:service:s>&region=ep-r",
        "service_id=<id:service:s>&region_id=",
        "service_id=<id:service:s>&interface=other",
        "service_id=<id:service:s>&enabled=false",
        "service_id=<id:service:s>&url__contains=full",
        "service_id=<id:service:s>&interface__contains=int",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("PATCH url", "PATCH", A, {"endpoint": {"url": "http://new/"}})
    b("PATCH interface", "PATCH", A, {"endpoint": {"interface": "admin"}})
    b("PATCH service", "PATCH", A, {"endpoint": {"service_id": "<id:service:s2>"}})
    b("PATCH unknown service", "PATCH", A, {"endpoint": {"service_id": GONE}})
    b("PATCH unknown region", "PATCH", A, {"endpoint": {"region_id": "nope"}})
    b("PATCH legacy region", "PATCH", A, {"endpoint": {"region": "ep-leg2"}})
    b("PATCH region null", "PATCH", A, {"endpoint": {"region_id": None}})
    b("PATCH extra", "PATCH", A, {"endpoint": {"size": 1}})
    b("PATCH same id", "PATCH", A, {"endpoint": {"id": "<id:endpoint:a>"}})
    b("PATCH other id", "PATCH", A, {"endpoint": {"id": "other"}})
    b("PATCH bad url", "PATCH", A, {"endpoint": {"url": "nope"}})
    b("PATCH bad substitution", "PATCH", A, {"endpoint": {"url": "http://x/$(nope)s"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"endpoint": {"url": "http://x/"}})
    b.bad_bodies("endpoint", P)
    b.bad_bodies("endpoint", A, "PATCH")
    f = {
        "url": WRONG,
        "interface": WRONG + ["Public", "publicURL"],
        "service_id": WRONG,
        "region_id": WRONG,
        "region": WRONG,
        "enabled": WRONG_BOOL,
        "name": WRONG,
        "description": WRONG,
        "legacy_endpoint_id": ["x"],
    }
    b.bad_fields("endpoint", P, f, base)
    b.bad_fields("endpoint", A, f, method="PATCH", verb="update")
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"endpoint": base}),
        ("POST", P, {"endpoint": {}}),
        ("PATCH", A, {"endpoint": {"url": "http://x/"}}),
        ("PATCH", f"{P}/{GONE}", {"endpoint": {"url": "http://x/"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)
    b("DELETE", "DELETE", A)
    b("DELETE again", "DELETE", A)
    # leave no endpoint behind: they would show up in every later catalog
    b("DELETE service", "DELETE", "/v3/services/<id:service:s>")
    b("DELETE service 2", "DELETE", "/v3/services/<id:service:s2>")


@section
def catalog(b):
    b.prelude()
    b.create("region", "r", {"id": "cat-r"})
    b.create("service", "on", {"type": "cat-on", "name": "cat-on"})
    b.create("service", "off", {"type": "cat-off", "name": "cat-off", "enabled": False})
    b.create("service", "bare", {"type": "cat-bare"})
    b.create("service", "text", {"type": "cat-text", "name": "cat-text", "description": "d", "colour": "red"})
    e = {"service_id": "<id:service:on>", "interface": "public", "region_id": "cat-r"}
    b.create("endpoint", "plain", dict(e, url="http://plain/"))
    b.create("endpoint", "off", dict(e, url="http://off/", enabled=False, interface="internal"))
    b.create("endpoint", "tenant", dict(e, url="http://t/$(tenant_id)s/%(project_id)s", interface="admin"))
    b.create("endpoint", "user", dict(e, url="http://u/%(user_id)s"))
    b.create("endpoint", "noregion", dict(e, url="http://nr/", region_id=None))
    b.create("endpoint", "extra", dict(e, url="http://x/", colour="red", name="n", description="d"))
    b.create("endpoint", "ofoff", dict(e, url="http://oo/", service_id="<id:service:off>"))
    b.create("endpoint", "oftext", dict(e, url="http://ot/", service_id="<id:service:text>"))
    b("grant on domain", "PUT", "/v3/domains/<id:domain:own>/users/<id:user:own>/roles/<id:role:reader>")
    b("grant on system", "PUT", "/v3/system/users/<id:user:own>/roles/<id:role:reader>")
    own = "<id:user:own>"
    b.auth("token project", own, {"project": {"id": "<id:project:own>"}}, save="p")
    b.auth("token domain", own, {"domain": {"id": "<id:domain:own>"}}, save="d")
    b.auth("token system", own, {"system": {"all": True}}, save="s")
    b.auth("token unscoped", own, save="un")
    for t in ("p", "d", "s", "un"):
        b(f"GET catalog {t}", "GET", "/v3/auth/catalog", token=t)
        b(f"validate {t}", "GET", "/v3/auth/tokens", headers={"X-Subject-Token": f"<token:{t}>"})
    b("disable service", "PATCH", "/v3/services/<id:service:text>", {"service": {"enabled": False}})
    b("GET catalog without service", "GET", "/v3/auth/catalog", token="p")
    for s in ("on", "off", "bare", "text"):
        b(f"DELETE service {s}", "DELETE", f"/v3/services/<id:service:{s}>")
    b("GET catalog after", "GET", "/v3/auth/catalog", token="p")


@section
def domains(b):
    b.prelude()
    P = "/v3/domains"
    b.create("domain", "a", {"name": "dm-a"})
    b.create(
        "domain",
        "full",
        {
            "name": "dm-full",
            "description": "d",
            "enabled": False,
            "colour": "red",
            "tags": ["t2", "t1"],
            "options": {"immutable": False},
        },
    )
    b("create name conflict", "POST", P, {"domain": {"name": "dm-a"}})
    b("create name other case", "POST", P, {"domain": {"name": "DM-A"}})
    b(
        "create explicit id",
        "POST",
        P,
        {"domain": {"name": "dm-explicit", "explicit_domain_id": "11112222333344445555666677778888"}},
    )
    b(
        "create explicit id again",
        "POST",
        P,
        {"domain": {"name": "dm-explicit2", "explicit_domain_id": "11112222333344445555666677778888"}},
    )
    b("create explicit id bad", "POST", P, {"domain": {"name": "dm-explicit3", "explicit_domain_id": "x_y"}})
    b("create explicit id short", "POST", P, {"domain": {"name": "dm-explicit4", "explicit_domain_id": "xy"}})
    b("create with id", "POST", P, {"domain": {"name": "dm-id", "id": "xx"}})
    b("create with parent", "POST", P, {"domain": {"name": "dm-parent", "parent_id": "<id:domain:a>"}})
    b("create with is_domain", "POST", P, {"domain": {"name": "dm-isd", "is_domain": False}})
    b("create with domain_id", "POST", P, {"domain": {"name": "dm-did", "domain_id": "<id:domain:a>"}})
    A = P + "/<id:domain:a>"
    b.gethead("one", A)
    b.gethead("default", P + "/default")
    b("GET full", "GET", P + "/<id:domain:full>")
    b("GET domain as project", "GET", "/v3/projects/<id:domain:a>")
    b("GET project as domain", "GET", P + "/<id:project:own>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    for q in (
        "name=dm-a",
        "name=DM-A",
        "name=nope",
        "name=",
        "name=dm-full&enabled=false",
        "name=dm-full&enabled=true",
        "name=dm-full&enabled=0",
        "name=dm-full&enabled=False",
        "name=dm-a&enabled",
        "name=dm-a&enabled=",
        "name=dm-a&enabled=1",
        "name=dm-full&enabled=no",
        "name=dm-full&enabled=maybe",
        "name__contains=m-ful",
        "name__startswith=dm-fu",
        "name__endswith=m-full",
        "name__icontains=M-FUL",
        "name__equals=dm-full",
        "name__nope=dm-full",
        "name=dm-a&x=1",
        "name=dm-a&limit=1",
        "name__startswith=dm-&limit=1",
        "name__startswith=dm-&limit=x",
        "name=dm-a&marker=x",
        "name__startswith=dm-&sort_key=name",
        "id=default",
        "name=dm-full&tags=t1",
        "name=dm-a&name=dm-full",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("PATCH name", "PATCH", A, {"domain": {"name": "dm-b"}})
    b("PATCH same name", "PATCH", A, {"domain": {"name": "dm-b"}})
    b("PATCH name conflict", "PATCH", A, {"domain": {"name": "dm-full"}})
    b("PATCH description", "PATCH", A, {"domain": {"description": "x"}})
    b("PATCH description null", "PATCH", A, {"domain": {"description": None}})
    b("PATCH extra", "PATCH", A, {"domain": {"size": 1}})
    b("GET with extra", "GET", A)
    b("PATCH extra null", "PATCH", A, {"domain": {"size": None}})
    b("PATCH same id", "PATCH", A, {"domain": {"id": "<id:domain:a>", "description": "y"}})
    b("PATCH other id", "PATCH", A, {"domain": {"id": GONE}})
    b("PATCH tags", "PATCH", A, {"domain": {"tags": ["a", "b"]}})
    b("PATCH immutable", "PATCH", A, {"domain": {"options": {"immutable": True}}})
    b("PATCH while immutable", "PATCH", A, {"domain": {"description": "z"}})
    b("DELETE while immutable", "DELETE", A)
    b("PATCH mutable and more", "PATCH", A, {"domain": {"options": {"immutable": False}, "description": "z"}})
    b("PATCH mutable", "PATCH", A, {"domain": {"options": {"immutable": None}}})
    b("PATCH option unknown", "PATCH", A, {"domain": {"options": {"nope": True}}})
    b("PATCH option wrong type", "PATCH", A, {"domain": {"options": {"immutable": "yes"}}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"domain": {"name": "x"}})
    b("PATCH project", "PATCH", P + "/<id:project:own>", {"domain": {"name": "x"}})
    b("PATCH domain_id", "PATCH", A, {"domain": {"domain_id": GONE}})
    b("PATCH parent_id", "PATCH", A, {"domain": {"parent_id": GONE}})
    b("PATCH is_domain", "PATCH", A, {"domain": {"is_domain": False}})
    b("PATCH domain as project", "PATCH", "/v3/projects/<id:domain:a>", {"project": {"description": "via project"}})
    b("DELETE enabled", "DELETE", A)
    b("DELETE enabled as project", "DELETE", "/v3/projects/<id:domain:a>")
    b("DELETE default", "DELETE", P + "/default")
    b("PATCH disable default", "PATCH", P + "/default", {"domain": {"description": "The default domain"}})
    b("DELETE unknown", "DELETE", f"{P}/{GONE}")
    b("DELETE project", "DELETE", P + "/<id:project:own>")
    # what goes with a domain
    b.create("domain", "del", {"name": "dm-del"})
    b.create("project", "del", {"name": "p", "domain_id": "<id:domain:del>"})
    b.create("project", "sub", {"name": "s", "parent_id": "<id:project:del>", "domain_id": "<id:domain:del>"})
    b.create("user", "del", {"name": "u", "domain_id": "<id:domain:del>", "password": "pw-1234"})
    b.create("group", "del", {"name": "g", "domain_id": "<id:domain:del>"})
    b.create("role", "del", {"name": "r", "domain_id": "<id:domain:del>"})
    b("grant own on del", "PUT", "/v3/domains/<id:domain:del>/users/<id:user:own>/roles/<id:role:member>")
    b("grant del on own", "PUT", "/v3/projects/<id:project:own>/users/<id:user:del>/roles/<id:role:member>")
    b.auth("login del", "<id:user:del>", {"project": {"id": "<id:project:own>"}}, save="del")
    b.auth("login own on del", "<id:user:own>", {"domain": {"id": "<id:domain:del>"}}, save="ondel")
    b("PATCH disable", "PATCH", P + "/<id:domain:del>", {"domain": {"enabled": False}})
    for t in ("del", "ondel", "member"):
        b(f"token {t} after disable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": f"<token:{t}>"})
    b("GET user in disabled domain", "GET", "/v3/users/<id:user:del>")
    b("create user in disabled domain", "POST", "/v3/users", {"user": {"name": "late", "domain_id": "<id:domain:del>"}})
    b(
        "create project in disabled domain",
        "POST",
        "/v3/projects",
        {"project": {"name": "late", "domain_id": "<id:domain:del>"}},
    )
    b("DELETE", "DELETE", P + "/<id:domain:del>")
    b("GET after DELETE", "GET", P + "/<id:domain:del>")
    for k in ("project", "user", "group", "role"):
        b(f"GET {k} after DELETE", "GET", f"/v3/{k}s/<id:{k}:del>")
    b("GET sub after DELETE", "GET", "/v3/projects/<id:project:sub>")
    b("assignments after DELETE", "GET", "/v3/role_assignments?user.id=<id:user:own>")
    b("assignments on project after DELETE", "GET", "/v3/role_assignments?scope.project.id=<id:project:own>")
    b("DELETE again", "DELETE", P + "/<id:domain:del>")
    b.bad_bodies("domain", P)
    b.bad_bodies("domain", A, "PATCH")
    f = {
        "name": WRONG + [LONG[64], LONG[65], "a/b", "tab\tx"],
        "description": WRONG + [LONG[255], LONG[256]],
        "enabled": WRONG_BOOL,
        "options": [None, 5, [], {"nope": 1}],
        "tags": [
            None,
            "x",
            5,
            [5],
            [""],
            ["a", "a"],
            ["a/b"],
            ["a,b"],
            [LONG[255]],
            [LONG[256]],
            [f"t{i}" for i in range(81)],
        ],
        "explicit_domain_id": WRONG,
        "links": [{"self": "x"}],
        "extra": [None, 5],
    }
    b.bad_fields("domain", P, f, {"name": "dm-bad-#"})
    f.pop("explicit_domain_id")
    b.bad_fields("domain", A, f, method="PATCH", verb="update")
    for m, p, d in (
        ("GET", P, None),
        ("GET", P + "/<id:domain:own>", None),
        ("GET", A, None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"domain": {"name": "dm-z"}}),
        ("POST", P, {"domain": {}}),
        ("PATCH", A, {"domain": {"description": "x"}}),
        ("PATCH", f"{P}/{GONE}", {"domain": {"name": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)


@section
def projects(b):
    b.prelude()
    P = "/v3/projects"
    b.create("domain", "d", {"name": "pj-d"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("project", "plain", {"name": "pj-plain"})
    b.create("project", "a", dict(D, name="a"))
    b.create(
        "project",
        "full",
        dict(
            D,
            name="full",
            description="d",
            enabled=False,
            colour="red",
            tags=["t2", "t1"],
            options={"immutable": False},
            id="mine",
        ),
    )
    b("create child without domain", "POST", P, {"project": {"name": "b", "parent_id": "<id:project:a>"}})
    b.create("project", "b", dict(D, name="b", parent_id="<id:project:a>"))
    b.create("project", "c", dict(D, name="c", parent_id="<id:project:b>"))
    b.create("project", "d", dict(D, name="d", parent_id="<id:project:c>"))
    b.create("project", "e", dict(D, name="e", parent_id="<id:project:d>"))
    b.create("project", "too-deep", dict(D, name="f", parent_id="<id:project:e>"))
    b.create("project", "b2", dict(D, name="b2", parent_id="<id:project:a>"))
    b.create("project", "top", dict(D, name="top", parent_id="<id:domain:d>"))
    b.create("project", "isd", {"name": "pj-isd", "is_domain": True})
    b("create name conflict", "POST", P, {"project": dict(D, name="a")})
    b("create name conflict in tree", "POST", P, {"project": {"name": "a", "parent_id": "<id:project:b>"}})
    b("create name other case", "POST", P, {"project": dict(D, name="A")})
    b("create name of domain", "POST", P, {"project": dict(D, name="pj-d")})
    b("create unknown domain", "POST", P, {"project": {"name": "x", "domain_id": GONE}})
    b("create domain is project", "POST", P, {"project": {"name": "x", "domain_id": "<id:project:a>"}})
    b("create unknown parent", "POST", P, {"project": dict(D, name="x", parent_id=GONE)})
    b(
        "create parent in other domain",
        "POST",
        P,
        {"project": {"name": "x", "domain_id": "default", "parent_id": "<id:project:a>"}},
    )
    b("create disabled parent", "POST", P, {"project": dict(D, name="x", parent_id="<id:project:full>")})
    b("create is_domain with domain", "POST", P, {"project": dict(D, name="pj-x", is_domain=True)})
    b(
        "create is_domain with parent",
        "POST",
        P,
        {"project": {"name": "pj-x", "is_domain": True, "parent_id": "<id:project:a>"}},
    )
    b("create is_domain conflict", "POST", P, {"project": {"name": "pj-d", "is_domain": True}})
    b("create domain_id null", "POST", P, {"project": {"name": "pj-null", "domain_id": None}})
    b("create by domain token", "POST", P, {"project": {"name": "x"}}, token="system")
    A = P + "/<id:project:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:project:full>")
    b("GET isd", "GET", P + "/<id:project:isd>")
    b("GET isd as domain", "GET", "/v3/domains/<id:project:isd>")
    b.gethead("unknown", f"{P}/{GONE}")
    C = P + "/<id:project:c>"
    for q in (
        "parents_as_list",
        "parents_as_ids",
        "subtree_as_list",
        "subtree_as_ids",
        "parents_as_list&subtree_as_list",
        "parents_as_ids&subtree_as_ids",
        "parents_as_list&parents_as_ids",
        "subtree_as_list&subtree_as_ids",
        "parents_as_list=1",
        "parents_as_list=0",
        "parents_as_ids=false",
        "other",
    ):
        b(f"GET c {q}", "GET", f"{C}?{q}")
        b(f"GET a {q}", "GET", f"{A}?{q}")
    b.gethead("parents as member", P + "/<id:project:own>?parents_as_list&subtree_as_ids", token="member")
    b("grant on a", "PUT", A + "/users/<id:user:own>/roles/<id:role:member>")
    b("grant on c", "PUT", C + "/users/<id:user:own>/roles/<id:role:member>")
    b.auth("login c", "<id:user:own>", {"project": {"id": "<id:project:c>"}}, save="c")
    b("GET c parents_as_list as its member", "GET", C + "?parents_as_list", token="c")
    b("GET c parents_as_ids as its member", "GET", C + "?parents_as_ids", token="c")
    b("GET c subtree_as_list as its member", "GET", C + "?subtree_as_list", token="c")
    b.gethead("all", P, glob=True)
    for q in (
        "",
        "&name=a",
        "&name=A",
        "&name=nope",
        "&enabled=false",
        "&enabled=true",
        "&enabled",
        "&enabled=0",
        "&enabled=maybe",
        "&is_domain=false",
        "&is_domain=true",
        "&is_domain",
        "&parent_id=<id:project:a>",
        "&parent_id=" + GONE,
        "&parent_id=<id:domain:d>",
        "&name__contains=ul",
        "&name__startswith=b",
        "&name__nope=a",
        "&name__icontains=UL",
        "&limit=2",
        "&limit=0",
        "&limit=-1",
        "&limit=x",
        "&marker=<id:project:a>",
        "&x=1",
        "&tags=t1",
        "&tags=t1,t2",
        "&tags-any=t1,t9",
        "&not-tags=t1",
        "&not-tags-any=t1",
        "&description=d",
        "&colour=red",
        "&sort_key=name",
    ):
        b(f"GET by domain {q}", "GET", f"{P}?domain_id=<id:domain:d>{q}")
    b("GET by unknown domain", "GET", f"{P}?domain_id={GONE}")
    b("GET by is_domain", "GET", P + "?is_domain=true&name=pj-isd")
    b("GET is_domain without name", "GET", P + "?is_domain=1", glob=True)
    b("GET by parent_id bad", "GET", P + "?parent_id=x")
    b("GET by name bad", "GET", P + "?name=")
    b("PATCH name", "PATCH", A, {"project": {"name": "a1"}})
    b("PATCH name back", "PATCH", A, {"project": {"name": "a"}})
    b("PATCH name conflict", "PATCH", A, {"project": {"name": "b"}})
    b("PATCH description", "PATCH", A, {"project": {"description": "x"}})
    b("PATCH description null", "PATCH", A, {"project": {"description": None}})
    b("PATCH extra", "PATCH", A, {"project": {"size": 1}})
    b("GET with extra", "GET", A)
    b("PATCH extra null", "PATCH", A, {"project": {"size": None}})
    b("PATCH same id", "PATCH", A, {"project": {"id": "<id:project:a>", "description": "y"}})
    b("PATCH other id", "PATCH", A, {"project": {"id": GONE}})
    b("PATCH same domain_id", "PATCH", A, {"project": dict(D, description="z")})
    b("PATCH other domain_id", "PATCH", A, {"project": {"domain_id": "default"}})
    b("PATCH unknown domain_id", "PATCH", A, {"project": {"domain_id": GONE}})
    b("PATCH domain_id null", "PATCH", A, {"project": {"domain_id": None}})
    b("PATCH same parent", "PATCH", P + "/<id:project:b>", {"project": {"parent_id": "<id:project:a>"}})
    b("PATCH other parent", "PATCH", P + "/<id:project:b>", {"project": {"parent_id": "<id:project:top>"}})
    b("PATCH is_domain", "PATCH", A, {"project": {"is_domain": True}})
    b("PATCH is_domain same", "PATCH", A, {"project": {"is_domain": False}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"project": {"name": "x"}})
    b("PATCH immutable", "PATCH", A, {"project": {"options": {"immutable": True}}})
    b("PATCH while immutable", "PATCH", A, {"project": {"description": "i"}})
    b("DELETE while immutable", "DELETE", P + "/<id:project:a>")
    b("PATCH mutable", "PATCH", A, {"project": {"options": {"immutable": False}}})
    b("PATCH disable with children", "PATCH", A, {"project": {"enabled": False}})
    b("PATCH disable leaf", "PATCH", P + "/<id:project:e>", {"project": {"enabled": False}})
    b("PATCH disable above disabled", "PATCH", P + "/<id:project:d>", {"project": {"enabled": False}})
    b("PATCH enable below disabled", "PATCH", P + "/<id:project:e>", {"project": {"enabled": True}})
    b("token of c before disable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:c>"})
    b("PATCH disable c", "PATCH", C, {"project": {"enabled": False}})
    b("token of c after disable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:c>"})
    b("use token of c after disable", "GET", "/v3/auth/projects", token="c")
    b("PATCH enable c", "PATCH", C, {"project": {"enabled": True}})
    b("token of c after enable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:c>"})
    # tags
    T = A + "/tags"
    b.gethead("tags none", T)
    b("PUT tag", "PUT", T + "/one")
    b("PUT tag again", "PUT", T + "/one")
    b("PUT tag with body", "PUT", T + "/two", {"x": 1})
    b("PUT tag bad", "PUT", T + "/a,b")
    b("PUT tag long", "PUT", T + "/" + LONG[256])
    b("PUT tag space", "PUT", T + "/a%20b")
    b("PUT tag case", "PUT", T + "/ONE")
    b.gethead("tag", T + "/one")
    b.gethead("tag unknown", T + "/nope")
    b.gethead("tags", T)
    b("PUT tags", "PUT", T, {"tags": ["x", "y"]})
    b("PUT tags duplicate", "PUT", T, {"tags": ["x", "x"]})
    b("PUT tags empty", "PUT", T, {"tags": []})
    b("PUT tags wrong", "PUT", T, {"tags": "x"})
    b("PUT tags number", "PUT", T, {"tags": [5]})
    b("PUT tags no body", "PUT", T)
    b("PUT tags other key", "PUT", T, {"other": []})
    b("PUT tags bad", "PUT", T, {"tags": ["a/b"]})
    b("PUT tags too many", "PUT", T, {"tags": [f"t{i}" for i in range(81)]})
    b("DELETE tag", "DELETE", T + "/x")
    b("DELETE tag again", "DELETE", T + "/x")
    b("PUT 80 tags", "PUT", T, {"tags": [f"t{i:02}" for i in range(80)]})
    b("PUT 81st tag", "PUT", T + "/more")
    b("DELETE tags", "DELETE", T)
    b("DELETE tags again", "DELETE", T)
    for m, p, d in (
        ("GET", "", None),
        ("GET", "/x", None),
        ("PUT", "/x", None),
        ("PUT", "", {"tags": []}),
        ("DELETE", "/x", None),
        ("DELETE", "", None),
    ):
        b(f"{m} tags{p} unknown project", m, f"{P}/{GONE}/tags{p}", d)
        b.denied(m, A + "/tags" + p, d, name=f"{m} tags{p}")
    b("PUT own tag as member", "PUT", P + "/<id:project:own>/tags/x", token="member")
    b("GET own tags as member", "GET", P + "/<id:project:own>/tags", token="member")
    # delete
    b("DELETE with children", "DELETE", A)
    b("DELETE unknown", "DELETE", f"{P}/{GONE}")
    b("DELETE enabled domain as project", "DELETE", P + "/<id:project:isd>")
    b("DELETE disabled leaf", "DELETE", P + "/<id:project:e>")
    b("DELETE leaf again", "DELETE", P + "/<id:project:e>")
    b.create("project", "gone", dict(D, name="gone"))
    b("grant on gone", "PUT", P + "/<id:project:gone>/users/<id:user:own>/roles/<id:role:member>")
    b("set default project", "PATCH", "/v3/users/<id:user:own>", {"user": {"default_project_id": "<id:project:gone>"}})
    b.auth("login gone", "<id:user:own>", {"project": {"id": "<id:project:gone>"}}, save="gone", pause=1.2)
    b("DELETE gone", "DELETE", P + "/<id:project:gone>")
    b("token after DELETE", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:gone>"})
    b("use token after DELETE", "GET", "/v3/auth/projects", token="gone")
    b("user after DELETE", "GET", "/v3/users/<id:user:own>")
    b("assignments after DELETE", "GET", "/v3/role_assignments?user.id=<id:user:own>")
    b("project of user after DELETE", "GET", "/v3/users/<id:user:own>/projects")
    b.bad_bodies("project", P)
    b.bad_bodies("project", A, "PATCH")
    f = {
        "name": WRONG + [LONG[64], LONG[65], "a/b"],
        "description": WRONG + [LONG[255], LONG[256]],
        "domain_id": WRONG + ["a_b"],
        "parent_id": WRONG + ["a_b"],
        "enabled": WRONG_BOOL,
        "is_domain": WRONG_BOOL,
        "options": [None, 5, [], {"nope": 1}, {"immutable": "x"}],
        "tags": [None, "x", 5, [5], [""], ["a", "a"], ["a/b"], ["a,b"], [LONG[256]], [f"t{i}" for i in range(81)]],
        "links": [{"self": "x"}],
        "extra": [None, 5, {"a": 1}],
        "id": ["x", 5],
        "parents": [[]],
    }
    b.bad_fields("project", P, f, dict(D, name="bad-#"))
    b.bad_fields("project", P + "/<id:project:top>", f, method="PATCH", verb="update")
    b.auth(
        "login member again", "<id:user:own>", save="member", pause=1.2, scope={"project": {"id": "<id:project:own>"}}
    )
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", P + "/<id:project:own>", None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"project": {"name": "x"}}),
        ("POST", P, {"project": {}}),
        ("POST", P, {"project": dict(D, name="x")}),
        ("PATCH", A, {"project": {"description": "x"}}),
        ("PATCH", A, {"project": {"name": 5}}),
        ("PATCH", f"{P}/{GONE}", {"project": {"name": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)


@section
def users(b):
    b.prelude()
    P = "/v3/users"
    b.create("domain", "d", {"name": "us-d"})
    b.create("project", "d", {"name": "p", "domain_id": "<id:domain:d>"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("user", "nodomain", {"name": "us-nodomain"})
    b.create("user", "nodomain by system", {"name": "us-nodomain2"}, token="system")
    b("grant admin on domain", "PUT", "/v3/domains/<id:domain:d>/users/<id:user:admin>/roles/<id:role:admin>")
    b.auth("login domain admin", scope={"domain": {"id": "<id:domain:d>"}}, save="dadmin")
    b.create("user", "nodomain by domain", {"name": "nodomain3"}, token="dadmin")
    b.create("user", "a", dict(D, name="a", password="pw-1234"))
    b.create(
        "user",
        "full",
        dict(
            D,
            name="full",
            password="pw-1234",
            enabled=False,
            description="d",
            email="x@y",
            default_project_id="<id:project:d>",
            colour="red",
            id="mine",
            options={"ignore_password_expiry": True, "lock_password": False},
        ),
    )
    b.create("user", "bare", dict(D, name="bare"))
    b("create name conflict", "POST", P, {"user": dict(D, name="a")})
    b("create name other case", "POST", P, {"user": dict(D, name="A")})
    b("create name with spaces", "POST", P, {"user": dict(D, name=" sp ")})
    b("create unknown domain", "POST", P, {"user": {"name": "x", "domain_id": GONE}})
    b("create domain is project", "POST", P, {"user": {"name": "x", "domain_id": "<id:project:d>"}})
    b("create unknown default project", "POST", P, {"user": dict(D, name="udp", default_project_id=GONE)})
    b("create default project is domain", "POST", P, {"user": dict(D, name="ddp", default_project_id="<id:domain:d>")})
    b("create password long", "POST", P, {"user": dict(D, name="plong", password="x" * 5000)})
    b("create password not ASCII", "POST", P, {"user": dict(D, name="pasc", password="\u00e4\u4e2d")})
    b(
        "create federated unknown",
        "POST",
        P,
        {
            "user": dict(
                D, name="fed", federated=[{"idp_id": "nope", "protocols": [{"protocol_id": "x", "unique_id": "y"}]}]
            )
        },
    )
    A = P + "/<id:user:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:user:full>")
    b("GET bare", "GET", P + "/<id:user:bare>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    for q in (
        "",
        "&name=a",
        "&name=A",
        "&name=nope",
        "&enabled=false",
        "&enabled=true",
        "&enabled",
        "&enabled=0",
        "&enabled=1",
        "&enabled=maybe",
        "&name__contains=ul",
        "&name__startswith=b",
        "&name__endswith=re",
        "&name__icontains=UL",
        "&name__nope=a",
        "&limit=2",
        "&limit=0",
        "&limit=x",
        "&marker=x",
        "&x=1",
        "&email=x@y",
        "&default_project_id=<id:project:d>",
        "&id=<id:user:a>",
        "&password_expires_at=lt:2030-01-01T00:00:00Z",
        "&password_expires_at=nope",
        "&password_expires_at=xx:2030",
        "&idp_id=nope",
        "&protocol_id=nope",
        "&unique_id=nope",
        "&sort_key=name&sort_dir=desc",
        "&sort_dir=up",
        "&name=",
    ):
        b(f"GET by domain {q}", "GET", f"{P}?domain_id=<id:domain:d>{q}")
    b("GET by unknown domain", "GET", f"{P}?domain_id={GONE}")
    b("GET by bad domain", "GET", f"{P}?domain_id=a_b")
    b("GET by domain token", "GET", P, token="dadmin")
    b("GET other domain by domain token", "GET", P + "?domain_id=<id:domain:own>", token="dadmin")
    b("GET a by domain token", "GET", A, token="dadmin")
    b("GET own by domain token", "GET", P + "/<id:user:own>", token="dadmin")
    b("PATCH own by domain token", "PATCH", P + "/<id:user:own>", {"user": {"description": "x"}}, token="dadmin")
    b("GET self", "GET", P + "/<id:user:own>", token="member")
    b("PATCH self", "PATCH", P + "/<id:user:own>", {"user": {"description": "x"}}, token="member")
    b("PATCH name", "PATCH", A, {"user": {"name": "a1"}})
    b("PATCH name back", "PATCH", A, {"user": {"name": "a"}})
    b("PATCH name conflict", "PATCH", A, {"user": {"name": "bare"}})
    b("PATCH description", "PATCH", A, {"user": {"description": "x"}})
    b("PATCH description null", "PATCH", A, {"user": {"description": None}})
    b("PATCH extra", "PATCH", A, {"user": {"size": 1, "email": "e"}})
    b("PATCH extra null", "PATCH", A, {"user": {"size": None}})
    b("GET after", "GET", A)
    b("PATCH same id", "PATCH", A, {"user": {"id": "<id:user:a>", "description": "y"}})
    b("PATCH other id", "PATCH", A, {"user": {"id": GONE}})
    b("PATCH same domain_id", "PATCH", A, {"user": dict(D, description="z")})
    b("PATCH other domain_id", "PATCH", A, {"user": {"domain_id": "default"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"user": {"name": "x"}})
    b("PATCH default project", "PATCH", A, {"user": {"default_project_id": "<id:project:d>"}})
    b("PATCH default project is domain", "PATCH", A, {"user": {"default_project_id": "<id:domain:d>"}})
    b("PATCH default project null", "PATCH", A, {"user": {"default_project_id": None}})
    for o in (
        "ignore_change_password_upon_first_use",
        "ignore_password_expiry",
        "ignore_lockout_failure_attempts",
        "lock_password",
        "ignore_user_inactivity",
        "multi_factor_auth_enabled",
    ):
        for v in (True, False, None, "x", 5):
            b(f"PATCH option {o}={v}", "PATCH", A, {"user": {"options": {o: v}}})
    for i, v in enumerate(
        (
            [],
            [["password"]],
            [["password", "totp"], ["token"]],
            None,
            "x",
            ["password"],
            [[]],
            [[5]],
            [["a", "a"]],
            [["a"], ["a"]],
            [["nope"]],
        )
    ):
        b(f"PATCH option mfa rules {i}", "PATCH", A, {"user": {"options": {"multi_factor_auth_rules": v}}})
    b(
        "PATCH option mfa rules off",
        "PATCH",
        A,
        {"user": {"options": {"multi_factor_auth_rules": None, "multi_factor_auth_enabled": None}}},
    )
    b("PATCH option unknown", "PATCH", A, {"user": {"options": {"no": 1}}})
    b("GET after options", "GET", A)
    # password
    b.auth("login a", "<id:user:a>", save="a", pause=1.2)
    W = A + "/password"
    b(
        "password without token",
        "POST",
        W,
        {"user": {"original_password": "pw-1234", "password": "pw-5678"}},
        token=None,
    )
    b("password back", "POST", W, {"user": {"original_password": "pw-5678", "password": "pw-1234"}})
    b("token after password change", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b.auth("login a again", "<id:user:a>", save="a", pause=1.2)
    b("password wrong original", "POST", W, {"user": {"original_password": "no", "password": "pw-5678"}}, token="a")
    b("password same", "POST", W, {"user": {"original_password": "pw-1234", "password": "pw-1234"}}, token="a")
    b(
        "password with garbage token",
        "POST",
        W,
        {"user": {"original_password": "pw-1234", "password": "pw-5678"}},
        token=None,
        headers={"X-Auth-Token": "garbage"},
    )
    b("reset password", "PATCH", A, {"user": {"password": "pw-1234"}})
    for name, body in (
        ("no body", None),
        ("empty", {}),
        ("user null", {"user": None}),
        ("user empty", {"user": {}}),
        ("no original", {"user": {"password": "x"}}),
        ("no new", {"user": {"original_password": "pw-1234"}}),
        ("null", {"user": {"original_password": "pw-1234", "password": None}}),
        ("empty new", {"user": {"original_password": "pw-1234", "password": ""}}),
        ("number", {"user": {"original_password": "pw-1234", "password": 5}}),
        ("extra", {"user": {"original_password": "pw-1234", "password": "x", "name": "y"}}),
    ):
        b("password " + name, "POST", W, body, token=None)
    b("reset password again", "PATCH", A, {"user": {"password": "pw-1234"}})
    b(
        "password unknown user",
        "POST",
        f"{P}/{GONE}/password",
        {"user": {"original_password": "pw-1234", "password": "pw-5678"}},
        token=None,
    )
    b(
        "password disabled user",
        "POST",
        P + "/<id:user:full>/password",
        {"user": {"original_password": "pw-1234", "password": "pw-5678"}},
        token=None,
    )
    b(
        "password user without password",
        "POST",
        P + "/<id:user:bare>/password",
        {"user": {"original_password": "pw-1234", "password": "pw-5678"}},
        token=None,
    )
    b("lock password", "PATCH", A, {"user": {"options": {"lock_password": True}}})
    b("password locked", "POST", W, {"user": {"original_password": "pw-1234", "password": "pw-5678"}}, token=None)
    b("unlock password", "PATCH", A, {"user": {"options": {"lock_password": None}}})
    b("GET password", "GET", W)
    b.auth("login a 3", "<id:user:a>", save="a", pause=1.2)
    b("PATCH password", "PATCH", A, {"user": {"password": "pw-new"}})
    b("token after reset", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b("PATCH password null", "PATCH", A, {"user": {"password": None}})
    b.auth("login with password null", "<id:user:a>", password="pw-new")
    b("PATCH password again", "PATCH", A, {"user": {"password": "pw-1234"}})
    b.auth("login a 4", "<id:user:a>", save="a", pause=1.2)
    b("PATCH name only", "PATCH", A, {"user": {"name": "a2"}})
    b("token after name", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b("PATCH disable", "PATCH", A, {"user": {"enabled": False}})
    b("token after disable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b("use token after disable", "GET", "/v3/auth/projects", token="a")
    b("PATCH enable", "PATCH", A, {"user": {"enabled": True}})
    b("token after enable", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b.auth("login a 5", "<id:user:a>", save="a", pause=1.2)
    # groups and projects of a user
    b.create("group", "g", dict(D, name="g"))
    b.create("group", "g2", dict(D, name="g2"))
    for u in ("own", "a"):
        b(f"add {u} to g", "PUT", f"/v3/groups/<id:group:g>/users/<id:user:{u}>")
    b("add own to g2", "PUT", "/v3/groups/<id:group:g2>/users/<id:user:own>")
    b("grant to group", "PUT", "/v3/projects/<id:project:d>/groups/<id:group:g>/roles/<id:role:reader>")
    O = P + "/<id:user:own>"
    b.auth(
        "login member again", "<id:user:own>", save="member", pause=1.2, scope={"project": {"id": "<id:project:own>"}}
    )
    for what in ("groups", "projects"):
        b.gethead(f"{what} of own", f"{O}/{what}")
        b(f"GET {what} of own by itself", "GET", f"{O}/{what}", token="member")
        b(f"GET {what} of a by member", "GET", f"{A}/{what}", token="member")
        b(f"GET {what} of a", "GET", f"{A}/{what}")
        b(f"GET {what} of bare", "GET", f"{P}/<id:user:bare>/{what}")
        b(f"GET {what} of unknown", "GET", f"{P}/{GONE}/{what}")
        b(f"GET {what} of unknown by member", "GET", f"{P}/{GONE}/{what}", token="member")
        b(f"GET {what} without token", "GET", f"{O}/{what}", token=None)
        for q in (
            "name=g",
            "name=p",
            "enabled=true",
            "name__contains=own",
            "limit=1",
            "domain_id=<id:domain:d>",
            "x=1",
        ):
            b(f"GET {what} of own by {q}", "GET", f"{O}/{what}?{q}")
    b.bad_bodies("user", P)
    b.bad_bodies("user", A, "PATCH")
    f = {
        "name": WRONG + [LONG[255], LONG[256]],
        "description": WRONG + [LONG[256]],
        "domain_id": WRONG + ["a_b"],
        "enabled": WRONG_BOOL,
        "password": WRONG,
        "default_project_id": WRONG,
        "email": WRONG,
        "options": [None, 5, [], {"nope": 1}, {"lock_password": "x"}],
        "federated": [None, [], [{}], "x"],
        "links": [{"self": "x"}],
        "id": ["x", 5],
        "password_expires_at": [None, "2030-01-01T00:00:00.000000", 5],
        "extra": [None, 5, {"a": 1}],
    }
    b.bad_fields("user", P, f, dict(D, name="bad-#"))
    b.bad_fields("user", P + "/<id:user:bare>", f, method="PATCH", verb="update")
    b.create("user", "z", dict(D, name="z"))
    Z = P + "/<id:user:z>"
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"user": dict(D, name="x")}),
        ("POST", P, {"user": {}}),
        ("PATCH", Z, {"user": {"description": "x"}}),
        ("PATCH", Z, {"user": {"name": 5}}),
        ("PATCH", f"{P}/{GONE}", {"user": {"name": "x"}}),
        ("DELETE", Z, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)
    # delete
    b("grant to a", "PUT", "/v3/projects/<id:project:d>/users/<id:user:a>/roles/<id:role:member>")
    b.auth("login a 6", "<id:user:a>", {"project": {"id": "<id:project:d>"}}, save="a", pause=1.2)
    b("DELETE", "DELETE", A)
    b("token after DELETE", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:a>"})
    b("use token after DELETE", "GET", "/v3/auth/projects", token="a")
    b("members of g after DELETE", "GET", "/v3/groups/<id:group:g>/users")
    b("assignments after DELETE", "GET", "/v3/role_assignments?scope.project.id=<id:project:d>")
    b.auth("login after DELETE", "<id:user:a>")
    b("GET after DELETE", "GET", A)
    b("DELETE again", "DELETE", A)
    b("create with the name again", "POST", P, {"user": dict(D, name="a")})


@section
def groups(b):
    b.prelude()
    P = "/v3/groups"
    b.create("domain", "d", {"name": "gr-d"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("group", "nodomain", {"name": "gr-nodomain"})
    b.create("group", "a", dict(D, name="a"))
    b.create("group", "full", dict(D, name="full", description="d", colour="red", id="mine", enabled=False))
    b("create name conflict", "POST", P, {"group": dict(D, name="a")})
    b("create name other case", "POST", P, {"group": dict(D, name="A")})
    b("create unknown domain", "POST", P, {"group": {"name": "x", "domain_id": GONE}})
    A = P + "/<id:group:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:group:full>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    for q in (
        "",
        "&name=a",
        "&name=nope",
        "&name__contains=ul",
        "&name__startswith=f",
        "&limit=1",
        "&limit=x",
        "&x=1",
        "&description=d",
        "&enabled=false",
        "&name=",
    ):
        b(f"GET by domain {q}", "GET", f"{P}?domain_id=<id:domain:d>{q}")
    b("GET by unknown domain", "GET", f"{P}?domain_id={GONE}")
    b("PATCH name", "PATCH", A, {"group": {"name": "a1"}})
    b("PATCH name conflict", "PATCH", A, {"group": {"name": "full"}})
    b("PATCH description", "PATCH", A, {"group": {"description": "x"}})
    b("PATCH description null", "PATCH", A, {"group": {"description": None}})
    b("PATCH extra", "PATCH", A, {"group": {"size": 1}})
    b("PATCH extra null", "PATCH", A, {"group": {"size": None}})
    b("PATCH same id", "PATCH", A, {"group": {"id": "<id:group:a>", "description": "y"}})
    b("PATCH other id", "PATCH", A, {"group": {"id": GONE}})
    b("PATCH same domain_id", "PATCH", A, {"group": dict(D, description="z")})
    b("PATCH other domain_id", "PATCH", A, {"group": {"domain_id": "default"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"group": {"name": "x"}})
    # members
    b.create("user", "u", dict(D, name="u", password="pw-1234", email="e", description="d"))
    U = A + "/users/<id:user:u>"
    b.gethead("member before", U)
    b("DELETE member before", "DELETE", U)
    b("PUT member", "PUT", U)
    b("PUT member again", "PUT", U)
    b("PUT member of other domain", "PUT", A + "/users/<id:user:own>")
    b.gethead("member", U)
    b.gethead("members", A + "/users")
    for q in (
        "name=u",
        "enabled=true",
        "name__contains=own",
        "limit=1",
        "x=1",
        "password_expires_at=lt:2030-01-01T00:00:00Z",
        "password_expires_at=nope",
    ):
        b(f"GET members by {q}", "GET", f"{A}/users?{q}")
    b.gethead("members of full", P + "/<id:group:full>/users")
    b.gethead("members of unknown", f"{P}/{GONE}/users")
    for m in ("PUT", "HEAD", "GET", "DELETE"):
        b(f"{m} unknown member", m, f"{A}/users/{GONE}")
        b(f"{m} member of unknown group", m, f"{P}/{GONE}/users/<id:user:u>")
        b(f"{m} both unknown", m, f"{P}/{GONE}/users/{GONE}")
    b("POST member", "POST", U)
    b("PUT member with body", "PUT", U, {"x": 1})
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", f"{P}/{GONE}", None),
        ("POST", P, {"group": dict(D, name="x")}),
        ("POST", P, {"group": {}}),
        ("PATCH", A, {"group": {"description": "x"}}),
        ("PATCH", f"{P}/{GONE}", {"group": {"name": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
        ("GET", A + "/users", None),
        ("GET", U, None),
        ("HEAD", U, None),
        ("PUT", U, None),
        ("DELETE", U, None),
        ("PUT", f"{A}/users/{GONE}", None),
        ("PUT", f"{P}/{GONE}/users/<id:user:u>", None),
    ):
        b.denied(m, p, d)
    # what a membership gives, and what its end takes away
    b.create("project", "d", dict(D, name="p"))
    b("grant to group", "PUT", "/v3/projects/<id:project:d>/groups/<id:group:a>/roles/<id:role:member>")
    b.auth("login by group", "<id:user:u>", {"project": {"id": "<id:project:d>"}}, save="u", pause=1.2)
    b("DELETE member", "DELETE", U)
    b("token after DELETE of member", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:u>"})
    b("DELETE member again", "DELETE", U)
    b("PUT member back", "PUT", U)
    b("token after PUT of member", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:u>"})
    b.auth("login by group again", "<id:user:u>", {"project": {"id": "<id:project:d>"}}, save="u", pause=1.2)
    b.bad_bodies("group", P)
    b.bad_bodies("group", A, "PATCH")
    f = {
        "name": WRONG + [LONG[64], LONG[65], LONG[255], LONG[256]],
        "description": WRONG + [LONG[256]],
        "domain_id": WRONG + ["a_b"],
        "links": [{"self": "x"}],
        "id": ["x", 5],
        "extra": [None, 5, {"a": 1}],
    }
    b.bad_fields("group", P, f, dict(D, name="bad-#"))
    b.bad_fields("group", P + "/<id:group:full>", f, method="PATCH", verb="update")
    b("DELETE", "DELETE", A)
    b("token after DELETE of group", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:u>"})
    b("assignments after DELETE", "GET", "/v3/role_assignments?scope.project.id=<id:project:d>")
    b("groups of u after DELETE", "GET", "/v3/users/<id:user:u>/groups")
    b("GET after DELETE", "GET", A)
    b("DELETE again", "DELETE", A)


@section
def roles(b):
    b.prelude()
    P = "/v3/roles"
    b.create("domain", "d", {"name": "ro-d"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("role", "a", {"name": "ro-a"})
    b.create(
        "role",
        "full",
        {"name": "ro-full", "description": "d", "colour": "red", "id": "mine", "options": {"immutable": False}},
    )
    b.create("role", "da", dict(D, name="ro-a"))
    b.create("role", "db", dict(D, name="ro-db"))
    b.create("role", "own", {"name": "ro-own", "domain_id": "<id:domain:own>"})
    b("create name conflict", "POST", P, {"role": {"name": "ro-a"}})
    b("create name conflict in domain", "POST", P, {"role": dict(D, name="ro-a")})
    b("create name other case", "POST", P, {"role": {"name": "RO-A"}})
    b("create unknown domain", "POST", P, {"role": {"name": "x", "domain_id": GONE}})
    A = P + "/<id:role:a>"
    b.gethead("one", A)
    b("GET full", "GET", P + "/<id:role:full>")
    b.gethead("domain role", P + "/<id:role:da>")
    b.gethead("unknown", f"{P}/{GONE}")
    b.gethead("all", P, glob=True)
    for q in (
        "name=ro-a",
        "name=nope",
        "domain_id=<id:domain:d>",
        "domain_id=<id:domain:d>&name=ro-db",
        "domain_id=" + GONE,
        "domain_id=a_b",
        "name__contains=o-ful",
        "name__startswith=ro-&limit=1",
        "name=ro-a&x=1",
        "name=",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("PATCH name", "PATCH", A, {"role": {"name": "ro-b"}})
    b("PATCH name back", "PATCH", A, {"role": {"name": "ro-a"}})
    b("PATCH name conflict", "PATCH", A, {"role": {"name": "ro-full"}})
    b("PATCH description", "PATCH", A, {"role": {"description": "x"}})
    b("PATCH description null", "PATCH", A, {"role": {"description": None}})
    b("PATCH extra", "PATCH", A, {"role": {"size": 1}})
    b("PATCH same id", "PATCH", A, {"role": {"id": "<id:role:a>", "description": "y"}})
    b("PATCH other id", "PATCH", A, {"role": {"id": GONE}})
    b("PATCH domain_id", "PATCH", A, {"role": D})
    b("PATCH domain_id of domain role", "PATCH", P + "/<id:role:da>", {"role": {"domain_id": "<id:domain:own>"}})
    b("PATCH domain role", "PATCH", P + "/<id:role:da>", {"role": {"description": "x"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"role": {"name": "x"}})
    b("PATCH immutable", "PATCH", A, {"role": {"options": {"immutable": True}}})
    b("PATCH while immutable", "PATCH", A, {"role": {"name": "x"}})
    b("DELETE while immutable", "DELETE", A)
    b("PATCH mutable", "PATCH", A, {"role": {"options": {"immutable": None}}})
    b("PATCH admin", "PATCH", P + "/<id:role:admin>", {"role": {"description": "x"}})
    b("DELETE reader", "DELETE", P + "/<id:role:reader>")
    # implied roles
    I = A + "/implies"
    b.gethead("implies none", I)
    b("PUT implies", "PUT", I + "/<id:role:full>")
    b("PUT implies again", "PUT", I + "/<id:role:full>")
    b("PUT implies itself", "PUT", I + "/<id:role:a>")
    b("PUT implies circle", "PUT", P + "/<id:role:full>/implies/<id:role:a>")
    b("PUT implies admin", "PUT", I + "/<id:role:admin>")
    b("PUT implies unknown", "PUT", f"{I}/{GONE}")
    b("PUT unknown implies", "PUT", f"{P}/{GONE}/implies/<id:role:a>")
    b("PUT global implies domain", "PUT", I + "/<id:role:da>")
    b("PUT domain implies global", "PUT", P + "/<id:role:da>/implies/<id:role:a>")
    b("PUT domain implies same domain", "PUT", P + "/<id:role:da>/implies/<id:role:db>")
    b("PUT domain implies other domain", "PUT", P + "/<id:role:da>/implies/<id:role:own>")
    b.gethead("implies", I)
    b.gethead("implies of domain role", P + "/<id:role:da>/implies")
    b.gethead("implies one", I + "/<id:role:full>")
    b.gethead("implies one domain role", P + "/<id:role:da>/implies/<id:role:a>")
    b.gethead("implies not", I + "/<id:role:member>")
    b.gethead("implies unknown", f"{I}/{GONE}")
    b.gethead("unknown implies", f"{P}/{GONE}/implies")
    b.gethead("unknown implies one", f"{P}/{GONE}/implies/<id:role:a>")
    b.gethead("inferences", "/v3/role_inferences", glob=True)
    b("DELETE implies not", "DELETE", I + "/<id:role:member>")
    b("DELETE implies unknown", "DELETE", f"{I}/{GONE}")
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", P + "/<id:role:da>", None),
        ("GET", f"{P}/{GONE}", None),
        ("GET", P + "?domain_id=<id:domain:own>", None),
        ("POST", P, {"role": {"name": "x"}}),
        ("POST", P, {"role": dict(D, name="x")}),
        ("POST", P, {"role": {}}),
        ("PATCH", A, {"role": {"description": "x"}}),
        ("PATCH", f"{P}/{GONE}", {"role": {"name": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
        ("GET", I, None),
        ("GET", I + "/<id:role:full>", None),
        ("HEAD", I + "/<id:role:full>", None),
        ("PUT", I + "/<id:role:member>", None),
        ("DELETE", I + "/<id:role:full>", None),
        ("GET", "/v3/role_inferences", None),
    ):
        b.denied(m, p, d)
    # effect on tokens
    b("grant a", "PUT", "/v3/projects/<id:project:own>/users/<id:user:own>/roles/<id:role:a>")
    own = {"project": {"id": "<id:project:own>"}}
    b.auth("login with implied", "<id:user:own>", own, save="r", pause=1.2)
    b("grant domain role", "PUT", "/v3/projects/<id:project:own>/users/<id:user:own>/roles/<id:role:own>")
    b("grant role of other domain", "PUT", "/v3/projects/<id:project:own>/users/<id:user:own>/roles/<id:role:da>")
    b("grant domain role on system", "PUT", "/v3/system/users/<id:user:own>/roles/<id:role:own>")
    b("grant domain role on domain", "PUT", "/v3/domains/<id:domain:own>/users/<id:user:own>/roles/<id:role:own>")
    b("own implies reader", "PUT", P + "/<id:role:own>/implies/<id:role:reader>")
    b.auth("login with domain role", "<id:user:own>", own, save="r", pause=1.2)
    b("validate before DELETE implies", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:r>"})
    b("DELETE implies", "DELETE", I + "/<id:role:full>")
    b("validate after DELETE implies", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:r>"})
    b("DELETE implies again", "DELETE", I + "/<id:role:full>")
    b("PUT implies back", "PUT", I + "/<id:role:full>")
    b("PATCH name in use", "PATCH", A, {"role": {"name": "ro-c"}})
    b("validate after PATCH name", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:r>"})
    b("DELETE in use", "DELETE", A)
    b("validate after DELETE", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:r>"})
    b("assignments after DELETE", "GET", "/v3/role_assignments?user.id=<id:user:own>")
    b("implies of da after DELETE", "GET", P + "/<id:role:da>/implies")
    b("DELETE again", "DELETE", A)
    b("DELETE domain role", "DELETE", P + "/<id:role:db>")
    b("implies of da after DELETE", "GET", P + "/<id:role:da>/implies")
    b.bad_bodies("role", P)
    b.bad_bodies("role", P + "/<id:role:full>", "PATCH")
    f = {
        "name": WRONG + [LONG[255], LONG[256]],
        "description": WRONG + [LONG[255], LONG[256]],
        "domain_id": WRONG + ["a_b"],
        "options": [None, 5, [], {"nope": 1}, {"immutable": "x"}],
        "links": [{"self": "x"}],
        "id": ["x", 5],
        "extra": [None, 5, {"a": 1}],
    }
    b.bad_fields("role", P, f, {"name": "ro-bad-#"})
    b.bad_fields("role", P + "/<id:role:full>", f, method="PATCH", verb="update")
    b.auth("login admin again", scope={"project": {"name": "admin", "domain": {"id": "default"}}}, save="admin")


@section
def grants(b):
    b.prelude()
    b.create("domain", "d", {"name": "gt-d"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("project", "p", dict(D, name="p"))
    b.create("project", "sub", dict(D, name="sub", parent_id="<id:project:p>"))
    b.create("user", "u", dict(D, name="u", password="pw-1234"))
    b.create("group", "g", dict(D, name="g"))
    b.create("role", "r", {"name": "gt-r"})
    b.create("role", "dr", dict(D, name="gt-dr"))
    b.create("role", "other", {"name": "gt-or", "domain_id": "<id:domain:own>"})
    targets = {"project": "/projects/<id:project:p>", "domain": "/domains/<id:domain:d>", "system": "/system"}
    actors = {"user": "/users/<id:user:u>", "group": "/groups/<id:group:g>"}
    gone = {"project": f"/projects/{GONE}", "domain": f"/domains/{GONE}"}
    for inherit in (False, True):
        for t, tp in targets.items():
            if inherit and t == "system":
                continue
            for a, ap in actors.items():
                pre = "/v3/OS-INHERIT" if inherit else "/v3"
                suf = "/inherited_to_projects" if inherit else ""
                n = f"{t} {a}" + (" inherited" if inherit else "")
                L = pre + tp + ap + "/roles"
                R = L + "/<id:role:r>" + suf
                b.gethead(f"{n} list empty", L + suf)
                for m in ("GET", "HEAD", "DELETE"):
                    b(f"{m} {n} before", m, R)
                b(f"PUT {n}", "PUT", R)
                b(f"PUT {n} again", "PUT", R)
                b(f"PUT {n} with body", "PUT", R, {"x": 1})
                b(f"PUT {n} domain role", "PUT", L + "/<id:role:dr>" + suf)
                b(f"PUT {n} role of other domain", "PUT", L + "/<id:role:other>" + suf)
                b.gethead(n, R)
                b.gethead(f"{n} list", L + suf)
                for m in ("PUT", "GET", "HEAD", "DELETE"):
                    b(f"{m} {n} unknown role", m, f"{L}/{GONE}{suf}")
                    b(f"{m} {n} unknown {a}", m, f"{pre}{tp}/{a}s/{GONE}/roles/<id:role:r>{suf}")
                    if t != "system":
                        b(f"{m} {n} unknown {t}", m, f"{pre}{gone[t]}{ap}/roles/<id:role:r>{suf}")
                b(f"GET {n} list unknown {a}", "GET", f"{pre}{tp}/{a}s/{GONE}/roles{suf}")
                if t != "system":
                    b(f"GET {n} list unknown {t}", "GET", f"{pre}{gone[t]}{ap}/roles{suf}")
                for m in ("PUT", "GET", "HEAD", "DELETE"):
                    b.denied(m, R, name=f"{m} {n}")
                b.denied("GET", L + suf, name=f"GET {n} list")
                b(f"DELETE {n} domain role", "DELETE", L + "/<id:role:dr>" + suf)
                b(f"DELETE {n}", "DELETE", R)
                b(f"DELETE {n} again", "DELETE", R)
                b.gethead(f"{n} list after", L + suf)
    # a grant and its inherited twin; what DELETE does to tokens
    U = "/users/<id:user:u>/roles/<id:role:r>"
    b("PUT project", "PUT", "/v3/projects/<id:project:p>" + U)
    b("PUT inherited on project", "PUT", "/v3/OS-INHERIT/projects/<id:project:p>" + U + "/inherited_to_projects")
    b("list both", "GET", "/v3/projects/<id:project:p>/users/<id:user:u>/roles")
    for t, scope in (("p", {"project": {"id": "<id:project:p>"}}), ("sub", {"project": {"id": "<id:project:sub>"}})):
        b.auth(f"login {t}", "<id:user:u>", scope, save=t)
    b("DELETE direct", "DELETE", "/v3/projects/<id:project:p>" + U)
    for t in ("p", "sub"):
        b(
            f"token {t} after DELETE direct",
            "GET",
            "/v3/auth/tokens?nocatalog",
            headers={"X-Subject-Token": f"<token:{t}>"},
        )
    b("PUT direct again", "PUT", "/v3/projects/<id:project:p>" + U)
    b("token p after PUT again", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:p>"})
    b.auth("login sub again", "<id:user:u>", {"project": {"id": "<id:project:sub>"}}, save="sub", pause=1.2)
    b("DELETE inherited", "DELETE", "/v3/OS-INHERIT/projects/<id:project:p>" + U + "/inherited_to_projects")
    b(
        "token sub after DELETE inherited",
        "GET",
        "/v3/auth/tokens?nocatalog",
        headers={"X-Subject-Token": "<token:sub>"},
    )
    b("PUT second role", "PUT", "/v3/projects/<id:project:p>/users/<id:user:u>/roles/<id:role:member>")
    b.auth("login p", "<id:user:u>", {"project": {"id": "<id:project:p>"}}, save="p", pause=1.2)
    b.auth("login unscoped", "<id:user:u>", save="un")
    b("DELETE one of two", "DELETE", "/v3/projects/<id:project:p>" + U)
    for t in ("p", "un"):
        b(
            f"token {t} after DELETE one of two",
            "GET",
            "/v3/auth/tokens?nocatalog",
            headers={"X-Subject-Token": f"<token:{t}>"},
        )
    b("PUT on system", "PUT", "/v3/system/users/<id:user:u>/roles/<id:role:r>")
    b.auth("login system", "<id:user:u>", {"system": {"all": True}}, save="s", pause=1.2)
    b("DELETE on system", "DELETE", "/v3/system/users/<id:user:u>/roles/<id:role:r>")
    b("token system after DELETE", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:s>"})
    # a domain manager
    b("grant manager", "PUT", "/v3/domains/<id:domain:d>/users/<id:user:u>/roles/<id:role:manager>")
    b.auth("login manager", "<id:user:u>", {"domain": {"id": "<id:domain:d>"}}, save="dm", pause=1.2)
    for role in ("member", "reader", "manager", "admin", "r", "dr"):
        b(
            f"manager grants {role}",
            "PUT",
            f"/v3/projects/<id:project:p>/groups/<id:group:g>/roles/<id:role:{role}>",
            token="dm",
        )
    b(
        "manager grants to foreign user",
        "PUT",
        "/v3/projects/<id:project:p>/users/<id:user:own>/roles/<id:role:member>",
        token="dm",
    )
    b(
        "manager grants on foreign project",
        "PUT",
        "/v3/projects/<id:project:own>/users/<id:user:u>/roles/<id:role:member>",
        token="dm",
    )
    b("manager creates user", "POST", "/v3/users", {"user": {"name": "mu"}}, token="dm")
    b(
        "manager creates user elsewhere",
        "POST",
        "/v3/users",
        {"user": {"name": "mu", "domain_id": "<id:domain:own>"}},
        token="dm",
    )
    b("manager creates project", "POST", "/v3/projects", {"project": dict(D, name="mp")}, token="dm")
    b(
        "manager creates project elsewhere",
        "POST",
        "/v3/projects",
        {"project": {"name": "mp", "domain_id": "<id:domain:own>"}},
        token="dm",
    )
    for p in (
        "users",
        "groups",
        "projects",
        "domains",
        "roles",
        "services",
        "endpoints",
        "regions",
        "role_assignments",
        "role_inferences",
        "users/<id:user:own>",
        "projects/<id:project:own>",
        "domains/<id:domain:d>",
        "domains/<id:domain:own>",
        "roles/<id:role:dr>",
        "roles/<id:role:other>",
        "role_assignments?scope.domain.id=<id:domain:d>",
        "role_assignments?scope.domain.id=<id:domain:own>",
        "role_assignments?scope.project.id=<id:project:p>",
        "role_assignments?scope.project.id=<id:project:own>",
        "roles?domain_id=<id:domain:d>",
        "roles?domain_id=<id:domain:own>",
    ):
        b(
            f"manager GET {p}",
            "GET",
            "/v3/" + p,
            token="dm",
            glob=p in ("roles", "services", "endpoints", "regions", "role_inferences"),
        )


@section
def role_assignments(b):
    b.prelude()
    P = "/v3/role_assignments"
    b.create("domain", "d", {"name": "ra-d"})
    D = {"domain_id": "<id:domain:d>"}
    b.create("project", "p", dict(D, name="p"))
    b.create("project", "sub", dict(D, name="sub", parent_id="<id:project:p>"))
    b.create("project", "sub2", dict(D, name="sub2", parent_id="<id:project:sub>"))
    b.create("user", "u", dict(D, name="u", password="pw-1234"))
    b.create("user", "v", dict(D, name="v", password="pw-1234"))
    b.create("group", "g", dict(D, name="g"))
    b.create("role", "r", {"name": "ra-r"})
    b.create("role", "i", {"name": "ra-i"})
    b.create("role", "dr", dict(D, name="ra-dr"))
    b("r implies i", "PUT", "/v3/roles/<id:role:r>/implies/<id:role:i>")
    b("dr implies i", "PUT", "/v3/roles/<id:role:dr>/implies/<id:role:i>")
    for u in "uv":
        b(f"{u} in g", "PUT", f"/v3/groups/<id:group:g>/users/<id:user:{u}>")
    for n, p in enumerate(
        (
            "/projects/<id:project:p>/users/<id:user:u>/roles/<id:role:r>",
            "/projects/<id:project:sub>/users/<id:user:u>/roles/<id:role:dr>",
            "/projects/<id:project:p>/groups/<id:group:g>/roles/<id:role:member>",
            "/domains/<id:domain:d>/users/<id:user:u>/roles/<id:role:reader>",
            "/domains/<id:domain:d>/groups/<id:group:g>/roles/<id:role:r>",
            "/system/users/<id:user:u>/roles/<id:role:reader>",
            "/system/groups/<id:group:g>/roles/<id:role:r>",
            "/OS-INHERIT/domains/<id:domain:d>/users/<id:user:v>/roles/<id:role:r>/inherited_to_projects",
            "/OS-INHERIT/domains/<id:domain:d>/groups/<id:group:g>/roles/<id:role:reader>/inherited_to_projects",
            "/OS-INHERIT/projects/<id:project:p>/users/<id:user:v>/roles/<id:role:member>/inherited_to_projects",
        )
    ):
        b(f"grant {n}", "PUT", "/v3" + p)
    b("GET all", "GET", P, glob=True)
    b("HEAD all", "HEAD", P, glob=True)
    u, v, g, r = ("user.id=<id:user:u>", "user.id=<id:user:v>", "group.id=<id:group:g>", "role.id=<id:role:r>")
    sp, ss, sd = (
        "scope.project.id=<id:project:p>",
        "scope.project.id=<id:project:sub>",
        "scope.domain.id=<id:domain:d>",
    )
    inh = "scope.OS-INHERIT:inherited_to=projects"
    for q in (
        u,
        v,
        g,
        r,
        sp,
        ss,
        sd,
        "role.id=<id:role:i>",
        f"{u}&{r}",
        f"{u}&{sp}",
        f"{u}&{sd}",
        f"{g}&{sp}",
        f"{u}&scope.system=all",
        f"{g}&scope.system=all",
        f"{u}&scope.system=x",
        f"{u}&scope.system",
        f"{v}&{inh}",
        f"{sd}&{inh}",
        f"{sp}&{inh}",
        f"{g}&{inh}",
        f"{v}&scope.OS-INHERIT:inherited_to=x",
        f"{u}&{inh}",
        f"{u}&include_names",
        f"{g}&include_names",
        f"{sd}&include_names",
        f"{sp}&include_names=1",
        f"{u}&include_names=0",
        f"{v}&{inh}&include_names",
        f"{u}&scope.system=all&include_names",
        f"{u}&effective",
        f"{v}&effective",
        f"{u}&effective=0",
        f"{u}&effective=1",
        f"{u}&effective=false",
        f"{sp}&effective",
        f"{ss}&effective",
        f"{sd}&effective",
        f"{u}&{sp}&effective",
        f"{v}&{ss}&effective",
        f"{u}&role.id=<id:role:i>&effective",
        f"{r}&effective",
        f"{u}&{sp}&effective&include_names",
        f"{v}&{ss}&effective&include_names",
        f"{u}&scope.system=all&effective",
        f"{v}&scope.system=all&effective&include_names",
        f"{v}&{inh}&effective",
        f"{ss}&{inh}&effective",
        f"{sp}&include_subtree",
        f"{sp}&include_subtree=0",
        f"{sp}&include_subtree&effective",
        f"{sp}&include_subtree&include_names",
        f"{ss}&include_subtree&{u}",
        f"{u}&limit=1",
        f"{u}&x=1",
        f"{u}&user.name=u",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("HEAD by user", "HEAD", f"{P}?{u}")
    for q in (
        "include_subtree",
        f"{sd}&include_subtree",
        f"{u}&include_subtree",
        f"{u}&{g}",
        f"{sp}&{sd}",
        f"{sp}&scope.system=all",
        f"{sd}&scope.system=all",
        f"{g}&effective",
        f"{sd}&{inh}&effective",
        "user.id=",
        "user.id=" + GONE,
        "group.id=" + GONE,
        "role.id=" + GONE,
        "scope.project.id=" + GONE,
        "scope.domain.id=" + GONE,
        "scope.project.id=a_b",
        f"user.id={GONE}&effective",
        f"scope.project.id={GONE}&effective",
        f"scope.project.id={GONE}&include_subtree",
        f"user.id={GONE}&include_names",
    ):
        b(f"GET by odd {q}", "GET", f"{P}?{q}", glob=q == "user.id=")
    for t, q in (
        ("member", ""),
        ("member", "?" + u),
        ("member", "?user.id=<id:user:own>"),
        ("member", "?scope.project.id=<id:project:own>"),
        ("member", "?scope.project.id=<id:project:own>&include_subtree"),
        ("system", "?" + u),
    ):
        b(f"GET {q} as {t}", "GET", P + q, token=t)
    b("GET without token", "GET", P, token=None)
    b("GET garbage token", "GET", P, token=None, headers={"X-Auth-Token": "garbage"})
    b("grant admin on p", "PUT", "/v3/projects/<id:project:p>/users/<id:user:v>/roles/<id:role:admin>")
    b.auth("login project admin", "<id:user:v>", {"project": {"id": "<id:project:p>"}}, save="pa", pause=1.2)
    b("GET subtree as project admin", "GET", f"{P}?{sp}&include_subtree", token="pa")
    # what a user can use
    b.auth("login u", "<id:user:u>", save="u")
    b.auth("login v", "<id:user:v>", save="v")
    for t in "uv":
        for what in ("projects", "domains", "system"):
            b(f"auth/{what} of {t}", "GET", f"/v3/auth/{what}", token=t)
        b(f"projects of {t}", "GET", f"/v3/users/<id:user:{t}>/projects")
        for n, scope in (
            ("p", {"project": {"id": "<id:project:p>"}}),
            ("sub", {"project": {"id": "<id:project:sub>"}}),
            ("sub2", {"project": {"id": "<id:project:sub2>"}}),
            ("d", {"domain": {"id": "<id:domain:d>"}}),
            ("s", {"system": {"all": True}}),
        ):
            b.auth(f"login {t} {n}", f"<id:user:{t}>", scope, query="?nocatalog")
    b("delete prior role", "DELETE", "/v3/roles/<id:role:r>")
    b("assignments after", "GET", f"{P}?{u}")


@section
def credentials(b):
    b.prelude()
    P, mine, ada = "/v3/credentials", {"user_id": "<id:user:own>"}, {"user_id": "<id:user:admin>"}
    home = {"project_id": "<id:project:own>"}

    def make(symbol, token="admin", **body):
        return b.create("credential", symbol, body, token=token)

    for who in ("admin", "system", "member"):
        make(f"totp {who}", who, type="totp", blob="GEZDGNBVGY3TQOJQ", **mine)
    make("cert", type="cert", blob="-----BEGIN", colour="red", id="mine", **{"a:b-c": 1}, **ada, **home)
    make("null project", type="cert", blob="", project_id=None, **mine)
    make("nobody", type="cert", blob="x", user_id=GONE, project_id=GONE)
    make("empty", type="", blob="", user_id="", project_id="")
    make("member for another", "member", type="cert", blob="x", **ada)
    text = {"access": "cr-access", "secret": "cr-secret"}
    make("ec2", type="ec2", blob=json.dumps(text), **mine, **home)
    make("ec2 again", type="ec2", blob=json.dumps(text), **mine, **home)
    make("EC2", type="EC2", blob=json.dumps({"access": "cr-upper"}), **mine)
    make("ec2 trust", type="ec2", blob=json.dumps(dict(text, access="cr-trust", trust_id="t")), **mine, **home)
    make("ec2 no project", type="ec2", blob=json.dumps(dict(text, access="cr-no")), **mine)
    make("ec2 null project", type="ec2", blob=json.dumps(dict(text, access="cr-null")), project_id=None, **mine)
    for blob in ("", "x", "null", "[]", "{}", '"x"', "5", '{"secret": "x"}', '{"access": null}', '{"access": 5}'):
        b(f"create ec2 blob={blob}", "POST", P, {"credential": dict(mine, **home, type="ec2", blob=blob)})
    b.bad_fields(
        "credential",
        P,
        {"blob": [None, 5, True, {}, []], "type": WRONG, "user_id": WRONG, "project_id": WRONG},
        base={"blob": "x", "type": "cert", "user_id": "u", "project_id": "p"},
    )
    for field in ("blob", "type", "user_id"):
        body = {k: v for k, v in {"blob": "x", "type": "cert", "user_id": "u"}.items() if k != field}
        b(f"create without {field}", "POST", P, {"credential": body})
    b.bad_bodies("credential", P)
    b.denied("POST", P, {"credential": dict(ada, type="cert", blob="x")})
    A = f"{P}/<id:credential:totp admin>"
    for who in ("admin", "system", "member"):
        b.gethead(f"one as {who}", A, token=who)
        b.gethead(f"ec2 as {who}", f"{P}/<id:credential:ec2>", token=who)
        b.gethead(f"another's as {who}", f"{P}/<id:credential:cert>", token=who)
        b.gethead(f"unknown as {who}", f"{P}/{GONE}", token=who)
    b.denied("GET", A)
    q = "user_id=<id:user:own>"
    for query in (
        q,
        q + "&type=totp",
        q + "&type=TOTP",
        q + "&type__icontains=TOT",
        q + "&type__contains=e",
        q + "&x=1",
    ):
        for who in ("admin", "system", "member"):
            b(f"GET by {query} as {who}", "GET", f"{P}?{query}", token=who)
    b("GET all as member", "GET", P, token="member")
    b("GET another's as member", "GET", f"{P}?user_id=<id:user:admin>", token="member")
    b("GET by type= as member", "GET", f"{P}?type=", token="member")
    b("GET paged limit=1", "GET", f"{P}?{q}&limit=1", token="member")
    b("GET unknown user", "GET", f"{P}?user_id={GONE}9")
    b.denied("GET", P)
    b("PATCH blob", "PATCH", A, {"credential": {"blob": "NEW"}})
    b("PATCH blob as member", "PATCH", A, {"credential": {"blob": "MINE"}}, token="member")
    b("PATCH as system", "PATCH", A, {"credential": {"blob": "SYSTEM"}}, token="system")
    b("GET after PATCH", "GET", A)
    for field, value in {"user_id": "x", "project_id": "x", "type": "x", "id": "x", "colour": "x", "blob": 5}.items():
        b(f"PATCH {field}", "PATCH", A, {"credential": {"blob": "x", field: value}})
        b(f"PATCH only {field}", "PATCH", A, {"credential": {field: value}})
    b.bad_bodies("credential", A, "PATCH")
    E = f"{P}/<id:credential:ec2 trust>"
    b("PATCH ec2", "PATCH", E, {"credential": {"blob": json.dumps(dict(text, access="cr-trust", trust_id="t", x=1))}})
    b("PATCH ec2 access", "PATCH", E, {"credential": {"blob": json.dumps(dict(text, access="other", trust_id="t"))}})
    for name in ("trust_id", "app_cred_id", "access_token_id", "access_id"):
        blob = json.dumps(dict(text, **{"trust_id": "t", name: "else"}))
        b(f"PATCH ec2 {name}", "PATCH", E, {"credential": {"blob": blob}})
    b("PATCH ec2 without trust", "PATCH", E, {"credential": {"blob": json.dumps(text)}})
    for blob in ("", "x", "{}", "[1]", '{"secret": "x"}'):
        b(f"PATCH ec2 blob={blob}", "PATCH", E, {"credential": {"blob": blob}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"credential": {"blob": "x"}})
    b("PATCH another's", "PATCH", f"{P}/<id:credential:cert>", {"credential": {"blob": "x"}}, token="member")
    b("DELETE another's", "DELETE", f"{P}/<id:credential:cert>", token="member")
    b("DELETE unknown", "DELETE", f"{P}/{GONE}")
    b("DELETE unknown as member", "DELETE", f"{P}/{GONE}", token="member")
    b("DELETE own", "DELETE", A, token="member")
    b("DELETE again", "DELETE", A)
    b("DELETE as system", "DELETE", f"{P}/<id:credential:totp system>", token="system")
    b("PUT", "PUT", P)
    b("DELETE project", "DELETE", "/v3/projects/<id:project:own>")
    b("GET ec2 after its project", "GET", f"{P}/<id:credential:ec2>")
    b("GET after project", "GET", f"{P}?{q}")
    b("DELETE user", "DELETE", "/v3/users/<id:user:own>")
    b("GET after user", "GET", f"{P}?{q}")


@section
def ec2_credentials(b):
    b.prelude()
    P = "/v3/users/<id:user:own>/credentials/OS-EC2"
    T = {"tenant_id": "<id:project:own>"}

    def make(symbol, path=P, body=T, **kw):
        capture = {f"id:access:{symbol}": "credential.access", f"id:secret:{symbol}": "credential.secret"}
        b(f"create {symbol}", "POST", path, body, capture=capture, **kw)

    make("mine", token="member")
    make("by admin")
    make("by system", token="system")
    make("for admin", "/v3/users/<id:user:admin>/credentials/OS-EC2")
    make("member for admin", "/v3/users/<id:user:admin>/credentials/OS-EC2", token="member")
    make("unknown user", f"/v3/users/{GONE}/credentials/OS-EC2")
    for body in ({}, {"tenant_id": None}, {"tenant_id": GONE}, {"tenant_id": ""}, {"tenant_id": 5}, {"other": 1}):
        make(f"body {json.dumps(body)}", body=body)
    b("create extra", "POST", P, dict(T, access="mine", secret="mine", trust_id="mine"))
    b.denied("POST", P, T, name="create denied")
    for who in ("admin", "system", "member"):
        b.gethead(f"list as {who}", P, token=who)
        b.gethead(f"list of admin as {who}", "/v3/users/<id:user:admin>/credentials/OS-EC2", token=who)
        b.gethead(f"one as {who}", f"{P}/<id:access:mine>", token=who)
        b.gethead(f"admin's as {who}", "/v3/users/<id:user:admin>/credentials/OS-EC2/<id:access:for admin>", token=who)
        b.gethead(f"admin's below own as {who}", f"{P}/<id:access:for admin>", token=who)
        b.gethead(f"unknown as {who}", f"{P}/nope", token=who)
        b(f"GET credentials as {who}", "GET", "/v3/credentials?user_id=<id:user:own>", token=who)
    b("GET list of unknown user", "GET", f"/v3/users/{GONE}/credentials/OS-EC2")
    b("GET one of unknown user", "GET", f"/v3/users/{GONE}/credentials/OS-EC2/<id:access:mine>")
    blob = json.dumps({"access": "ec-cert", "secret": "x"})
    body = {"type": "cert", "blob": blob, "user_id": "<id:user:own>"}
    b.create("credential", "cert", body)
    b("GET list with query", "GET", f"{P}?limit=1&x=y", token="member")
    b.denied("GET", P)
    b("DELETE admin's as member", "DELETE", f"{P}/<id:access:for admin>", token="member")
    b("DELETE unknown", "DELETE", f"{P}/nope")
    b("DELETE unknown as member", "DELETE", f"{P}/nope", token="member")
    b("DELETE mine", "DELETE", f"{P}/<id:access:mine>", token="member")
    b("DELETE mine again", "DELETE", f"{P}/<id:access:mine>")
    b("DELETE as system", "DELETE", f"{P}/<id:access:by system>", token="system")
    b("GET list after", "GET", P)
    b("PATCH", "PATCH", f"{P}/<id:access:by admin>", {})


@section
def oauth1(b):
    b.prelude()
    P = "/v3/OS-OAUTH1/consumers"

    def make(symbol, body, **kw):
        capture = {f"id:consumer:{symbol}": "consumer.id", f"id:secret:{symbol}": "consumer.secret"}
        b(f"create {symbol}", "POST", P, {"consumer": body}, capture=capture, **kw)

    make("a", {"description": "a"})
    make("bare", {})
    make("null", {"description": None})
    make("extra", {"colour": "red", "id": "mine", "secret": "mine", "a:b-c": 1})
    make("by system", {}, token="system")
    for value in ("", LONG[64], 5, True, [], {}):
        shown = json.dumps(value)[:20]
        make(f"description={shown}", {"description": value})
    b.bad_bodies("consumer", P)
    b.denied("POST", P, {"consumer": {}})
    A = f"{P}/<id:consumer:a>"
    for who in ("admin", "system", "member"):
        b.gethead(f"one as {who}", A, token=who)
        b.gethead(f"unknown as {who}", f"{P}/{GONE}", token=who)
    b.denied("GET", P)
    b.denied("GET", A)
    for i, body in enumerate(
        (
            {"description": "b"},
            {"description": None},
            {"colour": "blue"},
            {"colour": None},
            {"id": "<id:consumer:a>", "description": "c"},
            {"id": "else", "description": "d"},
            {"secret": "x"},
            {"secret": "x", "description": "e"},
            {"description": 5},
            {},
        )
    ):
        b(f"PATCH {i}", "PATCH", A, {"consumer": body})
    b("GET after PATCH", "GET", A)
    b.bad_bodies("consumer", A, "PATCH")
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"consumer": {"description": "x"}})
    b.denied("PATCH", A, {"consumer": {"description": "x"}})
    b.denied("DELETE", A)
    b("DELETE unknown", "DELETE", f"{P}/{GONE}")
    b("PUT", "PUT", P)
    T = "/v3/users/<id:user:own>/OS-OAUTH1/access_tokens"
    for who in ("admin", "system", "member"):
        b.gethead(f"access tokens as {who}", T, token=who)
        b.gethead(f"unknown access token as {who}", f"{T}/{GONE}", token=who)
        b.gethead(f"roles of unknown as {who}", f"{T}/{GONE}/roles", token=who)
        b.gethead(f"role of unknown as {who}", f"{T}/{GONE}/roles/<id:role:member>", token=who)
        b(f"DELETE unknown access token as {who}", "DELETE", f"{T}/{GONE}", token=who)
    b("GET access tokens of unknown user", "GET", f"/v3/users/{GONE}/OS-OAUTH1/access_tokens")
    b("POST access tokens", "POST", T, {})
    b.denied("GET", T)
    b("DELETE", "DELETE", A)
    b("DELETE again", "DELETE", A)


# --------------------------------------------------------------------------


LATER, PAST = "2099-01-02T03:04:05.678901Z", "2001-01-02T03:04:05Z"


def _trust_world(b):
    """Alice, who is admin and member of a project, and Bob and Carol, who have nothing there."""
    b.prelude()
    b.create("project", "p", {"name": f"{b.section}-p", "domain_id": "default"})
    for who in ("alice", "bob", "carol"):
        b.create("user", who, {"name": f"{b.section}-{who}", "domain_id": "default", "password": "pw-1234"})
    for role in ("member", "manager"):
        b("grant", "PUT", f"/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:{role}>")
    for who in ("bob", "carol"):
        b("grant own", "PUT", f"/v3/projects/<id:project:own>/users/<id:user:{who}>/roles/<id:role:reader>")
        b.auth(f"login {who}", f"<id:user:{who}>", save=who, scope={"project": {"id": "<id:project:own>"}})
        b.auth(f"login {who}, bare", f"<id:user:{who}>", save=f"{who}-bare", scope="unscoped")
    b.auth("login alice", "<id:user:alice>", save="alice", scope={"project": {"id": "<id:project:p>"}})


def _trust(**changed):
    found = {
        "trustor_user_id": "<id:user:alice>",
        "trustee_user_id": "<id:user:bob>",
        "project_id": "<id:project:p>",
        "impersonation": True,
        "roles": [{"id": "<id:role:member>"}],
    }
    return {name: value for name, value in {**found, **changed}.items() if value is not ...}


def _new_trust(b, name, symbol=None, token="alice", **changed):
    kw = {"capture": {f"id:trust:{symbol}": "trust.id"}} if symbol else {}
    b(f"create {name}", "POST", "/v3/OS-TRUST/trusts", {"trust": _trust(**changed)}, token=token, **kw)


def _use_trust(b, name, symbol, who="bob", save=None, token=None, **more):
    scope = {"OS-TRUST:trust": {"id": f"<id:trust:{symbol}>"}, **more}
    if token:
        identity = {"methods": ["token"], "token": {"id": f"<token:{token}>"}}
        return b.auth(name, identity=identity, scope=scope, save=save)
    return b.auth(name, f"<id:user:{who}>", scope=scope, save=save)


def _check(b, name, subject, token="admin", **headers):
    b(
        f"validate {name}",
        "GET",
        "/v3/auth/tokens",
        token=token,
        headers={"X-Subject-Token": f"<token:{subject}>", **headers},
    )


@section
def trusts(b):
    _trust_world(b)
    path = "/v3/OS-TRUST/trusts"
    b.bad_bodies("trust", path)
    b.denied("GET", path)
    b.denied("POST", path, {"trust": _trust()}, name="POST trust")
    _new_trust(b, "plain", "plain")
    _new_trust(b, "with expiry", "expiring", expires_at=LATER)
    _new_trust(b, "with expiry twice", expires_at=LATER)
    _new_trust(b, "without impersonation", "plainly", impersonation=False)
    _new_trust(b, "by role names", "named", roles=[{"name": "member"}, {"name": "reader"}])
    _new_trust(b, "with extra", "extra", colour="red", redelegation_count=2, remaining_uses=5)
    _new_trust(b, "for carol", "carols", trustee_user_id="<id:user:carol>")
    _new_trust(b, "without roles", roles=[])
    _new_trust(b, "without any roles", roles=...)
    _new_trust(b, "without project or roles", "nowhere", project_id=..., roles=...)
    _new_trust(b, "without project", project_id=None)
    _new_trust(b, "role not held", roles=[{"id": "<id:role:admin>"}])
    _new_trust(b, "role unknown", roles=[{"id": GONE}])
    _new_trust(b, "role name unknown", roles=[{"name": "nobody"}])
    _new_trust(b, "project unknown", project_id=GONE)
    _new_trust(b, "trustee unknown", trustee_user_id=GONE)
    _new_trust(b, "for another", trustor_user_id="<id:user:bob>")
    _new_trust(b, "as admin for another", token="admin")
    _new_trust(b, "with system token", token="system")
    _new_trust(b, "without scope", token="bob-bare", trustor_user_id="<id:user:bob>", roles=[], project_id=None)
    for field, values in {
        "impersonation": [None, "x", 1, ...],
        "expires_at": [None, "x", PAST, 5, "2099-01-01", "2099-01-01T00:00:00", "2099-01-01T00:00:00+02:00", ""],
        "remaining_uses": [None, 0, -1, 1, "1", True],
        "redelegation_count": [None, 0, 1, -1, 9, "1"],
        "allow_redelegation": [None, False, "x"],
        "roles": [
            None,
            "x",
            [5],
            [{}],
            [{"id": "<id:role:member>", "name": "member"}],
            [{"other": "x"}],
            [{"name": ""}],
        ],
        "trustor_user_id": [None, 5, "", ...],
        "trustee_user_id": [None, 5, "", ...],
        "project_id": [5, ""],
        "id": ["mine"],
        "deleted_at": ["x"],
    }.items():
        for value in values:
            shown = "absent" if value is ... else json.dumps(value)
            _new_trust(b, f"{field}={shown}", **{field: value})
    for count in (None, 0, 1, 3, 4, -1):
        _new_trust(b, f"redelegable {count}", allow_redelegation=True, redelegation_count=count)
    _new_trust(b, "redelegable with uses", allow_redelegation=True, remaining_uses=2)
    for who in ("alice", "bob", "carol", "admin", "system"):
        for trust in ("plain", "expiring", "extra", "named"):
            b.gethead(f"{trust} as {who}", f"{path}/<id:trust:{trust}>", token=who)
        b(f"GET roles as {who}", "GET", f"{path}/<id:trust:named>/roles", token=who)
        b(f"GET role as {who}", "GET", f"{path}/<id:trust:named>/roles/<id:role:member>", token=who)
        b(f"GET list by trustor as {who}", "GET", f"{path}?trustor_user_id=<id:user:alice>", token=who)
        b(f"GET list by trustee as {who}", "GET", f"{path}?trustee_user_id=<id:user:carol>", token=who)
        b(f"GET list as {who}", "GET", path, token=who, glob=True)
        b(f"DELETE unknown as {who}", "DELETE", f"{path}/{GONE}", token=who)
        b(f"GET unknown as {who}", "GET", f"{path}/{GONE}", token=who)
        b(f"GET roles of unknown as {who}", "GET", f"{path}/{GONE}/roles", token=who)
    b("GET list by both", "GET", f"{path}?trustor_user_id=<id:user:alice>&trustee_user_id=<id:user:carol>")
    b("GET list by nothing", "GET", f"{path}?trustor_user_id=")
    b("GET list by something else", "GET", f"{path}?colour=red")
    b("GET role that is not in it", "GET", f"{path}/<id:trust:plain>/roles/<id:role:reader>")
    b("GET role unknown", "GET", f"{path}/<id:trust:plain>/roles/{GONE}")
    b.gethead("roles", f"{path}/<id:trust:named>/roles")
    b.gethead("role", f"{path}/<id:trust:named>/roles/<id:role:member>")
    b("PATCH", "PATCH", f"{path}/<id:trust:plain>", {"trust": {}})
    for who in ("bob", "carol"):
        b(f"DELETE as {who}", "DELETE", f"{path}/<id:trust:plain>", token=who)
    b("DELETE as alice", "DELETE", f"{path}/<id:trust:expiring>", token="alice")
    b("GET after DELETE", "GET", f"{path}/<id:trust:expiring>", token="alice")
    b("DELETE again", "DELETE", f"{path}/<id:trust:expiring>", token="alice")
    b("DELETE as admin", "DELETE", f"{path}/<id:trust:named>")


@section
def trust_tokens(b):
    _trust_world(b)
    path = "/v3/OS-TRUST/trusts"
    _new_trust(b, "impersonating", "a", roles=[{"id": "<id:role:manager>"}], expires_at=LATER)
    _new_trust(b, "not impersonating", "b", impersonation=False)
    _new_trust(b, "nowhere", "nowhere", project_id=..., roles=...)
    _new_trust(b, "limited", "n", remaining_uses=2)
    _use_trust(b, "use a", "a", save="a")
    _use_trust(b, "use b", "b", save="b")
    _use_trust(b, "use by token", "a", token="bob-bare", save="a2")
    _use_trust(b, "use by scoped token", "a", token="bob")
    _use_trust(b, "use as carol", "a", who="carol")
    _use_trust(b, "use as alice", "a", who="alice")
    _use_trust(b, "use nowhere", "nowhere", save="nowhere")
    _use_trust(b, "use and project", "a", project={"id": "<id:project:own>"})
    b.auth("use unknown", "<id:user:bob>", scope={"OS-TRUST:trust": {"id": GONE}})
    b.auth("use null", "<id:user:bob>", scope={"OS-TRUST:trust": {"id": None}})
    b.auth("use nothing", "<id:user:bob>", scope={"OS-TRUST:trust": {}})
    for name in ("a", "b"):
        for who in ("admin", "alice", "bob", name):
            _check(b, f"{name} as {who}", name, token=who)
        b(f"HEAD {name}", "HEAD", "/v3/auth/tokens", headers={"X-Subject-Token": f"<token:{name}>"})
        b(f"catalog {name}", "GET", "/v3/auth/catalog", token=name, glob=True)
        for list_ in ("projects", "domains", "system"):
            b(f"{list_} of {name}", "GET", f"/v3/auth/{list_}", token=name)
        b(f"user of {name}", "GET", "/v3/users/<id:user:alice>", token=name)
        b(f"trustee of {name}", "GET", "/v3/users/<id:user:bob>", token=name)
        b(f"trust by {name}", "GET", f"{path}/<id:trust:{name}>", token=name)
        b(f"trusts by {name}", "GET", f"{path}?trustee_user_id=<id:user:bob>", token=name)
        for scope in (None, "unscoped", {"project": {"id": "<id:project:p>"}}, {"system": {"all": True}}):
            identity = {"methods": ["token"], "token": {"id": f"<token:{name}>"}}
            b.auth(f"rescope {name} {json.dumps(scope)}", identity=identity, scope=scope)
        _use_trust(b, f"rescope {name} to trust", "a", token=name)
    for n in range(3):
        _use_trust(b, f"use n {n}", "n", save=f"n{n}")
        b(f"GET n {n}", "GET", f"{path}/<id:trust:n>", token="alice")
        _check(b, f"n{min(n, 1)} after {n}", f"n{min(n, 1)}")
    b("DELETE n", "DELETE", f"{path}/<id:trust:n>", token="alice")
    b("revoke a2 by itself", "DELETE", "/v3/auth/tokens", token="a2", headers={"X-Subject-Token": "<token:a2>"})
    b("revoke a2 by bob", "DELETE", "/v3/auth/tokens", token="bob", headers={"X-Subject-Token": "<token:a2>"})
    _check(b, "a2 after revocation", "a2")
    # redelegation
    _new_trust(b, "redelegable", "r", allow_redelegation=True, redelegation_count=2, expires_at="2098-01-01T00:00:00Z")
    _new_trust(b, "redelegable plainly", "rp", allow_redelegation=True, impersonation=False)
    _use_trust(b, "use r", "r", save="r")
    _use_trust(b, "use rp", "rp", save="rp")
    onward = {"token": "r", "trustee_user_id": "<id:user:carol>"}
    _new_trust(b, "onward", "o", **onward)
    _new_trust(b, "onward redelegable", "o2", allow_redelegation=True, expires_at="2096-01-01T00:00:00Z", **onward)
    _new_trust(b, "onward again", **onward)
    _new_trust(
        b,
        "onward redelegable 1",
        allow_redelegation=True,
        expires_at="2095-01-01T00:00:00Z",
        redelegation_count=1,
        **onward,
    )
    _new_trust(b, "onward redelegable 2", allow_redelegation=True, redelegation_count=2, **onward)
    _new_trust(b, "onward too long", expires_at=LATER, **onward)
    _new_trust(b, "onward shorter", expires_at="2097-01-01T00:00:00Z", **onward)
    _new_trust(b, "onward more roles", roles=[{"id": "<id:role:member>"}, {"id": "<id:role:manager>"}], **onward)
    _new_trust(b, "onward with uses", remaining_uses=1, **onward)
    _new_trust(b, "onward as bob", trustor_user_id="<id:user:bob>", **onward)
    _new_trust(
        b, "onward from what may not", token="a", trustee_user_id="<id:user:carol>", roles=[{"id": "<id:role:manager>"}]
    )
    plain = {"token": "rp", "trustee_user_id": "<id:user:carol>", "trustor_user_id": "<id:user:bob>"}
    _new_trust(b, "onward plainly", **plain, impersonation=False)
    _new_trust(b, "onward impersonating", **plain)
    _new_trust(b, "onward plainly, named", "op", **plain, impersonation=False, redelegated_trust_id="<id:trust:rp>")
    _use_trust(b, "use op", "op", who="carol", save="op")
    _use_trust(b, "use o", "o", who="carol", save="o")
    _use_trust(b, "use o2", "o2", who="carol", save="o2")
    _new_trust(b, "onward twice", "o3", token="o2", trustee_user_id="<id:user:bob>", allow_redelegation=True)
    _use_trust(b, "use o3", "o3", save="o3")
    _new_trust(b, "onward thrice", token="o3", trustee_user_id="<id:user:carol>")
    _check(b, "o3", "o3")
    b("disable bob", "PATCH", "/v3/users/<id:user:bob>", {"user": {"enabled": False}})
    _check(b, "o with bob disabled", "o")
    _use_trust(b, "use o with bob disabled", "o", who="carol")
    _check(b, "a with bob disabled", "a")
    b("enable bob", "PATCH", "/v3/users/<id:user:bob>", {"user": {"enabled": True}}, pause=1.1)
    _use_trust(
        b,
        "use a again",
        "a",
        save="a",
    )
    _use_trust(b, "use o again", "o", who="carol", save="o")
    b("delete r", "DELETE", f"{path}/<id:trust:r>", token="alice")
    for name in ("o", "o2", "o3"):
        b(f"GET {name} after its parent", "GET", f"{path}/<id:trust:{name}>")
        _check(b, f"{name} after its parent", name)
    _check(b, "r after", "r")
    _use_trust(b, "use r after", "r")
    # whoever and whatever goes
    b("disable alice", "PATCH", "/v3/users/<id:user:alice>", {"user": {"enabled": False}})
    _check(b, "a with alice disabled", "a")
    _use_trust(b, "use a with alice disabled", "a")
    b("enable alice", "PATCH", "/v3/users/<id:user:alice>", {"user": {"enabled": True}}, pause=1.1)
    _use_trust(b, "use a after", "a", save="a")
    b("take manager", "DELETE", "/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:manager>")
    _check(b, "a without its role", "a")
    b("a without its role as caller", "GET", "/v3/auth/projects", token="a")
    _use_trust(b, "use a without its role", "a")
    b("give manager", "PUT", "/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:manager>", pause=1.1)
    b("disable p", "PATCH", "/v3/projects/<id:project:p>", {"project": {"enabled": False}})
    _check(b, "a with p disabled", "a")
    _use_trust(b, "use a with p disabled", "a")
    b("enable p", "PATCH", "/v3/projects/<id:project:p>", {"project": {"enabled": True}}, pause=1.1)
    _use_trust(b, "use a at last", "a", save="a")
    b("delete p", "DELETE", "/v3/projects/<id:project:p>")
    _check(b, "a without p", "a")
    b("GET a without p", "GET", f"{path}/<id:trust:a>")
    _use_trust(b, "use a without p", "a")
    b("delete alice", "DELETE", "/v3/users/<id:user:alice>")
    b("GET a without alice", "GET", f"{path}/<id:trust:a>")
    b("GET list without alice", "GET", f"{path}?trustor_user_id=<id:user:alice>")


def _app_world(b):
    b.prelude()
    b.create("project", "p", {"name": f"{b.section}-p", "domain_id": "default"})
    for who in ("alice", "bob"):
        b.create("user", who, {"name": f"{b.section}-{who}", "domain_id": "default", "password": "pw-1234"})
        b("grant", "PUT", f"/v3/projects/<id:project:p>/users/<id:user:{who}>/roles/<id:role:manager>")
        b.auth(f"login {who}", f"<id:user:{who}>", save=who, scope={"project": {"id": "<id:project:p>"}})
    b.auth("login alice, bare", "<id:user:alice>", save="bare", scope="unscoped")


APPS = "/v3/users/<id:user:alice>/application_credentials"
RULES = "/v3/users/<id:user:alice>/access_rules"
RULE = {"service": "compute", "path": "/v2.1/servers", "method": "GET"}


def _new_app(b, name, symbol=None, token="alice", path=APPS, **sent):
    where = "application_credential"
    kw = {"capture": {f"secret:{symbol or 'tmp'}": f"{where}.secret"}}
    if symbol:
        kw["capture"] = {f"id:app:{symbol}": f"{where}.id", **kw["capture"]}
    body = {"name": name, **{key: value for key, value in sent.items() if value is not ...}}
    b(f"create {name}", "POST", path, {"application_credential": body}, token=token, **kw)


def _use_app(b, what, save=None, scope=None, **said):
    b.auth(
        what, identity={"methods": ["application_credential"], "application_credential": said}, save=save, scope=scope
    )


@section
def application_credentials(b):
    _app_world(b)
    b.bad_bodies("application_credential", APPS)
    b.token = "alice"
    b.denied("GET", APPS)
    b.denied("POST", APPS, {"application_credential": {"name": "x"}}, name="POST application_credential")
    _new_app(b, "plain", "plain")
    _new_app(b, "plain")
    _new_app(
        b,
        "full",
        "full",
        secret="a secret of mine",
        description="d",
        roles=[{"name": "reader"}],
        expires_at=LATER,
        unrestricted=True,
    )
    _new_app(
        b,
        "ruled",
        "ruled",
        secret="ruled",
        access_rules=[RULE, {"service": "identity", "path": "/v3/users/*", "method": "GET"}],
    )
    _new_app(b, "ruled again", "again", secret="again", access_rules=[RULE])
    _new_app(b, "ruled by nothing", access_rules=[])
    for field, values in {
        "name": [None, "", 5, "x" * 256, "x" * 255],
        "secret": [None, "", 5, "x" * 200, "x" * 5000],
        "description": [None, "", 5],
        "expires_at": [None, "", "x", PAST, 5, "2099-01-01", "2099-01-01T00:00:00"],
        "unrestricted": [None, False, "true", 1],
        "project_id": ["<id:project:own>", None, 5],
        "id": ["mine", 5],
        "system": [None, "all"],
        "user_id": ["<id:user:bob>"],
        "other": [1],
        "roles": [
            None,
            "x",
            [],
            [{}],
            [{"name": "nobody"}],
            [{"id": GONE}],
            [{"id": "<id:role:admin>"}],
            [{"name": "member"}],
            [{"id": "<id:role:member>", "name": "member"}],
        ],
        "access_rules": [
            None,
            "x",
            [{}],
            [5],
            [{"id": GONE}],
            [{"id": "own-id", "service": "image", "path": "/v2/images", "method": "GET"}],
            [{**RULE, "method": "get"}],
            [{**RULE, "path": "x"}],
            [{**RULE, "path": ""}],
            [{**RULE, "path": "/" + "x" * 150}],
            [{**RULE, "service": ""}],
            [{**RULE, "other": 1}],
            [{"service": "compute", "path": "/x"}],
        ],
    }.items():
        for value in values:
            shown = json.dumps(value)
            shown = shown if len(shown) < 90 else f"{shown[:10]}... ({len(shown)})"
            if field == "name":
                body, capture = (
                    {"application_credential": {"name": value}},
                    {"secret:tmp": "application_credential.secret"},
                )
                b(f"create name={shown}", "POST", APPS, body, capture=capture)
            else:
                _new_app(b, f"{field}={shown}", **{field: value})
    _new_app(b, "for another", path="/v3/users/<id:user:bob>/application_credentials")
    _new_app(b, "as admin", token="admin")
    _new_app(b, "without scope", token="bare")
    _new_app(b, "for nobody", path=f"/v3/users/{GONE}/application_credentials")
    for who in ("alice", "bob", "admin", "system", "member"):
        b.gethead(f"plain as {who}", f"{APPS}/<id:app:plain>", token=who)
        b.gethead(f"by own path as {who}", "/v3/users/<id:user:bob>/application_credentials/<id:app:plain>", token=who)
        b(f"GET full as {who}", "GET", f"{APPS}/<id:app:full>", token=who)
        b(f"GET ruled as {who}", "GET", f"{APPS}/<id:app:ruled>", token=who)
        b(f"GET list as {who}", "GET", f"{APPS}?name=plain", token=who)
        b(f"GET unknown as {who}", "GET", f"{APPS}/{GONE}", token=who)
        b(f"DELETE unknown as {who}", "DELETE", f"{APPS}/{GONE}", token=who)
        b(f"GET list of nobody as {who}", "GET", f"/v3/users/{GONE}/application_credentials", token=who)
        b(f"GET rules as {who}", "GET", f"{RULES}?service=identity", token=who)
        b(f"GET rules of nobody as {who}", "GET", f"/v3/users/{GONE}/access_rules", token=who)
        b(f"GET rule unknown as {who}", "GET", f"{RULES}/{GONE}", token=who)
        b(f"DELETE rule unknown as {who}", "DELETE", f"{RULES}/{GONE}", token=who)
    b("DELETE as bob", "DELETE", f"{APPS}/<id:app:plain>", token="bob")
    b(
        "DELETE as bob by own path",
        "DELETE",
        "/v3/users/<id:user:bob>/application_credentials/<id:app:plain>",
        token="bob",
    )
    b("GET list all", "GET", APPS)
    b("GET list by name contains", "GET", f"{APPS}?name__contains=ule")
    b("GET rules all", "GET", RULES, capture={"id:rule:compute": "access_rules[service=compute].id"})
    b("GET rules by method", "GET", f"{RULES}?method=GET&path=/v2.1/servers")
    b("GET rules by path contains", "GET", f"{RULES}?path__contains=servers")
    for who in ("alice", "bob", "admin", "system"):
        b.gethead(f"rule as {who}", f"{RULES}/<id:rule:compute>", token=who)
        b(f"GET rule by own path as {who}", "GET", "/v3/users/<id:user:bob>/access_rules/<id:rule:compute>", token=who)
    b("DELETE rule as bob", "DELETE", f"{RULES}/<id:rule:compute>", token="bob")
    b("DELETE rule in use", "DELETE", f"{RULES}/<id:rule:compute>")
    _new_app(b, "by rule", "byrule", access_rules=[{"id": "<id:rule:compute>"}])
    b(
        "create with another's rule",
        "POST",
        "/v3/users/<id:user:bob>/application_credentials",
        {"application_credential": {"name": "x", "access_rules": [{"id": "<id:rule:compute>"}]}},
        token="bob",
    )
    for app in ("ruled", "again", "byrule"):
        b(f"DELETE {app}", "DELETE", f"{APPS}/<id:app:{app}>")
    b("GET after DELETE", "GET", f"{APPS}/<id:app:ruled>")
    b("DELETE rule", "DELETE", f"{RULES}/<id:rule:compute>")
    b("GET rule after DELETE", "GET", f"{RULES}/<id:rule:compute>")
    b("PATCH", "PATCH", f"{APPS}/<id:app:plain>", {"application_credential": {}})
    b("disable alice", "PATCH", "/v3/users/<id:user:alice>", {"user": {"enabled": False}}, token="admin")
    b("enable alice", "PATCH", "/v3/users/<id:user:alice>", {"user": {"enabled": True}}, token="admin")
    b("GET list after", "GET", APPS, token="admin")
    b("GET rules after", "GET", RULES, token="system")
    b("delete p", "DELETE", "/v3/projects/<id:project:p>", token="admin")
    b("GET list without p", "GET", APPS, token="admin")


@section
def application_credential_tokens(b):
    _app_world(b)
    b.token = "alice"
    _new_app(b, "plain", "plain", roles=[{"name": "reader"}])
    _new_app(b, "all", "all")
    _new_app(b, "free", "free", unrestricted=True, expires_at=LATER)
    _new_app(b, "ruled", "ruled", access_rules=[RULE, {"service": "identity", "path": "/v3/users/*", "method": "GET"}])
    for name in ("plain", "all", "free", "ruled"):
        _use_app(b, f"use {name}", save=name, id=f"<id:app:{name}>", secret=f"<secret:{name}>")
    _use_app(b, "use by name", name="plain", secret="<secret:plain>", user={"id": "<id:user:alice>"})
    _use_app(
        b,
        "use by names",
        name="plain",
        secret="<secret:plain>",
        user={"name": f"{b.section}-alice", "domain": {"id": "default"}},
    )
    _use_app(b, "use as bob", id="<id:app:plain>", secret="<secret:plain>", user={"id": "<id:user:bob>"})
    _use_app(b, "use by name as bob", name="plain", secret="<secret:plain>", user={"id": "<id:user:bob>"})
    _use_app(b, "use by name without user", name="plain", secret="<secret:plain>")
    _use_app(b, "use by name, user without domain", name="plain", secret="<secret:plain>", user={"name": "x"})
    _use_app(b, "use by name, unknown user", name="plain", secret="<secret:plain>", user={"id": GONE})
    _use_app(
        b,
        "use by name, unknown user name",
        name="plain",
        secret="<secret:plain>",
        user={"name": "x", "domain": {"id": "default"}},
    )
    _use_app(b, "use unknown name", name="x", secret="<secret:plain>", user={"id": "<id:user:alice>"})
    _use_app(b, "use unknown", id=GONE, secret="<secret:plain>")
    _use_app(b, "use wrong secret", id="<id:app:plain>", secret="x")
    _use_app(b, "use no secret", id="<id:app:plain>")
    _use_app(b, "use null secret", id="<id:app:plain>", secret=None)
    _use_app(b, "use nothing", secret="x")
    _use_app(
        b, "use with scope", id="<id:app:plain>", secret="<secret:plain>", scope={"project": {"id": "<id:project:p>"}}
    )
    b.auth("use without data", identity={"methods": ["application_credential"]})
    b.auth("use text", identity={"methods": ["application_credential"], "application_credential": "x"})
    both = {
        "methods": ["application_credential", "password"],
        "application_credential": {"id": "<id:app:plain>", "secret": "<secret:plain>"},
    }
    for who in ("alice", "bob"):
        b.auth(
            f"use with password of {who}",
            identity={**both, "password": {"user": {"id": f"<id:user:{who}>", "password": "pw-1234"}}},
        )
    for name in ("plain", "all", "free"):
        for who in ("admin", "alice", "bob", name):
            _check(b, f"{name} as {who}", name, token=who)
        for scope in (None, "unscoped", {"project": {"id": "<id:project:p>"}}, {"system": {"all": True}}):
            b.auth(
                f"rescope {name} {json.dumps(scope)}",
                identity={"methods": ["token"], "token": {"id": f"<token:{name}>"}},
                scope=scope,
            )
        b(f"GET list by {name}", "GET", APPS, token=name)
        b(f"GET one by {name}", "GET", f"{APPS}/<id:app:plain>", token=name)
        b(f"GET rules by {name}", "GET", RULES, token=name)
        _new_app(b, f"by {name}", f"by-{name}" if name == "free" else None, token=name)
        b(f"trust by {name}", "POST", "/v3/OS-TRUST/trusts", {"trust": _trust(roles=[{"name": "reader"}])}, token=name)
        b(f"trusts by {name}", "GET", "/v3/OS-TRUST/trusts?trustor_user_id=<id:user:alice>", token=name)
        b(f"unknown trust by {name}", "GET", f"/v3/OS-TRUST/trusts/{GONE}", token=name)
        b(f"catalog by {name}", "GET", "/v3/auth/catalog", token=name, glob=True)
    _new_app(b, "more roles by free", token="free", roles=[{"name": "admin"}])
    b("DELETE by plain", "DELETE", f"{APPS}/<id:app:all>", token="plain")
    b("DELETE by free", "DELETE", f"{APPS}/<id:app:by-free>", token="free")
    b(
        "POST trust",
        "POST",
        "/v3/OS-TRUST/trusts",
        {"trust": _trust(roles=[{"name": "reader"}])},
        capture={"id:trust:t": "trust.id"},
    )
    b.auth("use trust", "<id:user:bob>", scope={"OS-TRUST:trust": {"id": "<id:trust:t>"}}, save="trusted")
    _new_app(b, "by trust", token="trusted")
    b("GET list by trust", "GET", APPS, token="trusted")
    b("GET rules by trust", "GET", RULES, token="trusted")
    for version in (None, "0.9", "1.0", "2", "x", ""):
        headers = {} if version is None else {"OpenStack-Identity-Access-Rules": version}
        _check(b, f"ruled, version {version}", "ruled", **headers)
    for method, path in (
        ("GET", "/v3/users/<id:user:alice>"),
        ("HEAD", "/v3/users/<id:user:alice>"),
        ("GET", "/v3/auth/projects"),
        ("GET", "/v3/auth/catalog"),
        ("GET", "/v3/users/<id:user:alice>/projects"),
        ("POST", APPS),
        ("DELETE", f"{APPS}/<id:app:ruled>"),
    ):
        b(f"ruled: {method} {path}", method, path, token="ruled", glob="catalog" in path)
    _check(b, "ruled by ruled", "ruled", token="ruled", **{"OpenStack-Identity-Access-Rules": "1.0"})
    b(
        "HEAD ruled by ruled",
        "HEAD",
        "/v3/auth/tokens",
        token="ruled",
        headers={"X-Subject-Token": "<token:ruled>", "OpenStack-Identity-Access-Rules": "1.0"},
    )
    b(
        "ruled: revoke itself",
        "DELETE",
        "/v3/auth/tokens",
        token="ruled",
        headers={"X-Subject-Token": "<token:ruled>", "OpenStack-Identity-Access-Rules": "1.0"},
    )
    b("create bare implied", "GET", APPS)
    b(
        "take manager",
        "DELETE",
        "/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:manager>",
        token="admin",
    )
    _check(b, "plain without the role", "plain")
    b(
        "give reader",
        "PUT",
        "/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:reader>",
        token="admin",
        pause=1.1,
    )
    _check(b, "plain with reader again", "plain")
    _check(b, "all with reader alone", "all")
    _use_app(b, "use plain again", save="plain", id="<id:app:plain>", secret="<secret:plain>")
    b.create("role", "own", {"name": f"{b.section}-own"}, token="admin")
    b("give own", "PUT", "/v3/projects/<id:project:p>/users/<id:user:alice>/roles/<id:role:own>", token="admin")
    b("delete plain", "DELETE", f"{APPS}/<id:app:plain>", token="admin")
    _check(b, "plain after", "plain")
    _use_app(b, "use plain after", id="<id:app:plain>", secret="<secret:plain>")
    b("delete role", "DELETE", "/v3/roles/<id:role:own>", token="admin")
    b("GET list after the role", "GET", APPS, token="admin")
    _use_app(b, "use all after the role", id="<id:app:all>", secret="<secret:all>")
    b.auth("login alice again", "<id:user:alice>", save="alice", scope={"project": {"id": "<id:project:p>"}}, pause=1.1)
    _new_app(b, "last", "last")
    _use_app(b, "use last", save="last", id="<id:app:last>", secret="<secret:last>")
    b("disable alice", "PATCH", "/v3/users/<id:user:alice>", {"user": {"enabled": False}}, token="admin")
    _check(b, "last with alice disabled", "last", token="admin")
    _use_app(b, "use last with alice disabled", id="<id:app:last>", secret="<secret:last>")


@section
def endpoint_filter(b):
    b.prelude()
    P = "/v3/OS-EP-FILTER"
    G = P + "/endpoint_groups"
    b.create("region", "r", {"id": "ef-r"})
    b.create("service", "s", {"type": "ef-t", "name": "ef-s"})
    b.create("service", "s2", {"type": "ef-t2", "name": "ef-s2"})
    e = {"service_id": "<id:service:s>", "interface": "public", "region_id": "ef-r"}
    b.create("endpoint", "a", dict(e, url="http://ef/a"))
    b.create("endpoint", "i", dict(e, url="http://ef/i", interface="internal"))
    b.create("endpoint", "off", dict(e, url="http://ef/off", interface="admin", enabled=False))
    b.create("endpoint", "other", dict(e, url="http://ef/o/$(project_id)s", service_id="<id:service:s2>"))
    own, ea = "<id:project:own>", "<id:endpoint:a>"
    scope = {"project": {"id": own}}
    domain = {"domain": {"id": "<id:domain:own>"}}
    b("grant on domain", "PUT", "/v3/domains/<id:domain:own>/users/<id:user:own>/roles/<id:role:reader>")
    one = f"{P}/projects/{own}/endpoints/{ea}"
    b.gethead("before", one)
    b("DELETE before", "DELETE", one)
    b("PUT", "PUT", one)
    b("PUT again", "PUT", one)
    b.gethead("after", one)
    for what, path in (
        ("project", f"{P}/projects/{GONE}/endpoints/{ea}"),
        ("endpoint", f"{P}/projects/{own}/endpoints/{GONE}"),
    ):
        for m in ("PUT", "GET", "HEAD", "DELETE"):
            b(f"{m} unknown {what}", m, path)
    for m in ("PUT", "GET", "DELETE"):
        b(f"{m} unknown both", m, f"{P}/projects/{GONE}/endpoints/{GONE}")
        b.denied(m, one, name=f"{m} project endpoint")
    b.gethead("endpoints of project", f"{P}/projects/{own}/endpoints")
    b.gethead("endpoints of unknown project", f"{P}/projects/{GONE}/endpoints")
    b("GET endpoints of project filtered", "GET", f"{P}/projects/{own}/endpoints?interface=internal&limit=1")
    b.denied("GET", f"{P}/projects/{own}/endpoints", name="GET project endpoints")
    b.gethead("projects of endpoint", f"{P}/endpoints/{ea}/projects")
    b.gethead("projects of unknown endpoint", f"{P}/endpoints/{GONE}/projects")
    b("GET projects of endpoint without", "GET", f"{P}/endpoints/<id:endpoint:i>/projects")
    b.denied("GET", f"{P}/endpoints/{ea}/projects", name="GET endpoint projects")
    b.auth("token of project with an endpoint", "<id:user:own>", scope, save="p")
    b("GET catalog with an endpoint", "GET", "/v3/auth/catalog", token="p")
    b("validate with an endpoint", "GET", "/v3/auth/tokens", headers={"X-Subject-Token": "<token:p>"})
    b.auth("token of domain", "<id:user:own>", domain, save="d")
    b("PUT disabled endpoint", "PUT", f"{P}/projects/{own}/endpoints/<id:endpoint:off>")
    b("PUT other endpoint", "PUT", f"{P}/projects/{own}/endpoints/<id:endpoint:other>")
    b("GET catalog with three endpoints", "GET", "/v3/auth/catalog", token="p")
    b("DELETE endpoint", "DELETE", one)
    b("DELETE other endpoint", "DELETE", f"{P}/projects/{own}/endpoints/<id:endpoint:other>")
    b("GET catalog with a disabled endpoint", "GET", "/v3/auth/catalog", token="p")
    b("DELETE disabled endpoint", "DELETE", f"{P}/projects/{own}/endpoints/<id:endpoint:off>")
    b("GET catalog without filter", "GET", "/v3/auth/catalog", token="p")

    def group(symbol, **more):
        body = {"name": symbol, "filters": {"interface": "public", "service_id": "<id:service:s>"}} | more
        b(
            f"create group {symbol}",
            "POST",
            G,
            {"endpoint_group": body},
            capture={f"id:eg:{symbol}": "endpoint_group.id"},
        )

    group("public", description="d")
    group("all-s", filters={"service_id": "<id:service:s>"})
    group("no-region", filters={"region_id": None})
    group("none", filters={"region_id": "nowhere"})
    group("none")
    base = {"name": "x", "filters": {"interface": "public"}}
    for i, filters in enumerate(
        (
            {},
            None,
            "x",
            [],
            {"enabled": True},
            {"enabled": "x"},
            {"foo": 1},
            {"id": "x"},
            {"interface": "other"},
            {"interface": "public", "name": "x"},
            {"service_id": 5},
            {"service_id": None},
            {"region_id": 5},
            {"region": "x"},
            {"region_id": ""},
        )
    ):
        b(f"create group filters {i}", "POST", G, {"endpoint_group": dict(base, filters=filters)})
        b(f"update group filters {i}", "PATCH", G + "/<id:eg:none>", {"endpoint_group": {"filters": filters}})
    A = G + "/<id:eg:public>"
    for k in base:
        b(f"create group without {k}", "POST", G, {"endpoint_group": {x: y for x, y in base.items() if x != k}})
    f = {
        "name": WRONG + [LONG[255], LONG[256]],
        "description": WRONG + [LONG[256]],
        "id": ["x"],
        "colour": ["red"],
        "links": [{}],
    }
    b.bad_fields("endpoint_group", G, f, base)
    b.bad_fields("endpoint_group", A, f, method="PATCH", verb="update")
    b.bad_bodies("endpoint_group", G)
    b.bad_bodies("endpoint_group", A, "PATCH")
    b("PATCH description", "PATCH", A, {"endpoint_group": {"name": "public", "description": "new"}})
    b("PATCH unknown", "PATCH", f"{G}/{GONE}", {"endpoint_group": {"description": "new"}})
    b.gethead("group", A)
    b.gethead("unknown group", f"{G}/{GONE}")
    for q in ("name=public", "name=nobody", "name=", "name__contains=ubl", "colour=red", "limit=1", "description=new"):
        b(f"GET groups by {q}", "GET", f"{G}?{q}")
    one = A + f"/projects/{own}"
    b.gethead("group before", one)
    b("DELETE group before", "DELETE", one)
    b("PUT group", "PUT", one)
    b("PUT group again", "PUT", one)
    b.gethead("group after", one)
    for what, path in (
        ("project", f"{A}/projects/{GONE}"),
        ("group", f"{G}/{GONE}/projects/{own}"),
        ("both", f"{G}/{GONE}/projects/{GONE}"),
    ):
        for m in ("PUT", "GET", "DELETE"):
            b(f"{m} group unknown {what}", m, path)
    for m, p, d in (
        ("GET", G, None),
        ("GET", A, None),
        ("POST", G, {"endpoint_group": base}),
        ("POST", G, {"endpoint_group": {}}),
        ("PATCH", A, {"endpoint_group": {"name": "x"}}),
        ("DELETE", A, None),
        ("PUT", one, None),
        ("GET", one, None),
        ("DELETE", one, None),
        ("GET", A + "/projects", None),
        ("GET", A + "/endpoints", None),
        ("GET", f"{P}/projects/{own}/endpoint_groups", None),
        ("GET", f"{G}/{GONE}", None),
    ):
        b.denied(m, p, d)
    b.gethead("projects of group", A + "/projects")
    b.gethead("projects of unknown group", f"{G}/{GONE}/projects")
    b.gethead("endpoints of group", A + "/endpoints")
    b.gethead("endpoints of unknown group", f"{G}/{GONE}/endpoints")
    for s in ("all-s", "no-region", "none"):
        b(f"GET endpoints of group {s}", "GET", f"{G}/<id:eg:{s}>/endpoints")
    b.gethead("groups of project", f"{P}/projects/{own}/endpoint_groups")
    b.gethead("groups of unknown project", f"{P}/projects/{GONE}/endpoint_groups")
    b("GET endpoints of project by group", "GET", f"{P}/projects/{own}/endpoints")
    b("GET catalog by group", "GET", "/v3/auth/catalog", token="p")
    b("PUT group none", "PUT", f"{G}/<id:eg:none>/projects/{own}")
    b("DELETE group link", "DELETE", one)
    b("GET catalog by empty group", "GET", "/v3/auth/catalog", token="p")
    b("PUT group link", "PUT", f"{G}/<id:eg:all-s>/projects/{own}")
    b("GET catalog by group all-s", "GET", "/v3/auth/catalog", token="p")
    b("DELETE service", "DELETE", "/v3/services/<id:service:s>")
    b("GET endpoints of project after service", "GET", f"{P}/projects/{own}/endpoints")
    b("DELETE group all-s", "DELETE", f"{G}/<id:eg:all-s>")
    b("GET groups of project after", "GET", f"{P}/projects/{own}/endpoint_groups")
    b("DELETE group all-s again", "DELETE", f"{G}/<id:eg:all-s>")
    b("DELETE service 2", "DELETE", "/v3/services/<id:service:s2>")
    b("DELETE region", "DELETE", "/v3/regions/ef-r")


@section
def policies(b):
    b.prelude()
    P = "/v3/policies"
    b.create("region", "r", {"id": "po-r"})
    b.create("region", "below", {"id": "po-below", "parent_region_id": "po-r"})
    b.create("service", "s", {"type": "po-t", "name": "po-s"})
    e = {"service_id": "<id:service:s>", "interface": "public"}
    b.create("endpoint", "a", dict(e, url="http://po/a", region_id="po-below"))
    b.create("endpoint", "none", dict(e, url="http://po/n"))
    base = {"type": "application/json", "blob": '{"a": "b"}'}
    for s in ("e", "s", "r", "extra"):
        body = dict(base, type=s, **({"colour": "red", "odd-name:x": 1, "id": "mine"} if s == "extra" else {}))
        b.create("policy", s, body, plural="policies")
    for k in base:
        b(f"create without {k}", "POST", P, {"policy": {x: y for x, y in base.items() if x != k}})
    f = {"type": WRONG + [LONG[255], LONG[256]], "blob": WRONG, "links": [{}]}
    b.bad_fields("policy", P, f, base)
    A = P + "/<id:policy:extra>"
    b.bad_fields("policy", A, dict(f, extra=[{}], id=["x", 5, None]), method="PATCH", verb="update")
    b.bad_bodies("policy", P)
    b.bad_bodies("policy", A, "PATCH")
    b("PATCH", "PATCH", A, {"policy": {"type": "extra", "blob": "x", "size": 1, "a-b": 2}})
    b("PATCH same id", "PATCH", A, {"policy": {"id": "<id:policy:extra>"}})
    b("PATCH unknown", "PATCH", f"{P}/{GONE}", {"policy": {"type": "x"}})
    b.gethead("one", A)
    b.gethead("unknown", f"{P}/{GONE}")
    for q in ("type=e", "type=nothing", "type=", "type__startswith=ext", "type=e&colour=x"):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("POST", P, {"policy": base}),
        ("PATCH", A, {"policy": {"type": "x"}}),
        ("DELETE", A, None),
        ("DELETE", f"{P}/{GONE}", None),
    ):
        b.denied(m, p, d)
    b("DELETE", "DELETE", A)
    b("DELETE again", "DELETE", A)
    ext = "OS-ENDPOINT-POLICY"
    here = "/v3/endpoints/<id:endpoint:a>/" + ext + "/policy"
    b.gethead("policy of endpoint before", here)
    b.gethead("policy of unknown endpoint", f"/v3/endpoints/{GONE}/{ext}/policy")
    paths = {
        "service": ("s", f"{ext}/services/<id:service:s>", f"{ext}/services/{GONE}"),
        "region": ("r", f"{ext}/services/<id:service:s>/regions/po-r", f"{ext}/services/<id:service:s>/regions/{GONE}"),
        "endpoint": ("e", f"{ext}/endpoints/<id:endpoint:a>", f"{ext}/endpoints/{GONE}"),
    }
    for kind, (symbol, path, unknown) in paths.items():
        one = f"{P}/<id:policy:{symbol}>"
        b.gethead(f"{kind} before", f"{one}/{path}")
        b(f"DELETE {kind} before", "DELETE", f"{one}/{path}")
        b(f"PUT {kind}", "PUT", f"{one}/{path}")
        b(f"PUT {kind} again", "PUT", f"{one}/{path}")
        b.gethead(f"{kind} after", f"{one}/{path}")
        b(f"GET {kind} of another policy", "GET", f"{P}/<id:policy:{'e' if symbol == 's' else 's'}>/{path}")
        for m in ("PUT", "GET", "DELETE"):
            b(f"{m} {kind} unknown", m, f"{one}/{unknown}")
            b(f"{m} {kind} unknown policy", m, f"{P}/{GONE}/{path}")
            b.denied(m, f"{one}/{path}", name=f"{m} {kind}")
        b.gethead(f"endpoints of policy {symbol}", f"{one}/{ext}/endpoints")
        b.gethead(f"policy of endpoint by {kind}", here)
        b(f"GET policy of endpoint without region by {kind}", "GET", f"/v3/endpoints/<id:endpoint:none>/{ext}/policy")
    b("PUT region below", "PUT", f"{P}/<id:policy:s>/{ext}/services/<id:service:s>/regions/po-below")
    b("GET endpoints of policy s", "GET", f"{P}/<id:policy:s>/{ext}/endpoints")
    b("PUT endpoint other policy", "PUT", f"{P}/<id:policy:s>/{paths['endpoint'][1]}")
    b("GET endpoint old policy", "GET", f"{P}/<id:policy:e>/{paths['endpoint'][1]}")
    b("GET endpoint new policy", "GET", f"{P}/<id:policy:s>/{paths['endpoint'][1]}")
    b("GET policy of endpoint new", "GET", here)
    b("DELETE endpoint association of another policy", "DELETE", f"{P}/<id:policy:e>/{paths['endpoint'][1]}")
    b("DELETE endpoint association", "DELETE", f"{P}/<id:policy:s>/{paths['endpoint'][1]}")
    b("GET policy of endpoint by region below", "GET", here)
    b("DELETE policy s", "DELETE", P + "/<id:policy:s>")
    b("GET policy of endpoint by region above", "GET", here)
    b("GET endpoints of unknown policy", "GET", f"{P}/{GONE}/{ext}/endpoints")
    b.denied("GET", here, name="GET policy of endpoint")
    b.denied("GET", f"{P}/<id:policy:r>/{ext}/endpoints", name="GET endpoints of policy")
    b("DELETE service", "DELETE", "/v3/services/<id:service:s>")
    b("GET endpoints of policy after", "GET", f"{P}/<id:policy:r>/{ext}/endpoints")
    b("DELETE region", "DELETE", "/v3/regions/po-r")


@section
def limits(b):
    b.prelude()
    R, L = "/v3/registered_limits", "/v3/limits"
    own, dom = "<id:project:own>", "<id:domain:own>"
    b.create("region", "r", {"id": "li-r"})
    b.create("service", "s", {"type": "li-t", "name": "li-s"})
    b.create("service", "s2", {"type": "li-t2", "name": "li-s2"})
    s = "<id:service:s>"
    base = {"service_id": s, "resource_name": "#", "default_limit": 10}
    b.gethead("model", L + "/model")
    b.denied("GET", L + "/model")

    def registered(name, *rows, **kw):
        b(name, "POST", R, {"registered_limits": list(rows)}, **kw)

    def limits(name, *rows, **kw):
        b(name, "POST", L, {"limits": list(rows)}, **kw)

    registered(
        "create two",
        dict(base, resource_name="vcpu", region_id="li-r", description="d"),
        dict(base, resource_name="ram"),
        capture={
            "id:rl:vcpu": "registered_limits[resource_name=vcpu].id",
            "id:rl:ram": "registered_limits[resource_name=ram].id",
        },
    )
    registered(
        "create vcpu elsewhere", dict(base, resource_name="vcpu"), capture={"id:rl:vcpu2": "registered_limits.0.id"}
    )
    registered("create duplicate", dict(base, resource_name="ram"))
    registered("create duplicate in one request", dict(base, resource_name="disk"), dict(base, resource_name="disk"))
    registered("create with a duplicate at its end", dict(base, resource_name="disk2"), dict(base, resource_name="ram"))
    b("GET after duplicates", "GET", f"{R}?service_id={s}")
    registered("create unknown service", dict(base, service_id=GONE, resource_name="x"))
    registered("create unknown region", dict(base, region_id="nope", resource_name="x"))
    registered("create odd key", dict(base, resource_name="x", id="x"))
    registered("create extra", dict(base, resource_name="x", colour="red"))
    registered("create project_id", dict(base, resource_name="x", project_id=own))
    for k in base:
        registered(f"create without {k}", {x: y for x, y in dict(base, resource_name="x").items() if x != k})
    lists = [None, "x", {}, [], [None], ["x"], [{}], [[]]]
    for i, bad in enumerate(lists):
        b(f"create registered body {i}", "POST", R, {"registered_limits": bad})
        b(f"create limits body {i}", "POST", L, {"limits": bad})
    numbers = [None, "", "5", True, [], {}, -1, -2, 0, 1.5, 2147483647, 2147483648]
    f = {
        "service_id": WRONG + ["x"],
        "region_id": [v for v in WRONG if v != " "] + ["li-r", LONG[256]],
        "resource_name": WRONG + [LONG[255], LONG[256]],
        "default_limit": numbers,
        "description": WRONG + [LONG[255], LONG[256]],
    }
    for field, values in f.items():
        for i, value in enumerate(values):
            row = dict(base, resource_name=f"{field}-{i}") | {field: value}
            registered(f"create registered {field} {i}", row)
            b(f"update registered {field} {i}", "PATCH", R + "/<id:rl:vcpu2>", {"registered_limit": {field: value}})
            b(
                "update back",
                "PATCH",
                R + "/<id:rl:vcpu2>",
                {"registered_limit": {"region_id": None, "service_id": s, "resource_name": "vcpu-back"}},
            )
    A = R + "/<id:rl:vcpu>"
    b.gethead("registered", A)
    b.gethead("unknown registered", f"{R}/{GONE}")
    for q in (
        f"service_id={s}&resource_name=vcpu",
        "region_id=li-r",
        f"service_id={s}&region_id=",
        "resource_name=none",
        f"service_id={GONE}",
        "service_id=x",
        "resource_name__contains=cp",
        "resource_name=",
        f"service_id={s}&default_limit=10&resource_name=ram",
        "limit=x&resource_name=ram",
    ):
        b(f"GET registered by {q}", "GET", f"{R}?{q}")
    b("PATCH same name", "PATCH", A, {"registered_limit": {"resource_name": "vcpu"}})
    b(
        "PATCH taken",
        "PATCH",
        R + "/<id:rl:vcpu2>",
        {"registered_limit": {"resource_name": "vcpu", "region_id": "li-r"}},
    )
    b("PATCH default", "PATCH", A, {"registered_limit": {"default_limit": 0, "description": None}})
    b("PATCH nothing", "PATCH", A, {"registered_limit": {}})
    b("PATCH id", "PATCH", A, {"registered_limit": {"id": "<id:rl:vcpu>"}})
    b("PATCH unknown service", "PATCH", A, {"registered_limit": {"service_id": GONE}})
    b("PATCH unknown", "PATCH", f"{R}/{GONE}", {"registered_limit": {"default_limit": 1}})
    for i, bad in enumerate(
        ([], {}, {"registered_limit": None}, {"registered_limit": []}, {"limit": {}}, {"registered_limit": {}, "x": 1})
    ):
        b(f"PATCH registered body {i}", "PATCH", A, bad) if bad != [] else None
    for m, p, d in (
        ("GET", R, None),
        ("POST", R, {"registered_limits": [dict(base, resource_name="no")]}),
        ("POST", R, {}),
        ("PATCH", A, {"registered_limit": {"default_limit": 1}}),
        ("DELETE", A, None),
        ("DELETE", f"{R}/{GONE}", None),
    ):
        b.denied(m, p, d)
    b.denied("GET", A, name="GET registered one")

    mine = {"service_id": s, "region_id": "li-r", "resource_name": "vcpu", "resource_limit": 5}
    b.create("project", "second", {"name": "li-second", "domain_id": dom})
    b.create("domain", "other", {"name": "li-other"})
    limits(
        "create limits",
        dict(mine, project_id=own, description="d"),
        dict(mine, domain_id=dom),
        capture={"id:li:own": "limits.0.id", "id:li:dom": "limits.1.id"},
    )
    limits("create limit second", dict(mine, project_id="<id:project:second>"), capture={"id:li:second": "limits.0.id"})
    limits(
        "create limit by project that is a domain",
        dict(mine, project_id="<id:domain:other>"),
        capture={"id:li:other": "limits.0.id"},
    )
    limits("create limit duplicate", dict(mine, project_id=own))
    limits("create limit duplicate domain", dict(mine, domain_id=dom))
    limits("create limit not registered", dict(mine, resource_name="nothing", project_id=own))
    limits("create limit not registered there", dict(mine, resource_name="ram", project_id=own))
    limits(
        "create limits duplicate in one",
        *([{"service_id": s, "resource_name": "ram", "resource_limit": 5, "project_id": own}] * 2),
    )
    limits(
        "create limits with one not registered",
        {"service_id": s, "resource_name": "ram", "resource_limit": 5, "project_id": own},
        dict(mine, resource_name="nothing", project_id=own),
    )
    b("GET limits after", "GET", f"{L}?project_id={own}")
    limits("create limit unknown project", dict(mine, project_id=GONE))
    limits("create limit unknown domain", dict(mine, domain_id=GONE))
    limits("create limit domain that is a project", dict(mine, domain_id=own))
    limits("create limit unknown service", dict(mine, project_id=own, service_id=GONE))
    limits("create limit unknown region", dict(mine, project_id=own, region_id="nope"))
    limits("create limit of nobody", mine)
    limits("create limit of both", dict(mine, project_id=own, domain_id=dom))
    limits("create limit of both, one null", dict(mine, project_id=own, domain_id=None))
    limits("create limit of null", dict(mine, project_id=None))
    limits("create limit of null domain", dict(mine, domain_id=None))
    limits("create limit extra", dict(mine, project_id=own, colour="red"))
    for k in mine:
        limits(f"create limit without {k}", {x: y for x, y in dict(mine, project_id=own).items() if x != k})
    f = {
        "service_id": WRONG,
        "region_id": [v for v in WRONG if v != " "],
        "resource_name": WRONG,
        "resource_limit": numbers,
        "description": WRONG + [LONG[255], LONG[256]],
        "project_id": WRONG + ["a/b", LONG[65]],
        "domain_id": WRONG,
    }
    for field, values in f.items():
        for i, value in enumerate(values):
            to = {} if field == "domain_id" else {"project_id": "<id:project:second>"}
            limits(f"create limit {field} {i}", dict(mine, **to) | {field: value})
            if field in ("resource_limit", "description", "project_id"):
                b(f"update limit {field} {i}", "PATCH", L + "/<id:li:own>", {"limit": {field: value}})
                if value in (0, None, ""):
                    b(
                        f"tidy limit {field} {i}",
                        "PATCH",
                        L + "/<id:li:own>",
                        {"limit": {"resource_limit": 7, "description": "tidy"}},
                    )
    A = L + "/<id:li:own>"
    b.gethead("limit", A)
    b("GET domain limit", "GET", L + "/<id:li:dom>")
    b.gethead("unknown limit", f"{L}/{GONE}")
    b("PATCH limit whole number", "PATCH", A, {"limit": {"resource_limit": 3.0}})
    b("PATCH limit", "PATCH", A, {"limit": {"resource_limit": 6, "description": "e"}})
    b("PATCH limit nothing", "PATCH", A, {"limit": {}})
    b("PATCH limit id", "PATCH", A, {"limit": {"id": "x"}})
    b("PATCH limit service", "PATCH", A, {"limit": {"service_id": s}})
    b("PATCH unknown limit", "PATCH", f"{L}/{GONE}", {"limit": {"resource_limit": 1}})
    for i, bad in enumerate(({}, {"limit": None}, {"limit": []}, {"limits": []}, {"limit": {}, "x": 1})):
        b(f"PATCH limit body {i}", "PATCH", A, bad)
    for q in (
        "",
        "?resource_name=vcpu",
        "?project_id=" + own,
        "?domain_id=" + dom,
        f"?service_id={s}",
        "?region_id=li-r",
        "?region_id=none",
        "?project_id=" + GONE,
        "?project_id=a/b",
        "?service_id=x",
        "?resource_name__contains=cp",
        "?resource_limit=6",
        "?domain_id=",
        "?project_id=",
    ):
        b(f"GET limits{q}", "GET", L + q)
    b.auth("login member on the domain without a role", "<id:user:own>", {"domain": {"id": dom}})
    b("grant on domain", "PUT", f"/v3/domains/{dom}/users/<id:user:own>/roles/<id:role:reader>")
    b("grant on system", "PUT", "/v3/system/users/<id:user:own>/roles/<id:role:reader>")
    b("grant on second", "PUT", "/v3/projects/<id:project:second>/users/<id:user:own>/roles/<id:role:service>")
    b.auth("login domain", "<id:user:own>", {"domain": {"id": dom}}, save="domain")
    b.auth("login system", "<id:user:own>", {"system": {"all": True}}, save="reader")
    b.auth("login unscoped", "<id:user:own>", save="unscoped")
    b.auth("login service", "<id:user:own>", {"project": {"id": "<id:project:second>"}}, save="service")
    for t in ("member", "domain", "reader", "unscoped", "service"):
        b(f"GET limits as {t}", "GET", L, token=t)
        b(f"GET limits of other as {t}", "GET", L + "?project_id=<id:project:second>", token=t)
        b(f"GET limits of domain as {t}", "GET", L + "?domain_id=" + dom, token=t)
        b(f"GET registered as {t}", "GET", R + "?resource_name=vcpu", token=t)
        b(f"GET model as {t}", "GET", L + "/model", token=t)
        for i in ("own", "dom", "second", "other"):
            b(f"GET limit {i} as {t}", "GET", f"{L}/<id:li:{i}>", token=t)
        b(f"GET unknown limit as {t}", "GET", f"{L}/{GONE}", token=t)
        b(f"POST as {t}", "POST", L, {"limits": [dict(mine, project_id=own)]}, token=t)
        b(f"PATCH as {t}", "PATCH", A, {"limit": {"resource_limit": 1}}, token=t)
        b(f"DELETE as {t}", "DELETE", A, token=t)
    b("PATCH registered in use", "PATCH", R + "/<id:rl:vcpu>", {"registered_limit": {"default_limit": 1}})
    b("DELETE registered in use", "DELETE", R + "/<id:rl:vcpu>")
    b("DELETE registered", "DELETE", R + "/<id:rl:ram>")
    b("DELETE registered again", "DELETE", R + "/<id:rl:ram>")
    b("DELETE project", "DELETE", "/v3/projects/<id:project:second>")
    b("GET limit of project that is gone", "GET", L + "/<id:li:second>")
    b("DELETE limit", "DELETE", A)
    b("DELETE limit again", "DELETE", A)
    b("DELETE limit dom", "DELETE", L + "/<id:li:dom>")
    b("DELETE limit other", "DELETE", L + "/<id:li:other>")
    b("DELETE registered vcpu", "DELETE", R + "/<id:rl:vcpu>")
    # out of every later catalog
    b("disable service", "PATCH", f"/v3/services/{s}", {"service": {"enabled": False}})
    b("DELETE service 2", "DELETE", "/v3/services/<id:service:s2>")


@section
def simple_cert(b):
    b.prelude()
    for path in ("ca", "certificates"):
        b.gethead(path, f"/v3/OS-SIMPLE-CERT/{path}")
        b.denied("GET", f"/v3/OS-SIMPLE-CERT/{path}")


FEDERATION = "/v3/OS-FEDERATION"
RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UserName"}]}]
WRONG_RULES = {
    "no rules": [],
    "text": "x",
    "object": {},
    "null": None,
    "empty rule": [{}],
    "no remote": [{"local": []}],
    "empty remote": [{"local": [], "remote": []}],
    "extra in rule": [{"local": [], "remote": [{"type": "a"}], "more": 1}],
    "extra in local": [{"local": [{"more": 1}], "remote": [{"type": "a"}]}],
    "local text": [{"local": "x", "remote": [{"type": "a"}]}],
    "local of texts": [{"local": ["x"], "remote": [{"type": "a"}]}],
    "remote without type": [{"local": [], "remote": [{}]}],
    "remote text": [{"local": [], "remote": ["x"]}],
    "two conditions": [{"local": [], "remote": [{"type": "a", "any_one_of": ["x"], "not_any_of": ["y"]}]}],
    "condition text": [{"local": [], "remote": [{"type": "a", "any_one_of": "x"}]}],
    "regex text": [{"local": [], "remote": [{"type": "a", "whitelist": ["x"], "regex": "yes"}]}],
    "type number": [{"local": [], "remote": [{"type": 5}]}],
    "user text": [{"local": [{"user": "x"}], "remote": [{"type": "a"}]}],
    "user type": [{"local": [{"user": {"name": "x", "type": "odd"}}], "remote": [{"type": "a"}]}],
    "user extra": [{"local": [{"user": {"name": "x", "colour": "red"}}], "remote": [{"type": "a"}]}],
    "user domain": [{"local": [{"user": {"domain": {"colour": "red"}}}], "remote": [{"type": "a"}]}],
    "group empty": [{"local": [{"group": {}}], "remote": [{"type": "a"}]}],
    "group both": [{"local": [{"group": {"id": "x", "name": "y"}}], "remote": [{"type": "a"}]}],
    "group without domain": [{"local": [{"group": {"name": "y"}}], "remote": [{"type": "a"}]}],
    "groups list": [{"local": [{"groups": ["x"]}], "remote": [{"type": "a"}]}],
    "group_ids list": [{"local": [{"group_ids": ["x"]}], "remote": [{"type": "a"}]}],
    "project without roles": [{"local": [{"projects": [{"name": "p"}]}], "remote": [{"type": "a"}]}],
    "project with domain": [
        {"local": [{"projects": [{"name": "p", "roles": [], "domain": {"id": "x"}}]}], "remote": [{"type": "a"}]}
    ],
    "role without name": [{"local": [{"projects": [{"name": "p", "roles": [{}]}]}], "remote": [{"type": "a"}]}],
    "two faults": [{"local": [{"groups": 5}], "remote": [{"type": 5}]}],
}
RIGHT_RULES = {
    "conditions": [
        {
            "local": [{"user": {"name": "{0}", "email": "{1}", "type": "local", "domain": {"name": "d"}}}],
            "remote": [
                {"type": "a", "any_one_of": ["x", 5], "regex": True},
                {"type": "b", "not_any_of": []},
                {"type": "c", "whitelist": ["x"]},
                {"type": "d", "blacklist": ["x"], "regex": False},
            ],
        }
    ],
    "groups": [
        {"local": [{"group": {"id": "x"}}, {"group": {"name": "y", "domain": {}}}], "remote": [{"type": "a"}]},
        {"local": [{"groups": "{0}", "domain": {"id": "x"}}, {"group_ids": "{0}"}], "remote": [{"type": "a"}]},
    ],
    "projects": [
        {"local": [{"projects": [{"name": "p", "roles": [{"name": "member"}]}]}], "remote": [{"type": "a"}]},
        {"local": [], "remote": [{"type": "a"}]},
    ],
}


@section
def mappings(b):
    b.prelude()
    P = FEDERATION + "/mappings"
    A = P + "/mp-a"
    b("PUT", "PUT", A, {"mapping": {"rules": RULES}})
    b("PUT again", "PUT", A, {"mapping": {"rules": RULES}})
    b.gethead("one", A)
    b.gethead("unknown", P + "/mp-none")
    b("GET all", "GET", P)
    b("HEAD all", "HEAD", P)
    b("GET all by id", "GET", P + "?id=mp-none")
    for v in ("1.0", "2.0", "3.0"):
        for name, rules in RIGHT_RULES.items():
            path = f"{P}/mp-{name}-{v[0]}"
            b(f"PUT {name} {v}", "PUT", path, {"mapping": {"schema_version": v, "rules": rules}})
            b(f"DELETE {name} {v}", "DELETE", path)
        rules = WRONG_RULES["project with domain"]
        b(f"PUT project with domain {v}", "PUT", f"{P}/mp-d{v[0]}", {"mapping": {"schema_version": v, "rules": rules}})
        rules = [{"local": [{"projects_json": "{0}"}], "remote": [{"type": "a"}]}]
        b(f"PUT projects_json {v}", "PUT", f"{P}/mp-j{v[0]}", {"mapping": {"schema_version": v, "rules": rules}})
    for name in ("mp-d2", "mp-d3", "mp-j3"):
        b(f"DELETE {name}", "DELETE", f"{P}/{name}")
    for name, rules in WRONG_RULES.items():
        b(f"PUT {name}", "PUT", P + "/mp-bad", {"mapping": {"rules": rules}})
    b("PATCH wrong", "PATCH", A, {"mapping": {"rules": WRONG_RULES["two faults"]}})
    for v in ("", None, "4.0", 1, "1"):
        b(f"PUT version {v!r}", "PUT", P + "/mp-v", {"mapping": {"schema_version": v, "rules": RULES}})
    b("DELETE mp-v", "DELETE", P + "/mp-v")
    b("PUT extra", "PUT", P + "/mp-e", {"mapping": {"rules": RULES, "description": "d"}})
    b("PUT id", "PUT", P + "/mp-i", {"mapping": {"rules": RULES, "id": "other"}})
    b("DELETE mp-i", "DELETE", P + "/mp-i")
    b("DELETE mp-e", "DELETE", P + "/mp-e")
    b("PUT long id", "PUT", P + "/" + LONG[65], {"mapping": {"rules": RULES}})
    b("PATCH rules", "PATCH", A, {"mapping": {"rules": RIGHT_RULES["groups"]}})
    b("PATCH version 2.0", "PATCH", A, {"mapping": {"rules": RULES, "schema_version": "2.0"}})
    b("PATCH version alone", "PATCH", A, {"mapping": {"schema_version": "2.0"}})
    b("PATCH no version", "PATCH", A, {"mapping": {"rules": RULES}})
    b("PATCH other id", "PATCH", A, {"mapping": {"rules": RULES, "id": "other"}})
    b("PATCH unknown", "PATCH", P + "/mp-none", {"mapping": {"rules": RULES}})
    for n, body in (
        ("absent", None),
        ("empty", {}),
        ("null", {"mapping": None}),
        ("text", {"mapping": "x"}),
        ("list", {"mapping": []}),
        ("empty member", {"mapping": {}}),
        ("wrong key", {"other": {"rules": RULES}}),
    ):
        b(f"PUT body {n}", "PUT", P + "/mp-b", body)
        b(f"PATCH body {n}", "PATCH", A, body)
    b("PUT body extra key", "PUT", P + "/mp-x", {"mapping": {"rules": RULES}, "other": 1})
    b("DELETE mp-x", "DELETE", P + "/mp-x")
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("PUT", P + "/mp-z", {"mapping": {"rules": RULES}}),
        ("PUT", P + "/mp-z", {"mapping": {"rules": []}}),
        ("PATCH", A, {"mapping": {"rules": RULES}}),
        ("DELETE", A, None),
        ("DELETE", P + "/mp-none", None),
    ):
        b.denied(m, p, d)
    b("GET as system", "GET", A, token="system")
    b("PUT without id", "PUT", P, {"mapping": {"rules": RULES}})
    b("PATCH without id", "PATCH", P, {"mapping": {"rules": RULES}})
    b("DELETE without id", "DELETE", P)
    b("POST", "POST", P, {"mapping": {"rules": RULES}})
    b("DELETE", "DELETE", A)
    b("DELETE again", "DELETE", A)


@section
def identity_providers(b):
    b.prelude()
    P = FEDERATION + "/identity_providers"
    A = P + "/ip-a"
    b.create("domain", "d", {"name": "ip-d"})
    D = {"domain_id": "<id:domain:d>"}
    b("PUT", "PUT", A, {"identity_provider": D})
    b("PUT again", "PUT", A, {"identity_provider": D})
    full = {"enabled": True, "description": "d", "remote_ids": ["ip-r2", "ip-r1"], "authorization_ttl": 30}
    b("PUT full", "PUT", P + "/ip-full", {"identity_provider": dict(D, **full)})
    b(
        "PUT without domain",
        "PUT",
        P + "/ip-own",
        {"identity_provider": {}},
        capture={"id:domain:ip": "identity_provider.domain_id"},
    )
    b("GET its domain", "GET", "/v3/domains/<id:domain:ip>")
    b("PUT again without domain", "PUT", P + "/ip-own", {"identity_provider": {}})
    b("PUT unknown domain", "PUT", P + "/ip-b", {"identity_provider": {"domain_id": GONE}})
    b("PUT project", "PUT", P + "/ip-b", {"identity_provider": {"domain_id": "<id:project:own>"}})
    b("PUT remote id taken", "PUT", P + "/ip-b", {"identity_provider": dict(D, remote_ids=["ip-r1"])})
    b("PUT id", "PUT", P + "/ip-b", {"identity_provider": dict(D, id="ip-b")})
    b("PUT long id", "PUT", P + "/" + LONG[65], {"identity_provider": D})
    b("PUT two remote ids equal", "PUT", P + "/ip-b", {"identity_provider": dict(D, remote_ids=["ip-x", "ip-x"])})
    b.gethead("one", A)
    b("GET full", "GET", P + "/ip-full")
    b.gethead("unknown", P + "/ip-none")
    b("GET all", "GET", P)
    b("HEAD all", "HEAD", P)
    for q in (
        "id=ip-a",
        "id=nope",
        "enabled=true",
        "enabled=false",
        "enabled=0",
        "enabled=",
        "enabled=maybe",
        "id__contains=ful",
        "id__icontains=FUL",
        "domain_id=<id:domain:d>",
        "description=d",
        "limit=1",
        "x=1",
        "id=ip-full&enabled=True",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("PATCH enable", "PATCH", A, {"identity_provider": {"enabled": True}})
    b("PATCH remote ids", "PATCH", A, {"identity_provider": {"remote_ids": ["ip-r3"]}})
    b("PATCH remote id taken", "PATCH", A, {"identity_provider": {"remote_ids": ["ip-r3", "ip-r1"]}})
    b("PATCH same remote ids", "PATCH", A, {"identity_provider": {"remote_ids": ["ip-r3"]}})
    b("PATCH more remote ids", "PATCH", A, {"identity_provider": {"remote_ids": ["ip-r3", "ip-r4"]}})
    b("PATCH no remote ids", "PATCH", A, {"identity_provider": {"remote_ids": []}})
    b("PATCH null remote ids", "PATCH", A, {"identity_provider": {"remote_ids": None}})
    b("PATCH description", "PATCH", A, {"identity_provider": {"description": "x"}})
    b("PATCH ttl", "PATCH", A, {"identity_provider": {"authorization_ttl": 0}})
    b("PATCH ttl null", "PATCH", A, {"identity_provider": {"authorization_ttl": None}})
    b("PATCH domain_id", "PATCH", A, {"identity_provider": D})
    b("PATCH id", "PATCH", A, {"identity_provider": {"id": "ip-a", "description": "y"}})
    b("PATCH unknown", "PATCH", P + "/ip-none", {"identity_provider": {"enabled": True}})
    f = {
        "enabled": [None, "", "true", "no", "maybe", 1, 5, [], {}],
        "description": ["", 5, True, []],
        "authorization_ttl": ["5", -1, 1.5, True, [], {}],
        "remote_ids": ["x", 5, [5], [""], [LONG[64]], [LONG[65]], {}],
        "colour": ["red"],
        "links": [{"self": "x"}],
    }
    for verb, path, fields in (("PUT", P + "/ip-bad", dict(f, domain_id=[None, "", "x_y", 5])), ("PATCH", A, f)):
        for field, values in fields.items():
            for i, value in enumerate(values):
                shown = json.dumps(value)
                at = f"{path}-{field}-{i}" if verb == "PUT" else path
                base = D if verb == "PUT" else {}
                b(f"{verb} {field}={shown[:12]}", verb, at, {"identity_provider": dict(base, **{field: value})})
    for n, body in (
        ("absent", None),
        ("empty", {}),
        ("null", {"identity_provider": None}),
        ("text", {"identity_provider": "x"}),
        ("empty member", {"identity_provider": {}}),
        ("wrong key", {"other": {}}),
        ("extra key", {"identity_provider": {"description": "x"}, "other": 1}),
    ):
        b(f"PUT body {n}", "PUT", P + "/ip-body-" + n.replace(" ", "-"), body)
        b(f"PATCH body {n}", "PATCH", A, body)
    # protocols
    M = FEDERATION + "/mappings/ip-m"
    b("PUT mapping", "PUT", M, {"mapping": {"rules": RULES}})
    b("PUT mapping 2", "PUT", M + "2", {"mapping": {"rules": RULES}})
    Q = A + "/protocols"
    S = Q + "/saml2"
    b("PUT protocol", "PUT", S, {"protocol": {"mapping_id": "ip-m"}})
    b("PUT protocol again", "PUT", S, {"protocol": {"mapping_id": "ip-m"}})
    b("PUT protocol full", "PUT", Q + "/openid", {"protocol": {"mapping_id": "ip-m", "remote_id_attribute": "ISS"}})
    b("PUT protocol same id elsewhere", "PUT", P + "/ip-full/protocols/saml2", {"protocol": {"mapping_id": "ip-m"}})
    b("PUT protocol null attribute", "PUT", Q + "/n", {"protocol": {"mapping_id": "ip-m", "remote_id_attribute": None}})
    b("PUT protocol unknown mapping", "PUT", Q + "/x", {"protocol": {"mapping_id": "none"}})
    b("PUT protocol unknown provider", "PUT", P + "/ip-none/protocols/x", {"protocol": {"mapping_id": "ip-m"}})
    b("PUT protocol long id", "PUT", Q + "/" + LONG[65], {"protocol": {"mapping_id": "ip-m"}})
    b("PUT protocol extra", "PUT", Q + "/x", {"protocol": {"mapping_id": "ip-m", "colour": "red"}})
    b("PUT protocol id", "PUT", Q + "/x", {"protocol": {"mapping_id": "ip-m", "id": "x"}})
    b.gethead("protocol", S)
    b("GET protocol full", "GET", Q + "/openid")
    b.gethead("protocol unknown", Q + "/none")
    b("GET protocol of unknown provider", "GET", P + "/ip-none/protocols/saml2")
    b("GET protocols", "GET", Q)
    b("HEAD protocols", "HEAD", Q)
    b("GET protocols by id", "GET", Q + "?id=none")
    b("GET protocols of none", "GET", P + "/ip-own/protocols")
    b("GET protocols of unknown provider", "GET", P + "/ip-none/protocols")
    b("PATCH protocol", "PATCH", S, {"protocol": {"mapping_id": "ip-m2"}})
    b("PATCH protocol attribute", "PATCH", S, {"protocol": {"mapping_id": "ip-m", "remote_id_attribute": "X"}})
    b("PATCH protocol attribute alone", "PATCH", S, {"protocol": {"remote_id_attribute": "Y"}})
    b("PATCH protocol attribute null", "PATCH", S, {"protocol": {"mapping_id": "ip-m", "remote_id_attribute": None}})
    b("PATCH protocol attribute empty", "PATCH", S, {"protocol": {"mapping_id": "ip-m", "remote_id_attribute": ""}})
    b("PATCH protocol unknown mapping", "PATCH", S, {"protocol": {"mapping_id": "none"}})
    b("PATCH protocol unknown", "PATCH", Q + "/none", {"protocol": {"mapping_id": "ip-m"}})
    b("PATCH protocol extra", "PATCH", S, {"protocol": {"mapping_id": "ip-m", "colour": "red"}})
    for field, values in {
        "mapping_id": [None, "", 5, [], LONG[65]],
        "remote_id_attribute": [5, [], LONG[65], LONG[64]],
    }.items():
        for i, value in enumerate(values):
            body = {"protocol": dict({"mapping_id": "ip-m"}, **{field: value})}
            b(f"PUT protocol {field}={json.dumps(value)[:12]} {i}", "PUT", f"{Q}/bad-{field[:3]}-{i}", body)
            b(f"PATCH protocol {field}={json.dumps(value)[:12]} {i}", "PATCH", Q + "/openid", body)
    for n, body in (
        ("absent", None),
        ("empty", {}),
        ("null", {"protocol": None}),
        ("text", {"protocol": "x"}),
        ("empty member", {"protocol": {}}),
        ("extra key", {"protocol": {"mapping_id": "ip-m"}, "other": 1}),
    ):
        b(f"PUT protocol body {n}", "PUT", Q + "/body", body)
        b(f"PATCH protocol body {n}", "PATCH", S, body)
    b("DELETE mapping in use", "DELETE", M + "2")
    b("DELETE protocol", "DELETE", Q + "/openid")
    b("DELETE protocol again", "DELETE", Q + "/openid")
    b("DELETE protocol unknown provider", "DELETE", P + "/ip-none/protocols/saml2")
    b("POST providers", "POST", P, {"identity_provider": {}})
    b("POST protocols", "POST", Q, {"protocol": {"mapping_id": "ip-m"}})
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("GET", P + "/ip-none", None),
        ("PUT", P + "/ip-z", {"identity_provider": {}}),
        ("PATCH", A, {"identity_provider": {"enabled": False}}),
        ("PATCH", A, {"identity_provider": {}}),
        ("DELETE", A, None),
        ("DELETE", P + "/ip-none", None),
        ("GET", Q, None),
        ("GET", S, None),
        ("PUT", Q + "/z", {"protocol": {"mapping_id": "ip-m"}}),
        ("PATCH", S, {"protocol": {"mapping_id": "ip-m"}}),
        ("DELETE", S, None),
    ):
        b.denied(m, p, d)
    b("GET as system", "GET", A, token="system")
    b("PATCH as system", "PATCH", A, {"identity_provider": {"enabled": False}}, token="system")
    b("DELETE", "DELETE", A)
    b("GET after DELETE", "GET", A)
    b("GET protocol after DELETE", "GET", S)
    b("PUT after DELETE", "PUT", A, {"identity_provider": D})
    b("GET protocols after PUT", "GET", Q)
    b("DELETE own", "DELETE", P + "/ip-own")
    b("GET its domain after DELETE", "GET", "/v3/domains/<id:domain:ip>")
    b("disable domain", "PATCH", "/v3/domains/<id:domain:d>", {"domain": {"enabled": False}})
    b("GET in disabled domain", "GET", P + "/ip-full")
    b("DELETE domain", "DELETE", "/v3/domains/<id:domain:d>")
    b("GET after domain", "GET", P + "/ip-full")
    b("GET all after domain", "GET", P)
    b("DELETE mapping", "DELETE", M)


@section
def federated_users(b):
    b.prelude()
    P = "/v3/users"
    I = FEDERATION + "/identity_providers"
    b.create("domain", "d", {"name": "fu-d"})
    D = {"domain_id": "<id:domain:d>"}
    b("PUT mapping", "PUT", FEDERATION + "/mappings/fu-m", {"mapping": {"rules": RULES}})
    for p in ("fu-p", "fu-q"):
        b(f"PUT {p}", "PUT", f"{I}/{p}", {"identity_provider": dict(D, enabled=True)})
        for q in ("saml2", "openid"):
            b(f"PUT {p} {q}", "PUT", f"{I}/{p}/protocols/{q}", {"protocol": {"mapping_id": "fu-m"}})

    def federated(idp="fu-p", **protocols):
        found = [{"protocol_id": k, "unique_id": v} for k, v in protocols.items()]
        return [{"idp_id": idp, "protocols": found}]

    b.create("user", "a", dict(D, name="fu-a", federated=federated(saml2="a@x")))
    A = P + "/<id:user:a>"
    b("GET a", "GET", A)
    b.create(
        "user", "b", dict(D, name="fu-b", federated=federated(saml2="b@x", openid="b") + federated("fu-q", saml2="b@q"))
    )
    b("GET b", "GET", P + "/<id:user:b>")
    b.create("user", "c", dict(D, name="fu-c", federated=[]))
    C = P + "/<id:user:c>"
    b("GET c", "GET", C)
    b("POST taken", "POST", P, {"user": dict(D, name="fu-x", federated=federated(saml2="a@x"))})
    for name, value in {
        "unknown provider": federated("none", saml2="x"),
        "unknown protocol": federated(none="x"),
        "no protocols": federated(),
        "no idp_id": [{"protocols": [{"protocol_id": "saml2", "unique_id": "x"}]}],
        "no unique_id": [{"idp_id": "fu-p", "protocols": [{"protocol_id": "saml2"}]}],
        "no protocol_id": [{"idp_id": "fu-p", "protocols": [{"unique_id": "x"}]}],
        "protocols text": [{"idp_id": "fu-p", "protocols": "x"}],
        "protocols of texts": [{"idp_id": "fu-p", "protocols": ["x"]}],
        "unique_id number": federated(saml2=5),
        "unique_id long": federated(saml2=LONG[256]),
        "unique_id empty": federated(saml2=""),
        "idp_id number": federated(5, saml2="x"),
        "text": "x",
        "null": None,
        "object": {},
        "of texts": ["x"],
        "extra": [
            {"idp_id": "fu-p", "colour": "red", "protocols": [{"protocol_id": "saml2", "unique_id": "e", "size": 1}]}
        ],
    }.items():
        b(f"PATCH federated {name}", "PATCH", C, {"user": {"federated": value}})
        b(f"POST federated {name}", "POST", P, {"user": dict(D, name=f"fu-{name}", federated=value)})
    b("GET c after all", "GET", C)
    b("PATCH set", "PATCH", C, {"user": {"federated": federated(saml2="c@x")}})
    b("GET c after set", "GET", C)
    b("PATCH other", "PATCH", C, {"user": {"federated": federated("fu-q", openid="c@q")}})
    b("GET c after other", "GET", C)
    b("PATCH name", "PATCH", C, {"user": {"name": "fu-cc"}})
    b("PATCH empty", "PATCH", C, {"user": {"federated": []}})
    b("GET c after empty", "GET", C)
    b("PATCH same", "PATCH", C, {"user": {"federated": federated("fu-q", openid="c@q")}})
    b(
        "PATCH two of one protocol",
        "PATCH",
        C,
        {"user": {"federated": federated("fu-q", openid="c@q") + federated("fu-q", openid="c2@q")}},
    )
    b("GET c after two", "GET", C)
    b("PATCH taken", "PATCH", C, {"user": {"federated": federated(saml2="a@x")}})
    for q in (
        "idp_id=fu-p",
        "idp_id=fu-q",
        "idp_id=none",
        "protocol_id=openid",
        "unique_id=a@x",
        "unique_id=none",
        "idp_id=fu-p&protocol_id=openid",
        "idp_id=fu-q&unique_id=b",
        "idp_id=fu-p&name=fu-b",
        "name=fu-b",
        "idp_id=fu-p&domain_id=<id:domain:d>",
        "idp_id=fu-p&domain_id=<id:domain:own>",
        "idp_id=fu-p&enabled=false",
        "idp_id__contains=fu",
        "unique_id=a%40x&limit=5",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b("DELETE protocol", "DELETE", I + "/fu-p/protocols/openid")
    b("GET b after DELETE protocol", "GET", P + "/<id:user:b>")
    b("DELETE provider", "DELETE", I + "/fu-p")
    b("GET a after DELETE provider", "GET", A)
    b("GET b after DELETE provider", "GET", P + "/<id:user:b>")
    b("DELETE b", "DELETE", P + "/<id:user:b>")
    b("GET by idp_id after", "GET", P + "?idp_id=fu-q")
    b("DELETE q", "DELETE", I + "/fu-q")
    b("DELETE mapping", "DELETE", FEDERATION + "/mappings/fu-m")


@section
def service_providers(b):
    b.prelude()
    P = FEDERATION + "/service_providers"
    A = P + "/sp-a"
    U = {"auth_url": "https://a.example/auth", "sp_url": "https://a.example/sp"}
    b("PUT", "PUT", A, {"service_provider": U})
    b("PUT again", "PUT", A, {"service_provider": U})
    b(
        "PUT full",
        "PUT",
        P + "/sp-full",
        {"service_provider": dict(U, enabled=True, description="d", relay_state_prefix="p")},
    )
    b("PUT prefix null", "PUT", P + "/sp-n", {"service_provider": dict(U, relay_state_prefix=None)})
    b("PUT id", "PUT", P + "/sp-i", {"service_provider": dict(U, id="sp-i")})
    b("PUT long id", "PUT", P + "/" + LONG[65], {"service_provider": U})
    b.gethead("one", A)
    b("GET full", "GET", P + "/sp-full")
    b.gethead("unknown", P + "/sp-none")
    b("GET all", "GET", P)
    b("HEAD all", "HEAD", P)
    for q in (
        "id=sp-a",
        "id=nope",
        "enabled=true",
        "enabled=false",
        "enabled=",
        "enabled=maybe",
        "id__contains=ful",
        "auth_url=x",
        "limit=1",
        "x=1",
    ):
        b(f"GET by {q}", "GET", f"{P}?{q}")
    b.auth(
        "login with one",
        scope={"project": {"name": "admin", "domain": {"id": "default"}}},
        query="?nocatalog",
        save="one",
    )
    b.auth("login unscoped with one", "<id:user:own>", "unscoped")
    b("token with one", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:one>"})
    b("PATCH enable", "PATCH", A, {"service_provider": {"enabled": True}})
    b("token with two", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:one>"})
    b("PATCH disable", "PATCH", A, {"service_provider": {"enabled": False}})
    b("PATCH description", "PATCH", A, {"service_provider": {"description": "x"}})
    b("PATCH url", "PATCH", A, {"service_provider": {"sp_url": "https://b.example/sp"}})
    b("PATCH prefix null", "PATCH", A, {"service_provider": {"relay_state_prefix": None}})
    b("PATCH id", "PATCH", A, {"service_provider": {"id": "sp-a"}})
    b("PATCH unknown", "PATCH", P + "/sp-none", {"service_provider": {"enabled": True}})
    f = {
        "auth_url": [None, "", "x", 5, "https://" + "x" * 217, "https://" + "x" * 218],
        "sp_url": [None, "", "x", 5],
        "enabled": [None, "", "true", "no", "maybe", 1, 5, []],
        "description": ["", 5, True, []],
        "relay_state_prefix": ["", 5, [], LONG[256], "x" * 257],
        "colour": ["red"],
    }
    for verb, path in (("PUT", P + "/sp-bad"), ("PATCH", A)):
        for field, values in f.items():
            for i, value in enumerate(values):
                at = f"{path}-{field}-{i}" if verb == "PUT" else path
                base = U if verb == "PUT" else {}
                b(
                    f"{verb} {field}={json.dumps(value)[:12]} {i}",
                    verb,
                    at,
                    {"service_provider": dict(base, **{field: value})},
                )
    for n, body in (
        ("absent", None),
        ("empty", {}),
        ("null", {"service_provider": None}),
        ("text", {"service_provider": "x"}),
        ("empty member", {"service_provider": {}}),
        ("wrong key", {"other": U}),
        ("without sp_url", {"service_provider": {"auth_url": "https://x"}}),
        ("extra key", {"service_provider": U, "other": 1}),
    ):
        b(f"PUT body {n}", "PUT", P + "/sp-body", body)
        b(f"PATCH body {n}", "PATCH", A, body)
    for m, p, d in (
        ("GET", P, None),
        ("GET", A, None),
        ("PUT", P + "/sp-z", {"service_provider": U}),
        ("PATCH", A, {"service_provider": {"enabled": False}}),
        ("DELETE", A, None),
        ("DELETE", P + "/sp-none", None),
    ):
        b.denied(m, p, d)
    b("GET as system", "GET", A, token="system")
    b("POST", "POST", P, {"service_provider": U})
    b("DELETE full", "DELETE", P + "/sp-full")
    b("DELETE full again", "DELETE", P + "/sp-full")
    b("token with none", "GET", "/v3/auth/tokens?nocatalog", headers={"X-Subject-Token": "<token:one>"})


@section
def domain_config(b):
    b.prelude()
    b.create("domain", "d", {"name": "dc-d"})
    P = "/v3/domains/<id:domain:d>/config"
    DEFAULT = "/v3/domains/config"
    whole = {
        "ldap": {"url": "ldap://x", "user_tree_dn": "ou=u", "password": "dc-secret", "page_size": 5},
        "identity": {"driver": "ldap"},
    }
    b.gethead("none", P)
    b("GET group none", "GET", P + "/ldap")
    b("GET option none", "GET", P + "/ldap/url")
    b("PATCH whole none", "PATCH", P, {"config": {"ldap": {"url": "ldap://first"}}})
    b("DELETE whole first", "DELETE", P)
    b("DELETE whole none", "DELETE", P)
    b("DELETE group none", "DELETE", P + "/ldap")
    b("DELETE option none", "DELETE", P + "/ldap/url")
    b("PATCH group none", "PATCH", P + "/ldap", {"config": {"ldap": {"url": "x"}}})
    b("PATCH option none", "PATCH", P + "/ldap/url", {"config": {"url": "x"}})
    b("PUT", "PUT", P, {"config": whole})
    b("PUT again", "PUT", P, {"config": whole})
    b.gethead("whole", P)
    b.gethead("group", P + "/ldap")
    b.gethead("option", P + "/ldap/url")
    b("GET number", "GET", P + "/ldap/page_size")
    b("GET option not set", "GET", P + "/ldap/suffix")
    b("GET sensitive", "GET", P + "/ldap/password")
    b("GET unknown group", "GET", P + "/nope")
    b("GET unknown option", "GET", P + "/ldap/nope")
    b("GET option of unknown group", "GET", P + "/nope/url")
    b("PATCH whole", "PATCH", P, {"config": {"ldap": {"url": "ldap://y", "suffix": "s"}}})
    b("PATCH group", "PATCH", P + "/ldap", {"config": {"ldap": {"url": "ldap://z", "use_tls": True}}})
    b("PATCH option", "PATCH", P + "/ldap/url", {"config": {"url": "ldap://w"}})
    b("PATCH sensitive", "PATCH", P + "/ldap/password", {"config": {"password": "dc-secret-2"}})
    b("GET sensitive after", "GET", P + "/ldap/password")
    b("PATCH option not set", "PATCH", P + "/ldap/user_filter", {"config": {"user_filter": "x"}})
    b("PATCH group other", "PATCH", P + "/ldap", {"config": {"identity": {"driver": "sql"}}})
    b("PATCH group two", "PATCH", P + "/ldap", {"config": {"ldap": {"url": "x"}, "identity": {"driver": "sql"}}})
    b("PATCH option other", "PATCH", P + "/ldap/url", {"config": {"suffix": "x"}})
    b("PATCH option two", "PATCH", P + "/ldap/url", {"config": {"url": "x", "suffix": "x"}})
    b("PATCH option wrapped", "PATCH", P + "/ldap/url", {"config": {"ldap": {"url": "x"}}})
    b("PATCH unknown group", "PATCH", P + "/nope", {"config": {"nope": {"url": "x"}}})
    b("PATCH unknown option", "PATCH", P + "/ldap/nope", {"config": {"nope": "x"}})
    b("PATCH group with unknown option", "PATCH", P + "/ldap", {"config": {"ldap": {"nope": "x"}}})
    b("GET after PATCH", "GET", P)
    for n, config in {
        "empty": {},
        "unknown group": {"nope": {"url": "x"}},
        "unknown option": {"ldap": {"nope": "x"}},
        "empty group": {"ldap": {}},
        "group text": {"ldap": "x"},
        "group null": {"ldap": None},
        "group list": {"ldap": ["x"]},
        "one right one wrong": {"ldap": {"url": "x"}, "nope": {"x": 1}},
        "security_compliance": {"security_compliance": {"password_regex": "x"}},
        "text": "x",
        "list": ["x"],
        "null": None,
        "number": 5,
    }.items():
        b(f"PUT config {n}", "PUT", P, {"config": config})
        b(f"PATCH config {n}", "PATCH", P, {"config": config})
        b(f"PATCH group config {n}", "PATCH", P + "/ldap", {"config": config})
        b(f"PATCH option config {n}", "PATCH", P + "/ldap/url", {"config": config})
    for n, body in (("absent", None), ("empty", {}), ("wrong key", {"other": whole})):
        b(f"PUT body {n}", "PUT", P, body)
        b(f"PATCH body {n}", "PATCH", P, body)
    b("PUT body extra key", "PUT", P, {"config": whole, "other": 1})
    for n, value in {
        "null": None,
        "list": ["a", 5],
        "object": {"a": 1},
        "true": True,
        "empty": "",
        "float": 1.5,
        "zero": 0,
    }.items():
        b(f"PATCH option value {n}", "PATCH", P + "/ldap/url", {"config": {"url": value}})
        b(f"GET option value {n}", "GET", P + "/ldap/url")
        b(f"DELETE option value {n}", "DELETE", P + "/ldap/url")
        b(f"PUT option value {n}", "PUT", P, {"config": whole})
    for n, value in {"null": None, "list": ["a"], "number": 5, "object": {"a": 1}}.items():
        b(f"PUT sensitive value {n}", "PUT", P, {"config": {"ldap": {"password": value}}})
        b(f"GET sensitive value {n}", "GET", P)
    b("PUT sensitive alone", "PUT", P, {"config": {"ldap": {"password": "x"}}})
    b("GET sensitive alone", "GET", P)
    b("GET group sensitive alone", "GET", P + "/ldap")
    b("PATCH group sensitive alone", "PATCH", P + "/ldap", {"config": {"ldap": {"password": "y"}}})
    b("DELETE sensitive", "DELETE", P + "/ldap/password")
    b("PUT after sensitive", "PUT", P, {"config": {"ldap": {"password": "x"}}})
    b("DELETE group sensitive", "DELETE", P + "/ldap")
    b(
        "PUT with substitution",
        "PUT",
        P,
        {"config": {"ldap": {"url": "ldap://me:%(password)s@x", "password": "dc-secret"}}},
    )
    b("GET with substitution", "GET", P)
    b("GET option with substitution", "GET", P + "/ldap/url")
    for n, url in {"unknown": "%(nope)s", "odd": "%(password)", "percent": "100%", "number": "%(password)d"}.items():
        b(f"PATCH substitution {n}", "PATCH", P + "/ldap/url", {"config": {"url": url}})
        b(f"GET substitution {n}", "GET", P + "/ldap/url")
    b("PUT all again", "PUT", P, {"config": whole})
    b("DELETE option", "DELETE", P + "/ldap/url")
    b("GET after DELETE option", "GET", P)
    b("DELETE option again", "DELETE", P + "/ldap/url")
    b("DELETE unknown option", "DELETE", P + "/ldap/nope")
    b("DELETE unknown group", "DELETE", P + "/nope")
    b("DELETE group", "DELETE", P + "/ldap")
    b("GET after DELETE group", "GET", P)
    b("DELETE group again", "DELETE", P + "/ldap")
    b("DELETE", "DELETE", P)
    b("GET after DELETE", "GET", P)
    # defaults
    b.gethead("default", DEFAULT + "/default")
    b.gethead("default group", DEFAULT + "/ldap/default")
    b("GET default identity", "GET", DEFAULT + "/identity/default")
    b.gethead("default option", DEFAULT + "/ldap/url/default")
    for o in ("page_size", "user_attribute_ignore", "use_tls", "password"):
        b(f"GET default {o}", "GET", f"{DEFAULT}/ldap/{o}/default")
    b("GET default unknown group", "GET", DEFAULT + "/nope/default")
    b("GET default unknown option", "GET", DEFAULT + "/ldap/nope/default")
    b("GET default security_compliance", "GET", DEFAULT + "/security_compliance/default")
    # security_compliance
    C = "/v3/domains/default/config/security_compliance"
    for t in ("", "member", "system", None):
        who = "as " + (t or "admin" if t is not None else "nobody")
        b(f"GET compliance {who}", "GET", C, token=t)
        b(f"GET compliance regex {who}", "GET", C + "/password_regex", token=t)
        b(f"HEAD compliance regex {who}", "HEAD", C + "/password_regex", token=t)
        b(f"GET compliance description {who}", "GET", C + "/password_regex_description", token=t)
        b(f"GET compliance lockout {who}", "GET", C + "/lockout_duration", token=t)
        b(f"GET compliance elsewhere {who}", "GET", P + "/security_compliance", token=t)
        b(f"GET compliance option elsewhere {who}", "GET", P + "/security_compliance/password_regex", token=t)
        b(f"GET compliance unknown domain {who}", "GET", f"/v3/domains/{GONE}/config/security_compliance", token=t)
    b("PATCH compliance", "PATCH", C, {"config": {"security_compliance": {"password_regex": "x"}}})
    b("PATCH compliance option", "PATCH", C + "/password_regex", {"config": {"password_regex": "x"}})
    b("DELETE compliance", "DELETE", C)
    b("DELETE compliance option", "DELETE", C + "/password_regex")
    # whose
    for where in (GONE, "<id:project:own>"):
        for m, body in (("GET", None), ("PUT", {"config": whole}), ("PATCH", {"config": whole}), ("DELETE", None)):
            b(f"{m} of {where[:4]}", m, f"/v3/domains/{where}/config", body)
    for m, p, d in (
        ("GET", P, None),
        ("GET", P + "/ldap", None),
        ("GET", P + "/ldap/url", None),
        ("GET", f"/v3/domains/{GONE}/config", None),
        ("PUT", P, {"config": whole}),
        ("PATCH", P, {"config": whole}),
        ("PATCH", P + "/ldap", {"config": {}}),
        ("DELETE", P, None),
        ("DELETE", P + "/ldap/url", None),
        ("GET", DEFAULT + "/default", None),
        ("GET", DEFAULT + "/ldap/url/default", None),
    ):
        b.denied(m, p, d)
    b("PUT at last", "PUT", P, {"config": whole})
    b("GET as system", "GET", P, token="system")
    b("PUT group", "PUT", P + "/ldap", {"config": {"ldap": {"url": "x"}}})
    b("POST", "POST", P, {"config": whole})
    b("PUT default", "PUT", DEFAULT + "/default", {"config": whole})
    b("disable", "PATCH", "/v3/domains/<id:domain:d>", {"domain": {"enabled": False}})
    b("GET disabled", "GET", P)
    b("DELETE domain", "DELETE", "/v3/domains/<id:domain:d>")
    b("GET after domain", "GET", P)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", nargs="?", default=os.path.join(HERE, "upstream", "exchanges.json"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    only = [s for s in args.only.split(",") if s]
    server = Keystone()
    exchanges = []
    try:
        b = Battery(server.port, exchanges)
        b.alone = bool(only)
        for f in SECTIONS:
            if only and f.__name__ not in only:
                continue
            b.start(f.__name__)
            start = time.time()
            n = len(exchanges)
            f(b)
            print(f"{f.__name__}: {len(exchanges) - n} exchanges, {time.time() - start:.1f} s", flush=True)
    finally:
        server.stop()
    broken = [x["name"] for x in exchanges if x["response"]["status"] >= 500]
    print("5xx:", *broken, sep="\n  ")
    if args.check:
        old = {x["name"]: x for x in normalise.load(args.output)["exchanges"]}
        for x in exchanges:
            for d in normalise.compare(old[x["name"]]["response"], x["response"]):
                print(x["name"], d)
    elif only:
        print(json.dumps(exchanges, indent=1))
    else:
        save(args.output, exchanges)


def save(path, exchanges):
    import importlib.metadata

    with open(path, "w", encoding="utf-8") as f:
        f.write('{"keystone": "%s",\n "exchanges": [\n' % importlib.metadata.version("keystone"))
        f.write(",\n".join(json.dumps(x, sort_keys=False) for x in exchanges))
        f.write("\n]}\n")
    print(f"{len(exchanges)} exchanges -> {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
