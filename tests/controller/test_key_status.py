"""What operators are told of the rings: sites by keys, why a site is waited for, what a turn would do; and the verbs."""

import asyncio
import errno
import json
from contextlib import asynccontextmanager
from io import StringIO

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console
from typer.testing import CliRunner

from controller import __main__ as cli
from controller import admin_signing
from controller.admin_compromise import CompromiseAdmin
from controller.admin_keys import KeysAdmin
from controller.credential_keys import CredentialKeys
from controller.durations import span
from controller.key_tables import drawn
from controller.outcome import NOT_ACKNOWLEDGED, outcomes
from controller.turning import part_at
from regional_keystone.key_directory import write_directory
from regional_keystone.messages import Acknowledge
from regional_keystone.model import KeyTimes, Ring
from regional_keystone.operator_listener import rendered
from tests.cloud import eventually, running, wired
from tests.controller.test_key_export import files_of

SECOND = 1_000_000
RINGS = ("token", "receipt", "credential")


@asynccontextmanager
async def asked(controller, path, told=None, **settings):
    """The operator's socket of this controller, as a function that asks it."""
    names = ("overlay", "sequencer", "replicator", "sites", "clock")
    told = (told or {}) | {
        "sites": {name: {"connected": name in controller.replicator.sessions} for name in ("RegionOne", "RegionTwo")}
    }
    keys = KeysAdmin(
        rotator=controller.rotator,
        credential_keys=CredentialKeys(**{name: getattr(controller, name) for name in names}),
        sites=controller.sites,
        overlay=controller.overlay,
        clock=controller.clock,
        status=lambda: told,
        terms=controller.terms,
        files=files_of(controller),
        **settings,
    )
    app = web.Application(middlewares=[rendered])
    people = {"people": None, "name": "one", "two_person": False}
    stolen = CompromiseAdmin(compromise=controller.compromise, sites=controller.sites, **people)
    app.add_routes(
        [*keys.routes(), *stolen.routes(), *admin_signing.routes(controller.signing_keys, controller.sealed_tokens)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path / "s")).start()  # the names of sockets are short
    (path / "admin.sock").symlink_to(path / "s")
    async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path / "s"))) as session:

        async def ask(target, body=None):
            async with session.get(target) if body is None else session.post(target, json=body) as answer:
                return await answer.json(content_type=None)

        yield ask
    await runner.cleanup()


def text(status, *rings):
    console = Console(file=StringIO(), width=120)
    console.print(drawn(status, rings))
    return console.file.getvalue()


async def test_sites_by_keys_while_one_is_quarantined_and_holds_less(tmp_path):
    async with (
        running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=0.2) as cloud,
        asked(cloud.controller, tmp_path) as ask,
    ):
        controller, away = cloud.controller, cloud.sites["RegionTwo"]
        before = (await ask("/keys/status"))["rings"]["token"]
        assert [key["state"] for key in before["keys"]] == ["acknowledged", "primary"]
        await away.stop()
        for _ in range(2):
            await controller.rotator.turn()
        await eventually(lambda: controller.acknowledged("RegionOne").rings["receipt"][0] == before["epoch"] + 2)
        found = await ask("/keys/status")
        ring = found["rings"]["token"]
        states = {key["id"]: key["state"] for key in ring["keys"]}
        staged, primary = (key["id"] for key in ring["keys"][:2])
        assert sorted(states.values()) == ["acknowledged", "primary", "secondary", "secondary"]
        one, two = ring["sites"]["RegionOne"], ring["sites"]["RegionTwo"]
        assert (one["keys"][staged], one["keys"][primary], one["is_newest"]) == ("staged", "primary", True)
        assert (two["state"], two["epoch"], two["is_newest"]) == ("quarantined", before["epoch"], False)
        theirs = {key["id"]: {0: "staged", 1: "primary"}[key["number"]] for key in before["keys"]}
        assert two["keys"] == dict.fromkeys(states, "") | theirs
        assert found["quarantined"] == ["RegionTwo"]
        assert found["next_turn"]["waits_for"] == {}
        shown = text(found, "token")
        assert f"token keys, epoch {ring['epoch']}" in shown
        assert "QUARANTINED" in next(line for line in shown.splitlines() if "RegionTwo" in line)
        words = " ".join(shown.split())
        assert "does not wait for RegionTwo, which is quarantined until it holds the newest keys (it did" in words
        ring["sites"]["RegionTwo"]["connected"] = False
        assert "not connected" in next(line for line in text(found, "token").splitlines() if "RegionTwo" in line)
        assert "S staged, P primary" in shown
        assert "nobody seals with it" in shown
        assert all(key["id"] in shown for key in ring["keys"])


