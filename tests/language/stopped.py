"""Stops a replacement of a key directory by SIGKILL at each of its system calls, and says what is found after each.

    python -m tests.language.stopped CASE DIRECTORY

A child is traced (ptrace, through ctypes) and killed when it enters the n-th call, which then is not made; n grows until
a child comes to its end. Calls that only look are passed over, where their numbers are known: after one the disk is as
it was before it. Out: {"calls": n, "faults": [text, ...]}, or {"forbidden": why} where nobody may trace.
"""

import base64
import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from regional_keystone.key_directory import examine, write_directory
from regional_keystone.keys import KeyRing

TRACEME, SYSCALL, SETOPTIONS = 0, 24, 0x4200
EXITKILL, SYSGOOD = 1 << 20, 1
LOOKS = {  # read, close, stat, lseek, ioctl, fcntl, geteuid, getdents64, newfstatat, statx and their like
    "x86_64": {0, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 16, 28, 39, 72, 79, 89, 102, 104, 107, 108, 186, 202, 217, 262, 318, 332}
}.get(os.uname().machine, set())  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request, pid=0, data=0):
    if _libc.ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def key(number):
    return base64.urlsafe_b64encode(hashlib.sha256(str(number).encode()).digest())


def ring_of(*numbers, epoch):
    return KeyRing({number: key(1000 + number) for number in numbers}, epoch)


OLD = ring_of(0, 3, 4, 5, epoch=3)


def ours(path):
    write_directory(path, OLD)


def upstream(path):
    path.mkdir(mode=0o700)
    for number, content in OLD.numbers.items():
        (path / str(number)).write_bytes(content)
        (path / str(number)).chmod(0o600)


def damaged(path):
    ours(path)
    (path / "2").write_bytes(b"half")
    (path / "0").write_bytes(b"")


CASES = {  # how the directory was made, and what replaces it
    "growth": (ours, OLD.rotated(key(1))),
    "steady": (ours, OLD.rotated(key(1), [3])),
    "retirement": (ours, OLD.without([3, 4])),
    "leap": (ours, ring_of(0, 4, 7, 8, 9, epoch=9)),
    "upstream": (upstream, OLD.rotated(key(1), [3])),
    "mending": (damaged, OLD),
    "first": (lambda path: None, OLD),
}


def stopped_at(number, path, ring):
    """Kill a replacement when it enters this call; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            ptrace(TRACEME)
            os.kill(os.getpid(), signal.SIGSTOP)
            write_directory(path, ring)
        except BaseException as problem:
            os.write(2, repr(problem).encode())
            os._exit(77 if isinstance(problem, PermissionError) else 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        raise PermissionError("a child could not ask to be traced")
    ptrace(SETOPTIONS, child, EXITKILL | SYSGOOD)
    stops = calls = 0
    while True:
        ptrace(SYSCALL, child)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise AssertionError(f"the replacement ended with {os.WEXITSTATUS(status)}")
            return False
        if os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
            stops += 1
            calls += stops % 2 and not looks(child)  # each call stops when it is entered and when it is left
            if stops % 2 and calls == number:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True


def looks(child):
    """Whether the call that it enters changes nothing on a disk."""
    return int(Path(f"/proc/{child}/syscall").read_bytes().split()[0]) in LOOKS


def read_as_keystone(path):
    """Every key, and the one that seals, as fernet_utils.load_keys finds them."""
    keys = {}
    for file in path.iterdir():
        if file.name.isdigit():
            keys[int(file.name)] = file.read_bytes()
    keys = {number: content for number, content in keys.items() if content}
    return set(keys.values()), keys[max(keys)], keys[0]


def faults_of(case, path, new):
    """What is missing, or wrong, in what a fresh start finds."""
    if case == "first":
        found = examine(path).ring if (path / "0").exists() else None
        whole = found is None or (set(found.numbers.values()), found.staged) == (set(new.numbers.values()), new.staged)
        return [] if whole else [f"a part of a first ring is used: {found}"]
    old = OLD
    lasting = set(old.numbers.values()) & set(new.numbers.values())
    primaries = {ring.numbers[ring.primary] for ring in (old, new)}
    faults = []
    found = examine(path)
    if case != "mending":  # what was damaged before is found by the test of damage
        if found.damage or found.lost or found.ring is None:
            return [f"a fresh start finds {found}"]
        if found.epoch not in {old.epoch, new.epoch, 0} or found.ring.numbers[found.ring.primary] not in primaries:
            faults.append(f"a fresh start finds {found.ring}")
        if not lasting <= set(found.ring.numbers.values()):
            faults.append("a fresh start misses a key")
        keys, primary, staged = read_as_keystone(path)
        if not lasting <= keys or primary not in primaries or staged not in (old.staged, new.staged):
            faults.append("a Keystone misses a key, or takes a wrong one")
    elif found.ring is not None and not set(found.ring.numbers.values()) <= set(OLD.numbers.values()):
        faults.append("a key that is none is used")
    return faults


def main(case, home):
    make, new = CASES[case]
    number, faults = 0, []
    while True:
        number += 1
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        path = home / "keys"
        make(path)
        try:
            killed = stopped_at(number, path, new)
        except PermissionError as problem:
            print(json.dumps({"forbidden": str(problem)}))
            return
        if killed:
            faults += [f"call {number}: {fault}" for fault in faults_of(case, path, new)]
            write_directory(path, new)
        found = examine(path)
        if found.ring != new or found.damage or read_as_keystone(path)[0] != set(new.numbers.values()):
            faults.append(f"call {number}: doing it again does not finish: {found}")
        if [file.name for file in home.iterdir()] != ["keys"]:
            faults.append(f"call {number}: something is left beside it")
        if not killed:
            print(json.dumps({"calls": number - 1, "faults": faults[:10]}))
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
