"""Overlay mounts, by the newest interface that the kernel has.

fsopen(2), fsconfig(2) and fsmount(2) take one lower directory a call ("lowerdir+", Linux 6.5);
before that mount(2) takes all of them in one page of options. Paths are given below a descriptor
of the storage directory (/proc/self/fd/N/...): short, free of the characters that overlayfs would
take for its own, and no change of the working directory that all threads share.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ch_image.sandbox import syscalls as kernel

_FSOPEN_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # enum fsconfig_command
_FSMOUNT_CLOEXEC = 1
_FROM_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH
_PAGE = 4096
_OLD_KERNEL = (errno.ENOSYS, errno.EPERM, errno.EINVAL)
_MOST_LOWERS_WITHOUT_NEW_CALLS = 100


class Overlay:
    """What to mount. All paths are relative to the storage directory ``root``."""

    __slots__ = ("lowers", "root", "upper", "work")

    def __init__(self, root: str, lowers: Sequence[str], upper: str = "", work: str = "") -> None:
        self.root = root
        self.lowers = lowers  # topmost first
        self.upper = upper  # empty: read-only
        self.work = work

    def mount(self, target: str) -> None:
        """Mount on the directory ``target``. Raises OSError, with the kernel's words if any."""
        fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            base = f"/proc/self/fd/{fd}/"
            try:
                self._mount_new(base, target)
            except OSError as error:
                if error.errno not in _OLD_KERNEL:
                    raise
                if len(self.lowers) > _MOST_LOWERS_WITHOUT_NEW_CALLS:
                    raise
                self._mount_old(base, target)
        finally:
            os.close(fd)

    def _mount_new(self, base: str, target: str) -> None:
        context = kernel.syscall(kernel.SYS_fsopen, b"overlay", _FSOPEN_CLOEXEC, about=target)
        try:
            for flag in self._flags():
                _configure(context, _SET_FLAG, flag, None)
            for lower in self.lowers:
                _configure(context, _SET_STRING, "lowerdir+", base + lower)
            if self.upper:
                _configure(context, _SET_STRING, "upperdir", base + self.upper)
                _configure(context, _SET_STRING, "workdir", base + self.work)
            _configure(context, _CREATE, None, None)
            attributes = 0 if self.upper else kernel.MOUNT_ATTR_RDONLY
            mount = kernel.syscall(kernel.SYS_fsmount, context, _FSMOUNT_CLOEXEC, attributes)
        finally:
            os.close(context)
        try:
            kernel.syscall(
                kernel.SYS_move_mount, mount, b"", kernel.AT_FDCWD, os.fsencode(target),
                _FROM_EMPTY_PATH, about=target,
            )  # fmt: skip
        finally:
            os.close(mount)

    def _mount_old(self, base: str, target: str) -> None:
        options = [*self._flags(), "lowerdir=" + ":".join(base + lower for lower in self.lowers)]
        if self.upper:
            options += [f"upperdir={base}{self.upper}", f"workdir={base}{self.work}"]
        data = ",".join(options)
        if len(data) >= _PAGE:
            raise OSError(errno.E2BIG, "too many layers for this kernel's mount call", target)
        kernel.mount("overlay", target, "overlay", 0 if self.upper else kernel.MS_RDONLY, data)

    def _flags(self) -> tuple[str, ...]:
        # Volatile: fsync in the tree and the umount don't wait for the disk. The upper directory
        # is never mounted as such again, and before anything is published one syncfs of the real
        # file system brings it to disk.
        return ("userxattr", "volatile") if self.upper else ("userxattr",)


def _configure(context: int, command: int, key: str | None, value: str | None) -> None:
    try:
        kernel.syscall(
            kernel.SYS_fsconfig,
            context,
            command,
            None if key is None else key.encode(),
            None if value is None else os.fsencode(value),
            0,
        )
    except OSError as error:
        raise OSError(error.errno, _reason(context) or error.strerror) from None


def _reason(context: int) -> str:
    """What the kernel says of the last failure: messages such as "e overlay: no such ..."."""
    try:
        text = os.read(context, 1024).decode("utf-8", "replace")
    except OSError:  # it says nothing (ENODATA)
        return ""
    return text.partition(" ")[2].strip()


def unmount(target: str) -> None:
    """Take the mount at ``target`` away, also when another namespace still holds a copy of it.

    No error when nothing is mounted there. Raises OSError.
    """
    try:
        kernel.umount2(target, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def bind_read_only(source: str, target: str) -> None:
    """Show the directory ``source`` at ``target``, for reading. Raises OSError."""
    kernel.mount(source, target, None, kernel.MS_BIND)
    try:
        flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
        kernel.mount(None, target, None, flags | _kept_flags(target))
    except OSError:
        unmount(target)
        raise


def _kept_flags(target: str) -> int:
    """Flags that the mount has from its parent namespace, and that a remount must repeat."""
    found = os.statvfs(target).f_flag
    pairs = (
        (os.ST_NOSUID, kernel.MS_NOSUID),
        (os.ST_NODEV, kernel.MS_NODEV),
        (os.ST_NOEXEC, kernel.MS_NOEXEC),
        (os.ST_NOATIME, kernel.MS_NOATIME),
        (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
        (os.ST_RELATIME, kernel.MS_RELATIME),
    )
    return sum(flag for has, flag in pairs if found & has)
