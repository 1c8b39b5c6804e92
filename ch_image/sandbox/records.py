"""Owners and devices that one mapped ID cannot have, recorded on the files.

Regular files and directories carry ``user.containers.override_stat``, the attribute (and format)
of containers/storage and fuse-overlayfs: ``UID:GID:MODE[:TYPE]``, TYPE being ``file``, ``dir``,
``char-MAJOR-MINOR``, ``block-MAJOR-MINOR``... A device is an empty regular file with its type in
the attribute. Other files (symlinks, FIFOs, sockets) cannot carry it; who records for them keeps a
list of paths.
"""

from __future__ import annotations

import os
import struct

ATTRIBUTE = "user.containers.override_stat"
_KINDS = {
    0o010000: "pipe",
    0o020000: "char",
    0o040000: "dir",
    0o060000: "block",
    0o100000: "file",
    0o120000: "symlink",
    0o140000: "socket",
}


def encode(uid: int, gid: int, mode: int, kind: str, device: int = 0) -> bytes:
    """The attribute's value; ``mode`` is informative, for chmod works natively."""
    if kind in ("char", "block"):
        kind = f"{kind}-{os.major(device)}-{os.minor(device)}"
    return f"{uid}:{gid}:{mode & 0o7777:04o}:{kind}".encode()


def kind_of(mode: int) -> str:
    """The type part for a ``st_mode``."""
    return _KINDS.get(mode & 0o170000, "file")


def can_carry(mode: int) -> bool:
    """Whether a file of this ``st_mode`` can have user extended attributes (xattr(7))."""
    return mode & 0o170000 in (0o040000, 0o100000)


def owner_of(path: str | bytes | int) -> tuple[int, int, str]:
    """(uid, gid, type) recorded on a file; (0, 0, "") when nothing is."""
    try:
        value = os.getxattr(path, ATTRIBUTE)
    except OSError:
        return 0, 0, ""
    uid, _, rest = value.decode("ascii", "replace").partition(":")
    gid, _, rest = rest.partition(":")
    kind = rest.partition(":")[2]
    if not (uid.isdecimal() and gid.isdecimal()) or max(int(uid), int(gid)) >= 1 << 32:
        return 0, 0, ""  # a RUN may write nonsense there; it harms its own file only
    if kind.startswith(("char-", "block-")):
        numbers = kind.split("-")[1:]
        if len(numbers) != 2 or not all(n.isdecimal() and len(n) < 10 for n in numbers):
            kind = ""
    return int(uid), int(gid), kind


_ACL_USER, _ACL_GROUP = 2, 8


def acl_of_root(value: bytes) -> bytes:
    """An ACL (linux/posix_acl_xattr.h) without the entries that name other IDs than 0."""
    out, entries = value[:4], value[4 : 4 + (len(value) - 4) // 8 * 8]
    for tag, permissions, who in struct.iter_unpack("<HHI", entries):
        if tag not in (_ACL_USER, _ACL_GROUP) or who == 0:
            out += struct.pack("<HHI", tag, permissions, who)
    return out
