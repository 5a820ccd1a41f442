"""A user who revokes in a loop fills no table, and ends nothing of anybody else."""

import dataclasses
from contextlib import AsyncExitStack

import pytest

from controller.take_over import TakeOver
from regional_keystone.log import Entry, put
from regional_keystone.model import RevocationEvent
from regional_keystone.record import spread
from regional_keystone.sections import Token
from regional_keystone.watermarks import WATERMARK, Singles, furthest
from tests import replay
from tests.api.conftest import Client
from tests.api.test_trusts import PASSWORD, People

MOST, SECOND = 3, 1_000_000


@pytest.fixture
async def people(tmp_path):
    async with AsyncExitStack() as stack:
        world = replay.World(tmp_path)
        world.settings = dataclasses.replace(world.settings, token=Token(revoked_singly=MOST))
        await world.start(stack)
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        admin = await Client(world).login("admin", replay.PASSWORD, scope)
        yield await People(world, admin).move_in()


async def end(by, one):
    """Whoever this is ends one of their tokens; a second goes by."""
    answer = await by("DELETE", "/auth/tokens", headers={"X-Subject-Token": one.token})
    by.world.clock.ahead_s += 1
    return answer.status


async def rows(world):
    return [one async for one in world.overlay.scan(RevocationEvent)]


async def test_a_loop_makes_a_bounded_number_of_rows_and_every_token_of_it_stays_void(people):
    ended = []
    for _ in range(6 * MOST):
        one = await Client(people.world).login("bob", PASSWORD, "unscoped")
        assert await end(one, one) == 204
        ended.append(one)
    assert len(await rows(people.world)) == 2 * MOST + 1
    assert [(await people.worth(one))[0] for one in ended] == [404] * len(ended)
    assert (await people.worth(people.bob))[0] == 404, "what else he had goes with them"
    assert [(await people.worth(one))[0] for one in (people.alice, people.carol, people.admin)] == [200] * 3
    later = await Client(people.world).login("bob", PASSWORD, "unscoped")
    assert (await people.worth(later))[0] == 200


async def test_up_to_the_limit_only_what_is_revoked_goes(people):
    made = [await Client(people.world).login("bob", PASSWORD, "unscoped") for _ in range(MOST)]
    assert [await end(people.bob, one) for one in made] == [204] * MOST
    assert (await people.worth(people.bob))[0] == 200


async def test_who_ends_another_s_tokens_ends_no_more_than_these(people):
    made = [await Client(people.world).login("bob", PASSWORD, "unscoped") for _ in range(4 * MOST)]
    assert [await end(people.admin, one) for one in made] == [204] * len(made)
    assert [(await people.worth(one))[0] for one in (people.bob, people.admin)] == [200, 200]


@pytest.mark.parametrize("impersonation", [True, False])
async def test_who_acts_for_another_ends_what_they_have_by_that_trust_and_nothing_else(people, impersonation):
    trust = await people.trust(impersonation=impersonation)
    other = await people.use(await people.trust(impersonation=impersonation))
    for _ in range(3 * MOST):
        one, kept = await people.use(trust), await people.use(trust)
        assert await end(people.bob, one) == 204
    assert len(await rows(people.world)) == 2 * MOST + 1
    assert (await people.worth(kept))[0] == 404
    assert [(await people.worth(one))[0] for one in (people.alice, people.bob, other)] == [200] * 3


async def test_what_a_program_ends_counts_for_whom_it_acts(people):
    await people.grant(people.bob_id, people.p, "member")
    bob = await Client(people.world).login("bob", PASSWORD, {"project": {"id": people.p}})
    body = {"application_credential": {"name": "ci", "secret": "a secret"}}
    path = f"/users/{people.bob_id}/application_credentials"
    made = (await bob("POST", path, body)).body["application_credential"]
    auth = {"methods": ["application_credential"], "application_credential": {"id": made["id"], "secret": "a secret"}}
    for _ in range(MOST + 1):
        answer = await Client(people.world)("POST", "/auth/tokens", {"auth": {"identity": auth}})
        program = Client(people.world, answer.headers["X-Subject-Token"])
        assert await end(program, program) == 204
    assert [(await people.worth(one))[0] for one in (bob, people.alice)] == [404, 200]


async def test_what_a_site_sends_of_a_loop_is_one_row_that_never_voids_less(people):
    controller, clock = people.world.controller, people.world.clock
    taking = TakeOver(overlay=people.world.overlay, sequencer=controller.sequencer, clock=clock, keep_s=1000.0)
    now = clock.now()
    entries = []
    for number, at in enumerate((now - 5 * SECOND, now, now - 9 * SECOND), 1):
        name = spread(f"{WATERMARK}{people.bob_id}")
        said = RevocationEvent(id=name, issued_before=at, revoked_at=at, keep_until=at, user_id=people.bob_id)
        entries.append(Entry(number, f"e{number}", at, (put(said),)))
    await taking.take("RegionOne", "RegionOne/one", entries[:1])
    await taking.take("RegionOne", "RegionOne/one", entries)
    [row] = [one for one in await rows(people.world) if one.user_id == people.bob_id]
    assert (row.issued_before, row.keep_until) == (now, now + 1000 * SECOND)


def test_a_bucket_leaks_and_forgets():
    singles = Singles(MOST, MOST * 10.0)
    assert [singles.too_many("u", 0) for _ in range(MOST + 2)] == [False] * MOST + [True] * 2
    assert not singles.too_many("v", 0)
    assert [singles.too_many("u", 10 * SECOND) for _ in range(2)] == [False, True]
    for number in range(25_000):
        singles.too_many(f"u{number}", number * 10 * SECOND)
    assert len(singles) < 15_000


def test_without_a_limit_nothing_is_counted():
    singles = Singles(0, 1000.0)
    assert not any(singles.too_many("u", 0) for _ in range(1000))
    assert len(singles) == 0


def test_what_takes_a_row_s_place_voids_no_less():
    def event(at):
        return RevocationEvent(id="e", issued_before=at, revoked_at=at, keep_until=at, user_id="u")

    assert furthest(event(5), event(9)) == event(9)
    assert furthest(event(9), event(5)) == event(9)
    assert furthest(event(5), None) == event(5)
