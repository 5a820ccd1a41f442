"""Secrets of a federation and where they may lie: what it is made to hold, where all that it has written is read."""

import base64
import contextlib
import json
import secrets
import socket
import urllib.parse
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from controller import ask
from controller.__main__ import app as operators
from controller.engines import cql
from controller.probe import Client, password
from regional_keystone.__main__ import app as sites
from regional_keystone.enrol import JoinToken
from regional_keystone.key_directory import read_directory
from tests.processes import processes, until
from tests.security.scanner import Secret, sstable

FLUSHED = "cassandra1"
RINGS = {"fernet-keys": "token key", "credential-keys": "credential key", "receipt-keys": "receipt key"}
AUTHORITY = {"ca.key": "CA key", "signer.key": "bundle signer", "box.key": "box key"}


STORES = (
    "*/log.db*",
    "*/replica.db*",
    "rows/consumers",
    "rows/log",
    "tables/* consumers-* *",
    "tables/* log-* *",
    "engines/cassandra*/commitlog/*",
    "engines/cassandra*/hints/*",
    "engines/cassandra*/data/regional_keystone/consumers-*",
    "engines/cassandra*/data/regional_keystone/log-*",
    "engines/cassandra*/data/system/paxos-*",
    "tables/* system paxos-* *",
)
"""Whatever holds rows."""


class Allowed(NamedTuple):
    """Files that may hold a kind of secret, `{whose}` being whose it is, and why."""

    where: str
    kind: str
    why: str


ALLOWED = [
    Allowed("{whose}/fernet-keys/*", "token key", "the ring's own directory, 0700 and 0600, as upstream has it"),
    Allowed("{whose}/credential-keys/*", "credential key", "likewise"),
    Allowed("{whose}/receipt-keys/*", "receipt key", "likewise"),
    Allowed(
        "{whose}/jws-keys/private/*", "signing key", "a site's own, which signs its tokens and never leaves it; 0600"
    ),
    Allowed("controller*/authority/ca.key", "CA key", "controllers admit sites; 0400"),
    Allowed("controller*/authority/ca-*.key", "CA key", "likewise, after `rkctl authority rotate --ca`; 0400"),
    Allowed("controller*/authority/signer.key", "bundle signer", "controllers sign bundles; 0400"),
    Allowed("controller*/authority/signer-*.key", "bundle signer", "likewise, after `rkctl authority rotate`; 0400"),
    Allowed("controller*/authority/box.key", "box key of controllers", "opens what is sealed for controllers; 0400"),
    Allowed("{whose}/authority/stream.key", "TLS key", "its own key on the stream, made there; 0400"),
    Allowed("{whose}/identity/box.key", "box key", "opens what is sealed for this site, made there; 0600"),
    Allowed("{whose}/identity/tls.key", "TLS key", "its own key on the stream, made there; 0600"),
    Allowed("{whose}/cache.secret", "cache secret", "seals this region's cache; 0600"),
    Allowed("secrets/{whose}", "engine password", "the file that a setting names; 0600"),
    Allowed("openrc", "administrator's password", "made for the operator's shell; 0600"),
    Allowed("clouds.yaml", "administrator's password", "likewise, for clients"),
    Allowed("said/region add", "join token", "shown once, to who invites a site"),
    *(
        Allowed(where, "consumer's secret", "as Keystone keeps it: who signs with it has to have it")
        for where in STORES
    ),
]


KINDS = {one.kind for one in ALLOWED} | {
    "application credential",
    "EC2 secret",
    "TOTP seed",
    "passphrase",
    "password",
    "token",
}
"""Everything that is secret."""

NOT_IN_FILES = {"engine password", "cache secret"}
NOT_ON_ENGINES = {"signing key"}  # keys of rings seal there

