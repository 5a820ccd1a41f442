"""`rkctl trusts flush`: what has ended goes, step by step and from all replicas; what can still be used stays."""

import pytest

from controller import commands_trusts, trusts
from controller.commands_trusts import _flush, _instant
from controller.trusts import Step, Trusts, Wanted
from regional_keystone.errors import Invalid
from regional_keystone.model import RevocationEvent, Trust
from regional_keystone.settings import ConfigurationError
from tests.cloud import KEEP_S, eventually, running

HOUR = 3_600_000_000


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as made:
        made.trusts = Trusts(
            overlay=made.controller.overlay,
            sequencer=made.controller.sequencer,
            clock=made.controller.clock,
            keep_s=KEEP_S,
        )
        made.now = made.controller.clock.now()
        yield made


def trust(name, expires_at=None, **fields):
    fields = {"trustor_user_id": "or", "trustee_user_id": "ee", "project_id": "p", "impersonation": False} | fields
    return Trust(id=name, expires_at=expires_at, **fields)


async def left(node):
    return [row.id async for row in node.overlay.scan(Trust)]


async def events(node):
    return [row.trust_id async for row in node.overlay.scan(RevocationEvent)]


async def test_what_has_ended_goes_everywhere_and_nothing_else(cloud):
    controller, past = cloud.controller, cloud.now - HOUR
    await controller.write(
        trust("ended", past),
        trust("handed-on", past - 1, redelegated_trust_id="ended"),
        trust("later", cloud.now + HOUR),
        trust("never"),
        trust("spent", remaining_uses=0),
        trust("some-left", remaining_uses=1),
    )
    assert await cloud.trusts.flush(Wanted()) == Step(seen=6, removed=2, after=None)
    await cloud.level()
    for node in (controller, cloud.sites["RegionOne"]):
        assert await left(node) == ["later", "never", "some-left", "spent"]
        assert await events(node) == []
    assert await cloud.trusts.flush(Wanted()) == Step(seen=4, removed=0, after=None)


async def test_those_used_up_go_when_asked_and_their_tokens_are_void_everywhere(cloud):
    site = cloud.sites["RegionOne"]
    await cloud.controller.write(
        trust("ended", cloud.now - HOUR, remaining_uses=0), trust("spent", remaining_uses=0), trust("kept")
    )
    assert (await cloud.trusts.flush(Wanted(used_up=True))).removed == 2
    await cloud.level()
    assert await left(site) == ["kept"]
    assert await events(site) == ["spent"]
    await eventually(lambda: site.void(trust_id="spent"))
    assert not site.void(trust_id="kept")


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [
        ({"project_id": "p2"}, {"b"}),
        ({"trustor_user_id": "or2"}, {"c"}),
        ({"trustee_user_id": "ee2"}, {"d", "e"}),
        ({"trustee_user_id": "ee2", "project_id": "p3"}, {"e"}),
        ({"trustee_user_id": "nobody"}, set()),
        ({"before": 5}, {"d"}),
    ],
)
async def test_only_what_is_asked_for_goes(cloud, wanted, gone):
    rows = [
        trust("a", 5),
        trust("b", 5, project_id="p2"),
        trust("c", 5, trustor_user_id="or2"),
        trust("d", 4, trustee_user_id="ee2"),
        trust("e", 5, trustee_user_id="ee2", project_id="p3"),
    ]
    await cloud.controller.write(*rows)
    assert (await cloud.trusts.flush(Wanted(**wanted))).removed == len(gone)
    assert set(await left(cloud.controller)) == {row.id for row in rows} - gone


async def test_many_go_in_steps_that_others_pass_between_and_that_may_be_broken_off(cloud, monkeypatch):
    monkeypatch.setattr(trusts, "ROWS", 3)
    controller = cloud.controller
    await controller.write(*(trust(f"t{number}", 1 if number % 2 else None) for number in range(8)))
    before = controller.sequencer.head
    step = await cloud.trusts.flush(Wanted())
    assert step == Step(seen=3, removed=1, after="t2")
    await controller.write(trust("t00", 1))  # behind where it stands
    found = [step]
    while found[-1].after is not None:
        found.append(await cloud.trusts.flush(Wanted(after=found[-1].after)))
    assert [one.removed for one in found] == [1, 2, 1]
    assert await left(controller) == ["t0", "t00", "t2", "t4", "t6"]
    assert [len(one.changes) for one in await controller.log() if one.number > before] == [1, 1, 2, 1]
    assert (await cloud.trusts.flush(Wanted())).removed == 1


async def test_one_that_was_given_more_time_meanwhile_stays(cloud, monkeypatch):
    """What is decided on is what the transaction reads, not what the page showed."""
    await cloud.controller.write(trust("t", 1))
    page = cloud.controller.overlay.page

    async def slow(*arguments, **equals):
        found = await page(*arguments, **equals)
        await cloud.controller.write(trust("t"))
        return found

    monkeypatch.setattr(cloud.controller.overlay, "page", slow)
    assert (await cloud.trusts.flush(Wanted())).removed == 0
    assert await left(cloud.controller) == ["t"]


async def test_a_day_that_is_still_to_come_is_refused(cloud):
    await cloud.controller.write(trust("t", cloud.now + HOUR))
    with pytest.raises(Invalid, match="lies ahead"):
        await cloud.trusts.flush(Wanted(before=cloud.now + 2 * HOUR))
    assert await left(cloud.controller) == ["t"]


def test_the_command_goes_on_until_there_is_no_more(monkeypatch):
    steps = [{"seen": 200, "removed": 3, "after": "x"}, {"seen": 1, "removed": 1, "after": None}]
    asked, told = [], []

    def answer(state, config, target, wanted):
        asked.append((target, wanted))
        return steps[len(asked) - 1]

    monkeypatch.setattr(commands_trusts, "ask_controller", answer)
    done = _flush("state", None, {"used_up": True, "after": None}, lambda _, text: told.append(text))
    assert done == {"seen": 201, "removed": 4}
    assert asked == [("/trusts/flush", {"used_up": True, "after": after}) for after in (None, "x")]
    assert told == ["Trusts: 3 of 200 removed"]


def test_a_day_is_written_as_upstream_has_it():
    assert _instant("31-12-2025") == _instant("2025-12-31") == 1_767_139_200_000_000
    for wrong in ("12/31/2025", "31-13-2025", "x"):
        with pytest.raises(ConfigurationError, match="DD-MM-YYYY"):
            _instant(wrong)
