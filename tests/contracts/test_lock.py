"""What every lock promises, and the machine's clock."""

import asyncio

import pytest

from regional_keystone.adapters.local import SystemClock


async def test_one_holder_per_name(lock):
    async with lock.hold("rotate") as first, lock.hold("rotate") as second, lock.hold("other") as other:
        assert (bool(first), bool(second), bool(other)) == (True, False, True)
    async with lock.hold("rotate") as again:
        assert again


async def test_a_holder_that_fails_lets_go(lock):
    with pytest.raises(ConnectionError):
        async with lock.hold("rotate"):
            raise ConnectionError
    async with lock.hold("rotate") as again:
        assert again


async def test_who_did_not_get_it_takes_nothing_away(lock):
    async with lock.hold("rotate"):
        async with lock.hold("rotate"):
            pass
        async with lock.hold("rotate") as held:
            assert not held


async def test_the_machines_clock_only_grows_and_sleeps_as_long_as_it_says():
    clock = SystemClock()
    before, now = clock.ticks(), clock.now()
    await asyncio.gather(clock.sleep(0.05), clock.sleep(0))
    assert 0.05 <= clock.ticks() - before < 2
    assert 1_600_000_000_000_000 < now <= clock.now()
