"""Our terminal or pipes as a container's: the other side of its keeper."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ch_image.errors import ChError
from ch_image.oci import talk
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Protocol

DETACH = b"\x10\x11"  # Ctrl-P Ctrl-Q, typed at a terminal
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_HUP, _INT, _QUIT, _USR1, _USR2, _TERM, _WINCH = 1, 2, 3, 10, 12, 15, 28


class Line(Protocol):
    """Where messages (see ``talk``) come from and go to: a keeper, or what stands for one.

    Neither side waits for the other to take what it says: both would wait for ever.
    """

    def fileno(self) -> int:
        """Readable when there is a message."""

    def recv(self, size: int, /) -> bytes:
        """One message; nothing when the other side is gone. Raises BlockingIOError."""

    def send(self, message: bytes, /) -> int:
        """How much of it went; raises BlockingIOError, OSError when the other side is gone."""


class OwnChild:
    """A process of ours in a container, which has our own standard descriptors."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd = kernel.pidfd_open(pid)

    def fileno(self) -> int:
        """See ``Line``."""
        return self._pidfd

    def recv(self, _size: int, /) -> bytes:
        """See ``Line``."""
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return talk.END + b"%d" % (status if status >= 0 else 128 - status)

    def send(self, message: bytes, /) -> int:
        """See ``Line``."""
        return len(message)


class OwnTerminal(OwnChild):
    """The same at a terminal whose other side, ``master``, is ours."""

    def __init__(self, pid: int, master: int) -> None:
        super().__init__(pid)
        self._master = master
        os.set_blocking(master, False)

    def fileno(self) -> int:
        """See ``Line``."""
        return self._master

    def recv(self, size: int, /) -> bytes:
        """See ``Line``."""
        try:
            data = os.read(self._master, size - 1)
        except BlockingIOError:
            raise
        except OSError:  # nobody has it open any more
            data = b""
        return talk.OUT + data if data else super().recv(size)

    def send(self, message: bytes, /) -> int:
        """See ``Line``."""
        kind, data = message[:1], message[1:]
        if kind == talk.SIZE:
            fcntl.ioctl(self._master, _TIOCSWINSZ, data)
        elif kind == talk.CLOSE:
            os.write(self._master, b"\x04")
        else:
            return 1 + os.write(self._master, data)
        return len(message)


def received(line: socket.socket) -> int:
    """The descriptor that came over ``line``; -1 when none did."""
    _, ancillary, _, _ = line.recvmsg(64, socket.CMSG_SPACE(4))
    if not ancillary:
        return -1
    (fd,) = struct.unpack("i", ancillary[0][2][:4])
    os.set_inheritable(fd, False)
    return int(fd)


class Attachment:
    """A line joined to our standard descriptors.

    ``terminal``: the container has one. ``watch``: nothing of ours goes in. ``signalled`` gets the
    number of each signal that is meant for the container.
    """

    def __init__(
        self,
        line: Line,
        signalled: Callable[[int], None],
        *,
        terminal: bool,
        watch: bool = False,
    ) -> None:
        self._line, self._signalled = line, signalled
        self._terminal = terminal and os.isatty(0)
        self._input = -1 if watch else 0
        self._typed = b""  # the beginning of DETACH
        self._unsent: list[bytes] = []

    def follow(self, begin: Callable[[], object] = lambda: None) -> int | None:
        """Until the container has ended: its exit code; None when the user detached.

        ``begin`` is called when no signal can be missed any more. Raises ChError when the keeper
        was killed.
        """
        with _signals() as signals, _raw(self._terminal):
            begin()
            self._resize()
            while True:
                for fd, event in self._poll(signals).poll():
                    if fd == signals:
                        self._pass_on(os.read(signals, 64))
                    elif fd != self._line.fileno():
                        self._give()
                    else:
                        self._send()
                        code = self._take() if event & ~select.POLLOUT else None
                        if code is not None:
                            return code
                if self._typed == DETACH and not self._unsent:
                    return None

    def _poll(self, signals: int) -> select.poll:
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        poll.register(self._line, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if self._input >= 0 and not self._unsent:
            poll.register(self._input, select.POLLIN)
        return poll

    def _take(self) -> int | None:
        try:
            message = self._line.recv(talk.ROOM + 1)
        except BlockingIOError:
            return None
        except ConnectionResetError:  # it did not read all we said; what it said comes after that
            return None
        except OSError:
            message = b""
        if not message:
            raise ChError("the process that keeps the container's output was killed")
        kind, data = message[:1], message[1:]
        if kind == talk.END:
            return int(data)
        write_all(2 if kind == talk.ERR else 1, data)
        return None

    def _give(self) -> None:
        """Pass on what was typed."""
        try:
            data = os.read(self._input, talk.ROOM - len(DETACH))
        except OSError:
            data = b""
        at_end = not data
        if self._terminal:
            data = self._watch_for_detach(data)
        if data:
            self._send(talk.IN + data)
        if at_end:
            self._send(talk.CLOSE)
        if at_end or self._typed == DETACH:
            self._input = -1

    def _send(self, *messages: bytes) -> None:
        """Send as much as the other side takes; the rest when it takes more."""
        self._unsent += messages
        try:
            while self._unsent:
                message = self._unsent[0]
                rest = message[self._line.send(message) :]
                self._unsent[:1] = [message[:1] + rest] if rest else []
        except BlockingIOError:
            pass
        except OSError:  # it has ended; we shall read that
            self._unsent.clear()
            self._input = -1

    def _watch_for_detach(self, data: bytes) -> bytes:
        """``data`` without what may be the beginning of the detach keys."""
        data = self._typed + data
        at = data.find(DETACH)
        if at >= 0:
            self._typed = DETACH
            return data[:at]
        self._typed = DETACH[:1] if data.endswith(DETACH[:1]) else b""
        return data[: len(data) - len(self._typed)]

    def _pass_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number == _WINCH:
                self._resize()
            else:
                with suppress(ChError):  # it has ended; we shall read that
                    self._signalled(number)

    def _resize(self) -> None:
        if self._terminal:
            with suppress(OSError):
                self._send(talk.SIZE + fcntl.ioctl(0, _TIOCGWINSZ, bytes(8)))


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; when nobody reads any more it is let go."""
    with suppress(BrokenPipeError):
        while data:
            data = data[os.write(fd, data) :]


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Our terminal without its own ideas, for the container's to have them."""
    if not wanted:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)  # and keep what was typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that says the numbers of the signals we get, a byte each."""
    import signal

    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    numbers = (_HUP, _INT, _QUIT, _USR1, _USR2, _TERM, _WINCH)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
