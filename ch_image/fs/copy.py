"""Copies of files and trees with everything that belongs to them, by descriptors.

Modes, times to the nanosecond, extended attributes (with them recorded owners), holes and hard
links are kept; links are copied as links and never followed. Nothing is overwritten: a name that
exists is FileExistsError. This knows nothing of what the files mean.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from ch_image.fs import owners, whiteouts
from ch_image.fs.directories import FLAGS, Directories
from ch_image.typed import Final

_FICLONE: Final = 0x40049409  # linux/fs.h
_NO_CLONE: Final = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
)
_PIECE: Final = 1 << 30
_BUFFER: Final = 1 << 20
_OWN_XATTRS: Final = ("user.overlay.", "trusted.overlay.")
KeepXattr = Callable[[str], bool]


def ordinary_xattr(name: str) -> bool:
    """Whether an attribute belongs to the file, and not to the overlay it was found in."""
    return not name.startswith(_OWN_XATTRS)


def copy_file_data(src_fd: int, dst_fd: int, size: int) -> int:
    """Fill the empty file ``dst_fd`` with ``size`` bytes of ``src_fd``; return how many there were.

    Shares the blocks where the filesystem can, keeps holes; fewer bytes than asked for means
    that the source has shrunk. The descriptors' positions are left anywhere.
    """
    if size == 0:
        return 0
    state = os.fstat(src_fd)
    if state.st_size == size:
        try:
            fcntl.ioctl(dst_fd, _FICLONE, src_fd)
            return size
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
    if state.st_blocks * 512 >= size:
        return _copy_range(src_fd, dst_fd, 0, size)
    return _copy_extents(src_fd, dst_fd, min(size, state.st_size))


def _copy_extents(src_fd: int, dst_fd: int, size: int) -> int:
    at = 0
    while at < size:
        try:
            start = os.lseek(src_fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole up to the end
                raise
            break
        if start >= size:
            break
        at = min(os.lseek(src_fd, start, os.SEEK_HOLE), size)
        copied = _copy_range(src_fd, dst_fd, start, at - start)
        if copied < at - start:
            return start + copied
    os.ftruncate(dst_fd, size)
    return size


def _copy_range(src_fd: int, dst_fd: int, start: int, count: int) -> int:
    done = 0
    while done < count:
        try:
            n = os.copy_file_range(
                src_fd, dst_fd, min(count - done, _PIECE), start + done, start + done
            )
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            return done + _copy_by_hand(src_fd, dst_fd, start + done, count - done)
        if n == 0:
            break
        done += n
    return done


def _copy_by_hand(src_fd: int, dst_fd: int, start: int, count: int) -> int:
    done = 0
    while done < count:
        data = os.pread(src_fd, min(count - done, _BUFFER), start + done)
        if not data:
            break
        written = 0
        while written < len(data):
            written += os.pwrite(dst_fd, data[written:], start + done + written)
        done += len(data)
    return done


def copy_xattrs(src_fd: int, dst_fd: int, keep: KeepXattr = ordinary_xattr) -> None:
    """Copy the extended attributes for which ``keep`` holds, as far as the target can have them."""
    try:
        names = os.listxattr(src_fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return
        raise
    for name in names:
        if not keep(name):
            continue
        try:
            os.setxattr(dst_fd, name, os.getxattr(src_fd, name))
        except OSError as error:
            refused = error.errno in (errno.EPERM, errno.EINVAL) and not name.startswith("user.")
            if not refused and error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                raise


def copy_node(
    src_dir_fd: int,
    name: str | bytes,
    dst_dir_fd: int,
    dst_name: str | bytes,
    *,
    keep: KeepXattr = ordinary_xattr,
) -> os.stat_result:
    """Copy one node of any type; a directory without what is in it. Returns the source's state.

    A device, which nobody without privilege can make, becomes an empty file with a record.
    """
    state = os.stat(name, dir_fd=src_dir_fd, follow_symlinks=False)
    kind = stat.S_IFMT(state.st_mode)
    if kind == stat.S_IFREG:
        _copy_regular(src_dir_fd, name, dst_dir_fd, dst_name, keep)
    elif kind == stat.S_IFDIR:
        os.mkdir(dst_name, 0o700, dir_fd=dst_dir_fd)
        _copy_attributes(src_dir_fd, name, dst_dir_fd, dst_name, keep)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(os.fsencode(name), dir_fd=src_dir_fd), dst_name, dir_fd=dst_dir_fd)
        _set_times(dst_dir_fd, dst_name, state)
    elif whiteouts.is_whiteout(state):
        whiteouts.make_whiteout(dst_dir_fd, os.fsencode(dst_name))
    else:
        _copy_special(state, dst_dir_fd, dst_name)
    return state


def _copy_regular(
    src_dir_fd: int, name: str | bytes, dst_dir_fd: int, dst_name: str | bytes, keep: KeepXattr
) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    src = os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=src_dir_fd)
    try:
        state = os.fstat(src)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EBUSY, "changed while it was copied", name)
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
        dst = os.open(dst_name, create, 0o600, dir_fd=dst_dir_fd)
        try:
            copy_file_data(src, dst, state.st_size)
            copy_xattrs(src, dst, keep)
            os.fchmod(dst, stat.S_IMODE(state.st_mode))
            os.utime(dst, ns=(state.st_atime_ns, state.st_mtime_ns))
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _copy_attributes(
    src_dir_fd: int, name: str | bytes, dst_dir_fd: int, dst_name: str | bytes, keep: KeepXattr
) -> None:
    src = os.open(name, FLAGS, dir_fd=src_dir_fd)
    try:
        dst = os.open(dst_name, FLAGS, dir_fd=dst_dir_fd)
        try:
            copy_directory_attributes(src, dst, keep)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def copy_directory_attributes(src_fd: int, dst_fd: int, keep: KeepXattr = ordinary_xattr) -> None:
    """Give an open directory the attributes, mode and times of another; last, after contents."""
    state = os.fstat(src_fd)
    copy_xattrs(src_fd, dst_fd, keep)
    os.fchmod(dst_fd, stat.S_IMODE(state.st_mode))
    os.utime(dst_fd, ns=(state.st_atime_ns, state.st_mtime_ns))


def _copy_special(state: os.stat_result, dir_fd: int, name: str | bytes) -> None:
    mode = stat.S_IMODE(state.st_mode)
    try:
        os.mknod(name, stat.S_IFMT(state.st_mode) | 0o600, state.st_rdev, dir_fd=dir_fd)
    except PermissionError:
        kind = "char" if stat.S_ISCHR(state.st_mode) else "block"
        device = state.st_rdev
        record = owners.Recorded(0, 0, mode, kind, os.major(device), os.minor(device))
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            owners.write(fd, record)
        finally:
            os.close(fd)
    set_mode(dir_fd, name, mode)
    _set_times(dir_fd, name, state)


def set_mode(dir_fd: int, name: str | bytes, mode: int) -> None:
    """chmod of a node that must not be opened (FIFO, socket, device); never through a link."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISLNK(os.fstat(handle).st_mode):
            os.chmod(f"/proc/self/fd/{handle}", mode)
    finally:
        os.close(handle)


