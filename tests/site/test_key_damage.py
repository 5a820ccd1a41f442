"""A damaged key directory: named precisely, mended by itself, and never a reason to refuse a good token."""

import asyncio
import base64
import contextlib
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from regional_keystone import holder as holder_module
from regional_keystone.errors import Unavailable
from regional_keystone.holder import LOOK_S, Holder, look_after
from regional_keystone.key_directory import LEDGER, examine, write_directory
from regional_keystone.key_files import KeyRepositoryError
from regional_keystone.keys import KeyRing, check_value
from regional_keystone.payload import NoKeyFits
from tests.site.test_holder import BOX, NOW, SIGNER, record
from tests.stand_ins import ManualClock


def key(number):
    return base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest())


RING = KeyRing({0: key(1), 3: key(2), 4: key(3), 5: key(4)}, 7)
NEXT = RING.rotated(key(5), [3])
# The directory has 0 (staged), 1 to 4 (a home for each key), 5 (the primary again).
FILES = ["0", "1", "2", "3", "4", "5"]
FLIPPED = bytes([RING.numbers[4][0] ^ 1]) + RING.numbers[4][1:]

DAMAGES = {
    "truncated": lambda file: os.truncate(file, 20),
    "empty": lambda file: os.truncate(file, 0),
    "flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[5] ^ 1]).join(_around(file.read_bytes()))),
    "no character of a key": lambda file: file.write_bytes(b"*" + file.read_bytes()[1:]),
    "newline": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "another key's": lambda file: file.write_bytes(another(file)),
    "a key that nobody knows": lambda file: file.write_bytes(key(99)),
    "gone": lambda file: file.unlink(),
}


def another(file):
    """A key of the directory that this file does not have."""
    return next(key for name in FILES if (key := (file.parent / name).read_bytes()) != file.read_bytes())


def _around(content):
    return content[:5], content[6:]


@pytest.fixture
def holder(tmp_path):
    write_directory(tmp_path / "keys", RING)
    return started(tmp_path / "keys")


def started(path, **options):
    made = Holder("RegionOne", "cluster", BOX, [SIGNER.public_key().public_bytes_raw()], path, **options)
    made.load()
    return made


