"""Archives made by hand with `tarfile`, and what a tree on disk looks like."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ch_image.fs import owners

KINDS = {
    "file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}  # fmt: skip
WHEN = 1_600_000_000


class Member(tarfile.TarInfo):
    """A member with its contents."""

    data = b""


def member(name: str, kind: str = "file", data: bytes = b"", **more: Any) -> Member:
    """A member; further arguments are TarInfo's attributes."""
    info = Member(name)
    info.type = KINDS[kind]
    info.mode = 0o755 if kind == "dir" else 0o644
    info.mtime = WHEN
    for key, value in more.items():
        setattr(info, key, value)
    info.size = len(data) if kind == "file" else 0
    info.data = data
    return info


def archive(members: Iterable[Member | str], format: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive; a text is a file of that name, or a directory if it ends in a slash."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape") as tar:
        for one in members:
            if isinstance(one, str):
                one = member(one.rstrip("/") if one != "/" else one,
                             "dir" if one.endswith("/") else "file")  # fmt: skip
            tar.addfile(one, io.BytesIO(one.data))  # type: ignore[attr-defined]
    return out.getvalue()


def raw_header(name: bytes, kind: bytes = b"0", size: bytes = b"0", **at: bytes) -> bytes:
    """A ustar header with fields as they are given; `at` is a52=b"..": bytes at offset 52."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:107] = b"0000644"
    block[108:115] = block[116:123] = b"0000000"
    block[124 : 124 + len(size)] = size
    block[136:147] = b"00000000001"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for where, value in at.items():
        start = int(where[1:])
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """`data` filled up to whole blocks."""
    return data + bytes(-len(data) % 512)


def look(root: Path, *, times: bool = False) -> dict[str, str]:
    """Every node below `root`: its kind, mode, recorded owner or device, link or contents."""
    found = {}
    for here, dirs, files in os.walk(os.fsencode(root)):
        for name in [*dirs, *files]:
            path = os.path.join(here, name)
            state = os.lstat(path)
            text = stat.filemode(state.st_mode)
            record = owners.read(path) if _readable(state) else None
            if record:
                text += f" {record.uid}:{record.gid}"
                text += f" {record.kind} {record.major},{record.minor}" * record.is_device
            if stat.S_ISLNK(state.st_mode):
                text += f" -> {os.fsdecode(os.readlink(path))}"
            elif stat.S_ISREG(state.st_mode) and state.st_size < 100 and _readable(state):
                text += f" {Path(os.fsdecode(path)).read_bytes()!r}"
            if times:
                text += f" {state.st_mtime_ns}"
            found[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = text
    return found


def _readable(state: os.stat_result) -> bool:
    return not stat.S_ISLNK(state.st_mode) and bool(state.st_mode & 0o400 or os.geteuid() == 0)


def names(root: Path) -> list[str]:
    """All paths below `root`, sorted."""
    return sorted(look(root))


def like(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether the `wanted` part of a `look` is as wanted."""
    return {path: found.get(path) for path in wanted} == wanted
