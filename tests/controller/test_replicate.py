"""The stream at the controller: who is let in, what is believed, what is taken over."""

import asyncio
import ssl
import warnings
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
import structlog

from controller.acknowledgements import Acknowledged
from controller.authority import Authority
from controller.replicate import FORWARDS, MAX_MESSAGE_BYTES
from controller.seldom import MOST, WINDOW_S, Seldom
from controller.take_over import MOST_ENTRIES, MOST_FEEDS
from regional_keystone.enrol import Identity
from regional_keystone.log import Entry, Put, Remove, put
from regional_keystone.messages import (
    Acknowledge,
    Answer,
    Compare,
    Compared,
    Convergence,
    Drifted,
    Echo,
    Entries,
    Forward,
    Offer,
    Own,
    Probe,
    Refused,
    Request,
    Response,
    Rows,
    Welcome,
    at_site,
    encode,
)
from regional_keystone.model import RevocationEvent, Taken
from regional_keystone.own_feed import MOST_CHANGES
from regional_keystone.record import spread
from tests.cloud import Cloud, event, eventually, hear, no_tls, project, say, stream
from tests.stand_ins import ManualClock

SAID = ("impossible_acknowledgement", "own_feed_taken", "signing_key_refused", "stream_refused")


@pytest.fixture
async def cloud(tmp_path):
    """A controller; its one site has joined and is not running."""
    made = Cloud(tmp_path, ("RegionOne",))
    await made.controller.start()
    site = made.sites["RegionOne"]
    await site.join(await made.controller.sites.invite("RegionOne"))
    yield made
    await made.stop()


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
def site(cloud):
    return cloud.sites["RegionOne"]


def own(number, *changes):
    return Entry(number, f"own{number}", 1, changes or (put(event(f"e{number}", 10**6, audit_id=f"a{number}")),))


async def taken(controller, feed="RegionOne/inc"):
    record = await controller.overlay.get(Taken, feed)
    return record.number if record else 0


# ------------------------------------------------------------------------------------------------ who is let in


async def test_a_site_with_its_certificate_is_welcome_and_gets_the_log(controller, site):
    async with stream(site, controller) as (first, socket):
        assert isinstance(first, Welcome)
        assert not first.snapshot
        entries = (await hear(socket, Entries)).entries
        assert [entry.number for entry in entries] == list(range(1, controller.sequencer.head + 1))
        position = await controller.write(project("p"))
        assert [entry.number for entry in (await hear(socket, Entries)).entries] == [position]


async def test_who_has_no_certificate_has_no_stream(controller, site):
    async with stream(site, controller, tls=no_tls()) as (first, _):
        assert isinstance(first, Refused)
        assert "client certificate" in first.reason


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"site": "RegionTwo"}, "of another site"),
        ({"instance": "0" * 32}, "of another site"),
        ({"cluster": "other"}, "another federation"),
        ({"version": 9}, "protocol version"),
        ({"position": 10**6}, "ahead of the log"),
    ],
)
async def test_a_first_word_that_is_not_true_is_refused(controller, site, said, why):
    await controller.sites.invite("RegionTwo")
    async with stream(site, controller, **said) as (first, _):
        assert isinstance(first, Refused)
        assert why in first.reason
        assert first.final
    assert controller.replicator.sessions == {}


async def test_a_site_that_was_removed_and_invited_anew_is_told_how_to_join(controller, site):
    await controller.sites.remove("RegionOne")
    await controller.sites.invite("RegionOne")
    async with stream(site, controller) as (first, _):
        assert "invited anew: remove identity/membership" in first.reason


