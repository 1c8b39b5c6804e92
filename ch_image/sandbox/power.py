"""A process's capabilities, limits and IDs on its way to becoming a program (capabilities(7))."""

from __future__ import annotations

import errno
import os
import struct

from ch_image.sandbox import syscalls as kernel

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21
_VERSION_3 = 0x20080522


class Sets:
    """Capability sets as masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(
        self, bounding: int, effective: int, inheritable: int, permitted: int, ambient: int
    ) -> None:
        self.bounding, self.effective, self.inheritable = bounding, effective, inheritable
        self.permitted, self.ambient = permitted, ambient


def last_capability() -> int:
    """The highest capability number of this kernel."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except OSError:
        return 40


def own() -> tuple[int, int]:
    """(effective, permitted) of this process."""
    head = struct.pack("=Ii", _VERSION_3, 0)
    data = bytearray(24)
    import ctypes

    kernel.syscall(kernel.SYS_capget, head, (ctypes.c_char * 24).from_buffer(data))
    words = struct.unpack("=6I", data)
    return words[0] | words[3] << 32, words[1] | words[4] << 32


def may(capability: int) -> bool:
    """Whether this process has a capability in effect."""
    return bool(own()[0] >> capability & 1)


def drop_bounding(keep: int, last: int) -> None:
    """Take from the bounding set what is not in ``keep``."""
    for number in range(last + 1):
        if not keep >> number & 1:
            try:
                kernel.prctl(kernel.PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise


def become(uid: int, gid: int, groups: list[int] | None) -> None:
    """Take an identity for good, capabilities kept until ``limit``; ``groups`` None: as they are.

    Raises OSError for IDs that are not mapped (EINVAL) or not allowed.
    """
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    if groups is not None:
        os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def limit(sets: Sets, extra: int = 0) -> int:
    """Have these capabilities and no others; what could not be had is returned as a mask.

    ``extra`` are kept as well, as far as they are there; the next exec takes them away.
    """
    permitted = own()[1]
    wanted = sets.permitted & permitted
    effective, inheritable = sets.effective & wanted, sets.inheritable & permitted
    _set(effective | extra & permitted, wanted | extra & permitted, inheritable)
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if sets.ambient & wanted & inheritable & 1 << number:
            kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number)
    return (sets.permitted | sets.effective) & ~wanted


def _set(effective: int, permitted: int, inheritable: int) -> None:
    low = [mask & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    high = [mask >> 32 for mask in (effective, permitted, inheritable)]
    head = struct.pack("=Ii", _VERSION_3, 0)
    kernel.syscall(kernel.SYS_capset, head, struct.pack("=6I", *low, *high))


def set_rlimit(resource: int, soft: int, hard: int) -> bool:
    """Set a limit; where it may not be raised so far, as far as it may (then False)."""
    try:
        kernel.prlimit(0, resource, struct.pack("=QQ", soft, hard), None)
    except PermissionError:
        old = bytearray(16)
        kernel.prlimit(0, resource, None, old)
        top = min(hard, int.from_bytes(old[8:], "little"))
        kernel.prlimit(0, resource, struct.pack("=QQ", min(soft, top), top), None)
        return False
    return True
