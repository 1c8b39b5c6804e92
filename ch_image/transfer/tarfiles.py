"""Files in an archive on disk, found by name, each read where it lies.

For archives that others made to hold an image (``oci-archive``, ``docker save``). Nothing is
unpacked, so nothing in them can be anywhere but in them.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ch_image.errors import ImageError, printable
from ch_image.layers.compress import compression_of, open_reader
from ch_image.storage.store import Storage
from ch_image.transfer.layout import Layout
from ch_image.typed import BinaryIO

MAX_MEMBERS = 20_000
_MAX_LINKS = 10
_CHUNK = 1 << 20


class TarFiles:
    """The files of an archive."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        """``path`` is how people know it. Raises ImageError."""
        import tarfile

        self.path = path
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}  # offset and size, bytes
        self._links: dict[str, str] = {}
        shown = printable(path)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for number, member in enumerate(archive):
                    if number >= MAX_MEMBERS:
                        raise ImageError(f"too many files in {shown}")
                    name = os.path.normpath(member.name)
                    if member.isreg() and not member.issparse():
                        self._places[name] = member.offset_data, member.size
                    elif member.islnk():
                        self._links[name] = os.path.normpath(member.linkname)
                    elif member.issym():
                        target = os.path.join(os.path.dirname(name), member.linkname)
                        self._links[name] = os.path.normpath(target)
        except (tarfile.TarError, ValueError, RecursionError) as error:
            raise ImageError(f"not an archive, or a damaged one: {shown}: {error}") from None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._places or name in self._links

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A file, and its size in bytes. Raises OSError."""
        name = os.path.normpath(name)
        for _ in range(_MAX_LINKS):
            if name in self._places or name not in self._links:
                break
            name = self._links[name]
        if name not in self._places:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        offset, size = self._places[name]
        return io.BufferedReader(_Slice(self._file.fileno(), offset, size), _CHUNK), size


class _Slice(io.RawIOBase):
    """A part of an open file, with a position of its own."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self._size, self._at = fd, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._fd, size, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class LayoutArchive(Layout):
    """An OCI layout inside an archive."""

    def __init__(self, files: TarFiles) -> None:
        self._files = files
        super().__init__(files.path)

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """See ``Layout.open``."""
        return self._files.open(name)


@contextmanager
def opened(path: str, storage: Storage) -> Iterator[TarFiles]:
    """The files of the archive at ``path``; a compressed one is unpacked into scratch first.

    Raises ImageError, OSError.
    """
    with open(path, "rb") as file:
        kind = compression_of(file.read(6))
        file.seek(0)
        if not kind:
            yield TarFiles(file, path)
            return
        with storage.scratch() as scratch, open(f"{scratch}/plain.tar", "w+b") as plain:
            with open_reader(file) as reader:
                while chunk := reader.read(_CHUNK):
                    plain.write(chunk)
            plain.flush()
            plain.seek(0)
            yield TarFiles(plain, path)
