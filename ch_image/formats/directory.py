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
from ch_image.formats.base import Content, Place, temporary_name
from ch_image.formats.outfit import METADATA, recall
from ch_image.fs import owners
from ch_image.fs.copy import copy_tree, ordinary_xattr, set_mode
from ch_image.fs.directories import Directories
from ch_image.fs.remove import remove_tree
from ch_image.report import Detail

_LOOKS_LIKE_AN_IMAGE = ("bin", "dev", "usr")
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

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write the tree as the directory ``name``; an image that is there is replaced.

        Raises ImageError when something else is there, OSError.
        """
        path = os.path.realpath(name)
        if os.path.commonpath([path, place.storage.path]) in (path, place.storage.path):
            raise UsageError(f"the directory would lie in storage: {printable(name)}")
        check_replaceable(path, place.clobber)
        temporary = temporary_name(path)
        try:
            _copy(content.tree, temporary, place.xattrs)
            devices = make_plain(temporary, exact=place.exact)
            if devices:
                place.report(Detail(f"{devices} device files were left out"))
            _put_in_place(temporary, path)
        finally:
            remove_tree(temporary)


def check_replaceable(path: str, clobber: bool) -> None:
    """Raises ImageError unless ``path`` is free, empty, or a directory that was an image."""
    shown = printable(path)
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ImageError(f"there is something that is no directory: {shown}") from None
    if not clobber:
        raise ImageError(f"it exists already: {shown}", hint="leave out --no-clobber")
    ours = os.path.lexists(f"{path}/{METADATA}")
    if names and not ours and not all(map(names.__contains__, _LOOKS_LIKE_AN_IMAGE)):
        raise ImageError(
            f"the directory exists and does not look like an image: {shown}",
            hint="remove it first, or choose another name",
        )


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
    old = temporary_name(path)
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.rename(old, path)
        raise
    remove_tree(old)