async def test_a_certificate_of_another_authority_does_not_get_past_tls(controller, site, tmp_path):
    other = Authority.open(tmp_path / "other", controller.clock.now())
    member = site.identity.membership()
    csr_identity = Identity(tmp_path / "forged")
    csr_identity.directory.mkdir()
    for name in ("tls.key", "ca.crt"):
        (csr_identity.directory / name).write_bytes((site.identity.directory / name).read_bytes())
    from regional_keystone.enrol import _csr, _tls_key

    csr = _csr(_tls_key(csr_identity.directory / "tls.key"), member.name)
    forged = other.certify(csr, member.name, member.instance, controller.clock.now(), 3600.0)
    (csr_identity.directory / "tls.crt").write_text(forged)
    with pytest.raises((aiohttp.ClientError, OSError)):
        async with stream(site, controller, tls=csr_identity.tls()):
            pass


@pytest.mark.parametrize(("version", "comes"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)])
async def test_nobody_who_asks_gets_an_older_tls(controller, site, version, comes):
    """INV-27: the floor does not fall because the other side wishes it."""
    context = site.identity.tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    url = urlsplit(controller.url)
    if comes:
        _, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context)
        writer.close()
    else:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(url.hostname, url.port, ssl=context)


async def test_an_expired_certificate_does_not_get_past_tls(controller, site):
    from regional_keystone.enrol import _csr, _tls_key

    member = site.identity.membership()
    csr = _csr(_tls_key(site.identity.directory / "tls.key"), member.name)
    day_us = 86_400_000_000
    old = controller.authority.certify(csr, member.name, member.instance, controller.clock.now() - day_us, 3600.0)
    (site.identity.directory / "tls.crt").write_text(old)
    with pytest.raises((aiohttp.ClientError, OSError)):
        async with stream(site, controller):
            pass


@pytest.mark.parametrize("first", [encode(Probe(1.0, 1)), b"\xc1", b"", encode({"type": "future"})])
async def test_a_first_word_that_is_no_hello_ends_the_stream(controller, site, first):
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{controller.port}/stream/v1"
        async with session.ws_connect(url, ssl=site.identity.tls()) as socket:
            await socket.send_bytes(first)
            answer = await socket.receive(timeout=5)
            assert (
                answer.data is None or not isinstance(answer.data, bytes) or isinstance(at_site(answer.data), Refused)
            )
    assert controller.replicator.sessions == {}


async def test_rubbish_later_on_ends_the_stream_and_nothing_else(controller, site):
    async with stream(site, controller) as (_, socket):
        await socket.send_bytes(b"\xc1")
        assert (await hear(socket, Refused)).reason == "that is no message"
    await eventually(lambda: not controller.replicator.sessions)
    async with stream(site, controller) as (first, socket):
        await socket.send_bytes(encode({"type": "from the future", "x": 1}))
        await say(socket, Probe(1.0, 1))
        assert (await hear(socket, Echo)).ticks == 1.0
        assert isinstance(first, Welcome)


async def test_a_newer_stream_of_a_site_ends_the_older_one_at_once(controller, site):
    async with stream(site, controller) as (_, old):
        async with stream(site, controller) as (first, new):
            assert isinstance(first, Welcome)
            assert "newer stream" in (await hear(old, Refused)).reason
            with suppress(aiohttp.ClientError):
                await say(old, Acknowledge(controller.sequencer.head))
            await say(new, Probe(1.0, 1))
            await hear(new, Echo)
            assert controller.acknowledgements.said == {}, "the old stream's word counts no more"
            assert len(controller.replicator.sessions) == 1


async def test_a_site_that_reads_nothing_holds_nobody_up(controller, site):
    async with stream(site, controller) as (_, old):
        del old  # it is never read from
        for number in range(40):
            await controller.write(project(f"p{number}", extra={"x": "x" * 900_000}))
        began = asyncio.get_running_loop().time()
        async with stream(site, controller) as (first, _):
            assert isinstance(first, Welcome)
        await asyncio.wait_for(controller.sites.remove("RegionOne"), 2)
        assert asyncio.get_running_loop().time() - began < 3


async def test_a_removed_site_is_put_out_and_not_let_in_again(controller, site):
    async with stream(site, controller) as (_, socket):
        await controller.sites.remove("RegionOne")
        assert "removed" in (await hear(socket, Refused)).reason
    assert controller.replicator.sessions == {}
    async with stream(site, controller) as (first, _):
        assert "removed" in first.reason


