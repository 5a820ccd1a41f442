"""A site whose certificate has ended proves itself by its key, once for each challenge, and nobody else does."""

import asyncio

import aiohttp
import msgspec
import pytest
import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from controller.renewals import GOOD_S, Challenges
from regional_keystone.enrol import Identity, JoinToken, RenewRequest, _csr, _tls_key, pinned
from regional_keystone.errors import Forbidden, StoreRefused, Unavailable
from regional_keystone.link import renew
from regional_keystone.model import Site
from tests.cloud import Cloud, eventually

NAME = "RegionOne"


@pytest.fixture
async def cloud(tmp_path):
    made = Cloud(tmp_path, (NAME,))
    await made.controller.start()
    yield made
    await made.stop()


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
async def identity(cloud, controller):
    """Of a member whose certificate has ended for whoever looks at it."""
    controller.sites._certificate_s = -60.0  # they are dated back by five minutes
    joined = cloud.sites[NAME].identity
    await joined.join(JoinToken.read(await controller.sites.invite(NAME)))
    controller.sites._certificate_s = 3600.0
    return joined


@pytest.fixture
def renewals(controller):
    return controller.sites._renewals


def left_s(identity, controller):
    return identity.certificate().not_valid_after_utc.timestamp() - controller.clock.now() / 1_000_000


def request(identity, challenge, key=None, **changes):
    member, key = identity.membership(), key or _tls_key(identity.directory / "tls.key")
    asked = RenewRequest(
        cluster=member.cluster,
        name=member.name,
        instance=member.instance,
        csr=_csr(key, member.name),
        challenge=challenge,
    )
    asked = msgspec.structs.replace(asked, **changes)
    return msgspec.structs.replace(asked, signature=key.sign(asked.to_sign(), ec.ECDSA(hashes.SHA256())))


async def test_tls_refuses_a_certificate_that_has_ended(controller, identity):
    assert left_s(identity, controller) < 0
    async with aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientError, OSError)):
            async with session.post(f"{controller.url}/renew/v1", data=b"{}", ssl=identity.tls()) as answer:
                await answer.read()


async def test_a_site_that_was_cut_off_beyond_its_certificate_comes_back_by_itself(cloud, controller, identity):
    site = cloud.sites[NAME]
    key = identity.certificate().public_key()
    await site.start()
    site.background(renew(identity, (controller.url,), site.clock))
    await eventually(lambda: site.link.connected_since is not None, within_s=10.0)
    await site.settled(controller.sequencer.head)
    assert left_s(identity, controller) > 3000
    assert identity.certificate().public_key() == key


async def test_a_site_that_was_removed_does_not(controller, identity):
    await controller.sites.remove(NAME)
    with pytest.raises(StoreRefused, match="no site of this federation"):
        await identity.renew([controller.url])


async def test_an_instance_that_was_replaced_does_not(controller, identity, tmp_path):
    await Identity(tmp_path / "new").join(JoinToken.read(await controller.sites.invite(NAME)))
    with pytest.raises(StoreRefused, match="no site of this federation"):
        await identity.renew([controller.url])


async def test_another_key_does_not(identity, renewals):
    stranger = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Forbidden, match="joined with another key"):
        await renewals.renew(request(identity, renewals._challenges.make(), stranger))
    assert not renewals._challenges._used, "a stranger leaves nothing behind"


async def test_another_key_does_not_by_a_good_certificate_either(cloud, controller):
    """Else whoever held the key of a site for a minute had a certificate of its name for a key of their own."""
    joined = cloud.sites[NAME].identity
    await joined.join(JoinToken.read(await controller.sites.invite(NAME)))
    stranger = ec.generate_private_key(ec.SECP256R1())
    answers = []
    async with aiohttp.ClientSession() as session:
        for key in (stranger, _tls_key(joined.directory / "tls.key")):
            body = msgspec.json.encode({"csr": _csr(key, NAME)})
            async with session.post(f"{controller.url}/renew/v1", data=body, ssl=joined.tls()) as answer:
                answers.append((answer.status, await answer.text()))
        async with session.post(
            f"{controller.url}/renew/v1", data=body, ssl=pinned(joined.directory / "ca.crt")
        ) as answer:
            answers.append((answer.status, await answer.text()))
    assert [status for status, _ in answers] == [403, 200, 403]
    assert "joined with another key" in answers[0][1]
    assert "no site of this federation" in answers[2][1], "who shows no certificate proves the key"


@pytest.mark.parametrize("name", ["", "site", "rk://other/site/instance", "rk://", "rk://x/../y", "rk:///" + 99 * "/"])
async def test_no_certificate_that_is_not_a_members_renews(renewals, name):
    with pytest.raises(Forbidden, match="no site of this federation"):
        await renewals.again(name, "")


