"""Rings find their way to a site whatever it missed, lost, or was given back from a backup."""

import asyncio
import shutil

import msgspec
import pytest
import structlog
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller import sites
from controller.acknowledgements import Acknowledged
from controller.authority import Authority
from regional_keystone.bundle import FORMAT, LINEAGE, Seen, read_header
from regional_keystone.key_directory import read_directory, write_directory
from regional_keystone.keys import KeyRing
from regional_keystone.messages import VERSION, Acknowledge, Hello
from regional_keystone.model import Ring, Site
from tests.cloud import TERMS, Cloud, eventually, running
from tests.language.former_bundle import seal_former

NAME = "RegionOne"


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, (NAME,)) as made:
        yield made


async def ring(controller):
    return await controller.overlay.get(Ring, "token")


async def sealed_again(controller, times=1):
    """The ring in so many further epochs, with the same keys, as enrolling sites does it."""
    for _ in range(times):
        await controller.write(msgspec.structs.replace(await ring(controller), sealed_at=0))
        assert await controller.sites.refresh()


async def with_other_keys(cloud):
    """The site, stopped, holds another ring of the epoch that it had, which nobody of the federation has made."""
    site = cloud.sites[NAME]
    seen = site.holder.seen
    await site.stop()
    strange = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, seen.epoch)
    write_directory(site.directory / "keys", strange)
    return strange


async def holds_the_newest(cloud):
    site = cloud.sites[NAME]

    async def level():
        newest = await ring(cloud.controller)
        return site.holder.seen == (newest.epoch, newest.fingerprint)

    await eventually(level)


