"""HTTP as clients see it, over the wire."""

import asyncio
import logging

import msgspec
import pytest

from regional_keystone import front
from regional_keystone.metrics import Metrics
from regional_keystone.settings import Cors
from regional_keystone.web import Limits, admin_app
from tests.site.wire import QUICK, Small, ask, read_answer, request, served, unnamed


async def echo(site, *headers, path="/v3/echo", method="POST", body=b"", host="site"):
    got = await ask(site.port, request(method, path, *headers, body=body, host=host))
    assert got.status == 200, got
    return msgspec.json.decode(got.body)


async def test_a_request_reaches_the_api_as_it_was_meant():
    async with served() as site:
        said = await echo(site, "X-Thing: one", "x-thing: two", path="/v3/echo/?a=1&b=%20x&c&a=2", body=b"{}")
    assert said["method"] == "POST"
    assert said["path"] == "/v3/echo"
    assert said["query"] == [["a", "1"], ["b", " x"], ["c", ""], ["a", "2"]]
    assert said["headers"]["x-thing"] == "one, two"
    assert said["peer"] == "127.0.0.1"
    assert said["base_url"] == "http://site"
    assert unnamed(said["id"].encode()) == b"req"


@pytest.mark.parametrize("path", ["/v3/echo", "/v3/echo/", "/v3/echo//", "/v3/ech%6F", "http://other/v3/echo"])
async def test_slashes_at_the_end_and_spellings_of_a_path_do_not_count(path):
    async with served() as site:
        assert (await echo(site, path=path))["path"] == "/v3/echo"


async def test_a_client_cannot_choose_the_id_of_its_transaction():
    async with served() as site:
        wanted = "req-00000000-0000-4000-8000-000000000000"
        assert (await echo(site, f"X-Openstack-Request-Id: {wanted}"))["id"] != wanted


async def test_identity_headers_reach_nobody_as_identity():
    async with served() as site:
        spoofed = ("X-Roles: admin", "X-User-Id: admin", "X-Is-Admin-Project: True", "Remote-User: admin")
        got = await ask(site.port, request("GET", "/v3/auth/tokens", *spoofed, "X-Identity-Status: Confirmed"))
    assert got.status == 401
    assert got.headers["www-authenticate"] == 'Keystone uri="http://site/v3"'
    assert got.error["title"] == "Unauthorized"


@pytest.mark.parametrize("name", ["X-Auth-Token", "X-Subject-Token", "Host", "X-RK-Position"])
async def test_a_header_that_decides_must_not_be_there_twice(name):
    async with served() as site:
        got = await ask(site.port, request("GET", "/v3/echo", f"{name}: 1", f"{name.lower()}: 1"))
        assert got.status == 400
        assert got.error["code"] == 400
        assert not site.api.seen


async def test_forwarded_headers_count_only_from_a_trusted_proxy():
    said = ("X-Forwarded-Proto: https", "X-Forwarded-Host: id.example:5000", "X-Forwarded-Prefix: /identity")
    chain = "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 127.0.0.9"
    async with served() as site:
        assert (await echo(site, *said, chain))["base_url"] == "http://site"
    async with served(trusted_proxies=["127.0.0.0/8"]) as site:
        found = await echo(site, *said, chain)
        assert found["base_url"] == "https://id.example:5000/identity"
        assert found["peer"] == "192.0.2.7"
        found = await echo(site, "X-Forwarded-Proto: javascript", "X-Forwarded-Host: a b", "X-Forwarded-For: rubbish")
        assert (found["base_url"], found["peer"]) == ("http://site", "127.0.0.1")
    async with served(public_endpoint="https://public.example/", trusted_proxies=["127.0.0.1/32"]) as site:
        assert (await echo(site, *said))["base_url"] == "https://public.example"


