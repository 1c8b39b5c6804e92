"""Namespaces of a container: which are made, which are joined, and in which order.

A namespace can be entered by who has power over the user namespace that owns it. That may be the
one we come from or the one we go to, so what cannot be joined before is tried again after.
"""

from __future__ import annotations

import fcntl
import os

from ch_image.errors import SandboxError, printable
from ch_image.oci.config import Namespace, Spec
from ch_image.sandbox import syscalls as kernel

FLAGS = {
    "user": kernel.CLONE_NEWUSER,
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "network": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
    "time": kernel.CLONE_NEWTIME,
}
_FILES = {"mount": "mnt", "network": "net"}
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h


def new_flags(spec: Spec) -> int:
    """CLONE_* of the namespaces to make, the user namespace left out.

    There is a mount namespace also where none is asked for, as nothing of a container's may show
    outside; only one that is named by path is used as it is.
    """
    flags = 0 if joins_mounts(spec) else kernel.CLONE_NEWNS
    for one in spec.linux.namespaces:
        if not one.path and one.kind != "user":
            flags |= FLAGS[one.kind]
    return flags


def joins_mounts(spec: Spec) -> bool:
    """Whether the container's mounts are made in a namespace that is there already."""
    return any(one.kind == "mount" and one.path for one in spec.linux.namespaces)


def opened(spec: Spec) -> list[tuple[Namespace, int]]:
    """Descriptors of the namespaces to join, their kind checked. Raises SandboxError."""
    out = []
    for number, one in enumerate(spec.linux.namespaces):
        if not one.path:
            continue
        where = f"linux.namespaces[{number}]: {printable(one.path, 200)}"
        try:
            fd = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError as error:
            text = "not a namespace" if error.errno in (25, 22) else error.strerror
            raise SandboxError(f"{where}: {text}") from None
        if kind != FLAGS[one.kind]:
            raise SandboxError(f"{where}: not a {one.kind} namespace")
        out.append((one, fd))
    return out


def join(these: list[tuple[Namespace, int]], *, last: bool) -> list[tuple[Namespace, int]]:
    """Enter namespaces; those that refuse are returned, or with ``last`` are a SandboxError."""
    left = []
    for one, fd in these:
        try:
            kernel.setns(fd, FLAGS[one.kind])
            os.close(fd)
        except OSError as error:
            if last:
                raise SandboxError(
                    f"{one.kind} namespace {printable(one.path, 200)} cannot be joined: "
                    f"{error.strerror}",
                    hint="it must belong to you, and to a user namespace that you own",
                ) from None
            left.append((one, fd))
    return left


def enter_process(pid: int) -> None:
    """Enter all namespaces of ``pid`` that are not ours already (Linux 5.8). Raises OSError."""
    pidfd = kernel.pidfd_open(pid)
    try:
        flags = 0
        for kind, flag in FLAGS.items():
            name = _FILES.get(kind, kind)
            try:
                same = os.path.samestat(
                    os.stat(f"/proc/self/ns/{name}"), os.stat(f"/proc/{pid}/ns/{name}")
                )
            except FileNotFoundError:  # a kind that this kernel lacks
                continue
            flags |= 0 if same else flag
        if flags:
            kernel.setns(pidfd, flags)
    finally:
        os.close(pidfd)
