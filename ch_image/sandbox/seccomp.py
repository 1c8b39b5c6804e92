"""The filter of root emulation: which calls the supervisor answers, as a BPF program.

Everything else runs at full speed: the kernel (since 5.11) remembers per call that the answer is
always "allow" and runs no BPF for it. Numbers come from the kernel's tables of each ABI
(arch/*/entry/syscalls). A call of an ABI that is not listed is left alone.
"""

from __future__ import annotations

import os
import struct

AUDIT_X86_64 = 0xC000003E
AUDIT_I386 = 0x40000003
AUDIT_AARCH64 = 0xC00000B7
AUDIT_ARM = 0x40000028

RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000
RET_USER_NOTIF = 0x7FC00000
_ENOSYS, _UNSET = 38, 0xFFFFFFFF
_LOAD, _JUMP, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
_X32 = 0x40000000

# A name may end in "16": the same call with 16-bit IDs.
X86_64 = {
    "openat": 257, "open": 2, "creat": 85, "mkdir": 83, "mkdirat": 258, "symlink": 88,
    "symlinkat": 266, "mknod": 133, "mknodat": 259, "execve": 59, "execveat": 322,
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260,
    "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getresuid": 118,
    "getresgid": 120, "getgroups": 115, "setuid": 105, "setgid": 106, "setreuid": 113,
    "setregid": 114, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
    "setgroups": 116, "capset": 126,
    "prctl": 157, "statx": 332, "stat": 4, "fstat": 5, "lstat": 6, "newfstatat": 262,
    "link": 86, "linkat": 265, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "mount": 165, "umount2": 166, "chroot": 161, "pivot_root": 155, "setns": 308,
    "move_mount": 429, "getsockopt": 55, "bind": 49, "setrlimit": 160, "prlimit64": 302,
    "listxattr": 194, "llistxattr": 195, "flistxattr": 196,
}  # fmt: skip
_IA32 = {
    "open": 5, "creat": 8, "mkdir": 39, "symlink": 83, "mknod": 14, "execve": 11,
    "chown16": 182, "lchown16": 16, "fchown16": 95, "chown": 212, "lchown": 198, "fchown": 207,
    "getuid16": 24, "getgid16": 47, "geteuid16": 49, "getegid16": 50, "getuid": 199,
    "getgid": 200, "geteuid": 201, "getegid": 202, "getresuid16": 165, "getresgid16": 171,
    "getresuid": 209, "getresgid": 211, "getgroups16": 80, "getgroups": 205, "setuid16": 23,
    "setgid16": 46, "setuid": 213, "setgid": 214, "setreuid16": 70, "setregid16": 71,
    "setreuid": 203, "setregid": 204, "setresuid16": 164, "setresgid16": 170, "setresuid": 208,
    "setresgid": 210, "setfsuid16": 138, "setfsgid16": 139, "setfsuid": 215, "setfsgid": 216,
    "setgroups16": 81, "setgroups": 206, "capset": 185,
    "prctl": 172, "link": 9, "setxattr": 226, "lsetxattr": 227, "fsetxattr": 228,
    "listxattr": 232, "llistxattr": 233, "flistxattr": 234,
    "mount": 21, "umount2": 52, "chroot": 61, "pivot_root": 217, "move_mount": 429,
}  # fmt: skip
# pivot_root has another number on ARM.
I386 = _IA32 | {
    "openat": 295, "mkdirat": 296, "mknodat": 297, "fchownat": 298, "symlinkat": 304,
    "execveat": 358, "statx": 383, "linkat": 303, "setns": 346, "getsockopt": 365,
    "bind": 361, "prlimit64": 340,
}  # fmt: skip
ARM = _IA32 | {
    "pivot_root": 218, "openat": 322, "mkdirat": 323, "mknodat": 324, "fchownat": 325,
    "symlinkat": 331,
    "execveat": 387, "statx": 397, "linkat": 330, "setns": 375, "getsockopt": 295,
    "bind": 282, "prlimit64": 369,
}  # fmt: skip
AARCH64 = {
    "openat": 56, "mkdirat": 34, "symlinkat": 36, "mknodat": 33, "execve": 221, "execveat": 281,
    "fchown": 55, "fchownat": 54, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
    "getresuid": 148, "getresgid": 150, "getgroups": 158, "setuid": 146, "setgid": 144,
    "setreuid": 145, "setregid": 143, "setresuid": 147, "setresgid": 149, "setfsuid": 151,
    "setfsgid": 152, "setgroups": 159, "capset": 91,
    "prctl": 167, "statx": 291, "fstat": 80, "newfstatat": 79, "linkat": 37, "setxattr": 5,
    "lsetxattr": 6, "fsetxattr": 7,
    "mount": 40, "umount2": 39, "chroot": 51, "pivot_root": 41, "setns": 268, "move_mount": 429,
    "getsockopt": 209, "bind": 200, "setrlimit": 164, "prlimit64": 261,
    "listxattr": 11, "llistxattr": 12, "flistxattr": 13,
}  # fmt: skip

