"""A key ring as a directory that a Keystone beside us can read at any instant, also while it is being replaced.
Separate from keys, because only this does I/O; synchronous, run it in a thread.

Upstream lists the directory and then opens every file, one after another, so a name must never vanish, and a key that
is in use must not move from one name to another while somebody reads: the reader could miss it in both places.
Therefore every key of the ring has a file of its own between 0 and the highest number, which stays where it is until
the key is retired; 0 (a copy of the staged key) and the highest (a copy of the primary) are no more than labels.
The numbers of the ring itself are kept beside, with check values instead of keys, in a file that upstream ignores.
"""

import contextlib
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from regional_keystone.durable import locked, sync_directory
from regional_keystone.keys import KeyRing, check_key, check_value

LEDGER = ".ring"
"""The file with the ring's epoch and numbers; holds no key. Upstream ignores it, as its name is no number."""

_DAMAGED = b"damaged"

Step: TypeAlias = Callable[[str], None]
"""Is told the name of what comes next; what it raises stops there."""


def _go_on(_: str) -> None:
    pass


class KeyRepositoryError(Exception):
    """The directory cannot be used as it is; says which file, why, and where there is one the command that mends it."""


class _Ring(msgspec.Struct, frozen=True):
    epoch: int
    numbers: dict[int, str]

    @classmethod
    def of(cls, ring: KeyRing) -> "_Ring":
        return cls(ring.epoch, ring.check_values())


class _Ledger(msgspec.Struct, frozen=True):
    """The ring that the directory holds and, while it is being replaced, the one that it will hold."""

    now: _Ring
    coming: _Ring | None = None


def read_directory(path: Path) -> KeyRing:
    """The ring that the directory holds; after a crash in `write_directory` the one before or the one after it.

    Files with other names, and empty ones, are ignored. A directory that upstream wrote, or has changed since, has the
    file's names as numbers and epoch 0. Raises KeyRepositoryError for rights that let others read or replace a key
    and for a malformed file. Source: keystone/common/fernet_utils.py.
    """
    files = _key_files(path)
    if 0 not in files:
        raise KeyRepositoryError(f"{path}: no staged key, file 0 is missing or empty")
    return _ring_by_ledger(files, _read_ledger(path)) or _ring_by_names(path, files)


def write_directory(path: Path, ring: KeyRing, step: Step = _go_on) -> None:
    """Makes the directory hold the ring; whoever reads meanwhile, however slowly, finds the old or the new one.

    Everything is on disk before the first file changes, so that a full disk changes nothing. After a crash at any
    point, doing it again finishes; damaged files are replaced. `step` is told the name of each step before it is taken.
    The directory is made if it is missing; its parent has to be on the same file system. Raises KeyRepositoryError if
    others can get at it or are replacing it too, and OSError.
    """
    step("make")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(path.parent)
    with _locked(path) as directory, _staging(path, step) as staging:
        _replace(path, directory, staging, _contents(path, ring), step)


def _contents(path: Path, ring: KeyRing) -> list[tuple[str, bytes]]:
    """Names and contents to be put in place, in this order; nothing if the directory holds the ring already."""
    files, ledger, coming = _key_files(path, mending=True), _read_ledger(path), _Ring.of(ring)
    plan = [(str(name), key) for name, key in _plan(files, ring)]
    now = _present(path, files, ledger)
    if plan and now is not None:
        plan.insert(0, (LEDGER, msgspec.json.encode(_Ledger(_Ring.of(now), coming))))
    if ledger != _Ledger(coming) or plan:
        plan.append((LEDGER, msgspec.json.encode(_Ledger(coming))))
    return plan


def _present(path: Path, files: Mapping[int, bytes], ledger: _Ledger | None) -> KeyRing | None:
    """The ring that is there to be replaced, if one can be made out of what is not damaged."""
    whole = {name: key for name, key in files.items() if key != _DAMAGED}
    try:
        return (_ring_by_ledger(whole, ledger) or _ring_by_names(path, whole)) if 0 in whole else None
    except KeyRepositoryError:
        return None


def _replace(path: Path, directory: int, staging: Path, contents: list[tuple[str, bytes]], step: Step) -> None:
    owner = os.fstat(directory)
    for place, (name, content) in enumerate(contents):
        step(f"write {name}")
        _write(staging / str(place), content, owner)
    for place, (name, _) in enumerate(contents):
        step(f"rename {name}")
        (staging / str(place)).rename(path / name)
        # Each before the next: a power cut must not keep a later one and lose an earlier.
        step(f"sync {name}")
        os.fsync(directory)


def _plan(files: Mapping[int, bytes], ring: KeyRing) -> list[tuple[int, bytes]]:
    """The files that have to change, in the order in which they may: every key home first, the labels after it."""
    primary, top = ring.numbers[ring.primary], max(files, default=0)
    homes, missing = _homes(files, ring, range(1, top))
    room = [name for name in range(1, top) if name not in homes]
    if grows := len(missing) > len(room) or top == 0:
        homes, missing = _homes(files, ring, range(top, 0, -1))
        if top and top not in homes:
            # Who listed the names before they grew still takes this one for the primary.
            homes[top] = primary
            missing = [key for key in missing if key != primary]
        room = [name for name in range(1, top) if name not in homes]
        room += range(top + 1, top + 1 + len(missing) - len(room))
        top = max(top, *room, 0) + 1
    homes |= dict(zip(room, missing, strict=False))
    # A name that is not needed stays, but not what it held.
    homes |= {name: primary for name in room[len(missing) :] if name in files and files[name] not in homes.values()}
    label = [(top, primary)]
    order = (label if grows else []) + sorted(homes.items()) + label + [(0, ring.staged)]
    return [(name, key) for name, key in dict(order).items() if files.get(name) != key]


