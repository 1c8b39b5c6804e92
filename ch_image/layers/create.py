"""Makes archives of trees: a layer for a registry, or all of an image as one tar file.

The same tree gives the same bytes, on any machine: members in order of their names, no user
names, no times but modification, numbers and names in plain ustar fields wherever they fit and in
PAX records where not. Times are whole seconds, for Docker, containerd, containers/storage and
umoci write no finer ones, and a record for each file would serve nobody.

Names are bytes as they are, which GNU tar and Go read likewise. Owners and devices come from
their records, hard links are found by inode, holes are written as zeros, sockets are left out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from ch_image.errors import ImageError, StorageError
from ch_image.fs import owners as records
from ch_image.fs import whiteouts
from ch_image.fs.directories import Directories
from ch_image.fs.tree import fstext
from ch_image.layers import tar_pax
from ch_image.layers import tar_read as tar
from ch_image.layers.capability import as_version_2
from ch_image.layers.compress import Writable
from ch_image.layers.places import shown
from ch_image.typed import Final

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE: Final = 1 << 20
_RECORD: Final = 10_240  # archives end on a whole record of twenty blocks
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.EPERM)
_XATTRS: Final = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_OWN_XATTRS: Final = ("user.overlay.", "user.containers.")
_MAX_SECONDS: Final = 0o77777777777
_MAX_ID: Final = 0o7777777


def write_layer(
    tree_dir: str,
    owners: Mapping[str, tuple[int, int]],
    out: Writable,
    *,
    clamp_mtime: int | None = None,
    lower: Sequence[str] = (),
) -> None:
    """Write the overlay-format tree as a layer's uncompressed archive (OCI image layout).

    ``owners`` are those of links, FIFOs: path without leading slash -> (uid, gid). No member is
    newer than ``clamp_mtime`` (seconds since 1970). The root is a member only where it differs
    from that of the first of ``lower`` (the trees below, topmost first), or from the ordinary.
    StorageError: a file changed while it was read. OSErrors of reading come through.
    """
    writer = _Writer(tree_dir, owners, out, clamp_mtime)
    with writer.directories:
        writer.layer = True
        writer.write(_root_of(lower))


def write_tree(
    merged_dir: str,
    owners: Mapping[str, tuple[int, int]],
    out: Writable,
    *,
    clamp_mtime: int | None = None,
) -> None:
    """Write a whole image's tree as an uncompressed archive; like `write_layer`, no whiteouts."""
    writer = _Writer(merged_dir, owners, out, clamp_mtime)
    with writer.directories:
        writer.write(_ORDINARY)


_Look = tuple[int, int, int, tuple[tuple[str, bytes], ...]]  # mode, uid, gid, attributes
_ORDINARY: Final[_Look] = (0o755, 0, 0, ())


def _root_of(lower: Sequence[str]) -> _Look:
    for tree in lower[:1]:
        fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _look(fd, os.fstat(fd))
        finally:
            os.close(fd)
    return _ORDINARY


def _look(fd: int, state: os.stat_result) -> _Look:
    record, xattrs = _notes(fd)
    uid, gid = (record.uid, record.gid) if record else (0, 0)
    return (stat.S_IMODE(state.st_mode), uid, gid, tuple(xattrs))


def _may_be_whiteout(entry: os.DirEntry[str]) -> bool:
    return not (
        entry.is_file(follow_symlinks=False)
        or entry.is_dir(follow_symlinks=False)
        or entry.is_symlink()
    )


