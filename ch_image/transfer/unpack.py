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

from ch_image.errors import ChError, ImageError, StorageError, printable
from ch_image.typed import Any, NamedTuple, overload

_POLL = 0.003  # seconds between looks at a file that has not grown
_LENGTH = struct.Struct("!Q")
_BOOT = (
    "import sys, json\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from ch_image.transfer.unpack import serve\n"
    "serve(int(sys.argv[2]))\n"
)


class Job(NamedTuple):
    """Unpack the blob open at a descriptor; ``size``: of the whole blob, bytes."""

    tree: str  # an empty directory
    diff_id: str
    size: int


class Unpacked(NamedTuple):
    """What unpacking a layer told; see ``layers.extract``."""

    owners: Mapping[str, tuple[int, int]]
    used_lower: bool
    flattened: bool
    lost: tuple[str, ...]


class Below(Sequence[str]):
    """The trees below a layer, topmost first, asked for only when a layer needs to know them.

    Few do, so that layers are unpacked at the same time. Whoever asks waits until they are done.
    """

    def __init__(self, ask: Callable[[], Sequence[str]]) -> None:
        self._ask = ask
        self._trees: Sequence[str] | None = None

    def _known(self) -> Sequence[str]:
        if self._trees is None:
            self._trees = self._ask()
        return self._trees

    def __len__(self) -> int:
        return len(self._known())

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        return self._known()[at]


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


def unpack(
    job: Job, fd: int, below: Sequence[str], check: Callable[[], None] = lambda: None
) -> Unpacked:
    """Carry out a job. Raises ImageError when the layer is not what its diff ID says."""
    import hashlib

    from ch_image.layers.compress import open_reader
    from ch_image.layers.extract import extract

    hasher = hashlib.sha256()
    with open_reader(Growing(fd, job.size, check), hasher) as stream:
        found = extract(stream, job.tree, lower=below)
    diff_id = "sha256:" + hasher.hexdigest()
    if diff_id != job.diff_id:
        raise ImageError(
            "a layer does not unpack to what the image's config says: "
            f"its diff ID is {diff_id}, not {job.diff_id}"
        )
    return Unpacked(found.owners, found.used_lower, found.flattened, found.lost)


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

    def run(
        self, job: Job, fd: int, below: Callable[[], Sequence[str]], check: Callable[[], None]
    ) -> Unpacked:
        """Let the process do a job. Raises what ``unpack`` would, and what ``check`` raises.

        ``below`` gives the trees below, topmost first, when the layer needs to know them.
        """
        words = _pack(job._asdict())
        socket.send_fds(self._socket, [words[: _LENGTH.size]], [fd])
        self._socket.sendall(words[_LENGTH.size :])
        self._socket.settimeout(0.1)
        while "want" in (answer := _receive(self._socket, check)):
            trees = list(below())
            self._socket.settimeout(None)
            self._socket.sendall(_pack({"trees": trees}))
            self._socket.settimeout(0.1)
        if "fault" in answer:
            kind: type[ChError] = StorageError if answer["kind"] == "storage" else ImageError
            raise kind(answer["fault"], hint=answer["hint"])
        owners = {path: (uid, gid) for path, (uid, gid) in answer["owners"].items()}
        return Unpacked(owners, answer["used_lower"], answer["flattened"], tuple(answer["lost"]))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _pack(value: Mapping[str, Any]) -> bytes:
    raw = json.dumps(value).encode("ascii")  # lone surrogates are escaped by it
    return _LENGTH.pack(len(raw)) + raw


def _receive(connection: socket.socket, check: Callable[[], None]) -> dict[str, Any]:
    """One message: its length, then JSON. Raises StorageError when the other side is gone."""
    data = bytearray()
    wanted = _LENGTH.size
    while len(data) < wanted:
        try:
            part = connection.recv(min(1 << 20, wanted - len(data)))
        except TimeoutError:
            check()
            continue
        except ConnectionError:
            part = b""
        if not part:
            raise StorageError(
                "the process that unpacks a layer ended early",
                hint="was it out of memory? look at the system's log",
            )
        data += part
        if wanted == _LENGTH.size == len(data):
            wanted += _LENGTH.unpack(data)[0]
    value: dict[str, Any] = json.loads(data[_LENGTH.size :])
    return value


def serve(parent: int) -> None:
    """The process's main function: carry out jobs until there are no more."""
    from ch_image.sandbox.syscalls import die_with

    die_with(parent)
    connection = socket.socket(fileno=os.dup(0))
    while True:
        head, fds, _, _ = socket.recv_fds(connection, _LENGTH.size, 1)
        if not head:
            return
        try:
            words = bytearray()
            while len(words) < _LENGTH.unpack(head)[0]:
                words += connection.recv(1 << 20)
            answer = _carry_out(json.loads(words), fds[0], connection)
        finally:
            for fd in fds:
                os.close(fd)
        connection.sendall(_pack(answer))


def _carry_out(value: Mapping[str, Any], fd: int, connection: socket.socket) -> dict[str, Any]:
    from ch_image.storage.faults import storage_error

    def ask() -> Sequence[str]:
        connection.sendall(_pack({"want": "trees"}))
        trees: list[str] = _receive(connection, lambda: None)["trees"]
        return trees

    try:
        return unpack(Job(**value), fd, Below(ask))._asdict()
    except OSError as error:
        fault: ChError = storage_error("unpack a layer", error)
    except ChError as error:
        fault = error
    except MemoryError:
        fault = StorageError("there is not enough memory to unpack a layer")
    kind = "storage" if isinstance(fault, StorageError) else "image"
    return {"fault": printable(str(fault)), "kind": kind, "hint": fault.hint}
