"""The owner and device number a file would have if its builder were root.

One mapped ID cannot own a file as 33:33 nor make a device, so both are *recorded* on the file,
in the extended attribute and the format that containers/storage and fuse-overlayfs use:
``UID:GID:MODE[:TYPE]``, say ``33:33:0755:dir`` or ``0:0:0666:char-1-3``. The record travels with
the file through copy-up, rename and hard links. A device is an empty regular file with a record.

Only regular files and directories can carry it (the kernel keeps user attributes off symbolic
links, FIFOs and sockets): owners of those stand in the record of their layer. Permission bits
are real ones; those in a record tell other tools the whole story and are not read back by ours.
"""

from __future__ import annotations

import errno
import os

from ch_image.typed import Final, NamedTuple

XATTR: Final = "user.containers.override_stat"
MAX_ID: Final = 0xFFFF_FFFE  # 2**32-1 means "no change" to chown
_KINDS: Final = ("file", "dir", "char", "block", "pipe", "socket", "symlink")
_ABSENT: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM)


class Recorded(NamedTuple):
    """What is recorded of a file; ``mode`` has the permission bits (0o7777) only."""

    uid: int
    gid: int
    mode: int
    kind: str
    major: int = 0
    minor: int = 0

    @property
    def is_device(self) -> bool:
        """Whether the empty file that carries this record stands for a device."""
        return self.kind in ("char", "block")


def encode(recorded: Recorded) -> bytes:
    """The value of the attribute."""
    uid, gid, mode, kind, major, minor = recorded
    if recorded.is_device:
        kind = f"{kind}-{major}-{minor}"
    return f"{uid}:{gid}:{mode:04o}:{kind}".encode("ascii")


def decode(value: bytes) -> Recorded | None:
    """What ``value`` says, or None when it is not of the format."""
    parts = value.split(b":")
    if not 3 <= len(parts) <= 4 or not all(part.isdigit() for part in parts[:3]):
        return None
    try:
        uid, gid, mode = int(parts[0]), int(parts[1]), int(parts[2], 8)
    except ValueError:
        return None
    kind, _, numbers = (parts[3] if len(parts) == 4 else b"file").partition(b"-")
    name = kind.decode("ascii", "replace")
    if uid > MAX_ID or gid > MAX_ID or name not in _KINDS:
        return None
    if name not in ("char", "block"):
        return None if numbers else Recorded(uid, gid, mode & 0o7777, name)
    major, _, minor = numbers.partition(b"-")
    if not (major.isdigit() and minor.isdigit() and len(major) < 11 and len(minor) < 11):
        return None
    return Recorded(uid, gid, mode & 0o7777, name, int(major), int(minor))


def read(file: str | bytes | int, follow: bool = False) -> Recorded | None:
    """The record of ``file`` (a path or a descriptor), None when it has none or cannot have one."""
    try:
        # A descriptor is never a link, and Python refuses the combination.
        value = os.getxattr(file, XATTR, follow_symlinks=follow or isinstance(file, int))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return decode(value)


def write(file: str | bytes | int, recorded: Recorded) -> None:
    """Record on ``file`` (a regular file or directory; a link is not followed).

    OSError EOPNOTSUPP: the filesystem has no user attributes.
    """
    os.setxattr(file, XATTR, encode(recorded), follow_symlinks=isinstance(file, int))


def clear(file: str | bytes | int) -> None:
    """Take the record off ``file``; no error when there is none."""
    try:
        os.removexattr(file, XATTR, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
