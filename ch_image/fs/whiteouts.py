"""How one layer's tree says that something of the layers below is gone.

The format is overlayfs's with ``userxattr``: a 0:0 character device hides the name below, the
attribute ``user.overlay.opaque`` = "y" hides all that lower directories of that path contain.

Where a filesystem refuses either, the marker files of the OCI image layout take their place:
``.wh.NAME`` and ``.wh..wh..opq``. Overlayfs cannot be mounted there, so it never meets them. For
the same reason a file of such a name that a build step makes means what it means in a layer's
archive.
"""

from __future__ import annotations

import errno
import os
import stat

from ch_image.typed import Final

OPAQUE_XATTR: Final = "user.overlay.opaque"
PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
_REFUSED: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL)


def is_whiteout(state: os.stat_result) -> bool:
    """Whether a node is an overlayfs whiteout."""
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == 0


def hidden_name(name: bytes, state: os.stat_result) -> bytes | None:
    """The name that the node ``name`` hides in lower layers; None when it is no whiteout."""
    if is_whiteout(state):
        return name
    if name.startswith(PREFIX) and name != OPAQUE_NAME and stat.S_ISREG(state.st_mode):
        return name[len(PREFIX) :]
    return None


def is_opaque(dir_fd: int) -> bool:
    """Whether the open directory hides all that is below it in lower layers."""
    try:
        if os.getxattr(dir_fd, OPAQUE_XATTR) == b"y":
            return True
    except OSError as error:
        if error.errno not in (errno.ENODATA, *_REFUSED):
            raise
    try:
        os.stat(OPAQUE_NAME, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def make_opaque(dir_fd: int) -> None:
    """Mark the open directory."""
    try:
        os.setxattr(dir_fd, OPAQUE_XATTR, b"y")
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _make_marker(dir_fd, OPAQUE_NAME)


def make_whiteout(dir_fd: int, name: bytes) -> None:
    """Hide ``name`` of lower layers; FileExistsError when this layer has a node of that name."""
    try:
        # Linux 5.8 and later let everybody make this one device.
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        _make_marker(dir_fd, PREFIX + name)


def _make_marker(dir_fd: int, name: bytes) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o600, dir_fd=dir_fd))
