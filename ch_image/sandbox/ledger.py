"""Who owns what, as far as one mapped ID cannot say it: records on files, and marks for the rest.

Regular files and directories carry a record (see records), which the kernel keeps with them
through rename, hard link and copy-up. Symlinks, FIFOs and sockets cannot; each that has an owner
is held by a descriptor, which follows it through renames and tells when it is gone, and keeps its
inode number from being used again. At the end the ledger says where they lie.
"""

from __future__ import annotations

import os

from ch_image.sandbox import procfs, records, view
from ch_image.sandbox.procfs import of_fd

_RESERVED = 64  # descriptors for all else that the supervisor does
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
Owner = tuple[int, int, str]  # uid, gid, type (see records) or ""


class Mark:
    """The owner of one file that carries no record.

    ``fd`` is -1 where no more descriptors may be had: then ``path`` is where it was, and ``born``
    when it was made tells it from others that get its inode number.
    """

    __slots__ = ("born", "fd", "gid", "path", "uid")

    def __init__(self, fd: int, uid: int, gid: int, path: str = "", born: bytes = b"") -> None:
        self.fd, self.uid, self.gid, self.path, self.born = fd, uid, gid, path, born


class Ledger:
    """The owners of one container's files. Paths and descriptors are the supervisor's."""

    def __init__(self) -> None:
        self.lost = ""  # why an owner could not be recorded, the first time
        self._marks: dict[tuple[int, int], Mark] = {}
        self._links: list[tuple[int, bytes, Mark]] = []  # names that may be a mark's too
        self._room = procfs.descriptors() - _RESERVED

    def __bool__(self) -> bool:
        """Whether there are any marks."""
        return bool(self._marks)

    def know(self, owners: list[tuple[str, int, int]]) -> None:
        """Take over the marks of the layers below: (path, uid, gid)."""
        for path, uid, gid in owners:
            try:
                fd = os.open("/" + path.lstrip("/"), _PATH)
            except OSError:  # no such file (any more)
                continue
            try:
                status = os.fstat(fd)
                if not records.can_carry(status.st_mode):
                    self._mark(fd, status, uid, gid)
            finally:
                os.close(fd)

    def _mark(self, fd: int, status: os.stat_result, uid: int, gid: int) -> None:
        if self._room > 0:
            self._room -= 1
            mark = Mark(os.dup(fd), uid, gid)
        else:
            mark = Mark(-1, uid, gid, os.readlink(of_fd(fd)), view.born(fd))
        self._marks[status.st_dev, status.st_ino] = mark

    def _of(self, fd: int, status: os.stat_result) -> Mark | None:
        """The mark of the file at ``fd``."""
        mark = self._marks.get((status.st_dev, status.st_ino))
        if mark is not None and mark.fd < 0 and mark.born != view.born(fd):
            del self._marks[status.st_dev, status.st_ino]
            return None
        return mark

    def has(self, status: os.stat_result) -> bool:
        """Whether there may be a mark for the file."""
        return (status.st_dev, status.st_ino) in self._marks

    def owner(self, fd: int, status: os.stat_result) -> Owner:
        """The owner of the file at ``fd`` (O_PATH), and the type that its record gives it."""
        if records.can_carry(status.st_mode):
            return records.owner_of(of_fd(fd))
        mark = self._of(fd, status)
        return (mark.uid, mark.gid, "") if mark else (0, 0, "")

    def give(self, fd: int, status: os.stat_result, uid: int, gid: int, kind: str = "") -> None:
        """Make ``uid:gid`` the owner of the file at ``fd`` (O_PATH)."""
        if records.can_carry(status.st_mode):
            self._record(of_fd(fd), uid, gid, status.st_mode, kind)
            return
        mark = self._of(fd, status)
        if mark is not None:
            mark.uid, mark.gid = uid, gid
        elif (uid, gid) != (0, 0):
            self._mark(fd, status, uid, gid)

    def _record(self, path: str | int, uid: int, gid: int, mode: int, kind: str) -> None:
        if kind.startswith(("char-", "block-")):
            value = f"{uid}:{gid}:{mode & 0o7777:04o}:{kind}".encode()
        elif (uid, gid) != (0, 0):
            value = records.encode(uid, gid, mode, records.kind_of(mode))
        else:
            try:
                os.removexattr(path, records.ATTRIBUTE)
            except OSError:  # there was none
                pass
            return
        try:
            os.setxattr(path, records.ATTRIBUTE, value)
        except OSError as error:  # /proc, /dev, or a file system without user attributes
            self.lost = self.lost or f"{error.strerror}"

    def inherited_group(self, above: bytes | int) -> int | None:
        """The group that a set-group-ID directory hands on; None for any other directory."""
        if not os.stat(above).st_mode & 0o2000:
            return None
        return records.owner_of(of_fd(above) if isinstance(above, int) else above)[1]

    def made(self, above: int, name: bytes, uid: int, gid: int) -> None:
        """Record the owner of what was just made; a set-group-ID directory hands its group on."""
        inherited = self.inherited_group(above)
        fd = os.open(name, _PATH, dir_fd=above)
        try:
            self.give(fd, os.fstat(fd), uid, gid if inherited is None else inherited)
        finally:
            os.close(fd)

    def opened(self, above: int, fd: int, mode: int, uid: int, gid: int) -> None:
        """The same of a regular file that is open at ``fd``."""
        inherited = self.inherited_group(above)
        self._record(fd, uid, gid if inherited is None else inherited, mode, "")

    def linked(self, source: int, above: int, name: bytes) -> bool:
        """Whether a new name ``name`` in ``above`` (kept) may be one more of a mark's."""
        status = os.fstat(source)
        mark = None if records.can_carry(status.st_mode) else self._of(source, status)
        if mark is None or self._room <= 0:
            return False
        self._room -= 1
        self._links.append((above, name, mark))
        return True

    def report(self) -> list[tuple[str, int, int]]:
        """(path, uid, gid) of what cannot carry a record, as it stands at the end."""
        out = {}
        where = {}  # id of a mark -> (device, inode)
        for key, mark in self._marks.items():
            where[id(mark)] = key
            path = mark.path if mark.fd < 0 else self._path(mark.fd)
            if _is(path, key, mark):
                out[path] = mark.uid, mark.gid
        for above, name, mark in self._links:
            path = f"{self._path(above).rstrip('/')}/{os.fsdecode(name)}"
            if _is(path, where.get(id(mark), (-1, -1)), mark):
                out[path] = mark.uid, mark.gid
        return [(path, *owner) for path, owner in out.items() if owner != (0, 0)]

    def _path(self, fd: int) -> str:
        try:
            return os.readlink(of_fd(fd))
        except OSError as error:  # deeper than a path can say
            self.lost = self.lost or f"{error.strerror}"
            return ""


def _is(path: str, key: tuple[int, int], mark: Mark) -> bool:
    """Whether the file of ``mark`` lies at ``path`` still."""
    if not path.startswith("/"):
        return False
    try:
        fd = os.open(path, _PATH)
    except OSError:  # deleted since
        return False
    try:
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) == key and mark.born in (b"", view.born(fd))
    finally:
        os.close(fd)
