"""Looking first changes nothing but the time it takes."""

import asyncio
import inspect
import random

import aiohttp
import pytest
from aiohttp import web_protocol
from aiohttp.http import HttpRequestParser, HttpVersion11, RawRequestMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from regional_keystone import front
from regional_keystone.web import Limits
from tests.site.wire import QUICK, Small, Verdicts, ask, converse, read_answer, request, served, unnamed, validate

END = request("GET", "/v3/echo", "Connection: close")
LIMITS = Limits(header_s=0.15, body_s=0.15, idle_s=1.0, linger_s=0.1, connections_per_peer=1000)


def test_aiohttp_is_the_one_that_front_knows():
    assert aiohttp.__version__.startswith("3.14."), "read web_protocol.RequestHandler again before raising this"
    assert HttpRequestParser.__module__ == "aiohttp._http_parser"
    slots = web_protocol.RequestHandler.__slots__
    assert {"_waiter", "_messages", "_next_keepalive_close_time", "_keepalive_timeout"} <= set(slots)
    start = inspect.getsource(web_protocol.RequestHandler.start)
    assert "if not self._messages:" in start
    assert "self._waiter = loop.create_future()" in start
    assert "self._next_keepalive_close_time" in inspect.getsource(web_protocol.RequestHandler._process_keepalive)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("query", ["", "?nocatalog"])
async def test_the_short_road_answers_byte_for_byte_as_the_long_one(method, query):
    fast = Verdicts()
    async with served(fast=fast) as short, served() as long:
        data = validate("subject1", method=method, query=query)
        one = await ask(short.port, data, head=method == "HEAD")
        two = await ask(long.port, data, head=method == "HEAD")
        assert unnamed(one.raw) == unnamed(two.raw)
        assert one.headers["x-openstack-request-id"] != two.headers["x-openstack-request-id"]
        assert (fast.asked, short.api.seen, len(long.api.seen)) == (1, [], 1)


