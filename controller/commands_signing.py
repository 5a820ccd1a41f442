"""`rkctl signing`: the key pairs of sites and controllers, and what each may sign tokens for."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, State, ask_controller, errors, show

app = typer.Typer(help="The key pairs that sign tokens with [token] provider = jws.", **PLAIN)

Name = Annotated[str, typer.Argument(help="The region's name, or a controller's as `rkctl signing status` shows it.")]


@app.command("status")
def signing_status(state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show every signing key: whose it is, its state and since when, whom it waits for, what its owner may sign for.

    Example: rkctl signing status --json
    """
    with errors():
        found = ask_controller(state, config, "/signing/status")
        if not found and not as_json:
            print("nobody has a signing key: set `[token] provider = jws` where tokens are to be signed")
            return
        shown = found if as_json else [{**key, "since (UTC)": _since(key)} for key in found]
        show(shown, ("owner", "id", "state", "since (UTC)", "waits_for", "domains", "system"), as_json=as_json)
        if not as_json:
            print(_told(ask_controller(state, config, "/signing/sealed")))


@app.command("rotate")
def signing_rotate(name: Name, state: State = STATE, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Ask a region to make itself a new signing key; it signs with it once every region holds the public half.

    Example: rkctl signing rotate Oslo
    """
    with errors():
        show([ask_controller(state, config, "/signing/rotate", {"name": name})], (), as_json=as_json)


@app.command("allow")
def signing_allow(
    name: Name,
    domains: Annotated[str | None, typer.Option(help="Ids of domains, parted by commas; *: any.")] = None,
    system: Annotated[bool | None, typer.Option("--system/--no-system", help="Tokens of the system.")] = None,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a region may sign tokens for; what goes beyond it is worth nothing anywhere. The rest stays as it was.

    Example: rkctl signing allow Oslo --domains 8f2c1e,default --no-system
    """
    if domains is not None and not domains.strip():
        raise typer.BadParameter("--domains names none; say their ids, or * for any")
    with errors():
        wanted = {"name": name, "domains": None if domains is None else domains.split(","), "system": system}
        show([ask_controller(state, config, "/signing/allow", wanted)], (), as_json=as_json)


@app.command("sealed")
def signing_sealed(
    refuse: Annotated[bool | None, typer.Option("--refuse/--read", help="Refuse them, or read them again.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Also those that may still be shown: they end.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say whether tokens that are sealed with the shared keys are refused everywhere; without an option, show it.

    Once every region signs its tokens, nobody needs them any more but a thief of the keys. It is refused while a region
    still seals, or what one has sealed may still be shown.

    Example: rkctl signing sealed --refuse
    """
    if now and not refuse:
        raise typer.BadParameter("--now is for --refuse")
    with errors():
        asked = None if refuse is None else {"refuse": refuse, "now": now}
        told = ask_controller(state, config, "/signing/sealed", asked)
        if as_json:
            show([told], (), as_json=True)
            return
        print(_told(told))


def _told(told: dict[str, Any]) -> str:
    """In a line what is known of sealed tokens."""
    said = "Sealed tokens are refused" if told["refused"] else "Sealed tokens are read"
    if told["waits_for"]:
        return f"{said}, which these have not heard of yet: {', '.join(told['waits_for'])}"
    if told["refused"] or not told["seal"]:
        return f"{said} everywhere"
    return f"{said}; not known to sign: {', '.join(told['seal'])}"


def _since(key: Mapping[str, Any]) -> str:
    """When the key came into its state."""
    named = {"condemned": "condemned_at", "offered": "offered_at", "in use": "signs_from", "ceased": "ceased_at"}
    at = key.get(named.get(key["state"], ""))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at / 1_000_000)) if at else "-"
