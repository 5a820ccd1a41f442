"""The page of figures says where a goal is missed, in the words of what writes it."""

import re
from pathlib import Path

from regional_keystone.settings import Cassandra, Memcached
from tests.bench.bench_engines import goal, reads

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
LATE = {"memcached frozen": Memcached().timeout_s, "all of Cassandra frozen": Cassandra().request_timeout_s}


def test_beside_each_figure_with_a_goal_stands_whether_it_is_reached():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    judged = {row[0]: row[1:] for row in rows if row[0].endswith(": all forgotten")}
    assert LATE.keys() <= {what.partition(":")[0] for what in judged}
    for what, (figure, remark) in judged.items():
        if deadline_s := LATE.get(what.partition(":")[0]):
            (took_ms,) = re.findall(r"in (\d+) ms", figure)
            assert remark.startswith(goal(int(took_ms), round(deadline_s * 1000), " ms"))
        else:
            assert remark == reads(int(remark.split()[0]))


def test_a_goal_that_is_missed_is_said_to_be():
    assert goal(3, 3) == "goal: at most 3, met"
    assert goal(4, 3, " ms") == "goal: at most 3 ms, not met"
