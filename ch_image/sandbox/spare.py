"""The processes of a container before anybody has asked for it.

Half of what a short RUN costs is two forks of an interpreter and the pages that each then writes
to, which the kernel copies one by one. So while a container runs, its server gets the next one's
process 1 and first process ready, on another processor, and they wait. What was asked for reaches
them by sockets; the mount namespace is made only then, for it has to hold what was mounted in the
meantime, and the first process enters it when it is furnished.
"""

from __future__ import annotations

import _socket
import os
import struct

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.frames import Frame, pack, receive
from ch_image.sandbox.furnish import furnish
from ch_image.sandbox.plan import parse
from ch_image.sandbox.start import (
    begin_first_process,
    command,
    fork_command,
    keep_only,
    lead,
    tell_fault,
)

_GO = pack([])
_PIECE = 1 << 17  # bytes


class Spare:
    """Processes that wait for a container with the namespaces ``flags``. Raises OSError."""

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._socket, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            pid = kernel.fork(flags & ~kernel.CLONE_NEWNS)
            if pid == 0:
                code = 1
                try:
                    self._socket.close()
                    code = _first_process(theirs)
                finally:
                    os._exit(code)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def become(self, asked: Frame, flags: int) -> bool:
        """Be the container that was asked for, with these flags; False when that cannot be."""
        if flags != self._flags:
            return False
        return _hand_on(self._socket, asked.frame, asked.fds)

    def fileno(self) -> int:
        """Something happens here when the container's command begins, or the spare has died."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of it: who waits, ends."""
        self._socket.close()


def _hand_on(socket: _socket.socket, data: bytes, fds: tuple[int, ...]) -> bool:
    """False when nobody is there: who waits may be killed as any process."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
    try:
        sent = socket.sendmsg([data], [rights], _socket.MSG_NOSIGNAL)
        if sent < len(data):  # who has all of it may have closed the socket
            socket.sendall(data[sent:])
    except OSError:
        return False
    return True


def _first_process(socket: _socket.socket) -> int:
    begin_first_process()
    keep_only((socket.fileno(),))
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            socket.close()
            _first_child(theirs)
        finally:
            os._exit(1)
    theirs.close()
    _own_all_pages()
    asked = receive(socket, 4)
    if asked is None:
        return 0
    stdin, stdout, stderr, result = asked.fds
    os.dup2(stderr, 2)
    try:
        alive = _hand_on(ours, asked.frame, (stdin, stdout, stderr))  # it reads while we mount
        plan = parse(asked.words())
        kernel.unshare(kernel.CLONE_NEWNS)
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = furnish(plan)
        alive = alive and _hand_on(ours, _GO, (namespace,))
        os.close(namespace)
        if not alive:
            child, ours = fork_command(plan, (stdin, stdout, stderr))
    except OSError as error:
        return tell_fault(result, error)
    return lead(plan, (stdin, stdout, stderr, result), root, child, ours, socket)


def _first_child(socket: _socket.socket) -> None:
    asked = receive(socket, 3)
    if asked is None:
        return
    plan = parse(asked.words())
    ready = receive(socket, 1)
    if ready is None:
        return
    kernel.setns(ready.fds[0], kernel.CLONE_NEWNS)  # its root is ours, then
    os.close(ready.fds[0])
    stdin, stdout, stderr = asked.fds
    command(plan, (stdin, stdout, stderr), socket)


def _own_all_pages() -> None:
    """Have copies of all pages that we may write to: at once is cheaper than one by one."""
    try:
        with open("/proc/self/maps", "rb", buffering=0) as file:
            lines = file.read(1 << 16).splitlines()
        for line in lines[:-1]:
            place, modes = line.split(b" ", 2)[:2]
            if modes == b"rw-p":
                start, end = (int(number, 16) for number in place.split(b"-"))
                for at in range(start, end, _PIECE):
                    kernel.populate(at, min(_PIECE, end - at))
                    os.sched_yield()  # the container that runs may stand in line behind us
    except OSError:  # no /proc, or before Linux 5.14: they will come one by one
        pass
