"""The signer of bundles is turned while every site goes on, and what the old one signs counts no more after that."""

import dataclasses
import shutil

import msgspec
import pytest

from controller.authority import HOLDER, Authority
from controller.signer_turn import SignerTurn
from regional_keystone.bundle import read_header, signer_id
from regional_keystone.enrol import JoinToken
from regional_keystone.errors import Conflict
from regional_keystone.holder import TOKEN
from regional_keystone.log import put
from regional_keystone.model import Ring
from regional_keystone.overlay import transact
from regional_keystone.signer_chain import SIGNERS, root
from tests.cloud import Cloud, ControllerNode, SiteNode, eventually, running

NAME, OTHER = "RegionOne", "RegionTwo"


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, (NAME, OTHER)) as made:
        yield made


def turning(controller, deadline_s=5.0):
    return SignerTurn(
        authority=controller.authority,
        sites=controller.sites,
        overlay=controller.overlay,
        sequencer=controller.sequencer,
        replicator=controller.replicator,
        clock=controller.clock,
        deadline_s=deadline_s,
    )


async def ring(controller):
    return await controller.overlay.get(Ring, "token")


async def holds_the_newest(cloud, site):
    async def level():
        newest = await ring(cloud.controller)
        return site.holder.seen == (newest.epoch, newest.fingerprint)

    await eventually(level)


async def test_the_signer_is_turned_without_starting_a_site_and_again(cloud):
    controller = cloud.controller
    streams = [site.link.reconnects for site in cloud.sites.values()]
    signers = [controller.authority.signer_key]
    for _ in range(2):
        done = await turning(controller).turn()
        trusted = controller.follower.chain.trusted
        assert done["ceasing"] == []
        assert done["retired"] == [signer_id(one) for one in signers]
        assert trusted.signing not in signers
        signers.append(trusted.signing)
        sealed = (await ring(controller)).sealed
        assert {read_header(one).signer for one in sealed.values()} == {signer_id(trusted.signing)}
        for site in cloud.sites.values():
            await eventually(lambda site=site, trusted=trusted: site.follower.chain.trusted == trusted)
            assert site.identity.trusted() == trusted, "and durably"
            assert site.holder.signers == trusted.signers
    assert await controller.rotator.turn()
    for site in cloud.sites.values():
        await holds_the_newest(cloud, site)
    assert streams == [site.link.reconnects for site in cloud.sites.values()]
    assert all(not site.holder.refused for site in cloud.sites.values())


async def test_no_step_is_made_upon_what_another_controller_has_stated_meanwhile(cloud, monkeypatch):
    """Its spare was waited for; whether all know the one that the other turn has made, this turn cannot say."""
    controller = cloud.controller
    mine, others = turning(controller), []
    acknowledged = mine._acknowledged

    async def waited_while_another_turns(lacking):
        await acknowledged(lacking)
        if not others:
            others.append(await turning(controller).turn())

    monkeypatch.setattr(mine, "_acknowledged", waited_while_another_turns)
    with pytest.raises(Conflict, match="meanwhile"):
        await mine.turn()
    [other] = others
    assert controller.follower.chain.trusted.number == other["number"]
    assert len(controller.follower.chain.trusted.retired) == 1


async def test_a_bundle_that_a_retired_signer_signs_is_refused_and_the_site_goes_on(cloud, monkeypatch):
    """As a thief of the old key would make it who can also write to the log."""
    controller, site = cloud.controller, cloud.sites[NAME]
    await turning(controller).turn()
    before = site.holder.seen
    monkeypatch.setattr(Authority, "signer_of", lambda authority, _: authority.signer)
    await controller.sites.distribute(["token"])
    await eventually(lambda: site.holder.refused["retired_signer"])
    assert (await ring(controller)).epoch > before.epoch
    assert site.holder.seen == before
    assert site.holder.ring.fingerprint == before.fingerprint


