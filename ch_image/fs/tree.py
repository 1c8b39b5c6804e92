"""A directory tree of an image, and paths inside it.

Every path is walked component by component from a descriptor of the root, no link is ever
followed by the kernel, and link targets and ``..`` are resolved here against the root: whatever
the tree contains, nothing outside it is reached. This knows nothing of layers or owners.

Paths are text (UTF-8 with surrogate escapes, so that any name can be said) or bytes; a leading
slash means nothing, all paths begin at the root. Errors are OSErrors with the path as given.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ch_image.typed import Final, NamedTuple

MAX_LINKS: Final = 40  # as many as the kernel follows
_WALK: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OnCreate = Callable[[int, str], None]


class _Place(NamedTuple):
    """Where a path ends: ``name`` in the directory ``fd``; name b"" means the directory itself."""

    fd: int  # belongs to whoever receives it
    parents: tuple[bytes, ...]  # of the directory, without links or dots
    name: bytes


def fsbytes(path: str | bytes) -> bytes:
    """``path`` as the kernel has it, whatever the locale says."""
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def fstext(path: bytes) -> str:
    """The inverse of `fsbytes`."""
    return path.decode("utf-8", "surrogateescape")


class Tree:
    """The tree at ``root`` (a directory of the host). Close it, or use it in a ``with``."""

    __slots__ = ("_fd", "root")

    def __init__(self, root: str | bytes) -> None:
        self.root = root
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the root; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def open(self, path: str | bytes, flags: int, mode: int = 0) -> int:
        """Open a regular file or directory; links are followed inside the tree.

        With O_NOFOLLOW or O_EXCL a final link is not. FIFOs, sockets and devices are never
        opened (EINVAL) unless O_PATH is given. A file that O_CREAT makes gets exactly ``mode``.
        """
        follow = not flags & (os.O_NOFOLLOW | os.O_EXCL)
        place = self._find(path, follow=follow)
        try:
            return _open_at(place.fd, place.name or b".", flags, mode)
        except OSError as error:
            raise _named(error, path) from None
        finally:
            os.close(place.fd)

    def open_parent(self, path: str | bytes, create: bool = False) -> tuple[int, str]:
        """A descriptor (O_PATH) of the directory that holds ``path``, and the last name in it.

        The last name may not exist, and is not followed when it is a link; it is "." when the
        path is the root. ``create`` makes missing directories, 0755.
        """
        place = self._find(path, follow=False, create=0o755 if create else None)
        return place.fd, fstext(place.name) or "."

    def mkdirs(
        self, path: str | bytes, mode: int = 0o755, on_create: OnCreate | None = None
    ) -> None:
        """Make the directory and its missing parents, each with exactly ``mode``.

        ``on_create`` gets a descriptor and the resolved path (no leading slash) of each new one.
        Links to directories are followed inside the tree, also those whose target is missing.
        """
        place = self._find(fsbytes(path) + b"/.", follow=True, create=mode, on_create=on_create)
        os.close(place.fd)

    def resolve(self, path: str | bytes) -> str:
        """The path without links and dots, no leading slash, "" for the root.

        The last component need not exist; if it is a link it is followed.
        """
        place = self._find(path, follow=True)
        os.close(place.fd)
        names = (*place.parents, place.name) if place.name else place.parents
        return fstext(b"/".join(names))

    def lstat(self, path: str | bytes) -> os.stat_result:
        """The state of the node itself, a link not followed."""
        return self._stat(path, follow=False)

    def stat(self, path: str | bytes) -> os.stat_result:
        """The state of what the path leads to."""
        return self._stat(path, follow=True)

    def exists(self, path: str | bytes) -> bool:
        """Whether the path leads to anything; a dangling link does not."""
        try:
            self._stat(path, follow=True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                return False
            raise
        return True

    def readlink(self, path: str | bytes) -> str:
        """The target of the link as it stands there."""
        place = self._find(path, follow=False)
        try:
            return fstext(os.readlink(place.name or b".", dir_fd=place.fd))
        except OSError as error:
            raise _named(error, path) from None
        finally:
            os.close(place.fd)

    def read_bytes(self, path: str | bytes, limit: int) -> bytes:
        """The contents of a regular file; EFBIG when it has more than ``limit`` bytes."""
        fd = self.open(path, os.O_RDONLY)
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            data = b""
            # As much as it seems to have, and then to the end: /proc tells no sizes.
            while more := os.read(fd, min(max(state.st_size - len(data), 65535), limit) + 1):
                data += more
                if len(data) > limit:
                    break
        finally:
            os.close(fd)
        if len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return data

    def _stat(self, path: str | bytes, follow: bool) -> os.stat_result:
        place = self._find(path, follow=follow)
        try:
            if not place.name:
                return os.fstat(place.fd)
            return os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        except OSError as error:
            raise _named(error, path) from None
        finally:
            os.close(place.fd)

    def _find(
        self,
        path: str | bytes,
        *,
        follow: bool,
        create: int | None = None,
        on_create: OnCreate | None = None,
    ) -> _Place:
        walk = _Walk(self._fd, create, on_create)
        try:
            name = walk.go(fsbytes(path), follow)
        except OSError as error:
            walk.leave()
            raise _named(error, path) from None
        except BaseException:
            walk.leave()
            raise
        return _Place(walk.fd, tuple(walk.names), name)


class _Walk:
    """One walk from the root: ``fd`` is the directory reached, ``names`` how it is reached."""

    __slots__ = ("_create", "_links", "_on_create", "_root", "fd", "names")

    def __init__(self, root: int, create: int | None, on_create: OnCreate | None) -> None:
        self._root = root
        self._create = create
        self._on_create = on_create
        self._links = 0
        self.names: list[bytes] = []
        self.fd = os.open(b".", _WALK, dir_fd=root)

    def leave(self) -> None:
        os.close(self.fd)

    def go(self, path: bytes, follow: bool) -> bytes:
        """Walk to the directory that holds the end of ``path``; return the name of the end."""
        ahead = _components(path)
        while ahead:
            name = ahead.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                self._up()
                continue
            if ahead:
                target = self._down(name)
            elif follow:
                target = _link_target(self.fd, name)
                if target is None:
                    return name
            else:
                return name
            if target is not None:
                self._links += 1
                if self._links > MAX_LINKS or not target:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    self._restart([])
                ahead += _components(target)
        return b""

    def _down(self, name: bytes) -> bytes | None:
        """Enter ``name``; if it is a link, stay and return its target."""
        try:
            below = os.open(name, _WALK, dir_fd=self.fd)
        except NotADirectoryError:
            target = _link_target(self.fd, name)
            if target is None:
                raise
            return target
        except FileNotFoundError:
            if self._create is None:
                raise
            below = self._make(name)
        os.close(self.fd)
        self.fd = below
        self.names.append(name)
        return None

    def _make(self, name: bytes) -> int:
        assert self._create is not None
        os.mkdir(name, 0o700, dir_fd=self.fd)
        fd = os.open(name, os.O_RDONLY | _WALK & ~os.O_PATH, dir_fd=self.fd)
        try:
            os.fchmod(fd, self._create)  # mkdir's own mode is subject to the umask
            if self._on_create:
                self._on_create(fd, fstext(b"/".join([*self.names, name])))
            return os.open(b".", _WALK, dir_fd=fd)
        finally:
            os.close(fd)

    def _up(self) -> None:
        if self.names:
            self._restart(self.names[:-1])

    def _restart(self, names: list[bytes]) -> None:
        # From the root again, never by "..": a directory that was moved meanwhile leads elsewhere.
        fd = os.open(b".", _WALK, dir_fd=self._root)
        os.close(self.fd)
        self.fd, self.names = fd, names
        for name in names:
            below = os.open(name, _WALK, dir_fd=self.fd)
            os.close(self.fd)
            self.fd = below


def _components(path: bytes) -> list[bytes]:
    """Reversed components; a trailing slash leaves an empty one, so that the end is entered."""
    return path.split(b"/")[::-1]


def _link_target(dir_fd: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link, or nothing there
            return None
        raise


def _open_at(dir_fd: int, name: bytes, flags: int, mode: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if flags & os.O_PATH:
        return os.open(name, flags, dir_fd=dir_fd)
    try:
        state = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        fd = os.open(name, flags | os.O_EXCL, 0o600, dir_fd=dir_fd)
        os.fchmod(fd, mode)
        return fd
    if flags & os.O_CREAT and flags & os.O_EXCL:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        if stat.S_ISLNK(state.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise OSError(errno.EINVAL, "not a regular file or directory")
    # O_NONBLOCK: should a FIFO have taken its place since, nobody waits for a writer.
    return os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, mode, dir_fd=dir_fd)


def _named(error: OSError, path: str | bytes) -> OSError:
    return OSError(error.errno, error.strerror, path)
