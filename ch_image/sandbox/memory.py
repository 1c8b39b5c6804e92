"""The memory of another process, read and written in one call."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ch_image.sandbox import syscalls as kernel

_libc = ctypes.CDLL(None, use_errno=True)
_LONGEST = 1 << 18  # bytes that `read` reads at most: setgroups with all of its groups
_room = ctypes.create_string_buffer(_LONGEST)
_view = memoryview(_room).cast("B")
_vectors = bytearray(48)  # struct iovec: one of ours, two of the other's
_iovecs = struct.Struct("6Q")
_ROOM, _LAST = ctypes.addressof(_room), 0xFFFFFFFFFFFFFFFF
_pointer, _number = ctypes.c_void_p, ctypes.c_ulong
_libc.process_vm_readv.argtypes = [ctypes.c_int, _pointer, _number, _pointer, _number, _number]
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_LOCAL = ctypes.addressof((ctypes.c_char * 48).from_buffer(_vectors))


def read(pid: int, address: int, size: int) -> bytes:
    """process_vm_readv(2): up to ``size`` bytes, fewer where a page is missing. EFAULT for none.

    Not to be called by two threads at once.
    """
    size = min(size, _LONGEST)
    # Cut at page ends: the kernel reads whole pieces or stops before one.
    first = min(size, 4096 - address % 4096)
    after = (address + first) & _LAST  # an address is the caller's, and may be any number
    _iovecs.pack_into(_vectors, 0, _ROOM, size, address, first, after, size - first)
    pieces = 2 if size > first else 1
    done: int = _libc.process_vm_readv(pid, _LOCAL, 1, _LOCAL + 16, pieces, 0)
    if done < 0:
        raise kernel.fail()
    return bytes(_view[:done])


def read_strings(pid: int, addresses: list[int], size: int) -> list[bytes]:
    """What up to 256 strings of another process begin with, of ``size`` bytes at most.

    Fewer, where one of them has less memory behind it. Not to be called by two threads at once.
    """
    remote = struct.pack(f"<{2 * len(addresses)}Q", *(n for at in addresses for n in (at, size)))
    local = struct.pack("<2Q", _ROOM, size * len(addresses))
    done: int = _libc.process_vm_readv(pid, local, 1, remote, len(addresses), 0)
    whole = max(done, 0) // size
    return [bytes(_view[n * size : (n + 1) * size]).partition(b"\0")[0] for n in range(whole)]


def write(pid: int, address: int, data: bytes) -> None:
    """process_vm_writev(2), whole or EFAULT."""
    room = ctypes.create_string_buffer(data, len(data))
    remote = struct.pack("2Q", address, len(data))
    local = struct.pack("2Q", ctypes.addressof(room), len(data))
    if kernel.syscall(kernel.SYS_process_vm_writev, pid, local, 1, remote, 1, 0) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def same(one: int, other: int) -> bool:
    """kcmp(2): whether two processes share their memory, as after vfork. False where unknown."""
    try:
        return kernel.syscall(kernel.SYS_kcmp, one, other, 1, 0, 0) == 0
    except OSError:
        return False
