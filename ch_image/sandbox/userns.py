"""One user namespace in which an ordinary user is 0:0, with a mount namespace of its own.

One UID and one GID are mapped: the caller's, as 0. The process must be single-threaded, for the
kernel refuses the call otherwise (EINVAL).
"""

from __future__ import annotations

import errno
import os

from ch_image.errors import SandboxError
from ch_image.sandbox import syscalls as kernel

_WHY = "user namespaces are not available to ordinary users here"
_entered = False


def entered() -> bool:
    """Whether this process is inside already."""
    return _entered


def enter() -> None:
    """Become 0:0 of a new user and mount namespace; once, later calls do nothing.

    Raises SandboxError that names the setting to look at.
    """
    global _entered
    if _entered:
        return
    uid, gid = os.geteuid(), os.getegid()
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        map_ids(uid, gid)
        # Slave: what the host mounts and unmounts later comes in, nothing of ours goes out.
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)
    except OSError as error:
        raise SandboxError(f"{_WHY}: {error.strerror}", hint=reason(error.errno)) from None
    _entered = True


def join(pidfd: int) -> None:
    """Enter the user and mount namespace of a process of ours, outside any that we made.

    The working directory and the root are then that mount namespace's. Raises OSError.
    """
    global _entered
    kernel.setns(pidfd, kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    _entered = True


def map_ids(uid: int, gid: int, inner_uid: int = 0, inner_gid: int = 0) -> None:
    """Map ``uid:gid`` of the parent namespace to the inner IDs of this process's namespace."""
    try:
        kernel.write_file("/proc/self/setgroups", "deny")
    except FileNotFoundError:  # before Linux 3.19
        pass
    kernel.write_file("/proc/self/uid_map", f"{inner_uid} {uid} 1")
    kernel.write_file("/proc/self/gid_map", f"{inner_gid} {gid} 1")


def _setting(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def reason(number: int | None) -> str:
    """What an administrator would have to change, as far as the kernel lets us see."""
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "an administrator can allow them: sysctl kernel.unprivileged_userns_clone=1"
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
            "or a profile that allows userns for this Python"
        )
    if _setting("/proc/sys/user/max_user_namespaces") == "0" or number == errno.ENOSPC:
        return "an administrator can allow more of them: sysctl user.max_user_namespaces=15000"
    if number == errno.EINVAL:
        return "the process had threads already; report this as a bug"
    return "inside another container, its seccomp or security policy must allow unshare and mount"
