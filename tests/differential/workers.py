"""Several pairs of servers at the same time, each with a world of its own, in a process of its own.

Which pair plays a part of the cells makes no difference: parts leave nothing behind.
"""

import contextlib
import itertools
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.util import Finalize

from tests.differential.resources import LAST
from tests.differential.run import Player, Report, progress
from tests.differential.servers import Ours, Upstream

_PART = 100  # cells that a pair plays before it takes others
_player = []  # that of this process


@contextlib.contextmanager
def both():
    """Both servers, started at the same time."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(kind) for kind in (Upstream, Ours)]
        found = []
        for one in starting:
            server = one.result()
            stack.callback(server.stop)
            found.append(server)
        yield found


def play(cells, count, report, tell):
    """Fill the report with what comes of all these cells, played by so many pairs."""
    started = time.monotonic()
    context = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start) as pool:
        waiting = [pool.submit(_play, part) for part in _parts(cells)]
        done = 0
        try:
            for one in as_completed(waiting):
                number, found = one.result()
                report.merge(found)
                done += number
                tell(progress(report, done, len(cells), started))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _parts(cells):
    """Cells of one section each. Large sections come first, so that all pairs end at the same time."""
    sections = [list(found) for _, found in itertools.groupby(cells, key=lambda one: one[1].section)]
    for section in sorted(sections, key=lambda one: (one[0][1].section == LAST, -len(one))):
        for first in range(0, len(section), _PART):
            yield section[first : first + _PART]


def _start():
    """Have a pair of servers, until this process ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stack = contextlib.ExitStack()
    Finalize(stack, stack.close, exitpriority=1)
    theirs, ours = stack.enter_context(both())
    _player.append(stack.enter_context(Player(theirs.url, ours.url)))


def _play(cells):
    report = Report()
    _player[0].play(cells, report)
    return len(cells), report
