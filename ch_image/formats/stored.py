"""Images in the storage directory, lent as a tree of their own and taken in as one layer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from ch_image.errors import ImageError
from ch_image.formats.base import Content, Place
from ch_image.formats.outfit import outfit, undress
from ch_image.fs.copy import copy_tree, ordinary_xattr
from ch_image.fs.owners import XATTR
from ch_image.model.oci import History
from ch_image.report import Warned
from ch_image.storage.images import Image
from ch_image.storage.snapshots.base import merged_owners


class Stored:
    """The format ``ch-image``."""

    def open(self, name: str, place: Place) -> AbstractContextManager[Content]:
        """Raises NotFound."""
        return lend(place.storage.images.get(place.ref(name)), place)

    def write(self, content: Content, name: str, place: Place) -> None:
        """Put the content in storage as one layer, replacing an image of that name."""
        ref, storage = place.ref(name), place.storage
        if ref.digest:
            raise ImageError(f"an image cannot be given a digest as its name: {ref}")
        if not place.clobber and storage.images.find(ref) is not None:
            raise ImageError(f"there is an image {ref} already", hint="leave out --no-clobber")
        staged = content.staged or _copied(content, place)
        undress(f"{staged}/t")
        layer = storage.layers.publish(staged, owners=content.owners)
        history = (History(created_by="imported"),)  # as many lines as layers, as OCI wants it
        config = content.config._replace(history=history)
        storage.images.put(Image(ref, config, (layer,), None, time.time()))


@contextmanager
def lend(image: Image, place: Place) -> Iterator[Content]:
    """An image of the storage directory with what it gets when it leaves: see ``outfit``."""
    snapshotter = place.snapshotter()
    owners = merged_owners(place.storage.layers, image.layers)
    draft = snapshotter.prepare(image.layers)
    try:
        for problem in outfit(draft.root, image.config):
            place.report(Warned(problem))
        yield Content(image.config, draft.root, owners)
    finally:
        snapshotter.discard(draft)


def _copied(content: Content, place: Place) -> str:
    """A copy of the content's tree, staged. Recorded owners in it are not ours: left out."""

    def keep(name: str) -> bool:
        return place.xattrs and ordinary_xattr(name) and name != XATTR

    staged = place.storage.layers.stage()
    os.rmdir(f"{staged}/t")
    there = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent, _, name = content.tree.rpartition("/")
        here = os.open(parent or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copy_tree(here, name or ".", there, "t", keep=keep)
        finally:
            os.close(here)
    finally:
        os.close(there)
    return staged
