"""Processes that end with us: a keeper that holds them, and what an engine's handle can do.

Nothing survives: the keeper ends its processes when its owner ends, and the kernel ends them when the keeper does.
"""

import abc
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from controller.display import Tell
from controller.engines import addresses, keeper
from controller.federation import FederationError

PREFIX = "regional-keystone-engines-"
_PATIENCE_S = 30.0
_PAUSE_S = 0.05
_SETTLED_S = 60.0
_TOLD_EACH_S = 10.0


class EngineError(FederationError):
    """An engine does not do what it is there for; names its log."""


def silent(_tone: str, _text: str) -> None:
    """Tells nobody."""


class Keeper:
    """Owns processes and, unless a directory is given, a new one that goes with them. Use as a context.

    Any thread may use it; the processes belong to none.
    """

    def __init__(self, directory: Path | None = None) -> None:
        sweep()
        self.directory = directory or Path(tempfile.mkdtemp(prefix=PREFIX))
        self.directory.mkdir(parents=True, exist_ok=True)
        if directory is None:
            self.directory.chmod(0o711)  # an engine that runs as another user reaches its own folder
        self._remove = directory is None
        self._subnet: addresses.Subnet | None = None
        self._turn = threading.Lock()
        self._program = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, argv: Sequence[str], folder: Path, *, user: str | None = None) -> "Process":
        """A new process in its folder; what it says goes to output.log there. Raises EngineError."""
        asked = {"argv": list(argv), "folder": str(folder), "log": str(folder / "output.log"), "user": user}
        answer = self._ask(asked)
        if "error" in answer:
            raise EngineError(f"{argv[0]} cannot be started: {answer['error']}")
        return Process(int(answer["pid"]), self)

    def reap(self, pid: int) -> int:
        """The exit code of a process that has ended."""
        return int(self._ask({"reap": pid})["code"])

    def close(self) -> None:
        """End all; returns when nothing is left."""
        if self._program.stdin:
            self._program.stdin.close()
        try:
            self._program.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
        if self._program.stdout:
            self._program.stdout.close()
        if self._remove:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _begin(self) -> subprocess.Popen[str]:
        """The keeper's process; it alone holds the lock on the directory and the claim on the addresses."""
        lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._subnet = subnet = self._claimed()
            return subprocess.Popen(  # noqa: S603
                [
                    sys.executable,
                    "-I",
                    "-S",
                    keeper.__file__,
                    str(self.directory),
                    "remove" if self._remove else "keep",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                pass_fds=(lock, subnet.claim.fileno()),
                start_new_session=True,
            )
        except BlockingIOError:
            raise EngineError(f"engines already run in {self.directory}", 5) from None
        finally:
            os.close(lock)
            if self._subnet:
                self._subnet.claim.close()

    def _claimed(self) -> addresses.Subnet:
        """Addresses; the same ones each time, because a cluster's data names them."""
        file = self.directory / "subnet"
        subnet = addresses.claim(file.read_text().strip() if file.exists() else None)
        file.write_text(subnet.prefix + "\n")
        return subnet

    def address(self, number: int) -> str:
        """The n-th address of the loopback that is ours, from 1 to 9."""
        if self._subnet is None:
            raise EngineError("no addresses")
        return self._subnet.address(number)

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            said, heard = self._program.stdin, self._program.stdout
            try:
                if said is None or heard is None:
                    raise BrokenPipeError
                said.write(json.dumps(asked) + "\n")
                answer: dict[str, Any] = json.loads(heard.readline())
            except (OSError, ValueError):
                raise EngineError("the engines' keeper has ended") from None
            return answer


def sweep() -> None:
    """Remove directories whose keeper and owner were killed at one moment."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _SETTLED_S or path.stat().st_uid != os.getuid():  # noqa: TID251
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


class Process:
    """One process that a keeper holds."""

    def __init__(self, pid: int, owner: Keeper) -> None:
        self.pid = pid
        self._owner = owner
        self._code: int | None = None
        self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        self._close()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; a stopped one runs."""
        return not self.wait(0)

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._code

    def wait(self, timeout_s: float) -> bool:
        """Whether it ends within this time."""
        if self._code is None and select.select([self._handle], [], [], timeout_s)[0]:
            self._code = self._owner.reap(self.pid)
            self._close()
        return self._code is not None

    def signal(self, number: signal.Signals, *, to_all: bool = False) -> None:
        """Send a signal, to_all: to its children as well; nothing to one that has ended."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if to_all else os.kill)(self.pid, number)  # not reaped, so the number is still its own

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@dataclass(eq=False)
class Engine(abc.ABC):
    """One server process at an address of its own, with a folder that outlives its restarts.

    `enter` is put before its command line, to start it elsewhere (in a network namespace).
    """

    keeper: Keeper
    name: str
    address: str
    enter: tuple[str, ...] = ()
    process: Process | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """Its configuration, data and logs."""
        return self.keeper.directory / self.name

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Write its configuration; the command line."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether it serves."""

    @property
    def user(self) -> str | None:
        """Whom it runs as, if not as we do."""
        return None

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended; a stopped one runs."""
        return self.process is not None and self.process.is_running

    @property
    def is_stopped(self) -> bool:
        """Whether it is held by `stop`."""
        return self.process is not None and self.process.is_stopped

    def start(self) -> None:
        """Begin it, with the data that it had; returns before it serves."""
        if not self.is_running:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.process = self.keeper.start([*self.enter, *self.command()], self.folder, user=self.user)

    def stop(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        until(lambda: self.is_stopped or not self.is_running, f"{self.name} to stop")

    def cont(self) -> None:
        """SIGCONT: it goes on."""
        self._signal(signal.SIGCONT)
        until(lambda: not self.is_stopped, f"{self.name} to go on")

    def kill(self) -> None:
        """SIGKILL; returns when it is gone. `start` begins it again with its data."""
        self._signal(signal.SIGKILL)
        if self.process and not self.process.wait(_PATIENCE_S):
            raise self.failure("it cannot be killed")

    def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        if self.process and not self.process.wait(_PATIENCE_S):
            self.kill()

    def await_ready(self, timeout_s: float = 60.0) -> None:
        """Until it serves. Raises EngineError when it has ended, or does not in this time."""
        await_all([self], silent, timeout_s)

    def failure(self, why: str) -> EngineError:
        """An error that tells what its log says last."""
        said = self.last_words()
        return EngineError(f"{self.name}: {why}{f': {said}' if said else ''} (log: {self.folder}/output.log)")

    def last_words(self) -> str:
        """The line of its log that says most about its end."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "output.log").read_text(errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[-300:]
        return ""

    def _signal(self, number: signal.Signals) -> None:
        if self.process:
            self.process.signal(number, to_all=True)


def await_all(engines: Sequence[Engine], tell: Tell, timeout_s: float, what: str = "") -> None:
    """Until each serves; tells how many do. Raises EngineError as soon as one has ended."""
    waiting, began, told = list(engines), time.monotonic(), (-1, 0.0)
    while waiting:
        for one in waiting:
            if not one.is_running:
                code = one.process.code if one.process else None
                raise one.failure(f"ended with {code} before it served")
        waiting = [one for one in waiting if not one.answers()]
        passed = time.monotonic() - began
        if waiting and (len(waiting) != told[0] or passed - told[1] >= _TOLD_EACH_S):
            told = (len(waiting), passed)
            there = f"{len(engines) - len(waiting)} of {len(engines)} there" if len(engines) > 1 else ""
            tell("wait", f"{what or engines[0].name}: waiting until it serves {there} ({passed:.0f} s)")
        if waiting and passed > timeout_s:
            raise waiting[0].failure(f"does not serve after {timeout_s:.0f} s")
        if waiting:
            time.sleep(_PAUSE_S)


def until(ask: Callable[[], bool], what: str, timeout_s: float = _PATIENCE_S) -> None:
    """Until something holds. Raises EngineError after this time."""
    end = time.monotonic() + timeout_s
    while not ask():
        if time.monotonic() > end:
            raise EngineError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_PAUSE_S)
