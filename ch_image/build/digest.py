"""One digest over everything that a selection takes; see `ch_image.build.select` for what counts.

Files are hashed by several threads (hashlib and read(2) let go of the interpreter's lock), and
only those that no index knows.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ch_image.build.context import Context
from ch_image.build.select import Level, Match, Selection, levels
from ch_image.build.source import (
    CTIME,
    DEVICE,
    INODE,
    LINKS,
    MODE,
    MTIME,
    NAME,
    SIZE,
    ImageSource,
    Row,
    Source,
    join,
)
from ch_image.build.statindex import Memo, stat_key
from ch_image.errors import BuildError

_BLOCK = 1 << 20  # bytes read at once
_BATCH = 64  # files a thread takes at once
_MAX_THREADS = 8
_NOTHING = bytes(32)


class _Pending(NamedTuple):
    """A directory whose digest is not known; ``known`` are those of its files that are."""

    level: Level
    fingerprint: bytes
    known: dict[str, bytes]
    read_at: int


def digest(
    source: Source, selection: Selection, *, owners: bool = False, memo: Memo | None = None
) -> str:
    """The digest (64 hexadecimal digits) of what ``selection`` takes from ``source``.

    ``owners``: owners count, for an image whose files keep theirs. ``memo`` is asked and told
    about images with an identity. Raises BuildError when a file cannot be read or changes.
    """
    key = ""
    if memo is not None and isinstance(source, ImageSource) and source.identity:
        text = repr((1, source.identity, owners, tuple(selection)))
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        known = memo.get(key)
        if known is not None:
            return known
    out = _Digester(source, owners).run(selection)
    if key and memo is not None:
        memo.put(key, out)
    return out


class _Digester:
    def __init__(self, source: Source, owners: bool) -> None:
        self._source = source
        self._owners = owners
        self._index = source.index if isinstance(source, Context) else None
        self._links: dict[tuple[int, int], list[str]] = {}

    def run(self, selection: Selection) -> str:
        """Look at everything once, hash what is not known, then put it together."""
        parts: list[tuple[bytes, bytes | _Pending]] = []
        for match in selection.matches:
            if match.is_dir:
                parts.append((b"D", _NOTHING))
                for level in levels(self._source, match, selection.exclude):
                    parts.append((b"L" + os.fsencode(level.rel), self._look(level)))
            else:
                parts.append((b"F", self._look(_alone(self._source, match))))
        pending = [part for _, part in parts if isinstance(part, _Pending)]
        _hash_all(self._source, pending, self._owners)
        total = hashlib.sha256(b"ch-image selection 1\n")
        for label, part in parts:
            value = self._finish(part) if isinstance(part, _Pending) else part
            total.update(label + b"\0" + value)
        for group in sorted(paths for paths in self._links.values() if len(paths) > 1):
            total.update(os.fsencode("\0".join(["H", *group])) + b"\0\0")
        return total.hexdigest()

    def _look(self, level: Level) -> bytes | _Pending:
        """The digest of one directory's listing, or what is missing for it."""
        rows = level.rows
        for row in rows:
            if row[LINKS] > 1:
                paths = self._links.setdefault((row[DEVICE], row[INODE]), [])
                paths.append(join(level.path, row[NAME]))
        if self._index is None:
            return _Pending(level, b"", {}, 0)
        fingerprint = b""
        if level.whole:
            fingerprint = hashlib.sha256(marshal.dumps(list(rows), 2)).digest()
            whole = self._index.whole(level.path, fingerprint)
            if whole is not None:
                return whole
        remembered = self._index.files(level.path)
        known = {}
        if remembered:
            for row in rows:
                entry = remembered.get(row[NAME])
                if entry is not None and entry[0] == stat_key(row):
                    known[row[NAME]] = entry[1]
        return _Pending(level, fingerprint, known, time.time_ns())

    def _finish(self, pending: _Pending) -> bytes:
        level, known = pending.level, pending.known
        parts: list[bytes] = []
        for row in level.rows:
            parts += (os.fsencode(row[NAME]), b"\0%o\0" % row[MODE], known.get(row[NAME], _NOTHING))
        out = hashlib.sha256(b"".join(parts)).digest()
        if self._index is not None and level.whole:
            files = {r[NAME]: known[r[NAME]] for r in level.rows if not stat.S_ISDIR(r[MODE])}
            self._index.remember(
                level.path, level.rows, pending.fingerprint, out, files, pending.read_at
            )
        return out


