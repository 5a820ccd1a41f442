"""`rkctl authority`: the keys with which a federation vouches for what it sends to its sites."""

from typing import Annotated

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors, show

app = typer.Typer(help="Who signs what controllers send to sites.", **PLAIN)


@app.command("status")
def authority_status(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show who signs bundles of keys and which CAs count, what comes next, and which sites have not acknowledged that.

    Example: rkctl authority status --json
    """
    with errors():
        show([ask_controller(state, config, "/authority/status")], (), as_json=as_json)


@app.command("rotate")
def authority_rotate(
    ca: Annotated[bool, typer.Option("--ca", help="Turn the CA instead, by the next of its three steps.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell whom it would wait for.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign bundles of keys with the spare key once every site knows it, and end the old one; 1 while a site does not.

    No site is started anew. Broken off, it goes on where it stood when it is asked again. With --ca each step says what
    is to be done before the next one: its files copied to all controllers, and these started anew.

    Example: rkctl authority rotate --dry-run
    """
    with errors():
        show([ask_controller(state, config, "/authority/rotate", {"ca": ca, "dry_run": dry_run})], (), as_json=as_json)


@app.command("spare")
def authority_spare(
    ca: Annotated[bool, typer.Option("--ca", help="A spare CA, which sites trust and nobody issues with.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """See to it that a spare key is there and every site knows it, so that a turn in a hurry waits for nobody.

    Safe to repeat: what is there already stays. It says which file to copy to the other controllers.

    Example: rkctl authority spare
    """
    with errors():
        show([ask_controller(state, config, "/authority/spare", {"ca": ca})], (), as_json=as_json)
