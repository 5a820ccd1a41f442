"""What lies in a key directory before the first ring: a Keystone's keys are taken up or left alone, never lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from cryptography.fernet import Fernet

from controller import wiring
from controller.settings import Settings as ControllerSettings
from regional_keystone import backends, settings
from regional_keystone.__main__ import REFUSED, _code, _first
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.key_directory import LEDGER, read_directory
from regional_keystone.key_files import KeyRepositoryError
from regional_keystone.keys import KeyRing
from regional_keystone.site import Site
from tests.cloud import eventually
from tests.controllers import config_in, operated

SETTINGS = {"token": "directory", "receipt": "receipt_directory", "credential": "credential_directory"}


def keystone(path, *numbers):
    """A directory as a Keystone leaves it."""
    path.mkdir(mode=0o700)
    keys = {number: Fernet.generate_key() for number in numbers}
    for number, key in keys.items():
        (path / str(number)).write_bytes(key)
        (path / str(number)).chmod(0o600)
    return keys


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def grown(folder):
    """A Keystone's directories, and the section that names them."""
    keys = {name: keystone(folder / name, 0, 3, 4, 5) for name in SETTINGS}
    return keys, "[keys]\n" + "".join(f"{of} = {folder / name}\n" for name, of in SETTINGS.items())


async def run(tasks):
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


async def test_the_first_controller_takes_up_what_a_keystone_left(tmp_path):
    keys, section = grown(tmp_path)
    texts = {name: KeyRing(found).seal(b"payload", 0) for name, found in keys.items()}
    async with operated(config_in(tmp_path, section)) as controller:
        for name, found in keys.items():
            holder = controller.part.follower.holders[name]
            await eventually(lambda holder=holder: holder.held.epoch == 1)
            assert dict(holder.ring.numbers) == found == dict(read_directory(tmp_path / name).numbers)
            assert holder.ring.open(texts[name])[0] == b"payload"
            assert found.items() <= {int(n): key for n, key in files(tmp_path / name).items() if n != LEDGER}.items()
        turned = await controller.rotator.turn()
        assert (turned.epoch, max(turned.checks)) == (2, 6)
        holder = controller.part.holder
        await eventually(lambda: holder.held.epoch == 2)
        assert holder.ring.open(texts["token"])[0] == b"payload"


async def test_a_directory_whose_keys_make_no_ring_is_refused_and_stays(tmp_path):
    keystone(tmp_path / "token", 3, 4)
    before = files(tmp_path / "token")
    controller = operated(config_in(tmp_path, f"[keys]\ndirectory = {tmp_path / 'token'}\n"))
    with pytest.raises(KeyRepositoryError, match="no staged key"):
        await controller.__aenter__()
    assert files(tmp_path / "token") == before


async def test_a_controller_whose_federation_has_rings_leaves_the_keys_of_a_keystone_alone(tmp_path):
    async with operated(config_in(tmp_path)):
        pass
    keys, section = grown(tmp_path)
    before = {name: files(tmp_path / name) for name in keys}
    found = settings.load(ControllerSettings, config_in(tmp_path, section), environ={})
    async with AsyncExitStack() as stack:
        controller = wiring.Controller(found, backends.system_clock())
        await controller.build(stack)

        async def begun():
            await controller.sequencer.start()  # which takes up entries: it may be here that the keys are seen
            await controller.first()

        with pytest.raises(ExceptionGroup) as ended:
            await run([begun(), controller.part.follower.run(), controller.sequencer.run()])
    assert ended.group_contains(KeyRepositoryError, match="keys of somebody else")
    assert _code(_first(ended.value)) == REFUSED
    assert {name: files(tmp_path / name) for name in keys} == before


async def test_a_site_leaves_the_keys_of_a_keystone_alone_ends_and_says_what_to_do(tmp_path):
    keystone(tmp_path / "grown", 0, 3, 4, 5)
    before = files(tmp_path / "grown")
    file = tmp_path / "RegionOne.conf"
    file.write_text(f"[site]\nstate_dir = {tmp_path / 'site'}\n[keys]\nreceipt_directory = {tmp_path / 'grown'}\n")
    found = settings.load(settings.Settings, file, environ={})
    found.site.state_dir.mkdir(mode=0o700)
    identity = Identity(found.site.state_dir / "identity")
    async with operated(config_in(tmp_path)) as controller, AsyncExitStack() as stack:
        await identity.join(JoinToken.read(await controller.sites.invite("RegionOne")))
        site = Site(found, backends.system_clock(), identity)
        await site.build(stack)
        with pytest.raises(ExceptionGroup) as ended:
            await run(site.tasks())
    assert ended.group_contains(KeyRepositoryError, match=r"grown: .*`\[keys\] follow`")
    assert _code(_first(ended.value)) == REFUSED
    assert files(tmp_path / "grown") == before