PASSED_ON = {
    "other path": request("GET", "/v3/echo"),
    "other query": validate("subject1", query="?allow_expired=1"),
    "another spelling of the query": validate("subject1", query="?nocatalog=1"),
    "query given twice": validate("subject1", query="?nocatalog&nocatalog"),
    "slash at the end": validate("subject1").replace(b"/v3/auth/tokens ", b"/v3/auth/tokens/ "),
    "unknown header": validate("subject1", "X-Anything: 1"),
    "position": validate("subject1", "X-RK-Position: 1"),
    "body": validate("subject1", "Content-Length: 2") + b"{}",
    "empty body": validate("subject1", "Content-Length: 0"),
    "expect": validate("subject1", "Expect: 100-continue"),
    "upgrade": validate("subject1", "Upgrade: websocket"),
    "two callers": validate("subject1", "X-Auth-Token: caller"),
    "two subjects": validate("subject1", "x-subject-token: subject2"),
    "no subject": validate("subject1").replace(b"X-Subject-Token: subject1\r\n", b""),
    "no caller": validate("subject1").replace(b"X-Auth-Token: caller\r\n", b""),
    "no host": validate("subject1").replace(b"Host: site\r\n", b""),
    "bad host": validate("subject1").replace(b"Host: site", b"Host: a b"),
    "two hosts": validate("subject1", "Host: site"),
    "padded token": validate("subject1="),
    "non-ASCII": validate("subject1").replace(b"keystoneclient", b"\xc3\xa9"),
    "NUL": validate("subject1").replace(b"keystoneclient", b"\x00"),
    "tab": validate("subject1").replace(b"X-Auth-Token: ", b"X-Auth-Token:\t"),
    "folded": validate("subject1").replace(b"Accept: application/json", b"Accept: application\r\n /json"),
    "bare LF": validate("subject1").replace(b"\r\n", b"\n"),
    "one bare LF": validate("subject1").replace(b"Accept: application/json\r\n", b"Accept: application/json\n"),
    "bare CR": validate("subject1").replace(b"application/json", b"application\r/json"),
    "space before colon": validate("subject1").replace(b"X-Auth-Token:", b"X-Auth-Token :"),
    "CL and TE": validate("subject1", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "TE": validate("subject1", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "odd TE": validate("subject1", "Transfer-Encoding: xchunked"),
    "absolute": validate("subject1").replace(b"GET /v3", b"GET http://site/v3"),
    "lower-case method": validate("subject1").replace(b"GET", b"get"),
    "HTTP/1.0": validate("subject1").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.2": validate("subject1").replace(b"HTTP/1.1", b"HTTP/1.2"),
    "two spaces": validate("subject1").replace(b"GET ", b"GET  "),
    "line before": b"\r\n" + validate("subject1"),
    "close": validate("subject1").replace(b"keep-alive", b"close"),
    "unknown verdict": validate("stranger"),
    "too long": validate("subject1" + "x" * 9000),
}


@pytest.mark.parametrize("data", PASSED_ON.values(), ids=PASSED_ON)
async def test_anything_that_is_not_plain_is_answered_as_without_front(data):
    fast = Verdicts()
    async with served(fast=fast, limits=LIMITS) as short, served(limits=LIMITS) as long:
        one, two = await asyncio.gather(converse(short.port, [data, END]), converse(long.port, [data, END]))
        assert unnamed(one).replace(b"%d" % short.port, b"") == unnamed(two).replace(b"%d" % long.port, b"")
        assert one.startswith(b"HTTP/1.")
        assert fast.asked == (1 if b"stranger" in data else 0)


async def test_known_headers_of_clients_keep_to_the_short_road():
    fast = Verdicts()
    async with served(fast=fast) as site:
        data = request("GET", "/v3/auth/tokens", "x-auth-token:caller", "X-SUBJECT-TOKEN:  subject1 ", "accept: */*")
        assert (await ask(site.port, data)).status == 200
        assert (fast.asked, site.api.seen) == (1, [])


async def test_one_connection_changes_roads_as_it_likes():
    fast = Verdicts()
    async with served(fast=fast) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for n in range(20):
            body = b'{"a":%d}' % n
            head = request("POST", "/v3/echo", f"Content-Length: {len(body)}")
            for piece in (head, body) if n % 2 else (head + body,):
                writer.write(piece)
                await asyncio.sleep(0.002)
            assert b"POST" in (await read_answer(reader)).body
            data = validate(f"subject{n}")
            for piece in (data[:50], data[50:]) if n % 3 == 0 else (data,):
                writer.write(piece)
                await asyncio.sleep(0.002)
            assert f"subject{n}" in (await read_answer(reader)).body.decode()
        writer.close()
        split = len([n for n in range(20) if n % 3 == 0])
        assert fast.asked == 20 - split
        assert site.web.metrics.requests_served == 40


async def test_an_answer_of_the_short_road_keeps_the_connection_open():
    async with served(fast=Verdicts(), limits=Limits(idle_s=0.5)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for n in range(5):
            await asyncio.sleep(0.25)
            writer.write(validate(f"subject{n}"))
            assert (await read_answer(reader)).status == 200
        assert await asyncio.wait_for(reader.read(), 3) == b""
        writer.close()


async def test_no_answer_overtakes_one_that_is_on_its_way():
    async with served(Small(delay_s=0.05), fast=Verdicts()) as site:
        first = request("POST", "/v3/echo", body=b"{}")
        for pieces in ([first + validate("subject1")], [first, validate("subject1")]):
            answers = await converse(site.port, [*pieces, END])
            assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
            assert answers.index(b"POST") < answers.index(b"subject1")


async def test_split_at_any_byte_it_is_one_request():
    data = validate("subject1")
    async with served(fast=Verdicts()) as site:
        whole = unnamed(await converse(site.port, [data, END]))
        cuts = range(1, len(data))
        for some in (cuts[n : n + 32] for n in range(0, len(cuts), 32)):
            pieces = [[data[:cut], data[cut:], END] for cut in some]
            for answers in await asyncio.gather(*(converse(site.port, each) for each in pieces)):
                assert len(unnamed(answers)) == len(whole)
                assert answers.count(b"HTTP/1.1 ") == 2


async def test_a_head_is_not_answered_before_it_has_ended():
    fast = Verdicts()
    data = validate("subject1", "X-Anything: 1", "X-More: 2")
    async with served(fast=fast) as site:
        pieces = [[data[:cut], data[cut:], END] for cut in range(len(data) - 40, len(data))]
        for answers in await asyncio.gather(*(converse(site.port, each) for each in pieces)):
            assert answers.count(b"HTTP/1.1 200") == 2
        assert fast.asked == 0


@pytest.mark.parametrize(
    "begun",
    [
        request("POST", "/v3/echo", "X-Thing: ")[:-4],
        request("POST", "/v3/echo")[:-2],
        b"POST /v3/echo?",
        request("POST", "/v3/echo", "Content-Length: 400"),
        request("POST", "/v3/echo", "Transfer-Encoding: chunked"),
        request("POST", "/v3/echo", "Transfer-Encoding: chunked") + b"fff\r\n",
        request() + b"POST /v3/echo HTTP/1.1\r\nX-Thing: ",
        request("POST", "/v3/echo", "Content-Length: 2") + b"{}POST /v3/echo HTTP/1.1\r\nX-Thing: ",
    ],
)
async def test_what_looks_like_a_request_inside_another_is_part_of_it(begun):
    fast = Verdicts()
    async with served(fast=fast, limits=LIMITS) as short, served(limits=LIMITS) as long:
        pieces = [begun, validate("subject1")]
        one, two = await asyncio.gather(converse(short.port, pieces), converse(long.port, pieces))
        assert unnamed(one).replace(b"%d" % short.port, b"") == unnamed(two).replace(b"%d" % long.port, b"")
        assert fast.asked == 0


@pytest.mark.parametrize(
    ("head", "length", "chunked", "upgrade", "rest"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "0", False, False, 0),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nab", "5", False, False, 3),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /", "0", False, False, -5),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "0", False, False, -27),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "0", False, False, -1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "0", True, False, -1),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "0", False, True, -1),
    ],
)
def test_where_a_request_ends_is_known_or_given_up(head, length, chunked, upgrade, rest):
    headers = CIMultiDictProxy(CIMultiDict({"Content-Length": length}))
    message = RawRequestMessage("GET", "/", HttpVersion11, headers, (), False, None, upgrade, chunked, URL("/"))
    assert front._rest(head, message) == rest
    assert front._rest(head, object()) == -1


