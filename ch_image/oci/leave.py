"""Leaving a process behind that works on for us, once it has said whether it can."""

from __future__ import annotations

import os
from collections.abc import Callable

from ch_image.errors import ChError
from ch_image.sandbox import syscalls as kernel

_READY, _FAULT = "ready", "fault"
_END = b"\0\0"


class Report:
    """Where the process says that it is ready, or why not."""

    def __init__(self, fd: int, kept: tuple[int, ...]) -> None:
        self._fd, self._kept = fd, kept

    def ready(self, *words: str) -> None:
        """Let whoever waits go on. Raises BrokenPipeError when they were killed."""
        self._say(_READY, *words)
        os.close(self._fd)
        self._fd = -1

    def fault(self, message: str, hint: str = "") -> None:
        """Say what went wrong, if nobody was told that it went well. Never fails."""
        try:
            if self._fd >= 0:
                self._say(_FAULT, message, hint)
        except OSError:
            pass

    def _say(self, *words: str) -> None:
        data = "\0".join(words).encode("utf-8", "surrogateescape")
        os.write(self._fd, data + _END)


def leave(name: str, work: Callable[[Report], None], kept: tuple[int, ...] = ()) -> list[str]:
    """Do ``work`` in a process of its own, called ``name``; what it says when it is ready.

    It belongs to no terminal and to no session, is no child of ours, and has no descriptor but
    the standard ones and ``kept``; it lets go of the standard ones with `detach`. Raises ChError
    when it says so, or is killed before it says anything.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _close_all_but({*kept, writer})
                _carry_out(name, work, Report(writer, kept))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    answer = _read(reader)
    if answer[0] != _READY:
        message, hint = (*answer[1:], "", "")[:2]
        raise ChError(message or "the process that was to stay behind was killed", hint=hint)
    return answer[1:]


def _read(reader: int) -> list[str]:
    """What it says; its end is marked, for a container may have the pipe open still."""
    data = b""
    while not data.endswith(_END) and (chunk := os.read(reader, 1 << 16)):
        data += chunk
    os.close(reader)
    return data.removesuffix(_END).decode("utf-8", "surrogateescape").split("\0")


def _carry_out(name: str, work: Callable[[Report], None], report: Report) -> None:
    try:
        try:
            kernel.write_file("/proc/self/comm", name)
        except OSError:  # it is only for ps
            pass
        work(report)
    except ChError as error:
        report.fault(str(error), error.hint)
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        report.fault(f"{where}{error.strerror}")
    except Exception as error:  # whoever waits must hear of it, whatever it is
        report.fault(f"internal error: {type(error).__name__}: {error}")


def detach() -> None:
    """Let go of the standard descriptors and of the directory."""
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _close_all_but(kept: set[int]) -> None:
    last = 2
    for fd in sorted(kept):
        if fd > last + 1:
            kernel.close_range(last + 1, fd - 1)
        last = max(last, fd)
    kernel.close_range(last + 1)
