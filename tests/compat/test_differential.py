"""A sample of what `make differential` asks: the real Keystone 30.0.0 and ours, equal but for the reviewed table."""

import io
import re
from pathlib import Path

import pytest

from tests.differential.__main__ import both
from tests.differential.reasons import REASONS
from tests.differential.resources import cases
from tests.differential.run import play, select, show
from tests.differential.tables import routes

PAGE = Path(__file__).parents[2] / "docs" / "divergences.md"
SAMPLE = 300


@pytest.mark.compat
@pytest.mark.xdist_group("stock")
def test_a_sample_of_cells_is_equal():
    with both() as (theirs, ours):
        report = play(theirs.url, ours.url, select(sample=SAMPLE), tell=lambda line: None)
    said = io.StringIO()
    show(report, said.write)
    assert report.cells > SAMPLE // 2
    assert not report.unexplained, said.getvalue()
    assert not report.unmade, said.getvalue()


def test_every_reason_is_a_line_of_the_page():
    page = PAGE.read_text()
    listed = set(re.findall(r"^\| `?([a-z-]+)`? \|", page, re.MULTILINE))
    own = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    reasons = [one.id for one in REASONS]
    assert len(reasons) == len(set(reasons))
    assert set(reasons) <= listed
    assert own <= set(reasons)


def test_every_route_is_asked_by_a_table():
    asked = {(one.method, one.path) for one in cases() if one.section == "routes"}
    for path, methods, endpoint in routes():
        if endpoint != "static" and path != "/":
            bare = re.sub(r"<[^>]*>", "<gone>", path).removeprefix("/v3") or "/"
            assert {(one, bare) for one in methods if one not in ("HEAD", "OPTIONS")} <= asked


def test_there_are_enough_cells():
    assert len(select()) >= 5000
