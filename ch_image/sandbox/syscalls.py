"""The kernel by its own names: constants and calls that Python's ``os`` does not have.

Each call raises OSError with the path it was about. Numbers of system calls are those of x86_64
and aarch64 (asm/unistd_64.h, asm-generic/unistd.h); from 424 on they are the same everywhere.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_SILENT = 1 << 15
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_ATIME = 0x70  # the field that the next three, and RELATIME as 0, are values of
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32

_NUMBERS = {
    "x86_64": {"pivot_root": 155, "seccomp": 317, "statx": 332,
               "writev": 311, "fstatat": 262, "kcmp": 312,
               "clone": 56, "capset": 126, "capget": 125, "personality": 135, "keyctl": 250,
               "ioprio_set": 251, "setdomainname": 171, "renameat2": 316, "tgkill": 234},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "statx": 291,
                "writev": 271, "fstatat": 79, "kcmp": 272,
                "clone": 220, "capset": 91, "capget": 90, "personality": 92, "keyctl": 219,
                "ioprio_set": 30, "setdomainname": 162, "renameat2": 276, "tgkill": 131},
}  # fmt: skip
# The machine is asked of the kernel; under a 32-bit personality the table is the 64-bit one still,
# for it is this interpreter that makes the calls.
_HERE = _NUMBERS.get("aarch64" if os.uname().machine.startswith("aarch") else "x86_64", {})
SYS_clone = _HERE["clone"]
SYS_renameat2 = _HERE["renameat2"]
SYS_capset = _HERE["capset"]
SYS_capget = _HERE["capget"]
SYS_personality = _HERE["personality"]
SYS_keyctl = _HERE["keyctl"]
SYS_ioprio_set = _HERE["ioprio_set"]
SYS_setdomainname = _HERE["setdomainname"]
SYS_pivot_root = _HERE["pivot_root"]
SYS_seccomp = _HERE["seccomp"]
SYS_statx = _HERE["statx"]
SYS_process_vm_writev = _HERE["writev"]
SYS_fstatat = _HERE["fstatat"]
SYS_kcmp = _HERE["kcmp"]
SYS_tgkill = _HERE["tgkill"]
SYS_pidfd_send_signal = 424
SYS_open_tree = 428
SYS_move_mount = 429
SYS_fsopen = 430
SYS_fsconfig = 431
SYS_fsmount = 432
SYS_pidfd_open = 434
SYS_close_range = 436
SYS_openat2 = 437
SYS_pidfd_getfd = 438
SYS_mount_setattr = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def fail(path: object = None) -> OSError:
    """The OSError of the last failed libc call."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def syscall(number: int, *args: object, about: object = None) -> int:
    """A raw system call; integers are passed as longs, bytes and buffers as pointers."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise fail(about)
    return result


def _path(path: str | bytes | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise fail()


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)) < 0:
        raise fail()


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2)."""
    result = _libc.mount(
        _path(source), _path(target), _path(fstype), ctypes.c_ulong(flags), _path(data)
    )
    if result < 0:
        raise fail(target)


def umount2(target: str | bytes, flags: int = 0) -> None:
    """umount2(2)."""
    if _libc.umount2(_path(target), ctypes.c_int(flags)) < 0:
        raise fail(target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    syscall(SYS_pivot_root, os.fsencode(new), os.fsencode(old), about=new)


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): a descriptor (close-on-exec) of ``path``, resolved as ``resolve`` allows.

    ``RESOLVE_IN_ROOT`` takes ``dir_fd`` for the root of everything, also for symlinks and "..".
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return syscall(SYS_openat2, dir_fd, os.fsencode(path), how, len(how), about=path)
        except OSError as error:
            if error.errno != 11:  # EAGAIN: a rename raced the walk
                raise


def mount_setattr(dir_fd: int, path: str, flags: int, attr_set: int, attr_clear: int = 0) -> None:
    """mount_setattr(2), Linux 5.12: set MOUNT_ATTR_* on a mount, or a tree with AT_RECURSIVE."""
    attr = struct.pack("QQQQ", attr_set, attr_clear, 0, 0)
    syscall(SYS_mount_setattr, dir_fd, os.fsencode(path), flags, attr, len(attr), about=path)


