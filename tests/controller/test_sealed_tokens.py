"""Sealed tokens are refused everywhere once no place seals any more and nothing that was sealed can be shown."""

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from controller import admin_signing
from controller.sealed_tokens import Standing, Word, check, longest_us, standing
from controller.turning import Terms
from regional_keystone.errors import Conflict, Unavailable
from regional_keystone.issue_counts import HOUR_US
from regional_keystone.model import KeyTimes, Ring, Signing, SigningKey, Site
from regional_keystone.operator_listener import rendered
from regional_keystone.signing import CONTROLLER, SIGNING
from tests.cloud import eventually, running, wired
from tests.controller.test_signing_keys import ready

SECOND = 1_000_000
GLOBAL = f"{CONTROLLER}one"
JWS = Word("jws", {})


def signs(owner, since, **more):
    return {f"key of {owner} {since}": SigningKey(owner=owner, public=b"", epoch=1, offered_at=0, signs_from=since)}


def record(**keys):
    return Signing(id=SIGNING, epoch=1, keys={name: one for said in keys.values() for name, one in said.items()})


BOTH = record(a=signs("Oslo", 1000), b=signs(GLOBAL, 500))
OSLO = Site(id="Oslo", state="active")


def found(now, record=BOTH, sites=(OSLO,), live=100, **words):
    return standing(record, sites, {"Oslo": JWS, GLOBAL: JWS} | words, live, now)


def test_what_a_place_may_have_sealed_until_it_signed_can_be_shown_for_as_long_as_tokens_live():
    assert found(1099) == Standing((), {"Oslo": 1100})
    assert found(1100) == Standing((), {})
    assert found(550) == Standing((), {"Oslo": 1100, GLOBAL: 600})


def test_a_former_key_counts_for_since_when_a_place_signs_and_one_that_may_not_be_used_yet_does_not():
    later = record(a=signs("Oslo", 1000), b=signs("Oslo", 5000), c=signs(GLOBAL, 500))
    assert found(1100, later) == Standing((), {})
    offered = record(a=signs("Oslo", None), c=signs(GLOBAL, 500))
    assert found(9000, offered) == Standing((), {"Oslo": 9100})


@pytest.mark.parametrize("word", [Word("fernet", {}), Word("", {}), None])
@pytest.mark.parametrize("state", ["active", "quarantined"])
def test_a_place_that_does_not_say_that_it_signs_seals(word, state):
    words = {GLOBAL: JWS} | ({} if word is None else {"Oslo": word})
    assert standing(BOTH, [Site(id="Oslo", state=state)], words, 100, 10**6).seal == ("Oslo",)
    assert found(10**6, **{GLOBAL: Word("fernet", {})}).seal == (GLOBAL,)
    assert standing(BOTH, [Site(id="Oslo", state="invited")], {GLOBAL: JWS}, 100, 10**6) == Standing((), {})


def test_tokens_that_were_counted_later_of_a_key_that_is_none_for_signing_count():
    """It went back to sealing for a while."""
    key = next(iter(signs("Oslo", 1000)))
    hours = Word("jws", {key: {7: 3}})
    assert found(2000, Oslo=hours) == Standing((), {})
    hours = Word("jws", {key: {7: 3}, "a" * 16: {3: 1, 2: 5}})
    assert found(2000, Oslo=hours) == Standing((), {"Oslo": 4 * HOUR_US + 100})


def test_who_was_removed_may_have_sealed_until_then_and_another_controller_until_it_signed():
    gone = Site(id="Rome", state="removed", since=2000)
    assert found(2050, sites=(OSLO, gone)) == Standing((), {"Rome": 2100})
    signed = record(a=signs("Oslo", 1000), b=signs(GLOBAL, 500), c=signs("Rome", 700))
    assert found(2050, signed, sites=(OSLO, gone)) == Standing((), {})
    two = record(a=signs("Oslo", 1000), b=signs(GLOBAL, 500), c=signs(f"{CONTROLLER}two", 3000))
    assert found(2050, two) == Standing((), {f"{CONTROLLER}two": 3100})


def test_how_long_one_can_be_shown_is_the_most_that_was_promised():
    terms = Terms(lifetime_us=10, allow_expired_us=100, isolation_us=1, skew_us=1000)
    assert longest_us(terms, None) == 1110
    ring = Ring(id="token", epoch=1, fingerprint="", checks={}, sealed={}, turned_at=0, lifetime_us=20)
    assert longest_us(terms, ring) == 1120
    times = {1: KeyTimes(lifetime_us=30), 2: KeyTimes(allow_expired_us=200)}
    assert longest_us(terms, msgspec.structs.replace(ring, times=times)) == 1230


