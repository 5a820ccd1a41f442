"""`rkctl region`, `rkctl keys` and `rkctl credential`: what a running controller is asked to do."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors, show

region = typer.Typer(help="Who belongs to the federation.", **PLAIN)
keys = typer.Typer(help="The ring that tokens are sealed with.", **PLAIN)
credential = typer.Typer(help="The ring that the secrets of credentials are sealed with.", **PLAIN)

Name = Annotated[str, typer.Argument(help="The region's name.")]


@region.command("add")
def region_add(
    name: Name,
    url: Annotated[str, typer.Option(help="Its Identity API, ending in /v3, for the catalog.")] = "",
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Invite a site: prints a join token that is good once, and on standard error what a site on Cassandra needs.

    Example: rkctl region add Oslo --url https://identity.oslo.example/v3
    """
    with errors():
        answer = ask_controller(state, config, "/region/add", {"name": name, "url": url})
        print(json.dumps(answer) if as_json else answer["join_token"])
        if answer.get("cassandra"):  # a controller of an older version does not tell
            print(_next_on_cassandra(name, config), file=sys.stderr)


def _next_on_cassandra(name: str, config: Path | None) -> str:
    role = f"rk_site_{name}"
    words = ["rkctl", "db", "site", name, "--password-file", f"secrets/{role}"]
    command = shlex.join([*words, "--config", str(config or "controller.conf")])
    return (
        "a site that reads Cassandra needs its tables and its role before it starts, once, from a user of the cluster"
        f" who may define them (--set cassandra.username=...): {command}"
    )


def _still_on_cassandra(name: str, config: Path | None) -> str:
    command = shlex.join(["rkctl", "db", "site", name, "--remove", "--config", str(config or "controller.conf")])
    return (
        f"if it reads Cassandra, its role rk_site_{name} still reads log and tables there until that is ended, from a"
        f" user of the cluster who may define roles (--set cassandra.username=...): {command}"
    )


@region.command("list")
def region_list(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the sites and their states.

    Example: rkctl region list --json
    """
    with errors():
        found = ask_controller(state, config, "/region/list")
        show(found, ("name", "state", "position", "connected", "controller"), as_json=as_json)


@region.command("remove")
def region_remove(
    name: Name,
    state: State = STATE,
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a site out of the federation: its stream ends, and keys are no longer sealed for it.

    Example: rkctl region remove Oslo --yes
    """
    with errors():
        question = f"Remove {name}? It will know no change and no key from now on."
        if not yes and not typer.confirm(question, err=as_json):
            raise SystemExit(1)
        answer = ask_controller(state, config, "/region/remove", {"name": name})
        next_ = "it knows the next key as well, so turn the keys twice: `rkctl keys rotate`"
        print(json.dumps({"removed": name}) if as_json else f"{name} is removed; {next_}")
        if answer.get("cassandra"):
            print(_still_on_cassandra(name, config), file=sys.stderr)


@keys.command("status")
def keys_status(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the ring's epoch, and which sites a rotation would wait for.

    Example: rkctl keys status
    """
    with errors():
        show([ask_controller(state, config, "/keys/status")], (), as_json=as_json)


@keys.command("rotate")
def keys_rotate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Turn the key ring once every site holds the key that will sign; who misses the deadline is quarantined.

    Example: rkctl keys rotate --dry-run
    """
    with errors():
        show([ask_controller(state, config, "/keys/rotate", {"dry_run": dry_run})], (), as_json=as_json)


@credential.command("status")
def credential_status(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the ring, how many credentials another key than the primary has sealed, and what a rotation waits for.

    Example: rkctl credential status
    """
    with errors():
        show([ask_controller(state, config, "/credential/status")], (), as_json=as_json)


@credential.command("setup")
def credential_setup(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the ring where there is none, as a controller does at its first start. Safe to repeat.

    Example: rkctl credential setup
    """
    with errors():
        show([ask_controller(state, config, "/credential/setup", {})], (), as_json=as_json)


@credential.command("rotate")
def credential_rotate(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Turn the ring; refused while a credential is sealed with another key than the primary. Then migrate.

    Example: rkctl credential rotate && rkctl credential migrate
    """
    with errors():
        show([ask_controller(state, config, "/credential/rotate", {})], (), as_json=as_json)


@credential.command("migrate")
def credential_migrate(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Seal with the primary key every credential that another key has sealed. Safe to break off and repeat.

    Example: rkctl credential migrate
    """
    with errors():
        show([ask_controller(state, config, "/credential/migrate", {})], (), as_json=as_json)
