"""The CA is turned while every site goes on, and a certificate of the old one opens nothing after that."""

import dataclasses
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from controller.authority import Authority, Cas, ca_id
from controller.ca_turn import CaTurn
from controller.doctor import _certificates
from controller.settings import Settings
from regional_keystone.enrol import Identity, JoinToken, Welcome, _csr, ca_bundle
from regional_keystone.errors import Conflict, StoreRefused, Unavailable
from regional_keystone.settings import Site
from tests.cloud import eventually, running

NAME, OTHER = "RegionOne", "RegionTwo"
NOW = 1_772_000_000_000_000


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, (NAME, OTHER)) as made:
        yield made


def turning(controller, deadline_s=5.0, authority=None):
    return CaTurn(
        authority=authority or controller.authority,
        sites=controller.sites,
        replicator=controller.replicator,
        clock=controller.clock,
        deadline_s=deadline_s,
    )


async def anew(controller):
    await controller.stop()
    await controller.start()


async def step(cloud):
    """One step, the start of the controller that it asks for, and what it says."""
    done = await turning(cloud.controller).turn()
    await anew(cloud.controller)
    return done


async def told(site, number):
    await eventually(lambda: site.identity.cas.epoch == number)


async def test_the_ca_is_turned_without_starting_a_site(cloud, tmp_path):
    controller, old = cloud.controller, cloud.controller.authority.ca
    thief = Identity(tmp_path / "copy")
    shutil.copytree(cloud.sites[NAME].identity.directory, thief.directory)
    followers = [site.follower for site in cloud.sites.values()]
    said, spare = [], [(await turning(controller).spare())["done"]]
    await anew(controller)
    spare.append((await turning(controller).spare())["made"])
    for number in (1, 2, 3):
        said.append((await step(cloud))["done"] if number > 1 else spare[0])
        if number == 2:
            with pytest.raises(Conflict, match="being turned"):
                await turning(controller).spare()
            spare.append("being turned")
        for site in cloud.sites.values():
            await told(site, number)
            site.identity.certificate().verify_directly_issued_by(controller.authority.ca)
    assert spare == ["the next one is announced", False, "being turned"]
    assert said == ["the next one is announced", "the next one issues", "the old one is ended"]
    new = controller.authority.ca
    assert new.public_key() != old.public_key()
    assert controller.authority.trusted == (new,)
    for site in cloud.sites.values():
        assert x509.load_pem_x509_certificates((site.identity.directory / "ca.crt").read_bytes()) == [new]
        assert site.identity.ends_at()["ca"] == int(new.not_valid_after_utc.timestamp() * 1_000_000)
    with pytest.raises(Unavailable):
        await thief.renew([controller.url])
    status = await turning(controller).status()
    assert (status["ca_number"], status["ca_next"]) == (3, "announce the next one")
    assert status["cas"] == [f"{ca_id(new)} until {new.not_valid_after_utc:%Y-%m-%d}"]
    assert await controller.rotator.turn()
    await cloud.level()
    assert followers == [site.follower for site in cloud.sites.values()]


async def test_the_next_one_issues_only_when_every_active_site_trusts_it(cloud):
    controller, site = cloud.controller, cloud.sites[OTHER]
    await site.stop()
    await step(cloud)

    async def only_it():
        return (await turning(controller).status())["ca_waits_for"] == [OTHER]

    await eventually(only_it)
    with pytest.raises(Conflict, match=f"In {OTHER} the CAs that count are not known yet"):
        await turning(controller, 0.2).turn()
    assert Authority.open(controller.authority_dir, NOW).cas.number == 1
    assert (await turning(controller).status())["ca_waits_for"] == [OTHER]
    await site.start()
    assert (await turning(controller).turn())["ca_number"] == 2


