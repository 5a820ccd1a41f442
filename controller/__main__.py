"""The operators' command `rkctl`. Only what reads the command line is imported here; the rest when it is needed."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, Sets, State, ask_controller, errors, verdict
from controller.commands_authority import app as authority
from controller.commands_compromised import compromised, confirm
from controller.commands_db import app as db
from controller.commands_db import doctor
from controller.commands_keys import credential, keys, verbs
from controller.commands_policy import app as policy
from controller.commands_region import region
from controller.commands_signing import app as signing
from controller.commands_store import app as store
from controller.commands_trusts import app as trusts
from controller.commands_user import app as user
from controller.engines.commands import app as engines

if TYPE_CHECKING:
    from controller.federation import Home
    from controller.launch import Options

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 state refused (rights, damage, newer version),"
    " 4 port taken, 5 a federation already runs there, 6 keys condemned, but not refused at every site yet,"
    " 7 keys turned, but not acknowledged by every site yet."
)
app = typer.Typer(
    help=f"Controls a federation of identity services.\n\n{EXIT_CODES}", pretty_exceptions_enable=False, **PLAIN
)
config = typer.Typer(help="Settings: what holds, and what there is.", **PLAIN)
app.add_typer(region, name="region")
keys.command("compromised")(compromised)
keys.command("confirm")(confirm)
app.add_typer(keys, name="keys")
app.add_typer(credential, name="credential")
app.add_typer(signing, name="signing")
app.add_typer(authority, name="authority")
app.add_typer(config, name="config")
app.add_typer(policy, name="policy")
app.add_typer(trusts, name="trusts")
app.add_typer(user, name="user")
app.add_typer(engines, name="engines")
app.add_typer(store, name="store")
app.add_typer(db, name="db")
app.add_typer(verbs)
app.command()(doctor)

Fd = Annotated[int | None, typer.Option(hidden=True)]
Port = Annotated[int | None, typer.Option(help="The controller's public port; the others follow.", min=1, max=65535)]
Sites = Annotated[str, typer.Option(help="Names of the regions, by comma.", metavar="A,B,C")]
Engines = Annotated[bool, typer.Option("--engines", help="On Cassandra, memcached and ZooKeeper, two controllers.")]


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return once all serve.")] = False,
    state: State = STATE,
    port: Port = None,
    sites: Sites = "",
    engines: Engines = False,
    set_: Sets = [],
    as_json: AsJson = False,
    ready_fd: Fd = None,
    parent_fd: Fd = None,
) -> None:
    """Start a controller and its sites on this machine, or go on with those in DIR, as they were set there.

    Where a federation already runs, start again those of its processes that have ended.

    Example: rkctl up --detach --state ./federation --sites RegionOne,RegionTwo
    """
    with errors():
        options = _options(state, port, sites, set_, engines=engines)
        if ready_fd is not None:
            _up_for_launcher(options, ready_fd, parent_fd)
        elif options.home.holder():
            _check_told(options)
            _revive(options.home, as_json=as_json)
        elif detach:
            _up_detached(options, as_json=as_json)
        else:
            _up_here(options, as_json=as_json)


@app.command()
def down(state: State = STATE, as_json: AsJson = False) -> None:
    """End every process of the federation; its data stays.

    Example: rkctl down --state ./federation
    """
    with errors():
        from controller import ask
        from controller.federation import Home

        home = Home.at(state)
        supervisor = home.holder()
        found = {"state": str(home.directory), "ended": bool(supervisor)}
        if not supervisor:
            print(json.dumps(found) if as_json else f"nothing runs in {home.directory}")
            return
        with contextlib.suppress(ask.Unanswered):
            ask.control(home.control, command="stop")
        _await_end(supervisor)
        again = f"rkctl up --state {state}" + (" --engines" if home.began_on_engines() else "")
        print(json.dumps(found) if as_json else f"ended; `{again}` goes on with the data")


@app.command()
def status(
    state: State = STATE,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew each second.")] = False,
) -> None:
    """Tell how each process fares. Exit code 1 when none answers.

    Example: rkctl status --json --state ./federation
    """
    with errors():
        from controller import federation

        members = federation.Home.at(state).members()
        while True:
            found = federation.status(members)
            print(json.dumps(found, indent=1)) if as_json else _show_status(found)
            if not watch:
                break
            time.sleep(1)
        everyone = [*found["controllers"], *found["sites"]]
        raise SystemExit(int(all(one["state"] == "down" for one in everyone)))


@app.command()
def tour(
    once: Annotated[bool, typer.Option("--once", help="End the federation after the tour.")] = False,
    state: State = STATE,
    port: Port = None,
    sites: Sites = "",
    engines: Engines = False,
    set_: Sets = [],
) -> None:
    """Show on a real federation what it promises, with measured figures; exit code 1 when a promise is broken.

    Starts the federation unless it runs already, and ends the one that it started.

    Example: rkctl tour --once --state ./federation
    """
    with errors():
        options = _options(state, port, sites, set_, engines=engines)
        if options.home.holder():
            _check_told(options)
            raise SystemExit(_tour(options.home))
        raise SystemExit(_up_and_tour(options, once=once))


@app.command()
def serve(
    config: ConfigFile = None,
    set_: Sets = [],
    ready_fd: Fd = None,
    parent_fd: Fd = None,
) -> None:
    """Be a controller until SIGTERM.

    Example: rkctl serve --config /etc/regional-keystone/controller.conf
    """
    from regional_keystone import settings
    from regional_keystone.__main__ import refusals, run

    with refusals():
        from controller.settings import Settings

        found = settings.load(Settings, config, set_)
        from controller import serving

        run(lambda ready: serving.serve(found, ready), ready_fd, parent_fd)


@app.command()
def bootstrap(
    password_file: Annotated[Path, typer.Option(help="File, mode 0600, with the first administrator's password.")],
    username: Annotated[str, typer.Option(help="The first administrator.")] = "admin",
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the first domain, administrator, roles and catalog in a running controller. Safe to repeat.

    Example: rkctl bootstrap --password-file /run/secrets/admin --config /etc/regional-keystone/controller.conf
    """
    with errors():
        from regional_keystone import secret_file

        body = {"username": username, "password": secret_file.read(password_file, "password")}
        ask_controller(state, config, "/bootstrap", body)
        print(json.dumps({"username": username}) if as_json else f"{username} is there")


