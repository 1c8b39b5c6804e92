"""Digests of a context's files, remembered by what stat(2) says of them.

One file per context below the storage's ``context/`` holds, for each directory that was read:

    fingerprint   blake2b over the rows (name, mode, size, mtime, ctime, inode, device) as listed
    digest        of the listing with the contents, what `ch_image.build.select` computes
    table         of each file: device, inode, size, mtime, ctime (40 bytes) and its digest

A build over unchanged files looks at the first two only. A file that changed within the
granularity of its timestamp before it was read may change again without a trace: as git does with
its index, such a file is not trusted the next time (its key is stored as zeros).

The file is a cache: a damaged one, or one of another format, is as good as none.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
import threading
import time
from binascii import crc32
from collections.abc import Callable, Mapping, Sequence

from ch_image.build.rows import CTIME, DEVICE, INODE, MTIME, NAME, SIZE, Row
from ch_image.model.sha256 import sha256
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b

_MAGIC = b"ch-image context digests 2\n"
_KEY = struct.Struct("<QQqqq")
_HEAD = struct.Struct("<I32s32sI")
_SUM = struct.Struct("<I")  # CRC-32 of all that follows
_NO_KEY = bytes(_KEY.size)
_NO_PRINT = bytes(32)
_FINE, _COARSE = 20_000_000, 2_000_000_000  # nanoseconds: a few kernel ticks; FAT's two seconds
_LEFT_OVER = 3600  # seconds after which a half-written file belongs to nobody


def stat_key(row: Row) -> bytes:
    """What must be the same for a file's digest to be the same."""
    return _KEY.pack(row[DEVICE], row[INODE], row[SIZE], row[MTIME], row[CTIME])


def fingerprint(rows: Sequence[Row]) -> bytes:
    """What changes when any row of a directory does (32 bytes)."""
    return fingerprint_of(packed(rows))


def packed(rows: Sequence[Row]) -> bytes:
    """Rows as bytes, the same for the same rows; see `Packed`."""
    return marshal.dumps(list(rows), 2)


def fingerprint_of(data: bytes) -> bytes:
    """See `fingerprint`; of rows that are bytes already."""
    return blake2b(data, digest_size=32).digest()


def racy(row: Row, read_at: int) -> bool:
    """Whether the file may have changed after it was read at ``read_at`` (ns) unnoticed."""
    changed = row[CTIME]
    margin = _COARSE if changed % 1_000_000_000 == 0 else _FINE
    return changed >= read_at - margin


class _Directory:
    __slots__ = ("digest", "fingerprint", "table", "used")

    def __init__(self, fingerprint: bytes, digest: bytes, table: bytes | memoryview) -> None:
        self.fingerprint, self.digest, self.table = fingerprint, digest, table
        self.used = False


class StatIndex:
    """The remembered digests of the context at ``root``, in ``directory`` of the storage."""

    def __init__(self, directory: str, root: str) -> None:
        name = sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self.path = os.path.join(directory, name)
        self._directories: dict[str, _Directory] | None = None
        self._lock = threading.Lock()
        self._changed = False

    def whole(self, path: str, fingerprint: bytes) -> bytes | None:
        """The digest of the directory ``path`` if its listing is still the same."""
        found = self._all().get(path)
        if found is None:
            return None
        found.used = True
        return found.digest if found.fingerprint == fingerprint else None

    def files(self, path: str) -> dict[str, tuple[bytes, bytes]]:
        """What is known of the files of the directory ``path``: name -> (key, digest)."""
        found = self._all().get(path)
        return _unpack_table(bytes(found.table)) if found is not None else {}

    def paths(self) -> list[str]:
        """The directories that are known."""
        return list(self._all())

    def count(self, paths: Sequence[str]) -> int:
        """About how many files lie in these directories."""
        return sum(len(self._all()[path].table) for path in paths) // (_KEY.size + 36)

    def remember(
        self,
        path: str,
        rows: Sequence[Row],
        fingerprint: bytes,
        digest: bytes,
        files: Mapping[str, bytes],
        read_at: int,
    ) -> None:
        """Keep the digests of a directory and its files, read after ``read_at`` (ns)."""
        parts = []
        doubtful = False
        for row in rows:
            known = files.get(row[NAME])
            if known is None:
                continue
            key = stat_key(row)
            if racy(row, read_at):
                doubtful, key = True, _NO_KEY
            name = os.fsencode(row[NAME])
            parts.append(struct.pack("<H", len(name)) + name + key + known)
        kept = _Directory(_NO_PRINT if doubtful else fingerprint, digest, b"".join(parts))
        kept.used = True
        with self._lock:
            self._all()[path] = kept
            self._changed = True

    def _all(self) -> dict[str, _Directory]:
        if self._directories is None:
            try:
                with open(self.path, "rb") as file:
                    data = file.read()
            except OSError:
                data = b""
            self._directories = _unpack(data)
        return self._directories

    def save(self) -> None:
        """Write what is new, in one rename. An OSError tells that it could not be kept."""
        with self._lock:
            if not self._changed or self._directories is None:
                return
            self._changed = False
            kept = _worth_keeping(self._directories)
            body = b"".join(_pack(path, entry) for path, entry in kept.items())
        temporary = f"{self.path}.{os.getpid()}.new"
        directory = os.path.dirname(self.path)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _sweep(directory)
        try:
            with open(temporary, "wb") as file:
                file.write(_MAGIC + _SUM.pack(crc32(body)) + body)
            os.rename(temporary, self.path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _worth_keeping(directories: dict[str, _Directory]) -> dict[str, _Directory]:
    """All, until directories that this build did not read are by far the most."""
    used = {path: entry for path, entry in directories.items() if entry.used}
    return used if len(directories) > 1000 + 4 * len(used) else directories


def _sweep(directory: str) -> None:
    """Remove what a killed process was writing."""
    for entry in os.scandir(directory):
        if entry.name.endswith(".new") and entry.stat().st_mtime < time.time() - _LEFT_OVER:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)


