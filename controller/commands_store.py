"""`rkctl store`: moving a federation's records from one kind of store to another."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.command_line import PLAIN, AsJson, errors

if TYPE_CHECKING:
    from controller.copying import Copied
    from controller.display import Display
    from controller.settings import Settings

app = typer.Typer(help="Where log and tables lie.", **PLAIN)


@app.callback()
def store() -> None:
    """Keep `copy` a command of its own."""


@app.command()
def copy(
    source: Annotated[Path, typer.Option("--from", help="A controller's INI file, or its log.db.", metavar="PATH")],
    target: Annotated[Path, typer.Option("--to", help="The same of the new store.", metavar="PATH")],
    as_json: AsJson = False,
) -> None:
    """Copy everything from one store to another: a snapshot, then the entries after it; positions, ids and keys stay.

    May be broken off and run again: it goes on. A running controller may go on writing to the source; end it and copy
    once more before one starts on the target. Exit code 1 when the stores differ at the end.

    Example: rkctl store copy --from embedded.conf --to cassandra.conf
    """
    from controller.display import Display, console

    with errors(), Display(console(stderr=True)) as display:
        done, busy = asyncio.run(_copy(source, target, display))
        if busy:
            display.tell("warn", f"a controller still writes to {source}: end it and copy again before the move")
        said = (
            f"{done.rows} rows and {done.entries} entries copied; both stand at {done.position}, digest {done.digest}"
        )
        print(json.dumps(done._asdict()) if as_json else said)


async def _copy(source: Path, target: Path, display: "Display") -> "tuple[Copied, bool]":
    from controller import copying
    from regional_keystone import backends
    from regional_keystone.errors import StoreRefused

    async with AsyncExitStack() as stack:
        here, there = _settings(source), _settings(target)
        stack.enter_context(backends.only_user(there.site.state_dir))
        busy = False
        try:
            if here.site.state_dir.resolve() != there.site.state_dir.resolve():
                stack.enter_context(backends.only_user(here.site.state_dir))
        except StoreRefused:
            busy = True
        opened = []
        for settings in (here, there):
            store = await backends.open_log(settings, backends.system_clock(), repeat=settings is there, waits=False)
            stack.push_async_callback(store.close)
            opened.append(store)
        return await copying.copy(opened[0], opened[1], lambda text: display.tell("wait", f"Copying: {text}")), busy


def _settings(path: Path) -> "Settings":
    """What a controller with this file, or with this store, is configured with."""
    from controller.settings import Settings
    from regional_keystone import settings

    if path.suffix == ".db":
        return settings.load(Settings, None, [f"site.state_dir={path.parent}"], {})
    return settings.load(Settings, path)
