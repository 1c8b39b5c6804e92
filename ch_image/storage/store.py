"""Opens the storage directory and hands out its parts.

    with open_storage(path) as storage, storage.lock():
        image = storage.images.get(ref)

How each part lies on disk is in its own module; what is thrown away, in `ch_image.storage.clean`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ch_image.storage.blobs import Blobs
from ch_image.storage.cache import Cache
from ch_image.storage.durable import Durability
from ch_image.storage.faults import faults
from ch_image.storage.images import Images
from ch_image.storage.layers import Layers
from ch_image.storage.locks import DEFAULT_WAIT, locked
from ch_image.storage.root import open_root
from ch_image.storage.scratch import Scratch, remove
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ch_image.storage.clean import Freed
    from ch_image.storage.snapshots.base import Snapshotter

_EMPTIED = ("images", "deleted", "cache", "layers", "blobs", "context", "mounts", "running")


class Storage:
    """An open storage directory; its parts may be used from several threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.context_digests = f"{path}/context"  # what is known of contexts, see build.statindex
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
            if os.path.lexists(f"{self.path}/relinking"):
                from ch_image.storage.dedupe import recover

                recover(self.path)
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

    def gc(self, unused_for: float | None = None, keep_bytes: int | None = None) -> Freed:
        """Remove what neither an image nor the build cache needs; the exclusive lock is held.

        ``unused_for``: also steps not used for so many seconds. ``keep_bytes``: also the least
        recently used steps, until what only the cache needs takes no more. Deleted images are
        forgotten; what remains shares equal files. Raises StorageError, and removes nothing,
        when an image's record is damaged.
        """
        from ch_image.storage.clean import clean
        from ch_image.storage.dedupe import dedupe

        freed = clean(self, unused_for, keep_bytes)
        shared = dedupe(self, self.layers.all(), self._scratch)
        return freed._replace(shared_files=shared.files, shared_bytes=shared.bytes)

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
