"""An image as one file system in a registry: a manifest whose only layer is a SquashFS file.

The media type is the one that builders of such images use, and no standard names; the diff ID is
the file's own digest, for there is no other form of it. Config and manifest are as of any image, so
registries and copying tools take it; who runs it must know SquashFS.
"""

from __future__ import annotations

import json

from ch_image.formats.base import Place, trees
from ch_image.formats.exchange import lend, name_after, take_in
from ch_image.model.digest import DiffId, digest_of
from ch_image.model.oci import (
    OCI_CONFIG,
    OCI_MANIFEST,
    OCI_SQUASHFS,
    Descriptor,
    History,
    config_json,
)
from ch_image.storage.images import Image
from ch_image.storage.layers import LayerId
from ch_image.transfer.pack import MADE

_CHUNK = 1 << 20
_TITLE = "org.opencontainers.image.title"  # what tools that fetch files call it


def squashed(image: Image, place: Place) -> Image:
    """The image as it is to be pushed: its manifest and blobs are in storage. Raises ChError."""
    storage = place.storage
    with storage.scratch() as scratch, lend(image, place) as content:
        path = f"{scratch}/image.squashfs"
        trees("squash").write(content, path, place)
        with storage.blobs.writer() as writer, open(path, "rb") as file:
            while data := file.read(_CHUNK):
                writer.write(data)
            size, digest = writer.size, writer.commit()
    name = image.ref.repository.rpartition("/")[2]
    layer = Descriptor(OCI_SQUASHFS, digest, size, None, {_TITLE: f"{name}.squashfs"})
    history = (History(created=image.config.created, created_by="made one file system"),)
    config = image.config._replace(history=history, diff_ids=(DiffId(digest),))
    text = json.dumps(config_json(config), separators=(",", ":"), ensure_ascii=False)
    raw = text.encode("utf-8", "surrogateescape")
    storage.blobs.put(raw)
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, digest_of(raw), len(raw)).to_json(),
        "layers": [layer.to_json()],
    }
    manifest = json.dumps(value, separators=(",", ":")).encode()
    made = {MADE: str(place.wishes)}
    top = Descriptor(OCI_MANIFEST, storage.blobs.put(manifest), len(manifest), None, made)
    return image._replace(config=config, manifest=top)


def unsquashed(path: str, place: Place) -> LayerId:
    """The SquashFS file at ``path`` as a layer in storage. Raises ChError, OSError."""
    with trees("squash").open(path, place) as content:
        return take_in(content, name_after("image", place), place).layers[0]
