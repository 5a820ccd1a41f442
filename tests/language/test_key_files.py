"""Directories of keys that cannot be used as they are: each is named with why, and with the command that mends it."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from regional_keystone import signing_files
from regional_keystone.followed import Followed
from regional_keystone.key_directory import read_directory, write_directory
from regional_keystone.key_files import KeyRepositoryError, scan, unwritten
from tests.language.test_key_directory import ring_of, upstream_layout
from tests.site.test_key_damage import started


def told(does, *words):
    with pytest.raises(KeyRepositoryError) as caught:
        does()
    said = str(caught.value)
    assert all(word in said for word in words), said
    return said


def test_a_file_in_the_place_of_the_directory_or_on_the_way_to_it(tmp_path):
    file = tmp_path / "keys"
    file.write_text("x")
    cure = f"it is no directory; mend it: mv {file} {file}.away"
    for path in (file, file / "below"):
        for does in (lambda path=path: started(path), lambda path=path: write_directory(path, ring_of(0, 1))):
            assert told(does, cure).startswith(f"{file}: ")
        told(lambda path=path: Followed(path, seals=True).start(), cure)
    assert file.read_text() == "x", "nothing was changed"


def test_a_directory_that_is_not_there_is_made_if_it_is_ours_and_asked_for_if_it_is_a_keystones(tmp_path):
    absent = tmp_path / "absent"
    started(absent)
    assert not absent.exists(), "it is made with the first ring"
    words = f"{absent}: there is no such directory; mend it: bring Keystone's there", "[keys] follow"
    told(lambda: Followed(absent, seals=True).start(), *words)
    command = f"there is no such directory; mend it: mkdir -m 755 {absent}"
    told(lambda: signing_files.load_trusted(absent), command, "take this option out")


def test_a_directory_without_a_key(tmp_path):
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    started(path)
    words = "it holds no key", "keystone-manage fernet_setup", "[keys] follow"
    told(lambda: Followed(path, seals=True).start(), *words)
    upstream_layout(tmp_path / "half", ring_of(0, 1))
    (tmp_path / "half" / "0").unlink()
    told(lambda: read_directory(tmp_path / "half"), "no staged key", "mend it: copy the whole directory once more")


def test_what_is_no_key_among_the_public_keys_of_others(tmp_path):
    (tmp_path / "sub").mkdir()
    told(lambda: signing_files.load_trusted(tmp_path), f"mend it: rmdir {tmp_path / 'sub'}")


def test_a_directory_that_is_a_file_system_of_its_own(tmp_path):
    problem = OSError(18, "Invalid cross-device link", str(tmp_path / "keys" / "0"))
    assert f"mount the file system at {tmp_path}" in unwritten(tmp_path / "keys", problem)


@pytest.mark.parametrize(
    ("number", "cure"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "be written")]
)
def test_a_disk_that_takes_nothing(tmp_path, number, cure):
    problem = OSError(number, os.strerror(number), f"{tmp_path}/keys/2")
    said = unwritten(tmp_path / "keys", problem)
    assert said.startswith(f"{os.strerror(number)}: '{tmp_path}/keys/2'; mend it: ")
    assert cure in said
    assert unwritten(tmp_path / "keys", OSError("power cut")) == "power cut"


SHUT = """
import os, sys
from pathlib import Path
sys.path.insert(0, ".")
from regional_keystone import signing_files
from regional_keystone.followed import Followed
from regional_keystone.key_directory import write_directory
from regional_keystone.key_files import KeyRepositoryError, unwritten
from tests.language.test_key_directory import ring_of, upstream_layout
from tests.site.test_key_damage import started
home, theirs = Path(sys.argv[1]), Path(sys.argv[1]) / "theirs"
upstream_layout(theirs, ring_of(0, 1))  # as root, if we are
os.chmod(theirs, 0o755)
below = home / "shut" / "keys"
below.parent.mkdir(mode=0o700)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    me = "65534"
    others = True
else:
    me, others = str(os.geteuid()), False
def told(does):
    try:
        does()
    except KeyRepositoryError as error:
        return str(error)
    return "not refused"
def check(said, *words):
    assert all(word in said for word in words), said
own = home / "own"
write_directory(own, ring_of(0, 1))
own.chmod(0)
check(told(lambda: started(own)), f"{own}: user {me} cannot enter it; mend it: chmod 700 {own}")
own.chmod(0o500)
(home / "closed").mkdir()
inner = home / "closed" / "keys"
(home / "closed").chmod(0o500)
try:
    write_directory(inner, ring_of(0, 1))
    assert False
except OSError as error:
    check(unwritten(inner, error), f"mend it: setfacl -m u:{me}:rwx {home / 'closed'}")
(home / "closed").chmod(0o700)
if others:
    readable = f"setfacl -R -m u:{me}:rX -m d:u:{me}:rX {theirs}"
    said = told(lambda: Followed(theirs, True).start())
    check(said, "it cannot be read, Permission denied; mend it: " + readable)
    check(told(lambda: started(below)), f"mend it: setfacl -m u:{me}:x {below.parent}")
    check(told(lambda: Followed(below, True).start()), f"mend it: setfacl -m u:{me}:x {below.parent}")
    check(told(lambda: Followed(below.parent, True).start()), f"mend it: setfacl -R -m u:{me}:rX", str(below.parent))
    check(told(lambda: started(below.parent)), f"mend it: chown {me} {below.parent}")
    check(told(lambda: signing_files.load_private(below.parent, "private.pem")), f"mend it: chown {me}")
print("well")
"""


def test_an_ordinary_user_who_may_not_enter_a_directory_is_told_what_lets_them():
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        run = [sys.executable, "-c", SHUT, home]
        ran = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, umask=0o022)
    assert ran.stdout.endswith("well\n"), ran.stderr


def test_what_says_a_damage_in_parts_says_it_whole_too(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(KeyRepositoryError) as caught:
        scan(tmp_path / "file")
    assert str(caught.value) == str(caught.value.damage)
    assert caught.value.damage.file == tmp_path / "file"
    assert os.fspath(tmp_path) in caught.value.damage.cure