async def test_answers_go_to_the_connection_that_asked():
    async with served(Small(delay_s=0.001), fast=Verdicts()) as site:

        async def client(n):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            lot = random.Random(n)
            for turn in range(20):
                subject = f"{lot.choice(['subject', 'stranger'])}{n}-{turn}"
                writer.write(
                    validate(subject) if lot.random() < 0.7 else request("POST", "/v3/echo", body=subject.encode())
                )
                if lot.random() < 0.05:
                    writer.transport.abort()
                    return
                got = await read_answer(reader)
                said = got.headers.get("x-subject-token", subject)
                assert said == subject
                assert got.status in {200, 401}
            writer.close()

        await asyncio.gather(*(client(n) for n in range(60)))


async def test_a_shape_that_was_read_never_hides_what_has_changed():
    """Heads that differ from the one before in one thing each, all on one connection."""
    changed = [
        validate("subject1"),
        validate("subject2"),
        validate("subject2", method="HEAD"),
        validate("subject2", query="?nocatalog"),
        validate("subject2", caller="stranger"),
        validate("caller"),
        validate("subject-self", caller="subject-self"),
        validate("subject-self", caller="subject2"),
        validate("subject3"),
        validate("subject3", caller="getter"),
        validate("subject3", caller="getter", method="HEAD"),
        validate("subject3", caller="header", method="HEAD"),
        validate("subject3", caller="header"),
        validate("subject3\r\nX-Thing: 1"),
        validate("subject3 x"),
        validate("subject3"),
        validate("subject3\r\nX-Auth-Token: stranger"),
    ]
    async with served(fast=Verdicts()) as short, served() as long:
        roads = [await asyncio.open_connection("127.0.0.1", site.port) for site in (short, long)]
        for data in changed:
            got = []
            for reader, writer in roads:
                writer.write(data)
                got.append(await read_answer(reader, head=data.startswith(b"HEAD")))
            assert unnamed(got[0].raw).replace(b"%d" % short.port, b"") == unnamed(got[1].raw).replace(
                b"%d" % long.port, b""
            )
        for _, writer in roads:
            writer.close()
        assert len(short.api.seen) < len(long.api.seen)


PIECES = [
    validate("subject1"),
    validate("subject2", method="HEAD"),
    validate("subject3", query="?nocatalog"),
    validate("stranger"),
    request("POST", "/v3/users", body=b'{"a": 1}'),
    request("POST", "/v3/users", "Transfer-Encoding: chunked") + b"3\r\n{ }\r\n0\r\n\r\n",
    request("POST", "/v3/users", "Content-Length: 30"),
    request("POST", "/v3/users", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\nX",
    b"\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"GET /v3/echo HTTP/1.1\r\nHost: site\r\n\r\n",
    *PASSED_ON.values(),
]


@st.composite
def conversations(draw):
    """Bytes of some requests, one byte of them perhaps changed, in pieces."""
    data = b"".join(draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.sampled_from([b"", b"\r\n", b"\n", b"\x00", b" ", b":", b"a"])) + data[at + 1 :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    if not draw(st.booleans()):
        cuts = [
            at for at in range(len(data)) if data[at : at + 4] in {b"GET ", b"POST", b"HEAD"} and draw(st.booleans())
        ]
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def test_whatever_comes_it_is_answered_as_without_front():
    async def check(pieces):
        async with served(fast=Verdicts(), limits=LIMITS) as short, served(limits=LIMITS) as long:
            both = await asyncio.gather(converse(short.port, [*pieces, END]), converse(long.port, [*pieces, END]))
            one, two = (unnamed(a).replace(b"%d" % s.port, b"") for a, s in zip(both, (short, long), strict=True))
            # a close over unread bytes may cost the last answer on the way, on either road
            assert one.startswith(two) or two.startswith(one), (one, two)
            assert b"HTTP/1.1 500" not in one
            assert b"<html" not in one.lower()

    with asyncio.Runner() as runner:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(conversations())
        def run(pieces):
            runner.run(check(pieces))

        run()


async def test_a_server_without_verdicts_takes_the_long_road():
    async with served(limits=QUICK) as site:
        assert (await ask(site.port, validate("subject1"))).status == 200
        assert len(site.api.seen) == 1
