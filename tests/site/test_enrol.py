"""A site joins with a one-time token, proves itself by its certificate, and renews it by itself."""

import asyncio
import base64
import errno
import os
from pathlib import Path

import msgspec
import pytest
import structlog
from aiohttp import web

from controller.authority import Authority
from regional_keystone import durable
from regional_keystone import site as site_
from regional_keystone.bundle import Seen
from regional_keystone.enrol import Identity, JoinToken, ca_bundle, cas_seen
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.link import renew
from regional_keystone.settings import Settings, Site
from tests.cloud import Cloud, eventually, free_port

SECRET = JoinToken(name="RegionOne", secret="s" * 43, ca="0" * 64, controllers=("https://127.0.0.1:1",))


@pytest.fixture
async def cloud(tmp_path):
    made = Cloud(tmp_path, ("RegionOne",))
    await made.controller.start()
    yield made
    await made.stop()


@pytest.fixture
def controller(cloud):
    return cloud.controller


@pytest.fixture
def identity(cloud):
    return cloud.sites["RegionOne"].identity


def test_a_join_token_is_one_word_and_shows_its_secret_to_nobody():
    text = SECRET.text()
    assert JoinToken.read(f" {text}\n") == SECRET
    assert len(text.split()) == 1
    assert SECRET.secret not in repr(SECRET)


@pytest.mark.parametrize(
    "text", ["", "rkj1.", "rkj1.%%%", "rkj1.e30", "rkj2.e30", "rkj1." + base64.b64encode(b"\xff").decode(), "é"]
)
def test_what_is_no_join_token_is_refused_without_showing_it(text):
    with pytest.raises(StoreRefused) as refusal:
        JoinToken.read(text)
    assert not text or text not in str(refusal.value)


async def test_a_site_that_has_not_joined_says_what_to_do(identity):
    assert not identity.joined
    with pytest.raises(StoreRefused, match="join_token_file"):
        identity.membership()


async def test_a_site_joins_and_keeps_its_private_keys_to_itself(controller, identity):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    member = await identity.join(token)
    assert identity.joined
    assert identity.membership() == member
    assert (member.cluster, member.name, member.signers) == (
        controller.authority.cluster,
        "RegionOne",
        (controller.authority.signer_key,),
    )
    assert identity.directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in identity.directory.iterdir()} == {0o600}


async def test_a_token_that_cannot_be_removed_is_named_and_the_site_goes_on(
    controller, identity, tmp_path, monkeypatch
):
    """As in a directory that is mounted read-only."""
    token = tmp_path / "token"
    token.write_text(await controller.sites.invite("RegionOne"))
    token.chmod(0o600)

    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path == token:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with structlog.testing.capture_logs() as logged:
        await site_._join(Settings(site=Site(join_token_file=token)), identity, controller.clock)
    assert identity.joined
    (said,) = [one for one in logged if one["event"] == "join_token_not_removed"]
    assert (said["log_level"], said["file"], said["why"]) == ("warning", str(token), "Read-only file system")
    assert said["cure"].startswith("delete it")


async def test_joining_again_after_a_lost_answer_gives_the_same_membership(controller, identity):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    member = await identity.join(token)
    (identity.directory / "membership").unlink()
    (identity.directory / "tls.crt").unlink()
    assert await identity.join(token) == member


async def test_another_machine_cannot_use_the_same_token(controller, identity, tmp_path):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    with pytest.raises(StoreRefused, match="was used"):
        await Identity(tmp_path / "another").join(token)


async def test_a_controller_of_another_federation_is_not_believed_and_told_nothing(controller, identity, tmp_path):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    with pytest.raises(StoreRefused, match="not of the federation"):
        await identity.join(msgspec.structs.replace(token, ca="0" * 64))
    assert not identity.joined
    assert not (identity.directory / "ca.crt").exists()


async def test_without_a_controller_joining_can_be_tried_again(identity):
    nobody = JoinToken(name="RegionOne", secret="s", ca="0" * 64, controllers=(f"https://127.0.0.1:{free_port()}",))
    with pytest.raises(Unavailable, match="does not answer"):
        await identity.join(nobody)


async def test_of_several_controllers_the_first_that_answers_is_asked(controller, identity):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    dead = f"https://127.0.0.1:{free_port()}"
    await identity.join(msgspec.structs.replace(token, controllers=(dead, *token.controllers)))
    assert identity.joined


