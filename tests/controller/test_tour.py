"""What the tour says at its end, and when something that it asks does not answer."""

import io
import subprocess

import pytest
from rich.console import Console

from controller import tour
from controller.federation import Home, Member
from controller.stage import Finding, Step


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    sites = [Member(name, 1, 2) for name in ("A", "B", "C")]
    home.record([Member("controller", 1, 2, 3), *sites])
    return home


def shown(home, monkeypatch, *proofs):
    """The exit code and the words of a tour of these steps."""
    monkeypatch.setattr(tour, "STEPS", [Step("Step", "it holds", prove) for prove in proofs])
    said = io.StringIO()
    return tour.show(home, Console(file=said, width=200)), said.getvalue()


def kept(stage):
    return Finding("1 ms")


def left_out(stage):
    return Finding("not shown: only root may cut", shown=False)


def test_what_could_not_be_shown_does_not_count_as_kept(home, monkeypatch):
    code, said = shown(home, monkeypatch, kept, left_out, kept)
    assert code == 0
    assert "Tour: 2 of 3 shown and kept, in 0 s" in said
    assert "every promise" not in said
    assert "Tour: every promise kept, in 0 s" in shown(home, monkeypatch, kept, kept)[1]


def test_a_client_that_does_not_answer_in_time_is_one_sentence(home, monkeypatch):
    def run(program, **options):
        raise subprocess.TimeoutExpired(program, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    code, said = shown(home, monkeypatch, lambda stage: Finding(tour._openstack(stage, "user list")), kept)
    assert code == 1
    assert "1. Step: openstack user list: expected an answer within 30 s, got none" in said
    assert "2. Step" not in said
