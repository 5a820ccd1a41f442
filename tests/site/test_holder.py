"""Who holds key rings: only a newer one, duly sealed and signed, replaces what is installed."""

import asyncio
import shutil
import time

import msgspec
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import header, seal
from regional_keystone.errors import Unavailable
from regional_keystone.holder import Holder
from regional_keystone.key_directory import LEDGER, read_directory
from regional_keystone.key_files import KeyRepositoryError
from regional_keystone.keys import KeyRing
from regional_keystone.model import Ring

NOW = 1_772_000_000_000_000
SIGNER = Ed25519PrivateKey.generate()
BOX = X25519PrivateKey.generate()
FIRST = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1)
SECOND = FIRST.rotated(Fernet.generate_key())
THIRD = SECOND.rotated(Fernet.generate_key())


def record(ring, previous="", *, holder="RegionOne", signer=SIGNER, earlier=(), isolation_us=0, **fields):
    about = header("cluster", holder, "token", ring, NOW, previous, earlier=earlier, isolation_us=isolation_us)
    sealed = {holder: seal(ring, about, BOX.public_key().public_bytes_raw(), signer)}
    made = Ring(
        id="token",
        epoch=ring.epoch,
        fingerprint=ring.fingerprint,
        checks=ring.check_values(),
        sealed=sealed,
        turned_at=NOW,
    )
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def holder(tmp_path):
    return Holder("RegionOne", "cluster", BOX, [SIGNER.public_key().public_bytes_raw()], tmp_path / "keys")


async def test_a_holder_without_a_ring_says_that_it_cannot_decide(holder):
    holder.load()
    assert holder.seen.epoch == 0
    with pytest.raises(Unavailable):
        _ = holder.ring


async def test_a_ring_is_on_disk_before_it_is_used_and_taken_up_again(holder):
    assert await holder.install(record(FIRST), NOW)
    assert read_directory(holder.directory) == holder.ring == FIRST
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory)
    again.load()
    assert again.seen == holder.seen


async def test_the_epoch_only_grows(holder):
    assert await holder.install(record(FIRST), NOW)
    assert await holder.install(record(SECOND, FIRST.fingerprint), NOW)
    assert not await holder.install(record(FIRST), NOW)
    # nor by a record that says a higher number than the bundle in it
    lying = record(FIRST, epoch=3, fingerprint=FIRST.fingerprint)
    assert not await holder.install(lying, NOW)
    assert holder.ring == read_directory(holder.directory) == SECOND


async def test_an_older_ring_that_comes_again_is_nothing_to_complain_of(holder, capsys):
    assert await holder.install(record(SECOND), NOW)
    assert not await holder.install(record(FIRST), NOW)
    assert "ring_refused" not in capsys.readouterr().out


async def test_a_ring_that_was_skipped_is_not_needed_if_the_newer_one_names_what_is_installed(holder):
    assert await holder.install(record(FIRST), NOW)
    assert not await holder.install(record(THIRD, SECOND.fingerprint), NOW)
    assert holder.refused == {"gap": 1}
    assert await holder.install(record(THIRD, SECOND.fingerprint, earlier=[FIRST.fingerprint]), NOW)
    assert holder.ring == THIRD


async def test_a_directory_that_was_put_back_is_seen_and_takes_nothing_old(holder, capsys):
    """FM-82: the highest epoch is kept beside the directory, and the controller knows it as well."""
    holder.memory = holder.directory.parent / "token.epoch"
    assert await holder.install(record(FIRST), NOW)
    shutil.copytree(holder.directory, holder.directory.with_name("backup"))
    assert await holder.install(record(SECOND, FIRST.fingerprint), NOW)
    assert await holder.install(record(THIRD, SECOND.fingerprint), NOW)
    shutil.rmtree(holder.directory)
    holder.directory.with_name("backup").rename(holder.directory)
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory, memory=holder.memory)
    again.load()
    assert "ring_went_back" in capsys.readouterr().out
    assert again.seen.epoch == 1, "and says so to the controller"
    assert not await again.install(record(SECOND, FIRST.fingerprint), NOW)
    assert again.refused == {"rolled_back": 1}
    assert await again.install(record(THIRD, SECOND.fingerprint, earlier=[FIRST.fingerprint]), NOW)
    assert again.ring == read_directory(holder.directory) == THIRD


