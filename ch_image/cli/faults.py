"""From an exception to an exit code and one ``error:`` line; the frame of every program.

Exit codes: 0 success, 1 a fault of input, build, registry or machine, 2 wrong usage, 128+N when
signal N ended the program (130 for Ctrl-C). Control characters of foreign text are shown escaped.
"""

from __future__ import annotations

import errno
import os
import sys

from ch_image.errors import ChError, ConfigError, DockerfileError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ch_image.cli.log import Log

_PATIENCE = 10.0  # seconds
_MOST = 50  # faults of one document that are shown
_WINDOW = 160  # characters of a Dockerfile line that are shown around its fault
_HINTS = {
    errno.ENOSPC: "free some space, or choose another directory, for storage with -s",
    errno.EDQUOT: "your quota is used up: remove files, or choose another directory with -s",
    errno.EROFS: "the file system is read-only: choose another directory, for storage with -s",
    errno.EACCES: "you have no permission for this path",
    errno.EPERM: "you have no permission for this path",
    errno.EMFILE: "raise the limit on open files: ulimit -n",
    errno.ENFILE: "the machine has too many files open",
    errno.EIO: "the disk or network file system under this path fails",
    errno.ESTALE: "the network file system under this path was changed by another machine",
    errno.ENOMEM: "the machine has too little memory free",
}


class Terminated(BaseException):
    """Signal ``number`` asked the program to end; raised so that everything is tidied up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Frame:
    """What a program sets while it learns its options, for when something goes wrong."""

    __slots__ = ("debug", "log")

    def __init__(self) -> None:
        self.debug = False
        self.log: Log | None = None


def run_program(body: Callable[[Frame], int], *, usage_code: int = 2, fault_code: int = 1) -> int:
    """Call ``body`` and turn whatever it raises into a message and an exit code."""
    _hold_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # names on disk need not be text in the caller's locale
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    frame = Frame()
    try:
        code = body(frame)
        if sys.stdout is not None:
            _flush_results()
    except BaseException as error:  # the last stop: nothing may end in a traceback
        code = _report(error, frame, usage_code, fault_code)
    if frame.log is not None:
        frame.log.repeat_warnings()
    return code


def end_on_signals() -> None:
    """Let TERM and HUP end the program in order, as Ctrl-C does.

    The first is enough: others that come while things are tidied up, as from somebody who presses
    Ctrl-C three times, change nothing until ``_PATIENCE`` is over.
    """
    # The module signal makes enums, which takes longer than a small command.
    import _signal as signal  # type: ignore[import-not-found]
    import time

    first = [0.0]

    def handler(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if first[0] and now < first[0] + _PATIENCE:
            return
        first[0] = now
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        usual = (signal.SIG_DFL, signal.default_int_handler)
        if signal.getsignal(number) in usual:  # nohup's choice stays
            signal.signal(number, handler)


def _hold_standard_descriptors() -> None:
    """Open what the caller has closed, lest a file of ours becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


class _ResultsLost(Exception):
    """Standard output cannot take the results."""


def _flush_results() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _ResultsLost(f"cannot write to standard output: {error.strerror}") from None


def _report(error: BaseException, frame: Frame, usage_code: int, fault_code: int) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return _reader_left(fault_code)
    if frame.debug:
        import traceback

        traceback.print_exception(error)
    log = frame.log
    if log is None:
        from ch_image.cli.log import Log

        frame.log = log = Log({})
    message, hint, more = describe(error)
    log.error(message, hint, more)
    if isinstance(error, _ResultsLost):
        _forget_results()
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, Terminated):
        return 128 + error.number
    return usage_code if isinstance(error, UsageError) else fault_code


def _reader_left(code: int) -> int:
    """``ch-image list | head`` is no fault to talk about."""
    _forget_results()
    return code


def _forget_results() -> None:
    """Keep Python from trying again to write what cannot be written when it ends."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def describe(error: BaseException) -> tuple[str, str, tuple[str, ...]]:
    """Message, hint, and the lines that belong to the message."""
    if isinstance(error, DockerfileError):
        file, line, _ = error.where
        message = f"{printable(file)}:{line}: {printable(str(error.args[0]))}"
        return message, printable(error.hint), _caret(error)
    if isinstance(error, ConfigError) and len(error.faults) > 1:
        shown = error.faults[:_MOST] + ["..."] * (len(error.faults) > _MOST)
        return printable(str(error)), "", tuple(f"  {printable(fault)}" for fault in shown)
    if isinstance(error, ChError):
        return printable(str(error)), printable(error.hint), ()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "", ()
    if isinstance(error, Terminated):
        import signal

        return f"ended by {signal.Signals(error.number).name}", "", ()
    if isinstance(error, _ResultsLost):
        return str(error), "", ()
    if isinstance(error, OSError) and error.errno is not None:
        return _os_error(error)
    if isinstance(error, MemoryError):
        return "out of memory", "", ()
    kind = type(error).__name__
    text = printable(
        f"internal error: {kind}: {error}" if str(error) else f"internal error: {kind}"
    )
    return text, "this is a fault of ch-image: run it again with --debug and report it", ()


def _os_error(error: OSError) -> tuple[str, str, tuple[str, ...]]:
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    reason = error.strerror or errno.errorcode.get(error.errno or 0, "unknown fault")
    where = printable(" -> ".join(names))
    message = f"{where}: {reason}" if where else reason
    return message, _HINTS.get(error.errno or 0, ""), ()


def _caret(error: DockerfileError) -> tuple[str, str]:
    """The faulty line and the mark under it; long lines are cut around the fault."""
    _, line, column = error.where
    text = error.text.expandtabs(1)
    start = max(0, column - 1 - _WINDOW // 2)
    before = printable(text[start : column - 1])
    marked = printable(text[column - 1 : column - 1 + max(1, error.width)][: _WINDOW // 2])
    after = printable(text[column - 1 + max(1, error.width) : start + _WINDOW])
    margin = f"{line:4} | "
    dots = "..." if start else ""
    shown = f"{margin}{dots}{before}{marked}{after}{'...' if len(text) > start + _WINDOW else ''}"
    return shown.rstrip(), " " * len(margin + dots + before) + "^" * max(1, len(marked))
