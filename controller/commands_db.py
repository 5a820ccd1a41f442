"""`rkctl db` and `rkctl doctor`: schema and roles in Cassandra, and whether what is configured can be relied on."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from controller.command_line import PLAIN, STATE, AsJson, ConfigFile, Sets, State, ask_controller, errors, show

if TYPE_CHECKING:
    from controller.db import Database

T = TypeVar("T")
_REPAIR_S = 3600.0  # one table of many rows, read at the pace that is set

app = typer.Typer(help="Schema and roles in Cassandra. Nothing is ever dropped.", **PLAIN)

SiteName = Annotated[str, typer.Argument(help="The region's name.", metavar="NAME")]
PasswordFile = Annotated[
    Path, typer.Option(help="File, mode 0600, with the role's password; made up if it is not there.", metavar="FILE")
]


@app.command()
def sync(
    back: Annotated[
        bool, typer.Option("--back", help="Give up what only a newer version keeps, to go back to this one.")
    ] = False,
    config: ConfigFile = None,
    set_: Sets = [],
    as_json: AsJson = False,
) -> None:
    """Make keyspace and tables, and add what this version needs. Safe to repeat, and from two places at once.

    What only an older or a newer version uses stays; exit code 3 when the schema is newer, or cannot be extended.

    Example: rkctl db sync --config controller.conf --set cassandra.username=rk_migration
    """

    async def work(opened: "Database") -> None:
        done = await opened.sync(back=back)
        changed = f"{len(done.made)} changes" if done.made else "nothing to do"
        print(json.dumps(done._asdict()) if as_json else f"{opened.keyspace} has schema {done.version}: {changed}")
        if misplaced := await opened.misplaced():
            print(misplaced, file=sys.stderr)

    _with_database(config, set_, work, make=True)


@app.command()
def version(config: ConfigFile = None, set_: Sets = [], as_json: AsJson = False) -> None:
    """Print the schema's version, and the one that this program makes. Exit code 1 when it is older.

    Example: rkctl db version --config controller.conf
    """

    async def work(opened: "Database") -> None:
        found = await opened.find()
        both = {"version": found.version, "expected": found.expected, "oldest": found.oldest}
        print(json.dumps(both) if as_json else f"{found.version or 'none'} (this program: {found.expected})")
        raise SystemExit(int(found.version is None or found.version < found.expected))

    _with_database(config, set_, work)


@app.command()
def status(config: ConfigFile = None, set_: Sets = [], as_json: AsJson = False) -> None:
    """Show nodes, replicas, versions, and what is other than this version wants.

    Example: rkctl db status --config controller.conf --json
    """
    from controller import db

    async def work(opened: "Database") -> None:
        found = await db.status(opened)
        if as_json:
            print(json.dumps(found))
            return
        show(found["nodes"], ("address", "data_centre", "rack", "up"), as_json=False)
        for name in ("keyspace", "replication", "version", "expected"):
            print(f"{name}: {_plain(found[name])}")
        _show_differences(found["differences"] + found["leftovers"])

    _with_database(config, set_, work)


@app.command()
def check(config: ConfigFile = None, set_: Sets = [], as_json: AsJson = False) -> None:
    """Compare schema and replicas with what this version and the file want. Exit code 1 when something is to be done.

    Example: rkctl db check --config controller.conf
    """

    async def work(opened: "Database") -> None:
        found, misplaced = await opened.find(), await opened.misplaced()
        differences, leftovers = ([one._asdict() for one in some] for some in (found.differences, found.leftovers))
        if as_json:
            told = {"differences": differences, "leftovers": leftovers, "unfilled": list(found.fills)}
            print(json.dumps({"current": found.is_current, **told, "replication": misplaced}))
        else:
            _show_differences(differences + leftovers)
            for name in found.fills:
                print(f"{name}: rows are missing from new tables; end all controllers before `rkctl db sync`")
            for name in found.unknown:
                print(f"{name}: a controller of this version would leave it out, and does not start")
            print("the schema is as it should be" if found.is_current else "run `rkctl db sync`")
            if misplaced:
                print(misplaced)
        raise SystemExit(int(not found.is_current or bool(misplaced)))

    _with_database(config, set_, work)


@app.command()
def site(
    name: SiteName,
    password_file: Annotated[
        Path | None, typer.Option(help="File, mode 0600, with the role's password; made up if it is not there.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="End what its role may do, after `rkctl region remove`; tables stay.")
    ] = False,
    config: ConfigFile = None,
    set_: Sets = [],
    as_json: AsJson = False,
) -> None:
    """Make the tables and the role of a site: it reads what is shared, and writes its own feed. Safe to repeat.

    Example: rkctl db site Oslo --password-file /run/secrets/rk_site_Oslo --config controller.conf
    """
    if remove == (password_file is not None):
        raise typer.BadParameter("give either --password-file or --remove")
    if password_file is None:
        _with_database(config, set_, lambda opened: _remove_site(opened, name, as_json=as_json))
        return
    from controller import db

    async def work(opened: "Database") -> None:
        role = await opened.add_site(name, db.password(password_file))
        _told_role(role, password_file, as_json=as_json)

    _with_database(config, set_, work)


async def _remove_site(opened: "Database", name: str, *, as_json: bool) -> None:
    done = await opened.remove_site(name)
    if as_json:
        print(json.dumps(done._asdict()))
        return
    print(f"{done.role} cannot log in any more and has no rights; {done.own_table} stays")
    if done.untaken:
        print(f"{done.own_table} has {done.untaken} entries that the log has not taken over", file=sys.stderr)


@app.command()
def forget(name: SiteName, config: ConfigFile = None, set_: Sets = [], as_json: AsJson = False) -> None:
    """Forget how far a site's data centre was complete, after its disks were lost: it then reads everything once.

    Stop the site's processes first. The controllers' role may do it. Every data centre has to be up.

    Example: rkctl db forget Oslo --config controller.conf
    """

    async def work(opened: "Database") -> None:
        position = await opened.forget(name)
        text = f"{name} was complete up to {position}; that is forgotten, and it reads everything at its next start"
        print(json.dumps({"name": name, "forgotten": position}) if as_json else text)

    _with_database(config, set_, work)


@app.command()
def roles(
    password_file: PasswordFile,
    migration: Annotated[bool, typer.Option("--migration", help="The role that changes schema and roles.")] = False,
    config: ConfigFile = None,
    set_: Sets = [],
    as_json: AsJson = False,
) -> None:
    """Make the controllers' role, which reads and writes but defines nothing, or with --migration the one that does.

    Example: rkctl db roles --password-file /run/secrets/rk_controller --config controller.conf
    """
    from controller import db, db_roles

    async def work(opened: "Database") -> None:
        add = opened.add_migration if migration else opened.add_controller
        await add(db.password(password_file))
        _told_role(db_roles.MIGRATION if migration else db_roles.CONTROLLER, password_file, as_json=as_json)

    _with_database(config, set_, work)


@app.command()
def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is wrong.")] = False,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the controller read all tables in Cassandra, and the log as far as it reaches, and put right what differs.

    However much that is: what it does by itself is limited. Exit code 1 when something is wrong and stays so.

    Example: rkctl db repair --dry-run --config controller.conf
    """
    from controller.display import Display, console

    with errors(), Display(console(stderr=True)) as display:
        done = _repair(state, config, display.tell, dry_run=dry_run)
        wrong = [one for one in done["found"] if not one["mended"]]
        if as_json:
            print(json.dumps(done))
        else:
            show(done["found"], ("table", "key", "how", "mended"), as_json=False)
            print(f"{done['rows']} rows and copies read, {len(done['found'])} wrong, {len(wrong)} stay so")
        raise SystemExit(int(bool(wrong)))


