"""Enrolment at the controller: one invitation, one member, and nothing for whoever was removed."""

import asyncio

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import VALIDITY_US
from regional_keystone.enrol import JoinRequest, JoinToken, _csr
from regional_keystone.errors import Forbidden, Invalid, NotFound
from regional_keystone.model import Ring, Site
from tests.cloud import Cloud, running


@pytest.fixture
async def cloud(tmp_path):
    made = Cloud(tmp_path, ())
    await made.controller.start()
    yield made
    await made.stop()


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
def sites(controller):
    return controller.sites


def request(token, *, instance="a" * 32, key=None, box=None):
    key, box = key or ec.generate_private_key(ec.SECP256R1()), box or X25519PrivateKey.generate()
    public = box.public_key().public_bytes_raw()
    read = JoinToken.read(token)
    csr = _csr(key, read.name)
    return JoinRequest(name=read.name, secret=read.secret, instance=instance, csr=csr, box_key=public)


async def state(controller, name="RegionOne"):
    return (await controller.overlay.get(Site, name)).state


async def ring(controller):
    return await controller.overlay.get(Ring, "token")


async def test_a_site_joins_once_and_the_ring_is_sealed_for_it(controller, sites):
    before = await ring(controller)
    token = await sites.invite("RegionOne")
    assert await state(controller) == "invited"
    welcome = await sites.join(request(token))
    assert welcome.signers == (controller.authority.signer_key,)
    after = await ring(controller)
    assert (after.epoch, after.fingerprint) == (before.epoch + 1, before.fingerprint)
    assert set(after.sealed) == {"@controller", "RegionOne"}
    assert await state(controller) == "active"


async def test_the_same_request_again_finds_the_same_answer_and_changes_nothing(controller, sites):
    asked = request(await sites.invite("RegionOne"))
    await sites.join(asked)
    head = controller.sequencer.head
    again = await sites.join(asked)
    assert x509.load_pem_x509_certificate(again.certificate.encode())
    assert controller.sequencer.head == head


async def test_a_token_that_was_used_is_of_no_use_to_anybody_else(controller, sites):
    token = await sites.invite("RegionOne")
    key, box = ec.generate_private_key(ec.SECP256R1()), X25519PrivateKey.generate()
    await sites.join(request(token, key=key, box=box))
    for other in (
        request(token, instance="b" * 32, key=key, box=box),
        request(token, key=key),
        request(token, box=box),  # knows all that is public of the site, and has a key of its own
    ):
        with pytest.raises(Forbidden, match="was used"):
            await sites.join(other)


async def test_of_two_that_use_one_token_at_once_one_joins(controller, sites):
    token = await sites.invite("RegionOne")
    asked = [request(token, instance=letter * 32) for letter in "abcd"]
    results = await asyncio.gather(*(sites.join(one) for one in asked), return_exceptions=True)
    assert sum(isinstance(result, Forbidden) for result in results) == 3
    assert await state(controller) == "active"


async def test_sites_that_join_at_once_all_get_the_ring(controller, sites):
    names = [f"Region{number}" for number in range(5)]
    tokens = [await sites.invite(name) for name in names]
    await asyncio.gather(*(sites.join(request(token)) for token in tokens))
    assert set((await ring(controller)).sealed) == {"@controller", *names}


@pytest.mark.parametrize("wrong", ["secret", "name", "expired", "removed", "reinvited"])
async def test_a_token_that_is_not_good_is_refused_without_saying_why(controller, sites, wrong):
    token = await sites.invite("RegionOne")
    asked = request(token)
    if wrong == "secret":
        asked = msgspec.structs.replace(asked, secret="guess")
    elif wrong == "name":
        asked = msgspec.structs.replace(asked, name="RegionTwo")
    elif wrong == "expired":
        sites._clock = Ahead(controller.clock, 61)
    elif wrong == "removed":
        await sites.remove("RegionOne")
    else:
        await sites.invite("RegionOne")
    with pytest.raises(Forbidden, match="unknown, used or expired"):
        await sites.join(asked)
    site = await controller.overlay.get(Site, "RegionOne")
    assert site.state != "active"


