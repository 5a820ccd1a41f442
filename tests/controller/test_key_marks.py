"""What operators see of condemned keys, and that condemning again, or what nobody has seen, surprises nobody."""

import json

import pytest

from controller.admin_compromise import old_counts
from controller.compromise import Wanted, times_away
from controller.turning import part_at
from regional_keystone.keys import KeyRing
from regional_keystone.model import KeyTimes, Ring, Site
from tests.cloud import eventually, running
from tests.controller.test_compromise import FRESH, NAME, RING, TERMS, Ahead, away, ids, ring, rows, times_in_log
from tests.controller.test_key_status import SECOND, asked, rkctl, text, told

STOLEN = ("keys", "compromised", "--yes")
NEVER_SEEN = "0123456789abcdef"


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=30.0) as made:
        yield made


@pytest.fixture
async def ask(cloud, tmp_path):
    async with asked(cloud.controller, tmp_path) as asks:
        yield asks


async def turned(cloud, epoch):
    """Every site holds the ring of this epoch."""
    sites = cloud.sites.values()
    await eventually(lambda: {one.holder.seen.epoch for one in (cloud.controller, *sites)} == {epoch})


async def test_a_condemned_key_is_shown_as_such_with_its_time_and_for_good(cloud, ask, tmp_path):
    controller = cloud.controller
    [stolen] = ids(controller, 1)
    code, out, error = await rkctl(tmp_path, *STOLEN, "--key", stolen, "--why", "a copy was found")
    assert code == 0, error
    assert f"condemned: {stolen}" in out
    code, out, _ = await rkctl(tmp_path, "keys", "status", "--json")
    found = json.loads(told(out))
    [shown] = [key for key in found["rings"]["token"]["keys"] if key["id"] == stolen]
    at = (await rows(controller))[stolen].at
    assert (shown["state"], shown["condemned_at"], shown["number"]) == ("condemned", at, None)
    assert {key["state"] for key in found["rings"]["token"]["keys"] if key["id"] != stolen} <= {
        "primary",
        "staged",
        "acknowledged",
    }
    [listed] = found["condemned"]
    assert (listed["id"], listed["ring"], listed["why"]) == (stolen, "token", "a copy was found")
    [line] = [line for line in text(found).splitlines() if stolen in line]
    assert "condemned" in line
    assert "for good" in line
    assert "in no ring" not in text(found), "it is told with the ring that had it"
    # As in the ring of credentials, where it has to open what it has sealed, or before the ring has turned away.
    found["rings"]["token"]["keys"][1] |= {"state": "condemned", "condemned_at": at}
    cells = [line.split("│")[5].strip() for line in text(found, "token").splitlines() if line.startswith("│ Region")]
    assert cells == ["C", "C"]
    found["condemned"] += [listed | {"id": f"{number:016x}", "why": "[x]"} for number in range(12)]
    shown = text(found)
    assert "condemned, and in no ring" in shown
    assert "[x]" in shown
    assert "and 2 more" in shown
    assert "in no ring" not in text(found, "token")


async def test_to_condemn_a_key_again_says_when_it_was_done_and_changes_nothing(cloud, ask, tmp_path):
    controller = cloud.controller
    [stolen] = ids(controller, 1)
    assert (await rkctl(tmp_path, *STOLEN, "--key", stolen))[0] == 0
    await turned(cloud, (await ring(controller)).epoch)
    before = (await ring(controller)).checks
    code, out, error = await rkctl(tmp_path, "keys", "compromised", "--key", stolen)
    assert code == 0, "nobody is asked, since there is nothing to do"
    assert f"{stolen} was condemned before, " in out
    assert "refused at 2 of 2 sites" in out
    assert "Condemn these keys?" not in error
    code, out, _ = await rkctl(tmp_path, *STOLEN, "--key", stolen, "--json")
    found = json.loads(told(out))
    assert (code, found["condemned"], found["before"], found["turned"]) == (0, [stolen], [stolen], {})
    assert await times_in_log(controller, "condemned") == 1
    assert (await ring(controller)).checks == before


async def test_to_name_a_stolen_site_again_condemns_nothing_that_was_made_after_it_had_left(cloud, ask, tmp_path):
    """Who was told that some site was not heard yet asks again: the ring that all the others have must not go too."""
    controller = cloud.controller
    held = set((await ring(controller)).checks.values())
    code, _, error = await rkctl(tmp_path, *STOLEN, "--site", "RegionTwo")
    assert code == 0, error
    made = (await ring(controller)).checks
    assert held.isdisjoint(made.values())
    assert (await controller.overlay.get(Site, "RegionTwo")).left_in == {"token": 1 + 2, "receipt": 1 + 2}
    assert await controller.compromise.meant(Wanted(site="RegionTwo")) == []
    code, out, error = await rkctl(tmp_path, *STOLEN, "--site", "RegionTwo")
    assert code == 0
    assert "no key that it had is in use any more" in out
    assert "RegionTwo was removed before" in error
    assert (await ring(controller)).checks == made
    await controller.rotator.turn()
    assert await controller.compromise.meant(Wanted(site="RegionTwo")) == []


