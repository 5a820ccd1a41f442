"""Starts a supervisor as a process of its own, and passes on what it tells until all serve."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from controller.display import Tell, Tone
from controller.federation import FederationError, Home
from regional_keystone.record import Json


@dataclass(frozen=True, slots=True)
class Options:
    """What `rkctl up` was told."""

    home: Home
    port: int | None = None
    sites: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    engines: bool = False

    def arguments(self) -> list[str]:
        """The same as a command line."""
        told = ["--state", str(self.home.directory)]
        told += ["--port", str(self.port)] if self.port else []
        told += ["--sites", ",".join(self.sites)] if self.sites else []
        told += ["--engines"] if self.engines else []
        return told + [word for one in self.sets for word in ("--set", one)]


@dataclass(slots=True)
class Launched:
    """A supervisor in a process of its own. `first`: whether it made the federation."""

    process: subprocess.Popen[bytes]
    first: bool
    life: int | None

    def end(self) -> None:
        """End it and wait until all is gone."""
        if self.life is not None:
            os.close(self.life)
            self.life = None
        self.process.wait()


def launch(options: Options, tell: Tell, *, detach: bool) -> Launched:
    """Start a supervisor and wait until all serve; without `detach` it ends when we do. Raises FederationError."""
    os.umask(0o077)
    options.home.prepare()
    ready, tell_ready = os.pipe()
    watched, life = (None, None) if detach else os.pipe()
    pipes = ["--ready-fd", str(tell_ready)] + ([] if watched is None else ["--parent-fd", str(watched)])
    with options.home.log("up").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "controller", "up", *options.arguments(), *pipes],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[fd for fd in (tell_ready, watched) if fd is not None],
            start_new_session=True,
        )
    for fd in (tell_ready, watched):
        if fd is not None:
            os.close(fd)
    launched = Launched(process, first=False, life=life)
    try:
        launched.first = _follow(ready, tell)
    except BaseException:
        process.terminate()
        launched.end()
        raise
    return launched


def _follow(ready: int, tell: Tell) -> bool:
    """Pass on what a supervisor tells, until it is ready or has failed."""
    with os.fdopen(ready) as lines:
        for line in lines:
            match json.loads(line):
                case {"ready": first}:
                    return bool(first)
                case {"error": sentence, "code": code}:
                    raise FederationError(sentence, code)
                case {"tone": tone, "text": text}:
                    tell(tone, text)
                case _:
                    pass
    raise FederationError("the supervisor ended without a word; see logs/up.log in the state directory")


class PipeTell:
    """Tells a launcher through a pipe until it is ready, then the log."""

    def __init__(self, pipe: int) -> None:
        self._pipe = os.fdopen(pipe, "w", buffering=1)

    def tell(self, tone: Tone, text: str) -> None:
        """Pass on one event."""
        print(f"{tone}: {text}", flush=True)
        self._send({"tone": tone, "text": text})

    def ready(self, first: bool) -> None:
        """All serve."""
        self._send({"ready": first})
        self._pipe.close()

    def failed(self, sentence: str, code: int) -> None:
        """It cannot be."""
        self._send({"error": sentence, "code": code})

    def _send(self, message: Json) -> None:
        if not self._pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                self._pipe.write(json.dumps(message) + "\n")
