"""Stolen keys: condemned everywhere at once, rings turned away from them, by one person or by two, at a known cost."""

import asyncio
import json

import pytest
import structlog

from controller.admin_compromise import consequences
from controller.compromise import Key, Wanted, away, times_away
from controller.turning import Terms
from controller.two_people import VALID_US, Login, TwoPeople
from regional_keystone.believed import MOST_CONDEMNED
from regional_keystone.condemned import SETTLE_US, sealing_number
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, Unauthenticated, Unavailable
from regional_keystone.follow import APART_S
from regional_keystone.issue_counts import HOUR_US
from regional_keystone.keys import KeyRing
from regional_keystone.log import LOG, Entry, Transaction, put
from regional_keystone.messages import Response
from regional_keystone.model import Condemned, KeyTimes, Proposal, Ring, Signing, SigningKey, Site
from regional_keystone.own_feed import ENTRY_BYTES
from regional_keystone.signing import SIGNING
from tests.cloud import ControllerNode, eventually, running, wired
from tests.site.realm import KEYS

SECOND = 1_000_000
TERMS = Terms(3600 * SECOND, 7200 * SECOND, 600 * SECOND, 2 * SECOND)


@pytest.fixture
async def cloud(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=30.0) as made:
        yield made


async def ring(controller, name="token"):
    return await controller.overlay.get(Ring, name)


def ids(node, *numbers):
    return [node.holder.ring.key_ids[number] for number in numbers]


async def condemn(controller, *keys, ring="token"):
    position = await controller.compromise.condemn(dict.fromkeys(keys, ring), "uid 0", "a test")
    return position, await controller.compromise.turn_away({ring})


async def started(directory):
    node = ControllerNode(directory)
    await node.start()
    await eventually(lambda: node.holder.seen.epoch)
    return node


async def rows(controller):
    return {one.id: one async for one in controller.overlay.scan(Condemned)}


async def times_in_log(controller, table):
    return sum(one.table == table for entry in await controller.log() for one in entry.changes)


# -------------------------------------------------------------------------------------------- the whole federation


async def test_a_condemned_primary_is_refused_everywhere_and_the_ring_turns_away(cloud):
    controller, sites = cloud.controller, cloud.sites.values()
    await controller.rotator.turn()
    await cloud.level()
    before, clock = controller.holder.ring, controller.clock
    (stolen, other), began = ids(controller, 2, 1), clock.ticks()
    position, turned = await condemn(controller, stolen)
    await eventually(lambda: not any(site.follower.accepts_key(stolen) for site in sites))
    assert clock.ticks() - began < 5.0
    await eventually(lambda: {node.holder.seen.epoch for node in (controller, *sites)} == {turned["token"]})
    for node in (controller, *sites):
        now = node.holder.ring
        assert stolen not in now.ids
        assert node.follower.accepts_key(other)
        assert now.numbers[now.primary] == before.staged, "which everybody held"
        assert node.follower.sealing_number() == now.primary
    said = await told(controller, position, 2)
    assert said == {"refused": ["RegionOne", "RegionTwo"], "waiting": [], "out_of_reach": []}


async def told(controller, position, count):
    """What is told of who refuses, once so many do."""
    found = {}

    async def enough():
        found.update(await controller.compromise.refused(position))
        return len(found["refused"]) == count

    await eventually(enough)
    return found


async def test_a_fresh_primary_seals_nothing_before_every_site_holds_it_or_has_been_apart_for_long(cloud):
    controller, one = cloud.controller, cloud.sites["RegionOne"]
    async with wired(cloud, "RegionTwo") as wire:
        wire.hold("down")
        everything = await controller.compromise.meant(Wanted(all=True))
        _, turned = await condemn(controller, *[key.id for key in everything])
        await eventually(lambda: one.holder.seen.epoch == turned["token"])
        for node in (one, controller):
            with pytest.raises(Unavailable, match="condemned"):
                node.follower.sealing_number()
        assert (await ring(controller)).settles_at > controller.clock.now()
        wire.release()
        await eventually(lambda: cloud.sites["RegionTwo"].holder.seen.epoch == turned["token"])

        def seals():
            try:
                return all(node.follower.sealing_number() for node in (one, controller, cloud.sites["RegionTwo"]))
            except Unavailable:
                return False

        await eventually(seals)
        assert (await ring(controller)).settles_at == 0
    assert SETTLE_US / SECOND > APART_S + 2.0, "or who has not heard of it calls good tokens bad"


