"""What statx(2) says of a file with a recorded owner."""

from __future__ import annotations

import ctypes
import struct

from ch_image.sandbox import syscalls as kernel

_SIZE = 256  # struct statx, <linux/stat.h>
_AT_EMPTY_PATH = 0x1000
_AT_STATX_SYNC_TYPE = 0x6000
_MODE, _IDS, _RDEV = 28, 20, 128  # offsets
_DEVICES = {"char": 0o020000, "block": 0o060000}


def statx(fd: int, flags: int, mask: int, uid: int, gid: int, kind: str) -> bytes:
    """The structure for the file at ``fd`` (O_PATH), owner and device put in."""
    buffer = ctypes.create_string_buffer(_SIZE)
    wanted = _AT_EMPTY_PATH | flags & _AT_STATX_SYNC_TYPE
    kernel.syscall(kernel.SYS_statx, fd, b"", wanted, mask & 0xFFFFFFFF, buffer)
    data = bytearray(buffer.raw)
    struct.pack_into("=II", data, _IDS, uid, gid)
    name, _, numbers = kind.partition("-")
    if name in _DEVICES:
        (mode,) = struct.unpack_from("=H", data, _MODE)
        struct.pack_into("=H", data, _MODE, mode & 0o7777 | _DEVICES[name])
        major, _, minor = numbers.partition("-")
        struct.pack_into("=II", data, _RDEV, int(major), int(minor))
    return bytes(data)
