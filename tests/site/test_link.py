"""The site's one stream: what is lost on it comes again, what comes twice counts once, and nothing waits for ever."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from regional_keystone import link
from regional_keystone.errors import Unavailable
from regional_keystone.log import Entry, put
from regional_keystone.messages import (
    Answer,
    Echo,
    Entries,
    Hello,
    Own,
    Refused,
    Request,
    Response,
    Rows,
    Welcome,
    at_controller,
    encode,
)
from regional_keystone.model import Condemned, Project
from regional_keystone.overlay import transact
from tests.cloud import eventually, free_port, project, running, wired


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as made:
        yield made


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
def site(cloud):
    return cloud.sites["RegionOne"]


@asynccontextmanager
async def instead(cloud, script):
    """A controller of the same federation that follows a script for each stream; the site is started anew with it."""
    controller, site = cloud.controller, cloud.sites["RegionOne"]
    streams = []

    async def stream(request):
        socket = web.WebSocketResponse(max_msg_size=2**23)
        await socket.prepare(request)
        hello = at_controller(await socket.receive_bytes())
        assert isinstance(hello, Hello)
        streams.append(hello)

        async def say(*messages):
            for message in messages:
                await socket.send_bytes(encode(message) if not isinstance(message, bytes) else message)

        await script(len(streams), hello, socket, say)
        return socket

    app = web.Application()
    app.add_routes([web.get("/stream/v1", stream)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    tls = controller.authority.serve(controller.directory / "authority", ["127.0.0.1"], controller.clock.now())
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    await site.stop()
    site.controllers = (f"https://127.0.0.1:{port}",)
    await site.start()
    try:
        yield streams
    finally:
        await site.stop()
        await runner.cleanup()
        site.controllers = None
        await site.start()


def welcome(cloud, **fields):
    return Welcome(**({"version": 1, "cluster": cloud.controller.authority.cluster, "head": 100} | fields))


def entry(number):
    return Entry(number, f"t{number}", 0, (put(project(f"p{number}")),))


async def listen(socket):
    async for _ in socket:
        pass


# ------------------------------------------------------------------------------------------------------ entries


async def test_a_gap_ends_the_stream_and_the_next_one_begins_where_the_site_stands(cloud, site):
    start = site.follower.position

    async def script(number, hello, socket, say):
        gap = 2 if number == 1 else 1
        await say(welcome(cloud), Entries((entry(hello.position + gap),), 100))
        await listen(socket)

    async with instead(cloud, script) as streams:
        await eventually(lambda: len(streams) == 2)
        await site.settled(start + 1)
        assert [hello.position for hello in streams] == [start, start]


async def test_entries_that_come_twice_or_in_another_order_change_nothing(cloud, site):
    start = site.follower.position

    async def script(number, hello, socket, say):
        first, second = entry(start + 1), entry(start + 2)
        await say(welcome(cloud), Entries((first,), 100), Entries((first, second), 100), Entries((first,), 100))
        await listen(socket)

    async with instead(cloud, script) as streams:
        await site.settled(start + 2)
        assert len(streams) == 1


@pytest.mark.parametrize(
    "first",
    [
        b"\xc1",
        encode(Echo(0.0, 1, 1)),
        encode(Welcome(1, "another", 1)),
        encode({"type": "future"}),
        encode(Entries((), 1)),
    ],
)
async def test_a_first_word_that_is_no_welcome_is_not_listened_to(cloud, site, first):
    async def script(number, hello, socket, say):
        await say(first, Echo(0.0, 1, 1))
        await listen(socket)

    async with instead(cloud, script) as streams:
        await eventually(lambda: len(streams) >= 2)
        assert site.follower.age_s() == float("inf")


async def test_a_message_of_the_future_is_passed_over(cloud, site):
    start = site.follower.position

    async def script(number, hello, socket, say):
        await say(welcome(cloud), encode({"type": "future", "x": 1}), Entries((entry(start + 1),), 100))
        await listen(socket)

    async with instead(cloud, script) as streams:
        await site.settled(start + 1)
        assert len(streams) == 1


# ----------------------------------------------------------------------------------------------------- snapshots


def rows(position, *numbers, last=False):
    changes = [put(project(f"s{number}")) for number in numbers]
    return Rows(position, tuple((one.table, one.key, one.row) for one in changes), last)


async def test_a_snapshot_that_is_cut_changes_nothing_and_comes_again(cloud, site):
    before = await site.digest()

    async def script(number, hello, socket, say):
        await say(welcome(cloud, snapshot=True), rows(90, 1, 2))
        if number > 1:
            await say(rows(90, 3, last=True), Entries((entry(91),), 100))
            await listen(socket)

    async with instead(cloud, script) as streams:
        await eventually(lambda: len(streams) >= 1)
        if len(streams) == 1:
            assert await site.digest() == before
        await site.settled(91)
        assert [one.id async for one in site.store.scan(Project)] == ["p91", "s1", "s2", "s3"]
        assert not any(task.done() for task in site.tasks)


async def test_a_snapshot_that_is_older_than_the_replica_is_refused(cloud, site):
    start = site.follower.position

    async def script(number, hello, socket, say):
        await say(welcome(cloud, snapshot=True), rows(start - 1, last=True))
        await listen(socket)

    async with instead(cloud, script) as streams:
        await eventually(lambda: len(streams) >= 2)
        assert site.follower.position == start
        assert await site.store.applied("log") == start


async def test_a_site_says_something_while_it_takes_in_a_long_snapshot(cloud, site, monkeypatch):
    monkeypatch.setattr(link, "PROBE_S", 0.05)
    probes = []

    async def script(number, hello, socket, say):
        await say(welcome(cloud, snapshot=True), rows(90, 1))
        for _ in range(4):
            probe = at_controller(await socket.receive_bytes(timeout=2))
            probes.append(probe)
            await say(Echo(probe.ticks, 90, probe.now))
        await say(rows(90, 2, last=True))
        await listen(socket)

    async with instead(cloud, script):
        await site.settled(90)
        assert len(probes) == 4


# ----------------------------------------------------------------------------------------------- silence and age


async def test_a_controller_that_says_nothing_is_left(cloud, site, monkeypatch):
    monkeypatch.setattr(link, "SILENCE_S", 0.4)
    monkeypatch.setattr(link, "PROBE_S", 0.1)
    async with wired(cloud, "RegionOne") as wire:
        await eventually(lambda: site.follower.age_s() < 1)
        wire.hold("down")
        await eventually(lambda: site.link.connected_since is None)
        assert site.follower.age_s() > 0.3
        before = site.link.reconnects
        wire.cut()
        wire.release()
        wire.mend()
        await eventually(lambda: site.link.reconnects > before and site.follower.age_s() < 0.3)


async def test_a_controller_that_takes_the_connection_and_never_answers_is_left(cloud, site, monkeypatch):
    monkeypatch.setattr(link, "SILENCE_S", 0.4)
    asked = []

    async def mute(reader, writer):
        asked.append(await reader.readline())
        await reader.read()
        writer.transport.abort()

    controller, port = cloud.controller, free_port()
    tls = controller.authority.serve(controller.directory / "authority", ["127.0.0.1"], controller.clock.now())
    async with await asyncio.start_server(mute, "127.0.0.1", port, ssl=tls):
        await site.stop()
        site.controllers = (f"https://127.0.0.1:{port}",)
        await site.start()
        await eventually(lambda: len(asked) > 1)
        await site.stop()
    assert asked[0].startswith(b"GET /stream/v1")


async def test_a_link_that_is_ended_in_the_moment_it_breaks_ends(cloud, site):
    breaks = asyncio.Event()

    async def session(controller):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broken())
            await asyncio.sleep(60)

    async def broken():
        await breaks.wait()
        asyncio.get_running_loop().call_soon(running.cancel)  # after the group has heard of it, before it has ended
        raise TimeoutError("the controller is silent")

    site.link._session = session
    running = asyncio.create_task(site.link.run())
    await asyncio.sleep(0)
    breaks.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(running), 2)


async def test_a_link_that_breaks_twice_in_one_moment_comes_back(site):
    """As it ends well, one of its tasks fails: before Python 3.13 that leaves a count of cancellations in the task."""
    sessions = 0

    async def session(controller):
        nonlocal sessions
        sessions += 1
        ended = asyncio.Event()

        async def broken():
            await ended.wait()
            await asyncio.sleep(0.01)
            raise ConnectionResetError("cannot write to a closing stream")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broken())
            ended.set()

    site.link._session = session
    running = asyncio.create_task(site.link.run())
    await eventually(lambda: sessions > 2 or running.done())
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 2)


async def test_when_one_controller_is_gone_the_next_is_tried(cloud, site):
    await site.stop()
    site.controllers = (f"https://127.0.0.1:{free_port()}", f"https://127.0.0.1:{cloud.controller.port}")
    await site.start()
    await eventually(lambda: site.link.connected_since is not None)


async def test_how_far_a_clock_is_ahead_is_known_but_for_the_time_on_the_way(cloud, site):
    async def script(number, hello, socket, say):
        await say(welcome(cloud))
        async for message in socket:
            said = at_controller(message.data)
            if hasattr(said, "ticks"):
                await say(Echo(said.ticks, 1, said.now - 90_000_000))

    assert site.follower.ahead_s() < 1
    async with instead(cloud, script):
        await eventually(lambda: site.follower.ahead_s() > 1)
        assert 85 < site.follower.ahead_s() < 90.1, "wall clock and ticks part by microseconds, the rest is on the way"


async def test_clocks_that_are_apart_are_said_so(cloud, site, capsys):
    async def script(number, hello, socket, say):
        await say(welcome(cloud))
        async for message in socket:
            said = at_controller(message.data)
            if hasattr(said, "ticks"):
                await say(Echo(said.ticks, 1, said.now + 60_000_000))

    async with instead(cloud, script):
        await eventually(lambda: site.link._apart)
    assert "clocks_apart" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ forwards


def counting(controller):
    """Answers each request by counting one up, and keeps the answer under the request's id."""

    async def answer(request):
        async def decide(reader):
            kept = await reader.get(Project, request.id)
            if kept is not None:
                return [], int(kept.description)
            old = await reader.get(Project, "counter")
            number = int(old.description) + 1 if old else 1
            return [
                put(project("counter", description=str(number)), old),
                put(project(request.id, description=str(number))),
            ], number

        number, _ = await transact(controller.overlay, controller.sequencer, f"r/{request.id}", decide)
        return Response(status=201, body=str(number).encode())

    return answer


