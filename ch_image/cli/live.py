"""The live display of a terminal: one line per running step or transfer. The only user of rich.

It stands below the lines that have been printed, and only while something takes long enough to
wait for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ch_image.cli.log import Log
from ch_image.errors import printable
from ch_image.report import Progress, StepDone, StepStarted

if TYPE_CHECKING:
    from rich.progress import TaskID

_PATIENCE = 0.3  # seconds before anything is shown


class Live:
    """Methods are called with ``lock`` held; a timer of ours takes it to start the display."""

    def __init__(self, log: Log, lock: threading.Lock) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Table

        self._log, self._lock = log, lock
        self._console = Console(stderr=True, no_color=not log.has_colour, highlight=False)
        self._table = Table(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._timer: threading.Timer | None = None

    def show(self, event: StepStarted | StepDone | Progress) -> None:
        """Add, advance or remove the line of a step or transfer."""
        match event:
            case StepStarted():
                self._set(f"step {event.number}", f"{event.number:3}. {event.text}", 0, 0)
            case StepDone():
                self._remove(f"step {event.number}")
            case Progress() if event.total and event.done >= event.total:
                self._remove(event.what)
            case Progress():
                self._set(event.what, event.what, event.done, event.total)

    def close(self) -> None:
        """Take the display away."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._log.above is not None:
            self._log.above = None
            self._table.stop()

    def _start(self) -> None:
        with self._lock:
            if self._timer is not None and self._tasks:
                self._log.above = self._above
                self._table.start()

    def _above(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def _set(self, key: str, text: str, done: int, total: int) -> None:
        from ch_image.cli.console import size

        amount = f"{size(done)}/{size(total)}" if total else size(done) if done else ""
        if key in self._tasks:
            self._table.update(self._tasks[key], completed=done, amount=amount)
            return
        self._tasks[key] = self._table.add_task(
            printable(text, 50), total=total or None, completed=done, amount=amount
        )
        if self._timer is None:
            self._timer = threading.Timer(_PATIENCE, self._start)
            self._timer.daemon = True
            self._timer.start()

    def _remove(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._table.remove_task(task)
        if not self._tasks:
            self.close()