async def test_a_quarantined_site_that_heard_of_the_next_one_comes_back_by_its_key_and_another_joins_anew(cloud):
    controller, heard, missed = cloud.controller, cloud.sites[NAME], cloud.sites[OTHER]
    await missed.stop()
    await controller.sites.mark(OTHER, "quarantine", state="quarantined")
    await step(cloud)
    await told(heard, 1)
    begins = heard.identity.certificate().not_valid_before_utc.timestamp()
    assert heard.identity.renewal_due_at() == int((begins + 900) * 1_000_000), "it asks more often meanwhile"
    await heard.stop()
    await controller.sites.mark(NAME, "quarantine", state="quarantined")
    await step(cloud)
    await step(cloud)
    await heard.identity.renew([controller.url])
    assert heard.identity.cas.epoch == 3
    heard.identity.certificate().verify_directly_issued_by(controller.authority.ca)
    with pytest.raises(Unavailable):
        await missed.identity.renew([controller.url])
    await missed.identity.join(JoinToken.read(await controller.sites.invite(OTHER)))
    assert missed.identity.cas.epoch == 3


async def test_a_step_counts_once_the_controller_was_started_anew(cloud):
    acts = turning(cloud.controller)
    assert "cas, ca-" in (await acts.turn())["then"]
    with pytest.raises(Conflict, match="started anew"):
        await acts.turn()
    assert (await acts.status())["ca_next"] == "start this controller anew"


async def test_a_controller_that_was_not_given_the_files_turns_nothing_of_its_own(cloud, tmp_path):
    controller = cloud.controller
    before = shutil.copytree(controller.authority_dir, tmp_path / "before")
    await step(cloud)
    for site in cloud.sites.values():
        await told(site, 1)
    other = turning(controller, authority=Authority.open(before, controller.clock.now()))

    await eventually(lambda: controller.acknowledged(NAME).rings.get("cas"))
    with pytest.raises(Conflict, match="copy cas and ca-"):
        await other.turn()
    shutil.copy2(controller.authority_dir / "cas", before)
    with pytest.raises(StoreRefused, match=r"ca-[0-9a-f]{16}\.crt is missing"):
        Authority.open(before, controller.clock.now())


async def test_where_no_key_can_be_kept_nothing_is_begun(tmp_path):
    lent = dataclasses.replace(Authority.open(tmp_path, NOW), lent=True)
    acts = CaTurn(authority=lent, sites=None, replicator=None, clock=None, deadline_s=0.0)
    for act in (acts.would_turn, acts.turn):
        with pytest.raises(Conflict, match="no new key can be kept"):
            await act()


def test_cas_that_did_not_make_the_certificate_are_not_taken(tmp_path):
    ours, foreign, identity = (
        Authority.open(tmp_path / "ours", NOW),
        Authority.open(tmp_path / "foreign", NOW),
        Identity(tmp_path / "identity"),
    )
    identity._path("ca.crt").write_bytes(ours.ca_pem)
    csr = _csr(ec.generate_private_key(ec.SECP256R1()), NAME)
    certificate = ours.certify(csr, NAME, "a" * 32, NOW, 3600.0)
    for certificates in ([foreign.ca_pem, ours.ca_pem], []):
        with pytest.raises(Unavailable, match="other CAs"):
            identity._trust(Welcome(cluster="", certificate=certificate, cas=ca_bundle(7, certificates).decode()))
    identity._trust(Welcome(cluster="", certificate=certificate, cas=foreign.ca_pem.decode()))
    assert identity._path("ca.crt").read_bytes() == ours.ca_pem
    both = ca_bundle(7, [ours.ca_pem, foreign.ca_pem])
    identity._trust(Welcome(cluster="", certificate=certificate, cas=both.decode()))
    identity._trust(Welcome(cluster="", certificate=certificate, cas=ca_bundle(6, [ours.ca_pem]).decode()))
    assert identity._path("ca.crt").read_bytes() == both, "nor those of a step before"


def test_the_doctor_looks_at_the_one_that_issues(tmp_path):
    authority = Authority.open(tmp_path / "authority", NOW)
    authority.state_cas(Cas(number=3, trusted=(authority.new_ca(NOW),)))
    (check,) = _certificates(Settings(site=Site(state_dir=tmp_path)))
    assert "authority/ca-" in check.detail
