"""Which snapshotter to use here."""

from __future__ import annotations

from ch_image.errors import StorageError, printable
from ch_image.storage.layers import Layers
from ch_image.storage.scratch import Scratch
from ch_image.storage.snapshots.base import Snapshotter

NAMES = ("overlay", "copy")


def choose(layers: Layers, scratch: Scratch, name: str = "") -> Snapshotter:
    """The snapshotter ``name``; without one, overlay where it works. Raises StorageError."""
    if name not in ("", *NAMES):
        raise StorageError(
            f"no snapshotter is named {printable(name, 100)!r}",
            hint=f"CH_IMAGE_SNAPSHOTTER may be {' or '.join(NAMES)}",
        )
    if name != "copy":
        from ch_image.storage.snapshots import overlay

        if name or overlay.works(layers, scratch):
            return overlay.OverlaySnapshotter(layers, scratch)
    from ch_image.storage.snapshots.copy import CopySnapshotter

    return CopySnapshotter(layers, scratch)
