"""Small files that are there whole or not at all: written, then on the disk, then in place, then known to be so."""

import os
from pathlib import Path

import pytest

from regional_keystone import durable


@pytest.fixture
def done(monkeypatch):
    """What was synced and renamed, in order."""
    found, fsync, rename = [], os.fsync, Path.rename

    def noted(descriptor):
        found.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def renamed(path, target):
        found.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name_and_so_is_the_name_before_it_counts(tmp_path, done):
    for content in (b"one", b"two"):
        done.clear()
        durable.write(tmp_path / "file", content)
        assert done == ["sync file.new", "rename file.new", f"sync {tmp_path.name}"]
        assert (tmp_path / "file").read_bytes() == content


def test_a_file_is_for_its_owner_alone_from_the_first_byte_on(tmp_path, monkeypatch):
    old, modes, fsync = os.umask(0), [], os.fsync

    def noted(descriptor):
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    try:
        durable.write(tmp_path / "file", b"secret")
        durable.keep(tmp_path / "kept", lambda: b"secret")
        durable.write(tmp_path / "less", b"secret", 0o400)
    finally:
        os.umask(old)
    assert modes[::2] == [0o600, 0o600, 0o400]


def test_what_lies_under_the_name_of_what_is_being_written_is_not_written_into(tmp_path):
    (tmp_path / "aside").write_bytes(b"theirs")
    (tmp_path / "file.new").symlink_to(tmp_path / "aside")
    durable.write(tmp_path / "file", b"secret")
    assert (tmp_path / "aside").read_bytes() == b"theirs"
    assert not (tmp_path / "file").is_symlink()


def test_a_directory_has_one_user_at_a_time_or_several_that_share_it(tmp_path):
    with durable.locked(tmp_path), pytest.raises(BlockingIOError), durable.locked(tmp_path, shared=True):
        pass
    with durable.locked(tmp_path, shared=True), durable.locked(tmp_path, shared=True):
        with pytest.raises(BlockingIOError), durable.locked(tmp_path):
            pass
