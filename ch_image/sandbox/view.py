"""What the stat family says of a file with a recorded owner, in the layout of each call."""

from __future__ import annotations

import ctypes
import os
import struct

from ch_image.sandbox import syscalls as kernel

_AT_EMPTY_PATH = 0x1000
_AT_STATX_SYNC_TYPE = 0x6000
_DEVICES = {"char": 0o020000, "block": 0o060000}
# struct statx of <linux/stat.h>: offsets of owner, mode (16 bits), device number (two words)
_STATX_BTIME, _STATX_BORN = 0x800, 80
_STATX_SIZE, _STATX_IDS, _STATX_MODE, _STATX_RDEV = 256, 20, 28, 128
# struct stat (asm/stat.h): size, and offsets of mode (32 bits), owner, device number (one word)
_LAYOUTS = {"x86_64": (144, 24, 28, 40), "aarch64": (128, 16, 24, 32)}
_STAT_SIZE, _STAT_MODE, _STAT_IDS, _STAT_RDEV = _LAYOUTS.get(os.uname().machine, _LAYOUTS["x86_64"])


def statx(fd: int, flags: int, mask: int, owner: tuple[int, int, str]) -> bytes:
    """The structure for the file at ``fd`` (O_PATH), owner and device put in."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    wanted = _AT_EMPTY_PATH | flags & _AT_STATX_SYNC_TYPE
    kernel.syscall(kernel.SYS_statx, fd, b"", wanted, mask & 0xFFFFFFFF, buffer)
    data = bytearray(buffer.raw)
    struct.pack_into("=II", data, _STATX_IDS, owner[0], owner[1])
    device = _device(owner[2])
    if device:
        (mode,) = struct.unpack_from("=H", data, _STATX_MODE)
        struct.pack_into("=H", data, _STATX_MODE, mode & 0o7777 | device[0])
        struct.pack_into("=II", data, _STATX_RDEV, *device[1:])
    return bytes(data)


def born(fd: int) -> bytes:
    """When the file at ``fd`` was made, where its file system knows; to compare only."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    kernel.syscall(kernel.SYS_statx, fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer)
    return buffer.raw[_STATX_BORN : _STATX_BORN + 16]


def stat(fd: int, owner: tuple[int, int, str]) -> bytes:
    """The same for stat, lstat, fstat and newfstatat."""
    buffer = ctypes.create_string_buffer(_STAT_SIZE)
    kernel.syscall(kernel.SYS_fstatat, fd, b"", buffer, _AT_EMPTY_PATH)
    data = bytearray(buffer.raw)
    struct.pack_into("=II", data, _STAT_IDS, owner[0], owner[1])
    device = _device(owner[2])
    if device:
        kind, major, minor = device
        (mode,) = struct.unpack_from("=I", data, _STAT_MODE)
        struct.pack_into("=I", data, _STAT_MODE, mode & 0o7777 | kind)
        # The kernel's new_encode_dev and huge numbers as glibc's makedev has them.
        number = minor & 0xFF | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12 | (major >> 12) << 44
        struct.pack_into("=Q", data, _STAT_RDEV, number)
    return bytes(data)


def _device(kind: str) -> tuple[int, int, int] | None:
    """(type bits, major, minor) that a record's type means; None when it is no device."""
    name, _, numbers = kind.partition("-")
    if name not in _DEVICES:
        return None
    major, _, minor = numbers.partition("-")
    return _DEVICES[name], int(major), int(minor)
