"""Who holds key rings: only a newer one, duly sealed and signed, replaces what is installed."""

import msgspec
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone.bundle import header, seal
from regional_keystone.errors import Unavailable
from regional_keystone.holder import Holder
from regional_keystone.key_directory import read_directory
from regional_keystone.keys import KeyRing
from regional_keystone.model import Ring

NOW = 1_772_000_000_000_000
SIGNER = Ed25519PrivateKey.generate()
BOX = X25519PrivateKey.generate()
FIRST = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1)
SECOND = FIRST.rotated(Fernet.generate_key())
THIRD = SECOND.rotated(Fernet.generate_key())


def record(ring, previous="", *, holder="RegionOne", signer=SIGNER, **fields):
    about = header("cluster", holder, "token", ring, NOW, previous)
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


async def test_a_ring_that_was_skipped_is_not_needed(holder):
    assert await holder.install(record(FIRST), NOW)
    assert await holder.install(record(THIRD, SECOND.fingerprint), NOW)
    assert holder.ring == THIRD


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
