"""What a run tells besides: failures at once, so that one that is ended early has said what failed; and where time went.

At the end come the files that took longest, set-ups and call together, and when each worker had nothing more to do.
"""

import time
from collections import Counter

import pytest

LINES = 25  # of a failure; the whole is at the end
FILES, LEAST_S = 30, 5.0


class Told:
    """Writes to the terminal; workers have none."""

    def __init__(self, terminal):
        self._terminal = terminal
        self._begun = time.monotonic()
        self._files, self._workers = Counter(), {}

    @pytest.hookimpl(trylast=True)  # after the terminal's own letter
    def pytest_runtest_logreport(self, report):
        """Which failed, in which phase, and the end of what was wrong."""
        self._files[report.nodeid.split("::")[0]] += report.duration
        if node := getattr(report, "node", None):
            self._workers[node.gateway.id] = time.monotonic() - self._begun
        if report.failed:
            kind = "FAILED" if report.when == "call" else "ERROR"
            self._terminal.write_line(f"\n{kind} {report.nodeid} ({report.when})", red=True)
            for line in report.longreprtext.splitlines()[-LINES:]:
                self._terminal.write_line(f"    {line}")

    def pytest_terminal_summary(self):
        """The slowest files and the workers, where several had to be busy."""
        if self._workers:
            self._terminal.section("files that took longest")
            for file, seconds in self._files.most_common(FILES):
                if seconds >= LEAST_S:
                    self._terminal.write_line(f"{seconds:7.1f} s  {file}")
            ended = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(self._workers.items()))
            self._terminal.write_line(f"{sum(self._files.values()):7.1f} s in all; last test of {ended}")


@pytest.hookimpl(trylast=True)  # the terminal is there by then
def pytest_configure(config):
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Told(terminal), "told")
