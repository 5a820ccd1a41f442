"""The bound on the memory of live revocations, of fewer of them; and that the page says of each goal whether it is met."""

from pathlib import Path

import pytest

from tests.bench.bench_index import COMMAND, GOAL_BYTES, PARTS, apart, reached
from tests.bench.parts import begin, end

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_an_event_takes_no_more_memory_than_it_may():
    figures = apart("50000")
    assert 50 < figures["bytes"] <= GOAL_BYTES
    assert figures["slices"] >= 20


@pytest.mark.parametrize(("part", "goals"), list(zip(PARTS, (3, 0, 3, 1), strict=True)))
def test_the_page_has_each_part_s_last_table(part, goals):
    table = PAGE.read_text().partition(begin(COMMAND, part))[2].partition(end(COMMAND, part))[0].strip().splitlines()
    assert len(table) > 2
    assert sum("goal: " in line for line in table) >= goals
    assert all(line.startswith("| ") or set(line) <= set("|-") for line in table)


def test_a_goal_that_is_missed_is_said_to_be():
    assert reached(3, 3, " ms") == "goal: at most 3 ms, met"
    assert reached(4, 3, "") == "goal: at most 3, not met"
