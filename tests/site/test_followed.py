"""A directory that a Keystone turns is followed: its keys open and seal, what cannot be read takes nothing away."""

import asyncio
import os

import pytest

from regional_keystone.errors import NotFound, Unavailable
from regional_keystone.followed import POLL_S, Followed
from regional_keystone.holder import Holder, follow
from regional_keystone.key_directory import examine
from regional_keystone.key_files import KeyRepositoryError, scan
from regional_keystone.keys import KeyRing
from regional_keystone.model import KeyTimes
from regional_keystone.payload import NoKeyFits
from regional_keystone.sealing import Leave
from tests.site.realm import realm
from tests.site.test_holder import BOX, NOW, SIGNER, record
from tests.site.test_key_damage import RING, key
from tests.stand_ins import ManualClock


@pytest.fixture
def keystone(tmp_path):
    """A repository as `keystone-manage fernet_setup` makes it."""
    directory = tmp_path / "keystone-keys"
    directory.mkdir(mode=0o700)
    for name in (0, 1):
        (directory / str(name)).write_bytes(key(f"keystone {name}"))
        (directory / str(name)).chmod(0o600)
    return directory


def turn(directory, most=10):
    """What fernet_utils.rotate_keys does, in its order."""
    names = sorted(int(file.name) for file in directory.iterdir())
    (directory / "0.tmp").write_bytes(key(f"keystone {names[-1] + 1}"))
    (directory / "0").rename(directory / str(names[-1] + 1))
    (directory / "0.tmp").rename(directory / "0")
    for name in names[1 : len(names) + 1 - most + 1]:
        (directory / str(name)).unlink()


def of_keystone(directory):
    """A token as Keystone seals it now."""
    highest = max(int(file.name) for file in directory.iterdir())
    return KeyRing({0: key("any"), 1: (directory / str(highest)).read_bytes()}).seal(b"keystone's", 0)


def started(tmp_path, keystone, *, seals=True):
    followed = Followed(keystone, seals)
    signers = [SIGNER.public_key().public_bytes_raw()]
    made = Holder("RegionOne", "cluster", BOX, signers, tmp_path / "keys", followed=followed)
    made.load()
    return made


@pytest.fixture
async def holder(tmp_path, keystone):
    made = started(tmp_path, keystone)
    assert await made.install(record(RING), NOW)
    return made


async def test_all_keys_open_and_the_one_of_keystone_seals(holder, keystone, tmp_path):
    assert holder.ring.open(of_keystone(keystone))[0] == b"keystone's"
    assert holder.ring.open(RING.seal(b"ours", 0))[0] == b"ours"
    sealed = holder.ring.seal(b"x", 0)
    assert KeyRing({0: key("any"), 1: key("keystone 1")}).open(sealed)[0] == b"x"
    opens_only = started(tmp_path, keystone, seals=False)
    assert RING.open(opens_only.ring.seal(b"x", 0))[0] == b"x"
    assert opens_only.ring.open(sealed)[0] == b"x"


async def test_the_controllers_ring_is_kept_and_acknowledged_apart_and_keystones_directory_is_not_written(
    holder, keystone
):
    assert holder.held == holder.seen
    assert (holder.held.epoch, holder.held.fingerprint) == (RING.epoch, RING.fingerprint)
    assert holder.installed == examine(holder.directory).ring == RING
    assert sorted(file.name for file in keystone.iterdir()) == ["0", "1"]


@pytest.mark.parametrize("seals", [True, False])
async def test_what_seals_is_chosen_by_key_not_by_number(holder, keystone, tmp_path, seals):
    holder = started(tmp_path, keystone, seals=seals)
    leave, clock = Leave(holder, ManualClock(now=NOW), 60.0, leads=False), NOW
    turned = record(
        RING,
        settles_at=clock + 10**6,
        times={4: KeyTimes(**dict.fromkeys(KeyTimes.__struct_fields__, clock + 10**9))},
    )
    leave.heard(turned)
    primary, own = (holder.ring.key_ids[holder.ring.primary], RING.key_ids)
    chosen = holder.ring.key_ids[leave.number(holder.ring, ())]
    assert chosen == (primary if seals else own[4]), "the controller's primary has not settled, its former one seals"
    chosen = holder.ring.key_ids[leave.number(holder.ring, {primary})]
    assert chosen == own[4]
    with pytest.raises(Unavailable):
        leave.number(holder.ring, {primary, own[4], own[5]})


