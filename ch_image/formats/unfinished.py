"""Where what is unfinished lies: in a directory beside its target, until it is renamed to it.

The directory is locked for as long as its process lives, as the storage's own is, so that the next
one that writes the same target removes what a killed one has left. Its name tells the machine, for
on some file systems of clusters a lock is known to one machine only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ch_image.errors import ImageError, printable
from ch_image.fs.remove import remove_tree

_ENDING = ".part"
_RANDOM = 6  # bytes of a name, in hexadecimal
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_parent(path: str) -> None:
    """Raises ImageError when the directory of ``path`` is not there, or is closed to us."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise ImageError(f"no such directory: {printable(parent)}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ImageError(f"you cannot write to the directory {printable(parent)}")


@contextmanager
def beside(path: str) -> Iterator[str]:
    """A free path for what is to be renamed to the absolute ``path``; removed if it is not.

    Raises ImageError as ``check_parent``, OSError.
    """
    check_parent(path)
    parent, name = os.path.split(path)
    machine = "".join(c for c in os.uname().nodename if c.isalnum())[:30]
    prefix = f".{os.fsdecode(os.fsencode(name)[:100])}.{machine}."
    _sweep(parent, prefix)
    while (lock := _make(made := f"{parent}/{prefix}{os.urandom(_RANDOM).hex()}{_ENDING}")) < 0:
        pass
    try:
        yield f"{made}/{name}"
    finally:
        remove_tree(made)
        os.close(lock)


def is_unfinished(name: str, target: str) -> bool:
    """Whether a directory's entry was made by us for one that is called ``target``."""
    random = name.removesuffix(_ENDING).rpartition(".")[2]
    ours = len(random) == 2 * _RANDOM and not random.strip("0123456789abcdef")
    return ours and name.startswith(f".{target}.") and name.endswith(_ENDING)


def _make(path: str) -> int:
    """A descriptor of the new directory, which is locked; -1 when a sweeper was quicker."""
    os.mkdir(path, 0o700)
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError:
        return -1
    with suppress(OSError):  # a file system without locks has no sweepers either
        fcntl.flock(fd, fcntl.LOCK_EX)
    if os.path.isdir(path):
        return fd
    os.close(fd)
    return -1


def _sweep(parent: str, prefix: str) -> None:
    """Remove what dead processes of this machine have left. Best effort, never fails."""
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(prefix) and name.endswith(_ENDING):
                _sweep_one(f"{parent}/{name}")


def _sweep_one(path: str) -> None:
    with suppress(OSError):
        fd = os.open(path, _OPEN)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        finally:
            os.close(fd)
