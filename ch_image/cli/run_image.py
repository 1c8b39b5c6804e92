"""The image that ch-run is given: what it is, and how its root is mounted.

A thin overlay in memory over the image takes the mount points that the image lacks, so that a
missing one is no error and the image stays as it is. Where the kernel cannot do that, the image's
directory is mounted as it is.
"""

from __future__ import annotations

import os

from ch_image.cli.environment import storage_path
from ch_image.errors import ChError, NotFound, SandboxError, printable
from ch_image.sandbox import syscalls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ch_image.cli.log import Log
    from ch_image.storage.images import Image
    from ch_image.storage.store import Storage

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_ENVIRONMENT = 4 << 20  # bytes of /ch/environment
_SQUASHFS = b"hsqs"


class Guest:
    """An image to run; ``is_stored`` when it lies in storage."""

    is_stored = False

    def mount(self, size: str, *, writable: bool) -> str:
        """Mount the root in our mount namespace; where it is then.

        ``size``: how much may be written and forgotten, as tmpfs(5) takes it; empty for a few
        mount points only. ``writable``: the image itself is written to. Raises SandboxError.
        """
        raise NotImplementedError

    def environment(self, root: str) -> list[str]:
        """The image's variables, as lines NAME=VALUE. Raises ChError."""
        raise NotImplementedError


class DirectoryGuest(Guest):
    """A directory of the host."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def mount(self, size: str, *, writable: bool) -> str:
        """See ``Guest``."""
        if writable or self.path == "/":  # nothing can be mounted over the root itself
            return self.path
        image = os.open(self.path, _OPEN)
        try:
            return _overlay([f"/proc/self/fd/{image}"], self.path, size)
        except OSError as error:
            if size:
                raise _no_overlay(error) from None
            kernel.umount2(self.path, kernel.MNT_DETACH)
            return self._as_it_is()
        finally:
            os.close(image)

    def _as_it_is(self) -> str:
        """Read-only before anything is mounted in it: a mount point that is missing stays so."""
        kernel.mount(self.path, self.path, None, kernel.MS_BIND | kernel.MS_REC)
        fd = os.open(self.path, _OPEN)
        kernel.mount_setattr(fd, "", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_RDONLY)
        os.close(fd)
        return self.path

    def environment(self, root: str) -> list[str]:
        """From /ch/environment, found inside the image whatever links it holds."""
        top = os.open(root, _OPEN)
        try:
            fd = kernel.openat2(
                top, "ch/environment", os.O_RDONLY | os.O_NONBLOCK, 0, kernel.RESOLVE_IN_ROOT
            )
        except OSError as error:
            raise ChError(f"can't open: /ch/environment: {error.strerror}") from None
        finally:
            os.close(top)
        with open(fd, "rb") as file:
            return [os.fsdecode(line) for line in file.read(_MAX_ENVIRONMENT).split(b"\n") if line]


class StoredGuest(Guest):
    """An image in storage, mounted straight from its layers."""

    is_stored = True

    def __init__(self, storage: Storage, image: Image) -> None:
        self._storage, self._image = storage, image

    def mount(self, size: str, *, writable: bool) -> str:
        """See ``Guest``."""
        from ch_image.storage.snapshots.merge import Merger

        layers = self._storage.layers
        chain = Merger(layers).shorten(self._image.layers)
        trees = [layers.tree(layer) for layer in reversed(chain)]
        path = self._storage.path
        top = os.open(path, _OPEN)
        try:
            lowers = [f"/proc/self/fd/{top}/{tree[len(path) + 1 :]}" for tree in trees]
            return _overlay(lowers, f"{path}/tmp", size)
        except OSError as error:
            raise _no_overlay(error) from None
        finally:
            os.close(top)

    def environment(self, root: str) -> list[str]:
        """From the image's configuration."""
        return [item for item in self._image.config.config.env if "=" in item]


def _overlay(lowers: list[str], place: str, size: str) -> str:
    """Mount memory at ``place`` and in it an overlay of ``lowers`` (topmost first)."""
    kernel.mount("none", place, "tmpfs", kernel.MS_NODEV, f"mode=0755,size={size or '4m'}")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{place}/{name}", 0o755)
    below = os.stat(lowers[0])
    os.chmod(f"{place}/upper", below.st_mode & 0o7777)
    memory = os.open(place, _OPEN)
    try:
        base = f"/proc/self/fd/{memory}"
        options = f"userxattr,lowerdir={':'.join(lowers)},upperdir={base}/upper,workdir={base}/work"
        kernel.mount("overlay", f"{place}/root", "overlay", 0, options)
    finally:
        os.close(memory)
    return f"{place}/root"


def _no_overlay(error: OSError) -> SandboxError:
    return SandboxError(
        f"can't mount an overlay: {error.strerror}",
        hint="this needs Linux 5.11; ch-convert the image to a directory and run that",
    )


def find(name: str, storage: str, env: Mapping[str, str], log: Log) -> Guest:
    """The image called ``name``: in storage, else a path. Raises ChError."""
    is_directory = os.path.isdir(name)
    stored = _in_storage(name, storage_path(storage, env))
    if stored is not None:
        if is_directory:
            log.warning(f"{printable(name, 200)} is in storage and a directory: taking storage")
        return stored
    if is_directory:
        return DirectoryGuest(name)
    if os.path.isfile(name):
        with open(name, "rb") as file:
            kind = "a SquashFS image" if file.read(4) == _SQUASHFS else "no image that is known"
        raise ChError(
            f"{printable(name, 300)} is {kind}",
            hint="ch-image import it, or unpack it to a directory, and run that",
        )
    raise NotFound(
        f"can't find image: {printable(name, 300)}",
        hint="ch-image list shows those in storage; or name a directory",
    )


def _in_storage(name: str, path: str) -> StoredGuest | None:
    """The image in storage, without importing what that needs where there can be none."""
    if name.startswith(("/", ".")) or not os.path.exists(f"{path}/version"):
        return None
    from ch_image.errors import ImageError
    from ch_image.model.ref import parse_ref
    from ch_image.storage.store import open_storage

    try:
        ref = parse_ref(name)
    except ImageError:
        return None
    storage = open_storage(path)
    image = storage.images.find(ref)
    return None if image is None else StoredGuest(storage, image)
