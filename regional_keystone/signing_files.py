"""A signing key on disk, and everybody's public keys as a directory that a Keystone beside us can read at any instant.
Separate from signing, because only this does I/O; synchronous, run it in a thread.

Keystone signs with `private.pem`. It lists the public directory and opens whatever is there: a file that is no text, a
subdirectory or a name that vanishes meanwhile makes it fail. So names are numbers that stay, a key keeps its name until
it is retired, a name that is free holds one more copy of a key that counts, and files are made elsewhere and renamed
into place. Source: keystone/token/providers/jws/core.py.
"""

import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from regional_keystone import durable
from regional_keystone.jws import PrivateKey, PublicKey, key_id, public_key
from regional_keystone.key_files import Damage, KeyRepositoryError, unlisted

CURRENT, NEXT = "private.pem", "next.pem"
MOST_TRUSTED = 8
"""So many keys of others are tried, one after another, for a token that names none."""
_NAME = re.compile(r"(0|[1-9][0-9]*)\.pem", re.ASCII)


def load_private(directory: Path, name: str) -> PrivateKey | None:
    """The private key of this name; None if there is none.

    Raises KeyRepositoryError for one that others can read, or that is none for ES256.
    """
    path = directory / name
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyRepositoryError(unlisted(directory, error)) from None
    quoted = shlex.quote(str(path))
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise KeyRepositoryError(f"{path}: open to other users; mend it: chmod 600 {quoted}")
    if os.geteuid() not in (0, found.st_uid):
        raise KeyRepositoryError(f"{path}: owned by user {found.st_uid}; mend it: chown {os.geteuid()} {quoted}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise KeyRepositoryError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError):  # the cause could show what is in it
        raise KeyRepositoryError(f"{path}: no private key; mend it: rm {quoted}, and another is made") from None
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRepositoryError(f"{path}: no key for ES256; mend it: rm {quoted}, and another is made")
    return key


def make_private(directory: Path, name: str) -> PrivateKey:
    """A new private key, on disk under this name before it is returned. Raises OSError."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(directory, name, key)
    return key


def write_private(directory: Path, name: str, key: PrivateKey) -> None:
    """This key durably under this name, mode 0600, in place of whatever file was there. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    plain = serialization.NoEncryption()
    durable.write(
        directory / name, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )


def promote(directory: Path) -> None:
    """The next key takes the place of the one in use, which is gone then. Raises OSError."""
    (directory / NEXT).rename(directory / CURRENT)
    durable.sync_directory(directory)


def load_trusted(directory: Path) -> dict[str, PublicKey]:
    """The public keys in a directory of others, by id. Raises KeyRepositoryError for what is none, and too many."""
    found: dict[str, PublicKey] = {}
    try:
        for path in sorted(directory.iterdir()):
            key = public_key(path.read_bytes())
            found[key_id(key)] = key
    except OSError as error:
        raise KeyRepositoryError(f"{_unread(directory, error)}; or take this option out") from None
    except ValueError as error:
        raise KeyRepositoryError(f"{path}: {error}; take it out of this directory") from None
    if len(found) > MOST_TRUSTED:
        raise KeyRepositoryError(f"{directory}: {len(found)} keys; {MOST_TRUSTED} are the most that are tried")
    return found


def _unread(directory: Path, error: OSError) -> Damage:
    """What keeps us from the public keys of others, and the command that mends it."""
    path = Path(error.filename or directory)
    name = shlex.quote(str(path))
    if path != directory:
        cure = f"rmdir {name}" if isinstance(error, IsADirectoryError) else f"chmod a+r {name}"
        return Damage(path, f"it cannot be read, {error.strerror}", cure)
    if isinstance(error, FileNotFoundError):
        return Damage(directory, "there is no such directory", f"mkdir -m 755 {name}")
    return unlisted(directory, error)


def write_public(directory: Path, keys: Mapping[str, PublicKey]) -> list[str]:
    """Make the directory hold these keys, by id; the names of what else lies there, which Keystone would fail on.

    Whoever reads meanwhile finds every key that is in both sets. What a crash has left undone, the next time does.
    Raises OSError.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # whoever runs the Keystone beside us
    there, foreign = _there(directory)
    plan = _plan(there, keys)
    if plan:
        _replace(directory, {name: _pem(keys[one]) for name, one in plan.items()})
    elif not keys and there:
        for name in there:  # nobody signs any more: a key that is left would be believed
            (directory / name).unlink()
        durable.sync_directory(directory)
    return foreign


def _there(directory: Path) -> tuple[dict[str, str | None], list[str]]:
    """Our files and the id of the key in each, None for what is damaged; the names of all others."""
    ours: dict[str, str | None] = {}
    foreign = []
    for path in directory.iterdir():
        if not _NAME.fullmatch(path.name) or not path.is_file() or path.is_symlink():
            foreign.append(path.name)
            continue
        try:
            ours[path.name] = key_id(public_key(path.read_bytes()))
        except ValueError:
            ours[path.name] = None
    return ours, sorted(foreign)


def _plan(there: Mapping[str, str | None], keys: Mapping[str, PublicKey]) -> dict[str, str]:
    """The names that have to change, in order, and the id of what each is to hold; nothing where nobody signs."""
    homes: dict[str, str] = {}
    for name in sorted(there, key=_number):
        one = there[name]
        if one is not None and one in keys and one not in homes.values():
            homes[name] = one
    free = [name for name in sorted(there, key=_number) if name not in homes]
    missing = [one for one in keys if one not in homes.values()]
    top = max(map(_number, there), default=0)
    fresh = [f"{number}.pem" for number in range(top + 1, top + 1 + len(missing))]
    names = [*free, *fresh]
    plan = dict(zip(names, missing, strict=False))
    copies = {name: next(iter(keys)) for name in free[len(missing) :] if keys and there[name] not in keys}
    return plan | copies


def _number(name: str) -> int:
    return int(name.partition(".")[0])


def _replace(directory: Path, contents: Mapping[str, bytes]) -> None:
    staging = directory.with_name(f".{directory.name}.new")  # beside it: Keystone reads whatever lies in it
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        for name, content in contents.items():
            durable.write(staging / name, content)
            (staging / name).chmod(0o644)
        for name in contents:
            (staging / name).rename(directory / name)
            durable.sync_directory(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