@config.command("check")
def config_check(
    file: Annotated[Path | None, typer.Argument(help="INI file.")] = None,
    set_: Sets = [],
    site: Annotated[bool, typer.Option("--site", help="It is a site's, not a controller's.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the effective settings, or what is wrong with them; a site's file needs --site.

    Example: rkctl config check --site /etc/regional-keystone/region.conf
    """
    with errors():
        from controller.settings import checked
        from regional_keystone import settings

        found = checked(file, set_, site=site)
        print(json.dumps(settings.plain(found)) if as_json else settings.effective(found))


@config.command("sample")
def config_sample(
    site: Annotated[bool, typer.Option("--site", help="A site's, not a controller's.")] = False,
) -> None:
    """Print every option with its default.

    Example: rkctl config sample --site > region.conf
    """
    from regional_keystone import settings

    print(settings.sample(_kind(site=site), "A site" if site else "A controller"), end="")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version.

    Example: rkctl version
    """
    from regional_keystone import __version__

    print(json.dumps({"version": __version__}) if as_json else __version__)


def _options(state: Path, port: int | None, sites: str, sets: list[str], *, engines: bool) -> "Options":
    from controller.federation import Home, check_name, settled
    from controller.launch import Options
    from controller.settings import Settings
    from regional_keystone import settings

    settings.load(Settings, None, sets)  # refuses what nobody knows before anything starts
    names = tuple(dict.fromkeys(name.strip() for name in sites.split(",") if name.strip()))
    for name in names:
        check_name(name)
    return Options(Home.at(state), port, names, settled(sets), engines)


def _up_here(options: "Options", *, as_json: bool) -> None:
    from controller.display import Display, console
    from controller.up import supervise

    with Display(console(stderr=as_json)) as display:

        def ready(first: bool) -> None:
            _announce(options.home, first=first, as_json=as_json)
            display.console.print("Ctrl-C ends all.")

        asyncio.run(supervise(options, display.tell, ready))


def _up_detached(options: "Options", *, as_json: bool) -> None:
    from controller.display import Display, console
    from controller.launch import launch

    with Display(console(stderr=as_json)) as display:
        launched = launch(options, display.tell, detach=True)
        _announce(options.home, first=launched.first, as_json=as_json)
        display.console.print(f"`rkctl down --state {options.home.directory}` ends all.")


def _up_for_launcher(options: "Options", ready_fd: int, parent_fd: int | None) -> None:
    from controller.launch import PipeTell
    from controller.up import supervise

    pipe = PipeTell(ready_fd)
    try:
        asyncio.run(supervise(options, pipe.tell, pipe.ready, parent_fd))
    except Exception as error:  # whatever it is, whoever started us is told, and it ends us
        pipe.failed(*verdict(error))
        raise


def _check_told(options: "Options") -> None:
    """Raise FederationError, before anything is done, for what a federation that runs was not started with."""
    from controller import ask
    from controller.federation import FederationError

    home = options.home
    told = ask.control(home.control, command="told")
    other = [one for one in options.sets if one not in told["sets"]]
    if options.sites and set(options.sites) != set(told["sites"]):
        other.append(f"--sites (it has {','.join(told['sites'])})")
    if options.engines and not told["engines"]:
        other.append("--engines")
    if options.port not in {None, home.members()[0].port}:
        other.append(f"--port (it has {home.members()[0].port})")
    if other:
        cure = f"`rkctl down --state {home.directory}`, then `rkctl up` with it"
        raise FederationError(
            f"the federation that runs in {home.directory} has other than {', '.join(other)}: {cure}", 5
        )


def _revive(home: "Home", *, as_json: bool) -> None:
    from controller import ask
    from controller.federation import FederationError

    revived = ask.control(home.control, command="revive")["revived"]
    if not revived:
        cure = f"`rkctl status --state {home.directory}` shows it, `rkctl down` ends it"
        raise FederationError(f"a federation already runs in {home.directory} (process {home.holder()}); {cure}", 5)
    print(json.dumps({"revived": revived}) if as_json else f"revived {', '.join(revived)}; all serve")


def _tour(home: "Home") -> int:
    from controller.display import console
    from controller.tour import show

    return show(home, console())


def _up_and_tour(options: "Options", *, once: bool) -> int:
    from controller.display import Display, console
    from controller.launch import launch

    with Display(console()) as display:
        launched = launch(options, display.tell, detach=False)
        try:
            _announce(options.home, first=launched.first)
            code = _tour(options.home)
            if not once:
                display.console.print("The federation stays up; Ctrl-C ends it.")
                launched.process.wait()
        except KeyboardInterrupt:
            code = 0 if not once else 1
        finally:
            display.tell("wait", "Waiting until every process has ended")
            launched.end()
            display.tell("done", "Every process has ended")
    return code


def _announce(home: "Home", *, first: bool, as_json: bool = False) -> None:
    from controller.display import console, table

    if as_json:
        print(json.dumps(_announced(home, first=first)), flush=True)
        return
    target, members = console(), home.members()
    rows = [(one.name, one.region, one.url, f"http://127.0.0.1:{one.admin}/metrics") for one in members]
    target.print(table(("process", "region", "Identity API", "metrics"), rows))
    if first:
        target.print(f"administrator: admin, password: {home.password()}   (shown once; kept in {home.openrc})")
    target.print(f"next: . {home.openrc} && openstack token issue", soft_wrap=True)


def _announced(home: "Home", *, first: bool) -> dict[str, Any]:
    processes = [
        {"name": one.name, "region": one.region, "url": one.url, "metrics": f"http://127.0.0.1:{one.admin}/metrics"}
        for one in home.members()
    ]
    once = {"password": home.password()} if first else {}
    return {"processes": processes, "administrator": "admin", **once, "openrc": str(home.openrc)}


def _await_end(supervisor: int) -> None:
    """Until the process has ended; one that does not within half a minute is killed, and its children with it."""
    import os
    import select
    import signal

    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(supervisor)
        try:
            if not select.select([handle], [], [], 30)[0]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], 5)
        finally:
            os.close(handle)


def _show_status(found: dict[str, Any]) -> None:
    from controller.display import console, table

    columns = ("name", "state", "url", "position", "lag_entries", "age_s", "ring_epoch")
    everyone = (*found["controllers"], *found["sites"])
    console().print(table(columns, [[one.get(name) for name in columns] for one in everyone]))
    for one in everyone:
        for said in ("detail", "too_old_for", "set_aside", "drift"):
            if said in one:
                console().print(f"{one['name']}: {_said(said, one[said])}", soft_wrap=True)
    for one in found["controller"].get("deletions", ()):
        what = f"{one['of']} goes in steps since {one['began_at']}, {one['removed']} rows so far"
        console().print(what, soft_wrap=True)


def _said(what: str, told: Any) -> str:
    return f"knows too little to decide about {', '.join(told)} tokens" if what == "too_old_for" else str(told)


def _kind(*, site: bool) -> Any:
    from controller.settings import Settings
    from regional_keystone import settings

    return settings.Settings if site else Settings


def main() -> None:
    """Entry point of `rkctl`."""
    app()


if __name__ == "__main__":
    main()
