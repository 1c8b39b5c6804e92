"""Paints the events of the engine: plain stable lines, a live display, JSON, or nothing.

Plain lines are the same in every run, so that scripts and people can compare them:

      1* FROM debian:bookworm       found in the build cache
      2. RUN.S make                 carried out

Where several steps run at once, each line of their output says whose it is. On a terminal their
output is grouped instead: that of the oldest step is shown as it comes, that of the others when
they end or their turn comes. A display below the lines shows what runs, for how long, and what it
said last; it is loaded only when there is something to wait for, so that a build that only hits
does not pay for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from ch_image.cli.log import Log
from ch_image.errors import printable
from ch_image.report import (
    Detail,
    Event,
    Info,
    Output,
    Progress,
    StepDone,
    StepFaulted,
    StepHit,
    StepStarted,
    Warned,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.cli.live import Live

STYLES = ("auto", "plain", "tty", "json", "quiet")
_HEARTBEAT = 10.0  # seconds between two plain lines about the same transfer
_TAIL = 20  # lines of a RUN that are repeated when it fails
_HELD = 1 << 20  # characters of a step's output that are held back for the sake of grouping
_SHORT = 0.05  # seconds: a step that took less has nothing to say about it
_Step = tuple[str, int]  # stage and line: what tells running steps apart


class _Running:
    """A step under way."""

    __slots__ = ("held", "shared", "size", "tail")

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.held: list[str] = []  # lines that were not shown yet
        self.size = 0  # characters of them
        self.shared = False  # others ran at the same time, so its lines may be torn apart


class Console:
    """A ``Reporter``. ``verbosity`` is negative for ``-q``, 1 for ``-v``, 2 for ``--debug``."""

    def __init__(self, log: Log, *, verbosity: int = 0, style: str = "auto") -> None:
        self._log, self._verbosity = log, verbosity
        self._lock = threading.Lock()
        self._running: dict[_Step, _Running] = {}
        self._faulted: _Running | None = None
        self._told: dict[str, float] = {}  # transfer -> when a line was last printed
        self._json = style == "json"
        self._wants_live = style == "tty" or (style == "auto" and log.is_terminal)
        if style == "quiet":
            self._verbosity = min(self._verbosity, -1)
        if self._verbosity < 0:
            self._wants_live = False
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Take one event, from any thread."""
        with self._lock:
            if self._json:
                self._paint_json(event)
            else:
                self._paint(event)

    def close(self) -> None:
        """Take the live display away; lines stay."""
        with self._lock:
            if self._live is not None:
                self._live.close()
            for step, running in self._running.items():
                self._release(step, running)
            self._live, self._wants_live = None, False

    def failure_tail(self) -> list[str]:
        """The last lines of the step that failed, where they don't stand together already."""
        with self._lock:
            failed = self._faulted
            if failed is None and len(self._running) == 1:
                failed = next(iter(self._running.values()))
            if failed is None or (self._verbosity >= 0 and not failed.shared):
                return []
            return list(failed.tail)

    def _paint(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._started(event)
            case StepHit():
                self._line(0, f"{event.number:3}* {printable(event.text)}")
            case StepDone():
                self._ended((event.stage, event.number))
                if event.seconds >= _SHORT:
                    self._line(1, f"{event.number:3}  done in {event.seconds:.1f} s")
            case StepFaulted():
                self._faulted = self._running.get((event.stage, event.number))
                self._ended((event.stage, event.number))
            case Output():
                self._output(event)
            case Progress():
                self._progress(event)
            case Info():
                self._line(0, printable(event.text))
            case Detail():
                self._line(event.level, printable(event.text))
            case Warned():
                self._log.warning(printable(event.text))

    def _line(self, level: int, text: str) -> None:
        if self._verbosity >= level:
            self._log.line(text)

    def _started(self, event: StepStarted) -> None:
        self._running[event.stage, event.number] = _Running()
        if len(self._running) > 1:
            for running in self._running.values():
                running.shared = True
        text = f"{event.number:3}. {printable(event.text)}"
        self._line(0, text)
        if self._wants_live:
            self._display().step(f"step {event.number}", text)

    def _ended(self, step: _Step) -> None:
        running = self._running.pop(step, None)
        if running is not None:
            self._release(step, running)
        if self._live is not None:
            self._live.remove(f"step {step[1]}")
        for first in list(self._running)[:1]:
            self._release(first, self._running[first])

    def _output(self, event: Output) -> None:
        step = (event.stage, event.number)
        text = printable(event.line.rstrip("\r\n").replace("\t", "        "), 4000)
        running = self._running.get(step)
        if running is None:
            self._line(0, text)
            return
        running.tail.append(text)
        if self._live is not None:
            self._live.said(f"step {event.number}", text)
        oldest = next(iter(self._running)) == step and not running.held
        if not running.shared:
            self._line(0, text)
        elif oldest or not self._wants_live:
            self._line(0, _whose(step, text))
        else:
            running.held.append(text)
            running.size += len(text)
            if running.size > _HELD:
                self._release(step, running)

    def _release(self, step: _Step, running: _Running) -> None:
        """Show what was held back."""
        for text in running.held:
            self._line(0, _whose(step, text))
        running.held, running.size = [], 0

    def _display(self) -> Live:
        if self._live is None:
            from ch_image.cli.live import Live

            self._live = Live(self._log, self._lock)
        return self._live

    def _progress(self, event: Progress) -> None:
        if self._wants_live:
            if event.total and event.done >= event.total:
                self._display().remove(event.what)
            else:
                self._display().transfer(event.what, event.done, event.total)
            return
        now = time.monotonic()
        since = self._told.setdefault(event.what, now)
        if event.total and event.done >= event.total:
            self._told.pop(event.what)
            self._line(1, f"{printable(event.what)}: {size(event.total)}")
        elif now - since >= _HEARTBEAT:
            self._told[event.what] = now
            of = f" of {size(event.total)}" if event.total else ""
            self._line(0, f"{printable(event.what)}: {size(event.done)}{of}")

    def _paint_json(self, event: Event) -> None:
        import json

        value = {"event": type(event).__name__, "time": round(time.time(), 3), **event._asdict()}
        self._log.line(json.dumps(value))


def _whose(step: _Step, text: str) -> str:
    stage, number = step
    return f"[{printable(stage, 40)} {number}] {text}"


def size(number: int) -> str:
    """A number of bytes as people read it, in powers of 1024 (``12.3 MiB``)."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{number} B"
        amount /= 1024
    return f"{amount:.1f} TiB"