def request(name):
    return Request(id=name, method="POST", path="/v3/projects")


async def test_without_a_stream_a_change_is_refused_at_once(cloud, site):
    await cloud.controller.stop()
    await eventually(lambda: site.link.connected_since is None)
    with pytest.raises(Unavailable) as refusal:
        await site.link.forward(request("r"))
    assert refusal.value.retry_after_s
    assert not site.link._waiting
    await cloud.controller.start()


async def test_a_region_that_was_removed_says_so_and_not_that_the_controller_is_away(cloud, site):
    async def script(number, hello, socket, say):
        await say(Refused("this site was removed", final=True))

    async with instead(cloud, script):
        await eventually(lambda: site.link.refused)
        with pytest.raises(Unavailable, match="this site was removed"):
            await site.link.forward(request("r"))


async def test_a_controller_that_stays_away_is_said_once_and_not_at_each_attempt(cloud, site, capsys):
    await site.stop()
    site.controllers = (f"https://127.0.0.1:{free_port()}",)
    capsys.readouterr()
    await site.start()
    await asyncio.sleep(1.5)
    await site.stop()
    assert capsys.readouterr().out.count("stream_lost") == 1
    site.controllers = None
    await site.start()
    await eventually(lambda: site.link.connected_since is not None)


async def test_a_forwarded_change_is_answered(cloud, site, controller):
    controller.replicator.answer = counting(controller)
    answers = await asyncio.gather(*(site.link.forward(request(f"r{number}")) for number in range(20)))
    assert sorted(int(one.body) for one in answers) == list(range(1, 21))
    assert not site.link._waiting