@pytest.mark.parametrize(
    ("said", "base", "peer"),
    [
        ("for=192.0.2.7;proto=https;host=id.example", "https://id.example", "192.0.2.7"),
        ('for="[2001:db8::1]:4711";Proto=https', "https://site", "2001:db8::1"),
        ("for=6.6.6.6;host=evil, for=192.0.2.7:80;host=id.example:5000", "http://id.example:5000", "192.0.2.7"),
        ("for=192.0.2.7, for=127.0.0.9", "http://site", "192.0.2.7"),
        ("for=_hidden;proto=javascript;host=a b", "http://site", "127.0.0.1"),
        (";;=,", "http://site", "127.0.0.1"),
    ],
)
async def test_the_standard_header_of_a_trusted_proxy_counts_too(said, base, peer):
    async with served(trusted_proxies=["127.0.0.0/8"]) as site:
        found = await echo(site, f"Forwarded: {said}")
        assert (found["base_url"], found["peer"]) == (base, peer)
    async with served() as site:
        assert (await echo(site, f"Forwarded: {said}"))["base_url"] == "http://site"


async def test_a_proxy_that_says_it_the_old_way_passes_on_what_a_client_says_the_new_way():
    async with served(trusted_proxies=["127.0.0.0/8"]) as site:
        found = await echo(site, "X-Forwarded-For: 192.0.2.7", "Forwarded: for=6.6.6.6;host=evil.example")
        assert (found["base_url"], found["peer"]) == ("http://site", "192.0.2.7")


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", 'a"><script>', "", "a:b", "a" * 300])
async def test_a_malformed_host_is_refused(host):
    async with served() as site:
        assert (await ask(site.port, request(host=host))).status == 400


async def test_a_read_waits_for_the_position_that_the_client_knows():
    waited = []

    async def wait(wanted, peer):
        waited.append((*wanted, peer))
        if wanted.position > 900:
            await asyncio.sleep(60)

    async with served(wait=wait) as site:
        assert (await ask(site.port, request("GET", "/v3/echo", "X-RK-Position: 812"))).status == 200
        late = await ask(site.port, request("GET", "/v3/echo", "X-RK-Position: 901"))
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        for wrong in ("-1", "x", "1.0", "", "9" * 19, "²"):
            assert (await ask(site.port, request("GET", "/v3/echo", f"X-RK-Position: {wrong}"))).status == 400
        assert (await ask(site.port, request("GET", "/v3/echo", "X-RK-Position: 8+7@RegionOne/ab"))).status == 200
        assert waited == [(812, 0, "", "127.0.0.1"), (901, 0, "", "127.0.0.1"), (8, 7, "RegionOne/ab", "127.0.0.1")]


async def test_an_answer_says_where_its_change_stands():
    async with served() as site:
        got = await ask(site.port, request("POST", "/v3/change", body=b"{}"))
        assert (got.status, got.headers["x-rk-position"]) == (201, "812")
        assert "x-rk-position" not in (await ask(site.port, request())).headers


async def test_every_answer_has_an_id_a_length_and_no_version_of_the_server():
    async with served() as site:
        for path in ("/v3/echo", "/v3/nothing", "/healthcheck"):
            got = await ask(site.port, request("GET", path))
            assert unnamed(got.headers["x-openstack-request-id"].encode()) == b"req"
            assert got.headers["server"] == "regional-keystone"
            assert "content-length" in got.headers
            assert got.headers.get("vary") == (None if path == "/healthcheck" else "X-Auth-Token")


async def test_health_is_answered_as_upstream_answers_it():
    async with served() as site:
        for path in ("/healthcheck", "/healthcheck/", "/healthcheck/x", "/healthcheck?x=1"):
            got = await ask(site.port, request("GET", path))
            assert (got.status, got.headers["content-type"], got.body) == (200, "text/plain; charset=UTF-8", b"")
        assert (await ask(site.port, request("POST", "/healthcheck", body=b"x"))).status == 200
        assert (await ask(site.port, request("HEAD", "/healthcheck"), head=True)).status == 204
        assert not site.api.seen


@pytest.mark.parametrize(
    ("accept", "kind", "length"),
    [
        ("application/json", "application/json", 44),
        ("text/html", "text/html; charset=UTF-8", 211),
        ("*/*", "text/plain; charset=UTF-8", 0),
        ("image/png", "text/plain; charset=UTF-8", 0),
        ("text/html;q=0.1, application/*", "application/json", 44),
    ],
)
async def test_health_is_told_in_the_form_that_is_asked(accept, kind, length):
    async with served() as site:
        got = await ask(site.port, request("GET", "/healthcheck", f"Accept: {accept}"))
        assert (got.headers["content-type"], len(got.body)) == (kind, length)