async def test_while_a_site_does_not_acknowledge_both_count_and_it_goes_on_when_it_is_asked_again(cloud):
    controller, site = cloud.controller, cloud.sites[OTHER]
    await site.stop()
    before = await ring(controller)
    with pytest.raises(Conflict, match=f"{OTHER} the spare signer is not known yet"):
        await turning(controller, 0.2).turn()

    async def only_it():
        return (await turning(controller).status())["waits_for"] == [OTHER]

    await eventually(only_it)
    status = await turning(controller).status()
    assert (status["waits_for"], status["ceasing"], status["retired"]) == ([OTHER], [], [])
    assert status["spare"] is not None
    assert (await ring(controller)).epoch == before.epoch, "nothing is signed with it yet"
    with pytest.raises(Conflict):
        await turning(controller, 0.0).turn()
    assert (await turning(controller).status())["spare"] == status["spare"], "no second one is made"
    await site.start()
    assert (await turning(controller).turn())["signing"] == status["spare"]


async def test_a_spare_signer_is_made_once_and_known_to_all_before_anybody_is_in_a_hurry(cloud):
    controller, site = cloud.controller, cloud.sites[OTHER]
    before, signing = await ring(controller), controller.follower.chain.trusted.signing
    assert await turning(controller).spare()
    status = await turning(controller).status()
    assert (status["waits_for"], status["ceasing"], status["signing"]) == ([], [], signer_id(signing))
    assert (controller.authority.directory / f"signer-{status['spare']}.key").stat().st_mode & 0o777 == 0o400
    assert await ring(controller) == before, "nothing is signed with it"
    for one in cloud.sites.values():
        assert [signer_id(known) for known in one.identity.trusted().signers] == [signer_id(signing), status["spare"]]
    assert not await turning(controller).spare(), "it is there"
    assert (await turning(controller).status())["spare"] == status["spare"]
    await site.stop()
    assert not await turning(controller, 0.0).spare(), "who knows it may be away"
    with pytest.raises(Conflict, match=f"{OTHER} rings that the new signer"):
        await turning(controller, 0.2).turn()
    assert (await turning(controller).status())["signing"] == status["spare"], "it signs at once"


async def test_a_spare_signer_that_a_site_does_not_know_yet_is_told_as_such(cloud):
    await cloud.sites[OTHER].stop()
    with pytest.raises(Conflict, match=f"{OTHER} the spare signer is not known yet"):
        await turning(cloud.controller, 0.0).spare()
    await cloud.sites[OTHER].start()
    assert not await turning(cloud.controller).spare()


async def test_a_quarantined_site_is_not_waited_for_and_follows_when_it_comes(cloud):
    controller, site = cloud.controller, cloud.sites[OTHER]
    await site.stop()
    await controller.sites.mark(OTHER, "quarantine", state="quarantined")
    await turning(controller).turn()
    await turning(controller).turn()
    assert site.identity.trusted().number == 0
    await site.start()
    await holds_the_newest(cloud, site)
    await eventually(lambda: site.identity.trusted() == controller.follower.chain.trusted)


async def test_who_joins_afterwards_begins_with_what_counts_by_then(cloud, tmp_path):
    controller = cloud.controller
    await turning(controller).turn()
    site = SiteNode("RegionThree", tmp_path / "RegionThree")
    await site.identity.join(JoinToken.read(await controller.sites.invite("RegionThree")))
    assert site.identity.trusted() == controller.follower.chain.trusted
    await site.start()
    try:
        await holds_the_newest(cloud, site)
    finally:
        await site.stop()


async def test_a_site_that_joined_with_the_version_before_begins_with_what_it_was_told(cloud):
    site = cloud.sites[NAME]
    site.identity.chain_path.unlink()
    told = root(cloud.controller.authority.cluster, cloud.controller.authority.signer_key)
    assert site.identity.trusted() == told


