"""A key ring as a directory that a Keystone beside us can read at any instant, also while it is being replaced.
Separate from keys, because only this does I/O; synchronous, run it in a thread.

Upstream lists the directory and then opens every file, one after another, so a name must never vanish, and a key that
is in use must not move from one name to another while somebody reads: the reader could miss it in both places.
Therefore every key of the ring has a file of its own between 0 and the highest number, which stays where it is until
the key is retired; 0 (a copy of the staged key) and the highest (a copy of the primary) are no more than labels.
The numbers of the ring itself are kept beside, with check values instead of keys, in a file that upstream ignores.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from regional_keystone.durable import locked, sync_directory
from regional_keystone.key_files import Damage, Files, KeyRepositoryError, is_there, scan
from regional_keystone.keys import KeyRing, check_value, ring_fingerprint

LEDGER = ".ring"
"""The file with the ring's epoch and numbers; holds no key. Upstream ignores it, as its name is no number."""

_DAMAGED = b"damaged"
_AGAIN = "; mend it: copy the whole directory once more from where these keys were turned last"

Step: TypeAlias = Callable[[str], None]
"""Is told the name of what comes next; what it raises stops there."""


def _go_on(_: str) -> None:
    pass


class _Ring(msgspec.Struct, frozen=True):
    epoch: int
    numbers: dict[int, str]

    @classmethod
    def of(cls, ring: KeyRing) -> "_Ring":
        return cls(ring.epoch, ring.check_values())

    @property
    def labels(self) -> set[str]:
        """The staged key and the primary."""
        return {self.numbers[0], self.numbers[max(self.numbers)]}


class _Ledger(msgspec.Struct, frozen=True):
    """The ring that the directory holds and, while it is being replaced, the one that it will hold.

    `files` tells which key each file has, so that a damaged one can be named; empty while it is being replaced.
    """

    now: _Ring
    coming: _Ring | None = None
    files: dict[int, str] = {}


class Found(NamedTuple):
    """What a directory holds, damaged as it may be.

    `ring` is what can be used of it: None unless the staged key and the primary are there for certain. `lost` if keys
    are missing that tokens may have been sealed with. `epoch` and `fingerprint` are of the ring that it ought to hold,
    whatever is left of it; 0 if that is not known.
    """

    ring: KeyRing | None
    lost: bool
    epoch: int
    fingerprint: str
    damage: tuple[Damage, ...]


def read_directory(path: Path) -> KeyRing:
    """The ring that the directory holds; after a crash in `write_directory` the one before or the one after it.

    Files with other names, and empty ones, are ignored. A directory that upstream wrote, or has changed since, has the
    file's names as numbers and epoch 0. Raises KeyRepositoryError for rights that let others read or replace a key
    and for a malformed file. Source: keystone/common/fernet_utils.py.
    """
    files = scan(path)
    if files.damage:
        raise KeyRepositoryError(str(files.damage[0]))
    if 0 not in files.keys:
        raise KeyRepositoryError(f"{path}: no staged key, file 0 is missing or empty{_AGAIN}")
    try:
        return _ring_by_ledger(files.keys, _read_ledger(path)) or _ring_by_names(path, files.keys)
    except KeyRepositoryError as problem:
        raise KeyRepositoryError(f"{problem}{_AGAIN}") from None


def unmarked(path: Path) -> KeyRing | None:
    """The ring of a directory that has keys and was never written here, as upstream leaves one; None for any other.

    Raises KeyRepositoryError for one whose keys make no ring.
    """
    if (path / LEDGER).exists() or not path.is_dir():
        return None
    files = scan(path)
    return read_directory(path) if files.keys or files.damaged else None


