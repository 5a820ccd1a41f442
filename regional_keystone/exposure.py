"""Which files and directories of a process others may reach: a key that they can read is theirs, one that they can
replace is no key. Each is named with the command that mends it.
"""

import dataclasses
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from regional_keystone.errors import StoreRefused
from regional_keystone.settings import Settings

PRIVATE = (
    *("password_file", "secret_file", "join_token_file", "tls_key"),
    *("state_dir", "authority_dir", "jws_private_key_repository"),
)
RINGS = ("directory", "credential_directory", "receipt_directory")
FOLLOWED = ("follow",)
BELIEVED = ("tls_cert", "tls_ca", "file", "jws_public_key_repository", "trusted_public_key_repository")
"""What each option of a path names: what is for its owner alone, key rings, those that a Keystone keeps, and what is no
secret but is believed."""
_OURS = ("identity", "authority", "jws-keys/private")
_BELIEVED = "jws-keys/public"
_RINGS = ("fernet-keys", "credential-keys", "receipt-keys")
"""Below the state directory, unless an option names another place."""
_REACHED, _SHARED, _CHANGED = 0o077, 0o027, 0o022


class Exposed(NamedTuple):
    """One path, why it cannot be relied on, and the command that mends it."""

    path: Path
    why: str
    cure: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}; mend it: {self.cure}"


def exposed(settings: Settings) -> Iterator[Exposed]:
    """What others may reach of all that these settings name and that is there, the state directory first."""
    state = settings.site.state_dir
    yield from private(state)
    for name in _OURS:
        yield from private_tree(state / name)
    yield from believed(state / _BELIEVED)
    for name in _RINGS:
        yield from ring(state / name)
    for section in dataclasses.fields(settings):
        values = getattr(settings, section.name)
        for field in dataclasses.fields(values):
            path = getattr(values, field.name)
            if isinstance(path, Path) and path != state:
                yield from _named(field.name, path)


def refuse(settings: Settings) -> None:
    """Raises StoreRefused for the first of them."""
    if (first := next(exposed(settings), None)) is not None:
        raise StoreRefused(str(first))


def _named(option: str, path: Path) -> Iterator[Exposed]:
    if option in RINGS:
        return ring(path)
    if option in PRIVATE:
        return private_tree(path)
    if option in FOLLOWED:
        return followed(path)
    return believed(path)


def private(path: Path) -> Iterator[Exposed]:
    """What is wrong with a file or directory that is for its owner alone; nothing if it is not there."""
    if (found := _stat(path)) is None:
        return
    if found.st_uid not in {os.geteuid(), 0}:
        yield _of_another(path, found)
    elif stat.S_IMODE(found.st_mode) & _REACHED:
        yield _open(path, found)


def private_tree(directory: Path) -> Iterator[Exposed]:
    """The same of a directory and of each file in it."""
    for path in _tree(directory):
        yield from private(path)


def ring(directory: Path) -> Iterator[Exposed]:
    """The same of a key directory, which a Keystone beside us may own where we are root; its files have own rules."""
    if os.geteuid() or (found := _stat(directory)) is None:
        yield from private(directory)
    elif stat.S_IMODE(found.st_mode) & _REACHED:
        yield _open(directory, found)


def followed(directory: Path) -> Iterator[Exposed]:
    """What is wrong with a ring that a Keystone keeps: it is its owner's, who may let a group read it, and no more."""
    if (found := _stat(directory)) is not None and stat.S_IMODE(found.st_mode) & _SHARED:
        yield Exposed(directory, "others can reach what is in it", f"chmod 750 {shlex.quote(str(directory))}")


def believed(file: Path) -> Iterator[Exposed]:
    """What is wrong with a file, or files in a directory, that are no secret but decide what is done.

    Only we and root may change them.
    """
    for path in _tree(file):
        if (found := _stat(path)) is None:
            continue
        if found.st_uid not in {os.geteuid(), 0}:
            yield _of_another(path, found)
        elif stat.S_IMODE(found.st_mode) & _CHANGED:
            yield Exposed(path, "others can change it", f"chmod go-w {shlex.quote(str(path))}")


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
        yield from sorted(path.iterdir())


def _of_another(path: Path, found: os.stat_result) -> Exposed:
    mine = os.geteuid()
    return Exposed(path, f"owned by user {found.st_uid}, not {mine}", f"chown {mine} {shlex.quote(str(path))}")


def _open(path: Path, found: os.stat_result) -> Exposed:
    mode = "700" if stat.S_ISDIR(found.st_mode) else "600"
    return Exposed(path, "others can reach what is in it", f"chmod {mode} {shlex.quote(str(path))}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # who needs it says so
        return None
