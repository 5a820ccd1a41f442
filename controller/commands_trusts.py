"""`rkctl trusts`: what a running controller is asked to do with trusts."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors

app = typer.Typer(help="What users let others do for them.", **PLAIN)

_FORMS = ("%d-%m-%Y", "%Y-%m-%d")


@app.callback()
def _group() -> None:
    """A group although it has one command."""


@app.command()
def flush(
    project_id: Annotated[str, typer.Option(help="Only trusts on this project.")] = "",
    trustor_user_id: Annotated[str, typer.Option(help="Only trusts of this user.")] = "",
    trustee_user_id: Annotated[str, typer.Option(help="Only trusts for this user.")] = "",
    date: Annotated[str, typer.Option(help="Only what ended before this day, UTC.", metavar="DD-MM-YYYY")] = "",
    used_up: Annotated[
        bool, typer.Option("--used-up", help="Also trusts without uses left; tokens made by them end.")
    ] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove trusts that have ended, some at a time. Safe to break off and repeat.

    Example: rkctl trusts flush --date 31-12-2025
    """
    from controller.display import Display, console

    with errors(), Display(console(stderr=True)) as display:
        asked = {"project_id": project_id, "trustor_user_id": trustor_user_id, "trustee_user_id": trustee_user_id}
        wanted: dict[str, Any] = {name: value for name, value in asked.items() if value}
        wanted |= {"used_up": used_up, "before": _instant(date) if date else None, "after": None}
        done = _flush(state, config, wanted, display.tell)
        print(json.dumps(done) if as_json else f"{done['removed']} of {done['seen']} trusts removed")


def _flush(state: Path, config: Path | None, wanted: dict[str, Any], tell: Any) -> dict[str, int]:
    """Step by step, until there is no more."""
    done = {"seen": 0, "removed": 0}
    while True:
        step = ask_controller(state, config, "/trusts/flush", wanted)
        done = {name: number + step[name] for name, number in done.items()}
        if step["after"] is None:
            return done
        tell("wait", f"Trusts: {done['removed']} of {done['seen']} removed")
        wanted = {**wanted, "after": step["after"]}


def _instant(said: str) -> int:
    """The beginning of a day in microseconds since 1970 UTC. Raises ConfigurationError."""
    from regional_keystone.settings import ConfigurationError

    for form in _FORMS:
        try:
            return int(datetime.strptime(said, form).replace(tzinfo=UTC).timestamp()) * 1_000_000
        except ValueError:
            continue
    raise ConfigurationError(f"--date {said}: write a day as DD-MM-YYYY")
