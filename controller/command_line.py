"""What the commands of `rkctl` share: options, how a controller is asked, what went wrong as one line and a code."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True}

State = Annotated[Path, typer.Option("--state", help="Directory of the federation.", metavar="DIR")]
STATE = Path("federation")
ConfigFile = Annotated[Path | None, typer.Option("--config", help="INI file of the controller.", metavar="FILE")]
Sets = Annotated[list[str], typer.Option("--set", help="Overrides the file.", metavar="section.option=value")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def show(found: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Records as a table of these columns, or as JSON; without columns one record, whole."""
    from controller.display import console, table

    if as_json:
        print(json.dumps(found if columns else found[0]))
        return
    shown = columns or tuple(found[0])
    console().print(table(shown, [[_plain(one.get(name)) for name in shown] for one in found]))


def _plain(value: Any) -> Any:
    match value:
        case list():
            return ", ".join(map(str, value)) or "-"
        case dict():
            return ", ".join(f"{name}: {one}" for name, one in value.items())
        case _:
            return value


def ask_controller(
    state: Path, config: Path | None, target: str, body: dict[str, Any] | None = None, timeout_s: float = 120.0
) -> Any:
    """Ask the controller that is configured, else one of the federation in `state`: the first that is there."""
    from controller import ask
    from controller.federation import Home
    from regional_keystone import settings

    if config:
        from controller.settings import Settings

        return ask.admin(settings.load(Settings, config).site.state_dir / "admin.sock", target, body, timeout_s)
    first, *others = Home.at(state).admins
    for socket in (first, *others):
        with contextlib.suppress(ask.Absent):
            return ask.admin(socket, target, body, timeout_s)
    return ask.admin(first, target, body, timeout_s)  # nobody is there: the first one's absence is told


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """What went wrong as one line, and the exit code that belongs to it."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # rendering; a fault of ours is raised again
        sentence, code = verdict(error)
        if not sentence:
            raise
        print(f"rkctl: {sentence}", file=sys.stderr)
        raise SystemExit(code) from None


def verdict(error: Exception) -> tuple[str, int]:
    """The line and the code; an empty line for a fault of ours."""
    from controller import ask
    from controller.federation import FederationError
    from regional_keystone.errors import StoreRefused, Unavailable
    from regional_keystone.settings import ConfigurationError

    match error:
        case FederationError() | ConfigurationError():
            return str(error), error.exit_code
        case StoreRefused():
            return str(error), 3
        case Unavailable():
            return error.message, 1
        case ask.Unanswered() | ask.Refusal():
            return str(error), 1
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error), 1
        case _:
            return "", 1
