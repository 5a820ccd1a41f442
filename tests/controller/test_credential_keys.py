"""The ring of credentials: held by every site, never turned away from under a row; secrets lie nowhere in clear."""

import asyncio
import json
from itertools import count

import aiohttp
import msgspec
import pytest
from cryptography.fernet import Fernet, MultiFernet

from controller import credential_keys
from controller.admin import Admin
from controller.credential_keys import CredentialKeys
from regional_keystone.blobs import Unreadable, key_hash, open_blob, primary_hash, seal_blob
from regional_keystone.errors import Conflict, Unavailable
from regional_keystone.key_directory import read_directory
from regional_keystone.keys import KeyRing
from regional_keystone.model import Credential, DomainOption, Ring
from regional_keystone.operator_listener import listen
from tests import replay
from tests.api.conftest import Client
from tests.cloud import ControllerNode, SiteNode, eventually, running, wired

SECRET = "a-secret-that-is-nowhere-in-clear"
FIRST = KeyRing({0: Fernet.generate_key(), 1: Fernet.generate_key()}, 1)


def keys_of(controller):
    names = ("overlay", "sequencer", "replicator", "sites", "clock")
    return CredentialKeys(**{name: getattr(controller, name) for name in names})


def credential(number, ring):
    blob, hashed = seal_blob(ring, f"{SECRET}-{number}")
    return Credential(id=f"{number:04}", user_id="u", type="totp", blob=blob, key_hash=hashed)


async def rows(node):
    return {row.id: row async for row in node.overlay.scan(Credential)}


async def readable(node):
    """What this node makes of every row that it has."""
    return {key: open_blob(node.credentials.ring, row.blob) for key, row in (await rows(node)).items()}


def expected(*numbers):
    return {f"{number:04}": f"{SECRET}-{number}" for number in numbers}


@pytest.fixture
async def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(credential_keys, "_PATIENCE_S", 2.0)
    async with running(tmp_path, ("RegionOne", "RegionTwo")) as made:
        made.keys = keys_of(made.controller)
        assert await made.keys.setup()
        await everywhere(made)
        yield made


async def everywhere(cloud):
    """Every site, and the controller itself, holds the newest ring."""
    await cloud.level()
    epoch = (await cloud.controller.overlay.get(Ring, "credential")).epoch
    for node in (cloud.controller, *cloud.sites.values()):
        await eventually(lambda node=node: node.credentials.seen.epoch == epoch)


def test_what_is_sealed_is_what_keystone_seals():
    blob, hashed = seal_blob(FIRST, "text")
    assert MultiFernet([Fernet(key) for key in FIRST.numbers.values()]).decrypt(blob) == b"text"
    assert hashed == primary_hash(FIRST) == key_hash(FIRST.numbers[1])
    assert key_hash(b"a key") == "c0c633ea507118a55f3193db0e83afbdd3faa662"
    assert open_blob(FIRST, Fernet(FIRST.staged).encrypt("\u00e4\u4e2d".encode())) == "\u00e4\u4e2d"
    with pytest.raises(Unreadable):
        open_blob(FIRST, Fernet(Fernet.generate_key()).encrypt(b"text"))


async def test_the_ring_is_made_once_and_every_site_holds_it(cloud):
    assert not await cloud.keys.setup()
    standing = await cloud.keys.standing()
    assert (standing.epoch, standing.primary, standing.others, standing.waits_for) == (1, 1, 0, ())
    for node in (cloud.controller, *cloud.sites.values()):
        directory = node.directory / "credential-keys"
        assert read_directory(directory) == node.credentials.ring == cloud.controller.credentials.ring
        files = [path for path in directory.iterdir() if path.name.isdigit()]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert set(node.credentials.ring.numbers.values()).isdisjoint(node.holder.ring.numbers.values())
    record = await cloud.controller.overlay.get(Ring, "credential")
    assert record.sealed.keys() == {"@controller", "RegionOne", "RegionTwo"}


