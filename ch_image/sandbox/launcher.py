"""The build's side of the container server: start it once, ask it for containers.

May be used from several threads; each ``launch`` is independent.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import sys
from _thread import allocate_lock

from ch_image.errors import SandboxError
from ch_image.sandbox.frames import pack
from ch_image.sandbox.plan import Plan

_LIMIT = 1 << 24  # bytes of a report; 200,000 links with owners take less
_BOOT = "import sys; sys.path.append(sys.argv[1]); from ch_image.sandbox.server import serve; "


class Result:
    """How a container ended."""

    def __init__(self) -> None:
        self.code: int | None = None  # the command's exit code, -N when signal N ended it
        self.made: list[tuple[str, int]] = []  # mount points to take away, see remove_stubs
        self.owners: dict[str, tuple[int, int]] = {}  # of symlinks, FIFOs, sockets
        self.notifications = 0
        self.lost = ""  # why owners could not be recorded
        self.problem: SandboxError | None = None


class Container:
    """A container that was asked for; it is read until it has ended, or killed.

    ``reader`` can be polled: there is something for ``read_some``.
    """

    def __init__(self, reader: int, plan: Plan) -> None:
        self.reader = reader
        self._plan = plan
        self._data = bytearray()

    def read_some(self) -> bool:
        """Take in what there is of the result; True when the container has ended."""
        chunk = os.read(self.reader, 1 << 16)
        if len(self._data) < _LIMIT:  # a RUN can write there too
            self._data += chunk
        return not chunk

    def result(self) -> Result:
        """What was read, understood."""
        if len(self._data) >= _LIMIT:
            result = Result()
            result.problem = SandboxError("the container's report is too long")
            return result
        return _parse([os.fsdecode(word) for word in bytes(self._data).split(b"\0")], self._plan)

    def wait(self) -> Result:
        """Read until the end; the result."""
        while not self.read_some():
            pass
        self.kill()
        return self.result()

    def kill(self) -> None:
        """End every process of the container (PID 1 sees the pipe close). May be repeated."""
        reader, self.reader = self.reader, -1
        if reader >= 0:
            os.close(reader)


class Launcher:
    """A running container server."""

    def __init__(self) -> None:
        self._socket: _socket.socket | None = None
        self._lock = allocate_lock()
        self._pid = 0

    def start(self) -> None:
        """Start the server, so that it is ready when the first container is asked for.

        Who never calls this waits for it there, which is also where a fault is told.
        """
        with self._lock:
            if self._socket is None:
                try:
                    self._start()
                except OSError:
                    return

    def launch(self, plan: Plan, stdin: int, stdout: int, stderr: int) -> Container:
        """Start a container with these descriptors; they stay the caller's."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            frame = pack(plan.words())
            rights = struct.pack("4i", stdin, stdout, stderr, writer)
            with self._lock:
                socket = self._socket or self._start()
                sent = socket.sendmsg([frame], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
                socket.sendall(frame[sent:])
        except OSError as error:
            os.close(reader)
            raise SandboxError(f"the container server does not answer: {error.strerror}") from None
        finally:
            os.close(writer)
        return Container(reader, plan)

    def _start(self) -> _socket.socket:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        number = theirs.fileno()
        os.set_inheritable(number, True)
        argv = [sys.executable, "-SIc", f"{_BOOT}serve({number})", package]
        try:
            self._pid = os.posix_spawn(sys.executable, argv, {"LANG": "C.UTF-8"})
        finally:
            theirs.close()
        self._socket = ours
        return ours

    def close(self) -> None:
        """End the server. Containers that still run go on until they are killed."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
                os.waitpid(self._pid, 0)


def _parse(words: list[str], plan: Plan) -> Result:
    result = Result()
    rest = words[::-1]
    take = rest.pop
    kind = take()
    try:
        if kind == "exit":
            result.code = _number(take(), 256, -256)
        elif kind == "failed":
            result.problem = _cannot_start(int(take()), take(), plan)
        elif kind == "error":
            result.problem = SandboxError(f"the container cannot be set up: {take()}")
        else:
            result.problem = SandboxError("the container's first process was killed")
        while rest:
            _detail(result, take(), rest)
    except (ValueError, IndexError):
        result.problem = SandboxError("the container's report is cut off")
    return result


def _detail(result: Result, kind: str, rest: list[str]) -> None:
    take = rest.pop
    if kind == "made":
        while rest and rest[-1].startswith("/"):
            result.made.append((take(), _number(take(), 1 << 63)))
    elif kind == "count":
        result.notifications = _number(take(), 1 << 63)
    elif kind == "lost":
        result.lost = take()
    elif kind == "owner":
        path, uid, gid = take().lstrip("/"), take(), take()
        if not path or ".." in path.split("/"):
            raise ValueError(path)
        result.owners[path] = _number(uid, 1 << 32), _number(gid, 1 << 32)
    else:
        raise ValueError(kind)


def _number(text: str, limit: int, least: int = 0) -> int:
    number = int(text)
    if not least <= number < limit:
        raise ValueError(text)
    return number


def _cannot_start(number: int, about: str, plan: Plan) -> SandboxError:
    if about == plan.cwd and about != plan.argv[0]:
        return SandboxError(f"cannot enter the working directory {about}: {os.strerror(number)}")
    if number == errno.ENOENT:
        return SandboxError(
            f"the image has no program {plan.argv[0]}",
            hint='an image without a shell needs the exec form: RUN ["/program", "argument"]',
        )
    return SandboxError(f"cannot run {plan.argv[0]}: {os.strerror(number)}")
