"""Gives an image what it is known by elsewhere: layer blobs, config and manifest, in storage.

Layers that came from a registry keep their blobs byte for byte; those that a build made become
reproducible archives, once. What they were made with is noted beside the blob, so that other
wishes (another compression, another ``SOURCE_DATE_EPOCH``) make another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from ch_image.errors import ImageError, UsageError
from ch_image.model.digest import DiffId, digest_of
from ch_image.model.oci import (
    DOCKER_LAYER_GZIP,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    config_json,
    parse_manifest,
)
from ch_image.report import Detail, Reporter, silent
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain, LayerId, LayerRecord
from ch_image.storage.store import Storage
from ch_image.typed import Any, NamedTuple

MADE = "ch-image.made"  # never leaves storage
OCI_TYPES = {
    DOCKER_LAYER_GZIP: OCI_LAYER + "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": OCI_LAYER + "+zstd",
}
_LEVELS = {"gzip": (1, 9), "zstd": (1, 19)}


class Wishes(NamedTuple):
    """How new layers are made."""

    compression: str = "gzip"  # or "zstd"
    level: int = 1
    epoch: int | None = None  # SOURCE_DATE_EPOCH: no time is later, seconds since 1970

    def __str__(self) -> str:
        clamp = "" if self.epoch is None else f" {self.epoch}"
        return f"{self.compression}:{self.level}{clamp}"


class Packed(NamedTuple):
    """An image as the world knows it; its manifest and config are in storage."""

    image: Image  # with its manifest
    manifest: Manifest


def parse_compression(text: str) -> tuple[str, int]:
    """``gzip[:LEVEL]`` or ``zstd[:LEVEL]``. Raises UsageError."""
    name, colon, number = text.partition(":")
    if name not in _LEVELS or (colon and not (number.isascii() and number.isdigit())):
        raise UsageError(f"not a compression: {text!r}", hint="write gzip[:1-9] or zstd[:1-19]")
    low, high = _LEVELS[name]
    level = int(number[:4]) if colon else (1 if name == "gzip" else 3)
    if not low <= level <= high:
        raise UsageError(f"{name} has levels {low} to {high}, not {level}")
    return name, level


def stored_manifest(image: Image, storage: Storage, wishes: Wishes) -> Manifest | None:
    """The manifest that the image has already, if it is as wished."""
    known = image.manifest
    if known is None or known.annotations.get(MADE, str(wishes)) != str(wishes):
        return None
    if not storage.blobs.has(known.digest, known.size):
        return None
    found = parse_manifest(storage.blobs.read(known.digest, MAX_DOCUMENT), known.media_type)
    return found if isinstance(found, Manifest) else None


def pack(
    image: Image,
    storage: Storage,
    wishes: Wishes = Wishes(),  # noqa: B008
    report: Reporter = silent,
) -> Packed:
    """Make what is lacking, and note the manifest in the image's record if it is listed.

    The process has entered its user namespace, and holds the storage's lock. Raises StorageError,
    ImageError.
    """
    manifest = stored_manifest(image, storage, wishes)
    if manifest is not None:
        return Packed(image, manifest)
    total = len(image.layers)
    records: list[LayerRecord] = []
    for number, layer in enumerate(image.layers):
        label = f"layer {number + 1}/{total}"
        records.append(_packed_layer(layer, image.layers[:number], storage, wishes, label, report))
    config = _dated(image.config, wishes)._replace(
        diff_ids=tuple(record.diff_id for record in records if record.diff_id)
    )
    raw = _manifest(_config(config, storage), records, image)
    digest = storage.blobs.put(raw)
    descriptor = Descriptor(OCI_MANIFEST, digest, len(raw), None, {MADE: str(wishes)})
    packed = image._replace(config=config, manifest=descriptor)
    listed = storage.images.find(image.ref)
    if listed is not None and (listed.layers, listed.config) == (image.layers, image.config):
        storage.images.put(packed)  # another image of that name is left alone
    found = parse_manifest(raw)
    assert isinstance(found, Manifest)
    return Packed(packed, found)


def _packed_layer(
    layer: LayerId,
    below: Chain,
    storage: Storage,
    wishes: Wishes,
    label: str,
    report: Reporter,
) -> LayerRecord:
    record = storage.layers.get(layer)
    blob = record.blob
    if blob is not None and record.diff_id:
        as_wished = blob.annotations.get(MADE, str(wishes)) == str(wishes)
        if as_wished and storage.blobs.has(blob.digest, blob.size):
            return record
    record = make_blob(record, below, storage, wishes)
    assert record.blob is not None
    report(Detail(f"{label}: packed, {record.blob.size} bytes"))
    storage.layers.update(record)
    return record


def make_blob(record: LayerRecord, below: Chain, storage: Storage, wishes: Wishes) -> LayerRecord:
    """The layer as a compressed archive in storage: its record with digest and diff ID.

    Raises ImageError when a layer with a known diff ID no longer gives it.
    """
    import hashlib

    from ch_image.layers.compress import HashingWriter, gzip_writer, zstd_writer
    from ch_image.layers.create import write_layer

    tree, checksum = storage.layers.tree, hashlib.sha256()
    with storage.blobs.writer() as writer:
        if wishes.compression == "zstd":
            compressor = zstd_writer(writer, wishes.level)
        else:
            compressor = gzip_writer(writer, min(wishes.level, 3))
        with compressor:
            write_layer(
                tree(record.id),
                record.owners,
                HashingWriter(compressor, checksum),
                clamp_mtime=wishes.epoch,
                lower=[tree(layer) for layer in reversed(below)],
            )
        size, digest = writer.size, writer.commit()
    diff_id = DiffId("sha256:" + checksum.hexdigest())
    media_type = f"{OCI_LAYER}+{wishes.compression}"
    blob = Descriptor(media_type, digest, size, None, {MADE: str(wishes)})
    return record._replace(diff_id=diff_id, blob=blob)


def _dated(config: ImageConfig, wishes: Wishes) -> ImageConfig:
    """The config without times after the epoch."""
    if wishes.epoch is None:
        return config
    limit = datetime.fromtimestamp(wishes.epoch, UTC)

    def clamp(text: str) -> str:
        try:
            late = bool(text) and datetime.fromisoformat(text) > limit
        except (ValueError, TypeError):  # not a time, or one without a zone
            late = True
        return limit.strftime("%Y-%m-%dT%H:%M:%SZ") if late else text

    history = tuple(line._replace(created=clamp(line.created)) for line in config.history)
    return config._replace(created=clamp(config.created), history=history)


def _config(config: ImageConfig, storage: Storage) -> Descriptor:
    lacking = len(config.diff_ids) - sum(not line.empty_layer for line in config.history)
    if config.history and lacking > 0:  # it was built on an image that has no history
        untold = History(comment="of a base without history")
        config = config._replace(history=(untold,) * lacking + config.history)
    elif lacking:  # some registries refuse such a config
        config = config._replace(history=())
    raw = json.dumps(config_json(config), separators=(",", ":"), ensure_ascii=False)
    data = raw.encode("utf-8", "surrogateescape")
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"the image's config is larger than {MAX_DOCUMENT >> 20} MiB")
    storage.blobs.put(data)
    return Descriptor(OCI_CONFIG, digest_of(data), len(data))


def _manifest(config: Descriptor, records: Sequence[LayerRecord], image: Image) -> bytes:
    layers = []
    for record in records:
        assert record.blob is not None
        kind = OCI_TYPES.get(record.blob.media_type, record.blob.media_type)
        shown = {k: v for k, v in record.blob.annotations.items() if k != MADE}
        layers.append(record.blob._replace(media_type=kind, annotations=shown).to_json())
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": layers,
    }
    if image.annotations:
        value["annotations"] = dict(sorted(image.annotations.items()))
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return raw.encode("utf-8", "surrogateescape")
