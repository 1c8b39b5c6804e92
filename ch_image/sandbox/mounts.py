"""What stands where in a container: an ordered list of operations on a new root.

Every operation can say itself as words (``words``), so a plan can be printed, pasted into a shell
and parsed again, and can be carried out (``apply``). Targets are resolved inside the new root by
the kernel (openat2 RESOLVE_IN_ROOT), sources are opened once and mounted by descriptor, so no
symlink of an image leads anywhere else.

A mount point that the image lacks is made for the time of the run; ``Root.made`` tells which, so
that ``remove_stubs`` leaves the tree as if they had never been there.
"""

from __future__ import annotations

import errno
import os
import struct

from ch_image.sandbox import records
from ch_image.sandbox import syscalls as kernel

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FROM_FD, _ONTO_FD = 4, 0x40  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


def fd_path(fd: int) -> str:
    """A path that means what ``fd`` means, for calls that take only paths."""
    return f"/proc/self/fd/{fd}"


class Root:
    """The new root while it is furnished; paths are the image's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, _DIRECTORY)
        self.made: list[tuple[str, int]] = []  # (path, the parent's mtime in ns before)

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """A descriptor of ``path``, symlinks followed inside the root."""
        return kernel.openat2(self.fd, path, flags, 0, kernel.RESOLVE_IN_ROOT)

    def target(self, path: str, directory: bool) -> int:
        """A descriptor to mount on; an absent mount point is made."""
        try:
            return self.open(path)
        except FileNotFoundError:
            return self._make(path, directory)

    def _make(self, path: str, directory: bool) -> int:
        path = self._through_links(path)
        parent, _, name = path.rstrip("/").rpartition("/")
        above = self.target(parent, True) if parent else os.dup(self.fd)
        try:
            before = os.stat(fd_path(above)).st_mtime_ns
            if directory:
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=above))
            self.made.append((path, before))
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        finally:
            os.close(above)

    def _through_links(self, path: str) -> str:
        """``path`` with a dangling symlink at its end replaced by what it names."""
        for _ in range(40):
            parent, _, name = path.rstrip("/").rpartition("/")
            try:
                above = self.open(parent or "/", _DIRECTORY)
            except FileNotFoundError:
                return path
            try:
                to = os.readlink(name, dir_fd=above)
            except OSError:
                return path
            finally:
                os.close(above)
            path = to if to.startswith("/") else f"{parent}/{to}"
            path = _lexical(path)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _lexical(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


class Operation:
    """One line of a mount plan."""

    name = ""

    def words(self) -> list[str]:
        """The operation as command-line words."""
        raise NotImplementedError

    def apply(self, root: Root) -> None:
        """Carry it out. Raises OSError with the path it was about."""
        raise NotImplementedError


class Bind(Operation):
    """A file or directory of the host, with what is mounted below it."""

    name = "--bind"

    def __init__(self, source: str, target: str, *, readonly: bool = False) -> None:
        self.source, self.target, self.readonly = source, target, readonly

    def words(self) -> list[str]:
        return ["--ro-bind" if self.readonly else "--bind", self.source, self.target]

    def apply(self, root: Root) -> None:
        source = os.open(self.source, os.O_PATH | os.O_CLOEXEC)
        try:
            directory = os.path.isdir(fd_path(source))
            target = root.target(self.target, directory)
            try:
                kernel.mount(fd_path(source), fd_path(target), None, kernel.MS_BIND | kernel.MS_REC)
            finally:
                os.close(target)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{self.source} on {self.target}") from None
        finally:
            os.close(source)
        if self.readonly:
            make_readonly(root, self.target)


def make_readonly(root: Root, path: str) -> None:
    """Make a mount, and all below it, read-only."""
    fd = root.open(path)
    try:
        kernel.mount_setattr(
            fd, "", kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE, kernel.MOUNT_ATTR_RDONLY
        )
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # Before Linux 5.12: only the top mount, with the flags it has, for they are locked.
        flags = os.fstatvfs(fd).f_flag & (
            kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME
        )
        flags |= kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
        kernel.mount(None, fd_path(fd), None, flags)
    finally:
        os.close(fd)


class Tmpfs(Operation):
    """An empty file system in memory; ``options`` as mount(8) takes them."""

    name = "--tmpfs"

    def __init__(self, target: str, options: str = "mode=0755") -> None:
        self.target, self.options = target, options

    def words(self) -> list[str]:
        return [self.name, self.target, self.options]

    def apply(self, root: Root) -> None:
        fd = root.target(self.target, True)
        try:
            flags = kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("tmpfs", fd_path(fd), "tmpfs", flags, self.options)
        finally:
            os.close(fd)


class Proc(Operation):
    """A /proc of the container's own PID namespace.

    Where a surrounding container has covered parts of its /proc, the kernel allows no new one;
    then that /proc is bound as it is.
    """

    name = "--proc"

    def __init__(self, target: str = "/proc") -> None:
        self.target = target

    def words(self) -> list[str]:
        return [self.name, self.target]

    def apply(self, root: Root) -> None:
        fd = root.target(self.target, True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        try:
            kernel.mount("proc", fd_path(fd), "proc", flags)
        except PermissionError:
            kernel.mount("/proc", fd_path(fd), None, kernel.MS_BIND | kernel.MS_REC)
        finally:
            os.close(fd)


class Dev(Operation):
    """A /dev with the six devices that every program may expect, a pts and a shm of its own."""

    name = "--dev"

    def __init__(self, target: str = "/dev") -> None:
        self.target = target

    def words(self) -> list[str]:
        return [self.name, self.target]

    def apply(self, root: Root) -> None:
        Tmpfs(self.target, "mode=0755").apply(root)
        here = root.open(self.target, _DIRECTORY)
        try:
            self._fill(here, fd_path(here))
        finally:
            os.close(here)

    def _fill(self, here: int, path: str) -> None:
        """Nobody else has put anything there, so names need no care."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for device in _DEVICES:
            os.close(os.open(device, flags, 0o644, dir_fd=here))
            source, target = f"/dev/{device}", f"{path}/{device}"
            try:
                kernel.mount(source, target, None, kernel.MS_BIND)
            except OSError as error:
                about = f"{source} on {self.target}/{device}"
                raise OSError(error.errno, error.strerror, about) from None
        os.mkdir("shm", dir_fd=here)
        nothing = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("tmpfs", f"{path}/shm", "tmpfs", nothing, "mode=1777")
        os.mkdir("pts", dir_fd=here)
        quiet, options = kernel.MS_NOSUID | kernel.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"
        try:
            kernel.mount("devpts", f"{path}/pts", "devpts", quiet, options)
        except OSError:  # a terminal inside is a comfort, not a need
            pass
        for name, to in _LINKS:
            os.symlink(to, name, dir_fd=here)