# ------------------------------------------------------------------------------------------------- what is sent


async def test_large_entries_and_rows_come_in_messages_that_a_site_takes(controller, site):
    for number in range(12):
        await controller.write(project(f"p{number}", extra={"x": "x" * 900_000}))
    await controller.follower.settled(controller.sequencer.head, 5)
    async with stream(site, controller) as (_, socket):
        number = 0
        while number < controller.sequencer.head:
            data = await socket.receive_bytes(timeout=5)
            assert len(data) < 4 * 2**20
            number = at_site(data).entries[-1].number
    await controller.store.prune("log", controller.sequencer.head)
    controller.replicator._recent.clear()
    async with stream(site, controller) as (first, socket):
        assert first.snapshot
        last = False
        while not last:
            data = await socket.receive_bytes(timeout=5)
            assert len(data) < 4 * 2**20
            last = at_site(data).last


async def test_who_is_too_far_behind_gets_a_snapshot_then_the_entries_after_it(controller, site):
    await controller.write(project("p"))
    position = controller.sequencer.head
    await controller.follower.settled(position, 5)
    await controller.store.prune("log", position)
    async with stream(site, controller, position=1) as (first, socket):
        assert first.snapshot
        rows = await hear(socket, Rows)
        assert rows.position == position
        assert rows.last
        after = await controller.write(project("q"))
        assert [entry.number for entry in (await hear(socket, Entries)).entries] == [after]


async def test_who_has_everything_gets_no_snapshot_though_the_log_is_pruned(controller, site):
    position = controller.sequencer.head
    await controller.follower.settled(position, 5)
    await controller.store.prune("log", position)
    async with stream(site, controller, position=position) as (first, _):
        assert not first.snapshot


async def test_a_stream_whose_log_cannot_be_read_ends_instead_of_going_silent(controller, site):
    controller.replicator._recent.clear()
    tail = controller.store.tail

    async def broken(feed, after, limit=1000):
        from regional_keystone.errors import Unavailable

        if limit > 1:
            raise Unavailable("The disk is gone.")
        return await tail(feed, after, limit)

    controller.store.tail = broken
    async with stream(site, controller) as (_, socket):
        message = await socket.receive(timeout=3)
        assert not isinstance(message.data, bytes)
    controller.store.tail = tail


async def test_an_echo_names_the_head_after_the_probe(controller, site):
    async with stream(site, controller) as (_, socket):
        await controller.write(project("p"))
        await say(socket, Probe(7.5, 1))
        echo = await hear(socket, Echo)
        assert (echo.ticks, echo.head) == (7.5, controller.sequencer.head)


# ----------------------------------------------------------------------------------------- what is acknowledged


async def test_only_what_is_possible_is_believed(controller, site):
    async with stream(site, controller) as (_, socket):
        for position in (-1, controller.sequencer.head + 1, 2**62):
            await say(socket, Acknowledge(position, {"token": (9, "0")}))
        bad = {
            "token": (1, "0" * 33),
            "credential": (-1, ""),
            "receipt": (2**63, "0"),
            "signing": (1, "x"),
            "m": (1, ""),
        }
        await say(socket, Acknowledge(1, bad | {"signers": (1, "0" * 32)}))
        await eventually(lambda: controller.acknowledged("RegionOne").rings == {"signers": (1, "0" * 32)})
        await say(socket, Acknowledge(1, {"token": (1, "0")}))
        await eventually(lambda: controller.acknowledged("RegionOne").rings == {"token": (1, "0")})
        assert controller.acknowledged("RegionOne").position == 1
        assert (await controller.rotator.plan()).waits_for == ("RegionOne",), "the fingerprint is not that of the ring"


