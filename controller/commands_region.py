"""`rkctl region`: who belongs to the federation, and how an operator wants a site to be treated."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors, show

region = typer.Typer(help="Who belongs to the federation.", **PLAIN)


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
        show(found, ("name", "state", "drained", "position", "connected", "controller", "why"), as_json=as_json)


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
        next_ = (
            f"if it was stolen, condemn its keys: `rkctl keys compromised --site {name}`; "
            "else turn the keys twice, for it knows the next one: `rkctl keys rotate`"
        )
        print(json.dumps({"removed": name}) if as_json else f"{name} is removed; {next_}")
        if answer.get("cassandra"):
            print(_still_on_cassandra(name, config), file=sys.stderr)


@region.command("quarantine")
def region_quarantine(
    name: Name,
    why: Annotated[str, typer.Option(help="The reason; the log and `rkctl region list` show it.")],
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the keys turn without a site until it is told to rejoin; it goes on serving for the promised isolation.

    Example: rkctl region quarantine Oslo --why "its disk is replaced"
    """
    with errors():
        answer = ask_controller(state, config, "/region/quarantine", {"name": name, "why": why})
        next_ = f"rotations no longer wait for it; take it back with `rkctl region rejoin {name}`"
        print(json.dumps(answer) if as_json else f"{name} is quarantined; {next_}")


@region.command("drain")
def region_drain(
    name: Name,
    why: Annotated[str, typer.Option(help="The reason; whoever is refused a token there is told.")],
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a site issue no tokens (503) until it is told to rejoin; it goes on validating, and the keys wait for it.

    Example: rkctl region drain Oslo --why "moving to another building"
    """
    with errors():
        answer = ask_controller(state, config, "/region/drain", {"name": name, "why": why})
        next_ = f"as soon as it hears of it, it issues no tokens; end that with `rkctl region rejoin {name}`"
        print(json.dumps(answer) if as_json else f"{name} is drained; {next_}")


@region.command("rejoin")
def region_rejoin(name: Name, state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """End quarantine and drain, and help a site on that cannot go on from the keys it holds; 1 while it lacks any.

    A site that lacks keys is taken back by itself once it holds them.

    Example: rkctl region rejoin Oslo
    """
    with errors():
        answer = ask_controller(state, config, "/region/rejoin", {"name": name})
        lacks = answer.get("lacks", [])
        told = f"{name} is {answer.get('state')}" + "".join(f"\n  still: {one}" for one in lacks)
        print(json.dumps(answer) if as_json else told)
        if lacks:
            raise SystemExit(1)