async def test_without_acknowledgements_it_settles_by_time(cloud, monkeypatch):
    monkeypatch.setattr("controller.compromise.SETTLE_US", SECOND)
    controller, one = cloud.controller, cloud.sites["RegionOne"]
    await cloud.sites["RegionTwo"].stop()
    await condemn(controller, *controller.holder.ring.ids)
    await eventually(lambda: controller.holder.ring.epoch == one.holder.seen.epoch)
    with pytest.raises(Unavailable):
        one.follower.sealing_number()
    await asyncio.sleep(1.05)
    assert one.follower.sealing_number() == one.holder.ring.primary


async def test_a_site_that_was_cut_off_learns_it_with_the_stream_and_keeps_it_over_a_restart(cloud):
    controller, away_ = cloud.controller, cloud.sites["RegionTwo"]
    await away_.stop()
    [stolen] = ids(controller, 1)
    position, _ = await condemn(controller, stolen)
    found = await told(controller, position, 1)
    assert found["out_of_reach"] == ["RegionTwo"]
    assert found["waiting"] == []
    await away_.start()
    await away_.settled(controller.sequencer.head)
    assert away_.follower.condemned == {stolen}
    await away_.stop()
    await away_.start()
    assert away_.follower.condemned == {stolen}


async def test_two_controllers_make_one_ring_of_it(tmp_path):
    one, two = await started(tmp_path), await started(tmp_path)
    try:
        before = await ring(one)
        [stolen] = ids(one, 1)
        await asyncio.gather(condemn(one, stolen), condemn(two, stolen))
        await one.sequencer.catch_up()
        await two.sequencer.catch_up()
        record = await ring(one)
        assert record == await ring(two)
        assert record.epoch == before.epoch + 1
        assert await times_in_log(one, "condemned") == 1
    finally:
        await two.stop()
        await one.stop()


async def test_what_a_controller_left_half_done_is_done_after_its_start(tmp_path):
    node = await started(tmp_path)
    [stolen] = ids(node, 1)
    for task in node.tasks[3:]:
        task.cancel()  # nothing turns away by itself any more
    await node.compromise.condemn({stolen: "token"}, "uid 0", "")
    await node.follower.settled(node.sequencer.head, 5)
    await asyncio.gather(*node.tasks[3:], return_exceptions=True)
    del node.tasks[3:]
    assert stolen in (await ring(node)).checks.values()
    await node.stop()
    await node.start()
    try:

        async def turned():
            return stolen not in (await ring(node)).checks.values()

        await eventually(turned)
    finally:
        await node.stop()


async def test_a_staged_key_that_some_site_may_lack_settles_first(cloud):
    controller = cloud.controller
    turned = await controller.rotator.turn()
    async with wired(cloud, "RegionTwo") as wire:
        await eventually(lambda: controller.acknowledged("RegionTwo").rings["token"][0] == turned.epoch)
        wire.hold("up")
        turned = await controller.rotator.turn()  # which it has, and cannot say so
        await eventually(lambda: controller.holder.seen.epoch == turned.epoch)
        [stolen] = ids(controller, 3)
        _, epochs = await condemn(controller, stolen)
        record = await ring(controller)
        assert record.settles_at == record.turned_at + SETTLE_US
        await eventually(lambda: controller.holder.seen.epoch == epochs["token"])
        number = sealing_number(controller.holder.ring, {stolen}, record, record.turned_at)
        assert number == 2, "the last of those that all keep"


async def test_a_normal_turn_goes_on_after_it(cloud):
    controller = cloud.controller
    await condemn(controller, *controller.holder.ring.ids)
    turned = await asyncio.wait_for(controller.rotator.turn(), 10)
    await cloud.level()
    await eventually(lambda: {one.holder.seen.epoch for one in cloud.sites.values()} == {turned.epoch})


# ------------------------------------------------------------------------------------------- whom a site may accuse


async def condemning(site, *records):
    changes = tuple(put(one) for one in records)
    await site.own.commit(Transaction(f"t/{site.own.number}", 0, frozenset(), changes))


