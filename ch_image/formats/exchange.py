"""From each format to each: trees become layers where layers are wanted, and the other way."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ch_image.errors import ChError
from ch_image.formats.base import LAYERED, TREES, Content, Place, check, layered, trees
from ch_image.formats.outfit import outfit, undress
from ch_image.fs.copy import copy_tree, ordinary_xattr
from ch_image.fs.owners import XATTR
from ch_image.model.oci import History
from ch_image.model.ref import ImageRef
from ch_image.report import Warned
from ch_image.storage.images import Image
from ch_image.storage.snapshots.base import merged_owners

_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


def convert(source: tuple[str, str], target: tuple[str, str], place: Place) -> None:
    """From one (format, name) to another. Raises ChError, OSError."""
    kind, name = target
    check(source[0])
    check(kind)
    if kind in LAYERED:
        layered(kind).admit(name, place)
        layered(kind).give(bring(*source, place), name, place)
        return
    trees(kind).admit(name, place)
    with opened(*source, place) as content:
        trees(kind).write(content, name, place)


def bring(kind: str, name: str, place: Place) -> Image:
    """An image with its layers in storage, where it is not listed yet; a tree is one layer."""
    check(kind)
    if kind in LAYERED:
        return layered(kind).bring(name, place)
    with trees(kind).open(name, place) as content:
        return take_in(content, name_after(name, place), place)


@contextmanager
def opened(kind: str, name: str, place: Place) -> Iterator[Content]:
    """An image as a tree."""
    check(kind)
    if kind in TREES:
        with trees(kind).open(name, place) as content:
            yield content
        return
    with lend(layered(kind).bring(name, place), place) as content:
        yield content


@contextmanager
def lend(image: Image, place: Place) -> Iterator[Content]:
    """An image of the layer store with what it gets when it leaves: see ``outfit``."""
    snapshotter = place.snapshotter()
    owners = merged_owners(place.storage.layers, image.layers)
    draft = snapshotter.prepare(image.layers, for_names=True)
    try:
        for problem in outfit(draft.root, image.config):
            place.report(Warned(problem))
        yield Content(image.config, draft.root, owners)
    finally:
        snapshotter.discard(draft)


def take_in(content: Content, ref: ImageRef, place: Place) -> Image:
    """The content as an image of one layer."""
    storage = place.storage
    staged = content.staged or _copied(content, place)
    undress(f"{staged}/t")
    layer = storage.layers.publish(staged, owners=content.owners)
    history = (History(created_by="imported"),)  # as many lines as layers, as OCI wants it
    config = content.config._replace(history=history)
    return Image(ref, config, (layer,), None, time.time())


def flattened(image: Image, place: Place) -> Image:
    """The image as one layer in which everything is root's; devices are left out."""
    from ch_image.formats.directory import make_plain

    storage, snapshotter = place.storage, place.snapshotter()
    draft = snapshotter.prepare(image.layers, for_names=True)
    try:
        staged = _copied(Content(image.config, draft.root, {}), place._replace(xattrs=True), XATTR)
    finally:
        snapshotter.discard(draft)
    make_plain(f"{staged}/t", exact=True)
    layer = storage.layers.publish(staged)
    history = (History(created=image.config.created, created_by="flattened"),)
    config = image.config._replace(history=history, diff_ids=())
    return image._replace(config=config, layers=(layer,), manifest=None)


def name_after(path: str, place: Place) -> ImageRef:
    """What an image may be called that comes from, or goes to, ``path``."""
    stem = os.path.basename(os.path.realpath(path)).lower().partition(".")[0]
    try:
        return place.ref(_NOT_IN_NAMES.sub("-", stem).strip("._-") or "image")
    except ChError:
        return place.ref("image")


def _copied(content: Content, place: Place, also: str = "") -> str:
    """A copy of the content's tree, staged. Recorded owners in it are not ours: left out."""

    def keep(name: str) -> bool:
        return name == also or (place.xattrs and ordinary_xattr(name) and name != XATTR)

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