class File(Operation):
    """A file with this content, gone when the container ends; nothing is written to the image.

    ``owner`` is recorded for root emulation, where memory can hold records (Linux 6.6).
    """

    name = "--file"

    def __init__(
        self, target: str, content: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
    ) -> None:
        self.target, self.content, self.mode, self.owner = target, content, mode, owner

    def words(self) -> list[str]:
        status = ":".join((f"{self.mode:04o}", *map(str, self.owner)))
        return [self.name, self.target, status, self.content]

    def apply(self, root: Root) -> None:
        memory = _memory()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            fd = os.open("file", flags, 0o644, dir_fd=memory)
            os.fchmod(fd, self.mode)
            if self.owner != (0, 0):
                value = records.encode(*self.owner, self.mode, "file")
                try:
                    os.setxattr(fd, records.ATTRIBUTE, value)
                except OSError:  # then it is root's, and still readable: there is one real ID
                    pass
            data = os.fsencode(self.content)
            while data:
                data = data[os.write(fd, data) :]
            target = root.target(self.target, False)
            try:
                _bind_memory(root, memory, fd, target)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.target) from None
            finally:
                os.close(target)
                os.close(fd)
        finally:
            os.close(memory)


class Link(Operation):
    """A symbolic link, unless something is there already."""

    name = "--symlink"

    def __init__(self, to: str, target: str) -> None:
        self.to, self.target = to, target

    def words(self) -> list[str]:
        return [self.name, self.to, self.target]

    def apply(self, root: Root) -> None:
        parent, _, name = self.target.rstrip("/").rpartition("/")
        above = root.target(parent or "/", True)
        try:
            os.symlink(self.to, name, dir_fd=above)
        except FileExistsError:
            pass
        finally:
            os.close(above)


def _memory() -> int:
    """A tmpfs that is mounted nowhere (fsopen(2), Linux 5.2): the descriptor of its root."""
    context = kernel.syscall(kernel.SYS_fsopen, b"tmpfs", 1)
    try:
        kernel.syscall(kernel.SYS_fsconfig, context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
        flags = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
        return kernel.syscall(kernel.SYS_fsmount, context, 1, flags)
    finally:
        os.close(context)


def _bind_memory(root: Root, memory: int, fd: int, target: int) -> None:
    try:
        kernel.mount(fd_path(fd), fd_path(target), None, kernel.MS_BIND)
        return
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.15 only what is mounted somewhere can be bound: over the root for a moment.
    kernel.syscall(kernel.SYS_move_mount, memory, b"", root.fd, b"", _FROM_FD | _ONTO_FD)
    try:
        kernel.mount(fd_path(fd), fd_path(target), None, kernel.MS_BIND)
    finally:
        kernel.umount2(fd_path(memory), kernel.MNT_DETACH)


def remove_stubs(root: str, made: list[tuple[str, int]]) -> None:
    """Take away the mount points that were made for a run, unless something was put there.

    Parents get their old modification times back. ``root`` is the tree, seen from outside.
    """
    fd = os.open(root, _DIRECTORY)
    try:
        for path, before in reversed(made):
            parent, _, name = path.rstrip("/").rpartition("/")
            try:
                above = kernel.openat2(fd, parent or "/", _DIRECTORY, 0, kernel.RESOLVE_IN_ROOT)
            except OSError:
                continue
            try:
                _remove_stub(above, name, before)
            finally:
                os.close(above)
    finally:
        os.close(fd)


def _remove_stub(above: int, name: str, before: int) -> None:
    try:
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        if status.st_mode & 0o170000 == 0o040000:
            os.rmdir(name, dir_fd=above)
        elif status.st_mode & 0o170000 == 0o100000 and status.st_size == 0:
            os.unlink(name, dir_fd=above)
        else:
            return
        access = os.stat(fd_path(above)).st_atime_ns
        os.utime(fd_path(above), ns=(access, before))
    except OSError:  # it has become something else, or holds something: it is the image's now
        pass


def loopback_up() -> None:
    """Bring up "lo" of a new network namespace (netdevice(7), SIOCSIFFLAGS)."""
    import _socket
    import fcntl

    link = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
    try:
        fcntl.ioctl(link.fileno(), 0x8914, struct.pack("16sH14x", b"lo", 0x1))
    finally:
        link.close()
