"""What commands show: a moving line while something is waited for, plain lines without a terminal.

`rich` honours NO_COLOR and knows what a terminal is; nothing else decides about either.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table

Tone = Literal["wait", "done", "warn", "fail"]
Tell = Callable[[Tone, str], None]
"""Tells what is waited for, what is done, what went wrong."""

_MARKS = {"done": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
_PLAIN_WIDTH = 120
_EACH_S = 5.0


def console(*, stderr: bool = False) -> Console:
    """The console of this process: as wide as COLUMNS or its terminal, without either as a table needs."""
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        found = Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)
    return found


class Display:
    """Tells on a console. Use as a context, so that the moving line goes whatever happens."""

    def __init__(self, target: Console) -> None:
        self.console = target
        self._status: Status | None = None
        self._bar: tuple[Progress, TaskID, str] | None = None
        self._job, self._said_at = "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def tell(self, tone: Tone, text: str) -> None:
        """Show one event."""
        if tone == "wait":
            self._wait(text)
            return
        self._stop()
        self.console.print(f"{_MARKS[tone]} {text}", soft_wrap=True)

    def advance(self, job: str, done: int, total: int | None) -> None:
        """Show how far a job is; without a total it is only shown that it goes on."""
        if total is None:
            self.tell("wait", job)
        elif self.console.is_terminal:
            progress, task = self._bar_of(job)
            progress.update(task, completed=done, total=total)
        else:
            self._wait_plainly(f"{job}: {done} of {total}")

    def _bar_of(self, job: str) -> tuple[Progress, TaskID]:
        if self._bar is None or self._bar[2] != job:
            self._stop()
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            progress = Progress(*columns, console=self.console, transient=True)
            self._bar = progress, progress.add_task(job), job
            progress.start()
        return self._bar[:2]

    def _wait(self, text: str) -> None:
        self._stop_bar()
        if not self.console.is_terminal:
            self._wait_plainly(text)
        elif self._status:
            self._status.update(text)
        else:
            self._status = self.console.status(text)
            self._status.start()

    def _wait_plainly(self, text: str) -> None:
        """A line for what is new; of one job's many steps a line now and then."""
        job, now = text.partition(":")[0], time.monotonic()
        if job != self._job or now - self._said_at > _EACH_S:
            self._job, self._said_at = job, now
            self.console.print(f"  {text} ...", soft_wrap=True)

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _stop(self) -> None:
        self._stop_bar()
        if self._status:
            self._status.stop()
            self._status = None


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str = "") -> Table:
    """A table of plain values; None is shown as a dash."""
    made = Table(title=title or None, title_justify="left", title_style="bold")
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*("-" if value is None else escape(str(value)) for value in row))
    return made
