"""The directory of a ring: what a reader finds at every step, after every crash, and in every damage."""

import base64
import errno
import hashlib
import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.key_directory import LEDGER, read_directory, write_directory
from regional_keystone.key_files import KeyRepositoryError
from regional_keystone.keys import KeyRing
from regional_keystone.payload import NotAToken


def key(number):
    return base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest())


def ring_of(*numbers, epoch=0):
    return KeyRing({number: key(1000 + number) for number in numbers}, epoch)


def upstream_layout(path, ring):
    path.mkdir(mode=0o700)
    for number, content in ring.numbers.items():
        (path / str(number)).write_bytes(content)
        (path / str(number)).chmod(0o600)


def upstream_read(path):
    """What fernet_utils.load_keys does: list, then open each."""
    names = [file.name for file in path.iterdir() if file.name.isdigit()]
    keys = {int(name): (path / name).read_bytes() for name in names}
    return {number: content for number, content in keys.items() if content}


def snapshots(path, ring):
    """The files before every step of the replacement and after the last."""
    seen = []
    write_directory(path, ring, lambda name: seen.append(upstream_read(path)))
    return [*seen, upstream_read(path)]


def check_slow_reader(seen, old, new):
    """Whoever lists at one step and opens each file at this or any later one: the worst choice for every key."""
    lasting = set(old.numbers.values()) & set(new.numbers.values())
    for start, listed in enumerate(seen):
        later = seen[start:]
        assert all(listed.keys() <= files.keys() for files in later), "a name has gone"
        for wanted in lasting:
            assert any(all(files[name] == wanted for files in later) for name in listed), "a key was on the move"
        primaries = {files[max(listed)] for files in later}
        assert primaries <= {old.numbers[old.primary], new.numbers[new.primary]}
        assert {files[0] for files in later} <= {old.staged, new.staged}


def test_what_is_written_is_read_back_with_its_numbers_and_epoch(tmp_path):
    ring = ring_of(0, 3, 7, 9, epoch=12)
    write_directory(tmp_path / "keys", ring)
    assert read_directory(tmp_path / "keys") == ring


def test_upstream_finds_the_same_primary_and_the_same_keys(tmp_path):
    ring = ring_of(0, 3, 7, 9)
    write_directory(tmp_path / "keys", ring)
    files = upstream_read(tmp_path / "keys")
    assert files[max(files)] == ring.numbers[9]
    assert files[0] == ring.staged
    assert set(files.values()) == set(ring.numbers.values())


def test_files_and_directory_are_for_their_owner_only(tmp_path):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_nothing_stays_beside_the_directory_and_foreign_files_stay_inside(tmp_path):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))
    (path / "README").write_text("ours")
    write_directory(path, ring_of(0, 1).rotated(key(2)))
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]
    assert (path / "README").read_text() == "ours"


def test_the_ledger_holds_no_key(tmp_path):
    ring = ring_of(0, 1)
    write_directory(tmp_path / "keys", ring)
    ledger = (tmp_path / "keys" / LEDGER).read_bytes()
    assert not any(content[:43] in ledger for content in ring.numbers.values())


def test_writing_the_same_ring_again_changes_nothing(tmp_path):
    steps = []
    write_directory(tmp_path / "keys", ring_of(0, 1))
    write_directory(tmp_path / "keys", ring_of(0, 1), steps.append)
    assert not [name for name in steps if name.startswith("rename")]


def test_with_one_key_retired_per_rotation_the_names_stay(tmp_path):
    path, ring = tmp_path / "keys", ring_of(0, 1, 2)
    write_directory(path, ring)
    names = sorted(path.iterdir())
    for turn in range(20):
        ring = ring.rotated(key(turn), [min(number for number in ring.numbers if number)])
        write_directory(path, ring)
        assert sorted(path.iterdir()) == names
        assert read_directory(path) == ring


def test_a_directory_of_upstream_is_taken_as_it_is(tmp_path):
    ring = ring_of(0, 3, 4, 5, 6)
    upstream_layout(tmp_path / "keys", ring)
    assert read_directory(tmp_path / "keys") == ring
    write_directory(tmp_path / "keys", ring)
    assert read_directory(tmp_path / "keys") == ring


