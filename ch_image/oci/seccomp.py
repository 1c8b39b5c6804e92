"""Compiles the seccomp profile of config.json, with libseccomp where the machine has it.

Any user may restrict their own processes, so a profile is applied like root's. libseccomp knows
the numbers of system calls of every ABI; it is a library of the system's, not of ours, so it is
looked for when there is a profile, and without it a warning says that none is in force.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from ch_image.errors import ChError, printable
from ch_image.typed import Any

_LIBRARY = "libseccomp.so.2"
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_COMPARE = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
            "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")  # fmt: skip
_ARCHES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
_NO_SYSCALL = -1
_CTL_NNP = 3
_EACCES = -errno.EACCES


class _Argument(ctypes.Structure):
    _fields_ = [
        ("number", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    ]


def compiled(profile: dict[str, Any], warn: Callable[[str], None]) -> bytes:
    """The profile as a BPF program. Raises ChError for what no library could mean."""
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError:
        warn(f"linux.seccomp is not in force: this machine has no {_LIBRARY}")
        return b""
    library.seccomp_init.restype = ctypes.c_void_p
    action = _action(profile, "defaultAction", "defaultErrnoRet", "linux.seccomp")
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(action)))
    try:
        library.seccomp_attr_set(context, _CTL_NNP, 0)
        for name in profile.get("architectures") or ():
            if name in _ARCHES:  # others are of other machines
                library.seccomp_arch_add(context, ctypes.c_uint32(_ARCHES[name]))
        for number, rule in enumerate(profile.get("syscalls") or ()):
            _rule(library, context, rule, f"linux.seccomp.syscalls[{number}]", action)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def features() -> dict[str, Any]:
    """What is known of profiles here, as the specification's features structure has it."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return {"enabled": False}
    return {
        "enabled": True,
        "actions": sorted(_ACTIONS),
        "operators": sorted(_COMPARE),
        "archs": sorted(_ARCHES),
    }


def _action(fields: dict[str, Any], name: str, number: str, where: str) -> int:
    action = fields.get(name)
    if action not in _ACTIONS:
        raise ChError(f"{where}.{name}: there is no action '{printable(str(action), 60)}'")
    value = _ACTIONS[action]
    if action in _WITH_NUMBER:
        given = fields.get(number)
        value |= (errno.EPERM if given is None else int(given)) & 0xFFFF
    return value


def _rule(
    library: ctypes.CDLL, context: ctypes.c_void_p, rule: dict[str, Any], where: str, default: int
) -> None:
    action = _action(rule, "action", "errnoRet", where)
    if action == default:
        return
    given = [_argument(item, where) for item in rule.get("args") or ()]
    # Two conditions on one argument are alternatives, as in the reference runtime.
    alone = len({item.number for item in given}) < len(given)
    for name in rule.get("names") or ():
        call = library.seccomp_syscall_resolve_name(str(name).encode())
        if call == _NO_SYSCALL:
            continue  # of a newer kernel or another machine
        for group in [[item] for item in given] if alone else [given]:
            array = (_Argument * len(group))(*group)
            result = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), call, len(group), array
            )
            if result not in (0, _EACCES, -errno.EEXIST):
                raise ChError(f"{where}: {printable(str(name), 60)}: {os.strerror(-result)}")


def _argument(item: dict[str, Any], where: str) -> _Argument:
    try:
        compare = _COMPARE.index(item["op"]) + 1
        value, second = int(item["value"]), int(item.get("valueTwo") or 0)
        masks = (value, second)
        return _Argument(int(item["index"]), compare, *masks)
    except (KeyError, ValueError, TypeError):
        raise ChError(f"{where}.args: an argument that cannot be compared") from None


def _exported(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    memory = os.memfd_create("profile")
    try:
        result = library.seccomp_export_bpf(context, memory)
        if result:
            raise ChError(f"linux.seccomp cannot be compiled: {os.strerror(-result)}")
        os.lseek(memory, 0, os.SEEK_SET)
        with open(os.dup(memory), "rb") as file:
            return file.read()
    finally:
        os.close(memory)
