"""PAX records: what they say about a member, and how they are written.

A record is ``LENGTH KEYWORD=VALUE\\n`` with the decimal length of all of it (POSIX.1-2001, pax,
"extended header"). Values are bytes: names of files have no encoding here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from ch_image.errors import ImageError
from ch_image.typed import Final

_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_TIME: Final = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?")
# GNU's format 0.0 repeats these keywords, once for each piece; they are gathered here.
_PIECES: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def parse(record: bytes) -> dict[bytes, bytes]:
    """The keywords and values of an extended header; the last of equal keywords wins."""
    found: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    at, end = 0, len(record)
    while at < end:
        if not record[at]:
            break  # padding that some writers count
        space = record.find(b" ", at, at + 10)
        length = decimal(record[at:space]) if space > 0 else 0
        line = record[space + 1 : at + length]
        if at + length > end or not line.endswith(b"\n") or b"=" not in line:
            raise ImageError("an extended header of the archive is malformed")
        key, _, value = line[:-1].partition(b"=")
        if key in _PIECES:
            pieces.append(value)
        if value or key.startswith((_SCHILY, _LIBARCHIVE)):
            found[key] = value
        else:
            found.pop(key, None)  # an empty value takes the keyword back
        at += length
    if pieces:
        found[b"GNU.sparse.map"] = b",".join(pieces)
    return found


def decimal(text: bytes) -> int:
    """A plain decimal number of at most 19 digits."""
    if not text.isdigit() or len(text) > 19:
        raise ImageError("an extended header of the archive has a malformed number")
    return int(text)


def number(pax: Mapping[bytes, bytes], key: bytes, otherwise: int) -> int:
    """The number of ``key``."""
    text = pax.get(key)
    return otherwise if text is None else decimal(text)


def time(pax: Mapping[bytes, bytes], key: bytes, otherwise: int) -> int:
    """The time of ``key`` in nanoseconds; finer digits are cut off."""
    text = pax.get(key)
    if text is None:
        return otherwise
    match = _TIME.fullmatch(text)
    if not match:
        raise ImageError("an extended header of the archive has a malformed time")
    sign, seconds, fraction = match.groups()
    value = int(seconds) * 1_000_000_000 + int(((fraction or b"") + b"0" * 9)[:9])
    return -value if sign else value


def xattrs(pax: Mapping[bytes, bytes]) -> dict[str, bytes] | None:
    """The extended attributes, None if there are none; star's keywords win over libarchive's."""
    found: dict[str, bytes] = {}
    for key, value in pax.items():
        if key.startswith(_LIBARCHIVE):
            name = unquote_to_bytes(key[len(_LIBARCHIVE) :])
            if name and _SCHILY + name not in pax:
                found[_name(name)] = _unbase64(value)
        elif key.startswith(_SCHILY) and len(key) > len(_SCHILY):
            found[_name(key[len(_SCHILY) :].replace(b"%3D", b"="))] = value
    return found or None


def _name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _unbase64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        raise ImageError("an extended attribute in the archive is malformed") from None


def sparse_map(pax: Mapping[bytes, bytes]) -> list[tuple[int, int]]:
    """The map of GNU's formats 0.0 and 0.1: (offset, count) of each piece of data."""
    text = pax.get(b"GNU.sparse.map", b"")
    numbers = [decimal(part) for part in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise ImageError("the map of a sparse file is cut off")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def record(key: bytes, value: bytes) -> bytes:
    """One record, as bytes."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def xattr_key(name: str) -> bytes:
    """The keyword for an attribute; "=", which would end it, is written as GNU tar does."""
    return _SCHILY + name.encode("utf-8", "surrogateescape").replace(b"=", b"%3D")
