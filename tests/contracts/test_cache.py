"""What every cache promises."""

from hypothesis import given
from hypothesis import strategies as st

from regional_keystone.adapters.local import LocalCache
from tests.stand_ins import ManualClock


async def test_a_value_is_there_until_its_time_is_over(cache, clock):
    await cache.set_many({"a": b"1", "b": b""}, 10)
    await clock.advance(9)
    await cache.set_many({"b": b"2"}, 10)
    assert await cache.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    await clock.advance(1)
    assert await cache.get_many(["a", "b"]) == {"b": b"2"}
    await cache.set_many({"b": b"3"}, 0)
    assert await cache.get_many(["b"]) == {}


OPS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 900), st.sampled_from([1, 5, 100]), st.booleans()), max_size=40
)


@given(OPS)
def test_memory_is_bounded_and_nothing_is_ever_wrong(ops):
    import asyncio

    async def run():
        clock = ManualClock()
        cache = LocalCache(clock, limit_bytes=2000)
        model = {}
        for key, size, ttl_s, set_ in ops:
            if set_:
                await cache.set_many({key: b"x" * size}, ttl_s)
                model[key] = (clock.ticks() + ttl_s, b"x" * size)
            else:
                await clock.advance(1)
            assert cache.size_bytes <= 2000
            for found, value in (await cache.get_many("abcdef")).items():
                assert model[found][1] == value
                assert model[found][0] > clock.ticks()

    asyncio.run(run())


async def test_what_was_not_asked_for_the_longest_goes_first():
    cache = LocalCache(ManualClock(), limit_bytes=700)
    await cache.set_many({"a": b"x", "b": b"x", "c": b"x"}, 10)
    await cache.get_many(["a"])
    await cache.set_many({"d": b"x"}, 10)
    assert set(await cache.get_many(["a", "b", "c", "d"])) == {"a", "c", "d"}
    await cache.set_many({"e": b"x" * 1000}, 10)
    assert set(await cache.get_many(["a", "c", "d", "e"])) == {"a", "c", "d"}
