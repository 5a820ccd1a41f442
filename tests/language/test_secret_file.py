"""A secret that others can read, or that is none, is refused with the cure."""

import pytest

from regional_keystone import secret_file
from regional_keystone.errors import StoreRefused


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "secret"
    found.write_text("s3cret\n")
    found.chmod(0o600)
    return found


def test_what_only_its_owner_can_read_is_read(path):
    assert secret_file.read(path, "password") == "s3cret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_what_others_may_reach_is_refused(path, mode):
    path.chmod(mode)
    with pytest.raises(StoreRefused, match=f"others may read the password; chmod 600 {path}"):
        secret_file.read(path, "password")


def test_what_is_not_there_is_refused(path):
    path.unlink()
    with pytest.raises(StoreRefused, match="No such file or directory; write the password into it"):
        secret_file.read(path, "password")


def test_what_is_no_text_is_refused_without_showing_it(path):
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StoreRefused, match="this is no text") as refusal:
        secret_file.read(path, "password")
    assert refusal.value.__cause__ is None
