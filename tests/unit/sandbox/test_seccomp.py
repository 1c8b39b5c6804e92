"""The filter of root emulation, run on a small interpreter of classic BPF."""

from __future__ import annotations

import itertools
import struct

import pytest

from ch_image.sandbox import seccomp

ALLOW, NOTIFY = seccomp.RET_ALLOW, seccomp.RET_USER_NOTIF
DONE, NO_SUCH_CALL = seccomp.RET_ERRNO, seccomp.RET_ERRNO | 38


USUAL = 0x7F12_3456_7000  # the address of a library


def verdict(program: bytes, arch: int, number: int, *args: int, at_: int = USUAL) -> int:
    """What the kernel would do with the call (Linux, Documentation/networking/filter.rst)."""
    words = [*args, 0, 0, 0, 0, 0, 0][:6]
    return _verdict(program, struct.pack("<iIQ6Q", number, arch, at_, *words))


def _verdict(program: bytes, data: bytes) -> int:
    code = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    for _ in range(len(code)):
        op, yes, no, value = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif op == 0x05:
            at += value
        elif op == 0x06:
            return int(value)
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[op]
            at += yes if holds else no
    raise AssertionError("the program does not end")


ASKED = {
    "prctl": (8, 1), "open": (0, 0o101), "openat": (0, 0, 0o101), "getsockopt": (3, 1, 17),
    "prlimit64": (0, 7, 0x1234),
}  # fmt: skip
ANSWERED = {"capset": DONE, "setxattrat": NO_SUCH_CALL}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_listed_call_of_every_abi_is_notified(machine: str) -> None:
    program = seccomp.program(machine=machine)
    marked = seccomp.marked_range(machine)[0] + 1 << 32
    for arch, table in seccomp.abis(machine):
        for name, number in table.items():
            args = ASKED.get(name, (0, 33, 33))
            place = marked if name in seccomp.MARKED else USUAL
            found = verdict(program, arch, number, *args, at_=place)
            assert found == ANSWERED.get(name, NOTIFY), (hex(arch), name)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_calls_that_nobody_is_asked_about_are_allowed_by_their_number(machine: str) -> None:
    """So the kernel remembers the answer (seccomp_is_const_allow) and runs no BPF for them."""
    program = seccomp.program(machine=machine)
    for arch, table in seccomp.abis(machine):
        for number in set(range(512)) - set(table.values()):
            seen = struct.pack("<iI", number, arch)  # a look at more would be an error
            assert _verdict(program, seen) == ALLOW, (hex(arch), number)


# Where a program's first stack page, its libraries and the program itself lie, with as much
# randomness as the kernel may be told to use (arch/arm64/Kconfig, ARCH_MMAP_RND_BITS_MAX).
ARM = {
    "39 bits": (0x7F_FFFF_0000, (0x20_0000_0000, 0x2F_FFFF_F000), 0x55_5555_0000),
    "42 bits": (0x3FF_FFFF_0000, (0x100_0000_0000, 0x13F_FFFF_0000), 0x2AA_AAAA_0000),
    "48 bits": (0xFFFF_C123_0000, (0x4000_0000_0000, 0x5FFF_FFFF_F000), 0xAAAA_AAAA_A000),
}


@pytest.mark.parametrize(("stack", "libraries", "program"), ARM.values(), ids=ARM.keys())
def test_marks_are_told_by_any_size_of_address_space(
    stack: int, libraries: tuple[int, int], program: int
) -> None:
    low, high = seccomp.marked_range("aarch64", stack)
    assert all(low <= place >> 32 < high for place in libraries)
    assert not any(low <= place >> 32 < high for place in (stack - (1 << 33), program))


@pytest.mark.parametrize("place", [USUAL, 0x401000, 0x5555_5555_6000, 0x7FFF_F7FC_0000])
def test_stat_runs_free_where_programs_are_not_marked(place: int) -> None:
    program = seccomp.program(machine="x86_64")
    for name in seccomp.MARKED:
        number = seccomp.X86_64[name]
        assert verdict(program, seccomp.AUDIT_X86_64, number, 0, 0, at_=place) == ALLOW


X86 = seccomp.AUDIT_X86_64


def _place(stack: int) -> int:
    return seccomp.stack_range(stack)[1] - 0x80 << 32