def test_a_rotation_by_upstream_in_our_directory_is_seen(tmp_path):
    path, ring = tmp_path / "keys", ring_of(0, 1, 2, epoch=7)
    write_directory(path, ring)
    highest = max(upstream_read(path))
    (path / "0").rename(path / str(highest + 1))
    (path / "0").write_bytes(key(5))
    (path / "0").chmod(0o600)
    read = read_directory(path)
    assert (read.epoch, read.staged, read.numbers[read.primary]) == (0, key(5), ring.staged)
    assert set(ring.numbers.values()) <= set(read.numbers.values())


rotations = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(rotations=rotations, upstream=st.booleans())
def test_no_reader_however_slow_ever_misses_a_key_or_seals_with_a_wrong_one(tmp_path_factory, rotations, upstream):
    path, ring = tmp_path_factory.mktemp("ring") / "keys", ring_of(0, 1, 2, 5)
    upstream_layout(path, ring) if upstream else write_directory(path, ring)
    check_slow_reader(snapshots(path, ring), ring, ring)
    for turn, (turns, retired) in enumerate(rotations):
        secondaries = sorted(ring.numbers.keys() - {0, ring.primary})[:retired]
        after = ring.rotated(key(turn), secondaries) if turns else ring.without(secondaries)
        check_slow_reader(snapshots(path, after), ring, after)
        assert read_directory(path) == after
        assert set(upstream_read(path).values()) == set(after.numbers.values()), "a retired key has stayed"
        ring = after


LAYOUTS = [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 3, 4, 5, 6], [0, 9]]


@pytest.mark.parametrize("start", LAYOUTS, ids=str)
@pytest.mark.parametrize("turns", [0, 1])
def test_at_every_instant_a_directory_of_upstream_has_all_keys_in_use_and_a_right_primary(tmp_path, start, turns):
    old = ring_of(*start)
    upstream_layout(tmp_path / "keys", old)
    new = old.rotated(key(1), [number for number in start[1:2] if number != old.primary]) if turns else old
    for files in snapshots(tmp_path / "keys", new):
        assert set(old.numbers.values()) & set(new.numbers.values()) <= set(files.values())
        assert files[max(files)] in (old.numbers[old.primary], new.numbers[new.primary])
        assert files[0] in (old.staged, new.staged)
    assert read_directory(tmp_path / "keys") == new


@settings(max_examples=60, deadline=None)
@given(
    first=st.sets(st.integers(1, 12), min_size=1, max_size=6),
    second=st.sets(st.integers(1, 12), min_size=1, max_size=6),
    staged=st.integers(13, 15),
)
def test_a_leap_over_many_rotations_never_shows_a_primary_that_neither_ring_has(
    tmp_path_factory, first, second, staged
):
    path = tmp_path_factory.mktemp("ring") / "keys"
    old = ring_of(0, *first)
    new = KeyRing({number: key(1000 + number) for number in second} | {0: key(1000 + staged)}, 9)
    write_directory(path, old)
    check_slow_reader(snapshots(path, new), old, new)
    assert read_directory(path) == new
    assert set(upstream_read(path).values()) == set(new.numbers.values())


class Crash(Exception):
    pass


def crash_at(place):
    count = iter(range(10_000))

    def step(name):
        if next(count) == place:
            raise Crash

    return step


def steps_of(path, ring):
    names = []
    write_directory(path, ring, names.append)
    return len(names)