async def _kept(controller, position):
    """Whether another controller could see it as well."""
    await controller.acknowledgements.refresh()
    kept = (await controller.store.acknowledged()).get("RegionOne")
    return kept is not None and msgspec.msgpack.decode(kept, type=Acknowledged).position == position


async def test_a_site_restored_from_a_backup_no_longer_holds_what_it_had_acknowledged(controller, site):
    assert await controller.follower.settled(controller.sequencer.head, 5)  # its own ring is the newest, too
    seen = controller.holder.seen
    head = controller.sequencer.head
    async with stream(site, controller, epochs={"token": seen.epoch}) as (_, socket):
        await say(socket, Acknowledge(head, {"token": tuple(seen)}))
        await eventually(lambda: controller.acknowledged("RegionOne").position == head)
        await eventually(lambda: _kept(controller, head))
    assert (await controller.rotator.plan()).waits_for == ()
    async with stream(site, controller, position=head, epochs={"token": seen.epoch}):
        assert (await controller.rotator.plan()).waits_for == ()
    async with stream(site, controller, position=head, epochs={"token": seen.epoch - 1}):
        await eventually(lambda: controller.acknowledged("RegionOne").rings == {})
    assert (await controller.rotator.plan()).waits_for == ("RegionOne",)


async def test_a_word_that_is_understood_after_its_stream_has_ended_does_not_count(controller, site, monkeypatch):
    asked, leave = asyncio.Event(), asyncio.Event()

    async def catch_up():
        asked.set()
        await leave.wait()
        await controller.write(project("p"))

    async with stream(site, controller) as (_, socket):
        monkeypatch.setattr(controller.sequencer, "catch_up", catch_up)
        await say(socket, Acknowledge(controller.sequencer.head + 1, {"token": (1, "x")}))
        await asked.wait()
        await controller.replicator.drop("RegionOne", "it is silent", final=False)
        head = controller.sequencer.head
        leave.set()
        await eventually(lambda: controller.sequencer.head > head)
        await asyncio.sleep(0.05)
    assert controller.acknowledgements.said == {}


async def test_a_stream_that_is_dropped_while_its_first_word_is_compared_says_nothing(controller, site, monkeypatch):
    asked, leave = asyncio.Event(), asyncio.Event()
    async with stream(site, controller) as (_, socket):
        await say(socket, Acknowledge(controller.sequencer.head, {"token": (1, "x")}))
        await eventually(lambda: _kept(controller, controller.sequencer.head))
    await eventually(lambda: controller.replicator.sessions == {})
    compare = controller.acknowledgements.compare

    async def slow(hello):
        asked.set()
        await leave.wait()
        await compare(hello)

    monkeypatch.setattr(controller.acknowledgements, "compare", slow)
    opening = asyncio.create_task(_opened(site, controller))
    await asked.wait()
    await controller.replicator.drop("RegionOne", "it is silent", final=False)
    leave.set()
    await opening
    await eventually(lambda: _kept(controller, 0))
    monkeypatch.undo()
    elsewhere = Acknowledged(site.identity.membership().instance, 1, {"token": (1, "x")}, 1, "another")
    await controller.store.acknowledge("RegionOne", msgspec.msgpack.encode(elsewhere))
    await eventually(lambda: controller.acknowledgements.said == {"RegionOne": elsewhere})


async def _opened(site, controller):
    with suppress(TimeoutError, aiohttp.ClientError, TypeError, ValueError):
        async with stream(site, controller, position=0):
            pass


# --------------------------------------------------------------------------------------------------- taking over


async def test_a_feed_is_taken_over_in_order_and_each_of_it_once(controller, site):
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(1), own(2))))
        await say(socket, Own("RegionOne/inc", (own(1), own(2), own(3))))
        await say(socket, Own("RegionOne/inc", (own(2),)))
        await eventually(lambda: _is(taken(controller), 3))
    async with stream(site, controller) as (_, socket):  # the answer was lost: all of it comes again
        await say(socket, Own("RegionOne/inc", (own(1), own(2), own(3), own(4))))
        await eventually(lambda: _is(taken(controller), 4))
    assert [one.audit_id for one in await controller.revocations()] == ["a1", "a2", "a3", "a4"]


