"""What a container's keeper and those who attach say to each other, and what stays behind.

They talk over a Unix socket in the container's directory, each message a kind and its data. What
the program said last is also left there in a file when it has ended, for who comes too late.
"""

from __future__ import annotations

import os
import socket
import struct

from ch_image.oci.states import Store

SOCKET, OUTPUT = "attach", "output"  # file names in the container's directory
KEPT = 64 << 10  # bytes of output that are kept for who attaches later
ROOM = 32 << 10  # bytes of data in a message
# from the keeper
OUT, ERR, END = b"o", b"e", b"x"  # output; error output; exit code, decimal
# from who attaches
IN, CLOSE, SIZE = b"i", b"c", b"w"  # input; no more input; rows and columns of the terminal
FREE = b"f"  # that the container shall outlive its owner

_HEAD = struct.Struct("<cI")


def directory(store: Store, ident: str) -> str:
    """Where a container's files are."""
    return f"{store.path}/{ident}"


def call(store: Store, ident: str) -> socket.socket | None:
    """A connection to the container's keeper; None when there is none, or not any more."""
    try:
        fd = os.open(directory(store, ident), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # By descriptor: a socket's path may have 107 bytes.
        connection.connect(f"/proc/self/fd/{fd}/{SOCKET}")
    except OSError:
        connection.close()
        return None
    finally:
        os.close(fd)
    return connection


def listen(store: Store, ident: str) -> socket.socket:
    """Where the keeper of a container is called. Raises OSError."""
    fd = os.open(directory(store, ident), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{SOCKET}")
        listener.listen()
    finally:
        os.close(fd)
    return listener


def window(rows: int, columns: int) -> bytes:
    """The data of a SIZE message, also what TIOCSWINSZ takes."""
    return struct.pack("HHHH", rows, columns, 0, 0)


class Recent:
    """The last of what a program said, up to ``KEPT`` bytes."""

    def __init__(self) -> None:
        self.parts: list[tuple[bytes, bytes]] = []
        self._size = 0

    def add(self, kind: bytes, data: bytes) -> None:
        """Note some output, and forget the oldest beyond the limit."""
        self.parts.append((kind, data))
        self._size += len(data)
        while self._size > KEPT:
            self._size -= len(self.parts.pop(0)[1])

    def save(self, path: str) -> None:
        """Leave it in a file. Raises OSError."""
        with open(path, "xb") as file:
            for kind, data in self.parts:
                file.write(_HEAD.pack(kind, len(data)) + data)


def saved(path: str) -> list[tuple[bytes, bytes]]:
    """What ``Recent.save`` left; nothing when there is no such file."""
    out = []
    try:
        with open(path, "rb") as file:
            while head := file.read(_HEAD.size):
                kind, size = _HEAD.unpack(head)
                out.append((kind, file.read(size)))
    except (FileNotFoundError, struct.error):
        pass
    return out
