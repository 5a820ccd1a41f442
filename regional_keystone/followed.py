"""A key directory that a Keystone beside us turns: its keys open tokens here, and seal them if that is wanted.

For the time of a migration. Whoever turns these keys waits for nobody, so that nothing is promised of them: neither
that every site has a key before it seals, nor that it is kept for as long as its tokens. The directory is only read.
Source: keystone/common/fernet_utils.py; docs/adr/0023-following-a-keystones-directory.md
"""

import errno
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from regional_keystone.key_files import Files, KeyRepositoryError, Look, look, scan
from regional_keystone.keys import KeyRing, check_value

log = structlog.get_logger("followed")

POLL_S = 0.5
_ATTEMPTS = 5
_NO_KEY = (
    "it holds no key; mend it: `keystone-manage fernet_setup --keystone-user U --keystone-group G` where the keys are"
    " turned, and bring them there, or name another in [keys] follow"
)


@dataclass(slots=True)
class Followed:
    """The keys of that directory as they were read last; what cannot be read takes nothing away."""

    directory: Path
    seals: bool
    keys: tuple[bytes, ...] = ()  # the primary first
    changes: int = 0
    problem: str | None = None
    logs: bool = True  # whether a problem is logged as well
    _looked: Look | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Followed({str(self.directory)!r}, seals={self.seals}, {len(self.keys)} keys)"

    def start(self) -> None:
        """Read it for the first time, and say what that means. Raises KeyRepositoryError if it cannot be used."""
        self.read()
        if not self.keys:
            raise KeyRepositoryError(self.problem or f"{self.directory}: {_NO_KEY}")
        log.warning(
            "keystone_followed",
            directory=str(self.directory),
            seals=self.seals,
            keys=[check_value(key) for key in self.keys],
            why="a Keystone turns these keys and waits for no site: for tokens under them neither acknowledgement nor"
            " retention is guaranteed; end this with the migration",
        )

    def read(self) -> None:
        """Read it, if anything in it has changed; costs a stat of each file otherwise.

        Keystone renames and removes files while it turns the keys; what is read counts if nothing has moved meanwhile.
        """
        for _ in range(_ATTEMPTS):
            before = look(self.directory)
            if before is not None and before == self._looked:
                return
            try:
                files = scan(self.directory)
            except KeyRepositoryError as problem:
                self._complain(self._out_of_reach(problem))
                return
            if look(self.directory) == before:
                self._take(files)
                self._looked = before
                return

    def merged(self, ring: KeyRing) -> KeyRing:
        """The keys of this ring and those of the directory: all open, one seals."""
        primary = self.keys[0] if self.seals else ring.numbers[ring.primary]
        own = sorted(ring.numbers.items())
        others = dict.fromkeys([*(key for _, key in own), *reversed(self.keys)])
        del others[primary]
        return KeyRing(dict(enumerate([*others, primary])), ring.epoch)

    def status(self) -> dict[str, Any]:
        """What /status tells; no key."""
        return {
            "directory": str(self.directory),
            "seals": self.seals,
            "keys": [check_value(key) for key in self.keys],
            "changes": self.changes,
            "problem": self.problem,
        }

    def _take(self, files: Files) -> None:
        """Take up what was read, unless some of it is damaged: then Keystone itself fails, and what was good stays."""
        for damage in files.damage:
            if damage.file == self.directory:
                continue  # whom Keystone's files belong to, and who may read them, is not ours to judge
            if damage.cure.startswith("rm ") or int(damage.file.name) not in files.keys:
                unread = not damage.cure and not os.access(damage.file, os.R_OK)
                self._complain(f"{damage}; mend it: {self._readable()}" if unread else str(damage))
                return
        if not files.keys:
            self._complain(f"{self.directory}: {_NO_KEY}")
            return
        keys = tuple(dict.fromkeys(files.keys[name] for name in sorted(files.keys, reverse=True)))
        self.problem = None
        if keys == self.keys:
            return
        if self.keys:
            self.changes += 1
            log.warning("followed_keys_turned", keys=[check_value(key) for key in keys])
        self.keys = keys

    def _out_of_reach(self, problem: KeyRepositoryError) -> str:
        """Why it cannot be listed, and what mends that: whose directory it is, is not ours to change."""
        error, damage = problem.__cause__, problem.damage
        if isinstance(error, FileNotFoundError):
            return f"{problem}; mend it: bring Keystone's there, or name where it is in [keys] follow"
        if isinstance(error, OSError) and error.errno == errno.EACCES and damage and damage.file == self.directory:
            return f"{self.directory}: {damage.what}; mend it: {self._readable()}"
        return str(problem)

    def _readable(self) -> str:
        """The command that lets us read what is there and what Keystone will put there."""
        user, name = os.geteuid(), shlex.quote(str(self.directory))
        return f"setfacl -R -m u:{user}:rX -m d:u:{user}:rX {name}"

    def _complain(self, problem: str) -> None:
        if problem != self.problem and self.logs:
            log.error(
                "followed_keys_unreadable", why=problem, cure="mend the directory; the keys read last stay in use"
            )
        self.problem = problem