@pytest.mark.parametrize("held", ["up", "down"])
async def test_a_forward_whose_stream_breaks_is_sent_again_and_done_once(cloud, site, controller, held):
    controller.replicator.answer = counting(controller)
    async with wired(cloud, "RegionOne") as wire:
        wire.hold(held)  # lost on its way there, or the answer on its way back
        waiting = [asyncio.create_task(site.link.forward(request(f"r{number}"))) for number in range(5)]
        await asyncio.sleep(0.2)
        wire.cut()
        wire.release()
        wire.mend()
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 8)
    assert sorted(int(one.body) for one in answers) == [1, 2, 3, 4, 5]
    assert (await controller.overlay.get(Project, "counter")).description == "5"


async def test_a_forward_that_is_never_answered_ends_with_an_honest_word(cloud, site, controller, monkeypatch):
    monkeypatch.setattr(link, "FORWARD_S", 0.2)

    async def never(request):
        await asyncio.sleep(60)

    controller.replicator.answer = never
    with pytest.raises(Unavailable, match="may or may not"):
        await site.link.forward(request("r"))
    assert not site.link._waiting


async def test_an_answer_that_comes_twice_or_to_nobody_is_passed_over(cloud, site):
    async def script(number, hello, socket, say):
        await say(welcome(cloud), Answer("nobody", Response(status=200)))
        async for message in socket:
            said = at_controller(message.data)
            if hasattr(said, "request"):
                await say(Answer(said.request.id, Response(status=201)), Answer(said.request.id, Response(status=500)))

    async with instead(cloud, script):
        await eventually(lambda: site.link.connected_since is not None)
        assert (await site.link.forward(request("a"))).status == 201
        assert (await site.link.forward(request("b"))).status == 201


