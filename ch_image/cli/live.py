"""What only a terminal shows: a live display of what runs, and trees. The only user of rich.

The display has one line per running step or transfer. It stands below the lines that have been
printed, and only while something takes long enough to wait for; rich is not even loaded before.
"""

from __future__ import annotations

import threading
import time

from ch_image.cli.log import Log
from ch_image.errors import printable
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Table
    from rich.progress import TaskID

    from ch_image.cli.cachetree import Node

_PATIENCE = 0.3  # seconds before anything is shown
_TEXT, _LAST = 46, 60  # columns of what runs, and of what it said last


class _Line:
    """One line of the display; ``done`` and ``total`` in bytes, 0: not known."""

    __slots__ = ("amount", "done", "since", "task", "text", "total")

    def __init__(self, text: str) -> None:
        self.text, self.amount, self.done, self.total = text, "", 0, 0
        self.since = time.monotonic()
        self.task: TaskID | None = None


class Live:
    """Methods are called with ``lock`` held; a timer of ours takes it to start the display."""

    def __init__(self, log: Log, lock: threading.Lock) -> None:
        self._log, self._lock = log, lock
        self._lines: dict[str, _Line] = {}
        self._table: Table | None = None
        self._timer: threading.Timer | None = None

    def step(self, key: str, text: str) -> None:
        """Show a step that runs now."""
        self._line(key, text)

    def said(self, key: str, text: str) -> None:
        """Show the last line that a step wrote."""
        line = self._lines.get(key)
        if line is not None:
            line.amount = printable(text.strip(), _LAST)
            self._update(line)

    def transfer(self, what: str, done: int, total: int) -> None:
        """Show how far a transfer is."""
        from ch_image.cli.console import size

        line = self._line(what, what)
        line.done, line.total = done, total
        line.amount = f"{size(done)}/{size(total)}" if total else size(done) if done else ""
        self._update(line)

    def remove(self, key: str) -> None:
        """Take a line away; with the last one goes the display."""
        line = self._lines.pop(key, None)
        if line is not None and line.task is not None and self._table is not None:
            self._table.remove_task(line.task)
        if not self._lines:
            self.close()

    def close(self) -> None:
        """Take the display away."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._table is not None:
            self._log.above = None
            self._table.stop()
            self._table = None
            for line in self._lines.values():
                line.task = None

    def _line(self, key: str, text: str) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(printable(text, _TEXT))
            if self._table is not None:
                self._add(self._table, line)
            elif self._timer is None:
                self._timer = threading.Timer(_PATIENCE, self._start)
                self._timer.daemon = True
                self._timer.start()
        return line

    def _update(self, line: _Line) -> None:
        if self._table is not None and line.task is not None:
            self._table.update(
                line.task, completed=line.done, total=line.total or None, amount=line.amount
            )

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Table

        with self._lock:
            if self._timer is None or not self._lines:
                return
            console = Console(stderr=True, no_color=not self._log.has_colour, highlight=False)
            self._table = table = Table(
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[amount]}", markup=False),
                console=console,
                transient=True,
                refresh_per_second=5,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            for line in self._lines.values():
                self._add(table, line)
            self._log.above = self._above
            table.start()

    def _add(self, table: Table, line: _Line) -> None:
        line.task = table.add_task(
            line.text, total=line.total or None, completed=line.done, amount=line.amount
        )
        # It has been running since before there was a display.
        table.tasks[-1].start_time = table.get_time() - (time.monotonic() - line.since)

    def _above(self, text: str) -> None:
        from rich.text import Text

        if self._table is not None:
            self._table.console.print(Text.from_ansi(text), soft_wrap=True)


def show_tree(roots: list[Node], *, colour: bool) -> None:
    """Print the build cache on standard output; see `ch_image.cli.cachetree`."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from ch_image.cli.cachetree import ago
    from ch_image.cli.console import size

    console = Console(no_color=not colour, highlight=False)
    for root in roots:
        top = Tree("", hide_root=True, guide_style="dim")
        todo = [(root, top, "", False)]
        while todo:
            node, branch, stage, fork = todo.pop()
            text = Text()
            if node.record.stage and node.record.stage != stage:
                text.append(f"[{printable(node.record.stage, 40)}] ", "magenta")
            text.append(printable(node.record.text, 100))
            if node.size is not None:
                text.append(f"  {size(node.size)}", "cyan")
            text.append(f"  {ago(node.used)}", "dim")
            if node.images:
                text.append(f"  {', '.join(node.images)}", "green")
            below = branch.add(text)
            # A chain of steps stays in its column; what branches off begins one of its own.
            forks = len(node.children) > 1
            under = below if forks or fork else branch
            todo += [(child, under, node.record.stage, forks) for child in node.children[::-1]]
        console.print(top, soft_wrap=False, no_wrap=True, overflow="ellipsis")
