"""One notified system call: its arguments, and the memory and paths of the process behind it.

All of it happens in the supervisor's /proc (see procfs): paths that name a process are relative.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from ch_image.sandbox import memory, procfs
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.identity import UNSET

_VALID = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID
AT_FDCWD = 0xFFFFFF9C
_OWN_PATHS = (b"/proc/self", b"/proc/thread-self", b"/dev/fd/", b"/dev/std")
_SO_PEERCRED, _CREDENTIALS = 17, struct.Struct("<iII")
_FLAGS = os.O_PATH | os.O_CLOEXEC
_LONG = 4000  # bytes of a path that leave room for a prefix below PATH_MAX
_STANDARD = {b"in": b"0", b"out": b"1", b"err": b"2"}


class Call:
    """One notified system call.

    ``narrow`` says that its IDs are of 16 bits, ``plain`` that no process of the container can have
    another root than the supervisor.
    """

    __slots__ = ("args", "id", "listener", "name", "narrow", "pid", "plain")

    def __init__(
        self, listener: int, id_: int, pid: int, name: str, narrow: bool,
        args: tuple[int, ...], plain: bool,
    ) -> None:  # fmt: skip
        self.listener = listener
        self.id, self.pid = id_, pid
        self.name, self.narrow = name, narrow
        self.args = args
        self.plain = plain

    def ids(self, first: int, count: int) -> list[int]:
        """``count`` ID arguments as 32-bit numbers, -1 as UNSET."""
        mask = 0xFFFF if self.narrow else UNSET
        return [UNSET if a & mask == mask else a & mask for a in self.args[first : first + count]]

    def check(self) -> None:
        """Raise OSError when the caller is gone, and its PID may be another's by now."""
        fcntl.ioctl(self.listener, _VALID, struct.pack("<Q", self.id))

    def peek(self, address: int, size: int) -> bytes:
        """Memory of the caller, shorter where it ends."""
        data = memory.read(self.pid, address, size) if size else b""
        self.check()  # only now is it certain that the PID still was the caller's
        return data

    def poke(self, address: int, data: bytes) -> None:
        """Write the caller's memory, as far as it may itself."""
        self.check()
        memory.write(self.pid, address, data)

    def string(self, address: int) -> bytes:
        """A path of the caller. Raises EFAULT, ENAMETOOLONG."""
        text = self.glimpse(address)
        self.check()
        return text

    def glimpse(self, address: int) -> bytes:
        """As `string`, where it does no harm that the caller may be gone."""
        for size in (256, 4096):
            data = memory.read(self.pid, address, size)
            text, end, _ = data.partition(b"\0")
            if end:
                return text
        raise OSError(errno.ENAMETOOLONG if len(data) == 4096 else errno.EFAULT, "no end")

    def umask(self) -> int:
        """The caller's file mode creation mask."""
        fd = os.open(f"{self.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.read(fd, 256)
        finally:
            os.close(fd)
        _, found, rest = head.partition(b"Umask:\t")
        return int(rest.split(b"\n", 1)[0], 8) if found else 0o022

    def descriptor(self, number: int) -> int:
        """A descriptor of what the caller's descriptor ``number`` means. Raises EBADF."""
        try:
            return os.open(f"{self.pid}/fd/{number & 0xFFFFFFFF}", _FLAGS)
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def fetch(self, number: int) -> int:
        """A duplicate of the caller's descriptor ``number``: the same socket (Linux 5.6)."""
        pidfd = kernel.pidfd_open(procfs.process_of(self.pid))
        try:
            return kernel.pidfd_getfd(pidfd, number & 0xFFFFFFFF)
        finally:
            os.close(pidfd)

    def peer(self) -> tuple[int, int, int]:
        """(process, user, group) at the other end of the socket that is the first argument."""
        socket = _socket.socket(fileno=self.fetch(self.args[0]))
        try:
            return _CREDENTIALS.unpack(socket.getsockopt(1, _SO_PEERCRED, _CREDENTIALS.size))
        finally:
            socket.close()

    def place(self, base: int, path: bytes) -> bytes:
        """A path that means to us what ``path`` means to the caller, while roots are plain."""
        if path.startswith(b"/"):
            return _of_process(path, self.pid) if path.startswith(_OWN_PATHS) else path
        if base & 0xFFFFFFFF == AT_FDCWD:
            return b"%d/cwd/%s" % (self.pid, path)
        return b"%d/fd/%d/%s" % (self.pid, base & 0xFFFFFFFF, path)

    def locate(self, base: int, path: bytes, follow: bool, resolve: int = 0) -> int:
        """A descriptor of what ``path`` means to the caller. ``resolve`` is that of openat2."""
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        flags = _FLAGS | (0 if follow else os.O_NOFOLLOW)
        if resolve:
            return self._resolved(base, path, flags, resolve)
        if self.plain or path.startswith(_OWN_PATHS):
            return self._open(base, path, flags)
        root = os.open(f"{self.pid}/root", _FLAGS)
        try:
            within = path if path.startswith(b"/") else self._from_root(base, path)
            if within is None:
                return self._open(base, path, flags)
            return kernel.openat2(root, within, flags, 0, kernel.RESOLVE_IN_ROOT)
        except OSError as error:
            if error.errno != errno.EXDEV:  # a link in /proc, which has no place in a root
                raise
            return self._open(base, path, flags)
        finally:
            os.close(root)

    def _open(self, base: int, path: bytes, flags: int) -> int:
        if path.startswith(b"/") or len(path) < _LONG:
            return os.open(self.place(base, path), flags)
        return self._resolved(base, path, flags, 0)  # with ours before it, it would be too long

    def _resolved(self, base: int, path: bytes, flags: int, resolve: int) -> int:
        directory = self.base(base)
        try:
            return kernel.openat2(directory, path, flags, 0, resolve)
        finally:
            os.close(directory)

    def _from_root(self, base: int, path: bytes) -> bytes | None:
        """A relative path as one from the caller's root; None when its root is ours."""
        root = os.readlink(b"%d/root" % self.pid)
        if root == b"/":
            return None
        here = os.readlink(self.place(base, b"").rstrip(b"/"))
        if here != root and not here.startswith(root + b"/"):
            return None
        return here[len(root) :] + b"/" + path

    def base(self, base: int) -> int:
        """A descriptor of the directory that relative paths start from."""
        if base & 0xFFFFFFFF == AT_FDCWD:
            return os.open(f"{self.pid}/cwd", _FLAGS)
        return self.descriptor(base)

    def parent(self, base: int, address: int, resolve: int = 0) -> tuple[int, bytes]:
        """The directory a new file is to be made in, and the file's name there."""
        above, name = split(self.string(address))
        if above is None:
            return self.base(base), name
        return self.locate(base, above, True, resolve), name


def split(path: bytes) -> tuple[bytes | None, bytes]:
    """(what stands before the last name, or None; the last name). Raises ENOENT, EEXIST."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    above, slash, name = path.rstrip(b"/").rpartition(b"/")
    if not name:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return (above or b"/") if slash else None, name


def _of_process(path: bytes, pid: int) -> bytes:
    """A path through /proc/self or /dev/fd, as another process means it."""
    if path.startswith(b"/dev/fd/"):
        return b"%d/fd/%s" % (pid, path[8:])
    if path.startswith(b"/dev/std"):
        number = _STANDARD.get(path[8:])
        return b"%d/fd/%s" % (pid, number) if number else path
    for prefix in (b"/proc/self", b"/proc/thread-self"):
        if path.startswith(prefix) and path[len(prefix) :][:1] in (b"", b"/"):
            return b"%d%s" % (pid, path[len(prefix) :])
    return path