async def test_of_whom_an_operator_has_quarantined_it_is_told_why_and_what_takes_it_back(tmp_path):
    """It holds the newest keys, so that they are not what it waits for."""
    names = ("RegionOne", "RegionTwo", "RegionThree")
    async with running(tmp_path, names) as cloud, asked(cloud.controller, tmp_path) as ask:
        fields = {"state": "quarantined", "by_operator": True, "why": "its disk is replaced"}
        await cloud.controller.sites.mark("RegionTwo", "quarantine", **fields)
        shown = " ".join(text(await ask("/keys/status"), "token").split())
        assert "operator has quarantined (its disk is replaced): `rkctl region rejoin RegionTwo` takes it back" in shown
        assert "until it holds" not in shown
        await cloud.controller.sites.mark("RegionTwo", "rejoin", state="active", by_operator=False, why="")
        assert "does not wait" not in text(await ask("/keys/status"), "token")


async def test_a_rehearsal_tells_of_each_site_why_not(tmp_path):
    async with (
        running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=60.0) as cloud,
        asked(cloud.controller, tmp_path) as ask,
    ):
        controller = cloud.controller
        await cloud.sites["RegionTwo"].stop()
        await eventually(lambda: "RegionTwo" not in controller.replicator.sessions)
        epoch = (await controller.rotator.turn()).epoch
        await eventually(lambda: controller.acknowledged("RegionOne").rings["receipt"][0] == epoch)
        told = await ask("/keys/rotate", {"dry_run": True})
        why = told["next_turn"]["waits_for"]["RegionTwo"]
        assert f"token keys of epoch {epoch} (has {epoch - 1})" in why
        assert (told["turned"], list(told["next_turn"]["waits_for"])) == (False, ["RegionTwo"])
        assert (await controller.overlay.get(Ring, "token")).epoch == epoch


async def test_a_site_that_cannot_write_a_ring_says_why_wherever_it_is_waited_for(tmp_path, monkeypatch):
    async with (
        running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=0.5) as cloud,
        asked(cloud.controller, tmp_path) as ask,
    ):
        controller, site, full = cloud.controller, cloud.sites["RegionTwo"], "No space left on device"

        def refused(directory, ring):
            if directory == site.holder.directory:
                raise OSError(errno.ENOSPC, full, f"{directory}/3")
            write_directory(directory, ring)

        monkeypatch.setattr("regional_keystone.holder.write_directory", refused)
        epoch = (await controller.rotator.turn()).epoch
        await eventually(lambda: controller.acknowledged("RegionTwo").why)
        why = (await ask("/keys/rotate", {"dry_run": True}))["next_turn"]["waits_for"]["RegionTwo"]
        assert f"token keys of epoch {epoch} (has {epoch - 1}); it is connected; it says: " in why
        assert full in why
        await controller.rotator.turn()
        told = await ask("/keys/status")
        state = told["rings"]["token"]["sites"]["RegionTwo"]
        assert state["state"] == "quarantined"
        assert full in state["says"]
        assert "it says: " in state["why"]
        assert full in state["why"]
        assert told["rings"]["receipt"]["sites"]["RegionTwo"]["says"] == ""
        monkeypatch.undo()
        await eventually(lambda: not controller.acknowledged("RegionTwo").why)
        assert (await ask("/keys/status"))["rings"]["token"]["sites"]["RegionTwo"]["says"] == ""


async def test_whatever_a_site_says_does_no_harm_on_a_terminal_and_is_bounded(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo")) as cloud, asked(cloud.controller, tmp_path) as ask:
        controller, site = cloud.controller, cloud.sites["RegionTwo"]
        instance = site.identity.membership().instance
        await site.stop()
        bad = "\x1b[2J\r\n[bold]" + "x" * 100_000
        controller.acknowledgements.note(
            "RegionTwo", instance, Acknowledge(1, {}, why={"token": bad, "rubbish": bad, "receipt": ""})
        )
        told = await ask("/keys/status")
        says = told["rings"]["token"]["sites"]["RegionTwo"]["says"]
        assert says.startswith("[2J[bold]xxx")
        assert len(says) < 1000
        assert "[bold]xxx" in "".join(text(told, "token").split())
        assert list(controller.acknowledged("RegionTwo").why) == ["token"]


async def test_distributing_seals_the_same_keys_for_everyone_in_the_next_epoch(tmp_path):
    async with running(tmp_path, ("RegionOne", "RegionTwo")) as cloud, asked(cloud.controller, tmp_path) as ask:
        before = (await ask("/keys/status"))["rings"]
        assert (await ask("/keys/setup", {"rings": ["token", "credential"]}))["made"] == ["credential"]
        told = await ask("/keys/distribute", {"rings": ["receipt"]})
        assert told["distributed"] == {"receipt": before["receipt"]["epoch"] + 1}
        assert told["rings"]["receipt"]["fingerprint"] == before["receipt"]["fingerprint"]
        assert told["rings"]["token"]["epoch"] == before["token"]["epoch"]
        for site in ("RegionOne", "RegionTwo"):
            await eventually(
                lambda site=site: (
                    cloud.controller.acknowledged(site).rings["receipt"][0] == told["distributed"]["receipt"]
                )
            )
        assert "error" in await ask("/keys/distribute", {"rings": ["rubbish"]})


async def test_more_keys_than_expected_are_told_and_none_goes_for_that(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud, asked(cloud.controller, tmp_path, max_active_keys=3) as ask:
        for _ in range(3):
            await cloud.controller.rotator.turn()
        found = await ask("/keys/status")
        assert (found["rings"]["token"]["active_keys"], found["rings"]["token"]["expected_keys"]) == (5, 3)
        assert "5 keys, more than the expected 3" in text(found, "token")
        assert "more than" not in text(found, "credential")


async def test_a_keystones_directory_that_is_followed_is_told_first(tmp_path):
    told = {"rings": {"token": {"follows": {"directory": "/etc/keystone/fernet-keys"}}}}
    async with running(tmp_path, ("RegionOne",)) as cloud, asked(cloud.controller, tmp_path, told) as ask:
        assert "this controller follows /etc/keystone/fernet-keys" in text(await ask("/keys/status")).splitlines()[0]
    async with (
        running(tmp_path / "without", ("RegionOne",)) as cloud,
        asked(cloud.controller, tmp_path / "without") as ask,
    ):
        assert "follows" not in text(await ask("/keys/status"))


@pytest.mark.parametrize(
    ("epoch", "part"),
    [(0, ""), (2, ""), (3, "staged"), (4, "staged"), (5, "primary"), (6, "primary"), (7, "held"), (9, "held")],
)
def test_what_a_key_is_to_a_site_that_lags(epoch, part):
    times = KeyTimes(staged_in=3, primary_in=5, primary_at=1, ceased_in=7, ceased_at=1)
    assert part_at(times, epoch) == part
    assert part_at(KeyTimes(primary_at=1), epoch or 1) == "?", "by a version that did not write it down"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (86_400 * 3 + 7200, "3 d 2 h"), (-5, "0 s")]
)
def test_durations_as_people_say_them(seconds, said):
    assert span(seconds * SECOND) == said


async def rkctl(path, *words):
    """The command at the controller with the operator's socket below this directory; the last line is its last."""
    file = path / "controller.conf"
    file.write_text(f"[site]\nstate_dir = {path}\n")
    done = await asyncio.to_thread(CliRunner().invoke, cli.app, [*words, "--config", str(file)])
    return done.exit_code, done.stdout, done.stderr


def told(out):
    """The answer among the lines, of which others are logged by the controller in this process."""
    return next(line for line in out.splitlines() if line.startswith("{"))


async def test_keystones_verbs_with_their_flags(tmp_path):
    flags = ("--keystone-user", "keystone", "--keystone-group", "keystone", "--json")
    async with running(tmp_path, ("RegionOne",)) as cloud, asked(cloud.controller, tmp_path) as ask:

        async def epochs():
            return [(await ask("/keys/status"))["rings"].get(name, {}).get("epoch", 0) for name in RINGS]

        async def does(verb):
            before = await epochs()
            code, out, error = await rkctl(tmp_path, verb, *flags)
            assert code == 0, error
            assert "--keystone-user and --keystone-group changes nothing" in error
            json.loads(told(out))
            newest = dict(zip(RINGS, await epochs(), strict=True))
            await eventually(
                lambda: (
                    {name: cloud.controller.acknowledged("RegionOne").rings.get(name, (0, ""))[0] for name in RINGS}
                    == newest
                )
            )
            return [after - earlier for after, earlier in zip(newest.values(), before, strict=True)]

        assert await epochs() == [(await ask("/keys/status"))["rings"]["token"]["epoch"]] * 2 + [0]
        code, _, error = await rkctl(tmp_path, "credential_rotate", *flags)
        assert (code, "Traceback" in error) == (1, False), "there is no ring yet"
        assert await does("credential_setup") == [0, 0, 1]
        assert await does("fernet_setup") == await does("receipt_setup") == [0, 0, 0]
        assert await does("fernet_rotate") == [1, 1, 0]
        assert await does("receipt_rotate") == [0, 1, 0]
        assert await does("credential_rotate") == [0, 0, 1]
        assert await does("credential_migrate") == [0, 0, 0]


async def test_what_people_are_told_while_a_site_is_away(tmp_path):
    async with (
        running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=2.0) as cloud,
        asked(cloud.controller, tmp_path) as ask,
    ):
        code, out, error = await rkctl(tmp_path, "keys", "distribute", "--ring", "token")
        assert code == 0, error
        code, out, _ = await rkctl(tmp_path, "keys", "rotate", "--dry-run")
        staged, primary = (key["id"] for key in (await ask("/keys/status"))["rings"]["token"]["keys"][:2])
        assert f"token: {staged} would become the primary in place of {primary}; retired: none" in out.splitlines()
        assert (code, out.count(": ready")) == (0, 2)
        await cloud.sites["RegionTwo"].stop()
        await eventually(lambda: "RegionTwo" not in cloud.controller.replicator.sessions)
        code, out, _ = await rkctl(tmp_path, "keys", "distribute", "--json")
        found = json.loads(told(out))
        assert (code, found["acknowledged"], found["rings"]["token"]["waits_for"]) == (1, False, ["RegionTwo"])
        code, out, _ = await rkctl(tmp_path, "keys", "rotate", "--dry-run")
        said = out.splitlines()
        assert (code, "RegionOne: ready" in said) == (0, True)
        assert [line.startswith("RegionTwo: NOT READY: it has not acknowledged token keys") for line in said].count(
            True
        ) == 1
        assert "the turn would wait for RegionTwo, at most 2 s each" in said
        await cloud.controller.sites.set_state("RegionTwo", "quarantined", "its disk is full")
        code, out, _ = await rkctl(tmp_path, "keys", "rotate", "--dry-run")
        assert (code, "RegionTwo: quarantined, not waited for: its disk is full" in out.splitlines()) == (0, True)
        assert "the turn would wait for" not in out
        code, out, _ = await rkctl(tmp_path, "keys", "status", "--json", "--ring", "receipt")
        assert (code, list(json.loads(told(out))["rings"])) == (0, ["receipt"])


async def test_at_the_end_of_a_turn_it_is_told_who_holds_the_new_rings_and_who_does_not(tmp_path):
    """A site that cannot say so in time is waited for, named, and the code tells; a quarantined one is only named."""
    async with (
        running(tmp_path, ("RegionOne", "RegionTwo"), deadline_s=30.0) as cloud,
        asked(cloud.controller, tmp_path),
        wired(cloud, "RegionTwo") as wire,
    ):
        controller = cloud.controller

        async def turn(*words):
            epoch = (await controller.overlay.get(Ring, "token")).epoch + 1
            code, out, error = await rkctl(tmp_path, "keys", "rotate", *words)
            assert "Traceback" not in error
            return code, out, f"turned: epoch {epoch} of the token keys, acknowledged by "

        code, out, said = await turn()
        assert (code, said + "2 of 2\n" in out, out.count("turned: epoch")) == (0, True, 2)
        wire.hold("up")
        code, out, said = await turn("--wait", "0.2")
        assert (code, said + "1 of 2; not by RegionTwo\n" in out) == (NOT_ACKNOWLEDGED, True)
        await controller.sites.set_state("RegionTwo", "quarantined", "a test")
        code, out, said = await turn()
        assert (code, said + "1 of 2; not by RegionTwo (quarantined, not waited for)\n" in out) == (0, True)
        code, out, _ = await rkctl(tmp_path, "receipt_rotate", "--json")
        found = json.loads(told(out))["turns"]
        assert (code, list(found), found["receipt"]["acknowledged"]) == (0, ["receipt"], ["RegionOne"])
        assert (found["receipt"]["lacking"], found["receipt"]["quarantined"]) == ([], ["RegionTwo"])


def test_a_ring_that_went_on_counts_from_the_epoch_that_the_turn_made():
    def at(epoch, *, newest=False, state="active"):
        return {"epoch": epoch, "is_newest": newest, "state": state}

    sites = {"A": at(8, newest=True), "B": at(7), "C": at(6), "D": at(6, state="quarantined")}
    status = {"rings": {"token": {"epoch": 8, "sites": sites, "waits_for": ["B", "C"]}}}
    [found] = outcomes({"token": 7}, status)
    assert found[2:] == (("A", "B"), ("C",), ("D",))
    assert str(found).endswith("acknowledged by 2 of 4; not by C, D (quarantined, not waited for)")
    [found] = outcomes({"token": 8}, status)
    assert found.lacking == ("B", "C"), "another ring of the same epoch is none"


def test_a_verb_that_nobody_answers_ends_with_1(tmp_path):
    done = CliRunner().invoke(cli.app, ["fernet_rotate", "--state", str(tmp_path)])
    assert done.exit_code == 1
