"""An index forgets in the background, and holds nobody up."""

import asyncio
from contextlib import suppress

import pytest

from regional_keystone.adapters.local import SystemClock
from regional_keystone.expiry import Expiry
from regional_keystone.revocation import Revocation, RevocationIndex
from tests.cloud import eventually

MINUTE = 60_000_000


@pytest.fixture
async def index():
    made = RevocationIndex()
    for number in range(50_000):
        made.add(Revocation(issued_before=1, revoked_at=1, audit_id=f"{number:022}"), MINUTE)
    return made


@pytest.fixture
async def expiry(index):
    made = Expiry(lambda: index, SystemClock())
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_others_are_served_while_many_expire(index, expiry):
    turns = 0
    expiry.due(5 * MINUTE)
    while len(index):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 20, "so many slices at least"


async def test_nothing_goes_before_it_is_due(index, expiry):
    expiry.due(MINUTE - 1)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(index) == 50_000
    expiry.due(3 * MINUTE)
    await eventually(lambda: not len(index))


async def test_it_is_looked_through_once_a_minute_at_most(index, expiry, monkeypatch):
    looked, expiring = [], index.expiring
    monkeypatch.setattr(index, "expiring", lambda now: looked.append(now) or expiring(now))
    for second in range(180):
        expiry.due(10 * MINUTE + second * 1_000_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await eventually(lambda: not len(index))
    assert len(looked) <= 3