SEARCHED = (
    "*/log.db",
    "copied/log.db",
    "*/replica.db",
    "*/own/*.db*",
    "logs/*",
    "config/*",
    "pages/*",
    "processes/*",
    "answers/all",
    "said/store copy",
    "said/keys status",
    *(f"*/{ring}/*" for ring in RINGS),
)
SEARCHED_ON_ENGINES = (
    "copied/log.db",
    "logs/*",
    "config/*",
    "pages/*",
    "processes/*",
    "answers/all",
    "said/store copy",
    "memcached/*",
    "rows/log",
    "tables/*",
    "engines/*/commitlog/*",
    "engines/zookeeper*/data/version-2/*",
    *(f"*/{ring}/*" for ring in RINGS),
)
"""What there is to search, each of which holds something."""


def size(path):
    """In bytes; 0 for one that is gone: what was searched goes on working."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def unsearched(home, said, paths):
    """Of what is to be searched, that of which there is nothing."""
    names = [
        str(path.relative_to(home.directory if path.is_relative_to(home.directory) else said))
        for path in paths
        if size(path)
    ]
    wanted = SEARCHED_ON_ENGINES if home.engines.exists() else SEARCHED
    return [one for one in wanted if not any(fnmatch(name, one) for name in names)]


def may(hit, home, said):
    """Whether a row of the table lets this file hold that."""
    place = Path(hit.path)
    root = home.directory if place.is_relative_to(home.directory) else said
    name = str(place.relative_to(root))
    return any(
        one.kind == hit.kind and fnmatch(name, one.where.format(whose=whose)) for one in ALLOWED for whose in hit.whose
    )


# --- what is secret


def of_files(home):
    """Every key, password and seal that the processes of a federation have on their disks."""
    found = []
    for member in home.members():
        state, name = home.state(member.name), member.name
        for folder, kind in RINGS.items():
            keys = read_directory(state / folder).numbers.values() if (state / folder).exists() else ()
            found += [Secret(kind, name, raw(key)) for key in keys]
        for file in state.glob("*/*.key"):
            known = f"{file.name.removesuffix('.key').partition('-')[0]}.key"  # turned ones have their id behind that
            holder = file.parent.name == "authority" and known in AUTHORITY
            kind = AUTHORITY[known] if holder else {"box.key": "box key"}.get(file.name, "TLS key")
            found.append(
                Secret("box key of controllers" if holder and kind == "box key" else kind, name, private(file))
            )
        found += [Secret("signing key", name, key) for key in _signing(state / "jws-keys" / "private")]
        if (file := state / "cache.secret").exists():
            found.append(Secret("cache secret", name, bytes.fromhex(file.read_text())))
            found.append(Secret("cache secret", name, file.read_bytes().strip()))
    found += [Secret("engine password", one.name, one.read_bytes()) for one in home.directory.glob("secrets/*")]
    return [*found, Secret("administrator's password", "admin", home.password().encode())]


def _signing(folder):
    """The private keys there, of which the next may take the place of the present one meanwhile."""
    while True:
        try:
            return [private(file) for file in folder.glob("*.pem")]
        except FileNotFoundError:
            continue


def raw(key):
    """The 32 bytes of a key of a ring."""
    return base64.urlsafe_b64decode(key)


def private(file):
    """The bytes of a private key that are the key."""
    data = file.read_bytes()
    if not data.startswith(b"-----"):
        return data
    return load_pem_private_key(data, None).private_numbers().private_value.to_bytes(32, "big")


class Use:
    """Does with a federation all for which it needs secrets, and keeps them: what is secret, and what is answered."""

    def __init__(self, home):
        self.home = home
        self.members = home.members()
        self.sites = [one for one in self.members if not one.is_controller]
        self.secrets = of_files(home)
        self.mark = f"seen-{secrets.token_hex(8)}"  # no secret: has to be found wherever anything is written
        self.bodies, self.said = [], {}
        project = {"project": {"name": "admin", "domain": {"id": "default"}}}
        self.admin = self._login(self.members[0], password("admin", home.password(), "default") | {"scope": project})

    def do(self):
        """All of it: at a controller, at a site, and once more when the keys are others."""
        with Client(self.members[0], self.admin) as admin:
            role = next(one["id"] for one in admin.expect(200, "GET", "/v3/roles")["roles"] if one["name"] == "member")
            self._live(self.members[0], admin, role)
            self._live(self.sites[0], admin, role)
            self._turn()
            self._live(self.sites[-1], admin, role)
            self._tell()
            self._export()
            if not self.home.engines.exists():  # the engines' federation is used by others, which need their keys
                self._steal()
                self._live(self.sites[-1], admin, role)
        self.secrets = list(dict.fromkeys([*self.secrets, *of_files(self.home)]))

    def new(self, kind, value=""):
        """A new secret of this kind."""
        value = value or f"{kind.replace(' ', '-')}-{secrets.token_urlsafe(24)}"
        self.secrets.append(Secret(kind, "clients", value.encode()))
        return value

    def _login(self, member, auth):
        with Client(member) as client:
            return self.new("token", client.login(auth))

    def _live(self, member, admin, role):
        """A user's life at one member, which passes on what it cannot do itself; all answers but the first are kept."""
        name = f"{self.mark}-{secrets.token_hex(4)}"
        project = admin.make("project", "/v3/projects", name=name, domain_id="default")["id"]
        first, later = self.new("password"), self.new("password")
        user = admin.make("user", "/v3/users", name=name, domain_id="default", password=first)["id"]
        admin.expect(204, "PUT", f"/v3/projects/{project}/users/{user}/roles/{role}")
        until(lambda: self._answers(member, name, first, project), "the user at the member")
        self._wrong(member, name)
        token = self._login(member, password(name, first, "default", project))
        with Client(member, token) as own:
            self._programs(own, user, project)
            sent = {"user": {"password": later, "original_password": first}}
            doomed = self._login(member, password(name, first, "default", project))
            self._keep(own.ask("DELETE", "/v3/auth/tokens", X_Subject_Token=doomed))
            self._keep(own.ask("GET", "/v3/auth/tokens", X_Subject_Token=doomed))
            self._keep(own.ask("GET", "/v3/auth/tokens", X_Subject_Token=token))
            self._keep(own.ask("POST", f"/v3/users/{user}/password", sent))
        with Client(member, self.admin) as client:
            for path in (f"/v3/users/{user}", f"/v3/users/{user}/application_credentials", "/v3/OS-OAUTH1/consumers"):
                self._keep(client.ask("GET", path))
            self._keep(client.ask("PATCH", f"/v3/users/{user}", {"user": {"password": self.new("password")}}))

    def _answers(self, member, name, secret, project):
        with Client(member) as client:
            return (
                client.ask("POST", "/v3/auth/tokens", {"auth": password(name, secret, "default", project)}).status
                == 201
            )

    def _programs(self, own, user, project):
        """An application credential, an EC2 key, a seed for one-time passwords, a consumer: each shown where it is made."""
        made = own.make("application_credential", f"/v3/users/{user}/application_credentials", name=self.mark)
        secret = self.new("application credential", made["secret"])
        by = {"methods": ["application_credential"], "application_credential": {"id": made["id"], "secret": secret}}
        self._login(own.member, {"identity": by})
        sent = {"tenant_id": project}
        ec2 = own.expect(201, "POST", f"/v3/users/{user}/credentials/OS-EC2", sent)["credential"]
        self.new("EC2 secret", ec2["secret"])
        seed = self.new(
            "TOTP seed", "ABCDEFGH" + secrets.token_hex(16).upper().translate(str.maketrans("0189", "WXYZ"))
        )
        own.make("credential", "/v3/credentials", type="totp", blob=seed, user_id=user, project_id=project)
        with own.at(own.member) as client:
            client.token = self.admin
            consumer = client.make("consumer", "/v3/OS-OAUTH1/consumers", description=self.mark)
            self.new("consumer's secret", consumer["secret"])
            self._keep(client.ask("GET", f"/v3/OS-OAUTH1/consumers/{consumer['id']}"))

    def _wrong(self, member, name):
        """Requests that are refused, with what they hold of secrets."""
        guess, stray = self.new("password"), self.new("token", f"gAAAAAB{secrets.token_urlsafe(120)}")
        with Client(member) as client:
            wrong = {"identity": {"methods": ["password"], "password": {"user": {"id": name, "password": [guess]}}}}
            for sent in (password(name, guess, "default"), wrong):
                self._keep(client.ask("POST", "/v3/auth/tokens", {"auth": sent}))
            self._keep(client.ask("GET", "/v3/users", X_Auth_Token=stray))
            self._keep(client.ask("GET", f"/v3/nothing/{self.mark}", X_Auth_Token=stray))
        with Client(member, self.admin) as client:
            for method in ("GET", "DELETE", "HEAD"):
                self._keep(client.ask(method, "/v3/auth/tokens", X_Subject_Token=stray))
            for sent in ({"password": [guess]}, {"password": guess, "enabled": "perhaps"}):
                self._keep(client.ask("POST", "/v3/users", {"user": {"name": name, **sent}}))
            me = "/v3/users/" + client.expect(200, "GET", "/v3/users?name=admin")["users"][0]["id"]
            self._keep(client.ask("PATCH", me, {"user": {"password": {"a": guess}}}))
            self._keep(
                client.ask("POST", f"{me}/password", {"user": {"password": guess, "original_password": [guess]}})
            )
            self._keep(client.ask("POST", "/v3/credentials", {"credential": {"type": "totp", "blob": [guess]}}))
            sent = {"application_credential": {"name": name, "secret": [guess]}}
            self._keep(client.ask("POST", f"{me}/application_credentials", sent))

    def _keep(self, answer):
        """All of it, but for the header that names the token that was asked about: who asks has sent it."""
        headers = {name: value for name, value in answer.headers.items() if name != "x-subject-token"}
        self.bodies.append(json.dumps([answer.status, headers, answer.body]))

    def _turn(self):
        """Both rings, with everything sealed anew; and a site that is invited, which never comes."""
        for words in (("keys", "rotate"), ("credential", "rotate"), ("credential", "migrate"), ("keys", "rotate")):
            self.run(*words, "--json")
        self.secrets += of_files(self.home)
        text = self.run("region", "add", "Canary", "--url", "http://127.0.0.1:9/v3")
        word = next(one for one in text.split() if one.startswith("rkj1."))
        self.new("join token", word)
        self.new("join token", JoinToken.read(word).secret)
        self.run("region", "remove", "Canary", "--yes")

    def _export(self):
        """The keys in a sealed file, and in again; the file stays, to be searched."""
        words, file = self.home.directory / "passphrase", self.home.directory / "exported"
        words.touch(0o600)
        words.write_text(self.new("passphrase"))
        self.run("keys", "export", str(file), "--passphrase-file", str(words))
        self.run("keys", "import", str(file), "--merge", "--passphrase-file", str(words))
        words.unlink()

    def _steal(self):
        """Everything that is there for keys in other hands, which ends no token that is needed here; and before that."""
        self.run("authority", "rotate")
        self.secrets += of_files(self.home)
        self.run("authority", "rotate", "--ca")
        self.run("signing", "rotate", self.sites[-1].name)
        self.run("signing", "sealed", "--refuse", "--now")
        self.run("signing", "status")
        found = json.loads(self.run("keys", "status", "--json"))
        held = [key["id"] for key in found["rings"]["receipt"]["keys"] if key["number"] is not None]
        staged, older = held[0], held[-1]
        sealing = next(key["id"] for key in found["rings"]["credential"]["keys"] if key["state"] == "primary")
        for key in (older, sealing):
            self.run("keys", "compromised", "--key", key, "--yes", "--wait", "30")
        self.run("credential", "migrate")
        config = str(self.home.config(self.sites[-1].name))
        done = CliRunner().invoke(sites, ["--config", config, "panic", "--key", staged, "--yes"])
        assert done.exit_code == 0, done.output
        self.said["panic"] = done.output

    def _tell(self):
        """What operators ask for."""
        for words in (("keys", "status"), ("credential", "status"), ("region", "list"), ("status",)):
            self.run(*words)
        self.run("user", "show", "admin", "--domain", "Default")
        config = str(self.home.config(self.members[0].name))
        self._said("config check", "config", "check", config)
        self._said("doctor", "doctor", "--config", config)
        copied = self.home.directory / "copied"
        copied.mkdir(mode=0o700)
        self._said("store copy", "store", "copy", "--from", config, "--to", str(copied / "log.db"))

    def run(self, *words):
        """What a command of operators says; it has to succeed."""
        return self._said(" ".join(words[:2]), *words, "--state", str(self.home.directory))

    def _said(self, name, *words):
        done = CliRunner().invoke(operators, words)
        assert done.exit_code == 0, (words, done.output)
        self.said[name] = self.said.get(name, "") + done.output
        return done.output


