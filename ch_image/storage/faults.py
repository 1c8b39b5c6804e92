"""What the disk refused, said in one line.

The one place where an ``OSError`` of the storage directory becomes a StorageError; it knows
nothing of what was being stored.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ch_image.errors import StorageError, printable

_HINTS = {
    errno.ENOSPC: "free some space, for example with: ch-image build-cache --gc",
    errno.EDQUOT: "your disk quota is used up; ch-image build-cache --gc frees space",
    errno.EROFS: "the storage directory lies on a read-only file system; choose another with -s",
    errno.EACCES: "choose a storage directory of your own with -s or CH_IMAGE_STORAGE",
    errno.EPERM: "choose a storage directory of your own with -s or CH_IMAGE_STORAGE",
    errno.EIO: "the disk under the storage directory reports faults",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


def storage_error(doing: str, error: OSError) -> StorageError:
    """The StorageError for ``error``, which came while ``doing`` ("write a blob")."""
    what = error.strerror or str(error)
    name = error.filename
    where = f": {printable(os.fsdecode(name), 300)}" if isinstance(name, (str, bytes)) else ""
    return StorageError(
        f"cannot {doing}: {what[:1].lower()}{what[1:]}{where}",
        hint=_HINTS.get(error.errno or 0, ""),
    )


@contextmanager
def faults(doing: str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise storage_error(doing, error) from error
