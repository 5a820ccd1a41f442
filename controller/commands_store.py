"""`rkctl store`: moving a federation's records from one kind of store to another."""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from controller.command_line import PLAIN, AsJson, errors

if TYPE_CHECKING:
    from controller.copying import Copied
    from controller.display import Display
    from controller.settings import Settings
    from regional_keystone.ports import Writer

app = typer.Typer(help="Where log and tables lie.", **PLAIN)


@app.callback()
def store() -> None:
    """Keep `copy` a command of its own."""


@app.command()
def copy(
    source: Annotated[
        Path, typer.Option("--from", help="A store's SQLite file, its directory, or a controller's INI file.")
    ],
    target: Annotated[Path, typer.Option("--to", help="The same of the new store; a file is made.")],
    as_json: AsJson = False,
) -> None:
    """Copy everything from one store to another: a snapshot, then the entries after it; positions, ids and keys stay.

    May be broken off and run again: it goes on. A running controller may go on writing to the source; end it and copy
    once more before one starts on the target. Exit code 1 when the stores differ at the end, 3 when the target is of
    another federation or may not be written to, which is found out before anything is.

    Example: rkctl store copy --from embedded.conf --to cassandra.conf
    """
    from controller.display import Display, console

    with errors(), Display(console(stderr=True)) as display:
        done, busy = asyncio.run(_copy(_place(source), _place(target), display))
        if busy:
            display.tell("warn", f"a controller still writes to {source}: end it and copy again before the move")
        said = (
            f"{done.rows} rows and {done.entries} entries copied; both stand at {done.position}, digest {done.digest}"
        )
        print(json.dumps(done._asdict()) if as_json else said)


class _Place(NamedTuple):
    """Where a store is: in this file, or, without one, in the cluster that the settings name."""

    file: Path | None
    settings: "Settings"
    state: Path


async def _copy(here: _Place, there: _Place, display: "Display") -> "tuple[Copied, bool]":
    from controller import copying
    from controller.federation import FederationError
    from regional_keystone import backends, logs
    from regional_keystone.errors import StoreRefused

    logs.configure(here.settings.default)
    if here.file and not here.file.exists():
        raise StoreRefused(f"{here.file} does not exist; name a controller's INI file, or the store's own file")
    if here.file and there.file and here.file.resolve() == there.file.resolve():
        raise StoreRefused(f"{here.file} is both the source and the target; name two stores")
    async with AsyncExitStack() as stack:
        stack.enter_context(backends.only_user(there.state))
        busy = False
        try:
            if here.state.resolve() != there.state.resolve():
                stack.enter_context(backends.only_user(here.state))
        except StoreRefused:
            busy = True
        opened = []
        for place in (here, there):
            store = await _open(place, repeat=place is there)
            stack.push_async_callback(store.close)
            opened.append(store)
        try:
            return await copying.copy(opened[0], opened[1], partial(_tell, display)), busy
        except copying.Differ as error:
            raise FederationError(str(error)) from None


def _tell(display: "Display", job: str, done: int, total: int | None) -> None:
    display.advance(f"Copying, {job}", done, total)


async def _open(place: _Place, *, repeat: bool) -> "Writer":
    from regional_keystone import backends

    if place.file:
        return await backends.open_store(place.file)
    return await backends.open_log(place.settings, backends.system_clock(), repeat=repeat, waits=False)


def _place(path: Path) -> _Place:
    """The store in this file or directory, or that of a controller with this INI file."""
    from controller.settings import Settings
    from regional_keystone import settings

    if path.is_dir() or path.suffix == ".db":
        file = path / "log.db" if path.is_dir() else path
        return _Place(file, settings.load(Settings, None, environ={}), file.parent)
    found = settings.load(Settings, path)
    state = found.site.state_dir
    return _Place(None if found.cassandra.contact_points else state / "log.db", found, state)
