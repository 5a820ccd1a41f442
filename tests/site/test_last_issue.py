"""When a site issued last is known to its next life to the second, and is never believed to have been earlier."""

import os
import subprocess
import sys
from contextlib import closing

import pytest

from regional_keystone import last_issue
from regional_keystone.last_issue import LastIssue

OTHERWISE = 7_000_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / last_issue.LAST_ISSUE


def until(path):
    with closing(LastIssue(path, otherwise=OTHERWISE)) as last:
        return last.until()


def test_before_it_says_anything_what_else_is_known_counts_and_goes_on_to_count(path):
    assert until(path) == OTHERWISE
    with closing(LastIssue(path, otherwise=99 * OTHERWISE)) as last:
        assert last.until() == OTHERWISE, "it is written down"


def test_a_killed_process_has_told_of_its_last_token(path):
    told = f"from pathlib import Path; import os; from regional_keystone.last_issue import LastIssue as L;\
 l = L(Path({str(path)!r}), otherwise=1); l.note(5_000_000); l.note(4_000_000); l.note(9_000_000); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", told], check=False).returncode == -9
    assert until(path) == 9_000_000


def test_each_process_of_a_site_has_a_place_and_the_last_of_all_counts(path):
    with closing(LastIssue(path, otherwise=1)) as leader, closing(LastIssue(path, 3)) as worker:
        worker.note(8_000_000)
        leader.note(6_000_000)
        assert leader.until() == 8_000_000
    assert until(path) == 8_000_000
    with closing(LastIssue(path, 3)) as again:
        again.note(7_000_000)  # by a clock that was set back
    assert until(path) == 8_000_000


def test_a_machine_that_went_down_may_have_lost_the_last_second(path, monkeypatch, tmp_path):
    with closing(LastIssue(path, otherwise=1)) as last:
        last.note(3_000_000)
    other = tmp_path / "boot"
    other.write_text("another life\n")
    monkeypatch.setattr(last_issue, "_BOOT", other)
    assert until(path) == OTHERWISE
    assert until(path) == OTHERWISE


def test_where_a_machine_does_not_tell_its_lives_apart_none_is_believed(path, monkeypatch, tmp_path):
    monkeypatch.setattr(last_issue, "_BOOT", tmp_path / "none")
    with closing(LastIssue(path, otherwise=1)) as last:
        last.note(3_000_000)
    assert until(path) == OTHERWISE


@pytest.mark.parametrize("damage", [b"", b"x" * 10, bytes(range(256)) * 20], ids=["empty", "short", "rubbish"])
def test_of_a_damaged_file_nothing_is_believed(path, damage):
    with closing(LastIssue(path, otherwise=1)) as last:
        last.note(3_000_000)
    path.write_bytes(damage)
    assert until(path) == OTHERWISE


def test_a_file_that_could_not_be_written_is_taken_away(path, monkeypatch):
    with closing(LastIssue(path, otherwise=1)) as last:
        last.note(3_000_000)
        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", _full)
            last.note(4_000_000)
    assert until(path) == OTHERWISE


@pytest.mark.parametrize("is_there", [True, False])
def test_a_process_beside_the_first_makes_no_file_which_the_others_would_not_know(path, is_there):
    if is_there:
        path.write_bytes(b"rubbish")
    with closing(LastIssue(path, 3)) as worker:
        worker.note(8_000_000)
    assert not path.exists()


def test_where_nothing_can_be_written_tokens_are_issued_all_the_same(path, monkeypatch):
    monkeypatch.setattr(last_issue.durable, "write", _full)
    with closing(LastIssue(path, otherwise=OTHERWISE)) as last:
        last.note(8_000_000)
        assert last.until() == OTHERWISE
    assert not path.exists()


def test_what_can_be_neither_written_nor_taken_away_is_no_fault_of_a_login(path, monkeypatch):
    with closing(LastIssue(path, otherwise=1)) as last:
        monkeypatch.setattr(os, "pwrite", _full)
        monkeypatch.setattr(type(path), "unlink", _full)
        last.note(4_000_000)


def _full(*_, **__):
    raise OSError(28, "No space left on device")