@pytest.mark.parametrize("answer", [b"<html>", b"", b"\xff"])
async def test_what_answers_and_is_no_controller_is_refused(identity, tmp_path, answer):
    async def hello(request):
        return web.Response(body=answer)

    other = Authority.open(tmp_path / "other", Cloud(tmp_path, ()).controller.clock.now())
    app = web.Application()
    app.add_routes([web.get("/ca/v1", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    tls = other.serve(tmp_path / "other", ["127.0.0.1"], Cloud(tmp_path, ()).controller.clock.now())
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        with pytest.raises(StoreRefused, match="no controller"):
            await identity.join(msgspec.structs.replace(SECRET, controllers=(f"https://127.0.0.1:{port}",)))
    finally:
        await runner.cleanup()


async def test_a_site_renews_its_certificate_for_the_same_key(controller, identity):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    before = identity.certificate()
    await identity.renew(token.controllers)
    after = identity.certificate()
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    identity.tls()


async def test_a_certificate_that_is_of_no_use_does_not_replace_one_that_is(controller, identity, tmp_path):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    before = identity.certificate()
    other = Identity(tmp_path / "other")
    await other.join(JoinToken.read(await controller.sites.invite("RegionTwo")))
    stranger = (other.directory / "tls.crt").read_text()
    renewals = controller.sites._renewals
    welcome = renewals._welcome
    renewals._welcome = lambda *arguments: msgspec.structs.replace(welcome(*arguments), certificate=stranger)
    with pytest.raises(Unavailable, match="another key"):
        await identity.renew(token.controllers)
    assert identity.certificate() == before


async def test_a_removed_site_gets_no_new_certificate(controller, identity):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    await controller.sites.remove("RegionOne")
    with pytest.raises(StoreRefused, match="no site of this federation"):
        await identity.renew(token.controllers)


async def test_an_instance_that_was_replaced_gets_no_new_certificate(controller, identity, tmp_path):
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    await Identity(tmp_path / "new").join(JoinToken.read(await controller.sites.invite("RegionOne")))
    with pytest.raises(StoreRefused):
        await identity.renew(token.controllers)


async def test_a_certificate_is_renewed_at_half_of_its_life(controller, identity):
    controller.sites._certificate_s = 60.0  # dated back by five minutes, so it is past its half at once
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    before = identity.certificate().serial_number
    controller.sites._certificate_s = 3600.0
    renewing = asyncio.create_task(renew(identity, token.controllers, controller.clock))
    try:
        await eventually(lambda: identity.certificate().serial_number != before)
        assert identity.renewal_due_at() > controller.clock.now()
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def test_a_running_stream_outlives_a_renewal_and_the_next_one_uses_it(cloud, controller, identity):
    site = cloud.sites["RegionOne"]
    await site.join(await controller.sites.invite("RegionOne"))
    await site.start()
    await site.settled(controller.sequencer.head)
    await identity.renew(identity.membership().controllers)
    await controller.replicator.sessions["RegionOne"].socket.close()
    await eventually(lambda: site.link.reconnects == 2 and site.link.connected_since is not None)


@pytest.mark.parametrize("number", [b"", b"-1", b"1x", b"1" * 10])
def test_cas_without_a_number_that_can_be_have_none(number):
    assert cas_seen(b"regional-keystone CAs " + number + b"\n") == Seen(0, "")
    assert cas_seen(b"regional-keystone CAs 12\n").epoch == 12


async def test_cas_are_trusted_only_once_the_certificate_that_one_of_them_made_is_kept(
    controller, identity, monkeypatch
):
    """Who acknowledges the CAs has a certificate of theirs, or the end of the old one would shut it out."""
    token = JoinToken.read(await controller.sites.invite("RegionOne"))
    await identity.join(token)
    renewals, write = controller.sites._renewals, durable.write
    welcome, cas = renewals._welcome, ca_bundle(1, [controller.authority.ca_pem]).decode()
    renewals._welcome = lambda *arguments: msgspec.structs.replace(welcome(*arguments), cas=cas)

    def full(path, content, mode=0o600):
        if path.name == "tls.crt":
            raise OSError("the disk is full")
        write(path, content, mode)

    with monkeypatch.context() as disk:
        disk.setattr(durable, "write", full)
        with pytest.raises(OSError, match="full"):
            await identity.renew(token.controllers)
    assert identity.cas.epoch == 0
    await identity.renew(token.controllers)
    assert identity.cas.epoch == 1