async def test_of_a_site_that_left_in_peace_the_keys_that_it_held_are_meant(cloud):
    controller = cloud.controller
    await controller.sites.remove("RegionTwo")
    held = set((await ring(controller)).checks.values())
    await controller.rotator.turn()
    meant = {key.id for key in await controller.compromise.meant(Wanted(site="RegionTwo")) if key.ring == "token"}
    assert meant == held
    assert meant < set((await ring(controller)).checks.values())


async def test_a_key_that_nobody_has_seen_is_condemned_only_if_that_is_said(cloud, ask, tmp_path):
    controller = cloud.controller
    code, _, error = await rkctl(tmp_path, *STOLEN, "--key", NEVER_SEEN)
    assert code == 1
    assert "Nobody has seen a key 0123456789abcdef" in error
    assert "--unknown" in error
    code, _, error = await rkctl(tmp_path, *STOLEN, "--key", "0x1", "--unknown")
    assert (code, "is no id of a key" in error) == (1, True)
    code, _, error = await rkctl(tmp_path, *STOLEN, "--all", "--unknown")
    assert (code, "--key ID" in error) == (1, True)
    assert await rows(controller) == {}
    before = (await ring(controller)).checks
    code, out, error = await rkctl(tmp_path, *STOLEN, "--key", NEVER_SEEN, "--unknown")
    assert code == 0, error
    assert "never seen" in error
    assert f"condemned: {NEVER_SEEN}" in out
    assert all(NEVER_SEEN in site.follower.condemned for site in cloud.sites.values())
    assert (await ring(controller)).checks == before, "no ring has it"
    code, out, _ = await rkctl(tmp_path, *STOLEN, "--key", NEVER_SEEN)
    assert (code, f"{NEVER_SEEN} was condemned before" in out) == (0, True), "by now it is known"
    record, gone = await ring(controller), "ab" * 8
    fields = {name: getattr(record, name) for name in Ring.__struct_fields__} | {"retired": {gone: KeyTimes()}}
    await controller.write(Ring(**fields))
    [key] = await controller.compromise.meant(Wanted(key=gone))
    assert (key.ring, key.held_by) == ("token", ()), "one that was retired is known"


async def test_the_counts_say_how_old_they_are(cloud, ask):
    controller, site = cloud.controller, cloud.sites["RegionTwo"]
    [primary], now = ids(controller, 1), controller.clock.now()
    for node in cloud.sites.values():
        node.follower.note_sealed(primary, now)
        node.follower.progress()
        await eventually(lambda node=node: controller.acknowledged(node.name).issued)
    await site.stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    controller.compromise._clock = Ahead(controller.clock)
    controller.compromise._clock.us = 3725 * SECOND
    cost = await ask("/keys/compromised/cost", {"wanted": {"key": primary}})
    assert cost["counted_s_ago"]["RegionOne"] == cost["counted_s_ago"]["controller"] == 0.0
    assert 3725 <= cost["counted_s_ago"]["RegionTwo"] < 3900
    said = " ".join(cost["what_happens"])
    assert "What RegionTwo has issued is 1 h 2 min old: it is out of reach" in said
    assert "RegionOne has issued" not in said
    assert old_counts({"Oslo": 59.0, "Rome": None}) == [
        "What Rome has issued is of unknown age: it is out of reach, and may have issued more since."
    ]


@pytest.mark.parametrize("stolen", [(0,), (0, 1, 2, 3)])
def test_a_key_that_nobody_had_staged_is_no_ones_who_has_the_ring_before(stolen):
    """Else a site that lags would be shown as holding a key that it has never seen."""
    times = dict.fromkeys(NAME, KeyTimes(staged_in=1))
    record = Ring(id="token", epoch=7, fingerprint="", checks=dict(NAME), sealed={}, turned_at=40, times=times)
    made = away(RING, {NAME[number] for number in stolen}, FRESH)
    assert isinstance(made, KeyRing)
    found = times_away(record, RING, made, TERMS, 100)
    fresh = [number for number, key in made.numbers.items() if key in FRESH]
    assert fresh
    assert [part_at(found.times[number], 7) for number in fresh] == [""] * len(fresh)


async def test_a_condemned_signing_key_is_shown_as_such(tmp_path):
    async with running(tmp_path, ("Oslo",), signs=True) as cloud, asked(cloud.controller, tmp_path) as ask:
        oslo = cloud.sites["Oslo"].signatory

        async def in_use():
            return [one["id"] for one in await ask("/signing/status") if one["state"] == "in use"]

        async def oslos():
            return oslo.key_id in await in_use()

        await eventually(oslos)
        stolen = oslo.key_id
        code, out, error = await rkctl(tmp_path, *STOLEN, "--key", stolen)
        assert code == 0, error
        [shown] = [one for one in await ask("/signing/status") if one["id"] == stolen]
        assert (shown["state"], shown["condemned_at"]) == ("condemned", (await rows(cloud.controller))[stolen].at)
        code, out, _ = await rkctl(tmp_path, "signing", "status")
        assert (code, "condemned" in out) == (0, True)