def opens(ring, *rings):
    """Whether every token that these rings may have sealed is opened."""
    return all(
        ring.open(KeyRing({0: key(98), 1: one}).seal(b"x", 0))[0] == b"x" for of in rings for one in of.numbers.values()
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_while_it_runs_a_damaged_file_is_named_and_mended_and_all_keys_stay_in_use(holder, capsys, damage, name):
    damage(holder.directory / name)
    await holder.look_after()
    said = capsys.readouterr().out
    assert "key_file_damaged" in said
    assert f"file={holder.directory / name} " in said
    assert "key_directory_mended" in said
    assert not any(content.decode()[:20] in said for content in (*RING.numbers.values(), key(99)))
    assert holder.ring == RING
    assert holder.held == holder.seen
    assert (holder.damage, holder.mended) == ((), 1)
    found = examine(holder.directory)
    assert (found.ring, found.damage) == (RING, ())
    await holder.look_after()
    assert holder.mended == 1
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_at_the_start_the_other_keys_are_used_and_the_ring_of_the_replica_mends_it(holder, capsys, damage, name):
    damage(holder.directory / name)
    again = started(holder.directory)
    assert f"file={holder.directory / name} " in capsys.readouterr().out
    assert again.held.epoch == 0, "acknowledged what is damaged"
    if again._ring is not None:
        assert again.ring.numbers[again.ring.primary] == RING.numbers[5], "sealed with another key than the primary"
        assert again.lost or opens(again.ring, RING), "a token is refused that may be good"
    else:
        with pytest.raises(Unavailable):
            _ = again.ring
    assert again.lacks(record(RING))
    assert await again.install(record(RING), NOW)
    assert again.ring == RING
    assert (again.lost, again.damage, again.held) == (False, (), holder.seen)
    assert examine(holder.directory).damage == ()


def test_a_key_with_two_files_is_not_lost_with_one_of_them(holder):
    (holder.directory / "5").unlink()  # the label of the primary
    again = started(holder.directory)
    assert again.ring == RING
    assert not again.lost


def test_every_key_but_the_lost_one_opens_at_the_start(holder):
    home = next(name for name in FILES[1:5] if (holder.directory / name).read_bytes() == RING.numbers[4])
    (holder.directory / home).write_bytes(FLIPPED)
    again = started(holder.directory)
    assert again.lost
    assert opens(again.ring, KeyRing({number: one for number, one in RING.numbers.items() if number != 4}))
    with pytest.raises(NoKeyFits):
        opens(again.ring, RING)
    assert again.seen == holder.seen, "a bundle of an older ring would be taken"


def test_what_has_a_wrong_key_is_named_with_the_check_values(holder, capsys):
    (holder.directory / "2").write_bytes((holder.directory / "1").read_bytes())
    started(holder.directory)
    said = capsys.readouterr().out
    one, two = (check_value((holder.directory / name).read_bytes()) for name in ("1", "3"))
    assert f"it holds key {one}, as file 1 does, in the place of " in said
    assert two not in said


async def test_a_directory_that_is_gone_is_made_again(holder, capsys):
    for file in holder.directory.iterdir():
        file.unlink()
    holder.directory.rmdir()
    await holder.look_after()
    assert "there is no such directory" in capsys.readouterr().out
    assert examine(holder.directory).ring == RING


@pytest.mark.parametrize("whole", [True, False])
async def test_at_the_start_keys_that_are_gone_are_named_and_installed_again(tmp_path, capsys, whole):
    """A site that never had any says nothing."""
    memory, path = tmp_path / "epoch", tmp_path / "keys"
    first = started(path, memory=memory)
    assert "key_file_damaged" not in capsys.readouterr().out
    assert await first.install(record(RING), NOW)
    for file in path.iterdir():
        file.unlink()
    if whole:
        path.rmdir()
    again = started(path, memory=memory)
    said = capsys.readouterr().out
    assert f"file={path} " in said
    assert "its keys are gone" in said
    assert again.damage
    assert await again.install(record(RING), NOW)
    assert (again.ring, again.damage) == (RING, ())


@pytest.mark.parametrize("ledger", [b"", b"{", None])
async def test_a_lost_ledger_is_written_again(holder, ledger):
    (holder.directory / LEDGER).unlink() if ledger is None else (holder.directory / LEDGER).write_bytes(ledger)
    await holder.look_after()
    assert examine(holder.directory).ring == RING


async def test_a_directory_that_has_a_number_as_its_name_stays_and_the_key_moves(holder, capsys):
    (holder.directory / "5").unlink()
    (holder.directory / "5").mkdir()
    (holder.directory / "5" / "thing").write_text("ours")
    await holder.look_after()
    assert "something that is no file is in its place" in capsys.readouterr().out
    assert (holder.directory / "5" / "thing").read_text() == "ours"
    found = examine(holder.directory)
    assert (found.ring, found.damage) == (RING, ())
    assert await holder.install(record(NEXT, RING.fingerprint), NOW)
    assert examine(holder.directory).ring == NEXT


async def test_rights_that_change_while_it_runs_are_told_and_taken_back(holder, capsys):
    (holder.directory / "2").chmod(0o644)
    await holder.look_after()
    assert f"chmod 600 {holder.directory / '2'}" in capsys.readouterr().out
    assert (holder.directory / "2").stat().st_mode & 0o777 == 0o600


async def test_rights_of_the_directory_are_the_operators_and_all_goes_on_unacknowledged(holder, capsys):
    holder.directory.chmod(0o755)
    await holder.look_after()
    assert f"chmod 700 {holder.directory}" in capsys.readouterr().out
    assert holder.ring == RING
    assert (holder.held.epoch, len(holder.damage)) == (0, 1)
    await holder.look_after()
    assert not capsys.readouterr().out, "said again and again"
    holder.directory.chmod(0o700)
    await holder.look_after()
    assert (holder.held, holder.damage) == (holder.seen, ())


@pytest.mark.parametrize(
    ("spoil", "cure"),
    [
        (lambda path: (path / "1").chmod(0o640), "chmod 600"),
        (lambda path: path.chmod(0o711), "chmod 700"),
        (lambda path: (path / "07").write_bytes(key(9)), "rm "),
    ],
)
def test_what_only_an_operator_can_judge_is_refused_at_the_start_with_the_command(holder, spoil, cure):
    spoil(holder.directory)
    with pytest.raises(KeyRepositoryError, match=f"mend it: {cure}"):
        started(holder.directory)
    started(holder.directory, keeps=False)  # a worker leaves that to its leader


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_owner_is_refused_at_the_start_with_the_command(holder):
    os.chown(holder.directory / "1", 1234, 1234)
    with pytest.raises(KeyRepositoryError, match="mend it: chown 0"):
        started(holder.directory)


UNREADABLE = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, ".")
from tests.site.test_key_damage import RING, started
from regional_keystone.key_directory import write_directory
asyncio.run(asyncio.to_thread(int))  # what is imported late might not be readable to another user
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
path = Path(sys.argv[1]) / "keys"
write_directory(path, RING)
holder = started(path)
(path / "2").chmod(0)
again = started(path)
assert again.lost, again
asyncio.run(holder.look_after())
assert holder.mended == 1 and holder.ring == RING
path.chmod(0o500)
(path / "2").chmod(0)
asyncio.run(holder.look_after())
assert holder.ring == RING and holder.held.epoch == 0 and holder.damage
path.chmod(0o700)
asyncio.run(holder.look_after())
assert holder.held == holder.seen and not holder.damage and holder.mended == 2
print("well")
"""


def test_an_ordinary_user_whose_file_cannot_be_read_and_whose_directory_cannot_be_written():
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        run = [sys.executable, "-c", UNREADABLE, home]
        ran = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.endswith("well\n"), ran.stderr
    assert "it cannot be read, Permission denied" in ran.stdout
    assert "key_directory_not_mended" in ran.stdout


@contextlib.contextmanager
def full():
    """Meanwhile no file of this process can take a byte, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_on_a_full_disk_all_keys_stay_in_use_and_nothing_is_acknowledged_until_there_is_room(holder, capsys):
    (holder.directory / "2").write_bytes(b"")
    with full():
        await holder.look_after()
        await holder.look_after()
        assert capsys.readouterr().out.count("key_directory_not_mended") == 1
        assert holder.ring == RING
        assert holder.held.epoch == 0
        assert f"File too large: '{holder.directory}/" in holder.why, "of the ring that it has"
        assert not await holder.install(record(NEXT, RING.fingerprint), NOW)
        assert holder.ring == RING
        assert "ring_refused" in (said := capsys.readouterr().out)
        assert f"File too large: '{holder.directory}/" in said
    await holder.look_after()
    assert holder.held == holder.seen
    assert f"File too large: '{holder.directory}/" in holder.why, "of the ring that came"
    assert await holder.install(record(NEXT, RING.fingerprint), NOW)
    assert holder.why == ""


