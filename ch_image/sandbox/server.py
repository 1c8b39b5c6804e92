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
import struct

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.frames import HEAD, unpack
from ch_image.sandbox.plan import parse
from ch_image.sandbox.start import get_ready, spawn

_FDS = struct.Struct("4i")


def serve(number: int) -> None:
    """Serve requests on the socket ``number`` until it closes."""
    socket = _socket.socket(fileno=number)
    os.set_inheritable(number, False)
    kernel.prctl(kernel.PR_SET_NAME, _name_address())
    os.setsid()  # a Ctrl-C is for the build, which then closes the socket
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # containers report by their pipes
    get_ready()
    while True:
        request = _receive(socket)
        if request is None:
            return
        words, fds = request
        try:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            spawn(parse(words), fds)
        except OSError as error:
            text = f"error\0a container cannot be started: {error.strerror}"
            os.write(fds[3], text.encode())
        finally:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
            for fd in set(fds):
                os.close(fd)


_NAME = b"ch-image-runner\0"


def _name_address() -> int:
    import ctypes

    return ctypes.cast(ctypes.c_char_p(_NAME), ctypes.c_void_p).value or 0


def _receive(socket: _socket.socket) -> tuple[list[str], tuple[int, int, int, int]] | None:
    head, ancillary, _, _ = socket.recvmsg(HEAD.size, _socket.CMSG_SPACE(_FDS.size))
    if not head:
        return None
    fds = (-1, -1, -1, -1)
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds = _FDS.unpack(content[: _FDS.size])
    for fd in fds:
        os.set_inheritable(fd, False)
    while len(head) < HEAD.size:
        head += socket.recv(HEAD.size - len(head))
    (left,) = HEAD.unpack(head)
    parts = []
    while left:
        part = socket.recv(min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return unpack(b"".join(parts)), fds