def _pack(path: str, entry: _Directory) -> bytes:
    name = os.fsencode(path)
    head = _HEAD.pack(len(name), entry.fingerprint, entry.digest, len(entry.table))
    return head + name + bytes(entry.table)


def _unpack(data: bytes) -> dict[str, _Directory]:
    start = len(_MAGIC) + _SUM.size
    body = memoryview(data)[start:]
    if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != _SUM.pack(crc32(body)):
        return {}
    out = {}
    at, end = 0, len(body)
    while at < end:
        length, fingerprint, digest, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        name = os.fsdecode(bytes(body[at : at + length]))
        at += length
        out[name] = _Directory(fingerprint, digest, body[at : at + size])
        at += size
    return out


def _unpack_table(table: bytes) -> dict[str, tuple[bytes, bytes]]:
    out = {}
    at, end, key = 0, len(table), _KEY.size
    while at < end:
        name = at + 2 + (table[at] | table[at + 1] << 8)
        behind = name + key
        out[os.fsdecode(table[at + 2 : name])] = (table[name:behind], table[behind : behind + 32])
        at = behind + 32
    return out


class Memo:
    """Digests of selections from images, whose contents never change: one text file of lines.

    A line is ``KEY DIGEST``, both of 64 hexadecimal digits; other lines are passed over.
    """

    _LIMIT = 1 << 20  # bytes; then the older half is dropped

    def __init__(
        self, directory: str, elsewhere: Callable[[tuple[object, ...]], str | None] | None = None
    ) -> None:
        """``elsewhere`` is asked first; what it knows is not kept."""
        self.path = os.path.join(directory, "images")
        self.asked: dict[tuple[object, ...], str] = {}  # what was recalled, and the answers
        self._elsewhere = elsewhere
        self._known: dict[str, str] | None = None

    def recall(self, meaning: tuple[object, ...], compute: Callable[[], str]) -> str:
        """The digest of what ``meaning`` (values whose repr says all) names, computed once."""
        known = self._elsewhere(meaning) if self._elsewhere else None
        if known is None:
            key = sha256(repr(meaning).encode("utf-8", "surrogatepass")).hexdigest()
            known = self.get(key)
            if known is None:
                known = compute()
                self.put(key, known)
        self.asked[meaning] = known
        return known

    def get(self, key: str) -> str | None:
        """The digest remembered under ``key``."""
        if self._known is None:
            try:
                with open(self.path, encoding="ascii", errors="replace") as file:
                    pairs = [line.split() for line in file]
            except OSError:
                pairs = []
            self._known = {p[0]: p[1] for p in pairs if [len(part) for part in p] == [64, 64]}
        return self._known.get(key)

    def put(self, key: str, digest: str) -> None:
        """Remember; one append, so that several processes may."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        with open(self.path, "a+", encoding="ascii") as file:
            file.write(f"{key} {digest}\n")
            size = file.tell()
        if self._known is not None:
            self._known[key] = digest
        if size > self._LIMIT:
            with open(self.path, encoding="ascii", errors="replace") as file:
                lines = file.readlines()
            temporary = f"{self.path}.{os.getpid()}.new"
            with open(temporary, "w", encoding="ascii") as file:
                file.writelines(lines[len(lines) // 2 :])
            os.rename(temporary, self.path)
