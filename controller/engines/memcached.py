"""One memcached, for one region."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

from controller.engines.process import Engine, Keeper

PORT = 11211
_ANSWER_S = 0.5
_USER = "nobody"  # as root it demands another user


class Memcached(Engine):
    """At an address of its own, plain, or TLS alone when `tls` names a chain and a key in PEM."""

    def __init__(
        self,
        keeper: Keeper,
        program: Path,
        number: int,
        *,
        port: int = PORT,
        megabytes: int = 64,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(keeper, f"memcached{number}-{port}", keeper.address(number))
        self.port = port
        self.server = f"{self.address}:{port}"
        self._program, self._megabytes, self._tls = program, megabytes, tls

    @property
    def user(self) -> str | None:
        """As root, nobody."""
        return None if os.geteuid() else _USER

    def command(self) -> list[str]:
        """The command line; a certificate is copied to where its user can read it."""
        words = [str(self._program), "-l", self.address, "-p", str(self.port), "-U", "0", "-t", "2"]
        words += ["-m", str(self._megabytes)]
        if self._tls:
            chain, key = (self._readable(one) for one in self._tls)
            words += ["-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}"]
        return words

    def answers(self) -> bool:
        """Whether it listens, and, without TLS, tells its version."""
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), _ANSWER_S) as asked:
            asked.settimeout(_ANSWER_S)
            if self._tls:
                return True
            asked.sendall(b"version\r\n")
            return asked.recv(100).startswith(b"VERSION")
        return False

    def heal(self) -> None:
        """Let it go on, or start it; returns when it serves. What it held is gone if it was dead."""
        if self.is_stopped:
            self.cont()
        if not self.is_running:
            self.start()
            self.await_ready()

    def _readable(self, file: Path) -> Path:
        copy = self.folder / file.name
        shutil.copyfile(file, copy)
        copy.chmod(0o400)
        if self.user:
            shutil.chown(copy, self.user)
            self.folder.chmod(0o711)
        return copy
