"""A container at our terminal.

It has a terminal of its own, whose other side is ours, so that nothing inside can reach into the
caller's: not type for them (TIOCSTI), not change its modes. Where standard input is no terminal,
the container gets our descriptors as they are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

from ch_image.sandbox.launcher import Container, Launcher
from ch_image.sandbox.plan import Plan
from ch_image.typed import Any

_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_PIECE = 1 << 16


def attend(launcher: Launcher, plan: Plan) -> Container:
    """Start the container and stay with it until it has ended. Raises SandboxError."""
    if not os.isatty(0):
        started = launcher.launch(plan, 0, 1, 2)
        started.wait()
        return started
    master, slave = os.openpty()
    try:
        _resize(master)
        plan.terminal = True
        started = launcher.launch(plan, slave, slave, slave)
        os.close(slave)
        slave = -1
        try:
            with _raw(), _resizing(master):
                _relay(started, master)
        finally:
            started.kill()
        return started
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def _relay(started: Container, master: int) -> None:
    poll = select.poll()
    for fd in (0, master, started.reader):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == started.reader:
                if started.read_some():
                    _drain(master)
                    return
            elif fd == master:
                if not _show(master):
                    poll.unregister(master)
            else:
                data = _read(0)
                _write(master, data or b"\x04")  # our terminal is gone: end of input
                if not data:
                    poll.unregister(0)


def _drain(master: int) -> None:
    os.set_blocking(master, False)
    while _show(master):
        pass


def _show(master: int) -> bool:
    data = _read(master)
    if data:
        _write(1, data)
    return bool(data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _PIECE)
    except OSError as error:
        if error.errno in (errno.EIO, errno.EAGAIN):  # nobody has the other side open; no more
            return b""
        raise


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:  # nobody is there to read it
            return


def _resize(master: int) -> None:
    try:
        fcntl.ioctl(master, _TIOCSWINSZ, fcntl.ioctl(0, _TIOCGWINSZ, bytes(8)))
    except OSError:  # no size
        pass


@contextmanager
def _resizing(master: int) -> Iterator[None]:
    import signal

    before = signal.signal(signal.SIGWINCH, lambda *_: _resize(master))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextmanager
def _raw() -> Iterator[None]:
    """Our terminal passes on all that is typed, Ctrl-C too."""
    import termios
    import tty

    before: list[Any] = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