async def test_a_site_reads_every_row_at_every_moment_of_many_turns(cloud):
    site = cloud.sites["RegionOne"]
    for turn in range(4):
        await cloud.controller.write(credential(turn, cloud.controller.credentials.ring))
        before = cloud.controller.credentials.ring
        turned = await cloud.keys.rotate()
        assert (turned.epoch, turned.others) == (before.epoch + 1, turn + 1)
        await everywhere(cloud)
        now = site.credentials.ring
        assert now.numbers[now.primary] == before.staged
        assert len(now.numbers) == 3
        assert await readable(site) == await readable(cloud.controller) == expected(*range(turn + 1))
        assert await cloud.keys.migrate() == turn + 1
        await cloud.level()
        assert {row.key_hash for row in (await rows(site)).values()} == {primary_hash(now)}
        assert await readable(site) == expected(*range(turn + 1))


async def test_each_key_is_as_old_as_it_is_through_turns(cloud):
    before = await cloud.controller.overlay.get(Ring, "credential")
    await cloud.keys.rotate()
    await everywhere(cloud)
    first = await cloud.controller.overlay.get(Ring, "credential")
    await cloud.keys.rotate()
    second = await cloud.controller.overlay.get(Ring, "credential")
    assert before.times[0].staged_at < first.times[0].staged_at == first.turned_at < second.turned_at
    assert first.times[2].staged_at == before.times[0].staged_at, "it was staged then, and made the primary now"
    assert first.times[2].primary_at == first.times[1].ceased_at == first.turned_at
    assert second.times.keys() == second.checks.keys() == {0, 2, 3}
    assert second.times[2].ceased_at == second.turned_at
    assert second.retired.keys() == {before.checks[1]}


async def test_no_turn_while_another_key_than_the_primary_has_sealed_a_row(cloud):
    await cloud.controller.write(credential(1, cloud.controller.credentials.ring))
    await cloud.keys.rotate()
    epoch = (await cloud.keys.standing()).epoch
    with pytest.raises(Conflict, match="rkctl credential migrate"):
        await cloud.keys.rotate()
    assert (await cloud.keys.standing()).epoch == epoch
    assert await cloud.keys.migrate() == 1
    assert await cloud.keys.migrate() == 0
    assert (await cloud.keys.rotate()).epoch == epoch + 1


async def test_no_turn_before_every_site_holds_the_ring(cloud, monkeypatch):
    monkeypatch.setattr(credential_keys, "_PATIENCE_S", 0.3)
    async with wired(cloud, "RegionTwo") as wire:
        wire.hold("up")
        await cloud.keys.rotate()  # it had acknowledged the one before
        with pytest.raises(Conflict, match=r"present ring: RegionTwo; .*`rkctl region quarantine`"):
            await cloud.keys.rotate()
        assert (await cloud.keys.standing()).waits_for == ("RegionTwo",)
        await cloud.controller.sites.set_state("RegionTwo", "quarantined", "a test")
        await cloud.keys.rotate()
        wire.release()
    await everywhere(cloud)


async def test_rows_are_sealed_again_some_at_a_time(cloud, monkeypatch):
    monkeypatch.setattr(credential_keys, "_ROWS", 3)
    await cloud.controller.write(*(credential(number, cloud.controller.credentials.ring) for number in range(8)))
    await cloud.keys.rotate()
    before = cloud.controller.sequencer.head
    assert await cloud.keys.migrate() == 8
    sizes = [len(entry.changes) for entry in await cloud.controller.log() if entry.number > before]
    assert sizes == [3, 3, 2]


async def test_one_transaction_seals_no_more_than_some_kilobytes_again(cloud, monkeypatch):
    monkeypatch.setattr(credential_keys, "_BYTES", 1)
    await cloud.controller.write(*(credential(number, cloud.controller.credentials.ring) for number in range(3)))
    await cloud.keys.rotate()
    before = cloud.controller.sequencer.head
    assert await cloud.keys.migrate() == 3
    assert cloud.controller.sequencer.head == before + 3


async def test_a_row_that_no_key_opens_is_told_and_left_as_it_is(cloud):
    lost = credential(2, FIRST)
    await cloud.controller.write(credential(1, cloud.controller.credentials.ring))
    await cloud.keys.rotate()
    await cloud.controller.write(lost)
    with pytest.raises(Conflict, match="migrate"):
        await cloud.keys.rotate()
    with pytest.raises(Conflict, match="1 secrets are sealed with keys that are not in the ring; 1 were"):
        await cloud.keys.migrate()
    assert (await rows(cloud.controller))["0002"] == lost


