"""Mounts that programs in a container make, as package scripts and debootstrap do.

What the kernel allows in a user namespace runs natively: proc, tmpfs, overlay, bind mounts. What
it keeps to the owner of the machine's namespaces (sysfs, devtmpfs) is answered with the
container's own. The mounts that the container came with stay.
"""

from __future__ import annotations

import errno
import os

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.caller import AT_FDCWD, Call
from ch_image.sandbox.creation import CONTINUE, DONE, Reply
from ch_image.sandbox.procfs import of_fd

_OURS = {b"sysfs": "/sys", b"devtmpfs": "/dev"}


class Mounting:
    """``plain`` holds until a process may have another root or other mounts than we see."""

    CALLS = frozenset(("mount", "umount2", "chroot", "pivot_root", "setns", "move_mount"))

    def __init__(self, furnished: frozenset[str]) -> None:
        self.plain = True
        self._furnished = furnished
        self._bound: list[str] = []  # where something of ours was mounted in another's place

    def answer(self, call: Call) -> Reply:
        """Answer a call of ``CALLS``."""
        self.plain = call.plain = False
        if call.name == "umount2":
            return self._unmount(call)
        if call.name == "mount" and call.args[2] and not call.args[3] & kernel.MS_REMOUNT:
            source = _OURS.get(call.string(call.args[2]))
            if source:
                return self._bind(call, source)
        return CONTINUE

    def _unmount(self, call: Call) -> Reply:
        fd = call.locate(AT_FDCWD, call.string(call.args[0]), True)
        try:
            path = os.readlink(of_fd(fd))
            if path in self._furnished:
                return -errno.EBUSY, 0
            if path not in self._bound:
                return CONTINUE
            # It has more mounts below it than the caller knows of.
            kernel.umount2(of_fd(fd), kernel.MNT_DETACH)
            self._bound.remove(path)
            return DONE
        finally:
            os.close(fd)

    def _bind(self, call: Call, source: str) -> Reply:
        fd = call.locate(AT_FDCWD, call.string(call.args[1]), True)
        try:
            if os.path.samestat(os.stat(of_fd(fd)), os.stat(source)):
                return -errno.EBUSY, 0
            path = os.readlink(of_fd(fd))
            kernel.mount(source, of_fd(fd), None, kernel.MS_BIND | kernel.MS_REC)
            self._bound.append(path)
            return DONE
        except OSError:  # a mount namespace of its own: there the kernel decides
            return CONTINUE
        finally:
            os.close(fd)
