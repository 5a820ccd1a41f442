"""HAProxy in the foreground, with a configuration that may change while it serves."""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from controller.engines.process import Engine, EngineError, Keeper, until

_CHECK_S = 30.0
_ANSWER_S = 0.5


class HAProxy(Engine):
    """Serves at `listens`, which the configuration must bind. The text is a whole configuration file.

    A master process reads it and restarts the worker; the admin socket is not opened.
    """

    def __init__(
        self, keeper: Keeper, program: Path, text: str, listens: Sequence[tuple[str, int]], name: str = "haproxy"
    ) -> None:
        super().__init__(keeper, name, listens[0][0])
        self.listens = list(listens)
        self.text = text
        self._program = program

    def command(self) -> list[str]:
        """Master and worker, both in the foreground. Raises EngineError for a configuration that it refuses."""
        self._write(self.text)
        return [str(self._program), "-W", "-db", "-f", str(self._file)]

    def reload(self, text: str, listens: Sequence[tuple[str, int]] | None = None) -> None:
        """Serve by another configuration; connections under way end in peace, and none is refused meanwhile."""
        self._write(text)
        self.text = text
        self.listens = list(listens or self.listens)
        before = self.workers()
        if self.process:
            self.process.signal(signal.SIGUSR2)
        until(lambda: bool(self.workers() - before) and self.answers(), "HAProxy to read its configuration again")

    def answers(self) -> bool:
        """Whether all ports take connections."""
        return all(_takes_connections(*one) for one in self.listens)

    @property
    def _file(self) -> Path:
        return self.folder / "haproxy.cfg"

    def _write(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(text)
        checked = subprocess.run(  # noqa: S603
            [self._program, "-c", "-f", new], capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
        if checked.returncode:
            raise EngineError(f"{self.name} refuses its configuration: {' '.join(checked.stderr.split())[:600]}", 2)
        new.replace(self._file)

    def workers(self) -> set[int]:
        """The processes that serve, by the master's word."""
        if self.process is None:
            return set()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return {int(one) for one in children.split()}
        return set()


def _takes_connections(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), _ANSWER_S):
        return True
    return False
