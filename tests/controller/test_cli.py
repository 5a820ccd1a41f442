"""The command line: quick to begin, an example at every level, one line that names the cure."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from controller import __main__ as cli
from controller import commands_compromised, commands_keys, commands_region, commands_signing
from controller.commands_compromised import NOT_EVERYWHERE, _show_cost, issued
from controller.federation import FederationError, Home, Member, _facts, settled
from controller.outcome import NOT_ACKNOWLEDGED
from regional_keystone import __version__, durable, policy, policy_file

RKCTL = Path(sys.executable).with_name("rkctl")
GROUPS = {
    "": cli.app,
    "region": cli.region,
    "keys": cli.keys,
    "credential": cli.credential,
    "config": cli.config,
    "policy": cli.policy,
    "trusts": cli.trusts,
    "user": cli.user,
    "engines": cli.engines,
    "store": cli.store,
    "db": cli.db,
    "signing": cli.signing,
    "authority": cli.authority,
}
COMMANDS = sorted(
    f"{group} {name}".strip()
    for group, app in GROUPS.items()
    for name in typer.main.get_command(app).commands
    if name not in GROUPS
)


def rkctl(*words, **environment):
    return subprocess.run(
        [RKCTL, *words], capture_output=True, text=True, timeout=30, env=os.environ | environment, check=False
    )


def test_help_begins_quickly():
    def took():
        """By the processor's time, so that who else is at work here does not count."""
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert rkctl("--help").returncode == 0
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime

    assert min(took() for _ in range(5)) < 0.5


def test_help_reads_the_command_line_only():
    program = "import sys, controller.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"aiohttp", "cryptography", "msgspec", "oslo_config", "rich.table", "controller.wiring"}.isdisjoint(loaded)


def test_the_commands_are_those_that_operators_are_told_of():
    told = "up, down, status, tour, serve, bootstrap, version, region add, region list, region remove, keys status"
    told += ", region quarantine, region drain, region rejoin, keys compromised, keys confirm"
    told += ", keys rotate, config check, config sample, engines check, engines install, store copy, doctor"
    told += ", db sync, db version, db status, db check, db site, db roles, db forget, db repair"
    told += ", policy check, policy sample, trusts flush, user show"
    told += ", keys setup, keys distribute, keys export, keys import, fernet_setup, fernet_rotate, receipt_setup, receipt_rotate"
    told += ", credential_setup, credential_rotate, credential_migrate"
    told += ", credential status, credential setup, credential rotate, credential migrate"
    told += ", signing status, signing rotate, signing allow, signing sealed"
    told += ", authority status, authority rotate, authority spare"
    assert {*told.split(", ")} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    shown = typer.main.get_command(cli.app)
    for word in command.split():
        shown = shown.commands[word]
    assert f"rkctl {command}" in shown.help.partition("Example: ")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_tells_something_tells_it_as_json_too(command):
    shown = typer.main.get_command(cli.app)
    for word in command.split():
        shown = shown.commands[word]
    has = any("--json" in one.opts for one in shown.params)
    assert has == (command not in {"tour", "serve", "config sample"})


def test_what_is_told_as_json_is_json(tmp_path, monkeypatch):
    def told(*words):
        done = CliRunner().invoke(cli.app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    for module in (cli, commands_keys, commands_region):
        monkeypatch.setattr(module, "ask_controller", lambda *_: {})
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text("x")
    assert told("version") == {"version": __version__}
    assert told("down", "--state", str(tmp_path)) == {"state": str(tmp_path), "ended": False}
    assert told("bootstrap", "--password-file", str(tmp_path / "password"), "--username", "ann") == {"username": "ann"}
    assert told("region", "remove", "Oslo", "--yes") == {"removed": "Oslo"}
    assert told("region", "quarantine", "Oslo", "--why", "x") == told("region", "drain", "Oslo", "--why", "x") == {}
    assert told("region", "rejoin", "Oslo") == {}
    found = told("config", "check", "--site", "--set", "token.expiration=60", "--set", "policy.file=a/b")
    assert (found["token"]["expiration"], found["policy"]["file"], found["DEFAULT"]["debug"]) == (60, "a/b", False)
    rules = {rule["name"]: rule for rule in told("policy", "sample")}
    assert rules.keys() == policy.checks(policy.defaults()).keys()
    assert rules["identity:get_role"]["operations"] == [{"methods": "GET,HEAD", "path": "/v3/roles/{role_id}"}]


def test_people_are_told_what_stolen_keys_cost_by_site_and_hour(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    cost = {
        "keys": [{"id": "a" * 16, "ring": "token", "state": "primary", "condemned": False}],
        "now": 7200 * 10**6,
        "counted_s_ago": {"Oslo": 3720.0, "Rome": 0.0},
        "tokens": [{"key": "a" * 16, "site": "Oslo", "tokens": 3}, {"key": "b" * 16, "site": "Oslo", "tokens": 2}],
        "tokens_live": 5,
        "issued_by_hour": {"Oslo": {"a" * 16: {"24": 3, "25": 1}, "b" * 16: {"24": 2}}, "Rome": {}},
        "sites": [
            {"name": "Oslo", "state": "active", "connected": True},
            {"name": "Rome", "state": "active", "connected": False},
            {"name": "Bern", "state": "active", "connected": True},
        ],
        "removes": "Oslo",
        "what_happens": [],
    }
    assert issued(cost) == [("Oslo", 5, "1 h 2 min ago", "02 Jan 01:00: 1, 02 Jan 00:00: 5")]
    _show_cost(cost, quiet=False)
    said = capsys.readouterr().err
    assert "02 Jan 01:00: 1, 02 Jan 00:00: 5" in said
    assert "1 h 2 min ago" in said, "Oslo was heard of an hour ago"
    refuses = {words[1]: " ".join(words[5:]) for words in map(str.split, said.splitlines()) if "active" in words}
    assert refuses["Oslo"].startswith("never: it is removed"), "it is told nothing any more"
    assert refuses["Rome"].startswith("out of reach")
    assert refuses["Bern"].startswith("at once")
    assert "about 5 live tokens end" in said
    cost["keys"][0] |= {"condemned": True, "condemned_at": 0, "condemned_by": "ann"}
    _show_cost(cost | {"removes": ""}, quiet=False)
    assert "live tokens end" not in capsys.readouterr().err, "they ended then"


def test_a_rehearsal_says_who_is_not_connected(monkeypatch):
    key = {"id": "a", "number": 0}
    told = {
        "rings": {
            name: {
                "keys": [key, {"id": "b", "number": 1}],
                "retires": [],
                "sites": {"Oslo": {"connected": True}, "Rome": {"connected": False}},
            }
            for name in ("token", "receipt")
        },
        "next_turn": {"waits_for": {}, "deadline_s": 60.0},
        "active": ["Oslo", "Rome"],
        "quarantined": [],
    }
    monkeypatch.setattr(commands_keys, "ask_controller", lambda *_: told)
    assert CliRunner().invoke(cli.app, ["keys", "rotate", "--dry-run"]).stdout.splitlines()[2:] == [
        "Oslo: ready",
        "Rome: ready; NOT CONNECTED: it takes the new keys when it is back",
    ]


@pytest.mark.parametrize("words", [(), ("--all", "--key", "a"), ("--key", "a", "--site", "Oslo")])
def test_what_to_condemn_is_said_in_one_way(monkeypatch, words):
    monkeypatch.setattr(commands_compromised, "ask_controller", lambda *_: pytest.fail("it was asked"))
    done = CliRunner().invoke(cli.app, ["keys", "compromised", *words])
    assert done.exit_code == 2
    assert "--site NAME" in done.output


def test_who_does_not_agree_to_condemn_is_told_that_nothing_was_done(monkeypatch):
    asked = []

    def answer(state, config, path, body):
        asked.append(path)
        return {
            "keys": [{"id": "a", "ring": "token", "state": "primary", "condemned": False}],
            "now": 0, "counted_s_ago": {}, "tokens": [], "tokens_live": 0, "issued_by_hour": {}, "sites": [],
            "removes": "", "what_happens": [],
        }  # fmt: skip

    monkeypatch.setattr(commands_compromised, "ask_controller", answer)
    done = CliRunner().invoke(cli.app, ["keys", "compromised", "--all"], input="n\n")
    assert (done.exit_code, asked) == (1, ["/keys/compromised/cost"])
    assert "Aborted" in done.output


def test_exit_codes_are_documented():
    assert (
        NOT_EVERYWHERE + 1
        == NOT_ACKNOWLEDGED
        == max(int(one) for one in re.findall(r"(?:: |, )(\d+) ", cli.EXIT_CODES))
    )
    for code in range(NOT_ACKNOWLEDGED + 1):
        assert f" {code} " in cli.EXIT_CODES.replace(":", " ")
        assert f" {code} " in rkctl("--help").stdout.replace(":", " ").replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("status", "--state", "nowhere"), 1, "make one with `rkctl up`"),
        (("region", "list", "--state", "nowhere"), 1, "is it running?"),
        (("up", "--set", "tokn.expiration=1"), 2, "did you mean token?"),
        (("up", "--set", "token.expiration"), 2, "write section.option=value"),
        (("up", "--sites", "../x"), 2, "cannot name a region"),
        (("up", "--port", "70000"), 2, "65535"),
        (("trusts", "flush", "--date", "2025"), 2, "write a day as DD-MM-YYYY"),
        (("trusts", "flush", "--state", "nowhere"), 1, "is it running?"),
        (("user", "show", "ann", "--state", "nowhere"), 1, "is it running?"),
        (("serve", "--config", "none.conf"), 2, "none.conf: No such file"),
        (("config", "check", "none.conf"), 2, "none.conf: No such file"),
        (("bootstrap", "--password-file", "none"), 3, "none: No such file"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_cure(tmp_path, monkeypatch, words, code, says):
    monkeypatch.chdir(tmp_path)
    done = rkctl(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_down_where_nothing_runs_is_no_fault(tmp_path):
    done = rkctl("down", "--state", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"nothing runs in {tmp_path}\n")


def test_status_without_processes_says_down_and_fails(tmp_path):
    Home(tmp_path).record([Member("controller", 1, 2, 3), Member("RegionOne", 4, 5)])
    done = rkctl("status", "--state", str(tmp_path), NO_COLOR="1")
    assert done.returncode == 1
    assert done.stdout.count("down") == 2
    assert "\x1b" not in done.stdout


def test_a_terminal_is_not_assumed(tmp_path):
    Home(tmp_path).record([Member("controller", 1, 2, 3)])
    assert "\x1b" not in rkctl("status", "--state", str(tmp_path)).stdout


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("on_engines", [True, False])
def test_a_directory_of_the_other_kind_is_refused_before_anything_starts(tmp_path, on_engines, recorded):
    """Their data lie elsewhere: what was made in SQLite is not in Cassandra, the administrator neither."""
    home = Home(tmp_path)
    if recorded:
        home.record([Member("controller", 1, 2, 3, 9 if on_engines else None)])
    elif on_engines:
        home.engines.mkdir()
    else:
        home.state("controller").mkdir()
        (home.state("controller") / "log.db").touch()
    other, cure = ([], "go on with --engines") if on_engines else (["--engines"], "leave --engines away")
    before = sorted(tmp_path.rglob("*.json"))
    for command in (("up", "--detach"), ("tour", "--once")):
        done = rkctl(*command, "--state", str(tmp_path), *other)
        assert done.returncode == 2, done.stderr
        assert f"{cure}, or name another directory with --state" in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*.json")) == before


def test_each_kind_of_federation_has_a_directory_of_its_own_by_default():
    def state(*words):
        root = Path(__file__).parents[2]
        said = subprocess.run(["make", "-n", "run", *words], capture_output=True, text=True, check=True, cwd=root)
        return said.stdout.partition("--state ")[2].split()[0]

    assert [state(), state("ENGINES=1"), state("ENGINES=1", "STATE=x")] == ["federation", "federation-engines", "x"]


def test_a_broken_record_of_ports_is_named(tmp_path):
    (tmp_path / "ports.json").write_text("[{]")
    done = rkctl("status", "--state", str(tmp_path))
    assert done.returncode == 3
    assert "ports.json cannot be read" in done.stderr


def test_the_check_prints_what_holds(tmp_path):
    file = tmp_path / "site.conf"
    file.write_text("[listen]\nport = 6000\n")
    done = rkctl("config", "check", "--site", str(file), RK_TOKEN__EXPIRATION="60")
    assert done.returncode == 0
    assert "port = 6000\n" in done.stdout
    assert "expiration = 60\n" in done.stdout


@pytest.mark.parametrize("columns", ["60", "200"])
def test_tables_are_as_wide_as_columns_says(columns):
    done = rkctl("engines", "check", COLUMNS=columns)
    widths = {len(line) for line in done.stdout.splitlines()}
    assert max(widths) <= int(columns)
    assert rkctl("engines", "check", COLUMNS="").stdout == rkctl("engines", "check", COLUMNS="120").stdout


def test_status_says_what_a_site_is_too_old_for(capsys):
    page = {"position": 7, "lag_entries": 0, "age_s": 31.0, "too_old_for": ["system"], "stream": {"connected": True}}
    facts = _facts(Member("Oslo", 1, 2), page, 7)
    assert facts["too_old_for"] == ["system"]
    assert "too_old_for" not in _facts(Member("Oslo", 1, 2), page | {"too_old_for": []}, 7)
    one = {"name": "Oslo", "url": "http://127.0.0.1/v3"} | facts
    cli._show_status({"controllers": [], "sites": [one], "controller": {}})
    assert "Oslo: knows too little to decide about system tokens" in capsys.readouterr().out


def test_the_sample_is_the_one_that_is_shipped():
    configs = Path(__file__).parents[2] / "configs"
    ours = [line for line in rkctl("config", "sample", "--site").stdout.splitlines() if line.startswith("#")]
    assert set(ours) - {"# A site"} <= set((configs / "region.conf").read_text().splitlines())


def test_a_policy_that_no_server_starts_on_is_code_2_with_every_reason(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text('"identity:get_usr": "@"\n"identity:get_group": "rule:nobody"\n"identity:get_role": "@"\n')
    done = rkctl("policy", "check", str(file), NO_COLOR="1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"rkctl: {file}:1: there is no action identity:get_usr; did you mean identity:get_user?",
        f"rkctl: {file}:2: identity:get_group refers to rule:nobody, which does not exist",
    ]
    told = json.loads(rkctl("policy", "check", str(file), "--json").stdout)
    assert not told["valid"]
    assert [one["line"] for one in told["problems"]] == [1, 2]
    file.write_text('"identity:get_role": "@"\n')
    done = rkctl("policy", "check", str(file), NO_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}: 1 rules: 1 loosens" in done.stdout
    assert json.loads(rkctl("policy", "check", str(file), "--json").stdout)["overrides"][0]["effect"] == "loosens"
    missing = rkctl("policy", "check", str(tmp_path / "none.yaml"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none.yaml" in missing.stderr


def test_a_rule_that_asks_for_what_no_request_gives_is_told_with_its_line(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text('"identity:get_role": "@"\n"identity:get_user": "user_id:%(target.usr.id)s"\n')
    done = rkctl("policy", "check", str(file), NO_COLOR="1", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = (line for line in done.stdout.splitlines() if "identity:get_user" in line and "note:" not in line)
    assert "target.usr.id" in row
    note = "identity:get_user: no request gives target.usr.id, user_id:%(target.usr.id)s never holds"
    assert f"note: {file}:2: {note}; did you mean target.user.id?" in done.stdout
    told = json.loads(rkctl("policy", "check", str(file), "--json").stdout)
    assert told["valid"]
    assert [(one["name"], one["line"]) for one in told["notes"]] == [("identity:get_user", 2)]
    assert [one["unsupplied"] for one in told["overrides"]] == [
        [],
        [{"key": "target.usr.id", "meant": "target.user.id"}],
    ]


def test_the_sample_of_the_policy_is_every_default(tmp_path):
    text = rkctl("policy", "sample").stdout
    assert not [line for line in text.splitlines() if line and not line.startswith("#")]
    file = tmp_path / "policy.yaml"
    file.write_text("\n".join(line.removeprefix("#") for line in text.splitlines() if line.startswith('#"')))
    known = policy.checks(policy.defaults())
    found = policy_file.read(str(file), known)
    assert found.problems + found.notes == []
    assert {one.name: one.effect for one in found.overrides} == dict.fromkeys(known, "same")
    assert "# GET,HEAD /v3/users/{user_id}/access_rules\n# Scopes: system, project\n" in text


def test_the_last_word_on_each_option_counts_and_is_kept(tmp_path):
    home = Home(tmp_path)
    assert home.sets() == ()
    home.keep_sets(())
    assert not home.sets_file.exists()
    home.keep_sets(settled(("a.b=1", "c.d=x=y", "A.B = 2")))
    assert home.sets() == ("A.B = 2", "c.d=x=y")
    assert home.sets_file.stat().st_mode & 0o777 == 0o600
    for broken in ("[1]", "{", '{"a": 1}'):
        home.sets_file.write_text(broken)
        with pytest.raises(FederationError, match=r"sets\.json .*remove it"):
            home.sets()


def test_a_full_disk_names_the_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match=str(tmp_path / "openrc")):
            durable.write(tmp_path / "openrc", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "openrc").exists()


def test_a_reserved_name_is_refused_with_those_that_are(tmp_path):
    done = rkctl("up", "--detach", "--state", str(tmp_path), "--sites", "Global")
    assert done.returncode == 2
    assert "none of controller, controller-2, Global, logs, config" in done.stderr


def test_the_status_says_why_a_region_is_refused():
    page = {"position": 5, "state": "isolated", "stream": {"connected": False, "refused": "this site was removed"}}
    assert _facts(Member("A", 1, 2), page, 7)["detail"] == "this site was removed"


def test_a_ring_that_there_is_not_is_refused_with_those_that_there_are(monkeypatch):
    monkeypatch.setattr(commands_keys, "ask_controller", lambda *_: pytest.fail("it was asked"))
    for command in ("status", "distribute"):
        done = CliRunner().invoke(cli.app, ["keys", command, "--ring", "tokens"])
        assert done.exit_code == 2
        assert all(name in done.stderr for name in commands_keys.RINGS)


@pytest.mark.parametrize("said", ["", " "])
def test_no_domains_are_not_taken_for_nothing_said(monkeypatch, said):
    monkeypatch.setattr(commands_signing, "ask_controller", lambda *_: pytest.fail("it was asked"))
    done = CliRunner().invoke(cli.app, ["signing", "allow", "Oslo", "--domains", said])
    assert (done.exit_code, "--domains names none" in done.stderr) == (2, True)


def test_without_a_signing_key_it_is_told_what_makes_one(monkeypatch):
    monkeypatch.setattr(commands_signing, "ask_controller", lambda *_: [])
    assert "`[token] provider = jws`" in CliRunner().invoke(cli.app, ["signing", "status"]).stdout
    assert CliRunner().invoke(cli.app, ["signing", "status", "--json"]).stdout == "[]\n"


def test_what_is_known_of_sealed_tokens_is_one_line(monkeypatch):
    told = {"refused": False, "told_at": None, "waits_for": [], "seal": ["Oslo"], "shown_until": {}}
    asked = []

    def answer(_state, _config, _target, body=None):
        asked.append(body)
        return told

    monkeypatch.setattr(commands_signing, "ask_controller", answer)

    def said(*words):
        return CliRunner().invoke(cli.app, ["signing", "sealed", *words])

    assert said().stdout == "Sealed tokens are read; not known to sign: Oslo\n"
    told |= {"refused": True, "waits_for": ["Rome"], "seal": []}
    assert said("--refuse").stdout == "Sealed tokens are refused, which these have not heard of yet: Rome\n"
    told["waits_for"] = []
    assert said("--refuse", "--now").stdout == "Sealed tokens are refused everywhere\n"
    assert json.loads(said("--read", "--json").stdout) == told
    assert asked == [
        None,
        {"refuse": True, "now": False},
        {"refuse": True, "now": True},
        {"refuse": False, "now": False},
    ]
    assert said("--read", "--now").exit_code == said("--now").exit_code == 2
    assert len(asked) == 4


def test_a_site_that_was_set_aside_shows_so_with_the_reason_unless_it_is_cut_off():
    site, page = Member("A", 1, 2), {"position": 7, "state": "connected", "stream": {"connected": True}}
    drained = {"state": "active", "drained": True, "why": "its disk is changed"}
    facts = _facts(site, page, 7, drained)
    assert (facts["state"], facts["set_aside"]) == ("drained", "drained: its disk is changed")
    facts = _facts(site, page, 7, {**drained, "state": "quarantined", "why": ""})
    assert (facts["state"], facts["set_aside"]) == ("quarantined, drained", "quarantined, drained: no reason was given")
    facts = _facts(site, {**page, "stream": {"connected": False}}, 7, {"state": "quarantined", "why": "late"})
    assert (facts["state"], facts["set_aside"]) == ("isolated", "quarantined: late")
    facts = _facts(site, page, 7, {"state": "active", "drained": False, "why": ""})
    assert facts["state"] == "connected"
    assert "set_aside" not in facts


def test_rows_that_drifted_are_told_of_and_nothing_where_none_did():
    last = {"table": "users", "key": "u1", "how": "changed", "at": 1, "mended": True}
    found = {"changed": 1, "lost": 0, "added": 2}
    page = {"position": 7, "convergence": {"found": found, "last": [last], "unmended": 1}}
    assert _facts(Member("A", 1, 2), page, 7)["drift"] == (
        "3 rows drifted and were put right, users u1 the last; 1 rows differ at the controller"
    )
    doubted = {"position": 7, "convergence": {"rows": 3, "doubted": ["users/abc"]}}
    assert _facts(Member("A", 1, 2), doubted, 7)["drift"] == "rows changed here without an entry: users/abc"
    equal = {"found": dict.fromkeys(found, 0), "last": [], "unmended": 0}
    assert "drift" not in _facts(Member("A", 1, 2), {"position": 7, "convergence": equal}, 7)
