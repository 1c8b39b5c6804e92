"""Opens the storage directory and hands out its parts.

    with open_storage(path) as storage, storage.lock():
        image = storage.images.get(ref)

Policy of what to throw away is here; how each part lies on disk is in its own module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ch_image.storage.blobs import Blobs
from ch_image.storage.cache import Cache
from ch_image.storage.durable import Durability
from ch_image.storage.faults import faults
from ch_image.storage.images import Images
from ch_image.storage.layers import LayerId, Layers
from ch_image.storage.locks import DEFAULT_WAIT, locked
from ch_image.storage.root import open_root
from ch_image.storage.scratch import Scratch, remove

if TYPE_CHECKING:
    from ch_image.model.digest import Digest
    from ch_image.storage.snapshots.base import Snapshotter

_EMPTIED = ("images", "deleted", "cache", "layers", "blobs", "context")


class Freed(NamedTuple):
    """What a clean-up took away."""

    records: int
    layers: int
    blobs: int
    blob_bytes: int


class Storage:
    """An open storage directory; its parts may be used from several threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._scratch = Scratch(f"{path}/tmp")
        self._durability = Durability(path, self._scratch)
        self.blobs = Blobs(path, self._scratch)
        self.layers = Layers(path, self._scratch, self._durability)
        self.images = Images(path, self._scratch, self._durability, self.layers)
        self.cache = Cache(path, self._scratch, self.layers)

    @property
    def tmp(self) -> str:
        """This process's own directory under ``tmp/``, on the same file system as all else."""
        return self._scratch.path

    def scratch(self) -> AbstractContextManager[str]:
        """A new private directory (0700) that is removed at the end of the block."""
        return self._scratch.lend()

    @contextmanager
    def lock(
        self,
        exclusive: bool = False,
        wait: float = DEFAULT_WAIT,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Hold the storage directory for use, or ``exclusive`` to throw things away.

        Whoever adds layers, blobs or images holds it, so that nothing unnamed is collected under
        them. Waits up to ``wait`` seconds; ``on_wait`` hears why, once. What dead processes left
        is removed. Raises StorageError when the time is up.
        """
        with locked(self.path, exclusive=exclusive, wait=wait, on_wait=on_wait):
            self._scratch.sweep()
            yield

    def snapshotter(self, name: str = "") -> Snapshotter:
        """The snapshotter ``name`` ("overlay", "copy"), or the best that works here.

        To be called after ``userns.enter()``. Raises StorageError on an unknown name.
        """
        from ch_image.storage.snapshots.choose import choose

        return choose(self.layers, self._scratch, name)

    def sync(self) -> None:
        """Bring to disk what was written so far, so that layers outlive a power failure."""
        self._durability.sync()

    def gc(self, unused_for: float | None = None) -> Freed:
        """Remove what neither an image nor the build cache needs; the exclusive lock is held.

        ``unused_for``: also cache records not used for so many seconds. Deleted images are
        forgotten. Raises StorageError, and removes nothing, when an image's record is damaged.
        """
        import time

        images = self.images.read_all()
        self.images.purge()
        records = self.cache.all()
        old = [r for r in records if unused_for is not None and r.used < time.time() - unused_for]
        for record in old:
            self.cache.remove(record.key)
        stay = {record.key for record in records} - {record.key for record in old}
        keep: set[LayerId] = {layer for image in images for layer in image.layers}
        keep |= {record.layer for record in records if record.key in stay and record.layer}
        keep |= self._still_useful(keep)
        gone = [layer for layer in self.layers.all() if layer not in keep]
        dropped = self.cache.gc(keep)
        for layer in gone:
            self.layers.remove(layer)
        blobs = self._unneeded_blobs(keep)
        freed = sum(self.blobs.remove(digest) for digest in blobs)
        return Freed(len(old) + len(dropped), len(gone), len(blobs), freed)

    def _still_useful(self, keep: set[LayerId]) -> set[LayerId]:
        """Merged layers all of whose parts stay."""
        from ch_image.errors import StorageError

        useful = set()
        for layer in self.layers.all():
            try:
                merged = self.layers.get(layer).merged if layer not in keep else ()
            except StorageError:  # damaged and needed by nobody
                continue
            if merged and keep.issuperset(merged):
                useful.add(layer)
        return useful

    def _unneeded_blobs(self, keep: set[LayerId]) -> list[Digest]:
        from ch_image.errors import ChError
        from ch_image.model.oci import MAX_DOCUMENT, Manifest, parse_manifest

        needed: set[str] = set()
        for layer in keep:
            try:
                blob = self.layers.get(layer).blob
            except ChError:  # damaged: its blob may be fetched again
                continue
            needed |= {blob.digest} if blob else set()
        for image in self.images.read_all():
            if image.manifest is None:
                continue
            needed.add(image.manifest.digest)
            try:
                manifest = parse_manifest(self.blobs.read(image.manifest.digest, MAX_DOCUMENT))
            except ChError:  # the image works without it; a push makes a new one
                continue
            if isinstance(manifest, Manifest):
                needed |= {manifest.config.digest, *(d.digest for d in manifest.layers)}
        return [digest for digest in self.blobs.all() if digest not in needed]

    def reset(self) -> None:
        """Remove everything but the directory itself; the exclusive lock is held.

        Raises StorageError. A reset that was killed leaves either a whole part or none of it.
        """
        doomed = self._scratch.directory()
        with faults("reset the storage directory"):
            for name in _EMPTIED:
                with _absent_is_fine():
                    os.rename(f"{self.path}/{name}", f"{doomed}/{name}")
        open_root(self.path)
        remove(doomed)

    def close(self) -> None:
        """Remove this process's scratch. Using the storage afterwards makes a new one."""
        self._scratch.close()
        self._durability.close()

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        return


def open_storage(path: str) -> Storage:
    """Open the storage directory at ``path``, making it when absent. Raises StorageError."""
    return Storage(open_root(path))
