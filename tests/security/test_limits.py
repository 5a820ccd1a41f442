"""Requests that cost more than they should: large, deep, many, odd; refused soon, in few words, in few lines of a log."""

import ast
import contextlib
import gzip
import json
import socket
from pathlib import Path

import pytest

from controller.federation import HOST
from controller.probe import PATIENCE_S, Client
from tests.security.conftest import MODES
from tests.security.inside import JSON, peaks, post, read, send, ticks, written
from tests.security.regions import NAMES, started
from tests.security.rows import HOLDS, UNKNOWN, row
from tests.site.wire import request

ROOT = Path(__file__).parents[2]
LIMIT, MIB = 112 * 1024, 1 << 20
SHORT = 2000  # bytes of a refusal
CHUNKED = "Transfer-Encoding: chunked"


def alone(test):
    """Run these in one process, apart from those that use the federation of all rows."""
    return pytest.mark.federation(pytest.mark.together("security-limits")(test))


@pytest.fixture(scope="module", params=MODES)
def proxied(request, tmp_path_factory):
    """A federation behind a proxy on this machine, so that every header counts; one address may connect often."""
    settings = ("listen.trusted_proxies=127.0.0.1", "cors.allowed_origin=https://a.example")
    with started(tmp_path_factory.mktemp("proxied"), *MODES[request.param], *settings) as found:
        yield found


def login(value):
    """The bytes of a login with this for the password, which is JSON already."""
    user = b'{"name": "x", "domain": {"id": "default"}, "password": %b}' % value
    return b'{"auth": {"identity": {"methods": ["password"], "password": {"user": %b}}}}' % user


def refused(answer, *statuses):
    """Whether an answer is one of these refusals, in a few words of JSON."""
    assert answer.status in statuses, (answer.status, str(answer.body)[:300])
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) < SHORT
    return True


# --- large


@alone
@row("SEC-87", "a body over the limit is refused before it is read, in chunks or packed too, many at once too", HOLDS)
def test_sec_87_large_bodies_are_refused_before_they_are_read(proxied):
    """Memory is looked at as the most that each process ever had: of each connection what has arrived at once and what
    is put together of it, each up to the limit, and not what is sent, which is ten times as much."""
    home = proxied.household()
    token = f"X-Auth-Token: {proxied.login(home.auth())}"
    bomb = gzip.compress(b" " * 50 * MIB)
    assert len(bomb) < LIMIT
    for at in NAMES:
        member = proxied.members[at]
        for path, headers in (("/v3/auth/tokens", ()), ("/v3/users", (token,)), ("/v3/nothing", ())):
            told = request("POST", path, JSON, f"Content-Length: {LIMIT + 1}", *headers)
            assert refused(send(member, told), 413), "nothing of the body was sent"
            pieces = request("POST", path, JSON, CHUNKED, *headers) + b"7000\r\n%b\r\n" % (b" " * 0x7000) * 5
            assert refused(send(member, pieces), 413), "the last piece was not sent"
            for encoding in ("gzip", "deflate", "br"):
                assert refused(post(member, path, bomb, f"Content-Encoding: {encoding}", *headers), 400)
        assert post(member, "/v3/auth/tokens", login(b'"x"').ljust(LIMIT)).status == 401, "at the limit it is read"
    for start in (TOLD, UNTOLD):
        before = peaks(proxied.home)
        for at in NAMES:
            pour(proxied.members[at], start)
        grown = {pid: peak - before[pid] for pid, peak in peaks(proxied.home).items()}
        assert max(grown.values()) < 3 * MANY * LIMIT / 2, (start, grown)
    assert {proxied.log_in(home.auth(), at).status for at in NAMES} == {201}


MANY, PIECE = 200, b"x" * 50_000
TOLD = request("POST", "/v3/auth/tokens", JSON, "Content-Length: 4000000")
UNTOLD = request("POST", "/v3/auth/tokens", JSON, CHUNKED) + b"3d0900\r\n"


def pour(member, start):
    """Many clients send a megabyte each of what never ends, all having begun before the first goes on."""
    pouring = [socket.create_connection((HOST, member.port), PATIENCE_S) for _ in range(MANY)]
    for connection in pouring:
        connection.sendall(start + PIECE)
    answered = 0
    for connection in pouring:
        with connection, contextlib.suppress(ConnectionError):
            # closed with the answer unread is refused as well
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    connection.sendall(PIECE)
            answered += refused(read(connection), 413)
    assert answered


# --- deep and odd

