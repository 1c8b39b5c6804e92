"""Small files with a checksum: how every record of the storage directory is written and read.

    CRC SP HEAD LF BODY     CRC: 8 hexadecimal digits, CRC-32 of all that follows the blank

HEAD is one line of tab-separated words, the first being the kind of record, so that what a
listing shows can be read without parsing JSON. BODY is compact JSON in ASCII, one value a line.
A record is replaced only as a whole, by rename; a torn, foreign or altered one is ``Damaged``.
Nothing here knows what the records mean.
"""

from __future__ import annotations

import os
from binascii import crc32

from ch_image.errors import StorageError, printable
from ch_image.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ch_image.storage.scratch import Scratch

MAX_RECORD = 64 << 20  # bytes; owners of a layer with very many special files
_SEPARATORS = (",", ":")


class Damaged(StorageError):
    """A record is not what was written."""


def pack(kind: str, words: tuple[str, ...], body: bytes) -> bytes:
    """A record's bytes. No word may hold a tab or a line end."""
    head = "\t".join((kind, *words))
    if "\n" in head or head.count("\t") != len(words):
        raise ValueError(f"not fit for a record's head: {words!r}")
    rest = head.encode("utf-8", "surrogateescape") + b"\n" + body
    return b"%08x %s" % (crc32(rest), rest)


def unpack(raw: bytes, kind: str, where: str) -> tuple[list[str], bytes]:
    """The head's words (without the kind) and the body. Raises Damaged."""
    rest = raw[9:]
    head, end, body = rest.partition(b"\n")
    if raw[:9] != b"%08x " % crc32(rest) or not end:
        raise Damaged(f"a record is damaged: {printable(where, 300)}")
    words = head.decode("utf-8", "surrogateescape").split("\t")
    if words[0] != kind:
        raise Damaged(f"a record is of another kind than {kind}: {printable(where, 300)}")
    return words[1:], body


def dump(value: object) -> bytes:
    """``value`` as one line of JSON; undecodable bytes in strings survive as lone surrogates."""
    import json

    return json.dumps(value, separators=_SEPARATORS).encode("ascii")


def load(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object that ``dump`` wrote. Raises Damaged."""
    import json

    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Damaged(f"a record is damaged: {printable(where, 300)}")
    return value


def read_file(path: str, limit: int = MAX_RECORD) -> bytes:
    """All of a small regular file. Raises FileNotFoundError, OSError; Damaged beyond ``limit``."""
    # O_NONBLOCK: should somebody put a FIFO here, opening it must not wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise Damaged(f"a record is too large: {printable(path, 300)}")
        chunks = []
        while chunk := os.read(fd, max(4096, size + 1)):
            chunks.append(chunk)
            if sum(map(len, chunks)) > limit:
                raise Damaged(f"a record is too large: {printable(path, 300)}")
        return b"".join(chunks)
    finally:
        os.close(fd)


def read_record(path: str, kind: str) -> tuple[list[str], bytes]:
    """The head's words and body of the record at ``path``.

    Raises FileNotFoundError when there is none and Damaged when it cannot be trusted.
    """
    try:
        raw = read_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"cannot read a record: {error.strerror}: {printable(path, 300)}") from error
    return unpack(raw, kind, path)


def write_new(path: str, data: bytes) -> None:
    """Write a file that does not exist yet, mode 0600 whatever the umask. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, scratch: Scratch) -> None:
    """Put ``data`` at ``path`` in one step: readers see the old file or the new. Raises OSError."""
    staged = scratch.name()
    try:
        write_new(staged, data)
        os.rename(staged, path)
    except BaseException:
        remove_file(staged)
        raise


def remove_file(path: str) -> bool:
    """Unlink ``path``; False when it was not there. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