PAGE = "https://horizon.example.com"
CORS = Cors(
    allowed_origin=(PAGE,),
    expose_headers=("X-Subject-Token", "X-Openstack-Request-Id"),
    allow_methods=("GET", "PUT"),
    allow_headers=("X-Auth-Token",),
)


def told(got):
    return {name: value for name, value in got.headers.items() if name.startswith("access-control")}


async def test_pages_of_other_origins_are_told_nothing_unless_they_are_named():
    async with served() as site:
        assert told(await ask(site.port, request("GET", "/v3/echo", f"Origin: {PAGE}"))) == {}
    async with served(cors=CORS) as site:
        for origin in ("https://evil.example.com", f"{PAGE}.evil.example", "null", ""):
            got = await ask(site.port, request("GET", "/v3/echo", f"Origin: {origin}"))
            assert (told(got), got.headers["vary"]) == ({}, "X-Auth-Token")
        assert told(await ask(site.port, request("GET", "/v3/echo"))) == {}


async def test_a_page_of_a_named_origin_may_read_what_is_exposed():
    async with served(cors=CORS) as site:
        for path, status in (("/v3/echo", 200), ("/v3/nothing", 404)):
            got = await ask(site.port, request("GET", path, f"Origin: {PAGE}"))
            assert (got.status, got.headers["vary"]) == (status, "X-Auth-Token,Origin")
            assert told(got) == {
                "access-control-allow-origin": PAGE,
                "access-control-allow-credentials": "true",
                "access-control-expose-headers": "X-Subject-Token,X-Openstack-Request-Id",
            }
        got = await ask(site.port, request("GET", "/healthcheck", f"Origin: {PAGE}"))
        assert (got.headers["vary"], told(got)["access-control-allow-origin"]) == ("Origin", PAGE)
    async with served(cors=Cors(allowed_origin=("*",), allow_credentials=False, expose_headers=())) as site:
        got = await ask(site.port, request("GET", "/v3/echo", "Origin: https://any.example"))
        assert told(got) == {"access-control-allow-origin": "*"}


@pytest.mark.parametrize(
    ("method", "wanted", "allowed"),
    [
        ("PUT", "x-auth-token, Content-Type", True),
        ("GET", "", True),
        ("DELETE", "", False),
        ("put", "", False),
        ("PUT", "X-Other", False),
    ],
)
async def test_what_a_page_announces_is_allowed_or_not(method, wanted, allowed):
    asked = (f"Origin: {PAGE}", f"Access-Control-Request-Method: {method}")
    asked += (f"Access-Control-Request-Headers: {wanted}",) if wanted else ()
    async with served(cors=CORS) as site:
        for path in ("/v3/echo", "/v3/nothing"):
            got = await ask(site.port, request("OPTIONS", path, *asked))
            assert got.status == 200
            assert told(got).get("access-control-allow-methods") == (method if allowed else None)
            assert ("access-control-allow-origin" in told(got)) is allowed
            assert got.headers["vary"] == ("Origin" if allowed else "X-Auth-Token")
            if allowed and wanted:
                assert told(got)["access-control-allow-headers"] == "x-auth-token,Content-Type"


async def test_options_of_what_is_not_there_is_answered_as_upstream_answers_it():
    async with served() as site:
        got = await ask(site.port, request("OPTIONS", "/v3/nothing"))
        assert (got.status, got.body) == (200, b"")


async def test_head_has_the_length_of_get_and_no_body():
    async with served() as site:
        tokens = ("X-Auth-Token: caller", "X-Subject-Token: subject1")
        got = await ask(site.port, request("GET", "/v3/auth/tokens", *tokens))
        head = await ask(site.port, request("HEAD", "/v3/auth/tokens", *tokens), head=True)
        assert unnamed(got.raw).startswith(unnamed(head.raw))
        assert head.headers["content-length"] == str(len(got.body))


async def test_an_unexpected_failure_tells_nothing(capsys):
    async with served() as site:
        got = await ask(site.port, request("GET", "/v3/broken"))
    assert got.status == 500
    assert b"secret" not in got.raw
    assert b"Traceback" not in got.raw
    said = capsys.readouterr()
    assert "answer_failed" in said.out + said.err
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize("size", [112 * 1024, 112 * 1024 + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_may_have_112_kib(size, chunked):
    body = b'"' + b"x" * (size - 2) + b'"'
    data = request("POST", "/v3/users", body=body)
    if chunked:
        parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[n : n + 9000] for n in range(0, size, 9000)))
        data = request("POST", "/v3/users", "Transfer-Encoding: chunked") + parts + b"0\r\n\r\n"
    async with served() as site:
        got = await ask(site.port, data)
    assert got.status == (200 if size <= 112 * 1024 else 413)
    if got.status == 413:
        assert got.error["code"] == 413


async def test_expect_continue_is_answered_only_for_a_body_that_is_wanted():
    async with served() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v3/users HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await read_answer(reader)).status == 200
        writer.close()
        big = b"POST /v3/users HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 200000\r\n\r\n"
        assert (await ask(site.port, big)).status == 413
        odd = b"POST /v3/users HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n{}"
        assert (await ask(site.port, odd)).status == 400


async def test_requests_that_run_may_end_when_the_server_stops():
    async with served(Small(delay_s=0.3)) as site:
        asked = asyncio.create_task(ask(site.port, request()))
        idle, writer = await asyncio.open_connection("127.0.0.1", site.port)
        while not site.api.seen:
            await asyncio.sleep(0.01)
    assert (await asked).status == 200
    assert await idle.read() == b""
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", site.port)


async def test_a_port_that_is_taken_is_an_os_error():
    async with served() as site:
        with pytest.raises(OSError):
            await front.serve(site.web, "127.0.0.1", site.port)


async def test_connections_over_a_limit_are_told_so():
    async with served(limits=Limits(connections_per_peer=2)) as site:
        held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
        await asyncio.sleep(0.05)
        got = await ask(site.port, b"")
        assert (got.status, got.headers["retry-after"], got.headers["connection"]) == (503, "1", "close")
        held.pop()[1].close()
        await asyncio.sleep(0.05)
        assert (await ask(site.port, request())).status == 200
        held.pop()[1].close()
    async with served(limits=Limits(connections_per_peer=1), trusted_proxies=["127.0.0.1"]) as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        assert (await ask(site.port, request())).status == 200
        writer.close()


async def test_an_idle_connection_is_closed():
    async with served(limits=Limits(idle_s=0.3)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        assert await asyncio.wait_for(reader.read(), 3) == b""
        writer.close()


async def test_a_client_that_goes_away_leaves_nothing(caplog):
    caplog.set_level(logging.DEBUG)
    async with served(Small(delay_s=0.05), limits=QUICK) as site:
        for data in (request(), request("POST", body=b"x" * 100)[:-50], b"GET /v3"):
            _, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(data)
            await asyncio.sleep(0.02)
            writer.transport.abort()
        await asyncio.sleep(0.3)
        assert site.open == 0
        assert (await ask(site.port, request())).status == 200
    assert "Traceback" not in caplog.text


async def test_the_private_port():
    metrics, missing = Metrics(), ["catching up"]

    async def digest():
        return 812, "abc"

    app = admin_app(
        status=lambda: {"position": 812}, metrics=metrics, ready=lambda: missing[0] if missing else None, digest=digest
    )
    runner = await front.serve_private(app, "127.0.0.1", 0)
    port = runner.addresses[0][1]
    try:
        assert b"regional_keystone_build_info" in (await ask(port, request("GET", "/metrics"))).body
        assert (await ask(port, request("GET", "/livez"))).status == 200
        assert (await ask(port, request("GET", "/readyz"))).status == 503
        missing.clear()
        assert (await ask(port, request("GET", "/readyz"))).status == 200
        assert msgspec.json.decode((await ask(port, request("GET", "/status"))).body) == {"position": 812}
        got = await ask(port, request("GET", "/digest"))
        assert msgspec.json.decode(got.body) == {"position": 812, "digest": "abc"}
        assert got.headers["server"] == "regional-keystone"
        assert (await ask(port, request("GET", "/nothing"))).error["code"] == 404
        assert (await ask(port, request("POST", "/status"))).error["code"] == 405
    finally:
        await runner.cleanup()