VALUES = {
    "lists, open": b"[" * 50_000,
    "lists": b"[" * 50_000 + b"]" * 50_000,
    "objects, open": b'{"a":' * 20_000,
    "objects": b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
    "just too deep": b"[" * 32 + b"]" * 32,
    "lone surrogate": b'"\\ud800"',
    "lone surrogate for a key": b'{"\\udfff": 1}',
    "surrogates the wrong way round": b'"\\udc00\\ud800"',
    "long number": b"1" * 5000,
    "long negative number": b"-" + b"1" * 5000,
    "long fraction": b"0." + b"1" * 50_000,
    "huge exponent": b"1e99999",
    "NaN": b"NaN",
    "infinite": b"-Infinity",
    "one key twice": b'1, "x": 1',
    "one key twice, further in": b'{"a": 1, "a": 1}',
    "not UTF-8": b'"\xff\xfe"',
    "overlong": b'"\xc0\x80"',
    "NUL": b'"\x00"',
    "many keys": b"{%b}" % b",".join(b'"%d":0' % number for number in range(9_000)),
    "long text": b'"%b"' % (b"y" * 70_000),
}
BODIES = {
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "UTF-32": lambda body: body.decode().encode("utf-32"),
    "byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "half": lambda body: body[:-1],
    "more behind": lambda body: body + b"]",
    "twice": lambda body: body * 2,
    "wrapped": lambda body: b"[%b]" % body,
    "text": lambda body: json.dumps(body.decode()).encode(),
    "null": lambda body: b"null",
}


@row(
    "SEC-88",
    "JSON that is deep, long, odd or could be read in two ways is refused",
    "weaker: 500 and a traceback, to anybody",
)
@pytest.mark.parametrize("name", [*VALUES, *BODIES])
def test_sec_88_odd_json_is_refused(regions, name):
    """Each beside what would be right, so that nothing else is wrong with it: to somebody without a token as to whoever
    has one. Refused in few words, and nothing is done."""
    home, at_once = regions.household(), f"X-Auth-Token: {regions.admin}"
    bodies = {
        "/v3/auth/tokens": {"auth": home.auth(), "x": 0},
        f"/v3/users/{home.user['id']}/password": {
            "user": {"original_password": home.secret, "password": "changed"},
            "x": 0,
        },
        "/v3/regions": {"region": {"id": f"odd-{home.user['name']}", "x": 0}},
    }
    for path, body in bodies.items():
        right = json.dumps(body).encode()
        odd = right.replace(b'"x": 0', b'"x": ' + VALUES[name]) if name in VALUES else BODIES[name](right)
        assert right != odd
        assert len(odd) <= LIMIT
        for at in NAMES:
            assert refused(post(regions.members[at], path, odd, at_once), 400)
            if path != "/v3/regions":
                assert refused(post(regions.members[at], path, odd), 400)
    assert {regions.log_in(home.auth(), at).status for at in NAMES} == {201}
    assert regions.ask("GET", f"/v3/regions/odd-{home.user['name']}").status == 404
    right = json.dumps(bodies["/v3/auth/tokens"] | {"x": ["y" * 65_000, 10**18, {"a": 1, "b": 0.5}]}).encode()
    assert post(regions.members["RegionOne"], "/v3/auth/tokens", right).status == 201, "what is not odd is taken"


# --- many


def bad_requests(client, number, marker):
    """One of each kind that anybody can send; what they get."""
    user = {"id": f"{number:032}", "password": marker}
    unknown = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    named = {"name": "admin", "domain": {"id": "default"}, "password": marker}
    wrong = {"auth": {"identity": {"methods": ["password"], "password": {"user": named}}}}
    return [
        client.ask("POST", "/v3/auth/tokens", unknown).status,
        client.ask("POST", "/v3/auth/tokens", wrong).status,
        client.ask("POST", "/v3/auth/tokens", {"auth": marker}).status,
        client.ask("GET", "/v3/users", X_Auth_Token=f"{marker}{number}").status,
        client.ask("GET", "/v3/auth/tokens", X_Auth_Token=marker, X_Subject_Token=marker).status,
        client.ask("GET", f"/v3/{marker}/{number}").status,
        client.ask("BREW", "/v3/users").status,
        client.ask("PUT", f"/v3/users/{marker}", {"x": number}).status,
    ]