async def test_at_the_start_on_a_full_disk_the_ring_of_the_replica_is_used_and_not_acknowledged(holder, capsys):
    (holder.directory / "2").write_bytes(b"")
    again = started(holder.directory)
    with full():
        assert not await again.install(record(RING), NOW)
        assert again.ring == RING
        assert not again.lost
        assert again.held.epoch == 0
        assert "File too large" in again.why
    await again.look_after()
    assert again.held == again.seen == holder.seen
    assert again.why == ""


@pytest.mark.parametrize("is_there", [True, False])
async def test_so_it_is_where_the_directory_is_gone_or_empty(tmp_path, capsys, is_there):
    memory = tmp_path / "token.epoch"
    first = started(tmp_path / "keys", memory=memory)
    assert await first.install(record(RING), NOW)
    for file in first.directory.iterdir():
        file.unlink()
    if not is_there:
        first.directory.rmdir()
    again = started(first.directory, memory=memory)
    assert again.lost, "a token of a key that was here may come"
    with full():
        assert not await again.install(record(RING), NOW)
        assert again.ring == RING
        assert (again.lost, again.held.epoch, again.seen.epoch) == (False, 0, RING.epoch)
        assert "key_file_damaged" in capsys.readouterr().out
    await again.look_after()
    assert again.held == again.seen
    assert not started(tmp_path / "other", memory=tmp_path / "other.epoch").lost, "there never was one"


async def test_a_change_is_seen_without_opening_a_file_and_loss_of_bits_in_time(holder, monkeypatch):
    read = []
    monkeypatch.setattr(holder_module, "examine", lambda path: read.append(path) or examine(path))
    await holder.look_after()
    assert not read
    await holder.look_after(thoroughly=True)
    assert len(read) == 1


async def test_directories_are_looked_at_every_few_seconds(holder):
    clock, told = ManualClock(), asyncio.Queue()
    watching = asyncio.create_task(look_after([holder], clock, lambda: told.put_nowait(holder.held.epoch)))
    holder.directory.chmod(0o755)
    await clock.advance(LOOK_S)
    assert await asyncio.wait_for(told.get(), 5) == 0
    holder.directory.chmod(0o700)
    await clock.advance(LOOK_S)
    assert await asyncio.wait_for(told.get(), 5) == 7
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_what_is_left_of_a_ring_is_neither_written_as_the_ring_nor_acknowledged(holder):
    home = next(name for name in FILES[1:5] if (holder.directory / name).read_bytes() == RING.numbers[4])
    (holder.directory / home).write_bytes(FLIPPED)
    again = started(holder.directory)
    await again.look_after(thoroughly=True)
    assert again.lost
    assert again.held.epoch == 0, "acknowledged a ring of which a key is missing"
    found = examine(holder.directory)
    assert (found.lost, found.fingerprint) == (True, RING.fingerprint)
    assert await again.install(record(RING), NOW)
    assert (again.lost, again.held) == (False, holder.seen)