# --- where it could lie


def written(use, folder):
    """All that a federation has written or says, as files: its own, and in this folder what is only said."""
    home = use.home
    for name, text in use.said.items():
        _put(folder / "said" / name, text.encode())
    _put(folder / "answers" / "all", "\n".join(use.bodies).encode())
    for member in use.members:
        for page in ("status", "metrics", "digest", "readyz"):
            url = f"http://127.0.0.1:{member.admin}/{page}"
            _put(folder / "pages" / f"{page} of {member.name}", urllib.request.urlopen(url, timeout=10).read())
    for name, pid in everybody(home).items():
        for part in ("cmdline", "environ"):
            _put(folder / "processes" / f"{part} of {name}", Path(f"/proc/{pid}/{part}").read_bytes())
    if home.engines.exists():
        _told_by_engines(home, folder)
        ask.control(home.control, command="signal", name=FLUSHED, signal="TERM")  # it writes all to its tables
    for data in home.directory.rglob("*-Data.db"):
        if (text := sstable(data)) is not None:
            _put(folder / "tables" / str(data.relative_to(home.engines)).replace("/", " "), text)
    return [path for root in (home.directory, folder) for path in sorted(root.rglob("*")) if path.is_file()]


def _told_by_engines(home, folder):
    """Rows as Cassandra tells them, and what lies in each memcached."""
    network = (home.engines / "wan").read_text().strip() or (home.engines / "subnet").read_text().strip()
    secret = (home.directory / "secrets" / "superuser").read_text()
    with cql.Node(f"{network}.1", 9042, "cassandra", secret, 20.0) as node:
        tables = node.ask("SELECT keyspace_name, table_name FROM system_schema.tables")
        for keyspace, table in tables:
            if keyspace == b"regional_keystone" or (keyspace == b"system_auth" and table.startswith(b"role")):
                rows = node.ask(f'SELECT * FROM {keyspace.decode()}."{table.decode()}"', cql.QUORUM)
                text = b"\n".join(b"\t".join(one or b"" for one in row) for row in rows)
                _put(folder / "rows" / table.decode(), text)
    subnet = (home.engines / "subnet").read_text().strip()
    for number in (1, 2, 3):
        _put(folder / "memcached" / str(number), remembered(f"{subnet}.{number}"))


def remembered(address):
    """Every key and value of a memcached."""
    with socket.create_connection((address, 11211), 10.0) as connection, connection.makefile("rwb") as said:
        said.write(b"lru_crawler metadump all\r\n")
        said.flush()
        names = []
        while (line := said.readline().strip()) != b"END":
            names.append(urllib.parse.unquote_to_bytes(line.split()[0].removeprefix(b"key=")))
        found = []
        for name in names:
            said.write(b"get %b\r\n" % name)
            said.flush()
            head = said.readline().split()
            if head[0] == b"VALUE":
                found.append(name + b" " + said.read(int(head[3]) + 2))
                said.readline()
    return b"\n".join(found)


def everybody(home):
    """Every process by a name: those that `rkctl` knows, and those that they have started."""
    named = {pid: name for name, pid in ask.control(home.control, command="report").items()}
    return {f"{named.get(pid, 'child')} {pid}": pid for pid in {*named, *processes(home)}}


def _put(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
