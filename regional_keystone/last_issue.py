"""When the processes of a site issued a token last, in a file that outlives them to the second.

A revocation that comes late must reach whatever an earlier life issued behind it. For whom that was is not known any
more; until when has to be: each second too many ends tokens that others issued to the same user meanwhile.
What is written is in the kernel's hands at once, so a killed process loses nothing; a machine that went down may, and
then what was noted of its life counts (`sealing.Noted`).
"""

import os
from pathlib import Path
from struct import Struct

import structlog

from regional_keystone import durable

log = structlog.get_logger("last_issue")

LAST_ISSUE = "last-issue"
"""The file's name, in a site's directory."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES = 64
_SLOTS = 256  # processes of one site, by their number
_INSTANT = Struct(">q")
_ALL = Struct(f">{_SLOTS}q")


class LastIssue:
    """One process' place in the file at `path`, which is made again where it says nothing of this machine's life.

    `until`: when any process of this site issued last, before this was made; microseconds since 1970 UTC.
    """

    def __init__(self, path: Path, number: int, otherwise: int) -> None:
        """`number` of the process, and `otherwise`: what counts where the file cannot tell. Raises OSError."""
        self._path, self._place = path, _BOOT_BYTES + number % _SLOTS * _INSTANT.size
        found = _read(path)
        if found is None:
            durable.write(path, _boot() + _ALL.pack(otherwise, *[0] * (_SLOTS - 1)))
        self.until = otherwise if found is None else max(found)
        self._last = found[number % _SLOTS] if found else 0
        self._file = os.open(path, os.O_WRONLY)

    def note(self, at: int) -> None:
        """A token is about to be issued that is dated so. Tokens have whole seconds, so this writes once in each."""
        if at <= self._last:
            return
        self._last = at
        try:
            os.pwrite(self._file, _INSTANT.pack(at), self._place)
        except OSError as error:  # what it says is not true any more
            log.error("last_issue_not_noted", path=str(self._path), why=error.strerror)
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


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
