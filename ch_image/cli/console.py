"""Paints the events of the engine: plain stable lines, a live display, JSON, or nothing.

Plain lines are the same in every run, so that scripts and people can compare them:

      1* FROM debian:bookworm       found in the build cache
      2. RUN.S make                 carried out

On a terminal a display below the lines shows what runs and for how long; it is loaded only when
there is something to wait for, so that a build that only hits does not pay for it.
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
_Step = tuple[str, int]  # stage and line: what tells running steps apart


class Console:
    """A ``Reporter``. ``verbosity`` is negative for ``-q``, 1 for ``-v``, 2 for ``--debug``."""

    def __init__(self, log: Log, *, verbosity: int = 0, style: str = "auto") -> None:
        self._log, self._verbosity = log, verbosity
        self._lock = threading.Lock()
        self._running: dict[_Step, deque[str]] = {}
        self._told: dict[str, float] = {}  # transfer -> when a line was last printed
        self._last_step: _Step | None = None
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
            self._live, self._wants_live = None, False

    def failure_tail(self) -> list[str]:
        """The last lines of the steps that did not end, where they were not shown already."""
        with self._lock:
            if self._verbosity >= 0 and len(self._running) < 2:
                return []
            return [line for lines in self._running.values() for line in lines]

    def _paint(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._running[event.stage, event.number] = deque(maxlen=_TAIL)
                self._line(0, f"{event.number:3}. {printable(event.text)}")
                self._show(event)
            case StepHit():
                self._line(0, f"{event.number:3}* {printable(event.text)}")
            case StepDone():
                self._running.pop((event.stage, event.number), None)
                self._line(1, f"{event.number:3}  done in {event.seconds:.1f} s")
                self._show(event)
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

    def _output(self, event: Output) -> None:
        step = (event.stage, event.number)
        text = printable(event.line.rstrip("\r\n").replace("\t", "        "), 4000)
        if step in self._running:
            self._running[step].append(text)
        several = len(self._running) > 1  # then each line says whose it is
        self._line(0, f"{event.number:3}| {text}" if several else text)

    def _show(self, event: StepStarted | StepDone | Progress) -> None:
        if not self._wants_live:
            return
        if self._live is None:
            from ch_image.cli.live import Live

            self._live = Live(self._log, self._lock)
        self._live.show(event)

    def _progress(self, event: Progress) -> None:
        if self._wants_live:
            self._show(event)
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


def size(number: int) -> str:
    """A number of bytes as people read it, in powers of 1024 (``12.3 MiB``)."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}" if unit != "B" else f"{number} B"
        amount /= 1024
    return f"{amount:.1f} TiB"