@alone
@row(
    "SEC-90", "requests that are refused fill no log, and nothing of them stands in it", "weaker: a traceback for many"
)
def test_sec_90_refused_requests_fill_no_log(proxied):
    """Thousands instead of the hundred thousand that an attacker has: it is a line for each that must not be."""
    marker, times, asked = "not-a-secret-of-ours", 120, 0
    raw = [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /v3\r\n\r\n", request("GET", "/v3", "X-A: " + "x" * 9000)]
    raw += [request("POST", "/v3/auth/tokens", JSON, "Content-Length: 9999999"), request("GET", "/" + "x" * 9000)]
    before = written(proxied.home)
    for at in NAMES:
        member = proxied.members[at]
        with Client(member) as client:
            for number in range(times):
                statuses = bad_requests(client, number, marker)
                assert statuses == [401, 401, 400, 401, 401, 404, 400, 405]
                asked += len(statuses)
        for data in raw * 10:
            assert refused(send(member, data), 400, 413, 414, 431)
            asked += 1
    after = written(proxied.home)
    assert len(after) - len(before) < 3 * asked, "bytes of log for each request"
    assert marker not in after
    assert "Traceback" not in after


# --- XML

ENTITIES = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e SYSTEM "file:///etc/passwd">]><auth>&d;&e;</auth>"""
PARSERS = {"xml", "lxml", "defusedxml", "saml2", "pysaml2", "xmlsec", "signxml", "html", "bs4"}


@row("SEC-91", "no XML is read, whatever it is called", UNKNOWN)
def test_sec_91_no_xml_is_read(regions):
    """What is never parsed expands nothing; SAML, which needs it, comes with rows of its own."""
    token = f"X-Auth-Token: {regions.admin}"
    routes = ("/v3/auth/tokens", "/v3/users", "/v3/OS-FEDERATION/saml2/metadata", "/v3/auth/OS-FEDERATION/saml2/ecp")
    for at in NAMES:
        member = regions.members[at]
        for kind in ("application/xml", "text/xml", "application/soap+xml", "application/json", "*/*"):
            for path in routes:
                data = request("POST", path, f"Content-Type: {kind}", token, body=ENTITIES)
                answer = send(member, data)
                assert refused(answer, 400, 404)
                assert "root:" not in str(answer.body)
                assert "bbbbbbbbbb" not in str(answer.body)
        answer = send(member, request("GET", "/v3/regions", token, "Accept: application/xml, text/xml"))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    read_by = {
        f"{path.name}: {name}"
        for package in ("regional_keystone", "controller")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
        if name.partition(".")[0] in PARSERS
    }
    assert read_by == set()


def imported(node):
    """The modules that a statement imports."""
    match node:
        case ast.Import(names=names):
            return [one.name for one in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
    return []


# --- headers

HEADERS = (
    "Accept",
    "Accept-Encoding",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization",
    "Connection",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "OpenStack-Identity-Access-Rules",
    "Origin",
    "Range",
    "User-Agent",
    "X-Auth-Token",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Forwarded-Proto",
    "X-RK-Position",
    "X-Subject-Token",
)
HOSTILE = (
    "a," * 4000,
    "a/b;q=" * 1300,
    ";q=0.1" * 1300,
    "for=" * 2000,
    "for=a;by=" * 880,
    'for="' * 1600,
    "for=" + " " * 7900 + '"',
    "for" + " " * 7900 + ";",
    "(" * 8000,
    "\\" * 8000,
    '"' * 8000,
    "1" * 8000,
    "1." * 4000,
    "a" + " " * 7990 + "b",
    " a" * 4000,
    "\t " * 4000 + "x",
    "a.b-" * 2000,
    "/a" * 4000,
    "[" + "::" * 3900 + "]",
    "=" * 8000,
    "gAAAA" * 1600,
    "é" * 4000,
)
ALONE = {"Connection", "Content-Encoding", "Expect", "Host", "X-Auth-Token", "X-RK-Position", "X-Subject-Token"}
PATHS = ("/v3/auth/tokens", "/v3", "/healthcheck", "/v3/nothing")


@alone
@row("SEC-92", "values that make a reader of headers go back and forth cost what plain ones cost", UNKNOWN)
@pytest.mark.parametrize("at", NAMES)
def test_sec_92_hostile_headers_cost_no_more(proxied, at):
    """Compared by what the processes compute, which a busy machine does not change, and with room: backtracking over
    eight kilobytes would cost thousands of times as much. Longer ones are not read at all."""
    member = proxied.members[at]

    def cost(name, values):
        before = ticks(proxied.home)
        for value in values:
            for path in PATHS:
                method = "OPTIONS" if name.startswith(("Origin", "Access-Control")) else "GET"
                host = {"host": value} if name == "Host" else {}
                extra = () if name == "Host" else (f"{name}: {value}",) * (1 if name in ALONE else 8)
                origin = ("Origin: https://a.example",) if name.startswith("Access-Control") else ()
                answer = asked(member, request(method, path, *origin, *extra, **host))
                assert answer < 500, (name, value[:20], path)
        return ticks(proxied.home) - before

    plain = max(cost("X-Nothing", ["x" * 8000] * len(HOSTILE)), 10)
    for name in HEADERS:
        assert cost(name, HOSTILE) <= 4 * plain + 20, name
        assert refused(send(member, request("GET", "/v3", f"{name}: {'a,' * 32_768}")), 431, 400)


def asked(member, data):
    """The status of an answer, of whatever kind it is."""
    with socket.create_connection((HOST, member.port), PATIENCE_S) as connection:
        connection.sendall(data)
        begun = connection.recv(16, socket.MSG_WAITALL)
    return int(begun.split()[1])
