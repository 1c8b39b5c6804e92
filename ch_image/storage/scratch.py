"""Work in progress: one directory in ``tmp/`` for each process that writes.

A process holds an flock on ``tmp/NAME/lock`` for as long as it lives, so the kernel itself says
who is dead; there are no process numbers to be mistaken. What a dead process left is renamed out
of the way and removed by the next one that writes. Nothing here has a final name: losing all of
``tmp/`` loses no image.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ch_image.storage.faults import faults

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # 5 bits a character, no two look alike


def random_name(length: int = 12) -> str:
    """``length`` random characters of [a-z2-7]."""
    return "".join(_ALPHABET[byte & 31] for byte in os.urandom(length))


def make_dir(path: str, mode: int = 0o700) -> None:
    """mkdir with exactly ``mode``, whatever the umask. Raises OSError."""
    os.mkdir(path, mode)
    os.chmod(path, mode)


class Scratch:
    """The process's own directory in ``tmp/``, made when first needed."""

    def __init__(self, tmp: str) -> None:
        self._tmp = tmp
        self._mutex = allocate_lock()
        self._path = ""
        self._fd = -1
        self._pid = 0
        self._numbers = itertools.count()
        self._swept = False

    @property
    def path(self) -> str:
        """The process's directory. A forked child gets another than its parent's."""
        if self._pid != os.getpid():
            with self._mutex:
                if self._pid != os.getpid():
                    with faults("make a working directory in the storage directory"):
                        self._make()
        return self._path

    def name(self) -> str:
        """A path in ``path`` that nobody has used."""
        return f"{self.path}/{next(self._numbers)}"

    def directory(self) -> str:
        """A new directory, mode 0700. Raises StorageError."""
        path = self.name()
        with faults("make a working directory in the storage directory"):
            make_dir(path)
        return path

    @contextmanager
    def lend(self) -> Iterator[str]:
        """A new directory that is removed with all in it at the end of the block."""
        path = self.directory()
        try:
            yield path
        finally:
            remove(path)

    def _make(self) -> None:
        while True:
            path = f"{self._tmp}/{random_name()}"
            try:
                make_dir(path)
            except FileExistsError:
                continue
            except FileNotFoundError:  # swept between two calls, or there is no tmp/
                with suppress(FileExistsError):
                    make_dir(self._tmp)
                continue
            fd = _locked(path, wait=True)
            if fd is not None:  # else a sweeper was quicker than our lock: another try
                break
        self._path, self._fd, self._pid = path, fd, os.getpid()
        self._numbers = itertools.count()

    def sweep(self) -> None:
        """Remove what dead processes left, once for each process. Best effort, never fails."""
        if self._swept:
            return
        self._swept = True
        with suppress(OSError):
            for name in os.listdir(self._tmp):
                self._sweep_one(f"{self._tmp}/{name}")

    def _sweep_one(self, path: str) -> None:
        if path == self._path:
            return
        with suppress(OSError):
            try:
                fd = _locked(path, wait=False)
            except NotADirectoryError:
                os.unlink(path)
                return
            if fd is None:
                return
            # Under another name at once: two sweepers don't meet in one tree, and a process that
            # is waiting for this lock sees that its directory has gone.
            doomed = f"{self._tmp}/{random_name()}"
            os.rename(path, doomed)
            try:
                remove(doomed, keep="lock")
            finally:
                os.close(fd)

    def close(self) -> None:
        """Remove the process's directory. A forked child's close leaves its parent's alone."""
        with self._mutex:
            if self._pid == os.getpid():
                remove(self._path, keep="lock")
                os.close(self._fd)
                self._path, self._fd, self._pid = "", -1, 0


def remove(path: str, keep: str = "") -> None:
    """Remove a tree as far as possible; what remains is for the next sweep. Never fails.

    ``keep``: the entry that goes last, so that a removal that was cut short leaves a lock.
    """
    from ch_image.fs.remove import remove_tree

    with suppress(OSError):
        if keep:
            for name in os.listdir(path):
                if name != keep:
                    remove_tree(f"{path}/{name}")
        remove_tree(path)


def _locked(path: str, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of the directory ``path``; None when it is not to be had.

    The lock counts only if the file is still at its name once it is held. Raises OSError.
    """
    lock = f"{path}/lock"
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        at = os.stat(lock)
        mine = os.fstat(fd)
        if (at.st_dev, at.st_ino) == (mine.st_dev, mine.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None