async def test_a_site_condemns_in_its_own_name_and_within_bounds(cloud):
    controller, site = cloud.controller, cloud.sites["RegionOne"]
    [stolen], now = ids(controller, 1), controller.clock.now()
    lies = {"place": "RegionTwo", "by": "x" * 999, "why": "y" * 999, "confirmed_by": "root", "at": now + 10**12}
    await condemning(site, Condemned(id=stolen, ring="token", **lies), Condemned(id="no key", ring="", at=0, by=""))
    await eventually(lambda: site.own.pending() == 0)
    [row] = (await rows(controller)).values()
    assert (row.id, row.place, row.confirmed_by, len(row.by), len(row.why)) == (stolen, "RegionOne", "", 200, 200)
    assert row.at <= controller.clock.now()
    await eventually(lambda: cloud.sites["RegionTwo"].follower.condemned == {stolen})
    before = await times_in_log(controller, "condemned")
    await condemning(site, Condemned(id=stolen, ring="token", at=now, by="again"))
    await eventually(lambda: site.own.pending() == 0)
    assert await times_in_log(controller, "condemned") == before


async def test_a_site_cannot_fill_the_log_with_keys(cloud, monkeypatch):
    monkeypatch.setattr("regional_keystone.believed.MOST_CONDEMNED", 3)
    site = cloud.sites["RegionOne"]
    for number in range(6):
        await condemning(site, Condemned(id=f"{number:016x}", ring="token", at=site.clock.now(), by=""))
    await eventually(lambda: site.own.pending() == 0)
    assert len(await rows(cloud.controller)) == 3
    assert MOST_CONDEMNED > 16


async def test_nor_with_many_at_once_nor_its_log_with_what_it_may_not_say(cloud, monkeypatch):
    monkeypatch.setattr("regional_keystone.believed.MOST_CONDEMNED", 3)
    taking, feed = cloud.controller.replicator.taking, "RegionOne/other"
    keys = [put(Condemned(id=f"{number:016x}", ring="token", at=0, by="")) for number in range(6)]
    others = [put(Site(id=f"s{number}", state="active")) for number in range(50)]
    with structlog.testing.capture_logs() as logged:
        for number in (1, 2, 3):
            await taking.take("RegionOne", feed, [Entry(number, f"t{number}", 0, (*keys, *others))])
    assert len(await rows(cloud.controller)) == 3
    [said] = [one for one in logged if one["event"] == "own_feed_oversteps"]
    assert said["refused"] == {"changes": 50, "keys": 3}
    long = put(Condemned(id="f" * 16, ring="token", at=0, by="x" * ENTRY_BYTES))
    with pytest.raises(TooLarge):
        await taking.take("RegionOne", feed, [Entry(4, "t4", 0, (long,))])


# ------------------------------------------------------------------------------------------------------------- cost


async def test_which_keys_are_meant(cloud):
    controller = cloud.controller
    everything = await controller.compromise.meant(Wanted(all=True))
    assert {(key.id, key.state) for key in everything if key.ring == "token"} == {
        (*ids(controller, 1), "primary"),
        (*ids(controller, 0), "staged"),
    }
    assert {key.ring for key in everything} == {"token", "receipt"}
    assert await controller.compromise.meant(Wanted(site="RegionOne")) == everything, "they are shared"
    [one] = await controller.compromise.meant(Wanted(key=everything[0].id))
    assert one == everything[0]
    for wrong in (Wanted(), Wanted(key="x", all=True), Wanted(site="RegionOne", all=True)):
        with pytest.raises(Invalid):
            await controller.compromise.meant(wrong)
    for absent in (Wanted(key="0" * 16), Wanted(site="Oslo")):
        with pytest.raises(NotFound):
            await controller.compromise.meant(absent)


def _signs(_site):
    return True


async def test_of_a_site_that_signs_with_keys_of_its_own_only_those_are_meant(cloud, monkeypatch):
    compromise = cloud.controller.compromise
    monkeypatch.setattr(cloud.controller.sites, "signs", _signs)
    owners = {"a" * 16: "RegionOne", "b" * 16: "RegionTwo"}
    keys = {name: SigningKey(owner=owner, public=b"", epoch=1, offered_at=0) for name, owner in owners.items()}
    await cloud.controller.write(Signing(id=SIGNING, epoch=0, keys=keys))
    assert [key.id for key in await compromise.meant(Wanted(site="RegionOne"))] == ["a" * 16]
    assert len(await compromise.meant(Wanted(all=True))) == 6
    assert len(await compromise.meant(Wanted(site="RegionOne", rings=True))) == 5
    _, turned = await condemn(cloud.controller, "a" * 16, ring="signing")
    assert turned == {}
    await cloud.level()
    assert cloud.sites["RegionTwo"].follower.condemned == {"a" * 16}


