"""What is about to be answered lies in a file first: it is cheap, bounded, and never in the way of an answer."""

import os
import resource

import pytest
from structlog.testing import capture_logs

from regional_keystone.middleware_cache import Told
from regional_keystone.revocation import Traits
from regional_keystone.told import _KEEP_S, _MOST_BYTES, Ahead, left
from tests.stand_ins import ManualClock


def one(name, size=32):
    traits = Traits(issued_at=1, expires_at=2, audit_id=name)
    return Told((name.encode().ljust(size),), "key", b"said", "u", ("project", "p"), None, traits, None, "project")


@pytest.fixture
def clock():
    return ManualClock()


def names(folder, number=None, newer_than_s=0.0):
    return {told.traits.audit_id for batch in left(folder, newer_than_s, number) for told in batch}


def test_what_was_written_is_there_for_whoever_comes_after_whatever_became_of_the_process(tmp_path, clock):
    made = Ahead(tmp_path / "answered", 2, clock)
    wanted = [one(f"a{number}") for number in range(50)]
    for told in wanted:
        made.write(told)
    assert [told for batch in left(tmp_path / "answered", 0.0) for told in batch] == wanted
    assert oct((tmp_path / "answered").stat().st_mode & 0o777) == "0o700"


async def test_it_is_kept_for_a_while_and_two_files_are_all_there_ever_is(tmp_path, clock):
    made = Ahead(tmp_path, 2, clock)
    for number in range(5):
        made.write(one(f"a{number}"))
        assert {f"a{number}", f"a{max(0, number - 1)}"} <= names(tmp_path)
        await clock.advance(_KEEP_S + 0.1)
    assert names(tmp_path) == {"a3", "a4"}
    assert len(list(tmp_path.iterdir())) == 2


def test_many_in_a_moment_take_no_more_room_than_two_files(tmp_path, clock):
    made = Ahead(tmp_path, 2, clock)
    for number in range(30):
        made.write(one(f"a{number}", 500_000))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (_MOST_BYTES + 600_000)
    assert {f"a{number}" for number in range(23, 30)} <= names(tmp_path)


def test_each_life_of_each_process_has_files_of_its_own(tmp_path, clock):
    for number in (2, 2, 21):
        Ahead(tmp_path, number, clock).write(one(f"a{len(list(tmp_path.iterdir()))}"))
    assert names(tmp_path, 2) == {"a0", "a1"}
    assert names(tmp_path, 21) == {"a2"}
    assert names(tmp_path) == {"a0", "a1", "a2"}


def test_what_nobody_has_written_to_for_long_is_thrown_away(tmp_path, clock):
    Ahead(tmp_path, 2, clock).write(one("a"))
    Ahead(tmp_path, 3, clock).write(one("b"))
    (old,) = tmp_path.glob("2-*")
    os.utime(old, (1000, 1000))
    assert names(tmp_path, newer_than_s=1001.0) == {"b"}
    assert not old.exists()


def test_what_a_kill_cut_off_or_another_version_wrote_hides_nothing_else(tmp_path, clock):
    made = Ahead(tmp_path, 2, clock)
    for name in ("a", "b"):
        made.write(one(name))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    (tmp_path / "3-x-0.told").write_bytes(b"rubbish")
    assert names(tmp_path) == {"a"}


async def test_where_nothing_can_be_written_it_is_said_now_and_then_and_the_answer_goes_out(tmp_path, clock):
    folder = tmp_path / "answered"
    folder.write_text("no directory")
    made = Ahead(folder, 2, clock)
    with capture_logs() as logs:
        for _ in range(3):
            made.write(one("a"))
    assert [line["event"] for line in logs] == ["middleware_cache_not_written"]
    folder.unlink()
    made.write(one("b"))
    assert names(folder) == {"b"}
    made.close()


def test_a_disk_that_takes_half_a_record_costs_that_one_alone(tmp_path, clock):
    made = Ahead(tmp_path, 2, clock)
    made.write(one("a"))
    (file,) = tmp_path.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, limits[1]))
    try:
        made.write(one("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    made.write(one("c"))
    assert names(tmp_path) == {"a", "c"}