def endangered(path: Path, ring: KeyRing, *, kept: bool) -> str | None:
    """Why the ring must not be written there: somebody else's keys would be lost; None if it may.

    What is marked as ours may be mended. `kept`: a ring was kept here before, so that a key in common tells enough
    where the mark was lost.
    """
    if (path / LEDGER).exists():
        return None
    try:
        files = scan(path)
    except KeyRepositoryError:
        return None  # not there yet; what cannot be listed cannot be written either
    keys = set(files.keys.values())
    own = keys & set(ring.numbers.values())
    if (kept and own) or (keys == own and (kept or not files.damaged)):
        return None
    return (
        f"{path}: it holds keys of somebody else, which this federation's ring lacks, and they would be lost: name"
        " another directory in [keys]; `[keys] follow` takes up the keys of a Keystone that goes on,"
        " `rkctl keys import` those of another federation"
    )


def examine(path: Path) -> Found:
    """What the directory holds and everything that is wrong with it; uses what it can.

    Raises KeyRepositoryError if it cannot even be listed.
    """
    files, ledger = scan(path), _read_ledger(path)
    if ledger is not None:
        return _by_ledger(path, files, ledger)
    damage = list(files.damage)
    if not (files.keys or files.damaged or files.empty or (path / LEDGER).exists()):
        return Found(None, lost=False, epoch=0, fingerprint="", damage=files.damage)  # nothing was ever there
    if (path / LEDGER).exists():
        damage.append(Damage(path / LEDGER, "it cannot be read, so that the numbers of the keys are not known"))
    try:
        if 0 not in files.keys or max(files.damaged - files.keys.keys(), default=0) > max(files.keys):
            raise KeyRepositoryError(f"{path}: the staged key or the primary is missing")
        ring = _ring_by_names(path, files.keys)
    except KeyRepositoryError as problem:
        damage = damage or [Damage(path, str(problem).partition(": ")[2])]
        return Found(None, lost=True, epoch=0, fingerprint="", damage=tuple(damage))
    return Found(ring, bool(files.damaged - files.keys.keys()), ring.epoch, ring.fingerprint, tuple(damage))


def _by_ledger(path: Path, files: Files, ledger: _Ledger) -> Found:
    by_value = {check_value(key): key for key in files.keys.values()}
    damage = [*files.damage, *_misplaced(path, files, ledger)]
    rings = [ring for ring in (ledger.now, ledger.coming) if ring]
    ring = next((ring for ring in rings if ring.labels <= by_value.keys()), None)
    if ring is None:
        left = _between(path, files, ledger) if not damage else None
        damage = damage or ([] if left else [Damage(path, "the staged key or the primary is in no file")])
        return Found(left, left is None, ledger.now.epoch, ring_fingerprint(ledger.now.numbers), tuple(damage))
    wanted = set(ring.numbers.values())
    if ring is ledger.now and ledger.coming is not None:  # half-way to it, what it retires may be gone already
        wanted &= {*ledger.coming.numbers.values()}
    missing = wanted - by_value.keys()
    if missing and not damage:
        damage = [Damage(path, f"key {value} is in no file") for value in sorted(missing)]
    present = {number: by_value[value] for number, value in ring.numbers.items() if value in by_value}
    left = KeyRing(present, ring.epoch)
    return Found(left, bool(missing), ring.epoch, ring_fingerprint(ring.numbers), tuple(damage))


def _between(path: Path, files: Files, ledger: _Ledger) -> KeyRing | None:
    """What there is after a crash between the two labels of a leap: the new primary, and the old staged key."""
    if ledger.coming is None or 0 not in files.keys:
        return None
    ring = _ring_by_names(path, files.keys)
    return KeyRing(ring.numbers, ledger.now.epoch)


def _misplaced(path: Path, files: Files, ledger: _Ledger) -> Iterator[Damage]:
    """Files that have another key than was written into them, or one that nobody knows."""
    rings = [ring for ring in (ledger.now, ledger.coming) if ring]
    known = {value for ring in rings for value in ring.numbers.values()}
    for name in sorted(files.keys.keys() | ledger.files.keys()):
        key = files.keys.get(name)
        found, wanted = key and check_value(key), ledger.files.get(name)
        file = path / str(name)
        if found and found not in known:
            yield Damage(file, f"it holds key {found}, which is not of this ring: flipped, or a Keystone rotates here")
        elif found and wanted and found != wanted:
            also = next((other for other, value in sorted(ledger.files.items()) if value == found), "?")
            yield Damage(file, f"it holds key {found}, as file {also} does, in the place of {wanted}")
        elif wanted and name in files.taken:
            yield Damage(file, "something that is no file is in its place")
        elif wanted and not found and name not in files.damaged:
            yield Damage(file, "it is empty" if name in files.empty else "it is missing")


