"""What a process answers 200, in a file before the answer leaves: one that is killed right after takes nothing with it.

Until the journal of `purge` has it, some 70 ms later, which also survives a loss of power. So nothing here waits for a
disk, and each file is thrown away as a whole.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import structlog

from regional_keystone.journal import record, records
from regional_keystone.middleware_cache import Told, framed, unframed
from regional_keystone.ports import Clock

log = structlog.get_logger("purge")

_KEEP_S = 5.0  # at least so long, unless there is more than _MOST_BYTES of it, is what was answered in a file
_MOST_BYTES = 4 * 1024 * 1024
_SAY_AGAIN_S = 60.0
_SUFFIX = ".told"


class Ahead:
    """Two files of one life of process `number` of a place, written in turn. Never raises: the answer is right."""

    def __init__(self, directory: Path, number: int, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._name = f"{number}-{uuid.uuid4().hex}"
        self._part, self._bytes = 0, 0
        self._file: int | None = None
        self._began = self._said_at = float("-inf")

    def write(self, one: Told) -> None:
        """This is about to be answered."""
        content = record(framed((one,)))
        try:
            file, now = self._file, self._clock.ticks()
            if file is None or now - self._began > _KEEP_S or self._bytes > _MOST_BYTES:
                file = self._begin(now)
            self._bytes += len(content)
            if os.write(file, content) < len(content):  # what follows half a record cannot be read
                raise OSError("no room")
        except OSError as error:
            self._let_go()
            self._complain(error)

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()

    def _begin(self, now: float) -> int:
        self._let_go()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._part = 1 - self._part
        path = self._directory / f"{self._name}-{self._part}{_SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._began, self._bytes = now, 0
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _complain(self, error: OSError) -> None:
        if self._clock.ticks() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = self._clock.ticks()
            log.error("middleware_cache_not_written", why=error.strerror or str(error), cure="make room in state_dir")


def left(directory: Path, newer_than_s: float, number: int | None = None) -> Iterator[list[Told]]:
    """What processes have answered that are gone, all or those of this number, each that was not thrown away.

    Files that nobody has written to after `newer_than_s`, in seconds since 1970, are thrown away. Raises OSError.
    """
    for path in sorted(directory.glob(f"{'*' if number is None else number}-*{_SUFFIX}")):
        if path.stat().st_mtime <= newer_than_s:
            path.unlink()
            continue
        for content in records(path.read_bytes()):
            try:
                yield unframed(content)
            except ValueError:  # of another version
                continue
