"""One notified system call: its arguments, and the memory and paths of the process behind it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.identity import UNSET

_VALID = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID
AT_FDCWD = 0xFFFFFF9C
_OWN_PATHS = ("/proc/self", "/proc/thread-self", "/dev/fd/", "/dev/std")
_FLAGS = os.O_PATH | os.O_CLOEXEC


class Call:
    """One notified system call."""

    __slots__ = ("args", "id", "listener", "name", "narrow", "pid")

    def __init__(self, listener: int, id_: int, pid: int, name: str, args: tuple[int, ...]) -> None:
        self.listener = listener
        self.id, self.pid = id_, pid
        self.narrow = name.endswith("16")  # 16-bit IDs
        self.name = name.removesuffix("16")
        self.args = args

    def ids(self, first: int, count: int) -> list[int]:
        """``count`` ID arguments as 32-bit numbers, -1 as UNSET."""
        mask = 0xFFFF if self.narrow else UNSET
        return [UNSET if a & mask == mask else a & mask for a in self.args[first : first + count]]

    def peek(self, address: int, size: int) -> bytes:
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(fd, size, address) if size else b""
        finally:
            os.close(fd)
        # Only now is it certain that the PID still was the caller's.
        fcntl.ioctl(self.listener, _VALID, struct.pack("<Q", self.id))
        return data

    def poke(self, address: int, data: bytes) -> None:
        fd = os.open(f"/proc/{self.pid}/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self.listener, _VALID, struct.pack("<Q", self.id))
            if os.pwrite(fd, data, address) != len(data):
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        finally:
            os.close(fd)

    def string(self, address: int) -> bytes:
        try:
            data = self.peek(address, 4096)
        except OSError as error:
            raise OSError(
                errno.EFAULT if error.errno == errno.EIO else error.errno, "bad address"
            ) from None
        text, end, _ = data.partition(b"\0")
        if not end:
            raise OSError(errno.ENAMETOOLONG if len(data) == 4096 else errno.EFAULT, "no end")
        return text

    def umask(self) -> int:
        fd = os.open(f"/proc/{self.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.read(fd, 256)
        finally:
            os.close(fd)
        _, found, rest = head.partition(b"Umask:\t")
        return int(rest.split(b"\n", 1)[0], 8) if found else 0o022

    def descriptor(self, number: int) -> int:
        path = f"/proc/{self.pid}/fd/{number & 0xFFFFFFFF}"
        try:
            return os.open(path, _FLAGS)
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def locate(self, base: int, path: bytes, follow: bool) -> int:
        """A descriptor of what ``path`` means to the caller."""
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        flags = _FLAGS | (0 if follow else os.O_NOFOLLOW)
        if path.startswith(b"/"):
            text = os.fsdecode(path)
            if text.startswith(_OWN_PATHS):
                return os.open(_of_process(text, self.pid), flags)
            root = os.open(f"/proc/{self.pid}/root", _FLAGS)
            try:
                return kernel.openat2(root, path, flags, 0, kernel.RESOLVE_IN_ROOT)
            finally:
                os.close(root)
        where = self.base(base)
        try:
            return os.open(path, flags, dir_fd=where)
        finally:
            os.close(where)

    def base(self, base: int) -> int:
        if base & 0xFFFFFFFF == AT_FDCWD:
            return os.open(f"/proc/{self.pid}/cwd", _FLAGS)
        return self.descriptor(base)

    def parent(self, base: int, address: int) -> tuple[int, bytes]:
        """The directory a new file is to be made in, and the file's name there."""
        path = self.string(address)
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        above, slash, name = path.rstrip(b"/").rpartition(b"/")
        if not name:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if slash:
            return self.locate(base, above or b"/", True), name
        return self.base(base), name


def _of_process(path: str, pid: int) -> str:
    """A path through /proc/self or /dev/fd, as another process means it."""
    if path.startswith("/dev/fd/"):
        return f"/proc/{pid}/fd/{path[8:]}"
    if path.startswith("/dev/std"):
        number = {"in": 0, "out": 1, "err": 2}.get(path[8:], -1)
        return f"/proc/{pid}/fd/{number}"
    for prefix in ("/proc/self", "/proc/thread-self"):
        if path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
            return f"/proc/{pid}{path[len(prefix) :]}"
    return path
