"""What `make bench-revoke` measures with: links that are as late as is said, figures with what was aimed at beside them."""

import argparse

import pytest

from tests.bench.bench_revoke import COMMAND, PAGE, PARTS, Report, Row, measured_delays, page
from tests.bench.parts import begin, end, kept, some_of


@pytest.mark.parametrize("delay_s", [0.0, 0.08])
def test_a_link_delays_what_is_on_its_way_together_and_not_one_after_another(delay_s):
    alone_s, last_of_many_s = measured_delays(delay_s)
    assert delay_s <= alone_s
    assert delay_s <= last_of_many_s < delay_s + 1.0, "a hundred in a row would be eight seconds"


def test_a_goal_that_is_missed_is_said_to_be():
    slow = [0.001] * 98 + [0.5, 2.0]
    assert Row("a", slow, (0.250, 1.0)).judged == "goal: p50 at most 250 ms, p99 1000 ms, not met"
    assert Row("a", slow[:-1], (0.250, 1.0)).judged == "goal: p50 at most 250 ms, p99 1000 ms, met"
    assert Row("a", [0.003], (0.002, float("inf")), "loaded").judged == "goal: p50 at most 2 ms, not met; loaded"
    assert Row("a", slow, None, "beside").judged == "beside"
    assert Row("a", slow).shown == "1.0 / 2000.0 / 2000.0 ms"


def test_the_table_is_kept_in_its_place_and_the_rest_of_the_page_stays():
    report = Report()
    report.rows.append(Row("a case", [0.001]))
    report.notes.append("a link")
    first, last = begin(COMMAND, "many"), end(COMMAND, "many")
    before, after = f"# Performance\n\n{begin(COMMAND, 'near')}\nother\n{end(COMMAND, 'near')}\n", "\nbelow\n"
    table = page("many", report)
    written = kept(before + first + "\nold\n" + last + after, COMMAND, "many", table)
    assert written == f"{before}{first}\n\n{table}\n\n{last}{after}"
    assert kept(written, COMMAND, "many", table) == written
    with pytest.raises(SystemExit, match="no place for make bench-revoke ONLY=burst"):
        kept(written, COMMAND, "burst", table)


def test_parts_are_named_in_any_order_and_run_in_theirs():
    assert some_of(PARTS)("many near") == some_of(PARTS)("near,many") == ["near", "many"]
    for told in ("nearly", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="some of near, apart"):
            some_of(PARTS)(told)


@pytest.mark.parametrize("part", PARTS)
def test_the_page_has_a_place_for_each_part(part):
    text = PAGE.read_text()
    assert text.index(begin(COMMAND, part)) < text.index(end(COMMAND, part))