async def test_a_feed_with_a_gap_waits_for_what_is_missing(controller, site):
    before = controller.sequencer.head
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(2), own(3))))
        await say(socket, Probe(1.0, 1))
        await hear(socket, Echo)
        assert controller.sequencer.head == before
        await say(socket, Own("RegionOne/inc", (own(1), own(3))))
        await eventually(lambda: _is(taken(controller), 1))
        await say(socket, Own("RegionOne/inc", (own(1), own(2), own(3))))
        await eventually(lambda: _is(taken(controller), 3))
    assert [one.audit_id for one in await controller.revocations()] == ["a1", "a2", "a3"]


async def test_a_restarted_controller_takes_nothing_twice(controller, site):
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(1),)))
        await eventually(lambda: _is(taken(controller), 1))
    await controller.stop()
    await controller.start()
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(1), own(2))))
        await eventually(lambda: _is(taken(controller), 2))
    assert [one.audit_id for one in await controller.revocations()] == ["a1", "a2"]


@pytest.mark.parametrize(
    "feed", ["RegionTwo/inc", "RegionOne", "RegionOne/", "RegionOne/a/b", f"RegionOne/{'x' * 65}", "log"]
)
async def test_the_feed_of_somebody_else_is_refused(controller, site, feed):
    async with stream(site, controller) as (_, socket):
        await say(socket, Own(feed, (own(1),)))
        assert "not this site's" in (await hear(socket, Refused)).reason
    assert await controller.revocations() == []


async def test_a_site_changes_nothing_but_revocations_and_only_under_ids_of_its_own(controller, site):
    stolen = event("other", 10**6, user_id="victim")
    await controller.write(stolen)
    async with stream(site, controller) as (_, socket):
        changes = (put(project("evil")), put(event("other", 5, user_id="nobody")))
        await say(socket, Own("RegionOne/inc", (own(1, *changes),)))
        await eventually(lambda: _is(taken(controller), 1))
    assert await controller.overlay.get(type(project("x")), "evil") is None
    assert await controller.overlay.get(RevocationEvent, "other") == stolen
    assert [one.id for one in await controller.revocations()] == ["other", spread("RegionOne/inc/1/1")]


async def test_a_revocation_of_all_tokens_of_a_user_cannot_reach_into_the_future_but_one_of_a_token_can(
    controller, site
):
    now = controller.clock.now()
    ahead = now + 3600 * 10**6
    changes = (put(event("u", ahead, user_id="u")), put(event("a", ahead, audit_id="a")))
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(1, *changes),)))
        await eventually(lambda: _is(taken(controller), 1))
    by_user, by_token = await controller.revocations()
    assert by_user.issued_before <= controller.clock.now() + 2 * 10**6
    assert by_token.issued_before == ahead, "never weaker: the site's clock is fast"


async def test_an_answer_to_a_revocation_reaches_as_far_as_tokens_are_believed_and_no_further(controller, site):
    now = controller.clock.now()
    near, far = (put(event(spread(f"late/{ahead_s}"), now + ahead_s * 10**6, user_id="u")) for ahead_s in (50, 3600))
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", (own(1, near, far),)))
        await eventually(lambda: _is(taken(controller), 1))
    dates = [one.issued_before for one in await controller.revocations()]
    assert dates[0] == now + 50 * 10**6, "the site's clock is fast, and others take its tokens"
    assert now + 59 * 10**6 < dates[1] <= controller.clock.now() + 60 * 10**6


