"""The supervisor's own /proc, which no process of the container can unmount or cover.

After ``enter`` the supervisor's working directory is a detached copy of the /proc mount, and all
of its looks into processes are relative paths: ``PID/mem``, ``self/fd/N``.
"""

from __future__ import annotations

import os

from ch_image.sandbox import syscalls as kernel

_OPEN_TREE_CLONE = 1
_RLIMIT_STACK = 3
INFINITY = 0xFFFFFFFFFFFFFFFF


_inside = False


def enter() -> None:
    """Make /proc the working directory; a copy of the mount where the kernel (5.2) can.

    Once; later calls do nothing. So who enters before its root changes keeps the /proc it had.
    """
    global _inside
    if _inside:
        return
    _inside = True
    try:
        fd = kernel.syscall(kernel.SYS_open_tree, -100, b"/proc", _OPEN_TREE_CLONE | os.O_CLOEXEC)
    except OSError:
        os.chdir("/proc")
        return
    os.fchdir(fd)
    os.close(fd)


def of_fd(fd: int) -> str:
    """A path that means what our own ``fd`` means, for calls that take only paths."""
    return f"self/fd/{fd}"


def stack_limit(pid: int) -> tuple[int, int]:
    """(soft, hard) RLIMIT_STACK of a process, in bytes."""
    old = bytearray(16)
    kernel.prlimit(pid, _RLIMIT_STACK, None, old)
    return int.from_bytes(old[:8], "little"), int.from_bytes(old[8:], "little")


def set_stack_limit(pid: int, soft: int, hard: int) -> None:
    """Change them."""
    new = soft.to_bytes(8, "little") + hard.to_bytes(8, "little")
    kernel.prlimit(pid, _RLIMIT_STACK, new, None)
