"""Lists of words as bytes, for a socket: what the build asks of the container server."""

from __future__ import annotations

import _socket
import os
import struct

HEAD = struct.Struct("<I")


def pack(words: list[str]) -> bytes:
    """A frame: its length, then each word behind its own (32 bits, little-endian)."""
    encoded = [os.fsencode(word) for word in words]
    body = b"".join(HEAD.pack(len(word)) + word for word in encoded)
    return HEAD.pack(len(body)) + body


def unpack(body: bytes) -> list[str]:
    """The words of a frame's body."""
    out, at = [], 0
    while at < len(body):
        (length,) = HEAD.unpack_from(body, at)
        at += HEAD.size
        out.append(os.fsdecode(body[at : at + length]))
        at += length
    return out


class Frame:
    """What was received: a frame, as it came, with descriptors."""

    __slots__ = ("fds", "frame")

    def __init__(self, frame: bytes, fds: tuple[int, ...]) -> None:
        self.frame, self.fds = frame, fds

    def words(self) -> list[str]:
        """The words in it."""
        return unpack(self.frame[HEAD.size :])


def receive(socket: _socket.socket, count: int) -> Frame | None:
    """The next frame with ``count`` descriptors, which no program will inherit; None at the end."""
    layout = struct.Struct(f"{count}i")
    head, ancillary, _, _ = socket.recvmsg(HEAD.size, _socket.CMSG_SPACE(layout.size))
    fds: tuple[int, ...] = ()
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds = layout.unpack(content[: layout.size])
    for fd in fds:
        os.set_inheritable(fd, False)
    if not head or not (head := _filled(socket, head, HEAD.size)):
        return None
    frame = _filled(socket, head, HEAD.size + HEAD.unpack(head)[0])
    return Frame(frame, fds) if frame else None


def _filled(socket: _socket.socket, data: bytes, size: int) -> bytes:
    """``data`` with what follows it, ``size`` bytes; none when the stream ends before."""
    parts, left = [data], size - len(data)
    while left:
        part = socket.recv(min(left, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
