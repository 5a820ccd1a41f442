"""Files with a secret: read only if nobody else can read them."""

import os
import shlex
from pathlib import Path

from regional_keystone.errors import StoreRefused


def read(path: Path, what: str) -> str:
    """The text of the file that holds `what`, without space around it. Raises StoreRefused, naming file and cure."""
    try:
        found, name = path.stat(), shlex.quote(str(path))
        if found.st_mode & 0o077:
            raise StoreRefused(f"{path}: others may read the {what}; chmod 600 {name}")
        if found.st_uid not in {os.geteuid(), 0}:
            raise StoreRefused(f"{path}: user {found.st_uid} may change the {what}; chown {os.geteuid()} {name}")
        return path.read_text().strip()
    except OSError as error:
        raise StoreRefused(f"{path}: {error.strerror}; write the {what} into it") from None
    except ValueError:
        raise StoreRefused(f"{path}: this is no text; write the {what} into it") from None
