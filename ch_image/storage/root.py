"""The storage directory itself: its layout, its version, whose it is.

    PATH/                mode 0700: set-user-ID files of images must not be reachable by others
      version            "1"; a newer one is refused, so is a directory that was not made by us
      lock               flock: shared for use, exclusive for gc and reset (storage/locks.py)
      synced             what a power failure cannot take any more (storage/durable.py)
      relinking          times of directories while files are shared (storage/dedupe.py)
      blobs/sha256/HEX   manifests, configs, compressed layers, byte for byte (storage/blobs.py)
      layers/ID/t/       one layer's tree in overlay format: 0:0 character devices hide names,
                         user.overlay.opaque=y hides a directory's lower ones
      layers/ID/record   its record: diff ID, blob, owners that no xattr can hold
      layers/.diff/HEX   ids of the layers with that diff ID, one a line; only a help to find them
      images/NAME        one record per reference: config, chain of layers, manifest
      deleted/NAME       the same after ``delete``, until gc
      cache/KEY          build cache: key -> layer and the inputs that made the key
      cache/.parents/KEY newest record with that parent, to explain a miss
      context/           digests of context files by stat, so that a no-op rebuild only stats
      mounts/ID          directories of RUN --mount=type=cache, beside their locks
      running/NAME       what ch-run read of an image, to start faster (cli/run_memo.py)
      tmp/NAME/          work in progress of one process (storage/scratch.py)

All files are made in ``tmp/`` and renamed. What has a final name is whole and never changes,
except records, which are replaced whole.
"""

from __future__ import annotations

import fcntl
import os
import stat

from ch_image.errors import StorageError, printable
from ch_image.storage.faults import faults, storage_error
from ch_image.storage.record import read_file

FORMAT = 1
_DIRECTORIES = (
    "blobs", "blobs/sha256", "layers", "layers/.diff", "images", "deleted", "cache",
    "cache/.parents", "context", "mounts", "running", "tmp",
)  # fmt: skip
_PARTS = frozenset({*(d for d in _DIRECTORIES if "/" not in d), "version", "lock"})
_NAMES = _PARTS | {"synced", "relinking"}  # what need not be there


def open_root(path: str) -> str:
    """The absolute path of the storage directory at ``path``, made and checked.

    Raises StorageError when it belongs to another user, holds other things, is of a newer
    format, or cannot be made.
    """
    path = os.path.abspath(path)
    try:
        _check_owner(path)
        found = set(os.listdir(path))
    except FileNotFoundError:
        with faults("make the storage directory"):
            os.makedirs(path, 0o700, exist_ok=True)
        _check_owner(path)
        found = set()
    except OSError as error:
        raise storage_error("use the storage directory", error) from error
    if "version" in found:
        _check_version(path)
    else:
        _refuse_foreign(path, found)
    _check_mode(path)
    if not found >= _PARTS:
        with faults("make the storage directory"):
            _fill(path)
    return path


def _check_owner(path: str) -> None:
    shown = printable(path, 300)
    link = os.lstat(path)
    found = os.stat(path) if stat.S_ISLNK(link.st_mode) else link
    me = os.geteuid()
    # A link that somebody else planted in a shared directory must not lead us anywhere.
    if found.st_uid != me or link.st_uid not in (me, 0):
        raise StorageError(
            f"the storage directory belongs to another user: {shown}",
            hint="choose one of your own with -s or CH_IMAGE_STORAGE",
        )
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(
            f"the storage directory is not a directory: {shown}",
            hint="choose another place with -s or CH_IMAGE_STORAGE",
        )


def _check_mode(path: str) -> None:
    if stat.S_IMODE(os.stat(path).st_mode) == 0o700:
        return
    # Also without set-group-ID, which all directories of images would inherit.
    with faults("make the storage directory private"):
        os.chmod(path, 0o700)


def _check_version(path: str) -> None:
    shown = printable(path, 300)
    with faults("read the storage directory's version"):
        text = read_file(f"{path}/version", 100).strip()
    if not text.isdigit():
        raise StorageError(
            f"the storage directory's version file is damaged: {shown}/version",
            hint="if you are sure that the directory is ch-image's, write 1 into that file",
        )
    if int(text) > FORMAT:
        raise StorageError(
            f"the storage directory is of format {int(text)}, this ch-image knows {FORMAT}:"
            f" {shown}",
            hint="use the newer ch-image that made it, or another directory with -s",
        )


def _refuse_foreign(path: str, found: set[str]) -> None:
    """Refuse a directory that holds things of others; one that we began to fill is ours."""
    strange = sorted(found - _NAMES)
    if not strange:
        strange = [n for n in sorted(found & {"images", "layers"}) if os.listdir(f"{path}/{n}")]
        strange = [n for n in strange if os.listdir(f"{path}/{n}") != [".diff"]]
    if strange:
        raise StorageError(
            f"not a storage directory of ch-image, and not empty: {printable(path, 300)}",
            hint=f"it holds {printable(strange[0], 60)!r}; choose an empty directory with -s",
        )


def _fill(path: str) -> None:
    fd = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
        fresh = not os.path.exists(f"{path}/version")
        if fresh:  # two first commands at once: one fills, the other finds it filled
            fcntl.flock(fd, fcntl.LOCK_EX)
        for name in _DIRECTORIES:
            target = f"{path}/{name}"
            try:
                os.mkdir(target, 0o700)
                os.chmod(target, 0o700)
            except FileExistsError:
                pass
        if fresh and not os.path.exists(f"{path}/version"):
            _write_version(path)
    finally:
        os.close(fd)


def _write_version(path: str) -> None:
    staged = f"{path}/tmp/version"
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, b"%d\n" % FORMAT)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(staged, f"{path}/version")
