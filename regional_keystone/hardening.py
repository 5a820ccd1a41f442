"""What the kernel is asked to do for a process that holds keys: it leaves no core, and nobody reads its memory."""

import contextlib
import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """New files are for their owner alone, no core is dumped, and no other process of the same user looks inside.

    For every server, before it reads a key: what it starts inherits the first two and has to ask for the third again.
    A handler that core_pattern names is given a core whatever the limit is, so that both are needed.
    Source: prctl(2) PR_SET_DUMPABLE, core(5).
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
