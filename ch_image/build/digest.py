"""One digest over everything that a selection takes; see `ch_image.build.select` for what counts.

Files are hashed by several threads (hashlib and read(2) let go of the interpreter's lock), and
only those that no index knows.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence

from ch_image.build.context import Context
from ch_image.build.rows import CTIME, DEVICE, INODE, MODE, MTIME, NAME, SIZE, Row, linked_of
from ch_image.build.select import Level, Match, Selection, levels
from ch_image.build.source import ImageSource, Source, join
from ch_image.build.spread import spread
from ch_image.build.statindex import Memo, stat_key
from ch_image.errors import BuildError
from ch_image.model.sha256 import sha256
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import hashlib

_BLOCK = 1 << 20  # bytes read at once
_BATCH = 64  # files a thread takes at once
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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

    def compute() -> str:
        return _Digester(source, owners).run(selection)

    if memo is None or not isinstance(source, ImageSource) or not source.identity:
        return compute()
    return memo.recall(("selection", source.identity, owners, *selection), compute)


class _Digester:
    def __init__(self, source: Source, owners: bool) -> None:
        self._source = source
        self._owners = owners
        self._context = source if isinstance(source, Context) else None
        self._index = self._context.index if self._context else None
        self._links: dict[tuple[int, int], list[str]] = {}

    def run(self, selection: Selection) -> str:
        """Look at everything once, hash what is not known, then put it together."""
        if self._context is not None:
            self._context.look_ahead([m.path for m in selection.matches if m.is_dir])
        parts: list[tuple[bytes, bytes | _Pending]] = []
        for match in selection.matches:
            if match.is_dir:
                parts.append((b"D", _NOTHING))
                for level in levels(self._source, match, selection.exclude):
                    parts.append((b"L" + os.fsencode(level.rel), self._look(level)))
            else:
                label = b"F" + os.fsencode(match.name)
                parts.append((label, self._look(_alone(self._source, match))))
        pending = [part for _, part in parts if isinstance(part, _Pending)]
        _hash_all(self._source, pending, self._owners)
        total = sha256(b"ch-image selection 1\n")
        for label, part in parts:
            value = self._finish(part) if isinstance(part, _Pending) else part
            total.update(label + b"\0" + value)
        for group in sorted(paths for paths in self._links.values() if len(paths) > 1):
            total.update(os.fsencode("\0".join(["H", *group])) + b"\0\0")
        return total.hexdigest()

    def _look(self, level: Level) -> bytes | _Pending:
        """The digest of one directory's listing, or what is missing for it."""
        rows = level.rows
        for row in linked_of(rows):
            paths = self._links.setdefault((row[DEVICE], row[INODE]), [])
            paths.append(join(level.path, row[NAME]))
        if self._context is None or self._index is None:
            return _Pending(level, b"", {}, 0)
        fingerprint = b""
        if level.whole:
            fingerprint = self._context.fingerprint(level.path, rows)
            whole = self._index.whole(level.path, fingerprint)
            if whole is not None:
                self._source.digests[level.path] = whole
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
        self._source.contents.setdefault(level.path, {}).update(known)
        parts: list[bytes] = []
        for row in level.rows:
            parts += (os.fsencode(row[NAME]), b"\0%o\0" % row[MODE], known.get(row[NAME], _NOTHING))
        out = sha256(b"".join(parts)).digest()
        if level.whole:
            self._source.digests[level.path] = out
        if self._index is not None and level.whole:
            files = {r[NAME]: known[r[NAME]] for r in level.rows if not stat.S_ISDIR(r[MODE])}
            self._index.remember(
                level.path, level.rows, pending.fingerprint, out, files, pending.read_at
            )
        return out


def _alone(source: Source, match: Match) -> Level:
    """A single file as if it were alone in its directory."""
    row = source.row(match.path)
    directory = match.path.rpartition("/")[0]
    return Level(directory, "", [row] if row is not None else [], False, frozenset())


def _hash_all(source: Source, pending: Sequence[_Pending], owners: bool) -> None:
    """Fill in ``known`` of each; by several threads where there is enough to do."""
    jobs = list(_jobs(pending, directories=owners))
    size = sum(row[SIZE] for _, rows in jobs for row in rows)

    def work(job: tuple[_Pending, list[Row]]) -> None:
        _hash_rows(source, *job, owners)

    spread(jobs, size, lambda: work)


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