async def test_a_site_that_has_keys_of_its_own_and_seals_all_the_same_means_every_key(cloud):
    """As one that has gone back from `provider = jws`: its tokens are of the shared keys."""
    controller = cloud.controller
    own = {"a" * 16: SigningKey(owner="RegionOne", public=b"", epoch=1, offered_at=0, signs_from=1)}
    await controller.write(Signing(id=SIGNING, epoch=0, keys=own))
    assert controller.acknowledged("RegionOne").provider == "fernet"
    assert len(await controller.compromise.meant(Wanted(site="RegionOne"))) == 5
    await condemn(controller, "a" * 16, ring="signing")
    assert len(await controller.compromise.meant(Wanted(site="RegionOne"))) == 5, (
        "also if its own were condemned before"
    )
    await controller.write(Signing(id=SIGNING, epoch=1, keys=own, refuses_sealed=True))
    [one] = await controller.compromise.meant(Wanted(site="RegionOne"))
    assert one.id == "a" * 16, "what the shared ones seal is worth nothing"


@pytest.mark.parametrize("signs", [True, False])
async def test_a_site_that_was_removed_means_what_it_issued_with_then(cloud, monkeypatch, signs):
    """So that to name it again, after it was removed for being stolen, condemns no more than the first time."""
    controller = cloud.controller
    monkeypatch.setattr(controller.sites, "signs", lambda _: signs)
    own = {"a" * 16: SigningKey(owner="RegionOne", public=b"", epoch=1, offered_at=0, signs_from=1)}
    await controller.write(Signing(id=SIGNING, epoch=7, keys=own))
    meant = await controller.compromise.meant(Wanted(site="RegionOne"))
    await controller.sites.remove("RegionOne")
    assert {key.id for key in await controller.compromise.meant(Wanted(site="RegionOne"))} == {key.id for key in meant}
    assert len(meant) == (1 if signs else 5)


async def test_tokens_that_have_ended_already_are_not_counted_among_those_that_end(cloud):
    controller = cloud.controller
    [old] = ids(controller, 1)
    controller.follower.note_sealed(old, controller.clock.now())
    everything = await controller.compromise.meant(Wanted(all=True))
    assert (await controller.compromise.cost(everything))["tokens_live"] == 1
    await condemn(controller, old)
    cost = await controller.compromise.cost(everything)
    assert (cost["tokens_live"], cost["tokens"]) == (0, [])


