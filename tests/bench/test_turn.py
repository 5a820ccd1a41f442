"""The turn among many sites, with few of them: that it goes through, not how fast."""

from tests.bench import bench_turn


async def test_turns_follow_one_another_as_soon_as_all_have_acknowledged(tmp_path):
    taken = await bench_turn.measure(tmp_path, 4, 2, 30.0)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"turn": 2, "acknowledged": 2, "both": 2}