@pytest.mark.parametrize("retire", [[], [3], [3, 4]])
@pytest.mark.parametrize("start", [[0, 3, 4, 5], [0, 3, 4, 5, 6]])
@pytest.mark.parametrize("make", [write_directory, upstream_layout])
def test_after_a_crash_at_any_step_all_keys_in_use_are_there_and_doing_it_again_finishes(tmp_path, make, retire, start):
    old = ring_of(*start, epoch=3)
    new = old.rotated(key(1), retire)
    make(tmp_path / "dry", old)
    for place in range(steps_of(tmp_path / "dry", new)):
        path = tmp_path / str(place) / "keys"
        path.parent.mkdir()
        make(path, old)
        with pytest.raises(Crash):
            write_directory(path, new, crash_at(place))
        read = read_directory(path)
        assert read.epoch in ((3, 4) if make is write_directory else (0, 4))
        assert read.numbers[read.primary] in (old.numbers[old.primary], new.numbers[new.primary])
        kept = {old.numbers[number] for number in old.numbers if number not in retire}
        assert kept <= set(read.numbers.values())
        sealed_ahead, sealed_behind = new.seal(b"ahead", 0), old.seal(b"behind", 0)
        assert read.open(sealed_ahead)[0] == b"ahead"
        assert read.open(sealed_behind)[0] == b"behind"
        files = upstream_read(path)
        assert files[max(files)] in (old.numbers[old.primary], new.numbers[new.primary])
        write_directory(path, new)
        assert read_directory(path) == new


def test_a_first_writing_that_crashed_is_finished(tmp_path):
    ring = ring_of(0, 1)
    for place in range(steps_of(tmp_path / "dry", ring)):
        path = tmp_path / str(place) / "keys"
        with pytest.raises(Crash):
            write_directory(path, ring, crash_at(place))
        write_directory(path, ring)
        assert read_directory(path) == ring


def test_a_full_disk_before_the_first_rename_leaves_the_old_set(tmp_path):
    path, old = tmp_path / "keys", ring_of(0, 1, 2)
    write_directory(path, old)
    before = upstream_read(path)

    def full(name):
        assert not name.startswith("rename")
        if name == "write 0":
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_directory(path, old.rotated(key(1), [1]), full)
    assert upstream_read(path) == before
    assert read_directory(path) == old


def test_left_over_staging_files_of_a_kill_do_not_disturb(tmp_path):
    left = tmp_path / ".keys.new"
    left.mkdir()
    (left / "0").write_bytes(b"half")
    write_directory(tmp_path / "keys", ring_of(0, 1))
    assert not left.exists()


def test_two_writers_at_once_are_refused(tmp_path):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))

    def second(name):
        if name == "stage":
            with pytest.raises(KeyRepositoryError, match="another process"):
                write_directory(path, ring_of(0, 1))

    write_directory(path, ring_of(0, 1).rotated(key(1)), second)


def test_one_rotation_behind_reads_and_two_behind_does_not(tmp_path):
    behind, ahead = ring_of(0, 1), ring_of(0, 1).rotated(key(1))
    write_directory(tmp_path / "behind", behind)
    write_directory(tmp_path / "ahead", ahead)
    token = read_directory(tmp_path / "ahead").seal(b"x", 0)
    assert read_directory(tmp_path / "behind").open(token)[2] == 0
    with pytest.raises(NotAToken):
        behind.open(ahead.rotated(key(2)).seal(b"x", 0))


def test_foreign_names_and_empty_files_are_ignored(tmp_path):
    path, ring = tmp_path / "keys", ring_of(0, 1)
    upstream_layout(path, ring)
    for name in ("0.tmp", "notes", "lost+found"):
        (path / name).write_text("x")
    (path / "9").touch(0o600)
    (path / "8").mkdir()
    assert read_directory(path) == ring


