"""A sample of what `make differential` asks: the real Keystone 30.0.0 and ours, equal but for the reviewed table."""

import io
import re
from pathlib import Path

import pytest

from tests.differential.compare import compared
from tests.differential.reasons import REASONS, reason_of
from tests.differential.resources import cases
from tests.differential.run import play, select
from tests.differential.show import show
from tests.differential.side import Answer
from tests.differential.tables import routes
from tests.differential.workers import both

PAGE = Path(__file__).parents[2] / "docs" / "divergences.md"
SAMPLE = 150


@pytest.mark.compat
@pytest.mark.takes(100)
def test_a_sample_of_cells_is_equal():
    with both() as (theirs, ours):
        report = play(theirs.url, ours.url, select(sample=SAMPLE), tell=lambda line: None)
    said = io.StringIO()
    show(report, write=said.write)
    assert report.cells > SAMPLE // 2
    assert not report.unexplained, said.getvalue()
    assert not report.unmade, said.getvalue()


def test_every_reason_is_a_line_of_the_page():
    page = PAGE.read_text()
    listed = set(re.findall(r"^\| `?([a-z-]+)`? \|", page, re.MULTILINE))
    own = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    reasons = {one.id for one in REASONS}
    assert reasons <= listed
    assert own <= reasons


def _answer(status, body=None):
    return Answer(status, {"status": status, "headers": {}, "body": body}, body, {})


def test_every_row_speaks_of_cells_that_are_asked():
    asked = {f"{one.section} {one.name}" for one in cases()}
    idle = [row.asked for row in REASONS if not any(re.fullmatch(row.asked, one) for one in asked)]
    assert not idle


@pytest.mark.parametrize("theirs", [400, 401, 403, 404, 409])
def test_what_is_refused_there_and_done_here_is_never_explained_by_the_way(theirs):
    for case in cases():
        cell = compared(case, "project-reader", _answer(theirs), _answer(200, {"a": 1}))
        place = reason_of(cell)
        assert place is None or "lets" in REASONS[place].despite, case.name


def test_what_exists_is_never_told_by_the_way():
    for case in cases():
        cell = compared(case, "project-reader", _answer(403), _answer(404))
        place = reason_of(cell)
        assert place is None or "tells" in REASONS[place].despite, case.name


def test_what_is_missing_is_never_explained_by_the_way():
    for case in cases():
        cell = compared(case, "project-reader", _answer(200, {"user": {"id": "x"}}), _answer(200, {"user": {}}))
        place = reason_of(cell)
        assert place is None or "lacks" in REASONS[place].despite, case.name


def test_words_of_the_library_that_reads_records_are_never_explained_by_the_way():
    refusal = {"error": {"code": 400, "message": "Expected `str` of length <= 64 - at `$.id`", "title": "Bad Request"}}
    for case in cases():
        for theirs in (_answer(400, {"error": {**refusal["error"], "message": "too long"}}), _answer(404)):
            assert reason_of(compared(case, "project-reader", theirs, _answer(400, refusal))) is None, case.name


def test_every_route_is_asked_by_a_table():
    asked = {(one.method, one.path) for one in cases() if one.section == "routes"}
    for path, methods, endpoint in routes():
        if endpoint != "static" and path != "/":
            bare = re.sub(r"<[^>]*>", "<gone>", path).removeprefix("/v3") or "/"
            assert {(one, bare) for one in methods if one not in ("HEAD", "OPTIONS")} <= asked


def test_there_are_enough_cells():
    assert len(select()) >= 5000
