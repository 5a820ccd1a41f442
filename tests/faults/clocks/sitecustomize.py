"""For the processes of a federation under test: Python's wall clock goes as much ahead as a file says; no other does.

Found by way of PYTHONPATH when a process begins, so that nothing of the product knows of it. The file is named after
the process's configuration and holds nanoseconds.
"""

import itertools
import mmap
import os
import pathlib
import struct
import sys
import time

OFFSET_NS = struct.Struct("=q")


def _begin(directory: str, words: list[str]) -> None:
    config = next((word for before, word in itertools.pairwise(words) if before == "--config"), None)
    if config is None:
        return
    file = os.open(pathlib.Path(directory, pathlib.Path(config).stem), os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, OFFSET_NS.size)
    ahead, time_ns, clock_gettime = mmap.mmap(file, OFFSET_NS.size), time.time_ns, time.clock_gettime
    os.close(file)

    def now_ns() -> int:
        return time_ns() + OFFSET_NS.unpack_from(ahead)[0]

    time.time_ns = now_ns
    time.time = lambda: now_ns() / 1e9
    time.clock_gettime = lambda clock: now_ns() / 1e9 if clock == time.CLOCK_REALTIME else clock_gettime(clock)


if "FAULTS_CLOCKS" in os.environ:
    _begin(os.environ["FAULTS_CLOCKS"], sys.orig_argv)