def write_directory(path: Path, ring: KeyRing, step: Step = _go_on) -> None:
    """Makes the directory hold the ring; whoever reads meanwhile, however slowly, finds the old or the new one.

    Everything is on disk before the first file changes, so that a full disk changes nothing. After a crash at any
    point, doing it again finishes; damaged files are replaced. `step` is told the name of each step before it is taken.
    The directory is made if it is missing; its parent has to be on the same file system. Raises KeyRepositoryError if
    others can get at it or are replacing it too, and OSError.
    """
    step("make")
    if not is_there(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(path.parent)
    with _locked(path) as directory, _staging(path, step) as staging:
        _replace(path, directory, staging, _contents(path, ring), step)


def _contents(path: Path, ring: KeyRing) -> list[tuple[str, bytes]]:
    """Names and contents to be put in place, in this order; nothing if the directory holds the ring already."""
    there, ledger, coming = scan(path), _read_ledger(path), _Ring.of(ring)
    _check_mendable(path, there)
    files = there.keys | dict.fromkeys(there.damaged, _DAMAGED)
    changes = _plan(files, ring, there.taken)
    plan = [(str(name), key) for name, key in changes]
    now = examine(path).ring
    if plan and now is not None:
        plan.insert(0, (LEDGER, msgspec.json.encode(_Ledger(_Ring.of(now), coming))))
    done = _Ledger(coming, None, {name: check_value(key) for name, key in (files | dict(changes)).items()})
    if ledger != done or plan:
        plan.append((LEDGER, msgspec.json.encode(done)))
    return plan


def _check_mendable(path: Path, there: Files) -> None:
    """Raises KeyRepositoryError for what is not ours to change: who can come in, and names that somebody else gave."""
    for damage in there.damage:
        if damage.file == path or not damage.file.name.isdecimal() or str(int(damage.file.name)) != damage.file.name:
            raise KeyRepositoryError(str(damage))
    if 0 in there.taken:
        raise KeyRepositoryError(f"{path / '0'}: no file, so that no key can be staged; move it away")


def _replace(path: Path, directory: int, staging: Path, contents: list[tuple[str, bytes]], step: Step) -> None:
    owner = os.fstat(directory)
    for place, (name, content) in enumerate(contents):
        step(f"write {name}")
        try:
            _write(staging / str(place), content, owner)
        except OSError as error:
            error.filename = str(path / name)  # a full disk names no file by itself
            raise
    for place, (name, _) in enumerate(contents):
        step(f"rename {name}")
        (staging / str(place)).rename(path / name)
        # Each before the next: a power cut must not keep a later one and lose an earlier.
        step(f"sync {name}")
        os.fsync(directory)


def _plan(files: Mapping[int, bytes], ring: KeyRing, taken: Collection[int] = ()) -> list[tuple[int, bytes]]:
    """The files that have to change, in the order in which they may: every key home first, the labels after it.

    `taken` are names that no key can have, since something that is no file has them.
    """
    primary, top = ring.numbers[ring.primary], max(files, default=0)
    homes, missing = _homes(files, ring, range(1, top))
    room = [name for name in range(1, top) if name not in homes and name not in taken]
    if grows := len(missing) > len(room) or top == 0:
        homes, missing = _homes(files, ring, range(top, 0, -1))
        if top and top not in homes:
            # Who listed the names before they grew still takes this one for the primary.
            homes[top] = primary
            missing = [key for key in missing if key != primary]
        room = [name for name in range(1, top) if name not in homes and name not in taken]
        free = (name for name in itertools.count(top + 1) if name not in taken)
        room += itertools.islice(free, max(0, len(missing) - len(room)))
        top = next(free)
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
        if ring.labels <= by_value.keys():
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
