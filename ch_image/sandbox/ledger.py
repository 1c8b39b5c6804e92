"""Who owns what, as far as one mapped ID cannot say it: records on files, and marks for the rest.

Regular files and directories carry a record (see records), which the kernel keeps with them
through rename, hard link and copy-up. Symlinks, FIFOs and sockets cannot; each that has an owner
is held by a descriptor, which follows it through renames and tells when it is gone, and keeps its
inode number from being used again. At the end the ledger says where they lie.
"""

from __future__ import annotations

import os

from ch_image.sandbox import records
from ch_image.sandbox.procfs import of_fd

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
Owner = tuple[int, int, str]  # uid, gid, type (see records) or ""


class Mark:
    """The owner of one file that carries no record. ``fd`` is -1 where there was no room."""

    __slots__ = ("fd", "gid", "path", "uid")

    def __init__(self, fd: int, uid: int, gid: int, path: str = "") -> None:
        self.fd, self.uid, self.gid, self.path = fd, uid, gid, path


class Ledger:
    """The owners of one container's files. Paths and descriptors are the supervisor's."""

    def __init__(self) -> None:
        self.lost = ""  # why an owner could not be recorded, the first time
        self._marks: dict[tuple[int, int], Mark] = {}
        self._links: list[tuple[int, bytes, Mark]] = []  # names that may be a mark's too

    def __bool__(self) -> bool:
        """Whether there are any marks."""
        return bool(self._marks)

    def know(self, owners: list[tuple[str, int, int]]) -> None:
        """Take over the marks of the layers below: (path, uid, gid)."""
        for path, uid, gid in owners:
            full = "/" + path.lstrip("/")
            try:
                fd = os.open(full, _PATH)
            except OSError:  # no such file (any more), or too many: then only its path is known
                try:
                    status = os.lstat(full)
                except OSError:
                    continue
                self._marks[status.st_dev, status.st_ino] = Mark(-1, uid, gid, full)
                continue
            status = os.fstat(fd)
            if records.can_carry(status.st_mode):
                os.close(fd)
            else:
                self._marks[status.st_dev, status.st_ino] = Mark(fd, uid, gid, full)

    def owner(self, fd: int, status: os.stat_result) -> Owner:
        """The owner of the file at ``fd`` (O_PATH), and the type that its record gives it."""
        if records.can_carry(status.st_mode):
            return records.owner_of(of_fd(fd))
        mark = self._marks.get((status.st_dev, status.st_ino))
        return (mark.uid, mark.gid, "") if mark else (0, 0, "")

    def give(self, fd: int, status: os.stat_result, uid: int, gid: int, kind: str = "") -> None:
        """Make ``uid:gid`` the owner of the file at ``fd`` (O_PATH)."""
        if records.can_carry(status.st_mode):
            self._record(of_fd(fd), uid, gid, status.st_mode, kind)
            return
        key = status.st_dev, status.st_ino
        mark = self._marks.get(key)
        if mark is not None:
            mark.uid, mark.gid = uid, gid
        elif (uid, gid) != (0, 0):
            self._marks[key] = Mark(os.dup(fd), uid, gid)

    def _record(self, path: str, uid: int, gid: int, mode: int, kind: str) -> None:
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

    def inherited_group(self, above: str | bytes) -> int | None:
        """The group that a set-group-ID directory hands on; None for any other directory."""
        if not os.stat(above).st_mode & 0o2000:
            return None
        return records.owner_of(above)[1]

    def made(self, above: int, name: bytes, uid: int, gid: int) -> None:
        """Record the owner of what was just made; a set-group-ID directory hands its group on."""
        inherited = self.inherited_group(of_fd(above))
        fd = os.open(name, _PATH, dir_fd=above)
        try:
            self.give(fd, os.fstat(fd), uid, gid if inherited is None else inherited)
        finally:
            os.close(fd)

    def linked(self, source: int, above: int, name: bytes) -> bool:
        """Whether a new name ``name`` in ``above`` (kept) may be one more of a mark's."""
        status = os.fstat(source)
        mark = self._marks.get((status.st_dev, status.st_ino))
        if mark is None or records.can_carry(status.st_mode):
            return False
        self._links.append((above, name, mark))
        return True

    def report(self) -> list[tuple[str, int, int]]:
        """(path, uid, gid) of what cannot carry a record, as it stands at the end."""
        out = {}
        for key, mark in self._marks.items():
            path = os.readlink(of_fd(mark.fd)) if mark.fd >= 0 else mark.path
            now = os.fstat(mark.fd).st_ino if mark.fd >= 0 else key[1]
            if _inode(path) == now and path.startswith("/"):
                out[path] = mark.uid, mark.gid
        for above, name, mark in self._links:
            path = f"{os.readlink(of_fd(above)).rstrip('/')}/{os.fsdecode(name)}"
            if mark.fd >= 0 and _inode(path) == os.fstat(mark.fd).st_ino:
                out[path] = mark.uid, mark.gid
        return [(path, *owner) for path, owner in out.items() if owner != (0, 0)]


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:  # deleted since
        return -1
