"""`rkctl user`: what a running controller knows of one user that no single route tells."""

import json
from typing import Annotated, Any

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors

app = typer.Typer(help="What can act for a user.", **PLAIN)


@app.callback()
def _group() -> None:
    """A group although it has one command."""


@app.command("show")
def user_show(
    name: Annotated[str, typer.Argument(help="The user's id or name.")],
    domain: Annotated[str, typer.Option(help="The domain's id or name, where several have a user of this name.")] = "",
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all by which somebody may act as a user: roles, trusts, credentials, and how the password is hashed.

    Example: rkctl user show admin --domain Default
    """
    from controller.display import console, table

    with errors():
        found = ask_controller(state, config, "/user/show", {"name": name, "domain": domain})
        if as_json:
            print(json.dumps(found))
            return
        plain = {name: value for name, value in found.items() if not isinstance(value, list)}
        console().print(table(("user", ""), [[name, _shown(value)] for name, value in plain.items()]))
        for part, rows in found.items():
            if isinstance(rows, list) and rows:
                console().print(table((part, *rows[0]), [["", *map(_shown, row.values())] for row in rows]))
        empty = [part for part, rows in found.items() if rows == []]
        if empty:
            print(f"none: {', '.join(empty)}")


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "-"
        case _:
            return str(value)
