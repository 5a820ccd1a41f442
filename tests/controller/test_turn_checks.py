"""The doctor on turns of the keys: overdue, waiting for a site, never done; and quiet where all is well."""

import asyncio
import dataclasses

import pytest

from controller.doctor import examine
from controller.settings import Settings
from controller.turn_checks import turn_checks
from regional_keystone.key_directory import write_directory
from tests.cloud import running
from tests.controller.test_key_status import SECOND, asked
from tests.language.test_key_directory import upstream_layout
from tests.site.test_key_damage import RING

DAY_S = 86_400


def status(*, ago_s=3600, interval_s=DAY_S, waits_for=(), primary_in=5, sealed_ago_s=0, connected=False):
    """As a controller tells it, whose last turn was so long ago."""
    now = 10**15
    turned_at = now - ago_s * SECOND
    sites = {"Oslo": {"since": 0, "connected": connected}}
    ring = {
        "turned_at": turned_at,
        "sealed_at": now - sealed_ago_s * SECOND if sealed_ago_s else 0,
        "keys": [{"number": 0}, {"number": 7, "primary_in": primary_in}, {"number": None, "primary_in": 1}],
        "waits_for": list(waits_for),
        "sites": sites,
    }
    return {
        "now": now,
        "rings": {"token": ring},
        "next_turn": {
            "at": turned_at + interval_s * SECOND if interval_s else None,
            "interval_s": interval_s,
            "deadline_s": 60.0,
            "waits_for": dict.fromkeys(waits_for, "it has not acknowledged"),
        },
    }


def found(**told):
    return [(one.state, one.detail) for one in turn_checks(status(**told))]


def test_where_all_is_well_one_line_tells_when():
    assert found() == [("OK", "the next turn comes in 23 h; the last was 1 h ago")]
    assert found(interval_s=0) == [("OK", "the next turn comes when it is asked for; the last was 1 h ago")]
    late = DAY_S + 100
    assert found(ago_s=late)[0][0] == "OK", "it waits for acknowledgements, up to its deadline"


def test_a_turn_that_is_overdue_fails_with_what_to_do():
    [(state, said)] = found(ago_s=3 * DAY_S)
    assert (state, said) == ("FAIL", "a turn every 1 d is overdue for 2 d; the last was 3 d ago")
    [finding] = turn_checks(status(ago_s=3 * DAY_S))
    assert "`rkctl keys rotate` says what stops it" in finding.cure


def test_a_schedule_that_never_ran_is_told_as_such():
    [(state, said)] = found(ago_s=3 * DAY_S, primary_in=1)
    assert (state, "the schedule has never run" in said, "has not turned since" in said) == ("FAIL", True, True)
    assert found(ago_s=3600, primary_in=1)[0][0] == "OK", "its time has not come"
    [(state, said)] = found(ago_s=31 * DAY_S, interval_s=0, primary_in=1)
    assert state == "WARN"
    assert said.startswith("nothing turns the keys ([keys] rotation_interval is 0): the ring was made 31 d ago")


@pytest.mark.parametrize(("connected", "cure"), [(False, "start it"), (True, "ring_refused")])
def test_a_site_that_is_waited_for_is_named_once_it_had_its_time(connected, cure):
    assert found(waits_for=["Oslo"], sealed_ago_s=10) == found(), "a ring that was sealed a moment ago is on its way"
    [finding] = turn_checks(status(waits_for=["Oslo"], connected=connected))
    assert (finding.state, finding.detail) == (
        "WARN",
        "the next turn waits for Oslo since 1 h: it has not acknowledged",
    )
    assert cure in finding.cure
    assert "`rkctl region quarantine Oslo`" in finding.cure


async def test_the_doctor_asks_the_controller_that_runs_here_and_is_silent_where_none_does(tmp_path):
    settings = Settings()
    settings = dataclasses.replace(settings, site=dataclasses.replace(settings.site, state_dir=tmp_path))
    before = [one.check for one in await examine(settings)]
    assert "turns" not in before
    async with running(tmp_path, ("RegionOne",)) as cloud, asked(cloud.controller, tmp_path):
        [turns] = [one for one in await examine(settings) if one.check == "turns"]
        assert (turns.state, turns.cure) == ("OK", "")
        cloud.controller.clock.now = lambda now=cloud.controller.clock.now: now() + 40 * DAY_S * SECOND
        [turns] = [one for one in await examine(settings) if one.check == "turns"]
        assert turns.state == "WARN"
        assert "nothing turns the keys" in turns.detail
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "s")
    async with server:
        [turns] = [one for one in await examine(settings) if one.check == "turns"]
        assert (turns.state, "does not answer" in turns.detail) == ("WARN", True)


async def test_the_doctor_looks_at_directories_of_keys_and_says_what_mends_them(tmp_path, capsys):
    state, theirs = tmp_path / "state", tmp_path / "theirs"
    state.mkdir(mode=0o700)
    settings = dataclasses.replace(Settings(), site=dataclasses.replace(Settings().site, state_dir=state))

    async def keys(**options):
        found = await examine(dataclasses.replace(settings, keys=dataclasses.replace(settings.keys, **options)))
        return [(one.state, one.detail, one.cure) for one in found if one.check == "keys"]

    assert await keys() == [], "nothing is there yet"
    write_directory(state / "fernet-keys", RING)
    upstream_layout(theirs, RING)
    assert await keys(follow=theirs) == []
    (state / "fernet-keys" / "1").write_bytes(b"x")
    (state / "receipt-keys").write_text("x")
    (theirs / "01").touch()
    before = snapshot(tmp_path)
    own, receipts, followed = await keys(follow=theirs)
    assert own[0] == "WARN"
    assert "nothing to do while the process runs" in own[2]
    assert receipts == (
        "FAIL",
        f"{state / 'receipt-keys'}: it is no directory",
        f"mv {state / 'receipt-keys'} {state / 'receipt-keys'}.away",
    )
    assert followed == ("FAIL", f"{theirs / '01'}: Keystone takes this for key 1", f"rm {theirs / '01'}")
    assert snapshot(tmp_path) == before, "the doctor changes nothing"
    assert capsys.readouterr().out == "", "what it prints is for programs, too"


async def test_the_doctor_looks_at_the_private_keys_of_who_signs(tmp_path):
    at = dataclasses.replace(Settings().site, state_dir=tmp_path)
    sealing = dataclasses.replace(Settings(), site=at)
    signing = dataclasses.replace(sealing, token=dataclasses.replace(Settings().token, provider="jws"))
    private = tmp_path / "jws-keys" / "private"
    private.mkdir(parents=True, mode=0o700)
    (private / "next.pem").touch(mode=0o600)

    async def keys(settings):
        return [(one.state, one.detail, one.cure) for one in await examine(settings) if one.check == "keys"]

    assert await keys(sealing) == [], "nobody reads it"
    path = private / "next.pem"
    assert await keys(signing) == [("FAIL", f"{path}: no private key", f"rm {path}, and another is made")]


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