# These have one number everywhere.
_COMMON = {"io_uring_setup": 425, "openat2": 437, "setxattrat": 463}
_NATIVE = {
    "x86_64": ((AUDIT_X86_64, X86_64 | _COMMON), (AUDIT_I386, I386 | _COMMON)),
    "aarch64": ((AUDIT_AARCH64, AARCH64 | _COMMON), (AUDIT_ARM, ARM | _COMMON)),
}

_O_CREAT, _O_EXCL, _TMPFILE = 0o100, 0o200, 0o20000000
_PR_SET_KEEPCAPS = 8
_SO_PEERCRED = 17
_EPERM = 1
# (argument, instruction, operand) that must hold of a call for it to be asked about.
_CONDITIONS = {
    "open": (1, _JSET, _O_CREAT | _TMPFILE),
    "openat": (2, _JSET, _O_CREAT | _TMPFILE),
    "prctl": (0, _JEQ, _PR_SET_KEEPCAPS),
    "getsockopt": (2, _JEQ, _SO_PEERCRED),
    "prlimit64": (2, _JGE, 1),  # the address of new limits; see also _tests
}
# What is answered by the filter itself. Without setxattrat, programs use setxattr.
_ANSWERS = {"capset": 0, "setxattrat": _ENOSYS}
# Asked about only in processes that the supervisor has marked, by the place of their libraries:
# with an unlimited stack, the kernel maps them upwards from a quarter of the address space (ARM) or
# downwards from a sixth (x86), and without, downwards from its top (mmap_base() in
# arch/x86/mm/mmap.c, mm/util.c). Programs proper lie elsewhere. The bounds are those of the
# address's high word.
MARKED = ("stat", "fstat", "lstat", "newfstatat")
_INSTRUCTION_POINTER_HIGH = 12
# Other marks are stack limits that are large, which puts the libraries as much lower. Marks that
# have something in common lie side by side.
# With these a process is asked about stat by a path only.
PATH_STACK = 0x6000 << 32
ROOT_PATH_STACK = 0x5E00 << 32
# With these, a process that is root and remains it is not asked who it is, nor about becoming root
# (0, or -1: no change, in all arguments).
ROOT_STACK = 0x5C00 << 32
# With these, a process that root has started is not asked about calls that these conditions hold
# of: it gives each file it makes an owner itself, or makes none that is to stay.
FREE_STACK = 0x4000 << 32
DRIVER_STACK = 0x4200 << 32  # nor about what it starts
LARGE = (PATH_STACK, ROOT_PATH_STACK, ROOT_STACK, FREE_STACK, DRIVER_STACK)
_FREE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "open": ((1, _JSET, _O_EXCL),), "openat": ((2, _JSET, _O_EXCL),),
    "mkdir": (), "mkdirat": (), "symlink": (), "symlinkat": (),
    "fchown": ((1, _JEQ, 0), (2, _JEQ, 0)), "lchown": ((1, _JEQ, 0), (2, _JEQ, 0)),
}  # fmt: skip
_ASKS_WHO = ("getuid", "geteuid", "getgid", "getegid")
_BECOMES = ("setresuid", "setresgid")
_STARTS = ("execve", "execveat")
_RLIMIT_STACK, _AT_EMPTY_PATH = 3, 0x1000
# Called so often that they come first.
_FREQUENT = ("newfstatat", "openat", "fstat", "stat", "lstat", "open")
# What is answered "done" where the kernel cannot ask us (no listener): owners are lost then.
_QUIET = ("chown", "fchown", "lchown", "fchownat", "setuid", "setgid", "setreuid", "setregid",
          "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups")  # fmt: skip


