"""The root of a container as config.json wants it: mounts, devices, masked and read-only paths.

All of it is done before the root is changed, with descriptors inside the new root (see
``sandbox.mounts``): a symlink of the image leads nowhere else. What the kernel keeps to the owner
of the machine is replaced by what an ordinary user can have: sysfs and cgroup by the host's own,
device nodes by the host's, bound.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ch_image.errors import SandboxError, printable
from ch_image.oci.config import Device, Mount, Spec
from ch_image.oci.joining import joins_mounts
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.mountopts import Options, change
from ch_image.sandbox.mounts import Root, fd_path, make_readonly

_DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9), ("tty", 0))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)
_HOSTS = {"sysfs": "/sys", "cgroup": "/sys/fs/cgroup", "cgroup2": "/sys/fs/cgroup",
          "mqueue": "/dev/mqueue", "proc": "/proc"}  # fmt: skip
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_PROPAGATIONS = {
    "shared": kernel.MS_SHARED,
    "slave": kernel.MS_SLAVE,
    "private": kernel.MS_PRIVATE,
    "unbindable": kernel.MS_UNBINDABLE,
}
Warn = Callable[[str], None]
Made = Callable[[list[tuple[str, int]]], None]


class _Lacking(Exception):
    """A file system that cannot be had, and that nothing can stand in for."""


def furnish(spec: Spec, path: str, bundle: str, made: Made, warn: Warn) -> Root:
    """In a fresh mount namespace: the new root at ``path`` with all that is mounted in it.

    ``made`` hears of the mount points that were made, also when this fails. Raises SandboxError
    that names the part of config.json.
    """
    if not joins_mounts(spec):
        _separate(spec)
    try:
        _unshare_parent(path)  # pivot_root wants nothing shared around it
        kernel.mount(path, path, None, kernel.MS_BIND | kernel.MS_REC)
        root = Root(path)
        kernel.mount(None, fd_path(root.fd), None, kernel.MS_PRIVATE)
    except OSError as error:
        raise SandboxError(f"root.path: {printable(path, 300)}: {error.strerror}") from None
    try:
        _fill(root, spec, bundle, warn)
    finally:
        made(root.made)
    return root


def _fill(root: Root, spec: Spec, bundle: str, warn: Warn) -> None:
    for number, mount in enumerate(spec.mounts):
        where = f"mounts[{number}] on {printable(mount.destination, 200)}"
        try:
            _mount(root, mount, bundle)
        except _Lacking as error:
            warn(f"{where}: left out: {error}")
        except OSError as error:
            raise SandboxError(f"{where}: {_reason(error)}") from None
        except SandboxError as error:
            raise SandboxError(f"{where}: {error}") from None
    _devices(root, spec, warn)
    if spec.process:
        os.close(_directory(root, spec.process.cwd))


def _separate(spec: Spec) -> None:
    """Let no mount of ours go out of the namespace, but those of the host come in."""
    outside = kernel.MS_SHARED if spec.linux.rootfs_propagation == "shared" else kernel.MS_SLAVE
    try:
        kernel.mount(None, "/", None, kernel.MS_REC | outside)
    except OSError:  # "/" is no mount of its own here
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def _unshare_parent(path: str) -> None:
    """Make the mount that holds ``path`` private."""
    while True:
        try:
            return kernel.mount(None, path, None, kernel.MS_PRIVATE)
        except OSError as error:  # EINVAL: nothing is mounted just here
            if error.errno != errno.EINVAL or path == "/":
                raise
        path = os.path.dirname(path)


def _reason(error: OSError) -> str:
    about = error.filename if isinstance(error.filename, str) else ""
    shown = f"{printable(about, 200)}: " if about and not about.startswith("/proc/self/fd") else ""
    return f"{shown}{error.strerror}"


def _directory(root: Root, path: str) -> int:
    try:
        return root.target(path, True)
    except OSError as error:
        raise SandboxError(f"process.cwd: {printable(path, 300)}: {error.strerror}") from None


def restrict(spec: Spec, root: Root) -> None:
    """After the hooks that may still add to the root: hide and write-protect."""
    for path in spec.linux.masked_paths:
        _on_existing(root, path, _mask)
    for path in spec.linux.readonly_paths:
        _on_existing(root, path, _protect)
    if spec.root_readonly:
        flags = kernel.AT_EMPTY_PATH
        top = root.open("/")
        try:
            kernel.mount_setattr(top, "", flags, kernel.MOUNT_ATTR_RDONLY)
        except OSError as error:
            raise SandboxError(f"root.readonly: {error.strerror}") from None
        finally:
            os.close(top)


def pivot(spec: Spec, root: Root) -> None:
    """Make the root this process's own, and its mount namespace's if that is a new one."""
    os.fchdir(root.fd)
    if joins_mounts(spec):
        os.chroot(".")
    else:
        kernel.pivot_root(".", ".")
        kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")
    os.close(root.fd)


def propagate(spec: Spec) -> None:
    """Let the new root's mounts propagate as ``linux.rootfsPropagation`` says."""
    if spec.linux.rootfs_propagation:
        flags = _PROPAGATIONS[spec.linux.rootfs_propagation]
        kernel.mount(None, "/", None, flags | kernel.MS_REC)