FREE, PATHS, ROOT = map(_place, (seccomp.FREE_STACK, seccomp.PATH_STACK, seccomp.ROOT_STACK))
ROOT_PATHS, DRIVER = map(_place, (seccomp.ROOT_PATH_STACK, seccomp.DRIVER_STACK))
SAME = 0xFFFFFFFF
ALL = 0x1500_0000_0000
MARKS = {
    "a new file of dpkg's": ("openat", FREE, (0, 0, 0o302), ALLOW),
    "a file of dpkg's that may be there": ("openat", FREE, (0, 0, 0o102), NOTIFY),
    "dpkg's reading": ("openat", FREE, (0, 0, 0), ALLOW),
    "a new file of others": ("openat", USUAL, (0, 0, 0o302), NOTIFY),
    "dpkg gives root a file": ("fchown", FREE, (3, 0, 0), ALLOW),
    "dpkg gives a user a file": ("fchown", FREE, (3, 33, 0), NOTIFY),
    "dpkg gives a group a file": ("fchown", FREE, (3, 0, 33), NOTIFY),
    "dpkg leaves the user": ("fchown", FREE, (3, 0xFFFFFFFF, 0), NOTIFY),
    "dpkg gives root a path": ("chown", FREE, (0, 0, 0), NOTIFY),
    "dpkg gives root a link": ("lchown", FREE, (0, 0, 0), ALLOW),
    "others give root a file": ("fchown", USUAL, (3, 0, 0), NOTIFY),
    "a directory of dpkg's": ("mkdir", FREE, (), ALLOW),
    "a directory of others": ("mkdir", ALL, (), NOTIFY),
    "dpkg's stat": ("newfstatat", FREE, (), ALLOW),
    "stat where all are asked": ("newfstatat", ALL, (3, 1, 1, 0x1000), NOTIFY),
    "stat by path": ("newfstatat", PATHS, (3, 1, 1, 0x100), NOTIFY),
    "stat by descriptor": ("newfstatat", PATHS, (3, 1, 1, 0x1000), ALLOW),
    "fstat where all are asked": ("fstat", ALL, (), NOTIFY),
    "fstat where paths are": ("fstat", PATHS, (), ALLOW),
    "lstat where paths are": ("lstat", PATHS, (), NOTIFY),
    "stat between the marks": ("stat", 0x1800_0000_0000, (), ALLOW),
    "newfstatat between the marks": ("newfstatat", 0x1800_0000_0000, (), ALLOW),
    "stat of a program": ("newfstatat", 0x5555_5555_0000, (), ALLOW),
    "stat below the marks": ("newfstatat", 0x40_1000, (), ALLOW),
    "dpkg's stack limit": ("prlimit64", FREE, (0, 3, 0, 1), NOTIFY),
    "the stack limit of adduser": ("prlimit64", PATHS, (0, 3, 0, 1), NOTIFY),
    "the stack limit of mv": ("prlimit64", ROOT_PATHS, (0, 3, 0, 1), ALLOW),
    "the stack limit of gcc": ("prlimit64", DRIVER, (0, 3, 0, 1), NOTIFY),
    "the stack limit between the marks": ("prlimit64", 0x3000_0000_0000, (0, 3, 0, 1), ALLOW),
    "mv asks who it is": ("geteuid", ROOT_PATHS, (), ALLOW),
    "adduser asks who it is": ("geteuid", PATHS, (), NOTIFY),
    "gcc asks who it is": ("geteuid", DRIVER, (), NOTIFY),
    "mv becomes root": ("setresuid", ROOT_PATHS, (0, 0, 0), ALLOW),
    "mv becomes another": ("setresuid", ROOT_PATHS, (33, 33, 33), NOTIFY),
    "mv looks at a path": ("newfstatat", ROOT_PATHS, (3, 1, 1, 0x100), NOTIFY),
    "mv looks at a descriptor": ("newfstatat", ROOT_PATHS, (3, 1, 1, 0x1000), ALLOW),
    "make looks at a path": ("newfstatat", ROOT, (3, 1, 1, 0x100), ALLOW),
    "mv makes a file": ("openat", ROOT_PATHS, (0, 0, 0o302), NOTIFY),
    "gcc starts a program": ("execve", DRIVER, (), ALLOW),
    "gcc starts one by descriptor": ("execveat", DRIVER, (), ALLOW),
    "dpkg starts a program": ("execve", FREE, (), NOTIFY),
    "make starts a program": ("execve", ROOT, (), NOTIFY),
    "a temporary file of gcc's": ("openat", DRIVER, (0, 0, 0o302), ALLOW),
    "another file of gcc's": ("openat", DRIVER, (0, 0, 0o1101), NOTIFY),
    "gcc gives a user a file": ("fchown", DRIVER, (3, 33, 0), NOTIFY),
    "the stack limit of others": ("prlimit64", USUAL, (0, 3, 0, 1), ALLOW),
    "another limit of dpkg's": ("prlimit64", FREE, (0, 7, 0, 1), ALLOW),
    "dpkg sets a limit": ("prlimit64", FREE, (0, 7, 1, 0), NOTIFY),
    "the stack limit of make": ("prlimit64", ROOT, (0, 3, 0, 1), NOTIFY),
    "make asks who it is": ("geteuid", ROOT, (), ALLOW),
    "dpkg asks who it is": ("geteuid", FREE, (), NOTIFY),
    "a program at a like place": ("geteuid", 0x5655_5555_0000, (), NOTIFY),
    "make asks for its groups": ("getgroups", ROOT, (0, 0), NOTIFY),
    "make becomes root": ("setresuid", ROOT, (SAME, 0, SAME), ALLOW),
    "make becomes root in all": ("setresgid", ROOT, (0, 0, 0), ALLOW),
    "make becomes another, first": ("setresuid", ROOT, (1, 0, 0), NOTIFY),
    "make becomes another, then": ("setresuid", ROOT, (0, 1, SAME), NOTIFY),
    "make becomes another, at last": ("setresgid", ROOT, (0, SAME, 1), NOTIFY),
    "others become root": ("setresuid", USUAL, (SAME, 0, SAME), NOTIFY),
    "make becomes root otherwise": ("setuid", ROOT, (0,), NOTIFY),
    "make's files": ("openat", ROOT, (0, 0, 0o302), NOTIFY),
    "a stack is set": ("prlimit64", USUAL, (0, 3, 1, 0), NOTIFY),
}