def abis(machine: str = "") -> tuple[tuple[int, dict[str, int]], ...]:
    """(audit architecture, table) of every ABI this machine runs; empty when it is unknown."""
    return _NATIVE.get(machine or os.uname().machine, ())


_NAMES: dict[tuple[int, int], str] = {}  # made once: a container server hands it on by fork


def names() -> dict[tuple[int, int], str]:
    """(audit architecture, number) -> name, for the supervisor."""
    if not _NAMES:
        _NAMES.update({(arch, nr): name for arch, table in abis() for name, nr in table.items()})
    return _NAMES


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _argument(index: int) -> int:
    return 16 + 8 * index  # struct seccomp_data, low word on little-endian machines


# A test of a call: where a word of seccomp_data lies, instruction, operand, and where to go on if
# it holds and if not: at the next test, behind that, at the last one, or with the verdict.
_NEXT, _SKIP, _LAST, _ASK, _FREELY = range(5)
Test = tuple[int, int, int, int, int]
Range = tuple[int, int]  # high words of addresses, from and below


def _within(place: Range, inside: int, outside: int, above: int = -1) -> list[Test]:
    """Whether the caller's library lies in ``place``; ``above``: where else it lies higher."""
    at, (low, high) = _INSTRUCTION_POINTER_HIGH, place
    over = above if above >= 0 else _SKIP if outside == _NEXT else outside
    return [(at, _JGE, high, over, _NEXT), (at, _JGE, low, inside, outside)]


def _tests(name: str, marked: Range, more: bool, endless: bool) -> list[Test]:
    """What decides whether a call is asked about; it is when all of them lead on.

    ``more``: there are the marks by large stacks. ``endless``: anybody may raise a stack limit.
    """
    path, root = _from(PATH_STACK, ROOT_PATH_STACK), _from(ROOT_PATH_STACK, ROOT_STACK)
    free = _from(DRIVER_STACK, FREE_STACK)
    if name in MARKED and (not more or name == "fstat"):
        return _within(marked, _ASK, _FREELY)
    if name == "newfstatat":
        at, empty = _INSTRUCTION_POINTER_HIGH, (_argument(3), _JSET, _AT_EMPTY_PATH, _FREELY, _ASK)
        below = [(at, _JGE, path[1], _FREELY, _NEXT), (at, _JGE, marked[1], _NEXT, _LAST)]
        return [*below, (at, _JGE, path[0], _NEXT, _FREELY), empty,
                (at, _JGE, marked[0], _ASK, _FREELY)]  # fmt: skip
    if name in MARKED:
        return _within(path, _ASK, _NEXT, _FREELY) + _within(marked, _ASK, _FREELY)
    if name == "prlimit64" and more:  # marked processes see their stack limit as it was
        sets = (_argument(2), _JGE, 1)
        return [
            (_argument(1), _JEQ, _RLIMIT_STACK, _NEXT, _LAST),
            (*sets, _FREELY if endless else _ASK, _NEXT),
            *_within(free, _ASK, _NEXT, _FREELY),
            *_within(stack_range(ROOT_STACK), _ASK, _NEXT),
            *_within(stack_range(PATH_STACK), _ASK, _FREELY),
            (*sets, _ASK, _FREELY),
        ]  # fmt: skip
    if name in _ASKS_WHO and more:
        return _within(root, _FREELY, _ASK)
    if name in _STARTS and more:
        return _within(stack_range(DRIVER_STACK), _FREELY, _ASK)
    if name in _BECOMES and more:
        tests = _within(root, _NEXT, _ASK)
        for n in range(3):
            tests += [
                (_argument(n), _JEQ, 0, _SKIP, _NEXT),
                (_argument(n), _JEQ, _UNSET, _NEXT, _ASK),
            ]
        return [*tests, (_argument(0), _JGE, 0, _FREELY, _ASK)]
    tests = []
    if name in _CONDITIONS:
        argument, test, operand = _CONDITIONS[name]
        tests.append((_argument(argument), test, operand, _NEXT, _FREELY))
    if name in _FREE and more:
        tests += _within(free, _NEXT if _FREE[name] else _FREELY, _ASK)
        tests += [(_argument(n), test, operand, _NEXT, _ASK) for n, test, operand in _FREE[name]]
        tests[-1] = (*tests[-1][:3], _FREELY, _ASK)
    return tests