def _on_existing(root: Root, path: str, work: Callable[[Root, str, int], None]) -> None:
    try:
        fd = root.open(path)
    except OSError:  # not there, so there is nothing to hide
        return
    try:
        work(root, path, fd)
    except OSError as error:
        raise SandboxError(f"{printable(path, 200)} cannot be masked: {error.strerror}") from None
    finally:
        os.close(fd)


def _mask(_root: Root, _path: str, fd: int) -> None:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        kernel.mount("tmpfs", fd_path(fd), "tmpfs", kernel.MS_RDONLY, "size=0k,mode=0555")
    else:
        kernel.mount("/dev/null", fd_path(fd), None, kernel.MS_BIND)


def _protect(root: Root, path: str, fd: int) -> None:
    kernel.mount(fd_path(fd), fd_path(fd), None, kernel.MS_BIND | kernel.MS_REC)
    make_readonly(root, path)


# -- mounts --


def _mount(root: Root, mount: Mount, bundle: str) -> None:
    options = Options(mount.options)
    if options.remount:
        _again(root, mount, options)
    elif options.bind or mount.type == "bind":
        _bind(root, os.path.join(bundle, mount.source), mount.destination, options)
    elif mount.type == "tmpfs" and options.copy_up:
        _copied_up(root, mount, options)
    else:
        _fresh(root, mount, options)


def _again(root: Root, mount: Mount, options: Options) -> None:
    """Another look at a mount that is there: its flags alone."""
    fd = root.open(mount.destination)
    try:
        change(fd, options)
    finally:
        os.close(fd)


def _bind(root: Root, source: str, destination: str, options: Options) -> None:
    deep = kernel.MS_REC if options.recursive else 0
    origin = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        target = root.target(destination, stat.S_ISDIR(os.fstat(origin).st_mode))
        try:
            kernel.mount(fd_path(origin), fd_path(target), None, kernel.MS_BIND | deep)
        finally:
            os.close(target)
    finally:
        os.close(origin)
    _change(root, destination, options)


def _change(root: Root, destination: str, options: Options) -> None:
    """Give the topmost mount at ``destination`` what was asked for."""
    top = root.open(destination)
    try:
        change(top, options)
    finally:
        os.close(top)


def _fresh(root: Root, mount: Mount, options: Options) -> None:
    target = root.target(mount.destination, True)
    try:
        _try(target, mount, options)
    except OSError as error:
        host = _HOSTS.get(mount.type)
        if host is None or error.errno not in (errno.EPERM, errno.EBUSY, errno.ENODEV):
            raise
        if not os.path.isdir(host):
            raise _Lacking(f"only root can mount {mount.type}, and the host has none") from None
        kernel.mount(host, fd_path(target), None, kernel.MS_BIND | kernel.MS_REC)
        options.data.clear()
    else:
        # A file system's first mount has its flags already; only the rest is left to do.
        options.set = options.clear = 0
    finally:
        os.close(target)
    _change(root, mount.destination, options)


def _try(target: int, mount: Mount, options: Options) -> None:
    """Mount a new file system, with a second try where an option is what a user cannot have."""
    source, data = mount.source or mount.type, list(options.data)
    for attempt in range(2):
        try:
            words = ",".join(data) or None
            kernel.mount(source, fd_path(target), mount.type, options.flags, words)
            return
        except OSError as error:
            fewer = _second_try(mount.type, data, error.errno)
            if attempt or fewer is None:
                raise
            data = fewer


def _second_try(kind: str, data: list[str], number: int | None) -> list[str] | None:
    if kind == "devpts" and number == errno.EINVAL:  # a group "tty" that is not mapped
        return [word for word in data if not word.startswith("gid=")]
    if kind == "overlay" and number in (errno.EPERM, errno.EINVAL) and "userxattr" not in data:
        return [*data, "userxattr"]
    return None


def _copied_up(root: Root, mount: Mount, options: Options) -> None:
    """A tmpfs that starts with what the image has at its place."""
    from ch_image.fs.copy import copy_tree

    place = root.target(mount.destination, True)
    below = os.open(fd_path(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _fresh(root, mount, options)
    place = root.open(mount.destination)
    above = os.open(fd_path(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(below):
            copy_tree(below, name, above, name)
    finally:
        os.close(below)
        os.close(above)


# -- devices --


def _devices(root: Root, spec: Spec, warn: Warn) -> None:
    bound = [m for m in spec.mounts if m.destination.rstrip("/") == "/dev"]
    if bound and (bound[-1].type == "bind" or Options(bound[-1].options).bind):
        return  # the caller brings a /dev of its own
    asked = {device.path: device for device in spec.linux.devices}
    for name, minor in _DEVICES:
        major = 5 if name == "tty" else 1
        asked.setdefault(f"/dev/{name}", Device(f"/dev/{name}", "c", major, minor, 0o666))
    for device in asked.values():
        try:
            _device(root, device)
        except OSError as error:
            warn(f"device {printable(device.path, 200)} is not there: {error.strerror}")
    here = root.target("/dev", True)
    try:
        for name, to in _LINKS:
            try:
                os.symlink(to, name, dir_fd=here)
            except FileExistsError:
                pass
    except OSError as error:
        warn(f"links in /dev are not there: {error.strerror}")
    finally:
        os.close(here)


def _device(root: Root, device: Device) -> None:
    parent, _, name = device.path.rstrip("/").rpartition("/")
    above = root.target(parent or "/", True)
    try:
        mode = device.mode if device.mode is not None else 0o666
        node = _KINDS[device.type] | mode & 0o7777
        os.mknod(name, node, os.makedev(device.major, device.minor), dir_fd=above)
        os.chmod(name, mode & 0o7777, dir_fd=above)
        if (device.uid, device.gid) != (0, 0):
            os.chown(name, device.uid, device.gid, dir_fd=above)
    except FileExistsError:
        return
    except PermissionError:
        _bind_device(root, device)
    finally:
        os.close(above)


def _bind_device(root: Root, device: Device) -> None:
    """The host's node instead of one of its own, if it is the same device."""
    found = os.stat(device.path)
    same = found.st_rdev == os.makedev(device.major, device.minor)
    if not same or stat.S_IFMT(found.st_mode) != _KINDS[device.type]:
        raise OSError(errno.EPERM, "only root can make it, and the host has none to lend")
    _bind(root, device.path, device.path, Options(("bind",)))