def syncfs(fd: int) -> None:
    """syncfs(2): write all of the file system that holds ``fd``."""
    if _libc.syncfs(ctypes.c_int(fd)) < 0:
        raise fail()


_POPULATE_WRITE = 23  # asm-generic/mman-common.h


def populate(start: int, size: int) -> None:
    """madvise(2), MADV_POPULATE_WRITE: as if every page had been written to."""
    place, length = ctypes.c_void_p(start), ctypes.c_size_t(size)
    if _libc.madvise(place, length, ctypes.c_int(_POPULATE_WRITE)) < 0:
        raise fail()


def begin_writing(fd: int) -> None:
    """sync_file_range(2): have the file's data on its way to the disk; waits for nothing of it.

    It is a hint, which some kernels and policies refuse: what fails to be written, a later sync
    tells.
    """
    _libc.sync_file_range(ctypes.c_int(fd), ctypes.c_int64(0), ctypes.c_int64(0), 2)


def exchange(one: str, other: str) -> None:
    """renameat2(2), RENAME_EXCHANGE: what has these names changes places, at once."""
    ends = os.fsencode(one), os.fsencode(other)
    syscall(SYS_renameat2, AT_FDCWD, ends[0], AT_FDCWD, ends[1], 2, about=other)


def prctl(option: int, *args: int) -> int:
    """prctl(2)."""
    words = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    result: int = _libc.prctl(ctypes.c_int(option), *words)
    if result < 0:
        raise fail()
    return result


def die_with(parent: int) -> None:
    """Be killed when the thread that started this process ends; now, if ``parent`` has ended."""
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close every descriptor from ``first`` on."""
    try:
        syscall(SYS_close_range, first, last, 0)
    except OSError:  # before Linux 5.9
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:
                    os.close(int(name))
                except OSError:  # the descriptor of this very listing
                    pass


def close_all_but(*kept: int) -> None:
    """Close every descriptor but the first three and those."""
    first = 3
    for fd in sorted(kept):
        if fd > first:
            close_range(first, fd - 1)
        first = max(first, fd + 1)
    close_range(first)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    return syscall(SYS_pidfd_open, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2), Linux 5.1."""
    syscall(SYS_pidfd_send_signal, pidfd, number, None, 0)


def tgkill(process: int, thread: int, number: int) -> None:
    """tgkill(2): a signal, 0: none, to a thread of a process. ESRCH when it is not of that one."""
    syscall(SYS_tgkill, process, thread, number)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2), Linux 5.6: a duplicate of another process's descriptor."""
    return syscall(SYS_pidfd_getfd, pidfd, fd, 0)


def bind(fd: int, address: bytes) -> None:
    """bind(2) to a ``struct sockaddr`` as it is in memory."""
    if _libc.bind(ctypes.c_int(fd), address, ctypes.c_uint(len(address))) < 0:
        raise fail()


_pair = bytearray(16)
_pair_place = (ctypes.c_char * 16).from_buffer(_pair)
_libc.prlimit.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]


def prlimit(pid: int, resource: int, new: bytes | None, old: bytearray | None) -> None:
    """prlimit(2); ``new`` and ``old`` are structures of two 64-bit numbers, soft and hard."""
    room = None if old is None else _pair_place
    if _libc.prlimit(pid, resource, new, room) < 0:
        raise fail()
    if old is not None:
        old[:] = _pair


def sethostname(name: str) -> None:
    """sethostname(2)."""
    data = os.fsencode(name)
    if _libc.sethostname(data, ctypes.c_size_t(len(data))) < 0:
        raise fail()


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    data = os.fsencode(name)
    syscall(SYS_setdomainname, data, len(data))


def fork(flags: int) -> int:
    """fork(2) with CLONE_* flags: the child's PID, 0 in the child."""
    return syscall(SYS_clone, flags | 17, 0, 0, 0, 0)  # 17: SIGCHLD


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """Install a BPF program of ``struct sock_filter``; with NEW_LISTENER, its descriptor."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, fprog)


def write_file(path: str, text: str) -> None:
    """Write a kernel file (/proc, /sys) in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


LITTLE = sys.byteorder == "little"
