"""Puts single nodes into the tree that is being built: the hot end of COPY and ADD.

A node gets exactly the mode, time and attributes it is meant to have, whatever the umask. Owners
other than 0:0 and devices are recorded on files and directories (`ch_image.fs.owners`); those of
links, FIFOs and sockets, which cannot carry a record, are collected by path. Names that exist are
never overwritten: whoever calls has decided about them before.
"""

from __future__ import annotations

import errno
import os
import stat

from ch_image.build.chmod import ModeChange
from ch_image.build.digest import carried, check_unchanged, listxattr
from ch_image.build.rows import MODE, MTIME, NAME, SIZE, Row
from ch_image.build.source import Source, join
from ch_image.fs import owners
from ch_image.fs.copy import copy_file_data, set_mode
from ch_image.fs.owners import Recorded
from ch_image.typed import NamedTuple

_SMALL = 128 << 10  # bytes that are read and written in one go
_LARGE = 1 << 20  # bytes that are sent to the disk at once
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EPERM)
_REFUSED = (*_UNSUPPORTED, errno.EINVAL)  # IDs or capabilities that mean nothing here


class Policy(NamedTuple):
    """What every node gets: ``owner`` None keeps the source's, ``mode`` None as well."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None

    def bits(self, mode: int) -> int:
        """The permission bits of a copy of something that has ``mode``."""
        if self.mode is None:
            return mode & 0o7777
        return self.mode.apply(mode & 0o7777, stat.S_ISDIR(mode))


class ReadFault(Exception):
    """The source could not be read; ``error`` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Placer:
    """Copies nodes of ``source``. One per thread; the results are added up afterwards."""

    __slots__ = (
        "bytes",
        "files",
        "owners",
        "policy",
        "source",
        "unrecorded",
        "_not_at_birth",
        "_refused",
    )

    def __init__(self, source: Source, policy: Policy) -> None:
        self.source, self.policy = source, policy
        self.owners: dict[str, tuple[int, int]] = {}
        self.files = self.bytes = self.unrecorded = 0
        self._refused = source.refused_xattrs()
        self._not_at_birth = 0o7000 | _umask()

    def node(self, src: int, row: Row, path: str, dst: int, name: str, target: str) -> None:
        """Copy the row of the directory ``src``, which is at ``path``, to ``name`` in ``dst``.

        ``target`` is its path in the image. Not for directories. Raises ReadFault, or OSError
        for the destination; BuildError when the file changes meanwhile.
        """
        self.files += 1
        kind = row[MODE] & 0o170000
        if kind == stat.S_IFREG:
            self._regular(src, row, path, dst, name)
        elif kind == stat.S_IFLNK:
            try:
                text = os.readlink(row[NAME], dir_fd=src)
            except OSError as error:
                raise ReadFault(error) from None
            os.symlink(text, name, dir_fd=dst)
            self._finish_special(row, path, dst, name, target)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=dst)
            set_mode(dst, name, self.policy.bits(row[MODE]))
            self._finish_special(row, path, dst, name, target)
        else:
            self._stand_in(src, row, dst, name)

    def _regular(self, src: int, row: Row, path: str, dst: int, name: str) -> None:
        try:
            source = os.open(row[NAME], _READ, dir_fd=src)
        except OSError as error:
            raise ReadFault(error) from None
        try:
            mode = self.policy.bits(row[MODE])
            copy = os.open(name, _CREATE, mode & 0o777, dir_fd=dst)
            try:
                self._data(source, copy, row[SIZE])
                check_unchanged(self.source, os.fstat(source), row, path)
                self.attributes(source, copy, mode, "file")
                # After the data: writing takes set-ID bits and the time away.
                if mode & self._not_at_birth:
                    os.fchmod(copy, mode)
                os.utime(copy, ns=(row[MTIME], row[MTIME]))
            finally:
                os.close(copy)
        finally:
            os.close(source)
        self.bytes += row[SIZE]

    def _data(self, source: int, copy: int, size: int) -> None:
        if size > _SMALL:
            copy_file_data(source, copy, size)
            if size >= _LARGE:  # the sync before the image is published has to wait for less
                from ch_image.sandbox.syscalls import begin_writing

                begin_writing(copy)
            return
        left = size
        while left > 0:
            try:
                data = os.read(source, left)
            except OSError as error:
                raise ReadFault(error) from None
            if not data:  # it has shrunk, which the check behind this tells
                return
            left -= len(data)
            while data:
                data = data[os.write(copy, data) :]

    def attributes(self, source: int, copy: int, mode: int, kind: str) -> None:
        """Extended attributes and the record of an open file or directory."""
        for attribute in listxattr(source):
            if carried(attribute, self._refused):
                _set_attribute(copy, attribute, os.getxattr(source, attribute))
        record = self.source.record(source)
        owner = self.policy.owner
        if record is not None:
            uid, gid = owner or (record.uid, record.gid)
            self.record(copy, record._replace(uid=uid, gid=gid, mode=mode))
        elif owner is not None:
            self.record(copy, Recorded(*owner, mode, kind))

    def record(self, fd: int, record: Recorded) -> None:
        """Record an owner or device on a new file; what is plain needs no record."""
        if (record.uid, record.gid) == (0, 0) and not record.is_device:
            return
        try:
            owners.write(fd, record)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self.unrecorded += 1

    def _finish_special(self, row: Row, path: str, dst: int, name: str, target: str) -> None:
        owner = self.policy.owner or self.source.link_owner(join(path, row[NAME]))
        if owner != (0, 0):
            self.owners[target] = owner
        times = (row[MTIME], row[MTIME])
        os.utime(name, ns=times, dir_fd=dst, follow_symlinks=False)

    def _stand_in(self, src: int, row: Row, dst: int, name: str) -> None:
        """A device becomes an empty file with a record; a socket, as in BuildKit, an empty file."""
        mode = self.policy.bits(row[MODE])
        uid, gid = self.policy.owner or (0, 0)
        record = Recorded(uid, gid, mode, "file")
        if not stat.S_ISSOCK(row[MODE]):
            kind = "char" if stat.S_ISCHR(row[MODE]) else "block"
            try:
                number = os.stat(row[NAME], dir_fd=src, follow_symlinks=False).st_rdev
            except OSError as error:
                raise ReadFault(error) from None
            record = Recorded(uid, gid, mode, kind, os.major(number), os.minor(number))
        self.data(b"", dst, name, record, row[MTIME])

    def data(self, data: bytes, dst: int, name: str, record: Recorded, mtime: int) -> None:
        """Write a new file that holds ``data``, with the owner and mode of ``record``."""
        fd = os.open(name, _CREATE, 0o600, dir_fd=dst)
        try:
            while data:
                data = data[os.write(fd, data) :]
            self.record(fd, record)
            os.fchmod(fd, record.mode)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)


def _umask() -> int:
    """The process's umask, which os.umask tells only by changing it, for all threads."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:  # no /proc
        pass
    return 0o777


def _set_attribute(fd: int, name: str, value: bytes) -> None:
    """As far as the file system and the kernel let us; contents are what matters."""
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