@pytest.mark.parametrize("bad", ["row", "size", "changes", "changes of several", "entries"])
async def test_what_cannot_be_taken_over_is_refused_and_the_controller_goes_on(controller, site, bad):
    changes = {
        "row": (Put("revocations", ("x",), b"\xc1", {}),),
        "size": tuple(put(event(f"{n}", 1, user_id="x" * 200)) for n in range(2000)),
        "changes": tuple(Remove("x", (), {}) for _ in range(MOST_CHANGES + 1)),
        "changes of several": tuple(Remove("x", (), {}) for _ in range(MOST_CHANGES // 2 + 1)),
        "entries": (),
    }[bad]
    count = {"changes of several": 2, "entries": MOST_ENTRIES + 1}.get(bad, 1)
    entries = tuple(own(number + 1, *changes) for number in range(count))
    async with stream(site, controller) as (_, socket):
        await say(socket, Own("RegionOne/inc", entries))
        assert "taken over" in (await hear(socket, Refused)).reason
    assert await taken(controller) == 0
    assert await controller.write(project("p"))


async def test_incarnations_of_a_feed_are_forgotten_when_there_are_too_many(controller, site):
    """A stolen site may begin another with every message; of one that goes on none is forgotten."""
    taking = controller.replicator.taking
    for number in range(MOST_FEEDS + 3):
        await taking.take("RegionOne", f"RegionOne/inc{number:02}", [own(1)])
        await taking.take("RegionOne", f"RegionOne/inc{number:02}", [own(1), own(2)])
    await taking.take("RegionTwo", "RegionTwo/inc", [own(1)])
    ends = {taken.feed: taken.number async for taken in controller.overlay.scan(Taken)}
    assert len(ends) == MOST_FEEDS + 1
    assert ends["RegionTwo/inc"] == 1
    assert ends[f"RegionOne/inc{MOST_FEEDS + 2:02}"] == 2


async def test_what_a_site_sends_without_end_fills_no_log(controller, site):
    with structlog.testing.capture_logs() as logged:
        async with stream(site, controller) as (_, socket):
            for number in range(3 * MOST):
                await say(socket, Acknowledge(10**6))
                await say(socket, Offer(b"", b""))
                await say(socket, Own("RegionOne/inc", (own(number + 1),)))
            await eventually(lambda: _is(taken(controller), 3 * MOST))
        for _ in range(3 * MOST):
            with suppress(aiohttp.ClientError, TypeError, ValueError):
                async with stream(site, controller, cluster="another") as (_, socket):
                    await hear(socket, Refused)
    counts = Counter(one["event"] for one in logged if one["event"] in SAID)
    assert counts == dict.fromkeys(SAID, MOST)


async def test_what_was_left_out_of_the_log_is_counted_in_it_and_hides_nobody_else(controller):
    clock, lines = ManualClock(), []
    say_of = Seldom(clock)
    for _ in range(MOST + 5):
        say_of(lambda event, **about: lines.append((event, about)), "refused", "RegionOne", why="x")
    say_of(lambda event, **about: lines.append((event, about)), "refused", "RegionTwo", why="y")
    assert lines == [("refused", {"why": "x"})] * MOST + [("refused", {"why": "y"})]
    await clock.advance(WINDOW_S)
    say_of(lambda event, **about: lines.append((event, about)), "refused", "RegionOne", why="z")
    assert lines[-1] == ("refused", {"why": "z", "left_out": 5})
    for number in range(5000):
        say_of(lambda event, **about: None, "refused", f"somebody {number}")
    assert len(say_of._windows) < 2000


# ------------------------------------------------------------------------------------------------------ forwards


async def test_a_forwarded_request_is_answered_under_its_id_in_the_sites_own_name_space(controller, site):
    async def answer(request):
        return Response(status=201, body=request.id.encode())

    controller.replicator.answer = answer
    async with stream(site, controller) as (_, socket):
        await say(socket, Forward(Request(id="r1", method="POST", path="/v3/projects")))
        answered = await hear(socket, Answer)
        assert (answered.id, answered.response.body) == ("r1", b"RegionOne/r1")


async def test_forwards_that_are_under_way_are_bounded_and_end_with_the_stream(controller, site):
    under_way = []

    async def answer(request):
        under_way.append(request.id)
        try:
            await asyncio.sleep(60)
        finally:
            under_way.remove(request.id)

    controller.replicator.answer = answer
    async with stream(site, controller) as (_, socket):
        for number in range(FORWARDS + 5):
            await say(socket, Forward(Request(id=f"r{number}", method="POST", path="/")))
        for _ in range(5):
            assert (await hear(socket, Answer)).response.status == 503
        assert len(under_way) == FORWARDS
    await eventually(lambda: not under_way)


async def test_forwards_that_are_under_way_are_bounded_in_bytes_as_well(controller, site):
    controller.replicator.answer = forever
    large = b"x" * (MAX_MESSAGE_BYTES // 2)
    async with stream(site, controller) as (_, socket):
        for number in range(4):
            await say(socket, Forward(Request(id=f"r{number}", method="POST", path="/", body=large)))
        answers = [await hear(socket, Answer) for _ in range(2)]
        assert [(answer.id, answer.response.status) for answer in answers] == [("r2", 503), ("r3", 503)]
        (session,) = controller.replicator.sessions.values()
        assert session.forward_bytes == 2 * len(large)
    await eventually(lambda: not session.forward_bytes)


async def forever(request):
    await asyncio.sleep(60)


async def _is(found, wanted):
    return await found == wanted


# ------------------------------------------------------------------------------------------- comparing of rows


async def test_of_many_questions_at_once_one_is_answered(controller, site):
    """A site of ours asks one after the other; what a hostile one asks meanwhile costs nothing."""
    await controller.survey.read_all()
    answered = []
    answer, gate = controller.replicator.compare, asyncio.Event()

    async def slow(question):
        answered.append(question.id)
        await gate.wait()
        return await answer(question)

    controller.replicator.compare = slow
    async with stream(site, controller) as (_, socket):
        for number in range(50):
            await say(socket, Compare(number, ((),)))
        await eventually(lambda: answered)
        gate.set()
        told = await hear(socket, Compared)
        assert told.id == 0
        assert {one.name for one in told.sums[0]} >= {"sites", "rings"}
        assert len(answered) < 50


async def test_what_a_site_tells_of_drift_is_cut_to_what_can_be_shown(controller, site):
    flood = tuple(Drifted("users", "x" * 10_000, "changed", number, mended=True) for number in range(100))
    async with stream(site, controller) as (_, socket):
        await say(socket, Convergence(1, 100, 0, flood))
        await eventually(lambda: controller.counterpart.status_of("RegionOne"))
    shown = controller.counterpart.status_of("RegionOne")["last"]
    assert len(shown) == 20
    assert {len(one["key"]) for one in shown} == {200}


async def test_what_a_removed_site_says_before_its_stream_has_ended_is_not_taken(controller, site, monkeypatch):
    ended = asyncio.Event()

    async def slow(*said, **how):
        await ended.wait()

    async with stream(site, controller) as (_, socket):
        monkeypatch.setattr(controller.replicator, "_refuse", slow)  # its stream is still open for a while
        await controller.sites.remove("RegionOne")
        await say(socket, Own("RegionOne/inc", (own(1),)))
        with suppress(TimeoutError):
            while not socket.closed:  # it is left at once
                await socket.receive(timeout=0.5)
        assert await taken(controller) == 0
        ended.set()


async def test_a_site_that_is_removed_while_it_is_let_in_gets_no_stream(controller, site, monkeypatch):
    look, looked = controller.replicator._why_not, []

    async def slow(hello, certificate):
        looked.append(await look(hello, certificate))
        if len(looked) == 1:
            await controller.sites.remove("RegionOne")
        return looked[-1]

    monkeypatch.setattr(controller.replicator, "_why_not", slow)
    with suppress(aiohttp.WSMessageTypeError):  # it may be closed before it is told why
        async with stream(site, controller) as (first, _):
            assert isinstance(first, Refused)
    assert looked[0] is None
    assert controller.replicator.sessions == {}