def _call(name: str, number: int, tests: list[Test], notify: bool) -> bytes:
    """The instructions for one call; each falls through when the number is another."""
    if name in _ANSWERS:
        return _op(_JEQ, number, 0, 1) + _op(_RETURN, RET_ERRNO | _ANSWERS[name])
    if not notify:
        if name.removesuffix("16") not in _QUIET:
            return b""
        return _op(_JEQ, number, 0, 1) + _op(_RETURN, RET_ERRNO)
    if not tests:
        return _op(_JEQ, number, 0, 1) + _op(_RETURN, RET_USER_NOTIF)
    loads = [at == 0 or tests[at - 1][0] != test[0] for at, test in enumerate(tests)]
    starts = [sum(loads[:at]) + at for at in range(len(tests) + 1)]
    end = starts[len(tests)]
    out = _op(_JEQ, number, 0, end + 2)
    for at, (offset, test, operand, yes, no) in enumerate(tests):
        out += _op(_LOAD, offset) if loads[at] else b""
        here = starts[at] + loads[at] + 1
        places = (here, starts[min(at + 2, len(tests))], starts[len(tests) - 1], end, end + 1)
        way = [place - here for place in places]
        out += _op(test, operand, way[yes], way[no])
    return out + _op(_RETURN, RET_USER_NOTIF) + _op(_RETURN, RET_ALLOW)


def program(*, notify: bool = True, machine: str = "", endless: bool = False) -> bytes:
    """The filter; without ``notify`` it answers success itself and records nothing.

    ``endless``: the hard limit of the stack is unlimited, so nobody needs us to raise it.
    """
    out = _op(_LOAD, _ARCH)
    marked = marked_range(machine)
    for arch, table in abis(machine):
        block = _op(_LOAD, _NR)
        if arch == AUDIT_X86_64:
            block += _op(_JGE, _X32, 0, 1) + _op(_RETURN, RET_ERRNO | _ENOSYS)
        more = arch == AUDIT_X86_64
        first = [name for name in _FREQUENT if name in table]
        for name in (*first, *(name for name in table if name not in first)):
            block += _call(name, table[name], _tests(name, marked, more, endless), notify)
        block += _op(_RETURN, RET_ALLOW)
        out += _op(_JEQ, arch, 1, 0) + _op(_JUMP, len(block) // 8) + block
    return out + _op(_RETURN, RET_ALLOW)


def marked_range(machine: str = "", stack: int = 0) -> Range:
    """Where the libraries of marked processes lie: high words, from and below.

    ``stack`` is an address near the top of the address space, which has many sizes on ARM.
    """
    if (machine or os.uname().machine) != "aarch64":
        return 0x100, 0x1600
    size = 1 << ((stack or _own_stack()) >> 32).bit_length()
    return size // 4, size * 3 // 8


def stack_range(stack: int) -> Range:
    """The same of a mark by a large stack, where there is such a mark.

    x86 moves libraries about by 1 TiB (28 bits of pages); ARM by more, and has no such marks.
    """
    top = (1 << 47) - stack >> 32
    return top - 0x200, top


def _from(lowest: int, highest: int) -> Range:
    """Where they lie with marks that are side by side."""
    ranges = stack_range(lowest), stack_range(highest)
    return min(ranges)[0], max(ranges)[1]


def more_marks(machine: str = "") -> bool:
    """Whether there are the marks by LARGE stacks here."""
    return (machine or os.uname().machine) == "x86_64"


def _own_stack() -> int:
    try:
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0xFFFF << 32  # 48 bits are usual
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[25])  # startstack, proc(5)
    finally:
        os.close(fd)


def marks_processes() -> bool:
    """Whether the filter can tell marked processes apart here."""
    return os.uname().machine in _NATIVE