async def test_a_turn_that_was_broken_off_after_the_change_is_finished(cloud):
    controller, acts = cloud.controller, turning(cloud.controller)
    refresh = controller.sites.refresh

    async def killed():
        raise KeyError

    controller.sites.refresh = killed
    with pytest.raises(KeyError):
        await acts.turn()
    controller.sites.refresh = refresh
    status = await acts.status()
    assert len(status["ceasing"]) == 1
    done = await acts.turn()
    assert (done["signing"], done["retired"]) == (status["signing"], status["ceasing"])


@pytest.mark.parametrize("bundle", [b"", b"rubbish", msgspec.msgpack.encode([2, b"", b"", b""])])
async def test_a_bundle_of_the_log_that_is_none_holds_the_turn_up_with_a_reason_until_it_is_sealed_again(cloud, bundle):
    controller, acts = cloud.controller, turning(cloud.controller)

    async def damage(reader):
        old = await reader.get(Ring, TOKEN)
        return [put(msgspec.structs.replace(old, sealed=old.sealed | {HOLDER: bundle}), old)], None

    await transact(controller.overlay, controller.sequencer, "damage", damage)
    refresh, controller.sites.refresh = controller.sites.refresh, nothing
    with pytest.raises(Conflict, match="has not been signed anew"):
        await acts.turn()
    controller.sites.refresh = refresh
    assert len((await acts.turn())["retired"]) == 1


async def nothing():
    pass


async def test_signers_are_known_after_a_start_of_controller_and_site(cloud):
    controller = cloud.controller
    await turning(controller).turn()
    trusted = controller.follower.chain.trusted
    for node in (*cloud.sites.values(), controller):
        await node.stop()
    await controller.start()
    for site in cloud.sites.values():
        await site.start()
        assert site.follower.chain.trusted == trusted
    await eventually(lambda: controller.follower.chain.trusted == trusted)
    await cloud.level()
    assert await controller.rotator.turn()


async def test_a_second_controller_without_the_new_key_says_which_file_to_copy(tmp_path):
    cloud = Cloud(tmp_path, (NAME,))
    cloud.controller.shared = True
    await cloud.controller.start()
    second = ControllerNode(tmp_path / "second", beside=cloud.controller)
    second.authority_dir = tmp_path / "copy"
    shutil.copytree(cloud.controller.authority_dir, second.authority_dir)
    second.wake = cloud.controller.wake
    try:
        await second.start()
        await turning(cloud.controller).turn()
        number = cloud.controller.follower.chain.trusted.number
        await eventually(lambda: second.follower.chain.trusted.number >= number)
        with pytest.raises(Conflict, match=r"has no key of signer [0-9a-f]{16}.*install -m 0400"):
            await second.sites.distribute(["token"])
        for file in cloud.controller.authority_dir.glob("signer-*.key"):
            shutil.copy2(file, second.authority_dir)
        assert await second.sites.distribute(["token"])
    finally:
        await second.stop()
        await cloud.stop()


async def test_where_no_key_can_be_kept_nothing_is_begun(cloud):
    acts = turning(cloud.controller)
    acts._authority = dataclasses.replace(cloud.controller.authority, lent=True)
    for act in (acts.would_turn, acts.turn):
        with pytest.raises(Conflict, match="no new key can be kept"):
            await act()
    status = await acts.status()
    assert (status["number"], status["spare"]) == (0, None)


async def test_a_chain_that_does_not_follow_changes_nothing(cloud, capsys):
    site = cloud.sites[NAME]
    trusted = site.follower.chain.trusted
    await site.follower.chain.follow([b"nonsense"])
    other = msgspec.structs.replace(trusted, number=trusted.number + 1)
    await site.follower.chain.follow([msgspec.msgpack.encode([1, msgspec.msgpack.encode(other), "", b""])])
    assert site.follower.chain.trusted == trusted
    assert capsys.readouterr().out.count("signers_refused") == 2
    assert SIGNERS in site.follower.seen