DAMAGES = {
    "truncated": b"A" * 20,
    "newline": base64.urlsafe_b64encode(bytes(32)) + b"\n",
    "flipped": b"*" + b"A" * 42 + b"=",
    "unused bits": b"A" * 42 + b"B=",
    "standard alphabet": b"+" + b"A" * 42 + b"=",
    "too long": base64.urlsafe_b64encode(bytes(33)),
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_key_is_named_and_not_shown(tmp_path, content):
    path = tmp_path / "keys"
    upstream_layout(path, ring_of(0, 1, 2))
    (path / "1").write_bytes(content)
    with pytest.raises(KeyRepositoryError) as caught:
        read_directory(path)
    assert str(path / "1") in str(caught.value)
    assert content[:12].decode() not in str(caught.value)
    write_directory(path, ring_of(0, 1, 2))
    assert read_directory(path) == ring_of(0, 1, 2)


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4", "5"])
@pytest.mark.parametrize("damage", ["content", "mode"])
def test_any_damaged_file_is_mended_by_writing_again_and_upstream_reads_it(tmp_path, name, damage):
    path, ring = tmp_path / "keys", ring_of(0, 1, 2, 3, epoch=6)
    write_directory(path, ring)
    (path / name).chmod(0o644) if damage == "mode" else (path / name).write_bytes(b"x")
    with pytest.raises(KeyRepositoryError, match=f"keys/{name}: "):
        read_directory(path)
    write_directory(path, ring)
    assert read_directory(path) == ring
    assert upstream_read(path)[5] == ring.numbers[3]


@pytest.mark.parametrize("name", ["-1", "01", "1_0", "+7", "٣"])
def test_a_name_that_only_upstream_takes_for_a_number_is_refused(tmp_path, name):
    path = tmp_path / "keys"
    upstream_layout(path, ring_of(0, 1))
    (path / name).write_bytes(key(5))
    with pytest.raises(KeyRepositoryError, match="rm "):
        read_directory(path)


def test_no_staged_key_is_refused(tmp_path):
    upstream_layout(tmp_path / "keys", ring_of(0, 1))
    (tmp_path / "keys" / "0").unlink()
    with pytest.raises(KeyRepositoryError, match="0 is missing"):
        read_directory(tmp_path / "keys")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(KeyRepositoryError, match="absent"):
        read_directory(tmp_path / "absent")


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o710])
def test_an_open_directory_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))
    path.chmod(mode)
    with pytest.raises(KeyRepositoryError, match=f"chmod 700 {path}$"):
        read_directory(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_an_open_file_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))
    (path / "1").chmod(mode)
    with pytest.raises(KeyRepositoryError, match=f"chmod 600 {path / '1'}$"):
        read_directory(path)


def test_a_file_of_another_owner_is_refused_with_the_command_that_mends_it(tmp_path):
    path = tmp_path / "keys"
    write_directory(path, ring_of(0, 1))
    if os.geteuid() == 0:
        os.chown(path / "1", 1234, 1234)
        with pytest.raises(KeyRepositoryError, match=f"chown 0 {path / '1'}$"):
            read_directory(path)


@pytest.mark.parametrize("ledger", [b"", b"{", b"[]", b'{"now":{"epoch":1,"numbers":{}}}', b"\xff" * 9])
def test_without_a_readable_ledger_the_names_are_the_numbers(tmp_path, ledger):
    path, ring = tmp_path / "keys", ring_of(0, 1, 2, epoch=4)
    write_directory(path, ring)
    (path / LEDGER).write_bytes(ledger)
    read = read_directory(path)
    assert (read.epoch, read.staged, read.numbers[read.primary]) == (0, ring.staged, ring.numbers[2])
    assert set(read.numbers.values()) == set(ring.numbers.values())


def test_a_primary_that_cannot_be_known_is_refused(tmp_path):
    path = tmp_path / "keys"
    upstream_layout(path, ring_of(0, 1, 2))
    (path / "2").write_bytes((path / "0").read_bytes())
    with pytest.raises(KeyRepositoryError, match="primary is unknown"):
        read_directory(path)
    write_directory(path, ring_of(0, 1, 2))
    assert read_directory(path) == ring_of(0, 1, 2)


def test_each_file_and_each_name_is_on_the_disk_before_the_next_step(tmp_path, monkeypatch):
    """A power cut keeps what was synced, and of the rest anything."""
    path, done, fsync = tmp_path / "keys", [], os.fsync

    def noted(descriptor):
        done.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    for ring in (ring_of(0, 1, 2), ring_of(0, 1, 2).rotated(key(1))):
        done.clear()
        write_directory(path, ring, lambda name: done.append(("step", name)))
        follows = [(name, then) for (kind, name), then in pairwise(done) if kind == "step"]
        assert [then for name, then in follows if name == "make"] == [("synced", tmp_path)]
        written = [then for name, then in follows if name.startswith("write ")]
        assert written == [("synced", tmp_path / ".keys.new" / str(place)) for place in range(len(written))]
        placed = [then for name, then in follows if name.startswith("sync ")] + done[-1:]
        assert placed == [("synced", path)] * (len(written) + 1)
