"""Holds the engines of another process: when that one ends, however it does, they end, and their directory goes.

A program of its own with nothing but the standard library: it reads one JSON object a line and answers each with one.
Its standard input is a pipe whose other end only its owner has, so that the end of the owner is the end of the input.
Should this process be killed itself, the kernel kills the engines.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # before any fork


def main(directory: str, *, remove: bool) -> None:
    """Serve until the input ends; `remove`: the directory goes as well."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner's to judge
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    children: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(_answer(children, json.loads(line))) + "\n")
            sys.stdout.flush()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(children)
        if remove:
            shutil.rmtree(directory, ignore_errors=True)
        os._exit(0)  # an owner that is gone reads no answer, and nothing is left to flush


def _answer(children: dict[int, subprocess.Popen[bytes]], asked: dict[str, Any]) -> dict[str, Any]:
    match asked:
        case {"reap": int(pid)}:
            return {"code": children[pid].wait()}
        case _:
            try:
                child = _start(**asked)
            except (OSError, LookupError) as error:
                return {"error": str(error)}
            children[child.pid] = child
            return {"pid": child.pid}


def _start(argv: list[str], folder: str, log: str, user: str | None) -> subprocess.Popen[bytes]:
    """In a session of its own, without our secrets in its environment."""
    owner = os.getpid()

    def die_with_us() -> None:
        _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != owner:
            os._exit(1)

    environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TZ") if name in os.environ}
    with open(log, "ab") as output:  # noqa: PTH123  one import less in a process that is there for each cluster
        return subprocess.Popen(  # noqa: S603
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=user,  # before the program starts: a process that changes its user itself would outlive us
            group=None if user is None else _group(user),
            extra_groups=None if user is None else [],
            preexec_fn=die_with_us,  # noqa: PLW1509  one thread
        )


def _group(user: str) -> int:
    import pwd  # noqa: PLC0415  only where there is another user

    return pwd.getpwnam(user).pw_gid


def _end(children: dict[int, subprocess.Popen[bytes]]) -> None:
    for child in children.values():
        if child.returncode is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                child.kill()
    for child in children.values():
        child.wait()


if __name__ == "__main__":
    main(sys.argv[1], remove=sys.argv[2] == "remove")
