"""The last steps of a process before it is the program that config.json names.

Everything here runs inside the container, where nothing may be imported any more: a module would
come from the image.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import sys
from collections.abc import Callable

from ch_image.errors import ChError, printable
from ch_image.oci.config import Capabilities, Process
from ch_image.oci.spec import RLIMITS
from ch_image.sandbox import power
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import NamedTuple

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_JOIN_SESSION_KEYRING, _IOPRIO_WHO_PROCESS, _PER_LINUX32 = 1, 1, 8
_CLOSE_RANGE_CLOEXEC = 4
Warn = Callable[[str], None]


class Means(NamedTuple):
    """What the process brings from outside.

    ``proc`` is a descriptor of the host's /proc; ``profile`` a compiled seccomp profile;
    ``emulate`` installs the filter of root emulation; ``last`` is the last capability.
    """

    proc: int
    last: int
    profile: bytes = b""
    emulate: Callable[[], None] | None = None
    preserve: int = 0
    keyring: bool = True
    personality: str = ""


def lock_imports() -> None:
    """From here on no import finds anything: what is needed has been loaded."""
    sys.meta_path.clear()
    sys.path.clear()


def environment(process: Process) -> dict[str, str]:
    """The program's variables, HOME by the image's passwd where nothing is said."""
    env = dict(item.partition("=")[::2] for item in process.env if "=" in item)
    if not env.get("HOME"):
        env["HOME"] = _home(process.user.uid)
    return env


def _home(uid: int) -> str:
    try:
        with open("/etc/passwd", "rb") as file:
            for line in file.read(1 << 20).split(b"\n"):
                fields = line.split(b":")
                if len(fields) > 5 and fields[2] == b"%d" % uid:
                    return os.fsdecode(fields[5]) or "/"
    except OSError:
        pass
    return "/root" if uid == 0 else "/"


def find(process: Process, env: dict[str, str]) -> str:
    """The program's path, as execvp(3) looks for it. Raises ChError."""
    name = process.args[0]
    if "/" in name:
        if os.path.exists(os.path.join(process.cwd, name)):
            return name
        raise ChError(f"process.args[0]: {printable(name, 300)}: no such file or directory")
    refused = False
    for directory in env.get("PATH", _SEARCH).split(":"):
        path = os.path.join(process.cwd, directory, name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            refused = True
    if refused:
        raise ChError(f"process.args[0]: {printable(name, 300)}: permission denied")
    raise ChError(f"process.args[0]: {printable(name, 300)}: executable file not found in $PATH")


def become(process: Process, means: Means, warn: Warn, ready: Callable[[], None]) -> None:
    """Become the program; ``ready`` is called right before. Returns never; raises ChError."""
    env = environment(process)
    for number in range(1, 65):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # KILL, STOP and those of the C library
            pass
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    _enter(process.cwd)
    _settings(process, means, warn)
    capabilities = (process.capabilities or Capabilities()).sets
    no_new = process.no_new_privileges
    power.drop_bounding(capabilities.bounding, means.last)
    if means.profile and not no_new:
        kernel.seccomp_filter(means.profile)
    _identity(process, means)
    program = find(process, env)
    # A filter needs either of two (seccomp(2)). The emulated process is the kernel's root, so exec
    # gives it what the bounding set has: this one goes then.
    extra = 0 if no_new or means.emulate is None else 1 << power.CAP_SYS_ADMIN
    missing = power.limit(power.Sets(*capabilities), extra)
    if missing & ~(-1 << means.last + 1):
        warn(f"capabilities that cannot be granted: mask {missing:#x}")
    if no_new:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if means.emulate is not None:
        means.emulate()
    if means.profile and no_new:
        kernel.seccomp_filter(means.profile)
    # After the last thing of ours that makes files.
    os.umask(0o022 if process.user.umask is None else process.user.umask)
    _close_on_exec(3 + means.preserve)
    ready()
    try:
        os.execve(program, process.args, env)
    except OSError as error:
        raise ChError(f"process.args[0]: {printable(program, 300)}: {_why(error)}") from None


def _why(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "exec format error"
    return (error.strerror or "").lower()


def _enter(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise ChError(f"process.cwd: {printable(path, 300)}: {error.strerror}") from None
    # A descriptor or symlink left over must not put us outside the root (CVE-2024-21626).
    if not os.getcwd().startswith("/"):
        raise ChError(f"process.cwd: {printable(path, 300)} is outside of the root")


def _settings(process: Process, means: Means, warn: Warn) -> None:
    """What needs no identity: keyring, limits, priorities, labels."""
    if means.keyring:
        try:
            kernel.syscall(kernel.SYS_keyctl, _JOIN_SESSION_KEYRING, None)
        except OSError:  # no keys in this kernel, or no more of them for this user
            pass
    for limit in process.rlimits:
        try:
            if not power.set_rlimit(RLIMITS[limit.kind], limit.soft, limit.hard):
                warn(f"{limit.kind} cannot be raised to {limit.hard}")
        except OSError as error:
            raise ChError(f"process.rlimits: {limit.kind}: {error.strerror}") from None
    if process.io_priority:
        kind, priority = process.io_priority
        try:
            kernel.syscall(kernel.SYS_ioprio_set, _IOPRIO_WHO_PROCESS, 0, kind << 13 | priority)
        except OSError as error:
            warn(f"process.ioPriority: {error.strerror}")
    if means.personality == "LINUX32":
        kernel.syscall(kernel.SYS_personality, _PER_LINUX32)
    for label, places, prefix in (
        (process.apparmor_profile, ("apparmor/exec", "exec"), "exec "),
        (process.selinux_label, ("exec",), ""),
    ):
        if label:
            _label(means.proc, places, prefix + label, warn)


def _label(proc: int, places: tuple[str, ...], text: str, warn: Warn) -> None:
    """Ask the security module for a label on exec; none there is no fault."""
    problem = ""
    for place in places:
        try:
            fd = os.open(f"thread-self/attr/{place}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        except OSError:
            continue
        try:
            os.write(fd, text.encode())
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                problem = error.strerror or "refused"
        finally:
            os.close(fd)
    if problem:
        warn(f"label {printable(text, 100)}: {problem}")


def _identity(process: Process, means: Means) -> None:
    if means.emulate is not None:  # the supervisor knows who it is; the kernel knows one ID
        return
    user = process.user
    groups = list(user.groups) if _may_set_groups(means.proc) else None
    try:
        power.become(user.uid, user.gid, groups)
    except OSError as error:
        reason = "not mapped in this container" if error.errno == errno.EINVAL else error.strerror
        raise ChError(
            f"process.user: {user.uid}:{user.gid}: {reason}",
            hint="an ordinary user's container has one ID, unless /etc/subuid has a range",
        ) from None


def _may_set_groups(proc: int) -> bool:
    try:
        fd = os.open("thread-self/setgroups", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return True
    try:
        return os.read(fd, 16).strip() != b"deny"
    finally:
        os.close(fd)


def _close_on_exec(first: int) -> None:
    try:
        kernel.syscall(kernel.SYS_close_range, first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC)
    except OSError:  # before Linux 5.11
        for number in range(first, 1 << 16):
            try:
                fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            except OSError:
                pass