async def test_a_holder_that_lost_all_but_is_told_what_it_had_takes_nothing_old(holder):
    await holder.had(2)
    assert not await holder.install(record(FIRST), NOW)
    assert await holder.install(record(SECOND, FIRST.fingerprint), NOW)


@pytest.mark.parametrize("damage", [b"", b"many"])
async def test_a_highest_epoch_that_cannot_be_read_stops_nobody(holder, damage, capsys):
    holder.memory = holder.directory.parent / "token.epoch"
    holder.memory.write_bytes(damage)
    holder.load()
    assert "highest_epoch_not_read" in capsys.readouterr().out
    assert await holder.install(record(FIRST), NOW)


async def test_the_isolation_that_is_promised_is_known_also_after_a_restart(holder):
    ring = record(FIRST, isolation_us=7)
    assert await holder.install(ring, NOW)
    assert holder.isolation_us == 7
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory)
    again.load()
    assert await again.install(ring, NOW)
    assert again.isolation_us == 7


@pytest.mark.parametrize(
    "bad",
    [
        record(SECOND, FIRST.fingerprint, sealed={}),
        record(SECOND, FIRST.fingerprint, sealed={"RegionOne": b""}),
        record(SECOND, FIRST.fingerprint, holder="RegionTwo"),
        record(SECOND, FIRST.fingerprint, signer=Ed25519PrivateKey.generate()),
        record(SECOND, FIRST.fingerprint, epoch=3),
        record(SECOND, FIRST.fingerprint, fingerprint="0" * 32),
        record(SECOND, FIRST.fingerprint, id="credential"),
        record(SECOND, "0" * 32),
    ],
)
async def test_what_must_not_be_installed_leaves_the_old_ring_in_use(holder, bad):
    assert await holder.install(record(FIRST), NOW)
    assert not await holder.install(bad, NOW)
    assert holder.ring == read_directory(holder.directory) == FIRST


async def test_a_directory_that_cannot_be_written_leaves_the_old_ring_in_use(holder):
    assert await holder.install(record(FIRST), NOW)
    holder.directory.rename(holder.directory.with_name("aside"))
    holder.directory.write_text("in the way")
    assert not await holder.install(record(SECOND, FIRST.fingerprint), NOW)
    assert holder.ring == FIRST
    holder.directory.unlink()
    assert await holder.install(record(SECOND, FIRST.fingerprint), NOW)


@pytest.mark.parametrize("damage", [b"", b"short\n", b"x" * 44])
async def test_a_damaged_directory_is_written_again_from_the_newest_ring(holder, damage):
    assert await holder.install(record(FIRST), NOW)
    (holder.directory / "1").write_bytes(damage)
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory)
    again.load()  # does not stop the site
    assert await again.install(record(FIRST), NOW)
    assert again.ring == read_directory(holder.directory) == FIRST


async def test_the_same_ring_is_written_again_only_if_the_directory_lost_it(holder):
    assert await holder.install(record(FIRST), NOW)
    before = {file.name: file.stat().st_ino for file in holder.directory.iterdir()}
    assert await holder.install(record(FIRST), NOW)
    assert {file.name: file.stat().st_ino for file in holder.directory.iterdir()} == before
    (holder.directory / "0").unlink()
    assert await holder.install(record(FIRST), NOW)
    assert read_directory(holder.directory) == FIRST


async def test_while_a_disk_takes_long_to_write_the_ring_others_are_served(holder, monkeypatch):
    """FM-71: what is durable is waited for, and never on the event loop; until then the old ring is used."""
    assert await holder.install(record(FIRST), NOW)
    monkeypatch.setattr("os.fsync", lambda descriptor: time.sleep(0.1))
    installing = asyncio.create_task(holder.install(record(SECOND, FIRST.fingerprint), NOW))
    served = 0
    while not installing.done():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        served += time.monotonic() - began < 0.09
        if not installing.done():
            assert holder.ring in (FIRST, SECOND)
    assert await installing
    assert served >= 5
    assert holder.ring == SECOND


def upstream(path, ring):
    path.mkdir(mode=0o700)
    for number, key in ring.numbers.items():
        (path / str(number)).write_bytes(key)
        (path / str(number)).chmod(0o600)