class Ahead:
    """A clock that is ahead of another."""

    def __init__(self, clock, seconds):
        self._clock, self._us = clock, seconds * 1_000_000

    def __getattr__(self, name):
        return getattr(self._clock, name)

    def now(self):
        return self._clock.now() + self._us


@pytest.mark.parametrize(
    "change", [{"instance": "x"}, {"box_key": b"short"}, {"csr": "none"}, {"name": ""}, {"name": "é"}]
)
async def test_a_malformed_request_is_refused_and_the_token_stays_good(controller, sites, change):
    token = await sites.invite("RegionOne")
    with pytest.raises(Invalid):
        await sites.join(msgspec.structs.replace(request(token), **change))
    await sites.join(request(token))


@pytest.mark.parametrize("name", ["", "a/b", "@controller", "x" * 65, "é", "-a", "a b", "a\n"])
async def test_a_name_that_no_region_can_have_is_refused(sites, name):
    with pytest.raises(Invalid):
        await sites.invite(name)


async def test_a_site_that_joins_anew_is_another_instance_and_the_old_one_is_out(controller, sites):
    await sites.join(request(await sites.invite("RegionOne")))
    token = await sites.invite("RegionOne")
    assert await state(controller) == "active", "until the new one has joined"
    epoch = (await ring(controller)).epoch
    await sites.join(request(token, instance="b" * 32))
    assert (await controller.overlay.get(Site, "RegionOne")).instance == "b" * 32
    assert (await ring(controller)).epoch == epoch + 1
    assert (await controller.rotator.plan()).waits_for == ("RegionOne",)


async def test_nothing_is_sealed_for_a_removed_site(controller, sites):
    await sites.join(request(await sites.invite("RegionOne")))
    await sites.remove("RegionOne")
    await controller.rotator.turn()
    assert set((await ring(controller)).sealed) == {"@controller"}
    with pytest.raises(NotFound):
        await sites.remove("RegionOne")
    with pytest.raises(NotFound):
        await sites.remove("RegionTwo")


async def test_a_secret_is_in_no_record_of_the_log(controller, sites):
    token = await sites.invite("RegionOne")
    secret = JoinToken.read(token).secret.encode()
    await sites.join(request(token))
    assert not any(secret in change.row for entry in await controller.log() for change in entry.changes)


async def test_a_join_and_a_turn_at_once_leave_a_ring_that_both_can_open(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo")) as cloud:
        controller = cloud.controller
        joins = [controller.sites.invite(name) for name in ("RegionThree", "RegionFour")]
        tokens = [await join for join in joins]
        before = (await ring(controller)).epoch
        controller.deadline_s = 1.0
        await asyncio.gather(controller.rotator.turn(), *(controller.sites.join(request(token)) for token in tokens))
        after = await ring(controller)
        assert after.epoch == before + 3
        assert set(after.sealed) == {"@controller", "RegionOne", "RegionTwo", "RegionThree", "RegionFour"}
        await cloud.level()
        assert {site.holder.seen.fingerprint for site in cloud.sites.values()} == {after.fingerprint}


async def test_bundles_are_sealed_again_before_they_grow_too_old(controller, sites):
    assert not await sites.refresh(), "they are new"
    young = await controller.overlay.get(Ring, "token")
    await controller.write(msgspec.structs.replace(young, sealed_at=controller.clock.now() - VALIDITY_US // 2))
    assert await sites.refresh()
    again = await controller.overlay.get(Ring, "token")
    assert (again.epoch, again.checks, again.turned_at) == (young.epoch + 1, young.checks, young.turned_at)
    assert again.sealed_at > young.sealed_at
    assert not await sites.refresh()
