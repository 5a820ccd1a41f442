"""Records that matter for a while, in files that are only added to and thrown away as a whole.

What a crash cut off is not there; everything before it is.
"""

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from threading import Lock

from regional_keystone import durable

_HEAD = Struct(">II")  # length, CRC-32
_MOST_BYTES = 1024 * 1024
_SUFFIX = ".journal"


def record(content: bytes) -> bytes:
    """A record as it lies in a file."""
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


class Journal:
    """Files in one directory, numbered; the last one is added to. Blocking: call it in any thread.

    After a write that failed a new file is begun, since what follows half a record cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None
        self._number = 0
        self._closed = False
        self._lock = Lock()

    def read(self, newer_than_s: float) -> Iterator[bytes]:
        """Every record of the files that were written to after this moment (seconds since 1970), oldest first.

        The other files are thrown away. Raises OSError.
        """
        for number in self._numbers():
            path = self._path(number)
            if path.stat().st_mtime > newer_than_s:
                yield from records(path.read_bytes())
            else:
                path.unlink()

    def begin(self) -> None:
        """From now on add to a new file; of those before it only the last, and what it replaced, stay. Raises OSError.

        So a record is kept from one `begin` to the one after the next.
        """
        with self._lock:
            self._begin()

    def write(self, records: bytes) -> None:
        """Add records, durably. Raises OSError."""
        with self._lock:
            file = self._begin() if self._file is None else self._file
            view = memoryview(records)
            try:
                while view:
                    view = view[os.write(file, view) :]
                os.fdatasync(file)
            except OSError:
                self._let_go()
                raise

    def close(self) -> None:
        """Let go of the file, for good."""
        with self._lock:
            self._let_go()
            self._closed = True

    def _begin(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, "it is closed")
        self._directory.mkdir(mode=0o700, exist_ok=True)
        before, begun = self._numbers(), self._file is not None
        number = max([self._number, *before]) + 1
        opened = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._let_go()
        self._file, self._number = opened, number
        for old in before[:-1] if begun else ():  # those of an earlier life, and after a fault, a while longer
            self._path(old).unlink(missing_ok=True)
        durable.sync_directory(self._directory)
        return opened

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._directory.glob(f"*{_SUFFIX}") if path.stem.isdecimal())

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:010d}{_SUFFIX}"


def records(content: bytes) -> Iterator[bytes]:
    """The records of a file's content up to the first that is not whole."""
    at = 0
    while at + _HEAD.size <= len(content):
        length, check = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        found = content[at : at + length]
        if length > _MOST_BYTES or len(found) < length or zlib.crc32(found) != check:
            return
        yield found
        at += length
