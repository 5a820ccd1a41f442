"""When the processes of a site issued a token last, in a file that outlives them to the second.

A revocation that comes late must reach whatever an earlier life issued behind it. For whom that was is not known any
more; until when has to be: each second too many ends tokens that others issued to the same user meanwhile.
What is written is in the kernel's hands at once, so a killed process loses nothing; a machine that went down may, and
then what was noted of its life counts (`sealing.Noted`).
"""

import os
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import TypeVar

import structlog

from regional_keystone import durable

T = TypeVar("T")

log = structlog.get_logger("last_issue")

LAST_ISSUE = "last-issue"
"""The file's name, in a site's directory."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES = 64
_SLOTS = 256  # processes of one site, by their number
_INSTANT = Struct(">q")
_ALL = Struct(f">{_SLOTS}q")


class LastIssue:
    """One process' place in the file at `path`: the first process of a site makes it, those beside it find it there.

    A file that says nothing of this machine's life is made again. Where it can neither be written nor taken away, what
    it says may be too early for a later life; that is logged.
    """

    def __init__(self, path: Path, number: int = 0, otherwise: int | None = None) -> None:
        """`number` of the process; `otherwise`: what counts where the file cannot tell, for the first process."""
        self._path, self._place = path, _BOOT_BYTES + number % _SLOTS * _INSTANT.size
        found = _read(path)
        if found is None:
            _forget(path)
            if otherwise is not None:
                found = (otherwise, *[0] * (_SLOTS - 1))
                _attempt(path, lambda: durable.write(path, _boot() + _ALL.pack(*found)))
        self._last = found[number % _SLOTS] if found else 0
        self._until = max(found) if found else 0
        self._file = _attempt(path, lambda: os.open(path, os.O_WRONLY)) if found else None

    def until(self) -> int:
        """When any process of this site issued last, in this life of the machine; microseconds since 1970 UTC."""
        self._until = max(self._until, *(_read(self._path) or (0,)))
        return self._until

    def note(self, at: int) -> None:
        """A token is about to be issued that is dated so. Tokens have whole seconds, so this writes once in each."""
        if at <= self._last:
            return
        self._last = at
        file = self._file
        if file is not None and _attempt(self._path, lambda: os.pwrite(file, _INSTANT.pack(at), self._place)) is None:
            _forget(self._path)  # what it says is not true any more

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)


def _attempt(path: Path, work: Callable[[], T]) -> T | None:
    try:
        return work()
    except OSError as error:
        log.error("last_issue_not_noted", path=str(path), why=error.strerror)
        return None


def _forget(path: Path) -> None:
    _attempt(path, lambda: path.unlink(missing_ok=True))


def _read(path: Path) -> tuple[int, ...] | None:
    """What each process has noted; None if that was in another life of the machine, or cannot be told."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    boot, instants = content[:_BOOT_BYTES], content[_BOOT_BYTES:]
    return _ALL.unpack(instants) if boot == _boot() and boot.strip() and len(instants) == _ALL.size else None


def _boot() -> bytes:
    """Names this life of the machine; blank where that is not known."""
    try:
        return _BOOT.read_bytes().strip().ljust(_BOOT_BYTES)[:_BOOT_BYTES]
    except OSError:
        return b" " * _BOOT_BYTES