def lying(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


async def test_keys_of_somebody_else_are_never_written_over(holder):
    holder.memory = holder.directory.with_name("token.epoch")
    upstream(holder.directory, KeyRing({number: Fernet.generate_key() for number in (0, 3, 4, 5)}))
    before = lying(holder.directory)
    for kept in (False, True):  # even where a ring was kept before, in another directory
        holder.load()
        with pytest.raises(KeyRepositoryError, match=r"keys of somebody else.*\[keys\] follow"):
            await holder.install(record(FIRST), NOW)
        assert lying(holder.directory) == before
        assert holder.memory.exists() == kept
        holder.memory.write_bytes(b"0")


async def test_a_directory_of_a_keystone_that_went_on_is_not_taken_for_ours(holder):
    holder.memory = holder.directory.with_name("token.epoch")
    upstream(holder.directory, FIRST.rotated(Fernet.generate_key()))
    before = lying(holder.directory)
    holder.load()
    with pytest.raises(KeyRepositoryError):
        await holder.install(record(FIRST), NOW)
    assert lying(holder.directory) == before


async def test_a_damaged_directory_of_somebody_else_is_not_mended(holder):
    holder.memory = holder.directory.with_name("token.epoch")
    upstream(holder.directory, FIRST)
    (holder.directory / "1").write_bytes(b"half a key")
    before = lying(holder.directory)
    holder.load()
    with pytest.raises(KeyRepositoryError):
        await holder.install(record(FIRST), NOW)
    assert lying(holder.directory) == before


async def test_a_directory_with_the_keys_of_the_ring_and_no_other_is_taken_as_it_is(holder):
    upstream(holder.directory, FIRST)
    holder.load()
    assert await holder.install(record(FIRST), NOW)
    assert read_directory(holder.directory) == FIRST


async def test_our_directory_without_its_ledger_is_written_again_after_turns(holder):
    holder.memory = holder.directory.with_name("token.epoch")
    assert await holder.install(record(SECOND), NOW)
    (holder.directory / LEDGER).unlink()
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory, memory=holder.memory)
    again.load()
    newer = SECOND.rotated(Fernet.generate_key(), [1])  # what it retires lies there still
    assert await again.install(record(newer, SECOND.fingerprint), NOW)
    assert read_directory(holder.directory) == newer


async def test_a_first_ring_that_was_half_written_is_ours(holder, monkeypatch):
    holder.memory = holder.directory.with_name("token.epoch")

    def stopped(path, ring):
        upstream(path, ring)
        raise OSError("power cut")

    with monkeypatch.context() as cut:
        cut.setattr("regional_keystone.holder.write_directory", stopped)
        assert not await holder.install(record(SECOND), NOW)
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory, memory=holder.memory)
    again.load()
    newer = SECOND.rotated(Fernet.generate_key(), [1])
    assert await again.install(record(newer, SECOND.fingerprint), NOW)
    assert read_directory(holder.directory) == newer


async def test_keys_of_somebody_else_that_come_while_it_runs_are_never_written_over(holder):
    """As where a Keystone's directory is mounted there, or brought, while the site runs."""
    assert await holder.install(record(FIRST), NOW)
    shutil.rmtree(holder.directory)
    upstream(holder.directory, KeyRing({number: Fernet.generate_key() for number in (0, 3, 4)}))
    before = lying(holder.directory)
    await holder.look_after()
    assert lying(holder.directory) == before
    assert (holder.ring, holder.held.epoch) == (FIRST, 0)
    assert not await holder.install(record(SECOND, FIRST.fingerprint), NOW)
    assert lying(holder.directory) == before
    assert holder.refused == {"not_written": 1}


async def test_what_a_holder_is_told_that_it_had_counts_after_a_restart_as_well(holder):
    holder.memory = holder.directory.with_name("token.epoch")
    await holder.had(2)
    again = Holder("RegionOne", "cluster", BOX, holder.signers, holder.directory, memory=holder.memory)
    again.load()
    assert not await again.install(record(FIRST), NOW)
    assert again.refused == {"rolled_back": 1}


async def test_an_epoch_that_could_not_be_written_is_not_one_that_it_had(holder, monkeypatch):
    holder.memory = holder.directory.with_name("token.epoch")
    assert await holder.install(record(FIRST), NOW)

    def full(path, ring):
        raise OSError("the disk is full")

    with monkeypatch.context() as disk:
        disk.setattr("regional_keystone.holder.write_directory", full)
        assert not await holder.install(record(SECOND, FIRST.fingerprint), NOW)
    assert holder.memory.read_bytes() == b"1"
