"""Images from ``docker save`` (docker-archive: ``manifest.json`` of image-spec 1.2 of moby).

Its layers are plain archives as a rule and have no digests of their own. They are compressed once,
byte for byte what they are, so that diff IDs and the image ID stay what they were.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from ch_image.errors import ChError, ImageError, printable
from ch_image.layers.compress import compression_of, gzip_writer
from ch_image.model.digest import DiffId, digest_of
from ch_image.model.oci import (
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    parse_config,
    parse_json,
)
from ch_image.model.ref import parse_ref
from ch_image.report import Reporter, silent
from ch_image.storage.images import Image
from ch_image.storage.store import Storage
from ch_image.transfer.fill import fill
from ch_image.transfer.tarfiles import TarFiles
from ch_image.typed import Any, BinaryIO

_CHUNK = 1 << 20


def load(files: TarFiles, name: str, storage: Storage, report: Reporter = silent) -> Image:
    """The image ``name`` (a tag or a full name; empty: the only one) with its layers in storage.

    It is known by the first name that the archive has for it. The caller holds the storage's lock.
    Raises ImageError, StorageError.
    """
    entry = _choose(files, name)
    raw = _document(files, entry.get("Config"))
    config = parse_config(raw)
    layers = entry.get("Layers")
    if not isinstance(layers, list) or len(layers) != len(config.diff_ids):
        raise ImageError(
            f"{printable(files.path)} is damaged: manifest.json names other layers than the config"
        )
    storage.blobs.put(raw)
    pairs = zip(layers, config.diff_ids, strict=True)
    blobs = [_layer(files, str(path), diff_id, storage) for path, diff_id in pairs]
    chain = fill(storage, [], blobs, config.diff_ids, report)
    manifest = _manifest(Descriptor(OCI_CONFIG, digest_of(raw), len(raw)), blobs)
    descriptor = Descriptor(OCI_MANIFEST, storage.blobs.put(manifest), len(manifest))
    tags = _tags(entry)
    try:
        ref = parse_ref(next((t for t in tags if t.endswith(f":{name}")), tags[0] if tags else ""))
    except ChError:
        ref = parse_ref(f"localhost/docker-archive@{descriptor.digest}")
    return Image(ref, config, chain, descriptor, time.time())


def _choose(files: TarFiles, name: str) -> dict[str, Any]:
    shown = printable(files.path)
    try:
        with files.open("manifest.json")[0] as file:
            raw = file.read(MAX_DOCUMENT)
    except OSError:
        raise ImageError(
            f"not an archive of docker save: {shown} has no manifest.json",
            hint="ch-convert -i tar takes archives of plain files",
        ) from None
    entries = parse_json(b'{"images":' + raw + b"}", "manifest.json")["images"]
    every = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    found = [e for e in every if not name or any(_is(tag, name) for tag in _tags(e))]
    if len(found) == 1:
        return found[0]
    known = ", ".join(tag for entry in every for tag in _tags(entry))
    wanted = f'no image "{printable(name, 100)}"' if name else f"{len(every)} images"
    raise ImageError(
        f"{wanted} in {shown}",
        hint=f"name one as PATH:TAG; there is {printable(known, 300)}" if known else "",
    )


def _is(tag: str, name: str) -> bool:
    return tag == name or tag.endswith(f":{name}")


def _tags(entry: dict[str, Any]) -> list[str]:
    tags = entry.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _document(files: TarFiles, path: object) -> bytes:
    try:
        with files.open(str(path))[0] as file:
            raw = file.read(MAX_DOCUMENT + 1)
    except OSError:
        raise ImageError(f"{printable(files.path)} lacks {printable(str(path), 200)}") from None
    if len(raw) > MAX_DOCUMENT:
        raise ImageError("the image's config is larger than 4 MiB")
    return raw


def _layer(files: TarFiles, path: str, diff_id: DiffId, storage: Storage) -> Descriptor:
    """The layer's blob in storage: as it is where it is compressed, else compressed."""
    known = storage.layers.find(diff_id)
    if known is not None:
        blob = storage.layers.get(known).blob
        if blob is not None and storage.blobs.has(blob.digest, blob.size):
            return blob
    try:
        file, _ = files.open(path)
    except OSError:
        raise ImageError(f"{printable(files.path)} lacks {printable(path, 200)}") from None
    with file:
        kind = compression_of(file.read(6))
        file.seek(0)
        with storage.blobs.writer() as writer:
            if kind in ("gzip", "zstd"):
                _copy(file, writer)
            elif kind:
                raise ImageError(f"layer {printable(path, 200)} is compressed by {kind}")
            else:
                with gzip_writer(writer) as packer:
                    _copy(file, packer)
            size, digest = writer.size, writer.commit()
    return Descriptor(f"{OCI_LAYER}+{kind or 'gzip'}", digest, size)


def _copy(file: BinaryIO, out: Any) -> None:
    while chunk := file.read(_CHUNK):
        out.write(chunk)


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer._replace(annotations={}).to_json() for layer in layers],
    }
    return json.dumps(value, separators=(",", ":")).encode()
