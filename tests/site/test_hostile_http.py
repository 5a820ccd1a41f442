"""What bad input gets, over the wire: a refusal in Keystone's words or a plain close, never a failure."""

import asyncio
import gzip
import os
import time
from pathlib import Path

import pytest

from regional_keystone.web import Limits
from tests.site.wire import QUICK, Verdicts, ask, converse, read_answer, request, served, validate


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


REFUSED = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "rubbish": (b"hello\r\n\r\n", 400),
    "no version": (b"GET /v3\r\n\r\n", 400),
    "a version that is none": (b"GET /v3 HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    "unknown method": (b"BREW /v3 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case method": (b"get /v3 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET /v3 HTTP/1.1\r\n\r\n", 400),
    "two hosts": (request("GET", "/v3", "Host: b"), 400),
    "connect": (b"CONNECT site:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare LF": (b"GET /v3 HTTP/1.1\nHost: a\n\n", 400),
    "folded": (request("GET", "/v3", "X-A: 1\r\n 2"), 400),
    "NUL in a header": (request("GET", "/v3", "X-A: \x00"), 400),
    "DEL in a header": (request("GET", "/v3", "X-A: \x7f"), 400),
    "NUL in the path": (b"GET /v3/\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in a header's name": (request("GET", "/v3", "X A: 1"), 400),
    "no colon": (request("GET", "/v3", "XA"), 400),
    "CL and TE": (request("POST", "/v3/users", "Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n", 400),
    "TE twice": (request("POST", "/v3/users", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 400),
    "unknown TE": (request("POST", "/v3/users", "Transfer-Encoding: gzip"), 400),
    "two lengths": (request("POST", "/v3/users", "Content-Length: 2", "Content-Length: 3") + b"{} ", 400),
    "signed length": (request("POST", "/v3/users", "Content-Length: +2") + b"{}", 400),
    "negative length": (request("POST", "/v3/users", "Content-Length: -2") + b"{}", 400),
    "huge length": (request("POST", "/v3/users", "Content-Length: " + "9" * 40), 400),
    "big length": (request("POST", "/v3/users", "Content-Length: 999999999999"), 413),
    "bad chunk": (request("POST", "/v3/users", "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "endless chunk": (request("POST", "/v3/users", "Transfer-Encoding: chunked") + b"f" * 20 + b"\r\n", 400),
    "long URL": (request("GET", "/v3/" + "x" * 9000), 414),
    "long header": (request("GET", "/v3", "X-A: " + "x" * 9000), 431),
    "long header name": (request("GET", "/v3", "X" * 9000 + ": 1"), 431),
    "many headers": (request("GET", "/v3", *(f"X-{n}: 1" for n in range(100))), 431),
    "gzip": (request("POST", "/v3/users", "Content-Encoding: gzip", body=gzip.compress(b"{}")), 400),
    "unknown encoding": (request("POST", "/v3/users", "Content-Encoding: br", body=b"{}"), 400),
    "deep JSON": (request("POST", "/v3/users", body=b"[" * 50_000), 400),
    "no JSON": (request("POST", "/v3/users", body=b"\xff\xfe{"), 400),
    "unknown route": (request("GET", "/v3/nothing"), 404),
    "percent in the path": (request("GET", "/v3/%zz%00%ff%0d%0a"), 404),
    "percent in the query": (request("GET", "/v3/x?a=%zz&%ff=%00&" + "&".join("b" * 500)), 404),
    "many cookies": (request("GET", "/v3/x", "Cookie: " + "a=b;" * 1500), 404),
    "bad cookie": (request("GET", "/v3/x", "Cookie: \xe9=[;;;="), 404),
    "odd bytes in a header": (request("GET", "/v3/x").replace(b"Host", b"X-A: \xff\xfe\r\nHost"), 404),
    "odd bytes in a token": (validate("subject1").replace(b"subject1", b"\xff\xfe"), 401),
    "upgrade": (request("GET", "/v3/x", "Connection: upgrade", "Upgrade: websocket"), 404),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_it_is_refused_in_the_words_of_keystone(data, status, caplog):
    async with served(fast=Verdicts()) as site:
        got = await ask(site.port, data)
        assert got.status == status
        assert got.error["code"] == status
        assert set(got.error) == {"code", "message", "title"}
        assert got.headers["content-type"] == "application/json"
        assert got.headers["server"] == "regional-keystone"
        assert (await ask(site.port, request())).status == 200
    assert caplog.text == ""


async def test_slow_heads_end_in_time_and_disturb_nobody():
    slow = Limits(header_s=0.6, connections_per_peer=1000)
    async with served(fast=Verdicts(), limits=slow) as site:
        crawling = []
        for n in range(500):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(validate("subject1")[: 1 + n % 200])
            crawling.append((reader, writer))
        took = []
        for n in range(100):
            began = time.perf_counter()
            assert (await ask(site.port, validate(f"subject{n}"))).status == 200
            took.append(time.perf_counter() - began)
        assert sorted(took)[50] < 0.05
        for reader, writer in crawling:
            got = await asyncio.wait_for(read_answer(reader), 5)
            assert got.status in {408, 400}
            assert await reader.read() == b""
            writer.close()


async def test_a_head_that_comes_byte_by_byte_does_not_buy_time():
    async with served(fast=Verdicts()) as site:
        data = b"GET /v3/echo HTTP/1.1\r\nHost: a\r\n" + b"X-A: 1\r\n" * 3
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        began = time.perf_counter()
        reading = asyncio.create_task(read_answer(reader))
        for byte in data:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.03)
            if reading.done():
                break
        assert (await reading).status == 408
        assert time.perf_counter() - began < QUICK.header_s + 0.3
        writer.close()


async def test_the_second_head_of_a_connection_has_no_more_time_than_the_first():
    async with served(fast=Verdicts()) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for first in (request(), validate("subject1")):
            writer.write(first)
            assert (await read_answer(reader)).status == 200
        writer.write(b"GET /v3/echo HT")
        assert (await asyncio.wait_for(read_answer(reader), 2)).status == 408
        writer.close()


async def test_a_slow_body_ends_in_time():
    async with served() as site:
        for head in ("Content-Length: 100", "Transfer-Encoding: chunked"):
            got = await ask(site.port, request("POST", "/v3/users", head))
            assert got.status == 408
            assert got.error["code"] == 408
            assert got.headers["connection"] == "close"


async def test_a_client_that_does_not_read_is_let_go():
    async with served(fast=Verdicts(), limits=Limits(send_s=0.3, connections_per_peer=9)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
        writer.transport.pause_reading()
        del reader
        for _ in range(3000):
            writer.write(request("POST", "/v3/echo", body=b"x" * 4000))
            if writer.is_closing():
                break
            await asyncio.sleep(0)
        for _ in range(60):
            await asyncio.sleep(0.05)
            if not site.open:
                break
        assert site.open == 0
        writer.transport.abort()


@pytest.mark.parametrize("chunked", [False, True])
async def test_many_big_bodies_do_not_fill_memory(chunked):
    async with served(limits=Limits(linger_s=0.2, connections_per_peer=1000)) as site:
        await ask(site.port, request())
        head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 4000000"
        start = request("POST", "/v3/users", head) + (b"3d0900\r\n" if chunked else b"")
        piece, before = b"x" * 50_000, resident_bytes()

        async def pour():
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(start)
            try:
                for _ in range(4):
                    writer.write(piece)
                    await writer.drain()
                assert (await asyncio.wait_for(read_answer(reader), 10)).status == 413
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            writer.transport.abort()

        pouring = [asyncio.create_task(pour()) for _ in range(200)]
        await asyncio.wait(pouring)
        assert all(task.exception() is None for task in pouring)
        assert resident_bytes() - before < 64 * 2**20  # 16 MiB of it may be the server's, the clients live here too
        assert not [seen for seen in site.api.seen if seen.body]


async def test_chunks_of_one_byte_are_one_body():
    data = request("POST", "/v3/users", "Transfer-Encoding: chunked") + b"1\r\n \r\n" * 5000 + b"2\r\n{}\r\n0\r\n\r\n"
    async with served() as site:
        assert (await ask(site.port, data)).status == 200
        assert len(site.api.seen[0].body) == 5002


async def test_a_gzip_bomb_is_never_unpacked():
    bomb = gzip.compress(b"\x00" * 50_000_000)
    async with served() as site:
        before = resident_bytes()
        assert (await ask(site.port, request("POST", "/v3/users", "Content-Encoding: gzip", body=bomb))).status == 400
        assert resident_bytes() - before < 2**24
        assert not site.api.seen


async def test_large_bodies_that_never_end_hold_up_only_each_other():
    large = request("POST", "/v3/echo", "Transfer-Encoding: chunked") + b"a000\r\n" + b"x" * 0xA000 + b"\r\n"
    async with served(limits=Limits(body_s=2, connections_per_peer=99)) as site:
        endless = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(40)]
        for _, writer in endless:
            writer.write(large)
        await asyncio.sleep(0.3)
        assert (await ask(site.port, request("POST", "/v3/echo", body=b"{}"))).status == 200
        last = asyncio.create_task(ask(site.port, large + b"0\r\n\r\n"))
        await asyncio.sleep(0.3)
        assert not last.done()
        for _, writer in endless:
            writer.close()
        assert (await asyncio.wait_for(last, 1)).status == 200


async def test_a_bad_chunk_is_refused_at_once():
    async with served(limits=Limits(body_s=30)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request("POST", "/v3/users", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        assert (await asyncio.wait_for(read_answer(reader), 3)).status == 400
        writer.close()


async def test_many_pipelined_requests_are_answered_in_order():
    async with served(fast=Verdicts()) as site:
        asked = b"".join(validate(f"subject{n}") for n in range(300))
        answers = await converse(site.port, [asked, request("GET", "/v3/echo", "Connection: close")])
        places = [answers.index(b"X-Subject-Token: subject%d\r\n" % n) for n in range(300)]
        assert places == sorted(places)
        assert answers.count(b"HTTP/1.1 200") == 301


async def test_a_header_in_an_answer_cannot_be_split():
    async with served(fast=Verdicts()) as site:
        got = await ask(site.port, validate("subject1\x0b"))
        assert got.status in {400, 200}
        assert "x-injected" not in got.headers


async def test_long_values_in_headers_cost_little():
    values = ["a," * 4000, ";q=" * 2500, "(" * 8000, "\\" * 8000, '"' * 8000, "1" * 8000, " " * 8000 + "x"]
    names = ["Accept", "Host", "Cookie", "Content-Type", "X-Forwarded-For", "X-Forwarded-Host", "X-RK-Position"]
    async with served(fast=Verdicts(), trusted_proxies=["127.0.0.1"]) as site:
        for name in names:
            for value in values:
                began = time.process_time()
                got = await ask(site.port, request("GET", "/v3/x", f"{name}: {value}"))
                assert got.status in {400, 404, 431}
                assert time.process_time() - began < 0.05
