"""A tar archive as a stream of members, read once, forwards, in bounded memory.

Understands ustar (POSIX.1-2001), PAX records, and what GNU tar adds: long names and links,
base-256 numbers, sparse files of all four kinds. Names, links and attribute values are bytes as
they stand. Where readers differ, Go's archive/tar is followed, for it reads most layers of this
world: global PAX headers are skipped, types without data have none whatever their size field says.

It knows nothing of files: whether a name may be created is somebody else's question. Everything
that is against the format, or beyond a limit, is an ImageError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ch_image.errors import ImageError, printable
from ch_image.layers import tar_pax
from ch_image.layers.compress import Readable
from ch_image.typed import Final, NamedTuple

BLOCK: Final = 512
MAX_RECORD: Final = 1 << 20  # of one PAX header or long name, bytes
MAX_SIZE: Final = 1 << 43  # of one file, bytes: 8 TiB
MAX_ID: Final = 0xFFFF_FFFE
_ZERO_BLOCK: Final = bytes(BLOCK)
_HOLE: Final = 1 << 16
_ZEROS: Final = bytes(_HOLE)
_READ: Final = 1 << 20
_MIN_TIME: Final = -(1 << 31)  # what ext4 can hold, seconds
_MAX_TIME: Final = (1 << 34) - (1 << 31) - 1

REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHAR: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
_ALIASES: Final = {b"\0": REGULAR, b"7": REGULAR, b"S": REGULAR, b"D": DIRECTORY}
_KINDS: Final = frozenset((REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO))


class Member(NamedTuple):
    """One member. ``kind`` is one of the constants above; ``mtime`` in nanoseconds."""

    name: bytes
    kind: bytes
    mode: int  # 0o7777 at most
    uid: int
    gid: int
    size: int  # of the file, holes counted
    mtime: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[str, bytes] | None


class TarReader:
    """Iterate over it, and `copy_data` each regular member (or not: it is skipped)."""

    def __init__(self, stream: Readable) -> None:
        self._read = stream.read
        self._chunk = b""
        self._at = 0
        self._begun = False  # a header has been read
        self._left = 0  # data of the current member not yet read
        self._pad = 0
        self._sparse: list[tuple[int, int]] | None = None
        self._size = 0

    def __iter__(self) -> Iterator[Member]:
        """The members; the stream is read to its very end, so that digests over it are whole."""
        pax: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            self._skip(self._left + self._pad)
            self._left = self._pad = 0
            header = self._header()
            if header is None:
                break
            self._begun = True
            kind = header[156:157]
            if kind in b"xLKgX" and kind:
                size = _number(header[124:136])
                if kind == b"g":
                    self._skip(_padded(size))
                    continue
                record = self._record(size)
                if kind == b"L":
                    long_name = record.split(b"\0", 1)[0]
                elif kind == b"K":
                    long_link = record.split(b"\0", 1)[0]
                else:
                    pax = tar_pax.parse(record)
                continue
            if kind == b"V":  # the label of a volume
                self._set_data(_number(header[124:136]))
                continue
            yield self._member(header, kind, pax, long_name, long_link)
            pax, long_name, long_link = {}, None, None
        if pax or long_name is not None or long_link is not None:
            raise ImageError("the archive ends after a header that belongs to a next member")
        self._drain()

    def _member(
        self,
        header: bytes,
        kind: bytes,
        pax: dict[bytes, bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Member:
        name = header[:100].split(b"\0", 1)[0]
        link = header[157:257].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        if long_name is not None:
            name = long_name
        if long_link is not None:
            link = long_link
        size = _number(header[124:136])
        uid, gid = _number(header[108:116]), _number(header[116:124])
        mtime = _number(header[136:148]) * 1_000_000_000
        xattrs = None
        if pax:
            name, link = pax.get(b"path", name), pax.get(b"linkpath", link)
            size = tar_pax.number(pax, b"size", size)
            uid, gid = tar_pax.number(pax, b"uid", uid), tar_pax.number(pax, b"gid", gid)
            mtime = tar_pax.time(pax, b"mtime", mtime)
            xattrs = tar_pax.xattrs(pax)
        if kind in _ALIASES and (kind != b"\0" or not name.endswith(b"/")):
            real = _ALIASES[kind]
        else:
            real = DIRECTORY if kind in b"\0" and name.endswith(b"/") else kind
        if real not in _KINDS:
            raise ImageError(f"member {_text(name)} is of a kind ({kind!r}) that is not known")
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            raise ImageError(f"member {_text(name)} has an owner that cannot be: {uid}:{gid}")
        self._sparse = None
        if real == REGULAR or kind == b"D":
            self._set_data(size)
            if real == REGULAR and (kind == b"S" or pax):
                name, size = self._sparse_file(header, kind, pax, name, size)
            self._size = size
        else:
            size = 0
        if not _MIN_TIME <= mtime // 1_000_000_000 <= _MAX_TIME:
            mtime = (_MIN_TIME if mtime < 0 else _MAX_TIME) * 1_000_000_000
        major = minor = 0
        if real in (CHAR, BLOCK_DEVICE):
            major, minor = _number(header[329:337]), _number(header[337:345])
        mode = _number(header[100:108]) & 0o7777
        return Member(name, real, mode, uid, gid, size, mtime, link, major, minor, xattrs)

    def _set_data(self, size: int) -> None:
        if not 0 <= size <= MAX_SIZE:
            raise ImageError(f"a member claims to be {size} bytes long")
        self._left = size
        self._pad = -size % BLOCK

    def copy_data(self, fd: int) -> int:
        """Write the current member to the empty file ``fd``; return how many bytes were stored.

        Holes, and long runs of zeros, become holes and are not counted.
        """
        if self._sparse is not None:
            stored = 0
            for offset, count in self._sparse:
                stored += self._copy(fd, offset, count)
            os.ftruncate(fd, self._size)
            return stored
        size, at = self._left, self._at
        chunk = self._chunk
        if size < _HOLE and len(chunk) - at >= size:  # nearly all files of an image
            data = chunk[at : at + size]
            self._at = at + size
            self._left = 0
            written = os.write(fd, data)
            while written < size:  # the disk is all but full: the next attempt says so
                written += os.write(fd, data[written:])
            return size
        stored = self._copy(fd, 0, size)
        if stored != size:
            os.ftruncate(fd, size)
        return stored

    def _copy(self, fd: int, offset: int, count: int) -> int:
        stored = 0
        self._left -= count
        while count > 0:
            piece = self._piece(count)
            count -= len(piece)
            stored += _write_with_holes(fd, piece, offset)
            offset += len(piece)
        return stored

    def _sparse_file(
        self, header: bytes, kind: bytes, pax: dict[bytes, bytes], name: bytes, size: int
    ) -> tuple[bytes, int]:
        """Set the map of a sparse file if it is one; return its name and real size."""
        if kind == b"S":
            real, regions = self._gnu_map(header)
        elif pax.get(b"GNU.sparse.major") == b"1":
            real = tar_pax.number(pax, b"GNU.sparse.realsize", -1)
            regions = self._map_in_data()
            name = pax.get(b"GNU.sparse.name", name)
        elif b"GNU.sparse.size" in pax:
            real = tar_pax.number(pax, b"GNU.sparse.size", -1)
            regions = tar_pax.sparse_map(pax)
            name = pax.get(b"GNU.sparse.name", name)
        else:
            return name, size
        end = 0
        for offset, count in regions:
            if offset < end or count < 0 or offset + count > real:
                raise ImageError(f"the map of the sparse file {_text(name)} is nonsense")
            end = offset + count
        if sum(count for _, count in regions) != self._left or real > MAX_SIZE:
            raise ImageError(f"the map of the sparse file {_text(name)} does not fit its data")
        self._sparse = regions
        return name, real

    def _gnu_map(self, header: bytes) -> tuple[int, list[tuple[int, int]]]:
        regions = _gnu_regions(header[386:482])
        more = header[482]
        while more:
            block = self._exactly(BLOCK)
            regions += _gnu_regions(block[:504])
            more = block[504]
            if len(regions) * 24 > MAX_RECORD:
                raise ImageError("a sparse file has too many pieces")
        return _number(header[483:495]), regions

    def _map_in_data(self) -> list[tuple[int, int]]:
        """The map of format 1.0: decimal lines before the data, padded to whole blocks."""
        numbers: list[int] = []
        text, wanted = b"", 1
        while len(numbers) < wanted:
            if self._left < BLOCK:
                raise ImageError("the map of a sparse file is cut off")
            text += self._exactly(BLOCK)
            self._left -= BLOCK
            *lines, text = text.split(b"\n")
            numbers += [tar_pax.decimal(line) for line in lines]
            if numbers:
                wanted = 1 + 2 * numbers[0]
            if wanted * 8 > MAX_RECORD or (len(numbers) < wanted and len(text) > 32):
                raise ImageError("a sparse file has too many pieces")
        return list(zip(numbers[1:wanted:2], numbers[2:wanted:2], strict=True))

    # -- the stream --

    def _header(self) -> bytes | None:
        """The next header block; None at the end of the archive."""
        at = self._at
        header = self._chunk[at : at + BLOCK]
        if len(header) == BLOCK:
            self._at = at + BLOCK
        else:
            header = self._upto(BLOCK)
            if not header:
                return None
            if len(header) < BLOCK:
                raise self._no_header("the archive is cut off in a header")
        total = sum(header) - sum(header[148:156]) + 256
        try:
            if int(header[148:156].rstrip(b" \0"), 8) == total:
                return header
        except ValueError:
            if header == _ZERO_BLOCK:
                return None
        signed = total - 256 * sum(1 for byte in header[:148] + header[156:] if byte > 127)
        try:
            if _number(header[148:156]) == signed:
                return header
        except ImageError:
            pass
        raise self._no_header("the archive is damaged: the checksum of a header is wrong")

    def _no_header(self, what: str) -> ImageError:
        """The fault ``what``; what does not even begin as an archive is none."""
        return ImageError(what if self._begun else "this is no tar archive, or it is damaged")

    def _record(self, size: int) -> bytes:
        if not 0 <= size <= MAX_RECORD:
            raise ImageError(f"a header of {size} bytes is beyond the limit of {MAX_RECORD}")
        record = self._exactly(size)
        self._skip(-size % BLOCK)
        return record

    def _fill(self) -> bool:
        self._chunk, self._at = self._read(_READ), 0
        return bool(self._chunk)

    def _piece(self, limit: int) -> memoryview:
        """Some of the next bytes, at least one and at most ``limit``."""
        if self._at >= len(self._chunk) and not self._fill():
            raise ImageError("the archive is cut off in a file")
        piece = memoryview(self._chunk)[self._at : self._at + limit]
        self._at += len(piece)
        return piece

    def _upto(self, size: int) -> bytes:
        parts = []
        while size and (self._at < len(self._chunk) or self._fill()):
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        data = self._upto(size)
        if len(data) < size:
            raise ImageError("the archive is cut off in a header")
        return data

    def _skip(self, count: int) -> None:
        while count:
            there = len(self._chunk) - self._at
            if count <= there:
                self._at += count
                return
            count -= there
            if not self._fill():
                raise ImageError("the archive is cut off in a file")

    def _drain(self) -> None:
        while self._fill():
            pass
        self._chunk = b""


def _write_with_holes(fd: int, data: memoryview, offset: int) -> int:
    """Write ``data`` at ``offset``, leaving out blocks of zeros; return the bytes written."""
    start, end, stored = 0, 0, 0
    size = len(data)
    while start < size:
        while end < size and not _is_hole(data, end):
            end += _HOLE
        end = min(end, size)
        at = start
        while at < end:
            at += os.pwrite(fd, data[at:end], offset + at)
        stored += end - start
        while end < size and _is_hole(data, end):
            end += _HOLE
        start = end
    return stored


def _is_hole(data: memoryview, at: int) -> bool:
    # Bytes are compared at once, the items of a memoryview one by one.
    return data[at] == 0 and data[at : at + _HOLE].tobytes() == _ZEROS


def _gnu_regions(table: bytes) -> list[tuple[int, int]]:
    regions = []
    for at in range(0, len(table), 24):
        if not table[at]:
            break
        regions.append((_number(table[at : at + 12]), _number(table[at + 12 : at + 24])))
    return regions


def _padded(size: int) -> int:
    if not 0 <= size <= MAX_RECORD:
        raise ImageError(f"a header of {size} bytes is beyond the limit of {MAX_RECORD}")
    return size + -size % BLOCK


def _number(field: bytes) -> int:
    """A numeric field: octal text, or base-256 when the highest bit is set (GNU)."""
    try:
        return int(field.rstrip(b" \0") or b"0", 8)
    except ValueError:
        pass
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        if field[0] & 0x40:  # negative: two's complement
            value -= 1 << (8 * len(field) - 1)
        return value
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text or b"0", 8)
    except ValueError:
        raise ImageError(f"the archive has {_text(field)} where a number must be") from None


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "backslashreplace"), 200)