async def test_a_turn_is_taken_up_before_a_token_is_refused_and_by_itself(holder, keystone):
    turn(keystone)
    turn(keystone)
    token = of_keystone(keystone)
    with pytest.raises(NoKeyFits):
        holder.ring.open(token)
    assert holder.read_again()
    assert holder.ring.open(token)[0] == b"keystone's"
    assert not holder.read_again()
    clock = ManualClock()
    following = asyncio.create_task(follow(holder, clock))
    turn(keystone)
    turn(keystone)
    while holder.followed.changes < 2:
        await clock.advance(POLL_S)
        await asyncio.sleep(0.01)
    assert holder.ring.open(of_keystone(keystone))[0] == b"keystone's"
    following.cancel()


async def test_a_key_that_keystone_retires_opens_no_more(holder, keystone):
    token = of_keystone(keystone)
    for _ in range(4):
        turn(keystone, most=3)
    assert holder.read_again()
    with pytest.raises(NoKeyFits):
        holder.ring.open(token)
    assert holder.ring.open(RING.seal(b"ours", 0))[0] == b"ours"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: os.truncate(path / "1", 10),
        lambda path: (path / "01").write_bytes(key(3)),
        lambda path: [file.unlink() for file in path.iterdir()],
        lambda path: path.rename(path.with_name("moved")),
    ],
)
async def test_what_cannot_be_read_takes_no_key_away_and_is_told_once(holder, keystone, capsys, spoil):
    token = of_keystone(keystone)
    spoil(keystone)
    for _ in range(3):
        assert not holder.read_again()
    assert capsys.readouterr().out.count("followed_keys_unreadable") == 1
    assert holder.followed.problem
    assert holder.ring.open(token)[0] == b"keystone's"


def test_a_directory_without_keys_is_refused_at_the_start(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, why in (("empty", "it holds no key"), ("absent", "no such directory")):
        with pytest.raises(KeyRepositoryError, match=why):
            Followed(tmp_path / name, seals=True).start()


async def test_what_it_says_of_itself_shows_no_key(holder, keystone, capsys):
    turn(keystone)
    holder.read_again()
    said = repr(holder) + str(holder.followed.status()) + capsys.readouterr().out
    assert not any(one.decode()[:20] in said for one in (*RING.numbers.values(), *holder.followed.keys))


async def test_a_token_of_a_key_that_was_turned_just_now_is_validated(tmp_path):
    async with realm(tmp_path) as place:
        ahead = place.known.ring.rotated(key(1)).rotated(key(2))
        behind, place.known.ring = place.known.ring, ahead
        issued = await place.login()
        place.known.ring, asked = behind, []

        def read_keys_again():
            asked.append(1)
            changed, place.known.ring = place.known.ring is not ahead, ahead
            return changed

        with pytest.raises(NotFound):
            await place.validator.check(issued.text)
        place.known.read_keys_again = read_keys_again
        assert (await place.validator.check(issued.text)).token.user_id
        assert len(asked) == 1


def test_what_is_read_while_keystone_turns_its_keys_does_not_count(keystone, monkeypatch):
    followed, read = Followed(keystone, seals=True), []

    def turned_meanwhile(path):
        files = scan(path)
        read.append(files)
        if len(read) == 1:
            turn(keystone)
        return files

    monkeypatch.setattr("regional_keystone.followed.scan", turned_meanwhile)
    followed.read()
    assert len(read) == 2
    assert followed.keys[0] == (keystone / "2").read_bytes()
