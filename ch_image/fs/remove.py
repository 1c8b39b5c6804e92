"""Removal of a tree of any depth and any modes, by descriptors; no link is followed."""

from __future__ import annotations

import itertools
import os

from ch_image.fs.directories import FLAGS
from ch_image.typed import Final

_DEPTH: Final = 64  # directories open at once
_BATCH: Final = 4096  # names held at once


def remove_tree(path: str | bytes) -> None:
    """Remove ``path``, file or directory with all in it; no error when there is nothing."""
    parent, name = os.path.split(os.fsencode(path).rstrip(b"/"))
    try:
        dir_fd = os.open(parent or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(dir_fd, name)
    finally:
        os.close(dir_fd)


def remove_at(dir_fd: int, name: str | bytes) -> None:
    """Remove the node ``name`` of a directory, with all in it; no error when it is absent."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        fd = _enter(dir_fd, name)
        try:
            _Emptying(fd).run()
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dir_fd)


def _enter(dir_fd: int, name: str | bytes) -> int:
    try:
        return os.open(name, FLAGS, dir_fd=dir_fd)
    except PermissionError:
        # Outside a user namespace modes bind the owner too. O_PATH opens what cannot be read, and
        # its entry in /proc cannot be exchanged for a link.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
            return os.open(b".", FLAGS, dir_fd=handle)
        finally:
            os.close(handle)


class _Emptying:
    """Empties one directory. Below a certain depth, directories are first moved to its top."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._names = (b".removed-%d" % n for n in itertools.count())

    def run(self) -> None:
        self._empty(self._top, 0)

    def _empty(self, fd: int, depth: int) -> None:
        while entries := _some_entries(fd):
            for name, is_directory in entries:
                if is_directory:
                    self._remove_directory(fd, name, depth)
                    continue
                try:
                    os.unlink(name, dir_fd=fd)
                except PermissionError:
                    _unlock(fd)
                    os.unlink(name, dir_fd=fd)
            if depth and len(entries) < _BATCH:  # only the top gets more, see _lift
                return

    def _remove_directory(self, fd: int, name: str, depth: int) -> None:
        if depth >= _DEPTH:
            self._lift(fd, name)
            return
        below = _enter(fd, name)
        try:
            self._empty(below, depth + 1)
        finally:
            os.close(below)
        try:
            os.rmdir(name, dir_fd=fd)
        except PermissionError:
            _unlock(fd)
            os.rmdir(name, dir_fd=fd)

    def _lift(self, fd: int, name: str) -> None:
        # Its new name is found by the loop over the top, which ends only when nothing is left.
        below = _enter(fd, name)
        _unlock(below)
        os.close(below)
        for new in self._names:
            try:
                os.stat(new, dir_fd=self._top, follow_symlinks=False)
            except FileNotFoundError:
                _unlock(fd)
                _unlock(self._top)
                os.rename(name, new, src_dir_fd=fd, dst_dir_fd=self._top)
                return


def _some_entries(fd: int) -> list[tuple[str, bool]]:
    """Names, and whether they are directories."""
    with os.scandir(fd) as entries:
        some = list(itertools.islice(entries, _BATCH))
    try:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]
    except PermissionError:  # a file system that tells no types, and nobody may look up names
        _unlock(fd)
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]


def _unlock(fd: int) -> None:
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