async def test_rows_of_a_keystone_whose_key_is_in_the_ring_open_and_migrate(cloud):
    """As after a migration: `key_hash` is what Keystone wrote, and another key of the ring has sealed it."""
    ring = cloud.controller.credentials.ring
    row = credential(1, ring)
    theirs = msgspec.structs.replace(
        row, blob=Fernet(ring.staged).encrypt(f"{SECRET}-1".encode()), key_hash=key_hash(ring.staged)
    )
    await cloud.controller.write(theirs)
    await cloud.level()
    assert await readable(cloud.sites["RegionOne"]) == expected(1)
    assert await cloud.keys.migrate() == 1


async def test_secrets_of_domains_are_sealed_by_the_same_ring(cloud):
    """Whatever row the ring seals, no turn leaves it behind; a value that is no secret stays as it is."""
    blob, hashed = seal_blob(cloud.controller.credentials.ring, SECRET)
    secret = DomainOption(domain_id="d", group="ldap", option="password", blob=blob, key_hash=hashed)
    plain = DomainOption(domain_id="d", group="ldap", option="url", blob=b'"ldap://x"')
    await cloud.controller.write(secret, plain)
    await cloud.keys.rotate()
    with pytest.raises(Conflict, match="migrate"):
        await cloud.keys.rotate()
    assert await cloud.keys.migrate() == 1
    found = {row.option: row async for row in cloud.controller.overlay.scan(DomainOption)}
    assert found["url"] == plain
    assert open_blob(cloud.controller.credentials.ring, found["password"].blob) == SECRET
    assert (await cloud.keys.standing()).secrets == 1


async def test_who_joins_later_is_sealed_for(cloud, tmp_path):
    await cloud.controller.write(credential(1, cloud.controller.credentials.ring))
    late = SiteNode("RegionLate", tmp_path / "RegionLate")
    await late.join(await cloud.controller.sites.invite("RegionLate"))
    await late.start()
    try:
        await eventually(lambda: late.credentials.seen.epoch == 2)
        await late.settled(cloud.controller.sequencer.head)
        assert await readable(late) == expected(1)
        await everywhere(cloud)
        assert late.credentials.ring == cloud.sites["RegionOne"].credentials.ring
    finally:
        await late.stop()


async def test_a_site_that_lost_its_directory_takes_the_ring_up_again(cloud):
    site = cloud.sites["RegionOne"]
    await site.stop()
    for path in (site.directory / "credential-keys").iterdir():
        path.unlink()
    await site.start()
    await eventually(lambda: site.credentials.seen.epoch == 1)
    assert read_directory(site.directory / "credential-keys") == cloud.controller.credentials.ring


async def test_bundles_of_both_rings_are_sealed_again_before_they_age(cloud):
    controller = cloud.controller
    before = {name: (await controller.overlay.get(Ring, name)).epoch for name in ("token", "credential")}
    assert not await controller.sites.refresh()
    old = await controller.overlay.get(Ring, "credential")
    await controller.write(msgspec.structs.replace(old, sealed_at=1))
    assert await controller.sites.refresh()
    assert (await controller.overlay.get(Ring, "token")).epoch == before["token"]
    await everywhere(cloud)
    assert cloud.sites["RegionOne"].credentials.seen.epoch == before["credential"] + 1


async def test_a_second_controller_holds_the_ring_and_turns_it(cloud, tmp_path):
    second = ControllerNode(tmp_path / "second", beside=cloud.controller)
    cloud.controller.shared = True
    await second.start()
    try:
        await eventually(lambda: second.credentials.seen.epoch == 1)
        assert second.credentials.ring == cloud.controller.credentials.ring
        assert not await keys_of(second).setup()
    finally:
        await second.stop()


async def test_nothing_of_a_secret_or_a_key_is_in_clear(cloud, capsys):
    await cloud.controller.write(credential(1, cloud.controller.credentials.ring))
    await cloud.keys.rotate()
    await cloud.keys.migrate()
    await everywhere(cloud)
    told = json.dumps([(await cloud.keys.standing())._asdict(), repr(await rows(cloud.controller))])
    printed = capsys.readouterr()
    keys = [key.decode() for key in cloud.controller.credentials.ring.numbers.values()]
    for node in (cloud.controller, *cloud.sites.values()):
        found = [path for path in node.directory.rglob("*") if path.is_file() and "keys" not in path.parent.name]
        content = b"".join(path.read_bytes() for path in found)
        assert b"credential" in content  # it is the right file
        for secret in (SECRET, *keys):
            assert secret.encode() not in content
            assert secret not in told + printed.out + printed.err


