"""What ch-run once read of an image in storage, kept for the next thousand starts.

Reading the records takes parsers and digests that cost more to import than all the rest of a
start. So the little that a start needs is kept beside them in a form that needs none, with the
identity of the record it was read from: a record that was replaced makes it void. It is only a
help; without it, or with a damaged one, the records are read.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT = "1"
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:@/")
_MAX = 1 << 20  # bytes
_MAX_NAME = 200


class Memo:
    """What is known of the image that the user calls ``name``; ``path``: the storage."""

    def __init__(self, path: str, name: str, env: Mapping[str, str]) -> None:
        safe = 0 < len(name) <= _MAX_NAME and _SAFE.issuperset(name)
        elsewhere = any(variable.startswith("CH_REGY_") for variable in env)
        self._path = path
        self._file = f"{path}/running/{name.replace('/', '%')}" if safe and not elsewhere else ""

    def recall(self) -> tuple[list[str], list[str]] | None:
        """Trees, topmost first, and variables; None when nothing is known that is still true."""
        if not self._file:
            return None
        try:
            if os.stat(self._path).st_uid != os.geteuid() or not self._is_ours():
                return None
            words = _read(self._file)
            identity, record, count = words[0], words[1], int(words[2])
            if words[-1] != "end" or identity != _identity(os.path.join(self._path, record)):
                return None
            trees = words[3 : 3 + count]
            if not all(os.path.isdir(f"{self._path}/{tree}") for tree in trees):
                return None
            return trees, words[3 + count : -1]
        except (OSError, ValueError, IndexError):
            return None

    def _is_ours(self) -> bool:
        return _read(f"{self._path}/version")[0].strip() == _FORMAT

    def keep(self, record: str, trees: list[str], variables: list[str]) -> None:
        """Note what was read of ``record``, a file in storage or an absolute path; what cannot be
        noted is read again next time.
        """
        if not self._file:
            return
        try:
            identity = _identity(os.path.join(self._path, record))
            words = [identity, record, str(len(trees)), *trees, *variables, "end"]
            os.makedirs(os.path.dirname(self._file), 0o700, exist_ok=True)
            staged = f"{self._path}/running/.{os.getpid()}"
            fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, os.fsencode("\0".join(words)))
            finally:
                os.close(fd)
            os.rename(staged, self._file)
        except OSError:  # a full or read-only file system: then without
            pass


def _identity(path: str) -> str:
    found = os.stat(path)
    return f"{found.st_dev}.{found.st_ino}.{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}"


def _read(path: str) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fsdecode(os.read(fd, _MAX)).split("\0")
    finally:
        os.close(fd)


def disagrees(file: str, path: str, said: Mapping[str, tuple[list[str], list[str]]]) -> bool:
    """Whether a memo of the storage at ``path`` would be believed and says something else than
    the records do: ``said`` has the trees and variables of each.
    """
    try:
        words = _read(file)
        identity, record, count = words[0], words[1], int(words[2])
        if words[-1] != "end" or identity != _identity(os.path.join(path, record)):
            return False  # nobody believes it
        return said.get(record) != (words[3 : 3 + count], words[3 + count : -1])
    except (OSError, ValueError, IndexError):
        return False