def _repair(state: Path, config: Path | None, tell: Any, *, dry_run: bool) -> dict[str, Any]:
    """Table by table, then the log stretch by stretch."""
    target = "/db/repair"
    done: dict[str, Any] = {"dry_run": dry_run, "rows": 0, "found": []}
    tables = ask_controller(state, config, target)["tables"]

    def step(what: str, **asked: Any) -> Any:
        tell("wait", f"{what}: {len(done['found'])} wrong so far")
        told = ask_controller(state, config, target, {**asked, "dry_run": dry_run}, _REPAIR_S)
        done["rows"] += told["rows"]
        known = {(one["table"], one["key"]) for one in done["found"] if not one["mended"]}
        done["found"] += [one for one in told["found"] if (one["table"], one["key"]) not in known]
        return told["next"]

    for place, table in enumerate(tables, 1):
        step(f"{table} ({place} of {len(tables)})", table=table)
    after: int | None = 0
    while after is not None:
        after = step(f"the log from {after}", after=after)
    return done


def doctor(
    config: ConfigFile = None,
    set_: Sets = [],
    as_json: AsJson = False,
    site: Annotated[bool, typer.Option("--site", help="The file is a site's, not a controller's.")] = False,
    service: Annotated[
        list[Path], typer.Option(help="Configuration of a service whose cache it should reach.", metavar="FILE")
    ] = [],
) -> None:
    """Look whether what is configured is there and can be relied on. Exit code 1 when a check fails.

    Example: rkctl doctor --config controller.conf

    Example: rkctl doctor --site --config site.conf --service /etc/nova/nova.conf
    """
    with errors():
        from controller import doctor as checks

        found = asyncio.run(checks.examine(_settings(config, set_, site=site), service))
        rows = [one._asdict() for one in found]
        failed = any(one.state == "FAIL" for one in found)
        if as_json:
            print(json.dumps({"healthy": not failed, "checks": rows}))
        else:
            show(rows, ("check", "state", "detail", "cure"), as_json=False)
        raise SystemExit(int(failed))


def _with_database(
    config: Path | None, sets: list[str], work: "Callable[[Database], Awaitable[None]]", *, make: bool = False
) -> None:
    from controller import db
    from controller.display import Display, console
    from regional_keystone import backends

    with errors(), Display(console(stderr=True)) as display:

        async def run() -> None:
            section = _settings(config, sets).cassandra
            tell = partial(display.tell, "wait")
            async with db.database(section, backends.system_clock(), tell, make=make) as opened:
                await work(opened)

        asyncio.run(run())


def _settings(config: Path | None, sets: list[str], *, site: bool = False) -> Any:
    from controller.settings import Settings
    from regional_keystone import settings

    return settings.load(settings.Settings if site else Settings, config, sets)


def _told_role(role: str, password_file: Path, *, as_json: bool) -> None:
    found = {"role": role, "password_file": str(password_file)}
    print(json.dumps(found) if as_json else f"{role} may log in; its password is in {password_file}")


def _show_differences(found: list[dict[str, Any]]) -> None:
    for one in found:
        cure = "" if one["cql"] or "not used" in one["what"] else " (no cure that keeps the data)"
        print(f"{one['table']}: {one['what']}{cure}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name or 'anywhere'}:{number}" for name, number in value.items())
    return "none" if value is None else str(value)