@pytest.mark.parametrize(("name", "at", "args", "expected"), MARKS.values(), ids=MARKS.keys())
def test_marks_decide(name: str, at: int, args: tuple[int, ...], expected: int) -> None:
    found = verdict(seccomp.program(machine="x86_64"), X86, seccomp.X86_64[name], *args, at_=at)
    assert found == expected


def test_marks_lie_apart_and_where_no_program_does() -> None:
    """A program that is not linked to a place lies from 2/3 of the address space on (1 TiB)."""
    places = sorted(map(seccomp.stack_range, seccomp.LARGE))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(places))
    assert places[0][0] > seccomp.marked_range("x86_64")[1]
    assert all(low >= 0x5656 or high <= 0x5555 for low, high in places)
    assert all(low >= 0x2BAB or high <= 0x2AAA for low, high in places)  # setarch --legacy
    assert max(seccomp.LARGE) >> 32 < 0x8000 // 6 * 5  # mmap_base() allows no more


def test_a_stack_limit_that_anybody_may_raise_is_not_asked_about() -> None:
    program = seccomp.program(machine="x86_64", endless=True)
    assert verdict(program, X86, 302, 0, 3, 0x1234) == ALLOW
    assert verdict(program, X86, 302, 0, 7, 0x1234) == NOTIFY


CASES = {
    "read": (X86, 0, (), ALLOW),
    "execve is asked about": (X86, 59, (), NOTIFY),
    "an open for reading runs free": (X86, 2, (0, 0), ALLOW),
    "an openat for reading runs free": (X86, 257, (0, 0, 0o2000000), ALLOW),
    "an openat that may create": (X86, 257, (0, 0, 0o102), NOTIFY),
    "prctl of anything else": (X86, 157, (15,), ALLOW),
    "prctl PR_SET_KEEPCAPS": (X86, 157, (8, 1), NOTIFY),
    "an openat of a file without a name": (X86, 257, (0, 0, 0o20200002), NOTIFY),
    "limits that are only read": (X86, 302, (0, 7, 0, 0x1234), ALLOW),
    "a socket's option": (X86, 55, (3, 1, 4), ALLOW),
    "who is at the other end": (X86, 55, (3, 1, 17), NOTIFY),
    "x32 does not exist here": (X86, 0x40000000 | 1, (), NO_SUCH_CALL),
    "an unknown ABI is left alone": (0xC00000F3, 54, (), ALLOW),
    "i386 chown32": (seccomp.AUDIT_I386, 212, (), NOTIFY),
    "a number of another ABI": (seccomp.AUDIT_I386, 92, (), ALLOW),
}


@pytest.mark.parametrize(("arch", "number", "args", "expected"), CASES.values(), ids=CASES.keys())
def test_other_calls_run_at_full_speed(
    arch: int, number: int, args: tuple[int, ...], expected: int
) -> None:
    assert verdict(seccomp.program(machine="x86_64"), arch, number, *args) == expected


def test_without_a_listener_owners_succeed_and_identities_stay_native() -> None:
    program = seccomp.program(notify=False, machine="x86_64")
    table = dict(seccomp.abis("x86_64"))[X86]
    for name in ("chown", "fchownat", "setuid", "setgroups", "capset"):
        assert verdict(program, X86, table[name], 0, 33, 33) == DONE, name
    for name in ("getuid", "mkdir", "execve", "mknod"):
        assert verdict(program, X86, table[name]) == ALLOW, name


def test_jumps_fit_and_the_program_is_short() -> None:
    assert len(seccomp.program(machine="x86_64")) // 8 < 4096  # BPF_MAXINSNS