class _Writer:
    """One archive in the making."""

    def __init__(
        self,
        tree_dir: str,
        owners: Mapping[str, tuple[int, int]],
        out: Writable,
        clamp_mtime: int | None,
    ) -> None:
        self.directories = Directories(tree_dir)
        self.layer = False
        self._owners = owners
        self._out = out
        self._clamp = clamp_mtime
        self._links: dict[tuple[int, int], tuple[bytes, tuple[int, int]]] = {}
        self._held: list[bytes] = []
        self._held_size = self._written = 0

    def write(self, root: _Look) -> None:
        """Write everything; the root itself unless it looks like ``root``."""
        fd = self.directories.root
        state = os.fstat(fd)
        if _look(fd, state) != root:
            self._directory(b"./", fd, state)
        todo = [self._entries(b"")]
        while todo:
            below = next(todo[-1], None)
            if below is None:
                todo.pop()
            else:
                todo.append(self._entries(below))
        self._put(bytes(2 * tar.BLOCK))
        self._put(bytes(-self._written % _RECORD))
        self._flush()

    def _entries(self, directory: bytes) -> Iterator[bytes]:
        """Write what is in the directory, in order; lend each directory below to be written."""
        prefix = directory + b"/" if directory else b""
        names = self._named(directory)
        for name in sorted(names):
            real = names[name]
            fd = self.directories.get(directory)
            state = os.stat(real, dir_fd=fd, follow_symlinks=False)
            path = prefix + name
            if self.layer and whiteouts.hidden_name(real, state) is not None:
                self._header(path, tar.REGULAR, 0, (0, 0), 0, 0)  # its time means nothing
            elif stat.S_ISDIR(state.st_mode):
                below = self.directories.get(path)
                self._directory(path + b"/", below, state)
                if self.layer and whiteouts.is_opaque(below):
                    mark = path + b"/" + whiteouts.OPAQUE_NAME
                    self._header(mark, tar.REGULAR, 0, (0, 0), 0, 0)
                yield path
            else:
                self._node(fd, real, path, state)

    def _named(self, directory: bytes) -> dict[bytes, bytes]:
        """Names in the archive of what is in the directory, and those in the tree."""
        fd = self.directories.get(directory)
        names = {}
        with os.scandir(fd) as entries:
            for entry in entries:
                name = shown_as = os.fsencode(entry.name)
                if self.layer:
                    if name == whiteouts.OPAQUE_NAME:
                        continue  # written with its directory
                    if name.startswith(whiteouts.PREFIX):
                        self._check_marker(fd, directory, name)
                    if _may_be_whiteout(entry) and whiteouts.is_whiteout(
                        entry.stat(follow_symlinks=False)
                    ):
                        shown_as = whiteouts.PREFIX + name
                names[shown_as] = name
        return names

    def _check_marker(self, fd: int, directory: bytes, name: bytes) -> None:
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if whiteouts.hidden_name(name, state) in (None, b"", b".", b".."):
            path = directory + b"/" + name if directory else name
            raise ImageError(
                f"a layer cannot have a file of this name: {shown(path)}",
                hint="names that begin with .wh. mean removed files; rename or remove it",
            )

    # -- nodes --

    def _directory(self, path: bytes, fd: int, state: os.stat_result) -> None:
        record, xattrs = _notes(fd)
        owner = (record.uid, record.gid) if record else (0, 0)
        mode = stat.S_IMODE(state.st_mode)
        self._header(path, tar.DIRECTORY, mode, owner, 0, self._time(state), xattrs=xattrs)

    def _node(self, dir_fd: int, name: bytes, path: bytes, state: os.stat_result) -> None:
        mode, when = stat.S_IMODE(state.st_mode), self._time(state)
        if stat.S_ISSOCK(state.st_mode):
            return
        inode = (state.st_dev, state.st_ino)
        if state.st_nlink > 1 and inode in self._links:
            first, owner = self._links[inode]
            self._header(path, tar.HARD_LINK, mode, owner, 0, when, link=first)
            return
        owner = self._owners.get(fstext(path), (0, 0)) if self._owners else (0, 0)
        if stat.S_ISREG(state.st_mode):
            owner = self._regular(dir_fd, name, path)
        elif stat.S_ISLNK(state.st_mode):
            link = os.readlink(name, dir_fd=dir_fd)
            self._header(path, tar.SYMLINK, 0o777, owner, 0, when, link=link)
        elif stat.S_ISFIFO(state.st_mode):
            self._header(path, tar.FIFO, mode, owner, 0, when)
        else:
            kind = tar.CHAR if stat.S_ISCHR(state.st_mode) else tar.BLOCK_DEVICE
            numbers = (os.major(state.st_rdev), os.minor(state.st_rdev))
            self._header(path, kind, mode, owner, 0, when, numbers=numbers)
        if state.st_nlink > 1:
            self._links[inode] = (path, owner)

    def _regular(self, dir_fd: int, name: bytes, path: bytes) -> tuple[int, int]:
        """Write a file, or the device that it stands for; return its owner."""
        fd = os.open(name, _OPEN, dir_fd=dir_fd)
        try:
            state = os.fstat(fd)
            record, xattrs = _notes(fd)
            mode, when = stat.S_IMODE(state.st_mode), self._time(state)
            owner = (record.uid, record.gid) if record else (0, 0)
            if record and record.is_device:
                kind = tar.CHAR if record.kind == "char" else tar.BLOCK_DEVICE
                numbers = (record.major, record.minor)
                self._header(path, kind, mode, owner, 0, when, numbers=numbers)
                return owner
            size = state.st_size
            self._header(path, tar.REGULAR, mode, owner, size, when, xattrs=xattrs)
            left = size
            while left:
                data = os.read(fd, min(left, _PIECE))
                if not data:
                    raise StorageError(f"{shown(path)} became shorter while it was read")
                left -= len(data)
                self._put(data)
            if size % tar.BLOCK:
                self._put(bytes(-size % tar.BLOCK))
            return owner
        finally:
            os.close(fd)

    def _time(self, state: os.stat_result) -> int:
        seconds = state.st_mtime_ns // 1_000_000_000
        return seconds if self._clamp is None else min(seconds, self._clamp)

    # -- the archive --

    def _header(
        self,
        path: bytes,
        kind: bytes,
        mode: int,
        owner: tuple[int, int],
        size: int,
        mtime: int,
        *,
        link: bytes = b"",
        numbers: tuple[int, int] = (0, 0),
        xattrs: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        pax = [(tar_pax.xattr_key(name), value) for name, value in xattrs]
        prefix, name = b"", path
        if len(path) > 100:
            prefix, name = _split(path)
            if not prefix:
                pax.append((b"path", path))
        if len(link) > 100:
            pax.append((b"linkpath", link))
        uid, gid = owner
        for key, value, most in (
            (b"uid", uid, _MAX_ID),
            (b"gid", gid, _MAX_ID),
            (b"size", size, _MAX_SECONDS),
            (b"mtime", mtime, _MAX_SECONDS),
        ):
            if not 0 <= value <= most:
                pax.append((key, b"%d" % value))
        if pax:
            data = b"".join(tar_pax.record(key, value) for key, value in sorted(pax))
            label = b"PaxHeaders.0/" + path.rstrip(b"/").rpartition(b"/")[2][:80]
            self._put(_block(label, b"x", 0o644, (0, 0), len(data), 0))
            self._put(data + bytes(-len(data) % tar.BLOCK))
        self._put(_block(name, kind, mode, owner, size, mtime, link, numbers, prefix))

    def _put(self, data: bytes) -> None:
        self._held.append(data)
        self._held_size += len(data)
        self._written += len(data)
        if self._held_size >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._held_size:
            self._out.write(b"".join(self._held))
        self._held, self._held_size = [], 0


def _notes(fd: int) -> tuple[records.Recorded | None, list[tuple[str, bytes]]]:
    """The record of an open file, and those of its attributes that belong to an image."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return None, []
        raise
    if not names:
        return None, []
    record = records.read(fd) if records.XATTR in names else None
    kept = []
    for name in sorted(names):
        if name.startswith("user.") and not name.startswith(_OWN_XATTRS):
            kept.append((_locale_free(name), os.getxattr(fd, name)))
        elif name in _XATTRS:
            value = os.getxattr(fd, name)
            kept.append((name, as_version_2(value) if name == "security.capability" else value))
    return record, kept


def _locale_free(name: str) -> str:
    return fstext(os.fsencode(name))


def _split(path: bytes) -> tuple[bytes, bytes]:
    """``path`` as ustar's prefix and name; (b"", path) when it does not fit them."""
    body = path.rstrip(b"/")
    # The leftmost slash that leaves a name of 100 bytes at most.
    at = path.find(b"/", len(path) - 101)
    if 0 < at <= 155 and at < len(body):
        return path[:at], path[at + 1 :]
    return b"", path


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    owner: tuple[int, int],
    size: int,
    mtime: int,
    link: bytes = b"",
    numbers: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    """A ustar header block; names too long for it are cut."""
    fields = (
        _octal(mode, 8) + _octal(owner[0], 8) + _octal(owner[1], 8)
        + _octal(size, 12) + _octal(mtime, 12) + b"        " + kind
    )  # fmt: skip
    head = bytearray(tar.BLOCK)
    head[:100] = name[:100].ljust(100, b"\0")
    head[100:157] = fields
    head[157:257] = link[:100].ljust(100, b"\0")
    head[257:265] = b"ustar\x0000"
    head[329:345] = _device(numbers[0]) + _device(numbers[1])
    head[345:500] = prefix.ljust(155, b"\0")
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _octal(number: int, width: int) -> bytes:
    """A numeric field; 0 where the number does not fit, for then a PAX record has it."""
    digits = b"%0*o" % (width - 1, number)
    return (digits if number >= 0 and len(digits) < width else b"0" * (width - 1)) + b"\0"


def _device(number: int) -> bytes:
    if number <= _MAX_ID:
        return b"%07o\0" % number
    return b"\x80" + number.to_bytes(7, "big")  # base-256, as GNU tar and Go have it
