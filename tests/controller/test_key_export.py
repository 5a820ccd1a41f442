"""Rings in a file: sealed, bound to what the file says, taken in beside a ring only when that is asked for."""

import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from controller import __main__ as cli
from controller import commands_keys, key_export
from controller.key_export import KeyFiles, Under, opened, seal
from regional_keystone.errors import Conflict, Invalid
from regional_keystone.log import remove
from regional_keystone.model import Ring
from regional_keystone.overlay import transact
from tests.cloud import eventually, running
from tests.site.test_holder import FIRST, SECOND

RINGS = {"token": dict(SECOND.numbers), "receipt": dict(FIRST.numbers)}
PRIVATE = X25519PrivateKey.generate()
PUBLIC = Under(key=PRIVATE.public_key().public_bytes_raw())
PASSPHRASE = Under("correct horse battery")
COST = key_export._COST
NAMES = ("token", "receipt", "credential")


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(key_export, "_COST", 2**4)


def files_of(controller):
    names = ("overlay", "sequencer", "sites", "clock", "terms")
    return KeyFiles(cluster=controller.authority.cluster, **{name: getattr(controller, name) for name in names})


@pytest.mark.parametrize(
    ("to_seal", "to_open"), [(PASSPHRASE, PASSPHRASE), (PUBLIC, Under(key=PRIVATE.private_bytes_raw()))]
)
def test_what_was_sealed_opens_for_whom_it_is_and_holds_no_key_in_clear(to_seal, to_open):
    data = seal(RINGS, to_seal, "cluster", 5)
    assert opened(data, to_open) == RINGS
    for keys in RINGS.values():
        assert not any(key in data for key in keys.values())
    for wrong in (Under("another passphrase"), Under(key=b"x" * 32), Under()):
        with pytest.raises(Invalid):
            opened(data, wrong)
    said = json.loads(data)
    for name, value in (("cluster", "other"), ("made_at", 6), ("rings", {}), ("box", said["box"][::-1])):
        with pytest.raises(Invalid):
            opened(json.dumps(said | {name: value}).encode(), to_open)


def test_a_short_passphrase_seals_nothing():
    with pytest.raises(Invalid, match="12 characters"):
        seal(RINGS, Under("short"), "cluster", 5)


@pytest.mark.parametrize("data", [b"", b"{}", b"rubbish", b'{"format": "x", "cluster": "", "made_at": 1, "rings": {}}'])
def test_what_is_no_file_of_ours_is_refused(data):
    with pytest.raises(Invalid):
        opened(data, PASSPHRASE)


async def test_tokens_of_another_federation_open_everywhere_once_its_keys_are_merged(tmp_path):
    async with running(tmp_path / "a", ("RegionOne",)) as ours, running(tmp_path / "b", ()) as theirs:
        await eventually(lambda: theirs.controller.holder.seen.epoch == 1)
        text = theirs.controller.holder.ring.seal(b"payload", 0)
        file = await files_of(theirs.controller).export(NAMES, PASSPHRASE)
        files, controller, site = files_of(ours.controller), ours.controller, ours.sites["RegionOne"]
        before = await controller.overlay.get(Ring, "token")
        with pytest.raises(Conflict, match="--merge"):
            await files.take_in(file, PASSPHRASE, NAMES, merge=False)
        assert await controller.overlay.get(Ring, "token") == before
        assert await files.take_in(file, PASSPHRASE, NAMES, merge=True) == {"token": 2, "receipt": 2}
        after = await controller.overlay.get(Ring, "token")
        await eventually(lambda: site.holder.seen.epoch == after.epoch == before.epoch + 1)
        assert site.holder.ring.open(text)[0] == b"payload"
        ids = [after.checks[number] for number in (max(after.checks), 0)]
        assert ids == [before.checks[number] for number in (max(before.checks), 0)], "what seals is as it was"
        came = [after.times[number] for number in after.checks if after.checks[number] not in before.checks.values()]
        assert len(came) == 2
        assert all(one.keep_until > after.sealed_at + controller.terms.isolation_us for one in came)
        assert await files.take_in(file, PASSPHRASE, NAMES, merge=True) == {"token": 0, "receipt": 0}
        assert (await controller.rotator.turn()).checks.keys() >= {0, 1, 2, 3, 4}


