"""Lists of words as bytes, for a socket: what the build asks of the container server."""

from __future__ import annotations

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