# ------------------------------------------------------------------------------------------------------ own feed


async def test_own_revocations_go_up_again_on_every_stream_until_they_return(cloud, site):
    sent = []
    await site.revoke("before")
    await eventually(lambda: site.own.pending() == 0)

    async def script(number, hello, socket, say):
        await say(welcome(cloud))
        async for message in socket:
            said = at_controller(message.data)
            if isinstance(said, Own):
                sent.append([one.number for one in said.entries])
                if number < 3:
                    return  # lost

    async with instead(cloud, script):
        await site.revoke("a")
        await eventually(lambda: len(sent) == 3, 10)
        assert sent == [[2], [2], [2]]
    await eventually(lambda: site.own.pending() == 0)
    audit_ids = [one.audit_id for one in await cloud.controller.revocations()]
    assert audit_ids == ["before", "a"]


async def test_many_own_revocations_go_up_in_parts_and_in_order(cloud, site, controller):
    await controller.stop()
    for number in range(450):
        await site.revoke(f"a{number}")
    await controller.start()
    await eventually(lambda: site.own.pending() == 0, 10)
    assert [one.audit_id for one in await controller.revocations()] == [f"a{number}" for number in range(450)]


async def test_a_snapshot_replaces_nothing_before_what_it_revokes_is_answered(cloud, site):
    before, answered = site.follower.position, asyncio.Event()

    async def script(number, hello, socket, say):
        site.link.answered = answered.wait
        await say(welcome(cloud, snapshot=True), rows(90, 1, last=True))
        await listen(socket)

    async with instead(cloud, script):
        assert not await site.follower.settled(90, 0.3)
        assert await site.store.applied("log") == before
        answered.set()
        await site.settled(90)


async def test_a_key_that_a_snapshot_condemns_is_refused_before_the_rest_of_it_has_come(cloud, site):
    stolen, rest = put(Condemned(id="f" * 16, ring="token", at=0, by="")), asyncio.Event()

    async def script(number, hello, socket, say):
        await say(welcome(cloud, snapshot=True), Rows(90, ((stolen.table, stolen.key, stolen.row),)))
        await rest.wait()
        await say(rows(90, 1, last=True))
        await listen(socket)

    async with instead(cloud, script):
        await eventually(lambda: site.follower.condemned == {"f" * 16})
        assert site.follower.position < 90
        rest.set()
        await site.settled(90)
        assert site.follower.condemned == {"f" * 16}
