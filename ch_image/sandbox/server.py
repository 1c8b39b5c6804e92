"""A small process that starts containers for a big one.

A build has threads, and forking a process with threads is unsafe; starting a new interpreter for
each RUN costs more than the RUN. So the build starts this server once: a fresh interpreter that
holds nothing but this package, shares the build's namespaces and forks a container per request.

A request is a frame of words (a container plan) with four descriptors: stdin, stdout, stderr and
the pipe for the result. The server keeps none of them. It ends when its socket closes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself costs an import of enum
import _socket
import os
import select

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.frames import Frame, receive
from ch_image.sandbox.plan import Plan, flags_asked, parse
from ch_image.sandbox.spare import Spare
from ch_image.sandbox.start import get_ready, spawn


def serve(number: int) -> None:
    """Serve requests on the socket ``number`` until it closes."""
    socket = _socket.socket(fileno=number)
    os.set_inheritable(number, False)
    kernel.prctl(kernel.PR_SET_NAME, _name_address())
    os.setsid()  # a Ctrl-C is for the build, which then closes the socket
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # containers report by their pipes
    get_ready()
    _Server(socket).run()
    os._exit(0)  # somebody waits for it, and there is nothing to tidy up


class _Server:
    """Starts what it is asked for, and has the processes of one container ready beforehand."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._ready = _spare(Plan("/", []).flags())
        self._begins: Spare | None = (
            None  # it has become a container whose command does not run yet
        )
        self._flags = 0  # of the last container

    def run(self) -> None:
        """Until the socket closes."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            begins = self._begins
            if begins:
                poll.register(begins, select.POLLIN)
            events = dict(poll.poll())
            if begins:
                poll.unregister(begins)
                if begins.fileno() in events:
                    # One processor is enough for a command's first steps: time for the next one.
                    begins.close()
                    self._begins = None
                    self._ready = self._ready or _spare(self._flags)
            if self._socket.fileno() in events and not self._serve():
                return

    def _serve(self) -> bool:
        asked = receive(self._socket, 4)
        if asked is None:
            return False
        try:
            self._start(asked)
        except OSError as error:
            text = f"error\0a container cannot be started: {error.strerror}"
            os.write(asked.fds[3], text.encode())
        finally:
            for fd in set(asked.fds):
                os.close(fd)
        return True

    def _start(self, asked: Frame) -> None:
        words = asked.words()
        self._flags = flags_asked(words)
        ready, self._ready = self._ready, None
        if ready and ready.become(asked, self._flags):
            if self._begins:
                self._begins.close()
            self._begins = ready
            return
        if ready:
            ready.close()
        stdin, stdout, stderr, result = asked.fds
        spawn(parse(words), (stdin, stdout, stderr, result))


def _spare(flags: int) -> Spare | None:
    try:
        return Spare(flags)
    except OSError:
        return None


_NAME = b"ch-image-runner\0"


def _name_address() -> int:
    import ctypes

    return ctypes.cast(ctypes.c_char_p(_NAME), ctypes.c_void_p).value or 0