def _hash_rows(source: Source, job: _Pending, rows: Sequence[Row], owners: bool) -> None:
    path, known = job.level.path, job.known
    records = isinstance(source, ImageSource)
    refused = source.refused_xattrs()
    name = ""
    try:
        directory = source.open_dir(path)
        try:
            for row in rows:
                name = row[NAME]
                kind = row[MODE] & 0o170000
                if kind == 0o100000 or kind == 0o040000:
                    out = _hash_open(source, directory, row, path, refused)
                    if records:
                        _add_record(source, directory, row, out, owners)
                else:
                    out = _hash_special(source, directory, row, path, owners)
                known[name] = out.digest()
        finally:
            os.close(directory)
    except OSError as error:
        raise source.fault(join(path, name) if name else path, error) from None


def _hash_open(
    source: Source, directory: int, row: Row, path: str, refused: tuple[str, ...]
) -> hashlib._Hash:
    """Contents and attributes of a regular file; attributes of a directory."""
    import hashlib

    fd = os.open(row[NAME], _READ, dir_fd=directory)
    try:
        left = row[SIZE]  # 0 for a directory
        block = os.read(fd, min(left, _BLOCK)) if left > 0 else b""
        out = hashlib.sha256(block)
        left -= len(block)
        while left > 0 and (block := os.read(fd, min(left, _BLOCK))):
            out.update(block)
            left -= len(block)
        if row[INODE]:
            check_unchanged(source, os.fstat(fd), row, path)
        for attribute in sorted(listxattr(fd)):
            if carried(attribute, refused):
                value = os.getxattr(fd, attribute)
                out.update(b"\0%s\0%d\0" % (os.fsencode(attribute), len(value)) + value)
        return out
    finally:
        os.close(fd)


def _add_record(source: Source, directory: int, row: Row, out: hashlib._Hash, owners: bool) -> None:
    """Whose the file is and what device it stands for, where an image says so."""
    fd = os.open(row[NAME], _READ, dir_fd=directory)
    try:
        record = source.record(fd)
    finally:
        os.close(fd)
    if record is not None:
        if record.is_device:
            out.update(f"\0{record.kind}-{record.major}-{record.minor}".encode())
        if owners and (record.uid, record.gid) != (0, 0):
            out.update(b"\0%d:%d" % (record.uid, record.gid))


def _hash_special(
    source: Source, directory: int, row: Row, path: str, owners: bool
) -> hashlib._Hash:
    """The target of a link, the numbers of a device; owners of what carries no record."""
    import hashlib

    out = hashlib.sha256()
    if stat.S_ISLNK(row[MODE]):
        out.update(b"link\0" + os.fsencode(os.readlink(row[NAME], dir_fd=directory)))
    elif stat.S_ISCHR(row[MODE]) or stat.S_ISBLK(row[MODE]):
        numbers = os.stat(row[NAME], dir_fd=directory, follow_symlinks=False).st_rdev
        out.update(b"device\0%d" % numbers)
    if owners:
        out.update(b"\0%d:%d" % source.link_owner(join(path, row[NAME])))
    return out


def listxattr(fd: int) -> list[str]:
    """The names of the extended attributes; none where the file system has none."""
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def carried(attribute: str, refused: tuple[str, ...]) -> bool:
    """Whether an extended attribute goes into an image; ``refused`` are beginnings of names."""
    if attribute == "security.capability":
        return True
    image = attribute.startswith(("user.", "system.posix_acl_"))
    return image and not attribute.startswith(refused)


def check_unchanged(source: Source, st: os.stat_result, row: Row, path: str) -> None:
    """Raise BuildError if ``st`` of a file of ``path``, once read, is not what its row says."""
    if (
        st.st_ctime_ns != row[CTIME]
        or st.st_size != row[SIZE]
        or st.st_mtime_ns != row[MTIME]
        or st.st_ino != row[INODE]
        or st.st_dev != row[DEVICE]
        or st.st_mode != row[MODE]
    ):
        raise BuildError(
            f"{source.name_of(join(path, row[NAME]))} in {source.what} changes while it is read",
            hint="build again when nothing writes to it",
        )
