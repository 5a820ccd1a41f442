"""The command line of a site: read settings, wire, serve; and how any server process of ours begins and ends."""

import asyncio
import contextlib
import ctypes
import errno
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from regional_keystone import settings as configuration
from regional_keystone.hardening import harden

OK, FAILED, MISCONFIGURED, REFUSED, PORT_TAKEN = range(5)
"""Exit codes of every server process."""

Ready = Callable[[], None]
Serve = Callable[[Ready], Coroutine[None, None, None]]

app = typer.Typer(
    help="A site of a federation: validates and issues tokens from its own replica.\n\n"
    "Exit codes: 0 ended when asked, 1 failed, 2 configuration, 3 state refused, 4 port taken.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
ConfigFile = Annotated[Path | None, typer.Option("--config", help="INI file.", metavar="FILE")]
Sets = Annotated[list[str], typer.Option("--set", help="Overrides the file.", metavar="section.option=value")]
ReadyFd = Annotated[int | None, typer.Option(help="Descriptor to write one line to when serving.", hidden=True)]
ParentFd = Annotated[int | None, typer.Option(help="Descriptor whose end is ours too.", hidden=True)]


@app.callback()
def common(context: typer.Context, config: ConfigFile = None, set_: Sets = []) -> None:
    """Read where the settings are."""
    context.obj = (config, set_)


@app.command()
def serve(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Print the effective settings and end.")] = False,
    ready_fd: ReadyFd = None,
    parent_fd: ParentFd = None,
) -> None:
    """Serve until SIGTERM.

    Example: regional-keystone --config /etc/regional-keystone/region.conf serve
    """
    config, sets = context.obj
    with refusals():
        settings = configuration.load(configuration.Settings, config, sets)
        if check:
            print(configuration.effective(settings))
            return
        from regional_keystone import site

        told = ["--config", str(config)] if config else []
        told += [word for one in sets for word in ("--set", one)]
        run(lambda ready: site.serve(settings, ready, told), ready_fd, parent_fd)


@app.command()
def panic(
    context: typer.Context,
    key: Annotated[str, typer.Option("--key", help="The id of one key.", metavar="ID")] = "",
    all_: Annotated[bool, typer.Option("--all", help="All keys that tokens are sealed or signed with.")] = False,
    why: Annotated[str, typer.Option("--why", help="For the record in the log.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Refuse here, at once and for good, what stolen keys have sealed; without a controller, which learns it later.

    For the user of the running site, on its machine. With a controller `rkctl keys compromised` reaches every site.

    Example: regional-keystone --config /etc/regional-keystone/region.conf panic --key 0f3c52a9d1b84e67
    """
    config, sets = context.obj
    with refusals():
        settings = configuration.load(configuration.Settings, config, sets)
        from regional_keystone import operator_socket

        socket_ = settings.site.state_dir / operator_socket.NAME
        try:
            _show_keys(operator_socket.ask(socket_, "/keys"), quiet=as_json)
            if bool(key) == all_:
                print("say which key, by --key ID, or all of them, by --all", file=sys.stderr)
                raise SystemExit(MISCONFIGURED)
            if not yes:
                typer.confirm("Condemn, for good?", err=True, abort=True)
            told = operator_socket.ask(socket_, "/panic", {"key": key, "all": all_, "why": why})
        except operator_socket.Refusal as refusal:
            print(refusal, file=sys.stderr)
            raise SystemExit(FAILED) from None
        print(json.dumps(told)) if as_json else _show_panic(told)


def _show_keys(told: dict[str, Any], *, quiet: bool) -> None:
    if not quiet:
        for one in told["keys"]:
            live = one.get("live_tokens")  # a site that still runs the former version does not say
            cost = f", under it about {live} live tokens from here" if live else ""
            print(f"{one['id']}  {one['ring']}{'  condemned' if one['condemned'] else ''}{cost}", file=sys.stderr)


def _show_panic(told: dict[str, Any]) -> None:
    print(f"refused at {told['site']} from now on: {', '.join(told['condemned']) or 'nothing that was not before'}")
    if not told["issues_tokens"]:
        print("no key is left to seal with: no token is issued here until a controller has sent a new ring")


@app.command(hidden=True)
def worker(
    context: typer.Context,
    number: Annotated[int, typer.Option(help="Which one.")],
    leader_fd: Annotated[int, typer.Option(help="Descriptor of a socket to the process that started this one.")],
) -> None:
    """Answer beside the process that started this one, for as long as it lives."""
    config, sets = context.obj
    with refusals():
        settings = configuration.load(configuration.Settings, config, sets)
        from regional_keystone import worker

        die_with_parent()
        if _has_ended(leader_fd):  # before that was asked for
            raise SystemExit(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the leader's to pass on
        run(lambda _: worker.serve(settings, number, leader_fd), None, None, (signal.SIGTERM,))


def run(
    serve: Serve,
    ready_fd: int | None,
    parent_fd: int | None,
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Serve until one of these signals or the end of the parent; on uvloop where it is installed."""
    harden()
    if parent_fd is not None:
        die_with_parent()
    notify = os.environ.pop("NOTIFY_SOCKET", "")  # meant for this process, for no child of it
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_ended(serve, ready_fd, parent_fd, notify, signals))


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What an operator has to mend becomes one line and an exit code; all else stays a traceback."""
    try:
        yield
    except Exception as error:  # rendering; what is not ours is raised again
        code = _code(_first(error))
        if code is None:
            raise
        print(_sentence(_first(error)), file=sys.stderr)
        raise SystemExit(code) from None


async def _until_ended(
    serve: Serve, ready_fd: int | None, parent_fd: int | None, notify: str, signals: tuple[signal.Signals, ...]
) -> None:
    def ready() -> None:
        set_heap_aside()
        _tell_ready(ready_fd)
        tell_service_manager(notify, "READY=1")

    def end() -> None:
        tell_service_manager(notify, "STOPPING=1")
        task.cancel()

    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(serve(ready))

    def parent_ended() -> None:
        loop.remove_reader(parent_fd or 0)
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, end)
    if parent_fd is not None:
        loop.add_reader(parent_fd, parent_ended)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def set_heap_aside() -> None:
    """Let no collection look again at what starting has left in memory, which stays: all else waits for each."""
    gc.collect()
    gc.freeze()


def _tell_ready(ready_fd: int | None) -> None:
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w") as pipe:
            pipe.write(json.dumps({"ready": True, "pid": os.getpid()}) + "\n")


def tell_service_manager(address: str, state: str) -> None:
    """Send `READY=1` or `STOPPING=1` to NOTIFY_SOCKET, `@` being an abstract one; who is not there hears nothing.

    Source: sd_notify(3).
    """
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
        service_manager.setblocking(False)
        service_manager.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def die_with_parent() -> None:
    """SIGKILL for us when the parent dies, also while we are stopped. Linux only; the pipe remains elsewhere."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _has_ended(leader_fd: int) -> bool:
    """Whether nobody is at the other end of this socket any more."""
    with socket.socket(fileno=os.dup(leader_fd)) as end, contextlib.suppress(BlockingIOError):
        return not end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _first(error: BaseException) -> BaseException:
    """The error itself, out of the groups that tasks put around it."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _code(error: BaseException) -> int | None:
    from regional_keystone.errors import StoreRefused, Unavailable
    from regional_keystone.key_files import KeyRepositoryError

    match error:
        case configuration.ConfigurationError():
            return MISCONFIGURED
        case StoreRefused() | KeyRepositoryError() | PermissionError():
            return REFUSED
        case OSError(errno=errno.EADDRINUSE):
            return PORT_TAKEN
        case Unavailable():
            return FAILED
        case _:
            return None


def _sentence(error: BaseException) -> str:
    match error:
        case PermissionError():
            return f"{error.filename}: {error.strerror}; the user who runs this must own the state directory"
        case OSError(errno=errno.EADDRINUSE):
            return f"{error.strerror}; end the program that has the port, or name another one"
        case _:
            return " ".join(str(error).split())


def main() -> None:
    """Entry point of `regional-keystone`."""
    app()


if __name__ == "__main__":
    main()
