"""Files with a secret: read only if nobody else can read them."""

from pathlib import Path

from regional_keystone.errors import StoreRefused


def read(path: Path, what: str) -> str:
    """The text of the file that holds `what`, without space around it. Raises StoreRefused, naming file and cure."""
    try:
        if path.stat().st_mode & 0o077:
            raise StoreRefused(f"{path}: others may read the {what}; chmod 600 {path}")
        return path.read_text().strip()
    except OSError as error:
        raise StoreRefused(f"{path}: {error.strerror}; write the {what} into it") from None
    except ValueError:
        raise StoreRefused(f"{path}: this is no text; write the {what} into it") from None