async def test_whoever_makes_a_credential_while_the_ring_turns_seals_with_a_key_that_stays(tmp_path):
    async with replay.world(tmp_path) as world:
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        admin = await Client(world).login("admin", replay.PASSWORD, scope)
        keys, numbers, ended = world.controller.credential_keys, count(), asyncio.Event()

        async def turn():
            for _ in range(3):
                while True:
                    try:
                        await keys.rotate()
                        break
                    except Conflict:
                        await keys.migrate()
            ended.set()

        async def make():
            while not ended.is_set():
                about = {"type": "totp", "user_id": "u", "blob": f"{SECRET}-{next(numbers)}"}
                assert (await admin("POST", "/credentials", {"credential": about})).status == 201
                await asyncio.sleep(0.005)

        async with asyncio.timeout(60):
            await asyncio.gather(turn(), make(), make(), make())
        found = (await admin("GET", "/credentials")).body["credentials"]
        assert {one["blob"] for one in found} == {f"{SECRET}-{number}" for number in range(next(numbers))}
        assert (await keys.standing()).primary == 4


async def test_without_keys_nothing_is_stored_and_nothing_else_suffers(tmp_path):
    async with replay.world(tmp_path) as world:
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        admin = await Client(world).login("admin", replay.PASSWORD, scope)
        about = {"credential": {"type": "totp", "user_id": "u", "blob": SECRET}}
        made = (await admin("POST", "/credentials", about)).body["credential"]
        holder = world.controller.part.credentials
        ring, holder._in_use = holder.ring, None  # as a site whose ring has not arrived
        answer = await admin("GET", f"/credentials/{made['id']}")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert SECRET not in answer.message
        assert (await admin("GET", "/users")).status == 200
        with pytest.raises(Unavailable):
            await holder.holding(2)
        holder._in_use = ring
        assert (await admin("GET", f"/credentials/{made['id']}")).body["credential"] == made


async def test_the_operators_socket(tmp_path):
    async with replay.world(tmp_path) as world:
        controller = world.controller
        names = ("sites", "regions", "trusts", "sequencer", "status", "bootstrap")
        admin = Admin(
            overlay=world.overlay,
            keys=controller.keys_admin(),
            **{name: getattr(controller, name) for name in names},
        )
        runner = await listen(admin.app(), tmp_path / "s")
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
            before = await (await session.get("/credential/status")).json()
            assert (before["epoch"], before["primary"], before["secrets"], before["others"]) == (1, 1, 0, 0)
            assert (await (await session.post("/credential/setup")).json())["made"] is False
            turned = await (await session.post("/credential/rotate")).json()
            assert (turned["epoch"], turned["primary"], len(turned["keys"])) == (2, 2, 3)
            assert (await (await session.post("/credential/migrate")).json())["migrated"] == 0
        await runner.cleanup()


async def test_a_condemned_key_opens_what_it_sealed_until_that_is_sealed_again_and_then_goes(cloud):
    controller = cloud.controller
    before = controller.credentials.ring
    stolen = [before.key_ids[number] for number in (0, 1)]
    await controller.write(credential(0, before))
    await controller.compromise.condemn(dict.fromkeys(stolen, "credential"), "uid 0", "")
    await controller.compromise.turn_away({"credential"})
    await everywhere(cloud)
    now = controller.credentials.ring
    assert now.ids.isdisjoint(stolen[:1])
    assert {now.key_ids[now.primary], now.key_ids[0]}.isdisjoint(stolen)
    for node in (controller, *cloud.sites.values()):
        assert await readable(node) == expected(0)
    with pytest.raises(Conflict, match="migrate"):
        await cloud.keys.rotate()
    assert await cloud.keys.migrate() == 1
    await cloud.keys.rotate()
    await everywhere(cloud)
    assert controller.credentials.ring.ids.isdisjoint(stolen)
    for node in (controller, *cloud.sites.values()):
        assert await readable(node) == expected(0)
