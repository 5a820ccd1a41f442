"""When certificates and bundles end is told before they do, and those of the stream renew themselves."""

import asyncio
import ssl

import pytest
from aiohttp import web
from cryptography import x509

from controller.authority import Authority
from controller.doctor import FAIL, OK, WARN, _certificate, _certificates
from controller.settings import Settings
from controller.stream_tls import StreamTls
from regional_keystone.adapters.local import SystemClock
from regional_keystone.bundle import VALIDITY_US
from regional_keystone.report import left_s
from regional_keystone.settings import Site
from tests.cloud import Cloud, eventually, free_port, no_tls

DAY_US = 86_400_000_000


@pytest.fixture
def clock():
    return SystemClock()


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.open(tmp_path / "authority", clock.now())


@pytest.fixture
async def port(tmp_path, authority, clock):
    """Where a stream port answers whose certificate lives for a second."""
    tls = StreamTls(authority, tmp_path, ["127.0.0.1"], clock, lifetime_s=1.0)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    number = free_port()
    await web.TCPSite(runner, "127.0.0.1", number, ssl_context=tls.context).start()
    task = asyncio.create_task(tls.run())
    yield number
    task.cancel()
    await runner.cleanup()


async def serial(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=no_tls())
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number, writer


async def test_a_running_controller_shows_a_fresh_certificate_before_the_old_one_ends(port):
    first, kept = await serial(port)

    async def another():
        now, writer = await serial(port)
        writer.close()
        return now != first

    await eventually(another)
    assert not kept.is_closing(), "who is connected stays so"
    kept.close()


async def test_a_certificate_that_cannot_be_written_leaves_the_old_one_in_use(tmp_path, authority, clock):
    tls = StreamTls(authority, tmp_path, ["127.0.0.1"], clock)
    before = (tmp_path / "stream.crt").read_bytes()
    (tmp_path / "stream.crt.new").mkdir()
    with pytest.raises(IsADirectoryError):
        tls.renew()
    assert (tmp_path / "stream.crt").read_bytes() == before


def test_the_ends_are_told_in_seconds_also_when_they_have_passed(clock):
    told = left_s({"ca": clock.now() + 10_000_000, "site": clock.now() - 10_000_000, "stream": None}, clock)
    assert told["ca"] == pytest.approx(10, abs=2)
    assert told["site"] == pytest.approx(-10, abs=2)
    assert "stream" not in told


@pytest.mark.parametrize(("days", "state"), [(89.0, OK), (10.0, WARN), (-1.0, FAIL)])
def test_the_doctor_says_how_a_certificate_stands(tmp_path, authority, clock, days, state):
    authority.certify_stream(tmp_path, ["127.0.0.1"], clock.now(), 90 * 86400.0)
    now = clock.now() + int((90 - days) * DAY_US)
    check = _certificate(tmp_path / "stream.crt", now, "renew it")
    assert (check.state, check.cure) == (state, "" if state == OK else "renew it")


def test_the_doctor_looks_at_what_is_there(tmp_path, authority):
    settings = Settings(site=Site(state_dir=tmp_path))
    assert [(one.check, one.state) for one in _certificates(settings)] == [("certificate", OK)]
    path = tmp_path / "authority" / "ca.crt"
    path.chmod(0o600)
    path.write_text("nothing")
    assert [one.state for one in _certificates(settings)] == [FAIL]


async def test_a_site_tells_the_ends_of_what_it_uses(tmp_path):
    cloud = await Cloud(tmp_path, ("RegionOne",)).start()
    try:
        site = cloud.sites["RegionOne"]
        ends = site.identity.ends_at()
        now = cloud.controller.clock.now()
        assert ends["site"] - now == pytest.approx(3600 * 1_000_000, abs=10_000_000)
        assert ends["ca"] - now > 3000 * DAY_US
        assert site.holder.not_after - now == pytest.approx(VALIDITY_US, abs=60_000_000)
    finally:
        await cloud.stop()


def test_the_context_still_asks_for_a_certificate_of_ours(tmp_path, authority, clock):
    tls = StreamTls(authority, tmp_path, ["127.0.0.1"], clock)
    tls.renew()
    assert tls.context.verify_mode is ssl.CERT_OPTIONAL
    (ca,) = tls.context.get_ca_certs(binary_form=True)
    assert x509.load_der_x509_certificate(ca) == authority.ca
