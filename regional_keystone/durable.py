"""Small files that are there whole or not at all, also after a power cut; directories with one user at a time."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file at `path`; whoever reads finds the old content or the new. Raises OSError, changing nothing."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file by itself
        raise
    fresh.rename(path)
    sync_directory(path.parent)


def keep(path: Path, make: Callable[[], bytes], mode: int = 0o600) -> bytes:
    """What the file holds; when there is none, what `make` gives, written first."""
    if not path.exists():
        write(path, make(), mode)
    return path.read_bytes()


@contextmanager
def locked(directory: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold a directory, open as a descriptor; the kernel lets go of it however the process ends, leaving nothing in it.

    Raises BlockingIOError while another process holds it, OSError for one that is not there.
    """
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield held
    finally:
        os.close(held)


def sync_directory(path: Path) -> None:
    """Make names that were added to or replaced in this directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
