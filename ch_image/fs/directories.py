"""Open directories of a tree, by path, for work that visits many nodes of it.

A path here is *real*: bytes, components joined by single slashes, no leading slash, no dots, no
links; b"" is the root. Each component is opened from the one before with O_NOFOLLOW, so a path
that has become a link is an error (ENOTDIR) and never a way out. A small number of descriptors
is kept, so trees may be deeper than a process may have files open.
"""

from __future__ import annotations

import os

from ch_image.typed import Final

FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = 96


class Directories:
    """Descriptors (O_RDONLY) of directories below a root; they stay ours, never close one.

    A descriptor is good until the next call. Close it, or use it in a ``with``.
    """

    __slots__ = ("_open", "root")

    def __init__(self, root: str | bytes | int) -> None:
        """``root`` is a path, or a descriptor of a directory, which stays the caller's."""
        if isinstance(root, int):
            self.root = os.open(b".", FLAGS, dir_fd=root)
        else:
            self.root = os.open(root, FLAGS & ~os.O_NOFOLLOW)
        self._open: dict[bytes, int] = {}  # oldest first

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: bytes) -> int:
        """The directory at ``path``; OSError (ENOENT, ENOTDIR) when there is none."""
        fd = self.known(path)
        if fd is not None:
            return fd
        missing = []
        while fd is None:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
            fd = self.known(path)
        for name in reversed(missing):
            path = path + b"/" + name if path else name
            fd = self.keep(path, os.open(name, FLAGS, dir_fd=fd))
        return fd

    def known(self, path: bytes) -> int | None:
        """The descriptor of ``path`` if it is open already."""
        return self._open.get(path) if path else self.root

    def keep(self, path: bytes, fd: int) -> int:
        """Take over ``fd``, just opened, as that of ``path``; the oldest beyond the limit goes."""
        if len(self._open) >= _KEPT:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd
        return fd

    def forget(self) -> None:
        """Close all but the root: paths have changed their meaning."""
        opened, self._open = self._open, {}
        for fd in opened.values():
            os.close(fd)

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        self.forget()
        fd, self.root = self.root, -1
        if fd >= 0:
            os.close(fd)
