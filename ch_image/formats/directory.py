"""Plain directories: a tree that anybody can look into, run, copy and remove.

Written with the owner's permission bits raised to rwx and rw, and without set-ID bits, devices
and our records, so that ``rm -rf`` removes it and nothing in it is dangerous to others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ch_image.errors import ImageError, UsageError, printable
from ch_image.formats.base import Content, Place, naming
from ch_image.formats.outfit import METADATA, recall
from ch_image.formats.unfinished import beside, check_parent, is_unfinished
from ch_image.fs import owners
from ch_image.fs.copy import copy_tree, ordinary_xattr, set_mode
from ch_image.fs.directories import Directories
from ch_image.report import Detail
from ch_image.sandbox.syscalls import exchange

_LOOKS_LIKE_AN_IMAGE = ("bin", "dev", "proc", "usr")  # a home may have all but one
_INSIDE = "tree"  # what is unfinished is called in a directory that is filled
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directory:
    """The format ``dir``."""

    @contextmanager
    def open(self, name: str, place: Place) -> Iterator[Content]:
        """Lend the directory as it is. Raises ImageError."""
        path = os.path.realpath(name)
        if not os.path.isdir(path):
            what = "not a directory" if os.path.lexists(path) else "no such directory"
            raise ImageError(f"{what}: {printable(name)}")
        if os.path.commonpath([path, place.storage.path]) == path:
            raise UsageError(f"the directory contains the storage directory: {printable(name)}")
        if not os.listdir(path):
            raise ImageError(f"the directory is empty: {printable(name)}")
        yield Content(recall(path), path, {})

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError when something else than an image is there."""
        path, storage = os.path.realpath(name), place.storage.path
        common = os.path.commonpath([path, storage])
        if common in (path, storage):
            what = "would lie in storage" if common == storage else "contains the storage directory"
            raise UsageError(f"the directory {what}: {printable(name)}")
        check_replaceable(path, place.clobber)
        if not os.path.isdir(path):
            check_parent(path)

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write the tree as the directory ``name``; an image that is there is replaced.

        Raises ImageError when something else is there, OSError.
        """
        self.admit(name, place)
        path = os.path.realpath(name)
        fill = _must_be_filled(path)
        with beside(f"{path}/{_INSIDE}" if fill else path) as temporary:
            with naming(path):
                _copy(content.tree, temporary, place.xattrs)
            devices = make_plain(temporary, exact=place.exact)
            if devices:
                place.report(Detail(f"{devices} device files were left out"))
            if fill:
                _fill(temporary, path)
            else:
                _put_in_place(temporary, path)


def check_replaceable(path: str, clobber: bool) -> None:
    """Raises ImageError unless ``path`` is free, empty, or a directory that was an image."""
    shown = printable(path)
    try:
        names = _listed(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ImageError(f"there is something that is no directory: {shown}") from None
    if not names:
        return
    if not clobber:
        raise ImageError(f"it exists already: {shown}", hint="leave out --no-clobber")
    ours = os.path.lexists(f"{path}/{METADATA}")
    if not ours and not all(map(names.__contains__, _LOOKS_LIKE_AN_IMAGE)):
        raise ImageError(
            f"the directory exists and does not look like an image: {shown}",
            hint="remove it first, or choose another name",
        )
    for mounted in _mounts():  # what is mounted there is no part of the image
        if mounted == path:
            raise ImageError(f"a mount point, and not empty: {shown}", hint="empty it first")
        if mounted.startswith(f"{path}/"):
            raise ImageError(
                f"something is mounted in what would be replaced: {printable(mounted)}",
                hint="unmount it first, or choose another name",
            )


def _listed(path: str) -> list[str]:
    """What is in a directory but for what was left unfinished there."""
    return [name for name in os.listdir(path) if not is_unfinished(name, _INSIDE)]


def _mounts() -> list[str]:
    """Where something is mounted, as proc(5) lists it."""
    with open("/proc/self/mountinfo", "rb") as file:
        places = [line.split(b" ")[4] for line in file]
    return [os.fsdecode(place.decode("unicode_escape").encode("latin-1")) for place in places]


def _must_be_filled(path: str) -> bool:
    """Whether an empty directory must stay, for nothing else can be given its name.

    So it is with a mount point, and with what a batch system makes for a job in a directory of its
    own.
    """
    if not os.path.isdir(path) or _listed(path):
        return False
    return path in _mounts() or not os.access(os.path.dirname(path), os.W_OK)


def _copy(tree: str, target: str, xattrs: bool) -> None:
    def keep(name: str) -> bool:
        # Records stay until devices have been told from files by them.
        return name == owners.XATTR or (xattrs and ordinary_xattr(name))

    parent, _, name = target.rpartition("/")
    there = os.open(parent or "/", _OPEN)
    try:
        above, _, last = tree.rpartition("/")
        here = os.open(above or "/", _OPEN)
        try:
            copy_tree(here, last or ".", there, name, keep=keep)
        finally:
            os.close(here)
    finally:
        os.close(there)


def make_plain(root: str, *, exact: bool) -> int:
    """Take records, devices and unsafe modes out of a tree; how many devices there were."""
    devices = 0
    top = os.open(root, _OPEN)
    try:
        os.fchmod(top, safe_mode(os.fstat(top).st_mode, exact))
        owners.clear(top)
        with Directories(top) as directories:
            todo = [b""]
            while todo:
                path = todo.pop()
                fd = directories.get(path)
                before = os.fstat(fd)
                for name in map(os.fsencode, os.listdir(fd)):
                    if _make_node_plain(fd, name, exact):
                        devices += 1
                    elif stat.S_ISDIR(_mode(fd, name)):
                        todo.append(path + b"/" + name if path else name)
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(top)
    return devices


def _mode(fd: int, name: bytes) -> int:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _make_node_plain(fd: int, name: bytes, exact: bool) -> bool:
    """Make one node plain; whether it was a device, which is removed."""
    mode = _mode(fd, name)
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        node = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            record = owners.read(node)
            if record is not None and record.is_device and stat.S_ISREG(mode):
                os.unlink(name, dir_fd=fd)
                return True
            if record is not None:
                owners.clear(node)
        finally:
            os.close(node)
    if not stat.S_ISLNK(mode) and safe_mode(mode, exact) != stat.S_IMODE(mode):
        set_mode(fd, name, safe_mode(mode, exact))
    return False


def safe_mode(mode: int, exact: bool) -> int:
    """Permission bits of an exported node: the owner may do all, nobody becomes another."""
    bits = stat.S_IMODE(mode)
    if exact:
        return bits
    return bits & ~(stat.S_ISUID | stat.S_ISGID) | (0o700 if stat.S_ISDIR(mode) else 0o600)


def _put_in_place(temporary: str, path: str) -> None:
    """Rename the new tree over the old one, which is removed afterwards."""
    try:
        os.rename(temporary, path)  # nothing there, or an empty directory
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        exchange(temporary, path)
        return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
    # A file system that cannot, such as NFS: for a moment there is nothing.
    old = f"{os.path.dirname(temporary)}/old"  # it goes with the directory
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.rename(old, path)
        raise


def _fill(temporary: str, path: str) -> None:
    """Move what is in the new tree into the empty directory around it, whose owner it keeps."""
    state = os.stat(temporary)
    for name in os.listdir(temporary):
        os.rename(f"{temporary}/{name}", f"{path}/{name}")
    with suppress(PermissionError):  # it need not be ours
        os.chmod(path, stat.S_IMODE(state.st_mode))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