async def test_a_challenge_is_asked_for_before_the_log_is(identity, renewals):
    async def asked(name):
        raise AssertionError(name)

    renewals._member = asked
    with pytest.raises(Forbidden, match="ask for another"):
        await renewals.renew(request(identity, b"x" * 56))


async def test_many_requests_that_are_refused_make_few_lines(controller, identity, renewals):
    clock = renewals._clock = Hand()
    body = msgspec.json.encode(request(identity, b"x" * 56))
    with structlog.testing.capture_logs() as logged:
        async with aiohttp.ClientSession() as session:
            for at in [1000.0] * 20 + [1011.0]:
                clock.at = at
                async with session.post(f"{controller.url}/renew/v2", data=body, ssl=False) as answer:
                    assert answer.status == 403
    assert [one["refused"] for one in logged if one["event"] == "certificate_not_renewed"] == [1, 20]


async def test_one_request_that_comes_twice_at_once_counts_once(identity, renewals):
    asked, look = request(identity, renewals._challenges.make()), renewals._member
    both = asyncio.Barrier(2)

    async def member(name):
        await both.wait()
        return await look(name)

    renewals._member = member
    done = await asyncio.gather(renewals.renew(asked), renewals.renew(asked), return_exceptions=True)
    assert sorted(isinstance(one, Forbidden) for one in done) == [False, True]


async def test_a_request_counts_once(identity, renewals):
    asked = request(identity, renewals._challenges.make())
    await renewals.renew(asked)
    with pytest.raises(Forbidden, match="was used"):
        await renewals.renew(asked)


@pytest.mark.parametrize(
    "change", [{"cluster": "c" * 32}, {"name": "RegionTwo"}, {"instance": "b" * 32}, {"csr": "new"}]
)
async def test_nothing_of_a_request_can_be_changed_and_it_is_bound_to_what_it_names(identity, renewals, change):
    good = request(identity, renewals._challenges.make())
    if "csr" in change:
        change = {"csr": request(identity, b"").csr}
    with pytest.raises(Forbidden, match="not signed with the key"):
        await renewals.renew(msgspec.structs.replace(good, **change))
    if "csr" not in change:
        with pytest.raises(Forbidden, match="federation"):
            await renewals.renew(request(identity, renewals._challenges.make(), **change))


class Hand:
    """A clock that a test turns."""

    def __init__(self):
        self.at = 1000.0

    def ticks(self):
        return self.at


def test_a_challenge_is_of_this_process_young_and_good_once():
    clock = Hand()
    mine, other = Challenges(clock), Challenges(clock)
    first = mine.make()
    assert not mine.take(other.make())
    assert not mine.take(first[:-1] + bytes([first[-1] ^ 1]))
    assert not mine.take(b"")
    assert mine.take(first)
    assert not mine.take(first)
    late = mine.make()
    clock.at += GOOD_S + 1
    assert not mine.take(late)
    assert not mine.take(first), "nor when it was forgotten that it was used"
    assert mine.take(mine.make())
    assert len(mine._used) == len(mine._order) == 1


async def test_a_record_of_the_version_before_tells_the_key_as_well(controller, identity, renewals):
    member = await controller.overlay.get(Site, NAME)
    await controller.write(msgspec.structs.replace(member, tls_key=None))
    await renewals.renew(request(identity, renewals._challenges.make()))


async def test_whoever_answers_without_end_is_left(controller, identity, monkeypatch):
    monkeypatch.setattr("regional_keystone.enrol._ANSWER_BYTES", 100)
    with pytest.raises(Unavailable):
        await identity.renew([controller.url])


async def test_rubbish_is_refused_without_a_fault(controller, identity):
    tls = pinned(identity.directory / "ca.crt")
    async with aiohttp.ClientSession() as session:
        for body in (b"", b"{}", b"x" * 1000, msgspec.json.encode(request(identity, b"", csr="none"))):
            async with session.post(f"{controller.url}/renew/v2", data=body, ssl=tls) as answer:
                assert answer.status == 400


async def test_a_certificate_of_another_instance_does_not_renew_though_the_key_is_the_same(identity, renewals):
    member, csr = identity.membership(), request(identity, b"").csr
    name = f"rk://{member.cluster}/{NAME}/"
    assert await renewals.again(name + member.instance, csr)
    for other in ("b" * 32, "", member.instance + "/more"):
        with pytest.raises(Forbidden, match="no site of this federation"):
            await renewals.again(name + other, csr)