async def test_the_cost_counts_live_tokens_by_key_and_site_and_says_who_is_out_of_reach(cloud):
    controller, site = cloud.controller, cloud.sites["RegionOne"]
    (primary, staged), now = ids(controller, 1, 0), controller.clock.now()
    for _ in range(3):
        site.follower.note_sealed(primary, now)
    site.follower.note_sealed(primary, now - 5 * HOUR_US)  # expired by now
    site.follower.progress()
    controller.follower.note_sealed(primary, now)
    await eventually(lambda: controller.acknowledged("RegionOne").issued)
    await cloud.sites["RegionTwo"].stop()
    await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
    found = await controller.compromise.cost(await controller.compromise.meant(Wanted(all=True)))
    assert found["tokens"] == [
        {"key": primary, "site": "RegionOne", "tokens": 3},
        {"key": primary, "site": "controller", "tokens": 1},
    ]
    assert found["tokens_live"] == 4
    assert found["issued_by_hour"]["RegionOne"][primary] == {str(now // HOUR_US): 3, str(now // HOUR_US - 5): 1}
    assert [(one["name"], one["connected"]) for one in found["sites"]] == [("RegionOne", True), ("RegionTwo", False)]
    told_ = [(one["id"], one["condemned"]) for one in found["keys"] if one["ring"] == "token"]
    assert told_ == [(primary, False), (staged, False)]
    assert not any(key.decode() in json.dumps(found) for key in controller.holder.ring.numbers.values())


def test_what_happens_is_said():
    token, credential = Key("a" * 16, "token", "primary", ("A",)), Key("b" * 16, "credential", "primary", ("A",))
    said = " ".join(consequences([token, credential], "Oslo", "Oslo"))
    for words in ("Oslo held them all", "removed from the federation first", "credential migrate", "503"):
        assert words in said
    assert "given the new keys: right only" in " ".join(consequences([token], "", "Oslo"))
    assert "--rings" not in said
    assert "migrate" not in " ".join(consequences([token], "", ""))
    signing = Key("c" * 16, "signing", "primary", ("Oslo",))
    assert "held them all" not in " ".join(consequences([signing], "", "Oslo"))
    assert "--rings" in " ".join(consequences([signing], "", "Oslo"))


# --------------------------------------------------------------------------------------------------------- pure rules

RING = KeyRing({0: KEYS[0], 1: KEYS[1], 2: KEYS[2], 3: KEYS[3]}, 7)
NAME = RING.key_ids
FRESH = (KEYS[4], KEYS[5])


@pytest.mark.parametrize(
    ("stolen", "opens", "expected"),
    [
        ((), False, None),
        ((3,), False, {0: 4, 1: 1, 2: 2, 4: 0}),
        ((0,), False, {0: 4, 1: 1, 2: 2, 3: 3}),
        ((0, 3), False, {0: 4, 1: 1, 2: 2, 4: 5}),
        ((1,), False, {0: 0, 2: 2, 3: 3}),
        ((0, 1, 2, 3), False, {0: 4, 4: 5}),
        ((1, 2), True, None),
        ((3,), True, {0: 4, 1: 1, 2: 2, 3: 3, 4: 0}),
        ((0, 1, 2, 3), True, {0: 4, 1: 1, 2: 2, 3: 3, 4: 5}),
    ],
)
def test_the_ring_that_turns_away(stolen, opens, expected):
    found = away(RING, {NAME[number] for number in stolen}, FRESH, opens=opens)
    assert found == (expected and KeyRing({number: KEYS[key] for number, key in expected.items()}, 8))


def test_the_times_of_the_ring_that_turns_away():
    times = {
        1: KeyTimes(ceased_at=10, seal_until=20, keep_until=30),
        2: KeyTimes(ceased_at=40, seal_until=50, keep_until=60),
    }
    record = Ring(
        id="token", epoch=7, fingerprint=RING.fingerprint, checks=dict(NAME), sealed={}, turned_at=40, times=times
    )

    def after(*stolen, held=True):
        made = away(RING, {NAME[number] for number in stolen}, FRESH)
        found = times_away(record, RING, made, TERMS, 100, staged_is_held=held)
        assert found.times.keys() == made.numbers.keys()
        assert all(one.retired_at == 100 for one in found.retired.values())
        return found

    primary = after(3)
    assert (primary.turned_at, primary.settles_at, primary.times[2]) == (100, 0, times[2])
    assert (primary.times[4].primary_at, primary.times[0].staged_at) == (100, 100)
    assert primary.retired.keys() == {NAME[3]}
    assert after(3, held=False).settles_at == 100 + SETTLE_US, "a site may lack it"
    everything = after(0, 1, 2, 3)
    assert (everything.turned_at, everything.settles_at) == (100, 100 + SETTLE_US)
    assert everything.retired.keys() == set(NAME.values())
    assert everything.times[4].staged_at == 100
    staged = after(0)
    assert (staged.turned_at, staged.settles_at, staged.times[0].staged_at) == (40, 0, 100)
    assert staged.retired.keys() == {NAME[0]}
    former = after(1)
    assert former.retired.keys() == {NAME[1]}
    assert former.times[2].keep_until == 60


async def test_what_is_condemned_is_never_forgotten_and_what_was_prepared_in_time(cloud):
    """Not where no ring has the key either: it may come again, from a backup or from a Keystone that is followed."""
    controller = cloud.controller
    [stolen] = ids(controller, 1)
    await condemn(controller, stolen)
    await cloud.level()
    record = await ring(controller)
    for site in cloud.sites:
        await eventually(lambda site=site: controller.acknowledged(site).rings["token"][0] == record.epoch)
    people = TwoPeople(overlay=controller.overlay, sequencer=controller.sequencer, clock=controller.clock, answer=None)
    made = await people.prepare(Proposal(id="-", keys={stolen: "token"}, by="id-anna", at=0, expires_at=0))
    await controller.compromise.forget()
    assert await controller.overlay.get(Proposal, made.id)
    controller.compromise._terms = Terms(0, 0, 0, -2 * VALID_US)
    await controller.compromise.forget()
    assert await controller.overlay.get(Proposal, made.id) is None
    assert (await rows(controller)).keys() == {stolen}


# -------------------------------------------------------------------------------------------------------- two people


class Ahead:
    def __init__(self, clock):
        self._clock = clock
        self.us = 0

    def now(self):
        return self._clock.now() + self.us


@pytest.fixture
async def people(tmp_path):
    """Two people at a controller whose Identity API knows three users by their password."""
    node = await started(tmp_path)
    roles = {"anna": ["admin", "member"], "bert": ["admin"], "carl": ["member"]}

    async def answer(request):
        user = json.loads(request.body)["auth"]["identity"]["password"]["user"]
        assert json.loads(request.body)["auth"]["scope"] == {"system": {"all": True}}
        if user["name"] not in roles or user["password"] != "right":
            return Response(status=401)
        named = [{"name": one} for one in roles[user["name"]]]
        token = {"user": {"id": f"id-{user['name']}"}, "roles": named}
        return Response(status=201, body=json.dumps({"token": token}).encode())

    made = TwoPeople(overlay=node.overlay, sequencer=node.sequencer, clock=Ahead(node.clock), answer=answer)
    made.node = node
    try:
        yield made
    finally:
        await node.stop()


async def prepared(people, by="id-anna"):
    [stolen] = ids(people.node, 1)
    return await people.prepare(Proposal(id="-", keys={stolen: "token"}, by=by, at=0, expires_at=0, why="w"))


async def test_who_it_is_is_proven_by_a_password_and_the_role(people):
    assert await people.proven(Login(username="anna", password="right")) == "id-anna"
    for wrong in (Login(username="anna", password="wrong"), Login(username="nobody", password="right")):
        with pytest.raises(Unauthenticated):
            await people.proven(wrong)
    with pytest.raises(Forbidden):
        await people.proven(Login(username="carl", password="right"))
    assert "right" not in repr(Login(username="anna", password="right"))


async def test_a_site_is_gone_in_the_same_entry_that_condemns_its_keys(people):
    """A ring is made as soon as the keys are known to be condemned: it must not be sealed for who stole them."""
    node, name = people.node, "RegionOne"
    await node.write(Site(id=name, state="active", instance="i"))
    [stolen] = ids(node, 1)
    proposal = Proposal(id="-", keys={stolen: "token"}, site=name, removes=True, by="id-anna", at=0, expires_at=0)
    made = await people.prepare(proposal)
    _, position = await people.confirm(made.id, "id-bert", {}, _signs)
    [entry] = await node.store.tail(LOG, position - 1, 1)
    assert {"sites", "condemned", "proposals"} <= {change.table for change in entry.changes}
    assert (await node.overlay.get(Site, name)).state == "removed"


async def test_what_one_prepares_another_confirms_once(people):
    made = await prepared(people)
    assert await rows(people.node) == {}
    with pytest.raises(Forbidden):
        await people.confirm(made.id, "id-anna", {}, _signs)
    assert await rows(people.node) == {}
    done, _ = await people.confirm(made.id, "id-bert", {"f" * 16: "token"}, _signs)
    condemned = await rows(people.node)
    assert condemned.keys() == {*made.keys, "f" * 16}
    assert {(one.by, one.confirmed_by, one.why) for one in condemned.values()} == {("id-anna", "id-bert", "w")}
    assert done.confirmed_by == (await people.node.overlay.get(Proposal, made.id)).confirmed_by == "id-bert"
    for who in ("id-bert", "id-anna", "id-dora"):
        with pytest.raises(Conflict, match="already"):
            await people.confirm(made.id, who, {}, _signs)


async def test_of_two_who_confirm_at_once_one_does(people):
    made = await prepared(people)
    found = await asyncio.gather(
        *(people.confirm(made.id, who, {}, _signs) for who in ("id-bert", "id-dora")), return_exceptions=True
    )
    assert sum(isinstance(one, Conflict) for one in found) == 1
    assert await times_in_log(people.node, "condemned") == 1


async def test_a_proposal_ends_after_an_hour(people):
    made = await prepared(people)
    people._clock.us = VALID_US - SECOND
    assert await people.waiting(made.id)
    people._clock.us = VALID_US
    with pytest.raises(Conflict, match="hour"):
        await people.confirm(made.id, "id-bert", {}, _signs)
    with pytest.raises(NotFound):
        await people.confirm("unknown", "id-bert", {}, _signs)
    assert await rows(people.node) == {}


async def test_a_removed_site_gets_no_key_of_the_ring_that_follows(cloud):
    controller = cloud.controller
    await controller.sites.remove("RegionTwo")
    everything = await controller.compromise.meant(Wanted(site="RegionTwo"))
    assert len(everything) == 4
    await condemn(controller, *[key.id for key in everything])
    assert "RegionTwo" not in (await ring(controller)).sealed
    assert (await controller.overlay.get(Site, "RegionTwo")).state == "removed"
