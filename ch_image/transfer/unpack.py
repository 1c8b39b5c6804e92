"""Unpacks one layer from a blob that may still be growing, here or in a process of its own.

A process of its own because Python's lock would let only one layer be unpacked at a time, and a
fresh one rather than a fork because the caller has threads. It lives in the caller's namespaces,
takes jobs through a socket on its standard input and dies with the thread that started it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ch_image.errors import ChError, ImageError, StorageError, printable
from ch_image.model.digest import DiffId

MAX_TAIL = 64 << 20  # bytes after the end of an archive: padding, and no more than that
_POLL = 0.003  # seconds between looks at a file that has not grown
_LENGTH = struct.Struct("!Q")
_PDEATHSIG = 1  # prctl(2), PR_SET_PDEATHSIG
_KILL = 9
_BOOT = (
    "import sys, json\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from ch_image.transfer.unpack import serve\n"
    "serve(int(sys.argv[2]))\n"
)


class Job(NamedTuple):
    """Unpack the blob open at a descriptor; ``size``: of the whole blob, bytes."""

    tree: str  # an empty directory
    lower: tuple[str, ...]  # trees below, topmost first, for hard links into them
    diff_id: str
    size: int


class Unpacked(NamedTuple):
    """What unpacking a layer told."""

    owners: Mapping[str, tuple[int, int]]
    whiteouts: tuple[str, ...]
    used_lower: bool


class Growing:
    """Reads a file to the size that it will have, waiting where it does not have it yet."""

    def __init__(self, fd: int, size: int, check: Callable[[], None] = lambda: None) -> None:
        self._fd, self._size, self._check = fd, size, check
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end only."""
        wanted = self._size - self._at
        if size >= 0:
            wanted = min(wanted, size)
        while wanted:
            data = os.pread(self._fd, min(wanted, 1 << 20), self._at)
            if data:
                self._at += len(data)
                return data
            self._check()
            time.sleep(_POLL)
        return b""

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As of a raw file."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unpack(job: Job, fd: int, check: Callable[[], None] = lambda: None) -> Unpacked:
    """Carry out a job. Raises ImageError when the layer is not what its diff ID says."""
    import hashlib

    from ch_image.layers.compress import open_reader
    from ch_image.layers.extract import extract

    hasher = hashlib.sha256()
    with open_reader(Growing(fd, job.size, check), hasher) as stream:
        found = extract(stream, job.tree, lower=job.lower)
        tail = 0
        while data := stream.read(1 << 20):
            tail += len(data)
            if tail > MAX_TAIL:
                raise ImageError("a layer goes on and on after the end of its archive")
    diff_id = DiffId("sha256:" + hasher.hexdigest())
    if diff_id != job.diff_id:
        raise ImageError(
            f"a layer does not unpack to what the image's config says: "
            f"its diff ID is {diff_id}, not {job.diff_id}"
        )
    return Unpacked(found.owners, tuple(found.whiteouts), found.used_lower)


class Worker:
    """A process that unpacks. To be closed by the thread that made it; see the module."""

    def __init__(self) -> None:
        import subprocess

        ours, theirs = socket.socketpair()
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = [package, *(part for part in sys.path if part)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _BOOT, json.dumps(path), str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C comes to us alone, and we end it
            )
        self._socket = ours

    def run(self, job: Job, fd: int, check: Callable[[], None]) -> Unpacked:
        """Let the process do a job. Raises what ``unpack`` would, and what ``check`` raises."""
        words = json.dumps(job._asdict()).encode("utf-8", "surrogateescape")
        socket.send_fds(self._socket, [_LENGTH.pack(len(words))], [fd])
        self._socket.sendall(words)
        self._socket.settimeout(0.1)
        answer = json.loads(_receive(self._socket, check))
        if "fault" in answer:
            kind: type[ChError] = StorageError if answer["kind"] == "storage" else ImageError
            raise kind(answer["fault"], hint=answer["hint"])
        owners = {path: (uid, gid) for path, (uid, gid) in answer["owners"].items()}
        return Unpacked(owners, tuple(answer["whiteouts"]), answer["used_lower"])

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _receive(connection: socket.socket, check: Callable[[], None]) -> bytes:
    """One message: its length, then its bytes."""
    data = bytearray()
    wanted = _LENGTH.size
    while len(data) < wanted:
        try:
            part = connection.recv(1 << 20)
        except TimeoutError:
            check()
            continue
        if not part:
            raise StorageError(
                "the process that unpacks a layer ended early",
                hint="was it out of memory? look at the system's log",
            )
        data += part
        if wanted == _LENGTH.size and len(data) >= wanted:
            wanted += _LENGTH.unpack(data[:wanted])[0]
    return bytes(data[_LENGTH.size :])


def serve(parent: int) -> None:
    """The process's main function: carry out jobs until there are no more."""
    from ch_image.sandbox.syscalls import prctl

    prctl(_PDEATHSIG, _KILL)
    if os.getppid() != parent:
        os._exit(1)
    connection = socket.socket(fileno=os.dup(0))
    while True:
        head, fds, _, _ = socket.recv_fds(connection, _LENGTH.size, 1)
        if not head:
            return
        try:
            words = bytearray()
            while len(words) < _LENGTH.unpack(head)[0]:
                words += connection.recv(1 << 20)
            answer = _carry_out(words, fds[0])
        finally:
            for fd in fds:
                os.close(fd)
        raw = json.dumps(answer).encode("utf-8", "surrogateescape")
        connection.sendall(_LENGTH.pack(len(raw)) + raw)


def _carry_out(words: bytearray, fd: int) -> dict[str, Any]:
    from ch_image.storage.faults import storage_error

    try:
        value = json.loads(words)
        job = Job(value["tree"], tuple(value["lower"]), value["diff_id"], value["size"])
        return unpack(job, fd)._asdict()
    except OSError as error:
        fault: ChError = storage_error("unpack a layer", error)
    except ChError as error:
        fault = error
    except MemoryError:
        fault = StorageError("there is not enough memory to unpack a layer")
    kind = "storage" if isinstance(fault, StorageError) else "image"
    return {"fault": printable(str(fault)), "kind": kind, "hint": fault.hint}


def trees_below(tree: Callable[[Any], str], chain: Sequence[Any]) -> tuple[str, ...]:
    """The trees of a chain (bottom first), topmost first."""
    return tuple(tree(layer) for layer in reversed(chain))