async def test_a_bundle_names_the_rings_before_it_and_what_the_site_has_acknowledged_and_promises_isolation(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    await eventually(lambda: controller.acknowledged(NAME).rings.get("token") == site.holder.seen)
    before = site.holder.seen
    await sealed_again(controller)
    about = read_header((await ring(controller)).sealed[NAME])
    assert about.previous == before.fingerprint
    assert about.held == before
    assert about.isolation_us == TERMS.isolation_us
    assert len((await ring(controller)).lineage) == about.epoch - 1


async def test_a_site_that_is_far_behind_and_of_which_nothing_is_known_is_helped_on_by_itself(cloud):
    """FM-85: the controller seals what follows what the site says that it holds."""
    controller, site = cloud.controller, cloud.sites[NAME]
    await site.stop()
    await controller.acknowledgements.forget(NAME)
    await sealed_again(controller, LINEAGE + 2)
    epoch = (await ring(controller)).epoch
    with structlog.testing.capture_logs() as logged:
        await site.start()
        await holds_the_newest(cloud)
    assert (await ring(controller)).epoch == epoch + 1, "and once is enough"
    assert [one["why"] for one in logged if one["event"] == "site_helped_on"] == ["gap"]


async def test_a_site_that_holds_a_ring_that_nobody_made_is_left_to_the_operator(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    strange = await with_other_keys(cloud)
    await sealed_again(controller)
    with structlog.testing.capture_logs() as logged:
        await site.start()
        await eventually(lambda: any(one["event"] == "site_holds_another_ring" for one in logged))
    await eventually(lambda: site.holder.refused["forked"])
    assert site.holder.ring == strange, "it keeps what it has, and goes on"
    assert not await controller.sites.catch_up(NAME, {"token": site.holder.seen})
    assert await controller.sites.catch_up(NAME, {"token": site.holder.seen}, reset=True) == ["token"]
    await holds_the_newest(cloud)


async def test_nothing_is_sealed_for_who_is_level_ahead_or_no_site(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    head = controller.sequencer.head
    for name, held in (
        (NAME, site.holder.seen),
        (NAME, Seen(10**6, "0" * 32)),
        ("nobody", Seen(1, "0" * 32)),
    ):
        assert not await controller.sites.catch_up(name, {"token": held, "unknown": held}, reset=True)
    assert controller.sequencer.head == head


async def test_a_site_whose_whole_disk_was_put_back_is_noticed_and_takes_up_the_newest_ring(cloud):
    """FM-82: the site itself has forgotten what it had, and the controller tells it."""
    controller, site = cloud.controller, cloud.sites[NAME]
    await site.stop()
    backup = site.directory.with_name("backup")
    shutil.copytree(site.directory, backup)
    await site.start()
    await sealed_again(controller, 2)
    newest = (await ring(controller)).epoch
    await eventually(lambda: controller.acknowledged(NAME).rings.get("token", (0,))[0] == newest)
    await site.stop()
    shutil.rmtree(site.directory)
    backup.rename(site.directory)
    assert int((site.directory / "token.epoch").read_text()) < newest
    with structlog.testing.capture_logs() as logged:
        await site.start()
        await holds_the_newest(cloud)
    said = {one["event"] for one in logged}
    assert {"site_went_back", "ring_went_back"} <= said
    assert int((site.directory / "token.epoch").read_text()) == newest


async def test_rings_of_the_former_format_are_sealed_anew_at_the_start(tmp_path):
    """As after an upgrade: the log has what the version before put there."""
    cloud = Cloud(tmp_path, (NAME,))
    await cloud.start()
    try:
        controller, site = cloud.controller, cloud.sites[NAME]
        record, member = await ring(controller), await controller.overlay.get(Site, NAME)
        names = (controller.authority.cluster, NAME, "token")
        old = seal_former(
            controller.holder.ring, names, controller.clock.now(), "", member.box_key, controller.authority.signer
        )
        mine = {**record.sealed, NAME: old}
        await controller.write(msgspec.structs.replace(record, sealed=mine))
        await cloud.level()
        shutil.rmtree(site.directory / "keys")
        await site.stop()
        await site.start()
        assert site.holder.seen == (record.epoch, record.fingerprint), "it still opens"
        assert await controller.sites.refresh()
        assert {read_header(one).format for one in (await ring(controller)).sealed.values()} == {FORMAT}
        await holds_the_newest(cloud)
        assert await asyncio.to_thread(read_directory, site.directory / "keys") == site.holder.ring
        assert not await controller.sites.refresh()
    finally:
        await cloud.stop()


async def test_a_signature_of_another_signer_leaves_the_site_with_what_it_has(cloud, monkeypatch):
    controller, site = cloud.controller, cloud.sites[NAME]
    before, stranger = site.holder.seen, Ed25519PrivateKey.generate()
    monkeypatch.setattr(Authority, "signer_of", lambda *_: stranger)
    await sealed_again(controller)
    await eventually(lambda: site.holder.refused["unknown_signer"])
    assert site.holder.seen == before


async def test_what_a_site_says_that_it_holds_makes_no_bundle_larger_than_one_may_be(cloud):
    """Else no controller could read the log's ring again, nor start."""
    controller, site = cloud.controller, cloud.sites[NAME]
    instance = site.identity.membership().instance
    await site.stop()
    controller.acknowledgements.note(NAME, instance, Acknowledge(1, {"token": (3, "0" * 70_000)}))
    await sealed_again(controller)
    assert read_header((await ring(controller)).sealed[NAME]).held is None
    stored = Acknowledged(instance, 1, {"token": (3, "0" * 70_000)})  # by a controller of a version before
    await controller.store.acknowledge(NAME, msgspec.msgpack.encode(stored))
    controller.acknowledgements.left(NAME)
    await controller.acknowledgements.refresh()
    await sealed_again(controller)
    assert read_header((await ring(controller)).sealed[NAME]).held is None
    hello = Hello(VERSION, controller.authority.cluster, NAME, instance, 1, rings={"token": (3, "0" * 70_000)})
    await controller.replicator.greeted(hello)
    assert read_header((await ring(controller)).sealed[NAME]).held is None


async def test_a_bundle_in_the_log_that_nobody_can_read_is_sealed_again(cloud):
    controller, site = cloud.controller, cloud.sites[NAME]
    for bad in (b"\x00" * 70_410, b"no bundle"):
        record = await ring(controller)
        await controller.write(msgspec.structs.replace(record, sealed={**record.sealed, NAME: bad}))
        assert await controller.sites.refresh()
        assert not await controller.sites.refresh()
        await holds_the_newest(cloud)
    record = await ring(controller)
    await controller.write(msgspec.structs.replace(record, sealed={**record.sealed, NAME: b"no bundle"}))
    assert await controller.sites.catch_up(NAME, {"token": site.holder.seen}) == ["token"]
    await holds_the_newest(cloud)


async def test_a_site_that_says_now_this_now_that_is_helped_on_once_a_minute(cloud, monkeypatch):
    """Each time is an epoch for all."""
    controller, site = cloud.controller, cloud.sites[NAME]
    instance = site.identity.membership().instance
    await site.stop()
    await controller.acknowledgements.forget(NAME)
    await sealed_again(controller, LINEAGE + 2)
    epoch = (await ring(controller)).epoch
    monkeypatch.setattr(sites, "HELP_S", 1.0)

    def greeted(number):
        held = {"token": (1, f"{number:032x}")}
        hello = Hello(VERSION, controller.authority.cluster, NAME, instance, 1, rings=held)
        return asyncio.create_task(controller.replicator.greeted(hello))

    await greeted(0)
    more = [greeted(number) for number in range(1, 4)]
    done, _ = await asyncio.wait(more, timeout=0.2)
    assert not done
    assert (await ring(controller)).epoch == epoch + 1
    for waiting in more[1:]:
        waiting.cancel()
    await more[0]
    assert (await ring(controller)).epoch == epoch + 2, "the last one is not forgotten"