def _alone(source: Source, match: Match) -> Level:
    """A single file as if it were alone in its directory, under the name it will have."""
    row = source.row(match.path)
    directory = match.path.rpartition("/")[0]
    return Level(directory, "", [row] if row is not None else [], False, frozenset())


def _hash_all(source: Source, pending: Sequence[_Pending], owners: bool) -> None:
    """Fill in ``known`` of each; by several threads where there is enough to do."""
    jobs = list(_jobs(pending, directories=owners))
    count = sum(len(rows) for _, rows in jobs)
    size = sum(row[SIZE] for _, rows in jobs for row in rows)
    threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS, len(jobs))
    if threads < 2 or (count < 200 and size < 4 * _BLOCK):
        for job, rows in jobs:
            _hash_rows(source, job, rows, owners)
        return
    todo = iter(jobs)  # next() on a list's iterator is atomic
    failures: list[Exception] = []

    def work() -> None:
        try:
            for job, rows in todo:
                if failures:
                    return
                _hash_rows(source, job, rows, owners)
        except Exception as error:  # raised again below, in the caller's thread
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    work()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _jobs(pending: Sequence[_Pending], directories: bool) -> Iterator[tuple[_Pending, list[Row]]]:
    for job in pending:
        rows = [
            row
            for row in job.level.rows
            if row[NAME] not in job.known and (directories or not stat.S_ISDIR(row[MODE]))
        ]
        batch: list[Row] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += row[SIZE]
            if len(batch) == _BATCH or size > 16 * _BLOCK:
                yield job, batch
                batch, size = [], 0
        if batch:
            yield job, batch


def _hash_rows(source: Source, job: _Pending, rows: list[Row], owners: bool) -> None:
    path = job.level.path
    with source.reading(path):
        directory = source.open_dir(path)
    try:
        for row in rows:
            at = join(path, row[NAME])
            with source.reading(at):
                job.known[row[NAME]] = _hash_row(source, directory, row, at, owners)
    finally:
        os.close(directory)


def _hash_row(source: Source, directory: int, row: Row, path: str, owners: bool) -> bytes:
    mode, name = row[MODE], row[NAME]
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return _hash_open(source, directory, row, path, owners)
    out = hashlib.sha256()
    if stat.S_ISLNK(mode):
        out.update(b"link\0" + os.fsencode(os.readlink(name, dir_fd=directory)))
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        numbers = os.stat(name, dir_fd=directory, follow_symlinks=False).st_rdev
        out.update(b"device\0%d" % numbers)
    if owners:
        out.update(b"\0%d:%d" % source.link_owner(path))
    return out.digest()


def _hash_open(source: Source, directory: int, row: Row, path: str, owners: bool) -> bytes:
    """Contents, attributes and record of a regular file; the latter two of a directory."""
    is_dir = stat.S_ISDIR(row[MODE])
    kind = os.O_DIRECTORY if is_dir else os.O_NONBLOCK
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind
    fd = os.open(row[NAME], flags, dir_fd=directory)
    try:
        out = hashlib.sha256()
        if not is_dir:
            left = row[SIZE]
            while left > 0 and (block := os.read(fd, min(left, _BLOCK))):
                out.update(block)
                left -= len(block)
            check_unchanged(source, os.fstat(fd), row, path)
        refused = source.refused_xattrs()
        for attribute in sorted(os.listxattr(fd)):
            if carried(attribute, refused):
                value = os.getxattr(fd, attribute)
                out.update(b"\0%s\0%d\0" % (os.fsencode(attribute), len(value)) + value)
        record = source.record(fd)
        if record is not None:
            if record.is_device:
                out.update(f"\0{record.kind}-{record.major}-{record.minor}".encode())
            if owners:
                out.update(b"\0%d:%d" % (record.uid, record.gid))
        return out.digest()
    finally:
        os.close(fd)


def carried(attribute: str, refused: tuple[str, ...]) -> bool:
    """Whether an extended attribute goes into an image; ``refused`` are beginnings of names."""
    if attribute == "security.capability":
        return True
    return attribute.startswith("user.") and not attribute.startswith(refused)


def check_unchanged(source: Source, st: os.stat_result, row: Row, path: str) -> None:
    """Raise BuildError if ``st``, taken after reading a file, is not what its row says."""
    now = (st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino, st.st_dev, st.st_mode)
    if now != (row[SIZE], row[MTIME], row[CTIME], row[INODE], row[DEVICE], row[MODE]):
        raise BuildError(
            f"{source.name_of(path)} in {source.what} changes while it is read",
            hint="build again when nothing writes to it",
        )
