"""Where the names in an archive lead inside the tree that it is unpacked into.

A name is cleaned as Go's ``filepath.Clean`` does, and refused when it climbs out. Its directory
is then walked from a descriptor of the root; links are resolved against the root, so what a
layer's links say can only ever choose between places inside. Directories that an archive takes
for granted are made.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence

from ch_image.errors import ChError, ImageError, StorageError, printable
from ch_image.fs import whiteouts
from ch_image.fs.copy import copy_xattrs, ordinary_xattr
from ch_image.fs.directories import FLAGS, Directories
from ch_image.fs.tree import MAX_LINKS
from ch_image.layers.lower import Found, finding
from ch_image.typed import Final, NamedTuple

MAX_NAME: Final = 32_768  # bytes
MAX_DEPTH: Final = 4_096
_OURS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)
_MAX_REMEMBERED: Final = 160 << 20  # bytes


class Hidden(Exception):
    """The way to a place leads through a whiteout of the same layer."""


class DirectoryState(NamedTuple):
    """What a directory gets at the end, when nothing is made in it any more.

    ``late`` attributes are those that what is made in it would inherit.
    """

    mode: int
    mtime: int  # nanoseconds
    late: Mapping[str, bytes]


def clean(name: bytes) -> bytes:
    """The path that ``name`` means, b"" for the root; ImageError when it leads out or too far."""
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name.rstrip(b"/")
    if name.startswith((b"/", b".")) or b"/." in name or b"//" in name:
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    raise ImageError(f"the archive names a file outside: {shown(name)}")
                parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        name = b"/".join(parts)
    if b"\0" in name:
        raise ImageError(f"the archive has a file name with a zero byte: {shown(name)}")
    if len(name) > MAX_NAME or (len(name) > MAX_DEPTH and name.count(b"/") > MAX_DEPTH):
        raise ImageError(f"the archive has a path that is too long: {shown(name)}")
    return name


def shown(name: bytes) -> str:
    """A name for a message."""
    return printable(name.decode("utf-8", "backslashreplace"), 200)


def fault(error: OSError, name: bytes) -> ChError:
    """What to raise for an error of the kernel: the storage's fault, or the archive's."""
    what = f"cannot unpack {shown(name)}: {error.strerror}" if name else str(error)
    if error.errno in _OURS:
        return StorageError(what, hint="look at the free space and state of the storage directory")
    return ImageError(what)


class Places:
    """The directories of the tree at ``root``, made where missing.

    ``states`` collects what each directory is to have in the end. With ``lower`` trees (topmost
    first), a directory taken for granted looks as it does there; ``used_lower`` says that it
    mattered.
    """

    def __init__(self, root: str, lower: Sequence[str]) -> None:
        self.directories = Directories(root)
        self.known = self.directories.known
        self.states: dict[bytes, DirectoryState] = {}
        self.opaque: set[bytes] = set()
        self.lower = lower
        self.used_lower = False
        self._remembered = 0
        self._aliases: dict[bytes, bytes] = {}  # paths through links, and what they mean

    def close(self) -> None:
        """Let go of all descriptors."""
        self.directories.close()

    def changed(self) -> None:
        """A directory or link was replaced: what is known of paths may be wrong."""
        self.directories.forget()
        self._aliases.clear()

    def remember(self, size: int) -> None:
        """Account for ``size`` bytes of names kept to the end; ImageError beyond the limit."""
        self._remembered += size + 200
        if self._remembered > _MAX_REMEMBERED:
            raise ImageError("the archive has more directories and links than can be unpacked")

    def set_state(self, path: bytes, state: DirectoryState) -> None:
        """Say what the directory ``path`` is to have at the end."""
        if path not in self.states:
            self.remember(len(path))
        self.states[path] = state

    def parent(self, path: bytes, over_whiteouts: bool = True) -> tuple[int, bytes]:
        """The open directory, made if need be, for the archive's ``path``; and its real path.

        The descriptor is good until the next call. Hidden is raised when the way leads through a
        whiteout of this layer, unless that is to give way to a directory.
        """
        fd = self.known(path)
        if fd is not None:
            return fd, path
        real = self._aliases.get(path)
        if real is None:
            real = self._walk(path, create=True, over_whiteouts=over_whiteouts)
            if real != path and len(self._aliases) < 1000:
                self._aliases[path] = real
        return self.directories.get(real), real

    def find(self, path: bytes) -> tuple[int | None, bytes]:
        """Like `parent`, but nothing is made: no descriptor when this tree has no such directory.

        The path leads through links of lower layers too.
        """
        real = self._walk(path, create=False, over_whiteouts=False)
        try:
            return self.directories.get(real), real
        except (FileNotFoundError, NotADirectoryError):
            return None, real

    def _walk(self, path: bytes, *, create: bool, over_whiteouts: bool) -> bytes:
        # What is open is real, so that only what follows has to be looked at.
        at = path
        while self.known(at) is None:
            at = at.rpartition(b"/")[0]
        ahead = path[len(at) :].split(b"/")[::-1]
        links = 0
        while ahead:
            name = ahead.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                at = at.rpartition(b"/")[0]
                continue
            full = at + b"/" + name if at else name
            target = self._step(at, name, full, create, over_whiteouts)
            if target is None:
                at = full
                continue
            links += 1
            if links > MAX_LINKS or not target:
                raise ImageError(f"links go round in a circle at {shown(full)}")
            if target.startswith(b"/"):
                at = b""
            ahead += target.split(b"/")[::-1]
        return at

    def _step(
        self, at: bytes, name: bytes, full: bytes, create: bool, over_whiteouts: bool
    ) -> bytes | None:
        """Make sure of the directory ``full``; or, where that is a link, return its target."""
        if self.known(full) is not None:
            return None
        try:
            dir_fd = self.directories.get(at)
            self.directories.keep(full, os.open(name, FLAGS, dir_fd=dir_fd))
            return None
        except FileNotFoundError:
            return self._missing(at, name, full, create)
        except NotADirectoryError:
            pass
        state = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISLNK(state.st_mode):
            return os.readlink(name, dir_fd=dir_fd)
        if not whiteouts.is_whiteout(state):
            raise ImageError(f"the archive has a file inside {shown(full)}, which is no directory")
        if not over_whiteouts:
            raise Hidden
        os.unlink(name, dir_fd=dir_fd)
        self._make(at, name, full, opaque=True)
        return None

    def _missing(self, at: bytes, name: bytes, full: bytes, create: bool) -> bytes | None:
        if not self.lower or self.covered(full):
            if create:
                self._make(at, name, full)
            return None
        with finding(self.lower, full) as found:
            if found is not None and stat.S_ISLNK(found.state.st_mode):
                self.used_lower = True
                return os.readlink(found.name, dir_fd=found.dir_fd)
            if create:
                self._make(at, name, full)
                if found is not None and stat.S_ISDIR(found.state.st_mode):
                    self._inherit(full, found)
        return None

    def _make(self, at: bytes, name: bytes, full: bytes, opaque: bool = False) -> None:
        dir_fd = self.directories.get(at)
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        fd = self.directories.keep(full, os.open(name, FLAGS, dir_fd=dir_fd))
        if opaque:
            self.make_opaque(full, fd)
        self.set_state(full, DirectoryState(0o755, 0, {}))

    def make_opaque(self, path: bytes, fd: int) -> None:
        """Let the directory ``path``, open as ``fd``, hide what lower layers have in it."""
        whiteouts.make_opaque(fd)
        self.opaque.add(path)

    def covered(self, path: bytes) -> bool:
        """Whether an opaque directory of this layer hides ``path`` of lower ones."""
        while path and self.opaque:
            path = path.rpartition(b"/")[0]
            if path in self.opaque:
                return True
        return False

    def _inherit(self, full: bytes, found: Found) -> None:
        mode = stat.S_IMODE(found.state.st_mode)
        source = os.open(found.name, FLAGS, dir_fd=found.dir_fd)
        try:
            self.inherit(full, source, mode, found.state.st_mtime_ns)
        finally:
            os.close(source)

    def inherit(self, path: bytes, source: int, mode: int, mtime: int) -> None:
        """Let ``path`` look like the lower directory ``source``, if that is out of the ordinary.

        Ordinary ones make no difference, so that a layer need not be unpacked for each base anew.
        """
        if mode == 0o755 and not [n for n in _xattr_names(source) if ordinary_xattr(n)]:
            return
        self.used_lower = True
        copy_xattrs(source, self.directories.get(path))
        self.set_state(path, DirectoryState(mode, mtime, {}))

    def finish(self, set_xattr: Callable[[int, str, bytes], None]) -> None:
        """Give all directories what they are to have, children before their parents."""
        for path in sorted(self.states, reverse=True):
            state = self.states[path]
            try:
                fd = self.directories.get(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it has been replaced since
            for name, value in state.late.items():
                set_xattr(fd, name, value)
            os.fchmod(fd, state.mode)
            os.utime(fd, ns=(state.mtime, state.mtime))


def _xattr_names(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise
