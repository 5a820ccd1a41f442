"""The files of a key directory as they lie there: which of them hold a key, and what is wrong with the others.

Separate from key_directory, which knows what they mean together; synchronous, run it in a thread.
Source: keystone/common/fernet_utils.py.
"""

import os
import shlex
import stat
from pathlib import Path
from typing import NamedTuple, TypeAlias

from regional_keystone.keys import check_key

Look: TypeAlias = tuple[tuple[str, int, int, int, int, int, int], ...]
"""Changes whenever a file of the directory does, as far as the file system tells."""


class KeyRepositoryError(Exception):
    """The directory cannot be used as it is; says which file, why, and where there is one the command that mends it."""


class Damage(NamedTuple):
    """What is wrong with one file. `cure` is the command that mends it, where that is left to an operator."""

    file: Path
    what: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" + (f"; mend it: {self.cure}" if self.cure else "")


class Files(NamedTuple):
    """What the directory has: readable keys by number, damaged ones, empty ones, numbers of what is no file at all."""

    keys: dict[int, bytes]
    damage: tuple[Damage, ...]
    damaged: frozenset[int]
    empty: frozenset[int]
    taken: frozenset[int]


def scan(path: Path) -> Files:
    """Read every file that a Keystone would take for a key. Raises KeyRepositoryError if it cannot even be listed."""
    try:
        directory = path.stat()
        entries = sorted(path.iterdir())
    except OSError as problem:
        raise KeyRepositoryError(f"{problem.filename or path}: {problem.strerror}") from problem
    damage = [*_rights(path, directory, os.geteuid() or directory.st_uid, "700")]
    keys: dict[int, bytes] = {}
    damaged, empty, taken = set(), set(), set()
    for file in entries:
        number = _number(file)
        if number is None:
            continue
        if not file.is_file():
            taken.add(number)
            continue
        if number < 0 or str(number) != file.name:
            # Upstream takes all that Python reads as a number, and could find a higher primary than we.
            damage.append(Damage(file, f"Keystone takes this for key {number}", f"rm {shlex.quote(str(file))}"))
            continue
        found, key = _read(file, directory.st_uid)
        damage += found
        if found:
            damaged.add(number)
        if key:
            keys[number] = key
        elif not found:
            empty.add(number)
    return Files(keys, tuple(damage), frozenset(damaged), frozenset(empty), frozenset(taken))


def look(path: Path) -> Look | None:
    """What the file system tells of every file without opening any; None for a directory that cannot be listed."""
    try:
        found = [(".", path.stat())]
        found += [(entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(path)]
    except OSError:
        return None
    return tuple(
        (name, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_mode, seen.st_uid)
        for name, seen in sorted(found)
    )


def _number(file: Path) -> int | None:
    try:
        return int(file.name)
    except ValueError:
        return None


def _read(file: Path, owner: int) -> tuple[list[Damage], bytes]:
    """What is wrong with the file, and its key if it has one that can be used."""
    try:
        damage = [*_rights(file, file.stat(), owner, "600")]
        key = file.read_bytes()
    except OSError as problem:
        return [Damage(file, f"it cannot be read, {problem.strerror}")], b""
    try:
        if key:
            check_key(key)
    except ValueError as problem:
        return [*damage, Damage(file, f"{problem}; it has {len(key)} bytes")], b""
    return damage, key


def _rights(path: Path, found: os.stat_result, owner: int, mode: str) -> list[Damage]:
    name = shlex.quote(str(path))
    if found.st_uid != owner:
        return [Damage(path, f"owned by user {found.st_uid}, not {owner}", f"chown {owner} {name}")]
    if stat.S_IMODE(found.st_mode) & 0o077:
        return [Damage(path, "open to other users", f"chmod {mode} {name}")]
    return []