def _set_times(dir_fd: int, name: str | bytes, state: os.stat_result) -> None:
    times = (state.st_atime_ns, state.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)


def copy_tree(
    src_dir_fd: int,
    name: str | bytes,
    dst_dir_fd: int,
    dst_name: str | bytes,
    *,
    keep: KeepXattr = ordinary_xattr,
) -> None:
    """Copy a node and, when it is a directory, all in it; any depth; hard links inside are kept."""
    state = copy_node(src_dir_fd, name, dst_dir_fd, dst_name, keep=keep)
    if not stat.S_ISDIR(state.st_mode):
        return
    top_src = os.open(name, FLAGS, dir_fd=src_dir_fd)
    try:
        top_dst = os.open(dst_name, FLAGS, dir_fd=dst_dir_fd)
        try:
            with Directories(top_src) as sources, Directories(top_dst) as targets:
                _copy_contents(sources, targets, keep)
        finally:
            os.close(top_dst)
    finally:
        os.close(top_src)


def _copy_contents(sources: Directories, targets: Directories, keep: KeepXattr) -> None:
    links: dict[tuple[int, int], bytes] = {}
    todo, finished = [b""], []
    while todo:
        path = todo.pop()
        finished.append(path)
        for child in map(os.fsencode, os.listdir(sources.get(path))):
            full = path + b"/" + child if path else child
            src, dst = sources.get(path), targets.get(path)
            state = os.stat(child, dir_fd=src, follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode):
                os.mkdir(child, 0o700, dir_fd=dst)
                todo.append(full)
                continue
            if state.st_nlink > 1:
                first = links.setdefault((state.st_dev, state.st_ino), full)
                if first != full and _link(targets, first, full):
                    continue
            copy_node(src, child, dst, child, keep=keep)
    for path in reversed(finished):
        copy_directory_attributes(sources.get(path), targets.get(path), keep)


def _link(targets: Directories, first: bytes, full: bytes) -> bool:
    there, _, old = first.rpartition(b"/")
    here, _, new = full.rpartition(b"/")
    # `get` may close what an earlier one opened.
    src = os.dup(targets.get(there))
    try:
        os.link(old, new, src_dir_fd=src, dst_dir_fd=targets.get(here), follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EMLINK:
            return False
        raise
    finally:
        os.close(src)
    return True