def test_the_refusal_names_who_is_in_the_way_and_the_cure():
    check(Standing((), {}), now=False)
    with pytest.raises(Conflict, match=r"Oslo.*provider = jws.*region remove"):
        check(Standing(("Oslo",), {}), now=True)
    late = Standing((), {"Rome": 1, "Oslo": 1_800_000_000 * SECOND})
    with pytest.raises(Conflict, match=r"Oslo .*2027-01-15 08:00 UTC.*--now"):
        check(late, now=False)
    check(late, now=True)


# --- in a federation


def reads(node):
    """Whether this place takes what is sealed with the key that every place has."""
    ring = node.holder.ring
    return node.follower.accepts_key(ring.key_ids[ring.primary])


async def signing(cloud):
    """Every place has said that it signs, and may."""
    await ready(cloud.controller, *cloud.sites.values())
    await eventually(lambda: all(cloud.controller.acknowledged(one).provider == "jws" for one in cloud.sites))


async def test_every_place_follows_also_one_that_was_away_and_one_that_begins_anew(tmp_path):
    async with running(tmp_path, signs=True, deadline_s=60.0) as cloud, wired(cloud, "RegionTwo") as wire:
        controller, one, two = cloud.controller, *cloud.sites.values()
        await signing(cloud)
        with pytest.raises(Conflict, match="--now"):
            await controller.sealed_tokens.refuse(now=False)
        assert all(map(reads, (controller, one, two)))
        wire.cut()
        await eventually(lambda: two.link.connected_since is None)
        asked = await controller.sealed_tokens.refuse(now=True)
        assert (asked["refused"], asked["waits_for"]) == (True, ["RegionTwo"])
        assert [reads(node) for node in (controller, one, two)] == [False, False, True]
        wire.mend()
        await eventually(lambda: not reads(two))
        await eventually(lambda: _waits_for_nobody(controller))
        await two.stop()
        two.controllers = ("https://127.0.0.1:1",)
        await two.start()
        assert not reads(two), "from its replica"
        two.controllers = None
        epoch = (await controller.overlay.get(Signing, SIGNING)).epoch
        assert (await controller.sealed_tokens.refuse(now=False))["refused"], "it was before"
        assert (await controller.overlay.get(Signing, SIGNING)).epoch == epoch
        assert not (await controller.sealed_tokens.read())["refused"]
        assert reads(controller)
        assert reads(one)


async def _waits_for_nobody(controller):
    return (await controller.sealed_tokens.status())["waits_for"] == []


async def test_while_a_region_seals_it_is_refused_and_a_region_that_seals_afterwards_issues_nothing(tmp_path):
    async with running(tmp_path, signs=True, deadline_s=60.0) as cloud:
        controller, site = cloud.controller, cloud.sites["RegionTwo"]
        await signing(cloud)
        for signs_, provider in ((False, "fernet"), (True, "jws")):
            await site.stop()
            site.signs = signs_
            await site.start()
            await eventually(lambda p=provider: controller.acknowledged("RegionTwo").provider == p)
            if not signs_:
                with pytest.raises(Conflict, match="RegionTwo"):
                    await controller.sealed_tokens.refuse(now=True)
                assert reads(site)
        app = web.Application(middlewares=[rendered])
        app.add_routes(admin_signing.routes(controller.signing_keys, controller.sealed_tokens))
        async with TestClient(TestServer(app)) as client:
            refusal = await client.post("/signing/sealed", json={"refuse": True})
            assert (refusal.status, (await (await client.get("/signing/sealed")).json())["refused"]) == (409, False)
            told = await (await client.post("/signing/sealed", json={"refuse": True, "now": True})).json()
            assert (told["refused"], told["waits_for"], told["seal"]) == (True, [], [])
            assert (await client.post("/signing/sealed", json={"refuse": True, "no": 1})).status == 400
            assert not reads(site)
            with pytest.raises(Unavailable, match="provider = jws"):
                site.follower.sealing_number()
            assert not (await (await client.post("/signing/sealed", json={"refuse": False})).json())["refused"]
        assert reads(site)
        with pytest.raises(Unavailable, match="not have heard"):
            site.follower.sealing_number()
        stale = controller.clock.now() - 9 * SECOND
        old = await controller.overlay.get(Signing, SIGNING)
        await controller.write(msgspec.structs.replace(old, epoch=old.epoch + 1, sealed_told_at=stale))
        await cloud.level()
        assert site.follower.sealing_number() == site.holder.ring.primary
