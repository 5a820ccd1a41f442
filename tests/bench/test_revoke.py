"""What `make bench-revoke` measures with: links that are as late as is said, figures with what was aimed at beside them."""

import pytest

from tests.bench.bench_revoke import BEGIN, END, PAGE, Report, Row, kept, measured_delays, page


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
    before, after = "# Performance\n\nabove\n", "\nbelow\n"
    written = kept(before + BEGIN + "old\n" + END + after, report)
    assert written == before + BEGIN + page(report) + END + after
    assert kept(written, report) == written


def test_the_page_has_a_place_for_it():
    text = PAGE.read_text()
    assert text.index(BEGIN) < text.index(END)