async def test_where_there_is_no_ring_the_one_of_the_file_is_taken(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud:
        controller = cloud.controller
        file = seal({"credential": RINGS["token"]}, PASSPHRASE, "another", 5).decode()
        assert await files_of(controller).take_in(file, PASSPHRASE, ("token",), merge=False) == {}
        assert await files_of(controller).take_in(file, PASSPHRASE, NAMES, merge=False) == {"credential": 3}
        await eventually(lambda: cloud.sites["RegionOne"].credentials.seen.epoch == 1)
        assert cloud.sites["RegionOne"].credentials.ring.numbers == SECOND.numbers


def test_the_commands_write_and_read_the_file_and_never_over_another(tmp_path, monkeypatch):
    asked_for = {}

    def ask(state, config, target, body=None, timeout_s=0.0):
        asked_for[target] = body
        return {"file": "sealed", "new": {"token": 2}}

    monkeypatch.setattr(commands_keys, "ask_controller", ask)
    file, passphrase, public = tmp_path / "rings", tmp_path / "passphrase", tmp_path / "public.pem"
    passphrase.write_text("correct horse battery")
    passphrase.chmod(0o600)
    public.write_bytes(PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with_it = ["--passphrase-file", str(passphrase)]
    assert CliRunner().invoke(cli.app, ["keys", "export", str(file), *with_it]).exit_code == 0
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("sealed", 0o600)
    assert CliRunner().invoke(cli.app, ["keys", "export", str(file), *with_it]).exit_code == 2
    done = CliRunner().invoke(cli.app, ["keys", "import", str(file), "--merge", *with_it])
    assert (done.exit_code, done.stdout) == (0, "new keys: token: 2\n")
    assert asked_for["/keys/import"] == {
        "passphrase": "correct horse battery",
        "file": "sealed",
        "merge": True,
        "rings": ["token", "receipt", "credential"],
    }
    assert CliRunner().invoke(cli.app, ["keys", "export", str(tmp_path / "2"), "--for", str(public)]).exit_code == 0
    assert set(asked_for["/keys/export"]) == {"key", "rings"}
    assert CliRunner().invoke(cli.app, ["keys", "export", str(tmp_path / "3"), "--for", str(file)]).exit_code == 2
    both = CliRunner().invoke(cli.app, ["keys", "export", str(tmp_path / "4"), "--for", str(public), *with_it])
    assert (both.exit_code, "one of --for and --passphrase-file" in both.stderr) == (2, True)
    assert not (tmp_path / "4").exists()


def test_a_file_shows_no_key_in_its_repr():
    file = msgspec.json.decode(seal(RINGS, PASSPHRASE, "cluster", 5), type=key_export.Sealed)
    assert not any(key.decode() in repr(file) for keys in RINGS.values() for key in keys.values())


def test_a_file_of_another_version_is_refused_though_it_would_open():
    about = key_export.Sealed(format="regional-keystone keys 2", cluster="cluster", made_at=5, rings={})
    about = msgspec.structs.replace(about, salt=b"s" * 16, nonce=b"n" * 12)
    key = key_export._derived(PASSPHRASE.passphrase, about.salt)
    box = AESGCM(key).encrypt(about.nonce, msgspec.msgpack.encode(RINGS), key_export._bound(about))
    with pytest.raises(Invalid, match="another version"):
        opened(msgspec.json.encode(msgspec.structs.replace(about, box=box)), PASSPHRASE)


def test_whoever_has_the_file_pays_for_each_passphrase_that_is_tried():
    assert COST >= 2**16


async def test_no_first_ring_is_made_with_a_condemned_key(tmp_path):
    async with running(tmp_path, ()) as cloud:
        controller = cloud.controller
        stolen = FIRST.key_ids[1]
        await controller.compromise.condemn({stolen: "receipt"}, "uid 0", "")

        async def gone(reader):
            return [remove(await reader.get(Ring, "receipt"))], None

        await transact(controller.overlay, controller.sequencer, "a test", gone)
        file = seal({"receipt": RINGS["receipt"]}, PASSPHRASE, "another", 5).decode()
        with pytest.raises(Conflict, match=stolen):
            await files_of(controller).take_in(file, PASSPHRASE, NAMES, merge=False)
        assert await controller.overlay.get(Ring, "receipt") is None
