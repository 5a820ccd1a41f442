"""The files of a key directory as they lie there: which of them hold a key, and what is wrong with the others.

Separate from key_directory, which knows what they mean together; synchronous, run it in a thread.
Source: keystone/common/fernet_utils.py.
"""

import errno
import os
import shlex
import stat
from pathlib import Path
from typing import NamedTuple, TypeAlias

from regional_keystone.keys import check_key

Look: TypeAlias = tuple[tuple[str, int, int, int, int, int, int], ...]
"""Changes whenever a file of the directory does, as far as the file system tells."""


class KeyRepositoryError(Exception):
    """The directory cannot be used as it is; says which file, why, and where there is one the command that mends it.

    `damage` says the same in parts, where it is of one file.
    """

    def __init__(self, said: "str | Damage") -> None:
        super().__init__(str(said))
        self.damage = said if isinstance(said, Damage) else None


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
        raise KeyRepositoryError(unlisted(path, problem)) from problem
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


def is_there(path: Path) -> bool:
    """Whether there is such a directory. Raises KeyRepositoryError for a file in its place, or one out of reach."""
    try:
        entries = os.scandir(path)
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise KeyRepositoryError(unlisted(path, problem)) from problem
    entries.close()
    return True


def unlisted(path: Path, problem: OSError) -> Damage:
    """Why this directory cannot be listed, and the command that mends it; none for one that is not there."""
    match problem.errno:
        case errno.ENOENT:
            return Damage(path, "there is no such directory")
        case errno.ENOTDIR:
            file = next((one for one in reversed(path.parents) if not one.is_dir()), path)
            name = shlex.quote(str(file))
            return Damage(file, "it is no directory", f"mv {name} {name}.away")
        case errno.EACCES | errno.EPERM:
            return _shut(next((one for one in reversed(path.parents) if not os.access(one, os.X_OK)), path), path)
        case _:
            return Damage(path, problem.strerror or str(problem))


def unwritten(path: Path, problem: OSError) -> str:
    """Why the ring could not be written into this directory, and the command that mends it, where there is one."""
    above, user = shlex.quote(str(path.parent)), os.geteuid()
    said = f"{problem.strerror}: {problem.filename!r}" if problem.strerror and problem.filename else str(problem)
    match problem.errno:
        case errno.EACCES | errno.EPERM if not os.access(path.parent, os.W_OK | os.X_OK):
            why = f"user {user} cannot write there, where files are made before they are renamed into {path}"
            return str(Damage(path.parent, why, f"setfacl -m u:{user}:rwx {above}"))
        case errno.EXDEV:
            why = "it is a file system of its own, into which nothing can be renamed from beside it"
            return f"{Damage(path, why)}; mend it: mount the file system at {above}"
        case errno.ENOSPC | errno.EDQUOT:
            return f"{said}; mend it: make room there"
        case errno.EROFS:
            return f"{said}; mend it: have it mounted so that it can be written"
        case _:
            return said


def _shut(shut: Path, path: Path) -> Damage:
    """A directory on the way to this one, or it itself, that we may not enter."""
    user, name = os.geteuid(), shlex.quote(str(shut))
    if shut.stat().st_uid == user:
        cure = f"chmod 700 {name}"
    else:
        cure = f"chown {user} {name}" if shut == path else f"setfacl -m u:{user}:x {name}"
    return Damage(shut, f"user {user} cannot enter it", cure)


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