def _homes(files: Mapping[int, bytes], ring: KeyRing, names: Iterable[int]) -> tuple[dict[int, bytes], list[bytes]]:
    """The names that each keep a different key of the ring, the earlier ones first, and the keys that have none."""
    missing = dict.fromkeys(ring.numbers.values())
    homes = {}
    for name in names:
        if files.get(name) in missing:
            homes[name] = files[name]
            del missing[files[name]]
    return homes, list(missing)


def _ring_by_ledger(files: Mapping[int, bytes], ledger: _Ledger | None) -> KeyRing | None:
    """The ring whose numbers the ledger knows; None if it is not about these files."""
    by_value = {check_value(key): key for key in files.values()}
    rings = [ring for ring in (ledger.now, ledger.coming) if ring] if ledger else []
    if not by_value.keys() <= {value for ring in rings for value in ring.numbers.values()}:
        return None  # somebody else has rotated
    for ring in rings:
        if {ring.numbers[0], ring.numbers[max(ring.numbers)]} <= by_value.keys():
            present = {number: by_value[value] for number, value in ring.numbers.items() if value in by_value}
            return KeyRing(present, ring.epoch)
    return None


def _ring_by_names(path: Path, files: Mapping[int, bytes]) -> KeyRing:
    """The ring whose numbers are the names; of equal keys the staged one counts, then the highest."""
    if files[max(files)] == files[0] and len(set(files.values())) > 1:
        # A replacement stopped half-way and its ledger is lost: any other key might be one that nobody else has.
        raise KeyRepositoryError(f"{path}: the highest key is the staged one, so that the primary is unknown")
    numbers, seen = {0: files[0]}, {files[0]}
    for name in sorted(files, reverse=True):
        if files[name] not in seen:
            numbers[name] = files[name]
            seen.add(files[name])
    return KeyRing(numbers)


def _read_ledger(path: Path) -> _Ledger | None:
    """What is written about the numbers, or None: it is a help, and without it the names count."""
    try:
        ledger = msgspec.json.decode((path / LEDGER).read_bytes(), type=_Ledger)
    except (OSError, msgspec.MsgspecError):
        return None
    return ledger if all(0 in ring.numbers for ring in (ledger.now, ledger.coming) if ring) else None


def _key_files(path: Path, *, mending: bool = False) -> dict[int, bytes]:
    """The well-formed keys by file name; when mending, damaged ones are marked so that they get replaced."""
    try:
        directory = path.stat()
        _check_rights(path, directory, os.geteuid() or directory.st_uid, "700")
        names = [file for file in path.iterdir() if _is_number(file) and file.is_file()]
        keys = {int(file.name): _key(file, directory.st_uid, mending=mending) for file in names}
    except OSError as problem:
        raise KeyRepositoryError(f"{problem.filename or path}: {problem.strerror}") from problem
    return {name: key for name, key in keys.items() if key}


def _is_number(file: Path) -> bool:
    try:
        number = int(file.name)
    except ValueError:
        return False
    if number < 0 or str(number) != file.name:
        # Upstream takes all that Python reads as a number, and could find a higher primary than we.
        raise KeyRepositoryError(f"{file}: Keystone takes this for key {number}; mend it: rm {shlex.quote(str(file))}")
    return True


def _key(file: Path, owner: int, *, mending: bool) -> bytes:
    """The key in the file, or nothing if it is empty."""
    try:
        _check_rights(file, file.stat(), owner, "600")
        key = file.read_bytes()
        _check_content(file, key)
    except (KeyRepositoryError, OSError):
        if mending:
            return _DAMAGED
        raise
    return key


def _check_content(file: Path, key: bytes) -> None:
    try:
        if key:
            check_key(key)
    except ValueError as problem:
        raise KeyRepositoryError(f"{file}: {problem}; it has {len(key)} bytes") from None


def _check_rights(path: Path, found: os.stat_result, owner: int, mode: str) -> None:
    name = shlex.quote(str(path))
    if found.st_uid != owner:
        raise KeyRepositoryError(f"{path}: owned by user {found.st_uid}, not {owner}; mend it: chown {owner} {name}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyRepositoryError(f"{path}: open to other users; mend it: chmod {mode} {name}")


def _write(file: Path, content: bytes, owner: os.stat_result) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(locked(path))
        except BlockingIOError:
            raise KeyRepositoryError(f"{path}: another process is replacing the keys") from None
        yield directory


@contextlib.contextmanager
def _staging(path: Path, step: Step) -> Iterator[Path]:
    """An empty directory beside it; what a crash has left in there is removed by the next one."""
    staging = path.with_name(f".{path.name}.new")
    step("stage")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
