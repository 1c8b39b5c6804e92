"""Lines for people: where they go, and how ``error:`` and ``warning:`` stand out.

Everything goes to standard error, or to the file that ``CH_LOG_FILE`` names; errors go to both.
``CH_LOG_FESTOON`` puts process number and time before each line. A log that cannot be written
stops nothing: there is nobody left to tell.
"""

from __future__ import annotations

import os
import sys

from ch_image.cli.environment import switched_on
from ch_image.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.typed import TextIO

_COLOURS = {"error": "1;31", "warning": "1;33", "hint": "36", "dim": "2"}


class Log:
    """Writes whole lines; may be used from several threads."""

    def __init__(self, env: Mapping[str, str], *, quiet: int = 0) -> None:
        self._warnings: list[str] = []
        self._quiet = quiet
        self._festoon = switched_on(env, "CH_LOG_FESTOON")
        self._file: TextIO | None = _append(env.get("CH_LOG_FILE", ""))
        self.is_file = self._file is not None
        self.is_terminal = not self.is_file and _is_terminal(env)
        self.has_colour = self.is_terminal and not env.get("NO_COLOR")
        # Set while a live display stands below the lines: it knows how to write above itself.
        self.above: Callable[[str], None] | None = None

    def line(self, text: str) -> None:
        """One line, already safe to show."""
        self._write(self._file or sys.stderr, text)

    def error(self, message: str, hint: str, more: tuple[str, ...] = ()) -> None:
        """What went wrong and what to do; ``more`` are the lines that belong to the message."""
        lines = [f"{self.paint('error')}: {message}", *more]
        lines += [f"{self.paint('hint')}: {hint}"] if hint else []
        for text in lines:
            if self._file:
                self._write(self._file, text)
            self._write(sys.stderr, text)

    def warning(self, text: str) -> None:
        """Something that is probably not meant; said again by ``repeat_warnings``."""
        self._warnings.append(text)
        if self._quiet < 2:
            self.line(f"{self.paint('warning')}: {text}")

    def repeat_warnings(self) -> None:
        """At the end, say again what may have scrolled away."""
        if self._warnings and self._quiet < 2:
            number = len(self._warnings)
            label = self.paint("warning")
            self.line(f"{label}: reprinting {number} warning{'s' if number > 1 else ''}")
            for text in self._warnings:
                self.line(f"{label}: {text}")
        self._warnings.clear()

    def paint(self, word: str, style: str = "") -> str:
        """``word`` in its colour, where there are colours."""
        return f"\033[{_COLOURS[style or word]}m{word}\033[0m" if self.has_colour else word

    def _write(self, stream: TextIO | None, text: str) -> None:
        if self._festoon:
            import time

            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            text = f"{os.getpid()} {now} {text}"
        try:
            if self.above is not None and stream is sys.stderr:
                self.above(text)
            elif stream is not None:
                stream.write(text + "\n")
                stream.flush()
        except (OSError, ValueError):
            pass  # the log itself is full, gone or closed


def _append(path: str) -> TextIO | None:
    if not path:
        return None
    try:
        return open(path, "a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"CH_LOG_FILE: cannot write '{printable(path)}': {error.strerror}",
            hint="name a file that can be written, or unset the variable",
        ) from None


def _is_terminal(env: Mapping[str, str]) -> bool:
    try:
        return bool(sys.stderr) and sys.stderr.isatty() and env.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False
