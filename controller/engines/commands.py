"""`rkctl engines`: what of Cassandra, ZooKeeper, memcached and HAProxy is on this machine, and getting the rest."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="Cassandra, ZooKeeper, memcached and HAProxy on this machine, for `rkctl up --engines` and for tests.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def check(as_json: AsJson = False) -> None:
    """Tell which engines can be started here. Exit code 1 when one cannot.

    Example: rkctl engines check --json
    """
    raise SystemExit(_tell(as_json=as_json))


@app.command()
def install(
    as_json: AsJson = False,
    if_allowed: Annotated[
        bool, typer.Option("--if-allowed", help="Only as root or in CI; otherwise tell what is missing, exit code 0.")
    ] = False,
) -> None:
    """Install what is missing: packages by apt-get as root, the jars of Cassandra by Maven. Safe to repeat.

    Exit code 1 when something is still missing.

    Example: sudo rkctl engines install
    """
    from controller.display import Display, console
    from controller.engines import install as installation
    from controller.engines.process import EngineError

    if if_allowed and not installation.may_install():
        _tell(as_json=as_json)
        return
    with Display(console(stderr=True)) as display:
        try:
            installation.install(display.tell)
        except EngineError as error:
            display.tell("fail", str(error))
            raise SystemExit(error.exit_code) from None
    raise SystemExit(_tell(as_json=as_json))


def _tell(*, as_json: bool) -> int:
    """Show what there is; 1 when something is missing."""
    from controller.display import console, table
    from controller.engines import install as installation

    lacking = installation.missing()
    if as_json:
        found = {one: {"ready": one not in lacking, "missing": lacking.get(one, [])} for one in installation.ENGINES}
        print(json.dumps({"engines": found, "cure": installation.COMMAND if lacking else None}))
        return int(bool(lacking))
    rows = [
        (one, "missing" if one in lacking else "ready", ", ".join(lacking.get(one, [])) or None)
        for one in installation.ENGINES
    ]
    console().print(table(("engine", "state", "lacks"), rows))
    if lacking:
        print(f"`{installation.COMMAND}` installs what is missing", file=sys.stderr)
    return int(bool(lacking))
