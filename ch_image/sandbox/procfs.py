"""The supervisor's own /proc, which no process of the container can unmount or cover.

After ``enter`` the supervisor's working directory is a detached copy of the /proc mount, and all
of its looks into processes are relative paths: ``PID/mem``, ``self/fd/N``.
"""

from __future__ import annotations

import os

from ch_image.sandbox import syscalls as kernel

_OPEN_TREE_CLONE = 1
_RLIMIT_STACK = 3
_RLIMIT_NOFILE = 7
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


def parent_of(pid: int) -> int:
    """The parent of a process, 0 when it is unknown."""
    return _number(pid, b"\nPPid:\t")


def has_children(pid: int) -> bool:
    """Whether the first thread of a process has children, or nobody knows."""
    try:
        fd = os.open(f"{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return os.read(fd, 16) != b""
    finally:
        os.close(fd)


def leader_of(thread: int) -> int:
    """The same, quickly where the thread is the first of its process."""
    try:
        kernel.tgkill(thread, thread, 0)
    except OSError:
        return process_of(thread)
    return thread


def process_of(thread: int) -> int:
    """The process that a thread belongs to, 0 when it is unknown."""
    return _number(thread, b"\nTgid:\t")


def _number(pid: int, field: bytes) -> int:
    try:
        fd = os.open(f"{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        _, found, rest = os.read(fd, 512).partition(field)
    finally:
        os.close(fd)
    return int(rest.split(b"\n", 1)[0]) if found else 0


def stack_limit(pid: int) -> tuple[int, int]:
    """(soft, hard) RLIMIT_STACK of a process, in bytes."""
    old = bytearray(16)
    kernel.prlimit(pid, _RLIMIT_STACK, None, old)
    return int.from_bytes(old[:8], "little"), int.from_bytes(old[8:], "little")


def set_stack_limit(pid: int, soft: int, hard: int) -> None:
    """Change them."""
    new = soft.to_bytes(8, "little") + hard.to_bytes(8, "little")
    kernel.prlimit(pid, _RLIMIT_STACK, new, None)


def descriptors() -> int:
    """How many descriptors this process may have; the soft limit goes up to the hard one."""
    old = bytearray(16)
    kernel.prlimit(0, _RLIMIT_NOFILE, None, old)
    hard = int.from_bytes(old[8:], "little")
    kernel.prlimit(0, _RLIMIT_NOFILE, bytes(old[8:]) * 2, None)
    return min(hard, 1 << 20)
